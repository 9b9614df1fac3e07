//! The ONNX graph under construction: nodes, shared constants, and convolutions whose weights may still change because
//! a scale or a bias is folded into them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::value::{Const, Dim, Tensor, axes, permute};
use crate::model::onnx::{
    AttributeProto, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorType, TypeProto, TypeValue, ValueInfoProto, attribute_type,
    data_type,
};

/// Default-domain operator set of the graphs made here. 13 has Squeeze and friends with axes as inputs.
const OPSET: i64 = 13;

/// A convolution's weights `[M, C / group, rows, columns]` and bias `[M]`.
struct Conv {
    dims: [i64; 4],
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// What a `Pad` node does, so that its reader can do it instead.
#[derive(Clone)]
pub struct Pad {
    pub inner: String,
    /// Elements added in front and behind, by axis in the ONNX graph.
    pub begin: Vec<i64>,
    pub end: Vec<i64>,
    pub value: f32,
}

/// See the module.
#[derive(Default)]
pub struct Builder {
    nodes: Vec<NodeProto>,
    constants: BTreeMap<(i32, Vec<i64>, Vec<u8>), String>,
    convs: BTreeMap<String, Conv>,
    pads: HashMap<String, Pad>,
    /// Sums that have a convolution's unshared result as one term.
    sums: HashMap<String, String>,
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: text(name),
        r#type: Some(attribute_type::FLOAT),
        f: Some(value),
        ..Default::default()
    }
}

pub fn ints(name: &str, values: Vec<i64>) -> AttributeProto {
    AttributeProto {
        name: text(name),
        r#type: Some(attribute_type::INTS),
        ints: values,
        ..Default::default()
    }
}

pub fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: text(name),
        r#type: Some(attribute_type::STRING),
        s: Some(value.into()),
        ..Default::default()
    }
}

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

impl Builder {
    /// Adds a node with one output, called `output`.
    pub fn node(&mut self, op: &str, inputs: Vec<String>, output: &str, attributes: Vec<AttributeProto>) {
        self.node_n(op, inputs, vec![output.to_owned()], attributes);
    }

    /// Adds a node.
    pub fn node_n(
        &mut self,
        op: &str,
        inputs: Vec<String>,
        outputs: Vec<String>,
        attributes: Vec<AttributeProto>,
    ) {
        self.nodes.push(NodeProto {
            name: outputs.first().cloned(),
            op_type: text(op),
            input: inputs,
            output: outputs,
            attribute: attributes,
            ..Default::default()
        });
    }

