//! Anchors as a device may leave them: of each that can become a box its number, its four box values, and the best named class with its
//! score. That is all the rest of decoding needs, and a tenth of a percent of what the network said: the device looks through the
//! classes where they lie, and what it passes over need not cross the bus.
//!
//! [`pick`] says what a device must pick; a kernel that does is held equal to it (tests/nvidia.rs).

use crate::model::spec::TensorView;

use super::sieve::{Classes, Sieve};
use super::yolo::{Yolox, corners};
use super::{Detector, Head};

/// Values a row: number, centre x and y, width and height (as the network has them), class, score. A score that is not a number stands for an
/// anchor that holds a value that is none.
pub const ROW: usize = 7;

/// Numbers of anchors and classes are exact as 32-bit floats below this.
const MOST_ANCHORS: usize = 1 << 24;

/// How one frame's anchors lie in the network's only output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchors {
    /// Values of each: 4 of the box, the objectness if there is one, the classes.
    pub values: usize,
    /// How many.
    pub count: usize,
    /// [count, values] rather than [values, count].
    pub by_rows: bool,
    /// The fifth value is one, and the score is its product with the class.
    pub objectness: bool,
}

impl Anchors {
    /// Where the first class stands among the values.
    pub fn first_class(&self) -> usize {
        if self.objectness { 5 } else { 4 }
    }

    /// Place of a value in the tensor.
    fn at(&self, anchor: usize, value: usize) -> usize {
        if self.by_rows { anchor * self.values + value } else { value * self.count + anchor }
    }
}

impl Detector {
    /// How the anchors lie, where they can be picked: one output of fixed size, of a family whose score is a class, or objectness times class.
    pub fn anchors(&self) -> Option<Anchors> {
        let (&[a, b], true) = (self.outputs.dims(0), self.outputs.is_alone()) else { return None };
        let (rows, columns) = (a?, b?);
        let by_rows = match &self.head {
            Head::Yolox(_) | Head::Yolov5(_) => true,
            Head::Yolov8(head) => head.by_rows(),
            _ => return None,
        };
        let objectness = !matches!(self.head, Head::Yolov8(_));
        let (count, values) = if by_rows { (rows, columns) } else { (columns, rows) };
        (count < MOST_ANCHORS).then_some(Anchors { values, count, by_rows, objectness })
    }

    /// For each class column whether it has a name: only those can be the best.
    pub fn named(&self) -> Vec<bool> {
        (0..self.classes.count()).map(|class| self.classes.is_named(class)).collect()
    }
}

/// What a device must leave of one frame's tensor: the rows ([`ROW`] values each) of the anchors whose best named class (the first of equals)
/// has a score that is not under `floor`, or of which a value that decides that is not finite. Anchors whose objectness is under the floor are
/// not looked at further.
pub fn pick(data: &[f32], anchors: &Anchors, named: &[bool], floor: f32) -> Vec<f32> {
    let mut rows = Vec::new();
    for anchor in 0..anchors.count {
        let value = |k: usize| data[anchors.at(anchor, k)];
        let objectness = if anchors.objectness { value(4) } else { 1.0 };
        if objectness < floor {
            continue;
        }
        let (mut best, mut most, mut sound) = (0, f32::NEG_INFINITY, true);
        for class in (0..named.len()).filter(|class| named[*class]) {
            let v = value(anchors.first_class() + class);
            sound &= v.is_finite();
            if v > most {
                (best, most) = (class, v);
            }
        }
        let score = if sound { objectness * most } else { f32::NAN };
        if score < floor {
            continue;
        }
        rows.push(anchor as f32);
        rows.extend((0..4).map(value));
        rows.extend([best as f32, score]);
    }
    rows
}

/// Reads rows that were picked.
pub(super) fn decode(head: &Head, classes: &Classes, tensor: &TensorView<'_>, sieve: &mut Sieve<'_>) {
    for row in tensor.data.chunks_exact(ROW) {
        let &[number, cx, cy, w, h, class, score] = row else { continue };
        let (number, class) = (number as usize, class as usize);
        // The scores of a device are its own affair, but a class that is none would be another's name.
        if !score.is_finite() || !classes.is_named(class) {
            sieve.report.non_finite += 1;
            continue;
        }
        let place = || match head {
            Head::Yolox(head) => head.corners(number, &[cx, cy, w, h]),
            _ => corners(cx, cy, w, h),
        };
        sieve.classified(number, class, score, place);
    }
}

impl Yolox {
    /// Corners of an anchor's box, in pixels of the tensor.
    fn corners(&self, number: usize, values: &[f32; 4]) -> [f32; 4] {
        let mut first = 0;
        for level in self.levels() {
            if number < first + level.cells {
                return level.corners(number - first, values);
            }
            first += level.cells;
        }
        // No such anchor: not finite, so it is dropped and counted.
        [f32::NAN; 4]
    }
}
