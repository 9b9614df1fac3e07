//! Static INT8 quantisation: the edit of the graph. Values are to be measured by whoever calls ([`crate::quantise`]).
//!
//! The format is QDQ (ONNX `QuantizeLinear`/`DequantizeLinear` pairs around each value), which runtimes fold into integer kernels:
//!
//! | value | stored as | scale |
//! |---|---|---|
//! | activation | `uint8`, with a zero point | a tensor, from the measured range, which always holds 0 |
//! | weight of `Conv` and `MatMul` | `int8`, symmetric | an output channel |
//! | bias | `int32` | that of the input times that of the weight |
//!
//! Weights use seven bits, −64..=64: on x86 without VNNI the kernels add pairs of products in 16 bits, which eight bits overflow
//! (`vpmaddubsw`: 2 · 255 · 127 > 2¹⁵ − 1). Scheme and arithmetic: Jacob et al., "Quantization and Training of Neural Networks for
//! Efficient Integer-Arithmetic-Only Inference", CVPR 2018.
//!
//! What comes last stays in floats: the convolutions that no other one follows, and all behind them. There boxes and
//! scores are made, which lose most by rounding and cost least. [`plan`] decides, [`watched`] and [`apply`] edit.

mod edit;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use super::file;
use super::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, data_type};
use crate::fault::{Fault, Who};

pub use edit::{Edit, apply, watched};

/// The measured smallest and largest value of a tensor.
pub type Range = (f32, f32);

/// The first operator set whose `DequantizeLinear` knows channels.
const OPSET: i64 = 13;

/// Changed their meaning between operator sets 11 and 13: a graph with one of them cannot just be called a newer one.
const CHANGED: [&str; 7] = ["Softmax", "LogSoftmax", "Hardmax", "Squeeze", "Unsqueeze", "ReduceSum", "Split"];

/// Turn numbers into numbers of another kind.
const NOT_FLOAT: [&str; 12] =
    ["Shape", "Size", "Cast", "NonZero", "ArgMax", "ArgMin", "Equal", "Less", "Greater", "And", "Or", "Not"];

/// What a node is to quantisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Multiplies by constants: where the time goes.
    Weighted,
    /// Has an integer kernel of its own.
    Joins,
    /// Cuts off what lies outside a range, which an integer's range does by itself.
    Bounds,
    /// Moves values about: what comes out has the range of what goes in.
    Moves,
}

fn role(node: &NodeProto, constants: &Constants<'_>) -> Option<Role> {
    let constant = |i: usize| node.input.get(i).and_then(|name| constants.get(name.as_str()));
    let floats = |rank: &dyn Fn(usize) -> bool| {
        constant(1).is_some_and(|w| w.data_type() == data_type::FLOAT && rank(w.dims.len()))
    };
    match node.op_type() {
        "Conv" => {
            let bias = node.input.get(2).is_none_or(|name| name.is_empty()) || constant(2).is_some();
            (bias && floats(&|rank| rank >= 3)).then_some(Role::Weighted)
        }
        "MatMul" => floats(&|rank| rank == 2).then_some(Role::Weighted),
        "Add" | "Mul" | "Sigmoid" | "LeakyRelu" | "Concat" | "AveragePool" | "GlobalAveragePool" => {
            Some(Role::Joins)
        }
        "Relu" => Some(Role::Bounds),
        "Clip" => (1..node.input.len()).all(|i| constant(i).is_some()).then_some(Role::Bounds),
        "MaxPool" | "Resize" | "Reshape" | "Transpose" | "Slice" | "Split" | "Flatten" | "Squeeze"
        | "Unsqueeze" => Some(Role::Moves),
        _ => None,
    }
}

type Constants<'a> = HashMap<&'a str, &'a TensorProto>;

/// Initialisers, and what `Constant` nodes hold.
fn constants(graph: &GraphProto) -> Constants<'_> {
    let held = graph.node.iter().filter(|n| n.op_type() == "Constant").filter_map(|n| {
        let value = n.attribute.iter().find(|a: &&AttributeProto| a.name() == "value")?;
        Some((n.output.first()?.as_str(), value.t.as_ref()?))
    });
    graph.initializer.iter().map(|t| (t.name(), t)).chain(held).collect()
}

/// What will be in integers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Indices of the nodes.
    nodes: HashSet<usize>,
    /// Values whose range must be measured, in the graph's order.
    pub points: Vec<String>,
    /// Values with the range of another: that of the value that was moved.
    same: Vec<(String, String)>,
    /// Convolutions and matrix products among the nodes, and all of them.
    pub weighted: (usize, usize),
}

