//! A node's place in its cluster: that it is still its own, at this address, with the data folder that the others know.
//!
//! Every node remembers the most that it heard of each other: how often it started, and how far its log was applied. A
//! node with a log presents itself to the others before its log runs: whoever knows more of it than it does itself has
//! met a later state of its data folder, so that one was set back and must not vote. Once a majority of the voters has
//! answered, which the log needs anyway, it goes on. A node that loses its leader presents itself again: it may have
//! been removed meanwhile. Where it says that it is, the leader takes over.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::cluster::db::{Keep, RaftDb, SEEN};
use crate::cluster::error::ClusterError;
use crate::cluster::log_store::blocking;
use crate::cluster::members::MemberRequest;
use crate::cluster::service::newcomer;
use crate::cluster::shared::Shared;
use crate::cluster::state::is_removed;
use crate::cluster::types::Own;
use crate::model::{ClusterState, Heard, NodeId, Problem, Severity, is_majority_of};
use crate::rpc;
use crate::wire::proto::{HelloReply, HelloRequest, JoinRequest, PresentReply, PresentRequest};

/// It is no member any more.
pub(super) const REMOVED: &str = "removed";
/// Its data folder was set back.
pub(super) const ROLLED_BACK: &str = "rolled-back";
/// Its data folder runs elsewhere, too.
pub(super) const CLONED: &str = "cloned";

/// One peer's answer; it may look for somebody else meanwhile.
const PRESENT_MAX: Duration = Duration::from_millis(2500);
/// How long a peer looks who answers at a member's address.
const PROBE_MAX: Duration = Duration::from_secs(1);
/// How long others are waited for once enough have answered: each may know something else.
const ALSO: Duration = Duration::from_millis(300);
/// Between two rounds before the log runs.
const AGAIN: Duration = Duration::from_millis(300);
/// A follower's word is enough after this: the voters that this node knows may all be gone.
const FOLLOWED_AFTER: Duration = Duration::from_secs(3);
/// A node that runs and was without a leader for this long asks whether it is a member still.
const LONELY: Duration = Duration::from_secs(2);
/// How often what was heard is looked through, and how often it is stored.
const REMEMBER_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// A clone tries again and again; one that is not heard for this long is gone.
const CLONE_GONE: Duration = Duration::from_secs(10);

/// No data folder was started more often: whoever says so would bar itself for ever.
const STARTS_MAX: u64 = 1 << 32;

/// The most that was heard of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) starts: u64,
    /// The process of that start: another one with the same number started on an older state of the data folder.
    pub(super) process: u64,
    pub(super) applied: u64,
}

impl Seen {
    fn start(&mut self, starts: u64, process: u64) {
        if starts > self.starts && starts <= STARTS_MAX {
            (self.starts, self.process) = (starts, process);
        }
    }
}

/// The most that was heard of each member; bounded by their number.
pub(super) type AllSeen = BTreeMap<NodeId, Seen>;

/// What came of presenting this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The log may run.
    Kept,
    /// It is no member any more.
    Removed,
    /// Its data folder was set back: it needs another place.
    SetBack,
}

/// Whether what a node says of itself is less than what was heard of it.
fn is_set_back(seen: Seen, starts: u64, process: u64, log_index: u64) -> bool {
    let is_older = starts < seen.starts || (starts == seen.starts && process != seen.process);
    is_older || log_index < seen.applied
}

/// Who answers at an address.
async fn probe(shared: &Shared, address: &str) -> Option<HelloReply> {
    let request = HelloRequest {
        cluster_name: shared.config.cluster_name.clone(),
        node_name: shared.config.node_name.clone(),
        ..HelloRequest::default()
    };
    let mut client = shared.peers.coordination(None, address).ok()?;
    rpc::within(PROBE_MAX, client.hello(request)).await.ok()
}

