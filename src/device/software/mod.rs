//! Decode, preprocess and infer on the CPU.
pub mod preprocess;
