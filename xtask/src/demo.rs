//! `cargo xtask demo`: simulated cameras, a real broker and the daemon on `config/demo.toml`, watched from outside by
//! its public interfaces only: HTTP and MQTT.

use std::fs;
use std::io::{IsTerminal, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::board::{self, Camera};
use crate::cache::Cache;
use crate::proc::{Aside, Build, build_weir, first_line, say, which};
use crate::setup::{self, Purpose};
use crate::video::Clip;
use crate::watch::{Channel, Watch};
use crate::wheel;

pub struct Options {
    /// Run this long, without a live table, and judge.
    pub seconds: Option<u64>,
    pub cameras: usize,
    pub build: Build,
}

impl Default for Options {
    fn default() -> Self {
        Options { seconds: None, cameras: 4, build: Build::Release }
    }
}

const CONFIG: &str = "config/demo.toml";

pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(options.cameras > 0, "--cameras must be at least 1");
    let stop = stop_flag()?;
    let cache = setup::run(Purpose::Demo, options.build)?;
    build_weir(options.build)?;
    if stop.load(Relaxed) {
        return Ok(ExitCode::FAILURE);
    }
    let mut stage = Stage::set(&cache, options)?;
    let judged = stage.play(options, &stop);
    let last = stage.strike();
    // The daemon's last words matter when it did not do what it should.
    let verdict = judged.and(last);
    if verdict.is_err() {
        stage.show_log();
    }
    stage.summary();
    let missing = stage.missing();
    if options.seconds.is_some() && !missing.is_empty() {
        stage.show_log();
        for what in missing {
            say(&format!("missing: {what}"));
        }
        return Ok(ExitCode::FAILURE);
    }
    verdict.map(|()| ExitCode::SUCCESS)
}

/// True after the first Ctrl-C or SIGTERM; the second one ends us at once, and the kernel ends what we started.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, flag.clone())?;
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(flag)
}

/// All that runs. Dropped in this order: subscriber, daemon, broker, cameras.
struct Stage {
    names: Vec<String>,
    cameras: Vec<Camera>,
    watch: Watch,
    http: String,
    log: PathBuf,
    subscriber: Aside,
    weir: Aside,
    broker: Aside,
    sims: Vec<Aside>,
    started: Instant,
}

impl Stage {
    fn set(cache: &Cache, options: &Options) -> anyhow::Result<Self> {
        let home = cache.path("demo");
        fs::create_dir_all(&home)?;
        let mut config = Config::read(options.cameras)?;
        let names = config.names();
        let (mut sims, mut urls) = (Vec::new(), Vec::new());
        for place in 0..names.len() {
            let (sim, url) = simulate(cache, options.build, place, names.len())?;
            sims.push(sim);
            urls.push(url);
        }
        let broker_port = free_port()?;
        let broker = broker(&home, broker_port)?;
        let http = format!("127.0.0.1:{}", free_port()?);
        config.point_at(&urls, &http, broker_port, &wheel::onnxruntime_path(cache))?;
        let file = home.join("weir.toml");
        fs::write(&file, config.text()?)?;

        let watch = Watch::default();
        let subscriber = subscribe(broker_port, &watch)?;
        let log = home.join("weir.log");
        let out = fs::File::create(&log)?;
        let mut weir = Command::new(options.build.folder().join("weir"));
        weir.args(["run", "-c"]).arg(&file).env("WEIR_CACHE", cache.root());
        let started = Instant::now();
        let weir = Aside::spawn("weir", &weir, |command| {
            command.stdout(out.try_clone().map_or_else(|_| Stdio::null(), Stdio::from)).stderr(out);
        })?;
        let (sse, url) = (watch.clone(), format!("http://{http}/api/v1/events/stream"));
        thread::spawn(move || {
            // Until the daemon listens there is nothing to read; after it has ended the process ends, too.
            loop {
                let _ = sse.follow_sse(&url);
                thread::sleep(Duration::from_millis(50));
            }
        });
        Ok(Stage { names, cameras: Vec::new(), watch, http, log, subscriber, weir, broker, sims, started })
    }

