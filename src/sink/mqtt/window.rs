//! The messages under way to the broker: which packet identifier is which message, and how far the broker has
//! confirmed them without a hole. Pure.
//!
//! Room is counted from the *oldest* unconfirmed message, not by the number of unconfirmed ones: identifiers are handed out
//! round-robin, so that a broker that confirms out of order could otherwise make two messages share one (rumqttc
//! calls it a collision, and never sends the second if the first is refused).

use std::collections::VecDeque;

use crate::clock::Tick;

/// Messages in the order in which they were given to the client.
#[derive(Debug)]
pub(super) struct Window<T> {
    limit: usize,
    slots: VecDeque<Slot<T>>,
}

#[derive(Debug)]
struct Slot<T> {
    item: T,
    since: Tick,
    /// Absent until the client has put it on the wire.
    pkid: Option<u16>,
    done: bool,
}

impl<T> Window<T> {
    /// Room for `limit` messages, at least one.
    pub(super) fn new(limit: usize) -> Self {
        Window { limit: limit.max(1), slots: VecDeque::new() }
    }

    /// How many more messages may be given to the client.
    pub(super) fn free(&self) -> usize {
        self.limit.saturating_sub(self.slots.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// A message was given to the client.
    pub(super) fn push(&mut self, item: T, now: Tick) {
        self.slots.push_back(Slot { item, since: now, pkid: None, done: false });
    }

    /// The client put the next message on the wire, under this identifier.
    pub(super) fn sent(&mut self, pkid: u16) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.pkid.is_none()) {
            slot.pkid = Some(pkid);
        }
    }

    /// The broker answered for this identifier. Returns what is thereby confirmed without a hole before it, in order.
    pub(super) fn answered(&mut self, pkid: u16) -> Vec<T> {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.pkid == Some(pkid) && !slot.done) {
            slot.done = true;
        }
        let whole = self.slots.iter().take_while(|slot| slot.done).count();
        self.slots.drain(..whole).map(|slot| slot.item).collect()
    }

    /// Since when the oldest message has waited for its answer.
    pub(super) fn oldest(&self) -> Option<Tick> {
        self.slots.front().map(|slot| slot.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sends 1..=n through a window as rumqttc would (identifiers 1..=limit in turn); the broker answers in the order
    /// that `picks` chooses. Returns what was confirmed after each answer, and the most identifiers in use at once.
    fn play(n: u32, limit: u16, picks: &[usize]) -> Result<Vec<u32>, TestCaseError> {
        let mut window = Window::new(limit.into());
        let (mut next, mut pkid, mut confirmed) = (1, 0, Vec::new());
        let mut on_wire: Vec<(u16, u32)> = Vec::new();
        let mut answered = std::collections::BTreeSet::new();
        let mut picks = picks.iter().cycle();
        while confirmed.len() < n as usize {
            while window.free() > 0 && next <= n {
                window.push(next, Tick::ZERO);
                pkid = pkid % limit + 1;
                prop_assert!(
                    on_wire.iter().all(|(used, _)| *used != pkid),
                    "two messages share identifier {}",
                    pkid
                );
                on_wire.push((pkid, next));
                window.sent(pkid);
                next += 1;
            }
            let pick = *picks.next().expect("cycle never ends") % on_wire.len();
            let (pkid, item) = on_wire.swap_remove(pick);
            answered.insert(item);
            confirmed.extend(window.answered(pkid));
            // Never ahead of the broker.
            prop_assert!(confirmed.iter().all(|item| answered.contains(item)));
        }
        prop_assert!(window.is_empty());
        Ok(confirmed)
    }

    proptest! {
        /// In whatever order the broker answers: every message is confirmed once, in order, none before its answer,
        /// and no identifier is used twice at a time.
        #[test]
        fn confirmation_is_in_order_and_without_holes(
            n in 1u32..80, limit in 1u16..12, picks in proptest::collection::vec(0usize..1000, 1..40),
        ) {
            prop_assert_eq!(play(n, limit, &picks)?, (1..=n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_stray_answer_confirms_nothing() {
        let mut window = Window::new(2);
        window.push('a', Tick::ZERO);
        assert!(window.answered(1).is_empty(), "not on the wire yet");
        window.sent(1);
        assert!(window.answered(2).is_empty(), "another's");
        assert_eq!(window.answered(1), ['a']);
    }
}
