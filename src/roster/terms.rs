//! What the lines of a camera mean to the parts that it is wired to.

use std::time::Duration;

use crate::board::Terms;
use crate::config::{Camera, Source};
use crate::fault::{Fault, Who};
use crate::flow::batch::CameraSettings;
use crate::model::spec::ModelSpec;
use crate::stage::analyze::Filter;

/// What a camera may ask of the engine, at most `cap` frames a second.
pub fn terms(camera: &Camera, cap: Option<f64>) -> Terms {
    let max = camera.max_fps.map(f64::from);
    let max_fps = match (max, cap) {
        (Some(max), Some(cap)) => Some(max.min(cap)),
        (max, cap) => max.or(cap),
    };
    Terms { priority: camera.priority, weight: camera.weight, max_fps, ring: camera.ring }
}

/// A camera's ring and turns.
pub fn settings(camera: &Camera) -> CameraSettings {
    // A lossless file waits for room by itself and must not be thinned, however slow the engine is.
    let lossless = matches!(camera.source, Source::File { realtime: false, .. });
    let ring = if lossless { Duration::from_secs(3600) } else { camera.ring };
    CameraSettings {
        ring,
        max_frames: camera.ring_frames(),
        drop_policy: camera.drop_policy,
        backlog_frames: camera.backlog_frames,
        priority: camera.priority,
        weight: camera.weight,
        max_fps: camera.max_fps.map(f64::from),
        thin: camera.thin_decode,
        whole: camera.still_fps.is_some(),
    }
}

/// A word in `hide` that hides nothing would be noticed too late.
///
/// # Errors
/// It names a label that the model has not.
pub fn check_labels(spec: &ModelSpec, camera: &Camera) -> Result<(), Fault> {
    Filter::new(&spec.labels, &camera.privacy.hide)
        .map(drop)
        .map_err(|unknown| unknown_classes(spec, &format!("[cameras.{}] hide", camera.name), &unknown))
}

/// A configuration names labels that the model has not.
pub fn unknown_classes(spec: &ModelSpec, key: &str, unknown: &[String]) -> Fault {
    let known: Vec<&str> = spec.labels.iter().map(|l| &**l).filter(|l| !l.is_empty()).collect();
    Fault::new(
        Who::Config,
        "classes",
        format!("{key}: model {} has no label {}", spec.name, unknown.join(", ")),
    )
    .remedy(format!("its labels are: {}", known.join(", ")))
}
