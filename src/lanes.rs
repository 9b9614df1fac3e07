//! The lanes: one engine loop a GPU, each with an intake and a pacer of its own; `analyze` and all that follows is shared. A box without a
//! GPU, or with one, has one lane.
//!
//! ```text
//! cam-a ─▶ Intake 0 ─▶ infer (GPU 0) ─┐
//! cam-b ─▶ Intake 1 ─▶ infer (GPU 1) ─┴▶ analyze
//! ```
//!
//! A lane whose engine fails, whose loop panics, or that hangs while others move, ends alone ([`Fall`], [`Watch`]): its frames have
//! failed, and the [`roster`](crate::roster) starts its cameras again on the others. With the last one the daemon ends. Where a camera goes
//! is decided in [`place`](crate::flow::place), not here.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::board::Board;
use crate::clock::{Clock, Tick};
use crate::device::{Device, Engine};
use crate::fault::{Fault, Who};
use crate::flow::batch::{CameraSettings, Settings};
use crate::flow::curve::Curve;
use crate::flow::detect::{Detector, OutputShape};
use crate::flow::pace::{Objective, Pacer};
use crate::frame::{CameraId, Frame, Stamp};
use crate::intake::{Bystander, Harbour, Intake, Port, intake};
use crate::model::spec::ModelSpec;
use crate::request::desk::Door;
use crate::stage::analyze::Work;
use crate::stage::infer::{self, Infer};
use crate::stage::ingest::Never;
use crate::supervise::{self, Beat, Worker};
use crate::video::Studio;

/// See [`yield_to`].
const ENGINE_NICE: i32 = 5;

/// Where a lane's cameras come in.
pub struct Berth<D: Device> {
    /// Opens their sources.
    pub device: Arc<D>,
    /// Their rings.
    pub harbour: Harbour<D::Pixels>,
}

/// Where clients' pictures come in.
pub struct Pier<D: Device> {
    /// Brings them to where its pictures are.
    pub device: Arc<D>,
    /// Their rings, by class.
    pub ports: Vec<Port<D::Pixels>>,
}

/// A lane has ended before its time.
pub struct Fall {
    /// Its number.
    pub lane: usize,
    /// Why.
    pub fault: Fault,
}

/// A lane that is warm says so, once.
pub struct Warm {
    /// Reads the engine's outputs.
    pub detector: Detector,
    /// What the engine was measured to do.
    pub curve: Curve,
}

/// What all lanes are made with.
pub struct Yard<D: Device> {
    /// For their batchers.
    pub settings: Settings,
    /// For their pacers; the largest batch is that of the engine, if it is smaller.
    pub objective: Objective,
    /// The classes of clients' pictures, which come to every lane.
    pub requests: Vec<(CameraId, CameraSettings)>,
    /// The network.
    pub spec: Arc<ModelSpec>,
    /// State.
    pub board: Arc<Board>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Keeps pictures that somebody wants to see.
    pub studio: Arc<Studio<D::Pixels>>,
    /// Towards `analyze`.
    pub results: Sender<Work<<D::Engine as Engine>::Outputs>>,
    /// Who hears of a lane's end.
    pub fallen: Sender<Fall>,
    /// Every worker holds one.
    pub alive: Sender<Never>,
    /// The first engine's outputs: all run the same network, and `analyze` reads them all alike.
    pub shapes: Arc<OnceLock<Vec<OutputShape>>>,
}

/// A lane whose thread runs.
pub struct Opened<D: Device> {
    /// Where its cameras come in.
    pub berth: Berth<D>,
    /// Where clients' pictures come in.
    pub pier: Pier<D>,
    /// Its loop's.
    pub beat: Beat,
    /// Its thread.
    pub worker: Worker,
}

