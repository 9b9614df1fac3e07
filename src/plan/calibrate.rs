//! Measures this machine for [`super::plan`]: what the configuration's cameras send, S(b) with its model, what decoding costs, memory. CPU time,
//! not wall time, is what decoding costs the CPU: it is the same on a busy machine.
//!
//! Of several GPUs the first is measured, beside its part of the cores and of main memory: they are taken to be alike.

pub(crate) mod clip;
mod decode;

use std::time::Duration;

use crossbeam_channel::after;

use self::decode::decode;
use super::{Limits, Measured, Sends, USUAL, Wanted};
use crate::admission::engine_cores;
use crate::clock::{Clock, SystemClock};
use crate::config::{Camera, Config};
use crate::device::choose::{Chosen, choose};
use crate::device::nvidia::nvml;
use crate::device::{Device, Engine};
use crate::event::Video;
use crate::fault::{Fault, Who};
use crate::flow::capacity::Machine;
use crate::flow::curve::{Curve, Rung};
use crate::frame::Frame;
use crate::live;
use crate::stage::infer::warm_up;
use crate::usage;

/// Measures. Where `wanted` does not say all of what cameras send, each of the configuration's is opened and asked. `step` hears what is being done.
///
/// # Errors
/// Whatever keeps the model from running. A camera that cannot be reached, or a clip that cannot be decoded, is a note instead.
pub fn measure(
    config: &Config,
    wanted: &Wanted,
    step: &mut dyn FnMut(&str),
) -> Result<(Measured, Limits), Fault> {
    let clock = SystemClock::new();
    let mut notes = Vec::new();
    let there = if wanted.says_all() {
        config.cameras.iter().map(usual).collect()
    } else {
        let count = config.cameras.len();
        step(&format!("opening {count} camera{}", if count == 1 { "" } else { "s" }));
        look(config, &mut notes)?
    };
    step("measuring the network");
    match choose(config, &clock)? {
        Chosen::Software(device) => {
            let about = About { model: device.spec().name.clone(), engine: device.describe(), gpus: 0 };
            measure_on(&*device, about, config, Asked { wanted, there, notes, step }, &clock)
        }
        Chosen::Nvidia(devices) => {
            let device = &devices[0];
            let engine = device.describe(&config.infer.execution);
            let about = About { model: device.spec().name.clone(), engine, gpus: devices.len() as u32 };
            measure_on(device, about, config, Asked { wanted, there, notes, step }, &clock)
        }
    }
}

/// What each camera sends; in `notes` why one did not say.
fn look(config: &Config, notes: &mut Vec<String>) -> Result<Vec<Sends>, Fault> {
    let mut there = Vec::new();
    live::look(&config.cameras, &mut |camera, outcome, _| {
        let max = camera.max_fps.map(f64::from);
        there.push(match outcome {
            Ok(Video { width, height, fps: Some(fps), .. }) => {
                Sends::new(f64::from(fps), max, (width, height))
            }
            Ok(video) => {
                let fps = USUAL.fps;
                notes.push(format!(
                    "camera {} does not say how many frames a second it sends; taken for {fps:.0}",
                    camera.name
                ));
                Sends::new(fps, max, (video.width, video.height))
            }
            Err(fault) => {
                notes.push(format!(
                    "camera {} could not be asked, and is taken to send 1920×1080 at 25 frames/s: {fault}",
                    camera.name
                ));
                usual(camera)
            }
        });
        Ok(())
    })?;
    Ok(there)
}

fn usual(camera: &Camera) -> Sends {
    Sends::new(USUAL.fps, camera.max_fps.map(f64::from), (USUAL.width, USUAL.height))
}

/// What is asked, what is known of the cameras, and who hears how far it is.
struct Asked<'a> {
    wanted: &'a Wanted,
    there: Vec<Sends>,
    notes: Vec<String>,
    step: &'a mut dyn FnMut(&str),
}

/// What is measured.
struct About {
    model: String,
    engine: String,
    /// 0: the CPU.
    gpus: u32,
}

fn measure_on<D: Device>(
    device: &D,
    about: About,
    config: &Config,
    asked: Asked<'_>,
    clock: &dyn Clock,
) -> Result<(Measured, Limits), Fault> {
    let Asked { wanted, there, mut notes, step } = asked;
    let mut engine = device.engine()?;
    let curve = warm_up(&mut engine, clock)?;
    let useful = curve.largest_useful();
    if curve.rungs().last().is_some_and(|rung| rung.frames > useful) {
        // An engine keeps the memory of the largest batch that it ever ran; the daemon starts afresh too.
        drop(engine);
        engine = device.engine()?;
        engine.run(useful)?;
    }
    let resident = usage::resident();

    step("measuring what decoding costs");
    let cameras = wanted.of(there.len() as u32, &there);
    // Most of the work is that of the kind that most cameras are of.
    let pattern = cameras.kinds().first().map_or(USUAL, |(kind, _)| *kind);
    // Read before anything is decoded: pictures of a measurement are no camera's. What it says may be of before the engine.
    if about.gpus > 0 {
        let _ = after(nvml::FRESH).recv();
    }
    let gpu = device.report();
    let decoded = decode(device, config, &pattern, clock);
    let (mut cost, mut nvdec, mut from) = (None, None, None);
    let mut preprocess = Duration::ZERO;
    match decoded {
        Ok(decoded) => {
            (cost, nvdec) = (Some(decoded.cost), decoded.nvdec);
            from = Some(decoded.from);
            if decoded.from != "file" {
                notes.push(
                    "decoding was measured on a test pattern; a daemon that runs knows better (--url)"
                        .to_owned(),
                );
            }
            // On a GPU it runs beside the network.
            if about.gpus == 0 {
                preprocess = load_time(&mut engine, decoded.last, clock)?;
            }
        }
        Err(fault) => notes.push(format!("the cost of decoding is not known: {}", fault.message)),
    }
    let rungs = curve.rungs().iter();
    let rungs: Vec<Rung> =
        rungs.map(|r| Rung { service: r.service + preprocess * r.frames as u32, ..*r }).collect();
    let share = f64::from(about.gpus.max(1));
    let machine = Machine {
        curve: if curve.is_padded() { Curve::new(&rungs).padded() } else { Curve::new(&rungs) },
        batch: useful,
        cores: usage::cores() / share,
        // Not measured: on a busy machine a run seems to use less than it takes on a quiet one.
        engine_cores: if about.gpus > 0 { 0.0 } else { engine_cores(&config.infer) },
        decode: cost,
        nvdec,
        memory: usage::available().map(|free| free / share),
        gpu_memory: gpu.as_ref().and_then(|gpu| gpu.memory_for_cameras()),
        encoders: None,
    };
    let measured = Measured {
        source: "calibrated",
        model: Some(about.model),
        engine: Some(about.engine),
        machine,
        gpus: about.gpus,
        gpu_resident: gpu.and_then(|gpu| gpu.memory_used_bytes).map(|used| used as f64),
        decode_from: from,
        notes,
        resident,
        count: config.cameras.len() as u32,
        there,
    };
    let ring = config.cameras.iter().map(|camera| camera.ring).max().unwrap_or(Duration::from_millis(300));
    let (max_batch, target) = (config.batcher.max_batch_frames, config.batcher.slo_p95);
    Ok((measured, Limits { max_batch, target, ring }))
}

/// How long a picture takes into the engine's input; the quickest of five.
fn load_time<E: Engine>(
    engine: &mut E,
    last: Frame<E::Pixels>,
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

fn trouble(what: impl Into<String>) -> Fault {
    Fault::new(Who::Device, "calibrate", what)
}
