//! Runs the decision maker of `appoint.rs`: watches for beginning to lead, makes rounds, appends its decisions.
//!
//! One task, whether this node leads or not. It alone appends `Form`, `Lead` and `Appoint`. Each job it starts belongs to one term and is dropped with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::appoint::{Action, Answer, Appointer, Ticket, View};
use crate::cluster::error::ClusterError;
use crate::cluster::shared::{Request, Shared};
use crate::cluster::types::{Command, FormationRecord, Own, Raft, RaftMetrics};
use crate::model::{BootTime, Epoch, NodeId};

/// How often it looks at who should be manager.
const TICK: Duration = Duration::from_millis(25);
/// The same while the manager renews: nobody can be appointed for some time then. Most of an idle leader's wake-ups
/// were these looks.
const TICK_CALM: Duration = Duration::from_millis(200);
/// How long a quorum round may take: several tries of the log's own.
const ROUND_MAX: Duration = Duration::from_secs(1);

/// What a job of one term came to.
enum Done {
    First(bool),
    Round(u64, bool),
    Appoint(Epoch),
}

/// The task.
pub(super) struct LeaderTask {
    shared: Arc<Shared>,
    raft: Raft,
    me: NodeId,
    /// The manager's, as the cluster formed with it.
    lease: Duration,
    record: Option<FormationRecord>,
    requests: mpsc::Receiver<Request>,
    appointer: Appointer,
    term: Option<u64>,
    jobs: JoinSet<Done>,
    tickets: HashMap<Ticket, oneshot::Sender<Answer>>,
    next_ticket: Ticket,
}

