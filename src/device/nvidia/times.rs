//! The times of pictures whose codec shows one a unit, in the order of the units: VP9 and AV1. Pure.
//!
//! NVDEC's parser gives the picture of a unit that also holds a hidden one the time of the unit before it, and goes on so until it shows
//! the hidden one. The pictures come in order all the same, and each has a unit: what is not later than the last one's takes the
//! next unit's time.

use std::collections::VecDeque;

/// Units whose picture is due. A stream that shows nothing for longer begins anew.
const MOST: usize = 64;

/// The times of one stream.
#[derive(Debug, Default)]
pub struct Times {
    due: VecDeque<i64>,
    last: Option<i64>,
}

impl Times {
    /// A unit of this time comes.
    pub fn came(&mut self, pts: i64) {
        if self.due.back().is_some_and(|last| *last >= pts) || self.due.len() == MOST {
            // The stream's clock went back, or nothing is shown.
            *self = Times::default();
        }
        self.due.push_back(pts);
    }

    /// A picture is shown, to which the parser gave this time: its own.
    pub fn of(&mut self, told: i64) -> i64 {
        let is_late = self.last.is_some_and(|last| told <= last);
        while self.due.front().is_some_and(|due| !is_late && *due < told) {
            self.due.pop_front();
        }
        let own = self.due.pop_front().unwrap_or(told);
        self.last = Some(own);
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(units: &[i64], pictures: &[i64]) -> Vec<i64> {
        let mut times = Times::default();
        let mut units = units.iter();
        let of = |told: &i64| {
            if let Some(unit) = units.next() {
                times.came(*unit);
            }
            times.of(*told)
        };
        pictures.iter().map(of).collect()
    }

    #[test]
    fn a_hidden_picture_shifts_nobodys_time() {
        // As an H100's parser tells them.
        let units: Vec<i64> = (0..50).collect();
        let parser: Vec<i64> = (0..=10).chain(10..=41).chain(43..50).collect();
        assert_eq!(told(&units, &parser), units);
    }

    #[test]
    fn a_unit_without_a_picture_is_left_out_and_a_clock_may_go_back() {
        let mut times = Times::default();
        for unit in [0, 10, 20] {
            times.came(unit);
        }
        assert_eq!([times.of(0), times.of(20)], [0, 20], "the one of 10 was damaged");
        times.came(5);
        assert_eq!(times.of(5), 5);
    }
}
