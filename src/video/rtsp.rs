//! Video at `rtsp://HOST:PORT/NAME` (annotated) and `/NAME/raw` (as the camera sends it), by gstreamer-rtsp-server.
//!
//! ```text
//! show ─ pictures ─▶ Restream (encoder) ─▶ Units ─▶ /NAME      parse, pay: one for any number of viewers
//! camera ─ its own units, before the decoder ─▶ Units ─▶ /NAME/raw     no second connection to the camera
//! ```
//!
//! Its own thread runs GLib's main loop. Cameras come and go by [`Server::add`] and [`Server::remove`]. Masks and `hide` are painted
//! into `/NAME` and cannot be painted into `/NAME/raw`, which such a camera has only if its operator says so.

mod factory;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_rtsp_server as server;
use secrecy::ExposeSecret;
use server::gst_rtsp::{RTSPAuthMethod, RTSPStatusCode};
use server::prelude::*;

use self::factory::Factory;
use super::encoder::Encoders;
use super::restream::{Hold, Restream};
use super::units::{Fed, Units};
use super::{Audience, lock};
use crate::clock::Clock;
use crate::config::{self, Login, RtspServer};
use crate::device::Tap;
use crate::fault::{Fault, Who};
use crate::frame::CameraId;

/// Threads for viewers: one that waits for a stream's first picture holds only those up that share its thread.
const THREADS: i32 = 4;

/// A viewer that gives no sign of life for so many seconds is gone (RFC 2326, 12.37). Players send one at half of it.
const SESSION: u32 = 30;
/// And its connection is closed so many seconds later.
const AFTER_SESSION: i32 = 2;

/// A running server. Dropping it ends it.
pub struct Server {
    main: glib::MainLoop,
    thread: Option<crate::supervise::Worker>,
    mounts: server::RTSPMountPoints,
    shared: Arc<Shared>,
    audience: Arc<Audience>,
    encoders: Arc<Encoders>,
    clock: Arc<dyn Clock>,
}

/// What all streams share.
struct Shared {
    settings: RtspServer,
    cameras: Mutex<HashMap<String, Arc<Mount>>>,
}

/// One camera.
struct Mount {
    annotated: Arc<Restream>,
    annotated_factory: Factory,
    raw: Raw,
    /// Held by a camera that is encoded always.
    always: Mutex<Option<Hold>>,
}

/// `/NAME/raw`.
enum Raw {
    Open(Arc<Units>, Factory),
    /// `raw = false`.
    Off,
    /// It would show what masks and `hide` cover.
    Private,
}

impl Mount {
    /// Nothing is encoded for nobody any more.
    fn let_go(&self) {
        drop(lock(&self.always).take());
        self.annotated_factory.let_go();
        if let Raw::Open(_, factory) = &self.raw {
            factory.let_go();
        }
    }
}

