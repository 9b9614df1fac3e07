//! Models: what a manifest says of one ([`manifest`], [`spec`]), and tools for `.onnx` files ([`inspect`], [`prepare`],
//! [`tfjs`], [`int8`]).
//!
//! Running a network is the device's part; only [`prepare`] asks it to, for a proof.
pub mod batch;
pub mod file;
pub mod guess;
pub mod inspect;
pub mod int8;
pub mod labels;
pub mod manifest;
pub mod onnx;
pub mod prepare;
pub mod sizes;
pub mod spec;
pub mod tfjs;
