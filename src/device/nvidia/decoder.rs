//! NVDEC: access units in, pictures in the GPU's memory out.
//!
//! The parser in libnvcuvid finds pictures and puts them in order; it calls back from within [`Decoder::feed`], on the same
//! thread. Each decoded picture is copied into memory of ours, so that the decoder's few surfaces are free at once and a
//! full ring never stops it. Data that cannot be decoded costs its pictures and no more.
//!
//! No reordering is done beyond what the stream asks for (`max_display_delay` 0), and the end of an access unit is taken for the end of a picture,
//! so that a picture comes out with its own unit, not with the next one. A sender that splits pictures over several units
//! ([`Unit::starts`]) ends that: then the parser looks for the ends, which costs one frame interval.

mod sequence;

use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cudarc::driver::{CudaEvent, CudaStream, result};

use self::sequence::Sequence;
use super::cuvid::{self, Callback, DecodeCreateInfo, DecoderHandle, ParserHandle, PicParams};
use super::cuvid::{
    DecodeStatus, ParserDispInfo, ParserParams, ProcParams, ShortRect, SourceDataPacket, VideoFormat,
};
use super::gpu::{self, Gpu, Layout, Pool, Surface};
use super::times::Times;
use crate::device::software::preprocess::{ChromaSite, Geometry, PixelFormat};
use crate::fault::{Fault, Retry, Who};
use crate::frame::Size;

/// Surfaces that the post-processor may hold at a time: one being copied, one being written.
const OUTPUT_SURFACES: u64 = 2;
/// How long to sleep between two looks at a picture that is being decoded, and how often to look. A picture of 1080p takes 1.4 ms on a
/// chip that does nothing else.
const LOOK: (Duration, u32) = (Duration::from_micros(250), 200);
/// Picture indices that the parser may use (`CUVIDPICPARAMS`, `CurrPicIdx`).
const MOST_SURFACES: usize = 64;

/// What is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// ITU-T H.264.
    H264,
    /// ITU-T H.265.
    H265,
    /// VP9, superframe by superframe.
    Vp9,
    /// AV1, temporal unit by temporal unit.
    Av1,
}

impl Codec {
    /// The word of events and of [`super::super::software`]'s decoders.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::H264 => "h264",
            Codec::H265 => "h265",
            Codec::Vp9 => "vp9",
            Codec::Av1 => "av1",
        }
    }

    const fn number(self) -> u32 {
        match self {
            Codec::H264 => cuvid::CODEC_H264,
            Codec::H265 => cuvid::CODEC_HEVC,
            Codec::Vp9 => cuvid::CODEC_VP9,
            Codec::Av1 => cuvid::CODEC_AV1,
        }
    }
}

/// One access unit: H.264 and H.265 in byte stream format (annex B), VP9 a superframe, AV1 a temporal unit in low-overhead format.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    /// Its bytes.
    pub data: &'a [u8],
    /// In nanoseconds; comes out with its picture.
    pub pts: Option<i64>,
    /// False for a further part of a picture that was split.
    pub starts: bool,
}

/// One picture.
#[derive(Debug)]
pub struct Decoded {
    /// As given with its unit.
    pub pts: Option<i64>,
    /// How large.
    pub size: Size,
    /// Frames a second, where the stream says it.
    pub fps: Option<f32>,
    /// `None`: it is damaged, or there was no room for it.
    pub surface: Option<Arc<Surface>>,
}

/// Decodes one stream.
pub struct Decoder {
    parser: ParserHandle,
    /// Shared with the parser, which has it as the callbacks' first argument; owned by `self`. Reached by this pointer alone.
    state: *mut State,
    gpu: Arc<Gpu>,
    split: bool,
    /// Of codecs that show one picture a unit.
    times: Option<Times>,
}

// SAFETY: parser, decoder and state may be used from any thread, one at a time (NVDECODE API guide, "Multi-threading"), and
// `&mut self` sees to that; each entry makes the context current on its thread.
unsafe impl Send for Decoder {}

/// What the callbacks work on.
struct State {
    gpu: Arc<Gpu>,
    codec: Codec,
    stream: Arc<CudaStream>,
    pool: Arc<Pool>,
    video: Option<Video>,
    /// Pictures of this call of `feed`.
    out: Vec<Decoded>,
    /// Why the stream cannot be decoded at all.
    fault: Option<Fault>,
}

