//! What a node tells about the whole cluster: the JSON of `syncd status --json` and `GET /status`, and the rows of the
//! other two lists of the control socket.
//!
//! Owns the shape of these answers and what they amount to ([`StatusReport::judge`]). Values that are not known are
//! null, never left out; fields that are not known are taken and dropped. Leaves gathering them to the daemon and
//! words for people to the command line.

use serde::{Deserialize, Serialize};

use crate::model::{NodeReport, NodeState, Problem, Severity};

/// Whether all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All is well.
    Ok,
    /// A node is behind or unreachable, files drifted, or something is held.
    Degraded,
    /// No manager, this node is out of step, or a root is missing.
    Critical,
}

/// The whole cluster as one node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The cluster's name.
    pub cluster: String,
    /// `rsync` or `shared-fs`.
    pub mode: String,
    /// What it all amounts to.
    pub health: Health,
    /// The node that says this.
    pub node: String,
    /// When it was said, by that node's clock: RFC 3339 with milliseconds, UTC. Ages count from here.
    #[serde(default)]
    pub at: Option<String>,
    /// The manager in office.
    pub manager: Option<String>,
    /// The leader of the consensus that this node follows; need not be the manager.
    #[serde(default)]
    pub leader: Option<String>,
    /// Who votes, as this node's log says, by name; null before it says anything.
    #[serde(default)]
    pub voters: Option<Vec<String>>,
    /// Its epoch.
    pub epoch: Option<u64>,
    /// The head's number.
    pub generation: Option<u64>,
    /// The head's digest, 64 hexadecimal digits.
    pub digest: Option<String>,
    /// When the head was committed, RFC 3339 with milliseconds, UTC.
    pub committed_at: Option<String>,
    /// One row per listed or admitted node.
    pub nodes: Vec<NodeReport>,
    /// What is not as it should be, anywhere.
    pub problems: Vec<Problem>,
}

impl StatusReport {
    /// What the rows and problems amount to, whatever `health` says.
    #[must_use]
    pub fn judge(&self) -> Health {
        let no_manager = if self.manager.is_none() { Health::Critical } else { Health::Ok };
        let nodes = self.nodes.iter().map(|node| judge_node(node, node.name == self.node));
        let problems = self.problems.iter().map(|problem| match problem.severity {
            Severity::Info => Health::Ok,
            Severity::Warning => Health::Degraded,
            Severity::Critical => Health::Critical,
        });
        nodes.chain(problems).fold(no_manager, Health::max)
    }

    /// The row of the node that says this.
    #[must_use]
    pub fn own_row(&self) -> Option<&NodeReport> {
        self.nodes.iter().find(|node| node.name == self.node)
    }
}

/// One node's share in the health. Being out of step is critical on the node that is asked and a loss of redundancy on
/// any other.
fn judge_node(node: &NodeReport, own: bool) -> Health {
    let out_of_step = if own { Health::Critical } else { Health::Degraded };
    let state = match node.state {
        NodeState::Manager | NodeState::InSync | NodeState::Witness => Health::Ok,
        NodeState::Syncing | NodeState::Fetching | NodeState::Paused => Health::Degraded,
        NodeState::Behind | NodeState::NeedsSeed | NodeState::NeedsApproval | NodeState::Unreachable => {
            out_of_step
        }
        NodeState::RootMissing => Health::Critical,
    };
    let some = |count: Option<u64>| count.is_some_and(|count| count > 0);
    if some(node.drifted) || some(node.held) { state.max(Health::Degraded) } else { state }
}

/// One generation in `GET /history`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// Its number.
    pub number: u64,
    /// When it was committed, RFC 3339 with milliseconds, UTC.
    pub committed_at: String,
    /// The same in milliseconds since 1970.
    pub created_unix_ms: i64,
    /// The node whose folder it was read from.
    pub author: String,
    /// The epoch that committed it.
    pub epoch: u64,
    /// The digest of all roots, 64 hexadecimal digits.
    pub digest: String,
    /// New artifacts.
    pub added: u64,
    /// Artifacts with new content.
    pub changed: u64,
    /// Deleted artifacts.
    pub removed: u64,
    /// Some of the paths, `root:path`, escaped for people.
    pub paths: Vec<String>,
}

