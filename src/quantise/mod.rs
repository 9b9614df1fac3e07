//! `weir model prepare --int8`: measures what a network's values are on the operator's own video, puts integers in, and shows
//! what that costs before it writes anything.
//!
//! Of the pictures that are used every other one is for measuring, the others are for comparing: a network is not judged on what it
//! was fitted to. There is no best way to make a range of what was measured: outliers coarsen one network's values, and are what
//! another one finds its objects by. All of [`WAYS`] are tried, and the one whose boxes are most alike on the measuring half is taken. The
//! edit itself is [`crate::model::int8`]'s.

pub mod score;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;

use crate::clock::{Clock, SystemClock};
use crate::config::{Camera, Infer, Model, Provider};
use crate::device::software::Software;
use crate::device::software::engine::SoftwareEngine;
use crate::device::software::pixels::Pixels;
use crate::device::software::session::Session;
use crate::device::{Device, Engine, Outputs};
use crate::fault::{Fault, Who};
use crate::film::Film;
use crate::flow::detect::Detector;
use crate::frame::{Detection, Frame, Stamp};
use crate::model::int8::{self, Plan, Range};
use crate::model::onnx::ModelProto;
use crate::model::spec::TensorView;
use crate::model::{file, prepare};

use score::{Agreement, Precision, Truth};

/// Detections below this score count for nothing in the comparison.
const LEAST_SCORE: f32 = 0.3;
/// Fewer pictures than this say nothing about ranges.
const FEWEST: u64 = 8;

/// A way to make a value's range of what it was in the pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// From the smallest to the largest number in any picture.
    Widest,
    /// From the mean over the pictures of the smallest to that of the largest: one odd picture does not coarsen all others.
    Mean,
    /// The same with this part of the numbers of a picture left out at each end.
    Cut(f32),
}

/// Those that are tried.
pub const WAYS: [Way; 4] = [Way::Widest, Way::Mean, Way::Cut(0.000_1), Way::Cut(0.001)];

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Widest => f.write_str("the widest ranges"),
            Way::Mean => f.write_str("mean ranges"),
            Way::Cut(part) => write!(f, "mean ranges without {} % at each end", 100.0 * part),
        }
    }
}

/// Of a tensor, numbers that are looked at: enough for the smallest part that is left out.
const SAMPLE: usize = 1 << 16;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Job {
    /// The network and its manifest.
    pub model: Model,
    /// `[infer]`.
    pub infer: Infer,
    /// The video.
    pub camera: Camera,
    /// Use every n-th picture.
    pub every: u64,
    /// At most so many, half of them for measuring.
    pub frames: u64,
    /// MOTChallenge ground truth of the same video, if there is any.
    pub truth: Option<PathBuf>,
    /// The label of its boxes.
    pub label: String,
    /// The part of the old network's boxes that the new one must find again, 0..=1.
    pub least: f32,
    /// The `.onnx` file to write; its `model.toml` goes beside it.
    pub output: PathBuf,
}

/// What was done and shown. `Display` prints it for people.
#[derive(Clone, Debug)]
pub struct Quantised {
    output: PathBuf,
    weighted: (usize, usize),
    bytes: (usize, usize),
    pictures: (u64, u64),
    way: Way,
    agreement: Agreement,
    precision: Option<(usize, f64, f64)>,
    /// The quickest run of each.
    run: (Duration, Duration),
}

