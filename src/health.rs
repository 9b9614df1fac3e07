//! What `/healthz`, `/readyz` and systemd's watchdog are told: whether the daemon is ready, and which shared stage stands still.
//!
//! A lane that stands still alone is not here: it is given up while another one lives ([`crate::lanes::Watch`]).

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crate::board::Board;
use crate::clock::{Clock, Tick};
use crate::supervise::Beat;
use crate::{http, lanes};

/// Signs of life of what serves all cameras.
pub struct Beats {
    /// Set when all lanes run.
    lanes: OnceLock<Vec<Beat>>,
    board: Arc<Board>,
    shared: [(&'static str, Beat); 2],
}

impl Beats {
    /// Of these stages; those of the lanes come when all of them run.
    pub fn new(board: &Arc<Board>, shared: [(&'static str, Beat); 2]) -> Self {
        Beats { lanes: OnceLock::new(), board: Arc::clone(board), shared }
    }

    /// All lanes run: these are theirs, by number. Later calls change nothing.
    pub fn watch_lanes(&self, beats: Vec<Beat>) {
        let _ = self.lanes.set(beats);
    }

    /// What has stood still for too long, and since when. Of the lanes only all together: one alone is given up.
    fn stuck(&self, now: Tick) -> impl Iterator<Item = (&'static str, Tick)> {
        let beats = self.lanes.get().map_or(&[][..], Vec::as_slice);
        let last = self.board.flow.living().filter_map(|(lane, _)| beats.get(lane)).map(Beat::last).max();
        let shared = self.shared.iter().map(|(name, beat)| (*name, beat.last()));
        let all = last.map(|last| ("infer", last)).into_iter().chain(shared);
        all.filter(move |(_, last)| now.since(*last) > lanes::Watch::STUCK)
    }
}

/// What the health checks ask.
pub struct Probes {
    /// Why the daemon is not ready; empty: it is.
    pub missing: http::Probe,
    /// What does not move any more; empty: all is well.
    pub stuck: http::Probe,
}

/// Answers them. Nothing is stuck before the daemon is ready for the first time.
pub fn probes(ready: &Arc<AtomicBool>, beats: Arc<Beats>, clock: &Arc<dyn Clock>) -> Probes {
    let (is_ready, was_ready, clock) = (Arc::clone(ready), Arc::clone(ready), Arc::clone(clock));
    Probes {
        missing: Arc::new(move || {
            if is_ready.load(Relaxed) {
                Vec::new()
            } else {
                vec!["the model has not been warmed up yet".to_owned()]
            }
        }),
        stuck: Arc::new(move || {
            if !was_ready.load(Relaxed) {
                return Vec::new();
            }
            let now = clock.now();
            beats
                .stuck(now)
                .map(|(name, last)| {
                    format!("{name} has not moved for {:.0} s", now.since(last).as_secs_f32())
                })
                .collect()
        }),
    }
}
