//! Several pictures in one request, and their results as they come.
//!
//! All parts are read before the first is answered: most clients cannot read while they write. Each picture has a place of its own
//! among the pending requests, so that a request with many counts as many.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::multipart::Field;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Wish, body, refused, render};
use crate::clock::Tick;
use crate::http::{Shared, answers};
use crate::request::desk::{Place, Ticket, Told};
use crate::request::{Outcome, Refusal};

/// Pictures in one request.
pub(super) const MOST_IMAGES: usize = 16;
/// Of a part's name, characters that are told back.
const MOST_NAME: usize = 200;

/// One picture of a request.
struct Part {
    index: usize,
    name: String,
    ticket: Ticket,
    picture: Result<(Place, Vec<u8>), Refusal>,
}

/// What became of it.
struct Done {
    index: usize,
    name: String,
    outcome: Result<Told, Refusal>,
}

pub(super) fn is_multipart(headers: &HeaderMap) -> bool {
    starts(headers, header::CONTENT_TYPE, "multipart/form-data")
}

fn starts(headers: &HeaderMap, name: header::HeaderName, with: &str) -> bool {
    headers.get(name).and_then(|v| v.to_str().ok()).is_some_and(|v| v.trim_start().starts_with(with))
}

pub(super) async fn answer(shared: &Arc<Shared>, wish: Wish, parts: Parts, body: Body) -> Response {
    let desk = &shared.api.infer.desk;
    let ticket = desk.ticket(wish.ask.class);
    let place = match desk.admit(&wish.ask) {
        Ok(place) => place,
        Err(refusal) => {
            ticket.end(refusal.outcome);
            body::drain(&parts.headers, body).await;
            return refused(&refusal);
        }
    };
    let accept = parts.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let streamed = accept.contains("text/event-stream");
    let (mut first, mut pictures) = (Some((ticket, place)), Vec::new());
    let request = Request::from_parts(parts, body);
    let reading = read(shared, &wish, request, &mut first, &mut pictures);
    let read = tokio::time::timeout(body::PATIENCE, reading).await.unwrap_or_else(|_| Err(body::too_slow()));
    if let Err(refusal) = read {
        let unread = first.map(|(ticket, _)| ticket);
        unread.into_iter().chain(pictures.into_iter().map(|p| p.ticket)).for_each(|t| t.end(refusal.outcome));
        return refused(&refusal);
    }
    // Of each: the first ones' time does not run while the last ones are still on their way.
    let received = shared.api.clock.now();
    let mut tasks = JoinSet::new();
    for picture in pictures {
        tasks.spawn(infer(Arc::clone(shared), wish.clone(), picture, received));
    }
    if streamed { stream(shared, wish, tasks) } else { together(shared, &wish, tasks).await }
}

/// Reads all parts. One that is too large or not let in is skipped, and told later.
async fn read(
    shared: &Shared,
    wish: &Wish,
    request: Request,
    first: &mut Option<(Ticket, Place)>,
    pictures: &mut Vec<Part>,
) -> Result<(), Refusal> {
    let desk = &shared.api.infer.desk;
    let bad = |status, message: String| {
        let code = if status == 413 { "too_large" } else { "bad_body" };
        let outcome = if status == 413 { Outcome::TooLarge } else { Outcome::BadImage };
        Refusal::new(status, code, outcome, message)
    };
    let mut multipart = Multipart::from_request(request, &()).await.map_err(|e| bad(400, e.body_text()))?;
    loop {
        let field = multipart.next_field().await.map_err(|e| bad(e.status().as_u16(), e.body_text()))?;
        let Some(field) = field else { break };
        let index = pictures.len();
        if index == MOST_IMAGES {
            return Err(bad(413, format!("one request takes at most {MOST_IMAGES} pictures")));
        }
        let name: String =
            field.file_name().or(field.name()).unwrap_or_default().chars().take(MOST_NAME).collect();
        let (ticket, place) = match first.take() {
            Some((ticket, place)) => (ticket, Ok(place)),
            None => (desk.ticket(wish.ask.class), desk.admit(&wish.ask)),
        };
        let picture = match place {
            Ok(place) => take(desk.limits().image_bytes, place, field).await,
            // The rest of the field is skipped when the next one is asked for.
            Err(refusal) => Err(refusal),
        };
        pictures.push(Part { index, name, ticket, picture });
    }
    if pictures.is_empty() {
        return Err(bad(400, "there is no picture in it: send one a part".to_owned()));
    }
    Ok(())
}

