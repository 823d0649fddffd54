//! What this node says of itself: the row that its peers and its own status show.
//!
//! A plain function of what the rooms publish, so that status, metrics and the load balancer's answers can't disagree.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::apply::ApplyStatus;
use crate::daemon::config::Config;
use crate::daemon::view::UNHEARD;
use crate::inventory::Observed;
use crate::inventory::Unwatched;
use crate::model::{
    BootTime, ClusterState, Heard, Instance, LostQuorum, NodeReport, NodeState, Problem, Progress, Role,
    RootReport, Seed, Severity, Standing, Successor,
};
use crate::publish::PublishStatus;

/// Most problems that one report lists; more are counted in a last one.
const PROBLEMS_MAX: usize = 100;

/// Everything that a report is made of, taken together.
pub struct Inputs<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The log's state; none before this node belongs to a cluster.
    pub state: Option<&'a ClusterState>,
    /// What this process knows of the election.
    pub standing: &'a Standing,
    /// Which life of this node speaks; none before it belongs to a cluster.
    pub instance: Option<Instance>,
    /// The roots as they are.
    pub observed: &'a Observed,
    /// How far the head is applied.
    pub apply: &'a ApplyStatus,
    /// What the manager's folder has beyond the head.
    pub publish: &'a PublishStatus,
    /// How far long work is.
    pub progress: Option<Progress>,
    /// What is heard of the others.
    pub heard: &'a Heard,
    /// Since when this node is behind the head.
    pub behind_since: Option<BootTime>,
    /// Since when that counts against it: no pause of the cluster does.
    pub late_since: Option<BootTime>,
    /// Now.
    pub now: BootTime,
}

/// The row of this node.
#[must_use]
pub fn report(inputs: &Inputs<'_>) -> NodeReport {
    let lag = inputs.behind_since.map_or(Duration::ZERO, |since| inputs.now.since(since));
    let state = node_state(inputs);
    let manages = state == NodeState::Manager;
    let mut problems = inputs.apply.problems.clone();
    problems.iter_mut().for_each(|problem| name_sharer(problem, inputs));
    if manages {
        problems.extend(inputs.publish.problems.iter().cloned());
    }
    problems.extend(root_problems(inputs));
    problems.extend(formation_problems(inputs));
    let late = inputs.late_since.map_or(Duration::ZERO, |since| inputs.now.since(since));
    let faults = faults(inputs, late);
    problems.extend(inputs.standing.notices.iter().cloned());
    NodeReport {
        name: inputs.config.node.name.clone(),
        address: inputs.config.address(),
        role: inputs.config.role().to_string(),
        state,
        generation: inputs.apply.applied.map(|(number, _)| number),
        digest: digest_shown(inputs, manages).map(|digest| digest.to_string()),
        lag_seconds: inputs.state.and_then(|state| state.head.as_ref()).map(|_| lag.as_secs_f64()),
        last_seen_seconds: Some(0.0),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        drifted: Some(if manages { 0 } else { inputs.apply.drifted }),
        quarantined: Some(inputs.apply.quarantined),
        held: Some(if manages { inputs.publish.held } else { inputs.apply.held() }),
        pending: Some(if manages { inputs.publish.pending } else { 0 }),
        holds: inputs.apply.holds,
        instance: inputs.instance.clone().map(|instance| Instance {
            holds: inputs.apply.holds_digest.map(|digest| digest.to_string()),
            ..instance
        }),
        priority: inputs.config.me().map_or(0, |me| me.priority),
        faults,
        progress: inputs.progress.clone(),
        roots: roots(inputs),
        problems: bounded(problems, &inputs.config.node.name),
    }
}

