//! From tracks to events: what starts, moves and ends, who is in which zone, who crossed which line.
//!
//! One [`Rules`] a camera. It is told the tracker's [`Change`]s and drafts events; their identity, storage
//! and delivery are the outbox's. Where a track *is*, is its foot point: the bottom centre of its
//! box, since that is where a standing object touches the ground that zones are drawn on.
//!
//! A box trembles by some pixels even when its object stands still, so a border is a band:
//! - a track enters a zone at its border, and leaves it when it is out by more than a margin;
//! - a line is crossed when the foot has passed it between its ends *and* is beyond it by more than a margin.
//!   Being on the line counts as being on its right. A track that begins inside the band has come from nowhere:
//!   where it first stands clear of the line is no crossing.
//!
//! What belongs together comes in pairs: each `track.started` has one `track.ended`, each `zone.entered`
//! one `zone.left`, which comes before the track's end.

mod geometry;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use self::geometry::{Point, outside_by, passes_between, side_of};
use crate::clock::{Tick, Wall};
use crate::config;
use crate::event::{Direction, Draft, FrameRef, Kind, LineRef, TrackRef, ZoneRef};
use crate::flow::track::{Change, TrackId, TrackView};
use crate::frame::{BBox, FrameKey, Size, Stamp};

/// The frame that the changes were found in.
#[derive(Clone, Copy, Debug)]
pub struct FrameContext {
    /// Its identity.
    pub key: FrameKey,
    /// When it was where.
    pub stamp: Stamp,
    /// How large it is: the boxes of the changes are in its pixels.
    pub size: Size,
    /// The present; an event's age counts from the frame's arrival to here.
    pub now: Tick,
}

/// The rules of one camera and what they remember of its tracks.
#[derive(Debug)]
pub struct Rules {
    camera: Arc<str>,
    labels: Vec<Arc<str>>,
    update_interval: Duration,
    zones: Vec<Area>,
    lines: Vec<Tripwire>,
    live: BTreeMap<TrackId, Live>,
}

#[derive(Debug)]
struct Area {
    zone: config::Zone,
    /// The corners in pixels of the latest picture.
    polygon: Vec<Point>,
}

#[derive(Debug)]
struct Tripwire {
    line: config::Line,
    /// The ends in pixels of the latest picture.
    ends: [Point; 2],
}

/// What is remembered of a track.
#[derive(Debug)]
struct Live {
    track: TrackRef,
    seen: Tick,
    told: Tick,
    /// As a fraction of the picture, so that it survives a change of resolution.
    foot: Point,
    /// For each zone: since when it is inside, and whether its dwell was told.
    inside: Vec<Option<(Tick, bool)>>,
    /// For each line.
    beside: Vec<Beside>,
}

/// Where a track is with respect to a line.
#[derive(Clone, Copy, Debug, Default)]
struct Beside {
    /// The side on which it stood clear of the line last.
    clear: Option<Direction>,
    /// Whether its last passage of the endless line was between the ends.
    between: bool,
}

/// When and in which frame a draft's event happened.
#[derive(Clone, Copy)]
struct Moment {
    wall: Wall,
    frame: Option<FrameRef>,
}

impl Rules {
    /// The rules of `camera`, for a model with these `labels`.
    pub fn new(camera: &config::Camera, labels: &[Arc<str>], settings: &config::Events) -> Self {
        Rules {
            camera: camera.name.clone(),
            labels: labels.to_vec(),
            update_interval: settings.update_interval,
            zones: camera.zones.iter().map(|z| Area { zone: z.clone(), polygon: Vec::new() }).collect(),
            lines: camera.lines.iter().map(|l| Tripwire { line: l.clone(), ends: l.ends }).collect(),
            live: BTreeMap::new(),
        }
    }

