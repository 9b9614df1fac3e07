//! How much a machine can take: cameras that fit, what binds, what one more would do, how an overload is shared. Pure
//! arithmetic on what was measured; who measures is [`crate::admission`] and [`crate::plan`].
//!
//! | symbol | unit | from |
//! |---|---|---|
//! | S(b) | s | the [`Curve`], on cores that do nothing else |
//! | C = b/S(b) | frames/s | the engine's rate at the batch that it is used with |
//! | λ | frames/s | what cameras ask of the engine |
//! | D | cores | CPU seconds that decoding uses in a second: Σ fps · pixels · cost |
//! | N | 0..=1 | part of the GPU's video decoders that is in use: Σ fps · pixels · cost there |
//!
//! **Engine.** ρ = λ·S(b)/b = λ/C must stay below [`RHO_MAX`]: a queue grows like ρ/(1−ρ), so the last third of an engine buys few
//! frames and much latency. **Decode.** D must stay below the same part of all cores. **Shared cores.** On a CPU box both
//! live on the same cores, and decoders go first (the engine's threads are niced). So what decoding takes of the engine's cores
//! ([`Machine::taken`]) is missing there: the engine's rate is C·(1 − taken), and ρ counts against that. An engine that has only
//! some of the cores loses nothing until decoding has filled the others. **NVDEC.** N must stay below the same part. **Memory.** A ring full of pictures and the
//! decoder's own, a camera, against what is free.

use std::time::Duration;

use super::curve::Curve;
use super::pace::AIM;
use crate::config::Priority;

/// The part of an engine, and of the cores, that is planned for.
pub const RHO_MAX: f64 = 0.7;
/// Fewer frames a second than this are no camera: instead of so few the answer is no.
pub const LEAST_FPS: f64 = 1.0;
/// A decoder's own pictures: what H.264 level 4.1 may hold at 1080p (4), and those under way.
const DECODER_PICTURES: f64 = 8.0;
/// A pipeline's code, queues and threads, bytes.
const PIPELINE_BYTES: f64 = 6e6;
/// 4:2:0, bytes a pixel.
const PICTURE_BYTES: f64 = 1.5;
/// What `ring_buffer_ms` may be.
const MOST_RING: Duration = Duration::from_secs(10);
/// A refusal that other load caused: when to ask again. Load is measured over five seconds.
const SOON: Duration = Duration::from_secs(10);
/// One that the machine itself causes: it will be the same answer until somebody changes something.
const LATE: Duration = Duration::from_secs(600);

/// What binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ceiling {
    /// The network's runs.
    Engine,
    /// CPU time of decoding.
    Decode,
    /// The GPU's video decoders.
    Nvdec,
    /// Pictures in rings and decoders.
    Memory,
    /// Sessions of the video encoder.
    Encoder,
}

impl Ceiling {
    /// Every ceiling.
    pub const ALL: [Ceiling; 5] =
        [Ceiling::Engine, Ceiling::Decode, Ceiling::Nvdec, Ceiling::Memory, Ceiling::Encoder];

    /// The word of API, log and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Ceiling::Engine => "engine",
            Ceiling::Decode => "decode",
            Ceiling::Nvdec => "nvdec",
            Ceiling::Memory => "memory",
            Ceiling::Encoder => "encoder",
        }
    }
}

/// What was measured of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// S(b) on cores that do nothing else.
    pub curve: Curve,
    /// The batch that the engine is used with, at most.
    pub batch: usize,
    /// CPU cores.
    pub cores: f64,
    /// Those that a run keeps busy; 0 for an engine that is not on the CPU.
    pub engine_cores: f64,
    /// CPU seconds to receive and decode a pixel; `None`: not known, decoding is not counted.
    pub decode: Option<f64>,
    /// Seconds that all video decoders of the GPU together need for a pixel; `None`: not known, or there are none.
    pub nvdec: Option<f64>,
    /// Bytes that are free for cameras; `None`: not known, not counted.
    pub memory: Option<f64>,
    /// The same on the GPU, where the engine is not on the CPU, and pictures with it; `None`: not known, not counted.
    pub gpu_memory: Option<f64>,
    /// Cameras whose annotated video can still be encoded; `None`: there is no limit, or nothing is encoded.
    pub encoders: Option<u32>,
}

/// One camera's stream.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Frames a second, all of which are decoded.
    pub fps: f64,
    /// Those of them that the engine is asked for: `max_fps` may be fewer.
    pub inferred: f64,
    /// Pixels of a frame.
    pub pixels: f64,
    /// `ring_buffer_ms`.
    pub ring: Duration,
}

