//! Class names that many detectors share.

use std::sync::Arc;

/// COCO's 80 classes in the dense order of YOLO, NanoDet and FastestDet.
const COCO: [&str; 80] = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
];

/// COCO ids between 1 and 90 that name no class.
const GAPS: [usize; 10] = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83];

/// The names of the sets that [`builtin`] knows.
pub const BUILTIN: [&str; 2] = ["coco-80", "coco-91"];

/// A set by name. `coco-80` is dense. `coco-91` is that of the TensorFlow object detection models, whose 91st class
/// is the background, which they keep at index 0 and which is cut off here: 90 names, index + 1 = COCO id, empty where
/// COCO has no class.
pub fn builtin(name: &str) -> Option<Vec<Arc<str>>> {
    match name {
        "coco-80" => Some(COCO.iter().map(|&n| n.into()).collect()),
        "coco-91" => {
            let mut dense = COCO.iter();
            let named = |id| if GAPS.contains(&id) { "" } else { dense.next().copied().unwrap_or("") };
            Some((1..=90).map(named).map(Into::into).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::builtin;

    /// Ids from COCO's own annotation files, on both sides of each gap.
    #[test]
    fn coco_91_puts_each_name_at_its_id() {
        let names = builtin("coco-91").unwrap();
        assert_eq!(names.len(), 90);
        for (id, name) in [
            (1, "person"),
            (11, "fire hydrant"),
            (13, "stop sign"),
            (25, "giraffe"),
            (27, "backpack"),
            (28, "umbrella"),
            (31, "handbag"),
            (44, "bottle"),
            (46, "wine glass"),
            (65, "bed"),
            (67, "dining table"),
            (70, "toilet"),
            (72, "tv"),
            (82, "refrigerator"),
            (84, "book"),
            (90, "toothbrush"),
        ] {
            assert_eq!(&*names[id - 1], name, "COCO id {id}");
        }
        assert_eq!(names.iter().filter(|n| n.is_empty()).count(), 10);
    }
}
