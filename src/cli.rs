//! The command line: what may be written, what it says, and which function does it.
//!
//! The functions live where their subject is; nothing is computed here.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::config::{self, Config, Env, System};

/// Exit codes: the last two are those of BSD's sysexits.h.
pub mod exit {
    /// All is well.
    pub const GOOD: u8 = 0;
    /// It failed.
    pub const FAILED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// The configuration is wrong.
    pub const CONFIG: u8 = 78;
}

/// Watches many cameras at once and tells what it sees.
#[derive(Debug, Parser)]
#[command(name = "weir", version, after_help = SHORT, after_long_help = LONG, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = false)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const SHORT: &str = "`weir --help` also tells about files, environment variables and exit codes.";

const LONG: &str = "\
Files:
  configuration  -c FILE, else ./weir.toml, else /etc/weir/weir.toml
  models         [model] dirs: models/ beside the configuration, /usr/share/weir/models
  weights        beside the model's manifest, else models/NAME.onnx in $WEIR_CACHE or ~/.cache/weir
  pipelines      pipelines/ beside the configuration, /usr/share/weir/pipelines

Environment:
  WEIR_LOG               overrides [log] level: error, warn, info, debug, trace, or weir::stage=debug
  WEIR_CACHE             where fetched weights are; default ~/.cache/weir
  CREDENTIALS_DIRECTORY  where relative password files are looked for first (systemd sets it)
  NO_COLOR               no colours on a terminal
  and every variable that a `password_env` of the configuration names

Exit codes:
  0   all is well
  1   it failed
  64  the command line is wrong
  78  the configuration is wrong

Start here:
  weir config reference > weir.toml   every key, with its meaning and default
  weir check                          what is wrong with it, with line and remedy";

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a configuration and everything that it names
    ///
    /// Reports every problem at once, with its line and a remedy, and ends with 78 if there is one. Opens no
    /// camera and loads no model.
    #[command(after_long_help = "Example:\n  weir check -c /etc/weir/weir.toml")]
    Check {
        /// Which one.
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Print what weir reads and writes
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Which configuration.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigFile {
    /// The configuration; default ./weir.toml, then /etc/weir/weir.toml
    #[arg(short, long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `weir config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every key with its meaning, range and default, as a file to start from
    #[command(after_long_help = "Example:\n  weir config reference > weir.toml")]
    Reference,
    /// Print the JSON Schema of the events that weir sends (weir.event/1)
    #[command(after_long_help = "Example:\n  weir config schema > weir.event-1.schema.json")]
    Schema,
}

/// Reads the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => dispatch(cli.command),
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nobody is left to tell when this fails.
            let _ = error.print();
            ExitCode::from(if asked { exit::GOOD } else { exit::USAGE })
        }
    }
}

fn dispatch(command: Command) -> ExitCode {
    match command {
        Command::Check { file } => check(&file),
        Command::Config(ConfigCommand::Reference) => print(&config::reference()),
        Command::Config(ConfigCommand::Schema) => print(&format!("{:#}\n", crate::event::schema())),
    }
}

fn check(file: &ConfigFile) -> ExitCode {
    match load(file) {
        Ok(config) => {
            let cameras = config.cameras.len();
            print(&format!("good: {cameras} camera{}\n", if cameras == 1 { "" } else { "s" }))
        }
        Err(code) => code,
    }
}

/// Loads the configuration and tells its warnings, or its problems, on standard error.
///
/// # Errors
/// The exit code for a configuration that cannot be used.
pub fn load(file: &ConfigFile) -> Result<Config, ExitCode> {
    let path = file.config.clone().unwrap_or_else(|| default_file(&System));
    let mut stderr = io::stderr().lock();
    let colour = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A closed standard error must not keep the daemon from starting.
    match Config::load(&path, &System) {
        Ok((config, warnings)) => {
            for warning in warnings {
                let _ = writeln!(stderr, "{}", warning.render(colour));
            }
            Ok(config)
        }
        Err(report) => {
            let _ = write!(stderr, "{}", report.render(colour));
            Err(ExitCode::from(exit::CONFIG))
        }
    }
}

fn default_file(env: &dyn Env) -> PathBuf {
    let (here, system) = (Path::new("weir.toml"), Path::new("/etc/weir/weir.toml"));
    let path = if env.stat(here).is_err() && env.stat(system).is_ok() { system } else { here };
    path.to_owned()
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(exit::FAILED),
        _ => ExitCode::from(exit::GOOD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
