//! Those who watch: HTTP and RTSP clients, and what the daemon counts of them.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use image::RgbImage;

use crate::daemon::{Daemon, Sim, free_port, ready, street};

/// One test at a time: each watches real time and has a whole daemon to itself, and machines have few cores.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One part of a stream, or a snapshot.
pub struct Picture {
    /// `None`: no signal.
    pub seq: Option<u64>,
    pub image: RgbImage,
}

pub fn decode(jpeg: &[u8]) -> RgbImage {
    image::load_from_memory_with_format(jpeg, image::ImageFormat::Jpeg).expect("a whole JPEG").to_rgb8()
}

/// Reads `stream.mjpg` as its media type says (RFC 2046).
pub struct Stream(pub Box<dyn BufRead + Send>);

impl Stream {
    pub fn open(daemon: &Daemon, path: &str) -> Stream {
        let answer = ureq::get(format!("{}{path}", daemon.http)).call().expect("the stream opens");
        Stream(Box::new(BufReader::new(answer.into_body().into_reader())))
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("the stream goes on");
        line.trim_end().to_owned()
    }

    /// How old the next picture is: from its frame's arrival at the daemon until all of it is here.
    pub fn next_age(&mut self) -> Duration {
        age_of(&self.next_part().0)
    }

    pub fn next_jpeg(&mut self) -> (Option<u64>, Vec<u8>) {
        let (fields, jpeg) = self.next_part();
        (fields.get("x-weir-frame").map(|seq| seq.parse().unwrap()), jpeg)
    }

    pub fn next_part(&mut self) -> (HashMap<String, String>, Vec<u8>) {
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

    pub fn next(&mut self) -> Picture {
        let (seq, jpeg) = self.next_jpeg();
        Picture { seq, image: decode(&jpeg) }
    }
}

/// How old a picture with these fields is now.
#[expect(clippy::disallowed_methods, reason = "another process has no clock of ours")]
pub fn age_of(fields: &HashMap<String, String>) -> Duration {
    // 2026-11-24T04:52:38.120Z, as milliseconds of its day.
    let digits: Vec<u64> =
        fields["x-weir-time"][11..23].split([':', '.']).map(|part| part.parse().unwrap()).collect();
    let then = ((digits[0] * 60 + digits[1]) * 60 + digits[2]) * 1000 + digits[3];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    const DAY: u64 = 86_400_000;
    Duration::from_millis((now.as_millis() as u64 % DAY + DAY - then) % DAY)
}

pub fn metric(daemon: &Daemon, name: &str) -> f64 {
    let page = daemon.get("/metrics").expect("metrics");
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("there is no {name}")).trim().parse().unwrap()
}

pub fn encoded(daemon: &Daemon, camera: &str, codec: &str) -> f64 {
    metric(daemon, &format!("weir_video_encoded_total{{camera=\"{camera}\",codec=\"{codec}\"}}"))
}

/// A camera of the street, and a daemon that watches it.
pub fn film(test: &str, more: &str) -> Option<(Sim, Daemon)> {
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

/// The same with RTSP out: more keys of `[rtsp_server]`, more of the camera. Returns the server's address too.
pub fn rtsp_film(test: &str, server: &str, camera: &str) -> Option<(Sim, Daemon, String)> {
    let port = free_port();
    let (sim, daemon) = film(test, &format!("{camera}[rtsp_server]\nbind = \"127.0.0.1:{port}\"\n{server}"))?;
    Some((sim, daemon, format!("rtsp://127.0.0.1:{port}")))
}

/// MiB that the daemon holds.
pub fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().to_owned();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

/// What ffmpeg makes of a stream: its frames' sizes in bytes of luma, or what it says.
pub fn ffmpeg(url: &str, frames: u32, transport: &str) -> Result<Vec<u8>, String> {
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
pub fn gstreamer_plays(url: &str, frames: usize) -> usize {
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

/// An ffmpeg that plays until it is killed.
pub fn viewer(url: &str) -> std::process::Child {
    Command::new("ffmpeg")
        .args(["-v", "error", "-rtsp_transport", "tcp", "-i", url, "-f", "null", "-"])
        .spawn()
        .expect("ffmpeg runs")
}
