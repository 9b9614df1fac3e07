//! The frame path allocates nothing in steady state: batcher and pacer, as `tests/bench/batch.rs` measures it, and behind its lock with
//! frames that are given up on both sides.
//!
//! Not seen here: what GStreamer and ONNX Runtime do on their side, and `analyze`, whose events are text.

#![allow(
    unsafe_code,
    reason = "an allocator is unsafe to write, and this one hands everything to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use weir::board::Board;
use weir::clock::{Clock, ManualClock, Tick, Wall};
use weir::config::{DropPolicy, Priority};
use weir::flow::batch::{Batcher, CameraSettings, Settings, Step, Wait};
use weir::flow::curve::{Curve, Rung};
use weir::flow::pace::{Objective, Pacer};
use weir::flow::window::Window;
use weir::frame::{CameraId, Fate, Frame, FrameKey, Size, Stamp};
use weir::intake::{Next, Port, intake};
use weir::supervise::Beat;

const CAMERAS: u32 = 2_000;
const BATCH: usize = 32;

thread_local! {
    /// By thread: tests run beside each other.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    // A thread that ends has no counter any more, and nobody asks for it.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations this thread makes in there.
fn allocations(mut work: impl FnMut()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn settings(id: u32, drop_policy: DropPolicy, paced: bool) -> CameraSettings {
    let priority = if paced && id % 2 == 1 { Priority::Bulk } else { Priority::Realtime };
    CameraSettings { drop_policy, priority, ..CameraSettings::default() }
}

fn pace(saturated: bool) -> Wait {
    let rung = |frames: usize| Rung { frames, service: Duration::from_micros(4_000 + 1_000 * frames as u64) };
    Wait::WherePays {
        limit: Duration::from_millis(30),
        curve: Curve::new(&[1, 2, 4, 8, 16, 32].map(rung)),
        saturated,
        bulk_slots: 12,
    }
}

#[test]
fn an_allocation_is_seen() {
    let mut made = Vec::new();
    assert!(allocations(|| made = vec![1u8; 100]) > 0 && made.len() == 100);
}

#[test]
fn the_batcher_allocates_nothing() {
    for (policy, load, paced) in [
        (DropPolicy::Oldest, 1, false),
        (DropPolicy::Oldest, 2, false),
        (DropPolicy::SkipFrame, 2, false),
        (DropPolicy::Oldest, 1, true),
        (DropPolicy::Oldest, 2, true),
    ] {
        let mut batcher = Batcher::new(Settings { max_batch_frames: BATCH, ..Settings::default() });
        (0..CAMERAS).for_each(|id| batcher.add_camera(CameraId(id), settings(id, policy, paced)));
        if paced {
            batcher.steer(pace(load > 1));
        }
        let Wait::WherePays { curve, limit, .. } = pace(false) else { unreachable!("it is that") };
        let objective = Objective { target: Duration::from_millis(100), max_wait: limit, max_batch: BATCH };
        let (mut pacer, mut latency) = (Pacer::new(objective, curve), Window::new(Duration::from_secs(1)));
        let step = Duration::from_millis(33) / CAMERAS;
        let (mut now, mut seq, mut busy, mut lost, mut sent) = (Tick::ZERO, 0, 0, 0, 0);
        let (mut batch, mut dropped) = (Vec::with_capacity(BATCH), Vec::new());
        // A frame of each camera; the engine is free again after `load` times as many as it takes.
        let mut round = || {
            for id in 0..CAMERAS {
                now = now + step;
                batcher.push(now, FrameKey { camera: CameraId(id), seq }, 0u64);
                busy = u32::saturating_sub(busy, 1);
                let slots = if busy == 0 { BATCH } else { 0 };
                pacer.came(now, Duration::from_millis(5));
                if batcher.poll(now, slots, &mut batch) == Step::Send {
                    busy = if load > 1 { batch.len() as u32 * load } else { 0 };
                    pacer.ran(batch.len(), curve.service(batch.len()));
                    batch.iter().for_each(|_| latency.note(now, Duration::from_millis(60)));
                }
                if pacer.is_due(now) {
                    pacer.look(now, batcher.take_tally(), &mut latency);
                    if paced {
                        batcher.steer(pacer.wait());
                    }
                }
                batcher.take_dropped(&mut dropped);
                (lost, sent) = (lost + dropped.len(), sent + batch.len());
                batch.clear();
                dropped.clear();
            }
            seq += 1;
        };
        (0..100).for_each(|_| round());
        let made = allocations(|| (0..30).for_each(|_| round()));
        assert_eq!(made, 0, "{policy:?}, load {load}, paced: {paced}");
        assert!(sent > 0 && (lost > 0) == (load > 1), "{sent} sent, {lost} lost");
    }
}

#[test]
fn what_is_given_up_behind_the_lock_allocates_nothing() {
    for policy in [DropPolicy::Oldest, DropPolicy::SkipFrame] {
        let board = Arc::new(Board::new((0..CAMERAS).map(|id| format!("cam{id}").into())));
        let manual = ManualClock::new();
        let clock: Arc<dyn Clock> = Arc::new(manual.clone());
        let cameras: Vec<_> = (0..CAMERAS).map(|id| (CameraId(id), settings(id, policy, false))).collect();
        let limits = Settings { max_batch_frames: BATCH, max_wait: Duration::ZERO, ..Settings::default() };
        let beat = Beat::new(clock.now());
        let (ports, intake): (Vec<Port<u64>>, _) = intake(limits, &cameras, &board, &clock, beat);
        let step = Duration::from_millis(33) / CAMERAS;
        let mut batch = Vec::with_capacity(BATCH);
        let mut round = || {
            for (port, turn) in ports.iter().zip(1..) {
                manual.advance(step);
                let now = clock.now();
                let stamp = Stamp { arrived: now, decoded: now, pts: None, wall: Wall(0) };
                port.push(Frame { stamp, size: Size { width: 640, height: 480 }, pixels: 0 });
                // Half of what comes: there is always a batch, so nobody waits.
                if turn % (2 * BATCH) == 0 {
                    assert_eq!(intake.next(BATCH, None, &mut batch), Next::Batch);
                    for (key, _) in batch.drain(..) {
                        board.settle(key, Fate::Inferred);
                    }
                }
            }
        };
        (0..100).for_each(|_| round());
        assert_eq!(allocations(|| (0..30).for_each(|_| round())), 0, "{policy:?}");
        let lost: u64 = board
            .cameras()
            .map(|card| card.ledger.read())
            .map(|counts| counts.of(Fate::Overrun) + counts.of(Fate::Skipped) + counts.of(Fate::Stale))
            .sum();
        assert!(lost > u64::from(CAMERAS) * 30, "{policy:?}: {lost} were given up");
    }
}
