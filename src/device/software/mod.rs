//! The CPU: GStreamer decodes (libav), we preprocess, ONNX Runtime infers.

pub mod access_unit;
pub mod engine;
pub mod pixels;
pub mod preprocess;
pub mod provider;
pub mod session;
pub mod source;
pub mod usb;

use std::sync::Arc;

use crate::clock::Clock;
use crate::config;
use crate::device::canvas::{Canvas, Colour};
use crate::device::{Device, Sink};
use crate::fault::{Fault, Who};
use crate::flow::still::Grid;
use crate::frame::Still;
use crate::model::manifest::Manifest;
use crate::model::spec::ModelSpec;

/// A machine without a GPU, or with one that is not used.
pub struct Software {
    runtime: session::Runtime,
    spec: Arc<ModelSpec>,
    model: Vec<u8>,
    threads: usize,
    asked: config::Execution,
    choice: provider::Choice,
    max_batch: usize,
}

impl Software {
    /// Loads ONNX Runtime, reads the model and settles on a provider, so that whatever is missing is said before
    /// anything runs.
    ///
    /// # Errors
    /// A missing library, manifest or model, a model that is not the one its manifest names, or no usable provider.
    pub fn new(
        model: &config::Model,
        infer: &config::Infer,
        max_batch: usize,
        clock: &dyn Clock,
    ) -> Result<Software, Fault> {
        Software::with(&session::Library::default(), model, infer, max_batch, clock)
    }

    /// The same with ONNX Runtime as it may have been opened before.
    ///
    /// # Errors
    /// The same.
    pub fn with(
        library: &session::Library,
        model: &config::Model,
        infer: &config::Infer,
        max_batch: usize,
        clock: &dyn Clock,
    ) -> Result<Software, Fault> {
        let manifest = Manifest::load_one_fault(&model.manifest)?;
        manifest.verify(&model.file)?;
        let bytes = std::fs::read(&model.file).map_err(|e| {
            Fault::new(
                Who::Config,
                "bad_model",
                format!("model {} cannot be read: {e}", model.file.display()),
            )
        })?;
        let runtime = library.load(infer.onnxruntime.as_deref())?.with_openvino(infer.openvino.clone());
        let threads = if infer.threads == 0 { default_threads() } else { infer.threads };
        let spec = Arc::new(manifest.spec);
        let candidate = provider::Candidate { runtime: &runtime, spec: &spec, model: &bytes, threads };
        let asked = infer.execution.clone();
        let choice = provider::choose(&asked, candidate, clock)?;
        if let config::Execution::Order(order) = &asked
            && order.first() != Some(&choice.provider)
        {
            tracing::warn!("Not the execution provider that was asked for first: {}.", choice.why);
        }
        Ok(Software { runtime, spec, model: bytes, threads, asked, choice, max_batch })
    }

    /// What the manifest says.
    pub fn spec(&self) -> &Arc<ModelSpec> {
        &self.spec
    }

    /// ONNX Runtime.
    pub fn runtime(&self) -> &session::Runtime {
        &self.runtime
    }

    /// For the one line at start that says what was asked for and what was got.
    pub fn describe(&self) -> String {
        let (asked, got, why) = (&self.asked, self.choice.provider, &self.choice.why);
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        let (threads, library) = (self.threads, self.runtime.library.display());
        format!("asked for {asked}, got {got}{why}; {threads} threads; ONNX Runtime at {library}")
    }
}

/// Every core: decode threads take their share by the scheduler, which a fixed split does worse.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Device for Software {
    type Pixels = pixels::Pixels;
    type Engine = engine::SoftwareEngine;
    type Source = source::SoftwareSource;

    fn engine(&self) -> Result<engine::SoftwareEngine, Fault> {
        engine::SoftwareEngine::open(
            &self.runtime,
            Arc::clone(&self.spec),
            &self.model,
            self.threads,
            self.choice.provider,
            self.max_batch,
        )
    }

    fn luma_grid(pixels: &pixels::Pixels) -> Option<Grid> {
        pixels.luma_grid()
    }

    fn canvas(pixels: &pixels::Pixels, width: Option<u32>, colour: Option<Colour>) -> Option<Canvas> {
        Canvas::copy(&pixels.planes(), pixels.geometry(), width, colour)
    }

    fn open(
        &self,
        camera: &config::Camera,
        sink: Sink<pixels::Pixels>,
    ) -> Result<source::SoftwareSource, Fault> {
        source::open(camera, sink)
    }

    fn picture(&self, still: Still) -> Result<pixels::Pixels, Fault> {
        Ok(pixels::Pixels::still(still))
    }
}
