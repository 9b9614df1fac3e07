//! The kernels of `kernels.cu`: compiled once, and launched with arguments that fit them.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaFunction, CudaStream, LaunchConfig, PushKernelArg, result};
use cudarc::nvrtc::{self, CompileError, CompileOptions};

use super::gpu::{self, Gpu, Layout as Planes, Memory, Surface};
use crate::device::software::preprocess::{Channel, ChromaSite, PixelFormat, Rect, channels, padding, place};
use crate::fault::{Fault, Who};
use crate::flow::detect::{Anchors, PICKED_ROW};
use crate::flow::still;
use crate::model::spec::{InputSpec, Layout, Placement};

const SOURCE: &str = include_str!("kernels.cu");

/// Threads in a block of `letterbox`: a warp along a row writes 128 bytes at once.
const TILE: (u32, u32) = (32, 8);
/// Threads in a block of `pick`.
const ANCHORS: u32 = 256;

/// One picture and its place in the tensor, as `kernels.cu` has it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    planes: [CUdeviceptr; 3],
    pitch: [i32; 2],
    step: i32,
    size: [i32; 2],
    at: [i32; 2],
    extent: [i32; 2],
    shift: f32,
    k: [[f32; 4]; 3],
    low: [f32; 3],
    high: [f32; 3],
}

/// Bytes of a [`Slot`].
pub const SLOT_BYTES: usize = size_of::<Slot>();

impl Slot {
    /// A picture for the tensor of `input`, and where it lies in there.
    pub fn new(surface: &Surface, input: &InputSpec) -> (Slot, Placement) {
        let layout = surface.layout();
        let geometry = &layout.geometry;
        let source = (geometry.size.width as usize, geometry.size.height as usize);
        let rect = place(source, (input.width as usize, input.height as usize), input.resize);
        let channels = channels(geometry, input);
        let slot = Slot {
            planes: layout.offset.map(|offset| surface.at() + offset as u64),
            pitch: layout.pitch.map(|pitch| pitch as i32),
            step: if geometry.format == PixelFormat::Nv12 { 2 } else { 1 },
            size: [source.0 as i32, source.1 as i32],
            at: [rect.x as i32, rect.y as i32],
            extent: [rect.width as i32, rect.height as i32],
            shift: if geometry.chroma == ChromaSite::Left { 0.25 } else { 0.0 },
            k: channels.map(|channel: Channel| channel.k),
            low: channels.map(|channel| channel.low),
            high: channels.map(|channel| channel.high),
        };
        (slot, placement(&rect, source))
    }

    /// As bytes, to be copied to the GPU.
    pub fn as_bytes(slots: &[Slot]) -> &[u8] {
        // SAFETY: plain numbers without padding (see the test): every byte is initialised.
        unsafe { std::slice::from_raw_parts(slots.as_ptr().cast(), size_of_val(slots)) }
    }
}

fn placement(rect: &Rect, source: (usize, usize)) -> Placement {
    Placement {
        scale_x: rect.width as f32 / source.0.max(1) as f32,
        scale_y: rect.height as f32 / source.1.max(1) as f32,
        offset_x: rect.x as f32,
        offset_y: rect.y as f32,
    }
}

/// The network's input on the GPU.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// Where it begins.
    pub at: CUdeviceptr,
    /// It holds 16-bit floats, not 32-bit ones.
    pub half: bool,
}

impl Tensor {
    /// Of one value.
    pub fn bytes(&self) -> usize {
        if self.half { 2 } else { 4 }
    }
}

/// The compiled kernels, each for values of 32 and of 16 bits.
#[derive(Debug)]
pub struct Kernels {
    letterbox: [CudaFunction; 2],
    pick: [CudaFunction; 2],
    luma_grid: CudaFunction,
}

/// What [`Kernels::pick`] reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    /// Slots × anchors × values.
    pub output: CUdeviceptr,
    /// It holds 16-bit floats, not 32-bit ones.
    pub half: bool,
    /// How many slots.
    pub slots: usize,
    /// How a slot's anchors lie.
    pub anchors: Anchors,
    /// u8, a class: not 0 if it has a name.
    pub named: CUdeviceptr,
    /// How many classes.
    pub classes: usize,
    /// What a score must reach.
    pub floor: f32,
    /// i32, a value a slot, all 0.
    pub counts: CUdeviceptr,
    /// f32, slots × anchors × [`PICKED_ROW`].
    pub found: CUdeviceptr,
}

