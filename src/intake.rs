//! The edge between `ingest` and `infer`: the batcher behind the frame path's one lock.
//!
//! Cameras push, the engine's loop takes batches. Full means that the camera's own ring gives up frames by its drop policy; a
//! camera never waits (except a lossless file, which can) and never touches another camera's ring. Every frame that
//! is given up is settled in the [`Board`] here; pixels are freed outside the lock.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::board::Board;
use crate::clock::{Bell, Clock, Tick, Waiter, bell};
use crate::flow::batch::{Batcher, CameraSettings, Settings, Step, Tally, Wait};
use crate::flow::thin::{Kind, Level};
use crate::frame::{CameraId, Fate, Frame, FrameKey};
use crate::request::Waiting;
use crate::supervise::Beat;

/// Between two looks for pictures that nobody waits for any more: each is asked about, and cameras push thousands of frames a second.
const SWEEP: Duration = Duration::from_millis(10);

/// Hears of a camera's frames whatever becomes of them, if it wants to: those that are given up can still be shown.
pub trait Bystander<P>: Send + Sync {
    /// Does it want to hear of this camera's frames? Then all of them are decoded.
    fn wants(&self, camera: CameraId) -> bool;
    /// This frame came into its ring.
    fn came(&self, key: FrameKey);
    /// This frame was given up before it was analysed.
    fn gave_up(&self, key: FrameKey, frame: Frame<P>);
}

struct Shared<P> {
    rings: Mutex<Rings<P>>,
    bell: Bell,
    /// Wakes lossless cameras that wait for room.
    room: Condvar,
    ports: AtomicUsize,
    board: Arc<Board>,
    clock: Arc<dyn Clock>,
    bystander: OnceLock<Arc<dyn Bystander<P>>>,
}

/// A frame that was given up, and why.
type Given<P> = (FrameKey, Frame<P>, Fate);

struct Rings<P> {
    batcher: Batcher<Frame<P>>,
    /// Empty lists that were allocated once: one for each thread that settles at the same time.
    spare: Vec<Vec<Given<P>>>,
    /// When pictures that nobody waits for any more were last looked for.
    swept: Tick,
    /// The engine's loop has ended, or is given up: nobody will ever take a frame again.
    abandoned: bool,
}

impl<P> Rings<P> {
    /// What was given up, for [`Shared::settle`]; nearly always nothing.
    fn take_dropped(&mut self) -> Vec<Given<P>> {
        if !self.batcher.has_dropped() {
            return Vec::new();
        }
        let mut dropped = self.spare.pop().unwrap_or_default();
        self.batcher.take_dropped(&mut dropped);
        dropped
    }
}

impl<P> Shared<P> {
    fn lock(&self) -> MutexGuard<'_, Rings<P>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, mut dropped: Vec<Given<P>>) {
        if dropped.is_empty() {
            return;
        }
        for (key, frame, fate) in dropped.drain(..) {
            self.board.settle(key, fate);
            if let Some(bystander) = self.bystander_of(key.camera) {
                bystander.gave_up(key, frame);
            }
        }
        self.lock().spare.push(dropped);
    }

    /// Nobody will take a frame again: those that wait, and those that still come, have failed. None is forgotten.
    fn abandon(&self) {
        let mut rest = Vec::new();
        {
            let mut rings = self.lock();
            rings.abandoned = true;
            rings.batcher.drain(&mut rest);
        }
        self.room.notify_all();
        for (key, _) in &rest {
            self.board.settle(*key, Fate::Failed);
        }
    }

    fn bystander_of(&self, camera: CameraId) -> Option<&Arc<dyn Bystander<P>>> {
        self.bystander.get().filter(|bystander| bystander.wants(camera))
    }
}

/// A camera's end. When the last one is dropped, the engine's loop empties the rings and ends.
pub struct Port<P> {
    shared: Arc<Shared<P>>,
    camera: CameraId,
}

impl<P> Clone for Port<P> {
    fn clone(&self) -> Self {
        self.shared.ports.fetch_add(1, Relaxed);
        Port { shared: Arc::clone(&self.shared), camera: self.camera }
    }
}

impl<P> Drop for Port<P> {
    fn drop(&mut self) {
        if self.shared.ports.fetch_sub(1, Relaxed) == 1 {
            self.shared.bell.ring();
        }
    }
}

