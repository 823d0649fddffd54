//! Looks beyond this node's own cluster: who of the voters answers while no leader is heard, and whether another
//! cluster succeeded this one. For status, and for people before they recover; nothing here decides anything.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::greet::{Greeting, Heard, greet, greet_as};
use crate::cluster::log_store::blocking;
use crate::cluster::shared::{ClusterConfig, ListedNode, Shared};
use crate::model::{ClusterId, ClusterState, LostQuorum, NodeId, Successor};
use crate::rpc::Peers;

/// How often it looks while no leader is heard, and how often while one is.
const LOOK_LOST: Duration = Duration::from_secs(2);
const LOOK_LED: Duration = Duration::from_secs(30);
/// An election takes less than this: before, nobody need be told who is missing.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// How old the newest entry's place may be that is said to others.
const LAST_FOR: Duration = Duration::from_millis(250);

/// Keeps what the standing says of the quorum and of a successor, until `stop`.
pub(super) async fn keep_outlook(shared: Arc<Shared>, stop: CancellationToken) {
    let mut lost_since: Option<Instant> = None;
    let mut looked: Option<Instant> = None;
    let mut standing = shared.standing.subscribe();
    loop {
        // A leader that lost its quorum goes on believing in itself: only what a quorum confirmed counts.
        let led = standing.borrow_and_update().confirmed;
        lost_since = if led { None } else { lost_since.or_else(|| Some(Instant::now())) };
        let due = match lost_since {
            Some(since) => (since + LOST_AFTER).max(looked.map_or(since, |at| at + LOOK_LOST)),
            None => {
                quorum_is(&shared, None);
                looked.map_or_else(|| Instant::now() + LOOK_LOST, |at| at + LOOK_LED)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = standing.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(due) => {
                let Some(()) = stop.run_until_cancelled(look(&shared, lost_since)).await else { return };
                looked = Some(Instant::now());
            }
        }
    }
}

async fn look(shared: &Shared, lost_since: Option<Instant>) {
    let Some(own) = shared.own.borrow().as_ref().map(|own| own.cluster) else { return };
    let Some(state) = shared.state.borrow().clone() else { return };
    let config = &shared.config;
    let around = neighbours(&state, &config.listed, &config.node_name);
    let heard = greet(&shared.peers, &config.cluster_name, &config.node_name, around).await;
    let successor = successor(own, &state.lineage.succeeds, &heard);
    let predecessors = predecessors(&state.lineage.succeeds, &heard);
    shared.standing.send_if_modified(|standing| {
        let lives_on = standing.predecessors != predecessors;
        standing.predecessors = predecessors;
        let changed = standing.successor != successor;
        if changed && let Some(successor) = &successor {
            tracing::warn!(cluster = %successor.cluster, seen_on = ?successor.seen_on, "another cluster succeeded this one");
        }
        standing.successor = successor;
        changed || lives_on
    });
    if let Some(since) = lost_since
        && !shared.standing.borrow().confirmed
    {
        let mine = own_last(shared).await;
        quorum_is(shared, Some(lost(own, &state, &config.node_name, mine, since.elapsed(), &heard)));
    }
}

fn quorum_is(shared: &Shared, lost: Option<LostQuorum>) {
    shared.standing.send_if_modified(|standing| {
        let changed = standing.lost_quorum != lost;
        standing.lost_quorum = lost;
        changed
    });
}

/// Term and index of this node's newest entry, as they were within the last [`LAST_FOR`]; zeros when there is none, or
/// it can't be read now. Anybody may ask for it, so that it is read no more often than that.
pub(super) async fn own_last(shared: &Shared) -> (u64, u64) {
    let mut last = shared.last.lock().await;
    match *last {
        Some((at, known)) if at.elapsed() < LAST_FOR => known,
        _ => {
            let read = read_last(shared).await;
            *last = Some((Instant::now(), read));
            read
        }
    }
}

async fn read_last(shared: &Shared) -> (u64, u64) {
    let db = Weak::clone(&shared.db);
    let read = blocking(move || match db.upgrade() {
        Some(db) => Ok(db.last_id()?.map_or((0, 0), |id| (id.leader_id.term, id.index))),
        None => Ok((0, 0)),
    });
    read.await.unwrap_or_else(|error| {
        tracing::debug!(%error, "the newest entry can't be read");
        (0, 0)
    })
}

/// The listed nodes and the voters, but for this node.
pub(super) fn neighbours(state: &ClusterState, listed: &[ListedNode], me: &str) -> Vec<ListedNode> {
    let mut around: Vec<ListedNode> = listed.iter().filter(|node| node.name != me).cloned().collect();
    for member in state.voters.iter().filter_map(|id| state.members.get(id)) {
        if member.name != me && !around.iter().any(|node| node.name == member.name) {
            let (name, address, role) = (member.name.clone(), member.address.clone(), member.role);
            around.push(ListedNode { name, address, role });
        }
    }
    around
}

/// What a node that was asked from offline belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its name in the list.
    pub name: String,
    /// Where it was asked.
    pub address: String,
    /// What came of it.
    pub word: Word,
}

