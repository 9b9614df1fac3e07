//! The engine on the GPU: one kernel brings the pictures of a batch into the input tensor, ONNX Runtime's CUDA provider runs
//! the network on it, and only what can become a box leaves the GPU, where the family is one that can be sifted.
//!
//! Everything is done on one stream, in order, with memory that is bound once for each rung of the ladder: nothing of a
//! picture crosses the bus. A batch between two rungs runs as the larger one, since a new shape costs cuDNN a search for its
//! kernels; what the slots beyond hold is never read.
//!
//! ONNX Runtime keeps its records of runs (CUDA graphs) by thread: an engine that is used on another thread than the one that warmed it
//! up records anew, while decoders run. The daemon makes, warms and runs it on `infer`.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUdeviceptr};
use cudarc::driver::{CudaStream, PinnedHostSlice, result};
use ort::ep;
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{IoBinding, RunOptions};
use ort::value::{Tensor, TensorElementType, ValueType};

use super::Pixels;
use super::gpu::{self, Gpu, Memory, Surface};
use super::kernels::{Kernels, SLOT_BYTES, Sift, Slot};
use crate::device::Engine;
use crate::device::software::engine::{RUNGS, check_input};
use crate::device::software::session::{Output, Runtime, TensorInfo, first_line};
use crate::fault::{Fault, Who};
use crate::flow::detect::OutputShape;
use crate::frame::Frame;
use crate::model::spec::{Family, ModelSpec, Placement, TensorView};

/// Anchors a picture for which sifting has room; a picture with more is read whole.
const MOST_FOUND: usize = 1024;

/// How the CUDA provider is set up. The default is what is fastest where it was measured.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Channels last inside of the network, as tensor cores read them.
    pub nhwc: bool,
    /// Replays a recorded run instead of starting its kernels one by one, where the whole network runs on the GPU and its
    /// output is sifted there.
    pub graphs: bool,
    /// Lets f32 convolutions round their inputs to 10 bits of mantissa.
    pub tf32: bool,
    /// Tries all of cuDNN's convolutions at start rather than asking it for a guess.
    pub exhaustive: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning { nhwc: true, graphs: true, tf32: true, exhaustive: true }
    }
}

/// The GPU's engine.
pub struct NvidiaEngine {
    // Fields are dropped in this order: what the session lent before the session, the stream last.
    rungs: Vec<Rung>,
    session: ort::session::Session,
    outputs: Vec<TensorInfo>,
    head: Head,
    pending: Vec<Loaded>,
    /// Memory for the slots' descriptions.
    slots: Memory,
    kernels: Arc<Kernels>,
    spec: Arc<ModelSpec>,
    ladder: Vec<usize>,
    graphs: bool,
    stream: Arc<CudaStream>,
    gpu: Arc<Gpu>,
}

// SAFETY: one thread at a time has it, by `&mut self`; a binding and its tensors are not tied to a thread.
unsafe impl Send for NvidiaEngine {}

/// A picture that is to be in the next batch. Held until the GPU has read it.
struct Loaded {
    slot: Slot,
    surface: Arc<Surface>,
}

/// One batch size: its memory, bound to the session.
struct Rung {
    frames: usize,
    binding: IoBinding,
    options: RunOptions,
    input: CUdeviceptr,
    /// Of the one output that is sifted.
    output: Option<CUdeviceptr>,
    /// Keep the memory alive.
    _tensors: Vec<Tensor<f32>>,
}

/// What leaves the GPU.
enum Head {
    /// Every output, whole.
    Whole,
    /// The anchors of one output that reach the floor.
    Sifted(Box<Sieve>),
}

struct Sieve {
    values: usize,
    anchors: usize,
    floor: f32,
    counts: Memory,
    /// Pinned, as `found`: a copy to other memory would hold the driver's lock, and with it every decoder, until the network ends.
    counted: PinnedHostSlice<i32>,
    /// Written by the GPU, over the bus: a few kilobytes a batch.
    found: PinnedHostSlice<f32>,
}

