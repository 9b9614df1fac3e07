//! The configuration is read again while the daemon runs: cameras come, change and go, the others do not notice, and a file that
//! cannot be used changes nothing.

#![allow(clippy::print_stdout, reason = "what is skipped is said out loud")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::process::Command;

use daemon::{Daemon, Sim, ball, count, free_port, ready};
use serde_json::{Value, json};
use wait::until;

/// A camera that costs next to nothing.
fn pattern(name: &str, rest: &str) -> String {
    ball(name, (320, 240), 2, rest)
}

fn names(daemon: &Daemon) -> Vec<String> {
    let text = daemon.get("/api/v1/cameras").expect("the API answers");
    let list: Value = serde_json::from_str(&text).expect("the API speaks JSON");
    let cameras = list["cameras"].as_array().expect("it lists cameras");
    cameras.iter().map(|c| c["name"].as_str().expect("a name").to_owned()).collect()
}

/// What a viewer gets at `rtsp://…/NAME`; `None`: nothing.
fn codec(port: u16, camera: &str) -> Option<String> {
    let mut probe = Command::new("ffprobe");
    probe.args([
        "-v",
        "error",
        "-rtsp_transport",
        "tcp",
        "-analyzeduration",
        "100000",
        "-timeout",
        "10000000",
        "-show_entries",
        "stream=codec_name",
    ]);
    let output = probe.args(["-of", "csv=p=0"]).arg(format!("rtsp://127.0.0.1:{port}/{camera}")).output();
    let text = String::from_utf8(output.expect("ffprobe is there").stdout).expect("it prints text");
    Some(text.trim().to_owned()).filter(|codec| !codec.is_empty())
}

fn inferred(daemon: &Daemon, camera: &str) -> u64 {
    daemon.camera(camera)["frames"]["inferred"].as_u64().expect("a count")
}

/// `camera.*` events of a camera, with the code of their reason.
fn story(daemon: &Daemon, camera: &str) -> Vec<String> {
    let ours = daemon.events().into_iter().filter(|e| e["camera"] == camera);
    ours.filter_map(|e| {
        let kind = e["kind"].as_str()?.strip_prefix("camera.")?.to_owned();
        Some(e["reason"]["code"].as_str().map_or(kind.clone(), |code| format!("{kind} {code}")))
    })
    .collect()
}

#[test]
fn cameras_come_change_and_go_while_the_others_run() {
    if !ready("cameras_come_change_and_go_while_the_others_run") {
        return;
    }
    let sim = Sim::start(&["--pattern", "ball", "--size", "320x240", "--fps", "2"]);
    let rtsp = format!("[cameras.gate]\nsource = {:?}\n", sim.url);
    let zone = "[cameras.yard.zones.all]\npolygon = [[0, 0], [1, 0], [1, 1], [0, 1]]\n";
    let port = free_port();
    let server = format!("[rtsp_server]\nbind = \"127.0.0.1:{port}\"\n");
    let file = |cameras: &[&str]| format!("{server}{}", cameras.concat());
    let daemon = Daemon::start(&file(&[&pattern("door", ""), &pattern("yard", "")]));
    daemon.wait_state("door", "online");
    daemon.wait_state("yard", "online");
    assert_eq!(codec(port, "door").as_deref(), Some("h264"));
    assert_eq!(codec(port, "gate"), None);

    // One comes, by HTTP.
    daemon.rewrite(&file(&[&pattern("door", ""), &pattern("yard", ""), &rtsp]));
    let (status, _, body) = daemon.reload();
    assert_eq!((status, &body["added"], &body["changed"]), (200, &json!(["gate"]), &json!([])), "{body}");
    daemon.wait_state("gate", "online");
    until("the new camera is inferred", || (inferred(&daemon, "gate") > 1).then_some(()));
    assert_eq!(names(&daemon), ["door", "yard", "gate"]);
    assert_eq!(codec(port, "gate").as_deref(), Some("h264"), "it can be watched");

    // One changes, one goes, by SIGHUP.
    let yard_before = inferred(&daemon, "yard");
    daemon.rewrite(&file(&[&pattern("yard", "priority = \"bulk\""), zone, &rtsp]));
    daemon.signal("HUP");
    until("the door is gone", || (names(&daemon) == ["yard", "gate"]).then_some(()));
    assert!(matches!(daemon.get("/api/v1/cameras/door"), Err(ureq::Error::StatusCode(404))));
    assert_eq!(codec(port, "door"), None);
    until("the yard is back", || (daemon.camera("yard")["attempts"] == 2).then_some(()));
    daemon.wait_state("yard", "online");
    until("its frames are inferred", || (inferred(&daemon, "yard") > yard_before + 1).then_some(()));
    until("both were told", || (story(&daemon, "door").len() == 2).then_some(()));
    assert_eq!(story(&daemon, "door"), ["online", "offline removed"]);
    assert_eq!(story(&daemon, "yard"), ["online", "offline changed", "online"]);

    // It comes back, to its old number and counters.
    daemon.rewrite(&file(&[&pattern("door", ""), &pattern("yard", "priority = \"bulk\""), zone, &rtsp]));
    assert_eq!(daemon.reload().2["added"], json!(["door"]));
    daemon.wait_state("door", "online");
    assert_eq!(daemon.camera("door")["attempts"], 2);
    assert_eq!(names(&daemon), ["door", "yard", "gate"]);

    // Who was not named noticed nothing.
    let gate = daemon.camera("gate");
    assert_eq!(gate["attempts"], 1, "{gate}");
    assert_eq!(story(&daemon, "gate"), ["online"]);
    for camera in ["door", "yard", "gate"] {
        assert!(count(&daemon.camera(camera), "in") > 0, "{camera}");
    }
}

