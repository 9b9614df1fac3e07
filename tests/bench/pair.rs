//! What a second GPU brings: the same streams from memory on one GPU and on two, through the daemon's own lanes (decoder, batcher, pacer,
//! engine loop), placed as the daemon places cameras, with one thread that reads all boxes. RTSP and tracking are not in it.
//!
//! ```text
//! cargo bench --bench pair -- MODEL.onnx      MODEL.toml lies beside it; the streams are those of tests/nvidia/streams.sh
//! ```
//!
//! | part | what |
//! |---|---|
//! | rush | as fast as it goes, `WEIR_PAIR_RUSH` (default 48) streams a GPU: frames a second, and those of two over those of one |
//! | live | 1080p30 in real time, `WEIR_PAIR_LIVE` (default 80) streams on one GPU and twice as many on two: p95 from access unit to boxes, and what was not inferred |
//!
//! With `WEIR_BENCH_JSON=FILE` the figures go there too.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../nvidia/streams.rs"]
mod streams;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, never};
use serde_json::{Map, Value, json};
use streams::Stream;
use weir::board::{Board, Terms};
use weir::clock::{Clock, SystemClock, Tick, Wall, bell};
use weir::config;
use weir::device::nvidia::decoder::Decoder;
use weir::device::nvidia::engine::Outputs as EngineOutputs;
use weir::device::nvidia::{Nvidia, Pixels};
use weir::device::{Device, Outputs};
use weir::flow::batch::{CameraSettings, Settings};
use weir::flow::detect::Detector;
use weir::flow::pace::Objective;
use weir::flow::place::{self, Room};
use weir::frame::{CameraId, Fate, Frame, Stamp};
use weir::intake::Port;
use weir::lanes::Yard;
use weir::model::spec::TensorView;
use weir::stage::analyze::Work;
use weir::stage::ingest::Never;
use weir::video::{Audience, Studio};

/// Until things run evenly, and how long is measured then.
const SETTLE: Duration = Duration::from_secs(3);
const SPAN: Duration = Duration::from_secs(8);

fn main() {
    let Some(file) = std::env::args().skip(1).find(|arg| arg != "--bench") else {
        return println!("skipped: no model; `python3 tests/nvidia/yolo-s.py MODEL.onnx` makes one");
    };
    let Some(stream) = Stream::open("hd.h264") else {
        return println!("skipped: no hd.h264; tests/nvidia/streams.sh makes it");
    };
    let file = PathBuf::from(file);
    let model = config::Model { manifest: file.with_extension("toml"), file, classes: Vec::new() };
    let infer = config::Infer {
        onnxruntime: None,
        execution: config::Execution::Order(vec![config::Provider::Cuda]),
        gpus: None,
        openvino: None,
        threads: 0,
        tensorrt_rtx: None,
        engine_cache: std::env::temp_dir(),
    };
    let devices: Vec<Arc<Nvidia>> = match Nvidia::open(&model, &infer, 32) {
        Ok(devices) => devices.into_iter().map(Arc::new).collect(),
        Err(fault) => return println!("skipped: no GPU: {fault}"),
    };
    if devices.len() < 2 {
        return println!("skipped: pair: there is one GPU here");
    }
    for device in &devices {
        println!("GPU {:?}: {}", device.ordinal(), device.gpu().name);
    }
    let number =
        |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (rush, live) = (number("WEIR_PAIR_RUSH", 48), number("WEIR_PAIR_LIVE", 80));
    let mut figures = Map::new();
    println!(
        "| part | GPUs | streams | cameras by GPU | frames/s | by GPU | p50 ms | p95 ms | not inferred |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (part, each, paced) in [("rush", rush, false), ("live", live, true)] {
        let mut all = Vec::new();
        for gpus in [1, 2] {
            let row = run(&devices[..gpus], &stream, gpus * each, paced);
            println!(
                "| {part} | {gpus} | {} | {:?} | {:.0} | {:?} | {:.1} | {:.1} | {:.2} % |",
                gpus * each,
                row.cameras,
                row.fps,
                row.by_lane.iter().map(|fps| fps.round()).collect::<Vec<_>>(),
                row.p50,
                row.p95,
                row.lost * 100.0
            );
            figures.insert(
                format!("pair {part} {gpus}"),
                json!({
                    "streams": gpus * each, "cameras": row.cameras, "fps": row.fps, "by_gpu": row.by_lane,
                    "p50_ms": row.p50, "p95_ms": row.p95, "lost": row.lost,
                }),
            );
            all.push(row.fps);
        }
        println!("{part}: two GPUs over one: {:.3}", all[1] / all[0]);
        figures.insert(format!("pair {part} ratio"), json!(all[1] / all[0]));
    }
    if let Some(file) = std::env::var_os("WEIR_BENCH_JSON") {
        let figures = Value::Object(figures);
        std::fs::write(file, format!("{figures:#}\n")).expect("the figures can be written");
    }
}

