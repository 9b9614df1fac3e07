//! A picture in host memory to paint on: a copy of a camera's picture, perhaps smaller, as 8 bits 4:2:0.
//!
//! Its memory is laid out as GStreamer lays out I420, so that an encoder takes it without another copy. What is painted
//! is decided in [`crate::flow::draw`]; how, in [`paint`].

pub mod paint;
mod text;

use super::software::preprocess::{Geometry, Matrix, PixelFormat, Planes, Range};
use crate::flow::draw::Rgb;
use crate::frame::Size;

/// How numbers mean colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour {
    /// Which luma weights.
    pub matrix: Matrix,
    /// Which codes are black and white.
    pub range: Range,
}

impl Colour {
    /// What every reader of JPEG expects (JFIF 1.02).
    pub const JPEG: Colour = Colour { matrix: Matrix::Bt601, range: Range::Full };

    /// Weights of red and blue in luma (ITU-T H.273, table 4).
    fn weights(self) -> (f32, f32) {
        match self.matrix {
            Matrix::Bt601 => (0.299, 0.114),
            Matrix::Bt709 => (0.2126, 0.0722),
            Matrix::Bt2020 => (0.2627, 0.0593),
        }
    }

    /// Black's luma code, and codes per unit of luma and of chroma.
    fn scale(self) -> (f32, f32, f32) {
        match self.range {
            Range::Limited => (16.0, 219.0, 224.0),
            Range::Full => (0.0, 255.0, 255.0),
        }
    }

    /// The codes of a colour.
    pub fn yuv(self, Rgb(r, g, b): Rgb) -> [u8; 3] {
        let [r, g, b] = [r, g, b].map(|part| f32::from(part) / 255.0);
        let (kr, kb) = self.weights();
        let y = kr * r + (1.0 - kr - kb) * g + kb * b;
        let (u, v) = ((b - y) / (2.0 * (1.0 - kb)), (r - y) / (2.0 * (1.0 - kr)));
        let (black, luma, chroma) = self.scale();
        [black + luma * y, 128.0 + chroma * u, 128.0 + chroma * v].map(|code| code.round() as u8)
    }
}

/// A picture of an even number of columns and rows.
#[derive(Clone, Debug)]
pub struct Canvas {
    size: Size,
    colour: Colour,
    data: Vec<u8>,
}

/// Where a plane lies in the canvas.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    stride: usize,
    width: usize,
    height: usize,
}

impl Canvas {
    /// A grey picture. Its size is that of `size` rounded down to even, at least 2×2.
    pub fn blank(size: Size, colour: Colour) -> Canvas {
        let size = even(size);
        let [y, u, _] = places(size);
        let mut data = vec![128; u.start + 2 * u.stride * u.height];
        data[..y.stride * y.height].fill(colour.yuv(Rgb(48, 48, 48))[0]);
        Canvas { size, colour, data }
    }

    /// A copy of a picture, at most `width` columns wide, in the colours of `colour` (`None`: in its own). `None`: the
    /// planes are too short for what they should hold.
    pub fn copy(
        planes: &Planes<'_>,
        geometry: &Geometry,
        width: Option<u32>,
        colour: Option<Colour>,
    ) -> Option<Canvas> {
        let own = Colour { matrix: geometry.matrix, range: geometry.range };
        let size = even(fit(geometry.size, width));
        let [y, u, v] = places(size);
        let mut data = vec![0; u.start + 2 * u.stride * u.height];
        let (wide, high) = (geometry.size.width as usize, geometry.size.height as usize);
        let (half_wide, half_high) = (wide.div_ceil(2), high.div_ceil(2));
        let plane = |i: usize, width, height| Source {
            data: planes.data[i],
            stride: planes.stride[i],
            width,
            height,
            step: 1,
        };
        let mut sources =
            [plane(0, wide, high), plane(1, half_wide, half_high), plane(2, half_wide, half_high)];
        if geometry.format == PixelFormat::Nv12 {
            sources[1].step = 2;
            sources[2] = Source { data: planes.data[1].get(1..)?, ..sources[1] };
        }
        for (source, place) in sources.iter().zip([y, u, v]) {
            source.shrink(&mut data[place.start..], place)?;
        }
        let mut canvas = Canvas { size, colour: own, data };
        if let Some(colour) = colour {
            canvas.recolour(colour);
        }
        Some(canvas)
    }

    /// Its size.
    pub fn size(&self) -> Size {
        self.size
    }

    /// What its numbers mean.
    pub fn colour(&self) -> Colour {
        self.colour
    }

