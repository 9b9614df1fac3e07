//! `weir bench`: arguments to a configuration, one process for each count of streams, rows to text and JSON.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde_json::Value;

use super::{Inline, failed, quoted};
use crate::bench::{self, show};
use crate::cli::{BenchArgs, exit, load, load_from, print};
use crate::config::{Camera, Config, System};
use crate::fault::{Fault, Who};
use crate::log;
use crate::plan::USUAL;
use crate::plan::calibrate::clip::Clip;

/// `weir bench`.
pub fn run(args: &BenchArgs) -> ExitCode {
    // Without a source of its own: made once, for all counts.
    let mut args = args.clone();
    let clip = match args.model.is_some() && args.source.is_empty() {
        true => match Clip::encode(&USUAL) {
            Ok(clip) => Some(clip),
            Err(fault) => return failed(&fault),
        },
        false => None,
    };
    args.source.extend(clip.iter().map(|clip| format!("file:{}", clip.path.display())));
    let rows = match args.streams[..] {
        [streams] => one(&args, streams).map(|row| vec![row]),
        _ => each(&args),
    };
    let rows = match rows {
        Ok(rows) => rows,
        Err(code) => return code,
    };
    if let Some(file) = &args.json
        && let Err(fault) = save(file, &args.model_name(), &rows)
    {
        return failed(&fault);
    }
    if args.row {
        return ExitCode::from(exit::GOOD);
    }
    let mut text: String = rows.iter().map(show::text).collect();
    if rows.len() > 1 {
        text = format!("{text}\n{}", show::table(&rows));
    }
    print(&text)
}

/// In this process.
fn one(args: &BenchArgs, streams: usize) -> Result<Value, ExitCode> {
    let (config, templates) = configuration(args)?;
    // Which engine was chosen and why, and what goes wrong.
    let level = "warn,weir::run=info".to_owned();
    let settings = crate::config::Log { level, ..config.log.clone() };
    let measured = log::init(&settings, &System)
        .and_then(|()| bench::prepare(config, &templates, streams))
        .and_then(|config| {
            bench::measure(config, Duration::from_secs(args.seconds), Duration::from_secs(args.patience))
        });
    measured.map(|row| row.to_json()).map_err(|fault| failed(&fault))
}

/// Each in a process of its own, which begins as this one did.
fn each(args: &BenchArgs) -> Result<Vec<Value>, ExitCode> {
    let trouble = |what: String| failed(&Fault::new(Who::Device, "bench", what));
    let exe = std::env::current_exe().map_err(|e| trouble(format!("weir does not find itself: {e}")))?;
    let mut rows = Vec::new();
    for streams in &args.streams {
        let file = std::env::temp_dir().join(format!("weir-bench-{}-{streams}.json", std::process::id()));
        let status = Command::new(&exe).args(args.for_one(*streams, &file)).status();
        let text = fs::read_to_string(&file);
        let _ = fs::remove_file(&file);
        match status {
            Ok(status) if status.success() => {}
            // It has said why.
            Ok(status) => {
                return Err(ExitCode::from(
                    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::FAILED),
                ));
            }
            Err(e) => return Err(trouble(format!("weir does not start itself: {e}"))),
        }
        let document = text.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let row = document.map(|document| document["rows"][0].clone()).filter(Value::is_object);
        rows.push(row.ok_or_else(|| trouble(format!("{streams} streams gave no figures")))?);
        // For drivers and servers to let go.
        bench::pause(Duration::from_secs(1));
    }
    Ok(rows)
}

/// The configuration, and the cameras that its streams are like.
fn configuration(args: &BenchArgs) -> Result<(Config, Vec<Camera>), ExitCode> {
    let inline = |model: &str| {
        let infer = match args.execution.as_slice() {
            [] => String::new(),
            order => format!(
                "[infer]\nexecution = [{}]\n",
                order.iter().map(|p| quoted(p)).collect::<Vec<_>>().join(", ")
            ),
        };
        let cameras = args
            .source
            .iter()
            .enumerate()
            .map(|(n, source)| format!("[cameras.c{n}]\nsource = {}\n", quoted(source)));
        let text = format!("{model}\n{infer}{}", cameras.collect::<String>());
        load_from(Path::new(Inline::NAME), &Inline { text })
    };
    let mut config = match &args.model {
        Some(model) => inline(&super::model_table(model, args.manifest.as_deref(), &args.models))?,
        None => load(&args.file)?,
    };
    if args.model.is_none() && !(args.source.is_empty() && args.execution.is_empty()) {
        let (file, manifest) =
            (config.model.file.display().to_string(), config.model.manifest.display().to_string());
        let named = super::model_table(&file, Some(&manifest), &args.models);
        // Where only the providers are named, cameras are the configuration's.
        let given = match args.source.is_empty() {
            true => inline(&format!("{named}\n[cameras.none]\nsource = \"rtsp://127.0.0.1:9/none\"\n"))?,
            false => inline(&named)?,
        };
        if !args.execution.is_empty() {
            config.infer.execution = given.infer.execution;
        }
        if !args.source.is_empty() {
            config.cameras = given.cameras;
        }
    }
    let templates = std::mem::take(&mut config.cameras);
    Ok((config, templates))
}

fn save(file: &Path, model: &str, rows: &[Value]) -> Result<(), Fault> {
    fs::write(file, format!("{:#}\n", show::document(model, rows)))
        .map_err(|e| Fault::new(Who::Device, "output", format!("{} cannot be written: {e}", file.display())))
}
