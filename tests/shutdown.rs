//! Stopping: in each state, within the grace period, and at once when asked twice.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::time::Duration;

use daemon::{Daemon, Sim, ready};
use wait::until;

const MODEL: &str = "[model]\nname = \"coco-ssd\"\n";

#[test]
fn a_stop_while_loading_is_a_good_end() {
    if !ready("a_stop_while_loading_is_a_good_end") {
        return;
    }
    let mut daemon = Daemon::spawn("[cameras.a]\nsource = \"rtsp://127.0.0.1:9/x\"\n", MODEL);
    until("signals are heard", || daemon.get("/healthz").ok());
    daemon.signal("TERM");
    let (code, took) = daemon.wait();
    assert_eq!(code, Some(0), "{}", daemon.log());
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_stop_while_connecting_and_with_a_frozen_camera_stays_within_grace() {
    if !ready("a_stop_while_connecting_and_with_a_frozen_camera_stays_within_grace") {
        return;
    }
    let sim = Sim::start(&["--pattern", "ball", "--size", "320x240", "--fps", "5"]);
    let mut daemon = Daemon::start(&format!(
        "[cameras.frozen]\nsource = {:?}\n[cameras.refused]\nsource = \"rtsp://127.0.0.1:9/x\"\n",
        sim.url
    ));
    daemon.wait_state("frozen", "online");
    sim.signal("STOP");
    daemon.signal("INT");
    let (code, took) = daemon.wait();
    sim.signal("CONT");
    assert_eq!(code, Some(0), "{}", daemon.log());
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_second_signal_exits_at_once() {
    if !ready("a_second_signal_exits_at_once") {
        return;
    }
    let sim = Sim::start(&["--pattern", "ball", "--size", "320x240", "--fps", "5"]);
    let mut daemon = Daemon::start(&format!("[cameras.a]\nsource = {:?}\n", sim.url));
    daemon.wait_state("a", "online");
    // A frozen camera makes the orderly end take its time.
    sim.signal("STOP");
    daemon.signal("TERM");
    until("the first signal was heard", || daemon.log().contains("second signal").then_some(()));
    daemon.signal("TERM");
    let (code, took) = daemon.wait();
    sim.signal("CONT");
    assert!(matches!(code, Some(0 | 1)), "{code:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}
