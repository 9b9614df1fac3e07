//! What flow control promises, on the simulator: the real batcher and pacer, scripted cameras, virtual time.

#[path = "simulate/mod.rs"]
mod simulate;

use std::time::Duration;

use simulate::{Arrivals, Camera, Outcome, Steering, WARM, World, best, cameras, curve, ms, sweep};
use weir::config::DropPolicy;
use weir::flow::curve::{Curve, Rung};
use weir::flow::predict::predict;
use weir::frame::Fate;

const PACED: Steering = Steering::Paced { target: Duration::from_millis(100) };

/// What is drawn differs by these: phases, jitter, how long a run takes.
const SEEDS: [u64; 3] = [1, 2, 3];

/// Plays this world, and sees that each of its frames has exactly one fate.
fn play(world: &World) -> Outcome {
    let outcome = world.play();
    let came: u64 = outcome.came.iter().sum();
    let fates: u64 = outcome.fates.iter().flatten().sum();
    assert_eq!(came, fates + outcome.in_flight, "each frame has exactly one fate");
    outcome
}

#[test]
fn the_target_is_kept_at_every_load_and_costs_no_goodput() {
    for (name, target, arrivals) in [
        ("gpu", 60.0, Arrivals::Steady),
        ("gpu", 100.0, Arrivals::Steady),
        ("gpu", 100.0, Arrivals::Poisson),
        ("gpu", 200.0, Arrivals::Bursty),
        ("cpu", 120.0, Arrivals::Steady),
        ("h200", 40.0, Arrivals::Steady),
    ] {
        let curve = curve(name);
        let loads = [0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 1.0, 1.1, 1.5, 2.5, 3.0];
        // A hundred cameras take their time.
        let large = |load: &f64| curve.capacity() < 2_000.0 || [0.5, 0.9, 1.5].contains(load);
        let seeds = if curve.capacity() < 2_000.0 { &SEEDS[..] } else { &SEEDS[..1] };
        let runs =
            loads.into_iter().filter(large).flat_map(|load| seeds.iter().map(move |seed| (load, *seed)));
        for (load, seed) in runs {
            let play = |steering| {
                play(&World { seed, ..World::new(cameras(load, &curve, arrivals), &curve, steering) })
            };
            let fixed = sweep(&curve, &[0.0, 5.0, 30.0, 100.0], play);
            let paced = play(Steering::Paced { target: ms(target) });
            let said = format!("{name}, {target} ms, {arrivals:?}, load {load}, seed {seed}");
            // The pacer knows the p95 of a second, which is off by a few hundredths by luck; a fixed setting that uses the target to the last
            // tenth of a millisecond keeps it by luck, too (gpu, 100 ms, Poisson, 2.5 times the load, one seed: 99.6 ms and 1.06 of the
            // pacer's goodput).
            for (part_of_target, least) in [(1.0, 0.94), (0.99, 0.97)] {
                let Some((.., fixed)) = best(&fixed, part_of_target * target) else { continue };
                assert!(paced.p95() <= 1.01 * target, "{said}: p95 {:.1}", paced.p95());
                let part = paced.goodput() / fixed.goodput();
                assert!(part >= least, "{said}: {part:.3} of the best fixed setting's goodput");
            }
        }
    }
}

#[test]
fn beyond_capacity_the_engine_is_full_losses_are_even_and_latency_is_flat() {
    for (name, arrivals) in [("gpu", Arrivals::Steady), ("gpu", Arrivals::Poisson), ("cpu", Arrivals::Steady)]
    {
        full_even_and_flat(&curve(name), arrivals);
    }
}

