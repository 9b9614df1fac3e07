//! The event log: every event gets its identity here, once, and every receiver reads from here.
//!
//! One thread appends (the `publish` stage); any number of async readers follow, each with a cursor of its
//! own, so that a slow or absent receiver costs the others nothing. The log is bounded: the oldest events go
//! first, and a reader that needed them learns how many it lost ([`Gap`]).
//!
//! This log lives in memory: events that were not delivered are lost when the process ends, and `seq` starts
//! again from 1. A durable log replaces the private `Log` and persists the [`Cursor`]s; nothing outside this
//! module changes. What does not belong here: how events travel (`sink/`, `http/`).

mod reader;

pub use reader::{Batch, Gap, Reader};

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use uuid::{NoContext, Timestamp, Uuid};

use crate::clock::{Clock, Wall};
use crate::event::{Draft, Event, Kind, SCHEMA};
use crate::metrics;

/// An event in the log, serialised once for all readers.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its number, from 1, gapless.
    pub seq: u64,
    /// The same for every delivery of this event.
    pub id: Uuid,
    /// The camera's name, for topics and filters.
    pub camera: Arc<str>,
    /// What happened, for filters.
    pub kind: Kind,
    /// The whole event as one line of JSON.
    pub json: Bytes,
}

/// The event log of one node.
pub struct Outbox {
    node: Arc<str>,
    keep: usize,
    clock: Arc<dyn Clock>,
    log: Mutex<Log>,
    /// The newest `seq`; readers wait on it.
    last: watch::Sender<u64>,
    cursors: Mutex<Vec<Cursor>>,
    appended: metrics::ByKind,
}

/// The newest events. `first` is the `seq` of the front, and of the next event when the log is empty.
#[derive(Debug)]
struct Log {
    first: u64,
    events: VecDeque<Arc<Stored>>,
}

impl Log {
    fn next_seq(&self) -> u64 {
        self.first + self.events.len() as u64
    }
}

impl Outbox {
    /// An empty log that keeps the newest `keep` events (at least one).
    pub fn new(node: Arc<str>, keep: usize, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Outbox {
            node,
            keep: keep.max(1),
            clock,
            log: Mutex::new(Log { first: 1, events: VecDeque::new() }),
            last: watch::Sender::new(0),
            cursors: Mutex::default(),
            appended: metrics::ByKind::new(),
        })
    }

    /// Adds an event and wakes the readers; returns its `seq`. Never waits for any of them.
    pub fn append(&self, draft: Draft) -> u64 {
        let id = uuid_v7(self.clock.wall());
        let (camera, kind) = (Arc::clone(&draft.camera), draft.kind);
        let mut log = self.lock();
        let seq = log.next_seq();
        let event = Event { schema: SCHEMA, id, seq, node: Arc::clone(&self.node), draft };
        let json =
            serde_json::to_vec(&event).expect("an event is strings and numbers, which JSON always holds");
        if log.events.len() == self.keep {
            log.events.pop_front();
            log.first += 1;
        }
        log.events.push_back(Arc::new(Stored { seq, id, camera, kind, json: json.into() }));
        // Under the lock, so that readers never see `last` go back.
        self.last.send_replace(seq);
        drop(log);
        self.appended.count(kind);
        seq
    }

    /// The newest `seq`; 0 when nothing has happened yet.
    pub fn last_seq(&self) -> u64 {
        *self.last.borrow()
    }

    /// The oldest `seq` still kept; one past [`last_seq`](Self::last_seq) when the log is empty.
    pub fn first_seq(&self) -> u64 {
        self.lock().first
    }

    /// A reader whose first event is the one after `after`; 0 reads from the beginning.
    pub fn reader(self: &Arc<Self>, after: u64) -> Reader {
        Reader::new(Arc::clone(self), self.last.subscribe(), after)
    }

    /// The delivery mark of a sink that must get every event. Asked twice, it is the same mark.
    pub fn cursor(&self, sink: &'static str) -> Cursor {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = cursors.iter().find(|c| c.sink == sink) {
            return known.clone();
        }
        let cursor = Cursor { sink, acked: Arc::default() };
        cursors.push(cursor.clone());
        cursor
    }

    /// Per sink with a cursor: events that it has not taken yet.
    pub fn backlogs(&self) -> Vec<(&'static str, u64)> {
        let last = self.last_seq();
        let cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        cursors.iter().map(|c| (c.sink, last.saturating_sub(c.acked()))).collect()
    }

    /// Up to `max` events from `seq` on, oldest first. Cost: one clone of an `Arc` each.
    fn slice(&self, seq: u64, max: usize) -> (u64, Vec<Arc<Stored>>) {
        let log = self.lock();
        let skip = usize::try_from(seq.saturating_sub(log.first)).unwrap_or(usize::MAX);
        let events = log.events.range(skip.min(log.events.len())..).take(max).cloned().collect();
        (log.first, events)
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        // A panic between the two writes of `append` cannot happen: neither can fail.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("keep", &self.keep)
            .field("last", &self.last_seq())
            .finish_non_exhaustive()
    }
}

/// How far a sink has got: every event up to and including [`acked`](Self::acked) is off our hands.
#[derive(Clone, Debug)]
pub struct Cursor {
    sink: &'static str,
    acked: Arc<AtomicU64>,
}

