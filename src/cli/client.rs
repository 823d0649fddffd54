//! Asks the running daemon over its control socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::cli::exit::{Exit, Failure, chain};
use crate::cli::http::{self, HttpError, Question};
use crate::daemon::control::ControlError;

/// A daemon answers from memory; this is a hung one.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A content is read from a disk that may be busy.
const CONTENT_WITHIN: Duration = Duration::from_secs(20);
/// An order goes through the log, if need be after an election; the daemon itself gives up before this.
const ORDER_WITHIN: Duration = Duration::from_secs(20);
/// The longest silence in an answer that takes its time: a few signs of life that did not come.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// The daemon behind one socket.
pub(super) struct Client {
    socket: PathBuf,
}

/// Why the daemon gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("no daemon answers on {}: {source}; remedy: {}", .socket.display(), remedy(.source))]
    Connect { socket: PathBuf, source: std::io::Error },
    #[error("the daemon on {} did not answer: {}; remedy: see its log with `journalctl -u syncd`", .socket.display(), chain(.source))]
    Exchange { socket: PathBuf, source: HttpError },
    #[error("the daemon on {} answered {path} with {status}: {text}", .socket.display())]
    Status { socket: PathBuf, path: String, status: u16, text: String },
    #[error(transparent)]
    Order(ControlError),
    #[error("the daemon on {} answered {path} with something else ({source}); remedy: use the command of the daemon's own version", .socket.display())]
    Json { socket: PathBuf, path: String, source: serde_json::Error },
}

fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "run this as root or as a member of the socket's group",
        _ => {
            "start it with `systemctl start syncd` or `syncd run`, or name its socket with --socket PATH or its \
             configuration with --config FILE"
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Order(refused) if refused.critical => Exit::Critical,
            ClientError::Order(_) => Exit::Degraded,
            _ => Exit::NoDaemon,
        };
        Self::new(exit, error.to_string())
    }
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The answer to `path`, read and as it came.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<(T, Bytes), ClientError> {
        self.ask(Question::get(path), ANSWER_WITHIN).await
    }

    /// The answer to `path` as it came, whatever it is.
    pub(super) async fn bytes(&self, path: &str) -> Result<Bytes, ClientError> {
        let (status, body) = http::ask(self.connect().await?, Question::get(path), CONTENT_WITHIN)
            .await
            .map_err(|source| self.broken(source))?;
        if status.is_success() { Ok(body) } else { Err(self.refused(path, status, &body)) }
    }

    /// Orders something of the daemon and waits for what became of it.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        order: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = self.body(path, order)?;
        Ok(self.ask(Question::post(path, body), ORDER_WITHIN).await?.0)
    }

    /// Orders something of the daemon that takes its time, and hands each thing that it says to `take` as it comes.
    /// However long that is, the daemon says something now and then.
    pub(super) async fn follow<T: DeserializeOwned>(
        &self,
        path: &str,
        order: &impl Serialize,
        mut take: impl FnMut(T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let body = self.body(path, order)?;
        let line = |line: &[u8]| -> Result<(), Followed> {
            if let Ok(error) = serde_json::from_slice::<ControlError>(line) {
                return Err(Followed::Client(ClientError::Order(error)));
            }
            let value = serde_json::from_slice(line)
                .map_err(|source| Followed::Client(self.no_json(path, source)))?;
            take(value).map_err(Followed::Taker)
        };
        let stream = self.connect().await?;
        match http::follow(stream, Question::post(path, body), SILENCE_MAX, line).await {
            Ok((status, _)) if status.is_success() => Ok(()),
            Ok((status, body)) => Err(self.refused(path, status, &body).into()),
            Err(Followed::Http(source)) => Err(self.broken(source).into()),
            Err(Followed::Client(error)) => Err(error.into()),
            Err(Followed::Taker(failure)) => Err(failure),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        question: Question<'_>,
        limit: Duration,
    ) -> Result<(T, Bytes), ClientError> {
        let stream = self.connect().await?;
        let path = question.path;
        let (status, body) =
            http::ask(stream, question, limit).await.map_err(|source| self.broken(source))?;
        if !status.is_success() {
            return Err(self.refused(path, status, &body));
        }
        let value = serde_json::from_slice(&body).map_err(|source| self.no_json(path, source))?;
        Ok((value, body))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let stream = UnixStream::connect(&self.socket).await;
        stream.map_err(|source| ClientError::Connect { socket: self.socket.clone(), source })
    }

    fn body(&self, path: &str, order: &impl Serialize) -> Result<Bytes, ClientError> {
        serde_json::to_vec(order).map(Bytes::from).map_err(|source| self.no_json(path, source))
    }

    fn broken(&self, source: HttpError) -> ClientError {
        ClientError::Exchange { socket: self.socket.clone(), source }
    }

    fn refused(&self, path: &str, status: StatusCode, body: &[u8]) -> ClientError {
        if let Ok(error) = serde_json::from_slice(body) {
            return ClientError::Order(error);
        }
        let text = String::from_utf8_lossy(body).trim().to_owned();
        ClientError::Status {
            socket: self.socket.clone(),
            path: path.to_owned(),
            status: status.as_u16(),
            text,
        }
    }

    fn no_json(&self, path: &str, source: serde_json::Error) -> ClientError {
        ClientError::Json { socket: self.socket.clone(), path: path.to_owned(), source }
    }
}

/// How following ended early.
enum Followed {
    Http(HttpError),
    Client(ClientError),
    Taker(Failure),
}

impl From<HttpError> for Followed {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}
