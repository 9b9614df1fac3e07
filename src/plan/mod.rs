//! `weir plan`: what this machine can take, from measurements: its own ([`calibrate`]) or those of a running daemon ([`live`]).
//!
//! Here is what is asked, what was measured, and what follows; [`show`] writes it, [`crate::flow::capacity`] and
//! [`crate::flow::predict`] compute it.

pub mod calibrate;
pub mod live;
pub mod show;

use std::time::Duration;

use crate::flow::capacity::{Ceiling, Machine, Recommended, Stream, camera_hour, mean, recommend};
use crate::flow::predict::{Prediction, predict};

/// What follows a run: results to tracks and events.
const ANALYSE: Duration = Duration::from_millis(1);

/// What a camera sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sends {
    /// Frames a second.
    pub fps: f64,
    /// Those of them that are inferred: `max_fps` may be fewer.
    pub inferred: f64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

impl Sends {
    /// All frames are inferred but for what is above `max_fps`.
    pub fn new(fps: f64, max_fps: Option<f64>, (width, height): (u32, u32)) -> Self {
        Sends { fps, inferred: max_fps.map_or(fps, |max| fps.min(max)), width, height }
    }

    fn pixels(&self) -> f64 {
        f64::from(self.width) * f64::from(self.height)
    }
}

/// What a common camera sends: taken where nothing is known.
pub const USUAL: Sends = Sends { fps: 25.0, inferred: 25.0, width: 1920, height: 1080 };

/// Cameras to plan for.
#[derive(Clone, Debug, PartialEq)]
pub struct Cameras {
    /// How many.
    pub count: u32,
    /// What they send, in equal parts; at least one.
    pub send: Vec<Sends>,
}

/// What the command line says of the cameras; the rest is theirs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// How many.
    pub count: Option<u32>,
    /// Frames a second of each, all inferred.
    pub fps: Option<f64>,
    /// Width and height of each, pixels.
    pub size: Option<(u32, u32)>,
}

impl Wanted {
    /// Nothing is left to be asked of a camera.
    pub fn says_all(&self) -> bool {
        self.fps.is_some() && self.size.is_some()
    }

    /// `count` cameras, of which these say what they send.
    fn of(&self, count: u32, there: &[Sends]) -> Cameras {
        let send = |sends: &Sends| Sends {
            fps: self.fps.unwrap_or(sends.fps),
            inferred: self.fps.unwrap_or(sends.inferred),
            width: self.size.map_or(sends.width, |(width, _)| width),
            height: self.size.map_or(sends.height, |(_, height)| height),
        };
        let there = if there.is_empty() { &[USUAL] } else { there };
        let mut send: Vec<Sends> = there.iter().map(send).collect();
        let count = self.count.unwrap_or(count.max(1));
        if self.says_all() {
            send.truncate(1);
        }
        Cameras { count, send }
    }
}

impl Cameras {
    /// Each kind once, and its part of them; the most frequent first.
    pub fn kinds(&self) -> Vec<(Sends, f64)> {
        let mut kinds: Vec<(Sends, f64)> = Vec::new();
        let part = 1.0 / self.send.len().max(1) as f64;
        for send in &self.send {
            match kinds.iter_mut().find(|(kind, _)| kind == send) {
                Some((_, of)) => *of += part,
                None => kinds.push((*send, part)),
            }
        }
        kinds.sort_by(|a, b| b.1.total_cmp(&a.1));
        kinds
    }

    /// Pixels of a frame that 95 % of all frames do not exceed.
    fn large(&self) -> f64 {
        let mut frames: Vec<(f64, f64)> = self.send.iter().map(|s| (s.pixels(), s.inferred)).collect();
        frames.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all: f64 = frames.iter().map(|(_, fps)| fps).sum();
        let mut sum = 0.0;
        let reached = frames.iter().find(|(_, fps)| {
            sum += fps;
            sum >= 0.95 * all
        });
        reached.map_or(0.0, |(pixels, _)| *pixels)
    }

    /// Frames that are inferred, a second and camera, in the mean.
    pub fn inferred(&self) -> f64 {
        mean(&self.send, |s| s.inferred)
    }

