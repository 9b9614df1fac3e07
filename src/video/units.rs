//! One camera's encoded pictures on their way to those who watch: from an encoder of ours, or from the camera itself.
//!
//! Whoever is fed gets every unit from a key frame on, or, when it is too slow, none until the next key frame: half of a group
//! of pictures is worse than a still one. Nothing here waits.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::lock;
use crate::device::Tap;

/// Units that wait for one reader. Readers hand them on at once; only a stuck one ever has so many.
const MOST: u64 = 64;
/// Times that stray farther than this from the reader's own clock begin anew there: the camera's clock jumped, or it came back.
const STRAY: u64 = 1_000_000_000;

/// What RTP can carry of what cameras and encoders make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// H.264.
    H264,
    /// H.265.
    H265,
    /// Motion JPEG.
    Jpeg,
}

impl Format {
    fn of(caps: &gst::CapsRef) -> Option<Format> {
        match caps.structure(0)?.name().as_str() {
            "video/x-h264" => Some(Format::H264),
            "video/x-h265" => Some(Format::H265),
            "image/jpeg" => Some(Format::Jpeg),
            _ => None,
        }
    }

    /// GStreamer's elements from units to RTP; the last one is named `pay0`.
    pub fn to_rtp(self) -> &'static str {
        match self {
            Format::H264 => {
                "h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96 aggregate-mode=zero-latency"
            }
            Format::H265 => {
                "h265parse config-interval=-1 ! rtph265pay name=pay0 pt=96 aggregate-mode=zero-latency"
            }
            Format::Jpeg => "jpegparse ! rtpjpegpay name=pay0 pt=26",
        }
    }
}

/// One camera's encoded stream.
#[derive(Default)]
pub struct Units {
    state: Mutex<State>,
    /// A key frame is wanted: somebody has come, or has missed something.
    wish: AtomicBool,
    /// Whether the newest key frame is kept for who comes next, where nobody can be asked for one.
    keeps_key: bool,
}

#[derive(Default)]
struct State {
    caps: Option<gst::Caps>,
    key: Option<gst::Buffer>,
    feeds: Vec<Feed>,
    came: u64,
}

struct Feed {
    id: u64,
    src: gst_app::AppSrc,
    caps: Option<gst::Caps>,
    /// Nothing is of use before the next key frame.
    waits: bool,
    /// A moment of the stream, and the same one of the reader, in nanoseconds.
    anchor: Option<(u64, u64)>,
    /// The latest time that was given: a new anchor lies after it.
    latest: u64,
}

impl Units {
    /// Of a camera, which makes key frames when it likes: the newest is kept.
    pub fn of_camera() -> Arc<Units> {
        Arc::new(Units { keeps_key: true, ..Units::default() })
    }

    /// What the stream is now; `None`: there is none, or RTP cannot carry it.
    pub fn format(&self) -> Option<Format> {
        lock(&self.state).caps.as_ref().and_then(|caps| Format::of(caps))
    }

    /// Feeds `src` until the answer is dropped.
    pub fn feed(self: &Arc<Self>, src: gst_app::AppSrc) -> Fed {
        src.set_property("max-buffers", MOST);
        let mut state = lock(&self.state);
        state.came += 1;
        let id = state.came;
        let mut feed = Feed { id, src, caps: None, waits: true, anchor: None, latest: 0 };
        if let (Some(caps), Some(key)) = (&state.caps, &state.key) {
            // A still picture now is better than none until the camera makes its next key frame.
            feed.give(caps, key);
            (feed.waits, feed.anchor) = (true, None);
        }
        state.feeds.push(feed);
        drop(state);
        self.want_key();
        Fed { units: Arc::clone(self), id }
    }

    /// A key frame is wanted soon.
    pub fn want_key(&self) {
        self.wish.store(true, Relaxed);
    }

    /// Whether a key frame was wanted since the last call.
    pub fn take_wish(&self) -> bool {
        self.wish.swap(false, Relaxed)
    }

