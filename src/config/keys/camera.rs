//! The keys of a camera, of its zones, lines and masks.

use super::*;

const RTSP: &[&str] = &["rtsp", "rtsps"];

pub(super) static CAMERA: Table = Table {
    doc: "A camera. The name is yours: a to z, 0 to 9, `_` and `-`, up to 64. Write one such table a camera.",
    keys: &[
        key(
            "source",
            Text,
            Required("\"rtsp://192.0.2.10/stream1\""),
            "rtsp://HOST[:PORT]/PATH, or rtsps:// for TLS
file:PATH            a video file
v4l2:/dev/videoN     a camera on USB
pipeline:NAME        pipelines/NAME.pipe, a GStreamer description",
        ),
        key(
            "transport",
            Word(&["tcp", "udp", "auto"]),
            Default("\"tcp\""),
            "tcp: inside the RTSP connection. udp: datagrams. auto: UDP first, TCP when nothing arrives.",
        )
        .only(RTSP),
        key(
            "latency_ms",
            Int(0, 10_000),
            Default("100"),
            "How long the jitter buffer may hold a packet back.",
        )
        .only(RTSP),
        key(
            "user",
            Text,
            Optional("\"viewer\""),
            "The user; needs a password from one of the next two keys.",
        )
        .only(RTSP),
        key("password_env", Text, Optional("\"PORCH_PASSWORD\""), PASSWORD_ENV).only(RTSP),
        key("password_file", Text, Optional("\"porch-password\""), PASSWORD_FILE).only(RTSP),
        key("password", Refused(NO_PASSWORD), Optional(""), "").only(RTSP),
        key(
            "tls_ca_file",
            Text,
            Optional("\"ca.pem\""),
            "A PEM file with the CA to trust. When it is not written: the system's.",
        )
        .only(&["rtsps"]),
        key(
            "tls_insecure",
            Bool,
            Default("false"),
            "true accepts any certificate: for self-signed ones in a closed network.",
        )
        .only(&["rtsps"]),
        key("repeat", Bool, Default("true"), "Start over at the end.").only(&["file"]),
        key("realtime", Bool, Default("true"), "false: as fast as it goes.").only(&["file"]),
        key(
            "params",
            Params,
            Optional("device = \"/dev/video0\""),
            "Values for the {KEY} places in a pipeline's description.",
        )
        .only(&["pipeline"]),
        key(
            "priority",
            Word(&["realtime", "bulk"]),
            Default("\"realtime\""),
            "realtime: before all bulk cameras; slo_p95_ms is for these. bulk: what is left, at least bulk_share.",
        ),
        key(
            "weight",
            Int(1, 100),
            Default("1"),
            "Its share when the engine is the limit, relative to its class.",
        ),
        key("tenant", Text, Optional("\"lab\""), "The [tenants.NAME] whose limits hold for it."),
        key(
            "max_fps",
            Float(0.01, 1000.0),
            Optional("10.0"),
            "The most frames a second that are inferred, evenly spaced; the others are skipped.",
        ),
        key(
            "motion_gate",
            Bool,
            Default("false"),
            "true: while nothing moves in the picture, only `still_fps` frames a second are inferred; the others are
skipped. Motion anywhere brings the full rate back with the frame that shows it.",
        ),
        key(
            "thin_decode",
            Bool,
            Default("true"),
            "true: pictures that the engine will have no time for are not even decoded, as far as the stream allows, down to key
frames only. false: all are decoded, which takes CPU time from the engine and gives it the newest frame at each turn.",
        ),
        key("still_fps", Float(0.1, 100.0), Default("2.0"), "See `motion_gate`; at least 2 in [track] lost_ms."),
        key("ring_buffer_ms", Int(10, MAX_RING), Optional("300"), "As in [batcher], for this camera."),
        key("backlog_frames", Int(1, 100), Optional("3"), "As in [batcher], for this camera."),
        key(
            "drop_policy",
            Word(&["oldest", "skip-frame"]),
            Optional("\"skip-frame\""),
            "As in [batcher], for this camera.",
        ),
        key(
            "stall_ms",
            Int(500, 600_000),
            Default("3000"),
            "A connected camera without a decoded frame for this long has failed and is connected anew.",
        ),
        key(
            "hide",
            Texts,
            Default("[]"),
            "Objects with these labels are made unreadable in every picture that leaves the box; events still tell of them.
The network may miss one: what must never be seen needs a mask.",
        ),
        key(
            "hide_by",
            Word(&["blur", "fill"]),
            Default("\"blur\""),
            "blur: by few large squares. fill: by black.",
        ),
        key("restream", Kind::Table(&RESTREAM), Optional(""), ""),
        key("masks", Named("mask", &MASK), Optional("neighbour"), ""),
        key("zones", Named("zone", &ZONE), Optional("door"), ""),
        key("lines", Named("line", &LINE), Optional("gate"), ""),
    ],
};

static MASK: Table = Table {
    doc: "A region that is black in every picture that leaves the box. The network still sees it.",
    keys: &[key(
        "polygon",
        Points(3, 64),
        Required("[[0.0, 0.0], [0.3, 0.0], [0.3, 0.4], [0.0, 0.4]]"),
        "Corners in order, as fractions of the picture; [0, 0] is the top left.",
    )],
};

static ZONE: Table = Table {
    doc: "A region of the picture: who comes, who goes, who stays.",
    keys: &[
        key(
            "polygon",
            Points(3, 64),
            Required("[[0.1, 0.5], [0.4, 0.5], [0.4, 1.0], [0.1, 1.0]]"),
            "Corners in order, as fractions of the picture; [0, 0] is the top left.",
        ),
        key(
            "dwell_ms",
            Int(1, 86_400_000),
            Optional("10000"),
            "A track that stays this long causes `zone.dwell`. When it is not written: never.",
        ),
        key("classes", Texts, Default("[]"), "Labels that count; an empty list means all."),
    ],
};

static LINE: Table = Table {
    doc: "A line across the picture: who crosses it, and which way.",
    keys: &[
        key(
            "ends",
            Points(2, 2),
            Required("[[0.0, 0.6], [1.0, 0.6]]"),
            "Its two ends, as fractions of the picture.",
        ),
        key("classes", Texts, Default("[]"), "Labels that count; an empty list means all."),
    ],
};
