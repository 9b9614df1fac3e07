//! The project's own commands: `cargo xtask setup | demo | test | model fetch | bundle`.
//!
//! They turn a machine with git and Rust into one that builds, shows and tests weir. This package needs no system
//! library, because it is what installs them. Nothing of the daemon belongs here.

mod board;
mod bundle;
mod cache;
mod demo;
mod fetch;
mod model;
mod npm;
mod proc;
mod setup;
mod summary;
mod test;
mod video;
mod watch;
mod wheel;

use std::process::ExitCode;

use anyhow::{Context, bail};
use lexopt::ValueExt;
use lexopt::prelude::*;

const USAGE: &str = "\
cargo xtask COMMAND

  setup [--for demo|test]       install what is missing (Debian packages, ONNX Runtime, model, video)
       [--openvino]             and OpenVINO's plugin (Intel processors; see `execution` in the configuration)
  demo [--cameras N]            four RTSP cameras, a broker and weir, with a live table; Ctrl-C ends it
       [--debug]                the debug build, which a developer has anyway
       [--seconds N]            no table; exit 0 only if frames and persons arrived everywhere they should
  test [--quick]                lints, documentation, licences and all tests
       [--advisories]           and the advisory database, which needs the network
  model fetch NAME              weights of models/NAME/model.toml into the cache
       [--pin]                  the first time: write the SHA-256 into the manifest
       [--accept-licence]       for licences that bind those who use the weights
  bundle [--model NAME]...      a folder that runs without GStreamer on the machine, and a .tar.xz of it
       [--debug]                the debug build
       [--openvino]             with OpenVINO's plugin (53 MB more; for execution = auto on Intel processors)
       [--check]                and run it in a root that has nothing else
       [--no-pack]              the folder only

What is fetched goes to $WEIR_CACHE, else $XDG_CACHE_HOME/weir, else ~/.cache/weir.
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let mut args = lexopt::Parser::from_env();
    let command = match args.next()? {
        Some(Value(name)) => name.string()?,
        None | Some(Short('h') | Long("help")) => {
            print!("{USAGE}");
            return Ok(ExitCode::SUCCESS);
        }
        Some(other) => return Err(other.unexpected().into()),
    };
    // cargo runs it from anywhere inside the project; every path below is from its root.
    std::env::set_current_dir(proc::root()).context("the project folder is gone")?;
    match command.as_str() {
        "setup" => {
            let (mut purpose, mut build) = (setup::Purpose::Demo, proc::Build::Release);
            let mut openvino = false;
            while let Some(arg) = args.next()? {
                match arg {
                    Long("for") => purpose = args.value()?.parse_with(setup::Purpose::parse)?,
                    Long("debug") => build = proc::Build::Debug,
                    Long("openvino") => openvino = true,
                    other => return Err(other.unexpected().into()),
                }
            }
            let cache = setup::run(purpose, build)?;
            if openvino {
                wheel::openvino(&cache)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        "demo" => {
            let mut options = demo::Options::default();
            while let Some(arg) = args.next()? {
                match arg {
                    Long("seconds") => options.seconds = Some(args.value()?.parse()?),
                    Long("debug") => options.build = proc::Build::Debug,
                    Long("cameras") => options.cameras = args.value()?.parse()?,
                    other => return Err(other.unexpected().into()),
                }
            }
            demo::run(&options)
        }
        "test" => {
            let mut options = test::Options::default();
            while let Some(arg) = args.next()? {
                match arg {
                    Long("quick") => options.quick = true,
                    Long("advisories") => options.advisories = true,
                    other => return Err(other.unexpected().into()),
                }
            }
            test::run(&options)
        }
        "bundle" => {
            let mut options = bundle::Options {
                build: proc::Build::Release,
                models: Vec::new(),
                openvino: false,
                check: false,
                pack: true,
            };
            while let Some(arg) = args.next()? {
                match arg {
                    Long("model") => options.models.push(args.value()?.string()?),
                    Long("debug") => options.build = proc::Build::Debug,
                    Long("openvino") => options.openvino = true,
                    Long("check") => options.check = true,
                    Long("no-pack") => options.pack = false,
                    other => return Err(other.unexpected().into()),
                }
            }
            let cache = setup::run(setup::Purpose::Demo, options.build)?;
            bundle::run(&cache, &options)?;
            Ok(ExitCode::SUCCESS)
        }
        "model" => model_command(&mut args),
        other => bail!("there is no command `{other}`\n\n{USAGE}"),
    }
}

fn model_command(args: &mut lexopt::Parser) -> anyhow::Result<ExitCode> {
    match args.next()? {
        Some(Value(verb)) if verb == "fetch" => {}
        _ => bail!("write: cargo xtask model fetch NAME"),
    }
    let (mut name, mut consent) = (None, model::Consent::default());
    while let Some(arg) = args.next()? {
        match arg {
            Value(text) if name.is_none() => name = Some(text.string()?),
            Long("pin") => consent.pin = true,
            Long("accept-licence") => consent.licence = true,
            other => return Err(other.unexpected().into()),
        }
    }
    let name = name.context("which model? `ls models` shows them")?;
    let cache = cache::Cache::open()?;
    let file = model::fetch(&cache, &name, consent, proc::Build::Release)?;
    println!("{}", file.display());
    Ok(ExitCode::SUCCESS)
}
