//! When to try a lost camera again: the first time at once, then ever more rarely, with jitter.
//!
//! | fault | first wait | grows to | why |
//! |---|---|---|---|
//! | [`Retry::Soon`] | 0.5 … 1 s | 15 … 30 s | the link or the peer is away |
//! | [`Retry::Slowly`] | 30 … 60 s | 150 … 300 s | hammering harms: a wrong password locks the account |
//! | [`Retry::Never`] | | | nothing changes without somebody's help |
//!
//! A wait is drawn evenly from one to two steps, and the step doubles with each failure in a row, so
//! that cameras which fell together do not come back together (Brooker, "Exponential Backoff And
//! Jitter", AWS Architecture Blog, 2015). A minute of decoded frames starts over. Only the policy is in
//! here: who waits, and how the peer is probed, is the caller's.

use std::time::Duration;

use crate::clock::Tick;
use crate::fault::Retry;

/// Decoded frames over this long make a camera stable: the next failure is a first one.
pub const STABLE: Duration = Duration::from_secs(60);

/// A returned peer is worth an attempt out of turn, but not more often than this.
pub const PROBED: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Default)]
struct Ladder {
    /// Failures in a row.
    failures: u32,
}

impl Ladder {
    /// The next step: `first` doubled once a failure, at most `last`.
    fn step(&mut self, first: Duration, last: Duration) -> Duration {
        // 2^16 times the first step is beyond any last one.
        let step = first * (1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        step.min(last)
    }
}

/// The reconnect policy of one camera. The first attempt is the caller's, at once.
pub struct Backoff {
    rng: fastrand::Rng,
    soon: Ladder,
    slowly: Ladder,
    /// The first decoded frame since the last failure.
    delivering_since: Option<Tick>,
    next: Tick,
    /// Whether a returned peer may bring `next` forward.
    hasten: bool,
    /// The last attempt that a returned peer caused.
    hastened: Option<Tick>,
}

impl Backoff {
    /// A policy without failures. `rng` is where its jitter comes from: seed each camera's differently.
    pub fn new(rng: fastrand::Rng) -> Self {
        Backoff {
            rng,
            soon: Ladder::default(),
            slowly: Ladder::default(),
            delivering_since: None,
            next: Tick::ZERO,
            hasten: true,
            hastened: None,
        }
    }

    /// An attempt, or a connection that had worked, failed. Returns when to try again; `None`: never.
    pub fn failed(&mut self, now: Tick, retry: Retry) -> Option<Tick> {
        self.delivering_since = None;
        let step = match retry {
            Retry::Soon => self.soon.step(Duration::from_millis(500), Duration::from_secs(15)),
            Retry::Slowly => self.slowly.step(Duration::from_secs(30), Duration::from_secs(150)),
            Retry::Never => return None,
        };
        self.hasten = retry == Retry::Soon;
        self.next = now + step.mul_f64(1.0 + self.rng.f64());
        Some(self.next)
    }

    /// A frame was decoded: the only thing that counts as progress.
    pub fn progress(&mut self, now: Tick) {
        let since = *self.delivering_since.get_or_insert(now);
        if now.since(since) >= STABLE {
            self.soon = Ladder::default();
            self.slowly = Ladder::default();
        }
    }

