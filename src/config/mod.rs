//! Configuration: the file as written ([`mod@file`]) → [`Config`] checked ([`check`]). Stages see only the second.
//!
//! Every problem is reported at once, with file, line and a caret ([`problem`]); the checked types
//! hold no `Option` that is always set, and no secret that `Debug` would print. Every key is said once, in
//! [`keys`]: its type, range, default and meaning.

mod camera;
mod change;
mod check;
mod env;
mod file;
mod keys;
mod problem;
mod redact;
mod restream;
mod schema;
mod secret;
mod shape;
mod source;
mod syntax;
mod tenants;

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

pub use camera::{Camera, Hide, Line, Privacy, Rtsp, Source, Transport, Zone};
pub use change::{Changes, between};
pub use env::{Env, Stat, System};
pub use problem::{Problem, Report};

/// The checked configuration of one daemon.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[node] name`: in every event and MQTT topic. Default: the host's name.
    pub node: Arc<str>,
    /// `[model]`.
    pub model: Model,
    /// `[infer]`.
    pub infer: Infer,
    /// `[batcher]`.
    pub batcher: Batcher,
    /// `[track]`.
    pub track: Track,
    /// `[events]`.
    pub events: Events,
    /// `[http]`.
    pub http: Http,
    /// `[tenants.NAME]`, in the order of the file; none: requests need no tenant.
    pub tenants: Vec<Tenant>,
    /// `[mqtt]`; absent: no broker.
    pub mqtt: Option<Mqtt>,
    /// `[video]`.
    pub video: Video,
    /// `[rtsp_server]`; absent: no RTSP out.
    pub rtsp_server: Option<RtspServer>,
    /// `[log]`.
    pub log: Log,
    /// `[shutdown] grace_ms`: how long a stop may take before the process exits anyway. Default 10 s.
    pub grace: Duration,
    /// `[cameras.NAME]`, in the order of the file. [`crate::frame::CameraId`] is the index for those that are there at start.
    pub cameras: Vec<Camera>,
}

impl Config {
    /// Reads and checks a file, with all that it names: secrets, the model's files, videos. Returns the
    /// warnings too.
    ///
    /// # Errors
    /// Every problem of the file at once, with places and remedies. No secret is in it.
    pub fn load(path: &Path, env: &dyn Env) -> Result<(Config, Vec<Problem>), Report> {
        let name = file::printable(&path.display().to_string());
        let unreadable = |why: &str, help: &str| {
            let mut problems = problem::Problems::new(&name, String::new());
            problems.whole(format!("cannot read {name}: {why}")).help(help);
            problems.report()
        };
        let bytes = env.read_file(path).map_err(|error| {
            let help = match error.kind() {
                std::io::ErrorKind::NotFound => "`weir config reference` prints every key to start from",
                std::io::ErrorKind::PermissionDenied => "the user that runs weir must be able to read it",
                _ => "-c FILE names the configuration file",
            };
            unreadable(&check::why(&error), help)
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1;
            unreadable(&format!("line {line} is not UTF-8"), "TOML is UTF-8 text: save it as that")
        })?;

        let (doc, errors) = toml::de::DeTable::parse_recoverable(&text);
        let mut problems = problem::Problems::new(&name, redact::redact(&text, doc.get_ref()));
        let whole = syntax::report(&text, &errors, &mut problems);
        let written = file::read(&keys::ROOT, doc.get_ref(), !whole, &mut problems);
        let base = path.parent().unwrap_or(Path::new(""));
        // Where the text is not TOML, what is missing may only be hidden: say nothing of it.
        let config = whole
            .then(|| check::config(&mut check::Check { env, base, problems: &mut problems }, &written))
            .flatten();
        match config {
            Some(config) if !problems.any_error() => Ok((config, problems.sorted())),
            _ => Err(problems.report()),
        }
    }
}

/// The text of `config/reference.toml`: every key with its meaning, range and default.
pub fn reference() -> String {
    schema::reference(&keys::ROOT)
}

/// `[model]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The `.onnx` file. From `path`, or found by `name` in `[model] dirs`.
    pub file: PathBuf,
    /// The `model.toml` that describes it.
    pub manifest: PathBuf,
    /// Report only these labels; empty: all.
    pub classes: Vec<String>,
}

/// `[infer]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Infer {
    /// `onnxruntime = "…/libonnxruntime.so"`; absent: searched where `weir --help` says.
    pub onnxruntime: Option<PathBuf>,
    /// `execution`: what runs the network. Default cpu.
    pub execution: Execution,
    /// `gpus`: those that cuda uses, as CUDA counts them; `None`: all that can.
    pub gpus: Option<Vec<u32>>,
    /// `openvino = "…/libonnxruntime_providers_openvino_plugin.so"`; absent: searched as ONNX Runtime is.
    pub openvino: Option<PathBuf>,
    /// `tensorrt_rtx = "…/libonnxruntime_providers_nv_tensorrt_rtx.so"`; absent: searched as OpenVINO is.
    pub tensorrt_rtx: Option<PathBuf>,
    /// `engine_cache`: where TensorRT's engines are kept. Default: `engines` in [`cache_dir`].
    pub engine_cache: PathBuf,
    /// Threads in one engine run; 0: the device's own choice, which is the default.
    pub threads: usize,
}

