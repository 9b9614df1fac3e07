//! libnvidia-encode: whether this chip can encode video, and why not.
//!
//! Encoding itself is GStreamer's `nvh264enc` and `nvh265enc`, which open the same library at run time and answer to the same trial as all other encoders
//! (`video/encoder.rs`). An encoder of our own would read the GPU's memory directly, but boxes are painted by the CPU on a copy
//! ([`Canvas`](crate::device::canvas::Canvas)): a picture for people has left the GPU by then, and goes back either way. What GStreamer does not do
//! is to say in words that the chip has no encoder, or that the driver gives no more sessions; this does.
//!
//! The types follow `nvEncodeAPI.h` of the Video Codec SDK 12.1 on 64-bit Linux, their layout and version words tested against what a C compiler says of
//! it. Sessions are counted by NVML ([`super::nvml`]): those of other programs take part of the same limit.

use std::ffi::{c_int, c_void};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::gpu::Gpu;
use crate::fault::{Fault, Retry, Who};

const LIBRARY: &str = "libnvidia-encode.so.1";
/// `NVENCAPI_VERSION`: 12.1.
const API: u32 = 12 | 1 << 24;

/// `NVENCAPI_STRUCT_VERSION`.
const fn struct_version(version: u32) -> u32 {
    API | version << 16 | 7 << 28
}

/// `NV_ENC_DEVICE_TYPE_CUDA`.
const DEVICE_CUDA: u32 = 1;

/// `NVENCSTATUS`.
type Status = c_int;

/// `GUID`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Guid(u32, u16, u16, [u8; 8]);

const H264: Guid = Guid(0x6bc8_2762, 0x4e63, 0x4ca4, [0xaa, 0x85, 0x1e, 0x50, 0xf3, 0x21, 0xf6, 0xbf]);
const HEVC: Guid = Guid(0x790c_dc88, 0x4522, 0x4d7b, [0x94, 0x25, 0xbd, 0xa9, 0x97, 0x5f, 0x76, 0x03]);

/// `NV_ENC_OPEN_ENCODE_SESSION_EX_PARAMS`.
#[repr(C)]
struct OpenParams {
    version: u32,
    device_type: u32,
    device: *mut c_void,
    reserved: *mut c_void,
    api_version: u32,
    reserved1: [u32; 253],
    reserved2: [*mut c_void; 64],
}

type GuidCount = unsafe extern "C" fn(*mut c_void, *mut u32) -> Status;
type Guids = unsafe extern "C" fn(*mut c_void, *mut Guid, u32, *mut u32) -> Status;
type Open = unsafe extern "C" fn(*mut OpenParams, *mut *mut c_void) -> Status;
type Destroy = unsafe extern "C" fn(*mut c_void) -> Status;

/// `NV_ENCODE_API_FUNCTION_LIST`: what is called here, by name.
#[repr(C)]
struct Functions {
    version: u32,
    reserved: u32,
    open_session: *mut c_void,
    guid_count: Option<GuidCount>,
    profile_guids: [*mut c_void; 2],
    guids: Option<Guids>,
    formats_to_map: [*mut c_void; 22],
    destroy: Option<Destroy>,
    invalidate: *mut c_void,
    open_session_ex: Option<Open>,
    rest: [*mut c_void; 13],
    reserved2: [*mut c_void; 275],
}

/// The codecs that a chip encodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// H.264.
    pub h264: bool,
    /// H.265.
    pub h265: bool,
}

/// Asks the first GPU of this machine; see [`probe`].
///
/// # Errors
/// Why it cannot encode, or that there is none.
pub fn probe_first() -> Result<Abilities, Fault> {
    probe(&*Gpu::open(0)?)
}

