//! The engine on the GPU: one kernel brings the pictures of a batch into the input tensor, ONNX Runtime's CUDA provider runs
//! the network on it, and only what can become a box leaves the GPU, where the family is one that can be sifted ([`Way`]).
//!
//! | stream | what runs there, batch by batch |
//! |---|---|
//! | prepare | pictures into the tensor, while the network is at the batch before |
//! | network | ONNX Runtime, and nothing else: where runs are recorded it never waits for the host |
//! | read | the search for boxes, or the copy of the outputs, to the host, while the network is at the batch behind |
//!
//! Events put the three of one batch in order. Two batches may be in flight, each in a [`Lane`] with memory of its own that is
//! bound once for each rung of the ladder: no picture crosses the bus. Where an output's size depends on what is seen, ONNX
//! Runtime copies it to the host itself, and waits: there one batch is in flight. A batch between two rungs runs as the larger one, since a new
//! shape costs cuDNN a search for its kernels; what the slots beyond hold is never read.
//!
//! ONNX Runtime keeps its records of runs (CUDA graphs) by thread: an engine that is used on another thread than the one that warmed it
//! up records anew, while decoders run. The daemon makes, warms and runs it on `infer`.

mod carry;
mod lane;
mod session;
mod sieve;
pub mod tensorrt;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaEvent, CudaStream};

pub use self::carry::float;
pub use self::lane::Outputs;
pub use self::session::{Setup, Tuning};

use self::lane::{Lane, Loaded, Way};
use self::session::{open_session, signature, way};
use self::tensorrt::Plan;
use super::Pixels;
use super::gpu::{self, Gpu};
use super::kernels::{Kernels, Slot};
use crate::clock::Bell;
use crate::device::software::engine::check_input;
use crate::device::software::session::{Runtime, TensorInfo};
use crate::device::{Engine, nothing_submitted};
use crate::fault::{Fault, Who};
use crate::flow::detect::OutputShape;
use crate::frame::Frame;
use crate::model::sizes;
use crate::model::spec::{ModelSpec, Placement};
use crate::supervise;

/// Batch sizes, ascending. One in between runs as the next: the steps are small where batches are large.
const RUNGS: [usize; 8] = [1, 2, 4, 8, 12, 16, 24, 32];

/// Batches in flight, where the host need not wait for a run.
const LANES: usize = 2;

/// How long before a batch's end the next one is taken: the host needs a part of it to describe the pictures and to start the
/// run, the GPU another to prepare them, and the end is foretold, not known.
const LEAD: Duration = Duration::from_micros(1500);

/// The GPU's engine.
pub struct NvidiaEngine {
    // Fields are dropped in this order: what the session lent before the session, the streams last.
    lanes: Vec<Lane>,
    /// One for all rungs, or one a rung, made with it: a session that is told all shapes has one, and one whose runs are not recorded builds
    /// all of its convolutions anew when it gets another shape than the last time, which takes a second.
    sessions: Vec<ort::session::Session>,
    shared: bool,
    open: Box<dyn Fn(usize) -> Result<ort::session::Session, Fault> + Send>,
    /// TensorRT's engines, where it is used.
    plan: Option<Arc<Plan>>,
    outputs: Vec<TensorInfo>,
    pending: Vec<Loaded>,
    /// Lanes whose batch was submitted and not collected, the oldest first.
    flying: VecDeque<usize>,
    watch: Option<crossbeam_channel::Sender<Arc<CudaEvent>>>,
    kernels: Arc<Kernels>,
    spec: Arc<ModelSpec>,
    ladder: Vec<usize>,
    graphs: bool,
    sifts: bool,
    streams: Streams,
    gpu: Arc<Gpu>,
}

// SAFETY: one thread at a time has it, by `&mut self`; a binding and its tensors are not tied to a thread.
unsafe impl Send for NvidiaEngine {}

/// See the table above.
struct Streams {
    prepare: Arc<CudaStream>,
    network: Arc<CudaStream>,
    read: Arc<CudaStream>,
}

impl Streams {
    /// The network goes first where both could run: what is prepared beside it has the whole run's time, and only fills its gaps (on an
    /// H100 95.7 % of the network alone; 93.3 % with the others first, 93.0 % with all on one stream).
    fn new(gpu: &Gpu) -> Result<Streams, Fault> {
        Ok(Streams { prepare: gpu.stream()?, network: gpu.urgent_stream()?, read: gpu.stream()? })
    }

