//! Tenants: groups of clients with limits of their own, from `[tenants.NAME]`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::quota::Quota;
use crate::clock::Tick;
use crate::config;

/// One `[tenants.NAME]`.
#[derive(Debug)]
pub struct Tenant {
    /// Its requests that are pending.
    pub pending: Arc<Quota>,
    rate: Option<Mutex<Rate>>,
}

impl Tenant {
    /// With nothing pending.
    pub fn new(tenant: &config::Tenant) -> Self {
        Tenant {
            pending: Arc::new(Quota::new(tenant.max_pending_requests.unwrap_or(usize::MAX))),
            rate: tenant.max_fps.map(|fps| Mutex::new(Rate::new(fps))),
        }
    }

    /// One more picture now.
    ///
    /// # Errors
    /// How long to wait, when that is above its rate.
    pub fn one_more(&self, now: Tick) -> Result<(), Duration> {
        let Some(rate) = &self.rate else { return Ok(()) };
        rate.lock().unwrap_or_else(PoisonError::into_inner).one_more(now)
    }
}

/// The generic cell rate algorithm (ITU-T I.371, annex A) with a tolerance of one second: on average no more than
/// the rate, in one go no more than a second's worth.
#[derive(Clone, Copy, Debug)]
struct Rate {
    interval: Duration,
    tolerance: Duration,
    /// When the next one would come if all came evenly.
    due: Tick,
}

impl Rate {
    fn new(fps: f64) -> Self {
        let interval = Duration::from_secs_f64(1.0 / fps);
        Rate { interval, tolerance: Duration::from_secs(1).saturating_sub(interval), due: Tick::ZERO }
    }

    fn one_more(&mut self, now: Tick) -> Result<(), Duration> {
        let due = self.due.max(now);
        let early = due.since(now);
        if early > self.tolerance {
            return Err(early - self.tolerance);
        }
        self.due = due + self.interval;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In any span of time no more than the rate allows plus one second's worth; and who waits as told is let in.
        #[test]
        fn a_tenant_keeps_to_its_rate(fps in 0.5f64..200.0, gaps_ms in prop::collection::vec(0u64..400, 1..200)) {
            let mut rate = Rate::new(fps);
            let (mut now, mut taken) = (1_000, Vec::new());
            for gap in gaps_ms {
                now += gap;
                match rate.one_more(Tick::from_millis(now)) {
                    Ok(()) => taken.push(now),
                    Err(wait) => prop_assert!(rate.clone().one_more(Tick::from_millis(now) + wait).is_ok()),
                }
            }
            for (i, from) in taken.iter().enumerate() {
                for (n, to) in taken[i..].iter().enumerate() {
                    let span = (to - from) as f64 / 1e3;
                    prop_assert!(n as f64 <= (span + 1.0) * fps + 1e-6, "{} in {span} s at {fps}", n + 1);
                }
            }
        }
    }
}
