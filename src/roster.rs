//! The cameras that run, each with its thread. They come, change and go while the daemon runs, when the configuration is read again;
//! the others do not notice.
//!
//! A camera that comes is admitted like one that a client asks about: fully, at a lower rate, or not at all, by what the machine has
//! left; what was let in a moment ago counts, though it is not measured yet. Those that run are never stopped for that, and those of the
//! configuration at start are all started. Nobody knows what a camera sends before it is connected, so it is taken for the mean of
//! those that are online, or for [`UNKNOWN`]. The rate at which it was let in stays when it is configured otherwise.
//!
//! Where there are several GPUs a camera runs on one of them ([`place`]) and stays there; when that one fails
//! it is started again on another ([`Roster::evacuate`]), with its tracks, numbers and viewers.

mod reload;
mod terms;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

pub use self::reload::{Applied, Order, Refused, reload};
pub use self::terms::{check_labels, settings, terms, unknown_classes};
use crate::board::{Board, Card, Link};
use crate::clock::{Clock, Tick};
use crate::config::{self, Camera, Config, Priority};
use crate::device::{Device, Engine, Tap};
use crate::event::{Draft, Kind, Reason};
use crate::fault::{Fault, Who};
use crate::flow::batch::CameraSettings;
use crate::flow::capacity::{Asked, Stream, Verdict};
use crate::flow::place::{self, Room};
use crate::frame::CameraId;
use crate::intake::Port;
use crate::lanes::Berth;
use crate::model::spec::ModelSpec;
use crate::stage::analyze::Work;
use crate::stage::ingest::{Ingest, Never};
use crate::supervise::{self, Worker};
use crate::video::{Audience, rtsp};

/// What a camera is taken for while none is online: frames a second, pixels.
const UNKNOWN: (f64, f64) = (25.0, 1920.0 * 1080.0);
/// A camera's thread has so long to end.
const LEAVE: Duration = Duration::from_secs(10);
/// A camera that was moved to another GPU and is not back after so long is offline.
const MOVE: Duration = Duration::from_secs(5);

/// What each camera is wired to.
pub struct Wiring<D: Device> {
    /// Where sources are opened, and their rings: by lane.
    pub lanes: Vec<Berth<D>>,
    /// Its labels are those that `hide` may name.
    pub spec: Arc<ModelSpec>,
    /// State.
    pub board: Arc<Board>,
    /// Viewers.
    pub audience: Arc<Audience>,
    /// And those over RTSP; it ends with the roster.
    pub rtsp: Option<rtsp::Server>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Towards `publish`.
    pub events: Sender<Draft>,
    /// Towards `analyze`.
    pub analyze: Sender<Work<<D::Engine as Engine>::Outputs>>,
    /// Every worker holds one.
    pub alive: Sender<Never>,
}

/// See the module.
pub struct Roster<D: Device> {
    wiring: Wiring<D>,
    /// As it was read last; its cameras are those that run, as they are written.
    config: Config,
    running: HashMap<Arc<str>, Running>,
    /// The lane of each camera that ever ran.
    homes: HashMap<Arc<str>, usize>,
    /// The rate at which each camera was let in that was not let in fully, frames a second.
    caps: HashMap<Arc<str>, f64>,
    /// Cameras that are started again elsewhere, until they deliver; and when they are overdue.
    moving: Vec<(CameraId, Tick)>,
}

struct Running {
    id: CameraId,
    /// Hears what it sends, before it is decoded.
    tap: Option<Arc<dyn Tap>>,
    /// Dropping it tells the camera to stop.
    stop: Sender<Never>,
    /// Disconnects when its thread has ended.
    ended: Receiver<Never>,
    worker: Worker,
}

