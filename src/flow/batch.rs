//! The camera × frame microbatcher: which frames go to the engine now, and until when to wait otherwise.
//!
//! One decision, [`Batcher::poll`]. The caller asks after each push, when the engine is free again, and
//! at the moment it was told. The rules, in the order in which they are looked at:
//!
//! 1. A frame older than its camera's ring is given up ([`Fate::Stale`]), never sent.
//! 2. **Send** when the oldest frame has waited the limit; or when the batch can be filled; or when
//!    waiting longer could add no other camera, or would not pay ([`Wait`]). A camera can be added if none
//!    of its frames waits and its next one is due before the oldest frame's time is up. Due is reckoned
//!    from its own measured interval, so a slow camera is waited for only when its frame is about to come,
//!    and a camera that is late by more than [`GRACE`] (dead, or in the pause before a key frame) is not
//!    waited for at all.
//! 3. The slots go round, `realtime` before `bulk`, by weight ([`turns`]): one frame a camera a round, the
//!    camera that has had least goes first, further rounds while slots remain.
//! 4. A camera that has more frames than slots keeps them for the next batch, in order, **unless the
//!    engine is behind**: for longer than the camera's *patience* batches could not take everything that
//!    waited ([`backlog`]); for a realtime camera, everything of its class, as a backlog of bulk frames is none of its
//!    business. Patience is `max_wait` or the camera's own frame interval times its `backlog_frames`,
//!    whichever is longer. Then its [`DropPolicy`] decides:
//!
//! | policy | keeps, at the camera's turn | fate of the others | what it costs |
//! |---|---|---|---|
//! | `oldest` | the newest frames that its slots take | `overrun` | with several slots a batch, gaps as long as a round |
//! | `skip-frame` | as many, spread evenly over all that wait, the newest among them | `skipped` | with several slots a batch, frames up to a round old |
//!
//! The distinction is that of a queue that a burst fills and that drains again, from one that stands, as
//! in CoDel (RFC 8289): only the second one is overload, and only overload loses frames. Apart from that
//! a full ring loses its oldest frame (`overrun`), or is thinned in the same way under `skip-frame`.
//!
//! What will not be used need not be decoded: [`Batcher::wants`] is asked about each encoded picture ([`decode`]).
//!
//! A frame costs O(log cameras). Not in here: how large a batch may be (the caller's `slots`) and how long a wait,
//! which [`super::pace`] steers.

mod backlog;
mod decode;
#[cfg(test)]
mod sim;
mod spare;
#[cfg(test)]
mod tests;
mod turns;
mod wait;

use std::time::Duration;

use self::backlog::Backlog;
use self::spare::Spare;
use self::turns::{Turn, Turns};
pub use self::wait::Wait;
use super::agenda::Agenda;
use super::cap::Cap;
use super::interval::Interval;
use super::ring::{Dropped, Ring};
use super::thin::{Level, Thin};
use crate::clock::Tick;
use crate::config::{DropPolicy, Priority};
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
    /// The part of the slots that `bulk` gets when `realtime` could fill them all, 0..=1.
    pub bulk_share: f64,
}

impl Default for Settings {
    /// 32 frames, 30 ms, and a twentieth for bulk.
    fn default() -> Self {
        Settings { max_batch_frames: 32, max_wait: Duration::from_millis(30), bulk_share: 0.05 }
    }
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
    /// The engine is behind when a backlog has stood for so many of the camera's frame intervals; `u32::MAX`: never.
    pub backlog_frames: u32,
    /// `realtime` before `bulk`.
    pub priority: Priority,
    /// Its share of the slots, relative to others of its class, at least 1.
    pub weight: u32,
    /// The most frames a second that are taken in; the others are skipped at once.
    pub max_fps: Option<f64>,
    /// Pictures that the engine has no time for need not be decoded.
    pub thin: bool,
    /// But never key frames only: somebody looks for motion in what lies between.
    pub whole: bool,
}

impl CameraSettings {
    fn is_realtime(&self) -> bool {
        self.priority == Priority::Realtime
    }
}

impl Default for CameraSettings {
    /// A realtime camera: 300 ms, 16 frames, `oldest` after three frame intervals, weight 1.
    fn default() -> Self {
        CameraSettings {
            ring: Duration::from_millis(300),
            max_frames: 16,
            drop_policy: DropPolicy::Oldest,
            backlog_frames: 3,
            priority: Priority::Realtime,
            weight: 1,
            max_fps: None,
            thin: true,
            whole: false,
        }
    }
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
    cap: Option<Cap>,
    thin: Thin,
    interval: Interval,
    /// When its next frame is expected.
    due: Option<Tick>,
    /// Where it stands in the order of turns.
    turn: Turn,
    /// Slots that it gets in the batch being filled.
    share: usize,
}

