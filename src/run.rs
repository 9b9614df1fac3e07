//! The wiring: every stage and every channel is built here, once. Nothing else spawns.
//!
//! ```text
//! cam-NAME ─ Port ─▶ Intake ─▶ infer ─ 2 batches ─▶ analyze ─ 4096 events ─▶ publish ─▶ Outbox ─▶ tokio: mqtt, http
//!           one of these a GPU   │ Studio             │ newest frame ─▶ show ─ newest picture ─▶ http, rtsp
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

use crate::board::{Board, Lane};
use crate::clock::{Clock, SystemClock, bell};
use crate::config::{Codec, Config, Priority};
use crate::device::Device;
use crate::device::choose::{Chosen, choose};
use crate::fault::{Fault, Who};
use crate::flow::batch::{CameraSettings, Settings};
use crate::flow::curve::Curve;
use crate::flow::pace::Objective;
use crate::frame::CameraId;
use crate::health::{Beats, probes};
use crate::lanes::{self, Fall, Warm, Yard};
use crate::model::spec::ModelSpec;
use crate::outbox::Outbox;
use crate::request::CLASSES;
use crate::request::desk::{self, Desk};
use crate::roster::{self, Order, Roster};
use crate::stage::analyze::{Analyze, Filter};
use crate::stage::ingest::Never;
use crate::stage::publish;
use crate::stage::show::Show;
use crate::supervise::{self, Beat};
use crate::video::encoder::Encoders;
use crate::video::{Audience, Gallery, Studio, rtsp};
use crate::{admission, http, metrics, sink, stop};

/// Between two looks at the configuration that signals cause.
const HANGUPS: Duration = Duration::from_millis(500);

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
        Chosen::Nvidia(devices) => {
            for device in &devices {
                let engine = device.describe(&config.infer.execution);
                tracing::info!(
                    model = device.spec().name,
                    engine,
                    gpu = device.ordinal(),
                    "Chose the engine."
                );
            }
            let spec = Arc::clone(devices[0].spec());
            Daemon { config, reread, devices, spec, clock }.run(listener)
        }
        Chosen::Software(device) => {
            tracing::info!(model = device.spec().name, engine = device.describe(), "Chose the engine.");
            let spec = Arc::clone(device.spec());
            Daemon { config, reread, devices: vec![*device], spec, clock }.run(listener)
        }
    }
}

/// The same on devices of the caller's own, which run the network that this describes: at least one.
///
/// # Errors
/// What kept it from starting, or made it stop.
pub fn run_on<D: Device>(
    config: Config,
    reread: Reread,
    devices: Vec<D>,
    spec: Arc<ModelSpec>,
) -> Result<(), Fault> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let listener = http::bind(config.http.bind)?;
    Daemon { config, reread, devices, spec, clock }.run(listener)
}

struct Daemon<D> {
    config: Config,
    reread: Reread,
    devices: Vec<D>,
    spec: Arc<ModelSpec>,
    clock: Arc<dyn Clock>,
}

