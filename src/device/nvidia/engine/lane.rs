//! The memory of one batch in flight, bound to the session rung by rung.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUdeviceptr};
use cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::{DynTensor, TensorElementType};

use super::carry::{Carried, Carry, Fixed};
use super::session::{engine_fault, is_half};
use super::sieve::{Shape, Sieve, Sifted};
use crate::device::nvidia::gpu::{self, Gpu, Memory, Surface};
use crate::device::nvidia::kernels::{Kernels, SLOT_BYTES, Slot, Tensor};
use crate::device::software::session::{Output, TensorInfo};
use crate::fault::{Fault, Who};
use crate::model::spec::{InputSpec, ModelSpec, TensorView};

/// A picture of a batch. Held until the GPU has read it.
pub(super) struct Loaded {
    pub slot: Slot,
    pub surface: Arc<Surface>,
}

/// One batch size: its memory, bound to the session.
struct Rung {
    frames: usize,
    binding: IoBinding,
    options: RunOptions,
    input: Tensor,
    /// Where the outputs lie, unless ONNX Runtime brings them to the host itself.
    outputs: Vec<CUdeviceptr>,
    /// Keep the memory alive.
    _tensors: Vec<DynTensor>,
}

/// How the outputs leave the GPU.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// Only what can become a box.
    Sift(Shape),
    /// Whole, copied behind the run.
    Carry(Vec<Fixed>),
    /// Whole, by ONNX Runtime, which waits for them: outputs whose size depends on what is seen, or of integers.
    Fetch,
}

impl Way {
    /// The outputs stay on the GPU until they are brought: a run that is recorded need not be waited for.
    pub fn goes_on(&self) -> bool {
        !matches!(self, Way::Fetch)
    }
}

/// The same, with the memory for it.
enum Exit {
    Sift(Sieve),
    Carry(Carry),
    Fetch(Option<Vec<Output>>),
}

/// What one batch in flight has for itself.
pub(super) struct Lane {
    rungs: Vec<Rung>,
    exit: Exit,
    /// The slots' descriptions, on the GPU and on their way there.
    described: Memory,
    description: PinnedHostSlice<u8>,
    /// The pictures of the batch.
    pub loaded: Vec<Loaded>,
    /// How many slots of the results are of this batch.
    count: usize,
    /// The pictures are in the tensor.
    pub prepared: CudaEvent,
    /// The network has run.
    pub ran: CudaEvent,
    /// All is done. Whoever waits for it sleeps.
    pub done: Arc<CudaEvent>,
}

