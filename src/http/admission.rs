//! `POST /api/v1/admission`: would these cameras fit? Answers, and changes nothing; cameras are added in the configuration.
//!
//! ```text
//! {"fps": 25, "width": 1920, "height": 1080, "count": 4, "priority": "realtime", "watched": false}
//! ```
//!
//! `count` is 1 and `priority` `realtime` when not written; `watched`: somebody looks at their annotated video by RTSP all the time, so each
//! needs one of the encoders (`[rtsp_server] max_streams`). 200 `{"verdict": "accept"}`, 200 `{"verdict": "accept_at", "fps": 12.5}`
//! (frames a second of each camera that would be inferred: write it as `max_fps`), or 503 with `Retry-After` and
//! `{"error": {"code": "no_capacity", "ceiling": "engine", …}}`. Each answer has `rho` and `capacity_fps` as they are now, and
//! `decode_known`: false while no camera delivers, as then nobody knows what decoding costs here and it is not counted.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;

use super::answers::{Admitted, Problem, Refused, Room, rounded};
use super::{Shared, error};
use crate::config::Priority;
use crate::flow::capacity::{Asked, Stream, Verdict};

/// The engine measures itself for seconds.
const NOT_READY: Duration = Duration::from_secs(5);
/// `ring_buffer_ms` unless configured otherwise.
const RING: Duration = Duration::from_millis(300);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    fps: f64,
    width: u32,
    height: u32,
    #[serde(default = "one")]
    count: u32,
    #[serde(default)]
    priority: Priority,
    #[serde(default)]
    watched: bool,
}

const fn one() -> u32 {
    1
}

impl Body {
    fn checked(&self) -> Result<Asked, &'static str> {
        match self {
            b if !(0.01..=1000.0).contains(&b.fps) => Err("fps must be 0.01 to 1000"),
            b if !(16..=16384).contains(&b.width) || !(16..=16384).contains(&b.height) => {
                Err("width and height must be 16 to 16384")
            }
            b if !(1..=10_000).contains(&b.count) => Err("count must be 1 to 10000"),
            b => Ok(Asked {
                stream: Stream {
                    fps: b.fps,
                    inferred: b.fps,
                    pixels: f64::from(b.width) * f64::from(b.height),
                    ring: RING,
                },
                count: b.count,
                priority: b.priority,
                encoded: if b.watched { b.count } else { 0 },
            }),
        }
    }
}

pub(super) async fn ask(
    State(shared): State<Arc<Shared>>,
    body: Result<Json<Body>, JsonRejection>,
) -> Response {
    let body = match body {
        Ok(Json(body)) => body,
        Err(rejected) => return error(rejected.status(), "bad_request", rejected.body_text()),
    };
    let asked = match body.checked() {
        Ok(asked) => asked,
        Err(why) => return error(StatusCode::BAD_REQUEST, "bad_request", why),
    };
    let later = |after: Duration| [(header::RETRY_AFTER, after.as_secs().max(1).to_string())];
    let Some((verdict, state)) = shared.api.board.admission.ask(&asked, &shared.api.board) else {
        let why = "the engine has not been measured yet";
        return (later(NOT_READY), error(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why)).into_response();
    };
    let now = Room {
        rho: rounded(state.rho, 3),
        capacity_fps: rounded(state.capacity, 1),
        decode_known: state.machine.decode.is_some(),
    };
    let (verdict, fps) = match verdict {
        Verdict::Accept => ("accept", None),
        Verdict::AcceptAt(fps) => ("accept_at", Some(fps)),
        Verdict::Refuse { ceiling, retry_after } => {
            let message = format!(
                "{} more of {}×{} at {} fps do not fit: the ceiling is {}",
                body.count,
                body.width,
                body.height,
                body.fps,
                ceiling.name()
            );
            let error =
                Problem { code: "no_capacity".to_owned(), message, ceiling: Some(ceiling), now: Some(now) };
            let body = Json(Refused { error, ..Refused::default() });
            return (StatusCode::SERVICE_UNAVAILABLE, later(retry_after), body).into_response();
        }
    };
    Json(Admitted { verdict, fps, now }).into_response()
}
