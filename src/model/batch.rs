//! Freeing a fixed batch: the edit of the graph. Whether the result is right is proved by running it
//! ([`super::prepare`]), so this only has to be right for the shapes that exporters write, and to name what it cannot do.
//!
//! A value *carries the batch* when it is computed from the input's values (not from its shape alone). Constants
//! that are shapes of such values are what an exporter has baked the batch into:
//!
//! | node | with the batch b baked in | becomes |
//! |---|---|---|
//! | Reshape to [k, …], no −1 | all sizes given | [−1, …]: whatever the batch is, the rest is fixed |
//! | Reshape to [b, …, −1, …] | and the input's first size is b | [0, …, −1, …]: 0 copies the input's size |
//! | the same | and it is not | [−1, …] with the old −1 as the file says |
//! | Reshape to [k, …, −1, …] | k ≠ b | as it is: the −1 takes the batch |
//! | Expand to [b, …] | | [1, …]: expanding by 1 keeps the batch |
//! | Resize to sizes [b, …] | | the first size is taken from the input |
//! | Squeeze of the first axis; Concat of a constant to each frame | | refused |

use std::collections::{HashMap, HashSet};

use super::file;
use super::onnx::{
    AttributeProto, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto, TensorProto,
    TensorShapeProto, TensorType, TypeProto, TypeValue, ValueInfoProto, attribute_type, data_type,
};
use crate::fault::{Fault, Who};

/// What the edit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// The batch that was fixed.
    pub batch: usize,
    /// Nodes that were changed.
    pub changed: Vec<String>,
    /// Nodes that may depend on the batch in a way that nothing here understands.
    pub doubts: Vec<String>,
}

/// The symbol that stands for the batch.
const SYMBOL: &str = "batch";

/// Frees the batch of a graph that is fixed.
///
/// # Errors
/// When the batch is free already, or a node cannot be made to work with any batch (it is named).
pub fn free(model: &mut ModelProto) -> Result<Edit, Fault> {
    let old_ir = model.ir_version() < 4;
    let Some(graph) = &mut model.graph else { return Err(refuse("the model holds no graph".into())) };
    let Some(input) = file::inputs(graph).first().map(|i| i.name().to_owned()) else {
        return Err(refuse("the model has no input".into()));
    };
    let shapes = shapes(graph);
    let Some(batch) = shapes.get(&input).and_then(|s| s.first().copied().flatten()) else {
        return Err(refuse("the batch is free already: there is nothing to do".into()));
    };
    let mut work =
        Work { batch, shapes, constants: constants(graph), added: Vec::new(), edit: Edit::default() };
    work.edit.batch = usize::try_from(batch).unwrap_or_default();

    let carrying = carrying(graph, &input);
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node) {
        let reads = node.input.iter().any(|i| carrying.contains(i));
        if reads {
            work.visit(&mut node, &carrying, &mut nodes)?;
        }
        nodes.push(node);
    }
    graph.node = nodes;

    for info in graph.input.iter_mut().filter(|i| i.name() == input).chain(&mut graph.output) {
        if let Some(shape) = shape_mut(info)
            && let Some(first) = shape.dim.first_mut()
        {
            if first.value != Some(DimensionValue::Value(batch)) {
                let name = info.name();
                return Err(refuse(format!(
                    "output `{name}` does not have the batch as its first dimension"
                )));
            }
            first.value = Some(DimensionValue::Param(SYMBOL.into()));
        }
    }
    graph.value_info.clear();
    graph.initializer.append(&mut work.added.clone());
    let read: HashSet<&String> = graph.node.iter().flat_map(|n| &n.input).collect();
    let outputs: HashSet<&str> = graph.output.iter().map(|o| o.name()).collect();
    let replaced: HashSet<String> = (graph.initializer.iter())
        .map(|t| t.name())
        .filter(|n| {
            work.constants.contains_key(*n) && !read.contains(&(*n).to_owned()) && !outputs.contains(n)
        })
        .map(str::to_owned)
        .collect();
    graph.initializer.retain(|t| !replaced.contains(t.name()));
    graph.input.retain(|i| !replaced.contains(i.name()));
    if old_ir {
        // Up to IR 3 each initialiser is also listed as an input.
        graph.input.extend(work.added.iter().map(listed));
    }
    Ok(work.edit)
}

struct Work {
    batch: i64,
    shapes: HashMap<String, Vec<Option<i64>>>,
    constants: HashMap<String, Vec<i64>>,
    added: Vec<TensorProto>,
    edit: Edit,
}

