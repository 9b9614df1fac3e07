//! Thinning before decode, on real streams: what is left out is not missed by what is decoded, and a daemon whose engine
//! is the limit decodes less and infers as much.

#![allow(clippy::print_stdout, reason = "a test says what it measured")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use daemon::{Daemon, Sim, count};
use weir::config::{Camera, DropPolicy, Priority, Source};
use weir::device::software::source;
use weir::device::{Gate, Happening, Sink};
use weir::flow::thin::{Coded, Kind, Valve};

/// A clip of moving picture; `args` choose the encoder.
fn encode(dir: &Path, name: &str, size: &str, args: &[&str]) -> PathBuf {
    let clip = dir.join(name);
    let made = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            &format!("testsrc2=size={size}:rate=15"),
            "-frames:v",
            "150",
        ])
        .args(["-pix_fmt", "yuv420p"])
        .args(args)
        .arg(&clip)
        .status();
    assert!(made.is_ok_and(|s| s.success()), "ffmpeg makes {}", clip.display());
    clip
}

/// A checksum of each decoded picture's luma, by its time in the stream; and the time at which it came out, counted in
/// pictures that had come in.
type Pictures = BTreeMap<u64, (u64, usize)>;

/// Plays a file to its end. `wanted` is asked about each picture.
fn decode(
    clip: &Path,
    mut wanted: impl FnMut(usize, Coded) -> bool + Send + 'static,
) -> (Pictures, Vec<Coded>) {
    let camera = Camera {
        name: "clip".into(),
        source: Source::File { path: clip.to_owned(), repeat: false, realtime: false },
        ring: Duration::from_secs(1),
        drop_policy: DropPolicy::Oldest,
        backlog_frames: 3,
        priority: Priority::Realtime,
        weight: 1,
        max_fps: None,
        thin_decode: true,
        still_fps: None,
        stall: Duration::from_secs(3),
        zones: Vec::new(),
        lines: Vec::new(),
        privacy: Default::default(),
        restream: Default::default(),
    };
    let (pictures, units) = (Arc::new(Mutex::new(Pictures::new())), Arc::new(Mutex::new(Vec::new())));
    let (into, came) = (Arc::clone(&pictures), Arc::clone(&units));
    let (seen, mut valve) = (Arc::clone(&units), Valve::default());
    let gate: Gate = Box::new(move |unit| {
        let number = seen.lock().expect("nobody panicked").len();
        seen.lock().expect("nobody panicked").push(unit);
        valve.pass(unit, |_| wanted(number, unit))
    });
    let (happening, happenings) = crossbeam_channel::bounded(64);
    let picture = Box::new(move |picture: weir::device::Picture<weir::device::software::pixels::Pixels>| {
        let pixels = picture.pixels.expect("a sound picture");
        let planes = pixels.planes();
        let (width, mut hash) = (picture.size.width as usize, DefaultHasher::new());
        for row in planes.data[0].chunks(planes.stride[0]).take(picture.size.height as usize) {
            row[..width].hash(&mut hash);
        }
        let came = came.lock().expect("nobody panicked").len();
        into.lock()
            .expect("nobody panicked")
            .insert(picture.pts.expect("it has a time").0, (hash.finish(), came));
    });
    let running = source::open(&camera, Sink { picture, happening, gate: Some(gate) }).expect("it opens");
    match happenings.recv_timeout(Duration::from_secs(60)).expect("the file ends") {
        Happening::Ended => {}
        Happening::Undecodable => panic!("{}: something cannot be decoded", clip.display()),
        Happening::Failed(fault) => panic!("{}: {fault}", clip.display()),
    }
    drop(running);
    (
        std::mem::take(&mut *pictures.lock().expect("nobody panicked")),
        std::mem::take(&mut *units.lock().expect("nobody panicked")),
    )
}

/// Streams as cameras send them: the name, the encoder's arguments, whether some pictures are disposable.
const STREAMS: [(&str, &[&str], bool); 8] = [
    ("plain.mp4", &["-c:v", "libx264", "-bf", "0", "-g", "15"], false),
    ("b-frames.mp4", &["-c:v", "libx264", "-bf", "2", "-g", "15"], true),
    (
        "pyramid.mp4",
        &["-c:v", "libx264", "-bf", "5", "-x264-params", "b-pyramid=normal:keyint=30:open-gop=1"],
        true,
    ),
    ("slices.mp4", &["-c:v", "libx264", "-bf", "2", "-g", "30", "-x264-params", "slices=4"], true),
    ("b-frames.ts", &["-c:v", "libx264", "-bf", "2", "-g", "15"], true),
    ("h265.mp4", &["-c:v", "libx265", "-x265-params", "log-level=error:keyint=15:min-keyint=15"], true),
    (
        "h265-closed.mp4",
        &["-c:v", "libx265", "-x265-params", "log-level=error:keyint=15:open-gop=0:temporal-layers=2"],
        true,
    ),
    ("mjpeg.avi", &["-c:v", "mjpeg", "-q:v", "3"], true),
];

