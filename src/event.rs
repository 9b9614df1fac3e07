//! The public event, `weir.event/1`: what MQTT and SSE subscribers receive, as JSON.
//!
//! The JSON Schema in `assets/weir.event-1.schema.json` is generated from these types and a test
//! keeps it fresh. Fields are only ever added within a schema version.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Wall;

/// The value of every event's `schema` field.
pub const SCHEMA: &str = "weir.event/1";

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// An object has been seen often enough to be believed.
    #[serde(rename = "track.started")]
    TrackStarted,
    /// Where a known object is now; at most one a track and `[events] update_interval_ms`.
    #[serde(rename = "track.updated")]
    TrackUpdated,
    /// An object has not been seen for `[track] lost_ms`.
    #[serde(rename = "track.ended")]
    TrackEnded,
    /// A track's foot point came into a zone.
    #[serde(rename = "zone.entered")]
    ZoneEntered,
    /// A track's foot point left a zone, or the track ended inside.
    #[serde(rename = "zone.left")]
    ZoneLeft,
    /// A track has stayed in a zone for its `dwell_ms`; once a stay.
    #[serde(rename = "zone.dwell")]
    ZoneDwell,
    /// A track's foot point crossed a line.
    #[serde(rename = "line.crossed")]
    LineCrossed,
    /// The camera delivers pictures.
    #[serde(rename = "camera.online")]
    CameraOnline,
    /// The camera has stopped delivering pictures; `reason` says why.
    #[serde(rename = "camera.offline")]
    CameraOffline,
    /// Resolution, codec or pixel format changed in mid-stream.
    #[serde(rename = "camera.changed")]
    CameraChanged,
}

impl Kind {
    /// All kinds, in the order of tables and metrics.
    pub const ALL: [Kind; 10] = [
        Kind::TrackStarted,
        Kind::TrackUpdated,
        Kind::TrackEnded,
        Kind::ZoneEntered,
        Kind::ZoneLeft,
        Kind::ZoneDwell,
        Kind::LineCrossed,
        Kind::CameraOnline,
        Kind::CameraOffline,
        Kind::CameraChanged,
    ];

    /// As it stands in the event, in SSE's `event:` and in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::TrackStarted => "track.started",
            Kind::TrackUpdated => "track.updated",
            Kind::TrackEnded => "track.ended",
            Kind::ZoneEntered => "zone.entered",
            Kind::ZoneLeft => "zone.left",
            Kind::ZoneDwell => "zone.dwell",
            Kind::LineCrossed => "line.crossed",
            Kind::CameraOnline => "camera.online",
            Kind::CameraOffline => "camera.offline",
            Kind::CameraChanged => "camera.changed",
        }
    }
}

/// One event as subscribers see it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Event {
    /// Always `weir.event/1`.
    #[schemars(extend("const" = SCHEMA))]
    pub schema: &'static str,
    /// UUIDv7; the same event delivered twice has the same id.
    #[schemars(with = "String", extend("format" = "uuid"))]
    pub id: uuid::Uuid,
    /// Counts this node's events since it started, from 1, gapless.
    pub seq: u64,
    /// `[node] name`.
    #[schemars(with = "String")]
    pub node: Arc<str>,
    /// What happened, where and when.
    #[serde(flatten)]
    pub draft: Draft,
}

/// An event before the outbox gives it its identity.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Draft {
    /// The camera's name.
    #[schemars(with = "String")]
    pub camera: Arc<str>,
    /// What happened.
    pub kind: Kind,
    /// RFC 3339 in UTC: when the frame reached this box, or for `camera.*` when it was noticed.
    #[serde(serialize_with = "as_rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub time: Wall,
    /// The frame that shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame: Option<FrameRef>,
    /// The object it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track: Option<TrackRef>,
    /// For `zone.*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneRef>,
    /// For `line.crossed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<LineRef>,
    /// For `camera.offline`: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// For `camera.online` and `camera.changed`: what it delivers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video: Option<Video>,
}

impl Draft {
    /// An event with nothing but its place, kind and time.
    pub fn new(camera: Arc<str>, kind: Kind, time: Wall) -> Self {
        Draft {
            camera,
            kind,
            time,
            frame: None,
            track: None,
            zone: None,
            line: None,
            reason: None,
            video: None,
        }
    }
}

/// The frame that an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct FrameRef {
    /// The camera's frame counter, gapless over all frames that came in.
    pub seq: u64,
    /// The stream's own time in milliseconds, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pts_ms: Option<u64>,
    /// Milliseconds from the picture's arrival at this box to this event.
    pub age_ms: u64,
}

/// The object that an event is about.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct TrackRef {
    /// Unique for this camera while the daemon runs.
    pub id: u64,
    /// The class, by the model's label.
    #[schemars(with = "String")]
    pub label: Arc<str>,
    /// Confidence of the latest detection.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub score: f32,
    /// Left, top, width, height as fractions of the picture, origin at the top left.
    #[schemars(inner(range(min = 0.0, max = 1.0)))]
    pub bbox: [f32; 4],
}

/// The zone of a `zone.*` event.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ZoneRef {
    /// Its name in the configuration.
    #[schemars(with = "String")]
    pub name: Arc<str>,
    /// How long the track has been inside, in milliseconds.
    pub dwell_ms: u64,
}

/// The line of a `line.crossed` event.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct LineRef {
    /// Its name in the configuration.
    #[schemars(with = "String")]
    pub name: Arc<str>,
    /// Seen along the line from its first point to its second.
    pub direction: Direction,
}

/// Which way a line was crossed, seen from its first point towards its second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the right side to the left side.
    ToLeft,
    /// From the left side to the right side.
    ToRight,
}

/// Why a camera went offline.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Reason {
    /// A stable word: `refused`, `auth`, `not_found`, `stalled`, `ended`, `no_video`, `timeout`, …
    pub code: &'static str,
    /// A sentence for people. Never holds a credential.
    pub message: String,
}

/// What a camera delivers.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Video {
    /// Columns of the decoded picture.
    pub width: u32,
    /// Rows of the decoded picture.
    pub height: u32,
    /// Pictures a second as announced by the stream; absent when it announces none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<f32>,
    /// `h264`, `h265`, `mjpeg`, …
    pub codec: String,
}

fn as_rfc3339<S: serde::Serializer>(wall: &Wall, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&wall.rfc3339())
}

/// The JSON Schema (draft 2020-12) of an event, generated from the types above.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Event).to_value()
}

/// A file of `assets/` holds this schema, or is written anew where that is asked for.
#[cfg(test)]
pub(crate) fn assert_checked_in(file: &str, schema: &serde_json::Value) {
    let path = format!("{}/assets/{file}", env!("CARGO_MANIFEST_DIR"));
    let fresh = serde_json::to_string_pretty(schema).expect("a schema is JSON") + "\n";
    if std::env::var_os("WEIR_BLESS").is_some() {
        std::fs::write(&path, &fresh).expect("it can be written");
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == fresh, "stale: run the tests once with WEIR_BLESS=1 and review the diff of {path}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_named_as_it_is_serialised() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(kind as usize, place, "ALL is indexed by the kind's own number");
        }
    }

    #[test]
    fn the_checked_in_schema_is_fresh() {
        assert_checked_in("weir.event-1.schema.json", &schema());
    }
}
