//! Measures this machine for [`super::plan`]: S(b) with the model of the configuration, the CPU time of decoding, memory. CPU time, not
//! wall time, is what decoding costs: it is the same on a busy machine.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use gstreamer as gst;
use gstreamer::prelude::*;

use super::{Cameras, Limits, Measured, USUAL};
use crate::admission::engine_cores;
use crate::clock::{Clock, SystemClock};
use crate::config::{Camera, Config, Source};
use crate::device::software::Software;
use crate::device::software::pixels::Pixels;
use crate::device::{Device, Engine, Happening, Sink};
use crate::fault::{Fault, Who};
use crate::flow::capacity::Machine;
use crate::flow::curve::{Curve, Rung};
use crate::frame::{Frame, Stamp};
use crate::stage::infer::warm_up;
use crate::usage;

/// Frames decoded before CPU time counts: plugins are loaded, decoders allocate.
const SKIP: u64 = 10;
/// Frames that are decoded for the measurement, at most.
const FRAMES: u64 = 150;
/// Frames of the test pattern.
const PATTERN_FRAMES: u64 = 75;
/// Bits a pixel of the pattern's stream: 1080p at 25 frames/s is 5.2 Mbit/s, as cameras send it.
const BITS_A_PIXEL: f64 = 0.1;
/// For a clip to be encoded or decoded.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures. `wanted` overrides what the cameras are taken to send.
///
/// # Errors
/// Whatever keeps the model from running. A clip that cannot be decoded is a note instead.
pub fn measure(config: &Config, wanted: &dyn Fn(Cameras) -> Cameras) -> Result<(Measured, Limits), Fault> {
    let clock = SystemClock::new();
    let device = Software::new(&config.model, &config.infer, config.batcher.max_batch_frames, &clock)?;
    let mut engine = device.engine()?;
    let curve = warm_up(&mut engine, &clock)?;
    let useful = curve.largest_useful();
    if curve.rungs().last().is_some_and(|rung| rung.frames > useful) {
        // An engine keeps the memory of the largest batch that it ever ran; the daemon starts afresh too.
        drop(engine);
        engine = device.engine()?;
        engine.run(useful)?;
    }
    let resident = usage::resident();

    let mut notes = Vec::new();
    let count = config.cameras.len() as u32;
    let assumed = wanted(Cameras { count, ..USUAL });
    let decoded = decode(config, &assumed);
    let (mut cost, mut from, mut there) = (None, None, Cameras { count, ..USUAL });
    let mut preprocess = Duration::ZERO;
    match decoded {
        Ok(decoded) => {
            cost = Some(decoded.cpu.as_secs_f64() / (decoded.frames as f64 * decoded.pixels()));
            from = Some(decoded.from);
            if decoded.from == "file" {
                let fps = decoded.fps.unwrap_or(USUAL.fps);
                there = Cameras { count, fps, width: decoded.width, height: decoded.height };
            } else {
                notes.push(
                    "decoding was measured on a test pattern; a daemon that runs knows better (--url)"
                        .to_owned(),
                );
            }
            preprocess = load_time(&mut engine, decoded.last, &clock)?;
        }
        Err(fault) => notes.push(format!("the cost of decoding is not known: {}", fault.message)),
    }
    if from != Some("file") && assumed == (Cameras { count: assumed.count, ..USUAL }) {
        notes.push(
            "cameras are taken to send 1920×1080 at 25 frames/s: --resolution and --fps say otherwise"
                .to_owned(),
        );
    }
    let rungs = curve.rungs().iter();
    let rungs: Vec<Rung> =
        rungs.map(|r| Rung { service: r.service + preprocess * r.frames as u32, ..*r }).collect();
    let machine = Machine {
        curve: Curve::new(&rungs),
        batch: useful,
        cores: usage::cores(),
        // Not measured: on a busy machine a run seems to use less than it takes on a quiet one.
        engine_cores: engine_cores(&config.infer),
        decode: cost,
        memory: usage::available(),
        gpu_memory: None,
        encoders: None,
    };
    let measured = Measured {
        source: "calibrated",
        model: Some(device.spec().name.clone()),
        engine: Some(device.describe()),
        machine,
        decode_from: from,
        notes,
        resident,
        there: Some(there),
    };
    let ring = config.cameras.iter().map(|camera| camera.ring).max().unwrap_or(Duration::from_millis(300));
    let (max_batch, target) = (config.batcher.max_batch_frames, config.batcher.slo_p95);
    Ok((measured, Limits { max_batch, target, ring }))
}

/// How long a picture takes into the engine's input; the quickest of five.
fn load_time<E: Engine<Pixels = Pixels>>(
    engine: &mut E,
    last: Frame<Pixels>,
    clock: &dyn Clock,
) -> Result<Duration, Fault> {
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let before = clock.now();
        engine.load(0, &last)?;
        quickest = quickest.min(clock.now().since(before));
    }
    Ok(quickest)
}

struct Decoded {
    from: &'static str,
    frames: u64,
    cpu: Duration,
    width: u32,
    height: u32,
    fps: Option<f64>,
    last: Frame<Pixels>,
}

impl Decoded {
    fn pixels(&self) -> f64 {
        f64::from(self.width) * f64::from(self.height)
    }
}

/// Decodes the first file that the configuration plays, or a test pattern of the size asked for.
fn decode(config: &Config, assumed: &Cameras) -> Result<Decoded, Fault> {
    let template = config.cameras.first().ok_or_else(|| trouble("there is no camera"))?;
    let file = config.cameras.iter().find_map(|camera| match &camera.source {
        Source::File { path, .. } => Some(path.clone()),
        _ => None,
    });
    match file {
        Some(path) => play(template, path, "file"),
        None => {
            let clip = Clip::encode(assumed)?;
            play(template, clip.path.clone(), "test_pattern")
        }
    }
}

