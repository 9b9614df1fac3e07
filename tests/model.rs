//! Model files as an operator meets them: manifests, inspection, freeing a batch, conversion.
//!
//! Networks from elsewhere lie in ../shared/data/models and are skipped out loud when absent, as is whatever needs ONNX
//! Runtime when none is found.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers outside of #[test] functions use them too

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use prost::Message;
use weir::device::software::session::{Runtime, Session, load_runtime};
use weir::flow::detect::{Detector, OutputShape};
use weir::model::inspect::{Axis, Report, inspect};
use weir::model::manifest::{Manifest, find};
use weir::model::onnx::{
    AttributeProto, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorType, TypeProto, TypeValue, ValueInfoProto,
};
use weir::model::prepare::prepare;
use weir::model::spec::Family;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A network that was put beside the project, if it is there.
fn shared(name: &str) -> Option<PathBuf> {
    let path = root().join("../shared/data/models").join(name);
    if !path.is_file() {
        println!("SKIPPED: {} is not here", path.display());
        return None;
    }
    Some(path)
}

/// ONNX Runtime, once a process, if it is installed.
fn runtime() -> Option<&'static Runtime> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| load_runtime(None).map_err(|e| println!("SKIPPED: {e}")).ok());
    if runtime.is_none() {
        println!("SKIPPED: no ONNX Runtime");
    }
    runtime.as_ref()
}

// === Graphs made by hand ===

fn ends(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |&d: &i64| Dimension {
        value: Some(if d < 0 { DimensionValue::Param("n".into()) } else { DimensionValue::Value(d) }),
        denotation: None,
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let value = Some(TypeValue::Tensor(TensorType { elem_type: Some(1), shape }));
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value, denotation: None }),
        ..Default::default()
    }
}

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: Some(format!("{}_{output}", op.to_lowercase())),
        input: inputs.iter().map(|&i| i.into()).collect(),
        output: vec![output.into()],
        attribute,
        ..Default::default()
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(2), i: Some(i), ..Default::default() }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(7), ints: ints.to_vec(), ..Default::default() }
}

fn floats(name: &str, dims: &[i64], float_data: Vec<f32>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(1),
        dims: dims.to_vec(),
        float_data,
        ..Default::default()
    }
}

