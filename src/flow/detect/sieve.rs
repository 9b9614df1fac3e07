//! What becomes of one decoded anchor: its class, its place in the source picture, or why it goes.

use std::ops::Range;
use std::sync::Arc;

use crate::frame::{BBox, Detection, Size};
use crate::model::spec::Placement;

use super::DecodeReport;

/// A box that may be kept. `index` is its anchor's, which makes every order total.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub detection: Detection,
    pub index: u32,
}

/// Which class columns have a name.
#[derive(Debug)]
pub(super) struct Classes {
    count: usize,
    /// Runs of named columns, ascending.
    named: Vec<Range<usize>>,
}

impl Classes {
    pub fn new(labels: &[Arc<str>]) -> Result<Classes, String> {
        if labels.len() > usize::from(u16::MAX) {
            return Err(format!("{} labels are more than {}", labels.len(), u16::MAX));
        }
        let mut named: Vec<Range<usize>> = Vec::new();
        for (class, _) in labels.iter().enumerate().filter(|(_, label)| !label.is_empty()) {
            match named.last_mut() {
                Some(run) if run.end == class => run.end += 1,
                _ => named.push(class..class + 1),
            }
        }
        if named.is_empty() {
            return Err("none of its labels has a name".into());
        }
        Ok(Classes { count: labels.len(), named })
    }

    /// Columns, with and without a name.
    pub fn count(&self) -> usize {
        self.count
    }

    /// From the first named column to the last: what a cheap scan looks at.
    pub fn hull(&self) -> Range<usize> {
        // `new` made sure of one run.
        self.named[0].start..self.named[self.named.len() - 1].end
    }

    pub fn is_named(&self, class: usize) -> bool {
        self.named.iter().any(|run| run.contains(&class))
    }

    /// The named class with the greatest value (the first of equals), or `None` when one of them is not finite.
    fn best(&self, value: impl Fn(usize) -> f32) -> Option<(usize, f32)> {
        let mut best = (0, f32::NEG_INFINITY);
        for class in self.named.iter().cloned().flatten() {
            let v = value(class);
            if !v.is_finite() {
                return None;
            }
            if v > best.1 {
                best = (class, v);
            }
        }
        Some(best)
    }
}

/// Takes what a head decodes, one anchor after another, and keeps what is sound and visible.
pub(super) struct Sieve<'a> {
    pub classes: &'a Classes,
    pub floor: f32,
    pub place: &'a Placement,
    pub frame: Size,
    pub candidates: &'a mut Vec<Candidate>,
    pub report: &'a mut DecodeReport,
}

impl Sieve<'_> {
    /// An anchor: its class values by column, how a class value becomes the score, and its corners
    /// (x1, y1, x2, y2 in pixels of the input tensor), asked for only when the score reaches the floor.
    #[inline]
    pub fn anchor(
        &mut self,
        index: usize,
        class_value: impl Fn(usize) -> f32,
        score: impl Fn(f32) -> f32,
        corners: impl FnOnce() -> [f32; 4],
    ) {
        match self.classes.best(class_value) {
            None => self.report.non_finite += 1,
            Some((class, value)) => self.classified(index, class, score(value), corners),
        }
    }

    /// The same for an anchor whose class is known.
    #[inline]
    pub fn classified(&mut self, index: usize, class: usize, score: f32, corners: impl FnOnce() -> [f32; 4]) {
        if score < self.floor {
            return;
        }
        let [x1, y1, x2, y2] = corners();
        let place = self.place;
        let bbox = BBox {
            x: (x1 - place.offset_x) / place.scale_x,
            y: (y1 - place.offset_y) / place.scale_y,
            w: (x2 - x1) / place.scale_x,
            h: (y2 - y1) / place.scale_y,
        };
        let finite = [score, bbox.x, bbox.y, bbox.w, bbox.h].iter().all(|v| v.is_finite());
        if !finite {
            self.report.non_finite += 1;
            return;
        }
        let bbox = bbox.clamp_to(self.frame);
        // Empty: inside out, or wholly in the letterbox bars.
        if bbox.w <= 0.0 || bbox.h <= 0.0 {
            return;
        }
        // A probability, whatever a network without its last sigmoid says.
        let detection = Detection { bbox, class: class as u16, score: score.min(1.0) };
        self.candidates.push(Candidate { detection, index: index as u32 });
    }
}

/// 0, or NaN when one of the values is not finite: added to a result, it undoes what a saturating function
/// (tanh, a sigmoid, exp of −∞) has hidden.
#[inline]
pub(super) fn taint(values: &[f32]) -> f32 {
    values.iter().map(|v| v * 0.0).sum()
}
