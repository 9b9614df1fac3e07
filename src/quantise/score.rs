//! How much two networks agree, and how right one is.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::Path;

use crate::fault::{Fault, Who};
use crate::frame::{BBox, Detection};

/// Two boxes are of the same object from this overlap on, as in PASCAL VOC.
const SAME: f32 = 0.5;

/// Takes out what overlaps most, if that is enough to be of the same object.
fn take_same<T>(free: &mut Vec<T>, overlap: impl Fn(&T) -> f32) -> Option<T> {
    let best = (0..free.len()).max_by(|a, b| overlap(&free[*a]).total_cmp(&overlap(&free[*b])));
    best.filter(|i| overlap(&free[*i]) >= SAME).map(|i| free.swap_remove(i))
}

/// The old network's boxes, and what the new one made of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Agreement {
    old: u32,
    found: u32,
    extra: u32,
    iou: f64,
    score: f64,
    alike: f64,
}

impl Agreement {
    /// One picture. Boxes of `old` from `least` on count; those of `new` from half of it on may answer them, and from `least` on they are extra
    /// if they answer none.
    pub fn add(&mut self, old: &[Detection], new: &[Detection], least: f32) {
        let mut free: Vec<&Detection> = new.iter().filter(|d| d.score >= least / 2.0).collect();
        for box_ in old.iter().filter(|d| d.score >= least) {
            self.old += 1;
            let overlap = |d: &&Detection| if d.class == box_.class { d.bbox.iou(&box_.bbox) } else { 0.0 };
            let Some(answer) = take_same(&mut free, overlap) else { continue };
            self.found += 1;
            let (iou, apart) = (answer.bbox.iou(&box_.bbox), (answer.score - box_.score).abs());
            self.iou += f64::from(iou);
            self.score += f64::from(apart);
            self.alike += f64::from(iou * (1.0 - apart));
        }
        self.extra += free.iter().filter(|d| d.score >= least).count() as u32;
    }

    /// How alike they are, 0..=1: a box counts by its overlap and by how close its score is, one too many counts as one missed.
    pub fn worth(&self) -> f64 {
        let all = f64::from(self.old + self.extra);
        if all == 0.0 { 1.0 } else { (self.alike / all).max(0.0) }
    }

    /// The part that was found again; 1 when there was nothing to find.
    pub fn found(&self) -> f64 {
        if self.old == 0 { 1.0 } else { f64::from(self.found) / f64::from(self.old) }
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = f64::from(self.found.max(1));
        write!(
            f,
            "{} of {} boxes found again ({:.1} %), mean IoU {:.3}, scores {:.3} apart; {} boxes more",
            self.found,
            self.old,
            100.0 * self.found(),
            self.iou / each,
            self.score / each,
            self.extra
        )
    }
}

/// True boxes by frame.
#[derive(Debug)]
pub struct Truth(HashMap<u64, Vec<BBox>>);

impl Truth {
    /// Reads MOTChallenge's `gt.txt`: `frame, id, left, top, width, height, counts, …`, frames, left and top from 1.
    ///
    /// # Errors
    /// Names the first line that is none.
    pub fn read(path: &Path) -> Result<Truth, Fault> {
        let bad = |what: String| {
            Fault::new(Who::Config, "truth", format!("the ground truth {}: {what}", path.display()))
        };
        let text = fs::read_to_string(path).map_err(|e| bad(format!("cannot be read: {e}")))?;
        let mut frames: HashMap<u64, Vec<BBox>> = HashMap::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let fields: Option<Vec<f32>> = line.split(',').map(|v| v.trim().parse().ok()).collect();
            let [frame, _, x, y, w, h, ref rest @ ..] = fields.unwrap_or_default()[..] else {
                return Err(bad(format!("line {number} is not `frame,id,left,top,width,height,…`"))
                    .remedy("give a gt.txt of the MOTChallenge format"));
            };
            if rest.first().is_none_or(|counts| *counts != 0.0) {
                frames.entry(frame as u64).or_default().push(BBox { x: x - 1.0, y: y - 1.0, w, h });
            }
        }
        Ok(Truth(frames))
    }

    /// The boxes of a frame, counted from 1.
    pub fn of(&self, frame: u64) -> &[BBox] {
        self.0.get(&frame).map_or(&[], Vec::as_slice)
    }
}

