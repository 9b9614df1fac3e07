//! What differs between two configurations: cameras, which a running daemon can add, change and remove; and the rest, which it takes
//! up when it is started again.

use std::sync::Arc;

use secrecy::ExposeSecret;

use super::{Camera, Config, Http};

/// From one configuration to another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Cameras that were not there, in the order of the file.
    pub added: Vec<Camera>,
    /// Cameras of the same name that are configured otherwise, also by a changed password or pipeline file.
    pub changed: Vec<Camera>,
    /// Cameras of which only `weight` or `max_fps` differ, which another camera of their tenant is enough for: they go on running.
    pub retuned: Vec<Camera>,
    /// Cameras that are no longer there.
    pub removed: Vec<Arc<str>>,
    /// Sections that differ and need a restart, as they are written: `[batcher]`.
    pub restart: Vec<&'static str>,
}

impl Changes {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }
}

/// What would have to be done to a daemon that runs with `old` for it to run with `new`.
pub fn between(old: &Config, new: &Config) -> Changes {
    let find =
        |config: &'_ Config, name: &str| config.cameras.iter().position(|camera| *camera.name == *name);
    let mut changes = Changes::default();
    for camera in &new.cameras {
        match find(old, &camera.name).map(|at| &old.cameras[at]) {
            None => changes.added.push(camera.clone()),
            Some(old) if old == camera => {}
            Some(old) if retuned(old, camera) == *camera => changes.retuned.push(camera.clone()),
            Some(_) => changes.changed.push(camera.clone()),
        }
    }
    let gone = old.cameras.iter().filter(|camera| find(new, &camera.name).is_none());
    changes.removed = gone.map(|camera| Arc::clone(&camera.name)).collect();
    // All fields, so that a new one cannot be forgotten.
    let Config {
        node,
        model,
        infer,
        batcher,
        track,
        events,
        http,
        tenants,
        mqtt,
        video,
        rtsp_server,
        log,
        grace,
        cameras: _,
    } = new;
    let sections = [
        ("[node]", *node == old.node),
        ("[model]", *model == old.model),
        ("[infer]", *infer == old.infer),
        ("[batcher]", *batcher == old.batcher),
        ("[track]", *track == old.track),
        ("[events]", *events == old.events),
        ("[http]", same_http(http, &old.http)),
        ("[tenants]", *tenants == old.tenants),
        ("[mqtt]", *mqtt == old.mqtt),
        ("[video]", *video == old.video),
        ("[rtsp_server]", *rtsp_server == old.rtsp_server),
        ("[log]", *log == old.log),
        ("[shutdown]", *grace == old.grace),
    ];
    changes.restart = sections.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect();
    changes
}

/// A camera as it was, but with the terms of another one.
fn retuned(old: &Camera, terms: &Camera) -> Camera {
    Camera { weight: terms.weight, max_fps: terms.max_fps, ..old.clone() }
}

fn same_http(a: &Http, b: &Http) -> bool {
    let Http {
        bind,
        max_sse_clients,
        sse_heartbeat,
        max_pending_requests,
        max_image_bytes,
        max_image_pixels,
        token,
    } = a;
    let secret =
        |token: &'_ Option<secrecy::SecretString>| token.as_ref().map(|t| t.expose_secret().to_owned());
    *bind == b.bind
        && *max_sse_clients == b.max_sse_clients
        && *sse_heartbeat == b.sse_heartbeat
        && *max_pending_requests == b.max_pending_requests
        && *max_image_bytes == b.max_image_bytes
        && *max_image_pixels == b.max_image_pixels
        && secret(token) == secret(&b.token)
}