fn node_state(inputs: &Inputs<'_>) -> NodeState {
    if inputs.config.role() == Role::Witness {
        return NodeState::Witness;
    }
    let missing = inputs.observed.roots.values().any(|root| root.missing.is_some());
    if missing || !inputs.apply.roots.is_empty() {
        return NodeState::RootMissing;
    }
    match inputs.state {
        Some(state) if state.head.is_none() && matches!(state.seed, Seed::Conflict(_)) => {
            NodeState::NeedsSeed
        }
        // The manager stays manager, so that whoever looks for it finds it.
        Some(state) if state.paused.is_some() && inputs.apply.state != NodeState::Manager => {
            NodeState::Paused
        }
        _ => match inputs.progress.as_ref().map(|progress| progress.step.as_str()) {
            Some("receiving") if inputs.behind_since.is_some() => NodeState::Fetching,
            Some("applying") if inputs.behind_since.is_some() => NodeState::Syncing,
            _ => inputs.apply.state,
        },
    }
}

/// The head's digest when every path matches. The manager's folder is the source: what it has beyond is pending.
fn digest_shown(inputs: &Inputs<'_>, manages: bool) -> Option<crate::model::Digest> {
    let head = inputs.state?.head.as_ref()?;
    let (number, digest) = inputs.apply.applied?;
    let whole = number == head.generation && digest == head.digest;
    (whole && (manages || inputs.apply.matches_head)).then_some(head.digest)
}

/// What would take this node out of the load balancer, each in one line; empty when it is fit.
fn faults(inputs: &Inputs<'_>, late: Duration) -> Vec<String> {
    if inputs.config.role() == Role::Witness {
        return vec!["witness: has no artifacts".to_owned()];
    }
    let mut faults = Vec::new();
    if !inputs.observed.complete {
        faults.push("starting: the roots were not looked at yet".to_owned());
    }
    for (name, root) in &inputs.observed.roots {
        if root.missing.is_some() || inputs.apply.roots.contains_key(name) {
            faults.push(format!("root-missing: {name}"));
        }
    }
    let has_head = inputs.state.is_some_and(|state| state.head.is_some());
    let waits = inputs.apply.state == NodeState::NeedsApproval;
    if has_head && !waits {
        if inputs.apply.applied.is_none() {
            faults.push("not-applied: no generation was applied yet".to_owned());
        } else if inputs.apply.journal_open {
            faults.push("not-whole: between two generations".to_owned());
        }
        if let Some(why) = &inputs.apply.failed {
            faults.push(format!("apply-failed: {why}"));
        }
        if late > inputs.config.sync.ready_lag {
            faults.push(format!("behind: for {} s", late.as_secs()));
        }
    } else if inputs.observed.complete && inputs.observed.forest.files() == 0 {
        faults.push("empty: the roots hold nothing and there is no head".to_owned());
    }
    faults
}

fn roots(inputs: &Inputs<'_>) -> Vec<RootReport> {
    let paths = inputs.config.synced_roots().map(|root| (&root.name, &root.path));
    paths
        .map(|(name, path)| {
            let manifest = inputs.observed.forest.roots.get(name);
            RootReport {
                name: name.to_string(),
                path: path.display().to_string(),
                files: manifest.map_or(0, crate::model::Manifest::files),
                bytes: manifest.map_or(0, crate::model::Manifest::bytes),
                digest: manifest.map(|manifest| manifest.digest().to_string()),
                mark: inputs.apply.marks.get(name).cloned(),
            }
        })
        .collect()
}

fn root_problems(inputs: &Inputs<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, root) in &inputs.observed.roots {
        if let Some(why) = &root.missing {
            problems.push(Problem {
                severity: Severity::Critical,
                code: "root-missing".to_owned(),
                node: None,
                root: Some(name.to_string()),
                path: None,
                message: format!("the root {name} is not there: {why}"),
                remedy: "mount or restore the folder; nothing is written or published until it is back"
                    .to_owned(),
            });
        }
    }
    for (place, why) in &inputs.observed.failed {
        problems.push(Problem {
            severity: Severity::Warning,
            code: "unreadable".to_owned(),
            node: None,
            root: Some(place.root.to_string()),
            path: Some(place.path.to_string()),
            message: format!("can't be read, so its last known content counts: {why}"),
            remedy: "give the daemon's user permission to read it, or repair the file system".to_owned(),
        });
    }
    if inputs.config.role() != Role::Witness {
        problems.extend(inputs.observed.unwatched.as_ref().map(watch_limit));
        if inputs.observed.overflowed_lately {
            problems.push(Problem::new(
                Severity::Info,
                "watch-overflow",
                "the kernel dropped events within the last ten minutes; everything was walked instead",
                "if it happens often: sysctl -w fs.inotify.max_queued_events=65536, and that line in /etc/sysctl.d/60-syncd.conf",
            ));
        }
    }
    problems
}

