//! ONNX Runtime, opened at run time: finding the library, opening a model, running a batch.
//!
//! Nothing here knows of frames or boxes. `run` blocks; each session belongs to one thread
//! (ort's `run_async` has lost wake-ups, so it is not used).

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::environment::Environment;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{RunOptions, SessionOutputs};
use ort::value::{DynValue, TensorElementType, TensorRef, ValueType};

use crate::config::Provider;
use crate::fault::{Fault, Who};
use crate::model::spec::TensorView;

/// The environment variable that names the library, as ONNX Runtime's own tools use it.
pub const LIBRARY_ENV: &str = "ORT_DYLIB_PATH";

/// The plugin's library, inside the wheel and wherever it is put.
const OPENVINO_LIBRARY: &str = "libonnxruntime_providers_openvino_plugin.so";
/// The same of TensorRT-RTX's.
const RTX_LIBRARY: &str = "libonnxruntime_providers_nv_tensorrt_rtx.so";

/// The loaded library.
#[derive(Debug)]
pub struct Runtime {
    environment: Environment,
    /// Where it was found.
    pub library: PathBuf,
    /// `[infer] openvino`.
    openvino: Option<PathBuf>,
    /// What came of loading OpenVINO's plugin, which is done once, when it is first asked for.
    registered: OnceLock<Result<PathBuf, Fault>>,
    /// `[infer] tensorrt_rtx`.
    tensorrt_rtx: Option<PathBuf>,
    /// The same for TensorRT-RTX.
    rtx_registered: Box<OnceLock<Result<PathBuf, Fault>>>,
}

impl Runtime {
    /// The same, with OpenVINO's plugin at `path` and nowhere else.
    #[must_use]
    pub fn with_openvino(mut self, path: Option<PathBuf>) -> Runtime {
        self.openvino = path;
        self
    }

    /// Loads OpenVINO's plugin: the configured one if given, else the first of [`openvino_candidates`] that exists.
    ///
    /// # Errors
    /// When it is not here, cannot be loaded, or has nothing to offer to this processor.
    fn openvino(&self) -> Result<&Path, Fault> {
        let registered = self.registered.get_or_init(|| {
            let remedy = "run `cargo xtask setup --openvino`, or unpack the PyPI wheel `onnxruntime-ep-openvino` and name its \
                 libonnxruntime_providers_openvino_plugin.so in [infer] openvino";
            let fault =
                |message: String| Fault::new(Who::Device, "no_openvino", message).remedy(remedy);
            let places = self.openvino.clone().map_or_else(openvino_candidates, |path| vec![path]);
            let Some(library) = places.iter().find(|p| p.is_file()) else {
                return Err(fault(format!("its plugin was not found; searched: {}", listed(&places))));
            };
            self.environment.register_ep_library("openvino", library).map_err(|e| {
                let why = first_line(&e.to_string()).to_owned();
                fault(format!("its plugin at {} cannot be loaded: {why}", library.display()))
            })?;
            if self.devices(Provider::OpenVino).next().is_none() {
                let message = "its plugin offers nothing for this processor (version 1.8 knows Intel's only)";
                return Err(Fault::new(Who::Device, "no_openvino", message));
            }
            Ok(library.clone())
        });
        registered.as_deref().map_err(Clone::clone)
    }

    /// The same, with TensorRT-RTX's plugin at `path` and nowhere else.
    #[must_use]
    pub fn with_tensorrt_rtx(mut self, path: Option<PathBuf>) -> Runtime {
        self.tensorrt_rtx = path;
        self
    }

    /// Loads TensorRT-RTX's plugin, as [`Runtime::openvino`] does; the GPU has this compute capability.
    ///
    /// # Errors
    /// When it is not here, cannot be loaded, or does not take the GPU.
    pub(crate) fn tensorrt_rtx(&self, capability: &str) -> Result<&Path, Fault> {
        let registered = self.rtx_registered.get_or_init(|| {
            let remedy = "unpack the PyPI wheel `onnxruntime-ep-nv-tensorrt-rtx-cu13`, put its folder into LD_LIBRARY_PATH, and name its \
                 libonnxruntime_providers_nv_tensorrt_rtx.so in [infer] tensorrt_rtx";
            let fault = |message: String| Fault::new(Who::Device, "no_tensorrt_rtx", message).remedy(remedy);
            let places = match &self.tensorrt_rtx {
                Some(path) => vec![path.clone()],
                None => plugin_candidates("tensorrt-rtx", RTX_LIBRARY),
            };
            let Some(library) = places.iter().find(|p| p.is_file()) else {
                return Err(fault(format!("its plugin was not found; searched: {}", listed(&places))));
            };
            self.environment.register_ep_library("tensorrt-rtx", library).map_err(|e| {
                let why = first_line(&e.to_string()).to_owned();
                fault(format!("its plugin at {} cannot be loaded: {why}", library.display()))
            })?;
            if self.devices(Provider::TensorRtRtx).next().is_none() {
                let message = format!(
                    "its plugin does not take this GPU, of compute capability {capability} (version 0.5 knows 8.6, 8.9 and from 12.0 on)"
                );
                return Err(Fault::new(Who::Device, "no_tensorrt_rtx", message));
            }
            Ok(library.clone())
        });
        registered.as_deref().map_err(Clone::clone)
    }

