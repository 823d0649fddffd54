//! One GET over one connection.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// A status of hundreds of nodes with thousands of problems is far below this.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("the connection broke")]
    Connection(#[from] hyper::Error),
    #[error("the request is none")]
    Request(#[from] hyper::http::Error),
    #[error("the answer could not be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
}

/// Asks for `path` over `stream` and waits at most `limit` for the whole answer.
pub(super) async fn get<S>(stream: S, path: &str, limit: Duration) -> Result<(StatusCode, Bytes), HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(path).header(HOST, "syncd").body(Empty::<Bytes>::new())?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, body.map_err(HttpError::Body)?.to_bytes()))
        };
        tokio::pin!(connection, answer);
        // The connection drives both directions; it may end before the answer was taken out.
        tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => {
                ended?;
                answer.await
            }
        }
    };
    tokio::time::timeout(limit, exchange).await.map_err(|_| HttpError::Timeout(limit))?
}
