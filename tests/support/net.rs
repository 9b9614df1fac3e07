//! The daemon's network side on its own: a real outbox, HTTP server and MQTT sink on a runtime like the daemon's,
//! without cameras or engine.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weir::board::Board;
use weir::clock::{Clock, SystemClock, Wall};
use weir::config;
use weir::event::*;
use weir::http::{self, Api, Limits};
use weir::metrics;
use weir::outbox::Outbox;
use weir::request::desk::{self, Desk};
use weir::sink::mqtt;
use weir::stop;

use crate::wait::until;

pub const CAMERAS: [&str; 2] = ["door", "yard"];

pub struct Net {
    pub outbox: Arc<Outbox>,
    pub board: Arc<Board>,
    pub clock: Arc<dyn Clock>,
    pub address: SocketAddr,
    pub missing: Arc<Mutex<Vec<String>>>,
    pub stuck: Arc<Mutex<Vec<String>>>,
    stop: Option<stop::Source>,
    signal: stop::Stop,
    runtime: Option<tokio::runtime::Runtime>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

pub fn limits() -> Limits {
    Limits {
        sse_clients: 8,
        viewers: 8,
        sse_heartbeat: Duration::from_secs(15),
        connections: 32,
        header_read: Duration::from_secs(10),
        write_stall: Duration::from_secs(10),
        grace: Duration::from_secs(2),
    }
}

/// For a desk that stays closed.
const REQUESTS: desk::Limits =
    desk::Limits { pending: 4, image_bytes: 1_000_000, image_pixels: 1_000_000, memory: 16_000_000 };

impl Net {
    pub fn new(keep: usize, limits: Limits) -> Self {
        Self::with_clock(keep, limits, Arc::new(SystemClock::new()))
    }

    pub fn with_clock(keep: usize, limits: Limits, clock: Arc<dyn Clock>) -> Self {
        if std::env::var_os("WEIR_TEST_LOG").is_some() {
            let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).try_init();
        }
        let metrics = metrics::install().expect("nobody else installs one");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("the machine has threads");
        let board = Arc::new(Board::new(CAMERAS.map(Arc::from)));
        let outbox = Outbox::new("n1".into(), keep, Arc::clone(&clock));
        let (source, signal) = stop::stop();
        let listener = http::bind("127.0.0.1:0".parse().unwrap()).expect("loopback has ports");
        let address = listener.local_addr().unwrap();
        let missing: Arc<Mutex<Vec<String>>> = Arc::default();
        let stuck: Arc<Mutex<Vec<String>>> = Arc::default();
        let probe = |of: &Arc<Mutex<Vec<String>>>| -> http::Probe {
            let of = Arc::clone(of);
            Arc::new(move || of.lock().unwrap().clone())
        };
        let api = Api {
            node: "n1".into(),
            board: Arc::clone(&board),
            outbox: Arc::clone(&outbox),
            clock: Arc::clone(&clock),
            metrics,
            missing: probe(&missing),
            stuck: probe(&stuck),
            limits,
            infer: http::Inference {
                desk: Arc::new(Desk::new(Arc::clone(&board), Arc::clone(&clock), REQUESTS, &[])),
                access: http::Access::Anybody,
                model: "none".into(),
            },
            audience: weir::video::Audience::new(CAMERAS, weir::clock::bell().0),
            orders: crossbeam_channel::bounded(1).0,
            devices: Arc::new(|| weir::http::answers::Devices {
                video_encoder: Default::default(),
                video_encoder_h265: None,
                gpus: Vec::new(),
            }),
        };
        let serving = http::serve(listener, api, signal.clone());
        let tasks = vec![runtime.spawn(async move { serving.await.expect("HTTP serves") })];
        Net {
            outbox,
            board,
            clock,
            address,
            missing,
            stuck,
            stop: Some(source),
            signal,
            runtime: Some(runtime),
            tasks,
        }
    }

    /// Starts the MQTT sink.
    pub fn mqtt(&mut self, config: config::Mqtt) {
        let wiring = mqtt::Wiring {
            node: "n1".into(),
            outbox: Arc::clone(&self.outbox),
            board: Arc::clone(&self.board),
            clock: Arc::clone(&self.clock),
            flush: Duration::from_secs(20),
        };
        let sink = mqtt::Sink::new(config, wiring).expect("the configuration is good");
        let signal = self.signal.clone();
        self.tasks.push(self.runtime.as_ref().unwrap().spawn(sink.run(signal)));
    }

    /// Stops as the daemon does and waits for every task.
    pub fn stop(mut self) {
        drop(self.stop.take());
        let tasks = std::mem::take(&mut self.tasks);
        let runtime = self.runtime.take().unwrap();
        runtime.block_on(async {
            for task in tasks {
                task.await.expect("no task panics");
            }
        });
    }

