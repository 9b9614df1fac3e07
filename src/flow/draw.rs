//! What is painted on a picture: who sees it later, and in which memory, is not known here.
//!
//! A [`DrawList`] belongs to one frame and is made of that frame's own results, so that no box ever lags behind its
//! picture: a track that this frame does not show is not drawn. Covers (privacy) come first and hold for everybody;
//! marks (boxes, trails, labels) are only for who asks for them. A frame that was not analysed can carry the marks of
//! the last one that was, [`aged`].
//!
//! Coordinates are pixels of the source picture; the painter scales them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Tick, Wall};
use crate::config::{Hide, Privacy, Style};
use crate::flow::track::{TrackId, TrackView};
use crate::frame::{BBox, Detection, Size, Stamp};

/// A colour, each part 0..=255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rgb(pub u8, pub u8, pub u8);

/// White.
pub const WHITE: Rgb = Rgb(255, 255, 255);
/// Black.
pub const BLACK: Rgb = Rgb(0, 0, 0);

/// A part of the picture that nobody may see.
#[derive(Clone, Debug, PartialEq)]
pub struct Cover {
    /// Its corners in order, in source pixels; at least three.
    pub polygon: Vec<[f32; 2]>,
    /// How it is made unreadable.
    pub how: Hide,
}

/// Something to paint over the picture.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// The outline of a box.
    Outline {
        /// Where.
        bbox: BBox,
        /// In which colour.
        colour: Rgb,
    },
    /// The corners of a box that something had on an earlier frame: where it is now, nobody has looked.
    Corners {
        /// Where it was.
        bbox: BBox,
        /// In which colour.
        colour: Rgb,
    },
    /// What is written beside a box; the painter finds a [`place`] for it.
    Tag {
        /// The box.
        bbox: BBox,
        /// What it says.
        text: String,
        /// The plate's colour.
        plate: Rgb,
    },
    /// Where something came from: a line through these points, oldest first.
    Trail {
        /// In source pixels.
        points: Vec<[f32; 2]>,
        /// In which colour.
        colour: Rgb,
    },
    /// A line of text on a plate.
    Label {
        /// The plate's anchor, in source pixels.
        at: [f32; 2],
        /// Which of the plate's corners the anchor is.
        corner: Corner,
        /// What it says.
        text: String,
        /// The plate's colour; the text is black or white, whichever can be read on it.
        plate: Rgb,
    },
}

/// A corner of a label's plate. A plate that would leave the picture is moved inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corner {
    /// The plate lies below and right of its anchor.
    TopLeft,
    /// Below and left.
    TopRight,
}

/// All that is painted on one frame.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawList {
    /// The picture that the coordinates belong to.
    pub size: Size,
    /// Painted first, for everybody.
    pub covers: Vec<Cover>,
    /// Painted in this order, for who wants them.
    pub marks: Vec<Mark>,
    /// What is said of the frame itself: painted with the marks, after them.
    pub legend: Vec<Mark>,
}

/// What a frame's analysis says that can be painted.
pub struct Seen<'a> {
    /// When the frame was where.
    pub stamp: Stamp,
    /// How large it is.
    pub size: Size,
    /// All that the network saw, also what is never reported.
    pub found: &'a [Detection],
    /// The confirmed tracks.
    pub tracks: &'a [TrackView],
}

/// Draws for one camera. Remembers nothing but trails.
#[derive(Debug)]
pub struct Artist {
    name: Arc<str>,
    labels: Vec<Arc<str>>,
    colours: Vec<Rgb>,
    /// By class: how its objects are hidden.
    hide: Vec<Option<Hide>>,
    privacy: Privacy,
    trail: Duration,
    style: Style,
    trails: HashMap<TrackId, VecDeque<(Tick, [f32; 2])>>,
}

/// Points of a trail: at 30 frames a second two seconds of it.
const MOST_POINTS: usize = 64;
/// A hidden object's box is this much larger on each side, in parts of the box: detectors cut hair and feet.
const MARGIN: f32 = 0.1;
/// What the network is less sure of is not hidden until it is a track: else phantoms as large as the picture would hide all of it.
const SURE: f32 = 0.25;

