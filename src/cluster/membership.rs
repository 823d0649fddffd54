//! The leader's one decision maker about members: who is admitted, removed, made a voter. Pure: no clock, no task, no log.
//!
//! What keeps a committed generation alive while members change (invariant 1):
//! - Voters change one at a time, and a change is announced in the log first. The state machine takes the announcement
//!   only while a majority of the voters after it, newcomers among them, hold every blob of the head; from then on until
//!   the change is done, a generation is committed only when majorities of both sets hold it.
//! - A node's word that it holds the head counts for the life that gave it: its internal id, never used again.
//! - A change is begun, and gone on with, only while a majority of the voters after it can be reached.
//! - The former life of a node that comes back with another data folder is removed only after it was silent for
//!   [`RETURN_AFTER`], as this leader has heard or missed it by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::cluster::state::is_bound;
use crate::cluster::types::FOUNDERS_MAX;
use crate::model::{
    BootTime, ClusterState, Heard, Member, NodeId, NodeReport, Refusal, Role, is_majority_of,
};

/// A member that was silent for this long may be replaced by a newcomer of its name.
pub const RETURN_AFTER: Duration = Duration::from_secs(10);
/// A member can be reached if it was heard within this: six questions of the roster.
const REACHED_WITHIN: Duration = Duration::from_secs(3);
/// A newcomer asks at least every 5 s; one that stopped asking replaces nobody.
const ASKED_WITHIN: Duration = Duration::from_secs(15);
/// An order to remove a member that was not carried out by then is forgotten, and its outcome not known.
const ORDERED_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks of a process that does not stand still.
const STILL: Duration = Duration::from_secs(1);
/// A learner that lacks no more entries than this has caught up: it is heard, so the rest is on its way.
const LAG_MAX: u64 = 64;
/// Voters at most: each commit waits for a majority of them.
const VOTERS_MAX: u64 = FOUNDERS_MAX - 1;

/// What the leader sees when it decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight<'a> {
    pub(super) state: &'a ClusterState,
    /// The leader itself, and its own report.
    pub(super) me: NodeId,
    pub(super) own: &'a NodeReport,
    /// Those of the others.
    pub(super) heard: &'a Heard,
    pub(super) log: &'a Log,
}

/// What the log's core says of its own membership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    /// The sets of voters in its last membership entry, each of which needs a majority; two while they change.
    pub(super) configs: Vec<BTreeSet<NodeId>>,
    /// All that it sends to.
    pub(super) nodes: BTreeSet<NodeId>,
    /// How far each of them has it.
    pub(super) matched: BTreeMap<NodeId, u64>,
    /// Its last index here.
    pub(super) last: u64,
}

/// The next thing to do. Each may be done twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send the log to a member.
    AddLearner(NodeId),
    /// Send the log no more to a node that is no member.
    DropLearner(NodeId),
    /// Announce a change of voters and, if the log takes that, make it; or take it back, when these are the voters in
    /// force. `retain`: whoever votes no more stays a learner.
    Change { to: BTreeSet<NodeId>, holding: BTreeSet<NodeId>, generation: u64, retain: bool },
    /// Go on with a change that is half made.
    Finish { to: BTreeSet<NodeId>, retain: bool },
    /// Take a member that does not vote out of the state.
    Expel(NodeId),
}

/// What a newcomer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Join {
    /// It is this member already.
    Known(NodeId),
    /// Nothing bars it: it takes an entry.
    Admit,
    /// It must wait for something that goes on by itself.
    Wait(String),
    /// Its name is taken by a node that lives.
    Duplicate(String),
    /// It was this member, with a log that it has no more: it must ask again as another.
    SetBack(String),
}

/// Why a member is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Somebody ordered it, at this time; the order itself takes it out of the state once it votes no more.
    Ordered(BootTime),
    /// A newcomer of its name asked, last at this time.
    Returns(BootTime),
}

#[derive(Debug)]
struct Leading {
    /// Since when this process has listened as leader without standing still.
    since: BootTime,
    ticked: BootTime,
    leaving: BTreeMap<NodeId, Why>,
    /// Why a change that is wanted can't be made yet.
    barred: Option<String>,
}

/// The machine. One for each process; it sleeps while this node does not lead.
#[derive(Debug)]
pub(super) struct Membership {
    return_after: Duration,
    leading: Option<Leading>,
}

impl Membership {
    pub(super) fn new(return_after: Duration) -> Self {
        Self { return_after, leading: None }
    }

