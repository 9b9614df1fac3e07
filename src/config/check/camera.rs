//! Checks of one camera, and of cameras against each other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Check, ms};
use crate::config::file::Section;
use crate::config::{
    Camera, DropPolicy, Hide, Line, Priority, Privacy, Restream, Source, Track, Zone, shape, source,
};

pub(super) fn camera(
    check: &mut Check<'_>,
    name: &str,
    section: &Section,
    batcher: &Section,
) -> Option<Camera> {
    let source = source::check(check, section);
    let zones = section.named("zones").iter().map(|(name, _, zone)| self::zone(check, name, zone));
    let zones = zones.collect::<Vec<_>>();
    let lines = section.named("lines").iter().map(|(name, _, line)| self::line(check, name, line));
    let lines = lines.collect::<Vec<_>>();
    let masks = section.named("masks").iter().map(|(_, _, mask)| polygon(check, mask));
    let masks = masks.collect::<Vec<_>>();
    let policy = section.text("drop_policy").or_else(|| batcher.text("drop_policy"));
    let ring = section.opt_int("ring_buffer_ms").unwrap_or_else(|| batcher.int("ring_buffer_ms"));
    Some(Camera {
        name: Arc::from(name),
        source: source?,
        ring: Duration::from_millis(ring),
        drop_policy: if policy == Some("skip-frame") { DropPolicy::SkipFrame } else { DropPolicy::Oldest },
        backlog_frames: section.opt_int("backlog_frames").unwrap_or_else(|| batcher.int("backlog_frames"))
            as u32,
        priority: if section.text("priority") == Some(Priority::Bulk.name()) {
            Priority::Bulk
        } else {
            Priority::Realtime
        },
        weight: section.int("weight") as u32,
        max_fps: section.opt_float("max_fps"),
        thin_decode: section.bool("thin_decode"),
        still_fps: section.bool("motion_gate").then(|| section.float("still_fps")),
        stall: ms(section, "stall_ms"),
        zones: zones.into_iter().collect::<Option<_>>()?,
        lines: lines.into_iter().collect::<Option<_>>()?,
        privacy: Privacy {
            hide: section.texts("hide"),
            hide_by: if section.text("hide_by") == Some("fill") { Hide::Fill } else { Hide::Blur },
            masks: masks.into_iter().collect::<Option<_>>()?,
        },
        restream: Restream::default(),
    })
}

/// A track at rest is seen only at the floor rate: if that is too low, it ends and starts again and again.
pub(super) fn still_tracks(check: &mut Check<'_>, file: &Section, track: &Track) {
    for (name, _, section) in file.named("cameras") {
        let least = 2.0 / track.lost.as_secs_f32();
        if section.bool("motion_gate") && section.float("still_fps") < least {
            let key = if section.has("still_fps") { "still_fps" } else { "motion_gate" };
            check
                .problems
                .error(section.place(key), format!("camera `{name}`: tracks at rest would be lost"))
                .label(format!("at least {least:.1} frames a second are needed"))
                .help("a track ends when it was not seen for [track] lost_ms: raise `still_fps` or lost_ms");
        }
    }
}

/// `polygon`, as a region that one can be in.
fn polygon(check: &mut Check<'_>, section: &Section) -> Option<Vec<[f32; 2]>> {
    let polygon = section.points("polygon")?.to_vec();
    if let Some(wrong) = shape::wrong(&polygon) {
        check
            .problems
            .error(section.place("polygon"), "this polygon encloses no area that one can be in")
            .label(wrong)
            .help("write the corners in order around the region");
        return None;
    }
    Some(polygon)
}

fn zone(check: &mut Check<'_>, name: &str, section: &Section) -> Option<Zone> {
    let polygon = polygon(check, section)?;
    Some(Zone {
        name: Arc::from(name),
        polygon,
        dwell: section.opt_int("dwell_ms").map(Duration::from_millis),
        classes: section.texts("classes"),
    })
}

fn line(check: &mut Check<'_>, name: &str, section: &Section) -> Option<Line> {
    let &[from, to] = section.points("ends")? else { return None };
    if from == to {
        check
            .problems
            .error(section.place("ends"), "both ends are the same point")
            .label("a line of no length");
        return None;
    }
    Some(Line { name: Arc::from(name), ends: [from, to], classes: section.texts("classes") })
}

/// One address for two cameras is nearly always a copy that was not edited. A video file played twice is a test.
pub(super) fn same_source(check: &mut Check<'_>, file: &Section, cameras: &[Option<Camera>]) {
    let live = |camera: &Camera| match &camera.source {
        Source::Rtsp(rtsp) => Some(rtsp.url.to_string()),
        Source::V4l2 { device } => Some(device.display().to_string()),
        Source::File { .. } | Source::Pipeline { .. } => None,
    };
    let sections = file.named("cameras");
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (i, camera) in cameras.iter().enumerate() {
        let Some(address) = camera.as_ref().and_then(live) else { continue };
        match seen.get(&address) {
            Some(&first) => {
                let names = (&sections[first].0, &sections[i].0);
                check
                    .problems
                    .warn(
                        sections[i].2.place("source"),
                        format!("cameras `{}` and `{}` have the same source", names.0, names.1),
                    )
                    .label("again here")
                    .also(sections[first].2.place("source"), "first here");
            }
            None => {
                seen.insert(address, i);
            }
        }
    }
}
