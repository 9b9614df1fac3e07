//! S(b): how long the engine takes for a batch of b frames, measured rung by rung and kept fresh.
//!
//! Everything that the daemon promises about time follows from this curve: which batch is worth while, how long
//! waiting for company pays, how many cameras fit. It is never assumed, always measured.

use std::time::Duration;

/// Most rungs that a curve holds: batches of 1, 2, 4, … 128.
pub const MOST_RUNGS: usize = 8;

/// How much one run moves its rung: about the last twenty runs count.
const FRESH: f64 = 0.1;

/// The same for what batches are compared by: about the last hundred. A machine that stutters for a run or two does not change which pays.
const STEADY: f64 = 0.02;
/// A rung that none of so many runs were of is old.
const OLD: u8 = 20;
/// How much one run moves an old rung towards the nearest that is not: up soon, as what slows one slows the other; down seldom, so that a
/// size that did not pay is tried again, but not all the time.
const FOLLOW: [f64; 2] = [0.2, 0.002];

/// One batch size and its time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rung {
    /// Frames in the batch.
    pub frames: usize,
    /// S(b), all of a run that scales with nothing but the batch: preprocess and engine.
    pub service: Duration,
}

/// Service times by batch size, ascending. Small and `Copy`: it is handed around, never shared.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Curve {
    rungs: [Rung; MOST_RUNGS],
    known: usize,
    /// Times as they were measured at start, in seconds, and what they are now against that, in the long run.
    first: [f64; MOST_RUNGS],
    slowed: [f64; MOST_RUNGS],
    /// Runs since the last one of each rung, up to [`OLD`].
    idle: [u8; MOST_RUNGS],
    /// Batches between rungs are padded to the next one.
    padded: bool,
}

impl Curve {
    /// From measured rungs, ascending by frames; what is beyond [`MOST_RUNGS`] is left out.
    pub fn new(rungs: &[Rung]) -> Self {
        debug_assert!(rungs.is_sorted_by(|a, b| a.frames < b.frames));
        // Measured while the engine had nothing else to do and the cameras were not there: old from the beginning.
        let mut curve = Curve { idle: [OLD; MOST_RUNGS], slowed: [1.0; MOST_RUNGS], ..Curve::default() };
        for rung in rungs.iter().take(MOST_RUNGS) {
            curve.rungs[curve.known] = *rung;
            curve.first[curve.known] = rung.service.as_secs_f64().max(1e-9);
            curve.known += 1;
        }
        curve
    }

    /// The same for an engine that runs only the rungs themselves: a batch in between is padded and takes the next one's time.
    pub fn padded(self) -> Self {
        Curve { padded: true, ..self }
    }

    /// The same with every time multiplied by `factor`.
    pub fn scaled(mut self, factor: f64) -> Self {
        for rung in &mut self.rungs[..self.known] {
            rung.service = rung.service.mul_f64(factor);
        }
        self.first = self.first.map(|seconds| seconds * factor);
        self
    }

    /// Does the engine run only the rungs themselves?
    pub fn is_padded(&self) -> bool {
        self.padded
    }

    /// The rungs, ascending.
    pub fn rungs(&self) -> &[Rung] {
        &self.rungs[..self.known]
    }

    /// S(`frames`): between rungs on the line from one to the next (or the next one's, if padded), beyond the last at its price a frame. Zero for an empty curve.
    pub fn service(&self, frames: usize) -> Duration {
        let seconds = |rung: &Rung| rung.service.as_secs_f64();
        let above = self.rungs().iter().position(|rung| rung.frames >= frames);
        let time = match above.map(|i| (i, &self.rungs[i])) {
            Some((_, rung)) if rung.frames == frames || self.padded => return rung.service,
            Some((0, first)) => seconds(first),
            Some((i, above)) => {
                let below = &self.rungs[i - 1];
                let part = (frames - below.frames) as f64 / (above.frames - below.frames) as f64;
                seconds(below) + part * (seconds(above) - seconds(below))
            }
            None => match self.rungs().last() {
                Some(last) => seconds(last) * frames as f64 / last.frames as f64,
                None => 0.0,
            },
        };
        Duration::from_secs_f64(time.max(0.0))
    }

    /// Frames a second in batches of `frames`.
    pub fn rate(&self, frames: usize) -> f64 {
        frames as f64 / self.service(frames).as_secs_f64().max(1e-9)
    }