/// A root with another node's mark is shared, not copied, if a node that lives now sees the same mark in the same file.
fn name_sharer(problem: &mut Problem, inputs: &Inputs<'_>) {
    if problem.code != "copied-root" {
        return;
    }
    let mark = inputs.apply.marks.iter().find(|(root, _)| Some(root.as_str()) == problem.root.as_deref());
    let Some((root, mark)) = mark else { return };
    let sees = |row: &NodeReport| row.roots.iter().any(|other| other.mark.as_ref() == Some(mark));
    let sharers: Vec<&str> = inputs
        .heard
        .values()
        .filter(|other| inputs.now.since(other.at) < UNHEARD && sees(&other.report))
        .map(|other| other.report.name.as_str())
        .collect();
    if sharers.is_empty() {
        return;
    }
    problem.code = "shared-root".to_owned();
    problem.message = format!(
        "the root {root} is the very folder that {} uses too, so nothing is written to it or published from it here",
        sharers.join(", ")
    );
    problem.remedy =
        "if the nodes share one folder on purpose, set mode = \"shared-fs\" on all of them; else give each \
                      node a folder of its own"
            .to_owned();
}

fn watch_limit(unwatched: &Unwatched) -> Problem {
    let Unwatched { folders, of, why, setting, polled_every } = unwatched;
    let every = polled_every.as_secs_f64();
    let message =
        format!("{folders} of {of} folders have no watch, so they are polled every {every:.0} s: {why}");
    let remedy = match setting {
        Some(setting) => {
            // Room for other programs of the same user, who share it.
            let value = if setting.ends_with("instances") { 1024 } else { (of * 4).max(524_288) };
            format!(
                "sysctl -w {setting}={value}, and `{setting} = {value}` in /etc/sysctl.d/60-syncd.conf; then every \
                 folder is watched by itself"
            )
        }
        None => "see the daemon's log; it is tried again by itself".to_owned(),
    };
    Problem::new(Severity::Warning, "watch-limit", message, remedy)
}

fn formation_problems(inputs: &Inputs<'_>) -> Vec<Problem> {
    let problem = |code, message, remedy| Problem::new(Severity::Critical, code, message, remedy);
    let mut problems = Vec::new();
    match inputs.state {
        None => problems.push(problem(
            "forming",
            inputs
                .standing
                .waiting_for
                .clone()
                .unwrap_or_else(|| "this node belongs to no cluster yet".to_owned()),
            "start the daemon on every listed node, and open their port between the hosts".to_owned(),
        )),
        Some(state) => {
            if let (None, Seed::Conflict(contents)) = (&state.head, &state.seed) {
                let named: Vec<String> = contents
                    .iter()
                    .map(|(id, content)| {
                        let name = state.members.get(id).map_or("?", |member| member.name.as_str());
                        format!(
                            "{name} has {} files, digest {:.12}",
                            content.files,
                            content.digest.to_string()
                        )
                    })
                    .collect();
                problems.push(problem(
                    "needs-seed",
                    format!("the candidates hold different content and none may win unasked: {}", named.join("; ")),
                    "`syncd approve --seed NODE` makes that node's content the first generation; what only the others have \
                     goes to quarantine there"
                        .to_owned(),
                ));
            } else if let Some(why) = &inputs.standing.waiting_for {
                problems.push(problem("waiting", why.clone(), "see the message".to_owned()));
            }
            if inputs.standing.leader.is_none() || inputs.standing.lost_quorum.is_some() {
                problems.push(no_quorum(inputs.standing.lost_quorum.as_ref(), &inputs.config.node.name));
            }
            problems.extend(inputs.standing.successor.as_ref().map(|successor| succeeded(state, successor)));
            if !inputs.standing.predecessors.is_empty() {
                problems.push(predecessor_lives(state, &inputs.standing.predecessors));
            }
        }
    }
    problems
}

