//! What this room says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Digest, HeldList, NodeState, Problem, RootName, Severity};

use crate::apply::{ApplyError, RootProblem};
use crate::store::Lost;

/// How far this node is. Problems name no node: whoever reports them does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyStatus {
    /// The generation of this cluster that the files were last brought to as a whole.
    pub applied: Option<(u64, Digest)>,
    /// Whether every path matches the head; true for the manager, whose folder is the source.
    pub matches_head: bool,
    /// What the node is doing.
    pub state: NodeState,
    /// Files that somebody changed here.
    pub drifted: u64,
    /// Items in the quarantine.
    pub quarantined: u64,
    /// The newest generation whose content is whole in the store.
    pub holds: Option<u64>,
    /// That generation's digest.
    pub holds_digest: Option<Digest>,
    /// Whether an apply was begun and not finished.
    pub journal_open: bool,
    /// Why the last apply failed; none once one succeeded.
    pub failed: Option<String>,
    /// Roots that can't be used.
    pub roots: BTreeMap<RootName, RootProblem>,
    /// Which mark lies in each root, in words that two nodes can compare.
    pub marks: BTreeMap<RootName, String>,
    /// What a person may let through, list by list.
    pub lists: Vec<Arc<HeldList>>,
    /// Everything that is not as it should be.
    pub problems: Vec<Problem>,
}

impl ApplyStatus {
    /// How many files wait for a person to agree that they go to quarantine.
    #[must_use]
    pub fn held(&self) -> u64 {
        let held = self.lists.iter().filter(|list| list.code == NEEDS_APPROVAL);
        held.map(|list| list.edits.len() as u64).sum()
    }
}

/// The problem of a node whose own files would be put aside in a great number at first contact.
pub(super) const NEEDS_APPROVAL: &str = "needs-approval";

impl Default for ApplyStatus {
    fn default() -> Self {
        Self {
            applied: None,
            matches_head: false,
            state: NodeState::Behind,
            drifted: 0,
            quarantined: 0,
            holds: None,
            holds_digest: None,
            journal_open: false,
            failed: None,
            roots: BTreeMap::new(),
            marks: BTreeMap::new(),
            lists: Vec::new(),
            problems: Vec::new(),
        }
    }
}

/// Takes what is measured here.
pub trait Observer: Send + Sync + 'static {
    /// Files were brought to a generation, from the first staged byte to the record.
    fn applied(&self, took: Duration);
    /// A generation is on this node that long after its author made it, by the clocks of both.
    fn propagated(&self, took: Duration);
    /// So many places of a root were found to be changed by somebody else.
    fn drifted(&self, root: &RootName, places: u64);
    /// So many bytes went to the member called `peer`, as `full`, `delta` or `zstd`.
    fn sent(&self, peer: &str, kind: &'static str, bytes: u64);
    /// So many bytes did not have to go, because the old version was known.
    fn saved(&self, bytes: u64);
}

/// Measures nothing.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn applied(&self, _: Duration) {}
    fn propagated(&self, _: Duration) {}
    fn drifted(&self, _: &RootName, _: u64) {}
    fn sent(&self, _: &str, _: &'static str, _: u64) {}
    fn saved(&self, _: u64) {}
}

pub(super) fn about(mut problem: Problem, root: &RootName, path: Option<String>) -> Problem {
    problem.root = Some(root.to_string());
    problem.path = path;
    problem
}

pub(super) fn of_root(root: &RootName, what: &RootProblem) -> Problem {
    about(Problem::new(Severity::Critical, what.code(), what.to_string(), what.remedy()), root, None)
}

/// The store lacks contents of the head; they are fetched again while this says so.
pub(super) fn of_lost(lost: &Lost) -> Option<Problem> {
    let (_, _, place) = lost.first()?;
    let message = format!(
        "{} content(s) of the newest generation were damaged in this node's store, such as that of {place}: it does not \
         count as a holder of that generation",
        lost.len()
    );
    let remedy = "none is needed while another node holds them: they are taken again by themselves; look at this host's disk";
    Some(Problem::new(Severity::Warning, "store-damaged", message, remedy))
}

pub(super) fn of_failure(error: &ApplyError) -> Problem {
    let found = Problem::new(Severity::Critical, "apply-failed", error.chain(), error.remedy());
    match error.root() {
        Some(root) => about(found, root, error.place().map(|place| place.path.to_string())),
        None => found,
    }
}
