//! What an unformed node does next, given what it is and what it heard. Pure.

use std::collections::BTreeSet;

use crate::cluster::greet::{Greeting, Heard};
use crate::cluster::shared::{ClusterConfig, FirstScan, ListedNode};
use crate::cluster::types::{FOUNDERS_MAX, FormationRecord, Founder, Own};
use crate::model::{ClusterId, FirstContent, Member};

/// This node.
#[derive(Debug)]
pub(super) struct Here<'a> {
    pub(super) config: &'a ClusterConfig,
    pub(super) incarnation: [u8; 16],
    pub(super) own: Option<&'a Own>,
    pub(super) scan: FirstScan,
    /// What a person ordered here.
    pub(super) wishes: Wishes,
}

/// How a person ordered to form although the hosts are not as they should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cluster) struct Wishes {
    /// Without these listed voters.
    pub(in crate::cluster) without: BTreeSet<String>,
    /// A new cluster, whatever marks the roots carry.
    pub(in crate::cluster) anew: bool,
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
    /// A person ordered a new cluster: the marks in this node's roots give way.
    LayMarksAside,
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
    // What is left of a cluster that was succeeded is no place to go.
    let given_up = |cluster: &Option<ClusterId>| {
        cluster.is_some_and(|cluster| formed.iter().any(|(_, greeting)| greeting.succeeds.contains(&cluster)))
    };
    let formed: Vec<_> =
        formed.iter().copied().filter(|(_, greeting)| !given_up(&greeting.cluster)).collect();
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
    let wished = wishes(here, &voters);
    let silent = |node: &ListedNode, heard: &Heard| {
        wished.without.contains(&node.name) && matches!(heard, Heard::Silent(_))
    };
    let remaining: Vec<_> = voters.iter().copied().filter(|(node, heard)| !silent(node, heard)).collect();
    if !is_majority(remaining.len() + 1, voters.len() + 1) {
        return Step::Wait(missing(here.config, &voters));
    }
    gather(here, &remaining, remaining.len() == voters.len(), wished.anew)
}

/// What people ordered here and on the other voters.
fn wishes(here: &Here<'_>, voters: &[&(ListedNode, Heard)]) -> Wishes {
    let mut wished = here.wishes.clone();
    for (_, heard) in voters {
        if let Heard::Answered(greeting) = heard {
            wished.without.extend(greeting.without.iter().cloned());
            wished.anew |= greeting.anew;
        }
    }
    wished
}

fn is_majority(part: usize, whole: usize) -> bool {
    2 * part > whole
}

/// Who does not answer, and what helps.
fn missing(config: &ClusterConfig, voters: &[&(ListedNode, Heard)]) -> String {
    let silent: Vec<(&str, String)> = voters
        .iter()
        .filter_map(|(node, heard)| match heard {
            Heard::Silent(why) => {
                Some((node.name.as_str(), format!("{} at {} ({why})", node.name, node.address)))
            }
            Heard::Answered(_) => None,
        })
        .collect();
    let each: Vec<&str> = silent.iter().map(|(_, text)| text.as_str()).collect();
    let mut sentence = format!(
        "{} must answer once before the cluster forms: start the daemon there, or correct the list on all hosts",
        each.join(", ")
    );
    if is_majority(voters.len() + 1 - silent.len(), voters.len() + 1) {
        let without: Vec<String> = silent.iter().map(|(name, _)| format!("--without {name}")).collect();
        sentence.push_str(&format!(
            "; or, if that is not possible for now, on {}: `syncd bootstrap {}`",
            config.node_name,
            without.join(" ")
        ));
    }
    sentence
}

