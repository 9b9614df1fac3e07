//! One camera's GStreamer pipeline: description in, decoded pictures and happenings out.
//!
//! A pipeline is built fresh for each attempt and never shared. It is set to NULL before it is dropped; the other order
//! crashes inside GStreamer. Which failure means what is read from GStreamer's typed error domains, never from its texts.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use secrecy::ExposeSecret;

use super::access_unit::Reader;
use super::pixels::{self, Pixels};
use super::preprocess::ChromaSite;
use super::usb;
use crate::clock::Pts;
use crate::config::{self, Transport};
use crate::device::{Gate, Happening, Picture, Sink, Tap};
use crate::event::Video;
use crate::fault::{Fault, Retry, Who};
use crate::flow::thin::Pass;
use crate::frame::Size;

const RTSP: &str = include_str!("../../../pipelines/rtsp.pipe");
const FILE: &str = include_str!("../../../pipelines/file.pipe");
const V4L2: &str = include_str!("../../../pipelines/v4l2.pipe");

/// A silent TCP connection fails after this long inside rtspsrc; the stall watchdog is ours and shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Ages beyond this are a camera clock gone wrong, not a late picture.
pub(crate) const MOST_AGE: Duration = Duration::from_secs(10);

/// A running pipeline. Dropping it stops it.
pub struct SoftwareSource {
    pipeline: gst::Pipeline,
    tap: SetTap,
}

/// Where a pipeline's probes find the tap, once there is one.
type SetTap = Arc<OnceLock<Arc<dyn Tap>>>;

impl std::fmt::Debug for SoftwareSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SoftwareSource({:?})", self.pipeline)
    }
}

impl SoftwareSource {
    pub(crate) fn pipeline(&self) -> &gst::Pipeline {
        &self.pipeline
    }

    /// Starts it. An asynchronous failure arrives on the bus; a synchronous one is posted there too.
    pub(crate) fn play(&self) {
        let _ = self.pipeline.set_state(gst::State::Playing);
    }
}

impl Drop for SoftwareSource {
    fn drop(&mut self) {
        if let Some(bus) = self.pipeline.bus() {
            bus.unset_sync_handler();
        }
        // Fails only for elements that already failed; there is nothing left to stop then.
        let _ = self.pipeline.set_state(gst::State::Null);
        if let Some(tap) = self.tap.get() {
            tap.ended();
        }
    }
}

impl crate::device::Source for SoftwareSource {
    fn rewind(&mut self) -> Result<(), Fault> {
        self.pipeline
            .seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT, gst::ClockTime::ZERO)
            .map_err(|_| {
                Fault::new(Who::Camera, "not_seekable", "the file cannot be played from its start again")
            })
    }

    fn tap(&mut self, tap: Arc<dyn Tap>) {
        // Where something else decodes, its appsink gets the units.
        if let Some(pad) = self.pipeline.by_name("units").and_then(|units| units.static_pad("sink")) {
            let set = Arc::clone(&self.tap);
            pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
                show(&set, pad, info);
                gst::PadProbeReturn::Ok
            });
        }
        // A source has one tap in its life.
        let _ = self.tap.set(tap);
    }
}

/// Shows a unit to the tap.
fn show(tap: &SetTap, pad: &gst::Pad, info: &gst::PadProbeInfo<'_>) {
    if let (Some(tap), Some(buffer)) = (tap.get(), info.buffer())
        && let Some(caps) = pad.current_caps()
    {
        tap.unit(&caps, buffer);
    }
}

/// Builds and starts the pipeline of a camera.
///
/// # Errors
/// When GStreamer cannot build the description.
pub fn open(camera: &config::Camera, mut sink: Sink<Pixels>) -> Result<SoftwareSource, Fault> {
    let (source, live) = build(&description(&camera.source, &camera.name)?, camera, "frames")?;
    let codec = watch_decoders(&source, sink.gate.take());
    let frames = source
        .pipeline
        .by_name("frames")
        .and_then(|e| e.downcast::<gst_app::AppSink>().ok())
        .ok_or_else(|| broken(&camera.name, "its pipeline description has no appsink named `frames`"))?;
    watch_bus(&source.pipeline, sink.happening.clone());
    if matches!(camera.source, config::Source::V4l2 { .. }) {
        usb::prepare(&source.pipeline, sink.happening.clone());
    }
    deliver(&frames, sink, codec, live);
    source.play();
    Ok(source)
}

