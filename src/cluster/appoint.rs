//! The leader's one decision maker: who is granted a lease, who is appointed. Pure: no clock, no task, no log.
//!
//! What makes the leases of two managers never overlap:
//! - A manager counts its lease D from when it *sent* the renewal that was granted.
//! - A renewal is granted only after a quorum round that began after the renewal arrived: whoever was elected since then
//!   waits out D from its own beginning.
//! - Another manager is named only when 1.1 x D passed both since this leader's own last grant and since it began to
//!   lead in this process (a restarted leader is restored at once, without memory of its grants), unless the old
//!   manager let go: then only the time since the beginning counts.
//! - From the moment it decides to appoint, this leader grants nobody, rounds in flight included, until that entry is
//!   applied here. Losing the leadership forgets everything; the entry itself names the term it was decided in, so it
//!   has no effect if another leader stood between.
//! - Before the first entry of its own is applied here a leader grants, appoints and answers nothing.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::{BootTime, ClusterState, Epoch, Heard, NodeId, NodeReport, NodeState, Role, Seed};

/// A report older than this does not count as heard.
const HEARD_WITHIN: Duration = Duration::from_millis(1500);
/// A manager that says for this long that it should not be one is replaced, if a better one is there.
const UNFIT_MAX: Duration = Duration::from_secs(10);
/// A manager that was ordered to give its office up and did not for this long is granted nothing more.
const UNHEEDED_MAX: Duration = Duration::from_secs(5);
/// Questions that wait for a round at once; more are refused.
const WAITING_MAX: usize = 1024;

/// Names a question until it is answered.
pub(super) type Ticket = u64;

/// What a member asks the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// To renew the lease of `from` in `epoch`, for one process of it.
    Renew { from: NodeId, epoch: Epoch, process: u64 },
    /// What the newest state is.
    Confirm,
}

/// What the leader says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The lease is renewed, from when the renewal was sent.
    Granted,
    /// The newest state is this log index or later.
    Confirmed(u64),
    /// Neither: why.
    Refused(&'static str),
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Make a quorum round, and say so with [`Appointer::round_ended`].
    Round(u64),
    /// Answer a question.
    Answer(Ticket, Answer),
    /// Append an appointment of this term, and say so with [`Appointer::appoint_ended`] when it is applied.
    Appoint { replaces: Epoch, manager: NodeId },
}

/// What the leader sees when it decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) state: &'a ClusterState,
    /// The leader itself, and its own report.
    pub(super) me: NodeId,
    pub(super) own: &'a NodeReport,
    /// Those of the others.
    pub(super) heard: &'a Heard,
}

#[derive(Debug)]
struct Round {
    id: u64,
    asks: Vec<(Ticket, Ask)>,
}

#[derive(Debug)]
struct Leading {
    /// When this process began to lead, or was last seen to have stood still.
    since: BootTime,
    ticked: BootTime,
    /// Whether an entry of this leadership is applied here.
    first_applied: bool,
    /// This leader's last grant; or the last moment that the manager may not be held to have been silent since.
    granted: BootTime,
    running: Option<Round>,
    waiting: Vec<(Ticket, Ask)>,
    /// The epoch that an appointment in the log's hands replaces.
    appointing: Option<Epoch>,
    /// The epoch that this leader granted last, and the manager's process if it was only one: a renewal of a dead
    /// process may arrive after those of the one that runs now.
    granted_to: Option<(Epoch, Option<u64>)>,
    /// The epoch whose manager let go.
    let_go: Option<Epoch>,
    /// The epoch whose manager said that it gave it up, and asked for no lease since. Ends no wait.
    given_up: Option<Epoch>,
    /// The epoch whose manager is granted nothing more, because a better one is there.
    retiring: Option<Epoch>,
    /// Since when the manager of this epoch says that it should not be one.
    unfit: Option<(Epoch, BootTime)>,
    /// Since when the manager of this epoch is ordered to give it up.
    ordered: Option<(Epoch, BootTime)>,
    /// Who could not make changes durable on a majority, and at which head: none of them is better than another.
    stuck: (u64, BTreeSet<NodeId>),
}

/// The machine. One for each process; it sleeps while this node does not lead.
#[derive(Debug)]
pub(super) struct Appointer {
    lease: Duration,
    patience_percent: u32,
    rounds: u64,
    leading: Option<Leading>,
}

