//! The stop signal of async tasks: dropping the [`Source`] *is* the signal, so that nobody can forget to send it.
//!
//! Threads need none of this; they end when their input channel closes.

use tokio::sync::watch;

/// Keeps its [`Stop`]s running; dropping it stops them all.
#[derive(Debug)]
pub struct Source(#[expect(dead_code, reason = "held for its drop")] watch::Sender<()>);

/// Resolves once the [`Source`] has gone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<()>);

/// A source and the first of its signals; clone the signal for each task.
pub fn stop() -> (Source, Stop) {
    let (tx, rx) = watch::channel(());
    (Source(tx), Stop(rx))
}

impl Stop {
    /// Waits for the signal. Cancel safe, and may be asked again after it resolved.
    pub async fn stopped(&mut self) {
        // Nothing is ever sent, so that the only news is the source's end.
        while self.0.changed().await.is_ok() {}
    }
}
