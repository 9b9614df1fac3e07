//! The camera × frame microbatcher: which frames go to the engine now, and until when to wait otherwise.
//!
//! One decision, [`Batcher::poll`]. The caller asks after each push, when the engine is free again, and
//! at the moment it was told. The rules, in the order in which they are looked at:
//!
//! 1. A frame older than its camera's ring is given up ([`Fate::Stale`]), never sent.
//! 2. **Send** when the oldest frame has waited `max_wait`; or when the batch can be filled; or when
//!    waiting longer could add no other camera. A camera can be added if none of its frames waits and
//!    its next one is due before the oldest frame's time is up. Due is reckoned from its own measured
//!    interval, so a slow camera is waited for only when its frame is about to come, and a camera that
//!    is late by more than [`GRACE`] (dead, or in the pause before a key frame) is not waited for at
//!    all.
//! 3. The slots go round: one frame a camera a round, the camera that was served least recently first,
//!    further rounds while slots remain.
//! 4. A camera that has more frames than slots keeps them for the next batch, in order, **unless the
//!    engine is behind**: for longer than the camera's *patience* no batch could take everything that
//!    waited. Patience is `max_wait` or the camera's own frame interval, whichever is longer. Then its
//!    [`DropPolicy`] decides:
//!
//! | policy | gives up, at the camera's turn | fate | what it costs |
//! |---|---|---|---|
//! | `oldest` | all but the newest frames that its slots take | `overrun` | gaps as long as a round; a sent frame is at most about one interval old |
//! | `skip-frame` | every other frame, or two of three and so on, until at most two a slot are left | `skipped` | even gaps; a sent frame is up to about two rounds old |
//!
//! The distinction is that of a queue that a burst fills and that drains again, from one that stands, as
//! in CoDel (RFC 8289): only the second one is overload, and only overload loses frames. Apart from that
//! a full ring loses its oldest frame (`overrun`), or is thinned in the same way under `skip-frame`.
//!
//! A frame costs O(log cameras). Not in here: how large a batch is worth while (the caller's `slots`;
//! with an engine whose time grows with the batch, a large batch is a late one), and how `max_wait` is
//! steered.

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::agenda::Agenda;
use super::interval::Interval;
use super::ring::{Dropped, Ring};
use crate::clock::Tick;
use crate::config::DropPolicy;
use crate::frame::{CameraId, Fate, FrameKey};

/// How late a frame may be before the others stop waiting for its camera. Above the usual jitter
/// of a network camera behind a jitter buffer, and far below a frame interval.
pub const GRACE: Duration = Duration::from_millis(5);

/// What holds for all cameras.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The largest batch, at least 1.
    pub max_batch_frames: usize,
    /// The longest that a frame waits for company while the engine is free.
    pub max_wait: Duration,
}

/// What holds for one camera.
#[derive(Clone, Debug)]
pub struct CameraSettings {
    /// The oldest that a frame may be when it is sent. A camera with less than twice `max_wait` here
    /// shortens the wait of all to half of this; otherwise its frames would wait until they are stale.
    pub ring: Duration,
    /// The most frames that wait, at least 1.
    pub max_frames: usize,
    /// What is given up when the engine is behind.
    pub drop_policy: DropPolicy,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Run the engine on the frames that were appended to the batch; at least one.
    Send,
    /// Frames wait. Ask again at this moment, which lies in the future, or after a push or when the
    /// engine is free.
    WaitUntil(Tick),
    /// Nothing waits. Ask again after a push.
    Idle,
}

struct Camera<T> {
    settings: CameraSettings,
    ring: Ring<T>,
    interval: Interval,
    /// When its next frame is expected.
    due: Option<Tick>,
    /// The running number of its last turn.
    turn: u64,
    /// Slots that it gets in the batch being filled.
    share: usize,
}

/// Collects the frames of all cameras and decides what is sent when.
///
/// Times given to it never run backwards: an earlier one than before counts as the latest.
pub struct Batcher<T> {
    max_batch_frames: usize,
    max_wait: Duration,
    /// By [`CameraId`].
    cameras: Vec<Option<Camera<T>>>,
    now: Tick,
    waiting: usize,
    turns: u64,
    /// Since when no batch has taken all that waited.
    behind_since: Option<Tick>,
    /// Cameras with frames, by their last turn.
    by_turn: Agenda<u64>,
    /// Cameras with frames, by their oldest.
    by_oldest: Agenda<Tick>,
    /// Cameras without frames, by when the next one is due.
    by_due: Agenda<Tick>,
    /// Cameras in the batch being filled; kept to be allocated once.
    chosen: Vec<CameraId>,
    dropped: Vec<Dropped<T>>,
}

