//! Thinning around the real batcher, in virtual time, against the same world without it.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::flow::batch::{Batcher, CameraSettings, Settings, Step};
use crate::frame::{CameraId, FrameKey};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Cameras that send pictures of these kinds, over and over, and one engine that takes frames one by one.
struct World {
    cameras: usize,
    interval: u64,
    pattern: Vec<Kind>,
    /// Service time by the second.
    service: fn(u64) -> u64,
    seconds: u64,
    thinned: bool,
    max_fps: Option<f64>,
    /// Runs take up to this part more or less.
    noise: f64,
    /// All cameras send at the same moments.
    in_step: bool,
}

#[derive(Default, Debug)]
struct Outcome {
    came: u64,
    decoded: u64,
    skipped: u64,
    dropped: u64,
    /// By camera.
    sent: Vec<u64>,
    /// Milliseconds between a frame's coming and its turn.
    ages: Vec<u64>,
    /// Changes of the first camera's level: millisecond and level.
    levels: Vec<(u64, Level)>,
}

impl Outcome {
    fn inferred(&self) -> f64 {
        self.sent.iter().sum::<u64>() as f64
    }

    fn p95(&mut self) -> u64 {
        self.ages.sort_unstable();
        self.ages[self.ages.len() * 95 / 100]
    }

    fn decoded_part(&self) -> f64 {
        self.decoded as f64 / self.came as f64
    }
}

fn overloaded(pattern: Vec<Kind>) -> World {
    World {
        cameras: 8,
        interval: 67,
        pattern,
        service: |_| 50,
        seconds: 60,
        thinned: true,
        max_fps: None,
        noise: 0.1,
        in_step: false,
    }
}

impl World {
    fn play(&self) -> Outcome {
        let mut batcher = Batcher::new(Settings { max_batch_frames: 1, max_wait: ms(10), bulk_share: 0.05 });
        let ids: Vec<CameraId> = (0..self.cameras as u32).map(CameraId).collect();
        for id in &ids {
            let settings =
                CameraSettings { max_fps: self.max_fps, thin: self.thinned, ..CameraSettings::default() };
            batcher.add_camera(*id, settings);
        }
        let mut out = Outcome { sent: vec![0; self.cameras], ..Outcome::default() };
        let mut rng = fastrand::Rng::with_seed(7);
        let mut next: Vec<u64> =
            ids.iter().map(|_| if self.in_step { 0 } else { rng.u64(0..self.interval) }).collect();
        let (mut counts, mut seqs) = (vec![0; self.cameras], vec![0; self.cameras]);
        let mut decoding: VecDeque<(u64, CameraId, u64)> = VecDeque::new();
        let (mut free_at, mut batch, mut dropped) = (0, Vec::new(), Vec::new());
        for now in 0..self.seconds * 1000 {
            let tick = Tick::from_millis(now);
            for (id, next) in ids.iter().zip(&mut next).filter(|(_, next)| **next == now) {
                *next += if self.in_step { self.interval } else { self.interval + rng.u64(0..5) - 2 };
                let kind = self.pattern[counts[id.index()] % self.pattern.len()];
                counts[id.index()] += 1;
                out.came += 1;
                if !batcher.wants(tick, *id, kind) {
                    out.skipped += 1;
                } else {
                    out.decoded += 1;
                    decoding.push_back((now + 5, *id, now));
                }
                let level = batcher.level(ids[0]);
                if out.levels.last().map_or(Level::All, |(_, last)| *last) != level {
                    out.levels.push((now, level));
                }
            }
            while let Some((_, id, came)) = decoding.pop_front_if(|(at, ..)| *at == now) {
                seqs[id.index()] += 1;
                batcher.push(tick, FrameKey { camera: id, seq: seqs[id.index()] }, came);
            }
            let slots = usize::from(now >= free_at);
            if batcher.poll(tick, slots, &mut batch) == Step::Send {
                let took = (self.service)(now / 1000) as f64;
                free_at = now + (took * (1.0 + self.noise * (2.0 * rng.f64() - 1.0))) as u64;
                for (key, came) in batch.drain(..) {
                    out.sent[key.camera.index()] += 1;
                    out.ages.push(now - came);
                }
            }
            batcher.take_dropped(&mut dropped);
            out.dropped += dropped.len() as u64;
            dropped.clear();
        }
        let waiting: usize = ids.iter().map(|id| batcher.waiting(*id)).sum();
        let left = (waiting + decoding.len()) as u64;
        let sent: u64 = out.sent.iter().sum();
        assert_eq!(out.came, sent + out.skipped + out.dropped + left, "each picture has one fate");
        out
    }

