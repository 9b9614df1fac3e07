//! `POST /api/v1/infer`: pictures of a client through the same engine as the cameras' frames.
//!
//! A JPEG or PNG as the body gives one JSON object; several as `multipart/form-data` give `{"results": [...]}`, or with
//! `Accept: text/event-stream` each result as soon as it is there (`event: result`, or `error` for a picture that failed;
//! `done` at the end). Who is let in is decided by the [`desk`](crate::request::desk).
//!
//! | query | meaning |
//! |---|---|
//! | `class` | `bulk` (default) takes what cameras leave; `realtime` takes its turn among the realtime cameras |
//! | `timeout_ms` | 1 to 10 000, default 1 000: from when the picture is here to its answer |
//! | `tenant` | one of `[tenants]` |
//! | `min_score` | leaves out less certain detections, 0 to 1 |

mod body;
mod many;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;

use super::Shared;
use super::access::Access;
use super::answers::{Frames, Inferred, Problem, Refused, RequestClass, Requests};
use crate::config::Priority;
use crate::request::desk::{Ask, Desk, MOST_TIMEOUT, Told};
use crate::request::{CLASSES, Outcome, Refusal};

/// The most bytes in one request: so many pictures of the largest size.
pub(super) fn most_bytes(desk: &Desk) -> usize {
    many::MOST_IMAGES * (desk.limits().image_bytes + 4096)
}

/// What the route needs.
#[derive(Clone)]
pub struct Inference {
    /// Lets requests in.
    pub desk: Arc<Desk>,
    /// Who may ask.
    pub access: Access,
    /// The model's name.
    pub model: Arc<str>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    class: Option<String>,
    tenant: Option<String>,
    timeout_ms: Option<u64>,
    min_score: Option<f32>,
}

/// A query that was understood.
#[derive(Clone, Debug)]
struct Wish {
    ask: Ask,
    min_score: f32,
}

pub(super) async fn post(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<Asked>, QueryRejection>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let access = &shared.api.infer.access;
    let mut response = match access.check(&parts.headers).and_then(|()| understood(query)) {
        Err(refusal) => {
            body::drain(&parts.headers, body).await;
            refused(&refusal)
        }
        Ok(wish) if many::is_multipart(&parts.headers) => many::answer(&shared, wish, parts, body).await,
        Ok(wish) => match one(&shared, &wish, parts, body).await {
            Ok(told) => Json(render(&shared, &told, &wish)).into_response(),
            Err(refusal) => refused(&refusal),
        },
    };
    let flow = &shared.api.board.flow;
    if flow.pace().is_some_and(|(pace, _)| pace.p95.is_some_and(|p95| p95 > flow.target())) {
        response.headers_mut().insert("x-slo-hint", HeaderValue::from_static("reduce_delta"));
    }
    response
}

fn understood(query: Result<Query<Asked>, QueryRejection>) -> Result<Wish, Refusal> {
    let bad = |message: String| Refusal::new(400, "bad_query", Outcome::BadImage, message);
    let Query(asked) = query.map_err(|e| bad(e.body_text()))?;
    let class = match asked.class.as_deref() {
        None => Priority::Bulk,
        Some(word) => CLASSES
            .into_iter()
            .find(|class| class.name() == word)
            .ok_or_else(|| bad(format!("class is realtime or bulk, not {word:?}")))?,
    };
    let timeout = Duration::from_millis(asked.timeout_ms.unwrap_or(1_000));
    if timeout.is_zero() || timeout > MOST_TIMEOUT {
        return Err(bad(format!("timeout_ms is 1 to {}", MOST_TIMEOUT.as_millis())));
    }
    let min_score = asked.min_score.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&min_score) {
        return Err(bad("min_score is 0 to 1".to_owned()));
    }
    Ok(Wish { ask: Ask { class, tenant: asked.tenant, timeout }, min_score })
}

/// One picture as the body.
async fn one(shared: &Shared, wish: &Wish, parts: Parts, body: Body) -> Result<Told, Refusal> {
    let desk = &shared.api.infer.desk;
    let ticket = desk.ticket(wish.ask.class);
    let outcome = match desk.admit(&wish.ask) {
        Err(refusal) => {
            body::drain(&parts.headers, body).await;
            Err(refusal)
        }
        Ok(mut place) => {
            let declared =
                parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
            let most = desk.limits().image_bytes;
            let gathering = body::gather(body.into_data_stream(), declared, most, &mut place.memory);
            let gathered = tokio::time::timeout(body::PATIENCE, gathering).await;
            match gathered.unwrap_or_else(|_| Err(body::too_slow())) {
                Ok(bytes) => desk.infer(place, bytes, shared.api.clock.now(), &wish.ask).await,
                Err(refusal) => Err(refusal),
            }
        }
    };
    ticket.end(outcome.as_ref().map_or_else(|refusal| refusal.outcome, |_| Outcome::Answered));
    outcome
}

/// Boxes as fractions of the picture.
fn render(shared: &Shared, told: &Told, wish: &Wish) -> Inferred {
    let ms = |d: Duration| (d.as_secs_f64() * 1e5).round() / 100.0;
    let answer = &told.answer;
    let found = answer.found.iter().filter(|found| found.score >= wish.min_score);
    Inferred {
        model: Arc::clone(&shared.api.infer.model),
        size: [answer.size.width, answer.size.height],
        detections: found.cloned().collect(),
        latency_ms: ms(told.latency),
        decode_ms: ms(told.decoding),
        wait_ms: ms(answer.waited),
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let problem = Problem {
        code: refusal.code.to_owned(),
        message: refusal.message.clone(),
        ceiling: refusal.ceiling,
        now: None,
    };
    let mut response = (status, Json(Refused { error: problem, ..Refused::default() })).into_response();
    let headers = response.headers_mut();
    if let Some(seconds) = refusal.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if refusal.status == 401 {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// `requests` of `/api/v1/flow`: by class, how many are pending, how they ended, and where their pictures went.
pub(super) fn counts(shared: &Shared) -> Requests {
    let requests = &shared.api.board.requests;
    let classes = CLASSES.into_iter().map(|class| {
        let ended = Outcome::ALL.into_iter();
        let shown = RequestClass {
            pending: requests.pending(class),
            ended: ended.map(|outcome| (outcome.name(), requests.ended(class, outcome))).collect(),
            frames: Frames::from(&requests.ledger(class).read()),
        };
        (class.name(), shown)
    });
    Requests { limit: shared.api.infer.desk.limits().pending, classes: classes.collect() }
}