/// Answers a member that presents itself: what this node knows of it.
pub(super) async fn answer(
    shared: &Shared,
    request: PresentRequest,
    from: Option<SocketAddr>,
) -> Result<PresentReply, Status> {
    let (own, state) = (shared.own.borrow().clone(), shared.state.borrow().clone());
    let Some(own) = own.filter(|own| request.cluster_id == own.cluster.0[..]) else {
        return Ok(PresentReply::default());
    };
    let Some(state) = state else { return Ok(PresentReply { node_id: own.node, ..PresentReply::default() }) };
    let follows = shared.standing.borrow().confirmed;
    let known = PresentReply { node_id: own.node, known: true, follows, ..PresentReply::default() };
    let problem = |code: &str, why: String| Ok(PresentReply { code: code.to_owned(), why, ..known.clone() });
    let id = request.node_id;
    if is_removed(&state, id) {
        return problem(REMOVED, "this node was removed from its cluster; it touches no file".to_owned());
    }
    // One that this node's log does not name yet.
    let Some(member) = state.members.get(&id) else { return Ok(PresentReply::default()) };
    let presented = newcomer(JoinRequest {
        node_name: member.name.clone(),
        address: request.address,
        role: request.role,
        incarnation: bytes::Bytes::copy_from_slice(&member.incarnation),
        ..JoinRequest::default()
    });
    let presented = presented.map_err(Status::invalid_argument)?;
    let is_this = |other: &HelloReply| other.cluster_id == own.cluster.0[..] && other.node_id == id;
    let Ok(_turn) = shared.probing.try_acquire() else {
        return Err(Status::resource_exhausted("too many present themselves at once"));
    };
    let (at_home, there) = if member.address == presented.address {
        let there = probe(shared, &member.address).await;
        (there.clone(), there)
    } else {
        tokio::join!(probe(shared, &member.address), probe(shared, &presented.address))
    };
    // Anybody may call this: what it says counts once whoever listens where it says that it is says so, too.
    let is_proved = there.is_some_and(|other| is_this(&other) && other.process == request.process);
    if at_home.is_some_and(|other| is_this(&other) && other.process != request.process) {
        let host = from.map_or_else(String::new, |from| format!(" (speaking from {})", from.ip()));
        let why = format!(
            "the data folder of {} runs twice: at {} and at {}{host}",
            member.name, member.address, presented.address
        );
        *shared.clone_seen() = Some(Instant::now());
        let remedy = format!("stop the daemon on the host that is not meant to be {}", member.name);
        shared.note(CLONED, Some(Problem::new(Severity::Critical, CLONED, why.clone(), remedy)));
        return problem(CLONED, why);
    }
    let seen = {
        let mut all = shared.all_seen();
        let seen = all.entry(id).or_default();
        let before = *seen;
        if is_proved && !is_set_back(before, request.starts, request.process, request.log_index) {
            // At once: whoever comes next from an older state of the same data folder may come soon.
            seen.start(request.starts, request.process);
        }
        before
    };
    if is_set_back(seen, request.starts, request.process, request.log_index) {
        let why = format!(
            "the data folder of {} was set back: it is at start {} and log entry {}, and was heard at start {} and \
             log entry {}",
            member.name, request.starts, request.log_index, seen.starts, seen.applied
        );
        return problem(ROLLED_BACK, why);
    }
    let has_moved = member.address != presented.address || member.role != presented.role;
    if has_moved && is_proved && shared.serving.borrow().is_some() {
        // Dropped when too much waits: it presents itself again until it is so.
        drop(shared.members.try_send(MemberRequest::Move(id, presented)));
    }
    Ok(known)
}

/// Says to all others who and where this node is; what they answered, until a little after it is `enough`.
async fn present(
    shared: &Shared,
    own: &Own,
    log_index: u64,
    enough: impl Fn(&[PresentReply]) -> bool,
) -> Vec<PresentReply> {
    let config = &shared.config;
    let state = shared.state.borrow().clone();
    let members = state.iter().flat_map(|state| &state.members).filter(|(id, _)| **id != own.node);
    let mut addresses: BTreeSet<String> = members.map(|(_, member)| member.address.clone()).collect();
    let listed = config.listed.iter().filter(|node| node.name != config.node_name);
    addresses.extend(listed.map(|node| node.address.clone()));
    addresses.remove(&config.address);
    let request = PresentRequest {
        cluster_id: bytes::Bytes::copy_from_slice(&own.cluster.0),
        node_id: own.node,
        address: config.address.clone(),
        role: config.role.to_string(),
        process: shared.process,
        starts: shared.starts,
        log_index,
    };
    let mut asked: FuturesUnordered<_> = addresses
        .into_iter()
        .map(|address| {
            let request = request.clone();
            async move {
                let mut client = shared.peers.coordination(None, &address).ok()?;
                rpc::within(PRESENT_MAX, client.present(request)).await.ok()
            }
        })
        .collect();
    let mut replies = Vec::new();
    let mut until: Option<Instant> = None;
    loop {
        let next = asked.next();
        let reply = match until {
            Some(until) => tokio::time::timeout_at(until, next).await.ok().flatten(),
            None => next.await,
        };
        let Some(reply) = reply else { return replies };
        replies.extend(reply);
        if until.is_none() && enough(&replies) {
            until = Some(Instant::now() + ALSO);
        }
    }
}

