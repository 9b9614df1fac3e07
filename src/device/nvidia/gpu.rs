//! The GPU itself: finding it, its memory, and what its driver's errors mean in our words.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{self, CUdeviceptr};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, PinnedHostSlice, result};

use super::cuvid::{CODEC_AV1, CODEC_H264, CODEC_HEVC, CODEC_VP9, Cuvid, DecodeCaps};
use super::kernels::Kernels;
use crate::device::software::preprocess::Geometry;
use crate::fault::{Fault, Retry, Who};
use crate::flow::still::{self, Grid};

/// CUDA 13, which ONNX Runtime's GPU build and our kernels want.
const OLDEST_DRIVER: i32 = 13_000;

/// An opened GPU: its primary context, which the engine shares, and its decoder library.
#[derive(Debug)]
pub struct Gpu {
    /// The primary context.
    pub context: Arc<CudaContext>,
    /// The decoder.
    pub cuvid: Cuvid,
    /// Its name, for the log.
    pub name: String,
    /// How many there are now.
    pub(super) decoders: AtomicUsize,
    /// What has crossed the bus for pictures.
    pub(super) traffic: Traffic,
    /// Held to make a decoder, or to destroy one: 50 ms of the driver's lock. Many that try at once would not let anybody decode until
    /// the last one has it.
    pub(super) making: Mutex<()>,
    /// What the decoder can do, by codec, chroma format and depth. To ask takes 12 ms, and 100 cameras that ask at once wait for one
    /// another for seconds.
    caps: Mutex<HashMap<(u32, u32, u32), DecodeCaps>>,
}

/// Bytes between host and GPU, counted where weir starts a copy: what a driver or ONNX Runtime moves for itself is not in it.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    to_device: AtomicU64,
    from_device: AtomicU64,
}

impl Traffic {
    pub fn sent(&self, bytes: usize) {
        self.to_device.fetch_add(bytes as u64, Relaxed);
    }

    pub fn fetched(&self, bytes: usize) {
        self.from_device.fetch_add(bytes as u64, Relaxed);
    }

    /// To the GPU, and from it.
    pub fn read(&self) -> [u64; 2] {
        [self.to_device.load(Relaxed), self.from_device.load(Relaxed)]
    }
}

impl Gpu {
    /// Opens GPU number `ordinal`.
    ///
    /// # Errors
    /// When the driver, the decoder library or the GPU is not here, or the driver is too old.
    pub fn open(ordinal: usize) -> Result<Arc<Gpu>, Fault> {
        driver_is_here()?;
        let context = CudaContext::new(ordinal).map_err(|e| driver("the GPU cannot be opened", &e))?;
        // Waiting threads sleep: a spinning one would take a core that other cameras need.
        context.set_blocking_synchronize().map_err(|e| driver("the GPU cannot be set up", &e))?;
        let name = context.name().map_err(|e| driver("the GPU does not say its name", &e))?;
        Ok(Arc::new(Gpu {
            cuvid: Cuvid::open()?,
            context,
            name,
            decoders: AtomicUsize::new(0),
            traffic: Traffic::default(),
            making: Mutex::default(),
            caps: Mutex::default(),
        }))
    }

    /// The CUDA that its driver knows, as the driver counts: 13000.
    ///
    /// # Errors
    /// When the driver does not answer.
    pub fn driver_version(&self) -> Result<i32, Fault> {
        let mut version = 0;
        // SAFETY: writes one integer.
        let status = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        check("the driver does not say its version", status as u32).map(|()| version)
    }

    /// Its number, as CUDA counts those that it shows to this process.
    pub fn ordinal(&self) -> u32 {
        u32::try_from(self.context.ordinal()).unwrap_or(u32::MAX)
    }

    /// Video decoders that this process has now.
    pub fn decoders(&self) -> usize {
        self.decoders.load(Relaxed)
    }

    /// What the decoder can do with 4:2:0 pictures of 8 bits, for the log.
    pub fn describe_decoder(&self) -> String {
        let one = |name: &str, codec| match self.caps(codec, 1, 0) {
            Ok(caps) if caps.is_supported != 0 => {
                format!("{name} up to {}×{} on {} engines", caps.max_width, caps.max_height, caps.nvdecs)
            }
            Ok(_) => format!("no {name}"),
            Err(fault) => fault.message,
        };
        [("H.264", CODEC_H264), ("H.265", CODEC_HEVC), ("VP9", CODEC_VP9), ("AV1", CODEC_AV1)]
            .map(|(name, codec)| one(name, codec))
            .join(", ")
    }

