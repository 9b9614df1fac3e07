//! `scripted-weir`: the daemon, whole, but for its network. Decoding, batching, tracking, painting and encoding are the real ones;
//! only the engine is a script: it reads the number that is written in the picture it is given (see `target.rs`) and answers with the
//! place where that picture's target is. So a picture that gets another one's boxes shows it.
//!
//! `scripted-weir weir.toml` runs until a signal, as `weir run -c weir.toml` does. With `SCRIPTED_LANES=N` there are N such engines, as on a
//! box with N GPUs; engine I fails every batch while there is a file `fail-I` in the folder of `SCRIPTED_ORDERS`, panics when there is
//! `panic-I`, and hangs while there is `hang-I`. A batch takes `SCRIPTED_MS`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use weir::config::{self, Config, System};
use weir::device::canvas::{Canvas, Colour};
use weir::device::software::pixels::Pixels;
use weir::device::software::source::{self, SoftwareSource};
use weir::device::{Device, Engine, Outputs, Sink};
use weir::fault::{Fault, Who};
use weir::flow::detect::OutputShape;
use weir::flow::still::Grid;
use weir::frame::{Frame, Still};
use weir::model::manifest::Manifest;
use weir::model::spec::{Placement, TensorView};

#[path = "target.rs"]
mod target;

/// What an engine is told from outside, by files.
#[derive(Clone, Default)]
struct Orders {
    folder: Option<PathBuf>,
    number: usize,
    batch: Duration,
}

impl Orders {
    fn is(&self, what: &str) -> bool {
        self.folder.as_ref().is_some_and(|folder| folder.join(format!("{what}-{}", self.number)).exists())
    }

    fn pause(span: Duration) {
        let _ = crossbeam_channel::never::<()>().recv_timeout(span);
    }
}

struct Scripted(Orders);

/// What it saw in each slot: the target's y1, x1, y2, x2 as fractions of the picture, and whether it is there.
#[derive(Default)]
struct Reader {
    slots: Vec<([f32; 4], f32)>,
    done: Option<Seen>,
    orders: Orders,
}

struct Seen(Vec<([f32; 4], f32)>);

impl Outputs for Seen {
    fn count(&self) -> usize {
        2
    }

    fn view(&self, index: usize, slot: usize) -> TensorView<'_> {
        let (place, score) = &self.0[slot];
        match index {
            0 => TensorView { shape: &[1, 1], data: std::slice::from_ref(score) },
            _ => TensorView { shape: &[1, 4], data: place },
        }
    }
}

impl Engine for Reader {
    type Pixels = Pixels;
    type Outputs = Seen;

    fn ladder(&self) -> &[usize] {
        &[1, 2, 4]
    }

    fn outputs(&self) -> Vec<OutputShape> {
        let shape = |name: &str, last| OutputShape::whole(name, &[None, Some(1), Some(last)]);
        vec![shape("scores", 1), shape("boxes", 4)]
    }

    fn load(&mut self, slot: usize, frame: &Frame<Pixels>) -> Result<Placement, Fault> {
        let planes = frame.pixels.planes();
        let (width, height) = (frame.size.width as usize, frame.size.height as usize);
        let number = target::read(planes.data[0], planes.stride[0], height);
        let place = number.map_or([0.0; 4], |number| {
            let [left, top] = target::truth(number);
            let (right, bottom) = (left + target::TARGET.0, top + target::TARGET.1);
            let [y, x] = [height as f32, width as f32];
            [top as f32 / y, left as f32 / x, bottom as f32 / y, right as f32 / x]
        });
        self.slots.resize(self.slots.len().max(slot + 1), ([0.0; 4], 0.0));
        self.slots[slot] = (place, if number.is_some() { 0.95 } else { 0.0 });
        Ok(Placement { scale_x: 1.0, scale_y: 1.0, offset_x: 0.0, offset_y: 0.0 })
    }

    fn submit(&mut self, count: usize) -> Result<(), Fault> {
        Orders::pause(self.orders.batch);
        while self.orders.is("hang") {
            Orders::pause(Duration::from_millis(20));
        }
        assert!(!self.orders.is("panic"), "on purpose");
        if self.orders.is("fail") {
            return Err(Fault::new(Who::Device, "engine", "on purpose"));
        }
        self.slots.resize(self.slots.len().max(count), ([0.0; 4], 0.0));
        self.done = Some(Seen(self.slots[..count].to_vec()));
        Ok(())
    }

    fn collect(&mut self) -> Result<Seen, Fault> {
        self.done.take().ok_or_else(|| Fault::new(Who::Bug, "collect", "there is no batch"))
    }
}

impl Device for Scripted {
    type Pixels = Pixels;
    type Engine = Reader;
    type Source = SoftwareSource;

    fn engine(&self) -> Result<Reader, Fault> {
        Ok(Reader { orders: self.0.clone(), ..Reader::default() })
    }

    fn luma_grid(pixels: &Pixels) -> Option<Grid> {
        pixels.luma_grid()
    }

    fn open(&self, camera: &config::Camera, sink: Sink<Pixels>) -> Result<SoftwareSource, Fault> {
        source::open(camera, sink)
    }

    fn canvas(pixels: &Pixels, width: Option<u32>, colour: Option<Colour>) -> Option<Canvas> {
        Canvas::copy(&pixels.planes(), pixels.geometry(), width, colour)
    }

    fn picture(&self, still: Still) -> Result<Pixels, Fault> {
        Ok(Pixels::still(still))
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("which configuration?")?;
    let read = move || match Config::load(path.as_ref(), &System) {
        Ok((config, _)) => Ok(config),
        Err(report) => Err(report.render(false)),
    };
    let config = read()?;
    weir::log::init(&config.log, &System)?;
    let spec = Arc::new(Manifest::load_one_fault(&config.model.manifest)?.spec);
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let folder = std::env::var_os("SCRIPTED_ORDERS").map(PathBuf::from);
    let batch = Duration::from_millis(number("SCRIPTED_MS").unwrap_or(0).into());
    let lane = |number| Scripted(Orders { folder: folder.clone(), number, batch });
    let lanes = (0..number("SCRIPTED_LANES").unwrap_or(1) as usize).map(lane).collect();
    Ok(weir::run::run_on(config, Box::new(read), lanes, spec)?)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Nothing is left to tell it to when standard error is gone.
            let _ = writeln!(std::io::stderr(), "scripted-weir: {e}");
            ExitCode::FAILURE
        }
    }
}
