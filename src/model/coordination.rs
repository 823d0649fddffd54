//! What the features need from whoever decides: the seam between them and consensus.
//!
//! The contract, for every implementation: [`Coordinator::state`] only ever moves forward along one history that all
//! nodes share; a commit is in that history or it is not, and an outcome that is not known is never reported as
//! either; a lease that is reported valid overlaps no lease of another manager.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::model::{
    BootTime, ClusterId, ClusterState, Digest, Epoch, LetThrough, NodeId, Order, OrderError, OrderOutcome,
    Problem,
};

/// A generation that is held by a majority, offered to the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The manager's epoch.
    pub epoch: Epoch,
    /// The head it was made from; 0 for the first generation.
    pub parent: u64,
    /// Its number: one more than the parent's, or than the greatest one used before the cluster was recovered.
    pub generation: u64,
    /// The digest of all roots.
    pub digest: Digest,
    /// The manager.
    pub author: NodeId,
    /// The manager's clock, in milliseconds since 1970.
    pub committed_unix_ms: i64,
    /// The nodes that said they hold all of it durably.
    pub holders: BTreeSet<NodeId>,
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommitOutcome {
    /// It is the head now.
    Committed,
    /// It will never be: why.
    Refused(CommitRefusal),
}

/// Why the state machine did not take a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CommitRefusal {
    /// Its epoch is not the current one.
    #[error("another manager is in office")]
    OldEpoch,
    /// Its parent is not the head.
    #[error("its parent is not the head")]
    NotOnHead,
    /// Its holders are no majority of the voters in force.
    #[error("its holders are no majority of the voters")]
    NoMajority,
    /// The cluster is paused.
    #[error("the cluster is paused")]
    Paused,
    /// It lets a list through that nobody agreed to, or that was let through already.
    #[error("nobody agreed to the list that it lets through, or that happened already")]
    NotApproved,
}

/// A commit whose outcome is not known. It may be in the log or come into it: read before anything is built on its parent.
#[derive(Debug, thiserror::Error)]
#[error("the outcome of the commit is not known: {reason}")]
pub struct UnknownOutcome {
    /// What was seen.
    pub reason: String,
}

/// A manager's lease, as one renewal gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The epoch it belongs to.
    pub epoch: Epoch,
    /// When the first renewal of this unbroken lease was sent.
    pub start: BootTime,
    /// When it ends unless it is renewed.
    pub end: BootTime,
}

/// What this process knows of the election besides the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The leader that this node follows, itself included; none while none is heard.
    pub leader: Option<NodeId>,
    /// This node's id; none before it belongs to a cluster.
    pub node: Option<NodeId>,
    /// True once a leader heard by this process confirmed the log by a quorum round and this node's own applied log
    /// has reached it; false again while no leader is heard. Files are touched only while it is true.
    pub confirmed: bool,
    /// What formation or admission waits for, in a sentence with a remedy; none when there is nothing to wait for.
    pub waiting_for: Option<String>,
    /// Who of the voters answers, once no leader with a quorum was heard for some seconds.
    pub lost_quorum: Option<LostQuorum>,
    /// A cluster that was recovered in the place of this node's own.
    pub successor: Option<Successor>,
    /// Nodes of a cluster that this node's own succeeded, which still has a leader and publishes.
    pub predecessors: Vec<String>,
    /// Problems of this node's membership.
    pub notices: Vec<Problem>,
}

/// The voters while no leader with a quorum is heard, as this node reaches them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostQuorum {
    /// For how long no leader is heard.
    pub seconds: u64,
    /// How many voters there are.
    pub voters: usize,
    /// Those that answer as members of this cluster, this node included, by name.
    pub answering: Vec<String>,
    /// The others, by name.
    pub silent: Vec<String>,
    /// Whose log is the newest among those that answer.
    pub newest: String,
}

/// A cluster that took the place of this node's, or that both took the place of the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// Its id.
    pub cluster: ClusterId,
    /// Nodes that belong to it, by name.
    pub seen_on: Vec<String>,
    /// How many clusters it succeeds: the newest one succeeds the most.
    pub succeeds: usize,
    /// Whether it succeeded the same cluster as this node's, which was recovered twice then.
    pub is_sibling: bool,
}

/// The one who orders commits and appoints managers.
pub trait Coordinator: Send + Sync + 'static {
    /// The state that this node's own applied log has built; none before it belongs to a cluster.
    fn state(&self) -> watch::Receiver<Option<Arc<ClusterState>>>;

    /// What this process knows of the election.
    fn standing(&self) -> watch::Receiver<Standing>;

    /// Offers a commit to the log and waits until its outcome is known, at most a few seconds.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the outcome unknown.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<CommitOutcome, UnknownOutcome>>;

    /// As [`Coordinator::commit`], for a generation that lets an approved list through: the log takes each approval
    /// once.
    fn commit_approved(
        &self,
        commit: Commit,
        lets_through: LetThrough,
    ) -> BoxFuture<'_, Result<CommitOutcome, UnknownOutcome>>;

    /// Reads the newest state by a quorum round made after the call and waits until this node applied it; none when
    /// no leader answered in time.
    fn confirm(&self) -> BoxFuture<'_, Option<Arc<ClusterState>>>;

    /// Renews this node's lease by a round trip made for this call, within 300 ms; none when this node is not the
    /// manager or no renewal was granted.
    fn renew(&self) -> BoxFuture<'_, Option<Lease>>;

    /// Has the leader put an order into the log and waits until its outcome is known, at most some seconds. It is
    /// obeyed once, however often it had to be repeated for that.
    ///
    /// # Errors
    /// [`OrderError::Refused`] when it has and will have no effect; [`OrderError::Unknown`] when it may have.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the outcome unknown.
    fn order(&self, order: Order) -> BoxFuture<'_, Result<OrderOutcome, OrderError>>;
}