impl Job {
    /// Does it. `progress` hears about each step.
    ///
    /// # Errors
    /// Whatever keeps the model or the video from working; too short a video; a network that cannot be quantised, or that finds
    /// too little afterwards. Nothing is written then.
    pub fn run(self, progress: &mut dyn FnMut(&str)) -> Result<Quantised, Fault> {
        let clock = SystemClock::new();
        let device = Software::new(&self.model, &self.infer, 1, &clock)?;
        let model = file::read(&self.model.file)?;
        let plan = int8::plan(&model)?;
        let (ranges, measured) = self.measure(&device, &model, &plan, progress)?;
        let mut best: Option<(f64, usize, Vec<u8>, int8::Edit)> = None;
        for (index, ranges) in ranges.iter().enumerate() {
            let mut edited = model.clone();
            let edit = int8::apply(&mut edited, &plan, ranges)?;
            let bytes = edited.encode_to_vec();
            let seen = self.compare(&device, &bytes, &clock, MEASURING)?.agreement;
            let worth = seen.worth();
            progress(&format!("{}: {seen}", WAYS[index]));
            if best.as_ref().is_none_or(|(before, ..)| worth > *before) {
                best = Some((worth, index, bytes, edit));
            }
        }
        let Some((_, index, bytes, edit)) = best else {
            return Err(refuse("no range was tried".to_owned()));
        };
        progress("comparing");
        let mut seen = self.compare(&device, &bytes, &clock, COMPARING)?;
        seen.weighted = plan.weighted;
        seen.bytes = edit.bytes;
        seen.pictures.0 = measured;
        seen.way = WAYS[index];
        if seen.agreement.found() < f64::from(self.least) {
            return Err(refuse(format!(
                "the network in integers finds {:.1} % of the boxes that it found in floats, and --least asks for {:.1} %",
                100.0 * seen.agreement.found(),
                100.0 * self.least
            ))
            .remedy("give it more and more different pictures (--frames, another video), or accept less (--least)"));
        }
        let manifest = manifest(&self.model.manifest)?;
        prepare::write(&self.output, &bytes)?;
        prepare::write(&self.output.with_extension("toml"), manifest.as_bytes())?;
        Ok(seen)
    }

    /// Calls `each` with the pictures to use: their running number among those, and in the video (from 1).
    fn pictures(
        &self,
        device: &Software,
        mut each: impl FnMut(u64, u64, &Frame<Pixels>) -> Result<(), Fault>,
    ) -> Result<u64, Fault> {
        let mut film = Film::open(device, &self.camera)?;
        let (mut number, mut used) = (0, 0);
        while used < self.frames {
            let Some(picture) = film.picture()? else { break };
            number += 1;
            let Some(pixels) = picture.pixels.filter(|_| (number - 1) % self.every == 0) else { continue };
            let stamp = Stamp {
                arrived: <_>::default(),
                decoded: <_>::default(),
                pts: picture.pts,
                wall: <_>::default(),
            };
            each(used, number, &Frame { stamp, size: picture.size, pixels })?;
            used += 1;
        }
        if used < FEWEST {
            return Err(refuse(format!("the video gave {used} pictures, and {FEWEST} are needed at least"))
                .remedy("give a longer one, or use more of it with --every 1"));
        }
        Ok(used)
    }

