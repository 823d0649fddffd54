//! What the parts of this room share: the configuration, the log once it runs, and what the process shows of it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::cluster::appoint::{Answer, Ask};
use crate::cluster::db::RaftDb;
use crate::cluster::formation::plan::Wishes;
use crate::cluster::members::MemberRequest;
use crate::cluster::place::AllSeen;
use crate::cluster::state_machine::StateSender;
use crate::cluster::types::{FormationRecord, Own, PeerNode, Raft, Timing};
use crate::model::{Epoch, FirstContent, Heard, Lease, NodeId, NodeReport, Problem, Role, Standing};
use crate::rpc::Peers;

/// The code of the problem that two data folders ask for one place.
pub(super) const DUPLICATE: &str = "duplicate-node";

/// A node of the configuration's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedNode {
    /// Its name.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// Its role.
    pub role: Role,
}

/// What this room needs of the configuration.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// `cluster.name`.
    pub cluster_name: String,
    /// `node.name`.
    pub node_name: String,
    /// Where peers reach this node, `host:port`.
    pub address: String,
    /// This node's role: a node that is not listed is a worker.
    pub role: Role,
    /// All listed nodes, this one included if it is listed.
    pub listed: Vec<ListedNode>,
    /// The election's times, for a cluster that is yet to form; afterwards those of the log hold.
    pub timing: Timing,
    /// A member that was silent for this long may come back with another data folder.
    pub return_after: Duration,
    /// The file of the log, `<data_dir>/raft.redb`.
    pub db_path: PathBuf,
}

impl ClusterConfig {
    /// The listed nodes that vote.
    pub(super) fn voters(&self) -> impl Iterator<Item = &ListedNode> {
        self.listed.iter().filter(|node| node.role.votes())
    }
}

/// What this node's roots held at its first scan, and the roots that carry the mark of a membership; none before that
/// scan is done.
pub type FirstScan = Option<(FirstContent, Vec<String>)>;

/// For the one task that leads.
#[derive(Debug)]
pub(super) enum Request {
    Ask(Ask, oneshot::Sender<Answer>),
    LetGo { from: NodeId, epoch: Epoch, process: u64, reply: oneshot::Sender<bool> },
}

/// A formation record that came from its writer, and where the answer goes: why it was not stored.
pub(super) type FormOrder = (FormationRecord, oneshot::Sender<Result<(), String>>);

/// One for each process.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: ClusterConfig,
    /// For looking only; whoever runs the log keeps it open.
    pub(super) db: Weak<RaftDb>,
    /// Drawn by the data folder; another one after it was set back.
    pub(super) incarnation: watch::Sender<[u8; 16]>,
    /// Drawn by each process anew.
    pub(super) process: u64,
    /// How often a process started on this data folder, this one included.
    pub(super) starts: u64,
    /// The most that was heard of each member.
    pub(super) seen: Mutex<AllSeen>,
    /// When a copy of a member's data folder was last found running.
    pub(super) cloned: Mutex<Option<Instant>>,
    /// Whoever presents itself is looked for, a few at a time.
    pub(super) probing: Semaphore,
    /// Term and index of the newest entry, and when they were read.
    pub(super) last: tokio::sync::Mutex<Option<(Instant, (u64, u64))>>,
    pub(super) peers: Peers,
    pub(super) own: watch::Sender<Option<Own>>,
    pub(super) raft: watch::Sender<Option<RaftSlot>>,
    /// Whether the log holds anything, as far as is known without looking at the disk.
    pub(super) has_log: AtomicBool,
    pub(super) state: Arc<StateSender>,
    pub(super) standing: watch::Sender<Standing>,
    pub(super) first_scan: watch::Receiver<FirstScan>,
    pub(super) report: watch::Receiver<Arc<NodeReport>>,
    pub(super) heard: watch::Receiver<Arc<Heard>>,
    pub(super) leader: mpsc::Sender<Request>,
    pub(super) members: mpsc::Sender<MemberRequest>,
    pub(super) formation: mpsc::Sender<FormOrder>,
    pub(super) renewals: mpsc::Sender<oneshot::Sender<Option<Lease>>>,
    /// The term in which this node leads and has applied an entry of its own; only then it answers as a leader.
    pub(super) serving: watch::Sender<Option<u64>>,
    /// The epoch that this node, as its manager, gave up for good.
    pub(super) released: watch::Sender<Epoch>,
    /// What a person ordered while there is no cluster, and until when it holds.
    pub(super) wished: watch::Sender<Option<(Wishes, Instant)>>,
    /// Whether the marks in this node's roots are to give way to a new cluster.
    pub(super) marks_unwanted: watch::Sender<bool>,
    /// Changes of leader that this process saw.
    pub(super) elections: AtomicU64,
}

/// The running log; its `Debug` says nothing.
#[derive(Clone)]
pub(super) struct RaftSlot(pub(super) Raft);

impl std::fmt::Debug for RaftSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raft")
    }
}

impl Shared {
    pub(super) fn raft(&self) -> Option<Raft> {
        self.raft.borrow().as_ref().map(|slot| slot.0.clone())
    }

    /// What a person ordered here a short time ago.
    pub(super) fn wishes(&self) -> Wishes {
        match &*self.wished.borrow() {
            Some((wishes, until)) if Instant::now() < *until => wishes.clone(),
            _ => Wishes::default(),
        }
    }

    pub(super) fn node(&self) -> Option<NodeId> {
        self.own.borrow().as_ref().map(|own| own.node)
    }

    /// The leader that this node follows, and where it is.
    pub(super) fn leader(&self) -> Option<(NodeId, PeerNode)> {
        let raft = self.raft()?;
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader?;
        let state = self.state.borrow().clone();
        if let Some(member) = state.as_ref().and_then(|state| state.members.get(&leader)) {
            return Some((leader, PeerNode { name: member.name.clone(), address: member.address.clone() }));
        }
        let node = metrics.membership_config.membership().get_node(&leader)?.clone();
        Some((leader, node))
    }

    /// Asks this process's own leader task; none when it is too busy, or gone.
    pub(super) async fn ask_here(&self, ask: Ask) -> Option<Answer> {
        let (reply, answer) = oneshot::channel();
        self.leader.try_send(Request::Ask(ask, reply)).ok()?;
        answer.await.ok()
    }

    pub(super) fn all_seen(&self) -> MutexGuard<'_, AllSeen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clone_seen(&self) -> MutexGuard<'_, Option<Instant>> {
        self.cloned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says a problem of membership, or that it is over.
    pub(super) fn note(&self, code: &str, found: Option<Problem>) {
        self.standing.send_if_modified(|standing| {
            let before = standing.notices.clone();
            standing.notices.retain(|known| known.code != code);
            standing.notices.extend(found);
            standing.notices != before
        });
    }

    pub(super) fn wait_for(&self, sentence: Option<String>) {
        self.standing.send_if_modified(|standing| {
            let changed = standing.waiting_for != sentence;
            if changed && let Some(sentence) = &sentence {
                tracing::info!(waiting_for = %sentence, "waiting");
            }
            standing.waiting_for = sentence;
            changed
        });
    }
}
