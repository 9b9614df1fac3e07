//! The GPU does what the CPU does: decodes the same pictures, makes the same tensors of them, and finds the same boxes. Needs an
//! NVIDIA GPU, and the streams of `tests/nvidia/streams.sh`; says out loud what it skips.

#![allow(clippy::print_stderr, reason = "what is skipped is said out loud")]

#[path = "nvidia/streams.rs"]
mod streams;
#[path = "preprocess/twin.rs"]
mod twin;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use sha2::{Digest, Sha256};
use streams::Stream;
use weir::device::nvidia::cuvid;
use weir::device::nvidia::decoder::{Decoded, Decoder, Unit};
use weir::device::nvidia::engine::NvidiaEngine;
use weir::device::nvidia::gpu::{Gpu, Layout, Pool, Surface};
use weir::device::nvidia::kernels::Kernels;
use weir::device::nvidia::{Nvidia, Pixels};
use weir::device::software::preprocess::{ChromaSite, Geometry, Matrix, PixelFormat, Plan, Planes, Range};
use weir::device::software::session::{Runtime, Session, load_runtime};
use weir::device::{Device, Engine, Outputs};
use weir::flow::detect::{Anchors, Detector, OutputShape, PICKED_ROW, pick};
use weir::flow::still;
use weir::frame::{Detection, Frame, Size, Stamp};
use weir::model::spec::{Channels, InputSpec, Resize, TensorView};

/// Largest difference of a tensor from the f64 twin's, in RGB units of 0..=255: f32 rounding only.
const WORST: f32 = 0.02;

/// The GPU, for one test at a time: recording a run and asking for memory do not go together.
struct Held {
    gpu: Arc<Gpu>,
    _alone: MutexGuard<'static, ()>,
}

impl std::ops::Deref for Held {
    type Target = Arc<Gpu>;
    fn deref(&self) -> &Arc<Gpu> {
        &self.gpu
    }
}

/// The GPU, opened once; `None` says why out loud.
fn gpu(test: &str) -> Option<Held> {
    static ALONE: Mutex<()> = Mutex::new(());
    static GPU: OnceLock<Result<Arc<Gpu>, String>> = OnceLock::new();
    match GPU.get_or_init(|| Gpu::open(0).map_err(|fault| fault.message)) {
        Ok(gpu) => {
            let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
            Some(Held { gpu: Arc::clone(gpu), _alone })
        }
        Err(why) => {
            eprintln!("skipped {test}: no GPU: {why}");
            None
        }
    }
}

fn stream(test: &str, name: &str) -> Option<Stream> {
    let stream = Stream::open(name);
    if stream.is_none() {
        eprintln!(
            "skipped {test}: no {name} in {}; tests/nvidia/streams.sh makes it",
            streams::folder().display()
        );
    }
    stream
}

/// Everything that comes out of a stream.
fn decode(gpu: &Arc<Gpu>, stream: &Stream) -> Vec<Decoded> {
    decode_into(Pool::new(Arc::clone(gpu), 1000, None), stream)
}

fn decode_into(pool: Arc<Pool>, stream: &Stream) -> Vec<Decoded> {
    let mut decoder = Decoder::with_pool(pool, stream.codec).expect("a decoder");
    let mut out = Vec::new();
    for i in 0..stream.len() {
        decoder.feed(stream.unit(i), &mut out).expect("sound data");
    }
    decoder.drain(&mut out).expect("sound data");
    out
}

