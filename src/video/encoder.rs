//! Which encoders this machine really has: each is asked to encode one picture at start, the best first.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

use super::lock;
use crate::config::{Codec, Config};
use crate::supervise::{self, Worker};

/// The first picture of a hardware encoder takes this long where it loads firmware.
const PATIENCE: Duration = Duration::from_secs(5);

/// Key frames come at least this often; one more comes when a viewer joins.
const KEY_FRAME_EVERY: i32 = 100;

/// What became of one encoder's trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Trial {
    /// GStreamer's name of it.
    pub encoder: String,
    /// Why it cannot be used; null: it has encoded a picture.
    pub problem: Option<String>,
}

/// What was found at start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Choice {
    /// The one that is used; null: there is none.
    pub chosen: Option<String>,
    /// In the order of their trials, which end with the first success.
    pub trials: Vec<Trial>,
}

impl Choice {
    /// The encoder and why not a better one, for the log.
    pub fn why(&self) -> String {
        let failed = self.trials.iter().filter_map(|trial| {
            trial.problem.as_ref().map(|problem| format!("{}: {problem}", trial.encoder))
        });
        failed.collect::<Vec<_>>().join("; ")
    }
}

/// The encoders of this machine: those of a codec are tried when it is first asked for.
#[derive(Default)]
pub struct Encoders {
    order: Vec<String>,
    /// By [`Codec`].
    choices: Mutex<[State; 2]>,
}

#[derive(Default)]
struct State {
    /// `None`: not asked for yet.
    choice: Option<Choice>,
    /// The chosen one failed, and the next is being tried.
    trying: bool,
}

impl Encoders {
    /// Tries those that the cameras of this configuration need, and says which are used.
    pub fn settle(config: &Config) -> Arc<Encoders> {
        let order = config.rtsp_server.as_ref().map(|server| server.encoders.clone()).unwrap_or_default();
        let encoders = Arc::new(Encoders { order, choices: Mutex::default() });
        if config.rtsp_server.is_some() {
            for camera in &config.cameras {
                encoders.pick(camera.restream.codec);
            }
        }
        encoders
    }

    /// The codec and encoder for who asks for this codec; H.264 where the machine has no other. `None`: nothing works, or the next one
    /// is being tried.
    pub fn pick(&self, codec: Codec) -> Option<(Codec, String)> {
        let mut choices = lock(&self.choices);
        let state = &mut choices[codec as usize];
        if state.trying {
            return None;
        }
        let choice = state.choice.get_or_insert_with(|| {
            let order: Vec<String> = self.order.iter().filter(|name| of(name) == codec).cloned().collect();
            let choice = choose(&order);
            match &choice.chosen {
                Some(chosen) => {
                    tracing::info!(encoder = chosen, others = choice.why(), "Chose the video encoder.")
                }
                None => {
                    let instead = if codec == Codec::H265 {
                        "H.264 is sent instead"
                    } else {
                        "RTSP out has no picture"
                    };
                    tracing::error!(why = choice.why(), "No encoder for {codec} works here: {instead}.");
                }
            }
            choice
        });
        if let Some(chosen) = &choice.chosen {
            return Some((codec, chosen.clone()));
        }
        drop(choices);
        if codec == Codec::H264 { None } else { self.pick(Codec::H264) }
    }

    /// An encoder failed while it was used: the next one, by the order and after a trial, is used from now on. A trial can take seconds,
    /// in which others are to be shown: it has a thread of its own, which is the answer.
    pub fn failed(self: &Arc<Self>, failed: &str) -> Option<Worker> {
        let codec = of(failed);
        let mut choices = lock(&self.choices);
        let state = &mut choices[codec as usize];
        // Else another stream has fallen back already.
        let choice = state.choice.as_mut().filter(|choice| choice.chosen.as_deref() == Some(failed))?;
        choice.chosen = None;
        if let Some(trial) = choice.trials.iter_mut().find(|trial| trial.encoder == failed) {
            trial.problem = Some("it failed while it was used".to_owned());
        }
        state.trying = true;
        drop(choices);
        let rest = self.order.iter().skip_while(|name| *name != failed).skip(1);
        let rest: Vec<String> = rest.filter(|name| of(name) == codec).cloned().collect();
        let encoders = Arc::clone(self);
        let trial = move || encoders.replace(codec, choose(&rest));
        let spawned = supervise::spawn("encoder-trial", trial);
        if spawned.is_err() {
            self.replace(codec, Choice::default());
        }
        spawned.ok()
    }

