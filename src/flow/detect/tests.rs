//! One test a family on tensors made by hand, and one property a promise. Real tensors and an
//! independent reference are in `tests/detect_golden.rs`.

use std::sync::Arc;

use proptest::prelude::*;

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
    OutputShape {
        name: name.into(),
        dims: std::iter::once(None).chain(dims.iter().copied().map(Some)).collect(),
    }
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

// --- one family after another: numbers worked out by hand -------------------------------------------------

#[test]
fn ssd_boxes_are_yxyx_in_parts_of_the_input() {
    let mut answer = Answer::empty(Kind::Ssd);
    answer.tensors[0].1[7 * CLASSES + 2] = 0.75;
    answer.tensors[1].1[7 * 4..][..4].copy_from_slice(&[0.25, 0.125, 0.5, 0.625]);
    let boxes = answer.boxes();
    assert_eq!(boxes.len(), 1);
    assert!(close(&boxes[0], 2, 0.75, [52.0, 104.0, 208.0, 104.0], 1e-3), "{boxes:?}");
}

#[test]
fn yolox_adds_the_cell_and_scales_by_the_stride() {
    let mut answer = Answer::empty(Kind::Yolox);
    // Second grid (stride 16, 26 columns), cell (3, 2): centre (3.5, 2.25)·16, size (e, 1)·16.
    let row = (2704 + 2 * 26 + 3) * (5 + CLASSES);
    answer.tensors[0].1[row..][..8].copy_from_slice(&[0.5, 0.25, 1.0, 0.0, 0.8, 0.1, 0.5, 0.2]);
    let boxes = answer.boxes();
    assert_eq!(boxes.len(), 1);
    let w = 16.0 * std::f32::consts::E;
    assert!(close(&boxes[0], 1, 0.4, [56.0 - w / 2.0, 28.0, w, 16.0], 1e-3), "{boxes:?}");
}

#[test]
fn yolov8_reads_columns_and_rows_alike() {
    for kind in [Kind::Yolov8Columns, Kind::Yolov8Rows] {
        let mut answer = Answer::empty(kind);
        for (k, value) in [100.0, 80.0, 40.0, 20.0, 0.1, 0.2, 0.9].into_iter().enumerate() {
            let place = if kind == Kind::Yolov8Columns { k * FREE + 5 } else { 5 * 7 + k };
            answer.tensors[0].1[place] = value;
        }
        let boxes = answer.boxes();
        assert_eq!(boxes.len(), 1);
        assert!(close(&boxes[0], 2, 0.9, [80.0, 70.0, 40.0, 20.0], 1e-3), "{boxes:?}");
    }
}

#[test]
fn yolov5_multiplies_class_by_objectness() {
    let mut answer = Answer::empty(Kind::Yolov5);
    answer.tensors[0].1[..8].copy_from_slice(&[100.0, 80.0, 40.0, 20.0, 0.5, 0.1, 0.8, 0.2]);
    // Objectness alone is not enough.
    answer.tensors[0].1[8..16].copy_from_slice(&[200.0, 200.0, 40.0, 20.0, 0.9, 0.1, 0.1, 0.1]);
    let boxes = answer.boxes();
    assert_eq!(boxes.len(), 1);
    assert!(close(&boxes[0], 1, 0.4, [80.0, 70.0, 40.0, 20.0], 1e-3), "{boxes:?}");
}

#[test]
fn nanodet_takes_the_mean_of_each_distribution() {
    let mut answer = Answer::empty(Kind::NanoDet);
    // Grid of stride 32, cell (4, 6): centre (144, 208). All bins alike: mean 5. One bin alone: that bin.
    let index = 6 * 13 + 4;
    answer.tensors[2].1[index * CLASSES + 1] = 0.6;
    let sides = &mut answer.tensors[5].1[index * 44..][..44];
    sides[2] = 50.0; // left: 2
    sides[11 + 1] = 50.0; // top: 1
    sides[33 + 3] = 50.0; // bottom: 3
    sides[33 + 4] = 50.0; // … or 4, equally: 3.5
    let boxes = answer.boxes();
    assert_eq!(boxes.len(), 1);
    assert!(close(&boxes[0], 1, 0.6, [80.0, 176.0, 64.0 + 160.0, 32.0 + 112.0], 1e-2), "{boxes:?}");
}

