//! Glass to glass on loopback: a clock is drawn into a camera's pictures and read back from what comes out by RTSP; and where the time
//! and the CPU go.
//!
//! `cargo bench --bench glass [-- --seconds 20] [--size 1920x1080] [--fps 10]`
//!
//! The camera (street video, encoded live) and the viewer run in this process, on the same cores as the daemon.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench is run by people")]
#![allow(clippy::disallowed_methods, reason = "the clock in the pictures is the system's")]

#[path = "../support/daemon.rs"]
mod daemon;
#[path = "../support/target.rs"]
mod target;
#[path = "../support/wait.rs"]
mod wait;
#[path = "../support/watch.rs"]
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use daemon::{Daemon, free_port, street};
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_rtsp_server as server;
use server::prelude::*;

/// Milliseconds of the real-time clock, as far as 32 bits hold them.
fn now() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u32
}

fn argument(name: &str) -> Option<String> {
    let args: Vec<String> = std::env::args().collect();
    args.iter().position(|arg| arg == name).and_then(|place| args.get(place + 1)).cloned()
}

/// Luma and chroma of the street, in this size.
fn street_pictures(width: usize, height: usize) -> Vec<Vec<u8>> {
    let line = format!(
        "filesrc location={} ! decodebin ! videoconvert ! videoscale ! video/x-raw,format=I420,width={width},height={height} \
         ! appsink name=sink sync=false",
        street().display()
    );
    let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").and_downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let bytes = |sample: gst::Sample| sample.buffer().unwrap().map_readable().unwrap().to_vec();
    let pictures = (0..80).map_while(|_| sink.pull_sample().ok().map(bytes)).collect();
    pipeline.set_state(gst::State::Null).unwrap();
    pictures
}

/// A camera that draws its clock and encodes, for one client. Returns its address.
fn camera(pictures: Vec<Vec<u8>>, width: usize, height: usize, fps: u32) -> String {
    let port = free_port();
    let rtsp = server::RTSPServer::new();
    rtsp.set_address("127.0.0.1");
    rtsp.set_service(&port.to_string());
    let factory = server::RTSPMediaFactory::new();
    factory.set_shared(true);
    factory.set_latency(0);
    factory.set_launch(&format!(
        "( appsrc name=src is-live=true format=time do-timestamp=true caps=video/x-raw,format=I420,width={width},height={height},framerate={fps}/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast threads=1 bitrate=6000 key-int-max={fps} \
         ! h264parse config-interval=-1 ! rtph264pay name=pay0 aggregate-mode=zero-latency )"
    ));
    let current: Arc<Mutex<Option<gst_app::AppSrc>>> = Arc::default();
    let new = Arc::clone(&current);
    factory.connect_media_configure(move |_, media| {
        let bin = media.element().downcast::<gst::Bin>().unwrap();
        *new.lock().unwrap() = bin.by_name("src").and_downcast();
    });
    rtsp.mount_points().unwrap().add_factory("/clock", factory);
    let id = rtsp.attach(None).unwrap();
    std::mem::forget(id);
    std::thread::spawn(move || glib::MainLoop::new(None, false).run());
    std::thread::spawn(move || {
        let _server = rtsp;
        let start = Instant::now();
        for n in 0u32.. {
            std::thread::sleep(
                (start + Duration::from_secs(1) * n / fps).saturating_duration_since(Instant::now()),
            );
            let Some(src) = current.lock().unwrap().clone() else { continue };
            let mut picture = pictures[n as usize % pictures.len()].clone();
            target::stamp(&mut picture[..width * height], width, height, now());
            // Refused while the stream is being built or taken down.
            let _ = src.push_buffer(gst::Buffer::from_mut_slice(picture));
        }
    });
    format!("rtsp://127.0.0.1:{port}/clock")
}

/// Ages of the pictures that arrive from this address within so long, in milliseconds.
fn view(url: &str, width: usize, height: usize, seconds: u64) -> Vec<u32> {
    let line = format!(
        "rtspsrc location={url} protocols=tcp latency=0 ! rtph264depay ! h264parse ! avdec_h264 max-threads=1 ! videoconvert \
         ! video/x-raw,format=I420 ! appsink name=sink sync=false max-buffers=4"
    );
    let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").and_downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut ages = Vec::new();
    let mut start = None;
    while start.is_none_or(|start: Instant| start.elapsed() < Duration::from_secs(seconds)) {
        let sample = sink.try_pull_sample(gst::ClockTime::from_seconds(20)).expect("a picture");
        let seen = now();
        let bytes = sample.buffer().unwrap().map_readable().unwrap();
        start.get_or_insert_with(Instant::now);
        ages.extend(
            target::read(&bytes[..width * height], width, height).map(|drawn| seen.wrapping_sub(drawn)),
        );
    }
    pipeline.set_state(gst::State::Null).unwrap();
    ages
}

