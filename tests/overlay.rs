//! Boxes sit on the object: a target of known place, RTSP in, a script for the network and nothing else, RTSP out, decoded again.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]
#![allow(clippy::print_stdout, reason = "a test says what it measured")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/target.rs"]
mod target;
#[path = "support/wait.rs"]
mod wait;

use std::path::{Path, PathBuf};

use daemon::{Daemon, Sim, free_port};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use target::{HEIGHT, TARGET, TURN, WIDTH, picture, read, truth};

/// One turn of the target as H.264 of nearly no loss.
fn film() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("target.mp4");
    let line = format!(
        "appsrc name=src format=time caps=video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=20/1 \
         ! x264enc speed-preset=ultrafast pass=quant quantizer=8 bframes=0 key-int-max=20 option-string=scenecut=0 \
         ! h264parse ! mp4mux ! filesink location={}",
        path.display()
    );
    let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
    let src = pipeline.by_name("src").and_downcast::<gst_app::AppSrc>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    for n in 0..TURN {
        let mut buffer = gst::Buffer::from_mut_slice(picture(n));
        buffer.make_mut().set_pts(gst::ClockTime::from_mseconds(u64::from(n) * 50));
        buffer.make_mut().set_duration(gst::ClockTime::from_mseconds(50));
        src.push_buffer(buffer).unwrap();
    }
    src.end_of_stream().unwrap();
    let bus = pipeline.bus().unwrap();
    let end = bus.timed_pop_filtered(
        gst::ClockTime::from_seconds(60),
        &[gst::MessageType::Eos, gst::MessageType::Error],
    );
    assert!(matches!(end.unwrap().view(), gst::MessageView::Eos(_)));
    pipeline.set_state(gst::State::Null).unwrap();
    path
}

/// Luma of the pictures that an RTSP server sends.
struct Player {
    pipeline: gst::Pipeline,
    sink: gst_app::AppSink,
}

impl Player {
    fn new(url: &str) -> Player {
        let line = format!(
            "rtspsrc location={url} protocols=tcp latency=0 ! rtph264depay ! h264parse ! avdec_h264 max-threads=1 \
             ! videoconvert ! video/x-raw,format=I420 ! appsink name=sink sync=false max-buffers=600"
        );
        let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
        let sink = pipeline.by_name("sink").and_downcast().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        Player { pipeline, sink }
    }

    fn next(&self) -> Vec<u8> {
        let sample = self.sink.try_pull_sample(gst::ClockTime::from_seconds(20)).expect("a picture");
        let bytes = sample.buffer().unwrap().map_readable().unwrap();
        bytes[..WIDTH * HEIGHT].to_vec()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.pipeline.set_state(gst::State::Null).unwrap();
    }
}

/// Where a bright line begins on the way from `from` inwards: the first of `steps` samples that is brighter than its dark rim by far.
fn edge(at: impl Fn(i32) -> u8, from: i32, to: i32) -> Option<i32> {
    let step = (to - from).signum();
    (0..(to - from).abs()).map(|i| from + i * step).find(|&i| at(i) > 150)
}

/// The drawn box: left, top, right, bottom (the first and the last pixels of its line), looked for within 12 pixels of `truth`.
fn drawn(luma: &[u8], [left, top]: [usize; 2]) -> Option<[i32; 4]> {
    let (right, bottom) = (left + TARGET.0, top + TARGET.1);
    let (across, down) = ((top + bottom) / 2, left + TARGET.0 * 3 / 4);
    let row = |x: i32| luma[across * WIDTH + x as usize];
    let column = |y: i32| luma[y as usize * WIDTH + down];
    let [left, top, right, bottom] = [left, top, right, bottom].map(|edge| edge as i32);
    Some([
        edge(row, left - 12, left + 12)?,
        edge(column, top - 12, top + 12)?,
        edge(row, right + 11, right - 13)?,
        edge(column, bottom + 11, bottom - 13)?,
    ])
}

#[test]
fn each_box_is_within_a_pixel_of_its_own_frames_truth() {
    gst::init().unwrap();
    let file = film();
    let sim = Sim::start(&["--file", file.to_str().unwrap()]);
    let port = free_port();
    let daemon = Daemon::scripted(&format!(
        "[video]\ntrail_ms = 0\nlabels = false\ncamera_name = false\nclock = false\n\
         [rtsp_server]\nbind = \"127.0.0.1:{port}\"\nbitrate_kbps = 20000\n[cameras.target]\nsource = {:?}\n",
        sim.url
    ));
    daemon.wait_state("target", "online");
    let player = Player::new(&format!("rtsp://127.0.0.1:{port}/target"));
    // A track is drawn from its third frame on, and its filter learns how fast it moves.
    (0..60).for_each(|_| drop(player.next()));
    let (mut worst, mut numbers) = (0, Vec::new());
    for _ in 0..300 {
        let luma = player.next();
        let number = read(&luma, WIDTH, HEIGHT).expect("the number can be read");
        let [left, top] = truth(number);
        let found =
            drawn(&luma, [left, top]).unwrap_or_else(|| panic!("frame {number}: no box near {left},{top}"));
        let wanted = [left, top, left + TARGET.0 - 1, top + TARGET.1 - 1].map(|edge| edge as i32);
        let off = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).max().unwrap();
        assert!(off <= 1, "frame {number}: box at {found:?}, target at {wanted:?}");
        worst = worst.max(off);
        numbers.push(number);
    }
    let missed: u32 = numbers.windows(2).map(|two| (two[1] + TURN - two[0]) % TURN - 1).sum();
    println!(
        "300 boxes in a row, the farthest {worst} px from its frame's truth; {missed} frames of the camera between them not shown"
    );
    // What the test can see: the box of the frame before would be three pixels off.
    let [here, before] = [truth(100), truth(99)];
    assert!(here[0].abs_diff(before[0]).max(here[1].abs_diff(before[1])) >= 2);
}