fn int64s(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(7),
        dims: vec![values.len() as i64],
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

fn model(
    input: Vec<ValueInfoProto>,
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    output: ValueInfoProto,
) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(13) }],
        graph: Some(GraphProto {
            name: Some("g".into()),
            node,
            initializer,
            input,
            output: vec![output],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// One picture of 3×4×4, passed through `node`s.
fn small(node: Vec<NodeProto>, initializer: Vec<TensorProto>, output: &[i64]) -> ModelProto {
    model(vec![ends("x", &[1, 3, 4, 4])], node, initializer, ends("y", output))
}

// === Manifests ===

#[test]
fn every_manifest_loads_and_is_named_as_its_folder() {
    let mut count = 0;
    for entry in fs::read_dir(root().join("models")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let manifest = Manifest::load(&folder.join("model.toml")).unwrap_or_else(|e| panic!("{}", e[0]));
        assert_eq!(manifest.spec.name, folder.file_name().unwrap().to_str().unwrap());
        assert!(!manifest.licence.is_empty() && !manifest.description.is_empty(), "{folder:?}");
        assert!(manifest.source.is_some(), "{folder:?}");
        assert!(!manifest.licence.contains("AGPL"), "{folder:?}: never a default");
        count += 1;
    }
    assert!(count >= 7, "{count} manifests");
}

const GOOD: &str = r#"
[model]
name = "a"
labels = ["x"]
[input]
name = "images"
width = 8
height = 8
[output]
family = "yolox"
"#;

#[test]
fn a_bad_manifest_is_refused_with_every_problem() {
    let sha = "0".repeat(64);
    let npm = format!(
        "\n[source]\nkind = \"npm\"\npackage = \"p\"\nversion = \"1\"\ntarball_sha256 = \"{sha}\"\nfiles = [\"m.json\"]\nsha256 = \"{sha}\"\n"
    );
    let recipe = "[source.convert]\nkind = \"tfjs\"\n";
    let good = GOOD.to_owned();
    for (text, expected) in [
        (
            good.replace("\"a\"", "\"A b\"").replace("width = 8", "width = 0\nstd = [1, 0, 1]"),
            "m: [model] name = \"A b\": must be 1 to 64 of a-z 0-9 _ -\n\
             m: [input] width = 0: must be within 1..=8192 pixels\n\
             m: [input] std: divides, so it must be numbers other than 0",
        ),
        (
            good.replace("[\"x\"]", "\"coco-81\""),
            "m: [model] labels: no built-in set `coco-81` (there are coco-80, coco-91)",
        ),
        (good.replace("[\"x\"]", "[\"\"]"), "m: [model] labels: at least one class needs a name"),
        (good.clone() + "nms_iou = 1.5\n", "m: [output] nms_iou = 1.5: must be within 0..=1"),
        (
            good.clone() + "\n[source]\nkind = \"url\"\nversion = \"1\"\nsha256 = \"ABC\"\n",
            "m: [source] url is missing, kind = \"url\" needs it\n\
             m: [source] version means nothing with kind = \"url\"\n\
             m: [source] sha256: must be 64 lower-case hex digits",
        ),
        (
            good.clone() + &npm.replace("m.json", "../m.json").replace("version = \"1\"\n", ""),
            "m: [source] version is missing, kind = \"npm\" needs it\n\
             m: [source] files: `../m.json` must be a plain relative path",
        ),
        (
            good.clone()
                + &npm
                + recipe
                + "inputs = [{ from = \"i\", name = \"x\", shape = [1, 8] }]\noutputs = []\n",
            "m: [source] convert.outputs: must be at least one\n\
             m: [source] convert.inputs: the shape of i must be -1, then sizes",
        ),
        (
            good.replace("width = 8", "widht = 8"),
            "m: TOML parse error at line 7, column 1\n  |\n7 | widht = 8\n  | ^^^^^\n\
             unknown field `widht`, expected one of `name`, `width`, `height`, `layout`, `channels`, `resize`, `pad`, `mean`, `std`\n",
        ),
    ] {
        let faults = Manifest::parse(&text, "m").unwrap_err();
        let have = faults.iter().map(|f| f.message.as_str()).collect::<Vec<_>>().join("\n");
        assert_eq!(have, expected, "\n{text}");
    }
    assert!(Manifest::parse(&good, "m").is_ok(), "the base of the table is good");
    assert!(Manifest::parse(&(good + &npm), "m").is_ok(), "so is its source");
}

#[test]
fn an_unknown_model_name_is_answered_with_the_near_ones() {
    let dir = root().join("models");
    assert_eq!(find("coco-ssd", &[&dir]).unwrap().spec.output.family, Family::Ssd);
    let fault = find("yolox_nano", &[&dir]).unwrap_err().remove(0);
    assert_eq!(fault.message, "no model is called `yolox_nano`");
    assert_eq!(
        fault.remedy,
        "did you mean `yolox-nano`? there are: coco-ssd, fastestdet, nanodet, yolox-m, yolox-nano, yolox-s, yolox-tiny"
    );
}

#[test]
fn the_hash_of_the_model_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.onnx");
    fs::write(&file, b"abc").unwrap();
    let source = |sha: &str| {
        format!("{GOOD}\n[source]\nkind = \"url\"\nurl = \"https://h/m.onnx\"\nsha256 = \"{sha}\"\n")
    };
    // FIPS 180-2, appendix B.1.
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert!(Manifest::parse(&source(abc), "m").unwrap().verify(&file).is_ok());
    let other = "0".repeat(64);
    let fault = Manifest::parse(&source(&other), "m").unwrap().verify(&file).unwrap_err();
    let path = file.display();
    assert_eq!(
        fault.message,
        format!(
            "{path} is not the file that the manifest of `a` names: its SHA-256 is {abc}, expected {other}"
        )
    );
}

// === What is not a model ===

#[test]
fn bad_files_are_refused_in_plain_words() {
    let dir = tempfile::tempdir().unwrap();
    let whole = small(vec![node("Relu", &["x"], "y", vec![])], vec![], &[1, 3, 4, 4]).encode_to_vec();
    let two = model(
        vec![ends("image", &[1, 3, 4, 4]), ends("size", &[1, 2])],
        vec![node("Relu", &["image"], "y", vec![])],
        vec![],
        ends("y", &[1, 3, 4, 4]),
    );
    let weight = TensorProto {
        data_location: Some(1),
        external_data: vec![StringStringEntryProto {
            key: Some("location".into()),
            value: Some("big.onnx.data".into()),
        }],
        ..floats("w", &[3, 3, 1, 1], vec![])
    };
    let external = small(vec![node("Conv", &["x", "w"], "y", vec![])], vec![weight], &[1, 3, 4, 4]);
    let no_input = model(vec![], vec![], vec![], ends("y", &[1]));
    let table: [(&str, Vec<u8>, &str); 12] = [
        (
            "paper.pdf",
            b"%PDF-1.7\n%\xe2\xe3".to_vec(),
            "D/paper.pdf is not an ONNX model: it is a PDF document",
        ),
        ("empty.onnx", vec![], "the model D/empty.onnx is empty"),
        (
            "cut.onnx",
            whole[..whole.len() - 5].to_vec(),
            "the model D/cut.onnx is cut short: it has CUT bytes and needs GRAPH or more",
        ),
        ("text.onnx", b"hello, world".to_vec(), "D/text.onnx is not an ONNX model: "),
        (
            "lfs.onnx",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec(),
            "D/lfs.onnx is not an ONNX model: it is a Git LFS pointer: the repository was cloned without `git lfs pull`",
        ),
        (
            "net.pt",
            b"PK\x03\x04rest".to_vec(),
            "D/net.pt is not an ONNX model: it is a zip archive; PyTorch's .pt files are such: export it to ONNX first",
        ),
        (
            "model.json",
            b"{\"modelTopology\": {}}".to_vec(),
            "D/model.json is not an ONNX model: it is a JSON file; TensorFlow.js models are such: see `weir model convert`",
        ),
        (
            "net.tflite",
            b"\x1c\0\0\0TFL3\0\0".to_vec(),
            "D/net.tflite is not an ONNX model: it is a TensorFlow Lite model: export it to ONNX first",
        ),
        ("bare.onnx", vec![0x08, 0x08], "D/bare.onnx is not an ONNX model: it holds no graph"),
        (
            "two.onnx",
            two.encode_to_vec(),
            "the model D/two.onnx has 2 inputs, `image`, `size`: a detector has one, the picture",
        ),
        ("none.onnx", no_input.encode_to_vec(), "the model D/none.onnx has no input"),
        (
            "big.onnx",
            external.encode_to_vec(),
            "the model D/big.onnx keeps its weights in another file, `big.onnx.data`",
        ),
    ];
    for (name, bytes, expected) in table {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let message = inspect(&path).unwrap_err().message.replace(dir.path().to_str().unwrap(), "D");
        let expected = expected.replace("CUT", &(whole.len() - 5).to_string());
        // The graph ends 4 bytes before the end; the operator set follows.
        let expected = expected.replace("GRAPH", &(whole.len() - 4).to_string());
        if name == "text.onnx" {
            // The rest is prost's.
            assert!(message.starts_with(&expected), "{message}");
        } else {
            assert_eq!(message, expected);
        }
    }
    let message = inspect(dir.path()).unwrap_err().message;
    assert_eq!(message, format!("the model {} is a folder", dir.path().display()));
    let message = inspect(&dir.path().join("gone.onnx")).unwrap_err().message;
    assert!(message.starts_with("cannot read the model ") && message.contains("gone.onnx: "), "{message}");
}

/// Initialisers that old files list among the inputs are no inputs.
#[test]
fn listed_weights_are_not_counted_as_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old.onnx");
    let mut old = model(
        vec![ends("x", &[1, 3, 4, 4]), ends("w", &[3, 3, 1, 1])],
        vec![node("Conv", &["x", "w"], "y", vec![])],
        vec![floats("w", &[3, 3, 1, 1], vec![0.5; 9])],
        ends("y", &[1, 3, 4, 4]),
    );
    old.ir_version = Some(3);
    fs::write(&path, old.encode_to_vec()).unwrap();
    let report = inspect(&path).unwrap();
    assert_eq!((report.input.name.as_str(), report.parameters), ("x", 9));
}

