//! `weir bench`: this box with the operator's own configuration, as many streams as asked for, through the daemon itself.
//!
//! The daemon of [`crate::run`] runs in this process, with its frame path, its API and its metrics; beside it one thread asks the API, as
//! anybody could, and stops it with the signal that stops every daemon. Percentiles come from [`metrics::fine`] histograms: within
//! 5 % of the value. Several counts of streams are several processes, so that none inherits another's memory or warm engine; that is
//! [`crate::commands`]' affair. [`show`] says it.

pub mod page;
pub mod show;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, never};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::Value;
use url::Url;

use self::page::Page;
use crate::clock::{Clock, SystemClock, Tick};
use crate::config::{Camera, Config, Source};
use crate::fault::{Fault, Who};
use crate::frame::Fate;
use crate::plan::live::fetch;
use crate::{metrics, run, supervise, usage};

/// Between two looks at what has no counter.
const EVERY: Duration = Duration::from_millis(500);
/// For the model to be warm: TensorRT builds an engine at first.
const WARM: Duration = Duration::from_secs(1800);
/// From then until it counts: the first pictures of all cameras come at once.
const SETTLE: Duration = Duration::from_secs(2);

/// The reason of what was ended by a signal.
const STOPPED: &str = "stopped";

/// Stages in the order in which a frame meets them: name in the output, metric, its label.
const STAGES: [(&str, &str, &str); 6] = [
    ("decode", "weir_stage_seconds", "stage=\"decode\""),
    ("wait", "weir_batch_wait_seconds", ""),
    ("preprocess", "weir_stage_seconds", "stage=\"preprocess\""),
    ("infer", "weir_stage_seconds", "stage=\"infer\""),
    ("analyze", "weir_stage_seconds", "stage=\"analyze\""),
    ("total", "weir_event_latency_seconds", ""),
];

/// What one count of streams gave.
#[derive(Debug)]
pub struct Row {
    /// How many were asked for.
    pub streams: usize,
    /// How many delivered when counting began.
    pub online: usize,
    /// How long was counted.
    pub seconds: f64,
    /// Frames that came in meanwhile.
    pub frames_in: u64,
    /// Frames that met each fate meanwhile.
    pub fates: [(Fate, u64); Fate::ALL.len()],
    /// Frames between arrival and fate, when counting began and when it ended.
    pub in_flight: [u64; 2],
    /// Milliseconds.
    pub stages: Vec<Stage>,
    /// Frames in a batch, mean.
    pub batch: Option<f64>,
    /// Part of the time in which the engine ran.
    pub engine: f64,
    /// The target of the p95, milliseconds.
    pub target: f64,
    /// Part of all cores that the box used, whoever it was, 0..=1.
    pub busy: Option<f64>,
    /// CPU cores: those of the box, those that this process used, by part of the program.
    pub cores: (f64, f64, Vec<(String, f64)>),
    /// The most memory of this process, bytes.
    pub resident: Option<f64>,
    /// By GPU; empty: none is used.
    pub gpus: Vec<Gpu>,
}

/// One stage's percentiles, in milliseconds.
#[derive(Debug)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// p50, p95, p99; `None`: nothing was measured.
    pub percentiles: Option<[f64; 3]>,
    /// Mean.
    pub mean: Option<f64>,
}

/// One GPU, over the whole of the time.
#[derive(Debug)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Means of NVML's readings, 0..=1.
    pub utilization: Option<f64>,
    /// Of its decoders.
    pub decoder: Option<f64>,
    /// The most in use, and all, bytes.
    pub memory: Option<(f64, f64)>,
    /// Bytes to it and from it.
    pub copied: [f64; 2],
    /// What held its clocks back, if anything.
    pub throttle: Vec<String>,
}

/// What a box runs out of first, and how much of it was in use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceiling {
    /// `cpu`, `engine`, `nvdec` or `gpu_memory`.
    pub name: &'static str,
    /// 0..=1 of what there is.
    pub level: f64,
}

