//! Bytes of a JPEG or PNG to a [`Still`], with bounds on what they may cost.
//!
//! The size stands in the first bytes of a file: it is checked, and the memory set aside, before a pixel is decoded, so that
//! a small file that unpacks to gigabytes costs nothing. The picture is turned as its Exif orientation says; transparency
//! is ignored, sixteen bits become eight.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::quota::Share;
use super::{Outcome, Refusal};
use crate::flow::capacity::Ceiling;
use crate::frame::{Size, Still};

/// What a decoder may use beside its picture: tables, a colour profile.
const WORKSPACE: u64 = 16 << 20;

/// The most bytes that decoding takes for a pixel: 16 bits RGBA, the same in 8 bits RGB, and I420.
pub const MOST_BYTES_A_PIXEL: usize = 13;

/// Reads a picture of at most `most_pixels`. `memory` holds what the file takes, and what the still takes afterwards.
///
/// # Errors
/// 400 for a broken file, 415 for another kind of file, 413 for too many pixels, 503 when there is no memory for it now.
pub fn decode(bytes: &[u8], most_pixels: u64, memory: &mut Share) -> Result<Still, Refusal> {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(most_pixels * MOST_BYTES_A_PIXEL as u64 + WORKSPACE);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format(bytes)?);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| unreadable(&e))?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(bad("the picture has no pixels"));
    }
    if pixels > most_pixels {
        return Err(Refusal::new(
            413,
            "too_many_pixels",
            Outcome::TooLarge,
            format!(
                "the picture has {width}×{height} pixels, more than {most_pixels} ([http] max_image_megapixels): \
                 send a smaller one"
            ),
        ));
    }
    let size = Size { width, height };
    let working = decoder.total_bytes() + 3 * pixels + Still::bytes(size) as u64;
    if !memory.resize(bytes.len() + usize::try_from(working).unwrap_or(usize::MAX)) {
        return Err(Refusal::busy(
            "busy",
            Outcome::Busy,
            1,
            "the memory for pictures is taken: try again, or send smaller ones",
        )
        .by(Ceiling::Memory));
    }
    let orientation = decoder.orientation().map_err(|e| unreadable(&e))?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| unreadable(&e))?;
    picture.apply_orientation(orientation);
    let rgb = picture.into_rgb8();
    let size = Size { width: rgb.width(), height: rgb.height() };
    let still = to_i420(size, rgb.as_raw());
    drop(rgb);
    // Less than before, so it is there.
    memory.resize(still.i420.len());
    Ok(still)
}

/// By the first bytes: what a client calls its file is often wrong.
fn format(bytes: &[u8]) -> Result<ImageFormat, Refusal> {
    match bytes {
        [] => Err(bad("the body is empty: send the bytes of a JPEG or PNG file")),
        [0xFF, 0xD8, 0xFF, ..] if is_cut_off(bytes) => Err(bad("the JPEG is cut off: it has no end marker")),
        [0xFF, 0xD8, 0xFF, ..] => Ok(ImageFormat::Jpeg),
        [0x89, b'P', b'N', b'G', ..] => Ok(ImageFormat::Png),
        _ => Err(Refusal::new(
            415,
            "not_an_image",
            Outcome::BadImage,
            "this is neither a JPEG nor a PNG file: send the bytes of one as they are",
        )),
    }
}

/// The decoder fills what is missing with grey, which is a picture that nobody took. A thumbnail inside the file
/// has an end marker too, but before the start of the last scan.
fn is_cut_off(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xFF, marker]);
    let (start_of_scan, end_of_image) = (last(0xDA), last(0xD9));
    end_of_image.is_none() || end_of_image < start_of_scan
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(400, "bad_image", Outcome::BadImage, message)
}

fn unreadable(error: &ImageError) -> Refusal {
    match error {
        ImageError::Limits(_) => Refusal::new(
            413,
            "too_large",
            Outcome::TooLarge,
            format!("decoding the picture takes too much memory: {error}"),
        ),
        ImageError::Unsupported(_) => Refusal::new(
            415,
            "unsupported_image",
            Outcome::BadImage,
            format!("this kind of JPEG or PNG cannot be read: {error}"),
        ),
        _ => bad(format!("the picture cannot be read: {error}")),
    }
}