impl Artist {
    /// For the camera of this name, whose network has these labels.
    pub fn new(
        name: Arc<str>,
        privacy: &Privacy,
        labels: &[Arc<str>],
        trail: Duration,
        style: Style,
    ) -> Artist {
        let hides = |label: &Arc<str>| privacy.hide.iter().any(|hidden| **hidden == **label);
        Artist {
            name,
            labels: labels.to_vec(),
            colours: labels.iter().map(|label| colour_of(label)).collect(),
            hide: labels.iter().map(|label| hides(label).then_some(privacy.hide_by)).collect(),
            privacy: privacy.clone(),
            trail,
            style,
            trails: HashMap::new(),
        }
    }

    /// What to paint on the frame that this was seen in.
    pub fn draw(&mut self, seen: &Seen<'_>) -> DrawList {
        let now = seen.stamp.arrived;
        let mut list = DrawList {
            size: seen.size,
            covers: masks(&self.privacy, seen.size),
            marks: Vec::new(),
            legend: legend(&self.name, seen.stamp.wall, seen.size, &self.style),
        };
        for detection in seen.found.iter().filter(|found| found.score >= SURE) {
            list.covers.extend(self.cover(detection.class, &detection.bbox));
        }
        // A hidden object that the network missed for some frames is likely still where it was.
        for track in seen.tracks {
            list.covers.extend(self.cover(track.class, &track.bbox));
        }
        if list.covers.iter().any(|cover| cover.how == Hide::Blur) {
            // Once more: a square that is half masked was given a mean.
            list.covers.extend(masks(&self.privacy, seen.size));
        }
        self.remember(now, seen.tracks);
        let shown = || seen.tracks.iter().filter(|track| track.seen == now);
        for track in shown() {
            let points = self.trails.get(&track.id).map(|t| t.iter().map(|(_, at)| *at).collect::<Vec<_>>());
            if let Some(points) = points.filter(|points| points.len() > 1) {
                list.marks.push(Mark::Trail { points, colour: self.colour(track.class) });
            }
        }
        for track in shown() {
            list.marks.push(Mark::Outline { bbox: track.bbox, colour: self.colour(track.class) });
        }
        for track in shown().filter(|_| self.style.labels) {
            let label = self.labels.get(usize::from(track.class)).map_or("?", |label| label);
            list.marks.push(Mark::Tag {
                bbox: track.bbox,
                text: format!("{label} {} · {:.0} %", track.id.0, track.score * 100.0),
                plate: self.colour(track.class),
            });
        }
        list
    }

    fn colour(&self, class: u16) -> Rgb {
        self.colours.get(usize::from(class)).copied().unwrap_or(WHITE)
    }

    fn cover(&self, class: u16, bbox: &BBox) -> Option<Cover> {
        let how = self.hide.get(usize::from(class)).copied().flatten()?;
        let (dx, dy) = (bbox.w * MARGIN, bbox.h * MARGIN);
        let (left, top) = (bbox.x - dx, bbox.y - dy);
        let (right, bottom) = (bbox.x + bbox.w + dx, bbox.y + bbox.h + dy);
        Some(Cover { polygon: vec![[left, top], [right, top], [right, bottom], [left, bottom]], how })
    }

    fn remember(&mut self, now: Tick, tracks: &[TrackView]) {
        self.trails.retain(|id, _| tracks.iter().any(|track| track.id == *id));
        for track in tracks.iter().filter(|track| track.seen == now) {
            let trail = self.trails.entry(track.id).or_default();
            trail.push_back((now, [track.bbox.x + track.bbox.w / 2.0, track.bbox.y + track.bbox.h]));
            while trail.len() > MOST_POINTS
                || trail.front().is_some_and(|(at, _)| now.since(*at) > self.trail)
            {
                trail.pop_front();
            }
        }
    }
}

/// What nobody may see of any picture of this camera.
pub fn masks(privacy: &Privacy, size: Size) -> Vec<Cover> {
    let (width, height) = (size.width as f32, size.height as f32);
    let scaled = |mask: &Vec<[f32; 2]>| Cover {
        polygon: mask.iter().map(|[x, y]| [x * width, y * height]).collect(),
        how: Hide::Fill,
    };
    privacy.masks.iter().map(scaled).collect()
}

