//! Reads what a client sends, within bounds of size, memory and time.

use std::fmt::Display;
use std::pin::pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use futures_util::{Stream, StreamExt};

use crate::flow::capacity::Ceiling;
use crate::request::quota::Share;
use crate::request::{Outcome, Refusal};

/// How long a body may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// What is read of a refused body, and for how long: most clients read the answer only after they have sent everything, and a
/// connection closed before that looks like a crash to them.
const DRAIN: (usize, Duration) = (64 << 20, Duration::from_secs(5));
/// The first step of a body of unknown size.
const STEP: usize = 64 << 10;

/// Reads and forgets. A client that asked whether to send it at all (`Expect: 100-continue`) has its answer already.
pub(super) async fn drain(headers: &HeaderMap, body: Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let mut stream = body.into_data_stream();
    let reading = async {
        let mut left = DRAIN.0;
        while let Some(Ok(chunk)) = stream.next().await {
            let Some(rest) = left.checked_sub(chunk.len()) else { return };
            left = rest;
        }
    };
    // Whatever is left is cut off.
    let _ = tokio::time::timeout(DRAIN.1, reading).await;
}

/// The whole of it, at most `most` bytes, for which `memory` grows. What is too much is read and forgotten, see [`DRAIN`].
///
/// # Errors
/// 413 for too many bytes, 503 when there is no memory for it now, 400 when the client breaks off.
pub(super) async fn gather<E: Display>(
    stream: impl Stream<Item = Result<Bytes, E>>,
    declared: Option<usize>,
    most: usize,
    memory: &mut Share,
) -> Result<Vec<u8>, Refusal> {
    let mut stream = pin!(stream);
    let (mut bytes, mut refused, mut forgotten) = (Vec::new(), None, 0);
    if declared.is_some_and(|declared| declared > most) {
        refused = Some(too_large(most));
    }
    let mut room = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| {
            Refusal::new(400, "bad_body", Outcome::BadImage, format!("the body cannot be read: {e}"))
        })?;
        let needed = bytes.len() + chunk.len();
        if refused.is_none() && needed > room {
            room = needed.max(declared.unwrap_or(STEP)).max(2 * room).min(most);
            if needed > most {
                refused = Some(too_large(most));
            } else if memory.resize(room) {
                bytes.reserve_exact(room - bytes.len());
            } else {
                let message = "the memory for pictures is taken: try again";
                refused = Some(Refusal::busy("busy", Outcome::Busy, 1, message).by(Ceiling::Memory));
            }
        }
        if let Some(refusal) = &refused {
            bytes = Vec::new();
            forgotten += chunk.len();
            if forgotten > DRAIN.0 {
                return Err(refusal.clone());
            }
        } else {
            bytes.extend_from_slice(&chunk);
        }
    }
    match refused {
        Some(refusal) => Err(refusal),
        None => Ok(bytes),
    }
}

fn too_large(most: usize) -> Refusal {
    let message = format!("the picture has more than {most} bytes ([http] max_image_mb): send a smaller one");
    Refusal::new(413, "too_large", Outcome::TooLarge, message)
}

/// The client was too slow.
pub(super) fn too_slow() -> Refusal {
    let message = format!("the body did not arrive within {} s", PATIENCE.as_secs());
    Refusal::new(408, "slow_body", Outcome::BadImage, message)
}
