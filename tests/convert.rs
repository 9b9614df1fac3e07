//! The converter against arithmetic done by hand: small TensorFlow.js graphs are written together with what they must
//! give, converted, and run by ONNX Runtime on two frames at once.
//!
//! This holds the operators, the folding and the batch to account. It does not show that real files are read rightly;
//! that was checked once, on real weights against TensorFlow.js itself (see models/README.md).

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers outside of #[test] functions use them too

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use weir::device::software::session::{Runtime, Session, load_runtime};
use weir::model::manifest::Manifest;
use weir::model::tfjs;

/// Frames in the reference: different ones, so that a mix-up shows.
const FRAMES: usize = 2;

fn runtime() -> Option<&'static Runtime> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| load_runtime(None).map_err(|e| println!("SKIPPED: {e}")).ok());
    if runtime.is_none() {
        println!("SKIPPED: no ONNX Runtime");
    }
    runtime.as_ref()
}

/// A value of the reference, row-major.
#[derive(Clone)]
struct Array {
    shape: Vec<usize>,
    data: Vec<f64>,
}

impl Array {
    fn at(&self, index: &[usize]) -> f64 {
        self.data[index.iter().zip(&self.shape).fold(0, |flat, (i, n)| flat * n + i)]
    }

    fn make(shape: &[usize], f: impl Fn(&[usize]) -> f64) -> Array {
        let count = shape.iter().product();
        let mut index = vec![0; shape.len()];
        let mut data = Vec::with_capacity(count);
        for _ in 0..count {
            data.push(f(&index));
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Array { shape: shape.to_vec(), data }
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Array {
        Array { shape: self.shape.clone(), data: self.data.iter().map(|&v| f(v)).collect() }
    }

    fn zip(&self, other: &Array, f: impl Fn(f64, f64) -> f64) -> Array {
        assert_eq!(self.shape, other.shape);
        Array {
            shape: self.shape.clone(),
            data: self.data.iter().zip(&other.data).map(|(&a, &b)| f(a, b)).collect(),
        }
    }

    /// By the last axis.
    fn channels(&self, values: &[f64], f: impl Fn(f64, f64) -> f64) -> Array {
        let c = values.len();
        let data = self.data.iter().enumerate().map(|(i, &v)| f(v, values[i % c])).collect();
        Array { shape: self.shape.clone(), data }
    }

    fn transpose(&self, perm: &[usize]) -> Array {
        let shape: Vec<usize> = perm.iter().map(|&p| self.shape[p]).collect();
        Array::make(&shape, |index| {
            let mut from = vec![0; index.len()];
            perm.iter().zip(index).for_each(|(&p, &i)| from[p] = i);
            self.at(&from)
        })
    }

    fn shaped(&self, shape: &[usize]) -> Array {
        assert_eq!(self.data.len(), shape.iter().product::<usize>());
        Array { shape: shape.to_vec(), data: self.data.clone() }
    }
}

/// A graph on its way to `model.json`.
struct Net {
    random: fastrand::Rng,
    nodes: Vec<Json>,
    specs: Vec<Json>,
    bytes: Vec<u8>,
}

impl Net {
    fn new(seed: u64) -> Net {
        Net {
            random: fastrand::Rng::with_seed(seed),
            nodes: Vec::new(),
            specs: Vec::new(),
            bytes: Vec::new(),
        }
    }

    fn node(&mut self, name: &str, op: &str, input: &[&str], attr: Json) {
        self.nodes.push(json!({ "name": name, "op": op, "input": input, "attr": attr }));
    }

    fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        self.node(name, "Const", &[], json!({}));
        self.specs.push(json!({ "name": name, "shape": shape, "dtype": "float32" }));
        self.bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }

    fn ints(&mut self, name: &str, values: &[i32]) {
        self.shaped_ints(name, &[values.len()], values);
    }

    fn scalar(&mut self, name: &str, value: i32) {
        self.shaped_ints(name, &[], &[value]);
    }

    fn shaped_ints(&mut self, name: &str, shape: &[usize], values: &[i32]) {
        self.node(name, "Const", &[], json!({}));
        self.specs.push(json!({ "name": name, "shape": shape, "dtype": "int32" }));
        self.bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }

    /// A random constant in ±1.
    fn weights(&mut self, name: &str, shape: &[usize]) -> Array {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| self.random.f32() * 2.0 - 1.0).collect();
        self.floats(name, shape, &values);
        Array { shape: shape.to_vec(), data: values.into_iter().map(f64::from).collect() }
    }