    fn without(&self) -> Outcome {
        World { thinned: false, pattern: self.pattern.clone(), ..*self }.play()
    }
}

/// I B B P B B P …, 30 pictures.
fn with_b_frames() -> Vec<Kind> {
    let kind = |n| match n {
        0 => Kind::Key,
        n if n % 3 == 1 => Kind::Reference,
        _ => Kind::Disposable,
    };
    (0..30).map(kind).collect()
}

fn key_and_references(pictures: usize) -> Vec<Kind> {
    (0..pictures).map(|n| if n == 0 { Kind::Key } else { Kind::Reference }).collect()
}

#[test]
fn decoding_what_a_turn_takes_costs_no_frame_and_no_latency() {
    // 120 pictures come in a second and 20 are taken. At most two a turn are decoded, and what others need.
    for (pattern, most, noise) in
        [(vec![Kind::Single], 0.45, 0.1), (with_b_frames(), 0.65, 0.1), (vec![Kind::Single], 0.5, 0.8)]
    {
        let world = World { noise, ..overloaded(pattern) };
        let (mut thinned, mut full) = (world.play(), world.without());
        assert!(thinned.decoded_part() < most, "{:.2} decoded", thinned.decoded_part());
        assert!(
            thinned.inferred() >= 0.99 * full.inferred(),
            "{} of {}",
            thinned.inferred(),
            full.inferred()
        );
        assert!(thinned.p95() <= full.p95() + 5, "{} ms after {} ms", thinned.p95(), full.p95());
        let (least, most) = (thinned.sent.iter().min(), thinned.sent.iter().max());
        assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 3), "{:?}", thinned.sent);
        assert!(thinned.levels.len() <= 1, "the level saws: {:?}", thinned.levels);
    }
}

#[test]
fn an_engine_that_keeps_up_has_everything_decoded() {
    for (pattern, cameras) in [(vec![Kind::Single], 8), (with_b_frames(), 8), (key_and_references(15), 3)] {
        let world = World { cameras, service: |_| 6, ..overloaded(pattern) };
        let out = world.play();
        assert_eq!((out.skipped, out.levels.as_slice()), (0, &[][..]));
    }
}

#[test]
fn a_faster_engine_opens_the_gate_by_itself() {
    let world =
        World { service: |second| if second < 20 { 50 } else { 7 }, ..overloaded(vec![Kind::Single]) };
    let out = world.play();
    let (back, level) = out.levels.last().copied().expect("it was thinned");
    assert!(level == Level::All && back < 24_000, "{:?}", out.levels);
    assert!(out.inferred() >= 0.99 * world.without().inferred());
}

#[test]
fn a_camera_far_behind_is_decoded_by_key_frames_until_there_is_room() {
    // A key frame a second; each camera gets 1.1 frames a second.
    let world =
        World { service: |second| if second < 40 { 113 } else { 10 }, ..overloaded(key_and_references(15)) };
    let out = world.play();
    let (first, last) = (out.levels[0], out.levels[out.levels.len() - 1]);
    assert!(first.0 < 8_000 && first.1 == Level::KeyFrames, "{:?}", out.levels);
    assert!((41_000..55_000).contains(&last.0) && last.1 == Level::All, "{:?}", out.levels);
    // Its key frames may have been stale too often for a while.
    assert!(out.levels.len() <= 4, "{:?}", out.levels);

    // Those that are not far behind take what the others leave: the engine stays full.
    let world = World { service: |_| 113, ..overloaded(key_and_references(15)) };
    let (out, full) = (world.play(), world.without());
    assert!(out.decoded_part() < 0.6, "{:.2} decoded", out.decoded_part());
    assert!(out.inferred() >= 0.97 * full.inferred(), "{} of {}", out.inferred(), full.inferred());

    // With two frames a key interval it would lose too much.
    let world = World { service: |_| 60, ..overloaded(key_and_references(15)) };
    let out = world.play();
    assert_eq!(out.skipped, 0);
}

#[test]
fn key_frames_that_come_all_at_once_are_not_relied_on() {
    // Eight key frames every second: the ring's 300 ms are over after the third.
    let world = World { service: |_| 113, seconds: 300, in_step: true, ..overloaded(key_and_references(15)) };
    let (out, full) = (world.play(), world.without());
    assert!(out.inferred() >= 0.93 * full.inferred(), "{} of {}", out.inferred(), full.inferred());
    assert!(out.levels.len() <= 12, "{:?}", out.levels);
    let (least, even) = (out.sent.iter().min().copied().unwrap_or(0), full.inferred() / 8.0);
    assert!(least as f64 >= 0.8 * even, "{:?}", out.sent);
}

