//! The weights of a triangle filter along one axis: sample by sample, or, when it shrinks, by stretches.

/// What the weights of one output sample add up to, exactly: the largest `i16`.
pub(crate) const ONE: i32 = i16::MAX as i32;

/// For each output sample: where its source samples start, and their weights.
#[derive(Debug)]
pub(crate) struct Axis {
    /// As `u32`, which plus the taps cannot overflow: one check less in the inner loop.
    start: Vec<u32>,
    /// `taps` for each output sample; unused ones at the end are 0.
    weight: Vec<i16>,
    taps: usize,
}

impl Axis {
    /// From `len_in` samples, of which j is centred on j + ½, to `len_out`, of which i is centred
    /// on (i + ½) · `step` + `shift`. `len_in` is not 0 unless `len_out` is.
    pub(crate) fn new(len_in: usize, len_out: usize, step: f64, shift: f64) -> Axis {
        let radius = step.max(1.0);
        let taps = ((radius * 2.0).ceil() as usize + 1).min(len_in).max(1);
        let mut axis = Axis { start: Vec::with_capacity(len_out), weight: vec![0; len_out * taps], taps };
        let mut shape = Vec::with_capacity(taps);
        for (i, weight) in axis.weight.chunks_exact_mut(taps).enumerate() {
            let center = (i as f64 + 0.5) * step + shift;
            let first = ((center - radius + 0.5).floor().max(0.0) as usize).min(len_in - taps);
            shape.clear();
            shape.extend(
                (first..first + taps).map(|j| (1.0 - (j as f64 + 0.5 - center).abs() / radius).max(0.0)),
            );
            axis.start.push(first as u32);
            quantise(&shape, weight);
        }
        axis
    }

    /// The same with `taps` a number that the vector kernels like: 8, or a multiple of 16.
    pub(crate) fn padded(self) -> Axis {
        let taps = if self.taps <= 8 { 8 } else { self.taps.next_multiple_of(16) };
        let mut weight = vec![0; self.start.len() * taps];
        for (to, from) in weight.chunks_exact_mut(taps).zip(self.weight.chunks_exact(self.taps)) {
            to[..self.taps].copy_from_slice(from);
        }
        Axis { start: self.start, weight, taps }
    }

    /// Weights an output sample.
    pub(crate) fn taps(&self) -> usize {
        self.taps
    }

    /// Starts, one an output sample. `start + taps` may pass the end of the source if padded.
    pub(crate) fn starts(&self) -> &[u32] {
        &self.start
    }

    /// Weights, `taps` an output sample.
    pub(crate) fn weights(&self) -> &[i16] {
        &self.weight
    }

    /// First source sample and weights of output sample `i`.
    pub(crate) fn at(&self, i: usize) -> (usize, &[i16]) {
        (self.start[i] as usize, &self.weight[i * self.taps..][..self.taps])
    }
}

/// Most samples of a stretch: Σ k · 255 over so many still fits an `i16`.
const MOST: usize = 16;

/// A shrinking axis, told by the source samples between the centres of two outputs. There the earlier
/// output's triangle falls in a straight line from 1 to 0 and the later one's rises from 0 to 1, so
/// x₀ + x₁ + … and 0 · x₀ + 1 · x₁ + … are all that both outputs need of them, and these take
/// additions only.
#[derive(Debug)]
pub(crate) struct Stretches {
    /// One more than outputs: before the first centre, between, and behind the last.
    stretches: Vec<Stretch>,
    /// For each output: what one code has become, the weights not being scaled to any sum.
    units: Vec<f64>,
}

/// The samples between two centres, or between an end of the axis and a centre.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    /// First sample, and how many.
    pub(crate) first: usize,
    pub(crate) len: usize,
    /// The rising weight of the first sample, and how much it grows with each, the latter times
    /// 2^(`fraction` − `ramp_fraction`): 1 is 2¹⁵.
    pub(crate) start: i16,
    pub(crate) slope: i16,
    /// Fraction bits of the sum and of the result, and of the sum of k times sample k.
    pub(crate) fraction: u32,
    pub(crate) ramp_fraction: u32,
}

impl Stretches {
    /// From `len_in` samples to `len_out`, of which i is centred on (i + ½) · `step`, which is no
    /// further than the samples reach. `None` where the axis grows, or shrinks too much.
    pub(crate) fn new(len_in: usize, len_out: usize, step: f64) -> Option<Stretches> {
        if len_out == 0 || !(1.0..=(MOST - 1) as f64).contains(&step) {
            return None;
        }
        let (fraction, ramp_fraction) = fractions(step)?;
        let weight = |w: f64| (w * f64::from(1 << 15)).round().clamp(0.0, f64::from(ONE)) as i16;
        let slope = weight(2f64.powi(fraction as i32 - ramp_fraction as i32) / step);
        // The centre before the first output is outside the picture.
        let center = |i: usize| (i as f64 - 0.5) * step;
        let mut stretches = Vec::with_capacity(len_out + 1);
        let mut first = 0;
        for i in 0..=len_out {
            let end = if i == len_out { len_in } else { (center(i + 1) - 0.5).ceil() as usize };
            let start = weight((first as f64 + 0.5 - center(i)) / step);
            stretches.push(Stretch { first, len: end - first, start, slope, fraction, ramp_fraction });
            first = end;
        }
        let unit = |pair: &[Stretch]| pair[0].rise() + pair[1].white() - pair[1].rise();
        let units = stretches.windows(2).map(unit).collect();
        Some(Stretches { stretches, units })
    }

    /// The stretch that ends at the centre of output `i`.
    pub(crate) fn until(&self, i: usize) -> &Stretch {
        &self.stretches[i]
    }

    /// What one code has become in output `i`.
    pub(crate) fn unit(&self, i: usize) -> f64 {
        self.units[i]
    }
}

impl Stretch {
    /// The sum of samples that are all 1.
    fn white(&self) -> f64 {
        (self.len << self.fraction) as f64
    }

    /// What rises of it.
    fn rise(&self) -> f64 {
        let ramp = (self.len * self.len.saturating_sub(1) / 2) << self.ramp_fraction;
        (self.white() * f64::from(self.start) + ramp as f64 * f64::from(self.slope)) / f64::from(1 << 15)
    }
}

/// As many fraction bits for a stretch as keep its sums and its slope in an `i16`.
fn fractions(step: f64) -> Option<(u32, u32)> {
    let len = step.ceil() as u32;
    let fits = |sum: u32, bits: u32| sum * 255 << bits <= ONE as u32;
    let ramp = (0..8).rev().find(|&bits| fits(len * (len - 1) / 2, bits))?;
    // An end of the axis, half a step and perhaps half a sample, is no longer than that.
    let sum =
        (0..8).rev().find(|&bits| fits(len, bits) && f64::from(1 << bits) <= step * f64::from(1 << ramp))?;
    Some((sum, ramp.min(sum)))
}

/// Scales `shape` so that it sums to [`ONE`] exactly. Rounding the running sum, not each weight,
/// keeps the sum without giving one weight all the error.
fn quantise(shape: &[f64], weight: &mut [i16]) {
    let total: f64 = shape.iter().sum();
    let (mut sum, mut given) = (0.0, 0);
    for (w, s) in weight.iter_mut().zip(shape) {
        sum += s;
        let upto = (sum / total * f64::from(ONE)).round() as i32;
        *w = (upto - given) as i16;
        given = upto;
    }
}
