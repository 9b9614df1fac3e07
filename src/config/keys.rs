//! Every key of the configuration file: name, kind, range, default and meaning. Said here and nowhere else.
//!
//! A check that needs more than one key, or the world outside, is in [`check`](super::check).

mod camera;

use super::schema::Absent::{Default, Optional, Required};
use super::schema::Kind::{
    self, Bool, Float, Int, Named, Params, Points, Refused, Text, Texts, Word, WordOrInts, Words,
};
use super::schema::{Absent, Key, Table};
use camera::CAMERA;

const fn key(name: &'static str, kind: Kind, absent: Absent, doc: &'static str) -> Key {
    Key::new(name, kind, absent, doc)
}

const fn table(name: &'static str, table: &'static Table) -> Key {
    Key::new(name, Kind::Table(table), Default(""), "")
}

/// The whole file.
pub static ROOT: Table = Table {
    doc: "Every key of weir's configuration, with its default or an example.
`weir config reference` prints this file; `weir check -c FILE` checks yours.

A line that begins with # and no space is a key that has no default: take the # away and edit it.
Relative paths start at the folder of the configuration file.",
    keys: &[
        table("node", &NODE),
        table("model", &MODEL),
        table("infer", &INFER),
        table("batcher", &BATCHER),
        table("track", &TRACK),
        table("events", &EVENTS),
        table("http", &HTTP),
        key("tenants", Named("tenant", &TENANT), Optional("lab"), ""),
        key("mqtt", Kind::Table(&MQTT), Optional(""), ""),
        table("video", &VIDEO),
        key("rtsp_server", Kind::Table(&RTSP_SERVER), Optional(""), ""),
        table("log", &LOG),
        table("shutdown", &SHUTDOWN),
        key("cameras", Named("camera", &CAMERA), Required("porch"), ""),
    ],
};

static NODE: Table = Table {
    doc: "This box.",
    keys: &[key(
        "name",
        Text,
        Optional("\"edge-1\""),
        "Stands in every event and in MQTT topics: letters, digits, `.`, `_` and `-`.
When it is not written: the host's name.",
    )],
};

static MODEL: Table = Table {
    doc: "The detector. Either `name`, or `path` for a file of your own.",
    keys: &[
        key(
            "name",
            Text,
            Optional("\"coco-ssd\""),
            "A model by name. DIR/NAME/model.toml in one of `dirs` describes it; its weights are
DIR/NAME/NAME.onnx, or models/NAME.onnx in $WEIR_CACHE or ~/.cache/weir.",
        ),
        key("path", Text, Optional("\"my-detector.onnx\""), "Any ONNX file."),
        key(
            "manifest",
            Text,
            Optional("\"my-detector.toml\""),
            "What describes `path`: input, output family, labels. `weir model inspect FILE` drafts one.
When it is not written: the file with .toml for .onnx, or model.toml beside it.",
        ),
        key(
            "dirs",
            Texts,
            Default("[\"models\", \"/usr/share/weir/models\"]"),
            "Where `name` is looked for.",
        ),
        key("classes", Texts, Default("[]"), "Report only these labels; an empty list means all."),
    ],
};

