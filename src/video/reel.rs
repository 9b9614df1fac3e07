//! One camera's frames on their way to the painter, in the order of their numbers. Pure: no thread, no lock.
//!
//! A frame is *expected* from when it came (only for who wants all frames), *kept* from when the engine has read it, *ready* when its
//! results are there, or *plain* when it was given up before it was analysed. Who wants all frames gets ready and plain ones one after
//! the other, and none before an older one whose fate is open; others get the newest ready one.

use std::collections::VecDeque;

use super::Shot;
use crate::flow::draw::DrawList;
use crate::frame::{CameraId, Frame, FrameKey, Stamp};

/// Pixels of one camera that wait for their results: two batches on their way and one being worked on.
pub(super) const MOST_KEPT: usize = 96;
/// Frames that wait for the painter. It is slower than the camera then: the oldest are not shown.
const MOST_SHOWN: usize = 16;
/// Frames whose fate is open.
const MOST_EXPECTED: usize = 1024;

pub(super) struct Reel<P> {
    entries: VecDeque<Entry<P>>,
    /// The number after that of the last frame that was taken: what is older comes too late.
    next: u64,
}

impl<P> Default for Reel<P> {
    fn default() -> Self {
        Reel { entries: VecDeque::new(), next: 0 }
    }
}

struct Entry<P> {
    seq: u64,
    state: State<P>,
}

enum State<P> {
    Expected,
    Kept(P),
    Ready(P, Stamp, DrawList),
    Plain(Frame<P>),
}

impl<P> State<P> {
    fn is_kept(&self) -> bool {
        matches!(self, State::Kept(_))
    }

    fn is_ready(&self) -> bool {
        matches!(self, State::Ready(..))
    }

    fn is_shown(&self) -> bool {
        matches!(self, State::Ready(..) | State::Plain(_))
    }

    fn is_open(&self) -> bool {
        matches!(self, State::Expected | State::Kept(_))
    }

    fn pixels(self) -> Option<P> {
        match self {
            State::Expected => None,
            State::Kept(pixels) | State::Ready(pixels, ..) => Some(pixels),
            State::Plain(frame) => Some(frame.pixels),
        }
    }
}

/// All that changes something returns the pixels that it let go, for the caller to free.
impl<P> Reel<P> {
    /// A frame came; what becomes of it will be told.
    pub fn expect(&mut self, seq: u64) -> Vec<P> {
        if seq < self.next || self.place(seq).is_ok() {
            return Vec::new();
        }
        self.put(seq, State::Expected)
    }

    /// The engine has read a frame.
    pub fn keep(&mut self, seq: u64, pixels: P) -> Vec<P> {
        self.put(seq, State::Kept(pixels))
    }

    /// A frame was given up.
    pub fn plain(&mut self, seq: u64, frame: Frame<P>) -> Vec<P> {
        self.put(seq, State::Plain(frame))
    }

    /// Whether the pixels of this frame wait for its results.
    pub fn has(&self, seq: u64) -> bool {
        self.place(seq).is_ok_and(|place| self.entries[place].state.is_kept())
    }

    /// The results of a frame.
    pub fn show(&mut self, seq: u64, stamp: Stamp, list: DrawList) -> Vec<P> {
        let Ok(place) = self.place(seq) else { return Vec::new() };
        let entry = &mut self.entries[place];
        entry.state = match std::mem::replace(&mut entry.state, State::Expected) {
            State::Kept(pixels) => State::Ready(pixels, stamp, list),
            other => other,
        };
        // Older ones without a fate were lost on their way: results come in order.
        self.let_go(|entry| entry.seq < seq && entry.state.is_open())
    }