impl Appointer {
    /// `lease` is the one that the log names; used where no appointment says its own.
    pub(super) fn new(lease: Duration) -> Self {
        Self { lease, patience_percent: 110, rounds: 0, leading: None }
    }

    /// This node began to lead.
    pub(super) fn lead(&mut self, now: BootTime) -> Vec<Action> {
        let actions = self.follow();
        self.leading = Some(Leading {
            since: now,
            ticked: now,
            first_applied: false,
            granted: now,
            running: None,
            waiting: Vec::new(),
            appointing: None,
            granted_to: None,
            let_go: None,
            given_up: None,
            retiring: None,
            unfit: None,
            ordered: None,
            stuck: Default::default(),
        });
        actions
    }

    /// This node does not lead any more.
    pub(super) fn follow(&mut self) -> Vec<Action> {
        let Some(leading) = self.leading.take() else { return Vec::new() };
        let running = leading.running.into_iter().flat_map(|round| round.asks);
        running
            .chain(leading.waiting)
            .map(|(ticket, _)| Action::Answer(ticket, Answer::Refused("this node does not lead any more")))
            .collect()
    }

    /// An entry of this leadership is applied here.
    pub(super) fn first_applied(&mut self) -> Vec<Action> {
        if let Some(leading) = &mut self.leading {
            leading.first_applied = true;
        }
        self.start_round()
    }

    /// A member asks. Its answer needs a round that begins after this.
    pub(super) fn ask(&mut self, ticket: Ticket, ask: Ask) -> Vec<Action> {
        let refused = |why| vec![Action::Answer(ticket, Answer::Refused(why))];
        let Some(leading) = &mut self.leading else { return refused("this node does not lead") };
        if leading.waiting.len() >= WAITING_MAX {
            return refused("too many questions wait");
        }
        leading.waiting.push((ticket, ask));
        self.start_round()
    }

    /// A process of the manager of `epoch` says that it will never use a lease of it again. True if that ends the
    /// wait: only when this leader granted that very process and no other, for a restarted one may hold a lease by
    /// now. Leases that a leader before this one granted are waited out all the same.
    pub(super) fn let_go(&mut self, epoch: Epoch, process: u64) -> bool {
        let Some(leading) = &mut self.leading else { return false };
        leading.given_up = Some(epoch);
        let taken = leading.granted_to == Some((epoch, Some(process)));
        if taken {
            leading.let_go = Some(epoch);
        }
        taken
    }

    /// A round ended; `confirmed` if a quorum still follows this leader and all that was committed before is applied.
    pub(super) fn round_ended(
        &mut self,
        id: u64,
        confirmed: bool,
        now: BootTime,
        state: Option<&ClusterState>,
    ) -> Vec<Action> {
        let Some(leading) = &mut self.leading else { return Vec::new() };
        let Some(round) = leading.running.take_if(|round| round.id == id) else { return Vec::new() };
        let mut actions = Vec::new();
        for (ticket, ask) in round.asks {
            let answer = match (confirmed, ask, state) {
                (true, Ask::Renew { from, epoch, process }, Some(state)) => {
                    leading.grant(from, epoch, process, now, state)
                }
                (true, Ask::Confirm, Some(state)) => Answer::Confirmed(state.applied_index),
                (true, _, None) => Answer::Refused("the cluster is not formed yet"),
                (false, ask, state) => {
                    if let (Ask::Renew { epoch, .. }, Some(state)) = (ask, state)
                        && epoch == state.epoch()
                    {
                        // The manager lives; that it has no lease is the missing quorum's fault.
                        leading.granted = now;
                    }
                    Answer::Refused("no quorum answered")
                }
            };
            actions.push(Action::Answer(ticket, answer));
        }
        actions.extend(self.start_round());
        actions
    }

    /// The entry of the appointment that replaces this epoch is applied here. An earlier one's word may come late: it
    /// says nothing about the one that is on its way now.
    pub(super) fn appoint_ended(&mut self, replaces: Epoch, now: BootTime) {
        if let Some(leading) = &mut self.leading
            && leading.appointing.take_if(|replaced| *replaced == replaces).is_some()
        {
            // Time for the new manager to find its appointment.
            leading.granted = now;
        }
    }

