//! SSD as the TensorFlow object detection API exports it: sigmoid scores [N, classes] and boxes that are
//! already decoded, [N, 4] or [N, 1, 4] as y1, x1, y2, x2 in 0..1 of the input.
//!
//! Liu et al., *SSD: Single Shot MultiBox Detector* (2016); `ssd_meta_arch.py` of the TF model garden.

use crate::fault::Fault;
use crate::frame::Size;
use crate::model::spec::TensorView;

use super::scan;
use super::shape::{Outputs, may_be};
use super::sieve::Sieve;

#[derive(Debug)]
pub(super) struct Ssd {
    classes: usize,
    input: Size,
}

impl Ssd {
    pub fn new(outputs: &mut Outputs, classes: usize, input: Size) -> Result<Ssd, Fault> {
        outputs.expect_count(2, "2 outputs: scores, boxes")?;
        let anchors = match *outputs.dims(0) {
            [n, c] if may_be(c, classes) => n,
            _ => return Err(outputs.unfit(0, &format!("[batch, N, {classes}]"))),
        };
        let (same, with_one) = match *outputs.dims(1) {
            [n, four] if may_be(four, 4) => (n, false),
            [n, one, four] if may_be(one, 1) && may_be(four, 4) => (n, true),
            _ => return Err(outputs.unfit(1, "[batch, N, 4] or [batch, N, 1, 4]")),
        };
        let anchors = match (anchors, same) {
            (Some(a), Some(b)) if a != b => {
                return Err(
                    outputs.unfit(1, &format!("[batch, {a}, 4] or [batch, {a}, 1, 4], as many as scores"))
                );
            }
            (a, b) => a.or(b),
        };
        outputs.settle(0, [anchors, Some(classes)]);
        if with_one {
            outputs.settle(1, [anchors, Some(1), Some(4)]);
        } else {
            outputs.settle(1, [anchors, Some(4)]);
        }
        Ok(Ssd { classes, input })
    }

    pub fn decode(&self, scores: &TensorView<'_>, boxes: &TensorView<'_>, sieve: &mut Sieve<'_>) {
        let (width, height) = (self.input.width as f32, self.input.height as f32);
        let hull = sieve.classes.hull();
        // Where N is free, the two could still differ: the shorter one decides.
        let anchors = boxes.data.len() / 4;
        scan::rows(scores.data, self.classes, hull.start, hull.len(), sieve.floor, |i| {
            if i >= anchors {
                return;
            }
            let row = &scores.data[i * self.classes..][..self.classes];
            let b = &boxes.data[i * 4..][..4];
            sieve.anchor(i, |c| row[c], |s| s, || [b[1] * width, b[0] * height, b[3] * width, b[2] * height]);
        });
    }
}
