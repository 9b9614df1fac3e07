//! The weights of a triangle filter along one axis.

/// What the weights of one output sample add up to, exactly: the largest `i16`.
pub(crate) const ONE: i32 = i16::MAX as i32;

/// For each output sample: where its source samples start, and their weights.
#[derive(Debug)]
pub(crate) struct Axis {
    start: Vec<usize>,
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
            axis.start.push(first);
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
    pub(crate) fn starts(&self) -> &[usize] {
        &self.start
    }

    /// Weights, `taps` an output sample.
    pub(crate) fn weights(&self) -> &[i16] {
        &self.weight
    }

    /// First source sample and weights of output sample `i`.
    pub(crate) fn at(&self, i: usize) -> (usize, &[i16]) {
        (self.start[i], &self.weight[i * self.taps..][..self.taps])
    }
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
