//! `mortal-weir`: the daemon on real GPUs, whose engines can be ended from outside. `mortal-weir weir.toml` runs as `weir run -c weir.toml` with
//! `execution = "cuda"` does; the engine on GPU N fails every batch as soon as there is a file `fail-N` in the folder of `MORTAL_ORDERS`. Decoders,
//! kernels and network are the real ones.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use weir::clock::Bell;
use weir::config::{self, Config, System};
use weir::device::accelerator::Report;
use weir::device::canvas::{Canvas, Colour};
use weir::device::nvidia::Nvidia;
use weir::device::{Device, Engine, Sink};
use weir::fault::{Fault, Who};
use weir::flow::detect::OutputShape;
use weir::flow::still::Grid;
use weir::frame::{Frame, Still};
use weir::model::spec::Placement;

/// A GPU, and the file that ends its engine.
struct Mortal(Nvidia, PathBuf);

struct MortalEngine(<Nvidia as Device>::Engine, PathBuf);

impl Engine for MortalEngine {
    type Pixels = <Nvidia as Device>::Pixels;
    type Outputs = <<Nvidia as Device>::Engine as Engine>::Outputs;

    fn ladder(&self) -> &[usize] {
        self.0.ladder()
    }

    fn outputs(&self) -> Vec<OutputShape> {
        self.0.outputs()
    }

    fn depth(&self) -> usize {
        self.0.depth()
    }

    fn pads(&self) -> bool {
        self.0.pads()
    }

    fn lead(&self) -> Duration {
        self.0.lead()
    }

    fn ring_when_done(&mut self, bell: Bell) {
        self.0.ring_when_done(bell);
    }

    fn load(&mut self, slot: usize, frame: &Frame<Self::Pixels>) -> Result<Placement, Fault> {
        self.0.load(slot, frame)
    }

    fn submit(&mut self, count: usize) -> Result<(), Fault> {
        if self.1.exists() {
            return Err(Fault::new(Who::Device, "engine", "on purpose"));
        }
        self.0.submit(count)
    }

    fn is_done(&self) -> bool {
        self.0.is_done()
    }

    fn collect(&mut self) -> Result<Self::Outputs, Fault> {
        self.0.collect()
    }
}

impl Device for Mortal {
    type Pixels = <Nvidia as Device>::Pixels;
    type Engine = MortalEngine;
    type Source = <Nvidia as Device>::Source;

    fn engine(&self) -> Result<MortalEngine, Fault> {
        Ok(MortalEngine(self.0.engine()?, self.1.clone()))
    }

    fn luma_grid(pixels: &Self::Pixels) -> Option<Grid> {
        Nvidia::luma_grid(pixels)
    }

    fn open(&self, camera: &config::Camera, sink: Sink<Self::Pixels>) -> Result<Self::Source, Fault> {
        Device::open(&self.0, camera, sink)
    }

    fn canvas(pixels: &Self::Pixels, width: Option<u32>, colour: Option<Colour>) -> Option<Canvas> {
        Nvidia::canvas(pixels, width, colour)
    }

    fn ordinal(&self) -> Option<u32> {
        self.0.ordinal()
    }

    fn report(&self) -> Option<Report> {
        self.0.report()
    }

    fn picture(&self, still: Still) -> Result<Self::Pixels, Fault> {
        self.0.picture(still)
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    weir::anew::start()?;
    let path = std::env::args_os().nth(1).ok_or("which configuration?")?;
    let orders = PathBuf::from(std::env::var_os("MORTAL_ORDERS").ok_or("no MORTAL_ORDERS")?);
    let (config, _) = Config::load(path.as_ref(), &System).map_err(|report| report.render(false))?;
    weir::log::init(&config.log, &System)?;
    let devices = Nvidia::open(&config.model, &config.infer, config.batcher.max_batch_frames)?;
    let spec = Arc::clone(devices[0].spec());
    let mortal = |device: Nvidia| {
        let file = orders.join(format!("fail-{}", device.ordinal().unwrap_or(0)));
        Mortal(device, file)
    };
    let reread = Box::new(|| Err("this daemon reads its configuration once".to_owned()));
    Ok(weir::run::run_on(config, reread, devices.into_iter().map(mortal).collect(), spec)?)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Nothing is left to tell it to when standard error is gone.
            let _ = writeln!(std::io::stderr(), "mortal-weir: {e}");
            ExitCode::FAILURE
        }
    }
}
