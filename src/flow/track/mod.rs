//! Detections of one camera, frame by frame, to tracks with an identity.
//!
//! Zhang et al., *ByteTrack: Multi-Object Tracking by Associating Every Detection Box*, ECCV 2022: strong
//! detections are matched with all known tracks first, and weak ones then only continue tracks that were
//! seen a moment ago. Motion is in `kalman`, the matching itself in `assign`. What follows from
//! a track (zones, lines, events) is not here but in [`crate::flow::rules`].
//!
//! A box whose place is in doubt is compared in a larger size, and so are the detections with it: at three
//! frames a second a walker has left its own box before it is seen again. Yang et al., *Hard to Track
//! Objects with Irregular Motions and Similar Appearances? Make It Easier by Buffering the Matching Space*, WACV 2023;
//! here the buffer is not fixed, it follows the filter.
//!
//! ```text
//!            seen confirm_frames times in a row          not seen for `lost`
//!  tentative ──────────────────────────────────▶ tracked ⇄ lost ─────────────▶ ended
//!      └─ missed once: forgotten, it had no id yet
//! ```
//!
//! - Time is the frame's [`Tick`]. Frames may be missing, come unevenly, or stop: [`Tracker::expire`].
//!   Should time go back, nothing moves in that frame, and the tracks go back with it.
//! - A class never matches another class.
//! - When the picture's size changes, tracks are scaled with it: cameras switch resolution far more often
//!   than their view.
//! - Where a lost track and a seen one of a class lie on each other, they are one object under two names:
//!   the younger of the two ends.

mod assign;
mod kalman;

use std::time::Duration;

use self::assign::Assign;
use self::kalman::Motion;
use crate::clock::Tick;
use crate::config;
use crate::frame::{BBox, Detection, Size};

/// Matching with strong detections: the least IoU, weighted with the score.
const STRONG_MATCH: f32 = 0.2;
/// Matching with weak detections: the least IoU. Weak boxes are often wrong, so they must fit well.
const WEAK_MATCH: f32 = 0.5;
/// Matching of tentative tracks: the least IoU, weighted with the score.
const TENTATIVE_MATCH: f32 = 0.3;
/// Two boxes with a larger IoU than this are one object.
const SAME: f32 = 0.85;
/// Detections beyond this many in a frame are not looked at, and no more tracks are kept.
const MOST: usize = 512;

/// The name of a track: unique for its camera while the daemon runs, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackId(pub u64);

/// What is known of a track.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrackView {
    /// Its name.
    pub id: TrackId,
    /// Index into the model's labels; a track never changes it.
    pub class: u16,
    /// Confidence of its latest detection, 0..=1.
    pub score: f32,
    /// Where it was when it was last seen, smoothed, in pixels of the picture. May reach beyond the picture.
    pub bbox: BBox,
    /// When it was seen first, before it was confirmed.
    pub started: Tick,
    /// When it was seen last.
    pub seen: Tick,
}

/// What happened to a track. For one id: one `Started`, any number of `Updated`, one `Ended`, in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// It has been seen often enough to be believed; its first sight was earlier.
    Started(TrackView),
    /// It was seen in this frame.
    Updated(TrackView),
    /// It is gone. The view is that of its last sight.
    Ended(TrackView),
}

/// The tracker of one camera. It lives as long as the daemon, across reconnects, so that no id comes twice.
#[derive(Debug)]
pub struct Tracker {
    settings: config::Track,
    now: Tick,
    size: Option<Size>,
    /// Oldest first.
    tracks: Vec<Track>,
    next_id: u64,
    changes: Vec<Change>,
    scratch: Scratch,
}

#[derive(Clone, Copy, Debug)]
struct Track {
    view: TrackView,
    motion: Motion,
    stage: Stage,
    /// Taken by a detection of the frame that is being worked on.
    matched: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Seen this many frames in a row, and not announced.
    Tentative(u32),
    /// Announced, and seen in the latest frame.
    Tracked,
    /// Announced, and not seen in the latest frame.
    Lost,
    /// To be taken out.
    Gone,
}

/// Buffers that keep their memory between frames.
#[derive(Debug, Default)]
struct Scratch {
    strong: Vec<Detection>,
    weak: Vec<Detection>,
    rows: Vec<usize>,
    gain: Vec<f32>,
    assign: Assign,
}

