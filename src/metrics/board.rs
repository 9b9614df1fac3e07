//! The live state as metrics: copied from the [`Board`] whenever somebody reads them.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Label, Unit, counter, gauge};

use super::of_gpu;
use crate::admission::Standing;
use crate::board::{Board, Card, Flow, Lane, Link};
use crate::device::accelerator::Report;
use crate::flow::capacity::Ceiling;
use crate::flow::pace::Reason;
use crate::frame::Fate;
use crate::request::{CLASSES, Outcome, Requests};

/// The handles that mirror a [`Board`].
pub struct BoardGauges {
    pub(super) board: Arc<Board>,
    cameras: Mutex<Vec<CameraHandles>>,
}

struct CameraHandles {
    frames_in: Counter,
    fates: [Counter; Fate::ALL.len()],
    still: Counter,
    queue: Gauge,
    online: Gauge,
    attempts: Counter,
    decode: Gauge,
}

/// What a reading of a GPU says, by metric.
pub(super) type GpuGauge = (&'static str, Unit, &'static str, fn(&Report) -> Option<f64>);

pub(super) const GPU: [GpuGauge; 13] = [
    ("weir_gpu_utilization_ratio", Unit::Count, "Part of the time in which something ran on the GPU.", |r| {
        r.utilization_ratio
    }),
    ("weir_gpu_decoder_utilization_ratio", Unit::Count, "The same of its video decoders.", |r| {
        r.decoder_utilization_ratio
    }),
    ("weir_gpu_encoder_utilization_ratio", Unit::Count, "The same of its video encoders.", |r| {
        r.encoder_utilization_ratio
    }),
    ("weir_gpu_encoder_sessions", Unit::Count, "Video encoder sessions on it, by anybody.", |r| {
        r.encoder_sessions.map(|sessions| sessions as f64)
    }),
    ("weir_gpu_memory_used_bytes", Unit::Bytes, "Memory of the GPU in use, by anybody.", |r| {
        r.memory_used_bytes.map(|bytes| bytes as f64)
    }),
    ("weir_gpu_memory_total_bytes", Unit::Bytes, "Memory of the GPU.", |r| {
        r.memory_total_bytes.map(|bytes| bytes as f64)
    }),
    ("weir_gpu_sm_clock_hertz", Unit::Count, "Clock of its processors.", |r| r.sm_clock_hertz),
    ("weir_gpu_pcie_received_bytes_per_second", Unit::Count, "What comes to it over the bus.", |r| {
        r.pcie_received_bytes_per_second
    }),
    ("weir_gpu_pcie_sent_bytes_per_second", Unit::Count, "What it sends over the bus.", |r| {
        r.pcie_sent_bytes_per_second
    }),
    ("weir_gpu_power_watts", Unit::Count, "What it draws.", |r| r.power_watts),
    ("weir_gpu_temperature_celsius", Unit::Count, "How warm it is.", |r| r.temperature_celsius),
    (
        "weir_gpu_throttle_reasons",
        Unit::Count,
        "NVML's bits for why its clocks are not higher; 1 is idle.",
        |r| r.throttle_bits.map(|bits| bits as f64),
    ),
    ("weir_gpu_decoders", Unit::Count, "Video decoders that weir has on it.", |r| Some(r.decoders as f64)),
];

fn copy_gpu(board: &Board) {
    for report in board.flow.lanes().iter().filter_map(|lane| lane.accelerator.report()) {
        for (name, _, _, value) in GPU {
            if let Some(value) = value(&report) {
                gauge!(name, "gpu" => report.gpu.to_string()).set(value);
            }
        }
    }
}

fn copy_admission(board: &Board) {
    let Some(state) = board.admission.state() else { return };
    gauge!("weir_admission_load_ratio").set(state.rho);
    gauge!("weir_admission_capacity_fps").set(state.capacity);
    gauge!("weir_decode_cores").set(state.load.decode);
    for verdict in Standing::ALL {
        gauge!("weir_admission", "verdict" => verdict.name()).set(f64::from(verdict == state.standing));
    }
    for ceiling in Ceiling::ALL {
        gauge!("weir_admission_ceiling", "ceiling" => ceiling.name())
            .set(f64::from(ceiling == state.ceiling));
    }
    for (card, fps) in board.cameras().zip(&state.fair) {
        gauge!("weir_fair_fps", "camera" => card.name.to_string()).set(*fps);
    }
}

