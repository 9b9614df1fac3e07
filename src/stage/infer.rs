//! `infer`: one loop a device. Takes batches from the intake, runs the engine, hands results on.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::board::{Board, Lane};
use crate::clock::{Clock, Tick};
use crate::config::Priority;
use crate::device::{Device, Engine};
use crate::fault::{Fault, Who};
use crate::flow::curve::{Curve, Rung};
use crate::flow::pace::Pacer;
use crate::frame::{Fate, Frame, FrameKey};
use crate::intake::{Busy, Intake, Next};
use crate::metrics;
use crate::stage::analyze::{Analyzable, Work};
use crate::video::Studio;

/// Runs that fail one after the other before the engine is given up.
const MOST_FAILURES: u32 = 3;

/// Measures S(b), rung by rung: one untimed run, then the quickest of three timed ones. READY waits for this, so that the first real
/// frame meets a warm engine.
///
/// Climbs until [`IDLE_RUNGS`] rungs in a row did not make a frame cheaper: what lies above would only
/// add latency, is not warmed up and not used. A rung that seems cheaper is measured again in turns with the best one before it: on
/// a busy machine that may be chance, and a batch that is chosen by chance costs latency for ever.
///
/// # Errors
/// When the engine fails on a batch of blank pictures.
pub fn warm_up<E: Engine>(engine: &mut E, clock: &dyn Clock) -> Result<Curve, Fault> {
    let mut rungs: Vec<Rung> = Vec::new();
    let quickest = |engine: &mut E, rung: &mut Rung, runs: u32| -> Result<(), Fault> {
        for _ in 0..runs {
            let before = clock.now();
            engine.run(rung.frames)?;
            // What longer runs took is the machine's doing.
            rung.service = rung.service.min(clock.now().since(before));
        }
        Ok(())
    };
    for frames in engine.ladder().to_vec() {
        engine.run(frames)?;
        let mut rung = Rung { frames, service: Duration::MAX };
        quickest(engine, &mut rung, 3)?;
        let per_frame = |rung: &Rung| rung.service.as_secs_f64() / rung.frames as f64;
        let best = Curve::new(&rungs).largest_useful();
        if let Some(best) = rungs.iter_mut().find(|rung| rung.frames == best)
            && per_frame(&rung) < per_frame(best)
        {
            for _ in 0..AGAIN {
                quickest(engine, best, 1)?;
                quickest(engine, &mut rung, 1)?;
            }
        }
        rungs.push(rung);
        let best = Curve::new(&rungs).largest_useful();
        if rungs.iter().filter(|rung| rung.frames > best).count() >= IDLE_RUNGS {
            break;
        }
    }
    let curve = Curve::new(&rungs);
    Ok(if engine.pads() { curve.padded() } else { curve })
}

/// Rungs without a gain before the climb ends: one may be a dip.
const IDLE_RUNGS: usize = 2;
/// How often a gain is measured again.
const AGAIN: u32 = 5;

/// What the loop needs.
pub struct Infer<D: Device> {
    /// Where batches come from.
    pub intake: Intake<D::Pixels>,
    /// The warm engine.
    pub engine: D::Engine,
    /// Steers wait and batch.
    pub pacer: Pacer,
    /// Towards `analyze`; full means that the engine waits, and rings give up frames.
    pub results: Sender<Work<<D::Engine as Engine>::Outputs>>,
    /// For fates.
    pub board: Arc<Board>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Keeps pictures that somebody wants to see.
    pub studio: Arc<Studio<D::Pixels>>,
}

struct Meters {
    decode: metrics::Timer,
    wait: metrics::Timer,
    preprocess: metrics::Timer,
    infer: metrics::Timer,
    frames: metrics::Sizes,
}

impl Meters {
    /// `gpu`: what the readings of one engine are labelled with where there are several.
    fn new(gpu: Option<u32>) -> Self {
        Meters {
            decode: metrics::stage("decode"),
            wait: metrics::batch_wait(gpu),
            preprocess: metrics::stage("preprocess"),
            infer: metrics::stage("infer"),
            frames: metrics::batch_frames(gpu),
        }
    }