/// From this part of lost frames on, a box is too small.
pub const LOSS: f64 = 0.01;

impl Row {
    fn fate(&self, fate: Fate) -> u64 {
        self.fates.iter().find(|(f, _)| *f == fate).map_or(0, |(_, n)| *n)
    }

    /// Frames that were analysed, a second.
    pub fn fps(&self) -> f64 {
        self.fate(Fate::Inferred) as f64 / self.seconds
    }

    /// Part of the frames with a fate that met another one than `inferred`, 0..=1.
    pub fn loss(&self) -> f64 {
        let all: u64 = self.fates.iter().map(|(_, n)| n).sum();
        (all - self.fate(Fate::Inferred)) as f64 / all.max(1) as f64
    }

    /// The p95 from arrival to events, in milliseconds.
    pub fn p95(&self) -> Option<f64> {
        self.stages.iter().find(|s| s.name == "total").and_then(|s| s.percentiles).map(|[_, p95, _]| p95)
    }

    /// Is it too much: frames are lost, or the target is missed?
    pub fn full(&self) -> bool {
        self.loss() > LOSS || self.p95().is_none_or(|p95| p95 > self.target)
    }

    /// Of all that a box can run out of, what is nearest to its end.
    pub fn ceiling(&self) -> Ceiling {
        let (cores, used, _) = self.cores;
        let worst = |name, level: &dyn Fn(&Gpu) -> Option<f64>| Ceiling {
            name,
            level: self.gpus.iter().filter_map(level).fold(0.0, f64::max),
        };
        let ceilings = [
            Ceiling { name: "cpu", level: (used / cores).max(self.busy.unwrap_or(0.0)) },
            worst("nvdec", &|gpu| gpu.decoder),
            worst("gpu_memory", &|gpu| gpu.memory.map(|(used, all)| used / all)),
            // Last, so that it is the answer where decoders and engine share full cores.
            Ceiling { name: "engine", level: self.engine },
        ];
        let higher = |a: Ceiling, b: Ceiling| if b.level >= a.level { b } else { a };
        ceilings.into_iter().reduce(higher).expect("there are four")
    }
}

/// `config` with `streams` cameras, which are those of `templates` in turn, and with nothing that leaves the box.
///
/// # Errors
/// When there is no template, or no free port.
pub fn prepare(mut config: Config, templates: &[Camera], streams: usize) -> Result<Config, Fault> {
    if templates.is_empty() {
        return Err(Fault::new(Who::Config, "no_source", "there is nothing to play")
            .remedy("name a --source, or cameras in the configuration"));
    }
    let cameras = templates.iter().cycle().take(streams).enumerate();
    config.cameras = cameras
        .map(|(n, template)| {
            let mut camera = Camera { name: format!("stream-{n:04}").into(), ..template.clone() };
            // A clip that ends would be a camera that fails.
            if let Source::File { repeat, .. } = &mut camera.source {
                *repeat = true;
            }
            camera
        })
        .collect();
    (config.mqtt, config.rtsp_server) = (None, None);
    config.tenants.clear();
    // Free a moment ago. Whoever takes it meanwhile makes this run fail, and say so.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    config.http.bind =
        free.map_err(|e| Fault::new(Who::Device, "port", format!("loopback has no free port: {e}")))?;
    Ok(config)
}

