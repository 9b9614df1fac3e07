//! Paints a [`DrawList`] on a [`Canvas`], straight in Y, U and V. The cost is that of the pixels that are painted.

use super::text::{Placed, Type};
use super::{Canvas, Place};
use crate::config::{Hide, Style};
use crate::flow::draw::{self, BLACK, Corner, Cover, DrawList, Mark, Rgb};
use crate::frame::BBox;

/// How opaque a label's plate is, 0..=255.
const PLATE: u8 = 205;
/// The dark rim beside a box's line, which shows it on a background of its own colour.
const RIM: u8 = 150;
/// A blurred region is so many squares high or wide, whichever is less: nobody is recognised in five.
const SQUARES: i32 = 5;
/// The smallest square of a blurred region.
const LEAST_SQUARE: i32 = 8;

/// The thinnest line, and the smallest letters that can be read, in pixels.
const LEAST_LINE: f32 = 2.0;
const LEAST_TEXT: f32 = 13.0;

/// Paints. Keeps the letters that it has drawn.
pub struct Painter {
    fonts: Type,
    style: Style,
}

impl Default for Painter {
    fn default() -> Self {
        Painter::new(Style::default())
    }
}

/// A line of text, measured.
struct Line {
    glyphs: Vec<Placed>,
    width: i32,
    height: i32,
    margin: i32,
}

/// A rectangle of pixels; right and bottom are not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    left: i32,
    top: i32,
    right: i32,
    bottom: i32,
}

impl Area {
    fn within(self, outer: Area) -> Area {
        Area {
            left: self.left.max(outer.left),
            top: self.top.max(outer.top),
            right: self.right.min(outer.right),
            bottom: self.bottom.min(outer.bottom),
        }
    }

    fn bbox(self) -> BBox {
        let (x, y) = (self.left as f32, self.top as f32);
        BBox { x, y, w: self.right as f32 - x, h: self.bottom as f32 - y }
    }

    fn is_empty(self) -> bool {
        self.left >= self.right || self.top >= self.bottom
    }

    fn has(self, x: i32, y: i32) -> bool {
        (self.left..self.right).contains(&x) && (self.top..self.bottom).contains(&y)
    }
}

impl Painter {
    /// Makes unreadable what nobody may see.
    pub fn cover(&self, list: &DrawList, canvas: &mut Canvas) {
        let (x, y) = scale(list, canvas);
        for Cover { polygon, how } in &list.covers {
            let corners: Vec<[f32; 2]> = polygon.iter().map(|at| [at[0] * x, at[1] * y]).collect();
            canvas.hide(&corners, *how);
        }
    }

    /// Paints boxes, trails and labels.
    pub fn mark(&mut self, list: &DrawList, canvas: &mut Canvas) {
        let (x, y) = scale(list, canvas);
        let scaled = |b: &BBox| BBox { x: b.x * x, y: b.y * y, w: b.w * x, h: b.h * y };
        let line = (canvas.size.height as f32 * self.style.line / 1000.0).round().max(LEAST_LINE) as i32;
        let mut tags = Vec::new();
        for mark in &list.marks {
            match mark {
                Mark::Outline { bbox, colour } => canvas.outline(&scaled(bbox), line, *colour),
                Mark::Corners { bbox, colour } => canvas.corners(&scaled(bbox), line, *colour),
                Mark::Trail { points, colour } => {
                    let points: Vec<[f32; 2]> = points.iter().map(|at| [at[0] * x, at[1] * y]).collect();
                    canvas.trail(&points, line as f32, *colour);
                }
                Mark::Tag { bbox, text, plate } => {
                    tags.push((scaled(bbox), self.measure(canvas, text), *plate))
                }
                Mark::Label { .. } => {}
            }
        }
        let mut taken = Vec::new();
        for mark in list.marks.iter().chain(&list.legend) {
            if let Mark::Label { at, corner, text, plate } = mark {
                let line = self.measure(canvas, text);
                let left =
                    (at[0] * x).round() as i32 - if *corner == Corner::TopRight { line.width } else { 0 };
                taken.push(canvas.text(&line, [left, (at[1] * y).round() as i32], *plate).bbox());
            }
        }
        let whole = canvas.area().bbox();
        let boxes: Vec<BBox> = tags.iter().map(|(bbox, ..)| *bbox).collect();
        let plates: Vec<[f32; 2]> =
            tags.iter().map(|(_, line, _)| [line.width as f32, line.height as f32]).collect();
        let places = draw::place(&boxes, &plates, [whole.w, whole.h], &taken);
        for (place, (_, line, plate)) in places.iter().zip(&tags) {
            if let Some([x, y]) = place {
                canvas.text(line, [x.round() as i32, y.round() as i32], *plate);
            }
        }
    }

