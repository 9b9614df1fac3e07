//! TensorFlow.js graph models to ONNX, with the batch left free.
//!
//! The graph is cut where the recipe says. What depends only on weights and shapes is computed here, with the batch as an
//! unknown (`value`); scales and biases move into the convolutions before them (`build`); transposes are put off until
//! an operator needs them (`ops`), so that the result runs channels-first inside. The same files and recipe give the
//! same bytes.
//!
//! Not here: control flow (a `while` loop in front of a detector is cut off by the recipe), training, and operators that
//! no detector we know uses.

mod build;
mod ops;
mod read;
#[allow(missing_docs)] // private: documented where the reason is not plain
mod value;

use std::collections::HashMap;
use std::path::Path;

use prost::Message;

use super::manifest::{Manifest, Recipe, sha256_of};
use crate::fault::{Fault, Who};
use build::Builder;
use ops::Op;
use read::{Graph, Node};
use value::{Dim, Tensor, Value, axes};

/// Converts the files of `manifest`'s source, which lie side by side in `from`, to the ONNX file's bytes.
/// Deterministic: the caller compares the SHA-256 with the manifest's.
pub fn convert(manifest: &Manifest, from: &Path) -> Result<Vec<u8>, Fault> {
    let fault = |message: String| Fault::new(Who::Config, "convert", message);
    let source = manifest.source.as_ref();
    let recipe = source.and_then(|s| s.convert.as_ref()).ok_or_else(|| {
        fault(format!("the manifest of `{}` has no [source.convert]: nothing to convert", manifest.spec.name))
    })?;
    let file = source.and_then(|s| s.files.first()).and_then(|f| f.file_name());
    let file = file.ok_or_else(|| fault("[source] files is empty".into()))?;
    let path = from.join(file);
    let graph = read::read(&path).map_err(|e| fault(format!("cannot read {}: {e}", path.display())))?;
    translate(&graph, recipe).map_err(|e| {
        fault(format!("cannot convert {}: {e}", path.display()))
            .remedy("check [source.convert] in the model.toml")
    })
}

/// The same, written to `out` if it is what the manifest's `sha256` names.
///
/// # Errors
/// When the files cannot be converted, or the result is another than the manifest names: then the files are not those of
/// the manifest, or the converter has changed.
pub fn convert_to(manifest: &Manifest, from: &Path, out: &Path) -> Result<(), Fault> {
    let bytes = convert(manifest, from)?;
    let (have, want) = (sha256_of(&bytes), manifest.source.as_ref().and_then(|s| s.sha256.as_deref()));
    if want.is_some_and(|want| want != have) {
        let message = format!(
            "the model converted from {} has the SHA-256 {have}, but the manifest of `{}` names {}",
            from.display(),
            manifest.spec.name,
            want.unwrap_or_default()
        );
        return Err(Fault::new(Who::Config, "model_hash", message).remedy(
            "the files are not those of [source], or the converter changed: check, then pin the new hash",
        ));
    }
    super::prepare::write(out, &bytes)
}

