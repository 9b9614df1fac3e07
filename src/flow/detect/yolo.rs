//! The YOLO families whose rows hold a box as centre and size, and class scores that are already sigmoids.
//!
//! - YOLOX: Ge et al., *YOLOX: Exceeding YOLO Series in 2021*, exported without `--decode_in_inference`:
//!   [N, 5 + C] over strides 8, 16, 32 (and 64), each grid row by row.
//! - YOLOv5 and v7: [N, 5 + C], boxes in input pixels. Score = objectness · class for both.
//! - YOLOv8, v9, v11: [4 + C, N] as exported, or its transpose; no objectness.

use crate::fault::Fault;
use crate::frame::Size;
use crate::model::spec::TensorView;

use super::scan;
use super::shape::{Outputs, may_be};
use super::sieve::{Sieve, taint};

/// Centre and size to corners.
#[inline]
pub(super) fn corners(cx: f32, cy: f32, w: f32, h: f32) -> [f32; 4] {
    [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]
}

/// One square grid of anchors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Level {
    pub stride: usize,
    pub columns: usize,
    pub cells: usize,
}

impl Level {
    /// Corners of the box of a cell's anchor, of YOLOX's four values.
    #[inline]
    pub fn corners(&self, cell: usize, row: &[f32]) -> [f32; 4] {
        let (column, line, stride) = (cell % self.columns, cell / self.columns, self.stride as f32);
        corners(
            (row[0] + column as f32) * stride,
            (row[1] + line as f32) * stride,
            row[2].exp() * stride + taint(&row[2..4]),
            row[3].exp() * stride,
        )
    }
}

/// The grids of `strides` over an input. Sizes that a stride does not divide are rounded up, as a padded
/// convolution does.
pub(super) fn levels(input: Size, strides: &[usize]) -> Vec<Level> {
    strides
        .iter()
        .map(|&stride| {
            let columns = (input.width as usize).div_ceil(stride);
            let rows = (input.height as usize).div_ceil(stride);
            Level { stride, columns, cells: columns * rows }
        })
        .collect()
}

#[derive(Debug)]
pub(super) struct Yolox {
    width: usize,
    levels: Vec<Level>,
}

impl Yolox {
    pub fn new(outputs: &mut Outputs, classes: usize, input: Size) -> Result<Yolox, Fault> {
        outputs.expect_count(1, "1 output")?;
        let three = levels(input, &[8, 16, 32]);
        let four = levels(input, &[8, 16, 32, 64]);
        let anchors = |levels: &[Level]| levels.iter().map(|l| l.cells).sum::<usize>();
        let width = 5 + classes;
        let levels = match *outputs.dims(0) {
            [n, c] if may_be(c, width) && may_be(n, anchors(&three)) => three,
            [n, c] if may_be(c, width) && may_be(n, anchors(&four)) => four,
            _ => {
                let wanted = format!(
                    "[batch, {}, {width}] (strides 8, 16, 32 over {input}) or [batch, {}, {width}] (and 64)",
                    anchors(&three),
                    anchors(&four)
                );
                return Err(outputs.unfit(0, &wanted));
            }
        };
        outputs.settle(0, [Some(anchors(&levels)), Some(width)]);
        Ok(Yolox { width, levels })
    }

    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    pub fn decode(&self, tensor: &TensorView<'_>, sieve: &mut Sieve<'_>) {
        let mut first = 0;
        for level in &self.levels {
            let part = &tensor.data[first * self.width..][..level.cells * self.width];
            objects(part, self.width, first, sieve, |i, row| level.corners(i - first, row));
            first += level.cells;
        }
    }
}

/// Rows of 4 box values, objectness and classes. `first` is the number of the first row.
fn objects(
    data: &[f32],
    width: usize,
    first: usize,
    sieve: &mut Sieve<'_>,
    corners: impl Fn(usize, &[f32]) -> [f32; 4],
) {
    for (i, row) in data.chunks_exact(width).enumerate() {
        let objectness = row[4];
        // Classes are at most 1: under the floor already. NaN is not under it, and goes on to be counted.
        if objectness < sieve.floor {
            continue;
        }
        let i = first + i;
        sieve.anchor(i, |c| row[5 + c], |class| objectness * class, || corners(i, row));
    }
}

#[derive(Debug)]
pub(super) struct Yolov5 {
    width: usize,
}

impl Yolov5 {
    pub fn new(outputs: &mut Outputs, classes: usize) -> Result<Yolov5, Fault> {
        outputs.expect_count(1, "1 output")?;
        let width = 5 + classes;
        match *outputs.dims(0) {
            [n, c] if may_be(c, width) => outputs.settle(0, [n, Some(width)]),
            _ => return Err(outputs.unfit(0, &format!("[batch, N, {width}]"))),
        }
        Ok(Yolov5 { width })
    }

    pub fn decode(&self, tensor: &TensorView<'_>, sieve: &mut Sieve<'_>) {
        objects(tensor.data, self.width, 0, sieve, |_, r| corners(r[0], r[1], r[2], r[3]));
    }
}

#[derive(Debug)]
pub(super) struct Yolov8 {
    width: usize,
    /// [N, 4 + C] rather than [4 + C, N].
    by_rows: bool,
}

impl Yolov8 {
    pub fn new(outputs: &mut Outputs, classes: usize) -> Result<Yolov8, Fault> {
        outputs.expect_count(1, "1 output")?;
        let width = 4 + classes;
        let wanted = || format!("[batch, {width}, N] or [batch, N, {width}]");
        let by_rows = match *outputs.dims(0) {
            // Both dimensions equal: the order that exporters write by themselves.
            [Some(c), n] if c == width => {
                outputs.settle(0, [Some(width), n]);
                false
            }
            [n, Some(c)] if c == width => {
                outputs.settle(0, [n, Some(width)]);
                true
            }
            _ => return Err(outputs.unfit(0, &wanted())),
        };
        Ok(Yolov8 { width, by_rows })
    }

    pub fn by_rows(&self) -> bool {
        self.by_rows
    }

    pub fn decode(&self, tensor: &TensorView<'_>, sieve: &mut Sieve<'_>) {
        let data = tensor.data;
        let (hull, floor) = (sieve.classes.hull(), sieve.floor);
        if self.by_rows {
            scan::rows(data, self.width, 4 + hull.start, hull.len(), floor, |i| {
                let row = &data[i * self.width..][..self.width];
                sieve.anchor(i, |c| row[4 + c], |s| s, || corners(row[0], row[1], row[2], row[3]));
            });
            return;
        }
        let anchors = tensor.shape[1];
        if anchors == 0 {
            return;
        }
        let at = |row: usize, i: usize| data[row * anchors + i];
        let classes = &data[(4 + hull.start) * anchors..(4 + hull.end) * anchors];
        scan::columns(classes, anchors, floor, |i| {
            sieve.anchor(i, |c| at(4 + c, i), |s| s, || corners(at(0, i), at(1, i), at(2, i), at(3, i)));
        });
    }
}
