//! The daemon on real parts: RTSP servers, GStreamer, ONNX Runtime and the default detector on the CPU.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use daemon::{Daemon, Sim, ready, street};
use serde_json::Value;
use wait::until;

/// in = Σ fates + in flight.
fn balanced(frames: &Value) -> bool {
    let count = |key: &str| frames[key].as_u64().unwrap_or_else(|| panic!("{key} is missing in {frames}"));
    let fates: u64 =
        ["inferred", "overrun", "stale", "skipped", "decode_error", "failed"].map(count).iter().sum();
    count("in") == fates + count("in_flight")
}

#[test]
fn people_in_a_street_become_tracked_events() {
    if !ready("people_in_a_street_become_tracked_events") {
        return;
    }
    let clip = street();
    let sim = Sim::start(&["--file", clip.to_str().expect("the path is text")]);
    let mut daemon = Daemon::start(&format!("[cameras.street]\nsource = {:?}\n", sim.url));
    let started = until("a person is tracked", || {
        daemon.events().into_iter().find(|e| e["kind"] == "track.started" && e["track"]["label"] == "person")
    });
    assert_eq!(
        (started["schema"].as_str(), started["camera"].as_str()),
        (Some("weir.event/1"), Some("street"))
    );
    let bbox: Vec<f64> =
        started["track"]["bbox"].as_array().expect("a box").iter().filter_map(Value::as_f64).collect();
    assert!(bbox.len() == 4 && bbox.iter().all(|v| (0.0..=1.0).contains(v)), "{bbox:?}");
    let online = &daemon.events()[0];
    assert_eq!(
        (online["kind"].as_str(), online["video"]["codec"].as_str()),
        (Some("camera.online"), Some("h264"))
    );
    assert!(balanced(&daemon.camera("street")["frames"]));

    daemon.signal("TERM");
    let (code, took) = daemon.wait();
    assert_eq!(code, Some(0), "SIGTERM is a good end");
    assert!(took.as_secs() < 10, "within the grace period, not {took:?}");
    let log = daemon.log();
    assert!(
        log.contains("in_flight=0") || log.contains("\"in_flight\":0"),
        "nothing is forgotten at the stop: {log}"
    );
}

#[test]
fn every_codec_and_transport_delivers() {
    if !ready("every_codec_and_transport_delivers") {
        return;
    }
    let pattern = ["--pattern", "ball", "--size", "320x240", "--fps", "5"];
    let with = |more: &[&str]| Sim::start(&[&pattern[..], more].concat());
    let sims = [
        ("h264", "tcp", with(&["--codec", "h264"])),
        ("h264-udp", "udp", with(&["--codec", "h264", "--udp-only"])),
        ("h264-auto", "auto", with(&["--codec", "h264", "--tcp-only"])),
        ("h264-slices", "tcp", with(&["--codec", "h264", "--slices", "4"])),
        ("h265", "tcp", with(&["--codec", "h265"])),
        ("mjpeg", "tcp", with(&["--codec", "mjpeg"])),
    ];
    let config: String = sims
        .iter()
        .map(|(name, transport, sim)| {
            format!("[cameras.{name}]\nsource = {:?}\ntransport = {transport:?}\n", sim.url)
        })
        .collect();
    let daemon = Daemon::start(&config);
    for (name, _, _) in &sims {
        let camera = daemon.wait_state(name, "online");
        assert_eq!(camera["video"]["codec"], name.split('-').next().expect("a codec"), "{camera}");
        assert_eq!(camera["video"]["width"], 320);
        until(&format!("{name} is inferred"), || {
            (daemon.camera(name)["frames"]["inferred"].as_u64() > Some(5)).then_some(())
        });
    }
}

#[test]
fn files_play_once_in_full_or_over_and_over() {
    if !ready("files_play_once_in_full_or_over_and_over") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let clip = dir.path().join("clip.mp4");
    let made = std::process::Command::new("gst-launch-1.0")
        .args([
            "-q",
            "videotestsrc",
            "num-buffers=40",
            "pattern=ball",
            "!",
            "video/x-raw,width=160,height=120,framerate=20/1",
        ])
        .args(["!", "x264enc", "!", "mp4mux", "!", "filesink"])
        .arg(format!("location={}", clip.display()))
        .status();
    assert!(made.is_ok_and(|s| s.success()), "gst-launch-1.0 makes a clip");
    let daemon = Daemon::start(&format!(
        "[cameras.once]\nsource = \"file:{0}\"\nrepeat = false\nrealtime = false\n[cameras.over]\nsource = \"file:{0}\"\n",
        clip.display()
    ));
    let once = until("the file has been played", || {
        let camera = daemon.camera("once");
        (camera["reason"]["code"] == "finished" && camera["frames"]["in_flight"] == 0).then_some(camera)
    });
    assert_eq!(once["frames"]["in"], 40, "every frame of the file");
    assert_eq!(once["frames"]["inferred"], 40, "a file that can wait loses nothing: {once}");
    until("the other file starts over", || {
        (daemon.camera("over")["frames"]["in"].as_u64() > Some(60)).then_some(())
    });
    assert_eq!(daemon.camera("over")["state"], "online");
}

#[test]
fn a_described_pipeline_is_a_camera() {
    if !ready("a_described_pipeline_is_a_camera") {
        return;
    }
    let daemon = Daemon::start(&format!(
        "[cameras.test]\nsource = \"pipeline:{}\"\n[cameras.test.params]\npattern = \"ball\"\nwidth = \"160\"\nheight = \"120\"\nfps = \"10\"\n",
        "test-pattern"
    ));
    let camera = daemon.wait_state("test", "online");
    assert_eq!(
        (camera["video"]["width"].as_u64(), camera["video"]["height"].as_u64()),
        (Some(160), Some(120))
    );
}
