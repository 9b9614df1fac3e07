//! The wiring: every stage and every channel is built here, once. Nothing else spawns.
//!
//! ```text
//! cam-NAME ─ Port ─▶ Intake ─▶ infer ─ 2 batches ─▶ analyze ─ 4096 events ─▶ publish ─▶ Outbox ─▶ tokio: mqtt, http
//!                                │ Studio             │ newest frame ─▶ show ─ newest picture ─▶ http, rtsp
//! ```
//!
//! | edge | bound | when it is full |
//! |---|---|---|
//! | camera → intake | the ring: `ring_buffer_ms` | the camera's own oldest frames go, by `drop_policy` |
//! | clients → intake | `max_pending_requests` | one more is refused (`request/desk.rs`) |
//! | infer → analyze | 2 batches | the engine waits; rings give up frames |
//! | → publish | 4096 events | the maker waits; the log itself never blocks |
//! | analyze → show → viewers | 1 frame, 1 picture a view | the older one is not shown |
//! | outbox → sink | `[events] keep` | the sink learns of the gap |
//!
//! Stop: the cameras' stop senders are dropped, and each stage ends when what feeds it has gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::board::Board;
use crate::clock::{Clock, SystemClock, bell};
use crate::config::{Codec, Config, Execution, Infer as InferSettings, Priority};
use crate::device::nvidia::Nvidia;
use crate::device::software::Software;
use crate::device::{Device, Engine};
use crate::fault::{Fault, Who};
use crate::flow::batch::{CameraSettings, Settings};
use crate::flow::curve::Curve;
use crate::flow::detect::Detector;
use crate::flow::pace::{Objective, Pacer};
use crate::frame::{CameraId, Frame, Stamp};
use crate::intake::{Bystander, Port, intake};
use crate::model::spec::ModelSpec;
use crate::outbox::Outbox;
use crate::request::CLASSES;
use crate::request::desk::{self, Desk, Door};
use crate::roster::{self, Order, Roster};
use crate::stage::analyze::{Analyze, Filter};
use crate::stage::infer::{self, Infer};
use crate::stage::ingest::Never;
use crate::stage::publish;
use crate::stage::show::Show;
use crate::supervise::{self, Beat};
use crate::video::encoder::Encoders;
use crate::video::{Audience, Gallery, Studio, rtsp};
use crate::{admission, http, metrics, sink, stop};

/// A shared stage that has not moved for this long is stuck: not healthy, and no longer fed to systemd's watchdog.
const STUCK: Duration = Duration::from_secs(10);

/// Between two looks at the configuration that signals cause.
const HANGUPS: Duration = Duration::from_millis(500);

/// See [`yield_to_decoders`].
const ENGINE_NICE: i32 = 5;
/// Pictures for people come after everything else.
const SHOW_NICE: i32 = 10;

/// Reads the configuration again; the words for the operator when it cannot be used.
pub type Reread = Box<dyn Fn() -> Result<Config, String> + Send>;

/// Runs the daemon on this machine until a signal stops it. SIGHUP has it read its configuration again by `reread`.
///
/// # Errors
/// What kept it from starting, or made it stop.
pub fn run(config: Config, reread: Reread) -> Result<(), Fault> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let listener = http::bind(config.http.bind)?;
    match choose(&config, &*clock)? {
        Chosen::Nvidia(device) => {
            let engine = device.describe(&config.infer.execution);
            tracing::info!(model = device.spec().name, engine, "Chose the engine.");
            let spec = Arc::clone(device.spec());
            Daemon { config, reread, device: Arc::new(device), spec, clock }.run(listener)
        }
        Chosen::Software(device) => {
            tracing::info!(model = device.spec().name, engine = device.describe(), "Chose the engine.");
            let spec = Arc::clone(device.spec());
            Daemon { config, reread, device: Arc::new(device), spec, clock }.run(listener)
        }
    }
}