impl NvidiaEngine {
    /// Opens the model on the GPU.
    ///
    /// # Errors
    /// When ONNX Runtime has no CUDA provider or that does not accept the model, or the model does not fit its manifest.
    pub fn open(
        gpu: &Arc<Gpu>,
        kernels: Arc<Kernels>,
        runtime: &Runtime,
        spec: Arc<ModelSpec>,
        bytes: &[u8],
        max_batch: usize,
        tuning: Tuning,
    ) -> Result<NvidiaEngine, Fault> {
        gpu.bind()?;
        let stream = gpu.stream()?;
        let recorded = tuning.graphs.then(|| open_session(runtime, &spec.name, bytes, &stream, tuning));
        // A record holds no copies to the host, and nothing that the CPU does.
        let recorded = recorded
            .and_then(Result::ok)
            .filter(|session| sifted(&spec, &signature(session.outputs())).is_some());
        let graphs = recorded.is_some();
        let session = match recorded {
            Some(session) => session,
            None => open_session(runtime, &spec.name, bytes, &stream, Tuning { graphs, ..tuning })?,
        };
        let outputs = signature(session.outputs());
        let batch = check_input(&signature(session.inputs()), &spec)?;
        let most = batch.unwrap_or(max_batch);
        let ladder: Vec<usize> = match batch {
            Some(fixed) => vec![fixed],
            None => RUNGS.into_iter().filter(|r| *r <= most).collect(),
        };
        let largest = ladder.last().copied().unwrap_or(1);
        let is_f32 = |o: &ort::value::Outlet| {
            matches!(o.dtype(), ValueType::Tensor { ty: TensorElementType::Float32, .. })
        };
        let head = match sifted(&spec, &outputs) {
            Some((values, anchors)) if session.outputs().iter().all(is_f32) => {
                let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_PORTABLE;
                let len = largest * MOST_FOUND * (values + 1);
                let failed = |e| gpu::driver("no pinned memory for boxes", &e);
                // SAFETY: read only where the GPU says that it has written.
                let found = unsafe { gpu.context.alloc_pinned_with_flags(len, flags) }.map_err(failed)?;
                // SAFETY: the same.
                let counted =
                    unsafe { gpu.context.alloc_pinned_with_flags(largest, flags) }.map_err(failed)?;
                Head::Sifted(Box::new(Sieve {
                    values,
                    anchors,
                    floor: spec.output.score_floor,
                    counts: Memory::new(gpu, largest * size_of::<i32>())?,
                    counted,
                    found,
                }))
            }
            _ => Head::Whole,
        };
        Ok(NvidiaEngine {
            rungs: Vec::new(),
            session,
            outputs,
            head,
            pending: Vec::new(),
            slots: Memory::new(gpu, largest * SLOT_BYTES)?,
            kernels,
            spec,
            ladder,
            graphs,
            stream,
            gpu: Arc::clone(gpu),
        })
    }

    /// Whether runs are recorded and replayed.
    pub fn replays(&self) -> bool {
        self.graphs
    }

    /// Whether only what can become a box leaves the GPU.
    pub fn sifts(&self) -> bool {
        matches!(self.head, Head::Sifted(_))
    }