#[test]
fn what_is_decoded_is_the_same_whatever_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    for (name, args, disposable) in STREAMS {
        let clip = encode(dir.path(), name, "320x240", args);
        let (full, units) = decode(&clip, |_, _| true);
        assert_eq!((full.len(), units.len()), (150, 150), "{name}");
        let of = |kind| units.iter().filter(|unit| unit.kind == kind).count();
        let free = units.iter().filter(|unit| unit.kind.is_free()).count();
        println!(
            "{name}: {} key, {} references, {free} disposable or single",
            of(Kind::Key),
            of(Kind::Reference)
        );
        assert_eq!(free > 0, disposable, "{name}");

        let check =
            |what: &str, wanted: Box<dyn FnMut(usize, Coded) -> bool + Send>, least: usize, most: usize| {
                let (some, _) = decode(&clip, wanted);
                println!("{name}, {what}: {} of {}", some.len(), full.len());
                assert!((least..=most).contains(&some.len()), "{name}, {what}: {} pictures", some.len());
                for (pts, (hash, _)) in &some {
                    assert_eq!(full.get(pts).map(|(hash, _)| hash), Some(hash), "{name}, {what}: at {pts}");
                }
                some
            };
        let references = 150 - free;
        check("references only", Box::new(|_, unit| !unit.kind.is_free()), references, references);
        let mut rng = fastrand::Rng::with_seed(3);
        check(
            "some disposable",
            Box::new(move |_, unit| !unit.kind.is_free() || rng.bool()),
            references + free / 4,
            149.max(references),
        );
        if of(Kind::Key) > 3 {
            // Key frames only between two moments, as the flow changes it: at key frames.
            let mut keys_only = false;
            let some = check(
                "key frames only for a while",
                Box::new(move |number, unit| {
                    if unit.kind == Kind::Key {
                        keys_only = (45..90).contains(&number);
                    }
                    unit.kind == Kind::Key || !keys_only
                }),
                60,
                125,
            );
            // A key frame alone comes out at once: the picture after it has come, and not the next key frame.
            for (at, unit) in
                units.iter().enumerate().filter(|(at, unit)| (45..75).contains(at) && unit.kind == Kind::Key)
            {
                let out = some.values().filter(|(_, came)| (at + 1..=at + 2).contains(came)).count();
                assert!(out >= 1, "{name}: key frame {at} ({unit:?}) was held back: {some:?}");
            }
        }
    }
}

/// One daemon at a time: each of them wants the whole machine.
static ALONE: Mutex<()> = Mutex::new(());

/// Frames in, inferred, and not decoded, of all cameras; the levels.
fn read(daemon: &Daemon, cameras: usize) -> ([u64; 3], Vec<String>) {
    let (mut sums, mut levels) = ([0; 3], Vec::new());
    for n in 0..cameras {
        let camera = daemon.camera(&format!("c{n}"));
        assert_eq!(camera["state"], "online", "{camera}");
        for (sum, fate) in sums.iter_mut().zip(["in", "inferred", "skipped"]) {
            *sum += count(&camera, fate);
        }
        levels.push(camera["decode"].as_str().expect("a level").to_owned());
    }
    (sums, levels)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "other processes have no clock of ours")]
