//! Admission in the daemon: what the cameras ask for against what the machine can take, looked at every few seconds; and the answer to
//! "would these fit too?".
//!
//! Nothing is thinned here. A camera that runs is never stopped: what the engine cannot take, the batcher's turns divide evenly by
//! class and weight. This says so before anybody wonders: which ceiling binds, and what each camera gets. The arithmetic is
//! [`crate::flow::capacity`]'s.
//!
//! Where there are several GPUs each is a machine of its own: a camera must fit into one of them, with its frames and its pictures. What all
//! share, CPU cores and main memory, is counted once. The whole stands as the worst of them does.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::board::{Board, Card, Link};
use crate::clock::Tick;
use crate::config::{Config, Infer, Priority};
use crate::device::accelerator::Report;
use crate::flow::capacity::{self, Asked, Ceiling, Demand, Load, Machine, RHO_MAX, Stream, Verdict};
use crate::flow::place::{self, Room};
use crate::frame::CameraId;
use crate::usage::{self, Meter, Part};

/// Between two looks: the window of the cameras' rates.
const EVERY: Duration = Duration::from_secs(5);
/// So many windows are waited for one in which no camera comes or goes.
const RESTLESS: u32 = 6;
/// A border is crossed back only so much below it, so that the verdict does not flap with the load.
const HYSTERESIS: f64 = 0.05;
/// How much one look moves the cost of decoding: rates and CPU time are not of the very same moments.
const FRESH: f64 = 0.3;
/// A GPU says how busy its decoders are in whole percent, and a little as 1: what a pixel costs is learnt from this part on.
const TELLING: f64 = 0.1;
/// Cameras that a log line names.
const NAMED: usize = 8;

/// How the cameras that run stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// ρ, and the part of a GPU's video decoders in use, ≤ 0.7: each gets all it asks for, in time.
    #[default]
    Fits,
    /// Both ≤ 1: each gets all, but queues are long and the p95 target may be missed.
    Tight,
    /// ρ > 1: frames are lost, evenly by class and weight.
    Degraded,
}

impl Standing {
    /// Every one, by growing load.
    pub const ALL: [Standing; 3] = [Standing::Fits, Standing::Tight, Standing::Degraded];

    /// The word of API, log and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Standing::Fits => "fits",
            Standing::Tight => "tight",
            Standing::Degraded => "degraded",
        }
    }

    /// The next one, when the load is `rho`. Up at once, down only when the load is well below the border.
    fn next(self, rho: f64) -> Standing {
        let at = |rho: f64| match rho {
            r if r <= RHO_MAX => Standing::Fits,
            r if r <= 1.0 => Standing::Tight,
            _ => Standing::Degraded,
        };
        let (now, careful) = (at(rho), at(rho + HYSTERESIS));
        if (now as u8) >= self as u8 { now } else { Standing::ALL[(careful as usize).min(self as usize)] }
    }
}

/// What does not change while the daemon runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    bulk_share: f64,
    cores: f64,
    engine_cores: f64,
}

impl Settings {
    /// Of a configuration, on this machine; `beside`: the engine is not on the CPU.
    pub fn new(config: &Config, beside: bool) -> Self {
        Settings {
            bulk_share: f64::from(config.batcher.bulk_share),
            cores: usage::cores(),
            engine_cores: if beside { 0.0 } else { engine_cores(&config.infer) },
        }
    }
}

/// Cores that a run of the CPU's engine keeps busy.
pub fn engine_cores(infer: &Infer) -> f64 {
    if infer.threads == 0 { usage::cores() } else { (infer.threads as f64).min(usage::cores()) }
}