    /// Its bytes, as GStreamer lays out I420.
    pub fn into_bytes(self) -> Vec<u8> {
        self.data
    }

    /// Y, U and V at a pixel.
    #[cfg(test)]
    fn at(&self, x: usize, y: usize) -> [u8; 3] {
        let [luma, u, v] = places(self.size);
        let chroma = |place: Place| self.data[place.start + y / 2 * place.stride + x / 2];
        [self.data[y * luma.stride + x], chroma(u), chroma(v)]
    }

    /// Y, U and V.
    fn planes_mut(&mut self) -> [(&mut [u8], Place); 3] {
        let [y, u, v] = places(self.size);
        let (luma, chroma) = self.data.split_at_mut(u.start);
        let (cb, cr) = chroma.split_at_mut(v.start - u.start);
        [(luma, y), (cb, u), (cr, v)]
    }

    /// The same picture in other numbers.
    fn recolour(&mut self, to: Colour) {
        if self.colour == to {
            return;
        }
        let from = std::mem::replace(&mut self.colour, to);
        let conversion = Conversion::new(from, to);
        let width = self.size.width as usize;
        let mut shifts = vec![0i16; width];
        let [(luma, y), (cb, u), (cr, v)] = self.planes_mut();
        for row in 0..u.height {
            let us = &mut cb[row * u.stride..][..u.width];
            let vs = &mut cr[row * v.stride..][..v.width];
            for ((pair, u), v) in shifts.chunks_exact_mut(2).zip(&*us).zip(&*vs) {
                pair.fill(conversion.shift(*u, *v));
            }
            for row in [2 * row, 2 * row + 1] {
                let line = &mut luma[row * y.stride..][..width];
                for (code, shift) in line.iter_mut().zip(&shifts) {
                    *code = conversion.luma(*code, *shift);
                }
            }
            for (u, v) in us.iter_mut().zip(vs) {
                (*u, *v) = conversion.chroma(*u, *v);
            }
        }
    }
}

/// A linear map of codes, in 16 bits so that the compiler makes vector instructions of it. Factors are less than 2, in
/// 2⁻¹⁴; sums are in 2⁻⁴.
struct Conversion {
    black: i16,
    to_black: i16,
    luma: i16,
    shift: [i16; 2],
    cb: [i16; 2],
    cr: [i16; 2],
}

impl Conversion {
    fn new(from: Colour, to: Colour) -> Conversion {
        let ((kr, kb), (to_kr, to_kb)) = (from.weights(), to.weights());
        let ((black, luma, chroma), (to_black, to_luma, to_chroma)) = (from.scale(), to.scale());
        // Where one unit of chroma alone leads to: luma, chroma.
        let lead = |u: f32, v: f32| {
            let (r, b) = (2.0 * (1.0 - kr) * v, 2.0 * (1.0 - kb) * u);
            let g = -(kr * r + kb * b) / (1.0 - kr - kb);
            let y = to_kr * r + (1.0 - to_kr - to_kb) * g + to_kb * b;
            (y, (b - y) / (2.0 * (1.0 - to_kb)), (r - y) / (2.0 * (1.0 - to_kr)))
        };
        let (by_u, by_v) = (lead(1.0, 0.0), lead(0.0, 1.0));
        let fixed = |value: f32| (value * 16384.0).round() as i16;
        let (y, c) = (to_luma / chroma, to_chroma / chroma);
        Conversion {
            black: black as i16,
            // With the half that rounds.
            to_black: to_black as i16 * 16 + 8,
            luma: fixed(to_luma / luma),
            shift: [fixed(by_u.0 * y), fixed(by_v.0 * y)],
            cb: [fixed(by_u.1 * c), fixed(by_v.1 * c)],
            cr: [fixed(by_u.2 * c), fixed(by_v.2 * c)],
        }
    }

    /// A code, less its zero, times a factor; in 2⁻⁴.
    #[inline(always)]
    fn times(code: i16, factor: i16) -> i16 {
        ((i32::from(code << 6) * i32::from(factor)) >> 16) as i16
    }

    /// What a chroma sample does to luma.
    #[inline(always)]
    fn shift(&self, u: u8, v: u8) -> i16 {
        let (u, v) = (i16::from(u) - 128, i16::from(v) - 128);
        Self::times(u, self.shift[0]) + Self::times(v, self.shift[1]) + self.to_black
    }

    #[inline(always)]
    fn luma(&self, code: u8, shift: i16) -> u8 {
        ((Self::times(i16::from(code) - self.black, self.luma) + shift) >> 4).clamp(0, 255) as u8
    }