fn full_even_and_flat(curve: &Curve, arrivals: Arrivals) {
    let regular = matches!(arrivals, Arrivals::Steady);
    let mut latencies = Vec::new();
    for load in [1.2, 1.5, 2.0, 3.0] {
        for policy in [DropPolicy::Oldest, DropPolicy::SkipFrame] {
            let cameras: Vec<Camera> =
                cameras(load, curve, arrivals).into_iter().map(|c| c.policy(policy)).collect();
            let outcome = play(&World::new(cameras.clone(), curve, PACED));
            let said = format!("{arrivals:?}, {load} {policy:?}");
            let part = outcome.goodput() / curve.capacity();
            assert!(part >= 0.98, "{said}: {part:.3} of the engine's rate");
            let rates = (0..cameras.len()).map(|camera| outcome.rate(camera));
            let (least, most) = rates.fold((f64::MAX, 0.0f64), |(l, m), r| (l.min(r), m.max(r)));
            // Not far above capacity those that happen to send less than others are served less.
            let even = if regular || load >= 2.0 { 1.0 } else { 4.0 };
            assert!(most - least <= even, "{said}: {least:.1} to {most:.1} frames a second");
            latencies.push(outcome.p95());
        }
    }
    let (least, most) = latencies.iter().fold((f64::MAX, 0.0f64), |(l, m), r| (l.min(*r), m.max(*r)));
    // To a third of a run, where that is long. What a random camera has at its turn is as old as its last gap: at three times the load nearly all of its
    // latency is that.
    let run = curve.service(1).as_secs_f64() * 1e3;
    let flat = if regular { f64::max(5.0, run / 3.0) } else { 40.0 };
    assert!(most - least <= flat, "{arrivals:?}: p95 from {least:.1} to {most:.1} ms");
}

#[test]
fn cameras_of_mixed_rates_keep_their_own() {
    let curve = curve("gpu");
    let mixed: Vec<Camera> = [30.0, 30.0, 15.0, 10.0].map(|fps| Camera::new(fps, Arrivals::Steady)).to_vec();
    // Nothing but decoding (10 ms at most, 9.75 at the 95th percentile), one run and analysis; and at most 5 ms of waiting for company or
    // for the engine, which is busy a fifth of the time.
    let service = curve.service(1).as_secs_f64() * 1e3;
    for seed in SEEDS {
        let outcome = play(&World { seed, ..World::new(mixed.clone(), &curve, PACED) });
        for (id, camera) in mixed.iter().enumerate() {
            let rate = outcome.rate(id);
            assert!((rate - camera.fps).abs() < 0.2, "seed {seed}: {rate} of {}", camera.fps);
            let p95 = outcome.percentile(0.95, |of| of == id, WARM, f64::INFINITY);
            let over = p95 - service - 9.75 - 1.0;
            assert!(over <= 5.0, "seed {seed}: {over:.1} ms over the service time at {} fps", camera.fps);
        }
    }
}

#[test]
fn eight_jittered_cameras_fill_their_batches_at_saturation() {
    let rungs = [(1, 30.0), (2, 36.0), (4, 48.0), (8, 72.0)];
    // 120 fps come; 111 fit, or 80 of an engine that is slower by 1.4. On an engine that pads, the eighth frame costs nothing but the wait for it. One
    // that does not is better off running seven at once than waiting for the eighth, so it is not asked for that.
    let curve = Curve::new(&rungs.map(|(frames, service)| Rung { frames, service: ms(service) })).padded();
    // A Poisson process has long gaps that no wait of 30 ms bridges: at 15 frames/s the faster engine rests 4 % of the time and runs 7.49 to
    // 7.67 of 8 slots by seed, as waiting for the eighth then costs more frames than it saves: it is not saturated. The slower one is.
    for (fps, slower, arrivals, least) in [
        (15.0, 1.0, Arrivals::Jittered(0.5), 7.9),
        (15.0, 1.0, Arrivals::Poisson, 7.4),
        (15.0, 1.4, Arrivals::Jittered(0.5), 7.9),
        (15.0, 1.4, Arrivals::Poisson, 7.9),
        (20.0, 1.0, Arrivals::Poisson, 7.85),
    ] {
        let curve = curve.scaled(slower);
        for seed in SEEDS {
            let cameras = vec![Camera::new(fps, arrivals); 8];
            let steering = Steering::Paced { target: ms(500.0) };
            let outcome = play(&World { seed, ..World::new(cameras, &curve, steering) });
            let fill = outcome.fill();
            assert!(fill >= least, "{fps} fps, {slower}, {arrivals:?}, seed {seed}: {fill:.2} of 8 slots");
        }
    }
}

