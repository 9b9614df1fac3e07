//! `weir bench` by the real binary with the real model and a real clip: its figures add up.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::process::Command;

use daemon::{ready, root, street, weir};
use serde_json::Value;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn bench(args: &[&str]) -> Command {
    let mut command = weir();
    command.args(["bench", "--model", "coco-ssd", "--seconds", "3"]);
    command.arg("--models").arg(root().join("models"));
    command.arg("--source").arg(format!("file:{}", street().display()));
    command.args(args);
    command
}

/// What must hold of every row, whatever the machine.
fn sound(row: &Value, streams: u64) {
    let mut keys: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let wanted = [
        "batch_frames_mean",
        "binding",
        "cpu",
        "engine_busy_percent",
        "fps_in",
        "fps_inferred",
        "frames",
        "gpus",
        "loss_percent",
        "online_streams",
        "rss_mb",
        "seconds",
        "slo_p95_ms",
        "stages_ms",
        "streams",
    ];
    assert_eq!(keys, wanted);
    assert_eq!((&row["streams"], &row["online_streams"]), (&streams.into(), &streams.into()));

    let frames = row["frames"].as_object().unwrap();
    let count = |key: &str| frames[key].as_u64().unwrap();
    let fates = ["inferred", "overrun", "stale", "skipped", "decode_error", "failed"];
    let met: u64 = fates.iter().map(|fate| count(fate)).sum();
    assert_eq!(count("in") + count("in_flight_before"), met + count("in_flight_after"), "{row:#}");
    assert!(frames.len() == fates.len() + 3, "a fate that this test does not know: {row:#}");
    assert!(count("inferred") > 0 && count("failed") == 0, "{row:#}");

    let seconds = number(&row["seconds"]);
    assert!((3.0..6.0).contains(&seconds), "{row:#}");
    // The clip has 25 pictures a second.
    let fps = number(&row["fps_in"]);
    assert!((fps - 25.0 * streams as f64).abs() <= 8.0 * streams as f64, "{row:#}");
    assert!((fps - count("in") as f64 / seconds).abs() < 0.1, "{row:#}");
    let lost = (met - count("inferred")) as f64 / met as f64 * 100.0;
    assert!((number(&row["loss_percent"]) - lost).abs() < 0.01, "{row:#}");

    let stages = row["stages_ms"].as_object().unwrap();
    for stage in ["wait", "preprocess", "infer", "analyze", "total"] {
        let [p50, p95, p99] = ["p50", "p95", "p99"].map(|q| number(&stages[stage][q]));
        assert!(0.0 < p50 && p50 <= p95 && p95 <= p99 && p99 < 20_000.0, "{stage}: {row:#}");
    }
    assert!(stages["decode"].is_null(), "pictures of a file arrive when they are decoded: {row:#}");
    assert!(number(&stages["total"]["mean"]) > number(&stages["infer"]["mean"]) * 0.9, "{row:#}");

    let cpu = &row["cpu"];
    let (cores, used) = (number(&cpu["cores"]), number(&cpu["process_cores"]));
    assert!(used > 0.005 && used <= cores * 1.1, "{row:#}");
    assert!(
        (number(&cpu["percent_of_core_per_stream"]) - used * 100.0 / streams as f64).abs() < 0.2,
        "{row:#}"
    );
    assert!((20.0..20_000.0).contains(&number(&row["rss_mb"])), "{row:#}");
    let busy = number(&row["engine_busy_percent"]);
    assert!(busy > 0.1 && busy < 120.0, "{row:#}");
    let binding = &row["binding"];
    assert!(
        ["cpu", "engine", "nvdec", "gpu_memory"].contains(&binding["ceiling"].as_str().unwrap()),
        "{row:#}"
    );
    assert!(number(&cpu["box_percent"]) <= 100.0, "{row:#}");
    let level = number(&binding["level_percent"]);
    assert!(level >= busy && level >= number(&cpu["process_percent"]) - 0.01, "the highest one: {row:#}");
}

#[test]
fn a_box_is_measured_and_the_figures_add_up() {
    if !ready("a_box_is_measured_and_the_figures_add_up") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("box.json");
    let out = bench(&["--streams", "1,2", "--json"]).arg(&json).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{:?}: {said}", out.status);
    assert!(said.contains("Chose the engine."), "which one is said: {said}");
    let document: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!((&document["schema"], &document["model"]), (&"weir.bench/1".into(), &"coco-ssd".into()));
    let rows = document["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    sound(&rows[0], 1);
    sound(&rows[1], 2);
    let text = String::from_utf8(out.stdout).unwrap();
    for word in [
        "1 streams (1 delivered)",
        "2 streams (2 delivered)",
        "ceiling    ",
        "analyze ",
        " streams    fps in  inferred",
    ] {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
    println!("{text}");
}

#[test]
fn every_key_is_told_by_help() {
    let help = String::from_utf8(weir().args(["bench", "--help"]).output().unwrap().stdout).unwrap();
    for key in [
        "loss_percent",
        "in_flight_before",
        "percent_of_core_per_stream",
        "to_device_bytes_per_frame",
        "level_percent",
        "weir.bench/1",
    ] {
        assert!(help.contains(key), "no {key} in\n{help}");
    }
}

#[test]
fn streams_that_never_come_are_an_error_and_bad_counts_a_usage() {
    if !ready("streams_that_never_come_are_an_error_and_bad_counts_a_usage") {
        return;
    }
    let out = bench(&["--streams", "0"]).output().unwrap();
    assert_eq!(out.status.code(), Some(64));
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.mp4");
    std::fs::write(&empty, "no video").unwrap();
    let mut command = weir();
    command.args(["bench", "--model", "coco-ssd", "--seconds", "1", "--patience", "3"]);
    command.arg("--models").arg(root().join("models"));
    let out = command.arg("--source").arg(format!("file:{}", empty.display())).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("no stream delivers"), "{said}");
}
