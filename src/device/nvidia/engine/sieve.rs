//! What leaves the GPU where the network has one output of anchors: those that can become boxes, each as the row that
//! [`crate::flow::detect::pick`] describes.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUdeviceptr};
use cudarc::driver::{CudaStream, PinnedHostSlice, result};

use crate::device::nvidia::gpu::{self, Gpu, Memory};
use crate::device::nvidia::kernels::{Kernels, Pick};
use crate::fault::Fault;
use crate::flow::detect::{Anchors, PICKED_ROW};
use crate::model::spec::TensorView;

/// What is sifted.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub anchors: Anchors,
    /// Which classes have a name.
    pub named: Vec<bool>,
    /// What a score must reach.
    pub floor: f32,
    /// The output holds 16-bit floats.
    pub half: bool,
}

/// Finds the anchors of a batch, and holds them.
pub(super) struct Sieve {
    shape: Shape,
    /// A byte a class.
    named: Memory,
    counts: Memory,
    /// Pinned, as `found`: a copy to other memory would hold the driver's lock, and with it every decoder, until the network ends.
    counted: PinnedHostSlice<i32>,
    /// Written by the GPU, over the bus: some hundred bytes a picture, but there is room for every anchor.
    found: PinnedHostSlice<f32>,
}

impl Sieve {
    /// For batches of up to `largest`.
    pub fn new(gpu: &Arc<Gpu>, shape: Shape, largest: usize) -> Result<Sieve, Fault> {
        let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_PORTABLE;
        let len = largest * shape.anchors.count * PICKED_ROW;
        let failed = |e| gpu::driver("no pinned memory for boxes", &e);
        // SAFETY: read only where the GPU says that it has written.
        let found = unsafe { gpu.context.alloc_pinned_with_flags(len, flags) }.map_err(failed)?;
        // SAFETY: the same.
        let counted = unsafe { gpu.context.alloc_pinned_with_flags(largest, flags) }.map_err(failed)?;
        let named = Memory::new(gpu, shape.named.len())?;
        let bytes: Vec<u8> = shape.named.iter().map(|named| u8::from(*named)).collect();
        // SAFETY: as long as the memory, which nothing else uses yet.
        unsafe { result::memcpy_htod_sync(named.at(), &bytes) }.map_err(failed)?;
        Ok(Sieve { shape, named, counts: Memory::new(gpu, largest * size_of::<i32>())?, counted, found })
    }

    /// Whether the output holds 16-bit floats.
    pub fn half(&self) -> bool {
        self.shape.half
    }

    /// Starts the search in the first `count` slots of `output`. Does not wait: [`Sieve::read`] is for when the stream is done.
    pub fn start(
        &mut self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
        output: CUdeviceptr,
        count: usize,
    ) -> Result<(), Fault> {
        let failed = |e| gpu::driver("the boxes cannot be looked for", &e);
        let found = self.found.as_ptr().map_err(failed)?;
        let pick = Pick {
            output,
            half: self.shape.half,
            slots: count,
            anchors: self.shape.anchors,
            named: self.named.at(),
            classes: self.shape.named.len(),
            floor: self.shape.floor,
            counts: self.counts.at(),
            found: found as CUdeviceptr,
        };
        // SAFETY: `counts` and `found` have room for the largest batch; pinned memory has the same address on the GPU (CUDA
        // programming guide, "unified virtual address space").
        unsafe {
            result::memset_d8_async(self.counts.at(), 0, count * size_of::<i32>(), stream.cu_stream())
                .map_err(failed)?;
            kernels.pick(stream, &pick)?;
            let counted = self.counted.as_mut_slice().map_err(failed)?;
            result::memcpy_dtoh_async(&mut counted[..count], self.counts.at(), stream.cu_stream())
                .map_err(failed)
        }
    }

    /// What was found in the first `count` slots, when all that was started is done.
    pub fn read(&self, count: usize) -> Result<Vec<Sifted>, Fault> {
        let failed = |e| gpu::driver("the boxes cannot be read", &e);
        let rows = self.found.as_slice().map_err(failed)?;
        let counted = self.counted.as_slice().map_err(failed)?;
        let traffic = &self.counts.gpu().traffic;
        traffic.fetched(count * size_of::<i32>());
        let slot_len = self.shape.anchors.count * PICKED_ROW;
        let sifted = |(slot, counted): (usize, &i32)| {
            let n = usize::try_from(*counted).unwrap_or(0).min(self.shape.anchors.count);
            traffic.fetched(n * PICKED_ROW * size_of::<f32>());
            let mut rows: Vec<&[f32]> = rows[slot * slot_len..].chunks_exact(PICKED_ROW).take(n).collect();
            // The GPU's order is that of chance.
            rows.sort_unstable_by(|a, b| a[0].total_cmp(&b[0]));
            Sifted { shape: [n, PICKED_ROW], rows: rows.concat() }
        };
        Ok(counted[..count].iter().enumerate().map(sifted).collect())
    }
}

/// One picture's anchors that can become boxes.
#[derive(Debug)]
pub struct Sifted {
    shape: [usize; 2],
    rows: Vec<f32>,
}

impl Sifted {
    /// The rows, by number of the anchor.
    pub fn view(&self) -> TensorView<'_> {
        TensorView { shape: &self.shape, data: &self.rows }
    }
}
