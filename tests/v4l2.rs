//! USB cameras, against an emulated kernel device (`support/v4l2-cam.c`): the daemon, GStreamer's v4l2src and everything behind it are the
//! real ones. What a real driver and real USB do beyond the V4L2 interface is not shown here.

#![allow(clippy::print_stdout, reason = "a test says what it skips and measured")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/usb.rs"]
mod usb;
#[path = "support/wait.rs"]
mod wait;

use std::time::{Duration, Instant};

use daemon::{Daemon, ready, weir};
use serde_json::Value;
use usb::{Cameras, Usb};
use wait::until;

// errno(3), as on every Linux that this runs on.
const EACCES: i32 = 13;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;
const ENOSPC: i32 = 28;

/// How long frames may take to flow again after the camera is back.
const BACK: Duration = Duration::from_secs(2);

#[expect(clippy::disallowed_methods, reason = "other processes have no clock of ours")]
fn now() -> Instant {
    Instant::now()
}

/// The daemon with these cameras.
fn start(cameras: &Cameras, usb: &[&Usb]) -> Daemon {
    let config: String = usb.iter().map(|u| u.config()).collect();
    let env = cameras.env();
    let env = env.each_ref().map(|(key, value)| (*key, value.as_str()));
    let daemon = Daemon::spawn_with(&config, "[model]\nname = \"coco-ssd\"\n", &env);
    until("the daemon is ready", || daemon.get("/readyz").ok());
    daemon
}

fn count(daemon: &Daemon, camera: &str, what: &str) -> u64 {
    daemon.camera(camera)["frames"][what].as_u64().expect("a count")
}

/// Waits until this many more frames have been through the network.
fn inferred(daemon: &Daemon, camera: &str, more: u64) {
    let before = count(daemon, camera, "inferred");
    until("frames are inferred", || (count(daemon, camera, "inferred") >= before + more).then_some(()));
}

fn video(camera: &Value) -> (&str, u64, u64, f64) {
    let video = &camera["video"];
    let number = |key: &str| video[key].as_u64().unwrap_or(0);
    let codec = video["codec"].as_str().unwrap_or("none");
    (codec, number("width"), number("height"), video["fps"].as_f64().unwrap_or(0.0))
}

/// What the log says of this camera's failure: the message, and what to do.
fn warned(daemon: &Daemon, message: &str) -> String {
    until("the log says why", || {
        daemon.log().lines().find(|l| l.contains("offline") && l.contains(message)).map(str::to_owned)
    })
}

fn kinds(daemon: &Daemon, camera: &str) -> Vec<String> {
    let ours = daemon.events().into_iter().filter(|e| e["camera"] == camera);
    ours.filter_map(|e| e["kind"].as_str().map(str::to_owned)).filter(|k| k.starts_with("camera.")).collect()
}

#[test]
fn each_kind_of_usb_camera_is_read() {
    let test = "each_kind_of_usb_camera_is_read";
    let Some(cameras) = ready(test).then(|| Cameras::new(test)).flatten() else { return };
    let jpeg = cameras.add("jpeg", &["MJPG 768 576 15"]);
    let raw = cameras.add("raw", &["YUYV 320 240 15"]);
    // What USB 2 has room for: large pictures are slow unless they are compressed.
    let both =
        cameras.add("both", &["YUYV 320 240 30", "YUYV 1280 720 5", "MJPG 320 240 30", "MJPG 1280 720 15"]);
    let daemon = start(&cameras, &[&jpeg, &raw, &both]);
    assert_eq!(video(&daemon.wait_state("jpeg", "online")), ("mjpeg", 768, 576, 15.0));
    assert_eq!(video(&daemon.wait_state("raw", "online")), ("raw", 320, 240, 15.0));
    assert_eq!(video(&daemon.wait_state("both", "online")), ("mjpeg", 1280, 720, 15.0));
    let tracked = |camera: &str| {
        until("a person is tracked", || {
            daemon.events().into_iter().find(|e| {
                e["camera"] == camera && e["kind"] == "track.started" && e["track"]["label"] == "person"
            })
        })
    };
    tracked("jpeg");
    tracked("both");
    for camera in ["jpeg", "raw", "both"] {
        inferred(&daemon, camera, 5);
        assert_eq!(count(&daemon, camera, "decode_error"), 0, "{}", daemon.camera(camera));
        assert_eq!(kinds(&daemon, camera), ["camera.online"]);
    }
}