/// Opens an encoder session on the GPU and closes it.
///
/// # Errors
/// A missing or old library; a chip without an encoder (`no_nvenc`); no session left (`nvenc_sessions`, which may pass).
pub fn probe(gpu: &Gpu) -> Result<Abilities, Fault> {
    let missing = |message: String| {
        Fault::new(Who::Device, "no_nvenc", message).remedy(
            "install the driver's encode library (Debian: libnvidia-encode1; in containers: the driver capability `video`)",
        )
    };
    // SAFETY: the driver's own library, whose initialisers have no preconditions.
    let library = unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|e| missing(format!("NVIDIA's encoder {LIBRARY} cannot be opened: {e}")))?;
    // SAFETY: the types are those of the SDK's header for these symbols.
    let (supported, create) = unsafe {
        (
            library.get::<unsafe extern "C" fn(*mut u32) -> Status>(b"NvEncodeAPIGetMaxSupportedVersion\0"),
            library.get::<unsafe extern "C" fn(*mut Functions) -> Status>(b"NvEncodeAPICreateInstance\0"),
        )
    };
    let (Ok(supported), Ok(create)) = (supported, create) else {
        return Err(missing(format!("{LIBRARY} is no encoder: it lacks its functions")));
    };
    let mut newest = 0;
    // SAFETY: writes one integer.
    check(unsafe { supported(&raw mut newest) })?;
    if !is_new_enough(newest) {
        let message = format!(
            "{LIBRARY} is too old: it knows version {}.{}, weir needs 12.1",
            newest >> 4,
            newest & 15
        );
        return Err(
            Fault::new(Who::Device, "no_nvenc", message).remedy("install NVIDIA's driver 580 or newer")
        );
    }
    // SAFETY: integers, null pointers and absent functions are all zeros.
    let mut functions: Box<Functions> = Box::new(unsafe { std::mem::zeroed() });
    functions.version = struct_version(2);
    // SAFETY: the struct is the header's, with its version.
    check(unsafe { create(&raw mut *functions) })?;
    let (Some(open), Some(destroy)) = (functions.open_session_ex, functions.destroy) else {
        return Err(missing(format!("{LIBRARY} gives no functions")));
    };
    gpu.bind()?;
    let mut params = OpenParams {
        version: struct_version(1),
        device_type: DEVICE_CUDA,
        device: gpu.context.cu_ctx().cast(),
        reserved: std::ptr::null_mut(),
        api_version: API,
        reserved1: [0; 253],
        reserved2: [std::ptr::null_mut(); 64],
    };
    let mut session = std::ptr::null_mut();
    // SAFETY: the struct is the header's, with its version; the context lives as long as `gpu`.
    let opened = check(unsafe { open(&raw mut params, &raw mut session) });
    let mut found = [Guid::default(); 16];
    let mut count = 0;
    if opened.is_ok()
        && let Some(guids) = functions.guids
    {
        // SAFETY: the session is open, and there is room for so many.
        unsafe { guids(session, found.as_mut_ptr(), found.len() as u32, &raw mut count) };
    }
    if !session.is_null() {
        // SAFETY: opened above, or left behind by a failed attempt, which wants this too (NVENC programming guide, "Opening an encode session").
        unsafe { destroy(session) };
    }
    opened?;
    let found = &found[..found.len().min(count as usize)];
    Ok(Abilities { h264: found.contains(&H264), h265: found.contains(&HEVC) })
}

/// A version as the library says it, major in the upper bits: 12.1 or later.
const fn is_new_enough(newest: u32) -> bool {
    newest >= 12 << 4 | 1
}

/// `NVENCSTATUS` in words.
fn check(status: Status) -> Result<(), Fault> {
    let no_encoder = |message: &str| Fault::new(Who::Device, "no_nvenc", message);
    Err(match status {
        0 => return Ok(()),
        1 | 2 => no_encoder(&format!("the GPU has no video encoder (NVENC answers {status}, unsupported device)"))
            .remedy("encoders of the CPU are used instead; H100, H200 and A100 have none"),
        // 21 is what consumer chips say beyond their number of sessions (incompatible client key).
        10 | 21 => {
            Fault::new(Who::Device, "nvenc_sessions", format!("no encoder session is left on the GPU (NVENC answers {status})"))
                .retry(Retry::Slowly)
                .remedy("let fewer cameras be encoded ([rtsp_server] max_streams), or end other programs that encode; weir_gpu_encoder_sessions counts all")
        }
        15 => no_encoder("the GPU's driver does not know version 12.1 of NVENC").remedy("install NVIDIA's driver 580 or newer"),
        other => no_encoder(&format!("NVENC cannot be used: it answers {other}")),
    })
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    /// gcc 12 on the header of the Video Codec SDK 12.1, x86-64.
    #[test]
    fn structs_and_version_words_are_those_of_the_header() {
        assert_eq!(API, 0x0100_000c);
        assert_eq!((struct_version(2), struct_version(1)), (0x7102_000c, 0x7101_000c));
        assert_eq!(size_of::<Functions>(), 2552);
        assert_eq!(offset_of!(Functions, guid_count), 16);
        assert_eq!(offset_of!(Functions, guids), 40);
        assert_eq!(offset_of!(Functions, destroy), 224);
        assert_eq!(offset_of!(Functions, open_session_ex), 240);
        assert_eq!(size_of::<OpenParams>(), 1552);
        assert_eq!((offset_of!(OpenParams, device), offset_of!(OpenParams, api_version)), (8, 24));
        assert_eq!(offset_of!(OpenParams, reserved2), 1040);
        assert_eq!(size_of::<Guid>(), 16);
    }

    #[test]
    fn what_the_encoder_answers_is_said_in_words() {
        assert!(check(0).is_ok());
        let fault = |status| check(status).unwrap_err();
        assert!(fault(2).message.contains("has no video encoder") && fault(2).reason == "no_nvenc");
        for status in [10, 21] {
            assert_eq!((fault(status).reason, fault(status).retry), ("nvenc_sessions", Retry::Slowly));
        }
        assert!(fault(15).message.contains("12.1"));
        assert!(fault(20).message.contains("20"));
        assert!(
            is_new_enough(12 << 4 | 1)
                && is_new_enough(13 << 4)
                && !is_new_enough(12 << 4)
                && !is_new_enough(11 << 4 | 15)
        );
    }

    #[test]
    fn without_a_gpu_it_is_said_so() {
        match probe_first() {
            Ok(abilities) => eprintln!("this GPU encodes: {abilities:?}"),
            Err(fault) => {
                assert_eq!(fault.who, Who::Device, "{fault}");
                eprintln!("no encoder here: {fault}");
            }
        }
    }
}
