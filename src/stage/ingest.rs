//! `ingest`: keeps one camera alive. One thread a camera, named `cam-NAME`.
//!
//! Each attempt builds a fresh source. Progress is *a decoded frame*: a camera that is connected but
//! delivers none for `stall_ms` has failed like any other. A picture that was left out on purpose before it was decoded
//! counts too, as long as the decoder gives a picture for each key frame that it gets. Between attempts the thread waits by
//! [`Backoff`], and meanwhile asks an unreachable camera whether it is back ([`Probe`]), so
//! that long waits do not cost long outages.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};

use crate::board::{Board, Card, Link};
use crate::clock::{Clock, Tick};
use crate::config::{self, Camera};
use crate::device::{Device, Gate, Happening, Picture, Sink, Source, Tap};
use crate::event::{Draft, Kind, Reason, Video};
use crate::fault::{Fault, Retry, Who};
use crate::flow::retry::Backoff;
use crate::flow::still;
use crate::flow::thin::{Pass, Valve};
use crate::frame::{CameraId, Frame, Stamp};
use crate::intake::Port;
use crate::probe::{Answer, Probe, refine};
use crate::stage::analyze::Work;
use crate::supervise::{Budget, panic_text};

/// How often the watchdog looks at a running source.
const LOOK: Duration = Duration::from_millis(100);
/// A source has this long to deliver its first picture: connecting, and waiting for a key frame.
const FIRST_PICTURE: Duration = Duration::from_secs(10);

/// Pictures that can be decoded on their own, went into the decoder and did not come out: from so many on, what is not decoded
/// says nothing about the camera's health any more. One may be on its way.
const MOST_OWED: u32 = 2;

/// Signs of life of one source.
#[derive(Default)]
struct Life {
    /// When the last sound picture was decoded, in nanoseconds; 0: never.
    decoded: AtomicU64,
    /// When the last picture came that was left out on purpose while the decoder owed nothing.
    thinned: AtomicU64,
    /// See [`MOST_OWED`].
    owed: AtomicU32,
}

/// Never sent: the end of its sender is the signal.
pub enum Never {}

/// Everything one camera's thread needs.
pub struct Ingest<D: Device> {
    /// What to open.
    pub camera: Camera,
    /// Its number.
    pub id: CameraId,
    /// Where to open it.
    pub device: Arc<D>,
    /// Its ring.
    pub port: Port<D::Pixels>,
    /// Where its state is kept.
    pub board: Arc<Board>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Towards `publish`.
    pub events: Sender<Draft>,
    /// Towards `analyze`: a camera that is gone ends its tracks.
    pub analyze: Sender<Work<<D::Engine as crate::device::Engine>::Outputs>>,
    /// Disconnects when the daemon stops.
    pub stop: Receiver<Never>,
    /// Hears what the camera sends, before it is decoded.
    pub tap: Option<Arc<dyn Tap>>,
}

/// How an attempt ended.
enum End {
    Stopped,
    /// A file that is played once has been played.
    Finished,
    Failed(Fault),
}

impl<D: Device> Ingest<D> {
    /// Runs until the daemon stops, or the file that it reads has ended.
    pub fn run(self) {
        let mut backoff = Backoff::new(fastrand::Rng::new());
        let mut budget = Budget::default();
        loop {
            self.card().attempts.fetch_add(1, Relaxed);
            let attempt = catch_unwind(AssertUnwindSafe(|| self.attempt(&mut backoff)));
            let end = attempt.unwrap_or_else(|panic| {
                let fault = Fault::new(
                    Who::Bug,
                    "panic",
                    format!("camera {}: its thread panicked: {}", self.camera.name, panic_text(&*panic)),
                );
                let again = if budget.spend(self.clock.now()) { Retry::Soon } else { Retry::Never };
                End::Failed(fault.retry(again))
            });
            let fault = match end {
                End::Stopped => return,
                End::Finished => {
                    self.offline(&Fault::new(Who::Camera, "finished", "the file has been played to its end"));
                    return;
                }
                End::Failed(fault) => refine(&self.camera.source, fault),
            };
            self.offline(&fault);
            let Some(next) = backoff.failed(self.clock.now(), fault.retry) else { return };
            if !self.wait(next, &fault, &mut backoff) {
                return;
            }
        }
    }

