//! End to end: what a frame costs outside decode and engine, and how busy the engine is when it is the limit.
//!
//! `cargo bench --bench e2e [-- --seconds 20]` runs the release daemon on 1080p25 H.264 RTSP cameras of real video and prints two
//! tables. CPU is read per thread from /proc (utime + stime), and the preprocess's share of the infer thread from the metrics (CPU
//! time as well), so it holds on a noisy machine; rates and latencies do not, so read those beside each other from one run.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../support/daemon.rs"]
mod daemon;
#[path = "../support/wait.rs"]
mod wait;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use daemon::{Daemon, Sim, root, street};
use serde_json::Value;

const MAX_WAIT_MS: u64 = 30;
const FPS: f64 = 25.0;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let seconds = args
        .iter()
        .position(|a| a == "--seconds")
        .and_then(|i| args.get(i + 1))
        .and_then(|s| s.parse().ok())
        .unwrap_or(20);
    if !daemon::ready("e2e") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let clip = full_hd(dir.path());
    let (name, model) = model(dir.path());
    println!("\n{name}, {} cores, {seconds} s a row, RTSP servers on the same cores\n", cores());
    println!("CPU per frame that came in, one camera 1080p25, by thread (ms):\n");
    let light = measure(&clip, &model, 1, seconds, false);
    light.print_cpu();
    measure(&clip, &model, 1, seconds, true).print_littles_law();
    println!(
        "\n| cameras | in fps | inferred fps | engine busy | p50 ms | p95 ms | bound ms | inferred fps a camera | latency 1st → 2nd half |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    light.print_rates();
    for cameras in [2, 4] {
        measure(&clip, &model, cameras, seconds, false).print_rates();
    }
    println!(
        "\nbound: max_wait ({MAX_WAIT_MS} ms) + one service time + one frame interval ({:.0} ms).",
        1000.0 / FPS
    );
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The street clip at 1080p, 4 Mbit/s, one slice a picture, a key frame a second.
fn full_hd(dir: &Path) -> PathBuf {
    let clip = dir.join("full-hd.mp4");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-t", "20", "-i"])
        .arg(street())
        .args([
            "-vf",
            "scale=1920:1080",
            "-r",
            "25",
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
            "-b:v",
            "4M",
            "-bf",
            "0",
            "-g",
            "25",
        ])
        .args(["-x264-params", "slices=1", "-an"])
        .arg(&clip)
        .status();
    assert!(made.is_ok_and(|s| s.success()), "ffmpeg makes the clip");
    clip
}

/// YOLOX-nano at 416 where the test data has it, else the default.
fn model(dir: &Path) -> (String, String) {
    let weights = root().join("../shared/data/models/yolox_nano.onnx");
    if !weights.is_file() {
        return ("coco-ssd 300×300 (no YOLOX-nano here)".into(), "[model]\nname = \"coco-ssd\"\n".into());
    }
    let own = dir.join("yolox-nano.onnx");
    std::fs::copy(weights, &own).expect("copied");
    std::fs::copy(root().join("models/yolox-nano/model.toml"), dir.join("yolox-nano.toml")).expect("copied");
    ("YOLOX-nano 416×416 f32".into(), format!("[model]\npath = {own:?}\n"))
}

struct Measured {
    cameras: usize,
    wall: f64,
    frames_in: f64,
    inferred: Vec<f64>,
    /// Seconds.
    busy: f64,
    preprocess: f64,
    /// The engine's time for one batch.
    service_ms: f64,
    p50: f64,
    p95: f64,
    /// p95 of both halves: growth would show.
    halves: [f64; 2],
    /// L: the mean of `weir_queue_frames`, as scraped.
    in_flight: f64,
    /// Seconds that all inferred frames together spent between their rings and their events.
    sojourn: f64,
    /// CPU seconds by thread name.
    cpu: BTreeMap<String, f64>,
}

/// Scrapes what a Prometheus server would, oftener.
#[derive(Default)]
struct Queue {
    sum: f64,
    samples: f64,
}

impl Queue {
    #[expect(clippy::disallowed_methods, reason = "a bench asks what time it is")]
    fn watch(&mut self, daemon: &Daemon, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            // No multiple of a frame interval, or it would always see the same moment of it.
            std::thread::sleep(Duration::from_millis(17));
            let page = daemon.get("/metrics").expect("the metrics answer");
            let frames = page.lines().filter(|l| l.starts_with("weir_queue_frames{"));
            self.sum += frames.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
            self.samples += 1.0;
        }
    }

    fn mean(&self) -> f64 {
        self.sum / self.samples.max(1.0)
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench asks what time it is")]
fn measure(clip: &Path, model: &str, cameras: usize, seconds: u64, scraped: bool) -> Measured {
    let clip = clip.to_str().expect("the path is text");
    let sims: Vec<Sim> =
        (0..cameras).map(|n| Sim::start(&["--file", clip, "--start", &(n * 2).to_string()])).collect();
    // For trying one thing against another: `E2E_CONFIG='[infer]\nthreads = 1'`.
    let extra = std::env::var("E2E_CONFIG").unwrap_or_default().replace("\\n", "\n");
    let mut config = format!("{extra}\n[batcher]\nmax_wait_ms = {MAX_WAIT_MS}\n");
    for (n, sim) in sims.iter().enumerate() {
        config += &format!("[cameras.c{n}]\nsource = {:?}\n", sim.url);
    }
    let daemon = Daemon::spawn(&config, model);
    wait::until("the daemon is ready", || daemon.get("/readyz").ok().map(drop));
    for n in 0..cameras {
        daemon.wait_state(&format!("c{n}"), "online");
    }
    // The first second has the key frames of everybody's start in it.
    std::thread::sleep(Duration::from_secs(2));
    let before = reading(&daemon, cameras);
    let start = Instant::now();
    let mut queue = Queue::default();
    // Scraping as often as Little's law needs it costs CPU time that is not the daemon's usual.
    let mut pass = |time: u64| match scraped {
        true => queue.watch(&daemon, Duration::from_secs(time)),
        false => std::thread::sleep(Duration::from_secs(time)),
    };
    pass(seconds / 2);
    let half = worst(&daemon, cameras, "p95");
    pass(seconds - seconds / 2);
    let after = reading(&daemon, cameras);
    let wall = start.elapsed().as_secs_f64();
    let batches = after.batches - before.batches;
    Measured {
        cameras,
        wall,
        frames_in: after.frames_in - before.frames_in,
        inferred: after.inferred.iter().zip(&before.inferred).map(|(a, b)| a - b).collect(),
        busy: after.busy - before.busy,
        preprocess: after.preprocess - before.preprocess,
        service_ms: (after.busy - before.busy) * 1e3 / batches.max(1.0),
        p50: worst(&daemon, cameras, "p50"),
        p95: worst(&daemon, cameras, "p95"),
        halves: [half, worst(&daemon, cameras, "p95")],
        in_flight: queue.mean(),
        sojourn: after.sojourn - before.sojourn,
        cpu: after.cpu.iter().map(|(k, v)| (k.clone(), v - before.cpu.get(k).unwrap_or(&0.0))).collect(),
    }
}

fn camera(daemon: &Daemon, n: usize) -> Value {
    daemon.camera(&format!("c{n}"))
}

/// The worst camera's percentile.
fn worst(daemon: &Daemon, cameras: usize, percentile: &str) -> f64 {
    (0..cameras)
        .map(|n| camera(daemon, n)["latency_ms"][percentile].as_f64().unwrap_or(0.0))
        .fold(0.0, f64::max)
}

struct Reading {
    frames_in: f64,
    inferred: Vec<f64>,
    busy: f64,
    preprocess: f64,
    batches: f64,
    /// Seconds of the frames that were inferred, from their rings to their events.
    sojourn: f64,
    cpu: BTreeMap<String, f64>,
}

fn reading(daemon: &Daemon, cameras: usize) -> Reading {
    let page = daemon.get("/metrics").expect("the metrics answer");
    let metric = |name: &str| -> f64 {
        let line =
            page.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name} in the metrics"));
        line.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a number")
    };
    let sum = |name: &str| -> f64 {
        let values = page.lines().filter(|l| l.starts_with(name)).filter_map(|l| l.rsplit(' ').next());
        values.filter_map(|value| value.parse::<f64>().ok()).sum()
    };
    let states: Vec<Value> = (0..cameras).map(|n| camera(daemon, n)).collect();
    let count = |s: &Value, key: &str| s["frames"][key].as_f64().expect("a count");
    Reading {
        frames_in: states.iter().map(|s| count(s, "in")).sum(),
        inferred: states.iter().map(|s| count(s, "inferred")).collect(),
        busy: metric("weir_engine_busy_seconds_total"),
        preprocess: metric("weir_stage_cpu_seconds_total{stage=\"preprocess\"}"),
        batches: metric("weir_batch_frames_count"),
        sojourn: sum("weir_event_latency_seconds_sum{") - metric("weir_stage_seconds_sum{stage=\"decode\"}"),
        cpu: threads(daemon.pid()),
    }
}

/// CPU seconds by thread name; digits are dropped, so that all of a kind add up.
fn threads(pid: u32) -> BTreeMap<String, f64> {
    let mut cpu = BTreeMap::new();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon runs");
    for task in tasks.flatten() {
        // A thread may end while we look.
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.split_once('(').and_then(|(_, r)| r.rsplit_once(')')) else { continue };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        let name: String = name.chars().filter(|c| !c.is_ascii_digit()).collect();
        // utime and stime are fields 14 and 15 of proc(5); the state after the name is field 3. A tick is 10 ms.
        *cpu.entry(name).or_insert(0.0) += (ticks(11) + ticks(12)) / 100.0;
    }
    cpu
}

impl Measured {
    fn print_cpu(&self) {
        let per_frame = |seconds: f64| seconds * 1e3 / self.frames_in;
        // The jitter buffer's thread runs everything behind it: depayloader, decoder, and our appsink.
        let is_decode = |name: &str| name.starts_with("rtpjitterbuffer") || name.starts_with("multiqueue");
        let is_engine = |name: &str| name == "infer";
        println!("| thread | ms a frame |\n|---|---|");
        for (name, seconds) in self.cpu.iter().filter(|(_, s)| **s > 0.0) {
            println!("| {name} | {:.2} |", per_frame(*seconds));
        }
        let rest: f64 = self.cpu.iter().filter(|(n, _)| !is_decode(n) && !is_engine(n)).map(|(_, s)| s).sum();
        // A machine that is too slow for 25 fps drops frames before the preprocess: count what it has done.
        let preprocess = self.preprocess * 1e3 / self.inferred.iter().sum::<f64>();
        println!(
            "| **all but decode and engine, preprocess included** | **{:.2}** |",
            per_frame(rest) + preprocess
        );
        println!("| of which preprocess (on the infer thread), a frame inferred | {preprocess:.2} |");
    }

    /// L = λW (Little 1961), each side from metrics of its own. Of the one camera, whose frames are all inferred: those that are
    /// given up wait too, and nobody measures for how long.
    fn print_littles_law(&self) {
        let inferred: f64 = self.inferred.iter().sum();
        let (rate, each) = (inferred / self.wall, self.sojourn / inferred);
        println!(
            "\nLittle's law in the exported metrics: L = {:.3} frames (weir_queue_frames), λW = {rate:.1}/s × {:.1} ms = {:.3}: ratio {:.3}",
            self.in_flight,
            each * 1e3,
            rate * each,
            self.in_flight / (rate * each)
        );
    }

    fn print_rates(&self) {
        let inferred: f64 = self.inferred.iter().sum();
        let rates: Vec<String> = self.inferred.iter().map(|n| format!("{:.1}", n / self.wall)).collect();
        println!(
            "| {} | {:.1} | {:.1} | {:.0} % | {:.0} | {:.0} | {:.0} | {} | {:.0} → {:.0} |",
            self.cameras,
            self.frames_in / self.wall,
            inferred / self.wall,
            100.0 * self.busy / self.wall,
            self.p50,
            self.p95,
            MAX_WAIT_MS as f64 + self.service_ms + 1000.0 / FPS,
            rates.join(" "),
            self.halves[0],
            self.halves[1],
        );
    }
}