    fn ran(&self, lane: &Lane, frames: usize, took: Duration) {
        self.frames.record(frames);
        self.infer.record(took);
        lane.worked(took);
    }
}

/// A batch that the engine works on.
struct Flight {
    frames: Vec<Analyzable>,
    taken: Tick,
    loaded: Tick,
}

/// What is under way, and how it went so far.
#[derive(Default)]
struct Course {
    flying: VecDeque<Flight>,
    /// Frames of the batch that is being made: taken, and neither settled nor flying yet.
    taken: Vec<FrameKey>,
    /// When the last results were there.
    landed: Tick,
    /// Runs that failed since one did not.
    failures: u32,
}

impl<D: Device> Infer<D> {
    /// Runs until every camera has gone and the rings are empty.
    ///
    /// An engine that works beside the host is given the next batch shortly before it has done the last one: late enough
    /// that the batch is of the newest frames and as large as it can be, early enough that the engine does not stand still.
    ///
    /// # Errors
    /// When the engine failed [`MOST_FAILURES`] times in a row. However it ends, a panic included, no frame is left without a fate.
    pub fn run(mut self) -> Result<(), Fault> {
        let mut course = Course::default();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.fly(&mut course)));
        self.fail(course.taken);
        for flight in course.flying {
            self.fail(flight.frames.iter().map(|f| f.key));
        }
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn lane(&self) -> &Lane {
        self.board.flow.lane(self.intake.lane)
    }

    fn fly(&mut self, course: &mut Course) -> Result<(), Fault> {
        let meters = Meters::new(self.board.flow.label(self.intake.lane));
        let mut batch: Vec<(FrameKey, Frame<D::Pixels>)> = Vec::new();
        let depth = self.engine.depth().max(1);
        self.engine.ring_when_done(self.intake.bell());
        loop {
            let waiting = course.flying.len();
            if waiting == depth || waiting > 0 && self.engine.is_done() {
                self.land(course, &meters)?;
                continue;
            }
            self.look();
            match self.next(course, &mut batch) {
                Next::Closed if waiting == 0 => return Ok(()),
                Next::Closed => {
                    self.land(course, &meters)?;
                    continue;
                }
                Next::Nothing => continue,
                Next::Batch => {}
            }
            let taken = self.clock.now();
            course.taken.extend(batch.iter().map(|(key, _)| *key));
            self.took(taken, &batch, &meters);
            let cpu = self.clock.thread_cpu();
            let frames = self.fill(taken, &mut batch, course);
            let loaded = self.clock.now();
            meters.preprocess.record(loaded.since(taken));
            metrics::preprocess_cpu(self.clock.thread_cpu().saturating_sub(cpu));
            if frames.is_empty() {
                continue;
            }
            let submitted = self.engine.submit(frames.len());
            course.taken.clear();
            match submitted {
                Ok(()) => course.flying.push_back(Flight { frames, taken, loaded }),
                Err(fault) => self.failed(&frames, &fault, course)?,
            }
        }
    }

    fn next(&self, course: &Course, batch: &mut Vec<(FrameKey, Frame<D::Pixels>)>) -> Next {
        let is_done = || self.engine.is_done();
        let busy = course.flying.back().map(|flight| {
            let service = self.pacer.curve().service(flight.frames.len());
            // Behind a run that takes no longer than the lead, the next batch would be taken at once.
            let lead = self.engine.lead().min(service / 2);
            let opens = course.landed.max(flight.taken) + service.saturating_sub(lead);
            Busy { opens, is_done: &is_done }
        });
        self.intake.next(self.pacer.pace().slots, busy, batch)
    }

    /// Takes the oldest batch's results and hands them on.
    fn land(&mut self, course: &mut Course, meters: &Meters) -> Result<(), Fault> {
        let outcome = self.engine.collect();
        let Some(Flight { frames, taken, loaded }) = course.flying.pop_front() else { return Ok(()) };
        if self.intake.is_abandoned() {
            // It hung, and its cameras run elsewhere: what it found is older than what they show.
            self.fail(frames.iter().map(|f| f.key));
            return Err(Fault::new(Who::Device, "engine", "the engine was given up, since it did not move"));
        }
        let (before, done) = (course.landed, self.clock.now());
        course.landed = done;
        // What it waited for the batch before it is not its own time.
        meters.ran(self.lane(), frames.len(), done.since(loaded.max(before)));
        self.pacer.ran(frames.len(), done.since(taken.max(before)));
        match outcome {
            Ok(outputs) => {
                course.failures = 0;
                // Fails only when `analyze` has panicked: the process is ending.
                if let Err(lost) = self.results.send(Work::Batch { frames, outputs })
                    && let Work::Batch { frames, .. } = lost.0
                {
                    self.fail(frames.iter().map(|f| f.key));
                }
                Ok(())
            }
            Err(fault) => self.failed(&frames, &fault, course),
        }
    }

    /// A batch failed; the third time in a row the engine has.
    fn failed(&self, frames: &[Analyzable], fault: &Fault, course: &mut Course) -> Result<(), Fault> {
        course.failures += 1;
        let failures = course.failures;
        tracing::error!(frames = frames.len(), failures, "The engine failed: {fault}");
        self.fail(frames.iter().map(|f| f.key));
        if failures < MOST_FAILURES {
            return Ok(());
        }
        let message = format!("the engine failed {failures} times in a row; last: {}", fault.message);
        Err(Fault::new(Who::Device, "engine", message))
    }

    /// Decides on wait and batch anew, when it is time.
    fn look(&mut self) {
        let now = self.clock.now();
        if !self.pacer.is_due(now) {
            return;
        }
        let tally = self.intake.take_tally();
        let lane = self.board.flow.lane(self.intake.lane);
        let pace = lane.with_latency(|latency| self.pacer.look(now, tally, latency));
        self.intake.steer(self.pacer.wait());
        lane.publish(pace, *self.pacer.curve());
    }

    fn took(&mut self, now: Tick, batch: &[(FrameKey, Frame<D::Pixels>)], meters: &Meters) {
        for (key, frame) in batch {
            // Requests may wait for seconds, and say so in their answers.
            let Some(card) = self.board.get(key.camera) else { continue };
            let decode = frame.stamp.decoded.since(frame.stamp.arrived);
            meters.decode.record(decode);
            meters.wait.record(now.since(frame.stamp.decoded));
            if card.terms().priority == Priority::Realtime {
                self.pacer.came(now, decode);
            }
        }
    }

    /// Loads each frame into the engine; those that cannot be used fail alone, and a request for which the answer would
    /// come too late is left out. Pixels are freed here, unless somebody watches their camera.
    fn fill(
        &mut self,
        now: Tick,
        batch: &mut Vec<(FrameKey, Frame<D::Pixels>)>,
        course: &mut Course,
    ) -> Vec<Analyzable> {
        let mut frames: Vec<Analyzable> = Vec::with_capacity(batch.len());
        let done = now + self.pacer.curve().service(batch.len());
        for (key, frame) in batch.drain(..) {
            if !self.board.requests.take(key, now, done) {
                course.taken.retain(|taken| *taken != key);
                self.board.settle(key, Fate::Stale);
                continue;
            }
            match self.engine.load(frames.len(), &frame) {
                Ok(place) => {
                    frames.push(Analyzable { key, stamp: frame.stamp, size: frame.size, place });
                    self.studio.keep(key, frame.pixels);
                }
                Err(fault) => {
                    tracing::debug!(%key, "A picture cannot be used: {fault}");
                    course.taken.retain(|taken| *taken != key);
                    self.fail([key]);
                }
            }
        }
        frames
    }

    fn fail(&self, keys: impl IntoIterator<Item = FrameKey>) {
        for key in keys {
            self.board.settle(key, Fate::Failed);
        }
    }
}
