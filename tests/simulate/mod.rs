//! A simulator around the real flow code: cameras that deliver as real ones do, one engine with a measured service
//! curve, virtual time. It jumps from event to event, so a minute of 2,000 cameras takes seconds, and it is exact: no
//! clock, no thread.
//!
//! A frame *arrives*, is decoded for some milliseconds, waits in its ring, runs, and is analysed; latency counts from its arrival, as
//! in the daemon.

#![allow(dead_code, reason = "each user of the simulator needs a part of it")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use weir::clock::Tick;
use weir::config::{DropPolicy, Priority};
use weir::flow::batch::{Batcher, CameraSettings, Settings, Step, Wait};
use weir::flow::curve::{Curve, Rung};
use weir::flow::pace::{ENOUGH, EVERY, Objective, Pace, Pacer};
use weir::flow::window::Window;
use weir::frame::{CameraId, Fate, FrameKey};

/// What a frame has behind it between its arrival and its ring, at most: it is drawn from half of this up.
const DECODE_MS: f64 = 10.0;
/// Analysis, after the engine.
const ANALYSE: Duration = Duration::from_millis(1);
/// Runs take up to this part more or less than the curve says.
const NOISE: f64 = 0.05;

pub fn ms(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1e3)
}

/// When a camera delivers.
#[derive(Clone, Copy, Debug)]
pub enum Arrivals {
    /// As regular as a clock, with a millisecond of jitter.
    Steady,
    /// Each gap is off by up to this part of it.
    Jittered(f64),
    /// A Poisson process: the worst that a network makes of a stream.
    Poisson,
    /// Pauses for 450 ms at each key frame, every two seconds, and hands over at once what it owes.
    Bursty,
    /// Steady, but silent between these two moments, in seconds.
    Stalled(f64, f64),
}

#[derive(Clone, Debug)]
pub struct Camera {
    pub fps: f64,
    pub arrivals: Arrivals,
    pub settings: CameraSettings,
}

impl Camera {
    pub fn new(fps: f64, arrivals: Arrivals) -> Self {
        // As the daemon: a ring's time at 120 fps, so that a burst fits.
        Camera { fps, arrivals, settings: CameraSettings { max_frames: 36, ..CameraSettings::default() } }
    }

    pub fn bulk(mut self) -> Self {
        self.settings.priority = Priority::Bulk;
        self
    }

    pub fn policy(mut self, policy: DropPolicy) -> Self {
        self.settings.drop_policy = policy;
        self
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Steering {
    /// Waits for company up to this long, whether it pays or not; batches up to so many frames.
    Fixed { wait: Duration, slots: usize },
    /// By the pacer.
    Paced { target: Duration },
}

pub struct World {
    pub cameras: Vec<Camera>,
    pub curve: Curve,
    pub steering: Steering,
    pub seconds: f64,
    /// From these moments on (seconds), rates are multiplied by this.
    pub steps: Vec<(f64, f64)>,
    pub seed: u64,
}

impl World {
    pub fn new(cameras: Vec<Camera>, curve: &Curve, steering: Steering) -> Self {
        World { cameras, curve: *curve, steering, seconds: 20.0, steps: Vec::new(), seed: 1 }
    }
}

/// A frame that was inferred.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    pub camera: usize,
    pub at: Tick,
    pub latency: Duration,
    pub batch: usize,
}

#[derive(Default)]
pub struct Outcome {
    pub came: Vec<u64>,
    pub done: Vec<Done>,
    /// By camera.
    pub fates: Vec<[u64; Fate::ALL.len()]>,
    pub in_flight: u64,
    /// Batches: when, frames, slots.
    pub batches: Vec<(Tick, usize, usize)>,
    pub paces: Vec<(Tick, Pace)>,
    pub busy: Duration,
    pub seconds: f64,
    /// ∫ frames in the system dt, in frame·seconds.
    pub integral: f64,
    /// Σ time in the system of those that left.
    pub sojourn: f64,
}

/// The time before which nothing counts: intervals are being learnt.
pub const WARM: f64 = 3.0;

impl Outcome {
    fn settled(&self) -> impl Iterator<Item = &Done> {
        self.done.iter().filter(|done| done.at.as_nanos() as f64 >= WARM * 1e9)
    }

    /// A percentile in ms over the frames of these cameras in this span of seconds.
    pub fn percentile(&self, q: f64, of: impl Fn(usize) -> bool, from: f64, to: f64) -> f64 {
        let inside = |at: Tick| (from * 1e9..to * 1e9).contains(&(at.as_nanos() as f64));
        let mut all: Vec<Duration> =
            self.done.iter().filter(|d| of(d.camera) && inside(d.at)).map(|d| d.latency).collect();
        all.sort_unstable();
        let rank = ((q * all.len() as f64).ceil() as usize).saturating_sub(1);
        all.get(rank).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }

    pub fn p95(&self) -> f64 {
        self.percentile(0.95, |_| true, WARM, f64::INFINITY)
    }

    pub fn p50(&self) -> f64 {
        self.percentile(0.50, |_| true, WARM, f64::INFINITY)
    }