    /// Whether the manager renewed so lately that a look now and then is enough.
    pub(super) fn is_calm(&self, now: BootTime) -> bool {
        self.leading.as_ref().is_some_and(|leading| {
            let settled = leading.first_applied && leading.appointing.is_none() && leading.let_go.is_none();
            settled && leading.granted_to.is_some() && now.since(leading.granted) < self.lease / 2
        })
    }

    /// Looks at who should be manager.
    pub(super) fn tick(&mut self, now: BootTime, view: View<'_>) -> Vec<Action> {
        let (default_lease, percent) = (self.lease, self.patience_percent);
        let Some(leading) = &mut self.leading else { return Vec::new() };
        if now.since(leading.ticked) > default_lease / 2 {
            // This process stood still, so it cannot say that the manager was silent.
            leading.since = now;
        }
        leading.ticked = now;
        if leading.appointing.is_some_and(|replaced| replaced != view.state.epoch()) {
            leading.appointing = None;
            leading.granted = now;
        }
        if !leading.first_applied || leading.appointing.is_some() {
            return Vec::new();
        }
        let silent_for = now.since(leading.since).min(now.since(leading.granted));
        let led_for = now.since(leading.since);
        let waited = |lease: Duration| silent_for >= lease * percent / 100;
        let chosen = match &view.state.appointment {
            None => {
                let choice = choose(None, None, now, view);
                // Whoever is heard first is not yet the best one.
                let heard = all_heard(now, view);
                choice.filter(|_| heard || waited(default_lease))
            }
            Some(current) => {
                let let_go = leading.let_go == Some(current.epoch);
                leading.watch_fitness(current.epoch, current.manager, now, view);
                let switchover = view.state.switchover.filter(|switchover| switchover.ends == current.epoch);
                leading.watch_order(current.epoch, switchover.is_some(), now);
                let free = let_go && led_for >= current.lease * percent / 100;
                if !free && !waited(current.lease) {
                    return Vec::new();
                }
                let to = switchover.map(|switchover| switchover.to);
                let other = choose(Some(current.manager), to, now, view);
                if other.is_none() {
                    // Nobody to take over: the old one may go on, under a new epoch if it gave this one up.
                    leading.retiring = None;
                }
                let given_up = let_go || leading.given_up == Some(current.epoch);
                other.or_else(|| if given_up { choose(None, None, now, view) } else { None })
            }
        };
        let Some(manager) = chosen else { return Vec::new() };
        let replaces = view.state.epoch();
        leading.appointing = Some(replaces);
        vec![Action::Appoint { replaces, manager }]
    }

    fn start_round(&mut self) -> Vec<Action> {
        let Some(leading) = &mut self.leading else { return Vec::new() };
        if !leading.first_applied || leading.running.is_some() || leading.waiting.is_empty() {
            return Vec::new();
        }
        self.rounds += 1;
        leading.running = Some(Round { id: self.rounds, asks: std::mem::take(&mut leading.waiting) });
        vec![Action::Round(self.rounds)]
    }
}

impl Leading {
    fn grant(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        process: u64,
        now: BootTime,
        state: &ClusterState,
    ) -> Answer {
        if self.appointing.is_some() {
            return Answer::Refused("another manager is being appointed");
        }
        if state.appointment.as_ref().map(|current| (current.epoch, current.manager)) != Some((epoch, from)) {
            return Answer::Refused("another manager is in office");
        }
        if !may_manage(state, from) {
            return Answer::Refused("it is no candidate that votes any more");
        }
        if self.let_go == Some(epoch) {
            return Answer::Refused("it let go");
        }
        if self.retiring == Some(epoch) {
            return Answer::Refused("a better manager takes over");
        }
        self.granted = now;
        self.given_up = None;
        let other = |(of, only)| of == epoch && only != Some(process);
        self.granted_to =
            Some((epoch, if self.granted_to.is_some_and(other) { None } else { Some(process) }));
        Answer::Granted
    }

