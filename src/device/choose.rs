//! Which device runs: what `[infer] execution` asks for, held against what this machine has.

use crate::clock::Clock;
use crate::config::{Config, Execution, Infer};
use crate::device::nvidia::Nvidia;
use crate::device::software::Software;
use crate::device::software::session::Library;
use crate::fault::Fault;

/// What was chosen.
pub enum Chosen {
    /// At least one.
    Nvidia(Vec<Nvidia>),
    /// The CPU.
    Software(Box<Software>),
}

/// The device that `[infer] execution` means on this machine: pixels live on the GPU if and only if the engine does.
///
/// # Errors
/// What is wrong with the last one that was asked for, or with the model.
pub fn choose(config: &Config, clock: &dyn Clock) -> Result<Chosen, Fault> {
    let most = config.batcher.max_batch_frames;
    let library = Library::default();
    let software = |execution: Execution| {
        let infer = Infer { execution, ..config.infer.clone() };
        Software::with(&library, &config.model, &infer, most, clock)
            .map(|device| Chosen::Software(Box::new(device)))
    };
    let nvidia = || Nvidia::open_with(&library, &config.model, &config.infer, most).map(Chosen::Nvidia);
    let Execution::Order(order) = &config.infer.execution else {
        return nvidia().or_else(|why| {
            tracing::info!("No GPU is used: {why}");
            software(Execution::Auto)
        });
    };
    let Some(at) = order.iter().position(|provider| provider.is_nvidia()) else {
        return software(config.infer.execution.clone());
    };
    let gpu = order[at..].iter().take_while(|provider| provider.is_nvidia()).count();
    let (before, after) = (&order[..at], &order[at + gpu..]);
    if !before.is_empty() {
        match software(Execution::Order(before.to_vec())) {
            Ok(chosen) => return Ok(chosen),
            Err(why) => tracing::warn!("Not the execution provider that was asked for first: {why}"),
        }
    }
    nvidia().or_else(|why| {
        if after.is_empty() {
            return Err(why);
        }
        tracing::warn!("No GPU is used: {why}");
        software(Execution::Order(after.to_vec()))
    })
}
