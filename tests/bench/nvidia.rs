//! What one GPU does: the engine alone, the decoder alone, and both with all that lies between, from elementary streams in memory.
//!
//! ```text
//! tests/nvidia/streams.sh                               the streams, with ffmpeg
//! python3 tests/nvidia/yolo-s.py MODEL.onnx             the network, with random weights
//! cargo bench --bench nvidia -- MODEL.onnx [PART…]      parts: providers ways engine decode start flow live churn; default: all but the first two
//! ```
//!
//! | part | what |
//! |---|---|
//! | providers | frames a second at batch 1 and 8 by CUDA, TensorRT and TensorRT-RTX, or why not. `WEIR_RTX` names the plugin, `WEIR_ENGINES` a folder for engines |
//! | ways | frames a second of the network alone, batch by batch, for each way to set up the provider |
//! | engine | the same for the way that is used: one run at a time, and one behind the other |
//! | decode | pictures a second of N decoders at once, each on its own thread, 1080p 4 Mbit/s |
//! | start | how long N cameras that come at once wait for their first picture |
//! | flow | N streams as fast as they go: decode → kernel → network → boxes; and that ÷ the engine alone at the same batch. 0 streams: the same pictures again and again, without decoding |
//! | live | more and more streams at 30 pictures a second each, through the daemon's own batcher, pacer and engine loop: latency from access unit to boxes, and what was not done |
//! | churn | a thousand cameras come, show a few pictures and go: memory of the process and of the GPU |
//!
//! RTSP and tracking are not in it. With `WEIR_BENCH_JSON=FILE` the figures go there too.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../nvidia/streams.rs"]
mod streams;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, never};
use serde_json::{Map, Value, json};
use streams::Stream;
use weir::board::Board;
use weir::clock::{Clock, SystemClock, Tick, Wall, bell};
use weir::config::Provider;
use weir::device::nvidia::decoder::Decoder;
use weir::device::nvidia::engine::{NvidiaEngine, Outputs as EngineOutputs, Tuning};
use weir::device::nvidia::gpu::Gpu;
use weir::device::nvidia::nvml::Meter;
use weir::device::nvidia::{Nvidia, Pixels};
use weir::device::software::session::{Runtime, load_runtime};
use weir::device::{Device, Engine, Outputs};
use weir::flow::batch::{CameraSettings, Settings};
use weir::flow::detect::Detector;
use weir::flow::pace::{Objective, Pacer};
use weir::frame::{CameraId, Fate, Frame, Size, Stamp};
use weir::intake::{Port, intake};
use weir::model::spec::{Placement, TensorView};
use weir::stage::analyze::Work;
use weir::stage::infer::{Infer, warm_up};
use weir::supervise::Beat;
use weir::usage;
use weir::video::{Audience, Studio};

/// How long each figure is measured.
const SPAN: Duration = Duration::from_secs(4);
/// Pictures that wait for the engine, a stream.
const RING: usize = 4;

const MANIFEST: &str = r#"
[model]
name = "yolo-s-random"
licence = "none"
description = "YOLOv8-s' shape, random weights"
labels = "coco-80"

[input]
name = "images"
width = 640
height = 640
std = [255.0, 255.0, 255.0]

[output]
family = "yolov8"
score_floor = 0.1
nms_iou = 0.5
"#;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let gpu = match Gpu::open(0) {
        Ok(gpu) => gpu,
        Err(fault) => return println!("skipped: no GPU: {fault}"),
    };
    println!("{}; NVDEC: {}", gpu.name, gpu.describe_decoder());
    let Some((file, parts)) = args.split_first() else {
        return println!("skipped: no model; `python3 tests/nvidia/yolo-s.py MODEL.onnx` makes one");
    };
    let wants = |part: &str| match parts {
        [] => !["ways", "providers"].contains(&part),
        parts => parts.iter().any(|p| p == part),
    };
    let manifest = std::env::temp_dir().join("weir-bench-nvidia.toml");
    std::fs::write(&manifest, MANIFEST).expect("the temporary folder can be written");
    let bench = Bench {
        clock: SystemClock::new(),
        meter: Meter::start(&gpu),
        gpu,
        runtime: OnceLock::new(),
        file: file.into(),
        manifest,
        figures: Mutex::default(),
    };
    let parts: [(&str, Part); 8] = [
        ("providers", Bench::providers),
        ("ways", Bench::ways),
        ("engine", Bench::engine),
        ("decode", Bench::decode),
        ("start", Bench::start),
        ("flow", Bench::flow),
        ("live", Bench::live),
        ("churn", Bench::churn),
    ];
    for (name, part) in parts {
        if wants(name) {
            part(&bench);
        }
    }
    if let Some(file) = std::env::var_os("WEIR_BENCH_JSON") {
        let figures = Value::Object(std::mem::take(&mut *bench.figures.lock().expect("no panic")));
        std::fs::write(file, format!("{figures:#}\n")).expect("the figures can be written");
    }
}

