//! `weir plan`: what this machine can take, from measurements: its own ([`calibrate`]) or those of a running daemon ([`live`]).
//!
//! Here is what is asked, what was measured, and what follows; [`show`] writes it, [`crate::flow::capacity`] and
//! [`crate::flow::predict`] compute it.

pub mod calibrate;
pub mod live;
pub mod show;

use std::time::Duration;

use crate::flow::capacity::{Ceiling, Machine, Recommended, Stream, camera_hour, recommend};
use crate::flow::predict::{Prediction, predict};

/// What follows a run: results to tracks and events.
const ANALYSE: Duration = Duration::from_millis(1);

/// Cameras to plan for, all alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cameras {
    /// How many.
    pub count: u32,
    /// Frames a second of each.
    pub fps: f64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// What a common camera sends: taken where nothing is known.
pub const USUAL: Cameras = Cameras { count: 1, fps: 25.0, width: 1920, height: 1080 };

/// What measuring gave.
#[derive(Clone, Debug)]
pub struct Measured {
    /// `calibrated` or `live`.
    pub source: &'static str,
    /// The model's name; `None`: a daemon does not say.
    pub model: Option<String>,
    /// What runs it.
    pub engine: Option<String>,
    /// The machine; its `batch` is the largest that the engine was measured with.
    pub machine: Machine,
    /// How the cost of decoding is known: `file`, `test_pattern`, `live`.
    pub decode_from: Option<&'static str>,
    /// Why it is not, or what is to be known about it.
    pub notes: Vec<String>,
    /// Bytes that a process with a warm engine holds.
    pub resident: Option<f64>,
    /// GPUs that are used; the machine is one of them with its part of the cores and of main memory. 0: the CPU does it all.
    pub gpus: u32,
    /// Bytes of a GPU's memory in use with a warm engine and no camera, by anybody.
    pub gpu_resident: Option<f64>,
    /// The cameras that are there: how many, and their mean rate and size where known.
    pub there: Option<Cameras>,
}

/// The operator's limits and target.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `max_batch_frames`.
    pub max_batch: usize,
    /// `slo_p95_ms`.
    pub target: Duration,
    /// `ring_buffer_ms`.
    pub ring: Duration,
}

/// The plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it rests on; its machine's `batch` is the recommended one.
    pub measured: Measured,
    /// What was asked.
    pub cameras: Cameras,
    /// The p95 target.
    pub target: Duration,
    /// Cameras that fit, and what binds the next one.
    pub fit: (u32, Ceiling),
    /// How many would, if only this ceiling were there.
    pub alone: [(Ceiling, Option<u32>); 4],
    /// Settings.
    pub recommended: Recommended,
    /// The asked cameras, and those that fit.
    pub outlook: Vec<Outlook>,
    /// Bytes of main memory that one camera holds at most.
    pub camera_bytes: f64,
    /// The same of a GPU's, where one is used.
    pub gpu_camera_bytes: f64,
    /// Price of a machine-hour, and of a camera-hour when as many as fit share it.
    pub cost: Option<(f64, Option<f64>)>,
}

/// What so many cameras would see.
#[derive(Clone, Copy, Debug)]
pub struct Outlook {
    /// How many.
    pub cameras: u32,
    /// Load of the engine beside their decoding.
    pub rho: f64,
    /// Frames a second that each gets.
    pub fps: f64,
    /// Latency; `None` where the engine is full: frames are lost, and latency is bounded by their rings.
    pub latency: Option<Prediction>,
}

/// Plans.
pub fn plan(mut measured: Measured, cameras: Cameras, limits: Limits, price: Option<f64>) -> Plan {
    let pixels = f64::from(cameras.width) * f64::from(cameras.height);
    let stream = Stream { fps: cameras.fps, pixels, ring: limits.ring };
    let machine = &mut measured.machine;
    // A frame is decoded by one thread: its CPU time is its latency while a core is free for it. What a GPU's decoder takes is not known, and not
    // in it: some milliseconds.
    let base = Duration::from_secs_f64(machine.decode.unwrap_or(0.0) * pixels) + ANALYSE;
    // On shared cores decoding makes runs longer, longer runs a smaller batch, and that changes what fits: at most the ladder's length.
    let mut recommended = recommend(&machine.curve, limits.max_batch, base, limits.target, cameras.fps);
    loop {
        machine.batch = recommended.max_batch_frames;
        let (fit, _) = machine.most(&stream);
        let beside = machine.slowed(machine.decode_load(f64::from(fit) * cameras.fps * pixels));
        let next = recommend(&beside, limits.max_batch, base, limits.target, cameras.fps);
        let done = next.max_batch_frames >= recommended.max_batch_frames || !next.reachable;
        recommended =
            if done { Recommended { max_batch_frames: recommended.max_batch_frames, ..next } } else { next };
        if done {
            break;
        }
    }
    let machine = *machine;
    let (each, ceiling) = machine.most(&stream);
    let gpus = measured.gpus.max(1);
    let fit = (each * gpus, ceiling);
    let outlook = |count: u32| {
        // The fullest of the GPUs.
        let here = count.div_ceil(gpus);
        let n = f64::from(here);
        let decode = machine.decode_load(n * cameras.fps * pixels);
        let rho = machine.rho(n * cameras.fps, decode);
        let curve = machine.slowed(decode);
        // Decoders that share their cores wait for each other as well as the engine for them.
        let latency = (machine.taken(decode) < 0.95)
            .then(|| predict(&curve, machine.batch, here, cameras.fps, base))
            .flatten();
        Outlook { cameras: count, rho, fps: cameras.fps / rho.max(1.0), latency }
    };
    let mut counts = vec![cameras.count, fit.0];
    counts.retain(|n| *n > 0);
    counts.sort_unstable();
    counts.dedup();
    let ceilings = [Ceiling::Engine, Ceiling::Decode, Ceiling::Nvdec, Ceiling::Memory];
    Plan {
        cameras,
        target: limits.target,
        fit,
        alone: ceilings.map(|ceiling| (ceiling, machine.most_by(ceiling, &stream).map(|each| each * gpus))),
        recommended,
        outlook: counts.into_iter().map(outlook).collect(),
        camera_bytes: machine.host_bytes(&stream),
        gpu_camera_bytes: stream.pictures(),
        cost: price.map(|price| (price, camera_hour(price, fit.0))),
        measured,
    }
}
