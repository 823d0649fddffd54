//! Who belongs to the cluster, who is manager, and what is committed: the state that the log builds on every node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Approval, Digest, Epoch, LetThrough, OrderId, OrderOutcome, Place, Refusal};

/// A node's internal id. Never used again, also not for the same host.
pub type NodeId = u64;

/// Tells one cluster from every other; drawn when it forms.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What a node may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Votes, and may be manager.
    Candidate,
    /// Receives; neither votes nor manages.
    Worker,
    /// Votes and keeps the store; has no artifact folders.
    Witness,
}

impl Role {
    /// Whether nodes of this role vote.
    #[must_use]
    pub fn votes(self) -> bool {
        !matches!(self, Self::Worker)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Candidate => "candidate",
            Self::Worker => "worker",
            Self::Witness => "witness",
        })
    }
}

impl std::str::FromStr for Role {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "candidate" => Ok(Self::Candidate),
            "worker" => Ok(Self::Worker),
            "witness" => Ok(Self::Witness),
            _ => Err(()),
        }
    }
}

/// One member as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The name from the configuration.
    pub name: String,
    /// Where its peers reach it, `host:port`.
    pub address: String,
    /// Its role.
    pub role: Role,
    /// Drawn by the node once; a repeated request for admission shows the same one.
    pub incarnation: [u8; 16],
}

/// What a listed node held when the cluster formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstContent {
    /// The digest of all its roots.
    pub digest: Digest,
    /// How many artifacts they held.
    pub files: u64,
}

/// Where the first generation comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seed {
    /// No candidate had content: whoever is manager.
    Anyone,
    /// These candidates hold one and the same content.
    OneOf(BTreeSet<NodeId>),
    /// Candidates hold different content; a person must choose.
    Conflict(BTreeMap<NodeId, FirstContent>),
}

/// The entry of the log that made a node manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appointment {
    /// This appointment's epoch: its log index.
    pub epoch: Epoch,
    /// The epoch before it; 0 when this is the first.
    pub replaced: Epoch,
    /// The manager.
    pub manager: NodeId,
    /// How long one renewal lasts.
    pub lease: Duration,
}

/// The newest committed generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its number.
    pub generation: u64,
    /// The digest of all roots.
    pub digest: Digest,
    /// The epoch that committed it.
    pub epoch: Epoch,
    /// The node whose folder it was read from.
    pub author: NodeId,
    /// When the manager proposed the commit, by its clock, in milliseconds since 1970.
    pub committed_unix_ms: i64,
    /// The voters that held all of it when it was committed.
    pub holders: BTreeSet<NodeId>,
}

/// Who paused the cluster, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// The node on which it was ordered.
    pub by: String,
    /// By that node's clock, in milliseconds since 1970.
    pub unix_ms: i64,
}

/// A planned change of manager that was ordered and is not done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switchover {
    /// The epoch whose manager gives its office up.
    pub ends: Epoch,
    /// Who is to take over.
    pub to: NodeId,
}

/// Files that a person ordered to be loaded again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redeploy {
    /// Counts these orders, from 1.
    pub number: u64,
    /// When it was ordered, by that node's clock, in milliseconds since 1970.
    pub unix_ms: i64,
    /// Which ones.
    pub places: Vec<Place>,
}

/// The state that the log builds: the same on every node that applied the same entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// The cluster.
    pub cluster: ClusterId,
    /// The index of the last applied log entry.
    pub applied_index: u64,
    /// Everyone that was admitted.
    pub members: BTreeMap<NodeId, Member>,
    /// Those whose votes count now; while they change, those before the change.
    pub voters: BTreeSet<NodeId>,
    /// The voters after the change that is under way: until it is done a generation needs a majority of both.
    pub changing: Option<BTreeSet<NodeId>>,
    /// Where the first generation comes from.
    pub seed: Seed,
    /// The manager in office.
    pub appointment: Option<Appointment>,
    /// The newest committed generation; none before the first.
    pub head: Option<Head>,
    /// While it is paused, nothing is published, applied or reverted.
    pub paused: Option<Pause>,
    /// Until the next appointment.
    pub switchover: Option<Switchover>,
    /// What became of the newest orders, the oldest first; a bounded number of them.
    pub orders: VecDeque<(OrderId, Result<OrderOutcome, Refusal>)>,
    /// The newest orders to load files again, the oldest first; a bounded number of them, for nodes that were away.
    pub redeploys: VecDeque<Redeploy>,
    /// The clusters that this one succeeded; empty unless it was recovered from a lost majority.
    pub lineage: Lineage,
    /// What people agreed to and was not let through yet, the oldest first; a bounded number.
    pub approvals: VecDeque<Approval>,
    /// The newest generations that let an approved list through, the oldest first; a bounded number.
    pub let_through: VecDeque<LetThrough>,
    /// What was shown of each founder when a person chose the first content: it may go to quarantine there.
    pub outvoted: BTreeMap<NodeId, FirstContent>,
}

