//! A decoded picture in host memory, as the decoder left it.

use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;

use super::preprocess::{ChromaSite, Geometry, Matrix, PixelFormat, Planes, Range};
use crate::fault::{Fault, Who};
use crate::flow::still::{self, Grid};
use crate::frame::{Size, Still};

/// One picture: the decoder's own buffer, mapped and not copied, freed to the decoder's pool on drop; or a still's planes.
pub struct Pixels {
    store: Store,
    geometry: Geometry,
}

#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are the larger one, which a box would cost an allocation each"
)]
enum Store {
    Decoder(gst_video::VideoFrame<gst_video::video_frame::Readable>),
    Still(Vec<u8>),
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
    pub fn map(
        buffer: gst::Buffer,
        info: &gst_video::VideoInfo,
        chroma: ChromaSite,
    ) -> Result<Pixels, Fault> {
        let geometry = geometry(info, chroma)?;
        let frame = gst_video::VideoFrame::from_buffer_readable(buffer, info).map_err(|_| {
            Fault::new(Who::Camera, "bad_picture", format!("a {geometry:?} picture does not fit its buffer"))
        })?;
        Ok(Pixels { store: Store::Decoder(frame), geometry })
    }

    /// A still picture, not copied.
    pub fn still(still: Still) -> Pixels {
        let geometry = Geometry::of_still(still.size);
        Pixels { store: Store::Still(still.i420), geometry }
    }

    /// Whether it came as a still, not from a camera.
    pub fn is_still(&self) -> bool {
        matches!(self.store, Store::Still(_))
    }

    /// What the planes hold.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// For the motion gate.
    pub fn luma_grid(&self) -> Option<Grid> {
        let (planes, size) = (self.planes(), self.geometry.size);
        still::grid(planes.data[0], size.width as usize, size.height as usize, planes.stride[0])
    }

    /// The planes.
    pub fn planes(&self) -> Planes<'_> {
        match &self.store {
            Store::Decoder(frame) => {
                let plane = |i: u32| frame.plane_data(i).unwrap_or_default();
                let strides = frame.plane_stride();
                let stride = |i: usize| strides.get(i).map_or(0, |s| usize::try_from(*s).unwrap_or(0));
                Planes { data: [plane(0), plane(1), plane(2)], stride: [stride(0), stride(1), stride(2)] }
            }
            Store::Still(bytes) => {
                let (width, (half, rows)) =
                    (self.geometry.size.width as usize, Still::half(self.geometry.size));
                // A buffer that is too short gives short planes, which the preprocess refuses.
                let (y, chroma) = bytes
                    .split_at_checked(width * self.geometry.size.height as usize)
                    .unwrap_or((bytes.as_slice(), &[]));
                let (u, v) = chroma.split_at_checked(half * rows).unwrap_or((chroma, &[]));
                Planes { data: [y, u, v], stride: [width, half, half] }
            }
        }
    }
}

/// What the caps say about a picture.
///
/// # Errors
/// For a format that the pipelines do not ask for.
fn geometry(info: &gst_video::VideoInfo, chroma: ChromaSite) -> Result<Geometry, Fault> {
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
        // Nothing said: GStreamer has filled in BT.709 above 576 lines, as players do.
        _ if info.height() > 576 => Matrix::Bt709,
        _ => Matrix::Bt601,
    };
    let range = match colorimetry.range() {
        gst_video::VideoColorRange::Range0_255 => Range::Full,
        _ => Range::Limited,
    };
    let size = Size { width: info.width(), height: info.height() };
    Ok(Geometry { size, format, matrix, range, chroma })
}

/// Where the stream's chroma samples lie, from its caps. Not from `VideoInfo`: GStreamer 1.22 overwrites the caps' `chroma-site` there
/// with a default of its own when they name no colorimetry. Where nothing is said, JPEG has them in the centre
/// (JFIF 1.02), and MPEG codecs at the left (ITU-T H.264, chroma_sample_loc_type 0).
pub fn chroma_site(caps: &gst::CapsRef, codec: &str) -> ChromaSite {
    let said = caps.structure(0).and_then(|s| s.get::<&str>("chroma-site").ok());
    match said {
        Some(site) if site.starts_with("mpeg2") || site.starts_with("dv") || site.starts_with("cosited") => {
            ChromaSite::Left
        }
        Some(_) => ChromaSite::Center,
        None if codec == "mjpeg" => ChromaSite::Center,
        None => ChromaSite::Left,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caps_say_where_chroma_lies() {
        gst::init().expect("GStreamer is installed");
        let caps = |extra: &str| {
            let text = format!("video/x-raw,format=I420,width=768,height=576,framerate=25/1{extra}");
            text.parse::<gst::Caps>().expect("valid caps")
        };
        assert_eq!(chroma_site(&caps(",chroma-site=mpeg2"), "h264"), ChromaSite::Left);
        assert_eq!(chroma_site(&caps(",chroma-site=jpeg"), "h264"), ChromaSite::Center);
        assert_eq!(chroma_site(&caps(""), "h264"), ChromaSite::Left);
        assert_eq!(chroma_site(&caps(""), "mjpeg"), ChromaSite::Center);
    }
}
