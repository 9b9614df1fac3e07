//! One property a promise.

use proptest::prelude::*;

use super::*;

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

    /// Rows that a device picked give the boxes and the report that the whole tensor gives, unsound values and a class without a name included.
    #[test]
    fn what_is_picked_says_what_the_whole_says(
        kind in prop::sample::select(&[Kind::Yolox, Kind::Yolov8Columns, Kind::Yolov8Rows, Kind::Yolov5][..]),
        objects in crowd(),
        unsound in prop::collection::vec((0usize..10_000, prop::sample::select(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY][..])), 0..6),
        labels in prop::sample::select(&[["a", "b", "c"], ["a", "", "c"]][..]),
        (place, frame) in placement(),
    ) {
        let mut answer = answer(kind, &objects);
        // Among the values that are not 0: there they can matter.
        let data = &mut answer.tensors[0].1;
        let used: Vec<usize> = (0..data.len()).filter(|at| data[*at] != 0.0).collect();
        for (at, value) in unsound.into_iter().filter(|_| !used.is_empty()) {
            data[used[at % used.len()]] = value;
        }
        let mut whole = answer.detector(&labels);
        let (anchors, named) = (whole.anchors().expect("a family that can be picked"), whole.named());
        let (dims, data) = &answer.tensors[0];
        let dims: Vec<Option<usize>> = std::iter::once(None).chain(dims.iter().copied().map(Some)).collect();
        let shape = OutputShape { picked: true, ..OutputShape::whole("out0", &dims) };
        let mut picked = Detector::new(&spec(kind.family(), &labels), &[shape]).expect("the same network");
        let rows = pick(data, &anchors, &named, 0.1);
        let view = TensorView { shape: &[rows.len() / PICKED_ROW, PICKED_ROW], data: &rows };
        let mut boxes = Vec::new();
        let report = picked.decode(&[view], &place, frame, &mut boxes);
        prop_assert_eq!((boxes, report), answer.decode(&mut whole, &place, frame));
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