    /// Ends without a word, as a killed process does: sockets close, nothing is sent.
    pub fn die(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// One sample of /metrics; 0 when it is not there yet.
    pub fn metric(&self, sample: &str) -> f64 {
        let (_, page) = get(&self.url("/metrics"));
        let line = page.lines().find_map(|l| l.strip_prefix(sample)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("samples are numbers"))
    }

    /// Subscribes to the event stream and returns once the subscription stands.
    pub fn sse(&self, query: &str, last_event_id: Option<&str>) -> Sse {
        let mut request = agent().get(self.url(&format!("/api/v1/events/stream{query}")));
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        let mut response = request.call().expect("the stream opens");
        assert_eq!(response.status(), 200, "{}", response.body_mut().read_to_string().unwrap_or_default());
        let frames: Arc<Mutex<Vec<Frame>>> = Arc::default();
        let theirs = Arc::clone(&frames);
        let thread = std::thread::spawn(move || {
            let (mut frame, mut said_hello) = (Frame::default(), false);
            for line in BufReader::new(response.into_body().into_reader()).lines() {
                // A stream that is cut off, rather than ended, is an error.
                let Ok(line) = line else { return false };
                match line.split_once(':') {
                    Some(("id", value)) => frame.id = value.trim().to_owned(),
                    Some(("event", value)) => frame.event = value.trim().to_owned(),
                    Some(("data", value)) => frame.data = value.trim().to_owned(),
                    Some(("retry", _)) => said_hello = true,
                    _ if line.is_empty() => {
                        let whole = std::mem::take(&mut frame);
                        if !whole.data.is_empty() {
                            theirs.lock().unwrap().push(whole);
                        }
                    }
                    _ => {}
                }
            }
            said_hello
        });
        Sse { frames, thread }
    }
}

/// One server-sent event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    pub id: String,
    pub event: String,
    pub data: String,
}

/// A client of the event stream.
pub struct Sse {
    frames: Arc<Mutex<Vec<Frame>>>,
    thread: std::thread::JoinHandle<bool>,
}

impl Sse {
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap().clone()
    }

    /// Waits until there are `n` frames.
    #[track_caller]
    pub fn wait_for(&self, n: usize) -> Vec<Frame> {
        until("server-sent events", || {
            // Counted first: a copy of a long stream at every look would be the load that it waits for.
            let enough = self.frames.lock().unwrap().len() >= n;
            enough.then(|| self.frames())
        })
    }

    /// Waits for the end of the stream; true when it had begun and ended properly.
    pub fn ended(self) -> bool {
        self.thread.join().expect("the reader does not panic")
    }
}

pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

/// Status and body.
pub fn get(url: &str) -> (u16, String) {
    let mut response = agent().get(url).call().expect("the server answers");
    (response.status().as_u16(), response.body_mut().read_to_string().expect("the answer is text"))
}

pub fn get_json(url: &str) -> (u16, serde_json::Value) {
    let (status, body) = get(url);
    (status, serde_json::from_str(&body).unwrap_or_else(|e| panic!("{url}: {e}: {body}")))
}

pub fn mqtt_config(port: u16) -> config::Mqtt {
    config::Mqtt {
        host: "127.0.0.1".into(),
        port,
        tls: None,
        client_id: format!("weir-{port}"),
        login: None,
        prefix: "weir".into(),
        max_inflight: 16,
    }
}

/// The smallest event.
pub fn small(n: u64) -> Draft {
    let mut draft =
        Draft::new(CAMERAS[n as usize % 2].into(), Kind::TrackUpdated, Wall(n as i64 * 1_000_000));
    draft.frame = Some(FrameRef { seq: n, pts_ms: None, age_ms: 1 });
    draft
}

/// One event of each kind, with all that this kind can carry.
pub fn every_kind() -> Vec<Draft> {
    let draft = |(n, kind): (usize, Kind)| {
        let mut draft =
            Draft::new(CAMERAS[n % 2].into(), kind, Wall(1_767_225_600_000_000_000 + n as i64 * 40_000_000));
        let about_a_track = kind.name().starts_with("track.")
            || kind.name().starts_with("zone.")
            || kind.name().starts_with("line.");
        if about_a_track {
            draft.frame = Some(FrameRef { seq: 100 + n as u64, pts_ms: Some(4_000), age_ms: 61 });
            let bbox = [0.25, 0.5, 0.125, 0.25];
            draft.track = Some(TrackRef { id: 7, label: "person \"λ\"\n".into(), score: 0.87, bbox });
        }
        if kind.name().starts_with("zone.") {
            draft.zone = Some(ZoneRef { name: "gate".into(), dwell_ms: 2_000 });
        }
        if kind == Kind::LineCrossed {
            draft.line = Some(LineRef { name: "kerb".into(), direction: Direction::ToLeft });
        }
        if kind == Kind::CameraOffline {
            draft.reason = Some(Reason { code: "stalled", message: "no picture for 3 s".into() });
        }
        if matches!(kind, Kind::CameraOnline | Kind::CameraChanged) {
            draft.video = Some(Video { width: 1920, height: 1080, fps: Some(25.0), codec: "h264".into() });
        }
        draft
    };
    Kind::ALL.into_iter().enumerate().map(draft).collect()
}
