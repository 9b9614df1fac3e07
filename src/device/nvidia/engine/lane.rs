//! The memory of one batch in flight, bound to the session rung by rung.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUdeviceptr};
use cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::{DynTensor, TensorElementType};

use super::session::{engine_fault, is_half};
use super::sieve::{Outputs, Shape, Sieve};
use crate::device::nvidia::gpu::{self, Gpu, Memory, Surface};
use crate::device::nvidia::kernels::{Kernels, SLOT_BYTES, Slot, Tensor};
use crate::device::software::session::{Output, TensorInfo};
use crate::fault::{Fault, Who};
use crate::model::spec::{InputSpec, ModelSpec};

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
    /// Of the one output that is sifted.
    output: Option<CUdeviceptr>,
    /// Keep the memory alive.
    _tensors: Vec<DynTensor>,
}

/// What one batch in flight has for itself.
pub(super) struct Lane {
    rungs: Vec<Rung>,
    /// Where only what can become a box leaves the GPU.
    sieve: Option<(Shape, Sieve)>,
    /// The slots' descriptions, on the GPU and on their way there.
    described: Memory,
    description: PinnedHostSlice<u8>,
    /// The pictures of the batch.
    pub loaded: Vec<Loaded>,
    /// What is there when the batch is done: where it lies, and how many slots of it, or the outputs themselves.
    sifting: Option<(CUdeviceptr, usize)>,
    whole: Option<Vec<Output>>,
    /// The pictures are in the tensor.
    pub prepared: CudaEvent,
    /// The network has run.
    pub ran: CudaEvent,
    /// All is done. Whoever waits for it sleeps.
    pub done: Arc<CudaEvent>,
}

impl Lane {
    /// For batches of up to `largest`.
    pub fn new(gpu: &Arc<Gpu>, sieve: Option<Shape>, largest: usize) -> Result<Lane, Fault> {
        let failed = |e| gpu::driver("no memory for a batch", &e);
        let event = |flags| gpu.context.new_event(flags).map_err(failed);
        // SAFETY: plain bytes, written before they are read.
        let description = unsafe {
            gpu.context.alloc_pinned_with_flags(largest * SLOT_BYTES, sys::CU_MEMHOSTALLOC_PORTABLE)
        };
        Ok(Lane {
            rungs: Vec::new(),
            sieve: sieve.map(|shape| Sieve::new(gpu, shape, largest).map(|s| (shape, s))).transpose()?,
            described: Memory::new(gpu, largest * SLOT_BYTES)?,
            description: description.map_err(failed)?,
            loaded: Vec::new(),
            sifting: None,
            whole: None,
            prepared: event(None)?,
            ran: event(None)?,
            done: Arc::new(event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC))?),
        })
    }

    /// Does only what can become a box leave the GPU?
    pub fn sifts(&self) -> bool {
        self.sieve.is_some()
    }

    /// The largest rung that is made, in frames.
    pub fn largest(&self) -> usize {
        self.rungs.last().map_or(0, |rung| rung.frames)
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
        let mut sifted = None;
        let mut options = RunOptions::new().map_err(bad)?;
        if let Some((shape, _)) = &self.sieve {
            let mut output = tensor(shape.half, &[frames, shape.values, shape.anchors])?;
            sifted = Some(output.data_ptr_mut() as CUdeviceptr);
            binding.bind_output(outputs[0].name.as_str(), &mut output).map_err(bad)?;
            tensors.push(output);
            // A recorded run returns when it has started; who needs its end waits for an event. One that is not recorded has parts on the CPU,
            // for which ONNX Runtime keeps pinned memory until somebody waits for the device. If nobody does, that grows, and is given back by a
            // callback of CUDA when the session goes, in which freeing it is "not permitted": that ends the process (seen on an H100).
            if record.is_some() {
                options.disable_device_sync().map_err(bad)?;
            }
        } else {
            let host =
                MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
                    .map_err(bad)?;
            for output in outputs {
                binding.bind_output_to_device(output.name.as_str(), &host).map_err(bad)?;
            }
        }
        if let Some(record) = record {
            options.set("gpu_graph_id", record.to_string()).map_err(bad)?;
        }
        self.rungs.push(Rung { frames, binding, options, input: at, output: sifted, _tensors: tensors });
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

    /// Runs the network; where it is sifted, only starts it.
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
        if self.sifts() {
            return Ok(());
        }
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
        self.whole = Some(tensors);
        Ok(())
    }

    /// Starts the search for boxes.
    pub fn sift(
        &mut self,
        rung: usize,
        count: usize,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), Fault> {
        self.sifting = None;
        if let (Some((_, sieve)), Some(output)) = (&mut self.sieve, self.rungs[rung].output) {
            sieve.start(kernels, stream, output, count)?;
            self.sifting = Some((output, count));
        }
        Ok(())
    }

    /// The results of the batch, when `done` has been reached.
    pub fn results(&mut self) -> Result<Outputs, Fault> {
        if let (Some((_, sieve)), Some((output, count))) = (&self.sieve, self.sifting.take()) {
            return sieve.read(output, count);
        }
        let whole = self.whole.take();
        whole.map(Outputs::Whole).ok_or_else(|| Fault::new(Who::Bug, "engine", "a batch has no results"))
    }
}