    /// Runs the network alone, on whatever its memory holds, and waits: how fast the engine could be.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn run_network(&mut self, count: usize) -> Result<(), Fault> {
        self.gpu.bind()?;
        let rung = self.rung(count)?;
        let Rung { binding, options, .. } = &self.rungs[rung];
        let ran = self.session.run_binding_with_options(binding, options);
        ran.map_err(|e| engine_fault(&self.spec.name, &e))?;
        self.stream.synchronize().map_err(|e| gpu::driver("the batch did not end", &e))
    }

    /// The rung that a batch of `count` runs as; the one beyond all that there are is made, and at first all below it.
    ///
    /// A run is recorded while nothing else happens on the GPU: a decoder that asks for memory meanwhile gets an error,
    /// and the record is void. So none is made later on for a batch that a larger one can take.
    fn rung(&mut self, count: usize) -> Result<usize, Fault> {
        if let Some(at) = self.rungs.iter().position(|rung| rung.frames >= count) {
            return Ok(at);
        }
        let made = self.rungs.last().map_or(0, |rung| rung.frames);
        let missing: Vec<usize> = self.ladder.iter().copied().filter(|rung| *rung > made).collect();
        for frames in missing {
            let rung = self.bind(frames)?;
            let ran = self.session.run_binding_with_options(&rung.binding, &rung.options);
            ran.map_err(|e| engine_fault(&self.spec.name, &e))?;
            self.stream.synchronize().map_err(|e| gpu::driver("the first batch did not end", &e))?;
            self.rungs.push(rung);
            if frames >= count {
                break;
            }
        }
        let beyond =
            || Fault::new(Who::Bug, "batch", format!("a batch of {count} is larger than the ladder"));
        self.rungs.iter().position(|rung| rung.frames >= count).ok_or_else(beyond)
    }

    fn bind(&self, frames: usize) -> Result<Rung, Fault> {
        let bad = |e: ort::Error| engine_fault(&self.spec.name, &e);
        let on_gpu = |ty| MemoryInfo::new(AllocationDevice::CUDA, 0, AllocatorType::Device, ty);
        let allocator =
            Allocator::new(&self.session, on_gpu(MemoryType::Default).map_err(bad)?).map_err(bad)?;
        let dims = self.spec.input.dims(frames);
        let mut input = Tensor::<f32>::new(&allocator, dims).map_err(bad)?;
        let at = input.data_ptr_mut() as CUdeviceptr;
        let bytes = dims.iter().product::<usize>() * size_of::<f32>();
        // SAFETY: the tensor's own memory, which nothing else uses yet.
        unsafe { result::memset_d8_async(at, 0, bytes, self.stream.cu_stream()) }
            .map_err(|e| gpu::driver("the engine's memory cannot be cleared", &e))?;
        let mut binding = self.session.create_binding().map_err(bad)?;
        binding.bind_input(self.spec.input.name.as_str(), &input).map_err(bad)?;
        let mut tensors = vec![input];
        let mut sifted = None;
        match &self.head {
            Head::Sifted(sieve) => {
                let mut output =
                    Tensor::<f32>::new(&allocator, [frames, sieve.values, sieve.anchors]).map_err(bad)?;
                sifted = Some(output.data_ptr_mut() as CUdeviceptr);
                binding.bind_output(self.outputs[0].name.as_str(), &mut output).map_err(bad)?;
                tensors.push(output);
            }
            Head::Whole => {
                let host =
                    MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
                        .map_err(bad)?;
                for output in &self.outputs {
                    binding.bind_output_to_device(output.name.as_str(), &host).map_err(bad)?;
                }
            }
        }
        let mut options = RunOptions::new().map_err(bad)?;
        if sifted.is_some() {
            // The sift waits for the network on the GPU, and then we wait once for both.
            options.disable_device_sync().map_err(bad)?;
        }
        if self.graphs {
            options.set("gpu_graph_id", frames.to_string()).map_err(bad)?;
        }
        Ok(Rung { frames, binding, options, input: at, output: sifted, _tensors: tensors })
    }

    /// Starts what brings the loaded pictures into the rung's tensor.
    fn fill(&self, rung: usize, count: usize) -> Result<(), Fault> {
        let loaded = &self.pending[..count.min(self.pending.len())];
        if loaded.is_empty() {
            return Ok(());
        }
        let failed = |e| gpu::driver("the batch cannot be prepared", &e);
        for one in loaded {
            self.stream.wait(one.surface.written()).map_err(failed)?;
        }
        let slots: Vec<Slot> = loaded.iter().map(|one| one.slot).collect();
        // SAFETY: `slots` on the GPU has room for the largest batch; a copy from pageable memory has left it when the call returns.
        unsafe {
            result::memcpy_htod_async(self.slots.at(), Slot::as_bytes(&slots), self.stream.cu_stream())
        }
        .map_err(failed)?;
        // SAFETY: just copied; the surfaces are held in `pending` until `run` has seen the stream end.
        unsafe {
            self.kernels.letterbox(
                &self.stream,
                self.slots.at(),
                self.rungs[rung].input,
                slots.len(),
                &self.spec.input,
            )
        }
    }

    fn infer(&mut self, rung: usize, count: usize) -> Result<Outputs, Fault> {
        let name = &self.spec.name;
        let Rung { binding, options, output, frames, .. } = &self.rungs[rung];
        let mut results =
            self.session.run_binding_with_options(binding, options).map_err(|e| engine_fault(name, &e))?;
        let (Head::Sifted(sieve), Some(output)) = (&mut self.head, *output) else {
            let mut tensors = Vec::with_capacity(self.outputs.len());
            for info in &self.outputs {
                let value = results.remove(&info.name).ok_or_else(|| {
                    Fault::new(Who::Device, "engine", format!("output `{}` is missing", info.name))
                })?;
                let output = Output::new(&info.name, value)
                    .map_err(|e| Fault::new(Who::Device, "engine", format!("model {name}: {e}")))?;
                tensors.push(output);
            }
            return Ok(Outputs::Whole(tensors));
        };
        drop(results);
        debug_assert!(count <= *frames);
        sieve.sift(&self.kernels, &self.stream, output, count)
    }
}

