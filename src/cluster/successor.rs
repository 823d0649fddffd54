//! Whom a planned change of manager may go to, as the leader sees it before it puts the order into the log. Pure.

use crate::cluster::appoint::{View, choose, heard};
use crate::model::{BootTime, ClusterState, Member, NodeId, NodeReport, NodeState, Refusal, Role};

/// The member that an order names, or the best one if it names none, if it can take over now.
pub(super) fn successor(to: Option<&str>, now: BootTime, view: View<'_>) -> Result<NodeId, Refusal> {
    let state = view.state;
    let see = "see `syncd status` for who can be";
    let Some(current) = &state.appointment else {
        return Err(Refusal::new("there is no manager yet", "wait until the cluster has appointed one"));
    };
    let chosen = match to {
        Some(name) => {
            let (id, member) = named(state, name, current.manager)?;
            let Some(report) = heard(id, now, view) else {
                let why = format!("{} at {} is not heard", member.name, member.address);
                return Err(Refusal::new(why, format!("start the daemon on {name}, or mend its network")));
            };
            caught_up(state, name, report)?;
            id
        }
        None => {
            let best = choose(Some(current.manager), None, now, view)
                .and_then(|id| Some((id, heard(id, now, view)?)));
            let Some((id, report)) = best else {
                return Err(Refusal::new("no other candidate is heard that could be manager", see));
            };
            caught_up(state, &report.name, report)?;
            id
        }
    };
    Ok(chosen)
}

fn named<'a>(state: &'a ClusterState, name: &str, manager: NodeId) -> Result<(NodeId, &'a Member), Refusal> {
    let see = "see `syncd status` for the names of the candidates";
    let Some((id, member)) = state.members.iter().find(|(_, member)| member.name == name) else {
        return Err(Refusal::new(format!("there is no node named {name}"), see));
    };
    if *id == manager {
        return Err(Refusal::new(
            format!("{name} is the manager already"),
            "name another candidate, or none",
        ));
    }
    if member.role != Role::Candidate {
        let why = format!("{name} is a {}, and only candidates may be manager", member.role);
        return Err(Refusal::new(why, see));
    }
    Ok((*id, member))
}

/// Whether the node can be manager at once: it has the head, in its store and in its folder.
fn caught_up(state: &ClusterState, name: &str, report: &NodeReport) -> Result<(), Refusal> {
    let refused = |why: String| Err(Refusal::new(why, format!("see what `syncd status` says of {name}")));
    if report.state == NodeState::RootMissing {
        return refused(format!("a root of {name} is missing"));
    }
    let Some(head) = &state.head else { return Ok(()) };
    let generation = head.generation;
    if report.holds.unwrap_or_default() < generation || report.generation.unwrap_or_default() < generation {
        let at = report.generation.map_or_else(|| "none".to_owned(), |number| number.to_string());
        return refused(format!(
            "{name} is not caught up: it is at generation {at}, the head is {generation}"
        ));
    }
    if state.paused.is_some() && report.digest.as_ref() != Some(&head.digest.to_string()) {
        let why = format!(
            "files on {name} differ from the head, and are not brought back while the cluster is paused"
        );
        return Err(Refusal::new(why, "run `syncd resume` first"));
    }
    Ok(())
}
