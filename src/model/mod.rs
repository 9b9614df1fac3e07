//! Models: what a manifest says of one ([`spec`]), and tools for `.onnx` files.
pub mod spec;