    /// This node began to lead, and has applied an entry of its own.
    pub(super) fn lead(&mut self, now: BootTime) {
        self.leading = Some(Leading { since: now, ticked: now, leaving: BTreeMap::new(), barred: None });
    }

    /// This node does not lead any more.
    pub(super) fn follow(&mut self) {
        self.leading = None;
    }

    /// Why a change that is wanted can't be made yet.
    pub(super) fn barred(&self) -> Option<&str> {
        self.leading.as_ref()?.barred.as_deref()
    }

    /// A node without a place in the cluster asks for one; none while this node does not lead.
    pub(super) fn join(&mut self, now: BootTime, newcomer: &Member, sight: Sight<'_>) -> Option<Join> {
        let return_after = self.return_after;
        let leading = self.leading.as_mut()?;
        let state = sight.state;
        let Some((id, member)) = state.members.iter().find(|(_, member)| member.name == newcomer.name) else {
            return Some(Join::Admit);
        };
        if member.incarnation == newcomer.incarnation {
            // Whoever votes or was heard with a log stored its place before: it asks only if it forgot that, and with
            // it whom it voted for and what it promised to keep.
            let has_voted = is_bound(state, *id);
            let had_log = sight.log.matched.contains_key(id)
                || report_of(*id, sight).is_some_and(|(report, _)| applied(report) > 0);
            return Some(if has_voted || had_log {
                Join::SetBack(format!(
                    "the data folder of {} was set back: it asks for admission, and was a member with a log",
                    member.name
                ))
            } else {
                Join::Known(*id)
            });
        }
        let silent = leading.silent_for(*id, now, sight);
        if silent < return_after {
            return Some(if leading.is_heard(*id, now, sight) || *id == sight.me {
                Join::Duplicate(format!(
                    "node {} lives at {}, and another data folder asks for its place from {}",
                    member.name, member.address, newcomer.address
                ))
            } else {
                Join::Wait(format!(
                    "the former data folder of {} (at {}) was not heard for {} s; its place is given to the one at {} \
                     after {} s",
                    member.name,
                    member.address,
                    silent.as_secs(),
                    newcomer.address,
                    return_after.as_secs()
                ))
            });
        }
        let why = leading.leaving.entry(*id).or_insert(Why::Returns(now));
        if let Why::Returns(asked) = why {
            *asked = now;
        }
        let barred = leading.barred.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        Some(Join::Wait(format!("the former data folder of {} is removed first{barred}", member.name)))
    }

    /// Somebody orders that a member goes: its id, which is to vote no more.
    ///
    /// # Errors
    /// Why not, and what to do about it.
    pub(super) fn remove(&mut self, now: BootTime, name: &str, sight: Sight<'_>) -> Result<NodeId, Refusal> {
        let Some(leading) = &mut self.leading else {
            return Err(Refusal::new("this node does not lead any more", "give the order again"));
        };
        let state = sight.state;
        let Some(id) = state.id_of(name) else {
            let why = format!("there is no member called {name:?}");
            return Err(Refusal::new(why, "see `syncd status` for the members' names"));
        };
        if id == sight.me {
            let why = format!("{name} leads the election now");
            return Err(Refusal::new(
                why,
                "stop its daemon, so that another leads; then give the order again",
            ));
        }
        let in_office = state.appointment.as_ref().is_some_and(|current| current.manager == id);
        if in_office && leading.is_heard(id, now, sight) {
            let why = format!("{name} is the manager in office");
            return Err(Refusal::new(
                why,
                "`syncd switchover` first, or stop its daemon; then give the order again",
            ));
        }
        if state.voters.contains(&id) {
            let to: BTreeSet<NodeId> = state.voters.iter().copied().filter(|voter| *voter != id).collect();
            let remedy =
                "start or mend the nodes that remain, until `syncd status` shows them in sync; then again";
            leading.allowed(&to, now, sight).map_err(|why| Refusal::new(why, remedy))?;
        }
        leading.leaving.insert(id, Why::Ordered(now));
        Ok(id)
    }

