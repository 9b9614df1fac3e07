//! The preprocess keeps its promises, one test each; and agrees with two others: the f64 twin on
//! random pictures, and Pillow on stored ones.

#[path = "preprocess/twin.rs"]
mod twin;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use weir::device::software::preprocess::{ChromaSite, Geometry, Matrix, PixelFormat, Plan, Planes, Range};
use weir::frame::Size;
use weir::model::spec::{Channels, InputSpec, Layout, Resize};

/// Largest error of the fixed point, in RGB units of 0..=255: a growing axis cuts each product of the
/// vertical taps to 1/128 code, and the matrices multiply a code by up to 2.2. Seen: 0.13.
const WORST: f32 = 0.25;
/// The same on average over a picture, which may be of one pixel. Seen: 0.09; on large ones 0.005.
const MEAN: f32 = 0.1;

/// A picture in memory, with garbage between its rows.
#[derive(Clone, Debug)]
struct Picture {
    geometry: Geometry,
    data: [Vec<u8>; 3],
    stride: [usize; 3],
}

impl Picture {
    /// Each sample from `sample(plane, column, row)`, U being plane 1 and V plane 2 whatever the
    /// format; each byte that is no sample is `junk`.
    fn new(
        geometry: Geometry,
        slack: usize,
        junk: u8,
        sample: impl Fn(usize, usize, usize) -> u8,
    ) -> Picture {
        let (width, height) = (geometry.size.width as usize, geometry.size.height as usize);
        let half = (width.div_ceil(2), height.div_ceil(2));
        let plane = |bytes: usize, rows: usize, sample: &dyn Fn(usize, usize) -> u8| {
            let mut data = vec![junk; (bytes + slack) * rows];
            for y in 0..rows {
                for x in 0..bytes {
                    data[y * (bytes + slack) + x] = sample(x, y);
                }
            }
            // A decoder's last row may stop where its samples do.
            data.truncate(((bytes + slack) * rows).saturating_sub(slack));
            data
        };
        let luma = plane(width, height, &|x, y| sample(0, x, y));
        let (second, third, bytes) = match geometry.format {
            PixelFormat::I420 => {
                let of = |p: usize| plane(half.0, half.1, &|x, y| sample(p, x, y));
                (of(1), of(2), half.0)
            }
            PixelFormat::Nv12 => {
                (plane(half.0 * 2, half.1, &|x, y| sample(1 + x % 2, x / 2, y)), Vec::new(), half.0 * 2)
            }
        };
        Picture {
            geometry,
            data: [luma, second, third],
            stride: [width + slack, bytes + slack, bytes + slack],
        }
    }

    fn planes(&self) -> Planes<'_> {
        Planes { data: self.data.each_ref().map(Vec::as_slice), stride: self.stride }
    }

    /// The tensor, in a slot that held NaN before.
    fn tensor(&self, input: &InputSpec) -> Vec<f32> {
        let mut slot = vec![f32::NAN; (3 * input.width * input.height) as usize];
        Plan::new(&self.geometry, input).run(&self.planes(), &mut slot).expect("the picture is whole");
        slot
    }
}

fn geometry(width: u32, height: u32) -> Geometry {
    Geometry {
        size: Size { width, height },
        format: PixelFormat::I420,
        matrix: Matrix::Bt709,
        range: Range::Limited,
        chroma: ChromaSite::Left,
    }
}

fn input(width: u32, height: u32) -> InputSpec {
    InputSpec {
        name: "images".into(),
        width,
        height,
        layout: Layout::Nchw,
        channels: Channels::Rgb,
        resize: Resize::Letterbox,
        pad: 114,
        mean: [0.0; 3],
        std: [1.0; 3],
    }
}

/// A well-mixed byte.
fn hash(seed: u64, plane: usize, x: usize, y: usize) -> u8 {
    let n = seed ^ (plane as u64) << 60 ^ (x as u64) << 30 ^ y as u64;
    (n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 56) as u8
}

