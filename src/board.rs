//! The live state of every camera: written by the stages, read by HTTP, metrics and the watchdog.
//!
//! The frame ledger here is the one truth about fates (law 2): `/metrics` and the API both read it, so they
//! cannot disagree. Counters are atomics; the few words that change rarely sit behind a mutex.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::clock::{Tick, Wall};
use crate::event::{Reason, Video};
use crate::frame::{CameraId, Fate};

/// All cameras, by [`CameraId`].
#[derive(Debug)]
pub struct Board {
    cameras: Vec<Card>,
}

impl Board {
    /// A board on which every camera is connecting and nothing has been counted.
    pub fn new(names: impl IntoIterator<Item = Arc<str>>) -> Self {
        Board { cameras: names.into_iter().map(Card::new).collect() }
    }

    /// One camera's card.
    pub fn camera(&self, id: CameraId) -> &Card {
        &self.cameras[id.index()]
    }

    /// Every card, in the order of the configuration.
    pub fn cameras(&self) -> &[Card] {
        &self.cameras
    }
}

/// What is known of one camera.
#[derive(Debug)]
pub struct Card {
    /// Its configured name.
    pub name: Arc<str>,
    /// Where its frames went.
    pub ledger: Ledger,
    /// Tracks alive now.
    pub tracks: AtomicUsize,
    /// Fresh pipelines built since start; the first attempt counts.
    pub attempts: AtomicU64,
    link: Mutex<Link>,
    latency: Mutex<Recent>,
}

impl Card {
    fn new(name: Arc<str>) -> Self {
        Card {
            name,
            ledger: Ledger::default(),
            tracks: AtomicUsize::new(0),
            attempts: AtomicU64::new(0),
            link: Mutex::new(Link::Connecting),
            latency: Mutex::new(Recent::default()),
        }
    }

    /// The state of its connection.
    pub fn link(&self) -> Link {
        lock(&self.link).clone()
    }

    /// Changes the state of its connection.
    pub fn set_link(&self, link: Link) {
        *lock(&self.link) = link;
    }

    /// Notes one frame's time from arrival to its events.
    pub fn note_latency(&self, now: Tick, latency: Duration) {
        lock(&self.latency).note(now, latency);
    }

    /// Percentiles of the last ten seconds; `None` when nothing was inferred in them.
    pub fn latency(&self, now: Tick) -> Option<Percentiles> {
        lock(&self.latency).percentiles(now)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while a line of state is replaced leaves the old or the new line: both are whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The state of a camera's connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Link {
    /// The first attempt is under way.
    Connecting,
    /// Decoded frames arrive.
    Online {
        /// What it delivers.
        video: Video,
        /// Since when.
        since: Wall,
    },
    /// It failed and will be tried again.
    Offline {
        /// Why.
        reason: Reason,
        /// Since when.
        since: Wall,
    },
}

impl Link {
    /// The word used by API, metrics and MQTT.
    pub fn name(&self) -> &'static str {
        match self {
            Link::Connecting => "connecting",
            Link::Online { .. } => "online",
            Link::Offline { .. } => "offline",
        }
    }

    /// The same for the API and for MQTT's retained status: `state`, `since` (RFC 3339), `reason`, `video`;
    /// what does not apply is null.
    pub fn to_json(&self) -> Map<String, Value> {
        let (since, reason, video) = match self {
            Link::Connecting => (None, None, None),
            Link::Online { video, since } => (Some(since), None, Some(video)),
            Link::Offline { reason, since } => (Some(since), Some(reason), None),
        };
        let mut map = Map::new();
        map.insert("state".into(), self.name().into());
        map.insert("since".into(), json!(since.map(|wall| wall.rfc3339())));
        map.insert("reason".into(), json!(reason));
        map.insert("video".into(), json!(video));
        map
    }
}

/// Counts frames in and fates; in = Σ fates + in flight.
#[derive(Debug, Default)]
pub struct Ledger {
    frames_in: AtomicU64,
    fates: [AtomicU64; Fate::ALL.len()],
}

impl Ledger {
    /// One frame came in: its number. The first is 0.
    pub fn admit(&self) -> u64 {
        self.frames_in.fetch_add(1, Relaxed)
    }

    /// One frame met its fate.
    pub fn settle(&self, fate: Fate) {
        self.fates[fate as usize].fetch_add(1, Relaxed);
    }

    /// All counters. Fates are read before frames in, so that `in_flight` never reads negative.
    pub fn read(&self) -> Counts {
        let fates = std::array::from_fn(|i| self.fates[i].load(Relaxed));
        Counts { fates, frames_in: self.frames_in.load(Relaxed) }
    }
}

/// A reading of a [`Ledger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Frames that came in.
    pub frames_in: u64,
    fates: [u64; Fate::ALL.len()],
}

impl Counts {
    /// Frames that met this fate.
    pub fn of(&self, fate: Fate) -> u64 {
        self.fates[fate as usize]
    }

    /// Frames that wait, are in the engine, or are being analysed.
    pub fn in_flight(&self) -> u64 {
        self.frames_in.saturating_sub(self.fates.iter().sum())
    }
}

/// Latency percentiles over a recent window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentiles {
    /// Median.
    pub p50: Duration,
    /// 95th percentile.
    pub p95: Duration,
}

/// The latencies of the last ten seconds, at most 1024 of them.
#[derive(Debug, Default)]
struct Recent {
    samples: VecDeque<(Tick, Duration)>,
}

impl Recent {
    const WINDOW: Duration = Duration::from_secs(10);
    const MOST: usize = 1024;

    fn note(&mut self, now: Tick, latency: Duration) {
        if self.samples.len() == Self::MOST {
            self.samples.pop_front();
        }
        self.samples.push_back((now, latency));
    }

    fn percentiles(&mut self, now: Tick) -> Option<Percentiles> {
        while self.samples.front().is_some_and(|(at, _)| now.since(*at) > Self::WINDOW) {
            self.samples.pop_front();
        }
        let mut sorted: Vec<Duration> = self.samples.iter().map(|(_, d)| *d).collect();
        sorted.sort_unstable();
        // Nearest rank: the smallest sample that at least q of all do not exceed.
        let rank =
            |q: f64| sorted.get(((q * sorted.len() as f64).ceil() as usize).saturating_sub(1)).copied();
        Some(Percentiles { p50: rank(0.50)?, p95: rank(0.95)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_balances() {
        let ledger = Ledger::default();
        assert_eq!(ledger.admit(), 0);
        assert_eq!(ledger.admit(), 1);
        ledger.settle(Fate::Stale);
        let counts = ledger.read();
        assert_eq!((counts.frames_in, counts.of(Fate::Stale), counts.in_flight()), (2, 1, 1));
    }

    #[test]
    fn percentiles_forget_after_ten_seconds() {
        let mut recent = Recent::default();
        for ms in 1..=100 {
            recent.note(Tick::from_millis(ms), Duration::from_millis(ms));
        }
        let p = recent.percentiles(Tick::from_millis(100)).expect("there are samples");
        assert_eq!((p.p50, p.p95), (Duration::from_millis(50), Duration::from_millis(95)));
        assert_eq!(recent.percentiles(Tick::from_millis(20_000)), None);
    }
}
