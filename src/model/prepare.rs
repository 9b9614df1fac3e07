//! `weir model prepare IN -o OUT`: frees a fixed batch, proves that nothing else changed, and only then writes.
//!
//! The proof runs both models on the same random pictures: four of the old batch through the old graph one after the
//! other, all at once through the new one. Every output of every frame must be equal, or differ by at most [`TOLERANCE`]
//! of its largest value (kernels may sum in another order when the batch is larger).
//! Random pictures exercise every node; they do not prove anything about an `If` that takes its other branch.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

use super::batch::{self, Edit};
use super::file;
use super::inspect::inspect;
use crate::device::software::session::{Runtime, Session};
use crate::fault::{Fault, Who};

/// The largest difference allowed, relative to the largest value of that output.
pub const TOLERANCE: f32 = 1e-5;

/// Groups of the old batch that the proof runs.
const GROUPS: usize = 4;

/// What was done and shown. `Display` prints it for people.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Where the new model is.
    pub output: PathBuf,
    /// What changed.
    pub edit: Edit,
    /// For each output, the largest difference between the two models on the same frame.
    pub differences: Vec<Difference>,
}

/// One output in the proof.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The output.
    pub name: String,
    /// max |new − old|.
    pub absolute: f32,
    /// max |old|.
    pub largest: f32,
}

/// Frees the batch of the model `input` and writes it to `output`.
///
/// # Errors
/// When `input` is no model of one picture input, its batch is free already, a node cannot be freed (it is named), the
/// proof fails, or `output` cannot be written. Nothing is written then.
pub fn prepare(input: &Path, output: &Path, runtime: &Runtime) -> Result<Prepared, Fault> {
    let name = input.display().to_string();
    let shape = proof_shape(input)?;
    let mut model = file::read(input)?;
    let bytes = fs::read(input).map_err(|e| refuse(format!("cannot read the model {name}: {e}")))?;
    if model.encoded_len() < bytes.len() {
        let lost = bytes.len() - model.encoded_len();
        return Err(refuse(format!(
            "the model {name} has {lost} bytes of fields that this version does not know, and would lose"
        ))
        .remedy("save it with a current version of onnx first"));
    }
    let edit = batch::free(&mut model).map_err(|mut fault| {
        fault.message = format!("cannot free the batch of {name}: {}", fault.message);
        fault
    })?;
    let edited = model.encode_to_vec();
    let proof = Proof { name: &name, shape: &shape, batch: edit.batch };
    let differences = proof.run(&bytes, &edited, runtime).map_err(|mut fault| {
        if let [first, rest @ ..] = &edit.doubts[..] {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            fault.remedy = format!("a suspect is {first}{more}; export the model again with a dynamic batch");
        }
        fault
    })?;
    write(output, &edited)?;
    Ok(Prepared { output: output.to_owned(), edit, differences })
}

/// One frame's shape, with 320 where the file leaves a size free.
fn proof_shape(input: &Path) -> Result<Vec<usize>, Fault> {
    let report = inspect(input)?;
    if report.input.data_type != super::onnx::data_type::FLOAT {
        return Err(refuse(format!("the input {} is not float32", report.input)));
    }
    Ok(report.input.dims.iter().skip(1).map(|d| d.fixed().unwrap_or(320)).collect())
}

struct Proof<'a> {
    name: &'a str,
    shape: &'a [usize],
    batch: usize,
}

impl Proof<'_> {
    fn run(&self, old: &[u8], new: &[u8], runtime: &Runtime) -> Result<Vec<Difference>, Fault> {
        let mut old = Session::open(runtime, self.name, old, 0)?;
        let mut new = Session::open(runtime, self.name, new, 0).map_err(|e| self.failed(&e.message))?;
        let input = old.inputs().first().map(|i| i.name.clone()).unwrap_or_default();
        let frame: usize = self.shape.iter().product();
        let mut random = fastrand::Rng::with_seed(1);
        let total = GROUPS * self.batch;
        let pictures: Vec<f32> = (0..total * frame).map(|_| random.f32()).collect();
        let dims = |batch: usize| [&[batch], self.shape].concat();

        let together = new.run(&input, &dims(total), &pictures).map_err(|e| self.failed(&e.message))?;
        let mut found: Vec<Difference> = (old.outputs().iter())
            .map(|o| Difference { name: o.name.clone(), absolute: 0.0, largest: 0.0 })
            .collect();
        let mut alike = true;
        for (group, part) in pictures.chunks(self.batch * frame).enumerate() {
            let apart = old.run(&input, &dims(self.batch), part)?;
            for slot in 0..self.batch {
                for (k, difference) in found.iter_mut().enumerate() {
                    let want = apart.view(k, slot);
                    let have = together.view(k, group * self.batch + slot);
                    alike &= have.data == together.view(k, 0).data;
                    difference.take(want.data, have.data).map_err(|why| self.failed(&why))?;
                }
            }
        }
        match found.iter().find(|d| d.absolute > TOLERANCE * d.largest) {
            Some(d) => {
                Err(self.failed(&format!("output `{}` differs by {} of {}", d.name, d.absolute, d.largest)))
            }
            None if alike => {
                Err(self.failed("all random pictures give the same outputs, so that equality shows nothing"))
            }
            None => Ok(found),
        }
    }

    fn failed(&self, why: &str) -> Fault {
        refuse(format!("cannot free the batch of {}: the edited graph fails the proof: {why}", self.name))
            .remedy("export the model again with a dynamic batch")
    }
}

impl Difference {
    /// Adds one frame.
    fn take(&mut self, want: &[f32], have: &[f32]) -> Result<(), String> {
        if want.len() != have.len() || want.is_empty() {
            let (n, m) = (want.len(), have.len());
            return Err(format!("output `{}` has {m} values a frame instead of {n}", self.name));
        }
        for (&w, &h) in want.iter().zip(have) {
            if !w.is_finite() && w.to_bits() != h.to_bits() {
                return Err(format!("output `{}` is {h} instead of {w}", self.name));
            }
            if w.is_finite() {
                let d = (w - h).abs();
                // NaN must not slip through a comparison.
                self.absolute = if d.is_finite() { self.absolute.max(d) } else { f32::INFINITY };
                self.largest = self.largest.max(w.abs());
            }
        }
        Ok(())
    }
}

fn refuse(message: String) -> Fault {
    Fault::new(Who::Config, "prepare", message)
}

/// Writes beside the target and renames: a file that is there is whole.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    fs::write(&part, bytes).and_then(|()| fs::rename(&part, path)).map_err(|e| {
        let _ = fs::remove_file(&part);
        Fault::new(Who::Config, "write", format!("cannot write {}: {e}", path.display()))
    })
}

impl fmt::Display for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "freed the batch, which was {}; {} nodes changed",
            self.edit.batch,
            self.edit.changed.len()
        )?;
        for node in &self.edit.changed {
            writeln!(f, "  {node}")?;
        }
        writeln!(f, "proved on random pictures: {GROUPS} runs of the old graph against one of the new")?;
        for d in &self.differences {
            writeln!(f, "  {}: largest difference {} (largest value {})", d.name, d.absolute, d.largest)?;
        }
        writeln!(f, "wrote {}", self.output.display())
    }
}
