//! One 1080p picture into a 416 × 416 letterboxed tensor: ours, the way with a resize library for each
//! plane and a conversion after it, and the f64 twin. Compare within one run; `fastest` is the figure
//! that other load disturbs least.

#[path = "../preprocess/twin.rs"]
mod twin;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use weir::device::software::preprocess::{ChromaSite, Geometry, Matrix, PixelFormat, Plan, Planes, Range};
use weir::frame::Size;
use weir::model::spec::{Channels, InputSpec, Layout, Resize};

const SIZE: Size = Size { width: 1920, height: 1080 };
const SIDE: u32 = 416;
const SLOT: usize = (3 * SIDE * SIDE) as usize;

fn main() {
    divan::main();
}

fn geometry(format: PixelFormat) -> Geometry {
    Geometry { size: SIZE, format, matrix: Matrix::Bt709, range: Range::Limited, chroma: ChromaSite::Left }
}

fn input(layout: Layout) -> InputSpec {
    InputSpec {
        name: "images".into(),
        width: SIDE,
        height: SIDE,
        layout,
        channels: Channels::Bgr,
        resize: Resize::Letterbox,
        pad: 114,
        mean: [0.0; 3],
        std: [1.0; 3],
    }
}

/// Y, then U and V (or both interleaved): noise, which no shortcut can make cheap.
fn picture() -> [Vec<u8>; 2] {
    let mut random = fastrand::Rng::with_seed(1);
    [1920 * 1080, 1920 * 540].map(|bytes| {
        let mut plane = vec![0; bytes];
        random.fill(&mut plane);
        plane
    })
}

fn planes(data: &[Vec<u8>; 2], format: PixelFormat) -> Planes<'_> {
    let (u, v) = data[1].split_at(960 * 540);
    match format {
        PixelFormat::I420 => Planes { data: [&data[0], u, v], stride: [1920, 960, 960] },
        PixelFormat::Nv12 => Planes { data: [&data[0], &data[1], &[]], stride: [1920, 1920, 0] },
    }
}

#[divan::bench(args = [(PixelFormat::I420, Layout::Nchw), (PixelFormat::Nv12, Layout::Nchw), (PixelFormat::I420, Layout::Nhwc)])]
fn weir(bencher: Bencher<'_, '_>, (format, layout): (PixelFormat, Layout)) {
    let data = picture();
    let planes = planes(&data, format);
    let mut plan = Plan::new(&geometry(format), &input(layout));
    let mut slot = vec![0.0; SLOT];
    bencher
        .counter(ItemsCount::new(1usize))
        .bench_local(|| plan.run(black_box(&planes), black_box(&mut slot)).expect("the picture is whole"));
}

/// Pictures that no cache holds any more, as after a decoder and an engine.
#[divan::bench(args = [PixelFormat::I420, PixelFormat::Nv12])]
fn weir_from_memory(bencher: Bencher<'_, '_>, format: PixelFormat) {
    let pictures: Vec<_> = std::iter::repeat_with(picture).take(24).collect();
    let mut plan = Plan::new(&geometry(format), &input(Layout::Nchw));
    let mut slot = vec![0.0; SLOT];
    let mut next = pictures.iter().cycle();
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        let data = next.next().expect("it never ends");
        plan.run(black_box(&planes(data, format)), black_box(&mut slot)).expect("the picture is whole");
    });
}

#[divan::bench]
fn resize_each_plane_then_convert(bencher: Bencher<'_, '_>) {
    let data = picture();
    let planes = planes(&data, PixelFormat::I420);
    let (width, height) = (SIDE, SIDE * SIZE.height / SIZE.width);
    let mut resizer = Resizer::new();
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    let mut small = [(); 3].map(|()| Image::new(width, height, PixelType::U8));
    let mut slot = vec![0.0; SLOT];
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        let sizes = [(1920, 1080), (960, 540), (960, 540)];
        for (i, (width, height)) in sizes.into_iter().enumerate() {
            let plane = ImageRef::new(width, height, planes.data[i], PixelType::U8).expect("sizes fit");
            resizer.resize(&plane, &mut small[i], &options).expect("types fit");
        }
        let plane = (SIDE * SIDE) as usize;
        let bar = ((SIDE - height) / 2 * SIDE) as usize..((SIDE + height) / 2 * SIDE) as usize;
        let yuv = || {
            small[0].buffer().iter().zip(small[1].buffer()).zip(small[2].buffer()).map(|((&y, &u), &v)| {
                (1.1644 * (f32::from(y) - 16.0), f32::from(u) - 128.0, f32::from(v) - 128.0)
            })
        };
        for (c, out) in slot.chunks_exact_mut(plane).enumerate() {
            out[..bar.start].fill(114.0);
            out[bar.end..].fill(114.0);
            let out = out[bar.clone()].iter_mut().zip(yuv());
            match c {
                0 => out.for_each(|(o, (y, u, _))| *o = (y + 2.1124 * u).clamp(0.0, 255.0)),
                1 => out.for_each(|(o, (y, u, v))| *o = (y - 0.2132 * u - 0.5329 * v).clamp(0.0, 255.0)),
                _ => out.for_each(|(o, (y, _, v))| *o = (y + 1.7927 * v).clamp(0.0, 255.0)),
            }
        }
        black_box(&mut slot);
    });
}

#[divan::bench(sample_count = 3, sample_size = 1)]
fn f64_twin(bencher: Bencher<'_, '_>) {
    let data = picture();
    let (geometry, input) = (geometry(PixelFormat::I420), input(Layout::Nchw));
    let placement = Plan::new(&geometry, &input).placement();
    let planes = planes(&data, PixelFormat::I420);
    bencher
        .counter(ItemsCount::new(1usize))
        .bench_local(|| twin::tensor(&geometry, &input, placement, black_box(&planes)));
}
