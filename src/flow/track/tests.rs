use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const SIZE: Size = Size { width: 1000, height: 800 };

fn settings() -> config::Track {
    config::Track { high_score: 0.5, low_score: 0.1, confirm_frames: 3, lost: Duration::from_secs(1) }
}

fn person(x: f32, y: f32, score: f32) -> Detection {
    Detection { bbox: BBox { x, y, w: 40.0, h: 100.0 }, class: 0, score }
}

fn ms(millis: u64) -> Tick {
    Tick::from_millis(millis)
}

/// One thing that happens to a tracker.
#[derive(Clone, Debug)]
enum Step {
    Frame { at: Tick, size: Size, seen: Vec<Detection> },
    Expire(Tick),
    EndAll,
}

fn play(tracker: &mut Tracker, step: &Step) -> Vec<Change> {
    match step {
        Step::Frame { at, size, seen } => tracker.update(*at, *size, seen).to_vec(),
        Step::Expire(now) => tracker.expire(*now).to_vec(),
        Step::EndAll => tracker.end_all().to_vec(),
    }
}

/// Few places and sizes, so that boxes meet again; two classes; any score.
fn detection() -> impl Strategy<Value = Detection> {
    (0u8..6, 0u8..3, 0u8..3, 0u16..2, 0.0f32..=1.0).prop_map(|(x, y, more, class, score)| Detection {
        bbox: BBox {
            x: f32::from(x) * 60.0,
            y: f32::from(y) * 90.0,
            w: 50.0 + 12.0 * f32::from(more),
            h: 100.0 + 25.0 * f32::from(more),
        },
        class,
        score,
    })
}

/// What no sane detector reports: a detection with one spoilt number.
fn junk() -> impl Strategy<Value = Detection> {
    const SPOILT: [f32; 5] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -1.0];
    (detection(), 0usize..5, prop::sample::select(&SPOILT[..])).prop_map(|(mut d, field, bad)| {
        let b = &mut d.bbox;
        *[&mut b.w, &mut b.h, &mut d.score, &mut b.x, &mut b.y][field] = bad;
        d
    })
}

/// A camera's life: mostly frames at some 10 to 40 fps, sometimes a pause, silence or a disconnect.
fn life() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u32..40, 25u64..100, prop::collection::vec(detection(), 0..8));
    prop::collection::vec(step, 1..120).prop_map(|steps| {
        let mut now = 0;
        let steps = steps.into_iter().map(|(what, dt, seen)| {
            now += if what < 2 { 1500 } else { dt };
            match what {
                1 => Step::Expire(ms(now)),
                2 => Step::EndAll,
                3 => Step::Frame { at: ms(now), size: Size { width: 500, height: 400 }, seen },
                _ => Step::Frame { at: ms(now), size: SIZE, seen },
            }
        });
        steps.collect()
    })
}

