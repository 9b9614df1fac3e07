use proptest::prelude::*;

use super::*;
use crate::clock::Pts;
use crate::config::{Camera, DropPolicy, Events, Line, Priority, Source, Zone};
use crate::frame::CameraId;

const SIZE: Size = Size { width: 1000, height: 1000 };
/// The height of every box here; its margin is a twentieth, 5 px.
const HEIGHT: f32 = 100.0;

/// The zone is x 0.4..0.6, y 0.4..0.8; the line runs down the picture at x = 0.5 from y = 0.3 to 0.7.
fn camera() -> Camera {
    Camera {
        name: "gate".into(),
        source: Source::V4l2 { device: "/dev/video0".into() },
        ring: Duration::from_millis(300),
        drop_policy: DropPolicy::Oldest,
        backlog_frames: 3,
        priority: Priority::Realtime,
        weight: 1,
        max_fps: None,
        thin_decode: true,
        still_fps: None,
        stall: Duration::from_secs(3),
        zones: vec![Zone {
            name: "door".into(),
            polygon: vec![[0.4, 0.4], [0.6, 0.4], [0.6, 0.8], [0.4, 0.8]],
            dwell: Some(Duration::from_secs(1)),
            classes: vec![],
        }],
        lines: vec![Line { name: "sill".into(), ends: [[0.5, 0.3], [0.5, 0.7]], classes: vec![] }],
        privacy: Default::default(),
        restream: Default::default(),
    }
}

fn rules(camera: &Camera) -> Rules {
    let settings = Events { update_interval: Duration::from_secs(1), keep: 1000 };
    Rules::new(camera, &["person".into(), "car".into()], &settings)
}

fn ctx(at: u64) -> FrameContext {
    let arrived = Tick::from_millis(at);
    FrameContext {
        key: FrameKey { camera: CameraId(0), seq: at / 100 },
        stamp: Stamp {
            arrived,
            decoded: arrived,
            pts: Some(Pts(at * 1_000_000)),
            wall: Wall(at as i64 * 1_000_000),
        },
        size: SIZE,
        now: arrived + Duration::from_millis(42),
    }
}

/// A track whose foot is at this point, in pixels.
fn view(id: u64, class: u16, at: u64, foot: Point) -> TrackView {
    let bbox = BBox { x: foot[0] - 20.0, y: foot[1] - HEIGHT, w: 40.0, h: HEIGHT };
    let seen = Tick::from_millis(at);
    TrackView { id: TrackId(id), class, score: 0.8, bbox, started: seen, seen }
}

/// One track that walks these foot points, one each 100 ms, and ends.
fn walk(rules: &mut Rules, id: u64, feet: &[Point]) -> Vec<Draft> {
    let mut out = Vec::new();
    for (i, foot) in feet.iter().enumerate() {
        let at = 100 * i as u64;
        let view = view(id, 0, at, *foot);
        let change = if i == 0 { Change::Started(view) } else { Change::Updated(view) };
        rules.apply(&ctx(at), &[change], &mut out);
    }
    let last = view(id, 0, 100 * (feet.len() as u64 - 1), feet[feet.len() - 1]);
    rules.apply(&ctx(100 * feet.len() as u64 + 1000), &[Change::Ended(last)], &mut out);
    out
}

fn kinds(drafts: &[Draft]) -> Vec<Kind> {
    drafts.iter().map(|d| d.kind).collect()
}

fn crossings(drafts: &[Draft]) -> Vec<Direction> {
    drafts.iter().filter_map(|d| d.line.as_ref().map(|l| l.direction)).collect()
}

fn place() -> impl Strategy<Value = Point> {
    (0.0f32..1000.0, 0.0f32..1000.0).prop_map(|(x, y)| [x, y])
}

fn path() -> impl Strategy<Value = Vec<Point>> {
    prop::collection::vec(place(), 1..60)
}

/// A scripted camera's life: which of six tracks does what where, in each frame.
fn life() -> impl Strategy<Value = Vec<Vec<(u64, bool, Point)>>> {
    prop::collection::vec(prop::collection::vec((0u64..6, prop::bool::weighted(0.9), place()), 0..6), 1..60)
}