type Part = fn(&Bench);

struct Bench {
    clock: SystemClock,
    meter: Meter,
    gpu: Arc<Gpu>,
    runtime: OnceLock<Arc<Runtime>>,
    file: PathBuf,
    manifest: PathBuf,
    figures: Mutex<Map<String, Value>>,
}

/// A picture on its way, and when its access unit was there.
struct Coming {
    arrived: Tick,
    frame: Frame<Pixels>,
}

/// What the threads of a live run share.
#[derive(Default)]
struct Live {
    stop: AtomicBool,
    /// Cameras whose decoder is there.
    started: AtomicUsize,
    /// Pictures that arrived before this, in nanoseconds, are not counted.
    from: AtomicU64,
    latencies: Mutex<Vec<f64>>,
    batches: AtomicUsize,
}

/// A batch's results: with each picture's arrival, place and size.
type Done = (EngineOutputs, Vec<(Tick, Placement, Size)>);

impl Bench {
    fn device(&self, tuning: Tuning) -> Nvidia {
        let model = weir::config::Model {
            file: self.file.clone(),
            manifest: self.manifest.clone(),
            classes: Vec::new(),
        };
        let runtime = self.runtime.get_or_init(|| {
            let runtime = load_runtime(None).unwrap_or_else(|fault| panic!("{fault}"));
            Arc::new(runtime.with_tensorrt_rtx(std::env::var_os("WEIR_RTX").map(PathBuf::from)))
        });
        let device = Nvidia::on(Arc::clone(&self.gpu), Arc::clone(runtime), &model, 32);
        device.unwrap_or_else(|fault| panic!("{fault}")).with_tuning(tuning)
    }

    fn seconds(&self, since: Tick) -> f64 {
        self.clock.now().since(since).as_secs_f64()
    }

    fn note(&self, name: impl Into<String>, value: Value) {
        self.figures.lock().expect("no panic").insert(name.into(), value);
    }

    /// Frames a second of the network alone, `queued` runs one behind the other.
    fn raw(&self, engine: &mut NvidiaEngine, batch: usize, queued: usize) -> f64 {
        for _ in 0..4 {
            engine.run_network(batch, 1).unwrap_or_else(|fault| panic!("{fault}"));
        }
        let mut times: Vec<f64> = (0..(48 / queued).max(4))
            .map(|_| {
                let before = self.clock.now();
                engine.run_network(batch, queued).unwrap_or_else(|fault| panic!("{fault}"));
                self.seconds(before) / queued as f64
            })
            .collect();
        times.sort_by(f64::total_cmp);
        batch as f64 / times[times.len() / 2]
    }

    fn providers(&self) {
        let folder = std::env::var_os("WEIR_ENGINES").map(PathBuf::from);
        let folder = folder.unwrap_or_else(|| weir::config::cache_dir().join("engines"));
        println!("\nnetwork alone, frames a second, runs one behind the other");
        println!("| provider | warm in s | 1 | 8 |\n|---|---|---|---|");
        for provider in [Provider::Cuda, Provider::TensorRt, Provider::TensorRtRtx] {
            let before = self.clock.now();
            let engine = self
                .device(Tuning::default())
                .settle(&[provider], &folder)
                .and_then(|device| device.engine());
            let engine = engine.and_then(|mut engine| engine.run_network(8, 1).map(|()| engine));
            let mut engine = match engine {
                Ok(engine) => engine,
                Err(fault) => {
                    println!("| {provider} | {fault} | | |");
                    self.note(format!("provider {provider}"), json!({ "refused": fault.to_string() }));
                    continue;
                }
            };
            let warm = self.seconds(before);
            let fps = [1, 8].map(|batch| self.raw(&mut engine, batch, 16));
            println!("| {provider} | {warm:.1} | {:.0} | {:.0} |", fps[0], fps[1]);
            self.note(
                format!("provider {provider}"),
                json!({ "warm_s": warm, "batches": [1, 8], "fps": fps }),
            );
        }
    }