/// Presents this node until its log may run, or never may; none when `stop` came first.
pub(super) async fn keep(
    shared: &Shared,
    db: &Arc<RaftDb>,
    own: &Own,
    stop: &CancellationToken,
) -> Result<Option<Place>, ClusterError> {
    let begun = Instant::now();
    loop {
        let Some(asked) = stop.run_until_cancelled(ask(shared, db, own, begun)).await else {
            return Ok(None);
        };
        if let Some(place) = asked? {
            return Ok(Some(place));
        }
        if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
            return Ok(None);
        }
    }
}

/// Presents this node once, as it has since `begun`; none when too few answered yet, which it says.
pub(super) async fn ask(
    shared: &Shared,
    db: &Arc<RaftDb>,
    own: &Own,
    begun: Instant,
) -> Result<Option<Place>, ClusterError> {
    let last = {
        let db = Arc::clone(db);
        blocking(move || db.last_index()).await?
    };
    let state = shared.state.borrow().clone();
    let enough = |replies: &[PresentReply]| may_run(state.as_deref(), own, replies, begun.elapsed());
    let replies = present(shared, own, last, enough).await;
    if let Some(place) = judged(shared, &replies) {
        return Ok(Some(place));
    }
    let cloned = replies.iter().any(|reply| reply.code == CLONED);
    if !cloned && may_run(state.as_deref(), own, &replies, begun.elapsed()) {
        shared.wait_for(None);
        return Ok(Some(Place::Kept));
    }
    shared.wait_for(Some(missing(state.as_deref(), own, &replies, cloned)));
    Ok(None)
}

/// Says what the others know of this node; a place when there is nothing to wait for.
fn judged(shared: &Shared, replies: &[PresentReply]) -> Option<Place> {
    let says = |code: &str| replies.iter().find(|reply| reply.code == code);
    let name = &shared.config.node_name;
    let problem = |code, reply: &PresentReply, remedy: String| {
        Some(Problem::new(Severity::Critical, code, reply.why.clone(), remedy))
    };
    shared.note(
        CLONED,
        says(CLONED).and_then(|reply| {
            let remedy = format!(
                "stop the daemon on the host that is not meant to be {name}, and remove its data folder there"
            );
            problem(CLONED, reply, remedy)
        }),
    );
    if let Some(reply) = says(REMOVED) {
        tracing::error!(why = reply.why, "this node was removed from its cluster");
        // The rest of the data folder stays: it holds what people wrote.
        let remedy = "if it is to come back, on this host: `systemctl stop syncd`, then `syncd recover --rejoin`, then \
                      `systemctl start syncd`; else stop it and take it out of the list of nodes";
        shared.note(REMOVED, problem(REMOVED, reply, remedy.to_owned()));
        return Some(Place::Removed);
    }
    // Whose data folder runs elsewhere is not set back: the copy is older than what runs.
    if says(CLONED).is_some() {
        return None;
    }
    let reply = says(ROLLED_BACK)?;
    tracing::error!(
        why = reply.why,
        "this node's data folder was set back: it votes no more under its former id"
    );
    shared.note(ROLLED_BACK, Some(rolled_back(reply.why.clone())));
    Some(Place::SetBack)
}

/// The problem of a node that was set back.
pub(super) fn rolled_back(why: String) -> Problem {
    let remedy = "none is needed: it rejoins by itself under a new id, as after a lost disk, and fetches what it lacks";
    Problem::new(Severity::Critical, ROLLED_BACK, why, remedy)
}

/// Whether enough of the others know this node as it is.
fn may_run(state: Option<&ClusterState>, own: &Own, replies: &[PresentReply], waited: Duration) -> bool {
    let me = own.node;
    let sound = || replies.iter().filter(|reply| reply.code.is_empty());
    let mut knowing: BTreeSet<NodeId> =
        sound().filter(|reply| reply.known).map(|reply| reply.node_id).collect();
    // That the log has not come yet is what a data folder says, too, that was set back to then.
    let Some(state) = state else {
        let Some(record) = &own.record else { return !knowing.is_empty() };
        // Nobody knows a founder before the cluster has formed: each that has the record stored says at least that.
        let founders: BTreeSet<NodeId> = record.founders.keys().copied().collect();
        let mut there: BTreeSet<NodeId> = sound().map(|reply| reply.node_id).collect();
        there.insert(me);
        return is_majority_of(&founders, &there);
    };
    if !state.voters.contains(&me) {
        return !knowing.is_empty();
    }
    let followed = replies.iter().any(|reply| reply.known && reply.follows);
    knowing.insert(me);
    is_majority_of(&state.voters, &knowing) || (followed && waited >= FOLLOWED_AFTER)
}