/// A decoder for one kind of picture.
struct Video {
    gpu: Arc<Gpu>,
    handle: DecoderHandle,
    sequence: Sequence,
    fps: Option<f32>,
    /// By picture index: the decoder refused it.
    refused: [bool; MOST_SURFACES],
    /// Surfaces that are being copied: where, and the end of the copy.
    mapped: VecDeque<(u64, CudaEvent)>,
}

impl Decoder {
    /// A decoder of one stream, of whose pictures at most `most` are out at a time.
    ///
    /// # Errors
    /// When the chip has no decoder for this codec (`unsupported`), or the driver refuses.
    pub fn new(gpu: &Arc<Gpu>, codec: Codec, most: usize) -> Result<Decoder, Fault> {
        Decoder::with_pool(Pool::new(Arc::clone(gpu), most, None), codec)
    }

    /// The same into pictures of this pool.
    ///
    /// # Errors
    /// As [`Decoder::new`].
    pub fn with_pool(pool: Arc<Pool>, codec: Codec) -> Result<Decoder, Fault> {
        let gpu = &Arc::clone(pool.gpu());
        gpu.bind()?;
        // No chip takes a codec in other kinds than this one only; what a stream asks for beyond is seen when it begins.
        if gpu.caps(codec.number(), 1, 0)?.is_supported == 0 {
            let message = format!("the GPU does not decode {}", codec.name());
            return Err(Fault::new(Who::Device, "unsupported", message).retry(Retry::Soon));
        }
        let state = Box::into_raw(Box::new(State {
            gpu: Arc::clone(gpu),
            codec,
            stream: gpu.stream()?,
            pool,
            video: None,
            out: Vec::new(),
            fault: None,
        }));
        let mut decoder =
            Decoder { parser: std::ptr::null_mut(), state, gpu: Arc::clone(gpu), split: false, times: None };
        decoder.times = matches!(codec, Codec::Vp9 | Codec::Av1).then(Times::default);
        let mut params = ParserParams {
            codec: codec.number(),
            // Set by the sequence callback.
            max_num_decode_surfaces: 1,
            clock_rate: 1_000_000_000,
            error_threshold: 0,
            max_display_delay: 0,
            flags: 0,
            reserved1: [0; 4],
            user_data: state.cast(),
            sequence: Some(on_sequence as Callback<VideoFormat>),
            decode: Some(on_decode as Callback<PicParams>),
            display: Some(on_display as Callback<ParserDispInfo>),
            operating_point: None,
            sei: None,
            reserved2: [std::ptr::null_mut(); 5],
            ext_video_info: std::ptr::null_mut(),
        };
        // SAFETY: the struct is the header's; `state` outlives the parser, see drop.
        let status = unsafe { (gpu.cuvid.create_video_parser)(&raw mut decoder.parser, &raw mut params) };
        gpu::check("the decoder's parser cannot be made", status)?;
        Ok(decoder)
    }

    /// Decodes one access unit; pictures that are finished by it go to `out`, in the order in which they are shown.
    ///
    /// # Errors
    /// When the stream cannot be decoded on this chip (`unsupported`), or the GPU fails. Damaged data is no error.
    pub fn feed(&mut self, unit: Unit<'_>, out: &mut Vec<Decoded>) -> Result<(), Fault> {
        self.split |= !unit.starts;
        let whole = if self.split { 0 } else { cuvid::PACKET_END_OF_PICTURE };
        let timed = if unit.pts.is_some() { cuvid::PACKET_TIMESTAMP } else { 0 };
        if let (Some(times), Some(pts)) = (&mut self.times, unit.pts) {
            times.came(pts);
        }
        self.parse(unit.data, whole | timed, unit.pts.map_or(0, |pts| pts + 1), out)
    }

    /// Gives out the pictures that wait for others to come before them. What comes next must begin with a key frame.
    ///
    /// # Errors
    /// As [`Decoder::feed`].
    pub fn drain(&mut self, out: &mut Vec<Decoded>) -> Result<(), Fault> {
        self.parse(&[], cuvid::PACKET_END_OF_STREAM, 0, out)
    }

