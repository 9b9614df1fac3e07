//! Who is let in. A request gets a [`Place`] before its body is read, and keeps it until its picture has met its fate: so
//! what is pending is bounded, whatever clients do.
//!
//! | what | bound | who is over it gets |
//! |---|---|---|
//! | pending requests | `[http] max_pending_requests` | 503 `busy` |
//! | time | the estimate ([`super::wait`]) against `timeout_ms` | 503 `late` |
//! | bytes of bodies and decoded pictures | [`Limits::memory`] | 503 `busy` |
//! | a tenant's pending requests and rate | `[tenants.NAME]` | 429 |
//! | pictures decoded at a time | [`decoders`] | waits, within `timeout_ms` |

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use super::quota::{Quota, Share};
use super::tenant::Tenant;
use super::wait::Wait;
use super::{Answer, CLASSES, Outcome, Refusal, Waiting, still};
use crate::board::Board;
use crate::clock::{Clock, Tick};
use crate::config::{self, Priority};
use crate::fault::Fault;
use crate::flow::capacity::Ceiling;
use crate::frame::{Fate, Still};

/// The longest `timeout_ms`; also how long a picture stays in the ring at most.
pub const MOST_TIMEOUT: Duration = Duration::from_secs(10);
/// The least that a `Retry-After` says, and the most: a daemon that is stuck for longer is somebody's task.
const RETRY_SECONDS: (u64, u64) = (1, 60);
/// The nice value of decoding: that of the engine, or less, so that it gives way to the engine and to the cameras' decoders.
/// When these have nothing to do, it has all it wants. At 19 a box that is busy with something else would decode next to nothing.
const fn decoder_nice(class: Priority) -> i32 {
    match class {
        Priority::Realtime => 5,
        Priority::Bulk => 15,
    }
}

/// Hands a picture to the frame path; what kind of pixels that has stays behind it.
pub type Door = Arc<dyn Fn(Priority, Still, Waiting) -> Result<(), Fault> + Send + Sync>;

/// What requests may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Pending at a time.
    pub pending: usize,
    /// The largest file.
    pub image_bytes: usize,
    /// The largest picture.
    pub image_pixels: u64,
    /// Bytes of all bodies and pictures that are pending; enough for the largest one, at least.
    pub memory: usize,
}

impl Limits {
    /// As configured.
    pub fn new(http: &config::Http) -> Self {
        let largest = http.max_image_bytes + still::MOST_BYTES_A_PIXEL * http.max_image_pixels as usize;
        Limits {
            pending: http.max_pending_requests,
            image_bytes: http.max_image_bytes,
            image_pixels: http.max_image_pixels,
            memory: largest.max(256 << 20),
        }
    }
}

/// What a client wants to know, and how soon.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whose turn it takes.
    pub class: Priority,
    /// Who asks.
    pub tenant: Option<String>,
    /// From when the picture is here to its answer, at most [`MOST_TIMEOUT`].
    pub timeout: Duration,
}

/// A place among the pending requests, with everything that it takes. Given back on drop.
#[derive(Debug)]
pub struct Place {
    _all: Share,
    _class: Share,
    _tenant: Option<Share>,
    /// What its body and picture take.
    pub memory: Share,
    /// Requests that go before it.
    ahead: usize,
}

/// Counts one request's end. Dropped without one: the client has left.
#[derive(Debug)]
pub struct Ticket {
    board: Arc<Board>,
    class: Priority,
    outcome: Outcome,
}

impl Ticket {
    /// The request has ended.
    pub fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.board.requests.count(self.class, self.outcome);
    }
}

/// An answer, and how long it took.
#[derive(Debug)]
pub struct Told {
    /// What was found.
    pub answer: Answer,
    /// From when the picture was here.
    pub latency: Duration,
    /// Of these: until it was decoded.
    pub decoding: Duration,
}

enum Gate {
    Starting,
    Open(Door),
    Closed,
}

/// See the module.
pub struct Desk {
    board: Arc<Board>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    places: Arc<Quota>,
    memory: Arc<Quota>,
    tenants: BTreeMap<String, Tenant>,
    wait: Mutex<Wait>,
    decoders: Arc<Semaphore>,
    /// Pictures that are here and not decoded yet.
    decoding: Arc<Quota>,
    gate: Mutex<Gate>,
}

