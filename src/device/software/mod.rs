//! The CPU: GStreamer decodes (libav), we preprocess, ONNX Runtime infers.

pub mod engine;
pub mod pixels;
pub mod preprocess;
pub mod session;
pub mod source;
pub mod usb;

use std::sync::Arc;

use crate::config;
use crate::device::{Device, Sink};
use crate::fault::{Fault, Who};
use crate::frame::Still;
use crate::model::manifest::Manifest;
use crate::model::spec::ModelSpec;

/// A machine without a GPU, or with one that is not used.
pub struct Software {
    runtime: session::Runtime,
    spec: Arc<ModelSpec>,
    model: Vec<u8>,
    threads: usize,
    max_batch: usize,
}

impl Software {
    /// Loads ONNX Runtime and reads the model, so that whatever is missing is said before anything runs.
    ///
    /// # Errors
    /// A missing library, manifest or model, or a model that is not the one its manifest names.
    pub fn new(model: &config::Model, infer: &config::Infer, max_batch: usize) -> Result<Software, Fault> {
        let manifest = Manifest::load_one_fault(&model.manifest)?;
        manifest.verify(&model.file)?;
        let bytes = std::fs::read(&model.file).map_err(|e| {
            Fault::new(
                Who::Config,
                "bad_model",
                format!("model {} cannot be read: {e}", model.file.display()),
            )
        })?;
        let runtime = session::load_runtime(infer.onnxruntime.as_deref())?;
        let threads = if infer.threads == 0 { default_threads() } else { infer.threads };
        Ok(Software { runtime, spec: Arc::new(manifest.spec), model: bytes, threads, max_batch })
    }

    /// What the manifest says.
    pub fn spec(&self) -> &Arc<ModelSpec> {
        &self.spec
    }

    /// For the one line at start that says what was got.
    pub fn describe(&self) -> String {
        format!("ONNX Runtime CPU, {} threads, {}", self.threads, self.runtime.library.display())
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
            self.max_batch,
        )
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
