//! The decoder against an independent one: `tests/detect/reference.py` (numpy, double precision) read the same
//! tensors and stored what it saw in `tests/data/detect/*.json`. Some tensors are random, made by the same generator
//! on both sides; those named `real_*` are what real networks said of a frame, without the anchors that say nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use weir::flow::detect::{DecodeReport, Detector, OutputShape};
use weir::frame::{Detection, Size};
use weir::model::spec::{
    Channels, Family, InputSpec, Layout, ModelSpec, OutputSpec, Placement, Resize, TensorView,
};

#[derive(Deserialize)]
struct Case {
    family: Family,
    input: [u32; 2],
    labels: Vec<u8>,
    floor: f32,
    iou: f32,
    place: [f32; 4],
    frame: [u32; 2],
    outputs: Vec<Tensor>,
    non_finite: usize,
    unknown_class: usize,
    /// Class, score, x, y, w, h.
    boxes: Vec<[f32; 6]>,
}

/// See the head of `reference.py`.
#[derive(Deserialize)]
struct Tensor {
    dims: Vec<usize>,
    along: Along,
    #[serde(flatten)]
    values: Values,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Along {
    Rows,
    Columns,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    Sparse { fill: f32, index: Vec<usize>, values: Vec<Vec<f32>> },
    Random { seed: u64, groups: Vec<(usize, f32, f32, u32)>, spoil: usize },
}

struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 40
    }
}

impl Tensor {
    fn make(&self) -> Vec<f32> {
        let size: usize = self.dims.iter().product();
        let columns = size / self.dims[0];
        // The `k`th value of row or column `line`.
        let at = |line: usize, k: usize| match self.along {
            Along::Rows => line * columns + k,
            Along::Columns => k * columns + line,
        };
        let across = if self.along == Along::Rows { columns } else { self.dims[0] };
        match &self.values {
            Values::Sparse { fill, index, values } => {
                let mut data = vec![*fill; size];
                for (&line, values) in index.iter().zip(values) {
                    for (k, &value) in values.iter().enumerate() {
                        data[at(line, k)] = value;
                    }
                }
                data
            }
            Values::Random { seed, groups, spoil } => {
                let mut random = Lcg(*seed);
                let mut data: Vec<f32> =
                    (0..size).map(|_| random.next() as f32 / (1u32 << 24) as f32).collect();
                let mut line = 0;
                for &(count, lo, hi, squarings) in groups {
                    for line in line..line + count {
                        for k in 0..across {
                            let value = &mut data[at(line, k)];
                            (0..squarings).for_each(|_| *value *= *value);
                            *value = lo + (hi - lo) * *value;
                        }
                    }
                    line += count;
                }
                for k in 0..*spoil {
                    let place = random.next() as usize % size;
                    data[place] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][k % 3];
                }
                data
            }
        }
    }
}

impl Case {
    fn decode(&self) -> (Vec<Detection>, DecodeReport) {
        let spec = ModelSpec {
            name: "golden".into(),
            input: InputSpec {
                name: "images".into(),
                width: self.input[0],
                height: self.input[1],
                layout: Layout::Nchw,
                channels: Channels::Rgb,
                resize: Resize::Letterbox,
                pad: 114,
                mean: [0.0; 3],
                std: [1.0; 3],
            },
            output: OutputSpec {
                family: self.family,
                names: vec![],
                score_floor: self.floor,
                nms_iou: self.iou,
            },
            labels: self
                .labels
                .iter()
                .map(|named| Arc::from(if *named == 1 { "named" } else { "" }))
                .collect(),
        };
        let shapes: Vec<OutputShape> = self
            .outputs
            .iter()
            .enumerate()
            .map(|(k, tensor)| {
                let dims: Vec<_> = std::iter::once(1).chain(tensor.dims.iter().copied()).map(Some).collect();
                OutputShape::whole(&format!("output{k}"), &dims)
            })
            .collect();
        let mut detector = Detector::new(&spec, &shapes).unwrap_or_else(|fault| panic!("{fault}"));
        let data: Vec<Vec<f32>> = self.outputs.iter().map(Tensor::make).collect();
        let views: Vec<TensorView<'_>> =
            self.outputs.iter().zip(&data).map(|(t, data)| TensorView { shape: &t.dims, data }).collect();
        let [scale_x, scale_y, offset_x, offset_y] = self.place;
        let mut out = Vec::new();
        let report = detector.decode(
            &views,
            &Placement { scale_x, scale_y, offset_x, offset_y },
            Size { width: self.frame[0], height: self.frame[1] },
            &mut out,
        );
        (out, report)
    }
}

/// Whether `have` is `want`: same class, score within 1e-5, each side within 0.01 pixels.
fn same(have: &Detection, want: &[f32; 6]) -> bool {
    let b = have.bbox;
    f32::from(have.class) == want[0]
        && (have.score - want[1]).abs() < 1e-5
        && [b.x - want[2], b.y - want[3], b.w - want[4], b.h - want[5]].iter().all(|d| d.abs() < 0.01)
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/detect");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the cases are part of the repository")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_case_is_read_as_the_reference_reads_it() {
    let mut families = Vec::new();
    for path in cases() {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a readable case");
        let case: Case = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!case.boxes.is_empty(), "{name}: a case without boxes shows nothing");

        let (mut have, report) = case.decode();
        let told = DecodeReport {
            non_finite: case.non_finite,
            unknown_class: case.unknown_class,
            wrong_shape: false,
        };
        assert_eq!(report, told, "{name}");
        assert_eq!(have.len(), case.boxes.len(), "{name}: number of boxes");
        // One to one. Not by place in the list: scores closer than single precision may swap.
        for want in &case.boxes {
            let Some(place) = have.iter().position(|h| same(h, want)) else {
                panic!("{name}: nothing is {want:?}; left are {have:#?}");
            };
            have.remove(place);
        }
        families.push(case.family.name());
    }
    for family in Family::ALL {
        assert!(families.contains(&family.name()), "no case of family {}", family.name());
    }
}
