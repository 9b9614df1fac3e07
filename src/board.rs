//! The live state of every camera: written by the stages, read by HTTP, metrics and the watchdog.
//!
//! The frame ledger here is the one truth about fates (law 2): `/metrics` and the API both read it, so they
//! cannot disagree. Counters are atomics; the few words that change rarely sit behind a mutex. What is known of the engines is in [`flow`].

mod flow;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

pub use self::flow::{Accelerator, Flow, Lane};

use crate::admission::Admission;
use crate::clock::{Tick, Wall};
use crate::config::{Priority, Privacy};
use crate::event::{Reason, Video};
use crate::flow::thin::Level;
use crate::flow::window::{Percentiles, Window};
use crate::frame::{CameraId, Fate, FrameKey};
use crate::request::Requests;

/// What percentiles of a camera are taken over.
const RECENT: Duration = Duration::from_secs(10);

/// Cameras of other names that may come while the daemon runs. Each camera that was ever there keeps its number and its counters.
pub const SPARE: usize = 256;

/// All cameras, by [`CameraId`]; and the requests, which have the numbers after the last camera that there could be.
#[derive(Debug)]
pub struct Board {
    /// Taken from the front.
    seats: Box<[OnceLock<Card>]>,
    taken: Mutex<usize>,
    /// Pictures that clients ask about.
    pub requests: Requests,
    /// How the engines are fed.
    pub flow: Flow,
    /// What the machine can take.
    pub admission: Admission,
}

impl Board {
    /// A board on which every camera is connecting and nothing has been counted.
    pub fn new(names: impl IntoIterator<Item = Arc<str>>) -> Self {
        Board::of(names.into_iter().map(|name| (name, Terms::default())))
    }

    /// The same, with the cameras' terms.
    pub fn of(cameras: impl IntoIterator<Item = (Arc<str>, Terms)>) -> Self {
        Board::with_lanes(cameras, &[None])
    }

    /// The same, with a lane for each of these GPUs.
    pub fn with_lanes(cameras: impl IntoIterator<Item = (Arc<str>, Terms)>, gpus: &[Option<u32>]) -> Self {
        let cameras: Vec<_> = cameras.into_iter().collect();
        let seats: Box<[OnceLock<Card>]> = (0..cameras.len() + SPARE).map(|_| OnceLock::new()).collect();
        let requests = Requests::new(seats.len());
        let board = Board {
            seats,
            taken: Mutex::default(),
            requests,
            flow: Flow::new(gpus),
            admission: Admission::default(),
        };
        for (name, terms) in cameras {
            board.seat(&name, terms);
        }
        board
    }

    /// How many cameras there could ever be; [`CameraId`]s are below.
    pub fn capacity(&self) -> usize {
        self.seats.len()
    }

    /// A camera comes, or comes back: its number. `None`: too many different ones have come since the start.
    pub fn seat(&self, name: &Arc<str>, terms: Terms) -> Option<CameraId> {
        let mut taken = lock(&self.taken);
        let place = self.cameras().position(|card| card.name == *name).unwrap_or(*taken);
        let card = self.seats.get(place)?.get_or_init(|| Card::new(Arc::clone(name)));
        *taken = (*taken).max(place + 1);
        card.set_terms(terms);
        card.set_link(Link::Connecting);
        Some(CameraId(u32::try_from(place).ok()?))
    }

    /// One camera's card. Panics for a number that no camera ever had.
    pub fn camera(&self, id: CameraId) -> &Card {
        self.get(id).expect("a camera has a card from its first moment on")
    }

    /// One camera's card, if this is the number of a camera.
    pub fn get(&self, id: CameraId) -> Option<&Card> {
        self.seats.get(id.index()).and_then(OnceLock::get)
    }

    /// Every card by number, also those of cameras that have been removed: those of the configuration at start come first.
    pub fn cameras(&self) -> impl Iterator<Item = &Card> {
        self.seats.iter().map_while(OnceLock::get)
    }

    /// The cameras that are there now.
    pub fn present(&self) -> impl Iterator<Item = (CameraId, &Card)> {
        (0..).map(CameraId).zip(self.cameras()).filter(|(_, card)| !card.is_removed())
    }

    /// The camera of this name, if it is there now.
    pub fn find(&self, name: &str) -> Option<(CameraId, &Card)> {
        self.present().find(|(_, card)| *card.name == *name)
    }

    /// Counts the frames of one camera, or of one class of requests.
    pub fn ledger(&self, id: CameraId) -> &Ledger {
        match self.get(id) {
            Some(card) => &card.ledger,
            None => self.requests.ledger_of(id),
        }
    }

    /// One frame met its fate. A request whose picture met another one than [`Fate::Inferred`] is answered by that.
    pub fn settle(&self, key: FrameKey, fate: Fate) {
        match self.get(key.camera) {
            Some(card) => card.ledger.settle(fate),
            None => self.requests.settle(key, fate),
        }
    }
}

