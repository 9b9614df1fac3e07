//! What one GPU does: the engine alone, the decoder alone, and both with all that lies between, from elementary streams in memory.
//!
//! ```text
//! tests/nvidia/streams.sh                               the streams, with ffmpeg
//! python3 tests/nvidia/yolo-s.py MODEL.onnx             the network, with random weights
//! cargo bench --bench nvidia -- MODEL.onnx [PART…]      parts: engine decode flow live; default: all
//! ```
//!
//! | part | what |
//! |---|---|
//! | engine | frames a second of the network alone, batch by batch, for each way to set up the provider |
//! | decode | pictures a second of N decoders at once, each on its own thread, 1080p 4 Mbit/s |
//! | flow | N streams as fast as they go: decode → kernel → network → boxes; and that ÷ the engine alone at the same batch. 0 streams: the same pictures again and again, without decoding |
//! | live | N streams at 30 pictures a second each: latency from access unit to boxes, and what was not done |
//!
//! RTSP and tracking are not in it.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../nvidia/streams.rs"]
mod streams;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, never};
use streams::Stream;
use weir::clock::{Clock, SystemClock, Tick, Wall};
use weir::device::nvidia::decoder::Decoder;
use weir::device::nvidia::engine::{NvidiaEngine, Outputs as EngineOutputs, Tuning};
use weir::device::nvidia::gpu::Gpu;
use weir::device::nvidia::{Nvidia, Pixels};
use weir::device::software::session::{Runtime, load_runtime};
use weir::device::{Device, Engine, Outputs};
use weir::flow::detect::Detector;
use weir::frame::{Frame, Size, Stamp};
use weir::model::spec::{Placement, TensorView};

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
    let wants = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    let manifest = std::env::temp_dir().join("weir-bench-nvidia.toml");
    std::fs::write(&manifest, MANIFEST).expect("the temporary folder can be written");
    let bench =
        Bench { clock: SystemClock::new(), gpu, runtime: OnceLock::new(), file: file.into(), manifest };
    if wants("decode") {
        bench.decode();
    }
    let best = if wants("engine") { bench.engine() } else { Tuning::default() };
    if wants("flow") {
        bench.flow(best);
    }
    if wants("live") {
        bench.live(best);
    }
}

struct Bench {
    clock: SystemClock,
    gpu: Arc<Gpu>,
    runtime: OnceLock<Arc<Runtime>>,
    file: PathBuf,
    manifest: PathBuf,
}

/// A picture on its way, and when its access unit was there.
struct Coming {
    arrived: Tick,
    frame: Frame<Pixels>,
}

