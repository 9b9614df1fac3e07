//! What decoding costs, measured on a clip that is played again and again as fast as it goes.
//!
//! The CPU decodes it once at a time: CPU time does not depend on company. A GPU's decoders are loaded with many at a time, since what a
//! pixel takes of them is read off how busy they say they are, and they say it as a percentage of the last second or so.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, tick};

use super::clip::Clip;
use super::trouble;
use crate::clock::{Clock, Tick};
use crate::config::{Camera, Config, Source as Stream};
use crate::device::{Device, Happening, Sink, Source};
use crate::event::Video;
use crate::fault::Fault;
use crate::frame::{Frame, Stamp};
use crate::plan::Sends;
use crate::usage;

/// Frames decoded before CPU time counts: plugins are loaded, decoders allocate.
const SKIP: u64 = 10;
/// Frames that are decoded for the measurement on the CPU.
const FRAMES: u64 = 140;
/// Streams at a time where a GPU decodes: more than any has decoders.
const STREAMS: usize = 16;
/// What a GPU says is of a while ago: so long passes before it counts, and so long it counts.
const GPU: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(4));
/// Between two looks.
const EVERY: Duration = Duration::from_millis(20);
/// For a clip to be decoded.
const PATIENCE: Duration = Duration::from_secs(60);

/// What it costs.
pub(super) struct Decoded<P> {
    /// `file` or `test_pattern`.
    pub from: &'static str,
    /// CPU seconds a pixel.
    pub cost: f64,
    /// Seconds a pixel of all of the GPU's video decoders together.
    pub nvdec: Option<f64>,
    pub last: Frame<P>,
}

/// Decodes the first file that the configuration plays, or a test pattern of the size asked for.
pub(super) fn decode<D: Device>(
    device: &D,
    config: &Config,
    pattern: &Sends,
    clock: &dyn Clock,
) -> Result<Decoded<D::Pixels>, Fault> {
    let template = config.cameras.first().ok_or_else(|| trouble("there is no camera"))?;
    let file = config.cameras.iter().find_map(|camera| match &camera.source {
        Stream::File { path, .. } => Some(path.clone()),
        _ => None,
    });
    match file {
        Some(path) => play(device, template, path, "file", clock),
        None => {
            let clip = Clip::encode(pattern)?;
            play(device, template, clip.path.clone(), "test_pattern", clock)
        }
    }
}

/// What the sources' threads saw.
struct Seen<P> {
    count: AtomicU64,
    last: Mutex<Option<(Video, Frame<P>)>>,
}

/// A reading of everything that counts.
struct Mark {
    at: Tick,
    count: u64,
    cpu: Duration,
}

fn play<D: Device>(
    device: &D,
    template: &Camera,
    path: PathBuf,
    from: &'static str,
    clock: &dyn Clock,
) -> Result<Decoded<D::Pixels>, Fault> {
    // Nobody looks for motion here.
    let source = Stream::File { path, repeat: true, realtime: false };
    let camera = Camera { source, still_fps: None, ..template.clone() };
    let seen = Arc::new(Seen { count: AtomicU64::new(0), last: Mutex::new(None) });
    let on_gpu = device.ordinal().is_some();
    let count = if on_gpu { STREAMS } else { 1 };
    let mut sources = Vec::with_capacity(count);
    for _ in 0..count {
        let (sink, happenings) = watch::<D>(&seen);
        sources.push((device.open(&camera, sink)?, happenings));
    }
    let start = clock.now();
    let (mut begin, mut busy): (Option<Mark>, Vec<f64>) = (None, Vec::new());
    let looks = tick(EVERY);
    let end = loop {
        // A timer of our own: it does not end.
        let _ = looks.recv();
        for (source, happenings) in &mut sources {
            again(source, happenings)?;
        }
        let mark = Mark { at: clock.now(), count: seen.count.load(Relaxed), cpu: usage::process_cpu() };
        if mark.at.since(start) > PATIENCE {
            return Err(trouble("the clip could not be decoded in time"));
        }
        let Some(begin) = &begin else {
            let warm = if on_gpu { mark.at.since(start) >= GPU.0 } else { mark.count >= SKIP };
            begin = Some(mark).filter(|_| warm);
            continue;
        };
        busy.extend(device.report().and_then(|report| report.decoder_utilization_ratio));
        let enough =
            if on_gpu { mark.at.since(begin.at) >= GPU.1 } else { mark.count - begin.count >= FRAMES };
        if enough {
            break mark;
        }
    };
    drop(sources);
    let (Some(begin), Some((video, last))) =
        (begin, seen.last.lock().unwrap_or_else(PoisonError::into_inner).take())
    else {
        return Err(trouble("the clip has no picture"));
    };
    if end.count == begin.count {
        return Err(trouble("the clip has no picture"));
    }
    let pixels = (end.count - begin.count) as f64 * f64::from(video.width) * f64::from(video.height);
    let seconds = end.at.since(begin.at).as_secs_f64();
    let busy = (!busy.is_empty()).then(|| busy.iter().sum::<f64>() / busy.len() as f64);
    Ok(Decoded {
        from,
        cost: end.cpu.saturating_sub(begin.cpu).as_secs_f64() / pixels,
        nvdec: busy.filter(|busy| *busy > 0.0).map(|busy| busy * seconds / pixels),
        last,
    })
}

fn watch<D: Device>(seen: &Arc<Seen<D::Pixels>>) -> (Sink<D::Pixels>, Receiver<Happening>) {
    let (happening, happenings) = bounded(64);
    let seen = Arc::clone(seen);
    let picture = move |picture: crate::device::Picture<D::Pixels>| {
        let Some(pixels) = picture.pixels else { return };
        let (arrived, decoded, wall) = Default::default();
        let stamp = Stamp { arrived, decoded, pts: picture.pts, wall };
        let frame = Frame { stamp, size: picture.size, pixels };
        *seen.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((picture.video, frame));
        seen.count.fetch_add(1, Relaxed);
    };
    (Sink { gate: None, picture: Box::new(picture), happening }, happenings)
}

/// Plays it from its start when it has ended.
fn again<S: Source>(source: &mut S, happenings: &Receiver<Happening>) -> Result<(), Fault> {
    for what in happenings.try_iter() {
        match what {
            Happening::Undecodable => {}
            Happening::Failed(fault) => return Err(fault),
            Happening::Ended => source.rewind()?,
        }
    }
    Ok(())
}
