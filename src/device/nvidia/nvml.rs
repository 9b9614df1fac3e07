//! libnvidia-ml: what the driver says of the GPU, opened at run time. Read now and then by a thread of its own, since some questions
//! take the driver tens of milliseconds.
//!
//! The types follow `nvml.h` of CUDA 13. Enums are plain integers here, as in [`super::cuvid`].

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use cudarc::driver::sys;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::gpu::Gpu;
use crate::device::accelerator::Report;
use crate::fault::{Fault, Who};
use crate::supervise;

/// Between two readings.
const EVERY: Duration = Duration::from_secs(2);
/// After so long a reading is of now.
pub const FRESH: Duration = Duration::from_millis(2500);

const LIBRARY: &str = "libnvidia-ml.so.1";

/// `NVML_CLOCK_SM`.
const CLOCK_SM: c_uint = 1;
/// `NVML_PCIE_UTIL_TX_BYTES`, `NVML_PCIE_UTIL_RX_BYTES`.
const PCIE: [c_uint; 2] = [0, 1];
/// `NVML_TEMPERATURE_GPU`.
const TEMPERATURE_GPU: c_uint = 0;

/// `nvmlClocksEventReason*`: those that say that something holds the GPU back. Idle and set clocks do not.
const THROTTLE: [(u64, &str); 6] = [
    (1 << 2, "power_cap"),
    (1 << 3, "hardware_slowdown"),
    (1 << 5, "temperature"),
    (1 << 6, "hardware_temperature"),
    (1 << 7, "power_brake"),
    (1 << 4, "sync_boost"),
];

/// `nvmlReturn_t`.
type Status = c_uint;
/// `nvmlDevice_t`.
type Handle = *mut c_void;

/// `nvmlUtilization_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

/// `nvmlMemory_t`, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Memory {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

macro_rules! functions {
    ($($name:ident = $symbol:literal ($($arg:ty),*);)*) => {
        struct Functions {
            $($name: unsafe extern "C" fn($($arg),*) -> Status,)*
            _library: Library,
        }

        impl Functions {
            fn open() -> Result<Functions, Fault> {
                let fault = |message: String| {
                    Fault::new(Who::Device, "no_nvml", message)
                        .remedy("install the driver's management library (Debian: libnvidia-ml1; in containers: the driver capability `utility`)")
                };
                // SAFETY: the driver's own library, whose initialisers have no preconditions.
                let library = unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_LOCAL) }
                    .map_err(|e| fault(format!("{LIBRARY} cannot be opened: {e}")))?;
                $(
                    // SAFETY: the type is that of the header for this symbol.
                    let $name: unsafe extern "C" fn($($arg),*) -> Status = *unsafe { library.get(concat!($symbol, "\0").as_bytes()) }
                        .map_err(|_| fault(format!("{LIBRARY} is too old: it has no {}", $symbol)))?;
                )*
                Ok(Functions { $($name,)* _library: library })
            }
        }
    };
}

functions! {
    init = "nvmlInit_v2" ();
    shutdown = "nvmlShutdown" ();
    by_bus_id = "nvmlDeviceGetHandleByPciBusId_v2" (*const c_char, *mut Handle);
    driver_version = "nvmlSystemGetDriverVersion" (*mut c_char, c_uint);
    utilization = "nvmlDeviceGetUtilizationRates" (Handle, *mut Utilization);
    decoder = "nvmlDeviceGetDecoderUtilization" (Handle, *mut c_uint, *mut c_uint);
    encoder = "nvmlDeviceGetEncoderUtilization" (Handle, *mut c_uint, *mut c_uint);
    encoder_stats = "nvmlDeviceGetEncoderStats" (Handle, *mut c_uint, *mut c_uint, *mut c_uint);
    memory = "nvmlDeviceGetMemoryInfo" (Handle, *mut Memory);
    clock = "nvmlDeviceGetClockInfo" (Handle, c_uint, *mut c_uint);
    pcie = "nvmlDeviceGetPcieThroughput" (Handle, c_uint, *mut c_uint);
    power = "nvmlDeviceGetPowerUsage" (Handle, *mut c_uint);
    temperature = "nvmlDeviceGetTemperature" (Handle, c_uint, *mut c_uint);
    throttle = "nvmlDeviceGetCurrentClocksThrottleReasons" (Handle, *mut c_ulonglong);
}

