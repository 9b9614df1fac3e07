//! What of a camera is decoded: each encoded picture is asked about, and [`crate::flow::thin`] answers by the camera's turns.

use super::{Batcher, camera};
use crate::clock::Tick;
use crate::flow::thin::{Kind, Level, Room};
use crate::frame::CameraId;

impl<T> Batcher<T> {
    /// An encoded picture of a camera has come and would be decoded now. False: it would not be used. A caller that never asks
    /// has everything decoded. Panics when the camera was never added.
    pub fn wants(&mut self, now: Tick, id: CameraId, kind: Kind) -> bool {
        let now = self.advance(now);
        let idle = self.waiting == 0 && self.free_since.is_some();
        let room = Room { idle, fps: self.spare.fps, cameras: self.by_keys };
        let camera = camera(&mut self.cameras, id);
        let before = camera.thin.level() == Level::KeyFrames;
        let useful = !camera.settings.thin || camera.thin.comes(now, kind, room);
        match (before, camera.thin.level() == Level::KeyFrames) {
            (false, true) => self.by_keys += 1,
            (true, false) => self.by_keys -= 1,
            _ => {}
        }
        let capped = camera.cap.as_ref().is_some_and(|cap| cap.is_closed(now));
        if useful && !(kind.is_free() && capped) {
            return true;
        }
        // The camera's rhythm is what it sends, not what is decoded of it.
        camera.interval.note(now);
        if let Some(cap) = &mut camera.cap {
            cap.passed(now);
        }
        camera.due = camera.thin.due().max(camera.due);
        if !capped {
            let realtime = u64::from(camera.settings.is_realtime());
            self.tally.came += 1;
            self.tally.realtime += realtime;
            self.tally.realtime_lost += realtime;
        }
        false
    }

    /// What is decoded of a camera.
    pub fn level(&self, id: CameraId) -> Level {
        self.cameras.get(id.index()).and_then(Option::as_ref).map_or(Level::All, |c| c.thin.level())
    }

    /// All pictures of a camera are decoded, whatever the engine has time for: none is thinned out, and none counts as lost
    /// before it has come. Panics when the camera was never added.
    pub fn decodes_all(&mut self, id: CameraId) {
        let camera = camera(&mut self.cameras, id);
        self.by_keys -= usize::from(camera.thin.level() == Level::KeyFrames);
        camera.thin.reset();
    }

    /// A picture of a camera was decoded and is left out, though not for want of engine time: to its thinning that is as good as a turn, or
    /// a camera that asks for little would look like one that gets little. Panics when the camera was never added.
    pub fn left_out(&mut self, now: Tick, id: CameraId) {
        let now = self.advance(now);
        camera(&mut self.cameras, id).thin.sent(now, 1);
    }
}
