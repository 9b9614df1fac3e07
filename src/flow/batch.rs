//! The camera × frame microbatcher: which frames go to the engine now, and until when to wait otherwise.
//!
//! One decision, [`Batcher::poll`]. The caller asks after each push, when the engine is free again, and at the
//! moment it was told. The rules, in the order in which they are looked at:
//!
//! 1. A frame older than its camera's ring is given up ([`Fate::Stale`]), never sent.
//! 2. **Send** when the oldest frame has waited `max_wait`; or when the batch can be filled; or when waiting
//!    longer could add no other camera. A camera can be added if none of its frames waits and its next one is
//!    due before the oldest frame's time is up. Due is reckoned from its own measured interval, so a slow camera is
//!    waited for only when its frame is about to come, and a camera that is late by more than [`GRACE`] (dead,
//!    or in the pause before a key frame) is not waited for at all.
//! 3. The slots go round: one frame a camera a round, the camera that was served least recently first, further
//!    rounds while slots remain.
//! 4. A camera that has more frames than slots keeps them for the next batch, in order, **unless the engine is
//!    behind**: for longer than the camera's *patience* no batch could take everything that waited. Patience is
//!    `max_wait` or the camera's own frame interval, whichever is longer. Then its [`DropPolicy`] decides:
//!
//! | policy | gives up, at the camera's turn | fate | what it costs |
//! |---|---|---|---|
//! | `oldest` | all but the newest frames that its slots take | `overrun` | gaps as long as a round; a sent frame is at most about one interval old |
//! | `skip-frame` | every other frame, or two of three and so on, until at most two a slot are left | `skipped` | even gaps; a sent frame is up to about two rounds old |
//!
//! The distinction is that of a queue that a burst fills and that drains again, from one that stands, as in CoDel
//! (RFC 8289, section 3): only the second one is overload, and only overload loses frames. Apart from that a full ring loses
//! its oldest frame (`overrun`), or is thinned in the same way under `skip-frame`.
//!
//! A frame costs O(log cameras). Not in here: how large a batch is worth while (the caller's `slots`; with an engine
//! whose time grows with the batch, a large batch is a late one), and how `max_wait` is steered.

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
    /// The oldest that a frame may be when it is sent. A camera with less than twice `max_wait` here shortens the wait of
    /// all to half of this; otherwise its frames would wait until they are stale.
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
    /// Frames wait. Ask again at this moment, which lies in the future, or after a push or when the engine is free.
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
    /// The `seq` of the last frame that was sent.
    sent: Option<u64>,
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
        let camera = Camera {
            settings,
            ring,
            interval: Interval::default(),
            due: None,
            turn: 0,
            sent: None,
            share: 0,
        };
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
            camera.ring.thin(camera.ring.len() - 1, camera.sent, &mut self.dropped);
        }
        self.dropped.extend(camera.ring.push(now, key, item));
        self.waiting = self.waiting - before + camera.ring.len();
        self.by_turn.put(camera.turn, key.camera);
        self.by_oldest.put(camera.ring.oldest().unwrap_or(now), key.camera);
    }

    /// The only decision. `slots` is the largest batch that the engine takes now, 0 while it is busy. Frames are
    /// appended to `batch`, those of one camera in the order of their `seq`.
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

    /// A camera went offline: nobody waits for its next frame, and its rhythm is measured anew when it is back.
    /// Its waiting frames are sound pictures: they are sent as usual, or go stale.
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

    /// Gives up stale frames at the front. Returns when the oldest of the others came and until when it is fresh.
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
            camera.sent = batch.last().map(|(key, _)| key.seq);
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
            DropPolicy::SkipFrame => camera.ring.thin(2 * camera.share, camera.sent, &mut self.dropped),
        }
        self.waiting = self.waiting - before + camera.ring.len();
    }
}

