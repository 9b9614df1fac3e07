//! What the API answers, as types: the routes fill them, and `assets/weir.api-1.schema.json` and the dashboard's
//! `assets/dashboard/api.d.ts` are made from them. New fields may come in this version; none goes and none changes its meaning.
//!
//! Durations are in the unit that the name ends with; ratios are 0..=1; what is not known is null, never guessed.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use crate::admission::Standing;
use crate::board::{Counts, Status};
use crate::config::Priority;
use crate::device::accelerator;
use crate::event::Event;
use crate::flow::capacity::Ceiling;
use crate::flow::pace;
use crate::flow::thin::Level;
use crate::frame::Fate;
use crate::request::Found;
use crate::video::encoder::Choice;

/// `GET /api/v1/cameras`
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Cameras {
    /// `[node] name`.
    #[schemars(with = "String")]
    pub node: Arc<str>,
    /// Those that are in the configuration.
    pub cameras: Vec<Camera>,
}

/// `GET /api/v1/cameras/NAME`
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Camera {
    /// Its name in the configuration.
    #[schemars(with = "String")]
    pub name: Arc<str>,
    /// Its connection.
    #[serde(flatten)]
    pub status: Status,
    /// Which of its pictures are decoded.
    pub decode: Level,
    /// Its frames since it came, by fate.
    pub frames: Frames,
    /// Frames a second that come in, over the last five seconds.
    pub fps_in: Option<f64>,
    /// Frame to event, over the last ten seconds.
    pub latency_ms: Option<Latency>,
    /// Its class.
    pub priority: Priority,
    /// Its share within its class.
    pub weight: u32,
    /// Inferred frames a second at most.
    pub max_fps: Option<f64>,
    /// The oldest that its frames may become before the engine takes them.
    pub ring_ms: u64,
    /// The GPU that its pictures are on; null where the CPU does it all.
    pub gpu: Option<u32>,
    /// Objects that are followed now.
    pub tracks: usize,
    /// Connections that were tried.
    pub attempts: u64,
}

/// Percentiles.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Latency {
    /// Half are below.
    pub p50: f64,
    /// 95 % are below.
    pub p95: f64,
}

/// Where frames went: `in` is the sum of all others.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Frames {
    /// Frames that came in.
    pub r#in: u64,
    /// Wait, are in the engine, or are being analysed.
    pub in_flight: u64,
    /// Analysed.
    pub inferred: u64,
    /// Given up for newer ones of the same camera.
    pub overrun: u64,
    /// Too old when the engine was free.
    pub stale: u64,
    /// Left out on purpose: a rate cap, the motion gate, or thinning.
    pub skipped: u64,
    /// No sound picture could be made of it.
    pub decode_error: u64,
    /// The engine could not use it.
    pub failed: u64,
}

impl From<&Counts> for Frames {
    fn from(counts: &Counts) -> Self {
        Frames {
            r#in: counts.frames_in,
            in_flight: counts.in_flight(),
            inferred: counts.of(Fate::Inferred),
            overrun: counts.of(Fate::Overrun),
            stale: counts.of(Fate::Stale),
            skipped: counts.of(Fate::Skipped),
            decode_error: counts.of(Fate::DecodeError),
            failed: counts.of(Fate::Failed),
        }
    }
}

/// `GET /api/v1/flow`
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Flow {
    /// The target of realtime frames' p95.
    pub slo_p95_ms: f64,
    /// How the engine is fed; of several that with the highest load, and the highest p95 of all. Null until one is warm.
    pub pace: Option<Pace>,
    /// S(b) of the same engine: what a batch of b frames takes.
    pub service: Option<Vec<Rung>>,
    /// The rate of the engines that live at their largest useful batch, frames a second.
    pub capacity_fps: Option<f64>,
    /// Each engine: one a GPU.
    pub lanes: Vec<Lane>,
    /// What the machine can take; null before the first look.
    pub admission: Option<Admission>,
    /// Pictures of clients.
    pub requests: Requests,
}

/// One engine.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Lane {
    /// Its GPU; null where the CPU does it all.
    pub gpu: Option<u32>,
    /// Whether it works.
    #[schemars(extend("enum" = ["live", "failed"]))]
    pub state: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Cameras that are placed on it.
    pub cameras: usize,
    /// How it is fed; null until it is warm.
    pub pace: Option<Pace>,
    /// S(b): what a batch of b frames takes.
    pub service: Option<Vec<Rung>>,
    /// Its rate at its largest useful batch, frames a second.
    pub capacity_fps: Option<f64>,
    /// What it can take; null before the first look.
    pub admission: Option<LaneAdmission>,
}