/// As ffmpeg hashes it: the rows of Y, then those of U and V interleaved, without gaps.
fn hash(surface: &Surface) -> String {
    let (bytes, layout) = (surface.download().expect("the picture is there"), surface.layout());
    let (width, height) = (layout.geometry.size.width as usize, layout.geometry.size.height as usize);
    let mut hasher = Sha256::new();
    for (offset, rows) in [(0, height), (layout.offset[1], height.div_ceil(2))] {
        for row in 0..rows {
            hasher.update(&bytes[offset + row * layout.pitch[0]..][..width]);
        }
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hashes(decoded: &[Decoded]) -> Vec<String> {
    decoded.iter().map(|d| d.surface.as_ref().map_or("lost".into(), |s| hash(s))).collect()
}

#[test]
fn without_a_gpu_the_words_are_clear() {
    if let Err(fault) = Gpu::open(0) {
        assert!(["no_cuda", "no_gpu", "no_nvdec", "old_driver", "gpu"].contains(&fault.reason), "{fault:?}");
        assert!(!fault.message.is_empty());
        eprintln!("{fault}");
    } else {
        eprintln!("skipped without_a_gpu_the_words_are_clear: there is one");
    }
}

#[test]
fn pictures_are_bit_for_bit_those_of_another_decoder() {
    for name in ["reorder.h264", "slices.h264", "crop.h264", "reorder.h265", "street.h264"] {
        let Some(gpu) = gpu("pictures_are_bit_for_bit") else { return };
        let Some(stream) = stream("pictures_are_bit_for_bit", name) else { return };
        let decoded = decode(&gpu, &stream);
        assert_eq!(hashes(&decoded), stream.hashes, "{name}");
        let times: Vec<i64> = decoded.iter().filter_map(|d| d.pts).collect();
        assert_eq!(
            times,
            (0..stream.len() as i64).collect::<Vec<_>>(),
            "{name}: each has its own time, in order"
        );
    }
}

/// What the network finds in each of these, run as one batch, above a score.
fn boxes_of(
    engine: &mut NvidiaEngine,
    detector: &mut Detector,
    surfaces: &[Arc<Surface>],
    least: f32,
) -> Vec<Vec<Detection>> {
    let places: Vec<_> =
        surfaces.iter().enumerate().map(|(i, s)| engine.load(i, &frame(s)).expect("a slot")).collect();
    let outputs = engine.run(surfaces.len()).expect("the GPU runs it");
    let slots = surfaces.iter().zip(&places).enumerate();
    slots
        .map(|(slot, (surface, place))| {
            let mut out = Vec::new();
            detector.decode(&[outputs.view(0, slot)], place, surface.layout().geometry.size, &mut out);
            out.retain(|d| d.score > least);
            out
        })
        .collect()
}

/// VP9 and AV1 decode exactly, too; where the chip has no decoder for one, it says so before anything is decoded.
#[test]
fn newer_codecs_are_decoded_where_the_chip_can() {
    let test = "newer_codecs_are_decoded";
    for (name, number) in [("vp9.ivf", cuvid::CODEC_VP9), ("av1.ivf", cuvid::CODEC_AV1)] {
        let Some(gpu) = gpu(test) else { return };
        let Some(stream) = stream(test, name) else { continue };
        if gpu.caps(number, 1, 0).expect("an answer").is_supported == 0 {
            let fault = Decoder::new(&gpu, stream.codec, 10).err().expect("it is refused");
            assert_eq!(fault.reason, "unsupported");
            eprintln!("skipped {test}: {name}: {fault}");
            continue;
        }
        let decoded = decode(&gpu, &stream);
        assert_eq!(hashes(&decoded), stream.hashes, "{name}");
        let times: Vec<i64> = decoded.iter().filter_map(|d| d.pts).collect();
        assert_eq!(
            times,
            (0..stream.len() as i64).collect::<Vec<_>>(),
            "{name}: each has its own time, in order"
        );
        eprintln!("{name}: {} pictures, equal bit for bit", decoded.len());
    }
}

/// Needs no GPU: what the streams' reader cuts is what ffmpeg put in.
#[test]
fn ivf_files_are_cut_into_their_frames() {
    let test = "ivf_files_are_cut_into_their_frames";
    let Some(stream) = stream(test, "vp9.ivf") else { return };
    assert_eq!((stream.len(), stream.hashes.len()), (50, 50));
    // The frame marker, two bits, begins each VP9 frame.
    assert!((0..stream.len()).all(|i| stream.bytes(i)[0] >> 6 == 2));
}

#[test]
fn a_stream_without_reordering_gives_each_picture_with_its_unit() {
    let Some(gpu) = gpu("gives_each_picture_with_its_unit") else { return };
    let Some(stream) = stream("gives_each_picture_with_its_unit", "slices.h264") else { return };
    let mut decoder = Decoder::new(&gpu, stream.codec, 100).expect("a decoder");
    for i in 0..stream.len() {
        let mut out = Vec::new();
        decoder.feed(stream.unit(i), &mut out).expect("sound data");
        assert_eq!(out.iter().map(|d| d.pts).collect::<Vec<_>>(), [Some(i as i64)]);
    }
}

#[test]
fn a_picture_split_over_several_units_is_still_one_picture() {
    let Some(gpu) = gpu("a_picture_split_over_several_units") else { return };
    let Some(stream) = stream("a_picture_split_over_several_units", "slices.h264") else { return };
    let mut decoder = Decoder::new(&gpu, stream.codec, 1000).expect("a decoder");
    let mut out = Vec::new();
    for i in 0..stream.len() {
        let bytes = stream.bytes(i);
        let slices: Vec<usize> =
            streams::nals(bytes).into_iter().filter(|at| [1, 5].contains(&(bytes[at + 3] & 31))).collect();
        assert_eq!(slices.len(), 4, "of unit {i}");
        let cuts = [0, slices[1], slices[2], slices[3], bytes.len()];
        for (part, cut) in cuts.windows(2).enumerate() {
            let unit = Unit { data: &bytes[cut[0]..cut[1]], pts: Some(i as i64), starts: part == 0 };
            decoder.feed(unit, &mut out).expect("sound data");
        }
    }
    decoder.drain(&mut out).expect("sound data");
    // The first picture was over before it was known that the sender splits.
    let sound = hashes(&out);
    let right = stream.hashes.iter().skip(1).filter(|hash| sound.contains(hash)).count();
    assert!(
        right + 25 >= stream.hashes.len(),
        "at most one group of pictures is hurt: {right} of {}",
        stream.hashes.len()
    );
}

#[test]
fn a_stream_may_change_its_size() {
    let Some(gpu) = gpu("a_stream_may_change_its_size") else { return };
    let Some(stream) = stream("a_stream_may_change_its_size", "change.h264") else { return };
    let decoded = decode(&gpu, &stream);
    let widths: Vec<u32> = decoded.iter().filter(|d| d.surface.is_some()).map(|d| d.size.width).collect();
    assert_eq!(widths, [vec![640; 25], vec![1280; 50], vec![640; 25]].concat());
}

#[test]
fn ten_bits_and_fields_come_out_as_pictures() {
    for name in ["ten-bit.h265", "interlaced.h264"] {
        let Some(gpu) = gpu("ten_bits_and_fields") else { return };
        let Some(stream) = stream("ten_bits_and_fields", name) else { return };
        let decoded = decode(&gpu, &stream);
        let sound = decoded.iter().filter(|d| d.surface.is_some()).count();
        assert_eq!((sound, decoded[0].size), (25, Size { width: 640, height: 360 }), "{name}");
    }
}

#[test]
fn what_the_chip_cannot_decode_is_told() {
    let Some(gpu) = gpu("what_the_chip_cannot_decode") else { return };
    let Some(stream) = stream("what_the_chip_cannot_decode", "wide-chroma.h264") else { return };
    if gpu.caps(4, 2, 0).expect("an answer").is_supported != 0 {
        eprintln!("skipped what_the_chip_cannot_decode: this chip decodes H.264 4:2:2");
        return;
    }
    let mut decoder = Decoder::new(&gpu, stream.codec, 100).expect("a decoder");
    let fault = (0..stream.len()).find_map(|i| decoder.feed(stream.unit(i), &mut Vec::new()).err());
    let fault = fault.expect("it is told");
    assert_eq!(fault.reason, "unsupported");
    eprintln!("{fault}");
}

#[test]
fn damage_costs_pictures_and_nothing_else() {
    for name in ["reorder.h264", "slices.h264", "reorder.h265", "vp9.ivf"] {
        let Some(gpu) = gpu("damage_costs_pictures") else { return };
        let Some(stream) = stream("damage_costs_pictures", name) else { return };
        let mut random = fastrand::Rng::with_seed(7);
        let mut decoder = Decoder::new(&gpu, stream.codec, 1000).expect("a decoder");
        let mut out = Vec::new();
        for round in 0..8 {
            for i in 0..stream.len() {
                let mut bytes = stream.bytes(i).to_vec();
                match random.u32(0..6) {
                    0 => (0..8).for_each(|_| {
                        let at = random.usize(0..bytes.len());
                        bytes[at] ^= 1 << random.u32(0..8);
                    }),
                    1 => bytes.truncate(random.usize(0..bytes.len())),
                    2 => bytes.clear(),
                    3 => random.fill(&mut bytes),
                    _ => {}
                }
                // Parameter sets that ask for what the chip has not are told as such; that is no crash.
                let _ = decoder.feed(Unit { data: &bytes, ..stream.unit(i) }, &mut out);
            }
            assert!(out.len() <= (round + 1) * stream.len() * 2, "no more than went in, fields counted");
        }
        out.clear();
        decoder.drain(&mut Vec::new()).expect("it lives");
        for i in 0..stream.len() {
            decoder.feed(stream.unit(i), &mut out).expect("sound data");
        }
        decoder.drain(&mut out).expect("it lives");
        assert_eq!(hashes(&out), stream.hashes, "{name}: what comes after is whole again");
    }
}

#[test]
fn pictures_that_nobody_takes_do_not_stop_the_decoder() {
    let Some(gpu) = gpu("pictures_that_nobody_takes") else { return };
    let Some(stream) = stream("pictures_that_nobody_takes", "slices.h264") else { return };
    let mut decoder = Decoder::new(&gpu, stream.codec, 5).expect("a decoder");
    let mut held = Vec::new();
    for i in 0..stream.len() {
        decoder.feed(stream.unit(i), &mut held).expect("sound data");
    }
    assert_eq!(held.iter().filter(|d| d.surface.is_some()).count(), 5, "the bound");
    assert_eq!(held.len(), stream.len(), "the others are told as lost");
    held.clear();
    decoder.feed(stream.unit(0), &mut held).expect("sound data");
    assert!(held[0].surface.is_some(), "room again");
}

/// A picture with noise, of any geometry, and the same on the GPU.
fn noise(pool: &Arc<Pool>, geometry: Geometry, random: &mut fastrand::Rng) -> (Vec<u8>, Layout, Surface) {
    let (width, height) = (geometry.size.width as usize, geometry.size.height as usize);
    let (half, rows) = (width.div_ceil(2), height.div_ceil(2));
    let luma = width * height;
    let layout = match geometry.format {
        PixelFormat::I420 => Layout { geometry, offset: [0, luma, luma + half * rows], pitch: [width, half] },
        PixelFormat::Nv12 => Layout { geometry, offset: [0, luma, luma + 1], pitch: [width, half * 2] },
    };
    let mut bytes = vec![0; luma + 2 * half * rows];
    random.fill(&mut bytes);
    let mut surface = pool.take(bytes.len(), layout).expect("room");
    surface.upload(&bytes).expect("room");
    (bytes, layout, surface)
}

fn planes<'a>(bytes: &'a [u8], layout: &Layout) -> Planes<'a> {
    let [y, u, v] = layout.offset;
    let pitch = layout.pitch;
    Planes { data: [&bytes[y..], &bytes[u..], &bytes[v..]], stride: [pitch[0], pitch[1], pitch[1]] }
}

