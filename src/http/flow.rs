//! `/api/v1/flow`: how the engines are fed, and why so.
//!
//! `lanes` has one entry an engine: `gpu` (null: the CPU), `state` (`live` or `failed`, and then its `fault`), `cameras`, and its own `pace`, `service`,
//! `capacity_fps` and `admission`. Above it stands what is said of the whole: `pace` and `service` are those of the engine with the highest ρ, with
//! the highest p95 of all; `capacity_fps` is the sum of those that live.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Json;
use serde_json::{Map, Value, json};

use super::Shared;
use crate::board::Board;
use crate::flow::curve::Curve;
use crate::flow::pace::Pace;

pub(super) async fn show(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let board = &shared.api.board;
    let mut shown = render(board.flow.pace(), board.flow.target());
    shown["capacity_fps"] = board.flow.pace().map(|_| board.flow.capacity().round()).into();
    shown["lanes"] = (0..board.flow.lanes().len()).map(|number| lane(board, number)).collect();
    shown["admission"] = board.admission.state().map_or(Value::Null, |state| state.to_json(board));
    shown["requests"] = super::infer::counts(&shared);
    Json(shown)
}

/// One engine.
fn lane(board: &Board, number: usize) -> Value {
    let lane = board.flow.lane(number);
    let Value::Object(whole) = render(lane.pace(), board.flow.target()) else { return Value::Null };
    let mut shown: Map<String, Value> = whole.into_iter().filter(|(key, _)| key != "slo_p95_ms").collect();
    shown.insert("gpu".into(), json!(lane.gpu.or(board.flow.label(number))));
    shown.insert("state".into(), lane.state().into());
    if let Some(fault) = lane.fault() {
        shown.insert("fault".into(), fault.message.as_str().into());
    }
    let cameras = board.present().filter(|(_, card)| card.lane() == number).count();
    shown.insert("cameras".into(), cameras.into());
    let admission = board.admission.lane(number).map(|state| state.lane_to_json(lane));
    shown.insert("admission".into(), json!(admission));
    shown.into()
}

/// `pace` is null until the engine is warm.
fn render(pace: Option<(Pace, Curve)>, target: Duration) -> Value {
    let ms = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
    let service = |curve: &Curve| -> Vec<Value> {
        let rungs = curve.rungs().iter();
        rungs
            .map(|r| json!({ "frames": r.frames, "ms": ms(r.service), "fps": curve.rate(r.frames).round() }))
            .collect()
    };
    json!({
        "slo_p95_ms": ms(target),
        "pace": pace.map(|(pace, _)| json!({
            "reason": pace.reason,
            "p95_ms": pace.p95.map(ms),
            "wait_limit_ms": ms(pace.wait),
            "batch_limit_frames": pace.slots,
            "bulk_batch_limit_frames": pace.bulk_slots,
            "saturated": pace.saturated,
            "mean_batch_frames": (pace.fill * 100.0).round() / 100.0,
            "rho": (pace.rho * 1000.0).round() / 1000.0,
        })),
        "service": pace.map(|(_, curve)| service(&curve)),
        "capacity_fps": pace.map(|(_, curve)| curve.capacity().round()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::curve::Rung;
    use crate::flow::pace::{Objective, Pacer};

    #[test]
    fn an_operator_sees_limits_in_milliseconds_and_the_curve() {
        let rungs =
            [(1, 10), (4, 20)].map(|(frames, ms)| Rung { frames, service: Duration::from_millis(ms) });
        let target = Duration::from_millis(100);
        let pacer = Pacer::new(
            Objective { target, max_wait: Duration::from_millis(30), max_batch: 32 },
            Curve::new(&rungs),
        );
        let shown = render(Some((pacer.pace(), *pacer.curve())), target);
        assert_eq!(shown["slo_p95_ms"], 100.0);
        assert_eq!(shown["pace"]["reason"], "headroom");
        assert_eq!(shown["pace"]["wait_limit_ms"], 30.0);
        assert_eq!(shown["pace"]["batch_limit_frames"], 4);
        assert_eq!(shown["service"][1], json!({ "frames": 4, "ms": 20.0, "fps": 200.0 }));
        assert_eq!(render(None, target)["pace"], Value::Null);
    }
}
