//! The batcher's promises, one property each, on scripted worlds. Each was broken once: `tests/mutants`.

use std::collections::HashSet;

use proptest::prelude::*;

use super::sim::{History, Script, World, ms};
use super::*;
use crate::flow::thin::Kind;

fn policy() -> impl Strategy<Value = DropPolicy> {
    prop_oneof![Just(DropPolicy::Oldest), Just(DropPolicy::SkipFrame)]
}

/// The batcher sits behind one lock that camera threads and the engine's thread share.
#[test]
fn a_batcher_may_be_shared_behind_a_lock() {
    fn shared<T: Send + Sync>() {}
    shared::<std::sync::Mutex<Batcher<Vec<u8>>>>();
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
    let settings = (1usize..8, 0u64..60).prop_map(|(max_batch_frames, max_wait)| Settings {
        max_batch_frames,
        max_wait: ms(max_wait),
        ..Settings::default()
    });
    (settings, prop::collection::vec(script(), 1..6), 1usize..10, service())
        .prop_map(|(settings, cameras, slots, service)| World { settings, cameras, slots, service })
}

/// Equal cameras, 33 ms apart, with random phases; the engine takes a batch in `service` ms.
fn equal(policy: DropPolicy, phases: &[u64], slots: usize, service: u64) -> World {
    World {
        settings: Settings { max_batch_frames: 64, max_wait: ms(30), ..Settings::default() },
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

    /// Cameras go and come back with other settings at any moment: their frames leave once all the same, and what is left counts right.
    #[test]
    fn a_camera_may_go_and_come_back(
        steps in prop::collection::vec((0u8..6, 0u32..4, 1u64..40), 1..200),
    ) {
        let mut batcher: Batcher<()> = Batcher::new(Settings { max_batch_frames: 4, ..Settings::default() });
        let (mut now, mut seq) = (Tick::ZERO, 0);
        let (mut waiting, mut batch, mut dropped) = (HashSet::new(), Vec::new(), Vec::new());
        for (what, id, more) in steps {
            let id = CameraId(id);
            match (what, batcher.has(id)) {
                (0, true) => batcher.remove_camera(id),
                (0..=2, false) => batcher.add_camera(id, CameraSettings {
                    priority: if more % 2 == 0 { Priority::Realtime } else { Priority::Bulk },
                    ring: ms(more * 10),
                    max_frames: (more % 5) as usize,
                    ..CameraSettings::default()
                }),
                (5, _) => drop(batcher.poll(now, more as usize % 5, &mut batch)),
                (_, true) => {
                    now = now + ms(more);
                    seq += 1;
                    waiting.insert(FrameKey { camera: id, seq });
                    batcher.wants(now, id, Kind::Key);
                    batcher.push(now, FrameKey { camera: id, seq }, ());
                }
                _ => {}
            }
            batcher.take_dropped(&mut dropped);
            let gone = batch.drain(..).map(|(key, ())| key).chain(dropped.drain(..).map(|(key, (), _)| key));
            for key in gone {
                prop_assert!(waiting.remove(&key), "{} left twice", key);
            }
            prop_assert_eq!(batcher.waiting, waiting.len());
            let realtime = |key: &&FrameKey| batcher.cameras[key.camera.index()].as_ref().is_some_and(|c| c.settings.is_realtime());
            prop_assert_eq!(batcher.realtime_waiting, waiting.iter().filter(realtime).count());
        }
        // Whoever is there is still served.
        for turn in 0..200 {
            batcher.poll(now + ms(turn), 4, &mut batch);
        }
        batcher.take_dropped(&mut dropped);
        prop_assert_eq!(batch.len() + dropped.len(), waiting.len());
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

    /// No camera has a fourth turn while another waits for its first: two are the most that one may be owed.
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
        for four in turns.iter().flat_map(|turns| turns.windows(4)) {
            for (other, turns) in turns.iter().enumerate() {
                if history.batches[four[0]].waiting[other] > 0 {
                    waited += 1;
                    prop_assert!(
                        turns.iter().any(|turn| (four[0]..=four[3]).contains(turn)),
                        "camera {other} was passed over from batch {} to {}", four[0], four[3],
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

    /// When the engine is the limit, what it gives is divided by weight.
    #[test]
    fn weights_divide_the_engine(
        policy in policy(),
        weights in prop::collection::vec(1u32..4, 2..6),
        slots in 1usize..4,
    ) {
        let cameras: Vec<_> = weights.iter().zip(0..).map(|(weight, phase)| {
            let mut script = Script::regular(policy, phase, 10, 500);
            script.settings.weight = *weight;
            script
        }).collect();
        // One frame in three of the heaviest camera at the most: nobody could take more than its share.
        let total: u32 = weights.iter().sum();
        let service = 90 * slots as u64 / u64::from(total);
        let history = World {
            settings: Settings { max_batch_frames: 64, max_wait: ms(30), ..Settings::default() },
            cameras,
            slots,
            service: vec![ms(service.max(1))],
        }.play(Some(Tick::from_millis(5_000)));
        let turn = history.sent.len() as f64 / f64::from(total);
        for (camera, weight) in weights.iter().enumerate() {
            let part = history.sent_by(camera as u32).count() as f64 / (f64::from(*weight) * turn);
            prop_assert!((0.9..1.1).contains(&part), "weights {weights:?}: camera {camera} has {part:.2} of its share");
        }
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
        let settings = Settings { max_batch_frames: 64, max_wait: ms(30), ..Settings::default() };
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

    /// A slow camera is waited for only when its frame is about to come.
    #[test]
    fn a_slow_camera_does_not_pace_the_others(phase in 0u64..33, slow in 150u64..900, max_wait in 1u64..33) {
        let mut world = equal(DropPolicy::Oldest, &[phase], 64, 1);
        world.settings.max_wait = ms(max_wait);
        world.cameras.push(Script::regular(DropPolicy::Oldest, 0, slow, 4_000 / slow as usize));
        let mut seen = 0;
        // After its last frame it owes one that never comes.
        let last = *world.cameras[1].arrivals.last().expect("it has frames");
        for sent in world.play(None).sent_by(0).filter(|sent| sent.arrived < last) {
            // Neither about to come nor, as it just came, in the engine.
            let near = |at: &Tick| (sent.arrived - ms(2)..=sent.arrived + ms(max_wait)).contains(at);
            if !world.cameras[1].arrivals.iter().any(near) {
                prop_assert_eq!(sent.waited(), Duration::ZERO, "{}", sent.key);
                seen += 1;
            }
        }
        prop_assert!(seen > 50);
    }

    /// Told that a camera went offline, the others do not wait for the frame that it owes.
    #[test]
    fn nobody_waits_for_an_offline_camera(owes in 2u64..30, frames in 2u64..20) {
        let mut batcher = Batcher::new(Settings { max_batch_frames: 8, max_wait: ms(30), ..Settings::default() });
        let settings = CameraSettings { max_frames: 4, ..CameraSettings::default() };
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
        let settings = Settings { max_batch_frames: 8, max_wait: ms(30), ..Settings::default() };
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

/// A client's requests wait by the dozen, an engine that takes one frame at a time is never free; a realtime camera that
/// delivers two frames at once loses none of them, and neither does a camera whose frames must not be thinned.
#[test]
fn a_backlog_of_bulk_costs_realtime_cameras_nothing() {
    let mut batcher = Batcher::new(Settings { max_batch_frames: 1, max_wait: ms(30), ..Settings::default() });
    batcher.add_camera(CameraId(0), CameraSettings::default());
    let requests = CameraSettings {
        ring: Duration::from_secs(10),
        max_frames: 64,
        backlog_frames: u32::MAX,
        priority: Priority::Bulk,
        ..CameraSettings::default()
    };
    batcher.add_camera(CameraId(1), requests);
    let (mut batch, mut dropped, mut seqs) = (Vec::new(), Vec::new(), [0, 0]);
    let mut push = |batcher: &mut Batcher<()>, now, camera: u32| {
        let seq = &mut seqs[camera as usize];
        batcher.push(now, FrameKey { camera: CameraId(camera), seq: *seq }, ());
        *seq += 1;
    };
    for run in 0..300 {
        let now = Tick::from_millis(run * 20);
        while batcher.waiting(CameraId(1)) < 64 {
            push(&mut batcher, now, 1);
            batcher.offline(CameraId(1));
        }
        if run % 4 == 0 {
            push(&mut batcher, now, 0);
            push(&mut batcher, now, 0);
        }
        assert_eq!(batcher.poll(now, 1, &mut batch), Step::Send);
        batcher.take_dropped(&mut dropped);
    }
    assert!(dropped.is_empty(), "{} given up", dropped.len());
    let of = |camera| batch.iter().filter(|(key, ())| key.camera == CameraId(camera)).count();
    assert_eq!((of(0), of(1)), (150, 150), "two of four runs are the camera's");
}

/// Other terms while it runs: what waits stays, the new share and rate count from the next turn and frame on, and turns that were had
/// under the old weight stay had.
#[test]
fn a_camera_gets_its_new_terms_while_it_runs() {
    let mut batcher = Batcher::new(Settings { max_batch_frames: 1, max_wait: ms(0), ..Settings::default() });
    let (capped, other) = (CameraId(0), CameraId(1));
    let (mut batch, mut dropped) = (Vec::new(), Vec::new());
    let settings = |max_fps| CameraSettings { max_frames: 4, max_fps, ..CameraSettings::default() };
    batcher.add_camera(capped, settings(Some(5.0)));
    batcher.add_camera(other, settings(None));
    let mut seq = 0;
    // A second of 20 frames a second each, of which the engine takes half: how many each gets, and how many of the first are skipped.
    let mut second = |batcher: &mut Batcher<()>, from: u64| {
        for tick in 0..20 {
            let now = Tick::from_millis(from + tick * 50);
            for camera in [capped, other] {
                batcher.push(now, FrameKey { camera, seq }, ());
            }
            seq += 1;
            batcher.poll(now, 1, &mut batch);
        }
        batcher.take_dropped(&mut dropped);
        let got = [capped, other].map(|id| batch.iter().filter(|(key, ())| key.camera == id).count());
        let skipped = dropped.iter().filter(|(key, (), fate)| key.camera == capped && *fate == Fate::Skipped);
        let skipped = skipped.count();
        batch.clear();
        dropped.clear();
        (got, skipped)
    };
    assert_eq!(second(&mut batcher, 1_000), ([5, 15], 15), "5 of 20 frames a second");
    let waiting = batcher.waiting(other);
    batcher.retune(capped, 1, None);
    batcher.retune(other, 3, None);
    assert_eq!(batcher.waiting(other), waiting);
    let (_, skipped) = second(&mut batcher, 2_000);
    assert_eq!(skipped, 0, "no cap any more");
    assert_eq!(second(&mut batcher, 3_000).0, [5, 15], "one of four turns");
    batcher.retune(capped, 1, Some(2.0));
    assert_eq!(second(&mut batcher, 4_000).1, 18);
    batcher.retune(CameraId(7), 1, None);
}

/// The turns that a camera does not ask for, since its picture stands still, are none that it did not get.
#[test]
fn a_picture_that_stands_still_is_no_engine_that_is_busy() {
    let mut batcher = Batcher::new(Settings { max_wait: ms(0), ..Settings::default() });
    let (still, other) = (CameraId(0), CameraId(1));
    batcher.add_camera(still, CameraSettings::default());
    batcher.add_camera(other, CameraSettings::default());
    let (mut batch, mut refused) = (Vec::new(), Vec::new());
    // 25 frames a second, a key frame each half second, every other picture needed by none; the gate lets two a second pass. The other
    // camera keeps the engine busy.
    for n in 0..500u64 {
        let now = Tick::from_millis(1_000 + n * 40);
        let kind = match n {
            n if n.is_multiple_of(12) => Kind::Key,
            n if n.is_multiple_of(2) => Kind::Reference,
            _ => Kind::Disposable,
        };
        batcher.push(now, FrameKey { camera: other, seq: n }, ());
        if !batcher.wants(now, still, kind) {
            refused.push(n);
        } else if n.is_multiple_of(12) {
            batcher.push(now, FrameKey { camera: still, seq: n }, ());
        } else {
            batcher.left_out(now, still);
        }
        batcher.poll(now, 8, &mut batch);
        batcher.poll(now + ms(1), 0, &mut batch);
        assert_eq!(batcher.level(still), Level::All, "picture {n}");
    }
    assert_eq!(refused, [0; 0], "each is decoded, so that motion is seen with the picture that shows it");
    assert_eq!(batcher.take_tally().realtime_lost, 0, "nothing is lost for want of engine time");
}

#[test]
fn what_nobody_wants_any_more_goes_before_its_turn() {
    let mut batcher = Batcher::new(Settings { max_wait: ms(0), ..Settings::default() });
    let id = CameraId(0);
    batcher.add_camera(id, CameraSettings { priority: Priority::Bulk, ..CameraSettings::default() });
    let key = |seq| FrameKey { camera: id, seq };
    (0..5).for_each(|seq| batcher.push(Tick::from_millis(seq), key(seq), ()));
    batcher.forget(id, |key| key.seq == 0 || key.seq > 3);
    let (mut dropped, mut batch) = (Vec::new(), Vec::new());
    batcher.take_dropped(&mut dropped);
    assert_eq!(dropped, [1, 2, 3].map(|seq| (key(seq), (), Fate::Stale)));
    assert_eq!((batcher.waiting(id), batcher.poll(Tick::from_millis(9), 1, &mut batch)), (2, Step::Send));
    assert_eq!(batch, [(key(0), ())]);
    batcher.forget(id, |_| false);
    assert_eq!(batcher.poll(Tick::from_millis(9), 1, &mut batch), Step::Idle);
    batcher.forget(CameraId(7), |_| false);
}
