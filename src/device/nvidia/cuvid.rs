//! libnvcuvid: the part of NVIDIA's NVDECODE API that weir uses, opened at run time.
//!
//! The types follow `cuviddec.h` and `nvcuvid.h` of the Video Codec SDK 12 on 64-bit Linux; their sizes and places of
//! fields are tested against what a C compiler says of these headers. Enums are plain integers here: a value that a newer
//! driver adds must not be undefined behaviour. What a picture needs to be decoded (`CUVIDPICPARAMS`) is passed from the
//! parser to the decoder unread, but for its first fields.

use std::ffi::{c_int, c_longlong, c_short, c_uint, c_ulong, c_ulonglong, c_void};

use cudarc::driver::sys::CUstream;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::fault::{Fault, Who};

/// `cudaVideoCodec`.
pub const CODEC_H264: c_uint = 4;
/// `cudaVideoCodec`.
pub const CODEC_HEVC: c_uint = 8;
/// `cudaVideoCodec`.
pub const CODEC_VP9: c_uint = 10;
/// `cudaVideoCodec`.
pub const CODEC_AV1: c_uint = 11;
/// `cudaVideoSurfaceFormat`.
pub const SURFACE_NV12: c_uint = 0;
/// `cudaVideoDeinterlaceMode`: leave the lines as they are.
pub const DEINTERLACE_WEAVE: c_uint = 0;
/// `cudaVideoDeinterlaceMode`.
pub const DEINTERLACE_ADAPTIVE: c_uint = 2;
/// `cudaVideoCreateFlags`: the video engines, directly.
pub const CREATE_PREFER_CUVID: c_ulong = 4;
/// `CUvideopacketflags`.
pub const PACKET_END_OF_STREAM: c_ulong = 1;
/// `CUvideopacketflags`.
pub const PACKET_TIMESTAMP: c_ulong = 2;
/// `CUvideopacketflags`: exactly one frame or field.
pub const PACKET_END_OF_PICTURE: c_ulong = 8;
/// `cuvidDecodeStatus`.
pub const STATUS_IN_PROGRESS: c_uint = 1;
/// `cuvidDecodeStatus`: from here on something is wrong with the picture.
pub const STATUS_ERROR: c_uint = 8;

/// `CUresult`.
pub type Status = c_uint;
/// `CUvideodecoder`.
pub type DecoderHandle = *mut c_void;
/// `CUvideoparser`.
pub type ParserHandle = *mut c_void;

/// `CUVIDDECODECAPS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the header's own names")]
pub struct DecodeCaps {
    pub codec: c_uint,
    pub chroma_format: c_uint,
    pub bit_depth_minus8: c_uint,
    pub reserved1: [c_uint; 3],
    pub is_supported: u8,
    pub nvdecs: u8,
    pub output_format_mask: u16,
    pub max_width: c_uint,
    pub max_height: c_uint,
    pub max_mb_count: c_uint,
    pub min_width: u16,
    pub min_height: u16,
    pub is_histogram_supported: u8,
    pub counter_bit_depth: u8,
    pub max_histogram_bins: u16,
    pub reserved3: [c_uint; 10],
}

/// Left, top, right, bottom.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the header's own names")]
pub struct ShortRect {
    pub left: c_short,
    pub top: c_short,
    pub right: c_short,
    pub bottom: c_short,
}

/// `CUVIDDECODECREATEINFO`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the header's own names")]
pub struct DecodeCreateInfo {
    pub width: c_ulong,
    pub height: c_ulong,
    pub num_decode_surfaces: c_ulong,
    pub codec: c_uint,
    pub chroma_format: c_uint,
    pub creation_flags: c_ulong,
    pub bit_depth_minus8: c_ulong,
    pub intra_decode_only: c_ulong,
    pub max_width: c_ulong,
    pub max_height: c_ulong,
    pub reserved1: c_ulong,
    pub display_area: ShortRect,
    pub output_format: c_uint,
    pub deinterlace_mode: c_uint,
    pub target_width: c_ulong,
    pub target_height: c_ulong,
    pub num_output_surfaces: c_ulong,
    pub vid_lock: *mut c_void,
    pub target_rect: ShortRect,
    pub enable_histogram: c_ulong,
    pub reserved2: [c_ulong; 4],
}

/// `CUVIDPROCPARAMS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the header's own names")]
pub struct ProcParams {
    pub progressive_frame: c_int,
    pub second_field: c_int,
    pub top_field_first: c_int,
    pub unpaired_field: c_int,
    pub reserved_flags: c_uint,
    pub reserved_zero: c_uint,
    pub raw_input_dptr: c_ulonglong,
    pub raw_input_pitch: c_uint,
    pub raw_input_format: c_uint,
    pub raw_output_dptr: c_ulonglong,
    pub raw_output_pitch: c_uint,
    pub reserved1: c_uint,
    pub output_stream: CUstream,
    pub reserved: [c_uint; 46],
    pub histogram_dptr: *mut c_ulonglong,
    pub reserved2: [*mut c_void; 1],
}