/// Builds a description's pipeline, comments out, and sets what the configuration says; `appsink` is the name of its end. Returns
/// whether the source is live.
///
/// # Errors
/// When GStreamer cannot build it.
pub(crate) fn build(
    description: &str,
    camera: &config::Camera,
    appsink: &str,
) -> Result<(SoftwareSource, bool), Fault> {
    gst::init().map_err(|e| broken(&camera.name, &format!("GStreamer does not start: {e}")))?;
    let lines = description.lines().filter(|l| !l.trim_start().starts_with('#')).collect::<Vec<_>>();
    let pipeline = gst::parse::launch(&lines.join(" "))
        .map_err(|e| broken(&camera.name, &format!("its pipeline cannot be built: {}", e.message())))?
        .downcast::<gst::Pipeline>()
        .map_err(|_| broken(&camera.name, "its description is one element, not a pipeline"))?;
    // From here on an early return must stop the pipeline first: the guard does.
    let source = SoftwareSource { pipeline, tap: SetTap::default() };
    let live = configure(&source.pipeline, camera, appsink)?;
    Ok((source, live))
}

pub(crate) fn broken(camera: &str, what: &str) -> Fault {
    Fault::new(Who::Camera, "pipeline", format!("camera {camera}: {what}"))
        .remedy("`gst-inspect-1.0 ELEMENT` says whether an element is installed; weir needs the plugins base, good, bad and libav")
        .retry(Retry::Slowly)
}

/// The description's text, parameters in.
fn description(source: &config::Source, camera: &str) -> Result<String, Fault> {
    Ok(match source {
        config::Source::Rtsp(_) => RTSP.to_owned(),
        config::Source::File { .. } => FILE.to_owned(),
        config::Source::V4l2 { .. } => V4L2.to_owned(),
        config::Source::Pipeline { file, params } => {
            let mut text = read(file, camera)?;
            for (key, value) in params {
                text = text.replace(&format!("{{{key}}}"), value);
            }
            text
        }
    })
}

fn read(file: &Path, camera: &str) -> Result<String, Fault> {
    std::fs::read_to_string(file).map_err(|e| {
        Fault::new(
            Who::Config,
            "pipeline",
            format!("camera {camera}: pipeline description {} cannot be read: {e}", file.display()),
        )
    })
}

/// Sets what the configuration says on the element named `source`. Returns whether the source is live.
fn configure(pipeline: &gst::Pipeline, camera: &config::Camera, appsink: &str) -> Result<bool, Fault> {
    let element = |name: &str| {
        pipeline
            .by_name(name)
            .ok_or_else(|| broken(&camera.name, &format!("its pipeline has no element `{name}`")))
    };
    match &camera.source {
        config::Source::Rtsp(rtsp) => {
            let source = element("source")?;
            source.set_property("location", rtsp.url.as_str());
            source.set_property("latency", u32::try_from(rtsp.latency.as_millis()).unwrap_or(u32::MAX));
            source
                .set_property("tcp-timeout", u64::try_from(CONNECT_TIMEOUT.as_micros()).unwrap_or(u64::MAX));
            // UDP: after this long without a packet rtspsrc itself turns to TCP, if that is allowed.
            source.set_property("timeout", u64::try_from(CONNECT_TIMEOUT.as_micros()).unwrap_or(u64::MAX));
            source.set_property_from_str("protocols", &protocols(rtsp));
            if let Some(login) = &rtsp.login {
                source.set_property("user-id", &login.user);
                source.set_property("user-pw", login.password.expose_secret());
            }
            if let Some(ca) = &rtsp.tls_ca_file {
                let database = gstreamer_tls_database(ca, &camera.name)?;
                source.set_property("tls-database", database);
            }
            if rtsp.tls_insecure {
                source.set_property_from_str("tls-validation-flags", "0");
            }
            select_first_video(&source);
            Ok(true)
        }
        config::Source::File { path, realtime, .. } => {
            element("source")?.set_property("location", path);
            element(appsink)?.set_property("sync", *realtime);
            Ok(false)
        }
        config::Source::V4l2 { device } => {
            element("source")?.set_property("device", device);
            Ok(true)
        }
        config::Source::Pipeline { .. } => Ok(true),
    }
}

