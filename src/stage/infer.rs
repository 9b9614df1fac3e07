//! `infer`: one loop a device. Takes batches from the intake, runs the engine, hands results on.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::board::Board;
use crate::clock::Clock;
use crate::device::{Device, Engine};
use crate::fault::{Fault, Who};
use crate::frame::{Fate, Frame, FrameKey};
use crate::intake::{Intake, Next};
use crate::metrics;
use crate::stage::analyze::{Analyzable, Work};

/// Runs that fail one after the other before the engine is given up.
const MOST_FAILURES: u32 = 3;

/// How long one batch size takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rung {
    /// Frames in the batch.
    pub frames: usize,
    /// S(b): the median of the timed runs.
    pub service: Duration,
}

/// Measures S(b), rung by rung: one untimed run, then three timed ones. READY waits for this, so that the first real
/// frame meets a warm engine.
///
/// Climbs until [`IDLE_RUNGS`] rungs in a row did not make a frame cheaper: what lies above would only
/// add latency, is not warmed up and not used.
///
/// # Errors
/// When the engine fails on a batch of blank pictures.
pub fn warm_up<E: Engine>(engine: &mut E, clock: &dyn Clock) -> Result<Vec<Rung>, Fault> {
    let mut curve = Vec::new();
    for frames in engine.ladder().to_vec() {
        engine.run(frames)?;
        let mut times = [Duration::ZERO; 3];
        for time in &mut times {
            let before = clock.now();
            engine.run(frames)?;
            *time = clock.now().since(before);
        }
        times.sort_unstable();
        curve.push(Rung { frames, service: times[1] });
        let useful = curve.iter().position(|r| r.frames == largest_useful(&curve)).unwrap_or(0);
        if curve.len() - 1 - useful >= IDLE_RUNGS {
            break;
        }
    }
    Ok(curve)
}

/// Rungs without a gain before the climb ends: one may be a dip.
const IDLE_RUNGS: usize = 2;

/// The largest batch that pays: the last rung that makes a frame at least 5 % cheaper than the best smaller
/// one. Beyond it a batch only adds latency (on a CPU that is often rung 1).
pub fn largest_useful(curve: &[Rung]) -> usize {
    let per_frame = |r: &Rung| r.service.as_secs_f64() / r.frames as f64;
    let mut best: Option<&Rung> = None;
    for rung in curve {
        if best.is_none_or(|b| per_frame(rung) <= 0.95 * per_frame(b)) {
            best = Some(rung);
        }
    }
    best.map_or(1, |r| r.frames)
}

/// What the loop needs.
pub struct Infer<D: Device> {
    /// Where batches come from.
    pub intake: Intake<D::Pixels>,
    /// The warm engine.
    pub engine: D::Engine,
    /// The largest batch to ask for.
    pub slots: usize,
    /// Towards `analyze`; full means that the engine waits, and rings give up frames.
    pub results: Sender<Work<<D::Engine as Engine>::Outputs>>,
    /// For fates.
    pub board: Arc<Board>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

struct Meters {
    wait: metrics::Timer,
    preprocess: metrics::Timer,
    infer: metrics::Timer,
    frames: metrics::Sizes,
}

impl Meters {
    fn new() -> Self {
        Meters {
            wait: metrics::batch_wait(),
            preprocess: metrics::stage("preprocess"),
            infer: metrics::stage("infer"),
            frames: metrics::batch_frames(),
        }
    }

    fn ran(&self, frames: usize, took: Duration) {
        self.frames.record(frames);
        self.infer.record(took);
        metrics::engine_busy(took);
    }
}

impl<D: Device> Infer<D> {
    /// Runs until every camera has gone and the rings are empty.
    ///
    /// # Errors
    /// When the engine failed [`MOST_FAILURES`] times in a row.
    pub fn run(mut self) -> Result<(), Fault> {
        let meters = Meters::new();
        let mut batch: Vec<(FrameKey, Frame<D::Pixels>)> = Vec::with_capacity(self.slots);
        let mut failures = 0;
        loop {
            match self.intake.next(self.slots, &mut batch) {
                Next::Closed => return Ok(()),
                Next::Nothing => continue,
                Next::Batch => {}
            }
            let taken = self.clock.now();
            for (_, frame) in &batch {
                meters.wait.record(taken.since(frame.stamp.decoded));
            }
            let cpu = self.clock.thread_cpu();
            let frames = self.fill(&mut batch);
            let loaded = self.clock.now();
            meters.preprocess.record(loaded.since(taken));
            metrics::preprocess_cpu(self.clock.thread_cpu().saturating_sub(cpu));
            if frames.is_empty() {
                continue;
            }
            let outcome = self.engine.run(frames.len());
            let done = self.clock.now();
            meters.ran(frames.len(), done.since(loaded));
            match outcome {
                Ok(outputs) => {
                    failures = 0;
                    // Fails only when `analyze` has panicked: the process is ending.
                    if let Err(lost) = self.results.send(Work::Batch { frames, outputs })
                        && let Work::Batch { frames, .. } = lost.0
                    {
                        self.fail(frames.iter().map(|f| f.key));
                    }
                }
                Err(fault) => {
                    failures += 1;
                    tracing::error!(frames = frames.len(), failures, "The engine failed: {fault}");
                    self.fail(frames.iter().map(|f| f.key));
                    if failures == MOST_FAILURES {
                        return Err(Fault::new(
                            Who::Device,
                            "engine",
                            format!("the engine failed {failures} times in a row; last: {}", fault.message),
                        ));
                    }
                }
            }
        }
    }

    /// Loads each frame into the engine; those that cannot be used fail alone. Pixels are freed here.
    fn fill(&mut self, batch: &mut Vec<(FrameKey, Frame<D::Pixels>)>) -> Vec<Analyzable> {
        let mut frames: Vec<Analyzable> = Vec::with_capacity(batch.len());
        for (key, frame) in batch.drain(..) {
            match self.engine.load(frames.len(), &frame) {
                Ok(place) => frames.push(Analyzable { key, stamp: frame.stamp, size: frame.size, place }),
                Err(fault) => {
                    tracing::debug!(%key, "A picture cannot be used: {fault}");
                    self.fail([key]);
                }
            }
        }
        frames
    }

    fn fail(&self, keys: impl IntoIterator<Item = FrameKey>) {
        for key in keys {
            self.board.camera(key.camera).ledger.settle(Fate::Failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(frames: usize, ms: u64) -> Rung {
        Rung { frames, service: Duration::from_millis(ms) }
    }

    #[test]
    fn a_batch_pays_only_while_it_makes_frames_cheaper() {
        assert_eq!(largest_useful(&[rung(1, 20), rung(2, 40), rung(4, 80)]), 1, "a CPU");
        assert_eq!(
            largest_useful(&[rung(1, 10), rung(2, 11), rung(4, 14), rung(8, 27)]),
            4,
            "a GPU, full at 4"
        );
        assert_eq!(largest_useful(&[rung(1, 10), rung(2, 20), rung(4, 28)]), 4, "a dip on the way");
        assert_eq!(largest_useful(&[]), 1);
    }
}
