//! A test double: an engine that does what a script says, and no sources. Production never makes one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Device, Engine, Outputs, Sink, Source, nothing_submitted};
use crate::clock::Bell;
use crate::config;
use crate::fault::{Fault, Who};
use crate::flow::detect::OutputShape;
use crate::frame::{Frame, Still};
use crate::model::spec::{Placement, TensorView};

/// What the engine does with a batch of so many frames.
pub type Script = Box<dyn FnMut(usize) -> Result<ScriptedOutputs, Fault> + Send>;

/// Says whether the batch of that number, from 0, is done.
pub type Progress = Arc<dyn Fn(usize) -> bool + Send + Sync>;

/// A device whose engine follows a script. Frames carry no picture.
pub struct Scripted {
    script: Mutex<Option<Script>>,
    outputs: Vec<OutputShape>,
    most: usize,
    beside: Option<Beside>,
}

/// How an engine behaves that works beside the host.
#[derive(Clone)]
struct Beside {
    lead: Duration,
    progress: Progress,
    bell: Arc<Mutex<Option<Bell>>>,
}

impl Scripted {
    /// An engine for batches of up to `most` frames with these outputs.
    pub fn new(most: usize, outputs: Vec<OutputShape>, script: Script) -> Self {
        Scripted { script: Mutex::new(Some(script)), outputs, most, beside: None }
    }

    /// The same, but two batches may be in flight, and `progress` says which are done.
    #[must_use]
    pub fn beside(mut self, lead: Duration, progress: Progress) -> Self {
        self.beside = Some(Beside { lead, progress, bell: Arc::default() });
        self
    }

    /// Rings as an engine does whose batch is done.
    pub fn ring(&self) {
        if let Some(beside) = &self.beside
            && let Some(bell) = &*beside.bell.lock().unwrap_or_else(PoisonError::into_inner)
        {
            bell.ring();
        }
    }
}

/// See [`Scripted`].
pub struct ScriptedEngine {
    script: Script,
    outputs: Vec<OutputShape>,
    ladder: Vec<usize>,
    beside: Option<Beside>,
    /// Results, and how many have been collected.
    flying: VecDeque<Result<ScriptedOutputs, Fault>>,
    collected: usize,
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

    fn depth(&self) -> usize {
        if self.beside.is_some() { 2 } else { 1 }
    }

    fn lead(&self) -> Duration {
        self.beside.as_ref().map_or(Duration::ZERO, |beside| beside.lead)
    }

    fn ring_when_done(&mut self, bell: Bell) {
        if let Some(beside) = &self.beside {
            *beside.bell.lock().unwrap_or_else(PoisonError::into_inner) = Some(bell);
        }
    }

    fn submit(&mut self, count: usize) -> Result<(), Fault> {
        let result = (self.script)(count);
        self.flying.push_back(result);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.beside.as_ref().is_none_or(|beside| (beside.progress)(self.collected))
    }

    fn collect(&mut self) -> Result<ScriptedOutputs, Fault> {
        while !self.is_done() {
            std::thread::yield_now();
        }
        self.collected += 1;
        self.flying.pop_front().unwrap_or_else(|| Err(nothing_submitted()))
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
        Ok(ScriptedEngine {
            script,
            outputs: self.outputs.clone(),
            ladder: (1..=self.most).collect(),
            beside: self.beside.clone(),
            flying: VecDeque::new(),
            collected: 0,
        })
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
