//! What an order in the log does to the state. Pure, like all of `state`.

use crate::cluster::state::is_bound;
use crate::model::{
    Approval, ClusterState, Digest, Order, OrderId, OrderOutcome, Pause, Place, Redeploy, Refusal, Role,
    Seed, Switchover,
};

/// Outcomes that are remembered: an order is repeated for some seconds at most, and people give few in that time.
const OUTCOMES_MAX: usize = 32;
/// Files of one order to load them again. The state is written with every entry, so it stays small.
const REDEPLOY_FILES_MAX: usize = 100;
/// Bytes of all paths of all such orders that are remembered; those of one may be a quarter.
const REDEPLOY_BYTES_MAX: usize = 64 << 10;
/// Approvals that wait to be let through.
const APPROVALS_MAX: usize = 16;

/// Obeys an order once: its repetition is answered as the first one was.
pub(super) fn obey(
    state: &mut ClusterState,
    id: OrderId,
    by: String,
    unix_ms: i64,
    order: Order,
) -> Result<OrderOutcome, Refusal> {
    if let Some(known) = state.outcome_of(id) {
        return known.clone();
    }
    let outcome = match order {
        Order::Pause => Ok(pause(state, by, unix_ms)),
        Order::Resume => Ok(resume(state)),
        Order::Switchover { to } => switch(state, to.as_deref()),
        Order::Remove { name } => remove(state, &name),
        Order::Redeploy { places } => redeploy(state, unix_ms, places),
        Order::Approve { node, list, code, paths } => {
            approve(state, Given { id, by, unix_ms }, &node, list, &code, paths)
        }
        Order::Withdraw { node, list } => Ok(withdraw(state, &node, &list)),
        Order::Seed { node } => choose_seed(state, &node),
    };
    while state.orders.len() >= OUTCOMES_MAX {
        state.orders.pop_front();
    }
    state.orders.push_back((id, outcome.clone()));
    outcome
}

fn pause(state: &mut ClusterState, by: String, unix_ms: i64) -> OrderOutcome {
    let was = state.paused.is_some();
    state.paused.get_or_insert(Pause { by, unix_ms });
    let sentence = if was { "the cluster is paused already" } else { "the cluster is paused" };
    OrderOutcome { sentence: sentence.to_owned() }
}

fn resume(state: &mut ClusterState) -> OrderOutcome {
    let was = state.paused.take().is_some();
    let sentence = if was { "the cluster goes on" } else { "the cluster is not paused" };
    OrderOutcome { sentence: sentence.to_owned() }
}

/// The leader looked at whether the other can take over; what only the log knows for sure is looked at here.
fn switch(state: &mut ClusterState, to: Option<&str>) -> Result<OrderOutcome, Refusal> {
    let see = "see `syncd status` for who is manager, and who may be";
    let Some(current) = &state.appointment else {
        return Err(Refusal::new("there is no manager yet", see));
    };
    if let Some(pending) = state.switchover {
        let other = state.members.get(&pending.to).map_or("another node", |member| member.name.as_str());
        let why = format!("a switchover to {other} is under way");
        return Err(Refusal::new(why, "wait some seconds until it is done"));
    }
    let target = state.members.iter().find(|(_, member)| Some(member.name.as_str()) == to);
    let Some((to, member)) = target.filter(|(_, member)| member.role == Role::Candidate) else {
        return Err(Refusal::new("the node that should take over is no candidate of this cluster", see));
    };
    if *to == current.manager {
        return Err(Refusal::new(format!("{} is the manager already", member.name), see));
    }
    let sentence = match state.members.get(&current.manager) {
        Some(old) => format!("{} gives its office up to {}", old.name, member.name),
        None => format!("{} takes over", member.name),
    };
    state.switchover = Some(Switchover { ends: current.epoch, to: *to });
    Ok(OrderOutcome { sentence })
}