    /// A float constant; equal ones are kept once.
    pub fn floats(&mut self, dims: &[i64], values: &[f32]) -> String {
        self.constant(data_type::FLOAT, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// An int64 constant of rank 1.
    pub fn int64s(&mut self, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(data_type::INT64, &[values.len() as i64], bytes)
    }

    /// An int64 constant of rank 0.
    pub fn int64(&mut self, value: i64) -> String {
        self.constant(data_type::INT64, &[], value.to_le_bytes().to_vec())
    }

    fn constant(&mut self, kind: i32, dims: &[i64], bytes: Vec<u8>) -> String {
        let next = format!("const_{}", self.constants.len());
        self.constants.entry((kind, dims.to_vec(), bytes)).or_insert(next).clone()
    }

    /// A constant as an operand next to `other`: axes in `other`'s order, 1 where it is repeated.
    pub fn operand(&mut self, value: &Const, other: &Tensor, dims: &[Dim]) -> Result<String, String> {
        let (shape, data) = Self::aligned(value, other, dims)?;
        let data_shape: Vec<i64> = shape.iter().map(|&s| s as i64).collect();
        let dims = if data.len() == 1 { Vec::new() } else { data_shape };
        Ok(self.floats(&dims, &data))
    }

    /// The values of a constant with its axes in `other`'s order.
    fn aligned(value: &Const, other: &Tensor, dims: &[Dim]) -> Result<(Vec<usize>, Vec<f32>), String> {
        let shape = value.sizes_within(dims);
        let mut order = vec![0; other.perm.len()];
        for (axis, &at) in other.perm.iter().enumerate() {
            order[at] = axis;
        }
        let data = permute(value.f32s()?, &shape, &order);
        Ok((order.iter().map(|&a| shape[a]).collect(), data))
    }

    /// The constant as one number a channel (axis 1 in the ONNX graph), if it is that.
    pub fn per_channel(value: &Const, other: &Tensor) -> Option<Vec<f32>> {
        let channels = other.physical().get(1)?.known().ok()? as usize;
        let dims =
            super::value::broadcast_dims(&other.dims, &value.dims).ok().filter(|d| *d == other.dims)?;
        let (shape, data) = Self::aligned(value, other, &dims).ok()?;
        let elsewhere = shape.iter().enumerate().any(|(axis, &n)| axis != 1 && n != 1);
        match data.len() {
            _ if elsewhere => None,
            1 => Some(vec![data[0]; channels]),
            _ => Some(data),
        }
    }

    /// A convolution, with its weights kept open. `inputs` holds the picture alone.
    pub fn conv(
        &mut self,
        input: String,
        output: &str,
        dims: [i64; 4],
        weights: Vec<f32>,
        attributes: Vec<AttributeProto>,
    ) {
        let bias = vec![0.0; dims[0] as usize];
        self.convs.insert(output.to_owned(), Conv { dims, weights, bias });
        self.node("Conv", vec![input], output, attributes);
    }

    /// Multiplies and then adds, by channel, inside the convolution that makes `tensor`, if there is one that nobody else
    /// reads. A bias also passes through a sum.
    pub fn fold(&mut self, tensor: &Tensor, scale: Option<&[f32]>, bias: Option<&[f32]>) -> bool {
        if tensor.shared {
            return false;
        }
        let through = self.sums.get(&tensor.name).filter(|_| scale.is_none());
        let Some(conv) = self.convs.get_mut(through.unwrap_or(&tensor.name)) else { return false };
        let filter = conv.weights.len() / conv.bias.len();
        for (channel, b) in conv.bias.iter_mut().enumerate() {
            let k = f64::from(scale.map_or(1.0, |s| s[channel]));
            for w in &mut conv.weights[channel * filter..][..filter] {
                *w = (f64::from(*w) * k) as f32;
            }
            *b = (f64::from(*b) * k + f64::from(bias.map_or(0.0, |b| b[channel]))) as f32;
        }
        true
    }

    /// Notes that `sum` adds `terms`, so that a later bias can go into a convolution among them.
    pub fn note_sum(&mut self, sum: &str, terms: [&Tensor; 2]) {
        if let Some(term) = terms.iter().find(|t| !t.shared && self.convs.contains_key(&t.name)) {
            self.sums.insert(sum.to_owned(), term.name.clone());
        }
    }

    /// Notes what a `Pad` node does.
    pub fn note_pad(&mut self, output: &str, pad: Pad) {
        self.pads.insert(output.to_owned(), pad);
    }

    /// The padding that makes `name`, if its reader can do it: of rows and columns only, with a fitting value.
    pub fn spatial_pad(&self, name: &str, fits: impl Fn(f32) -> bool) -> Option<Pad> {
        let pad = self.pads.get(name)?;
        let spatial = pad.begin.len() == 4 && pad.begin[..2] == [0, 0] && pad.end[..2] == [0, 0];
        (spatial && fits(pad.value)).then(|| pad.clone())
    }

    /// The model: dead nodes removed, weights written, ends named.
    pub fn finish(mut self, input: &Tensor, outputs: &[(Tensor, &str)]) -> ModelProto {
        let mut renamed = BTreeMap::new();
        for (tensor, name) in outputs {
            if tensor.name == input.name || renamed.contains_key(&tensor.name) {
                self.node("Identity", vec![tensor.name.clone()], name, Vec::new());
            } else {
                renamed.insert(tensor.name.clone(), (*name).to_owned());
            }
        }
        self.drop_dead(outputs.iter().flat_map(|(t, n)| [t.name.clone(), (*n).to_owned()]).collect());
        let mut initializer = Vec::new();
        let nodes = std::mem::take(&mut self.nodes);
        let mut node = Vec::with_capacity(nodes.len());
        for mut n in nodes {
            if let Some(conv) = self.convs.remove(&n.output[0]) {
                let (weights, bias) = (format!("{}/weights", n.output[0]), format!("{}/bias", n.output[0]));
                let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
                initializer.push(tensor(&weights, data_type::FLOAT, &conv.dims, bytes(&conv.weights)));
                n.input.push(weights);
                if conv.bias.iter().any(|&b| b != 0.0) {
                    initializer.push(tensor(&bias, data_type::FLOAT, &conv.dims[..1], bytes(&conv.bias)));
                    n.input.push(bias);
                }
            }
            for name in n.input.iter_mut().chain(&mut n.output).chain(&mut n.name) {
                if let Some(new) = renamed.get(name) {
                    name.clone_from(new);
                }
            }
            node.push(n);
        }
        let read: BTreeSet<&String> = node.iter().flat_map(|n| &n.input).collect();
        for ((kind, dims, bytes), name) in std::mem::take(&mut self.constants) {
            if read.contains(&name) {
                initializer.push(tensor(&name, kind, &dims, bytes));
            }
        }
        ModelProto {
            ir_version: Some(8),
            producer_name: text("weir"),
            opset_import: vec![OperatorSetIdProto { domain: text(""), version: Some(OPSET) }],
            graph: Some(GraphProto {
                name: text("converted"),
                node,
                initializer,
                input: vec![value_info(&input.name, &input.physical())],
                output: outputs.iter().map(|(t, name)| value_info(name, &t.physical())).collect(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Keeps the nodes that `live` values need.
    fn drop_dead(&mut self, mut live: BTreeSet<String>) {
        let mut kept: Vec<NodeProto> = Vec::with_capacity(self.nodes.len());
        for node in std::mem::take(&mut self.nodes).into_iter().rev() {
            if node.output.iter().any(|o| live.contains(o)) {
                live.extend(node.input.iter().cloned());
                kept.push(node);
            }
        }
        kept.reverse();
        self.nodes = kept;
    }
}

fn tensor(name: &str, kind: i32, dims: &[i64], raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: text(name),
        data_type: Some(kind),
        dims: dims.to_vec(),
        raw_data: Some(raw),
        ..Default::default()
    }
}

fn value_info(name: &str, shape: &[Dim]) -> ValueInfoProto {
    let dim = axes(shape)
        .iter()
        .map(|d| Dimension {
            value: Some(if d.batch {
                DimensionValue::Param("batch".into())
            } else {
                DimensionValue::Value(d.size)
            }),
            denotation: None,
        })
        .collect();
    let tensor = TensorType { elem_type: Some(data_type::FLOAT), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: text(name),
        r#type: Some(TypeProto { value: Some(TypeValue::Tensor(tensor)), denotation: None }),
        ..Default::default()
    }
}