impl<D: Device> Daemon<D> {
    fn run(self, listener: std::net::TcpListener) -> Result<(), Fault> {
        let Daemon { config, reread, devices, spec, clock } = self;
        let devices: Vec<Arc<D>> = devices.into_iter().map(Arc::new).collect();
        let exporter = metrics::install()?;
        let filter = Filter::new(&spec.labels, &config.model.classes)
            .map_err(|unknown| roster::unknown_classes(&spec, "[model] classes", &unknown))?;
        for camera in &config.cameras {
            roster::check_labels(&spec, camera)?;
        }
        let cameras = config.cameras.iter().map(|c| (Arc::clone(&c.name), roster::terms(c, None)));
        let gpus: Vec<Option<u32>> = devices.iter().map(|device| device.ordinal()).collect();
        let board = Arc::new(Board::with_lanes(cameras, &gpus));
        board.flow.set_target(config.batcher.slo_p95);
        for (lane, device) in board.flow.lanes().iter().zip(&devices) {
            let device = Arc::clone(device);
            lane.accelerator.ask(move || device.report());
        }
        let beside = board.flow.lanes().iter().any(|lane| lane.accelerator.report().is_some());
        board.admission.configure(admission::Settings::new(&config, beside));
        let outbox = Outbox::new(Arc::clone(&config.node), config.events.keep, Arc::clone(&clock));
        let ready = Arc::new(AtomicBool::new(false));
        let [analyze_beat, publish_beat] = [0, 1].map(|_| Beat::new(clock.now()));
        let shared = [("analyze", analyze_beat.clone()), ("publish", publish_beat.clone())];
        let beats = Arc::new(Beats::new(&board, shared));
        let (fatal, fatals) = bounded(8);
        // This end is kept, so that it is open as long as somebody listens.
        let (fallen, falls) = bounded(devices.len().max(1));
        // Whoever comes while that many wait is told to come again; signals are one then.
        let (order, orders) = bounded(2);
        // Every worker holds a clone; when all are gone, everything has ended.
        let (alive, all_ended) = bounded::<Never>(0);

        // The sockets, on tokio. They start first: a probe can ask how far the start has come.
        let limits = desk::Limits::new(&config.http);
        let desk = Arc::new(Desk::new(Arc::clone(&board), Arc::clone(&clock), limits, &config.tenants));
        let probes = probes(&ready, Arc::clone(&beats), &clock);
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
                    gpus: board.flow.lanes().iter().filter_map(gpu_of).collect(),
                })
            },
        };
        let net = Net::start(&config, listener, api, order)?;

        let studio = Arc::new(Studio::<D::Pixels>::new(Arc::clone(&audience)));
        let rtsp = match &config.rtsp_server {
            Some(settings) => Some(rtsp::Server::start(settings, &audience, encoders, &clock)?),
            None => None,
        };
        if let Some(rtsp) = &rtsp {
            board.admission.encode(rtsp.room());
        }

        // The frame path, from its end to its beginning.
        let (events, drafts) = bounded(4096);
        let (results, work) = bounded(2);
        // Clients' pictures have the numbers after the last camera that there could be.
        let first_class = u32::try_from(board.capacity()).unwrap_or(u32::MAX);
        let requests: Vec<(CameraId, CameraSettings)> = (first_class..)
            .map(CameraId)
            .zip(CLASSES.map(|class| request_settings(class, &limits)))
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
        let mut workers = vec![{
            let (outbox, clock, alive) = (Arc::clone(&outbox), Arc::clone(&clock), alive.clone());
            supervise::stage("publish", fatal.clone(), move || {
                publish::run(&drafts, &outbox, &publish_beat, &*clock);
                drop(alive);
                Ok(())
            })?
        }];
        let yard = Yard::<D> {
            settings,
            objective,
            requests,
            spec: Arc::clone(&spec),
            board: Arc::clone(&board),
            clock: Arc::clone(&clock),
            studio: Arc::clone(&studio),
            results: results.clone(),
            fallen,
            alive: alive.clone(),
            shapes: Arc::default(),
        };
        // Signals are heard from here on, so that a slow model load can be interrupted.
        let (mut lanes, mut doors, mut lane_beats, mut detector) = (Vec::new(), Vec::new(), Vec::new(), None);
        for (number, device) in devices.into_iter().enumerate() {
            let (warm, warmed) = bounded(1);
            let opened = yard.open(number, device, warm)?;
            workers.push(opened.worker);
            doors.push(opened.pier);
            lanes.push(opened.berth);
            lane_beats.push(opened.beat);
            match wait_for(&warmed, &falls, &net.signals) {
                Waited::Got(Warm { detector: its, curve }) => {
                    report(&curve, board.flow.label(number));
                    detector.get_or_insert(its);
                }
                Waited::Signal => return Ok(()),
                Waited::Fell(fault) => {
                    tracing::error!(gpu = board.flow.lane(number).gpu, "An engine does not start: {fault}");
                    board.flow.lane(number).fail(fault);
                }
            }
        }
        let Some(detector) = detector else {
            let fault = board.flow.lanes().iter().find_map(|lane| lane.fault().cloned());
            return Err(fault.unwrap_or_else(|| Fault::new(Who::Bug, "start", "there is no device")));
        };
        let watch = lanes::Watch::new(Arc::clone(&board), lane_beats.clone(), analyze_beat.clone());
        beats.watch_lanes(lane_beats);

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
        desk.open(lanes::door(doors, &board, &clock));
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
                lanes::yield_to(SHOW_NICE);
                show.run();
                drop(alive);
            })?
        });
        let bind = config.http.bind;
        let wiring = roster::Wiring {
            lanes,
            spec,
            board: Arc::clone(&board),
            audience,
            rtsp,
            clock: Arc::clone(&clock),
            events,
            analyze: results,
            alive,
        };
        let grace = config.grace;
        let mut roster = Roster::start(wiring, config)?;
        // Only the stages hold these from now on: their end is the signal.
        drop((fatal, stopped));
        let _fallen = yard.fallen.clone();
        drop(yard);
        ready.store(true, Relaxed);
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!(cameras = board.cameras().count(), http = %bind, "Ready.");

        let (mut complaint, mut watch) = (None, watch);
        let verdict = loop {
            select! {
                recv(net.signals) -> _ => break Ok(()),
                recv(fatals) -> fault => break fault.map_or(Ok(()), Err),
                recv(falls) -> fall => {
                    let Ok(fall) = fall else { break Ok(()) };
                    if let Err(fault) = fell(fall, &board, &mut roster) { break Err(fault); }
                }
                default(Beat::EVERY) => {
                    roster.look();
                    if let Some(fall) = watch.look(clock.now()) {
                        roster.abandon(fall.lane);
                        if let Err(fault) = fell(fall, &board, &mut roster) { break Err(fault); }
                    }
                }
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

/// A lane has ended. Its cameras go to the others; where there is none, that is the daemon's end.
fn fell<D: Device>(fall: Fall, board: &Board, roster: &mut Roster<D>) -> Result<(), Fault> {
    let Fall { lane, fault } = fall;
    let its = board.flow.lane(lane);
    // One that hung was given up before its loop ended.
    if !its.fail(fault.clone()) {
        return Ok(());
    }
    let living = board.flow.living().count();
    if living == 0 {
        return Err(fault);
    }
    let cameras = roster.evacuate(lane);
    tracing::error!(
        gpu = its.gpu.unwrap_or(lane as u32),
        cameras,
        living,
        "An engine failed; its cameras were started again on the others. {fault}"
    );
    Ok(())
}

/// The GPU of an engine, if it has one.
fn gpu_of(lane: &Lane) -> Option<http::answers::Gpu> {
    let fault = lane.fault().map(|fault| fault.message.clone());
    Some(http::answers::Gpu { reading: lane.accelerator.report()?, state: lane.state(), fault })
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

/// `gpu`: where there are several.
fn report(curve: &Curve, gpu: Option<u32>) {
    for rung in curve.rungs() {
        tracing::info!(
            gpu,
            batch = rung.frames,
            service_ms = rung.service.as_secs_f64() * 1e3,
            fps = rung.frames as f64 / rung.service.as_secs_f64(),
            "Measured the engine."
        );
    }
    tracing::info!(gpu, batch = curve.largest_useful(), "The largest batch that makes frames cheaper.");
}

enum Waited<T> {
    Got(T),
    Signal,
    Fell(Fault),
}

/// Waits for a lane to be warm. Those before it have nothing to do yet, so it is the one that can fall.
fn wait_for<T>(what: &Receiver<T>, falls: &Receiver<Fall>, signals: &Receiver<()>) -> Waited<T> {
    let died = || Fault::new(Who::Bug, "start", "the engine's thread ended before it was ready");
    select! {
        recv(what) -> got => match got {
            Ok(got) => Waited::Got(got),
            // Its sender is gone because the thread failed; the reason is on its way.
            Err(_) => Waited::Fell(falls.recv_timeout(Duration::from_secs(1)).map_or_else(|_| died(), |fall| fall.fault)),
        },
        recv(signals) -> _ => Waited::Signal,
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
