use super::*;
use crate::model::onnx::{OperatorSetIdProto, ValueInfoProto};

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        input: inputs.iter().map(|i| (*i).into()).collect(),
        output: vec![output.into()],
        ..Default::default()
    }
}

fn weight(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(data_type::FLOAT),
        dims: dims.to_vec(),
        float_data: values.to_vec(),
        ..Default::default()
    }
}

fn model(opset: i64, nodes: Vec<NodeProto>, output: &str) -> ModelProto {
    let end = |name: &str| ValueInfoProto { name: Some(name.into()), ..Default::default() };
    let weights =
        [("w", 0.5f32), ("w2", -2.0)].map(|(name, v)| weight(name, &[2, 2, 1, 1], &[v, 0.1, -0.2, 4.0 * v]));
    ModelProto {
        ir_version: Some(7),
        opset_import: vec![OperatorSetIdProto { version: Some(opset), ..Default::default() }],
        graph: Some(GraphProto {
            node: nodes,
            initializer: [&weights[..], &[weight("b", &[2], &[1.0, -3.0])]].concat(),
            input: vec![end("x")],
            output: vec![end(output)],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// conv → relu → pool → conv → sigmoid
fn usual() -> ModelProto {
    let nodes = vec![
        node("Conv", &["x", "w", "b"], "c"),
        node("Relu", &["c"], "r"),
        node("MaxPool", &["r"], "p"),
        node("Conv", &["p", "w2"], "last"),
        node("Sigmoid", &["last"], "y"),
    ];
    model(13, nodes, "y")
}

fn graph(model: &ModelProto) -> &GraphProto {
    model.graph.as_ref().unwrap()
}

fn quantised(mut model: ModelProto) -> ModelProto {
    let plan = plan(&model).unwrap();
    let ranges = plan.points.iter().map(|p| (p.clone(), (-1.0, 3.0))).collect();
    apply(&mut model, &plan, &ranges).unwrap();
    model
}

fn reads(model: &ModelProto, output: &str) -> Vec<String> {
    graph(model).node.iter().find(|n| n.output[0] == output).unwrap().input.clone()
}

fn held<'a>(model: &'a ModelProto, name: &str) -> &'a TensorProto {
    graph(model).initializer.iter().find(|t| t.name() == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn what_comes_last_stays_in_floats() {
    let plan = plan(&usual()).unwrap();
    assert_eq!(plan.weighted, (1, 2));
    assert_eq!(plan.points, ["x", "r", "p"], "not `c`, which only goes through its bound");
    let model = quantised(usual());
    assert_eq!(reads(&model, "c"), ["x/f", "c/weight/f", "c/bias/f"]);
    assert_eq!(reads(&model, "last"), ["p/f", "w2"]);
    assert_eq!(reads(&model, "y"), ["last"]);
    assert!(graph(&model).initializer.iter().all(|t| t.name() != "w"), "the old weights are gone");
}

#[test]
fn what_is_only_moved_keeps_its_scale() {
    let mut model = usual();
    let plan = plan(&model).unwrap();
    // The pool's own range would be another.
    let ranges = [("x", (-1.0, 1.0)), ("r", (0.0, 5.1)), ("p", (0.0, 2.0))].map(|(n, r)| (n.to_owned(), r));
    apply(&mut model, &plan, &HashMap::from(ranges)).unwrap();
    for name in ["r/scale", "p/scale"] {
        assert_eq!(held(&model, name).raw_data(), 0.02f32.to_le_bytes());
    }
}

#[test]
fn weights_have_seven_bits_a_channel_and_biases_the_scale_of_both() {
    let model = quantised(usual());
    let codes: Vec<i8> = held(&model, "c/weight/q").raw_data().iter().map(|b| *b as i8).collect();
    // Channels [0.5, 0.1] and [-0.2, 2.0], each on 64.
    assert_eq!(codes, [64, 13, -6, 64]);
    let bias: Vec<i32> = (held(&model, "c/bias/q").raw_data().as_chunks::<4>().0.iter())
        .map(|b| i32::from_le_bytes(*b))
        .collect();
    let step = |largest: f32| (4.0 / 255.0) * (largest / 64.0);
    assert_eq!(bias, [(1.0 / step(0.5)).round() as i32, (-3.0 / step(2.0)).round() as i32]);
}

#[test]
fn zero_is_exact_whatever_the_range() {
    let mut model = usual();
    let plan = plan(&model).unwrap();
    let ranges = plan.points.iter().map(|p| (p.clone(), (1.0, 3.0))).collect();
    apply(&mut model, &plan, &ranges).unwrap();
    assert_eq!(held(&model, "x/zero").raw_data(), [0]);
    assert_eq!(held(&model, "x/scale").raw_data(), (3.0f32 / 255.0).to_le_bytes());
}

#[test]
fn numbers_that_are_shapes_stay_what_they_are() {
    let nodes = vec![
        node("Shape", &["x"], "shape"),
        node("Concat", &["shape"], "shape2"),
        node("Conv", &["x", "w"], "c"),
        node("Reshape", &["c", "shape2"], "r"),
        node("Conv", &["r", "w2"], "y"),
    ];
    assert_eq!(plan(&model(13, nodes, "y")).unwrap().points, ["x", "c", "r"]);
}

#[test]
fn refusals_say_what_to_do() {
    let why = |model: &ModelProto| plan(model).unwrap_err().to_string();
    let softmax =
        vec![node("Conv", &["x", "w"], "c"), node("Softmax", &["c"], "s"), node("Conv", &["s", "w2"], "y")];
    says(&why(&model(11, softmax, "y")), "operator set is 11");
    says(&why(&model(13, vec![node("Conv", &["x", "w"], "y")], "y")), "no convolution");
    says(&why(&quantised(usual())), "quantised already");
}

fn says(text: &str, part: &str) {
    assert!(text.contains(part), "{text}");
}