impl Work {
    /// Looks at a node that reads a value which carries the batch; may put nodes in front of it.
    fn visit(
        &mut self,
        node: &mut NodeProto,
        carrying: &HashSet<String>,
        before: &mut Vec<NodeProto>,
    ) -> Result<(), Fault> {
        let who = label(node);
        let int = |name: &str| node.attribute.iter().find(|a| a.name() == name).and_then(|a| a.i);
        if node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty()) {
            self.edit.doubts.push(format!("{who}, which has a graph inside"));
        }
        let axis = int("axis");
        match node.op_type() {
            "Reshape" => {
                let zero_is_zero = int("allowzero") == Some(1);
                self.reshape(node, &who, zero_is_zero)?;
            }
            "Expand" => {
                let first = self.constant(node, 1).and_then(|s| s.first().copied());
                if first == Some(self.batch) && self.batch != 1 {
                    let mut shape = self.constant(node, 1).cloned().unwrap_or_default();
                    shape[0] = 1;
                    self.replace(node, 1, shape, &who);
                }
            }
            "Resize" => self.resize(node, &who, before),
            "Squeeze" => {
                let attribute = node.attribute.iter().find(|a| a.name() == "axes").map(|a| &a.ints);
                let axes = attribute.or_else(|| self.constant(node, 1));
                let first = axes.map(|a| a.contains(&0));
                let rank_one =
                    self.shapes.get(&node.input[0]).is_some_and(|s| s.first() != Some(&Some(self.batch)));
                if first == Some(true) && !rank_one {
                    return Err(refuse(format!("{who} removes the batch dimension"))
                        .remedy("export the model again with a dynamic batch"));
                }
                if first.is_none() && self.batch == 1 {
                    return Err(refuse(format!("{who} removes every dimension of 1, the batch among them"))
                        .remedy("export the model again with a dynamic batch"));
                }
            }
            "Concat" if axis != Some(0) => {
                if let Some(constant) = node.input.iter().find(|i| self.is_fixed(i, carrying)) {
                    return Err(refuse(format!(
                        "{who} joins the constant `{constant}` to each of the {} frames",
                        self.batch
                    ))
                    .remedy("export the model again with a dynamic batch"));
                }
            }
            "Concat" | "Gather" | "Split" if axis.unwrap_or(0) == 0 => self.edit.doubts.push(who),
            _ => {}
        }
        Ok(())
    }

    /// A value that is the same whatever the batch, and has a first dimension of the batch's size.
    fn is_fixed(&self, name: &str, carrying: &HashSet<String>) -> bool {
        !carrying.contains(name)
            && self.shapes.get(name).is_some_and(|s| s.len() > 1 && s[0] == Some(self.batch))
    }

    fn constant(&self, node: &NodeProto, input: usize) -> Option<&Vec<i64>> {
        self.constants.get(node.input.get(input)?)
    }

    fn reshape(&mut self, node: &mut NodeProto, who: &str, zero_is_zero: bool) -> Result<(), Fault> {
        let Some(mut shape) = self.constant(node, 1).cloned() else { return Ok(()) };
        let Some(&first) = shape.first().filter(|f| **f > 0) else { return Ok(()) };
        let open = shape.iter().position(|&d| d == -1);
        let from = self.shapes.get(&node.input[0]).and_then(|s| s.first().copied().flatten());
        match open {
            None => shape[0] = -1,
            Some(open) if first == self.batch && from.is_some_and(|f| f != first) => {
                let size = self.shapes.get(&node.output[0]).and_then(|s| s.get(open).copied().flatten());
                let Some(size) = size else {
                    return Err(refuse(format!(
                        "{who} is fixed to {shape:?}, and the file does not say what its -1 is"
                    )));
                };
                (shape[0], shape[open]) = (-1, size);
            }
            Some(_) if first == self.batch && zero_is_zero => {
                return Err(refuse(format!("{who} is fixed to {shape:?} and takes 0 as a size (allowzero)")));
            }
            Some(_) if first == self.batch => shape[0] = 0,
            Some(_) => return Ok(()),
        }
        self.replace(node, 1, shape, who);
        Ok(())
    }

    /// Sizes whose first is the batch: that one is taken from the input at run time.
    fn resize(&mut self, node: &mut NodeProto, who: &str, before: &mut Vec<NodeProto>) {
        let Some(sizes) = self.constant(node, 3).filter(|s| s.first() == Some(&self.batch)).cloned() else {
            return;
        };
        let base = format!("{}/free_batch", node.output[0]);
        let name = |part: &str| format!("{base}/{part}");
        for (part, values) in [("zero", vec![0]), ("one", vec![1]), ("rest", sizes[1..].to_vec())] {
            self.added.push(int64s(&name(part), values));
        }
        before.push(op("Shape", &[node.input[0].clone()], &name("shape")));
        before.push(op("Slice", &[name("shape"), name("zero"), name("one")], &name("first")));
        let mut concat = op("Concat", &[name("first"), name("rest")], &name("sizes"));
        concat.attribute.push(AttributeProto {
            name: Some("axis".into()),
            r#type: Some(attribute_type::INT),
            i: Some(0),
            ..Default::default()
        });
        before.push(concat);
        node.input[3] = name("sizes");
        self.edit.changed.push(who.to_owned());
    }

    /// Gives the node a constant of its own: others may read the old one.
    fn replace(&mut self, node: &mut NodeProto, input: usize, values: Vec<i64>, who: &str) {
        let name = format!("{}/free_batch", node.output[0]);
        self.added.push(int64s(&name, values));
        node.input[input] = name;
        self.edit.changed.push(who.to_owned());
    }
}

