//! What happens to frames when the engine misbehaves: every frame has exactly one fate, and an engine that is
//! dead ends the process instead of running blind. The engine is scripted; the real one is in `software.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use weir::board::Board;
use weir::clock::{Clock, ManualClock, SystemClock, Tick, Wall, bell};
use weir::config::DropPolicy;
use weir::device::Device;
use weir::device::scripted::{Scripted, ScriptedOutputs};
use weir::fault::{Fault, Who};
use weir::flow::batch::{CameraSettings, Settings};
use weir::flow::curve::{Curve, Rung};
use weir::flow::pace::{Objective, Pacer};
use weir::frame::{CameraId, Fate, Frame, Size, Stamp};
use weir::intake::{Port, intake};
use weir::stage::analyze::Work;
use weir::stage::infer::Infer;
use weir::supervise::Beat;
use weir::video::{Audience, Studio};

struct Rig {
    ports: Vec<Port<()>>,
    board: Arc<Board>,
    results: Receiver<Work<ScriptedOutputs>>,
    device: Scripted,
    infer: std::thread::JoinHandle<Result<(), Fault>>,
}

/// Two cameras and an engine for batches of up to `most`; `script` gets the number of the run, from 1.
fn rig(most: usize, script: impl FnMut(usize) -> Result<(), Fault> + Send + 'static) -> Rig {
    let service = Duration::from_millis(1);
    rig_with(most, service, Arc::new(SystemClock::new()), script, |device| device)
}

fn rig_with(
    most: usize,
    service: Duration,
    clock: Arc<dyn Clock>,
    mut script: impl FnMut(usize) -> Result<(), Fault> + Send + 'static,
    prepare: impl FnOnce(Scripted) -> Scripted,
) -> Rig {
    let board = Arc::new(Board::new(["a", "b"].map(Arc::from)));
    let settings =
        Settings { max_batch_frames: most, max_wait: Duration::from_millis(1), ..Settings::default() };
    let camera = CameraSettings {
        ring: Duration::from_secs(60),
        max_frames: 100,
        drop_policy: DropPolicy::SkipFrame,
        ..CameraSettings::default()
    };
    let beat = Beat::new(clock.now());
    let (ports, intake) =
        intake(settings, &[(CameraId(0), camera.clone()), (CameraId(1), camera)], &board, &clock, beat);
    let mut runs = 0;
    let device = prepare(Scripted::new(
        most,
        Vec::new(),
        Box::new(move |_| {
            runs += 1;
            script(runs).map(|()| ScriptedOutputs { tensors: Vec::new() })
        }),
    ));
    let engine = device.engine().expect("the script is there");
    let (tx, results) = unbounded();
    let curve = Curve::new(&[Rung { frames: most, service }]);
    let objective =
        Objective { target: Duration::from_secs(60), max_wait: Duration::from_millis(1), max_batch: most };
    let infer: Infer<Scripted> = Infer {
        intake,
        engine,
        pacer: Pacer::new(objective, curve),
        results: tx,
        board: Arc::clone(&board),
        clock,
        studio: Arc::new(Studio::new(Audience::new(["a", "b"], bell().0))),
    };
    Rig { ports, board, results, device, infer: std::thread::spawn(move || infer.run()) }
}

fn frame(now: Tick) -> Frame<()> {
    let stamp = Stamp { arrived: now, decoded: now, pts: None, wall: Wall(0) };
    Frame { stamp, size: Size { width: 64, height: 64 }, pixels: () }
}

fn engine_fault() -> Fault {
    Fault::new(Who::Device, "engine", "scripted failure")
}

#[test]
fn one_failed_batch_costs_its_frames_and_nothing_else() {
    let rig = rig(1, |run| if run == 2 { Err(engine_fault()) } else { Ok(()) });
    for n in 0..4 {
        rig.ports[0].push(frame(Tick::from_millis(n)));
        // The next one waits until this one has its fate, so that no run is skipped by the ring.
        while rig.results.is_empty() && rig.board.camera(CameraId(0)).ledger.read().of(Fate::Failed) == 0 {
            std::thread::yield_now();
        }
        let _ = rig.results.try_recv();
    }
    drop(rig.ports);
    rig.infer.join().expect("no panic").expect("one failure is forgiven");
    let counts = rig.board.camera(CameraId(0)).ledger.read();
    assert_eq!(counts.frames_in, 4);
    assert_eq!(counts.of(Fate::Failed), 1);
}

#[test]
fn a_dead_engine_is_given_up_and_no_frame_is_forgotten() {
    let rig = rig(1, |_| Err(engine_fault()));
    for port in &rig.ports {
        for n in 0..10 {
            port.push(frame(Tick::from_millis(n)));
        }
    }
    let fault = rig.infer.join().expect("no panic").expect_err("three failures in a row end the stage");
    assert_eq!(fault.who, Who::Device);
    assert!(fault.message.contains("3 times in a row"), "{fault}");
    for camera in rig.board.cameras() {
        let counts = camera.ledger.read();
        assert_eq!((counts.frames_in, counts.in_flight()), (10, 0), "every frame has a fate");
        assert!(counts.of(Fate::Failed) > 0);
    }
}

