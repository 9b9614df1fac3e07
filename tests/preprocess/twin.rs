//! The preprocess told again the slow way: one tensor pixel after the other, from the definition, in
//! f64, with no table, no fixed point and no separable passes.

use weir::device::software::preprocess::{ChromaSite, Geometry, Matrix, PixelFormat, Planes, Range};
use weir::model::spec::{Channels, InputSpec, Layout, Placement};

/// The whole tensor of one picture, given where it lies.
pub fn tensor(geometry: &Geometry, input: &InputSpec, at: Placement, planes: &Planes<'_>) -> Vec<f32> {
    let (width, height) = (input.width as usize, input.height as usize);
    let source = (f64::from(geometry.size.width), f64::from(geometry.size.height));
    let (left, top) = (f64::from(at.offset_x), f64::from(at.offset_y));
    // The picture covers whole tensor pixels: undo the rounding of the f32 scales.
    let (right, bottom) =
        (left + (source.0 * f64::from(at.scale_x)).round(), top + (source.1 * f64::from(at.scale_y)).round());
    let step = (source.0 / (right - left), source.1 / (bottom - top));
    let mut out = vec![f32::NAN; 3 * width * height];
    for y in 0..height {
        for x in 0..width {
            let (cx, cy) = (x as f64 + 0.5, y as f64 + 0.5);
            let inside = cx > left && cx < right && cy > top && cy < bottom;
            let rgb = if inside {
                let (px, py) = ((cx - left) * step.0, (cy - top) * step.1);
                to_rgb(geometry, yuv(geometry, planes, (px, py), step))
            } else {
                [f64::from(input.pad); 3]
            };
            for c in 0..3 {
                let value = if input.channels == Channels::Rgb { rgb[c] } else { rgb[2 - c] };
                let normal = (value - f64::from(input.mean[c])) / f64::from(input.std[c]);
                let place = match input.layout {
                    Layout::Nchw => (c * height + y) * width + x,
                    Layout::Nhwc => (y * width + x) * 3 + c,
                };
                out[place] = normal as f32;
            }
        }
    }
    out
}

/// Y, U and V around a point of the picture, in luma pixels from its top left corner.
fn yuv(geometry: &Geometry, planes: &Planes<'_>, at: (f64, f64), step: (f64, f64)) -> [f64; 3] {
    let size = (geometry.size.width as usize, geometry.size.height as usize);
    let half = (size.0.div_ceil(2), size.1.div_ceil(2));
    let column = match geometry.chroma {
        ChromaSite::Center => at.0 / 2.0,
        ChromaSite::Left => (at.0 - 0.5) / 2.0 + 0.5,
    };
    let (chroma, half_step) = ((column, at.1 / 2.0), (step.0 / 2.0, step.1 / 2.0));
    let luma = weighted(size, at, step, |x, y| planes.data[0][y * planes.stride[0] + x]);
    let of = |which: usize| {
        weighted(half, chroma, half_step, |x, y| match geometry.format {
            PixelFormat::I420 => planes.data[which][y * planes.stride[which] + x],
            PixelFormat::Nv12 => planes.data[1][y * planes.stride[1] + 2 * x + which - 1],
        })
    };
    [luma, of(1), of(2)]
}

/// Weighted mean of the samples whose centres are nearer than the triangle's radius.
fn weighted(
    size: (usize, usize),
    at: (f64, f64),
    step: (f64, f64),
    sample: impl Fn(usize, usize) -> u8,
) -> f64 {
    let near = |n: usize, at: f64, step: f64| {
        let radius = step.max(1.0);
        let from = (at - radius - 1.0).max(0.0) as usize;
        let to = ((at + radius + 1.0) as usize).min(n);
        (from..to).map(move |j| (j, 1.0 - (j as f64 + 0.5 - at).abs() / radius)).filter(|&(_, w)| w > 0.0)
    };
    let (mut sum, mut total) = (0.0, 0.0);
    for (y, wy) in near(size.1, at.1, step.1) {
        for (x, wx) in near(size.0, at.0, step.0) {
            sum += wx * wy * f64::from(sample(x, y));
            total += wx * wy;
        }
    }
    sum / total
}

fn to_rgb(geometry: &Geometry, [y, u, v]: [f64; 3]) -> [f64; 3] {
    let (kr, kb) = match geometry.matrix {
        Matrix::Bt601 => (0.299, 0.114),
        Matrix::Bt709 => (0.2126, 0.0722),
        Matrix::Bt2020 => (0.2627, 0.0593),
    };
    let (y, cb, cr) = match geometry.range {
        Range::Limited => ((y - 16.0) / 219.0, (u - 128.0) / 224.0, (v - 128.0) / 224.0),
        Range::Full => (y / 255.0, (u - 128.0) / 255.0, (v - 128.0) / 255.0),
    };
    let r = y + 2.0 * (1.0 - kr) * cr;
    let b = y + 2.0 * (1.0 - kb) * cb;
    let g = (y - kr * r - kb * b) / (1.0 - kr - kb);
    [r, g, b].map(|value| (value * 255.0).clamp(0.0, 255.0))
}
