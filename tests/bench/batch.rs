//! What the batcher costs a frame: one push, its share of the polls, and nothing else.
//!
//! `light`: the engine takes all that waits. `overload`: it takes half of what comes, and the policy works. `paced`: the same
//! as the pacer steers it, every other camera `bulk`. Allocations are counted: there are none.

use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use weir::clock::Tick;
use weir::config::{DropPolicy, Priority};
use weir::flow::batch::{Batcher, CameraSettings, Settings, Step, Wait};
use weir::flow::curve::{Curve, Rung};
use weir::frame::{CameraId, FrameKey};

#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

const CAMERAS: [u32; 3] = [4, 64, 2_000];
const BATCH: usize = 32;

fn main() {
    divan::main();
}

#[divan::bench(args = CAMERAS)]
fn light(bencher: Bencher, cameras: u32) {
    run(bencher, cameras, DropPolicy::Oldest, 1, false);
}

#[divan::bench(args = CAMERAS)]
fn overload_oldest(bencher: Bencher, cameras: u32) {
    run(bencher, cameras, DropPolicy::Oldest, 2, false);
}

#[divan::bench(args = CAMERAS)]
fn overload_skip_frame(bencher: Bencher, cameras: u32) {
    run(bencher, cameras, DropPolicy::SkipFrame, 2, false);
}

#[divan::bench(args = CAMERAS)]
fn paced_light(bencher: Bencher, cameras: u32) {
    run(bencher, cameras, DropPolicy::Oldest, 1, true);
}

#[divan::bench(args = CAMERAS)]
fn paced_overload(bencher: Bencher, cameras: u32) {
    run(bencher, cameras, DropPolicy::Oldest, 2, true);
}

/// One iteration is one frame of each camera, spread over 33 ms; the batcher is asked after each. The
/// engine is free again after `load` times as many frames as it takes.
fn run(bencher: Bencher, cameras: u32, drop_policy: DropPolicy, load: u32, paced: bool) {
    let mut batcher = Batcher::new(Settings { max_batch_frames: BATCH, ..Settings::default() });
    for id in 0..cameras {
        let ring = Duration::from_millis(300);
        let priority = if paced && id % 2 == 1 { Priority::Bulk } else { Priority::Realtime };
        let settings = CameraSettings { ring, drop_policy, priority, ..CameraSettings::default() };
        batcher.add_camera(CameraId(id), settings);
    }
    if paced {
        let rung =
            |frames: usize| Rung { frames, service: Duration::from_micros(4_000 + 1_000 * frames as u64) };
        batcher.steer(Wait::WherePays {
            limit: Duration::from_millis(30),
            curve: Curve::new(&[1, 2, 4, 8, 16, 32].map(rung)),
            saturated: load > 1,
            bulk_slots: 12,
        });
    }
    let step = Duration::from_millis(33) / cameras;
    let (mut now, mut seq, mut busy) = (Tick::ZERO, 0, 0);
    let (mut batch, mut dropped) = (Vec::with_capacity(BATCH), Vec::with_capacity(64));
    let mut round = || {
        for id in 0..cameras {
            now = now + step;
            batcher.push(now, FrameKey { camera: CameraId(id), seq }, 0u64);
            busy = u32::saturating_sub(busy, 1);
            let slots = if busy == 0 { BATCH } else { 0 };
            if batcher.poll(now, slots, &mut batch) == Step::Send {
                busy = if load > 1 { batch.len() as u32 * load } else { 0 };
            }
            batcher.take_dropped(&mut dropped);
            divan::black_box(&batch);
            batch.clear();
            dropped.clear();
        }
        seq += 1;
    };
    // Intervals are known and the queue stands.
    (0..100).for_each(|_| round());
    bencher.counter(ItemsCount::new(cameras)).bench_local(round);
}