fn missing(state: Option<&ClusterState>, own: &Own, replies: &[PresentReply], cloned: bool) -> String {
    if cloned {
        return "the host on which this node's data folder runs already".to_owned();
    }
    let me = own.node;
    if state.is_none() {
        return match &own.record {
            Some(_) => "a majority of the voters that form this cluster: start their daemons".to_owned(),
            None => "a member that knows this node: start the listed voters".to_owned(),
        };
    }
    let answered = |id: NodeId| replies.iter().any(|reply| reply.known && reply.node_id == id);
    let silent: Vec<String> = state
        .iter()
        .flat_map(|state| state.voters.iter().filter_map(|id| Some((*id, state.members.get(id)?))))
        .filter(|(id, _)| *id != me && !answered(*id))
        .map(|(_, member)| format!("{} at {}", member.name, member.address))
        .collect();
    format!("a majority of the voters; not heard yet: {}; the gateways serve on", silent.join(", "))
}

/// Follows whether this node is a member still, until `stop`; then it says so and ends `running`.
pub(super) async fn watch(shared: Arc<Shared>, own: Own, running: CancellationToken) {
    let mut tick = tokio::time::interval(LONELY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        tokio::select! {
            () = running.cancelled() => return,
            _ = tick.tick() => {}
        }
        let confirmed = shared.standing.borrow().confirmed;
        let member = shared.state.borrow().as_ref().and_then(|state| state.members.get(&own.node).cloned());
        let is_member = member.is_some();
        let is_at_home = member.is_none_or(|member| {
            member.address == shared.config.address && member.role == shared.config.role
        });
        if confirmed && is_at_home {
            if is_member {
                // It has its new place.
                shared.note(ROLLED_BACK, None);
            }
            continue;
        }
        // Its log runs, so it can't be set back; it may only have gone.
        let Some(replies) = running.run_until_cancelled(present(&shared, &own, u64::MAX, |_| false)).await
        else {
            return;
        };
        if judged(&shared, &replies) == Some(Place::Removed) {
            running.cancel();
        }
    }
}

/// Remembers the most that is heard of each member, until `stop`.
pub(super) async fn remember(
    shared: Arc<Shared>,
    db: Arc<RaftDb>,
    stop: CancellationToken,
) -> Result<(), ClusterError> {
    let mut tick = tokio::time::interval(REMEMBER_EVERY.0);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut news = shared.heard.clone();
    let mut stored = (Instant::now(), shared.all_seen().clone());
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Ok(()) = news.changed() => {}
            _ = tick.tick() => {}
        }
        let (heard, state) = (news.borrow_and_update().clone(), shared.state.borrow().clone());
        let Some(state) = state else { continue };
        let seen = {
            let mut seen = shared.all_seen();
            learn(&mut seen, &heard, &state);
            seen.clone()
        };
        if seen != stored.1 && stored.0.elapsed() >= REMEMBER_EVERY.1 {
            stored = (Instant::now(), seen.clone());
            let db = Arc::clone(&db);
            blocking(move || db.write(Keep::Later, |writer| writer.put(SEEN, &seen))).await?;
        }
        if shared.clone_seen().is_some_and(|at| at.elapsed() >= CLONE_GONE) {
            *shared.clone_seen() = None;
            shared.note(CLONED, None);
        }
    }
}

