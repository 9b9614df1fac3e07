//! JPEG by GStreamer's `jpegenc` (libjpeg-turbo), which takes Y, U and V as they are. One pipeline, for all sizes.

use std::time::Duration;

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use crate::device::canvas::{Canvas, Colour};
use crate::fault::{Fault, Who};
use crate::frame::Size;

/// A picture takes milliseconds; an encoder that takes so long will never answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// An encoder. Dropping it stops it.
pub struct Jpeg {
    pipeline: gst::Pipeline,
    src: gst_app::AppSrc,
    sink: gst_app::AppSink,
    size: Option<Size>,
}

impl Jpeg {
    /// Starts an encoder of this quality, 1..=100.
    ///
    /// # Errors
    /// When GStreamer has no `jpegenc`.
    pub fn new(quality: u32) -> Result<Jpeg, Fault> {
        gst::init().map_err(|e| broken(&e.to_string()))?;
        let line = format!(
            "appsrc name=show format=time ! jpegenc quality={quality} idct-method=ifast ! appsink name=sink sync=false enable-last-sample=false"
        );
        let pipeline = gst::parse::launch(&line)
            .map_err(|e| broken(e.message()))?
            .downcast::<gst::Pipeline>()
            .map_err(|_| broken("its line is no pipeline"))?;
        let named = |name: &str| pipeline.by_name(name).ok_or_else(|| broken("its line lost an element"));
        let src = named("show")?.downcast().map_err(|_| broken("it has no appsrc"))?;
        let sink = named("sink")?.downcast().map_err(|_| broken("it has no appsink"))?;
        // From here on an early return must stop the pipeline first: `Jpeg` does.
        let jpeg = Jpeg { pipeline, src, sink, size: None };
        jpeg.pipeline.set_state(gst::State::Playing).map_err(|_| broken("it does not start"))?;
        Ok(jpeg)
    }

    /// Encodes one picture, which has the colours of JPEG.
    ///
    /// # Errors
    /// When the encoder fails; make a new one then.
    pub fn encode(&mut self, canvas: Canvas) -> Result<Bytes, Fault> {
        debug_assert_eq!(canvas.colour(), Colour::JPEG);
        let size = canvas.size();
        if self.size.replace(size) != Some(size) {
            self.src.set_caps(Some(&caps(&canvas, gst::Fraction::new(0, 1))));
        }
        let mut buffer = gst::Buffer::from_mut_slice(canvas.into_bytes());
        buffer.make_mut().set_pts(gst::ClockTime::ZERO);
        self.src.push_buffer(buffer).map_err(|_| broken("it takes no picture"))?;
        let patience = gst::ClockTime::from_nseconds(PATIENCE.as_nanos() as u64);
        let sample = self.sink.try_pull_sample(patience).ok_or_else(|| broken("it does not answer"))?;
        let buffer = sample.buffer().ok_or_else(|| broken("it returns nothing"))?;
        let bytes = buffer.map_readable().map_err(|_| broken("it returns nothing that can be read"))?;
        Ok(Bytes::copy_from_slice(&bytes))
    }
}

impl Drop for Jpeg {
    fn drop(&mut self) {
        // Fails only for elements that already failed; there is nothing left to stop then.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// What a canvas is, for GStreamer.
pub(super) fn caps(canvas: &Canvas, rate: gst::Fraction) -> gst::Caps {
    use crate::device::software::preprocess::{Matrix, Range};
    let Colour { matrix, range } = canvas.colour();
    // GstVideoColorimetry's numbers: range, matrix; transfer and primaries are not known.
    let range = if range == Range::Full { 1 } else { 2 };
    let matrix = match matrix {
        Matrix::Bt709 => 3,
        Matrix::Bt601 => 4,
        Matrix::Bt2020 => 6,
    };
    gst::Caps::builder("video/x-raw")
        .field("format", "I420")
        .field("width", canvas.size().width as i32)
        .field("height", canvas.size().height as i32)
        .field("framerate", rate)
        .field("colorimetry", format!("{range}:{matrix}:0:0"))
        .build()
}

fn broken(what: &str) -> Fault {
    Fault::new(Who::Device, "jpeg", format!("the JPEG encoder: {what}"))
        .remedy("weir needs gstreamer1.0-plugins-good")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::canvas::paint::Painter;
    use crate::flow::draw::{Cover, DrawList};

    #[test]
    fn a_picture_of_any_size_comes_back_as_it_was() {
        let mut jpeg = Jpeg::new(90).expect("GStreamer is installed");
        for (width, height) in [(64, 48), (854, 480), (102, 50), (64, 48)] {
            let size = Size { width, height };
            let mut canvas = Canvas::blank(size, Colour::JPEG);
            let (right, bottom) = (width as f32 / 2.0, height as f32);
            let polygon = vec![[0.0, 0.0], [right, 0.0], [right, bottom], [0.0, bottom]];
            let cover = Cover { polygon, how: crate::config::Hide::Fill };
            Painter::default()
                .cover(&DrawList { size, covers: vec![cover], marks: vec![], legend: vec![] }, &mut canvas);
            let bytes = jpeg.encode(canvas).expect("it encodes");
            let picture = image::load_from_memory(&bytes).expect("a whole JPEG").to_rgb8();
            assert_eq!((picture.width(), picture.height()), (width, height));
            let (black, grey) = (picture.get_pixel(width / 4, 20), picture.get_pixel(width * 3 / 4, 20));
            assert!(black.0.iter().all(|c| *c < 8), "{black:?}");
            assert!(grey.0.iter().all(|c| c.abs_diff(48) < 6), "{grey:?}");
        }
    }
}
