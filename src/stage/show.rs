//! `show`: paints and encodes what people watch. One thread for all cameras, at the lowest priority; it works on the newest frame of
//! each camera that is watched (on all, where an output asks for that), and on nothing while nobody watches.
//!
//! It holds nobody up: frames come through reels that give up the oldest, and go to views and encoders that do the same.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};

use crate::board::{Board, Link};
use crate::clock::{Clock, Tick, Waiter};
use crate::config;
use crate::device::Device;
use crate::device::canvas::paint::Painter;
use crate::device::canvas::{Canvas, Colour, fit};
use crate::fault::Fault;
use crate::flow::draw::{self, DrawList, Mark};
use crate::frame::{CameraId, FrameKey, Size, Stamp};
use crate::metrics;
use crate::stage::ingest::Never;
use crate::supervise::panic_text;
use crate::video::jpeg::Jpeg;
use crate::video::{Audience, Shot, Shown, Studio};

/// How often cameras without a picture are looked after, and the stop is seen.
const LOOK: Duration = Duration::from_millis(250);
/// A camera that is not online shows "no signal" this often: players give up on a silent stream.
const NO_SIGNAL: Duration = Duration::from_millis(300);
/// One that is online may rest this long between two pictures.
const REST: Duration = Duration::from_secs(10);
/// Boxes of a frame that is older than this say nothing about the picture.
const OLD: Duration = Duration::from_secs(1);
/// The size of "no signal" before a camera has shown one of its own.
const UNKNOWN: Size = Size { width: 1280, height: 720 };

/// What the loop needs.
pub struct Show<D: Device> {
    /// Where frames come from.
    pub studio: Arc<Studio<D::Pixels>>,
    /// Rings when there is something to do.
    pub waiter: Waiter,
    /// `[video]`.
    pub settings: config::Video,
    /// For the state of cameras.
    pub board: Arc<Board>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Disconnects when the daemon stops.
    pub stop: Receiver<Never>,
}

/// One camera's memory.
struct Scene {
    encoded: metrics::Encoded,
    size: Size,
    /// When something was shown last, picture or not.
    shown: Tick,
    /// The marks of the last frame that was analysed, when it arrived and how large it was.
    last: Option<(Tick, Size, Vec<Mark>)>,
}

impl Scene {
    fn new(name: &str) -> Scene {
        Scene { encoded: metrics::Encoded::new(name), size: UNKNOWN, shown: Tick::ZERO, last: None }
    }
}

/// The tools, and how long they are used.
struct Tools {
    painter: Painter,
    jpeg: Option<Jpeg>,
    quality: u32,
    drawing: metrics::Timer,
    encoding: metrics::Timer,
}

impl Tools {
    fn new(settings: &config::Video) -> Tools {
        let (drawing, encoding) = (metrics::stage("draw"), metrics::stage("jpeg"));
        let (painter, quality) = (Painter::new(settings.style), settings.jpeg_quality);
        Tools { painter, jpeg: None, quality, drawing, encoding }
    }

    /// Paints. Who may not see a thing does not get it: covers are not a choice.
    fn paint(&mut self, list: &DrawList, canvas: &mut Canvas, annotated: bool) {
        self.painter.cover(list, canvas);
        if annotated {
            self.painter.mark(list, canvas);
        }
    }

    fn encode(&mut self, canvas: Canvas) -> Result<bytes::Bytes, Fault> {
        let mut jpeg = match self.jpeg.take() {
            Some(jpeg) => jpeg,
            None => Jpeg::new(self.quality)?,
        };
        let bytes = jpeg.encode(canvas)?;
        // One that failed is not used again.
        self.jpeg = Some(jpeg);
        Ok(bytes)
    }
}

impl<D: Device> Show<D> {
    /// Runs until the daemon stops. A panic or a failing encoder costs the picture at hand, nothing else.
    pub fn run(self) {
        let clock = Arc::clone(&self.clock);
        let mut scenes: HashMap<CameraId, Scene> = HashMap::new();
        let mut tools = Tools::new(&self.settings);
        let mut looked = clock.now();
        let mut complained = None;
        while !matches!(self.stop.try_recv(), Err(TryRecvError::Disconnected)) {
            let mut worked = false;
            for id in self.audience().cameras() {
                let Some(shot) = self.studio.take(id) else { continue };
                worked = true;
                let scene = scenes.entry(id).or_insert_with(|| Scene::new(self.name(id)));
                let done = catch_unwind(AssertUnwindSafe(|| self.shoot(shot, scene, &mut tools)));
                let problem = match done {
                    Ok(Ok(())) => continue,
                    Ok(Err(fault)) => fault.to_string(),
                    Err(panic) => {
                        tools = Tools::new(&self.settings);
                        format!("painting panicked: {}", panic_text(&*panic))
                    }
                };
                // Loudly, once a minute: frames fail many times a second.
                let now = clock.now();
                if complained.is_none_or(|at| now.since(at) > Duration::from_secs(60)) {
                    complained = Some(now);
                    tracing::error!(camera = self.name(id), "A picture cannot be shown: {problem}.");
                }
            }
            let now = clock.now();
            if now.since(looked) >= LOOK {
                looked = now;
                self.studio.tidy();
                for id in self.audience().cameras() {
                    let scene = scenes.entry(id).or_insert_with(|| Scene::new(self.name(id)));
                    if let Err(fault) = self.look_after(id, now, scene, &mut tools) {
                        tracing::debug!("\"No signal\" cannot be shown: {fault}");
                    }
                }
            }
            if !worked {
                clock.wait(&self.waiter, Some(looked + LOOK));
            }
        }
    }

