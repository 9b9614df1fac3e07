//! TensorFlow operators in terms of ONNX: one function a kind of operator.
//!
//! Only what detectors in graph-model form use is here; any other operator is refused by name. Semantics are those of
//! <https://www.tensorflow.org/api_docs/python/tf/raw_ops>.

mod shapes;

use super::build::{Builder, Pad, float, ints, string};
use super::read::Node;
use super::value::{
    Const, Data, Dim, Tensor, Value, axes, broadcast_dims, first_axes, permute, permute_axes,
};
use crate::model::onnx::int;

/// TensorFlow's picture layout, stored as ONNX wants it.
const NHWC_IN_NCHW: [usize; 4] = [0, 2, 3, 1];

/// One node's work: what it reads, and where its output goes.
pub struct Op<'a> {
    pub node: &'a Node,
    pub inputs: Vec<Value>,
    pub build: &'a mut Builder,
    /// The graph was exported for a batch of exactly 1: a leading 1 in a reshape means the batch.
    pub baked: bool,
}

type Values = Result<Vec<Value>, String>;

impl Op<'_> {
    /// The node's outputs.
    pub fn convert(mut self) -> Values {
        let one = match self.node.op.as_str() {
            "Identity" | "StopGradient" => Ok(self.inputs[0].clone()),
            "Cast" => self.cast(),
            "Add" | "AddV2" | "AddN" | "BiasAdd" => self.binary("Add", |a, b| a + b),
            "Sub" => self.binary("Sub", |a, b| a - b),
            "Mul" => self.binary("Mul", |a, b| a * b),
            "Conv2D" => self.conv(false),
            "DepthwiseConv2dNative" => self.conv(true),
            "FusedBatchNorm" | "FusedBatchNormV2" | "FusedBatchNormV3" => self.batch_norm(),
            "MaxPool" => self.max_pool(),
            "Relu" => self.unary("Relu", Vec::new()),
            "Relu6" => self.relu6(),
            "LeakyRelu" => {
                let alpha = self.node.float("alpha").unwrap_or(0.2);
                self.unary("LeakyRelu", vec![float("alpha", alpha)])
            }
            "Sigmoid" => self.unary("Sigmoid", Vec::new()),
            "Exp" => self.unary("Exp", Vec::new()),
            "Transpose" => self.transpose(),
            "Pad" | "PadV2" => self.pad(),
            "ConcatV2" => self.concat(),
            "Reshape" => self.reshape(),
            "ExpandDims" => self.expand_dims(),
            "Squeeze" => self.squeeze(),
            "Shape" => Ok(self.shape()),
            "StridedSlice" => self.strided_slice(),
            "Slice" => self.slice(),
            "Tile" => self.tile(),
            "Pack" => self.pack(),
            "SparseToDense" => self.sparse_to_dense(),
            "ResizeBilinear" => self.resize(),
            "Unpack" => return self.unpack(),
            "SplitV" => return self.split(),
            _ => Err("this operator is not known to the converter".into()),
        };
        Ok(vec![one?])
    }

    fn name(&self) -> &str {
        &self.node.name
    }

    fn constant(&self, input: usize) -> Result<&Const, String> {
        match self.inputs.get(input) {
            Some(Value::Const(c)) => Ok(c),
            Some(Value::Tensor(_)) => Err(format!("input {input} must be a constant")),
            None => Err(format!("input {input} is missing")),
        }
    }

    fn tensor(&self, input: usize) -> Result<Tensor, String> {
        match self.inputs.get(input) {
            Some(Value::Tensor(t)) => Ok(t.clone()),
            Some(Value::Const(_)) => Err(format!("input {input} must not be a constant")),
            None => Err(format!("input {input} is missing")),
        }
    }

    /// The tensor with its axes stored in another order; emits a Transpose only if it must.
    fn arrange(&mut self, tensor: &Tensor, want: &[usize]) -> Tensor {
        if tensor.perm == want {
            return tensor.clone();
        }
        let mut perm = vec![0; want.len()];
        for (&to, &from) in want.iter().zip(&tensor.perm) {
            perm[to] = from as i64;
        }
        let digits: String = perm.iter().map(i64::to_string).collect();
        let name =
            format!("{}/{}_transpose_{digits}", self.name(), tensor.name.rsplit('/').next().unwrap_or(""));
        self.build.node("Transpose", vec![tensor.name.clone()], &name, vec![ints("perm", perm)]);
        Tensor { name, dims: tensor.dims.clone(), perm: want.to_vec(), shared: false }
    }

    /// The tensor in TensorFlow's own order of axes.
    fn plain(&mut self, tensor: &Tensor) -> Tensor {
        let order: Vec<usize> = (0..tensor.perm.len()).collect();
        self.arrange(tensor, &order)
    }

    /// The result of this node as a new tensor.
    fn made(&self, dims: Vec<Dim>, perm: Vec<usize>) -> Tensor {
        Tensor { name: self.node.name.clone(), dims, perm, shared: false }
    }

    fn unary(
        &mut self,
        op: &str,
        attributes: Vec<crate::model::onnx::AttributeProto>,
    ) -> Result<Value, String> {
        let x = self.tensor(0)?;
        self.build.node(op, vec![x.name], &self.node.name, attributes);
        Ok(Value::Tensor(self.made(x.dims, x.perm)))
    }

    fn relu6(&mut self) -> Result<Value, String> {
        let x = self.tensor(0)?;
        let (low, high) = (self.build.floats(&[], &[0.0]), self.build.floats(&[], &[6.0]));
        self.build.node("Clip", vec![x.name, low, high], &self.node.name, Vec::new());
        Ok(Value::Tensor(self.made(x.dims, x.perm)))
    }

    fn cast(&mut self) -> Result<Value, String> {
        let to_float = self.node.is_float("DstT");
        match &self.inputs[0] {
            Value::Tensor(t) if to_float => Ok(Value::Tensor(t.clone())),
            Value::Tensor(_) => Err("casts of tensors to integers are not supported".into()),
            Value::Const(c) => {
                let data = match (&c.data, to_float) {
                    (Data::Int(_), true) => Data::F32(c.integers()?.iter().map(|&v| v as f32).collect()),
                    (Data::F32(v), false) => Data::Int(v.iter().map(|&v| Dim::fixed(v as i64)).collect()),
                    (same, _) => same.clone(),
                };
                Ok(Value::Const(Const { dims: c.dims.clone(), data }))
            }
        }
    }

    /// Adds, subtracts or multiplies; AddN takes any number of inputs.
    fn binary(&mut self, op: &str, f: fn(f64, f64) -> f64) -> Result<Value, String> {
        let mut inputs = std::mem::take(&mut self.inputs).into_iter();
        let mut left = inputs.next().ok_or("has no input")?;
        let last = inputs.len();
        for (i, right) in inputs.enumerate() {
            let name =
                if i + 1 == last { self.node.name.clone() } else { format!("{}/part_{i}", self.node.name) };
            left = match (left, right) {
                (Value::Const(a), Value::Const(b)) => Value::Const(arithmetic(&a, &b, op, f)?),
                (Value::Tensor(a), Value::Const(b)) => {
                    Value::Tensor(self.with_constant(op, a, &b, false, &name)?)
                }
                (Value::Const(a), Value::Tensor(b)) => {
                    Value::Tensor(self.with_constant(op, b, &a, true, &name)?)
                }
                (Value::Tensor(a), Value::Tensor(b)) => Value::Tensor(self.with_tensor(op, &a, &b, &name)?),
            };
        }
        Ok(left)
    }

    fn with_constant(
        &mut self,
        op: &str,
        x: Tensor,
        c: &Const,
        first: bool,
        name: &str,
    ) -> Result<Tensor, String> {
        if let Some(values) = Builder::per_channel(c, &x) {
            let negated: Vec<f32> = values.iter().map(|v| -v).collect();
            let folded = match op {
                "Mul" => self.build.fold(&x, Some(&values), None),
                "Add" => self.build.fold(&x, None, Some(&values)),
                "Sub" if !first => self.build.fold(&x, None, Some(&negated)),
                _ => false,
            };
            if folded {
                return Ok(x);
            }
        }
        let dims = broadcast_dims(&x.dims, &c.dims)?;
        if axes(&dims).len() != x.perm.len() {
            return Err("a constant of higher rank than the tensor next to it is not supported".into());
        }
        let c = self.build.operand(c, &x, &dims)?;
        let operands = if first { vec![c, x.name] } else { vec![x.name, c] };
        self.build.node(op, operands, name, Vec::new());
        Ok(Tensor { name: name.to_owned(), dims, perm: x.perm, shared: false })
    }

    fn with_tensor(&mut self, op: &str, a: &Tensor, b: &Tensor, name: &str) -> Result<Tensor, String> {
        let dims = broadcast_dims(&a.dims, &b.dims)?;
        if axes(&a.dims).len() != axes(&dims).len() || axes(&b.dims).len() != axes(&dims).len() {
            return Err("broadcasting between tensors of different rank is not supported".into());
        }
        let right = self.arrange(b, &a.perm);
        self.build.node(op, vec![a.name.clone(), right.name.clone()], name, Vec::new());
        if op == "Add" && a.dims == b.dims {
            self.build.note_sum(name, [a, &right]);
        }
        Ok(Tensor { name: name.to_owned(), dims, perm: a.perm.clone(), shared: false })
    }

    /// Strides, window and padding of a convolution or pooling: ONNX attributes, the input after absorbing a `Pad`, and
    /// the output's rows and columns.
    fn window(
        &mut self,
        kernel: [i64; 2],
        absorb: fn(f32) -> bool,
    ) -> Result<(Tensor, Vec<crate::model::onnx::AttributeProto>, [i64; 2]), String> {
        if self.node.string("data_format").is_some_and(|f| f != "NHWC") {
            return Err("data_format must be NHWC".into());
        }
        let x = self.tensor(0)?;
        let mut x = self.arrange(&x, &NHWC_IN_NCHW);
        let hw = |name| -> Result<[i64; 2], String> {
            match self.node.ints(name).as_deref() {
                None | Some([]) => Ok([1, 1]),
                Some([1, h, w, 1]) if *h > 0 && *w > 0 => Ok([*h, *w]),
                Some(other) => Err(format!("{name} = {other:?} is not supported")),
            }
        };
        let (strides, dilations) = (hw("strides")?, hw("dilations")?);
        let size = [x.dims[1].known()?, x.dims[2].known()?];
        let (mut out, mut pads) = ([0; 2], [0; 4]);
        let padding = self.node.string("padding").unwrap_or_default();
        for i in 0..2 {
            let reach = (kernel[i] - 1) * dilations[i] + 1;
            match padding.as_str() {
                "VALID" => out[i] = (size[i] - reach) / strides[i] + 1,
                "SAME" => {
                    out[i] = (size[i] + strides[i] - 1) / strides[i];
                    let total = ((out[i] - 1) * strides[i] + reach - size[i]).max(0);
                    (pads[i], pads[i + 2]) = (total / 2, total - total / 2);
                }
                other => return Err(format!("padding {other:?} is not supported")),
            }
        }
        if padding == "VALID"
            && let Some(pad) = self.build.spatial_pad(&x.name, absorb)
        {
            x.name.clone_from(&pad.inner);
            pads = [pad.begin[2], pad.begin[3], pad.end[2], pad.end[3]];
        }
        let mut attributes = vec![ints("kernel_shape", kernel.to_vec()), ints("strides", strides.to_vec())];
        attributes.push(ints("pads", pads.to_vec()));
        if dilations != [1, 1] {
            attributes.push(ints("dilations", dilations.to_vec()));
        }
        Ok((x, attributes, out))
    }

    fn conv(&mut self, depthwise: bool) -> Result<Value, String> {
        let filter = self.constant(1)?.clone();
        let shape = filter.shape();
        let &[rows, columns, channels, many] = &shape[..] else {
            return Err("the filter must have rank 4".into());
        };
        // [rows, columns, in, out] → [out, in, rows, columns]; depthwise [rows, columns, in, many] → [in·many, 1, …].
        let (order, dims) = if depthwise {
            ([2, 3, 0, 1], [channels * many, 1, rows, columns])
        } else {
            ([3, 2, 0, 1], [many, channels, rows, columns])
        };
        let weights = permute(filter.f32s()?, &shape, &order);
        let (x, mut attributes, [h, w]) = self.window([rows as i64, columns as i64], |v| v == 0.0)?;
        if x.dims[3].known()? != channels as i64 {
            return Err(format!("the filter is for {channels} channels, its input has {:?}", x.dims[3]));
        }
        attributes.push(int("group", if depthwise { channels as i64 } else { 1 }));
        let dims = dims.map(|d| d as i64);
        self.build.conv(x.name, &self.node.name, dims, weights, attributes);
        let out = vec![x.dims[0], Dim::fixed(h), Dim::fixed(w), Dim::fixed(dims[0])];
        Ok(Value::Tensor(self.made(out, NHWC_IN_NCHW.to_vec())))
    }

    fn max_pool(&mut self) -> Result<Value, String> {
        let kernel = match self.node.ints("ksize").as_deref() {
            Some([1, h, w, 1]) => [*h, *w],
            other => return Err(format!("ksize = {other:?} is not supported")),
        };
        // ONNX pads a MaxPool with −∞.
        let (x, attributes, [h, w]) = self.window(kernel, |v| v <= f32::MIN)?;
        self.build.node("MaxPool", vec![x.name], &self.node.name, attributes);
        let out = vec![x.dims[0], Dim::fixed(h), Dim::fixed(w), x.dims[3]];
        Ok(Value::Tensor(self.made(out, NHWC_IN_NCHW.to_vec())))
    }

    /// y = (x − mean) / √(variance + ε) · scale + offset, as one scale and one offset a channel.
    fn batch_norm(&mut self) -> Result<Value, String> {
        let x = self.tensor(0)?;
        let epsilon = f64::from(self.node.float("epsilon").unwrap_or(1e-4));
        let part = |i| self.constant(i).and_then(|c| Ok(c.f32s()?.to_vec()));
        let (gamma, beta, mean, variance) = (part(1)?, part(2)?, part(3)?, part(4)?);
        let n = gamma.len();
        if [beta.len(), mean.len(), variance.len()] != [n; 3] {
            return Err("the parts of the batch norm have different lengths".into());
        }
        let k: Vec<f64> =
            (0..n).map(|i| f64::from(gamma[i]) / (f64::from(variance[i]) + epsilon).sqrt()).collect();
        let scale: Vec<f32> = k.iter().map(|&k| k as f32).collect();
        let offset: Vec<f32> =
            (0..n).map(|i| (f64::from(beta[i]) - f64::from(mean[i]) * k[i]) as f32).collect();
        let per_channel = |v: Vec<f32>| Const { dims: vec![Dim::fixed(n as i64)], data: Data::F32(v) };
        let inner = format!("{}/scaled", self.node.name);
        let scaled = self.with_constant("Mul", x, &per_channel(scale), false, &inner)?;
        let name = self.node.name.clone();
        self.with_constant("Add", scaled, &per_channel(offset), false, &name).map(Value::Tensor)
    }

    fn resize(&mut self) -> Result<Value, String> {
        let x = self.tensor(0)?;
        let x = self.arrange(&x, &NHWC_IN_NCHW);
        let size = self.constant(1)?.integers()?;
        let &[h, w] = &size[..] else { return Err("the size must be rows and columns".into()) };
        let from = [x.dims[1].known()?, x.dims[2].known()?];
        let scales: Vec<f32> = [h, w].iter().zip(from).map(|(&to, from)| to as f32 / from as f32).collect();
        // ONNX computes the size as floor(in · scale), in float.
        if (0..2).any(|i| (from[i] as f32 * scales[i]).floor() as i64 != [h, w][i]) {
            return Err(format!("cannot express the resize of {from:?} to {size:?} as a scale"));
        }
        let mode = match (self.node.bool("half_pixel_centers"), self.node.bool("align_corners")) {
            (true, _) => "half_pixel",
            (_, true) => "align_corners",
            _ => "asymmetric",
        };
        let scales = self.build.floats(&[4], &[1.0, 1.0, scales[0], scales[1]]);
        let attributes = vec![string("mode", "linear"), string("coordinate_transformation_mode", mode)];
        self.build.node("Resize", vec![x.name, String::new(), scales], &self.node.name, attributes);
        let dims = vec![x.dims[0], Dim::fixed(h), Dim::fixed(w), x.dims[3]];
        Ok(Value::Tensor(self.made(dims, x.perm)))
    }

    /// A graph output: batch first, then TensorFlow's order.
    pub fn output(&mut self, tensor: &Tensor) -> Tensor {
        self.plain(tensor)
    }
}

