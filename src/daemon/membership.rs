//! What the list of nodes, the log and what is heard say of one another: who is listed and missing, or there unlisted.
//!
//! Plain functions of what the rooms publish; every node says it of its own view.

use crate::daemon::config::Config;
use crate::model::{BootTime, ClusterState, Heard, NodeReport, NodeState, Problem, Severity};

/// Codes of problems about members; their messages name nodes and addresses, no artifacts.
pub(super) const CODES: &[&str] = &[
    "unlisted",
    "not-listed",
    "even-voters",
    "voters-wait",
    "duplicate-node",
    "removed",
    "rolled-back",
    "cloned",
];

/// Every problem of the list of nodes, as this node sees it.
pub(super) fn problems(config: &Config, state: Option<&ClusterState>, rows: &[NodeReport]) -> Vec<Problem> {
    let mut problems = Vec::new();
    if config.me().is_none() {
        let missing: Vec<String> = rows
            .iter()
            .filter(|row| row.state == NodeState::Unreachable && row.last_seen_seconds.is_none())
            .map(|row| format!("; {} at {} was not heard", row.name, row.address))
            .collect();
        let message = format!(
            "this node calls itself {} and is at {}, which is not in the list of nodes, so it is a worker{}",
            config.node.name,
            config.address(),
            missing.concat()
        );
        let remedy = format!(
            "if it is one of the listed nodes, set node.name in its configuration; else list it with role \"worker\": \
             [[cluster.node]] name = {:?}",
            config.node.name
        );
        problems
            .push(about(&config.node.name, Problem::new(Severity::Warning, "not-listed", message, remedy)));
    }
    let Some(state) = state else { return problems };
    let is_listed = |name: &str| config.cluster.nodes.iter().any(|node| node.name == name);
    for (id, member) in &state.members {
        if state.voters.contains(id) && !is_listed(&member.name) {
            let message = format!(
                "{} at {} votes in the election and is not in the list of nodes any more",
                member.name, member.address
            );
            let remedy = format!("`syncd remove {}`, or list it again", member.name);
            problems.push(about(&member.name, Problem::new(Severity::Warning, "unlisted", message, remedy)));
        }
    }
    let voters = state.voters.len();
    if voters > 0 && voters.is_multiple_of(2) {
        let message = if voters == 2 {
            "2 nodes vote: when either is lost nothing is published and nobody takes over by itself"
                .to_owned()
        } else {
            format!("{voters} nodes vote, an even number: it bears no more losses than {} would", voters - 1)
        };
        let remedy = "list a witness on a further host, or one voter less; 3 or 5 vote best";
        problems.push(Problem::new(Severity::Info, "even-voters", message, remedy));
    }
    problems
}

/// A listed node that is not heard while an unlisted one speaks from its address: its name, in a sentence.
pub(super) fn speaks_from(row: &NodeReport, config: &Config, heard: &Heard, now: BootTime) -> Option<String> {
    let is_listed = |name: &str| config.cluster.nodes.iter().any(|node| node.name == name);
    let host = |address: &str| address.rsplit_once(':').map(|(host, _)| host.to_owned());
    let other = heard.values().find(|other| {
        !is_listed(&other.report.name)
            && now.since(other.at) < super::view::UNHEARD
            && host(&other.report.address) == host(&row.address)
    })?;
    Some(format!("a node named {} speaks from there", other.report.name))
}

fn about(node: &str, problem: Problem) -> Problem {
    Problem { node: Some(node.to_owned()), ..problem }
}