impl<D: Device> Yard<D> {
    /// Starts lane `number`; `warm` hears of it when its engine has been measured. Start the next one then: what a GPU records of its runs
    /// is void when another thread of the process asks for GPU memory meanwhile.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn open(&self, number: usize, device: Arc<D>, warm: Sender<Warm>) -> Result<Opened<D>, Fault> {
        let beat = Beat::new(self.clock.now());
        let (ports, intake) = intake::<D::Pixels>(
            self.settings.clone(),
            &self.requests,
            &self.board,
            &self.clock,
            beat.clone(),
        );
        let intake = intake.on_lane(number);
        intake.tell(Arc::clone(&self.studio) as Arc<dyn Bystander<D::Pixels>>);
        let harbour = intake.harbour();
        let fallen = self.fallen.clone();
        // Nobody listens any more: the process is on its way out.
        let report = move |fault| drop(fallen.send(Fall { lane: number, fault }));
        let loop_of = Loop {
            intake,
            device: Arc::clone(&device),
            objective: self.objective,
            spec: Arc::clone(&self.spec),
            board: Arc::clone(&self.board),
            clock: Arc::clone(&self.clock),
            studio: Arc::clone(&self.studio),
            results: self.results.clone(),
            shapes: Arc::clone(&self.shapes),
        };
        let alive = self.alive.clone();
        let worker = supervise::guard("infer", report, move || {
            let _alive = alive;
            loop_of.run(&warm)
        })?;
        let pier = Pier { device: Arc::clone(&device), ports };
        Ok(Opened { berth: Berth { device, harbour }, pier, beat, worker })
    }
}

/// What the thread takes along.
struct Loop<D: Device> {
    intake: Intake<D::Pixels>,
    device: Arc<D>,
    objective: Objective,
    spec: Arc<ModelSpec>,
    board: Arc<Board>,
    clock: Arc<dyn Clock>,
    studio: Arc<Studio<D::Pixels>>,
    results: Sender<Work<<D::Engine as Engine>::Outputs>>,
    shapes: Arc<OnceLock<Vec<OutputShape>>>,
}

impl<D: Device> Loop<D> {
    fn run(self, warm: &Sender<Warm>) -> Result<(), Fault> {
        let Loop { intake, device, objective, spec, board, clock, studio, results, shapes } = self;
        yield_to(ENGINE_NICE);
        let mut engine = device.engine()?;
        let outputs = engine.outputs();
        let detector = Detector::new(&spec, &outputs)?;
        if *shapes.get_or_init(|| outputs.clone()) != outputs {
            let message = format!("model {}: its outputs differ from those on the first GPU", spec.name);
            return Err(Fault::new(Who::Device, "engine", message));
        }
        let curve = infer::warm_up(&mut engine, &*clock)?;
        let useful = curve.largest_useful();
        if curve.rungs().last().is_some_and(|rung| rung.frames > useful) {
            // An engine keeps the memory of the largest batch that it ever ran.
            drop(engine);
            engine = device.engine()?;
            engine.run(useful)?;
        }
        let pacer = Pacer::new(Objective { max_batch: objective.max_batch.min(useful), ..objective }, curve);
        // Cameras are placed by it as soon as all are warm.
        board.flow.lane(intake.lane).publish(pacer.pace(), curve);
        let _ = warm.send(Warm { detector, curve });
        Infer::<D> { intake, engine, pacer, results, board, clock, studio }.run()
    }
}

/// Lowers the priority of the calling thread, and of those that will be started from it. When the engine takes all cores, a
/// picture must not wait behind it to be decoded: late pictures are what latency is made of. Without the right to
/// change priorities nothing changes.
pub fn yield_to(nice: i32) {
    // Linux keeps a nice value per thread (sched(7)); `None` is the calling one.
    let _ = rustix::process::setpriority_process(None, nice);
}

/// From HTTP, which knows of no device, to the rings: of the lanes that live, that where the fewest pictures of clients wait.
pub fn door<D: Device>(lanes: Vec<Pier<D>>, board: &Arc<Board>, clock: &Arc<dyn Clock>) -> Door {
    let (board, clock, turn) = (Arc::clone(board), Arc::clone(clock), AtomicUsize::new(0));
    Arc::new(move |class, still, waiting| {
        // Where as many wait everywhere, they take turns.
        let (turn, count) = (turn.fetch_add(1, Relaxed), lanes.len());
        let living = (0..count).map(|n| (turn + n) % count).filter(|n| board.flow.lane(*n).fault().is_none());
        let fewest = living.min_by_key(|n| lanes[*n].ports.iter().map(Port::waiting).sum::<usize>());
        // None lives any more: the process is on its way out, and the ring says so.
        let Pier { device, ports } = &lanes[fewest.unwrap_or(0)];
        let size = still.size;
        let pixels = device.picture(still)?;
        let now = clock.now();
        let stamp = Stamp { arrived: now, decoded: now, pts: None, wall: clock.wall() };
        ports[class as usize].request(Frame { stamp, size, pixels }, waiting);
        Ok(())
    })
}

