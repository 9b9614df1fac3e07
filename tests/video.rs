//! Pictures for people, by the whole daemon: real RTSP cameras, the real network, real clients.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]
#![allow(clippy::print_stdout, reason = "a test says what it measured")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use daemon::{Daemon, Sim, free_port, ready, street};
use image::RgbImage;
use serde_json::Value;
use wait::until;

/// One test at a time: each watches real time and has a whole daemon to itself, and machines have few cores.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One part of a stream, or a snapshot.
struct Picture {
    /// `None`: no signal.
    seq: Option<u64>,
    image: RgbImage,
}

fn decode(jpeg: &[u8]) -> RgbImage {
    image::load_from_memory_with_format(jpeg, image::ImageFormat::Jpeg).expect("a whole JPEG").to_rgb8()
}

/// Reads `stream.mjpg` as its media type says (RFC 2046).
struct Stream(Box<dyn BufRead + Send>);

impl Stream {
    fn open(daemon: &Daemon, path: &str) -> Stream {
        let answer = ureq::get(format!("{}{path}", daemon.http)).call().expect("the stream opens");
        Stream(Box::new(BufReader::new(answer.into_body().into_reader())))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("the stream goes on");
        line.trim_end().to_owned()
    }

    /// How old the next picture is: from its frame's arrival at the daemon until all of it is here.
    #[expect(clippy::disallowed_methods, reason = "another process has no clock of ours")]
    fn next_age(&mut self) -> Duration {
        let fields = self.next_part().0;
        // 2026-11-24T04:52:38.120Z, as milliseconds of its day.
        let digits: Vec<u64> =
            fields["x-weir-time"][11..23].split([':', '.']).map(|part| part.parse().unwrap()).collect();
        let then = ((digits[0] * 60 + digits[1]) * 60 + digits[2]) * 1000 + digits[3];
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        const DAY: u64 = 86_400_000;
        Duration::from_millis((now.as_millis() as u64 % DAY + DAY - then) % DAY)
    }

    fn next_jpeg(&mut self) -> (Option<u64>, Vec<u8>) {
        let (fields, jpeg) = self.next_part();
        (fields.get("x-weir-frame").map(|seq| seq.parse().unwrap()), jpeg)
    }

    fn next_part(&mut self) -> (HashMap<String, String>, Vec<u8>) {
        while !self.line().starts_with("--") {}
        let mut fields = HashMap::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(": ") else { break };
            fields.insert(name.to_lowercase(), value.to_owned());
        }
        let mut jpeg = vec![0; fields["content-length"].parse().unwrap()];
        self.0.read_exact(&mut jpeg).expect("a whole picture");
        (fields, jpeg)
    }

    fn next(&mut self) -> Picture {
        let (seq, jpeg) = self.next_jpeg();
        Picture { seq, image: decode(&jpeg) }
    }
}

fn snapshot(daemon: &Daemon, path: &str) -> Picture {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(20))).build().into();
    let mut answer = agent.get(format!("{}{path}", daemon.http)).call().expect("a picture");
    assert_eq!(answer.headers()["content-type"], "image/jpeg");
    let seq = answer.headers().get("x-weir-frame").map(|seq| seq.to_str().unwrap().parse().unwrap());
    let image = decode(&answer.body_mut().read_to_vec().expect("the picture arrives"));
    Picture { seq, image }
}

fn metric(daemon: &Daemon, name: &str) -> f64 {
    let page = daemon.get("/metrics").expect("metrics");
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("there is no {name}")).trim().parse().unwrap()
}

fn encoded(daemon: &Daemon, camera: &str, codec: &str) -> f64 {
    metric(daemon, &format!("weir_video_encoded_total{{camera=\"{camera}\",codec=\"{codec}\"}}"))
}

