//! Carries what a person orders to the leader, and into the log there.
//!
//! Whoever was given the order repeats it under one id until an outcome is known or the time is over; the state machine
//! obeys an id once. Once an attempt's outcome was not known, only the log's own word ends the doubt: a leader's
//! refusal says nothing about the attempt before it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::cluster::appoint::View;
use crate::cluster::db::random;
use crate::cluster::handle::propose;
use crate::cluster::members::MemberRequest;
use crate::cluster::record::{self, Kind};
use crate::cluster::shared::Shared;
use crate::cluster::successor::successor;
use crate::cluster::types::{Command, Response};
use crate::model::{BootTime, ClusterState, Order, OrderError, OrderId, OrderOutcome, Refusal, unix_ms};
use crate::rpc;
use crate::wire::proto::OrderRequest;

/// All attempts together: two changes of leader fit in.
const ORDER_MAX: Duration = Duration::from_secs(12);
/// One attempt.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// How long a leader waits for a majority to store the entry.
const WRITE_MAX: Duration = Duration::from_secs(4);
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(100);

/// What became of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ordered {
    /// The log has it, and says this.
    Known(Result<OrderOutcome, Refusal>),
    /// The leader did not put this attempt into the log.
    Refused(Refusal),
    /// This attempt did not reach a leader.
    NotAsked(String),
    /// It may be in the log, or come into it.
    Unknown(String),
}

