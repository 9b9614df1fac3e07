//! `POST /api/v1/reload`: reads the configuration again. Cameras that are new come, if there is room for them; those that are configured
//! otherwise start anew, unless only their `weight` or `max_fps` differs, with which they go on; those that are no longer there go. What
//! else differs waits for a restart, and is named.
//!
//! 200 with `{"added": ["gate"], "changed": [], "removed": [], "capped": {"gate": 12.5}, "refused": [], "restart": ["[batcher]"]}`.
//! 503 with `Retry-After` and the same under `applied`, when there was no room for a camera: `{"error": {"code": "no_capacity", "ceiling":
//! "engine", …}}`. 422 `bad_configuration` when it cannot be used: nothing was changed then. A token is needed as for pictures.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use tokio::sync::oneshot;

use super::answers::{Problem, Refused, Reloaded};
use super::{Shared, error};
use crate::roster::{Applied, Order};

/// A camera that goes may take its time.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn post(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if let Err(refusal) = shared.api.infer.access.check(&headers) {
        let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::FORBIDDEN);
        return error(status, refusal.code, refusal.message);
    }
    let (reply, answer) = oneshot::channel();
    let later = |code: &'static str, why: &str| {
        let after = [(header::RETRY_AFTER, "2")];
        (after, error(StatusCode::SERVICE_UNAVAILABLE, code, why)).into_response()
    };
    let busy = |why: &str| later("busy", why);
    if shared.api.orders.try_send(Order { reply: Some(reply) }).is_err() {
        return busy("the configuration is being read already");
    }
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(Ok(applied))) => told(applied),
        Ok(Ok(Err(why))) => error(StatusCode::UNPROCESSABLE_ENTITY, "bad_configuration", why),
        Ok(Err(_)) => later("unavailable", "the daemon is stopping"),
        Err(_) => busy("this takes long: it goes on, and the log will say what came of it"),
    }
}

fn told(applied: Applied) -> Response {
    let last = applied.refused.iter().max_by_key(|refused| refused.retry_after);
    let Some((ceiling, retry_after)) = last.map(|refused| (refused.ceiling, refused.retry_after)) else {
        return Json(Reloaded::from(applied)).into_response();
    };
    let applied = Reloaded::from(applied);
    let error = Problem {
        code: "no_capacity".to_owned(),
        message: format!(
            "there is no room for {}: the ceiling is {}",
            applied.refused.join(", "),
            ceiling.name()
        ),
        ceiling: Some(ceiling),
        now: None,
    };
    let later = [(header::RETRY_AFTER, retry_after.as_secs().max(1).to_string())];
    let body = Json(Refused { error, applied: Some(applied), results: None });
    (StatusCode::SERVICE_UNAVAILABLE, later, body).into_response()
}

impl From<Applied> for Reloaded {
    fn from(applied: Applied) -> Self {
        let Applied { added, changed, removed, capped, refused, restart } = applied;
        Reloaded {
            added,
            changed,
            removed,
            capped: capped.into_iter().collect(),
            refused: refused.into_iter().map(|refused| refused.name).collect(),
            restart,
        }
    }
}