impl<P> Port<P> {
    /// A frame came in. Gives it its number and puts it into the ring.
    pub fn push(&self, frame: Frame<P>) {
        let dropped = {
            let mut rings = self.shared.lock();
            // Numbered under the lock: numbers and ring order agree.
            let ledger = &self.shared.board.camera(self.camera).ledger;
            let key = FrameKey { camera: self.camera, seq: ledger.admit() };
            if rings.abandoned {
                ledger.settle(Fate::Failed);
                return;
            }
            // A source's last frame may come while its camera is being taken out.
            if !rings.batcher.has(self.camera) {
                ledger.settle(Fate::Skipped);
                return;
            }
            if let Some(bystander) = self.shared.bystander_of(self.camera) {
                bystander.came(key);
            }
            rings.batcher.push(frame.stamp.decoded, key, frame);
            rings.take_dropped()
        };
        self.shared.bell.ring();
        self.shared.settle(dropped);
    }

    /// A picture that somebody waits for. Its camera is a class of requests: nobody waits for its next frame.
    pub fn request(&self, frame: Frame<P>, waiting: Waiting) {
        let dropped = {
            let mut rings = self.shared.lock();
            let requests = &self.shared.board.requests;
            let key = FrameKey { camera: self.camera, seq: requests.ledger_of(self.camera).admit() };
            requests.enter(key, waiting);
            if rings.abandoned {
                requests.settle(key, Fate::Failed);
                return;
            }
            rings.batcher.push(frame.stamp.decoded, key, frame);
            rings.batcher.offline(self.camera);
            rings.take_dropped()
        };
        self.shared.bell.ring();
        self.shared.settle(dropped);
    }

    /// Frames of this camera that wait.
    pub fn waiting(&self) -> usize {
        self.shared.lock().batcher.waiting(self.camera)
    }

