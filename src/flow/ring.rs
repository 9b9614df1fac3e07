//! The newest frames of one camera, bounded by age and by number.
//!
//! Full means that the oldest goes. Frames keep their [`FrameKey::seq`], so a reader sees the gap.
//! A frame that leaves unsent is handed back with its [`Fate`], never dropped in here: the caller
//! frees its pixels after it has let go of the lock that guards the ring.
//!
//! Whose turn it is and when to give a frame up on purpose is not decided here: see
//! [`super::batch`].

use std::time::Duration;

use ringbuf::LocalRb;
use ringbuf::storage::Heap;
use ringbuf::traits::Observer;

use crate::clock::Tick;
use crate::frame::{Fate, FrameKey};

/// A frame that was given up, and why.
pub type Dropped<T> = (FrameKey, T, Fate);

struct Slot<T> {
    key: FrameKey,
    at: Tick,
    item: T,
}

/// The newest frames of one camera, oldest first.
///
/// The storage is `ringbuf`'s single-threaded kind, allocated once: a ring is only ever used behind
/// the lock of its [`super::batch::Batcher`].
pub struct Ring<T> {
    slots: LocalRb<Heap<Slot<T>>>,
    age: Duration,
}

impl<T> Ring<T> {
    /// A ring for `max_frames` frames (at least one) that are at most `age` old.
    pub fn new(age: Duration, max_frames: usize) -> Self {
        Ring { slots: LocalRb::new(max_frames.max(1)), age }
    }

    /// How many frames wait.
    pub fn len(&self) -> usize {
        self.slots.occupied_len()
    }

    /// Whether no frame waits.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the next push costs the oldest frame.
    pub fn is_full(&self) -> bool {
        self.slots.is_full()
    }

    /// When the oldest waiting frame came.
    pub fn oldest(&mut self) -> Option<Tick> {
        self.slots.first().map(|slot| slot.at)
    }

    /// Gives up the frames that nobody wants any more, as stale.
    pub fn forget(&mut self, mut is_wanted: impl FnMut(FrameKey) -> bool, out: &mut Vec<Dropped<T>>) {
        for _ in 0..self.len() {
            let Some(slot) = self.slots.try_pop() else { break };
            if is_wanted(slot.key) {
                // Cannot be full: one was taken out just now.
                let _ = self.slots.try_push(slot);
            } else {
                out.push((slot.key, slot.item, Fate::Stale));
            }
        }
    }

    /// The last moment at which the oldest waiting frame is not stale.
    pub fn fresh_until(&mut self) -> Option<Tick> {
        self.oldest().map(|at| at + self.age)
    }

    /// Takes in a frame that came at `now`. Returns the one that it pushed out, if the ring was full.
    pub fn push(&mut self, now: Tick, key: FrameKey, item: T) -> Option<Dropped<T>> {
        let out = self.slots.push_overwrite(Slot { key, at: now, item })?;
        Some((out.key, out.item, Fate::Overrun))
    }

    /// Takes the oldest frame, stale or not.
    pub fn pop(&mut self) -> Option<(FrameKey, T)> {
        self.slots.try_pop().map(|slot| (slot.key, slot.item))
    }

    /// Gives up every frame older than the ring's age.
    pub fn expire(&mut self, now: Tick, out: &mut Vec<Dropped<T>>) {
        while self.fresh_until().is_some_and(|until| until < now) {
            out.extend(self.pop().map(|(key, item)| (key, item, Fate::Stale)));
        }
    }

    /// Gives up the oldest frames until `keep` are left.
    pub fn overrun(&mut self, keep: usize, out: &mut Vec<Dropped<T>>) {
        while self.len() > keep {
            out.extend(self.pop().map(|(key, item)| (key, item, Fate::Overrun)));
        }
    }

    /// Gives up frames until `keep` (at least one) or fewer are left, evenly: every other one, or two of
    /// three, and so on. Counted in `seq`, so that thinning what was thinned before stays even. The
    /// oldest stays, and so does at least half of `keep`.
    pub fn thin(&mut self, keep: usize, out: &mut Vec<Dropped<T>>) {
        let mut distance = 1;
        loop {
            let (left, smallest) = self.spaced(distance);
            if left <= keep.max(1) {
                break;
            }
            distance = smallest + 1;
        }
        let mut from = None;
        for _ in 0..self.len() {
            let Some(slot) = self.slots.try_pop() else { break };
            if from.is_some_and(|from| slot.key.seq < from + distance) {
                out.push((slot.key, slot.item, Fate::Skipped));
            } else {
                from = Some(slot.key.seq);
                // Cannot be full: one was taken out just now.
                let _ = self.slots.try_push(slot);
            }
        }
    }

