//! What one 1920×1080 frame costs to show: the copy, what is painted, JPEG, H.264. CPU time of the process, so that threads of
//! encoders count and what else runs does not.
//!
//! `cargo bench --bench video`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench is run by people")]

use std::sync::Arc;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use weir::clock::{Tick, Wall};
use weir::config::{Hide, Privacy, Style};
use weir::device::canvas::paint::Painter;
use weir::device::canvas::{Canvas, Colour};
use weir::device::software::preprocess::{ChromaSite, Geometry, Matrix, PixelFormat, Planes, Range};
use weir::flow::draw::{Artist, DrawList, Seen};
use weir::flow::track::{TrackId, TrackView};
use weir::frame::{BBox, Size, Stamp};
use weir::video::encoder;
use weir::video::jpeg::Jpeg;

const SIZE: Size = Size { width: 1920, height: 1080 };
const ROUNDS: u32 = 100;

/// A street's worth of people: twelve tracks of 60×160 pixels with trails.
fn list() -> DrawList {
    let labels: Vec<Arc<str>> = vec!["person".into()];
    let privacy = Privacy { hide: Vec::new(), hide_by: Hide::Blur, masks: Vec::new() };
    let mut artist =
        Artist::new("street".into(), &privacy, &labels, Duration::from_millis(1500), Style::default());
    let mut last = None;
    for frame in 0..45u64 {
        let now = Tick::from_millis(frame * 33);
        let track = |id: u64| {
            let bbox = BBox {
                x: 50.0 + 145.0 * id as f32 + 2.0 * frame as f32,
                y: 120.0 + 55.0 * id as f32,
                w: 60.0,
                h: 160.0,
            };
            TrackView { id: TrackId(id), class: 0, score: 0.9, bbox, started: Tick::ZERO, seen: now }
        };
        let tracks: Vec<TrackView> = (0..12).map(track).collect();
        let stamp = Stamp { arrived: now, decoded: now, pts: None, wall: Wall(1_767_225_600_000_000_000) };
        last = Some(artist.draw(&Seen { stamp, size: SIZE, found: &[], tracks: &tracks }));
    }
    last.unwrap()
}

/// Mean CPU time of one round, in milliseconds.
fn cost(name: &str, mut round: impl FnMut()) {
    round();
    let before = weir::usage::process_cpu();
    (0..ROUNDS).for_each(|_| round());
    let took = weir::usage::process_cpu() - before;
    println!("{name:<44} {:6.2} ms", took.as_secs_f64() * 1e3 / f64::from(ROUNDS));
}

fn main() {
    gst::init().unwrap();
    let (width, height) = (SIZE.width as usize, SIZE.height as usize);
    // A picture with detail, the same each time: gradients and a moving texture.
    let texture = |seed: usize| -> Vec<u8> {
        (0..width * height).map(|i| ((i % width) / 8 + (i / width) / 6 + (i * seed) % 23) as u8).collect()
    };
    let luma: Vec<Vec<u8>> = [7, 11, 13].map(texture).into();
    let chroma = vec![120; width * height / 4];
    let geometry = Geometry {
        size: SIZE,
        format: PixelFormat::I420,
        matrix: Matrix::Bt709,
        range: Range::Limited,
        chroma: ChromaSite::Left,
    };
    let mut turn = 0;
    let mut copy = |most: Option<u32>, colour: Option<Colour>| {
        turn += 1;
        let planes =
            Planes { data: [&luma[turn % 3], &chroma, &chroma], stride: [width, width / 2, width / 2] };
        Canvas::copy(&planes, &geometry, most, colour).unwrap()
    };
    let list = list();
    let mut painter = Painter::default();

    cost("copy, own colours (for H.264)", || drop(copy(None, None)));
    cost("copy, colours of JPEG", || drop(copy(None, Some(Colour::JPEG))));
    cost("copy to 640 columns, colours of JPEG", || drop(copy(Some(640), Some(Colour::JPEG))));
    let mut canvas = copy(None, None);
    cost("12 boxes, labels, trails, name and clock", || painter.mark(&list, &mut canvas));
    let mut jpeg = Jpeg::new(80).unwrap();
    cost("copy, paint, JPEG", || {
        let mut canvas = copy(None, Some(Colour::JPEG));
        painter.mark(&list, &mut canvas);
        drop(jpeg.encode(canvas).unwrap());
    });
    cost("copy to 640 columns, paint, JPEG", || {
        let mut canvas = copy(Some(640), Some(Colour::JPEG));
        painter.mark(&list, &mut canvas);
        drop(jpeg.encode(canvas).unwrap());
    });
    for name in ["x264enc", "openh264enc"] {
        let line = format!(
            "appsrc name=src format=time ! {name} name=encoder ! video/x-h264 ! appsink name=sink sync=false"
        );
        let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
        encoder::configure(&pipeline.by_name("encoder").unwrap(), 4000);
        let src = pipeline.by_name("src").unwrap().downcast::<gst_app::AppSrc>().unwrap();
        let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
        let caps = "video/x-raw,format=I420,width=1920,height=1080,framerate=25/1,colorimetry=bt709";
        src.set_caps(Some(&caps.parse().unwrap()));
        pipeline.set_state(gst::State::Playing).unwrap();
        let mut time = 0;
        cost(&format!("copy, paint, {name}"), || {
            let mut canvas = copy(None, None);
            painter.mark(&list, &mut canvas);
            let mut buffer = gst::Buffer::from_mut_slice(canvas.into_bytes());
            buffer.make_mut().set_pts(gst::ClockTime::from_mseconds(time));
            time += 40;
            src.push_buffer(buffer).unwrap();
            sink.try_pull_sample(gst::ClockTime::from_seconds(5)).unwrap();
        });
        pipeline.set_state(gst::State::Null).unwrap();
    }
}