impl Server {
    /// Says how many cameras more can be encoded, for as long as it lives; then none.
    pub fn room(&self) -> impl Fn() -> u32 + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || {
            let left = shared.upgrade().map_or(0, |s| s.settings.max_streams.saturating_sub(s.encoded()));
            u32::try_from(left).unwrap_or(u32::MAX)
        }
    }

    /// Opens the port. No camera is there yet.
    ///
    /// # Errors
    /// The port is in use, or a part of GStreamer is missing.
    pub fn start(
        settings: &RtspServer,
        audience: &Arc<Audience>,
        encoders: Arc<Encoders>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Server, Fault> {
        gst::init().map_err(|e| broken(settings, &e.to_string()))?;
        let context = glib::MainContext::new();
        let main = glib::MainLoop::new(Some(&context), false);
        let rtsp = server::RTSPServer::new();
        rtsp.set_address(&settings.bind.ip().to_string());
        rtsp.set_service(&settings.bind.port().to_string());
        if let Some(pool) = rtsp.thread_pool() {
            pool.set_max_threads(THREADS);
        }
        let shared = Arc::new(Shared { settings: settings.clone(), cameras: Mutex::default() });
        if let Some(login) = &settings.login {
            rtsp.set_auth(Some(&auth(login)));
        }
        let mounts = rtsp.mount_points().ok_or_else(|| broken(settings, "it has no mount points"))?;
        watch_clients(&rtsp, &shared);
        rtsp.attach(Some(&context)).map_err(|_| {
            broken(settings, "the port cannot be opened").remedy(format!(
                "`ss -ltnp 'sport = :{}'` shows who has it; or set [rtsp_server] bind to a free port",
                settings.bind.port()
            ))
        })?;
        let (looping, sessions) = (main.clone(), rtsp.session_pool());
        let thread = crate::supervise::spawn("rtsp", move || {
            // A UDP viewer that vanished is noticed only by its session's age.
            let upkeep = glib::timeout_source_new_seconds(2, None, glib::Priority::DEFAULT, move || {
                if let Some(pool) = &sessions {
                    pool.cleanup();
                }
                glib::ControlFlow::Continue
            });
            upkeep.attach(Some(&context));
            looping.run();
            drop(rtsp);
        })?;
        let (audience, clock) = (Arc::clone(audience), Arc::clone(clock));
        Ok(Server { main, thread: Some(thread), mounts, shared, audience, encoders, clock })
    }

    /// Serves a camera. Its source is to tell the answer of each encoded unit; `None`: nobody may see them.
    pub fn add(&self, id: CameraId, camera: &config::Camera) -> Option<Arc<dyn Tap>> {
        // Its trial can take seconds: now, not when the first picture comes.
        let _ = self.encoders.pick(camera.restream.codec);
        let annotated = Restream::new(id, camera, &self.encoders, &self.audience, &self.clock);
        let private = !camera.privacy.hide.is_empty() || !camera.privacy.masks.is_empty();
        let raw = match (camera.restream.raw, private && !camera.restream.raw_shows_hidden) {
            (false, _) => Raw::Off,
            (true, true) => Raw::Private,
            (true, false) => {
                let units = Units::of_camera();
                let factory = self.factory({
                    let units = Arc::clone(&units);
                    move |src| (units.feed(src), None)
                });
                self.mounts.add_factory(&format!("/{}/raw", camera.name), factory.clone());
                Raw::Open(units, factory)
            }
        };
        let annotated_factory = self.factory({
            let annotated = Arc::clone(&annotated);
            move |src| {
                let hold = annotated.hold();
                (annotated.units().feed(src), Some(hold))
            }
        });
        self.mounts.add_factory(&format!("/{}", camera.name), annotated_factory.clone());
        let always = Mutex::new(camera.restream.always.then(|| annotated.hold()));
        let tap = if let Raw::Open(units, _) = &raw { Some(Arc::clone(units) as Arc<dyn Tap>) } else { None };
        let mount = Mount { annotated, annotated_factory, raw, always };
        lock(&self.shared.cameras).insert(camera.name.to_string(), Arc::new(mount));
        tap
    }

    /// Serves a camera no more: its viewers' streams end.
    pub fn remove(&self, name: &str) {
        let Some(mount) = lock(&self.shared.cameras).remove(name) else { return };
        self.mounts.remove_factory(&format!("/{name}"));
        self.mounts.remove_factory(&format!("/{name}/raw"));
        mount.let_go();
        mount.annotated.units().end();
        if let Raw::Open(units, _) = &mount.raw {
            units.end();
        }
    }

    /// Makes streams that are fed by `feed`.
    fn factory(
        &self,
        feed: impl Fn(gst_app::AppSrc) -> (Fed, Option<Hold>) + Send + Sync + 'static,
    ) -> Factory {
        let factory = Factory::new(&self.main.context());
        if self.shared.settings.login.is_some() {
            factory.add_role_from_structure(
                &gst::Structure::builder("viewer")
                    .field("media.factory.access", true)
                    .field("media.factory.construct", true)
                    .build(),
            );
        }
        set_line(&factory, super::units::Format::H264);
        factory.connect_media_configure(move |_, media| {
            let Ok(bin) = media.element().downcast::<gst::Bin>() else { return };
            let Some(src) = bin.by_name("show-rtp").and_downcast::<gst_app::AppSrc>() else { return };
            let fed = Mutex::new(Some(feed(src)));
            media.connect_unprepared(move |_| drop(lock(&fed).take()));
        });
        factory
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for (_, mount) in lock(&self.shared.cameras).drain() {
            mount.let_go();
        }
        // As a source of the loop, so that it is heard even if the loop has not begun.
        let main = self.main.clone();
        let quit = glib::idle_source_new(None, glib::Priority::HIGH, move || {
            main.quit();
            glib::ControlFlow::Break
        });
        quit.attach(Some(&self.main.context()));
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
    }
}