    fn parse(
        &mut self,
        data: &[u8],
        flags: u64,
        timestamp: i64,
        out: &mut Vec<Decoded>,
    ) -> Result<(), Fault> {
        self.gpu.bind()?;
        self.gpu.traffic.sent(data.len());
        let mut packet =
            SourceDataPacket { flags, payload_size: data.len() as u64, payload: data.as_ptr(), timestamp };
        // SAFETY: the packet and its bytes live through the call, and no reference into the state exists: the callbacks make one each.
        let status = unsafe { (self.gpu.cuvid.parse_video_data)(self.parser, &raw mut packet) };
        // SAFETY: the callbacks have returned; nobody else has the state.
        let state = unsafe { &mut *self.state };
        if let Some(times) = &mut self.times {
            for picture in &mut state.out {
                picture.pts = picture.pts.map(|told| times.of(told));
            }
        }
        out.append(&mut state.out);
        match state.fault.take() {
            Some(fault) => Err(fault),
            // Not our callbacks: the parser did not like the data.
            None if status != 0 => {
                tracing::debug!(status, "The parser refuses an access unit.");
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        let _ = self.gpu.bind();
        if !self.parser.is_null() {
            // SAFETY: made by `new`, and never used again.
            unsafe { (self.gpu.cuvid.destroy_video_parser)(self.parser) };
        }
        // SAFETY: from `Box::into_raw`; the parser, which had it too, is gone.
        drop(unsafe { Box::from_raw(self.state) });
    }
}

impl State {
    /// Makes the decoder ready for what comes. Returns how many surfaces it has; 0: it cannot.
    fn sequence(&mut self, format: &VideoFormat) -> Result<c_int, Fault> {
        let sequence = Sequence::new(format);
        let [up, down] = format.frame_rate;
        let fps = (up > 0 && down > 0).then(|| up as f32 / down as f32);
        if let Some(video) = self.video.as_mut().filter(|video| video.sequence == sequence) {
            video.fps = fps;
        } else {
            self.supported(&sequence)?;
            // The old one first: its surfaces may be what the new one needs.
            self.video = None;
            self.video = Some(Video::new(&self.gpu, self.codec, sequence, fps)?);
        }
        Ok(c_int::from(sequence.surfaces))
    }

    fn supported(&self, sequence: &Sequence) -> Result<(), Fault> {
        let caps = self.gpu.caps(self.codec.number(), sequence.chroma, sequence.depth_minus8)?;
        let (width, height) = sequence.coded;
        let name = self.codec.name();
        let why = if caps.is_supported == 0 {
            let chroma =
                ["4:0:0", "4:2:0", "4:2:2", "4:4:4"].get(sequence.chroma as usize).unwrap_or(&"unknown");
            format!("{name} {chroma} with {} bits", sequence.depth_minus8 + 8)
        } else if caps.output_format_mask & 1 << cuvid::SURFACE_NV12 == 0 {
            format!("{name} of this kind as 8-bit 4:2:0")
        } else if width > caps.max_width
            || height > caps.max_height
            || width * height / 256 > caps.max_mb_count
        {
            format!("{name} of {width}×{height}; it takes up to {}×{}", caps.max_width, caps.max_height)
        } else if width < u32::from(caps.min_width) || height < u32::from(caps.min_height) {
            format!("{name} of {width}×{height}; it takes {}×{} and more", caps.min_width, caps.min_height)
        } else {
            return Ok(());
        };
        Err(Fault::new(Who::Device, "unsupported", format!("the GPU does not decode {why}"))
            .retry(Retry::Soon))
    }

    fn decode(&mut self, picture: *mut PicParams) -> c_int {
        let Some(video) = &mut self.video else { return 0 };
        // SAFETY: the parser's own struct, valid during the callback.
        let index = unsafe { (*picture).curr_pic_idx };
        // SAFETY: decoder and picture belong together: both are of the sequence that was announced last.
        let status = unsafe { (self.gpu.cuvid.decode_picture)(video.handle, picture) };
        if let Some(refused) = usize::try_from(index).ok().and_then(|i| video.refused.get_mut(i)) {
            *refused = status != 0;
        }
        1
    }

    fn display(&mut self, info: &ParserDispInfo) {
        let Some(video) = &mut self.video else { return };
        let surface = video.copy(info, &self.pool, &self.stream);
        let surface =
            surface.inspect_err(|fault| tracing::debug!("A picture is lost: {fault}")).ok().flatten();
        // The parser gives 0 to what had no time stamp, so time begins at 1 in there.
        let pts = Some(info.timestamp - 1).filter(|pts| *pts >= 0);
        self.out.push(Decoded {
            pts,
            size: video.sequence.size(),
            fps: video.fps,
            surface: surface.map(Arc::new),
        });
    }
}

impl Video {
    fn new(gpu: &Arc<Gpu>, codec: Codec, sequence: Sequence, fps: Option<f32>) -> Result<Video, Fault> {
        let (width, height) = sequence.coded;
        let (target_width, target_height) = sequence.target();
        let [left, top, right, bottom] = sequence.shown.map(|edge| edge as i16);
        let deinterlace =
            if sequence.progressive { cuvid::DEINTERLACE_WEAVE } else { cuvid::DEINTERLACE_ADAPTIVE };
        let mut info = DecodeCreateInfo {
            width: u64::from(width),
            height: u64::from(height),
            num_decode_surfaces: u64::from(sequence.surfaces),
            codec: codec.number(),
            chroma_format: sequence.chroma,
            creation_flags: cuvid::CREATE_PREFER_CUVID,
            bit_depth_minus8: u64::from(sequence.depth_minus8),
            intra_decode_only: 0,
            max_width: u64::from(width),
            max_height: u64::from(height),
            reserved1: 0,
            display_area: ShortRect { left, top, right, bottom },
            output_format: cuvid::SURFACE_NV12,
            deinterlace_mode: deinterlace,
            target_width,
            target_height,
            num_output_surfaces: OUTPUT_SURFACES,
            vid_lock: std::ptr::null_mut(),
            target_rect: ShortRect::default(),
            enable_histogram: 0,
            reserved2: [0; 4],
        };
        let mut handle = std::ptr::null_mut();
        let making = gpu.making.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the struct is the header's, and the context is current: we are inside `parse`.
        let status = unsafe { (gpu.cuvid.create_decoder)(&raw mut handle, &raw mut info) };
        drop(making);
        gpu::check("the GPU gives no decoder", status).map_err(|fault| fault.retry(Retry::Slowly))?;
        gpu.decoders.fetch_add(1, Relaxed);
        let mapped = VecDeque::new();
        Ok(Video { gpu: Arc::clone(gpu), handle, sequence, fps, refused: [false; MOST_SURFACES], mapped })
    }

    /// Brings a decoded picture into memory of ours; `None` when it is damaged.
    fn copy(
        &mut self,
        info: &ParserDispInfo,
        pool: &Arc<Pool>,
        stream: &Arc<CudaStream>,
    ) -> Result<Option<Surface>, Fault> {
        if usize::try_from(info.picture_index)
            .ok()
            .and_then(|i| self.refused.get(i))
            .is_none_or(|refused| *refused)
        {
            return Ok(None);
        }
        self.unmap(OUTPUT_SURFACES as usize - 1);
        self.await_decoded(info.picture_index);
        let mut params = ProcParams {
            progressive_frame: info.progressive_frame,
            second_field: info.repeat_first_field + 1,
            top_field_first: info.top_field_first,
            unpaired_field: c_int::from(info.repeat_first_field < 0),
            reserved_flags: 0,
            reserved_zero: 0,
            raw_input_dptr: 0,
            raw_input_pitch: 0,
            raw_input_format: 0,
            raw_output_dptr: 0,
            raw_output_pitch: 0,
            reserved1: 0,
            output_stream: stream.cu_stream(),
            reserved: [0; 46],
            histogram_dptr: std::ptr::null_mut(),
            reserved2: [std::ptr::null_mut()],
        };
        let (mut at, mut pitch) = (0u64, 0u32);
        // SAFETY: the parser says that this picture is decoded, and no more surfaces are mapped than the decoder has.
        let status = unsafe {
            (self.gpu.cuvid.map_video_frame)(
                self.handle,
                info.picture_index,
                &raw mut at,
                &raw mut pitch,
                &raw mut params,
            )
        };
        gpu::check("a decoded picture cannot be reached", status)?;
        let copied = self.copy_mapped(info, (at, pitch as usize), pool, stream);
        let read = stream.record_event(None).map_err(|e| gpu::driver("the GPU gives no event", &e));
        match read {
            Ok(read) => self.mapped.push_back((at, read)),
            Err(fault) => {
                let _ = stream.synchronize();
                // SAFETY: mapped just above, and nothing reads it any more.
                unsafe { (self.gpu.cuvid.unmap_video_frame)(self.handle, at) };
                return Err(fault);
            }
        }
        copied
    }

    /// Sleeps until a picture is decoded. Mapping it would wait too, partly awake.
    fn await_decoded(&self, index: c_int) {
        let never = crossbeam_channel::never::<()>();
        for _ in 0..LOOK.1 {
            match self.decode_status(index) {
                Some(cuvid::STATUS_IN_PROGRESS) => {
                    let _ = never.recv_timeout(LOOK.0);
                }
                _ => return,
            }
        }
    }

    /// `cuvidDecodeStatus`; `None`: the driver does not say it.
    fn decode_status(&self, index: c_int) -> Option<u32> {
        let mut status = DecodeStatus { status: 0, reserved: [0; 31], p_reserved: [std::ptr::null_mut(); 8] };
        // SAFETY: the struct is the header's; the index is the picture's.
        let known = unsafe { (self.gpu.cuvid.get_decode_status)(self.handle, index, &raw mut status) };
        (known == 0).then_some(status.status)
    }

    fn copy_mapped(
        &self,
        info: &ParserDispInfo,
        (at, pitch): (u64, usize),
        pool: &Arc<Pool>,
        stream: &Arc<CudaStream>,
    ) -> Result<Option<Surface>, Fault> {
        if self.decode_status(info.picture_index).is_some_and(|status| status >= cuvid::STATUS_ERROR) {
            return Ok(None);
        }
        let rows = self.sequence.target().1 as usize;
        let geometry = Geometry {
            size: self.sequence.size(),
            format: PixelFormat::Nv12,
            matrix: self.sequence.matrix,
            range: self.sequence.range,
            // The API does not say what chroma_sample_loc_type says; 0 is what nearly all streams have.
            chroma: ChromaSite::Left,
        };
        let uv = pitch * rows;
        let layout = Layout { geometry, offset: [0, uv, uv + 1], pitch: [pitch; 2] };
        let mut surface = pool.take(uv + uv / 2, layout)?;
        let failed = |e| gpu::driver("a decoded picture cannot be copied", &e);
        // SAFETY: both hold rows·pitch bytes of luma and half of that of chroma; the source stays mapped until `written` is reached.
        unsafe { result::memcpy_dtod_async(surface.at(), at, surface.bytes(), stream.cu_stream()) }
            .map_err(failed)?;
        surface.finish(stream)?;
        Ok(Some(surface))
    }

    /// Gives surfaces back to the decoder until at most `keep` are mapped.
    fn unmap(&mut self, keep: usize) {
        while self.mapped.len() > keep
            && let Some((at, read)) = self.mapped.pop_front()
        {
            let _ = read.synchronize();
            // SAFETY: mapped by `copy` and not unmapped since; the copy out of it has ended.
            unsafe { (self.gpu.cuvid.unmap_video_frame)(self.handle, at) };
        }
    }
}

impl Drop for Video {
    fn drop(&mut self) {
        let _ = self.gpu.bind();
        self.unmap(0);
        let _making = self.gpu.making.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: made by `new`, nothing of it is mapped, and it is never used again.
        unsafe { (self.gpu.cuvid.destroy_decoder)(self.handle) };
        self.gpu.decoders.fetch_sub(1, Relaxed);
    }
}

/// Runs a callback's body on its arguments. A panic must not pass through the library's C code: it becomes a failure.
///
/// # Safety
/// `user` is the `State` that `Decoder::new` gave to the parser, and nothing else refers to it now.
unsafe fn call(user: *mut c_void, body: impl FnOnce(&mut State) -> c_int) -> c_int {
    // SAFETY: the caller's promise.
    let state = unsafe { &mut *user.cast::<State>() };
    catch_unwind(AssertUnwindSafe(|| body(state))).unwrap_or(0)
}

/// # Safety
/// Called by the parser only.
unsafe extern "C" fn on_sequence(user: *mut c_void, format: *mut VideoFormat) -> c_int {
    // SAFETY: the parser's arguments, during its call.
    unsafe {
        let format = *format;
        call(user, |state| match state.sequence(&format) {
            Ok(surfaces) => surfaces,
            Err(fault) => {
                state.fault = Some(fault);
                0
            }
        })
    }
}

/// # Safety
/// Called by the parser only.
unsafe extern "C" fn on_decode(user: *mut c_void, picture: *mut PicParams) -> c_int {
    // SAFETY: the parser's arguments, during its call.
    unsafe { call(user, |state| state.decode(picture)) }
}

/// # Safety
/// Called by the parser only.
unsafe extern "C" fn on_display(user: *mut c_void, info: *mut ParserDispInfo) -> c_int {
    if info.is_null() {
        return 1;
    }
    // SAFETY: the parser's arguments, during its call.
    unsafe {
        let info = *info;
        call(user, |state| {
            state.display(&info);
            1
        })
    }
}
