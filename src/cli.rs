//! The command line: what may be written, what it says, and which function does it.
//!
//! What a command does is in [`crate::commands`]; nothing is computed here.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::bench::show;
use crate::config::{self, Config, Env, System};
use crate::{anew, commands, tryout};

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
    /// Run the daemon until SIGTERM or Ctrl-C
    ///
    /// Tells systemd when it is ready (Type=notify). SIGHUP reads the cameras again. A second SIGTERM exits at once.
    #[command(
        after_long_help = "Example:\n  weir run -c /etc/weir/weir.toml\n  curl -N http://127.0.0.1:8080/api/v1/events/stream"
    )]
    Run {
        /// Which one.
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Check a configuration and everything that it names
    ///
    /// Reports every problem at once, with its line and a remedy, and ends with 78 if there is one. Opens no
    /// camera and loads no model, unless --live is given.
    #[command(after_long_help = "Example:\n  weir check -c /etc/weir/weir.toml --live")]
    Check {
        /// Which one.
        #[command(flatten)]
        file: ConfigFile,
        /// Also open each camera and say what it delivers; ends with 1 if one does not
        #[arg(long)]
        live: bool,
    },
    /// Run a model on a video and print what it sees
    ///
    /// Frame by frame through the daemon's own decoder, preprocessing and detector; nothing is batched, dropped or tracked.
    #[command(
        after_long_help = "Examples:\n  weir try --model coco-ssd file:clip.mp4 --frames 100\n  weir try --model ./yolo.onnx file:clip.mp4 --format jsonl\n  weir try --model coco-ssd rtsp://camera/stream"
    )]
    Try(TryArgs),
    /// Say how many cameras fit, with which settings, how fast, and what a camera-hour costs
    ///
    /// Opens each camera of the configuration and asks what it sends (not where --fps and --resolution say so), and measures this machine with the
    /// model of the configuration: how long a batch takes, and what decoding costs (on the first video file that the configuration
    /// plays, else on a test pattern). With --url it asks a daemon that runs, which knows its own cameras best. Changes nothing.
    #[command(after_long_help = PLAN)]
    Plan(PlanArgs),
    /// Measure this box with streams of your own: rates, latency by stage, losses, load, and what ends first
    ///
    /// Runs the daemon itself, with its real sources, decoders, batcher and engine, for some seconds, with N streams. A video file is played again and
    /// again, in real time. Nothing leaves the box: no MQTT, no RTSP, HTTP on loopback only.
    #[command(after_help = BENCH, after_long_help = BENCH_LONG.as_str())]
    Bench(BenchArgs),
    /// Look into, prepare and convert model files
    #[command(subcommand)]
    Model(ModelCommand),
    /// Print what weir reads and writes
    #[command(subcommand)]
    Config(ConfigCommand),
}

const BENCH: &str = "\
Examples:
  weir bench -c weir.toml --streams 8                     cameras of the configuration, in turn
  weir bench --model coco-ssd --source file:yard.mp4 --streams 1,2,4,8 --json box.json
  weir bench --model yolo.onnx --source rtsp://10.0.0.5/a --execution tensorrt,cuda,cpu --streams 40";

static BENCH_LONG: LazyLock<String> = LazyLock::new(|| format!("{BENCH}\n\n{}", show::KEYS));

/// `weir bench …`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// Which configuration, when no --model is given
    #[command(flatten)]
    pub file: ConfigFile,
    /// How many streams; several counts, as 1,4,8, are measured one after the other
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = streams)]
    pub streams: Vec<usize>,
    /// How long to count, after all streams deliver
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// What to play, as `source` of a camera; several are taken in turn. Default: the configuration's cameras, else a test pattern in 1080p
    #[arg(long, value_name = "SOURCE", num_args = 1..)]
    pub source: Vec<String>,
    /// A model by name, or an .onnx file with its model.toml beside it, instead of a configuration
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "config")]
    pub model: Option<String>,
    /// The model.toml, when it is not beside the .onnx file
    #[arg(long, value_name = "FILE", requires = "model")]
    pub manifest: Option<String>,
    /// Where models are searched by name
    #[arg(long, value_name = "DIR", default_value = "models")]
    pub models: String,
    /// As `[infer] execution`: what runs the network, in order of preference
    #[arg(long, value_name = "PROVIDER", value_delimiter = ',')]
    pub execution: Vec<String>,
    /// Write the figures as JSON (weir.bench/1) too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// How long streams may take to deliver; those that do not by then are left out
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub patience: u64,
    /// One count of a sweep: no text
    #[arg(long, hide = true)]
    pub row: bool,
}

impl BenchArgs {
    /// For the JSON: what was written.
    pub fn model_name(&self) -> String {
        let config = self.file.config.as_ref().map(|file| file.display().to_string());
        self.model.clone().or(config).unwrap_or_else(|| "weir.toml".to_owned())
    }