struct Row {
    cameras: Vec<usize>,
    fps: f64,
    by_lane: Vec<f64>,
    p50: f64,
    p95: f64,
    lost: f64,
}

/// What the threads of a run share.
struct Run {
    clock: SystemClock,
    board: Arc<Board>,
    stop: AtomicBool,
    started: AtomicUsize,
    /// Pictures that arrived before this, in nanoseconds, are not counted.
    from: AtomicU64,
    latencies: Mutex<Vec<f64>>,
}

fn wait(span: Duration) {
    let _ = never::<()>().recv_timeout(span);
}

fn run(devices: &[Arc<Nvidia>], stream: &Stream, streams: usize, paced: bool) -> Row {
    let names: Vec<String> = (0..streams).map(|n| format!("cam{n}")).collect();
    let ordinals: Vec<Option<u32>> = devices.iter().map(|device| device.ordinal()).collect();
    let terms = |name: &String| (Arc::from(name.as_str()), Terms::default());
    let board = Arc::new(Board::with_lanes(names.iter().map(terms), &ordinals));
    let system = SystemClock::new();
    let clock: Arc<dyn Clock> = Arc::new(system);
    // In a rush there is no latency to keep: batches may be as large as they pay.
    let target = Duration::from_millis(if paced { 100 } else { 5000 });
    board.flow.set_target(target);
    let (results, work) = bounded(2);
    let (fallen, falls) = bounded(devices.len());
    let (alive, _ended) = bounded::<Never>(0);
    let yard = Yard::<Nvidia> {
        settings: Settings::default(),
        objective: Objective { target, max_wait: Duration::from_millis(30), max_batch: 32 },
        requests: Vec::new(),
        spec: Arc::clone(devices[0].spec()),
        board: Arc::clone(&board),
        clock: Arc::clone(&clock),
        studio: Arc::new(Studio::new(Audience::new(names.iter().map(String::as_str), bell().0))),
        results,
        fallen,
        alive,
        shapes: Arc::default(),
    };
    let (mut berths, mut workers, mut detector, mut keep) = (Vec::new(), Vec::new(), None, Vec::new());
    for (number, device) in devices.iter().enumerate() {
        let (warm, warmed) = bounded(1);
        let opened = yard.open(number, Arc::clone(device), warm).unwrap_or_else(|fault| panic!("{fault}"));
        // A loop ends when nobody can send it anything: one more camera keeps it until all are wired.
        let nobody = CameraId(u32::try_from(board.capacity()).expect("few") + 1);
        keep.push((opened.berth.harbour.open(nobody, CameraSettings::default()), number));
        let warm = warmed.recv().unwrap_or_else(|_| panic!("{}", falls.recv().expect("why").fault));
        detector.get_or_insert(warm.detector);
        berths.push(opened.berth);
        workers.push(opened.worker);
    }
    drop(yard);
    let room = |lane: &weir::board::Lane| Room {
        capacity: lane.pace().map_or(0.0, |(_, curve)| curve.capacity()),
        load: 0.0,
        alive: true,
    };
    let mut rooms: Vec<Room> = board.flow.lanes().iter().map(room).collect();
    place::even_out(&mut rooms);
    let homes = place::spread(&mut rooms, (0..streams).map(|_| (None, 30.0)));
    let homes: Vec<usize> = homes.into_iter().map(|lane| lane.expect("all live")).collect();
    let run = Run {
        clock: system,
        board: Arc::clone(&board),
        stop: AtomicBool::new(false),
        started: AtomicUsize::new(0),
        from: AtomicU64::new(u64::MAX),
        latencies: Mutex::default(),
    };
    let mut row = None;
    std::thread::scope(|scope| {
        let run = &run;
        let mut detector = detector.expect("all are warm");
        scope.spawn(move || run.boxes(&mut detector, &work));
        for (number, lane) in homes.iter().enumerate() {
            let id = CameraId(u32::try_from(number).expect("few"));
            board.camera(id).set_lane(*lane);
            let port = berths[*lane].harbour.open(id, CameraSettings::default());
            let device = &devices[*lane];
            std::thread::Builder::new()
                .name(format!("cam-{number}"))
                .spawn_scoped(scope, move || run.camera(device, stream, number, &port, paced))
                .expect("threads can be started");
        }
        for (port, number) in keep {
            drop(port);
            berths[number].harbour.close(CameraId(u32::try_from(board.capacity()).expect("few") + 1));
        }
        while run.started.load(Relaxed) < streams {
            wait(Duration::from_millis(10));
        }
        row = Some(run.measure(&homes, devices.len()));
        run.stop.store(true, Relaxed);
    });
    for worker in workers {
        worker.join();
    }
    row.expect("it was measured")
}

