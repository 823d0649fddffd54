//! Channels to peers, and the server that peers call.
//!
//! Owns connections, their limits, encryption, and the check of who calls whom: every call but Hello, Form, Present and
//! Join names the cluster, the caller and the node it is meant for, and a call that names another cluster or another node is
//! refused before its message is looked at. Everything a peer controls has a limit here: handshake time, connections,
//! streams, header and message sizes, time. Leaves the meaning of the calls to the features.

mod check;
mod error;
mod guard;
mod identity;
mod limits;
mod patience;
mod peers;
mod serve;
#[cfg(test)]
mod tests;
mod tls;
mod upload;

pub use check::Caller;
pub use error::RpcError;
pub use identity::{Identity, Me};
pub use limits::{CONTROL_BYTES_MAX, PARCEL_BYTES_MAX, RAFT_BYTES_MAX};
pub use patience::{SLOW, send_within};
pub use peers::{Lane, Link, Peers, within};
pub use serve::serve;
pub use tls::Tls;
pub use upload::Upload;