/// See [`Neighbour`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// No answer: why.
    Silent(String),
    /// It belongs to no cluster.
    Empty,
    /// It belongs to this node's cluster.
    Same {
        /// Whether its vote counts.
        votes: bool,
        /// Whether it hears a leader.
        has_leader: bool,
        /// Term and index of its newest entry.
        last: (u64, u64),
        /// Whether it knows that this node was removed.
        removed: bool,
    },
    /// It belongs to another cluster.
    Other {
        /// Which.
        cluster: ClusterId,
        /// Whether that one succeeds this node's, or this node's that one; or both the same one, and that one lives.
        is_kin: bool,
        /// Whether it hears a leader.
        has_leader: bool,
    },
}

/// See [`crate::cluster::LogFile::look_around`].
pub(super) async fn look_around(
    peers: &Peers,
    config: &ClusterConfig,
    (own, me): (ClusterId, NodeId),
    state: &ClusterState,
) -> Vec<Neighbour> {
    let around = neighbours(state, &config.listed, &config.node_name);
    let heard = greet_as(peers, config, (own, me), around).await;
    let word = |node: &ListedNode, heard: Heard| match heard {
        Heard::Silent(why) => Word::Silent(why),
        Heard::Answered(Greeting { cluster: None, .. }) => Word::Empty,
        Heard::Answered(Greeting { cluster: Some(cluster), has_leader, last, removed, .. })
            if cluster == own =>
        {
            let votes = state.id_of(&node.name).is_some_and(|id| state.voters.contains(&id));
            Word::Same { votes, has_leader, last, removed }
        }
        Heard::Answered(Greeting { cluster: Some(cluster), succeeds, has_leader, .. }) => {
            let is_sibling = succeeds.iter().any(|one| state.lineage.succeeds.contains(one));
            let is_kin = succeeds.contains(&own)
                || state.lineage.succeeds.contains(&cluster)
                // Neither is the newer one: each may be given up for the other, if that one lives.
                || (is_sibling && has_leader);
            Word::Other { cluster, is_kin, has_leader }
        }
    };
    heard
        .into_iter()
        .map(|(node, heard)| Neighbour { word: word(&node, heard), name: node.name, address: node.address })
        .collect()
}

/// Who says that the cluster it belongs to succeeded `own`; or else one of those that `own` succeeded.
pub(super) fn successor(
    own: ClusterId,
    ancestors: &[ClusterId],
    heard: &[(ListedNode, Heard)],
) -> Option<Successor> {
    let mut found: Option<Successor> = None;
    for (node, heard) in heard {
        let Heard::Answered(Greeting { cluster: Some(cluster), succeeds, .. }) = heard else { continue };
        let is_older = *cluster == own || ancestors.contains(cluster);
        let is_sibling = !succeeds.contains(&own);
        if is_older || (is_sibling && !succeeds.iter().any(|one| ancestors.contains(one))) {
            continue;
        }
        match &mut found {
            Some(found) if found.cluster == *cluster => found.seen_on.push(node.name.clone()),
            Some(found) if !found.is_sibling && is_sibling => {}
            // A successor's successor knows them all.
            Some(found) if found.is_sibling == is_sibling && found.succeeds >= succeeds.len() => {}
            _ => {
                let (seen_on, succeeds) = (vec![node.name.clone()], succeeds.len());
                found = Some(Successor { cluster: *cluster, seen_on, succeeds, is_sibling });
            }
        }
    }
    found
}

