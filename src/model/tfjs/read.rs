//! A TensorFlow.js graph model on disk: `model.json` and its shards of weights.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path};

use serde::Deserialize;
use serde_json::Value as Json;

use super::value::{Const, Data, Dim};

/// Nothing that is a detector has more weights than this.
const MAX_WEIGHTS: u64 = 1 << 30;
const MAX_JSON: u64 = 256 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    model_topology: Topology,
    weights_manifest: Vec<Group>,
}

#[derive(Deserialize)]
struct Topology {
    node: Vec<Node>,
}

#[derive(Deserialize)]
struct Group {
    paths: Vec<String>,
    weights: Vec<Weight>,
}

#[derive(Deserialize)]
struct Weight {
    name: String,
    shape: Vec<i64>,
    dtype: String,
    quantization: Option<Quantization>,
}

/// Stored as `dtype`; value = stored · scale + min for integers.
#[derive(Deserialize)]
struct Quantization {
    dtype: String,
    #[serde(default = "one")]
    scale: f64,
    #[serde(default)]
    min: f64,
}

fn one() -> f64 {
    1.0
}

/// One node of the graph.
#[derive(Deserialize)]
pub struct Node {
    pub name: String,
    pub op: String,
    #[serde(default)]
    pub input: Vec<String>,
    #[serde(default)]
    attr: HashMap<String, Json>,
}

/// A graph in memory.
pub struct Graph {
    pub nodes: Vec<Node>,
    pub weights: HashMap<String, Const>,
}

impl Node {
    fn field(&self, name: &str, field: &str) -> Option<&Json> {
        self.attr.get(name)?.get(field)
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        number(self.field(name, "i")?)
    }

    pub fn float(&self, name: &str) -> Option<f32> {
        Some(self.field(name, "f")?.as_f64()? as f32)
    }

    pub fn bool(&self, name: &str) -> bool {
        self.field(name, "b").and_then(Json::as_bool).unwrap_or(false)
    }

    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        let list = self.field(name, "list")?.get("i").and_then(Json::as_array);
        Some(list.map(|l| l.iter().filter_map(number).collect()).unwrap_or_default())
    }

    /// Strings are base64, or lists of bytes.
    pub fn string(&self, name: &str) -> Option<String> {
        let bytes = match self.field(name, "s")? {
            Json::String(text) => base64(text)?,
            Json::Array(bytes) => bytes.iter().filter_map(|b| u8::try_from(b.as_u64()?).ok()).collect(),
            _ => return None,
        };
        String::from_utf8(bytes).ok()
    }

    /// Whether a type attribute is float32.
    pub fn is_float(&self, name: &str) -> bool {
        self.field(name, "type").is_some_and(|t| t == "DT_FLOAT" || number(t) == Some(1))
    }

    /// A placeholder's first dimension.
    pub fn declared_batch(&self) -> Option<i64> {
        number(self.field("shape", "shape")?.get("dim")?.get(0)?.get("size")?)
    }
}

/// Protobuf's JSON writes 64-bit integers as strings.
fn number(json: &Json) -> Option<i64> {
    json.as_i64().or_else(|| json.as_str()?.parse().ok())
}

/// RFC 4648 §4.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut have) = (0_u32, 0);
    for c in text.bytes().filter(|&c| c != b'=') {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    Some(out)
}

/// Reads `file` and the shards beside it.
pub fn read(file: &Path) -> Result<Graph, String> {
    let size = fs::metadata(file).map_err(|e| e.to_string())?.len();
    if size > MAX_JSON {
        return Err(format!("{size} bytes are too many for a model.json"));
    }
    let text = fs::read(file).map_err(|e| e.to_string())?;
    let parsed: File =
        serde_json::from_slice(&text).map_err(|e| format!("not a TensorFlow.js graph model: {e}"))?;
    let mut weights = HashMap::new();
    for group in &parsed.weights_manifest {
        let bytes = shards(file.parent().unwrap_or(Path::new("")), &group.paths)?;
        let mut rest = &bytes[..];
        for weight in &group.weights {
            let value = weight.decode(&mut rest).map_err(|e| format!("weight {}: {e}", weight.name))?;
            weights.insert(weight.name.clone(), value);
        }
        if !rest.is_empty() {
            return Err(format!(
                "{} bytes of weights are left over in {}",
                rest.len(),
                group.paths.join(", ")
            ));
        }
    }
    Ok(Graph { nodes: parsed.model_topology.node, weights })
}