/// The last look at one engine; or at all of them, which is that of the worst but for `capacity` and `fair`.
#[derive(Clone, Debug)]
pub struct State {
    /// The machine, as measured.
    pub machine: Machine,
    /// What it is asked to do.
    pub load: Load,
    /// Frames a second at [`RHO_MAX`] beside the decoding that there is; of all engines that live their sum.
    pub capacity: f64,
    /// λ over the engine's rate beside the decoding that there is.
    pub rho: f64,
    /// What binds first.
    pub ceiling: Ceiling,
    /// How the cameras stand.
    pub standing: Standing,
    /// Frames a second that the engine has for each camera, by [`CameraId`]; of one engine of several it is empty.
    pub fair: Vec<f64>,
}

impl State {
    /// What its standing goes by.
    fn level(&self) -> f64 {
        self.rho.max(self.load.nvdec)
    }
}

#[derive(Debug, Default)]
struct Inner {
    settings: Settings,
    cpu: Meter,
    looks: u32,
    /// When CPU time was read last, and how much it was.
    read: Option<(Tick, Duration)>,
    /// CPU seconds a pixel.
    cost: Option<f64>,
    /// Seconds a pixel of all video decoders of a GPU, by lane; and what its cameras sent at the last look.
    nvdec: Vec<Option<f64>>,
    arriving: Vec<Arriving>,
    state: Option<State>,
    /// By lane.
    lanes: Vec<Option<State>>,
    /// Cameras that were let in and are not, or not wholly, in the last look.
    coming: HashMap<CameraId, Coming>,
}

/// A camera that was let in: until it has been seen for as long as rates are measured over, it counts as what it was let in for.
#[derive(Clone, Copy, Debug)]
struct Coming {
    stream: Stream,
    /// Frames a second that the engine gets of it.
    fps: f64,
    priority: Priority,
    /// What the last look has seen of it already, frames a second.
    seen: Option<f64>,
}

impl Coming {
    /// What is still to come: frames a second for the engine, and pixels to decode.
    fn rest(&self) -> (f64, f64) {
        let seen = self.seen.unwrap_or(0.0);
        ((self.fps - seen).max(0.0), (self.stream.fps - seen).max(0.0) * self.stream.pixels)
    }

    /// A look. False: from now on the cameras' own rates say it all.
    fn look(&mut self, card: &Card, came: f64) -> bool {
        match card.link() {
            Link::Connecting => true,
            Link::Online { .. } => self.seen.replace(came).is_none(),
            // One that cannot be reached counts no more than any other that is offline.
            Link::Offline { .. } | Link::Removed => false,
        }
    }
}

/// What comes in from a camera, frames a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sends {
    /// All of them: they are decoded.
    pub fps: f64,
    /// Those that its motion gate does not leave out.
    pub moving: f64,
}

