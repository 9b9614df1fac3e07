//! `weir model inspect FILE`: what a file is, and a `model.toml` to start from.

use std::fmt;
use std::path::Path;

use super::file;
use super::guess::{self, Guess};
use super::onnx::{Dimension, DimensionValue, GraphProto, TensorProto, TypeValue, ValueInfoProto, data_type};
use crate::fault::{Fault, Who};

/// What a file is. `Display` prints it for people, ending in a `model.toml`.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file's name without its folder.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Version of the file format.
    pub ir: i64,
    /// Operator sets: domain (empty: ONNX's own) and version.
    pub opsets: Vec<(String, i64)>,
    /// The program that wrote it; empty: unknown.
    pub producer: String,
    /// Nodes in the main graph.
    pub nodes: usize,
    /// Floating-point weights.
    pub parameters: u64,
    /// The picture.
    pub input: Port,
    /// In the graph's order.
    pub outputs: Vec<Port>,
    /// The family that fits, or why none does.
    pub guess: Result<Guess, String>,
}

/// One end of the graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// `TensorProto.DataType`.
    pub data_type: i32,
    /// Its dimensions; empty when the file does not say.
    pub dims: Vec<Axis>,
}

/// One dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Axis {
    /// This many.
    Fixed(usize),
    /// Any number, under this name (which may be empty).
    Free(String),
}

impl Axis {
    /// The size, if it is fixed.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Axis::Fixed(n) => Some(*n),
            Axis::Free(_) => None,
        }
    }
}

impl Report {
    /// The batch that the graph is fixed to; `None`: free.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.input.dims.first().and_then(Axis::fixed)
    }
}

/// Reads a file and guesses how to use it.
///
/// # Errors
/// When it is no ONNX model with one picture input and its weights inside.
pub fn inspect(path: &Path) -> Result<Report, Fault> {
    let model = file::read(path)?;
    let bytes = std::fs::metadata(path).map(|m| m.len()).unwrap_or_default();
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let Some(graph) = &model.graph else {
        return Err(Fault::new(Who::Bug, "bad_model", format!("{name} lost its graph")));
    };
    let input = input(graph).unwrap_or_default();
    let outputs: Vec<Port> = graph.output.iter().map(port).collect();
    let stem = Path::new(&name).file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    Ok(Report {
        bytes,
        ir: model.ir_version(),
        opsets: model.opset_import.iter().map(|o| (o.domain().to_owned(), o.version())).collect(),
        producer: format!("{} {}", model.producer_name(), model.producer_version()).trim().to_owned(),
        nodes: graph.node.len(),
        parameters: parameters(graph),
        guess: guess::guess(&stem, &input, &outputs),
        file: name,
        input,
        outputs,
    })
}

/// The picture's end of a graph.
pub(crate) fn input(graph: &GraphProto) -> Option<Port> {
    file::inputs(graph).first().map(|info| port(info))
}

fn port(info: &ValueInfoProto) -> Port {
    let tensor = match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(TypeValue::Tensor(tensor)) => Some(tensor),
        _ => None,
    };
    let axis = |dim: &Dimension| match &dim.value {
        Some(DimensionValue::Value(n)) if *n >= 0 => Axis::Fixed(*n as usize),
        Some(DimensionValue::Param(name)) => Axis::Free(name.clone()),
        _ => Axis::Free(String::new()),
    };
    Port {
        name: info.name().to_owned(),
        data_type: tensor.map_or(0, |t| t.elem_type()),
        dims: tensor
            .and_then(|t| t.shape.as_ref())
            .map_or_else(Vec::new, |s| s.dim.iter().map(axis).collect()),
    }
}

/// Weights are initialisers, or the values of `Constant` nodes.
fn parameters(graph: &GraphProto) -> u64 {
    let floating =
        |t: &&TensorProto| matches!(t.data_type(), data_type::FLOAT | data_type::FLOAT16 | 11 | 16);
    let constants = graph.node.iter().filter(|n| n.op_type() == "Constant");
    let constants = constants.flat_map(|n| &n.attribute).filter_map(|a| a.t.as_ref());
    let count = |t: &TensorProto| t.dims.iter().map(|d| d.unsigned_abs()).product::<u64>();
    graph.initializer.iter().chain(constants).filter(floating).map(count).sum()
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} [", self.name, data_type::name(self.data_type))?;
        for (i, axis) in self.dims.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            match axis {
                Axis::Fixed(n) => write!(f, "{comma}{n}")?,
                Axis::Free(name) if name.is_empty() => write!(f, "{comma}?")?,
                Axis::Free(name) => write!(f, "{comma}{name}")?,
            }
        }
        f.write_str("]")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let opsets: Vec<String> = self
            .opsets
            .iter()
            .map(|(domain, v)| if domain.is_empty() { format!("opset {v}") } else { format!("{domain} {v}") })
            .collect();
        write!(f, "{}: ONNX, IR {}, {}", self.file, self.ir, opsets.join(", "))?;
        if !self.producer.is_empty() {
            write!(f, ", made by {}", self.producer)?;
        }
        let (mb, millions) = (self.bytes as f64 / 1e6, self.parameters as f64 / 1e6);
        writeln!(f, "\n  size    {mb:.1} MB, {millions:.2} M parameters, {} nodes", self.nodes)?;
        writeln!(f, "  input   {}", self.input)?;
        for output in &self.outputs {
            writeln!(f, "  output  {output}")?;
        }
        match self.fixed_batch() {
            Some(n) => writeln!(f, "  batch   fixed at {n}; `weir model prepare` frees it")?,
            None => writeln!(f, "  batch   free")?,
        }
        match &self.guess {
            Ok(guess) => {
                writeln!(f, "  family  {}: {}", guess.family.name(), guess.reason)?;
                write!(f, "\n{}", guess.toml)
            }
            Err(why) => writeln!(f, "  family  none fits: {why}"),
        }
    }
}