#[test]
fn a_file_that_cannot_be_used_changes_nothing() {
    if !ready("a_file_that_cannot_be_used_changes_nothing") {
        return;
    }
    let mut daemon = Daemon::start(&pattern("door", ""));
    daemon.wait_state("door", "online");

    daemon.rewrite(&pattern("door", "weigth = 2"));
    let (status, _, body) = daemon.reload();
    assert_eq!((status, &body["error"]["code"]), (422, &json!("bad_configuration")), "{body}");
    assert!(body["error"]["message"].as_str().is_some_and(|m| m.contains("weigth")), "{body}");
    // Told once, however often it is asked for.
    for _ in 0..10 {
        daemon.signal("HUP");
    }
    let (status, ..) = daemon.reload();
    assert!(status == 422 || status == 503, "{status}");
    assert_eq!(daemon.log().matches("the old one stays").count(), 1);

    // A label that the model has not is found before anything is touched.
    daemon.rewrite(&pattern("yard", "hide = [\"dragon\"]"));
    let (status, _, body) = until("it has settled", || Some(daemon.reload()).filter(|(s, ..)| *s != 503));
    assert_eq!(status, 422);
    assert!(body["error"]["message"].as_str().is_some_and(|m| m.contains("dragon")), "{body}");

    std::fs::remove_file(daemon.file()).expect("it is there");
    assert_eq!(until("it has settled", || Some(daemon.reload()).filter(|(s, ..)| *s != 503)).0, 422);

    let door = daemon.camera("door");
    assert_eq!((&door["state"], &door["attempts"]), (&json!("online"), &json!(1)));
    assert_eq!(names(&daemon), ["door"]);

    // What a running daemon cannot take up is named; what is good again is read again.
    daemon.rewrite(&[pattern("door", ""), "[batcher]\nmax_wait_ms = 7\n".to_owned()].concat());
    let (status, _, body) = daemon.reload();
    assert_eq!((status, &body["restart"]), (200, &json!(["[batcher]"])));
    daemon.signal("TERM");
    assert_eq!(daemon.wait().0, Some(0), "cameras that came later end too");
}

#[test]
fn cameras_that_do_not_fit_are_refused() {
    if !ready("cameras_that_do_not_fit_are_refused") {
        return;
    }
    let daemon = Daemon::start(&pattern("door", ""));
    daemon.wait_state("door", "online");
    // The first two looks, five seconds apart, tell what the engine has left.
    until("admission knows the machine", || {
        let flow: Value = serde_json::from_str(&daemon.get("/api/v1/flow").ok()?).ok()?;
        flow["admission"]["capacity_fps"]
            .as_f64()
            .filter(|_| flow["admission"]["decode_ns_per_pixel"].is_number())
    });
    let bulk = |i: u32| if i.is_multiple_of(2) { "" } else { "priority = \"bulk\"" };
    let many: Vec<String> = (0..400).map(|i| pattern(&format!("many{i}"), bulk(i))).collect();
    daemon.rewrite(&[pattern("door", ""), many.concat()].concat());
    let (status, after, body) = daemon.reload();
    assert_eq!((status, &body["error"]["code"]), (503, &json!("no_capacity")), "{body}");
    assert!(after.is_some_and(|after| after.parse::<u32>().is_ok_and(|s| s > 0)));
    let applied = &body["applied"];
    let listed = |key: &str| applied[key].as_array().expect("a list").len();
    println!("{} of 400 came, the ceiling is {}", listed("added"), body["error"]["ceiling"]);
    assert!(listed("added") < 400 && listed("added") + listed("refused") == 400, "{applied}");
    // What realtime cameras have taken is not there for bulk ones once more.
    let added = applied["added"].as_array().expect("a list").iter().filter_map(Value::as_str);
    let [even, odd] = [0, 1].map(|rest| {
        added
            .clone()
            .filter(|name| name.trim_start_matches("many").parse::<u32>().is_ok_and(|i| i % 2 == rest))
            .count()
    });
    println!("{even} realtime, {odd} bulk");
    assert!(2 * odd < even, "{even} realtime ones, and {odd} bulk ones beside them");
    assert_eq!(daemon.camera("door")["attempts"], 1);
    assert_eq!(names(&daemon).len(), 1 + listed("added"));
}

