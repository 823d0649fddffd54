//! One request over one connection.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// A status of hundreds of nodes with thousands of problems is far below this.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("the connection broke")]
    Connection(#[source] hyper::Error),
    #[error("the request is none")]
    Request(#[source] hyper::http::Error),
    #[error("the answer could not be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer broke off in the middle of a line, or a line is too long")]
    Line,
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
}

/// A line of a long answer is far below this.
const LINE_BYTES_MAX: usize = 4 << 20;

/// What is asked for.
pub(super) struct Question<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    /// JSON, or nothing.
    pub(super) body: Bytes,
}

impl<'a> Question<'a> {
    pub(super) fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, body: Bytes::new() }
    }

    pub(super) fn post(path: &'a str, body: Bytes) -> Self {
        Self { method: Method::POST, path, body }
    }
}

/// Asks over `stream` and waits at most `limit` for the whole answer.
pub(super) async fn ask<S>(
    stream: S,
    question: Question<'_>,
    limit: Duration,
) -> Result<(StatusCode, Bytes), HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let exchange = exchange(stream, question, async |status, body: Incoming| {
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(HttpError::Body)?.to_bytes()))
    });
    tokio::time::timeout(limit, exchange).await.map_err(|_| HttpError::Timeout(limit))?
}

/// Asks over `stream` and hands each line of the answer to `take` as it comes; empty ones only say that more will
/// come. No limit but `idle`, the longest wait for the next line. The body of an answer that is no success is
/// returned and not taken apart.
pub(super) async fn follow<S, E: From<HttpError>>(
    stream: S,
    question: Question<'_>,
    idle: Duration,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(StatusCode, Bytes), E>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    exchange(stream, question, async |status: StatusCode, mut body: Incoming| {
        let mut rest = Vec::new();
        loop {
            let frame =
                tokio::time::timeout(idle, body.frame()).await.map_err(|_| HttpError::Timeout(idle))?;
            let Some(frame) = frame else { break };
            let Ok(data) = frame.map_err(HttpError::Connection)?.into_data() else { continue };
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n').filter(|_| status.is_success())
            {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if line.len() > 1 {
                    take(&line)?;
                }
            }
            if rest.len() > LINE_BYTES_MAX {
                return Err(HttpError::Line.into());
            }
        }
        if status.is_success() && !rest.is_empty() {
            return Err(HttpError::Line.into());
        }
        Ok((status, rest.into()))
    })
    .await
}

async fn exchange<S, T, E: From<HttpError>>(
    stream: S,
    question: Question<'_>,
    read: impl AsyncFnOnce(StatusCode, Incoming) -> Result<T, E>,
) -> Result<T, E>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(HttpError::Connection)?;
    let request = Request::builder()
        .method(question.method)
        .uri(question.path)
        .header(HOST, "syncd")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(question.body))
        .map_err(HttpError::Request)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(HttpError::Connection)?;
        read(response.status(), response.into_body()).await
    };
    tokio::pin!(connection, answer);
    // The connection drives both directions; it may end before the answer was taken out.
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended.map_err(HttpError::Connection)?;
            answer.await
        }
    }
}