    /// Gives up frames until `keep` (at least one) or fewer are left, spread evenly over all that wait, the newest among them.
    pub fn spread(&mut self, keep: usize, out: &mut Vec<Dropped<T>>) {
        let (len, keep) = (self.len(), keep.max(1));
        if len <= keep {
            return;
        }
        for index in 0..len {
            let Some(slot) = self.slots.try_pop() else { break };
            // The last index of each of `keep` equal parts.
            if (index + 1) * keep / len > index * keep / len {
                // Cannot be full: one was taken out just now.
                let _ = self.slots.try_push(slot);
            } else {
                out.push((slot.key, slot.item, Fate::Skipped));
            }
        }
    }

    /// How many frames are left when each must be `distance` from the one before, and the smallest gap then.
    fn spaced(&mut self, distance: u64) -> (usize, u64) {
        let (mut from, mut left, mut smallest) = (None, 0, u64::MAX - 1);
        for seq in self.slots.iter().map(|slot| slot.key.seq) {
            let gap = from.map_or(u64::MAX - 1, |from| seq.saturating_sub(from));
            if gap >= distance {
                (from, left, smallest) = (Some(seq), left + 1, smallest.min(gap));
            }
        }
        (left, smallest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::frame::CameraId;

    fn key(seq: u64) -> FrameKey {
        FrameKey { camera: CameraId(0), seq }
    }

    fn filled(frames: u64) -> Ring<()> {
        let mut ring = Ring::new(Duration::from_secs(1), 16);
        for seq in 0..frames {
            assert!(ring.push(Tick::from_millis(seq), key(seq), ()).is_none());
        }
        ring
    }

    fn left(ring: &mut Ring<()>) -> Vec<u64> {
        std::iter::from_fn(|| ring.pop()).map(|(key, ())| key.seq).collect()
    }

    #[test]
    fn thinning_is_even() {
        for (frames, keep, kept) in [
            (1, 1, vec![0]),
            (2, 1, vec![0]),
            (6, 3, vec![0, 2, 4]),
            (7, 3, vec![0, 3, 6]),
            (9, 3, vec![0, 3, 6]),
            (10, 3, vec![0, 4, 8]),
        ] {
            let (mut ring, mut out) = (filled(frames), Vec::new());
            ring.thin(keep, &mut out);
            assert_eq!(out.len() + kept.len(), frames as usize);
            assert!(out.iter().all(|(_, (), fate)| *fate == Fate::Skipped));
            assert_eq!(left(&mut ring), kept);
        }
    }

    #[test]
    fn spreading_keeps_the_newest_and_even_gaps() {
        for (frames, keep, kept) in [
            (1, 1, vec![0]),
            (5, 1, vec![4]),
            (6, 3, vec![1, 3, 5]),
            (10, 3, vec![3, 6, 9]),
            (3, 4, vec![0, 1, 2]),
        ] {
            let (mut ring, mut out) = (filled(frames), Vec::new());
            ring.spread(keep, &mut out);
            assert_eq!(out.len() + kept.len(), frames as usize);
            assert!(out.iter().all(|(_, (), fate)| *fate == Fate::Skipped));
            assert_eq!(left(&mut ring), kept);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A ring behaves as the plain list "the newest `max` frames, none older than `age`".
        #[test]
        fn a_ring_holds_the_newest_frames_that_are_not_too_old(
            max in 1usize..6,
            age in 1u64..200,
            gaps in prop::collection::vec(0u64..60, 1..80),
        ) {
            let mut ring = Ring::new(Duration::from_millis(age), max);
            let mut model = VecDeque::new();
            let mut now = 0;
            for (seq, gap) in gaps.iter().enumerate() {
                now += gap;
                let mut out = Vec::new();
                ring.expire(Tick::from_millis(now), &mut out);
                out.extend(ring.push(Tick::from_millis(now), key(seq as u64), now));

                let stale = model.iter().filter(|(_, at)| now - at > age).count();
                let mut expected: Vec<_> =
                    model.drain(..stale).map(|(seq, at)| (key(seq), at, Fate::Stale)).collect();
                model.push_back((seq as u64, now));
                if model.len() > max {
                    expected.extend(model.pop_front().map(|(seq, at)| (key(seq), at, Fate::Overrun)));
                }
                prop_assert_eq!(&out, &expected);
                prop_assert_eq!(ring.len(), model.len());
            }
            let rest: Vec<_> = std::iter::from_fn(|| ring.pop()).map(|(key, _)| key.seq).collect();
            prop_assert_eq!(rest, model.iter().map(|(seq, _)| *seq).collect::<Vec<_>>());
        }

        /// Thinning leaves at least half of what it may keep, and never nothing.
        #[test]
        fn thinning_does_not_overshoot(
            gaps in prop::collection::vec(1u64..6, 1..40),
            keep in 1usize..12,
        ) {
            let (mut ring, mut seq) = (Ring::new(Duration::from_secs(1), 40), 2);
            for gap in &gaps {
                seq += gap;
                ring.push(Tick::ZERO, key(seq), ());
            }
            ring.thin(keep, &mut Vec::new());
            prop_assert!(ring.len() <= keep);
            prop_assert!(ring.len() >= gaps.len().min(keep).div_ceil(2), "{} of {}", ring.len(), gaps.len());
        }
    }
}
