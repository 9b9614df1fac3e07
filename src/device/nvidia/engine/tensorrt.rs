//! TensorRT, as ONNX Runtime's provider and as the TensorRT-RTX plugin: what they need, where their engines are kept, and how they are set up.
//!
//! Both compile the network for this GPU, which takes minutes the first time. So each batch size has an engine of its own, of fixed shape (minimum,
//! optimum and maximum of its profile are the same), kept in a folder that is named for all that an engine depends on:
//!
//! ```text
//! [infer] engine_cache / tensorrt-101300-cuda13000-sm90-NVIDIA_H100_80GB_HBM3-1f3a…  / b8 / *.engine
//! ```
//!
//! An engine is code: the folder is made with mode 0700, and one that others own or may write to is refused. The first run of a rung builds what is
//! missing, and READY waits for all rungs; `weir model build` does it ahead.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use cudarc::driver::sys::CUdevice_attribute;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use ort::ep;
use sha2::{Digest, Sha256};

use crate::config::Provider;
use crate::device::nvidia::gpu::{self, Gpu};
use crate::device::software::session::Runtime;
use crate::fault::{Fault, Who};
use crate::model::file;
use crate::model::inspect::{Axis, input};
use crate::model::onnx::data_type;
use crate::model::spec::ModelSpec;

/// TensorRT 10; its soname.
const LIBRARY: &str = "libnvinfer.so.10";
/// ONNX Runtime's part of it, beside its own library.
const PROVIDER: &str = "libonnxruntime_providers_tensorrt.so";
/// What the plugin calls itself.
const RTX: &str = "NvTensorRTRTXExecutionProvider";

/// How engines for one model are built and kept.
#[derive(Clone, Debug)]
pub struct Plan {
    /// TensorRT or TensorRT-RTX.
    pub provider: Provider,
    folder: PathBuf,
    name: String,
    /// Of one picture.
    dims: [usize; 3],
    /// The batch that the graph is fixed to: a profile would be refused then.
    fixed: Option<usize>,
    half: bool,
}

impl Plan {
    /// Finds the libraries, and makes the folder for this model and machine in `cache`.
    ///
    /// # Errors
    /// What is missing and how to get it; a folder that others can write to.
    pub fn new(
        provider: Provider,
        gpu: &Gpu,
        runtime: &Runtime,
        spec: &ModelSpec,
        model: &[u8],
        cache: &Path,
    ) -> Result<Plan, Fault> {
        let version = match provider {
            Provider::TensorRtRtx => {
                runtime.tensorrt_rtx(&capability(gpu)?)?;
                "rtx".to_owned()
            }
            _ => tensorrt(runtime)?.to_string(),
        };
        let graph = file::parse(model, &spec.name)?;
        let port = graph.graph.as_ref().and_then(input).unwrap_or_default();
        let [_, a, b, c] = spec.input.dims(1);
        let key = key(&Machine {
            provider,
            version: &version,
            cuda: gpu.driver_version()?,
            capability: &capability(gpu)?,
            gpu: &gpu.name,
            model,
        });
        let folder = cache.join(key);
        own_folder(&folder)?;
        Ok(Plan {
            provider,
            folder,
            name: spec.input.name.clone(),
            dims: [a, b, c],
            fixed: port.dims.first().and_then(Axis::fixed),
            half: port.data_type == data_type::FLOAT16,
        })
    }

    /// Where engines for batches of `frames` are.
    pub fn folder(&self, frames: usize) -> PathBuf {
        self.folder.join(format!("b{}", self.fixed.unwrap_or(frames)))
    }

    /// Is there one already?
    pub fn is_built(&self, frames: usize) -> bool {
        let files = fs::read_dir(self.folder(frames)).into_iter().flatten().flatten();
        // The timing cache lies one folder higher.
        files.into_iter().any(|file| file.metadata().is_ok_and(|meta| meta.len() > 0))
    }

    /// The one shape of a batch, as profiles are written.
    fn shape(&self, frames: usize) -> String {
        let [a, b, c] = self.dims;
        format!("{}:{frames}x{a}x{b}x{c}", self.name)
    }