/// Who gave an order, and when.
struct Given {
    id: OrderId,
    by: String,
    unix_ms: i64,
}

/// The node that holds the list compares it with what it holds then; here it is only written down, once.
fn approve(
    state: &mut ClusterState,
    given: Given,
    node: &str,
    list: Digest,
    code: &str,
    paths: u64,
) -> Result<OrderOutcome, Refusal> {
    let Some(id) = state.id_of(node) else {
        return Err(Refusal::new(
            format!("there is no member called {node:?}"),
            "see `syncd status` for the members' names",
        ));
    };
    state.approvals.retain(|known| known.node != id || known.list != list);
    while state.approvals.len() >= APPROVALS_MAX {
        state.approvals.pop_front();
    }
    let Given { id: order, by, unix_ms } = given;
    state.approvals.push_back(Approval { id: order, node: id, list, by, unix_ms });
    Ok(OrderOutcome { sentence: format!("{paths} paths on {node} ({code}) are approved") })
}

fn withdraw(state: &mut ClusterState, node: &str, list: &Digest) -> OrderOutcome {
    let id = state.id_of(node);
    let before = state.approvals.len();
    state.approvals.retain(|known| Some(known.node) != id || known.list != *list);
    let was = state.approvals.len() < before;
    OrderOutcome { sentence: format!("an approval was {}", if was { "taken back" } else { "not there" }) }
}

/// Whose content becomes the first generation. Only one of those that a person was shown, and that hold something.
fn choose_seed(state: &mut ClusterState, node: &str) -> Result<OrderOutcome, Refusal> {
    let see = "see `syncd status` for what each candidate holds";
    let Seed::Conflict(contents) = &state.seed else {
        return Err(Refusal::new("the first content need not be chosen", see));
    };
    if state.head.is_some() {
        return Err(Refusal::new("the first generation is there already", see));
    }
    let chosen = state.id_of(node).filter(|id| contents.contains_key(id));
    let Some(chosen) = chosen else {
        return Err(Refusal::new(format!("{node} is none of the candidates that hold content"), see));
    };
    let mut others = contents.clone();
    others.remove(&chosen);
    state.outvoted = others;
    state.seed = Seed::OneOf([chosen].into());
    Ok(OrderOutcome { sentence: format!("the content of {node} becomes the first generation") })
}

/// A voter was made one that does not vote before its order came here.
fn remove(state: &mut ClusterState, name: &str) -> Result<OrderOutcome, Refusal> {
    let Some(id) = state.id_of(name) else {
        if state.lineage.awaited.remove(name).is_some() {
            return Ok(OrderOutcome { sentence: format!("{name} is not waited for any more") });
        }
        return Err(Refusal::new(
            format!("there is no member called {name:?}"),
            "see `syncd status` for the members' names",
        ));
    };
    if is_bound(state, id) {
        return Err(Refusal::new(format!("{name} votes again meanwhile"), "give the order again"));
    }
    state.members.remove(&id);
    Ok(OrderOutcome { sentence: format!("{name} is no member any more") })
}