    fn ways(&self) {
        let base = Tuning::default();
        let ways = [
            ("plain", Tuning { nhwc: false, graphs: false, ..base }),
            ("nhwc", Tuning { nhwc: true, graphs: false, ..base }),
            ("graphs", Tuning { nhwc: false, graphs: true, ..base }),
            ("nhwc graphs", Tuning { nhwc: true, graphs: true, ..base }),
            ("nhwc graphs, exhaustive search", Tuning { exhaustive: !base.exhaustive, ..base }),
        ];
        println!("\nengine alone, frames a second by batch, runs one behind the other");
        println!(
            "| set up | all rungs warm in s | 1 | 2 | 4 | 8 | 16 | 32 |\n|---|---|---|---|---|---|---|---|"
        );
        for (name, tuning) in ways.into_iter().filter(|(name, _)| only("WEIR_BENCH_WAYS", name)) {
            self.way(name, tuning, 16);
        }
    }

    fn engine(&self) {
        println!("\nengine alone, frames a second by batch");
        println!(
            "| runs | all rungs warm in s | 1 | 2 | 4 | 8 | 16 | 32 |\n|---|---|---|---|---|---|---|---|"
        );
        self.way("one at a time", Tuning::default(), 1);
        self.way("one behind the other", Tuning::default(), 16);
    }

    fn way(&self, name: &str, tuning: Tuning, queued: usize) {
        let device = self.device(tuning);
        let before = self.clock.now();
        let warm = device.engine().and_then(|mut engine| engine.run_network(32, 1).map(|()| engine));
        let mut engine = match warm {
            Ok(engine) => engine,
            Err(fault) => return println!("| {name} | cannot: {} |", fault.message),
        };
        let opened = self.seconds(before);
        let batches = [1, 2, 4, 8, 16, 32];
        let fps = batches.map(|batch| self.raw(&mut engine, batch, queued));
        let row: String = fps.iter().map(|fps| format!(" {fps:.0} |")).collect();
        println!("| {name} | {opened:.1} |{row}");
        self.note(format!("engine {name}"), json!({ "warm_s": opened, "batches": batches, "fps": fps }));
    }