impl Kernels {
    /// Compiles them for this GPU: a quarter of a second.
    ///
    /// # Errors
    /// When NVRTC is not here, or too old for the GPU.
    pub fn compile(gpu: &Gpu) -> Result<Kernels, Fault> {
        let fault = |message: String| {
            Fault::new(Who::Device, "no_nvrtc", message).remedy(
                "install CUDA's run-time compiler, libnvrtc.so.13 (Debian and Ubuntu: cuda-nvrtc-13-0)",
            )
        };
        // SAFETY: only looks whether the library can be opened.
        if !unsafe { nvrtc::sys::is_culib_present() } {
            return Err(fault("CUDA's run-time compiler is not here: libnvrtc.so cannot be opened".into()));
        }
        let failed = |e| gpu::driver("the kernels cannot be loaded", &e);
        let (major, minor) = gpu.context.compute_capability().map_err(failed)?;
        let options = CompileOptions {
            options: vec![format!("--gpu-architecture=compute_{major}{minor}")],
            name: Some("kernels.cu".into()),
            ..CompileOptions::default()
        };
        let ptx = nvrtc::compile_ptx_with_opts(SOURCE, options).map_err(|e| match e {
            CompileError::CompileError { log, .. } => fault(format!("NVRTC: {}", log.to_string_lossy())),
            other => fault(format!("NVRTC: {other:?}")),
        })?;
        let module = gpu.context.load_module(ptx).map_err(failed)?;
        let load = |name| module.load_function(name).map_err(failed);
        Ok(Kernels {
            letterbox: [load("letterbox")?, load("letterbox_half")?],
            pick: [load("pick")?, load("pick_half")?],
            luma_grid: load("luma_grid")?,
        })
    }

    /// Brings the pictures of the first `count` of `slots`, which lie on the GPU, into the tensor. Does not wait.
    ///
    /// # Errors
    /// When the driver fails.
    ///
    /// # Safety
    /// `slots` holds `count` [`Slot`]s whose surfaces live until the stream is done, and `tensor` as many slots of `input`.
    pub unsafe fn letterbox(
        &self,
        stream: &Arc<CudaStream>,
        slots: CUdeviceptr,
        tensor: Tensor,
        count: usize,
        input: &InputSpec,
    ) -> Result<(), Fault> {
        let (width, height) = (input.width as i32, input.height as i32);
        let interleaved = i32::from(input.layout == Layout::Nhwc);
        let pad = padding(input);
        let config = LaunchConfig {
            grid_dim: (input.width.div_ceil(TILE.0), input.height.div_ceil(TILE.1), count as u32),
            block_dim: (TILE.0, TILE.1, 1),
            shared_mem_bytes: 0,
        };
        let mut launch = stream.launch_builder(&self.letterbox[usize::from(tensor.half)]);
        launch.arg(&slots).arg(&tensor.at).arg(&width).arg(&height).arg(&interleaved);
        launch.arg(&pad[0]).arg(&pad[1]).arg(&pad[2]);
        // SAFETY: the arguments are those of the kernel; it stays inside of what the caller promises.
        unsafe { launch.launch(config) }.map_err(|e| gpu::driver("the preprocess cannot be started", &e))?;
        Ok(())
    }