/// What one engine can take.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LaneAdmission {
    /// Load over its rate.
    pub rho: f64,
    /// How its cameras stand.
    pub verdict: Standing,
    /// What binds first.
    pub ceiling: Ceiling,
    /// Frames a second at `rho_max`.
    pub capacity_fps: f64,
    /// Part of its GPU's video decoders that is in use, 0..=1.
    pub nvdec_load: Option<f64>,
    /// Its GPU's memory that is left beyond the headroom.
    pub gpu_memory_available_mb: Option<f64>,
}

/// The pacer's decision.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Pace {
    /// Why it is what it is.
    pub reason: pace::Reason,
    /// p95 of realtime frames over the last second, or of the last 20 frames of up to 8 seconds, frame to event.
    pub p95_ms: Option<f64>,
    /// Δ: the longest wait for company.
    pub wait_limit_ms: f64,
    /// The largest batch.
    pub batch_limit_frames: usize,
    /// The largest batch of bulk frames while realtime ones come.
    pub bulk_batch_limit_frames: usize,
    /// Frames are being lost to the engine.
    pub saturated: bool,
    /// Frames a batch, lately.
    pub mean_batch_frames: f64,
    /// Offered load over the engine's rate.
    pub rho: f64,
}

/// One measured point of S(b).
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Rung {
    /// Frames of the batch.
    pub frames: usize,
    /// How long it takes.
    pub ms: f64,
    /// Frames a second at this batch.
    pub fps: f64,
}

/// What the machine can take. Of several engines `rho`, `verdict` and `ceiling` are the worst one's, `capacity_fps` and
/// `gpu_memory_available_mb` the sums.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Admission {
    /// Load over the engine's rate beside the decoding that there is.
    pub rho: f64,
    /// Up to here new cameras are let in.
    pub rho_max: f64,
    /// How the cameras stand.
    pub verdict: Standing,
    /// What binds first.
    pub ceiling: Ceiling,
    /// Frames a second at `rho_max`.
    pub capacity_fps: f64,
    /// Frames a second that the engine has for each camera.
    #[schemars(with = "BTreeMap<String, f64>")]
    pub fair_fps: BTreeMap<Arc<str>, f64>,
    /// Cores of the machine.
    pub cores: f64,
    /// Of these: those that a run of the engine keeps busy.
    pub engine_cores: f64,
    /// Cores that decoding takes now.
    pub decode_cores: f64,
    /// What decoding costs.
    pub decode_ns_per_pixel: Option<f64>,
    /// Part of the GPU's video decoders that is in use, 0..=1; null: none of our streams is decoded there, or it does not say.
    pub nvdec_load: Option<f64>,
    /// What decoding costs there: time of all decoders together.
    pub nvdec_ns_per_pixel: Option<f64>,
    /// Main memory that is left.
    pub memory_available_mb: Option<f64>,
    /// The GPU's memory that is left beyond the headroom; null where pictures are in main memory.
    pub gpu_memory_available_mb: Option<f64>,
}

/// Pictures that clients ask about.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Requests {
    /// How many may be pending.
    pub limit: usize,
    /// By class, `realtime` and `bulk`.
    pub classes: BTreeMap<&'static str, RequestClass>,
}

/// One class of them.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RequestClass {
    /// Not yet answered.
    pub pending: usize,
    /// How many ended how.
    pub ended: BTreeMap<&'static str, u64>,
    /// Where their pictures went.
    pub frames: Frames,
}

/// `GET /api/v1/devices`
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Devices {
    /// Encodes H.264 for RTSP out.
    pub video_encoder: Choice,
    /// Encodes H.265; null: nobody asked for it yet.
    pub video_encoder_h265: Option<Choice>,
    /// The GPUs that are used; none where the CPU does it all.
    pub gpus: Vec<Gpu>,
}

/// A GPU that is used.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Gpu {
    /// What it says of itself.
    #[serde(flatten)]
    pub reading: accelerator::Report,
    /// Whether its engine works.
    #[schemars(extend("enum" = ["live", "failed"]))]
    pub state: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// `POST /api/v1/admission`, when there is room
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Admitted {
    /// All of them, or at a lower rate.
    #[schemars(extend("enum" = ["accept", "accept_at"]))]
    pub verdict: &'static str,
    /// For `accept_at`: frames a second of each camera that would be inferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<f64>,
    /// The load as it is now.
    #[serde(flatten)]
    pub now: Room,
}

/// What an answer about admission rests on.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Room {
    /// Load over the engine's rate, now.
    pub rho: f64,
    /// Frames a second that it takes at `rho_max`.
    pub capacity_fps: f64,
    /// False while no camera delivers: nobody knows then what decoding costs here.
    pub decode_known: bool,
}

