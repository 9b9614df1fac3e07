//! For how long the engine has been behind.

use std::time::Duration;

use crate::clock::Tick;

/// What a lull leaves of a backlog, at most: enough that a batch which happens to take everything does not end an overload,
/// too little for one that is over to be felt for long.
const REMEMBERED: Duration = Duration::from_millis(500);

/// For how long batches have left frames behind. A batch that takes everything ends nothing: in the midst of an overload that happens
/// whenever decoding hesitates, and if it counted, frames would queue for the whole patience once more. What the time without a
/// backlog counts for, twice, is taken off instead.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    stood: Duration,
    /// When the last batch was filled, and whether it left any.
    last: Option<(Tick, bool)>,
}

impl Backlog {
    /// A batch is filled now, and leaves frames behind or not.
    pub fn note(&mut self, now: Tick, leaves: bool) {
        match self.last.replace((now, leaves)) {
            Some((since, true)) => self.stood += now.since(since),
            Some((since, false)) => {
                self.stood = self.stood.min(REMEMBERED).saturating_sub(2 * now.since(since));
            }
            None => {}
        }
    }

    /// Frames are left behind, and have been for longer than this.
    pub fn stands(&self, patience: Duration) -> bool {
        self.last.is_some_and(|(_, leaves)| leaves) && self.stood > patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Tick {
        Tick::ZERO + Duration::from_millis(ms)
    }

    fn after(batches: impl IntoIterator<Item = (u64, bool)>) -> Backlog {
        let mut backlog = Backlog::default();
        for (ms, leaves) in batches {
            backlog.note(at(ms), leaves);
        }
        backlog
    }

    const PATIENCE: Duration = Duration::from_millis(120);

    #[test]
    fn a_backlog_stands_after_the_patience() {
        assert!(!after((0..=3).map(|n| (40 * n, true))).stands(PATIENCE));
        assert!(after((0..=4).map(|n| (40 * n, true))).stands(PATIENCE));
    }

    #[test]
    fn one_batch_that_takes_everything_does_not_end_an_overload() {
        let overload = (0..=20).map(|n| (40 * n, true));
        assert!(after(overload.chain([(840, false), (880, true)])).stands(PATIENCE));
    }

    #[test]
    fn a_lull_ends_it() {
        let overload = (0..=100).map(|n| (40 * n, true));
        assert!(!after(overload.chain([(4_040, false), (4_300, true), (4_340, true)])).stands(PATIENCE));
    }

    #[test]
    fn bursts_with_pauses_as_long_never_add_up() {
        let bursts = (0..50).flat_map(|n| [(200 * n, true), (200 * n + 40, true), (200 * n + 80, false)]);
        assert!(!after(bursts).stands(PATIENCE));
    }
}
