//! What the daemon must know of a network to feed it and to read it. Plain data, from `model.toml`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// How a picture becomes the input tensor. All arithmetic is on RGB values 0..=255:
/// `tensor = (value − mean) / std`, per channel, in the tensor's channel order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// The graph input's name.
    pub name: String,
    /// Columns of the input tensor.
    pub width: u32,
    /// Rows of the input tensor.
    pub height: u32,
    /// Order of the dimensions.
    #[serde(default)]
    pub layout: Layout,
    /// Order of the channels.
    #[serde(default)]
    pub channels: Channels,
    /// How a picture of another shape fits in.
    #[serde(default)]
    pub resize: Resize,
    /// The grey of letterbox bars, 0..=255 (before mean and std).
    #[serde(default = "default_pad")]
    pub pad: u8,
    /// Subtracted, per channel in tensor order, in units of 0..=255.
    #[serde(default)]
    pub mean: [f32; 3],
    /// Divided by, per channel in tensor order, in units of 0..=255.
    #[serde(default = "default_std")]
    pub std: [f32; 3],
}

impl InputSpec {
    /// The input tensor's dimensions, for so many pictures.
    pub fn dims(&self, count: usize) -> [usize; 4] {
        let (w, h) = (self.width as usize, self.height as usize);
        match self.layout {
            Layout::Nchw => [count, 3, h, w],
            Layout::Nhwc => [count, h, w, 3],
        }
    }
}

fn default_pad() -> u8 {
    114
}

fn default_std() -> [f32; 3] {
    [1.0; 3]
}

/// Order of the input tensor's dimensions; the batch is always first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Batch, channel, row, column.
    #[default]
    Nchw,
    /// Batch, row, column, channel.
    Nhwc,
}

/// Order of the colour channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Red first.
    #[default]
    Rgb,
    /// Blue first, as OpenCV does.
    Bgr,
}

/// How a picture of another shape fits the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// Keep the shape, centre it, fill the rest with `pad`.
    #[default]
    Letterbox,
    /// Keep the shape, put it at the top left, fill the rest with `pad` (YOLOX).
    LetterboxTopLeft,
    /// Squeeze each axis on its own.
    Stretch,
}

/// How the network's outputs become boxes. The names are those of `[output] family` in `model.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Scores [N, classes] and decoded boxes [N, (1,) 4] as y1, x1, y2, x2 in 0..1 (TF object detection API).
    Ssd,
    /// Per stride: class sigmoid scores and 4 × bins distance distributions (GFL head).
    NanoDet,
    /// Raw grid [N, 5 + C]: xy = (p + grid)·stride, wh = exp(p)·stride, obj·cls already sigmoid.
    Yolox,
    /// [4 + C, N] (or its transpose): cx, cy, w, h in input pixels, then class scores. YOLOv8, v9, v11.
    Yolov8,
    /// [N, 5 + C]: cx, cy, w, h in input pixels, objectness, class scores. YOLOv5, v7.
    Yolov5,
    /// [N, 6]: x1, y1, x2, y2 in input pixels, score, class. NMS done inside (YOLOv10, exported with NMS).
    EndToEnd,
    /// Logits [Q, C] and boxes [Q, 4] as cx, cy, w, h in 0..1; no NMS. RT-DETR, D-FINE.
    Detr,
    /// [5 + C, H, W]: objectness, 4 box values (tanh, sigmoid), classes on one grid.
    FastestDet,
}

impl Family {
    /// All families, for help texts.
    pub const ALL: [Family; 8] = [
        Family::Ssd,
        Family::NanoDet,
        Family::Yolox,
        Family::Yolov8,
        Family::Yolov5,
        Family::EndToEnd,
        Family::Detr,
        Family::FastestDet,
    ];

    /// As written in `model.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Ssd => "ssd",
            Family::NanoDet => "nano-det",
            Family::Yolox => "yolox",
            Family::Yolov8 => "yolov8",
            Family::Yolov5 => "yolov5",
            Family::EndToEnd => "end-to-end",
            Family::Detr => "detr",
            Family::FastestDet => "fastest-det",
        }
    }
}

/// How to read the outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// Which decoder reads them.
    pub family: Family,
    /// Output names in the order that the family wants them; empty: the graph's own order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Detections under this are not worth decoding, 0..=1 (ByteTrack uses the weak ones too).
    #[serde(default = "default_floor")]
    pub score_floor: f32,
    /// Boxes of one class that overlap more than this are the same object, 0..=1.
    #[serde(default = "default_nms")]
    pub nms_iou: f32,
}

fn default_floor() -> f32 {
    0.1
}

fn default_nms() -> f32 {
    0.5
}

/// Everything the daemon must know to use a network.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Short name for logs, metrics and the API.
    pub name: String,
    /// How to feed it.
    pub input: InputSpec,
    /// How to read it.
    pub output: OutputSpec,
    /// Class names by index; an empty name is a class that is never reported.
    pub labels: Vec<Arc<str>>,
}

/// Where the picture lies in the input tensor: `tensor = picture · scale + offset`, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Tensor columns a picture column.
    pub scale_x: f32,
    /// Tensor rows a picture row.
    pub scale_y: f32,
    /// Tensor column of the picture's left edge.
    pub offset_x: f32,
    /// Tensor row of the picture's top edge.
    pub offset_y: f32,
}

/// One frame's part of one output: the batch dimension is gone.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Dimensions after the batch.
    pub shape: &'a [usize],
    /// Row-major values; `data.len()` is the product of `shape`.
    pub data: &'a [f32],
}
