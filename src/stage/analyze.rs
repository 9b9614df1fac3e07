//! `analyze`: tensors to boxes, boxes to tracks, tracks to events; and each frame's last fate.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::board::{Board, Link};
use crate::clock::{Clock, Tick, Wall};
use crate::config;
use crate::device::Outputs;
use crate::event::Draft;
use crate::flow::detect::Detector;
use crate::flow::draw::{Artist, Seen};
use crate::flow::rules::{FrameContext, Rules};
use crate::flow::track::{TrackView, Tracker};
use crate::frame::{CameraId, Detection, Fate, FrameKey, Size, Stamp};
use crate::metrics;
use crate::model::spec::{Placement, TensorView};
use crate::request::Found;
use crate::supervise::Beat;
use crate::video::Gallery;

/// A frame whose results are there.
#[derive(Clone, Copy, Debug)]
pub struct Analyzable {
    /// Which.
    pub key: FrameKey,
    /// When.
    pub stamp: Stamp,
    /// How large the picture was.
    pub size: Size,
    /// Where it lies in the input tensor.
    pub place: Placement,
}

/// What comes to this stage.
pub enum Work<O> {
    /// A batch has been through the engine: frame `i` is slot `i`.
    Batch {
        /// The frames.
        frames: Vec<Analyzable>,
        /// What the network said of them.
        outputs: O,
    },
    /// A camera comes, or comes back with other settings.
    Joined {
        /// Which.
        camera: CameraId,
        /// Its settings.
        settings: Box<config::Camera>,
    },
    /// A camera stopped delivering: its tracks end.
    Lost {
        /// Which.
        camera: CameraId,
        /// When it was noticed.
        wall: Wall,
    },
}

/// One camera's memory.
struct Scene {
    tracker: Tracker,
    rules: Rules,
    artist: Artist,
    latency: metrics::Timer,
}

/// What the loop needs.
pub struct Analyze<O> {
    /// Results and losses.
    pub work: Receiver<Work<O>>,
    /// Reads the network's outputs.
    pub detector: Detector,
    /// Labels that count.
    pub filter: Filter,
    /// The model's labels.
    pub labels: Vec<Arc<str>>,
    /// `[track]`.
    pub track: config::Track,
    /// `[events]`.
    pub settings: config::Events,
    /// Towards `publish`.
    pub events: Sender<Draft>,
    /// For fates and latency.
    pub board: Arc<Board>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// For the watchdog.
    pub beat: Beat,
    /// Where frames that somebody watches are shown.
    pub gallery: Arc<dyn Gallery>,
    /// How much of its past a track's trail shows.
    pub trail: Duration,
    /// What is painted.
    pub style: config::Style,
}

/// Which detections count at all.
#[derive(Clone, Debug)]
pub struct Filter {
    /// By class index: reported or not.
    pub classes: Vec<bool>,
}

impl Filter {
    /// From `[model] classes`; empty takes every named label.
    ///
    /// # Errors
    /// The names that the model does not know.
    pub fn new(labels: &[Arc<str>], wanted: &[String]) -> Result<Filter, Vec<String>> {
        let unknown: Vec<String> =
            wanted.iter().filter(|w| !labels.iter().any(|l| **l == ***w)).cloned().collect();
        if !unknown.is_empty() {
            return Err(unknown);
        }
        let counts = |label: &Arc<str>| {
            !label.is_empty() && (wanted.is_empty() || wanted.iter().any(|w| **w == **label))
        };
        Ok(Filter { classes: labels.iter().map(counts).collect() })
    }

    fn keeps(&self, detection: &Detection) -> bool {
        self.classes.get(usize::from(detection.class)).copied().unwrap_or(false)
    }
}

impl<O: Outputs> Analyze<O> {
    /// Runs until `infer` and every camera have gone.
    pub fn run(mut self) {
        let meter = metrics::stage("analyze");
        // By camera. None before it has joined.
        let mut scenes: Vec<Option<Scene>> = Vec::new();
        scenes.resize_with(self.board.capacity(), || None);
        let (mut found, mut all) = (Vec::new(), Vec::new());
        let mut drafts = Vec::new();
        let mut swept = self.clock.now();
        loop {
            let work = self.work.recv_timeout(Beat::EVERY);
            let began = self.clock.now();
            self.beat.touch(began);
            if began.since(swept) >= Beat::EVERY {
                swept = began;
                self.sweep(began, &mut scenes, &mut drafts);
            }
            let worked = work.is_ok();
            match work {
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Ok(Work::Batch { frames, outputs }) => {
                    for (slot, frame) in frames.iter().enumerate() {
                        if !self.detect(slot, frame, &outputs, &mut all) {
                            self.board.settle(frame.key, Fate::Failed);
                            continue;
                        }
                        found.clone_from(&all);
                        found.retain(|d| self.filter.keeps(d));
                        if self.board.requests.is_request(frame.key.camera) {
                            self.answer(frame, &found);
                            continue;
                        }
                        let Some(scene) = scenes.get_mut(frame.key.camera.index()).and_then(Option::as_mut)
                        else {
                            // Joining comes before the first frame.
                            self.board.settle(frame.key, Fate::Failed);
                            continue;
                        };
                        self.follow(frame, &found, scene, &mut drafts);
                        self.show(frame, &all, scene);
                    }
                }
                Ok(Work::Joined { camera, settings }) => {
                    if let Some(scene) = scenes.get_mut(camera.index()) {
                        *scene = Some(self.scene(&settings));
                    }
                }
                Ok(Work::Lost { camera, wall }) => {
                    if let Some(Some(scene)) = scenes.get_mut(camera.index()) {
                        scene.rules.apply_without_frame(wall, scene.tracker.end_all(), &mut drafts);
                        self.board.camera(camera).tracks.store(0, Relaxed);
                    }
                }
            }
            for draft in drafts.drain(..) {
                // Fails only when `publish` is gone: the daemon is going down.
                let _ = self.events.send(draft);
            }
            if worked {
                meter.record(self.clock.now().since(began));
            }
        }
    }

