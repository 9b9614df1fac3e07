//! Letters as coverage: how much of each pixel a glyph's outline fills. The font is DejaVu Sans (assets/font).

use std::collections::HashMap;
use std::rc::Rc;

use ab_glyph::{Font, FontRef, PxScale, ScaleFont};

static FONT: &[u8] = include_bytes!("../../../assets/font/DejaVuSans-subset.ttf");

/// Glyphs kept; a video's texts use some dozens in two or three sizes.
const MOST: usize = 1024;

/// Sets text, and remembers the glyphs that it has drawn.
pub(super) struct Type {
    font: FontRef<'static>,
    glyphs: HashMap<(char, u32), Rc<Glyph>>,
}

/// One glyph's coverage.
pub(super) struct Glyph {
    /// From the pen to its left edge, and from the line's top to its upper one.
    pub left: i32,
    pub top: i32,
    pub width: i32,
    /// Row-major, 0..=255.
    pub cover: Vec<u8>,
    /// To the next glyph's pen.
    advance: f32,
}

/// A glyph and where its upper left pixel lies, relative to the line's upper left corner.
pub(super) type Placed = (i32, i32, Rc<Glyph>);

impl Type {
    pub fn new() -> Type {
        Type {
            font: FontRef::try_from_slice(FONT).expect("the font is part of the program"),
            glyphs: HashMap::new(),
        }
    }

    /// A line of text in letters of so many pixels: its glyphs and its width.
    pub fn set(&mut self, text: &str, pixels: u32) -> (Vec<Placed>, i32) {
        let (mut pen, mut line) = (0.0f32, Vec::new());
        // A name of a camera has at most 64 characters; a label of a model may be anything.
        for letter in text.chars().filter(|c| !c.is_control()).take(100) {
            let glyph = self.glyph(letter, pixels);
            let left = pen.round() as i32 + glyph.left;
            pen += glyph.advance;
            line.push((left, glyph.top, glyph));
        }
        (line, pen.ceil() as i32)
    }

    fn glyph(&mut self, letter: char, pixels: u32) -> Rc<Glyph> {
        if let Some(glyph) = self.glyphs.get(&(letter, pixels)) {
            return Rc::clone(glyph);
        }
        if self.glyphs.len() >= MOST {
            self.glyphs.clear();
        }
        let glyph = Rc::new(self.draw(letter, pixels));
        self.glyphs.insert((letter, pixels), Rc::clone(&glyph));
        glyph
    }

    fn draw(&self, letter: char, pixels: u32) -> Glyph {
        let scaled = self.font.as_scaled(PxScale::from(pixels as f32));
        let mut id = scaled.glyph_id(letter);
        if id.0 == 0 {
            id = scaled.glyph_id('\u{fffd}');
        }
        let advance = scaled.h_advance(id);
        let placed = id.with_scale_and_position(pixels as f32, ab_glyph::point(0.0, scaled.ascent()));
        let Some(outline) = self.font.outline_glyph(placed) else {
            return Glyph { left: 0, top: 0, width: 0, cover: Vec::new(), advance };
        };
        let bounds = outline.px_bounds();
        let width = bounds.width().ceil() as usize;
        let mut cover = vec![0; width * bounds.height().ceil() as usize];
        outline.draw(|x, y, part| {
            if let Some(pixel) = cover.get_mut(y as usize * width + x as usize) {
                *pixel = (part.clamp(0.0, 1.0) * 255.0) as u8;
            }
        });
        Glyph { left: bounds.min.x as i32, top: bounds.min.y as i32, width: width as i32, cover, advance }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_smooth_and_stay_in_their_line() {
        let mut fonts = Type::new();
        let (line, width) = fonts.set("Person 7 · 95 %", 20);
        assert!((100..200).contains(&width), "{width}");
        for (left, top, glyph) in &line {
            let rows = if glyph.width > 0 { glyph.cover.len() as i32 / glyph.width } else { 0 };
            assert!(*left >= -1 && left + glyph.width <= width + 1 && *top >= 0 && top + rows <= 20);
        }
        let grey = line.iter().flat_map(|(_, _, g)| &g.cover).filter(|c| (1..255).contains(*c)).count();
        assert!(grey > 50, "anti-aliased: {grey}");
    }

    #[test]
    fn a_letter_that_the_font_has_not_is_shown_as_such() {
        let (line, _) = Type::new().set("猫", 20);
        assert!(line[0].2.cover.iter().any(|c| *c > 200));
    }
}
