//! What a graph leaves free and its user knows: the picture's size, and the batch of one run. Where only the batch is free, exporters write shapes
//! as numbers; where the size is too, they compute them in the graph, and engines do that on the CPU in each run. Told both, an engine does
//! it once, when it opens the model.

use prost::Message;

use super::onnx::{DimensionValue, TypeValue, ValueInfoProto};
use super::spec::InputSpec;

/// The symbols of the picture's dimensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Free {
    /// The batch's.
    batch: String,
    /// Those of its size, and what they stand for.
    sizes: Vec<(String, i64)>,
}

impl Free {
    /// What all of them stand for in batches of `frames`.
    pub fn at(&self, frames: usize) -> Vec<(String, i64)> {
        let batch = (self.batch.clone(), i64::try_from(frames).unwrap_or(i64::MAX));
        std::iter::once(batch).chain(self.sizes.iter().cloned()).collect()
    }
}

/// `ModelProto`, of which only this is read: weights are passed over, not copied.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(message, optional, tag = "7")]
    graph: Option<Inputs>,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, Message)]
struct Inputs {
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfoProto>,
}

/// The symbols of the picture's dimensions, if the batch has one and its size has at least one: `None` where nothing is to be told. A symbol
/// that would stand for two sizes, or for the batch too, is none; bytes that are no model have none: whoever opens them says so.
pub fn free(model: &[u8], input: &InputSpec) -> Option<Free> {
    let graph = Head::decode(model).ok()?.graph?;
    let value = graph.input.iter().find(|value| value.name() == input.name)?;
    let TypeValue::Tensor(tensor) = value.r#type.as_ref()?.value.as_ref()? else { return None };
    let (dims, wanted) = (&tensor.shape.as_ref()?.dim, input.dims(1));
    if dims.len() != wanted.len() {
        return None;
    }
    let symbol = |at: usize| match &dims[at].value {
        Some(DimensionValue::Param(name)) if !name.is_empty() => Some(name.as_str()),
        _ => None,
    };
    let mut free = Free { batch: symbol(0)?.to_owned(), sizes: Vec::new() };
    for (at, &size) in wanted.iter().enumerate().skip(1) {
        let Some(name) = symbol(at) else { continue };
        let one = (0..dims.len()).filter(|other| symbol(*other) == Some(name));
        if one.into_iter().all(|other| other > 0 && wanted[other] == size)
            && !free.sizes.iter().any(|(known, _)| known == name)
        {
            free.sizes.push((name.to_owned(), i64::try_from(size).ok()?));
        }
    }
    (!free.sizes.is_empty()).then_some(free)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::onnx::{Dimension, TensorShapeProto, TensorType, TypeProto};
    use crate::model::spec::{Channels, Layout, Resize};

    fn input() -> InputSpec {
        InputSpec {
            name: "images".into(),
            width: 640,
            height: 384,
            layout: Layout::Nchw,
            channels: Channels::Rgb,
            resize: Resize::Letterbox,
            pad: 114,
            mean: [0.0; 3],
            std: [1.0; 3],
        }
    }

    /// A graph with one input of these dimensions: a number is a size, a word a symbol, nothing a free one.
    fn graph(dims: [&str; 4]) -> Vec<u8> {
        let dim = dims.map(|dim| {
            let value = match dim.parse() {
                Ok(size) => Some(DimensionValue::Value(size)),
                Err(_) if dim.is_empty() => None,
                Err(_) => Some(DimensionValue::Param(dim.to_owned())),
            };
            Dimension { value, denotation: None }
        });
        let tensor = TensorType { elem_type: Some(1), shape: Some(TensorShapeProto { dim: dim.to_vec() }) };
        let input = ValueInfoProto {
            name: Some("images".into()),
            r#type: Some(TypeProto { value: Some(TypeValue::Tensor(tensor)), denotation: None }),
            ..ValueInfoProto::default()
        };
        Head { graph: Some(Inputs { input: vec![input] }) }.encode_to_vec()
    }

    #[test]
    fn only_what_is_named_and_means_one_size_is_told() {
        let told = |dims| {
            free(&graph(dims), &input()).map_or(String::new(), |free| {
                free.at(4).into_iter().map(|(name, size)| format!("{name}={size} ")).collect()
            })
        };
        assert_eq!(told(["batch", "3", "height", "width"]), "batch=4 height=384 width=640 ");
        assert_eq!(told(["n", "3", "", "w"]), "n=4 w=640 ");
        // Nothing but the batch is free; or that has no symbol, or is not free at all.
        assert_eq!(told(["n", "3", "384", "640"]), "");
        assert_eq!(told(["", "3", "h", "w"]), "");
        assert_eq!(told(["1", "3", "h", "w"]), "");
        // One symbol for two sizes, or for the batch as well.
        assert_eq!(told(["n", "3", "size", "size"]), "");
        assert_eq!(told(["w", "3", "h", "w"]), "w=4 h=384 ");
        assert_eq!(free(b"no model", &input()), None);
        assert_eq!(free(&graph(["n", "3", "h", "w"]), &InputSpec { name: "other".into(), ..input() }), None);
    }
}