#[test]
fn tensors_are_those_of_the_twin() {
    let Some(gpu) = gpu("tensors_are_those_of_the_twin") else { return };
    let kernels = Kernels::compile(&gpu).expect("NVRTC is here");
    let pool = Pool::new(Arc::clone(&*gpu), 100, None);
    let mut random = fastrand::Rng::with_seed(3);
    let mut worst = 0.0f32;
    let pick = |random: &mut fastrand::Rng, most: u32| random.u32(1..most);
    for round in 0..200 {
        let large = round % 20 == 0;
        let input = InputSpec {
            name: String::new(),
            width: pick(&mut random, 90),
            height: pick(&mut random, 90),
            layout: if random.bool() {
                weir::model::spec::Layout::Nchw
            } else {
                weir::model::spec::Layout::Nhwc
            },
            channels: if random.bool() { Channels::Rgb } else { Channels::Bgr },
            resize: [Resize::Letterbox, Resize::LetterboxTopLeft, Resize::Stretch][random.usize(0..3)],
            pad: 114,
            mean: [0.0; 3],
            std: [1.0; 3],
        };
        // A batch of several kinds.
        let pictures: Vec<_> = (0..3)
            .map(|_| {
                let most = if large { 2000 } else { 200 };
                let geometry = Geometry {
                    size: Size { width: pick(&mut random, most), height: pick(&mut random, most) },
                    format: if random.bool() { PixelFormat::I420 } else { PixelFormat::Nv12 },
                    matrix: [Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020][random.usize(0..3)],
                    range: if random.bool() { Range::Full } else { Range::Limited },
                    chroma: if random.bool() { ChromaSite::Left } else { ChromaSite::Center },
                };
                noise(&pool, geometry, &mut random)
            })
            .collect();
        let (hosts, surfaces): (Vec<_>, Vec<_>) =
            pictures.into_iter().map(|(bytes, layout, surface)| ((bytes, layout), Arc::new(surface))).unzip();
        let prepared = |half| kernels.prepared(&gpu, &surfaces, &input, half).expect("the GPU works");
        let ((tensor, places), (halves, _)) = (prepared(false), prepared(true));
        let slot = 3 * (input.width * input.height) as usize;
        for (i, (bytes, layout)) in hosts.iter().enumerate() {
            let expected = twin::tensor(&layout.geometry, &input, places[i], &planes(bytes, layout));
            let got = tensor[i * slot..][..slot].iter().zip(&halves[i * slot..][..slot]);
            for ((got, half), wanted) in got.zip(&expected) {
                let off = (got - wanted).abs();
                assert!(off <= WORST, "{got} for {wanted}: {:?} {input:?}", layout.geometry);
                worst = worst.max(off);
                // binary16 has 11 bits, rounded to the nearest.
                let rounding = got.abs().max(6.2e-5) / 2048.0;
                assert!((half - got).abs() <= rounding, "{half} for {got} in 16 bits: {:?}", layout.geometry);
            }
        }
    }
    eprintln!("largest difference from the twin: {worst} of 255");
}

