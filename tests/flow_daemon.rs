//! What `tests/flow.rs` shows in virtual time, scaled down, on the daemon itself: real pipelines, rings, batcher and pacer; only the engine is a
//! script that takes its time for each batch, of up to four frames.

#![allow(clippy::print_stdout, reason = "what was measured is said")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use daemon::{Daemon, ball, count};
use serde_json::Value;
use wait::until;

/// One daemon at a time: each wants the machine for itself.
static ALONE: Mutex<()> = Mutex::new(());

fn camera(name: &str, rate: u64, more: &str) -> String {
    ball(name, (640, 480), rate, more)
}

/// Frames that came, were inferred, and were lost for want of engine time, of each camera.
fn read(daemon: &Daemon, names: &[&str]) -> Vec<[u64; 3]> {
    let one = |name: &&str| {
        let camera = daemon.camera(name);
        let lost = count(&camera, "overrun") + count(&camera, "stale") + count(&camera, "skipped");
        [count(&camera, "in"), count(&camera, "inferred"), lost]
    };
    names.iter().map(one).collect()
}

/// What each camera did while the first one sent so many frames, after as many to settle.
fn play(daemon: &Daemon, names: &[&str], frames: u64) -> Vec<[u64; 3]> {
    names.iter().for_each(|name| drop(daemon.wait_state(name, "online")));
    let sent = |more: u64| {
        let from = count(&daemon.camera(names[0]), "in");
        until("frames come", || (count(&daemon.camera(names[0]), "in") >= from + more).then_some(()));
    };
    sent(frames);
    let before = read(daemon, names);
    sent(frames);
    let after = read(daemon, names);
    after.iter().zip(&before).map(|(after, before)| [0, 1, 2].map(|n| after[n] - before[n])).collect()
}

/// The worst p95 of these cameras, from frame to event over ten seconds, and the engine's time for one batch: ms.
fn p95(daemon: &Daemon, names: &[&str]) -> f64 {
    let of = |name: &&str| daemon.camera(name)["latency_ms"]["p95"].as_f64().expect("frames are inferred");
    names.iter().map(of).fold(0.0, f64::max)
}

#[test]
fn mixed_rates_are_kept_each_its_own() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cameras = [("a", 30), ("b", 30), ("c", 15), ("d", 10)];
    let config: String = cameras.iter().map(|(name, rate)| camera(name, *rate, "")).collect();
    let daemon = Daemon::scripted_with(&config, &[("SCRIPTED_MS", "4")]);
    let names = cameras.map(|(name, _)| name);
    let did = play(&daemon, &names, 120);
    println!("in, inferred, lost: {did:?}");
    for ((name, rate), [came, inferred, lost]) in cameras.iter().zip(&did) {
        // Measured by the first one's own frames, so that a machine that stutters stutters for all.
        let due = 120.0 * *rate as f64 / 30.0;
        assert!((*came as f64 - due).abs() <= 0.1 * due + 2.0, "{name}: {came} of {due}");
        assert!(
            inferred + lost + 8 >= *came && *lost * 20 <= *came + 60,
            "{name}: {inferred} of {came}, {lost} lost"
        );
    }
}

#[test]
fn beyond_capacity_losses_are_even() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let all = ["a", "b", "c", "d", "e", "f", "g"];
    let mut late = Vec::new();
    for names in [&all[..4], &all] {
        let config: String = names.iter().map(|name| camera(name, 20, "")).collect();
        // 80 and 140 frames a second come; four in 60 ms are 66.7.
        let daemon = Daemon::scripted_with(&config, &[("SCRIPTED_MS", "60")]);
        let did = play(&daemon, names, 120);
        println!("in, inferred, lost: {did:?}");
        let flow: Value = serde_json::from_str(&daemon.get("/api/v1/flow").unwrap()).unwrap();
        let inferred: Vec<u64> = did.iter().map(|[_, inferred, _]| *inferred).collect();
        let (least, most) = (inferred.iter().min().unwrap(), inferred.iter().max().unwrap());
        // A frame a second, over the six seconds that 120 frames take; in which the engine can do 400.
        assert!(most - least <= 6, "{inferred:?}");
        let sum: u64 = inferred.iter().sum();
        assert!(sum >= 368, "92 of a hundred that the engine can do, not {sum} of 400");
        assert!(flow["pace"]["mean_batch_frames"].as_f64().unwrap() > 3.6, "full batches: {flow}");
        late.push(p95(&daemon, names));
    }
    println!("p95 {late:.0?} ms");
    // Whatever comes: a frame interval until its camera's turn, the run that is under way and its own.
    assert!(late.iter().all(|p95| *p95 <= 50.0 + 2.0 * 60.0 + 30.0), "p95 {late:.0?} ms");
}