async fn take(most: usize, mut place: Place, field: Field<'_>) -> Result<(Place, Vec<u8>), Refusal> {
    let bytes = body::gather(field, None, most, &mut place.memory).await?;
    Ok((place, bytes))
}

async fn infer(shared: Arc<Shared>, wish: Wish, part: Part, received: Tick) -> Done {
    let Part { index, name, ticket, picture } = part;
    let outcome = match picture {
        Ok((place, bytes)) => shared.api.infer.desk.infer(place, bytes, received, &wish.ask).await,
        Err(refusal) => Err(refusal),
    };
    ticket.end(outcome.as_ref().map_or_else(|refusal| refusal.outcome, |_| Outcome::Answered));
    Done { index, name, outcome }
}

fn told(shared: &Shared, wish: &Wish, done: &Done) -> answers::Part {
    let outcome = match &done.outcome {
        Ok(told) => answers::Outcome::Inferred(render(shared, told, wish)),
        Err(r) => {
            let error = answers::PartProblem {
                code: r.code,
                message: r.message.clone(),
                status: r.status,
                retry_after_s: r.retry_after,
            };
            answers::Outcome::Failed { error }
        }
    };
    answers::Part { index: done.index, name: done.name.clone(), outcome }
}

/// All results in the order of the parts. An error status only when nothing else is to be told.
async fn together(shared: &Shared, wish: &Wish, tasks: JoinSet<Done>) -> Response {
    let mut all = tasks.join_all().await;
    all.sort_by_key(|done| done.index);
    let refusals: Vec<&Refusal> = all.iter().filter_map(|done| done.outcome.as_ref().err()).collect();
    if let [first, ..] = &refusals[..]
        && refusals.len() == all.len()
    {
        let worst = refusals.iter().max_by_key(|r| (r.status, r.retry_after)).unwrap_or(first);
        let mut response = refused(worst);
        let results = Some(all.iter().map(|done| told(shared, wish, done)).collect());
        let (code, message) = (worst.code.to_owned(), worst.message.clone());
        let error = answers::Problem { code, message, ceiling: worst.ceiling, ..answers::Problem::default() };
        let body = answers::Refused { error, results, ..answers::Refused::default() };
        *response.body_mut() = Json(body).into_response().into_body();
        response.headers_mut().remove(header::CONTENT_LENGTH);
        return response;
    }
    Json(answers::Parts { results: all.iter().map(|done| told(shared, wish, done)).collect() })
        .into_response()
}

/// Results as they come. When the client leaves, what is still waiting is given up.
struct Streaming {
    shared: Arc<Shared>,
    wish: Wish,
    tasks: JoinSet<Done>,
    results: usize,
    errors: usize,
    ended: bool,
}

impl Streaming {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Streaming)> {
        let mut text = String::new();
        // Writing into a String cannot fail.
        match self.tasks.join_next().await {
            _ if self.ended => return None,
            Some(Ok(done)) => {
                let event = if done.outcome.is_ok() { "result" } else { "error" };
                *(if done.outcome.is_ok() { &mut self.results } else { &mut self.errors }) += 1;
                let part = json!(told(&self.shared, &self.wish, &done));
                let _ = write!(text, "event: {event}\ndata: {part}\n\n");
            }
            // It panicked, which its thread has reported.
            Some(Err(_)) => {
                self.errors += 1;
                text.push_str(":\n\n");
            }
            None => {
                self.ended = true;
                let data = json!({ "results": self.results, "errors": self.errors });
                let _ = write!(text, "event: done\ndata: {data}\n\n");
            }
        }
        Some((Ok(text.into()), self))
    }
}

fn stream(shared: &Arc<Shared>, wish: Wish, tasks: JoinSet<Done>) -> Response {
    let streaming =
        Streaming { shared: Arc::clone(shared), wish, tasks, results: 0, errors: 0, ended: false };
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/event-stream"),
        (header::CACHE_CONTROL.as_str(), "no-cache, no-transform"),
        ("x-accel-buffering", "no"),
    ];
    let body = futures_util::stream::unfold(streaming, Streaming::next);
    (headers, Body::from_stream(body)).into_response()
}