/// How old pictures are when the daemon has received them, from what it says of them.
fn arrivals(daemon: &Daemon, height: usize) -> Vec<u32> {
    let mut stream = watch::Stream::open(daemon, "/api/v1/cameras/clock/stream.mjpg?annotated=0");
    let mut ages = Vec::new();
    for _ in 0..40 {
        let (fields, jpeg) = stream.next_part();
        let (image, age) = (watch::decode(&jpeg), watch::age_of(&fields));
        let luma: Vec<u8> = image.pixels().map(|p| p.0[1]).collect();
        let arrived = now().wrapping_sub(age.as_millis() as u32);
        ages.extend(
            target::read(&luma, image.width() as usize, height).map(|drawn| arrived.wrapping_sub(drawn)),
        );
    }
    ages
}

/// Sums of the metrics page, by line head.
fn metrics(daemon: &Daemon) -> BTreeMap<String, f64> {
    let page = daemon.get("/metrics").unwrap();
    let number = |line: &str| {
        let (head, value) = line.rsplit_once(' ')?;
        Some((head.to_owned(), value.parse().ok()?))
    };
    page.lines().filter(|line| !line.starts_with('#')).filter_map(number).collect()
}

fn quantile(ages: &mut [u32], part: f64) -> u32 {
    ages.sort_unstable();
    ages[((ages.len() - 1) as f64 * part).round() as usize]
}

fn main() {
    if !daemon::ready("glass") {
        return;
    }
    gst::init().unwrap();
    let seconds = argument("--seconds").and_then(|text| text.parse().ok()).unwrap_or(20);
    let fps = argument("--fps").and_then(|text| text.parse().ok()).unwrap_or(10);
    let size = argument("--size").unwrap_or_else(|| "768x576".into());
    let (width, height) =
        size.split_once('x').map(|(w, h)| (w.parse().unwrap(), h.parse().unwrap())).unwrap();
    let url = camera(street_pictures(width, height), width, height, fps);
    let port = free_port();
    let daemon = Daemon::start(&format!(
        "[rtsp_server]\nbind = \"127.0.0.1:{port}\"\nbitrate_kbps = 6000\n[cameras.clock]\nsource = \"{url}\"\n"
    ));
    daemon.wait_state("clock", "online");
    let out = format!("rtsp://127.0.0.1:{port}/clock");
    view(&out, width, height, 3);
    let mut arrived = arrivals(&daemon, height);

    let before = metrics(&daemon);
    let mut ages = view(&out, width, height, seconds);
    let after = metrics(&daemon);
    let grown =
        |name: &str| after.get(name).copied().unwrap_or(0.0) - before.get(name).copied().unwrap_or(0.0);
    let mean = |name: &str, labels: &str| {
        let (sum, count) = (grown(&format!("{name}_sum{labels}")), grown(&format!("{name}_count{labels}")));
        if count > 0.0 { 1e3 * sum / count } else { 0.0 }
    };
    let stage = |stage: &str| mean("weir_stage_seconds", &format!("{{stage=\"{stage}\"}}"));
    let all = ages.iter().map(|age| f64::from(*age)).sum::<f64>() / ages.len() as f64;
    println!(
        "\n{size}, {fps} fps, {} cores: {} pictures, glass to glass p50 {} ms, p95 {} ms\n",
        std::thread::available_parallelism().map_or(1, usize::from),
        ages.len(),
        quantile(&mut ages, 0.5),
        quantile(&mut ages, 0.95)
    );
    let arrival = f64::from(quantile(&mut arrived, 0.5));
    let events = mean("weir_event_latency_seconds", "{camera=\"clock\"}");
    let (wait, preprocess) = (mean("weir_batch_wait_seconds", ""), stage("preprocess"));
    let (infer, analyze) = (stage("infer"), stage("analyze"));
    let decode = events - wait - preprocess - infer - analyze;
    let (draw, encode) = (stage("draw"), stage("encode"));
    println!("| where | mean ms |\n|---|---|");
    for (what, ms) in [
        ("camera: encoder, network, until the daemon has it (median, from other frames)", arrival),
        ("decode", decode),
        ("ring: wait for the engine", wait),
        ("preprocess and network", preprocess + infer),
        ("boxes, tracks, events", analyze),
        ("copy and paint", draw),
        ("encode", encode),
        (
            "network, jitter buffer and decoder of the viewer: the rest",
            all - arrival - events - draw - encode,
        ),
        ("all", all),
    ] {
        println!("| {what} | {ms:.1} |");
    }
    println!("\n| CPU | ms a second | share |\n|---|---|---|");
    let parts = ["ingest", "infer", "analyze", "show", "encode", "rtsp", "net"];
    let used = parts.map(|part| grown(&format!("weir_cpu_seconds_total{{part=\"{part}\"}}")));
    let total: f64 = used.iter().sum();
    for (part, used) in parts.iter().zip(used) {
        println!("| {part} | {:.0} | {:.1} % |", 1e3 * used / seconds as f64, 100.0 * used / total);
    }
}