    /// Waits until no frame of this camera is waiting: for a file that is read as fast as it goes and
    /// must not lose a frame. Comes back when `stop` says so, at the latest 100 ms after.
    pub fn wait_for_room(&self, stop: impl Fn() -> bool) {
        let mut rings = self.shared.lock();
        while rings.batcher.waiting(self.camera) > 0 && !stop() {
            (rings, _) = self
                .shared
                .room
                .wait_timeout(rings, Duration::from_millis(100))
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// An encoded picture has come. False: it would not be used; follow it with [`Port::skipped`].
    pub fn wants(&self, kind: Kind) -> bool {
        let shown = self.shared.bystander_of(self.camera).is_some();
        let now = self.shared.clock.now();
        let (wanted, level) = {
            let mut rings = self.shared.lock();
            if !rings.batcher.has(self.camera) {
                return false;
            }
            if shown {
                rings.batcher.decodes_all(self.camera);
            }
            (shown || rings.batcher.wants(now, self.camera, kind), rings.batcher.level(self.camera))
        };
        self.shared.board.camera(self.camera).set_decode(level);
        wanted
    }

    /// A frame came in, and its picture stands still: it is left out, so that the engine's time is the others'.
    pub fn leave_out(&self, frame: Frame<P>) {
        {
            let mut rings = self.shared.lock();
            if rings.batcher.has(self.camera) {
                rings.batcher.left_out(frame.stamp.decoded, self.camera);
            }
        }
        let card = self.shared.board.camera(self.camera);
        card.still.fetch_add(1, Relaxed);
        let ledger = &card.ledger;
        let key = FrameKey { camera: self.camera, seq: ledger.admit() };
        ledger.settle(Fate::Skipped);
        if let Some(bystander) = self.shared.bystander_of(self.camera) {
            bystander.gave_up(key, frame);
        }
    }

    /// A picture came in and was left out on purpose.
    pub fn skipped(&self) {
        let ledger = &self.shared.board.camera(self.camera).ledger;
        ledger.admit();
        ledger.settle(Fate::Skipped);
    }

    /// The camera stopped delivering: the others need not wait for it any more.
    pub fn offline(&self) {
        {
            let mut rings = self.shared.lock();
            if rings.batcher.has(self.camera) {
                rings.batcher.offline(self.camera);
            }
        }
        self.shared.board.camera(self.camera).set_decode(Level::All);
        self.shared.bell.ring();
    }

    /// A frame came in that the decoder could not make a picture of.
    pub fn undecodable(&self) {
        let ledger = &self.shared.board.camera(self.camera).ledger;
        ledger.admit();
        ledger.settle(Fate::DecodeError);
    }
}

/// Where cameras come and go while the engine runs.
pub struct Harbour<P>(Arc<Shared<P>>);

impl<P> Harbour<P> {
    /// A camera comes: its port.
    pub fn open(&self, camera: CameraId, settings: CameraSettings) -> Port<P> {
        self.close(camera);
        self.0.lock().batcher.add_camera(camera, settings);
        self.0.ports.fetch_add(1, Relaxed);
        Port { shared: Arc::clone(&self.0), camera }
    }

    /// A camera's share and rate from now on, while it runs.
    pub fn retune(&self, camera: CameraId, weight: u32, max_fps: Option<f64>) {
        self.0.lock().batcher.retune(camera, weight, max_fps);
    }

    /// Gives up an engine that hangs. Frames that it works on stay with it; it may not hand them on any more
    /// ([`Intake::is_abandoned`]).
    pub fn abandon(&self) {
        self.0.abandon();
    }

    /// A camera goes. What still waits of it is left out.
    pub fn close(&self, camera: CameraId) {
        let dropped = {
            let mut rings = self.0.lock();
            rings.batcher.remove_camera(camera);
            rings.take_dropped()
        };
        self.0.room.notify_all();
        self.0.settle(dropped);
    }
}

/// The engine's end.
pub struct Intake<P> {
    /// The number of the engine's lane.
    pub lane: usize,
    shared: Arc<Shared<P>>,
    waiter: Waiter,
    beat: Beat,
}

/// What the engine still works on while the next batch is looked for.
pub struct Busy<'a> {
    /// From this moment on the next batch may be taken.
    pub opens: Tick,
    /// Is it done?
    pub is_done: &'a dyn Fn() -> bool,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The batch is filled: run it.
    Batch,
    /// Nothing for a second, or the batch that runs is done: look after it, say that you are alive, and ask again.
    Nothing,
    /// Every camera has gone and the rings are empty.
    Closed,
}

/// Makes the edge with one port for each of these; more come through [`Intake::harbour`].
pub fn intake<P>(
    settings: Settings,
    cameras: &[(CameraId, CameraSettings)],
    board: &Arc<Board>,
    clock: &Arc<dyn Clock>,
    beat: Beat,
) -> (Vec<Port<P>>, Intake<P>) {
    let mut batcher = Batcher::new(settings);
    for (id, camera) in cameras {
        batcher.add_camera(*id, camera.clone());
    }
    let (bell, waiter) = bell();
    let shared = Arc::new(Shared {
        rings: Mutex::new(Rings { batcher, spare: Vec::new(), swept: Tick::ZERO, abandoned: false }),
        bell,
        room: Condvar::new(),
        ports: AtomicUsize::new(cameras.len()),
        board: Arc::clone(board),
        clock: Arc::clone(clock),
        bystander: OnceLock::new(),
    });
    let port = |(camera, _): &(CameraId, _)| Port { shared: Arc::clone(&shared), camera: *camera };
    let ports = cameras.iter().map(port).collect();
    (ports, Intake { lane: 0, shared, waiter, beat })
}

impl<P> Intake<P> {
    /// Where cameras come and go.
    pub fn harbour(&self) -> Harbour<P> {
        Harbour(Arc::clone(&self.shared))
    }

    /// The same, for the engine of another lane than the first.
    #[must_use]
    pub fn on_lane(mut self, lane: usize) -> Self {
        self.lane = lane;
        self
    }

    /// Was the engine given up while it hung?
    pub fn is_abandoned(&self) -> bool {
        self.shared.lock().abandoned
    }

    /// Tells of frames that come and are given up. The first one who is named stays.
    pub fn tell(&self, bystander: Arc<dyn Bystander<P>>) {
        let _ = self.shared.bystander.set(bystander);
    }

    /// From now on the batcher waits like this.
    pub fn steer(&self, wait: Wait) {
        self.shared.lock().batcher.steer(wait);
    }

    /// What came and was lost since the last call.
    pub fn take_tally(&self) -> Tally {
        self.shared.lock().batcher.take_tally()
    }

    /// Wakes [`Intake::next`], for the engine to say that a batch is done.
    pub fn bell(&self) -> Bell {
        self.shared.bell.clone()
    }