    /// A probe saw the peer come alive. Returns when to try: at once, but at most once in [`PROBED`];
    /// and after a [`Retry::Slowly`] fault no earlier than planned, for a peer that flaps must not turn
    /// a slow retry into hammering. Failures are not forgotten: a peer that answers is not yet a camera
    /// that delivers.
    pub fn peer_returned(&mut self, now: Tick) -> Tick {
        if self.hasten {
            let allowed = self.hastened.map_or(now, |last| now.max(last + PROBED));
            if allowed < self.next {
                self.next = allowed;
                self.hastened = Some(allowed);
            }
        }
        self.next
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backoff(seed: u64) -> Backoff {
        Backoff::new(fastrand::Rng::with_seed(seed))
    }

    /// Fails again as soon as each wait is over; the waits.
    fn waits(backoff: &mut Backoff, mut now: Tick, retry: Retry, failures: usize) -> Vec<Duration> {
        let mut wait = || {
            let next = backoff.failed(now, retry).expect("this kind is retried");
            let wait = next.since(now);
            now = next;
            wait
        };
        (0..failures).map(|_| wait()).collect()
    }

    #[test]
    fn what_cannot_be_mended_is_never_retried() {
        assert_eq!(backoff(1).failed(Tick::ZERO, Retry::Never), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn waits_double_from_half_a_second_to_half_a_minute(seed: u64, start in 0u64..1_000_000) {
            let waits = waits(&mut backoff(seed), Tick::from_millis(start), Retry::Soon, 40);
            for (n, wait) in waits.iter().enumerate() {
                let step = (0.5 * 2f64.powi(n as i32)).min(15.0);
                prop_assert!((step..=2.0 * step).contains(&wait.as_secs_f64()), "wait {n} was {wait:?}");
            }
        }

        #[test]
        fn a_wrong_password_is_tried_slowly_from_the_start(seed: u64, soon in 0usize..10) {
            let mut backoff = backoff(seed);
            waits(&mut backoff, Tick::ZERO, Retry::Soon, soon);
            for wait in waits(&mut backoff, Tick::from_millis(7), Retry::Slowly, 20) {
                prop_assert!((30..=300).contains(&wait.as_secs()), "{wait:?}");
            }
        }

        #[test]
        fn cameras_that_fell_together_return_apart(seed in 0u64..1_000_000) {
            let mut first: Vec<_> = (0..50)
                .filter_map(|camera| backoff(seed * 50 + camera).failed(Tick::ZERO, Retry::Soon))
                .collect();
            first.sort_unstable();
            let spread = first[49].since(first[0]);
            prop_assert!(spread > Duration::from_millis(300), "all 50 within {spread:?}");
        }

        #[test]
        fn only_a_stable_minute_of_frames_starts_over(seed: u64, delivered in 0u64..120) {
            let mut backoff = backoff(seed);
            waits(&mut backoff, Tick::ZERO, Retry::Soon, 10);
            let start = 1_000_000;
            for second in 0..=delivered {
                backoff.progress(Tick::from_millis(start + second * 1_000));
            }
            let down = Tick::from_millis(start + delivered * 1_000 + 3_000);
            let wait = backoff.failed(down, Retry::Soon).expect("retried").since(down);
            prop_assert_eq!(wait <= Duration::from_secs(1), delivered >= 60, "{:?}", wait);
        }

        /// Frames before a failure do not count towards the minute after it.
        #[test]
        fn a_failure_ends_the_stable_minute(seed: u64, before in 1u64..60, after in 1u64..60) {
            let mut backoff = backoff(seed);
            waits(&mut backoff, Tick::ZERO, Retry::Soon, 10);
            for at in [0, before] {
                backoff.progress(Tick::from_millis(1_000_000 + at * 1_000));
            }
            let down = Tick::from_millis(1_000_000 + before * 1_000);
            let up = backoff.failed(down, Retry::Soon).expect("retried");
            backoff.progress(up);
            backoff.progress(up + Duration::from_secs(after));
            let down = up + Duration::from_secs(after);
            let wait = backoff.failed(down, Retry::Soon).expect("retried").since(down);
            prop_assert!(wait > Duration::from_secs(1), "{wait:?}");
        }

        /// However a peer flaps, it is tried out of turn at most once a second, and never later than planned.
        #[test]
        fn a_returned_peer_is_tried_at_once_but_not_hammered(
            seed: u64,
            gaps in prop::collection::vec(1u64..700, 1..60),
        ) {
            let (mut backoff, mut now, mut tried) = (backoff(seed), 0, Vec::<Tick>::new());
            for gap in gaps {
                now += gap;
                let planned = backoff.failed(Tick::from_millis(now), Retry::Soon).expect("retried");
                let next = backoff.peer_returned(Tick::from_millis(now));
                prop_assert!(next >= Tick::from_millis(now) && next <= planned);
                if next < planned {
                    if let Some(last) = tried.last() {
                        prop_assert!(next.since(*last) >= PROBED, "{:?} after {:?}", next, last);
                    } else {
                        prop_assert_eq!(next, Tick::from_millis(now));
                    }
                    tried.push(next);
                }
            }
            prop_assert!(!tried.is_empty());
        }

        #[test]
        fn a_flapping_peer_does_not_hasten_a_slow_retry(seed: u64, after in 0u64..29_000) {
            let mut backoff = backoff(seed);
            let planned = backoff.failed(Tick::ZERO, Retry::Slowly).expect("retried");
            prop_assert_eq!(backoff.peer_returned(Tick::from_millis(after)), planned);
        }
    }
}