    /// The largest batch that pays: the last rung that makes a frame at least 5 % cheaper than the best smaller
    /// one, for each time that it doubles that. Beyond it a batch only adds latency (on a CPU that is often rung 1).
    pub fn largest_useful(&self) -> usize {
        let frames = |n: usize| self.rungs[n].frames as f64;
        let per_frame = |n: usize| self.first[n] * self.slowed[n] / frames(n);
        let mut best: Option<usize> = None;
        for n in 0..self.known {
            let gains =
                |b: usize| per_frame(n) <= 0.95f64.powf((frames(n) / frames(b)).log2()) * per_frame(b);
            if best.is_none_or(gains) {
                best = Some(n);
            }
        }
        best.map_or(1, |n| self.rungs[n].frames)
    }

    /// The engine's rate at its largest useful batch, frames a second.
    pub fn capacity(&self) -> f64 {
        self.rate(self.largest_useful())
    }

    /// A batch of `frames` took `took`: moves the curve there, so that it follows a machine that is hotter or busier than at start.
    ///
    /// What slows one size down slows the others: a rung that has not run for long becomes as slow, against its time at start, as the nearest
    /// one that has, some fifty runs late. Without that, a CPU that also decodes shows the batches that run at twice the time and all others at what they took on
    /// a quiet machine, and the largest would seem to pay.
    pub fn note(&mut self, frames: usize, took: Duration) {
        let expected = self.service(frames).as_secs_f64();
        if expected <= 0.0 {
            return;
        }
        // One hung run must not move the curve by more than a few per cent.
        let limit = |ratio: f64| ratio.clamp(0.5, 2.0);
        let ratio = limit(took.as_secs_f64() / expected);
        let above = self.rungs().iter().position(|rung| rung.frames >= frames).unwrap_or(self.known - 1);
        let exact = self.rungs[above].frames == frames || self.padded;
        let ran = if exact { above } else { above.saturating_sub(1) }..=above;
        for n in 0..self.known {
            if ran.contains(&n) {
                self.idle[n] = 0;
                let now = self.rungs[n].service.as_secs_f64() * ratio / self.first[n];
                self.slowed[n] *= 1.0 + STEADY * (limit(now / self.slowed[n]) - 1.0);
                let service = &mut self.rungs[n].service;
                *service = service.mul_f64(1.0 + FRESH * (ratio - 1.0));
            } else {
                self.idle[n] = (self.idle[n] + 1).min(OLD);
            }
        }
        for n in 0..self.known {
            let nearest = (0..self.known).filter(|n| self.idle[*n] < OLD).min_by_key(|of| of.abs_diff(n));
            if let Some(nearest) = nearest.filter(|_| self.idle[n] == OLD) {
                let apart = self.slowed[nearest] - self.slowed[n];
                self.slowed[n] += FOLLOW[usize::from(apart < 0.0)] * apart;
                self.rungs[n].service = Duration::from_secs_f64(self.first[n] * self.slowed[n]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn curve(rungs: &[(usize, u64)]) -> Curve {
        let rung = |&(frames, ms)| Rung { frames, service: Duration::from_millis(ms) };
        Curve::new(&rungs.iter().map(rung).collect::<Vec<_>>())
    }

    #[test]
    fn a_batch_pays_only_while_it_makes_frames_cheaper() {
        assert_eq!(curve(&[(1, 20), (2, 40), (4, 80)]).largest_useful(), 1, "a CPU");
        assert_eq!(curve(&[(1, 10), (2, 11), (4, 14), (8, 27)]).largest_useful(), 4, "a GPU, full at 4");
        assert_eq!(curve(&[(1, 10), (2, 20), (4, 28)]).largest_useful(), 4, "a dip on the way");
        assert_eq!(
            curve(&[(1, 82), (2, 156), (4, 304), (8, 609)]).largest_useful(),
            1,
            "a busy CPU: 7 % for 7 times the latency"
        );
        assert_eq!(curve(&[]).largest_useful(), 1);
    }

    #[test]
    fn between_rungs_time_lies_on_the_line() {
        let curve = curve(&[(1, 10), (4, 16), (8, 32)]);
        let ms = |frames| curve.service(frames).as_secs_f64() * 1e3;
        assert_eq!([1, 2, 4, 6, 8, 16].map(|n| ms(n).round()), [10.0, 12.0, 16.0, 24.0, 32.0, 64.0]);
    }

    #[test]
    fn what_was_slow_once_is_tried_again() {
        let mut curve = curve(&[(1, 10), (8, 40)]);
        for _ in 0..100 {
            curve.note(1, Duration::from_millis(10));
            curve.note(8, Duration::from_millis(100));
        }
        assert_eq!(curve.largest_useful(), 1);
        // The engine is as fast as ever again, and each frame runs alone.
        let tries = (0..5000).position(|_| {
            curve.note(1, Duration::from_millis(10));
            curve.largest_useful() == 8
        });
        assert!(tries.is_some_and(|runs| (200..3000).contains(&runs)), "{tries:?}");
    }

    #[test]
    fn a_busy_machine_does_not_make_batches_seem_to_pay() {
        // Two cores that are alone take 37 ms for a frame and 33 for one of 32; with cameras decoding beside, twice that.
        let mut curve = curve(&[(1, 37), (2, 71), (4, 139), (8, 275), (16, 540), (32, 1060)]);
        assert_eq!(curve.largest_useful(), 1);
        for _ in 0..200 {
            curve.note(1, Duration::from_millis(74));
            // Two may seem to pay until they have run: they are cheaper by 4 %, and follow a little late.
            assert!(curve.largest_useful() <= 2, "{:?}", curve.rungs());
        }
        assert_eq!(curve.largest_useful(), 1, "{:?}", curve.rungs());
    }

    #[test]
    fn a_machine_that_stutters_does_not_lose_its_large_batches() {
        let gpu = [(1, 5), (2, 6), (4, 8), (8, 12), (16, 20), (32, 36)];
        for (every, long) in [(100, 2), (330, 5)] {
            let (mut curve, mut rng) = (curve(&gpu), fastrand::Rng::with_seed(1));
            let (mut left, capacity) = (0, curve.capacity());
            for run in 0..100_000 {
                left = if rng.u32(0..every) == 0 { long } else { left.max(1) - 1 };
                let slower = if left > 0 { 2.0 } else { 1.0 };
                curve.note(8, Duration::from_secs_f64(0.012 * slower * (0.95 + 0.1 * rng.f64())));
                assert_eq!(curve.largest_useful(), 32, "run {run}: {:?}", curve.rungs());
                assert!(curve.capacity() > 0.75 * capacity, "run {run}: {:?}", curve.rungs());
            }
        }
    }

    proptest! {
        /// Runs that keep taking another time than expected bring the curve there; what does not run is slowed with them, and not made
        /// faster at once.
        #[test]
        fn the_curve_follows_the_engine(frames in 1usize..=8, factor in 0.6f64..1.9) {
            let mut curve = curve(&[(1, 10), (2, 12), (4, 16), (8, 30)]);
            let (before, took) = (curve, curve.service(frames).mul_f64(factor));
            (0..200).for_each(|_| curve.note(frames, took));
            let ratio = curve.service(frames).as_secs_f64() / took.as_secs_f64();
            prop_assert!((0.99..1.01).contains(&ratio), "{ratio}");
            for (old, new) in before.rungs().iter().zip(curve.rungs()) {
                let moved = new.service.as_secs_f64() / old.service.as_secs_f64();
                let near = old.frames <= 2 * frames && frames <= 2 * old.frames;
                let range = if factor > 1.0 { 0.95 * factor..1.01 * factor } else { factor..1.001 };
                prop_assert!(near || range.contains(&moved), "{} frames: {moved}", old.frames);
            }
        }

        /// Sizes that run in turns have each their own time, whatever the others take.
        #[test]
        fn sizes_that_run_are_measured_each_by_itself(factors in prop::array::uniform4(0.6f64..1.9)) {
            let mut curve = curve(&[(1, 10), (2, 12), (4, 16), (8, 30)]);
            let before = curve;
            for _ in 0..200 {
                for (rung, factor) in before.rungs().iter().zip(factors) {
                    curve.note(rung.frames, rung.service.mul_f64(factor));
                }
            }
            for ((old, new), factor) in before.rungs().iter().zip(curve.rungs()).zip(factors) {
                let ratio = new.service.as_secs_f64() / old.service.as_secs_f64() / factor;
                prop_assert!((0.99..1.01).contains(&ratio), "{} frames: {ratio}", old.frames);
            }
        }
    }
}