impl Stream {
    /// Bytes of its pictures, at most. An estimate: a decoder that keeps more of them needs more.
    pub fn pictures(&self) -> f64 {
        // `max_fps` leaves pictures out before the ring.
        let pictures = (self.ring.as_secs_f64() * self.inferred).ceil() + DECODER_PICTURES;
        pictures * PICTURE_BYTES * self.pixels
    }

    /// Bytes that it holds at most where its pictures are in main memory.
    pub fn memory(&self) -> f64 {
        PIPELINE_BYTES + self.pictures()
    }
}

/// What is asked of a machine.
#[derive(Clone, Copy, Debug, Default)]
struct Need {
    /// λ, frames/s.
    frames: f64,
    /// D, cores.
    decode: f64,
    /// N.
    nvdec: f64,
    /// Bytes more than now.
    memory: f64,
    /// The same on the GPU.
    gpu_memory: f64,
    /// Encoded streams more than now.
    encoded: f64,
}

impl Need {
    fn times(self, n: f64) -> Need {
        Need {
            frames: n * self.frames,
            decode: n * self.decode,
            nvdec: n * self.nvdec,
            memory: n * self.memory,
            gpu_memory: n * self.gpu_memory,
            encoded: n * self.encoded,
        }
    }
}

/// The mean over all of these; 0 of none.
pub fn mean<T>(all: &[T], of: impl Fn(&T) -> f64) -> f64 {
    all.iter().map(of).sum::<f64>() / all.len().max(1) as f64
}

impl Machine {
    /// C: the engine's rate on idle cores, frames/s.
    pub fn rate(&self) -> f64 {
        if self.curve.rungs().is_empty() { 0.0 } else { self.curve.rate(self.batch.max(1)) }
    }

    /// D of streams that come at `pixels` a second: cores.
    pub fn decode_load(&self, pixels: f64) -> f64 {
        pixels * self.decode.unwrap_or(0.0)
    }

    /// N of streams that come at `pixels` a second.
    pub fn nvdec_load(&self, pixels: f64) -> f64 {
        pixels * self.nvdec.unwrap_or(0.0)
    }

    /// The part of the engine's cores that decoding takes when it needs `decode` cores, 0..=1.
    pub fn taken(&self, decode: f64) -> f64 {
        if self.engine_cores <= 0.0 {
            return 0.0;
        }
        let others = (self.cores - self.engine_cores).max(0.0);
        ((decode - others) / self.engine_cores).clamp(0.0, 1.0)
    }

    /// Frames a second at [`RHO_MAX`] beside so much decoding.
    pub fn budget(&self, decode: f64) -> f64 {
        RHO_MAX * self.rate() * (1.0 - self.taken(decode))
    }

    /// ρ of λ frames a second beside so much decoding: 1 is an engine that never rests.
    pub fn rho(&self, frames: f64, decode: f64) -> f64 {
        frames / (self.rate() * (1.0 - self.taken(decode))).max(1e-9)
    }

    /// S(b) as it is beside so much decoding.
    pub fn slowed(&self, decode: f64) -> Curve {
        self.curve.scaled(1.0 / (1.0 - self.taken(decode)).max(0.01))
    }

    /// Main memory that a stream needs.
    pub fn host_bytes(&self, stream: &Stream) -> f64 {
        if self.engine_cores > 0.0 { stream.memory() } else { PIPELINE_BYTES }
    }

    fn binding(&self, need: &Need) -> Option<Ceiling> {
        let over = |free: Option<f64>, need: f64| free.is_some_and(|free| need > free);
        if over(self.memory, need.memory) || over(self.gpu_memory, need.gpu_memory) {
            return Some(Ceiling::Memory);
        }
        if self.encoders.is_some_and(|left| need.encoded > f64::from(left)) {
            return Some(Ceiling::Encoder);
        }
        if need.nvdec > RHO_MAX {
            return Some(Ceiling::Nvdec);
        }
        if need.decode > RHO_MAX * self.cores {
            return Some(Ceiling::Decode);
        }
        (need.frames > self.budget(need.decode)).then(|| self.heavier(need.frames, need.decode))
    }

    /// Of engine and decode the one to blame: on shared cores the one that uses more of them.
    pub fn heavier(&self, frames: f64, decode: f64) -> Ceiling {
        let decode_part = if self.engine_cores > 0.0 { self.taken(decode) } else { decode / self.cores };
        let engine_part = frames / self.rate().max(1e-9);
        if decode_part > engine_part { Ceiling::Decode } else { Ceiling::Engine }
    }

