//! What this node answers when it is asked: one place from which HTTP, the control socket and metrics take it.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::apply::Restorer;
use crate::cluster::Cluster;
use crate::daemon::config::Config;
use crate::daemon::membership;
use crate::daemon::metrics::{Metrics, MetricsError, Snapshot};
use crate::daemon::report::unheard;
use crate::daemon::status::{Health, HistoryRow, QuarantineRow, StatusReport, time_text};
use crate::inspect::Inspector;
use crate::inventory::Observed;
use crate::model::{
    BootTime, ClusterState, Coordinator, Entry, Epoch, FileTime, Heard, HeardReport, Lease, NodeReport,
    NodeState, Problem, Severity, Standing, unix_ms,
};
use crate::rpc::Peers;
use crate::store::{QuarantineItem, Store, StoreError};

/// A node that was not heard for this long is unreachable: six questions that went unanswered.
pub(super) const UNHEARD: Duration = Duration::from_secs(3);

/// Problems whose messages speak of nodes and roots, never of artifacts.
const NAMES_NO_PATH: &[&str] = &[
    "forming",
    "paused",
    "waiting",
    "needs-seed",
    "no-manager",
    "no-quorum",
    "no-majority",
    "succeeded",
    "predecessor-lives",
    "not-rejoined",
    "unreachable",
    "root-missing",
    "root-emptied",
    "copied-root",
    "shared-root",
    "watch-limit",
    "watch-overflow",
    "more-problems",
];

/// What a fault says of a gateway, the worst last.
const FAULTS: [&str; 7] =
    ["behind", "apply-failed", "not-whole", "not-applied", "empty", "root-missing", "starting"];

fn code_of(fault: &str) -> &str {
    fault.split(':').next().unwrap_or_default()
}

/// How bad a fault is; one that this version does not know is the worst.
fn weight(fault: &str) -> usize {
    FAULTS.iter().position(|known| *known == code_of(fault)).unwrap_or(FAULTS.len())
}

/// The worst fault of `own`, if another gateway is heard that is better off.
fn counting_fault<'a>(own: &'a NodeReport, heard: &Heard, now: BootTime) -> Option<&'a str> {
    let fault = own.faults.iter().max_by_key(|fault| weight(fault))?;
    let better_off = heard
        .values()
        .filter(|other| now.since(other.at) < UNHEARD && other.report.state != NodeState::Witness)
        .any(|other| other.report.faults.iter().map(|theirs| weight(theirs)).max() < Some(weight(fault)));
    better_off.then_some(fault.as_str())
}

/// Everything that answers are made of; each field is written by one other task.
pub struct View {
    pub(super) config: Arc<Config>,
    pub(super) cluster: Cluster,
    pub(super) own: watch::Receiver<Arc<NodeReport>>,
    pub(super) heard: watch::Receiver<Arc<Heard>>,
    pub(super) state: watch::Receiver<Option<Arc<ClusterState>>>,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) observed: watch::Receiver<Arc<Observed>>,
    pub(super) active: watch::Receiver<Option<Epoch>>,
    /// The latest end of a lease that anybody was told, in nanoseconds of [`BootTime`].
    pub(super) told: Arc<AtomicU64>,
    pub(super) store: Store,
    pub(super) restorer: Restorer,
    pub(super) peers: Peers,
    pub(super) metrics: Arc<Metrics>,
    pub(super) inspector: Inspector,
}

impl View {
    /// The whole cluster as this node sees it.
    #[must_use]
    pub fn status(&self) -> StatusReport {
        let own = self.own.borrow().clone();
        let state = self.state.borrow().clone();
        let standing = self.standing.borrow().clone();
        let nodes = self.rows(&own, state.as_deref());
        let name_of = |id| Some(state.as_ref()?.members.get(&id)?.name.clone());
        let appointment = state.as_ref().and_then(|state| state.appointment.clone());
        let manager = appointment.as_ref().and_then(|appointment| name_of(appointment.manager));
        let manages =
            |name: &String| nodes.iter().any(|row| row.name == *name && row.state == NodeState::Manager);
        // Appointed is not yet in office: a manager that is dead or still brings its folder up is none.
        let manager = manager.filter(manages);
        let head = state.as_ref().and_then(|state| state.head.clone());
        let mut problems: Vec<Problem> = nodes.iter().flat_map(|row| row.problems.clone()).collect();
        problems.extend(self.own_view_problems(&nodes, manager.as_ref(), state.as_deref()));
        problems.sort_by_key(|problem| Reverse(problem.severity));
        let mut report = StatusReport {
            cluster: self.config.cluster.name.clone(),
            mode: "rsync".to_owned(),
            health: Health::Ok,
            node: own.name.clone(),
            at: Some(time_text(unix_ms())),
            manager,
            leader: standing.leader.and_then(name_of),
            voters: state.as_ref().map(|state| state.voters.iter().copied().filter_map(name_of).collect()),
            epoch: state.as_ref().map(|state| state.epoch()),
            generation: head.as_ref().map(|head| head.generation),
            digest: head.as_ref().map(|head| head.digest.to_string()),
            committed_at: head.as_ref().map(|head| time_text(head.committed_unix_ms)),
            nodes,
            problems,
        };
        report.health = report.judge();
        report
    }

