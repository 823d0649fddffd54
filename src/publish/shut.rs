//! The roots as publishing finds them: which are open, and from which nothing may go out now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::inventory::Observed;
use crate::model::{Problem, RootName, Rules, Severity};
use crate::tree::Root;

/// The roots that are there.
pub(super) fn open_roots(observed: &Observed) -> BTreeMap<RootName, Arc<Root>> {
    observed.roots.iter().filter_map(|(name, state)| Some((name.clone(), state.root.clone()?))).collect()
}

/// Roots from which nothing may be published now: not there, not the one it was, or not yet seen under these rules.
pub(super) fn shut_roots(
    rules: &Rules,
    optional: &BTreeSet<RootName>,
    observed: &Observed,
    problems: &mut Vec<Problem>,
) -> BTreeSet<RootName> {
    let mut shut = BTreeSet::new();
    for (name, wanted) in &rules.roots {
        let Some(state) = observed.roots.get(name) else {
            shut.insert(name.clone());
            continue;
        };
        let is_absent = state.root.is_none() && !optional.contains(name);
        let is_other = (&state.rules.exclude, &state.rules.per_node) != (&wanted.exclude, &wanted.per_node);
        if state.device_changed {
            let message =
                format!("the root {name} lies on another disk than before, so nothing is published from it");
            let remedy = "mount the former file system, or restart the daemon if the move was meant";
            let moved = Problem::new(Severity::Critical, "root-missing", message, remedy);
            problems.push(Problem { root: Some(name.to_string()), ..moved });
        }
        if is_absent || is_other || state.device_changed || state.missing.is_some() {
            shut.insert(name.clone());
        }
    }
    shut
}
