//! `weir model prepare --int8`: a network in 8-bit integers finds what it found in floats.
//!
//! Skipped out loud without ONNX Runtime, the default detector or the street video.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers outside of #[test] functions use them too

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::path::Path;
use std::process::{Command, Output};

fn prepare(dir: &Path, video: &Path, more: &[&str]) -> Output {
    let model = dir.join("coco-ssd.onnx");
    let cached = weir::config::cache_dir().join("models/coco-ssd.onnx");
    if !model.is_file() {
        std::fs::copy(cached, &model).unwrap();
        let text = std::fs::read_to_string(daemon::root().join("models/coco-ssd/model.toml")).unwrap();
        let mut table: toml::Table = text.parse().unwrap();
        table.remove("source");
        std::fs::write(dir.join("coco-ssd.toml"), table.to_string()).unwrap();
    }
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["model", "prepare"])
        .arg(&model)
        .arg("--int8")
        .arg("-o")
        .arg(dir.join("small.onnx"))
        .arg("--on")
        .arg(format!("file:{}", video.display()))
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn a_network_in_integers_finds_what_it_found_in_floats_and_runs_in_the_daemon() {
    if !daemon::ready("int8") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let done = prepare(dir.path(), &daemon::street(), &["--frames", "40", "--every", "9", "--least", "0.95"]);
    let text = String::from_utf8_lossy(&done.stdout);
    println!("{text}{}", String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success());
    assert!(text.contains("in integers: 76 of 88"), "{text}");
    // The manifest beside it is all that is needed to use it.
    let seen = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["try", "--frames", "1", "--format", "jsonl", "--model"])
        .arg(dir.path().join("small.onnx"))
        .arg(format!("file:{}", daemon::street().display()))
        .output()
        .unwrap();
    let line = String::from_utf8_lossy(&seen.stdout);
    assert!(line.contains("\"person\""), "{line}{}", String::from_utf8_lossy(&seen.stderr));
}

#[test]
fn nothing_is_written_when_too_little_is_found_again() {
    if !daemon::ready("int8") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let done = prepare(dir.path(), &daemon::street(), &["--frames", "8", "--every", "2", "--least", "1.01"]);
    let why = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(78), "{why}");
    assert!(why.contains("--least asks for 101.0 %"), "{why}");
    assert!(!dir.path().join("small.onnx").exists());
    assert!(!dir.path().join("small.toml").exists());
}

/// On labelled data: persons of PETS09-S2L1, which is the street before it was encoded again.
#[test]
fn on_labelled_video_the_precision_before_and_after_is_told() {
    let truth = daemon::root().join("../shared/data/mot/PETS09-S2L1/gt.txt");
    let video = weir::config::cache_dir().join("video/vtest.avi");
    if !daemon::ready("int8") || !truth.is_file() || !video.is_file() {
        println!("skipped: on_labelled_video_the_precision_before_and_after_is_told: no truth or video");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let more = ["--frames", "20", "--every", "17", "--least", "0.9", "--truth", truth.to_str().unwrap()];
    let done = prepare(dir.path(), &video, &more);
    let text = String::from_utf8_lossy(&done.stdout);
    println!("{text}{}", String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success());
}