/// Runs the daemon with this configuration and measures it for so long, once its streams deliver, or `patience` is over.
///
/// # Errors
/// What kept it from starting or made it stop; a signal before the end; streams of which none delivers.
pub fn measure(config: Config, span: Duration, patience: Duration) -> Result<Row, Fault> {
    metrics::fine();
    let probe = Probe {
        patience,
        base: Url::parse(&format!("http://{}", config.http.bind)).expect("an address and a port are a URL"),
        streams: config.cameras.len(),
        files: config.cameras.iter().all(|camera| matches!(camera.source, Source::File { .. })),
        clock: Arc::new(SystemClock::new()),
    };
    let (done, ended) = bounded::<()>(0);
    let (tell, told) = bounded(1);
    // Of the kind that speaks HTTP: its CPU time counts as theirs.
    let asking = supervise::spawn("net", move || {
        let row = probe.measure(span, &ended);
        let stopped = matches!(ended.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Disconnected));
        let _ = tell.send(row);
        if !stopped {
            // Cannot fail: a process may signal itself.
            let _ = kill_process(getpid(), Signal::TERM);
        }
    })?;
    let outcome = run::run(config, Box::new(|| Err("a bench reads its configuration once".to_owned())));
    drop(done);
    let row = told.recv().unwrap_or_else(|_| Err(Fault::new(Who::Bug, "bench", "its thread panicked")));
    asking.join();
    outcome.and(row)
}

/// Asks the daemon.
struct Probe {
    /// For all streams to deliver. NVDEC's driver makes one decoder after the other, 100 in 6 s.
    patience: Duration,
    base: Url,
    streams: usize,
    /// All are video files, whose pictures arrive when they are decoded.
    files: bool,
    clock: Arc<dyn Clock>,
}

impl Probe {
    fn measure(&self, span: Duration, ended: &Receiver<()>) -> Result<Row, Fault> {
        self.until(WARM, ended, || fetch(&self.base, "/readyz").is_ok().then_some(()))?;
        let mut online = 0;
        let all = self.until(self.patience, ended, || {
            online = self.online().unwrap_or(0);
            (online == self.streams).then_some(())
        });
        if let Some(stopped) = all.err().filter(|fault| fault.reason == STOPPED) {
            return Err(stopped);
        }
        if online == 0 {
            let message = format!("no stream delivers a picture within {} s", self.patience.as_secs());
            return Err(Fault::new(Who::Camera, "offline", message)
                .remedy("the log above says why; `weir check --live` opens each camera once"));
        }
        self.wait(SETTLE, ended)?;

        let (before, began) = (self.page()?, self.clock.now());
        let (first, ticks) = (self.gpus()?, usage::box_cpu());
        let (mut readings, mut resident) = (Vec::new(), None);
        while let Some(left) = left(began, span, self.clock.now()) {
            self.wait(left.min(EVERY), ended)?;
            readings.push(self.gpus()?);
            resident = usage::resident().map(|now| now.max(resident.unwrap_or(0.0)));
        }
        let last = readings.last().cloned().unwrap_or_default();
        let (after, seconds) = (self.page()?, self.clock.now().since(began).as_secs_f64());
        let target = serde_json::from_str::<Value>(&fetch(&self.base, "/api/v1/flow")?).unwrap_or_default();

        let since = |name: &str, label: &str| (after.sum(name, label) - before.sum(name, label)).max(0.0);
        let parts: Vec<(String, f64)> = usage::Part::ALL
            .iter()
            .map(|part| {
                (
                    part.name().to_owned(),
                    since("weir_cpu_seconds_total", &format!("part=\"{}\"", part.name())) / seconds,
                )
            })
            .collect();
        let batches = after.histogram(&before, "weir_batch_frames", "");
        Ok(Row {
            streams: self.streams,
            online,
            seconds,
            frames_in: since("weir_frames_in_total", "") as u64,
            fates: Fate::ALL
                .map(|fate| (fate, since("weir_frames_total", &format!("fate=\"{}\"", fate.name())) as u64)),
            in_flight: [&before, &after].map(|page| page.sum("weir_queue_frames", "") as u64),
            stages: STAGES.map(|stage| self.stage(stage, &before, &after)).into(),
            batch: batches.mean(),
            engine: since("weir_engine_busy_seconds_total", "") / seconds,
            target: target["slo_p95_ms"].as_f64().unwrap_or(0.0),
            busy: ticks.zip(usage::box_cpu()).map(|(a, b)| (b.0 - a.0) / (b.1 - a.1).max(1.0)),
            cores: (usage::cores(), parts.iter().map(|(_, used)| used).sum(), parts),
            resident,
            gpus: (0..first.len()).map(|i| gpu(i, &first, &last, &readings)).collect(),
        })
    }

