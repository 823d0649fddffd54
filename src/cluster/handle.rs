//! What the rest of the daemon holds of this room.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{oneshot, watch};

use crate::cluster::confirm;
use crate::cluster::orders;
use crate::cluster::record::{self, Kind};
use crate::cluster::renew::{self, RENEWAL_MAX};
use crate::cluster::service::Service;
use crate::cluster::shared::Shared;
use crate::cluster::types::{Command, Response};
use crate::model::{
    ClusterId, ClusterState, Commit, CommitOutcome, Coordinator, Epoch, Instance, Lease, LetThrough, NodeId,
    Order, OrderError, OrderOutcome, Standing, UnknownOutcome,
};
use crate::rpc::{self, CONTROL_BYTES_MAX, Me, RAFT_BYTES_MAX};
use crate::wire::proto::CommitRequest;
use crate::wire::proto::coordination_server::CoordinationServer;
use crate::wire::proto::raft_server::RaftServer;

/// How long a commit waits for its outcome.
const COMMIT_MAX: Duration = Duration::from_secs(5);
/// How long the raft core may take to show that it lives.
const ALIVE_MAX: Duration = Duration::from_secs(2);

/// The cluster as this node takes part in it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cluster(pub(super) Arc<Shared>);

/// Numbers for `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterMetrics {
    /// The log's term.
    pub term: u64,
    /// Changes of leader that this process saw.
    pub elections: u64,
    /// The leader that this node follows.
    pub leader: Option<NodeId>,
}

impl Cluster {
    /// The server of the log's messages.
    #[must_use]
    pub fn raft_service(&self) -> RaftServer<impl crate::wire::proto::raft_server::Raft + use<>> {
        RaftServer::new(Service(Arc::clone(&self.0)))
            .max_decoding_message_size(RAFT_BYTES_MAX)
            .max_encoding_message_size(RAFT_BYTES_MAX)
    }

    /// The server of formation and of the leader's calls.
    #[must_use]
    pub fn coordination_service(
        &self,
    ) -> CoordinationServer<impl crate::wire::proto::coordination_server::Coordination + use<>> {
        CoordinationServer::new(Service(Arc::clone(&self.0)))
            .max_decoding_message_size(CONTROL_BYTES_MAX)
            .max_encoding_message_size(CONTROL_BYTES_MAX)
    }

    /// Which node of which cluster this is; none before it belongs to one.
    #[must_use]
    pub fn identity(&self) -> Option<Me> {
        self.0.own.borrow().as_ref().map(|own| Me { cluster: own.cluster, node: own.node })
    }

    /// The cluster that this very node was recovered from, and the one that it carries on; none elsewhere.
    #[must_use]
    pub fn recovered(&self) -> Option<(ClusterId, ClusterId)> {
        let own = self.0.own.borrow();
        let record = own.as_ref()?.record.as_ref()?;
        Some((*record.succeeds.last()?, record.cluster))
    }

    /// What this data folder drew once: tells it from a lost one of the same node.
    #[must_use]
    pub fn incarnation(&self) -> [u8; 16] {
        *self.0.incarnation.borrow()
    }

    /// Which life of this node this is, but for the content it holds; none before it belongs to a cluster.
    #[must_use]
    pub fn instance(&self) -> Option<Instance> {
        let (process, starts) = (self.0.process, self.0.starts);
        let applied = self.0.state.borrow().as_ref().map_or(0, |state| state.applied_index);
        self.0.node().map(|node| Instance { node, process, starts, applied, holds: None })
    }

    /// Whether the log's core answers; true while it need not run yet. For the watchdog.
    pub async fn core_alive(&self) -> bool {
        let Some(raft) = self.0.raft() else { return true };
        matches!(tokio::time::timeout(ALIVE_MAX, raft.with_raft_state(|_| ())).await, Ok(Ok(())))
    }

    /// Numbers for `/metrics`.
    #[must_use]
    pub fn metrics(&self) -> ClusterMetrics {
        let elections = self.0.elections.load(Ordering::Relaxed);
        let Some(raft) = self.0.raft() else { return ClusterMetrics::default() };
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        ClusterMetrics { term: metrics.current_term, elections, leader: metrics.current_leader }
    }

