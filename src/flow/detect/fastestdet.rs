//! FastestDet: one grid, [5 + C, H, W]: objectness, 4 box values, classes. Score = objectness^0.6 · class^0.4;
//! centre = (cell + tanh) / grid, size = sigmoid, both in 0..1 of the input.
//!
//! By `handle_preds` of the author's repository (dog-qiuqiu/FastestDet); there is no paper.

use crate::fault::Fault;
use crate::frame::Size;
use crate::model::spec::TensorView;

use super::shape::Outputs;
use super::sieve::{Sieve, taint};
use super::yolo::corners;

#[derive(Debug)]
pub(super) struct FastestDet {
    input: Size,
    columns: usize,
    rows: usize,
    /// Objectness under this cannot reach the floor, as classes are at most 1; less what rounding can do.
    least: f32,
}

impl FastestDet {
    pub fn new(outputs: &mut Outputs, classes: usize, input: Size, floor: f32) -> Result<FastestDet, Fault> {
        outputs.expect_count(1, "1 output")?;
        let channels = 5 + classes;
        let (rows, columns) = match *outputs.dims(0) {
            [c, Some(h), Some(w)] if c.is_none_or(|c| c == channels) && h > 0 && w > 0 => (h, w),
            _ => return Err(outputs.unfit(0, &format!("[batch, {channels}, H, W] with H and W fixed"))),
        };
        outputs.settle(0, [Some(channels), Some(rows), Some(columns)]);
        Ok(FastestDet { input, columns, rows, least: floor.powf(1.0 / 0.6) * (1.0 - 1e-4) })
    }

    pub fn decode(&self, tensor: &TensorView<'_>, sieve: &mut Sieve<'_>) {
        let cells = self.columns * self.rows;
        let (width, height) = (self.input.width as f32, self.input.height as f32);
        let at = |channel: usize, i: usize| tensor.data[channel * cells + i];
        for (i, &objectness) in tensor.data[..cells].iter().enumerate() {
            if objectness < self.least {
                continue;
            }
            let cell = ((i % self.columns) as f32, (i / self.columns) as f32);
            sieve.anchor(
                i,
                |c| at(5 + c, i),
                |class| objectness.powf(0.6) * class.powf(0.4),
                || {
                    let [x, y, w, h] = [1, 2, 3, 4].map(|channel| at(channel, i));
                    corners(
                        (cell.0 + x.tanh()) / self.columns as f32 * width,
                        (cell.1 + y.tanh()) / self.rows as f32 * height,
                        sigmoid(w) * width + taint(&[x, y, w, h]),
                        sigmoid(h) * height,
                    )
                },
            );
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