/// The kernel picks, in some order, what its scalar twin picks: the same anchors, classes and boxes, and scores to the last bit.
#[test]
fn what_is_picked_is_what_the_twin_picks() {
    let Some(gpu) = gpu("what_is_picked_is_what_the_twin_picks") else { return };
    let kernels = Kernels::compile(&gpu).expect("NVRTC is here");
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..80 {
        let (by_rows, objectness) = (round % 2 == 0, round % 4 < 2);
        let classes = [1, 2, 3, 80][random.usize(0..4)];
        let count = [1, 255, 256, 257, 3549, 8400][random.usize(0..6)];
        let anchors =
            Anchors { values: classes + if objectness { 5 } else { 4 }, count, by_rows, objectness };
        let mut named: Vec<bool> = (0..classes).map(|_| random.u8(..) > 50).collect();
        named[0] = true;
        let mut data: Vec<f32> = (0..anchors.values * count).map(|_| random.f32().powi(6)).collect();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.25, 0.25] {
            let at = random.usize(..data.len());
            data[at] = bad;
        }
        let wanted = pick(&data, &anchors, &named, 0.25);
        let got = kernels.picked(&gpu, &data, anchors, &named, 0.25).expect("the GPU works");
        // NaN is not itself, and its bits are each machine's own.
        let shown = |rows: &[f32]| {
            let mut rows: Vec<Vec<String>> = rows
                .chunks_exact(PICKED_ROW)
                .map(|row| {
                    row.iter()
                        .map(|v| if v.is_nan() { "NaN".into() } else { format!("{:08x}", v.to_bits()) })
                        .collect()
                })
                .collect();
            rows.sort();
            rows
        };
        assert_eq!(shown(&got), shown(&wanted), "{anchors:?}");
        assert!(classes > 1 || count < 300 || !wanted.is_empty(), "something is there to be picked");
    }
}

