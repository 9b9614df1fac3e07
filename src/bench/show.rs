//! A [`Row`] in words, and as JSON (`"schema": "weir.bench/1"`). The keys are told by [`KEYS`], which `weir bench --help` prints.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{Row, Stage};
use crate::frame::Fate;

/// The JSON's keys.
pub const KEYS: &str = "\
Keys of --json (weir.bench/1), one object in `rows` for each count of streams; null: not known, or not there:
  streams, online_streams, seconds     asked for, delivering when counting began, how long was counted
  frames                               {in, inferred, overrun, stale, skipped, decode_error, failed, in_flight_before, in_flight_after}:
                                       in + in_flight_before = all fates + in_flight_after
  fps_in, fps_inferred, loss_percent   loss: frames with another fate than `inferred`, of all with a fate
  stages_ms                            {decode, wait, preprocess, infer, analyze, total}, each {p50, p95, p99, mean}, within 5 %.
                                       decode: from arrival to picture, jitter buffer included, of a frame; not for video files. wait: for its batch,
                                       of a frame. preprocess, infer, analyze: of a batch. total: from arrival to events, of a frame
  batch_frames_mean, slo_p95_ms
  engine_busy_percent                  of the time
  cpu                                  {cores, process_cores, process_percent, percent_of_core_per_stream, by_part_cores, box_percent}: percent of all cores, by this
                                       process and by all that runs on the box
  rss_mb                               the most that this process held
  gpus                                 [{name, utilization_percent, nvdec_percent, memory_used_mb, memory_total_mb, to_device_bytes_per_frame,
                                       from_device_bytes_per_frame, throttle}]; bytes are counted where weir starts a copy (encoded pictures, pictures that
                                       were decoded elsewhere, each picture's place in the batch; boxes, and pictures that somebody looks at), not read off
                                       the bus, and divided by the frames that were inferred
  binding                              {ceiling, level_percent, reached}: cpu, engine, nvdec or gpu_memory, whichever is nearest to its end; reached:
                                       more than 1 % was lost, or the p95 was above slo_p95_ms";

fn to(x: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (x * unit).round() / unit
}

impl Row {
    /// Machine-readable.
    pub fn to_json(&self) -> Value {
        let mut frames = Map::new();
        frames.insert("in".into(), self.frames_in.into());
        for (fate, n) in self.fates {
            frames.insert(fate.name().into(), n.into());
        }
        frames.insert("in_flight_before".into(), self.in_flight[0].into());
        frames.insert("in_flight_after".into(), self.in_flight[1].into());
        let stage = |Stage { name, percentiles, mean }: &Stage| {
            let value = percentiles.map(|[p50, p95, p99]| {
                json!({ "p50": to(p50, 3), "p95": to(p95, 3), "p99": to(p99, 3), "mean": mean.map(|mean| to(mean, 3)) })
            });
            ((*name).to_owned(), json!(value))
        };
        let inferred =
            self.fates.iter().find(|(fate, _)| *fate == Fate::Inferred).map_or(0, |(_, n)| *n).max(1) as f64;
        let percent = |part: f64| to(part * 100.0, 2);
        let gpus = self.gpus.iter().map(|gpu| {
            let [to_device, from_device] = gpu.copied.map(|bytes| to(bytes / inferred, 1));
            json!({
                "name": gpu.name,
                "utilization_percent": gpu.utilization.map(percent),
                "nvdec_percent": gpu.decoder.map(percent),
                "memory_used_mb": gpu.memory.map(|(used, _)| to(used / 1e6, 1)),
                "memory_total_mb": gpu.memory.map(|(_, all)| to(all / 1e6, 1)),
                "to_device_bytes_per_frame": to_device,
                "from_device_bytes_per_frame": from_device,
                "throttle": gpu.throttle,
            })
        });
        let (cores, used, by_part) = &self.cores;
        let ceiling = self.ceiling();
        json!({
            "streams": self.streams,
            "online_streams": self.online,
            "seconds": to(self.seconds, 3),
            "frames": frames,
            "fps_in": to(self.frames_in as f64 / self.seconds, 2),
            "fps_inferred": to(self.fps(), 2),
            "loss_percent": percent(self.loss()),
            "stages_ms": self.stages.iter().map(stage).collect::<Map<_, _>>(),
            "batch_frames_mean": self.batch.map(|batch| to(batch, 2)),
            "slo_p95_ms": self.target,
            "engine_busy_percent": percent(self.engine),
            "cpu": {
                "cores": cores,
                "box_percent": self.busy.map(percent),
                "process_cores": to(*used, 3),
                "process_percent": percent(used / cores),
                "percent_of_core_per_stream": percent(used / self.streams as f64),
                "by_part_cores": by_part.iter().map(|(part, used)| (part.clone(), json!(to(*used, 3)))).collect::<Map<_, _>>(),
            },
            "rss_mb": self.resident.map(|bytes| to(bytes / 1e6, 1)),
            "gpus": gpus.collect::<Vec<_>>(),
            "binding": { "ceiling": ceiling.name, "level_percent": percent(ceiling.level), "reached": self.full() },
        })
    }
}

/// All rows as one document.
pub fn document(model: &str, rows: &[Value]) -> Value {
    json!({ "schema": "weir.bench/1", "version": env!("CARGO_PKG_VERSION"), "model": model, "rows": rows })
}

/// One row, as [`Row::to_json`] makes it, for people.
pub fn text(row: &Value) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    let n = |value: &Value, digits: usize| {
        value.as_f64().map_or_else(|| "-".to_owned(), |x| format!("{x:.digits$}"))
    };
    line(format!(
        "{} streams ({} delivered) for {} s: {} frames/s in, {} inferred, {} % lost, batches of {}",
        row["streams"],
        row["online_streams"],
        n(&row["seconds"], 1),
        n(&row["fps_in"], 1),
        n(&row["fps_inferred"], 1),
        n(&row["loss_percent"], 2),
        n(&row["batch_frames_mean"], 1)
    ));
    line(format!("  {:<11}{:>9}{:>9}{:>9}{:>9}", "ms", "p50", "p95", "p99", "mean"));
    for (name, _, _) in super::STAGES {
        let stage = &row["stages_ms"][name];
        let cells: String = ["p50", "p95", "p99", "mean"].map(|q| format!("{:>9}", n(&stage[q], 2))).concat();
        line(format!("  {name:<11}{cells}"));
    }
    let frames = row["frames"].as_object().into_iter().flatten();
    let fates: Vec<String> =
        frames.filter(|(_, n)| **n != 0).map(|(fate, n)| format!("{fate} {n}")).collect();
    line(format!("  frames     {}", fates.join(", ")));
    let cpu = &row["cpu"];
    line(format!(
        "  CPU        {} % of {} cores, {} % of a core a stream; the box {} %; RSS {} MB",
        n(&cpu["process_percent"], 1),
        n(&cpu["cores"], 0),
        n(&cpu["percent_of_core_per_stream"], 1),
        n(&cpu["box_percent"], 0),
        n(&row["rss_mb"], 0)
    ));
    for gpu in row["gpus"].as_array().into_iter().flatten() {
        line(format!(
            "  GPU        {}: {} % busy, NVDEC {} %, VRAM {} of {} MB, bytes a frame {} in, {} out",
            gpu["name"].as_str().unwrap_or_default(),
            n(&gpu["utilization_percent"], 0),
            n(&gpu["nvdec_percent"], 0),
            n(&gpu["memory_used_mb"], 0),
            n(&gpu["memory_total_mb"], 0),
            n(&gpu["to_device_bytes_per_frame"], 0),
            n(&gpu["from_device_bytes_per_frame"], 0)
        ));
    }
    let binding = &row["binding"];
    let reached = if binding["reached"] == true { "reached" } else { "not reached" };
    line(format!(
        "  ceiling    {} at {} %, {reached}; target p95 {} ms",
        binding["ceiling"].as_str().unwrap_or_default(),
        n(&binding["level_percent"], 0),
        n(&row["slo_p95_ms"], 0)
    ));
    out
}

