//! Pictures for people, by the whole daemon: real RTSP cameras, the real network, real clients.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]
#![allow(clippy::print_stdout, reason = "a test says what it measured")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;
#[path = "support/watch.rs"]
mod watch;

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use daemon::Daemon;
use image::RgbImage;
use serde_json::Value;
use wait::until;
use watch::{Picture, Stream, decode, encoded, film, memory, metric, turn};

fn snapshot(daemon: &Daemon, path: &str) -> Picture {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(20))).build().into();
    let mut answer = agent.get(format!("{}{path}", daemon.http)).call().expect("a picture");
    assert_eq!(answer.headers()["content-type"], "image/jpeg");
    let seq = answer.headers().get("x-weir-frame").map(|seq| seq.to_str().unwrap().parse().unwrap());
    let image = decode(&answer.body_mut().read_to_vec().expect("the picture arrives"));
    Picture { seq, image }
}

/// The boxes of one frame, in pixels: left, top, right, bottom. Only tracks that an event of this frame tells of.
fn boxes(events: &[Value], seq: u64, size: (u32, u32)) -> Vec<[f32; 4]> {
    let of_frame = events.iter().filter(|e| {
        e["frame"]["seq"] == seq && matches!(e["kind"].as_str(), Some("track.started" | "track.updated"))
    });
    let pixels = |e: &Value| {
        let part = |i: usize| e["track"]["bbox"][i].as_f64().unwrap() as f32;
        let (w, h) = (size.0 as f32, size.1 as f32);
        [part(0) * w, part(1) * h, (part(0) + part(2)) * w, (part(1) + part(3)) * h]
    };
    of_frame.map(pixels).collect()
}

fn events(daemon: &Daemon) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let page: Value =
            serde_json::from_str(&daemon.get(&format!("/api/v1/events?limit=1000&after={after}")).unwrap())
                .unwrap();
        let events = page["events"].as_array().unwrap();
        all.extend(events.iter().cloned());
        after = page["next"].as_u64().unwrap();
        if events.is_empty() || after >= page["last"].as_u64().unwrap() {
            return all;
        }
    }
}

/// How strongly two pictures differ at a pixel.
fn difference(a: &RgbImage, b: &RgbImage, x: i32, y: i32) -> u32 {
    let at = |image: &RgbImage| {
        let x = x.clamp(0, image.width() as i32 - 1) as u32;
        let y = y.clamp(0, image.height() as i32 - 1) as u32;
        image.get_pixel(x, y).0
    };
    at(a).iter().zip(at(b)).map(|(a, b)| u32::from(a.abs_diff(b))).max().unwrap()
}

/// The part of a box's left, right and lower sides, moved by `shift`, on which something was painted.
fn painted(clean: &RgbImage, marked: &RgbImage, [left, top, right, bottom]: [f32; 4], shift: i32) -> f32 {
    let [left, top, right, bottom] = [left, top, right, bottom].map(|v| v.round() as i32);
    let mut points: Vec<(i32, i32)> = (top + 4..bottom).flat_map(|y| [(left, y), (right - 1, y)]).collect();
    points.extend((left..right).map(|x| (x, bottom - 1)));
    let hit = points.iter().filter(|(x, y)| difference(clean, marked, x + shift, y + shift) > 24).count();
    hit as f32 / points.len() as f32
}

#[test]
fn boxes_lie_where_the_events_of_the_very_frame_say() {
    let _turn = turn();
    let Some((_sim, daemon)) = film(
        "boxes_lie_where_the_events_of_the_very_frame_say",
        "[video]\njpeg_quality = 95\ntrail_ms = 0\n[infer]\nthreads = 1\n",
    ) else {
        return;
    };
    let (mut with, mut without) = (
        Stream::open(&daemon, "/api/v1/cameras/street/stream.mjpg"),
        Stream::open(&daemon, "/api/v1/cameras/street/stream.mjpg?annotated=0"),
    );
    let (mut marked, mut clean) = (HashMap::new(), HashMap::new());
    for _ in 0..60 {
        for (stream, pictures) in [(&mut with, &mut marked), (&mut without, &mut clean)] {
            let (seq, jpeg) = stream.next_jpeg();
            pictures.extend(seq.map(|seq| (seq, jpeg)));
        }
    }
    let events = events(&daemon);
    let (mut checked, mut frames) = (0, 0);
    let mut moved = Vec::new();
    for (seq, jpeg) in &marked {
        let Some(bare) = clean.get(seq) else { continue };
        let (marked, clean) = (decode(jpeg), decode(bare));
        let (width, height) = marked.dimensions();
        frames += 1;
        for bbox in boxes(&events, *seq, (width, height)) {
            // A side on the picture's edge is not drawn whole.
            if bbox[0] < 4.0
                || bbox[1] < 40.0
                || bbox[2] > width as f32 - 4.0
                || bbox[3] > height as f32 - 4.0
            {
                continue;
            }
            let there = painted(&clean, &marked, bbox, 0);
            assert!(there > 0.8, "frame {seq}: {bbox:?}: {there}");
            moved.push(painted(&clean, &marked, bbox, 10));
            checked += 1;
        }
    }
    let elsewhere = moved.iter().sum::<f32>() / moved.len() as f32;
    println!(
        "{checked} boxes on {frames} frames; ten pixels beside them {:.0} % is painted",
        elsewhere * 100.0
    );
    assert!(frames >= 20 && checked >= 40, "too little was seen: {checked} boxes on {frames} frames");
    assert!(elsewhere < 0.5, "the picture is painted all over: {elsewhere}");
}

