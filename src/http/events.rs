//! `/api/v1/events`: history from the [`outbox`](crate::outbox), and the filter that the stream shares.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::{Shared, error};
use crate::event::Kind;
use crate::outbox::Stored;

/// The query of both event routes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// The last `seq` that the client has.
    pub(super) after: Option<u64>,
    /// Events in one answer, 1..=1000. Default 100. History only.
    limit: Option<usize>,
    camera: Option<String>,
    kind: Option<String>,
}

/// Which events a client wants.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    camera: Option<String>,
    kind: Option<Kind>,
}

impl Filter {
    pub(super) fn wants(&self, event: &Stored) -> bool {
        self.camera.as_deref().is_none_or(|name| name == &*event.camera)
            && self.kind.is_none_or(|kind| kind == event.kind)
    }

    pub(super) fn wants_all(&self) -> bool {
        self.camera.is_none() && self.kind.is_none()
    }
}

impl Asked {
    /// The filter, or what is wrong with it: a misspelt one would otherwise be a stream that stays silent.
    pub(super) fn filter(&self, shared: &Shared) -> Result<Filter, Box<Response>> {
        if let Some(name) = &self.camera
            && !shared.api.board.cameras().any(|card| *card.name == **name)
        {
            let message = format!("there is no camera {name:?}; /api/v1/cameras lists them");
            return Err(Box::new(error(StatusCode::NOT_FOUND, "no_such_camera", message)));
        }
        let kind = match &self.kind {
            None => None,
            Some(word) => Some(Kind::ALL.into_iter().find(|k| k.name() == word).ok_or_else(|| {
                let known: Vec<&str> = Kind::ALL.iter().map(|k| k.name()).collect();
                let message = format!("there is no kind {word:?}; there are {}", known.join(", "));
                Box::new(error(StatusCode::BAD_REQUEST, "no_such_kind", message))
            })?),
        };
        Ok(Filter { camera: self.camera.clone(), kind })
    }
}

/// A query that does not parse, as our kind of error.
pub(super) fn parsed(query: Result<Query<Asked>, QueryRejection>) -> Result<Asked, Box<Response>> {
    query
        .map(|Query(query)| query)
        .map_err(|e| Box::new(error(StatusCode::BAD_REQUEST, "bad_query", e.body_text())))
}

/// `{"events": […], "lost": N, "next": SEQ, "last": SEQ}`: oldest first; ask again with `after=next` until
/// `next` is `last`. `lost` counts events after `after` that the log no longer keeps.
pub(super) async fn history(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Response {
    match page(&shared, query) {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(refusal) => *refusal,
    }
}

fn page(shared: &Shared, query: Result<Query<Asked>, QueryRejection>) -> Result<Vec<u8>, Box<Response>> {
    let query = parsed(query)?;
    let filter = query.filter(shared)?;
    let limit = query.limit.unwrap_or(100);
    if !(1..=1000).contains(&limit) {
        let message = format!("limit is 1 to 1000, not {limit}");
        return Err(Box::new(error(StatusCode::BAD_REQUEST, "bad_query", message)));
    }
    let mut reader = shared.api.outbox.reader(query.after.unwrap_or(0));
    let mut body = b"{\"events\":[".to_vec();
    let (mut found, mut lost) = (0, 0);
    // One pass over the log at most: a filter that matches nothing ends at its end.
    while found < limit {
        let batch = reader.next_batch(limit - found);
        lost += batch.gap.map_or(0, |gap| gap.lost);
        if batch.events.is_empty() {
            break;
        }
        for event in batch.events.iter().filter(|e| filter.wants(e)) {
            if found > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&event.json);
            found += 1;
        }
    }
    let (next, last) = (reader.position(), shared.api.outbox.last_seq());
    body.extend_from_slice(format!("],\"lost\":{lost},\"next\":{next},\"last\":{last}}}\n").as_bytes());
    Ok(body)
}