    /// Adds to `out` what follows from the changes that one frame made, in the order in which it happened.
    pub fn apply(&mut self, ctx: &FrameContext, changes: &[Change], out: &mut Vec<Draft>) {
        if ctx.size.width == 0 || ctx.size.height == 0 {
            return; // No picture, no places. Such a frame makes no changes either.
        }
        self.fit(ctx.size);
        let frame = FrameRef {
            seq: ctx.key.seq,
            pts_ms: ctx.stamp.pts.map(|pts| pts.as_millis()),
            age_ms: millis(ctx.now.since(ctx.stamp.arrived)),
        };
        let moment = Moment { wall: ctx.stamp.wall, frame: Some(frame) };
        for change in changes {
            match change {
                Change::Started(view) => self.start(view, ctx, moment, out),
                Change::Updated(view) => self.update(view, ctx, moment, out),
                Change::Ended(view) => self.end(view.id, moment, out),
            }
        }
    }

    /// The same where there is no frame: tracks ended because time went by
    /// ([`Tracker::expire`](crate::flow::track::Tracker::expire)) or because the camera went offline
    /// ([`Tracker::end_all`](crate::flow::track::Tracker::end_all)). Only endings happen without a frame.
    pub fn apply_without_frame(&mut self, wall: Wall, changes: &[Change], out: &mut Vec<Draft>) {
        for change in changes {
            if let Change::Ended(view) = change {
                self.end(view.id, Moment { wall, frame: None }, out);
            }
        }
    }

    fn fit(&mut self, size: Size) {
        let [width, height] = [size.width as f32, size.height as f32];
        let pixels = |p: &Point| [p[0] * width, p[1] * height];
        for area in &mut self.zones {
            area.polygon.clear();
            area.polygon.extend(area.zone.polygon.iter().map(pixels));
        }
        for wire in &mut self.lines {
            wire.ends = wire.line.ends.each_ref().map(pixels);
        }
    }

    fn start(&mut self, view: &TrackView, ctx: &FrameContext, moment: Moment, out: &mut Vec<Draft>) {
        let label = match self.labels.get(usize::from(view.class)) {
            Some(label) => label.clone(),
            // A model with more classes than labels: better a number than no event.
            None => view.class.to_string().into(),
        };
        let live = Live {
            track: TrackRef { id: view.id.0, label, score: view.score, bbox: view.bbox.fractions(ctx.size) },
            seen: view.seen,
            told: view.seen,
            foot: foot(&view.bbox, ctx.size),
            inside: vec![None; self.zones.len()],
            beside: vec![Beside::default(); self.lines.len()],
        };
        out.push(self.draft(Kind::TrackStarted, &live.track, moment));
        self.live.insert(view.id, live);
        self.place(view, ctx, moment, out);
    }

    fn update(&mut self, view: &TrackView, ctx: &FrameContext, moment: Moment, out: &mut Vec<Draft>) {
        let Some(live) = self.live.get_mut(&view.id) else { return };
        live.track.score = view.score;
        live.track.bbox = view.bbox.fractions(ctx.size);
        live.seen = view.seen;
        // Should time go back, the interval begins anew instead of lasting until time has caught up.
        live.told = live.told.min(view.seen);
        if view.seen.since(live.told) >= self.update_interval {
            live.told = view.seen;
            let track = live.track.clone();
            out.push(self.draft(Kind::TrackUpdated, &track, moment));
        }
        self.place(view, ctx, moment, out);
    }

    fn end(&mut self, id: TrackId, moment: Moment, out: &mut Vec<Draft>) {
        let Some(live) = self.live.remove(&id) else { return };
        for (area, inside) in self.zones.iter().zip(&live.inside) {
            if let Some((since, _)) = inside {
                let draft = self.draft(Kind::ZoneLeft, &live.track, moment);
                out.push(Draft { zone: Some(area.stay(live.seen.since(*since))), ..draft });
            }
        }
        out.push(self.draft(Kind::TrackEnded, &live.track, moment));
    }