#[test]
fn nanodet_plus_counts_from_the_corner_of_the_cell() {
    let mut answer = Answer::empty(Kind::NanoDetPlus);
    let index = 2 * 7 + 3; // Stride 64: (192, 128).
    answer.tensors[3].1[index * CLASSES] = 0.6;
    for side in 0..4 {
        answer.tensors[7].1[index * 44 + side * 11 + 1] = 50.0;
    }
    let boxes = answer.boxes();
    assert_eq!(boxes.len(), 1);
    assert!(close(&boxes[0], 0, 0.6, [128.0, 64.0, 128.0, 128.0], 1e-2), "{boxes:?}");
}

#[test]
fn end_to_end_rows_are_taken_as_they_are() {
    let mut answer = Answer::empty(Kind::EndToEnd);
    // Two that overlap wholly both stay: suppression was the network's work.
    answer.tensors[0].1[..6].copy_from_slice(&[10.0, 20.0, 30.0, 60.0, 0.5, 2.0]);
    answer.tensors[0].1[6..12].copy_from_slice(&[10.0, 20.0, 30.0, 60.0, 0.6, 2.0]);
    answer.tensors[0].1[12..18].copy_from_slice(&[10.0, 20.0, 30.0, 60.0, 0.9, 3.0]);
    let (boxes, report) = answer.decode(&mut answer.detector(&["a", "b", "c"]), &IDENTITY, SQUARE);
    assert_eq!(report, DecodeReport { unknown_class: 1, ..DecodeReport::default() });
    assert_eq!(boxes.len(), 2);
    assert!(close(&boxes[0], 2, 0.6, [10.0, 20.0, 20.0, 40.0], 1e-3), "{boxes:?}");
    assert!(close(&boxes[1], 2, 0.5, [10.0, 20.0, 20.0, 40.0], 1e-3), "{boxes:?}");
}

#[test]
fn detr_scores_are_sigmoids_of_the_logits() {
    let mut answer = Answer::empty(Kind::Detr);
    answer.tensors[0].1[3 * CLASSES..][..3].copy_from_slice(&[-1.0, 0.0, 2.0]);
    answer.tensors[1].1[3 * 4..][..4].copy_from_slice(&[0.5, 0.25, 0.125, 0.0625]);
    let boxes = answer.boxes();
    assert_eq!(boxes.len(), 1);
    assert!(close(&boxes[0], 2, 0.880_797, [182.0, 91.0, 52.0, 26.0], 1e-3), "{boxes:?}");
}

#[test]
fn fastestdet_bends_centre_and_size() {
    let mut answer = Answer::empty(Kind::FastestDet);
    // Cell (3, 2) of 26 × 26; tanh(0) = 0; sigmoid(0) = ½ of 416; score 0.5^0.6 · 0.25^0.4.
    for (channel, value) in [0.5, 0.0, 0.0, 0.0, -40.0, 0.1, 0.25, 0.2].into_iter().enumerate() {
        answer.tensors[0].1[channel * 676 + 2 * 26 + 3] = value;
    }
    answer.tensors[0].1[4 * 676 + 2 * 26 + 3] = logit(0.125);
    let boxes = answer.boxes();
    assert_eq!(boxes.len(), 1);
    let score = 0.5f32.powf(0.6) * 0.25f32.powf(0.4);
    // Centre (48, 32), 208 × 52: the frame cuts off what is left of it.
    assert!(close(&boxes[0], 1, score, [0.0, 6.0, 152.0, 52.0], 1e-2), "{boxes:?}");
}

// --- what all families share -----------------------------------------------------------------------------

#[test]
fn a_class_without_a_name_is_never_reported() {
    for kind in Kind::ALL {
        let mut answer = Answer::empty(kind);
        answer.put(0, 0.9, [40.0, 40.0, 90.0, 90.0]);
        let mut detector = answer.detector(&["", "b", "c"]);
        assert_eq!(answer.decode(&mut detector, &IDENTITY, SQUARE).0, [], "{kind:?}");
    }
    // A background column does not hide what stands beside it.
    let mut answer = Answer::empty(Kind::Ssd);
    answer.put(2, 0.4, [40.0, 40.0, 90.0, 90.0]);
    answer.tensors[0].1[0] = 0.6;
    let (boxes, _) = answer.decode(&mut answer.detector(&["", "", "c"]), &IDENTITY, SQUARE);
    assert_eq!(boxes.iter().map(|b| b.class).collect::<Vec<_>>(), [2]);
}