    /// ONNX Runtime's provider for batches of `frames`, working on `stream` of GPU `ordinal`.
    ///
    /// # Errors
    /// When the folder for its engines cannot be made.
    ///
    /// # Safety
    /// The stream outlives the session.
    pub(super) unsafe fn provider(
        &self,
        frames: usize,
        ordinal: usize,
        stream: *mut (),
    ) -> Result<ep::TensorRT, Fault> {
        let folder = self.folder(frames);
        own_folder(&folder)?;
        let trt = ep::TensorRT::default()
            .with_device_id(i32::try_from(ordinal).unwrap_or(0))
            .with_fp16(self.half)
            .with_engine_cache(true)
            .with_engine_cache_path(folder.display())
            .with_timing_cache(true)
            .with_timing_cache_path(self.folder.display());
        let trt = if self.fixed.is_some() {
            trt
        } else {
            let shape = self.shape(frames);
            trt.with_profile_min_shapes(&shape)
                .with_profile_opt_shapes(&shape)
                .with_profile_max_shapes(&shape)
        };
        // SAFETY: the caller's promise.
        Ok(unsafe { trt.with_compute_stream(stream) })
    }

    /// The plugin's options for batches of `frames`, as `(NAME.key, value)`.
    ///
    /// # Errors
    /// When the folder for its engines cannot be made.
    pub(super) fn rtx_options(&self, frames: usize, stream: *mut ()) -> Result<Vec<(String, String)>, Fault> {
        let folder = self.folder(frames);
        own_folder(&folder)?;
        let mut options = vec![
            ("has_user_compute_stream", "1".to_owned()),
            ("user_compute_stream", (stream as usize).to_string()),
            ("nv_runtime_cache_path", folder.display().to_string()),
        ];
        if self.fixed.is_none() {
            options.extend(
                ["nv_profile_min_shapes", "nv_profile_opt_shapes", "nv_profile_max_shapes"]
                    .map(|key| (key, self.shape(frames))),
            );
        }
        Ok(options.into_iter().map(|(key, value)| (format!("{RTX}.{key}"), value)).collect())
    }
}

/// Version of the TensorRT that is here, as it counts: 101300 is 10.13.0.
fn tensorrt(runtime: &Runtime) -> Result<i32, Fault> {
    let fault = |message: String| {
        Fault::new(Who::Device, "no_tensorrt", message).remedy(
            "install TensorRT 10 for CUDA 13 (NVIDIA's packages libnvinfer10, libnvinfer-plugin10 and libnvonnxparsers10) and the PyPI wheel \
             `onnxruntime-gpu`, whose libraries belong together in one folder; or write \"cuda\" behind \"tensorrt\" in [infer] execution",
        )
    };
    let provider = runtime.library.with_file_name(PROVIDER);
    if !provider.is_file() {
        return Err(fault(format!("{} is not there", provider.display())));
    }
    // SAFETY: NVIDIA's library, whose initialisers have no preconditions.
    let library = unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|e| fault(format!("TensorRT's {LIBRARY} cannot be opened: {e}")))?;
    // SAFETY: `int32_t getInferLibVersion()` of NvInferRuntime.h.
    let version = unsafe { library.get::<unsafe extern "C" fn() -> i32>(b"getInferLibVersion\0") };
    let version = version.map_err(|_| fault(format!("{LIBRARY} does not say its version")))?;
    // SAFETY: no arguments.
    Ok(unsafe { version() })
}

/// As `9.0`.
fn capability(gpu: &Gpu) -> Result<String, Fault> {
    let ask = |attribute| {
        gpu.context.attribute(attribute).map_err(|e| gpu::driver("the GPU does not say what it is", &e))
    };
    let major = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(format!("{major}.{minor}"))
}

/// All that an engine depends on.
struct Machine<'a> {
    provider: Provider,
    version: &'a str,
    /// As the driver counts: 13000.
    cuda: i32,
    capability: &'a str,
    gpu: &'a str,
    model: &'a [u8],
}

/// A folder's name for it.
fn key(machine: &Machine<'_>) -> String {
    let Machine { provider, version, cuda, capability, gpu, model } = machine;
    let plain = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
    };
    let hash: String = Sha256::digest(model).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{provider}-{}-cuda{cuda}-sm{}-{}-{hash}",
        plain(version),
        capability.replace('.', ""),
        plain(gpu)
    )
}

