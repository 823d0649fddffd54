//! Which watch stands for which folder.

use std::collections::HashMap;

use rustix::fs::inotify::{Event, ReadFlags};
use tokio::time::Instant;

use crate::model::{ArtifactPath, RootName};
use crate::watcher::ChangeSet;

/// The folder in every root that is syncd's own.
const OWN: &[u8] = b".syncd";

/// The folder that a watch was put on, as it was called then.
type Folder = (RootName, Option<ArtifactPath>);

/// The kernel's watches by their number, each with the one name that its folder has.
///
/// A folder that was renamed keeps its watch. Until a walk has met it under its new name, its events carry the old
/// one; that walk is asked for by the event of its arrival there.
#[derive(Debug, Default)]
pub(super) struct Watches {
    folders: HashMap<i32, Folder>,
}

impl Watches {
    pub(super) fn insert(&mut self, watch: i32, folder: Folder) {
        self.folders.insert(watch, folder);
    }

    pub(super) fn len(&self) -> usize {
        self.folders.len()
    }

    /// Whether the folder has a watch under this name.
    pub(super) fn has(&self, folder: &Folder) -> bool {
        self.folders.values().any(|known| known == folder)
    }

    /// Forgets all watches of `root`, and names them.
    pub(super) fn remove_root(&mut self, root: &RootName) -> Vec<i32> {
        self.remove(|(name, _)| name == root)
    }

    /// Adds to `pending` what `event` says, and names the watches that are of no more use.
    pub(super) fn take_in(&mut self, event: &Event<'_>, pending: &mut ChangeSet, now: Instant) -> Vec<i32> {
        let flags = event.events();
        if flags.contains(ReadFlags::IGNORED) {
            self.folders.remove(&event.wd());
            return Vec::new();
        }
        let Some((root, folder)) = self.folders.get(&event.wd()).cloned() else { return Vec::new() };
        let name = event.file_name().map_or(&b""[..], |name| name.to_bytes());
        if name.is_empty() {
            // About the folder itself. The folder above it tells the same, but above the root nobody is watched.
            if folder.is_none() || flags.contains(ReadFlags::UNMOUNT) {
                pending.add(&root, None, true, now);
            }
            return Vec::new();
        }
        if folder.is_none() && name == OWN {
            return Vec::new();
        }
        // What is nested too deep to be carried is counted by walks.
        let Ok(path) = ArtifactPath::child(folder.as_ref(), name) else { return Vec::new() };
        let is_folder = flags.contains(ReadFlags::ISDIR);
        let came = flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
        let left = flags.contains(ReadFlags::MOVED_FROM);
        let useless = if is_folder && left {
            self.remove(|(name, folder)| {
                *name == root
                    && folder.as_ref().is_some_and(|folder| *folder == path || folder.is_below(&path))
            })
        } else {
            Vec::new()
        };
        pending.add(&root, Some(path), is_folder && came, now);
        useless
    }

    fn remove(&mut self, is_useless: impl Fn(&Folder) -> bool) -> Vec<i32> {
        let useless: Vec<i32> =
            self.folders.iter().filter(|(_, folder)| is_useless(folder)).map(|(watch, _)| *watch).collect();
        for watch in &useless {
            self.folders.remove(watch);
        }
        useless
    }
}