#[test]
fn an_unplugged_camera_says_so_and_comes_back() {
    let test = "an_unplugged_camera_says_so_and_comes_back";
    let Some(cameras) = ready(test).then(|| Cameras::new(test)).flatten() else { return };
    let pulled = cameras.add("pulled", &["MJPG 320 240 15"]);
    let steady = cameras.add("steady", &["YUYV 320 240 15"]);
    let daemon = start(&cameras, &[&pulled, &steady]);
    daemon.wait_state("steady", "online");
    daemon.wait_state("pulled", "online");
    inferred(&daemon, "pulled", 5);

    // Twice, for the second wait is longer by the rule of retries.
    for round in 1..=2 {
        pulled.unplug();
        let gone = now();
        let camera = daemon.wait_state("pulled", "offline");
        let noticed = gone.elapsed();
        assert_eq!(camera["reason"]["code"], "not_found", "{camera}");
        assert_eq!(camera["reason"]["message"], "there is no camera at /dev/test-cam/pulled");
        assert!(warned(&daemon, "/dev/test-cam/pulled").contains("plug it in"));
        // It has been tried in vain, so that the wait is under way.
        let tries = camera["attempts"].as_u64().expect("a count");
        until("it was tried again", || {
            (daemon.camera("pulled")["attempts"].as_u64() >= Some(tries + 2)).then_some(())
        });
        let before = count(&daemon, "pulled", "in");
        pulled.plug();
        let back = now();
        until("it delivers", || (count(&daemon, "pulled", "in") > before).then_some(()));
        let took = back.elapsed();
        println!("round {round}: noticed after {noticed:?}, frames {took:?} after it was plugged in");
        assert!(noticed < BACK && took < BACK, "noticed after {noticed:?}, back after {took:?}");
        daemon.wait_state("pulled", "online");
    }
    let online_offline = ["camera.online", "camera.offline"];
    assert_eq!(
        kinds(&daemon, "pulled"),
        [&online_offline[..], &online_offline[..], &online_offline[..1]].concat()
    );
    assert_eq!(kinds(&daemon, "steady"), ["camera.online"], "the other one did not notice");
    assert_eq!(daemon.camera("steady")["attempts"], 1);
}

#[test]
fn a_camera_that_cannot_be_used_says_why_and_is_used_once_it_can() {
    let test = "a_camera_that_cannot_be_used_says_why_and_is_used_once_it_can";
    let Some(cameras) = ready(test).then(|| Cameras::new(test)).flatten() else { return };
    let add = |name: &str, call: &str, error: i32| {
        let camera = cameras.add(name, &["MJPG 320 240 15"]);
        camera.fail(call, error);
        camera
    };
    let denied = add("denied", "open", EACCES);
    let busy = add("busy", "S_FMT", EBUSY);
    let taken = add("taken", "STREAMON", EBUSY);
    let crowded = add("crowded", "STREAMON", ENOSPC);
    let daemon = start(&cameras, &[&denied, &busy, &taken, &crowded]);
    // Code, message and help.
    let why = |camera: &Usb, name: &str| {
        let state = daemon.wait_state(name, "offline");
        let text = |key: &str| state["reason"][key].as_str().unwrap_or_default().to_owned();
        let line = warned(&daemon, &camera.device());
        (text("code"), text("message"), line)
    };
    let (code, message, line) = why(&denied, "denied");
    assert_eq!((code.as_str(), message.as_str()), ("denied", "weir may not open /dev/test-cam/denied"));
    assert!(line.contains("group") && line.contains("video"), "{line}");
    let (code, message, line) = why(&busy, "busy");
    assert_eq!((code.as_str(), message.as_str()), ("busy", "another program uses /dev/test-cam/busy"));
    assert!(line.contains("fuser -v /dev/test-cam/busy"), "{line}");
    for (camera, name) in [(&taken, "taken"), (&crowded, "crowded")] {
        let (code, message, line) = why(camera, name);
        assert_eq!(code, "settings");
        assert_eq!(message, format!("{} does not start", camera.device()));
        assert!(
            line.contains(&format!("fuser -v {}", camera.device())) && line.contains("bandwidth"),
            "{line}"
        );
    }

    // The permission is given: noticed at once. The others are retried as a camera in the network is.
    denied.heal();
    let given = now();
    daemon.wait_state("denied", "online");
    assert!(given.elapsed() < BACK, "online {:?} after it was allowed", given.elapsed());
    for camera in [&busy, &taken, &crowded] {
        camera.heal();
    }
    for name in ["busy", "taken", "crowded"] {
        daemon.wait_state(name, "online");
    }

    // A driver may fail the read itself, with the device still there: a new start, and nothing else.
    denied.fail("DQBUF", ENODEV);
    daemon.wait_state("denied", "offline");
    denied.heal();
    daemon.wait_state("denied", "online");
}