/// What is said of a frame: its camera, and when it arrived.
pub fn legend(name: &str, wall: Wall, size: Size, style: &Style) -> Vec<Mark> {
    let label = |at, corner, text| Mark::Label { at, corner, text, plate: BLACK };
    let mut legend = Vec::new();
    if style.name {
        legend.push(label([0.0, 0.0], Corner::TopLeft, name.to_owned()));
    }
    if style.clock {
        legend.push(label([size.width as f32, 0.0], Corner::TopRight, clock(&wall.rfc3339())));
    }
    legend
}

/// The marks of an earlier frame, as such: of a box its corners, and no words, which would claim too much.
pub fn aged(marks: &[Mark]) -> Vec<Mark> {
    let corners = |mark: &Mark| match mark {
        Mark::Outline { bbox, colour } | Mark::Corners { bbox, colour } => {
            Some(Mark::Corners { bbox: *bbox, colour: *colour })
        }
        Mark::Tag { .. } | Mark::Trail { .. } | Mark::Label { .. } => None,
    };
    marks.iter().filter_map(corners).collect()
}

/// Where the plates of labels go, in the picture and none upon another: above its box where there is room, else inside or below it.
/// A plate for which there is no room is left out, one of an object farther away first (whose box ends higher up). `taken` is
/// where nothing may go. In pixels; a plate is its width and height.
pub fn place(
    boxes: &[BBox],
    plates: &[[f32; 2]],
    picture: [f32; 2],
    taken: &[BBox],
) -> Vec<Option<[f32; 2]>> {
    let mut order: Vec<usize> = (0..boxes.len().min(plates.len())).collect();
    let bottom = |i: usize| boxes[i].y + boxes[i].h;
    order.sort_by(|a, b| bottom(*b).total_cmp(&bottom(*a)).then(a.cmp(b)));
    let mut taken = taken.to_vec();
    let mut places = vec![None; boxes.len()];
    for i in order {
        let (b, [w, h]) = (boxes[i], plates[i]);
        let (left, right) = (b.x, b.x + b.w - w);
        let (above, inside, below, foot) = (b.y - h, b.y, b.y + b.h, b.y + b.h - h);
        let candidates = [
            [left, above],
            [left, inside],
            [left, below],
            [right, above],
            [right, below],
            [left, foot],
            // A box that reaches out of the picture, or fills it.
            [left, above.max(0.0).min(picture[1] - h)],
        ];
        let free = candidates.into_iter().find_map(|[x, y]| {
            let x = x.min(picture[0] - w).max(0.0);
            let plate = BBox { x, y, w, h };
            let fits = y >= 0.0 && y + h <= picture[1] && w <= picture[0];
            (fits && !taken.iter().any(|other| overlap(other, &plate))).then_some(plate)
        });
        if let Some(plate) = free {
            places[i] = Some([plate.x, plate.y]);
            taken.push(plate);
        }
    }
    places
}

fn overlap(a: &BBox, b: &BBox) -> bool {
    a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h
}

/// What is painted where a camera has no picture.
pub fn no_signal(size: Size, name: &str, lines: &[String]) -> DrawList {
    let (width, height) = (size.width as f32, size.height as f32);
    let label = |at, corner, text: &str| Mark::Label { at, corner, text: text.to_owned(), plate: BLACK };
    let mut marks = vec![label([0.0, 0.0], Corner::TopLeft, name)];
    for (line, row) in lines.iter().zip(0u8..) {
        marks.push(label([width * 0.06, height * (0.42 + 0.12 * f32::from(row))], Corner::TopLeft, line));
    }
    DrawList { size, covers: Vec::new(), marks, legend: Vec::new() }
}

/// `2026-11-24T04:52:38.120Z` as people read it: `2026-11-24 04:52:38.1 UTC`.
pub fn clock(rfc3339: &str) -> String {
    let (day, time) = rfc3339.split_once('T').unwrap_or((rfc3339, ""));
    format!("{day} {} UTC", time.get(..10).unwrap_or(time))
}

