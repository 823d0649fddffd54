//! Carries the log's own messages to peers.
//!
//! A client is made without dialling; each call ends by its own time limit. What cannot be reached is reported as
//! unreachable, so that openraft waits a little before it tries again.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, RPCTypes};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::cluster::record::{self, Kind};
use crate::cluster::types::{PeerNode, TypeConfig};
use crate::model::{ClusterState, NodeId};
use crate::rpc::{self, Link, Peers, RpcError};
use crate::wire::proto::RaftMessage;
use crate::wire::proto::raft_client::RaftClient;

type Client = RaftClient<Link>;
type Failure<E> = RPCError<NodeId, PeerNode, RaftError<NodeId, E>>;

/// A peer that cannot be reached is tried again after this.
const BACKOFF: Duration = Duration::from_millis(100);

/// Makes clients for peers.
#[derive(Clone, Debug)]
pub(super) struct Network {
    peers: Peers,
    me: NodeId,
    /// Where the members are: openraft's own membership keeps the address that a node had when it was added.
    state: watch::Receiver<Option<Arc<ClusterState>>>,
}

impl Network {
    pub(super) fn new(peers: Peers, me: NodeId, state: watch::Receiver<Option<Arc<ClusterState>>>) -> Self {
        Self { peers, me, state }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: NodeId, node: &PeerNode) -> Connection {
        Connection { network: self.clone(), target, address: node.address.clone() }
    }
}

/// One peer.
#[derive(Debug)]
pub(super) struct Connection {
    network: Network,
    target: NodeId,
    address: String,
}

/// The body of a message: a version and a checksum before it, like what is stored.
pub(super) fn pack<T: Serialize>(value: &T) -> Result<RaftMessage, record::RecordError> {
    record::encode(Kind::Message, value).map(|bytes| RaftMessage { payload: bytes.into() })
}

/// See [`pack`].
pub(super) fn unpack<T: DeserializeOwned>(message: &RaftMessage) -> Result<T, record::RecordError> {
    record::decode(Kind::Message, &message.payload)
}

impl Connection {
    fn client(&self) -> Result<Client, Unreachable> {
        let state = self.network.state.borrow().clone();
        let member = state.as_ref().and_then(|state| state.members.get(&self.target));
        let address = member.map_or(&self.address, |member| &member.address);
        let made: Result<Client, RpcError> = self.network.peers.raft(self.target, address);
        made.map_err(|error| Unreachable::new(&error))
    }

    fn failed<E: std::error::Error>(&self, status: &Status, action: RPCTypes, limit: Duration) -> Failure<E> {
        match status.code() {
            Code::DeadlineExceeded => RPCError::Timeout(Timeout {
                action,
                id: self.network.me,
                target: self.target,
                timeout: limit,
            }),
            // Nobody there, somebody who belongs elsewhere, or an answer that makes no sense: whatever it is, there is
            // no hurry to try again, and openraft waits only after this error.
            _ => RPCError::Unreachable(Unreachable::new(status)),
        }
    }

    fn unreadable<E: std::error::Error>(error: &record::RecordError) -> Failure<E> {
        RPCError::Unreachable(Unreachable::from(AnyError::error(format!("an unreadable message: {error}"))))
    }
}

impl RaftNetwork<TypeConfig> for Connection {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, Failure<openraft::error::Infallible>> {
        let message = pack(&request).map_err(|error| Self::unreadable(&error))?;
        let limit = option.hard_ttl();
        let answer = rpc::within(limit, self.client()?.append(message)).await;
        let answer = answer.map_err(|status| self.failed(&status, RPCTypes::AppendEntries, limit))?;
        unpack(&answer).map_err(|error| Self::unreadable(&error))
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, Failure<InstallSnapshotError>> {
        let message = pack(&request).map_err(|error| Self::unreadable(&error))?;
        let limit = option.hard_ttl();
        let answer = rpc::within(limit, self.client()?.snapshot(message)).await;
        let answer = answer.map_err(|status| self.failed(&status, RPCTypes::InstallSnapshot, limit))?;
        let answer: Result<_, InstallSnapshotError> =
            unpack(&answer).map_err(|error| Self::unreadable(&error))?;
        answer
            .map_err(|error| RPCError::RemoteError(RemoteError::new(self.target, RaftError::APIError(error))))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, Failure<openraft::error::Infallible>> {
        let message = pack(&request).map_err(|error| Self::unreadable(&error))?;
        let limit = option.hard_ttl();
        let answer = rpc::within(limit, self.client()?.vote(message)).await;
        let answer = answer.map_err(|status| self.failed(&status, RPCTypes::Vote, limit))?;
        unpack(&answer).map_err(|error| Self::unreadable(&error))
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}