impl Desk {
    /// A desk that lets nobody in until it is opened.
    pub fn new(board: Arc<Board>, clock: Arc<dyn Clock>, limits: Limits, tenants: &[config::Tenant]) -> Self {
        Desk {
            board,
            clock,
            limits,
            places: Arc::new(Quota::new(limits.pending)),
            memory: Arc::new(Quota::new(limits.memory)),
            tenants: tenants.iter().map(|tenant| (tenant.name.clone(), Tenant::new(tenant))).collect(),
            wait: Mutex::default(),
            decoders: Arc::new(Semaphore::new(decoders())),
            decoding: Arc::new(Quota::new(usize::MAX)),
            gate: Mutex::new(Gate::Starting),
        }
    }

    /// The engine is warm.
    pub fn open(&self, door: Door) {
        *lock(&self.gate) = Gate::Open(door);
    }

    /// The daemon stops: nobody is let in, and the door to the frame path is let go.
    pub fn close(&self) {
        *lock(&self.gate) = Gate::Closed;
    }

    /// What requests may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Let in and not answered yet.
    pub fn pending(&self) -> usize {
        self.places.used()
    }

    /// Counts one request of a class.
    pub fn ticket(&self, class: Priority) -> Ticket {
        Ticket { board: Arc::clone(&self.board), class, outcome: Outcome::Gone }
    }

    /// A place for one picture.
    ///
    /// # Errors
    /// See the module's table; also 403 for an unknown tenant, and 503 while the daemon starts or stops.
    pub fn admit(&self, ask: &Ask) -> Result<Place, Refusal> {
        self.door()?;
        let tenant = self.tenant(ask.tenant.as_deref())?;
        let now = self.clock.now();
        let (Some(all), Some(memory)) = (self.places.take(1), self.memory.take(0)) else {
            let limit = self.places.limit();
            let message = format!("{limit} requests are pending ([http] max_pending_requests): try again");
            let refusal = Refusal::busy("busy", Outcome::Busy, self.retry_after(now), message);
            return Err(refusal.by(self.ceiling()));
        };
        let of_tenant = match tenant {
            Some(tenant) => Some(tenant.pending.take(1).ok_or_else(|| {
                let limit = tenant.pending.limit();
                let message =
                    format!("{limit} requests of this tenant are pending (its max_pending_requests)");
                let seconds = Some(self.retry_after(now));
                Refusal {
                    retry_after: seconds,
                    ..Refusal::new(429, "tenant_busy", Outcome::TenantLimit, message)
                }
            })?),
            None => None,
        };
        let class = self.board.requests.pend(ask.class);
        let ahead = self.ahead(ask.class) - 1;
        let expected = lock(&self.wait).expect(now, ahead, self.board.flow.pace().as_ref());
        if expected > ask.timeout {
            let message = format!(
                "an answer would take about {} ms, more than timeout_ms = {}: try again, or allow more",
                expected.as_millis(),
                ask.timeout.as_millis()
            );
            let refusal = Refusal::busy("late", Outcome::Late, whole_seconds(expected), message);
            return Err(refusal.by(Ceiling::Engine));
        }
        // Last of all, so that a request that is refused for another reason costs its tenant nothing.
        if let Some(Err(wait)) = tenant.map(|tenant| tenant.one_more(now)) {
            let message = "this tenant sends more pictures a second than its max_fps";
            let seconds = Some(whole_seconds(wait));
            return Err(Refusal {
                retry_after: seconds,
                ..Refusal::new(429, "tenant_rate", Outcome::TenantLimit, message)
            });
        }
        Ok(Place { _all: all, _class: class, _tenant: of_tenant, memory, ahead })
    }

