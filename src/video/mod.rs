//! Pictures for people: who watches which camera how, and the way of a frame's pixels from the engine to the painter.
//!
//! ```text
//! infer ─ keep(key, pixels) ─▶ Studio ─ show(key, list) by analyze ─▶ one slot a camera ─▶ stage/show.rs
//!                                                                                           │ paints, encodes
//!               HTTP: snapshot.jpg, stream.mjpg ◀─ Audience: the newest picture a View ◀─────┤
//!               RTSP: rtsp.rs ◀─ Output ◀────────────────────────────────────────────────────┘
//! ```
//!
//! While nobody watches a camera nothing is kept, painted or encoded. Nothing here waits for a viewer: a slot and a view
//! hold the newest picture only, and who is slow misses some. What is shown of a frame is that very frame: its pixels and
//! its results meet by [`FrameKey`]; frames that were not analysed are not shown.

pub mod encoder;
pub mod jpeg;
pub mod rtsp;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::board::SPARE;
use crate::clock::{Bell, Wall};
use crate::device::canvas::Canvas;
use crate::flow::draw::DrawList;
use crate::frame::{CameraId, FrameKey, Stamp};
use crate::metrics;

/// Pixels that wait for their results, all cameras together: two batches on their way and one being worked on.
const MOST_KEPT: usize = 192;

/// One way to look at a camera over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// With boxes, labels and trails.
    pub annotated: bool,
    /// Index into [`View::WIDTHS`]; one beyond: as it is.
    width: usize,
}

impl View {
    /// Widths that pictures are shrunk to: few, so that viewers share encodes.
    pub const WIDTHS: [u32; 7] = [160, 320, 480, 640, 960, 1280, 1920];
    const COUNT: usize = 2 * (View::WIDTHS.len() + 1);

    /// A picture at most so wide (the next smaller step, at least the smallest); `None`: as the camera sends it.
    pub fn new(annotated: bool, width: Option<u32>) -> View {
        let width = match width {
            Some(most) => View::WIDTHS.iter().rposition(|step| *step <= most).unwrap_or(0),
            None => View::WIDTHS.len(),
        };
        View { annotated, width }
    }

    /// The most columns.
    pub fn width(self) -> Option<u32> {
        View::WIDTHS.get(self.width).copied()
    }

    fn index(self) -> usize {
        2 * self.width + usize::from(self.annotated)
    }

    fn all() -> impl Iterator<Item = View> {
        (0..View::COUNT).map(|index| View { annotated: index % 2 == 1, width: index / 2 })
    }
}

/// A picture as viewers get it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// A whole JPEG file.
    pub jpeg: Bytes,
    /// The frame's number; `None`: there is no signal, and the picture says so.
    pub seq: Option<u64>,
    /// When the frame arrived, or when the signal was missed.
    pub wall: Wall,
}

/// Takes painted pictures for something else than HTTP.
pub trait Output: Send + Sync {
    /// The most columns that it wants.
    fn width(&self) -> Option<u32>;
    /// Takes a picture; must not wait. False: it was not taken.
    fn push(&self, canvas: Canvas) -> bool;
}

/// Who watches, by camera.
pub struct Audience {
    /// By [`CameraId`]; taken when a camera first comes.
    cameras: Box<[OnceLock<Seats>]>,
    bell: Bell,
}

struct Seats {
    /// Viewers and outputs; nothing is kept of a camera while it is 0.
    watchers: AtomicUsize,
    views: Vec<watch::Sender<Option<Arc<Shown>>>>,
    outputs: Mutex<Vec<Arc<dyn Output>>>,
    meter: metrics::Viewers,
}

impl Audience {
    /// For cameras of these names. `bell` wakes the painter when somebody comes.
    pub fn new<'a>(cameras: impl IntoIterator<Item = &'a str>, bell: Bell) -> Arc<Audience> {
        let names: Vec<&str> = cameras.into_iter().collect();
        let seats = (0..names.len() + SPARE).map(|_| OnceLock::new()).collect();
        let audience = Arc::new(Audience { cameras: seats, bell });
        for (id, name) in (0..).map(CameraId).zip(names) {
            audience.seat(id, name);
        }
        audience
    }

    /// A camera that may be watched from now on.
    pub fn seat(&self, camera: CameraId, name: &str) {
        self.cameras[camera.index()].get_or_init(|| Seats {
            watchers: AtomicUsize::new(0),
            views: (0..View::COUNT).map(|_| watch::Sender::new(None)).collect(),
            outputs: Mutex::default(),
            meter: metrics::viewers(name),
        });
    }

    fn seats(&self, camera: CameraId) -> &Seats {
        self.cameras[camera.index()].get().expect("a camera has its seats from its first moment on")
    }

    /// Does anybody watch this camera?
    pub fn is_watched(&self, camera: CameraId) -> bool {
        let seats = self.cameras.get(camera.index()).and_then(OnceLock::get);
        seats.is_some_and(|seats| seats.watchers.load(Relaxed) > 0)
    }

    /// Watches until it is dropped.
    pub fn watch(self: &Arc<Self>, camera: CameraId, view: View) -> Watching {
        let seats = self.seats(camera);
        let pictures = seats.views[view.index()].subscribe();
        seats.come();
        self.bell.ring();
        Watching { audience: Arc::clone(self), camera, pictures }
    }

    /// Sends painted pictures to `output` too, until the answer is dropped.
    pub fn attach(self: &Arc<Self>, camera: CameraId, output: Arc<dyn Output>) -> Attached {
        let seats = self.seats(camera);
        lock(&seats.outputs).push(Arc::clone(&output));
        seats.come();
        self.bell.ring();
        Attached { audience: Arc::clone(self), camera, output }
    }

    /// The views that somebody looks at.
    pub fn views(&self, camera: CameraId) -> Vec<View> {
        let seats = self.seats(camera);
        View::all().filter(|view| seats.views[view.index()].receiver_count() > 0).collect()
    }

    /// The outputs that are attached.
    pub fn outputs(&self, camera: CameraId) -> Vec<Arc<dyn Output>> {
        lock(&self.seats(camera).outputs).clone()
    }

    /// A new picture for all who look at this view.
    pub fn publish(&self, camera: CameraId, view: View, shown: Shown) {
        self.seats(camera).views[view.index()].send_replace(Some(Arc::new(shown)));
    }
}

