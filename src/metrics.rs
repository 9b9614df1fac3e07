//! Every metric name and label. Stages get small typed handles from here, resolved once; nothing else in the
//! program calls the `metrics` macros.
//!
//! [`install`] comes before everything that makes a handle: a handle made earlier counts nothing.
//!
//! | metric | type | from |
//! |---|---|---|
//! | `weir_frames_in_total{camera}`, `weir_frames_total{camera,fate}` | counter | the [`Board`]'s ledger |
//! | `weir_still_frames_total{camera}` | counter | the [`Board`] |
//! | `weir_queue_frames{camera}`, `weir_camera_online{camera}` | gauge | the [`Board`] |
//! | `weir_camera_attempts_total{camera}` | counter | the [`Board`] |
//! | `weir_decode_level{camera}` | gauge | the [`Board`] |
//! | `weir_stage_seconds{stage}` | histogram | [`stage`] |
//! | `weir_stage_cpu_seconds_total{stage}` | counter | [`preprocess_cpu`] |
//! | `weir_cpu_seconds_total{part}` | counter | [`crate::usage::Meter`]: threads by name |
//! | `weir_event_latency_seconds{camera}` | histogram | [`event_latency`] |
//! | `weir_batch_frames`, `weir_batch_wait_seconds` | histogram | [`batch_frames`], [`batch_wait`] |
//! | `weir_engine_busy_seconds_total` | counter | [`Lane::busy`] |
//! | `weir_slo_p95_seconds`, `weir_p95_seconds` | gauge | the target, and the last second's p95 of realtime frames |
//! | `weir_batch_wait_limit_seconds`, `weir_batch_limit_frames`, `weir_bulk_batch_limit_frames`, `weir_pace{reason}` | gauge | the pacer's decision |
//! | `weir_load_ratio`, `weir_service_seconds{frames}` | gauge | ρ, and S(b) |
//! | `weir_admission_load_ratio`, `weir_admission_capacity_fps`, `weir_admission{verdict}`, `weir_admission_ceiling{ceiling}`, `weir_decode_cores` | gauge | [`crate::admission`] |
//! | `weir_fair_fps{camera}` | gauge | what the engine gives a camera when all want what they want now |
//! | `weir_gpu_*{gpu}` | gauge | [`crate::device::accelerator`] |
//! | `weir_events_total{kind}` | counter | the outbox |
//! | `weir_outbox_backlog_events{sink}` | gauge | the outbox's cursors |
//! | `weir_outbox_lost_events_total{sink}` | counter | readers that were too slow |
//! | `weir_requests_total{class,outcome}`, `weir_requests_pending{class}`, `weir_request_frames_total{class,fate}` | counter, gauge, counter | the [`Board`]'s requests |
//! | `weir_video_viewers{camera}` | gauge | [`viewers`] |
//! | `weir_video_encoded_total{camera,codec}`, `weir_video_cut_off_total` | counter | `stage/show.rs`, `http/video.rs` |
//! | `weir_sse_clients`, `weir_sse_dropped_total` | gauge, counter | `http/sse.rs` |
//! | `weir_mqtt_connected`, `weir_mqtt_publishes_total{result}`, `weir_mqtt_errors_total{reason}` | | `sink/mqtt.rs` |
//! | `weir_engine_up{gpu}` | gauge | 1 for an engine that works, 0 for one that failed; only where there are several |
//! | `weir_build_info{version}` | gauge | always 1 |
//!
//! Where there are several engines, what is read of each has the label `gpu` too: `weir_engine_busy_seconds_total`, `weir_batch_frames`,
//! `weir_batch_wait_seconds`, `weir_batch_wait_limit_seconds`, `weir_batch_limit_frames`, `weir_bulk_batch_limit_frames`, `weir_pace`, `weir_p95_seconds`, `weir_load_ratio`,
//! `weir_service_seconds`. Where there is one engine none has it, so that what was built on these stays valid.
//!
//! [`Board`]: crate::board::Board
//! [`Lane::busy`]: crate::board::Lane::busy

mod board;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