    fn card(&self) -> &Card {
        self.board.camera(self.id)
    }

    /// One source, from its start to its end.
    fn attempt(&self, backoff: &mut Backoff) -> End {
        let (happening, happenings) = bounded(64);
        let (news, videos) = bounded(16);
        let life = Arc::new(Life::default());
        let started = self.clock.now();
        let picture = self.on_picture(news, Arc::clone(&life));
        let sink = Sink { picture, happening, gate: self.gate(Arc::clone(&life)) };
        let mut source = match self.device.open(&self.camera, sink) {
            Ok(source) => source,
            Err(fault) => return End::Failed(fault),
        };
        if let Some(tap) = &self.tap {
            source.tap(Arc::clone(tap));
        }
        let mut online: Option<Video> = None;
        let mut seen = 0;
        loop {
            select! {
                recv(self.stop) -> _ => return End::Stopped,
                recv(happenings) -> what => match what {
                    Ok(Happening::Undecodable) => self.port.undecodable(),
                    Ok(Happening::Ended) => match &self.camera.source {
                        config::Source::File { repeat: true, .. } => {
                            if let Err(fault) = source.rewind() { return End::Failed(fault); }
                        }
                        config::Source::File { .. } => return End::Finished,
                        _ => return End::Failed(
                            Fault::new(Who::Camera, "ended", "the camera ended the stream").retry(Retry::Soon)),
                    },
                    Ok(Happening::Failed(fault)) => return End::Failed(fault),
                    Err(_) => return End::Failed(
                        Fault::new(Who::Bug, "source", "its source ended without a word").retry(Retry::Soon)),
                },
                recv(videos) -> video => if let Ok(video) = video {
                    self.online(&video, online.is_some());
                    online = Some(video);
                },
                default(LOOK) => {}
            }
            let now = self.clock.now();
            let last = life.decoded.load(Relaxed);
            if last != seen {
                seen = last;
                backoff.progress(now);
            }
            if let Some(fault) = self.stalled(now, started, &life) {
                return End::Failed(fault);
            }
        }
    }