#[test]
fn the_floor_is_inclusive_and_holds_for_every_family() {
    for kind in Kind::ALL {
        let mut answer = Answer::empty(kind);
        answer.put(1, 0.0999, [40.0, 40.0, 90.0, 90.0]);
        assert_eq!(answer.boxes(), [], "{kind:?}");
        answer.next = 0;
        answer.put(1, 0.1001, [40.0, 40.0, 90.0, 90.0]);
        assert_eq!(answer.boxes().len(), 1, "{kind:?}");
    }
    let mut answer = Answer::empty(Kind::Ssd);
    answer.put(1, 0.1, [40.0, 40.0, 90.0, 90.0]);
    assert_eq!(answer.boxes().len(), 1);
}

/// Each value that an object consists of, spoilt alone, takes its box away, and is counted.
#[test]
fn a_value_that_is_not_finite_yields_no_box_and_is_counted() {
    for kind in Kind::ALL {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut answer = Answer::empty(kind);
            answer.put(0, 0.6, [240.0, 240.0, 290.0, 290.0]);
            for (tensor, place) in answer.put(1, 0.8, [40.0, 40.0, 90.0, 90.0]) {
                let good = std::mem::replace(&mut answer.tensors[tensor].1[place], bad);
                let (boxes, report) =
                    answer.decode(&mut answer.detector(&["a", "b", "c"]), &IDENTITY, SQUARE);
                assert_eq!(boxes.len(), 1, "{kind:?}, {bad} at {place} of tensor {tensor}");
                assert_eq!(boxes[0].class, 0);
                // An objectness of −∞ is under the floor, like any other small one.
                if bad != f32::NEG_INFINITY {
                    assert_eq!(report.non_finite, 1, "{kind:?}, {bad} at {place} of tensor {tensor}");
                }
                answer.tensors[tensor].1[place] = good;
            }
        }
    }
}

#[test]
fn an_output_of_nothing_but_nan_is_counted_whole() {
    for kind in Kind::ALL {
        let mut answer = Answer::empty(kind);
        answer.tensors.iter_mut().for_each(|(_, data)| data.fill(f32::NAN));
        let (boxes, report) = answer.decode(&mut answer.detector(&["a", "b", "c"]), &IDENTITY, SQUARE);
        let anchors = match kind {
            Kind::NanoDet | Kind::NanoDetJoint | Kind::Yolox => 3549,
            Kind::NanoDetPlus => 3598,
            Kind::FastestDet => 676,
            _ => FREE,
        };
        assert_eq!((boxes.len(), report.non_finite), (0, anchors), "{kind:?}");
    }
}

#[test]
fn of_two_equals_the_first_anchor_stands() {
    let mut answer = Answer::empty(Kind::Ssd);
    answer.put(1, 0.5, [42.0, 40.0, 92.0, 90.0]);
    answer.put(1, 0.5, [40.0, 40.0, 90.0, 90.0]);
    let boxes = answer.boxes();
    assert_eq!(boxes.len(), 1);
    assert!((boxes[0].bbox.x - 42.0).abs() < 1e-3, "{boxes:?}");
}

#[test]
fn other_classes_do_not_suppress() {
    let mut answer = Answer::empty(Kind::Yolov5);
    answer.put(1, 0.5, [40.0, 40.0, 90.0, 90.0]);
    answer.put(2, 0.6, [40.0, 40.0, 90.0, 90.0]);
    assert_eq!(answer.boxes().len(), 2);
}

#[test]
fn a_box_in_the_letterbox_bars_is_dropped() {
    let place = Placement { scale_x: 0.5, scale_y: 0.5, offset_x: 0.0, offset_y: 100.0 };
    let frame = Size { width: 832, height: 432 };
    for kind in Kind::ALL {
        let mut answer = Answer::empty(kind);
        answer.put(1, 0.8, [40.0, 20.0, 90.0, 80.0]);
        let (boxes, report) = answer.decode(&mut answer.detector(&["a", "b", "c"]), &place, frame);
        assert_eq!((boxes.len(), report), (0, DecodeReport::default()), "{kind:?}");
    }
}