/// Borrows one camera and leaves the rest of the batcher free.
fn camera<T>(cameras: &mut [Option<Camera<T>>], id: CameraId) -> &mut Camera<T> {
    cameras.get_mut(id.index()).and_then(Option::as_mut).expect("the camera was added before its first frame")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::super::sim::{History, Script, World, ms};
    use super::*;

    fn policy() -> impl Strategy<Value = DropPolicy> {
        prop_oneof![Just(DropPolicy::Oldest), Just(DropPolicy::SkipFrame)]
    }

    /// Bursts, regular delivery, and pauses as before a key frame, all mixed.
    fn gap() -> impl Strategy<Value = u64> {
        prop_oneof![2 => 0u64..3, 5 => 20u64..50, 1 => 400u64..500]
    }

    fn script() -> impl Strategy<Value = Script> {
        (policy(), prop::collection::vec(gap(), 1..40), 1usize..8, 40u64..400).prop_map(
            |(policy, gaps, max_frames, ring)| {
                let mut script = Script::after(policy, gaps);
                script.settings.max_frames = max_frames;
                script.settings.ring = ms(ring);
                script
            },
        )
    }

    fn service() -> impl Strategy<Value = Vec<Duration>> {
        prop::collection::vec((1u64..120).prop_map(ms), 1..5)
    }

    /// Any cameras, any settings, an engine from idle to hopeless.
    fn world() -> impl Strategy<Value = World> {
        let settings = (1usize..8, 0u64..60)
            .prop_map(|(max_batch_frames, max_wait)| Settings { max_batch_frames, max_wait: ms(max_wait) });
        (settings, prop::collection::vec(script(), 1..6), 1usize..10, service())
            .prop_map(|(settings, cameras, slots, service)| World { settings, cameras, slots, service })
    }

    /// Equal cameras, 33 ms apart, with random phases; the engine takes a batch in `service` ms.
    fn equal(policy: DropPolicy, phases: &[u64], slots: usize, service: u64) -> World {
        World {
            settings: Settings { max_batch_frames: 64, max_wait: ms(30) },
            cameras: phases.iter().map(|phase| Script::regular(policy, *phase, 33, 150)).collect(),
            slots,
            service: vec![ms(service)],
        }
    }

    /// Overloads that engine: at least twice as many frames come as it takes.
    fn overload(cameras: usize, slots: usize, factor: f64) -> u64 {
        (33.0 * factor * slots as f64 / cameras as f64) as u64
    }

    /// Frames that came after the start, when the backlog stands.
    fn standing(history: &History, camera: u32) -> Vec<(u64, Duration)> {
        let standing = history.sent_by(camera).filter(|sent| sent.at > Tick::from_millis(1_000));
        standing.map(|sent| (sent.key.seq, sent.waited())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_frame_leaves_once(world in world(), stop in 0u64..2_000) {
            let history = world.play(Some(Tick::from_millis(stop)));
            let gone: Vec<_> = history.sent.iter().map(|sent| sent.key)
                .chain(history.dropped.iter().map(|(key, _)| *key))
                .chain(history.drained.iter().copied())
                .collect();
            let distinct: HashSet<_> = gone.iter().copied().collect();
            prop_assert_eq!(gone.len(), distinct.len(), "a frame left twice");
            prop_assert_eq!(distinct, history.pushed.keys().copied().collect::<HashSet<_>>());
        }

        #[test]
        fn a_camera_is_sent_in_order(world in world()) {
            let history = world.play(None);
            for camera in 0..world.cameras.len() {
                let seqs: Vec<_> = history.sent_by(camera as u32).map(|sent| sent.key.seq).collect();
                prop_assert!(seqs.is_sorted_by(|a, b| a < b), "{:?}", seqs);
            }
        }

        #[test]
        fn no_stale_frame_is_sent(world in world()) {
            for sent in world.play(None).sent {
                let ring = world.cameras[sent.key.camera.index()].settings.ring;
                prop_assert!(sent.waited() <= ring, "{} waited {:?}", sent.key, sent.waited());
            }
        }

        #[test]
        fn no_more_frames_wait_than_a_ring_holds(world in world()) {
            let history = world.play(None);
            for (camera, most) in world.cameras.iter().zip(history.most_waiting) {
                prop_assert!(most <= camera.settings.max_frames);
            }
        }

        #[test]
        fn waits_end_in_the_future(world in world()) {
            for (asked, until) in world.play(None).waits {
                prop_assert!(asked < until, "asked at {:?}, told {:?}", asked, until);
            }
        }

        #[test]
        fn a_batch_fits_its_slots(world in world()) {
            let most = world.slots.min(world.settings.max_batch_frames);
            for batch in world.play(None).batches {
                prop_assert!((1..=most).contains(&batch.frames), "{} of {most}", batch.frames);
            }
        }

        /// Slots do not stay empty while frames wait that fit.
        #[test]
        fn a_batch_takes_what_fits(world in world()) {
            let most = world.slots.min(world.settings.max_batch_frames);
            for batch in world.play(None).batches {
                prop_assert!(batch.frames == most || batch.left == 0, "{batch:?} of {most}");
            }
        }

        /// No camera has a second turn while another waits for its first.
        #[test]
        fn waiting_cameras_take_turns(
            policy in policy(),
            phases in prop::collection::vec(0u64..33, 2..8),
            slots in 1usize..8,
            factor in 1.3f64..6.0,
        ) {
            let service = overload(phases.len(), slots, factor).max(1);
            let history = equal(policy, &phases, slots, service).play(Some(Tick::from_millis(4_000)));
            let cameras = 0..phases.len() as u32;
            let turns: Vec<Vec<usize>> =
                cameras.map(|id| history.sent_by(id).map(|sent| sent.batch).collect()).collect();
            let mut waited = 0;
            for two in turns.iter().flat_map(|turns| turns.windows(2)) {
                for (other, turns) in turns.iter().enumerate() {
                    if history.batches[two[0]].waiting[other] > 0 {
                        waited += 1;
                        prop_assert!(
                            turns.iter().any(|turn| (two[0]..=two[1]).contains(turn)),
                            "camera {other} was passed over from batch {} to {}", two[0], two[1],
                        );
                    }
                }
            }
            prop_assert!(waited > phases.len());
        }

        /// Over some seconds equal cameras get equal shares, whatever their phases.
        #[test]
        fn equal_cameras_get_equal_shares(
            policy in policy(),
            phases in prop::collection::vec(0u64..33, 2..8),
            slots in 1usize..8,
            factor in 1.3f64..4.0,
        ) {
            let service = overload(phases.len(), slots, factor).max(1);
            let history = equal(policy, &phases, slots, service).play(Some(Tick::from_millis(4_900)));
            let counts: Vec<_> = (0..phases.len() as u32).map(|id| history.sent_by(id).count()).collect();
            let (least, most) = (counts.iter().min(), counts.iter().max());
            // A camera whose frame comes just after each batch has left is up to an eighth worse off.
            prop_assert!(least.map(|n| n * 5 / 4 + 2).as_ref() >= most, "{counts:?}");
        }

        /// Under overload a camera that asks for less than an even share gets all of it.
        #[test]
        fn a_slow_camera_loses_nothing_to_fast_ones(
            policy in policy(),
            fast in prop::collection::vec(0u64..10, 1..6),
            slots in 1usize..4,
        ) {
            // An even share is at least 15 frames a second; the fast ones ask for 100 each, the slow one for 10.
            let service = 1_000 * slots as u64 / (15 * (fast.len() as u64 + 1));
            let mut cameras: Vec<_> =
                fast.iter().map(|phase| Script::regular(policy, *phase, 10, 300)).collect();
            cameras.push(Script::regular(policy, 5, 100, 30));
            let settings = Settings { max_batch_frames: 64, max_wait: ms(30) };
            let history = World { settings, cameras, slots, service: vec![ms(service)] }.play(None);
            prop_assert_eq!(history.sent_by(fast.len() as u32).count(), 30);
        }

        /// Beside a camera that does anything, the others' frames leave in time and none is lost.
        #[test]
        fn a_slow_or_bursting_camera_delays_nobody(
            odd in prop::collection::vec(gap(), 1..60),
            phases in prop::collection::vec(0u64..33, 1..6),
            max_wait in 0u64..40,
            service in 1u64..30,
        ) {
            let mut world = equal(DropPolicy::Oldest, &phases, 64, service);
            world.settings.max_wait = ms(max_wait);
            world.cameras.push(Script::after(DropPolicy::Oldest, odd));
            let history = world.play(None);
            for camera in 0..phases.len() as u32 {
                prop_assert_eq!(history.sent_by(camera).count(), 150);
                for sent in history.sent_by(camera) {
                    prop_assert!(sent.waited() <= ms(max_wait + service), "{} waited {:?}", sent.key, sent.waited());
                }
            }
        }

        /// In the pause of all others, a camera's frames leave at once, as if it were alone.
        #[test]
        fn nobody_waits_for_a_silent_camera(
            pauses in prop::collection::vec(400u64..500, 1..6),
            phase in 0u64..33,
        ) {
            let mut world = equal(DropPolicy::Oldest, &[phase], 64, 1);
            for pause in &pauses {
                let gaps = std::iter::repeat_n(33, 30).chain([*pause]).chain(std::iter::repeat_n(33, 10));
                world.cameras.push(Script::after(DropPolicy::Oldest, gaps));
            }
            // They all deliver until 990 ms, and none before 1390 ms.
            let silent = Tick::from_millis(990) + ms(33) + GRACE..Tick::from_millis(1_390 - 31);
            let history = world.play(None);
            let mut seen = 0;
            for sent in history.sent_by(0).filter(|sent| silent.contains(&sent.arrived)) {
                prop_assert_eq!(sent.waited(), Duration::ZERO, "{}", sent.key);
                seen += 1;
            }
            prop_assert!(seen >= 8);
        }

        /// Told that a camera went offline, the others do not wait for the frame that it owes.
        #[test]
        fn nobody_waits_for_an_offline_camera(owes in 2u64..30, frames in 2u64..20) {
            let mut batcher = Batcher::new(Settings { max_batch_frames: 8, max_wait: ms(30) });
            let settings = CameraSettings { ring: ms(300), max_frames: 4, drop_policy: DropPolicy::Oldest };
            (0..2).for_each(|id| batcher.add_camera(CameraId(id), settings.clone()));
            let key = |camera, seq| FrameKey { camera: CameraId(camera), seq };
            let mut batch = Vec::new();
            for seq in 0..frames {
                batcher.push(Tick::from_millis(seq * 33), key(0, seq), ());
                prop_assert_eq!(batcher.poll(Tick::from_millis(seq * 33), 8, &mut batch), Step::Send);
            }
            let now = Tick::from_millis(frames * 33 - owes);
            batcher.push(now, key(1, 0), ());
            prop_assert!(matches!(batcher.poll(now, 8, &mut batch), Step::WaitUntil(_)));
            batcher.offline(CameraId(0));
            prop_assert_eq!(batcher.poll(now, 8, &mut batch), Step::Send);
            prop_assert_eq!(batcher.poll(now, 8, &mut batch), Step::Idle);
        }

        /// Cameras whose frames come within `max_wait` of each other share a batch.
        #[test]
        fn a_camera_about_to_deliver_is_waited_for(phases in prop::collection::vec(0u64..28, 2..8)) {
            let history = equal(DropPolicy::Oldest, &phases, 64, 1).play(Some(Tick::from_millis(4_000)));
            for batch in history.batches.iter().filter(|batch| batch.at > Tick::from_millis(200)) {
                prop_assert_eq!(batch.frames, phases.len());
            }
        }

        /// Frames that come close together are lost only when the engine is behind: here it clears any
        /// backlog within `max_wait`.
        #[test]
        fn light_load_loses_nothing(
            bursts in prop::collection::vec(prop::collection::vec((1usize..4, 100u64..200), 1..12), 1..5),
            policy in policy(),
            slots in 1usize..9,
        ) {
            let frames = 3 * bursts.len();
            let service = 28 / frames.div_ceil(slots) as u64;
            let cameras = bursts.iter().map(|bursts| {
                let gaps = bursts.iter().flat_map(|(frames, gap)| {
                    std::iter::once(*gap).chain(std::iter::repeat_n(1, frames - 1))
                });
                Script::after(policy, gaps)
            });
            let settings = Settings { max_batch_frames: 8, max_wait: ms(30) };
            let history = World { settings, cameras: cameras.collect(), slots, service: vec![ms(service)] }.play(None);
            prop_assert_eq!(history.dropped, vec![]);
        }

        /// `oldest` under overload: what is sent is fresh, however far behind the engine is.
        #[test]
        fn oldest_sends_the_newest_when_behind(
            phases in prop::collection::vec(0u64..33, 1..8),
            factor in 2.0f64..8.0,
        ) {
            let service = overload(phases.len(), 1, factor);
            let world = equal(DropPolicy::Oldest, &phases, 1, service.max(1));
            let history = world.play(Some(Tick::from_millis(4_000)));
            for camera in 0..phases.len() as u32 {
                for (seq, waited) in standing(&history, camera) {
                    prop_assert!(waited <= ms(33), "{camera}#{seq} waited {:?}", waited);
                }
            }
        }

        /// `skip-frame` under overload: no gap is longer than twice the fair one, rounded up.
        #[test]
        fn skip_frame_thins_evenly(
            phases in prop::collection::vec(0u64..33, 1..4),
            slots in 1usize..5,
            factor in 1.2f64..4.0,
        ) {
            let service = overload(phases.len(), slots, factor);
            let mut world = equal(DropPolicy::SkipFrame, &phases, slots, service.max(1));
            // Nothing goes stale or overruns: what is left is the policy's doing.
            world.cameras.iter_mut().for_each(|camera| {
                camera.settings = CameraSettings { ring: ms(10_000), max_frames: 64, ..camera.settings.clone() };
            });
            let history = world.play(Some(Tick::from_millis(4_000)));
            for camera in 0..phases.len() as u32 {
                let sent = standing(&history, camera);
                let widest = sent.windows(2).map(|pair| pair[1].0 - pair[0].0).max();
                prop_assert!(widest <= Some(2 * factor.ceil() as u64), "factor {factor}: {sent:?}");
            }
        }
    }
}