    /// Shows the table until it is time to stop. An error when something that must run has ended.
    fn play(&mut self, options: &Options, stop: &AtomicBool) -> anyhow::Result<()> {
        let live = options.seconds.is_none() && std::io::stdout().is_terminal();
        let end = options.seconds.map(|n| self.started + Duration::from_secs(n));
        let every = Duration::from_millis(if live { 500 } else { 5_000 });
        let mut next = self.started + every.min(Duration::from_secs(2));
        let mut told = false;
        while !stop.load(Relaxed) && end.is_none_or(|end| Instant::now() < end) {
            thread::sleep(Duration::from_millis(50));
            for aside in self.sims.iter_mut().chain([&mut self.weir, &mut self.broker, &mut self.subscriber])
            {
                if let Some(status) = aside.ended() {
                    bail!("{} has ended by itself ({status})", aside.name);
                }
            }
            if !told && let Some(line) = self.first_event() {
                told = true;
                if !live {
                    say(&line);
                }
            }
            if Instant::now() < next {
                continue;
            }
            next += every;
            self.poll();
            let picture = self.picture();
            if live {
                // Home, then each line and all below it is cleared: no flicker.
                let picture = picture.replace('\n', "\x1b[K\n");
                let mut out = std::io::stdout().lock();
                write!(out, "\x1b[H{picture}\x1b[J")?;
                out.flush()?;
            } else {
                say(&format!(
                    "after {:.0} s\n{}",
                    self.started.elapsed().as_secs_f64(),
                    board::table(&self.cameras)
                ));
            }
        }
        self.poll();
        Ok(())
    }

    fn poll(&mut self) {
        let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(2))).build();
        let url = format!("http://{}/api/v1/cameras", self.http);
        let answer = ureq::Agent::new_with_config(config).get(url).call();
        // A daemon that does not answer yet, or any more, keeps its last figures.
        let text = answer.and_then(|mut answer| answer.body_mut().read_to_string());
        if let Ok(Ok(answer)) = text.map(|text| serde_json::from_str::<board::Answer>(&text)) {
            self.cameras = answer.cameras;
        }
    }

    fn picture(&self) -> String {
        let seen = self.watch.seen();
        let mut text = format!(
            "weir demo · {:.0} s · http://{} · {} events by SSE, {} by MQTT · Ctrl-C ends it\n\n{}\n",
            self.started.elapsed().as_secs_f64(),
            self.http,
            seen.sse.events(),
            seen.mqtt.events(),
            board::table(&self.cameras)
        );
        for line in &seen.recent {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    fn first_event(&self) -> Option<String> {
        let seen = self.watch.seen();
        let earliest = |a: Option<Instant>, b: Option<Instant>| a.into_iter().chain(b).min();
        let since = |at: Instant| at.duration_since(self.started).as_secs_f64();
        let first = earliest(seen.sse.first, seen.mqtt.first)?;
        let person = earliest(seen.sse.first_person, seen.mqtt.first_person)?;
        Some(format!(
            "from start of the daemon: {:.2} s to the first event, {:.2} s to the first person",
            since(first),
            since(person)
        ))
    }

    /// Ends everything in order. An error when the daemon did not end well.
    fn strike(&mut self) -> anyhow::Result<()> {
        let status = match self.weir.ended() {
            Some(status) => Some(status),
            None => self.weir.stop(Duration::from_secs(15)),
        };
        // What the daemon sent last is still on its way through the broker.
        thread::sleep(Duration::from_millis(100));
        for aside in [&mut self.subscriber, &mut self.broker].into_iter().chain(&mut self.sims) {
            aside.stop(Duration::from_secs(2));
        }
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("weir ended with {status}"),
            None => bail!("weir did not stop within 15 s of SIGTERM and was killed"),
        }
    }

    fn summary(&self) {
        let seen = self.watch.seen();
        say(&format!("\n{:.0} s\n{}", self.started.elapsed().as_secs_f64(), board::table(&self.cameras)));
        let sum = |of: fn(&board::Frames) -> u64| self.cameras.iter().map(|c| of(&c.frames)).sum::<u64>();
        say(&format!(
            "{} frames in: {} inferred, {} dropped, {} in error, {} in flight",
            sum(|f| f.came),
            sum(|f| f.inferred),
            sum(|f| f.overrun + f.stale + f.skipped),
            sum(|f| f.decode_error + f.failed),
            sum(|f| f.in_flight),
        ));
        for (name, channel) in [("SSE", &seen.sse), ("MQTT", &seen.mqtt)] {
            say(&format!(
                "{name}: {} events; persons tracked on {} of {} cameras",
                channel.events(),
                channel.persons.len(),
                self.names.len()
            ));
        }
        drop(seen);
        say(&self.first_event().unwrap_or_else(|| "no person was tracked".into()));
    }

    /// What a good run has and this one has not.
    fn missing(&self) -> Vec<String> {
        let seen = self.watch.seen();
        missing(&self.names, &self.cameras, [("SSE", &seen.sse), ("MQTT", &seen.mqtt)], seen.unread)
    }

    fn show_log(&self) {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        say(&format!("the daemon's log, {} (its end):", self.log.display()));
        for line in &lines[lines.len().saturating_sub(20)..] {
            say(&format!("  {line}"));
        }
    }
}

