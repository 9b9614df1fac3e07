//! NVIDIA GPUs: NVDEC decodes, a kernel preprocesses, ONNX Runtime's CUDA provider infers; pixels never leave the GPU.
//!
//! Every library is opened at run time, so that one binary runs on every box; what is missing is a [`Fault`] with a remedy. All
//! `unsafe` code of weir lives in this module. A device is one GPU: where there are several, each has a context, kernels, sessions and memory of
//! its own, and a picture stays on the one that decoded it.
//!
//! | file | what |
//! |---|---|
//! | `gpu` | the device, its memory, its errors |
//! | `cuvid` | libnvcuvid's types and functions |
//! | `decoder` | access units to pictures |
//! | `kernels` | our kernels |
//! | `engine` | pictures to outputs |
//! | `nvenc` | whether the chip encodes, and why not |
//! | `nvml` | how busy the GPU is |
//! | `times` | which time a picture of VP9 or AV1 has |
//! | `source` | a camera's GStreamer pipeline, up to access units |

#![allow(unsafe_code)]
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod cuvid;
pub mod decoder;
pub mod engine;
pub mod gpu;
pub mod kernels;
pub mod nvenc;
pub mod nvml;
pub mod source;
pub mod times;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{self, Execution, Provider};
use crate::device::accelerator::Report;
use crate::device::canvas::{Canvas, Colour};
use crate::device::software::preprocess::{Geometry, PixelFormat, Planes};
use crate::device::software::{self, session};
use crate::device::{Device, Happening, Picture, Sink};
use crate::fault::{Fault, Who};
use crate::flow::still::Grid;
use crate::frame::Still;
use crate::model::manifest::Manifest;
use crate::model::spec::ModelSpec;

use engine::tensorrt::Plan;
use gpu::{Gpu, Layout, Pool, Surface};

/// Stills that may be on the GPU at a time.
const MOST_STILLS: usize = 256;

/// Pictures of a camera that are out of its ring: in the batch that is made, in the one that runs, and on their way.
const BEYOND_RING: usize = 16;

/// A machine with an NVIDIA GPU that is used.
pub struct Nvidia {
    gpu: Arc<Gpu>,
    kernels: Arc<kernels::Kernels>,
    runtime: Arc<session::Runtime>,
    spec: Arc<ModelSpec>,
    model: Arc<[u8]>,
    max_batch: usize,
    setup: engine::Setup,
    /// What became of the providers that were asked for before the one that is used.
    refused: String,
    /// How the engine runs, in words.
    manner: String,
    stills: Arc<Pool>,
    meter: nvml::Meter,
    /// Cameras whose stream NVDEC does not take.
    by_software: Arc<Mutex<HashSet<Arc<str>>>>,
}

impl Nvidia {
    /// Opens the GPUs that `[infer] gpus` means and ONNX Runtime, and reads the model, so that whatever is missing is said before anything
    /// runs. At least one is returned. Of all GPUs those that cannot run the model are left out, and the log says so.
    ///
    /// # Errors
    /// A missing driver, library, manifest or model; a listed GPU that is not here or cannot run it.
    pub fn open(
        model: &config::Model,
        infer: &config::Infer,
        max_batch: usize,
    ) -> Result<Vec<Nvidia>, Fault> {
        Nvidia::open_with(&session::Library::default(), model, infer, max_batch)
    }

