//! Tensors to boxes, one frame at a time, each family at the size of a real network, with ten objects on
//! a background of weak answers. The throughput counters say frames a second and bytes of tensor.
//!
//! `cargo bench --bench detect`. The allocation columns must be absent or zero: decoding reuses its scratch.

use std::sync::Arc;

use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher};
use weir::flow::detect::{Detector, OutputShape};
use weir::frame::Size;
use weir::model::spec::{
    Channels, Family, InputSpec, Layout, ModelSpec, OutputSpec, Placement, Resize, TensorView,
};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// How a tensor's lines (`true`: columns of its last dimension, `false`: rows of its first) hold what an object is.
struct Output {
    dims: &'static [usize],
    by_columns: bool,
    /// Written over an object's line from its start: box values or classes.
    object: &'static [f32],
    quiet: f32,
}

const fn rows(dims: &'static [usize], quiet: f32, object: &'static [f32]) -> Output {
    Output { dims, by_columns: false, object, quiet }
}

struct Net {
    name: &'static str,
    family: Family,
    side: u32,
    classes: usize,
    outputs: &'static [Output],
}

const GRID: &[f32] = &[0.5, 0.5, 1.5, 1.5, 0.9, 0.8];
const NANO_SIDES: &[f32] = &[0.0, 0.0, 5.0];

/// coco-ssd, NanoDet-g, YOLOX-nano, YOLOv8n, YOLOv5n, YOLOv10n, RT-DETR, FastestDet.
const NETS: &[Net] = &[
    Net {
        name: "ssd 1917x90",
        family: Family::Ssd,
        side: 300,
        classes: 90,
        outputs: &[rows(&[1917, 90], 0.01, &[0.8]), rows(&[1917, 1, 4], 0.0, &[0.3, 0.3, 0.6, 0.6])],
    },
    Net {
        name: "nanodet 3549x(80+44)",
        family: Family::NanoDet,
        side: 416,
        classes: 80,
        outputs: &[
            rows(&[2704, 80], 0.01, &[0.8]),
            rows(&[676, 80], 0.01, &[0.8]),
            rows(&[169, 80], 0.01, &[0.8]),
            rows(&[2704, 44], 0.0, NANO_SIDES),
            rows(&[676, 44], 0.0, NANO_SIDES),
            rows(&[169, 44], 0.0, NANO_SIDES),
        ],
    },
    Net {
        name: "yolox 3549x85",
        family: Family::Yolox,
        side: 416,
        classes: 80,
        outputs: &[rows(&[3549, 85], 0.01, GRID)],
    },
    Net {
        name: "yolov8 84x8400",
        family: Family::Yolov8,
        side: 640,
        classes: 80,
        outputs: &[Output {
            dims: &[84, 8400],
            by_columns: true,
            object: &[300.0, 300.0, 80.0, 90.0, 0.8],
            quiet: 0.01,
        }],
    },
    Net {
        name: "yolov8 8400x84",
        family: Family::Yolov8,
        side: 640,
        classes: 80,
        outputs: &[rows(&[8400, 84], 0.01, &[300.0, 300.0, 80.0, 90.0, 0.8])],
    },
    Net {
        name: "yolov5 25200x85",
        family: Family::Yolov5,
        side: 640,
        classes: 80,
        outputs: &[rows(&[25200, 85], 0.01, &[300.0, 300.0, 80.0, 90.0, 0.9, 0.8])],
    },
    Net {
        name: "end-to-end 300x6",
        family: Family::EndToEnd,
        side: 640,
        classes: 80,
        outputs: &[rows(&[300, 6], 0.01, &[100.0, 100.0, 300.0, 400.0, 0.8, 3.0])],
    },
    Net {
        name: "detr 300x(80+4)",
        family: Family::Detr,
        side: 640,
        classes: 80,
        outputs: &[rows(&[300, 80], -5.0, &[1.0]), rows(&[300, 4], 0.0, &[0.5, 0.5, 0.1, 0.2])],
    },
    Net {
        name: "fastestdet 85x22x22",
        family: Family::FastestDet,
        side: 352,
        classes: 80,
        outputs: &[Output {
            dims: &[85, 22, 22],
            by_columns: true,
            object: &[0.9, 0.1, 0.1, -1.0, -1.0, 0.9],
            quiet: 0.01,
        }],
    },
];

impl std::fmt::Display for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Net {
    fn detector(&self) -> Detector {
        let spec = ModelSpec {
            name: "bench".into(),
            input: InputSpec {
                name: "images".into(),
                width: self.side,
                height: self.side,
                layout: Layout::Nchw,
                channels: Channels::Rgb,
                resize: Resize::Letterbox,
                pad: 114,
                mean: [0.0; 3],
                std: [1.0; 3],
            },
            output: OutputSpec { family: self.family, names: vec![], score_floor: 0.1, nms_iou: 0.5 },
            labels: (0..self.classes).map(|c| Arc::from(format!("class {c}"))).collect(),
        };
        let shapes: Vec<OutputShape> = self
            .outputs
            .iter()
            .map(|o| {
                let dims: Vec<_> = std::iter::once(1).chain(o.dims.iter().copied()).map(Some).collect();
                OutputShape::whole("output", &dims)
            })
            .collect();
        Detector::new(&spec, &shapes).expect("the shapes above are those of the families")
    }

    fn tensors(&self, objects: usize) -> Vec<Vec<f32>> {
        let tensor = |o: &Output| {
            let size: usize = o.dims.iter().product();
            let columns = size / o.dims[0];
            let lines = if o.by_columns { columns } else { o.dims[0] };
            let mut data = vec![o.quiet; size];
            for object in 0..objects {
                let line = (object * 2 + 1) * lines / (objects * 2);
                for (k, value) in o.object.iter().enumerate() {
                    data[if o.by_columns { k * columns + line } else { line * columns + k }] = *value;
                }
            }
            data
        };
        self.outputs.iter().map(tensor).collect()
    }
}

fn bench(bencher: Bencher<'_, '_>, net: &Net, objects: usize) {
    let mut detector = net.detector();
    let data = net.tensors(objects);
    let views: Vec<TensorView<'_>> =
        net.outputs.iter().zip(&data).map(|(o, data)| TensorView { shape: o.dims, data }).collect();
    let scale = net.side as f32 / 1920.0;
    let place = Placement { scale_x: scale, scale_y: scale, offset_x: 0.0, offset_y: 0.0 };
    let frame = Size { width: 1920, height: 1080 };
    let mut out = Vec::new();
    detector.decode(&views, &place, frame, &mut out);
    assert!(!out.is_empty(), "the objects are seen");
    let bytes: usize = data.iter().map(|d| size_of_val(d.as_slice())).sum();
    bencher.counter(ItemsCount::new(1usize)).counter(BytesCount::new(bytes)).bench_local(|| {
        out.clear();
        detector.decode(divan::black_box(&views), &place, frame, &mut out)
    });
}

/// An ordinary frame.
#[divan::bench(args = NETS)]
fn ten_objects(bencher: Bencher<'_, '_>, net: &Net) {
    bench(bencher, net, 10);
}

/// The worst that suppression can be asked: as many candidates as it takes.
#[divan::bench(args = NETS)]
fn crowd(bencher: Bencher<'_, '_>, net: &Net) {
    bench(bencher, net, 160);
}