/// Watches, and answers.
#[derive(Default)]
pub struct Admission {
    inner: Mutex<Inner>,
    /// How many cameras more can be encoded.
    encoders: OnceLock<Box<dyn Fn() -> u32 + Send + Sync>>,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Admission {
    /// Once, at start.
    pub fn configure(&self, settings: Settings) {
        self.lock().settings = settings;
    }

    /// Once, where video is encoded for viewers: `left` says how many cameras more can be.
    pub fn encode(&self, left: impl Fn() -> u32 + Send + Sync + 'static) {
        // A second server would be a mistake of ours; the first one's word stays.
        let _ = self.encoders.set(Box::new(left));
    }

    /// The last look; `None` before the engine is warm.
    pub fn state(&self) -> Option<State> {
        self.lock().state.clone()
    }

    /// The last look at one engine; `None` before it is warm, and when it has failed.
    pub fn lane(&self, lane: usize) -> Option<State> {
        self.lock().lanes.get(lane).cloned().flatten()
    }

    /// A camera was let in, as one of `asked`; the engine takes at most `cap` frames a second of it. The next answers count it.
    pub fn let_in(&self, id: CameraId, asked: &Asked, cap: Option<f64>) {
        let Asked { stream, priority, .. } = *asked;
        let fps = stream.inferred.min(cap.unwrap_or(f64::INFINITY));
        self.lock().coming.insert(id, Coming { stream, fps, priority, seen: None });
    }

    /// May these cameras come? Changes nothing. They are placed as they would be if they came; the answer is the worst that one of
    /// them gets, and the state that of the engine with the most room. `None` before an engine is warm.
    pub fn ask(&self, asked: &Asked, board: &Board) -> Option<(Verdict, State)> {
        let (whole, mut lanes, coming) = {
            let inner = self.lock();
            (inner.state.clone()?, inner.lanes.clone(), inner.coming.clone())
        };
        let gpu_memory: Vec<Option<f64>> =
            (0..lanes.len()).map(|number| board.flow.lane(number).accelerator.memory_for_cameras()).collect();
        let mut reserved = Reserved::new(lanes.len());
        for (id, coming) in &coming {
            reserved.count(board.camera(*id), coming, &mut lanes, &gpu_memory);
        }
        let room = |(number, state): (usize, &Option<State>)| {
            let state = state.as_ref().filter(|_| board.flow.lane(number).fault().is_none());
            let [capacity, load] = state.map_or([0.0; 2], |s| [s.capacity, s.load.realtime + s.load.bulk]);
            Room { capacity, load, alive: state.is_some() }
        };
        let mut rooms: Vec<Room> = lanes.iter().enumerate().map(room).collect();
        let count = asked.count.max(1);
        let placed = place::spread(&mut rooms, (0..count).map(|_| (None, asked.stream.inferred)));
        let roomiest = placed.first().copied().flatten()?;
        let memory = usage::available().map(|free| (free - reserved.memory).max(0.0));
        let encoders = self.encoders.get().map(|left| left());
        let mut worst = Verdict::Accept;
        for (number, state) in lanes.iter().enumerate() {
            let share = placed.iter().filter(|lane| **lane == Some(number)).count() as u32;
            let Some(state) = state.as_ref().filter(|_| share > 0) else { continue };
            // What all engines share: the others' cameras are decoded by the same cores, and have their part of the memory.
            let others = f64::from(count - share) * asked.stream.fps * asked.stream.pixels + reserved.pixels;
            let part = f64::from(share) / f64::from(count);
            let gpu_memory = gpu_memory[number].map(|free| (free - reserved.gpu_memory[number]).max(0.0));
            let machine =
                Machine { memory: memory.map(|free| free * part), gpu_memory, encoders, ..state.machine };
            let load = Load { decode: state.load.decode + machine.decode_load(others), ..state.load };
            worst = worse(worst, machine.admit(&Asked { count: share, ..*asked }, &load));
        }
        let lane = lanes.into_iter().nth(roomiest).flatten()?;
        Some((worst, State { capacity: whole.capacity, ..lane }))
    }

    /// Looks, when it is time. `sends` is what comes in from a camera.
    pub fn look(&self, now: Tick, board: &Board, sends: impl Fn(CameraId) -> Option<Sends>) {
        // An engine that is being measured comes and goes with its threads, whose time would look like decoding.
        if board.flow.pace().is_none() {
            return;
        }
        let mut inner = self.lock();
        if inner.read.is_some_and(|(at, _)| now.since(at) < EVERY) {
            return;
        }
        let cpu = inner.cpu.look().map(|parts| parts[Part::Ingest as usize].1);
        let before = inner.read.replace((now, cpu.unwrap_or_default()));
        let Some((at, used)) = before else { return };
        inner.coming.retain(|id, coming| coming.look(board.camera(*id), sends(*id).unwrap_or_default().fps));
        // By number: a camera that was removed asks for nothing.
        let cameras = (0..).map(CameraId).zip(board.cameras());
        let mut on_lane = vec![Arriving::default(); board.flow.lanes().len()];
        let demands: Vec<(usize, Demand)> = cameras
            .map(|(id, card)| {
                let (terms, mut sends) = (card.terms(), sends(id).unwrap_or_default());
                match card.link() {
                    Link::Online { video, .. } => {
                        let pixels = sends.fps * f64::from(video.width) * f64::from(video.height);
                        if let Some(here) = on_lane.get_mut(card.lane()) {
                            here.cameras += 1;
                            here.pixels += pixels;
                            here.starts += card.attempts.load(Relaxed);
                        }
                    }
                    Link::Removed => {
                        sends = Sends::default();
                        if let Some(here) = on_lane.get_mut(card.lane()) {
                            here.starts += card.attempts.load(Relaxed);
                        }
                    }
                    Link::Connecting | Link::Offline { .. } => {}
                }
                let fps = sends.moving.min(terms.max_fps.unwrap_or(f64::INFINITY));
                (card.lane(), Demand { fps, weight: terms.weight, priority: terms.priority })
            })
            .collect();
        let decode = cpu.map_or(0.0, |cpu| {
            cpu.saturating_sub(used).as_secs_f64() / now.since(at).as_secs_f64().max(1e-9)
        });
        // What was used is of the whole window, what comes is of now: of cameras that have just come or gone it says nothing.
        let was = std::mem::replace(&mut inner.arriving, on_lane.clone());
        let sum = |lanes: &[Arriving]| lanes.iter().fold(Arriving::default(), |all, lane| all.and(lane));
        let all = sum(&on_lane);
        let was_all = sum(&was);
        // The first guess need not wait until rates stand, but what connecting took should not be in it. A camera that connects
        // anew in each window must not keep it from being made for ever.
        let unknown = inner.cost.is_none();
        if unknown && was_all.pixels > 0.0 && all.pixels > 0.0 {
            inner.looks = inner.looks.saturating_add(1);
        }
        let steady = was_all.is_like(&all)
            || (unknown && (was_all.has_the_cameras_of(&all) || inner.looks > RESTLESS));
        if cpu.is_some() && all.pixels > 0.0 && decode > 0.0 && steady {
            learn(&mut inner.cost, decode / all.pixels);
        }
        let standing = inner.state.as_ref().map_or(Standing::Fits, |state| state.standing);
        let first = inner.state.is_none();
        inner.lanes.resize(board.flow.lanes().len(), None);
        inner.nvdec.resize(board.flow.lanes().len(), None);
        let mut fair = vec![0.0; demands.len()];
        for (number, here) in on_lane.into_iter().enumerate() {
            let lane = board.flow.lane(number);
            let Some((pace, curve)) = lane.pace().filter(|_| lane.fault().is_none()) else {
                inner.lanes[number] = None;
                continue;
            };
            let report = lane.accelerator.report();
            // Where none of our streams is decoded there, it is other programs' affair.
            let busy = report.as_ref().filter(|report| report.decoders > 0);
            let busy = busy.and_then(|report| report.decoder_utilization_ratio);
            let steady = was.get(number).is_some_and(|was| was.is_like(&here));
            let cost = report.as_ref().and_then(|report| here.nvdec_cost(report));
            if let Some(cost) = cost.filter(|_| steady) {
                learn(&mut inner.nvdec[number], cost);
            }
            let machine = Machine {
                curve,
                batch: pace.slots,
                cores: inner.settings.cores,
                engine_cores: inner.settings.engine_cores,
                decode: inner.cost,
                nvdec: inner.nvdec[number],
                memory: None,
                gpu_memory: None,
                encoders: None,
            };
            // S(b) was measured beside the decoding that there is.
            let machine = Machine { curve: curve.scaled(1.0 - machine.taken(decode)), ..machine };
            let (ours, wanted): (Vec<usize>, Vec<Demand>) = demands
                .iter()
                .enumerate()
                .filter(|(_, (of, _))| *of == number)
                .map(|(i, (_, d))| (i, *d))
                .unzip();
            let asked = Wanted {
                demands: &wanted,
                offered: pace.rho * curve.capacity(),
                decode,
                nvdec: busy.unwrap_or(0.0),
            };
            let before = inner.lanes[number].as_ref().map_or(Standing::Fits, |state| state.standing);
            let mut state = judge(machine, &asked, inner.settings.bulk_share, before);
            for (i, fps) in ours.into_iter().zip(std::mem::take(&mut state.fair)) {
                fair[i] = fps;
            }
            inner.lanes[number] = Some(state);
        }
        let living = || inner.lanes.iter().flatten();
        let Some(worst) = living().max_by(|a, b| a.level().total_cmp(&b.level())) else { return };
        let standing_now = living().map(|state| state.standing).max_by_key(|s| *s as u8).unwrap_or_default();
        let capacity = living().map(|state| state.capacity).sum();
        let state = State { capacity, standing: standing_now, fair, ..worst.clone() };
        if state.standing != standing || (first && state.standing != Standing::Fits) {
            tell(&state, board);
        }
        inner.state = Some(state);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while a state is replaced leaves the old or the new one: both are whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What cameras that were let in will take, beside what the last look has seen.
struct Reserved {
    /// To decode, a second.
    pixels: f64,
    /// Bytes.
    memory: f64,
    /// The same on each GPU.
    gpu_memory: Vec<f64>,
}

impl Reserved {
    fn new(lanes: usize) -> Self {
        Reserved { pixels: 0.0, memory: 0.0, gpu_memory: vec![0.0; lanes] }
    }

    /// Counts one of them, its frames on top of its lane's load.
    fn count(
        &mut self,
        card: &Card,
        coming: &Coming,
        lanes: &mut [Option<State>],
        gpu_memory: &[Option<f64>],
    ) {
        let Some(Some(state)) = lanes.get_mut(card.lane()).filter(|_| !card.is_removed()) else { return };
        let (frames, pixels) = coming.rest();
        match coming.priority {
            Priority::Realtime => state.load.realtime += frames,
            Priority::Bulk => state.load.bulk += frames,
        }
        state.load.nvdec += state.machine.nvdec_load(pixels);
        self.pixels += pixels;
        // What one that is connected holds is missing in what is free.
        if matches!(card.link(), Link::Connecting) {
            let machine = Machine { gpu_memory: gpu_memory[card.lane()], ..state.machine };
            self.memory += machine.host_bytes(&coming.stream);
            self.gpu_memory[card.lane()] += coming.stream.pictures();
        }
    }
}

/// Moves a cost towards what was seen of it now.
fn learn(cost: &mut Option<f64>, seen: f64) {
    *cost = Some(cost.map_or(seen, |old| old + FRESH * (seen - old)));
}

/// Of two answers the one that gives less.
fn worse(a: Verdict, b: Verdict) -> Verdict {
    match (a, b) {
        (refused @ Verdict::Refuse { .. }, _) | (_, refused @ Verdict::Refuse { .. }) => refused,
        (Verdict::AcceptAt(a), Verdict::AcceptAt(b)) => Verdict::AcceptAt(a.min(b)),
        (at @ Verdict::AcceptAt(_), Verdict::Accept) | (Verdict::Accept, at) => at,
    }
}

/// What is asked of an engine.
struct Wanted<'a> {
    /// By its cameras.
    demands: &'a [Demand],
    /// What reaches it of everybody, clients' pictures too, frames a second.
    offered: f64,
    /// Cores that decode, for all engines.
    decode: f64,
    /// Part of its GPU's video decoders that is in use.
    nvdec: f64,
}

/// What the cameras of a lane send.
#[derive(Clone, Copy, Debug, Default)]
struct Arriving {
    cameras: usize,
    /// A second.
    pixels: f64,
    /// How often those that are connected, or gone, were started: connecting costs, too.
    starts: u64,
}

impl Arriving {
    fn and(self, other: &Arriving) -> Arriving {
        Arriving {
            cameras: self.cameras + other.cameras,
            pixels: self.pixels + other.pixels,
            starts: self.starts + other.starts,
        }
    }

    /// Does as much come as then? What a GPU says of its decoders is of a while ago: cameras that have just come or gone would make a pixel's
    /// cost many times too low or too high.
    fn is_like(&self, then: &Arriving) -> bool {
        self.has_the_cameras_of(then)
            && (self.pixels - then.pixels).abs() <= 0.1 * self.pixels.max(then.pixels)
    }

    /// Were no cameras connected, and did none go, since then?
    fn has_the_cameras_of(&self, then: &Arriving) -> bool {
        (self.cameras, self.starts) == (then.cameras, then.starts)
    }

    /// Seconds of all of the GPU's video decoders for a pixel. Cameras whose stream they do not take have none: of the pixels their mean part is
    /// left out. What other programs decode there counts as ours, on the careful side.
    fn nvdec_cost(&self, report: &Report) -> Option<f64> {
        let busy = report.decoder_utilization_ratio.filter(|busy| *busy >= TELLING)?;
        let ours = report.decoders.min(self.cameras) as f64 / self.cameras.max(1) as f64;
        let pixels = self.pixels * ours;
        (pixels > 0.0).then(|| busy / pixels)
    }
}

fn judge(machine: Machine, wanted: &Wanted<'_>, bulk_share: f64, before: Standing) -> State {
    let Wanted { demands, offered, decode, nvdec } = *wanted;
    let wanted = |class| demands.iter().filter(|d| d.priority == class).map(|d| d.fps).sum::<f64>();
    let (realtime, bulk) = (wanted(Priority::Realtime), wanted(Priority::Bulk));
    // Pictures of clients are nobody's camera, and nobody's to yield.
    let others = (offered - realtime - bulk).max(0.0);
    let load = Load { realtime: realtime + others, bulk, bulk_share, decode, nvdec };
    let rho = machine.rho(load.realtime + bulk, decode);
    let decode_part = decode / (RHO_MAX * machine.cores).max(1e-9);
    let ceiling = if nvdec > RHO_MAX && nvdec > rho {
        Ceiling::Nvdec
    } else if decode_part > 1.0 && decode_part > rho / RHO_MAX {
        Ceiling::Decode
    } else {
        machine.heavier(load.realtime + bulk, decode)
    };
    let rate = machine.rate() * (1.0 - machine.taken(decode));
    let fair = capacity::fair((rate - others).max(0.0), demands, bulk_share);
    let capacity = machine.budget(decode);
    let state = State { machine, load, capacity, rho, ceiling, standing: before, fair };
    // Decoders that are busy all the time make pictures late, and then lose them before anybody counts.
    State { standing: before.next(state.level()), ..state }
}

fn tell(state: &State, board: &Board) {
    let there = || board.cameras().zip(&state.fair).filter(|(card, _)| !card.is_removed());
    let (all, count) = (there(), there().count());
    let mut gets: Vec<String> =
        all.take(NAMED).map(|(card, fps)| format!("{} {fps:.1} fps", card.name)).collect();
    if count > NAMED {
        gets.push(format!("and {} more at /api/v1/flow", count - NAMED));
    }
    let hundredths = |x: f64| (x * 100.0).round() / 100.0;
    let (gets, rho, ceiling) = (gets.join(", "), hundredths(state.rho), state.ceiling.name());
    let nvdec = (state.load.nvdec > 0.0).then(|| hundredths(state.load.nvdec));
    match state.standing {
        Standing::Fits => tracing::info!(rho, nvdec, "The cameras fit."),
        Standing::Tight => {
            tracing::warn!(
                rho,
                nvdec,
                ceiling,
                "The cameras leave no reserve: the p95 target may be missed."
            );
        }
        Standing::Degraded => {
            tracing::warn!(
                rho,
                nvdec,
                ceiling,
                "The cameras ask for more than there is; each gets its even share: {gets}."
            );
        }
    }
}

#[cfg(test)]
mod tests;
