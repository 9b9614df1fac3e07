//! What a stream says of itself before its first picture, and when it changes.

use super::super::cuvid::VideoFormat;
use super::MOST_SURFACES;
use crate::device::software::preprocess::{Matrix, Range};
use crate::frame::Size;

/// Surfaces beyond those that the stream needs, so that decoding need not wait for copying.
const SPARE_SURFACES: u8 = 3;

/// All that a decoder is made for; another one needs another decoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sequence {
    pub coded: (u32, u32),
    /// Left, top, right, bottom of what is shown.
    pub shown: [i32; 4],
    pub chroma: u32,
    pub depth_minus8: u32,
    pub progressive: bool,
    pub surfaces: u8,
    pub matrix: Matrix,
    pub range: Range,
}

impl Sequence {
    pub fn new(format: &VideoFormat) -> Sequence {
        let [left, top, right, bottom] = format.display_area;
        let (width, height) = (format.coded_width as i32, format.coded_height as i32);
        // A stream that shows nothing, or more than there is, is shown whole.
        let sound =
            left >= 0 && top >= 0 && right > left && bottom > top && right <= width && bottom <= height;
        let shown = if sound { format.display_area } else { [0, 0, width, height] };
        // ITU-T H.273, table 4. Nothing said: BT.709 above 576 lines, as players do.
        let matrix = match format.matrix_coefficients {
            1 => Matrix::Bt709,
            4..=6 => Matrix::Bt601,
            9 | 10 => Matrix::Bt2020,
            _ if shown[3] - shown[1] > 576 => Matrix::Bt709,
            _ => Matrix::Bt601,
        };
        Sequence {
            coded: (format.coded_width, format.coded_height),
            shown,
            chroma: format.chroma_format,
            depth_minus8: u32::from(format.bit_depth_luma_minus8.max(format.bit_depth_chroma_minus8)),
            progressive: format.progressive_sequence != 0,
            surfaces: format.min_num_decode_surfaces.saturating_add(SPARE_SURFACES).min(MOST_SURFACES as u8),
            matrix,
            range: if format.signal & 8 != 0 { Range::Full } else { Range::Limited },
        }
    }

    /// Of what is shown.
    pub fn size(&self) -> Size {
        let [left, top, right, bottom] = self.shown;
        Size { width: (right - left).unsigned_abs(), height: (bottom - top).unsigned_abs() }
    }

    /// Of the surface: NV12 has whole chroma samples.
    pub fn target(&self) -> (u64, u64) {
        let Size { width, height } = self.size();
        (u64::from(width.next_multiple_of(2)), u64::from(height.next_multiple_of(2)))
    }
}