    /// Zones and lines, for a track that was seen in this frame.
    fn place(&mut self, view: &TrackView, ctx: &FrameContext, moment: Moment, out: &mut Vec<Draft>) {
        let Some(mut live) = self.live.remove(&view.id) else { return };
        let before = live.foot;
        live.foot = foot(&view.bbox, ctx.size);
        let scale = |p: Point| [p[0] * ctx.size.width as f32, p[1] * ctx.size.height as f32];
        let (from, to) = (scale(before), scale(live.foot));
        let margin = margin(view, ctx.size);
        for (area, inside) in self.zones.iter().zip(&mut live.inside) {
            if !counts(&area.zone.classes, &live.track.label) {
                continue;
            }
            let outside_by = outside_by(to, &area.polygon);
            if let Some((kind, stay)) = area.visit(inside, outside_by, margin, view.seen) {
                let draft = self.draft(kind, &live.track, moment);
                out.push(Draft { zone: Some(area.stay(stay)), ..draft });
            }
        }
        for (wire, beside) in self.lines.iter().zip(&mut live.beside) {
            if !counts(&wire.line.classes, &live.track.label) {
                continue;
            }
            if let Some(direction) = beside.step(from, to, wire.ends, margin) {
                let draft = self.draft(Kind::LineCrossed, &live.track, moment);
                out.push(Draft { line: Some(LineRef { name: wire.line.name.clone(), direction }), ..draft });
            }
        }
        self.live.insert(view.id, live);
    }

    fn draft(&self, kind: Kind, track: &TrackRef, moment: Moment) -> Draft {
        Draft {
            frame: moment.frame,
            track: Some(track.clone()),
            ..Draft::new(self.camera.clone(), kind, moment.wall)
        }
    }
}

impl Area {
    /// What a foot that is outside by this many pixels means: at most one of entered, left, dwell.
    fn visit(
        &self,
        inside: &mut Option<(Tick, bool)>,
        outside_by: f32,
        margin: f32,
        now: Tick,
    ) -> Option<(Kind, Duration)> {
        match inside {
            None if outside_by == 0.0 => {
                *inside = Some((now, false));
                Some((Kind::ZoneEntered, Duration::ZERO))
            }
            None => None,
            Some((since, _)) if outside_by > margin => {
                let stay = now.since(*since);
                *inside = None;
                Some((Kind::ZoneLeft, stay))
            }
            Some((since, told)) => {
                let stay = now.since(*since);
                let due = !*told && self.zone.dwell.is_some_and(|dwell| stay >= dwell);
                *told |= due;
                due.then_some((Kind::ZoneDwell, stay))
            }
        }
    }

    fn stay(&self, stay: Duration) -> ZoneRef {
        ZoneRef { name: self.zone.name.clone(), dwell_ms: millis(stay) }
    }
}

impl Beside {
    /// A step of the foot; the direction when it completes a crossing.
    fn step(&mut self, from: Point, to: Point, ends: [Point; 2], margin: f32) -> Option<Direction> {
        let (before, after) = (side_of(from, ends), side_of(to, ends));
        if (before < 0.0) != (after < 0.0) {
            self.between = passes_between(from, to, ends);
        }
        if after.abs() <= margin {
            return None;
        }
        let here = if after < 0.0 { Direction::ToLeft } else { Direction::ToRight };
        let crossed = self.clear.is_some_and(|side| side != here) && self.between;
        self.clear = Some(here);
        crossed.then_some(here)
    }
}

/// The half width of a border in pixels: a twentieth of the object's height, as much as a detector's
/// edges tremble, and at least 1/200 of the picture's height.
fn margin(view: &TrackView, size: Size) -> f32 {
    (view.bbox.h / 20.0).max(size.height as f32 / 200.0)
}

fn counts(classes: &[String], label: &str) -> bool {
    classes.is_empty() || classes.iter().any(|class| class == label)
}

/// The bottom centre as fractions of the picture, inside it.
fn foot(bbox: &BBox, size: Size) -> Point {
    let x = (bbox.x + bbox.w / 2.0) / size.width as f32;
    let y = (bbox.y + bbox.h) / size.height as f32;
    [x.clamp(0.0, 1.0), y.clamp(0.0, 1.0)]
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