impl Tracker {
    /// A tracker that knows no object.
    pub fn new(settings: config::Track) -> Self {
        Tracker {
            settings,
            now: Tick::ZERO,
            size: None,
            tracks: Vec::new(),
            next_id: 1,
            changes: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Takes in what was seen in a frame that arrived `at`, in a picture of this `size`. Detections that are
    /// not finite, empty, or wholly outside the picture are ignored.
    pub fn update(&mut self, at: Tick, size: Size, detections: &[Detection]) -> &[Change] {
        self.changes.clear();
        self.resize(size);
        let dt = at.since(self.now);
        self.now = at;
        self.end_if(|track, lost| at.since(track.view.seen) > lost);
        for track in &mut self.tracks {
            track.matched = false;
            track.view.seen = track.view.seen.min(at);
            track.view.started = track.view.started.min(at);
            track.motion.predict(dt.as_secs_f32(), track.stage == Stage::Lost);
        }
        self.sort_out(size, detections);
        self.associate();
        self.age();
        self.begin();
        self.merge();
        self.announce();
        &self.changes
    }

    /// Ends what has not been seen for too long, when no frame comes to do it.
    pub fn expire(&mut self, now: Tick) -> &[Change] {
        self.changes.clear();
        // `self.now` stays: motion is predicted over the time since the last frame.
        self.end_if(|track, lost| now.since(track.view.seen) > lost);
        &self.changes
    }

    /// Ends every track: the camera went offline.
    pub fn end_all(&mut self) -> &[Change] {
        self.changes.clear();
        self.end_if(|_, _| true);
        &self.changes
    }

    /// The confirmed tracks that have not ended, oldest first; `seen` tells which of them the latest frame shows.
    pub fn tracks(&self) -> impl Iterator<Item = &TrackView> {
        self.tracks.iter().filter(|t| t.stage.announced()).map(|t| &t.view)
    }

    fn resize(&mut self, size: Size) {
        if size.width == 0 || size.height == 0 {
            return; // No picture: nothing can be scaled to it, and no detection can lie in it.
        }
        if let Some(old) = self.size.replace(size).filter(|old| *old != size) {
            let x = size.width as f32 / old.width as f32;
            let y = size.height as f32 / old.height as f32;
            for track in &mut self.tracks {
                track.motion.scale(x, y);
                let b = &mut track.view.bbox;
                *b = BBox { x: b.x * x, y: b.y * y, w: b.w * x, h: b.h * y };
            }
        }
    }

    fn end_if(&mut self, ends: impl Fn(&Track, Duration) -> bool) {
        let lost = self.settings.lost;
        let changes = &mut self.changes;
        self.tracks.retain(|track| {
            let ends = ends(track, lost);
            if ends && track.stage.announced() {
                changes.push(Change::Ended(track.view));
            }
            !ends
        });
    }

    fn sort_out(&mut self, size: Size, detections: &[Detection]) {
        self.scratch.strong.clear();
        self.scratch.weak.clear();
        for detection in detections.iter().filter(|d| usable(d, size)).take(MOST) {
            if detection.score >= self.settings.high_score {
                self.scratch.strong.push(*detection);
            } else if detection.score >= self.settings.low_score {
                self.scratch.weak.push(*detection);
            }
        }
    }

    /// The three rounds of ByteTrack. What a round matches is not offered to the next.
    fn associate(&mut self) {
        let now = self.now;
        let Scratch { strong, weak, rows, gain, assign } = &mut self.scratch;
        let mut round = |tracks: &mut [Track], found: &mut Vec<Detection>, rule: Round| {
            rows.clear();
            rows.extend((0..tracks.len()).filter(|i| !tracks[*i].matched && (rule.who)(tracks[*i].stage)));
            gain.clear();
            for row in rows.iter() {
                let Track { view: TrackView { class, .. }, motion, .. } = tracks[*row];
                let doubt = motion.doubt();
                let bbox = grown(&motion.bbox(), doubt);
                gain.extend(found.iter().map(|d| {
                    let weight = if rule.weighted { d.score } else { 1.0 };
                    if d.class == class {
                        bbox.iou(&grown(&d.bbox, doubt)) * weight - rule.least
                    } else {
                        0.0
                    }
                }));
            }
            for (row, col) in assign.solve(rows.len(), found.len(), gain) {
                tracks[rows[*row]].see(now, &found[*col]);
                found[*col].score = TAKEN;
            }
            found.retain(|d| d.score != TAKEN);
        };
        let all = |stage: Stage| stage.announced();
        let fresh = |stage: Stage| stage == Stage::Tracked;
        let tentative = |stage: Stage| !stage.announced();
        round(&mut self.tracks, strong, Round { who: all, least: STRONG_MATCH, weighted: true });
        round(&mut self.tracks, weak, Round { who: fresh, least: WEAK_MATCH, weighted: false });
        round(&mut self.tracks, strong, Round { who: tentative, least: TENTATIVE_MATCH, weighted: true });
    }

    /// Moves every track along its stages.
    fn age(&mut self) {
        for track in &mut self.tracks {
            track.stage = match (track.stage, track.matched) {
                (Stage::Tentative(seen), true) => Stage::Tentative(seen + 1),
                (Stage::Tentative(_), false) => Stage::Gone,
                (_, true) => Stage::Tracked,
                (_, false) => Stage::Lost,
            };
        }
        self.tracks.retain(|track| track.stage != Stage::Gone);
    }

    /// A strong detection that nobody claimed is a new object, perhaps.
    fn begin(&mut self) {
        for d in &self.scratch.strong {
            if self.tracks.len() < MOST {
                self.tracks.push(Track::new(self.now, d));
            }
        }
    }

    /// Takes out the younger of a lost track and one that is seen on its very place.
    fn merge(&mut self) {
        for i in 0..self.tracks.len() {
            for j in i + 1..self.tracks.len() {
                // Tracks are in the order of their age: j is the younger.
                let (old, young) = (&self.tracks[i], &self.tracks[j]);
                let one_lost = (old.stage == Stage::Lost) != (young.stage == Stage::Lost);
                if one_lost
                    && old.view.class == young.view.class
                    && old.stage != Stage::Gone
                    && young.stage != Stage::Gone
                    && old.motion.bbox().iou(&young.motion.bbox()) > SAME
                {
                    if young.stage.announced() {
                        self.changes.push(Change::Ended(young.view));
                    }
                    self.tracks[j].stage = Stage::Gone;
                }
            }
        }
        self.tracks.retain(|track| track.stage != Stage::Gone);
    }

    fn announce(&mut self) {
        for track in self.tracks.iter_mut().filter(|t| t.matched) {
            match track.stage {
                Stage::Tentative(seen) if seen >= self.settings.confirm_frames => {
                    track.stage = Stage::Tracked;
                    track.view.id = TrackId(self.next_id);
                    self.next_id += 1;
                    self.changes.push(Change::Started(track.view));
                }
                Stage::Tracked => self.changes.push(Change::Updated(track.view)),
                _ => {}
            }
        }
    }
}

/// One round of matching: whom, from which likeness on, and whether the score weighs in.
struct Round {
    who: fn(Stage) -> bool,
    least: f32,
    weighted: bool,
}

/// Marks a detection that has found its track; no usable detection has this score.
const TAKEN: f32 = -1.0;

impl Stage {
    fn announced(self) -> bool {
        matches!(self, Stage::Tracked | Stage::Lost)
    }
}

impl Track {
    fn new(now: Tick, d: &Detection) -> Self {
        let view = TrackView {
            id: TrackId(0),
            class: d.class,
            score: d.score,
            bbox: d.bbox,
            started: now,
            seen: now,
        };
        Track { view, motion: Motion::new(&d.bbox), stage: Stage::Tentative(1), matched: true }
    }

    fn see(&mut self, now: Tick, d: &Detection) {
        self.motion.correct(&d.bbox);
        self.view.bbox = self.motion.bbox();
        self.view.score = d.score;
        self.view.seen = now;
        self.matched = true;
    }
}

/// The box with `by` of its sides added on each side.
fn grown(b: &BBox, by: f32) -> BBox {
    let (dx, dy) = (by * b.w, by * b.h);
    BBox { x: b.x - dx, y: b.y - dy, w: b.w + 2.0 * dx, h: b.h + 2.0 * dy }
}

/// A detection that a filter can digest: finite, with an area, touching the picture and of its order of size.
fn usable(d: &Detection, size: Size) -> bool {
    /// Boxes reach beyond the picture where an object does, but not by many pictures.
    const LARGEST: f32 = 4.0;
    let visible = d.bbox.clamp_to(size);
    (0.0..=1.0).contains(&d.score)
        && visible.w > 0.0
        && visible.h > 0.0
        && d.bbox.w <= LARGEST * size.width as f32
        && d.bbox.h <= LARGEST * size.height as f32
}

#[cfg(test)]
mod tests;