    /// The same with ONNX Runtime as it may have been opened before.
    ///
    /// # Errors
    /// The same.
    pub fn open_with(
        library: &session::Library,
        model: &config::Model,
        infer: &config::Infer,
        max_batch: usize,
    ) -> Result<Vec<Nvidia>, Fault> {
        let count = gpu::count()?;
        let ordinals = match &infer.gpus {
            None => (0..count).collect(),
            Some(listed) => listed.clone(),
        };
        if let Some(missing) = ordinals.iter().find(|ordinal| **ordinal >= count) {
            let message = format!("[infer] gpus lists GPU {missing}, but {count} are here, counted from 0");
            return Err(Fault::new(Who::Config, "no_gpu", message)
                .remedy("`nvidia-smi -L` lists them; CUDA_VISIBLE_DEVICES can hide some"));
        }
        let asked: Vec<Provider> = match &infer.execution {
            Execution::Order(order) => order.iter().copied().filter(|p| p.is_nvidia()).collect(),
            Execution::Auto => vec![Provider::Cuda],
        };
        // The first one that cannot be opened says whether there is a driver at all.
        let runtime = std::cell::OnceCell::new();
        let open = |ordinal: u32| {
            let gpu = Gpu::open(ordinal as usize)?;
            let loaded = match runtime.get() {
                Some(runtime) => Arc::clone(runtime),
                None => {
                    let loaded = library
                        .load(infer.onnxruntime.as_deref())?
                        .with_tensorrt_rtx(infer.tensorrt_rtx.clone());
                    let loaded = Arc::new(loaded);
                    Arc::clone(runtime.get_or_init(|| loaded))
                }
            };
            Nvidia::build(gpu, loaded, model, max_batch)?.settle(&asked, &infer.engine_cache)
        };
        let (mut devices, mut first) = (Vec::new(), None);
        for ordinal in ordinals {
            match open(ordinal) {
                Ok(device) => devices.push(device),
                Err(fault) if infer.gpus.is_some() => return Err(fault),
                Err(fault) => {
                    if count > 1 {
                        tracing::warn!(gpu = ordinal, "A GPU is not used: {fault}");
                    }
                    first.get_or_insert(fault);
                }
            }
        }
        let none = || Fault::new(Who::Device, "no_gpu", "there is no GPU here");
        if devices.is_empty() { Err(first.unwrap_or_else(none)) } else { Ok(devices) }
    }

    /// Opens the model on the first of these providers that takes it. Asked now, not on the `infer` thread: another one may be allowed.
    ///
    /// # Errors
    /// When none does: what is wrong with each.
    pub fn settle(mut self, asked: &[Provider], cache: &Path) -> Result<Nvidia, Fault> {
        let mut last = None;
        for &provider in asked {
            match self.plan(provider, cache).and_then(|plan| {
                self.setup.plan = plan;
                self.open_engine(1)
            }) {
                Ok(engine) => {
                    self.manner = engine.manner();
                    return Ok(self);
                }
                Err(why) => {
                    tracing::warn!("{provider} cannot be used: {why}");
                    self.refused += &format!("{provider} cannot be used: {}; ", why.message);
                    last = Some(why);
                }
            }
        }
        let none = || Fault::new(Who::Bug, "no_provider", "no provider was asked for");
        Err(last.map_or_else(none, |why| Fault {
            message: self.refused.trim_end_matches("; ").to_owned(),
            ..why
        }))
    }

    fn plan(&self, provider: Provider, cache: &Path) -> Result<Option<Arc<Plan>>, Fault> {
        if provider == Provider::Cuda {
            return Ok(None);
        }
        Plan::new(provider, &self.gpu, &self.runtime, &self.spec, &self.model, cache)
            .map(|plan| Some(Arc::new(plan)))
    }

    /// The same with what is open already: a process can have ONNX Runtime only once.
    ///
    /// # Errors
    /// A missing library, manifest or model.
    pub fn on(
        gpu: Arc<Gpu>,
        runtime: Arc<session::Runtime>,
        model: &config::Model,
        max_batch: usize,
    ) -> Result<Nvidia, Fault> {
        Nvidia::build(gpu, runtime, model, max_batch)?.settle(&[Provider::Cuda], Path::new(""))
    }

    fn build(
        gpu: Arc<Gpu>,
        runtime: Arc<session::Runtime>,
        model: &config::Model,
        max_batch: usize,
    ) -> Result<Nvidia, Fault> {
        let kernels = Arc::new(kernels::Kernels::compile(&gpu)?);
        let manifest = Manifest::load_one_fault(&model.manifest)?;
        manifest.verify(&model.file)?;
        let bytes = std::fs::read(&model.file).map_err(|e| {
            let message = format!("model {} cannot be read: {e}", model.file.display());
            Fault::new(Who::Config, "bad_model", message)
        })?;
        Ok(Nvidia {
            stills: Pool::new(Arc::clone(&gpu), MOST_STILLS, None),
            meter: nvml::Meter::start(&gpu),
            gpu,
            kernels,
            runtime,
            spec: Arc::new(manifest.spec),
            model: bytes.into(),
            max_batch,
            setup: engine::Setup::default(),
            refused: String::new(),
            manner: String::new(),
            by_software: Arc::default(),
        })
    }