    #[inline(always)]
    fn chroma(&self, u: u8, v: u8) -> (u8, u8) {
        let (u, v) = (i16::from(u) - 128, i16::from(v) - 128);
        let code = |by: [i16; 2]| {
            let sum = Self::times(u, by[0]) + Self::times(v, by[1]);
            ((sum + (128 << 4) + 8) >> 4).clamp(0, 255) as u8
        };
        (code(self.cb), code(self.cr))
    }
}

/// A plane to read.
#[derive(Clone, Copy)]
struct Source<'a> {
    data: &'a [u8],
    stride: usize,
    width: usize,
    height: usize,
    /// Bytes from sample to sample.
    step: usize,
}

impl Source<'_> {
    fn row(&self, y: usize) -> Option<&[u8]> {
        self.data.get(y * self.stride..)?.get(..(self.width - 1) * self.step + 1)
    }

    /// Each sample of the target is the mean of those that it stands for; with one for each, this is a copy.
    fn shrink(&self, target: &mut [u8], place: Place) -> Option<()> {
        let (width, height) = (place.width, place.height);
        if self.width == 0 || self.height == 0 {
            return None;
        }
        // An odd picture loses its last column and row to 4:2:0.
        if self.width - width <= 1 && self.height - height <= 1 {
            for y in 0..height {
                let (row, line) = (self.row(y)?, &mut target[y * place.stride..][..width]);
                match self.step {
                    1 => line.copy_from_slice(&row[..width]),
                    step => line.iter_mut().zip(row.iter().step_by(step)).for_each(|(to, from)| *to = *from),
                }
            }
            return Some(());
        }
        let columns: Vec<usize> = (0..=width).map(|x| x * self.width / width).collect();
        let narrow = self.width / width;
        let mut sums = vec![0u32; self.width];
        for y in 0..height {
            let (first, last) = (y * self.height / height, (y + 1) * self.height / height);
            sums.fill(0);
            for line in first..last {
                let row = self.row(line)?;
                if self.step == 1 {
                    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += u32::from(*value));
                } else {
                    let row = row.iter().step_by(self.step);
                    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += u32::from(*value));
                }
            }
            // Columns are of two widths: two divisions a row, not one a sample.
            let parts = [0, 1].map(|more| (1u64 << 32) / ((narrow + more) * (last - first)) as u64 + 1);
            for (to, ends) in target[y * place.stride..][..width].iter_mut().zip(columns.windows(2)) {
                let sum: u32 = sums[ends[0]..ends[1]].iter().sum();
                *to = ((u64::from(sum) * parts[ends[1] - ends[0] - narrow] + (1 << 31)) >> 32) as u8;
            }
        }
        Some(())
    }
}

fn even(size: Size) -> Size {
    Size { width: (size.width & !1).max(2), height: (size.height & !1).max(2) }
}

/// The size of a picture that is at most so wide, in the same shape.
pub fn fit(size: Size, width: Option<u32>) -> Size {
    match width.filter(|width| *width < size.width) {
        Some(width) => {
            let height = u64::from(size.height) * u64::from(width) / u64::from(size.width.max(1));
            Size { width, height: u32::try_from(height).unwrap_or(size.height) }
        }
        None => size,
    }
}

/// Y, U and V of an I420 picture as GStreamer's `GstVideoInfo` places them: rows start at multiples of four bytes.
fn places(size: Size) -> [Place; 3] {
    let (width, height) = (size.width as usize, size.height as usize);
    let y = Place { start: 0, stride: width.next_multiple_of(4), width, height };
    let half = Place {
        start: y.stride * height,
        stride: (width / 2).next_multiple_of(4),
        width: width / 2,
        height: height / 2,
    };
    [y, half, Place { start: half.start + half.stride * half.height, ..half }]
}

#[cfg(test)]
mod tests {
    use super::super::software::preprocess::ChromaSite;
    use super::*;
    use crate::flow::draw::{BLACK, WHITE};

    const SD: Colour = Colour { matrix: Matrix::Bt601, range: Range::Limited };
    const HD: Colour = Colour { matrix: Matrix::Bt709, range: Range::Limited };

    fn geometry(size: Size, colour: Colour) -> Geometry {
        let Colour { matrix, range } = colour;
        Geometry { size, format: PixelFormat::I420, matrix, range, chroma: ChromaSite::Left }
    }

