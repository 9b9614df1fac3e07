//! `weir`: a daemon that watches many RTSP cameras at once.
//!
//! ```text
//!  camera ─ ingest ─▶ ring ─▶ batch ─▶ infer ─▶ detect ▶ track ▶ rules ─▶ outbox ─▶ MQTT · SSE
//! ```
//!
//! A weir is the low dam that measures a stream and lets the excess spill over in a controlled way:
//! bounded latency by controlled loss, with every lost frame accounted for.

pub mod board;
pub mod cli;
pub mod clock;
pub mod config;
pub mod event;
pub mod fault;
pub mod flow;
pub mod frame;
pub mod log;
pub mod model;