// === Inspection ===

/// The printed model.toml loads, and its detector accepts the graph's outputs.
fn usable(report: &Report) -> Manifest {
    let guess = report.guess.as_ref().unwrap();
    let manifest =
        Manifest::parse(&guess.toml, "guess").unwrap_or_else(|e| panic!("{}\n{}", e[0], guess.toml));
    let outputs: Vec<OutputShape> = (report.outputs.iter())
        .map(|o| OutputShape::whole(&o.name, &o.dims.iter().map(Axis::fixed).collect::<Vec<_>>()))
        .collect();
    Detector::new(&manifest.spec, &outputs).unwrap_or_else(|e| panic!("{e}\n{}", guess.toml));
    manifest
}

#[test]
fn yolox_and_fastestdet_are_recognised() {
    for (file, family, ours) in [
        ("yolox_nano.onnx", Family::Yolox, "yolox-nano"),
        ("fastestdet.onnx", Family::FastestDet, "fastestdet"),
    ] {
        let Some(path) = shared(file) else { continue };
        let report = inspect(&path).unwrap();
        assert_eq!(report.guess.as_ref().unwrap().family, family);
        assert_eq!(report.fixed_batch(), Some(1));
        let guessed = usable(&report).spec;
        let known = find(ours, &[&root().join("models")]).unwrap().spec;
        assert_eq!(guessed.input, known.input, "{file}: the guess is our own manifest");
        assert_eq!(guessed.labels, known.labels);
        assert_eq!(guessed.output.names, known.output.names);
    }
}