    /// Waits for all that was started.
    fn settle(&self) -> Result<(), Fault> {
        let all = [&self.prepare, &self.network, &self.read];
        let ended = all.map(|stream| stream.synchronize());
        ended.into_iter().collect::<Result<(), _>>().map_err(|e| gpu::driver("a batch did not end", &e))
    }
}

impl NvidiaEngine {
    /// Opens the model on the GPU.
    ///
    /// # Errors
    /// When ONNX Runtime has no CUDA provider or that does not accept the model, or the model does not fit its manifest.
    pub fn open(
        gpu: &Arc<Gpu>,
        kernels: Arc<Kernels>,
        runtime: &Arc<Runtime>,
        spec: Arc<ModelSpec>,
        bytes: &Arc<[u8]>,
        max_batch: usize,
        setup: &Setup,
    ) -> Result<NvidiaEngine, Fault> {
        gpu.bind()?;
        let streams = Streams::new(gpu)?;
        let open = {
            let (runtime, bytes) = (Arc::clone(runtime), Arc::clone(bytes));
            let (spec, stream) = (Arc::clone(&spec), Arc::clone(&streams.network));
            move |setup: &Setup, fixed: &[(String, i64)], frames| {
                open_session(&runtime, &spec, &bytes, &stream, setup, fixed, frames)
            }
        };
        // TensorRT's provider has its own way to record, of which two lanes on one session cannot make use.
        let may_record = setup.tuning.graphs && setup.plan.is_none();
        // A record holds no copies to the host, and nothing that the CPU does: ONNX Runtime opens no other model so.
        let recorded = |fixed: &[(String, i64)]| {
            let session = may_record.then(|| open(setup, fixed, RUNGS[0])).and_then(Result::ok);
            session.filter(|session| way(&spec, session.outputs()).goes_on())
        };
        let mut session = recorded(&[]);
        let shared = session.is_some();
        // A graph that computes shapes does it on the CPU, unless it is told them all.
        let mut told = None;
        if let (None, Some(free)) = (&session, sizes::free(bytes, &spec.input)) {
            session = recorded(&free.at(RUNGS[0]));
            told = session.is_some().then_some(free);
        }
        let graphs = session.is_some();
        let plain = Setup { tuning: Tuning { graphs, ..setup.tuning }, plan: setup.plan.clone() };
        let session = match session {
            Some(session) => session,
            None => open(&plain, &[], RUNGS[0])?,
        };
        let outputs = signature(session.outputs());
        let batch = check_input(&signature(session.inputs()), &spec)?.filter(|_| told.is_none());
        let most = batch.unwrap_or(max_batch);
        let ladder: Vec<usize> = match batch {
            Some(fixed) => vec![fixed],
            None => RUNGS.into_iter().filter(|r| *r <= most).collect(),
        };
        let largest = ladder.last().copied().unwrap_or(1);
        let way = way(&spec, session.outputs());
        let lanes = if way.goes_on() { LANES } else { 1 };
        let lanes = (0..lanes).map(|_| Lane::new(gpu, &way, largest));
        Ok(NvidiaEngine {
            lanes: lanes.collect::<Result<_, _>>()?,
            sifts: matches!(way, Way::Sift(_)),
            sessions: vec![session],
            plan: setup.plan.clone(),
            shared,
            open: Box::new(move |frames| {
                let fixed = told.as_ref().map_or_else(Vec::new, |free| free.at(frames));
                open(&plain, &fixed, frames)
            }),
            outputs,
            pending: Vec::new(),
            flying: VecDeque::new(),
            watch: None,
            kernels,
            spec,
            ladder,
            graphs,
            streams,
            gpu: Arc::clone(gpu),
        })
    }

    /// Whether runs are recorded and replayed.
    pub fn replays(&self) -> bool {
        self.graphs
    }

    /// Whether only what can become a box leaves the GPU.
    pub fn sifts(&self) -> bool {
        self.sifts
    }

    /// For the one line at start: whether runs are replayed, in how many sessions, and what leaves the GPU.
    pub fn manner(&self) -> String {
        let runs = match (self.graphs, self.shared) {
            (true, true) => "replays its runs",
            (true, false) => "replays its runs, a session a batch size",
            // TensorRT has a way of its own.
            (false, _) if self.plan.is_some() => "an engine a batch size",
            (false, _) => "starts each kernel anew",
        };
        let leaves = if self.sifts { "boxes are picked on the GPU" } else { "its outputs are read whole" };
        format!("{runs}; {leaves}")
    }