impl Lane {
    /// For batches of up to `largest`.
    pub fn new(gpu: &Arc<Gpu>, way: &Way, largest: usize) -> Result<Lane, Fault> {
        let failed = |e| gpu::driver("no memory for a batch", &e);
        let event = |flags| gpu.context.new_event(flags).map_err(failed);
        // SAFETY: plain bytes, written before they are read.
        let description = unsafe {
            gpu.context.alloc_pinned_with_flags(largest * SLOT_BYTES, sys::CU_MEMHOSTALLOC_PORTABLE)
        };
        Ok(Lane {
            rungs: Vec::new(),
            exit: match way {
                Way::Sift(shape) => Exit::Sift(Sieve::new(gpu, shape.clone(), largest)?),
                Way::Carry(outputs) => Exit::Carry(Carry::new(gpu, outputs, largest)?),
                Way::Fetch => Exit::Fetch(None),
            },
            described: Memory::new(gpu, largest * SLOT_BYTES)?,
            description: description.map_err(failed)?,
            loaded: Vec::new(),
            count: 0,
            prepared: event(None)?,
            ran: event(None)?,
            done: Arc::new(event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC))?),
        })
    }

    /// The largest rung that is made, in frames.
    pub fn largest(&self) -> usize {
        self.rungs.last().map_or(0, |rung| rung.frames)
    }

    /// How many rungs are made.
    pub fn count(&self) -> usize {
        self.rungs.len()
    }

    /// Drops the rungs above so many frames.
    pub fn forget(&mut self, frames: usize) {
        self.rungs.retain(|rung| rung.frames <= frames);
    }

    /// The smallest rung for so many frames.
    pub fn rung(&self, count: usize) -> Option<usize> {
        self.rungs.iter().position(|rung| rung.frames >= count)
    }

    /// Makes the next rung. Its runs are recorded as number `record`, if there is one.
    pub fn bind(
        &mut self,
        frames: usize,
        record: Option<usize>,
        session: &Session,
        outputs: &[TensorInfo],
        spec: &ModelSpec,
        stream: &CudaStream,
    ) -> Result<usize, Fault> {
        let bad = |e: ort::Error| engine_fault(&spec.name, &e);
        let ordinal = i32::try_from(stream.context().ordinal()).unwrap_or(0);
        let on_gpu = |ty| MemoryInfo::new(AllocationDevice::CUDA, ordinal, AllocatorType::Device, ty);
        let allocator = Allocator::new(session, on_gpu(MemoryType::Default).map_err(bad)?).map_err(bad)?;
        let tensor = |half: bool, dims: &[usize]| {
            let ty = if half { TensorElementType::Float16 } else { TensorElementType::Float32 };
            DynTensor::new(&allocator, ty, dims).map_err(bad)
        };
        let dims = spec.input.dims(frames);
        let half = session.inputs().iter().all(is_half);
        let mut input = tensor(half, &dims)?;
        let at = Tensor { at: input.data_ptr_mut() as CUdeviceptr, half };
        // SAFETY: the tensor's own memory, which nothing else uses yet.
        unsafe {
            result::memset_d8_async(at.at, 0, dims.iter().product::<usize>() * at.bytes(), stream.cu_stream())
        }
        .map_err(|e| gpu::driver("the engine's memory cannot be cleared", &e))?;
        let mut binding = session.create_binding().map_err(bad)?;
        binding.bind_input(spec.input.name.as_str(), &input).map_err(bad)?;
        let mut tensors = vec![input];
        let mut lie = Vec::new();
        let mut options = RunOptions::new().map_err(bad)?;
        let kinds: Vec<bool> = match &self.exit {
            Exit::Sift(sieve) => vec![sieve.half()],
            Exit::Carry(carry) => carry.outputs().map(|output| output.half).collect(),
            Exit::Fetch(_) => Vec::new(),
        };
        for (output, half) in outputs.iter().zip(&kinds) {
            let dims: Vec<usize> = std::iter::once(Some(frames))
                .chain(output.dims.iter().skip(1).copied())
                .collect::<Option<_>>()
                .ok_or_else(|| Fault::new(Who::Bug, "engine", "an output of no size is bound"))?;
            let mut made = tensor(*half, &dims)?;
            lie.push(made.data_ptr_mut() as CUdeviceptr);
            binding.bind_output(output.name.as_str(), &mut made).map_err(bad)?;
            tensors.push(made);
        }
        if kinds.is_empty() {
            let host =
                MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
                    .map_err(bad)?;
            for output in outputs {
                binding.bind_output_to_device(output.name.as_str(), &host).map_err(bad)?;
            }
        } else if record.is_some() {
            // A recorded run returns when it has started; who needs its end waits for an event. One that is not recorded may have parts on the CPU,
            // for which ONNX Runtime keeps pinned memory until somebody waits for the device. If nobody does, that grows, and is given back by a
            // callback of CUDA when the session goes, in which freeing it is "not permitted": that ends the process (seen on an H100).
            options.disable_device_sync().map_err(bad)?;
        }
        if let Some(record) = record {
            options.set("gpu_graph_id", record.to_string()).map_err(bad)?;
        }
        self.rungs.push(Rung { frames, binding, options, input: at, outputs: lie, _tensors: tensors });
        Ok(self.rungs.len() - 1)
    }

    /// Starts what brings the pictures into the rung's tensor.
    pub fn fill(
        &mut self,
        rung: usize,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
        input: &InputSpec,
    ) -> Result<(), Fault> {
        if self.loaded.is_empty() {
            return Ok(());
        }
        let failed = |e| gpu::driver("the batch cannot be prepared", &e);
        for one in &self.loaded {
            stream.wait(one.surface.written()).map_err(failed)?;
        }
        let slots: Vec<Slot> = self.loaded.iter().map(|one| one.slot).collect();
        let bytes = Slot::as_bytes(&slots);
        let description = &mut self.description.as_mut_slice().map_err(failed)?[..bytes.len()];
        description.copy_from_slice(bytes);
        self.described.gpu().traffic.sent(bytes.len());
        // SAFETY: both have room for the largest batch, and this lane's last batch has been collected: nothing reads them. The surfaces
        // are held in `loaded` until this one has been.
        unsafe {
            result::memcpy_htod_async(self.described.at(), description, stream.cu_stream())
                .map_err(failed)?;
            kernels.letterbox(stream, self.described.at(), self.rungs[rung].input, slots.len(), input)
        }
    }

    /// Runs the network; where its outputs stay on the GPU, it may only be started.
    pub fn infer(
        &mut self,
        rung: usize,
        session: &mut Session,
        outputs: &[TensorInfo],
        spec: &ModelSpec,
    ) -> Result<(), Fault> {
        let name = &spec.name;
        let Rung { binding, options, .. } = &self.rungs[rung];
        let mut results =
            session.run_binding_with_options(binding, options).map_err(|e| engine_fault(name, &e))?;
        let Exit::Fetch(fetched) = &mut self.exit else { return Ok(()) };
        let mut tensors = Vec::with_capacity(outputs.len());
        for info in outputs {
            let value = results.remove(&info.name).ok_or_else(|| {
                Fault::new(Who::Device, "engine", format!("output `{}` is missing", info.name))
            })?;
            let output = Output::new(&info.name, value)
                .map_err(|e| Fault::new(Who::Device, "engine", format!("model {name}: {e}")))?;
            self.described.gpu().traffic.fetched(output.bytes());
            tensors.push(output);
        }
        *fetched = Some(tensors);
        Ok(())
    }

    /// Starts what brings the results of the first `count` slots to the host.
    pub fn bring(
        &mut self,
        rung: usize,
        count: usize,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), Fault> {
        self.count = count;
        let from = &self.rungs[rung].outputs;
        match &mut self.exit {
            Exit::Sift(sieve) => sieve.start(kernels, stream, from[0], count),
            Exit::Carry(carry) => carry.start(stream, from, count),
            Exit::Fetch(_) => Ok(()),
        }
    }

    /// The results of the batch, when `done` has been reached.
    pub fn results(&mut self) -> Result<Outputs, Fault> {
        match &mut self.exit {
            Exit::Sift(sieve) => sieve.read(self.count).map(Outputs::Sifted),
            Exit::Carry(carry) => carry.read(self.count).map(Outputs::Carried),
            Exit::Fetch(fetched) => fetched
                .take()
                .map(Outputs::Fetched)
                .ok_or_else(|| Fault::new(Who::Bug, "engine", "a batch has no results")),
        }
    }
}

/// The results of one run.
#[derive(Debug)]
pub enum Outputs {
    /// Every output, as ONNX Runtime left it.
    Fetched(Vec<Output>),
    /// Every output, whole.
    Carried(Vec<Carried>),
    /// The one output's anchors that can become boxes, by slot.
    Sifted(Vec<Sifted>),
}

impl crate::device::Outputs for Outputs {
    fn count(&self) -> usize {
        match self {
            Outputs::Fetched(outputs) => outputs.len(),
            Outputs::Carried(outputs) => outputs.len(),
            Outputs::Sifted(_) => 1,
        }
    }

    fn view(&self, index: usize, slot: usize) -> TensorView<'_> {
        match self {
            Outputs::Fetched(outputs) => outputs[index].view(slot),
            Outputs::Carried(outputs) => outputs[index].view(slot),
            Outputs::Sifted(slots) => slots[slot].view(),
        }
    }
}