    /// [`View::status`] for an address that others may reach: artifact paths are left out unless allowed.
    #[must_use]
    pub fn public_status(&self) -> StatusReport {
        let mut report = self.status();
        if !self.shows_paths() {
            for row in &mut report.nodes {
                row.faults = row.faults.iter().map(|fault| code_of(fault).to_owned()).collect();
            }
            let rows = report.nodes.iter_mut().flat_map(|row| row.problems.iter_mut());
            for problem in report.problems.iter_mut().chain(rows) {
                let code = problem.code.as_str();
                if !NAMES_NO_PATH.contains(&code) && !membership::CODES.contains(&code) {
                    problem.path = None;
                    problem.message = "see `syncd status` on the host: paths are not shown here".to_owned();
                }
            }
        }
        report
    }

    /// Whether whoever reaches the HTTP port may see artifact paths.
    fn shows_paths(&self) -> bool {
        self.config.node.http_paths || self.config.node.http.ip().is_loopback()
    }

    fn rows(&self, own: &NodeReport, state: Option<&ClusterState>) -> Vec<NodeReport> {
        let heard = self.heard.borrow().clone();
        let mut expected: Vec<(String, String, String)> = Vec::new();
        for listed in &self.config.cluster.nodes {
            expected.push((listed.name.clone(), listed.address.clone(), listed.role.to_string()));
        }
        for member in state.iter().flat_map(|state| state.members.values()) {
            if !expected.iter().any(|(name, ..)| *name == member.name) {
                expected.push((member.name.clone(), member.address.clone(), member.role.to_string()));
            }
        }
        for (name, awaited) in state.iter().flat_map(|state| &state.lineage.awaited) {
            if !expected.iter().any(|(listed, ..)| listed == name) {
                expected.push((name.clone(), awaited.address.clone(), awaited.role.to_string()));
            }
        }
        if !expected.iter().any(|(name, ..)| *name == own.name) {
            expected.push((own.name.clone(), own.address.clone(), own.role.clone()));
        }
        let now = BootTime::now();
        let row = |(name, address, role): (String, String, String)| {
            if name == own.name {
                return own.clone();
            }
            match heard.get(&name) {
                Some(HeardReport { report, at }) => {
                    let age = now.since(*at);
                    let mut row = report.clone();
                    row.last_seen_seconds = Some(age.as_secs_f64());
                    if age > UNHEARD {
                        (row.state, row.lag_seconds) = (NodeState::Unreachable, None);
                        row.problems.clear();
                    }
                    row
                }
                None => unheard(name, address, role),
            }
        };
        expected.into_iter().map(row).collect()
    }