    fn write(&self, folder: &Path) {
        let json = json!({
            "modelTopology": { "node": self.nodes },
            "weightsManifest": [{ "paths": ["a.bin", "b.bin"], "weights": self.specs }],
        });
        fs::write(folder.join("model.json"), json.to_string()).unwrap();
        // Shards end anywhere, within a number too.
        let middle = self.bytes.len() / 2 + 1;
        fs::write(folder.join("a.bin"), &self.bytes[..middle]).unwrap();
        fs::write(folder.join("b.bin"), &self.bytes[middle..]).unwrap();
    }

    /// Converts, runs, and compares each output with what it must be.
    fn check(&self, input: &Array, nchw: bool, outputs: &[(&str, &Array)]) {
        let Some(runtime) = runtime() else { return };
        let folder = tempfile::tempdir().unwrap();
        self.write(folder.path());
        let sizes: Vec<i64> = std::iter::once(-1).chain(input.shape[1..].iter().map(|&s| s as i64)).collect();
        let transpose = if nchw { ", transpose = [0, 3, 1, 2]" } else { "" };
        let ends: Vec<String> = outputs
            .iter()
            .enumerate()
            .map(|(i, (from, _))| format!("{{ from = \"{from}\", name = \"o{i}\" }}"))
            .collect();
        let manifest = Manifest::parse(
            &format!(
                "[model]\nname = \"t\"\nlabels = [\"x\"]\n[source]\nkind = \"npm\"\npackage = \"p\"\nversion = \"1\"\n\
                 tarball_sha256 = \"{0}\"\nsha256 = \"{0}\"\nfiles = [\"d/model.json\"]\n[source.convert]\nkind = \"tfjs\"\n\
                 inputs = [{{ from = \"x\", name = \"in\", shape = {sizes:?}{transpose} }}]\noutputs = [{1}]\n\
                 [input]\nname = \"in\"\nwidth = 8\nheight = 8\n[output]\nfamily = \"ssd\"\n",
                "0".repeat(64),
                ends.join(", ")
            ),
            "t",
        )
        .unwrap_or_else(|e| panic!("{}", e[0]));
        let bytes = tfjs::convert(&manifest, folder.path()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(tfjs::convert(&manifest, folder.path()).unwrap(), bytes, "the same bytes again");

        let fed = if nchw { input.transpose(&[0, 3, 1, 2]) } else { input.clone() };
        let data: Vec<f32> = fed.data.iter().map(|&v| v as f32).collect();
        let mut session = Session::open(runtime, "t", &bytes, 1).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(session.inputs()[0].dims[0], None, "the batch is free");
        let result = session.run("in", &fed.shape, &data).unwrap_or_else(|e| panic!("{e}"));
        for (k, (name, want)) in outputs.iter().enumerate() {
            let declared: Vec<Option<usize>> = want.shape[1..].iter().map(|&s| Some(s)).collect();
            assert_eq!(session.outputs()[k].dims[1..], declared, "{name}");
            let part = want.data.len() / FRAMES;
            for frame in 0..FRAMES {
                let view = result.view(k, frame);
                assert_eq!(view.shape, &want.shape[1..], "{name}");
                for (i, (&have, &want)) in
                    view.data.iter().zip(&want.data[frame * part..][..part]).enumerate()
                {
                    let error = (f64::from(have) - want).abs();
                    assert!(
                        error <= 1e-4 * want.abs().max(1.0),
                        "{name}[{frame}][{i}] is {have}, must be {want}"
                    );
                }
            }
        }
    }
}

/// A window over rows and columns.
#[derive(Clone, Copy, Debug)]
struct Window {
    kernel: usize,
    stride: usize,
    dilation: usize,
    same: bool,
}

impl Window {
    fn attr(self) -> Json {
        let (s, d) = (self.stride.to_string(), self.dilation.to_string());
        // "VkFMSUQ=" is VALID; a list of bytes is the other way that files write strings.
        let padding = if self.same { json!([83, 65, 77, 69]) } else { json!("VkFMSUQ=") };
        json!({
            "padding": { "s": padding },
            "strides": { "list": { "i": ["1", s, s, "1"] } },
            "dilations": { "list": { "i": ["1", d, d, "1"] } },
            "ksize": { "list": { "i": [1, self.kernel, self.kernel, 1] } },
        })
    }