/// Collects the frames of all cameras and decides what is sent when.
///
/// Times given to it never run backwards: an earlier one than before counts as the latest.
pub struct Batcher<T> {
    max_batch_frames: usize,
    /// As configured, and as the shortest ring allows.
    most_wait: Duration,
    max_wait: Duration,
    wait: Wait,
    /// By [`CameraId`].
    cameras: Vec<Option<Camera<T>>>,
    now: Tick,
    /// When the last frame came, and the mean time between two, of all cameras.
    last: Tick,
    gap: Duration,
    /// Since when the engine could take a batch.
    free_since: Option<Tick>,
    waiting: usize,
    /// Of these: of realtime cameras.
    realtime_waiting: usize,
    /// Cameras with frames, by whose turn it is.
    turns: Turns,
    /// Of all frames.
    backlog: Backlog,
    /// Of realtime frames.
    realtime_backlog: Backlog,
    /// Cameras with frames, by their oldest.
    by_oldest: Agenda<Tick>,
    /// Cameras without frames, by when the next one is due.
    by_due: Agenda<Tick>,
    /// Cameras in the batch being filled; kept to be allocated once.
    chosen: Vec<CameraId>,
    dropped: Vec<Dropped<T>>,
    tally: Tally,
    spare: Spare,
    /// Cameras that are decoded by key frames only.
    by_keys: usize,
}

/// Frames since the last [`Batcher::take_tally`]. What a rate cap skips is in none of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Came into a ring, or was not decoded because it would have been lost.
    pub came: u64,
    /// Of these: of realtime cameras.
    pub realtime: u64,
    /// Frames of realtime cameras that were given up for want of engine time.
    pub realtime_lost: u64,
}

impl<T> Batcher<T> {
    /// A batcher without cameras.
    pub fn new(settings: Settings) -> Self {
        Batcher {
            max_batch_frames: settings.max_batch_frames.max(1),
            most_wait: settings.max_wait,
            max_wait: settings.max_wait,
            wait: Wait::Always(settings.max_wait),
            cameras: Vec::new(),
            now: Tick::ZERO,
            last: Tick::ZERO,
            gap: Duration::MAX,
            free_since: None,
            waiting: 0,
            realtime_waiting: 0,
            turns: Turns::new(settings.bulk_share),
            backlog: Backlog::default(),
            realtime_backlog: Backlog::default(),
            by_oldest: Agenda::new(),
            by_due: Agenda::new(),
            chosen: Vec::new(),
            dropped: Vec::new(),
            tally: Tally::default(),
            spare: Spare::default(),
            by_keys: 0,
        }
    }

    /// Admits a camera. Panics when it was added before.
    pub fn add_camera(&mut self, id: CameraId, settings: CameraSettings) {
        if self.cameras.len() <= id.index() {
            self.cameras.resize_with(id.index() + 1, || None);
        }
        self.max_wait = self.max_wait.min(settings.ring / 2);
        self.turns.admit(id);
        self.by_oldest.admit(id);
        self.by_due.admit(id);
        let ring = Ring::new(settings.ring, settings.max_frames);
        let turn = Turn::new(settings.priority, settings.weight);
        let (cap, whole) = (settings.max_fps.map(Cap::new), settings.whole);
        let camera = Camera {
            settings,
            ring,
            cap,
            thin: Thin::new(whole),
            interval: Interval::default(),
            due: None,
            turn,
            share: 0,
        };
        let before = self.cameras[id.index()].replace(camera);
        assert!(before.is_none(), "camera {} was added twice", id.0);
    }

    /// A camera's share and rate from now on; what waits of it stays. Nothing happens when it is not there.
    pub fn retune(&mut self, id: CameraId, weight: u32, max_fps: Option<f64>) {
        let Some(camera) = self.cameras.get_mut(id.index()).and_then(Option::as_mut) else { return };
        (camera.settings.weight, camera.settings.max_fps) = (weight, max_fps);
        camera.turn.set_weight(weight);
        match (&mut camera.cap, max_fps) {
            (Some(cap), Some(fps)) => cap.set(fps),
            (cap, fps) => *cap = fps.map(Cap::new),
        }
    }

    /// A camera goes; it may be added again, with other settings. What waits of it is left out: follow it with
    /// [`Batcher::take_dropped`]. Nothing happens when it is not there.
    pub fn remove_camera(&mut self, id: CameraId) {
        if !self.has(id) {
            return;
        }
        self.offline(id);
        let camera = camera(&mut self.cameras, id);
        let waiting = camera.ring.len();
        self.waiting -= waiting;
        self.realtime_waiting -= if camera.settings.is_realtime() { waiting } else { 0 };
        let rest = std::iter::from_fn(|| camera.ring.pop());
        self.dropped.extend(rest.map(|(key, item)| (key, item, Fate::Skipped)));
        self.turns.remove(id);
        self.by_oldest.remove(id);
        self.by_due.remove(id);
        self.cameras[id.index()] = None;
        let shortest = self.cameras.iter().flatten().map(|camera| camera.settings.ring / 2).min();
        self.max_wait = self.most_wait.min(shortest.unwrap_or(Duration::MAX));
    }