    /// What sessions are built in.
    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The processor, as this provider offers it, or for NVIDIA's providers the first GPU; nothing else that it may see too.
    pub(crate) fn devices(&self, provider: Provider) -> impl Iterator<Item = ort::device::Device<'_>> {
        let name = match provider {
            Provider::Cpu => "CPUExecutionProvider",
            Provider::OpenVino => "OpenVINOExecutionProvider",
            Provider::Cuda => "CUDAExecutionProvider",
            Provider::TensorRt => "TensorrtExecutionProvider",
            Provider::TensorRtRtx => "NvTensorRTRTXExecutionProvider",
        };
        let wanted =
            if provider.is_nvidia() { ort::memory::DeviceType::GPU } else { ort::memory::DeviceType::CPU };
        let fits = move |d: &ort::device::Device<'_>| d.hardware_device().ty() == wanted;
        self.environment.devices().filter(move |d| d.ep().is_ok_and(|ep| ep == name) && fits(d)).take(1)
    }
}

/// Where OpenVINO's plugin is searched when the configuration does not name it: beside the binary's folder, and in
/// the cache folder of `cargo xtask setup --openvino`.
pub fn openvino_candidates() -> Vec<PathBuf> {
    plugin_candidates("openvino", OPENVINO_LIBRARY)
}

/// The same for any plugin.
fn plugin_candidates(folder: &str, library: &str) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Ok(exe) = std::env::current_exe()
        && let Some(root) = exe.parent().and_then(Path::parent)
    {
        places.push(root.join("lib/weir").join(folder).join(library));
    }
    places.push(crate::config::cache_dir().join(folder).join(library));
    places
}

fn listed(places: &[PathBuf]) -> String {
    places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// ONNX Runtime gives a process one environment, and none after that. Who may need it twice, as for the GPU and, where that fails, for the
/// CPU, opens it through the same one of these.
#[derive(Debug, Default)]
pub struct Library(OnceCell<(PathBuf, Environment)>);

impl Library {
    /// Opens ONNX Runtime: `configured` if given, else the first of [`candidates`] that exists. Each time after the first the same.
    ///
    /// # Errors
    /// Names each place that was searched and how to get the library.
    pub fn load(&self, configured: Option<&Path>) -> Result<Runtime, Fault> {
        let (library, environment) = match self.0.get() {
            Some(opened) => opened.clone(),
            None => {
                let opened = open(configured)?;
                self.0.get_or_init(|| opened).clone()
            }
        };
        Ok(Runtime {
            environment,
            library,
            openvino: None,
            registered: OnceLock::new(),
            tensorrt_rtx: None,
            rtx_registered: Box::default(),
        })
    }
}

/// Opens ONNX Runtime, once in a process: [`Library::load`].
///
/// # Errors
/// Names each place that was searched and how to get the library.
pub fn load_runtime(configured: Option<&Path>) -> Result<Runtime, Fault> {
    Library::default().load(configured)
}

fn open(configured: Option<&Path>) -> Result<(PathBuf, Environment), Fault> {
    const REMEDY: &str = "run `cargo xtask setup`, or unpack libonnxruntime.so (1.24 or newer) from the PyPI wheel `onnxruntime` \
         and name it in [infer] onnxruntime or in the environment variable ORT_DYLIB_PATH";
    let places = match configured {
        Some(path) => vec![path.to_path_buf()],
        None => candidates(),
    };
    let Some(library) = places.iter().find(|p| p.is_file()) else {
        return Err(Fault::new(
            Who::Device,
            "no_runtime",
            format!("ONNX Runtime was not found; searched: {}", listed(&places)),
        )
        .remedy(REMEDY));
    };
    let failed = |e: &dyn std::fmt::Display| {
        Fault::new(
            Who::Device,
            "no_runtime",
            format!("ONNX Runtime at {} cannot be used: {e}", library.display()),
        )
        .remedy(REMEDY)
    };
    let environment = ort::init_from(library)
        .map_err(|e| failed(&e))?
        .with_name("weir")
        .with_telemetry(false)
        .build()
        .map_err(|e| failed(&e))?;
    Ok((library.clone(), environment))
}

/// Where the library is searched when the configuration does not name it, in this order:
/// `$ORT_DYLIB_PATH`, `lib/` beside the binary's folder, the cache folder of `cargo xtask setup`,
/// the system's library folders.
pub fn candidates() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(path) = std::env::var_os(LIBRARY_ENV).filter(|v| !v.is_empty()) {
        places.push(PathBuf::from(path));
    }
    if let Ok(exe) = std::env::current_exe()
        && let Some(root) = exe.parent().and_then(Path::parent)
    {
        places.push(root.join("lib/weir/libonnxruntime.so"));
        places.push(root.join("lib/libonnxruntime.so"));
    }
    places.push(crate::config::cache_dir().join("onnxruntime/libonnxruntime.so"));
    for dir in ["/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"] {
        places.push(Path::new(dir).join("libonnxruntime.so"));
    }
    places
}