/// Sees that a lane hangs while others move: a GPU that has gone may answer nothing at all.
pub struct Watch {
    board: Arc<Board>,
    beats: Vec<Beat>,
    /// Of the stage that takes all results: when that is stuck, lanes stand still without being to blame.
    analyze: Beat,
    /// By lane: since when it is seen to hang.
    since: Vec<Option<Tick>>,
}

impl Watch {
    /// How long a lane must have stood still.
    pub const STUCK: Duration = Duration::from_secs(10);
    /// And how long it must be seen to, since after a pause of the whole process all have stood still.
    const SURE: Duration = Duration::from_secs(2);

    /// Of these lanes, by number.
    pub fn new(board: Arc<Board>, beats: Vec<Beat>, analyze: Beat) -> Self {
        Watch { since: vec![None; beats.len()], board, beats, analyze }
    }

    /// The lane that is to be given up; never the last one.
    pub fn look(&mut self, now: Tick) -> Option<Fall> {
        let stands = |beat: &Beat| now.since(beat.last()) > Self::STUCK;
        let living: Vec<usize> = self.board.flow.living().map(|(number, _)| number).collect();
        if stands(&self.analyze) || living.iter().all(|lane| stands(&self.beats[*lane])) {
            self.since.fill(None);
            return None;
        }
        for lane in living {
            if !stands(&self.beats[lane]) {
                self.since[lane] = None;
            } else if now.since(*self.since[lane].get_or_insert(now)) >= Self::SURE {
                let stood = now.since(self.beats[lane].last()).as_secs_f32();
                let message = format!("the engine has not moved for {stood:.0} s");
                return Some(Fall { lane, fault: Fault::new(Who::Device, "engine", message) });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Tick {
        Tick::from_millis(second * 1000)
    }

    fn watch() -> (Arc<Board>, Vec<Beat>, Beat, Watch) {
        let board = Arc::new(Board::with_lanes([], &[Some(0), Some(1)]));
        let beats: Vec<Beat> = (0..2).map(|_| Beat::new(at(0))).collect();
        let analyze = Beat::new(at(0));
        let watch = Watch::new(Arc::clone(&board), beats.clone(), analyze.clone());
        (board, beats, analyze, watch)
    }

    #[test]
    fn a_lane_that_hangs_while_another_moves_is_given_up_and_the_last_one_is_not() {
        let (board, beats, analyze, mut watch) = watch();
        let mut fell = None;
        for second in 1..30 {
            beats[0].touch(at(second));
            analyze.touch(at(second));
            if let Some(fall) = watch.look(at(second)) {
                fell.get_or_insert(second);
                assert_eq!(fall.lane, 1);
                board.flow.lane(1).fail(fall.fault);
            }
        }
        assert_eq!(fell, Some(13), "10 s of standing still, seen for 2 s");
        analyze.touch(at(60));
        assert!(watch.look(at(60)).is_none());
    }

    #[test]
    fn what_stands_still_for_another_reason_is_not_given_up() {
        let (_, beats, analyze, mut watch) = watch();
        // The process was stopped for a minute; one lane is a little earlier back than the other.
        analyze.touch(at(60));
        beats[0].touch(at(60));
        assert!(watch.look(at(60)).is_none());
        beats[1].touch(at(61));
        analyze.touch(at(63));
        beats[0].touch(at(63));
        assert!(watch.look(at(63)).is_none());
        // `analyze` is stuck, and the lanes behind it.
        beats[0].touch(at(100));
        assert!((80..100).all(|second| watch.look(at(second)).is_none()));
    }
}
