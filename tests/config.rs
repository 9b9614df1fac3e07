//! The configuration as an operator meets it: good files load, bad files say what is wrong and where.
//!
//! `WEIR_BLESS=1 cargo test --test config` rewrites the stored texts; the diff is what is reviewed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weir::config::{Config, Env, Source, Stat, System};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A world of its own, so that texts are the same on every machine.
#[derive(Clone, Default)]
struct World {
    vars: BTreeMap<&'static str, &'static str>,
    files: BTreeMap<PathBuf, (Vec<u8>, u32)>,
}

impl World {
    /// What the files in tests/data/bad and config/examples name.
    fn usual() -> World {
        let mut world = World::default();
        world.vars.insert("CAM_PASSWORD", "hunter2-from-environment");
        world.vars.insert("EMPTY", "");
        world.vars.insert("HOME", "/home/weir");
        world.vars.insert("CREDENTIALS_DIRECTORY", "/run/credentials/weir.service");
        for (path, text) in [
            ("/proc/sys/kernel/hostname", "edge-1\n"),
            ("models/demo/model.toml", ""),
            ("models/demo/demo.onnx", ""),
            ("models/unfetched/model.toml", ""),
            ("/usr/share/weir/models/coco-ssd/model.toml", ""),
            ("/home/weir/.cache/weir/models/coco-ssd.onnx", ""),
            ("alone.onnx", ""),
            ("my-detector.onnx", ""),
            ("my-detector.toml", ""),
            ("ca.pem", ""),
            ("video.mp4", ""),
            ("plugin.so", ""),
            (
                "pipelines/mjpeg.pipe",
                "# {comment}\nsouphttpsrc location={url} ! jpegdec ! video/x-raw,format={ NV12, I420 }",
            ),
            ("/run/credentials/weir.service/porch-password", "hunter2-from-systemd\n"),
            ("secret", "hunter2-from-file\n"),
            ("empty-secret", "\n"),
            ("two-line-secret", "hunter2\nhunter3\n"),
        ] {
            world = world.file(path, text);
        }
        world.files.insert("open-secret".into(), (b"hunter2".to_vec(), 0o100_644));
        world
    }

    fn file(mut self, path: &str, text: impl Into<Vec<u8>>) -> World {
        self.files.insert(path.into(), (text.into(), 0o100_600));
        self
    }

    fn load(&self, text: &str) -> Result<(Config, Vec<weir::config::Problem>), weir::config::Report> {
        Config::load(Path::new("weir.toml"), &self.clone().file("weir.toml", text))
    }
}

