//! How often a camera delivers, measured: the median of its last gaps.
//!
//! The median, because gaps are not normal: a camera that pauses for half a second at each key frame, or a
//! TCP link that hands over ten frames at once, is still a 30 fps camera.

use std::time::Duration;

use crate::clock::Tick;

const GAPS: usize = 7;

/// The measured time between frames of one camera.
#[derive(Clone, Copy, Default)]
pub(super) struct Interval {
    /// Nanoseconds; the first `known` entries count.
    gaps: [u64; GAPS],
    known: usize,
    oldest: usize,
    last: Option<Tick>,
    median: Option<Duration>,
}

impl Interval {
    /// A frame came.
    pub fn note(&mut self, now: Tick) {
        let Some(last) = self.last.replace(now) else { return };
        self.gaps[self.oldest] = now.as_nanos() - last.as_nanos();
        self.oldest = (self.oldest + 1) % GAPS;
        self.known = (self.known + 1).min(GAPS);
        let mut sorted = self.gaps;
        let sorted = &mut sorted[..self.known];
        sorted.sort_unstable();
        self.median = Some(Duration::from_nanos(sorted[self.known / 2]));
    }

    /// The usual time between two frames; `None` before the second frame.
    pub fn usual(&self) -> Option<Duration> {
        self.median
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(gaps_ms: &[u64]) -> Option<Duration> {
        let (mut interval, mut now) = (Interval::default(), 1_000);
        interval.note(Tick::from_millis(now));
        for gap in gaps_ms {
            now += gap;
            interval.note(Tick::from_millis(now));
        }
        interval.usual()
    }

    #[test]
    fn a_pause_and_the_burst_after_it_do_not_change_the_rate() {
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[40]), Some(Duration::from_millis(40)));
        assert_eq!(after(&[33, 33, 33, 33, 500, 1, 1]), Some(Duration::from_millis(33)));
    }

    #[test]
    fn a_new_rate_is_known_after_four_frames() {
        assert_eq!(
            after(&[33, 33, 33, 33, 33, 33, 33, 100, 100, 100, 100]),
            Some(Duration::from_millis(100))
        );
    }
}