#[test]
fn the_level_does_not_saw_at_its_edge() {
    // The engine gives now a little more, now a little less than far behind.
    let world = World {
        service: |second| if second / 10 % 2 == 0 { 105 } else { 95 },
        seconds: 300,
        ..overloaded(key_and_references(15))
    };
    let out = world.play();
    assert!(out.levels.len() <= 2, "{:?}", out.levels);
}

#[test]
fn a_rate_cap_spares_the_decoder_too() {
    let world = World { service: |_| 5, max_fps: Some(3.0), ..overloaded(vec![Kind::Single]) };
    let (out, full) = (world.play(), world.without());
    assert!(out.decoded_part() < 0.5, "{:.2} decoded", out.decoded_part());
    assert!(out.inferred() >= 0.98 * full.inferred(), "{} of {}", out.inferred(), full.inferred());
    let per_camera = 3.0 * 60.0;
    assert!(out.sent.iter().all(|n| (*n as f64 - per_camera).abs() <= 4.0), "{:?}", out.sent);
}

#[test]
fn a_camera_may_have_everything_decoded() {
    for pattern in [vec![Kind::Single], vec![Kind::Key, Kind::Reference, Kind::Disposable]] {
        let out = overloaded(pattern).without();
        assert_eq!((out.decoded, out.skipped), (out.came, 0));
        assert!(out.levels.is_empty(), "{:?}", out.levels);
    }
}

#[test]
fn a_camera_that_comes_back_is_decoded_in_full() {
    let mut thin = Thin::default();
    for n in 0..20 {
        thin.sent(Tick::from_millis(n * 1_000), 1);
        for picture in 0..15 {
            thin.comes(Tick::from_millis(n * 1_000 + picture * 66), Kind::Single, Room::default());
        }
    }
    assert_eq!(thin.level(), Level::References);
    thin.reset();
    assert!(thin.comes(Tick::from_millis(20_300), Kind::Single, Room::default()));
    assert_eq!(thin.level(), Level::All);
}

fn unit() -> impl Strategy<Value = Coded> {
    let kind = prop_oneof![1 => Just(Kind::Key), 4 => Just(Kind::Reference), 4 => Just(Kind::Disposable)];
    (kind, prop::bool::weighted(0.2)).prop_map(|(kind, leans_back)| Coded {
        kind,
        starts: true,
        leans_back: leans_back && kind != Kind::Key,
    })
}

proptest! {
    /// Whatever is wanted, a picture reaches the decoder only if every reference since the last key frame has, and one that
    /// leans back only if nothing was missing before that key frame either.
    #[test]
    fn a_decoder_never_misses_a_reference(
        units in prop::collection::vec((unit(), any::<bool>()), 1..80),
    ) {
        let (mut valve, mut missing, mut before) = (Valve::default(), false, false);
        let mut last: Option<Coded> = None;
        for (unit, wanted) in units {
            let pass = valve.pass(unit, |_| wanted);
            // The rest of a split picture shares its fate: the next property.
            if last.replace(unit).is_some_and(|last| unit == (Coded { starts: false, ..last })) {
                continue;
            }
            if unit.kind != Kind::Key && !unit.leans_back {
                before = false;
            }
            match unit.kind {
                Kind::Key => {
                    prop_assert_eq!(pass, Pass::Decode);
                    (before, missing) = (missing, false);
                }
                _ if pass == Pass::Decode => {
                    prop_assert!(!missing, "{:?} after a missing reference", unit);
                    prop_assert!(!(unit.leans_back && before), "{:?} leans on what is missing", unit);
                }
                Kind::Reference if !(unit.leans_back && before) => missing = true,
                _ => {}
            }
        }
    }

    /// Each picture is asked about once, however often it was split.
    #[test]
    fn parts_of_a_picture_share_its_fate(parts in 1usize..6, kind in prop_oneof![
        Just(Kind::Reference), Just(Kind::Disposable)
    ], wanted in any::<bool>()) {
        let (mut valve, mut asked) = (Valve::default(), 0);
        for part in 0..parts {
            let unit = Coded { kind, starts: part == 0, leans_back: false };
            let pass = valve.pass(unit, |_| { asked += 1; wanted });
            prop_assert_eq!(pass == Pass::Decode, wanted);
            prop_assert!(pass != Pass::Drain || part == 0);
        }
        prop_assert_eq!(asked, 1);
    }
}
