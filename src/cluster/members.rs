//! Runs the decision maker of `membership.rs`: it alone changes who belongs to the cluster and who votes.
//!
//! One task, whether this node leads or not. It alone appends `Admit`, `Change`, `Expel` and `Move`, and makes openraft's
//! own membership changes, one at a time: what was decided is done, or known not to be, before the next look.

use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::cluster::error::ClusterError;
use crate::cluster::handle::propose;
use crate::cluster::membership::{Join, Log, Membership, Sight, Step};
use crate::cluster::shared::Shared;
use crate::cluster::state::is_bound;
use crate::cluster::types::{Command, PeerNode, Raft, Response};
use crate::model::{BootTime, ClusterState, Heard, Member, NodeId, NodeReport, Problem, Refusal, Severity};

/// The code of the problem that the voters can't change yet.
const BARRED: &str = "voters-wait";
/// How often it looks at who belongs to the cluster.
const TICK: Duration = Duration::from_millis(250);
/// One step: an entry, or openraft's two. What takes longer is looked at again.
const STEP_MAX: Duration = Duration::from_secs(4);
/// Whoever ordered a removal waits for it this long.
const REMOVE_MAX: Duration = Duration::from_secs(20);

/// For this task.
#[derive(Debug)]
pub(super) enum MemberRequest {
    /// A newcomer asks for a place.
    Join(Member, oneshot::Sender<Placed>),
    /// A member is to vote no more, before an order takes it out: done, or why not; dropped when that is not known.
    Remove(String, Removed),
    /// A member is found elsewhere, or has another role than the log says.
    Move(NodeId, Member),
}

/// Where it is said that a member votes no more, or why it goes on.
type Removed = oneshot::Sender<Result<(), Refusal>>;

/// What a newcomer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// Its id.
    Member(NodeId),
    /// It must wait: why.
    Wait(String),
    /// Its name is taken.
    Duplicate(String),
    /// Its data folder was set back.
    SetBack(String),
    /// It is not taken: why.
    Refused(String),
}

/// The task.
pub(super) struct MembersTask {
    shared: Arc<Shared>,
    raft: Raft,
    me: NodeId,
    requests: mpsc::Receiver<MemberRequest>,
    membership: Membership,
    /// Whoever ordered a removal, who is to vote no more, and since when it waits.
    removals: Vec<(NodeId, BootTime, Removed)>,
}

/// What it looks at, taken together.
struct Seen {
    state: Arc<ClusterState>,
    own: Arc<NodeReport>,
    heard: Arc<Heard>,
    log: Log,
}

impl Seen {
    fn sight(&self, me: NodeId) -> Sight<'_> {
        Sight { state: &self.state, me, own: &self.own, heard: &self.heard, log: &self.log }
    }
}

