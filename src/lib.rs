//! `weir`: a daemon that watches many RTSP cameras at once.
//!
//! ```text
//!  camera ─ ingest ─▶ ring ─▶ batch ─▶ infer ─▶ detect ▶ track ▶ rules ─▶ outbox ─▶ MQTT · SSE
//!             │                          │          └──────┬──────┘          │
//!     stage/ingest.rs              stage/infer.rs   stage/analyze.rs   stage/publish.rs
//! ```
//!
//! A weir is the low dam that measures a stream and lets the excess spill over in a controlled way:
//! bounded latency by controlled loss, with every lost frame accounted for.
//!
//! Where to look: [`run`] wires everything; [`roster`] lets cameras come and go; [`stage`] has the four loops; [`flow`] decides (pure, no clock, no
//! threads); [`device`] and [`sink`] touch the world; [`board`] is the live state that [`http`] shows;
//! [`request`] lets clients' pictures into the same rings; [`video`] shows frames to people.

// In flow order.
pub mod config;
pub mod model;

pub mod clock;
pub mod event;
pub mod fault;
pub mod frame;

pub mod device;
pub mod flow;
pub mod intake;
pub mod probe;
pub mod request;
pub mod stage;

pub mod admission;
pub mod board;
pub mod http;
pub mod metrics;
pub mod outbox;
pub mod sink;
pub mod video;

pub mod anew;
pub mod bench;
pub mod bundle;
pub mod cli;
pub mod commands;
pub mod film;
pub mod health;
pub mod lanes;
pub mod live;
pub mod log;
pub mod plan;
pub mod quantise;
pub mod roster;
pub mod run;
pub mod stop;
pub mod supervise;
pub mod tryout;
pub mod usage;
