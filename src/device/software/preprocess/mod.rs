//! From decoded YUV planes straight into one slot of the batch's f32 input tensor: resize, colour
//! matrix, normalisation and layout in one pass, with no full-size RGB picture between.
//!
//! For each tensor row, the vertical taps gather source rows of Y, U and V (each in its own
//! geometry) into one row that stays in the cache; the horizontal taps shrink that row to the
//! tensor's width; colour, mean and std are applied to what is left. When the picture shrinks, each
//! source row is read once and serves two tensor rows ([`Stretches`]).
//!
//! The filter is a triangle whose radius grows with the shrink factor (Pillow's `BILINEAR`, torch's
//! `antialias=True`): every source sample counts, so nothing aliases. When it enlarges it is plain
//! bilinear. At the picture's edge the taps that fall outside are left out and the rest reweighted.
//! RGB is clamped to 0..=255 but not rounded.
//!
//! Reading a decoder's frame into [`Planes`] does not belong here, nor does the batch's memory.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod axis;
mod kernel;

use crate::fault::{Fault, Who};
use crate::frame::Size;
use crate::model::spec::{Channels, InputSpec, Layout, Placement, Resize};

use axis::{Axis, Stretches};
use kernel::{Isa, Portable};

/// How the samples lie in memory: 8 bits, 4:2:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// Three planes: Y, U, V.
    I420,
    /// Two planes: Y, then U and V interleaved.
    Nv12,
}

/// Which luma weights made Y, U and V out of RGB (ITU-T H.273, table 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Matrix {
    /// SD and most JPEG.
    Bt601,
    /// HD.
    Bt709,
    /// UHD, non-constant luminance.
    Bt2020,
}

/// Which codes are black and white.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Range {
    /// Y 16..=235, U and V 16..=240.
    Limited,
    /// All of 0..=255.
    Full,
}

/// Where a chroma sample lies among its four luma samples. Vertically it is always halfway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChromaSite {
    /// In the column of the left two: MPEG-2, H.264 and H.265 unless they say otherwise.
    Left,
    /// In the middle: JPEG, MPEG-1.
    Center,
}

/// All that the tables of a [`Plan`] depend on, on the picture's side: the key of a plan cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Size of the picture, which is that of Y. U and V have half, rounded up, of each.
    pub size: Size,
    /// Planes.
    pub format: PixelFormat,
    /// Colour.
    pub matrix: Matrix,
    /// Black and white.
    pub range: Range,
    /// Siting.
    pub chroma: ChromaSite,
}

impl Geometry {
    /// That of every [`crate::frame::Still`] of this size.
    pub fn of_still(size: Size) -> Geometry {
        Geometry {
            size,
            format: PixelFormat::I420,
            matrix: Matrix::Bt601,
            range: Range::Full,
            chroma: ChromaSite::Center,
        }
    }
}

/// A decoded picture where it lies. Each row starts `stride` bytes after the one before; the bytes
/// between a row's end and the next row's start are never read.
#[derive(Clone, Copy)]
pub struct Planes<'a> {
    /// Y, U, V; or Y, UV and nothing for NV12.
    pub data: [&'a [u8]; 3],
    /// Bytes from row to row.
    pub stride: [usize; 3],
}

/// One output channel, mean and std included, as a function of y, u, v:
/// `clamp(y·k[0] + u·k[1] + v·k[2] + k[3], low, high)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel {
    pub(crate) k: [f32; 4],
    /// What RGB 0 and 255 become, the smaller one first.
    pub(crate) low: f32,
    pub(crate) high: f32,
}

impl Channel {
    /// For y, u and v in units of their own, as [`kernel`] leaves them.
    #[inline(always)]
    fn of_units(&self, [y, c]: [f32; 2]) -> Channel {
        let [ky, ku, kv, zero] = self.k;
        Channel { k: [ky / y, ku / c, kv / c, zero], ..*self }
    }
}

