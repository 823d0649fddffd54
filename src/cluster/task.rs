//! Opens the room and runs its tasks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use openraft::{Config, SnapshotPolicy};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::cluster::confirm::keep_standing;
use crate::cluster::db::{OWN, RaftDb, SEEN, random};
use crate::cluster::error::ClusterError;
use crate::cluster::formation::Formation;
use crate::cluster::handle::Cluster;
use crate::cluster::leader::LeaderTask;
use crate::cluster::log_store::{LogStore, blocking};
use crate::cluster::members::{MemberRequest, MembersTask};
use crate::cluster::network::Network;
use crate::cluster::outlook::keep_outlook;
use crate::cluster::place::{self, Place};
use crate::cluster::renew::Renewer;
use crate::cluster::shared::{ClusterConfig, FirstScan, FormOrder, RaftSlot, Request, Shared};
use crate::cluster::state_machine::StateMachine;
use crate::cluster::types::{Own, Raft};
use crate::model::{Heard, Lease, NodeReport, Standing};
use crate::rpc::{Me, Peers};

/// A snapshot is built after this many entries.
const SNAPSHOT_EVERY: u64 = 1000;
/// A peer that lacks more than this gets a snapshot; more than between two snapshots.
const LAG_MAX: u64 = 5000;
/// Entries kept behind a snapshot, for peers that lack little.
const KEPT_BEHIND: u64 = 500;
/// Entries in one message: each is small, see the rpc limits.
const ENTRIES_MAX: u64 = 256;
/// How long the log's core may take to stop.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Members that are looked for at the same time because they presented themselves.
const PROBES: usize = 32;
/// Questions that may wait for a task.
const QUEUE: usize = 256;

impl Cluster {
    /// Opens the store and looks at all of it; nothing runs before [`ClusterTask::run`]. Blocks on the disk.
    ///
    /// `report` is this node's own, `heard` those of the others: a leader chooses managers by them.
    ///
    /// # Errors
    /// When the configuration cannot work, the store is damaged or in use, or belongs to another node.
    pub fn open(
        config: ClusterConfig,
        peers: Peers,
        first_scan: watch::Receiver<FirstScan>,
        report: watch::Receiver<Arc<NodeReport>>,
        heard: watch::Receiver<Arc<Heard>>,
    ) -> Result<(Self, ClusterTask), ClusterError> {
        raft_config(&config, None)?;
        let db = RaftDb::open(&config.db_path)?;
        let own: Option<Own> = db.get(OWN)?;
        if let Some(own) = &own {
            belongs(&config, own)?;
        }
        let has_log = db.has_log()?;
        if has_log && own.is_none() {
            let what = "there is a log, but not whose".to_owned();
            return Err(ClusterError::Damaged { path: config.db_path, what, source: None });
        }
        let bound = own.as_ref().map(|own| Me { cluster: own.cluster, node: own.node });
        let state = Arc::new(watch::Sender::new(None));
        if has_log {
            // Shown at once: readers of the state need not wait until the log runs.
            StateMachine::open(Arc::clone(&db), bound, Arc::clone(&state))?;
        }
        let (leader, requests) = mpsc::channel(QUEUE);
        let (members, member_requests) = mpsc::channel(QUEUE);
        let (formation, orders) = mpsc::channel(QUEUE);
        let (renewals, asks) = mpsc::channel(QUEUE);
        let drawn = random()?;
        let standing = Standing { node: own.as_ref().map(|own| own.node), ..Standing::default() };
        let shared = Arc::new(Shared {
            db: Arc::downgrade(&db),
            incarnation: watch::Sender::new(db.incarnation()?),
            seen: Mutex::new(db.get(SEEN)?.unwrap_or_default()),
            cloned: Mutex::new(None),
            probing: Semaphore::new(PROBES),
            last: tokio::sync::Mutex::new(None),
            starts: db.count_start()?,
            process: u64::from_le_bytes(std::array::from_fn(|at| drawn[at])),
            config,
            peers,
            own: watch::Sender::new(own.clone()),
            raft: watch::Sender::new(None),
            has_log: AtomicBool::new(has_log),
            state,
            standing: watch::Sender::new(standing),
            first_scan,
            report,
            heard,
            leader,
            members,
            formation,
            renewals,
            serving: watch::Sender::new(None),
            released: watch::Sender::new(0),
            wished: watch::Sender::new(None),
            marks_unwanted: watch::Sender::new(false),
            elections: AtomicU64::new(0),
        });
        let task = ClusterTask {
            shared: Arc::clone(&shared),
            db,
            own,
            requests,
            members: member_requests,
            orders,
            asks,
        };
        Ok((Self(shared), task))
    }
}

