//! What can go wrong with connections as such; what a call answers is a [`tonic::Status`].

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// An address that is none.
    #[error("use {address:?} as the address of a peer (expected host:port)")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        #[source]
        source: tonic::transport::Error,
    },
    /// Keys or certificates that cannot be used.
    #[error("set up TLS with the given certificate, key and authority")]
    Tls {
        /// What is wrong with them.
        #[source]
        source: tonic::transport::Error,
    },
    /// The server ended.
    #[error("serve peers on {address}")]
    Serve {
        /// Where it listened.
        address: String,
        /// Why it ended.
        #[source]
        source: tonic::transport::Error,
    },
    /// The listener is unusable.
    #[error("read the address of the listener")]
    Listener {
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
