//! Several engines, each with its own loop, as on a box with several GPUs: the whole daemon with scripted engines. Cameras are spread over
//! them; an engine that fails, panics or hangs takes nothing along but its own frames, and with the last one the daemon ends.

#![allow(clippy::print_stdout, reason = "what is skipped is said out loud")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::collections::BTreeMap;

use daemon::{Daemon, ball, count};
use serde_json::{Value, json};
use wait::until;

const FPS: u64 = 10;

fn pattern(number: usize) -> String {
    ball(&format!("cam{number}"), (640, 480), FPS, "")
}

struct Rig {
    daemon: Daemon,
    orders: tempfile::TempDir,
}

impl Rig {
    /// So many engines and cameras, all of them online.
    fn start(lanes: usize, cameras: usize) -> Rig {
        let orders = tempfile::tempdir().expect("a temporary folder");
        let config: String = (0..cameras).map(pattern).collect();
        let lanes = lanes.to_string();
        let folder = orders.path().to_str().expect("it is UTF-8");
        let env = [("SCRIPTED_LANES", lanes.as_str()), ("SCRIPTED_ORDERS", folder), ("SCRIPTED_MS", "4")];
        let daemon = Daemon::scripted_with(&config, &env);
        let all = Rig { daemon, orders };
        all.wait_inferred(5);
        all
    }

    fn order(&self, what: &str) {
        std::fs::write(self.orders.path().join(what), "").expect("the order is written");
    }

    fn take_back(&self, what: &str) {
        std::fs::remove_file(self.orders.path().join(what)).expect("the order was there");
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.daemon.get(path).expect("the API answers")).expect("the API speaks JSON")
    }

    fn cameras(&self) -> Vec<Value> {
        self.json("/api/v1/cameras")["cameras"].as_array().expect("it lists cameras").clone()
    }

    /// Waits until each camera has so many more inferred frames than now.
    fn wait_inferred(&self, more: u64) {
        let inferred = |camera: &Value| camera["frames"]["inferred"].as_u64().unwrap_or(0);
        let from: Vec<u64> = self.cameras().iter().map(inferred).collect();
        until("every camera delivers", || {
            let now: Vec<u64> = self.cameras().iter().map(inferred).collect();
            now.iter().zip(&from).all(|(now, from)| *now >= from + more).then_some(())
        });
    }

    /// The names of the cameras by GPU.
    fn by_gpu(&self) -> BTreeMap<u64, Vec<String>> {
        let mut by: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for camera in self.cameras() {
            let gpu = camera["gpu"].as_u64().expect("a GPU");
            by.entry(gpu).or_default().push(camera["name"].as_str().expect("a name").to_owned());
        }
        by
    }

    fn states(&self) -> Vec<String> {
        let flow = self.json("/api/v1/flow");
        let lanes = flow["lanes"].as_array().expect("it lists lanes");
        lanes.iter().map(|lane| lane["state"].as_str().expect("a state").to_owned()).collect()
    }

    /// `camera.*` events by camera: kinds, with the code of their reason.
    fn stories(&self) -> BTreeMap<String, Vec<String>> {
        let mut stories: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for event in self.daemon.events() {
            let Some(kind) = event["kind"].as_str().and_then(|kind| kind.strip_prefix("camera.")) else {
                continue;
            };
            let code = event["reason"]["code"].as_str().map_or(String::new(), |code| format!(" {code}"));
            let name = event["camera"].as_str().expect("a name").to_owned();
            stories.entry(name).or_default().push(format!("{kind}{code}"));
        }
        stories
    }

    fn metric(&self, line: &str) -> Option<f64> {
        let page = self.daemon.get("/metrics").expect("the metrics answer");
        page.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok())
    }
}

/// Stops the daemon: then nothing is on its way any more, so every frame that came in must have its fate.
fn assert_settled(mut all: Rig, cameras: usize) {
    all.daemon.signal("TERM");
    assert_eq!(all.daemon.wait().0, Some(0));
    let log = all.daemon.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let stopped: Vec<Value> =
        lines.filter(|line| line["message"] == "Stopped." && line["camera"].is_string()).collect();
    assert_eq!(stopped.len(), cameras);
    for camera in stopped {
        assert_eq!(camera["in_flight"], 0, "{camera}");
        assert!(camera["frames_in"].as_u64() > Some(10), "{camera}");
    }
}