fn shards(folder: &Path, paths: &[String]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for name in paths {
        if !Path::new(name).components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(format!("the shard {name} lies outside the model's folder"));
        }
        let path = folder.join(name);
        let size = fs::metadata(&path).map_err(|e| format!("shard {name}: {e}"))?.len();
        if bytes.len() as u64 + size > MAX_WEIGHTS {
            return Err(format!("more than {MAX_WEIGHTS} bytes of weights"));
        }
        bytes.extend(fs::read(&path).map_err(|e| format!("shard {name}: {e}"))?);
    }
    Ok(bytes)
}

impl Weight {
    fn decode(&self, rest: &mut &[u8]) -> Result<Const, String> {
        let stored = self.quantization.as_ref().map_or(self.dtype.as_str(), |q| q.dtype.as_str());
        let width = match stored {
            "float32" | "int32" => 4,
            "float16" | "uint16" => 2,
            "uint8" | "bool" => 1,
            other => return Err(format!("the type {other} is not supported")),
        };
        let count = self.shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?));
        let length = count.and_then(|n| n.checked_mul(width)).ok_or("has an impossible shape")?;
        let (own, after) = rest.split_at_checked(length).ok_or("the shards end before it")?;
        *rest = after;
        let q = self.quantization.as_ref().filter(|q| q.dtype != "float16");
        let (scale, min) = q.map_or((1.0, 0.0), |q| (q.scale, q.min));
        let raw = own.chunks_exact(width).map(|b| match (stored, b) {
            ("float32", &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
            ("int32", &[a, b, c, d]) => f64::from(i32::from_le_bytes([a, b, c, d])),
            ("float16", &[a, b]) => f64::from(half(u16::from_le_bytes([a, b]))),
            (_, &[a, b]) => f64::from(u16::from_le_bytes([a, b])),
            (_, b) => f64::from(b[0]),
        });
        let values = raw.map(|v| v * scale + min);
        let data = if self.dtype == "float32" {
            Data::F32(values.map(|v| v as f32).collect())
        } else {
            Data::Int(values.map(|v| Dim::fixed(v.round() as i64)).collect())
        };
        Ok(Const { dims: self.shape.iter().map(|&d| Dim::fixed(d)).collect(), data })
    }
}

/// IEEE 754 binary16 to binary32; exact.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2_f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        e => (1024.0 + fraction) * 2_f32.powi(e - 25),
    }
}

#[cfg(test)]
mod tests {
    use super::{Weight, base64, half};
    use crate::model::tfjs::value::Data;

    #[test]
    fn half_floats_are_exact() {
        for (bits, value) in [
            (0x3C00, 1.0),
            (0xC000, -2.0),
            (0x7BFF, 65504.0),
            (0x0001, 2_f32.powi(-24)),
            (0x3555, 0.333_251_95),
        ] {
            assert_eq!(half(bits), value, "{bits:#x}");
        }
        assert!(half(0x7C00).is_infinite() && half(0x7E00).is_nan());
    }

    #[test]
    fn strings_are_base64() {
        assert_eq!(base64("VkFMSUQ=").unwrap(), b"VALID");
        assert_eq!(base64("U0FNRQ==").unwrap(), b"SAME");
        assert_eq!(base64("not base64!"), None);
    }

    #[test]
    fn quantised_weights_are_stored_times_scale_plus_min() {
        let weight: Weight = serde_json::from_str(
            r#"{"name": "w", "shape": [2, 2], "dtype": "float32",
                "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1.0}}"#,
        )
        .unwrap();
        let mut rest: &[u8] = &[0, 1, 2, 255, 9];
        let Data::F32(values) = weight.decode(&mut rest).unwrap().data else { panic!("floats") };
        assert_eq!(values, [-1.0, -0.5, 0.0, 126.5]);
        assert_eq!(rest, [9], "the next weight starts here");
        assert!(weight.decode(&mut rest).unwrap_err().contains("the shards end"));
    }
}
