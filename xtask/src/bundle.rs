//! `cargo xtask bundle`: one folder that runs on a machine without GStreamer, and a `.tar.xz` of it.
//!
//! ```text
//! bin/weir                          searches ../lib/weir before the system (build.rs, src/bundle.rs)
//! lib/weir/*.so                     what it and the plugins link; never glibc or a driver: those are the machine's
//! lib/weir/gstreamer-1.0, gio       plugins
//! lib/weir/libonnxruntime.so        for the processor; for a GPU name another one in [infer] onnxruntime
//! lib/weir/openvino                 with --openvino: its plugin, for Intel processors
//! models, pipelines, weir.toml      as beside any configuration; weir.toml shows every key
//! systemd, licences                 the unit, and the terms of what is in lib/
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::cache::Cache;
use crate::proc::{Build, build_weir, execute, quiet, say, which};
use crate::{model, video, wheel};

/// How a folder is made.
pub struct Options {
    pub build: Build,
    /// Weights that go along.
    pub models: Vec<String>,
    /// OpenVINO's plugin goes along.
    pub openvino: bool,
    /// Run it where there is nothing else.
    pub check: bool,
    /// And pack it.
    pub pack: bool,
}

/// GStreamer's plugins, and what weir wants them for.
const PLUGINS: &[(&str, &str)] = &[
    ("coreelements", "files, queues"),
    ("app", "in and out of weir"),
    ("playback", "decodebin"),
    ("typefindfunctions", "what a file is"),
    ("rtsp", "cameras"),
    ("rtp", "cameras"),
    ("rtpmanager", "cameras"),
    ("udp", "cameras"),
    ("tcp", "cameras"),
    ("sdpelem", "cameras"),
    ("video4linux2", "USB cameras, encoders of small boards"),
    ("videoparsersbad", "access units"),
    ("libav", "software decoders"),
    ("jpeg", "cameras that send JPEG"),
    ("jpegformat", "cameras that send JPEG"),
    ("isomp4", "files"),
    ("matroska", "files"),
    ("avi", "files"),
    ("mpegtsdemux", "files"),
    ("videoconvertscale", "colours and sizes"),
    ("videorate", "pipelines of one's own"),
    ("videotestsrc", "test pattern, probe of the encoders"),
    ("x264", "encoder"),
    ("openh264", "encoder"),
    ("x265", "encoder"),
    ("nvcodec", "encoder on NVIDIA"),
    ("va", "encoder on Intel and AMD"),
    ("qsv", "encoder on Intel"),
];

/// TLS for cameras.
const GIO: &str = "libgiognutls.so";

/// The machine's own: glibc, whose parts belong together.
const SYSTEM: &[&str] =
    &["libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libresolv.so", "ld-linux"];

/// Half of the size for nothing: libav links voices for speech, tables for all languages, a codec for radio, linear algebra and an
/// SVG renderer, which no camera's video touches, and an AV1 encoder. In their place goes a library with the same names that does nothing.
const HOLLOW: &[&str] = &[
    "libcodec2.so",
    "libicudata.so",
    "libflite_cmu_us_awb.so",
    "libflite_cmu_us_kal.so",
    "libflite_cmu_us_kal16.so",
    "libflite_cmu_us_rms.so",
    "libflite_cmu_us_slt.so",
    "liblapack.so",
    "librsvg-2.so",
    "libSvtAv1Enc.so",
];

/// Makes the folder `target/bundle/weir-…`; returns it.
pub fn run(cache: &Cache, options: &Options) -> anyhow::Result<PathBuf> {
    let weir = build_weir(options.build)?;
    let version = quiet(Command::new(&weir).arg("--version"))?;
    let version = version.split_whitespace().last().context("weir --version says nothing")?.to_owned();
    let name = format!("weir-{version}-{}-linux", std::env::consts::ARCH);
    let root = crate::proc::target().join("bundle").join(&name);
    fs::remove_dir_all(&root).ok();
    let libraries = root.join("lib/weir");
    for folder in ["bin", "lib/weir/gstreamer-1.0", "lib/weir/gio", "licences"] {
        fs::create_dir_all(root.join(folder))?;
    }
    strip(&weir, &root.join("bin/weir"))?;
    let roots = copy_plugins(&weir, &libraries)?;
    let linked = linked(&roots)?;
    copy_libraries(&linked, &libraries)?;
    fs::copy(wheel::onnxruntime_path(cache), libraries.join("libonnxruntime.so"))?;
    if options.openvino {
        wheel::openvino(cache)?;
        let from = cache.path("openvino");
        if from.is_dir() {
            copy_folder(&from, &libraries.join("openvino"))?;
        }
    }
    licences(linked.values().chain(&roots), &root.join("licences"))?;
    for folder in ["models", "pipelines", "systemd"] {
        copy_folder(Path::new(folder), &root.join(folder))?;
    }
    fs::copy("config/reference.toml", root.join("weir.toml"))?;
    for name in &options.models {
        let weights = model::fetch(cache, name, model::Consent::default(), options.build)?;
        fs::copy(weights, root.join("models").join(name).join(format!("{name}.onnx")))?;
    }
    say(&format!("{}: {} MB", root.display(), megabytes(&root)?));
    if options.check {
        check(cache, &root)?;
    }
    if options.pack {
        pack(&root, &name)?;
    }
    Ok(root)
}