    /// Runs the network alone, on whatever its memory holds, `times` times without waiting between, and waits for the last: how fast
    /// the engine could be.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn run_network(&mut self, count: usize, times: usize) -> Result<(), Fault> {
        self.gpu.bind()?;
        let rung = self.rung(count)?;
        for time in 0..times {
            let lane = time % self.lanes.len();
            let session = self.session(rung);
            self.lanes[lane].infer(rung, &mut self.sessions[session], &self.outputs, &self.spec)?;
        }
        self.streams.settle()
    }

    /// Prepares the pictures that are loaded, `times` times, and waits for the last: what the kernel costs by itself.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn run_preparation(&mut self, times: usize) -> Result<(), Fault> {
        self.gpu.bind()?;
        let count = self.pending.len();
        let rung = self.rung(count)?;
        self.lanes[0].loaded = std::mem::take(&mut self.pending);
        for _ in 0..times {
            self.lanes[0].fill(rung, &self.kernels, &self.streams.prepare, &self.spec.input)?;
        }
        let ended = self.streams.settle();
        self.lanes[0].loaded.clear();
        ended
    }

    /// The rung that a batch of `count` runs as, the same in each lane; the one beyond all that there are is made, and at first all
    /// below it.
    ///
    /// A run is recorded while nothing else happens on the GPU: a decoder that asks for memory meanwhile gets an error,
    /// and the record is void. So none is made later on for a batch that a larger one can take.
    fn rung(&mut self, count: usize) -> Result<usize, Fault> {
        if let Some(at) = self.lanes[0].rung(count) {
            return Ok(at);
        }
        let mut made = self.lanes[0].largest();
        let missing: Vec<usize> = self.ladder.iter().copied().filter(|rung| *rung > made).collect();
        for frames in missing {
            self.say_build(frames);
            if !self.shared && self.lanes[0].largest() > 0 {
                self.sessions.push((self.open)(frames)?);
            }
            if let Err(fault) = self.make_rung(frames) {
                // Whole or not at all: the next batch would find it in one lane, and not in the other.
                self.lanes.iter_mut().for_each(|lane| lane.forget(made));
                let sessions = if self.shared { 1 } else { self.lanes[0].count().max(1) };
                self.sessions.truncate(sessions);
                return Err(fault);
            }
            made = frames;
            if frames >= count {
                break;
            }
        }
        let beyond =
            || Fault::new(Who::Bug, "batch", format!("a batch of {count} is larger than the ladder"));
        self.lanes[0].rung(count).ok_or_else(beyond)
    }

    /// Makes one in each lane, on the last session, and runs it once.
    fn make_rung(&mut self, frames: usize) -> Result<(), Fault> {
        let session = self.sessions.len() - 1;
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            let record = self.graphs.then_some(LANES * frames + number);
            let at = lane.bind(
                frames,
                record,
                &self.sessions[session],
                &self.outputs,
                &self.spec,
                &self.streams.network,
            )?;
            lane.infer(at, &mut self.sessions[session], &self.outputs, &self.spec)?;
            self.streams.settle()?;
        }
        Ok(())
    }

    /// Minutes without a word would look like a hang.
    fn say_build(&self, frames: usize) {
        let Some(plan) = self.plan.as_ref().filter(|plan| !plan.is_built(frames)) else { return };
        let (rung, rungs) =
            (self.ladder.iter().position(|rung| *rung == frames).map_or(0, |at| at + 1), self.ladder.len());
        tracing::info!(batch = frames, rung, rungs, folder = %plan.folder(frames).display(), "Building the engine with {}; it is kept.", plan.provider);
    }

    /// Which session a rung is bound to.
    fn session(&self, rung: usize) -> usize {
        if self.shared { 0 } else { rung }
    }

    /// Starts all that a batch needs.
    fn start(&mut self, lane: usize, count: usize) -> Result<(), Fault> {
        let rung = self.rung(count)?;
        let session = self.session(rung);
        let lane = &mut self.lanes[lane];
        let streams = &self.streams;
        let failed = |e| gpu::driver("the batch cannot be started", &e);
        lane.fill(rung, &self.kernels, &streams.prepare, &self.spec.input)?;
        lane.prepared.record(&streams.prepare).map_err(failed)?;
        streams.network.wait(&lane.prepared).map_err(failed)?;
        lane.infer(rung, &mut self.sessions[session], &self.outputs, &self.spec)?;
        lane.ran.record(&streams.network).map_err(failed)?;
        streams.read.wait(&lane.ran).map_err(failed)?;
        lane.bring(rung, count, &self.kernels, &streams.read)?;
        lane.done.record(&streams.read).map_err(failed)
    }
}