/// The same on a device of the caller's own, whose network this describes.
///
/// # Errors
/// What kept it from starting, or made it stop.
pub fn run_on<D: Device>(config: Config, device: D, spec: Arc<ModelSpec>) -> Result<(), Fault> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let listener = http::bind(config.http.bind)?;
    let reread = Box::new(|| Err("this daemon reads its configuration once".to_owned()));
    Daemon { config, reread, device: Arc::new(device), spec, clock }.run(listener)
}

enum Chosen {
    Nvidia(Nvidia),
    Software(Software),
}

/// The device that `[infer] execution` means on this machine: pixels live on the GPU if and only if the engine does.
fn choose(config: &Config, clock: &dyn Clock) -> Result<Chosen, Fault> {
    let most = config.batcher.max_batch_frames;
    let software = |execution: Execution| {
        let infer = InferSettings { execution, ..config.infer.clone() };
        Software::new(&config.model, &infer, most, clock).map(Chosen::Software)
    };
    let nvidia = || Nvidia::new(&config.model, &config.infer, most).map(Chosen::Nvidia);
    let Execution::Order(order) = &config.infer.execution else {
        return nvidia().or_else(|why| {
            tracing::info!("No GPU is used: {why}");
            software(Execution::Auto)
        });
    };
    let Some(at) = order.iter().position(|provider| provider.is_nvidia()) else {
        return software(config.infer.execution.clone());
    };
    let gpu = order[at..].iter().take_while(|provider| provider.is_nvidia()).count();
    let (before, after) = (&order[..at], &order[at + gpu..]);
    if !before.is_empty() {
        match software(Execution::Order(before.to_vec())) {
            Ok(chosen) => return Ok(chosen),
            Err(why) => tracing::warn!("Not the execution provider that was asked for first: {why}"),
        }
    }
    nvidia().or_else(|why| {
        if after.is_empty() {
            return Err(why);
        }
        tracing::warn!("No GPU is used: {why}");
        software(Execution::Order(after.to_vec()))
    })
}

struct Daemon<D> {
    config: Config,
    reread: Reread,
    device: Arc<D>,
    spec: Arc<ModelSpec>,
    clock: Arc<dyn Clock>,
}