    fn own_view_problems(
        &self,
        nodes: &[NodeReport],
        manager: Option<&String>,
        state: Option<&ClusterState>,
    ) -> Vec<Problem> {
        let mut problems = membership::problems(&self.config, state, nodes);
        for row in nodes.iter().filter(|row| row.state == NodeState::Unreachable) {
            let since = row.last_seen_seconds.map_or_else(
                || "was never heard since this daemon started".to_owned(),
                |seconds| format!("was last heard {seconds:.0} s ago"),
            );
            let heard = self.heard.borrow().clone();
            let instead = membership::speaks_from(row, &self.config, &heard, BootTime::now())
                .map(|other| format!("; {other}"))
                .unwrap_or_default();
            problems.push(Problem {
                severity: Severity::Warning,
                code: "unreachable".to_owned(),
                node: Some(row.name.clone()),
                root: None,
                path: None,
                message: format!("{} at {} {since}{instead}", row.name, row.address),
                remedy: format!("see `systemctl status syncd` on {}, and whether its port is open", row.name),
            });
        }
        for (name, awaited) in state.iter().flat_map(|state| &state.lineage.awaited) {
            problems.push(Problem::new(
                Severity::Warning,
                "not-rejoined",
                format!(
                    "{name} at {} was a member before this cluster was recovered, and did not come back",
                    awaited.address
                ),
                format!(
                    "on {name}: `systemctl stop syncd`, `syncd recover --rejoin`, `systemctl start syncd`; an \
                     emptied host needs only the start. If it is gone for good: `syncd remove {name}`"
                ),
            ));
        }
        if let Some(pause) = state.and_then(|state| state.paused.as_ref()) {
            let (by, at) = (&pause.by, time_text(pause.unix_ms));
            problems.push(Problem::new(
                Severity::Warning,
                "paused",
                format!("paused on {by} at {at}: nothing is published, applied or reverted on any node"),
                "run `syncd resume`",
            ));
        }
        if state.is_some() && manager.is_none() {
            problems.push(Problem {
                severity: Severity::Critical,
                code: "no-manager".to_owned(),
                node: None,
                root: None,
                path: None,
                message: "no node is manager, so nothing is published; the gateways serve what they have"
                    .to_owned(),
                remedy: "wait some seconds; if it stays, start the candidates that are unreachable"
                    .to_owned(),
            });
        }
        problems
    }

    /// Whether the load balancer may send this gateway traffic.
    ///
    /// A fault counts only while another gateway is heard that is better off: the last good one stays in, and of
    /// several bad ones the least bad.
    ///
    /// # Errors
    /// The reason, in one line.
    pub fn ready(&self) -> Result<(), String> {
        let own = self.own.borrow().clone();
        if own.state == NodeState::Witness {
            return Err("witness: has no artifacts".to_owned());
        }
        match counting_fault(&own, &self.heard.borrow(), BootTime::now()) {
            Some(fault) if self.shows_paths() => Err(fault.to_owned()),
            Some(fault) => Err(code_of(fault).to_owned()),
            None => Ok(()),
        }
    }

    /// Whether this node is ready and not the manager.
    ///
    /// # Errors
    /// The reason, in one line.
    pub fn worker(&self) -> Result<(), String> {
        self.ready()?;
        if self.active.borrow().is_some() { Err("this node is the manager".to_owned()) } else { Ok(()) }
    }

    /// Whether this node is the manager, by a renewal made for this request.
    ///
    /// # Errors
    /// The reason, in one line.
    pub async fn manager(&self) -> Result<Lease, String> {
        let Some(epoch) = *self.active.borrow() else {
            return Err("this node is not the manager".to_owned());
        };
        let lease = self.cluster.renew().await.ok_or("the lease could not be renewed")?;
        // Before the last look: whoever ends the office waits until what was told has ended.
        self.told.fetch_max(lease.end.nanos(), Ordering::SeqCst);
        // The last look before the answer: everything may have moved during the round trip.
        if lease.epoch != epoch || *self.active.borrow() != Some(epoch) {
            return Err("another manager was appointed".to_owned());
        }
        if self.observed.borrow().roots.values().any(|root| root.missing.is_some()) {
            return Err("a root is missing".to_owned());
        }
        if BootTime::now() >= lease.end {
            return Err("the lease ran out".to_owned());
        }
        Ok(lease)
    }

    /// What Prometheus reads.
    ///
    /// # Errors
    /// [`MetricsError`] when a metric can't be written as text.
    pub fn metrics(&self) -> Result<String, MetricsError> {
        let own = self.own.borrow().clone();
        let observed = self.observed.borrow().clone();
        let status = self.status();
        let peers = status.nodes.iter().filter(|row| row.name != own.name);
        let heard = peers.clone().filter_map(|row| Some((row.name.clone(), row.last_seen_seconds?)));
        let unwatched = observed.unwatched.as_ref();
        let in_sync = own.digest.is_some() && own.digest == status.digest;
        self.metrics.text(&Snapshot {
            state: Some(own.state),
            epoch: status.epoch.unwrap_or(0),
            generation: own.generation.unwrap_or(0),
            head_generation: status.generation.unwrap_or(0),
            in_sync,
            lag_seconds: own.lag_seconds.unwrap_or(0.0),
            peers: peers.map(|row| (row.name.clone(), row.state != NodeState::Unreachable)).collect(),
            roots: own.roots.iter().map(|root| (root.name.clone(), root.files, root.bytes)).collect(),
            quarantined: own.quarantined.unwrap_or(0),
            held: own.held.unwrap_or(0),
            unwatched: unwatched.map_or(0, |unwatched| unwatched.folders),
            watching: unwatched.is_none_or(|unwatched| unwatched.folders < unwatched.of),
            health: status.health as u8,
            drifted: own.drifted.unwrap_or(0),
            heard_seconds: heard.collect(),
            scan_seconds: observed.scan_seconds,
            watch_overflows: observed.overflows,
            elections: self.cluster.metrics().elections,
        })
    }