#[test]
fn the_report_says_what_a_file_is() {
    let Some(path) = shared("yolox_nano.onnx") else { return };
    let text = inspect(&path).unwrap().to_string();
    let head: String = text.lines().take(6).map(|l| l.to_owned() + "\n").collect();
    assert_eq!(
        head,
        "yolox_nano.onnx: ONNX, IR 7, opset 11, made by pytorch 1.10\n  \
         size    3.7 MB, 0.90 M parameters, 369 nodes\n  \
         input   images float32 [1, 3, 416, 416]\n  \
         output  output float32 [1, 3549, 85]\n  \
         batch   fixed at 1; `weir model prepare` frees it\n  \
         family  yolox: 3549 = the cells of strides 8, 16, 32 over 416×416, rows of 85 = 5 + 80\n"
    );
}

/// Shapes of published exports of each family (sizes: COCO nets at 640 or 320; −1 is a free batch).
#[test]
fn each_family_is_guessed_from_the_shapes_of_its_exports() {
    let picture = [1, 3, 640, 640];
    type Ends = Vec<(&'static str, Vec<i64>)>;
    let table: Vec<(&str, [i64; 4], Ends, Family)> = vec![
        ("yolov8n", picture, vec![("output0", vec![1, 84, 8400])], Family::Yolov8),
        ("yolo11 of 3 classes", [-1, 3, 640, 640], vec![("o", vec![-1, 7, 8400])], Family::Yolov8),
        ("yolov8 transposed", picture, vec![("o", vec![1, 8400, 84])], Family::Yolov8),
        ("yolov5s", picture, vec![("output0", vec![1, 25200, 85])], Family::Yolov5),
        ("yolox-s", picture, vec![("output", vec![1, 8400, 85])], Family::Yolox),
        ("yolov10n", picture, vec![("output0", vec![1, 300, 6])], Family::EndToEnd),
        (
            "rtdetr",
            picture,
            vec![("logits", vec![1, 300, 80]), ("pred_boxes", vec![1, 300, 4])],
            Family::Detr,
        ),
        (
            "coco-ssd",
            [-1, 3, 300, 300],
            vec![("scores", vec![-1, 1917, 90]), ("boxes", vec![-1, 1917, 4])],
            Family::Ssd,
        ),
        (
            "boxes first",
            [-1, 300, 300, 3],
            vec![("b", vec![-1, 1917, 1, 4]), ("s", vec![-1, 1917, 90])],
            Family::Ssd,
        ),
        ("nanodet-plus", [1, 3, 320, 320], vec![("output", vec![1, 2125, 112])], Family::NanoDet),
        (
            "nanodet, mixed",
            [1, 3, 320, 320],
            vec![
                ("reg32", vec![1, 100, 44]),
                ("cls8", vec![1, 1600, 80]),
                ("reg8", vec![1, 1600, 44]),
                ("cls16", vec![1, 400, 80]),
                ("reg16", vec![1, 400, 44]),
                ("cls32", vec![1, 100, 80]),
            ],
            Family::NanoDet,
        ),
        ("fastestdet", [1, 3, 352, 352], vec![("758", vec![1, 85, 22, 22])], Family::FastestDet),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, input, outputs, family) in table {
        let mut net = model(vec![ends("images", &input)], vec![], vec![], ends("", &[]));
        net.graph.as_mut().unwrap().output = outputs.iter().map(|(n, dims)| ends(n, dims)).collect();
        let path = dir.path().join("net.onnx");
        fs::write(&path, net.encode_to_vec()).unwrap();
        let report = inspect(&path).unwrap();
        assert_eq!(report.guess.as_ref().map(|g| g.family), Ok(family), "{name}");
        assert_eq!(report.fixed_batch(), (input[0] > 0).then_some(1), "{name}");
        let spec = usable(&report).spec;
        if name == "nanodet, mixed" {
            assert_eq!(spec.output.names, ["cls8", "cls16", "cls32", "reg8", "reg16", "reg32"]);
        }
    }
}

#[test]
fn a_network_of_no_family_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("classifier.onnx");
    let net = model(vec![ends("x", &[1, 3, 224, 224])], vec![], vec![], ends("y", &[1, 1000]));
    fs::write(&path, net.encode_to_vec()).unwrap();
    let report = inspect(&path).unwrap();
    assert_eq!(
        report.guess.unwrap_err(),
        "its shape after the batch is [Some(1000)]; strides 8, 16, 32 over 224×224 have 1029 cells, and 64 with them 1045"
    );
}