    fn replace(&self, codec: Codec, next: Choice) {
        match &next.chosen {
            Some(encoder) => tracing::warn!(encoder, "{codec} is encoded by another encoder from now on."),
            None => tracing::error!(why = next.why(), "There is no other encoder for {codec}."),
        }
        let state = &mut lock(&self.choices)[codec as usize];
        state.trying = false;
        if let Some(choice) = &mut state.choice {
            choice.trials.extend(next.trials);
            choice.chosen = next.chosen;
        }
    }

    /// What was found for this codec; `None`: nobody asked for it yet.
    pub fn choice(&self, codec: Codec) -> Option<Choice> {
        lock(&self.choices)[codec as usize].choice.clone()
    }
}

/// What an encoder makes.
fn of(encoder: &str) -> Codec {
    if encoder.contains("265") { Codec::H265 } else { Codec::H264 }
}

/// Tries them in this order.
fn choose(order: &[String]) -> Choice {
    let mut choice = Choice::default();
    for name in order {
        let problem = try_one(name).err();
        let works = problem.is_none();
        choice.trials.push(Trial { encoder: name.clone(), problem });
        if works {
            choice.chosen = Some(name.clone());
            break;
        }
    }
    choice
}

/// Encodes one picture.
fn try_one(name: &str) -> Result<(), String> {
    gst::init().map_err(|e| e.to_string())?;
    let make = |factory: &str| {
        gst::ElementFactory::make(factory)
            .build()
            .map_err(|_| "it is not installed, or its device is not here".to_owned())
    };
    if name.starts_with("nvh26") {
        // GStreamer would only say that its device is not here.
        crate::device::nvidia::nvenc::probe_first().map_err(|fault| fault.message)?;
    }
    let encoder = make(name)?;
    configure(&encoder, 1000);
    let source = make("videotestsrc")?;
    source.set_property("num-buffers", 1i32);
    let size = gst::Caps::builder("video/x-raw").field("width", 640i32).field("height", 360i32).build();
    let filter = make("capsfilter")?;
    filter.set_property("caps", size);
    let sink = make("fakesink")?;
    sink.set_property("sync", false);
    let pipeline = Guard(gst::Pipeline::new());
    let chain = [&source, &filter, &make("videoconvert")?, &encoder, &sink];
    pipeline.0.add_many(chain).map_err(|e| e.to_string())?;
    gst::Element::link_many(chain).map_err(|_| "it does not take raw video".to_owned())?;
    let counted = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    if let Some(pad) = sink.static_pad("sink") {
        let counted = std::sync::Arc::clone(&counted);
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
    }
    let bus = pipeline.0.bus().ok_or("its pipeline has no bus")?;
    // A failure is on the bus, with its reason.
    let _ = pipeline.0.set_state(gst::State::Playing);
    let patience = gst::ClockTime::from_nseconds(PATIENCE.as_nanos() as u64);
    let news = bus.timed_pop_filtered(patience, &[gst::MessageType::Eos, gst::MessageType::Error]);
    match news.as_ref().map(|news| news.view()) {
        Some(gst::MessageView::Error(error)) => Err(error.error().message().to_owned()),
        Some(_) if counted.load(std::sync::atomic::Ordering::Relaxed) > 0 => Ok(()),
        Some(_) => Err("it gave nothing for a picture".to_owned()),
        None => Err(format!("it did not encode a picture within {} s", PATIENCE.as_secs())),
    }
}