/// What a camera may ask of the engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Its class.
    pub priority: Priority,
    /// Its share within its class.
    pub weight: u32,
    /// Inferred frames a second; `None`: all.
    pub max_fps: Option<f64>,
    /// The oldest that its frames may become before the engine takes them.
    pub ring: Duration,
}

impl Default for Terms {
    /// Realtime, weight 1, no cap, 300 ms.
    fn default() -> Self {
        Terms { priority: Priority::Realtime, weight: 1, max_fps: None, ring: Duration::from_millis(300) }
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
    /// Frames that the motion gate left out.
    pub still: AtomicU64,
    /// [`Wall`] of the last picture that was analysed; 0: there was none.
    last_picture: AtomicI64,
    decode: AtomicU8,
    lane: AtomicUsize,
    moving: AtomicBool,
    link: Mutex<Link>,
    terms: Mutex<Terms>,
    privacy: Mutex<Arc<Privacy>>,
    latency: Mutex<Window>,
}

impl Card {
    fn new(name: Arc<str>) -> Self {
        Card {
            name,
            ledger: Ledger::default(),
            tracks: AtomicUsize::new(0),
            attempts: AtomicU64::new(0),
            still: AtomicU64::new(0),
            last_picture: AtomicI64::new(0),
            decode: AtomicU8::new(0),
            lane: AtomicUsize::new(0),
            moving: AtomicBool::new(false),
            link: Mutex::new(Link::Connecting),
            terms: Mutex::default(),
            privacy: Mutex::default(),
            latency: Mutex::new(Window::new(RECENT)),
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

    /// Whether it was taken out of the configuration.
    pub fn is_removed(&self) -> bool {
        matches!(*lock(&self.link), Link::Removed)
    }

    /// What it may ask of the engine.
    pub fn terms(&self) -> Terms {
        *lock(&self.terms)
    }

    /// Changes what it may ask of the engine.
    pub fn set_terms(&self, terms: Terms) {
        *lock(&self.terms) = terms;
    }

    /// The number of its lane: that of its engine.
    pub fn lane(&self) -> usize {
        self.lane.load(Relaxed)
    }

    /// From now on its frames go there.
    pub fn set_lane(&self, lane: usize) {
        self.lane.store(lane, Relaxed);
    }

    /// It is started again on another lane: for a moment it delivers nothing, and nobody is told of that.
    pub fn set_moving(&self) {
        self.moving.store(true, Relaxed);
    }

    /// Whether it is.
    pub fn is_moving(&self) -> bool {
        self.moving.load(Relaxed)
    }

    /// The same; from now on it is not.
    pub fn take_moving(&self) -> bool {
        self.moving.swap(false, Relaxed)
    }

    /// What nobody may see of it.
    pub fn privacy(&self) -> Arc<Privacy> {
        Arc::clone(&lock(&self.privacy))
    }

    /// Changes what nobody may see of it.
    pub fn set_privacy(&self, privacy: Privacy) {
        *lock(&self.privacy) = Arc::new(privacy);
    }

    /// What is decoded of it.
    pub fn decode(&self) -> Level {
        Level::ALL[usize::from(self.decode.load(Relaxed)) % Level::ALL.len()]
    }

    /// Changes what is decoded of it.
    pub fn set_decode(&self, level: Level) {
        self.decode.store(level as u8, Relaxed);
    }

    /// A picture that arrived then has been analysed.
    pub fn note_picture(&self, wall: Wall) {
        self.last_picture.store(wall.0, Relaxed);
    }

    /// When the last picture arrived that was analysed.
    pub fn last_picture(&self) -> Option<Wall> {
        Some(Wall(self.last_picture.load(Relaxed))).filter(|wall| wall.0 != 0)
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
    /// It was taken out of the configuration: nobody is told of it any more.
    Removed,
}

impl Link {
    /// The word used by API, metrics and MQTT.
    pub fn name(&self) -> &'static str {
        match self {
            Link::Connecting => "connecting",
            Link::Online { .. } => "online",
            Link::Offline { .. } => "offline",
            Link::Removed => "removed",
        }
    }

    /// The same for subscribers.
    pub fn status(&self) -> Status {
        let (since, reason, video) = match self {
            Link::Connecting | Link::Removed => (None, None, None),
            Link::Online { video, since } => (Some(since), None, Some(video.clone())),
            Link::Offline { reason, since } => (Some(since), Some(reason.clone()), None),
        };
        Status { state: self.name(), since: since.map(|wall| wall.rfc3339()), reason, video }
    }
}

/// A camera's connection, as the API and MQTT's retained status tell it; what does not apply is null.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Status {
    /// The first attempt is under way, pictures come, it failed and will be tried again, it was taken out.
    #[schemars(extend("enum" = ["connecting", "online", "offline", "removed"]))]
    pub state: &'static str,
    /// RFC 3339 in UTC: since when it is online or offline.
    pub since: Option<String>,
    /// Why it is offline.
    pub reason: Option<Reason>,
    /// What it delivers while it is online.
    pub video: Option<Video>,
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
}