fn translate(graph: &Graph, recipe: &Recipe) -> Result<Vec<u8>, String> {
    let by_name: HashMap<&str, usize> =
        graph.nodes.iter().enumerate().map(|(i, n)| (n.name.as_str(), i)).collect();
    let [input] = &recipe.inputs[..] else { return Err("the recipe must have one input".into()) };
    let start = *by_name.get(input.from.as_str()).ok_or(format!("there is no node {}", input.from))?;
    let ends = recipe
        .outputs
        .iter()
        .map(|o| reference(&o.from, &by_name).map(|end| (end, o.name.as_str())))
        .collect::<Result<Vec<_>, _>>()?;
    let order = order(&graph.nodes, &by_name, start, ends.iter().map(|((node, _), _)| *node))?;

    let mut readers: HashMap<(usize, usize), usize> = HashMap::new();
    for &node in order.iter().filter(|&&n| n != start) {
        for name in data_inputs(&graph.nodes[node]) {
            *readers.entry(reference(name, &by_name)?).or_default() += 1;
        }
    }
    for (end, _) in &ends {
        *readers.entry(*end).or_default() += 1;
    }

    let baked = graph.nodes.iter().any(|n| n.op == "Placeholder" && n.declared_batch() == Some(1));
    let mut build = Builder::default();
    let mut values: HashMap<(usize, usize), Value> = HashMap::new();
    let entry = entry(input);
    for &index in &order {
        let node = &graph.nodes[index];
        let outputs = if index == start {
            vec![Value::Tensor(entry.clone())]
        } else if node.op == "Const" {
            let weight = graph.weights.get(&node.name).ok_or(format!("{} has no weights", node.name))?;
            vec![Value::Const(weight.clone())]
        } else {
            let at = |e| format!("node {} ({}): {e}", node.name, node.op);
            let mut inputs = Vec::new();
            for name in data_inputs(node) {
                let key = reference(name, &by_name)?;
                inputs
                    .push(values.get(&key).cloned().ok_or_else(|| at(format!("{name} has no such output")))?);
            }
            if inputs.is_empty() {
                return Err(at("has no inputs; the recipe must cut the graph after it".into()));
            }
            Op { node, inputs, build: &mut build, baked }.convert().map_err(at)?
        };
        for (k, mut value) in outputs.into_iter().enumerate() {
            if let Value::Tensor(t) = &mut value {
                t.shared |= readers.get(&(index, k)).is_some_and(|&n| n > 1);
            }
            values.insert((index, k), value);
        }
    }

    let mut outputs = Vec::new();
    for ((index, k), name) in ends {
        let Some(Value::Tensor(tensor)) = values.get(&(index, k)) else {
            return Err(format!("output {name} does not depend on the input"));
        };
        if tensor.dims.first() != Some(&Dim::N) {
            return Err(format!("output {name} has the shape {:?}: the batch must be first", tensor.dims));
        }
        let node = &graph.nodes[index];
        let plain = Op { node, inputs: Vec::new(), build: &mut build, baked }.output(tensor);
        outputs.push((plain, name));
    }
    Ok(build.finish(&entry, &outputs).encode_to_vec())
}

/// The input as a tensor: `transpose[i]` is the node's dimension that ONNX's axis i is.
fn entry(input: &super::manifest::RecipeInput) -> Tensor {
    let dims: Vec<Dim> = input.shape.iter().map(|&d| if d == -1 { Dim::N } else { Dim::fixed(d) }).collect();
    let mut perm: Vec<usize> = (0..axes(&dims).len()).collect();
    for (at, &dim) in input.transpose.iter().enumerate() {
        perm[dim] = at;
    }
    Tensor { name: input.name.clone(), dims, perm, shared: true }
}

/// Inputs that carry values; `^name` only orders execution.
fn data_inputs(node: &Node) -> impl Iterator<Item = &str> {
    node.input.iter().map(String::as_str).filter(|name| !name.starts_with('^'))
}

/// `NODE` or `NODE:K` as (node, output).
fn reference(name: &str, by_name: &HashMap<&str, usize>) -> Result<(usize, usize), String> {
    let (node, output) = match name.rsplit_once(':') {
        Some((node, k)) => (node, k.parse().map_err(|_| format!("{name} is not NODE:K"))?),
        None => (name, 0),
    };
    by_name.get(node).map(|&n| (n, output)).ok_or(format!("there is no node {node}"))
}

/// Nodes that `ends` need, each after what it reads; the walk does not go past `start`.
fn order(
    nodes: &[Node],
    by_name: &HashMap<&str, usize>,
    start: usize,
    ends: impl Iterator<Item = usize>,
) -> Result<Vec<usize>, String> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        Open,
        Done,
    }
    let mut seen = vec![Seen::No; nodes.len()];
    let mut out = Vec::new();
    for end in ends {
        let mut stack = vec![(end, false)];
        while let Some((node, leave)) = stack.pop() {
            if leave {
                seen[node] = Seen::Done;
                out.push(node);
                continue;
            }
            match seen[node] {
                Seen::Done => continue,
                Seen::Open => {
                    return Err(format!("{} is part of a loop; cut the graph after it", nodes[node].name));
                }
                Seen::No => {}
            }
            seen[node] = Seen::Open;
            stack.push((node, true));
            if node != start {
                let inputs: Vec<&str> = data_inputs(&nodes[node]).collect();
                for name in inputs.into_iter().rev() {
                    let (input, _) = reference(name, by_name)?;
                    if seen[input] != Seen::Done {
                        stack.push((input, false));
                    }
                }
            }
        }
    }
    Ok(out)
}
