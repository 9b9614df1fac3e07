//! Measures this machine for [`super::plan`]: S(b) with the model of the configuration, what decoding costs, memory. CPU time, not
//! wall time, is what decoding costs the CPU: it is the same on a busy machine.
//!
//! Of several GPUs the first is measured, beside its part of the cores and of main memory: they are taken to be alike.

pub(crate) mod clip;
mod decode;

use std::time::Duration;

use crossbeam_channel::after;

use self::decode::decode;
use super::{Cameras, Limits, Measured, USUAL};
use crate::admission::engine_cores;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::device::choose::{Chosen, choose};
use crate::device::nvidia::nvml;
use crate::device::{Device, Engine};
use crate::fault::{Fault, Who};
use crate::flow::capacity::Machine;
use crate::flow::curve::{Curve, Rung};
use crate::frame::Frame;
use crate::stage::infer::warm_up;
use crate::usage;

/// Measures. `wanted` overrides what the cameras are taken to send.
///
/// # Errors
/// Whatever keeps the model from running. A clip that cannot be decoded is a note instead.
pub fn measure(config: &Config, wanted: &dyn Fn(Cameras) -> Cameras) -> Result<(Measured, Limits), Fault> {
    let clock = SystemClock::new();
    match choose(config, &clock)? {
        Chosen::Software(device) => {
            let about = About { model: device.spec().name.clone(), engine: device.describe(), gpus: 0 };
            measure_on(&*device, about, config, wanted, &clock)
        }
        Chosen::Nvidia(devices) => {
            let device = &devices[0];
            let engine = device.describe(&config.infer.execution);
            let about = About { model: device.spec().name.clone(), engine, gpus: devices.len() as u32 };
            measure_on(device, about, config, wanted, &clock)
        }
    }
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
    wanted: &dyn Fn(Cameras) -> Cameras,
    clock: &dyn Clock,
) -> Result<(Measured, Limits), Fault> {
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

    let mut notes = Vec::new();
    let count = config.cameras.len() as u32;
    let assumed = wanted(Cameras { count, ..USUAL });
    // Read before anything is decoded: pictures of a measurement are no camera's. What it says may be of before the engine.
    if about.gpus > 0 {
        let _ = after(nvml::FRESH).recv();
    }
    let gpu = device.report();
    let decoded = decode(device, config, &assumed, clock);
    let (mut cost, mut nvdec, mut from, mut there) = (None, None, None, Cameras { count, ..USUAL });
    let mut preprocess = Duration::ZERO;
    match decoded {
        Ok(decoded) => {
            (cost, nvdec) = (Some(decoded.cost), decoded.nvdec);
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
            // On a GPU it runs beside the network.
            if about.gpus == 0 {
                preprocess = load_time(&mut engine, decoded.last, clock)?;
            }
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
        there: Some(there),
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