    /// The newest `count` generations, newest first. Blocks on the disk.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn history(&self, count: usize) -> Result<Vec<HistoryRow>, StoreError> {
        let rows = self.store.history(count)?.into_iter().map(|entry| HistoryRow {
            number: entry.generation.number,
            committed_at: time_text(entry.generation.created_unix_ms),
            created_unix_ms: entry.generation.created_unix_ms,
            author: entry.generation.author,
            epoch: entry.generation.epoch,
            digest: entry.generation.digest.to_string(),
            added: entry.added,
            changed: entry.changed,
            removed: entry.removed,
            paths: entry.paths.iter().map(ToString::to_string).collect(),
        });
        Ok(rows.collect())
    }

    /// What this node keeps in quarantine. Blocks on the disk.
    ///
    /// # Errors
    /// When the quarantine can't be read.
    pub fn quarantine(&self) -> Result<Vec<QuarantineRow>, StoreError> {
        let node = self.config.node.name.clone();
        Ok(self.store.quarantine_list()?.into_iter().map(|item| quarantine_row(item, &node)).collect())
    }
}

/// One version in quarantine as it is listed.
pub(super) fn quarantine_row(item: QuarantineItem, node: &str) -> QuarantineRow {
    let (size, hash, mode) = match &item.what.entry {
        Entry::File { mode, size, hash } => (Some(*size), Some(hash.to_string()), Some(*mode)),
        Entry::Folder { mode } => (None, None, Some(*mode)),
        Entry::Link { .. } => (None, None, None),
    };
    let millis = |time: FileTime| time.seconds * 1000 + i64::from(time.nanos) / 1_000_000;
    QuarantineRow {
        id: item.id.0,
        node: node.to_owned(),
        root: item.what.place.root.to_string(),
        path: item.what.place.path.to_string(),
        why: item.what.why,
        generation: Some(item.what.generation),
        size,
        hash,
        mode: mode.map(|mode| format!("{mode:04o}")),
        uid: item.what.uid,
        gid: item.what.gid,
        mtime: item.what.mtime.map(|time| time_text(millis(time))),
        at: time_text(item.put_unix_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, faults: &[&str]) -> NodeReport {
        let faults = faults.iter().map(|fault| (*fault).to_owned()).collect();
        NodeReport {
            state: NodeState::InSync,
            faults,
            ..unheard(name.into(), String::new(), "candidate".into())
        }
    }

    fn heard(nodes: &[&NodeReport], at: BootTime) -> Heard {
        let heard =
            |report: &&NodeReport| (report.name.clone(), HeardReport { report: (*report).clone(), at });
        nodes.iter().map(heard).collect()
    }

    #[test]
    fn the_last_good_gateway_stays_in() {
        let now = BootTime::now();
        let (fine, behind) = (node("fine", &[]), node("behind", &["behind: for 40 s"]));
        let failed = node("failed", &["behind: for 40 s", "apply-failed: no space"]);
        let counts = |own: &NodeReport, others: &[&NodeReport]| {
            counting_fault(own, &heard(others, now), now).map(|fault| code_of(fault).to_owned())
        };
        assert_eq!(counts(&fine, &[&behind]), None);
        assert_eq!(counts(&behind, &[&fine]).as_deref(), Some("behind"));
        assert_eq!(counts(&behind, &[]), None, "nobody else is heard");
        assert_eq!(counts(&behind, &[&behind]), None, "all are equally behind");
        assert_eq!(counts(&behind, &[&failed]), None, "the least bad stays in");
        assert_eq!(counts(&failed, &[&behind]).as_deref(), Some("apply-failed"));
        let witness = NodeReport { state: NodeState::Witness, ..fine.clone() };
        assert_eq!(counts(&behind, &[&witness]), None, "a witness serves nothing");
        let long_ago = counting_fault(&behind, &heard(&[&fine], now), now + UNHEARD);
        assert_eq!(long_ago, None, "who is not heard any more is no reason");
    }
}
