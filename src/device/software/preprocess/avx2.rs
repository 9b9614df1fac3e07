//! The two loops of [`super::kernel`] for x86 with AVX2: left to itself the compiler multiplies in
//! 32 bits, at a tenth of the speed. `pulp` lends the instructions as safe functions; its token [`V3`]
//! proves that the CPU has them. No closures here: they would not be compiled for AVX2.

use std::arch::x86_64::{__m128i, __m256i};

use pulp::NullaryFnOnce;
use pulp::x86::V3;

use super::axis::Axis;
use super::kernel::{Isa, bias, mix, narrow};

impl Isa for V3 {
    #[inline(always)]
    fn mix(self, plane: &[u8], stride: usize, taps: (usize, &[i16]), out: &mut [i16]) {
        self.vectorize(Mix { simd: self, plane, stride, taps, out });
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
        let (taps, done) = (axis.taps(), out.len() / 8 * 8);
        let groups = out.as_chunks_mut::<8>().0.iter_mut().zip(axis.starts().as_chunks::<8>().0);
        let weights = axis.weights();
        match taps {
            8 => {
                for ((o, starts), w) in groups.zip(weights.as_chunks::<8>().0.as_chunks::<8>().0) {
                    *o = narrow_8(simd, row, starts, w);
                }
            }
            16 => {
                for ((o, starts), w) in groups.zip(weights.as_chunks::<128>().0) {
                    *o = narrow_16(simd, row, starts, w, 1);
                }
            }
            _ => {
                for ((o, starts), w) in groups.zip(weights.chunks_exact(8 * taps)) {
                    *o = narrow_16(simd, row, starts, w, taps / 16);
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

/// Eight outputs of `parts` times 16 taps.
#[inline(always)]
fn narrow_16(simd: V3, row: &[i16], starts: &[usize; 8], weights: &[i16], parts: usize) -> [f32; 8] {
    let mut v = [simd.avx._mm256_setzero_si256(); 8];
    for (i, w) in weights.chunks_exact(16 * parts).enumerate().take(8) {
        for (x, w) in row[starts[i]..][..16 * parts].as_chunks::<16>().0.iter().zip(w.as_chunks::<16>().0) {
            let product = simd.avx2._mm256_madd_epi16(bytemuck::cast(*x), bytemuck::cast(*w));
            v[i] = simd.avx2._mm256_add_epi32(v[i], product);
        }
    }
    let (a, b) = (hadd4(simd, [v[0], v[1], v[2], v[3]]), hadd4(simd, [v[4], v[5], v[6], v[7]]));
    let low = simd.avx2._mm256_permute2x128_si256::<0x20>(a, b);
    let high = simd.avx2._mm256_permute2x128_si256::<0x31>(a, b);
    bytemuck::cast(simd.avx._mm256_cvtepi32_ps(simd.avx2._mm256_add_epi32(low, high)))
}

/// Eight outputs of eight taps: outputs i and i + 4 share a vector.
#[inline(always)]
fn narrow_8(simd: V3, row: &[i16], starts: &[usize; 8], weights: &[[i16; 8]; 8]) -> [f32; 8] {
    let mut v = [simd.avx._mm256_setzero_si256(); 4];
    for i in 0..4 {
        let x = pair(simd, window(row, starts[i]), window(row, starts[i + 4]));
        v[i] = simd.avx2._mm256_madd_epi16(x, pair(simd, &weights[i], &weights[i + 4]));
    }
    bytemuck::cast(simd.avx._mm256_cvtepi32_ps(hadd4(simd, v)))
}

#[inline(always)]
fn window(row: &[i16], start: usize) -> &[i16; 8] {
    row[start..].first_chunk().expect("a row is longer than its last start by the taps")
}

#[inline(always)]
fn pair(simd: V3, a: &[i16; 8], b: &[i16; 8]) -> __m256i {
    let (a, b): (__m128i, __m128i) = (bytemuck::cast(*a), bytemuck::cast(*b));
    simd.avx2._mm256_inserti128_si256::<1>(simd.avx._mm256_castsi128_si256(a), b)
}

/// In each half of the result, the sums of the four vectors' halves.
#[inline(always)]
fn hadd4(simd: V3, v: [__m256i; 4]) -> __m256i {
    let (a, b) = (simd.avx2._mm256_hadd_epi32(v[0], v[1]), simd.avx2._mm256_hadd_epi32(v[2], v[3]));
    simd.avx2._mm256_hadd_epi32(a, b)
}
