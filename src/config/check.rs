//! From the [file](super::file) to the [`Config`]: checks that need two keys, or the world.

mod camera;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::env::Env;
use super::file::{At, Section, printable};
use super::problem::Problems;
use super::{
    Batcher, Config, Events, Execution, Http, Infer, Log, LogFormat, Model, Mqtt, MqttTls, Provider,
    RtspServer, Style, Track, Video, restream, secret,
};

/// What a check works with.
pub(super) struct Check<'a> {
    pub env: &'a dyn Env,
    /// The folder of the file: relative paths start here.
    pub base: &'a Path,
    pub problems: &'a mut Problems,
}

/// What the system says, in a few words that do not depend on its version.
pub(super) fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        io::ErrorKind::FileTooLarge => "it is larger than 4 MiB".to_owned(),
        _ => error.to_string(),
    }
}

/// Paths for a remedy, one a line.
pub(super) fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("\n{}", printable(&path.display().to_string()))).collect()
}

impl Check<'_> {
    pub fn path(&self, written: &str) -> PathBuf {
        self.base.join(written)
    }

    /// A file that must be there.
    pub fn file(&mut self, written: &str, at: At, what: &str) -> Option<PathBuf> {
        let path = self.path(written);
        let wrong = match self.env.stat(&path) {
            Ok(stat) if stat.folder => "it is a folder".to_owned(),
            Ok(_) => return Some(path),
            Err(error) => why(&error),
        };
        let shown = printable(&path.display().to_string());
        let problem = self.problems.error(at, format!("cannot use {what} {shown}: {wrong}"));
        problem.label("this file");
        if Path::new(written).is_relative() {
            problem.help("relative paths start at the folder of the configuration file");
        }
        None
    }

    fn is_file(&self, path: &Path) -> bool {
        self.env.stat(path).is_ok_and(|stat| !stat.folder)
    }
}

fn ms(section: &Section, key: &str) -> Duration {
    Duration::from_millis(section.int(key))
}

/// Checks everything; `None` when a problem makes a part of it impossible.
pub(super) fn config(check: &mut Check<'_>, file: &Section) -> Option<Config> {
    let node = node(check, file.section("node")?);
    let model = model(check, file.section("model")?);
    let batcher_keys = file.section("batcher")?;
    let infer = infer(check, file.section("infer")?);
    let track = track(check, file.section("track")?);
    let http = http(check, file.section("http")?);
    let mqtt = match file.section("mqtt") {
        Some(section) => mqtt(check, section, node.as_deref().unwrap_or("node")).map(Some),
        None => Some(None),
    };
    let rtsp_server = match file.section("rtsp_server") {
        Some(section) => rtsp_server(check, section).map(Some),
        None => Some(None),
    };
    let log = log(check, file.section("log")?);
    if let Some(track) = &track {
        camera::still_tracks(check, file, track);
    }
    let server = file.section("rtsp_server");
    let mut cameras: Vec<_> = file
        .named("cameras")
        .iter()
        .map(|(name, _, section)| {
            let mut camera = camera::camera(check, name, section, batcher_keys)?;
            camera.restream = restream::check(check, section, server, &camera.privacy);
            Some(camera)
        })
        .collect();
    camera::same_source(check, file, &cameras);
    let tenants = super::tenants::check(check, file, &mut cameras);
    if file.has("cameras") && file.named("cameras").is_empty() && !check.problems.any_error() {
        check.problems.error(file.place("cameras"), "there is no camera").help("add a table [cameras.porch]");
    }
    let events = file.section("events")?;
    let video = file.section("video")?;
    Some(Config {
        node: node?.into(),
        model: model?,
        infer: infer?,
        batcher: Batcher {
            max_batch_frames: batcher_keys.int("max_batch_frames") as usize,
            max_wait: ms(batcher_keys, "max_wait_ms"),
            slo_p95: ms(batcher_keys, "slo_p95_ms"),
            bulk_share: batcher_keys.float("bulk_share"),
        },
        track: track?,
        events: Events {
            update_interval: ms(events, "update_interval_ms"),
            keep: events.int("keep") as usize,
        },
        http: http?,
        tenants,
        mqtt: mqtt?,
        video: Video {
            max_viewers: video.int("max_viewers") as usize,
            jpeg_quality: video.int("jpeg_quality") as u32,
            trail: ms(video, "trail_ms"),
            style: Style {
                line: video.float("line_width"),
                text: video.float("label_size"),
                labels: video.bool("labels"),
                name: video.bool("camera_name"),
                clock: video.bool("clock"),
            },
        },
        rtsp_server: rtsp_server?,
        log: log?,
        grace: ms(file.section("shutdown")?, "grace_ms"),
        cameras: cameras.into_iter().collect::<Option<_>>()?,
    })
}