/// One copy in `GET /quarantine`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineRow {
    /// Its id, the name of its folder in the quarantine.
    pub id: String,
    /// The node that keeps it.
    pub node: String,
    /// The root it was in.
    pub root: String,
    /// Its path there, escaped for people.
    pub path: String,
    /// Why it was replaced.
    pub why: String,
    /// The generation that replaced it.
    pub generation: Option<u64>,
    /// Bytes; null when it is no regular file.
    pub size: Option<u64>,
    /// Its content's blake3, hexadecimal; null when it is no regular file.
    pub hash: Option<String>,
    /// Its permissions, octal, such as `0644`.
    pub mode: Option<String>,
    /// Its owner's number; 0 also where an older version does not say.
    #[serde(default)]
    pub uid: u32,
    /// Its group's number.
    #[serde(default)]
    pub gid: u32,
    /// When it was last written, RFC 3339.
    pub mtime: Option<String>,
    /// When it was put aside, RFC 3339.
    pub at: String,
}

/// A moment as these answers write it: `2026-01-31T09:00:00.123Z`.
#[must_use]
pub fn time_text(unix_ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(unix_ms) {
        Ok(time) => format!("{time:.3}"),
        // Beyond the year 9999: a clock that far off is told as the number it is.
        Err(_) => unix_ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report as the interface prints it, with a field more and all optional values null.
    fn sample() -> StatusReport {
        let node = |name: &str, state: &str| {
            format!(
                r#"{{"name":"{name}","address":"{name}:8730","role":"candidate","state":"{state}","generation":42,
                "digest":null,"lag_seconds":0.0,"last_seen_seconds":0.1,"version":null,"drifted":0,"quarantined":3,
                "held":0,"pending":null,"holds":null,"priority":0,"faults":[],
                "roots":[{{"name":"r","path":"/r","files":1,"bytes":2,"digest":null,"new":1}}],"problems":[],
                "some_later_field":{{}}}}"#
            )
        };
        let json = format!(
            r#"{{"cluster":"c","mode":"rsync","health":"ok","node":"gw2","manager":"gw1","epoch":7,"generation":42,
            "digest":null,"committed_at":null,"nodes":[{},{}],"problems":[],"later":[1]}}"#,
            node("gw1", "manager"),
            node("gw2", "in-sync"),
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn unknown_fields_are_taken_and_unknown_values_are_null() {
        let json = serde_json::to_value(sample()).unwrap();
        assert!(json["digest"].is_null() && json["committed_at"].is_null());
        assert!(json["nodes"][0]["version"].is_null());
        assert_eq!(json["nodes"][1]["state"], "in-sync");
        assert_eq!(json["health"], "ok");
        assert!(json.get("later").is_none());
    }

    #[test]
    fn health_is_the_worst_of_its_parts() {
        let check = |expected: Health, change: &dyn Fn(&mut StatusReport)| {
            let mut report = sample();
            change(&mut report);
            assert_eq!(report.judge(), expected, "{report:?}");
        };
        let problem = |severity| Problem {
            severity,
            code: "x".into(),
            node: None,
            root: None,
            path: None,
            message: "m".into(),
            remedy: "r".into(),
        };
        check(Health::Ok, &|_| {});
        check(Health::Critical, &|report| report.manager = None);
        check(Health::Ok, &|report| report.problems.push(problem(Severity::Info)));
        check(Health::Degraded, &|report| report.problems.push(problem(Severity::Warning)));
        check(Health::Critical, &|report| report.problems.push(problem(Severity::Critical)));
        check(Health::Degraded, &|report| report.nodes[0].state = NodeState::Unreachable);
        check(Health::Critical, &|report| report.nodes[1].state = NodeState::Behind);
        check(Health::Degraded, &|report| report.nodes[0].state = NodeState::Behind);
        check(Health::Critical, &|report| report.nodes[0].state = NodeState::RootMissing);
        check(Health::Degraded, &|report| report.nodes[1].state = NodeState::Syncing);
        check(Health::Degraded, &|report| report.nodes[0].drifted = Some(1));
        check(Health::Degraded, &|report| report.nodes[0].held = Some(1));
    }

    #[test]
    fn moments_have_milliseconds() {
        assert_eq!(time_text(1_769_850_000_120), "2026-01-31T09:00:00.120Z");
    }
}
