//! Reading an `.onnx` file, and saying what it is when it is none.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::onnx::{EXTERNAL, GraphProto, ModelProto, ValueInfoProto};
use crate::fault::{Fault, Who};

/// Protobuf's own limit.
const MAX_BYTES: u64 = i32::MAX as u64;

/// First bytes of what people hand over by mistake: offset, bytes, what it is.
const LOOKALIKES: [(usize, &[u8], &str); 12] = [
    (0, b"%PDF", "a PDF document"),
    (0, b"version https://git-lfs", "a Git LFS pointer: the repository was cloned without `git lfs pull`"),
    (0, b"PK\x03\x04", "a zip archive; PyTorch's .pt files are such: export it to ONNX first"),
    (4, b"TFL3", "a TensorFlow Lite model: export it to ONNX first"),
    (0, b"\x89HDF", "an HDF5 file, perhaps of Keras: export it to ONNX first"),
    (0, b"\x1f\x8b", "a gzip archive: unpack it first"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"<!DOCTYPE", "a web page: the download went wrong"),
    (0, b"<html", "a web page: the download went wrong"),
    (0, b"<?xml", "an XML file, perhaps of OpenVINO"),
    (0, b"{", "a JSON file; TensorFlow.js models are such: see `weir model convert`"),
];

/// Reads a model of one picture input, with its weights inside.
///
/// # Errors
/// Each names the file, what is wrong with it and what to do.
pub fn read(path: &Path) -> Result<ModelProto, Fault> {
    let name = path.display();
    let io = |e: std::io::Error| not_a_model(format!("cannot read the model {name}: {e}"));
    let meta = fs::metadata(path).map_err(io)?;
    if meta.is_dir() {
        return Err(not_a_model(format!("the model {name} is a folder")).remedy("name the .onnx file in it"));
    }
    if meta.len() > MAX_BYTES {
        let size = meta.len();
        return Err(not_a_model(format!("the model {name} has {size} bytes, more than an ONNX file can")));
    }
    parse(&fs::read(path).map_err(io)?, &name.to_string())
}

/// The same from bytes; `name` is for messages.
pub fn parse(bytes: &[u8], name: &str) -> Result<ModelProto, Fault> {
    const EXPORT: &str = "a model comes as an .onnx file; `weir model inspect FILE` says what a file is";
    if bytes.is_empty() {
        return Err(not_a_model(format!("the model {name} is empty")).remedy("fetch or export it again"));
    }
    for (offset, magic, what) in LOOKALIKES {
        if bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic)) {
            return Err(not_a_model(format!("{name} is not an ONNX model: it is {what}")).remedy(EXPORT));
        }
    }
    if let Some(needed) = missing(bytes) {
        let have = bytes.len();
        return Err(not_a_model(format!(
            "the model {name} is cut short: it has {have} bytes and needs {needed} or more"
        ))
        .remedy("fetch or copy it again"));
    }
    let model = ModelProto::decode(bytes)
        .map_err(|e| not_a_model(format!("{name} is not an ONNX model: {e}")).remedy(EXPORT))?;
    let Some(graph) = &model.graph else {
        return Err(not_a_model(format!("{name} is not an ONNX model: it holds no graph")).remedy(EXPORT));
    };
    let outside = graph.initializer.iter().find(|t| t.data_location == Some(EXTERNAL));
    if let Some(tensor) = outside {
        let place = tensor.external_data.iter().find(|e| e.key() == "location").map_or("", |e| e.value());
        return Err(not_a_model(format!("the model {name} keeps its weights in another file, `{place}`"))
            .remedy(
                "put them inside: python -c \"import onnx; onnx.save(onnx.load('IN.onnx'), 'OUT.onnx')\"",
            ));
    }
    match inputs(graph).len() {
        1 => Ok(model),
        0 => Err(not_a_model(format!("the model {name} has no input"))),
        n => {
            let list = inputs(graph).iter().map(|i| format!("`{}`", i.name())).collect::<Vec<_>>().join(", ");
            Err(not_a_model(format!(
                "the model {name} has {n} inputs, {list}: a detector has one, the picture"
            ))
            .remedy("export it with the picture as its only input"))
        }
    }
}

/// The graph's inputs without the initialisers, which files of IR 3 and before list too.
pub fn inputs(graph: &GraphProto) -> Vec<&ValueInfoProto> {
    let weights: HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
    graph.input.iter().filter(|i| !weights.contains(i.name())).collect()
}

fn not_a_model(message: String) -> Fault {
    Fault::new(Who::Config, "bad_model", message)
}

/// How many bytes the file should have at least, when a field of the outermost message reaches past the end.
fn missing(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    while rest.has_remaining() {
        let (tag, wire) = decode_key(&mut rest).ok()?;
        if wire == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            if length > rest.len() {
                let needed = (bytes.len() - rest.len()).checked_add(length)?;
                // Only ModelProto's own fields speak of a model that was cut; other bytes are no model at all.
                return (bytes[0] == 0x08 && tag <= 26 && needed as u64 <= MAX_BYTES).then_some(needed);
            }
            rest = &rest[length..];
        } else {
            skip_field(wire, tag, &mut rest, DecodeContext::default()).ok()?;
        }
    }
    None
}