#[test]
fn the_best_are_kept_when_there_are_too_many() {
    // 40 × 40 boxes side by side, all of one class: nothing to suppress.
    let mut candidates: Vec<Candidate> = (0..1600u32)
        .map(|i| {
            let bbox = BBox { x: (i % 40) as f32 * 10.0, y: (i / 40) as f32 * 10.0, w: 9.0, h: 9.0 };
            let score = ((i * 7) % 1600) as f32 / 1600.0;
            Candidate { detection: Detection { bbox, class: 0, score }, index: i }
        })
        .collect();
    let mut out = vec![candidates[0].detection];
    nms::finish(&mut candidates, Some(0.5), &mut out);
    assert_eq!(candidates.len(), MAX_CANDIDATES);
    assert_eq!(out.len(), 1 + MAX_DETECTIONS);
    let scores: Vec<u32> = out[1..].iter().map(|d| (d.score * 1600.0).round() as u32).collect();
    assert_eq!(scores, (1300..1600).rev().collect::<Vec<_>>());
}

#[test]
fn tensors_of_another_shape_are_told_and_not_read() {
    for kind in Kind::ALL {
        let mut answer = Answer::empty(kind);
        answer.put(1, 0.8, [40.0, 40.0, 90.0, 90.0]);
        let mut detector = answer.detector(&["a", "b", "c"]);
        let told = (vec![], DecodeReport { wrong_shape: true, ..DecodeReport::default() });
        answer.tensors[0].0.push(1);
        assert_eq!(answer.decode(&mut detector, &IDENTITY, SQUARE), told, "{kind:?}");
        answer.tensors[0].0.pop();
        answer.tensors[0].1.pop();
        assert_eq!(answer.decode(&mut detector, &IDENTITY, SQUARE), told, "{kind:?}");
        answer.tensors.pop();
        assert_eq!(answer.decode(&mut detector, &IDENTITY, SQUARE), told, "{kind:?}");
    }
}

#[test]
fn free_dimensions_are_filled_in_or_left_free() {
    for kind in Kind::ALL {
        let mut answer = Answer::empty(kind);
        answer.put(1, 0.8, [40.0, 40.0, 90.0, 90.0]);
        let shapes: Vec<OutputShape> = answer
            .tensors
            .iter()
            .map(|(dims, _)| {
                let mut shape = shape("out", dims);
                // The one that counts anchors; FastestDet's grid must be fixed.
                let anchors = if kind == Kind::Yolov8Columns { 2 } else { 1 };
                if kind != Kind::FastestDet {
                    shape.dims[anchors] = None;
                }
                shape
            })
            .collect();
        let mut detector = Detector::new(&spec(kind.family(), &["a", "b", "c"]), &shapes)
            .unwrap_or_else(|fault| panic!("{kind:?}: {fault}"));
        assert_eq!(answer.decode(&mut detector, &IDENTITY, SQUARE).0.len(), 1, "{kind:?}");
    }
}

/// Free dimensions may disagree: an anchor without a box is not read.
#[test]
fn scores_without_boxes_are_not_read() {
    for kind in [Kind::Ssd, Kind::Detr] {
        let mut answer = Answer::empty(kind);
        let shapes = ["out0", "out1"].map(|name| {
            let width = if name == "out0" { CLASSES } else { 4 };
            OutputShape { name: name.into(), dims: vec![None, None, Some(width)] }
        });
        let mut detector = Detector::new(&spec(kind.family(), &["a", "b", "c"]), &shapes).expect("free");
        answer.put(1, 0.8, [40.0, 40.0, 90.0, 90.0]);
        answer.tensors[0].1.fill(0.9);
        answer.tensors[1].0[0] = 1;
        answer.tensors[1].1.truncate(4);
        assert_eq!(answer.decode(&mut detector, &IDENTITY, SQUARE).0.len(), 1, "{kind:?}");
    }
}