/// Where the picture lies in the tensor, in whole tensor pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// How to bring pictures of one [`Geometry`] into the tensor of one [`InputSpec`]: weight tables, and
/// the rows to work in. Making one costs far more than running it: keep it.
#[derive(Debug)]
pub struct Plan {
    geometry: Geometry,
    /// Tensor columns and rows.
    tensor: (usize, usize),
    layout: Layout,
    rect: Rect,
    luma: Tables,
    chroma: Tables,
    channels: [Channel; 3],
    /// The bars' value, per channel.
    pad: [f32; 3],
    /// The CPU's vector instructions, if we have loops for them.
    #[cfg(target_arch = "x86_64")]
    avx2: Option<pulp::x86::V3>,
    scratch: Scratch,
}

/// One plane's resampling.
#[derive(Debug)]
struct Tables {
    size: (usize, usize),
    columns: Axis,
    rows: Rows,
}

/// How the rows of a plane become rows of the tensor.
#[derive(Debug)]
enum Rows {
    /// Each from its own samples. Right for all sizes.
    Taps(Axis),
    /// From sums that neighbours share: much faster, for most shrinking.
    Shared(Stretches),
}

impl Rows {
    /// From `len_in` rows to `len_out`, of which i is centred on (i + ½) · `step`.
    fn new(len_in: usize, len_out: usize, step: f64) -> Rows {
        match Stretches::new(len_in, len_out, step) {
            Some(stretches) => Rows::Shared(stretches),
            None => Rows::Taps(Axis::new(len_in, len_out, step, 0.0)),
        }
    }

    /// Brings what is needed for row `row` of the tensor into `out`. Asked for each row in turn:
    /// `rising` carries from one to the next.
    #[inline(always)]
    fn take(&self, isa: impl Isa, plane: (&[u8], usize), row: usize, rising: &mut [i16], out: &mut [i16]) {
        match self {
            Rows::Taps(axis) => isa.mix(plane.0, plane.1, axis.at(row), out),
            Rows::Shared(stretches) => {
                if row == 0 {
                    // Finishes nothing: what it says of a row before the first is overwritten next.
                    isa.fold(plane.0, plane.1, stretches.until(0), rising, out);
                }
                isa.fold(plane.0, plane.1, stretches.until(row + 1), rising, out);
            }
        }
    }

    /// What one code of row `row` is after the horizontal taps too.
    #[inline(always)]
    fn unit(&self, row: usize) -> f32 {
        let unit = match self {
            Rows::Taps(_) => kernel::MIX_UNIT,
            Rows::Shared(stretches) => stretches.unit(row),
        };
        (unit * kernel::NARROW_UNIT) as f32
    }
}

/// Rows that `run` works in, so that it allocates nothing.
#[derive(Debug)]
struct Scratch {
    /// Y, U, V after the vertical taps.
    mixed: [Vec<i16>; 3],
    /// NV12's interleaved U and V after the vertical taps.
    pairs: Vec<i16>,
    /// Per plane, for [`Rows::take`].
    rising: [Vec<i16>; 3],
    /// Y, U, V after the horizontal taps.
    narrow: [Vec<f32>; 3],
}