// === Freeing the batch ===

fn prepared(net: &ModelProto, runtime: &Runtime) -> (Result<Vec<String>, String>, Option<ModelProto>) {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.onnx"), dir.path().join("out.onnx"));
    fs::write(&input, net.encode_to_vec()).unwrap();
    let result = prepare(&input, &output, runtime);
    let written = fs::read(&output).ok().map(|b| ModelProto::decode(&b[..]).unwrap());
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 1 + usize::from(written.is_some()), "{left:?}");
    let d = dir.path().display().to_string();
    (result.map(|p| p.edit.changed).map_err(|e| e.message.replace(&d, "D")), written)
}

#[test]
fn real_networks_are_freed_and_stay_the_same() {
    let Some(runtime) = runtime() else { return };
    for (file, least) in [("yolox_nano.onnx", 3), ("fastestdet.onnx", 13)] {
        let Some(path) = shared(file) else { continue };
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("free.onnx");
        let done = prepare(&path, &out, runtime).unwrap_or_else(|e| panic!("{e}"));
        println!("{done}");
        assert!(done.edit.changed.len() >= least, "{:?}", done.edit);
        let report = inspect(&out).unwrap();
        assert_eq!(report.fixed_batch(), None);
        assert_eq!(report.outputs[0].dims[0], Axis::Free("batch".into()));
        // The ladder's other rungs.
        let shape: Vec<usize> = report.input.dims.iter().skip(1).map(|d| d.fixed().unwrap()).collect();
        let mut session = Session::open(runtime, file, &fs::read(&out).unwrap(), 0).unwrap();
        for batch in [1, 2, 8] {
            let zeros = vec![0.5; batch * shape.iter().product::<usize>()];
            let outputs = session.run(&report.input.name, &[&[batch], &shape[..]].concat(), &zeros).unwrap();
            assert!(!outputs.view(0, batch - 1).data.is_empty());
            assert!(outputs.view(0, batch).data.is_empty());
        }
    }
}