#[test]
fn outputs_are_found_by_name() {
    let mut answer = Answer::empty(Kind::Ssd);
    answer.put(1, 0.8, [40.0, 40.0, 90.0, 90.0]);
    answer.tensors.reverse();
    answer.tensors.insert(1, (vec![], vec![3.0]));
    let mut spec = spec(Family::Ssd, &["a", "b", "c"]);
    let shapes = [shape("boxes", &[FREE, 4]), shape("count", &[]), shape("scores", &[FREE, 3])];
    let fault = Detector::new(&spec, &shapes).expect_err("three outputs, two wanted");
    assert!(fault.message.contains("boxes, count, scores"), "{fault}");
    spec.output.names = vec!["scores".into(), "boxes".into()];
    let mut detector = Detector::new(&spec, &shapes).expect("named");
    assert_eq!(answer.decode(&mut detector, &IDENTITY, SQUARE).0.len(), 1);
    spec.output.names = vec!["scores".into(), "boxs".into()];
    let fault = Detector::new(&spec, &shapes).expect_err("misspelt");
    assert_eq!(fault.who, Who::Config);
    assert!(fault.message.contains("`boxs`") && fault.remedy.contains("boxes, count, scores"), "{fault}");
}

/// Each family refuses what it cannot read, with the output's name, its shape and the shape wanted.
#[test]
fn shapes_that_do_not_fit_are_named() {
    type Bad = (Family, &'static [&'static [usize]], &'static str, &'static str);
    let table: [Bad; 14] = [
        (Family::Ssd, &[&[60, 91], &[60, 4]], "`out0` is [batch, 60, 91]", "[batch, N, 3]"),
        (Family::Ssd, &[&[60, 3], &[60, 5]], "`out1` is [batch, 60, 5]", "[batch, N, 4]"),
        (Family::Ssd, &[&[60, 3], &[61, 4]], "`out1` is [batch, 61, 4]", "[batch, 60, 4]"),
        (Family::NanoDet, &[&[3549, 45]], "`out0` is [batch, 3549, 45]", "[batch, 3549, 3 + 4·bins]"),
        (Family::NanoDet, &[&[99, 47]], "`out0` is [batch, 99, 47]", "[batch, 3598, 3 + 4·bins] (Plus)"),
        (
            Family::NanoDet,
            &[&[2704, 3], &[676, 3], &[169, 3], &[2704, 44], &[676, 32], &[169, 44]],
            "`out4` is [batch, 676, 32]",
            "[batch, 676, 44] (distances, stride 16)",
        ),
        (Family::Yolox, &[&[3500, 8]], "`out0` is [batch, 3500, 8]", "[batch, 3549, 8]"),
        (Family::Yolov8, &[&[84, 8400]], "`out0` is [batch, 84, 8400]", "[batch, 7, N] or [batch, N, 7]"),
        (Family::Yolov5, &[&[8, 25200]], "`out0` is [batch, 8, 25200]", "[batch, N, 8]"),
        (Family::EndToEnd, &[&[300, 7]], "`out0` is [batch, 300, 7]", "[batch, N, 6]"),
        (Family::Detr, &[&[300, 4], &[300, 4]], "`out0` is [batch, 300, 4]", "[batch, Q, 3]"),
        (Family::Detr, &[&[300, 3], &[100, 4]], "`out1` is [batch, 100, 4]", "as many as logits"),
        (Family::FastestDet, &[&[85, 22, 22]], "`out0` is [batch, 85, 22, 22]", "[batch, 8, H, W]"),
        (Family::FastestDet, &[&[8, 0, 22]], "`out0` is [batch, 8, 0, 22]", "H and W"),
    ];
    for (family, dims, found, wanted) in table {
        let shapes: Vec<OutputShape> =
            dims.iter().enumerate().map(|(k, dims)| shape(&format!("out{k}"), dims)).collect();
        let fault = Detector::new(&spec(family, &["a", "b", "c"]), &shapes).expect_err(found);
        assert_eq!((fault.who, fault.retry), (Who::Config, crate::fault::Retry::Never));
        let text = fault.message;
        assert!(text.contains(found) && text.contains(wanted), "{text}");
        assert!(text.contains("model net") && text.contains(family.name()), "{text}");
    }
    let refuse = |change: fn(&mut ModelSpec), want: &str| {
        let mut spec = spec(Family::EndToEnd, &["a"]);
        change(&mut spec);
        let fault = Detector::new(&spec, &[shape("out", &[300, 6])]).expect_err(want);
        assert!(fault.message.contains(want), "{fault}");
    };
    refuse(|s| s.output.score_floor = f32::NAN, "score_floor = NaN");
    refuse(|s| s.output.nms_iou = 1.5, "nms_iou = 1.5");
    refuse(|s| s.input.width = 0, "0×416");
    refuse(|s| s.labels = vec![], "none of its labels");
    refuse(|s| s.labels = vec!["".into(); 70_000], "70000 labels");
}