impl BoardGauges {
    /// Of this board.
    pub fn new(board: Arc<Board>) -> Self {
        BoardGauges { board, cameras: Mutex::default() }
    }

    pub(super) fn copy(&self) {
        copy_flow(&self.board.flow);
        copy_requests(&self.board.requests);
        copy_admission(&self.board);
        copy_gpu(&self.board);
        // Handles are made once, when a camera is first told of.
        let mut cameras = self.cameras.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, card) in self.board.cameras().enumerate() {
            if place == cameras.len() {
                cameras.push(CameraHandles::new(card));
            }
            cameras[place].copy(card);
        }
    }
}

fn copy_requests(requests: &Requests) {
    for class in CLASSES {
        let name = class.name();
        gauge!("weir_requests_pending", "class" => name).set(requests.pending(class) as f64);
        for outcome in Outcome::ALL {
            let ended = counter!("weir_requests_total", "class" => name, "outcome" => outcome.name());
            ended.absolute(requests.ended(class, outcome));
        }
        let counts = requests.ledger(class).read();
        for fate in Fate::ALL {
            let met = counter!("weir_request_frames_total", "class" => name, "fate" => fate.name());
            met.absolute(counts.of(fate));
        }
    }
}

fn copy_flow(flow: &Flow) {
    gauge!("weir_slo_p95_seconds").set(flow.target().as_secs_f64());
    for (number, lane) in flow.lanes().iter().enumerate() {
        copy_lane(lane, flow.label(number));
    }
}

/// One engine. `gpu` is the label where there are several.
fn copy_lane(lane: &Lane, gpu: Option<u32>) {
    let with = |name: &'static str, value: String| {
        let mut labels = of_gpu(gpu);
        labels.push(Label::new(name, value));
        labels
    };
    let lives = lane.fault().is_none();
    if gpu.is_some() {
        gauge!("weir_engine_up", of_gpu(gpu)).set(f64::from(lives));
    }
    let Some((pace, curve)) = lane.pace() else { return };
    let p95 = pace.p95.filter(|_| lives).map_or(f64::NAN, |p95| p95.as_secs_f64());
    gauge!("weir_p95_seconds", of_gpu(gpu)).set(p95);
    gauge!("weir_batch_wait_limit_seconds", of_gpu(gpu)).set(pace.wait.as_secs_f64());
    gauge!("weir_batch_limit_frames", of_gpu(gpu)).set(pace.slots as f64);
    gauge!("weir_bulk_batch_limit_frames", of_gpu(gpu)).set(pace.bulk_slots as f64);
    gauge!("weir_load_ratio", of_gpu(gpu)).set(if lives { pace.rho } else { 0.0 });
    for reason in Reason::ALL {
        gauge!("weir_pace", with("reason", reason.name().to_owned()))
            .set(f64::from(lives && reason == pace.reason));
    }
    for rung in curve.rungs() {
        gauge!("weir_service_seconds", with("frames", rung.frames.to_string()))
            .set(rung.service.as_secs_f64());
    }
}

impl CameraHandles {
    fn new(card: &Card) -> Self {
        let camera = || card.name.to_string();
        CameraHandles {
            frames_in: counter!("weir_frames_in_total", "camera" => camera()),
            fates: Fate::ALL
                .map(|fate| counter!("weir_frames_total", "camera" => camera(), "fate" => fate.name())),
            still: counter!("weir_still_frames_total", "camera" => camera()),
            queue: gauge!("weir_queue_frames", "camera" => camera()),
            online: gauge!("weir_camera_online", "camera" => camera()),
            attempts: counter!("weir_camera_attempts_total", "camera" => camera()),
            decode: gauge!("weir_decode_level", "camera" => camera()),
        }
    }

    fn copy(&self, card: &Card) {
        let counts = card.ledger.read();
        self.frames_in.absolute(counts.frames_in);
        for (counter, fate) in self.fates.iter().zip(Fate::ALL) {
            counter.absolute(counts.of(fate));
        }
        self.still.absolute(card.still.load(Relaxed));
        self.queue.set(counts.in_flight() as f64);
        self.online.set(f64::from(matches!(card.link(), Link::Online { .. })));
        self.attempts.absolute(card.attempts.load(Relaxed));
        self.decode.set(f64::from(card.decode() as u8));
    }
}
