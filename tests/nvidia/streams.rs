//! The elementary streams of `streams.sh`, cut into access units.

use std::ops::Range;
use std::path::PathBuf;

use weir::device::nvidia::decoder::{Codec, Unit};

/// A stream in memory. Not every user of this file reads all of it.
#[allow(dead_code)]
pub struct Stream {
    pub codec: Codec,
    bytes: Vec<u8>,
    /// Where each access unit is.
    units: Vec<Range<usize>>,
    /// Of each picture, in the order in which they are shown, by ffmpeg's decoder; empty: not known.
    pub hashes: Vec<String>,
}

/// Where the streams are.
pub fn folder() -> PathBuf {
    std::env::var_os("WEIR_NVDEC_STREAMS")
        .map_or_else(|| weir::config::cache_dir().join("nvdec"), PathBuf::from)
}

impl Stream {
    /// `None` when it has not been made.
    pub fn open(name: &str) -> Option<Stream> {
        let path = folder().join(name);
        let bytes = std::fs::read(&path).ok()?;
        let hashes = std::fs::read_to_string(folder().join(format!("{name}.sha256"))).unwrap_or_default();
        let hashes = hashes.lines().filter(|line| !line.starts_with('#'));
        let hashes = hashes.filter_map(|line| line.rsplit(',').next().map(|hash| hash.trim().to_owned()));
        let codec = match name {
            name if name.ends_with("h265") => Codec::H265,
            name if name.ends_with("h264") => Codec::H264,
            name if name.starts_with("av1") => Codec::Av1,
            _ => Codec::Vp9,
        };
        let units = if name.ends_with("ivf") { frames(&bytes) } else { cuts(&bytes, codec) };
        Some(Stream { codec, units, hashes: hashes.collect(), bytes })
    }

    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// The bytes of unit `i`.
    pub fn bytes(&self, i: usize) -> &[u8] {
        &self.bytes[self.units[i].clone()]
    }

    /// Unit `i`, whose time is `i` too.
    pub fn unit(&self, i: usize) -> Unit<'_> {
        Unit { data: self.bytes(i), pts: i64::try_from(i).ok(), starts: true }
    }
}

/// From one access unit delimiter to the next.
fn cuts(bytes: &[u8], codec: Codec) -> Vec<Range<usize>> {
    let nals = nals(bytes);
    let delimiter = |at: &usize| match codec {
        Codec::H265 => bytes[*at + 3] >> 1 & 63 == 35,
        _ => bytes[*at + 3] & 31 == 9,
    };
    let starts: Vec<usize> = nals.into_iter().filter(delimiter).collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
}

/// The frames of an IVF file: a header that says its length at byte 6, and before each frame its length and 8 bytes of time.
fn frames(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut at = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
    let mut frames = Vec::new();
    while let Some(length) =
        bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes)
    {
        let start = at + 12;
        at = start + length as usize;
        frames.push(start..at.min(bytes.len()));
    }
    frames
}

/// Where start codes begin.
pub fn nals(bytes: &[u8]) -> Vec<usize> {
    let codes = bytes.windows(4).enumerate();
    codes.filter(|(_, w)| w[..3] == [0, 0, 1]).map(|(at, _)| at).collect()
}
