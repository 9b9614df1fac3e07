//! The loops. One loop = one file = one thread name. `run.rs` wires them; nothing here spawns.

pub mod analyze;
pub mod infer;
pub mod ingest;
pub mod publish;
pub mod show;
