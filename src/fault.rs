//! Typed failure: who failed, and whether trying again can help. Nobody matches on error text.

use std::fmt;

/// Who failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// One camera: the others must not notice.
    Camera,
    /// What the operator wrote.
    Config,
    /// The decoder, engine or encoder, or the library behind it.
    Device,
    /// A receiver of events.
    Sink,
    /// Us.
    Bug,
}

/// Whether the same call can work later without anybody changing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Yes: a link or a peer is away.
    Soon,
    /// Perhaps, but hammering harms (a wrong password locks accounts): wait long.
    Slowly,
    /// No.
    Never,
}

/// A failure with the words that an operator needs: what happened, and what to do.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Who failed.
    pub who: Who,
    /// Whether to try again.
    pub retry: Retry,
    /// A short stable word for metrics and events, such as `auth`, `refused`, `stalled`.
    pub reason: &'static str,
    /// What happened, naming the thing it happened to. Never holds a secret.
    pub message: String,
    /// What the operator can do about it; empty when there is nothing to add.
    pub remedy: String,
}

impl Fault {
    /// A fault of `who` that a retry cannot mend.
    pub fn new(who: Who, reason: &'static str, message: impl Into<String>) -> Self {
        Fault { who, retry: Retry::Never, reason, message: message.into(), remedy: String::new() }
    }

    /// The same, worth another try.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The same, with advice.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "\n  help: {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