    /// The command line of the process that measures so many streams of these.
    pub fn for_one(&self, streams: usize, json: &Path) -> Vec<OsString> {
        let mut line: Vec<OsString> = vec!["bench".into(), "--row".into()];
        let mut add = |name: &str, value: OsString| line.extend([name.into(), value]);
        add("--streams", streams.to_string().into());
        add("--seconds", self.seconds.to_string().into());
        add("--patience", self.patience.to_string().into());
        add("--json", json.into());
        add("--models", self.models.as_str().into());
        for (name, value) in [("--model", &self.model), ("--manifest", &self.manifest)] {
            value.iter().for_each(|value| add(name, value.into()));
        }
        self.file.config.iter().for_each(|file| add("--config", file.into()));
        self.source.iter().for_each(|source| add("--source", source.into()));
        self.execution.iter().for_each(|provider| add("--execution", provider.into()));
        line
    }
}

fn streams(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=2000).contains(n)).ok_or_else(|| "a count, 1 to 2000".to_owned())
}

const PLAN: &str = "\
How to read it:
  cameras   what they send, as they said themselves; those of `fit` are more of the same in the same parts
  engine    S(b): milliseconds for a batch of so many frames, and frames a second at that size
  capacity  what the engine is planned for: 0.7 of its rate, since queues grow like load/(1 - load)
  decode    CPU time of a frame; on a CPU it comes out of the cores that the engine uses too
  fit       cameras that fit with all of that counted, and what the next one would meet
  latency   predicted, frame to event, without network and camera; a dash: the engine is full
  settings  for [batcher]

Examples:
  weir plan -c weir.toml
  weir plan --cameras 8 --fps 15 --resolution 1280x720 --price-per-hour 0.40
  weir plan --url http://127.0.0.1:8080 --cameras 12
  weir plan --json | jq .fit.cameras";

/// `weir plan …`.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// Which configuration; not read with --url.
    #[command(flatten)]
    pub file: ConfigFile,
    /// How many cameras; default: those of the configuration or the daemon
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub cameras: Option<u32>,
    /// Frames a second of each
    #[arg(long, value_name = "F", value_parser = rate)]
    pub fps: Option<f64>,
    /// What each sends
    #[arg(long, value_name = "WxH", value_parser = resolution)]
    pub resolution: Option<(u32, u32)>,
    /// What an hour of the machine costs, in any currency
    #[arg(long, value_name = "P", value_parser = price)]
    pub price_per_hour: Option<f64>,
    /// Ask the daemon there instead of measuring here
    #[arg(long, value_name = "http://HOST:PORT", conflicts_with = "config")]
    pub url: Option<String>,
    /// Print JSON (weir.plan/1)
    #[arg(long)]
    pub json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|fps| (0.01..=1000.0).contains(fps))
        .ok_or_else(|| "a number, 0.01 to 1000".to_owned())
}

fn price(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|price| (0.0..=1e9).contains(price))
        .ok_or_else(|| "a number from 0 on".to_owned())
}

fn resolution(text: &str) -> Result<(u32, u32), String> {
    let side =
        |text: &str| text.parse().ok().filter(|n: &u32| (16..=16384).contains(n) && n.is_multiple_of(2));
    text.split_once(['x', '×'])
        .and_then(|(w, h)| Some((side(w)?, side(h)?)))
        .ok_or_else(|| "as 1920x1080: two even numbers, 16 to 16384".to_owned())
}

/// `weir try …`.
#[derive(Debug, clap::Args)]
pub struct TryArgs {
    /// A model by name, or an .onnx file with its model.toml beside it
    #[arg(long, value_name = "NAME|FILE")]
    pub model: String,
    /// The model.toml, when it is not beside the .onnx file
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<String>,
    /// Where models are searched by name
    #[arg(long, value_name = "DIR", default_value = "models")]
    pub models: String,
    /// As `source` of a camera: file:PATH, rtsp://…, v4l2:/dev/video0
    pub source: String,
    /// Stop after so many frames; 0: at the end of the video
    #[arg(long, default_value_t = 0)]
    pub frames: u64,
    /// How to print
    #[arg(long, value_enum, default_value_t = tryout::Format::Text)]
    pub format: tryout::Format,
    /// Print detections from this score on, 0 to 1
    #[arg(long, default_value_t = 0.3)]
    pub min_score: f32,
}

const PREPARE: &str = "\
Without --int8 the model's fixed batch is freed, and it is proved that nothing else changed.