    /// The next unit, which is of this kind.
    pub fn push(&self, caps: &gst::Caps, unit: &gst::Buffer) {
        let mut state = lock(&self.state);
        if state.caps.as_ref() != Some(caps) {
            if state.caps.as_ref().is_some_and(|old| Format::of(old) != Format::of(caps)) {
                // Readers were built for the other format: they end, and come again.
                state.end();
            }
            state.caps = Some(caps.clone());
        }
        let key = !unit.flags().contains(gst::BufferFlags::DELTA_UNIT);
        if key && self.keeps_key {
            state.key = Some(unit.clone());
        }
        for feed in &mut state.feeds {
            feed.next(caps, unit, key);
        }
        if state.feeds.iter().any(|feed| feed.waits) {
            self.want_key();
        }
    }

    /// There will be no more of this stream. Those who are fed wait for another one.
    pub fn pause(&self) {
        let mut state = lock(&self.state);
        (state.caps, state.key) = (None, None);
        for feed in &mut state.feeds {
            (feed.waits, feed.anchor) = (true, None);
        }
    }

    /// There will be no more: those who are fed are told.
    pub fn end(&self) {
        lock(&self.state).end();
    }
}

impl Tap for Units {
    fn unit(&self, caps: &gst::Caps, unit: &gst::Buffer) {
        self.push(caps, unit);
    }

    fn ended(&self) {
        self.pause();
    }
}

impl State {
    fn end(&mut self) {
        (self.caps, self.key) = (None, None);
        for feed in self.feeds.drain(..) {
            // Refused only by one that is over anyway.
            let _ = feed.src.end_of_stream();
        }
    }
}

impl Feed {
    fn next(&mut self, caps: &gst::Caps, unit: &gst::Buffer, key: bool) {
        if level(&self.src) >= MOST {
            self.waits = true;
        } else if key || !self.waits {
            self.waits = false;
            self.give(caps, unit);
        }
    }

    fn give(&mut self, caps: &gst::Caps, unit: &gst::Buffer) {
        if self.caps.as_ref() != Some(caps) {
            self.src.set_caps(Some(caps));
            self.caps = Some(caps.clone());
        }
        let mut unit = unit.copy();
        let fields = unit.make_mut();
        let Some(pts) = fields.pts().or(fields.dts()) else { return };
        let now = self.src.current_running_time().map(gst::ClockTime::nseconds);
        let here =
            |(then, ours): (u64, u64), time: gst::ClockTime| (ours + time.nseconds()).checked_sub(then);
        let strays = |anchor| match (here(anchor, pts), now) {
            (Some(time), Some(now)) => time.abs_diff(now) > STRAY,
            (time, _) => time.is_none(),
        };
        let anchor = self.anchor.filter(|anchor| !strays(*anchor));
        let fresh = || (pts.nseconds(), now.unwrap_or(0).max(self.latest + 1_000_000));
        let anchor = anchor.unwrap_or_else(fresh);
        self.anchor = Some(anchor);
        let dts = fields.dts().and_then(|dts| here(anchor, dts));
        let time = here(anchor, pts);
        self.latest = self.latest.max(time.unwrap_or(0));
        fields.set_pts(time.map(gst::ClockTime::from_nseconds));
        fields.set_dts(dts.map(gst::ClockTime::from_nseconds));
        // Refused only by one that is being taken down.
        let _ = self.src.push_buffer(unit);
    }
}

/// Units that wait in it.
fn level(src: &gst_app::AppSrc) -> u64 {
    src.property("current-level-buffers")
}

/// One who is fed.
pub struct Fed {
    units: Arc<Units>,
    id: u64,
}

