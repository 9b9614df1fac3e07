//! Makes the streams of one mount: shared by all viewers, and a new one for who comes while the last one is being taken down.
//!
//! gst-rtsp-server's own factory finds a stream by its address alone. While the last viewer's stream is taken down, which takes a
//! tenth of a second, it gives that one to the next viewer, who is answered 503. Here each look for a stream first has it stay for
//! [`STAY`] more seconds, as if one more viewer had it; when that is too late, the next one is looked for, which is a new one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::glib::translate::IntoGlib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;
use gstreamer_rtsp_server as server;
use server::RTSPMediaStatus;
use server::prelude::*;
use server::subclass::prelude::*;

use crate::video::lock;

/// Seconds for which a stream stays for who is about to have it.
const STAY: u32 = 2;

glib::wrapper! {
    /// See the module.
    pub struct Factory(ObjectSubclass<Inner>) @extends server::RTSPMediaFactory;
}

impl Factory {
    /// With nobody watching, on the server's loop.
    pub fn new(context: &glib::MainContext) -> Factory {
        let factory: Factory = glib::Object::new();
        factory.set_shared(true);
        factory.set_latency(0);
        let _ = factory.imp().context.set(context.clone());
        let inside = factory.downgrade();
        factory.connect_media_constructed(move |_, media| {
            let Some(factory) = inside.upgrade() else { return };
            *lock(&factory.imp().newest) = Some(media.downgrade());
            let inside = inside.clone();
            media.connect_target_state(move |media, state| {
                if state == gst::State::Null.into_glib()
                    && let Some(factory) = inside.upgrade()
                {
                    factory.imp().ends(media);
                }
            });
        });
        factory
    }

    /// Streams that stay for somebody stay no longer.
    pub fn let_go(&self) {
        let kept = std::mem::take(&mut *lock(&self.imp().kept));
        for media in kept {
            let _ = media.unprepare();
        }
    }
}

/// What the factory keeps.
#[derive(Default)]
pub struct Inner {
    /// Streams that have ended, as far as anybody has noticed: part of the key by which the next one is found.
    ended: AtomicU64,
    /// The one that is found, unless it is being taken down.
    newest: Mutex<Option<glib::WeakRef<server::RTSPMedia>>>,
    /// Streams that stay, once for each who is about to have them.
    kept: Mutex<Vec<server::RTSPMedia>>,
    context: OnceLock<glib::MainContext>,
}

impl Inner {
    /// A stream begins to be taken down.
    fn ends(&self, media: &server::RTSPMedia) {
        let mut newest = lock(&self.newest);
        if newest.as_ref().and_then(glib::WeakRef::upgrade).as_ref() == Some(media) {
            *newest = None;
            self.ended.fetch_add(1, Relaxed);
        }
    }

    /// Has the newest stream stay. False: it is being taken down.
    fn keep(&self) -> bool {
        let newest = lock(&self.newest).as_ref().and_then(glib::WeakRef::upgrade);
        let Some(media) = newest else { return true };
        match media.status() {
            // Somebody else is making it, and has it.
            RTSPMediaStatus::Unprepared | RTSPMediaStatus::Preparing => return true,
            RTSPMediaStatus::Prepared | RTSPMediaStatus::Suspended => {}
            _ => return false,
        }
        // Counts who has it; it makes nothing of a stream that is there. Fails when it is being taken down since.
        if media.prepare(None).is_err() {
            return false;
        }
        lock(&self.kept).push(media.clone());
        let factory = self.obj().downgrade();
        let leave = glib::timeout_source_new_seconds(STAY, None, glib::Priority::DEFAULT, move || {
            let kept = factory.upgrade().and_then(|factory| {
                let mut kept = lock(&factory.imp().kept);
                let place = kept.iter().position(|kept| *kept == media)?;
                Some(kept.swap_remove(place))
            });
            if let Some(media) = kept {
                let _ = media.unprepare();
            }
            glib::ControlFlow::Break
        });
        leave.attach(self.context.get());
        true
    }
}

#[glib::object_subclass]
impl ObjectSubclass for Inner {
    const NAME: &'static str = "WeirRtspFactory";
    type Type = Factory;
    type ParentType = server::RTSPMediaFactory;
}

impl ObjectImpl for Inner {}

impl RTSPMediaFactoryImpl for Inner {
    fn gen_key(&self, url: &server::gst_rtsp::RTSPUrl) -> Option<glib::GString> {
        let key = self.parent_gen_key(url)?;
        if !self.keep() {
            // It was not yet when this began.
            *lock(&self.newest) = None;
            self.ended.fetch_add(1, Relaxed);
        }
        Some(format!("{key} {}", self.ended.load(Relaxed)).into())
    }
}
