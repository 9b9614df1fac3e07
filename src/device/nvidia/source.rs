//! One camera whose pictures NVDEC decodes: a GStreamer pipeline up to access units, and a decoder behind it.
//!
//! What the pipeline is given and what its failures mean is as in [`crate::device::software::source`]. The parser cuts the stream into access units in byte
//! stream format, each with its parameter sets before a key frame. A codec that NVDEC does not take ends the attempt; the
//! camera's next one decodes in software.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::Pixels;
use super::decoder::{Codec, Decoded, Decoder, Unit};
use super::gpu::Pool;
use crate::clock::Pts;
use crate::config;
use crate::device::software::access_unit::Reader;
use crate::device::software::source::{self as software, SoftwareSource};
use crate::device::{Happening, Picture, Sink, Tap};
use crate::event::Video;
use crate::fault::{Fault, Retry, Who};
use crate::flow::thin::Pass;

const RTSP: &str = include_str!("../../../pipelines/rtsp-units.pipe");
const FILE: &str = include_str!("../../../pipelines/file-units.pipe");

/// A running source. Dropping it stops it.
#[derive(Debug)]
pub enum NvidiaSource {
    /// Decoded by NVDEC.
    Nvdec(SoftwareSource),
    /// Decoded by the CPU, and uploaded.
    Software(SoftwareSource),
}

impl crate::device::Source for NvidiaSource {
    fn rewind(&mut self) -> Result<(), Fault> {
        match self {
            NvidiaSource::Nvdec(source) | NvidiaSource::Software(source) => source.rewind(),
        }
    }

    fn tap(&mut self, tap: Arc<dyn Tap>) {
        match self {
            NvidiaSource::Nvdec(source) | NvidiaSource::Software(source) => source.tap(tap),
        }
    }
}

/// Builds and starts the pipeline of a camera, whose pictures lie in `pool`.
///
/// # Errors
/// When GStreamer cannot build it.
pub fn open(
    pool: Arc<Pool>,
    camera: &config::Camera,
    sink: Sink<Pixels>,
    by_software: Arc<Mutex<HashSet<Arc<str>>>>,
) -> Result<NvidiaSource, Fault> {
    let text = if matches!(camera.source, config::Source::File { .. }) { FILE } else { RTSP };
    let (source, live) = software::build(text, camera, "units")?;
    let pipeline = source.pipeline();
    let units = pipeline
        .by_name("units")
        .and_then(|e| e.downcast::<gst_app::AppSink>().ok())
        .ok_or_else(|| software::broken(&camera.name, "its pipeline has no appsink named `units`"))?;
    // Of a file, what takes its streams apart; of a camera, what has taken them apart.
    let streams = pipeline.by_name("parse").or_else(|| pipeline.by_name("source")).ok_or_else(|| {
        software::broken(&camera.name, "its pipeline has no element named `parse` or `source`")
    })?;
    software::watch_bus(pipeline, sink.happening.clone());
    link_parser(pipeline, &streams, &units, {
        let (name, happening) = (Arc::clone(&camera.name), sink.happening.clone());
        let by_software = Arc::clone(&by_software);
        move |why: &Fault| super::fall_back(&by_software, &name, why, &happening)
    });
    let feeder = Feeder {
        pool,
        camera: Arc::clone(&camera.name),
        sink,
        by_software,
        live,
        stream: None,
        segment: None,
        out: Vec::new(),
    };
    // Both callbacks come on the stream's one thread: nobody ever waits here.
    let feeder = Arc::new(Mutex::new(feeder));
    let last = Arc::clone(&feeder);
    let callbacks = gst_app::AppSinkCallbacks::builder()
        .new_sample(move |appsink| {
            let sample = appsink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            feeder.lock().unwrap_or_else(PoisonError::into_inner).feed(appsink, &sample)
        })
        .eos(move |appsink| last.lock().unwrap_or_else(PoisonError::into_inner).end(appsink))
        .build();
    units.set_callbacks(callbacks);
    source.play();
    Ok(NvidiaSource::Nvdec(source))
}

