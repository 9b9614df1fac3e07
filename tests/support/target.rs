//! A synthetic camera's pictures: a number in black and white blocks that survives any codec, and a target whose place follows from
//! the number. 640×480, I420, limited range.

#![allow(dead_code, reason = "each user needs its part")]

pub const WIDTH: usize = 640;
pub const HEIGHT: usize = 480;
/// Pictures in one turn of the target; then it is where it began.
pub const TURN: u32 = 320;
/// Columns and rows of the target.
pub const TARGET: (usize, usize) = (80, 60);
/// The side of a block, in pixels.
const BLOCK: usize = 16;
/// Bits of the number, and of what proves it.
const BITS: usize = 32;
const CHECK: usize = 4;
const BLACK: u8 = 16;
const WHITE: u8 = 235;

/// Where the target is in picture `n`: its left and upper edge. It runs a circle at nearly three pixels a picture, so that no other
/// picture's place passes for this one's.
pub fn truth(n: u32) -> [usize; 2] {
    let turn = f64::from(n % TURN) / f64::from(TURN) * std::f64::consts::TAU;
    let centre = [320.0 + 150.0 * turn.cos(), 250.0 + 150.0 * turn.sin()];
    [
        (centre[0] - TARGET.0 as f64 / 2.0).round() as usize,
        (centre[1] - TARGET.1 as f64 / 2.0).round() as usize,
    ]
}

/// Picture `n`.
pub fn picture(n: u32) -> Vec<u8> {
    let mut bytes = vec![60; WIDTH * HEIGHT];
    let [left, top] = truth(n);
    for row in bytes.chunks_exact_mut(WIDTH).skip(top).take(TARGET.1) {
        row[left..left + TARGET.0].fill(110);
    }
    stamp(&mut bytes, WIDTH, HEIGHT, n);
    bytes.resize(WIDTH * HEIGHT * 3 / 2, 128);
    bytes
}

fn check(number: u32) -> u32 {
    (0..8).fold(0b1010, |sum, nibble| (sum ^ (number >> (4 * nibble))) & 0xf)
}

/// Writes a number into the lowest rows of a picture's luma.
pub fn stamp(luma: &mut [u8], stride: usize, height: usize, number: u32) {
    let word = u64::from(number) | u64::from(check(number)) << BITS;
    for row in luma.chunks_exact_mut(stride).take(height).skip(height - BLOCK) {
        for (bit, block) in row.chunks_exact_mut(BLOCK).take(BITS + CHECK).enumerate() {
            block.fill(if word >> bit & 1 == 1 { WHITE } else { BLACK });
        }
    }
}

/// Reads it back; `None`: it is not there, or cannot be read.
pub fn read(luma: &[u8], stride: usize, height: usize) -> Option<u32> {
    let rows: Vec<&[u8]> = luma.chunks(stride).take(height).skip(height - BLOCK).collect();
    let mean = |bit: usize| {
        let inner =
            |row: &&[u8]| row[bit * BLOCK + 4..bit * BLOCK + 12].iter().map(|v| u32::from(*v)).sum::<u32>();
        rows[4..12].iter().map(|row| inner(&row)).sum::<u32>() / 64
    };
    let word = (0..BITS + CHECK).fold(0u64, |word, bit| word | u64::from(mean(bit) > 128) << bit);
    let number = word as u32;
    ((word >> BITS) as u32 == check(number)).then_some(number)
}
