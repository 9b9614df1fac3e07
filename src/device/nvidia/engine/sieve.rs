//! What leaves the GPU: the outputs whole, or of one output only the anchors that can become boxes.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUdeviceptr};
use cudarc::driver::{CudaStream, PinnedHostSlice, result};

use crate::device::nvidia::gpu::{self, Gpu, Memory};
use crate::device::nvidia::kernels::{Kernels, Sift};
use crate::device::software::session::Output;
use crate::fault::Fault;
use crate::model::spec::TensorView;

/// Anchors a picture for which sifting has room; a picture with more is read whole.
const MOST_FOUND: usize = 1024;

/// What is sifted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Values an anchor: 4 and the classes.
    pub values: usize,
    pub anchors: usize,
    /// What a class must reach.
    pub floor: f32,
    /// The output holds 16-bit floats.
    pub half: bool,
}

/// Finds the anchors of a batch, and holds them.
pub(super) struct Sieve {
    shape: Shape,
    counts: Memory,
    /// Pinned, as `found`: a copy to other memory would hold the driver's lock, and with it every decoder, until the network ends.
    counted: PinnedHostSlice<i32>,
    /// Written by the GPU, over the bus: a few kilobytes a batch.
    found: PinnedHostSlice<f32>,
}

impl Sieve {
    /// For batches of up to `largest`.
    pub fn new(gpu: &Arc<Gpu>, shape: Shape, largest: usize) -> Result<Sieve, Fault> {
        let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_PORTABLE;
        let len = largest * MOST_FOUND * (shape.values + 1);
        let failed = |e| gpu::driver("no pinned memory for boxes", &e);
        // SAFETY: read only where the GPU says that it has written.
        let found = unsafe { gpu.context.alloc_pinned_with_flags(len, flags) }.map_err(failed)?;
        // SAFETY: the same.
        let counted = unsafe { gpu.context.alloc_pinned_with_flags(largest, flags) }.map_err(failed)?;
        Ok(Sieve { shape, counts: Memory::new(gpu, largest * size_of::<i32>())?, counted, found })
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
        let Shape { values, anchors, floor, half } = self.shape;
        let sift = Sift {
            output,
            half,
            slots: count,
            values,
            anchors,
            floor,
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
                .map_err(failed)
        }
    }

    /// What was found in the first `count` slots of `output`, when all that was started is done.
    pub fn read(&self, output: CUdeviceptr, count: usize) -> Result<Outputs, Fault> {
        let failed = |e| gpu::driver("the boxes cannot be read", &e);
        let rows = self.found.as_slice().map_err(failed)?;
        let counted = self.counted.as_slice().map_err(failed)?;
        let Shape { values, anchors, half, .. } = self.shape;
        let width = values + 1;
        let mut slots = Vec::with_capacity(count);
        let traffic = &self.counts.gpu().traffic;
        traffic.fetched(count * size_of::<i32>());
        for (slot, counted) in counted[..count].iter().enumerate() {
            let n = usize::try_from(*counted).unwrap_or(0);
            if n > MOST_FOUND {
                traffic.fetched(values * anchors * if half { 2 } else { 4 });
                let data = whole(output, half, slot, values * anchors).map_err(failed)?;
                slots.push(Sifted { shape: [values, anchors], data });
                continue;
            }
            traffic.fetched(n * width * size_of::<f32>());
            let mut rows: Vec<&[f32]> =
                rows[slot * MOST_FOUND * width..].chunks_exact(width).take(n).collect();
            // The GPU's order is that of chance.
            rows.sort_unstable_by_key(|row| row[0].to_bits());
            let data = (1..width).flat_map(|value| rows.iter().map(move |row| row[value])).collect();
            slots.push(Sifted { shape: [values, n], data });
        }
        Ok(Outputs::Sifted(slots))
    }
}

/// One slot of an output, as it is.
fn whole(
    output: CUdeviceptr,
    half: bool,
    slot: usize,
    len: usize,
) -> Result<Vec<f32>, cudarc::driver::DriverError> {
    if half {
        let mut bits = vec![0u16; len];
        let at = output + (slot * size_of_val(bits.as_slice())) as u64;
        // SAFETY: this slot's part of the output, which no batch in flight writes.
        unsafe { result::memcpy_dtoh_sync(&mut bits, at) }?;
        return Ok(bits.into_iter().map(float).collect());
    }
    let mut data = vec![0.0f32; len];
    let at = output + (slot * size_of_val(data.as_slice())) as u64;
    // SAFETY: the same.
    unsafe { result::memcpy_dtoh_sync(&mut data, at) }?;
    Ok(data)
}

/// A 16-bit float (IEEE 754 binary16) as an f32, which holds all of them exactly.
pub fn float(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, bits >> 10 & 31, f32::from(bits & 1023));
    let size = match exponent {
        0 => fraction * (-24f32).exp2(),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * (f32::from(exponent) - 25.0).exp2(),
    };
    if sign == 1 { -size } else { size }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_floats_are_read_as_ieee_754_has_them() {
        let known = [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0400, 6.103_515_6e-5),
            (0x0001, 5.960_464_5e-8),
            (0x3555, 0.333_251_95),
            (0x8000, -0.0),
            (0x7c00, f32::INFINITY),
        ];
        for (bits, value) in known {
            assert_eq!(float(bits).to_bits(), f32::to_bits(value), "{bits:#06x}");
        }
        assert!(float(0x7e00).is_nan());
    }
}