#[test]
fn a_load_step_is_over_within_two_seconds_and_nothing_swings() {
    let curve = curve("gpu");
    for seed in SEEDS {
        let mut world = World::new(cameras(0.3, &curve, Arrivals::Steady), &curve, PACED);
        (world.steps, world.seconds) = (vec![(0.0, 1.0), (10.0, 5.0), (30.0, 1.0)], 50.0);
        let outcome = play(&World { seed, ..world });
        for (from, to) in [(5.0, 10.0), (10.0, 30.0), (30.0, 50.0)] {
            // The p95 of the last second, looked at each tenth of a second from two after the step on.
            for end in (0..).map(|n| from + 2.0 + 0.1 * f64::from(n)).take_while(|end| *end <= to) {
                let p95 = outcome.percentile(0.95, |_| true, end - 1.0, end);
                assert!(
                    p95 <= 100.0,
                    "seed {seed}, step at {from} s: p95 {p95:.1} in the second before {end:.1}"
                );
            }
            // Once settled, the wait stays where it is.
            let settled = |at: f64| (from + 2.0..to).contains(&at);
            let waits = outcome.paces.iter().filter(|(at, _)| settled(at.as_nanos() as f64 / 1e9));
            let waits: Vec<f64> = waits.map(|(_, pace)| pace.wait.as_secs_f64() * 1e3).collect();
            let mean = waits.iter().sum::<f64>() / waits.len() as f64;
            let swing = waits.iter().map(|wait| (wait - mean).abs()).fold(0.0, f64::max);
            assert!(swing <= 0.2 * mean, "seed {seed}, {from} to {to} s: {swing:.2} around {mean:.2} ms");
        }
    }
}

/// Realtime takes what it needs, bulk the rest and at least its share.
#[test]
fn bulk_takes_the_slack_and_no_more() {
    let curve = curve("gpu");
    let realtime = |load: f64| cameras(load, &curve, Arrivals::Steady);
    let bulk: Vec<Camera> = cameras(2.0, &curve, Arrivals::Steady).into_iter().map(Camera::bulk).collect();
    for load in [0.5, 2.0] {
        let alone = play(&World::new(realtime(load), &curve, PACED));
        let count = realtime(load).len();
        let all = realtime(load).into_iter().chain(bulk.clone()).collect();
        let both = play(&World::new(all, &curve, PACED));
        let is_realtime = |camera: usize| camera < count;
        let p95 = |o: &Outcome| o.percentile(0.95, is_realtime, WARM, f64::INFINITY);
        let moved = p95(&both) - p95(&alone);
        let rung = curve.service(32).as_secs_f64() * 1e3;
        assert!(moved <= rung, "load {load}: realtime's p95 moved by {moved:.1} ms");
        let bulk_rate: f64 = (count..count + bulk.len()).map(|camera| both.rate(camera)).sum();
        let realtime_rate: f64 = (0..count).map(|camera| both.rate(camera)).sum();
        if load < 1.0 {
            assert!(realtime_rate >= 0.99 * load * curve.capacity(), "{realtime_rate:.0}");
            assert!(
                bulk_rate + realtime_rate >= 0.85 * curve.capacity(),
                "{bulk_rate:.0} + {realtime_rate:.0}"
            );
        } else {
            let share = bulk_rate / (bulk_rate + realtime_rate);
            assert!((0.045..0.055).contains(&share), "bulk has {share:.3} of the engine");
        }
    }
}

/// L = λW (Little 1961): the mean number in the system, integrated over time, against rate times mean time in it.
#[test]
fn littles_law_holds() {
    let worlds = ["gpu", "cpu"].into_iter().flat_map(|name| {
        let all = [Arrivals::Steady, Arrivals::Poisson, Arrivals::Bursty];
        all.into_iter().flat_map(move |arrivals| [0.5, 0.9, 2.0].map(|load| (name, arrivals, load)))
    });
    for (name, arrivals, load) in worlds {
        let curve = curve(name);
        let outcome = play(&World::new(cameras(load, &curve, arrivals), &curve, PACED));
        let left: u64 = outcome.fates.iter().flatten().sum();
        let (l, lambda) = (outcome.integral / outcome.seconds, left as f64 / outcome.seconds);
        let w = outcome.sojourn / left as f64;
        assert!(
            (l / (lambda * w) - 1.0).abs() < 0.05,
            "{name}, {arrivals:?}, load {load}: L {l:.2}, λW {:.2}",
            lambda * w
        );
    }
}

/// An engine for 12,800 frames a second.
fn fast() -> Curve {
    let rungs = [(1, 0.5), (8, 1.0), (32, 2.5)];
    Curve::new(&rungs.map(|(frames, service)| Rung { frames, service: ms(service) }))
}