    /// Paints in this style.
    pub fn new(style: Style) -> Painter {
        Painter { fonts: Type::new(), style }
    }

    fn measure(&mut self, canvas: &Canvas, text: &str) -> Line {
        let pixels = (canvas.size.height as f32 * self.style.text / 1000.0).round().max(LEAST_TEXT) as u32;
        let (glyphs, wide) = self.fonts.set(text, pixels);
        let margin = pixels as i32 / 4;
        Line { glyphs, width: wide + 2 * margin, height: pixels as i32 + margin, margin }
    }
}

fn scale(list: &DrawList, canvas: &Canvas) -> (f32, f32) {
    let part = |canvas: u32, list: u32| canvas as f32 / list.max(1) as f32;
    (part(canvas.size.width, list.size.width), part(canvas.size.height, list.size.height))
}

#[inline]
fn mix(to: &mut u8, code: u8, cover: u32) {
    let mixed = u32::from(*to) * (255 - cover) + u32::from(code) * cover;
    *to = ((mixed + 127) / 255) as u8;
}

impl Canvas {
    fn area(&self) -> Area {
        Area { left: 0, top: 0, right: self.size.width as i32, bottom: self.size.height as i32 }
    }

    /// Mixes a colour in; `cover` says how much of it a pixel gets, 0..=255. A chroma sample gets the mean of its four.
    fn blend(&mut self, area: Area, colour: Rgb, cover: impl Fn(i32, i32) -> u8) {
        let area = area.within(self.area());
        if area.is_empty() {
            return;
        }
        let [y_code, u_code, v_code] = self.colour.yuv(colour);
        let [(luma, y_place), (cb, u_place), (cr, _)] = self.planes_mut();
        for y in area.top..area.bottom {
            let row = &mut luma[y as usize * y_place.stride..];
            for x in area.left..area.right {
                mix(&mut row[x as usize], y_code, u32::from(cover(x, y)));
            }
        }
        for y in area.top / 2..=(area.bottom - 1) / 2 {
            for x in area.left / 2..=(area.right - 1) / 2 {
                let four = [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(dx, dy)| {
                    let (x, y) = (2 * x + dx, 2 * y + dy);
                    if area.has(x, y) { u32::from(cover(x, y)) } else { 0 }
                });
                let mean = four.iter().sum::<u32>() / 4;
                let at = y as usize * u_place.stride + x as usize;
                mix(&mut cb[at], u_code, mean);
                mix(&mut cr[at], v_code, mean);
            }
        }
    }

    /// A line of text on a plate, moved into the picture; returns where the plate is.
    fn text(&mut self, line: &Line, [left, top]: [i32; 2], plate: Rgb) -> Area {
        let whole = self.area();
        let left = left.min(whole.right - line.width).max(0);
        let top = top.min(whole.bottom - line.height).max(0);
        let area = Area { left, top, right: left + line.width, bottom: top + line.height };
        self.blend(area, plate, |_, _| PLATE);
        let ink = plate.ink();
        for (dx, dy, glyph) in line.glyphs.iter().filter(|(_, _, glyph)| glyph.width > 0) {
            let (left, top) = (left + line.margin + dx, top + line.margin / 2 + dy);
            let rows = glyph.cover.len() as i32 / glyph.width;
            let area = Area { left, top, right: left + glyph.width, bottom: top + rows };
            self.blend(area, ink, |x, y| glyph.cover[((y - top) * glyph.width + x - left) as usize]);
        }
        area
    }

    /// The corners of a box, each a quarter of its sides long.
    fn corners(&mut self, bbox: &BBox, line: i32, colour: Rgb) {
        let edges = [bbox.x, bbox.y, bbox.x + bbox.w, bbox.y + bbox.h].map(|edge| edge.round() as i32);
        let [left, top, right, bottom] = edges;
        let (wide, high) = (((right - left) / 4).max(line), ((bottom - top) / 4).max(line));
        for (x, to_x) in [(left, wide), (right, -wide)] {
            for (y, to_y) in [(top, high), (bottom, -high)] {
                let across = |from: i32, by: i32| (from.min(from + by), from.max(from + by));
                for (by_x, by_y) in [(to_x, line * to_y.signum()), (line * to_x.signum(), to_y)] {
                    let ((left, right), (top, bottom)) = (across(x, by_x), across(y, by_y));
                    self.blend(Area { left, top, right, bottom }, colour, |_, _| 255);
                }
            }
        }
    }