/// The driver hands over what it got and marks it; JPEG decoders would make a half-grey picture of it.
#[test]
fn a_picture_torn_on_the_wire_is_counted_and_not_analysed() {
    let test = "a_picture_torn_on_the_wire_is_counted_and_not_analysed";
    let Some(cameras) = ready(test).then(|| Cameras::new(test)).flatten() else { return };
    // Not in YUYV: of raw pictures v4l2src itself drops those that are too short.
    let camera = cameras.add("torn", &["MJPG 320 240 15"]);
    camera.tear("MJPG-320x240", 3);
    let daemon = start(&cameras, &[&camera]);
    // Three rounds of ten pictures.
    until("pictures go by", || (count(&daemon, "torn", "in") >= 30).then_some(()));
    let state = daemon.camera("torn");
    let number = |key: &str| state["frames"][key].as_u64().expect("a count");
    // One in ten, wherever in its round the camera is right now.
    let (torn, all) = (number("decode_error"), number("in"));
    assert!((all / 10 - 1..=all / 10 + 1).contains(&torn), "{state}");
    assert_eq!((state["attempts"].as_u64(), state["state"].as_str()), (Some(1), Some("online")), "{state}");
}

#[test]
fn the_commands_say_what_a_usb_camera_delivers_or_why_not() {
    let test = "the_commands_say_what_a_usb_camera_delivers_or_why_not";
    let Some(cameras) = ready(test).then(|| Cameras::new(test)).flatten() else { return };
    let good = cameras.add("good", &["MJPG 320 240 15"]);
    let denied = cameras.add("denied", &["MJPG 320 240 15"]);
    denied.fail("open", EACCES);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("weir.toml");
    let models = daemon::root().join("models");
    let text =
        format!("[model]\nname = \"coco-ssd\"\ndirs = [{models:?}]\n{}{}", good.config(), denied.config());
    std::fs::write(&path, text).expect("written");
    let output =
        weir().args(["check", "--live", "-c"]).arg(&path).envs(cameras.env()).output().expect("weir runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("ok    320×240 mjpeg 15 fps"), "{said}");
    assert!(said.contains("FAIL  [denied] weir may not open /dev/test-cam/denied"), "{said}");
    assert!(said.contains("group"), "{said}");
    assert!(!output.status.success(), "one camera fails");

    let tried = |camera: &Usb| {
        let source = format!("v4l2:{}", camera.device());
        let mut command = weir();
        command.args(["try", "--model", "coco-ssd", "--frames", "3", "--models"]).arg(&models).arg(source);
        command.envs(cameras.env()).output().expect("weir runs")
    };
    let output = tried(&good);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = tried(&denied);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("weir may not open /dev/test-cam/denied"), "{said}");
}
