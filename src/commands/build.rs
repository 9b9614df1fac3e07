//! `weir model build`: TensorRT's engines, ahead of the first start.

use std::io::{self, Write};
use std::process::ExitCode;

use super::failed;
use crate::cli::{ConfigFile, exit, load};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Execution, Infer, Provider};
use crate::device::nvidia::Nvidia;
use crate::device::{Device, Engine};
use crate::fault::{Fault, Who};

/// `weir model build`.
pub fn run(file: &ConfigFile) -> ExitCode {
    let config = match load(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match build(&config, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::from(exit::GOOD),
        Err(fault) => failed(&fault),
    }
}

/// Builds an engine for each batch size, and says each as it is done: minutes lie between.
fn build(config: &Config, out: &mut dyn Write) -> Result<(), Fault> {
    let asked: Vec<Provider> = compilers(&config.infer.execution);
    if asked.is_empty() {
        let message = "[infer] execution names neither tensorrt nor tensorrt-rtx: there is nothing to build";
        return Err(Fault::new(Who::Config, "no_provider", message)
            .remedy("write execution = [\"tensorrt\", \"cuda\"], for example"));
    }
    let infer = Infer { execution: Execution::Order(asked), ..config.infer.clone() };
    let mut built: Vec<String> = Vec::new();
    for device in Nvidia::open(&config.model, &infer, config.batcher.max_batch_frames)? {
        // GPUs of one kind share their engines.
        if !built.contains(&device.gpu().name) {
            built.push(device.gpu().name.clone());
            build_on(&device, &infer.execution, out)?;
        }
    }
    Ok(())
}

fn build_on(device: &Nvidia, asked: &Execution, out: &mut dyn Write) -> Result<(), Fault> {
    let unwritten =
        |e: io::Error| Fault::new(Who::Device, "output", format!("progress cannot be written: {e}"));
    writeln!(out, "{}", device.describe(asked)).map_err(unwritten)?;
    let clock = SystemClock::new();
    let mut engine = device.engine()?;
    let ladder = engine.ladder().to_vec();
    for (done, frames) in ladder.iter().enumerate() {
        let before = clock.now();
        engine.run(*frames)?;
        let built = clock.now();
        // The second run is one of a warm engine.
        engine.run(*frames)?;
        writeln!(
            out,
            "{} of {}: batches of {frames}, ready after {:.1} s, {:.2} ms a batch",
            done + 1,
            ladder.len(),
            built.since(before).as_secs_f64(),
            clock.now().since(built).as_secs_f64() * 1e3
        )
        .and_then(|()| out.flush())
        .map_err(unwritten)?;
    }
    Ok(())
}

/// Those that compile a network.
fn compilers(execution: &Execution) -> Vec<Provider> {
    match execution {
        Execution::Auto => Vec::new(),
        Execution::Order(order) => {
            let compiles = |p: &Provider| matches!(p, Provider::TensorRt | Provider::TensorRtRtx);
            order.iter().copied().filter(compiles).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_compiles_is_built() {
        use Provider::{Cpu, Cuda, TensorRt, TensorRtRtx};
        let of = |order: &[Provider]| compilers(&Execution::Order(order.to_vec()));
        assert_eq!(of(&[TensorRtRtx, TensorRt, Cuda, Cpu]), [TensorRtRtx, TensorRt]);
        assert_eq!(of(&[Cuda, Cpu]), []);
        assert_eq!(compilers(&Execution::Auto), []);
    }
}
