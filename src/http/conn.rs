//! Accepts connections and bounds what each may cost: how many, how long for a request head, how long without
//! taking a byte of the answer.
//!
//! `axum::serve` bounds none of these, so that one idle client in a thousand tabs would hold a socket for ever.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Sleep;

use super::Limits;
use crate::stop::Stop;

/// Rendered and not yet taken by the socket, a connection; also the largest request head.
const BUFFER: usize = 64 * 1024;

/// Set once a connection has been cut off because its peer stopped reading.
#[derive(Clone, Debug, Default)]
pub(super) struct Stalled(Arc<AtomicBool>);

impl Stalled {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Serves until the stop signal, then lets the answers under way finish within [`Limits::grace`].
pub(super) async fn accept(listener: TcpListener, router: Router, limits: Limits, mut stop: Stop) {
    let permits = Arc::new(Semaphore::new(limits.connections + limits.sse_clients + limits.viewers));
    let mut open = JoinSet::new();
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, permit)
        };
        tokio::select! {
            () = stop.stopped() => break,
            // Reap, so that the set does not grow with every connection ever served.
            Some(_) = open.join_next() => {}
            (accepted, permit) = accepted => match accepted {
                Ok((stream, _)) => {
                    let serving = connection(stream, router.clone(), limits, stop.clone());
                    open.spawn(async move {
                        serving.await;
                        drop(permit);
                    });
                }
                // Out of file descriptors, or the peer has gone already. The pause keeps the first from spinning.
                Err(error) => {
                    tracing::debug!(%error, "A connection could not be accepted.");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    let finish = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.grace, finish).await.is_err() {
        tracing::warn!(connections = open.len(), "HTTP answers were cut off by the stop.");
    }
    // Dropping the set ends what is left.
}

async fn connection(stream: TcpStream, router: Router, limits: Limits, mut stop: Stop) {
    // Events are small and wanted now.
    let _ = stream.set_nodelay(true);
    let stalled = Stalled::default();
    let io = TokioIo::new(Guarded::new(stream, limits.write_stall, stalled.clone()));
    let service = TowerToHyperService::new(router.layer(Extension(stalled)));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_buf_size(BUFFER)
        .serve_connection(io, service);
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.stopped() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // Peers come and go; what an operator must know of them is in the counters.
        tracing::debug!(%error, "An HTTP connection ended early.");
    }
}

/// A socket whose writes fail once the peer has taken nothing for `patience`.
struct Guarded {
    stream: TcpStream,
    patience: Duration,
    stalled: Stalled,
    /// Runs while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    fn new(stream: TcpStream, patience: Duration, stalled: Stalled) -> Self {
        Guarded { stream, patience, stalled, deadline: None }
    }

    /// Passes progress through; a wait that has lasted too long becomes an error.
    fn judge<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.deadline = None;
            return outcome;
        }
        let patience = self.patience;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(deadline.as_mut().poll(cx));
        self.stalled.0.store(true, Ordering::Release);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer stopped reading")))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
