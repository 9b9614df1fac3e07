//! `/api/v1/cameras/NAME/snapshot.jpg` and `/stream.mjpg`: pictures for people.
//!
//! `?annotated=0` leaves boxes and labels out (what is hidden for privacy stays hidden); `?width=N` shrinks to at most so many
//! columns, in steps that viewers share. Each picture is of a frame that has just been analysed. A camera without a picture
//! gives one that says so, with the header `X-Weir-Signal: none`.
//!
//! A viewer holds the newest picture only: who reads slowly misses some, who stops reading is cut off by [`super::conn`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::conn::Stalled;
use super::{Shared, error};
use crate::metrics;
use crate::stop::Stop;
use crate::video::{Shown, View, Watching};

/// The longest that a snapshot waits for a frame: longer than an online camera may rest before it is said to have no picture.
const PATIENCE: Duration = Duration::from_secs(12);
/// Stands between the pictures of a stream, and in none of them: JPEG has no such text.
const BOUNDARY: &str = "weir-next-picture";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    annotated: Option<String>,
    width: Option<u32>,
    /// Ignored: pages put a new number here so that a browser asks anew.
    #[serde(rename = "t")]
    _again: Option<String>,
}

struct Viewer {
    watching: Watching,
    _permit: OwnedSemaphorePermit,
}

fn open(
    shared: &Shared,
    name: &str,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Viewer, Box<Response>> {
    let refuse = |status, code, message: String| Box::new(error(status, code, message));
    let Query(asked) = asked.map_err(|e| refuse(StatusCode::BAD_REQUEST, "bad_query", e.body_text()))?;
    let annotated = match asked.annotated.as_deref() {
        None | Some("1" | "true") => true,
        Some("0" | "false") => false,
        Some(_) => {
            let message = "annotated is 1 or 0".to_owned();
            return Err(refuse(StatusCode::BAD_REQUEST, "bad_query", message));
        }
    };
    if asked.width == Some(0) {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "bad_query",
            "width is a number of columns, from 1".to_owned(),
        ));
    }
    let Some((camera, _)) = shared.api.board.find(name) else {
        let message = format!("there is no camera {name:?}; /api/v1/cameras lists them");
        return Err(refuse(StatusCode::NOT_FOUND, "no_such_camera", message));
    };
    let permit = Arc::clone(&shared.viewers).try_acquire_owned().map_err(|_| {
        let message = "all places for viewers are taken ([video] max_viewers)".to_owned();
        let mut refusal = refuse(StatusCode::SERVICE_UNAVAILABLE, "too_many_viewers", message);
        refusal.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        refusal
    })?;
    let view = View::new(annotated, asked.width);
    let watching = shared.api.audience.watch(camera, view).ok_or_else(|| {
        refuse(StatusCode::NOT_FOUND, "no_such_camera", format!("camera {name:?} has just been taken away"))
    })?;
    Ok(Viewer { watching, _permit: permit })
}

pub(super) async fn snapshot(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let mut viewer = match open(&shared, &name, asked) {
        Ok(viewer) => viewer,
        Err(refusal) => return *refusal,
    };
    let mut stop = shared.stop.clone();
    let shown = tokio::select! {
        shown = viewer.watching.next() => shown,
        () = tokio::time::sleep(PATIENCE) => None,
        () = stop.stopped() => None,
    };
    let Some(shown) = shown else {
        return error(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_picture",
            format!("camera {name:?} gave no picture"),
        );
    };
    let mut answer = Body::from(shown.jpeg.clone()).into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("image/jpeg"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in about(&shown) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    answer
}

/// What a picture is of.
fn about(shown: &Shown) -> [(&'static str, String); 2] {
    let time = ("x-weir-time", shown.wall.rfc3339());
    match shown.seq {
        Some(seq) => [time, ("x-weir-frame", seq.to_string())],
        None => [time, ("x-weir-signal", "none".to_owned())],
    }
}

pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    Extension(stalled): Extension<Stalled>,
    Path(name): Path<String>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let viewer = match open(&shared, &name, asked) {
        Ok(viewer) => viewer,
        Err(refusal) => return *refusal,
    };
    let client = Client { viewer, name, hello: true, stop: shared.stop.clone(), stalled };
    let body = Body::from_stream(futures_util::stream::unfold(client, Client::next));
    let kind = format!("multipart/x-mixed-replace; boundary={BOUNDARY}");
    let headers = [
        (header::CONTENT_TYPE.as_str(), kind.as_str()),
        (header::CACHE_CONTROL.as_str(), "no-store, no-transform"),
        ("x-accel-buffering", "no"),
    ];
    (headers, body).into_response()
}

/// One viewer of a stream.
struct Client {
    viewer: Viewer,
    name: String,
    hello: bool,
    stop: Stop,
    stalled: Stalled,
}

impl Client {
    /// The next picture; hyper asks when the socket takes it. The boundary follows each picture at once: browsers show a
    /// part when they have seen its end.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Client)> {
        if std::mem::take(&mut self.hello) {
            return Some((Ok(format!("--{BOUNDARY}\r\n").into()), self));
        }
        let shown = tokio::select! {
            shown = self.viewer.watching.next() => shown?,
            () = self.stop.stopped() => return None,
        };
        let mut part =
            format!("Content-Type: image/jpeg\r\nContent-Length: {}\r\n", shown.jpeg.len()).into_bytes();
        for (name, value) in about(&shown) {
            part.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        part.extend_from_slice(b"\r\n");
        part.extend_from_slice(&shown.jpeg);
        part.extend_from_slice(format!("\r\n--{BOUNDARY}\r\n").as_bytes());
        Some((Ok(part.into()), self))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.stalled.is_set() {
            metrics::viewers_cut_off().increment(1);
            tracing::warn!(camera = self.name, "A viewer stopped reading and was cut off.");
        }
    }
}