#[test]
fn shapes_with_the_batch_baked_in_are_freed() {
    let Some(runtime) = runtime() else { return };
    let cases: Vec<(&str, ModelProto, Vec<&str>)> = vec![
        (
            "a −1 behind the batch",
            small(
                vec![node("Reshape", &["x", "s"], "y", vec![])],
                vec![int64s("s", &[1, 3, -1])],
                &[1, 3, 16],
            ),
            vec!["Reshape node `reshape_y`"],
        ),
        (
            "no −1",
            small(vec![node("Reshape", &["x", "s"], "y", vec![])], vec![int64s("s", &[1, 48])], &[1, 48]),
            vec!["Reshape node `reshape_y`"],
        ),
        (
            "resize to sizes",
            small(
                vec![node("Resize", &["x", "", "", "s"], "y", vec![])],
                vec![int64s("s", &[1, 3, 8, 8])],
                &[1, 3, 8, 8],
            ),
            vec!["Resize node `resize_y`"],
        ),
        (
            "shuffled channels",
            small(
                vec![
                    node("Reshape", &["x", "s"], "a", vec![]),
                    node("Transpose", &["a"], "b", vec![ints("perm", &[1, 0, 2])]),
                    node("Reshape", &["b", "t"], "c", vec![]),
                    node("Gather", &["c", "one"], "y", vec![]),
                ],
                vec![
                    int64s("s", &[3, 2, 8]),
                    int64s("t", &[2, -1, 3, 8]),
                    TensorProto { dims: vec![], ..int64s("one", &[1]) },
                ],
                &[1, 3, 8],
            ),
            vec!["Reshape node `reshape_a`"],
        ),
        ("nothing baked", small(vec![node("Relu", &["x"], "y", vec![])], vec![], &[1, 3, 4, 4]), vec![]),
    ];
    for (name, net, changed) in cases {
        let (result, written) = prepared(&net, runtime);
        assert_eq!(result, Ok(changed.iter().map(|&c| c.to_owned()).collect()), "{name}");
        assert!(written.is_some(), "{name}");
    }
}

#[test]
fn a_shape_that_two_nodes_share_is_changed_for_the_one_that_needs_it() {
    let Some(runtime) = runtime() else { return };
    // The weights are reshaped by the same constant as the picture; theirs must stay.
    let net = small(
        vec![
            node("Reshape", &["w", "s"], "v", vec![]),
            node("Reshape", &["x", "s"], "a", vec![]),
            node("Mul", &["a", "v"], "y", vec![]),
        ],
        vec![floats("w", &[3, 16], (0..48).map(|i| i as f32).collect()), int64s("s", &[1, 3, -1])],
        &[1, 3, 16],
    );
    let (result, written) = prepared(&net, runtime);
    assert_eq!(result.unwrap().len(), 1);
    let graph = written.unwrap().graph.unwrap();
    assert_eq!(graph.node[0].input[1], "s");
    assert_ne!(graph.node[1].input[1], "s");
}