#[test]
fn a_picture_is_at_the_viewer_soon_after_its_frame_arrived() {
    let _turn = turn();
    let Some((_sim, daemon)) =
        film("a_picture_is_at_the_viewer_soon_after_its_frame_arrived", "max_fps = 5.0\n")
    else {
        return;
    };
    let mut stream = Stream::open(&daemon, "/api/v1/cameras/street/stream.mjpg");
    let mut ages: Vec<Duration> = (0..40).map(|_| stream.next_age()).collect();
    ages.sort();
    let p95 = daemon.camera("street")["latency_ms"]["p95"].clone();
    println!(
        "frame to viewer: p50 {:?}, p95 {:?}; of that, frame to events: p95 {p95} ms",
        ages[20], ages[38]
    );
    assert!(ages[20] < Duration::from_secs(1), "{ages:?}");
}

#[test]
fn nobody_watching_costs_nothing_and_fifty_viewers_cost_one_encode() {
    let _turn = turn();
    let Some((_sim, daemon)) = film("nobody_watching_costs_nothing_and_fifty_viewers_cost_one_encode", "")
    else {
        return;
    };
    let inferred = || daemon.camera("street")["frames"]["inferred"].as_u64().unwrap();
    until("frames to pass", || (inferred() > 20).then_some(()));
    assert_eq!(encoded(&daemon, "street", "jpeg"), 0.0);

    // One first: what an encoder needs is not what viewers cost.
    let path = "/api/v1/cameras/street/stream.mjpg?width=320";
    let mut first = Stream::open(&daemon, path);
    (0..10).for_each(|_| drop(first.next_jpeg()));
    drop(first);
    until("the first to be gone", || {
        (metric(&daemon, "weir_video_viewers{camera=\"street\"}") == 0.0).then_some(())
    });
    let (before, encoded_before, held) = (inferred(), encoded(&daemon, "street", "jpeg"), memory(&daemon));
    let streams: Vec<Stream> = (0..50).map(|_| Stream::open(&daemon, path)).collect();
    let viewers: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            std::thread::spawn(move || {
                let pictures: Vec<Picture> = (0..20).map(|_| stream.next()).collect();
                assert!(pictures.iter().all(|p| p.image.width() == 320 && p.seq.is_some()));
                assert!(pictures.windows(2).all(|two| two[0].seq < two[1].seq), "each is newer");
                let changes = pictures.windows(2).filter(|two| two[0].image != two[1].image).count();
                assert!(changes >= 12, "pictures move: {changes}");
                pictures.iter().map(|picture| picture.seq).collect::<Vec<_>>()
            })
        })
        .collect();
    let seen: HashSet<Option<u64>> = viewers.into_iter().flat_map(|viewer| viewer.join().unwrap()).collect();
    let (count, frames) = (encoded(&daemon, "street", "jpeg") - encoded_before, inferred() - before);
    let grown = memory(&daemon).saturating_sub(held);
    println!(
        "50 viewers saw {} pictures; {frames} frames analysed, {count} encoded; memory {held} MiB + {grown}",
        seen.len()
    );
    assert!(grown < 48, "{grown} MiB more");
    assert!(count >= 20.0 && count <= frames as f64 + 2.0, "{count} encodes of {frames} frames");
    // A few may have come when nobody was there any more.
    assert!(count <= seen.len() as f64 * 1.2 + 4.0, "{count} encodes of {} pictures", seen.len());

    until("everybody to be gone", || {
        (metric(&daemon, "weir_video_viewers{camera=\"street\"}") == 0.0).then_some(())
    });
    let (count, frames) = (encoded(&daemon, "street", "jpeg"), inferred());
    until("frames to pass", || (inferred() > frames + 20).then_some(()));
    assert!(encoded(&daemon, "street", "jpeg") <= count + 1.0, "one may have been at work");
}

