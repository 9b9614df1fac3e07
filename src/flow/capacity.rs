//! How much a machine can take: cameras that fit, what binds, what one more would do, how an overload is shared. Pure
//! arithmetic on what was measured; who measures is [`crate::admission`] and [`crate::plan`].
//!
//! | symbol | unit | from |
//! |---|---|---|
//! | S(b) | s | the [`Curve`], on cores that do nothing else |
//! | C = b/S(b) | frames/s | the engine's rate at the batch that it is used with |
//! | λ | frames/s | what cameras ask of the engine |
//! | D | cores | CPU seconds that decoding uses in a second: Σ fps · pixels · cost |
//!
//! **Engine.** ρ = λ·S(b)/b = λ/C must stay below [`RHO_MAX`]: a queue grows like ρ/(1−ρ), so the last third of an engine buys few
//! frames and much latency. **Decode.** D must stay below the same part of all cores. **Shared cores.** On a CPU box both
//! live on the same cores, and decoders go first (the engine's threads are niced). So what decoding takes of the engine's cores
//! ([`Machine::taken`]) is missing there: the engine's rate is C·(1 − taken), and ρ counts against that. An engine that has only
//! some of the cores loses nothing until decoding has filled the others. **Memory.** A ring full of pictures and the
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
    /// Pictures in rings and decoders.
    Memory,
    /// Sessions of the video encoder.
    Encoder,
}

impl Ceiling {
    /// Every ceiling.
    pub const ALL: [Ceiling; 4] = [Ceiling::Engine, Ceiling::Decode, Ceiling::Memory, Ceiling::Encoder];

    /// The word of API, log and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Ceiling::Engine => "engine",
            Ceiling::Decode => "decode",
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
    /// Bytes that are free for cameras; `None`: not known, not counted.
    pub memory: Option<f64>,
    /// The same on the GPU; `None`: pictures are in main memory.
    pub gpu_memory: Option<f64>,
    /// Video streams that can still be encoded; `None`: none is encoded, or there is no limit.
    pub encoders: Option<u32>,
}

/// One camera's stream.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Frames a second, all of which are decoded and inferred.
    pub fps: f64,
    /// Pixels of a frame.
    pub pixels: f64,
    /// `ring_buffer_ms`.
    pub ring: Duration,
}