    fn scene(&self, camera: &config::Camera) -> Scene {
        Scene {
            tracker: Tracker::new(self.track.clone()),
            rules: Rules::new(camera, &self.labels, &self.settings),
            artist: self.artist(camera),
            latency: metrics::event_latency(&camera.name),
        }
    }

    fn artist(&self, camera: &config::Camera) -> Artist {
        let name = Arc::clone(&camera.name);
        Artist::new(name, &camera.privacy, &self.labels, self.trail, self.style)
    }

    /// Frames that were in the engine when their camera was lost may have started tracks since: time ends them.
    fn sweep(&self, now: Tick, scenes: &mut [Option<Scene>], drafts: &mut Vec<Draft>) {
        for (card, scene) in self.board.cameras().zip(scenes) {
            let Some(scene) = scene else { continue };
            let gone = || matches!(card.link(), Link::Offline { .. } | Link::Removed);
            if scene.tracker.tracks().next().is_some() && gone() {
                scene.rules.apply_without_frame(self.clock.wall(), scene.tracker.expire(now), drafts);
                card.tracks.store(scene.tracker.tracks().count(), Relaxed);
            }
        }
    }

    /// One frame's boxes, also those that are not reported. False: the engine returned something else than the network's outputs.
    fn detect(&mut self, slot: usize, frame: &Analyzable, outputs: &O, found: &mut Vec<Detection>) -> bool {
        found.clear();
        let views: Vec<TensorView<'_>> = (0..outputs.count()).map(|i| outputs.view(i, slot)).collect();
        let report = self.detector.decode(&views, &frame.place, frame.size, found);
        if report.non_finite > 0 {
            tracing::debug!(key = %frame.key, values = report.non_finite, "The network returned values that are no numbers.");
        }
        if report.wrong_shape {
            tracing::warn!(key = %frame.key, "The engine returned tensors of another shape than the network has.");
        }
        !report.wrong_shape
    }

    /// A request has no past and causes no events: its boxes are the answer.
    fn answer(&self, frame: &Analyzable, found: &[Detection]) {
        let found = found.iter().map(|d| Found {
            label: Arc::clone(&self.labels[usize::from(d.class)]),
            score: d.score,
            bbox: d.bbox.fractions(frame.size),
        });
        self.board.requests.answer(frame.key, frame.size, found.collect());
    }

    /// One frame's boxes through tracker and rules; the frame's fate and latency.
    fn follow(&self, frame: &Analyzable, found: &[Detection], scene: &mut Scene, drafts: &mut Vec<Draft>) {
        let changes = scene.tracker.update(frame.stamp.arrived, frame.size, found);
        let now = self.clock.now();
        let context = FrameContext { key: frame.key, stamp: frame.stamp, size: frame.size, now };
        scene.rules.apply(&context, changes, drafts);
        let card = self.board.camera(frame.key.camera);
        card.note_picture(frame.stamp.wall);
        card.tracks.store(scene.tracker.tracks().count(), Relaxed);
        let latency = now.since(frame.stamp.arrived);
        card.note_latency(now, latency);
        if card.terms().priority == config::Priority::Realtime {
            self.board.flow.lane(card.lane()).note_latency(now, latency);
        }
        scene.latency.record(latency);
        card.ledger.settle(Fate::Inferred);
    }

    /// Has a frame painted, if somebody watches. `all` is what the network saw, also what is not reported: it may have to be hidden.
    fn show(&self, frame: &Analyzable, all: &[Detection], scene: &mut Scene) {
        if !self.gallery.has(frame.key) {
            return;
        }
        let tracks: Vec<TrackView> = scene.tracker.tracks().copied().collect();
        let seen = Seen { stamp: frame.stamp, size: frame.size, found: all, tracks: &tracks };
        self.gallery.show(frame.key, frame.stamp, scene.artist.draw(&seen));
    }
}