/// What the threads of a live run share.
struct Live {
    stop: AtomicBool,
    /// Pictures that arrived before this, in nanoseconds, are not counted.
    from: AtomicU64,
    lost: AtomicUsize,
    /// Every camera has its decoder.
    started: Barrier,
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
        let runtime = self
            .runtime
            .get_or_init(|| Arc::new(load_runtime(None).unwrap_or_else(|fault| panic!("{fault}"))));
        let device = Nvidia::on(Arc::clone(&self.gpu), Arc::clone(runtime), &model, 32);
        device.unwrap_or_else(|fault| panic!("{fault}")).with_tuning(tuning)
    }

    fn seconds(&self, since: Tick) -> f64 {
        self.clock.now().since(since).as_secs_f64()
    }

    /// Frames a second of the network alone.
    fn raw(&self, engine: &mut NvidiaEngine, batch: usize) -> f64 {
        for _ in 0..4 {
            engine.run_network(batch).unwrap_or_else(|fault| panic!("{fault}"));
        }
        let mut times: Vec<f64> = (0..40)
            .map(|_| {
                let before = self.clock.now();
                engine.run_network(batch).unwrap_or_else(|fault| panic!("{fault}"));
                self.seconds(before)
            })
            .collect();
        times.sort_by(f64::total_cmp);
        batch as f64 / times[times.len() / 2]
    }

    /// Prints the table; returns the set up that was fastest at a batch of 16.
    fn engine(&self) -> Tuning {
        let base = Tuning::default();
        let ways = [
            ("plain", Tuning { nhwc: false, graphs: false, ..base }),
            ("nhwc", Tuning { nhwc: true, graphs: false, ..base }),
            ("graphs", Tuning { nhwc: false, graphs: true, ..base }),
            ("nhwc graphs", Tuning { nhwc: true, graphs: true, ..base }),
        ];
        println!("\nengine alone, frames a second by batch");
        println!("| set up | opened in s | 1 | 2 | 4 | 8 | 16 | 32 |\n|---|---|---|---|---|---|---|---|");
        let mut best = (0.0, base);
        for (name, tuning) in ways {
            let before = self.clock.now();
            let mut engine = match self.device(tuning).engine() {
                Ok(engine) => engine,
                Err(fault) => {
                    println!("| {name} | cannot: {} |", fault.message);
                    continue;
                }
            };
            let opened = self.seconds(before);
            let mut row = format!("| {name} | {opened:.1} |");
            for batch in [1, 2, 4, 8, 16, 32] {
                let fps = self.raw(&mut engine, batch);
                row += &format!(" {fps:.0} |");
                if batch == 16 && fps > best.0 {
                    best = (fps, tuning);
                }
            }
            println!("{row}");
        }
        println!("best: {:?}", best.1);
        best.1
    }

    fn decode(&self) {
        println!("\ndecode alone, 1080p 4 Mbit/s, pictures a second");
        println!("| codec | 1 | 2 | 4 | 8 | 16 | 32 |\n|---|---|---|---|---|---|---|");
        for name in ["hd.h264", "hd.h265"] {
            let Some(stream) = Stream::open(name) else {
                println!("| skipped: no {name}; tests/nvidia/streams.sh makes it |");
                continue;
            };
            let mut row = format!("| {name} |");
            for streams in [1, 2, 4, 8, 16, 32] {
                let (pictures, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
                let seconds = std::thread::scope(|scope| {
                    for _ in 0..streams {
                        scope.spawn(|| {
                            self.feed(&stream, RING + 2, &stop, |_, decoded| {
                                pictures.fetch_add(usize::from(decoded.surface.is_some()), Relaxed);
                                true
                            });
                        });
                    }
                    self.measured(&pictures, &stop)
                });
                row += &format!(" {seconds:.0} |");
            }
            println!("{row}");
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

    /// The engine's loop, as the daemon's `infer` has it: whatever waits, at most a batch; results go to the next thread.
    fn infer(&self, engine: &mut NvidiaEngine, batch: usize, frames: Receiver<Coming>, done: Sender<Done>) {
        while let Ok(first) = frames.recv() {
            let coming = std::iter::once(first).chain(frames.try_iter().take(batch - 1));
            let loaded: Vec<(Tick, Placement, Size)> = coming
                .enumerate()
                .map(|(slot, coming)| {
                    let place = engine.load(slot, &coming.frame).unwrap_or_else(|fault| panic!("{fault}"));
                    (coming.arrived, place, coming.frame.size)
                })
                .collect();
            let outputs = engine.run(loaded.len()).unwrap_or_else(|fault| panic!("{fault}"));
            if done.send((outputs, loaded)).is_err() {
                return;
            }
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

    fn flow(&self, tuning: Tuning) {
        let Some(stream) = Stream::open("hd.h264") else { return println!("skipped flow: no hd.h264") };
        println!("\nas fast as it goes: decode → kernel → network → boxes, hd.h264");
        println!(
            "| streams | batch | frames/s | engine alone | ratio | boxes a frame |\n|---|---|---|---|---|---|"
        );
        let device = self.device(tuning);
        let mut engine = device.engine().unwrap_or_else(|fault| panic!("{fault}"));
        let shapes = engine.outputs();
        let pictures = self.pictures(&stream);
        for (streams, batch) in [(0, 16), (1, 1), (8, 8), (16, 16), (32, 16), (64, 32)] {
            let (stop, count, boxes) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
            let (frames, waiting) = bounded::<Coming>(2 * batch.max(streams));
            let (done, work) = bounded::<Done>(2);
            let mut detector =
                Detector::new(device.spec(), &shapes).unwrap_or_else(|fault| panic!("{fault}"));
            let alone = self.raw(&mut engine, batch);
            let engine = &mut engine;
            let fps = std::thread::scope(|scope| {
                for _ in 0..streams {
                    let (frames, stop, stream) = (frames.clone(), &stop, &stream);
                    scope.spawn(move || {
                        self.feed(stream, 2 * batch + 2 * streams + 8, stop, |arrived, decoded| {
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
                let fps = scope.spawn(|| self.measured(count, &stop));
                // On the thread that opened the engine: a recorded run belongs to it.
                self.infer(engine, batch, waiting, done);
                fps.join().expect("it does not panic")
            });
            let found = boxes.load(Relaxed) as f64 / count.load(Relaxed).max(1) as f64;
            println!(
                "| {streams} | {batch} | {fps:.0} | {alone:.0} | {:.1} % | {found:.1} |",
                fps / alone * 100.0
            );
        }
    }

    fn live(&self, tuning: Tuning) {
        let Some(stream) = Stream::open("hd.h264") else { return println!("skipped live: no hd.h264") };
        println!("\nlive: streams of 1080p30 in real time, latency from access unit to boxes");
        println!("| streams | batch ≤ | frames/s | p50 ms | p95 ms | p99 ms | not inferred | CPU a stream |");
        println!("|---|---|---|---|---|---|---|---|");
        let device = self.device(tuning);
        let mut engine = device.engine().unwrap_or_else(|fault| panic!("{fault}"));
        let shapes = engine.outputs();
        let batch = 32;
        for rung in [1, 2, 4, 8, 16, 32] {
            self.raw(&mut engine, rung);
        }
        for streams in [16, 32, 64, 80, 100] {
            let run = Live {
                stop: AtomicBool::new(false),
                from: AtomicU64::new(u64::MAX),
                lost: AtomicUsize::new(0),
                started: Barrier::new(streams + 1),
            };
            let (frames, waiting) = bounded::<Coming>(RING * streams);
            let (done, work) = bounded::<Done>(2);
            let mut detector =
                Detector::new(device.spec(), &shapes).unwrap_or_else(|fault| panic!("{fault}"));
            let (mut latencies, seconds, cpu) = std::thread::scope(|scope| {
                let run = &run;
                for number in 0..streams {
                    let (frames, stream) = (frames.clone(), &stream);
                    scope.spawn(move || self.camera(stream, (number, streams), &frames, run));
                }
                drop(frames);
                let timer = scope.spawn(move || self.time(run));
                let latencies = scope.spawn(move || {
                    let mut latencies = Vec::new();
                    self.analyze(&mut detector, &work, |arrived, latency, _| {
                        if arrived.as_nanos() >= run.from.load(Relaxed) {
                            latencies.push(latency.as_secs_f64() * 1e3);
                        }
                    });
                    latencies
                });
                self.infer(&mut engine, batch, waiting, done);
                let (seconds, cpu) = timer.join().expect("it does not panic");
                (latencies.join().expect("it does not panic"), seconds, cpu)
            });
            let cores = cpu / seconds / streams as f64 * 100.0;
            latencies.sort_by(f64::total_cmp);
            let at = |share: f64| {
                latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN)
            };
            let (done, lost) = (latencies.len(), run.lost.load(Relaxed));
            println!(
                "| {streams} | {batch} | {:.0} | {:.1} | {:.1} | {:.1} | {:.2} % | {cores:.1} % of a core |",
                done as f64 / seconds,
                at(0.5),
                at(0.95),
                at(0.99),
                lost as f64 / (done + lost).max(1) as f64 * 100.0
            );
        }
    }

    /// Lets the cameras run for two seconds after the last has started, then measures. Returns seconds, and those of all cores.
    fn time(&self, run: &Live) -> (f64, f64) {
        run.started.wait();
        self.wait(Duration::from_secs(2));
        let (from, cpu) = (self.clock.now(), cpu_seconds());
        run.lost.store(0, Relaxed);
        run.from.store(from.as_nanos(), Relaxed);
        self.wait(SPAN * 2);
        run.stop.store(true, Relaxed);
        (self.seconds(from), cpu_seconds() - cpu)
    }

    /// Feeds 30 access units a second, each camera at its own moment; what the full queue refuses is lost.
    fn camera(&self, stream: &Stream, (number, of): (usize, usize), frames: &Sender<Coming>, run: &Live) {
        let mut decoder =
            Decoder::new(&self.gpu, stream.codec, RING * 3 + 64).unwrap_or_else(|fault| panic!("{fault}"));
        let mut out = Vec::new();
        // The first picture makes the decoder, which takes a while when many do it at once.
        decoder.feed(stream.unit(0), &mut out).unwrap_or_else(|fault| panic!("{fault}"));
        out.clear();
        run.started.wait();
        let interval = Duration::from_nanos(1_000_000_000 / 30);
        let mut due = self.clock.now() + interval.mul_f64(number as f64 / of as f64);
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
                match self.coming(arrived, decoded).map(|coming| frames.try_send(coming)) {
                    Some(Ok(())) => {}
                    Some(Err(TrySendError::Disconnected(_))) => return,
                    None | Some(Err(TrySendError::Full(_))) => {
                        run.lost.fetch_add(1, Relaxed);
                    }
                }
            }
        }
    }
}

/// CPU time of this process: user and system, from /proc, in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