fn a_saturated_daemon_decodes_what_it_uses() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let b_frames = ["-c:v", "libx264", "-bf", "2", "-g", "60", "-x264-params", "b-adapt=0:b-pyramid=none"];
    let plain = ["-c:v", "libx264", "-bf", "0", "-g", "60"];
    let mut costs = Vec::new();
    for (name, args, more, thinned) in [
        ("b-frames.mp4", &b_frames[..], "", true),
        ("all.mp4", &b_frames[..], "thin_decode = false\n", false),
        ("plain.mp4", &plain[..], "", false),
    ] {
        let clip = encode(dir.path(), name, "640x480", args);
        let sims: Vec<Sim> =
            (0..4).map(|_| Sim::start(&["--file", clip.to_str().unwrap(), "--fps", "30"])).collect();
        let sources: String = sims
            .iter()
            .enumerate()
            .map(|(n, sim)| format!("[cameras.c{n}]\nsource = {:?}\n{more}", sim.url))
            .collect();
        // One frame in 60 ms: a camera's turn comes with every seventh or eighth of its frames.
        let config = format!("[batcher]\nmax_batch_frames = 1\n{sources}");
        let daemon = Daemon::scripted_with(&config, &[("SCRIPTED_MS", "60")]);
        (0..sims.len()).for_each(|n| drop(daemon.wait_state(&format!("c{n}"), "online")));
        if thinned {
            // A loaded machine takes its time to see that it is behind.
            wait::until("all are thinned", || {
                read(&daemon, sims.len()).1.iter().all(|level| level == "references").then_some(())
            });
        } else {
            std::thread::sleep(Duration::from_secs(3));
        }
        let ((before, _), spent) = (read(&daemon, sims.len()), decoding(&daemon));
        std::thread::sleep(Duration::from_secs(6));
        let ((after, levels), spent) = (read(&daemon, sims.len()), decoding(&daemon) - spent);
        let [came, inferred, skipped] = [0, 1, 2].map(|i| after[i] - before[i]);
        let cost = 1e3 * spent / came as f64;
        println!(
            "{name}: {came} in, {inferred} inferred, {skipped} not decoded, {cost:.2} ms each, {levels:?}"
        );
        costs.push(cost);
        assert!(inferred > 0 && came > 3 * inferred, "{name}: the engine is not the limit");
        if thinned {
            // Two thirds of the pictures are B-frames that no other needs, of which those shortly before a turn are decoded: two of seven.
            assert!(skipped * 3 > came, "{name}: {skipped} of {came}");
            assert!(levels.iter().all(|level| level == "references"), "{levels:?}");
        } else {
            // Every picture is a reference, or thinning was not wanted: what is lost then was decoded.
            assert_eq!(skipped, 0, "{name}");
            assert!(levels.iter().all(|level| level == "all"), "{levels:?}");
        }
        let metrics = daemon.get("/metrics").unwrap();
        let level = if thinned { 1 } else { 0 };
        assert!(metrics.contains(&format!("weir_decode_level{{camera=\"c0\"}} {level}")), "{metrics}");
    }
    // CPU time, which does not depend on company: of receiving, which stays, and decoding.
    assert!(costs[0] < 0.85 * costs[1], "thinning saves CPU time: {costs:.2?} ms a frame");
}

/// CPU seconds that receiving and decoding took.
fn decoding(daemon: &Daemon) -> f64 {
    let metrics = daemon.get("/metrics").expect("the metrics answer");
    let line = metrics.lines().find(|line| line.starts_with("weir_cpu_seconds_total{part=\"ingest\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("CPU time is counted")
}

/// Cameras with a key frame every half second and all else references or near to it, on an engine that gives each a little more than one frame for
/// each of these.
#[test]
#[expect(clippy::disallowed_methods, reason = "other processes have no clock of ours")]
fn a_camera_far_behind_stays_online_on_its_key_frames() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    // With B-frames and a decoder that puts pictures in order: a key frame must not be held back until the next one.
    let args = &["-c:v", "libx264", "-bf", "1", "-g", "15", "-x264-params", "scenecut=0"];
    let clip = encode(dir.path(), "far.mp4", "640x480", args);
    // Key frames may all come at once: the last of them waits for seven runs, and must not be stale then.
    let sims: Vec<Sim> =
        (0..8).map(|_| Sim::start(&["--file", clip.to_str().unwrap(), "--fps", "30"])).collect();
    let sources: String =
        sims.iter().enumerate().map(|(n, sim)| format!("[cameras.c{n}]\nsource = {:?}\n", sim.url)).collect();
    let config = format!("[batcher]\nmax_batch_frames = 1\nring_buffer_ms = 1000\n{sources}");
    let daemon = Daemon::scripted_with(&config, &[("SCRIPTED_MS", "60")]);
    (0..sims.len()).for_each(|n| drop(daemon.wait_state(&format!("c{n}"), "online")));
    let behind = wait::until("cameras are decoded by key frames", || {
        let (_, levels) = read(&daemon, sims.len());
        (levels.iter().filter(|level| *level == "key_frames").count() >= 4).then_some(levels)
    });
    println!("{behind:?}");
    let (before, _) = read(&daemon, sims.len());
    // Longer than `stall_ms`: what is left out is no silence.
    std::thread::sleep(Duration::from_secs(5));
    let (after, levels) = read(&daemon, sims.len());
    let [came, inferred, skipped] = [0, 1, 2].map(|i| after[i] - before[i]);
    println!("{came} in, {inferred} inferred, {skipped} not decoded, {levels:?}");
    assert!(skipped * 2 > came, "{skipped} of {came}");
    for n in 0..sims.len() {
        assert_eq!(daemon.camera(&format!("c{n}"))["attempts"], 1, "no reconnect");
    }
}
