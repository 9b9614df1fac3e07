//! `/api/v1/flow`: how the engines are fed, and why so.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Json;

use super::Shared;
use super::answers::{Admission, Flow, Lane, LaneAdmission, Pace, Rung, rounded};
use crate::admission;
use crate::board::Board;
use crate::flow::capacity::RHO_MAX;
use crate::flow::curve::Curve;
use crate::flow::pace;
use crate::usage;

pub(super) async fn show(State(shared): State<Arc<Shared>>) -> Json<Flow> {
    let board = &shared.api.board;
    let (pace, service, _) = render(board.flow.pace());
    Json(Flow {
        slo_p95_ms: ms(board.flow.target()),
        capacity_fps: pace.as_ref().map(|_| board.flow.capacity().round()),
        pace,
        service,
        lanes: (0..board.flow.lanes().len()).map(|number| lane(board, number)).collect(),
        admission: board.admission.state().map(|state| admission(&state, board)),
        requests: super::infer::counts(&shared),
    })
}

/// One engine.
fn lane(board: &Board, number: usize) -> Lane {
    let lane = board.flow.lane(number);
    let (pace, service, capacity_fps) = render(lane.pace());
    let admission = board.admission.lane(number).map(|state| LaneAdmission {
        rho: rounded(state.rho, 3),
        verdict: state.standing,
        ceiling: state.ceiling,
        capacity_fps: rounded(state.capacity, 1),
        nvdec_load: nvdec_load(&state),
        gpu_memory_available_mb: lane.accelerator.memory_for_cameras().map(megabytes),
    });
    Lane {
        gpu: lane.gpu.or(board.flow.label(number)),
        state: lane.state(),
        fault: lane.fault().map(|fault| fault.message.clone()),
        cameras: board.present().filter(|(_, card)| card.lane() == number).count(),
        pace,
        service,
        capacity_fps,
        admission,
    }
}

/// Limits, curve and rate; nothing until the engine is warm.
fn render(pace: Option<(pace::Pace, Curve)>) -> (Option<Pace>, Option<Vec<Rung>>, Option<f64>) {
    let Some((pace, curve)) = pace else { return (None, None, None) };
    let rungs = curve.rungs().iter();
    let service =
        rungs.map(|r| Rung { frames: r.frames, ms: ms(r.service), fps: curve.rate(r.frames).round() });
    let shown = Pace {
        reason: pace.reason,
        p95_ms: pace.p95.map(ms),
        wait_limit_ms: ms(pace.wait),
        batch_limit_frames: pace.slots,
        bulk_batch_limit_frames: pace.bulk_slots,
        saturated: pace.saturated,
        mean_batch_frames: rounded(pace.fill, 2),
        rho: rounded(pace.rho, 3),
    };
    (Some(shown), Some(service.collect()), Some(curve.capacity().round()))
}

fn ms(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3, 3)
}

fn nvdec_load(state: &admission::State) -> Option<f64> {
    (state.load.nvdec > 0.0).then(|| rounded(state.load.nvdec, 3))
}

fn megabytes(bytes: f64) -> f64 {
    (bytes / 1e6).round()
}

fn admission(state: &admission::State, board: &Board) -> Admission {
    let fair = board.cameras().zip(&state.fair).filter(|(card, _)| !card.is_removed());
    let free = board.flow.living().filter_map(|(_, lane)| lane.accelerator.memory_for_cameras());
    Admission {
        rho: rounded(state.rho, 3),
        rho_max: RHO_MAX,
        verdict: state.standing,
        ceiling: state.ceiling,
        capacity_fps: rounded(state.capacity, 1),
        fair_fps: fair.map(|(card, fps)| (Arc::clone(&card.name), rounded(*fps, 1))).collect(),
        cores: state.machine.cores,
        engine_cores: state.machine.engine_cores,
        decode_cores: rounded(state.load.decode, 3),
        decode_ns_per_pixel: state.machine.decode.map(|cost| rounded(cost * 1e9, 3)),
        nvdec_load: nvdec_load(state),
        nvdec_ns_per_pixel: state.machine.nvdec.map(|cost| rounded(cost * 1e9, 5)),
        memory_available_mb: usage::available().map(megabytes),
        gpu_memory_available_mb: free.reduce(|all, one| all + one).map(megabytes),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::flow::curve;
    use crate::flow::pace::{Objective, Pacer};

    #[test]
    fn an_operator_sees_limits_in_milliseconds_and_the_curve() {
        let rungs =
            [(1, 10), (4, 20)].map(|(frames, ms)| curve::Rung { frames, service: Duration::from_millis(ms) });
        let target = Duration::from_millis(100);
        let pacer = Pacer::new(
            Objective { target, max_wait: Duration::from_millis(30), max_batch: 32 },
            Curve::new(&rungs),
        );
        let shown = |pace| {
            let (pace, service, capacity_fps) = render(pace);
            json!({ "pace": pace, "service": service, "capacity_fps": capacity_fps })
        };
        let warm = shown(Some((pacer.pace(), *pacer.curve())));
        assert_eq!(warm["capacity_fps"], 200.0);
        assert_eq!(warm["pace"]["reason"], "headroom");
        assert_eq!(warm["pace"]["wait_limit_ms"], 30.0);
        assert_eq!(warm["pace"]["batch_limit_frames"], 4);
        assert_eq!(warm["service"][1], json!({ "frames": 4, "ms": 20.0, "fps": 200.0 }));
        assert_eq!(shown(None)["pace"], Value::Null);
    }
}