/// No leader, and the way on: first the others, then recovery.
fn no_quorum(lost: Option<&LostQuorum>, me: &str) -> Problem {
    let problem = |message, remedy: String| Problem::new(Severity::Critical, "no-quorum", message, remedy);
    let Some(lost) = lost.filter(|lost| 2 * lost.answering.len() <= lost.voters) else {
        return problem(
            "no leader is heard: a majority of the voters is down or out of reach; the gateways serve on"
                .to_owned(),
            "start the daemons that are unreachable, or mend the network between the hosts".to_owned(),
        );
    };
    let silent = lost.silent.join(", ");
    let place = if lost.newest == me { "on this host".to_owned() } else { format!("on {}", lost.newest) };
    problem(
        format!(
            "no quorum for {} s: {silent} of {} voters do not answer; the gateways serve on, nothing is \
             published",
            lost.seconds, lost.voters
        ),
        format!(
            "start {silent} first: with a majority up everything goes on by itself. Only if they are lost for good, \
             {place}, which has the newest log: `systemctl stop syncd`, then `syncd recover`, then \
             `systemctl start syncd`"
        ),
    )
}

/// This node was left behind in a cluster that is given up.
fn succeeded(state: &ClusterState, successor: &Successor) -> Problem {
    if successor.is_sibling {
        return Problem::new(
            Severity::Critical,
            "recovered-twice",
            format!(
                "one cluster was recovered on two hosts: {} belong(s) to {}, this node to {}, and each publishes for itself",
                successor.seen_on.join(", "),
                successor.cluster,
                state.cluster
            ),
            "keep one of the two; on every host of the other: `systemctl stop syncd`, then `syncd recover --rejoin`, \
             then `systemctl start syncd`",
        );
    }
    Problem::new(
        Severity::Critical,
        "succeeded",
        format!(
            "this node's cluster {} was recovered elsewhere: {} belong(s) to its successor {}",
            state.cluster,
            successor.seen_on.join(", "),
            successor.cluster
        ),
        "on this host: `systemctl stop syncd`, then `syncd recover --rejoin`, then `systemctl start syncd`",
    )
}

/// A majority that was given up for lost came back, and goes on for itself.
fn predecessor_lives(state: &ClusterState, seen_on: &[String]) -> Problem {
    let names = seen_on.join(", ");
    Problem::new(
        Severity::Critical,
        "predecessor-lives",
        format!(
            "the cluster that this node's cluster {} succeeded came back and has a leader: {names} belong(s) to it, and each \
             of the two publishes for itself",
            state.cluster
        ),
        format!(
            "if this cluster is to go on: stop the daemons on {names}, then on each of them `syncd recover --rejoin` and \
             `systemctl start syncd`"
        ),
    )
}

/// The worst first, each once, a bounded number of them, each with the node's name.
fn bounded(mut problems: Vec<Problem>, node: &str) -> Vec<Problem> {
    problems.sort_by_key(|problem| Reverse(problem.severity));
    // Two rooms may have seen the same.
    let mut seen = BTreeSet::new();
    problems.retain(|found| seen.insert((found.code.clone(), found.root.clone(), found.path.clone())));
    if problems.len() > PROBLEMS_MAX {
        let more = problems.len() - PROBLEMS_MAX;
        problems.truncate(PROBLEMS_MAX);
        problems.push(Problem::new(
            Severity::Warning,
            "more-problems",
            format!("{more} more problems are not listed"),
            "mend the listed ones first",
        ));
    }
    for problem in &mut problems {
        problem.node = Some(node.to_owned());
    }
    problems
}

/// A node of which nothing is known but that it should be there.
#[must_use]
pub fn unheard(name: String, address: String, role: String) -> NodeReport {
    NodeReport {
        name,
        address,
        role,
        state: NodeState::Unreachable,
        generation: None,
        digest: None,
        lag_seconds: None,
        last_seen_seconds: None,
        version: None,
        drifted: None,
        quarantined: None,
        held: None,
        pending: None,
        holds: None,
        instance: None,
        priority: 0,
        faults: Vec::new(),
        progress: None,
        roots: Vec::new(),
        problems: Vec::new(),
    }
}