#[test]
fn what_cannot_be_freed_is_refused_by_name_and_nothing_is_written() {
    let Some(runtime) = runtime() else { return };
    let ones = |name: &str| floats(name, &[1, 3, 4, 4], vec![1.0; 48]);
    let cases: Vec<(ModelProto, &str)> = vec![
        (
            small(vec![node("Squeeze", &["x", "zero"], "y", vec![])], vec![int64s("zero", &[0])], &[1, 4, 4]),
            "cannot free the batch of D/in.onnx: Squeeze node `squeeze_y` removes the batch dimension",
        ),
        (
            small(
                vec![node("Concat", &["x", "c"], "y", vec![int("axis", 1)])],
                vec![ones("c")],
                &[1, 6, 4, 4],
            ),
            "cannot free the batch of D/in.onnx: Concat node `concat_y` joins the constant `c` to each of the 1 frames",
        ),
        (
            model(
                vec![ends("x", &[-1, 3, 4, 4])],
                vec![node("Relu", &["x"], "y", vec![])],
                vec![],
                ends("y", &[-1, 3, 4, 4]),
            ),
            "cannot free the batch of D/in.onnx: the batch is free already: there is nothing to do",
        ),
        // Frames that see each other.
        (
            small(
                vec![
                    node("ReduceMean", &["x"], "m", vec![ints("axes", &[0]), int("keepdims", 1)]),
                    node("Add", &["x", "m"], "y", vec![]),
                ],
                vec![],
                &[1, 3, 4, 4],
            ),
            "cannot free the batch of D/in.onnx: the edited graph fails the proof: output `y` differs by ",
        ),
        // Only the first frame is looked at.
        (
            small(
                vec![
                    node("Gather", &["x", "zero"], "a", vec![int("axis", 0)]),
                    node("Mul", &["x", "none"], "b", vec![]),
                    node("Add", &["a", "b"], "y", vec![]),
                ],
                vec![int64s("zero", &[0]), floats("none", &[1], vec![0.0])],
                &[1, 3, 4, 4],
            ),
            "cannot free the batch of D/in.onnx: the edited graph fails the proof: output `y` differs by ",
        ),
        // The picture does not matter.
        (
            small(
                vec![node("Mul", &["x", "none"], "y", vec![])],
                vec![floats("none", &[1], vec![0.0])],
                &[1, 3, 4, 4],
            ),
            "cannot free the batch of D/in.onnx: the edited graph fails the proof: all random pictures give the same \
             outputs, so that equality shows nothing",
        ),
    ];
    for (net, expected) in cases {
        let (result, written) = prepared(&net, runtime);
        let message = result.unwrap_err();
        assert!(message.starts_with(expected), "{message}\n{expected}");
        assert_eq!(written, None, "{expected}");
    }
}

/// A file with fields of the future would lose them: refused.
#[test]
fn unknown_fields_are_not_lost_silently() {
    let Some(runtime) = runtime() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("future.onnx");
    let mut bytes = small(vec![node("Relu", &["x"], "y", vec![])], vec![], &[1, 3, 4, 4]).encode_to_vec();
    bytes.extend([0xf2, 0x06, 2, b'h', b'i']); // field 110, two bytes
    fs::write(&path, bytes).unwrap();
    let message = prepare(&path, &dir.path().join("out.onnx"), runtime).unwrap_err().message;
    assert!(message.contains("has 5 bytes of fields that this version does not know"), "{message}");
}

/// Every file that is at hand comes out of our messages as it went in.
#[test]
fn nothing_of_a_real_file_is_lost() {
    for file in ["yolox_nano.onnx", "fastestdet.onnx"] {
        let Some(path) = shared(file) else { continue };
        let bytes = fs::read(path).unwrap();
        let again = ModelProto::decode(&bytes[..]).unwrap().encode_to_vec();
        assert_eq!(again.len(), bytes.len(), "{file}");
    }
}