    /// A picture through the engine. `bytes` is the file, whole since `received`.
    ///
    /// # Errors
    /// A picture that cannot be read (4xx); 503 when it took too long, or the engine failed.
    pub async fn infer(
        &self,
        mut place: Place,
        bytes: Vec<u8>,
        received: Tick,
        ask: &Ask,
    ) -> Result<Told, Refusal> {
        let deadline = received + ask.timeout;
        let ahead = place.ahead;
        let asking = async {
            let undecoded = self.decoding.take(1);
            let permit = Arc::clone(&self.decoders).acquire_owned().await.expect("it is never closed");
            let (most_pixels, nice) = (self.limits.image_pixels, decoder_nice(ask.class));
            let decoding = tokio::task::spawn_blocking(move || {
                // Fails only without the right to change priorities: then nothing changes.
                let _ = rustix::process::setpriority_process(None, nice);
                let still = still::decode(&bytes, most_pixels, &mut place.memory);
                drop(permit);
                (still, place)
            });
            let (still, place) = decoding.await.map_err(|_| failed("its decoder panicked"))?;
            let still = still?;
            drop(undecoded);
            let entered = self.clock.now();
            let (reply, answer) = oneshot::channel();
            let waiting = Waiting { reply, deadline, entered, place, waited: Duration::ZERO };
            (self.door()?)(ask.class, still, waiting)?;
            match answer.await {
                Ok(Ok(answer)) => Ok((answer, entered.since(received))),
                Ok(Err(Fate::Stale)) => Err(self.timed_out(ask)),
                Ok(Err(_)) | Err(_) => Err(failed("the engine failed on it, or the daemon stops")),
            }
        };
        let left = deadline.since(self.clock.now());
        let outcome = tokio::time::timeout(left, asking).await.unwrap_or_else(|_| Err(self.timed_out(ask)));
        let now = self.clock.now();
        let latency = now.since(received);
        if matches!(&outcome, Ok(_) | Err(Refusal { outcome: Outcome::Timeout, .. })) {
            lock(&self.wait).note(now, ahead, latency, self.board.flow.pace().as_ref());
        }
        outcome.map(|(answer, decoding)| Told { answer, latency, decoding })
    }

    fn door(&self) -> Result<Door, Refusal> {
        let (code, message) = match &*lock(&self.gate) {
            Gate::Open(door) => return Ok(Arc::clone(door)),
            Gate::Starting => ("starting", "the model has not been warmed up yet: /readyz says when it has"),
            Gate::Closed => ("stopping", "the daemon stops"),
        };
        Err(Refusal::busy(code, Outcome::Unavailable, 5, message))
    }

    fn tenant(&self, name: Option<&str>) -> Result<Option<&Tenant>, Refusal> {
        if self.tenants.is_empty() {
            return Ok(None);
        }
        let message = match name {
            Some(name) => match self.tenants.get(name) {
                Some(tenant) => return Ok(Some(tenant)),
                None => "there is no such tenant: the configuration's [tenants] lists them",
            },
            None => "requests here need ?tenant=NAME, one of the configuration's [tenants]",
        };
        Err(Refusal::new(403, "unknown_tenant", Outcome::TenantLimit, message))
    }

    /// Pending requests that go before a new one of this class, itself among them.
    fn ahead(&self, class: Priority) -> usize {
        let before = match class {
            Priority::Realtime => &CLASSES[..1],
            Priority::Bulk => &CLASSES[..],
        };
        before.iter().map(|class| self.board.requests.pending(*class)).sum()
    }

    /// When what is pending now will have been answered.
    fn retry_after(&self, now: Tick) -> u64 {
        let pending = self.ahead(Priority::Bulk);
        whole_seconds(lock(&self.wait).expect(now, pending, self.board.flow.pace().as_ref()))
    }

    fn timed_out(&self, ask: &Ask) -> Refusal {
        let message = format!("no answer within timeout_ms = {}", ask.timeout.as_millis());
        let seconds = self.retry_after(self.clock.now());
        Refusal::busy("timeout", Outcome::Timeout, seconds, message).by(self.ceiling())
    }

    /// What most of the pending pictures wait for: to be decoded, or the engine.
    fn ceiling(&self) -> Ceiling {
        if self.decoding.used() > self.board.requests.entered() { Ceiling::Decode } else { Ceiling::Engine }
    }
}

fn failed(why: &str) -> Refusal {
    let message = format!("the picture was not inferred: {why}");
    Refusal::busy("unavailable", Outcome::Unavailable, RETRY_SECONDS.0, message)
}

fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs_f64().ceil() as u64).clamp(RETRY_SECONDS.0, RETRY_SECONDS.1)
}

/// Pictures decoded at a time: the cameras' decoders need the cores too.
fn decoders() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 4).clamp(1, 4))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is replaced or appended to in one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
