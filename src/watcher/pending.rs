//! Events merged until somebody takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
use tokio::time::Instant;

use crate::model::{ArtifactPath, Place, RootName};

/// More distinct paths than this are not worth keeping apart: a walk is cheaper.
const PATHS_MAX: usize = 20_000;

/// The folder in every root that is syncd's own.
const OWN: &[u8] = b".syncd";

/// Everything that was reported since the last set was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeSet {
    /// Places to look at, with the time of the last event there.
    pub paths: BTreeMap<Place, Instant>,
    /// Places to look at with everything below them: something new came to be there. None stands for the root.
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
}

/// The roots that are watched, and what was reported from them.
#[derive(Debug, Default)]
pub(super) struct Pending {
    roots: Vec<(PathBuf, RootName)>,
    set: ChangeSet,
}

impl Pending {
    /// From now on events below `path` belong to `root`.
    pub(super) fn add_root(&mut self, root: &RootName, path: &Path) {
        if !self.roots.iter().any(|(known, name)| known == path && name == root) {
            self.roots.retain(|(_, name)| name != root);
            self.roots.push((path.to_owned(), root.clone()));
        }
    }

    /// All that was merged so far, which begins anew; none when that is nothing.
    pub(super) fn take(&mut self) -> Option<ChangeSet> {
        let set = std::mem::take(&mut self.set);
        (!set.is_empty()).then_some(set)
    }

    /// Whether nothing was merged yet.
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Anything may have changed anywhere.
    pub(super) fn lose(&mut self) {
        self.set = ChangeSet { rescan_all: true, ..ChangeSet::default() };
    }

    /// Takes one event in. Whether events were lost must be asked first: such an event has no path.
    pub(super) fn add(&mut self, event: &notify::Event, now: Instant) {
        let is_new = match event.kind {
            // What scans do themselves.
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => return,
            // Said by two events of its own before.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return,
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => false,
            EventKind::Modify(ModifyKind::Name(_)) => true,
            EventKind::Create(CreateKind::File) => false,
            EventKind::Create(_) => true,
            EventKind::Modify(_) | EventKind::Remove(_) => false,
            EventKind::Any | EventKind::Other => true,
        };
        for path in &event.paths {
            self.add_path(path, is_new, now);
        }
        if self.set.paths.len() > PATHS_MAX || self.set.folders.len() > PATHS_MAX {
            self.lose();
        }
    }

    fn add_path(&mut self, path: &Path, is_new: bool, now: Instant) {
        let found = self
            .roots
            .iter()
            .filter_map(|(top, name)| Some((top, name, path.strip_prefix(top).ok()?)))
            .max_by_key(|(top, _, _)| top.as_os_str().len());
        let Some((_, root, below)) = found else { return };
        let below = below.as_os_str().as_bytes();
        if below.is_empty() {
            self.set.folders.insert((root.clone(), None));
            return;
        }
        if below.split(|byte| *byte == b'/').next() == Some(OWN) {
            return;
        }
        // What is nested too deep to be carried is counted by walks.
        let Ok(path) = ArtifactPath::new(below) else { return };
        if is_new {
            self.set.folders.insert((root.clone(), Some(path.clone())));
        }
        self.set.paths.insert(Place { root: root.clone(), path }, now);
    }
}

#[cfg(test)]
mod tests {
    use notify::Event;
    use notify::event::{DataChange, RemoveKind};

    use super::*;

    fn pending() -> Pending {
        let mut pending = Pending::default();
        pending.add_root(&RootName::new("a"), Path::new("/srv/a"));
        pending.add_root(&RootName::new("inner"), Path::new("/srv/a/inner"));
        pending
    }

    fn place(root: &str, path: &[u8]) -> Place {
        Place { root: RootName::new(root), path: ArtifactPath::new(path).unwrap() }
    }

    fn event(kind: EventKind, path: &str) -> Event {
        Event::new(kind).add_path(PathBuf::from(path))
    }

    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));

    #[test]
    fn many_events_of_a_path_are_one_change_with_the_last_time() {
        let (mut pending, now) = (pending(), Instant::now());
        let later = now + std::time::Duration::from_secs(1);
        pending.add(&event(EventKind::Create(CreateKind::File), "/srv/a/x"), now);
        pending.add(&event(WRITTEN, "/srv/a/x"), later);
        let set = pending.take().unwrap();
        assert_eq!(set.paths, BTreeMap::from([(place("a", b"x"), later)]));
        assert!(set.folders.is_empty() && !set.rescan_all);
        assert_eq!(pending.take(), None);
    }

    #[test]
    fn only_what_can_hold_more_is_looked_into() {
        let cases = [
            (EventKind::Create(CreateKind::Folder), true),
            (EventKind::Modify(ModifyKind::Name(RenameMode::To)), true),
            (EventKind::Modify(ModifyKind::Name(RenameMode::From)), false),
            (EventKind::Remove(RemoveKind::Folder), false),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), false),
        ];
        for (kind, looked_into) in cases {
            let mut pending = pending();
            pending.add(&event(kind, "/srv/a/d"), Instant::now());
            let set = pending.take().unwrap();
            assert!(set.paths.contains_key(&place("a", b"d")), "{kind:?}");
            assert_eq!(!set.folders.is_empty(), looked_into, "{kind:?}");
        }
    }

    #[test]
    fn own_reading_own_files_and_strangers_are_no_change() {
        let mut pending = pending();
        let read = EventKind::Access(AccessKind::Open(AccessMode::Any));
        pending.add(&event(read, "/srv/a/x"), Instant::now());
        pending
            .add(&event(EventKind::Access(AccessKind::Close(AccessMode::Read)), "/srv/a/x"), Instant::now());
        pending.add(&event(WRITTEN, "/srv/a/.syncd/member"), Instant::now());
        pending.add(&event(WRITTEN, "/srv/a/.syncd"), Instant::now());
        pending.add(&event(WRITTEN, "/srv/ab/x"), Instant::now());
        assert_eq!(pending.take(), None);
    }

    #[test]
    fn the_innermost_root_owns_a_path() {
        let mut pending = pending();
        pending.add(&event(WRITTEN, "/srv/a/inner/.syncdx/f"), Instant::now());
        pending.add(&event(EventKind::Remove(RemoveKind::Folder), "/srv/a/inner"), Instant::now());
        let set = pending.take().unwrap();
        assert_eq!(set.paths.into_keys().collect::<Vec<_>>(), [place("inner", b".syncdx/f")]);
        assert_eq!(set.folders, BTreeSet::from([(RootName::new("inner"), None)]));
    }

    #[test]
    fn too_many_paths_become_one_rescan() {
        let mut pending = pending();
        for number in 0..=PATHS_MAX {
            pending.add(&event(WRITTEN, &format!("/srv/a/{number}")), Instant::now());
        }
        assert_eq!(pending.take(), Some(ChangeSet { rescan_all: true, ..ChangeSet::default() }));
    }
}
