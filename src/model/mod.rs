//! Models: what a manifest says of one ([`manifest`], [`spec`]), and tools for `.onnx` files.
//!
//! Nothing here runs a network: that is the device's part.
pub mod labels;
pub mod manifest;
pub mod onnx;
pub mod spec;
pub mod tfjs;