impl<D: Device> Roster<D> {
    /// Starts all cameras of a configuration. Their seats are those of the board in the same order.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(wiring: Wiring<D>, config: Config) -> Result<Self, Fault> {
        let cameras = config.cameras.clone();
        let mut roster = Roster {
            wiring,
            config,
            running: HashMap::new(),
            homes: HashMap::new(),
            caps: HashMap::new(),
            moving: Vec::new(),
        };
        for (id, camera) in (0..).map(CameraId).zip(&cameras) {
            let port = roster.berth(id, camera, settings(camera));
            roster.join(id, camera, port)?;
        }
        Ok(roster)
    }

    /// Takes up another configuration, as far as a running daemon can.
    ///
    /// # Errors
    /// When the configuration does not fit the model: then nothing was changed.
    pub fn apply(&mut self, new: Config) -> Result<Applied, Fault> {
        for camera in &new.cameras {
            check_labels(&self.wiring.spec, camera)?;
        }
        let config::Changes { added, changed, retuned, removed, restart } =
            config::between(&self.config, &new);
        let mut applied = Applied { restart, ..Applied::default() };
        // All are told before any is waited for.
        let changing = changed.iter().map(|camera| &camera.name);
        let mut leaving = Vec::new();
        for name in removed.iter().chain(changing) {
            if let Some(Running { id, stop, ended, worker, .. }) = self.running.remove(name) {
                drop(stop);
                leaving.push((id, ended, worker));
            }
        }
        for (id, ended, worker) in leaving {
            let is_removed = removed.contains(&self.wiring.board.camera(id).name);
            self.leave(id, &ended, worker, is_removed);
        }
        self.caps.retain(|name, _| new.cameras.iter().any(|camera| camera.name == *name));
        applied.removed = removed;
        for camera in &changed {
            match self.come(camera) {
                Ok(_) => applied.changed.push(Arc::clone(&camera.name)),
                Err(fault) => applied.failed.push((Arc::clone(&camera.name), fault)),
            }
        }
        for camera in &retuned {
            self.retune(camera);
            applied.changed.push(Arc::clone(&camera.name));
        }
        self.admit(&added, &mut applied);
        self.config = new;
        // They are looked at again next time.
        self.config.cameras.retain(|camera| self.running.contains_key(&camera.name));
        Ok(applied)
    }

    /// A lane has failed, as the board says: its cameras are started again on the others. How many there are.
    ///
    /// Their tracks go on, their viewers stay, and nobody is told that they are offline unless they are not back within [`MOVE`]. A source
    /// that does not stop, because the GPU answers nothing any more, keeps its thread and memory until weir is restarted.
    pub fn evacuate(&mut self, lane: usize) -> usize {
        let board = &self.wiring.board;
        // A file that has been played to its end is not played again.
        let finished =
            |card: &Card| matches!(card.link(), Link::Offline { reason, .. } if reason.code == "finished");
        let moves = |running: &Running| {
            let card = board.camera(running.id);
            card.lane() == lane && !finished(card)
        };
        let names: Vec<Arc<str>> = self
            .running
            .iter()
            .filter(|(_, running)| moves(running))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        // All are told before any is waited for, and all have the same time.
        let leaving: Vec<_> = names
            .into_iter()
            .filter_map(|name| {
                let Running { id, tap, stop, ended, worker } = self.running.remove(&name)?;
                self.wiring.board.camera(id).set_moving();
                drop(stop);
                Some((name, id, tap, ended, worker))
            })
            .collect();
        let count = leaving.len();
        let until = self.wiring.clock.now() + LEAVE;
        // In the order of the configuration, as at start.
        let mut leaving = leaving;
        leaving.sort_by_key(|(_, id, ..)| *id);
        for (name, id, tap, ended, worker) in leaving {
            self.await_end(id, &ended, worker, until);
            self.wiring.lanes[lane].harbour.close(id);
            let Some(camera) = self.config.cameras.iter().find(|camera| camera.name == name).cloned() else {
                continue;
            };
            let max_fps = self.wiring.board.camera(id).terms().max_fps;
            let port = self.berth(id, &camera, CameraSettings { max_fps, ..settings(&camera) });
            self.moving.push((id, self.wiring.clock.now() + MOVE));
            if let Err(fault) = self.launch(id, &camera, port, tap) {
                tracing::error!(camera = &*name, "The camera cannot be started: {fault}");
            }
        }
        count
    }

    /// The engine of a lane hangs: nothing waits for it any more.
    pub fn abandon(&self, lane: usize) {
        self.wiring.lanes[lane].harbour.abandon();
    }

    /// Says of cameras that were moved and are not back in time that they are offline. Call it every second or so.
    pub fn look(&mut self) {
        let Wiring { board, clock, events, analyze, .. } = &self.wiring;
        let now = clock.now();
        self.moving.retain(|(id, overdue)| {
            let card = board.camera(*id);
            if !card.is_moving() || now < *overdue {
                return card.is_moving();
            }
            card.take_moving();
            if matches!(card.link(), Link::Online { .. }) {
                let since = clock.wall();
                let message = "the GPU that it ran on has failed, and it is not back on another yet";
                let reason = Reason { code: "gpu_failed", message: message.to_owned() };
                card.set_link(Link::Offline { reason: reason.clone(), since });
                tracing::warn!(
                    camera = &*card.name,
                    reason = reason.code,
                    "The camera is offline: {message}."
                );
                let _ = analyze.send(Work::Lost { camera: *id, wall: since });
                let mut draft = Draft::new(Arc::clone(&card.name), Kind::CameraOffline, since);
                draft.reason = Some(reason);
                let _ = events.send(draft);
            }
            false
        });
    }

    /// Tells all cameras to stop; the answer is who to wait for.
    pub fn stop(self) -> Vec<Worker> {
        self.running.into_values().map(|running| running.worker).collect()
    }

    /// Starts those for which there is room.
    fn admit(&mut self, added: &[Camera], applied: &mut Applied) {
        for class in [Priority::Realtime, Priority::Bulk] {
            let cameras: Vec<&Camera> = added.iter().filter(|camera| camera.priority == class).collect();
            let (mut fit, mut cap, mut refusal, mut asked) = (cameras.len(), None, None, None);
            while fit > 0 {
                match self.ask(asked.insert(self.asked(&cameras[..fit], class))) {
                    Verdict::Accept => break,
                    Verdict::AcceptAt(fps) => {
                        cap = Some(fps);
                        break;
                    }
                    Verdict::Refuse { ceiling, retry_after } => {
                        fit -= 1;
                        refusal = Some((ceiling, retry_after));
                    }
                }
            }
            for camera in &cameras[..fit] {
                match cap {
                    Some(fps) => self.caps.insert(Arc::clone(&camera.name), fps),
                    None => self.caps.remove(&camera.name),
                };
                let id = match self.come(camera) {
                    Ok(id) => id,
                    Err(fault) => {
                        applied.failed.push((Arc::clone(&camera.name), fault));
                        continue;
                    }
                };
                if let Some(asked) = &asked {
                    self.wiring.board.admission.let_in(id, asked, cap);
                }
                applied.added.push(Arc::clone(&camera.name));
                if let Some(fps) = cap.filter(|fps| camera.max_fps.is_none_or(|max| f64::from(max) > *fps)) {
                    applied.capped.push((Arc::clone(&camera.name), fps));
                }
            }
            if let Some((ceiling, retry_after)) = refusal {
                let refused = cameras[fit..].iter().map(|camera| Arc::clone(&camera.name));
                applied.refused.extend(refused.map(|name| Refused { name, ceiling, retry_after }));
            }
        }
    }

    /// Is there room for these? Before the engine has been measured nobody knows; then they come.
    fn ask(&self, asked: &Asked) -> Verdict {
        let board = &self.wiring.board;
        board.admission.ask(asked, board).map_or(Verdict::Accept, |(verdict, _)| verdict)
    }

    /// What these ask for, each as much as their mean.
    fn asked(&self, cameras: &[&Camera], priority: Priority) -> Asked {
        let online: Vec<(f64, f64)> = self
            .wiring
            .board
            .cameras()
            .filter_map(|card| match card.link() {
                Link::Online { video, .. } => {
                    let fps = video.fps.map_or(UNKNOWN.0, f64::from);
                    Some((fps, f64::from(video.width) * f64::from(video.height)))
                }
                _ => None,
            })
            .collect();
        let (fps, pixels) = mean(&online).unwrap_or(UNKNOWN);
        let caps = cameras.iter().map(|camera| camera.max_fps.map_or(fps, |max| fps.min(f64::from(max))));
        let inferred = caps.sum::<f64>() / cameras.len() as f64;
        let ring = cameras.iter().map(|camera| camera.ring).max().unwrap_or_default();
        let count = u32::try_from(cameras.len()).unwrap_or(u32::MAX);
        // One whose video cannot be encoded is analysed all the same, so that encoders are no reason to refuse it.
        Asked { stream: Stream { fps, inferred, pixels, ring }, count, priority, encoded: 0 }
    }

    /// Gives a camera its new terms while it runs.
    fn retune(&self, camera: &Camera) {
        let Some(Running { id, .. }) = self.running.get(&camera.name) else { return };
        let terms = terms(camera, self.caps.get(&camera.name).copied());
        let card = self.wiring.board.camera(*id);
        card.set_terms(terms);
        self.wiring.lanes[card.lane()].harbour.retune(*id, terms.weight, terms.max_fps);
        tracing::info!(
            camera = &*camera.name,
            weight = terms.weight,
            max_fps = terms.max_fps,
            "The camera goes on with other terms."
        );
    }

    /// Seats a camera and starts it, at the rate at which it was let in.
    ///
    /// # Errors
    /// When there is no seat left, or the system has no thread to give.
    fn come(&mut self, camera: &Camera) -> Result<CameraId, Fault> {
        let terms = terms(camera, self.caps.get(&camera.name).copied());
        let id = self.wiring.board.seat(&camera.name, terms).ok_or_else(|| {
            let most = self.wiring.board.capacity();
            let message = format!("more than {most} different cameras have come since the start");
            Fault::new(Who::Device, "no_seat", message).remedy("restart weir for this one")
        })?;
        // Who watches a camera that only changed goes on.
        if !self.wiring.audience.cameras().contains(&id) {
            self.wiring.audience.add(id, &camera.name);
        }
        let port = self.berth(id, camera, CameraSettings { max_fps: terms.max_fps, ..settings(camera) });
        if let Err(fault) = self.join(id, camera, port) {
            let Wiring { lanes, board, audience, rtsp, clock, analyze, .. } = &self.wiring;
            // Nothing of it stays, as of one that goes.
            if let Some(rtsp) = rtsp {
                rtsp.remove(&camera.name);
            }
            audience.remove(id);
            lanes[board.camera(id).lane()].harbour.close(id);
            let _ = analyze.send(Work::Lost { camera: id, wall: clock.wall() });
            board.camera(id).set_link(Link::Removed);
            return Err(fault);
        }
        Ok(id)
    }

    /// Finds a camera its lane, and opens its ring there. At least one lane lives: without one the daemon ends.
    fn berth(&mut self, id: CameraId, camera: &Camera, settings: CameraSettings) -> Port<D::Pixels> {
        let home = self.homes.get(&camera.name).copied();
        let (rooms, mean) = self.rooms();
        let lane = place::choose(&rooms, home, asks(self.wiring.board.camera(id), mean)).unwrap_or(0);
        self.homes.insert(Arc::clone(&camera.name), lane);
        self.wiring.board.camera(id).set_lane(lane);
        self.wiring.lanes[lane].harbour.open(id, settings)
    }

    /// The lanes as a camera finds them, and what one is taken for whose stream nobody knows, frames a second.
    fn rooms(&self) -> (Vec<Room>, f64) {
        let board = &self.wiring.board;
        let known: Vec<f64> = board.cameras().filter_map(|card| online_fps(&card.link())).collect();
        let mean = if known.is_empty() { UNKNOWN.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
        let room = |(number, lane): (usize, &crate::board::Lane)| Room {
            capacity: lane.pace().map_or(0.0, |(_, curve)| curve.capacity()),
            load: self
                .running
                .values()
                .map(|running| board.camera(running.id))
                .filter(|card| card.lane() == number)
                .map(|card| asks(card, mean))
                .sum(),
            alive: lane.fault().is_none(),
        };
        let mut rooms: Vec<Room> = board.flow.lanes().iter().enumerate().map(room).collect();
        place::even_out(&mut rooms);
        (rooms, mean)
    }

    /// Starts a camera that was not there, or runs with other settings.
    fn join(&mut self, id: CameraId, camera: &Camera, port: Port<D::Pixels>) -> Result<(), Fault> {
        let Wiring { board, rtsp, analyze, .. } = &self.wiring;
        board.camera(id).set_privacy(camera.privacy.clone());
        // Fails only when `analyze` is gone: the daemon is going down.
        let _ = analyze.send(Work::Joined { camera: id, settings: Box::new(camera.clone()) });
        let tap = rtsp.as_ref().and_then(|rtsp| rtsp.add(id, camera));
        self.launch(id, camera, port, tap)
    }

    fn launch(
        &mut self,
        id: CameraId,
        camera: &Camera,
        port: Port<D::Pixels>,
        tap: Option<Arc<dyn Tap>>,
    ) -> Result<(), Fault> {
        let Wiring { lanes, board, clock, events, analyze, alive, .. } = &self.wiring;
        let (stop, stopped) = bounded(0);
        let (living, ended) = bounded(0);
        let ingest = Ingest {
            camera: camera.clone(),
            id,
            device: Arc::clone(&lanes[board.camera(id).lane()].device),
            port,
            board: Arc::clone(board),
            clock: Arc::clone(clock),
            events: events.clone(),
            analyze: analyze.clone(),
            stop: stopped,
            tap: tap.clone(),
        };
        let alive = alive.clone();
        let worker = supervise::spawn(&format!("cam-{}", camera.name), move || {
            ingest.run();
            drop((living, alive));
        })?;
        self.running.insert(Arc::clone(&camera.name), Running { id, tap, stop, ended, worker });
        Ok(())
    }

    /// A camera that was told to stop goes.
    fn leave(&self, id: CameraId, ended: &Receiver<Never>, worker: Worker, is_removed: bool) {
        let Wiring { lanes, board, audience, rtsp, clock, events, analyze, .. } = &self.wiring;
        let card = board.camera(id);
        card.take_moving();
        if let Some(rtsp) = rtsp {
            rtsp.remove(&card.name);
        }
        if is_removed {
            audience.remove(id);
        }
        self.await_end(id, ended, worker, clock.now() + LEAVE);
        lanes[card.lane()].harbour.close(id);
        let wall = clock.wall();
        let _ = analyze.send(Work::Lost { camera: id, wall });
        let (code, message) = if is_removed {
            ("removed", "it was taken out of the configuration")
        } else {
            ("changed", "its configuration changed; it is started again")
        };
        // Who hears of the camera's end by events has heard already when it was offline.
        if matches!(card.link(), Link::Online { .. }) || is_removed {
            let mut draft = Draft::new(Arc::clone(&card.name), Kind::CameraOffline, wall);
            draft.reason = Some(Reason { code, message: message.to_owned() });
            let _ = events.send(draft);
        }
        card.set_link(if is_removed { Link::Removed } else { Link::Connecting });
        tracing::info!(camera = &*card.name, reason = code, "The camera was stopped: {message}.");
    }

    /// Waits for the end of a camera's thread.
    fn await_end(&self, id: CameraId, ended: &Receiver<Never>, worker: Worker, until: Tick) {
        let left = until.since(self.wiring.clock.now());
        if let Err(RecvTimeoutError::Disconnected) = ended.recv_timeout(left) {
            worker.join();
        } else {
            tracing::error!(
                camera = &*self.wiring.board.camera(id).name,
                "Its source does not stop: its thread and memory stay until weir is restarted."
            );
        }
    }
}

fn online_fps(link: &Link) -> Option<f64> {
    match link {
        Link::Online { video, .. } => Some(video.fps.map_or(UNKNOWN.0, f64::from)),
        _ => None,
    }
}

/// Frames a second that a camera asks of an engine; `mean` is what it is taken for while nobody knows its stream.
fn asks(card: &Card, mean: f64) -> f64 {
    let fps = online_fps(&card.link()).unwrap_or(mean);
    fps.min(card.terms().max_fps.unwrap_or(f64::INFINITY))
}

fn mean(all: &[(f64, f64)]) -> Option<(f64, f64)> {
    let count = all.len() as f64;
    let sum = all.iter().fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    (!all.is_empty()).then(|| (sum.0 / count, sum.1 / count))
}
