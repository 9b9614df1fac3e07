//! Opening a model on ONNX Runtime's CUDA provider, and what its signature says.

use std::sync::Arc;

use cudarc::driver::CudaStream;
use ort::ep;
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{Outlet, TensorElementType, ValueType};

use super::carry::fixed;
use super::lane::Way;
use super::sieve::Shape;
use super::tensorrt::Plan;
use crate::config::Provider;
use crate::device::software::session::{Runtime, TensorInfo, first_line};
use crate::fault::{Fault, Who};
use crate::flow::detect::{Detector, OutputShape};
use crate::model::spec::ModelSpec;

/// How the CUDA provider is set up. The default is what is fastest where it was measured.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Channels last inside of the network, as tensor cores read them.
    pub nhwc: bool,
    /// Replays a recorded run instead of starting its kernels one by one, where the whole network runs on the GPU and its
    /// outputs are of fixed size.
    pub graphs: bool,
    /// Lets f32 convolutions round their inputs to 10 bits of mantissa.
    pub tf32: bool,
    /// Tries all of cuDNN's convolutions at start rather than asking it for a guess: on an H100 0.4 % faster, and warm after 10 s instead
    /// of 3.
    pub exhaustive: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning { nhwc: true, graphs: true, tf32: true, exhaustive: false }
    }
}

pub(super) fn signature(outlets: &[Outlet]) -> Vec<TensorInfo> {
    let dims = |o: &Outlet| match o.dtype() {
        ValueType::Tensor { shape, .. } => shape.iter().map(|d| usize::try_from(*d).ok()).collect(),
        _ => Vec::new(),
    };
    outlets.iter().map(|o| TensorInfo { name: o.name().to_owned(), dims: dims(o) }).collect()
}

pub(super) fn engine_fault(model: &str, error: &dyn std::fmt::Display) -> Fault {
    let why = first_line(&error.to_string()).to_owned();
    Fault::new(Who::Device, "engine", format!("model {model}: the engine failed: {why}"))
}

/// What runs the network, and how it is set up.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The CUDA provider.
    pub tuning: Tuning,
    /// TensorRT, before it; `None`: CUDA alone.
    pub plan: Option<Arc<Plan>>,
}

/// Opens the model for batches of `frames`, which only TensorRT needs to know; `fixed`: what symbols of the graph stand for, for CUDA.
pub(super) fn open_session(
    runtime: &Runtime,
    spec: &ModelSpec,
    bytes: &[u8],
    stream: &Arc<CudaStream>,
    setup: &Setup,
    fixed: &[(String, i64)],
    frames: usize,
) -> Result<ort::session::Session, Fault> {
    let name = &spec.name;
    let Some(plan) = &setup.plan else {
        return open_cuda(runtime, name, bytes, fixed, stream, setup.tuning);
    };
    let bad = |e: &dyn std::fmt::Display| {
        let why = first_line(&e.to_string()).to_owned();
        let message = format!("model {name}: {} cannot be used: {why}", plan.provider);
        Fault::new(Who::Device, "no_tensorrt", message)
            .remedy("write \"cuda\" behind it in [infer] execution to go on without it")
    };
    let at = stream.cu_stream().cast();
    let ordinal = stream.context().ordinal();
    let builder = ort::session::Session::builder(runtime.environment())
        .map_err(|e| bad(&e))?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(|e| bad(&e))?
        .with_intra_threads(1)
        .map_err(|e| bad(&e))?;
    let mut builder = if plan.provider == Provider::TensorRtRtx {
        let options = plan.rtx_options(frames, at)?;
        builder
            // Else ONNX Runtime would run what the plugin refuses, and say nothing.
            .with_config_entry("session.disable_cpu_ep_fallback", "1")
            .map_err(|e| bad(&e))?
            .with_devices(runtime.devices(plan.provider).skip(ordinal).take(1), Some(&options))
            .map_err(|e| bad(&e))?
    } else {
        // SAFETY: the engine drops its stream after the session.
        let trt = unsafe { plan.provider(frames, ordinal, at)? };
        // Nodes that TensorRT does not take run on CUDA, and the memory is CUDA's.
        let cuda = ep::CUDA::default()
            .with_device_id(i32::try_from(ordinal).unwrap_or(0))
            .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested);
        // SAFETY: as above.
        let cuda = unsafe { cuda.with_compute_stream(at) };
        builder
            .with_execution_providers([trt.build().error_on_failure(), cuda.build().error_on_failure()])
            .map_err(|e| bad(&e))?
    };
    builder.commit_from_memory(bytes).map_err(|e| bad(&e))
}

/// Opens the model on the CUDA provider.
fn open_cuda(
    runtime: &Runtime,
    name: &str,
    bytes: &[u8],
    fixed: &[(String, i64)],
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
    let ordinal = i32::try_from(stream.context().ordinal()).unwrap_or(0);
    let search =
        if tuning.exhaustive { ConvAlgorithmSearch::Exhaustive } else { ConvAlgorithmSearch::Heuristic };
    let cuda = ep::CUDA::default()
        .with_device_id(ordinal)
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
        .with_conv_algorithm_search(search)
        .with_prefer_nhwc(tuning.nhwc)
        .with_cuda_graph(tuning.graphs)
        .with_tf32(tuning.tf32);
    // SAFETY: the engine drops its stream after the session.
    let cuda = unsafe { cuda.with_compute_stream(stream.cu_stream().cast()) };
    let mut builder = ort::session::Session::builder(runtime.environment())
        .map_err(|e| bad(&e))?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(|e| bad(&e))?
        .with_intra_threads(1)
        .map_err(|e| bad(&e))?
        .with_execution_providers([cuda.build().error_on_failure()])
        .map_err(|e| bad(&e))?;
    for (symbol, size) in fixed {
        builder = builder.with_dimension_override(symbol, *size).map_err(|e| bad(&e))?;
    }
    builder.commit_from_memory(bytes).map_err(|e| bad(&e))
}

/// How the outputs leave the GPU: as little of them as can be.
pub(super) fn way(spec: &ModelSpec, outlets: &[Outlet]) -> Way {
    let shapes: Vec<OutputShape> =
        signature(outlets).iter().map(|o| OutputShape::whole(&o.name, &o.dims)).collect();
    let Some(outputs) = fixed(outlets) else { return Way::Fetch };
    // A graph that does not fit its manifest is told elsewhere, with all its words.
    let detector = Detector::new(spec, &shapes).ok();
    match detector.and_then(|detector| Some((detector.anchors()?, detector.named()))) {
        Some((anchors, named)) => {
            Way::Sift(Shape { anchors, named, floor: spec.output.score_floor, half: outputs[0].half })
        }
        None => Way::Carry(outputs),
    }
}

/// Is it a tensor of 16-bit floats?
pub(super) fn is_half(outlet: &Outlet) -> bool {
    matches!(outlet.dtype(), ValueType::Tensor { ty: TensorElementType::Float16, .. })
}
