//! The engine on the CPU: preprocess into one input tensor, run ONNX Runtime.

use std::collections::HashMap;
use std::sync::Arc;

use super::pixels::Pixels;
use super::preprocess::{Geometry, Plan};
use super::session::{self, Runtime, Session};
use crate::config::Provider;
use crate::device::{Engine, Outputs, nothing_submitted};
use crate::fault::{Fault, Who};
use crate::flow::detect::OutputShape;
use crate::frame::Frame;
use crate::model::spec::{ModelSpec, Placement, TensorView};

/// Batch sizes that are tried, ascending.
pub(crate) const RUNGS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Plans kept: one a kind of picture that cameras deliver. A camera that keeps changing its size costs plans, not memory.
const MOST_PLANS: usize = 64;

/// The same for stills, whose sizes anybody chooses: they must not push the cameras' plans out.
const MOST_STILL_PLANS: usize = 16;

/// The CPU's engine.
pub struct SoftwareEngine {
    session: Session,
    spec: Arc<ModelSpec>,
    ladder: Vec<usize>,
    tensor: Vec<f32>,
    slot_len: usize,
    plans: HashMap<Geometry, Plan>,
    still_plans: HashMap<Geometry, Plan>,
    /// Of the batch that was submitted.
    done: Option<session::Outputs>,
}

impl SoftwareEngine {
    /// Opens the model. Rungs above 1 are offered only when the graph leaves its batch free.
    ///
    /// # Errors
    /// When the model is not one, has more than one input, or its input differs from the manifest's.
    pub fn open(
        runtime: &Runtime,
        spec: Arc<ModelSpec>,
        bytes: &[u8],
        threads: usize,
        provider: Provider,
        max_batch: usize,
    ) -> Result<SoftwareEngine, Fault> {
        let session = Session::open_on(runtime, &spec.name, bytes, threads, provider)?;
        let batch = check_input(session.inputs(), &spec)?;
        let most = batch.unwrap_or(max_batch);
        if batch.is_some_and(|b| b != 1) {
            return Err(Fault::new(
                Who::Config,
                "bad_model",
                format!("model {}: its batch is fixed at {most}", spec.name),
            )
            .remedy("free it with `weir model prepare FILE -o OUT`"));
        }
        let ladder = RUNGS.into_iter().filter(|r| *r <= most).collect::<Vec<_>>();
        let slot_len = 3 * spec.input.width as usize * spec.input.height as usize;
        let tensor = vec![0.0; slot_len * ladder.last().copied().unwrap_or(1)];
        Ok(SoftwareEngine {
            session,
            spec,
            ladder,
            tensor,
            slot_len,
            plans: HashMap::new(),
            still_plans: HashMap::new(),
            done: None,
        })
    }

    /// What the first `count` slots hold, with its dimensions.
    pub fn input(&self, count: usize) -> ([usize; 4], &[f32]) {
        (self.spec.input.dims(count), &self.tensor[..count * self.slot_len])
    }

    /// Leaves rungs above `most` out.
    pub fn limit(&mut self, most: usize) {
        self.ladder.retain(|r| *r <= most.max(1));
    }
}

/// The batch dimension of the one input: `None` when free.
pub(crate) fn check_input(inputs: &[session::TensorInfo], spec: &ModelSpec) -> Result<Option<usize>, Fault> {
    let bad = |message: String| {
        Fault::new(Who::Config, "bad_model", format!("model {}: {message}", spec.name))
            .remedy("`weir model inspect FILE` prints a model.toml to start from")
    };
    let [input] = inputs else {
        let names: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
        return Err(bad(format!(
            "it has {} inputs ({}); weir feeds exactly one, the picture",
            names.len(),
            names.join(", ")
        )));
    };
    let [_, wanted @ ..] = spec.input.dims(1);
    let fits = input.dims.len() == 4
        && input.dims[1..].iter().zip(wanted).all(|(found, wanted)| found.is_none_or(|f| f == wanted));
    if input.name != spec.input.name || !fits {
        return Err(bad(format!(
            "its input is `{}` {:?}, but the manifest says `{}` [batch, {}, {}, {}]",
            input.name, input.dims, spec.input.name, wanted[0], wanted[1], wanted[2]
        )));
    }
    Ok(input.dims[0])
}

impl Engine for SoftwareEngine {
    type Pixels = Pixels;
    type Outputs = session::Outputs;

    fn ladder(&self) -> &[usize] {
        &self.ladder
    }

    fn outputs(&self) -> Vec<OutputShape> {
        let shape = |o: &session::TensorInfo| OutputShape::whole(&o.name, &o.dims);
        self.session.outputs().iter().map(shape).collect()
    }

    fn load(&mut self, slot: usize, frame: &Frame<Pixels>) -> Result<Placement, Fault> {
        let geometry = frame.pixels.geometry();
        let (plans, most) = match frame.pixels.is_still() {
            true => (&mut self.still_plans, MOST_STILL_PLANS),
            false => (&mut self.plans, MOST_PLANS),
        };
        if !plans.contains_key(geometry) {
            if plans.len() == most {
                plans.clear();
            }
            plans.insert(*geometry, Plan::new(geometry, &self.spec.input));
        }
        let plan = plans.get_mut(geometry).expect("inserted just above");
        let slot = &mut self.tensor[slot * self.slot_len..(slot + 1) * self.slot_len];
        plan.run(&frame.pixels.planes(), slot)?;
        Ok(plan.placement())
    }

    /// Runs it: the cores that would do anything else meanwhile are those that the run needs.
    fn submit(&mut self, count: usize) -> Result<(), Fault> {
        // Not by `input`, which would borrow the session too.
        let dims = self.spec.input.dims(count);
        let ran = self.session.run(&self.spec.input.name, &dims, &self.tensor[..count * self.slot_len]);
        self.done = Some(ran?);
        Ok(())
    }

    fn collect(&mut self) -> Result<session::Outputs, Fault> {
        self.done.take().ok_or_else(nothing_submitted)
    }
}

impl Outputs for session::Outputs {
    fn count(&self) -> usize {
        self.len()
    }

    fn view(&self, index: usize, slot: usize) -> TensorView<'_> {
        session::Outputs::view(self, index, slot)
    }
}