    /// A box: its line lies inside it, a dark rim on both sides of the line.
    fn outline(&mut self, bbox: &BBox, line: i32, colour: Rgb) {
        let outer = Area {
            left: bbox.x.round() as i32,
            top: bbox.y.round() as i32,
            right: (bbox.x + bbox.w).round() as i32,
            bottom: (bbox.y + bbox.h).round() as i32,
        };
        let grown = |by: i32| Area {
            left: outer.left - by,
            top: outer.top - by,
            right: outer.right + by,
            bottom: outer.bottom + by,
        };
        self.ring(grown(1), 1, BLACK, RIM);
        self.ring(outer, line, colour, 255);
        self.ring(grown(-line), 1, BLACK, RIM);
    }

    /// The outermost `line` pixels of an area.
    fn ring(&mut self, area: Area, line: i32, colour: Rgb, cover: u8) {
        let Area { left, top, right, bottom } = area;
        let (upper, lower) = (top + line, (bottom - line).max(top + line));
        for side in [
            Area { bottom: upper.min(bottom), ..area },
            Area { top: lower, ..area },
            Area { left, top: upper, right: (left + line).min(right), bottom: lower },
            Area { left: (right - line).max(left + line), top: upper, right, bottom: lower },
        ] {
            self.blend(side, colour, |_, _| cover);
        }
    }

    /// A line of round strokes that grows from nothing at its oldest point.
    fn trail(&mut self, points: &[[f32; 2]], wide: f32, colour: Rgb) {
        let count = points.len().max(2) as f32 - 1.0;
        for (pair, place) in points.windows(2).zip(1u16..) {
            let (from, to) = (pair[0], pair[1]);
            let (radius, strength) = (wide / 2.0, 255.0 * f32::from(place) / count);
            let reach = radius + 1.0;
            let area = Area {
                left: (from[0].min(to[0]) - reach).floor() as i32,
                top: (from[1].min(to[1]) - reach).floor() as i32,
                right: (from[0].max(to[0]) + reach).ceil() as i32,
                bottom: (from[1].max(to[1]) + reach).ceil() as i32,
            };
            let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
            let length = (dx * dx + dy * dy).max(1e-6);
            self.blend(area, colour, |x, y| {
                let (px, py) = (x as f32 + 0.5 - from[0], y as f32 + 0.5 - from[1]);
                let along = ((px * dx + py * dy) / length).clamp(0.0, 1.0);
                let (ox, oy) = (px - along * dx, py - along * dy);
                let distance = (ox * ox + oy * oy).sqrt();
                ((radius + 0.5 - distance).clamp(0.0, 1.0) * strength) as u8
            });
        }
    }

    /// Makes a polygon unreadable, and a pixel around it: what is rounded is rounded outwards.
    fn hide(&mut self, corners: &[[f32; 2]], how: Hide) {
        let whole = self.area();
        let bounds = bounds(corners).within(whole);
        if bounds.is_empty() {
            return;
        }
        let square = match how {
            Hide::Fill => whole.right.max(whole.bottom),
            Hide::Blur => {
                let side = (bounds.right - bounds.left).min(bounds.bottom - bounds.top) / SQUARES;
                (side.max(LEAST_SQUARE) + 1) & !1
            }
        };
        let black = self.colour.yuv(BLACK);
        let mut means = std::collections::HashMap::new();
        // Each square's mean is taken before any of it is painted.
        if how == Hide::Blur {
            for row in bounds.top / square..=(bounds.bottom - 1) / square {
                for column in bounds.left / square..=(bounds.right - 1) / square {
                    means.insert((column, row), self.mean(column * square, row * square, square));
                }
            }
        }
        let code = |x: i32, y: i32| means.get(&(x / square, y / square)).copied().unwrap_or(black);
        let [(luma, y_place), (cb, u_place), (cr, _)] = self.planes_mut();
        for y in bounds.top..bounds.bottom {
            for (left, right) in spans(corners, y, bounds) {
                for x in left..right {
                    luma[y as usize * y_place.stride + x as usize] = code(x, y)[0];
                }
                for x in left / 2..=(right - 1) / 2 {
                    let at = (y / 2) as usize * u_place.stride + x as usize;
                    [_, cb[at], cr[at]] = code(2 * x, y);
                }
            }
        }
    }