/// Low latency, no reordering, so many kilobits a second. Properties differ by encoder: what one does not have is not set.
pub fn configure(encoder: &gst::Element, kbps: u32) {
    let name = encoder.factory().map(|factory| factory.name().to_string()).unwrap_or_default();
    let set = |property: &str, value: &str| {
        if encoder.has_property(property) {
            encoder.set_property_from_str(property, value);
        }
    };
    let gop = KEY_FRAME_EVERY.to_string();
    match name.as_str() {
        "x264enc" => {
            set("tune", "zerolatency");
            set("speed-preset", "superfast");
            set("bitrate", &kbps.to_string());
            set("key-int-max", &gop);
            // Threads of slices: a core for each stream is what the machine has to give.
            set("threads", "1");
        }
        "openh264enc" => {
            set("bitrate", &(u64::from(kbps) * 1000).to_string());
            set("rate-control", "bitrate");
            set("complexity", "low");
            set("gop-size", &gop);
        }
        "x265enc" => {
            set("tune", "zerolatency");
            set("speed-preset", "ultrafast");
            set("bitrate", &kbps.to_string());
            set("key-int-max", &gop);
            set("option-string", "pools=1:bframes=0:repeat-headers=1:log-level=error");
        }
        "nvh264enc" | "nvh265enc" => {
            set("preset", "low-latency-hq");
            set("zerolatency", "true");
            set("bframes", "0");
            set("bitrate", &kbps.to_string());
            set("gop-size", &gop);
        }
        "v4l2h264enc" | "v4l2h265enc" => {
            let bits = u64::from(kbps) * 1000;
            let period = if of(&name) == Codec::H265 { "video_gop_size" } else { "h264_i_frame_period" };
            let controls = format!("controls,video_bitrate={bits},{period}={gop}");
            set("extra-controls", &controls);
        }
        // VA and Quick Sync.
        _ => {
            set("bitrate", &kbps.to_string());
            set("key-int-max", &gop);
            set("gop-size", &gop);
            set("b-frames", "0");
            set("low-latency", "true");
        }
    }
}

struct Guard(gst::Pipeline);

impl Drop for Guard {
    fn drop(&mut self) {
        // Fails only for elements that already failed; there is nothing left to stop then.
        let _ = self.0.set_state(gst::State::Null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_can_is_chosen_and_the_others_say_why_not() {
        let order = ["no264enc", "x264enc", "openh264enc"].map(str::to_owned);
        let choice = choose(&order);
        assert_eq!(choice.chosen.as_deref(), Some("x264enc"), "{choice:?}");
        assert_eq!(choice.trials.len(), 2);
        assert_eq!(choice.why(), "no264enc: it is not installed, or its device is not here");
        assert_eq!(choose(&order[..1]).chosen, None);
    }

    #[test]
    fn a_codec_that_no_encoder_can_make_is_replaced_by_h264_and_a_failed_encoder_by_the_next() {
        let order = ["no265enc", "x264enc", "openh264enc"].map(str::to_owned).to_vec();
        let encoders = Arc::new(Encoders { order, choices: Mutex::default() });
        let picked = || encoders.pick(Codec::H264).map(|(_, name)| name);
        let fail = |name: &str| {
            let trial = encoders.failed(name).expect("it was the chosen one");
            trial.join();
        };
        assert_eq!(encoders.pick(Codec::H265), Some((Codec::H264, "x264enc".to_owned())));
        assert!(encoders.failed("openh264enc").is_none(), "nobody uses it");
        assert_eq!(picked().as_deref(), Some("x264enc"));
        fail("x264enc");
        assert_eq!(picked().as_deref(), Some("openh264enc"));
        fail("openh264enc");
        assert_eq!(picked(), None);
        let h265 = encoders.choice(Codec::H265).unwrap();
        assert!(h265.trials[0].problem.is_some(), "{h265:?}");
    }

    #[test]
    fn an_element_that_does_not_encode_is_not_chosen() {
        let trial = try_one("fakesink");
        assert!(trial.is_err(), "{trial:?}");
    }
}
