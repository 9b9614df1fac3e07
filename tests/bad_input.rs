//! What an operator reads when something is wrong. Bad configurations as such are in `config.rs`, bad model files in `model.rs`.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::net::TcpListener;

use daemon::{Daemon, Sim, ready, root, weir};
use wait::until;

const PATTERN: [&str; 6] = ["--pattern", "ball", "--size", "320x240", "--fps", "5"];

/// The reason that a camera gives for being offline.
fn reason(daemon: &Daemon, camera: &str) -> (String, String) {
    let state = daemon.wait_state(camera, "offline");
    let text = |key: &str| state["reason"][key].as_str().unwrap_or_default().to_owned();
    (text("code"), text("message"))
}

#[test]
fn each_broken_camera_says_why_and_a_sound_one_does_not_notice() {
    if !ready("each_broken_camera_says_why_and_a_sound_one_does_not_notice") {
        return;
    }
    let locked =
        Sim::start(&[&PATTERN[..], &["--user", "admin", "--password", "right", "--digest"]].concat());
    let open = Sim::start(&PATTERN);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let text = dir.path().join("notes.txt");
    std::fs::write(&text, "This is not a video, however long one looks at it.\n".repeat(50))
        .expect("written");
    let elsewhere = open.url.replace("/cam", "/nothing-here");
    let closed = daemon::free_port();
    let password = dir.path().join("password");
    std::fs::write(&password, "wrong\n").expect("written");
    let daemon = Daemon::start(&format!(
        "[cameras.locked]\nsource = {:?}\nuser = \"admin\"\npassword_file = {password:?}\n\
         [cameras.elsewhere]\nsource = {elsewhere:?}\n\
         [cameras.closed]\nsource = \"rtsp://127.0.0.1:{closed}/cam\"\n\
         [cameras.text]\nsource = \"file:{}\"\n\
         [cameras.usb]\nsource = \"v4l2:/dev/video99\"\n\
         [cameras.sound]\nsource = {:?}\n\
         [mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n",
        locked.url,
        text.display(),
        open.url,
        daemon::free_port(),
    ));
    let (code, message) = reason(&daemon, "locked");
    assert_eq!((code.as_str(), message.as_str()), ("auth", "the camera refuses the user name or password"));
    let (code, message) = reason(&daemon, "elsewhere");
    assert_eq!((code.as_str(), message.as_str()), ("not_found", "there is nothing at this address"));
    let (code, message) = reason(&daemon, "closed");
    assert_eq!((code.as_str(), message), ("refused", format!("nothing listens at 127.0.0.1:{closed}")));
    let (code, message) = reason(&daemon, "text");
    assert_eq!((code.as_str(), message.as_str()), ("not_video", "what it delivers is not a video"));
    let (code, message) = reason(&daemon, "usb");
    assert_eq!((code.as_str(), message.as_str()), ("not_found", "there is no camera at /dev/video99"));
    daemon.wait_state("sound", "online");
    until("the sound camera is inferred", || {
        (daemon.camera("sound")["frames"]["inferred"].as_u64() > Some(5)).then_some(())
    });
    // No broker: said once, the daemon is ready all the same.
    until("the missing broker is reported", || daemon.log().contains("broker").then_some(()));
    daemon.get("/readyz").expect("ready without a broker");
    assert!(!daemon.log().contains("wrong"), "no password in the log");
}

#[test]
fn the_right_password_opens_basic_and_digest_cameras() {
    if !ready("the_right_password_opens_basic_and_digest_cameras") {
        return;
    }
    let login = ["--user", "admin", "--password", "p@ss:w/rd"];
    let digest = Sim::start(&[&PATTERN[..], &login, &["--digest"]].concat());
    let basic = Sim::start(&[&PATTERN[..], &login].concat());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let password = dir.path().join("password");
    std::fs::write(&password, "p@ss:w/rd\n").expect("written");
    let in_url = basic.url.replace("rtsp://", "rtsp://admin:p%40ss%3Aw%2Frd@");
    let daemon = Daemon::start(&format!(
        "[cameras.digest]\nsource = {:?}\nuser = \"admin\"\npassword_file = {password:?}\n[cameras.basic]\nsource = {in_url:?}\n",
        digest.url
    ));
    daemon.wait_state("digest", "online");
    daemon.wait_state("basic", "online");
    let everything = daemon.log()
        + &daemon.get("/api/v1/cameras").expect("the API answers")
        + &daemon.get("/metrics").expect("the metrics answer");
    assert!(
        !everything.contains("p@ss") && !everything.contains("p%40ss"),
        "no credential leaves the daemon"
    );
}

#[test]
fn a_port_in_use_is_named_with_the_way_out() {
    if !ready("a_port_in_use_is_named_with_the_way_out") {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("weir.toml");
    let models = root().join("models");
    std::fs::write(&path, format!(
        "[model]\nname = \"coco-ssd\"\ndirs = [{models:?}]\n[http]\nbind = \"127.0.0.1:{port}\"\n[cameras.a]\nsource = \"rtsp://127.0.0.1:9/x\"\n"
    )).expect("written");
    let output = weir().args(["run", "-c"]).arg(&path).output().expect("weir runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{stderr}");
    assert!(
        stderr
            .contains(&format!("[http] bind = \"127.0.0.1:{port}\": another process already listens there")),
        "{stderr}"
    );
    assert!(stderr.contains("ss -ltnp"), "{stderr}");
}

#[test]
fn a_pdf_is_not_a_model() {
    if !ready("a_pdf_is_not_a_model") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let pdf = dir.path().join("model.onnx");
    std::fs::write(&pdf, b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n").expect("written");
    let manifest = std::fs::read_to_string(root().join("models/yolox-nano/model.toml"))
        .expect("it is in the repository");
    std::fs::write(dir.path().join("model.toml"), manifest).expect("written");
    let mut daemon = Daemon::spawn(
        "[cameras.a]\nsource = \"rtsp://127.0.0.1:9/x\"\n",
        &format!("[model]\npath = {pdf:?}\n"),
    );
    let (code, _) = daemon.wait();
    let log = daemon.log();
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("ONNX Runtime does not accept it"), "{log}");
    assert!(log.contains("weir model inspect"), "{log}");
}

#[test]
fn a_class_that_the_model_does_not_know_is_named() {
    if !ready("a_class_that_the_model_does_not_know_is_named") {
        return;
    }
    let mut daemon = Daemon::spawn(
        "[cameras.a]\nsource = \"rtsp://127.0.0.1:9/x\"\n",
        "[model]\nname = \"coco-ssd\"\nclasses = [\"persn\"]\n",
    );
    let (code, _) = daemon.wait();
    let log = daemon.log();
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("model coco-ssd has no label persn"), "{log}");
}

#[test]
fn a_library_that_is_none_is_named_with_the_way_out() {
    if !ready("a_library_that_is_none_is_named_with_the_way_out") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let library = dir.path().join("libonnxruntime.so");
    std::fs::write(&library, "not a library").expect("written");
    let mut daemon = Daemon::spawn(
        &format!("[infer]\nonnxruntime = {library:?}\n[cameras.a]\nsource = \"rtsp://127.0.0.1:9/x\"\n"),
        "[model]\nname = \"coco-ssd\"\n",
    );
    let (code, _) = daemon.wait();
    let log = daemon.log();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains(&format!("ONNX Runtime at {} cannot be used", library.display())), "{log}");
    assert!(log.contains("cargo xtask setup"), "{log}");
}