    /// The next frame for the painter.
    pub fn take(&mut self, camera: CameraId, all: bool) -> (Option<Shot<P>>, Vec<P>) {
        let place = match all {
            true => Some(0).filter(|_| self.entries.front().is_some_and(|first| first.state.is_shown())),
            false => self.entries.iter().rposition(|entry| entry.state.is_ready()),
        };
        let Some(Entry { seq, state }) = place.and_then(|place| self.entries.remove(place)) else {
            // What was plain is left from somebody who has gone.
            return (None, if all { Vec::new() } else { self.let_go(|entry| entry.state.is_shown()) });
        };
        self.next = seq + 1;
        let freed = self.let_go(|entry| entry.seq < seq);
        let key = FrameKey { camera, seq };
        let shot = match state {
            State::Ready(pixels, stamp, list) => {
                Some(Shot { key, stamp, size: list.size, pixels, list: Some(list) })
            }
            State::Plain(Frame { stamp, size, pixels }) => {
                Some(Shot { key, stamp, size, pixels, list: None })
            }
            State::Expected | State::Kept(_) => None,
        };
        (shot, freed)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn place(&self, seq: u64) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&seq, |entry| entry.seq)
    }

    fn put(&mut self, seq: u64, state: State<P>) -> Vec<P> {
        if seq < self.next {
            return state.pixels().into_iter().collect();
        }
        let mut freed = Vec::new();
        match self.place(seq) {
            Ok(place) => freed.extend(std::mem::replace(&mut self.entries[place].state, state).pixels()),
            Err(place) => self.entries.insert(place, Entry { seq, state }),
        }
        for (most, of) in [
            (MOST_KEPT, State::is_kept as fn(&State<P>) -> bool),
            (MOST_SHOWN, State::is_shown),
            (MOST_EXPECTED, State::is_open),
        ] {
            if self.entries.iter().filter(|entry| of(&entry.state)).count() > most {
                let oldest = self.entries.iter().position(|entry| of(&entry.state));
                freed.extend(
                    oldest.and_then(|place| self.entries.remove(place)).and_then(|e| e.state.pixels()),
                );
            }
        }
        freed
    }

    fn let_go(&mut self, which: impl Fn(&Entry<P>) -> bool) -> Vec<P> {
        let mut freed = Vec::new();
        for _ in 0..self.entries.len() {
            let Some(entry) = self.entries.pop_front() else { break };
            if which(&entry) { freed.extend(entry.state.pixels()) } else { self.entries.push_back(entry) }
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Tick, Wall};
    use crate::frame::Size;

    const SIZE: Size = Size { width: 2, height: 2 };
    const STAMP: Stamp = Stamp { arrived: Tick::ZERO, decoded: Tick::ZERO, pts: None, wall: Wall(0) };

    fn list() -> DrawList {
        DrawList { size: SIZE, covers: Vec::new(), marks: Vec::new(), legend: Vec::new() }
    }

    fn frame(seq: u64) -> Frame<u64> {
        Frame { stamp: STAMP, size: SIZE, pixels: seq }
    }

    #[test]
    fn a_frame_in_the_engine_holds_later_ones_back() {
        let mut reel = Reel::default();
        for seq in 0..4 {
            reel.expect(seq);
        }
        reel.plain(0, frame(0));
        reel.keep(1, 1);
        reel.plain(2, frame(2));
        let take = |reel: &mut Reel<u64>| reel.take(CameraId(0), true).0.map(|shot| shot.key.seq);
        assert_eq!((take(&mut reel), take(&mut reel)), (Some(0), None));
        reel.show(1, STAMP, list());
        assert_eq!((take(&mut reel), take(&mut reel), take(&mut reel)), (Some(1), Some(2), None));
    }

    #[test]
    fn what_failed_in_the_engine_holds_nobody_back_for_ever() {
        let mut reel = Reel::default();
        for seq in 0..3 {
            reel.expect(seq);
            reel.keep(seq, seq);
        }
        reel.show(2, STAMP, list());
        let (shot, _) = reel.take(CameraId(0), true);
        assert_eq!(shot.map(|shot| shot.key.seq), Some(2));
        assert_eq!(reel.len(), 0);
    }

    proptest! {
        /// Each frame comes, and is then either given up or analysed, whenever that may be: who wants all sees all, once, in order,
        /// each with its own pixels, and with results if and only if it was analysed.
        #[test]
        fn who_wants_all_sees_all_in_order(fates in prop::collection::vec((any::<bool>(), 0usize..6), 1..60)) {
            let mut reel = Reel::default();
            let mut seen = Vec::new();
            let mut look = |reel: &mut Reel<u64>| {
                while let (Some(shot), _) = reel.take(CameraId(0), true) {
                    seen.push((shot.key.seq, shot.pixels, shot.list.is_some()));
                }
            };
            // What is given up, and what the engine takes, may come later than frames that came after it.
            let mut given_up = VecDeque::new();
            let mut engine = VecDeque::new();
            for (seq, (analysed, delay)) in (0u64..).zip(&fates) {
                reel.expect(seq);
                if *analysed { engine.push_back((seq, *delay)) } else { given_up.push_back((seq, *delay)) }
                let last = seq + 1 == fates.len() as u64;
                let due = |first: u64, delay: usize| last || seq - first >= delay as u64;
                while given_up.front().is_some_and(|(first, delay)| due(*first, *delay)) {
                    let first = given_up.pop_front().map_or(0, |(first, _)| first);
                    reel.plain(first, frame(first));
                }
                while engine.front().is_some_and(|(first, delay)| due(*first, *delay)) {
                    let first = engine.pop_front().map_or(0, |(first, _)| first);
                    reel.keep(first, first);
                    // The engine's turn is what older frames are given up for: that is told before its results.
                    while given_up.front().is_some_and(|(older, _)| *older < first) {
                        let older = given_up.pop_front().map_or(0, |(older, _)| older);
                        reel.plain(older, frame(older));
                    }
                    reel.show(first, STAMP, list());
                }
                look(&mut reel);
            }
            let all: Vec<_> = (0u64..).zip(&fates).map(|(seq, (analysed, _))| (seq, seq, *analysed)).collect();
            prop_assert_eq!(seen, all);
        }
    }
}