impl Run {
    fn measure(&self, homes: &[usize], lanes: usize) -> Row {
        wait(SETTLE);
        let counts = || -> Vec<(u64, u64)> {
            let ledgers = self.board.cameras().map(|card| card.ledger.read());
            ledgers.map(|c| (c.frames_in, c.of(Fate::Inferred))).collect()
        };
        let (from, before) = (self.clock.now(), counts());
        self.from.store(from.as_nanos(), Relaxed);
        wait(SPAN);
        let (seconds, after) = (self.clock.now().since(from).as_secs_f64(), counts());
        let mut latencies = std::mem::take(&mut *self.latencies.lock().expect("no panic"));
        latencies.sort_by(f64::total_cmp);
        let at = |share: f64| {
            latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN)
        };
        let (mut came, mut by_lane, mut cameras) = (0, vec![0.0; lanes], vec![0; lanes]);
        for ((before, after), lane) in before.iter().zip(&after).zip(homes) {
            came += after.0 - before.0;
            by_lane[*lane] += (after.1 - before.1) as f64 / seconds;
            cameras[*lane] += 1;
        }
        let fps: f64 = by_lane.iter().sum();
        let lost = (1.0 - fps * seconds / came.max(1) as f64).max(0.0);
        Row { cameras, fps, by_lane, p50: at(0.5), p95: at(0.95), lost }
    }

    /// As `analyze`, without tracks and events: one thread for all GPUs.
    fn boxes(&self, detector: &mut Detector, work: &Receiver<Work<EngineOutputs>>) {
        let mut boxes = Vec::new();
        for work in work {
            let Work::Batch { frames, outputs } = work else { continue };
            for (slot, frame) in frames.iter().enumerate() {
                boxes.clear();
                let views: Vec<TensorView<'_>> =
                    (0..outputs.count()).map(|k| outputs.view(k, slot)).collect();
                detector.decode(&views, &frame.place, frame.size, &mut boxes);
                let now = self.clock.now();
                let latency = now.since(frame.stamp.arrived);
                let lane = self.board.camera(frame.key.camera).lane();
                self.board.flow.lane(lane).note_latency(now, latency);
                self.board.settle(frame.key, Fate::Inferred);
                if frame.stamp.arrived.as_nanos() >= self.from.load(Relaxed) {
                    self.latencies.lock().expect("no panic").push(latency.as_secs_f64() * 1e3);
                }
            }
        }
    }

    /// Feeds 30 access units a second, each camera at its own moment; or as many as the engine takes.
    fn camera(&self, device: &Nvidia, stream: &Stream, number: usize, port: &Port<Pixels>, paced: bool) {
        let mut decoder =
            Decoder::new(device.gpu(), stream.codec, 80).unwrap_or_else(|fault| panic!("{fault}"));
        let mut out = Vec::new();
        // The first picture makes the decoder, which takes a while when many do it at once.
        decoder.feed(stream.unit(0), &mut out).unwrap_or_else(|fault| panic!("{fault}"));
        out.clear();
        self.started.fetch_add(1, Relaxed);
        let interval = Duration::from_nanos(1_000_000_000 / 30);
        // The golden ratio spreads any number of them over the interval.
        let mut due: Tick = self.clock.now() + interval.mul_f64(number as f64 * 0.618_034 % 1.0);
        for i in (0..stream.len()).cycle().skip(1) {
            if self.stop.load(Relaxed) {
                return;
            }
            if paced {
                wait(due.since(self.clock.now()));
            } else {
                due = self.clock.now();
            }
            let arrived = due;
            due = due + interval;
            decoder.feed(stream.unit(i), &mut out).unwrap_or_else(|fault| panic!("{fault}"));
            for decoded in out.drain(..) {
                let Some(surface) = decoded.surface else {
                    port.undecodable();
                    continue;
                };
                if !paced {
                    port.wait_for_room(|| self.stop.load(Relaxed));
                }
                let stamp = Stamp { arrived, decoded: self.clock.now(), pts: None, wall: Wall::default() };
                port.push(Frame { stamp, size: decoded.size, pixels: Pixels::new(surface) });
            }
        }
    }
}
