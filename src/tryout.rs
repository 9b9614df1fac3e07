//! `weir try`: a model on a video, frame by frame, through the daemon's own source, preprocess, engine and detector.
//!
//! No batching, no dropping, no tracking: it answers "what does this network see here?".

use std::io::Write;

use serde::Serialize;

use crate::clock::SystemClock;
use crate::config::{Camera, Infer, Model};
use crate::device::software::Software;
use crate::device::{Device, Engine, Outputs};
use crate::fault::{Fault, Who};
use crate::film::Film;
use crate::flow::detect::Detector;
use crate::frame::{Detection, Frame, Size, Stamp};
use crate::model::spec::TensorView;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line a frame, for people.
    Text,
    /// A JSON object a frame: `{frame, width, height, detections: [{label, class, score, bbox: [x, y, w, h] in pixels}]}`.
    Jsonl,
    /// MOTChallenge detections: `frame,-1,x,y,w,h,score,class`, frames counted from 1, left and top from 1.
    MotDet,
}

/// What to try.
pub struct Tryout {
    /// The model.
    pub model: Model,
    /// `[infer]`.
    pub infer: Infer,
    /// Where pictures come from.
    pub camera: Camera,
    /// Stop after so many frames; 0: at the end.
    pub frames: u64,
    /// How to print.
    pub format: Format,
    /// Print detections from this score on, 0..=1.
    pub min_score: f32,
}

impl Tryout {
    /// Runs to the end of the video, or to `frames`.
    ///
    /// # Errors
    /// Whatever keeps the model or the source from working, or `out` from being written.
    pub fn run(self, out: &mut dyn Write) -> Result<(), Fault> {
        let device = Software::new(&self.model, &self.infer, 1, &SystemClock::new())?;
        let mut engine = device.engine()?;
        let mut detector = Detector::new(device.spec(), &engine.outputs())?;
        let labels = &device.spec().labels;
        let mut film = Film::open(&device, &self.camera)?;
        let mut found = Vec::new();
        let mut number = 0;
        while self.frames == 0 || number < self.frames {
            let Some(picture) = film.picture()? else { break };
            number += 1;
            let size = picture.size;
            let Some(pixels) = picture.pixels else { continue };
            let stamp = Stamp {
                arrived: <_>::default(),
                decoded: <_>::default(),
                pts: picture.pts,
                wall: <_>::default(),
            };
            let place = engine.load(0, &Frame { stamp, size, pixels })?;
            let outputs = engine.run(1)?;
            let views: Vec<TensorView<'_>> =
                (0..outputs.count()).map(|i| Outputs::view(&outputs, i, 0)).collect();
            found.clear();
            detector.decode(&views, &place, size, &mut found);
            found.retain(|d: &Detection| d.score >= self.min_score);
            let label = |d: &Detection| labels.get(usize::from(d.class)).map_or("", |l| &**l);
            print(out, self.format, number, size, &found, &label)
                .map_err(|e| Fault::new(Who::Device, "output", format!("results cannot be written: {e}")))?;
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Line<'a> {
    frame: u64,
    width: u32,
    height: u32,
    detections: Vec<Found<'a>>,
}

#[derive(Serialize)]
struct Found<'a> {
    label: &'a str,
    class: u16,
    score: f32,
    bbox: [f32; 4],
}

fn print<'a>(
    out: &mut dyn Write,
    format: Format,
    frame: u64,
    size: Size,
    found: &[Detection],
    label: &dyn Fn(&Detection) -> &'a str,
) -> std::io::Result<()> {
    match format {
        Format::Text => {
            write!(out, "frame {frame} {size}:")?;
            for d in found {
                let b = d.bbox;
                write!(out, "  {} {:.2} at {:.0},{:.0} {:.0}×{:.0}", label(d), d.score, b.x, b.y, b.w, b.h)?;
            }
            writeln!(out)
        }
        Format::Jsonl => {
            let detections = found
                .iter()
                .map(|d| Found {
                    label: label(d),
                    class: d.class,
                    score: d.score,
                    bbox: [d.bbox.x, d.bbox.y, d.bbox.w, d.bbox.h],
                })
                .collect();
            serde_json::to_writer(
                &mut *out,
                &Line { frame, width: size.width, height: size.height, detections },
            )?;
            writeln!(out)
        }
        Format::MotDet => {
            for d in found {
                let b = d.bbox;
                writeln!(
                    out,
                    "{frame},-1,{:.2},{:.2},{:.2},{:.2},{:.4},{}",
                    b.x + 1.0,
                    b.y + 1.0,
                    b.w,
                    b.h,
                    d.score,
                    d.class
                )?;
            }
            Ok(())
        }
    }
}