pub use board::BoardGauges;
use board::GPU;
use metrics::{Counter, Gauge, Histogram, Label, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::config::Codec;
use crate::event::Kind;
use crate::fault::{Fault, Who};
use crate::outbox::Outbox;
use crate::usage::{Meter, Part};

/// From a table lookup to a second of a hung engine.
const STAGE_SECONDS: [f64; 14] =
    [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
/// 5 ms to 5 s, finest where the service objective usually lies.
const LATENCY_SECONDS: [f64; 13] =
    [0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0];
/// The engine's ladder of batch shapes.
const BATCH_FRAMES: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
/// A batch waits up to `max_wait_ms`, usually tens of milliseconds.
const WAIT_SECONDS: [f64; 9] = [1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25];

/// How much one bucket of [`fine`] histograms is wider than the one before.
const FINE_STEP: f64 = 1.1;
/// Where they begin and end, in seconds.
const FINE_SECONDS: (f64, f64) = (5e-5, 20.0);

static FINE: AtomicBool = AtomicBool::new(false);

/// From now on durations are counted in buckets that are 10 % wide, for who reads percentiles from them. Before [`install`] only; a
/// daemon that somebody scrapes does without: each camera would have 136 lines more.
pub fn fine() {
    FINE.store(true, Relaxed);
}

fn fine_buckets() -> Vec<f64> {
    let (first, last) = FINE_SECONDS;
    std::iter::successors(Some(first), |le| Some(le * FINE_STEP))
        .take_while(|le| *le < last * FINE_STEP)
        .collect()
}

/// Nanoseconds of CPU time in the preprocess. Apart from the recorder, whose counters hold whole numbers only.
static PREPROCESS_CPU: AtomicU64 = AtomicU64::new(0);

/// CPU time by part of the program.
static CPU: Mutex<Option<Meter>> = Mutex::new(None);

fn cpu_by_part() -> impl Iterator<Item = (Part, Duration)> {
    let mut meter = CPU.lock().unwrap_or_else(PoisonError::into_inner);
    meter.get_or_insert_default().look().into_iter().flatten()
}

/// Renders `/metrics`.
#[derive(Clone)]
pub struct Exporter(PrometheusHandle);

/// Installs the process's recorder. Later calls get the same one.
///
/// # Errors
/// Something else in this process has installed a recorder: a bug.
pub fn install() -> Result<Exporter, Fault> {
    static INSTALLED: OnceLock<Result<Exporter, String>> = OnceLock::new();
    let exporter = INSTALLED.get_or_init(|| {
        let fine = FINE.load(Relaxed).then(fine_buckets);
        let seconds = |usual: &'static [f64]| fine.as_deref().unwrap_or(usual);
        let buckets = [
            ("weir_stage_seconds", seconds(&STAGE_SECONDS)),
            ("weir_event_latency_seconds", seconds(&LATENCY_SECONDS)),
            ("weir_batch_frames", &BATCH_FRAMES),
            ("weir_batch_wait_seconds", seconds(&WAIT_SECONDS)),
        ];
        let mut builder = PrometheusBuilder::new();
        for (name, bounds) in buckets {
            builder = builder
                .set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds)
                .map_err(|e| e.to_string())?;
        }
        let handle = builder.install_recorder().map_err(|e| e.to_string())?;
        describe();
        gauge!("weir_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Exporter(handle))
    });
    exporter
        .clone()
        .map_err(|e| Fault::new(Who::Bug, "metrics", format!("cannot install the metrics recorder: {e}")))
}

fn describe() {
    use metrics::{describe_counter as c, describe_gauge as g, describe_histogram as h};
    c!("weir_frames_in_total", Unit::Count, "Frames that came in.");
    c!("weir_frames_total", Unit::Count, "Frames by what became of them; each has exactly one fate.");
    c!("weir_still_frames_total", Unit::Count, "Of the skipped frames: those that the motion gate left out.");
    g!("weir_queue_frames", Unit::Count, "Frames that wait, are in the engine or are being analysed.");
    g!("weir_camera_online", Unit::Count, "1 while decoded frames arrive, else 0.");
    c!("weir_camera_attempts_total", Unit::Count, "Pipelines built, the first attempt included.");
    g!(
        "weir_decode_level",
        Unit::Count,
        "What is decoded: 0 all, 1 references and what will be used, 2 key frames."
    );
    h!("weir_stage_seconds", Unit::Seconds, "Time that a stage works on one item.");
    h!("weir_event_latency_seconds", Unit::Seconds, "From a picture's arrival to its events.");
    h!("weir_batch_frames", Unit::Count, "Frames in a batch.");
    h!("weir_batch_wait_seconds", Unit::Seconds, "How long a frame waited for its batch.");
    g!(
        "weir_slo_p95_seconds",
        Unit::Seconds,
        "The target for the p95 of realtime frames, arrival to events."
    );
    g!(
        "weir_p95_seconds",
        Unit::Seconds,
        "That p95 over the last second, or of the last 20 frames of up to 8 seconds; NaN when there were fewer."
    );
    g!("weir_batch_wait_limit_seconds", Unit::Seconds, "The longest that a frame may wait for company now.");
    g!("weir_batch_limit_frames", Unit::Count, "The largest batch now.");
    g!(
        "weir_bulk_batch_limit_frames",
        Unit::Count,
        "The largest batch of bulk frames while realtime ones come."
    );
    g!("weir_pace", Unit::Count, "1 for the reason of the present limits, 0 for the others.");
    g!(
        "weir_load_ratio",
        "Frames that come over frames that the engine can take, at its largest useful batch."
    );
    g!(
        "weir_service_seconds",
        Unit::Seconds,
        "How long a batch of so many frames takes, preprocessing included."
    );
    g!(
        "weir_admission_load_ratio",
        Unit::Count,
        "Frames asked for over what the engine can take beside decoding; cameras fit up to 0.7."
    );
    g!("weir_admission_capacity_fps", Unit::Count, "Frames a second that fit at that limit.");
    g!("weir_admission", Unit::Count, "1 for the verdict on the cameras that run, 0 for the others.");
    g!("weir_admission_ceiling", Unit::Count, "1 for what binds first, 0 for the others.");
    g!("weir_decode_cores", Unit::Count, "CPU cores that receiving and decoding use.");
    g!("weir_fair_fps", Unit::Count, "Frames a second that the engine has for a camera.");
    for (name, unit, help, _) in GPU {
        g!(name, unit, help);
    }
    c!("weir_events_total", Unit::Count, "Events by kind.");
    g!("weir_outbox_backlog_events", Unit::Count, "Events that a sink has not taken yet.");
    c!("weir_outbox_lost_events_total", Unit::Count, "Events that left the log before a sink took them.");
    c!("weir_requests_total", Unit::Count, "Pictures sent by clients, by how their request ended.");
    g!(
        "weir_requests_pending",
        Unit::Count,
        "Pictures of clients that were let in and are not answered yet."
    );
    c!(
        "weir_request_frames_total",
        Unit::Count,
        "Pictures of clients that came to the batcher, by what became of them."
    );
    g!("weir_video_viewers", Unit::Count, "Who watches a camera: HTTP viewers and RTSP encodes.");
    c!("weir_video_encoded_total", Unit::Count, "Pictures given to a video encoder.");
    c!("weir_video_cut_off_total", Unit::Count, "Viewers that were cut off because they stopped reading.");
    g!("weir_sse_clients", Unit::Count, "Clients of the event stream.");
    c!(
        "weir_sse_dropped_total",
        Unit::Count,
        "Clients of the event stream that were cut off because they stopped reading."
    );
    g!("weir_mqtt_connected", Unit::Count, "1 while the broker has accepted us, else 0.");
    c!("weir_mqtt_publishes_total", Unit::Count, "Messages that the broker has answered, by its answer.");
    c!("weir_mqtt_errors_total", Unit::Count, "Lost or failed connections to the broker, by reason.");
    g!("weir_engine_up", Unit::Count, "1 for an engine that works, 0 for one that has failed.");
    g!("weir_build_info", Unit::Count, "Always 1; the labels say what runs.");
}

impl Exporter {
    /// The text exposition format 0.0.4. Board and outbox are read now, so that the page agrees with the API.
    pub fn render(&self, board: &BoardGauges, outbox: &Outbox) -> String {
        board.copy();
        for (sink, behind) in outbox.backlogs() {
            gauge!("weir_outbox_backlog_events", "sink" => sink).set(behind as f64);
        }
        let mut page = self.0.render();
        let cpu = Duration::from_nanos(PREPROCESS_CPU.load(Relaxed)).as_secs_f64();
        // Writing into a String cannot fail.
        page.push_str(
            "# HELP weir_engine_busy_seconds_total Time that the engine spent running batches.\n\
             # TYPE weir_engine_busy_seconds_total counter\n",
        );
        let flow = &board.board.flow;
        for (number, lane) in flow.lanes().iter().enumerate() {
            let label = flow.label(number).map_or_else(String::new, |gpu| format!("{{gpu=\"{gpu}\"}}"));
            let _ = writeln!(page, "weir_engine_busy_seconds_total{label} {}", lane.busy().as_secs_f64());
        }
        let _ = write!(
            page,
            "# HELP weir_stage_cpu_seconds_total CPU time of a stage that shares its thread with others.\n\
             # TYPE weir_stage_cpu_seconds_total counter\n\
             weir_stage_cpu_seconds_total{{stage=\"preprocess\"}} {cpu}\n\
             # HELP weir_cpu_seconds_total CPU time by part of the program; all of it is in one of them.\n\
             # TYPE weir_cpu_seconds_total counter\n"
        );
        for (part, used) in cpu_by_part() {
            let _ =
                writeln!(page, "weir_cpu_seconds_total{{part=\"{}\"}} {}", part.name(), used.as_secs_f64());
        }
        page
    }

    /// Folds recorded samples into their buckets. Without it they pile up while nobody scrapes: call it every few
    /// seconds.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
        // Threads that end between two scrapes are seen by this.
        cpu_by_part().for_each(drop);
    }
}

/// Records durations into one histogram.
#[derive(Clone)]
pub struct Timer(Histogram);

impl Timer {
    /// One more.
    pub fn record(&self, took: Duration) {
        self.0.record(took.as_secs_f64());
    }
}

/// How long `stage` works on one item; the name is that of the stage's file and thread.
pub fn stage(stage: &'static str) -> Timer {
    Timer(histogram!("weir_stage_seconds", "stage" => stage))
}

/// From a picture's arrival to its events, for one camera.
pub fn event_latency(camera: &str) -> Timer {
    Timer(histogram!("weir_event_latency_seconds", "camera" => camera.to_owned()))
}

/// The label `gpu`, where there are several engines.
fn of_gpu(gpu: Option<u32>) -> Vec<Label> {
    gpu.into_iter().map(|gpu| Label::new("gpu", gpu.to_string())).collect()
}

/// How long the oldest frame of a batch waited for company.
pub fn batch_wait(gpu: Option<u32>) -> Timer {
    Timer(histogram!("weir_batch_wait_seconds", of_gpu(gpu)))
}

/// Records the sizes of batches.
#[derive(Clone)]
pub struct Sizes(Histogram);

impl Sizes {
    /// One more batch of so many frames.
    pub fn record(&self, frames: usize) {
        self.0.record(frames as f64);
    }
}

/// Frames in a batch.
pub fn batch_frames(gpu: Option<u32>) -> Sizes {
    Sizes(histogram!("weir_batch_frames", of_gpu(gpu)))
}

/// The preprocess has used so much CPU time. Of the other stages the thread's own time says it; this one
/// shares its thread with the engine.
pub fn preprocess_cpu(used: Duration) {
    PREPROCESS_CPU.fetch_add(u64::try_from(used.as_nanos()).unwrap_or(u64::MAX), Relaxed);
}

/// Events by kind.
pub(crate) struct ByKind([Counter; Kind::ALL.len()]);

impl ByKind {
    pub(crate) fn new() -> Self {
        ByKind(Kind::ALL.map(|kind| counter!("weir_events_total", "kind" => kind.name())))
    }

    pub(crate) fn count(&self, kind: Kind) {
        self.0[kind as usize].increment(1);
    }
}

/// Events that left the log before `sink` took them.
pub(crate) fn outbox_lost(sink: &'static str) -> Counter {
    counter!("weir_outbox_lost_events_total", "sink" => sink)
}

/// What the event stream counts.
#[derive(Clone)]
pub(crate) struct Sse {
    pub(crate) clients: Gauge,
    pub(crate) dropped: Counter,
}

impl Sse {
    pub(crate) fn new() -> Self {
        Sse { clients: gauge!("weir_sse_clients"), dropped: counter!("weir_sse_dropped_total") }
    }
}

/// Who watches a camera.
pub(crate) struct Viewers(Gauge);

impl Viewers {
    pub(crate) fn come(&self) {
        self.0.increment(1);
    }

    pub(crate) fn go(&self) {
        self.0.decrement(1);
    }
}

/// Who watches this camera: nobody yet.
pub(crate) fn viewers(camera: &str) -> Viewers {
    let gauge = gauge!("weir_video_viewers", "camera" => camera.to_owned());
    gauge.set(0.0);
    Viewers(gauge)
}

/// What is encoded of a camera.
pub(crate) struct Encoded {
    pub(crate) jpeg: Counter,
    h264: Counter,
    h265: Counter,
}

impl Encoded {
    pub(crate) fn new(camera: &str) -> Self {
        let of = |codec: &'static str| counter!("weir_video_encoded_total", "camera" => camera.to_owned(), "codec" => codec);
        Encoded { jpeg: of("jpeg"), h264: of("h264"), h265: of("h265") }
    }

    pub(crate) fn of(&self, codec: Codec) -> &Counter {
        match codec {
            Codec::H264 => &self.h264,
            Codec::H265 => &self.h265,
        }
    }
}

/// Viewers that stopped reading.
pub(crate) fn viewers_cut_off() -> Counter {
    counter!("weir_video_cut_off_total")
}

/// What the MQTT sink counts.
pub(crate) struct Mqtt {
    pub(crate) connected: Gauge,
    pub(crate) acked: Counter,
    pub(crate) refused: Counter,
    pub(crate) lost: Counter,
}

impl Mqtt {
    pub(crate) fn new() -> Self {
        Mqtt {
            connected: gauge!("weir_mqtt_connected"),
            acked: counter!("weir_mqtt_publishes_total", "result" => "acked"),
            refused: counter!("weir_mqtt_publishes_total", "result" => "refused"),
            lost: outbox_lost("mqtt"),
        }
    }

    /// A connection was lost or could not be made. Rare, so that the lookup does not matter.
    pub(crate) fn error(&self, reason: &'static str) {
        counter!("weir_mqtt_errors_total", "reason" => reason).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::board::Board;
    use crate::clock::ManualClock;
    use crate::frame::CameraId;
    use crate::frame::Fate;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn page() -> String {
        let exporter = install().unwrap();
        let board = Arc::new(Board::new(["door".into()]));
        let gauges = BoardGauges::new(Arc::clone(&board));
        let card = board.camera(CameraId(0));
        for _ in 0..3 {
            card.ledger.admit();
        }
        card.ledger.settle(Fate::Inferred);
        card.ledger.settle(Fate::Stale);
        stage("infer").record(Duration::from_millis(30));
        event_latency("door").record(Duration::from_millis(60));
        batch_frames(None).record(4);
        batch_wait(None).record(Duration::from_millis(7));
        board.flow.lane(0).worked(Duration::from_millis(1_500));
        preprocess_cpu(Duration::from_millis(250));
        let mqtt = Mqtt::new();
        mqtt.error("refused");
        mqtt.acked.increment(1);
        let sse = Sse::new();
        sse.clients.set(0.0);
        let outbox = Outbox::new("node".into(), 10, Arc::new(ManualClock::new()));
        outbox.cursor("mqtt");
        exporter.render(&gauges, &outbox)
    }

    #[test]
    fn the_page_agrees_with_the_ledger() {
        let page = page();
        for line in [
            "weir_frames_in_total{camera=\"door\"} 3",
            "weir_frames_total{camera=\"door\",fate=\"inferred\"} 1",
            "weir_frames_total{camera=\"door\",fate=\"stale\"} 1",
            "weir_frames_total{camera=\"door\",fate=\"failed\"} 0",
            "weir_queue_frames{camera=\"door\"} 1",
            "weir_engine_busy_seconds_total 1.5",
            "weir_camera_online{camera=\"door\"} 0",
            "weir_stage_seconds_bucket{stage=\"infer\",le=\"0.05\"}",
            "weir_outbox_backlog_events{sink=\"mqtt\"} 0",
            "weir_stage_cpu_seconds_total{stage=\"preprocess\"} 0.",
            "weir_cpu_seconds_total{part=\"encode\"} ",
        ] {
            assert!(page.lines().any(|l| l.starts_with(line)), "no `{line}` in\n{page}");
        }
    }

    #[test]
    fn promtool_finds_nothing_to_say() {
        let Ok(mut tool) = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        else {
            println!("SKIPPED: no promtool (Debian package `prometheus`).");
            return;
        };
        tool.stdin.take().unwrap().write_all(page().as_bytes()).unwrap();
        let out = tool.wait_with_output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success() && said.trim().is_empty(), "{said}");
    }
}