fn auth(login: &Login) -> server::RTSPAuth {
    let auth = server::RTSPAuth::new();
    let token = server::RTSPToken::builder().field("media.factory.role", "viewer").build();
    auth.set_supported_methods(RTSPAuthMethod::Digest);
    auth.add_digest(&login.user, login.password.expose_secret(), &token);
    auth
}

/// What the next stream is made of. [`Units`] sets the bounds of its queue.
fn set_line(factory: &Factory, format: super::units::Format) {
    factory.set_launch(&format!(
        "( appsrc name=show-rtp is-live=true format=time max-bytes=0 max-time=0 leaky-type=downstream ! {} )",
        format.to_rtp()
    ));
}

/// Refuses what cannot or may not be shown, asks for a key frame when a viewer starts to play, and drops who is gone or stuck.
fn watch_clients(rtsp: &server::RTSPServer, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    rtsp.connect_client_connected(move |_, client| {
        client.set_post_session_timeout(AFTER_SESSION);
        client.connect_new_session(|_, session| session.set_timeout(SESSION));
        let asked = Arc::clone(&shared);
        client.connect_pre_describe_request(move |_, context| {
            let (name, raw) = path_of(context);
            if raw { asked.describe_raw(&name) } else { asked.describe(&name) }
        });
        let played = Arc::clone(&shared);
        client.connect_play_request(move |_, context| {
            if let (name, false) = path_of(context)
                && let Some(mount) = played.mount(&name)
            {
                mount.annotated.units().want_key();
            }
        });
    });
}

impl Shared {
    /// Cameras that are encoded now.
    fn encoded(&self) -> usize {
        lock(&self.cameras).values().filter(|mount| mount.annotated.is_held()).count()
    }

    fn mount(&self, name: &str) -> Option<Arc<Mount>> {
        lock(&self.cameras).get(name).cloned()
    }

    fn describe(&self, name: &str) -> RTSPStatusCode {
        let Some(mount) = self.mount(name) else { return RTSPStatusCode::NotFound };
        if !mount.annotated.is_held() && self.encoded() >= self.settings.max_streams {
            tracing::warn!(camera = name, "A viewer was refused: [rtsp_server] max_streams are encoded.");
            return RTSPStatusCode::ServiceUnavailable;
        }
        // The encoder may have changed since the last one.
        let Some(format) = mount.annotated.format() else { return RTSPStatusCode::ServiceUnavailable };
        set_line(&mount.annotated_factory, format);
        RTSPStatusCode::Ok
    }

    fn describe_raw(&self, name: &str) -> RTSPStatusCode {
        let Some(mount) = self.mount(name) else { return RTSPStatusCode::NotFound };
        match &mount.raw {
            Raw::Off => RTSPStatusCode::NotFound,
            Raw::Private => {
                tracing::warn!(
                    camera = name,
                    "A viewer was refused: /{name}/raw would show what masks and `hide` cover. restream.raw_shows_hidden = true would allow it."
                );
                RTSPStatusCode::Forbidden
            }
            Raw::Open(units, factory) => match units.format() {
                Some(format) => {
                    set_line(factory, format);
                    RTSPStatusCode::Ok
                }
                None => {
                    tracing::warn!(
                        camera = name,
                        "A viewer was refused: the camera sends no H.264, H.265 or JPEG now."
                    );
                    RTSPStatusCode::ServiceUnavailable
                }
            },
        }
    }
}

/// The camera that a viewer asks for, and whether as it is.
fn path_of(context: &server::RTSPContext) -> (String, bool) {
    let parts = context.uri().map(|uri| uri.decode_path_components()).unwrap_or_default();
    let mut parts = parts.into_iter().map(|part| part.to_string()).filter(|part| !part.is_empty());
    let name = parts.next().unwrap_or_default();
    (name, parts.next().as_deref() == Some("raw"))
}

fn broken(settings: &RtspServer, what: &str) -> Fault {
    Fault::new(Who::Config, "rtsp_server", format!("[rtsp_server] bind = \"{}\": {what}", settings.bind))
}