/// Plays a life as the tracker would report it; ends what is left without a frame.
fn play(rules: &mut Rules, life: &[Vec<(u64, bool, Point)>]) -> Vec<Draft> {
    let mut out = Vec::new();
    let mut alive: BTreeMap<u64, TrackView> = BTreeMap::new();
    let mut generation = 0;
    for (frame, steps) in life.iter().enumerate() {
        let at = 100 * frame as u64;
        let mut changes: Vec<Change> = Vec::new();
        for (slot, stays, foot) in steps {
            match (alive.get(slot).copied(), stays) {
                (None, true) => {
                    generation += 1;
                    let new = view(generation, 0, at, *foot);
                    alive.insert(*slot, new);
                    changes.push(Change::Started(new));
                }
                (Some(old), true) => {
                    let new = view(old.id.0, 0, at, *foot);
                    alive.insert(*slot, new);
                    changes.push(Change::Updated(new));
                }
                (Some(old), false) => {
                    alive.remove(slot);
                    changes.push(Change::Ended(old));
                }
                (None, false) => {}
            }
        }
        rules.apply(&ctx(at), &changes, &mut out);
    }
    let ends: Vec<Change> = alive.values().map(|v| Change::Ended(*v)).collect();
    rules.apply_without_frame(Wall(100_000_000_000), &ends, &mut out);
    out
}

fn of_track(drafts: &[Draft], id: u64) -> Vec<&Draft> {
    drafts.iter().filter(|d| d.track.as_ref().is_some_and(|t| t.id == id)).collect()
}

fn ids(drafts: &[Draft]) -> Vec<u64> {
    drafts
        .iter()
        .filter(|d| d.kind == Kind::TrackStarted)
        .filter_map(|d| d.track.as_ref())
        .map(|t| t.id)
        .collect()
}