fn learn(seen: &mut AllSeen, heard: &Heard, state: &ClusterState) {
    for (name, heard) in heard {
        let Some(instance) = &heard.report.instance else { continue };
        // Each says how it is itself, and nobody how another is.
        if state.members.get(&instance.node).is_none_or(|member| member.name != *name) {
            continue;
        }
        let known = seen.entry(instance.node).or_default();
        known.start(instance.starts, instance.process);
        // No more than this node knows to be committed: a peer's word must not bar another for ever.
        known.applied = known.applied.max(instance.applied.min(state.applied_index));
    }
    seen.retain(|id, _| state.members.contains_key(id));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::types::{FormationRecord, Founder, Timing};

    fn reply(node_id: NodeId, code: &str) -> PresentReply {
        PresentReply { node_id, known: true, code: code.to_owned(), ..PresentReply::default() }
    }

    #[test]
    fn less_than_was_heard_is_set_back() {
        let seen = Seen { starts: 4, process: 7, applied: 100 };
        for (starts, process, index, expected) in [
            (5, 8, 100, false),
            (5, 8, 120, false),
            (4, 7, 120, false),
            (4, 8, 120, true),
            (3, 8, 120, true),
            (5, 8, 99, true),
        ] {
            assert_eq!(is_set_back(seen, starts, process, index), expected, "{starts} {process} {index}");
        }
        assert!(!is_set_back(Seen::default(), 1, 8, 0));
    }

    #[test]
    fn a_voter_runs_once_a_majority_knows_it() {
        let state = crate::cluster::appoint::tests::state(3);
        let may = |me, replies: &[PresentReply], secs| {
            may_run(Some(&state), &own(me, None), replies, Duration::from_secs(secs))
        };
        assert!(!may(1, &[], 100));
        assert!(may(1, &[reply(2, "")], 0));
        assert!(!may(1, &[PresentReply { known: false, ..reply(2, "") }], 100));
        assert!(!may(1, &[reply(70, "")], 0), "no voter that it knows");
        assert!(
            may(1, &[PresentReply { follows: true, ..reply(70, "") }], 4),
            "but one that follows a leader"
        );
        assert!(may(9, &[reply(2, "")], 0), "a worker");
        assert!(!may(9, &[], 100));
    }

    #[test]
    fn a_report_says_nothing_of_another_node() {
        use crate::cluster::appoint::tests::{ms, report, state};
        use crate::model::{HeardReport, Instance};
        let mut state = state(3);
        state.applied_index = 50;
        let said = |by: NodeId, of: NodeId, starts: u64| {
            let instance = Instance { node: of, process: 7, starts, applied: 90, holds: None };
            let report = crate::model::NodeReport { instance: Some(instance), ..report(by) };
            (state.members[&by].name.clone(), HeardReport { report, at: ms(1) })
        };
        let mut seen = AllSeen::new();
        learn(&mut seen, &[said(2, 3, 1000), said(3, 9, 5)].into(), &state);
        assert!(seen.is_empty(), "{seen:?}");
        learn(&mut seen, &[said(2, 2, 4)].into(), &state);
        assert_eq!(seen[&2], Seen { starts: 4, process: 7, applied: 50 });
        learn(&mut seen, &[said(2, 2, u64::MAX)].into(), &state);
        assert_eq!(seen[&2].starts, 4, "it would never be believed again");
    }

    fn own(node: NodeId, founders: Option<u64>) -> Own {
        let crate::model::ClusterState { cluster, members, .. } = crate::cluster::appoint::tests::state(3);
        let content = crate::model::FirstContent { digest: crate::model::Digest([0; 32]), files: 0 };
        let second = Duration::from_secs(1);
        let timing = Timing { heartbeat: second, timeout: second, lease: second };
        let record = founders.map(|count| FormationRecord {
            cluster,
            name: "test".to_owned(),
            writer: 1,
            founders: (1..=count).map(|id| (id, Founder { member: members[&id].clone(), content })).collect(),
            timing,
            succeeds: Vec::new(),
        });
        Own { cluster, node, name: format!("gw{node}"), record, timing }
    }

    #[test]
    fn without_a_state_others_say_whether_there_was_one() {
        let may = |own: &Own, replies: &[PresentReply]| may_run(None, own, replies, Duration::from_secs(100));
        let admitted = own(9, None);
        assert!(!may(&admitted, &[]), "it may have been set back to when it was admitted");
        assert!(!may(&admitted, &[PresentReply { known: false, ..reply(2, "") }]));
        assert!(!may(&admitted, &[reply(2, CLONED)]));
        assert!(may(&admitted, &[reply(2, "")]));
        let founder = own(2, Some(3));
        assert!(!may(&founder, &[]), "the cluster may have formed, and this one voted in it");
        assert!(!may(&founder, &[PresentReply::default()]), "one that has not the record");
        assert!(may(&founder, &[PresentReply { known: false, ..reply(3, "") }]));
        assert!(may(&own(1, Some(1)), &[]));
    }
}
