//! The server that peers call.

use std::io;
use std::sync::Arc;

use futures::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::rpc::check::CheckLayer;
use crate::rpc::guard::Guarded;
use crate::rpc::limits::{
    ACCEPT_PAUSE, CALL, CONNECTION_WINDOW, CONNECTIONS_MAX, DRAIN, HEADER_BYTES_MAX, KEEPALIVE_AFTER,
    KEEPALIVE_WAIT, RESETS_PENDING_MAX, STREAM_WINDOW, STREAMS_MAX,
};
use crate::rpc::{Identity, RpcError, Tls};

/// Serves `routes` until `stop`, then lets calls in flight end for a few seconds.
///
/// # Errors
/// When TLS cannot be set up or the listener breaks.
pub async fn serve(
    listener: TcpListener,
    tls: Option<&Tls>,
    identity: Identity,
    routes: Routes,
    stop: CancellationToken,
) -> Result<(), RpcError> {
    let address = listener.local_addr().map_err(|source| RpcError::Listener { source })?;
    let mut server = Server::builder()
        .timeout(CALL)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_AFTER))
        .http2_keepalive_timeout(Some(KEEPALIVE_WAIT))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_PENDING_MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    if let Some(tls) = tls {
        server = server.tls_config(tls.server()).map_err(|source| RpcError::Tls { source })?;
    }
    let serving = server.layer(CheckLayer::new(identity)).serve_with_incoming_shutdown(
        routes.prepare(),
        accept(listener),
        stop.clone().cancelled_owned(),
    );
    let drained = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served.map_err(|source| RpcError::Serve { address: address.to_string(), source }),
        () = drained => {
            tracing::warn!(%address, "calls were still in flight at the end of the drain time");
            Ok(())
        }
    }
}

/// Connections up to the cap; one more is closed at once, so that its owner learns of it. An error of accepting passes
/// to no one, for it would end the server: what it lacks, a file descriptor say, may be there a little later.
fn accept(listener: TcpListener) -> impl Stream<Item = io::Result<Guarded>> {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    futures::stream::unfold(listener, move |listener| {
        let permits = Arc::clone(&permits);
        async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        if let Some(guarded) = admit(stream, &permits) {
                            return Some((Ok(guarded), listener));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    })
}

fn admit(stream: TcpStream, permits: &Arc<Semaphore>) -> Option<Guarded> {
    let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
        tracing::warn!(limit = CONNECTIONS_MAX, "too many connections: closed a new one");
        return None;
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it was accepted");
        return None;
    }
    Some(Guarded::new(stream, permit))
}