/// Every camera delivered frames that were inferred; persons were tracked on at least one camera over each channel.
fn missing(
    names: &[String],
    cameras: &[Camera],
    channels: [(&str, &Channel); 2],
    unread: u64,
) -> Vec<String> {
    let mut missing = Vec::new();
    for name in names {
        match cameras.iter().find(|camera| camera.name == *name) {
            None => missing.push(format!("camera {name} in the API")),
            Some(camera) if camera.frames.came == 0 => {
                missing.push(format!("frames from {name} ({})", camera.state))
            }
            Some(camera) if camera.frames.inferred == 0 => missing.push(format!("inferred frames of {name}")),
            Some(_) => {}
        }
    }
    for (name, channel) in channels {
        if channel.persons.is_empty() {
            missing.push(format!("a person track over {name} ({} events came)", channel.events()));
        }
    }
    if unread > 0 {
        missing.push(format!("meaning: {unread} payloads were not events"));
    }
    missing
}

/// `config/demo.toml` with the demo's own addresses.
struct Config(toml::Table);

impl Config {
    fn read(cameras: usize) -> anyhow::Result<Self> {
        let text = fs::read_to_string(CONFIG).with_context(|| format!("cannot read {CONFIG}"))?;
        let mut config = Config(text.parse().context(CONFIG)?);
        config.resize(cameras)?;
        Ok(config)
    }

    /// The first so many cameras; more than the file has are copies of its first, without its zones and lines.
    fn resize(&mut self, wanted: usize) -> anyhow::Result<()> {
        let cameras = self.table("cameras")?;
        let source =
            cameras.values().next().and_then(|c| c.get("source")).context("no camera in the file")?.clone();
        let names: Vec<String> = cameras.keys().skip(wanted).cloned().collect();
        for name in names {
            cameras.remove(&name);
        }
        for n in cameras.len()..wanted {
            cameras.insert(
                format!("camera-{}", n + 1),
                toml::Table::from_iter([("source".into(), source.clone())]).into(),
            );
        }
        Ok(())
    }

    fn names(&self) -> Vec<String> {
        let cameras = self.0.get("cameras").and_then(toml::Value::as_table);
        cameras.map(|c| c.keys().cloned().collect()).unwrap_or_default()
    }

    fn point_at(&mut self, cameras: &[String], http: &str, broker: u16, ort: &Path) -> anyhow::Result<()> {
        for (camera, url) in self.table("cameras")?.iter_mut().zip(cameras) {
            let table = camera.1.as_table_mut().context("a camera is not a table")?;
            table.insert("source".into(), url.clone().into());
        }
        self.table("http")?.insert("bind".into(), http.into());
        self.table("mqtt")?.insert("url".into(), format!("mqtt://127.0.0.1:{broker}").into());
        self.table("infer")?.insert("onnxruntime".into(), ort.to_string_lossy().as_ref().into());
        // Relative to the file as written; the copy lies elsewhere.
        let root = std::env::current_dir()?;
        let models = root.join("models").to_string_lossy().into_owned();
        self.table("model")?.insert("dirs".into(), vec![models].into());
        Ok(())
    }

    fn table(&mut self, key: &str) -> anyhow::Result<&mut toml::Table> {
        let entry = self.0.entry(key.to_owned()).or_insert_with(|| toml::Table::new().into());
        entry.as_table_mut().with_context(|| format!("[{key}] is not a table"))
    }

    fn text(&self) -> anyhow::Result<String> {
        Ok(toml::to_string(&self.0)?)
    }
}

