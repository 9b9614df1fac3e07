//! Owns the threads: names, panics, the order of stop.
//!
//! A panicked *camera* restarts within a budget ([`Budget`]); the others do not notice. A panicked *shared* stage cannot be
//! trusted to have left its state whole: it is reported on the fatal channel, and the process ends non-zero
//! after flushing, so that systemd starts it anew.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::clock::Tick;
use crate::fault::{Fault, Who};

/// A running thread, joined by name.
pub struct Worker {
    name: String,
    handle: JoinHandle<()>,
}

/// Starts a shared stage. When it fails or panics, `fatal` learns of it.
///
/// # Errors
/// When the system has no thread to give.
pub fn stage(
    name: &str,
    fatal: Sender<Fault>,
    body: impl FnOnce() -> Result<(), Fault> + Send + 'static,
) -> Result<Worker, Fault> {
    // The receiver outlives the stages; if it is gone, the process is on its way out already.
    guard(name, move |fault| drop(fatal.send(fault)), body)
}

/// The same for a thread whose end another one decides about: when it fails or panics, `report` is called on it.
///
/// # Errors
/// When the system has no thread to give.
pub fn guard(
    name: &str,
    report: impl FnOnce(Fault) + Send + 'static,
    body: impl FnOnce() -> Result<(), Fault> + Send + 'static,
) -> Result<Worker, Fault> {
    let stage = name.to_owned();
    spawn(name, move || {
        let outcome = catch_unwind(AssertUnwindSafe(body));
        let fault = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(fault)) => fault,
            Err(panic) => {
                Fault::new(Who::Bug, "panic", format!("stage {stage} panicked: {}", panic_text(&*panic)))
            }
        };
        report(fault);
    })
}

/// Starts any named thread.
///
/// # Errors
/// When the system has no thread to give.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<Worker, Fault> {
    let handle = std::thread::Builder::new()
        .name(name.chars().take(15).collect())
        .spawn(body)
        .map_err(|e| Fault::new(Who::Device, "threads", format!("thread {name} cannot be started: {e}")))?;
    Ok(Worker { name: name.to_owned(), handle })
}

impl Worker {
    /// As it was started.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits for its end.
    pub fn join(self) {
        if self.handle.join().is_err() {
            tracing::error!(thread = self.name, "A thread panicked outside its guard.");
        }
    }
}

/// When a loop last showed that it lives; read by health checks and the watchdog.
#[derive(Clone, Debug)]
pub struct Beat(Arc<AtomicU64>);

impl Beat {
    /// The longest that a loop may sleep between two beats.
    pub const EVERY: Duration = Duration::from_secs(1);

    /// A loop that lives now.
    pub fn new(now: Tick) -> Beat {
        Beat(Arc::new(AtomicU64::new(now.as_nanos())))
    }

    /// It still does.
    pub fn touch(&self, now: Tick) {
        self.0.store(now.as_nanos(), Relaxed);
    }

    /// When it last did.
    pub fn last(&self) -> Tick {
        Tick::from_nanos(self.0.load(Relaxed))
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(no message)".to_owned())
}

/// How many panics are forgiven: at most [`Budget::MOST`] in [`Budget::WINDOW`].
#[derive(Debug, Default)]
pub struct Budget {
    panics: VecDeque<Tick>,
}

impl Budget {
    /// Panics forgiven in one window.
    pub const MOST: usize = 5;
    /// The window.
    pub const WINDOW: Duration = Duration::from_secs(300);

    /// Notes a panic. False: the budget is spent, do not restart.
    pub fn spend(&mut self, now: Tick) -> bool {
        while self.panics.front().is_some_and(|at| now.since(*at) > Self::WINDOW) {
            self.panics.pop_front();
        }
        self.panics.push_back(now);
        self.panics.len() <= Self::MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_spent_by_quick_panics_and_forgives_slow_ones() {
        let mut budget = Budget::default();
        for _ in 0..Budget::MOST {
            assert!(budget.spend(Tick::ZERO));
        }
        assert!(!budget.spend(Tick::ZERO));
        assert!(budget.spend(Tick::from_millis(301_000)));
    }

    #[test]
    fn a_panicked_stage_is_reported() {
        let (fatal, reports) = crossbeam_channel::bounded(1);
        let worker = stage("test", fatal, || panic!("on purpose")).expect("a thread starts");
        let fault = reports.recv().expect("the stage reports");
        worker.join();
        assert_eq!(fault.who, Who::Bug);
        assert!(fault.message.contains("on purpose"));
    }
}
