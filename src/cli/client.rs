//! Asks the running daemon over its control socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::cli::exit::{Exit, Failure, chain};
use crate::cli::http::{self, HttpError};

/// A daemon answers from memory; this is a hung one.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

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
        Self::new(Exit::NoDaemon, error.to_string())
    }
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The answer to `path`, read and as it came.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<(T, Bytes), ClientError> {
        let socket = || self.socket.clone();
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { socket: socket(), source })?;
        let (status, body) = http::get(stream, path, ANSWER_WITHIN)
            .await
            .map_err(|source| ClientError::Exchange { socket: socket(), source })?;
        let path = path.to_owned();
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body).trim().to_owned();
            return Err(ClientError::Status { socket: socket(), path, status: status.as_u16(), text });
        }
        let value = serde_json::from_slice(&body).map_err(|source| ClientError::Json {
            socket: socket(),
            path,
            source,
        })?;
        Ok((value, body))
    }
}
