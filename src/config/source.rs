//! `source`: from what is written to a checked [`Source`].

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::check::Check;
use super::file::{Section, closest, printable};
use super::schema::Kind;
use super::{Rtsp, Source, Transport, secret};

/// The kinds of source, as written before the colon.
const KINDS: [&str; 5] = ["rtsp", "rtsps", "file", "v4l2", "pipeline"];
const READS: &str =
    "weir reads rtsp://HOST/PATH, rtsps://HOST/PATH, file:PATH, v4l2:/dev/videoN and pipeline:NAME";

/// Checks `source` and the keys that belong to it.
pub(super) fn check(check: &mut Check<'_>, camera: &Section) -> Option<Source> {
    let written = camera.text("source")?;
    let at = camera.place("source");
    let (kind, rest) = written.split_once(':').unwrap_or(("", written));
    let kind = kind.to_ascii_lowercase();
    if !KINDS.contains(&kind.as_str()) {
        unknown(check, camera, &kind, written);
        return None;
    }
    foreign_keys(check, camera, &kind);
    match kind.as_str() {
        "file" => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            let path = check.file(path, at, "the video")?;
            Some(Source::File { path, repeat: camera.bool("repeat"), realtime: camera.bool("realtime") })
        }
        "v4l2" => {
            if !rest.starts_with("/dev/") {
                check
                    .problems
                    .error(at, "`v4l2:` needs a device")
                    .label("must be v4l2:/dev/videoN")
                    .help("`ls /dev/video*` or `ls /dev/v4l/by-id` shows them");
                return None;
            }
            // It may be plugged in later: its absence is the camera's failure, not the configuration's.
            Some(Source::V4l2 { device: PathBuf::from(rest) })
        }
        "pipeline" => pipeline(check, camera, rest),
        _ => rtsp(check, camera, written, &kind),
    }
}

fn unknown(check: &mut Check<'_>, camera: &Section, kind: &str, written: &str) {
    let at = camera.place("source");
    let looks_like_file = check.env.stat(&check.path(written)).is_ok_and(|stat| !stat.folder);
    let address = written.contains("://");
    let message = match kind {
        _ if looks_like_file => "`source` does not say what it is".to_owned(),
        "" => "`source` does not say what it is".to_owned(),
        kind if address && kind.len() < 16 && kind.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            format!("weir does not read {kind}:// sources")
        }
        _ => "weir does not know this kind of source".to_owned(),
    };
    let close = closest(kind, &KINDS).filter(|_| address || !kind.contains(['.', '/']));
    let problem = check.problems.error(at, message);
    match (kind, close) {
        ("http" | "https", _) => {
            problem.label("not an RTSP address");
            problem.help(
                "nearly every camera also offers RTSP: look for rtsp://HOST:554/… in its settings;\n\
                 anything else that GStreamer reads can be a pipeline:NAME",
            );
            return;
        }
        _ if looks_like_file => problem.label("a video file is written file:PATH"),
        (_, Some(close)) => problem.label(format!("did you mean `{close}:`?")),
        _ => problem.label("not one of the five kinds"),
    };
    problem.help(READS);
}

/// Keys that only other kinds of source have.
fn foreign_keys(check: &mut Check<'_>, camera: &Section, kind: &str) {
    for (key, at) in camera.written() {
        if key.only.is_empty() || key.only.contains(&kind) || matches!(key.kind, Kind::Refused(_)) {
            continue;
        }
        let shown = if kind.starts_with("rtsp") { format!("{kind}://") } else { format!("{kind}:") };
        check
            .problems
            .error(at, format!("`{}` means nothing for {shown} sources", key.name))
            .label(format!("only for {}", key.only.join(" and ")))
            .also(camera.place("source"), "the source")
            .help("take it out");
    }
}