impl Drop for NvidiaEngine {
    fn drop(&mut self) {
        // The surfaces go back to where decoders write, and the memory to others: nothing may use them any more.
        if let Err(earlier) = self.gpu.bind().and_then(|()| self.streams.settle()) {
            // It may be of another thread's call, which is no reason not to wait.
            tracing::debug!("Before the engine was closed: {earlier}");
            let _ = self.gpu.bind();
            if let Err(fault) = self.streams.settle() {
                tracing::warn!("The engine cannot be closed properly: {fault}");
            }
        }
    }
}

impl Engine for NvidiaEngine {
    type Pixels = Pixels;
    type Outputs = Outputs;

    fn ladder(&self) -> &[usize] {
        &self.ladder
    }

    fn outputs(&self) -> Vec<OutputShape> {
        let picked = self.sifts;
        self.outputs.iter().map(|o| OutputShape { picked, ..OutputShape::whole(&o.name, &o.dims) }).collect()
    }

    fn depth(&self) -> usize {
        self.lanes.len()
    }

    fn pads(&self) -> bool {
        true
    }

    fn lead(&self) -> Duration {
        LEAD
    }

    fn ring_when_done(&mut self, bell: Bell) {
        if self.depth() == 1 {
            return;
        }
        let (watch, events) = crossbeam_channel::bounded::<Arc<CudaEvent>>(LANES);
        // Ends when this engine drops the other end. Counted as the engine's by its name.
        let spawned = supervise::spawn("infer", move || {
            for event in events {
                // Failed or not: who collects it hears of it.
                let _ = event.synchronize();
                bell.ring();
            }
        });
        // Without it results are found when the next frame comes, or the next second.
        match spawned {
            Ok(_) => self.watch = Some(watch),
            Err(fault) => tracing::warn!("Batches will be late: {fault}"),
        }
    }

    fn load(&mut self, slot: usize, frame: &Frame<Pixels>) -> Result<Placement, Fault> {
        let (described, place) = Slot::new(frame.pixels.surface(), &self.spec.input);
        self.pending.truncate(slot);
        debug_assert_eq!(self.pending.len(), slot, "slots are loaded in order");
        self.pending.push(Loaded { slot: described, surface: Arc::clone(frame.pixels.surface()) });
        Ok(place)
    }

    fn submit(&mut self, count: usize) -> Result<(), Fault> {
        self.gpu.bind()?;
        let free = (0..self.lanes.len()).find(|lane| !self.flying.contains(lane));
        let lane =
            free.ok_or_else(|| Fault::new(Who::Bug, "engine", "as many batches are in flight as can be"))?;
        self.pending.truncate(count);
        self.lanes[lane].loaded = std::mem::take(&mut self.pending);
        if let Err(fault) = self.start(lane, count) {
            // The surfaces go back to where decoders write: nothing may read them any more.
            let _ = self.streams.settle();
            self.lanes[lane].loaded.clear();
            return Err(fault);
        }
        self.flying.push_back(lane);
        if let Some(watch) = &self.watch {
            // Full only when results were fetched before the watch looked: then nobody waits for it.
            let _ = watch.try_send(Arc::clone(&self.lanes[lane].done));
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        // An error is for `collect` to tell.
        self.flying.front().is_none_or(|lane| !matches!(self.lanes[*lane].done.try_is_complete(), Ok(false)))
    }

    fn collect(&mut self) -> Result<Outputs, Fault> {
        self.gpu.bind()?;
        let lane = self.flying.pop_front().ok_or_else(nothing_submitted)?;
        let lane = &mut self.lanes[lane];
        let ended = lane.done.synchronize().map_err(|e| gpu::driver("the batch did not end", &e));
        if ended.is_err() {
            let _ = self.streams.settle();
        }
        lane.loaded.clear();
        ended.and_then(|()| lane.results())
    }
}
