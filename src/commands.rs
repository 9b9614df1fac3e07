//! What each command of the command line does: loads what it needs, calls the function whose subject it is, and turns
//! the outcome into words and an exit code.

mod bench;
mod build;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::cli::{ConfigFile, PlanArgs, PrepareArgs, TryArgs, exit, load, load_from, place, print};
use crate::config::{Camera, Config, Env, Stat, System};
use crate::device::software::session::load_runtime;
use crate::fault::{Fault, Who};
use crate::model::manifest::Manifest;
use crate::model::{inspect, prepare, tfjs};
use crate::plan::{self, Wanted};
use crate::quantise::Job;
use crate::tryout::Tryout;
use crate::{live, log, run as daemon};

pub use bench::run as bench;
pub use build::run as build;

/// `weir run`.
pub fn run(file: &ConfigFile) -> ExitCode {
    let config = match load(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Err(fault) = log::init(&config.log, &System) {
        return failed(&fault);
    }
    let path = place(file);
    let reread = Box::new(move || match Config::load(&path, &System) {
        Ok((config, warnings)) => {
            for warning in warnings {
                tracing::warn!("{}", warning.render(false));
            }
            Ok(config)
        }
        Err(report) => Err(report.render(false)),
    });
    match daemon::run(config, reread) {
        Ok(()) => ExitCode::from(exit::GOOD),
        Err(fault) => {
            // On standard error as well: whoever starts weir by hand may log elsewhere.
            failed(&fault)
        }
    }
}

/// `weir check`.
pub fn check(file: &ConfigFile, and_live: bool) -> ExitCode {
    let config = match load(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let cameras = config.cameras.len();
    let code = print(&format!("good: {cameras} camera{}\n", if cameras == 1 { "" } else { "s" }));
    if !and_live {
        return code;
    }
    match live::check(&config.cameras, &mut io::stdout()) {
        Ok(true) => code,
        Ok(false) => ExitCode::from(exit::FAILED),
        Err(fault) => failed(&fault),
    }
}

/// `weir try`.
pub fn try_model(args: &TryArgs) -> ExitCode {
    let (config, camera) =
        match from_arguments(&args.model, args.manifest.as_deref(), &args.models, &args.source) {
            Ok(found) => found,
            Err(code) => return code,
        };
    let tryout = Tryout {
        model: config.model,
        infer: config.infer,
        camera,
        frames: args.frames,
        format: args.format,
        min_score: args.min_score,
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    match tryout.run(&mut out).and_then(|()| {
        out.flush().map_err(|e| Fault::new(Who::Device, "output", format!("results cannot be written: {e}")))
    }) {
        Ok(()) => ExitCode::from(exit::GOOD),
        Err(fault) => failed(&fault),
    }
}

/// The arguments as a configuration with one camera, so that they get the same checks and the same answers.
fn from_arguments(
    model: &str,
    manifest: Option<&str>,
    models: &str,
    source: &str,
) -> Result<(Config, Camera), ExitCode> {
    let model = model_table(model, manifest, models);
    let file = if source.starts_with("file:") { "\nrepeat = false\nrealtime = false" } else { "" };
    let text = format!("{model}\n[cameras.try]\nsource = {}{file}\n", quoted(source));
    let mut config = load_from(Path::new(Inline::NAME), &Inline { text })?;
    let camera = config.cameras.pop().expect("the text has one camera");
    Ok((config, camera))
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// `[model]` of what was written for `--model`: a file or a name.
fn model_table(model: &str, manifest: Option<&str>, models: &str) -> String {
    if model.ends_with(".onnx") {
        let manifest = manifest.map(|m| format!("\nmanifest = {}", quoted(m)));
        format!("[model]\npath = {}{}", quoted(model), manifest.unwrap_or_default())
    } else {
        format!("[model]\nname = {}\ndirs = [{}]", quoted(model), quoted(models))
    }
}

/// A configuration that is no file; everything that it names is.
struct Inline {
    text: String,
}

impl Inline {
    const NAME: &'static str = "<arguments>";
}

impl Env for Inline {
    fn var(&self, name: &str) -> Option<String> {
        System.var(name)
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        if path == Path::new(Inline::NAME) {
            Ok(self.text.clone().into_bytes())
        } else {
            System.read_file(path)
        }
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        System.stat(path)
    }
}

/// `weir plan`.
pub fn plan(args: &PlanArgs) -> ExitCode {
    let wanted = Wanted { count: args.cameras, fps: args.fps, size: args.resolution };
    let measured = match &args.url {
        Some(url) => plan::live::read(url),
        None => match load(&args.file) {
            Ok(config) => plan::calibrate::measure(&config, &wanted, &mut progress),
            Err(code) => return code,
        },
    };
    let (measured, limits) = match measured {
        Ok(measured) => measured,
        Err(fault) => return failed(&fault),
    };
    let plan = plan::plan(measured, &wanted, limits, args.price_per_hour);
    if args.json { print(&format!("{:#}\n", plan.to_json())) } else { print(&plan.to_text()) }
}

/// Says what is being done, where it does not mix with the result.
fn progress(step: &str) {
    let _ = writeln!(io::stderr(), "weir: {step}");
}

/// `weir model inspect`.
pub fn inspect(file: &Path) -> ExitCode {
    match inspect::inspect(file) {
        Ok(report) => print(&report.to_string()),
        Err(fault) => failed(&fault),
    }
}

/// `weir model prepare`.
pub fn prepare(args: &PrepareArgs) -> ExitCode {
    if args.int8 {
        return quantise(args);
    }
    match load_runtime(None).and_then(|runtime| prepare::prepare(&args.file, &args.output, &runtime)) {
        Ok(prepared) => print(&prepared.to_string()),
        Err(fault) => failed(&fault),
    }
}

fn quantise(args: &PrepareArgs) -> ExitCode {
    let (model, source) = (args.file.display().to_string(), args.on.as_deref().unwrap_or_default());
    let (config, camera) = match from_arguments(&model, args.manifest.as_deref(), "models", source) {
        Ok(found) => found,
        Err(code) => return code,
    };
    let job = Job {
        model: config.model,
        infer: config.infer,
        camera,
        every: args.every,
        frames: args.frames,
        truth: args.truth.clone(),
        label: args.label.clone(),
        least: args.least,
        output: args.output.clone(),
    };
    match job.run(&mut progress) {
        Ok(quantised) => print(&quantised.to_string()),
        Err(fault) => failed(&fault),
    }
}

/// `weir model convert`.
pub fn convert(manifest: &Path, from: &Path, output: &Path) -> ExitCode {
    let converted = Manifest::load_one_fault(manifest).and_then(|m| tfjs::convert_to(&m, from, output));
    match converted {
        Ok(_) => print(&format!("wrote {}\n", output.display())),
        Err(fault) => failed(&fault),
    }
}

/// Says what went wrong; configuration faults have an exit code of their own.
pub(crate) fn failed(fault: &Fault) -> ExitCode {
    let _ = writeln!(io::stderr(), "weir: {fault}");
    ExitCode::from(if fault.who == Who::Config { exit::CONFIG } else { exit::FAILED })
}
