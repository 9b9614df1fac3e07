//! Reading the configuration again: who asks for it, and what came of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Roster;
use crate::config::Config;
use crate::device::Device;
use crate::fault::Fault;
use crate::flow::capacity::Ceiling;

/// Somebody wants the configuration read again.
pub struct Order {
    /// Where the answer goes: the words for the operator when the configuration cannot be used.
    pub reply: Option<oneshot::Sender<Result<Applied, String>>>,
}

/// What became of a configuration that was read again.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Cameras that were started.
    pub added: Vec<Arc<str>>,
    /// Cameras that have other settings, and were started again unless those are only `weight` and `max_fps`.
    pub changed: Vec<Arc<str>>,
    /// Cameras that were stopped.
    pub removed: Vec<Arc<str>>,
    /// Of the added ones: those that are inferred at a lower rate than they send, frames a second.
    pub capped: Vec<(Arc<str>, f64)>,
    /// Cameras for which there is no room.
    pub refused: Vec<Refused>,
    /// Cameras that could not be started, and why.
    pub failed: Vec<(Arc<str>, Fault)>,
    /// Sections that differ and wait for a restart.
    pub restart: Vec<&'static str>,
}

/// A camera for which there is no room.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// Its name.
    pub name: Arc<str>,
    /// What binds.
    pub ceiling: Ceiling,
    /// When asking again may help.
    pub retry_after: Duration,
}

/// Reads a configuration again and takes it up; keeps the old one when it cannot be used. Says what came of it in the log.
pub fn reload<D: Device>(
    roster: &mut Roster<D>,
    read: &dyn Fn() -> Result<Config, String>,
    complaint: &mut Option<String>,
) -> Result<Applied, String> {
    let applied = read().and_then(|config| roster.apply(config).map_err(|fault| fault.to_string()));
    match &applied {
        Err(why) if complaint.as_ref() == Some(why) => {
            tracing::debug!("The configuration still cannot be used.");
        }
        Err(why) => {
            tracing::error!("The configuration cannot be used; the old one stays.\n{why}");
            *complaint = Some(why.clone());
        }
        Ok(applied) => {
            *complaint = None;
            tell(applied);
        }
    }
    applied
}

fn tell(applied: &Applied) {
    let Applied { added, changed, removed, capped, refused, failed, restart } = applied;
    tracing::info!(
        added = added.len(),
        changed = changed.len(),
        removed = removed.len(),
        refused = refused.len(),
        failed = failed.len(),
        "The configuration was read again."
    );
    for (name, fps) in capped {
        tracing::warn!(
            camera = &**name,
            "There is room for {fps} fps of it; set max_fps, or free what binds."
        );
    }
    for Refused { name, ceiling, .. } in refused {
        tracing::warn!(
            camera = &**name,
            ceiling = ceiling.name(),
            "There is no room for the camera, so it was not started; /api/v1/flow shows what there is."
        );
    }
    for (name, fault) in failed {
        tracing::error!(camera = &**name, "The camera cannot be started: {fault}");
    }
    if !restart.is_empty() {
        tracing::warn!(
            "These sections changed too and are taken up when weir is restarted: {}.",
            restart.join(", ")
        );
    }
}