// --- properties, one promise each ------------------------------------------------------------------------

fn any_kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(&Kind::ALL[..])
}

/// Objects that crowd together: class, score, corners in tensor pixels.
fn crowd() -> impl Strategy<Value = Vec<(usize, f32, [f32; 4])>> {
    let object = (0..CLASSES, 0.0f32..1.0, 0.0f32..250.0, 0.0f32..250.0, 1.0f32..150.0, 1.0f32..150.0)
        .prop_map(|(class, score, x, y, w, h)| (class, score, [x, y, x + w, y + h]));
    prop::collection::vec(object, 0..FREE)
}

/// Where a camera's picture may lie in the tensor: any frame size, any of the three fits, and some nonsense.
fn placement() -> impl Strategy<Value = (Placement, Size)> {
    let size = (16u32..4000, 16u32..4000).prop_map(|(width, height)| Size { width, height });
    (size, 0..4).prop_map(|(frame, fit)| {
        let side = SIDE as f32;
        let (width, height) = (frame.width as f32, frame.height as f32);
        let scale = (side / width).min(side / height);
        let place = match fit {
            0 => Placement {
                scale_x: scale,
                scale_y: scale,
                offset_x: ((side - width * scale) / 2.0).round(),
                offset_y: ((side - height * scale) / 2.0).round(),
            },
            1 => Placement { scale_x: scale, scale_y: scale, offset_x: 0.0, offset_y: 0.0 },
            2 => Placement { scale_x: side / width, scale_y: side / height, offset_x: 0.0, offset_y: 0.0 },
            _ => Placement { scale_x: 3.0, scale_y: 0.01, offset_x: -500.0, offset_y: 300.0 },
        };
        (place, frame)
    })
}