    /// What a camera of these needs, in the mean.
    fn need(&self, streams: &[Stream]) -> Need {
        let pixels = mean(streams, |stream| stream.fps * stream.pixels);
        Need {
            frames: mean(streams, |stream| stream.inferred),
            decode: self.decode_load(pixels),
            nvdec: self.nvdec_load(pixels),
            memory: mean(streams, |stream| self.host_bytes(stream)),
            gpu_memory: mean(streams, Stream::pictures),
            encoded: 0.0,
        }
    }

    /// Do `count` cameras fit, these streams in equal parts? If not, what binds.
    pub fn fits(&self, count: u32, streams: &[Stream]) -> Option<Ceiling> {
        self.binding(&self.need(streams).times(f64::from(count)))
    }

    /// How many such cameras fit, and what binds the next one.
    pub fn most(&self, streams: &[Stream]) -> (u32, Ceiling) {
        let need = self.need(streams);
        let fits = |count: u32| self.binding(&need.times(f64::from(count)));
        // Each need grows with the number, so halving finds the border.
        let (mut fit, mut too_many) = (0, 1 << 20);
        while too_many - fit > 1 {
            let middle = fit + (too_many - fit) / 2;
            match fits(middle) {
                None => fit = middle,
                Some(_) => too_many = middle,
            }
        }
        (fit, fits(too_many).unwrap_or(Ceiling::Engine))
    }

    /// How many would fit if only this ceiling were there; `None` where it is not known.
    pub fn most_by(&self, ceiling: Ceiling, streams: &[Stream]) -> Option<u32> {
        let need = self.need(streams);
        let whole = |n: f64| n.clamp(0.0, f64::from(1 << 20)) as u32;
        match ceiling {
            Ceiling::Engine => Some(whole(RHO_MAX * self.rate() / need.frames)),
            Ceiling::Decode => self.decode.map(|_| whole(RHO_MAX * self.cores / need.decode)),
            Ceiling::Nvdec => self.nvdec.map(|_| whole(RHO_MAX / need.nvdec)),
            Ceiling::Memory => {
                let host = self.memory.map(|free| free / need.memory);
                let gpu = self.gpu_memory.map(|free| free / need.gpu_memory);
                [host, gpu].into_iter().flatten().reduce(f64::min).map(whole)
            }
            // Who is not watched needs none.
            Ceiling::Encoder => None,
        }
    }

    /// May `asked` come, beside `load`?
    ///
    /// What decoding or memory cannot take is refused, since a camera is decoded at its own rate. Where only the engine is short,
    /// the answer is the rate that fits into what is left, the same for each of the `count`; below [`LEAST_FPS`] it is no.
    /// Bulk yields to realtime, so a realtime camera sees bulk's load only as far as `bulk_share` guarantees it.
    pub fn admit(&self, asked: &Asked, load: &Load) -> Verdict {
        let count = f64::from(asked.count.max(1));
        let there = match asked.priority {
            Priority::Bulk => load.realtime + load.bulk,
            Priority::Realtime => {
                let share = load.bulk_share / (1.0 + load.bulk_share);
                load.realtime + load.bulk.min(share * self.budget(load.decode))
            }
        };
        let pixels = count * asked.stream.fps * asked.stream.pixels;
        let added = self.decode_load(pixels);
        let at = |fps: f64| Need {
            frames: there + count * fps,
            decode: load.decode + added,
            nvdec: load.nvdec + self.nvdec_load(pixels),
            memory: count * self.host_bytes(&asked.stream),
            gpu_memory: count * asked.stream.pictures(),
            encoded: f64::from(asked.encoded),
        };
        let Some(ceiling) = self.binding(&at(asked.stream.inferred)) else { return Verdict::Accept };
        // A tenth of a frame a second is as exact as this can be; rounded down.
        let left = (self.budget(load.decode + added) - there) / count;
        let fps = (left * 10.0).floor() / 10.0;
        if fps >= LEAST_FPS && self.binding(&at(fps)).is_none() {
            return Verdict::AcceptAt(fps);
        }
        // Viewers go, too.
        let alone = ceiling == Ceiling::Encoder || self.fits(asked.count.max(1), &[asked.stream]).is_none();
        Verdict::Refuse { ceiling, retry_after: if alone { SOON } else { LATE } }
    }
}

/// Cameras that would like to come.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// What each of them sends.
    pub stream: Stream,
    /// How many, at least 1.
    pub count: u32,
    /// Their class.
    pub priority: Priority,
    /// How many of them are encoded all the time.
    pub encoded: u32,
}

