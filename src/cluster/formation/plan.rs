//! What an unformed node does next, given what it is and what it heard. Pure.

use crate::cluster::greet::{Greeting, Heard};
use crate::cluster::shared::{ClusterConfig, FirstScan, ListedNode};
use crate::cluster::types::{FOUNDERS_MAX, FormationRecord, Founder, Own};
use crate::model::{FirstContent, Member};

/// This node.
#[derive(Debug)]
pub(super) struct Here<'a> {
    pub(super) config: &'a ClusterConfig,
    pub(super) incarnation: [u8; 16],
    pub(super) own: Option<&'a Own>,
    pub(super) scan: FirstScan,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing can be done here: what is waited for, and what helps.
    Wait(String),
    /// The cluster is forming or formed with this node's record; the log comes by itself.
    Follow,
    /// A member must admit this node: their addresses.
    Join(Vec<String>),
    /// This node writes the record, of these founders.
    Write(Vec<Founder>),
    /// This node wrote the record before: it is sent again.
    Send(FormationRecord),
}

/// Decides the next step of a node whose log is empty.
pub(super) fn step(here: &Here<'_>, heard: &[(ListedNode, Heard)]) -> Step {
    if let Some(sentence) = strangers(here.config, heard) {
        return Step::Wait(sentence);
    }
    let formed: Vec<_> = heard
        .iter()
        .filter_map(|(node, heard)| match heard {
            Heard::Answered(greeting)
                if greeting.has_log && greeting.cluster_name == here.config.cluster_name =>
            {
                Some((node, greeting))
            }
            _ => None,
        })
        .collect();
    if !formed.is_empty() {
        return meet(here, &formed);
    }
    let voters: Vec<_> = heard.iter().filter(|(node, _)| node.role.votes()).collect();
    if !here.config.role.votes() {
        return Step::Wait(format!(
            "no node of cluster {:?} that has formed was heard yet (asked {}); this node is a worker and joins one \
             that has",
            here.config.cluster_name,
            names(voters.iter().map(|(node, _)| node)),
        ));
    }
    gather(here, &voters)
}

/// A voter that is not who the list says. A worker that is not bars nobody: whoever forms does not need it.
fn strangers(config: &ClusterConfig, heard: &[(ListedNode, Heard)]) -> Option<String> {
    heard.iter().filter(|(node, _)| node.role.votes()).find_map(|(node, heard)| {
        let Heard::Answered(greeting) = heard else { return None };
        let ListedNode { name, address, .. } = node;
        if greeting.cluster_name != config.cluster_name {
            return Some(format!(
                "{name} at {address} says that it belongs to cluster {:?}, this node's configuration says {:?}: \
                 correct cluster.name on one of them",
                greeting.cluster_name, config.cluster_name
            ));
        }
        (greeting.node_name != *name).then(|| {
            format!(
                "at {address}, the address of {name}, answers a node named {:?}: correct the list or that node's name",
                greeting.node_name
            )
        })
    })
}

/// Some peers have a log.
fn meet(here: &Here<'_>, formed: &[(&ListedNode, &Greeting)]) -> Step {
    if let Some(own) = here.own
        && formed.iter().any(|(_, greeting)| greeting.cluster == Some(own.cluster))
    {
        return Step::Follow;
    }
    if !here.config.role.votes() {
        return Step::Join(formed.iter().map(|(node, _)| node.address.clone()).collect());
    }
    Step::Wait(format!(
        "the cluster has formed ({}) and this node, listed as a {}, has no log: its data folder was lost, or it was \
         listed later. Admitting a voter again is not in this version: give the node its former data folder back, or \
         list it as a worker under another name",
        names(formed.iter().map(|(node, _)| *node)),
        here.config.role,
    ))
}

