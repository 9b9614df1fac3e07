//! What the motion gate saves, and what it costs, on real clips: the same files without and with it, each frame offered to the engine.
//!
//! `cargo bench --bench still [-- FILE…]`; without files: the street of the tests, and what lies in ../shared/data/video. A row a clip: frames that
//! the engine saw of those that came, the part of its time that was saved, and the tracks: of those without the gate, how many have
//! nobody of their label at their time with it (for half of their life or more).

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../support/daemon.rs"]
mod daemon;
#[path = "../support/wait.rs"]
mod wait;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use daemon::{Daemon, ready, street};
use serde_json::Value;

/// A clip that takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(600);

/// A track: label, first and last frame.
type Track = (String, u64, u64);

struct Run {
    came: u64,
    inferred: u64,
    tracks: Vec<Track>,
}

fn main() {
    if !ready("still") {
        return;
    }
    let mut clips: Vec<PathBuf> =
        std::env::args().skip(1).filter(|a| !a.starts_with('-')).map(PathBuf::from).collect();
    if clips.is_empty() {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../shared/data/video/one-by-one-person-detection.mp4");
        clips = [street(), shared].into_iter().filter(|clip| clip.is_file()).collect();
    }
    println!(
        "\n| clip | frames | inferred: gate off | on | engine time saved | tracks: off | on | of the first missing in the second |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for clip in clips {
        let (off, on) = (play(&clip, false), play(&clip, true));
        let missing = off.tracks.iter().filter(|track| !is_in(track, &on.tracks)).count();
        println!(
            "| {} | {} | {} | {} | {:.0} % | {} | {} | {missing} |",
            clip.file_name().unwrap_or_default().to_string_lossy(),
            off.came,
            off.inferred,
            on.inferred,
            100.0 * (1.0 - on.inferred as f64 / off.inferred.max(1) as f64),
            off.tracks.len(),
            on.tracks.len()
        );
    }
}

/// Is somebody of this label there for at least half of its time?
fn is_in((label, first, last): &Track, others: &[Track]) -> bool {
    let seen = |frame: u64| others.iter().any(|(of, from, to)| of == label && (*from..=*to).contains(&frame));
    2 * (*first..=*last).filter(|frame| seen(*frame)).count() as u64 > last - first
}

#[expect(clippy::disallowed_methods, reason = "other processes have no clock of ours")]
fn play(clip: &Path, gate: bool) -> Run {
    let clip = clip.canonicalize().expect("the clip is there");
    let daemon = Daemon::start(&format!(
        "[cameras.clip]\nsource = \"file:{}\"\nrepeat = false\nrealtime = false\nmotion_gate = {gate}\n",
        clip.display()
    ));
    let (began, mut open, mut tracks, mut after) = (Instant::now(), HashMap::new(), Vec::new(), 0);
    loop {
        // The log holds so many; what is read is not asked for again.
        let text = daemon.get(&format!("/api/v1/events?limit=1000&after={after}")).expect("the API answers");
        let page: Value = serde_json::from_str(&text).expect("the API speaks JSON");
        let mut ended = false;
        for event in page["events"].as_array().expect("a page has events") {
            after = event["seq"].as_u64().expect("a number");
            let (id, seq) = (event["track"]["id"].to_string(), event["frame"]["seq"].as_u64().unwrap_or(0));
            let label = event["track"]["label"].as_str().unwrap_or_default().to_owned();
            match event["kind"].as_str().unwrap_or_default() {
                "track.started" => drop(open.insert(id, (label, seq))),
                "track.ended" => {
                    if let Some((label, first)) = open.remove(&id) {
                        tracks.push((label, first, seq.max(first)));
                    }
                }
                "camera.offline" => ended = true,
                _ => {}
            }
        }
        if ended {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{} is not at its end:\n{}", clip.display(), daemon.log());
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let camera = daemon.camera("clip");
    let count = |fate: &str| camera["frames"][fate].as_u64().expect("a count");
    let came = count("in");
    tracks.extend(open.into_values().map(|(label, first)| (label, first, came)));
    Run { came, inferred: count("inferred"), tracks }
}
