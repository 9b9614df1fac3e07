//! Pictures for people: who watches which camera how, and the way of a frame's pixels from the engine to the painter.
//!
//! ```text
//! infer ─ keep(key, pixels) ─▶ Studio ─ show(key, list) by analyze ─▶ one reel a camera ─▶ stage/show.rs
//!                                ▲                                                          │ paints, encodes
//!   rings ─ frames given up ─────┘      HTTP: snapshot.jpg, stream.mjpg ◀─ Audience ◀───────┤
//!                                       RTSP: rtsp.rs ◀─ Units ◀─ Restream ◀── Output ◀─────┘
//! ```
//!
//! While nobody watches a camera nothing is kept, painted or encoded. Nothing here waits for a viewer: who is slow misses pictures.
//! What is shown of a frame is that very frame: its pixels and its results meet by [`FrameKey`]. Frames that were not analysed are
//! shown to outputs that ask for them, in the order of their numbers, and to nobody else.

pub mod encoder;
pub mod jpeg;
mod reel;
pub mod restream;
pub mod rtsp;
pub mod units;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::watch;

use self::reel::Reel;
use crate::clock::{Bell, Tick, Wall};
use crate::device::canvas::Canvas;
use crate::flow::draw::DrawList;
use crate::frame::{CameraId, Frame, FrameKey, Size, Stamp};
use crate::intake::Bystander;
use crate::metrics;

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
    /// Whether it wants frames that were not analysed, too.
    fn shows_all(&self) -> bool;
    /// Whether it wants the frame that arrived at this moment. Asked once a frame, in their order.
    fn wants(&self, at: Tick) -> bool;
    /// Takes the picture of a frame that arrived at this moment; must not wait.
    fn push(&self, canvas: Canvas, at: Tick);
}

/// Who watches, by camera.
pub struct Audience {
    /// By [`CameraId`]; `None`: there is no such camera, or no more.
    cameras: RwLock<Vec<Option<Arc<Seats>>>>,
    bell: Bell,
}

struct Seats {
    /// Viewers and outputs; nothing is kept of a camera while it is 0.
    watchers: AtomicUsize,
    /// Outputs that want all frames.
    wants_all: AtomicUsize,
    views: Vec<watch::Sender<Option<Arc<Shown>>>>,
    outputs: Mutex<Vec<Arc<dyn Output>>>,
    meter: metrics::Viewers,
}

