//! How the engines are fed: one [`Lane`] a GPU, written by its `infer` loop; and what all of them answer to.
//!
//! A machine without a GPU, or with one, has one lane: then what is said of the whole is what that lane says.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::lock;
use crate::clock::Tick;
use crate::device::accelerator::Report;
use crate::fault::Fault;
use crate::flow::curve::Curve;
use crate::flow::pace::{ENOUGH, Pace};
use crate::flow::window::Window;

/// All lanes, by number.
#[derive(Debug)]
pub struct Flow {
    lanes: Box<[Lane]>,
    target: Mutex<Duration>,
}

impl Flow {
    /// One lane for each of these: its GPU as CUDA counts, `None` where there is none. At least one lane is made.
    pub fn new(gpus: &[Option<u32>]) -> Self {
        let gpus = if gpus.is_empty() { &[None] } else { gpus };
        Flow { lanes: gpus.iter().map(|gpu| Lane::new(*gpu)).collect(), target: Mutex::default() }
    }

    /// Every lane.
    pub fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// One lane. Panics for a number that no lane has.
    pub fn lane(&self, lane: usize) -> &Lane {
        &self.lanes[lane]
    }

    /// Those that work.
    pub fn living(&self) -> impl Iterator<Item = (usize, &Lane)> {
        self.lanes.iter().enumerate().filter(|(_, lane)| lane.fault().is_none())
    }

    /// What a metric of one lane is labelled with. `None` where there is one lane: its metrics have no such label.
    pub fn label(&self, lane: usize) -> Option<u32> {
        (self.lanes.len() > 1).then(|| self.lanes[lane].gpu.unwrap_or(lane as u32))
    }

    /// Sets what is promised: the p95 of realtime frames.
    pub fn set_target(&self, target: Duration) {
        *lock(&self.target) = target;
    }

    /// What is promised.
    pub fn target(&self) -> Duration {
        *lock(&self.target)
    }

    /// The whole by its worst: pace and curve of the living lane with the highest ρ, with the highest p95 of all. `None` before an
    /// engine is warm.
    pub fn pace(&self) -> Option<(Pace, Curve)> {
        let paces = || self.living().filter_map(|(_, lane)| lane.pace());
        let (worst, curve) = paces().max_by(|a, b| a.0.rho.total_cmp(&b.0.rho))?;
        let p95 = paces().filter_map(|(pace, _)| pace.p95).max();
        Some((Pace { p95, ..worst }, curve))
    }

    /// Frames a second that the living engines can take together, at their largest useful batches.
    pub fn capacity(&self) -> f64 {
        self.living().filter_map(|(_, lane)| lane.pace()).map(|(_, curve)| curve.capacity()).sum()
    }
}

/// An engine with its GPU: its pace, and how it is.
#[derive(Debug)]
pub struct Lane {
    /// Which GPU, as CUDA counts; `None`: the CPU.
    pub gpu: Option<u32>,
    /// What that says of itself.
    pub accelerator: Accelerator,
    latency: Mutex<Window>,
    pace: Mutex<Option<(Pace, Curve)>>,
    /// Nanoseconds.
    busy: AtomicU64,
    fault: OnceLock<Fault>,
}

impl Lane {
    fn new(gpu: Option<u32>) -> Self {
        Lane {
            gpu,
            accelerator: Accelerator::default(),
            latency: Mutex::new(Window::new(Duration::from_secs(1)).at_least(ENOUGH)),
            pace: Mutex::new(None),
            busy: AtomicU64::new(0),
            fault: OnceLock::new(),
        }
    }

    /// Notes a realtime frame's time from arrival to its events.
    pub fn note_latency(&self, now: Tick, latency: Duration) {
        lock(&self.latency).note(now, latency);
    }

    /// The last second's latencies of realtime frames, and at least so many as say something.
    pub fn with_latency<T>(&self, look: impl FnOnce(&mut Window) -> T) -> T {
        look(&mut lock(&self.latency))
    }

    /// The pace from now on, and the engine's curve.
    pub fn publish(&self, pace: Pace, curve: Curve) {
        *lock(&self.pace) = Some((pace, curve));
    }

    /// The last pace and curve; `None` before the engine is warm.
    pub fn pace(&self) -> Option<(Pace, Curve)> {
        *lock(&self.pace)
    }

    /// The engine has worked for so long.
    pub fn worked(&self, took: Duration) {
        self.busy.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// How long it has worked since the start.
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy.load(Relaxed))
    }

    /// It has failed and takes no more frames. False: it had failed before.
    pub fn fail(&self, fault: Fault) -> bool {
        self.fault.set(fault).is_ok()
    }

    /// Why it takes no more frames; `None`: it works.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.get()
    }

    /// `live` or `failed`, the word of the API.
    pub fn state(&self) -> &'static str {
        if self.fault().is_some() { "failed" } else { "live" }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Who;
    use crate::flow::curve::Rung;
    use crate::flow::pace::{Objective, Pacer};

    #[test]
    fn the_whole_is_as_bad_as_its_worst_living_lane() {
        let flow = Flow::new(&[Some(0), Some(2)]);
        assert!(flow.pace().is_none());
        let ms = Duration::from_millis;
        for (lane, service, rho, p95) in [(0, 10, 0.2, 90), (1, 20, 0.8, 40)] {
            let curve = Curve::new(&[Rung { frames: 1, service: ms(service) }]);
            let pacer = Pacer::new(Objective { target: ms(100), max_wait: ms(30), max_batch: 1 }, curve);
            flow.lane(lane).publish(Pace { rho, p95: Some(ms(p95)), ..pacer.pace() }, curve);
        }
        let (pace, curve) = flow.pace().expect("both are warm");
        assert_eq!((pace.rho, pace.p95, curve.service(1)), (0.8, Some(ms(90)), ms(20)));
        assert_eq!((flow.capacity().round(), flow.label(1)), (150.0, Some(2)));
        assert!(flow.lane(1).fail(Fault::new(Who::Device, "engine", "gone")));
        assert_eq!((flow.pace().map(|p| p.0.rho), flow.capacity().round()), (Some(0.2), 100.0));
        assert_eq!((flow.lane(0).state(), flow.lane(1).state()), ("live", "failed"));
        // One lane is the whole, and nothing says which.
        assert_eq!(Flow::new(&[None]).label(0), None);
    }
}
