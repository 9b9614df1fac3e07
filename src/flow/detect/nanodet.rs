//! NanoDet: class scores (sigmoids) and, for each side of the box, a distribution over distances 0, 1, 2, … in strides.
//! The distance is that distribution's mean; the box spans left, top, right, bottom from the cell's centre.
//!
//! Li et al., *Generalized Focal Loss* (2020), §3; RangiLyu/nanodet. Two generations differ in where a cell's centre is:
//! - NanoDet, three grids (8, 16, 32): the middle of the cell, (i + ½)·stride;
//! - NanoDet-Plus, four grids (8, 16, 32, 64): its corner, i·stride.
//!
//! Read are both usual exports: one output a grid and kind (all class outputs by stride, then all
//! distance outputs), or everything in one, [N, C + 4·bins], grid after grid.

use crate::fault::Fault;
use crate::frame::Size;
use crate::model::spec::TensorView;

use super::scan;
use super::shape::{Outputs, may_be};
use super::sieve::Sieve;
use super::yolo::{Level, levels};

/// The published nets have 8 (NanoDet-m, Plus) and 11 (NanoDet-g, EfficientLite).
const MAX_BINS: usize = 64;

#[derive(Debug)]
pub(super) struct NanoDet {
    classes: usize,
    bins: usize,
    levels: Vec<Level>,
    centre: f32,
    /// Classes and distances side by side in one output.
    joint: bool,
}

impl NanoDet {
    pub fn new(outputs: &mut Outputs, classes: usize, input: Size) -> Result<NanoDet, Fault> {
        let plain = levels(input, &[8, 16, 32]);
        let plus = levels(input, &[8, 16, 32, 64]);
        let (levels, joint) = match outputs.len() {
            1 => {
                let anchors = |levels: &[Level]| levels.iter().map(|l| l.cells).sum::<usize>();
                match *outputs.dims(0) {
                    [Some(n), _] if n == anchors(&plus) => (plus, true),
                    [n, _] if may_be(n, anchors(&plain)) => (plain, true),
                    _ => {
                        let (a, b) = (anchors(&plain), anchors(&plus));
                        return Err(outputs.unfit(
                            0,
                            &format!("[batch, {a}, {classes} + 4·bins] (NanoDet at {input}) or [batch, {b}, {classes} + 4·bins] (Plus)"),
                        ));
                    }
                }
            }
            8 => (plus, false),
            _ => {
                outputs.expect_count(
                    6,
                    "1 output, 6 (classes, then distances, for strides 8, 16, 32) or 8 (and 64)",
                )?;
                (plain, false)
            }
        };
        let centre = if levels.len() == 3 { 0.5 } else { 0.0 };

        // The first distance output tells the bins; the others must agree.
        let bins_of = |width: usize| {
            let bins = width / 4;
            (width.is_multiple_of(4) && (2..=MAX_BINS).contains(&bins)).then_some(bins)
        };
        if joint {
            let anchors = levels.iter().map(|l| l.cells).sum();
            let width = match *outputs.dims(0) {
                [_, Some(width)] => width,
                _ => 0,
            };
            let Some(bins) = width.checked_sub(classes).and_then(bins_of) else {
                return Err(outputs
                    .unfit(0, &format!("[batch, {anchors}, {classes} + 4·bins], 2 to {MAX_BINS} bins")));
            };
            outputs.settle(0, [Some(anchors), Some(width)]);
            return Ok(NanoDet { classes, bins, levels, centre, joint });
        }
        let mut bins: Option<usize> = None;
        for (k, level) in levels.iter().enumerate() {
            let cells = level.cells;
            match *outputs.dims(k) {
                [n, c] if may_be(n, cells) && may_be(c, classes) => {}
                _ => {
                    return Err(outputs.unfit(
                        k,
                        &format!("[batch, {cells}, {classes}] (classes, stride {})", level.stride),
                    ));
                }
            }
            outputs.settle(k, [Some(cells), Some(classes)]);
            let k = levels.len() + k;
            let found = match *outputs.dims(k) {
                [n, Some(width)] if may_be(n, cells) => {
                    bins_of(width).filter(|b| bins.is_none_or(|bins| bins == *b))
                }
                _ => None,
            };
            let Some(found) = found else {
                let width = bins.map_or_else(|| "4·bins".to_owned(), |bins| (4 * bins).to_string());
                return Err(outputs
                    .unfit(k, &format!("[batch, {cells}, {width}] (distances, stride {})", level.stride)));
            };
            bins = Some(found);
            outputs.settle(k, [Some(cells), Some(4 * found)]);
        }
        let bins = bins.expect("there are three levels or four");
        Ok(NanoDet { classes, bins, levels, centre, joint })
    }

    pub fn decode<'a>(&self, pick: impl Fn(usize) -> &'a TensorView<'a>, sieve: &mut Sieve<'_>) {
        let sides = 4 * self.bins;
        let mut first = 0;
        for (k, level) in self.levels.iter().enumerate() {
            if self.joint {
                let width = self.classes + sides;
                let part = &pick(0).data[first * width..][..level.cells * width];
                self.grid(
                    level,
                    first,
                    Rows { data: part, width, skip: 0 },
                    Rows { data: part, width, skip: self.classes },
                    sieve,
                );
            } else {
                let classes = Rows { data: pick(k).data, width: self.classes, skip: 0 };
                let distances = Rows { data: pick(self.levels.len() + k).data, width: sides, skip: 0 };
                self.grid(level, first, classes, distances, sieve);
            }
            first += level.cells;
        }
    }

    fn grid(
        &self,
        level: &Level,
        first: usize,
        classes: Rows<'_>,
        distances: Rows<'_>,
        sieve: &mut Sieve<'_>,
    ) {
        let hull = sieve.classes.hull();
        let stride = level.stride as f32;
        scan::rows(classes.data, classes.width, classes.skip + hull.start, hull.len(), sieve.floor, |i| {
            let (row, sides) = (classes.row(i), distances.row(i));
            let x = ((i % level.columns) as f32 + self.centre) * stride;
            let y = ((i / level.columns) as f32 + self.centre) * stride;
            let distance = |side: usize| mean_bin(&sides[side * self.bins..][..self.bins]) * stride;
            sieve.anchor(
                first + i,
                |c| row[c],
                |s| s,
                || [x - distance(0), y - distance(1), x + distance(2), y + distance(3)],
            );
        });
    }
}

/// Rows of `width` values, of which the first `skip` belong to somebody else.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    width: usize,
    skip: usize,
}

impl<'a> Rows<'a> {
    fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.width + self.skip..(i + 1) * self.width]
    }
}

/// The mean of 0, 1, 2, … under the softmax of `logits`; NaN when one of them is not finite.
fn mean_bin(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut weighted) = (0.0, 0.0);
    for (bin, &logit) in logits.iter().enumerate() {
        // −∞ would be a fair zero probability, but no network means it: `logit · 0` makes it NaN.
        let e = (logit - max).exp() + logit * 0.0;
        sum += e;
        weighted += e * bin as f32;
    }
    weighted / sum
}
