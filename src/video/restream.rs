//! One camera's encoder: painted pictures in, [`Units`] out. It runs while somebody holds it, or always, by configuration.
//!
//! Pictures come through an `appsrc` that gives up the oldest when the encoder is slow, so that the painter never waits for it. An
//! encoder that fails is replaced by the next of the order with the next picture; who watches sees a gap, analysis nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::encoder::{self, Encoders};
use super::units::{Format, Units};
use super::{Attached, Audience, Output, jpeg, lock};
use crate::clock::{Clock, Tick};
use crate::config::{self, Codec, Show};
use crate::device::canvas::Canvas;
use crate::flow::cap::Cap;
use crate::frame::CameraId;
use crate::metrics;

/// Pictures that wait for the encoder.
const QUEUE: u64 = 2;
/// The rate that rate control reckons with where none is configured; pictures carry their own times.
const USUAL_FPS: f32 = 25.0;

/// One camera's encoder, running or not.
pub struct Restream {
    name: Arc<str>,
    camera: CameraId,
    settings: config::Restream,
    encoders: Arc<Encoders>,
    audience: Arc<Audience>,
    clock: Arc<dyn Clock>,
    units: Arc<Units>,
    encoded: metrics::Encoded,
    cap: Option<Mutex<Cap>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    holders: usize,
    attached: Option<Attached>,
    encoder: Option<Encoder>,
}

/// A running encoder.
struct Encoder {
    pipeline: gst::Pipeline,
    src: gst_app::AppSrc,
    /// Where it gives its pictures, and is asked for key frames.
    pad: Option<gst::Pad>,
    caps: Option<gst::Caps>,
    name: String,
    codec: Codec,
    /// Why it failed.
    failed: Arc<Mutex<Option<String>>>,
    /// Times of pictures that are in it, and when they went in.
    inside: Arc<Mutex<VecDeque<(gst::ClockTime, Tick)>>>,
    /// When the first picture arrived, and the time of the last one.
    times: Option<(Tick, gst::ClockTime)>,
}

/// Keeps an encoder running.
pub struct Hold(Arc<Restream>);

impl Restream {
    /// Of this camera, not running yet.
    pub fn new(
        camera: CameraId,
        config: &config::Camera,
        encoders: &Arc<Encoders>,
        audience: &Arc<Audience>,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Restream> {
        Arc::new(Restream {
            name: Arc::clone(&config.name),
            camera,
            settings: config.restream.clone(),
            encoders: Arc::clone(encoders),
            audience: Arc::clone(audience),
            clock: Arc::clone(clock),
            units: Arc::default(),
            encoded: metrics::Encoded::new(&config.name),
            cap: config.restream.max_fps.map(|fps| Mutex::new(Cap::new(f64::from(fps)))),
            state: Mutex::default(),
        })
    }

    /// What it makes.
    pub fn units(&self) -> &Arc<Units> {
        &self.units
    }

    /// In which format it will come.
    pub fn format(&self) -> Option<Format> {
        let (codec, _) = self.encoders.pick(self.settings.codec)?;
        Some(if codec == Codec::H265 { Format::H265 } else { Format::H264 })
    }

    /// Whether it is running.
    pub fn is_held(&self) -> bool {
        lock(&self.state).holders > 0
    }

    /// Has it run until the answer is dropped.
    pub fn hold(self: &Arc<Self>) -> Hold {
        let mut state = lock(&self.state);
        state.holders += 1;
        if state.holders == 1 {
            state.attached = self.audience.attach(self.camera, Arc::clone(self) as Arc<dyn Output>);
            tracing::info!(camera = &*self.name, "Encoding for RTSP has begun.");
        }
        drop(state);
        Hold(Arc::clone(self))
    }

    /// Starts an encoder, the best that works.
    fn start(&self) -> Option<Encoder> {
        let (codec, name) = self.encoders.pick(self.settings.codec)?;
        let parser = if codec == Codec::H265 { "h265parse" } else { "h264parse" };
        let media = if codec == Codec::H265 { "video/x-h265" } else { "video/x-h264" };
        let line = format!(
            "appsrc name=show is-live=true format=time max-buffers={QUEUE} max-bytes=0 max-time=0 leaky-type=downstream \
             ! videoconvert n-threads=1 ! {name} name=encoder ! {media} ! {parser} \
             ! {media},stream-format=byte-stream,alignment=au ! appsink name=units sync=false enable-last-sample=false"
        );
        let made = || -> Option<Encoder> {
            let pipeline = gst::parse::launch(&line).ok()?.downcast::<gst::Pipeline>().ok()?;
            let src = pipeline.by_name("show").and_downcast::<gst_app::AppSrc>()?;
            let pad = pipeline.by_name("encoder").and_then(|encoder| encoder.static_pad("src"));
            let (failed, inside) = Default::default();
            Some(Encoder { pipeline, src, pad, caps: None, name, codec, failed, inside, times: None })
        };
        let encoder = made()?;
        encoder.connect(self);
        Some(encoder)
    }

    /// The encoder for the next picture: the running one, or another if that has failed.
    fn ready<'a>(&self, state: &'a mut State) -> Option<&'a mut Encoder> {
        let failed = state.encoder.as_ref().and_then(|encoder| lock(&encoder.failed).take());
        if let Some((why, old)) = failed.and_then(|why| Some((why, state.encoder.take()?))) {
            let _ = self.encoders.failed(&old.name);
            tracing::error!(
                camera = &*self.name,
                "The video encoder failed ({}: {why}); the next one is tried.",
                old.name
            );
        }
        if state.encoder.is_none() {
            state.encoder = self.start();
        }
        state.encoder.as_mut()
    }
}