/// Who belongs to one of `ancestors`, which this node's cluster succeeded, and hears a leader there.
fn predecessors(ancestors: &[ClusterId], heard: &[(ListedNode, Heard)]) -> Vec<String> {
    let lives_on = |heard: &Heard| match heard {
        Heard::Answered(Greeting { cluster: Some(cluster), has_leader: true, .. }) => {
            ancestors.contains(cluster)
        }
        Heard::Answered(_) | Heard::Silent(_) => false,
    };
    heard.iter().filter(|(_, heard)| lives_on(heard)).map(|(node, _)| node.name.clone()).collect()
}

/// Which voters are missing.
fn lost(
    own: ClusterId,
    state: &ClusterState,
    me: &str,
    mine: (u64, u64),
    since: Duration,
    heard: &[(ListedNode, Heard)],
) -> LostQuorum {
    let mut lost = LostQuorum {
        seconds: since.as_secs(),
        voters: state.voters.len(),
        answering: Vec::new(),
        silent: Vec::new(),
        newest: me.to_owned(),
    };
    let mut newest = mine;
    for member in state.voters.iter().filter_map(|id| state.members.get(id)) {
        if member.name == me {
            lost.answering.push(me.to_owned());
            continue;
        }
        let greeting = heard.iter().find_map(|(node, heard)| match heard {
            Heard::Answered(greeting) if node.name == member.name && greeting.cluster == Some(own) => {
                Some(greeting)
            }
            _ => None,
        });
        match greeting {
            Some(greeting) => {
                lost.answering.push(member.name.clone());
                if greeting.last > newest {
                    newest = greeting.last;
                    lost.newest = member.name.clone();
                }
            }
            None => lost.silent.push(member.name.clone()),
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;

    fn says(name: &str, cluster: u8, succeeds: &[u8]) -> (ListedNode, Heard) {
        let id = |of: &u8| ClusterId([*of; 16]);
        let greeting = Greeting {
            cluster_name: "test".to_owned(),
            node_name: name.to_owned(),
            cluster: Some(id(&cluster)),
            has_log: true,
            marked_roots: Vec::new(),
            content: None,
            incarnation: None,
            succeeds: succeeds.iter().map(id).collect(),
            has_leader: true,
            is_formed: true,
            last: (1, 1),
            without: std::collections::BTreeSet::new(),
            anew: false,
            removed: false,
        };
        let node = ListedNode { name: name.to_owned(), address: String::new(), role: Role::Candidate };
        (node, Heard::Answered(greeting))
    }

    #[test]
    fn two_that_succeeded_the_same_cluster_see_each_other() {
        let (mine, ancestors) = (ClusterId([2; 16]), [ClusterId([1; 16])]);
        let found = |heard: &[(ListedNode, Heard)]| {
            successor(mine, &ancestors, heard).map(|found| (found.cluster.0[0], found.is_sibling))
        };
        assert_eq!(found(&[says("gw1", 1, &[]), says("gw2", 2, &[1])]), None, "the old one, and its own");
        assert_eq!(found(&[says("gw3", 9, &[8])]), None, "a stranger");
        assert_eq!(found(&[says("gw3", 3, &[1])]), Some((3, true)));
        assert_eq!(found(&[says("gw3", 3, &[1]), says("gw4", 4, &[1, 2])]), Some((4, false)));
        assert_eq!(found(&[says("gw4", 4, &[1, 2]), says("gw3", 3, &[1])]), Some((4, false)));
        let mut heard = vec![says("gw1", 1, &[]), says("gw2", 2, &[1]), says("gw3", 9, &[])];
        assert_eq!(predecessors(&ancestors, &heard), ["gw1"]);
        heard.truncate(1);
        let Heard::Answered(greeting) = &mut heard[0].1 else { panic!("it answered") };
        greeting.has_leader = false;
        assert!(predecessors(&ancestors, &heard).is_empty(), "what is left of it publishes nothing");
    }
}