/// One tensor of a model's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in the graph.
    pub name: String,
    /// Its dimensions; `None` where the graph leaves them free.
    pub dims: Vec<Option<usize>>,
}

/// A model that can be run.
#[derive(Debug)]
pub struct Session {
    inner: ort::session::Session,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    /// For messages.
    name: String,
    /// Inputs' dimensions that have run. The first run of some finds out what memory it needs, by trying; what that took goes back with it, the next
    /// ones take what is needed in one piece. `None` for a provider with memory of its own.
    known: Option<Vec<Vec<usize>>>,
}

impl Session {
    /// Opens the model in `bytes` for runs on `threads` threads (0: ONNX Runtime's own choice).
    ///
    /// # Errors
    /// When ONNX Runtime does not accept the bytes as a model.
    pub fn open(runtime: &Runtime, name: &str, bytes: &[u8], threads: usize) -> Result<Session, Fault> {
        Self::open_on(runtime, name, bytes, threads, Provider::Cpu)
    }

    /// The same on the provider of one's choice, and on no other: what it cannot run is an error.
    ///
    /// # Errors
    /// When the provider is not here, or does not accept the whole model.
    pub fn open_on(
        runtime: &Runtime,
        name: &str,
        bytes: &[u8],
        threads: usize,
        provider: Provider,
    ) -> Result<Session, Fault> {
        let bad = |e: &dyn std::fmt::Display| {
            Fault::new(
                Who::Config,
                "bad_model",
                format!("model {name}: ONNX Runtime does not accept it: {}", first_line(&e.to_string())),
            )
            .remedy("`weir model inspect FILE` says what the file is")
        };
        let mut builder = ort::session::Session::builder(&runtime.environment)
            .map_err(|e| bad(&e))?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(|e| bad(&e))?
            .with_intra_threads(threads)
            .map_err(|e| bad(&e))?
            .with_inter_threads(1)
            .map_err(|e| bad(&e))?
            // Spinning workers would take the cores that decode needs.
            .with_intra_op_spinning(false)
            .map_err(|e| bad(&e))?;
        let mut options = Vec::new();
        if provider == Provider::OpenVino {
            runtime.openvino()?;
            options.push(("OpenVINOExecutionProvider.load_config".to_owned(), openvino_settings(threads)));
            // Else ONNX Runtime would run what OpenVINO refuses, and say nothing.
            builder =
                builder.with_config_entry("session.disable_cpu_ep_fallback", "1").map_err(|e| bad(&e))?;
        }
        // Named for the CPU too: a session without a provider takes any plugin that was ever loaded (ort asks ONNX
        // Runtime to choose), in that plugin's own precision.
        builder = builder.with_devices(runtime.devices(provider), Some(&options)).map_err(|e| bad(&e))?;
        let inner = builder.commit_from_memory(bytes).map_err(|e| bad(&e))?;
        let info = |o: &ort::value::Outlet| TensorInfo {
            name: o.name().to_owned(),
            dims: match o.dtype() {
                ValueType::Tensor { shape, .. } => shape.iter().map(|d| usize::try_from(*d).ok()).collect(),
                _ => Vec::new(),
            },
        };
        let inputs = inner.inputs().iter().map(info).collect();
        let outputs = inner.outputs().iter().map(info).collect();
        let known = (provider == Provider::Cpu).then(Vec::new);
        Ok(Session { inner, inputs, outputs, name: name.to_owned(), known })
    }