static INFER: Table = Table {
    doc: "The engine that runs the detector.",
    keys: &[
        key(
            "onnxruntime",
            Text,
            Optional("\"/usr/lib/libonnxruntime.so\""),
            "The ONNX Runtime library. When it is not written, it is searched where `weir --help` says.",
        ),
        key(
            "execution",
            Words(&["auto", "cpu", "openvino", "cuda", "tensorrt", "tensorrt-rtx"]),
            Default("\"cpu\""),
            "What runs the network. cpu: ONNX Runtime itself. openvino: Intel's plugin, for Intel processors.
cuda: an NVIDIA GPU, which then decodes too; `onnxruntime` must be the library of the PyPI wheel onnxruntime-gpu.
tensorrt, tensorrt-rtx: the same with NVIDIA's compiler; the first start builds an engine for each batch size, which takes minutes
(`weir model build` does it ahead).
A list is an order of preference, as [\"openvino\", \"cpu\"]; what is not in it is never used.
auto: all that are here are measured at start with this model, and the fastest one runs.
Each must compute what cpu computes. The log says at start what was asked for and what was got.",
        ),
        key(
            "openvino",
            Text,
            Optional("\"/usr/lib/weir/openvino/libonnxruntime_providers_openvino_plugin.so\""),
            "OpenVINO's plugin. When it is not written: lib/weir/openvino beside the program's folder, then openvino
in $WEIR_CACHE or ~/.cache/weir, where `cargo xtask setup --openvino` puts it.",
        ),
        key(
            "tensorrt_rtx",
            Text,
            Optional("\"/usr/lib/weir/tensorrt-rtx/libonnxruntime_providers_nv_tensorrt_rtx.so\""),
            "TensorRT-RTX's plugin, of the PyPI wheel onnxruntime-ep-nv-tensorrt-rtx-cu13, with its other libraries beside it. When it is not
written: lib/weir/tensorrt-rtx beside the program's folder, then tensorrt-rtx in $WEIR_CACHE or ~/.cache/weir.",
        ),
        key(
            "engine_cache",
            Text,
            Optional("\"/var/cache/weir/engines\""),
            "Where TensorRT's engines are kept, by model, driver and GPU. Made with mode 0700; one that others can write to is refused, since engines
are code. When it is not written: engines in $WEIR_CACHE or ~/.cache/weir.",
        ),
        key(
            "gpus",
            WordOrInts("all", 0, 63),
            Default("\"all\""),
            "Which GPUs cuda uses, as CUDA counts them (nvidia-smi's order with CUDA_DEVICE_ORDER=PCI_BUS_ID). Each has an
engine of its own, and cameras are spread over them; frames never cross from one to another.
all: those that are here and can run the model. One that is listed must be here.",
        ),
        key(
            "threads",
            Int(0, 256),
            Default("0"),
            "Threads in one run of the engine; 0 takes them from the machine.",
        ),
    ],
};

const MAX_RING: i64 = 10_000;

static BATCHER: Table = Table {
    doc: "Frames of all cameras share batches.",
    keys: &[
        key("max_batch_frames", Int(1, 64), Default("32"), "The largest batch."),
        key(
            "slo_p95_ms",
            Int(1, 60_000),
            Default("100"),
            "The target: 95 of 100 realtime frames have their events so soon after their arrival. Waits and batches
are kept as large as it allows. GET /api/v1/flow says how that goes.",
        ),
        key(
            "max_wait_ms",
            Int(0, 10_000),
            Default("30"),
            "The longest that a frame may wait for company. It waits only where that pays.",
        ),
        key(
            "drop_policy",
            Word(&["oldest", "skip-frame"]),
            Default("\"oldest\""),
            "What a camera gives up when the engine cannot keep up.
oldest: its turn sends the newest frames, all older ones are lost. Lowest latency, gaps in bursts.
skip-frame: its turn sends frames spread evenly over those that wait. Even gaps; more latency where
a camera has several slots in a batch.",
        ),
        key(
            "backlog_frames",
            Int(1, 100),
            Default("3"),
            "A backlog that stands for so many of a camera's frame intervals is overload, a shorter one a burst.",
        ),
        key(
            "bulk_share",
            Float(0.0, 1.0),
            Default("0.05"),
            "The part of the engine that cameras with priority = \"bulk\" get when the others could take all of it.
Otherwise they take what is left.",
        ),
        key(
            "ring_buffer_ms",
            Int(10, MAX_RING),
            Default("300"),
            "How much of a camera's newest past is kept for the batcher.",
        ),
    ],
};

static TRACK: Table = Table {
    doc: "The tracker (ByteTrack).",
    keys: &[
        key(
            "high_score",
            Float(0.0, 1.0),
            Default("0.5"),
            "Detections from here on are matched first and may start tracks.",
        ),
        key(
            "low_score",
            Float(0.0, 1.0),
            Default("0.1"),
            "Detections between this and `high_score` only continue tracks.",
        ),
        key(
            "confirm_frames",
            Int(1, 100),
            Default("3"),
            "A new track is announced after this many frames in a row.",
        ),
        key("lost_ms", Int(1, 60_000), Default("1000"), "A track that was not seen for this long has ended."),
    ],
};

static EVENTS: Table = Table {
    doc: "The event log.",
    keys: &[
        key(
            "update_interval_ms",
            Int(0, 3_600_000),
            Default("1000"),
            "At most one `track.updated` a track in this time.",
        ),
        key(
            "keep",
            Int(1_000, 10_000_000),
            Default("100000"),
            "How many events are kept for readers that are behind.",
        ),
    ],
};

static HTTP: Table = Table {
    doc: "Health, metrics, API and the event stream.",
    keys: &[
        key(
            "bind",
            Text,
            Default("\"127.0.0.1:8080\""),
            "IP address and port. Reading needs no authentication: put a proxy in front of other addresses.",
        ),
        key(
            "max_sse_clients",
            Int(1, 100_000),
            Default("1000"),
            "Subscribers to the event stream at a time.",
        ),
        key(
            "sse_heartbeat_s",
            Int(1, 3_600),
            Default("15"),
            "A comment line this often keeps proxies from closing a quiet stream.",
        ),
        key(
            "max_pending_requests",
            Int(1, 4_096),
            Default("64"),
            "Pictures sent to /api/v1/infer that wait for their answer at a time. One more gets 503 with Retry-After.",
        ),
        key("max_image_mb", Int(1, 100), Default("8"), "The largest file sent there, in units of 1 000 000 bytes."),
        key(
            "max_image_megapixels",
            Int(1, 200),
            Default("16"),
            "The largest picture sent there, in units of 1 000 000 pixels.",
        ),
        key(
            "token_env",
            Text,
            Optional("\"WEIR_TOKEN\""),
            "The environment variable that holds a token. With one, POST /api/v1/infer and /api/v1/reload need `Authorization: Bearer TOKEN`.
Without one it answers on loopback addresses only.",
        ),
        key(
            "token_file",
            Text,
            Optional("\"http-token\""),
            "The file that holds the token, readable by weir only.
A relative path is looked up in $CREDENTIALS_DIRECTORY (systemd LoadCredential=) first.",
        ),
        key("token", Refused(NO_TOKEN), Optional(""), ""),
    ],
};

static TENANT: Table = Table {
    doc: "A group of cameras, and of clients of /api/v1/infer, which send ?tenant=NAME. With one such table, requests without a known
tenant are refused. Whoever is above the limits of requests gets 429 with Retry-After.",
    keys: &[
        key("max_pending_requests", Int(1, 4_096), Optional("16"), "Its pictures that wait for their answer at a time."),
        key(
            "max_fps",
            Float(0.01, 10_000.0),
            Optional("5.0"),
            "Its pictures a second on average; a second's worth may come at once.",
        ),
        key("max_cameras", Int(0, 100_000), Optional("8"), "Cameras that say `tenant = \"NAME\"`."),
        key(
            "max_camera_fps",
            Float(0.01, 1_000_000.0),
            Optional("80.0"),
            "Inferred frames a second of all its cameras together, divided among them by weight.",
        ),
    ],
};

const PASSWORD_ENV: &str = "The environment variable that holds the password.";
const PASSWORD_FILE: &str = "The file that holds the password, readable by weir only.
A relative path is looked up in $CREDENTIALS_DIRECTORY (systemd LoadCredential=) first.";
const NO_TOKEN: &str =
    "put it in a file and write token_file = \"PATH\",\nor in the environment and write token_env = \"NAME\"";
const NO_PASSWORD: &str = "put it in a file and write password_file = \"PATH\",\nor in the environment and write password_env = \"NAME\"";

static MQTT: Table = Table {
    doc: "Events to an MQTT broker. Without this table there is none.",
    keys: &[
        key(
            "url",
            Text,
            Required("\"mqtt://localhost:1883\""),
            "mqtt://HOST[:PORT], or mqtts:// for TLS. Ports: 1883, or 8883 with TLS.",
        ),
        key(
            "ca_file",
            Text,
            Optional("\"ca.pem\""),
            "Only for mqtts://: a PEM file with the CA to trust. When it is not written: the system's.",
        ),
        key("client_id", Text, Optional("\"weir-edge-1\""), "When it is not written: weir-NODE."),
        key("user", Text, Optional("\"weir\""), "The user; needs a password from one of the next two keys."),
        key("password_env", Text, Optional("\"MQTT_PASSWORD\""), PASSWORD_ENV),
        key("password_file", Text, Optional("\"mqtt-password\""), PASSWORD_FILE),
        key("password", Refused(NO_PASSWORD), Optional(""), ""),
        key(
            "prefix",
            Text,
            Default("\"weir\""),
            "First part of each topic: PREFIX/NODE/cameras/NAME/events.",
        ),
        key("max_inflight", Int(1, 1_000), Default("100"), "Events sent and not yet acknowledged at a time."),
    ],
};

static VIDEO: Table = Table {
    doc: "Pictures for people: the dashboard, snapshot.jpg and stream.mjpg. Nothing is painted or encoded while nobody watches.
What is painted is the same for RTSP.",
    keys: &[
        key(
            "max_viewers",
            Int(1, 200),
            Default("64"),
            "Who may watch over HTTP at a time. One more gets 503 with Retry-After.",
        ),
        key("jpeg_quality", Int(1, 100), Default("80"), "Of JPEG; more is sharper and larger."),
        key(
            "trail_ms",
            Int(0, 60_000),
            Default("1500"),
            "How much of its past the trail behind an object shows; 0 shows none.",
        ),
        key(
            "line_width",
            Float(0.5, 50.0),
            Default("2.8"),
            "How thick the lines of boxes are, in thousandths of the picture's height; never less than two pixels.",
        ),
        key(
            "label_size",
            Float(5.0, 200.0),
            Default("28"),
            "How high the letters are, in thousandths of the picture's height; never less than 13 pixels.",
        ),
        key(
            "labels",
            Bool,
            Default("true"),
            "Name, number and score beside each box. In a crowd those that would cover another label are left out.",
        ),
        key("camera_name", Bool, Default("true"), "The camera's name in the upper left corner."),
        key("clock", Bool, Default("true"), "When the frame arrived, in UTC, in the upper right corner."),
    ],
};

const CODEC: &str = "h264 plays everywhere. h265 needs half the bits and, without hardware, several times the work; where no encoder for it works,
H.264 is sent, and the log says so.";
const BITRATE: &str = "Of one camera's stream.";
const MAX_WIDTH: &str = "Wider pictures are shrunk to so many columns.";
const OUT_FPS: &str = "The most pictures a second, evenly spaced. When it is not written: as they come.";
const ALWAYS: &str = "true: encoded also while nobody watches, so that who comes waits for nothing.";
const SHOW: &str = "analysed: a frame that was not analysed is not shown, so boxes never lag.
all: those are shown too, at the camera's rate; they carry the corners of the last boxes, for up to a second. All frames are decoded then.
A camera with `hide` shows analysed ones only: where nobody looked, nobody can be hidden.";
const RAW: &str = "The camera's own stream, not decoded, at rtsp://HOST:PORT/NAME/raw: what it sends, without a second connection to it.
Cameras with masks or `hide` refuse that: see raw_shows_hidden.";

static RTSP_SERVER: Table = Table {
    doc: "Annotated video at rtsp://HOST:PORT/NAME, over TCP and UDP. Without this table there is none.",
    keys: &[
        key(
            "bind",
            Text,
            Default("\"127.0.0.1:8554\""),
            "IP address and port. Other addresses than loopback need `user`.",
        ),
        key("user", Text, Optional("\"viewer\""), "Whom to let watch; needs a password from one of the next two keys."),
        key("password_env", Text, Optional("\"RTSP_PASSWORD\""), PASSWORD_ENV),
        key("password_file", Text, Optional("\"rtsp-password\""), PASSWORD_FILE),
        key("password", Refused(NO_PASSWORD), Optional(""), ""),
        key(
            "encoders",
            Words(&[
                "nvh264enc",
                "vah264enc",
                "qsvh264enc",
                "v4l2h264enc",
                "x264enc",
                "openh264enc",
                "nvh265enc",
                "vah265enc",
                "qsvh265enc",
                "v4l2h265enc",
                "x265enc",
            ]),
            Default("[\"nvh264enc\", \"vah264enc\", \"qsvh264enc\", \"v4l2h264enc\", \"x264enc\", \"openh264enc\", \"nvh265enc\", \"vah265enc\", \"qsvh265enc\", \"v4l2h265enc\", \"x265enc\"]"),
            "GStreamer's encoders in order of preference. Each of a codec that is used encodes a picture at start; the first that can is used.
The log and GET /api/v1/devices say which, and why not those before it.",
        ),
        key("max_streams", Int(1, 256), Default("16"), "Cameras that are encoded at a time. One more gets 503."),
        key("codec", Word(&["h264", "h265"]), Default("\"h264\""), CODEC),
        key("bitrate_kbps", Int(100, 100_000), Default("4000"), BITRATE),
        key("max_width", Int(64, 8_192), Optional("1280"), MAX_WIDTH),
        key("max_fps", Float(0.1, 240.0), Optional("10.0"), OUT_FPS),
        key("always", Bool, Default("false"), ALWAYS),
        key("show", Word(&["analysed", "all"]), Default("\"analysed\""), SHOW),
        key("raw", Bool, Default("true"), RAW),
    ],
};

static RESTREAM: Table = Table {
    doc: "This camera's way out by RTSP, where it differs from [rtsp_server].",
    keys: &[
        key("codec", Word(&["h264", "h265"]), Optional("\"h265\""), CODEC),
        key("bitrate_kbps", Int(100, 100_000), Optional("2000"), BITRATE),
        key("max_width", Int(64, 8_192), Optional("960"), MAX_WIDTH),
        key("max_fps", Float(0.1, 240.0), Optional("5.0"), OUT_FPS),
        key("always", Bool, Optional("true"), ALWAYS),
        key("show", Word(&["analysed", "all"]), Optional("\"all\""), SHOW),
        key("raw", Bool, Optional("false"), RAW),
        key(
            "raw_shows_hidden",
            Bool,
            Default("false"),
            "true: /NAME/raw is there although this camera has masks or `hide`, which cannot be painted into it: who watches it sees
everything.",
        ),
    ],
};

static LOG: Table = Table {
    doc: "The log, on standard error.",
    keys: &[
        key(
            "format",
            Word(&["auto", "human", "json", "journald"]),
            Default("\"auto\""),
            "auto: human on a terminal, journald under systemd, else json.",
        ),
        key(
            "level",
            Text,
            Default("\"info\""),
            "error, warn, info, debug or trace, or filters such as \"info,weir::stage=debug\".
The environment variable WEIR_LOG overrides it.",
        ),
    ],
};

static SHUTDOWN: Table = Table {
    doc: "Stopping.",
    keys: &[key(
        "grace_ms",
        Int(100, 600_000),
        Default("10000"),
        "How long a stop may take before the process exits anyway.",
    )],
};
