//! Reading the newest state: by a quorum round of the leader, then by waiting for this node's own applied log.
//!
//! Also keeps [`Standing`]: whether a leader that this process heard confirmed the log, again and again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, OptionFuture};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::appoint::{Answer, Ask};
use crate::cluster::shared::Shared;
use crate::model::{ClusterState, NodeId, Seed};
use crate::rpc;
use crate::wire::proto::ConfirmRequest;

/// One question to a leader.
const ASK_MAX: Duration = Duration::from_millis(1200);
/// All tries of one confirmation together.
pub(super) const CONFIRM_MAX: Duration = Duration::from_secs(3);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(50);
/// How often it is made sure while it is not yet.
const UNSURE: Duration = Duration::from_millis(250);
/// How often it is made sure while it is.
const SURE: Duration = Duration::from_millis(1500);
/// A confirmation older than this says nothing about a leader being there.
const OLD: Duration = Duration::from_secs(5);

/// Waits until this node applied what was committed when a leader was asked; none when none answered in time.
pub(super) async fn confirm(shared: &Shared) -> Option<Arc<ClusterState>> {
    tokio::time::timeout(CONFIRM_MAX, async {
        loop {
            if let Ok(Some(index)) = tokio::time::timeout(ASK_MAX, newest(shared)).await {
                let mut state = shared.state.subscribe();
                let reached = state
                    .wait_for(|state| state.as_ref().is_some_and(|state| state.applied_index >= index))
                    .await
                    .ok()?;
                return reached.clone();
            }
            tokio::time::sleep(RETRY).await;
        }
    })
    .await
    .ok()
    .flatten()
}

/// The index of the newest state, by a round made after this call.
async fn newest(shared: &Shared) -> Option<u64> {
    let (leader, node) = shared.leader()?;
    if Some(leader) == shared.node() {
        return match shared.ask_here(Ask::Confirm).await {
            Some(Answer::Confirmed(index)) => Some(index),
            _ => None,
        };
    }
    let mut client = shared.peers.coordination(Some(leader), &node.address).ok()?;
    let reply = rpc::within(ASK_MAX, client.confirm(ConfirmRequest {})).await.ok()?;
    (reply.applied_index > 0).then_some(reply.applied_index)
}

/// Keeps the standing until `stop`.
pub(super) async fn keep_standing(shared: Arc<Shared>, stop: CancellationToken) {
    let Some(raft) = shared.raft() else { return };
    let mut metrics = raft.metrics();
    let mut leader = None;
    let mut confirmed: Option<Instant> = None;
    let mut next = Instant::now();
    let mut asking: Option<BoxFuture<'_, (Instant, bool)>> = None;
    loop {
        let heard = metrics.borrow_and_update().current_leader;
        if heard != leader {
            leader = heard;
            confirmed = None;
            // What the leader before said is no word of this one.
            asking = None;
            next = Instant::now();
            if let Some(leader) = leader {
                shared.elections.fetch_add(1, Ordering::Relaxed);
                tracing::info!(leader, "following a leader");
            }
        }
        if confirmed.is_some_and(|at| at.elapsed() >= OLD) {
            // A learner hears of no election: silence is all that it notices of a lost leader.
            confirmed = None;
        }
        show(&shared, leader, confirmed.is_some());
        let old = confirmed.map(|at| at + OLD);
        let idle = leader.is_some() && asking.is_none();
        let answer: OptionFuture<_> = asking.as_mut().into();
        tokio::select! {
            () = stop.cancelled() => return,
            changed = metrics.changed() => if changed.is_err() {
                // The leader task knows why the core ended, and ends everything.
                stop.cancelled().await;
                return;
            },
            Some((asked, sure)) = answer => {
                asking = None;
                if sure {
                    confirmed = Some(asked);
                }
                next = Instant::now() + if sure { SURE } else { UNSURE };
            }
            () = tokio::time::sleep_until(old.unwrap_or(next)), if old.is_some() => {}
            () = tokio::time::sleep_until(next), if idle => {
                let (asked, shared) = (Instant::now(), &shared);
                asking = Some(async move { (asked, confirm(shared).await.is_some()) }.boxed());
            }
        }
    }
}

fn show(shared: &Shared, leader: Option<NodeId>, confirmed: bool) {
    let sentence = waiting_for(shared, leader);
    shared.wait_for(sentence);
    let node = shared.node();
    shared.standing.send_if_modified(|standing| {
        let before = (standing.leader, standing.node, standing.confirmed);
        (standing.leader, standing.node, standing.confirmed) = (leader, node, confirmed && leader.is_some());
        before != (standing.leader, standing.node, standing.confirmed)
    });
}

fn waiting_for(shared: &Shared, leader: Option<NodeId>) -> Option<String> {
    let state = shared.state.borrow();
    let Some(state) = state.as_ref() else {
        return leader.is_none().then(|| {
            "this node was admitted and waits for the leader to send it the log; the leader must be able to connect \
             to this node's address"
                .to_owned()
        });
    };
    match &state.seed {
        Seed::Conflict(contents) if state.head.is_none() && state.appointment.is_none() => {
            let each: Vec<String> = contents
                .iter()
                .map(|(id, content)| {
                    let name = state.members.get(id).map_or("?", |member| member.name.as_str());
                    let digest = content.digest.to_string();
                    format!("{name} holds {} artifacts with digest {}", content.files, &digest[..12])
                })
                .collect();
            Some(format!(
                "needs-seed: the candidates hold different content, and a person must choose what is published \
                 first: {}. `syncd approve --seed NODE` chooses",
                each.join(", ")
            ))
        }
        _ => None,
    }
}