impl Stream {
    /// Bytes of its pictures, at most. An estimate: a decoder that keeps more of them needs more.
    pub fn pictures(&self) -> f64 {
        let pictures = (self.ring.as_secs_f64() * self.fps).ceil() + DECODER_PICTURES;
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
    /// Bytes more than now.
    memory: f64,
    /// The same on the GPU.
    gpu_memory: f64,
    /// Encoded streams more than now.
    encoded: u32,
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
    fn host_bytes(&self, stream: &Stream) -> f64 {
        if self.gpu_memory.is_some() { PIPELINE_BYTES } else { stream.memory() }
    }

    fn binding(&self, need: &Need) -> Option<Ceiling> {
        let over = |free: Option<f64>, need: f64| free.is_some_and(|free| need > free);
        if over(self.memory, need.memory) || over(self.gpu_memory, need.gpu_memory) {
            return Some(Ceiling::Memory);
        }
        if self.encoders.is_some_and(|left| need.encoded > left) {
            return Some(Ceiling::Encoder);
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

    /// Do `count` such cameras fit? If not, what binds.
    pub fn fits(&self, count: u32, stream: &Stream) -> Option<Ceiling> {
        let n = f64::from(count);
        self.binding(&Need {
            frames: n * stream.fps,
            decode: self.decode_load(n * stream.fps * stream.pixels),
            memory: n * self.host_bytes(stream),
            gpu_memory: n * stream.pictures(),
            encoded: if self.encoders.is_some() { count } else { 0 },
        })
    }

    /// How many such cameras fit, and what binds the next one.
    pub fn most(&self, stream: &Stream) -> (u32, Ceiling) {
        // Each need grows with the number, so halving finds the border.
        let (mut fit, mut too_many) = (0, 1 << 20);
        while too_many - fit > 1 {
            let middle = fit + (too_many - fit) / 2;
            match self.fits(middle, stream) {
                None => fit = middle,
                Some(_) => too_many = middle,
            }
        }
        (fit, self.fits(too_many, stream).unwrap_or(Ceiling::Engine))
    }

    /// How many would fit if only this ceiling were there; `None` where it is not known.
    pub fn most_by(&self, ceiling: Ceiling, stream: &Stream) -> Option<u32> {
        let whole = |n: f64| n.clamp(0.0, f64::from(1 << 20)) as u32;
        match ceiling {
            Ceiling::Engine => Some(whole(RHO_MAX * self.rate() / stream.fps)),
            Ceiling::Decode => {
                self.decode.map(|cost| whole(RHO_MAX * self.cores / (stream.fps * stream.pixels * cost)))
            }
            Ceiling::Memory => {
                let host = self.memory.map(|free| free / self.host_bytes(stream));
                let gpu = self.gpu_memory.map(|free| free / stream.pictures());
                [host, gpu].into_iter().flatten().reduce(f64::min).map(whole)
            }
            Ceiling::Encoder => self.encoders,
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
        let added = self.decode_load(count * asked.stream.fps * asked.stream.pixels);
        let at = |fps: f64| Need {
            frames: there + count * fps,
            decode: load.decode + added,
            memory: count * self.host_bytes(&asked.stream),
            gpu_memory: count * asked.stream.pictures(),
            encoded: if self.encoders.is_some() { asked.count } else { 0 },
        };
        let Some(ceiling) = self.binding(&at(asked.stream.fps)) else { return Verdict::Accept };
        // A tenth of a frame a second is as exact as this can be; rounded down.
        let left = (self.budget(load.decode + added) - there) / count;
        let fps = (left * 10.0).floor() / 10.0;
        if fps >= LEAST_FPS && self.binding(&at(fps)).is_none() {
            return Verdict::AcceptAt(fps);
        }
        let alone = self.fits(asked.count.max(1), &asked.stream).is_none();
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
    let ring = Duration::from_millis((ring.as_millis() as u64).div_ceil(50).max(2) * 50);
    Recommended { max_batch_frames: batch, max_wait: wait, ring, reachable }
}

/// Price of an hour of a camera when `cameras` share a machine; `None` when none fits.
pub fn camera_hour(price_per_hour: f64, cameras: u32) -> Option<f64> {
    (cameras > 0).then(|| price_per_hour / f64::from(cameras))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::curve::Rung;

    fn curve(rungs: &[(usize, f64)]) -> Curve {
        let rung = |&(frames, ms): &(usize, f64)| Rung { frames, service: Duration::from_secs_f64(ms / 1e3) };
        Curve::new(&rungs.iter().map(rung).collect::<Vec<_>>())
    }

    const FULL_HD: f64 = 1920.0 * 1080.0;

    fn stream(fps: f64) -> Stream {
        Stream { fps, pixels: FULL_HD, ring: Duration::from_millis(300) }
    }

    /// Two cores, 20 ms a frame, 4.9 ms of decoding a 1080p frame.
    fn cpu() -> Machine {
        Machine {
            curve: curve(&[(1, 20.0), (2, 40.0)]),
            batch: 1,
            cores: 2.0,
            engine_cores: 2.0,
            decode: Some(0.0049 / FULL_HD),
            memory: None,
            gpu_memory: None,
            encoders: None,
        }
    }

    #[test]
    fn on_shared_cores_decoding_slows_the_engine() {
        let machine = cpu();
        // 10 fps: 49 ms of 2 cores each second are 2.45 % a camera. n·10 ≤ 0.7·50·(1 − 0.0245 n) → n ≤ 3.2.
        assert_eq!(machine.most(&stream(10.0)), (3, Ceiling::Engine));
        assert_eq!(machine.most_by(Ceiling::Engine, &stream(10.0)), Some(3));
        assert_eq!(machine.most_by(Ceiling::Decode, &stream(10.0)), Some(28));
        // An engine elsewhere leaves the cores to the decoders.
        let gpu = Machine { engine_cores: 0.0, curve: curve(&[(1, 1.0)]), ..machine };
        assert_eq!(gpu.most(&stream(10.0)), (28, Ceiling::Decode));
        // One thread of two: the first core's worth of decoding is free.
        let half = Machine { engine_cores: 1.0, ..machine };
        assert_eq!((half.taken(1.0), half.taken(1.5)), (0.0, 0.5));
        assert!((machine.slowed(1.0).service(1).as_secs_f64() - 0.040).abs() < 1e-9);
    }

    #[test]
    fn memory_and_encoder_bind_where_they_are_short() {
        let fast = Machine { curve: curve(&[(1, 0.01)]), engine_cores: 0.0, decode: None, ..cpu() };
        let one = stream(10.0).memory();
        assert_eq!(Machine { memory: Some(5.5 * one), ..fast }.most(&stream(10.0)), (5, Ceiling::Memory));
        // Pictures on the GPU are not in main memory, and each of the two can be full.
        let pictures = stream(10.0).pictures();
        let gpu = |memory: f64, gpu: f64| Machine { memory: Some(memory), gpu_memory: Some(gpu), ..fast };
        assert_eq!(gpu(5.5 * one, 7.5 * pictures).most(&stream(10.0)), (7, Ceiling::Memory));
        assert_eq!(gpu(5.5 * one, 7.5 * pictures).most_by(Ceiling::Memory, &stream(10.0)), Some(7));
        assert_eq!(gpu(3.5 * PIPELINE_BYTES, 7.5 * pictures).most(&stream(10.0)), (3, Ceiling::Memory));
        assert_eq!(Machine { encoders: Some(3), ..fast }.most(&stream(10.0)), (3, Ceiling::Encoder));
    }

    #[test]
    fn the_recommendation_keeps_the_target_or_says_that_none_does() {
        let gpu = curve(&[(1, 5.0), (2, 6.0), (4, 8.0), (8, 12.0), (16, 20.0), (32, 36.0)]);
        let ms = Duration::from_millis;
        let got = recommend(&gpu, 32, ms(5), ms(60), 30.0);
        // 5 + 2·20 ≤ 54 < 5 + 2·36; 9 ms are left; 9 + 40 + 100 ms, in steps of 50.
        let want = Recommended { max_batch_frames: 16, max_wait: ms(9), ring: ms(150), reachable: true };
        assert_eq!(got, want);
        let none = recommend(&gpu, 32, ms(5), ms(10), 30.0);
        assert_eq!((none.max_batch_frames, none.max_wait, none.reachable), (32, ms(0), false));
    }

    #[test]
    fn what_is_left_is_offered_after_decoding_and_after_bulk_has_yielded() {
        let ask = |fps: f64, machine: Machine, load: Load| {
            machine.admit(&Asked { stream: stream(fps), count: 1, priority: Priority::Realtime }, &load)
        };
        // Decoding 20 fps takes 4.9 % of both cores: 0.7·50·0.951 − 20 = 13.285.
        let load = Load { realtime: 20.0, bulk_share: 0.05, ..Load::default() };
        assert_eq!(ask(20.0, cpu(), load), Verdict::AcceptAt(13.2));
        assert_eq!(ask(13.0, cpu(), load), Verdict::Accept);
        // Bulk asks for 30, of which a twentieth of realtime's part is guaranteed: 35 − 35/21 = 33.33.
        let load = Load { bulk: 30.0, bulk_share: 0.05, ..Load::default() };
        assert_eq!(ask(40.0, Machine { decode: None, ..cpu() }, load), Verdict::AcceptAt(33.3));
        // Another moment helps against load, and not against a stream that is too much for the machine.
        let full = Load { realtime: 35.0, ..Load::default() };
        let after = |verdict| match verdict {
            Verdict::Refuse { ceiling: Ceiling::Engine, retry_after } => retry_after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after(ask(20.0, cpu(), full)), SOON);
        assert_eq!(after(ask(60.0, cpu(), full)), LATE);
    }

    #[test]
    fn a_price_is_shared() {
        assert_eq!((camera_hour(1.2, 4), camera_hour(1.2, 0)), (Some(0.3), None));
    }

    // Loads are of the machine's size, so that every kind of answer comes.
    prop_compose! {
        fn machine()(
            first in 1.0f64..50.0, more in 0.0f64..20.0, cores in 1.0f64..64.0,
            on_cpu in prop_oneof![Just(0.0), 0.0f64..=1.0],
            cost in proptest::option::of(1e-10f64..3e-9), memory in proptest::option::of(1e7f64..1e10),
            gpu_memory in proptest::option::of(1e7f64..1e10), batch in 1usize..=8,
        ) -> Machine {
            let rungs = [1usize, 2, 4, 8].map(|b| (b, first + more * (b - 1) as f64));
            Machine {
                curve: curve(&rungs), batch, cores, engine_cores: on_cpu * cores, decode: cost, memory, gpu_memory,
                encoders: None,
            }
        }
    }

    prop_compose! {
        fn asked()(fps in 1.0f64..40.0, pixels in 1e5f64..4e6, count in 1u32..6, bulk: bool) -> Asked {
            let priority = if bulk { Priority::Bulk } else { Priority::Realtime };
            Asked { stream: Stream { fps, pixels, ring: Duration::from_millis(300) }, count, priority }
        }
    }

    prop_compose! {
        fn load()(realtime in 0.0f64..80.0, bulk in 0.0f64..80.0, decode in 0.0f64..8.0) -> Load {
            Load { realtime, bulk, bulk_share: 0.05, decode }
        }
    }

    /// Refused 0, accepted at so many frames a second, or all of it.
    fn rank(verdict: Verdict) -> f64 {
        match verdict {
            Verdict::Accept => f64::INFINITY,
            Verdict::AcceptAt(fps) => fps,
            Verdict::Refuse { .. } => 0.0,
        }
    }

    proptest! {
        /// What is let in fits, beside the load that does not yield to it: engine, decoders and memory.
        #[test]
        fn a_verdict_never_exceeds_the_capacity(machine in machine(), asked in asked(), load in load()) {
            let fps = match machine.admit(&asked, &load) {
                Verdict::Accept => asked.stream.fps,
                Verdict::AcceptAt(fps) => { prop_assert!(fps >= LEAST_FPS && fps < asked.stream.fps); fps }
                Verdict::Refuse { .. } => return Ok(()),
            };
            let n = f64::from(asked.count);
            let cost = machine.decode.unwrap_or(0.0);
            let cores = load.decode + n * asked.stream.fps * asked.stream.pixels * cost;
            prop_assert!(cores <= 0.7 * machine.cores);
            let free = machine.cores - machine.engine_cores;
            let lost = if machine.engine_cores > 0.0 { ((cores - free) / machine.engine_cores).max(0.0) } else { 0.0 };
            let stays = load.realtime + if asked.priority == Priority::Bulk { load.bulk } else { 0.0 };
            let rate = machine.batch as f64 / machine.curve.service(machine.batch).as_secs_f64();
            prop_assert!(stays + n * fps <= 0.7 * rate * (1.0 - lost) + 1e-6);
            // Where pictures are on the GPU, only the pipeline is in main memory.
            let host = if machine.gpu_memory.is_some() { PIPELINE_BYTES } else { asked.stream.memory() };
            prop_assert!(machine.memory.is_none_or(|free| n * host <= free));
            prop_assert!(machine.gpu_memory.is_none_or(|free| n * asked.stream.pictures() <= free));
        }

        /// More load, of any kind, or more cameras never make an answer better.
        #[test]
        fn more_load_never_makes_a_verdict_better(
            machine in machine(), asked in asked(), load in load(), more in load(), cameras in 0u32..20,
        ) {
            let before = rank(machine.admit(&asked, &load));
            let heavier = Load {
                realtime: load.realtime + more.realtime,
                bulk: load.bulk + more.bulk,
                bulk_share: load.bulk_share,
                decode: load.decode + more.decode,
            };
            let after = rank(machine.admit(&Asked { count: asked.count + cameras, ..asked }, &heavier));
            prop_assert!(after <= before, "{before} became {after}");
        }

        /// The largest number that fits does, and one more does not.
        #[test]
        fn the_most_that_fit_is_the_border(machine in machine(), asked in asked()) {
            let (most, ceiling) = machine.most(&asked.stream);
            prop_assert!(most == 0 || machine.fits(most, &asked.stream).is_none());
            prop_assert_eq!(machine.fits(most + 1, &asked.stream), Some(ceiling));
        }

        /// Nobody gets more than it asks for, the engine is used up where somebody gets less, and of two of a class that both get
        /// less, each gets the same a weight; who gets all it asks for gets no more than those.
        #[test]
        fn an_overload_is_shared_evenly_within_a_class(
            rate in 1.0f64..500.0, of in proptest::collection::vec((0.1f64..60.0, 1u32..4, any::<bool>()), 1..30),
        ) {
            let demands: Vec<Demand> = of.iter().map(|&(fps, weight, bulk)| Demand {
                fps, weight, priority: if bulk { Priority::Bulk } else { Priority::Realtime },
            }).collect();
            let got = fair(rate, &demands, 0.05);
            let short = |i: usize| got[i] < demands[i].fps - 1e-9;
            prop_assert!(got.iter().zip(&demands).all(|(got, d)| *got <= d.fps + 1e-9));
            let sum: f64 = got.iter().sum();
            prop_assert!(sum <= rate + 1e-6);
            prop_assert!(!(0..got.len()).any(short) || sum >= rate - 1e-6, "{sum} of {rate}");
            for i in 0..got.len() {
                for k in 0..got.len() {
                    if demands[i].priority == demands[k].priority && short(i) {
                        let level = |n: usize| got[n] / f64::from(demands[n].weight);
                        prop_assert!(level(k) <= level(i) + 1e-9);
                    }
                }
            }
            let bulk_short = (0..got.len()).any(|i| demands[i].priority == Priority::Bulk && short(i));
            if bulk_short {
                let bulk: f64 = (0..got.len()).filter(|i| demands[*i].priority == Priority::Bulk).map(|i| got[i]).sum();
                prop_assert!(bulk >= rate * 0.05 / 1.05 - 1e-6);
            }
        }
    }
}
