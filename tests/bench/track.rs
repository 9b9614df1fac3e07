//! What one frame costs the tracker, with 10, 50 and 200 objects that walk about and are missed now and then.

use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use weir::clock::Tick;
use weir::config;
use weir::flow::track::Tracker;
use weir::frame::{BBox, Detection, Size};

fn main() {
    divan::main();
}

const SIZE: Size = Size { width: 1920, height: 1080 };
const FRAMES: usize = 500;

/// Five hundred frames at 25 fps of walkers that turn round at the edges; a tenth of them is not seen, a tenth is weak.
fn walkers(count: usize) -> Vec<Vec<Detection>> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut walkers: Vec<(BBox, f32, f32)> = (0..count)
        .map(|_| {
            let bbox = BBox { x: random.f32() * 1850.0, y: random.f32() * 900.0, w: 60.0, h: 150.0 };
            (bbox, random.f32() * 6.0 - 3.0, random.f32() * 4.0 - 2.0)
        })
        .collect();
    (0..FRAMES)
        .map(|_| {
            let mut seen = Vec::new();
            for (bbox, vx, vy) in &mut walkers {
                if !(0.0..1860.0).contains(&(bbox.x + *vx)) {
                    *vx = -*vx;
                }
                if !(0.0..930.0).contains(&(bbox.y + *vy)) {
                    *vy = -*vy;
                }
                bbox.x += *vx;
                bbox.y += *vy;
                let score = [0.0, 0.3, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9][random.usize(..10)];
                let trembling = BBox { x: bbox.x + random.f32(), y: bbox.y + random.f32(), ..*bbox };
                if score > 0.0 {
                    seen.push(Detection { bbox: trembling, class: 0, score });
                }
            }
            seen
        })
        .collect()
}

#[divan::bench(args = [10, 50, 200], sample_count = 1000, sample_size = 1)]
fn update(bencher: Bencher, objects: usize) {
    let frames = walkers(objects);
    let settings =
        config::Track { high_score: 0.5, low_score: 0.1, confirm_frames: 3, lost: Duration::from_secs(1) };
    let mut tracker = Tracker::new(settings);
    let mut frame = 0;
    // There and back again, so that the last frame joins on to the first.
    let mut next = move || {
        let turn = frame % (2 * FRAMES);
        let seen = &frames[if turn < FRAMES { turn } else { 2 * FRAMES - 1 - turn }];
        frame += 1;
        tracker.update(Tick::from_millis(40 * frame as u64), SIZE, seen).len()
    };
    // Measured is the steady state: with buffers grown, and some tracks lost.
    for _ in 0..FRAMES {
        next();
    }
    bencher.counter(ItemsCount::new(1usize)).bench_local(next);
}