fn wrap(axis: i64, rank: usize) -> Result<usize, String> {
    let at = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(at).ok().filter(|&a| a < rank).ok_or_else(|| format!("axis {axis} of {rank}"))
}

/// A constant integer of rank 0.
fn scalar(value: &Value) -> Option<Dim> {
    match value {
        Value::Const(Const { dims, data: Data::Int(v) }) if dims.is_empty() => v.first().copied(),
        _ => None,
    }
}

/// Constant folding.
fn arithmetic(a: &Const, b: &Const, op: &str, f: fn(f64, f64) -> f64) -> Result<Const, String> {
    let dims = broadcast_dims(&a.dims, &b.dims)?;
    let (a, b) = (a.broadcast(&dims), b.broadcast(&dims));
    let data = match (&a.data, &b.data) {
        (Data::F32(a), Data::F32(b)) => {
            Data::F32(a.iter().zip(b).map(|(&a, &b)| f(a.into(), b.into()) as f32).collect())
        }
        (Data::Int(a), Data::Int(b)) => {
            let pair = |(&a, &b): (&Dim, &Dim)| match (a.batch, b.batch) {
                (false, false) => Ok(Dim::fixed(f(a.size as f64, b.size as f64) as i64)),
                (true, true) => Err("N with N in shape arithmetic".to_owned()),
                _ if op == "Mul" => Ok(Dim { size: a.size * b.size, batch: true }),
                _ => Err("adds to N in shape arithmetic".to_owned()),
            };
            Data::Int(a.iter().zip(b).map(pair).collect::<Result<_, _>>()?)
        }
        _ => return Err("mixes integers and floats".into()),
    };
    Ok(Const { dims, data })
}