fn signature(outlets: &[ort::value::Outlet]) -> Vec<TensorInfo> {
    let dims = |o: &ort::value::Outlet| match o.dtype() {
        ValueType::Tensor { shape, .. } => shape.iter().map(|d| usize::try_from(*d).ok()).collect(),
        _ => Vec::new(),
    };
    outlets.iter().map(|o| TensorInfo { name: o.name().to_owned(), dims: dims(o) }).collect()
}

fn engine_fault(model: &str, error: &dyn std::fmt::Display) -> Fault {
    let why = first_line(&error.to_string()).to_owned();
    Fault::new(Who::Device, "engine", format!("model {model}: the engine failed: {why}"))
}

/// Opens the model on the CUDA provider.
fn open_session(
    runtime: &Runtime,
    name: &str,
    bytes: &[u8],
    stream: &Arc<CudaStream>,
    tuning: Tuning,
) -> Result<ort::session::Session, Fault> {
    let bad = |e: &dyn std::fmt::Display| {
        let why = first_line(&e.to_string()).to_owned();
        let message = format!("model {name}: ONNX Runtime's CUDA provider cannot be used: {why}");
        Fault::new(Who::Device, "no_cuda_provider", message).remedy(
            "name the library of the PyPI wheel `onnxruntime-gpu` in [infer] onnxruntime, with its libonnxruntime_providers_*.so beside it; \
             it needs CUDA 13 and cuDNN 9",
        )
    };
    let search =
        if tuning.exhaustive { ConvAlgorithmSearch::Exhaustive } else { ConvAlgorithmSearch::Heuristic };
    let cuda = ep::CUDA::default()
        .with_device_id(0)
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
        .with_conv_algorithm_search(search)
        .with_prefer_nhwc(tuning.nhwc)
        .with_cuda_graph(tuning.graphs)
        .with_tf32(tuning.tf32);
    // SAFETY: the engine drops its stream after the session.
    let cuda = unsafe { cuda.with_compute_stream(stream.cu_stream().cast()) };
    ort::session::Session::builder(runtime.environment())
        .map_err(|e| bad(&e))?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(|e| bad(&e))?
        .with_intra_threads(1)
        .map_err(|e| bad(&e))?
        .with_execution_providers([cuda.build().error_on_failure()])
        .map_err(|e| bad(&e))?
        .commit_from_memory(bytes)
        .map_err(|e| bad(&e))
}

/// Values an anchor and anchors of the one output, if it is of a kind that the GPU can sift: [batch, 4 + classes, anchors].
fn sifted(spec: &ModelSpec, outputs: &[TensorInfo]) -> Option<(usize, usize)> {
    let [output] = outputs else { return None };
    let named = spec.output.names.is_empty() || spec.output.names == [output.name.as_str()];
    match output.dims[..] {
        [_, Some(values), Some(anchors)]
            if spec.output.family == Family::Yolov8 && values == 4 + spec.labels.len() && named =>
        {
            Some((values, anchors))
        }
        _ => None,
    }
}

impl Engine for NvidiaEngine {
    type Pixels = Pixels;
    type Outputs = Outputs;

    fn ladder(&self) -> &[usize] {
        &self.ladder
    }

    fn outputs(&self) -> Vec<OutputShape> {
        let shape = |o: &TensorInfo| OutputShape { name: o.name.clone(), dims: o.dims.clone() };
        let mut shapes: Vec<OutputShape> = self.outputs.iter().map(shape).collect();
        if let (Head::Sifted(_), Some(anchors)) = (&self.head, shapes[0].dims.last_mut()) {
            // Each picture has its own number of them.
            *anchors = None;
        }
        shapes
    }