impl Plan {
    /// Tables for pictures of `geometry` and the tensor of `input`. A picture or tensor without
    /// pixels is allowed: the slot, if any, is all padding.
    pub fn new(geometry: &Geometry, input: &InputSpec) -> Plan {
        let source = (geometry.size.width as usize, geometry.size.height as usize);
        let tensor = (input.width as usize, input.height as usize);
        let rect = place(source, tensor, input.resize);
        let half = (source.0.div_ceil(2), source.1.div_ceil(2));
        let step = (source.0 as f64 / rect.width.max(1) as f64, source.1 as f64 / rect.height.max(1) as f64);
        // A chroma sample of index j is centred on luma column 2j + 0.5 + ½ (center) or 2j + 0.5 (left);
        // in its own units, where it is centred on j + 0.5, the picture's origin is at 0 or at ¼.
        let shift = match geometry.chroma {
            ChromaSite::Left => 0.25,
            ChromaSite::Center => 0.0,
        };
        let luma = Tables {
            size: source,
            columns: Axis::new(source.0, rect.width, step.0, 0.0).padded(),
            rows: Rows::new(source.1, rect.height, step.1),
        };
        let chroma = Tables {
            size: half,
            columns: Axis::new(half.0, rect.width, step.0 / 2.0, shift).padded(),
            rows: Rows::new(half.1, rect.height, step.1 / 2.0),
        };
        let pairs = if geometry.format == PixelFormat::Nv12 { half.0 * 2 } else { 0 };
        let scratch = Scratch {
            mixed: [
                vec![0; source.0 + luma.columns.taps()],
                vec![0; half.0 + chroma.columns.taps()],
                vec![0; half.0 + chroma.columns.taps()],
            ],
            pairs: vec![0; pairs],
            // NV12's pairs use the second.
            rising: [vec![0; source.0], vec![0; half.0.max(pairs)], vec![0; half.0]],
            narrow: std::array::from_fn(|_| vec![0.0; rect.width]),
        };
        let channels = channels(geometry, input);
        Plan {
            geometry: *geometry,
            tensor,
            layout: input.layout,
            rect,
            luma,
            chroma,
            channels,
            pad: padding(input),
            #[cfg(target_arch = "x86_64")]
            avx2: pulp::x86::V3::try_new(),
            scratch,
        }
    }

    /// Where the picture lies in the tensor: to bring boxes back to source pixels.
    pub fn placement(&self) -> Placement {
        Placement {
            scale_x: self.rect.width as f32 / self.geometry.size.width.max(1) as f32,
            scale_y: self.rect.height as f32 / self.geometry.size.height.max(1) as f32,
            offset_x: self.rect.x as f32,
            offset_y: self.rect.y as f32,
        }
    }

    /// Writes the whole of `slot`, 3 × width × height of the tensor, bars included. Allocates nothing.
    ///
    /// # Errors
    /// A plane shorter than the geometry says (`planes`), or a slot of another length (`slot`).
    /// Nothing has been written then.
    pub fn run(&mut self, planes: &Planes<'_>, slot: &mut [f32]) -> Result<(), Fault> {
        self.check(planes)?;
        let wanted = 3 * self.tensor.0 * self.tensor.1;
        if slot.len() != wanted {
            let message = format!("the tensor slot holds {} values, not {wanted}", slot.len());
            return Err(Fault::new(Who::Bug, "slot", message));
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(isa) = self.avx2 {
            pulp::Simd::vectorize(isa, Pass { isa, plan: self, planes, slot });
            return Ok(());
        }
        pulp::Arch::new().dispatch(Pass { isa: Portable, plan: self, planes, slot });
        Ok(())
    }

    /// All reads stay inside the planes if this passes.
    fn check(&self, planes: &Planes<'_>) -> Result<(), Fault> {
        let ((width, height), half) = (self.luma.size, self.chroma.size);
        let shapes = match self.geometry.format {
            PixelFormat::I420 => [(width, height), half, half],
            PixelFormat::Nv12 => [(width, height), (half.0 * 2, half.1), (0, 0)],
        };
        for (i, (bytes, rows)) in shapes.into_iter().enumerate() {
            let (stride, have) = (planes.stride[i], planes.data[i].len());
            let last = rows.saturating_sub(1).checked_mul(stride).and_then(|n| n.checked_add(bytes));
            if rows > 0 && (stride < bytes || last.is_none_or(|need| have < need)) {
                let message = format!(
                    "plane {i} of a {} {:?} picture holds {have} bytes at a stride of {stride}: \
                     {rows} rows of {bytes} do not fit",
                    self.geometry.size, self.geometry.format
                );
                return Err(Fault::new(Who::Device, "planes", message));
            }
        }
        Ok(())
    }
}

/// The work of [`Plan::run`], compiled once for each instruction set.
struct Pass<'a, 'p, I> {
    isa: I,
    plan: &'a mut Plan,
    planes: &'a Planes<'p>,
    slot: &'a mut [f32],
}

impl<I: Isa> pulp::WithSimd for Pass<'_, '_, I> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _simd: S) {
        let Pass { isa, plan, planes, slot } = self;
        let rect = plan.rect;
        for y in 0..plan.tensor.1 {
            if y >= rect.y && y < rect.y + rect.height {
                plan.narrow_row(isa, planes, y - rect.y);
            }
            plan.store_row(slot, y);
        }
    }
}