impl Drop for Fed {
    fn drop(&mut self) {
        let mut state = lock(&self.units.state);
        let place = state.feeds.iter().position(|feed| feed.id == self.id);
        let gone = place.map(|place| state.feeds.swap_remove(place));
        drop(state);
        // Outside of the lock: it may be the last one to hold its element.
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Reader {
        pipeline: gst::Pipeline,
        sink: gst_app::AppSink,
        src: gst_app::AppSrc,
    }

    impl Reader {
        fn new() -> Reader {
            gst::init().expect("GStreamer is installed");
            let line = "appsrc name=src is-live=true format=time max-bytes=0 ! appsink name=sink sync=false";
            let pipeline = gst::parse::launch(line).expect("a line").downcast::<gst::Pipeline>();
            let pipeline = pipeline.expect("a pipeline");
            let src = pipeline.by_name("src").and_downcast().expect("an appsrc");
            let sink = pipeline.by_name("sink").and_downcast().expect("an appsink");
            pipeline.set_state(gst::State::Playing).expect("it plays");
            Reader { pipeline, sink, src }
        }

        /// The next unit's first byte and its time in milliseconds; `None`: nothing comes.
        fn next(&self) -> Option<(u8, u64)> {
            let sample = self.sink.try_pull_sample(gst::ClockTime::from_mseconds(200))?;
            let buffer = sample.buffer().expect("a buffer");
            Some((buffer.map_readable().expect("bytes")[0], buffer.pts().expect("a time").mseconds()))
        }
    }

    impl Drop for Reader {
        fn drop(&mut self) {
            let _ = self.pipeline.set_state(gst::State::Null);
        }
    }

    fn unit(number: u8, key: bool, ms: u64) -> gst::Buffer {
        let mut buffer = gst::Buffer::from_mut_slice(vec![number]);
        let fields = buffer.get_mut().expect("nobody else has it");
        fields.set_pts(gst::ClockTime::from_mseconds(ms));
        if !key {
            fields.set_flags(gst::BufferFlags::DELTA_UNIT);
        }
        buffer
    }

    fn h264() -> gst::Caps {
        gst::Caps::builder("video/x-h264").build()
    }

    #[test]
    fn a_reader_begins_with_a_key_frame_and_keeps_the_distances_of_times() {
        let reader = Reader::new();
        let units = Arc::new(Units::default());
        let fed = units.feed(reader.src.clone());
        assert!(units.take_wish() && !units.take_wish());
        for (number, key, ms) in [(1, false, 5_000), (2, true, 5_040), (3, false, 5_080)] {
            units.push(&h264(), &unit(number, key, ms));
        }
        let (first, second) = (reader.next().expect("a unit"), reader.next().expect("another"));
        assert_eq!((first.0, second.0, second.1 - first.1), (2, 3, 40));
        drop(fed);
        units.push(&h264(), &unit(4, true, 5_120));
        assert_eq!(reader.next(), None);
    }

    #[test]
    fn times_go_on_when_a_cameras_clock_jumps() {
        let reader = Reader::new();
        let units = Arc::new(Units::default());
        let _fed = units.feed(reader.src.clone());
        for (number, ms) in [(1, 900_000), (2, 900_040), (3, 40), (4, 80), (5, 7_000_000)] {
            units.push(&h264(), &unit(number, true, ms));
        }
        let times: Vec<u64> = std::iter::from_fn(|| reader.next()).map(|(_, time)| time).collect();
        assert_eq!(times.len(), 5);
        assert!(times.windows(2).all(|two| two[0] < two[1] && two[1] - two[0] < 1_000), "{times:?}");
    }

    #[test]
    fn a_cameras_newest_key_frame_is_there_for_who_comes_and_gone_with_the_camera() {
        let units = Units::of_camera();
        units.push(&h264(), &unit(1, true, 0));
        units.push(&h264(), &unit(2, false, 40));
        let reader = Reader::new();
        let _fed = units.feed(reader.src.clone());
        units.push(&h264(), &unit(3, false, 80));
        units.push(&h264(), &unit(4, true, 120));
        let seen: Vec<u8> = std::iter::from_fn(|| reader.next()).map(|(number, _)| number).collect();
        assert_eq!(seen, [1, 4], "what belongs to a picture that was missed is of no use");
        assert_eq!(units.format(), Some(Format::H264));
        units.pause();
        assert_eq!(units.format(), None);
        let late = Reader::new();
        let _late = units.feed(late.src.clone());
        assert_eq!(late.next(), None);
    }

    #[test]
    fn a_stuck_reader_is_not_waited_for_and_goes_on_at_a_key_frame() {
        gst::init().expect("GStreamer is installed");
        // Never set to playing: nothing leaves its queue.
        let stuck = gst_app::AppSrc::builder().is_live(true).format(gst::Format::Time).build();
        let units = Arc::new(Units::default());
        let _fed = units.feed(stuck.clone());
        for n in 0..200 {
            units.push(&h264(), &unit(0, n == 0, n * 40));
        }
        assert_eq!(level(&stuck), MOST);
        assert!(lock(&units.state).feeds[0].waits && units.take_wish());
    }
}