impl Env for World {
    fn var(&self, name: &str) -> Option<String> {
        self.vars.get(name).map(|value| (*value).to_owned())
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files.get(path).map(|(bytes, _)| bytes.clone()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        if let Some((_, mode)) = self.files.get(path) {
            return Ok(Stat { folder: false, mode: *mode });
        }
        match self.files.keys().any(|file| file.starts_with(path)) {
            true => Ok(Stat { folder: true, mode: 0o040_755 }),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

const GOOD: &str = "[model]\nname = \"demo\"\n[cameras.porch]\nsource = \"rtsp://10.0.0.1/s\"\n";

fn toml_files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join(folder))
        .expect(folder)
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

/// Compares with a stored text, or rewrites it.
fn stored(path: &Path, text: &str) -> Result<(), String> {
    if std::env::var_os("WEIR_BLESS").is_some() {
        std::fs::write(path, text).expect("the stored text can be written");
    }
    let old = std::fs::read_to_string(path).unwrap_or_default();
    if old == text {
        return Ok(());
    }
    let diff = similar::TextDiff::from_lines(&old, text);
    Err(format!("{}:\n{}", path.display(), diff.unified_diff().header("stored", "now")))
}

#[test]
fn bad_files_say_what_is_wrong() {
    let files = toml_files("tests/data/bad");
    assert!(files.len() >= 25, "{} files", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a plain name");
        let bytes = std::fs::read(&file).expect("a readable file");
        let said = match Config::load(Path::new(name), &World::usual().file(name, bytes)) {
            Err(report) => report.render(false),
            // Files that begin with warn- are good, but not quite.
            Ok((_, warnings)) if name.starts_with("warn-") && !warnings.is_empty() => {
                warnings.iter().map(|warning| warning.render(false) + "\n").collect()
            }
            Ok(_) => panic!("{name} loads without a word"),
        };
        assert!(!said.contains("hunter"), "{name} shows a secret:\n{said}");
        wrong.extend(stored(&file.with_extension("stderr"), &said).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn examples_load_without_a_warning() {
    let files = toml_files("config/examples");
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a readable file");
        let (_, warnings) =
            World::usual().load(&text).unwrap_or_else(|report| panic!("{}: {report}", file.display()));
        assert!(warnings.is_empty(), "{}: {warnings:?}", file.display());
    }
}

/// They lack only what nobody else can know: the model and the cameras.
#[test]
fn profiles_load_once_they_have_a_model_and_a_camera() {
    for (name, frames) in [("gpu-24gb", 16), ("gpu-48gb", 32), ("gpu-80gb", 64)] {
        let text =
            std::fs::read_to_string(root().join(format!("config/{name}.toml"))).expect("a readable file");
        let more = "[model]\nname = \"coco-ssd\"\n[cameras.porch]\nsource = \"rtsp://192.0.2.10/stream1\"\n";
        let (config, warnings) = World::usual()
            .load(&format!("{text}{more}"))
            .unwrap_or_else(|report| panic!("{name}: {}", report.render(false)));
        assert!(warnings.is_empty(), "{name}: {warnings:?}");
        assert_eq!(config.batcher.max_batch_frames, frames, "{name}");
        assert_eq!(config.infer.execution.to_string(), "cuda, then cpu", "{name}");
        let report = World::usual().load(&text).expect_err("it has no model and no camera").render(false);
        assert!(report.contains("model") && report.contains("cameras"), "{name}: {report}");
    }
}

#[test]
fn the_reference_is_fresh() {
    stored(&root().join("config/reference.toml"), &weir::config::reference()).unwrap();
}

#[test]
fn the_reference_loads_and_its_values_are_the_defaults() {
    // The reference leaves the model open, as its two ways exclude each other.
    let reference = weir::config::reference().replace("#name = \"coco", "name = \"coco");
    let (full, warnings) = World::usual().load(&reference).unwrap();
    assert!(warnings.is_empty());
    let least = "[model]\nname = \"coco-ssd\"\n[cameras.porch]\nsource = \"rtsp://192.0.2.10/stream1\"\n";
    let (least, _) = World::usual().load(least).unwrap();
    assert_eq!(format!("{full:#?}"), format!("{least:#?}"));
}

#[test]
fn every_example_value_of_the_reference_is_of_its_kind() {
    let text = weir::config::reference();
    let on: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let report = World::usual().load(&on).unwrap_err().render(false);
    for problem in ["is not a key", "must be a", "out of range", "not TOML", "is empty", "is not a value"] {
        assert!(!report.contains(problem), "{report}");
    }
}

#[test]
fn every_key_arrives() {
    let text = r#"
        [node]
        name = "Edge.2"
        [model]
        path = "my-detector.onnx"
        classes = ["person", "car"]
        [infer]
        threads = 3
        execution = ["openvino", "cpu"]
        openvino = "plugin.so"
        tensorrt_rtx = "plugin.so"
        engine_cache = "engines"
        [batcher]
        max_batch_frames = 8
        max_wait_ms = 0x10
        drop_policy = "skip-frame"
        ring_buffer_ms = 500
        [track]
        high_score = 0.6
        low_score = 0
        confirm_frames = 2
        lost_ms = 1500
        [events]
        update_interval_ms = 250
        keep = 2_000
        [http]
        bind = "[::1]:0"
        max_sse_clients = 7
        sse_heartbeat_s = 5
        max_pending_requests = 9
        max_image_mb = 3
        max_image_megapixels = 2
        token_file = "secret"
        [tenants.lab]
        max_pending_requests = 4
        max_fps = 2.5
        max_cameras = 1
        max_camera_fps = 12
        [tenants.shop]
        [mqtt]
        url = "mqtts://broker.example"
        ca_file = "ca.pem"
        user = "weir"
        password_file = "porch-password"
        prefix = "site/weir"
        max_inflight = 9
        [video]
        max_viewers = 3
        jpeg_quality = 70
        trail_ms = 0
        line_width = 4.5
        label_size = 20
        labels = false
        camera_name = false
        clock = false
        [rtsp_server]
        bind = "127.0.0.1:0"
        encoders = ["x264enc", "x265enc"]
        max_streams = 2
        bitrate_kbps = 900
        max_width = 640
        max_fps = 12.5
        show = "all"
        [log]
        format = "json"
        level = "info,weir::stage=debug"
        [shutdown]
        grace_ms = 2000
        [cameras.zulu]
        source = "RTSPS://10.0.0.1:8322/s"
        transport = "auto"
        latency_ms = 40
        user = "viewer"
        password_env = "CAM_PASSWORD"
        tls_insecure = true
        ring_buffer_ms = 90
        drop_policy = "oldest"
        stall_ms = 700
        zones.door = { polygon = [[0, 0], [1, 0], [1, 1]], dwell_ms = 900, classes = ["person"] }
        lines.gate = { ends = [[0, 0.5], [1, 0.5]] }
        masks.left.polygon = [[0, 0], [0.25, 0], [0.25, 1]]
        [cameras.zulu.restream]
        codec = "h265"
        bitrate_kbps = 500
        max_width = 320
        max_fps = 5
        always = true
        show = "analysed"
        raw = false
        raw_shows_hidden = true
        [cameras.alpha]
        tenant = "lab"
        source = "file:video.mp4"
        repeat = false
        realtime = false
        [cameras.mike]
        source = "pipeline:mjpeg"
        params = { url = "http://10.0.0.9/" }
    "#;
    let (config, warnings) = World::usual().load(text).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let shown = format!("{config:#?}");
    assert!(!shown.contains("hunter"), "{shown}");
    // Stored whole: a key that arrives nowhere, or wrongly, shows in the diff.
    stored(&root().join("tests/data/every_key.txt"), &format!("{shown}\n")).unwrap();
    // In the order of the file, not of the alphabet.
    let names: Vec<&str> = config.cameras.iter().map(|camera| &*camera.name).collect();
    assert_eq!(names, ["zulu", "alpha", "mike"]);
    assert_eq!(config.cameras[1].ring, Duration::from_millis(500), "from [batcher]");
    use secrecy::ExposeSecret;
    assert_eq!(config.http.token.as_ref().unwrap().expose_secret(), "hunter2-from-file");
    let Source::Rtsp(rtsp) = &config.cameras[0].source else { panic!("rtsp") };
    assert_eq!(rtsp.login.as_ref().unwrap().password.expose_secret(), "hunter2-from-environment");
    let login = config.mqtt.unwrap().login.unwrap();
    assert_eq!(login.password.expose_secret(), "hunter2-from-systemd");
}

#[test]
fn a_login_in_an_address_is_taken_out_and_warned_of() {
    use secrecy::ExposeSecret;
    let text = GOOD.replace("10.0.0.1", "ad%6Din:p%40ss%2Fword@10.0.0.1");
    let (config, warnings) = World::usual().load(&text).unwrap();
    let Source::Rtsp(rtsp) = &config.cameras[0].source else { panic!("rtsp") };
    assert_eq!(rtsp.url.as_str(), "rtsp://10.0.0.1/s");
    let login = rtsp.login.as_ref().unwrap();
    assert_eq!((login.user.as_str(), login.password.expose_secret()), ("admin", "p@ss/word"));
    assert!(warnings[0].remedy().contains("password_file"));
    assert!(!format!("{config:?} {warnings:?} {}", warnings[0].render(true)).contains("ss%2F"));
}

#[test]
fn a_list_that_is_not_closed_tells_no_password() {
    let text = format!("[infer]\nexecution = [\n{GOOD}password = \"hunter2\"\n");
    let report = World::usual().load(&text).unwrap_err().render(false);
    assert!(report.contains("not a value of `execution`") && !report.contains("hunter2"), "{report}");
}

#[test]
fn what_cannot_be_read_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let said = |path: &Path| Config::load(path, &System).unwrap_err().render(false);

    let text = said(&path("missing.toml"));
    assert!(
        text.contains("missing.toml: it does not exist") && text.contains("weir config reference"),
        "{text}"
    );

    let text = said(folder.path());
    assert!(text.contains("it is a folder"), "{text}");

    std::fs::write(path("latin1.toml"), b"[node]\nname = \"caf\xe9\"\n").unwrap();
    let text = said(&path("latin1.toml"));
    assert!(text.contains("line 2 is not UTF-8"), "{text}");

    std::fs::write(path("large.toml"), vec![b'\n'; (4 << 20) + 1]).unwrap();
    let text = said(&path("large.toml"));
    assert!(text.contains("larger than 4 MiB"), "{text}");

    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path("private.toml"), GOOD).unwrap();
    std::fs::set_permissions(path("private.toml"), std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(path("private.toml")).is_ok() {
        eprintln!("SKIPPED: permission denied cannot be tried as root");
    } else {
        let text = said(&path("private.toml"));
        assert!(text.contains("permission denied"), "{text}");
    }
}

/// The same on any machine, root or not.
#[test]
fn a_denied_file_is_told() {
    struct Denied;
    impl Env for Denied {
        fn var(&self, _: &str) -> Option<String> {
            None
        }
        fn read_file(&self, _: &Path) -> io::Result<Vec<u8>> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
        fn stat(&self, _: &Path) -> io::Result<Stat> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
    let text = Config::load(Path::new("weir.toml"), &Denied).unwrap_err().render(false);
    assert!(text.contains("cannot read weir.toml: permission denied"), "{text}");
    assert!(text.contains("the user that runs weir"), "{text}");
}

#[test]
fn a_tenants_frames_are_divided_among_its_cameras_by_weight() {
    let text = "[model]\nname = \"demo\"\n[tenants.shop]\nmax_camera_fps = 20\n\
        [cameras.door]\nsource = \"rtsp://10.0.0.1/s\"\ntenant = \"shop\"\nweight = 3\n\
        [cameras.till]\nsource = \"rtsp://10.0.0.2/s\"\ntenant = \"shop\"\n\
        [cameras.yard]\nsource = \"rtsp://10.0.0.3/s\"\n";
    let fps = |text: &str| {
        let (config, _) = World::usual().load(text).unwrap();
        config.cameras.iter().map(|c| (c.name.to_string(), c.max_fps)).collect::<Vec<_>>()
    };
    let of = |list: [(&str, Option<f32>); 3]| list.map(|(name, fps)| (name.to_owned(), fps)).to_vec();
    assert_eq!(fps(text), of([("door", Some(15.0)), ("till", Some(5.0)), ("yard", None)]));
    let slower = text.replace("weight = 3", "weight = 3\nmax_fps = 2.5");
    assert_eq!(fps(&slower), of([("door", Some(2.5)), ("till", Some(5.0)), ("yard", None)]));
}

#[test]
fn ranges_include_their_ends() {
    for (n, good) in [(0, false), (1, true), (64, true), (65, false)] {
        let text = format!("{GOOD}[batcher]\nmax_batch_frames = {n}\n");
        assert_eq!(World::usual().load(&text).is_ok(), good, "{n}");
    }
}

/// The program itself: what it prints where, and its exit codes.
#[test]
fn exit_codes_are_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let weir = |args: &[&str]| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(args)
            .current_dir(folder.path())
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
    };
    let (code, out, err) = weir(&["config", "reference"]);
    assert_eq!((code, out, err.as_str()), (0, weir::config::reference(), ""));
    let (code, out, _) = weir(&["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &schema["properties"]["schema"]["const"]), (0, &"weir.event/1".into()));
    let (code, out, _) = weir(&["--help"]);
    assert!(code == 0 && out.contains("78  the configuration is wrong"), "{out}");

    let (code, _, err) = weir(&["chek"]);
    assert!(code == 64 && err.contains("'check'"), "{code} {err}");
    assert_eq!(weir(&[]).0, 64);

    let (code, out, err) = weir(&["check"]);
    assert!(code == 78 && out.is_empty() && err.contains("cannot read weir.toml"), "{code} {out} {err}");
    for file in ["my.onnx", "my.toml"] {
        std::fs::write(folder.path().join(file), "").unwrap();
    }
    let good = GOOD.replace("name = \"demo\"", "path = \"my.onnx\"");
    std::fs::write(folder.path().join("weir.toml"), &good).unwrap();
    assert_eq!(weir(&["check"]), (0, "good: 1 camera\n".into(), String::new()));
    std::fs::write(folder.path().join("bad.toml"), good + "lines = 3").unwrap();
    let (code, _, err) = weir(&["check", "-c", "bad.toml"]);
    assert!(code == 78 && err.contains("[bad.toml:5:9]"), "{code} {err}");
}

mod mutations {
    use proptest::prelude::*;

    use super::*;

    const PIECES: [&str; 23] = [
        "[",
        "]",
        "\"",
        "'",
        "=",
        "\n",
        ".",
        "@",
        "://",
        "é",
        "\u{0}",
        "#",
        "\"\"\"",
        "{",
        "}",
        "-1",
        "1e400",
        "nan",
        "99999999999999999999",
        "0x",
        "[cameras.porch]\n",
        "true",
        ",",
    ];

    fn text() -> String {
        let every = weir::config::reference();
        // Only what says something: comments would swallow most of the mutations.
        every
            .lines()
            .map(|line| line.strip_prefix('#').filter(|l| !l.starts_with([' ', '#'])).unwrap_or(line))
            .fold(String::new(), |mut all, line| {
                if !line.starts_with('#') && !line.is_empty() {
                    all += line;
                    all.push('\n');
                }
                all
            })
    }

    proptest! {
                /// Whatever is in the file: an answer, never a panic; rendered with and without colours; and no
        /// password that stood behind `password =`.
        #[test]
        fn a_broken_file_never_panics(edits in prop::collection::vec((0.0..1.0f64, 0usize..23, 0usize..12), 1..6), secret in 0.0..1.0f64) {
            let mut text = text();
            let at = |text: &str, place: f64| text.floor_char_boundary((place * text.len() as f64) as usize);
            for (place, piece, delete) in edits {
                let at = at(&text, place);
                let end = text.floor_char_boundary((at + delete).min(text.len()));
                text.replace_range(at..end, PIECES[piece]);
            }
            text.insert_str(at(&text, secret), "password = \"hunter2\"\n");
            match World::usual().load(&text) {
                Ok((config, warnings)) => {
                    let _ = format!("{config:?}");
                    for warning in warnings {
                        warning.render(true);
                    }
                }
                Err(report) => {
                    prop_assert!(!report.problems().is_empty());
                    prop_assert!(!report.render(false).contains("hunter2"), "{}", report);
                    report.render(true);
                }
            }
        }
    }
}

#[test]
fn between_two_configurations_cameras_come_change_and_go() {
    let world = World::usual().file("a-password", "one").file("other-video.mp4", "");
    let camera =
        |name: &str, rest: &str| format!("[cameras.{name}]\nsource = \"rtsp://10.0.0.1/{name}\"\n{rest}\n");
    let secret = "user = \"u\"\npassword_file = \"a-password\"";
    let model = "[model]\nname = \"demo\"\n";
    let text = |rest: &[String]| format!("{model}{}", rest.concat());
    let load = |world: &World, text: &str| world.load(text).expect("it is good").0;
    let old = text(&[
        camera("stays", ""),
        camera("goes", ""),
        camera("secret", secret),
        camera("capped", "weight = 2"),
        camera("both", ""),
    ]);
    let before = load(&world, &old);
    assert!(weir::config::between(&before, &load(&world, &old)).is_empty());

    let new = text(&[
        camera("comes", ""),
        camera("stays", ""),
        camera("secret", secret),
        camera("capped", "max_fps = 5"),
        camera("both", "max_fps = 5\nring_buffer_ms = 200"),
        "[batcher]\nmax_wait_ms = 7\n[track]\nlost_ms = 3000\n".to_owned(),
    ]);
    // The password is another one, though the file's text is the same.
    let after = load(&world.file("a-password", "two"), &new);
    let changes = weir::config::between(&before, &after);
    let names =
        |cameras: &[weir::config::Camera]| cameras.iter().map(|c| c.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&changes.added), ["comes"]);
    assert_eq!(names(&changes.changed), ["secret", "both"]);
    assert_eq!(names(&changes.retuned), ["capped"]);
    assert_eq!(changes.removed, ["goes".into()]);
    assert_eq!(changes.restart, ["[batcher]", "[track]"]);
}

#[test]
fn a_tenants_new_camera_changes_the_others_only_in_their_terms() {
    let world = World::usual();
    let text = |names: &[&str]| {
        let cameras = names.iter().map(|name| {
            format!("[cameras.{name}]\nsource = \"rtsp://10.0.0.1/{name}\"\ntenant = \"shop\"\n")
        });
        format!(
            "[model]\nname = \"demo\"\n[tenants.shop]\nmax_camera_fps = 30\n{}",
            cameras.collect::<String>()
        )
    };
    let load = |names: &[&str]| world.load(&text(names)).expect("it is good").0;
    let changes = weir::config::between(&load(&["a", "b"]), &load(&["a", "b", "c"]));
    let terms: Vec<_> = changes.retuned.iter().map(|camera| (&*camera.name, camera.max_fps)).collect();
    assert_eq!(terms, [("a", Some(10.0)), ("b", Some(10.0))]);
    assert!(changes.changed.is_empty() && changes.added.len() == 1 && changes.restart.is_empty());
}