    /// What the decoder can do.
    ///
    /// # Errors
    /// When the driver does not answer.
    pub fn caps(&self, codec: u32, chroma_format: u32, bit_depth_minus8: u32) -> Result<DecodeCaps, Fault> {
        let mut known = self.caps.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (codec, chroma_format, bit_depth_minus8);
        if let Some(caps) = known.get(&key) {
            return Ok(*caps);
        }
        self.bind()?;
        let mut caps = DecodeCaps { codec, chroma_format, bit_depth_minus8, ..DecodeCaps::default() };
        // SAFETY: the struct is the header's, and a context is current on this thread.
        check("the decoder does not tell what it can", unsafe {
            (self.cuvid.get_decoder_caps)(&raw mut caps)
        })?;
        known.insert(key, caps);
        Ok(caps)
    }

    /// Makes the context current on the calling thread, as every other call wants.
    ///
    /// # Errors
    /// When the driver refuses, or an earlier asynchronous call has failed.
    pub fn bind(&self) -> Result<(), Fault> {
        self.context.bind_to_thread().map_err(|e| driver("the GPU cannot be used", &e))
    }

    /// Work that is done in order, beside all other streams.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn stream(&self) -> Result<Arc<CudaStream>, Fault> {
        self.context.new_stream().map_err(|e| driver("the GPU gives no stream", &e))
    }

    /// The same, for short work that others wait for: where both could run, it goes first.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn urgent_stream(&self) -> Result<Arc<CudaStream>, Fault> {
        let failed = |e: DriverError| driver("the GPU gives no stream", &e);
        self.bind()?;
        let (_, greatest) = result::stream::get_priority_range().map_err(failed)?;
        self.context.new_stream_with_priority(greatest).map_err(failed)
    }
}

fn driver_is_here() -> Result<(), Fault> {
    // SAFETY: only looks whether the driver's library can be opened.
    if !unsafe { sys::is_culib_present() } {
        return Err(Fault::new(
            Who::Device,
            "no_cuda",
            "there is no NVIDIA driver here: libcuda.so.1 cannot be opened",
        )
        .remedy("install NVIDIA's driver, 580 or newer; in containers, run with --gpus"));
    }
    let mut version = 0;
    // SAFETY: writes one integer; every libcuda has this function, and it works before cuInit.
    let status = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    if status != sys::CUresult::CUDA_SUCCESS || version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        let message = format!("the NVIDIA driver is too old: it knows CUDA {major}.{minor}, weir needs 13.0");
        return Err(
            Fault::new(Who::Device, "old_driver", message).remedy("install NVIDIA's driver 580 or newer")
        );
    }
    Ok(())
}

/// How many GPUs CUDA shows to this process.
///
/// # Errors
/// When the driver is not here, or too old, or finds no GPU.
pub fn count() -> Result<u32, Fault> {
    driver_is_here()?;
    let count = CudaContext::device_count().map_err(|e| driver("the GPUs cannot be counted", &e))?;
    Ok(u32::try_from(count).unwrap_or(0))
}

/// The driver's error in our words.
pub fn driver(what: &str, error: &DriverError) -> Fault {
    let name = error
        .error_name()
        .map_or_else(|_| format!("{:?}", error.0), |name| name.to_string_lossy().into_owned());
    let fault = Fault::new(Who::Device, "gpu", format!("{what}: {name}"));
    match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            Fault { reason: "gpu_memory", ..fault }.retry(Retry::Slowly).remedy(
                "the GPU's memory is full: use fewer cameras, a smaller batch or a shorter ring_buffer_ms",
            )
        }
        sys::CUresult::CUDA_ERROR_NO_DEVICE => Fault { reason: "no_gpu", ..fault }
            .remedy("`nvidia-smi` must list a GPU; in containers, run with --gpus"),
        _ => fault,
    }
}

