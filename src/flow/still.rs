//! The motion gate (`motion_gate = true`): a camera whose picture stands still gives its engine time to the others.
//!
//! A picture is compared, as a grid of mean luma values, with the camera's own picture of up to [`REFERENCE`] ago; so a slow change adds
//! up until it counts. While anything moves, and for [`HOLD`] after, every frame passes. While nothing does, frames pass at the floor
//! rate: tracks at rest are seen often enough to live, and what the comparison misses is found that late at
//! the latest. When in doubt (another size, a lamp that was switched) it is motion: the gate may waste
//! engine time, never lose an event.

use std::time::Duration;

use crate::clock::Tick;

/// Columns and rows of the grid.
pub const GRID: (usize, usize) = (32, 18);
/// A cell has changed when its mean luma is off by so much, of 255. Above sensor noise (the mean of thousands of samples moves by less than
/// one) and the breathing of an encoder's quantiser; below a person in clothes of the colour of the pavement.
const STEP: u8 = 3;
/// Cells that must have changed; one may be an insect, or a clock that is burnt in.
const CELLS: usize = 2;
/// Frames pass for so long after the last motion.
pub const HOLD: Duration = Duration::from_secs(2);
/// How old the picture grows that others are compared with.
const REFERENCE: Duration = Duration::from_secs(1);

/// Pictures with fewer columns or rows have no grid.
pub const LEAST: (usize, usize) = (2 * GRID.0, 2 * GRID.1);
/// Mean luma by cell, row by row.
pub type Grid = [u8; GRID.0 * GRID.1];

/// One camera's gate.
pub struct Gate {
    floor: Duration,
    reference: Option<(Tick, Grid)>,
    moved: Option<Tick>,
    passed: Option<Tick>,
}

impl Gate {
    /// Still frames pass at `floor_fps`, 0.1 and more.
    pub fn new(floor_fps: f64) -> Self {
        Gate {
            floor: Duration::from_secs_f64(1.0 / floor_fps.max(0.1)),
            reference: None,
            moved: None,
            passed: None,
        }
    }

    /// Does this picture pass?
    pub fn passes(&mut self, now: Tick, grid: &Grid) -> bool {
        let moves = match &self.reference {
            Some((_, reference)) => differ(grid, reference),
            None => true,
        };
        if moves {
            self.moved = Some(now);
        }
        if self.reference.as_ref().is_none_or(|(since, _)| now.since(*since) >= REFERENCE) {
            self.reference = Some((now, *grid));
        }
        let moving = self.moved.is_some_and(|moved| now.since(moved) <= HOLD);
        let due = self.passed.is_none_or(|passed| now.since(passed) >= self.floor);
        if moving || due {
            self.passed = Some(now);
        }
        moving || due
    }
}

fn differ(a: &Grid, b: &Grid) -> bool {
    a.iter().zip(b).filter(|(a, b)| a.abs_diff(**b) >= STEP).count() >= CELLS
}

/// The grid of a luma plane, from one sample in `4 × 4`; `None` for a picture smaller than [`LEAST`].
pub fn grid(luma: &[u8], width: usize, height: usize, stride: usize) -> Option<Grid> {
    if width < LEAST.0 || height < LEAST.1 || luma.len() < stride * (height - 1) + width {
        return None;
    }
    let mut grid = [0; GRID.0 * GRID.1];
    for row in 0..GRID.1 {
        let rows = (row * height / GRID.1..(row + 1) * height / GRID.1).step_by(4);
        let (mut sums, mut lines) = ([0u32; GRID.0], 0u32);
        for line in rows {
            let line = &luma[line * stride..line * stride + width];
            lines += 1;
            for (column, sum) in sums.iter_mut().enumerate() {
                let cell = &line[column * width / GRID.0..(column + 1) * width / GRID.0];
                *sum += cell.iter().step_by(4).map(|&y| u32::from(y)).sum::<u32>();
            }
        }
        for (column, sum) in sums.iter().enumerate() {
            let width = (column + 1) * width / GRID.0 - column * width / GRID.0;
            grid[row * GRID.0 + column] = (sum / (lines * width.div_ceil(4) as u32)) as u8;
        }
    }
    Some(grid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STILL: Grid = [100; GRID.0 * GRID.1];

    fn with(cells: usize, by: u8) -> Grid {
        let mut grid = STILL;
        grid[..cells].fill(100 + by);
        grid
    }

    /// Plays 10 fps; returns which frames passed.
    fn play(gate: &mut Gate, from: u64, pictures: impl IntoIterator<Item = Grid>) -> Vec<bool> {
        let frames = pictures.into_iter().zip(0..);
        frames.map(|(grid, n)| gate.passes(Tick::from_millis(from + n * 100), &grid)).collect()
    }

    #[test]
    fn a_still_picture_passes_at_the_floor_rate() {
        let mut gate = Gate::new(2.0);
        play(&mut gate, 0, [STILL; 60]);
        let passed = play(&mut gate, 6_000, [STILL; 100]).iter().filter(|passed| **passed).count();
        assert!((19..=21).contains(&passed), "{passed}");
    }

    #[test]
    fn motion_passes_at_once_and_for_two_seconds_after() {
        let mut gate = Gate::new(0.5);
        play(&mut gate, 0, [STILL; 60]);
        assert_eq!(play(&mut gate, 6_000, [with(2, STEP)]), [true]);
        assert_eq!(play(&mut gate, 6_100, [STILL; 20]), [true; 20]);
    }

    #[test]
    fn slow_motion_adds_up() {
        let mut gate = Gate::new(0.1);
        play(&mut gate, 0, [STILL; 60]);
        // One grey level in half a second: less than the step from frame to frame.
        let slow = (0..60).map(|n| with(10, n / 5));
        let passed = play(&mut gate, 6_000, slow).iter().filter(|passed| **passed).count();
        assert!(passed < 5, "two levels a second is noise: {passed}");
        let mut gate = Gate::new(0.1);
        play(&mut gate, 0, [STILL; 60]);
        let passed = play(&mut gate, 6_000, (0..60).map(|n| with(10, n / 2))).iter().filter(|p| **p).count();
        assert!(passed > 50, "five levels a second is motion: {passed}");
    }

    #[test]
    fn a_grid_holds_the_means_of_its_cells() {
        let (width, height, stride) = (1920, 1080, 2048);
        let mut luma = vec![10; stride * height];
        for row in &mut luma.chunks_mut(stride).take(height / 18) {
            row[..60].fill(200);
        }
        let grid = grid(&luma, width, height, stride).expect("large enough");
        assert_eq!((grid[0], grid[1], grid[32]), (200, 10, 10));
        assert_eq!(super::grid(&luma, 40, 20, 40), None);
    }

    proptest! {
        /// Whatever the pictures are, the gate never closes for longer than the floor allows.
        #[test]
        fn the_floor_holds(cells in prop::collection::vec((0usize..4, 0u8..8), 20..200), floor in 0.2f64..5.0) {
            let mut gate = Gate::new(floor);
            let passed = play(&mut gate, 0, cells.iter().map(|(cells, by)| with(*cells, *by)));
            let longest = passed.split(|passed| *passed).map(<[bool]>::len).max().unwrap_or(0);
            prop_assert!(longest as f64 <= 10.0 / floor, "{longest} frames at {floor}");
        }

        /// Any size has a grid or none, and never panics.
        #[test]
        fn any_plane_is_read_safely(width in 0usize..200, height in 0usize..120, more in 0usize..40, len in 0usize..30_000) {
            let _ = grid(&vec![7; len], width, height, width + more);
        }
    }
}
