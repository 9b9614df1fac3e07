//! A network's answer written by hand ([`Answer`]), for the tests beside. Real tensors and an independent
//! reference are in `tests/detect_golden.rs`.

mod families;
mod properties;
mod shared;

use std::sync::Arc;

use super::*;
use crate::frame::BBox;
use crate::model::spec::{Channels, InputSpec, Layout, OutputSpec, Resize};

const SIDE: usize = 416;
const CLASSES: usize = 3;
const BINS: usize = 11;
/// Anchors of the families that have no grid.
const FREE: usize = 60;
const IDENTITY: Placement = Placement { scale_x: 1.0, scale_y: 1.0, offset_x: 0.0, offset_y: 0.0 };
const SQUARE: Size = Size { width: SIDE as u32, height: SIDE as u32 };

/// Every layout that is read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Ssd,
    SsdWithOne,
    NanoDet,
    NanoDetJoint,
    NanoDetPlus,
    Yolox,
    Yolov8Columns,
    Yolov8Rows,
    Yolov5,
    EndToEnd,
    Detr,
    FastestDet,
}

impl Kind {
    const ALL: [Kind; 12] = [
        Kind::Ssd,
        Kind::SsdWithOne,
        Kind::NanoDet,
        Kind::NanoDetJoint,
        Kind::NanoDetPlus,
        Kind::Yolox,
        Kind::Yolov8Columns,
        Kind::Yolov8Rows,
        Kind::Yolov5,
        Kind::EndToEnd,
        Kind::Detr,
        Kind::FastestDet,
    ];

    fn family(self) -> Family {
        match self {
            Kind::Ssd | Kind::SsdWithOne => Family::Ssd,
            Kind::NanoDet | Kind::NanoDetJoint | Kind::NanoDetPlus => Family::NanoDet,
            Kind::Yolox => Family::Yolox,
            Kind::Yolov8Columns | Kind::Yolov8Rows => Family::Yolov8,
            Kind::Yolov5 => Family::Yolov5,
            Kind::EndToEnd => Family::EndToEnd,
            Kind::Detr => Family::Detr,
            Kind::FastestDet => Family::FastestDet,
        }
    }

    /// Shapes without the batch.
    fn shapes(self) -> Vec<Vec<usize>> {
        let grids = [52 * 52, 26 * 26, 13 * 13, 7 * 7];
        match self {
            Kind::Ssd => vec![vec![FREE, CLASSES], vec![FREE, 4]],
            Kind::SsdWithOne => vec![vec![FREE, CLASSES], vec![FREE, 1, 4]],
            Kind::NanoDet | Kind::NanoDetPlus => {
                let grids = if self == Kind::NanoDet { &grids[..3] } else { &grids[..] };
                let of = |width| grids.iter().map(move |g| vec![*g, width]);
                of(CLASSES).chain(of(4 * BINS)).collect()
            }
            Kind::NanoDetJoint => vec![vec![3549, CLASSES + 4 * BINS]],
            Kind::Yolox => vec![vec![3549, 5 + CLASSES]],
            Kind::Yolov8Columns => vec![vec![4 + CLASSES, FREE]],
            Kind::Yolov8Rows => vec![vec![FREE, 4 + CLASSES]],
            Kind::Yolov5 => vec![vec![FREE, 5 + CLASSES]],
            Kind::EndToEnd => vec![vec![FREE, 6]],
            Kind::Detr => vec![vec![FREE, CLASSES], vec![FREE, 4]],
            Kind::FastestDet => vec![vec![5 + CLASSES, 26, 26]],
        }
    }
}

fn spec(family: Family, labels: &[&str]) -> ModelSpec {
    ModelSpec {
        name: "net".into(),
        input: InputSpec {
            name: "images".into(),
            width: SIDE as u32,
            height: SIDE as u32,
            layout: Layout::Nchw,
            channels: Channels::Rgb,
            resize: Resize::Letterbox,
            pad: 114,
            mean: [0.0; 3],
            std: [1.0; 3],
        },
        output: OutputSpec { family, names: vec![], score_floor: 0.1, nms_iou: 0.5 },
        labels: labels.iter().map(|l| Arc::from(*l)).collect(),
    }
}

fn shape(name: &str, dims: &[usize]) -> OutputShape {
    let dims: Vec<Option<usize>> = std::iter::once(None).chain(dims.iter().copied().map(Some)).collect();
    OutputShape::whole(name, &dims)
}

/// A network's answer, written by hand.
struct Answer {
    kind: Kind,
    tensors: Vec<(Vec<usize>, Vec<f32>)>,
    next: usize,
}

fn logit(p: f32) -> f32 {
    (p / (1.0 - p)).ln()
}

impl Answer {
    /// Nothing seen.
    fn empty(kind: Kind) -> Answer {
        let fill = if kind == Kind::Detr { -20.0 } else { 0.0 };
        let tensors = kind
            .shapes()
            .into_iter()
            .map(|shape| {
                let n = shape.iter().product();
                (shape, vec![fill; n])
            })
            .collect();
        Answer { kind, tensors, next: 0 }
    }

    fn detector(&self, labels: &[&str]) -> Detector {
        let shapes: Vec<OutputShape> =
            self.tensors.iter().enumerate().map(|(k, (dims, _))| shape(&format!("out{k}"), dims)).collect();
        Detector::new(&spec(self.kind.family(), labels), &shapes).expect("the shapes are right")
    }

