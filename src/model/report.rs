//! What a node says of itself: one row of `syncd status`, in the words of that contract.

use serde::{Deserialize, Serialize};

use crate::model::Progress;

/// How much a problem matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Degraded.
    Warning,
    /// Critical.
    Critical,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// A stable word for scripts, such as `root-missing`.
    pub code: String,
    /// The node it is about.
    pub node: Option<String>,
    /// The root it is about.
    pub root: Option<String>,
    /// The artifact it is about, escaped for people.
    pub path: Option<String>,
    /// One sentence: what is wrong and why.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    /// A problem of no node, root or artifact yet.
    #[must_use]
    pub fn new(
        severity: Severity,
        code: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (message, remedy) = (message.into(), remedy.into());
        Self { severity, code: code.to_owned(), node: None, root: None, path: None, message, remedy }
    }
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Its folder is the source.
    Manager,
    /// Has applied the head.
    InSync,
    /// Moves its files to the head.
    Syncing,
    /// Gets what it lacks.
    Fetching,
    /// Has not applied the head and does nothing about it now.
    Behind,
    /// The cluster is paused.
    Paused,
    /// Candidates hold different first content.
    NeedsSeed,
    /// Its own first content would be replaced; a person must agree.
    NeedsApproval,
    /// A root is missing, empty, or not the one it was.
    RootMissing,
    /// Keeps the store only.
    Witness,
    /// Not heard.
    Unreachable,
}

/// One root of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootReport {
    /// Its name.
    pub name: String,
    /// Where it is on that node.
    pub path: String,
    /// Regular files in it.
    pub files: u64,
    /// Their sizes together.
    pub bytes: u64,
    /// The digest of what is in it, 64 hexadecimal digits.
    pub digest: Option<String>,
    /// Which mark lies in it: a folder that two nodes mount is told from a copy by it.
    #[serde(default)]
    pub mark: Option<String>,
}

/// Which life of a node speaks: its peers tell a lost, copied or set back data folder by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its internal id.
    pub node: crate::model::NodeId,
    /// Drawn by its process.
    pub process: u64,
    /// How often a process started on its data folder.
    pub starts: u64,
    /// The last log entry that it applied.
    pub applied: u64,
    /// The digest of the generation that [`NodeReport::holds`] numbers, 64 hexadecimal digits.
    pub holds: Option<String>,
}

/// One node: the row that it sends to its peers and that every node's status shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Name from the configuration.
    pub name: String,
    /// Where its peers reach it.
    pub address: String,
    /// `candidate`, `worker` or `witness`.
    pub role: String,
    /// What it is doing.
    pub state: NodeState,
    /// The generation it has applied whole; null before the first.
    pub generation: Option<u64>,
    /// The head's digest once every path matches.
    pub digest: Option<String>,
    /// Seconds that it is behind the head.
    pub lag_seconds: Option<f64>,
    /// Seconds since it was heard; 0 for the node itself.
    pub last_seen_seconds: Option<f64>,
    /// The daemon's version.
    pub version: Option<String>,
    /// Files that differ from its generation.
    pub drifted: Option<u64>,
    /// Files in its quarantine.
    pub quarantined: Option<u64>,
    /// Changes held until approved.
    pub held: Option<u64>,
    /// Changes of the manager's folder that are not published yet.
    pub pending: Option<u64>,
    /// The newest generation whose content it holds whole in its store.
    pub holds: Option<u64>,
    /// Which life of it speaks; none before it belongs to a cluster.
    #[serde(default)]
    pub instance: Option<Instance>,
    /// Preference as manager.
    pub priority: i64,
    /// What would take it out of the load balancer, each as `code: reason`; empty when it is fit.
    pub faults: Vec<String>,
    /// How far long work is: a first scan, a first copy; null when there is none.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// Its roots.
    pub roots: Vec<RootReport>,
    /// Its problems.
    pub problems: Vec<Problem>,
}

impl NodeReport {
    /// Whether nothing would take it out of the load balancer.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.faults.is_empty()
    }
}

/// A report with the moment at which it was heard by this process.
#[derive(Clone, Debug)]
pub struct HeardReport {
    /// What the node said of itself.
    pub report: NodeReport,
    /// When it was heard.
    pub at: crate::model::BootTime,
}

/// The newest report of each other node, by name.
pub type Heard = std::collections::BTreeMap<String, HeardReport>;
