//! Annotated video at `rtsp://HOST:PORT/NAME`: H.264 by gstreamer-rtsp-server, one encode for all viewers of a camera.
//!
//! Its own thread runs GLib's main loop. Pictures come from the painter through an `appsrc` that gives up the oldest when the
//! encoder is slow, so that nobody ever waits for an encoder or a viewer. When an encoder fails, its stream ends, viewers
//! connect anew and get the next encoder of the order; analysis sees nothing of it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_rtsp_server as server;
use gstreamer_video as gst_video;
use secrecy::ExposeSecret;
use server::gst_rtsp::{RTSPAuthMethod, RTSPStatusCode};
use server::prelude::*;

use super::encoder::{self, Choice};
use super::{Attached, Audience, Output, jpeg};
use crate::config::{Login, RtspServer};
use crate::device::canvas::Canvas;
use crate::fault::{Fault, Who};
use crate::frame::CameraId;

/// Pictures that wait for the encoder.
const QUEUE: u64 = 2;

/// A running server. Dropping it ends it.
pub struct Server {
    main: glib::MainLoop,
    thread: Option<crate::supervise::Worker>,
}

/// What all streams share.
struct Shared {
    settings: RtspServer,
    audience: Arc<Audience>,
    choice: Arc<Mutex<Choice>>,
    /// Names of the cameras that are being encoded.
    active: Mutex<HashSet<String>>,
    /// Set by a viewer who joins: the next picture of every stream is a key frame.
    joined: Arc<Vec<AtomicBool>>,
}