    fn decode(&self) {
        println!("\ndecode alone, 1080p 4 Mbit/s, pictures a second");
        println!("| codec | 1 | 4 | 16 | 32 | 64 |\n|---|---|---|---|---|---|");
        for name in ["hd.h264", "hd.h265"] {
            let Some(stream) = Stream::open(name) else {
                println!("| skipped: no {name}; tests/nvidia/streams.sh makes it |");
                continue;
            };
            let mut row = format!("| {name} |");
            for streams in [1, 4, 16, 32, 64] {
                let (pictures, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
                let up = AtomicUsize::new(0);
                let seconds = std::thread::scope(|scope| {
                    for _ in 0..streams {
                        scope.spawn(|| {
                            let mut first = true;
                            self.feed(&stream, RING + 2, &stop, |_, decoded| {
                                up.fetch_add(usize::from(std::mem::take(&mut first)), Relaxed);
                                pictures.fetch_add(usize::from(decoded.surface.is_some()), Relaxed);
                                true
                            });
                        });
                    }
                    while up.load(Relaxed) < streams {
                        self.wait(Duration::from_millis(10));
                    }
                    self.measured(&pictures, &stop)
                });
                row += &format!(" {seconds:.0} |");
                self.note(format!("decode {name} {streams}"), json!(seconds));
            }
            println!("{row}");
        }
    }

    /// Cameras that come at once.
    fn start(&self) {
        let Some(stream) = Stream::open("hd.h264") else { return println!("skipped start: no hd.h264") };
        println!("\nseconds until each of so many cameras that come at once has shown a picture");
        println!("| cameras | half of them | all | decoders left after |\n|---|---|---|---|");
        for cameras in [1, 16, 100] {
            let (shown, stop) = (Mutex::new(Vec::new()), AtomicBool::new(false));
            let before = self.clock.now();
            std::thread::scope(|scope| {
                for _ in 0..cameras {
                    scope.spawn(|| {
                        let mut first = true;
                        self.feed(&stream, RING + 2, &stop, |_, decoded| {
                            if std::mem::take(&mut first) && decoded.surface.is_some() {
                                shown.lock().expect("no panic").push(self.seconds(before));
                            }
                            self.wait(Duration::from_millis(33));
                            true
                        });
                    });
                }
                while shown.lock().expect("no panic").len() < cameras && self.seconds(before) < 60.0 {
                    self.wait(Duration::from_millis(10));
                }
                stop.store(true, Relaxed);
            });
            let shown = shown.into_inner().expect("no panic");
            let at = |i: usize| shown.get(i).copied().unwrap_or(f64::NAN);
            let (half, all) = (at(cameras / 2), at(cameras - 1));
            println!("| {cameras} | {half:.2} | {all:.2} | {} |", self.gpu.decoders());
            self.note(format!("start {cameras}"), json!({ "half_s": half, "all_s": all }));
        }
    }

    /// Cameras come and go.
    fn churn(&self) {
        let Some(stream) = Stream::open("hd.h264") else { return println!("skipped churn: no hd.h264") };
        println!("\na thousand cameras come, show ten pictures and go, eight at a time");
        println!("| cameras so far | process, MB | GPU, MB | seconds |\n|---|---|---|---|");
        let before = self.clock.now();
        let stop = AtomicBool::new(false);
        for round in 0..=10 {
            if round > 0 {
                let next = AtomicUsize::new(0);
                std::thread::scope(|scope| {
                    for _ in 0..8 {
                        scope.spawn(|| {
                            while next.fetch_add(1, Relaxed) < 100 {
                                let mut shown = 0;
                                self.feed(&stream, RING + 2, &stop, |_, _| {
                                    shown += 1;
                                    shown < 10
                                });
                            }
                        });
                    }
                });
            }
            // For the meter to read.
            self.wait(Duration::from_millis(2500));
            let process = usage::resident().unwrap_or(f64::NAN) / 1e6;
            let gpu = self.meter.last().memory_used_bytes.map_or(f64::NAN, |bytes| bytes as f64 / 1e6);
            let seconds = self.seconds(before);
            println!("| {} | {process:.1} | {gpu:.1} | {seconds:.1} |", round * 100);
            self.note(format!("churn {:04}", round * 100), json!({ "process_mb": process, "gpu_mb": gpu }));
        }
    }

    /// Waits until things run, then for [`SPAN`]; returns how many a second `counter` rose.
    fn measured(&self, counter: &AtomicUsize, stop: &AtomicBool) -> f64 {
        self.wait(Duration::from_secs(1));
        let (before, from) = (self.clock.now(), counter.load(Relaxed));
        self.wait(SPAN);
        let per_second = (counter.load(Relaxed) - from) as f64 / self.seconds(before);
        stop.store(true, Relaxed);
        per_second
    }

    fn wait(&self, span: Duration) {
        let _ = never::<()>().recv_timeout(span);
    }

    /// Decodes a stream again and again until `stop`, or until `each` says so.
    fn feed(
        &self,
        stream: &Stream,
        most: usize,
        stop: &AtomicBool,
        mut each: impl FnMut(Tick, weir::device::nvidia::decoder::Decoded) -> bool,
    ) {
        let mut decoder =
            Decoder::new(&self.gpu, stream.codec, most).unwrap_or_else(|fault| panic!("{fault}"));
        let mut out = Vec::new();
        for i in (0..stream.len()).cycle() {
            if stop.load(Relaxed) {
                return;
            }
            let arrived = self.clock.now();
            decoder.feed(stream.unit(i), &mut out).unwrap_or_else(|fault| panic!("{fault}"));
            for decoded in out.drain(..) {
                if !each(arrived, decoded) {
                    return;
                }
            }
        }
    }

    /// The engine's loop under more load than it can take: whatever waits, at most a batch; results go to the next thread.
    fn infer(&self, engine: &mut NvidiaEngine, batch: usize, frames: Receiver<Coming>, done: Sender<Done>) {
        let mut flying = std::collections::VecDeque::new();
        loop {
            let Ok(first) = frames.recv() else { break };
            let mut coming = vec![first];
            // Not what a paced loop would do: a full batch each time, which the network alone has too.
            while coming.len() < batch
                && let Ok(next) = frames.recv_timeout(Duration::from_millis(50))
            {
                coming.push(next);
            }
            let loaded: Vec<(Tick, Placement, Size)> = coming
                .into_iter()
                .enumerate()
                .map(|(slot, coming)| {
                    let place = engine.load(slot, &coming.frame).unwrap_or_else(|fault| panic!("{fault}"));
                    (coming.arrived, place, coming.frame.size)
                })
                .collect();
            engine.submit(loaded.len()).unwrap_or_else(|fault| panic!("{fault}"));
            flying.push_back(loaded);
            if flying.len() == engine.depth()
                && let Some(loaded) = flying.pop_front()
            {
                let outputs = engine.collect().unwrap_or_else(|fault| panic!("{fault}"));
                if done.send((outputs, loaded)).is_err() {
                    break;
                }
            }
        }
        for _ in flying {
            engine.collect().unwrap_or_else(|fault| panic!("{fault}"));
        }
    }

    /// Boxes of what is done; tells `each` when each picture arrived, how long it took, and how many there are.
    fn analyze(
        &self,
        detector: &mut Detector,
        done: &Receiver<Done>,
        mut each: impl FnMut(Tick, Duration, usize),
    ) {
        let mut boxes = Vec::new();
        for (outputs, frames) in done {
            for (slot, (arrived, place, size)) in frames.iter().enumerate() {
                boxes.clear();
                let views: Vec<TensorView<'_>> =
                    (0..outputs.count()).map(|k| outputs.view(k, slot)).collect();
                detector.decode(&views, place, *size, &mut boxes);
                each(*arrived, self.clock.now().since(*arrived), boxes.len());
            }
        }
    }

    fn coming(&self, arrived: Tick, decoded: weir::device::nvidia::decoder::Decoded) -> Option<Coming> {
        let stamp = Stamp { arrived, decoded: arrived, pts: None, wall: Wall::default() };
        let pixels = Pixels::new(decoded.surface?);
        Some(Coming { arrived, frame: Frame { stamp, size: decoded.size, pixels } })
    }

    /// Pictures of a stream, decoded before.
    fn pictures(&self, stream: &Stream) -> Vec<Frame<Pixels>> {
        let mut pictures = Vec::new();
        self.feed(stream, 200, &AtomicBool::new(false), |arrived, decoded| {
            pictures.extend(self.coming(arrived, decoded).map(|coming| coming.frame));
            pictures.len() < 100
        });
        pictures
    }

    fn flow(&self) {
        let Some(stream) = Stream::open("hd.h264") else { return println!("skipped flow: no hd.h264") };
        println!("\nas fast as it goes: decode → kernel → network → boxes, hd.h264");
        println!(
            "\n| streams | batch | frames/s | engine alone | ratio | boxes a frame |\n|---|---|---|---|---|---|"
        );
        let device = self.device(Tuning::default());
        let mut engine = device.engine().unwrap_or_else(|fault| panic!("{fault}"));
        let shapes = engine.outputs();
        let pictures = self.pictures(&stream);
        for batch in [1, 16, 32] {
            let mut load = |times| {
                for (slot, frame) in pictures.iter().take(batch).enumerate() {
                    engine.load(slot, frame).unwrap_or_else(|fault| panic!("{fault}"));
                }
                let before = self.clock.now();
                engine.run_preparation(times).unwrap_or_else(|fault| panic!("{fault}"));
                self.seconds(before) / times as f64
            };
            load(10);
            let took = load(200);
            println!("preparing a batch of {batch} alone: {:.3} ms", took * 1e3);
            self.note(format!("prepare {batch}"), json!(took));
        }
        let rows = [(0, 16), (0, 32), (1, 1), (16, 16), (64, 16), (64, 32)];
        for (streams, batch) in rows.into_iter().filter(|row| only("WEIR_BENCH_FLOW", &format!("{row:?}"))) {
            let (stop, count, boxes) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
            let up = AtomicUsize::new(0);
            let (frames, waiting) = bounded::<Coming>(2 * batch.max(streams));
            let (done, work) = bounded::<Done>(2);
            let mut detector =
                Detector::new(device.spec(), &shapes).unwrap_or_else(|fault| panic!("{fault}"));
            let alone = self.raw(&mut engine, batch, 16);
            let engine = &mut engine;
            let fps = std::thread::scope(|scope| {
                for _ in 0..streams {
                    let (frames, stop, stream, up) = (frames.clone(), &stop, &stream, &up);
                    scope.spawn(move || {
                        let mut first = true;
                        self.feed(stream, 2 * batch + 2 * streams + 8, stop, |arrived, decoded| {
                            up.fetch_add(usize::from(std::mem::take(&mut first)), Relaxed);
                            self.coming(arrived, decoded).is_none_or(|coming| frames.send(coming).is_ok())
                        });
                    });
                }
                if streams == 0 {
                    let (pictures, stop) = (&pictures, &stop);
                    scope.spawn(move || {
                        let coming = pictures
                            .iter()
                            .cycle()
                            .map(|frame| Coming { arrived: self.clock.now(), frame: frame.clone() });
                        coming.take_while(|_| !stop.load(Relaxed)).all(|coming| frames.send(coming).is_ok())
                    });
                } else {
                    drop(frames);
                }
                let (count, boxes) = (&count, &boxes);
                scope.spawn(move || {
                    self.analyze(&mut detector, &work, |_, _, found| {
                        count.fetch_add(1, Relaxed);
                        boxes.fetch_add(found, Relaxed);
                    });
                });
                let fps = scope.spawn(|| {
                    while up.load(Relaxed) < streams {
                        self.wait(Duration::from_millis(10));
                    }
                    self.measured(count, &stop)
                });
                // On the thread that opened the engine: a recorded run belongs to it.
                self.infer(engine, batch, waiting, done);
                fps.join().expect("it does not panic")
            });
            let found = boxes.load(Relaxed) as f64 / count.load(Relaxed).max(1) as f64;
            println!(
                "| {streams} | {batch} | {fps:.0} | {alone:.0} | {:.1} % | {found:.1} |",
                fps / alone * 100.0
            );
            self.note(
                format!("flow {streams} streams batch {batch}"),
                json!({ "fps": fps, "alone_fps": alone, "ratio": fps / alone, "boxes": found }),
            );
        }
    }

    fn live(&self) {
        let Some(stream) = Stream::open("hd.h264") else { return println!("skipped live: no hd.h264") };
        let steps = std::env::var("WEIR_BENCH_STREAMS").unwrap_or_else(|_| "16 40 64 80 96 120".to_owned());
        let steps: Vec<usize> = steps.split_whitespace().map(|n| n.parse().expect("numbers")).collect();
        let most = steps.iter().copied().max().unwrap_or(0);
        println!("\nlive: streams of 1080p30 in real time, latency from access unit to boxes");
        println!(
            "| streams | up in s | frames/s | frames a batch | p50 ms | p95 ms | p99 ms | not inferred | CPU a stream, % of a core | GPU | NVDEC | GPU MB |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
        let device = self.device(Tuning::default());
        let mut engine = device.engine().unwrap_or_else(|fault| panic!("{fault}"));
        let mut detector =
            Detector::new(device.spec(), &engine.outputs()).unwrap_or_else(|fault| panic!("{fault}"));
        let curve = warm_up(&mut engine, &self.clock).unwrap_or_else(|fault| panic!("{fault}"));
        let names: Vec<String> = (0..most).map(|n| format!("cam{n}")).collect();
        let board = Arc::new(Board::new(names.iter().map(|name| Arc::from(name.as_str()))));
        let clock: Arc<dyn Clock> = Arc::new(self.clock);
        let target = Duration::from_millis(100);
        board.flow.set_target(target);
        let max_batch = curve.largest_useful();
        let objective = Objective { target, max_wait: Duration::from_millis(30), max_batch };
        let cameras: Vec<(CameraId, CameraSettings)> =
            (0..most as u32).map(|n| (CameraId(n), CameraSettings::default())).collect();
        let beat = Beat::new(self.clock.now());
        let (ports, intake) = intake(Settings::default(), &cameras, &board, &clock, beat);
        let (results, work) = bounded(2);
        let infer = Infer::<Nvidia> {
            intake,
            engine,
            pacer: Pacer::new(objective, curve),
            results,
            board: Arc::clone(&board),
            clock,
            studio: Arc::new(Studio::new(Audience::new(names.iter().map(String::as_str), bell().0))),
        };
        let run = Live { from: AtomicU64::new(u64::MAX), ..Live::default() };
        std::thread::scope(|scope| {
            let (run, board, stream) = (&run, &board, &stream);
            scope.spawn(move || self.boxes(&mut detector, &work, board, run));
            scope.spawn(move || {
                let mut ports = ports.into_iter().enumerate();
                let mut running = 0;
                for streams in steps {
                    let before = self.clock.now();
                    for (number, port) in ports.by_ref().take(streams - running) {
                        std::thread::Builder::new()
                            .name(format!("cam-{number}"))
                            .spawn_scoped(scope, move || self.camera(stream, number, &port, run))
                            .expect("threads can be started");
                    }
                    running = streams;
                    while run.started.load(Relaxed) < running {
                        self.wait(Duration::from_millis(10));
                    }
                    let up = self.seconds(before);
                    self.step(streams, up, board, run);
                }
                run.stop.store(true, Relaxed);
            });
            // On the thread that opened the engine: a recorded run belongs to it.
            infer.run().unwrap_or_else(|fault| panic!("{fault}"));
        });
    }

    /// Lets the cameras run for three seconds, then measures.
    fn step(&self, streams: usize, up: f64, board: &Board, run: &Live) {
        self.wait(Duration::from_secs(3));
        let counts = || {
            let ledgers = board.cameras().map(|card| card.ledger.read());
            ledgers.fold((0, 0), |(came, done), c| (came + c.frames_in, done + c.of(Fate::Inferred)))
        };
        let (from, cpu, threads, before) = (self.clock.now(), cpu_seconds(), cpu_by_thread(), counts());
        run.latencies.lock().expect("no panic").clear();
        run.batches.store(0, Relaxed);
        run.from.store(from.as_nanos(), Relaxed);
        self.wait(SPAN * 2);
        let (seconds, after) = (self.seconds(from), counts());
        let cpu = (cpu_seconds() - cpu) / seconds;
        let mut latencies = std::mem::take(&mut *run.latencies.lock().expect("no panic"));
        let batches = run.batches.load(Relaxed);
        run.from.store(u64::MAX, Relaxed);
        latencies.sort_by(f64::total_cmp);
        let at = |share: f64| {
            latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN)
        };
        let (came, done) = (after.0 - before.0, after.1 - before.1);
        let lost = 1.0 - done as f64 / came.max(1) as f64;
        let report = self.meter.last();
        let percent = |ratio: Option<f64>| ratio.map_or(f64::NAN, |r| r * 100.0);
        let (gpu, nvdec) = (percent(report.utilization_ratio), percent(report.decoder_utilization_ratio));
        let memory = report.memory_used_bytes.map_or(f64::NAN, |bytes| bytes as f64 / 1e6);
        let (fps, fill) = (latencies.len() as f64 / seconds, latencies.len() as f64 / batches.max(1) as f64);
        let each = cpu / streams as f64 * 100.0;
        println!(
            "| {streams} | {up:.2} | {fps:.0} | {fill:.1} | {:.1} | {:.1} | {:.1} | {:.2} % | {each:.2} | {gpu:.0} % | {nvdec:.0} % | {memory:.0} |",
            at(0.5),
            at(0.95),
            at(0.99),
            lost * 100.0,
        );
        let mut by: Vec<(String, f64)> = cpu_by_thread()
            .into_iter()
            .map(|(name, used)| {
                let before = threads.iter().find(|(n, _)| *n == name).map_or(0.0, |(_, used)| *used);
                (name, (used - before) / seconds * 100.0)
            })
            .collect();
        by.sort_by(|a, b| b.1.total_cmp(&a.1));
        let by: Vec<String> = by.iter().take(6).map(|(name, used)| format!("{name} {used:.0}")).collect();
        println!(
            "    CPU, % of a core: {}; clock {:.0} MHz, {:?}",
            by.join(", "),
            report.sm_clock_hertz.unwrap_or(f64::NAN) / 1e6,
            report.throttle
        );
        self.note(
            format!("live {streams}"),
            json!({
                "up_s": up, "fps": fps, "fill": fill, "p50_ms": at(0.5), "p95_ms": at(0.95), "p99_ms": at(0.99), "lost": lost,
                "cpu_percent_a_stream": each, "gpu": report,
            }),
        );
    }

    /// As `analyze`, without tracks and events.
    fn boxes(
        &self,
        detector: &mut Detector,
        work: &Receiver<Work<EngineOutputs>>,
        board: &Board,
        run: &Live,
    ) {
        let mut boxes = Vec::new();
        for work in work {
            let Work::Batch { frames, outputs } = work else { continue };
            let mut counted = 0;
            for (slot, frame) in frames.iter().enumerate() {
                boxes.clear();
                let views: Vec<TensorView<'_>> =
                    (0..outputs.count()).map(|k| outputs.view(k, slot)).collect();
                detector.decode(&views, &frame.place, frame.size, &mut boxes);
                let now = self.clock.now();
                let latency = now.since(frame.stamp.arrived);
                board.flow.lane(0).note_latency(now, latency);
                board.settle(frame.key, Fate::Inferred);
                if frame.stamp.arrived.as_nanos() >= run.from.load(Relaxed) {
                    run.latencies.lock().expect("no panic").push(latency.as_secs_f64() * 1e3);
                    counted += 1;
                }
            }
            run.batches.fetch_add(usize::from(counted > 0), Relaxed);
        }
    }

    /// Feeds 30 access units a second, each camera at its own moment.
    fn camera(&self, stream: &Stream, number: usize, port: &Port<Pixels>, run: &Live) {
        let mut decoder =
            Decoder::new(&self.gpu, stream.codec, RING * 3 + 64).unwrap_or_else(|fault| panic!("{fault}"));
        let mut out = Vec::new();
        // The first picture makes the decoder, which takes a while when many do it at once.
        decoder.feed(stream.unit(0), &mut out).unwrap_or_else(|fault| panic!("{fault}"));
        out.clear();
        run.started.fetch_add(1, Relaxed);
        let interval = Duration::from_nanos(1_000_000_000 / 30);
        // The golden ratio spreads any number of them over the interval.
        let mut due = self.clock.now() + interval.mul_f64(number as f64 * 0.618_034 % 1.0);
        for i in (0..stream.len()).cycle().skip(1) {
            if run.stop.load(Relaxed) {
                return;
            }
            let now = self.clock.now();
            self.wait(due.since(now));
            let arrived = due;
            due = due + interval;
            decoder.feed(stream.unit(i), &mut out).unwrap_or_else(|fault| panic!("{fault}"));
            for decoded in out.drain(..) {
                let Some(surface) = decoded.surface else {
                    port.undecodable();
                    continue;
                };
                let stamp = Stamp { arrived, decoded: self.clock.now(), pts: None, wall: Wall::default() };
                port.push(Frame { stamp, size: decoded.size, pixels: Pixels::new(surface) });
            }
        }
    }
}

/// Whether an environment variable, if it is there, asks for this one: `;` stands between what it asks for.
fn only(variable: &str, one: &str) -> bool {
    std::env::var(variable).map_or(true, |wanted| wanted.split(';').any(|wanted| wanted == one))
}

/// CPU time of this process: user and system, from /proc, in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    usage::process_cpu().as_secs_f64()
}

/// CPU seconds of the threads that live, by their names up to the first `-`.
fn cpu_by_thread() -> Vec<(String, f64)> {
    let mut all: Vec<(String, f64)> = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let name = read("comm").trim().split('-').next().unwrap_or("").to_owned();
        let nanos: f64 = read("schedstat").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some((_, used)) => *used += nanos / 1e9,
            None => all.push((name, nanos / 1e9)),
        }
    }
    all
}