impl Plan {
    /// Brings one row of Y, U, V to the tensor's width.
    #[inline(always)]
    fn narrow_row(&mut self, isa: impl Isa, planes: &Planes<'_>, row: usize) {
        let Scratch { mixed: [y, u, v], pairs, rising: [ry, ru, rv], narrow } = &mut self.scratch;
        let (luma, chroma) = (&self.luma, &self.chroma);
        let (wide, half) = (luma.size.0, chroma.size.0);
        let plane = |i: usize| (planes.data[i], planes.stride[i]);
        luma.rows.take(isa, plane(0), row, ry, &mut y[..wide]);
        match self.geometry.format {
            PixelFormat::I420 => {
                chroma.rows.take(isa, plane(1), row, &mut ru[..half], &mut u[..half]);
                chroma.rows.take(isa, plane(2), row, rv, &mut v[..half]);
            }
            PixelFormat::Nv12 => {
                chroma.rows.take(isa, plane(1), row, ru, pairs);
                kernel::split(pairs, &mut u[..half], &mut v[..half]);
            }
        }
        let [ny, nu, nv] = narrow;
        isa.narrow(y, &luma.columns, ny);
        isa.narrow(u, &chroma.columns, nu);
        isa.narrow(v, &chroma.columns, nv);
    }

    /// Writes one tensor row: bar, picture, bar; or all bar.
    #[inline(always)]
    fn store_row(&self, slot: &mut [f32], y: usize) {
        let (width, height) = self.tensor;
        let row = y.checked_sub(self.rect.y).filter(|&row| row < self.rect.height);
        let (left, right) = row.map_or((width, width), |_| (self.rect.x, self.rect.x + self.rect.width));
        let [ny, nu, nv] = &self.scratch.narrow;
        let yuv = [ny.as_slice(), nu, nv];
        let units = row.map_or([1.0; 2], |row| [self.luma.rows.unit(row), self.chroma.rows.unit(row)]);
        let channels = self.channels.each_ref().map(|channel| channel.of_units(units));
        match self.layout {
            Layout::Nchw => {
                for (c, channel) in channels.iter().enumerate() {
                    let out = &mut slot[(c * height + y) * width..][..width];
                    out[..left].fill(self.pad[c]);
                    out[right..].fill(self.pad[c]);
                    kernel::colour(yuv, channel, &mut out[left..right]);
                }
            }
            Layout::Nhwc => {
                let out = slot[y * width * 3..][..width * 3].as_chunks_mut::<3>().0;
                out[..left].fill(self.pad);
                out[right..].fill(self.pad);
                kernel::colour_interleaved(yuv, &channels, &mut out[left..right]);
            }
        }
    }
}

/// The bars' value, per channel.
pub(crate) fn padding(input: &InputSpec) -> [f32; 3] {
    std::array::from_fn(|i| (f32::from(input.pad) - input.mean[i]) / input.std[i])
}