/// The library, and the GPU in it.
pub struct Nvml {
    functions: Functions,
    handle: Handle,
    ordinal: u32,
    name: String,
    driver: Option<String>,
}

// SAFETY: NVML may be called from any thread ("The NVML library is thread-safe", NVML API reference); the handle is the library's.
unsafe impl Send for Nvml {}

impl std::fmt::Debug for Nvml {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(LIBRARY)
    }
}

impl Nvml {
    /// Opens the library and finds the GPU in it.
    ///
    /// # Errors
    /// When it is not here, or does not know the GPU.
    pub fn open(gpu: &Gpu) -> Result<Nvml, Fault> {
        let fault = |what: &str, status: u32| {
            Fault::new(Who::Device, "no_nvml", format!("{LIBRARY} {what}: error {status}"))
        };
        let mut bus_id: [c_char; 32] = [0; 32];
        // SAFETY: writes at most so many bytes, the last one 0.
        let status = unsafe {
            sys::cuDeviceGetPCIBusId(bus_id.as_mut_ptr(), bus_id.len() as c_int, gpu.context.cu_device())
        };
        if status != sys::CUresult::CUDA_SUCCESS {
            return Err(fault("cannot be told which GPU is meant", status as u32));
        }
        let functions = Functions::open()?;
        // SAFETY: no arguments; undone by drop.
        let status = unsafe { (functions.init)() };
        if status != 0 {
            return Err(fault("cannot be used", status));
        }
        let (handle, ordinal, name) = (std::ptr::null_mut(), gpu.ordinal(), gpu.name.clone());
        let mut nvml = Nvml { functions, handle, ordinal, name, driver: None };
        // SAFETY: a string that ends with 0, and a place for the handle.
        let status = unsafe { (nvml.functions.by_bus_id)(bus_id.as_ptr(), &raw mut nvml.handle) };
        if status != 0 {
            return Err(fault("does not know the GPU", status));
        }
        let mut version: [c_char; 96] = [0; 96];
        // SAFETY: writes at most so many bytes, the last one 0.
        if unsafe { (nvml.functions.driver_version)(version.as_mut_ptr(), version.len() as c_uint) } == 0 {
            // SAFETY: just written.
            let version = unsafe { CStr::from_ptr(version.as_ptr()) };
            nvml.driver = Some(version.to_string_lossy().into_owned());
        }
        Ok(nvml)
    }