/// The room's tasks.
#[derive(Debug)]
pub struct ClusterTask {
    shared: Arc<Shared>,
    db: Arc<RaftDb>,
    own: Option<Own>,
    requests: mpsc::Receiver<Request>,
    members: mpsc::Receiver<MemberRequest>,
    orders: mpsc::Receiver<FormOrder>,
    asks: mpsc::Receiver<oneshot::Sender<Option<Lease>>>,
}

impl ClusterTask {
    /// Forms or joins a cluster if need be, then takes part in it until `stop`.
    ///
    /// # Errors
    /// When the log's core stopped or the store failed: the process must end, for nothing here may be tried again.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ClusterError> {
        let Self { shared, db, own, requests, members, orders, asks } = self;
        // A log without a state is one of a cluster that may never have formed.
        let has_state = shared.state.borrow().is_some();
        let own = match own {
            // One that forms yet is looked at there.
            Some(own) if has_state || own.record.is_none() => {
                let looking = stop.child_token();
                let kept = tokio::select! {
                    kept = place::keep(&shared, &db, &own, &stop) => kept?,
                    // Who answers is worth knowing while this node waits for a majority.
                    () = keep_outlook(Arc::clone(&shared), looking.clone()) => None,
                };
                match kept {
                    Some(Place::Kept) => Some(own),
                    Some(Place::SetBack) => {
                        start_over(&shared, &db).await?;
                        None
                    }
                    ended => {
                        if ended == Some(Place::Removed) {
                            stop.cancelled().await;
                        }
                        released(db).await;
                        return Ok(());
                    }
                }
            }
            own => own,
        };
        let has_state = shared.state.borrow().is_some();
        let started = match own {
            Some(own) if has_state || own.record.is_none() => {
                drop(orders);
                let raft = start_raft(&shared, &db, &own).await?;
                Some((own, raft))
            }
            own => Formation::new(Arc::clone(&shared), Arc::clone(&db), orders, own).run(&stop).await?,
        };
        let Some((own, raft)) = started else {
            released(db).await;
            return Ok(());
        };
        // The tasks below end before the core does, whichever of them ends first.
        let ending = stop.child_token();
        let leader = LeaderTask::new(Arc::clone(&shared), raft.clone(), own.clone(), requests);
        let members = MembersTask::new(Arc::clone(&shared), raft.clone(), own.node, members);
        let renewer = Renewer::new(Arc::clone(&shared), own.node, asks).run(ending.clone()).map(Ok);
        let standing = keep_standing(Arc::clone(&shared), ending.clone()).map(Ok);
        let outlook = keep_outlook(Arc::clone(&shared), ending.clone()).map(Ok);
        let place = place::watch(Arc::clone(&shared), own.clone(), ending.clone()).map(Ok);
        let memory = place::remember(Arc::clone(&shared), Arc::clone(&db), ending.clone());
        let (place, memory, leader, members, renewer, standing, outlook) = tokio::join!(
            until(&ending, "place", place),
            until(&ending, "memory", memory),
            until(&ending, "leader", leader.run(ending.clone())),
            until(&ending, "members", members.run(ending.clone())),
            until(&ending, "renewer", renewer),
            until(&ending, "standing", standing),
            until(&ending, "outlook", outlook),
        );
        shared.standing.send_modify(|standing| (standing.leader, standing.confirmed) = (None, false));
        shared.raft.send_replace(None);
        shared.serving.send_replace(None);
        shut_down(&raft).await;
        drop(raft);
        released(db).await;
        let ended = leader.and(members).and(renewer).and(standing).and(outlook).and(place).and(memory);
        if ended.is_ok() && !stop.is_cancelled() {
            // It was removed: it says so, and does nothing else until it is stopped.
            stop.cancelled().await;
        }
        ended
    }
}

/// Runs a task of this room; when it ends before it was told to, by a panic too, it takes the others along.
async fn until(
    ending: &CancellationToken,
    name: &'static str,
    task: impl Future<Output = Result<(), ClusterError>> + Send + 'static,
) -> Result<(), ClusterError> {
    let ended = tokio::spawn(task).await.unwrap_or(Err(ClusterError::Task(name)));
    if ending.is_cancelled() {
        return ended;
    }
    ending.cancel();
    ended.and(Err(ClusterError::Task(name)))
}