fn refuse(message: String) -> Fault {
    Fault::new(Who::Config, "prepare", message)
}

/// `Reshape node "name"`.
fn label(node: &NodeProto) -> String {
    let name = Some(node.name()).filter(|n| !n.is_empty());
    let name = name.or(node.output.first().map(String::as_str)).unwrap_or_default();
    format!("{} node `{name}`", node.op_type())
}

/// Values computed from the values of `input`.
fn carrying(graph: &GraphProto, input: &str) -> HashSet<String> {
    let mut found = HashSet::from([input.to_owned()]);
    // Nodes stand in the order of execution.
    for node in &graph.node {
        if !matches!(node.op_type(), "Shape" | "Size") && node.input.iter().any(|i| found.contains(i)) {
            found.extend(node.output.iter().cloned());
        }
    }
    found
}

/// All shapes that the file states. `None`: free.
fn shapes(graph: &GraphProto) -> HashMap<String, Vec<Option<i64>>> {
    let mut out = HashMap::new();
    for info in graph.value_info.iter().chain(&graph.input).chain(&graph.output) {
        if let Some(TypeValue::Tensor(TensorType { shape: Some(shape), .. })) =
            info.r#type.as_ref().and_then(|t| t.value.as_ref())
        {
            let size = |d: &Dimension| match d.value {
                Some(DimensionValue::Value(n)) if n > 0 => Some(n),
                _ => None,
            };
            out.insert(info.name().to_owned(), shape.dim.iter().map(size).collect());
        }
    }
    for tensor in &graph.initializer {
        out.insert(tensor.name().to_owned(), tensor.dims.iter().map(|&d| Some(d)).collect());
    }
    for (node, tensor) in constant_nodes(graph) {
        out.insert(node.output[0].clone(), tensor.dims.iter().map(|&d| Some(d)).collect());
    }
    out
}

/// Lists of int64, by name.
fn constants(graph: &GraphProto) -> HashMap<String, Vec<i64>> {
    let weights = graph.initializer.iter().map(|t| (t.name().to_owned(), t));
    let nodes = constant_nodes(graph).map(|(n, t)| (n.output[0].clone(), t));
    weights.chain(nodes).filter_map(|(name, t)| Some((name, read_int64s(t)?))).collect()
}

fn constant_nodes(graph: &GraphProto) -> impl Iterator<Item = (&NodeProto, &TensorProto)> {
    let nodes = graph.node.iter().filter(|n| n.op_type() == "Constant" && !n.output.is_empty());
    nodes.filter_map(|n| Some((n, n.attribute.iter().find_map(|a| a.t.as_ref())?)))
}

fn read_int64s(tensor: &TensorProto) -> Option<Vec<i64>> {
    if tensor.data_type() != data_type::INT64 || tensor.dims.len() != 1 {
        return None;
    }
    let values = match &tensor.raw_data {
        Some(raw) => raw
            .chunks_exact(8)
            .map(|b| b.try_into().map(i64::from_le_bytes))
            .collect::<Result<_, _>>()
            .ok()?,
        None => tensor.int64_data.clone(),
    };
    (values.len() as i64 == tensor.dims[0]).then_some(values)
}

fn int64s(name: &str, values: Vec<i64>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(data_type::INT64),
        dims: vec![values.len() as i64],
        int64_data: values,
        ..Default::default()
    }
}

fn op(kind: &str, inputs: &[String], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(kind.into()),
        name: Some(output.into()),
        input: inputs.to_vec(),
        output: vec![output.into()],
        ..Default::default()
    }
}

fn listed(tensor: &TensorProto) -> ValueInfoProto {
    let dim =
        tensor.dims.iter().map(|&d| Dimension { value: Some(DimensionValue::Value(d)), denotation: None });
    let shape = TensorShapeProto { dim: dim.collect() };
    let value = TypeValue::Tensor(TensorType { elem_type: tensor.data_type, shape: Some(shape) });
    let kind = TypeProto { value: Some(value), denotation: None };
    ValueInfoProto { name: tensor.name.clone(), r#type: Some(kind), ..Default::default() }
}

fn shape_mut(info: &mut ValueInfoProto) -> Option<&mut TensorShapeProto> {
    match info.r#type.as_mut()?.value.as_mut()? {
        TypeValue::Tensor(tensor) => tensor.shape.as_mut(),
        _ => None,
    }
}