fn protocols(rtsp: &config::Rtsp) -> String {
    let transport = match rtsp.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
        Transport::Auto => "udp+tcp",
    };
    if rtsp.url.scheme() == "rtsps" { format!("{transport}+tls") } else { transport.to_owned() }
}

fn gstreamer_tls_database(ca: &Path, camera: &str) -> Result<glib::Object, Fault> {
    let database = gio::TlsFileDatabase::new(ca).map_err(|e| {
        Fault::new(
            Who::Config,
            "tls",
            format!("camera {camera}: tls_ca_file {} cannot be used: {}", ca.display(), e.message()),
        )
    })?;
    Ok(database.upcast())
}

/// Sound and metadata streams are not set up at all: they would only cost bandwidth.
fn select_first_video(source: &gst::Element) {
    let chosen = Mutex::new(None::<u32>);
    source.connect("select-stream", false, move |args| {
        let number = args[1].get::<u32>().ok()?;
        let caps = args[2].get::<gst::Caps>().ok()?;
        let video = caps.structure(0).and_then(|s| s.get::<&str>("media").ok()) == Some("video");
        let mut chosen = chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let take = video && *chosen.get_or_insert(number) == number;
        Some(take.to_value())
    });
}

/// Sets up decoders as decodebin makes them, notes which codec they read, and has the tap shown what comes and the gate asked before
/// them.
fn watch_decoders(source: &SoftwareSource, gate: Option<Gate>) -> Arc<Mutex<String>> {
    let tap = Arc::clone(&source.tap);
    let gate = gate.map(|gate| Arc::new(Mutex::new(gate)));
    let codec = Arc::new(Mutex::new(String::from("raw")));
    let noted = Arc::clone(&codec);
    source.pipeline.connect_deep_element_added(move |_, _, element| {
        let is_decoder = element
            .factory()
            .and_then(|f| {
                f.metadata("klass")
                    .map(|k| k.contains("Decoder") && (k.contains("Video") || k.contains("Image")))
            })
            .unwrap_or(false);
        if !is_decoder {
            return;
        }
        if element.has_property("max-threads") {
            // One thread a camera: frame threads would add a frame of latency each, and the cores belong to the engine.
            element.set_property("max-threads", 1i32);
        }
        let noted = Arc::clone(&noted);
        if let Some(pad) = element.static_pad("sink") {
            let (gate, tap) = (gate.clone(), Arc::clone(&tap));
            let reader = Mutex::new(None);
            let kinds = gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::BUFFER;
            pad.add_probe(kinds, move |pad, info| {
                if let Some(gst::EventView::Caps(caps)) = info.event().map(|e| e.view())
                    && let Some(structure) = caps.caps().structure(0)
                {
                    *noted.lock().unwrap_or_else(PoisonError::into_inner) = codec_name(structure.name());
                    *reader.lock().unwrap_or_else(PoisonError::into_inner) = reader_of(structure);
                }
                show(&tap, pad, info);
                let refused = gate
                    .as_ref()
                    .zip(info.buffer())
                    .is_some_and(|(gate, buffer)| !passes(pad, buffer, &reader, gate));
                if !refused {
                    return gst::PadProbeReturn::Ok;
                }
                info.flow_res = Ok(gst::FlowSuccess::Ok);
                // Not `Drop`: gstreamer-rs frees the buffer itself then, and GStreamer before 1.24.8 complains of it.
                gst::PadProbeReturn::Handled
            });
        }
    });
    codec
}

