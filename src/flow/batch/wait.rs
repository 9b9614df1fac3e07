//! When a frame waits for company: always, or only where that pays.

use std::time::Duration;

use crate::flow::curve::Curve;

/// When a frame waits for company while the engine is free.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a batcher holds one, and it is set four times a second")]
pub enum Wait {
    /// For every camera that is due before the limit.
    Always(Duration),
    /// For a camera that is due before the limit, where that lowers the sum of all latencies: what the frames at hand
    /// lose by it, n·(gap + S(n+1) − S(n)), is less than the S(n) − gap that the newcomer need not wait for the engine.
    /// When `saturated`, also where it raises the engine's rate: (n+1)/(gap + S(n+1)) > n/S(n); the limit counts from
    /// when the engine was free then, as the frames waited for it, not for company, until that.
    WherePays {
        /// The longest.
        limit: Duration,
        /// S(b).
        curve: Curve,
        /// Frames are being lost: rate comes before latency.
        saturated: bool,
        /// Bulk frames fill a batch up to this size only.
        bulk_slots: usize,
    },
}

impl Wait {
    pub(super) fn limit(&self) -> Duration {
        match self {
            Wait::Always(limit) | Wait::WherePays { limit, .. } => *limit,
        }
    }

    pub(super) fn is_saturated(&self) -> bool {
        matches!(self, Wait::WherePays { saturated: true, .. })
    }

    /// The largest batch that bulk frames may make.
    pub(super) fn bulk_slots(&self) -> usize {
        match self {
            Wait::Always(_) => usize::MAX,
            Wait::WherePays { bulk_slots, .. } => *bulk_slots,
        }
    }

    /// Does waiting `gap` for one more frame pay when `frames` wait?
    pub(super) fn pays(&self, frames: usize, gap: Duration) -> bool {
        let Wait::WherePays { curve, .. } = self else { return true };
        let (n, seconds) = (frames as f64, gap.as_secs_f64());
        let (now, one_more) = (curve.service(frames).as_secs_f64(), curve.service(frames + 1).as_secs_f64());
        n * (seconds + one_more - now) < now - seconds || self.pays_in_rate(frames, gap)
    }

    /// Does waiting `gap` for one more frame make the engine give more frames a second, when that is what counts?
    pub(super) fn pays_in_rate(&self, frames: usize, gap: Duration) -> bool {
        let Wait::WherePays { curve, saturated: true, .. } = self else { return false };
        let (n, gap) = (frames as f64, gap.as_secs_f64());
        let (now, one_more) = (curve.service(frames).as_secs_f64(), curve.service(frames + 1).as_secs_f64());
        (n + 1.0) * now > n * (gap + one_more)
    }
}