/// A camera of the street, and a daemon that watches it.
fn film(test: &str, more: &str) -> Option<(Sim, Daemon)> {
    if !ready(test) {
        return None;
    }
    let file = street();
    let sim = Sim::start(&["--file", file.to_str().unwrap()]);
    let daemon = Daemon::start(&format!(
        "[events]\nupdate_interval_ms = 0\n[cameras.street]\nsource = {:?}\n{more}",
        sim.url
    ));
    daemon.wait_state("street", "online");
    Some((sim, daemon))
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
fn nobody_watching_costs_nothing_and_twenty_viewers_cost_one_encode() {
    let _turn = turn();
    let Some((_sim, daemon)) = film("nobody_watching_costs_nothing_and_twenty_viewers_cost_one_encode", "")
    else {
        return;
    };
    let inferred = || daemon.camera("street")["frames"]["inferred"].as_u64().unwrap();
    until("frames to pass", || (inferred() > 20).then_some(()));
    assert_eq!(encoded(&daemon, "street", "jpeg"), 0.0);

    let before = inferred();
    let path = "/api/v1/cameras/street/stream.mjpg?width=320";
    let streams: Vec<Stream> = (0..20).map(|_| Stream::open(&daemon, path)).collect();
    let viewers: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            std::thread::spawn(move || {
                let pictures: Vec<Picture> = (0..30).map(|_| stream.next()).collect();
                assert!(pictures.iter().all(|p| p.image.width() == 320 && p.seq.is_some()));
                assert!(pictures.windows(2).all(|two| two[0].seq < two[1].seq), "each is newer");
                let changes = pictures.windows(2).filter(|two| two[0].image != two[1].image).count();
                assert!(changes >= 20, "pictures move: {changes}");
                pictures.iter().map(|picture| picture.seq).collect::<Vec<_>>()
            })
        })
        .collect();
    let seen: HashSet<Option<u64>> = viewers.into_iter().flat_map(|viewer| viewer.join().unwrap()).collect();
    let (count, frames) = (encoded(&daemon, "street", "jpeg"), inferred() - before);
    println!("20 viewers saw {} pictures; {frames} frames analysed, {count} encoded", seen.len());
    assert!(count >= 30.0 && count <= frames as f64 + 2.0, "{count} encodes of {frames} frames");
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

/// What ffmpeg makes of a stream: its frames' sizes in bytes of luma, or what it says.
fn ffmpeg(url: &str, frames: u32, transport: &str) -> Result<Vec<u8>, String> {
    let done = Command::new("ffmpeg")
        .args(["-v", "error", "-rtsp_transport", transport, "-i", url, "-frames:v", &frames.to_string()])
        .args(["-f", "rawvideo", "-pix_fmt", "gray", "-"])
        .output()
        .expect("ffmpeg runs (Debian package `ffmpeg`)");
    if done.status.success() {
        Ok(done.stdout)
    } else {
        Err(String::from_utf8_lossy(&done.stderr).into_owned())
    }
}

/// How many of these frames GStreamer's client gets out of a stream.
fn gstreamer_plays(url: &str, frames: usize) -> usize {
    use gstreamer::prelude::*;
    gstreamer::init().unwrap();
    let line = format!(
        "rtspsrc location={url} protocols=tcp latency=0 ! rtph264depay ! h264parse ! avdec_h264 ! appsink name=sink sync=false"
    );
    let pipeline = gstreamer::parse::launch(&line).unwrap().downcast::<gstreamer::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gstreamer_app::AppSink>().unwrap();
    pipeline.set_state(gstreamer::State::Playing).unwrap();
    let patience = gstreamer::ClockTime::from_seconds(20);
    let count = (0..frames).map_while(|_| sink.try_pull_sample(patience)).count();
    pipeline.set_state(gstreamer::State::Null).unwrap();
    count
}

