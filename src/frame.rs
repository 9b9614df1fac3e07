//! The narrow types that pass between stages. No behaviour beyond their own invariants.

use std::fmt;

use serde::Serialize;

use crate::clock::{Pts, Tick, Wall};

/// A camera's number: its place in the checked configuration. Names are for people, see
/// [`crate::config::Camera::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CameraId(pub u32);

impl CameraId {
    /// As an index into per-camera tables.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The identity of a frame. It rides in every message; a result is never matched by anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameKey {
    /// Which camera.
    pub camera: CameraId,
    /// Counts that camera's frames from 0, gapless, across reconnects: a reader sees what is missing.
    pub seq: u64,
}

impl fmt::Display for FrameKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.camera.0, self.seq)
    }
}

/// What became of a frame. Every frame gets exactly one (law 2), so that
/// frames in = Σ fates + frames in flight, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Went through the engine; its detections reached the tracker.
    Inferred,
    /// Its camera's ring was full: newer frames pushed it out.
    Overrun,
    /// Older than the ring's time when its turn came.
    Stale,
    /// Left out on purpose: by the drop policy `skip-frame`, by `max_fps`, because the picture stands still, or not even
    /// decoded because it would have been lost ([`crate::flow::thin`]).
    Skipped,
    /// The decoder could not make a sound picture of it.
    DecodeError,
    /// The engine failed on the batch it was in, or the daemon stopped before its turn.
    Failed,
}

impl Fate {
    /// All fates, in the order of tables and metrics.
    pub const ALL: [Fate; 6] =
        [Fate::Inferred, Fate::Overrun, Fate::Stale, Fate::Skipped, Fate::DecodeError, Fate::Failed];

    /// The metric label and API key.
    pub const fn name(self) -> &'static str {
        match self {
            Fate::Inferred => "inferred",
            Fate::Overrun => "overrun",
            Fate::Stale => "stale",
            Fate::Skipped => "skipped",
            Fate::DecodeError => "decode_error",
            Fate::Failed => "failed",
        }
    }
}

/// When a frame was where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When the picture's data reached this box. Latency is counted from here.
    pub arrived: Tick,
    /// When the decoded picture entered its ring. Staleness is counted from here, so that a
    /// decoder that reorders does not make every frame stale at birth.
    pub decoded: Tick,
    /// The stream's own time, where it has one.
    pub pts: Option<Pts>,
    /// Real time of `arrived`; the `time` of events about this frame.
    pub wall: Wall,
}

/// Width and height of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Size {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{}", self.width, self.height)
    }
}

/// A decoded picture on its way to the engine. `P` is the device's kind of pixels.
#[derive(Clone, Debug)]
pub struct Frame<P> {
    /// When.
    pub stamp: Stamp,
    /// How large.
    pub size: Size,
    /// The picture.
    pub pixels: P,
}

/// A still picture as the usual decoder of JPEG leaves it: 8 bits 4:2:0, full range, the matrix of BT.601, chroma in the
/// middle of its four luma samples (JFIF 1.02). So a still and the same picture from a camera look the same to the engine.
#[derive(Clone, PartialEq, Eq)]
pub struct Still {
    /// How large, at least 1×1.
    pub size: Size,
    /// Rows of Y without gaps, then those of U, then V; U and V have half, rounded up, of each dimension.
    pub i420: Vec<u8>,
}

impl Still {
    /// Columns and rows of U, and of V.
    pub fn half(size: Size) -> (usize, usize) {
        (size.width.div_ceil(2) as usize, size.height.div_ceil(2) as usize)
    }

    /// Bytes of such a picture.
    pub fn bytes(size: Size) -> usize {
        let (width, height) = Self::half(size);
        size.width as usize * size.height as usize + 2 * width * height
    }
}

impl fmt::Debug for Still {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Still({})", self.size)
    }
}

/// An axis-parallel box in pixels of the source picture: left, top, width, height.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BBox {
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Width, not negative.
    pub w: f32,
    /// Height, not negative.
    pub h: f32,
}

impl BBox {
    /// Area in square pixels.
    pub fn area(&self) -> f32 {
        self.w * self.h
    }

    /// Intersection over union, 0..=1; 0 when either box is empty.
    pub fn iou(&self, other: &BBox) -> f32 {
        let w = (self.x + self.w).min(other.x + other.w) - self.x.max(other.x);
        let h = (self.y + self.h).min(other.y + other.h) - self.y.max(other.y);
        if w <= 0.0 || h <= 0.0 {
            return 0.0;
        }
        let both = w * h;
        let union = self.area() + other.area() - both;
        if union > 0.0 { both / union } else { 0.0 }
    }

    /// The visible part as fractions of the picture: left, top, width, height, each in 0..=1.
    pub fn fractions(&self, size: Size) -> [f32; 4] {
        let b = self.clamp_to(size);
        let (width, height) = (size.width as f32, size.height as f32);
        [b.x / width, b.y / height, b.w / width, b.h / height].map(|v| v.clamp(0.0, 1.0))
    }

    /// The part inside a picture of this size.
    pub fn clamp_to(&self, size: Size) -> BBox {
        let (width, height) = (size.width as f32, size.height as f32);
        let x = self.x.clamp(0.0, width);
        let y = self.y.clamp(0.0, height);
        BBox { x, y, w: (self.x + self.w).clamp(0.0, width) - x, h: (self.y + self.h).clamp(0.0, height) - y }
    }
}

/// One object that the network saw in one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Where, in source pixels.
    pub bbox: BBox,
    /// Index into the model's labels.
    pub class: u16,
    /// Confidence, 0..=1.
    pub score: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iou_of_a_box_with_itself_is_one_and_with_a_neighbour_zero() {
        let a = BBox { x: 1.0, y: 2.0, w: 3.0, h: 4.0 };
        assert_eq!(a.iou(&a), 1.0);
        assert_eq!(a.iou(&BBox { x: 4.0, ..a }), 0.0);
        assert_eq!(BBox::default().iou(&BBox::default()), 0.0);
    }

    #[test]
    fn clamping_keeps_the_visible_part() {
        let size = Size { width: 10, height: 10 };
        let b = BBox { x: -2.0, y: 8.0, w: 5.0, h: 5.0 }.clamp_to(size);
        assert_eq!(b, BBox { x: 0.0, y: 8.0, w: 3.0, h: 2.0 });
    }
}