/// Ends one of two engines with this order: its cameras move and deliver again, those of the other notice nothing.
fn one_of_two_ends(order: &str) {
    let all = Rig::start(2, 6);
    let before = all.by_gpu();
    assert_eq!(before.values().map(Vec::len).collect::<Vec<_>>(), [3, 3], "spread evenly");
    let stay = &before[&0];
    all.order(order);
    until("the lane is seen to have failed", || (all.states() == ["live", "failed"]).then_some(()));
    until("all cameras are on the other engine", || (all.by_gpu().len() == 1).then_some(()));
    all.wait_inferred(FPS);
    let after = all.cameras();
    for camera in &after {
        let name = camera["name"].as_str().expect("a name");
        assert_eq!((&camera["gpu"], &camera["state"]), (&json!(0), &json!("online")), "{name}");
        if stay.iter().any(|n| n == name) {
            // It lost nothing and was not started again.
            for lost in ["failed", "overrun", "stale", "skipped", "decode_error"] {
                assert_eq!(count(camera, lost), 0, "{name} {lost}: {camera}");
            }
            assert_eq!(camera["attempts"], 1, "{name}");
        } else {
            assert_eq!(camera["attempts"], 2, "{name}");
        }
    }
    // Nobody was told that a camera is offline: it was away for less than a restart takes.
    for (name, story) in all.stories() {
        assert_eq!(story, ["online"], "{name}");
    }
    let log = all.daemon.log();
    assert_eq!(log.matches("An engine failed; its cameras").count(), 1, "said once: {log}");
    assert!(all.daemon.get("/readyz").is_ok(), "ready while one engine lives");
    let up = [0, 1].map(|gpu| all.metric(&format!("weir_engine_up{{gpu=\"{gpu}\"}}")));
    assert_eq!(up, [Some(1.0), Some(0.0)]);
    assert_settled(all, 6);
}

#[test]
fn an_engine_that_fails_ends_alone() {
    one_of_two_ends("fail-1");
}

#[test]
fn an_engine_that_panics_ends_alone() {
    one_of_two_ends("panic-1");
}

#[test]
fn cameras_are_spread_and_after_each_death_spread_again() {
    let all = Rig::start(3, 7);
    let mut sizes: Vec<usize> = all.by_gpu().values().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [2, 2, 3]);
    // What is read of each engine is labelled, and only so.
    for gpu in 0..3 {
        assert!(
            all.metric(&format!("weir_engine_busy_seconds_total{{gpu=\"{gpu}\"}}"))
                .is_some_and(|busy| busy > 0.0)
        );
        assert!(all.metric(&format!("weir_load_ratio{{gpu=\"{gpu}\"}}")).is_some());
    }
    assert_eq!(all.metric("weir_load_ratio "), None);
    let flow = all.json("/api/v1/flow");
    let of_lanes: f64 =
        flow["lanes"].as_array().expect("lanes").iter().filter_map(|l| l["capacity_fps"].as_f64()).sum();
    let whole = flow["capacity_fps"].as_f64().expect("measured");
    assert!((of_lanes - whole).abs() <= 3.0, "the whole is the sum: {of_lanes} {whole}");
    assert_eq!(flow["lanes"][0]["gpu"], 0);
    // Two die, one after the other; the balance is restored in between.
    all.order("fail-0");
    until("two are left", || (all.by_gpu().len() == 2 && all.states()[0] == "failed").then_some(()));
    let mut sizes: Vec<usize> = all.by_gpu().values().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [3, 4]);
    all.wait_inferred(5);
    all.order("panic-2");
    until("one is left", || (all.by_gpu().len() == 1).then_some(()));
    all.wait_inferred(5);
    assert_settled(all, 7);
}

#[test]
fn a_single_engine_is_not_labelled() {
    let all = Rig::start(1, 1);
    assert!(all.metric("weir_load_ratio ").is_some());
    assert!(all.metric("weir_engine_busy_seconds_total ").is_some());
    assert!(!all.daemon.get("/metrics").expect("it answers").contains("gpu=\""));
    assert_eq!(all.cameras()[0]["gpu"], Value::Null);
    assert_eq!(all.json("/api/v1/flow")["lanes"].as_array().map(Vec::len), Some(1));
}

#[test]
fn with_the_last_engine_the_daemon_ends() {
    let mut all = Rig::start(2, 2);
    all.order("fail-0");
    until("one is left", || (all.by_gpu().len() == 1).then_some(()));
    all.wait_inferred(5);
    all.order("fail-1");
    let (code, _) = all.daemon.wait();
    assert_eq!(code, Some(1));
    let log = all.daemon.log();
    assert!(log.contains("the engine failed 3 times in a row; last: on purpose"), "{log}");
}

/// A GPU that has gone may answer nothing at all.
#[test]
fn an_engine_that_hangs_is_given_up() {
    let all = Rig::start(2, 4);
    let hung: Vec<String> = all.by_gpu()[&1].clone();
    all.order("hang-1");
    until("the lane is seen to have failed", || (all.states() == ["live", "failed"]).then_some(()));
    until("all cameras are on the other engine", || (all.by_gpu().len() == 1).then_some(()));
    all.wait_inferred(FPS);
    // When it comes back, what it had is given up, and nothing of it is handed on.
    all.take_back("hang-1");
    all.wait_inferred(FPS);
    let after = all.cameras();
    for camera in &after {
        let failed = count(camera, "failed");
        assert_eq!(failed > 0, hung.iter().any(|name| camera["name"] == **name), "{camera}");
    }
    assert!(all.daemon.get("/healthz").is_ok());
    assert_settled(all, 4);
}
