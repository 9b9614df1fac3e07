//! Pictures that clients ask about: they go through the same batcher as the cameras' frames and are answered by name.
//!
//! To the frame path a class of requests is one more camera, with the numbers after the last one: its ring holds what
//! is pending, its turns are those of one camera of its class, its ledger gives every picture exactly one fate. What differs
//! is the end: instead of a tracker, [`Requests`] knows who waits for which [`FrameKey`].
//!
//! ```text
//! http/infer ─ Desk::admit ─ still::decode ─ Port::request ─▶ ring ─▶ infer ─▶ detect ─▶ Requests::answer ─▶ http/infer
//! ```
//!
//! [`desk`] decides who is let in; [`still`] reads pictures; [`wait`] reckons how long a request will take. HTTP
//! does not belong here.

pub mod desk;
pub mod quota;
pub mod still;
pub mod tenant;
pub mod wait;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use self::quota::{Quota, Share};
use crate::board::Ledger;
use crate::clock::Tick;
use crate::config::Priority;
use crate::fault::Fault;
use crate::flow::capacity::Ceiling;
use crate::frame::{CameraId, Fate, FrameKey, Size};

/// The classes of requests, in the order of their camera numbers.
pub const CLASSES: [Priority; 2] = [Priority::Realtime, Priority::Bulk];

/// How a request ended, as its client saw it. Every request that names its class ends in exactly one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With detections.
    Answered,
    /// Refused: `max_pending_requests` are pending, or the memory for pictures is taken.
    Busy,
    /// Refused: the answer would come after `timeout_ms`.
    Late,
    /// Let in, but not answered within `timeout_ms`.
    Timeout,
    /// Refused: above its tenant's limits.
    TenantLimit,
    /// Not a picture that can be read.
    BadImage,
    /// Too many bytes or pixels.
    TooLarge,
    /// The engine failed, or the daemon starts or stops.
    Unavailable,
    /// The client left before its answer.
    Gone,
}

impl Outcome {
    /// All, in the order of metrics.
    pub const ALL: [Outcome; 9] = [
        Outcome::Answered,
        Outcome::Busy,
        Outcome::Late,
        Outcome::Timeout,
        Outcome::TenantLimit,
        Outcome::BadImage,
        Outcome::TooLarge,
        Outcome::Unavailable,
        Outcome::Gone,
    ];

    /// The metric label and API key.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Busy => "busy",
            Outcome::Late => "late",
            Outcome::Timeout => "timeout",
            Outcome::TenantLimit => "tenant_limit",
            Outcome::BadImage => "bad_image",
            Outcome::TooLarge => "too_large",
            Outcome::Unavailable => "unavailable",
            Outcome::Gone => "gone",
        }
    }
}

/// One object in a picture, ready to be told.
#[derive(Clone, Debug, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct Found {
    /// The model's name for it.
    #[schemars(with = "String")]
    pub label: Arc<str>,
    /// Confidence, 0..=1.
    pub score: f32,
    /// Left, top, width, height as fractions of the picture.
    pub bbox: [f32; 4],
}

/// What the engine said of a picture.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The picture's size.
    pub size: Size,
    /// Best score first.
    pub found: Vec<Found>,
    /// How long it waited for its batch.
    pub waited: Duration,
}

/// Who waits for a picture. When it goes, so do its shares of what is limited.
#[derive(Debug)]
pub struct Waiting {
    /// Where the answer goes; or the fate that took its place.
    pub reply: oneshot::Sender<Result<Answer, Fate>>,
    /// An answer after this is of no use.
    pub deadline: Tick,
    /// When the picture entered the ring.
    pub entered: Tick,
    /// Its place among the pending requests.
    pub place: desk::Place,
    /// How long it waited, once the engine has taken it.
    pub waited: Duration,
}

impl Waiting {
    /// Is an answer at that time of any use?
    fn is_wanted(&self, at: Tick) -> bool {
        at <= self.deadline && !self.reply.is_closed()
    }
}

/// Counts requests, and knows who waits for which picture.
#[derive(Debug)]
pub struct Requests {
    /// The camera number of the first class.
    first: usize,
    ledgers: [Ledger; CLASSES.len()],
    outcomes: [[AtomicU64; Outcome::ALL.len()]; CLASSES.len()],
    pending: [Arc<Quota>; CLASSES.len()],
    waiting: Mutex<HashMap<FrameKey, Waiting>>,
}