    /// What to do next; none when all is as it should be, or nothing can be done now.
    pub(super) fn next(&mut self, now: BootTime, sight: Sight<'_>) -> Option<Step> {
        let leading = self.leading.as_mut()?;
        if now.since(leading.ticked) > STILL {
            // This process stood still, so it can't say that others were silent.
            leading.since = now;
        }
        leading.ticked = now;
        let (state, log) = (sight.state, sight.log);
        // Whoever is heard again was not lost.
        let back: BTreeSet<NodeId> =
            leading.leaving.keys().copied().filter(|id| leading.is_heard(*id, now, sight)).collect();
        leading.leaving.retain(|id, why| {
            let goes = match why {
                Why::Ordered(at) => now.since(*at) <= ORDERED_WITHIN,
                Why::Returns(asked) => now.since(*asked) <= ASKED_WITHIN && !back.contains(id),
            };
            goes && state.members.contains_key(id)
        });
        leading.barred = None;
        let voters = match log.configs.as_slice() {
            [only] => only,
            // Half made, by this leader or one before it: there is only one way on.
            [before, .., after] => {
                let retain = before.difference(after).any(|id| leading.stays(*id, state));
                return Some(Step::Finish { to: after.clone(), retain });
            }
            [] => return None,
        };
        if *voters != state.voters {
            // The entry that changed them is not applied here yet.
            return None;
        }
        if let Some(to) = &state.changing {
            let goes_on = leading.is_wanted(to, now, sight) && leading.allowed(to, now, sight).is_ok();
            let to = if goes_on { to } else { voters };
            return Some(leading.change(to.clone(), now, sight));
        }
        if let Some(stray) =
            log.nodes.iter().find(|id| !state.members.contains_key(id) && !voters.contains(id))
        {
            return Some(Step::DropLearner(*stray));
        }
        leading.go(voters, now, sight).or_else(|| leading.come(voters, now, sight))
    }
}

impl Leading {
    /// How long a member has been silent, as far as this leader can say.
    fn silent_for(&self, id: NodeId, now: BootTime, sight: Sight<'_>) -> Duration {
        if id == sight.me {
            return Duration::ZERO;
        }
        let listened = now.since(self.since);
        let heard = report_of(id, sight).map(|(_, at)| now.since(at));
        heard.map_or(listened, |silent| silent.min(listened))
    }

    fn is_heard(&self, id: NodeId, now: BootTime, sight: Sight<'_>) -> bool {
        id == sight.me || report_of(id, sight).is_some_and(|(_, at)| now.since(at) <= REACHED_WITHIN)
    }

    fn holds_nothing(&self, id: NodeId, now: BootTime, sight: Sight<'_>) -> bool {
        self.is_heard(id, now, sight)
            && match report_of(id, sight) {
                Some((report, _)) => report.holds.is_none(),
                None => id == sight.me && sight.own.holds.is_none(),
            }
    }

    /// Whether whoever votes no more stays a member.
    fn stays(&self, id: NodeId, state: &ClusterState) -> bool {
        !self.leaving.contains_key(&id) && state.members.get(&id).is_some_and(|member| !member.role.votes())
    }

    /// Whether an announced change is still what should be.
    fn is_wanted(&self, to: &BTreeSet<NodeId>, now: BootTime, sight: Sight<'_>) -> bool {
        let voters = &sight.state.voters;
        let role = |id: &NodeId| sight.state.members.get(id).map(|member| member.role);
        let goes = voters
            .difference(to)
            .all(|id| self.leaving.contains_key(id) || role(id).is_none_or(|role: Role| !role.votes()));
        let comes = to.difference(voters).all(|id| {
            role(id).is_some_and(Role::votes)
                && !self.leaving.contains_key(id)
                && self.is_heard(*id, now, sight)
        });
        goes && comes
    }

    /// Whether the voters may become `to`.
    fn allowed(&self, to: &BTreeSet<NodeId>, now: BootTime, sight: Sight<'_>) -> Result<(), String> {
        let names = |ids: Vec<NodeId>| {
            let name = |id: &NodeId| sight.state.members.get(id).map_or("?", |member| member.name.as_str());
            ids.iter().map(name).collect::<Vec<_>>().join(", ")
        };
        if to.is_empty() {
            return Err("no voter would remain".to_owned());
        }
        let reached: BTreeSet<NodeId> =
            to.iter().copied().filter(|id| self.is_heard(*id, now, sight)).collect();
        if !is_majority_of(to, &reached) {
            let silent = to.difference(&reached).copied().collect();
            return Err(format!(
                "of the {} voters that would remain only {} can be reached (not {}), which is no majority",
                to.len(),
                reached.len(),
                names(silent)
            ));
        }
        let Some(head) = &sight.state.head else { return Ok(()) };
        let mut holders: BTreeSet<NodeId> = head.holders.union(&holding(now, sight)).copied().collect();
        // Whoever held it once and says now that it holds nothing whole has lost it since.
        holders.retain(|id| !self.holds_nothing(*id, now, sight));
        if !is_majority_of(to, &holders) {
            let lacking = to.difference(&holders).copied().collect();
            return Err(format!(
                "generation {} is not held by a majority of the voters that would remain: {} lack it",
                head.generation,
                names(lacking)
            ));
        }
        Ok(())
    }