/// `POST /api/v1/reload`
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Reloaded {
    /// Cameras that were started.
    #[schemars(with = "Vec<String>")]
    pub added: Vec<Arc<str>>,
    /// Cameras that have other settings, and were started again unless those are only `weight` and `max_fps`.
    #[schemars(with = "Vec<String>")]
    pub changed: Vec<Arc<str>>,
    /// Cameras that were stopped.
    #[schemars(with = "Vec<String>")]
    pub removed: Vec<Arc<str>>,
    /// Frames a second of added cameras that are inferred at a lower rate than they send.
    #[schemars(with = "BTreeMap<String, f64>")]
    pub capped: BTreeMap<Arc<str>, f64>,
    /// Cameras for which there is no room.
    #[schemars(with = "Vec<String>")]
    pub refused: Vec<Arc<str>>,
    /// Cameras that could not be started, and why.
    #[schemars(with = "BTreeMap<String, String>")]
    pub failed: BTreeMap<Arc<str>, String>,
    /// Sections that differ and wait for a restart.
    pub restart: Vec<&'static str>,
}

/// `POST /api/v1/infer`: what the network sees in a picture
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Inferred {
    /// The model's name.
    #[schemars(with = "String")]
    pub model: Arc<str>,
    /// Columns and rows of the picture.
    pub size: [u32; 2],
    /// Best score first.
    pub detections: Vec<Found>,
    /// From the last byte of the picture to this answer.
    pub latency_ms: f64,
    /// Of these: reading the picture.
    pub decode_ms: f64,
    /// Of these: waiting for its batch.
    pub wait_ms: f64,
}

/// `POST /api/v1/infer` with several pictures
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Parts {
    /// In the order of the parts.
    pub results: Vec<Part>,
}

/// One picture of several.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Part {
    /// Its place in the request, from 0.
    pub index: usize,
    /// Its file's name, or that of its part.
    pub name: String,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of one picture of several.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Outcome {
    /// What the network sees in it.
    Inferred(Inferred),
    /// Why there is no answer.
    Failed {
        /// What is wrong with it.
        error: PartProblem,
    },
}

/// What is wrong with one picture of several.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PartProblem {
    /// A stable word.
    pub code: &'static str,
    /// A sentence for people, with the remedy.
    pub message: String,
    /// The HTTP status that it would have had by itself.
    pub status: u16,
    /// When asking again may help, in seconds.
    pub retry_after_s: Option<u64>,
}

/// `GET /api/v1/events`
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct History {
    /// Oldest first.
    pub events: Vec<Event>,
    /// Events after `after` that the log no longer keeps.
    pub lost: u64,
    /// Ask again with `after=next` until it is `last`.
    pub next: u64,
    /// The newest event there is.
    pub last: u64,
}

/// `GET /healthz`: 200 `alive`, or 503 `stuck`
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Health {
    /// `alive` or `stuck`.
    pub status: &'static str,
    /// Stages that make no progress, and for how long.
    pub stuck: Vec<String>,
}

/// `GET /readyz`: 200 `ready`, or 503 `not ready`
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Readiness {
    /// `ready` or `not ready`.
    pub status: &'static str,
    /// What is missing.
    pub missing: Vec<String>,
}

/// Every answer with a status from 400 on
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Refused {
    /// What is wrong.
    pub error: Problem,
    /// Of `/api/v1/reload`: what was done for the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<Reloaded>,
    /// Of `/api/v1/infer`: what became of each picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub results: Option<Vec<Part>>,
}

/// What is wrong.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Problem {
    /// A stable word.
    pub code: String,
    /// A sentence for people, with the remedy.
    pub message: String,
    /// For `no_capacity`, and for a picture with `busy`, `late` or `timeout`: what binds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Ceiling>,
    /// For `no_capacity` of `/api/v1/admission`: what the answer rests on.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub now: Option<Room>,
}

/// Everything that the API answers; a property for each kind of answer.
#[derive(JsonSchema)]
#[schemars(title = "weir.api/1")]
#[expect(dead_code, reason = "only its schema is used")]
struct Answers {
    cameras: Cameras,
    flow: Flow,
    devices: Devices,
    admission: Admitted,
    reload: Reloaded,
    infer: Inferred,
    infer_many: Parts,
    events: History,
    healthz: Health,
    readyz: Readiness,
    error: Refused,
}

/// The JSON Schema of all answers, as `weir config schema api` prints it.
pub fn schema() -> serde_json::Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<Answers>().to_value()
}

/// So many digits after the point.
pub(super) fn rounded(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_schema_is_fresh() {
        crate::event::assert_checked_in("weir.api-1.schema.json", &schema());
    }

    #[test]
    fn every_fate_has_its_count() {
        let ledger = crate::board::Ledger::default();
        for (fate, times) in Fate::ALL.into_iter().zip(1u64..) {
            for _ in 0..times {
                ledger.admit();
                ledger.settle(fate);
            }
        }
        let told = serde_json::to_value(Frames::from(&ledger.read())).unwrap();
        for (fate, times) in Fate::ALL.into_iter().zip(1u64..) {
            assert_eq!(told[fate.name()], times, "{}", fate.name());
        }
    }
}
