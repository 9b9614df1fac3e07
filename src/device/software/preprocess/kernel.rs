//! The inner loops, in integers where it counts: portable ones here, AVX2 ones in [`super::avx2`].
//! Both give the same bits.

use super::Channel;
use super::axis::{Axis, ONE, Stretch};

/// Fraction bits of a row between the vertical and the horizontal taps: 255 · 2⁷ fits an `i16`.
const FRACTION: u32 = 7;

/// What one code has become after [`Isa::mix`].
pub(crate) const MIX_UNIT: f64 = (1 << FRACTION) as f64 * (ONE as f64 / 32768.0);

/// What [`Isa::narrow`] multiplies it by.
pub(crate) const NARROW_UNIT: f64 = ONE as f64;

/// The loops that take the time. The bodies given here are right everywhere, and simple enough
/// for the compiler to vectorise.
pub(crate) trait Isa: Copy {
    /// The vertical taps: the weighted sum of source rows from row `first` on, one a weight. Each
    /// product is cut to 2⁻⁷ codes, and the sum starts with what that loses on average.
    #[inline(always)]
    fn mix(self, plane: &[u8], stride: usize, (first, weights): (usize, &[i16]), out: &mut [i16]) {
        mix(plane, stride, (first, weights), out, 0);
    }

    /// The vertical taps of a shrinking axis, each source row read but once: takes one stretch, finishes
    /// the row of the output before it in `out`, and leaves in `rising` what the output behind it gets.
    #[inline(always)]
    fn fold(self, plane: &[u8], stride: usize, stretch: &Stretch, rising: &mut [i16], out: &mut [i16]) {
        fold(plane, stride, stretch, rising, out, 0);
    }

    /// The horizontal taps. `row` is longer than the picture by `axis.taps()`.
    #[inline(always)]
    fn narrow(self, row: &[i16], axis: &Axis, out: &mut [f32]) {
        narrow(row, axis, out, 0);
    }
}

/// Any CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

impl Isa for Portable {}

/// [`Isa::mix`] from column `from` on.
#[inline(always)]
pub(crate) fn mix(
    plane: &[u8],
    stride: usize,
    (first, weights): (usize, &[i16]),
    out: &mut [i16],
    from: usize,
) {
    let width = out.len();
    let out = &mut out[from..];
    out.fill(bias(weights));
    for (k, &w) in weights.iter().enumerate() {
        let row = &plane[(first + k) * stride..][from..width];
        for (o, &sample) in out.iter_mut().zip(row) {
            // Cannot overflow: the weights sum to 2¹⁵ − 1.
            *o = o.wrapping_add(((u32::from(sample) * w as u32) >> 8) as i16);
        }
    }
}

/// Half a unit for each product that is cut.
#[inline(always)]
pub(crate) fn bias(weights: &[i16]) -> i16 {
    let mut cut = 0;
    for &w in weights {
        cut += i16::from(w != 0);
    }
    cut / 2
}

/// [`Isa::fold`] from column `from` on.
#[inline(always)]
pub(crate) fn fold(
    plane: &[u8],
    stride: usize,
    stretch: &Stretch,
    rising: &mut [i16],
    out: &mut [i16],
    from: usize,
) {
    /// Columns whose sums stay in the nearest cache.
    const BLOCK: usize = 64;
    let blocks = out[from..].chunks_mut(BLOCK).zip(rising[from..].chunks_mut(BLOCK));
    for (i, (out, rising)) in blocks.enumerate() {
        let (mut sum, mut ramp) = ([0i16; BLOCK], [0i16; BLOCK]);
        for k in (0..stretch.len).rev() {
            let row = &plane[(stretch.first + k) * stride + from + i * BLOCK..][..out.len()];
            for ((sum, ramp), &sample) in sum.iter_mut().zip(&mut ramp).zip(row) {
                *sum += i16::from(sample);
                // Sample k is in the sum k times before sample 0 comes.
                *ramp += if k > 0 { *sum } else { 0 };
            }
        }
        for (((&sum, &ramp), rising), out) in sum.iter().zip(&ramp).zip(rising).zip(out) {
            let (sum, ramp) = (sum << stretch.fraction, ramp << stretch.ramp_fraction);
            let rise = part(sum, stretch.start) + part(ramp, stretch.slope);
            // What does not rise falls.
            *out = rising.wrapping_add(sum - rise);
            *rising = rise;
        }
    }
}

/// `whole` · `weight` · 2⁻¹⁵, rounded.
#[inline(always)]
fn part(whole: i16, weight: i16) -> i16 {
    ((i32::from(whole) * i32::from(weight) + (1 << 14)) >> 15) as i16
}

/// [`Isa::narrow`] from column `from` on.
#[inline(always)]
pub(crate) fn narrow(row: &[i16], axis: &Axis, out: &mut [f32], from: usize) {
    for (i, o) in out.iter_mut().enumerate().skip(from) {
        let (start, weights) = axis.at(i);
        let mut sum = 0i32;
        for (&x, &w) in row[start..].iter().zip(weights) {
            sum = sum.wrapping_add(i32::from(x) * i32::from(w));
        }
        *o = sum as f32;
    }
}

/// Pulls interleaved samples apart.
#[inline(always)]
pub(crate) fn split(pairs: &[i16], first: &mut [i16], second: &mut [i16]) {
    for ((&[a, b], first), second) in pairs.as_chunks::<2>().0.iter().zip(first).zip(second) {
        (*first, *second) = (a, b);
    }
}

/// One channel of a row.
#[inline(always)]
pub(crate) fn colour([y, u, v]: [&[f32]; 3], channel: &Channel, out: &mut [f32]) {
    for (((o, &y), &u), &v) in out.iter_mut().zip(y).zip(u).zip(v) {
        *o = value(y, u, v, channel);
    }
}

/// All three channels of a row, side by side.
#[inline(always)]
pub(crate) fn colour_interleaved([y, u, v]: [&[f32]; 3], channels: &[Channel; 3], out: &mut [[f32; 3]]) {
    for (((o, &y), &u), &v) in out.iter_mut().zip(y).zip(u).zip(v) {
        *o = [value(y, u, v, &channels[0]), value(y, u, v, &channels[1]), value(y, u, v, &channels[2])];
    }
}

#[inline(always)]
fn value(y: f32, u: f32, v: f32, c: &Channel) -> f32 {
    (y * c.k[0] + u * c.k[1] + v * c.k[2] + c.k[3]).max(c.low).min(c.high)
}
