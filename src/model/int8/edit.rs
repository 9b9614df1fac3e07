//! The two edits: to have values measured, and to put integers in.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Constants, OPSET, Plan, Range, Role, constants, opset, refuse, role};
use crate::fault::Fault;
use crate::model::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorType,
    TypeProto, TypeValue, ValueInfoProto, data_type, int,
};

/// The largest weight: see [`super`].
const MOST_WEIGHT: f32 = 64.0;
/// A bias may take this much of its `int32`, so that sums of products have room beside it.
const MOST_BIAS: f32 = (1u32 << 30) as f32;
/// The first version of the file format that need not list initialisers as inputs, and knows operator set 13.
const IR: i64 = 7;

/// What the edit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Bytes of weights before and after.
    pub bytes: (usize, usize),
}

/// The graph with all that must be measured as outputs, before its own.
pub fn watched(model: &ModelProto, plan: &Plan) -> ModelProto {
    let mut model = model.clone();
    let Some(graph) = &mut model.graph else { return model };
    let own: HashSet<String> = graph.output.iter().map(|o| o.name().to_owned()).collect();
    let inputs: HashSet<String> = graph.input.iter().map(|o| o.name().to_owned()).collect();
    let float = || TypeValue::Tensor(TensorType { elem_type: Some(data_type::FLOAT), shape: None });
    let watched = plan.points.iter().filter(|name| !own.contains(*name) && !inputs.contains(*name));
    graph.output.extend(watched.map(|name| ValueInfoProto {
        name: Some(name.clone()),
        r#type: Some(TypeProto { value: Some(float()), denotation: None }),
        ..Default::default()
    }));
    model
}

/// Puts the integers in.
///
/// # Errors
/// When a range is missing, or a weight is not as its shape says.
pub fn apply(model: &mut ModelProto, plan: &Plan, ranges: &HashMap<String, Range>) -> Result<Edit, Fault> {
    let raised = opset(model).max(OPSET);
    let Some(graph) = &mut model.graph else { return Err(refuse("the model holds no graph".into())) };
    let old = std::mem::take(&mut graph.node);
    let whole = GraphProto { node: old, initializer: graph.initializer.clone(), ..Default::default() };
    let constants = constants(&whole);
    let same: HashMap<&str, &str> = plan.same.iter().map(|(to, from)| (to.as_str(), from.as_str())).collect();
    let mut work =
        Work { constants: &constants, scales: HashMap::new(), nodes: Vec::new(), made: BTreeMap::new() };
    for name in &plan.points {
        let mut from = name.as_str();
        while let Some(before) = same.get(from) {
            from = before;
        }
        let range =
            ranges.get(from).ok_or_else(|| refuse(format!("the range of `{from}` was not measured")))?;
        work.scales.insert(name, Scale::of(*range));
    }

    let inputs: Vec<&String> =
        plan.points.iter().filter(|n| graph.input.iter().any(|i| i.name() == n.as_str())).collect();
    for name in inputs {
        work.pair(name);
    }
    for (i, node) in whole.node.iter().enumerate() {
        let mut node = node.clone();
        let chosen = plan.nodes.contains(&i).then(|| role(&node, &constants)).flatten();
        work.inputs(&mut node, chosen)?;
        let outputs = node.output.clone();
        work.nodes.push(node);
        for output in
            outputs.iter().filter(|name| work.scales.contains_key(name.as_str())).cloned().collect::<Vec<_>>()
        {
            work.pair(&output);
        }
    }
    let (nodes, made) = (work.nodes, work.made);
    let read: HashSet<&str> = nodes.iter().flat_map(|n| &n.input).map(String::as_str).collect();
    let outputs: HashSet<&str> = graph.output.iter().map(|o| o.name()).collect();
    let bytes =
        |tensors: &[TensorProto]| tensors.iter().map(|t| t.raw_data().len() + 4 * t.float_data.len()).sum();
    let before = bytes(&graph.initializer);
    let listed: HashSet<String> = graph.initializer.iter().map(|t| t.name().to_owned()).collect();
    graph.input.retain(|i| !listed.contains(i.name()));
    graph.initializer.retain(|t| read.contains(t.name()) || outputs.contains(t.name()));
    graph.initializer.extend(made.into_values());
    graph.node = nodes;
    graph.value_info.clear();
    let edit = Edit { bytes: (before, bytes(&graph.initializer)) };
    model.ir_version = Some(model.ir_version().max(IR));
    model.opset_import.retain(|o| !(o.domain().is_empty() || o.domain() == "ai.onnx"));
    model.opset_import.insert(0, OperatorSetIdProto { version: Some(raised), ..Default::default() });
    Ok(edit)
}