    fn plain(size: Size, [y, u, v]: [u8; 3]) -> [Vec<u8>; 3] {
        let (luma, chroma) = (size.width * size.height, size.width.div_ceil(2) * size.height.div_ceil(2));
        [vec![y; luma as usize], vec![u; chroma as usize], vec![v; chroma as usize]]
    }

    fn copy(
        planes: &[Vec<u8>; 3],
        size: Size,
        from: Colour,
        width: Option<u32>,
        to: Option<Colour>,
    ) -> Canvas {
        let half = size.width.div_ceil(2) as usize;
        let planes =
            Planes { data: [&planes[0], &planes[1], &planes[2]], stride: [size.width as usize, half, half] };
        Canvas::copy(&planes, &geometry(size, from), width, to).expect("the planes are long enough")
    }

    #[test]
    fn codes_are_those_of_the_standards() {
        assert_eq!((SD.yuv(BLACK), SD.yuv(WHITE)), ([16, 128, 128], [235, 128, 128]));
        // BT.601 and BT.709 colour bars, as any vectorscope shows them.
        assert_eq!((SD.yuv(Rgb(255, 0, 0)), HD.yuv(Rgb(255, 0, 0))), ([81, 90, 240], [63, 102, 240]));
        assert_eq!(Colour::JPEG.yuv(Rgb(0, 0, 255))[0], 29);
    }

    #[test]
    fn a_colour_stays_the_same_in_other_numbers() {
        let size = Size { width: 16, height: 8 };
        for colour in [Rgb(255, 0, 0), Rgb(10, 200, 30), Rgb(128, 128, 128), WHITE, BLACK] {
            for (from, to) in [(HD, Colour::JPEG), (SD, Colour::JPEG), (HD, SD), (Colour::JPEG, HD)] {
                let canvas = copy(&plain(size, from.yuv(colour)), size, from, None, Some(to));
                let (got, wanted) = (canvas.at(5, 3), to.yuv(colour));
                // Codes are rounded before and after.
                assert!(
                    got.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) <= 2),
                    "{colour:?} {got:?} {wanted:?}"
                );
            }
        }
    }

    #[test]
    fn a_smaller_copy_holds_means_and_keeps_the_shape() {
        let size = Size { width: 6, height: 4 };
        let mut planes = plain(size, [0, 100, 200]);
        planes[0].copy_from_slice(&[
            0, 20, 40, 40, 80, 100, //
            20, 40, 40, 40, 100, 120, //
            9, 9, 9, 9, 9, 9, //
            9, 9, 9, 9, 9, 11,
        ]);
        let canvas = copy(&planes, size, SD, Some(3), None);
        assert_eq!(canvas.size(), Size { width: 2, height: 2 });
        let canvas = copy(&planes, size, SD, Some(6), None);
        assert_eq!((canvas.size(), canvas.at(5, 1)), (size, [120, 100, 200]));
        let wide = Size { width: 12, height: 4 };
        let canvas = copy(&plain(wide, [7, 8, 9]), wide, SD, Some(6), None);
        assert_eq!((canvas.size(), canvas.at(3, 1)), (Size { width: 6, height: 2 }, [7, 8, 9]));
        let mut planes = plain(wide, [7, 8, 9]);
        planes[0][..24].fill(10);
        planes[0][0] = 30;
        let canvas = copy(&planes, wide, SD, Some(6), None);
        assert_eq!((canvas.at(0, 0)[0], canvas.at(1, 0)[0], canvas.at(0, 1)[0]), (15, 10, 7));
    }

    #[test]
    fn odd_pictures_and_interleaved_chroma_are_read() {
        let size = Size { width: 5, height: 3 };
        let canvas = copy(&plain(size, [1, 2, 3]), size, SD, None, None);
        assert_eq!((canvas.size(), canvas.at(3, 1)), (Size { width: 4, height: 2 }, [1, 2, 3]));
        let size = Size { width: 4, height: 2 };
        let planes = Planes { data: [&[9; 8], &[10, 20, 11, 21], &[]], stride: [4, 4, 0] };
        let geometry = Geometry { format: PixelFormat::Nv12, ..geometry(size, SD) };
        let canvas = Canvas::copy(&planes, &geometry, None, None).expect("long enough");
        assert_eq!((canvas.at(1, 1), canvas.at(3, 0)), ([9, 10, 20], [9, 11, 21]));
        let short = Planes { data: [&[9; 7], &[10, 20, 11, 21], &[]], ..planes };
        assert!(Canvas::copy(&short, &geometry, None, None).is_none());
    }
}