fn redeploy(state: &mut ClusterState, unix_ms: i64, places: Vec<Place>) -> Result<OrderOutcome, Refusal> {
    let bytes = |places: &[Place]| -> usize {
        places.iter().map(|place| place.root.as_str().len() + place.path.as_bytes().len()).sum()
    };
    if places.len() > REDEPLOY_FILES_MAX || bytes(&places) > REDEPLOY_BYTES_MAX / 4 {
        let why =
            format!("{} files are too many for one order: {REDEPLOY_FILES_MAX} are the most", places.len());
        return Err(Refusal::new(why, "name fewer, and repeat it for the rest"));
    }
    let files = places.len();
    let number = state.redeploys.back().map_or(1, |last| last.number + 1);
    state.redeploys.push_back(Redeploy { number, unix_ms, places });
    while state.redeploys.len() > OUTCOMES_MAX
        || state.redeploys.iter().map(|order| bytes(&order.places)).sum::<usize>() > REDEPLOY_BYTES_MAX
    {
        state.redeploys.pop_front();
    }
    let files = if files == 1 {
        "1 file gets a new time".to_owned()
    } else {
        format!("{files} files get a new time")
    };
    Ok(OrderOutcome {
        sentence: format!("{files} on every node, so that its gateway loads them at its next scan"),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::model::{Awaited, ClusterId, Seed};

    fn state() -> ClusterState {
        ClusterState::new(ClusterId([1; 16]), BTreeMap::new(), BTreeSet::new(), Seed::Anyone)
    }

    fn order(state: &mut ClusterState, id: u8, order: Order) -> String {
        obey(state, OrderId([id; 16]), "gw1".to_owned(), 5, order).unwrap().sentence
    }

    #[test]
    fn an_order_that_comes_again_is_answered_and_not_obeyed_again() {
        let mut state = state();
        let paused = order(&mut state, 1, Order::Pause);
        order(&mut state, 2, Order::Resume);
        assert_eq!(order(&mut state, 1, Order::Pause), paused);
        assert_eq!(state.paused, None, "the repetition of an old order came late");
    }

    #[test]
    fn who_paused_first_is_named() {
        let mut state = state();
        order(&mut state, 1, Order::Pause);
        obey(&mut state, OrderId([2; 16]), "gw2".to_owned(), 6, Order::Pause).unwrap();
        assert_eq!(state.paused, Some(Pause { by: "gw1".to_owned(), unix_ms: 5 }));
    }

    #[test]
    fn who_did_not_come_back_after_a_recovery_is_not_waited_for_after_its_removal() {
        let mut state = state();
        let gone = Awaited { address: "gw3:8730".to_owned(), role: Role::Candidate };
        state.lineage.awaited.insert("gw3".to_owned(), gone);
        let remove = || Order::Remove { name: "gw3".to_owned() };
        assert!(order(&mut state, 1, remove()).contains("not waited for"));
        assert!(state.lineage.awaited.is_empty());
        obey(&mut state, OrderId([2; 16]), "gw1".to_owned(), 5, remove()).unwrap_err();
    }

    #[test]
    fn orders_to_load_again_are_counted_and_bounded() {
        use crate::model::{ArtifactPath, RootName};
        let mut state = state();
        let place = |name: &str| Place {
            root: RootName::new("r"),
            path: ArtifactPath::new(name.as_bytes()).unwrap(),
        };
        let long = |n: usize| place(&format!("{n}{}", "/x".repeat(60)));
        for id in 0..200 {
            order(&mut state, id, Order::Redeploy { places: (0..REDEPLOY_FILES_MAX).map(long).collect() });
        }
        assert_eq!(state.redeploys.back().unwrap().number, 200);
        assert!(state.redeploys.len() > 3 && state.redeploys.len() < 7, "{}", state.redeploys.len());
        let many = |files: usize| Order::Redeploy { places: (0..files).map(long).collect() };
        let refused = obey(&mut state, OrderId([250; 16]), "gw1".to_owned(), 5, many(REDEPLOY_FILES_MAX + 1));
        assert!(refused.unwrap_err().why.contains("101 files"));
        let tail = format!("/{}", "y".repeat(250)).repeat(14);
        let far = Order::Redeploy { places: (0..5).map(|n| place(&format!("{n}{tail}"))).collect() };
        assert!(obey(&mut state, OrderId([251; 16]), "gw1".to_owned(), 5, far).is_err());
        assert_eq!(state.redeploys.back().unwrap().number, 200);
    }

    #[test]
    fn outcomes_are_bounded() {
        let mut state = state();
        for id in 0..200 {
            order(&mut state, id, Order::Pause);
        }
        assert_eq!(state.orders.len(), OUTCOMES_MAX);
        assert!(state.outcome_of(OrderId([199; 16])).is_some());
    }
}
