//! `weir plan` and admission, by the real binary with the real model.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::process::Command;
use std::time::Duration;

use daemon::{Daemon, Sim, ready, root, street, weir};
use serde_json::{Value, json};
use wait::until;

/// Runs it; standard output of a good end.
fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{:?}: {said}", out.status);
    String::from_utf8(out.stdout).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// What must hold of every plan, whatever the machine.
fn sound(plan: &Value) {
    let keys = [
        "schema",
        "source",
        "model",
        "engine",
        "cameras",
        "slo_p95_ms",
        "cores",
        "engine_cores",
        "service",
        "rho_max",
        "capacity_fps",
        "decode",
        "fit",
        "recommend",
        "prediction",
        "ram",
        "vram",
        "cost",
        "notes",
    ];
    let object = plan.as_object().unwrap();
    let mut known = object.keys().map(String::as_str).collect::<Vec<_>>();
    known.sort_unstable();
    let mut wanted = keys;
    wanted.sort_unstable();
    assert_eq!(known, wanted);
    assert_eq!(plan["schema"], "weir.plan/1");
    let used = plan["recommend"]["max_batch_frames"].as_u64().unwrap();
    let rung = plan["service"].as_array().unwrap().iter().find(|r| r["frames"] == used).unwrap();
    // Capacity is 0.7 of b/S(b).
    let capacity = 0.7 * used as f64 / (number(&rung["ms"]) / 1e3);
    assert!((number(&plan["capacity_fps"]) / capacity - 1.0).abs() < 0.01, "{plan}");
    let fit = plan["fit"]["cameras"].as_u64().unwrap();
    for ceiling in ["engine", "decode", "nvdec", "memory"] {
        assert!(plan["fit"][ceiling].as_u64().is_none_or(|alone| fit <= alone), "{plan}");
    }
    for row in plan["prediction"].as_array().unwrap() {
        // Those that fit have a load of 0.7 at most; one more does not.
        let fits = row["cameras"].as_u64().unwrap() <= fit;
        assert!(!fits || number(&row["rho"]) <= 0.701, "{row}");
        if fits {
            assert!(number(&row["p50_ms"]) <= number(&row["p95_ms"]), "{row}");
            assert!(number(&row["p50_ms"]) >= number(&plan["service"][0]["ms"]), "{row}");
        }
    }
}

fn config(dir: &std::path::Path, cameras: &str) -> std::path::PathBuf {
    let path = dir.join("weir.toml");
    let models = root().join("models");
    std::fs::write(&path, format!("[model]\nname = \"coco-ssd\"\ndirs = [{models:?}]\n{cameras}")).unwrap();
    path
}

#[test]
fn a_machine_measures_itself() {
    if !ready("a_machine_measures_itself") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), &format!("[cameras.street]\nsource = \"file:{}\"\n", street().display()));
    let mut command = weir();
    command.args(["plan", "--json", "--price-per-hour", "0.5", "-c"]).arg(&file);
    let plan: Value = serde_json::from_str(&run(&mut command)).unwrap();
    sound(&plan);
    assert_eq!((&plan["source"], &plan["decode"]["from"]), (&"calibrated".into(), &"file".into()));
    // The clip's own size and rate.
    assert_eq!((&plan["cameras"]["width"], &plan["cameras"]["height"]), (&768.into(), &576.into()));
    assert!(number(&plan["cameras"]["fps"]) > 1.0, "{plan}");
    assert!(number(&plan["decode"]["cpu_ms"]) > 0.05 && number(&plan["decode"]["cpu_ms"]) < 100.0, "{plan}");
    assert!(number(&plan["ram"]["process_mb"]) > 20.0, "{plan}");
    let fit = number(&plan["fit"]["cameras"]);
    if fit > 0.0 {
        assert!((number(&plan["cost"]["per_camera_hour"]) - 0.5 / fit).abs() < 1e-9);
    }

    // Each camera is asked what it sends, and counts as that; one that does not answer is said.
    let sim = Sim::start(&["--pattern", "ball", "--size", "320x240", "--fps", "5"]);
    let (file, street) = (config(dir.path(), ""), street());
    let cameras = format!(
        "[cameras.street]\nsource = \"file:{}\"\nmax_fps = 2\n[cameras.porch]\nsource = {:?}\n[cameras.gone]\nsource = \"rtsp://127.0.0.1:9/x\"\nmax_fps = 1\n",
        street.display(),
        sim.url
    );
    config(dir.path(), &cameras);
    let plan: Value = serde_json::from_str(&run(weir().args(["plan", "--json", "-c"]).arg(&file))).unwrap();
    sound(&plan);
    let kinds = plan["cameras"]["kinds"].as_array().unwrap();
    let kind = |width: u64, height: u64, fps: f64, inferred: f64| json!({ "part": 0.3333, "fps": fps, "inferred_fps": inferred, "width": width, "height": height });
    for kind in [kind(768, 576, 25.0, 2.0), kind(320, 240, 5.0, 5.0), kind(1920, 1080, 25.0, 1.0)] {
        assert!(kinds.contains(&kind), "no {kind} in {plan}");
    }
    assert_eq!(plan["cameras"]["count"], 3);
    assert!(number(&plan["prediction"][0]["rho"]) > 0.0, "{plan}");
    let notes = plan["notes"].as_array().unwrap();
    assert!(
        notes.iter().any(|note| note.as_str().unwrap().contains("camera gone could not be asked")),
        "{plan}"
    );

    // A test pattern of the size that is asked for, where the configuration has no file; text for people.
    let file = config(dir.path(), "[cameras.porch]\nsource = \"rtsp://192.0.2.10/stream1\"\n");
    let asked = ["--cameras", "3", "--fps", "2", "--resolution", "640x360"];
    let text = run(weir().args(["plan", "-c"]).arg(&file).args(asked));
    for word in [
        "<- used",
        "(test_pattern)",
        "cameras of 640×360 at 2.0 frames/s",
        "max_batch_frames = ",
        "VRAM      none",
    ] {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
    println!("{text}");
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused() {
    for args in [
        ["--resolution", "1920"],
        ["--fps", "0"],
        ["--cameras", "0"],
        ["--price-per-hour", "free"],
        ["--url", "http://127.0.0.1:1"],
    ] {
        let out = weir().arg("plan").args(args).output().unwrap();
        let usage = if args[0] == "--url" { 1 } else { 64 };
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(usage), "{args:?}: {said}");
        assert!(said.contains(args[0]) || said.contains("127.0.0.1:1"), "{args:?}: {said}");
    }
}

