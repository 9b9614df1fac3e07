//! The loops of [`super::kernel`] for x86 with AVX2: left to itself the compiler multiplies in
//! 32 bits, at a tenth of the speed. `pulp` lends the instructions as safe functions; its token [`V3`]
//! proves that the CPU has them. No closures here: they would not be compiled for AVX2.

use std::arch::x86_64::{__m128i, __m256i};

use pulp::NullaryFnOnce;
use pulp::x86::V3;

use super::axis::{Axis, Stretch};
use super::kernel::{Isa, bias, fold, mix, narrow};

impl Isa for V3 {
    #[inline(always)]
    fn mix(self, plane: &[u8], stride: usize, taps: (usize, &[i16]), out: &mut [i16]) {
        self.vectorize(Mix { simd: self, plane, stride, taps, out });
    }

    #[inline(always)]
    fn fold(self, plane: &[u8], stride: usize, stretch: &Stretch, rising: &mut [i16], out: &mut [i16]) {
        self.vectorize(Fold { simd: self, plane, stride, stretch, rising, out });
    }

    #[inline(always)]
    fn narrow(self, row: &[i16], axis: &Axis, out: &mut [f32]) {
        self.vectorize(Narrow { simd: self, row, axis, out });
    }
}

/// A call of [`Isa::mix`]. That it is a type makes it a function of its own, compiled once.
struct Mix<'a> {
    simd: V3,
    plane: &'a [u8],
    stride: usize,
    taps: (usize, &'a [i16]),
    out: &'a mut [i16],
}

impl NullaryFnOnce for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Mix { simd, plane, stride, taps, out } = self;
        // Columns done so far. 128 a time keep eight sums in registers; the rest is for odd widths.
        let mut done = 0;
        done += mix_blocks::<4, 128>(simd, &plane[done..], stride, taps, &mut out[done..]);
        done += mix_blocks::<2, 64>(simd, &plane[done..], stride, taps, &mut out[done..]);
        done += mix_blocks::<1, 32>(simd, &plane[done..], stride, taps, &mut out[done..]);
        mix(plane, stride, taps, out, done);
    }
}

/// A call of [`Isa::fold`].
struct Fold<'a> {
    simd: V3,
    plane: &'a [u8],
    stride: usize,
    stretch: &'a Stretch,
    rising: &'a mut [i16],
    out: &'a mut [i16],
}

impl NullaryFnOnce for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        // Of the same length for a whole row: a loop that the CPU does not have to guess the end of.
        match self.stretch.len {
            2 => self.blocks::<2>(),
            3 => self.blocks::<3>(),
            4 => self.blocks::<4>(),
            5 => self.blocks::<5>(),
            _ => self.blocks::<0>(),
        }
    }
}

impl Fold<'_> {
    /// `LEN` is the stretch's length, 0 for any.
    #[inline(always)]
    fn blocks<const LEN: usize>(self) {
        let Fold { simd, plane, stride, stretch, rising, out } = self;
        let stretch = &Stretch { len: if LEN == 0 { stretch.len } else { LEN }, ..*stretch };
        // 64 columns, a cache line, keep eight sums in registers.
        let mut done = 0;
        let blocks = rising.as_chunks_mut::<64>().0.iter_mut().zip(out.as_chunks_mut::<64>().0);
        for (rising, out) in blocks {
            fetch_next(simd, &plane[done..], stride, stretch);
            let (sum, ramp) = sums(simd, &plane[done..], stride, stretch);
            fold_block(simd, stretch, (&sum, &ramp), rising, out);
            done += 64;
        }
        fold(plane, stride, stretch, rising, out, done);
    }
}

/// Brings the rows of the next stretch nearer. A decoded picture is larger than the caches, and the CPU does not foresee steps
/// from row to row.
#[inline(always)]
fn fetch_next(simd: V3, plane: &[u8], stride: usize, stretch: &Stretch) {
    // Behind the last row this points past the plane, which a prefetch may: it reads nothing that anybody sees.
    let mut row = plane.as_ptr().wrapping_add((stretch.first + stretch.len) * stride);
    for _ in 0..stretch.len {
        simd.sse._mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(row.cast());
        row = row.wrapping_add(stride);
    }
}

/// Of 64 columns, 16 a vector: the sum of a stretch's samples, and that of k times sample k.
#[inline(always)]
fn sums(simd: V3, plane: &[u8], stride: usize, stretch: &Stretch) -> ([__m256i; 4], [__m256i; 4]) {
    let zero = simd.avx._mm256_setzero_si256();
    let (mut sum, mut ramp) = ([zero; 4], [zero; 4]);
    for k in (0..stretch.len).rev() {
        let row = plane[(stretch.first + k) * stride..].first_chunk::<64>();
        let row = row.expect("the plane was checked to hold its rows").as_chunks::<16>().0;
        for i in 0..4 {
            sum[i] =
                simd.avx2._mm256_add_epi16(sum[i], simd.avx2._mm256_cvtepu8_epi16(bytemuck::cast(row[i])));
        }
        if k > 0 {
            for i in 0..4 {
                ramp[i] = simd.avx2._mm256_add_epi16(ramp[i], sum[i]);
            }
        }
    }
    (sum, ramp)
}

