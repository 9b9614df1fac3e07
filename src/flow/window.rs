//! The durations of a recent span, and their percentiles.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Tick;

/// Percentiles of a [`Window`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentiles {
    /// Median.
    pub p50: Duration,
    /// 95th percentile.
    pub p95: Duration,
    /// How many samples.
    pub samples: usize,
}

/// The samples of the last `span`, at most [`Window::MOST`] of them.
#[derive(Debug)]
pub struct Window {
    span: Duration,
    /// So many stay for [`Window::PATIENCE`] times the span.
    least: usize,
    samples: VecDeque<(Tick, Duration)>,
    /// Since the last [`Window::is_new`].
    came: bool,
    sorted: Vec<Duration>,
}

impl Window {
    /// Bounds the memory: of more, the newest count.
    pub const MOST: usize = 1024;

    /// How much longer samples stay where there are few.
    pub const PATIENCE: u32 = 8;

    /// An empty window.
    pub fn new(span: Duration) -> Self {
        Window { span, least: 0, samples: VecDeque::new(), came: false, sorted: Vec::new() }
    }

    /// The same, but the last `samples` stay longer: what comes seldom has percentiles, too.
    #[must_use]
    pub fn at_least(self, samples: usize) -> Self {
        Window { least: samples, ..self }
    }

    /// One more.
    pub fn note(&mut self, now: Tick, sample: Duration) {
        if self.samples.len() == Self::MOST {
            self.samples.pop_front();
        }
        self.samples.push_back((now, sample));
        self.came = true;
    }

    /// Has a sample come since this was asked last?
    pub fn is_new(&mut self) -> bool {
        std::mem::take(&mut self.came)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// `None` when there is no sample in the span.
    pub fn percentiles(&mut self, now: Tick) -> Option<Percentiles> {
        while let Some((at, _)) = self.samples.front() {
            let span = if self.samples.len() > self.least { self.span } else { Self::PATIENCE * self.span };
            if now.since(*at) <= span {
                break;
            }
            self.samples.pop_front();
        }
        self.sorted.clear();
        self.sorted.extend(self.samples.iter().map(|(_, sample)| *sample));
        let samples = self.sorted.len();
        // Nearest rank: the smallest sample that at least q of all do not exceed.
        let mut rank = |q: f64| {
            let index = ((q * samples as f64).ceil() as usize).saturating_sub(1);
            (index < samples).then(|| *self.sorted.select_nth_unstable(index).1)
        };
        Some(Percentiles { p50: rank(0.50)?, p95: rank(0.95)?, samples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_forget_after_their_span() {
        let mut window = Window::new(Duration::from_secs(10));
        for ms in 1..=100 {
            window.note(Tick::from_millis(ms), Duration::from_millis(ms));
        }
        let p = window.percentiles(Tick::from_millis(100)).expect("there are samples");
        assert_eq!((p.p50, p.p95), (Duration::from_millis(50), Duration::from_millis(95)));
        assert_eq!(window.percentiles(Tick::from_millis(20_000)), None);
    }

    #[test]
    fn few_samples_stay_longer() {
        let mut window = Window::new(Duration::from_secs(1)).at_least(20);
        for n in 0..100 {
            window.note(Tick::from_millis(100 * n), Duration::from_millis(n));
        }
        let samples = |window: &mut Window, at| window.percentiles(Tick::from_millis(at)).map(|p| p.samples);
        assert_eq!(samples(&mut window, 9_900), Some(20), "two seconds of ten a second");
        assert_eq!(samples(&mut window, 16_500), Some(15), "those of the last eight");
        assert_eq!(samples(&mut window, 30_000), None);
    }
}