fn answer(kind: Kind, objects: &[(usize, f32, [f32; 4])]) -> Answer {
    let mut answer = Answer::empty(kind);
    for &(class, score, corners) in objects {
        answer.put(class, score, corners);
    }
    answer
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// No two boxes of one class overlap more than `nms_iou`, where suppression is ours to do.
    #[test]
    fn no_two_boxes_of_a_class_overlap(kind in any_kind(), objects in crowd(), (place, frame) in placement()) {
        prop_assume!(!matches!(kind, Kind::EndToEnd | Kind::Detr));
        let answer = answer(kind, &objects);
        let (boxes, _) = answer.decode(&mut answer.detector(&["a", "b", "c"]), &place, frame);
        for (i, a) in boxes.iter().enumerate() {
            for b in boxes[..i].iter().filter(|b| b.class == a.class) {
                prop_assert!(a.bbox.iou(&b.bbox) <= 0.5, "{a:?} and {b:?}");
            }
        }
    }

    /// Suppression takes nothing that does not overlap: whatever is gone overlaps a better one of its class.
    #[test]
    fn what_is_suppressed_was_seen_already(objects in crowd()) {
        let all = answer(Kind::EndToEnd, &objects).boxes();
        let kept = answer(Kind::Yolov8Rows, &objects).boxes();
        for gone in all.iter().filter(|b| !kept.iter().any(|k| close(k, b.class, b.score, [b.bbox.x, b.bbox.y, b.bbox.w, b.bbox.h], 0.01))) {
            let seen = kept.iter().any(|k| {
                k.class == gone.class && k.score >= gone.score && k.bbox.iou(&gone.bbox) > 0.5 - 1e-3
            });
            prop_assert!(seen, "{gone:?} went for nothing");
        }
    }

    /// The order in which candidates arrive does not matter, ties included.
    #[test]
    fn suppression_does_not_depend_on_order(
        objects in prop::collection::vec((0u16..2, 1u8..5, 0.0f32..80.0, 0.0f32..80.0, 20.0f32..60.0), 0..1300),
        seed in any::<u64>(),
    ) {
        let candidates: Vec<Candidate> = objects.iter().enumerate().map(|(i, &(class, score, x, y, side))| Candidate {
            detection: Detection { bbox: BBox { x, y, w: side, h: side }, class, score: f32::from(score) / 5.0 },
            index: i as u32,
        }).collect();
        let mut shuffled = candidates.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        nms::finish(&mut { candidates }, Some(0.5), &mut a);
        nms::finish(&mut shuffled, Some(0.5), &mut b);
        prop_assert_eq!(a, b);
    }

    /// Every box lies within the frame and has an area.
    #[test]
    fn every_box_is_inside_the_frame(kind in any_kind(), objects in crowd(), (place, frame) in placement()) {
        let answer = answer(kind, &objects);
        let (boxes, _) = answer.decode(&mut answer.detector(&["a", "b", "c"]), &place, frame);
        for Detection { bbox: b, .. } in boxes {
            prop_assert!(b.x >= 0.0 && b.y >= 0.0 && b.w > 0.0 && b.h > 0.0, "{b:?}");
            prop_assert!(b.x + b.w <= frame.width as f32 && b.y + b.h <= frame.height as f32, "{b:?} in {frame}");
        }
    }

    /// Best first.
    #[test]
    fn scores_never_rise(kind in any_kind(), objects in crowd()) {
        let boxes = answer(kind, &objects).boxes();
        prop_assert!(boxes.is_sorted_by(|a, b| a.score >= b.score), "{boxes:?}");
    }

    /// What lies somewhere in the picture is found there: placed into the tensor and decoded, a box comes back within
    /// 0.01 pixels. (Boxes of at least 8 tensor pixels; the frame is no larger than 4000.)
    #[test]
    fn a_box_comes_back_to_where_it_was(
        kind in any_kind(), (place, frame) in placement(), class in 0..CLASSES, score in 0.15f32..0.99,
        (u, v, du, dv) in (0.0f32..0.7, 0.0f32..0.7, 0.1f32..0.3, 0.1f32..0.3),
    ) {
        prop_assume!(place.scale_x < 3.0);
        let (width, height) = (frame.width as f32, frame.height as f32);
        let (x, y, w, h) = (u * width, v * height, du * width, dv * height);
        let x1 = x * place.scale_x + place.offset_x;
        let y1 = y * place.scale_y + place.offset_y;
        let corners = [x1, y1, x1 + w * place.scale_x, y1 + h * place.scale_y];
        prop_assume!(corners[2] - corners[0] > 8.0 && corners[3] - corners[1] > 8.0);
        // Its corner-counted cell must lie in the box: distances are not negative.
        if matches!(kind, Kind::NanoDet | Kind::NanoDetJoint | Kind::NanoDetPlus) {
            prop_assume!(corners[2] - corners[0] > 64.0 && corners[3] - corners[1] > 64.0);
        }
        let mut answer = Answer::empty(kind);
        answer.put(class, score, corners);
        let (boxes, report) = answer.decode(&mut answer.detector(&["a", "b", "c"]), &place, frame);
        prop_assert_eq!(report, DecodeReport::default());
        prop_assert_eq!(boxes.len(), 1);
        prop_assert!(close(&boxes[0], class as u16, score, [x, y, w, h], 0.01), "{:?} is not {:?}", boxes[0], (x, y, w, h));
    }

    /// Whatever bits the engine left behind, decoding returns, and what it returns is finite and in range.
    #[test]
    fn garbage_never_panics(kind in any_kind(), seed in any::<u64>(), wild in 0u32..100, (place, frame) in placement()) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut answer = Answer::empty(kind);
        for value in answer.tensors.iter_mut().flat_map(|(_, data)| data) {
            *value = if random.u32(..100) < wild { f32::from_bits(random.u32(..)) } else { random.f32() };
        }
        let (boxes, _) = answer.decode(&mut answer.detector(&["a", "b", "c"]), &place, frame);
        prop_assert!(boxes.len() <= MAX_DETECTIONS);
        for Detection { bbox: b, class, score } in boxes {
            prop_assert!([b.x, b.y, b.w, b.h].iter().all(|v| v.is_finite()), "{b:?}");
            prop_assert!((0.1..=1.0).contains(&score) && usize::from(class) < CLASSES);
        }
    }
}