/// What the motion gate compares, computed behind the decoder's copy, is what the CPU computes of the same picture.
#[test]
fn the_grid_of_the_motion_gate_is_that_of_the_cpu() {
    let test = "the_grid_of_the_motion_gate_is_that_of_the_cpu";
    let Some(gpu) = gpu(test) else { return };
    let kernels = Arc::new(Kernels::compile(&gpu).expect("NVRTC is here"));
    let grid_of = |surface: &Surface| {
        let host = surface.download().expect("it is there");
        let Layout { geometry, offset, pitch } = *surface.layout();
        let (width, height) = (geometry.size.width as usize, geometry.size.height as usize);
        still::grid(&host[offset[0]..], width, height, pitch[0])
    };
    for name in ["street.h264", "crop.h264", "slices.h264"] {
        let Some(stream) = stream(test, name) else { return };
        let pool = Pool::new(Arc::clone(&*gpu), 1000, Some(Arc::clone(&kernels)));
        let surfaces: Vec<_> = decode_into(pool, &stream).into_iter().filter_map(|d| d.surface).collect();
        let mut grids: Vec<_> = surfaces
            .iter()
            .map(|surface| {
                let grid = surface.grid().expect("it has one");
                assert_eq!(Some(grid), grid_of(surface), "{name}");
                grid
            })
            .collect();
        grids.dedup();
        assert!(grids.len() > 10, "{name}: its pictures differ");
    }
    // Pictures that come from the CPU, of any size: the smallest have none.
    let pool = Pool::new(Arc::clone(&*gpu), 10, Some(kernels));
    let mut random = fastrand::Rng::with_seed(5);
    for size in [(64, 36), (63, 36), (64, 35), (65, 37), (1919, 1079), (640, 480)] {
        let geometry = Geometry {
            size: Size { width: size.0, height: size.1 },
            format: PixelFormat::I420,
            matrix: Matrix::Bt709,
            range: Range::Limited,
            chroma: ChromaSite::Left,
        };
        let (_, _, surface) = noise(&pool, geometry, &mut random);
        assert_eq!(surface.grid(), grid_of(&surface), "{size:?}");
        assert_eq!(surface.grid().is_some(), size.0 >= 64 && size.1 >= 36, "{size:?}");
    }
}

