//! `[tenants.NAME]`, and the cameras that belong to one.

use super::check::Check;
use super::file::Section;
use super::{Camera, Tenant};

/// Reads the tenants, and holds their cameras to their limits. A tenant's `max_camera_fps` is divided among its cameras by weight, so
/// that what one of them sends never depends on the others; a camera's own `max_fps` may be less.
pub(super) fn check(check: &mut Check<'_>, file: &Section, cameras: &mut [Option<Camera>]) -> Vec<Tenant> {
    let names: Vec<&str> = file.named("tenants").iter().map(|(name, ..)| name.as_str()).collect();
    let sections = file.named("cameras");
    for (name, _, section) in sections {
        let Some(tenant) = section.text("tenant").filter(|tenant| !names.contains(tenant)) else { continue };
        let near = names.iter().max_by(|a, b| strsim::jaro(tenant, a).total_cmp(&strsim::jaro(tenant, b)));
        let problem = check
            .problems
            .error(section.place("tenant"), format!("camera `{name}`: there is no tenant `{tenant}`"));
        match near.filter(|near| strsim::jaro(tenant, near) > 0.7) {
            Some(near) => problem.label(format!("did you mean \"{near}\"?")),
            None => problem.label("not a table [tenants.NAME]"),
        }
        .help(format!("add a table [tenants.{tenant}], or name one that is there"));
    }
    file.named("tenants")
        .iter()
        .map(|(name, _, section)| {
            let own: Vec<usize> = (0..sections.len())
                .filter(|i| sections[*i].2.text("tenant") == Some(name.as_str()))
                .collect();
            let most = section.opt_int("max_cameras").map(|n| n as usize);
            if let Some(most) = most.filter(|most| own.len() > *most) {
                let list: Vec<&str> = own.iter().map(|i| sections[*i].0.as_str()).collect();
                check
                    .problems
                    .error(
                        section.place("max_cameras"),
                        format!("tenant `{name}` has more cameras than it may"),
                    )
                    .label(format!("{} of at most {most}: {}", own.len(), list.join(", ")))
                    .help("raise its max_cameras, or take cameras out");
            }
            let of_cameras = section.opt_float("max_camera_fps");
            if let Some(fps) = of_cameras {
                divide(fps, &own, cameras);
            }
            Tenant {
                name: name.clone(),
                max_pending_requests: section.opt_int("max_pending_requests").map(|n| n as usize),
                max_fps: section.opt_float("max_fps").map(f64::from),
                max_cameras: most,
                max_camera_fps: of_cameras.map(f64::from),
            }
        })
        .collect()
}

fn divide(fps: f32, own: &[usize], cameras: &mut [Option<Camera>]) {
    let weights: u32 = own.iter().filter_map(|i| cameras[*i].as_ref()).map(|camera| camera.weight).sum();
    for i in own {
        let Some(camera) = &mut cameras[*i] else { continue };
        let share = fps * camera.weight as f32 / weights as f32;
        camera.max_fps = Some(camera.max_fps.map_or(share, |own| own.min(share)));
    }
}
