//! A camera's rate cap (`max_fps`): which frames of a faster camera are kept, by time, not "every nth".
//!
//! Frames are kept on an even grid in time, the nearest frame to each grid point: 30 → 20 fps keeps two of three,
//! and a camera whose rate wanders is still capped at what was asked. (The generic cell rate algorithm of ITU-T I.371,
//! with half a frame of tolerance.)

use std::time::Duration;

use super::interval::Interval;
use crate::clock::Tick;

/// Thins one camera to at most so many frames a second.
pub struct Cap {
    period: Duration,
    interval: Interval,
    next: Tick,
}

impl Cap {
    /// Keeps at most `fps` frames a second, 0.01 and more.
    pub fn new(fps: f64) -> Self {
        Cap {
            period: Duration::from_secs_f64(1.0 / fps.max(0.01)),
            interval: Interval::default(),
            next: Tick::ZERO,
        }
    }

    /// Another rate from now on.
    pub fn set(&mut self, fps: f64) {
        self.period = Duration::from_secs_f64(1.0 / fps.max(0.01));
    }

    /// Frames a second.
    pub fn fps(&self) -> f64 {
        1.0 / self.period.as_secs_f64()
    }

    /// Would a frame that comes at `now`, and every one within an interval after it, be refused? Then it need not be
    /// decoded. A frame that is decoded later than it came is nearer to the grid point, hence the second interval.
    pub fn is_closed(&self, now: Tick) -> bool {
        now + self.interval.usual().unwrap_or_default() * 2 < self.next
    }

    /// A frame came and was not decoded.
    pub fn passed(&mut self, now: Tick) {
        self.interval.note(now);
    }

    /// Is the frame of this moment kept?
    pub fn keeps(&mut self, now: Tick) -> bool {
        self.interval.note(now);
        // The next frame would be farther from the grid point than this one.
        let half = self.interval.usual().unwrap_or_default().min(self.period) / 2;
        if now + half < self.next {
            return false;
        }
        // After a gap the grid starts anew: a pause earns no burst.
        let behind = now.since(self.next) > self.period;
        self.next = if behind { now + self.period } else { self.next + self.period };
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(cap: &mut Cap, times: impl IntoIterator<Item = u64>) -> Vec<u64> {
        times.into_iter().filter(|&ms| cap.keeps(Tick::from_millis(ms))).collect()
    }

    #[test]
    fn two_of_three_is_even() {
        let times = kept(&mut Cap::new(20.0), (1..=30).map(|n| 1_000 + n * 1_000 / 30));
        let gaps: Vec<u64> = times.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(times.len(), 20);
        assert!(gaps.iter().all(|gap| (33..=67).contains(gap)), "{gaps:?}");
    }

    #[test]
    fn a_pause_earns_no_burst() {
        let mut cap = Cap::new(10.0);
        kept(&mut cap, (0..30).map(|n| n * 33));
        let after = kept(&mut cap, (0..30).map(|n| 5_000 + n * 33));
        assert!((10..=11).contains(&after.len()), "{after:?}");
    }

    proptest! {
        /// Whatever a camera delivers, no more than asked is kept, and all of a slower camera.
        #[test]
        fn the_rate_is_capped(fps in 1.0f64..60.0, gaps in prop::collection::vec(1u64..120, 50..400)) {
            let (mut cap, mut now) = (Cap::new(fps), 1_000);
            let mut times = Vec::new();
            for gap in &gaps {
                now += gap;
                times.push(now);
            }
            let kept = kept(&mut cap, times.iter().copied());
            let seconds = (now - times[0]) as f64 / 1e3;
            prop_assert!(kept.len() as f64 <= seconds * fps + 2.0, "{} in {seconds} s", kept.len());
            if gaps.iter().all(|gap| *gap as f64 >= 1e3 / fps) {
                prop_assert_eq!(kept.len(), times.len());
            }
        }

        /// A steady camera keeps the rate that was asked, within a frame in ten seconds.
        #[test]
        fn a_faster_camera_reaches_its_cap(fps in 1.0f64..25.0, camera in 26u64..120) {
            let times = (0..camera * 10).map(|n| 1_000 + n * 1_000 / camera);
            let kept = kept(&mut Cap::new(fps), times).len() as f64;
            prop_assert!((kept - fps * 10.0).abs() <= 1.5, "{kept} at {fps}");
        }
    }
}
