//! Events merged until somebody takes them.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::model::{ArtifactPath, Place, RootName};

/// More distinct paths than this are not worth keeping apart: a walk is cheaper.
const PATHS_MAX: usize = 20_000;

/// Everything that was reported since the last set was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeSet {
    /// Places to look at, with the time of the last event there.
    pub paths: BTreeMap<Place, Instant>,
    /// Places to look at with everything below them: a folder came to be there. None stands for the root.
    pub folders: BTreeSet<(RootName, Option<ArtifactPath>)>,
    /// Events were lost: anything may have changed anywhere.
    pub rescan_all: bool,
}

impl ChangeSet {
    /// Whether nothing was reported.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.folders.is_empty() && !self.rescan_all
    }

    /// Adds what was reported later.
    pub fn merge(&mut self, later: Self) {
        self.paths.extend(later.paths);
        self.folders.extend(later.folders);
        self.rescan_all |= later.rescan_all;
    }

    /// Something happened at `path`, or to the root itself; `deep` when anything may be below it now.
    pub(super) fn add(&mut self, root: &RootName, path: Option<ArtifactPath>, deep: bool, now: Instant) {
        if deep || path.is_none() {
            self.folders.insert((root.clone(), path.clone()));
        }
        if let Some(path) = path {
            self.paths.insert(Place { root: root.clone(), path }, now);
        }
        if self.paths.len() > PATHS_MAX || self.folders.len() > PATHS_MAX {
            self.lose();
        }
    }

    /// Anything may have changed anywhere.
    pub(super) fn lose(&mut self) {
        *self = Self { rescan_all: true, ..Self::default() };
    }

    /// All that was merged so far, which begins anew; none when that is nothing.
    pub(super) fn take(&mut self) -> Option<Self> {
        let set = std::mem::take(self);
        (!set.is_empty()).then_some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ArtifactPath {
        ArtifactPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn many_events_of_a_path_are_one_change_with_the_last_time() {
        let (root, now) = (RootName::new("r"), Instant::now());
        let later = now + std::time::Duration::from_secs(1);
        let mut pending = ChangeSet::default();
        pending.add(&root, Some(path("x")), false, now);
        pending.add(&root, Some(path("x")), false, later);
        pending.add(&root, Some(path("d")), true, now);
        let place = |text| Place { root: root.clone(), path: path(text) };
        let set = pending.take().unwrap();
        assert_eq!(set.paths, BTreeMap::from([(place("d"), now), (place("x"), later)]));
        assert_eq!(set.folders, BTreeSet::from([(root.clone(), Some(path("d")))]));
        assert_eq!(pending.take(), None);
        pending.add(&root, None, false, now);
        assert_eq!(pending.take().unwrap().folders, BTreeSet::from([(root, None)]));
    }

    #[test]
    fn too_many_paths_become_one_rescan() {
        let mut pending = ChangeSet::default();
        for number in 0..=PATHS_MAX {
            pending.add(&RootName::new("r"), Some(path(&number.to_string())), false, Instant::now());
        }
        assert_eq!(pending.take(), Some(ChangeSet { rescan_all: true, ..ChangeSet::default() }));
    }
}