proptest! {
    /// A track's events begin with its start and finish with its end, each once.
    #[test]
    fn started_and_ended_enclose_everything(life in life()) {
        let mut rules = rules(&camera());
        let out = play(&mut rules, &life);
        let ids = ids(&out);
        let mut total = 0;
        for id in ids {
            let events = of_track(&out, id);
            total += events.len();
            prop_assert_eq!(events[0].kind, Kind::TrackStarted);
            prop_assert_eq!(events[events.len() - 1].kind, Kind::TrackEnded);
            let bounds = events.iter().filter(|d| matches!(d.kind, Kind::TrackStarted | Kind::TrackEnded));
            prop_assert_eq!(bounds.count(), 2);
        }
        prop_assert_eq!(total, out.len());
        prop_assert!(rules.live.is_empty(), "nothing is remembered of ended tracks");
    }

    /// For each track a zone is entered and left in turn, and left as often as entered; dwell comes between, once a stay.
    #[test]
    fn entered_and_left_alternate(life in life()) {
        let out = play(&mut rules(&camera()), &life);
        for id in ids(&out) {
            let (mut inside, mut dwelt) = (false, false);
            for event in of_track(&out, id) {
                match event.kind {
                    Kind::ZoneEntered => {
                        prop_assert!(!inside);
                        (inside, dwelt) = (true, false);
                    }
                    Kind::ZoneDwell => {
                        prop_assert!(inside && !dwelt);
                        dwelt = true;
                    }
                    Kind::ZoneLeft => {
                        prop_assert!(inside);
                        inside = false;
                    }
                    _ => {}
                }
            }
            prop_assert!(!inside, "track {} never left", id);
        }
    }

    /// Two updates of a track are at least the interval apart, the first from its start, and the interval is not
    /// stretched by more than a frame.
    #[test]
    fn updates_keep_their_interval(gaps in prop::collection::vec(10u64..700, 1..60)) {
        let mut rules = rules(&camera());
        let mut out = Vec::new();
        let (mut now, mut told) = (5000, 5000);
        rules.apply(&ctx(now), &[Change::Started(view(1, 0, now, [100.0, 100.0]))], &mut out);
        for gap in gaps {
            now += gap;
            out.clear();
            rules.apply(&ctx(now), &[Change::Updated(view(1, 0, now, [100.0, 100.0]))], &mut out);
            let due = now - told >= 1000;
            prop_assert_eq!(out.len(), usize::from(due));
            told = if due { now } else { told };
        }
    }

    /// A foot that trembles at a border by less than the margin enters or leaves a zone once at most.
    #[test]
    fn trembling_at_a_border_is_no_coming_and_going(xs in prop::collection::vec(-2.4f32..2.4, 1..80)) {
        let feet: Vec<Point> = xs.iter().map(|dx| [400.0 + dx, 600.0]).collect();
        let out = walk(&mut rules(&camera()), 1, &feet);
        prop_assert!(out.iter().filter(|d| d.kind == Kind::ZoneEntered).count() <= 1);
    }

    /// A foot that crosses a line and trembles there has crossed it once, in its direction.
    #[test]
    fn trembling_on_a_line_is_one_crossing(
        xs in prop::collection::vec(-4.9f32..4.9, 0..80),
        to_left in any::<bool>(),
    ) {
        // The line runs down, so for one who looks along it the left is at larger x.
        let (from, to) = if to_left { (470.0, 530.0) } else { (530.0, 470.0) };
        let mut feet = vec![[from, 500.0]];
        feet.extend(xs.iter().map(|dx| [500.0 + dx, 500.0]));
        feet.push([to, 500.0]);
        let expected = if to_left { Direction::ToLeft } else { Direction::ToRight };
        prop_assert_eq!(crossings(&walk(&mut rules(&camera()), 1, &feet)), [expected]);
    }

    /// Big steps between points clear of the line: crossed exactly when the step meets the line between its ends.
    #[test]
    fn a_line_is_crossed_where_it_is_and_nowhere_else(feet in path()) {
        prop_assume!(feet.iter().all(|f| (f[0] - 500.0).abs() > 6.0));
        let mut expected = Vec::new();
        for step in feet.windows(2) {
            let ([x0, y0], [x1, y1]) = (step[0], step[1]);
            if (x0 < 500.0) != (x1 < 500.0) {
                let met = y0 + (500.0 - x0) / (x1 - x0) * (y1 - y0);
                prop_assume!((met - 300.0).abs() > 1.0 && (met - 700.0).abs() > 1.0);
                if (300.0..=700.0).contains(&met) {
                    expected.push(if x1 > 500.0 { Direction::ToLeft } else { Direction::ToRight });
                }
            }
        }
        prop_assert_eq!(crossings(&walk(&mut rules(&camera()), 1, &feet)), expected);
    }

    /// Every box in an event lies in the picture, as fractions of it, whatever the tracker thinks.
    #[test]
    fn boxes_are_fractions_of_the_picture(x in -3e3f32..3e3, y in -3e3f32..3e3, w in 0.1f32..4e3, h in 0.1f32..4e3) {
        let mut out = Vec::new();
        let odd = TrackView { bbox: BBox { x, y, w, h }, ..view(1, 0, 0, [0.0, 0.0]) };
        rules(&camera()).apply(&ctx(0), &[Change::Started(odd)], &mut out);
        for draft in &out {
            let [x, y, w, h] = draft.track.as_ref().expect("it is about a track").bbox;
            prop_assert!([x, y, w, h].iter().all(|v| (0.0..=1.0).contains(v)));
            prop_assert!(x + w <= 1.0 + 1e-6 && y + h <= 1.0 + 1e-6);
        }
    }
}

#[test]
fn an_event_says_which_frame_and_how_old() {
    let mut out = Vec::new();
    rules(&camera()).apply(&ctx(700), &[Change::Started(view(9, 1, 700, [100.0, 500.0]))], &mut out);
    assert_eq!(kinds(&out), [Kind::TrackStarted]);
    assert_eq!((&*out[0].camera, out[0].time), ("gate", Wall(700_000_000)));
    assert_eq!(out[0].frame, Some(FrameRef { seq: 7, pts_ms: Some(700), age_ms: 42 }));
    let track = out[0].track.clone().expect("it is about a track");
    assert_eq!((track.id, &*track.label, track.score, track.bbox), (9, "car", 0.8, [0.08, 0.4, 0.04, 0.1]));
}