impl Requests {
    /// For a board on which there could be so many cameras.
    pub fn new(cameras: usize) -> Self {
        Requests {
            first: cameras,
            ledgers: Default::default(),
            outcomes: Default::default(),
            pending: CLASSES.map(|_| Arc::new(Quota::new(usize::MAX))),
            waiting: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FrameKey, Waiting>> {
        // A panic between two operations on the table leaves it whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is this the number of a class of requests?
    pub fn is_request(&self, id: CameraId) -> bool {
        (self.first..self.first + CLASSES.len()).contains(&id.index())
    }

    /// The camera numbers of the classes.
    pub fn cameras(&self) -> [CameraId; CLASSES.len()] {
        CLASSES.map(|class| CameraId((self.first + class as usize) as u32))
    }

    /// Does somebody still wait for this picture at `now`?
    pub fn is_wanted(&self, key: FrameKey, now: Tick) -> bool {
        self.lock().get(&key).is_some_and(|waiting| waiting.is_wanted(now))
    }

    /// Pictures that are in the rings or in the engine.
    pub fn entered(&self) -> usize {
        self.lock().len()
    }

    /// The ledger of the class with this camera number. Panics for a camera.
    pub fn ledger_of(&self, id: CameraId) -> &Ledger {
        &self.ledgers[id.index() - self.first]
    }

    /// Counts the pictures of a class that came to the rings.
    pub fn ledger(&self, class: Priority) -> &Ledger {
        &self.ledgers[class as usize]
    }

    /// Requests of a class that ended in this way.
    pub fn ended(&self, class: Priority, outcome: Outcome) -> u64 {
        self.outcomes[class as usize][outcome as usize].load(Relaxed)
    }

    /// Requests of a class that were let in and are not answered yet.
    pub fn pending(&self, class: Priority) -> usize {
        self.pending[class as usize].used()
    }

    /// One more of a class is pending, until the share is dropped.
    fn pend(&self, class: Priority) -> Share {
        self.pending[class as usize].take(1).expect("it has no limit")
    }

    fn count(&self, class: Priority, outcome: Outcome) {
        self.outcomes[class as usize][outcome as usize].fetch_add(1, Relaxed);
    }

    /// Somebody waits for this picture, which is about to enter its ring.
    pub fn enter(&self, key: FrameKey, waiting: Waiting) {
        self.lock().insert(key, waiting);
    }

    /// The engine takes a picture at `now` and will be done with it at `done`. False: that is too late, or nobody waits for
    /// it any more. True for every frame of a camera.
    pub fn take(&self, key: FrameKey, now: Tick, done: Tick) -> bool {
        if !self.is_request(key.camera) {
            return true;
        }
        let mut table = self.lock();
        let Some(waiting) = table.get_mut(&key) else { return false };
        waiting.waited = now.since(waiting.entered);
        waiting.is_wanted(done)
    }

    /// A picture has been through the engine: its fate, and the answer.
    pub fn answer(&self, key: FrameKey, size: Size, found: Vec<Found>) {
        self.end(key, Fate::Inferred, |waiting| Ok(Answer { size, found, waited: waiting.waited }));
    }

    /// A picture met its fate; who waits for it is told.
    pub fn settle(&self, key: FrameKey, fate: Fate) {
        self.end(key, fate, |_| Err(fate));
    }

    fn end(&self, key: FrameKey, fate: Fate, reply: impl FnOnce(&Waiting) -> Result<Answer, Fate>) {
        let waiting = self.lock().remove(&key);
        self.ledger_of(key.camera).settle(fate);
        if let Some(waiting) = waiting {
            let answer = reply(&waiting);
            let Waiting { reply, place, .. } = waiting;
            // Its place is free before the client knows, so that the next request is not refused for this one.
            drop(place);
            // Fails when the client has left.
            let _ = reply.send(answer);
        }
    }
}

/// Why there is no answer: the HTTP status, a stable word, and what to do.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// 4xx, or 503.
    pub status: u16,
    /// A short stable word.
    pub code: &'static str,
    /// What is wrong, with the remedy.
    pub message: String,
    /// Seconds after which to try again, where that can help.
    pub retry_after: Option<u64>,
    /// What binds, where the machine is too small for what is asked of it.
    pub ceiling: Option<Ceiling>,
    /// What is counted.
    pub outcome: Outcome,
}

impl Refusal {
    /// A refusal that the same request would meet again.
    pub fn new(status: u16, code: &'static str, outcome: Outcome, message: impl Into<String>) -> Self {
        Refusal { status, code, message: message.into(), retry_after: None, ceiling: None, outcome }
    }

    /// 503: try again after `seconds`.
    pub fn busy(code: &'static str, outcome: Outcome, seconds: u64, message: impl Into<String>) -> Self {
        Refusal { retry_after: Some(seconds), ..Refusal::new(503, code, outcome, message) }
    }

    /// The same, saying what binds.
    pub fn by(self, ceiling: Ceiling) -> Self {
        Refusal { ceiling: Some(ceiling), ..self }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Refusal::busy("unavailable", Outcome::Unavailable, 1, fault.message)
    }
}
