//! The pure core, in flow order. No thread, clock, socket, GStreamer, ONNX Runtime or tokio in
//! here: `tests/layering.rs` holds this folder to that. Everything is given its time.

pub mod rules;
pub mod track;