    /// Output size, and how far the first window reaches past the edge: TensorFlow's "SAME" puts the odd one behind.
    fn along(self, size: usize) -> (usize, usize) {
        let reach = (self.kernel - 1) * self.dilation + 1;
        if !self.same {
            return ((size - reach) / self.stride + 1, 0);
        }
        let out = size.div_ceil(self.stride);
        (out, ((out - 1) * self.stride + reach).saturating_sub(size) / 2)
    }

    /// Folds `f` over the places of a window that lie inside the picture.
    fn over(
        self,
        x: &Array,
        channels: usize,
        f: impl Fn(&mut dyn Iterator<Item = (usize, usize, usize, usize)>, usize, usize) -> f64,
    ) -> Array {
        let (h, w) = (x.shape[1], x.shape[2]);
        let ((rows, top), (columns, left)) = (self.along(h), self.along(w));
        Array::make(&[x.shape[0], rows, columns, channels], |i| {
            let k = self.kernel;
            let mut places = (0..k * k).filter_map(|p| {
                let (ky, kx) = (p / k, p % k);
                let y = (i[1] * self.stride + ky * self.dilation).checked_sub(top).filter(|&y| y < h)?;
                let x = (i[2] * self.stride + kx * self.dilation).checked_sub(left).filter(|&x| x < w)?;
                Some((ky, kx, y, x))
            });
            f(&mut places, i[0], i[3])
        })
    }
}

fn conv(x: &Array, filter: &Array, window: Window) -> Array {
    window.over(x, filter.shape[3], |places, n, o| {
        places
            .map(|(ky, kx, y, xx)| {
                (0..x.shape[3]).map(|c| x.at(&[n, y, xx, c]) * filter.at(&[ky, kx, c, o])).sum::<f64>()
            })
            .sum()
    })
}

fn depthwise(x: &Array, filter: &Array, window: Window) -> Array {
    let many = filter.shape[3];
    window.over(x, x.shape[3] * many, |places, n, o| {
        places
            .map(|(ky, kx, y, xx)| x.at(&[n, y, xx, o / many]) * filter.at(&[ky, kx, o / many, o % many]))
            .sum()
    })
}

fn max_pool(x: &Array, window: Window) -> Array {
    window.over(x, x.shape[3], |places, n, c| {
        places.map(|(_, _, y, xx)| x.at(&[n, y, xx, c])).fold(f64::MIN, f64::max)
    })
}

fn pad(x: &Array, by: usize, value: f64) -> Array {
    let shape = [x.shape[0], x.shape[1] + 2 * by, x.shape[2] + 2 * by, x.shape[3]];
    Array::make(&shape, |i| match (i[1].checked_sub(by), i[2].checked_sub(by)) {
        (Some(y), Some(xx)) if y < x.shape[1] && xx < x.shape[2] => x.at(&[i[0], y, xx, i[3]]),
        _ => value,
    })
}

fn window() -> impl Strategy<Value = Window> {
    (1..=3_usize, 1..=2_usize, 1..=2_usize, any::<bool>()).prop_map(|(kernel, stride, dilation, same)| {
        Window {
            kernel,
            stride,
            // TensorFlow refuses both at once.
            dilation: if stride > 1 { 1 } else { dilation },
            same,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Promise: windows, padding, folded scales and biases, absorbed pads and put-off transposes compute what the
    /// graph says, for any size.
    #[test]
    fn a_convolutional_net_is_converted_faithfully(
        seed: u64, h in 7..13_usize, w in 7..13_usize, c in 1..4_usize, first in window(), many in 1..3_usize, nchw: bool, fill in prop_oneof![Just(0.0), Just(0.5)],
    ) {
        let mut net = Net::new(seed);
        let x = { let r = std::cell::RefCell::new(fastrand::Rng::with_seed(seed)); Array::make(&[FRAMES, h, w, c], |_| f64::from(r.borrow_mut().f32() * 2.0 - 1.0)) };
        net.node("x", "Placeholder", &[], json!({ "shape": { "shape": { "dim": [{ "size": "-1" }] } } }));

        // Convolution · scale + bias, all folded into one; clipped.
        let filter = net.weights("w1", &[first.kernel, first.kernel, c, 4]);
        net.node("c1", "Conv2D", &["x", "w1"], first.attr());
        let (scale, bias) = (net.weights("k1", &[4]), net.weights("b1", &[4]));
        net.node("m1", "Mul", &["c1", "k1"], json!({}));
        net.node("a1", "BiasAdd", &["m1", "b1"], json!({}));
        net.node("r1", "Relu6", &["a1"], json!({}));
        let r1 = conv(&x, &filter, first).channels(&scale.data, |v, k| v * k).channels(&bias.data, |v, b| v + b).map(|v| v.clamp(0.0, 6.0));

        // Padded by hand (with zero: absorbed; else not), depthwise, normalised.
        net.shaped_ints("p2", &[4, 2], &[0, 0, 1, 1, 1, 1, 0, 0]);
        net.floats("v2", &[], &[fill]);
        net.node("d2", "PadV2", &["r1", "p2", "v2"], json!({}));
        let plain = Window { kernel: 3, stride: 1, dilation: 1, same: false };
        let filter = net.weights("w2", &[3, 3, 4, many]);
        net.node("c2", "DepthwiseConv2dNative", &["d2", "w2"], plain.attr());
        let n = 4 * many;
        let (gamma, beta, mean) = (net.weights("g2", &[n]), net.weights("e2", &[n]), net.weights("u2", &[n]));
        let variance: Vec<f32> = (0..n).map(|i| 0.1 + i as f32).collect();
        net.floats("s2", &[n], &variance);
        net.node("n2", "FusedBatchNormV3", &["c2", "g2", "e2", "u2", "s2"], json!({ "epsilon": { "f": 0.01 } }));
        net.node("l2", "LeakyRelu", &["n2"], json!({ "alpha": { "f": 0.1 } }));
        let c2 = depthwise(&pad(&r1, 1, f64::from(fill)), &filter, plain);
        let l2 = c2.channels(&mean.data, |v, u| v - u)
            .channels(&variance.iter().map(|&v| (f64::from(v) + f64::from(0.01_f32)).sqrt()).collect::<Vec<_>>(), |v, s| v / s)
            .channels(&gamma.data, |v, g| v * g).channels(&beta.data, |v, b| v + b)
            .map(|v| if v < 0.0 { v * f64::from(0.1_f32) } else { v });

        // A residual whose bias comes after the sum.
        let filter = net.weights("w3", &[1, 1, n, n]);
        let one = Window { kernel: 1, stride: 1, dilation: 1, same: true };
        net.node("c3", "Conv2D", &["l2", "w3"], one.attr());
        net.node("s3", "AddN", &["l2", "c3"], json!({}));
        let (bias, scale) = (net.weights("b3", &[n]), net.weights("k3", &[n]));
        net.node("a3", "AddV2", &["s3", "b3"], json!({}));
        net.node("k", "Mul", &["a3", "k3"], json!({}));
        let k3 = l2.zip(&conv(&l2, &filter, one), |a, b| a + b).channels(&bias.data, |v, b| v + b).channels(&scale.data, |v, k| v * k);

        // Pooled over −∞, and through another layout and back.
        net.floats("lowest", &[], &[f32::MIN]);
        net.node("d4", "PadV2", &["k", "p2", "lowest"], json!({}));
        let pool = Window { kernel: 3, stride: 2, dilation: 1, same: false };
        net.node("p4", "MaxPool", &["d4"], pool.attr());
        net.ints("to", &[0, 3, 1, 2]);
        net.ints("back", &[0, 2, 3, 1]);
        net.node("t4", "Transpose", &["p4", "to"], json!({}));
        net.node("q4", "Sigmoid", &["t4"], json!({}));
        net.node("y4", "Transpose", &["q4", "back"], json!({}));
        let y4 = max_pool(&pad(&k3, 1, f64::MIN), pool).map(|v| 1.0 / (1.0 + (-v).exp()));

        net.check(&x, nchw, &[("y4", &y4), ("q4", &y4.transpose(&[0, 3, 1, 2])), ("l2", &l2), ("k", &k3)]);
    }

    /// Promise: rows of all frames in one list, anchors tiled for each frame, and the way back, give each frame its own.
    #[test]
    fn a_box_decoder_over_all_frames_is_converted_faithfully(seed: u64, rows in 1..9_usize) {
        let mut net = Net::new(seed);
        let x = { let r = std::cell::RefCell::new(fastrand::Rng::with_seed(seed)); Array::make(&[FRAMES, rows, 1, 4], |_| f64::from(r.borrow_mut().f32() * 2.0 - 1.0)) };
        net.node("x", "Placeholder", &[], json!({}));
        let anchors = net.weights("anchors", &[1, rows, 2]);
        for (name, values) in [("flat4", vec![-1, 4]), ("flat2", vec![-1, 2]), ("perm", vec![1, 0]), ("zero", vec![0]), ("one", vec![1])] {
            net.ints(name, &values);
        }
        for (name, value) in [("i0", 0), ("i1", 1), ("i2", 2), ("rows", rows as i32)] {
            net.scalar(name, value);
        }
        net.node("rank3", "Squeeze", &["x"], json!({ "squeeze_dims": { "list": { "i": ["2"] } } }));
        // N, as the graph finds it.
        net.node("shape", "Shape", &["rank3"], json!({}));
        net.node("n", "StridedSlice", &["shape", "zero", "one", "one"], json!({ "shrink_axis_mask": { "i": "1" } }));
        net.node("times", "Pack", &["n", "i1", "i1"], json!({ "axis": { "i": "0" } }));
        net.node("tiled", "Tile", &["anchors", "times"], json!({}));
        net.node("anchor_rows", "Reshape", &["tiled", "flat2"], json!({}));
        net.node("anchor_columns", "Transpose", &["anchor_rows", "perm"], json!({}));
        net.node("anchor", "Unpack", &["anchor_columns"], json!({ "num": { "i": "2" }, "axis": { "i": "0" } }));
        net.node("x_rows", "Reshape", &["rank3", "flat4"], json!({}));
        net.node("x_columns", "Transpose", &["x_rows", "perm"], json!({}));
        net.node("part", "Unpack", &["x_columns"], json!({ "num": { "i": "4" }, "axis": { "i": "0" } }));
        // a₀ + a₁·x₁, and exp(x₂) − a₁.
        net.node("m", "Mul", &["anchor:1", "part:1"], json!({}));
        net.node("u", "Add", &["m", "anchor"], json!({}));
        net.node("e", "Exp", &["part:2"], json!({}));
        net.node("v", "Sub", &["e", "anchor:1"], json!({}));
        net.node("packed", "Pack", &["u", "v"], json!({ "axis": { "i": "0" } }));
        net.node("pairs", "Transpose", &["packed", "perm"], json!({}));
        net.node("full", "Pack", &["n", "rows", "i2"], json!({ "axis": { "i": "0" } }));
        net.node("boxes", "Reshape", &["pairs", "full"], json!({}));
        net.node("both", "ConcatV2", &["boxes", "rank3", "i2"], json!({}));
        net.ints("begin", &[0, 0, 1]);
        net.ints("size", &[-1, -1, 3]);
        net.node("y", "Slice", &["both", "begin", "size"], json!({}));
        net.node("wide", "ExpandDims", &["y", "i2"], json!({}));

        let a = |row: usize, k: usize| anchors.at(&[0, row, k]);
        let boxes = Array::make(&[FRAMES, rows, 2], |i| match i[2] {
            0 => a(i[1], 0) + a(i[1], 1) * x.at(&[i[0], i[1], 0, 1]),
            _ => x.at(&[i[0], i[1], 0, 2]).exp() - a(i[1], 1),
        });
        let y = Array::make(&[FRAMES, rows, 3], |i| match i[2] {
            0 => boxes.at(&[i[0], i[1], 1]),
            k => x.at(&[i[0], i[1], 0, k - 1]),
        });
        net.check(&x, false, &[("boxes", &boxes), ("y", &y), ("wide", &y.shaped(&[FRAMES, rows, 1, 3]))]);
    }
}

/// What two nodes read must stay as it is, whichever way they reach it.
#[test]
fn nothing_is_folded_into_a_value_that_another_node_reads() {
    let mut net = Net::new(7);
    let x = Array::make(&[FRAMES, 4, 4, 2], |i| (i[0] * 7 + i[1] * 5 + i[2] * 3 + i[3]) as f64 / 10.0);
    net.node("x", "Placeholder", &[], json!({}));
    let filter = net.weights("w", &[1, 1, 2, 2]);
    let bias = net.weights("b", &[2]);
    let one = Window { kernel: 1, stride: 1, dilation: 1, same: true };
    net.node("c", "Conv2D", &["x", "w"], one.attr());
    net.node("same", "Identity", &["c"], json!({}));
    net.node("biased", "BiasAdd", &["same", "b"], json!({}));
    net.node("out", "Sub", &["biased", "c"], json!({}));
    let c = conv(&x, &filter, one);
    let biased = c.channels(&bias.data, |v, b| v + b);
    net.check(&x, true, &[("out", &biased.zip(&c, |a, b| a - b)), ("biased", &biased)]);
}

/// Channels-first in memory next to channels-last, and an axis taken from the middle.
#[test]
fn values_stored_in_different_orders_meet() {
    let mut net = Net::new(7);
    let x = Array::make(&[FRAMES, 3, 4, 2], |i| (i[0] * 24 + i[1] * 8 + i[2] * 2 + i[3]) as f64 / 10.0);
    net.node("x", "Placeholder", &[], json!({}));
    let filter = net.weights("w", &[1, 1, 2, 2]);
    let one = Window { kernel: 1, stride: 1, dilation: 1, same: true };
    net.node("c", "Conv2D", &["x", "w"], one.attr());
    net.node("sum", "AddV2", &["x", "c"], json!({}));
    net.scalar("last", -1);
    net.node("both", "ConcatV2", &["x", "c", "last"], json!({}));
    net.node("part", "Unpack", &["c"], json!({ "num": { "i": "2" }, "axis": { "i": "3" } }));
    let c = conv(&x, &filter, one);
    let both = Array::make(&[FRAMES, 3, 4, 4], |i| {
        let from = if i[3] < 2 { &x } else { &c };
        from.at(&[i[0], i[1], i[2], i[3] % 2])
    });
    let part = Array::make(&[FRAMES, 3, 4], |i| c.at(&[i[0], i[1], i[2], 1]));
    net.check(&x, false, &[("sum", &x.zip(&c, |a, b| a + b)), ("both", &both), ("part:1", &part)]);
}

/// A graph that was exported for a batch of 1 has that 1 in its reshapes.
#[test]
fn a_batch_of_one_baked_into_a_reshape_is_freed() {
    let mut net = Net::new(7);
    let x = Array::make(&[FRAMES, 2, 3, 4], |i| (i[0] * 24 + i[1] * 12 + i[2] * 4 + i[3]) as f64);
    net.node(
        "x",
        "Placeholder",
        &[],
        json!({ "shape": { "shape": { "dim": [{ "size": "1" }, { "size": "2" }] } } }),
    );
    net.ints("s", &[1, 2, -1]);
    net.ints("perm", &[0, 2, 1]);
    net.node("flat", "Reshape", &["x", "s"], json!({}));
    net.node("y", "Transpose", &["flat", "perm"], json!({}));
    net.check(&x, false, &[("y", &x.shaped(&[FRAMES, 2, 12]).transpose(&[0, 2, 1]))]);
}

/// Halving and doubling, by half-pixel centres: the values of `tf.image.resize` on a ramp.
#[test]
fn a_ramp_stays_a_ramp_when_it_is_doubled() {
    let mut net = Net::new(7);
    let x = Array::make(&[FRAMES, 1, 3, 1], |i| (i[0] * 100 + i[2] * 4) as f64);
    net.node("x", "Placeholder", &[], json!({}));
    net.ints("size", &[1, 6]);
    net.node("y", "ResizeBilinear", &["x", "size"], json!({ "half_pixel_centers": { "b": true } }));
    let ramp = [0.0, 1.0, 3.0, 5.0, 7.0, 8.0];
    net.check(&x, true, &[("y", &Array::make(&[FRAMES, 1, 6, 1], |i| i[0] as f64 * 100.0 + ramp[i[2]]))]);
}

/// A recipe from `from` to `to`, whose result would have a SHA-256 of zeros.
fn recipe(from: &str, to: &str) -> Manifest {
    let sha = "0".repeat(64);
    let text = format!(
        "[model]\nname = \"t\"\nlabels = [\"x\"]\n[source]\nkind = \"npm\"\npackage = \"p\"\nversion = \"1\"\n\
             tarball_sha256 = \"{sha}\"\nsha256 = \"{sha}\"\nfiles = [\"d/model.json\"]\n[source.convert]\nkind = \"tfjs\"\n\
             inputs = [{{ from = \"{from}\", name = \"in\", shape = [-1, 4, 4, 2] }}]\n\
             outputs = [{{ from = \"{to}\", name = \"o\" }}]\n\
             [input]\nname = \"in\"\nwidth = 8\nheight = 8\n[output]\nfamily = \"ssd\"\n"
    );
    Manifest::parse(&text, "t").unwrap_or_else(|e| panic!("{}", e[0]))
}

/// A file of another hash than the manifest's is not written.
#[test]
fn a_conversion_that_is_not_the_pinned_one_is_thrown_away() {
    let folder = tempfile::tempdir().unwrap();
    let mut net = Net::new(1);
    net.node("x", "Placeholder", &[], json!({}));
    net.node("y", "Exp", &["x"], json!({}));
    net.floats("unused", &[2], &[1.0, 2.0]);
    net.write(folder.path());
    let (manifest, out) = (recipe("x", "y"), folder.path().join("out.onnx"));
    let message = tfjs::convert_to(&manifest, folder.path(), &out).unwrap_err().message;
    assert!(message.contains(&format!("but the manifest of `t` names {}", "0".repeat(64))), "{message}");
    assert!(!out.exists());

    let mut right = manifest.clone();
    let bytes = tfjs::convert(&manifest, folder.path()).unwrap();
    right.source.as_mut().unwrap().sha256 = Some(weir::model::manifest::sha256_of(&bytes));
    tfjs::convert_to(&right, folder.path(), &out).unwrap();
    assert_eq!(fs::read(&out).unwrap(), bytes);
}

#[test]
fn what_cannot_be_converted_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let convert = |manifest: &Manifest| {
        let message = tfjs::convert(manifest, folder.path()).unwrap_err().message;
        message.replace(&folder.path().join("model.json").display().to_string(), "M")
    };
    assert!(convert(&recipe("x", "y")).starts_with("cannot read M: "), "no file yet");

    let mut net = Net::new(1);
    net.node("x", "Placeholder", &[], json!({}));
    net.node("fft", "FFT2D", &["x"], json!({}));
    net.node("after", "Exp", &["fft"], json!({}));
    net.node("source", "Placeholder", &[], json!({}));
    net.node("aside", "Exp", &["source"], json!({}));
    net.node("enter", "Exp", &["next"], json!({}));
    net.node("next", "Exp", &["enter"], json!({}));
    net.ints("list", &[1, 2]);
    net.write(folder.path());
    for (from, to, expected) in [
        ("x", "after", "cannot convert M: node fft (FFT2D): this operator is not known to the converter"),
        ("gone", "after", "cannot convert M: there is no node gone"),
        ("x", "lost:0", "cannot convert M: there is no node lost"),
        (
            "x",
            "aside",
            "cannot convert M: node source (Placeholder): has no inputs; the recipe must cut the graph after it",
        ),
        ("x", "next", "cannot convert M: next is part of a loop; cut the graph after it"),
        ("x", "list", "cannot convert M: output o does not depend on the input"),
    ] {
        assert_eq!(convert(&recipe(from, to)), expected);
    }
    fs::remove_file(folder.path().join("b.bin")).unwrap();
    assert!(convert(&recipe("x", "after")).starts_with("cannot read M: shard b.bin: "));
    fs::write(folder.path().join("b.bin"), b"").unwrap();
    assert_eq!(convert(&recipe("x", "after")), "cannot read M: weight list: the shards end before it");
    fs::write(folder.path().join("b.bin"), [0; 99]).unwrap();
    assert!(convert(&recipe("x", "after")).contains("bytes of weights are left over in a.bin, b.bin"));
    let text = fs::read_to_string(folder.path().join("model.json")).unwrap();
    fs::write(folder.path().join("model.json"), text.replace("b.bin", "../b.bin")).unwrap();
    assert_eq!(
        convert(&recipe("x", "after")),
        "cannot read M: the shard ../b.bin lies outside the model's folder"
    );
    fs::write(folder.path().join("model.json"), "{}").unwrap();
    assert!(convert(&recipe("x", "after")).starts_with("cannot read M: not a TensorFlow.js graph model: "));
}