/// Where a picture of `source` columns and rows goes in a tensor of `tensor` columns and rows.
pub(crate) fn place(source: (usize, usize), tensor: (usize, usize), resize: Resize) -> Rect {
    if source.0 == 0 || source.1 == 0 || tensor.0 == 0 || tensor.1 == 0 {
        return Rect { x: 0, y: 0, width: 0, height: 0 };
    }
    if resize == Resize::Stretch {
        return Rect { x: 0, y: 0, width: tensor.0, height: tensor.1 };
    }
    let scale = (tensor.0 as f64 / source.0 as f64).min(tensor.1 as f64 / source.1 as f64);
    let fit = |from: usize, to: usize| ((from as f64 * scale).round() as usize).clamp(1, to);
    let (width, height) = (fit(source.0, tensor.0), fit(source.1, tensor.1));
    let (x, y) = match resize {
        Resize::LetterboxTopLeft => (0, 0),
        _ => ((tensor.0 - width) / 2, (tensor.1 - height) / 2),
    };
    Rect { x, y, width, height }
}

/// H.273's equations 8.3: YUV codes to RGB 0..=255, then mean and std, in the tensor's order.
pub(crate) fn channels(geometry: &Geometry, input: &InputSpec) -> [Channel; 3] {
    let (kr, kb) = match geometry.matrix {
        Matrix::Bt601 => (0.299, 0.114),
        Matrix::Bt709 => (0.2126, 0.0722),
        Matrix::Bt2020 => (0.2627, 0.0593),
    };
    let kg = 1.0 - kr - kb;
    let (black, y_codes, c_codes) = match geometry.range {
        Range::Limited => (16.0, 219.0, 224.0),
        Range::Full => (0.0, 255.0, 255.0),
    };
    let (y, c) = (255.0 / y_codes, 255.0 / c_codes);
    let red = [y, 0.0, 2.0 * (1.0 - kr) * c];
    let green = [y, -2.0 * kb * (1.0 - kb) / kg * c, -2.0 * kr * (1.0 - kr) / kg * c];
    let blue = [y, 2.0 * (1.0 - kb) * c, 0.0];
    let order = match input.channels {
        Channels::Rgb => [red, green, blue],
        Channels::Bgr => [blue, green, red],
    };
    std::array::from_fn(|i| {
        let (mean, std) = (f64::from(input.mean[i]), f64::from(input.std[i]));
        let [ky, ku, kv] = order[i];
        let zero = -(ky * black + (ku + kv) * 128.0);
        let (black, white) = ((-mean / std) as f32, ((255.0 - mean) / std) as f32);
        Channel {
            k: [ky / std, ku / std, kv / std, (zero - mean) / std].map(|k| k as f32),
            // A negative std is allowed, and turns them round.
            low: black.min(white),
            high: black.max(white),
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn vector_loops_give_the_bits_of_the_portable_ones(
            (width, height) in (1u32..420, 1u32..60), (columns, rows) in (1u32..70, 1u32..40), seed in any::<u64>(),
        ) {
            let geometry = Geometry {
                size: Size { width, height },
                format: if seed % 2 == 0 { PixelFormat::I420 } else { PixelFormat::Nv12 },
                matrix: Matrix::Bt601,
                range: Range::Full,
                chroma: ChromaSite::Left,
            };
            let input = InputSpec {
                name: String::new(),
                width: columns,
                height: rows,
                layout: Layout::Nchw,
                channels: Channels::Rgb,
                resize: Resize::Stretch,
                pad: 0,
                mean: [0.0; 3],
                std: [1.0; 3],
            };
            let mut random = fastrand::Rng::with_seed(seed);
            let mut bytes = vec![0; (width as usize + 1) * (height as usize + 1)];
            random.fill(&mut bytes);
            let planes = Planes { data: [&bytes; 3], stride: [width as usize + 1; 3] };
            let mut slots = [(); 2].map(|()| vec![0.0; (3 * columns * rows) as usize]);
            let mut plan = Plan::new(&geometry, &input);
            plan.run(&planes, &mut slots[0]).expect("the planes are large enough");
            #[cfg(target_arch = "x86_64")]
            {
                plan.avx2 = None;
            }
            plan.run(&planes, &mut slots[1]).expect("the planes are large enough");
            prop_assert_eq!(&slots[0], &slots[1]);
        }
    }
}