/// Decides what will be in integers.
///
/// # Errors
/// When nothing can be, or the graph is of an operator set that cannot be raised to 13.
pub fn plan(model: &ModelProto) -> Result<Plan, Fault> {
    let Some(graph) = &model.graph else { return Err(refuse("the model holds no graph".into())) };
    if graph.node.iter().any(|n| n.op_type() == "QuantizeLinear") {
        return Err(refuse("the model is quantised already".into()));
    }
    let opset = opset(model);
    if let Some(node) = graph.node.iter().find(|n| opset < OPSET && CHANGED.contains(&n.op_type())) {
        return Err(refuse(format!(
            "its operator set is {opset}, and {} means something else in {OPSET}",
            node.op_type()
        ))
        .remedy(format!("export it again with operator set {OPSET} or newer")));
    }
    let constants = constants(graph);
    let roles: Vec<Option<Role>> = graph.node.iter().map(|n| role(n, &constants)).collect();
    let floats = floats(graph, &constants);
    let chosen = chosen(graph, &roles, &floats);

    let readers = readers(graph);
    let outputs: HashSet<&str> = graph.output.iter().map(|o| o.name()).collect();
    let mut plan = Plan::default();
    let mut seen: HashSet<&str> = HashSet::new();
    let mut point = |plan: &mut Plan, name: &str| {
        let name = floats.get(name).copied();
        if let Some(name) = name.filter(|name| seen.insert(name)) {
            plan.points.push(name.to_owned());
        }
    };
    for (i, node) in graph.node.iter().enumerate() {
        plan.weighted.1 += usize::from(roles[i] == Some(Role::Weighted));
        if !chosen.contains(&i) {
            continue;
        }
        plan.nodes.insert(i);
        plan.weighted.0 += usize::from(roles[i] == Some(Role::Weighted));
        // The output of a convolution that only goes through bounds needs no range of its own: the kernel has both.
        let only = |name: &str| readers.get(name).map_or(&[][..], Vec::as_slice);
        let bounded = |name: &str| {
            let [reader] = only(name) else { return false };
            chosen.contains(reader) && roles[*reader] == Some(Role::Bounds) && !outputs.contains(name)
        };
        for input in &node.input {
            let is_bounded = roles[i] == Some(Role::Bounds)
                && made_by(graph, input).is_some_and(|n| chosen.contains(&n))
                && bounded(input);
            if !is_bounded {
                point(&mut plan, input);
            }
        }
        for output in &node.output {
            if roles[i] == Some(Role::Moves)
                && let Some(from) = node.input.first().filter(|name| floats.contains(name.as_str()))
            {
                plan.same.push((output.clone(), from.clone()));
            }
            if !bounded(output) {
                point(&mut plan, output);
            }
        }
    }
    if plan.weighted.0 == 0 {
        return Err(refuse(
            "it has no convolution or matrix product with constant weights before its last ones".into(),
        ));
    }
    Ok(plan)
}

/// Nodes with a role, on numbers that are computed from the picture, before the last weighted ones.
fn chosen(graph: &GraphProto, roles: &[Option<Role>], floats: &HashSet<&str>) -> HashSet<usize> {
    // Values from which a weighted node is reached. The graph's nodes stand in the order in which they can be run.
    let mut reaching: HashSet<&str> = HashSet::new();
    let mut chosen = HashSet::new();
    for (i, node) in graph.node.iter().enumerate().rev() {
        let reaches = node.output.iter().any(|o| reaching.contains(o.as_str()));
        if reaches || roles[i] == Some(Role::Weighted) {
            reaching.extend(node.input.iter().map(String::as_str));
        }
        let on_floats = node.input.iter().any(|name| floats.contains(name.as_str()));
        if reaches && roles[i].is_some() && on_floats {
            chosen.insert(i);
        }
    }
    chosen
}

/// Float values that are computed from the picture.
fn floats<'a>(graph: &'a GraphProto, constants: &Constants<'_>) -> HashSet<&'a str> {
    let mut floats: HashSet<&str> = file::inputs(graph).iter().map(|i| i.name()).collect();
    for node in &graph.node {
        let first = node.input.iter().find(|name| !constants.contains_key(name.as_str()));
        if first.is_some_and(|name| floats.contains(name.as_str())) && !NOT_FLOAT.contains(&node.op_type()) {
            floats.extend(node.output.iter().map(String::as_str).filter(|name| !name.is_empty()));
        }
    }
    floats
}

fn readers(graph: &GraphProto) -> HashMap<&str, Vec<usize>> {
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, node) in graph.node.iter().enumerate() {
        for input in &node.input {
            readers.entry(input).or_default().push(i);
        }
    }
    readers
}

fn made_by(graph: &GraphProto, name: &str) -> Option<usize> {
    graph.node.iter().position(|n| n.output.iter().any(|o| o == name))
}

/// Of ONNX's own operators.
fn opset(model: &ModelProto) -> i64 {
    let own = model.opset_import.iter().find(|o| o.domain().is_empty() || o.domain() == "ai.onnx");
    own.map_or(1, |o| o.version())
}

fn refuse(message: String) -> Fault {
    Fault::new(Who::Config, "quantise", message)
}
