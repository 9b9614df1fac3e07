//! `/api/v1/cameras`: the [`Board`](crate::board::Board) as JSON.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};

use super::answers::{Camera, Cameras, Frames, Latency};
use super::{Shared, error};
use crate::board::Card;
use crate::frame::CameraId;

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Json<Cameras> {
    let cards = shared.api.board.present();
    let cameras = cards.map(|(id, card)| render(&shared, id, card)).collect();
    Json(Cameras { node: Arc::clone(&shared.api.node), cameras })
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

fn render(shared: &Shared, id: CameraId, card: &Card) -> Camera {
    let latency = card.latency(shared.api.clock.now());
    let flow = &shared.api.board.flow;
    let terms = card.terms();
    Camera {
        name: Arc::clone(&card.name),
        status: card.link().status(),
        decode: card.decode(),
        frames: Frames::from(&card.ledger.read()),
        fps_in: shared.rates.fps_in(id),
        latency_ms: latency
            .map(|p| Latency { p50: p.p50.as_secs_f64() * 1e3, p95: p.p95.as_secs_f64() * 1e3 }),
        priority: terms.priority,
        weight: terms.weight,
        max_fps: terms.max_fps,
        ring_ms: terms.ring.as_millis() as u64,
        tracks: card.tracks.load(Relaxed),
        gpu: flow.lane(card.lane()).gpu.or(flow.label(card.lane())),
        attempts: card.attempts.load(Relaxed),
    }
}
