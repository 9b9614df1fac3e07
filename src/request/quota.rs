//! A count with a ceiling, and shares of it that give themselves back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire};

/// So many of something at a time.
#[derive(Debug)]
pub struct Quota {
    limit: usize,
    used: AtomicUsize,
}

impl Quota {
    /// At most `limit`.
    pub fn new(limit: usize) -> Self {
        Quota { limit, used: AtomicUsize::new(0) }
    }

    /// The most at a time.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Taken now.
    pub fn used(&self) -> usize {
        self.used.load(Acquire)
    }

    /// Takes `n`, or nothing when they are not there. Never waits.
    pub fn take(self: &Arc<Self>, n: usize) -> Option<Share> {
        let take = |used: usize| used.checked_add(n).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(AcqRel, Acquire, take).ok()?;
        Some(Share { quota: Arc::clone(self), n })
    }
}

/// A part of a [`Quota`], given back on drop.
#[derive(Debug)]
pub struct Share {
    quota: Arc<Quota>,
    n: usize,
}

impl Share {
    /// Makes it `n` large. False, and unchanged, when that is more and more is not there.
    pub fn resize(&mut self, n: usize) -> bool {
        if n <= self.n {
            self.quota.used.fetch_sub(self.n - n, AcqRel);
            self.n = n;
            return true;
        }
        let Some(mut more) = self.quota.take(n - self.n) else { return false };
        self.n += std::mem::take(&mut more.n);
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.quota.used.fetch_sub(self.n, AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is taken, resized and dropped: what is used is the sum of the shares that live, and never above the limit.
        #[test]
        fn shares_add_up(limit in 0usize..20, steps in prop::collection::vec((0usize..12, 0usize..12, any::<bool>()), 0..60)) {
            let quota = Arc::new(Quota::new(limit));
            let mut shares: Vec<Share> = Vec::new();
            for (n, which, resize) in steps {
                match shares.get_mut(which) {
                    Some(share) if resize => {
                        let before = share.n;
                        let grown = share.resize(n);
                        prop_assert_eq!(share.n, if grown { n } else { before });
                    }
                    Some(_) => drop(shares.swap_remove(which)),
                    None => {
                        let free = limit - quota.used();
                        let share = quota.take(n);
                        prop_assert_eq!(share.is_some(), n <= free);
                        shares.extend(share);
                    }
                }
                prop_assert_eq!(quota.used(), shares.iter().map(|share| share.n).sum::<usize>());
                prop_assert!(quota.used() <= limit);
            }
        }
    }
}
