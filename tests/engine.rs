//! What happens to frames when the engine misbehaves: every frame has exactly one fate, and an engine that is
//! dead ends the process instead of running blind. The engine is scripted; the real one is in `software.rs`.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use weir::board::Board;
use weir::clock::{Clock, SystemClock, Tick, Wall, bell};
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
    infer: std::thread::JoinHandle<Result<(), Fault>>,
}

/// Two cameras and an engine for batches of up to `most`; `script` gets the number of the run, from 1.
fn rig(most: usize, mut script: impl FnMut(usize) -> Result<(), Fault> + Send + 'static) -> Rig {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
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
    let device = Scripted::new(
        most,
        Vec::new(),
        Box::new(move |_| {
            runs += 1;
            script(runs).map(|()| ScriptedOutputs { tensors: Vec::new() })
        }),
    );
    let engine = device.engine().expect("the script is there");
    let (tx, results) = unbounded();
    let curve = Curve::new(&[Rung { frames: most, service: Duration::from_millis(1) }]);
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
    Rig { ports, board, results, infer: std::thread::spawn(move || infer.run()) }
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