/// Model and manifest; `None` where they are not.
fn model(test: &str, name: &str) -> Option<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = [
        std::env::var_os("WEIR_NVIDIA_MODELS").map(PathBuf::from).unwrap_or_default(),
        root.join("../shared/data/models"),
        weir::config::cache_dir().join("models"),
    ]
    .into_iter()
    .map(|folder| folder.join(format!("{name}.onnx")))
    .find(|file| file.is_file());
    let manifest = [
        file.clone().unwrap_or_default().with_extension("toml"),
        root.join("models").join(name.replace('_', "-")).join("model.toml"),
    ]
    .into_iter()
    .find(|file| file.is_file());
    if file.is_none() || manifest.is_none() {
        eprintln!("skipped {test}: no {name}.onnx and model.toml");
    }
    file.zip(manifest)
}

/// ONNX Runtime, which a process can have only once.
fn runtime() -> Arc<Runtime> {
    static RUNTIME: OnceLock<Arc<Runtime>> = OnceLock::new();
    Arc::clone(RUNTIME.get_or_init(|| Arc::new(load_runtime(None).expect("onnxruntime-gpu is installed"))))
}

fn device(gpu: &Arc<Gpu>, file: PathBuf, manifest: PathBuf, most: usize) -> Nvidia {
    let model = weir::config::Model { file, manifest, classes: Vec::new() };
    Nvidia::on(Arc::clone(gpu), runtime(), &model, most).expect("the model opens on the GPU")
}