impl<T> Batcher<T> {
    /// A batcher without cameras.
    pub fn new(settings: Settings) -> Self {
        Batcher {
            max_batch_frames: settings.max_batch_frames.max(1),
            max_wait: settings.max_wait,
            cameras: Vec::new(),
            now: Tick::ZERO,
            waiting: 0,
            turns: 0,
            behind_since: None,
            by_turn: Agenda::new(),
            by_oldest: Agenda::new(),
            by_due: Agenda::new(),
            chosen: Vec::new(),
            dropped: Vec::new(),
        }
    }

    /// Admits a camera. Panics when it was added before.
    pub fn add_camera(&mut self, id: CameraId, settings: CameraSettings) {
        if self.cameras.len() <= id.index() {
            self.cameras.resize_with(id.index() + 1, || None);
        }
        self.max_wait = self.max_wait.min(settings.ring / 2);
        self.by_turn.admit(id);
        self.by_oldest.admit(id);
        self.by_due.admit(id);
        let ring = Ring::new(settings.ring, settings.max_frames);
        let camera = Camera { settings, ring, interval: Interval::default(), due: None, turn: 0, share: 0 };
        let before = self.cameras[id.index()].replace(camera);
        assert!(before.is_none(), "camera {} was added twice", id.0);
    }

    /// Takes in a frame that was decoded at `now`; its age counts from here. Frames of a camera come in the
    /// order of their `seq`. Panics when the camera was never added.
    ///
    /// May give up frames: follow it with [`Batcher::take_dropped`].
    pub fn push(&mut self, now: Tick, key: FrameKey, item: T) {
        let now = self.advance(now);
        self.expire();
        let camera = camera(&mut self.cameras, key.camera);
        camera.interval.note(now);
        // Never earlier than expected before: a burst does not bring the frame after it forward.
        camera.due = camera.interval.usual().map(|usual| now + usual).max(camera.due);
        let before = camera.ring.len();
        if camera.ring.is_full() && camera.settings.drop_policy == DropPolicy::SkipFrame {
            camera.ring.thin(camera.ring.len() - 1, &mut self.dropped);
        }
        self.dropped.extend(camera.ring.push(now, key, item));
        self.waiting = self.waiting - before + camera.ring.len();
        self.by_turn.put(camera.turn, key.camera);
        self.by_oldest.put(camera.ring.oldest().unwrap_or(now), key.camera);
    }

    /// The only decision. `slots` is the largest batch that the engine takes now, 0 while it is busy.
    /// Frames are appended to `batch`, those of one camera in the order of their `seq`.
    ///
    /// May give up frames: follow it with [`Batcher::take_dropped`].
    pub fn poll(&mut self, now: Tick, slots: usize, batch: &mut Vec<(FrameKey, T)>) -> Step {
        let now = self.advance(now);
        let slots = slots.min(self.max_batch_frames);
        while let Some((oldest, fresh_until)) = self.expire() {
            if slots == 0 {
                return Step::WaitUntil(fresh_until + Duration::from_nanos(1));
            }
            // First of all, so that steady input cannot keep a frame waiting for ever.
            let deadline = oldest + self.max_wait;
            if now < deadline
                && self.waiting < slots
                && let Some(late) = self.company(deadline)
            {
                return Step::WaitUntil(late.min(deadline));
            }
            if self.fill(slots, batch) {
                return Step::Send;
            }
        }
        Step::Idle
    }

    /// Appends the frames given up since the last call, each with its fate.
    pub fn take_dropped(&mut self, out: &mut Vec<(FrameKey, T, Fate)>) {
        out.append(&mut self.dropped);
    }

    /// A camera went offline: nobody waits for its next frame, and its rhythm is measured anew when it
    /// is back. Its waiting frames are sound pictures: they are sent as usual, or go stale.
    pub fn offline(&mut self, id: CameraId) {
        let camera = camera(&mut self.cameras, id);
        camera.interval = Interval::default();
        camera.due = None;
    }

    /// How many frames of one camera wait.
    pub fn waiting(&self, id: CameraId) -> usize {
        self.cameras.get(id.index()).and_then(Option::as_ref).map_or(0, |camera| camera.ring.len())
    }

    /// Appends everything that still waits, at stop, each camera's in order.
    pub fn drain(&mut self, out: &mut Vec<(FrameKey, T)>) {
        for camera in self.cameras.iter_mut().flatten() {
            out.extend(std::iter::from_fn(|| camera.ring.pop()));
        }
        self.waiting = 0;
    }

