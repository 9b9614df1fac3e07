//! `[infer] execution` on the real libraries: what is asked for is got, or said to be missing.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::path::Path;

use daemon::{Daemon, ready};
use wait::until;

/// A daemon whose camera never answers: only its engine counts here.
fn start(execution: &str, openvino: Option<&Path>) -> Daemon {
    let plugin = openvino.map(|path| format!("openvino = {path:?}\n")).unwrap_or_default();
    let config = format!(
        "[infer]\nexecution = {execution}\n{plugin}[cameras.a]\nsource = \"rtsp://127.0.0.1:9/none\"\n[log]\nformat = \"json\"\n"
    );
    Daemon::spawn(&config, "[model]\nname = \"coco-ssd\"\n")
}

/// What the log says of the engine, once it is warm.
fn chosen(daemon: &Daemon) -> String {
    until("the daemon is ready", || daemon.get("/readyz").ok().map(drop));
    let line = |line: &str| line.contains("Chose the engine.");
    daemon.log().lines().find(|l| line(l)).expect("it says what was chosen").to_owned()
}

#[test]
fn a_broken_plugin_is_an_error_unless_a_fallback_is_named() {
    if !ready("a_broken_plugin_is_an_error_unless_a_fallback_is_named") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("plugin.so");
    std::fs::write(&broken, "no library").unwrap();
    let name = broken.display().to_string();

    let mut daemon = start("\"openvino\"", Some(&broken));
    let (code, _) = daemon.wait();
    let log = daemon.log();
    assert!(code.is_some_and(|code| code != 0) && log.contains(&name), "{code:?} {log}");
    assert!(log.contains("openvino cannot be used"), "{log}");

    let daemon = start("[\"openvino\", \"cpu\"]", Some(&broken));
    let said = chosen(&daemon);
    assert!(said.contains("asked for openvino, then cpu, got cpu (openvino cannot be used"), "{said}");
    assert!(daemon.log().contains("Not the execution provider that was asked for first"));
}

#[test]
fn without_a_gpu_the_next_provider_is_used_and_it_is_said_why() {
    let test = "without_a_gpu_the_next_provider_is_used_and_it_is_said_why";
    if !ready(test) {
        return;
    }
    if weir::device::nvidia::gpu::Gpu::open(0).is_ok() {
        println!("skipped: {test}: there is a GPU");
        return;
    }
    println!("skipped: no GPU: what TensorRT itself does");
    let daemon = start("[\"tensorrt\", \"tensorrt-rtx\", \"cuda\", \"cpu\"]", None);
    let said = chosen(&daemon);
    assert!(said.contains("got cpu"), "{said}");
    assert!(daemon.log().contains("No GPU is used: "), "{}", daemon.log());

    // Without a fallback it is an error, which names the remedy.
    let mut daemon = start("\"tensorrt\"", None);
    let (code, _) = daemon.wait();
    let log = daemon.log();
    assert!(code.is_some_and(|code| code != 0), "{code:?} {log}");
    assert!(log.contains("driver") && log.contains("install"), "{log}");
}

#[test]
fn building_engines_needs_somebody_who_asks_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weir.toml");
    let build = |execution: &str| {
        let models = daemon::root().join("models");
        let text = format!(
            "[model]\nname = \"coco-ssd\"\ndirs = [{models:?}]\n[infer]\nexecution = {execution}\n[cameras.a]\nsource = \"rtsp://127.0.0.1:9/none\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let out = daemon::weir().args(["model", "build", "-c"]).arg(&file).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    if !ready("building_engines_needs_somebody_who_asks_for_them") {
        return;
    }
    let (code, said) = build("[\"cuda\", \"cpu\"]");
    assert!(code == Some(78) && said.contains("nothing to build"), "{code:?} {said}");
    let (code, said) = build("[\"tensorrt\", \"cpu\"]");
    match weir::device::nvidia::gpu::Gpu::open(0) {
        Ok(_) => println!("there is a GPU: {code:?} {said}"),
        Err(_) => assert!(code == Some(1) && said.contains("driver"), "{code:?} {said}"),
    }
}

#[test]
fn auto_measures_what_is_here() {
    if !ready("auto_measures_what_is_here") {
        return;
    }
    let said = chosen(&start("\"auto\"", None));
    assert!(said.contains("asked for auto, got ") && said.contains("(cpu "), "{said}");
    assert!(said.contains(" ms a frame; openvino "), "{said}");
    println!("{said}");
    let said = chosen(&start("\"cpu\"", None));
    assert!(said.contains("asked for cpu, got cpu; "), "nothing was measured: {said}");

    let mut daemon = start("\"openvino\"", None);
    let ended = until("OpenVINO runs or is refused", || match daemon.get("/readyz") {
        Ok(_) => Some(false),
        Err(_) => daemon.ended().then_some(true),
    });
    match ended {
        // Its outputs were compared with the CPU's on the way.
        false => assert!(chosen(&daemon).contains("asked for openvino, got openvino"), "{}", daemon.log()),
        true => {
            assert!(daemon.log().contains("openvino cannot be used"), "{}", daemon.log());
            println!("SKIPPED: the real plugin: {}", daemon.log());
        }
    }
}
