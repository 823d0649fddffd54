//! Mutual TLS: both sides show a certificate of the cluster's own authority.

use tonic::transport::{Certificate, ClientTlsConfig, Identity as Pair, ServerTlsConfig};

use crate::rpc::limits::HANDSHAKE;

/// What a node needs to prove who it is and to check its peers, as PEM.
#[derive(Clone)]
pub struct Tls {
    /// The authorities whose certificates are accepted.
    pub ca: Vec<u8>,
    /// This node's certificate and those between it and the authority.
    pub cert: Vec<u8>,
    /// The key of the certificate.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    pub(super) fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(Pair::from_pem(&self.cert, &self.key))
            .client_ca_root(Certificate::from_pem(&self.ca))
            .timeout(HANDSHAKE)
    }

    pub(super) fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(Pair::from_pem(&self.cert, &self.key))
            .ca_certificate(Certificate::from_pem(&self.ca))
            .timeout(HANDSHAKE)
    }
}
