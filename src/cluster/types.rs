//! What the log carries, and the types that openraft is built for here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{
    ClusterId, Commit, CommitOutcome, Epoch, FirstContent, LetThrough, Member, NodeId, Order, OrderId,
    OrderOutcome, Refusal, Role, Seed,
};

openraft::declare_raft_types!(
    /// openraft, as this project uses it.
    pub TypeConfig:
        D = Command,
        R = Response,
        NodeId = NodeId,
        Node = PeerNode,
        SnapshotData = Cursor<Vec<u8>>,
);

pub(super) type Raft = openraft::Raft<TypeConfig>;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type LogId = openraft::LogId<NodeId>;
pub(super) type Vote = openraft::Vote<NodeId>;
pub(super) type StoredMembership = openraft::StoredMembership<NodeId, PeerNode>;
pub(super) type RaftMetrics = openraft::RaftMetrics<NodeId, PeerNode>;

/// Ids of founders are below this; an admitted member's id is this plus the index of its entry, so that none is ever
/// used twice.
pub(super) const FOUNDERS_MAX: u64 = 64;

/// Members at most; each holds a place in every snapshot.
pub(super) const MEMBERS_MAX: usize = 1000;

/// How the log's transport finds a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerNode {
    /// The name from the configuration.
    pub name: String,
    /// `host:port`.
    pub address: String,
}

/// The election's times: taken into the log when the cluster forms, so that all nodes have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// How often a leader says that it lives.
    pub heartbeat: Duration,
    /// How long a voter waits for that, up to twice this.
    pub timeout: Duration,
    /// How long one renewal of the manager lasts.
    pub lease: Duration,
}

/// One founder: what it is, and what it held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    /// The node.
    pub member: Member,
    /// What its roots held when the record was written.
    pub content: FirstContent,
}

/// What the founders agree on before there is a log: stored durably by each of them before the first is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormationRecord {
    /// The new cluster, drawn at random.
    pub cluster: ClusterId,
    /// Its name from the configuration.
    pub name: String,
    /// The one that wrote this, and alone initializes the log.
    pub writer: NodeId,
    /// All listed voters.
    pub founders: BTreeMap<NodeId, Founder>,
    /// The election's times.
    pub timing: Timing,
    /// The clusters that this one succeeds, the oldest first; empty unless it was recovered.
    pub succeeds: Vec<ClusterId>,
}

impl FormationRecord {
    /// The id of the founder called `name`.
    pub(super) fn id_of(&self, name: &str) -> Option<NodeId> {
        self.founders.iter().find(|(_, founder)| founder.member.name == name).map(|(id, _)| *id)
    }

    /// Where the first generation comes from: an empty folder never wins over a full one.
    pub(super) fn seed(&self) -> Seed {
        let full: BTreeMap<NodeId, FirstContent> = self
            .founders
            .iter()
            .filter(|(_, founder)| founder.member.role == Role::Candidate && founder.content.files > 0)
            .map(|(id, founder)| (*id, founder.content))
            .collect();
        let digests: BTreeSet<_> = full.values().map(|content| content.digest).collect();
        match digests.len() {
            0 => Seed::Anyone,
            1 => Seed::OneOf(full.into_keys().collect()),
            _ => Seed::Conflict(full),
        }
    }

    /// Who votes, as the log's transport needs it.
    pub(super) fn voters(&self) -> BTreeMap<NodeId, PeerNode> {
        self.founders
            .iter()
            .map(|(id, founder)| {
                let Member { name, address, .. } = founder.member.clone();
                (*id, PeerNode { name, address })
            })
            .collect()
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first leader's first entry: who founded the cluster.
    Form(FormationRecord),
    /// A leader's own first entry in each of its terms.
    Lead {
        /// The leader.
        leader: NodeId,
        /// Tells this entry from one that an earlier process of the same node proposed.
        nonce: u64,
    },
    /// Makes a node manager; its index is the epoch.
    Appoint {
        /// The epoch that it ends; refused when that is not the current one.
        replaces: Epoch,
        /// The new manager.
        manager: NodeId,
        /// How long one renewal lasts.
        lease: Duration,
        /// The term whose leader decided it: refused in any other, whatever that leader knew of its own standing.
        term: u64,
    },
    /// A generation that a majority holds.
    Commit(Commit),
    /// A new member that does not vote.
    Admit {
        /// Its name from its configuration.
        name: String,
        /// Where its peers reach it.
        address: String,
        /// Its role.
        role: Role,
        /// Drawn by it once.
        incarnation: [u8; 16],
    },
    /// What a person orders.
    Order {
        /// The same for every repetition.
        id: OrderId,
        /// The name of the node on which it was ordered.
        by: String,
        /// When, by that node's clock, in milliseconds since 1970.
        unix_ms: i64,
        /// The order.
        order: Order,
    },
    /// The voters are about to change: from this entry on a generation needs a majority of those before and after.
    /// The change itself is an entry of openraft's own. With the voters in force it takes an announcement back.
    Change {
        /// The voters after it.
        to: BTreeSet<NodeId>,
        /// The head that the next field speaks of.
        generation: u64,
        /// Members that said they hold all of that head, besides those that the log names.
        holding: BTreeSet<NodeId>,
        /// The term whose leader decided it: refused in any other.
        term: u64,
    },
    /// A member that does not vote belongs to the cluster no more. Its id is never used again.
    Expel {
        /// The member.
        node: NodeId,
    },
    /// A member is found elsewhere, or has another role.
    Move {
        /// The member.
        node: NodeId,
        /// Where its peers reach it.
        address: String,
        /// Its role.
        role: Role,
    },
    /// A generation that a majority holds, and that lets a list through which a person agreed to.
    Approved {
        /// The generation.
        commit: Commit,
        /// The list.
        lets_through: LetThrough,
    },
}

/// What became of an entry when it was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Applied; there is nothing to say.
    Done,
    /// There is a new manager.
    Appointed(Epoch),
    /// An appointment that replaces an epoch which is not the current one, or was decided in another term.
    NotCurrent,
    /// What became of a commit.
    Commit(CommitOutcome),
    /// The id of the new member, or of the member that it already is.
    Admitted(NodeId),
    /// A member that cannot be admitted: why.
    NotAdmitted(String),
    /// The state does not allow a change of members: why.
    Refused(String),
    /// The entry came before the cluster was formed.
    NoCluster,
    /// What became of an order.
    Order(Result<OrderOutcome, Refusal>),
}

/// Who this node is, as its data folder keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Own {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) name: String,
    /// With founders only.
    pub(super) record: Option<FormationRecord>,
    /// The election's times that the cluster formed with.
    pub(super) timing: Timing,
}