impl<D: Device> Daemon<D> {
    fn run(self, listener: std::net::TcpListener) -> Result<(), Fault> {
        let Daemon { config, reread, device, spec, clock } = self;
        let exporter = metrics::install()?;
        let filter = Filter::new(&spec.labels, &config.model.classes)
            .map_err(|unknown| roster::unknown_classes(&spec, "[model] classes", &unknown))?;
        for camera in &config.cameras {
            roster::check_labels(&spec, camera)?;
        }
        let cameras = config.cameras.iter().map(|c| (Arc::clone(&c.name), roster::terms(c, None)));
        let board = Arc::new(Board::of(cameras));
        board.flow.set_target(config.batcher.slo_p95);
        board.accelerator.ask({
            let device = Arc::clone(&device);
            move || device.report()
        });
        board.admission.configure(admission::Settings::new(&config, board.accelerator.report().is_some()));
        let outbox = Outbox::new(Arc::clone(&config.node), config.events.keep, Arc::clone(&clock));
        let ready = Arc::new(AtomicBool::new(false));
        let beats: Vec<(&'static str, Beat)> =
            ["infer", "analyze", "publish"].map(|name| (name, Beat::new(clock.now()))).into();
        let [infer_beat, analyze_beat, publish_beat] = [0, 1, 2].map(|i| beats[i].1.clone());
        let (fatal, fatals) = bounded(8);
        // Whoever comes while that many wait is told to come again; signals are one then.
        let (order, orders) = bounded(2);
        // Every worker holds a clone; when all are gone, everything has ended.
        let (alive, all_ended) = bounded::<Never>(0);

        // The sockets, on tokio. They start first: a probe can ask how far the start has come.
        let limits = desk::Limits::new(&config.http);
        let desk = Arc::new(Desk::new(Arc::clone(&board), Arc::clone(&clock), limits, &config.tenants));
        let probes = probes(&ready, beats, &clock);
        let (bell, waiter) = bell();
        let audience = Audience::new(config.cameras.iter().map(|camera| &*camera.name), bell);
        let encoders = Encoders::settle(&config);
        let api = http::Api {
            node: Arc::clone(&config.node),
            board: Arc::clone(&board),
            outbox: Arc::clone(&outbox),
            clock: Arc::clone(&clock),
            metrics: exporter,
            missing: probes.missing,
            stuck: probes.stuck,
            limits: http::Limits::new(&config.http, &config.video),
            infer: http::Inference {
                desk: Arc::clone(&desk),
                access: http::Access::new(&config.http),
                model: spec.name.as_str().into(),
            },
            audience: Arc::clone(&audience),
            orders: order.clone(),
            devices: {
                let (encoders, board) = (Arc::clone(&encoders), Arc::clone(&board));
                Arc::new(move || http::answers::Devices {
                    video_encoder: encoders.choice(Codec::H264).unwrap_or_default(),
                    video_encoder_h265: encoders.choice(Codec::H265),
                    gpus: board.accelerator.report().into_iter().collect(),
                })
            },
        };
        let net = Net::start(&config, listener, api, order)?;

        let studio = Arc::new(Studio::<D::Pixels>::new(Arc::clone(&audience)));
        let rtsp = match &config.rtsp_server {
            Some(settings) => Some(rtsp::Server::start(settings, &audience, encoders, &clock)?),
            None => None,
        };

        // The frame path, from its end to its beginning.
        let (events, drafts) = bounded(4096);
        let (results, work) = bounded(2);
        let (warm, warmed) = bounded(1);
        // Clients' pictures have the numbers after the last camera that there could be.
        let first_class = u32::try_from(board.capacity()).unwrap_or(u32::MAX);
        let rings: Vec<(CameraId, CameraSettings)> = (0..)
            .map(CameraId)
            .zip(config.cameras.iter().map(roster::settings))
            .chain((first_class..).map(CameraId).zip(CLASSES.map(|class| request_settings(class, &limits))))
            .collect();
        let settings = Settings {
            max_batch_frames: config.batcher.max_batch_frames,
            max_wait: config.batcher.max_wait,
            bulk_share: f64::from(config.batcher.bulk_share),
        };
        let objective = Objective {
            target: config.batcher.slo_p95,
            max_wait: config.batcher.max_wait,
            max_batch: config.batcher.max_batch_frames,
        };
        let (mut ports, intake) = intake::<D::Pixels>(settings, &rings, &board, &clock, infer_beat);
        let harbour = intake.harbour();
        intake.tell(Arc::clone(&studio) as Arc<dyn Bystander<D::Pixels>>);
        let request_ports = ports.split_off(config.cameras.len());
        let (handed, engine_outputs) = bounded(1);

        let mut workers = vec![{
            let (outbox, clock, alive) = (Arc::clone(&outbox), Arc::clone(&clock), alive.clone());
            supervise::stage("publish", fatal.clone(), move || {
                publish::run(&drafts, &outbox, &publish_beat, &*clock);
                drop(alive);
                Ok(())
            })?
        }];
        workers.push({
            let (device, board, clock, alive, results) =
                (Arc::clone(&device), Arc::clone(&board), Arc::clone(&clock), alive.clone(), results.clone());
            let (spec, studio) = (Arc::clone(&spec), Arc::clone(&studio));
            supervise::stage("infer", fatal.clone(), move || {
                let _alive = alive;
                yield_to_decoders();
                let mut engine = device.engine()?;
                let detector = Detector::new(&spec, &engine.outputs())?;
                let _ = handed.send(detector);
                let curve = infer::warm_up(&mut engine, &*clock)?;
                let useful = curve.largest_useful();
                if curve.rungs().last().is_some_and(|rung| rung.frames > useful) {
                    // An engine keeps the memory of the largest batch that it ever ran.
                    drop(engine);
                    engine = device.engine()?;
                    engine.run(useful)?;
                }
                let _ = warm.send(curve);
                let objective = Objective { max_batch: objective.max_batch.min(useful), ..objective };
                let pacer = Pacer::new(objective, curve);
                Infer::<D> { intake, engine, pacer, results, board, clock, studio }.run()
            })?
        });

        // Signals are heard from here on, so that a slow model load can be interrupted.
        let detector = match wait_for(&engine_outputs, &fatals, &net.signals) {
            Waited::Got(detector) => detector,
            Waited::Signal => return Ok(()),
            Waited::Fatal(fault) => return Err(fault),
        };
        workers.push({
            let analyze = Analyze {
                work,
                detector,
                filter,
                labels: spec.labels.clone(),
                track: config.track.clone(),
                settings: config.events.clone(),
                events: events.clone(),
                board: Arc::clone(&board),
                clock: Arc::clone(&clock),
                beat: analyze_beat,
                gallery: Arc::clone(&studio) as Arc<dyn Gallery>,
                trail: config.video.trail,
                style: config.video.style,
            };
            let alive = alive.clone();
            supervise::stage("analyze", fatal.clone(), move || {
                analyze.run();
                drop(alive);
                Ok(())
            })?
        });
        match wait_for(&warmed, &fatals, &net.signals) {
            Waited::Got(got) => report(&got),
            Waited::Signal => return Ok(()),
            Waited::Fatal(fault) => return Err(fault),
        }

        desk.open(door(&device, request_ports, &clock));
        let (stop_cameras, stopped) = bounded::<Never>(0);
        workers.push({
            let show = Show::<D> {
                studio,
                waiter,
                settings: config.video.clone(),
                board: Arc::clone(&board),
                clock: Arc::clone(&clock),
                stop: stopped.clone(),
            };
            let alive = alive.clone();
            supervise::spawn("show", move || {
                yield_to(SHOW_NICE);
                show.run();
                drop(alive);
            })?
        });
        let bind = config.http.bind;
        let wiring = roster::Wiring {
            device,
            spec,
            harbour,
            board: Arc::clone(&board),
            audience,
            rtsp,
            clock: Arc::clone(&clock),
            events,
            analyze: results,
            alive,
        };
        let grace = config.grace;
        let mut roster = Roster::start(wiring, config, ports)?;
        // Only the stages hold these from now on: their end is the signal.
        drop((fatal, stopped));
        ready.store(true, Relaxed);
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!(cameras = board.cameras().count(), http = %bind, "Ready.");

        let mut complaint = None;
        let verdict = loop {
            select! {
                recv(net.signals) -> _ => break Ok(()),
                recv(fatals) -> fault => break fault.map_or(Ok(()), Err),
                recv(orders) -> order => {
                    let Ok(order) = order else { break Ok(()) };
                    let _ = sd_notify::notify(&reloading());
                    let applied = roster::reload(&mut roster, &*reread, &mut complaint);
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
                    // Who asked may have gone.
                    if let Some(reply) = order.reply {
                        drop(reply.send(applied));
                    }
                }
            }
        };
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        ready.store(false, Relaxed);
        if let Err(fault) = &verdict {
            tracing::error!("A shared stage failed; stopping. {fault}");
        }
        desk.close();
        drop(stop_cameras);
        workers.extend(roster.stop());
        let in_time = end(workers, &all_ended, grace);
        net.stop(grace);
        for card in board.cameras() {
            let counts = card.ledger.read();
            tracing::info!(
                camera = &*card.name,
                frames_in = counts.frames_in,
                in_flight = counts.in_flight(),
                "Stopped."
            );
        }
        verdict.and(in_time)
    }
}

/// Lowers the priority of the calling thread, and of those that the engine will start from it. When the engine takes all cores, a
/// picture must not wait behind it to be decoded: late pictures are what latency is made of. Without the right to
/// change priorities nothing changes.
fn yield_to_decoders() {
    yield_to(ENGINE_NICE);
}

fn yield_to(nice: i32) {
    // Linux keeps a nice value per thread (sched(7)); `None` is the calling one.
    let _ = rustix::process::setpriority_process(None, nice);
}

/// Waits for all workers, at most for the grace period.
fn end(workers: Vec<supervise::Worker>, all_ended: &Receiver<Never>, grace: Duration) -> Result<(), Fault> {
    match all_ended.recv_timeout(grace) {
        Err(RecvTimeoutError::Disconnected) => {
            workers.into_iter().for_each(supervise::Worker::join);
            Ok(())
        }
        Ok(_) | Err(RecvTimeoutError::Timeout) => {
            let late: Vec<String> =
                workers.iter().filter(|w| !w.is_finished()).map(|w| w.name().to_owned()).collect();
            Err(Fault::new(
                Who::Bug,
                "grace",
                format!("not stopped within {} ms: {}", grace.as_millis(), late.join(", ")),
            ))
        }
    }
}

/// A class of requests is a camera whose frames nobody thins: who is over the limits is refused before.
fn request_settings(priority: Priority, limits: &desk::Limits) -> CameraSettings {
    CameraSettings {
        ring: desk::MOST_TIMEOUT,
        max_frames: limits.pending,
        backlog_frames: u32::MAX,
        priority,
        ..CameraSettings::default()
    }
}

/// From HTTP, which knows of no device, to the rings.
fn door<D: Device>(device: &Arc<D>, ports: Vec<Port<D::Pixels>>, clock: &Arc<dyn Clock>) -> Door {
    let (device, clock) = (Arc::clone(device), Arc::clone(clock));
    Arc::new(move |class, still, waiting| {
        let size = still.size;
        let pixels = device.picture(still)?;
        let now = clock.now();
        let stamp = Stamp { arrived: now, decoded: now, pts: None, wall: clock.wall() };
        ports[class as usize].request(Frame { stamp, size, pixels }, waiting);
        Ok(())
    })
}

fn report(curve: &Curve) {
    for rung in curve.rungs() {
        tracing::info!(
            batch = rung.frames,
            service_ms = rung.service.as_secs_f64() * 1e3,
            fps = rung.frames as f64 / rung.service.as_secs_f64(),
            "Measured the engine."
        );
    }
    tracing::info!(batch = curve.largest_useful(), "The largest batch that makes frames cheaper.");
}

enum Waited<T> {
    Got(T),
    Signal,
    Fatal(Fault),
}

fn wait_for<T>(what: &Receiver<T>, fatals: &Receiver<Fault>, signals: &Receiver<()>) -> Waited<T> {
    let died = || Fault::new(Who::Bug, "start", "the engine's thread ended before it was ready");
    select! {
        recv(what) -> got => match got {
            Ok(got) => Waited::Got(got),
            // Its sender is gone because the thread failed; the reason is on its way.
            Err(_) => Waited::Fatal(fatals.recv_timeout(Duration::from_secs(1)).unwrap_or_else(|_| died())),
        },
        recv(signals) -> _ => Waited::Signal,
        recv(fatals) -> fault => Waited::Fatal(fault.unwrap_or_else(|_| died())),
    }
}

/// What the health checks ask.
struct Probes {
    missing: http::Probe,
    stuck: http::Probe,
}

fn probes(ready: &Arc<AtomicBool>, beats: Vec<(&'static str, Beat)>, clock: &Arc<dyn Clock>) -> Probes {
    let (is_ready, was_ready, clock) = (Arc::clone(ready), Arc::clone(ready), Arc::clone(clock));
    Probes {
        missing: Arc::new(move || {
            if is_ready.load(Relaxed) {
                Vec::new()
            } else {
                vec!["the model has not been warmed up yet".to_owned()]
            }
        }),
        stuck: Arc::new(move || {
            if !was_ready.load(Relaxed) {
                return Vec::new();
            }
            let now = clock.now();
            let stuck = beats.iter().filter(|(_, beat)| now.since(beat.last()) > STUCK);
            stuck
                .map(|(name, beat)| {
                    format!("{name} has not moved for {:.0} s", now.since(beat.last()).as_secs_f32())
                })
                .collect()
        }),
    }
}

/// Everything that runs on tokio.
struct Net {
    runtime: tokio::runtime::Runtime,
    stopper: stop::Source,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// One message a signal; the second one never gets here, it ends the process.
    signals: Receiver<()>,
}

impl Net {
    fn start(
        config: &Config,
        listener: std::net::TcpListener,
        api: http::Api,
        order: Sender<Order>,
    ) -> Result<Net, Fault> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("net")
            .enable_all()
            .build()
            .map_err(|e| Fault::new(Who::Device, "threads", format!("tokio does not start: {e}")))?;
        let (stopper, stop) = stop::stop();
        let (heard, signals) = bounded(1);
        let mut tasks = Vec::new();
        {
            // Installed before anything answers: who sees us alive may stop us properly.
            let _context = runtime.enter();
            match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
                (Ok(term), Ok(int)) => drop(runtime.spawn(hear_signals(term, int, heard))),
                _ => tracing::error!("Signals cannot be heard; stop with SIGKILL."),
            }
            match signal(SignalKind::hangup()) {
                Ok(hup) => drop(runtime.spawn(hear_hangup(hup, order))),
                Err(_) => tracing::error!("SIGHUP cannot be heard; POST to /api/v1/reload instead."),
            }
        }
        runtime.spawn(feed_watchdog(Arc::clone(&api.stuck)));
        let (board, outbox, clock) =
            (Arc::clone(&api.board), Arc::clone(&api.outbox), Arc::clone(&api.clock));
        let serving = http::serve(listener, api, stop.clone());
        tasks.push(runtime.spawn(async move {
            if let Err(fault) = serving.await {
                tracing::error!("HTTP has ended: {fault}");
            }
        }));
        if let Some(mqtt) = config.mqtt.clone() {
            let wiring = sink::mqtt::Wiring {
                node: Arc::clone(&config.node),
                outbox,
                board,
                clock,
                // What is left of the grace period after the frame path has stopped is for HTTP.
                flush: config.grace / 2,
            };
            tasks.push(runtime.spawn(sink::mqtt::Sink::new(mqtt, wiring)?.run(stop)));
        }
        Ok(Net { runtime, stopper, tasks, signals })
    }