fn ask(daemon: &Daemon, body: &Value) -> (u16, Option<String>, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(5)))
        .http_status_as_error(false)
        .build()
        .into();
    let request = agent.post(format!("{}/api/v1/admission", daemon.http)).content_type("application/json");
    let mut answer = request.send(body.to_string()).unwrap();
    let retry = answer.headers().get("retry-after").map(|v| v.to_str().unwrap().to_owned());
    let body = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), retry, serde_json::from_str(&body).unwrap())
}

#[test]
fn a_daemon_says_what_it_can_take() {
    if !ready("a_daemon_says_what_it_can_take") {
        return;
    }
    let source = format!("source = \"file:{}\"\n", street().display());
    // Two frames a second leave the slowest machine some room.
    let daemon = Daemon::start(&format!("[cameras.street]\n{source}max_fps = 2\n"));
    let flow = until("the first look", || {
        let flow: Value = serde_json::from_str(&daemon.get("/api/v1/flow").unwrap()).unwrap();
        flow["admission"]["decode_ns_per_pixel"].is_number().then_some(flow)
    });
    let admission = &flow["admission"];
    assert_eq!(admission["rho_max"], 0.7);
    assert!(["fits", "tight", "degraded"].contains(&admission["verdict"].as_str().unwrap()), "{flow}");
    let fair = number(&admission["fair_fps"]["street"]);
    assert!((0.1..=2.0).contains(&fair), "its cap is 2 fps: {flow}");
    let metrics = daemon.get("/metrics").unwrap();
    for line in [
        "weir_admission_load_ratio ",
        "weir_fair_fps{camera=\"street\"} ",
        "weir_admission{verdict=\"fits\"} ",
    ] {
        assert!(metrics.lines().any(|l| l.starts_with(line)), "no {line}");
    }

    // A tiny camera fits, or this machine is too busy for this test to say anything.
    let small = json!({ "fps": 1.0, "width": 320, "height": 240 });
    let (status, retry, answer) = ask(&daemon, &small);
    if number(&admission["capacity_fps"]) > 8.0 {
        assert_eq!((status, retry, &answer["verdict"]), (200, None, &"accept".into()), "{answer}");
    }
    // More than the engine has, but little to decode: a rate.
    let (status, _, answer) = ask(&daemon, &json!({ "fps": 1000, "width": 16, "height": 16 }));
    if status == 200 && answer["verdict"] == "accept_at" {
        assert!((1.0..1000.0).contains(&number(&answer["fps"])), "{answer}");
    } else {
        assert!(status == 503 || number(&answer["capacity_fps"]) > 1000.0, "{answer}");
    }
    // A thousand cameras: nothing fits that.
    let large = json!({ "fps": 25, "width": 1920, "height": 1080, "count": 1000, "priority": "bulk" });
    let (status, retry, answer) = ask(&daemon, &large);
    assert_eq!((status, &answer["error"]["code"]), (503, &"no_capacity".into()));
    assert!(
        ["decode", "engine", "memory"].contains(&answer["error"]["ceiling"].as_str().unwrap()),
        "{answer}"
    );
    assert!(retry.unwrap().parse::<u64>().unwrap() >= 1);
    // What is no question gets no answer.
    for wrong in [
        json!({ "fps": 0, "width": 640, "height": 480 }),
        json!({ "fps": 5, "width": 640 }),
        json!({ "fps": 5, "width": 640, "height": 480, "cuont": 2 }),
    ] {
        let (status, _, answer) = ask(&daemon, &wrong);
        assert!((400..=422).contains(&status) && answer["error"]["code"] == "bad_request", "{answer}");
    }

    let text = run(weir().args(["plan", "--json", "--cameras", "2", "--fps", "1", "--url", &daemon.http]));
    let plan: Value = serde_json::from_str(&text).unwrap();
    sound(&plan);
    assert_eq!((&plan["source"], &plan["decode"]["from"]), (&"live".into(), &"live".into()));
    assert_eq!((&plan["cameras"]["width"], &plan["cameras"]["count"]), (&768.into(), &2.into()));
    println!("{flow:#}\n{}", run(weir().args(["plan", "--url", &daemon.http])));
}
