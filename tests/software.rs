//! The daemon on real parts: RTSP servers, GStreamer, ONNX Runtime and the default detector on the CPU.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::path::{Path, PathBuf};
use std::process::Command;

use daemon::{Daemon, Sim, count, ready, street};
use serde_json::Value;
use wait::until;

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
    assert!(count(&daemon.camera("street"), "in") > 0);

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

/// A synthetic H.264 clip; the file's name says in which container.
fn encode(clip: &Path, frames: u32, size: &str, fps: u32) {
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i"])
        .arg(format!("testsrc=size={size}:rate={fps}"))
        .args(["-frames:v", &frames.to_string(), "-pix_fmt", "yuv420p", "-c:v", "libx264", "-bf", "0"])
        .arg(clip)
        .status();
    assert!(made.is_ok_and(|s| s.success()), "ffmpeg makes {}", clip.display());
}

#[test]
fn files_play_once_in_full_or_over_and_over() {
    if !ready("files_play_once_in_full_or_over_and_over") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let clip = dir.path().join("clip.mp4");
    encode(&clip, 40, "160x120", 20);
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

/// A key and a self-signed certificate for 127.0.0.1: one file with both, and one with the certificate alone.
fn certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let (key, cert, both) = (dir.join("key.pem"), dir.join("cert.pem"), dir.join("both.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output();
    assert!(made.is_ok_and(|o| o.status.success()), "openssl makes a certificate");
    let read = |path: &Path| std::fs::read_to_string(path).expect("openssl wrote it");
    std::fs::write(&both, read(&cert) + &read(&key)).expect("written");
    (both, cert)
}

#[test]
fn rtsps_is_opened_only_with_a_trusted_certificate() {
    if !ready("rtsps_is_opened_only_with_a_trusted_certificate") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (both, cert) = certificate(dir.path());
    let both = both.to_str().expect("the path is text");
    let sim = Sim::start(&[
        "--pattern",
        "ball",
        "--size",
        "320x240",
        "--fps",
        "5",
        "--tcp-only",
        "--user",
        "u",
        "--password",
        "p",
        "--tls-pem",
        both,
    ]);
    let url = sim.url.replace("rtsps://", "rtsps://u:p@");
    let daemon = Daemon::start(&format!(
        "[cameras.trusted]\nsource = {url:?}\ntls_ca_file = {cert:?}\n[cameras.any]\nsource = {url:?}\ntls_insecure = true\n\
         [cameras.stranger]\nsource = {url:?}\n"
    ));
    daemon.wait_state("trusted", "online");
    daemon.wait_state("any", "online");
    let stranger = daemon.wait_state("stranger", "offline");
    assert_eq!(stranger["frames"]["in"], 0, "no picture over a connection that is not trusted: {stranger}");
}

#[test]
fn a_change_of_resolution_is_followed() {
    if !ready("a_change_of_resolution_is_followed") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut joined = Vec::new();
    for (part, size) in ["160x120", "320x240"].iter().enumerate() {
        let path = dir.path().join(format!("{part}.h264"));
        encode(&path, 20, size, 10);
        joined.extend(std::fs::read(path).expect("it was made"));
    }
    let clip = dir.path().join("joined.h264");
    std::fs::write(&clip, joined).expect("written");
    let daemon = Daemon::start(&format!(
        "[cameras.a]\nsource = \"file:{}\"\nrepeat = false\nrealtime = false\n",
        clip.display()
    ));
    let camera = until("the file has been played", || {
        let camera = daemon.camera("a");
        (camera["reason"]["code"] == "finished" && camera["frames"]["in_flight"] == 0).then_some(camera)
    });
    assert_eq!(camera["frames"]["inferred"], 40, "frames of both sizes: {camera}");
    let sizes: Vec<(String, u64)> = daemon
        .events()
        .iter()
        .filter(|e| e["video"].is_object())
        .map(|e| {
            (e["kind"].as_str().unwrap_or_default().to_owned(), e["video"]["width"].as_u64().unwrap_or(0))
        })
        .collect();
    assert_eq!(sizes, [("camera.online".to_owned(), 160), ("camera.changed".to_owned(), 320)]);
}