    fn stage(&self, (name, metric, label): (&'static str, &str, &str), before: &Page, after: &Page) -> Stage {
        let all = after.histogram(before, metric, label);
        let ms = |q| all.percentile(q).map(|seconds| seconds * 1e3);
        let known = !(name == "decode" && self.files);
        let percentiles = known.then(|| Some([ms(0.5)?, ms(0.95)?, ms(0.99)?])).flatten();
        Stage { name, percentiles, mean: all.mean().filter(|_| known).map(|mean| mean * 1e3) }
    }

    fn page(&self) -> Result<Page, Fault> {
        Ok(Page::parse(&fetch(&self.base, "/metrics")?))
    }

    fn online(&self) -> Option<usize> {
        let cameras: Value = serde_json::from_str(&fetch(&self.base, "/api/v1/cameras").ok()?).ok()?;
        Some(cameras["cameras"].as_array()?.iter().filter(|camera| camera["state"] == "online").count())
    }

    fn gpus(&self) -> Result<Vec<Value>, Fault> {
        let devices: Value = serde_json::from_str(&fetch(&self.base, "/api/v1/devices")?).unwrap_or_default();
        Ok(devices["gpus"].as_array().cloned().unwrap_or_default())
    }

    /// Asks again and again.
    fn until(
        &self,
        most: Duration,
        ended: &Receiver<()>,
        mut ask: impl FnMut() -> Option<()>,
    ) -> Result<(), Fault> {
        let began = self.clock.now();
        while ask().is_none() {
            let left = left(began, most, self.clock.now());
            let late = || {
                Fault::new(
                    Who::Camera,
                    "offline",
                    format!("not all streams deliver after {} s", most.as_secs()),
                )
            };
            self.wait(left.ok_or_else(late)?.min(EVERY), ended)?;
        }
        Ok(())
    }

    /// An error: the daemon has ended.
    fn wait(&self, span: Duration, ended: &Receiver<()>) -> Result<(), Fault> {
        match ended.recv_timeout(span) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                Err(Fault::new(Who::Device, STOPPED, "it was stopped before it was done"))
            }
        }
    }
}

fn left(began: Tick, span: Duration, now: Tick) -> Option<Duration> {
    span.checked_sub(now.since(began)).filter(|left| !left.is_zero())
}

/// Sums up readings of GPU `i`.
fn gpu(i: usize, first: &[Value], last: &[Value], readings: &[Vec<Value>]) -> Gpu {
    let each =
        |key: &str| -> Vec<f64> { readings.iter().filter_map(|gpus| gpus.get(i)?[key].as_f64()).collect() };
    let mean = |key: &str| {
        let all = each(key);
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    };
    let most = |key: &str| each(key).into_iter().reduce(f64::max);
    let since = |key: &str| {
        let at = |gpus: &[Value]| gpus.get(i).and_then(|gpu| gpu[key].as_f64()).unwrap_or(0.0);
        at(last) - at(first)
    };
    let mut throttle: Vec<String> = readings
        .iter()
        .filter_map(|gpus| gpus.get(i)?["throttle"].as_array())
        .flatten()
        .filter_map(|word| word.as_str().map(str::to_owned))
        .collect();
    throttle.sort_unstable();
    throttle.dedup();
    Gpu {
        name: first[i]["name"].as_str().unwrap_or_default().to_owned(),
        utilization: mean("utilization_ratio"),
        decoder: mean("decoder_utilization_ratio"),
        memory: most("memory_used_bytes").zip(most("memory_total_bytes")),
        copied: ["to_device_bytes", "from_device_bytes"].map(since),
        throttle,
    }
}

/// Waits for nothing, for a while.
pub(crate) fn pause(span: Duration) {
    let _ = never::<()>().recv_timeout(span);
}