    /// Gives this node's office up: from the call on it never uses a lease of `epoch` again. True when the leader
    /// knows, and need not wait for the lease to end; else it waits, and takes over no less surely. Nothing is done
    /// when this node is not in office in that very epoch: another one was never to be given up.
    pub async fn let_go(&self, epoch: Epoch) -> bool {
        let shared = &self.0;
        let appointment = shared.state.borrow().as_ref().and_then(|state| state.appointment.clone());
        let (Some(appointment), Some(me)) = (appointment, shared.node()) else { return false };
        if (appointment.epoch, appointment.manager) != (epoch, me) {
            return false;
        }
        tracing::info!(epoch, "this node lets go of its office");
        shared.released.send_replace(epoch);
        renew::say_let_go(shared, me, epoch).await
    }
}

/// Appends an entry at this node, if it leads and has applied an entry of its own.
///
/// # Errors
/// Why the outcome is not known.
pub(super) async fn propose(shared: &Shared, command: Command, limit: Duration) -> Result<Response, String> {
    if shared.serving.borrow().is_none() {
        return Err("this node does not lead".to_owned());
    }
    let raft = shared.raft().ok_or_else(|| "the log does not run yet".to_owned())?;
    match tokio::time::timeout(limit, raft.client_write(command)).await {
        Ok(Ok(written)) => Ok(written.data),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no majority stored it within {limit:?}")),
    }
}

/// Has the leader append a generation, and says what became of it.
async fn offer(shared: &Shared, command: Command) -> Result<CommitOutcome, UnknownOutcome> {
    let unknown = |reason: String| UnknownOutcome { reason };
    let Some((leader, node)) = shared.leader() else {
        return Err(unknown("no leader is heard".to_owned()));
    };
    if Some(leader) == shared.node() {
        return match propose(shared, command, COMMIT_MAX).await {
            Ok(Response::Commit(outcome)) => Ok(outcome),
            Ok(other) => Err(unknown(format!("the log answered {other:?}"))),
            Err(reason) => Err(unknown(reason)),
        };
    }
    let command = record::encode(Kind::Command, &command).map_err(|error| unknown(error.to_string()))?;
    let mut client =
        shared.peers.coordination(Some(leader), &node.address).map_err(|error| unknown(error.to_string()))?;
    let asked = client.commit(CommitRequest { command: command.into() });
    let reply = rpc::within(COMMIT_MAX, asked).await.map_err(|status| unknown(status.to_string()))?;
    if reply.outcome.is_empty() {
        return Err(unknown(format!("{} did not say", node.name)));
    }
    record::decode(Kind::Outcome, &reply.outcome).map_err(|error| unknown(error.to_string()))
}

impl Coordinator for Cluster {
    fn state(&self) -> watch::Receiver<Option<Arc<ClusterState>>> {
        self.0.state.subscribe()
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.0.standing.subscribe()
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<CommitOutcome, UnknownOutcome>> {
        offer(&self.0, Command::Commit(commit)).boxed()
    }

    fn commit_approved(
        &self,
        commit: Commit,
        lets_through: LetThrough,
    ) -> BoxFuture<'_, Result<CommitOutcome, UnknownOutcome>> {
        offer(&self.0, Command::Approved { commit, lets_through }).boxed()
    }

    fn confirm(&self) -> BoxFuture<'_, Option<Arc<ClusterState>>> {
        confirm::confirm(&self.0).boxed()
    }

    fn renew(&self) -> BoxFuture<'_, Option<Lease>> {
        async move {
            let (asker, answer) = oneshot::channel();
            self.0.renewals.try_send(asker).ok()?;
            tokio::time::timeout(RENEWAL_MAX, answer).await.ok()?.ok().flatten()
        }
        .boxed()
    }

    fn order(&self, order: Order) -> BoxFuture<'_, Result<OrderOutcome, OrderError>> {
        orders::ask(&self.0, order).boxed()
    }
}