impl Seats {
    fn come(&self) {
        self.watchers.fetch_add(1, Relaxed);
        self.meter.come();
    }

    fn go(&self) {
        self.watchers.fetch_sub(1, Relaxed);
        self.meter.go();
    }
}

/// One viewer.
pub struct Watching {
    audience: Arc<Audience>,
    camera: CameraId,
    pictures: watch::Receiver<Option<Arc<Shown>>>,
}

impl Watching {
    /// The next picture that was not seen yet; those in between are missed. `None`: there will be no more.
    pub async fn next(&mut self) -> Option<Arc<Shown>> {
        loop {
            self.pictures.changed().await.ok()?;
            let shown = self.pictures.borrow_and_update().clone();
            if shown.is_some() {
                return shown;
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.audience.seats(self.camera).go();
    }
}

/// An attached output.
pub struct Attached {
    audience: Arc<Audience>,
    camera: CameraId,
    output: Arc<dyn Output>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let seats = self.audience.seats(self.camera);
        lock(&seats.outputs).retain(|output| !Arc::ptr_eq(output, &self.output));
        seats.go();
    }
}

/// A frame to paint.
pub struct Shot<P> {
    /// Which.
    pub key: FrameKey,
    /// When.
    pub stamp: Stamp,
    /// Its picture.
    pub pixels: P,
    /// What to paint on it.
    pub list: DrawList,
}

/// Where pixels wait for their results, and results for the painter.
pub struct Studio<P> {
    audience: Arc<Audience>,
    kept: Mutex<VecDeque<(FrameKey, P)>>,
    slots: Vec<Mutex<Option<Shot<P>>>>,
}

/// The studio as `analyze` sees it, which knows of no pixels.
pub trait Gallery: Send + Sync {
    /// Whether this frame's picture was kept: then it wants to be shown.
    fn has(&self, key: FrameKey) -> bool;
    /// These are the frame's results: paint it.
    fn show(&self, key: FrameKey, stamp: Stamp, list: DrawList);
}

impl<P> Studio<P> {
    /// For everybody in this audience.
    pub fn new(audience: Arc<Audience>) -> Studio<P> {
        let slots = audience.cameras.iter().map(|_| Mutex::new(None)).collect();
        Studio { audience, kept: Mutex::default(), slots }
    }

    /// Who watches.
    pub fn audience(&self) -> &Arc<Audience> {
        &self.audience
    }

    /// The engine has read these pixels. They are kept if somebody watches their camera, else freed.
    pub fn keep(&self, key: FrameKey, pixels: P) {
        if !self.audience.is_watched(key.camera) {
            return;
        }
        let forgotten = {
            let mut kept = lock(&self.kept);
            // What failed after it was loaded is never asked for.
            let forgotten = if kept.len() >= MOST_KEPT { kept.pop_front() } else { None };
            kept.push_back((key, pixels));
            forgotten
        };
        // A picture may take its time to be freed.
        drop(forgotten);
    }

    /// Frees what is left of those who have gone: pixels that were on their way, and views' last pictures.
    pub fn tidy(&self) {
        let mut left = VecDeque::new();
        {
            let mut kept = lock(&self.kept);
            if kept.iter().any(|(key, _)| !self.audience.is_watched(key.camera)) {
                std::mem::swap(&mut *kept, &mut left);
                let (stay, go) = left.into_iter().partition(|(key, _)| self.audience.is_watched(key.camera));
                (*kept, left) = (stay, go);
            }
        }
        drop(left);
        for view in self.audience.cameras.iter().map_while(OnceLock::get).flat_map(|seats| &seats.views) {
            if view.receiver_count() == 0 && view.borrow().is_some() {
                view.send_replace(None);
            }
        }
    }

