//! One camera, checked: where its pictures come from, how much of the box it gets, and what is looked for in them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{DropPolicy, Login, Priority, Restream};

/// `[cameras.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Camera {
    /// `[a-z0-9_-]`, 1 to 64 characters: safe in topics, URLs and file names.
    pub name: Arc<str>,
    /// Where pictures come from.
    pub source: Source,
    /// `ring_buffer_ms`; default from `[batcher]`, 300 ms.
    pub ring: Duration,
    /// `drop_policy`; default from `[batcher]`.
    pub drop_policy: DropPolicy,
    /// A backlog that stands for so many of the camera's frame intervals is overload. Default from `[batcher]`, 3.
    pub backlog_frames: u32,
    /// Whose frames go first. Default realtime.
    pub priority: Priority,
    /// Its share relative to others of its class, 1..=100. Default 1.
    pub weight: u32,
    /// The most frames a second that are inferred; absent: all.
    pub max_fps: Option<f32>,
    /// Pictures that the engine will have no time for are not decoded. Default true.
    pub thin_decode: bool,
    /// `motion_gate = true`: frames a second that are inferred while the picture stands still (`still_fps`). Absent: no gate.
    pub still_fps: Option<f32>,
    /// A connected camera without a decoded frame for this long has failed. Default 3 s.
    pub stall: Duration,
    /// Named regions.
    pub zones: Vec<Zone>,
    /// Named lines.
    pub lines: Vec<Line>,
    /// What nobody may see.
    pub privacy: Privacy,
    /// Its way out by RTSP.
    pub restream: Restream,
}

impl Camera {
    /// Frames that its ring has room for: at the rate of the fastest camera, and at least two.
    pub fn ring_frames(&self) -> usize {
        const MOST_FPS: u128 = 60;
        usize::try_from(self.ring.as_millis() * MOST_FPS / 1000).unwrap_or(usize::MAX).max(2)
    }
}

/// What nobody may see of a camera. Holds for every picture that leaves the box, not for the analysis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Privacy {
    /// `hide`: objects with these labels.
    pub hide: Vec<String>,
    /// `hide_by`. Default blur.
    pub hide_by: Hide,
    /// `masks`: polygons of at least three corners as fractions of the picture, always black.
    pub masks: Vec<Vec<[f32; 2]>>,
}

/// How a part of a picture is hidden.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hide {
    /// By few large squares of its mean colours.
    #[default]
    Blur,
    /// By black.
    Fill,
}

/// Where pictures come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// `rtsp://` or `rtsps://`.
    Rtsp(Rtsp),
    /// `file:PATH`.
    File {
        /// The video file.
        path: PathBuf,
        /// Starts over at the end. Default true.
        repeat: bool,
        /// In real time (default), or as fast as it goes.
        realtime: bool,
    },
    /// `v4l2:/dev/videoN`.
    V4l2 {
        /// The device.
        device: PathBuf,
    },
    /// `pipeline:NAME`: a description from `pipelines/`, with its parameters.
    Pipeline {
        /// The description file.
        file: PathBuf,
        /// `[cameras.NAME.params]`, replacing `{KEY}` in the description.
        params: BTreeMap<String, String>,
    },
}

/// An RTSP camera.
#[derive(Clone, Debug, PartialEq)]
pub struct Rtsp {
    /// Without userinfo: that part is taken out where the URL is parsed.
    pub url: url::Url,
    /// From the URL, or from `user` with `password_env` or `password_file`.
    pub login: Option<Login>,
    /// `transport`. Default tcp.
    pub transport: Transport,
    /// `latency_ms`: how long the jitter buffer may hold a packet back. Default 100 ms.
    pub latency: Duration,
    /// `tls_ca_file` for `rtsps://`; absent: the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// `tls_insecure = true` accepts any certificate: for cameras with self-signed ones in a closed network.
    pub tls_insecure: bool,
}

/// How RTP travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Inside the RTSP connection.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
    /// UDP first, TCP when nothing arrives.
    Auto,
}

/// A named region of the picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Unique within the camera.
    pub name: Arc<str>,
    /// At least three corners as fractions of the picture, 0..=1, origin at the top left.
    pub polygon: Vec<[f32; 2]>,
    /// A track that stays this long causes `zone.dwell`; absent: never.
    pub dwell: Option<Duration>,
    /// Labels that count; empty: all.
    pub classes: Vec<String>,
}

/// A named line across the picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Unique within the camera.
    pub name: Arc<str>,
    /// Two ends as fractions of the picture, 0..=1.
    pub ends: [[f32; 2]; 2],
    /// Labels that count; empty: all.
    pub classes: Vec<String>,
}