With --int8 convolutions and matrix products become 8-bit integers (static quantisation, ONNX QDQ). Ranges are measured on the video of
--on, your own if possible; what that costs in boxes is shown, and the model is written only if it finds enough of them again.
Worth it on processors with VNNI (or Arm's dot product); on others it is no faster, and the output says so.

Examples:
  weir model prepare yolox_nano.onnx -o yolox_nano-free.onnx
  weir model prepare yolox_nano.onnx --int8 --on file:yard.mp4 -o yolox_nano-int8.onnx
  weir model prepare coco-ssd.onnx --manifest models/coco-ssd/model.toml --int8 --on file:street.mp4 --truth gt.txt -o small.onnx";

/// `weir model prepare …`.
#[derive(Debug, clap::Args)]
pub struct PrepareArgs {
    /// The .onnx file; with --int8 its model.toml lies beside it, or is named
    pub file: PathBuf,
    /// The .onnx file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Quantise to 8-bit integers
    #[arg(long, requires = "on")]
    pub int8: bool,
    /// The video to measure on, as `source` of a camera: file:PATH, rtsp://…
    #[arg(long, value_name = "SOURCE", requires = "int8")]
    pub on: Option<String>,
    /// The model.toml, when it is not beside the .onnx file
    #[arg(long, value_name = "FILE", requires = "int8")]
    pub manifest: Option<String>,
    /// Use so many pictures, half of them for measuring, half for comparing
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(8..=100_000), requires = "int8")]
    pub frames: u64,
    /// Use every n-th picture of the video
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100_000), requires = "int8")]
    pub every: u64,
    /// The part of the boxes that must be found again, 0 to 1
    #[arg(long, value_name = "PART", default_value_t = 0.9, requires = "int8")]
    pub least: f32,
    /// MOTChallenge ground truth (gt.txt) of the video: the average precision before and after is shown
    #[arg(long, value_name = "FILE", requires = "int8")]
    pub truth: Option<PathBuf>,
    /// The label of its boxes
    #[arg(long, value_name = "LABEL", default_value = "person", requires = "truth")]
    pub label: String,
}

/// `weir model …`.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Say what an .onnx file is, and print a model.toml to start from
    #[command(after_long_help = "Example:\n  weir model inspect yolox_nano.onnx")]
    Inspect {
        /// The .onnx file
        file: PathBuf,
    },
    /// Free a fixed batch, so that frames of several cameras share a run
    ///
    /// Edits the graph and proves on random input that a batch of four equals four batches of one; writes nothing
    /// when it does not. Needs ONNX Runtime.
    #[command(after_long_help = PREPARE)]
    Prepare(PrepareArgs),
    /// Build TensorRT's engines ahead of the first start
    ///
    /// For the model, the batch sizes and the GPU of the configuration, into its `engine_cache`. The first start does the same where it was not done, and
    /// is not ready before it ends.
    #[command(
        after_long_help = "Example:\n  weir model build -c /etc/weir/weir.toml && systemctl start weir"
    )]
    Build {
        /// Which configuration.
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Convert a TensorFlow.js graph model to ONNX, by the recipe in its model.toml
    #[command(
        after_long_help = "Example:\n  weir model convert --manifest models/coco-ssd/model.toml --from package/models/coco-ssd -o coco-ssd.onnx"
    )]
    Convert {
        /// The model.toml with the recipe
        #[arg(long, value_name = "FILE")]
        manifest: PathBuf,
        /// The folder with model.json and its shards
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// The .onnx to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
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
    /// Print the JSON Schema of what weir says: of its events (weir.event/1), or of the API's answers (weir.api/1)
    #[command(
        after_long_help = "Example:\n  weir config schema > weir.event-1.schema.json\n  weir config schema api > weir.api-1.schema.json"
    )]
    Schema {
        /// Which one
        #[arg(value_enum, default_value_t)]
        of: Schema,
    },
}

/// What there is a schema of.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub enum Schema {
    /// Events over MQTT, SSE and the API
    #[default]
    Events,
    /// The API's answers
    Api,
}

/// Reads the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    if let Err(fault) = anew::start() {
        return commands::failed(&fault);
    }
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
        Command::Run { file } => commands::run(&file),
        Command::Check { file, live } => commands::check(&file, live),
        Command::Try(args) => commands::try_model(&args),
        Command::Bench(args) => commands::bench(&args),
        Command::Plan(args) => commands::plan(&args),
        Command::Model(ModelCommand::Inspect { file }) => commands::inspect(&file),
        Command::Model(ModelCommand::Build { file }) => commands::build(&file),
        Command::Model(ModelCommand::Prepare(args)) => commands::prepare(&args),
        Command::Model(ModelCommand::Convert { manifest, from, output }) => {
            commands::convert(&manifest, &from, &output)
        }
        Command::Config(ConfigCommand::Reference) => print(&config::reference()),
        Command::Config(ConfigCommand::Schema { of }) => print(&format!(
            "{:#}\n",
            match of {
                Schema::Events => crate::event::schema(),
                Schema::Api => crate::http::answers::schema(),
            }
        )),
    }
}

/// Loads the configuration and tells its warnings, or its problems, on standard error.
///
/// # Errors
/// The exit code for a configuration that cannot be used.
pub fn load(file: &ConfigFile) -> Result<Config, ExitCode> {
    load_from(&place(file), &System)
}

/// Where the configuration is.
pub fn place(file: &ConfigFile) -> PathBuf {
    file.config.clone().unwrap_or_else(|| default_file(&System))
}

/// The same from anywhere.
///
/// # Errors
/// The exit code for a configuration that cannot be used.
pub fn load_from(path: &Path, env: &dyn Env) -> Result<Config, ExitCode> {
    let mut stderr = io::stderr().lock();
    let colour = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A closed standard error must not keep the daemon from starting.
    match Config::load(path, env) {
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
pub(crate) fn print(text: &str) -> ExitCode {
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
