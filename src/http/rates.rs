//! Frames a second by camera, measured over the last few seconds from the ledger's counters.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::board::Board;
use crate::clock::Tick;
use crate::frame::CameraId;

/// How often the counters are read.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Readings kept: a window of five seconds.
const READINGS: usize = 6;

/// The newest readings of every camera's frame counter.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<VecDeque<(Tick, Vec<u64>)>>);

impl Rates {
    /// Reads all counters.
    pub(super) fn note(&self, now: Tick, board: &Board) {
        let frames = board.cameras().map(|card| card.ledger.read().frames_in).collect();
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if readings.len() == READINGS {
            readings.pop_front();
        }
        readings.push_back((now, frames));
    }

    /// Frames a second that came in over the window; `None` before there are two readings.
    pub(super) fn fps_in(&self, camera: CameraId) -> Option<f64> {
        let readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ((from, first), (to, last)) = (readings.front()?, readings.back()?);
        let seconds = to.since(*from).as_secs_f64();
        // A camera that came since then had none at first.
        let first = first.get(camera.index()).copied().unwrap_or(0);
        let frames = last.get(camera.index())?.saturating_sub(first);
        (seconds > 0.0).then(|| frames as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_five_seconds() {
        let board = Board::new(["a".into()]);
        let rates = Rates::default();
        assert_eq!(rates.fps_in(CameraId(0)), None);
        for second in 0..20u64 {
            rates.note(Tick::from_millis(second * 1000), &board);
            for _ in 0..if second < 10 { 100 } else { 25 } {
                board.camera(CameraId(0)).ledger.admit();
            }
        }
        assert_eq!(rates.fps_in(CameraId(0)), Some(25.0));
    }
}
