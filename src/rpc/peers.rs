//! Channels to peers: made without dialling, kept per node, address and lane.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::model::NodeId;
use crate::rpc::identity::Introduce;
use crate::rpc::limits::{
    CALL, CHANNELS_MAX, CONNECT, CONNECTION_WINDOW, CONTROL_BYTES_MAX, HEADER_BYTES_MAX, KEEPALIVE_AFTER,
    KEEPALIVE_AFTER_SHORT, KEEPALIVE_WAIT, KEEPALIVE_WAIT_SHORT, PARCEL_BYTES_MAX, RAFT_BYTES_MAX,
    STREAM_WINDOW,
};
use crate::rpc::{Identity, RpcError, Tls};
use crate::wire::proto::artifacts_client::ArtifactsClient;
use crate::wire::proto::coordination_client::CoordinationClient;
use crate::wire::proto::inspection_client::InspectionClient;
use crate::wire::proto::raft_client::RaftClient;

/// A channel that says in each call who calls whom.
pub type Link = InterceptedService<Channel, Introduce>;

/// Each lane has a TCP connection of its own, so that bulk data never stands before a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Votes, log entries, heartbeats.
    Raft,
    /// Renewals, commits, reports.
    Control,
    /// Content.
    Bulk,
}

type Key = (Option<NodeId>, String, Lane);

/// The channels of this node. Cheap to clone; all clones share the connections.
#[derive(Clone, Debug)]
pub struct Peers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: Identity,
    tls: Option<Tls>,
    channels: Mutex<HashMap<Key, Channel>>,
}

impl Peers {
    /// Without any connection yet.
    #[must_use]
    pub fn new(identity: Identity, tls: Option<Tls>) -> Self {
        Self(Arc::new(Inner { identity, tls, channels: Mutex::new(HashMap::new()) }))
    }

    /// Who this node is in the calls that it makes.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Calls of the log's own transport.
    ///
    /// # Errors
    /// When `address` is none.
    pub fn raft(&self, node: NodeId, address: &str) -> Result<RaftClient<Link>, RpcError> {
        let link = self.link(Some(node), address, Lane::Raft)?;
        Ok(RaftClient::new(link)
            .max_decoding_message_size(RAFT_BYTES_MAX)
            .max_encoding_message_size(RAFT_BYTES_MAX))
    }

    /// Calls of formation and of the leader; `node` is none only while the peer's id is not known.
    ///
    /// # Errors
    /// When `address` is none.
    pub fn coordination(
        &self,
        node: Option<NodeId>,
        address: &str,
    ) -> Result<CoordinationClient<Link>, RpcError> {
        let link = self.link(node, address, Lane::Control)?;
        Ok(CoordinationClient::new(link)
            .max_decoding_message_size(CONTROL_BYTES_MAX)
            .max_encoding_message_size(CONTROL_BYTES_MAX))
    }

    /// Content on [`Lane::Bulk`], reports on [`Lane::Control`].
    ///
    /// # Errors
    /// When `address` is none.
    pub fn artifacts(
        &self,
        node: NodeId,
        address: &str,
        lane: Lane,
    ) -> Result<ArtifactsClient<Link>, RpcError> {
        let link = self.link(Some(node), address, lane)?;
        Ok(ArtifactsClient::new(link)
            .max_decoding_message_size(PARCEL_BYTES_MAX)
            .max_encoding_message_size(PARCEL_BYTES_MAX))
    }

    /// Questions of operators, and contents for a damaged store.
    ///
    /// # Errors
    /// When `address` is none.
    pub fn inspection(&self, node: NodeId, address: &str) -> Result<InspectionClient<Link>, RpcError> {
        let link = self.link(Some(node), address, Lane::Bulk)?;
        Ok(InspectionClient::new(link)
            .max_decoding_message_size(PARCEL_BYTES_MAX)
            .max_encoding_message_size(PARCEL_BYTES_MAX))
    }

    fn link(&self, node: Option<NodeId>, address: &str, lane: Lane) -> Result<Link, RpcError> {
        let introduce = Introduce::new(self.0.identity.clone(), node);
        let key = (node, address.to_owned(), lane);
        let mut channels = self.0.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&key) {
            return Ok(InterceptedService::new(channel.clone(), introduce));
        }
        let channel = self.endpoint(address, lane)?.connect_lazy();
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        channels.insert(key, channel.clone());
        Ok(InterceptedService::new(channel, introduce))
    }

    fn endpoint(&self, address: &str, lane: Lane) -> Result<Endpoint, RpcError> {
        let scheme = if self.0.tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(|source| RpcError::Address { address: address.to_owned(), source })?;
        let (after, wait) = match lane {
            Lane::Raft | Lane::Control => (KEEPALIVE_AFTER_SHORT, KEEPALIVE_WAIT_SHORT),
            Lane::Bulk => (KEEPALIVE_AFTER, KEEPALIVE_WAIT),
        };
        let endpoint = endpoint
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(KEEPALIVE_AFTER))
            .http2_keep_alive_interval(after)
            .keep_alive_timeout(wait)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_header_list_size(HEADER_BYTES_MAX);
        match &self.0.tls {
            Some(tls) => endpoint.tls_config(tls.client()).map_err(|source| RpcError::Tls { source }),
            None => Ok(endpoint),
        }
    }
}

/// Waits for a call until its deadline, connecting included.
///
/// # Errors
/// What the call answered, or `DEADLINE_EXCEEDED`.
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {limit:?}"))),
    }
}