/// Makes the folder and those above it, for us alone; one that is there must be ours.
fn own_folder(folder: &Path) -> Result<(), Fault> {
    let fault = |why: String| {
        Fault::new(Who::Config, "engine_cache", format!("engines cannot be kept in {}: {why}", folder.display()))
            .remedy("name a folder of the user that runs weir in [infer] engine_cache, with mode 0700: who can write there can run code as weir")
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| fault(e.to_string()))?;
    let meta = fs::symlink_metadata(folder).map_err(|e| fault(e.to_string()))?;
    if !meta.is_dir() {
        return Err(fault("it is a link".to_owned()));
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(fault("it belongs to somebody else".to_owned()));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(fault(format!("others may write to it (mode {:04o})", meta.mode() & 0o7777)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn an_engine_is_kept_for_all_that_it_depends_on() {
        let base = || Machine {
            provider: Provider::TensorRt,
            version: "101300",
            cuda: 13000,
            capability: "9.0",
            gpu: "NVIDIA H100 80GB HBM3",
            model: b"one",
        };
        let first = key(&base());
        assert_eq!(first, "tensorrt-101300-cuda13000-sm90-NVIDIA_H100_80GB_HBM3-7692c3ad3540bb80");
        let others = [
            Machine { provider: Provider::TensorRtRtx, ..base() },
            Machine { version: "101400", ..base() },
            Machine { cuda: 13010, ..base() },
            Machine { capability: "8.9", ..base() },
            Machine { gpu: "../../etc", ..base() },
            Machine { model: b"two", ..base() },
        ];
        for other in others.iter().map(key) {
            assert_ne!(other, first);
            assert!(!other.contains(['/', '.']), "{other} stays in its folder");
        }
    }

    #[test]
    fn engines_are_kept_where_nobody_else_can_write() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        own_folder(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        own_folder(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o720)).unwrap();
        let fault = own_folder(&folder).unwrap_err();
        assert!(fault.message.contains("others may write to it (mode 0720)"), "{fault}");
        let link = dir.path().join("link");
        symlink(dir.path(), &link).unwrap();
        assert!(own_folder(&link).unwrap_err().message.contains("it is a link"));
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(own_folder(&dir.path().join("file")).is_err());
    }

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let runtime = match crate::device::software::session::load_runtime(None) {
            Ok(runtime) => runtime,
            Err(fault) => return eprintln!("skipped what_is_missing_is_named_with_its_remedy: {fault}"),
        };
        match tensorrt(&runtime) {
            Ok(version) => eprintln!("skipped: TensorRT {version} is here"),
            Err(fault) => {
                let said = fault.to_string();
                assert!(said.contains(PROVIDER) || said.contains(LIBRARY), "{said}");
                assert!(said.contains("install TensorRT 10"), "{said}");
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let broken = dir.path().join("plugin.so");
        fs::write(&broken, "no library").unwrap();
        let said =
            runtime.with_tensorrt_rtx(Some(broken.clone())).tensorrt_rtx("9.0").unwrap_err().to_string();
        assert!(said.contains(&broken.display().to_string()) && said.contains("cannot be loaded"), "{said}");
    }

    fn plan(folder: &Path, fixed: Option<usize>) -> Plan {
        Plan {
            provider: Provider::TensorRt,
            folder: folder.to_owned(),
            name: "images".into(),
            dims: [3, 640, 480],
            fixed,
            half: true,
        }
    }

    #[test]
    fn a_rung_has_one_shape_and_a_folder_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let free = plan(dir.path(), None);
        let options = free.rtx_options(8, std::ptr::null_mut()).unwrap();
        let of = |key: &str| options.iter().find(|(k, _)| k.ends_with(key)).map(|(_, v)| v.as_str());
        for shapes in ["nv_profile_min_shapes", "nv_profile_opt_shapes", "nv_profile_max_shapes"] {
            assert_eq!(of(shapes), Some("images:8x3x640x480"));
        }
        assert!(options.iter().all(|(key, _)| key.starts_with("NvTensorRTRTXExecutionProvider.")));
        let fixed = plan(dir.path(), Some(4)).rtx_options(1, std::ptr::null_mut()).unwrap();
        assert!(!fixed.iter().any(|(key, _)| key.contains("profile")), "{fixed:?}");
        assert!(fixed.iter().any(|(_, value)| value.ends_with("/b4")), "its own batch: {fixed:?}");
        assert!(!free.is_built(8) && !free.is_built(16));
        fs::write(free.folder(8).join("x.engine"), "code").unwrap();
        assert!(free.is_built(8) && !free.is_built(16));
    }
}