impl MembersTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        raft: Raft,
        me: NodeId,
        requests: mpsc::Receiver<MemberRequest>,
    ) -> Self {
        let membership = Membership::new(shared.config.return_after);
        Self { shared, raft, me, requests, membership, removals: Vec::new() }
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// When openraft stopped.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), ClusterError> {
        let mut serving = self.shared.serving.subscribe();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut term = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Ok(()) = serving.changed() => {}
                Some(request) = self.requests.recv() => self.take(request).await?,
                _ = tick.tick(), if term.is_some() => {}
            }
            let now = *serving.borrow_and_update();
            if now != term {
                term = now;
                // What was ordered of a former leadership is not known to be done.
                self.removals.clear();
                match term {
                    Some(_) => self.membership.lead(BootTime::now()),
                    None => {
                        self.membership.follow();
                        self.shared.note(BARRED, None);
                    }
                }
            }
            if let Some(term) = term {
                let look = self.look(term);
                stop.run_until_cancelled(look).await.unwrap_or(Ok(()))?;
            }
        }
    }

    async fn seen(&self) -> Result<Option<Seen>, ClusterError> {
        let Some(state) = self.shared.state.borrow().clone() else { return Ok(None) };
        // The core's own word: a view that is a little older would not know what it was told last.
        let last = self.raft.with_raft_state(|core| Arc::clone(core.membership_state.effective())).await?;
        let metrics = self.raft.metrics().borrow().clone();
        let replication = metrics.replication.unwrap_or_default();
        let log = Log {
            configs: last.membership().get_joint_config().clone(),
            nodes: last.nodes().map(|(id, _)| *id).collect(),
            matched: replication.iter().filter_map(|(id, at)| Some((*id, at.as_ref()?.index))).collect(),
            last: metrics.last_log_index.unwrap_or_default(),
        };
        let (own, heard) = (self.shared.report.borrow().clone(), self.shared.heard.borrow().clone());
        Ok(Some(Seen { state, own, heard, log }))
    }

    async fn take(&mut self, request: MemberRequest) -> Result<(), ClusterError> {
        let Some(seen) = self.seen().await? else { return Ok(()) };
        let now = BootTime::now();
        match request {
            MemberRequest::Join(newcomer, reply) => {
                let placed = match self.membership.join(now, &newcomer, seen.sight(self.me)) {
                    None => return Ok(()),
                    Some(Join::Known(id)) => Placed::Member(id),
                    Some(Join::Wait(why)) => Placed::Wait(why),
                    Some(Join::Duplicate(why)) => Placed::Duplicate(why),
                    Some(Join::SetBack(why)) => Placed::SetBack(why),
                    Some(Join::Admit) => self.admit(newcomer).await,
                };
                // Whoever asked may have given up waiting; it asks again.
                let _ = reply.send(placed);
            }
            MemberRequest::Remove(name, reply) => {
                match self.membership.remove(now, &name, seen.sight(self.me)) {
                    Ok(id) => {
                        tracing::info!(node = id, name, "a member is removed by order");
                        self.removals.push((id, now, reply));
                    }
                    Err(why) => {
                        // As above.
                        let _ = reply.send(Err(why));
                    }
                }
            }
            MemberRequest::Move(node, member) => {
                let Member { name, address, role, .. } = member;
                tracing::info!(node, name, address, %role, "a member is found elsewhere or has another role");
                self.append(Command::Move { node, address, role }).await;
            }
        }
        Ok(())
    }

    async fn admit(&self, newcomer: Member) -> Placed {
        let Member { name, address, role, incarnation } = newcomer;
        match propose(&self.shared, Command::Admit { name, address, role, incarnation }, STEP_MAX).await {
            Ok(Response::Admitted(id)) => Placed::Member(id),
            Ok(Response::NotAdmitted(why)) => Placed::Refused(why),
            Ok(_) => Placed::Wait("the cluster is not formed yet".to_owned()),
            Err(why) => Placed::Wait(why),
        }
    }

    /// Does the next thing, if there is one.
    async fn look(&mut self, term: u64) -> Result<(), ClusterError> {
        let Some(seen) = self.seen().await? else { return Ok(()) };
        let now = BootTime::now();
        self.removals.retain_mut(|(id, _, reply)| {
            !reply.is_closed() && is_bound(&seen.state, *id) || {
                let (gone, _) = oneshot::channel();
                // Whoever ordered it may have given up waiting.
                let _ = std::mem::replace(reply, gone).send(Ok(()));
                false
            }
        });
        self.removals.retain(|(_, since, _)| now.since(*since) <= REMOVE_MAX);
        let Some(step) = self.membership.next(now, seen.sight(self.me)) else {
            self.say_barred();
            return Ok(());
        };
        match step {
            Step::AddLearner(id) => {
                let Some(member) = seen.state.members.get(&id) else { return Ok(()) };
                let node = PeerNode { name: member.name.clone(), address: member.address.clone() };
                tracing::info!(node = id, name = %node.name, "a member joins the log");
                let added = tokio::time::timeout(STEP_MAX, self.raft.add_learner(id, node, false)).await;
                if let Ok(Err(error)) = added {
                    tracing::debug!(%error, "adding a learner did not work yet");
                }
            }
            Step::DropLearner(id) => {
                tracing::info!(node = id, "the log is not sent any more to a node that is no member");
                self.change(ChangeMembers::RemoveNodes([id].into()), false).await;
            }
            Step::Change { to, holding, generation, retain } => {
                tracing::info!(from = ?seen.state.voters, ?to, "the voters are to change");
                let is_taken_back = to == seen.state.voters;
                let announced = Command::Change { to: to.clone(), generation, holding, term };
                // Made at once after the log took it, each time anew: an announcement that is older may have been taken
                // back by an entry whose outcome was not known.
                if self.append(announced).await && !is_taken_back {
                    self.change(ChangeMembers::ReplaceAllVoters(to), retain).await;
                }
            }
            Step::Finish { to, retain } => {
                tracing::debug!(?to, "a change of the voters goes on");
                self.change(ChangeMembers::ReplaceAllVoters(to), retain).await;
            }
            Step::Expel(node) => {
                let name = seen.state.members.get(&node).map_or("?", |member| member.name.as_str());
                tracing::info!(node, name, "a member is removed");
                self.append(Command::Expel { node }).await;
            }
        }
        Ok(())
    }

    /// Whether the log took it; if not, the next look sees what there is.
    async fn append(&self, command: Command) -> bool {
        match propose(&self.shared, command, STEP_MAX).await {
            Ok(Response::Done) => return true,
            Ok(other) => tracing::info!(?other, "a change of members was not taken"),
            Err(why) => tracing::debug!(why, "a change of members is not known to be done"),
        }
        false
    }

    async fn change(&self, change: ChangeMembers<NodeId, PeerNode>, retain: bool) {
        let changed = tokio::time::timeout(STEP_MAX, self.raft.change_membership(change, retain)).await;
        if let Ok(Err(error)) = changed {
            tracing::debug!(%error, "the log's membership did not change yet");
        }
    }

    fn say_barred(&self) {
        let found = self.membership.barred().map(|why| {
            let remedy = "start or mend the nodes that the message names; it goes on by itself";
            Problem::new(Severity::Warning, BARRED, format!("a change of the voters waits: {why}"), remedy)
        });
        self.shared.note(BARRED, found);
    }
}