/// What is there already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// λ of realtime cameras and requests, frames/s.
    pub realtime: f64,
    /// λ of bulk.
    pub bulk: f64,
    /// `[batcher] bulk_share`.
    pub bulk_share: f64,
    /// D, cores.
    pub decode: f64,
    /// N.
    pub nvdec: f64,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// All of it fits.
    Accept,
    /// So many frames a second of each camera do.
    AcceptAt(f64),
    /// It does not.
    Refuse {
        /// What binds.
        ceiling: Ceiling,
        /// When another answer is possible.
        retry_after: Duration,
    },
}

/// What one camera asks of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Frames a second, after its own `max_fps`.
    pub fps: f64,
    /// Its weight in its class, at least 1.
    pub weight: u32,
    /// Its class.
    pub priority: Priority,
}

/// What each camera gets of an engine of `rate` frames/s: what the batcher's turns come to in the long run. Realtime first, bulk the rest and at least
/// its share; within a class max-min fair by weight (Bertsekas and Gallager, *Data Networks*, §6.5.2): nobody gets more than it
/// asks for, and what is left goes evenly to those that ask for more.
pub fn fair(rate: f64, demands: &[Demand], bulk_share: f64) -> Vec<f64> {
    let of = |class: Priority| move |d: &&Demand| d.priority == class;
    let wanted = |class| demands.iter().filter(of(class)).map(|d| d.fps).sum::<f64>();
    // Each realtime turn earns bulk `bulk_share` of a turn.
    let guaranteed = rate * bulk_share / (1.0 + bulk_share);
    let bulk = wanted(Priority::Bulk).min((rate - wanted(Priority::Realtime)).max(guaranteed));
    let levels = [(Priority::Realtime, rate - bulk), (Priority::Bulk, bulk)]
        .map(|(class, part)| (class, level(part, demands.iter().filter(of(class)))));
    let level_of = |d: &Demand| levels.iter().find(|(class, _)| *class == d.priority).map_or(0.0, |l| l.1);
    demands.iter().map(|d| d.fps.min(level_of(d) * f64::from(d.weight))).collect()
}

/// The water level: frames a second and unit of weight at which `part` is used up.
fn level<'a>(part: f64, demands: impl Iterator<Item = &'a Demand>) -> f64 {
    let mut all: Vec<(f64, f64)> = demands.map(|d| (d.fps, f64::from(d.weight.max(1)))).collect();
    all.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    let (mut left, mut weight) = (part, all.iter().map(|d| d.1).sum::<f64>());
    for (fps, own) in all {
        if fps * weight > left * own {
            return left / weight;
        }
        left -= fps;
        weight -= own;
    }
    f64::INFINITY
}

/// Settings for a machine and a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recommended {
    /// The largest batch whose two runs and `base` fit into nine tenths of the target; the largest useful one where none does.
    pub max_batch_frames: usize,
    /// What the target leaves for waiting, and no more than a run, as waiting longer never pays.
    pub max_wait: Duration,
    /// Long enough for the wait, two runs, and a backlog of three frames.
    pub ring: Duration,
    /// Does any batch keep the target?
    pub reachable: bool,
}

/// Recommends settings. `base` is what frames have behind them when they reach their ring, p95; `limit` the largest batch that may be.
pub fn recommend(curve: &Curve, limit: usize, base: Duration, target: Duration, fps: f64) -> Recommended {
    let most = curve.largest_useful().min(limit).max(1);
    let aim = target.mul_f64(AIM);
    let fits = |frames: usize| base + 2 * curve.service(frames) <= aim;
    let batch = curve.rungs().iter().map(|rung| rung.frames).rfind(|frames| *frames <= most && fits(*frames));
    let reachable = batch.is_some();
    let batch = batch.unwrap_or(most);
    let service = curve.service(batch);
    // Alone in its batch, nobody waits for anybody.
    let wait = if batch == 1 { Duration::ZERO } else { aim.saturating_sub(base + 2 * service).min(service) };
    let wait = Duration::from_millis(wait.as_millis() as u64);
    let ring = (wait + 2 * service + Duration::from_secs_f64(3.0 / fps.max(0.01))).max(2 * wait);
    let ring = Duration::from_millis((ring.as_millis() as u64).div_ceil(50).max(2) * 50).min(MOST_RING);
    Recommended { max_batch_frames: batch, max_wait: wait, ring, reachable }
}

/// Price of an hour of a camera when `cameras` share a machine; `None` when none fits.
pub fn camera_hour(price_per_hour: f64, cameras: u32) -> Option<f64> {
    (cameras > 0).then(|| price_per_hour / f64::from(cameras))
}

#[cfg(test)]
mod tests;