    fn watch_fitness(&mut self, epoch: Epoch, manager: NodeId, now: BootTime, view: View<'_>) {
        let report = heard(manager, now, view);
        // It waited for this long itself before it says so.
        let is_stuck =
            report.is_some_and(|report| report.problems.iter().any(|found| found.code == "no-majority"));
        if self.stuck.0 != view.state.generation() {
            self.stuck = (view.state.generation(), BTreeSet::new());
        }
        if is_stuck {
            self.stuck.1.insert(manager);
        }
        // Before there is a head nobody is ready, and that is no reason to go from one to another.
        let unfit = report.is_some_and(|report| {
            report.state == NodeState::RootMissing || (!report.is_fit() && view.state.head.is_some())
        });
        if !unfit && !is_stuck {
            self.unfit = None;
            return;
        }
        let since = match self.unfit {
            Some((of, since)) if of == epoch => since,
            _ => now,
        };
        self.unfit = Some((epoch, since));
        let other = choose(Some(manager), None, now, view);
        let better = other.and_then(|id| Some((id, heard(id, now, view)?))).is_some_and(|(id, other)| {
            let holds_head = other.holds.unwrap_or_default() >= view.state.generation();
            other.is_fit() && holds_head && !(is_stuck && self.stuck.1.contains(&id))
        });
        if better && (is_stuck || now.since(since) >= UNFIT_MAX) {
            self.retiring = Some(epoch);
        }
    }

    /// A manager that does not hear the order must not hold it up.
    fn watch_order(&mut self, epoch: Epoch, is_ordered: bool, now: BootTime) {
        let since = match self.ordered {
            Some((of, since)) if of == epoch => since,
            _ => now,
        };
        self.ordered = is_ordered.then_some((epoch, since));
        if is_ordered && now.since(since) >= UNHEEDED_MAX {
            self.retiring = Some(epoch);
        }
    }
}

/// What a node said of itself, if that is not too long ago.
pub(super) fn heard<'a>(node: NodeId, now: BootTime, view: View<'a>) -> Option<&'a NodeReport> {
    if node == view.me {
        return Some(view.own);
    }
    let name = &view.state.members.get(&node)?.name;
    view.heard.get(name).filter(|heard| now.since(heard.at) <= HEARD_WITHIN).map(|heard| &heard.report)
}

fn all_heard(now: BootTime, view: View<'_>) -> bool {
    let mut candidates = view.state.members.keys().filter(|id| may_manage(view.state, **id));
    candidates.all(|id| heard(*id, now, view).is_some())
}

/// The best candidate that votes, is heard, has its roots, and is not `except`: one that holds the head's content (if none
/// does, the most complete), then the one that was ordered, then in a pause one whose folder is at the head, for no
/// other can be brought there, then a fit one, then by priority, then another than the leader itself, then by name.
pub(super) fn choose(
    except: Option<NodeId>,
    ordered: Option<NodeId>,
    now: BootTime,
    view: View<'_>,
) -> Option<NodeId> {
    let state = view.state;
    let candidates: Vec<_> = state
        .members
        .iter()
        .filter(|(id, _)| may_manage(state, **id) && Some(**id) != except)
        .filter(|(id, _)| state.head.is_some() || may_seed(&state.seed, **id))
        .filter_map(|(id, member)| heard(*id, now, view).map(|report| (*id, &member.name, report)))
        .filter(|(_, _, report)| report.state != NodeState::RootMissing)
        .collect();
    let holds = |report: &NodeReport| report.holds.unwrap_or_default().min(state.generation());
    let head = state.head.as_ref().filter(|_| state.paused.is_some()).map(|head| head.digest.to_string());
    let differs = |report: &NodeReport| head.is_some() && report.digest != head;
    let most = candidates.iter().map(|(_, _, report)| holds(report)).max()?;
    candidates
        .into_iter()
        .filter(|(_, _, report)| holds(report) == most)
        .min_by_key(|(id, name, report)| {
            let wished = (Some(*id) != ordered, differs(report), !report.is_fit());
            (wished, Reverse(report.priority), *id == view.me, *name)
        })
        .map(|(id, _, _)| id)
}

/// Whether `node` is a candidate that votes.
fn may_manage(state: &ClusterState, node: NodeId) -> bool {
    state.members.get(&node).is_some_and(|member| member.role == Role::Candidate)
        && state.voters.contains(&node)
}

fn may_seed(seed: &Seed, node: NodeId) -> bool {
    match seed {
        Seed::Anyone => true,
        Seed::OneOf(nodes) => nodes.contains(&node),
        Seed::Conflict(_) => false,
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(super) mod tests;
