//! `/api/v1/flow`: how the engine is fed, and why so.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Json;

use super::Shared;
use super::answers::{Admission, Flow, Pace, Requests, Rung, rounded};
use crate::admission;
use crate::board::Board;
use crate::flow::capacity::RHO_MAX;
use crate::flow::curve::Curve;
use crate::flow::pace;
use crate::usage;

pub(super) async fn show(State(shared): State<Arc<Shared>>) -> Json<Flow> {
    let board = &shared.api.board;
    let admission = board.admission.state().map(|state| admission(&state, board));
    Json(render(board.flow.pace(), board.flow.target(), admission, super::infer::counts(&shared)))
}

/// `pace` is null until the engine is warm.
fn render(
    pace: Option<(pace::Pace, Curve)>,
    target: Duration,
    admission: Option<Admission>,
    requests: Requests,
) -> Flow {
    let service = |curve: &Curve| -> Vec<Rung> {
        let rungs = curve.rungs().iter();
        rungs
            .map(|r| Rung { frames: r.frames, ms: ms(r.service), fps: curve.rate(r.frames).round() })
            .collect()
    };
    Flow {
        slo_p95_ms: ms(target),
        pace: pace.map(|(pace, _)| Pace {
            reason: pace.reason,
            p95_ms: pace.p95.map(ms),
            wait_limit_ms: ms(pace.wait),
            batch_limit_frames: pace.slots,
            bulk_batch_limit_frames: pace.bulk_slots,
            saturated: pace.saturated,
            mean_batch_frames: rounded(pace.fill, 2),
            rho: rounded(pace.rho, 3),
        }),
        service: pace.map(|(_, curve)| service(&curve)),
        capacity_fps: pace.map(|(_, curve)| curve.capacity().round()),
        admission,
        requests,
    }
}

fn ms(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3, 3)
}

fn admission(state: &admission::State, board: &Board) -> Admission {
    let fair = board.cameras().zip(&state.fair).filter(|(card, _)| !card.is_removed());
    Admission {
        rho: rounded(state.rho, 3),
        rho_max: RHO_MAX,
        verdict: state.standing,
        ceiling: state.ceiling,
        capacity_fps: rounded(state.machine.budget(state.load.decode), 1),
        fair_fps: fair.map(|(card, fps)| (Arc::clone(&card.name), rounded(*fps, 1))).collect(),
        cores: state.machine.cores,
        engine_cores: state.machine.engine_cores,
        decode_cores: rounded(state.load.decode, 3),
        decode_ns_per_pixel: state.machine.decode.map(|cost| rounded(cost * 1e9, 3)),
        memory_available_mb: usage::available().map(|bytes| (bytes / 1e6).round()),
        gpu_memory_available_mb: board.accelerator.memory_for_cameras().map(|bytes| (bytes / 1e6).round()),
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
            let requests = Requests { limit: 0, classes: [].into() };
            serde_json::to_value(render(pace, target, None, requests)).unwrap()
        };
        let warm = shown(Some((pacer.pace(), *pacer.curve())));
        assert_eq!(warm["slo_p95_ms"], 100.0);
        assert_eq!(warm["pace"]["reason"], "headroom");
        assert_eq!(warm["pace"]["wait_limit_ms"], 30.0);
        assert_eq!(warm["pace"]["batch_limit_frames"], 4);
        assert_eq!(warm["service"][1], json!({ "frames": 4, "ms": 20.0, "fps": 200.0 }));
        assert_eq!(shown(None)["pace"], Value::Null);
    }
}