/// What may run the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// ONNX Runtime itself.
    Cpu,
    /// OpenVINO, as ONNX Runtime's plugin.
    OpenVino,
    /// ONNX Runtime's CUDA provider, fed by NVDEC: all pixels stay on the GPU.
    Cuda,
    /// The same with TensorRT, which compiles the network for this GPU.
    TensorRt,
    /// The same with TensorRT for RTX, as ONNX Runtime's plugin.
    TensorRtRtx,
}

impl Provider {
    /// Are pictures in the memory of an NVIDIA GPU then?
    pub const fn is_nvidia(self) -> bool {
        matches!(self, Provider::Cuda | Provider::TensorRt | Provider::TensorRtRtx)
    }
}

impl std::fmt::Display for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Provider::Cpu => "cpu",
            Provider::OpenVino => "openvino",
            Provider::Cuda => "cuda",
            Provider::TensorRt => "tensorrt",
            Provider::TensorRtRtx => "tensorrt-rtx",
        })
    }
}

/// `execution`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Execution {
    /// All that are here are measured at start; the fastest one runs.
    Auto,
    /// The first of these that works; at least one.
    Order(Vec<Provider>),
}

impl std::fmt::Display for Execution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Execution::Auto => f.write_str("auto"),
            Execution::Order(order) => {
                let names: Vec<String> = order.iter().map(ToString::to_string).collect();
                f.write_str(&names.join(", then "))
            }
        }
    }
}

/// `[batcher]`: the mission's own keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Batcher {
    /// The largest batch, 1..=64. Default 32.
    pub max_batch_frames: usize,
    /// The longest that a frame may wait for company. Default 30 ms.
    pub max_wait: Duration,
    /// The target for the p95 of realtime frames, from arrival to events. Default 100 ms.
    pub slo_p95: Duration,
    /// The part of the engine that bulk cameras get when realtime ones could take all, 0..=1. Default 0.05.
    pub bulk_share: f32,
}

/// What a camera gives up when the engine cannot keep up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropPolicy {
    /// Throws away what waited longest: when its turn comes, a camera sends its newest frame and
    /// everything older is lost. Lowest latency; gaps come in bursts.
    #[default]
    Oldest,
    /// Thins the camera to an even lower rate: when its turn comes, it sends frames spread evenly over all that
    /// wait, the newest among them. Even gaps (good for tracking); more latency where it has several slots a batch.
    SkipFrame,
}

/// Whose frames go first.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before all `bulk` frames; its p95 is what `slo_p95_ms` promises.
    #[default]
    Realtime,
    /// Takes what realtime leaves, and at least `bulk_share`.
    Bulk,
}

impl Priority {
    /// The word of configuration, API and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Priority::Realtime => "realtime",
            Priority::Bulk => "bulk",
        }
    }
}

/// `[track]`: settings of the tracker.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    /// Detections from here on are matched first and may start tracks, 0..=1. Default 0.5.
    pub high_score: f32,
    /// Detections between this and `high_score` only continue tracks. Default 0.1.
    pub low_score: f32,
    /// A new track is announced after this many frames in a row. Default 3.
    pub confirm_frames: u32,
    /// A track that was not seen for this long has ended. Default 1 s.
    pub lost: Duration,
}

/// `[events]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Events {
    /// At most one `track.updated` a track in this time. Default 1 s.
    pub update_interval: Duration,
    /// How many events the log keeps for readers that are behind, 1 000..=10 000 000. Default 100 000.
    pub keep: usize,
}

/// `[http]`.
#[derive(Clone, Debug)]
pub struct Http {
    /// Default 127.0.0.1:8080.
    pub bind: SocketAddr,
    /// Subscribers to the event stream at a time. Default 1 000.
    pub max_sse_clients: usize,
    /// A comment line this often keeps proxies from closing a quiet stream. Default 15 s.
    pub sse_heartbeat: Duration,
    /// Pictures of clients that wait for their answer at a time, 1..=4096. Default 64.
    pub max_pending_requests: usize,
    /// The largest file of a client. Default 8 000 000 bytes.
    pub max_image_bytes: usize,
    /// The largest picture of a client. Default 16 000 000 pixels.
    pub max_image_pixels: u64,
    /// What clients must know to have pictures inferred, from the environment or a file.
    pub token: Option<SecretString>,
}

/// `[tenants.NAME]`: a group of clients and cameras.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    /// As in `?tenant=`.
    pub name: String,
    /// Its pictures that wait for their answer at a time; absent: as many as all together may have.
    pub max_pending_requests: Option<usize>,
    /// Its pictures a second; absent: no limit.
    pub max_fps: Option<f64>,
    /// Its cameras; absent: no limit.
    pub max_cameras: Option<usize>,
    /// Inferred frames a second of its cameras together, in their `max_fps` already; absent: no limit.
    pub max_camera_fps: Option<f64>,
}