fn frame(surface: &Arc<Surface>) -> Frame<Pixels> {
    let tick = weir::clock::Tick::default();
    let stamp = Stamp { arrived: tick, decoded: tick, pts: None, wall: weir::clock::Wall::default() };
    Frame { stamp, size: surface.layout().geometry.size, pixels: Pixels::new(Arc::clone(surface)) }
}

/// The GPU's boxes against those of ONNX Runtime on the CPU, fed by the CPU's preprocess, on the same decoded pictures.
#[test]
fn boxes_are_those_of_the_cpu() {
    let test = "boxes_are_those_of_the_cpu";
    for name in ["yolox_nano", "coco-ssd", "yolo11n"] {
        let Some(gpu) = gpu(test) else { return };
        let Some(stream) = stream(test, "street.h264") else { return };
        let Some((file, manifest)) = model(test, name) else { continue };
        let bytes = std::fs::read(&file).expect("just seen");
        let device = device(&gpu, file, manifest, 8);
        let spec = Arc::clone(device.spec());
        let mut engine = device.engine().expect("it opened before");
        let mut cpu = Session::open(&runtime(), &spec.name, &bytes, 0).expect("the CPU runs it");
        let mut gpu_detector = Detector::new(&spec, &engine.outputs()).expect("the family fits");
        let shapes: Vec<_> = cpu.outputs().iter().map(|o| OutputShape::whole(&o.name, &o.dims)).collect();
        let mut cpu_detector = Detector::new(&spec, &shapes).expect("the family fits");
        let surfaces: Vec<Arc<Surface>> =
            decode(&gpu, &stream).into_iter().filter_map(|d| d.surface).step_by(5).collect();
        let (mut all, mut same, mut extra) = (0, 0, 0);
        let batch = engine.ladder().last().copied().unwrap_or(1);
        for surfaces in surfaces.chunks(batch) {
            let places: Vec<_> = surfaces
                .iter()
                .enumerate()
                .map(|(i, s)| engine.load(i, &frame(s)).expect("a slot"))
                .collect();
            let outputs = engine.run(surfaces.len()).expect("the GPU runs it");
            for (slot, surface) in surfaces.iter().enumerate() {
                let size = surface.layout().geometry.size;
                let views: Vec<TensorView<'_>> =
                    (0..outputs.count()).map(|k| outputs.view(k, slot)).collect();
                let mut on_gpu: Vec<Detection> = Vec::new();
                let report = gpu_detector.decode(&views, &places[slot], size, &mut on_gpu);
                assert_eq!(report, Default::default(), "{name}");
                let host = surface.download().expect("it is there");
                let mut plan = Plan::new(&surface.layout().geometry, &spec.input);
                let (w, h) = (spec.input.width as usize, spec.input.height as usize);
                let mut tensor = vec![0.0; 3 * w * h];
                plan.run(&planes(&host, surface.layout()), &mut tensor).expect("a whole picture");
                let dims = match spec.input.layout {
                    weir::model::spec::Layout::Nchw => [1, 3, h, w],
                    weir::model::spec::Layout::Nhwc => [1, h, w, 3],
                };
                let outputs = cpu.run(&spec.input.name, &dims, &tensor).expect("the CPU runs it");
                let views: Vec<TensorView<'_>> = (0..outputs.len()).map(|k| outputs.view(k, 0)).collect();
                let mut on_cpu = Vec::new();
                cpu_detector.decode(&views, &plan.placement(), size, &mut on_cpu);
                // Near the floor either side may have one that the other has not.
                on_cpu.retain(|d| d.score >= spec.output.score_floor + 0.05);
                let matches = |d: &Detection, other: &[Detection]| {
                    other.iter().any(|o| o.class == d.class && o.bbox.iou(&d.bbox) >= 0.9)
                };
                all += on_cpu.len();
                same += on_cpu.iter().filter(|d| matches(d, &on_gpu)).count();
                extra += on_gpu
                    .iter()
                    .filter(|d| d.score >= 0.3 && !on_cpu.iter().any(|o| o.bbox.iou(&d.bbox) > 0.5))
                    .count();
            }
        }
        eprintln!(
            "{name}: {same} of {all} boxes of the CPU at IoU 0.9, {extra} strong ones that the CPU has not; sifted: {}",
            engine.sifts()
        );
        assert!(all > 20, "{name} sees people: {all}");
        assert!(same * 100 >= all * 99 && extra * 100 <= all, "{name}");
    }
}