impl LeaderTask {
    pub(super) fn new(shared: Arc<Shared>, raft: Raft, own: Own, requests: mpsc::Receiver<Request>) -> Self {
        Self {
            appointer: Appointer::new(own.timing.lease),
            shared,
            raft,
            me: own.node,
            lease: own.timing.lease,
            record: own.record,
            requests,
            term: None,
            jobs: JoinSet::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
        }
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// When openraft stopped.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), ClusterError> {
        let mut metrics = self.raft.metrics();
        metrics.mark_changed();
        let mut next_look = Instant::now();
        loop {
            let actions = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = metrics.changed() => {
                    let now = metrics.borrow_and_update().clone();
                    if let Err(fatal) = now.running_state {
                        return Err(fatal.into());
                    }
                    if changed.is_err() {
                        return Err(openraft::error::Fatal::Stopped.into());
                    }
                    self.follow_metrics(&now)
                }
                Some(request) = self.requests.recv() => self.take(request),
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.finish(done),
                    Err(error) if error.is_cancelled() => Vec::new(),
                    Err(_) => return Err(ClusterError::Task("leader")),
                },
                () = tokio::time::sleep_until(next_look), if self.term.is_some() => {
                    let actions = self.tick();
                    let is_calm = self.appointer.is_calm(BootTime::now());
                    next_look = Instant::now() + if is_calm { TICK_CALM } else { TICK };
                    actions
                }
            };
            self.perform(actions);
        }
    }

    fn follow_metrics(&mut self, metrics: &RaftMetrics) -> Vec<Action> {
        let leads = metrics.state.is_leader() && metrics.current_leader == Some(self.me);
        let term = leads.then_some(metrics.current_term);
        if term == self.term {
            return Vec::new();
        }
        self.jobs.abort_all();
        self.jobs = JoinSet::new();
        self.term = term;
        self.shared.serving.send_replace(None);
        let Some(term) = term else {
            tracing::info!("this node does not lead any more");
            return self.appointer.follow();
        };
        tracing::info!(term, "this node leads");
        self.start_first(Duration::ZERO);
        self.appointer.lead(BootTime::now())
    }

    fn start_first(&mut self, after: Duration) {
        let Some(term) = self.term else { return };
        let form = self.shared.state.borrow().is_none().then(|| self.record.clone()).flatten();
        let (raft, me) = (self.raft.clone(), self.me);
        self.jobs.spawn(async move {
            tokio::time::sleep(after).await;
            Done::First(first(&raft, form, me, term).await)
        });
    }

    fn take(&mut self, request: Request) -> Vec<Action> {
        match request {
            Request::Ask(ask, reply) => {
                self.next_ticket += 1;
                self.tickets.insert(self.next_ticket, reply);
                self.appointer.ask(self.next_ticket, ask)
            }
            Request::LetGo { from, epoch, process, reply } => {
                let state = self.shared.state.borrow().clone();
                let current = state.as_deref().and_then(|state| state.appointment.as_ref());
                let its_own =
                    current.is_some_and(|current| current.epoch == epoch && current.manager == from);
                let free = its_own && self.appointer.let_go(epoch, process);
                // Whoever asked may have given up waiting; what it let go stays let go.
                let _ = reply.send(free);
                self.tick()
            }
        }
    }

    fn finish(&mut self, done: Done) -> Vec<Action> {
        match done {
            Done::First(true) => {
                self.shared.serving.send_replace(self.term);
                self.appointer.first_applied()
            }
            Done::First(false) => {
                self.start_first(TICK);
                Vec::new()
            }
            Done::Round(id, confirmed) => {
                let state = self.shared.state.borrow().clone();
                self.appointer.round_ended(id, confirmed, BootTime::now(), state.as_deref())
            }
            Done::Appoint(replaces) => {
                self.appointer.appoint_ended(replaces, BootTime::now());
                Vec::new()
            }
        }
    }

    fn tick(&mut self) -> Vec<Action> {
        let Some(state) = self.shared.state.borrow().clone() else { return Vec::new() };
        let (own, heard) = (self.shared.report.borrow().clone(), self.shared.heard.borrow().clone());
        let view = View { state: &state, me: self.me, own: &own, heard: &heard };
        self.appointer.tick(BootTime::now(), view)
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Answer(ticket, answer) => {
                    if let Some(reply) = self.tickets.remove(&ticket) {
                        // Whoever asked may have given up waiting.
                        let _ = reply.send(answer);
                    }
                }
                Action::Round(id) => {
                    let (raft, me, term) = (self.raft.clone(), self.me, self.term);
                    self.jobs.spawn(async move {
                        let round = tokio::time::timeout(ROUND_MAX, round(&raft, me, term)).await;
                        Done::Round(id, round.unwrap_or(false))
                    });
                }
                Action::Appoint { replaces, manager } => self.appoint(replaces, manager),
            }
        }
    }

    fn appoint(&mut self, replaces: Epoch, manager: NodeId) {
        let Some(term) = self.term else { return };
        tracing::info!(manager, replaces, "appointing a manager");
        let command = Command::Appoint { replaces, manager, lease: self.lease, term };
        let raft = self.raft.clone();
        self.jobs.spawn(async move {
            // No time limit: until it is applied or the leadership is lost, which drops this job, it may still come.
            if let Err(error) = raft.client_write(command).await {
                tracing::debug!(%error, "the appointment was not applied");
                // Not applied, and not known to be lost before the term is: nothing is granted until then.
                std::future::pending::<()>().await;
            }
            Done::Appoint(replaces)
        });
    }
}

/// Whether a quorum follows this node in `term`, and all that was committed before is applied here.
///
/// The core's own word on the term counts, not the metrics': a leadership that was lost and won again between two
/// looks at them is another one.
async fn round(raft: &Raft, me: NodeId, term: Option<u64>) -> bool {
    if raft.ensure_linearizable().await.is_err() {
        return false;
    }
    let vote = raft.with_raft_state(|state| *state.vote_ref()).await;
    vote.is_ok_and(|vote| vote.committed && vote.leader_id.node_id == me && Some(vote.leader_id.term) == term)
}

/// Appends the leader's own first entry, before it the one that forms the cluster if that is missing, and waits until
/// they are applied here.
async fn first(raft: &Raft, form: Option<FormationRecord>, me: NodeId, term: u64) -> bool {
    if let Some(record) = form
        && let Err(error) = raft.client_write(Command::Form(record)).await
    {
        tracing::debug!(%error, "the formation entry was not applied yet");
        return false;
    }
    let Ok(nonce) = crate::cluster::db::random() else { return false };
    let nonce = u64::from_le_bytes(std::array::from_fn(|at| nonce[at]));
    match raft.client_write(Command::Lead { leader: me, nonce }).await {
        Ok(written) => written.log_id.leader_id.term == term && written.log_id.leader_id.node_id == me,
        Err(error) => {
            tracing::debug!(%error, "the leader's first entry was not applied yet");
            false
        }
    }
}