    /// The tensor of these pictures, in host memory: for whoever wants to look at it. Waits.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn prepared(
        &self,
        gpu: &Arc<Gpu>,
        surfaces: &[Arc<Surface>],
        input: &InputSpec,
        half: bool,
    ) -> Result<(Vec<f32>, Vec<Placement>), Fault> {
        let failed = |e| gpu::driver("the tensor cannot be read", &e);
        let stream = gpu.stream()?;
        let (slots, places): (Vec<Slot>, Vec<Placement>) =
            surfaces.iter().map(|surface| Slot::new(surface, input)).unzip();
        let len = surfaces.len() * 3 * input.width as usize * input.height as usize;
        let on_gpu = Memory::new(gpu, len * 4)?;
        let tensor = Tensor { at: on_gpu.at(), half };
        // Bytes of which all are 1 are not a number, of either size.
        let mut bytes = vec![0xffu8; len * tensor.bytes()];
        let described = Memory::new(gpu, slots.len() * SLOT_BYTES)?;
        for surface in surfaces {
            stream.wait(surface.written()).map_err(failed)?;
        }
        // SAFETY: each of the length of what is copied or computed; `surfaces` outlive the wait at the end.
        unsafe {
            result::memcpy_htod_async(on_gpu.at(), &bytes, stream.cu_stream()).map_err(failed)?;
            result::memcpy_htod_async(described.at(), Slot::as_bytes(&slots), stream.cu_stream())
                .map_err(failed)?;
            self.letterbox(&stream, described.at(), tensor, slots.len(), input)?;
            stream.synchronize().map_err(failed)?;
            result::memcpy_dtoh_sync(&mut bytes, on_gpu.at()).map_err(failed)?;
        }
        let values = if half {
            bytes.chunks_exact(2).map(|b| super::engine::float(u16::from_le_bytes([b[0], b[1]]))).collect()
        } else {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        Ok((values, places))
    }

    /// Starts to compute the grid that the motion gate compares, of a picture of at least [`still::LEAST`]; `cells` has room for a byte a cell.
    /// Does not wait.
    ///
    /// # Errors
    /// When the driver fails.
    ///
    /// # Safety
    /// The surface has been or is written on this stream; it and `cells` live until the stream is done.
    pub unsafe fn luma_grid(
        &self,
        stream: &Arc<CudaStream>,
        surface: &Surface,
        cells: CUdeviceptr,
    ) -> Result<(), Fault> {
        let Planes { geometry, offset, pitch } = surface.layout();
        let (luma, pitch) = (surface.at() + offset[0] as u64, pitch[0] as i32);
        let (width, height) = (geometry.size.width as i32, geometry.size.height as i32);
        let config = LaunchConfig {
            grid_dim: (still::GRID.0 as u32, still::GRID.1 as u32, 1),
            block_dim: (32, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut launch = stream.launch_builder(&self.luma_grid);
        launch.arg(&luma).arg(&pitch).arg(&width).arg(&height).arg(&cells);
        // SAFETY: the arguments are those of the kernel; it stays inside of what the caller promises.
        unsafe { launch.launch(config) }.map_err(|e| gpu::driver("motion cannot be looked for", &e))?;
        Ok(())
    }

    /// Finds the anchors that can become boxes. Does not wait.
    ///
    /// # Errors
    /// When the driver fails.
    ///
    /// # Safety
    /// The memory is as [`Pick`] says, until the stream is done.
    pub unsafe fn pick(&self, stream: &Arc<CudaStream>, pick: &Pick) -> Result<(), Fault> {
        let anchors = &pick.anchors;
        let (count, classes, first) =
            (anchors.count as i32, pick.classes as i32, anchors.first_class() as i32);
        let steps = if anchors.by_rows { (anchors.values as i32, 1) } else { (1, count) };
        let config = LaunchConfig {
            grid_dim: ((anchors.count as u32).div_ceil(ANCHORS), pick.slots as u32, 1),
            block_dim: (ANCHORS, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut launch = stream.launch_builder(&self.pick[usize::from(pick.half)]);
        launch.arg(&pick.output).arg(&pick.named).arg(&classes).arg(&first).arg(&count);
        launch.arg(&steps.0).arg(&steps.1).arg(&pick.floor).arg(&pick.counts).arg(&pick.found);
        // SAFETY: the arguments are those of the kernel; it stays inside of what the caller promises.
        unsafe { launch.launch(config) }.map_err(|e| gpu::driver("the boxes cannot be looked for", &e))?;
        Ok(())
    }

    /// What [`Kernels::pick`] leaves of one frame's tensor, in an order of chance: for whoever wants to look at it. Waits.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn picked(
        &self,
        gpu: &Arc<Gpu>,
        data: &[f32],
        anchors: Anchors,
        named: &[bool],
        floor: f32,
    ) -> Result<Vec<f32>, Fault> {
        let failed = |e| gpu::driver("the rows cannot be read", &e);
        let stream = gpu.stream()?;
        let output = Memory::new(gpu, size_of_val(data))?;
        let names = Memory::new(gpu, named.len())?;
        let counts = Memory::new(gpu, size_of::<i32>())?;
        let mut rows = vec![0.0f32; anchors.count * PICKED_ROW];
        let found = Memory::new(gpu, size_of_val(rows.as_slice()))?;
        let bytes: Vec<u8> = named.iter().map(|named| u8::from(*named)).collect();
        let pick = Pick {
            output: output.at(),
            half: false,
            slots: 1,
            anchors,
            named: names.at(),
            classes: named.len(),
            floor,
            counts: counts.at(),
            found: found.at(),
        };
        let mut count = [0i32];
        // SAFETY: each of the length of what is copied or computed, and alive until the wait.
        unsafe {
            result::memcpy_htod_sync(output.at(), data).map_err(failed)?;
            result::memcpy_htod_sync(names.at(), &bytes).map_err(failed)?;
            result::memcpy_htod_sync(counts.at(), &count).map_err(failed)?;
            self.pick(&stream, &pick)?;
            stream.synchronize().map_err(failed)?;
            result::memcpy_dtoh_sync(&mut count, counts.at()).map_err(failed)?;
            result::memcpy_dtoh_sync(&mut rows, found.at()).map_err(failed)?;
        }
        rows.truncate(usize::try_from(count[0]).unwrap_or(0) * PICKED_ROW);
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// By C's rules for the struct in `kernels.cu`: three pointers, then 28 numbers of 4 bytes.
    #[test]
    fn slots_are_laid_out_as_in_c() {
        assert_eq!(SLOT_BYTES, 3 * 8 + 28 * 4);
        assert_eq!(offset_of!(Slot, step), 32);
        assert_eq!(offset_of!(Slot, shift), 60);
        assert_eq!(offset_of!(Slot, k), 64);
        assert_eq!(offset_of!(Slot, low), 112);
        assert_eq!(offset_of!(Slot, high), 124);
    }
}