/// RGB to Y, Cb, Cr with the matrix of BT.601 (JFIF 1.02), in 16-bit fixed point; chroma from the sum of four pixels.
fn to_i420(size: Size, rgb: &[u8]) -> Still {
    let (width, height) = (size.width as usize, size.height as usize);
    let (half, rows) = Still::half(size);
    let mut i420 = vec![0; Still::bytes(size)];
    let (y_plane, chroma) = i420.split_at_mut(width * height);
    let (u_plane, v_plane) = chroma.split_at_mut(half * rows);
    for (y, [r, g, b]) in y_plane.iter_mut().zip(rgb.as_chunks::<3>().0) {
        let [r, g, b] = [*r, *g, *b].map(u32::from);
        *y = ((19_595 * r + 38_470 * g + 7_471 * b + (1 << 15)) >> 16) as u8;
    }
    for j in 0..rows {
        // At an odd edge the last row or column counts twice.
        let lines = [2 * j, (2 * j + 1).min(height - 1)];
        let [upper, lower] = lines.map(|line| rgb[line * width * 3..][..width * 3].as_chunks::<3>().0);
        let out = u_plane[j * half..][..half].iter_mut().zip(&mut v_plane[j * half..][..half]);
        for (i, (u, v)) in out.enumerate() {
            let (left, right) = (2 * i, (2 * i + 1).min(width - 1));
            let sum = |c: usize| {
                [upper[left][c], upper[right][c], lower[left][c], lower[right][c]]
                    .map(i32::from)
                    .iter()
                    .sum::<i32>()
            };
            let [r, g, b] = [0, 1, 2].map(sum);
            let code = |weighted: i32| ((weighted + (128 << 18) + (1 << 17)) >> 18).clamp(0, 255) as u8;
            *u = code(-11_059 * r - 21_709 * g + 32_768 * b);
            *v = code(32_768 * r - 27_439 * g - 5_329 * b);
        }
    }
    Still { size, i420 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::request::quota::Quota;

    fn png(width: u32, height: u32, rgb: Vec<u8>) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let picture = image::RgbImage::from_raw(width, height, rgb).unwrap();
        picture.write_to(&mut file, ImageFormat::Png).unwrap();
        file.into_inner()
    }

    fn memory() -> Share {
        Arc::new(Quota::new(1 << 20)).take(0).unwrap()
    }

    fn status(bytes: &[u8]) -> (u16, &'static str) {
        let refusal = decode(bytes, 10_000, &mut memory()).unwrap_err();
        (refusal.status, refusal.code)
    }

    #[test]
    fn what_is_no_picture_is_named() {
        assert_eq!(status(b""), (400, "bad_image"));
        assert_eq!(status(b"GIF89a..."), (415, "not_an_image"));
        assert_eq!(status(&[0xFF, 0xD8, 0xFF, 0xE0, 0, 16, b'J']), (400, "bad_image"));
        let good = png(20, 20, vec![7; 1200]);
        assert_eq!(status(&good[..good.len() / 2]), (400, "bad_image"));
        let mut jpeg = Cursor::new(Vec::new());
        image::RgbImage::new(64, 64).write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
        let jpeg = jpeg.into_inner();
        assert!(decode(&jpeg, 10_000, &mut memory()).is_ok());
        let cut = decode(&jpeg[..jpeg.len() - 20], 10_000, &mut memory()).unwrap_err();
        assert!(cut.status == 400 && cut.message.contains("cut off"), "{cut:?}");
    }

    #[test]
    fn pixels_are_counted_before_they_are_decoded() {
        // 60 000 × 60 000 in a header, and no picture behind it: only the header may have been read.
        let mut bomb = png(100, 100, vec![0; 30_000]);
        bomb[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
        let crc = crc(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(status(&bomb), (413, "too_many_pixels"));
        let mut small = Arc::new(Quota::new(1_000)).take(0).unwrap();
        let refusal = decode(&png(50, 50, vec![0; 7_500]), 10_000, &mut small).unwrap_err();
        assert_eq!((refusal.status, refusal.retry_after), (503, Some(1)));
    }

    /// ISO 3309, as PNG uses it.
    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8)
                .fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
        })
    }

    proptest! {
        /// A picture of one colour, whatever its size, comes back as this colour from its planes.
        #[test]
        fn colours_survive(colour in any::<[u8; 3]>(), (width, height) in (1u32..9, 1u32..9)) {
            let pixels = (width * height) as usize;
            let still = decode(&png(width, height, colour.repeat(pixels)), 100, &mut memory()).unwrap();
            prop_assert_eq!(still.size, Size { width, height });
            let half = (still.i420.len() - pixels) / 2;
            let (y, chroma) = still.i420.split_at(pixels);
            for plane in [y, &chroma[..half], &chroma[half..]] {
                prop_assert!(plane.iter().all(|code| *code == plane[0]));
            }
            let [y, u, v] = [y[0], chroma[0], chroma[half]].map(f64::from);
            let back = [y + 1.402 * (v - 128.0), y - 0.344_136 * (u - 128.0) - 0.714_136 * (v - 128.0), y + 1.772 * (u - 128.0)];
            for (got, sent) in back.iter().zip(colour) {
                prop_assert!((got.clamp(0.0, 255.0) - f64::from(sent)).abs() <= 2.0, "{back:?} for {colour:?}");
            }
        }

        /// No bytes whatever make it panic, and nothing is left taken.
        #[test]
        fn broken_files_are_refused_quietly(
            at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>(), jpeg in any::<bool>(),
        ) {
            let mut file = Cursor::new(Vec::new());
            let picture = image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([x as u8 * 16, y as u8 * 16, 99]));
            picture.write_to(&mut file, if jpeg { ImageFormat::Jpeg } else { ImageFormat::Png }).unwrap();
            let mut bytes = file.into_inner();
            let place = at.index(bytes.len());
            bytes[place] = value;
            bytes.truncate(cut.index(bytes.len()) + 1);
            let quota = Arc::new(Quota::new(1 << 20));
            let mut share = quota.take(0).unwrap();
            let _ = decode(&bytes, 10_000, &mut share);
            drop(share);
            prop_assert_eq!(quota.used(), 0);
        }
    }
}