    /// The mean of a square, as far as it lies in the picture.
    fn mean(&mut self, left: i32, top: i32, side: i32) -> [u8; 3] {
        let of = |plane: &[u8], place: Place, step: i32| {
            let (x, y, side) = ((left / step) as usize, (top / step) as usize, (side / step) as usize);
            let (right, bottom) = ((x + side).min(place.width), (y + side).min(place.height));
            let rows = (y..bottom).map(|row| &plane[row * place.stride..][x..right]);
            let sum: u32 = rows.flatten().map(|code| u32::from(*code)).sum();
            let count = ((right - x) * (bottom - y)).max(1) as u32;
            ((sum + count / 2) / count) as u8
        };
        let [(luma, y), (cb, u), (cr, v)] = self.planes_mut();
        [of(luma, y, 1), of(cb, u, 2), of(cr, v, 2)]
    }
}

fn bounds(corners: &[[f32; 2]]) -> Area {
    let least = |axis: usize| corners.iter().map(|at| at[axis]).fold(f32::MAX, f32::min).floor() as i32 - 1;
    let most = |axis: usize| corners.iter().map(|at| at[axis]).fold(f32::MIN, f32::max).ceil() as i32 + 1;
    Area { left: least(0), top: least(1), right: most(0), bottom: most(1) }
}