    /// The newest frame of a camera that is to be painted.
    pub fn take(&self, camera: CameraId) -> Option<Shot<P>> {
        lock(&self.slots[camera.index()]).take()
    }
}

impl<P: Send> Gallery for Studio<P> {
    fn has(&self, key: FrameKey) -> bool {
        self.audience.is_watched(key.camera) && lock(&self.kept).iter().any(|(kept, _)| *kept == key)
    }

    fn show(&self, key: FrameKey, stamp: Stamp, list: DrawList) {
        let (mut found, mut older) = (None, Vec::new());
        {
            let mut kept = lock(&self.kept);
            // Older frames of this camera were lost on their way: results come in order.
            let mut rest = VecDeque::with_capacity(kept.len());
            for (other, pixels) in kept.drain(..) {
                if other == key {
                    found = Some(pixels);
                } else if other.camera == key.camera && other.seq < key.seq {
                    older.push(pixels);
                } else {
                    rest.push_back((other, pixels));
                }
            }
            *kept = rest;
        }
        if let Some(pixels) = found {
            let missed = lock(&self.slots[key.camera.index()]).replace(Shot { key, stamp, pixels, list });
            self.audience.bell.ring();
            drop((missed, older));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these hold is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Tick, bell};
    use crate::frame::Size;

    const DOOR: CameraId = CameraId(0);

    fn studio() -> (Arc<Audience>, Studio<&'static str>) {
        let audience = Audience::new(["door", "yard"], bell().0);
        (Arc::clone(&audience), Studio::new(audience))
    }

    fn key(seq: u64) -> FrameKey {
        FrameKey { camera: DOOR, seq }
    }

    fn show(studio: &Studio<&'static str>, seq: u64) {
        let stamp = Stamp { arrived: Tick::ZERO, decoded: Tick::ZERO, pts: None, wall: Wall(0) };
        let list = DrawList { size: Size { width: 2, height: 2 }, covers: Vec::new(), marks: Vec::new() };
        studio.show(key(seq), stamp, list);
    }

    #[test]
    fn nothing_is_kept_while_nobody_watches() {
        let (audience, studio) = studio();
        studio.keep(key(0), "a");
        assert!(!studio.has(key(0)));
        let viewer = audience.watch(DOOR, View::new(true, None));
        studio.keep(key(1), "b");
        assert!(studio.has(key(1)) && !studio.has(key(0)));
        drop(viewer);
        assert!(!audience.is_watched(DOOR) && audience.views(DOOR).is_empty());
    }

    #[test]
    fn a_frame_meets_its_own_results_and_the_newest_wins() {
        let (audience, studio) = studio();
        let _viewer = audience.watch(DOOR, View::new(false, Some(640)));
        for (seq, pixels) in [(0, "a"), (1, "b"), (2, "c"), (3, "d")] {
            studio.keep(key(seq), pixels);
        }
        show(&studio, 1);
        show(&studio, 2);
        let shot = studio.take(DOOR).expect("a frame");
        assert_eq!((shot.key.seq, shot.pixels), (2, "c"));
        assert!(studio.take(DOOR).is_none());
        assert!(studio.has(key(3)) && !studio.has(key(0)), "what was lost on its way is freed");
        show(&studio, 7);
        assert!(studio.take(DOOR).is_none(), "results without a picture");
    }

    #[test]
    fn nothing_is_left_of_those_who_have_gone() {
        let (audience, studio) = studio();
        let view = View::new(true, None);
        let (viewer, yard) = (audience.watch(DOOR, view), audience.watch(CameraId(1), view));
        let other = FrameKey { camera: CameraId(1), seq: 0 };
        studio.keep(key(0), "a");
        studio.keep(other, "b");
        let shown = Shown { jpeg: Bytes::from_static(b"jpeg"), seq: None, wall: Wall(0) };
        audience.publish(DOOR, view, shown);
        studio.tidy();
        assert_eq!(lock(&studio.kept).len(), 2);
        drop(viewer);
        studio.tidy();
        assert!(lock(&studio.kept).iter().map(|(key, _)| *key).eq([other]));
        assert!(audience.seats(DOOR).views.iter().all(|view| view.borrow().is_none()));
        drop(yard);
    }

    #[test]
    fn what_fails_on_its_way_does_not_pile_up() {
        let (audience, studio) = studio();
        let _viewer = audience.watch(DOOR, View::new(true, None));
        for seq in 0..1000 {
            studio.keep(key(seq), "a");
        }
        assert_eq!(lock(&studio.kept).len(), MOST_KEPT);
    }

    #[test]
    fn widths_are_rounded_down_to_a_step() {
        let widths = [Some(1), Some(160), Some(639), Some(640), Some(5000), None];
        let steps = widths.map(|width| View::new(true, width).width());
        assert_eq!(steps, [Some(160), Some(160), Some(480), Some(640), Some(1920), None]);
        assert_eq!(View::all().map(View::index).collect::<Vec<_>>(), (0..View::COUNT).collect::<Vec<_>>());
    }
}
