//! Greedy non-maximum suppression, per class.
//!
//! The best box stands; every later one of its class that overlaps a standing one by more than the
//! threshold (intersection over union) is the same object seen again. The algorithm is as old as
//! pedestrian detection; this form is that of Girshick et al., *Rich feature hierarchies* (2014),
//! §2.2, and Felzenszwalb et al., *Discriminatively trained part-based models* (2010), §V.
//!
//! It runs on boxes that are already clipped to the frame, so that the promise "no two boxes of one
//! class overlap more than `nms_iou`" holds for what the reader sees.

use std::cmp::Ordering;

use crate::frame::Detection;

use super::sieve::Candidate;

/// Candidates that enter suppression, the best ones. The pairwise step is quadratic: this bounds its
/// time (and a network that answers "everything, everywhere" cannot stall the daemon). NanoDet and the
/// RetinaNet paper use 1000 a level; a street scene at a floor of 0.1 has 50 to 300 in all.
pub const MAX_CANDIDATES: usize = 1000;

/// Detections of one frame, the best ones: the usual 300 of YOLOv8 and of RT-DETR's queries.
pub const MAX_DETECTIONS: usize = 300;

/// Best first; equals by anchor, so the result does not depend on the order of arrival. Scores are finite.
fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.detection.score.total_cmp(&a.detection.score).then(a.index.cmp(&b.index))
}

/// Sorts, caps and (given a threshold) suppresses `candidates`, and appends what stands to `out`.
pub(super) fn finish(candidates: &mut Vec<Candidate>, iou: Option<f32>, out: &mut Vec<Detection>) {
    if candidates.len() > MAX_CANDIDATES {
        candidates.select_nth_unstable_by(MAX_CANDIDATES, best_first);
        candidates.truncate(MAX_CANDIDATES);
    }
    candidates.sort_unstable_by(best_first);
    let first = out.len();
    for candidate in candidates.iter() {
        let new = candidate.detection;
        let seen = iou.is_some_and(|iou| {
            out[first..].iter().any(|old| old.class == new.class && old.bbox.iou(&new.bbox) > iou)
        });
        if !seen {
            out.push(new);
            if out.len() - first == MAX_DETECTIONS {
                break;
            }
        }
    }
}
