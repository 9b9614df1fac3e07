//! One family after another, with numbers worked out by hand.

use super::*;

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