/// One step of an activation's `uint8`, and which code is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scale {
    step: f32,
    zero: u8,
}

impl Scale {
    /// Of a range, which is widened to hold 0: padding is exactly 0.
    fn of((low, high): Range) -> Scale {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let step = (high - low) / 255.0;
        if !step.is_normal() {
            return Scale { step: 1.0, zero: 0 };
        }
        Scale { step, zero: (-low / step).round().clamp(0.0, 255.0) as u8 }
    }
}

struct Work<'a> {
    constants: &'a Constants<'a>,
    scales: HashMap<&'a str, Scale>,
    nodes: Vec<NodeProto>,
    made: BTreeMap<String, TensorProto>,
}

impl Work<'_> {
    /// Makes a node read integers.
    fn inputs(&mut self, node: &mut NodeProto, chosen: Option<Role>) -> Result<(), Fault> {
        if chosen == Some(Role::Weighted) {
            self.weights(node)?;
        }
        for name in &mut node.input {
            if self.scales.contains_key(name.as_str()) {
                *name = dequantised(name);
            } else if chosen == Some(Role::Joins)
                && let Some(tensor) =
                    self.constants.get(name.as_str()).filter(|t| t.data_type() == data_type::FLOAT)
            {
                *name = self.constant(name, tensor)?;
            }
        }
        Ok(())
    }

    /// `x → QuantizeLinear → DequantizeLinear → x/f`.
    fn pair(&mut self, name: &str) {
        let scale = self.scales[name];
        let (step, zero) = self.scale(name, scale);
        let code = format!("{name}/q");
        self.node("QuantizeLinear", vec![name.to_owned(), step.clone(), zero.clone()], &code, vec![]);
        self.node("DequantizeLinear", vec![code, step, zero], &dequantised(name), vec![]);
    }

    fn scale(&mut self, name: &str, scale: Scale) -> (String, String) {
        let step =
            self.tensor(format!("{name}/scale"), data_type::FLOAT, &[], scale.step.to_le_bytes().to_vec());
        (step, self.tensor(format!("{name}/zero"), data_type::UINT8, &[], vec![scale.zero]))
    }

    /// An operand that never changes, as an activation that never changes.
    fn constant(&mut self, name: &str, tensor: &TensorProto) -> Result<String, Fault> {
        let values = values(tensor)?;
        let bound = |pick: fn(f32, f32) -> f32| values.iter().copied().fold(0.0, pick);
        let scale = Scale::of((bound(f32::min), bound(f32::max)));
        let output = dequantised(name);
        if !self.made.contains_key(&format!("{name}/q")) {
            let codes = values
                .iter()
                .map(|v| (v / scale.step + f32::from(scale.zero)).round().clamp(0.0, 255.0) as u8);
            let code = self.tensor(format!("{name}/q"), data_type::UINT8, &tensor.dims, codes.collect());
            let (step, zero) = self.scale(name, scale);
            self.node("DequantizeLinear", vec![code, step, zero], &output, vec![]);
        }
        Ok(output)
    }

    /// Weight and bias of a convolution or matrix product.
    fn weights(&mut self, node: &mut NodeProto) -> Result<(), Fault> {
        let (input, weight) = (node.input[0].clone(), node.input[1].clone());
        let x = self.scales.get(input.as_str()).map_or(1.0, |s| s.step);
        let tensor = self.constants[weight.as_str()];
        let data = values(tensor)?;
        let axis = usize::from(node.op_type() == "MatMul");
        let channels = usize::try_from(tensor.dims[axis]).unwrap_or(0);
        // Of a convolution a channel is one piece; of a matrix it is a column.
        let channel = |i: usize| {
            if axis == 0 { i / (data.len() / channels.max(1)).max(1) } else { i % channels.max(1) }
        };
        let mut steps = vec![0.0f32; channels];
        for (i, v) in data.iter().enumerate() {
            let step = &mut steps[channel(i)];
            *step = step.max(v.abs() / MOST_WEIGHT);
        }
        let bias = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => Some(values(self.constants[name.as_str()])?),
            None => None,
        };
        for (c, step) in steps.iter_mut().enumerate() {
            let least = bias.as_ref().map_or(0.0, |b| b.get(c).map_or(0.0, |b| b.abs() / (MOST_BIAS * x)));
            *step = step.max(least);
            if !step.is_normal() {
                *step = 1.0;
            }
        }
        // Named by the node: two may share a weight, and have biases of their own.
        let own = node.output[0].clone();
        let codes = data
            .iter()
            .enumerate()
            .map(|(i, v)| (v / steps[channel(i)]).round().clamp(-MOST_WEIGHT, MOST_WEIGHT) as i8 as u8);
        let code = self.tensor(format!("{own}/weight/q"), data_type::INT8, &tensor.dims, codes.collect());
        let floats = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let wide = [channels as i64];
        let step = self.tensor(format!("{own}/weight/scale"), data_type::FLOAT, &wide, floats(&steps));
        let zero = self.tensor(format!("{own}/weight/zero"), data_type::INT8, &wide, vec![0; channels]);
        let ready = format!("{own}/weight/f");
        self.node("DequantizeLinear", vec![code, step, zero], &ready, vec![int("axis", axis as i64)]);
        node.input[1] = ready;
        if let Some(bias) = bias {
            let steps: Vec<f32> = steps.iter().map(|w| w * x).collect();
            let codes = bias.iter().zip(&steps).flat_map(|(b, s)| ((b / s).round() as i32).to_le_bytes());
            let code = self.tensor(format!("{own}/bias/q"), data_type::INT32, &wide, codes.collect());
            let step = self.tensor(format!("{own}/bias/scale"), data_type::FLOAT, &wide, floats(&steps));
            let ready = format!("{own}/bias/f");
            self.node("DequantizeLinear", vec![code, step], &ready, vec![int("axis", 0)]);
            node.input[2] = ready;
        }
        Ok(())
    }

    fn tensor(&mut self, name: String, kind: i32, dims: &[i64], raw: Vec<u8>) -> String {
        let tensor = TensorProto {
            name: Some(name.clone()),
            data_type: Some(kind),
            dims: dims.to_vec(),
            raw_data: Some(raw),
            ..Default::default()
        };
        self.made.insert(name.clone(), tensor);
        name
    }

    fn node(&mut self, op: &str, input: Vec<String>, output: &str, attribute: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            name: Some(output.to_owned()),
            op_type: Some(op.to_owned()),
            input,
            output: vec![output.to_owned()],
            attribute,
            ..Default::default()
        });
    }
}

fn dequantised(name: &str) -> String {
    format!("{name}/f")
}

/// A float tensor's values, wherever the file keeps them.
fn values(tensor: &TensorProto) -> Result<Vec<f32>, Fault> {
    let values: Vec<f32> = match tensor.raw_data() {
        [] => tensor.float_data.clone(),
        raw => raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    };
    let wanted: i64 = tensor.dims.iter().product();
    if values.len() as i64 == wanted {
        return Ok(values);
    }
    Err(refuse(format!("`{}` holds {} values, and its shape says {wanted}", tensor.name(), values.len())))
}