/// Cameras are let out and held back while they run: after two seconds their p95 is inside the target again, and stays there.
#[test]
fn a_step_of_the_load_is_over_within_two_seconds() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let names = ["a", "b", "c", "d", "e"];
    let config = |max: u32| {
        let cameras = names.map(|name| camera(name, 20, &format!("max_fps = {max}\n"))).concat();
        format!("[batcher]\nslo_p95_ms = 250\n{cameras}")
    };
    // 0.3 and 1.5 of the 66.7 frames a second that there are.
    let daemon = Daemon::scripted_with(&config(4), &[("SCRIPTED_MS", "60")]);
    play(&daemon, &names, 40);
    for max in [20, 4] {
        daemon.rewrite(&config(max));
        let (status, _, answer) = daemon.reload();
        assert_eq!((status, answer["changed"].as_array().map(Vec::len)), (200, Some(5)), "{answer}");
        let came = || count(&daemon.camera("a"), "in");
        let begin = came();
        let mut worst: f64 = 0.0;
        until("five seconds have passed", || {
            let frames = came() - begin;
            let flow: Value = serde_json::from_str(&daemon.get("/api/v1/flow").unwrap()).unwrap();
            // Of the last second: one that ends three seconds after the step began two after it.
            if let Some(p95) = flow["pace"]["p95_ms"].as_f64().filter(|_| frames >= 60) {
                worst = worst.max(p95);
            }
            (frames >= 100).then_some(())
        });
        println!("max_fps = {max}: worst p95 {worst:.0} ms");
        assert!(worst > 0.0 && worst <= 250.0, "max_fps = {max}: p95 {worst:.0} ms");
    }
}

#[test]
fn bulk_takes_the_slack_and_its_share() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let realtime = ["a", "b", "c", "d", "e"];
    let alone = realtime.map(|name| camera(name, 20, "")).concat();
    let bulk = ["x", "y"].map(|name| camera(name, 20, "priority = \"bulk\"\n")).concat();
    // Realtime alone is a half more than the engine can do.
    let daemon = Daemon::scripted_with(&alone, &[("SCRIPTED_MS", "60")]);
    play(&daemon, &realtime, 120);
    let before = p95(&daemon, &realtime);
    drop(daemon);
    let daemon = Daemon::scripted_with(&(alone + &bulk), &[("SCRIPTED_MS", "60")]);
    let names = ["a", "b", "c", "d", "e", "x", "y"];
    let did = play(&daemon, &names, 120);
    println!("in, inferred, lost: {did:?}");
    let sum = |cameras: &[[u64; 3]]| cameras.iter().map(|[_, inferred, _]| *inferred).sum::<u64>() as f64;
    let (realtime, bulk) = (sum(&did[..5]), sum(&did[5..]));
    let share = bulk / (realtime + bulk);
    assert!((0.035..0.06).contains(&share), "bulk has {share:.3} of the engine, a twentieth is its share");
    let moved = p95(&daemon, &names[..5]) - before;
    println!("realtime's p95 of {before:.0} ms moved by {moved:.0}");
    assert!(moved <= 60.0, "realtime's p95 moved by {moved:.0} ms, a run being 60");
}

/// Frames that are in the daemon now, frames that were inferred, and the seconds that these spent between their rings and their events: all as
/// `/metrics` says them.
fn metrics(daemon: &Daemon) -> [f64; 3] {
    let page = daemon.get("/metrics").expect("the metrics answer");
    let sum = |name: &str| -> f64 {
        let values = page.lines().filter(|line| line.starts_with(name)).filter_map(|l| l.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().expect("a number")).sum()
    };
    let inside = sum("weir_event_latency_seconds_sum{") - sum("weir_stage_seconds_sum{stage=\"decode\"}");
    [sum("weir_queue_frames{"), sum("weir_event_latency_seconds_count{"), inside]
}

/// L = λW (Little 1961), each side from metrics of its own: the mean of what is scraped of the queues, against the rate of the frames that were
/// inferred times the time that each took.
#[test]
#[expect(clippy::disallowed_methods, reason = "another process has no clock of ours")]
fn littles_law_holds_in_the_exported_metrics() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // No rate is a multiple of another, nor of how often it is asked: each moment of each camera is seen.
    let config =
        [("a", 23), ("b", 19), ("c", 17), ("d", 13)].map(|(name, rate)| camera(name, rate, "")).concat();
    let daemon = Daemon::scripted_with(&config, &[("SCRIPTED_MS", "20")]);
    play(&daemon, &["a", "b", "c", "d"], 20);
    let lost = || -> u64 { read(&daemon, &["a", "b", "c", "d"]).iter().map(|[.., lost]| lost).sum() };
    let before = lost();
    let (begin, start) = (metrics(&daemon), Instant::now());
    // Each reading stands for the time since the one before it.
    let (mut queued, mut last, mut asked) = (0.0, start, 0);
    let end = until("a thousand frames are inferred", || {
        let now = metrics(&daemon);
        let at = Instant::now();
        queued += now[0] * (at - last).as_secs_f64();
        (last, asked) = (at, asked + 1);
        (now[1] - begin[1] >= 1000.0).then_some(now)
    });
    let span = (last - start).as_secs_f64();
    let (l, rate) = (queued / span, (end[1] - begin[1]) / span);
    let each = (end[2] - begin[2]) / (end[1] - begin[1]);
    println!("L = {l:.3} in {asked} scrapes, λW = {rate:.1}/s × {:.1} ms = {:.3}", each * 1e3, rate * each);
    let lost = lost() - before;
    assert!(lost <= 20, "those that are given up wait too, and nobody says for how long: {lost} of 1,000");
    assert!((l / (rate * each) - 1.0).abs() <= 0.05, "L = {l:.3}, λW = {:.3}", rate * each);
}
