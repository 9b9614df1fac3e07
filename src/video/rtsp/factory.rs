//! Makes the streams of one mount: shared by all viewers, and a new one for who comes while the last one is being taken down.
//!
//! gst-rtsp-server's own factory finds a stream by its address alone. While the last viewer's stream is taken down, which takes a
//! tenth of a second, it gives that one to the next viewer, who is answered 503. Here a stream that ends is no longer found from the
//! moment in which that begins.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::glib::translate::IntoGlib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;
use gstreamer_rtsp_server as server;
use server::prelude::*;
use server::subclass::prelude::*;

glib::wrapper! {
    /// See the module.
    pub struct Factory(ObjectSubclass<Inner>) @extends server::RTSPMediaFactory;
}

impl Factory {
    /// With nobody watching.
    pub fn new() -> Factory {
        let factory: Factory = glib::Object::new();
        factory.set_shared(true);
        factory.set_latency(0);
        let ending = factory.downgrade();
        factory.connect_media_constructed(move |_, media| {
            let ending = ending.clone();
            media.connect_target_state(move |_, state| {
                if state == gst::State::Null.into_glib()
                    && let Some(factory) = ending.upgrade()
                {
                    factory.imp().ended.fetch_add(1, Relaxed);
                }
            });
        });
        factory
    }
}

/// What the factory keeps.
#[derive(Default)]
pub struct Inner {
    /// Streams that have ended.
    ended: AtomicU64,
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
        Some(format!("{key} {}", self.ended.load(Relaxed)).into())
    }
}