proptest! {
    /// Ids count up from 1 without gap or repetition, whatever happens.
    #[test]
    fn an_id_never_comes_twice(steps in life()) {
        let mut tracker = Tracker::new(settings());
        let mut last = 0;
        for step in &steps {
            for change in play(&mut tracker, step) {
                if let Change::Started(view) = change {
                    prop_assert_eq!(view.id.0, last + 1);
                    last = view.id.0;
                }
            }
        }
    }

    /// Started, updated while alive, ended: in this order, each end once, and `tracks` lists who is between.
    #[test]
    fn a_track_starts_lives_and_ends_once(steps in life()) {
        let mut tracker = Tracker::new(settings());
        let mut alive = BTreeSet::new();
        for step in &steps {
            for change in play(&mut tracker, step) {
                match change {
                    Change::Started(view) => prop_assert!(alive.insert(view.id)),
                    Change::Updated(view) => prop_assert!(alive.contains(&view.id), "{:?} is not alive", view.id),
                    Change::Ended(view) => prop_assert!(alive.remove(&view.id), "{:?} was not alive", view.id),
                }
            }
            let listed: BTreeSet<TrackId> = tracker.tracks().map(|t| t.id).collect();
            prop_assert_eq!(&listed, &alive);
        }
        for change in tracker.end_all() {
            let Change::Ended(view) = change else { panic!("end_all only ends") };
            prop_assert!(alive.remove(&view.id));
        }
        prop_assert!(alive.is_empty());
    }

    /// Each detection feeds one track at most: no frame shows more tracks of a class than it has detections.
    #[test]
    fn no_frame_shows_more_tracks_than_detections(steps in life()) {
        let mut tracker = Tracker::new(settings());
        for step in &steps {
            let changes = play(&mut tracker, step);
            let Step::Frame { at, seen, .. } = step else { continue };
            for class in 0..2 {
                let shown = changes
                    .iter()
                    .filter(|c| matches!(c, Change::Started(v) | Change::Updated(v) if v.class == class));
                let possible = seen.iter().filter(|d| d.class == class && d.score >= settings().low_score);
                prop_assert!(shown.count() <= possible.count());
            }
            let fresh = tracker.tracks.iter().filter(|t| t.view.seen == *at).count();
            prop_assert!(fresh <= seen.len());
        }
    }

    /// No track outlives its last sight by more than `lost`, with frames or without.
    #[test]
    fn a_lost_track_ends_by_time(steps in life()) {
        let mut tracker = Tracker::new(settings());
        for step in &steps {
            play(&mut tracker, step);
            if let Step::Frame { at: now, .. } | Step::Expire(now) = step {
                for track in tracker.tracks() {
                    prop_assert!(now.since(track.seen) <= settings().lost);
                }
            }
        }
    }

    /// A steady walker that is missed in up to 30 % of the frames keeps its one id from first to last, also at
    /// the three frames a second that an overloaded engine leaves it.
    #[test]
    fn a_steady_walker_keeps_its_id(
        vx in -150.0f32..150.0,
        vy in -150.0f32..150.0,
        fps in 3u64..30,
        missed in prop::collection::vec(0u8..10, 40),
    ) {
        let mut tracker = Tracker::new(settings());
        let wide = Size { width: 4000, height: 4000 };
        let (mut ids, mut gap) = (BTreeSet::new(), 0);
        for (frame, missed) in missed.into_iter().enumerate() {
            let t = frame as u64 * 1000 / fps;
            let s = t as f32 / 1000.0;
            // Seen until confirmed, and never missed for longer than 0.4 s, or one frame.
            gap = if frame > 3 && missed < 3 && gap < 1.max(fps * 4 / 10) { gap + 1 } else { 0 };
            let walker = person(2000.0 + vx * s / 2.0, 2000.0 + vy * s / 2.0, 0.9);
            let seen = if gap > 0 { vec![] } else { vec![walker] };
            for change in tracker.update(ms(t), wide, &seen) {
                match change {
                    Change::Started(view) => _ = ids.insert(view.id),
                    Change::Updated(_) => {}
                    Change::Ended(view) => prop_assert!(false, "lost {:?}", view.id),
                }
            }
        }
        prop_assert_eq!(ids.len(), 1);
    }

    /// Two walkers that pass through each other go on under their own names: motion tells them apart.
    #[test]
    fn crossing_walkers_keep_their_ids(
        speed in 80.0f32..200.0,
        apart in -15.0f32..15.0,
        fps in 10u64..30,
    ) {
        let mut tracker = Tracker::new(settings());
        let meet = 300.0 / speed;
        let place = |s: f32| [(500.0 + speed * (s - meet), 300.0), (500.0 - speed * (s - meet), 300.0 + apart)];
        let mut names = Vec::new();
        for frame in 0..(2.0 * meet * fps as f32) as u64 {
            let t = frame * 1000 / fps;
            let seen = place(t as f32 / 1000.0).map(|(x, y)| person(x, y, 0.9));
            tracker.update(ms(t), SIZE, &seen);
            let nearest = |d: &Detection| {
                let best = tracker.tracks().max_by(|a, b| a.bbox.iou(&d.bbox).total_cmp(&b.bbox.iou(&d.bbox)));
                best.map(|track| track.id)
            };
            names.push(seen.each_ref().map(nearest));
        }
        let (first, last) = (names[5], names[names.len() - 1]);
        prop_assert!(first[0].is_some() && first[0] != first[1]);
        prop_assert_eq!(first, last);
    }

    /// Detections that are not finite, empty, outside or absurd change nothing.
    #[test]
    fn junk_is_as_good_as_nothing(
        frames in prop::collection::vec((prop::collection::vec(detection(), 0..5), prop::collection::vec(junk(), 0..5)), 1..40),
    ) {
        // Announced at first sight, so that whatever is taken in shows.
        let settings = config::Track { confirm_frames: 1, ..settings() };
        let (mut clean, mut dirty) = (Tracker::new(settings.clone()), Tracker::new(settings));
        for (i, (seen, junk)) in frames.iter().enumerate() {
            let at = ms(50 * i as u64);
            // A left or top edge at −1 is sound.
            let junk = junk.iter().filter(|d| d.bbox.x != -1.0 && d.bbox.y != -1.0);
            let mixed: Vec<Detection> = junk.chain(seen).copied().collect();
            prop_assert_eq!(clean.update(at, SIZE, seen), dirty.update(at, SIZE, &mixed));
        }
    }

    /// Time may stand, go back or leap: nothing panics, and what is reported stays finite and whole.
    #[test]
    fn no_clock_upsets_the_tracker(
        frames in prop::collection::vec((prop_oneof![0u64..4_000_000_000, any::<u64>()], prop::collection::vec(detection(), 0..5)), 1..60),
    ) {
        let mut tracker = Tracker::new(config::Track { confirm_frames: 1, ..settings() });
        for (nanos, seen) in &frames {
            tracker.update(Tick::from_nanos(*nanos), SIZE, seen);
            for t in &tracker.tracks {
                let b = t.motion.bbox();
                prop_assert!([b.x, b.y, b.w, b.h].iter().all(|v| v.is_finite()) && b.w > 0.0 && b.h > 0.0);
                prop_assert!(t.view.seen <= Tick::from_nanos(*nanos));
            }
        }
    }

    /// A change of resolution scales what is known and renames nobody.
    #[test]
    fn a_change_of_resolution_keeps_the_tracks(
        fx in 0.3f32..3.0,
        fy in 0.3f32..3.0,
        vx in -100.0f32..100.0,
    ) {
        let mut tracker = Tracker::new(settings());
        let small = Size { width: (1000.0 * fx) as u32, height: (800.0 * fy) as u32 };
        let (fx, fy) = (small.width as f32 / 1000.0, small.height as f32 / 800.0);
        for frame in 0..20u64 {
            let before = person(400.0 + vx * frame as f32 / 10.0, 300.0, 0.9);
            let b = before.bbox;
            let after = Detection { bbox: BBox { x: b.x * fx, y: b.y * fy, w: b.w * fx, h: b.h * fy }, ..before };
            let (size, seen) = if frame < 10 { (SIZE, before) } else { (small, after) };
            tracker.update(ms(100 * frame), size, &[seen]);
            if frame > 3 {
                let tracks: Vec<&TrackView> = tracker.tracks().collect();
                prop_assert_eq!(tracks.len(), 1);
                prop_assert_eq!((tracks[0].id, tracks[0].seen), (TrackId(1), ms(100 * frame)));
                prop_assert!(tracks[0].bbox.iou(&seen.bbox) > 0.8);
            }
        }
    }
}