/// For streams whose access units are whole frames. Of fields only one might be left out, which leaves half a picture.
pub(crate) fn reader_of(caps: &gst::StructureRef) -> Option<Reader> {
    let text = |field: &str| caps.get::<&str>(field).ok();
    let framed = text("alignment").is_none_or(|alignment| alignment == "au")
        && text("interlace-mode").is_none_or(|mode| mode == "progressive")
        && text("coded-picture-structure").is_none_or(|structure| structure == "frame");
    let data = caps.get::<gst::Buffer>("codec_data").ok();
    let data = data.as_ref().and_then(|data| data.map_readable().ok());
    framed.then(|| Reader::new(caps.name(), text("stream-format"), data.as_deref())).flatten()
}

/// Asks the gate, where there is a picture.
fn passes(
    pad: &gst::Pad,
    buffer: &gst::BufferRef,
    reader: &Mutex<Option<Reader>>,
    gate: &Mutex<Gate>,
) -> bool {
    let unit = {
        let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = buffer.map_readable();
        reader.as_mut().zip(bytes.ok()).and_then(|(reader, bytes)| reader.read(&bytes))
    };
    let Some(unit) = unit else { return true };
    let pass = gate.lock().unwrap_or_else(PoisonError::into_inner)(unit);
    match pass {
        Pass::Decode => true,
        Pass::Skip => false,
        Pass::Drain => {
            // A decoder that puts pictures in order holds the last ones back until more come, which may take seconds now; a gap
            // makes it give them out.
            if let Some(pts) = buffer.pts() {
                // Refused only while the pipeline is being taken down.
                let _ = pad.send_event(gst::event::Gap::new(pts, buffer.duration()));
            }
            false
        }
    }
}

fn codec_name(media_type: &str) -> String {
    match media_type {
        "image/jpeg" => "mjpeg".to_owned(),
        other => other.rsplit_once("/x-").map_or(other, |(_, name)| name).to_owned(),
    }
}

pub(crate) fn watch_bus(pipeline: &gst::Pipeline, happening: Sender<Happening>) {
    let Some(bus) = pipeline.bus() else { return };
    bus.set_sync_handler(move |_, message| {
        let news = match message.view() {
            gst::MessageView::Eos(_) => Some(Happening::Ended),
            gst::MessageView::Error(e) => Some(Happening::Failed(fault_of(&e.error()))),
            gst::MessageView::Warning(w) if w.error().matches(gst::StreamError::Decode) => {
                Some(Happening::Undecodable)
            }
            _ => None,
        };
        if let Some(news) = news {
            // Full only when the camera's thread is stuck; the watchdog sees the silence.
            let _ = happening.try_send(news);
        }
        gst::BusSyncReply::Drop
    });
}