    /// Inferred frames a second.
    pub fn goodput(&self) -> f64 {
        self.settled().count() as f64 / (self.seconds - WARM)
    }

    /// Inferred frames a second of one camera.
    pub fn rate(&self, camera: usize) -> f64 {
        self.settled().filter(|done| done.camera == camera).count() as f64 / (self.seconds - WARM)
    }

    /// Frames a batch after the start.
    pub fn fill(&self) -> f64 {
        let late = self.batches.iter().filter(|(at, ..)| at.as_nanos() as f64 >= WARM * 1e9);
        let (batches, frames) =
            late.fold((0.0, 0.0), |(n, sum), (_, frames, _)| (n + 1.0, sum + *frames as f64));
        frames / f64::max(batches, 1.0)
    }

    /// Part of the frames that were lost.
    pub fn lost(&self) -> f64 {
        let came: u64 = self.came.iter().sum();
        1.0 - (self.done.len() as u64 + self.in_flight) as f64 / came.max(1) as f64
    }
}

struct Source {
    next: f64,
    decoded: Tick,
    seq: u64,
    /// Where in its two seconds the key frame lies.
    key_frame: f64,
}

impl World {
    fn factor(&self, at: f64) -> f64 {
        self.steps.iter().rev().find(|(from, _)| at >= *from).map_or(1.0, |(_, factor)| *factor)
    }

    /// When the frame after `at` seconds comes.
    fn after(&self, camera: &Camera, at: f64, rng: &mut fastrand::Rng) -> f64 {
        let gap = 1.0 / (camera.fps * self.factor(at));
        match camera.arrivals {
            Arrivals::Poisson => at - gap * (1.0 - rng.f64()).ln(),
            Arrivals::Jittered(part) => at + gap * (1.0 + part * (2.0 * rng.f64() - 1.0)),
            Arrivals::Stalled(from, to) if at + gap >= from && at + gap < to => to,
            _ => at + gap,
        }
    }

    /// When a frame that was taken at `at` arrives.
    fn arrival(camera: &Camera, at: f64, key_frame: f64, rng: &mut fastrand::Rng) -> f64 {
        let late = match camera.arrivals {
            Arrivals::Bursty => {
                let phase = (at + key_frame).rem_euclid(2.0);
                if phase < 0.45 { 0.45 - phase } else { 0.0 }
            }
            _ => 0.0,
        };
        at + late + 0.001 * rng.f64()
    }