    /// The same of frames that are sent.
    pub fn fps(&self) -> f64 {
        mean(&self.send, |s| s.fps)
    }

    /// Pixels of a frame, in the mean over all that are sent.
    pub fn pixels(&self) -> f64 {
        mean(&self.send, |s| s.fps * s.pixels()) / self.fps().max(1e-9)
    }
}

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
    /// Cameras that are there.
    pub count: u32,
    /// What each of them sends, as far as it is known.
    pub there: Vec<Sends>,
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
    /// Bytes of main memory that one camera holds at most, in the mean.
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
    /// Inferred frames a second that each gets, in the mean.
    pub fps: f64,
    /// Latency; `None` where the engine is full: frames are lost, and latency is bounded by their rings.
    pub latency: Option<Prediction>,
}

/// Plans.
pub fn plan(mut measured: Measured, wanted: &Wanted, limits: Limits, price: Option<f64>) -> Plan {
    let cameras = wanted.of(measured.count, &measured.there);
    let stream = |sends: &Sends| Stream {
        fps: sends.fps,
        inferred: sends.inferred,
        pixels: sends.pixels(),
        ring: limits.ring,
    };
    let streams: Vec<Stream> = cameras.send.iter().map(stream).collect();
    let (fps, pixels) = (cameras.inferred(), mean(&streams, |s| s.fps * s.pixels));
    let machine = &mut measured.machine;
    // A frame is decoded by one thread: its CPU time is its latency while a core is free for it. What a GPU's decoder takes is not known, and not
    // in it: some milliseconds.
    let base = Duration::from_secs_f64(machine.decode.unwrap_or(0.0) * cameras.large()) + ANALYSE;
    // On shared cores decoding makes runs longer, longer runs a smaller batch, and that changes what fits: at most the ladder's length.
    let mut recommended = recommend(&machine.curve, limits.max_batch, base, limits.target, fps);
    loop {
        machine.batch = recommended.max_batch_frames;
        let (fit, _) = machine.most(&streams);
        let beside = machine.slowed(machine.decode_load(f64::from(fit) * pixels));
        let next = recommend(&beside, limits.max_batch, base, limits.target, fps);
        let done = next.max_batch_frames >= recommended.max_batch_frames || !next.reachable;
        recommended =
            if done { Recommended { max_batch_frames: recommended.max_batch_frames, ..next } } else { next };
        if done {
            break;
        }
    }
    let machine = *machine;
    let (each, ceiling) = machine.most(&streams);
    let gpus = measured.gpus.max(1);
    let fit = (each * gpus, ceiling);
    let outlook = |count: u32| {
        // The fullest of the GPUs.
        let here = count.div_ceil(gpus);
        let n = f64::from(here);
        let decode = machine.decode_load(n * pixels);
        let rho = machine.rho(n * fps, decode);
        let curve = machine.slowed(decode);
        // Decoders that share their cores wait for each other as well as the engine for them.
        let latency =
            (machine.taken(decode) < 0.95).then(|| predict(&curve, machine.batch, here, fps, base)).flatten();
        Outlook { cameras: count, rho, fps: fps / rho.max(1.0), latency }
    };
    let mut counts = vec![cameras.count, fit.0];
    counts.retain(|n| *n > 0);
    counts.sort_unstable();
    counts.dedup();
    let ceilings = [Ceiling::Engine, Ceiling::Decode, Ceiling::Nvdec, Ceiling::Memory];
    Plan {
        target: limits.target,
        fit,
        alone: ceilings.map(|ceiling| (ceiling, machine.most_by(ceiling, &streams).map(|each| each * gpus))),
        recommended,
        outlook: counts.into_iter().map(outlook).collect(),
        camera_bytes: mean(&streams, |stream| machine.host_bytes(stream)),
        gpu_camera_bytes: mean(&streams, Stream::pictures),
        cost: price.map(|price| (price, camera_hour(price, fit.0))),
        cameras,
        measured,
    }
}

#[cfg(test)]
mod tests;