    fn audience(&self) -> &Arc<Audience> {
        self.studio.audience()
    }

    fn name(&self, id: CameraId) -> &str {
        &self.board.camera(id).name
    }

    /// One frame for all who watch its camera.
    fn shoot(&self, shot: Shot<D::Pixels>, scene: &mut Scene, tools: &mut Tools) -> Result<(), Fault> {
        let camera = shot.key.camera;
        scene.size = shot.size;
        scene.shown = self.clock.now();
        let analysed = shot.list.is_some();
        let list = match shot.list {
            Some(list) => list,
            None => self.unseen(shot.key, shot.stamp, shot.size, scene),
        };
        let missing =
            || Fault::new(crate::fault::Who::Device, "canvas", "this device has no pictures for people");
        let outputs = self.audience().outputs(camera);
        for output in outputs.iter().filter(|output| analysed || output.shows_all()) {
            if !output.wants(shot.stamp.arrived) {
                continue;
            }
            let began = self.clock.now();
            let mut canvas = D::canvas(&shot.pixels, output.width(), None).ok_or_else(missing)?;
            tools.paint(&list, &mut canvas, true);
            tools.drawing.record(self.clock.now().since(began));
            output.push(canvas, shot.stamp.arrived);
        }
        if analysed {
            for view in self.audience().views(camera) {
                let began = self.clock.now();
                let canvas = D::canvas(&shot.pixels, view.width(), Some(Colour::JPEG)).ok_or_else(missing)?;
                let jpeg = self.develop(began, canvas, &list, view.annotated, scene, tools)?;
                let shown = Shown { jpeg, seq: Some(shot.key.seq), wall: shot.stamp.wall };
                self.audience().publish(camera, view, shown);
            }
            scene.last = Some((shot.stamp.arrived, shot.size, draw::aged(&list.marks)));
        }
        Ok(())
    }

    /// What is painted on a frame that was not analysed: what is always hidden, and where things were a moment ago.
    fn unseen(&self, key: FrameKey, stamp: Stamp, size: Size, scene: &Scene) -> DrawList {
        let is_recent = |at: Tick, of: Size| of == size && stamp.arrived.since(at) <= OLD;
        let last = scene.last.as_ref().filter(|(at, of, _)| is_recent(*at, *of));
        let card = self.board.camera(key.camera);
        DrawList {
            size,
            covers: draw::masks(&card.privacy(), size),
            marks: last.map(|(.., marks)| marks.clone()).unwrap_or_default(),
            legend: draw::legend(&card.name, stamp.wall, size, &self.settings.style),
        }
    }

    /// Paints and encodes for a view; `began` is when its canvas was begun.
    fn develop(
        &self,
        began: Tick,
        mut canvas: Canvas,
        list: &DrawList,
        annotated: bool,
        scene: &Scene,
        tools: &mut Tools,
    ) -> Result<bytes::Bytes, Fault> {
        tools.paint(list, &mut canvas, annotated);
        let painted = self.clock.now();
        tools.drawing.record(painted.since(began));
        let jpeg = tools.encode(canvas)?;
        tools.encoding.record(self.clock.now().since(painted));
        scene.encoded.jpeg.increment(1);
        Ok(jpeg)
    }

    /// Shows "no signal" to who watches a camera that has no picture.
    fn look_after(
        &self,
        camera: CameraId,
        now: Tick,
        scene: &mut Scene,
        tools: &mut Tools,
    ) -> Result<(), Fault> {
        if !self.audience().is_watched(camera) {
            // Who comes next waits from then on.
            scene.shown = now;
            return Ok(());
        }
        let card = self.board.camera(camera);
        let link = card.link();
        let rest = if matches!(link, Link::Online { .. }) { REST } else { NO_SIGNAL };
        if now.since(scene.shown) < rest {
            return Ok(());
        }
        scene.shown = now;
        let wall = self.clock.wall();
        let state = match &link {
            Link::Online { .. } => "No picture, though it is online".to_owned(),
            Link::Connecting => "No signal yet: connecting".to_owned(),
            Link::Offline { reason, .. } => format!("No signal: {}", reason.message),
            Link::Removed => "No signal: the camera was taken out of the configuration".to_owned(),
        };
        let last = match card.last_picture() {
            Some(wall) => format!("Last picture {}", draw::clock(&wall.rfc3339())),
            None => "No picture since the start".to_owned(),
        };
        let lines = [state, last];
        let list = |size| draw::no_signal(size, &card.name, &lines);
        for view in self.audience().views(camera) {
            let canvas = Canvas::blank(fit(scene.size, view.width()), Colour::JPEG);
            let list = list(canvas.size());
            // Its words are all that there is to see: they are shown to everybody.
            let jpeg = self.develop(now, canvas, &list, true, scene, tools)?;
            self.audience().publish(camera, view, Shown { jpeg, seq: None, wall });
        }
        for output in self.audience().outputs(camera) {
            let mut canvas = Canvas::blank(fit(scene.size, output.width()), Colour::JPEG);
            tools.paint(&list(canvas.size()), &mut canvas, true);
            output.push(canvas, now);
        }
        Ok(())
    }
}