/// GStreamer's error domains in our words. The camera's name is added by the caller.
fn fault_of(error: &glib::Error) -> Fault {
    let fault = |reason, retry, message: &str| Fault::new(Who::Camera, reason, message).retry(retry);
    if let Some(kind) = error.kind::<gst::ResourceError>() {
        return match kind {
            gst::ResourceError::NotAuthorized => {
                fault("auth", Retry::Slowly, "the camera refuses the user name or password")
                    .remedy("set `user` and `password_env` or `password_file` of this camera")
            }
            gst::ResourceError::NotFound => {
                fault("not_found", Retry::Slowly, "there is nothing at this address").remedy(
                    "check the path in `source`; the camera's manual or ONVIF tool lists its stream paths",
                )
            }
            gst::ResourceError::OpenRead
            | gst::ResourceError::OpenReadWrite
            | gst::ResourceError::OpenWrite => fault("unreachable", Retry::Soon, "it cannot be opened"),
            gst::ResourceError::Busy => fault("busy", Retry::Soon, "another program uses the device"),
            gst::ResourceError::Settings => {
                fault("settings", Retry::Slowly, "the source does not support what was asked of it")
            }
            _ => fault("connection", Retry::Soon, "the connection failed"),
        };
    }
    if let Some(kind) = error.kind::<gst::StreamError>() {
        return match kind {
            gst::StreamError::CodecNotFound => {
                fault("unsupported", Retry::Slowly, "no decoder for its codec is installed")
                    .remedy("install gstreamer1.0-libav, or set the camera to H.264, H.265 or MJPEG")
            }
            gst::StreamError::TypeNotFound | gst::StreamError::WrongType => {
                fault("not_video", Retry::Slowly, "what it delivers is not a video")
            }
            gst::StreamError::Decode | gst::StreamError::Demux => {
                fault("corrupt", Retry::Soon, "its data cannot be decoded")
            }
            _ => fault("stream", Retry::Soon, "its stream failed"),
        };
    }
    if error.is::<gst::CoreError>() && error.matches(gst::CoreError::MissingPlugin) {
        return fault("unsupported", Retry::Slowly, "a GStreamer plugin for its stream is missing")
            .remedy("install gstreamer1.0-plugins-good, -bad and gstreamer1.0-libav");
    }
    fault("failed", Retry::Soon, "GStreamer reports an internal error")
}

fn deliver(frames: &gst_app::AppSink, mut sink: Sink<Pixels>, codec: Arc<Mutex<String>>, live: bool) {
    let mut seen: Option<(gst::Caps, Format)> = None;
    let callbacks = gst_app::AppSinkCallbacks::builder()
        .new_sample(move |appsink| {
            let sample = appsink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            let caps = sample.caps_owned().ok_or(gst::FlowError::NotNegotiated)?;
            if seen.as_ref().is_none_or(|(c, _)| *c != caps) {
                let info =
                    gst_video::VideoInfo::from_caps(&caps).map_err(|_| gst::FlowError::NotNegotiated)?;
                let codec = codec.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let chroma = pixels::chroma_site(&caps, &codec);
                seen = Some((caps, Format { info, codec, chroma }));
            }
            let (_, format) = seen.as_ref().expect("set just above");
            let picture = picture(appsink, &sample, format, live)?;
            (sink.picture)(picture);
            Ok(gst::FlowSuccess::Ok)
        })
        .build();
    frames.set_callbacks(callbacks);
}

/// What a stream's pictures are, read once a change of caps.
struct Format {
    info: gst_video::VideoInfo,
    codec: String,
    chroma: ChromaSite,
}

fn picture(
    appsink: &gst_app::AppSink,
    sample: &gst::Sample,
    format: &Format,
    live: bool,
) -> Result<Picture<Pixels>, gst::FlowError> {
    let info = &format.info;
    let buffer = sample.buffer_owned().ok_or(gst::FlowError::Error)?;
    let pts = buffer.pts();
    let running = sample
        .segment()
        .and_then(|s| s.downcast_ref::<gst::ClockTime>())
        .and_then(|s| s.to_running_time(pts));
    let age = match (live, appsink.current_running_time(), running) {
        (true, Some(now), Some(then)) => {
            Some(Duration::from(now.saturating_sub(then))).filter(|a| *a <= MOST_AGE).unwrap_or_default()
        }
        _ => Duration::ZERO,
    };
    let sound = !buffer.flags().contains(gst::BufferFlags::CORRUPTED);
    let fps = info.fps();
    Ok(Picture {
        size: Size { width: info.width(), height: info.height() },
        video: Video {
            width: info.width(),
            height: info.height(),
            fps: (fps.numer() > 0 && fps.denom() > 0).then(|| fps.numer() as f32 / fps.denom() as f32),
            codec: format.codec.clone(),
        },
        age,
        pts: pts.map(|p| Pts(p.nseconds())),
        pixels: if sound { Pixels::map(buffer, info, format.chroma).ok() } else { None },
    })
}
