//! The sockets of the daemon: all bound before anything is served, each failure with its key and remedy.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use crate::daemon::config::Node;

/// A socket that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Taken, not of this host, or not allowed.
    #[error("can't listen on {address} ({key}): {source}; remedy: {}", tcp_remedy(.source))]
    Tcp {
        /// The key of the configuration.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Another daemon serves there.
    #[error("another daemon answers on {path} (node.socket); remedy: stop it, or name another socket", path = .0.display())]
    SocketTaken(PathBuf),
    /// The folder is missing or not writable, or something else lies there.
    #[error("can't listen on {path} (node.socket): {source}; remedy: make its folder, owned by the daemon's user", path = .path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn tcp_remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => "stop the other program (`ss -ltnp` names it), or choose another port",
        ErrorKind::AddrNotAvailable => "name an address of this host",
        ErrorKind::PermissionDenied => "choose a port of 1024 or above",
        _ => "see the cause",
    }
}

/// All sockets of one daemon, bound and not served yet.
pub struct Listeners {
    /// gRPC between nodes.
    pub peers: TcpListener,
    /// HTTP for everyone.
    pub http: TcpListener,
    /// HTTP for the command line on this host.
    pub control: UnixListener,
}

impl Listeners {
    /// Binds all of them.
    ///
    /// # Errors
    /// [`ListenError`] for the first that can't be had; those bound before it are closed again.
    pub async fn bind(node: &Node) -> Result<Self, ListenError> {
        Ok(Self {
            peers: tcp("node.listen", node.listen).await?,
            http: tcp("node.http", node.http).await?,
            control: unix(&node.socket)?,
        })
    }
}

async fn tcp(key: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError::Tcp { key, address, source })
}

fn unix(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |source| ListenError::Socket { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    match UnixStream::connect(path) {
        Ok(_) => return Err(ListenError::SocketTaken(path.to_owned())),
        // Left behind by a daemon that was killed.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)?
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}