    /// The same, with the provider set up otherwise.
    #[must_use]
    pub fn with_tuning(mut self, tuning: engine::Tuning) -> Nvidia {
        self.setup.tuning = tuning;
        self
    }

    /// The GPU.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// What the manifest says.
    pub fn spec(&self) -> &Arc<ModelSpec> {
        &self.spec
    }

    /// For the one line at start that says what was asked for and what was got.
    pub fn describe(&self, asked: &config::Execution) -> String {
        let (name, decoder) = (&self.gpu.name, self.gpu.describe_decoder());
        let library = self.runtime.library.display();
        let got = self.setup.plan.as_ref().map_or(Provider::Cuda, |plan| plan.provider);
        let (refused, manner) = (&self.refused, &self.manner);
        format!(
            "asked for {asked}, got {got} ({manner}); {refused}{name}; NVDEC: {decoder}; ONNX Runtime at {library}"
        )
    }

    fn open_engine(&self, max_batch: usize) -> Result<engine::NvidiaEngine, Fault> {
        engine::NvidiaEngine::open(
            &self.gpu,
            Arc::clone(&self.kernels),
            &self.runtime,
            Arc::clone(&self.spec),
            &self.model,
            max_batch,
            &self.setup,
        )
    }
}

/// A picture in the GPU's memory.
#[derive(Clone, Debug)]
pub struct Pixels(Arc<Surface>);

impl Pixels {
    /// One that a decoder made.
    pub fn new(surface: Arc<Surface>) -> Pixels {
        Pixels(surface)
    }

    /// Its memory.
    pub fn surface(&self) -> &Arc<Surface> {
        &self.0
    }
}

impl Device for Nvidia {
    type Pixels = Pixels;
    type Engine = engine::NvidiaEngine;
    type Source = source::NvidiaSource;

    fn engine(&self) -> Result<engine::NvidiaEngine, Fault> {
        self.open_engine(self.max_batch)
    }

    /// Computed behind the picture's copy, for cameras that have a gate.
    fn luma_grid(pixels: &Pixels) -> Option<Grid> {
        pixels.surface().grid()
    }

    /// Over the bus, for people who watch; nothing else of a picture is, but the motion gate's grid.
    fn canvas(pixels: &Pixels, width: Option<u32>, colour: Option<Colour>) -> Option<Canvas> {
        let surface = pixels.surface();
        let bytes =
            surface.download().inspect_err(|e| tracing::debug!("A picture cannot be shown: {e}")).ok()?;
        let Layout { geometry, offset, pitch } = surface.layout();
        let plane = |i: usize| bytes.get(offset[i]..);
        let planes = match geometry.format {
            PixelFormat::I420 => {
                Planes { data: [plane(0)?, plane(1)?, plane(2)?], stride: [pitch[0], pitch[1], pitch[1]] }
            }
            PixelFormat::Nv12 => {
                Planes { data: [plane(0)?, plane(1)?, &[]], stride: [pitch[0], pitch[1], 0] }
            }
        };
        Canvas::copy(&planes, geometry, width, colour)
    }

    fn open(&self, camera: &config::Camera, sink: Sink<Pixels>) -> Result<source::NvidiaSource, Fault> {
        let (gpu, most) = (Arc::clone(&self.gpu), most_pictures(camera));
        let pool = Pool::new(gpu, most, camera.still_fps.map(|_| Arc::clone(&self.kernels)));
        let software = self.by_software.lock().unwrap_or_else(PoisonError::into_inner).contains(&camera.name);
        let coded = matches!(camera.source, config::Source::Rtsp(_) | config::Source::File { .. });
        if coded && !software {
            return source::open(pool, camera, sink, Arc::clone(&self.by_software));
        }
        software::source::open(camera, uploading(pool, sink)).map(source::NvidiaSource::Software)
    }