/// `[mqtt]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mqtt {
    /// From `url = "mqtt://HOST:PORT"` or `mqtts://`.
    pub host: String,
    /// Default 1883, or 8883 with TLS.
    pub port: u16,
    /// `mqtts://`.
    pub tls: Option<MqttTls>,
    /// Default `weir-NODE`.
    pub client_id: String,
    /// Name and password, from the environment or a file.
    pub login: Option<Login>,
    /// First part of each topic. Default `weir`.
    pub prefix: String,
    /// Events sent and not yet acknowledged at a time, 1..=1000. Default 100.
    pub max_inflight: u16,
}

/// TLS towards the broker. The host name is always verified.
#[derive(Clone, Debug, PartialEq)]
pub struct MqttTls {
    /// A PEM file with the CA to trust; absent: the system's.
    pub ca_file: Option<PathBuf>,
}

/// A user and a password that no `Debug` prints.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: SecretString,
}

impl PartialEq for Login {
    fn eq(&self, other: &Self) -> bool {
        self.user == other.user && self.password.expose_secret() == other.password.expose_secret()
    }
}

/// `[video]`: pictures for people.
#[derive(Clone, Debug, PartialEq)]
pub struct Video {
    /// Who may watch at a time, all cameras together. Default 64.
    pub max_viewers: usize,
    /// 1..=100. Default 80.
    pub jpeg_quality: u32,
    /// How much of its past a track's trail shows; zero: none. Default 1.5 s.
    pub trail: Duration,
    /// How it is painted.
    pub style: Style,
}

/// What is painted over pictures, and how large.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Style {
    /// `line_width`: how thick the lines of boxes are, in thousandths of the picture's height. Default 2.8.
    pub line: f32,
    /// `label_size`: how high letters are, in thousandths of the picture's height. Default 28.
    pub text: f32,
    /// `labels`: name, number and score beside each box. Default true.
    pub labels: bool,
    /// `camera_name`: in the upper left corner. Default true.
    pub name: bool,
    /// `clock`: when the frame arrived, in the upper right corner. Default true.
    pub clock: bool,
}

impl Default for Style {
    fn default() -> Self {
        Style { line: 2.8, text: 28.0, labels: true, name: true, clock: true }
    }
}

/// `[cameras.NAME.restream]`, and `[rtsp_server]` for what is not written there: a camera's way out by RTSP.
#[derive(Clone, Debug, PartialEq)]
pub struct Restream {
    /// `codec`. Default H.264.
    pub codec: Codec,
    /// `bitrate_kbps`. Default 4000.
    pub bitrate: u32,
    /// `max_width`: pictures that are wider are shrunk to so many columns; absent: never.
    pub width: Option<u32>,
    /// `max_fps`: the most pictures a second; absent: as they come.
    pub max_fps: Option<f32>,
    /// `always`: encoded also while nobody watches. Default false.
    pub always: bool,
    /// `show`. Default analysed.
    pub show: Show,
    /// `raw`: the camera's own stream at /NAME/raw. Default true.
    pub raw: bool,
    /// `raw_shows_hidden`: even though it shows what masks and `hide` cover. Default false.
    pub raw_shows_hidden: bool,
}

impl Default for Restream {
    fn default() -> Self {
        Restream {
            codec: Codec::H264,
            bitrate: 4000,
            width: None,
            max_fps: None,
            always: false,
            show: Show::Analysed,
            raw: true,
            raw_shows_hidden: false,
        }
    }
}

/// What video is encoded as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// H.264, which everything plays.
    #[default]
    H264,
    /// H.265: half the bits, and much more work without hardware.
    H265,
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Codec::H264 => "H.264",
            Codec::H265 => "H.265",
        })
    }
}

/// Which frames are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Show {
    /// Those that were analysed, with what was seen on them.
    #[default]
    Analysed,
    /// All, at the camera's rate: those that were not analysed carry the boxes of the last one that was, marked as such.
    All,
}

/// `[rtsp_server]`.
#[derive(Clone, Debug, PartialEq)]
pub struct RtspServer {
    /// Default 127.0.0.1:8554.
    pub bind: SocketAddr,
    /// GStreamer's names of encoders, the best first; at least one.
    pub encoders: Vec<String>,
    /// Cameras that are encoded at a time. Default 16.
    pub max_streams: usize,
    /// Whoever watches must know it (digest authentication); absent: anybody may watch.
    pub login: Option<Login>,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// `human`, `json`, `journald`; `auto` takes human on a terminal, journald under systemd, else JSON.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or filters such as `weir::stage=debug`.
    pub level: String,
}

/// See [`Log::format`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// By where standard error goes.
    #[default]
    Auto,
    /// Coloured lines.
    Human,
    /// One JSON object a line.
    Json,
    /// Native fields to the journal.
    Journald,
}

/// Where `cargo xtask setup` puts what it fetches: `$WEIR_CACHE`, else `$XDG_CACHE_HOME/weir`, else `~/.cache/weir`.
pub fn cache_dir() -> PathBuf {
    env::cache_dir(&System)
}
