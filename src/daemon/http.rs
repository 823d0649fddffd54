//! The HTTP paths for load balancers, Prometheus and people, and the serving of the control socket's (`control`).
//!
//! Owns routes, headers and limits; every answer is made from [`View`]. Read-only, and no artifact content ever.
//! On an address that others reach, artifact paths are left out unless the configuration allows them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::daemon::page::page;
use crate::daemon::view::View;

/// Connections served at once; more are closed at once, so that a flood costs no memory.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take to send its request line and headers.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);

/// The paths that everyone may ask.
pub fn public(view: Arc<View>) -> Router {
    Router::new()
        .route("/live", read(|| async { "the process serves\n" }))
        .route("/ready", read(ready))
        .route("/manager", read(manager))
        .route("/worker", read(worker))
        .route("/metrics", read(metrics))
        .route("/status", read(status))
        .route("/", read(front))
        .with_state(view)
}

/// A path that may only be read.
pub(super) fn read<H, T>(handler: H) -> MethodRouter<Arc<View>>
where
    H: axum::handler::Handler<T, Arc<View>>,
    T: 'static,
{
    get(handler).options(|| async { (StatusCode::NO_CONTENT, [(header::ALLOW, "GET, HEAD, OPTIONS")]) })
}

async fn ready(State(view): State<Arc<View>>) -> Response {
    match view.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn worker(State(view): State<Arc<View>>) -> Response {
    match view.worker() {
        Ok(()) => "worker\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn manager(State(view): State<Arc<View>>) -> Response {
    match view.manager().await {
        Ok(lease) => {
            let header = format!("{} {} {}", lease.epoch, lease.start.nanos(), lease.end.nanos());
            ([("syncd-lease", header), ("cache-control", "no-store".to_owned())], "manager\n").into_response()
        }
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(view): State<Arc<View>>) -> Response {
    match view.metrics() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn status(State(view): State<Arc<View>>) -> Response {
    Json(view.public_status()).into_response()
}

async fn front(State(view): State<Arc<View>>) -> Response {
    Html(page(&view.public_status())).into_response()
}

/// Serves `routes` until `stop`; a client that left early or a lack of descriptors only makes the listener pause.
///
/// # Errors
/// None: the type is that of a task.
pub async fn serve<L: Listener>(
    mut listener: L,
    routes: Router,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            (stream, _) = listener.accept() => converse(stream, &routes, &room, &stop),
        }
    }
}

fn converse<S>(stream: S, routes: &Router, room: &Arc<Semaphore>, stop: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(place) = room.clone().try_acquire_owned() else { return };
    let service = TowerToHyperService::new(routes.clone());
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).max_buf_size(16 * 1024);
        let connection = server.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                // A client that does not read its answer must not hold up the end of the daemon.
                tokio::time::timeout(Duration::from_secs(1), connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
        drop(place);
    });
}