    /// The model's inputs.
    pub fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    /// The model's outputs, in graph order.
    pub fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    /// Runs one f32 input of these dimensions through the network.
    ///
    /// # Errors
    /// When the engine fails, or an output is not a tensor of numbers.
    pub fn run(&mut self, input: &str, dims: &[usize], data: &[f32]) -> Result<Outputs, Fault> {
        let bad = |e: &dyn std::fmt::Display| {
            Fault::new(
                Who::Device,
                "engine",
                format!("model {}: the engine failed: {}", self.name, first_line(&e.to_string())),
            )
        };
        let read = |mut results: SessionOutputs<'_>| {
            let tensor = |output: &TensorInfo| {
                let missing = || bad(&format!("output `{}` is missing", output.name));
                Output::new(&output.name, results.remove(&output.name).ok_or_else(missing)?)
                    .map_err(|e| bad(&e))
            };
            Ok(Outputs { tensors: self.outputs.iter().map(tensor).collect::<Result<_, Fault>>()? })
        };
        // Made twice rather than cloned: ort's clone of a tensor runs a network of its own, and waits for itself.
        let tensor = || TensorRef::from_array_view((dims, data)).map_err(|e| bad(&e));
        let mut options = RunOptions::new().map_err(|e| bad(&e))?;
        let fresh = self.known.as_mut().filter(|known| !known.iter().any(|known| known == dims));
        let is_fresh = fresh.is_some();
        if let Some(known) = fresh {
            known.push(dims.to_vec());
            options.set("memory.enable_memory_arena_shrinkage", "cpu:0").map_err(|e| bad(&e))?;
        }
        let ran = self.inner.run_with_options(ort::inputs![input => tensor()?], &options).map(read);
        ran.unwrap_or_else(|e| {
            if !is_fresh {
                return Err(bad(&e));
            }
            // A library that was built without an arena has nothing to give back, and fails there.
            self.known = None;
            self.inner.run(ort::inputs![input => tensor()?]).map_err(|e| bad(&e)).and_then(read)
        })
    }
}

/// The results of one run: owned, so that they can be read on another thread while the next batch runs.
#[derive(Debug)]
pub struct Outputs {
    tensors: Vec<Output>,
}

/// One output of one run.
#[derive(Debug)]
pub struct Output {
    /// Without the batch.
    shape: Vec<usize>,
    data: Data,
}

#[derive(Debug)]
enum Data {
    /// As the engine left it.
    Value(DynValue),
    /// Converted from another number type.
    Converted(Vec<f32>),
}

impl Output {
    /// An output as the engine left it, in memory of the host.
    pub(crate) fn new(name: &str, value: DynValue) -> Result<Output, String> {
        let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
            return Err(format!("output `{name}` is not a tensor"));
        };
        let dims: Vec<usize> = shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
        let shape = dims.get(1..).unwrap_or_default().to_vec();
        let data = match ty {
            TensorElementType::Float32 => Data::Value(value),
            TensorElementType::Int64 => {
                let (_, v) = value.try_extract_tensor::<i64>().map_err(|e| e.to_string())?;
                Data::Converted(v.iter().map(|x| *x as f32).collect())
            }
            TensorElementType::Int32 => {
                let (_, v) = value.try_extract_tensor::<i32>().map_err(|e| e.to_string())?;
                Data::Converted(v.iter().map(|x| *x as f32).collect())
            }
            other => return Err(format!("output `{name}` holds {other:?}; f32, i32 and i64 can be read")),
        };
        Ok(Output { shape, data })
    }

    /// The part of frame `slot` of the batch; empty when the engine returned less.
    pub(crate) fn view(&self, slot: usize) -> TensorView<'_> {
        let len: usize = self.shape.iter().product();
        let data = self.all().get(slot * len..(slot + 1) * len).unwrap_or_default();
        TensorView { shape: &self.shape, data }
    }

    /// How long it is, as numbers of 32 bits.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.all())
    }

    fn all(&self) -> &[f32] {
        match &self.data {
            Data::Converted(v) => v,
            Data::Value(v) => v.try_extract_tensor::<f32>().map(|(_, d)| d).unwrap_or_default(),
        }
    }
}

impl Outputs {
    /// How many outputs there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// All values of output `index`.
    pub fn all(&self, index: usize) -> &[f32] {
        self.tensors[index].all()
    }

    /// Output `index`'s part for frame `slot` of the batch; empty when the engine returned less.
    pub fn view(&self, index: usize, slot: usize) -> TensorView<'_> {
        self.tensors[index].view(slot)
    }
}

/// OpenVINO's own settings, as its option `load_config` takes them; the plugin ignores its older options
/// `precision`, `num_of_threads` and `num_streams` without a word.
fn openvino_settings(threads: usize) -> String {
    let settings = serde_json::json!({ "CPU": {
        // Without it: bf16 wherever the processor has it.
        "INFERENCE_PRECISION_HINT": "f32",
        // One batch at a time is what we run.
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads.to_string(),
        // Pinned threads would sit on the cores of decoders while others are idle.
        "ENABLE_CPU_PINNING": "NO",
    }});
    settings.to_string()
}

pub(crate) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or(text).trim()
}