/// What NVDEC could decode, by GStreamer's name of it.
fn codec_of(media: &str) -> Option<Codec> {
    Some(match media {
        "video/x-h264" => Codec::H264,
        "video/x-h265" => Codec::H265,
        "video/x-vp9" => Codec::Vp9,
        "video/x-av1" => Codec::Av1,
        _ => return None,
    })
}

/// The codec of an RTP stream, and what takes it out of its packets (RFC 6184, 7798, 9628, and AV1's own).
fn depayloader_of(encoding: &str) -> Option<(&'static str, &'static str)> {
    Some(match encoding {
        "H264" => ("video/x-h264", "rtph264depay"),
        "H265" => ("video/x-h265", "rtph265depay"),
        "VP9" => ("video/x-vp9", "rtpvp9depay"),
        "AV1" => ("video/x-av1", "rtpav1depay"),
        _ => return None,
    })
}

/// Puts what the stream's codec needs between `streams` and `units` when it is known which that is.
fn link_parser(
    pipeline: &gst::Pipeline,
    streams: &gst::Element,
    units: &gst_app::AppSink,
    unsupported: impl Fn(&Fault) + Send + Sync + 'static,
) {
    let (pipeline, units) = (pipeline.downgrade(), units.downgrade());
    streams.connect_pad_added(move |_, pad| {
        let (Some(pipeline), Some(units)) = (pipeline.upgrade(), units.upgrade()) else { return };
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let Some(structure) = caps.structure(0) else { return };
        let (media, depayloader) = if structure.name() == "application/x-rtp" {
            if structure.get::<&str>("media").ok() != Some("video") {
                return;
            }
            let encoding = structure.get::<&str>("encoding-name").unwrap_or_default();
            match depayloader_of(encoding) {
                Some((media, depayloader)) => (media.to_owned(), Some(depayloader)),
                None => (format!("video/{encoding}"), None),
            }
        } else {
            (structure.name().to_string(), None)
        };
        let sink = units.static_pad("sink").filter(|sink| !sink.is_linked());
        if !(media.starts_with("video/") || media.starts_with("image/")) {
            return;
        }
        // A second video stream is not looked at.
        let Some(sink) = sink else { return };
        let (parser, wanted) = match codec_of(&media) {
            Some(Codec::H264) => ("h264parse", "video/x-h264,stream-format=byte-stream,alignment=au"),
            Some(Codec::H265) => ("h265parse", "video/x-h265,stream-format=byte-stream,alignment=au"),
            Some(Codec::Vp9) => ("vp9parse", "video/x-vp9,alignment=super-frame"),
            Some(Codec::Av1) => ("av1parse", "video/x-av1,stream-format=obu-stream,alignment=tu"),
            None => {
                let message = format!("the GPU path decodes H.264, H.265, VP9 and AV1, not {media}");
                return unsupported(&Fault::new(Who::Device, "unsupported", message).retry(Retry::Soon));
            }
        };
        let linked = || -> Option<()> {
            let parser = gst::ElementFactory::make(parser).build().ok()?;
            // VP9 and AV1 carry what a decoder needs in each key frame.
            if parser.has_property("config-interval") {
                parser.set_property("config-interval", -1i32);
            }
            let filter = gst::ElementFactory::make("capsfilter")
                .property("caps", wanted.parse::<gst::Caps>().ok()?)
                .build()
                .ok()?;
            let mut chain = vec![parser, filter];
            if let Some(depayloader) = depayloader {
                chain.insert(0, gst::ElementFactory::make(depayloader).build().ok()?);
            }
            pipeline.add_many(&chain).ok()?;
            gst::Element::link_many(&chain).ok()?;
            chain.last()?.static_pad("src")?.link(&sink).ok()?;
            // From the last to the first: nothing comes before somebody takes it.
            for element in chain.iter().rev() {
                element.sync_state_with_parent().ok()?;
            }
            pad.link(&chain[0].static_pad("sink")?).ok()?;
            Some(())
        };
        if linked().is_none() {
            let names =
                depayloader.map_or(parser.to_owned(), |depayloader| format!("{depayloader} and {parser}"));
            let message = format!("GStreamer cannot put {names} behind its stream");
            unsupported(&Fault::new(Who::Device, "unsupported", message).retry(Retry::Soon));
        }
    });
}

