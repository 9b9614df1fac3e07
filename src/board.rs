//! The live state of every camera: written by the stages, read by HTTP, metrics and the watchdog.
//!
//! The frame ledger here is the one truth about fates (law 2): `/metrics` and the API both read it, so they
//! cannot disagree. Counters are atomics; the few words that change rarely sit behind a mutex.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::admission::Admission;
use crate::clock::{Tick, Wall};
use crate::config::{Priority, Privacy};
use crate::device::accelerator::Report;
use crate::event::{Reason, Video};
use crate::flow::curve::Curve;
use crate::flow::pace::Pace;
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
    /// How the engine is fed.
    pub flow: Flow,
    /// What the machine can take.
    pub admission: Admission,
    /// The GPU, where there is one.
    pub accelerator: Accelerator,
}

impl Board {
    /// A board on which every camera is connecting and nothing has been counted.
    pub fn new(names: impl IntoIterator<Item = Arc<str>>) -> Self {
        Board::of(names.into_iter().map(|name| (name, Terms::default())))
    }

    /// The same, with the cameras' terms.
    pub fn of(cameras: impl IntoIterator<Item = (Arc<str>, Terms)>) -> Self {
        let cameras: Vec<_> = cameras.into_iter().collect();
        let seats: Box<[OnceLock<Card>]> = (0..cameras.len() + SPARE).map(|_| OnceLock::new()).collect();
        let requests = Requests::new(seats.len());
        let board = Board {
            seats,
            taken: Mutex::default(),
            requests,
            flow: Flow::default(),
            admission: Admission::default(),
            accelerator: Accelerator::default(),
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
        *lock(&card.terms) = terms;
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

/// Where the readings of an accelerator come from. Set once, at start; without one there is none.
#[derive(Default)]
pub struct Accelerator(OnceLock<Box<dyn Fn() -> Option<Report> + Send + Sync>>);

impl Accelerator {
    /// Asks `report` from now on. Later calls change nothing.
    pub fn ask(&self, report: impl Fn() -> Option<Report> + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(report));
    }

    /// The last reading.
    pub fn report(&self) -> Option<Report> {
        self.0.get().and_then(|report| report())
    }

    /// Bytes that are left for cameras; `None`: pictures are in main memory, or nobody says.
    pub fn memory_for_cameras(&self) -> Option<f64> {
        self.report()?.memory_for_cameras()
    }
}

impl std::fmt::Debug for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Accelerator").field(&self.report()).finish()
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

/// The engine's pace, written by `infer`; and what it answers to, written by `analyze`.
#[derive(Debug)]
pub struct Flow {
    latency: Mutex<Window>,
    pace: Mutex<Option<(Pace, Curve)>>,
    target: Mutex<Duration>,
}

impl Default for Flow {
    fn default() -> Self {
        Flow {
            latency: Mutex::new(Window::new(Duration::from_secs(1))),
            pace: Mutex::new(None),
            target: Mutex::default(),
        }
    }
}

impl Flow {
    /// Notes a realtime frame's time from arrival to its events.
    pub fn note_latency(&self, now: Tick, latency: Duration) {
        lock(&self.latency).note(now, latency);
    }

    /// The last second's latencies of realtime frames.
    pub fn with_latency<T>(&self, look: impl FnOnce(&mut Window) -> T) -> T {
        look(&mut lock(&self.latency))
    }

    /// Sets what is promised: the p95 of realtime frames.
    pub fn set_target(&self, target: Duration) {
        *lock(&self.target) = target;
    }

    /// What is promised.
    pub fn target(&self) -> Duration {
        *lock(&self.target)
    }

    /// The pace from now on, and the engine's curve.
    pub fn publish(&self, pace: Pace, curve: Curve) {
        *lock(&self.pace) = Some((pace, curve));
    }

    /// The last pace and curve; `None` before the engine is warm.
    pub fn pace(&self) -> Option<(Pace, Curve)> {
        *lock(&self.pace)
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
    /// [`Wall`] of the last picture that was analysed; 0: there was none.
    last_picture: AtomicI64,
    decode: AtomicU8,
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
            last_picture: AtomicI64::new(0),
            decode: AtomicU8::new(0),
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