/// A label's colour: the same in every run and for every model that uses the word, and bright enough to be seen at night.
fn colour_of(label: &str) -> Rgb {
    // FNV-1a: short words spread well over the circle of hues.
    let hash = label.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hue((hash >> 32) as f32 / u32::MAX as f32)
}

/// A saturated light colour; `turn` 0..=1 goes once around the circle.
fn hue(turn: f32) -> Rgb {
    let part = |shift: f32| {
        let at = ((turn + shift).fract() * 6.0 - 3.0).abs() - 1.0;
        (70.0 + 185.0 * at.clamp(0.0, 1.0)) as u8
    };
    Rgb(part(0.0), part(2.0 / 3.0), part(1.0 / 3.0))
}

impl Rgb {
    /// Black or white, whichever can be read on this colour (relative luminance of WCAG 2, without the curve).
    pub fn ink(self) -> Rgb {
        let Rgb(r, g, b) = self;
        let light = 2126 * u32::from(r) + 7152 * u32::from(g) + 722 * u32::from(b);
        if light > 10_000 * 110 { BLACK } else { WHITE }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: Size = Size { width: 200, height: 100 };

    fn artist(hide: &[&str], masks: Vec<Vec<[f32; 2]>>) -> Artist {
        let hide = hide.iter().map(|&label| label.to_owned()).collect();
        let privacy = Privacy { hide, hide_by: Hide::Fill, masks };
        let labels = ["person".into(), "car".into()];
        Artist::new("porch".into(), &privacy, &labels, Duration::from_secs(1), Style::default())
    }

    fn track(id: u64, class: u16, x: f32, seen: Tick) -> TrackView {
        let bbox = BBox { x, y: 10.0, w: 20.0, h: 40.0 };
        TrackView { id: TrackId(id), class, score: 0.9, bbox, started: Tick::ZERO, seen }
    }

    fn seen<'a>(at: Tick, found: &'a [Detection], tracks: &'a [TrackView]) -> Seen<'a> {
        Seen {
            stamp: Stamp { arrived: at, decoded: at, pts: None, wall: Wall(0) },
            size: SIZE,
            found,
            tracks,
        }
    }

    fn outlines(list: &DrawList) -> Vec<f32> {
        let x = |mark: &Mark| if let Mark::Outline { bbox, .. } = mark { Some(bbox.x) } else { None };
        list.marks.iter().filter_map(x).collect()
    }

    #[test]
    fn only_tracks_that_this_very_frame_shows_are_drawn() {
        let (mut artist, now) = (artist(&[], Vec::new()), Tick::from_millis(500));
        let tracks = [track(1, 0, 10.0, now), track(2, 0, 70.0, Tick::from_millis(400))];
        assert_eq!(outlines(&artist.draw(&seen(now, &[], &tracks))), [10.0]);
    }

    #[test]
    fn a_trail_is_as_long_as_it_may_be_and_ends_with_its_track() {
        let mut artist = artist(&[], Vec::new());
        let mut longest = 0;
        for frame in 0..40 {
            let now = Tick::from_millis(frame * 100);
            let list = artist.draw(&seen(now, &[], &[track(1, 0, frame as f32, now)]));
            for mark in &list.marks {
                if let Mark::Trail { points, .. } = mark {
                    longest = longest.max(points.len());
                    assert_eq!(points.last(), Some(&[frame as f32 + 10.0, 50.0]));
                }
            }
        }
        assert_eq!(longest, 11, "one second at ten frames a second, both ends");
        artist.draw(&seen(Tick::from_millis(4000), &[], &[]));
        assert!(artist.trails.is_empty());
    }

    #[test]
    fn a_hidden_class_is_covered_where_it_is_seen_and_where_it_was_last() {
        let mut artist = artist(&["person"], Vec::new());
        let now = Tick::from_millis(500);
        let bbox = BBox { x: 100.0, y: 20.0, w: 10.0, h: 20.0 };
        let found = [(0, 0.3), (1, 0.9), (0, 0.2)].map(|(class, score)| Detection { bbox, class, score });
        let lost = [track(1, 0, 10.0, Tick::from_millis(300))];
        let list = artist.draw(&seen(now, &found, &lost));
        let corners: Vec<[f32; 2]> = list.covers.iter().map(|cover| cover.polygon[0]).collect();
        assert_eq!(corners, [[99.0, 18.0], [8.0, 6.0]]);
    }

    #[test]
    fn a_mask_is_scaled_to_the_picture() {
        let masks = vec![vec![[0.5, 0.0], [1.0, 0.0], [1.0, 1.0]]];
        let privacy = Privacy { masks, ..Privacy::default() };
        assert_eq!(super::masks(&privacy, SIZE)[0].polygon, [[100.0, 0.0], [200.0, 0.0], [200.0, 100.0]]);
    }

    #[test]
    fn what_is_not_wanted_is_not_drawn() {
        let now = Tick::from_millis(500);
        let count = |style: Style| {
            let privacy = Privacy::default();
            let mut artist = Artist::new("porch".into(), &privacy, &["person".into()], Duration::ZERO, style);
            let list = artist.draw(&seen(now, &[], &[track(1, 0, 10.0, now)]));
            (list.marks.len(), list.legend.len())
        };
        assert_eq!(count(Style::default()), (2, 2));
        assert_eq!(count(Style { labels: false, clock: false, ..Style::default() }), (1, 1));
        assert_eq!(count(Style { name: false, clock: false, ..Style::default() }), (2, 0));
    }

    #[test]
    fn an_earlier_frames_boxes_are_marked_as_such() {
        let (mut artist, now) = (artist(&[], Vec::new()), Tick::from_millis(500));
        let list = artist.draw(&seen(now, &[], &[track(1, 0, 10.0, now), track(2, 1, 70.0, now)]));
        let aged = aged(&list.marks);
        assert!(aged.iter().all(|mark| matches!(mark, Mark::Corners { .. })) && aged.len() == 2, "{aged:?}");
        assert_eq!(super::aged(&aged), aged);
    }

    proptest! {
        /// However crowded: labels lie in the picture, none upon another or upon what is taken, and the nearest object has one.
        #[test]
        fn labels_never_cover_each_other(
            boxes in prop::collection::vec((-50.0f32..650.0, -50.0f32..490.0, 1.0f32..300.0, 1.0f32..300.0), 1..40),
            plates in prop::collection::vec((20.0f32..200.0, 10.0f32..40.0), 40),
        ) {
            let boxes: Vec<BBox> = boxes.iter().map(|&(x, y, w, h)| BBox { x, y, w, h }).collect();
            let plates: Vec<[f32; 2]> = plates.iter().map(|&(w, h)| [w, h]).collect();
            let legend = BBox { x: 0.0, y: 0.0, w: 120.0, h: 24.0 };
            let places = place(&boxes, &plates, [640.0, 480.0], &[legend]);
            let plate = |(at, [w, h]): (&Option<[f32; 2]>, &[f32; 2])| at.map(|[x, y]| BBox { x, y, w: *w, h: *h });
            let placed: Vec<BBox> = places.iter().zip(&plates).filter_map(plate).collect();
            for (i, a) in placed.iter().enumerate() {
                prop_assert!(a.x >= 0.0 && a.y >= 0.0 && a.x + a.w <= 640.01 && a.y + a.h <= 480.01, "{:?}", a);
                prop_assert!(a.iou(&legend) == 0.0, "{:?}", a);
                for b in &placed[i + 1..] {
                    prop_assert!(a.iou(b) == 0.0, "{:?} {:?}", a, b);
                }
            }
            let nearest = (0..boxes.len()).max_by(|a, b| (boxes[*a].y + boxes[*a].h).total_cmp(&(boxes[*b].y + boxes[*b].h)));
            let alone = place(&boxes, &plates, [640.0, 480.0], &[]);
            prop_assert!(nearest.is_some_and(|nearest| alone[nearest].is_some()));
        }
    }

    #[test]
    fn a_class_keeps_its_colour_and_its_text_can_be_read() {
        assert_eq!(colour_of("person"), colour_of("person"));
        assert_ne!(colour_of("person"), colour_of("car"));
        assert_eq!((BLACK.ink(), WHITE.ink()), (WHITE, BLACK));
        assert_eq!(clock("2026-11-24T04:52:38.120Z"), "2026-11-24 04:52:38.1 UTC");
    }
}
