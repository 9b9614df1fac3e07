//! What the daemon asks of a machine: sources of decoded pictures, and an engine. One trait; the stages are
//! generic over it, so that pixels in one kind of memory cannot reach an engine for another.

pub mod software;