impl Audience {
    /// For cameras of these names. `bell` wakes the painter when somebody comes.
    pub fn new<'a>(cameras: impl IntoIterator<Item = &'a str>, bell: Bell) -> Arc<Audience> {
        let audience = Audience { cameras: RwLock::default(), bell };
        for (id, name) in (0..).map(CameraId).zip(cameras) {
            audience.add(id, name);
        }
        Arc::new(audience)
    }

    /// One more camera.
    pub fn add(&self, camera: CameraId, name: &str) {
        let seats = Seats {
            watchers: AtomicUsize::new(0),
            wants_all: AtomicUsize::new(0),
            views: (0..View::COUNT).map(|_| watch::Sender::new(None)).collect(),
            outputs: Mutex::default(),
            meter: metrics::viewers(name),
        };
        let mut cameras = self.cameras.write().unwrap_or_else(PoisonError::into_inner);
        if cameras.len() <= camera.index() {
            cameras.resize_with(camera.index() + 1, || None);
        }
        cameras[camera.index()] = Some(Arc::new(seats));
    }

    /// One camera less: its viewers' streams end.
    pub fn remove(&self, camera: CameraId) {
        let mut cameras = self.cameras.write().unwrap_or_else(PoisonError::into_inner);
        let gone = cameras.get_mut(camera.index()).and_then(Option::take);
        drop(cameras);
        drop(gone);
    }

    fn seats(&self, camera: CameraId) -> Option<Arc<Seats>> {
        self.cameras.read().unwrap_or_else(PoisonError::into_inner).get(camera.index())?.clone()
    }

    /// The cameras there are.
    pub fn cameras(&self) -> Vec<CameraId> {
        let cameras = self.cameras.read().unwrap_or_else(PoisonError::into_inner);
        (0..).map(CameraId).zip(&*cameras).filter(|(_, seats)| seats.is_some()).map(|(id, _)| id).collect()
    }

    /// Does anybody watch this camera?
    pub fn is_watched(&self, camera: CameraId) -> bool {
        let cameras = self.cameras.read().unwrap_or_else(PoisonError::into_inner);
        matches!(cameras.get(camera.index()), Some(Some(seats)) if seats.watchers.load(Relaxed) > 0)
    }

    /// Does anybody want to see all of its frames, also those that are not analysed?
    pub fn wants_all(&self, camera: CameraId) -> bool {
        let cameras = self.cameras.read().unwrap_or_else(PoisonError::into_inner);
        matches!(cameras.get(camera.index()), Some(Some(seats)) if seats.wants_all.load(Relaxed) > 0)
    }

    /// Watches until it is dropped. `None`: there is no such camera.
    pub fn watch(&self, camera: CameraId, view: View) -> Option<Watching> {
        let seats = self.seats(camera)?;
        let pictures = seats.views[view.index()].subscribe();
        seats.come();
        self.bell.ring();
        // It must not keep the seats: their end is what ends its stream.
        Some(Watching { seats: Arc::downgrade(&seats), pictures })
    }

    /// Sends painted pictures to `output` too, until the answer is dropped.
    pub fn attach(&self, camera: CameraId, output: Arc<dyn Output>) -> Option<Attached> {
        let seats = self.seats(camera)?;
        lock(&seats.outputs).push(Arc::clone(&output));
        seats.wants_all.fetch_add(usize::from(output.shows_all()), Relaxed);
        seats.come();
        self.bell.ring();
        Some(Attached { seats, output })
    }

    /// The views that somebody looks at.
    pub fn views(&self, camera: CameraId) -> Vec<View> {
        let Some(seats) = self.seats(camera) else { return Vec::new() };
        View::all().filter(|view| seats.views[view.index()].receiver_count() > 0).collect()
    }

    /// The outputs that are attached.
    pub fn outputs(&self, camera: CameraId) -> Vec<Arc<dyn Output>> {
        self.seats(camera).map(|seats| lock(&seats.outputs).clone()).unwrap_or_default()
    }

    /// A new picture for all who look at this view.
    pub fn publish(&self, camera: CameraId, view: View, shown: Shown) {
        if let Some(seats) = self.seats(camera) {
            seats.views[view.index()].send_replace(Some(Arc::new(shown)));
        }
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
    seats: std::sync::Weak<Seats>,
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
        if let Some(seats) = self.seats.upgrade() {
            seats.go();
        }
    }
}

/// An attached output.
pub struct Attached {
    seats: Arc<Seats>,
    output: Arc<dyn Output>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        lock(&self.seats.outputs).retain(|output| !Arc::ptr_eq(output, &self.output));
        self.seats.wants_all.fetch_sub(usize::from(self.output.shows_all()), Relaxed);
        self.seats.go();
    }
}

/// A frame to paint.
pub struct Shot<P> {
    /// Which.
    pub key: FrameKey,
    /// When.
    pub stamp: Stamp,
    /// How large.
    pub size: Size,
    /// Its picture.
    pub pixels: P,
    /// What to paint on it; `None`: it was not analysed.
    pub list: Option<DrawList>,
}

/// Where pixels wait for their results, and results for the painter.
pub struct Studio<P> {
    audience: Arc<Audience>,
    reels: Mutex<HashMap<CameraId, Reel<P>>>,
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
        Studio { audience, reels: Mutex::default() }
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
        let freed = lock(&self.reels).entry(key.camera).or_default().keep(key.seq, pixels);
        // Outside of the lock: a picture may take its time to be freed.
        drop(freed);
    }

    /// Frees what is left of those who have gone: pixels that were on their way, and views' last pictures.
    pub fn tidy(&self) {
        let gone: Vec<Reel<P>> = {
            let mut reels = lock(&self.reels);
            let left = |camera: &&CameraId| !self.audience.is_watched(**camera);
            let left: Vec<CameraId> = reels.keys().filter(left).copied().collect();
            left.iter().filter_map(|camera| reels.remove(camera)).collect()
        };
        drop(gone);
        for camera in self.audience.cameras() {
            let Some(seats) = self.audience.seats(camera) else { continue };
            for view in &seats.views {
                if view.receiver_count() == 0 && view.borrow().is_some() {
                    view.send_replace(None);
                }
            }
        }
    }

    /// The next frame of a camera that is to be painted: the newest analysed one, or, if somebody wants all, one after the other.
    pub fn take(&self, camera: CameraId) -> Option<Shot<P>> {
        let all = self.audience.wants_all(camera);
        let (shot, freed) = lock(&self.reels).get_mut(&camera)?.take(camera, all);
        drop(freed);
        shot
    }
}