/// Takes access units to the decoder, and its pictures to the camera.
struct Feeder {
    pool: Arc<Pool>,
    camera: Arc<str>,
    sink: Sink<Pixels>,
    by_software: Arc<Mutex<HashSet<Arc<str>>>>,
    live: bool,
    stream: Option<Stream>,
    /// From time stamps to the pipeline's time.
    segment: Option<gst::FormattedSegment<gst::ClockTime>>,
    out: Vec<Decoded>,
}

/// What the caps said, and what decodes it.
struct Stream {
    caps: gst::Caps,
    codec: Codec,
    fps: Option<f32>,
    reader: Option<Reader>,
    decoder: Decoder,
}

impl Feeder {
    fn feed(
        &mut self,
        appsink: &gst_app::AppSink,
        sample: &gst::Sample,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let caps = sample.caps_owned().ok_or(gst::FlowError::NotNegotiated)?;
        if self.stream.as_ref().is_none_or(|stream| stream.caps != caps) {
            self.change(caps).map_err(|fault| self.fail(&fault))?;
        }
        self.segment = sample.segment().and_then(|s| s.downcast_ref::<gst::ClockTime>()).cloned();
        let Some(stream) = &mut self.stream else { return Err(gst::FlowError::NotNegotiated) };
        let buffer = sample.buffer().ok_or(gst::FlowError::Error)?;
        let bytes = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
        let coded = stream.reader.as_mut().and_then(|reader| reader.read(&bytes));
        let pass = match (coded, &mut self.sink.gate) {
            (Some(coded), Some(gate)) => gate(coded),
            _ => Pass::Decode,
        };
        let fed = match pass {
            Pass::Skip => return Ok(gst::FlowSuccess::Ok),
            Pass::Drain => stream.decoder.drain(&mut self.out),
            Pass::Decode => {
                let pts = buffer.pts().and_then(|pts| i64::try_from(pts.nseconds()).ok());
                let starts = coded.is_none_or(|coded| coded.starts);
                stream.decoder.feed(Unit { data: &bytes, pts, starts }, &mut self.out)
            }
        };
        self.deliver(appsink);
        fed.map_err(|fault| self.fail(&fault))?;
        Ok(gst::FlowSuccess::Ok)
    }

    /// The stream is another one now: the pictures of the old one that are still inside are given up.
    fn change(&mut self, caps: gst::Caps) -> Result<(), Fault> {
        let Some(structure) = caps.structure(0) else { return Ok(()) };
        let Some(codec) = codec_of(structure.name()) else { return Ok(()) };
        let fps = structure.get::<gst::Fraction>("framerate").ok();
        let fps = fps.filter(|fps| fps.numer() > 0).map(|fps| fps.numer() as f32 / fps.denom() as f32);
        let reader = software::reader_of(structure);
        // The decoder sees changes of size by itself.
        let decoder = match self.stream.take() {
            Some(stream) if stream.codec == codec => stream.decoder,
            _ => Decoder::with_pool(Arc::clone(&self.pool), codec)?,
        };
        self.stream = Some(Stream { caps, codec, fps, reader, decoder });
        Ok(())
    }

    /// A file's last pictures wait for others to come before them.
    fn end(&mut self, appsink: &gst_app::AppSink) {
        let drained = self.stream.as_mut().map_or(Ok(()), |stream| stream.decoder.drain(&mut self.out));
        self.deliver(appsink);
        if let Err(fault) = drained {
            let _ = self.fail(&fault);
        }
    }

