//! The HTTP interface: health, metrics, cameras, event history and the event stream.
//!
//! [`bind`] comes before anything else starts, so that a port in use stops the daemon at once; [`serve`] runs
//! until it is stopped. All but `/api/v1/infer` and `/api/v1/reload` only read; nothing here can slow a camera down.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 while every stage makes progress, else 503 |
//! | `/readyz` | 200 once the daemon is ready, else 503 with what is missing |
//! | `/metrics` | Prometheus text |
//! | `/` | the dashboard |
//! | `/api/v1/cameras[/NAME]` | state of the cameras |
//! | `/api/v1/cameras/NAME/snapshot.jpg?annotated=1&width=N` | a picture of the newest analysed frame |
//! | `/api/v1/cameras/NAME/stream.mjpg?annotated=1&width=N` | the same again and again (MJPEG) |
//! | `/api/v1/devices` | which video encoder was chosen, and why |
//! | `/api/v1/flow` | the engine's pace: S(b), wait and batch limits, p95 against the target, and why; clients' requests |
//! | `POST /api/v1/admission` | would these cameras fit? Changes nothing |
//! | `/api/v1/events?after=SEQ&limit=N&camera=NAME&kind=KIND` | history |
//! | `/api/v1/events/stream?after=SEQ&camera=NAME&kind=KIND` | server-sent events |
//! | `POST /api/v1/reload` | reads the configuration again: cameras come, change and go |
//! | `POST /api/v1/infer?class=C&timeout_ms=N&tenant=T` | what the network sees in a picture |
//!
//! [`answers`] has what they say, as types. Every error is JSON: `{"error": {"code": "…", "message": "…"}}`.

mod access;
mod admission;
pub mod answers;
mod cameras;
mod conn;
mod dashboard;
mod events;
mod flow;
mod infer;
mod rates;
mod reload;
mod sse;
mod video;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use crossbeam_channel::Sender;
use tokio::sync::Semaphore;

pub use self::access::Access;
use self::answers::{Health, Problem, Readiness, Refused};
pub use self::infer::Inference;
use crate::board::Board;
use crate::clock::Clock;
use crate::fault::{Fault, Who};
use crate::metrics;
use crate::outbox::Outbox;
use crate::roster::Order;
use crate::stop::Stop;
use crate::video::Audience;

/// Asked by a health check; answers what is wrong, nothing when all is well. Must not block.
pub type Probe = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What the routes read.
#[derive(Clone)]
pub struct Api {
    /// `[node] name`.
    pub node: Arc<str>,
    /// The cameras.
    pub board: Arc<Board>,
    /// The events.
    pub outbox: Arc<Outbox>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The metrics page.
    pub metrics: metrics::Exporter,
    /// What is missing before the daemon is ready.
    pub missing: Probe,
    /// Stages that make no progress.
    pub stuck: Probe,
    /// What a client may use.
    pub limits: Limits,
    /// Pictures of clients.
    pub infer: Inference,
    /// Who watches.
    pub audience: Arc<Audience>,
    /// Has the configuration read again.
    pub orders: Sender<Order>,
    /// What `/api/v1/devices` says.
    pub devices: Arc<dyn Fn() -> answers::Devices + Send + Sync>,
}

/// What clients may use before they are refused or cut off.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Subscribers to the event stream at a time; one more gets 503 with `Retry-After`.
    pub sse_clients: usize,
    /// A comment this often on a quiet event stream.
    pub sse_heartbeat: Duration,
    /// Who may watch at a time; one more gets 503 with `Retry-After`.
    pub viewers: usize,
    /// Connections besides the event stream's and the viewers'; one more waits in the kernel's queue.
    pub connections: usize,
    /// A connection that sends no whole request head for this long is closed.
    pub header_read: Duration,
    /// A connection that takes no byte of its answer for this long is closed.
    pub write_stall: Duration,
    /// How long answers under way may take after the stop signal.
    pub grace: Duration,
}

impl Limits {
    /// As configured, with the constants that nobody needed to configure yet.
    pub fn new(http: &crate::config::Http, video: &crate::config::Video) -> Self {
        Limits {
            viewers: video.max_viewers,
            sse_clients: http.max_sse_clients,
            sse_heartbeat: http.sse_heartbeat,
            connections: 256,
            header_read: Duration::from_secs(10),
            write_stall: Duration::from_secs(10),
            grace: Duration::from_secs(2),
        }
    }
}

/// Opens the port.
///
/// # Errors
/// The address is in use, not ours, or needs a privilege: the message names it and the remedy.
pub fn bind(address: SocketAddr) -> Result<TcpListener, Fault> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| {
        use std::io::ErrorKind as E;
        let fault = |reason, why: &str| {
            Fault::new(Who::Config, reason, format!("[http] bind = \"{address}\": {why}"))
        };
        match error.kind() {
            E::AddrInUse => fault("port_in_use", "another process already listens there").remedy(format!(
                "stop it (`ss -ltnp 'sport = :{}'` shows it) or set [http] bind to a free port",
                address.port()
            )),
            E::AddrNotAvailable => fault("bind", "this machine has no such address").remedy(
                "use an address of this machine, 127.0.0.1 for local use or 0.0.0.0 for every interface",
            ),
            E::PermissionDenied => fault("bind", "ports below 1024 need a privilege")
                .remedy("use a port from 1024 on, or give the service CAP_NET_BIND_SERVICE"),
            _ => fault("bind", &error.to_string()),
        }
    })
}