    fn load(&mut self, slot: usize, frame: &Frame<Pixels>) -> Result<Placement, Fault> {
        let (described, place) = Slot::new(frame.pixels.surface(), &self.spec.input);
        self.pending.truncate(slot);
        debug_assert_eq!(self.pending.len(), slot, "slots are loaded in order");
        self.pending.push(Loaded { slot: described, surface: Arc::clone(frame.pixels.surface()) });
        Ok(place)
    }

    fn run(&mut self, count: usize) -> Result<Outputs, Fault> {
        self.gpu.bind()?;
        let ran = self.rung(count).and_then(|rung| {
            self.fill(rung, count)?;
            self.infer(rung, count)
        });
        // The surfaces go back to where decoders write: nothing may read them any more, whatever came of the run.
        let ended = self.stream.synchronize().map_err(|e| gpu::driver("the batch did not end", &e));
        self.pending.clear();
        ended.and(ran)
    }
}

impl Sieve {
    fn sift(
        &mut self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
        output: CUdeviceptr,
        count: usize,
    ) -> Result<Outputs, Fault> {
        let failed = |e| gpu::driver("the boxes cannot be read", &e);
        let found = self.found.as_ptr().map_err(failed)?;
        let sift = Sift {
            output,
            slots: count,
            values: self.values,
            anchors: self.anchors,
            floor: self.floor,
            most: MOST_FOUND,
            counts: self.counts.at(),
            found: found as CUdeviceptr,
        };
        // SAFETY: `counts` and `found` have room for the largest batch; pinned memory has the same address on the GPU (CUDA
        // programming guide, "unified virtual address space").
        unsafe {
            result::memset_d8_async(self.counts.at(), 0, count * size_of::<i32>(), stream.cu_stream())
                .map_err(failed)?;
            kernels.sift(stream, &sift)?;
            let counted = self.counted.as_mut_slice().map_err(failed)?;
            result::memcpy_dtoh_async(&mut counted[..count], self.counts.at(), stream.cu_stream())
                .map_err(failed)?;
        }
        stream.synchronize().map_err(failed)?;
        let rows = self.found.as_slice().map_err(failed)?;
        let counted = self.counted.as_slice().map_err(failed)?;
        let width = self.values + 1;
        let mut slots = Vec::with_capacity(count);
        for (slot, counted) in counted[..count].iter().enumerate() {
            let n = usize::try_from(*counted).unwrap_or(0);
            if n > MOST_FOUND {
                let mut data = vec![0.0f32; self.values * self.anchors];
                let at = output + (slot * data.len() * size_of::<f32>()) as u64;
                // SAFETY: this slot's part of the output.
                unsafe { result::memcpy_dtoh_sync(&mut data, at) }.map_err(failed)?;
                slots.push(Sifted { shape: [self.values, self.anchors], data });
                continue;
            }
            let mut rows: Vec<&[f32]> =
                rows[slot * MOST_FOUND * width..].chunks_exact(width).take(n).collect();
            // The GPU's order is that of chance.
            rows.sort_unstable_by_key(|row| row[0].to_bits());
            let data = (1..width).flat_map(|value| rows.iter().map(move |row| row[value])).collect();
            slots.push(Sifted { shape: [self.values, n], data });
        }
        Ok(Outputs::Sifted(slots))
    }
}

/// The results of one run.
#[derive(Debug)]
pub enum Outputs {
    /// Every output, whole.
    Whole(Vec<Output>),
    /// The one output's anchors that can become boxes, by slot.
    Sifted(Vec<Sifted>),
}

/// One picture's anchors.
#[derive(Debug)]
pub struct Sifted {
    shape: [usize; 2],
    data: Vec<f32>,
}

impl crate::device::Outputs for Outputs {
    fn count(&self) -> usize {
        match self {
            Outputs::Whole(outputs) => outputs.len(),
            Outputs::Sifted(_) => 1,
        }
    }

    fn view(&self, index: usize, slot: usize) -> TensorView<'_> {
        match self {
            Outputs::Whole(outputs) => outputs[index].view(slot),
            Outputs::Sifted(slots) => TensorView { shape: &slots[slot].shape, data: &slots[slot].data },
        }
    }
}