/// The parts of a row of pixels that lie in a polygon (even-odd rule) or less than a pixel from it; they may overlap.
fn spans(corners: &[[f32; 2]], y: i32, bounds: Area) -> Vec<(i32, i32)> {
    let mut spans = Vec::new();
    for offset in [-0.75, 0.0, 0.5, 1.0, 1.75] {
        let y = y as f32 + offset;
        let sides = corners.iter().zip(corners.iter().cycle().skip(1));
        let mut crossings: Vec<f32> = sides
            .filter(|(a, b)| (a[1] <= y) != (b[1] <= y))
            .map(|(a, b)| a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0]))
            .collect();
        crossings.sort_by(f32::total_cmp);
        for pair in crossings.chunks_exact(2) {
            let left = (pair[0].floor() as i32 - 1).max(bounds.left);
            let right = (pair[1].ceil() as i32 + 1).min(bounds.right);
            if left < right {
                spans.push((left, right));
            }
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Colour;
    use super::*;
    use crate::flow::draw::WHITE;
    use crate::frame::Size;

    const SIZE: Size = Size { width: 120, height: 80 };

    fn blank() -> Canvas {
        Canvas::blank(SIZE, Colour::JPEG)
    }

    fn list(covers: Vec<Cover>, marks: Vec<Mark>) -> DrawList {
        DrawList { size: SIZE, covers, marks, legend: Vec::new() }
    }

    /// Noise, so that every pixel differs from its neighbours.
    fn noise() -> Canvas {
        let mut canvas = blank();
        let mut random = fastrand::Rng::with_seed(7);
        canvas.data.iter_mut().for_each(|code| *code = random.u8(60..250));
        canvas
    }

    #[test]
    fn a_box_lies_where_it_should_and_has_a_rim() {
        let mut canvas = blank();
        let bbox = BBox { x: 20.2, y: 10.0, w: 40.0, h: 30.4 };
        let marks = vec![Mark::Outline { bbox, colour: Rgb(255, 0, 0) }];
        Painter::default().mark(&list(Vec::new(), marks), &mut canvas);
        let grey = blank().at(0, 0)[0];
        let red = Colour::JPEG.yuv(Rgb(255, 0, 0))[0];
        let luma = |x, y| canvas.at(x, y)[0];
        for (x, y) in [(20, 10), (21, 25), (59, 39), (58, 25), (40, 11), (40, 39)] {
            assert_eq!(luma(x, y), red, "on the line at {x},{y}");
        }
        for (x, y) in [(19, 25), (60, 25), (22, 25), (57, 25), (40, 9), (40, 40)] {
            assert!(luma(x, y) < grey, "the rim at {x},{y}: {}", luma(x, y));
        }
        assert_eq!((luma(18, 25), luma(61, 25), luma(40, 25)), (grey, grey, grey));
        assert_eq!(canvas.at(20, 24)[2], Colour::JPEG.yuv(Rgb(255, 0, 0))[2], "red in chroma too");
    }

    #[test]
    fn an_older_box_has_corners_only() {
        let mut canvas = blank();
        let bbox = BBox { x: 20.0, y: 10.0, w: 40.0, h: 40.0 };
        let marks = vec![Mark::Corners { bbox, colour: WHITE }];
        Painter::default().mark(&list(Vec::new(), marks), &mut canvas);
        let luma = |x, y| canvas.at(x, y)[0];
        for (x, y) in [(20, 10), (29, 10), (20, 19), (59, 49), (50, 49), (59, 40)] {
            assert_eq!(luma(x, y), 255, "{x},{y}");
        }
        for (x, y) in [(40, 10), (20, 30), (59, 30), (40, 49), (60, 50), (19, 9)] {
            assert_eq!(luma(x, y), blank().at(0, 0)[0], "{x},{y}");
        }
    }

    #[test]
    fn a_label_stays_in_the_picture_and_can_be_read() {
        for at in [[-50.0, -50.0], [500.0, 500.0], [30.0, 2.0]] {
            let mut canvas = blank();
            let bbox = BBox { x: at[0], y: at[1], w: 30.0, h: 30.0 };
            let label = Mark::Tag { bbox, text: "car 1".into(), plate: WHITE };
            Painter::default().mark(&list(Vec::new(), vec![label]), &mut canvas);
            let codes = canvas.data[..120 * 80].iter();
            let (dark, light) =
                codes.fold((0, 0), |(d, l), c| (d + u32::from(*c < 40), l + u32::from(*c > 180)));
            assert!(dark > 10 && light > 300, "{at:?}: {dark} {light}");
        }
    }

    #[test]
    fn a_mask_blackens_all_of_its_polygon() {
        let mut canvas = noise();
        let before = canvas.clone();
        let polygon = vec![[30.0, 20.0], [90.0, 20.0], [90.0, 60.0], [30.0, 60.0]];
        Painter::default().cover(&list(vec![Cover { polygon, how: Hide::Fill }], Vec::new()), &mut canvas);
        for y in 20..60 {
            for x in 30..90 {
                assert_eq!(canvas.at(x, y), [0, 128, 128], "{x},{y}");
            }
        }
        for (x, y) in [(27, 40), (93, 40), (60, 16), (60, 63)] {
            assert_eq!(canvas.at(x, y)[0], before.at(x, y)[0], "{x},{y} is outside");
        }
    }

    #[test]
    fn what_is_blurred_has_few_values_left() {
        let mut canvas = noise();
        let polygon = vec![[20.0, 10.0], [80.0, 10.0], [80.0, 70.0], [20.0, 70.0]];
        Painter::default().cover(&list(vec![Cover { polygon, how: Hide::Blur }], Vec::new()), &mut canvas);
        let mut squares = std::collections::HashSet::new();
        for y in 10..70 {
            for x in 20..80 {
                squares.insert((x / 12, y / 12, canvas.at(x, y)));
            }
        }
        assert!(squares.len() <= 36, "one value a square: {}", squares.len());
    }

    /// Even-odd, by a ray that runs down: `spans` sends its own to the right.
    fn inside(polygon: &[[f32; 2]], [x, y]: [f32; 2]) -> bool {
        let sides = polygon.iter().zip(polygon.iter().cycle().skip(1));
        let below = sides.filter(|(a, b)| {
            (a[0] <= x) != (b[0] <= x) && a[1] + (x - a[0]) / (b[0] - a[0]) * (b[1] - a[1]) > y
        });
        below.count() % 2 == 1
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever the polygon: a pixel whose middle lies inside it shows nothing of the picture.
        #[test]
        fn nothing_shows_inside_a_mask(
            corners in prop::collection::vec((-20.0f32..140.0, -20.0f32..100.0), 3..7),
        ) {
            let polygon: Vec<[f32; 2]> = corners.iter().map(|(x, y)| [*x, *y]).collect();
            let mut canvas = noise();
            let cover = Cover { polygon: polygon.clone(), how: Hide::Fill };
            Painter::default().cover(&list(vec![cover], Vec::new()), &mut canvas);
            for y in 0..80usize {
                for x in 0..120usize {
                    if inside(&polygon, [x as f32 + 0.5, y as f32 + 0.5]) {
                        prop_assert_eq!(canvas.at(x, y), [0, 128, 128], "{},{}", x, y);
                    }
                }
            }
        }
    }
}