#[test]
fn a_batch_gives_what_single_pictures_give() {
    let test = "a_batch_gives_what_single_pictures_give";
    let Some(gpu) = gpu(test) else { return };
    let Some(stream) = stream(test, "street.h264") else { return };
    let Some((file, manifest)) = model(test, "yolo11n") else { return };
    let device = device(&gpu, file, manifest, 8);
    let mut engine = device.engine().expect("it opened before");
    let mut detector = Detector::new(device.spec(), &engine.outputs()).expect("the family fits");
    let surfaces: Vec<Arc<Surface>> =
        decode(&gpu, &stream).into_iter().filter_map(|d| d.surface).take(7).collect();
    let mut boxes = |surfaces: &[Arc<Surface>]| -> Vec<Vec<Detection>> {
        boxes_of(&mut engine, &mut detector, surfaces, 0.3)
    };
    let together = boxes(&surfaces);
    for (surface, together) in surfaces.iter().zip(&together) {
        let alone = boxes(std::slice::from_ref(surface)).remove(0);
        let close = |d: &Detection, other: &[Detection]| other.iter().any(|o| o.bbox.iou(&d.bbox) > 0.9);
        let missing = alone.iter().filter(|d| d.score > 0.35 && !close(d, together)).count();
        assert_eq!(missing, 0, "alone {alone:?}, together {together:?}");
        assert!(!alone.is_empty());
    }
}

/// Each GPU has a context, kernels and a session of its own: the second decodes and finds what the first does, at the same time.
#[test]
fn another_gpu_gives_what_the_first_gives() {
    let test = "another_gpu_gives_what_the_first_gives";
    let Some(first) = gpu(test) else { return };
    if weir::device::nvidia::gpu::count().expect("they can be counted") < 2 {
        return eprintln!("skipped {test}: there is one GPU");
    }
    let Some(stream) = stream(test, "street.h264") else { return };
    let Some((file, manifest)) = model(test, "yolo11n") else { return };
    let second = Gpu::open(1).expect("it was counted");
    assert_eq!((first.ordinal(), second.ordinal()), (0, 1));
    let boxes = |gpu: &Arc<Gpu>| -> Vec<Vec<Detection>> {
        let device = device(gpu, file.clone(), manifest.clone(), 8);
        assert_eq!(
            (device.ordinal(), device.report().map(|r| r.gpu)),
            (Some(gpu.ordinal()), Some(gpu.ordinal()))
        );
        let mut engine = device.engine().expect("it opened before");
        let mut detector = Detector::new(device.spec(), &engine.outputs()).expect("the family fits");
        let decoded = decode(gpu, &stream);
        assert_eq!(hashes(&decoded), stream.hashes, "GPU {}", gpu.ordinal());
        let surfaces: Vec<Arc<Surface>> = decoded.into_iter().filter_map(|d| d.surface).take(8).collect();
        boxes_of(&mut engine, &mut detector, &surfaces, 0.35)
    };
    // The second one first: it must not lean on what the first has made.
    let (there, here) = (boxes(&second), boxes(&first));
    for (there, here) in there.iter().zip(&here) {
        let close = |d: &Detection| here.iter().any(|o| o.class == d.class && o.bbox.iou(&d.bbox) > 0.99);
        assert!(
            !there.is_empty() && there.len() == here.len() && there.iter().all(close),
            "{there:?} {here:?}"
        );
    }
}
