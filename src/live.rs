//! `weir check --live`: opens each camera once and says what it delivers, or why not. `weir plan` asks the same.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::clock::{Clock, SystemClock};
use crate::config::Camera;
use crate::device::software::source;
use crate::device::{Happening, Sink};
use crate::event::Video;
use crate::fault::{Fault, Retry, Who};
use crate::probe::refine;
use crate::supervise;

/// Cameras that are opened at a time.
const AT_ONCE: usize = 8;
/// What a camera may take to its first picture.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens all cameras, prints a line each, and returns whether all deliver.
///
/// # Errors
/// When `out` cannot be written, or a thread cannot be started.
pub fn check(cameras: &[Camera], out: &mut dyn Write) -> Result<bool, Fault> {
    let width = cameras.iter().map(|c| c.name.len()).max().unwrap_or(0);
    let mut good = true;
    look(cameras, &mut |camera, outcome, took| {
        good &= outcome.is_ok();
        let line = match &outcome {
            Ok(video) => {
                let fps = video.fps.map_or(String::new(), |f| format!(" {f:.0} fps"));
                format!(
                    "ok    {}×{} {}{fps}, first picture after {:.1} s",
                    video.width,
                    video.height,
                    video.codec,
                    took.as_secs_f32()
                )
            }
            Err(fault) => format!("FAIL  [{}] {fault}", fault.reason),
        };
        writeln!(out, "{:width$}  {line}", camera.name)
            .map_err(|e| Fault::new(Who::Device, "output", format!("results cannot be written: {e}")))
    })?;
    Ok(good)
}

/// What a camera delivers, and after how long.
type Tell<'a> = &'a mut dyn FnMut(&Camera, Result<Video, Fault>, Duration) -> Result<(), Fault>;

/// Opens all cameras, [`AT_ONCE`] at a time, and tells of each in their order.
///
/// # Errors
/// That of `tell`, or when a thread cannot be started.
pub fn look(cameras: &[Camera], tell: Tell) -> Result<(), Fault> {
    for group in cameras.chunks(AT_ONCE) {
        let mut opened = Vec::new();
        for camera in group {
            let (say, said) = bounded(1);
            let theirs = camera.clone();
            let worker = supervise::spawn(&format!("cam-{}", camera.name), move || {
                let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
                let before = clock.now();
                let outcome = first_picture(&theirs);
                let _ = say.send((outcome, clock.now().since(before)));
            })?;
            opened.push((camera, said, worker));
        }
        for (camera, said, worker) in opened {
            let panicked = || Fault::new(Who::Bug, "panic", "its check panicked");
            let (outcome, took) = said.recv().unwrap_or_else(|_| (Err(panicked()), Duration::ZERO));
            worker.join();
            tell(camera, outcome, took)?;
        }
    }
    Ok(())
}

fn first_picture(camera: &Camera) -> Result<Video, Fault> {
    let (seen, first) = bounded(1);
    let (happening, happenings) = bounded(64);
    let sink = Sink { picture: Box::new(move |p| drop(seen.try_send(p.video))), happening, gate: None };
    let _source = source::open(camera, sink)?;
    loop {
        crossbeam_channel::select! {
            recv(first) -> video => return video.map_err(|_| ended()),
            recv(happenings) -> what => match what {
                Ok(Happening::Undecodable) => {}
                Ok(Happening::Ended) | Err(_) => return Err(ended()),
                Ok(Happening::Failed(fault)) => return Err(refine(&camera.source, fault)),
            },
            default(PATIENCE) => return Err(
                Fault::new(Who::Camera, "stalled", format!("no picture within {} s", PATIENCE.as_secs())).retry(Retry::Soon)),
        }
    }
}

fn ended() -> Fault {
    Fault::new(Who::Camera, "ended", "the stream ended before its first picture").retry(Retry::Soon)
}