    fn ordinal(&self) -> Option<u32> {
        Some(self.gpu.ordinal())
    }

    fn report(&self) -> Option<Report> {
        let [to_device_bytes, from_device_bytes] = self.gpu.traffic.read();
        let decoders = self.gpu.decoders();
        Some(Report { decoders, to_device_bytes, from_device_bytes, ..self.meter.last() })
    }

    fn picture(&self, still: Still) -> Result<Pixels, Fault> {
        let geometry = Geometry::of_still(still.size);
        let (half, rows) = Still::half(still.size);
        let width = still.size.width as usize;
        let luma = width * still.size.height as usize;
        let layout = Layout { geometry, offset: [0, luma, luma + half * rows], pitch: [width, half] };
        upload(&self.stills, layout, &still.i420)
    }
}

/// Pictures of a camera that may be on the GPU at a time.
fn most_pictures(camera: &config::Camera) -> usize {
    camera.ring_frames().saturating_add(BEYOND_RING)
}

fn upload(pool: &Arc<Pool>, layout: Layout, bytes: &[u8]) -> Result<Pixels, Fault> {
    let mut surface = pool.take(bytes.len(), layout)?;
    surface.upload(bytes)?;
    Ok(Pixels(Arc::new(surface)))
}

/// A sink for pictures in host memory, which brings them to the GPU.
fn uploading(pool: Arc<Pool>, sink: Sink<Pixels>) -> Sink<software::pixels::Pixels> {
    let Sink { mut picture, happening, gate } = sink;
    let mut packed = Vec::new();
    let deliver = move |host: Picture<software::pixels::Pixels>| {
        let pixels = host.pixels.and_then(|pixels| {
            let layout = pack(&pixels, &mut packed);
            upload(&pool, layout, &packed).inspect_err(|e| tracing::debug!("A picture is lost: {e}")).ok()
        });
        let Picture { size, video, age, pts, .. } = host;
        picture(Picture { size, video, age, pts, pixels });
    };
    Sink { picture: Box::new(deliver), happening, gate }
}

/// Puts the rows of a picture one after the other, without the gaps between.
fn pack(pixels: &software::pixels::Pixels, out: &mut Vec<u8>) -> Layout {
    let geometry = *pixels.geometry();
    let (width, height) = (geometry.size.width as usize, geometry.size.height as usize);
    let (half, rows) = Still::half(geometry.size);
    let planes = pixels.planes();
    let shapes: &[(usize, usize)] = match geometry.format {
        PixelFormat::I420 => &[(width, height), (half, rows), (half, rows)],
        PixelFormat::Nv12 => &[(width, height), (half * 2, rows)],
    };
    out.clear();
    for ((bytes, rows), (data, stride)) in shapes.iter().zip(planes.data.iter().zip(planes.stride)) {
        for row in 0..*rows {
            let from = (row * stride).min(data.len());
            let line = &data[from..(from + bytes).min(data.len())];
            out.extend_from_slice(line);
            out.resize(out.len() + bytes - line.len(), 0);
        }
    }
    let luma = width * height;
    match geometry.format {
        PixelFormat::I420 => Layout { geometry, offset: [0, luma, luma + half * rows], pitch: [width, half] },
        PixelFormat::Nv12 => Layout { geometry, offset: [0, luma, luma + 1], pitch: [width, half * 2] },
    }
}

/// Notes that a camera's stream is not for NVDEC, and says so; its next attempt decodes in software.
fn fall_back(
    by_software: &Mutex<HashSet<Arc<str>>>,
    camera: &Arc<str>,
    why: &Fault,
    happening: &crossbeam_channel::Sender<Happening>,
) {
    let first = by_software.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(camera));
    if first {
        tracing::warn!(%camera, "Its stream is decoded in software from now on: {why}");
    }
    // Full only when the camera's thread is stuck; the watchdog sees the silence.
    let _ = happening.try_send(Happening::Failed(why.clone()));
}