/// As many as one daemon is asked to hold: below the engine's rate all is inferred soon, above it each camera gets the same.
#[test]
fn two_thousand_cameras_are_served_alike() {
    let fast = fast();
    for load in [0.5, 0.9, 1.5] {
        let fps = load * fast.capacity() / 2_000.0;
        let mut world = World::new(vec![Camera::new(fps, Arrivals::Steady); 2_000], &fast, PACED);
        world.seconds = 8.0;
        let outcome = play(&world);
        let least = 0.99 * load.min(1.0) * fast.capacity();
        assert!(outcome.goodput() >= least, "load {load}: {:.0} frames/s", outcome.goodput());
        let rates = (0..2_000).map(|camera| outcome.rate(camera));
        let (slowest, fastest) = rates.fold((f64::MAX, 0.0f64), |(l, m), r| (l.min(r), m.max(r)));
        // One frame more or less in five seconds, at either end.
        assert!(fastest - slowest <= 0.41, "load {load}: {slowest:.2} to {fastest:.2} frames/s");
        // Above it, what a camera gives at its turn is up to one of its frame intervals old, 104 ms.
        let late = if load < 1.0 { 20.0 } else { 1e3 / fps + 15.0 };
        assert!(outcome.p95() <= late, "load {load}: p95 {:.1}", outcome.p95());
        assert!(load > 1.0 || outcome.lost() == 0.0, "load {load}: {:.4} lost", outcome.lost());
    }
}

/// A camera that falls silent and comes back, among a thousand, is nobody's trouble.
#[test]
fn a_stalled_camera_among_many_costs_nobody_a_frame() {
    let fast = fast();
    let mut cameras = vec![Camera::new(10.0, Arrivals::Steady); 999];
    cameras.push(Camera::new(10.0, Arrivals::Stalled(4.0, 7.0)));
    let mut world = World::new(cameras, &fast, PACED);
    world.seconds = 10.0;
    let outcome = play(&world);
    let lost: u64 =
        outcome.fates.iter().map(|fates| fates.iter().sum::<u64>() - fates[Fate::Inferred as usize]).sum();
    assert_eq!(lost, 0);
    assert!(outcome.p95() < 30.0, "{:.1}", outcome.p95());
}

/// What `weir plan` says against what happens.
#[test]
fn the_predicted_latency_is_what_the_simulator_sees() {
    let mut wrong = Vec::new();
    for (name, arrivals) in
        [("gpu", Arrivals::Steady), ("gpu", Arrivals::Jittered(0.3)), ("cpu", Arrivals::Steady)]
    {
        let curve = curve(name);
        for load in [0.3, 0.5, 0.7] {
            // On a CPU a single fast camera has nobody to meet: several slow ones are the harder case.
            let all = if name == "cpu" {
                vec![Camera::new(load * curve.capacity() / 5.0, arrivals); 5]
            } else {
                cameras(load, &curve, arrivals)
            };
            let count = all.len() as u32;
            let fps = all[0].fps;
            // Phases are drawn by seed; the prediction is for all of them.
            let mut seen: Vec<Duration> = Vec::new();
            for seed in 1..=20 {
                let mut world = World::new(all.clone(), &curve, PACED);
                (world.seed, world.seconds) = (seed, 10.0);
                let late = play(&world).done.into_iter().filter(|d| d.at.as_nanos() as f64 >= WARM * 1e9);
                seen.extend(late.map(|d| d.latency));
            }
            seen.sort_unstable();
            let [p50, p95] = [50, 95].map(|p| seen[seen.len() * p / 100].as_secs_f64() * 1e3);
            // Decoded in 5 to 10 ms, analysed in 1.
            let got = predict(&curve, curve.largest_useful(), count, fps, ms(8.5)).expect("below capacity");
            let errors =
                [(got.p50, p50), (got.p95, p95)].map(|(said, seen)| said.as_secs_f64() * 1e3 / seen - 1.0);
            let said = format!(
                "{name} {arrivals:?} {load}: {count} cameras of {fps:.1} fps, p50 {:.1} of {p50:.1} ({:+.0} %), p95 {:.1} of {p95:.1} ({:+.0} %), batch {:.2}",
                got.p50.as_secs_f64() * 1e3,
                100.0 * errors[0],
                got.p95.as_secs_f64() * 1e3,
                100.0 * errors[1],
                got.mean_batch,
            );
            println!("{said}");
            if !errors.iter().all(|error| (-0.12..=0.15).contains(error)) {
                wrong.push(said);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
