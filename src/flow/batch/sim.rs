//! A scripted world around the batcher, for its property tests: cameras that deliver at given moments,
//! and one engine that takes a given time for each batch. No clock: the world jumps from event to event.

use std::collections::HashMap;
use std::time::Duration;

use super::{Batcher, CameraSettings, Settings, Step};
use crate::clock::Tick;
use crate::config::DropPolicy;
use crate::frame::{CameraId, Fate, FrameKey};

/// Milliseconds, the unit of all scripts.
pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A camera and the moments at which its frames come, ascending.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub settings: CameraSettings,
    pub arrivals: Vec<Tick>,
}

impl Script {
    /// Frames after these gaps, in milliseconds.
    pub fn after(policy: DropPolicy, gaps_ms: impl IntoIterator<Item = u64>) -> Self {
        let mut at = Tick::ZERO;
        let arrivals = gaps_ms.into_iter().map(|gap| {
            at = at + ms(gap);
            at
        });
        let settings = CameraSettings { drop_policy: policy, ..CameraSettings::default() };
        Script { arrivals: arrivals.collect(), settings }
    }

    /// `frames` frames, `interval` milliseconds apart, the first at `phase`.
    pub fn regular(policy: DropPolicy, phase: u64, interval: u64, frames: usize) -> Self {
        Self::after(policy, std::iter::once(phase).chain(std::iter::repeat_n(interval, frames - 1)))
    }
}

/// Everything that is given.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub settings: Settings,
    pub cameras: Vec<Script>,
    /// The largest batch that the engine takes.
    pub slots: usize,
    /// How long the engine takes, batch by batch, over and over.
    pub service: Vec<Duration>,
}

/// A frame that reached the engine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub key: FrameKey,
    pub arrived: Tick,
    pub at: Tick,
    pub batch: usize,
}

impl Sent {
    pub fn waited(&self) -> Duration {
        self.at.since(self.arrived)
    }
}

/// Everything that happened.
#[derive(Debug, Default)]
pub(super) struct History {
    pub pushed: HashMap<FrameKey, Tick>,
    pub sent: Vec<Sent>,
    pub dropped: Vec<(FrameKey, Fate)>,
    /// What was left when the world stopped in mid-stream.
    pub drained: Vec<FrameKey>,
    /// Each wait: asked at, told.
    pub waits: Vec<(Tick, Tick)>,
    /// The most frames seen waiting, by camera.
    pub most_waiting: Vec<usize>,
    /// The engine's batches.
    pub batches: Vec<Batch>,
}

#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub at: Tick,
    pub frames: usize,
    /// How many frames of each camera waited before it, by camera.
    pub waiting: Vec<usize>,
    /// How many frames still wait after it.
    pub left: usize,
}

impl History {
    pub fn sent_by(&self, camera: u32) -> impl Iterator<Item = &Sent> {
        self.sent.iter().filter(move |sent| sent.key.camera == CameraId(camera))
    }
}

impl World {
    /// Plays the script until `stop`, or to the end of all frames.
    pub fn play(&self, stop: Option<Tick>) -> History {
        let mut batcher = Batcher::new(self.settings.clone());
        let mut arrivals = Vec::new();
        for (id, camera) in self.cameras.iter().enumerate() {
            let id = CameraId(id as u32);
            batcher.add_camera(id, camera.settings.clone());
            arrivals
                .extend(camera.arrivals.iter().zip(0..).map(|(at, seq)| (*at, FrameKey { camera: id, seq })));
        }
        arrivals.sort_unstable();
        let mut arrivals = arrivals.into_iter().peekable();

        let mut history = History { most_waiting: vec![0; self.cameras.len()], ..History::default() };
        let (mut free_at, mut wake) = (None::<Tick>, None::<Tick>);
        let (mut batch, mut dropped) = (Vec::new(), Vec::new());
        // Every jump goes to an arrival, to the end of a batch, or to a wait's end.
        while let Some(now) = [arrivals.peek().map(|(at, _)| *at), free_at, wake].into_iter().flatten().min()
        {
            if stop.is_some_and(|stop| stop < now) {
                break;
            }
            if free_at == Some(now) {
                free_at = None;
            }
            while let Some((at, key)) = arrivals.next_if(|(at, _)| *at == now) {
                history.pushed.insert(key, at);
                batcher.push(at, key, at);
            }
            let waiting: Vec<_> =
                (0..self.cameras.len()).map(|id| batcher.waiting(CameraId(id as u32))).collect();
            for (most, now) in history.most_waiting.iter_mut().zip(&waiting) {
                *most = (*most).max(*now);
            }
            let slots = if free_at.is_some() { 0 } else { self.slots };
            wake = match batcher.poll(now, slots, &mut batch) {
                Step::Send => {
                    let number = history.batches.len();
                    let left = (0..self.cameras.len()).map(|id| batcher.waiting(CameraId(id as u32))).sum();
                    history.batches.push(Batch { at: now, frames: batch.len(), waiting, left });
                    free_at = Some(now + self.service[number % self.service.len()]);
                    history.sent.extend(batch.drain(..).map(|(key, arrived)| Sent {
                        key,
                        arrived,
                        at: now,
                        batch: number,
                    }));
                    None
                }
                Step::WaitUntil(until) => {
                    history.waits.push((now, until));
                    Some(until)
                }
                Step::Idle => None,
            };
            batcher.take_dropped(&mut dropped);
            history.dropped.extend(dropped.drain(..).map(|(key, _, fate)| (key, fate)));
            // A wait into the past would never end; the property that forbids it must still see it.
            if wake.is_some_and(|wake| wake <= now) {
                break;
            }
        }
        batcher.drain(&mut batch);
        history.drained.extend(batch.iter().map(|(key, _)| *key));
        history
    }
}