/// Whether a person may order this now.
///
/// # Errors
/// Why not, and the remedy.
pub(in crate::cluster) fn may_wish(
    config: &ClusterConfig,
    heard: &[(ListedNode, Heard)],
    wish: &Wishes,
) -> Result<(), (String, String)> {
    let wait = || "see `syncd status` for what it waits for".to_owned();
    if !config.role.votes() {
        let why = format!(
            "{} is a {}, and only candidates and witnesses form a cluster",
            config.node_name, config.role
        );
        return Err((why, "run this on a listed candidate or witness".to_owned()));
    }
    if let Some(sentence) = strangers(config, heard) {
        return Err((sentence, wait()));
    }
    let voters: Vec<_> = heard.iter().filter(|(node, _)| node.role.votes()).collect();
    for (node, heard) in &voters {
        let Heard::Answered(greeting) = heard else { continue };
        if greeting.has_log || greeting.is_formed {
            let why = format!("{} at {} belongs to a cluster that has formed", node.name, node.address);
            return Err((why, "let this node join it, which it does by itself".to_owned()));
        }
        if wish.without.contains(&node.name) {
            let why = format!("{} at {} answers, so it must not be left out", node.name, node.address);
            return Err((why, wait()));
        }
    }
    for name in &wish.without {
        if !voters.iter().any(|(node, _)| node.name == *name) {
            let why = format!("{name:?} is not a voter in the list but for this node");
            return Err((why, format!("name one of: {}", names(voters.iter().map(|(node, _)| node)))));
        }
    }
    let silent: Vec<_> = voters.iter().filter(|(_, heard)| matches!(heard, Heard::Silent(_))).collect();
    let unnamed: Vec<_> = silent.iter().filter(|(node, _)| !wish.without.contains(&node.name)).collect();
    if !unnamed.is_empty() {
        let why = format!("{} does not answer either", names(unnamed.iter().map(|(node, _)| node)));
        return Err((
            why,
            "start the daemon there, or leave it out too if a majority of the list remains".to_owned(),
        ));
    }
    let (remaining, whole) = (voters.len() + 1 - silent.len(), voters.len() + 1);
    if !is_majority(remaining, whole) {
        let why = format!("{remaining} of {whole} listed voters would remain, which is no majority");
        return Err((why, "start more of them, or correct the list on all hosts".to_owned()));
    }
    Ok(())
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

/// Whether another cluster formed while the log of `own` came to no state, and nobody says that `own` formed too.
pub(super) fn is_overtaken(own: ClusterId, heard: &[(ListedNode, Heard)]) -> bool {
    let formed = |is_own: bool| {
        heard.iter().any(|(_, heard)| match heard {
            Heard::Answered(Greeting { cluster: Some(cluster), is_formed, .. }) => {
                *is_formed && (*cluster == own) == is_own
            }
            Heard::Answered(_) | Heard::Silent(_) => false,
        })
    };
    formed(false) && !formed(true)
}

/// Some peers have a log.
fn meet(here: &Here<'_>, formed: &[(&ListedNode, &Greeting)]) -> Step {
    if let Some(own) = here.own
        && formed.iter().any(|(_, greeting)| greeting.cluster == Some(own.cluster))
    {
        return Step::Follow;
    }
    Step::Join(formed.iter().map(|(node, _)| node.address.clone()).collect())
}

/// No log anywhere: this node votes, and all `voters` must be here and empty. `complete`: none was left out.
fn gather(here: &Here<'_>, voters: &[&(ListedNode, Heard)], complete: bool, anew: bool) -> Step {
    if voters.iter().any(|(_, heard)| matches!(heard, Heard::Silent(_))) {
        return Step::Wait(missing(here.config, voters));
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
    if !marks.is_empty() && complete && anew {
        return Step::LayMarksAside;
    }
    if let Some(sentence) = marked(here.config, marks, voters, complete) {
        return Step::Wait(sentence);
    }
    let mut founders = vec![founder(own_voter, *content, here.incarnation)];
    for (node, heard) in voters {
        let Heard::Answered(greeting) = heard else { continue };
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

/// Whose roots carry marks although nobody has a log, and what helps.
fn marked(
    config: &ClusterConfig,
    own: &[String],
    voters: &[&(ListedNode, Heard)],
    complete: bool,
) -> Option<String> {
    let own = (!own.is_empty()).then(|| format!("{} ({})", config.node_name, own.join(", ")));
    let others = voters.iter().filter_map(|(node, heard)| match heard {
        Heard::Answered(greeting) if !greeting.marked_roots.is_empty() => {
            Some(format!("{} at {} ({})", node.name, node.address, greeting.marked_roots.join(", ")))
        }
        _ => None,
    });
    let each: Vec<String> = own.into_iter().chain(others).collect();
    if each.is_empty() {
        return None;
    }
    let way = if complete {
        "`syncd bootstrap --new` on any of the hosts; no content is touched"
    } else {
        "start the listed voters that are missing first: only all of them together may say so"
    };
    Some(format!(
        "no listed voter has a log, but roots carry the mark of a membership: {}. Their data folders were lost: give \
         them back; or, if this is meant to be a new cluster, {way}",
        each.join(", ")
    ))
}

fn joined(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn names<'a>(nodes: impl Iterator<Item = &'a ListedNode>) -> String {
    let each: Vec<String> = nodes.map(|node| format!("{} at {}", node.name, node.address)).collect();
    if each.is_empty() {
        "nobody: no other candidate or witness is listed".to_owned()
    } else {
        each.join(", ")
    }
}

/// Whether a record may give way to another one while no log says whether its cluster formed.
///
/// Two writers exist only where one was left out. The nodes that store `new` bar the messages of `old`'s cluster, so
/// that one can't commit anything any more if the rest of its founders is no majority; and its writer, if it can be
/// asked, must have given it up itself. `writer` is what the old one's writer answers, if it is another node.
///
/// # Errors
/// Why not, in a sentence.
pub(super) fn gives_way(
    old: &FormationRecord,
    new: &FormationRecord,
    me: &str,
    writer: Option<&Heard>,
) -> Result<(), String> {
    let writer_of = |record: &FormationRecord| {
        record.founders.get(&record.writer).map_or("", |founder| founder.member.name.as_str()).to_owned()
    };
    let name = writer_of(old);
    if old.cluster == new.cluster || name == writer_of(new) || name == me {
        return Ok(());
    }
    match writer {
        Some(Heard::Answered(greeting)) if greeting.cluster == Some(old.cluster) => {
            Err(format!("{name} wrote another record, which is stored here, and holds on to it"))
        }
        Some(Heard::Answered(_)) => Ok(()),
        Some(Heard::Silent(_)) | None => {
            let gone =
                old.founders.values().filter(|founder| new.id_of(&founder.member.name).is_none()).count();
            if new.id_of(&name).is_some() || is_majority(gone, old.founders.len()) {
                return Err(format!(
                    "{name} wrote another record, which is stored here, and its cluster may have formed: start {name}"
                ));
            }
            Ok(())
        }
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
    let theirs: BTreeSet<String> = record
        .founders
        .values()
        .map(|founder| format!("{} ({})", founder.member.name, founder.member.role))
        .collect();
    let ours: BTreeSet<String> =
        config.voters().map(|node| format!("{} ({})", node.name, node.role)).collect();
    let extra = theirs.iter().any(|one| !ours.contains(one));
    if extra || !is_majority(theirs.len(), ours.len()) {
        let (ours, theirs) = (joined(&ours), joined(&theirs));
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