    fn advance(&mut self, now: Tick) -> Tick {
        self.now = self.now.max(now);
        self.now
    }

    /// Gives up stale frames at the front. Returns when the oldest of the others came and until when it
    /// is fresh.
    fn expire(&mut self) -> Option<(Tick, Tick)> {
        loop {
            let (oldest, id) = self.by_oldest.first(|id| camera(&mut self.cameras, id).ring.oldest())?;
            let fresh_until = camera(&mut self.cameras, id).ring.fresh_until()?;
            if self.now <= fresh_until {
                return Some((oldest, fresh_until));
            }
            self.expire_camera(id);
        }
    }

    fn expire_camera(&mut self, id: CameraId) {
        let camera = camera(&mut self.cameras, id);
        let before = camera.ring.len();
        camera.ring.expire(self.now, &mut self.dropped);
        self.waiting = self.waiting - before + camera.ring.len();
        self.await_next(id);
    }

    /// If waiting can add a camera before the deadline: the moment at which the first of them counts as late.
    fn company(&mut self, deadline: Tick) -> Option<Tick> {
        let now = self.now;
        let (due, _) = self.by_due.first(|id| {
            let camera = camera(&mut self.cameras, id);
            camera.due.filter(|due| camera.ring.is_empty() && now < *due + GRACE)
        })?;
        (due <= deadline).then(|| due + GRACE)
    }

    /// Lists a camera whose frames have all left as one that may be waited for.
    fn await_next(&mut self, id: CameraId) {
        let camera = camera(&mut self.cameras, id);
        if let Some(due) = camera.due.filter(|_| camera.ring.is_empty()) {
            self.by_due.put(due, id);
        }
    }

    /// Appends up to `slots` frames. False when all that seemed to wait was stale.
    fn fill(&mut self, slots: usize, batch: &mut Vec<(FrameKey, T)>) -> bool {
        if self.waiting <= slots {
            self.behind_since = None;
        } else {
            self.behind_since.get_or_insert(self.now);
        }
        self.deal(slots);
        let mut chosen = std::mem::take(&mut self.chosen);
        let any = !chosen.is_empty();
        for id in chosen.drain(..) {
            self.thin_out(id);
            let camera = camera(&mut self.cameras, id);
            let share = std::mem::take(&mut camera.share);
            batch.extend(std::iter::from_fn(|| camera.ring.pop()).take(share));
            self.waiting -= share;
            if !camera.ring.is_empty() {
                self.by_turn.put(camera.turn, id);
            }
            self.await_next(id);
        }
        self.chosen = chosen;
        any
    }

    /// Deals the slots: one frame a camera a round.
    fn deal(&mut self, mut slots: usize) {
        while slots > 0 {
            let next = self.by_turn.take_first(|id| {
                let camera = camera(&mut self.cameras, id);
                (!camera.ring.is_empty()).then_some(camera.turn)
            });
            let Some(id) = next else { break };
            if camera(&mut self.cameras, id).share == 0 {
                self.expire_camera(id);
            }
            let camera = camera(&mut self.cameras, id);
            if camera.ring.is_empty() {
                continue;
            }
            if camera.share == 0 {
                self.chosen.push(id);
            }
            self.turns += 1;
            camera.turn = self.turns;
            camera.share += 1;
            slots -= 1;
            if camera.share < camera.ring.len() {
                self.by_turn.put(camera.turn, id);
            }
        }
    }

    /// Applies the drop policy to a camera at its turn.
    fn thin_out(&mut self, id: CameraId) {
        let Some(since) = self.behind_since else { return };
        let camera = camera(&mut self.cameras, id);
        let patience = self.max_wait.max(camera.interval.usual().unwrap_or_default());
        if self.now.since(since) <= patience {
            return;
        }
        let before = camera.ring.len();
        match camera.settings.drop_policy {
            DropPolicy::Oldest => camera.ring.overrun(camera.share, &mut self.dropped),
            DropPolicy::SkipFrame => camera.ring.thin(2 * camera.share, &mut self.dropped),
        }
        self.waiting = self.waiting - before + camera.ring.len();
    }
}

/// Borrows one camera and leaves the rest of the batcher free.
fn camera<T>(cameras: &mut [Option<Camera<T>>], id: CameraId) -> &mut Camera<T> {
    cameras.get_mut(id.index()).and_then(Option::as_mut).expect("the camera was added before its first frame")
}
