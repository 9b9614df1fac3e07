//! What the motion gate saves, and what it costs, on real clips: each played in real time by two cameras of one daemon, one without and
//! one with it.
//!
//! `cargo bench --bench still [-- FILE…]`; without files: the street of the tests, the room in ../shared/data/video, where somebody is
//! nearly always, and the same room made to be empty for a minute and a half before its first visitor. It takes as long as
//! the clips do (files that are read as fast as they can be lose nothing, so they have no gate). A row a clip: frames
//! that the engine saw of each camera, the part of its time that was saved, and the tracks: of those without the gate, how many have
//! nobody of their label at their time with it (for half of their life or more), and the other way round.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../support/daemon.rs"]
mod daemon;
#[path = "../support/wait.rs"]
mod wait;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use daemon::{Daemon, ready, street};
use serde_json::Value;

/// A clip that takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(600);

/// A track: label, first and last frame.
type Track = (String, u64, u64);

#[derive(Default)]
struct Run {
    came: u64,
    inferred: u64,
    open: HashMap<String, (String, u64)>,
    tracks: Vec<Track>,
    ended: bool,
}

fn main() {
    if !ready("still") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut clips: Vec<PathBuf> =
        std::env::args().skip(1).filter(|a| !a.starts_with('-')).map(PathBuf::from).collect();
    if clips.is_empty() {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../shared/data/video/one-by-one-person-detection.mp4");
        clips = [street(), shared.clone()].into_iter().filter(|clip| clip.is_file()).collect();
        clips.extend(shared.is_file().then(|| empty_at_first(&shared, dir.path())));
    }
    println!(
        "\n| clip | frames | inferred: gate off | on | engine time saved | tracks: off | on | only off | only on |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for clip in clips {
        let [off, on] = play(&clip);
        let missing =
            |from: &Run, of: &Run| from.tracks.iter().filter(|track| !is_in(track, &of.tracks)).count();
        println!(
            "| {} | {} | {} | {} | {:.0} % | {} | {} | {} | {} |",
            clip.file_name().unwrap_or_default().to_string_lossy(),
            off.came,
            off.inferred,
            on.inferred,
            100.0 * (1.0 - on.inferred as f64 / off.inferred.max(1) as f64),
            off.tracks.len(),
            on.tracks.len(),
            missing(&off, &on),
            missing(&on, &off),
        );
    }
}

/// Its first five seconds, in which nobody is there, ten times forwards and backwards, and the half minute after them.
fn empty_at_first(room: &Path, dir: &Path) -> PathBuf {
    let clip = dir.join("empty-at-first.mp4");
    let graph = "[0:v]split=3[a][b][c];[a]trim=end=5[a];[b]trim=end=5,reverse[b];[a][b]concat,loop=9:size=100[a];[c]trim=5:35,setpts=PTS-STARTPTS[c];[a][c]concat,setpts=N/10/TB";
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(room)
        .args(["-filter_complex", graph, "-r", "10", "-c:v", "libx264", "-b:v", "1M", "-bf", "0", "-g", "20"])
        .arg(&clip)
        .status();
    assert!(made.is_ok_and(|s| s.success()), "ffmpeg makes {}", clip.display());
    clip
}

/// Is somebody of this label there for at least half of its time?
fn is_in((label, first, last): &Track, others: &[Track]) -> bool {
    let seen = |frame: u64| others.iter().any(|(of, from, to)| of == label && (*from..=*to).contains(&frame));
    2 * (*first..=*last).filter(|frame| seen(*frame)).count() as u64 > last - first
}

/// Without the gate, and with it.
#[expect(clippy::disallowed_methods, reason = "other processes have no clock of ours")]
fn play(clip: &Path) -> [Run; 2] {
    let clip = clip.canonicalize().expect("the clip is there");
    // Two cameras of 25 frames/s would be too many for two cores, and what is lost then is not the gate's doing.
    let camera = |name: &str, gate: bool| {
        let source = clip.display();
        format!(
            "[cameras.{name}]\nsource = \"file:{source}\"\nrepeat = false\nmax_fps = 10\nmotion_gate = {gate}\n"
        )
    };
    let daemon = Daemon::start(&format!("{}{}", camera("off", false), camera("on", true)));
    let (began, mut after) = (Instant::now(), 0);
    let mut runs = [Run::default(), Run::default()];
    while !runs.iter().all(|run| run.ended) {
        // The log holds so many; what is read is not asked for again.
        let text = daemon.get(&format!("/api/v1/events?limit=1000&after={after}")).expect("the API answers");
        let page: Value = serde_json::from_str(&text).expect("the API speaks JSON");
        for event in page["events"].as_array().expect("a page has events") {
            after = event["seq"].as_u64().expect("a number");
            runs[usize::from(event["camera"] == "on")].note(event);
        }
        assert!(began.elapsed() < PATIENCE, "{} is not at its end:\n{}", clip.display(), daemon.log());
        std::thread::park_timeout(Duration::from_millis(100));
    }
    for (run, name) in runs.iter_mut().zip(["off", "on"]) {
        let camera = daemon.camera(name);
        let count = |fate: &str| camera["frames"][fate].as_u64().expect("a count");
        (run.came, run.inferred) = (count("in"), count("inferred"));
        let came = run.came;
        run.tracks.extend(run.open.drain().map(|(_, (label, first))| (label, first, came)));
    }
    runs
}

impl Run {
    fn note(&mut self, event: &Value) {
        let (id, seq) = (event["track"]["id"].to_string(), event["frame"]["seq"].as_u64().unwrap_or(0));
        let label = event["track"]["label"].as_str().unwrap_or_default().to_owned();
        match event["kind"].as_str().unwrap_or_default() {
            "track.started" => drop(self.open.insert(id, (label, seq))),
            "track.ended" => {
                if let Some((label, first)) = self.open.remove(&id) {
                    self.tracks.push((label, first, seq.max(first)));
                }
            }
            "camera.offline" => self.ended = true,
            _ => {}
        }
    }
}