    /// Whether this camera is there.
    pub fn has(&self, id: CameraId) -> bool {
        self.cameras.get(id.index()).is_some_and(Option::is_some)
    }

    /// From now on waits like this. Never longer than the limits given before.
    pub fn steer(&mut self, wait: Wait) {
        self.wait = wait;
    }

    /// Takes in a frame that was decoded at `now`; its age counts from here. Frames of a camera come in the
    /// order of their `seq`. Panics when the camera was never added.
    ///
    /// May give up frames: follow it with [`Batcher::take_dropped`].
    pub fn push(&mut self, now: Tick, key: FrameKey, item: T) {
        let now = self.advance(now);
        self.expire();
        let camera = camera(&mut self.cameras, key.camera);
        if camera.cap.as_mut().is_some_and(|cap| !cap.keeps(now)) {
            self.dropped.push((key, item, Fate::Skipped));
            return;
        }
        let gap = now.since(std::mem::replace(&mut self.last, now));
        self.gap = if self.gap == Duration::MAX { gap } else { (31 * self.gap + gap) / 32 };
        camera.interval.note(now);
        // Never earlier than expected before: a burst does not bring the frame after it forward.
        camera.due = camera.interval.usual().map(|usual| now + usual).max(camera.due);
        let before = camera.ring.len();
        if camera.ring.is_full() && camera.settings.drop_policy == DropPolicy::SkipFrame {
            camera.ring.thin(camera.ring.len() - 1, &mut self.dropped);
        }
        self.dropped.extend(camera.ring.push(now, key, item));
        self.turns.put(&mut camera.turn, before == 0, key.camera);
        self.by_oldest.put(camera.ring.oldest().unwrap_or(now), key.camera);
        let (realtime, lost) = (camera.settings.is_realtime(), before + 1 - camera.ring.len());
        self.waiting += 1;
        self.realtime_waiting += usize::from(realtime);
        self.tally.came += 1;
        self.tally.realtime += u64::from(realtime);
        self.lost(key.camera, lost);
    }

    /// The only decision. `slots` is the largest batch that the engine takes now, 0 while it is busy.
    /// Frames are appended to `batch`, those of one camera in the order of their `seq`.
    ///
    /// May give up frames: follow it with [`Batcher::take_dropped`].
    pub fn poll(&mut self, now: Tick, slots: usize, batch: &mut Vec<(FrameKey, T)>) -> Step {
        let now = self.advance(now);
        let slots = slots.min(self.max_batch_frames);
        let free_since = *self.free_since.get_or_insert(now);
        while let Some((oldest, fresh_until)) = self.expire() {
            if slots == 0 {
                self.free_since = None;
                return Step::WaitUntil(fresh_until + Duration::from_nanos(1));
            }
            // First of all, so that steady input cannot keep a frame waiting for ever.
            let from = if self.wait.is_saturated() { oldest.max(free_since) } else { oldest };
            let deadline = from + self.max_wait.min(self.wait.limit());
            if now < deadline
                && self.waiting < slots
                && let Some(late) = self.company(deadline)
            {
                return Step::WaitUntil(late.min(deadline));
            }
            let before = batch.len();
            if self.fill(slots, batch) {
                self.spare.sent(now, now.since(free_since), batch.len() - before);
                self.free_since = None;
                return Step::Send;
            }
        }
        Step::Idle
    }

    /// Were frames given up since the last [`Batcher::take_dropped`]?
    pub fn has_dropped(&self) -> bool {
        !self.dropped.is_empty()
    }

    /// Appends the frames given up since the last call, each with its fate.
    pub fn take_dropped(&mut self, out: &mut Vec<(FrameKey, T, Fate)>) {
        out.append(&mut self.dropped);
    }

    /// What came and what was lost since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// A camera went offline: nobody waits for its next frame, and its rhythm is measured anew when it
    /// is back. Its waiting frames are sound pictures: they are sent as usual, or go stale.
    pub fn offline(&mut self, id: CameraId) {
        let camera = camera(&mut self.cameras, id);
        camera.interval = Interval::default();
        camera.due = None;
        self.by_keys -= usize::from(camera.thin.level() == Level::KeyFrames);
        camera.thin.reset();
    }

