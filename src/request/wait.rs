//! How long a request will take: its own run, and what is ahead of it over the rate at which that gets less.
//!
//! `fixed + places · each`. *Fixed* is what a lone request takes: its own run, and as far as the engine is busy the rest of the one that it finds
//! under way, and the wait for company. *Each* is measured where requests queue: the time beyond *fixed* that those of the last seconds took, for each place
//! they had to go forward. It holds whatever keeps requests from the engine (cameras before them, weights, a slow
//! decoder). Requests that timed out count too, or else the slower it gets the fewer would be seen. It is never below the
//! time of a frame at the engine's best, from S(b).

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Tick;
use crate::flow::curve::Curve;
use crate::flow::pace::Pace;

/// How long a measurement counts.
const RECENT: Duration = Duration::from_secs(3);
/// Measurements kept.
const MOST: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct Wait {
    /// When, the time beyond *fixed* in seconds, and the places.
    seen: VecDeque<(Tick, f64, f64)>,
}

impl Wait {
    /// A request that found `ahead` others took so long to its answer, or gave up after that.
    pub fn note(&mut self, now: Tick, ahead: usize, took: Duration, pace: Option<&(Pace, Curve)>) {
        if self.seen.len() == MOST {
            self.seen.pop_front();
        }
        // On the careful side: what a request may take by chance is no queue.
        let beyond = took.saturating_sub(most(pace)).as_secs_f64();
        self.seen.push_back((now, beyond, ahead as f64 + 1.0));
    }

    /// What a request with `ahead` others before it will take.
    pub fn expect(&mut self, now: Tick, ahead: usize, pace: Option<&(Pace, Curve)>) -> Duration {
        while self.seen.front().is_some_and(|(at, ..)| now.since(*at) > RECENT) {
            self.seen.pop_front();
        }
        let (beyond, places) =
            self.seen.iter().fold((0.0, 0.0), |(b, p), (_, beyond, places)| (b + beyond, p + places));
        let measured = if places > 0.0 { beyond / places } else { 0.0 };
        let best = pace.map_or(0.0, |(_, curve)| 1.0 / curve.capacity().max(1e-3));
        fixed(pace) + Duration::from_secs_f64(ahead as f64 * measured.max(best))
    }
}

/// By batches as they are now, not as they may be: an engine that is idle runs a lone picture by itself and at once, however large its
/// batches are under load.
fn fixed(pace: Option<&(Pace, Curve)>) -> Duration {
    let of = |(pace, curve): &(Pace, Curve)| {
        let busy = pace.rho.clamp(0.0, 1.0);
        // How full batches were says nothing of now when none came since.
        let frames = 1.0 + (pace.fill - 1.0) * busy;
        let run = curve.service((frames.round() as usize).clamp(1, pace.slots));
        run + (run + pace.wait).mul_f64(busy)
    };
    pace.map_or(Duration::ZERO, of)
}

/// The same, at the most.
fn most(pace: Option<&(Pace, Curve)>) -> Duration {
    pace.map_or(Duration::ZERO, |(pace, curve)| 2 * curve.service(pace.slots) + pace.wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::curve::Rung;
    use crate::flow::pace::{Objective, Pacer};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// 20 ms a frame, 10 ms of waiting, always busy.
    fn cpu() -> (Pace, Curve) {
        let objective = Objective { target: ms(100), max_wait: ms(10), max_batch: 1 };
        let pacer = Pacer::new(objective, Curve::new(&[Rung { frames: 1, service: ms(20) }]));
        (Pace { rho: 1.5, ..pacer.pace() }, *pacer.curve())
    }

    #[test]
    fn an_idle_engine_of_large_batches_is_asked_for_one_picture() {
        let rungs = [(1, 5), (32, 36)].map(|(frames, service)| Rung { frames, service: ms(service) });
        let objective = Objective { target: ms(200), max_wait: ms(30), max_batch: 32 };
        let pacer = Pacer::new(objective, Curve::new(&rungs));
        let (idle, curve) = (pacer.pace(), *pacer.curve());
        assert_eq!(idle.slots, 32);
        let expect = |pace: Pace| Wait::default().expect(Tick::ZERO, 0, Some(&(pace, curve)));
        assert_eq!(expect(idle), ms(5));
        assert_eq!(expect(Pace { fill: 32.0, ..idle }), ms(5), "batches were full once");
        assert_eq!(expect(Pace { rho: 2.0, fill: 31.5, ..idle }), ms(2 * 36 + 30));
    }

    #[test]
    fn without_a_queue_it_is_the_engine_that_counts() {
        let mut wait = Wait::default();
        assert_eq!(wait.expect(Tick::ZERO, 0, Some(&cpu())), ms(50));
        // A lone request that took its usual time says nothing of a queue.
        wait.note(Tick::ZERO, 0, ms(45), Some(&cpu()));
        assert_eq!(wait.expect(Tick::ZERO, 10, Some(&cpu())), ms(250));
        assert_eq!(
            wait.expect(Tick::ZERO, 10, None),
            Duration::ZERO,
            "nothing is known before the first run"
        );
    }

    #[test]
    fn what_requests_took_tells_what_the_next_will_take_and_is_forgotten() {
        let mut wait = Wait::default();
        // Cameras leave a fifth of the engine: 100 ms a place.
        for ahead in 0..10 {
            wait.note(Tick::from_millis(1_000), ahead, ms(50 + 100 * (ahead as u64 + 1)), Some(&cpu()));
        }
        let expected = wait.expect(Tick::from_millis(1_500), 20, Some(&cpu())).as_millis();
        assert!((2_040..=2_060).contains(&expected), "{expected} ms");
        assert_eq!(wait.expect(Tick::from_millis(5_000), 20, Some(&cpu())), ms(450));
    }
}