fn strip(from: &Path, to: &Path) -> anyhow::Result<()> {
    quiet(Command::new("strip").args(["--strip-unneeded", "-o"]).arg(to).arg(from)).map(drop)
}

/// Returns everything whose libraries are wanted.
fn copy_plugins(weir: &Path, libraries: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let ask = |variable: &str, package: &str| {
        let mut ask = Command::new("pkg-config");
        quiet(ask.arg(format!("--variable={variable}")).arg(package)).map(|dir| PathBuf::from(dir.trim()))
    };
    let mut roots = vec![weir.to_owned()];
    let plugins = ask("pluginsdir", "gstreamer-1.0")?;
    for (name, why) in PLUGINS {
        let file = format!("libgst{name}.so");
        let from = plugins.join(&file);
        if !from.is_file() {
            bail!("{} is missing ({why}): run `cargo xtask setup`", from.display());
        }
        strip(&from, &libraries.join("gstreamer-1.0").join(file))?;
        roots.push(from);
    }
    let tls = ask("giomoduledir", "gio-2.0")?.join(GIO);
    if tls.is_file() {
        strip(&tls, &libraries.join("gio").join(GIO))?;
        roots.push(tls);
    } else {
        say("no rtsps:// in this bundle: glib-networking is not installed here");
    }
    Ok(roots)
}

/// All libraries of these files, and of those, by the name under which they are searched.
fn linked(files: &[PathBuf]) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    // `name => path (address)`.
    for line in quiet(Command::new("ldd").args(files))?.lines() {
        let Some((name, rest)) = line.trim().split_once(" => ") else { continue };
        let Some(path) = rest.split_whitespace().next().filter(|path| path.starts_with('/')) else {
            bail!("{name} is linked but not installed");
        };
        if !SYSTEM.iter().any(|system| name.starts_with(system)) {
            found.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    Ok(found)
}

fn copy_libraries(linked: &BTreeMap<String, PathBuf>, to: &Path) -> anyhow::Result<()> {
    let hollow = |name: &str| HOLLOW.iter().any(|stem| name.starts_with(&format!("{stem}.")));
    let wanted = undefined(linked.iter().filter(|(name, _)| !hollow(name)).map(|(_, path)| path))?;
    for (name, path) in linked {
        if hollow(name) {
            make_hollow(name, path, &wanted, &to.join(name))?;
        } else {
            strip(path, &to.join(name))?;
        }
    }
    Ok(())
}

fn symbols<'a>(
    which: &str,
    files: impl Iterator<Item = &'a PathBuf>,
) -> anyhow::Result<Vec<(String, String)>> {
    let listed = quiet(Command::new("nm").args(["--dynamic", which, "--format=posix"]).args(files))?;
    let words = listed.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let name = words.next()?.split('@').next()?.to_owned();
        Some((name, words.next()?.to_owned()))
    });
    Ok(words.collect())
}

fn undefined<'a>(files: impl Iterator<Item = &'a PathBuf>) -> anyhow::Result<BTreeSet<String>> {
    Ok(symbols("--undefined-only", files)?.into_iter().map(|(name, _)| name).collect())
}

/// A library that is called `name` and has those symbols of `original` which anybody asks for: functions return 0, data is zero.
fn make_hollow(name: &str, original: &PathBuf, wanted: &BTreeSet<String>, to: &Path) -> anyhow::Result<()> {
    let mut source = String::new();
    for (symbol, kind) in symbols("--defined-only", std::iter::once(original))? {
        if wanted.contains(&symbol) {
            source += &match kind.as_str() {
                "T" | "W" => format!("void *{symbol}(void) {{ return 0; }}\n"),
                _ => format!("char {symbol}[4096] __attribute__((aligned(64)));\n"),
            };
        }
    }
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-nostdlib", "-s", "-w", "-fno-builtin"]).arg(format!("-Wl,-soname,{name}"));
    cc.args(["-x", "c", "-", "-o"]).arg(to).stdin(Stdio::piped());
    let mut child = cc.spawn().context("cannot start cc")?;
    child.stdin.take().context("its input is piped")?.write_all(source.as_bytes())?;
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "cc cannot make a hollow {name} ({status})");
    Ok(())
}