/// `CUVIDGETDECODESTATUS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the header's own names")]
pub struct DecodeStatus {
    pub status: c_uint,
    pub reserved: [c_uint; 31],
    pub p_reserved: [*mut c_void; 8],
}

/// `CUVIDEOFORMAT`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the header's own names")]
pub struct VideoFormat {
    pub codec: c_uint,
    pub frame_rate: [c_uint; 2],
    pub progressive_sequence: u8,
    pub bit_depth_luma_minus8: u8,
    pub bit_depth_chroma_minus8: u8,
    pub min_num_decode_surfaces: u8,
    pub coded_width: c_uint,
    pub coded_height: c_uint,
    /// Left, top, right, bottom.
    pub display_area: [c_int; 4],
    pub chroma_format: c_uint,
    pub bitrate: c_uint,
    pub display_aspect_ratio: [c_int; 2],
    /// Bits 0..=2 the video format, bit 3 the full range flag.
    pub signal: u8,
    pub color_primaries: u8,
    pub transfer_characteristics: u8,
    pub matrix_coefficients: u8,
    pub seqhdr_data_length: c_uint,
}

/// The first fields of `CUVIDPICPARAMS`; never made here.
#[repr(C)]
#[derive(Debug)]
#[expect(missing_docs, reason = "the header's own names")]
pub struct PicParams {
    pub width_in_mbs: c_int,
    pub frame_height_in_mbs: c_int,
    pub curr_pic_idx: c_int,
}

/// `CUVIDSOURCEDATAPACKET`.
#[repr(C)]
#[derive(Debug)]
#[expect(missing_docs, reason = "the header's own names")]
pub struct SourceDataPacket {
    pub flags: c_ulong,
    pub payload_size: c_ulong,
    pub payload: *const u8,
    pub timestamp: c_longlong,
}

/// `CUVIDPARSERDISPINFO`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the header's own names")]
pub struct ParserDispInfo {
    pub picture_index: c_int,
    pub progressive_frame: c_int,
    pub top_field_first: c_int,
    pub repeat_first_field: c_int,
    pub timestamp: c_longlong,
}

/// One of the parser's callbacks; the second argument is the callback's own struct.
pub type Callback<T> = unsafe extern "C" fn(*mut c_void, *mut T) -> c_int;

/// `CUVIDPARSERPARAMS`.
#[repr(C)]
#[expect(missing_docs, reason = "the header's own names")]
pub struct ParserParams {
    pub codec: c_uint,
    pub max_num_decode_surfaces: c_uint,
    pub clock_rate: c_uint,
    pub error_threshold: c_uint,
    pub max_display_delay: c_uint,
    pub flags: c_uint,
    pub reserved1: [c_uint; 4],
    pub user_data: *mut c_void,
    pub sequence: Option<Callback<VideoFormat>>,
    pub decode: Option<Callback<PicParams>>,
    pub display: Option<Callback<ParserDispInfo>>,
    pub operating_point: Option<Callback<c_void>>,
    pub sei: Option<Callback<c_void>>,
    pub reserved2: [*mut c_void; 5],
    pub ext_video_info: *mut c_void,
}

macro_rules! functions {
    ($($name:ident = $symbol:literal ($($arg:ty),*);)*) => {
        /// The library's functions. The library stays loaded as long as this lives.
        pub struct Cuvid {
            $(#[doc = concat!("`", $symbol, "`.")] pub $name: unsafe extern "C" fn($($arg),*) -> Status,)*
            _library: Library,
        }

        impl Cuvid {
            /// Opens libnvcuvid, which comes with the driver.
            ///
            /// # Errors
            /// When it is not here, or lacks a function.
            pub fn open() -> Result<Cuvid, Fault> {
                let fault = |message: String| {
                    Fault::new(Who::Device, "no_nvdec", message).remedy(
                        "install the driver's decode library (Debian: libnvcuvid1; in containers: the driver capability `video`)",
                    )
                };
                // SAFETY: the driver's own library, whose initialisers have no preconditions.
                let library = unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_LOCAL) }
                    .map_err(|e| fault(format!("NVIDIA's decoder {LIBRARY} cannot be opened: {e}")))?;
                $(
                    // SAFETY: the type is that of the SDK's header for this symbol.
                    let $name: unsafe extern "C" fn($($arg),*) -> Status = *unsafe { library.get(concat!($symbol, "\0").as_bytes()) }
                        .map_err(|_| fault(format!("NVIDIA's decoder {LIBRARY} is too old: it has no {}", $symbol)))?;
                )*
                Ok(Cuvid { $($name,)* _library: library })
            }
        }
    };
}