/// A camera like [`pattern`]'s that an engine notices, with pictures that the script reads.
fn quick(name: &str, rest: &str, more: &str) -> String {
    let larger = pattern(name, rest).replace("320", "640").replace("240", "480");
    format!("{}{more}", larger.replace("fps = \"2\"", "fps = \"20\""))
}

/// An engine of 40 frames/s, of which 28 are planned for and 20 are taken: there is room for the rest of one camera, whichever class asks
/// first, and the other one is told so though nothing of the first was measured yet.
#[test]
fn what_was_let_in_a_moment_ago_is_counted_and_its_rate_stays() {
    if !ready("what_was_let_in_a_moment_ago_is_counted_and_its_rate_stays") {
        return;
    }
    // Far above what a batch of four takes: the pacer uses it.
    let batcher = "[batcher]\nslo_p95_ms = 1000\n";
    let file = |cameras: &[String]| format!("{batcher}{}", cameras.concat());
    let door = quick("door", "", "");
    let daemon = Daemon::scripted_with(&file(std::slice::from_ref(&door)), &[("SCRIPTED_MS", "100")]);
    daemon.wait_state("door", "online");
    until("admission knows what the door asks for", || {
        let flow: Value = serde_json::from_str(&daemon.get("/api/v1/flow").ok()?).ok()?;
        flow["admission"]["rho"].as_f64().filter(|rho| *rho > 0.4)
    });
    let reload = |cameras: &[String]| {
        daemon.rewrite(&file(cameras));
        let (_, _, body) = daemon.reload();
        if body["applied"].is_object() { body["applied"].clone() } else { body }
    };
    let yard = |more: &str| quick("yard", "", more);
    let shed = quick("shed", "priority = \"bulk\"", "");
    let applied = reload(&[door.clone(), yard(""), shed.clone()]);
    assert_eq!((&applied["added"], &applied["refused"]), (&json!(["yard"]), &json!(["shed"])), "{applied}");
    let cap =
        applied["capped"]["yard"].as_f64().unwrap_or_else(|| panic!("the yard fits in part: {applied}"));

    // Asked again at once it is the same, since the yard was let in.
    let applied = reload(&[door.clone(), yard(""), shed]);
    assert_eq!((&applied["added"], &applied["refused"]), (&json!([]), &json!(["shed"])), "{applied}");

    // Another zone is no reason to have more than there was room for; settings of its own that give less are kept.
    daemon.wait_state("yard", "online");
    let zone = "[cameras.yard.zones.all]\npolygon = [[0, 0], [1, 0], [1, 1], [0, 1]]\n";
    assert_eq!(reload(&[door.clone(), yard(zone)])["changed"], json!(["yard"]));
    assert_eq!(daemon.camera("yard")["max_fps"], json!(cap));
    daemon.wait_state("yard", "online");
    let attempts = daemon.camera("yard")["attempts"].clone();

    // Terms alone are taken up while it runs, up and down, and never above the cap.
    for (fps, gets) in [(1.0, 1.0), (2.0, 2.0), (60.0, cap)] {
        let yard = quick("yard", &format!("weight = 3\nmax_fps = {fps}"), zone);
        assert_eq!(reload(&[door.clone(), yard])["changed"], json!(["yard"]));
        let now = daemon.camera("yard");
        assert_eq!((&now["max_fps"], &now["weight"]), (&json!(gets), &json!(3)));
        let before = inferred(&daemon, "yard");
        until("it goes on", || (inferred(&daemon, "yard") > before + 2).then_some(()));
    }
    assert_eq!(daemon.camera("yard")["attempts"], attempts);
    assert_eq!(story(&daemon, "yard"), ["online", "offline changed", "online"]);
    assert_eq!(story(&daemon, "door"), ["online"]);
}