impl Output for Restream {
    fn width(&self) -> Option<u32> {
        self.settings.width
    }

    fn shows_all(&self) -> bool {
        self.settings.show == Show::All
    }

    fn wants(&self, at: Tick) -> bool {
        self.cap.as_ref().is_none_or(|cap| lock(cap).keeps(at))
    }

    fn push(&self, canvas: Canvas, at: Tick) {
        let mut state = lock(&self.state);
        if state.holders == 0 {
            return;
        }
        let Some(encoder) = self.ready(&mut state) else { return };
        if self.units.take_wish() {
            encoder.ask_for_key();
        }
        let fps = self.settings.max_fps.unwrap_or(USUAL_FPS);
        if encoder.encode(canvas, at, self.clock.now(), fps) {
            self.encoded.of(encoder.codec).increment(1);
        }
    }
}

impl Encoder {
    fn connect(&self, restream: &Restream) {
        if let Some(element) = self.pipeline.by_name("encoder") {
            encoder::configure(&element, restream.settings.bitrate);
        }
        if let Some(bus) = self.pipeline.bus() {
            let failed = Arc::clone(&self.failed);
            bus.set_sync_handler(move |_, message| {
                if let gst::MessageView::Error(error) = message.view() {
                    lock(&failed).get_or_insert_with(|| error.error().message().to_owned());
                }
                gst::BusSyncReply::Drop
            });
        }
        if let Some(sink) = self.pipeline.by_name("units").and_downcast::<gst_app::AppSink>() {
            let (units, inside) = (Arc::clone(&restream.units), Arc::clone(&self.inside));
            let (clock, took) = (Arc::clone(&restream.clock), metrics::stage("encode"));
            let callbacks = gst_app::AppSinkCallbacks::builder()
                .new_sample(move |sink| {
                    let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                    let (Some(caps), Some(unit)) = (sample.caps_owned(), sample.buffer_owned()) else {
                        return Err(gst::FlowError::Error);
                    };
                    if let Some(began) = unit.pts().and_then(|pts| since(&inside, pts)) {
                        took.record(clock.now().since(began));
                    }
                    units.push(&caps, &unit);
                    Ok(gst::FlowSuccess::Ok)
                })
                .build();
            sink.set_callbacks(callbacks);
        }
        // A failure is on the bus, with its reason.
        let _ = self.pipeline.set_state(gst::State::Playing);
    }

    fn ask_for_key(&self) {
        let event = gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
        // Refused by an encoder that has not begun: its first picture is a key frame.
        let _ = self.pad.as_ref().is_some_and(|pad| pad.send_event(event));
    }

    /// Hands a picture in. False: it was not taken.
    fn encode(&mut self, canvas: Canvas, at: Tick, now: Tick, fps: f32) -> bool {
        let rate = gst::Fraction::new((fps * 100.0).round() as i32, 100);
        let caps = jpeg::caps(&canvas, rate);
        if self.caps.as_ref() != Some(&caps) {
            self.src.set_caps(Some(&caps));
            self.caps = Some(caps);
        }
        // Viewers see pictures at the distances in which they arrived, whatever the analysis took.
        let pts = match self.times {
            None => gst::ClockTime::ZERO,
            Some((first, last)) => {
                let pts = gst::ClockTime::try_from(at.since(first)).unwrap_or_default();
                pts.max(last + gst::ClockTime::MSECOND)
            }
        };
        self.times = Some((self.times.map_or(at, |(first, _)| first), pts));
        {
            let mut inside = lock(&self.inside);
            // Those given up by the queue never come out.
            inside.truncate(8);
            inside.push_front((pts, now));
        }
        let mut buffer = gst::Buffer::from_mut_slice(canvas.into_bytes());
        buffer.make_mut().set_pts(pts);
        self.src.push_buffer(buffer).is_ok()
    }
}

/// When the picture of this time went in.
fn since(inside: &Mutex<VecDeque<(gst::ClockTime, Tick)>>, pts: gst::ClockTime) -> Option<Tick> {
    let mut inside = lock(inside);
    // Some encoders shift all times so that none is negative; the order stays.
    let place = inside.iter().position(|(time, _)| *time == pts).or(inside.len().checked_sub(1))?;
    inside.remove(place).map(|(_, began)| began)
}

impl Drop for Encoder {
    fn drop(&mut self) {
        if let Some(bus) = self.pipeline.bus() {
            bus.unset_sync_handler();
        }
        // Fails only for elements that already failed; there is nothing left to stop then.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.holders -= 1;
        if state.holders > 0 {
            return;
        }
        let rest = (state.attached.take(), state.encoder.take());
        drop(state);
        // Outside of the lock: the encoder's own thread may be handing out its last picture.
        drop(rest);
        self.0.units.pause();
        tracing::info!(camera = &*self.0.name, "Encoding for RTSP has ended.");
    }
}