/// What an MQTT topic level, an URL and a file name all bear.
fn is_node_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn node(check: &mut Check<'_>, section: &Section) -> Option<String> {
    if let Some(name) = section.text("name") {
        if !is_node_name(name) {
            check
                .problems
                .error(section.place("name"), format!("`{}` cannot name a node", printable(name)))
                .label("1 to 64 letters, digits, `.`, `_` and `-`")
                .help("it stands in MQTT topics, where `/`, `+` and `#` have a meaning");
            return None;
        }
        return Some(name.to_owned());
    }
    let host = check.env.read_file(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default();
    let host = String::from_utf8_lossy(&host).trim().to_owned();
    Some(if is_node_name(&host) { host } else { "weir".to_owned() })
}

fn model(check: &mut Check<'_>, section: &Section) -> Option<Model> {
    let (file, manifest) = match (section.text("name"), section.text("path")) {
        (Some(_), Some(_)) => {
            check
                .problems
                .error(section.place("path"), "the model has a `name` and a `path`")
                .label("and here")
                .also(section.place("name"), "here")
                .help("keep one of them");
            return None;
        }
        (None, None) => {
            if !section.has("name") && !section.has("path") {
                let at = section.at.clone();
                let problem = if at.is_empty() {
                    check.problems.whole("there is no model")
                } else {
                    check.problems.error(at, "there is no model").label("in this table")
                };
                problem.help("add name = \"coco-ssd\" to [model], or path = \"FILE.onnx\"");
            }
            return None;
        }
        (Some(name), None) => model_by_name(check, section, name)?,
        (None, Some(path)) => model_by_path(check, section, path)?,
    };
    Some(Model { file, manifest, classes: section.texts("classes") })
}

fn model_by_name(check: &mut Check<'_>, section: &Section, name: &str) -> Option<(PathBuf, PathBuf)> {
    let at = section.place("name");
    if let Some(place) = section.has("manifest").then(|| section.place("manifest")) {
        check
            .problems
            .error(place, "`manifest` goes with `path`")
            .label("means nothing for a model by name")
            .help("take it out, or write path = \"FILE.onnx\" instead of `name`");
    }
    if !is_node_name(name) || name.starts_with('.') {
        check
            .problems
            .error(at, format!("`{}` cannot name a model", printable(name)))
            .label("letters, digits, `.`, `_` and `-`")
            .help("a file of your own is path = \"FILE.onnx\"");
        return None;
    }
    let folders: Vec<PathBuf> = section.texts("dirs").iter().map(|dir| check.path(dir).join(name)).collect();

    let manifests: Vec<PathBuf> = folders.iter().map(|folder| folder.join("model.toml")).collect();
    let Some(manifest) = manifests.iter().find(|path| check.is_file(path)) else {
        check
            .problems
            .error(at, format!("there is no model `{name}`"))
            .label("no manifest of this name")
            .help(format!("looked for{}", listed(&manifests)));
        return None;
    };
    let file = format!("{name}.onnx");
    let mut weights: Vec<PathBuf> = folders.iter().map(|folder| folder.join(&file)).collect();
    weights.push(super::env::cache_dir(check.env).join("models").join(&file));
    let Some(found) = weights.iter().find(|path| check.is_file(path)) else {
        check
            .problems
            .error(at, format!("the weights of the model `{name}` are not here"))
            .label("known, but not fetched")
            .help(format!("run `cargo xtask model fetch {name}`; looked for{}", listed(&weights)));
        return None;
    };
    Some((found.clone(), manifest.clone()))
}

fn model_by_path(check: &mut Check<'_>, section: &Section, written: &str) -> Option<(PathBuf, PathBuf)> {
    let at = section.place("path");
    let file = check.file(written, at.clone(), "the model");
    let manifest = match section.text("manifest") {
        Some(manifest) => check.file(manifest, section.place("manifest"), "the manifest"),
        None => {
            let file = file.as_ref()?;
            let beside = [file.with_extension("toml"), file.with_file_name("model.toml")];
            let found = beside.iter().find(|path| check.is_file(path)).cloned();
            if found.is_none() {
                let looked = listed(&beside);
                check
                    .problems
                    .error(at, "nothing describes this model")
                    .label("has no manifest")
                    .help(format!("`weir model inspect {written}` drafts one; looked for{looked}"));
            }
            found
        }
    };
    Some((file?, manifest?))
}

fn infer(check: &mut Check<'_>, section: &Section) -> Option<Infer> {
    let onnxruntime = match section.text("onnxruntime") {
        Some(file) => Some(check.file(file, section.place("onnxruntime"), "ONNX Runtime")?),
        None => None,
    };
    let openvino = match section.text("openvino") {
        Some(file) => Some(check.file(file, section.place("openvino"), "OpenVINO's plugin")?),
        None => None,
    };
    let tensorrt_rtx = match section.text("tensorrt_rtx") {
        Some(file) => Some(check.file(file, section.place("tensorrt_rtx"), "TensorRT-RTX's plugin")?),
        None => None,
    };
    let engine_cache = match section.text("engine_cache") {
        Some(folder) => check.path(folder),
        None => super::env::cache_dir(check.env).join("engines"),
    };
    let execution = execution(check, section)?;
    Some(Infer {
        onnxruntime,
        execution,
        gpus: section.ints("gpus"),
        openvino,
        tensorrt_rtx,
        engine_cache,
        threads: section.int("threads") as usize,
    })
}

fn execution(check: &mut Check<'_>, section: &Section) -> Option<Execution> {
    let words = section.texts("execution");
    let wrong = match words.as_slice() {
        [only] if only == "auto" => return Some(Execution::Auto),
        [] => "this list is empty",
        words if words.iter().any(|word| word == "auto") => "`auto` stands alone: it tries everything",
        words if (1..words.len()).any(|i| words[..i].contains(&words[i])) => "one of them stands twice",
        words => {
            let provider = |word: &String| match word.as_str() {
                "openvino" => Provider::OpenVino,
                "cuda" => Provider::Cuda,
                "tensorrt" => Provider::TensorRt,
                "tensorrt-rtx" => Provider::TensorRtRtx,
                _ => Provider::Cpu,
            };
            return Some(Execution::Order(words.iter().map(provider).collect()));
        }
    };
    check
        .problems
        .error(section.place("execution"), "`execution` does not say what runs the network")
        .label(wrong)
        .help("for example \"cpu\", \"auto\" or [\"openvino\", \"cpu\"]");
    None
}

fn track(check: &mut Check<'_>, section: &Section) -> Option<Track> {
    let track = Track {
        high_score: section.float("high_score"),
        low_score: section.float("low_score"),
        confirm_frames: section.int("confirm_frames") as u32,
        lost: ms(section, "lost_ms"),
    };
    if track.low_score > track.high_score {
        let key = if section.has("low_score") { "low_score" } else { "high_score" };
        check
            .problems
            .error(section.place(key), "`low_score` is above `high_score`")
            .label(format!("low {}, high {}", track.low_score, track.high_score))
            .help("detections between the two continue tracks but never start one");
        return None;
    }
    Some(track)
}

/// `bind`.
fn address(check: &mut Check<'_>, section: &Section, port: u16) -> Option<SocketAddr> {
    let written = section.text("bind")?;
    let at = section.place("bind");
    let Ok(bind) = written.parse::<SocketAddr>() else {
        let help = match written.rsplit_once(':') {
            Some(("", port)) => {
                format!("for every address of this machine write 0.0.0.0:{}", printable(port))
            }
            Some(("localhost", port)) => format!("write 127.0.0.1:{}", printable(port)),
            _ => format!("for example 127.0.0.1:{port}, or [::1]:{port}"),
        };
        check
            .problems
            .error(at, "`bind` is not an IP address with a port")
            .label("must be ADDRESS:PORT")
            .help(help);
        return None;
    };
    Some(bind)
}

fn rtsp_server(check: &mut Check<'_>, section: &Section) -> Option<RtspServer> {
    let bind = address(check, section, 8554)?;
    let login = secret::login(check, section, "bind", None);
    let wants_login = ["user", "password_env", "password_file"].iter().any(|key| section.has(key));
    if !bind.ip().is_loopback() && !wants_login {
        check
            .problems
            .error(section.place("bind"), format!("everybody who reaches {bind} could watch"))
            .label("not only this machine")
            .help("add user = \"NAME\" and password_file = \"PATH\", or bind 127.0.0.1");
        return None;
    }
    let encoders = section.texts("encoders");
    if encoders.is_empty() {
        check.problems.error(section.place("encoders"), "`encoders` names none").label("this list is empty");
        return None;
    }
    // A login that was asked for and is not there is a problem that has been reported.
    let login = if wants_login { Some(login?) } else { None };
    Some(RtspServer { bind, encoders, max_streams: section.int("max_streams") as usize, login })
}

fn http(check: &mut Check<'_>, section: &Section) -> Option<Http> {
    let bind = address(check, section, 8080)?;
    let at = section.place("bind");
    if !bind.ip().is_loopback() {
        check
            .problems
            .warn(at, format!("everybody who reaches {bind} can see the events and pictures"))
            .label("not only this machine")
            .help("reading needs no authentication: let a proxy ask for it, and bind 127.0.0.1");
    }
    Some(Http {
        bind,
        max_sse_clients: section.int("max_sse_clients") as usize,
        sse_heartbeat: Duration::from_secs(section.int("sse_heartbeat_s")),
        max_pending_requests: section.int("max_pending_requests") as usize,
        max_image_bytes: section.int("max_image_mb") as usize * 1_000_000,
        max_image_pixels: section.int("max_image_megapixels") * 1_000_000,
        token: secret::token(check, section),
    })
}

fn mqtt(check: &mut Check<'_>, section: &Section, node: &str) -> Option<Mqtt> {
    let prefix = section.text("prefix")?;
    if prefix.contains(['+', '#', '\0', '$']) || prefix.split('/').any(str::is_empty) {
        check
            .problems
            .error(section.place("prefix"), "this cannot begin an MQTT topic")
            .label("no `+`, `#`, `$`, and no empty part between `/`")
            .help("for example \"weir\" or \"site/weir\"");
    }
    let url = mqtt_url(check, section);
    let mut tls = None;
    let ca_file = match section.text("ca_file") {
        Some(file) => Some(check.file(file, section.place("ca_file"), "the CA")?),
        None => None,
    };
    if url.as_ref().is_some_and(|url| url.scheme() == "mqtts") {
        tls = Some(MqttTls { ca_file });
    } else if let (Some(_), true) = (&url, section.has("ca_file")) {
        check
            .problems
            .error(section.place("ca_file"), "`ca_file` means nothing without TLS")
            .label("a CA")
            .also(section.place("url"), "not encrypted")
            .help("write mqtts:// for TLS, or take `ca_file` out");
    }
    let mut url = url?;
    let in_url = secret::take_userinfo(&mut url);
    let login = secret::login(check, section, "url", in_url);
    Some(Mqtt {
        host: url.host_str()?.trim_matches(['[', ']']).to_owned(),
        port: url.port().unwrap_or(if tls.is_some() { 8883 } else { 1883 }),
        tls,
        client_id: section.text("client_id").map_or_else(|| format!("weir-{node}"), str::to_owned),
        login,
        prefix: prefix.to_owned(),
        max_inflight: section.int("max_inflight") as u16,
    })
}

fn mqtt_url(check: &mut Check<'_>, section: &Section) -> Option<Url> {
    let written = section.text("url")?;
    let at = section.place("url");
    let url = Url::parse(written).ok();
    let url = url.filter(|url| url.host_str().is_some_and(|host| !host.is_empty()) && url.port() != Some(0));
    let Some(url) = url.filter(|url| matches!(url.scheme(), "mqtt" | "mqtts")) else {
        let help = match written.split_once("://").map(|(scheme, _)| scheme) {
            Some("tcp") => "tcp:// is written mqtt://",
            Some("ssl" | "tls") => "TLS is written mqtts://",
            Some("ws" | "wss") => "weir speaks MQTT over TCP and TLS, not over WebSocket",
            _ => "for example mqtt://localhost:1883",
        };
        check
            .problems
            .error(at, "this is not the address of a broker")
            .label("must be mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
            .help(help);
        return None;
    };
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        check
            .problems
            .error(at, "a broker's address has no path")
            .label("must end after the port")
            .help("topics begin with `prefix`");
        return None;
    }
    Some(url)
}

fn log(check: &mut Check<'_>, section: &Section) -> Option<Log> {
    let level = section.text("level")?.to_owned();
    if let Err(help) = crate::log::filter(&level) {
        check
            .problems
            .error(section.place("level"), "this is not a log level")
            .label("must be error, warn, info, debug or trace, or filters")
            .help(help);
        return None;
    }
    let format = match section.text("format") {
        Some("human") => LogFormat::Human,
        Some("json") => LogFormat::Json,
        Some("journald") => LogFormat::Journald,
        _ => LogFormat::Auto,
    };
    Some(Log { format, level })
}