#[inline(always)]
fn fold_block(
    simd: V3,
    stretch: &Stretch,
    (sum, ramp): (&[__m256i; 4], &[__m256i; 4]),
    rising: &mut [i16; 64],
    out: &mut [i16; 64],
) {
    let avx2 = simd.avx2;
    let start = simd.avx._mm256_set1_epi16(stretch.start);
    let slope = simd.avx._mm256_set1_epi16(stretch.slope);
    let fraction: __m128i = bytemuck::cast([u64::from(stretch.fraction), 0]);
    let ramp_fraction: __m128i = bytemuck::cast([u64::from(stretch.ramp_fraction), 0]);
    let parts = rising.as_chunks_mut::<16>().0.iter_mut().zip(out.as_chunks_mut::<16>().0);
    for (i, (rising, out)) in parts.enumerate().take(4) {
        let sum = avx2._mm256_sll_epi16(sum[i], fraction);
        let ramp = avx2._mm256_sll_epi16(ramp[i], ramp_fraction);
        let rise = avx2
            ._mm256_add_epi16(avx2._mm256_mulhrs_epi16(sum, start), avx2._mm256_mulhrs_epi16(ramp, slope));
        let falling = avx2._mm256_sub_epi16(sum, rise);
        *out = bytemuck::cast(avx2._mm256_add_epi16(bytemuck::cast(*rising), falling));
        *rising = bytemuck::cast(rise);
    }
}

/// A call of [`Isa::narrow`].
struct Narrow<'a> {
    simd: V3,
    row: &'a [i16],
    axis: &'a Axis,
    out: &'a mut [f32],
}

impl NullaryFnOnce for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Narrow { simd, row, axis, out } = self;
        let (taps, done) = (axis.taps(), out.len() / 4 * 4);
        let groups = out.as_chunks_mut::<4>().0.iter_mut().zip(axis.starts().as_chunks::<4>().0);
        let weights = axis.weights().as_chunks::<8>().0;
        match taps {
            8 => {
                for ((o, starts), w) in groups.zip(weights.as_chunks::<4>().0) {
                    *o = narrow_4(simd, row, starts, w, 1);
                }
            }
            16 => {
                for ((o, starts), w) in groups.zip(weights.as_chunks::<8>().0) {
                    *o = narrow_4(simd, row, starts, w, 2);
                }
            }
            _ => {
                for ((o, starts), w) in groups.zip(weights.chunks_exact(taps / 2)) {
                    *o = narrow_4(simd, row, starts, w, taps / 8);
                }
            }
        }
        narrow(row, axis, out, done);
    }
}

/// As many blocks of `N` = 32 · `V` columns as fit. Sums stay in registers while the rows pass by.
/// Returns the columns done.
#[inline(always)]
fn mix_blocks<const V: usize, const N: usize>(
    simd: V3,
    plane: &[u8],
    stride: usize,
    (first, weights): (usize, &[i16]),
    out: &mut [i16],
) -> usize {
    let zero = simd.avx._mm256_setzero_si256();
    let start = simd.avx._mm256_set1_epi16(bias(weights));
    let mut done = 0;
    for out in out.as_chunks_mut::<N>().0 {
        let (mut low, mut high) = ([start; V], [start; V]);
        for (k, &w) in weights.iter().enumerate() {
            let row = plane[(first + k) * stride + done..].first_chunk::<N>();
            let row = row.expect("the plane was checked to hold its rows");
            let w = simd.avx._mm256_set1_epi16(w);
            for (i, samples) in row.as_chunks::<32>().0.iter().enumerate().take(V) {
                let samples: __m256i = bytemuck::cast(*samples);
                // Interleaving with zero puts a sample in the upper byte: times 2⁸, for nothing.
                let a = simd.avx2._mm256_unpacklo_epi8(zero, samples);
                let b = simd.avx2._mm256_unpackhi_epi8(zero, samples);
                low[i] = simd.avx2._mm256_add_epi16(low[i], simd.avx2._mm256_mulhi_epu16(a, w));
                high[i] = simd.avx2._mm256_add_epi16(high[i], simd.avx2._mm256_mulhi_epu16(b, w));
            }
        }
        for (i, to) in out.as_chunks_mut::<32>().0.iter_mut().enumerate().take(V) {
            // The interleaving worked within halves: bring columns 8..16 and 16..24 to their places.
            *to = bytemuck::cast([
                simd.avx2._mm256_permute2x128_si256::<0x20>(low[i], high[i]),
                simd.avx2._mm256_permute2x128_si256::<0x31>(low[i], high[i]),
            ]);
        }
        done += N;
    }
    done
}

/// Four outputs of `parts` times 8 taps. Halves of registers, since four sums are then soon together.
#[inline(always)]
fn narrow_4(simd: V3, row: &[i16], starts: &[u32; 4], weights: &[[i16; 8]], parts: usize) -> [f32; 4] {
    let mut v = [simd.sse2._mm_setzero_si128(); 4];
    for (i, w) in weights.chunks_exact(parts).enumerate().take(4) {
        let start = starts[i] as usize;
        for (x, w) in row[start..start + 8 * parts].as_chunks::<8>().0.iter().zip(w) {
            let product = simd.sse2._mm_madd_epi16(bytemuck::cast(*x), bytemuck::cast(*w));
            v[i] = simd.sse2._mm_add_epi32(v[i], product);
        }
    }
    let sse2 = simd.sse2;
    let a = sse2._mm_add_epi32(sse2._mm_unpacklo_epi32(v[0], v[1]), sse2._mm_unpackhi_epi32(v[0], v[1]));
    let b = sse2._mm_add_epi32(sse2._mm_unpacklo_epi32(v[2], v[3]), sse2._mm_unpackhi_epi32(v[2], v[3]));
    let sums = sse2._mm_add_epi32(sse2._mm_unpacklo_epi64(a, b), sse2._mm_unpackhi_epi64(a, b));
    bytemuck::cast(simd.sse2._mm_cvtepi32_ps(sums))
}
