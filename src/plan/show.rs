//! A [`Plan`] in words, and as JSON (`"schema": "weir.plan/1"`).
//!
//! | key | |
//! |---|---|
//! | `source` | `calibrated` here, or read from a `live` daemon |
//! | `model`, `engine` | text; null for a live daemon |
//! | `cameras` | what was asked: `count`; `fps` and `inferred_fps` of each in the mean; `width` and `height`, null where they differ; and of each kind `{part, fps, inferred_fps, width, height}`, parts adding up to 1 |
//! | `slo_p95_ms` | the target |
//! | `cores`, `engine_cores` | CPU cores; those that a run may keep busy, by its threads |
//! | `service` | S(b) on idle cores: `[{frames, ms, fps}]` |
//! | `rho_max`, `capacity_fps` | frames/s that the engine is planned for, all GPUs together, before decoding takes its part |
//! | `decode` | `{cpu_ms, nvdec_ms, from}`: time of a frame (of the mean size, where these differ), of the CPU and of all video decoders of a GPU together (null: none is used), and `file`, `test_pattern` or `live`; null: not known |
//! | `fit` | `{cameras, ceiling, engine, decode, nvdec, memory}`: how many fit together, what binds the next one, and how many would by each ceiling alone |
//! | `recommend` | `{max_batch_frames, max_wait_ms, ring_buffer_ms, target_reachable}` |
//! | `prediction` | `[{cameras, rho, fps_each, p50_ms, p95_ms}]`; null percentiles: the engine is full, rings bound the latency |
//! | `ram` | `{process_mb, camera_mb, available_mb}`; `camera_mb` is an upper estimate |
//! | `vram` | of one GPU: `{gpus, used_mb, camera_mb, available_mb}`; null: no GPU is used |
//! | `cost` | `{price_per_hour, per_camera_hour}` when `--price-per-hour` is given, else null |
//! | `notes` | what else is to be known |

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::Plan;
use crate::flow::capacity::{Ceiling, RHO_MAX};

/// Kinds of cameras that people want to read.
const MOST_KINDS: usize = 12;

fn to(x: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (x * unit).round() / unit
}

fn ms(d: Duration) -> f64 {
    to(d.as_secs_f64() * 1e3, 2)
}

impl Plan {
    fn cpu_ms(&self) -> Option<f64> {
        self.measured.machine.decode.map(|cost| cost * self.cameras.pixels() * 1e3)
    }

    /// The machine is one of so many.
    fn gpus(&self) -> f64 {
        f64::from(self.measured.gpus.max(1))
    }

    fn nvdec_ms(&self) -> Option<f64> {
        self.measured.machine.nvdec.map(|cost| cost * self.cameras.pixels() * 1e3)
    }

    /// Where all are of one.
    fn size(&self) -> Option<(u32, u32)> {
        let all = &self.cameras.send;
        let size = all.first().map(|s| (s.width, s.height))?;
        all.iter().all(|s| (s.width, s.height) == size).then_some(size)
    }

    fn by(&self, ceiling: Ceiling) -> Option<u32> {
        self.alone.iter().find(|(c, _)| *c == ceiling).and_then(|(_, n)| *n)
    }

