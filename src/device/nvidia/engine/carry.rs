//! What leaves the GPU where the network's outputs are read whole: a copy of each, started behind the run.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUdeviceptr};
use cudarc::driver::{CudaStream, PinnedHostSlice, result};
use ort::value::{Outlet, TensorElementType, ValueType};

use super::session::is_half;
use crate::device::nvidia::gpu::{self, Gpu};
use crate::fault::Fault;
use crate::model::spec::TensorView;

/// An output of a size that does not depend on what is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    /// Without the batch.
    pub dims: Vec<usize>,
    /// It holds 16-bit floats, not 32-bit ones.
    pub half: bool,
}

impl Fixed {
    /// Values a picture.
    fn len(&self) -> usize {
        self.dims.iter().product()
    }

    fn bytes(&self) -> usize {
        self.len() * if self.half { 2 } else { 4 }
    }
}

/// The outputs, if all of them are of fixed size and of floats: then their memory can be bound once, and runs recorded.
pub(super) fn fixed(outputs: &[Outlet]) -> Option<Vec<Fixed>> {
    let one = |outlet: &Outlet| {
        let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else { return None };
        let floats = matches!(ty, TensorElementType::Float32 | TensorElementType::Float16);
        let dims = shape.iter().skip(1).map(|d| usize::try_from(*d).ok()).collect::<Option<Vec<_>>>()?;
        // One of no size would ask for no memory, which is an error of its own.
        let some = !shape.is_empty() && !dims.contains(&0);
        (floats && some).then(|| Fixed { dims, half: is_half(outlet) })
    };
    outputs.iter().map(one).collect()
}

/// Brings the outputs of a batch to the host.
pub(super) struct Carry {
    outputs: Vec<(Fixed, PinnedHostSlice<u8>)>,
    gpu: Arc<Gpu>,
}

impl Carry {
    /// For batches of up to `largest`.
    pub fn new(gpu: &Arc<Gpu>, outputs: &[Fixed], largest: usize) -> Result<Carry, Fault> {
        let pinned = |output: &Fixed| {
            // SAFETY: plain bytes, read only where a copy has written.
            unsafe {
                gpu.context.alloc_pinned_with_flags(largest * output.bytes(), sys::CU_MEMHOSTALLOC_PORTABLE)
            }
            .map(|host| (output.clone(), host))
            .map_err(|e| gpu::driver("no pinned memory for outputs", &e))
        };
        Ok(Carry { outputs: outputs.iter().map(pinned).collect::<Result<_, _>>()?, gpu: Arc::clone(gpu) })
    }

    /// What is carried.
    pub fn outputs(&self) -> impl Iterator<Item = &Fixed> {
        self.outputs.iter().map(|(output, _)| output)
    }

    /// Starts the copies of the first `count` slots; `from`: where the outputs lie. Does not wait.
    pub fn start(
        &mut self,
        stream: &Arc<CudaStream>,
        from: &[CUdeviceptr],
        count: usize,
    ) -> Result<(), Fault> {
        let failed = |e| gpu::driver("the outputs cannot be read", &e);
        for ((output, host), from) in self.outputs.iter_mut().zip(from) {
            let len = count * output.bytes();
            let host = &mut host.as_mut_slice().map_err(failed)?[..len];
            // SAFETY: the output is at least as long; nothing reads `host` until the stream is done.
            unsafe { result::memcpy_dtoh_async(host, *from, stream.cu_stream()) }.map_err(failed)?;
            self.gpu.traffic.fetched(len);
        }
        Ok(())
    }

    /// The first `count` slots, when all that was started is done.
    pub fn read(&self, count: usize) -> Result<Vec<Carried>, Fault> {
        let failed = |e| gpu::driver("the outputs cannot be read", &e);
        let one = |(output, host): &(Fixed, PinnedHostSlice<u8>)| {
            let bytes = &host.as_slice().map_err(failed)?[..count * output.bytes()];
            let data = if output.half {
                bytes.chunks_exact(2).map(|b| float(u16::from_le_bytes([b[0], b[1]]))).collect()
            } else {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            };
            Ok(Carried { shape: output.dims.clone(), data })
        };
        self.outputs.iter().map(one).collect()
    }
}

/// One output of a batch.
#[derive(Debug)]
pub struct Carried {
    /// Without the batch.
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl Carried {
    /// One picture's part.
    pub fn view(&self, slot: usize) -> TensorView<'_> {
        let len = self.shape.iter().product::<usize>();
        TensorView { shape: &self.shape, data: &self.data[slot * len..][..len] }
    }
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