/// No log anywhere: this node votes, and all voters must be here and empty.
fn gather(here: &Here<'_>, voters: &[&(ListedNode, Heard)]) -> Step {
    let silent: Vec<String> = voters
        .iter()
        .filter_map(|(node, heard)| match heard {
            Heard::Silent(why) => Some(format!("{} at {} ({why})", node.name, node.address)),
            Heard::Answered(_) => None,
        })
        .collect();
    if !silent.is_empty() {
        return Step::Wait(format!(
            "{} must answer once before the cluster forms: start the daemon there, or correct the list on all hosts",
            silent.join(", ")
        ));
    }
    let Some((content, marks)) = &here.scan else {
        return Step::Wait("the first scan of this node's roots".to_owned());
    };
    let config = here.config;
    let own_voter = config.voters().find(|node| node.name == config.node_name);
    let Some(own_voter) = own_voter else {
        return Step::Wait(format!(
            "this node, {:?}, is not in the list of nodes, so it cannot be a {}",
            config.node_name, config.role
        ));
    };
    if !marks.is_empty() {
        return Step::Wait(marked(own_voter, marks));
    }
    let mut founders = vec![founder(own_voter, *content, here.incarnation)];
    for (node, heard) in voters {
        let Heard::Answered(greeting) = heard else { continue };
        if !greeting.marked_roots.is_empty() {
            return Step::Wait(marked(node, &greeting.marked_roots));
        }
        let (Some(content), Some(incarnation)) = (greeting.content, greeting.incarnation) else {
            return Step::Wait(format!("the first scan of {} at {}", node.name, node.address));
        };
        founders.push(founder(node, content, incarnation));
    }
    if founders.len() as u64 >= FOUNDERS_MAX {
        return Step::Wait(format!("{} nodes vote: list 3 or 5, all others as workers", founders.len()));
    }
    if let Some((writer, _)) = voters.iter().find(|(node, _)| node.name < config.node_name) {
        let least = voters.iter().map(|(node, _)| node).min_by_key(|node| &node.name).unwrap_or(writer);
        return Step::Wait(format!("{} at {} to form the cluster", least.name, least.address));
    }
    match here.own.and_then(|own| own.record.as_ref()) {
        Some(record) if same_founders(record, &founders, here) => Step::Send(record.clone()),
        _ => Step::Write(founders),
    }
}

/// Whether a record still says what is heard, the content included: it decides what is published first.
fn same_founders(record: &FormationRecord, founders: &[Founder], here: &Here<'_>) -> bool {
    record.id_of(&here.config.node_name) == Some(record.writer)
        && record.founders.len() == founders.len()
        && founders.iter().all(|founder| record.founders.values().any(|known| known == founder))
}

fn founder(node: &ListedNode, content: FirstContent, incarnation: [u8; 16]) -> Founder {
    let ListedNode { name, address, role } = node.clone();
    Founder { member: Member { name, address, role, incarnation }, content }
}

fn marked(node: &ListedNode, roots: &[String]) -> String {
    format!(
        "{} at {} has no log, but its roots carry the mark of a membership ({}): its data folder was lost. Give it \
         back; or, if this is meant to be a new cluster, move the folder .syncd out of those roots",
        node.name,
        node.address,
        roots.join(", ")
    )
}

fn names<'a>(nodes: impl Iterator<Item = &'a ListedNode>) -> String {
    let each: Vec<String> = nodes.map(|node| format!("{} at {}", node.name, node.address)).collect();
    if each.is_empty() {
        "nobody: no other candidate or witness is listed".to_owned()
    } else {
        each.join(", ")
    }
}

/// Whether this node may store a record that a peer wrote.
///
/// # Errors
/// Why not, in a sentence for the writer's status.
pub(super) fn acceptable(
    config: &ClusterConfig,
    incarnation: [u8; 16],
    scan: Option<&(FirstContent, Vec<String>)>,
    record: &FormationRecord,
) -> Result<(), String> {
    if record.name != config.cluster_name {
        return Err(format!("its configuration names cluster {:?}", config.cluster_name));
    }
    let list = |names: &mut Vec<String>| {
        names.sort();
        names.join(", ")
    };
    let mut theirs: Vec<String> = record
        .founders
        .values()
        .map(|founder| format!("{} ({})", founder.member.name, founder.member.role))
        .collect();
    let mut ours: Vec<String> =
        config.voters().map(|node| format!("{} ({})", node.name, node.role)).collect();
    let (theirs, ours) = (list(&mut theirs), list(&mut ours));
    if theirs != ours {
        return Err(format!(
            "its configuration lists {ours}, the record {theirs}: give all hosts one configuration"
        ));
    }
    if record.timing != config.timing {
        return Err(
            "its election times differ from the record's: give all hosts one configuration".to_owned()
        );
    }
    let least = record.founders.values().map(|founder| &founder.member.name).min();
    let writer = record.founders.get(&record.writer).map(|founder| &founder.member.name);
    if writer.is_none() || writer != least || record.founders.keys().any(|id| !(1..FOUNDERS_MAX).contains(id))
    {
        return Err("the record is not the one of the voter with the least name".to_owned());
    }
    let own = record.founders.values().find(|founder| founder.member.name == config.node_name);
    if own.is_none_or(|own| own.member.incarnation != incarnation) {
        return Err("the record is about another data folder of this node".to_owned());
    }
    match scan {
        None => Err("its first scan is not done".to_owned()),
        Some((_, marks)) if !marks.is_empty() => {
            Err(format!("its roots carry the mark of a membership ({})", marks.join(", ")))
        }
        Some((content, _)) if own.is_none_or(|own| own.content != *content) => {
            Err("its roots hold something else than when the record was written".to_owned())
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