/// Serves until the stop signal; then event streams end, and answers under way get [`Limits::grace`].
///
/// # Errors
/// The listener cannot be used on this runtime: a bug.
pub async fn serve(listener: TcpListener, api: Api, stop: Stop) -> Result<(), Fault> {
    let listener = tokio::net::TcpListener::from_std(listener)
        .map_err(|e| Fault::new(Who::Bug, "listener", format!("the HTTP listener cannot be polled: {e}")))?;
    let limits = api.limits;
    let metrics = api.metrics.clone();
    let shared = Arc::new(Shared::new(api, stop.clone()));
    let router = router(Arc::clone(&shared));
    let upkeep = async {
        let mut every = tokio::time::interval(rates::INTERVAL);
        loop {
            every.tick().await;
            let now = shared.api.clock.now();
            shared.rates.note(now, &shared.api.board);
            shared.api.board.admission.look(now, &shared.api.board, |id| shared.rates.sends(id));
            metrics.upkeep();
        }
    };
    tokio::select! {
        () = conn::accept(listener, router, limits, stop) => {}
        () = upkeep => {}
    }
    Ok(())
}

/// [`Api`] and what the routes keep between requests.
struct Shared {
    api: Api,
    gauges: metrics::BoardGauges,
    rates: rates::Rates,
    sse: metrics::Sse,
    sse_permits: Arc<Semaphore>,
    viewers: Arc<Semaphore>,
    stop: Stop,
}

impl Shared {
    fn new(api: Api, stop: Stop) -> Self {
        Shared {
            gauges: metrics::BoardGauges::new(Arc::clone(&api.board)),
            rates: rates::Rates::default(),
            sse: metrics::Sse::new(),
            sse_permits: Arc::new(Semaphore::new(api.limits.sse_clients)),
            viewers: Arc::new(Semaphore::new(api.limits.viewers)),
            stop,
            api,
        }
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let pictures = DefaultBodyLimit::max(infer::most_bytes(&shared.api.infer.desk));
    Router::new()
        .route("/", get(dashboard::page))
        .route("/style.css", get(dashboard::style))
        .route("/app.js", get(dashboard::script))
        .route("/plot.js", get(dashboard::plot))
        .route("/icon.svg", get(dashboard::icon))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .route("/api/v1/flow", get(flow::show))
        .route("/api/v1/admission", post(admission::ask))
        .route("/api/v1/reload", post(reload::post))
        .route("/api/v1/cameras", get(cameras::list))
        .route("/api/v1/cameras/{name}", get(cameras::one))
        .route("/api/v1/cameras/{name}/snapshot.jpg", get(video::snapshot))
        .route("/api/v1/cameras/{name}/stream.mjpg", get(video::stream))
        .route("/api/v1/devices", get(devices))
        .route("/api/v1/infer", post(infer::post).layer(pictures))
        .route("/api/v1/events", get(events::history))
        .route("/api/v1/events/stream", get(sse::stream))
        .fallback(|uri: axum::http::Uri| async move {
            error(
                StatusCode::NOT_FOUND,
                "not_found",
                format!("there is nothing at {}; / lists what there is", uri.path()),
            )
        })
        .method_not_allowed_fallback(|method: axum::http::Method| async move {
            error(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                format!("{method} is not possible here; use GET, or POST for /api/v1/infer, /admission and /reload"),
            )
        })
        // For routes that set no limit of their own.
        .layer(DefaultBodyLimit::max(64 * 1024))
        .with_state(shared)
}

/// An error answer.
fn error(status: StatusCode, code: &str, message: impl Into<String>) -> Response {
    let problem = Problem { code: code.to_owned(), message: message.into(), ..Problem::default() };
    (status, Json(Refused { error: problem, ..Refused::default() })).into_response()
}

async fn devices(State(shared): State<Arc<Shared>>) -> Json<answers::Devices> {
    Json((shared.api.devices)())
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let stuck = (shared.api.stuck)();
    let (status, word) =
        if stuck.is_empty() { (StatusCode::OK, "alive") } else { (StatusCode::SERVICE_UNAVAILABLE, "stuck") };
    (status, Json(Health { status: word, stuck })).into_response()
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let missing = (shared.api.missing)();
    let (status, word) = if missing.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    (status, Json(Readiness { status: word, missing })).into_response()
}

async fn metrics_page(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let page = shared.api.metrics.render(&shared.gauges, &shared.api.outbox);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_names_the_address_and_the_remedy() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let fault = bind(address).unwrap_err();
        assert_eq!((fault.who, fault.reason), (Who::Config, "port_in_use"));
        assert_eq!(
            fault.to_string(),
            format!(
                "[http] bind = \"{address}\": another process already listens there\n  help: stop it \
                 (`ss -ltnp 'sport = :{}'` shows it) or set [http] bind to a free port",
                address.port()
            )
        );
    }

    #[test]
    fn an_address_that_is_not_ours_is_named() {
        // TEST-NET-1 (RFC 5737): no machine has it.
        let fault = bind("192.0.2.1:8080".parse().unwrap()).unwrap_err();
        assert!(fault.message.contains("192.0.2.1:8080"), "{fault}");
        assert_eq!(fault.who, Who::Config);
    }
}
