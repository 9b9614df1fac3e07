//! Cameras that die, freeze and come back. The others lose nothing.

#![allow(clippy::print_stdout, reason = "a test says what it measured")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::time::{Duration, Instant};

use daemon::{Daemon, Sim, ready};
use serde_json::Value;
use wait::until;

/// How long frames may take to flow again after the camera is back.
const BACK: Duration = Duration::from_secs(2);
/// How long cameras stay away.
const AWAY: Duration = Duration::from_secs(20);

#[expect(clippy::disallowed_methods, reason = "other processes have no clock of ours")]
fn now() -> Instant {
    Instant::now()
}

fn frames_in(daemon: &Daemon, camera: &str) -> u64 {
    daemon.camera(camera)["frames"]["in"].as_u64().expect("a count")
}

fn lost(camera: &Value) -> u64 {
    ["overrun", "stale", "skipped", "decode_error", "failed"]
        .iter()
        .filter_map(|f| camera["frames"][f].as_u64())
        .sum()
}

#[test]
fn a_killed_and_a_frozen_camera_come_back_within_two_seconds() {
    if !ready("a_killed_and_a_frozen_camera_come_back_within_two_seconds") {
        return;
    }
    // Two frames a second and a long ring: the engine has time to spare even on a busy machine, so that a lost frame
    // is a fault's doing.
    let pattern = ["--pattern", "ball", "--size", "320x240", "--fps", "2"];
    let (mut killed, frozen, steady) = (Sim::start(&pattern), Sim::start(&pattern), Sim::start(&pattern));
    let daemon = Daemon::start(&format!(
        "[batcher]\nring_buffer_ms = 2000\n[cameras.killed]\nsource = {:?}\n[cameras.frozen]\nsource = {:?}\n[cameras.steady]\nsource = {:?}\n",
        killed.url, frozen.url, steady.url
    ));
    for camera in ["killed", "frozen", "steady"] {
        daemon.wait_state(camera, "online");
    }
    let steady_before = lost(&daemon.camera("steady"));

    killed.kill();
    frozen.signal("STOP");
    let gone = now();
    let camera = daemon.wait_state("killed", "offline");
    assert!(gone.elapsed() < Duration::from_secs(3), "noticed after {:?}", gone.elapsed());
    assert!(["refused", "ended", "connection"].iter().any(|c| camera["reason"]["code"] == *c), "{camera}");
    let camera = daemon.wait_state("frozen", "offline");
    assert!(gone.elapsed() < Duration::from_secs(6), "the stall was noticed after {:?}", gone.elapsed());
    assert_eq!(camera["reason"]["code"], "stalled");
    until("they were away for long", || (gone.elapsed() >= AWAY).then_some(()));

    let (killed_in, frozen_in) = (frames_in(&daemon, "killed"), frames_in(&daemon, "frozen"));
    // It comes back as another camera would: with another codec.
    killed.restart_as(&[&pattern[..], &["--codec", "h265"]].concat());
    frozen.signal("CONT");
    let returned = now();
    until("the killed camera delivers", || (frames_in(&daemon, "killed") > killed_in).then_some(()));
    let killed_took = returned.elapsed();
    until("the frozen camera delivers", || (frames_in(&daemon, "frozen") > frozen_in).then_some(()));
    let frozen_took = returned.elapsed();
    println!("back after {killed_took:?} (killed) and {frozen_took:?} (frozen)");
    assert!(killed_took < BACK && frozen_took < BACK, "killed {killed_took:?}, frozen {frozen_took:?}");

    let steady = daemon.camera("steady");
    assert_eq!(lost(&steady), steady_before, "the steady camera lost frames: {steady}");
    assert_eq!(steady["attempts"], 1, "and was never reconnected");
    let kinds = |camera: &str| -> Vec<String> {
        let ours = daemon.events().into_iter().filter(|e| e["camera"] == camera);
        ours.filter_map(|e| e["kind"].as_str().map(str::to_owned))
            .filter(|k| k.starts_with("camera."))
            .collect()
    };
    daemon.wait_state("killed", "online");
    assert!(
        kinds("killed").starts_with(&["camera.online".into(), "camera.offline".into()]),
        "{:?}",
        kinds("killed")
    );
    assert_eq!(kinds("killed").last().map(String::as_str), Some("camera.online"));
    assert_eq!(kinds("steady"), ["camera.online"]);
}