#[test]
fn a_track_is_announced_after_three_frames_in_a_row() {
    let mut tracker = Tracker::new(settings());
    let here = [person(100.0, 100.0, 0.9)];
    for (i, seen) in [&here[..], &here, &[], &here, &here].into_iter().enumerate() {
        assert_eq!(tracker.update(ms(100 * i as u64), SIZE, seen), []);
    }
    let [Change::Started(view)] = tracker.update(ms(500), SIZE, &here) else { panic!("third in a row") };
    assert_eq!((view.id, view.started, view.seen), (TrackId(1), ms(300), ms(500)));
}

#[test]
fn weak_detections_continue_a_track_but_start_none() {
    let mut tracker = Tracker::new(config::Track { confirm_frames: 1, ..settings() });
    for i in 0..4 {
        tracker.update(ms(100 * i), SIZE, &[person(100.0, 100.0, 0.9), person(600.0, 100.0, 0.3)]);
    }
    let [Change::Updated(view)] = tracker.update(ms(400), SIZE, &[person(100.0, 100.0, 0.2)]) else {
        panic!("a weak sight is a sight")
    };
    assert_eq!((view.id, view.score), (TrackId(1), 0.2));
    assert_eq!(tracker.tracks().count(), 1);
}

#[test]
fn classes_do_not_mix() {
    let mut tracker = Tracker::new(settings());
    let car = Detection { class: 2, ..person(100.0, 100.0, 0.9) };
    for i in 0..4 {
        tracker.update(ms(100 * i), SIZE, &[person(100.0, 100.0, 0.9)]);
    }
    assert_eq!(tracker.update(ms(400), SIZE, &[car]), []);
    assert_eq!(tracker.tracks().next().map(|t| (t.class, t.seen)), Some((0, ms(300))));
}

#[test]
fn a_found_object_does_not_keep_two_names() {
    let mut tracker = Tracker::new(settings());
    // One stands at x = 300. Another walks up to it, and is hidden from 260 on.
    let stands = person(300.0, 100.0, 0.9);
    for i in 0..10u64 {
        let walks = person(200.0 + 10.0 * i as f32, 100.0, 0.9);
        let seen = if i < 7 { vec![stands, walks] } else { vec![stands] };
        tracker.update(ms(100 * i), SIZE, &seen);
    }
    let changes = tracker.update(ms(1000), SIZE, &[stands]).to_vec();
    assert!(
        matches!(changes[..], [Change::Ended(TrackView { id: TrackId(2), .. }), Change::Updated(_)]),
        "{changes:?}"
    );
    assert_eq!(tracker.tracks().map(|t| t.id).collect::<Vec<_>>(), [TrackId(1)]);
}

#[test]
fn the_number_of_tracks_is_bounded() {
    let mut tracker = Tracker::new(config::Track { confirm_frames: 1, ..settings() });
    let crowd = |shift: f32| -> Vec<Detection> {
        let place = |i: u16| BBox {
            x: f32::from(i % 40) * 25.0 + shift,
            y: f32::from(i / 40) * 25.0,
            w: 8.0,
            h: 8.0,
        };
        (0..1200).map(|i| Detection { bbox: place(i), class: 0, score: 0.9 }).collect()
    };
    tracker.update(ms(0), SIZE, &crowd(0.0));
    tracker.update(ms(40), SIZE, &crowd(12.0));
    assert_eq!(tracker.tracks.len(), MOST);
}