/// Gives the order to whoever leads until its outcome is known.
pub(super) async fn ask(shared: &Shared, order: Order) -> Result<OrderOutcome, OrderError> {
    let deadline = Instant::now() + ORDER_MAX;
    let id = OrderId(random().map_err(|error| {
        Refusal::new(error.to_string(), "see why the system gives no random numbers; nothing was ordered")
    })?);
    let command = Command::Order { id, by: shared.config.node_name.clone(), unix_ms: unix_ms(), order };
    let mut doubt: Option<String> = None;
    loop {
        let limit = (Instant::now() + ATTEMPT_MAX).min(deadline);
        let attempt = tokio::time::timeout_at(limit, attempt(shared, id, &command)).await;
        let seen = match attempt.unwrap_or_else(|_| Ordered::Unknown("no answer came in time".to_owned())) {
            Ordered::Known(outcome) => return Ok(outcome?),
            Ordered::Refused(refusal) if doubt.is_none() => return Err(refusal.into()),
            Ordered::Refused(refusal) => refusal.why,
            Ordered::NotAsked(why) => why,
            Ordered::Unknown(why) => {
                tracing::info!(why, "the outcome of an order is not known yet");
                doubt = Some(why.clone());
                why
            }
        };
        if let Some(outcome) = known(shared, id) {
            return Ok(outcome?);
        }
        if Instant::now() + AGAIN >= deadline {
            return Err(match doubt {
                Some(reason) => OrderError::Unknown { reason },
                None => Refusal::new(
                    format!("nobody could be given the order: {seen}"),
                    "see `syncd status`; start the voters that are unreachable, then give the order again",
                )
                .into(),
            });
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What this node's own applied log says of an order.
fn known(shared: &Shared, id: OrderId) -> Option<Result<OrderOutcome, Refusal>> {
    shared.state.borrow().as_ref()?.outcome_of(id).cloned()
}

async fn attempt(shared: &Shared, id: OrderId, command: &Command) -> Ordered {
    let Some((leader, node)) = shared.leader() else {
        return Ordered::NotAsked("no leader is heard".to_owned());
    };
    if Some(leader) == shared.node() {
        return lead(shared, id, command.clone()).await;
    }
    let command = match record::encode(Kind::Command, command) {
        Ok(command) => command,
        Err(error) => return Ordered::NotAsked(error.to_string()),
    };
    let mut client = match shared.peers.coordination(Some(leader), &node.address) {
        Ok(client) => client,
        Err(error) => return Ordered::NotAsked(error.to_string()),
    };
    match rpc::within(ATTEMPT_MAX, client.order(OrderRequest { command: command.into() })).await {
        Ok(reply) => record::decode(Kind::Ordered, &reply.ordered)
            .unwrap_or_else(|error| Ordered::Unknown(format!("{}'s answer: {error}", node.name))),
        // Refused before it was looked at.
        Err(status) if status.code() == tonic::Code::FailedPrecondition => {
            Ordered::NotAsked(format!("{}: {}", node.name, status.message()))
        }
        Err(status) => Ordered::Unknown(format!("{}: {}", node.name, status.message())),
    }
}

/// Puts an order into the log, if this node leads.
pub(super) async fn lead(shared: &Shared, id: OrderId, command: Command) -> Ordered {
    if shared.serving.borrow().is_none() {
        return Ordered::NotAsked(format!("{} does not lead", shared.config.node_name));
    }
    if let Some(outcome) = known(shared, id) {
        return Ordered::Known(outcome);
    }
    let command = match settle(shared, command) {
        Ok(command) => command,
        Err(refusal) => return Ordered::Refused(refusal),
    };
    if let Command::Order { order: Order::Remove { name }, .. } = &command
        && !is_only_awaited(shared, name)
        && let Some(ended) = vote_no_more(shared, name).await
    {
        return ended;
    }
    match propose(shared, command, WRITE_MAX).await {
        Ok(Response::Order(outcome)) => Ordered::Known(outcome),
        Ok(other) => Ordered::Refused(Refusal::new(
            format!("the log answered {other:?}"),
            "wait until the cluster has formed",
        )),
        Err(reason) => Ordered::Unknown(reason),
    }
}

/// Decides what an order leaves to the leader, by what the leader hears.
fn settle(shared: &Shared, command: Command) -> Result<Command, Refusal> {
    let Command::Order { id, by, unix_ms, order: Order::Switchover { to } } = command else {
        return Ok(command);
    };
    let (Some(state), Some(me)) = (shared.state.borrow().clone(), shared.node()) else {
        return Err(Refusal::new(
            "the cluster is not formed yet",
            "see `syncd status` for what it waits for",
        ));
    };
    let (own, heard) = (shared.report.borrow().clone(), shared.heard.borrow().clone());
    let view = View { state: &state, me, own: &own, heard: &heard };
    let to = successor(to.as_deref(), BootTime::now(), view)?;
    let to = state.members.get(&to).map(|member| member.name.clone());
    Ok(Command::Order { id, by, unix_ms, order: Order::Switchover { to } })
}

/// Whether a name is only that of a host that did not come back after a recovery: it has no vote.
fn is_only_awaited(shared: &Shared, name: &str) -> bool {
    let state = shared.state.borrow();
    let is_it =
        |state: &ClusterState| state.id_of(name).is_none() && state.lineage.awaited.contains_key(name);
    state.as_deref().is_some_and(is_it)
}

/// Before a member is removed it votes no more; how the order ended, if it did with this.
async fn vote_no_more(shared: &Shared, name: &str) -> Option<Ordered> {
    let (reply, done) = oneshot::channel();
    if shared.members.try_send(MemberRequest::Remove(name.to_owned(), reply)).is_err() {
        return Some(Ordered::NotAsked("too many questions wait for the leader".to_owned()));
    }
    ended(name, tokio::time::timeout(WRITE_MAX, done).await.ok().and_then(Result::ok))
}

/// How a removal ended by what the leader said of it; none when the member's place is to be taken out now.
fn ended(name: &str, said: Option<Result<(), Refusal>>) -> Option<Ordered> {
    match said {
        Some(Ok(())) => None,
        Some(Err(refusal)) => Some(Ordered::Refused(refusal)),
        // It was begun: the member may vote no more already, or soon.
        None => Some(Ordered::Unknown(format!("{name} is not yet known to vote no more"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_that_was_begun_is_not_said_to_be_refused() {
        assert!(matches!(ended("gw2", None), Some(Ordered::Unknown(_))));
        assert!(matches!(ended("gw2", Some(Err(Refusal::new("why", "what")))), Some(Ordered::Refused(_))));
        assert_eq!(ended("gw2", Some(Ok(()))), None);
    }
}