/// Makes this node a newcomer: its data folder was set back, and what it promised since is not known.
pub(super) async fn start_over(shared: &Shared, db: &Arc<RaftDb>) -> Result<(), ClusterError> {
    let db = Arc::clone(db);
    let incarnation = blocking(move || db.start_over()).await?;
    shared.incarnation.send_replace(incarnation);
    shared.own.send_replace(None);
    shared.has_log.store(false, Ordering::Release);
    shared.state.send_replace(None);
    shared.standing.send_modify(|standing| standing.node = None);
    Ok(())
}

/// Starts the log's core under an identity that is stored.
pub(super) async fn start_raft(
    shared: &Arc<Shared>,
    db: &Arc<RaftDb>,
    own: &Own,
) -> Result<Raft, ClusterError> {
    let me = Me { cluster: own.cluster, node: own.node };
    shared.peers.identity().set(me);
    shared.own.send_replace(Some(own.clone()));
    shared.standing.send_modify(|standing| standing.node = Some(own.node));
    let config = raft_config(&shared.config, Some(own))?;
    let machine = StateMachine::open(Arc::clone(db), Some(me), Arc::clone(&shared.state))?;
    let log = LogStore::new(Arc::clone(db), Some(me), Some(machine.stored()));
    let network = Network::new(shared.peers.clone(), own.node, shared.state.subscribe());
    let raft = Raft::new(own.node, Arc::new(config), network, log, machine).await?;
    shared.raft.send_replace(Some(RaftSlot(raft.clone())));
    Ok(raft)
}

/// Stops the log's core, within a limit.
pub(super) async fn shut_down(raft: &Raft) {
    match tokio::time::timeout(STOP_MAX, raft.shutdown()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the raft core did not stop cleanly"),
        Err(_) => tracing::warn!("the raft core did not stop in time"),
    }
}

/// Waits until the log's own tasks let the file go, so that whoever starts this node again in this process finds it
/// free.
async fn released(db: Arc<RaftDb>) {
    let deadline = tokio::time::Instant::now() + STOP_MAX;
    while Arc::strong_count(&db) > 1 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn belongs(config: &ClusterConfig, own: &Own) -> Result<(), ClusterError> {
    if own.name != config.node_name {
        return Err(ClusterError::OtherName {
            path: config.db_path.clone(),
            stored: own.name.clone(),
            configured: config.node_name.clone(),
        });
    }
    match &own.record {
        Some(record) if record.name != config.cluster_name => Err(ClusterError::OtherCluster {
            path: config.db_path.clone(),
            stored: record.name.clone(),
            configured: config.cluster_name.clone(),
        }),
        _ => Ok(()),
    }
}

/// openraft's knobs: the times are those of the log once there is one, so that all voters have the same.
fn raft_config(config: &ClusterConfig, own: Option<&Own>) -> Result<Config, ClusterError> {
    let formed = own.map(|own| own.timing);
    if formed.is_some_and(|formed| formed != config.timing) {
        tracing::warn!(
            "the election's times in the configuration differ from those the cluster formed with, which hold"
        );
    }
    let timing = formed.unwrap_or(config.timing);
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let heartbeat = millis(timing.heartbeat);
    if heartbeat == 0 || timing.timeout <= timing.heartbeat * 2 || timing.lease < timing.heartbeat {
        return Err(ClusterError::Config(
            "election.heartbeat must be a millisecond or more, election.timeout more than twice that, and \
             election.lease not less than it"
                .to_owned(),
        ));
    }
    Config {
        cluster_name: config.cluster_name.clone(),
        heartbeat_interval: heartbeat,
        election_timeout_min: millis(timing.timeout),
        election_timeout_max: millis(timing.timeout) * 2,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        replication_lag_threshold: LAG_MAX,
        max_in_snapshot_log_to_keep: KEPT_BEHIND,
        max_payload_entries: ENTRIES_MAX,
        install_snapshot_timeout: 10_000,
        ..Config::default()
    }
    .validate()
    .map_err(|error| ClusterError::Config(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_by_itself_takes_the_others_along_and_is_named() {
        let ending = CancellationToken::new();
        let waits = ending.clone();
        let (first, other) = tokio::join!(
            until(&ending, "renewer", async { panic!("a mistake") }),
            until(&ending, "leader", async move {
                waits.cancelled().await;
                Ok(())
            }),
        );
        assert!(matches!(first, Err(ClusterError::Task("renewer"))), "{first:?}");
        assert!(other.is_ok());
        let ending = CancellationToken::new();
        let quiet = until(&ending, "standing", async { Ok(()) }).await;
        assert!(matches!(quiet, Err(ClusterError::Task("standing"))) && ending.is_cancelled());
    }
}