/// Streams against latency and loss, a line each.
pub fn table(rows: &[Value]) -> String {
    let mut out = format!(
        "{:>8}{:>10}{:>10}{:>8}{:>9}{:>9}{:>8}{:>10}{:>9}  ceiling\n",
        "streams", "fps in", "inferred", "lost %", "p50 ms", "p95 ms", "CPU %", "% a core", "RSS MB"
    );
    for row in rows {
        let n = |value: &Value, digits: usize| {
            value.as_f64().map_or_else(|| "-".to_owned(), |x| format!("{x:.digits$}"))
        };
        let (total, cpu, binding) = (&row["stages_ms"]["total"], &row["cpu"], &row["binding"]);
        let _ = writeln!(
            out,
            "{:>8}{:>10}{:>10}{:>8}{:>9}{:>9}{:>8}{:>10}{:>9}  {} at {} %{}",
            row["streams"].to_string(),
            n(&row["fps_in"], 1),
            n(&row["fps_inferred"], 1),
            n(&row["loss_percent"], 2),
            n(&total["p50"], 1),
            n(&total["p95"], 1),
            n(&cpu["process_percent"], 1),
            n(&cpu["percent_of_core_per_stream"], 1),
            n(&row["rss_mb"], 0),
            binding["ceiling"].as_str().unwrap_or_default(),
            n(&binding["level_percent"], 0),
            if binding["reached"] == true { ", reached" } else { "" }
        );
    }
    out
}
