//! A clip to measure decoding with, where the configuration plays none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::trouble;
use crate::fault::Fault;
use crate::plan::Sends;

/// Frames of the test pattern.
const PATTERN_FRAMES: u64 = 75;
/// Bits a pixel of the pattern's stream: 1080p at 25 frames/s is 5.2 Mbit/s, as cameras send it.
const BITS_A_PIXEL: f64 = 0.1;
/// For it to be encoded.
const PATIENCE: Duration = Duration::from_secs(60);

/// A clip of a moving test pattern; gone when dropped.
pub(crate) struct Clip {
    pub(crate) path: PathBuf,
}

impl Drop for Clip {
    fn drop(&mut self) {
        // What is left in the temporary folder harms nobody.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Clip {
    /// By x264, as most cameras send it: one reference, no B-frames, a key frame every two seconds.
    ///
    /// # Errors
    /// When GStreamer has no x264, or fails.
    pub(crate) fn encode(sends: &Sends) -> Result<Clip, Fault> {
        let name = format!("weir-plan-{}-{}.mp4", std::process::id(), fastrand::u64(..));
        let clip = Clip { path: std::env::temp_dir().join(name) };
        Self::run(sends, &clip.path)?;
        Ok(clip)
    }

    fn run(sends: &Sends, path: &Path) -> Result<(), Fault> {
        gst::init().map_err(|e| trouble(format!("GStreamer does not start: {e}")))?;
        let Sends { fps, width, height, .. } = *sends;
        let rate = ((fps * 1000.0).round() as u32).max(1);
        let kbit = (f64::from(width) * f64::from(height) * fps * BITS_A_PIXEL / 1000.0).ceil().max(64.0);
        let key = (2.0 * fps).ceil().max(1.0);
        let text = format!(
            "videotestsrc num-buffers={PATTERN_FRAMES} pattern=zone-plate kx2=20 ky2=20 kt=10 \
             ! video/x-raw,format=I420,width={width},height={height},framerate={rate}/1000 \
             ! x264enc speed-preset=veryfast tune=zerolatency bitrate={kbit} key-int-max={key} \
             ! h264parse ! mp4mux ! filesink name=file"
        );
        let pipeline = gst::parse::launch(&text).map_err(|e| {
            trouble(format!(
                "no test pattern can be made ({}); it needs gstreamer1.0-plugins-ugly",
                e.message()
            ))
        })?;
        let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| trouble("not a pipeline"))?;
        if let Some(file) = pipeline.by_name("file") {
            file.set_property("location", path);
        }
        let bus = pipeline.bus().ok_or_else(|| trouble("a pipeline without a bus"))?;
        // A failure is on the bus.
        let _ = pipeline.set_state(gst::State::Playing);
        let patience = gst::ClockTime::try_from(PATIENCE).unwrap_or(gst::ClockTime::MAX);
        let end = bus.timed_pop_filtered(patience, &[gst::MessageType::Eos, gst::MessageType::Error]);
        let _ = pipeline.set_state(gst::State::Null);
        match end.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Eos(_)) => Ok(()),
            Some(gst::MessageView::Error(e)) => {
                Err(trouble(format!("no test pattern can be made: {}", e.error().message())))
            }
            _ => Err(trouble("the test pattern could not be encoded in time")),
        }
    }
}