    fn deliver(&mut self, appsink: &gst_app::AppSink) {
        let Some(stream) = &self.stream else { return };
        let segment = self.segment.as_ref();
        for decoded in self.out.drain(..) {
            let pts = decoded.pts.and_then(|pts| u64::try_from(pts).ok());
            let running = pts.and_then(|pts| segment?.to_running_time(gst::ClockTime::from_nseconds(pts)));
            let age = match (self.live, appsink.current_running_time(), running) {
                (true, Some(now), Some(then)) => Some(Duration::from(now.saturating_sub(then)))
                    .filter(|age| *age <= software::MOST_AGE)
                    .unwrap_or_default(),
                _ => Duration::ZERO,
            };
            let size = decoded.size;
            (self.sink.picture)(Picture {
                size,
                video: Video {
                    width: size.width,
                    height: size.height,
                    fps: stream.fps.or(decoded.fps),
                    codec: stream.codec.name().to_owned(),
                },
                age,
                pts: pts.map(Pts),
                pixels: decoded.surface.map(Pixels::new),
            });
        }
    }

    fn fail(&self, fault: &Fault) -> gst::FlowError {
        if fault.reason == "unsupported" {
            super::fall_back(&self.by_software, &self.camera, fault, &self.sink.happening);
        } else {
            // Full only when the camera's thread is stuck; the watchdog sees the silence.
            let _ = self.sink.happening.try_send(Happening::Failed(fault.clone()));
        }
        gst::FlowError::Error
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// From a camera's RTP packets to access units: each is there as soon as its last packet is, and does not wait for the next one.
    #[test]
    fn an_access_unit_does_not_wait_for_the_next_one() {
        gst::init().expect("GStreamer is installed");
        for (encoder, pay, encoding, caps) in [
            ("x264enc tune=zerolatency", "rtph264pay", "H264", "video/x-h264"),
            ("x265enc tune=zerolatency", "rtph265pay", "H265", "video/x-h265"),
            ("vp9enc deadline=1 lag-in-frames=0", "rtpvp9pay", "VP9", "video/x-vp9"),
        ] {
            let pipeline = gst::parse::launch("appsink name=units sync=false").expect("an element");
            let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap_or_else(|element| {
                let pipeline = gst::Pipeline::new();
                pipeline.add(&element).expect("it is new");
                pipeline
            });
            // What rtspsrc is for: a bin that gets a pad when it knows its streams.
            let text = format!(
                "appsrc name=in format=time caps=video/x-raw,format=I420,width=64,height=64,framerate=10/1 ! {encoder} ! {pay} \
                 ! capsfilter name=out caps=application/x-rtp,media=video,encoding-name={encoding}"
            );
            let camera = gst::parse::bin_from_description(&text, false).expect("the encoders are installed");
            pipeline.add(&camera).expect("it is new");
            let units = pipeline.by_name("units").and_downcast::<gst_app::AppSink>().expect("it is one");
            link_parser(&pipeline, camera.upcast_ref(), &units, |why| panic!("{why}"));
            pipeline.set_state(gst::State::Playing).expect("it plays");
            let pay = camera.by_name("out").and_then(|out| out.static_pad("src")).expect("it has a pad");
            let pad = gst::GhostPad::with_target(&pay).expect("it is free");
            pad.set_active(true).expect("it is new");
            camera.add_pad(&pad).expect("it is new");
            let source = camera.by_name("in").and_downcast::<gst_app::AppSrc>().expect("it is one");
            for n in 0..3 {
                let mut buffer = gst::Buffer::from_mut_slice(vec![n * 80; 64 * 64 * 3 / 2]);
                let at = gst::ClockTime::from_mseconds(100 * u64::from(n));
                buffer.get_mut().expect("it is new").set_pts(at);
                source.push_buffer(buffer).expect("it runs");
                // No picture follows yet.
                let patience = gst::ClockTime::try_from(Duration::from_secs(20)).expect("it is short");
                let sample =
                    units.try_pull_sample(patience).unwrap_or_else(|| panic!("{encoder}: picture {n} waits"));
                assert_eq!(sample.caps().and_then(|c| c.structure(0)).map(|s| s.name().as_str()), Some(caps));
            }
            pipeline.set_state(gst::State::Null).expect("it stops");
        }
    }
}
