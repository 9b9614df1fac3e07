//! Networks that say each thing once: no suppression afterwards.
//!
//! - End to end, [N, 6]: x1, y1, x2, y2 in input pixels, score, class number. Wang et al., *YOLOv10* (2024),
//!   and exports with suppression inside the graph. Unused rows carry score 0.
//! - DETR-like: logits [Q, C] for a sigmoid a class (focal loss) and boxes [Q, 4] as cx, cy, w, h in 0..1. Zhao et
//!   al., *DETRs Beat YOLOs on Real-time Object Detection* (RT-DETR, 2024), and D-FINE. Their scripts take the best 300 of
//!   all Q·C scores, by which one query can report one box under two names; here a query is one object.

use crate::fault::Fault;
use crate::frame::Size;
use crate::model::spec::TensorView;

use super::scan;
use super::shape::{Outputs, may_be};
use super::sieve::Sieve;
use super::yolo::corners;

#[derive(Debug)]
pub(super) struct EndToEnd;

impl EndToEnd {
    pub fn new(outputs: &mut Outputs) -> Result<EndToEnd, Fault> {
        outputs.expect_count(1, "1 output")?;
        match *outputs.dims(0) {
            [n, six] if may_be(six, 6) => outputs.settle(0, [n, Some(6)]),
            _ => return Err(outputs.unfit(0, "[batch, N, 6]")),
        }
        Ok(EndToEnd)
    }

    pub fn decode(&self, tensor: &TensorView<'_>, sieve: &mut Sieve<'_>) {
        for (i, row) in tensor.data.chunks_exact(6).enumerate() {
            let (score, class) = (row[4], row[5]);
            if score < sieve.floor {
                continue;
            }
            if !score.is_finite() || !class.is_finite() {
                sieve.report.non_finite += 1;
                continue;
            }
            // Half precision inside the graph may have bent the number a little.
            let class = class.round();
            if class < 0.0 || class >= sieve.classes.count() as f32 {
                sieve.report.unknown_class += 1;
                continue;
            }
            let class = class as usize;
            if sieve.classes.is_named(class) {
                sieve.classified(i, class, score, || [row[0], row[1], row[2], row[3]]);
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Detr {
    classes: usize,
    input: Size,
    /// A logit under this is under the floor: the floor's logit, less what rounding can do.
    least: f32,
}

impl Detr {
    pub fn new(outputs: &mut Outputs, classes: usize, input: Size, floor: f32) -> Result<Detr, Fault> {
        outputs.expect_count(2, "2 outputs: logits, boxes")?;
        let queries = match *outputs.dims(0) {
            [q, c] if may_be(c, classes) => q,
            _ => return Err(outputs.unfit(0, &format!("[batch, Q, {classes}]"))),
        };
        let queries = match *outputs.dims(1) {
            [q, four] if may_be(four, 4) && (q.is_none() || queries.is_none() || q == queries) => {
                queries.or(q)
            }
            _ => return Err(outputs.unfit(1, "[batch, Q, 4], as many as logits")),
        };
        outputs.settle(0, [queries, Some(classes)]);
        outputs.settle(1, [queries, Some(4)]);
        let least = (floor / (1.0 - floor)).ln() - 1e-3;
        Ok(Detr { classes, input, least })
    }

    pub fn decode(&self, logits: &TensorView<'_>, boxes: &TensorView<'_>, sieve: &mut Sieve<'_>) {
        let (width, height) = (self.input.width as f32, self.input.height as f32);
        let hull = sieve.classes.hull();
        // Where Q is free, the two could still differ: the shorter one decides.
        let queries = boxes.data.len() / 4;
        scan::rows(logits.data, self.classes, hull.start, hull.len(), self.least, |i| {
            if i >= queries {
                return;
            }
            let row = &logits.data[i * self.classes..][..self.classes];
            let b = &boxes.data[i * 4..][..4];
            sieve.anchor(
                i,
                |c| row[c],
                |logit| 1.0 / (1.0 + (-logit).exp()),
                || corners(b[0] * width, b[1] * height, b[2] * width, b[3] * height),
            );
        });
    }
}