const LIBRARY: &str = "libnvcuvid.so.1";

functions! {
    get_decoder_caps = "cuvidGetDecoderCaps" (*mut DecodeCaps);
    create_decoder = "cuvidCreateDecoder" (*mut DecoderHandle, *mut DecodeCreateInfo);
    destroy_decoder = "cuvidDestroyDecoder" (DecoderHandle);
    decode_picture = "cuvidDecodePicture" (DecoderHandle, *mut PicParams);
    get_decode_status = "cuvidGetDecodeStatus" (DecoderHandle, c_int, *mut DecodeStatus);
    map_video_frame = "cuvidMapVideoFrame64" (DecoderHandle, c_int, *mut c_ulonglong, *mut c_uint, *mut ProcParams);
    unmap_video_frame = "cuvidUnmapVideoFrame64" (DecoderHandle, c_ulonglong);
    create_video_parser = "cuvidCreateVideoParser" (*mut ParserHandle, *mut ParserParams);
    parse_video_data = "cuvidParseVideoData" (ParserHandle, *mut SourceDataPacket);
    destroy_video_parser = "cuvidDestroyVideoParser" (ParserHandle);
}

impl std::fmt::Debug for Cuvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(LIBRARY)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    /// gcc 12 on the headers of the Video Codec SDK 12, x86-64.
    #[test]
    fn the_structs_are_laid_out_as_the_headers_say() {
        assert_eq!(size_of::<DecodeCaps>(), 88);
        assert_eq!(offset_of!(DecodeCaps, is_supported), 24);
        assert_eq!(offset_of!(DecodeCaps, nvdecs), 25);
        assert_eq!(offset_of!(DecodeCaps, output_format_mask), 26);
        assert_eq!(offset_of!(DecodeCaps, max_width), 28);
        assert_eq!(offset_of!(DecodeCaps, max_mb_count), 36);
        assert_eq!(offset_of!(DecodeCaps, min_width), 40);

        assert_eq!(size_of::<DecodeCreateInfo>(), 176);
        assert_eq!(offset_of!(DecodeCreateInfo, codec), 24);
        assert_eq!(offset_of!(DecodeCreateInfo, creation_flags), 32);
        assert_eq!(offset_of!(DecodeCreateInfo, display_area), 80);
        assert_eq!(offset_of!(DecodeCreateInfo, output_format), 88);
        assert_eq!(offset_of!(DecodeCreateInfo, target_width), 96);
        assert_eq!(offset_of!(DecodeCreateInfo, vid_lock), 120);
        assert_eq!(offset_of!(DecodeCreateInfo, target_rect), 128);
        assert_eq!(offset_of!(DecodeCreateInfo, enable_histogram), 136);

        assert_eq!(size_of::<ProcParams>(), 264);
        assert_eq!(offset_of!(ProcParams, raw_input_dptr), 24);
        assert_eq!(offset_of!(ProcParams, raw_output_dptr), 40);
        assert_eq!(offset_of!(ProcParams, output_stream), 56);
        assert_eq!(offset_of!(ProcParams, histogram_dptr), 248);

        assert_eq!(size_of::<DecodeStatus>(), 192);

        assert_eq!(size_of::<VideoFormat>(), 64);
        assert_eq!(offset_of!(VideoFormat, frame_rate), 4);
        assert_eq!(offset_of!(VideoFormat, progressive_sequence), 12);
        assert_eq!(offset_of!(VideoFormat, min_num_decode_surfaces), 15);
        assert_eq!(offset_of!(VideoFormat, coded_width), 16);
        assert_eq!(offset_of!(VideoFormat, display_area), 24);
        assert_eq!(offset_of!(VideoFormat, chroma_format), 40);
        assert_eq!(offset_of!(VideoFormat, signal), 56);
        assert_eq!(offset_of!(VideoFormat, seqhdr_data_length), 60);

        assert_eq!(offset_of!(PicParams, curr_pic_idx), 8);

        assert_eq!(size_of::<SourceDataPacket>(), 32);
        assert_eq!(offset_of!(SourceDataPacket, payload), 16);
        assert_eq!(offset_of!(SourceDataPacket, timestamp), 24);

        assert_eq!(size_of::<ParserDispInfo>(), 24);
        assert_eq!(offset_of!(ParserDispInfo, timestamp), 16);

        assert_eq!(size_of::<ParserParams>(), 136);
        assert_eq!(offset_of!(ParserParams, max_display_delay), 16);
        assert_eq!(offset_of!(ParserParams, user_data), 40);
        assert_eq!(offset_of!(ParserParams, sequence), 48);
        assert_eq!(offset_of!(ParserParams, reserved2), 88);
        assert_eq!(offset_of!(ParserParams, ext_video_info), 128);
    }
}
