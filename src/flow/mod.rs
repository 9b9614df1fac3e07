//! The pure core, in flow order. No thread, clock, socket, GStreamer, ONNX Runtime or tokio in
//! here: `tests/layering.rs` holds this folder to that. Everything is given its time.

mod agenda;
pub mod batch;
pub mod cap;
pub mod capacity;
pub mod curve;
pub mod detect;
pub mod draw;
mod interval;
pub mod pace;
pub mod place;
pub mod predict;
pub mod retry;
pub mod ring;
pub mod rules;
pub mod still;
pub mod thin;
pub mod track;
pub mod window;