/// What a recovered cluster knows of those before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The clusters that this one succeeds, the oldest first.
    pub succeeds: Vec<ClusterId>,
    /// Generations up to this number may be known somewhere: none of them is made again.
    pub used_generation: u64,
    /// Members of the cluster before it that did not come back yet, by name.
    pub awaited: BTreeMap<String, Awaited>,
}

/// A host that was a member of the cluster before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    /// Where its peers reached it, `host:port`.
    pub address: String,
    /// Its role there.
    pub role: Role,
}

impl ClusterState {
    /// A cluster that was just founded: without a manager, without a head.
    #[must_use]
    pub fn new(
        cluster: ClusterId,
        members: BTreeMap<NodeId, Member>,
        voters: BTreeSet<NodeId>,
        seed: Seed,
    ) -> Self {
        Self {
            cluster,
            applied_index: 0,
            members,
            voters,
            changing: None,
            seed,
            appointment: None,
            head: None,
            paused: None,
            switchover: None,
            orders: VecDeque::new(),
            redeploys: VecDeque::new(),
            lineage: Lineage::default(),
            approvals: VecDeque::new(),
            let_through: VecDeque::new(),
            outvoted: BTreeMap::new(),
        }
    }

    /// The approval of the list with this digest on `node`; none when nobody agreed to it, or it was let through.
    #[must_use]
    pub fn approval(&self, node: NodeId, list: &Digest) -> Option<&Approval> {
        self.approvals.iter().find(|approval| approval.node == node && approval.list == *list)
    }

    /// Whether a person agreed to all that the generation changed.
    #[must_use]
    pub fn was_approved(&self, generation: u64) -> bool {
        self.let_through.iter().any(|known| known.generation == generation)
    }

    /// What became of an order, if it is among the newest.
    #[must_use]
    pub fn outcome_of(&self, order: OrderId) -> Option<&Result<OrderOutcome, Refusal>> {
        self.orders.iter().find(|(id, _)| *id == order).map(|(_, outcome)| outcome)
    }

    /// The id of the member called `name`.
    #[must_use]
    pub fn id_of(&self, name: &str) -> Option<NodeId> {
        self.members.iter().find(|(_, member)| member.name == name).map(|(id, _)| *id)
    }

    /// The current epoch; 0 before the first appointment.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.appointment.as_ref().map_or(0, |appointment| appointment.epoch)
    }

    /// The epoch in which `node` is manager and is not ordered to give it up; none if there is none.
    #[must_use]
    pub fn office_of(&self, node: NodeId) -> Option<Epoch> {
        let current = self.appointment.as_ref().filter(|current| current.manager == node)?;
        let ends = self.switchover.is_some_and(|switchover| switchover.ends == current.epoch);
        (!ends).then_some(current.epoch)
    }

    /// The number of the head; 0 before the first.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.generation)
    }

    /// The number of the next generation; none when there is none left.
    #[must_use]
    pub fn next_generation(&self) -> Option<u64> {
        self.generation().max(self.lineage.used_generation).checked_add(1)
    }

    /// Whether `nodes` hold a majority of the voters, and of those to come while the voters change.
    #[must_use]
    pub fn is_majority(&self, nodes: &BTreeSet<NodeId>) -> bool {
        let changing = self.changing.as_ref().is_none_or(|after| is_majority_of(after, nodes));
        changing && is_majority_of(&self.voters, nodes)
    }
}

/// Whether `nodes` hold more than half of `voters`.
#[must_use]
pub fn is_majority_of(voters: &BTreeSet<NodeId>, nodes: &BTreeSet<NodeId>) -> bool {
    2 * voters.intersection(nodes).count() > voters.len()
}
