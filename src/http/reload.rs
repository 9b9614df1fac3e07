//! `POST /api/v1/reload`: reads the configuration again. Cameras that are new come, if there is room for them; those that are configured
//! otherwise start anew, unless only their `weight` or `max_fps` differs, with which they go on; those that are no longer there go. What
//! else differs waits for a restart, and is named.
//!
//! 200 with `{"added": ["gate"], "changed": [], "removed": [], "capped": {"gate": 12.5}, "refused": [], "failed": {}, "restart": ["[batcher]"]}`.
//! 503 with `Retry-After` and the same under `applied`, when there was no room for a camera: `{"error": {"code": "no_capacity", "ceiling":
//! "engine", …}}`; the same with `not_started` when one could not be started for another reason. 422 `bad_configuration` when it cannot be used: nothing was changed then. A token is needed as for pictures.

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
/// When a camera that could not be started may be, if somebody has done something about it.
const LATER: Duration = Duration::from_secs(60);

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
    let last = last.map(|refused| (refused.ceiling, refused.retry_after));
    let failed = applied.failed.first().map(|(name, fault)| format!("{name} could not be started: {fault}"));
    let applied = Reloaded::from(applied);
    let (error, retry_after) = match (last, failed) {
        (None, None) => return Json(applied).into_response(),
        (Some((ceiling, retry_after)), _) => {
            let names = applied.refused.join(", ");
            let message = format!("there is no room for {names}: the ceiling is {}", ceiling.name());
            let error = Problem {
                code: "no_capacity".to_owned(),
                message,
                ceiling: Some(ceiling),
                ..Problem::default()
            };
            (error, retry_after)
        }
        (None, Some(message)) => {
            (Problem { code: "not_started".to_owned(), message, ..Problem::default() }, LATER)
        }
    };
    let later = [(header::RETRY_AFTER, retry_after.as_secs().max(1).to_string())];
    let body = Json(Refused { error, applied: Some(applied), results: None });
    (StatusCode::SERVICE_UNAVAILABLE, later, body).into_response()
}

impl From<Applied> for Reloaded {
    fn from(applied: Applied) -> Self {
        let Applied { added, changed, removed, capped, refused, failed, restart } = applied;
        Reloaded {
            added,
            changed,
            removed,
            capped: capped.into_iter().collect(),
            refused: refused.into_iter().map(|refused| refused.name).collect(),
            failed: failed.into_iter().map(|(name, fault)| (name, fault.to_string())).collect(),
            restart,
        }
    }
}