    pub fn play(&self) -> Outcome {
        // Cameras draw from their own: what the engine does must not change what they deliver.
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut rngs: Vec<fastrand::Rng> = self.cameras.iter().map(|_| rng.fork()).collect();
        let max_wait = match self.steering {
            Steering::Fixed { wait, .. } => wait,
            Steering::Paced { .. } => ms(30.0),
        };
        let most = self.curve.rungs().last().map_or(1, |rung| rung.frames);
        let mut batcher = Batcher::new(Settings { max_batch_frames: most, max_wait, ..Settings::default() });
        for (id, camera) in self.cameras.iter().enumerate() {
            batcher.add_camera(CameraId(id as u32), camera.settings.clone());
        }
        let mut pacer = match self.steering {
            Steering::Paced { target } => {
                Some(Pacer::new(Objective { target, max_wait, max_batch: most }, self.curve))
            }
            Steering::Fixed { wait, .. } => {
                batcher.steer(Wait::Always(wait));
                None
            }
        };
        let mut window = Window::new(Duration::from_secs(1)).at_least(ENOUGH);
        let cameras = self.cameras.len();
        let mut out = Outcome {
            came: vec![0; cameras],
            fates: vec![[0; Fate::ALL.len()]; cameras],
            seconds: self.seconds,
            ..Outcome::default()
        };

        // What is going to enter a ring: (when, camera, seq, arrived).
        let mut sources: Vec<Source> = self
            .cameras
            .iter()
            .map(|camera| Source {
                next: rng.f64() / camera.fps,
                decoded: Tick::ZERO,
                seq: 0,
                key_frame: 2.0 * rng.f64(),
            })
            .collect();
        let mut heap = BinaryHeap::new();
        let tick = |seconds: f64| Tick::from_nanos((seconds * 1e9) as u64);
        let mut schedule = |id: usize, heap: &mut BinaryHeap<_>| {
            let (camera, source, rng) = (&self.cameras[id], &mut sources[id], &mut rngs[id]);
            let arrived = tick(Self::arrival(camera, source.next, source.key_frame, rng));
            let decode = ms(DECODE_MS * (0.5 + 0.5 * rng.f64()));
            source.decoded = (arrived + decode).max(source.decoded + Duration::from_nanos(1));
            heap.push(Reverse((source.decoded, id, source.seq, arrived)));
            source.seq += 1;
            source.next = self.after(camera, source.next, rng);
        };
        (0..cameras).for_each(|id| schedule(id, &mut heap));

        let end = tick(self.seconds);
        let (mut free_at, mut wake, mut look) = (None::<Tick>, None::<Tick>, Tick::ZERO + EVERY);
        let mut running: Vec<(FrameKey, (Tick, Tick))> = Vec::new();
        let (mut batch, mut dropped, mut entered) = (Vec::new(), Vec::new(), Tick::ZERO);
        let mut inside = 0u64;
        loop {
            let next = heap.peek().map(|Reverse((at, ..))| *at);
            let Some(now) = [next, free_at, wake, Some(look)].into_iter().flatten().min() else { break };
            if now > end {
                break;
            }
            out.integral += inside as f64 * now.since(entered).as_secs_f64();
            entered = now;
            if free_at == Some(now) {
                free_at = None;
                for (key, (arrived, decoded)) in running.drain(..) {
                    let id = key.camera.index();
                    let latency = now.since(arrived) + ANALYSE;
                    if self.cameras[id].settings.priority == Priority::Realtime {
                        window.note(now, latency);
                    }
                    let frames = out.batches.last().map_or(0, |(_, frames, _)| *frames);
                    out.done.push(Done { camera: id, at: now, latency, batch: frames });
                    out.fates[id][Fate::Inferred as usize] += 1;
                    out.sojourn += now.since(decoded).as_secs_f64();
                    inside -= 1;
                }
            }
            while let Some(Reverse((at, id, seq, arrived))) = heap.peek().copied().filter(|r| r.0.0 == now) {
                heap.pop();
                out.came[id] += 1;
                inside += 1;
                batcher.push(at, FrameKey { camera: CameraId(id as u32), seq }, (arrived, at));
                schedule(id, &mut heap);
            }
            if now >= look {
                look = now + EVERY;
                if let Some(pacer) = &mut pacer {
                    let pace = pacer.look(now, batcher.take_tally(), &mut window);
                    batcher.steer(pacer.wait());
                    out.paces.push((now, pace));
                }
            }
            let slots = match (&pacer, self.steering) {
                _ if free_at.is_some() => 0,
                (Some(pacer), _) => pacer.pace().slots,
                (None, Steering::Fixed { slots, .. }) => slots,
                (None, Steering::Paced { .. }) => unreachable!("a paced world has a pacer"),
            };
            wake = match batcher.poll(now, slots, &mut batch) {
                Step::Send => {
                    let took = self.curve.service(batch.len()).mul_f64(1.0 + NOISE * (2.0 * rng.f64() - 1.0));
                    out.batches.push((now, batch.len(), slots));
                    out.busy += took;
                    free_at = Some(now + took);
                    if let Some(pacer) = &mut pacer {
                        for (key, (arrived, decoded)) in &batch {
                            if self.cameras[key.camera.index()].settings.priority == Priority::Realtime {
                                pacer.came(now, decoded.since(*arrived));
                            }
                        }
                        pacer.ran(batch.len(), took);
                    }
                    running.append(&mut batch);
                    None
                }
                Step::WaitUntil(until) => Some(until),
                Step::Idle => None,
            };
            batcher.take_dropped(&mut dropped);
            for (key, (_, decoded), fate) in dropped.drain(..) {
                out.fates[key.camera.index()][fate as usize] += 1;
                out.sojourn += now.since(decoded).as_secs_f64();
                inside -= 1;
            }
        }
        out.in_flight = inside;
        out
    }
}

/// Curves, from `tests/simulate/curves/NAME.csv`, which says where each was measured, or that it was not: lines of `frames,milliseconds`.
pub fn curve(name: &str) -> Curve {
    let path = format!("{}/tests/simulate/curves/{name}.csv", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let rungs: Vec<Rung> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| {
            let (frames, time) = line.split_once(',').expect("frames,milliseconds");
            let number = |text: &str| text.trim().parse::<f64>().expect("a number");
            Rung { frames: number(frames) as usize, service: ms(number(time)) }
        })
        .collect();
    Curve::new(&rungs)
}

/// As many 30 fps cameras as make this load, their rate adjusted by the rest.
pub fn cameras(load: f64, curve: &Curve, arrivals: Arrivals) -> Vec<Camera> {
    let offered = load * curve.capacity();
    let count = (offered / 30.0).round().max(1.0);
    vec![Camera::new(offered / count, arrivals); count as usize]
}

/// A fixed setting and what it leads to: Δ in ms, batch, outcome.
pub type Fixed = (f64, usize, Outcome);

/// All fixed settings with one of these waits (ms).
pub fn sweep(curve: &Curve, waits: &[f64], play: impl Fn(Steering) -> Outcome) -> Vec<Fixed> {
    let settings = waits.iter().flat_map(|wait| curve.rungs().iter().map(move |rung| (*wait, rung.frames)));
    settings.map(|(wait, slots)| (wait, slots, play(Steering::Fixed { wait: ms(wait), slots }))).collect()
}

/// The one of them with the largest goodput that keeps the target.
pub fn best(sweep: &[Fixed], target: f64) -> Option<&Fixed> {
    let keep = sweep.iter().filter(|(.., outcome)| outcome.p95() <= target);
    keep.max_by(|a, b| a.2.goodput().total_cmp(&b.2.goodput()))
}