/// The same for cuvid's plain number.
///
/// # Errors
/// Any status but 0.
pub fn check(what: &str, status: u32) -> Result<(), Fault> {
    match status {
        0 => Ok(()),
        2 => Err(driver(what, &DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY))),
        other => Err(Fault::new(Who::Device, "gpu", format!("{what}: CUDA error {other}"))),
    }
}

/// Memory on the GPU for the kernels' own needs.
#[derive(Debug)]
pub struct Memory {
    gpu: Arc<Gpu>,
    at: CUdeviceptr,
}

impl Memory {
    /// So many bytes, of any content.
    ///
    /// # Errors
    /// When there is no room.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Memory, Fault> {
        gpu.bind()?;
        // SAFETY: a context is current; freed once, by drop.
        let at = unsafe { result::malloc_sync(bytes.max(1)) }
            .map_err(|e| driver("no memory for the engine", &e))?;
        Ok(Memory { gpu: Arc::clone(gpu), at })
    }

    /// Where it is.
    pub(super) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Where it begins.
    pub fn at(&self) -> CUdeviceptr {
        self.at
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: allocated by `new`; cuMemFree waits for work on it.
            let _ = unsafe { result::free_sync(self.at) };
        }
    }
}

/// A picture's memory.
#[derive(Debug)]
struct Block {
    at: CUdeviceptr,
    bytes: usize,
    /// Marks the end of what was written last.
    written: CudaEvent,
    /// What the motion gate compares, in host memory that the GPU writes; `None`: nobody asks for it.
    grid: Option<PinnedHostSlice<u8>>,
}

/// Memory for the pictures of one source, kept for the next one, and never more than `most` pictures.
#[derive(Debug)]
pub struct Pool {
    gpu: Arc<Gpu>,
    free: Mutex<Vec<Block>>,
    out: AtomicUsize,
    most: usize,
    /// Makes the grids of the motion gate.
    grids: Option<Arc<Kernels>>,
}

impl Pool {
    /// An empty pool for at most `most` pictures at a time. With `grids` each picture gets what the motion gate compares.
    pub fn new(gpu: Arc<Gpu>, most: usize, grids: Option<Arc<Kernels>>) -> Arc<Pool> {
        Arc::new(Pool { gpu, free: Mutex::new(Vec::new()), out: AtomicUsize::new(0), most, grids })
    }

    /// Whose memory it is.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Memory for a picture.
    ///
    /// # Errors
    /// When `most` are out already, or the GPU's memory is full.
    pub fn take(self: &Arc<Pool>, bytes: usize, layout: Layout) -> Result<Surface, Fault> {
        if self.out.fetch_add(1, Relaxed) >= self.most {
            self.out.fetch_sub(1, Relaxed);
            let message = format!("{} of its pictures wait on the GPU already", self.most);
            return Err(Fault::new(Who::Device, "surfaces", message).retry(Retry::Soon));
        }
        let kept = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            // Blocks of a size that the stream has left go when they come by.
            loop {
                match free.pop() {
                    Some(block) if block.bytes == bytes => break Some(block),
                    Some(block) => self.release(block),
                    None => break None,
                }
            }
        };
        let block = match kept {
            Some(block) => block,
            None => self.allocate(bytes).inspect_err(|_| {
                self.out.fetch_sub(1, Relaxed);
            })?,
        };
        Ok(Surface { block: Some(block), pool: Arc::clone(self), layout })
    }

    fn allocate(&self, bytes: usize) -> Result<Block, Fault> {
        self.gpu.bind()?;
        // A gated camera's thread waits for each picture: asleep, not spinning.
        let flags = self.grids.as_ref().map(|_| sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC);
        let written = self.gpu.context.new_event(flags).map_err(|e| driver("the GPU gives no event", &e))?;
        // SAFETY: a context is current; the memory is freed once, by `release`.
        let at = unsafe { result::malloc_sync(bytes) }.map_err(|e| driver("no memory for a picture", &e))?;
        let mut block = Block { at, bytes, written, grid: None };
        if self.grids.is_some() {
            let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_PORTABLE;
            // SAFETY: read only when the GPU says that it has written.
            match unsafe { self.gpu.context.alloc_pinned_with_flags(size_of::<Grid>(), flags) } {
                Ok(grid) => block.grid = Some(grid),
                Err(e) => {
                    self.release(block);
                    return Err(driver("no pinned memory for motion", &e));
                }
            }
        }
        Ok(block)
    }

    fn release(&self, block: Block) {
        // Fails only when the driver has gone, and with it the memory.
        if self.gpu.bind().is_ok() {
            // SAFETY: allocated by `allocate`, in no free list and no surface any more. cuMemFree waits for work on it.
            let _ = unsafe { result::free_sync(block.at) };
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let blocks = std::mem::take(self.free.get_mut().unwrap_or_else(PoisonError::into_inner));
        blocks.into_iter().for_each(|block| self.release(block));
    }
}