impl<P: Send> Gallery for Studio<P> {
    fn has(&self, key: FrameKey) -> bool {
        let has =
            |reels: &HashMap<CameraId, Reel<P>>| reels.get(&key.camera).is_some_and(|reel| reel.has(key.seq));
        self.audience.is_watched(key.camera) && has(&lock(&self.reels))
    }

    fn show(&self, key: FrameKey, stamp: Stamp, list: DrawList) {
        let freed = match lock(&self.reels).get_mut(&key.camera) {
            Some(reel) => reel.show(key.seq, stamp, list),
            None => return,
        };
        self.audience.bell.ring();
        drop(freed);
    }
}

impl<P: Send> Bystander<P> for Studio<P> {
    fn wants(&self, camera: CameraId) -> bool {
        self.audience.wants_all(camera)
    }

    fn came(&self, key: FrameKey) {
        let freed = lock(&self.reels).entry(key.camera).or_default().expect(key.seq);
        drop(freed);
    }

    fn gave_up(&self, key: FrameKey, frame: Frame<P>) {
        let freed = lock(&self.reels).entry(key.camera).or_default().plain(key.seq, frame);
        self.audience.bell.ring();
        drop(freed);
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
        let size = Size { width: 2, height: 2 };
        let list = DrawList { size, covers: Vec::new(), marks: Vec::new(), legend: Vec::new() };
        studio.show(key(seq), stamp, list);
    }

    #[test]
    fn nothing_is_kept_while_nobody_watches() {
        let (audience, studio) = studio();
        studio.keep(key(0), "a");
        assert!(!studio.has(key(0)));
        let viewer = audience.watch(DOOR, View::new(true, None)).expect("a camera");
        studio.keep(key(1), "b");
        assert!(studio.has(key(1)) && !studio.has(key(0)));
        drop(viewer);
        assert!(!audience.is_watched(DOOR) && audience.views(DOOR).is_empty());
    }

    #[test]
    fn a_frame_meets_its_own_results_and_the_newest_wins() {
        let (audience, studio) = studio();
        let _viewer = audience.watch(DOOR, View::new(false, Some(640))).expect("a camera");
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
        assert_eq!(lock(&studio.reels).len(), 2);
        drop(viewer);
        studio.tidy();
        assert!(lock(&studio.reels).keys().eq([&other.camera]));
        assert!(audience.seats(DOOR).expect("a camera").views.iter().all(|view| view.borrow().is_none()));
        drop(yard);
    }

    #[test]
    fn what_fails_on_its_way_does_not_pile_up() {
        let (audience, studio) = studio();
        let _viewer = audience.watch(DOOR, View::new(true, None)).expect("a camera");
        for seq in 0..1000 {
            studio.keep(key(seq), "a");
        }
        assert_eq!(lock(&studio.reels)[&DOOR].len(), reel::MOST_KEPT);
    }

    #[test]
    fn a_camera_that_has_gone_ends_its_viewers_and_another_may_come() {
        let (audience, studio) = studio();
        let mut viewer = audience.watch(DOOR, View::new(true, None)).expect("a camera");
        audience.remove(DOOR);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        assert!(runtime.block_on(viewer.next()).is_none());
        assert!(audience.watch(DOOR, View::new(true, None)).is_none() && !audience.is_watched(DOOR));
        studio.keep(key(0), "a");
        assert!(!studio.has(key(0)));
        audience.add(CameraId(7), "attic");
        let _viewer = audience.watch(CameraId(7), View::new(true, None)).expect("a camera");
        assert_eq!(audience.cameras(), [CameraId(1), CameraId(7)]);
        assert!(audience.is_watched(CameraId(7)));
    }

    #[test]
    fn widths_are_rounded_down_to_a_step() {
        let widths = [Some(1), Some(160), Some(639), Some(640), Some(5000), None];
        let steps = widths.map(|width| View::new(true, width).width());
        assert_eq!(steps, [Some(160), Some(160), Some(480), Some(640), Some(1920), None]);
        assert_eq!(View::all().map(View::index).collect::<Vec<_>>(), (0..View::COUNT).collect::<Vec<_>>());
    }
}