    /// Lets the sinks flush, at most for the grace period.
    fn stop(self, grace: Duration) {
        drop(self.stopper);
        let tasks = self.tasks;
        self.runtime.block_on(async move {
            let all = async {
                for task in tasks {
                    let _ = task.await;
                }
            };
            if tokio::time::timeout(grace, all).await.is_err() {
                tracing::warn!("A sink did not finish within the grace period.");
            }
        });
        self.runtime.shutdown_timeout(Duration::from_millis(200));
    }
}

/// The first SIGTERM or SIGINT asks for a stop; the second one does not ask.
async fn hear_signals(mut term: Signal, mut int: Signal, heard: Sender<()>) {
    for count in 1.. {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        if count == 1 {
            tracing::info!("Stopping; a second signal exits at once.");
            let _ = heard.try_send(());
        } else {
            std::process::exit(1);
        }
    }
}

/// SIGHUP has the configuration read again. Many in a row are few: what is read later is newer anyway.
async fn hear_hangup(mut hup: Signal, order: Sender<Order>) {
    while hup.recv().await.is_some() {
        let _ = order.try_send(Order { reply: None });
        tokio::time::sleep(HANGUPS).await;
    }
}

/// What systemd wants to hear before a reload (sd_notify(3)); nothing where it does not listen.
fn reloading() -> Vec<sd_notify::NotifyState<'static>> {
    let now = sd_notify::NotifyState::monotonic_usec_now().ok();
    std::iter::once(sd_notify::NotifyState::Reloading).chain(now).collect()
}

/// Tells systemd that we live, as long as every shared stage does.
async fn feed_watchdog(stuck: http::Probe) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut every = tokio::time::interval(limit / 2);
    loop {
        every.tick().await;
        let stages = stuck();
        if stages.is_empty() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        } else {
            tracing::error!("Not feeding systemd's watchdog: {}.", stages.join("; "));
        }
    }
}