    /// What the source's own thread does with each picture.
    fn on_picture(&self, news: Sender<Video>, life: Arc<Life>) -> Box<dyn FnMut(Picture<D::Pixels>) + Send> {
        let port = self.port.clone();
        let clock = Arc::clone(&self.clock);
        let stop = self.stop.clone();
        let lossless = self.is_lossless();
        let mut video: Option<Video> = None;
        let mut still = self.camera.still_fps.map(|fps| still::Gate::new(f64::from(fps)));
        Box::new(move |picture| {
            if video.as_ref() != Some(&picture.video) {
                // Dropped when nobody listens: the attempt is over.
                let _ = news.try_send(picture.video.clone());
                video = Some(picture.video.clone());
            }
            if lossless {
                port.wait_for_room(|| {
                    matches!(stop.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
                });
            }
            let now = clock.now();
            let Some(pixels) = picture.pixels else {
                port.undecodable();
                return;
            };
            // A picture that nobody can use is no progress, so only sound ones count.
            life.decoded.store(now.as_nanos(), Relaxed);
            life.owed.store(0, Relaxed);
            let stamp = Stamp {
                arrived: now - picture.age,
                decoded: now,
                pts: picture.pts,
                wall: clock.wall().before(picture.age),
            };
            if let (Some(gate), Some(grid)) = (&mut still, D::luma_grid(&pixels))
                && !gate.passes(now, &grid)
            {
                port.leave_out(Frame { stamp, size: picture.size, pixels });
                return;
            }
            port.push(Frame { stamp, size: picture.size, pixels });
        })
    }

    fn is_lossless(&self) -> bool {
        matches!(self.camera.source, config::Source::File { realtime: false, .. })
    }

    /// What the source asks before it decodes a picture.
    fn gate(&self, life: Arc<Life>) -> Option<Gate> {
        if self.is_lossless() {
            return None;
        }
        let (port, clock) = (self.port.clone(), Arc::clone(&self.clock));
        let mut valve = Valve::default();
        Some(Box::new(move |unit| {
            let pass = valve.pass(unit, |kind| port.wants(kind));
            if pass == Pass::Decode {
                if unit.kind.stands_alone() && unit.starts {
                    life.owed.fetch_add(1, Relaxed);
                }
                return pass;
            }
            if unit.starts {
                port.skipped();
            }
            if life.owed.load(Relaxed) < MOST_OWED {
                life.thinned.store(clock.now().as_nanos(), Relaxed);
            }
            pass
        }))
    }

    fn stalled(&self, now: Tick, started: Tick, life: &Life) -> Option<Fault> {
        if matches!(self.camera.source, config::Source::File { .. }) {
            return None;
        }
        let decoded = life.decoded.load(Relaxed);
        let last = decoded.max(life.thinned.load(Relaxed));
        let (silence, limit, what) = if decoded == 0 {
            (now.since(started), FIRST_PICTURE.max(self.camera.stall), "no picture since it was connected")
        } else {
            (now.since(Tick::from_nanos(last)), self.camera.stall, "no picture")
        };
        (silence > limit).then(|| {
            Fault::new(Who::Camera, "stalled", format!("{what} for {:.1} s", silence.as_secs_f32()))
                .retry(Retry::Soon)
        })
    }

    fn online(&self, video: &Video, was_online: bool) {
        let now = self.clock.wall();
        let mut was_online = was_online;
        if self.card().take_moving()
            && let Link::Online { video: before, .. } = self.card().link()
        {
            tracing::info!(camera = &*self.camera.name, "The camera is back.");
            if before == *video {
                return;
            }
            was_online = true;
        }
        let kind = if was_online { Kind::CameraChanged } else { Kind::CameraOnline };
        self.card().set_link(Link::Online { video: video.clone(), since: now });
        tracing::info!(
            camera = &*self.camera.name,
            width = video.width,
            height = video.height,
            codec = video.codec,
            fps = video.fps,
            "{}",
            if was_online { "The camera changed its stream." } else { "The camera is online." }
        );
        let mut draft = Draft::new(Arc::clone(&self.camera.name), kind, now);
        draft.video = Some(video.clone());
        // Fails only when `publish` is gone: the daemon is going down.
        let _ = self.events.send(draft);
    }

    fn offline(&self, fault: &Fault) {
        self.port.offline();
        self.card().take_moving();
        let before = self.card().link();
        let reason = Reason { code: fault.reason, message: fault.message.clone() };
        if matches!(&before, Link::Offline { reason: r, .. } if r.code == reason.code) {
            tracing::debug!(
                camera = &*self.camera.name,
                reason = fault.reason,
                "Still offline: {}",
                fault.message
            );
            return;
        }
        let now = self.clock.wall();
        self.card().set_link(Link::Offline { reason: reason.clone(), since: now });
        tracing::warn!(
            camera = &*self.camera.name,
            reason = fault.reason,
            help = fault.remedy,
            "The camera is offline: {}.",
            fault.message
        );
        let _ = self.analyze.send(Work::Lost { camera: self.id, wall: now });
        let mut draft = Draft::new(Arc::clone(&self.camera.name), Kind::CameraOffline, now);
        draft.reason = Some(reason);
        let _ = self.events.send(draft);
    }

    /// Waits for the next attempt. False: the daemon stops.
    fn wait(&self, mut next: Tick, fault: &Fault, backoff: &mut Backoff) -> bool {
        let mut probe = Probe::new(&self.camera.source, fault);
        loop {
            let now = self.clock.now();
            if now >= next {
                return true;
            }
            if let Some(asking) = &mut probe
                && asking.ask(now) == Answer::CameBack
            {
                probe = None;
                tracing::debug!(camera = &*self.camera.name, "The camera answers again.");
                next = backoff.peer_returned(self.clock.now());
                continue;
            }
            match self.stop.recv_timeout(next.since(now).min(LOOK)) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }
}
