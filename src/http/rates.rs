//! Frames a second by camera, measured over the last few seconds from its counters.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::admission::Sends;
use crate::board::Board;
use crate::clock::Tick;
use crate::frame::CameraId;

/// How often the counters are read.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Readings kept: a window of five seconds.
const READINGS: usize = 6;

/// Frames that came in, and those of them that the motion gate left out.
type Counts = [u64; 2];

/// The newest readings of every camera's frame counters.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<VecDeque<(Tick, Vec<Counts>)>>);

impl Rates {
    /// Reads all counters.
    pub(super) fn note(&self, now: Tick, board: &Board) {
        let counts =
            board.cameras().map(|card| [card.ledger.read().frames_in, card.still.load(Relaxed)]).collect();
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if readings.len() == READINGS {
            readings.pop_front();
        }
        readings.push_back((now, counts));
    }

    /// Frames a second that came in over the window; `None` before there are two readings.
    pub(super) fn fps_in(&self, camera: CameraId) -> Option<f64> {
        self.sends(camera).map(|sends| sends.fps)
    }

    /// The same, and those of them that want the engine.
    pub(super) fn sends(&self, camera: CameraId) -> Option<Sends> {
        let readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ((from, first), (to, last)) = (readings.front()?, readings.back()?);
        let seconds = to.since(*from).as_secs_f64();
        // A camera that came since then had none at first.
        let (first, last) =
            (first.get(camera.index()).copied().unwrap_or_default(), last.get(camera.index())?);
        let [came, still] = [0, 1].map(|n| last[n].saturating_sub(first[n]) as f64 / seconds);
        (seconds > 0.0).then(|| Sends { fps: came, moving: (came - still).max(0.0) })
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
            board.camera(CameraId(0)).still.fetch_add(5, Relaxed);
        }
        assert_eq!(rates.sends(CameraId(0)), Some(Sends { fps: 25.0, moving: 20.0 }));
    }
}