/// Average precision over many pictures: the area under the curve of precision against recall, which is made never to rise (PASCAL VOC 2010).
#[derive(Debug, Default)]
pub struct Precision {
    truths: usize,
    found: Vec<(f32, bool)>,
}

impl Precision {
    /// One picture.
    pub fn add<'a>(&mut self, truth: &[BBox], found: impl Iterator<Item = &'a Detection>) {
        self.truths += truth.len();
        let mut free: Vec<&BBox> = truth.iter().collect();
        let mut found: Vec<&Detection> = found.collect();
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        for detection in found {
            let hit = take_same(&mut free, |b| b.iou(&detection.bbox));
            self.found.push((detection.score, hit.is_some()));
        }
    }

    /// True boxes so far.
    pub fn truths(&self) -> usize {
        self.truths
    }

    /// 0..=1.
    pub fn average(mut self) -> f64 {
        self.found.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut hits = 0;
        let mut points: Vec<(f64, f64)> = Vec::with_capacity(self.found.len());
        for (n, (_, hit)) in (1..).zip(&self.found) {
            hits += u32::from(*hit);
            points.push((f64::from(hits) / self.truths.max(1) as f64, f64::from(hits) / f64::from(n)));
        }
        let (mut area, mut height) = (0.0, 0.0f64);
        for i in (0..points.len()).rev() {
            let (recall, precision) = points[i];
            height = height.max(precision);
            area += height * (recall - if i == 0 { 0.0 } else { points[i - 1].0 });
        }
        area
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(x: f32, score: f32, class: u16) -> Detection {
        Detection { bbox: BBox { x, y: 0.0, w: 10.0, h: 10.0 }, class, score }
    }

    #[test]
    fn the_same_boxes_agree_wholly() {
        let boxes = [boxed(0.0, 0.9, 1), boxed(50.0, 0.4, 1), boxed(90.0, 0.1, 1)];
        let mut agreement = Agreement::default();
        agreement.add(&boxes, &boxes, 0.3);
        assert_eq!((agreement.old, agreement.found, agreement.extra), (2, 2, 0));
    }

    #[test]
    fn a_lost_box_one_of_another_class_and_one_too_many_are_told() {
        let old = [boxed(0.0, 0.9, 1), boxed(50.0, 0.8, 1), boxed(100.0, 0.8, 1)];
        let new = [boxed(1.0, 0.2, 1), boxed(50.0, 0.8, 2)];
        let mut agreement = Agreement::default();
        agreement.add(&old, &new, 0.3);
        assert_eq!((agreement.old, agreement.found, agreement.extra), (3, 1, 1));
    }

    #[test]
    fn average_precision_is_that_of_a_worked_example() {
        let truth = [BBox { x: 0.0, y: 0.0, w: 10.0, h: 10.0 }, BBox { x: 50.0, y: 0.0, w: 10.0, h: 10.0 }];
        let mut precision = Precision::default();
        // A hit, a miss, a hit: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
        precision.add(&truth, [boxed(0.0, 0.9, 0), boxed(200.0, 0.8, 0), boxed(50.0, 0.7, 0)].iter());
        assert!((precision.average() - (0.5 + 0.5 * 2.0 / 3.0)).abs() < 1e-9);
        let mut twice = Precision::default();
        // One true box answers one detection only.
        twice.add(&truth[..1], [boxed(0.0, 0.9, 0), boxed(0.0, 0.8, 0)].iter());
        assert!((twice.average() - 1.0).abs() < 1e-9);
    }
}
