//! The log: structured, on standard error or to the journal. Nothing else in the crate sets up `tracing`.
//!
//! Data goes into fields, sentences end with a full stop, and nothing is logged per frame above `trace`.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{Env, Log, LogFormat};
use crate::fault::{Fault, Who};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Reads `[log] level` or `WEIR_LOG`. `EnvFilter` takes a misspelt level for the name of a module, which would
/// then say nothing at all; so a word without `=` must be a level here.
///
/// # Errors
/// What to write instead.
pub fn filter(level: &str) -> Result<EnvFilter, String> {
    for part in level.split(',').map(str::trim) {
        let word = part.to_ascii_lowercase();
        if !part.contains('=') && !LEVELS.contains(&word.as_str()) {
            return Err(format!(
                "the levels are {}; for one module write weir::stage=debug",
                LEVELS.join(", ")
            ));
        }
    }
    // ONNX Runtime tells each step of its optimiser at info, and rumqttc warns of what the MQTT sink reports itself; whoever
    // wants that says ort=info.
    EnvFilter::builder()
        .parse(format!("ort=warn,rumqttc=error,{level}"))
        .map_err(|_| "for example info,weir::stage=debug".to_owned())
}

/// What `auto` means here. `JOURNAL_STREAM` is set by systemd when standard error goes to the journal
/// (systemd.exec(5)).
pub fn format(log: &Log, env: &dyn Env, terminal: bool) -> LogFormat {
    match log.format {
        LogFormat::Auto if terminal => LogFormat::Human,
        LogFormat::Auto if env.var("JOURNAL_STREAM").is_some() && env.var("INVOCATION_ID").is_some() => {
            LogFormat::Journald
        }
        LogFormat::Auto => LogFormat::Json,
        format => format,
    }
}

/// Starts logging for the whole process.
///
/// # Errors
/// [`Who::Config`] for a bad `WEIR_LOG`, [`Who::Device`] when the journal cannot be reached, [`Who::Bug`] on a
/// second call.
pub fn init(log: &Log, env: &dyn Env) -> Result<(), Fault> {
    let level = env.var("WEIR_LOG").filter(|level| !level.is_empty()).unwrap_or_else(|| log.level.clone());
    let filter = filter(&level)
        .map_err(|help| Fault::new(Who::Config, "log", "WEIR_LOG is not a log level").remedy(help))?;
    let terminal = std::io::stderr().is_terminal();
    let stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format(log, env, terminal) {
        LogFormat::Journald => {
            let journal = tracing_journald::layer().map_err(|error| {
                Fault::new(Who::Device, "log", format!("cannot log to the journal: {error}"))
                    .remedy("is systemd-journald running? [log] format = \"json\" goes to standard error")
            })?;
            Box::new(journal.with_filter(filter))
        }
        LogFormat::Json => Box::new(stderr.json().flatten_event(true).with_filter(filter)),
        LogFormat::Human | LogFormat::Auto => Box::new(stderr.with_ansi(terminal).with_filter(filter)),
    };
    tracing_subscriber::registry()
        .with(layer)
        .try_init()
        .map_err(|_| Fault::new(Who::Bug, "log", "the log was set up twice"))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::config::Stat;

    struct Vars(&'static [&'static str]);

    impl Env for Vars {
        fn var(&self, name: &str) -> Option<String> {
            self.0.contains(&name).then(|| "1".to_owned())
        }
        fn read_file(&self, _: &Path) -> io::Result<Vec<u8>> {
            Err(io::ErrorKind::NotFound.into())
        }
        fn stat(&self, _: &Path) -> io::Result<Stat> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    #[test]
    fn auto_takes_the_format_that_the_reader_can_use() {
        let auto = Log { format: LogFormat::Auto, level: "info".into() };
        let service = Vars(&["JOURNAL_STREAM", "INVOCATION_ID"]);
        assert_eq!(format(&auto, &service, true), LogFormat::Human);
        assert_eq!(format(&auto, &service, false), LogFormat::Journald);
        assert_eq!(format(&auto, &Vars(&["INVOCATION_ID"]), false), LogFormat::Json);
        let chosen = Log { format: LogFormat::Json, level: "info".into() };
        assert_eq!(format(&chosen, &service, true), LogFormat::Json);
    }

    #[test]
    fn a_misspelt_level_is_no_module() {
        for good in ["info", "WARN", "info,weir::stage=debug", "weir[frame{camera=porch}]=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["verbose", "infos,weir=debug", "weir=loud", ""] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