    /// Blocks until there is a batch of at most `slots` frames, appended to `batch`. While the engine is `busy` with an
    /// earlier one, none is taken before it is time, and its end is an answer too.
    pub fn next(&self, slots: usize, busy: Option<Busy<'_>>, batch: &mut Vec<(FrameKey, Frame<P>)>) -> Next {
        let clock = &self.shared.clock;
        let idle_at = clock.now() + Beat::EVERY;
        loop {
            let now = clock.now();
            self.beat.touch(now);
            if busy.as_ref().is_some_and(|busy| (busy.is_done)()) {
                return Next::Nothing;
            }
            let opens = busy.as_ref().map(|busy| busy.opens).filter(|opens| now < *opens);
            let slots = if opens.is_some() { 0 } else { slots };
            let closed = self.shared.ports.load(Relaxed) == 0;
            let (step, dropped) = {
                let mut rings = self.shared.lock();
                if slots > 0 {
                    self.forget(now, &mut rings);
                }
                let step = rings.batcher.poll(now, slots, batch);
                (step, rings.take_dropped())
            };
            if step == Step::Send || !dropped.is_empty() {
                self.shared.room.notify_all();
            }
            self.shared.settle(dropped);
            let until = match step {
                Step::Send => return Next::Batch,
                Step::Idle if closed => return Next::Closed,
                Step::WaitUntil(at) => at.min(idle_at),
                Step::Idle => idle_at,
            };
            if now >= idle_at {
                return Next::Nothing;
            }
            clock.wait(&self.waiter, Some(opens.map_or(until, |opens| until.min(opens))));
        }
    }
}

impl<P> Intake<P> {
    /// A picture for which nobody waits any more must not take the turn of one for which somebody does.
    fn forget(&self, now: Tick, rings: &mut Rings<P>) {
        if now.since(rings.swept) < SWEEP {
            return;
        }
        rings.swept = now;
        let requests = &self.shared.board.requests;
        for class in requests.cameras() {
            if rings.batcher.waiting(class) > 0 {
                rings.batcher.forget(class, |key| requests.is_wanted(key, now));
            }
        }
    }
}

/// The engine's loop has ended.
impl<P> Drop for Intake<P> {
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Wall};
    use crate::frame::{Size, Stamp};

    /// Wants to hear of every frame.
    struct Viewer;

    impl Bystander<u64> for Viewer {
        fn wants(&self, _: CameraId) -> bool {
            true
        }
        fn came(&self, _: FrameKey) {}
        fn gave_up(&self, _: FrameKey, _: Frame<u64>) {}
    }

    /// What somebody watches is decoded whatever the engine has time for, and counts as one frame, not as one that was left out and one that came.
    #[test]
    fn a_frame_that_is_decoded_for_a_viewer_counts_once() {
        let board = Arc::new(Board::new(["seen".into()]));
        let manual = Arc::new(ManualClock::new());
        let clock: Arc<dyn Clock> = Arc::clone(&manual) as _;
        let cameras = [(CameraId(0), CameraSettings::default())];
        let (ports, intake) =
            intake::<u64>(Settings::default(), &cameras, &board, &clock, Beat::new(clock.now()));
        let mut batch = Vec::new();
        // 25 a second, of which the engine takes two: those between are of no use to it.
        let mut play = |frames: u64| {
            let mut decoded = 0;
            for n in 0..frames {
                manual.advance(Duration::from_millis(40));
                if !ports[0].wants(Kind::Disposable) {
                    ports[0].skipped();
                    continue;
                }
                decoded += 1;
                let now = clock.now();
                let stamp = Stamp { arrived: now, decoded: now, pts: None, wall: Wall(0) };
                ports[0].push(Frame { stamp, size: Size { width: 64, height: 64 }, pixels: n });
                if n.is_multiple_of(12) {
                    intake.shared.lock().batcher.poll(now, 1, &mut batch);
                } else {
                    intake.shared.lock().batcher.poll(now, 0, &mut batch);
                }
            }
            (decoded, intake.take_tally().came)
        };
        let (decoded, came) = play(240);
        assert!(decoded < 120 && came == 240, "{decoded} of 240 are decoded, {came} came");
        intake.tell(Arc::new(Viewer));
        assert_eq!(play(240), (240, 240));
        assert_eq!(board.camera(CameraId(0)).decode(), Level::All);
    }
}
