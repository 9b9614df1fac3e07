//! `/api/v1/cameras`: the [`Board`](crate::board::Board) as JSON.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Map, Value, json};

use super::{Shared, error};
use crate::board::{Card, Counts};
use crate::frame::{CameraId, Fate};

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let cards = shared.api.board.present();
    let cameras: Vec<Value> = cards.map(|(id, card)| render(&shared, id, card)).collect();
    Json(json!({ "node": &*shared.api.node, "cameras": cameras }))
}

pub(super) async fn one(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    match shared.api.board.find(&name) {
        Some((id, card)) => Json(render(&shared, id, card)).into_response(),
        None => error(
            StatusCode::NOT_FOUND,
            "no_such_camera",
            format!("there is no camera {name:?}; /api/v1/cameras lists them"),
        ),
    }
}

fn render(shared: &Shared, id: CameraId, card: &Card) -> Value {
    let latency = card
        .latency(shared.api.clock.now())
        .map(|p| json!({ "p50": p.p50.as_secs_f64() * 1e3, "p95": p.p95.as_secs_f64() * 1e3 }));
    let mut camera = card.link().to_json();
    camera.insert("name".into(), json!(&*card.name));
    camera.insert("decode".into(), json!(card.decode()));
    camera.insert("frames".into(), frames(&card.ledger.read()).into());
    camera.insert("fps_in".into(), json!(shared.rates.fps_in(id)));
    camera.insert("latency_ms".into(), json!(latency));
    let flow = &shared.api.board.flow;
    camera.insert("gpu".into(), json!(flow.lane(card.lane()).gpu.or(flow.label(card.lane()))));
    let terms = card.terms();
    camera.insert("priority".into(), terms.priority.name().into());
    camera.insert("weight".into(), terms.weight.into());
    camera.insert("max_fps".into(), json!(terms.max_fps));
    camera.insert("ring_ms".into(), json!(terms.ring.as_millis() as u64));
    camera.insert("tracks".into(), card.tracks.load(Relaxed).into());
    camera.insert("attempts".into(), card.attempts.load(Relaxed).into());
    camera.into()
}

/// A ledger as JSON: in, in flight, and every fate.
pub(super) fn frames(counts: &Counts) -> Map<String, Value> {
    let mut frames = Map::new();
    frames.insert("in".into(), counts.frames_in.into());
    frames.insert("in_flight".into(), counts.in_flight().into());
    for fate in Fate::ALL {
        frames.insert(fate.name().into(), counts.of(fate).into());
    }
    frames
}