/// How a picture lies in its memory.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// What it is.
    pub geometry: Geometry,
    /// Where Y, U and V begin.
    pub offset: [usize; 3],
    /// Bytes from row to row, of luma and of chroma.
    pub pitch: [usize; 2],
}

/// A picture's memory; goes back to its pool when dropped. Whoever lets the GPU read it keeps it until the GPU has.
#[derive(Debug)]
pub struct Surface {
    /// Always there, until drop.
    block: Option<Block>,
    pool: Arc<Pool>,
    layout: Layout,
}

impl Surface {
    /// How the picture lies in it.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where the memory begins.
    pub fn at(&self) -> CUdeviceptr {
        self.block().at
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.block().bytes
    }

    /// The end of what was written to it.
    pub fn written(&self) -> &CudaEvent {
        &self.block().written
    }

    fn block(&self) -> &Block {
        self.block.as_ref().expect("taken by drop only")
    }

    /// Starts to compute what the motion gate compares, where the pool makes it, behind what was started on this stream; then marks the end
    /// of what was written.
    ///
    /// # Errors
    /// When the driver fails.
    pub(super) fn finish(&mut self, stream: &Arc<CudaStream>) -> Result<(), Fault> {
        let failed = |e: DriverError| driver("a picture cannot be finished", &e);
        if let (Some(kernels), Some(cells)) = (&self.pool.grids, self.cells()) {
            let cells = cells.as_ptr().map_err(failed)? as CUdeviceptr;
            // SAFETY: pinned memory has the same address on the GPU; both live as long as this surface, which outlives `written`.
            unsafe { kernels.luma_grid(stream, self, cells)? };
        }
        self.written().record(stream).map_err(failed)
    }

    /// What the motion gate compares; `None` where the pool makes none, or the picture is too small for it. Waits.
    pub fn grid(&self) -> Option<Grid> {
        let cells = self.cells()?;
        self.written().synchronize().ok()?;
        cells.as_slice().ok()?.try_into().ok()
    }

    fn cells(&self) -> Option<&PinnedHostSlice<u8>> {
        let size = self.layout.geometry.size;
        let large = size.width as usize >= still::LEAST.0 && size.height as usize >= still::LEAST.1;
        self.block().grid.as_ref().filter(|_| large)
    }

    /// The whole of it in host memory, for tests and for what the GPU cannot do. Waits.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn download(&self) -> Result<Vec<u8>, Fault> {
        let failed = |e: DriverError| driver("a picture cannot be read back", &e);
        self.pool.gpu.bind()?;
        self.written().synchronize().map_err(failed)?;
        let mut bytes = vec![0; self.bytes()];
        // SAFETY: as long as the block, which nobody writes while `self` is borrowed.
        unsafe { result::memcpy_dtoh_sync(&mut bytes, self.at()) }.map_err(failed)?;
        self.pool.gpu.traffic.fetched(bytes.len());
        Ok(bytes)
    }

    /// Fills it from host memory. Waits.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn upload(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.pool.gpu.bind()?;
        let bytes = &bytes[..bytes.len().min(self.bytes())];
        // SAFETY: no longer than the block, which `&mut self` has alone.
        unsafe { result::memcpy_htod_sync(self.at(), bytes) }
            .map_err(|e| driver("a picture cannot be uploaded", &e))?;
        self.pool.gpu.traffic.sent(bytes.len());
        // The last part may still be on its way (CUDA driver API, "API synchronization behavior").
        let stream = self.pool.gpu.context.default_stream();
        self.finish(&stream)
    }
}

impl Drop for Surface {
    fn drop(&mut self) {
        self.pool.out.fetch_sub(1, Relaxed);
        if let Some(block) = self.block.take() {
            self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(block);
        }
    }
}