#[test]
fn a_visit_is_told_in_order_with_its_length() {
    let mut feet = vec![[300.0, 600.0]];
    feet.extend([[450.0, 600.0]; 12]);
    feet.push([300.0, 600.0]);
    let out = walk(&mut rules(&camera()), 1, &feet);
    use Kind::{TrackEnded, TrackStarted, TrackUpdated, ZoneDwell, ZoneEntered, ZoneLeft};
    assert_eq!(kinds(&out), [TrackStarted, ZoneEntered, TrackUpdated, ZoneDwell, ZoneLeft, TrackEnded]);
    let stays: Vec<u64> = out.iter().filter_map(|d| d.zone.as_ref().map(|z| z.dwell_ms)).collect();
    assert_eq!(stays, [0, 1000, 1200]);
}

#[test]
fn a_track_that_ends_inside_leaves_first_and_stayed_until_it_was_seen_last() {
    let out = walk(&mut rules(&camera()), 1, &[[450.0, 600.0], [451.0, 600.0], [452.0, 600.0]]);
    assert_eq!(kinds(&out), [Kind::TrackStarted, Kind::ZoneEntered, Kind::ZoneLeft, Kind::TrackEnded]);
    assert_eq!(out[2].zone.as_ref().map(|z| z.dwell_ms), Some(200));
}

#[test]
fn the_border_of_the_picture_is_inside_a_zone_that_reaches_it() {
    let mut camera = camera();
    camera.zones[0].polygon = vec![[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]];
    // Feet below the picture: the object is cut off by its lower edge.
    let out = walk(&mut rules(&camera), 1, &[[500.0, 1030.0], [500.0, 1030.0]]);
    assert_eq!(out.iter().filter(|d| d.kind == Kind::ZoneEntered).count(), 1);
}

#[test]
fn a_way_round_the_end_of_a_line_is_no_crossing_but_the_way_back_through_it_is() {
    let round = [[450.0, 500.0], [450.0, 900.0], [550.0, 900.0], [550.0, 500.0], [450.0, 500.0]];
    assert_eq!(crossings(&walk(&mut rules(&camera()), 1, &round)), [Direction::ToRight]);
}

#[test]
fn touching_a_line_and_turning_back_is_no_crossing() {
    for x in [500.0, 502.0] {
        let touch = [[450.0, 500.0], [x, 500.0], [450.0, 500.0]];
        assert_eq!(crossings(&walk(&mut rules(&camera()), 1, &touch)), []);
    }
    // On the line for a moment, then on: one crossing.
    let through = [[450.0, 500.0], [500.0, 500.0], [550.0, 500.0]];
    assert_eq!(crossings(&walk(&mut rules(&camera()), 1, &through)), [Direction::ToLeft]);
}

#[test]
fn a_track_that_begins_on_a_line_has_not_crossed_it() {
    assert_eq!(crossings(&walk(&mut rules(&camera()), 1, &[[498.0, 500.0], [550.0, 500.0]])), []);
}

#[test]
fn zones_and_lines_count_their_classes_only() {
    let mut camera = camera();
    camera.zones[0].classes = vec!["car".into()];
    camera.lines[0].classes = vec!["car".into()];
    let through = [[450.0, 500.0], [550.0, 500.0]];
    assert_eq!(
        kinds(&walk(&mut rules(&camera), 1, &through)),
        [Kind::TrackStarted, Kind::TrackEnded],
        "a person is no car"
    );
    camera.zones[0].classes.push("person".into());
    camera.lines[0].classes.push("person".into());
    assert_eq!(walk(&mut rules(&camera), 1, &through).len(), 5);
}

#[test]
fn a_camera_that_goes_offline_ends_its_tracks_without_a_frame() {
    let (mut rules, mut out) = (rules(&camera()), Vec::new());
    let inside = view(1, 0, 0, [450.0, 600.0]);
    rules.apply(&ctx(0), &[Change::Started(inside)], &mut out);
    out.clear();
    rules.apply_without_frame(Wall(5), &[Change::Ended(inside)], &mut out);
    assert_eq!(kinds(&out), [Kind::ZoneLeft, Kind::TrackEnded]);
    assert!(out.iter().all(|d| d.frame.is_none() && d.time == Wall(5)));
}