fn rtsp(check: &mut Check<'_>, camera: &Section, written: &str, kind: &str) -> Option<Source> {
    let at = camera.place("source");
    let parsed = if written[kind.len()..].starts_with("://") { Url::parse(written).ok() } else { None };
    // The text is not repeated: where it is wrong, what part of it is the password cannot be told.
    let Some(mut url) = parsed.filter(|url| url.host_str().is_some_and(|host| !host.is_empty())) else {
        let help = if written.contains('@') {
            "`@`, `/`, `:` and `#` in a password break the address: use `user` and `password_file`"
        } else {
            "for example rtsp://192.0.2.10:554/stream1"
        };
        check
            .problems
            .error(at, format!("this is not an {kind}:// address"))
            .label(format!("must be {kind}://HOST[:PORT]/PATH"))
            .help(help);
        return None;
    };
    if url.port() == Some(0) {
        check.problems.error(at, "port 0 is no port").label("must be 1..=65535");
        return None;
    }
    let in_url = secret::take_userinfo(&mut url);
    let login = secret::login(check, camera, "source", in_url);
    let tls_ca_file = match camera.text("tls_ca_file") {
        Some(file) => Some(check.file(file, camera.place("tls_ca_file"), "the CA")?),
        None => None,
    };
    let tls_insecure = camera.bool("tls_insecure");
    if let (true, Some(_)) = (tls_insecure, &tls_ca_file) {
        check
            .problems
            .error(camera.place("tls_insecure"), "`tls_insecure` makes `tls_ca_file` meaningless")
            .label("accepts any certificate")
            .also(camera.place("tls_ca_file"), "trusts this one")
            .help("keep one of them");
    }
    let transport = match camera.text("transport") {
        Some("udp") => Transport::Udp,
        Some("auto") => Transport::Auto,
        _ => Transport::Tcp,
    };
    let latency = Duration::from_millis(camera.int("latency_ms"));
    Some(Source::Rtsp(Rtsp { url, login, transport, latency, tls_ca_file, tls_insecure }))
}

fn pipeline(check: &mut Check<'_>, camera: &Section, name: &str) -> Option<Source> {
    let at = camera.place("source");
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if !word(name) {
        check.problems.error(at, "`pipeline:` needs a name").label("letters, digits, `-` and `_`");
        return None;
    }
    let places = [check.path("pipelines"), PathBuf::from("/usr/share/weir/pipelines")];
    let files = places.map(|folder| folder.join(format!("{name}.pipe")));
    let Some(file) = files.iter().find(|file| check.env.stat(file).is_ok_and(|stat| !stat.folder)) else {
        let looked = super::check::listed(&files);
        check
            .problems
            .error(at, format!("there is no pipeline `{}`", printable(name)))
            .label("no such file")
            .help(format!("looked for{looked}"));
        return None;
    };
    let params = camera.params("params");
    let text = check.env.read_file(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            let why = super::check::why(&error);
            check.problems.error(at, format!("cannot read {}: {why}", file.display())).label("this pipeline");
            return None;
        }
    };
    let wanted = placeholders(&text);
    for name in &wanted {
        if !params.contains_key(*name) {
            check
                .problems
                .error(at.clone(), format!("the pipeline needs the parameter `{name}`"))
                .label("this pipeline")
                .help(format!("add {name} = \"…\" to [{}.params]", camera.path));
        }
    }
    for name in params.keys().filter(|name| !wanted.contains(&name.as_str())) {
        check
            .problems
            .error(camera.place("params"), format!("the pipeline has no parameter `{}`", printable(name)))
            .label("in this table")
            .help(format!("its parameters: {}", wanted.join(", ")));
    }
    Some(Source::Pipeline { file: file.clone(), params })
}

/// The `{key}` places of a description. Keys are lower-case: GStreamer's own lists, `{ NV12, I420 }`, are not.
fn placeholders(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let parts = lines
        .flat_map(|line| line.split('{').skip(1))
        .filter_map(|part| part.split_once('}'))
        .map(|(name, _)| name);
    let mut names: Vec<&str> = parts
        .filter(|name| {
            name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}