    fn change(&self, to: BTreeSet<NodeId>, now: BootTime, sight: Sight<'_>) -> Step {
        let retain = sight.state.voters.difference(&to).any(|id| self.stays(*id, sight.state));
        Step::Change { to, holding: holding(now, sight), generation: sight.state.generation(), retain }
    }

    /// A step towards a member being gone, or voting no more.
    fn go(&mut self, voters: &BTreeSet<NodeId>, now: BootTime, sight: Sight<'_>) -> Option<Step> {
        let returns = |why: &Why| matches!(why, Why::Returns(_));
        if let Some((id, _)) = self.leaving.iter().find(|(id, why)| !voters.contains(id) && returns(why)) {
            return Some(Step::Expel(*id));
        }
        let demoted = |id: &&NodeId| sight.state.members.get(id).is_none_or(|member| !member.role.votes());
        // A leader that leaves is led by another first.
        let leaving = self.leaving.keys().filter(|id| voters.contains(id));
        let id = *leaving.chain(voters.iter().filter(demoted)).find(|id| **id != sight.me)?;
        let to: BTreeSet<NodeId> = voters.iter().copied().filter(|voter| *voter != id).collect();
        match self.allowed(&to, now, sight) {
            Ok(()) => Some(self.change(to, now, sight)),
            Err(why) => {
                self.barred = Some(why);
                None
            }
        }
    }

    /// A step towards a member having its place.
    fn come(&mut self, voters: &BTreeSet<NodeId>, now: BootTime, sight: Sight<'_>) -> Option<Step> {
        let Sight { state, log, .. } = sight;
        if let Some(id) =
            state.members.keys().find(|id| !log.nodes.contains(id) && !self.leaving.contains_key(id))
        {
            return Some(Step::AddLearner(*id));
        }
        if voters.len() as u64 >= VOTERS_MAX {
            return None;
        }
        let holding = holding(now, sight);
        let holds = |id: &NodeId| {
            state.head.as_ref().is_none_or(|head| head.holders.contains(id) || holding.contains(id))
        };
        let has_log =
            |id: &NodeId| log.matched.get(id).is_some_and(|at| at.saturating_add(LAG_MAX) >= log.last);
        let newcomer = state.members.iter().find(|(id, member)| {
            member.role.votes()
                && !voters.contains(id)
                && !self.leaving.contains_key(id)
                && self.is_heard(**id, now, sight)
                && has_log(id)
                && holds(id)
        });
        let (id, _) = newcomer?;
        let mut to = voters.clone();
        to.insert(*id);
        match self.allowed(&to, now, sight) {
            Ok(()) => Some(self.change(to, now, sight)),
            Err(why) => {
                self.barred = Some(why);
                None
            }
        }
    }
}

/// The newest report of this very life of a member, and when it was heard.
fn report_of<'a>(id: NodeId, sight: Sight<'a>) -> Option<(&'a NodeReport, BootTime)> {
    let heard = sight.heard.get(&sight.state.members.get(&id)?.name)?;
    let is_this_life = heard.report.instance.as_ref().is_some_and(|instance| instance.node == id);
    is_this_life.then_some((&heard.report, heard.at))
}

/// How far a node says that its log was applied.
fn applied(report: &NodeReport) -> u64 {
    report.instance.as_ref().map_or(0, |instance| instance.applied)
}

/// The members that say they hold all of the head.
fn holding(now: BootTime, sight: Sight<'_>) -> BTreeSet<NodeId> {
    let Some(head) = &sight.state.head else { return BTreeSet::new() };
    let digest = head.digest.to_string();
    let says = |report: &NodeReport| {
        let named = report.instance.as_ref().and_then(|instance| instance.holds.as_ref());
        report.holds == Some(head.generation) && named == Some(&digest)
    };
    let holds = |id: &NodeId| {
        if *id == sight.me {
            return says(sight.own);
        }
        report_of(*id, sight).is_some_and(|(report, at)| now.since(at) <= REACHED_WITHIN && says(report))
    };
    sight.state.members.keys().copied().filter(holds).collect()
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
