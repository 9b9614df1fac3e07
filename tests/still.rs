//! The motion gate in the real daemon: a picture that stands still costs little, and the people in it stay.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::process::Command;

use daemon::{Daemon, ready, street};
use serde_json::Value;
use wait::until;

/// 10 s of one picture of the street, 3 s of the street as it moves from there, 5 s of the last picture; 10 fps.
fn clip(dir: &std::path::Path) -> std::path::PathBuf {
    let clip = dir.join("still.mp4");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(street())
        .args(["-vf", "fps=10,trim=end_frame=30,tpad=start_mode=clone:start_duration=10:stop_mode=clone:stop_duration=5"])
        .args(["-pix_fmt", "yuv420p", "-c:v", "libx264", "-bf", "0", "-g", "20"])
        .arg(&clip)
        .status();
    assert!(made.is_ok_and(|s| s.success()), "ffmpeg makes {}", clip.display());
    clip
}

#[test]
fn a_still_picture_costs_its_floor_and_its_tracks_live_on() {
    if !ready("a_still_picture_costs_its_floor_and_its_tracks_live_on") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let clip = clip(dir.path());
    let daemon = Daemon::start(&format!(
        "[cameras.gated]\nsource = \"file:{}\"\nrepeat = false\nmotion_gate = true\n",
        clip.display()
    ));
    let end = until("the clip has been played", || {
        daemon.events().into_iter().find(|event| event["kind"] == "camera.offline")
    });
    assert_eq!(end["reason"]["code"], "finished");
    let camera = daemon.camera("gated");
    let count = |fate: &str| camera["frames"][fate].as_u64().expect("a count");
    // 180 frames: 30 that move and 20 after each beginning and each motion pass; of the other 110 or so one in five.
    let (came, skipped) = (count("in"), count("skipped"));
    assert_eq!(came, 180, "{camera}");
    assert!((70..=110).contains(&skipped), "{camera}");
    // The people of the first picture are seen at the floor rate until the picture moves: frame 100 and later.
    let events = daemon.events();
    let persons = |kind: &str| -> Vec<&Value> {
        let of = |event: &&Value| event["kind"] == kind && event["track"]["label"] == "person";
        events.iter().filter(of).collect()
    };
    let early = persons("track.started").iter().filter(|e| e["frame"]["seq"].as_u64() < Some(20)).count();
    assert!(early > 0, "nobody was seen in the first picture");
    let lost = persons("track.ended")
        .into_iter()
        .find(|event| (20..100).contains(&event["frame"]["seq"].as_u64().unwrap_or(u64::MAX)));
    assert_eq!(lost, None, "a person at rest was lost while nothing moved");
}