impl Server {
    /// Opens the port and serves these cameras.
    ///
    /// # Errors
    /// The port is in use, or a part of GStreamer is missing.
    pub fn start(
        settings: &RtspServer,
        names: &[Arc<str>],
        audience: &Arc<Audience>,
        choice: Arc<Mutex<Choice>>,
    ) -> Result<Server, Fault> {
        gst::init().map_err(|e| broken(settings, &e.to_string()))?;
        let context = glib::MainContext::new();
        let main = glib::MainLoop::new(Some(&context), false);
        let rtsp = server::RTSPServer::new();
        rtsp.set_address(&settings.bind.ip().to_string());
        rtsp.set_service(&settings.bind.port().to_string());
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            audience: Arc::clone(audience),
            choice,
            active: Mutex::default(),
            joined: Arc::new(names.iter().map(|_| AtomicBool::new(false)).collect()),
        });
        if let Some(login) = &settings.login {
            rtsp.set_auth(Some(&auth(login)));
        }
        let mounts = rtsp.mount_points().ok_or_else(|| broken(settings, "it has no mount points"))?;
        for (id, name) in (0..).map(CameraId).zip(names) {
            mounts.add_factory(&format!("/{name}"), factory(&shared, id, name));
        }
        watch_clients(&rtsp, &shared, names);
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
        Ok(Server { main, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
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

fn factory(shared: &Arc<Shared>, camera: CameraId, name: &Arc<str>) -> server::RTSPMediaFactory {
    let factory = server::RTSPMediaFactory::new();
    factory.set_shared(true);
    factory.set_latency(0);
    if shared.settings.login.is_some() {
        factory.add_role_from_structure(
            &gst::Structure::builder("viewer")
                .field("media.factory.access", true)
                .field("media.factory.construct", true)
                .build(),
        );
    }
    set_line(&factory, shared);
    let (shared, name) = (Arc::clone(shared), Arc::clone(name));
    factory.connect_media_configure(move |factory, media| {
        configure(&shared, factory, media, camera, &name);
    });
    factory
}

/// The encoder may have changed since.
fn set_line(factory: &server::RTSPMediaFactory, shared: &Shared) {
    let choice = shared.choice.lock().unwrap_or_else(PoisonError::into_inner);
    let encoder = choice.chosen.as_deref().unwrap_or("x264enc");
    factory.set_launch(&format!(
        "( appsrc name=show is-live=true format=time do-timestamp=true max-buffers={QUEUE} max-bytes=0 max-time=0 leaky-type=downstream \
         ! videoconvert n-threads=1 ! {encoder} name=encoder ! video/x-h264 ! h264parse config-interval=-1 \
         ! rtph264pay name=pay0 pt=96 aggregate-mode=zero-latency )"
    ));
}

/// Connects a stream that is being built with the painter.
fn configure(
    shared: &Arc<Shared>,
    factory: &server::RTSPMediaFactory,
    media: &server::RTSPMedia,
    camera: CameraId,
    name: &Arc<str>,
) {
    let Ok(bin) = media.element().downcast::<gst::Bin>() else { return };
    let Some(src) = bin.by_name("show").and_downcast::<gst_app::AppSrc>() else { return };
    let encoder = bin.by_name("encoder");
    if let Some(encoder) = &encoder {
        encoder::configure(encoder, shared.settings.bitrate);
    }
    let stream = Arc::new(Stream {
        src,
        encoder: encoder.and_then(|encoder| encoder.static_pad("src")),
        caps: Mutex::new(None),
        width: shared.settings.width,
        joined: Arc::clone(&shared.joined),
        camera,
    });
    lock(&shared.active).insert(name.to_string());
    let attached: Attached = shared.audience.attach(camera, stream);
    let attached = Mutex::new(Some(attached));
    tracing::info!(camera = &**name, "Encoding for RTSP has begun.");
    {
        let (shared, name) = (Arc::clone(shared), Arc::clone(name));
        media.connect_unprepared(move |_| {
            if lock(&attached).take().is_some() {
                lock(&shared.active).remove(&*name);
                tracing::info!(camera = &*name, "Encoding for RTSP has ended.");
            }
        });
    }
    let (shared, factory, name) = (Arc::clone(shared), factory.clone(), Arc::clone(name));
    watch_encoder(media, move |why| {
        if let Some(next) = fall_back(&shared, why) {
            set_line(&factory, &shared);
            tracing::error!(camera = &*name, "The video encoder failed ({why}); from now on: {next}.");
        }
    });
}

/// Hears of errors of a stream's encoder.
fn watch_encoder(media: &server::RTSPMedia, failed: impl Fn(&str) + Send + Sync + 'static) {
    const NEWS: &str = "handle-message";
    let bin = media.element().downcast::<gst::Bin>().ok();
    let Some(encoder) = bin.and_then(|bin| bin.by_name("encoder")) else { return };
    // From GStreamer 1.22 on. Before, a failing encoder is not replaced.
    if glib::subclass::SignalId::lookup(NEWS, server::RTSPMedia::static_type()).is_none() {
        return;
    }
    media.connect(NEWS, false, move |args| {
        let message = args.get(1).and_then(|value| value.get::<gst::Message>().ok());
        let is_its_error = message.is_some_and(|message| {
            matches!(message.view(), gst::MessageView::Error(_))
                && message.src() == Some(encoder.upcast_ref())
        });
        if is_its_error {
            failed(&encoder.factory().map(|factory| factory.name().to_string()).unwrap_or_default());
        }
        // Not handled here: the stream ends as it would.
        Some(false.to_value())
    });
}

/// The next encoder after one that failed; `None`: another stream has fallen back already, or there is no other.
fn fall_back(shared: &Shared, failed: &str) -> Option<String> {
    let mut choice = lock(&shared.choice);
    if choice.chosen.as_deref() != Some(failed) {
        return None;
    }
    let order = &shared.settings.encoders;
    let place = order.iter().position(|name| name == failed)?;
    let rest = encoder::choose(&order[place + 1..]);
    let next = rest.chosen.clone()?;
    if let Some(trial) = choice.trials.iter_mut().find(|trial| trial.encoder == failed) {
        trial.problem = Some("it failed while it was used".to_owned());
    }
    choice.trials.extend(rest.trials);
    choice.chosen = Some(next.clone());
    Some(next)
}

/// Refuses one stream too many, and asks for a key frame when a viewer starts to play.
fn watch_clients(rtsp: &server::RTSPServer, shared: &Arc<Shared>, names: &[Arc<str>]) {
    let names: Arc<[Arc<str>]> = names.into();
    let shared = Arc::clone(shared);
    rtsp.connect_client_connected(move |_, client| {
        let (limits, most) = (Arc::clone(&shared), shared.settings.max_streams);
        client.connect_pre_describe_request(move |_, context| {
            let name = camera_of(context);
            let active = lock(&limits.active);
            if active.len() >= most && !active.contains(&name) {
                tracing::warn!(camera = name, "A viewer was refused: [rtsp_server] max_streams are encoded.");
                return RTSPStatusCode::ServiceUnavailable;
            }
            RTSPStatusCode::Ok
        });
        let (joined, names) = (Arc::clone(&shared.joined), Arc::clone(&names));
        client.connect_play_request(move |_, context| {
            let name = camera_of(context);
            for (flag, _) in joined.iter().zip(names.iter()).filter(|(_, known)| ***known == *name) {
                flag.store(true, Relaxed);
            }
        });
    });
}

/// The first part of the path that a viewer asks for.
fn camera_of(context: &server::RTSPContext) -> String {
    let parts = context.uri().map(|uri| uri.decode_path_components()).unwrap_or_default();
    parts.into_iter().map(|part| part.to_string()).find(|part| !part.is_empty()).unwrap_or_default()
}

/// One camera's way into its encoder.
struct Stream {
    src: gst_app::AppSrc,
    /// Where the encoder gives its pictures, and is asked for key frames.
    encoder: Option<gst::Pad>,
    caps: Mutex<Option<gst::Caps>>,
    width: Option<u32>,
    joined: Arc<Vec<AtomicBool>>,
    camera: CameraId,
}

impl Output for Stream {
    fn width(&self) -> Option<u32> {
        self.width
    }

    fn push(&self, canvas: Canvas) -> bool {
        // A nominal rate for rate control; pictures carry their own times.
        let caps = jpeg::caps(&canvas, gst::Fraction::new(25, 1));
        {
            let mut known = lock(&self.caps);
            if known.as_ref() != Some(&caps) {
                self.src.set_caps(Some(&caps));
                *known = Some(caps);
            }
        }
        if self.joined[self.camera.index()].swap(false, Relaxed) {
            let event = gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
            let asked = self.encoder.as_ref().is_some_and(|pad| pad.send_event(event));
            tracing::debug!(camera = self.camera.0, asked, "A viewer has joined: a key frame is due.");
        }
        self.src.push_buffer(gst::Buffer::from_mut_slice(canvas.into_bytes())).is_ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn broken(settings: &RtspServer, what: &str) -> Fault {
    Fault::new(Who::Config, "rtsp_server", format!("[rtsp_server] bind = \"{}\": {what}", settings.bind))
}