#[test]
fn frames_that_wait_at_the_stop_are_still_inferred() {
    let rig = rig(4, |_| Ok(()));
    for port in &rig.ports {
        for n in 0..5 {
            port.push(frame(Tick::from_millis(n)));
        }
    }
    drop(rig.ports);
    rig.infer.join().expect("no panic").expect("the engine is well");
    let sent: usize = rig
        .results
        .try_iter()
        .map(|work| match work {
            Work::Batch { frames, .. } => frames.len(),
            Work::Joined { .. } | Work::Lost { .. } => 0,
        })
        .sum();
    let dropped: u64 = rig
        .board
        .cameras()
        .map(|c| c.ledger.read().of(Fate::Skipped) + c.ledger.read().of(Fate::Overrun))
        .sum();
    assert_eq!(sent as u64 + dropped, 10);
}

/// An engine beside the host whose batches take 100 ms and want their successor 20 ms before their end.
struct Beside {
    rig: Rig,
    clock: ManualClock,
    submitted: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
}

impl Beside {
    fn new(mut script: impl FnMut(usize) -> Result<(), Fault> + Send + 'static) -> Beside {
        let clock = ManualClock::new();
        let (submitted, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (theirs, finished) = (Arc::clone(&submitted), Arc::clone(&done));
        let script = move |run| {
            theirs.fetch_add(1, SeqCst);
            script(run)
        };
        let progress = Arc::new(move |batch| batch < finished.load(SeqCst));
        let lead = Duration::from_millis(20);
        let rig = rig_with(4, Duration::from_millis(100), Arc::new(clock.clone()), script, |device| {
            device.beside(lead, progress)
        });
        Beside { rig, clock, submitted, done }
    }

    fn push(&self) {
        self.rig.ports[0].push(frame(self.clock.now()));
    }

    fn submitted(&self) -> usize {
        self.submitted.load(SeqCst)
    }

    fn until(&self, what: &str, reached: impl Fn(&Beside) -> bool) {
        for _ in 0..100_000 {
            if reached(self) {
                return;
            }
            std::thread::park_timeout(Duration::from_micros(100));
        }
        panic!("not seen: {what}");
    }

    /// Moves the time when the loop sleeps.
    fn pass(&self, ms: u64) {
        self.until("the loop sleeps", |beside| beside.clock.parked() > 0);
        self.clock.advance(Duration::from_millis(ms));
    }

    /// The loop has seen what happened before: it sleeps, and is not to be woken.
    fn settle(&self) {
        self.until("the loop sleeps", |beside| beside.clock.parked() > 0);
        std::thread::park_timeout(Duration::from_millis(50));
    }

    fn failed(&self) -> u64 {
        self.rig.board.camera(CameraId(0)).ledger.read().of(Fate::Failed)
    }
}

/// Taken too early, its frames would be older and fewer than need be; too late, the engine would stand still.
#[test]
fn the_next_batch_is_taken_shortly_before_the_last_one_is_done() {
    let beside = Beside::new(|_| Ok(()));
    beside.settle();
    beside.push();
    beside.until("nothing is under way: the first goes at once", |b| b.submitted() == 1);
    beside.push();
    beside.pass(79);
    beside.settle();
    assert_eq!(beside.submitted(), 1, "the first one still needs 21 ms");
    beside.push();
    beside.pass(1);
    beside.until("the lead has come, and the first one is not done", |b| b.submitted() == 2);
    assert!(beside.rig.results.is_empty());
    beside.done.store(2, SeqCst);
    let frames = |work| match work {
        Work::Batch { frames, .. } => frames.len(),
        _ => 0,
    };
    let wait = Duration::from_secs(10);
    assert_eq!(frames(beside.rig.results.recv_timeout(wait).expect("the first batch")), 1);
    assert_eq!(frames(beside.rig.results.recv_timeout(wait).expect("the second")), 2, "both that waited");
}

#[test]
fn a_batch_that_is_done_early_is_not_waited_for() {
    let beside = Beside::new(|_| Ok(()));
    beside.settle();
    beside.push();
    beside.until("it is submitted", |b| b.submitted() == 1);
    beside.settle();
    assert!(beside.rig.results.is_empty());
    beside.done.store(1, SeqCst);
    beside.rig.device.ring();
    let early = beside.rig.results.recv_timeout(Duration::from_secs(10));
    assert!(early.is_ok(), "time stands still meanwhile");
}

/// What is under way when the engine is given up has failed too.
#[test]
fn batches_in_flight_are_not_forgotten() {
    let beside = Beside::new(|_| Err(engine_fault()));
    beside.settle();
    for n in 1..=2 {
        beside.push();
        beside.until("it is submitted", |b| b.submitted() == n);
        beside.done.store(n, SeqCst);
        beside.rig.device.ring();
        beside.until("it has failed", |b| b.failed() == n as u64);
    }
    beside.push();
    beside.until("it is submitted", |b| b.submitted() == 3);
    beside.push();
    beside.pass(80);
    beside.until("the fourth is submitted before the third is done", |b| b.submitted() == 4);
    beside.done.store(usize::MAX, SeqCst);
    let rig = beside.rig;
    rig.infer.join().expect("no panic").expect_err("three failures in a row end the stage");
    let counts = rig.board.camera(CameraId(0)).ledger.read();
    assert_eq!((counts.frames_in, counts.of(Fate::Failed), counts.in_flight()), (4, 4, 0));
}