    /// Machine-readable.
    pub fn to_json(&self) -> Value {
        let machine = &self.measured.machine;
        let mb = |bytes: f64| to(bytes / 1e6, 0);
        let service = machine.curve.rungs().iter().map(|rung| {
            json!({ "frames": rung.frames, "ms": ms(rung.service), "fps": to(machine.curve.rate(rung.frames), 1) })
        });
        let prediction = self.outlook.iter().map(|o| {
            json!({
                "cameras": o.cameras, "rho": to(o.rho, 3), "fps_each": to(o.fps, 2),
                "p50_ms": o.latency.map(|l| ms(l.p50)), "p95_ms": o.latency.map(|l| ms(l.p95)),
            })
        });
        let size = self.size();
        let kinds = self.cameras.kinds().into_iter().map(|(kind, part)| {
            json!({
                "part": to(part, 4), "fps": to(kind.fps, 2), "inferred_fps": to(kind.inferred, 2),
                "width": kind.width, "height": kind.height,
            })
        });
        let kinds: Vec<Value> = kinds.collect();
        json!({
            "schema": "weir.plan/1",
            "source": self.measured.source,
            "model": self.measured.model,
            "engine": self.measured.engine,
            "cameras": {
                "count": self.cameras.count, "fps": to(self.cameras.fps(), 2),
                "inferred_fps": to(self.cameras.inferred(), 2),
                "width": size.map(|(width, _)| width), "height": size.map(|(_, height)| height), "kinds": kinds,
            },
            "slo_p95_ms": ms(self.target),
            "cores": to(machine.cores * self.gpus(), 2),
            "engine_cores": to(machine.engine_cores, 2),
            "service": service.collect::<Vec<_>>(),
            "rho_max": RHO_MAX,
            "capacity_fps": to(machine.budget(0.0) * self.gpus(), 1),
            "decode": self.cpu_ms().map(|cpu| json!({ "cpu_ms": to(cpu, 2), "nvdec_ms": self.nvdec_ms().map(|ms| to(ms, 3)), "from": self.measured.decode_from })),
            "fit": {
                "cameras": self.fit.0, "ceiling": self.fit.1.name(), "engine": self.by(Ceiling::Engine),
                "decode": self.by(Ceiling::Decode), "nvdec": self.by(Ceiling::Nvdec), "memory": self.by(Ceiling::Memory),
            },
            "recommend": {
                "max_batch_frames": self.recommended.max_batch_frames,
                "max_wait_ms": self.recommended.max_wait.as_millis() as u64,
                "ring_buffer_ms": self.recommended.ring.as_millis() as u64,
                "target_reachable": self.recommended.reachable,
            },
            "prediction": prediction.collect::<Vec<_>>(),
            "ram": {
                "process_mb": self.measured.resident.map(mb), "camera_mb": mb(self.camera_bytes),
                "available_mb": machine.memory.map(|free| mb(free * self.gpus())),
            },
            "vram": (self.measured.gpus > 0).then(|| json!({
                "gpus": self.measured.gpus, "used_mb": self.measured.gpu_resident.map(mb), "camera_mb": mb(self.gpu_camera_bytes),
                "available_mb": machine.gpu_memory.map(mb),
            })),
            "cost": self.cost.map(|(price, each)| json!({ "price_per_hour": price, "per_camera_hour": each })),
            "notes": self.measured.notes,
        })
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let (measured, machine, asked) = (&self.measured, &self.measured.machine, &self.cameras);
        let kinds = asked.kinds();
        for (n, (kind, part)) in kinds.iter().enumerate().take(MOST_KINDS) {
            let head = if n == 0 { "cameras" } else { "" };
            let inferred = if kind.inferred < kind.fps {
                format!(", {:.1} are inferred", kind.inferred)
            } else {
                String::new()
            };
            let number = to(part * f64::from(asked.count), 1);
            writeln!(
                out,
                "{head:<9} {number} of {}×{} at {:.1} frames/s{inferred}",
                kind.width, kind.height, kind.fps
            )?;
        }
        if kinds.len() > MOST_KINDS {
            writeln!(out, "          and {} other kinds (--json has all)", kinds.len() - MOST_KINDS)?;
        }
        if let (Some(model), Some(engine)) = (&measured.model, &measured.engine) {
            writeln!(out, "model     {model}; {engine}")?;
        }
        writeln!(out, "engine    frames      ms  frames/s")?;
        for rung in machine.curve.rungs() {
            let mark = if rung.frames == machine.batch { "  <- used" } else { "" };
            let (time, rate) = (rung.service.as_secs_f64() * 1e3, machine.curve.rate(rung.frames));
            writeln!(out, "          {:>6} {time:>7.1} {rate:>9.1}{mark}", rung.frames)?;
        }
        writeln!(
            out,
            "capacity  {:.1} frames/s at load {RHO_MAX}, before decoding takes its part of the cores{}",
            machine.budget(0.0) * self.gpus(),
            if measured.gpus > 1 { format!(", of {} GPUs together", measured.gpus) } else { String::new() }
        )?;
        let size =
            self.size().map_or(format!("{:.2} megapixels", asked.pixels() / 1e6), |(width, height)| {
                format!("{width}×{height}")
            });
        match (self.cpu_ms(), measured.decode_from) {
            (Some(cpu), Some(from)) if measured.gpus > 0 => {
                let nvdec = self.nvdec_ms().map_or("?".to_owned(), |ms| format!("{ms:.2}"));
                writeln!(
                    out,
                    "decode    {cpu:.2} ms of CPU and {nvdec} ms of NVDEC a frame of {size} ({from}); {} cores",
                    to(machine.cores * self.gpus(), 1)
                )?;
            }
            (Some(cpu), Some(from)) => writeln!(
                out,
                "decode    {cpu:.1} ms of CPU a frame of {size} ({from}); {} cores, a run may keep {:.0} busy",
                machine.cores, machine.engine_cores
            )?,
            _ => writeln!(out, "decode    not known, not counted")?,
        }
        let known = |n: Option<u32>| n.map_or("?".to_owned(), |n| n.to_string());
        writeln!(
            out,
            "fit       {} cameras of {size} at {:.1} frames/s{}; the next one meets the {} ceiling",
            self.fit.0,
            asked.inferred(),
            if kinds.len() > 1 { " in the mean" } else { "" },
            self.fit.1.name()
        )?;
        writeln!(
            out,
            "          alone: engine {}, decode {}, {}memory {}",
            known(self.by(Ceiling::Engine)),
            known(self.by(Ceiling::Decode)),
            if measured.gpus > 0 {
                format!("nvdec {}, ", known(self.by(Ceiling::Nvdec)))
            } else {
                String::new()
            },
            known(self.by(Ceiling::Memory))
        )?;
        writeln!(out, "latency   cameras   load  frames/s each  p50 ms  p95 ms")?;
        for o in &self.outlook {
            let shown =
                |of: Option<Duration>| of.map_or("-".to_owned(), |d| format!("{:.0}", d.as_secs_f64() * 1e3));
            writeln!(
                out,
                "          {:>7} {:>6.2} {:>14.1} {:>7} {:>7}{}",
                o.cameras,
                o.rho,
                o.fps,
                shown(o.latency.map(|l| l.p50)),
                shown(o.latency.map(|l| l.p95)),
                if o.rho > 1.0 { "  frames are lost" } else { "" }
            )?;
        }
        let r = &self.recommended;
        writeln!(
            out,
            "settings  max_batch_frames = {}, max_wait_ms = {}, ring_buffer_ms = {}",
            r.max_batch_frames,
            r.max_wait.as_millis(),
            r.ring.as_millis()
        )?;
        if !r.reachable {
            let target = self.target.as_millis();
            writeln!(
                out,
                "          no batch is quick enough for slo_p95_ms = {target}; these give throughput"
            )?;
        }
        let mb = |bytes: f64| format!("{:.0} MB", bytes / 1e6);
        let process = measured.resident.map_or(String::new(), |r| format!("{} with the engine, ", mb(r)));
        let free = machine.memory.map_or(String::new(), |f| format!("; {} free", mb(f * self.gpus())));
        writeln!(out, "RAM       {process}at most {} a camera{free}", mb(self.camera_bytes))?;
        match measured.gpus {
            0 => writeln!(out, "VRAM      none: no GPU is used")?,
            _ => {
                let used = measured
                    .gpu_resident
                    .map_or(String::new(), |used| format!("{} with the engine, ", mb(used)));
                let free =
                    machine.gpu_memory.map_or(String::new(), |free| format!("; {} for cameras", mb(free)));
                let gpus = if measured.gpus > 1 {
                    format!(" (each of {} GPUs)", measured.gpus)
                } else {
                    String::new()
                };
                writeln!(out, "VRAM      {used}at most {} a camera{free}{gpus}", mb(self.gpu_camera_bytes))?;
            }
        }
        match self.cost {
            Some((_, Some(each))) => {
                writeln!(out, "cost      {each:.4} a camera-hour, with {} cameras", self.fit.0)?;
            }
            Some((_, None)) => writeln!(out, "cost      no camera fits, so there is none to share it")?,
            None => {}
        }
        for note in &measured.notes {
            writeln!(out, "note      {note}")?;
        }
        Ok(())
    }
}
