//! What all families share, case by case.

use super::*;

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
        // Which of the values that `put` writes decides alone whether the others are read.
        let decides = match kind {
            Kind::Yolox | Kind::Yolov5 | Kind::EndToEnd => 4,
            Kind::FastestDet => 0,
            _ => usize::MAX,
        };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut answer = Answer::empty(kind);
            answer.put(0, 0.6, [240.0, 240.0, 290.0, 290.0]);
            for (nth, (tensor, place)) in answer.put(1, 0.8, [40.0, 40.0, 90.0, 90.0]).into_iter().enumerate()
            {
                let good = std::mem::replace(&mut answer.tensors[tensor].1[place], bad);
                let (boxes, report) =
                    answer.decode(&mut answer.detector(&["a", "b", "c"]), &IDENTITY, SQUARE);
                assert_eq!(boxes.len(), 1, "{kind:?}, {bad} at {place} of tensor {tensor}");
                assert_eq!(boxes[0].class, 0);
                // An objectness (or a whole row's score) of −∞ is under the floor, like any other small one.
                let small = bad == f32::NEG_INFINITY && nth == decides;
                let want = usize::from(!small);
                assert_eq!(report.non_finite, want, "{kind:?}, {bad} at {place} of tensor {tensor}");
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
fn of_two_equal_classes_the_first_is_meant() {
    let mut answer = Answer::empty(Kind::Yolov8Columns);
    answer.put(2, 0.5, [40.0, 40.0, 90.0, 90.0]);
    answer.next = 0;
    answer.put(1, 0.5, [40.0, 40.0, 90.0, 90.0]);
    assert_eq!(answer.boxes().iter().map(|b| b.class).collect::<Vec<_>>(), [1]);
}

#[test]
fn queries_do_not_suppress_each_other() {
    let mut answer = Answer::empty(Kind::Detr);
    answer.put(1, 0.5, [40.0, 40.0, 90.0, 90.0]);
    answer.put(1, 0.6, [40.0, 40.0, 90.0, 90.0]);
    assert_eq!(answer.boxes().len(), 2);
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
            OutputShape::whole(name, &[None, None, Some(width)])
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