    fn measure(
        &self,
        device: &Software,
        model: &ModelProto,
        plan: &Plan,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(Vec<HashMap<String, Range>>, u64), Fault> {
        let watched = int8::watched(model, plan).encode_to_vec();
        let name = &device.spec().name;
        let mut session = Session::open(device.runtime(), name, &watched, self.infer.threads)?;
        let mut engine = device.engine()?;
        let outputs: Vec<String> = session.outputs().iter().map(|o| o.name.clone()).collect();
        let input = device.spec().input.name.clone();
        let mut sums: HashMap<String, [(f64, f64); WAYS.len()]> = HashMap::new();
        let mut sample = Vec::with_capacity(SAMPLE);
        let mut count = 0;
        self.pictures(device, |used, _, frame| {
            if used % 2 != MEASURING {
                return Ok(());
            }
            engine.load(0, frame)?;
            let (dims, tensor) = engine.input(1);
            let results = session.run(&input, &dims, tensor)?;
            let mut add = |name: &str, values: &[f32]| {
                let sums = sums.entry(name.to_owned()).or_default();
                for ((sum, way), (low, high)) in sums.iter_mut().zip(WAYS).zip(reach(values, &mut sample)) {
                    let (low, high) = (f64::from(low), f64::from(high));
                    *sum = match way {
                        Way::Widest => (sum.0.min(low), sum.1.max(high)),
                        Way::Mean | Way::Cut(_) => (sum.0 + low, sum.1 + high),
                    };
                }
            };
            add(&input, tensor);
            for (index, name) in outputs.iter().enumerate() {
                add(name, results.all(index));
            }
            count += 1;
            if count % 16 == 0 {
                progress(&format!("measured on {count} pictures"));
            }
            Ok(())
        })?;
        let ranges = WAYS.into_iter().enumerate().map(|(index, way)| {
            let pictures = if way == Way::Widest { 1.0 } else { count as f64 };
            let range = |(low, high): (f64, f64)| ((low / pictures) as f32, (high / pictures) as f32);
            sums.iter().map(|(name, sums)| (name.clone(), range(sums[index]))).collect()
        });
        Ok((ranges.collect(), count))
    }

    /// Compares with the old network on one half of the pictures.
    fn compare(
        &self,
        device: &Software,
        bytes: &[u8],
        clock: &dyn Clock,
        half: u64,
    ) -> Result<Quantised, Fault> {
        let spec = device.spec();
        let truth = self.truth.as_deref().map(Truth::read).transpose()?;
        let class = spec.labels.iter().position(|l| **l == *self.label).and_then(|c| u16::try_from(c).ok());
        if truth.is_some() && class.is_none() {
            return Err(refuse(format!("the model knows no label `{}`", self.label))
                .remedy("name one of its own with --label"));
        }
        let mut floats = Judge::new(device.engine()?, device)?;
        let engine = SoftwareEngine::open(
            device.runtime(),
            Arc::clone(spec),
            bytes,
            self.infer.threads,
            Provider::Cpu,
            1,
        )?;
        let mut integers = Judge::new(engine, device)?;
        let mut agreement = Agreement::default();
        let mut precision = [Precision::default(), Precision::default()];
        let mut compared = 0;
        self.pictures(device, |used, number, frame| {
            if used % 2 != half {
                return Ok(());
            }
            compared += 1;
            let (old, new) = (floats.look(frame, clock)?, integers.look(frame, clock)?);
            agreement.add(old, new, LEAST_SCORE);
            if let (Some(truth), Some(class)) = (&truth, class) {
                for (precision, found) in precision.iter_mut().zip([old, new]) {
                    precision.add(truth.of(number), found.iter().filter(|d| d.class == class));
                }
            }
            Ok(())
        })?;
        let boxes = precision[0].truths();
        let [old, new] = precision;
        Ok(Quantised {
            output: self.output.clone(),
            weighted: (0, 0),
            bytes: (0, 0),
            pictures: (0, compared),
            way: Way::Mean,
            agreement,
            precision: truth.map(|_| (boxes, old.average(), new.average())),
            run: (floats.quickest, integers.quickest),
        })
    }
}

/// Of the pictures that are used, the halves.
const MEASURING: u64 = 0;
const COMPARING: u64 = 1;

/// From where to where the values of one picture reach, for each of [`WAYS`].
fn reach(values: &[f32], sample: &mut Vec<f32>) -> [(f32, f32); WAYS.len()] {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    sample.clear();
    // An odd step meets every column and channel of a tensor with even sizes.
    sample.extend(values.iter().step_by((values.len() / SAMPLE).max(1) | 1));
    sample.sort_unstable_by(f32::total_cmp);
    let last = sample.len().saturating_sub(1);
    WAYS.map(|way| match way {
        Way::Cut(part) if !sample.is_empty() => {
            let off = ((part * sample.len() as f32) as usize).min(last / 2);
            if off == 0 { (low, high) } else { (sample[off], sample[last - off]) }
        }
        _ => (low, high),
    })
}

/// One of the two networks.
struct Judge {
    engine: SoftwareEngine,
    detector: Detector,
    found: Vec<Detection>,
    quickest: Duration,
}

impl Judge {
    fn new(engine: SoftwareEngine, device: &Software) -> Result<Self, Fault> {
        let detector = Detector::new(device.spec(), &engine.outputs())?;
        Ok(Judge { engine, detector, found: Vec::new(), quickest: Duration::MAX })
    }