#[test]
fn a_viewer_that_stops_reading_is_cut_off_and_nobody_else_notices() {
    let _turn = turn();
    let Some((_sim, daemon)) = film("a_viewer_that_stops_reading_is_cut_off_and_nobody_else_notices", "")
    else {
        return;
    };
    let mut stuck = TcpStream::connect(daemon.http.trim_start_matches("http://")).unwrap();
    stuck.write_all(b"GET /api/v1/cameras/street/stream.mjpg HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut stream = Stream::open(&daemon, "/api/v1/cameras/street/stream.mjpg?width=320");
    let cut = || metric(&daemon, "weir_video_cut_off_total");
    until("the first picture", || (encoded(&daemon, "street", "jpeg") > 0.0).then_some(()));
    let mut last = None;
    until("the stuck viewer to be cut off", || {
        let picture = stream.next();
        // "No signal" is possible where the machine stands still; an old picture is not.
        assert!(picture.seq.is_none() || picture.seq > last, "the other viewer goes on");
        last = picture.seq.or(last);
        let page = daemon.get("/metrics").unwrap();
        page.contains("weir_video_cut_off_total 1").then_some(())
    });
    assert_eq!(cut(), 1.0);
    let camera = daemon.camera("street");
    assert_eq!(camera["state"], "online");
    assert_eq!(camera["frames"]["failed"], 0);
    // What the kernel had taken for it is still there; then the connection is at its end.
    stuck.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut rest = Vec::new();
    let _ = stuck.read_to_end(&mut rest);
    assert!(!rest.is_empty());
}

#[test]
fn masks_and_hidden_objects_are_black_in_every_picture() {
    let _turn = turn();
    let Some((_sim, daemon)) = film(
        "masks_and_hidden_objects_are_black_in_every_picture",
        "hide = [\"person\"]\nhide_by = \"fill\"\n[cameras.street.masks.left]\npolygon = [[0, 0], [0.25, 0], [0.25, 1], [0, 1]]\n[video]\njpeg_quality = 95\n",
    ) else {
        return;
    };
    let mut stream = Stream::open(&daemon, "/api/v1/cameras/street/stream.mjpg?annotated=0");
    let pictures: Vec<Picture> = (0..30).map(|_| stream.next()).collect();
    drop(stream);
    let dark = |image: &RgbImage, x: u32, y: u32| image.get_pixel(x, y).0.iter().all(|c| *c < 24);
    let mut person_events = events(&daemon);
    person_events.retain(|event| event["track"]["label"] == "person");
    let mut people = 0;
    for picture in &pictures {
        let (width, height) = picture.image.dimensions();
        for y in 0..height {
            for x in 0..width / 4 {
                assert!(
                    dark(&picture.image, x, y),
                    "the mask at {x},{y}: {:?}",
                    picture.image.get_pixel(x, y)
                );
            }
        }
        for [left, top, right, bottom] in boxes(&person_events, picture.seq.unwrap(), (width, height)) {
            people += 1;
            for y in top.ceil() as u32..(bottom as u32).min(height) {
                for x in left.ceil() as u32..(right as u32).min(width) {
                    assert!(dark(&picture.image, x, y), "a person at {x},{y}");
                }
            }
        }
        let light = picture.image.pixels().filter(|p| p.0[1] > 60).count();
        assert!(light > (width * height / 10) as usize, "the rest is to be seen");
    }
    assert!(people > 10, "{people} people");
    let shot = snapshot(&daemon, "/api/v1/cameras/street/snapshot.jpg?width=320");
    assert_eq!(shot.image.width(), 320);
    for y in 40..shot.image.height() {
        assert!(dark(&shot.image, 5, y), "the mask of a snapshot at 5,{y}");
    }
}

#[test]
fn a_dead_camera_says_so_with_the_time_of_its_last_picture() {
    let _turn = turn();
    let Some((mut sim, daemon)) = film("a_dead_camera_says_so_with_the_time_of_its_last_picture", "") else {
        return;
    };
    let mut stream = Stream::open(&daemon, "/api/v1/cameras/street/stream.mjpg?width=640");
    assert!(stream.next().seq.is_some());
    sim.kill();
    daemon.wait_state("street", "offline");
    let silent =
        until("the stream to say it", || Some(stream.next()).filter(|picture| picture.seq.is_none()));
    let light = silent.image.pixels().filter(|p| p.0[1] > 200).count();
    assert!(light > 300, "text is to be read: {light}");
    let shot = snapshot(&daemon, "/api/v1/cameras/street/snapshot.jpg");
    assert!(shot.seq.is_none() && shot.image.width() == 768);
    sim.restart();
    until("pictures again, on the same stream", || {
        Some(stream.next()).filter(|picture| picture.seq.is_some())
    });
}

#[test]
fn what_cannot_be_shown_is_refused_with_a_reason() {
    let _turn = turn();
    let Some((_sim, daemon)) =
        film("what_cannot_be_shown_is_refused_with_a_reason", "[video]\nmax_viewers = 1\n")
    else {
        return;
    };
    let code = |path: &str| match daemon.get(path) {
        Err(ureq::Error::StatusCode(code)) => code,
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(code("/api/v1/cameras/attic/snapshot.jpg"), 404);
    assert_eq!(code("/api/v1/cameras/street/snapshot.jpg?annotated=yes"), 400);
    assert_eq!(code("/api/v1/cameras/street/snapshot.jpg?width=0"), 400);
    let _one = Stream::open(&daemon, "/api/v1/cameras/street/stream.mjpg");
    assert_eq!(code("/api/v1/cameras/street/snapshot.jpg"), 503);
}