#[test]
fn rtsp_out_plays_in_ffmpeg_over_tcp_and_udp_with_one_encode_for_all() {
    let _turn = turn();
    let port = free_port();
    let Some((mut sim, daemon)) = film(
        "rtsp_out_plays_in_ffmpeg_over_tcp_and_udp_with_one_encode_for_all",
        &format!("[rtsp_server]\nbind = \"127.0.0.1:{port}\"\n"),
    ) else {
        return;
    };
    let devices: Value = serde_json::from_str(&daemon.get("/api/v1/devices").unwrap()).unwrap();
    let chosen = devices["video_encoder"]["chosen"].as_str().expect("an encoder").to_owned();
    println!("encoder: {devices}");
    assert!(daemon.log().contains(&chosen));
    let inferred = || daemon.camera("street")["frames"]["inferred"].as_u64().unwrap();
    assert_eq!(encoded(&daemon, "street", "h264"), 0.0);

    let url = format!("rtsp://127.0.0.1:{port}/street");
    let before = inferred();
    let viewers: Vec<_> = ["tcp", "udp", "tcp"]
        .map(|transport| {
            let url = url.clone();
            std::thread::spawn(move || ffmpeg(&url, 20, transport))
        })
        .into();
    for viewer in viewers {
        let luma = viewer.join().unwrap().expect("ffmpeg plays it");
        assert_eq!(luma.len(), 20 * 768 * 576);
        let frames: Vec<&[u8]> = luma.chunks(768 * 576).collect();
        assert!(frames[0] != frames[19], "the picture moves");
    }
    let (count, frames) = (encoded(&daemon, "street", "h264"), inferred() - before);
    println!("3 viewers, {frames} frames analysed, {count} encoded");
    assert!(count >= 20.0 && count <= frames as f64 + 5.0, "{count} of {frames}");
    until("the encoder to rest", || {
        (metric(&daemon, "weir_video_viewers{camera=\"street\"}") == 0.0).then_some(())
    });

    assert_eq!(gstreamer_plays(&url, 10), 10);
    let probed = Command::new("ffprobe")
        .args(["-v", "error", "-rtsp_transport", "tcp", "-show_entries", "stream=codec_name,width,height"])
        .args(["-of", "csv=p=0", &url])
        .output()
        .expect("ffprobe runs");
    assert_eq!(String::from_utf8_lossy(&probed.stdout).trim(), "h264,768,576");

    sim.kill();
    daemon.wait_state("street", "offline");
    let luma = ffmpeg(&url, 3, "tcp").expect("a dead camera's output stays up");
    assert!(luma.iter().filter(|code| **code > 200).count() > 300, "and says so");
    assert!(ffmpeg(&format!("rtsp://127.0.0.1:{port}/attic"), 1, "tcp").is_err());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "other processes have no clock of ours")]
