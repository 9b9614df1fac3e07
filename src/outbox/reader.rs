//! One receiver's place in the log.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Outbox, Stored};

/// Follows the log from a place of its own. Holds no events: only its place.
#[derive(Debug)]
pub struct Reader {
    outbox: Arc<Outbox>,
    last: watch::Receiver<u64>,
    next: u64,
}

/// What [`Reader::next_batch`] found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Events that went before this reader came for them; they are before all of `events`.
    pub gap: Option<Gap>,
    /// The next events, oldest first; empty when there are none yet.
    pub events: Vec<Arc<Stored>>,
}

/// The reader was too slow, or asked for events older than the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How many events it has lost.
    pub lost: u64,
}

impl Reader {
    pub(super) fn new(outbox: Arc<Outbox>, last: watch::Receiver<u64>, after: u64) -> Self {
        Reader { outbox, last, next: after.saturating_add(1) }
    }

    /// Up to `max` events, and the place moves past them. Never waits.
    pub fn next_batch(&mut self, max: usize) -> Batch {
        let (first, events) = self.outbox.slice(self.next, max);
        let lost = first.saturating_sub(self.next);
        self.next = self.next.max(first) + events.len() as u64;
        Batch { gap: (lost > 0).then_some(Gap { lost }), events }
    }

    /// Waits until there is an event to read. Cancel safe.
    pub async fn wait(&mut self) {
        let next = self.next;
        // The sender lives in the outbox that this reader keeps alive.
        let _ = self.last.wait_for(|last| *last >= next).await;
    }

    /// The `seq` of the last event read (or known lost).
    pub fn position(&self) -> u64 {
        self.next - 1
    }

    /// Events that wait for this reader, lost ones included.
    pub fn behind(&self) -> u64 {
        self.outbox.last_seq().saturating_sub(self.position())
    }

    /// Goes on with the event after `after`.
    pub fn seek(&mut self, after: u64) {
        self.next = after.saturating_add(1);
    }

    /// The log that it reads.
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }
}