/// A camera of its own process. The last of them is H.265; each starts elsewhere in the scene.
fn simulate(cache: &Cache, build: Build, place: usize, of: usize) -> anyhow::Result<(Aside, String)> {
    let clip = if of > 1 && place + 1 == of { Clip::H265 } else { Clip::H264 };
    let mut sim = Command::new(build.folder().join("examples/rtsp-sim"));
    sim.arg("--file").arg(cache.path(clip.name())).arg("--start").arg((place * 17).to_string());
    let mut sim = Aside::spawn(&format!("camera {}", place + 1), &sim, |command| {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
    })?;
    let line =
        first_line(&mut sim.child, Duration::from_secs(20)).context("the simulated camera did not start")?;
    let said: serde_json::Value = serde_json::from_str(&line).with_context(|| line.clone())?;
    let url = said["url"].as_str().context("the simulated camera named no url")?.to_owned();
    Ok((sim, url))
}

/// A mosquitto of our own on a loopback port, with nothing on disk.
fn broker(home: &Path, port: u16) -> anyhow::Result<Aside> {
    let file = home.join("mosquitto.conf");
    fs::write(
        &file,
        format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type error\n"),
    )?;
    let mut command = Command::new(which("mosquitto").context("mosquitto is missing")?);
    command.arg("-c").arg(&file);
    let mut broker = Aside::spawn("mosquitto", &command, |_| {})?;
    let start = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = broker.ended() {
            bail!("mosquitto did not start ({status})");
        }
        anyhow::ensure!(start.elapsed() < Duration::from_secs(5), "mosquitto does not listen on {port}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(broker)
}

fn subscribe(port: u16, watch: &Watch) -> anyhow::Result<Aside> {
    let mut command = Command::new(which("mosquitto_sub").context("mosquitto_sub is missing")?);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-t", "weir/#", "-v"]);
    let mut subscriber = Aside::spawn("mosquitto_sub", &command, |command| {
        command.stdout(Stdio::piped());
    })?;
    let out = subscriber.child.stdout.take().context("its output is piped")?;
    let watch = watch.clone();
    thread::spawn(move || watch.follow_mqtt(out));
    Ok(subscriber)
}

/// A port that was free a moment ago.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config(text.parse().unwrap())
    }

    const THREE: &str =
        "[cameras.b]\nsource='x'\n[cameras.b.zones.z]\n[cameras.a]\nsource='y'\n[cameras.c]\nsource='z'\n";

    #[test]
    fn cameras_keep_the_order_of_the_file_and_grow_and_shrink() {
        for (wanted, names) in [(2, "b a"), (3, "b a c"), (5, "b a c camera-4 camera-5")] {
            let mut config = config(THREE);
            config.resize(wanted).unwrap();
            assert_eq!(config.names().join(" "), names);
        }
    }

    #[test]
    fn addresses_are_filled_in_and_the_rest_stays() {
        let mut config = config(&format!("[model]\nname='m'\n{THREE}"));
        let urls = ["rtsp://1/".to_owned(), "rtsp://2/".to_owned(), "rtsp://3/".to_owned()];
        config.point_at(&urls, "127.0.0.1:1", 2, Path::new("/lib")).unwrap();
        let read: toml::Table = config.text().unwrap().parse().unwrap();
        assert_eq!(read["cameras"]["b"]["source"].as_str(), Some("rtsp://1/"));
        assert_eq!(read["cameras"]["c"]["source"].as_str(), Some("rtsp://3/"));
        assert!(read["cameras"]["b"]["zones"].get("z").is_some());
        assert_eq!(read["model"]["name"].as_str(), Some("m"));
        assert_eq!(read["mqtt"]["url"].as_str(), Some("mqtt://127.0.0.1:2"));
    }

    #[test]
    fn each_thing_that_is_missing_is_named() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let camera = |name: &str, came, inferred| Camera {
            name: name.into(),
            state: "offline".into(),
            frames: board::Frames { came, inferred, ..Default::default() },
            fps_in: None,
            latency_ms: None,
            tracks: 0,
        };
        let cameras = [camera("a", 0, 0), camera("b", 5, 0)];
        let mut good = Channel::default();
        good.persons.insert("a".into(), 1);
        let bad = Channel::default();
        assert_eq!(
            missing(&names, &cameras, [("SSE", &good), ("MQTT", &bad)], 0),
            [
                "frames from a (offline)",
                "inferred frames of b",
                "camera c in the API",
                "a person track over MQTT (0 events came)"
            ]
        );
        assert!(missing(&names[..1], &[camera("a", 9, 8)], [("SSE", &good), ("MQTT", &good)], 0).is_empty());
    }
}
