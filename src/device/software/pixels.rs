//! A decoded picture in host memory, as the decoder left it.

use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;

use super::preprocess::{ChromaSite, Geometry, Matrix, PixelFormat, Planes, Range};
use crate::fault::{Fault, Who};
use crate::frame::Size;

/// One picture: the decoder's own buffer, mapped and not copied. Freed to the decoder's pool on drop.
pub struct Pixels {
    frame: gst_video::VideoFrame<gst_video::video_frame::Readable>,
    geometry: Geometry,
}

impl std::fmt::Debug for Pixels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pixels({:?})", self.geometry)
    }
}

impl Pixels {
    /// Maps a buffer.
    ///
    /// # Errors
    /// When the buffer does not hold what its caps say.
    pub fn map(buffer: gst::Buffer, info: &gst_video::VideoInfo) -> Result<Pixels, Fault> {
        let geometry = geometry(info)?;
        let frame = gst_video::VideoFrame::from_buffer_readable(buffer, info).map_err(|_| {
            Fault::new(Who::Camera, "bad_picture", format!("a {geometry:?} picture does not fit its buffer"))
        })?;
        Ok(Pixels { frame, geometry })
    }

    /// What the planes hold.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The planes.
    pub fn planes(&self) -> Planes<'_> {
        let plane = |i: u32| self.frame.plane_data(i).unwrap_or_default();
        let strides = self.frame.plane_stride();
        let stride = |i: usize| strides.get(i).map_or(0, |s| usize::try_from(*s).unwrap_or(0));
        Planes { data: [plane(0), plane(1), plane(2)], stride: [stride(0), stride(1), stride(2)] }
    }
}

/// What the caps say about a picture.
///
/// # Errors
/// For a format that the pipelines do not ask for.
pub fn geometry(info: &gst_video::VideoInfo) -> Result<Geometry, Fault> {
    let format = match info.format() {
        gst_video::VideoFormat::I420 => PixelFormat::I420,
        gst_video::VideoFormat::Nv12 => PixelFormat::Nv12,
        other => {
            return Err(Fault::new(
                Who::Camera,
                "bad_format",
                format!("the pipeline delivers {other:?}; weir reads I420 and NV12"),
            )
            .remedy("end the pipeline description in `videoconvert ! video/x-raw,format={I420,NV12} ! appsink name=frames`"));
        }
    };
    let colorimetry = info.colorimetry();
    let matrix = match colorimetry.matrix() {
        gst_video::VideoColorMatrix::Bt601 | gst_video::VideoColorMatrix::Fcc => Matrix::Bt601,
        gst_video::VideoColorMatrix::Bt709 => Matrix::Bt709,
        gst_video::VideoColorMatrix::Bt2020 => Matrix::Bt2020,
        // Nothing said: what ITU-R BT.709 §1 and every player assume from the height.
        _ if info.height() >= 720 => Matrix::Bt709,
        _ => Matrix::Bt601,
    };
    let range = match colorimetry.range() {
        gst_video::VideoColorRange::Range0_255 => Range::Full,
        _ => Range::Limited,
    };
    let chroma = if info.chroma_site().contains(gst_video::VideoChromaSite::H_COSITED) {
        ChromaSite::Left
    } else {
        ChromaSite::Center
    };
    let size = Size { width: info.width(), height: info.height() };
    Ok(Geometry { size, format, matrix, range, chroma })
}