/// The terms of each Debian package that something came from.
fn licences<'a>(files: impl Iterator<Item = &'a PathBuf>, to: &Path) -> anyhow::Result<()> {
    if which("dpkg-query").is_none() {
        return Ok(());
    }
    // dpkg knows files where packages put them, not by way of /lib -> /usr/lib.
    let real = files.filter_map(|file| file.canonicalize().ok());
    let listed = Command::new("dpkg-query").arg("--search").args(real).output()?;
    let packages: BTreeSet<String> = String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter_map(|line| Some(line.split_once(": ")?.0.split(':').next()?.to_owned()))
        .collect();
    for package in packages {
        let terms = Path::new("/usr/share/doc").join(&package).join("copyright");
        if terms.is_file() {
            fs::copy(terms, to.join(package))?;
        }
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn megabytes(folder: &Path) -> anyhow::Result<u64> {
    let said = quiet(Command::new("du").arg("-sm").arg(folder))?;
    said.split_whitespace().next().and_then(|n| n.parse().ok()).context("du says nothing")
}

fn pack(root: &Path, name: &str) -> anyhow::Result<()> {
    let folder = root.parent().context("it is in a folder")?;
    let file = folder.join(format!("{name}.tar.xz"));
    say("packing (this takes some minutes)");
    let mut tar = Command::new("tar");
    tar.args(["--create", "--owner=0", "--group=0", "--sort=name", "--file"]).arg(&file);
    // The machine has what it has; xz takes 700 MB at this level on each core.
    execute(tar.arg("--use-compress-program=xz -9 -T2").arg("--directory").arg(folder).arg(name))?;
    say(&format!("{}: {:.1} MB", file.display(), fs::metadata(&file)?.len() as f64 / 1e6));
    Ok(())
}

/// Runs the detector on a clip in a root that has the folder, glibc and nothing else: no shell, no /usr, no GStreamer.
fn check(cache: &Cache, root: &Path) -> anyhow::Result<()> {
    let scratch = root.parent().context("it is in a folder")?.join("empty-root");
    fs::remove_dir_all(&scratch).ok();
    for folder in ["lib64", "proc", "tmp", "weir"] {
        fs::create_dir_all(scratch.join(folder))?;
    }
    for line in quiet(Command::new("ldd").arg(root.join("bin/weir")))?.lines() {
        let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else { continue };
        let path = Path::new(path);
        let name = path.file_name().context("a library has a name")?;
        let glibc = |s: &&&str| name.to_string_lossy().starts_with(**s);
        if SYSTEM.iter().any(|s| glibc(&s)) {
            fs::copy(path, scratch.join("lib64").join(name))?;
        }
    }
    // What plugins link of glibc beyond that.
    for name in ["libdl.so.2", "libpthread.so.0", "librt.so.1", "libresolv.so.2"] {
        let from = ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu"].map(|dir| Path::new(dir).join(name));
        if let Some(from) = from.iter().find(|from| from.is_file()) {
            fs::copy(from, scratch.join("lib64").join(name))?;
        }
    }
    symlink("lib64", scratch.join("lib"))?;
    quiet(
        Command::new("cp")
            .args(["--archive", "--link", "--no-target-directory"])
            .arg(root)
            .arg(scratch.join("weir")),
    )?;
    let name = model::default_name()?;
    let model = scratch.join("weir/models").join(&name);
    fs::copy(model::weights(cache, &name), model.join(format!("{name}.onnx")))?;
    fs::copy(cache.path(video::Clip::H264.name()), scratch.join("clip.mp4"))?;
    // A namespace of one's own makes chroot possible without being root.
    let mut inside = Command::new("unshare");
    inside.args(["--map-root-user", "--mount", "--pid", "--fork", "--mount-proc"]);
    inside.arg(format!("--root={}", scratch.display()));
    inside.args(["/weir/bin/weir", "try", "--model"]).arg(format!("/weir/models/{name}/{name}.onnx"));
    inside.args(["file:/clip.mp4", "--frames", "25"]);
    let said = quiet(inside.env_clear().env("HOME", "/tmp"));
    fs::remove_dir_all(&scratch).ok();
    let said = match said {
        Err(e) if e.to_string().contains("unshare: unshare failed") => {
            say("skipped: this machine allows no namespaces, so there is no empty root to run it in");
            return Ok(());
        }
        other => other?,
    };
    let persons = said.lines().filter(|line| line.contains("person")).count();
    anyhow::ensure!(persons > 0, "it ran in an empty root but saw nobody:\n{said}");
    say(&format!("ran in an empty root: {persons} lines name a person"));
    Ok(())
}