    /// Gives up those of a camera's frames that nobody wants any more (`stale`).
    ///
    /// Follow it with [`Batcher::take_dropped`].
    pub fn forget(&mut self, id: CameraId, is_wanted: impl FnMut(FrameKey) -> bool) {
        let Some(camera) = self.cameras.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let before = camera.ring.len();
        camera.ring.forget(is_wanted, &mut self.dropped);
        let gone = before - camera.ring.len();
        self.waiting -= gone;
        self.realtime_waiting -= if camera.settings.is_realtime() { gone } else { 0 };
        self.await_next(id);
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
        (self.waiting, self.realtime_waiting) = (0, 0);
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
        let lost = before - camera.ring.len();
        self.lost(id, lost);
        self.await_next(id);
    }

    /// If waiting can add a camera before the deadline: the moment at which the first of them counts as late.
    fn company(&mut self, deadline: Tick) -> Option<Tick> {
        let now = self.now;
        // Where many cameras jitter, nobody knows whose frame is next, only that one comes.
        let any = self.wait.pays_in_rate(self.waiting, self.gap).then_some(deadline);
        let due = self.by_due.first(|id| {
            let camera = camera(&mut self.cameras, id);
            camera.due.filter(|due| camera.ring.is_empty() && now < *due + GRACE)
        });
        let Some((due, _)) = due else { return any };
        let late = due + GRACE;
        // Not there although it is due: it may come at any moment until it counts as late.
        let gap = if due > now { due.since(now) } else { late.since(now) };
        (due <= deadline && self.wait.pays(self.waiting, gap)).then_some(late).or(any)
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
        self.backlog.note(self.now, self.waiting > slots);
        self.realtime_backlog.note(self.now, self.realtime_waiting > slots);
        self.deal(slots);
        let mut chosen = std::mem::take(&mut self.chosen);
        let any = !chosen.is_empty();
        for id in chosen.drain(..) {
            self.thin_out(id);
            let camera = camera(&mut self.cameras, id);
            let realtime = camera.settings.is_realtime();
            let share = std::mem::take(&mut camera.share);
            batch.extend(std::iter::from_fn(|| camera.ring.pop()).take(share));
            self.waiting -= share;
            self.realtime_waiting -= if realtime { share } else { 0 };
            camera.thin.sent(self.now, share);
            camera.due = camera.thin.due().max(camera.due);
            if !camera.ring.is_empty() {
                self.turns.put(&mut camera.turn, false, id);
            }
            self.await_next(id);
        }
        self.chosen = chosen;
        any
    }

    /// Deals the slots: one frame a camera a round.
    fn deal(&mut self, slots: usize) {
        let (mut dealt, bulk_slots) = (0, self.wait.bulk_slots());
        while dealt < slots {
            // A camera whose frames are all dealt has no further turn in this batch.
            let mut stands = |id| {
                let camera = camera(&mut self.cameras, id);
                (camera.share < camera.ring.len()).then_some(camera.turn)
            };
            if dealt >= bulk_slots && !self.turns.realtime_waits(&mut stands) {
                break;
            }
            let Some(id) = self.turns.take_next(stands) else { break };
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
            self.turns.dealt(&mut camera.turn);
            camera.share += 1;
            dealt += 1;
            if camera.share < camera.ring.len() {
                self.turns.put(&mut camera.turn, false, id);
            }
        }
    }

    /// Applies the drop policy to a camera at its turn.
    fn thin_out(&mut self, id: CameraId) {
        let camera = camera(&mut self.cameras, id);
        let backlog = match camera.settings.priority {
            Priority::Realtime => &self.realtime_backlog,
            Priority::Bulk => &self.backlog,
        };
        if camera.settings.backlog_frames == u32::MAX {
            return;
        }
        let usual = camera.interval.usual().unwrap_or_default();
        let patience = self.max_wait.max(usual.saturating_mul(camera.settings.backlog_frames));
        let behind = backlog.stands(patience);
        // Where pictures are left out already a short queue does not mean that the engine keeps up.
        if !behind && camera.thin.opens().is_none() {
            return;
        }
        let before = camera.ring.len();
        match camera.settings.drop_policy {
            DropPolicy::Oldest => camera.ring.overrun(camera.share, &mut self.dropped),
            DropPolicy::SkipFrame => camera.ring.spread(camera.share, &mut self.dropped),
        }
        let lost = before - camera.ring.len();
        self.lost(id, lost);
    }

    /// So many waiting frames were given up.
    fn lost(&mut self, id: CameraId, frames: usize) {
        self.waiting -= frames;
        let camera = camera(&mut self.cameras, id);
        camera.thin.lost(frames);
        if camera.settings.is_realtime() {
            self.tally.realtime_lost += frames as u64;
            self.realtime_waiting -= frames;
        }
    }
}

/// Borrows one camera and leaves the rest of the batcher free.
fn camera<T>(cameras: &mut [Option<Camera<T>>], id: CameraId) -> &mut Camera<T> {
    cameras.get_mut(id.index()).and_then(Option::as_mut).expect("the camera was added before its first frame")
}