    fn look(&mut self, frame: &Frame<Pixels>, clock: &dyn Clock) -> Result<&[Detection], Fault> {
        let place = self.engine.load(0, frame)?;
        let before = clock.now();
        let outputs = self.engine.run(1)?;
        self.quickest = self.quickest.min(clock.now().since(before));
        let views: Vec<TensorView<'_>> =
            (0..outputs.count()).map(|i| Outputs::view(&outputs, i, 0)).collect();
        self.found.clear();
        self.detector.decode(&views, &place, frame.size, &mut self.found);
        Ok(&self.found)
    }
}

/// The network's own manifest, for the new file: another name, and nothing of where the old one came from.
fn manifest(path: &Path) -> Result<String, Fault> {
    let bad = |e: &dyn fmt::Display| refuse(format!("the manifest {} cannot be read: {e}", path.display()));
    let text = fs::read_to_string(path).map_err(|e| bad(&e))?;
    let mut table: toml::Table = text.parse().map_err(|e| bad(&e))?;
    table.remove("source");
    table.remove("convert");
    if let Some(name) = table.get_mut("model").and_then(|m| m.get_mut("name")) {
        *name = format!("{}-int8", name.as_str().unwrap_or_default()).into();
    }
    Ok(table.to_string())
}

fn refuse(message: String) -> Fault {
    Fault::new(Who::Config, "quantise", message)
}

impl fmt::Display for Quantised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((some, all), (before, after)) = (self.weighted, self.bytes);
        let mb = |bytes: usize| bytes as f64 / 1e6;
        writeln!(
            f,
            "in integers: {some} of {all} convolutions and matrix products; the last ones stay in floats"
        )?;
        writeln!(f, "weights: {:.1} MB, were {:.1} MB", mb(after), mb(before))?;
        let (measured, compared) = self.pictures;
        writeln!(
            f,
            "measured on {measured} pictures, {} were best; compared on {compared} others, from score {LEAST_SCORE} on:",
            self.way
        )?;
        writeln!(f, "  {}", self.agreement)?;
        if let Some((boxes, old, new)) = self.precision {
            writeln!(f, "  average precision at IoU 0.5, {boxes} true boxes: {new:.3}, was {old:.3}")?;
        }
        let ms = |run: Duration| run.as_secs_f64() * 1e3;
        let (old, new) = (ms(self.run.0), ms(self.run.1));
        writeln!(f, "a run takes {new:.1} ms here, was {old:.1} ms ({:.2} times as fast)", old / new)?;
        if new > old {
            writeln!(
                f,
                "  slower: this processor has no fast kernels for 8 bits (VNNI, or Arm's dot product)"
            )?;
        }
        writeln!(f, "wrote {} and {}", self.output.display(), self.output.with_extension("toml").display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_without_a_cut_is_that_of_all_values_and_a_cut_leaves_outliers_out() {
        let mut values: Vec<f32> = (0..100_000).map(|n| (n % 1000) as f32 / 1000.0).collect();
        values[70_001] = 50.0;
        values[31] = -20.0;
        let reach = reach(&values, &mut Vec::new());
        assert_eq!(reach[..2], [(-20.0, 50.0); 2]);
        for (low, high) in &reach[2..] {
            assert!(*low >= 0.0 && *low < 0.02 && *high < 1.0 && *high > 0.98, "{low} to {high}");
        }
        assert_eq!(self::reach(&[2.0], &mut Vec::new()), [(2.0, 2.0); WAYS.len()]);
    }
}
