//! What a camera is decoded on and a network runs on.
pub mod software;
