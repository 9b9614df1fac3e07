//! `/api/v1/events/stream`: the log as server-sent events (WHATWG HTML §9.2).
//!
//! `id:` is the event's `seq`, `event:` its kind, `data:` its JSON. A client that comes back with
//! `Last-Event-ID` (or `?after=SEQ`) gets exactly what it missed; without one it starts with what happens next. What the log no longer
//! keeps is told by an event `weir.gap` with `{"after": SEQ, "lost": N}`; `lost` is null when the daemon has
//! restarted since and the client's number means nothing any more.
//!
//! Nothing is queued per client: each is a cursor on the log, and events are rendered when its socket takes them. One that
//! takes none for `write_stall` is cut off by [`super::conn`] and counted here; one that is merely slow falls
//! behind on the log and sees gaps once the log is full.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;

use super::conn::Stalled;
use super::events::{Asked, Filter, parsed};
use super::{Shared, error};
use crate::metrics;
use crate::outbox::{Batch, Reader};
use crate::stop::Stop;

/// Events rendered at a time: bounds what one client holds to some tens of kilobytes.
const BATCH: usize = 64;

pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    Extension(stalled): Extension<Stalled>,
    headers: HeaderMap,
    query: Result<Query<Asked>, QueryRejection>,
) -> Response {
    match open(&shared, stalled, &headers, query) {
        Ok(client) => {
            let body = futures_util::stream::unfold(client, Client::next);
            // `no-transform` and `X-Accel-Buffering` keep proxies from holding events back.
            let headers = [
                (header::CONTENT_TYPE.as_str(), "text/event-stream"),
                (header::CACHE_CONTROL.as_str(), "no-cache, no-transform"),
                ("x-accel-buffering", "no"),
            ];
            (headers, Body::from_stream(body)).into_response()
        }
        Err(refusal) => *refusal,
    }
}

fn open(
    shared: &Arc<Shared>,
    stalled: Stalled,
    headers: &HeaderMap,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Client, Box<Response>> {
    let query = parsed(query)?;
    let filter = query.filter(shared)?;
    let after = match headers.get("last-event-id") {
        // Empty is what a browser sends after a stream whose events had no id.
        Some(id) if !id.is_empty() => {
            Some(id.to_str().ok().and_then(|id| id.trim().parse::<u64>().ok()).ok_or_else(|| {
                let message = "Last-Event-ID is the seq of the last event that you have, a whole number";
                Box::new(error(StatusCode::BAD_REQUEST, "bad_last_event_id", message))
            })?)
        }
        _ => query.after,
    };
    let permit = Arc::clone(&shared.sse_permits).try_acquire_owned().map_err(|_| {
        let most = shared.api.limits.sse_clients;
        let message = format!("all {most} places on the event stream are taken ([http] max_sse_clients)");
        let mut refusal = error(StatusCode::SERVICE_UNAVAILABLE, "too_many_clients", message);
        refusal.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
        Box::new(refusal)
    })?;

    let last = shared.api.outbox.last_seq();
    // Tells the client how soon to come back, and that it is connected, before the first event.
    let mut hello = "retry: 2000\n\n".to_owned();
    let from = match after {
        None => last,
        Some(after) if after > last => {
            gap(&mut hello, after, 0, None);
            0
        }
        Some(after) => after,
    };
    shared.sse.clients.increment(1);
    Ok(Client {
        reader: shared.api.outbox.reader(from),
        filter,
        hello: Some(hello),
        heartbeat: shared.api.limits.sse_heartbeat,
        stop: shared.stop.clone(),
        stalled,
        metrics: shared.sse.clone(),
        _permit: permit,
    })
}

/// One subscriber.
struct Client {
    reader: Reader,
    filter: Filter,
    hello: Option<String>,
    heartbeat: std::time::Duration,
    stop: Stop,
    stalled: Stalled,
    metrics: metrics::Sse,
    _permit: OwnedSemaphorePermit,
}

impl Client {
    /// The next piece of the stream; hyper asks when the socket takes it.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Client)> {
        let text = match self.hello.take() {
            Some(hello) => hello,
            None => self.text().await?,
        };
        Some((Ok(text.into()), self))
    }

    async fn text(&mut self) -> Option<String> {
        loop {
            let before = self.reader.position();
            let batch = self.reader.next_batch(BATCH);
            let text = render(&batch, before, &self.filter);
            if !text.is_empty() {
                return Some(text);
            }
            if !batch.events.is_empty() {
                // Nothing of interest among them. A long log must not hold the worker.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                () = self.stop.stopped() => return None,
                () = tokio::time::sleep(self.heartbeat) => return Some(self.beat()),
                () = self.reader.wait() => {}
            }
        }
    }

    /// A comment. With a filter it also moves the client's `Last-Event-ID`, so that a client that wants rare
    /// events does not come back for what it did not want.
    fn beat(&self) -> String {
        if self.filter.wants_all() {
            ":\n\n".into()
        } else {
            format!(":\nid: {}\n\n", self.reader.position())
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.metrics.clients.decrement(1);
        if self.stalled.is_set() {
            self.metrics.dropped.increment(1);
            tracing::warn!(
                last = self.reader.position(),
                "An event stream client stopped reading and was cut off."
            );
        }
    }
}

fn render(batch: &Batch, before: u64, filter: &Filter) -> String {
    let mut text = String::new();
    if let Some(lost) = batch.gap {
        gap(&mut text, before, before + lost.lost, Some(lost.lost));
    }
    for event in batch.events.iter().filter(|e| filter.wants(e)) {
        let json = std::str::from_utf8(&event.json).expect("serde_json writes UTF-8");
        // JSON on one line holds no line feed, so that one `data:` is enough. Writing into a String cannot fail.
        let _ = write!(text, "id: {}\nevent: {}\ndata: {json}\n\n", event.seq, event.kind.name());
    }
    text
}

fn gap(text: &mut String, after: u64, id: u64, lost: Option<u64>) {
    let data = serde_json::json!({ "after": after, "lost": lost });
    // Writing into a String cannot fail.
    let _ = write!(text, "id: {id}\nevent: weir.gap\ndata: {data}\n\n");
}
