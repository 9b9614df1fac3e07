//! The elementary streams of `streams.sh`, cut into access units.

use std::path::PathBuf;

use weir::device::nvidia::decoder::{Codec, Unit};

/// A stream in memory. Not every user of this file reads all of it.
#[allow(dead_code)]
pub struct Stream {
    pub codec: Codec,
    bytes: Vec<u8>,
    /// Where each access unit begins.
    starts: Vec<usize>,
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
        let codec = if name.ends_with("h265") { Codec::H265 } else { Codec::H264 };
        Some(Stream { codec, starts: cuts(&bytes, codec), hashes: hashes.collect(), bytes })
    }

    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// The bytes of unit `i`.
    pub fn bytes(&self, i: usize) -> &[u8] {
        let end = self.starts.get(i + 1).copied().unwrap_or(self.bytes.len());
        &self.bytes[self.starts[i]..end]
    }

    /// Unit `i`, whose time is `i` too.
    pub fn unit(&self, i: usize) -> Unit<'_> {
        Unit { data: self.bytes(i), pts: i64::try_from(i).ok(), starts: true }
    }
}

/// Where access unit delimiters begin.
fn cuts(bytes: &[u8], codec: Codec) -> Vec<usize> {
    let nals = nals(bytes);
    let delimiter = |at: &usize| match codec {
        Codec::H264 => bytes[*at + 3] & 31 == 9,
        Codec::H265 => bytes[*at + 3] >> 1 & 63 == 35,
    };
    nals.into_iter().filter(delimiter).collect()
}

/// Where start codes begin.
pub fn nals(bytes: &[u8]) -> Vec<usize> {
    let codes = bytes.windows(4).enumerate();
    codes.filter(|(_, w)| w[..3] == [0, 0, 1]).map(|(at, _)| at).collect()
}
