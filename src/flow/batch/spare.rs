//! What the engine could do besides.

use std::time::Duration;

use crate::clock::Tick;

/// How much of its time the engine had nothing to do, over about a second.
#[derive(Default)]
pub(super) struct Spare {
    since: Tick,
    idle: Duration,
    sent: u64,
    /// Frames a second that it could have taken besides.
    pub fps: f64,
}

impl Spare {
    const SPAN: Duration = Duration::from_secs(1);

    /// The engine was `idle` until now and takes so many frames.
    pub fn sent(&mut self, now: Tick, idle: Duration, frames: usize) {
        let elapsed = now.since(self.since);
        self.idle += idle;
        if elapsed >= Self::SPAN {
            let (idle, elapsed) = (self.idle.as_secs_f64(), elapsed.as_secs_f64());
            self.fps = self.sent as f64 / (elapsed - idle).max(1e-3) * (idle / elapsed);
            *self = Spare { since: now, fps: self.fps, ..Spare::default() };
        }
        self.sent += frames as u64;
    }
}
