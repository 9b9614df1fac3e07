//! The whole daemon as its users meet it: the binary, real RTSP servers, HTTP. Everything listens on a free loopback
//! port and is killed on drop.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::print_stdout, reason = "what is skipped is said out loud")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::wait::until;

/// The `weir` binary under test.
pub fn weir() -> Command {
    Command::new(env!("CARGO_BIN_EXE_weir"))
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether what `cargo xtask test` sets up is here; says so out loud when not.
pub fn ready(test: &str) -> bool {
    let model = weir::config::cache_dir().join("models/coco-ssd.onnx");
    let library = weir::device::software::session::candidates().iter().any(|p| p.is_file());
    if model.is_file() && library {
        return true;
    }
    println!("skipped: {test}: no ONNX Runtime or no {} (`cargo xtask setup` fetches them)", model.display());
    false
}

/// The street clip that `cargo xtask setup` makes.
pub fn street() -> PathBuf {
    weir::config::cache_dir().join("video/vtest-h264.mp4")
}

/// A camera with a moving ball, made by GStreamer: its table, with `more` keys.
pub fn ball(name: &str, (width, height): (u32, u32), fps: u64, more: &str) -> String {
    format!(
        "[cameras.{name}]\nsource = \"pipeline:test-pattern\"\n{more}\n[cameras.{name}.params]\npattern = \"ball\"\nwidth = \"{width}\"\nheight = \"{height}\"\nfps = \"{fps}\"\n"
    )
}

/// How many frames of a camera, as the API tells of it, met this fate; or `in` and `in_flight`. Each that came in has exactly one of them.
pub fn count(camera: &Value, what: &str) -> u64 {
    let of = |what: &str| {
        camera["frames"][what].as_u64().unwrap_or_else(|| panic!("{what} is missing in {camera}"))
    };
    let fates: u64 = weir::frame::Fate::ALL.map(|fate| of(fate.name())).iter().sum();
    assert_eq!(of("in"), fates + of("in_flight"), "{camera}");
    of(what)
}

/// One RTSP camera: a process of its own, so that signals hit it alone.
pub struct Sim {
    child: Child,
    pub url: String,
    args: Vec<String>,
}

impl Sim {
    /// Starts `rtsp-sim` with these arguments on a free port.
    pub fn start(args: &[&str]) -> Sim {
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        let port = free_port();
        Self::on(port, args)
    }

    fn on(port: u16, args: Vec<String>) -> Sim {
        let binary = Path::new(env!("CARGO_BIN_EXE_weir")).with_file_name("examples/rtsp-sim");
        assert!(binary.is_file(), "{} is missing: `cargo build --examples` first", binary.display());
        let mut child = Command::new(binary)
            .args(["--port", &port.to_string()])
            .args(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("rtsp-sim starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("rtsp-sim says where it listens");
        let hello: Value =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("rtsp-sim said {line:?}: {e}"));
        Sim { child, url: hello["url"].as_str().expect("it names its url").to_owned(), args }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Another camera at the same port.
    pub fn restart_as(&mut self, args: &[&str]) {
        self.args = args.iter().map(|s| (*s).to_owned()).collect();
        self.restart();
    }

    /// The same camera at the same port again.
    pub fn restart(&mut self) {
        let port = url::Url::parse(&self.url).ok().and_then(|u| u.port()).expect("the url has a port");
        *self = Self::on(port, self.args.clone());
    }

    /// SIGSTOP or SIGCONT.
    pub fn signal(&self, signal: &str) {
        send(signal, self.child.id());
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.kill();
    }
}

fn send(signal: &str, pid: u32) {
    let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(status.is_ok_and(|s| s.success()), "kill -{signal} {pid}");
}

/// A running daemon.
pub struct Daemon {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub http: String,
    log: PathBuf,
    head: String,
    dir: tempfile::TempDir,
}

impl Daemon {
    /// Starts `weir run` on this configuration, to which node, model and a free HTTP port are added.
    pub fn start(config: &str) -> Daemon {
        Self::start_with_http("", config)
    }

    /// The same with more keys of `[http]`.
    pub fn start_with_http(http: &str, config: &str) -> Daemon {
        let mut daemon = Self::spawn(config, &format!("{http}[model]\nname = \"coco-ssd\"\n"));
        until("the daemon is ready", || {
            let ended = daemon.child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "the daemon ended: {}", daemon.log());
            daemon.get("/readyz").ok().map(drop)
        });
        daemon
    }

    /// The same without waiting, and with a `[model]` of one's own.
    pub fn spawn(config: &str, model: &str) -> Daemon {
        Self::spawn_with(config, model, &[])
    }

    /// The same with environment variables.
    pub fn spawn_with(config: &str, model: &str, env: &[(&str, &str)]) -> Daemon {
        let mut weir = weir();
        weir.args(["run", "-c"]);
        Self::spawn_as(weir, config, model, env)
    }

    /// The daemon with a script for a network (`scripted-weir.rs`), once it is ready.
    pub fn scripted(config: &str) -> Daemon {
        Self::scripted_with(config, &[])
    }

    /// The same with environment variables.
    pub fn scripted_with(config: &str, env: &[(&str, &str)]) -> Daemon {
        let binary = Path::new(env!("CARGO_BIN_EXE_weir")).with_file_name("examples/scripted-weir");
        assert!(binary.is_file(), "{} is missing: `cargo build --examples` first", binary.display());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let manifest = "[model]\nname = \"scripted\"\nlicence = \"Apache-2.0\"\ndescription = \"A script.\"\nlabels = [\"mark\"]\n[input]\nname = \"images\"\nwidth = 640\nheight = 480\n[output]\nfamily = \"ssd\"\nnames = [\"scores\", \"boxes\"]\nscore_floor = 0.1\nnms_iou = 0.5\n";
        std::fs::write(folder.join("scripted.toml"), manifest).expect("the manifest is written");
        std::fs::write(folder.join("scripted.onnx"), "").expect("the model is written");
        let model = format!("[model]\npath = {:?}\n", folder.join("scripted.onnx"));
        let mut daemon = Self::spawn_as(Command::new(binary), config, &model, env);
        until("the daemon is ready", || {
            assert!(!daemon.ended(), "the daemon ended: {}", daemon.log());
            daemon.get("/readyz").ok().map(drop)
        });
        daemon
    }

    fn spawn_as(mut weir: Command, config: &str, model: &str, env: &[(&str, &str)]) -> Daemon {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let path = dir.path().join("weir.toml");
        let models = root().join("models");
        let model =
            if model.contains("path") { model.to_owned() } else { format!("{model}dirs = [{:?}]\n", models) };
        let head = format!("[node]\nname = \"test\"\n[http]\nbind = \"127.0.0.1:{port}\"\n{model}\n");
        std::fs::write(&path, format!("{head}{config}")).expect("the configuration is written");
        std::os::unix::fs::symlink(root().join("pipelines"), dir.path().join("pipelines")).expect("linked");
        let log = dir.path().join("log");
        let file = std::fs::File::create(&log).expect("the log is made");
        let child = weir
            .arg(&path)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("weir starts");
        Daemon { child, http: format!("http://127.0.0.1:{port}"), log, head, dir }
    }

    /// Its configuration.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("weir.toml")
    }

    /// Writes another configuration, as an editor does: a new file in the place of the old one. It is not read yet.
    pub fn rewrite(&self, config: &str) {
        let new = self.dir.path().join("weir.toml.new");
        std::fs::write(&new, format!("{}{config}", self.head)).expect("the configuration is written");
        std::fs::rename(&new, self.file()).expect("the configuration is replaced");
    }

    /// `POST /api/v1/reload`: status, `Retry-After` and body.
    pub fn reload(&self) -> (u16, Option<String>, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            .build()
            .into();
        let answer = agent.post(format!("{}/api/v1/reload", self.http)).send_empty();
        let mut answer = answer.expect("the API answers");
        let after = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let text = answer.body_mut().read_to_string().expect("it is text");
        (answer.status().as_u16(), after, serde_json::from_str(&text).expect("the API speaks JSON"))
    }

    /// The body of a 2xx answer.
    pub fn get(&self, path: &str) -> Result<String, ureq::Error> {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().into();
        agent.get(format!("{}{path}", self.http)).call()?.body_mut().read_to_string()
    }

    /// One camera's state from the API.
    pub fn camera(&self, name: &str) -> Value {
        let text = self.get(&format!("/api/v1/cameras/{name}")).expect("the API answers");
        serde_json::from_str(&text).expect("the API speaks JSON")
    }

    /// Waits until a camera's state is this.
    pub fn wait_state(&self, name: &str, state: &str) -> Value {
        until(&format!("camera {name} is {state}"), || {
            let camera = self.camera(name);
            (camera["state"] == state).then_some(camera)
        })
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Value> {
        let text = self.get("/api/v1/events?limit=1000").expect("the API answers");
        let page: Value = serde_json::from_str(&text).expect("the API speaks JSON");
        page["events"].as_array().expect("a page has events").clone()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM or another.
    pub fn signal(&self, signal: &str) {
        send(signal, self.child.id());
    }

    /// Waits for its end: the exit code, and how long it took.
    #[expect(clippy::disallowed_methods, reason = "another process has no clock of ours")]
    pub fn wait(&mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        let status = until("the daemon ends", || self.child.try_wait().expect("it is our child"));
        (status.code(), start.elapsed())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ =
                std::io::stderr().write_all(format!("--- the daemon's log ---\n{}", self.log()).as_bytes());
        }
    }
}
