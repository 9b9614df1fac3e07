//! The CPU: GStreamer decodes (libav), we preprocess, ONNX Runtime infers.
pub mod session;