fn who_joins_an_rtsp_stream_has_a_picture_at_once() {
    let _turn = turn();
    let port = free_port();
    let Some((_sim, daemon)) = film(
        "who_joins_an_rtsp_stream_has_a_picture_at_once",
        &format!("max_fps = 5.0\n[rtsp_server]\nbind = \"127.0.0.1:{port}\"\n"),
    ) else {
        return;
    };
    let url = format!("rtsp://127.0.0.1:{port}/street");
    let mut first = viewer(&url);
    until("the stream", || (encoded(&daemon, "street", "h264") > 10.0).then_some(()));
    // At five frames a second the next key frame would come twenty seconds after the last one.
    for _ in 0..2 {
        let start = std::time::Instant::now();
        assert_eq!(gstreamer_plays(&url, 1), 1);
        println!("joined after {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn rtsp_out_asks_who_watches() {
    let _turn = turn();
    if !ready("rtsp_out_asks_who_watches") {
        return;
    }
    let port = free_port();
    let sim = Sim::start(&["--pattern", "ball", "--size", "320x240"]);
    let daemon = Daemon::spawn_with(
        &format!(
            "[rtsp_server]\nbind = \"127.0.0.1:{port}\"\nuser = \"viewer\"\npassword_env = \"RTSP_PASSWORD\"\n[cameras.ball]\nsource = {:?}\n",
            sim.url
        ),
        "[model]\nname = \"coco-ssd\"\n",
        &[("RTSP_PASSWORD", "s3cret")],
    );
    until("the daemon to be ready", || daemon.get("/readyz").ok());
    daemon.wait_state("ball", "online");
    let watch = |login: &str| ffmpeg(&format!("rtsp://{login}127.0.0.1:{port}/ball"), 2, "tcp");
    assert!(watch("").unwrap_err().contains("401"));
    assert!(watch("viewer:wrong@").unwrap_err().contains("401"));
    assert_eq!(watch("viewer:s3cret@").expect("it plays").len(), 2 * 320 * 240);
    assert!(!daemon.log().contains("s3cret"));
}

#[test]
fn an_encoder_that_fails_is_replaced_and_one_stream_too_many_is_refused() {
    let _turn = turn();
    if !ready("an_encoder_that_fails_is_replaced_and_one_stream_too_many_is_refused") {
        return;
    }
    let port = free_port();
    let camera = |name: &str, side: u32| {
        format!(
            "[cameras.{name}]\nsource = \"pipeline:test-pattern\"\n[cameras.{name}.params]\npattern = \"ball\"\nwidth = \"{side}\"\nheight = \"{side}\"\nfps = \"5\"\n"
        )
    };
    // OpenH264 takes no picture smaller than 16 pixels; its trial at start is larger.
    let daemon = Daemon::start(&format!(
        "[rtsp_server]\nbind = \"127.0.0.1:{port}\"\nencoders = [\"openh264enc\", \"x264enc\"]\nmax_streams = 1\n{}{}",
        camera("tiny", 14),
        camera("other", 160)
    ));
    daemon.wait_state("tiny", "online");
    assert!(daemon.get("/api/v1/devices").unwrap().contains("\"chosen\":\"openh264enc\""));
    let url = |name: &str| format!("rtsp://127.0.0.1:{port}/{name}");
    assert!(ffmpeg(&url("tiny"), 3, "tcp").is_err(), "the first encoder cannot do it");
    let luma = until("the next encoder", || ffmpeg(&url("tiny"), 3, "tcp").ok());
    assert_eq!(luma.len(), 3 * 14 * 14);
    let devices = daemon.get("/api/v1/devices").unwrap();
    assert!(devices.contains("\"chosen\":\"x264enc\"") && devices.contains("it failed"), "{devices}");
    assert_eq!(daemon.log().matches("The video encoder failed").count(), 1, "loudly, once");
    let camera = daemon.camera("tiny");
    assert_eq!((&camera["state"], &camera["frames"]["failed"]), (&"online".into(), &0.into()));

    let mut first = viewer(&url("other"));
    until("the first stream", || (encoded(&daemon, "other", "h264") > 5.0).then_some(()));
    assert!(ffmpeg(&url("tiny"), 1, "tcp").unwrap_err().contains("503"));
    first.kill().unwrap();
    first.wait().unwrap();
    until("its place", || ffmpeg(&url("tiny"), 1, "tcp").ok());
}

/// An ffmpeg that plays until it is killed.
fn viewer(url: &str) -> std::process::Child {
    Command::new("ffmpeg")
        .args(["-v", "error", "-rtsp_transport", "tcp", "-i", url, "-f", "null", "-"])
        .spawn()
        .expect("ffmpeg runs")
}

#[test]
fn a_stuck_rtsp_viewer_holds_nobody_up() {
    let _turn = turn();
    let port = free_port();
    let Some((_sim, mut daemon)) = film(
        "a_stuck_rtsp_viewer_holds_nobody_up",
        &format!("[rtsp_server]\nbind = \"127.0.0.1:{port}\"\nbitrate_kbps = 20000\n"),
    ) else {
        return;
    };
    let url = format!("rtsp://127.0.0.1:{port}/street");
    let mut stuck = viewer(&url);
    until("the stream", || (encoded(&daemon, "street", "h264") > 20.0).then_some(()));
    let stopped = Command::new("kill").args(["-STOP", &stuck.id().to_string()]).status();
    assert!(stopped.is_ok_and(|status| status.success()));
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().to_owned();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
    };
    let before = memory();
    let luma = ffmpeg(&url, 150, "tcp").expect("another one plays");
    assert_eq!(luma.len(), 150 * 768 * 576);
    println!("memory: {before} MiB before, {} MiB after", memory());
    assert!(memory() < before + 64, "{} MiB grew from {before}", memory());
    let camera = daemon.camera("street");
    assert_eq!((&camera["state"], &camera["frames"]["failed"]), (&"online".into(), &0.into()));
    // Nor does it hold up the daemon's end, with another viewer on HTTP.
    let _stream = Stream::open(&daemon, "/api/v1/cameras/street/stream.mjpg");
    daemon.signal("TERM");
    let (code, took) = daemon.wait();
    assert_eq!(code, Some(0), "{}", daemon.log());
    assert!(took < Duration::from_secs(6), "{took:?}");
    stuck.kill().unwrap();
    stuck.wait().unwrap();
}