impl Cursor {
    /// The newest `seq` that needs no further delivery; 0 at first.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Acquire)
    }

    /// Everything up to and including `seq` has been delivered. Never goes back.
    pub fn advance(&self, seq: u64) {
        self.acked.fetch_max(seq, Ordering::AcqRel);
    }
}

/// UUIDv7 (RFC 9562 §5.7): `wall` in milliseconds, then random bits.
fn uuid_v7(wall: Wall) -> Uuid {
    let nanos = u64::try_from(wall.0).unwrap_or(0);
    let subsec = u32::try_from(nanos % 1_000_000_000).expect("a remainder of 10⁹ fits");
    Uuid::new_v7(Timestamp::from_unix(NoContext, nanos / 1_000_000_000, subsec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use proptest::prelude::*;
    use std::time::Duration;

    fn outbox(keep: usize) -> (Arc<Outbox>, ManualClock) {
        let clock = ManualClock::new();
        (Outbox::new("node".into(), keep, Arc::new(clock.clone())), clock)
    }

    fn draft(clock: &ManualClock) -> Draft {
        Draft::new("door".into(), Kind::TrackStarted, clock.wall())
    }

    fn seqs(batch: &Batch) -> Vec<u64> {
        batch.events.iter().map(|e| e.seq).collect()
    }

    #[test]
    fn the_id_carries_the_given_time_and_the_json_the_identity() {
        let (outbox, clock) = outbox(10);
        clock.advance(Duration::from_millis(1_234));
        outbox.append(draft(&clock));
        let event = outbox.reader(0).next_batch(1).events.remove(0);
        let (seconds, nanos) = event.id.get_timestamp().unwrap().to_unix();
        assert_eq!((seconds, nanos), (1_767_225_601, 234_000_000));
        let json: serde_json::Value = serde_json::from_slice(&event.json).unwrap();
        assert_eq!(json["id"], event.id.to_string());
        assert_eq!(
            (&json["seq"], &json["node"], &json["schema"]),
            (&1.into(), &"node".into(), &SCHEMA.into())
        );
    }

    proptest! {
        /// Numbers are gapless from 1, whatever is evicted.
        #[test]
        fn seq_is_gapless(keep in 1usize..20, n in 0u64..60) {
            let (outbox, clock) = outbox(keep);
            let given: Vec<u64> = (0..n).map(|_| outbox.append(draft(&clock))).collect();
            prop_assert_eq!(given, (1..=n).collect::<Vec<_>>());
            prop_assert_eq!(outbox.last_seq(), n);
        }

        /// Never more than `keep` events, and always the newest.
        #[test]
        fn the_log_is_bounded(keep in 1usize..20, n in 0u64..60) {
            let (outbox, clock) = outbox(keep);
            for _ in 0..n {
                outbox.append(draft(&clock));
            }
            let held = seqs(&outbox.reader(0).next_batch(usize::MAX));
            prop_assert_eq!(held, (n.saturating_sub(keep as u64) + 1..=n).collect::<Vec<_>>());
        }

        /// From any cursor, in batches of any size, a reader gets exactly the suffix that is kept and is told
        /// exactly how many events before it are lost.
        #[test]
        fn replay_is_the_suffix_kept(keep in 1usize..20, n in 0u64..60, after in 0u64..60, max in 1usize..9) {
            let after = after.min(n);
            let (outbox, clock) = outbox(keep);
            for _ in 0..n {
                outbox.append(draft(&clock));
            }
            let mut reader = outbox.reader(after);
            let (mut got, mut lost) = (Vec::new(), 0);
            loop {
                let batch = reader.next_batch(max);
                prop_assert!(batch.events.len() <= max);
                lost += batch.gap.map_or(0, |gap| gap.lost);
                if batch.events.is_empty() {
                    break;
                }
                got.extend(seqs(&batch));
            }
            let oldest = n.saturating_sub(keep as u64) + 1;
            prop_assert_eq!(lost, oldest.saturating_sub(after + 1));
            prop_assert_eq!(got, (oldest.max(after + 1)..=n).collect::<Vec<_>>());
        }

        /// Reading while writing: each event exactly once or in a gap, in order.
        #[test]
        fn a_reader_that_follows_misses_nothing(
            keep in 1usize..8,
            steps in proptest::collection::vec((0usize..12, 0usize..12), 0..20),
        ) {
            let (outbox, clock) = outbox(keep);
            let mut reader = outbox.reader(0);
            let mut next = 1;
            for (write, read) in steps {
                for _ in 0..write {
                    outbox.append(draft(&clock));
                }
                let batch = reader.next_batch(read);
                next += batch.gap.map_or(0, |gap| gap.lost);
                for seq in seqs(&batch) {
                    prop_assert_eq!(seq, next);
                    next += 1;
                }
                prop_assert_eq!(reader.position(), next - 1);
            }
        }

        /// A backlog is what a sink has not taken, whichever way its marks arrive.
        #[test]
        fn a_cursor_never_goes_back(marks in proptest::collection::vec(0u64..50, 1..20)) {
            let (outbox, clock) = outbox(5);
            for _ in 0..50 {
                outbox.append(draft(&clock));
            }
            for mark in &marks {
                outbox.cursor("mqtt").advance(*mark);
            }
            let most = *marks.iter().max().unwrap();
            prop_assert_eq!(outbox.backlogs(), vec![("mqtt", 50 - most)]);
        }
    }
}