fn trouble(what: impl Into<String>) -> Fault {
    Fault::new(Who::Device, "calibrate", what)
}

/// What the source's thread saw.
#[derive(Default)]
struct Seen {
    count: u64,
    /// CPU time at frame [`SKIP`], and at the last one.
    cpu: (Duration, Duration),
    video: Option<crate::event::Video>,
    last: Option<Frame<Pixels>>,
}

fn play(template: &Camera, path: PathBuf, from: &'static str) -> Result<Decoded, Fault> {
    let camera = Camera { source: Source::File { path, repeat: false, realtime: false }, ..template.clone() };
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (enough, reached) = bounded::<()>(1);
    let (happening, happenings) = bounded(64);
    let theirs = Arc::clone(&seen);
    let sink = Sink {
        gate: None,
        picture: Box::new(move |picture| {
            let mut seen = theirs.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(pixels) = picture.pixels else { return };
            if seen.count >= FRAMES {
                let _ = enough.try_send(());
                return;
            }
            seen.count += 1;
            seen.cpu.1 = usage::process_cpu();
            if seen.count == SKIP {
                seen.cpu.0 = seen.cpu.1;
            }
            let stamp = Stamp {
                arrived: <_>::default(),
                decoded: <_>::default(),
                pts: picture.pts,
                wall: <_>::default(),
            };
            seen.last = Some(Frame { stamp, size: picture.size, pixels });
            seen.video = Some(picture.video);
        }),
        happening,
    };
    let source = crate::device::software::source::open(&camera, sink)?;
    wait(&reached, &happenings)?;
    drop(source);
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    let (Some(video), Some(last)) = (seen.video, seen.last) else {
        return Err(trouble("the clip has no picture"));
    };
    if seen.count < 2 * SKIP {
        return Err(trouble(format!("a clip of {} frames is too short to be measured", seen.count)));
    }
    Ok(Decoded {
        from,
        frames: seen.count - SKIP,
        cpu: seen.cpu.1.saturating_sub(seen.cpu.0),
        width: video.width,
        height: video.height,
        fps: video.fps.map(f64::from),
        last,
    })
}

fn wait(reached: &Receiver<()>, happenings: &Receiver<Happening>) -> Result<(), Fault> {
    loop {
        crossbeam_channel::select! {
            recv(reached) -> _ => return Ok(()),
            recv(happenings) -> what => match what {
                Ok(Happening::Undecodable) => {}
                Ok(Happening::Failed(fault)) => return Err(fault),
                Ok(Happening::Ended) | Err(_) => return Ok(()),
            },
            default(PATIENCE) => return Err(trouble("the clip could not be decoded in time")),
        }
    }
}

/// A clip of a moving test pattern; gone when dropped.
pub(crate) struct Clip {
    pub(crate) path: PathBuf,
}

impl Drop for Clip {
    fn drop(&mut self) {
        // What is left in the temporary folder harms nobody.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Clip {
    /// By x264, as most cameras send it: one reference, no B-frames, a key frame every two seconds.
    ///
    /// # Errors
    /// When GStreamer has no x264, or fails.
    pub(crate) fn encode(cameras: &Cameras) -> Result<Clip, Fault> {
        let name = format!("weir-plan-{}-{}.mp4", std::process::id(), fastrand::u64(..));
        let clip = Clip { path: std::env::temp_dir().join(name) };
        Self::run(cameras, &clip.path)?;
        Ok(clip)
    }

    fn run(cameras: &Cameras, path: &Path) -> Result<(), Fault> {
        gst::init().map_err(|e| trouble(format!("GStreamer does not start: {e}")))?;
        let Cameras { fps, width, height, .. } = *cameras;
        let rate = ((fps * 1000.0).round() as u32).max(1);
        let kbit = (f64::from(width) * f64::from(height) * fps * BITS_A_PIXEL / 1000.0).ceil().max(64.0);
        let key = (2.0 * fps).ceil().max(1.0);
        let text = format!(
            "videotestsrc num-buffers={PATTERN_FRAMES} pattern=zone-plate kx2=20 ky2=20 kt=10 \
             ! video/x-raw,format=I420,width={width},height={height},framerate={rate}/1000 \
             ! x264enc speed-preset=veryfast tune=zerolatency bitrate={kbit} key-int-max={key} \
             ! h264parse ! mp4mux ! filesink name=file"
        );
        let pipeline = gst::parse::launch(&text).map_err(|e| {
            trouble(format!(
                "no test pattern can be made ({}); it needs gstreamer1.0-plugins-ugly",
                e.message()
            ))
        })?;
        let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| trouble("not a pipeline"))?;
        if let Some(file) = pipeline.by_name("file") {
            file.set_property("location", path);
        }
        let bus = pipeline.bus().ok_or_else(|| trouble("a pipeline without a bus"))?;
        // A failure is on the bus.
        let _ = pipeline.set_state(gst::State::Playing);
        let patience = gst::ClockTime::try_from(PATIENCE).unwrap_or(gst::ClockTime::MAX);
        let end = bus.timed_pop_filtered(patience, &[gst::MessageType::Eos, gst::MessageType::Error]);
        let _ = pipeline.set_state(gst::State::Null);
        match end.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Eos(_)) => Ok(()),
            Some(gst::MessageView::Error(e)) => {
                Err(trouble(format!("no test pattern can be made: {}", e.error().message())))
            }
            _ => Err(trouble("the test pattern could not be encoded in time")),
        }
    }
}