    /// Asks for all of it. Takes tens of milliseconds.
    pub fn read(&self) -> Report {
        let (f, gpu) = (&self.functions, self.handle);
        let percent = |percent: c_uint| f64::from(percent) / 100.0;
        // SAFETY: for this and all that follow, the library is initialised, the handle is its own, and each place is of the type that the
        // header says.
        let utilization = ask(|to: &mut Utilization| unsafe { (f.utilization)(gpu, to) });
        let mut period = 0;
        // SAFETY: see above.
        let decoder = ask(|to| unsafe { (f.decoder)(gpu, to, &raw mut period) });
        // SAFETY: see above.
        let encoder = ask(|to| unsafe { (f.encoder)(gpu, to, &raw mut period) });
        let (mut fps, mut latency) = (0, 0);
        // SAFETY: see above.
        let sessions: Option<c_uint> =
            ask(|to| unsafe { (f.encoder_stats)(gpu, to, &raw mut fps, &raw mut latency) });
        // SAFETY: see above.
        let memory = ask(|to: &mut Memory| unsafe { (f.memory)(gpu, to) });
        // SAFETY: see above.
        let clock: Option<c_uint> = ask(|to| unsafe { (f.clock)(gpu, CLOCK_SM, to) });
        // SAFETY: see above.
        let pcie = PCIE.map(|way| ask(|to: &mut c_uint| unsafe { (f.pcie)(gpu, way, to) }));
        // SAFETY: see above.
        let power: Option<c_uint> = ask(|to| unsafe { (f.power)(gpu, to) });
        // SAFETY: see above.
        let temperature: Option<c_uint> = ask(|to| unsafe { (f.temperature)(gpu, TEMPERATURE_GPU, to) });
        // SAFETY: see above.
        let throttle_bits = ask(|to: &mut c_ulonglong| unsafe { (f.throttle)(gpu, to) });
        // In kilobytes a second.
        let [sent, received] = pcie.map(|rate| rate.map(|rate| f64::from(rate) * 1e3));
        Report {
            gpu: self.ordinal,
            name: self.name.clone(),
            driver: self.driver.clone(),
            utilization_ratio: utilization.map(|u| percent(u.gpu)),
            decoder_utilization_ratio: decoder.map(percent),
            encoder_utilization_ratio: encoder.map(percent),
            encoder_sessions: sessions.map(u64::from),
            memory_total_bytes: memory.map(|m| m.total),
            memory_used_bytes: memory.map(|m| m.used),
            sm_clock_hertz: clock.map(|mhz| f64::from(mhz) * 1e6),
            pcie_received_bytes_per_second: received,
            pcie_sent_bytes_per_second: sent,
            power_watts: power.map(|mw| f64::from(mw) / 1e3),
            temperature_celsius: temperature.map(f64::from),
            throttle_bits,
            throttle: throttle_bits.map_or_else(Vec::new, throttle_words),
            ..Report::default()
        }
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: `open` has initialised it.
        unsafe { (self.functions.shutdown)() };
    }
}

/// `None`: the GPU does not say it.
fn ask<T: Default>(question: impl FnOnce(&mut T) -> Status) -> Option<T> {
    let mut answer = T::default();
    (question(&mut answer) == 0).then_some(answer)
}

fn throttle_words(bits: u64) -> Vec<&'static str> {
    THROTTLE.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, word)| *word).collect()
}

/// Keeps the last reading. Reading ends when this is dropped.
#[derive(Debug)]
pub struct Meter {
    last: Arc<Mutex<Report>>,
    _stop: Option<Sender<()>>,
}

impl Meter {
    /// Reads from now on. Without the library only what is known otherwise is reported.
    pub fn start(gpu: &Gpu) -> Meter {
        let (name, ordinal) = (gpu.name.clone(), gpu.ordinal());
        let nothing = |why: &Fault| {
            tracing::warn!("The GPU's load is not known: {why}");
            Meter {
                last: Arc::new(Mutex::new(Report { gpu: ordinal, name: name.clone(), ..Report::default() })),
                _stop: None,
            }
        };
        let nvml = match Nvml::open(gpu) {
            Ok(nvml) => nvml,
            Err(why) => return nothing(&why),
        };
        let last = Arc::new(Mutex::new(nvml.read()));
        let theirs = Arc::clone(&last);
        let (stop, stopped) = bounded::<()>(0);
        let reader = supervise::spawn("gpu", move || {
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let report = nvml.read();
                *theirs.lock().unwrap_or_else(PoisonError::into_inner) = report;
            }
        });
        match reader {
            Ok(_) => Meter { last, _stop: Some(stop) },
            Err(why) => nothing(&why),
        }
    }

    /// The last reading.
    pub fn last(&self) -> Report {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `nvml.h`: a set application clock and an idle GPU are no trouble.
    #[test]
    fn only_what_holds_the_gpu_back_is_called_throttling() {
        assert_eq!(throttle_words(0), Vec::<&str>::new());
        assert_eq!(throttle_words(1 | 2 | 1 << 8), Vec::<&str>::new());
        assert_eq!(throttle_words(0x24), ["power_cap", "temperature"]);
    }

    #[test]
    fn the_structs_are_laid_out_as_the_header_says() {
        assert_eq!((size_of::<Utilization>(), size_of::<Memory>()), (8, 24));
    }
}