    fn decode(
        &self,
        detector: &mut Detector,
        place: &Placement,
        frame: Size,
    ) -> (Vec<Detection>, DecodeReport) {
        let views: Vec<TensorView<'_>> =
            self.tensors.iter().map(|(shape, data)| TensorView { shape, data }).collect();
        let mut out = Vec::new();
        let report = detector.decode(&views, place, frame, &mut out);
        (out, report)
    }

    fn boxes(&self) -> Vec<Detection> {
        let (out, report) = self.decode(&mut self.detector(&["a", "b", "c"]), &IDENTITY, SQUARE);
        assert_eq!(report, DecodeReport::default());
        out
    }

    /// Writes an object whose corners are in tensor pixels, in the way of the family's *encoder*, and returns
    /// what it wrote as (tensor, place). Grid families use the cell under the centre.
    fn put(&mut self, class: usize, score: f32, [x1, y1, x2, y2]: [f32; 4]) -> Vec<(usize, usize)> {
        let side = SIDE as f32;
        let (cx, cy, w, h) = ((x1 + x2) / 2.0, (y1 + y2) / 2.0, x2 - x1, y2 - y1);
        let slot = self.next;
        self.next += 1;
        let cell = |stride: f32| ((cx / stride).floor(), (cy / stride).floor());
        let mut writes: Vec<(usize, usize, f32)> = Vec::new();
        match self.kind {
            Kind::Ssd | Kind::SsdWithOne => {
                writes.push((0, slot * CLASSES + class, score));
                let corners = [y1, x1, y2, x2];
                writes.extend((0..4).map(|k| (1, slot * 4 + k, corners[k] / side)));
            }
            Kind::NanoDet | Kind::NanoDetJoint | Kind::NanoDetPlus => {
                // The coarse grid of 13 × 13, whose distances reach 320 pixels.
                let (column, line) = cell(32.0);
                let index = (line * 13.0 + column) as usize;
                let levels = if self.kind == Kind::NanoDetPlus { 4 } else { 3 };
                let (classes, sides) = if self.kind == Kind::NanoDetJoint {
                    let row = (3549 - 169 + index) * (CLASSES + 4 * BINS);
                    ((0, row), (0, row + CLASSES))
                } else {
                    ((2, index * CLASSES), (levels + 2, index * 4 * BINS))
                };
                writes.push((classes.0, classes.1 + class, score));
                let centre = if levels == 4 { 0.0 } else { 0.5 };
                let (x, y) = ((column + centre) * 32.0, (line + centre) * 32.0);
                for (k, distance) in [x - x1, y - y1, x2 - x, y2 - y].into_iter().enumerate() {
                    let d = distance / 32.0;
                    // Two neighbouring bins carry it all.
                    for bin in 0..BINS {
                        let weight = (1.0 - (d - bin as f32).abs()).max(1e-12);
                        writes.push((sides.0, sides.1 + k * BINS + bin, weight.ln()));
                    }
                }
            }
            Kind::Yolox => {
                let (column, line) = cell(16.0);
                let row = (2704 + (line * 26.0 + column) as usize) * (5 + CLASSES);
                let values = [cx / 16.0 - column, cy / 16.0 - line, (w / 16.0).ln(), (h / 16.0).ln(), score];
                writes.extend(values.into_iter().enumerate().map(|(k, v)| (0, row + k, v)));
                writes.push((0, row + 5 + class, 1.0));
            }
            Kind::Yolov8Columns => {
                writes.extend([cx, cy, w, h].into_iter().enumerate().map(|(k, v)| (0, k * FREE + slot, v)));
                writes.push((0, (4 + class) * FREE + slot, score));
            }
            Kind::Yolov8Rows => {
                let row = slot * (4 + CLASSES);
                writes.extend([cx, cy, w, h].into_iter().enumerate().map(|(k, v)| (0, row + k, v)));
                writes.push((0, row + 4 + class, score));
            }
            Kind::Yolov5 => {
                let row = slot * (5 + CLASSES);
                writes.extend([cx, cy, w, h, 1.0].into_iter().enumerate().map(|(k, v)| (0, row + k, v)));
                writes.push((0, row + 5 + class, score));
            }
            Kind::EndToEnd => {
                let values = [x1, y1, x2, y2, score, class as f32];
                writes.extend(values.into_iter().enumerate().map(|(k, v)| (0, slot * 6 + k, v)));
            }
            Kind::Detr => {
                writes.push((0, slot * CLASSES + class, logit(score)));
                let values = [cx, cy, w, h];
                writes.extend((0..4).map(|k| (1, slot * 4 + k, values[k] / side)));
            }
            Kind::FastestDet => {
                let (column, line) = cell(16.0);
                let at = (line * 26.0 + column) as usize;
                let values = [
                    score.powf(1.0 / 0.6),
                    (cx / 16.0 - column).atanh(),
                    (cy / 16.0 - line).atanh(),
                    logit(w / side),
                    logit(h / side),
                ];
                writes.extend(values.into_iter().enumerate().map(|(k, v)| (0, k * 676 + at, v)));
                writes.push((0, (5 + class) * 676 + at, 1.0));
            }
        }
        for &(tensor, place, value) in &writes {
            self.tensors[tensor].1[place] = value;
        }
        writes.into_iter().map(|(tensor, place, _)| (tensor, place)).collect()
    }
}

fn close(have: &Detection, class: u16, score: f32, [x, y, w, h]: [f32; 4], within: f32) -> bool {
    let b = have.bbox;
    have.class == class
        && (have.score - score).abs() < 1e-4
        && [b.x - x, b.y - y, b.w - w, b.h - h].iter().all(|d| d.abs() < within)
}