prop_compose! {
    fn geometries()(
        width in 1u32..300, height in 1u32..120,
        format in prop::sample::select(vec![PixelFormat::I420, PixelFormat::Nv12]),
        matrix in prop::sample::select(vec![Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020]),
        range in prop::sample::select(vec![Range::Limited, Range::Full]),
        chroma in prop::sample::select(vec![ChromaSite::Left, ChromaSite::Center]),
    ) -> Geometry {
        Geometry { size: Size { width, height }, format, matrix, range, chroma }
    }
}

prop_compose! {
    fn inputs()(
        width in 1u32..70, height in 1u32..40,
        layout in prop::sample::select(vec![Layout::Nchw, Layout::Nhwc]),
        channels in prop::sample::select(vec![Channels::Rgb, Channels::Bgr]),
        resize in prop::sample::select(vec![Resize::Letterbox, Resize::LetterboxTopLeft, Resize::Stretch]),
        pad in any::<u8>(),
        mean in prop::array::uniform3(0f32..200.0),
        std in prop::array::uniform3(1f32..100.0),
    ) -> InputSpec {
        InputSpec { name: "images".into(), width, height, layout, channels, resize, pad, mean, std }
    }
}

/// Value of channel `c` at column `x` and row `y`.
fn at(input: &InputSpec, tensor: &[f32], c: usize, x: usize, y: usize) -> f32 {
    let (width, height) = (input.width as usize, input.height as usize);
    match input.layout {
        Layout::Nchw => tensor[(c * height + y) * width + x],
        Layout::Nhwc => tensor[(y * width + x) * 3 + c],
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_tensor_is_that_of_the_f64_twin(
        geometry in geometries(), input in inputs(), slack in 0usize..40, seed in any::<u64>(),
    ) {
        let picture = Picture::new(geometry, slack, 0xEE, |p, x, y| hash(seed, p, x, y));
        let ours = picture.tensor(&input);
        let placement = Plan::new(&geometry, &input).placement();
        let theirs = twin::tensor(&geometry, &input, placement, &picture.planes());
        let mut total = 0.0;
        for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            let channel = match input.layout {
                Layout::Nchw => i / (input.width * input.height) as usize,
                Layout::Nhwc => i % 3,
            };
            let error = (a - b).abs() * input.std[channel];
            prop_assert!(error <= WORST, "value {i}: {a}, the twin says {b}, {error} apart in RGB");
            total += error;
        }
        let mean = total / ours.len() as f32;
        prop_assert!(mean <= MEAN, "{mean} apart on average");
    }

    #[test]
    fn a_constant_picture_gives_a_constant_picture(
        geometry in geometries(), input in inputs(), (y, u, v) in any::<(u8, u8, u8)>(),
    ) {
        let input = InputSpec { resize: Resize::Stretch, mean: [0.0; 3], std: [1.0; 3], ..input };
        let tensor = Picture::new(geometry, 0, 0, |p, _, _| [y, u, v][p]).tensor(&input);
        for c in 0..3 {
            let first = at(&input, &tensor, c, 0, 0);
            for row in 0..input.height as usize {
                for column in 0..input.width as usize {
                    let value = at(&input, &tensor, c, column, row);
                    prop_assert!((value - first).abs() <= WORST, "channel {c}: {first}, then {value}");
                }
            }
        }
    }

    #[test]
    fn every_value_of_the_slot_is_written(geometry in geometries(), input in inputs()) {
        let tensor = Picture::new(geometry, 3, 0, |p, x, y| hash(7, p, x, y)).tensor(&input);
        prop_assert!(tensor.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn bytes_between_rows_are_never_picture(
        geometry in geometries(), input in inputs(), slack in 1usize..80, seed in any::<u64>(),
    ) {
        let with = |junk| Picture::new(geometry, slack, junk, |p, x, y| hash(seed, p, x, y)).tensor(&input);
        prop_assert_eq!(with(0), with(255));
    }

    #[test]
    fn a_plan_remembers_nothing_of_the_last_picture(geometry in geometries(), input in inputs()) {
        let picture = Picture::new(geometry, 0, 0, |p, x, y| hash(1, p, x, y));
        let other = Picture::new(geometry, 0, 0, |p, x, y| hash(2, p, x, y));
        let mut plan = Plan::new(&geometry, &input);
        let mut slot = vec![0.0; (3 * input.width * input.height) as usize];
        plan.run(&other.planes(), &mut slot).expect("the picture is whole");
        plan.run(&picture.planes(), &mut slot).expect("the picture is whole");
        prop_assert_eq!(slot, picture.tensor(&input));
    }

    #[test]
    fn the_placement_frames_the_picture_exactly(geometry in geometries(), input in inputs()) {
        // White picture, black bars: what is white must be what the placement says.
        let input = InputSpec { pad: 0, mean: [0.0; 3], std: [1.0; 3], ..input };
        let geometry = Geometry { range: Range::Full, ..geometry };
        let tensor = Picture::new(geometry, 0, 0, |p, _, _| [255, 128, 128][p]).tensor(&input);
        let p = Plan::new(&geometry, &input).placement();
        let (right, bottom) = (
            geometry.size.width as f32 * p.scale_x + p.offset_x,
            geometry.size.height as f32 * p.scale_y + p.offset_y,
        );
        for y in 0..input.height as usize {
            for x in 0..input.width as usize {
                let (cx, cy) = (x as f32 + 0.5, y as f32 + 0.5);
                let inside = cx > p.offset_x && cx < right && cy > p.offset_y && cy < bottom;
                let white = at(&input, &tensor, 0, x, y) > 250.0;
                prop_assert_eq!(inside, white, "column {} row {} of {:?}", x, y, p);
            }
        }
    }

    #[test]
    fn a_letterbox_keeps_the_shape_and_touches_two_sides(geometry in geometries(), input in inputs()) {
        prop_assume!(input.resize != Resize::Stretch);
        let p = Plan::new(&geometry, &input).placement();
        let (width, height) = (geometry.size.width as f32 * p.scale_x, geometry.size.height as f32 * p.scale_y);
        // Sides are whole pixels, and never less than one.
        let scale = (input.width as f32 / geometry.size.width as f32)
            .min(input.height as f32 / geometry.size.height as f32);
        for (side, ideal) in [
            (width, geometry.size.width as f32 * scale), (height, geometry.size.height as f32 * scale),
        ] {
            prop_assert!((side - ideal.max(1.0)).abs() <= 0.51, "{} for {}", side, ideal);
        }
        let touches = (width - input.width as f32).abs() < 0.01 || (height - input.height as f32).abs() < 0.01;
        prop_assert!(touches, "{:?}", p);
        let (bar_x, bar_y) = (input.width as f32 - width, input.height as f32 - height);
        let (before_x, before_y) = match input.resize {
            Resize::Letterbox => (bar_x / 2.0, bar_y / 2.0),
            _ => (0.0, 0.0),
        };
        prop_assert!((p.offset_x - before_x).abs() <= 0.51 && (p.offset_y - before_y).abs() <= 0.51, "{:?}", p);
    }

    #[test]
    fn a_plane_that_is_one_byte_short_is_refused(geometry in geometries(), input in inputs(), which in 0usize..3) {
        let mut picture = Picture::new(geometry, 5, 0, |_, _, _| 0);
        prop_assume!(picture.data[which].pop().is_some());
        let mut slot = vec![f32::NAN; (3 * input.width * input.height) as usize];
        let fault = Plan::new(&geometry, &input).run(&picture.planes(), &mut slot).expect_err("a byte is missing");
        prop_assert_eq!(fault.reason, "planes");
        prop_assert!(slot.iter().all(|value| value.is_nan()), "written to although refused");
    }
}

#[test]
fn a_slot_of_another_length_is_refused() {
    let picture = Picture::new(geometry(8, 8), 0, 0, |_, _, _| 0);
    let fault = Plan::new(&picture.geometry, &input(4, 4)).run(&picture.planes(), &mut [0.0; 47]);
    assert_eq!(fault.expect_err("48 values are wanted").reason, "slot");
}

#[test]
fn a_stride_that_overlaps_or_overflows_is_refused() {
    let picture = Picture::new(geometry(8, 8), 0, 0, |_, _, _| 0);
    for stride in [7, usize::MAX / 2] {
        let planes = Planes { stride: [stride, 4, 4], ..picture.planes() };
        let fault = Plan::new(&picture.geometry, &input(4, 4)).run(&planes, &mut [0.0; 48]);
        assert_eq!(fault.expect_err("the stride is wrong").reason, "planes");
    }
}

#[test]
fn a_negative_std_gives_the_negative_picture() {
    let picture = Picture::new(geometry(64, 64), 0, 0, |p, x, y| hash(5, p, x, y));
    let with = |std| picture.tensor(&InputSpec { std: [std; 3], ..input(16, 16) });
    assert_eq!(with(-2.0), with(2.0).iter().map(|value| -value).collect::<Vec<f32>>());
}

#[test]
fn a_picture_without_pixels_is_all_bars() {
    let picture = Picture::new(geometry(0, 0), 0, 0, |_, _, _| 0);
    assert!(picture.tensor(&input(4, 4)).iter().all(|&value| value == 114.0));
}

/// Nothing between two luma samples may beat with the tensor's grid: patterns too fine for it come out
/// as the grey that they are from afar. The outermost pixels are left out: half their triangle is
/// outside the picture, so the first and last source lines weigh more there (as Pillow has it).
#[test]
fn patterns_too_fine_for_the_tensor_come_out_grey() {
    type Pattern = fn(usize, usize) -> bool;
    // What the triangle itself lets through: of lines along one axis 2 · sinc²(2.3) = 2.6 %.
    let patterns: [(&str, Pattern, f32); 4] = [
        ("checkerboard", |x, y| (x + y) % 2 == 0, 2.0),
        ("columns", |x, _| x % 2 == 0, 4.0),
        ("rows", |_, y| y % 2 == 0, 4.0),
        ("2-pixel checkerboard", |x, y| (x / 2 + y / 2) % 2 == 0, 2.0),
    ];
    for (name, pattern, most) in patterns {
        let full = Geometry { range: Range::Full, ..geometry(1920, 1080) };
        let picture = Picture::new(full, 0, 0, |p, x, y| match p {
            0 => u8::from(pattern(x, y)) * 255,
            _ => 128,
        });
        let input = InputSpec { pad: 128, ..input(416, 416) };
        let tensor = picture.tensor(&input);
        let mut worst = 0.0f32;
        for y in 92..324 {
            for x in 1..415 {
                worst = worst.max((tensor[y * 416 + x] - 127.5).abs());
            }
        }
        assert!(worst <= most, "{name}: {worst} away from grey");
    }
}

/// A zone plate sweeps through all frequencies, up to half a cycle a pixel at the corners' edges. Where
/// they are beyond what the tensor can hold there must be next to nothing left: a triangle's response is
/// sinc², at most 4.7 % beyond its first zero.
#[test]
fn a_zone_plate_does_not_alias() {
    let full = Geometry { range: Range::Full, ..geometry(1920, 1080) };
    let zone = |x: usize, y: usize| {
        let (x, y) = (x as f64 - 959.5, y as f64 - 539.5);
        (x * x + y * y) / 1920.0 / 2.0 // cycles; its slope along x is x / 1920: ½ at the edges
    };
    let picture = Picture::new(full, 0, 0, |p, x, y| match p {
        0 => (127.5 + 127.5 * (zone(x, y) * std::f64::consts::TAU).cos()).round() as u8,
        _ => 128,
    });
    let input = input(416, 416);
    let tensor = picture.tensor(&input);
    let (mut inner, mut outer) = (0.0f32, 0.0f32);
    for y in 92..324 {
        for x in 1..415 {
            // Cycles a tensor pixel along each axis; ½ is the most that the grid can hold.
            let scale = 1920.0 / 416.0;
            let (fx, fy) =
                ((x as f64 - 207.5) * scale / 1920.0 * scale, (y as f64 - 207.5) * scale / 1920.0 * scale);
            let away = (tensor[y * 416 + x] - 127.5).abs();
            if fx.hypot(fy) < 0.15 {
                inner = inner.max(away);
            } else if fx.abs().max(fy.abs()) > 0.9 {
                outer = outer.max(away);
            }
        }
    }
    assert!(inner > 90.0, "the picture itself is gone: {inner}");
    assert!(outer <= 6.5, "{outer} of 127.5 left of what the grid cannot hold");
}

/// The pictures of `reference.py`, by the same integer formulas.
fn reference_sample(width: usize, height: usize, plane: usize, x: usize, y: usize) -> u8 {
    let half = (width.div_ceil(2), height.div_ceil(2));
    match plane {
        0 => {
            let (dx, dy) = ((2 * x).abs_diff(width), (2 * y).abs_diff(height));
            let phase = (dx * dx + dy * dy) / 16 % 512;
            (16 + phase.min(511 - phase) * 219 / 255) as u8
        }
        1 => [128, 44, 156, 72, 184, 100, 212, 128][x * 8 / half.0],
        _ => (64 + y * 128 / half.1) as u8,
    }
}

/// Stored by `reference.py`: Pillow (floats, plane by plane, as we do it) and FFmpeg's swscale (all in
/// one, 8 bits out; it stretches the rounded-up half over an odd width). Limits in RGB 0..=255.
#[test]
fn pillow_and_ffmpeg_make_the_same_of_stored_pictures() {
    let input = |size: (u32, u32), resize| InputSpec { resize, ..input(size.0, size.1) };
    let geometry = |(width, height), format, matrix, range, chroma| Geometry {
        size: Size { width, height },
        format,
        matrix,
        range,
        chroma,
    };
    use {ChromaSite::*, Matrix::*, PixelFormat::*, Range::*};
    let (mean, std) = ([103.53, 116.28, 123.675], [57.375, 57.12, 58.395]);
    let cases = [
        ("hd", geometry((1920, 1080), I420, Bt709, Limited, Left), input((416, 416), Resize::Letterbox)),
        (
            "odd",
            geometry((641, 359), Nv12, Bt601, Full, Center),
            InputSpec {
                layout: Layout::Nhwc,
                channels: Channels::Bgr,
                mean,
                std,
                ..input((300, 300), Resize::Stretch)
            },
        ),
        (
            "enlarge",
            geometry((176, 144), Nv12, Bt2020, Limited, Left),
            InputSpec { channels: Channels::Bgr, mean, std, ..input((320, 320), Resize::Letterbox) },
        ),
        (
            "portrait",
            geometry((202, 406), I420, Bt601, Limited, Center),
            InputSpec { layout: Layout::Nhwc, ..input((96, 64), Resize::LetterboxTopLeft) },
        ),
    ];
    let golden = include_str!("preprocess/golden.csv");
    for (name, geometry, input) in cases {
        let (width, height) = (geometry.size.width as usize, geometry.size.height as usize);
        let picture = Picture::new(geometry, 9, 0xEE, |p, x, y| reference_sample(width, height, p, x, y));
        let tensor = picture.tensor(&input);
        // A quarter pixel between two colour bars is worth 70.
        let (swscale, swscale_mean) = if width % 2 == 0 { (5.0, 0.2) } else { (70.0, 0.6) };
        for (reference, worst_allowed, mean_allowed) in
            [("pillow", 0.1, 0.01), ("ffmpeg", swscale, swscale_mean)]
        {
            let (mut worst, mut total, mut count) = (0.0f32, 0.0, 0);
            for line in golden.lines() {
                let fields: Vec<&str> = line.split(',').collect();
                if fields[..2] != [name, reference] {
                    continue;
                }
                let number = |i: usize| fields[i].parse::<f32>().expect("a number");
                for c in 0..3 {
                    let of = if input.channels == Channels::Rgb { c } else { 2 - c };
                    let value = at(&input, &tensor, of, number(2) as usize, number(3) as usize);
                    let error = (value * input.std[of] + input.mean[of] - number(4 + c)).abs();
                    (worst, total, count) = (worst.max(error), total + error, count + 1);
                }
            }
            let mean = total / count as f32;
            println!("{name} {reference}: {worst:.3} at most, {mean:.4} on average, of {count}");
            assert_eq!(count, 450, "{name} {reference}");
            assert!(worst <= worst_allowed && mean <= mean_allowed, "{name} {reference}: {worst}, {mean}");
        }
    }
}
