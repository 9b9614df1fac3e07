//! A test double: an engine that does what a script says, and no sources. Production never makes one.

use std::sync::Mutex;

use super::{Device, Engine, Outputs, Sink, Source};
use crate::config;
use crate::fault::{Fault, Who};
use crate::flow::detect::OutputShape;
use crate::frame::{Frame, Still};
use crate::model::spec::{Placement, TensorView};

/// What the engine does with a batch of so many frames.
pub type Script = Box<dyn FnMut(usize) -> Result<ScriptedOutputs, Fault> + Send>;

/// A device whose engine follows a script. Frames carry no picture.
pub struct Scripted {
    script: Mutex<Option<Script>>,
    outputs: Vec<OutputShape>,
    most: usize,
}

impl Scripted {
    /// An engine for batches of up to `most` frames with these outputs.
    pub fn new(most: usize, outputs: Vec<OutputShape>, script: Script) -> Self {
        Scripted { script: Mutex::new(Some(script)), outputs, most }
    }
}

/// See [`Scripted`].
pub struct ScriptedEngine {
    script: Script,
    outputs: Vec<OutputShape>,
    ladder: Vec<usize>,
}

/// One output tensor of any shape; every frame of the batch gets the same values.
#[derive(Clone, Debug)]
pub struct ScriptedOutputs {
    /// Dimensions without the batch, and the values.
    pub tensors: Vec<(Vec<usize>, Vec<f32>)>,
}

impl Outputs for ScriptedOutputs {
    fn count(&self) -> usize {
        self.tensors.len()
    }

    fn view(&self, index: usize, _slot: usize) -> TensorView<'_> {
        let (shape, data) = &self.tensors[index];
        TensorView { shape, data }
    }
}

impl Engine for ScriptedEngine {
    type Pixels = ();
    type Outputs = ScriptedOutputs;

    fn ladder(&self) -> &[usize] {
        &self.ladder
    }

    fn outputs(&self) -> Vec<OutputShape> {
        self.outputs.clone()
    }

    fn load(&mut self, _slot: usize, _frame: &Frame<()>) -> Result<Placement, Fault> {
        Ok(Placement { scale_x: 1.0, scale_y: 1.0, offset_x: 0.0, offset_y: 0.0 })
    }

    fn run(&mut self, count: usize) -> Result<ScriptedOutputs, Fault> {
        (self.script)(count)
    }
}

/// There are none.
pub enum NoSource {}

impl Source for NoSource {
    fn rewind(&mut self) -> Result<(), Fault> {
        match *self {}
    }
}

impl Device for Scripted {
    type Pixels = ();
    type Engine = ScriptedEngine;
    type Source = NoSource;

    fn engine(&self) -> Result<ScriptedEngine, Fault> {
        let script = self.script.lock().ok().and_then(|mut s| s.take());
        let script =
            script.ok_or_else(|| Fault::new(Who::Bug, "scripted", "the script has been taken already"))?;
        Ok(ScriptedEngine { script, outputs: self.outputs.clone(), ladder: (1..=self.most).collect() })
    }

    fn luma_grid(_pixels: &()) -> Option<crate::flow::still::Grid> {
        None
    }

    fn open(&self, camera: &config::Camera, _sink: Sink<()>) -> Result<NoSource, Fault> {
        Err(Fault::new(
            Who::Bug,
            "scripted",
            format!("camera {}: a scripted device has no sources", camera.name),
        ))
    }

    fn picture(&self, _still: Still) -> Result<(), Fault> {
        Ok(())
    }
}
