//! Everything that is in a root, or in one folder of it.

use std::os::fd::AsFd;

use crate::model::ArtifactPath;
use crate::plan::Matcher;
use crate::tree::observe::Reader;
use crate::tree::root::{LISTING, list_names};
use crate::tree::{Kind, Observation, Root, Seen, Stat, TreeError, WORKSHOP};

/// What a walk found.
#[derive(Debug, Default)]
pub struct Walk {
    /// What is there.
    pub seen: Vec<(ArtifactPath, Seen)>,
    /// Files that are open for writing, or changed while they were read.
    pub busy: Vec<ArtifactPath>,
    /// What can't be read; none stands for the root itself. Of a folder that is named here nothing is known but what
    /// `seen` says: neither what it holds nor what it lacks.
    pub failed: Vec<(Option<ArtifactPath>, TreeError)>,
    /// Sockets, pipes, devices, what lies on other file systems, and what is nested too deep to be carried.
    pub skipped: u64,
}

/// Walks everything below `from` (the whole root when none), folder by folder.
///
/// `enter` is called with each folder before it is listed, so that a watch can be in place by then. What `matcher`
/// excludes is passed over and not entered. `cache` says what was seen of a path before.
pub fn walk(
    root: &Root,
    matcher: &Matcher,
    cache: &dyn Fn(&ArtifactPath) -> Option<Seen>,
    enter: &mut dyn FnMut(Option<&ArtifactPath>),
    from: Option<&ArtifactPath>,
) -> Walk {
    let mut walk = Walk::default();
    let mut reader = Reader::default();
    let mut folders = vec![from.cloned()];
    while let Some(folder) = folders.pop() {
        enter(folder.as_ref());
        // One handle at a time, however deep the tree: the next folder is opened from the root again.
        if let Err(error) = list(root, matcher, cache, folder.as_ref(), &mut reader, &mut walk, &mut folders)
            && (folder.is_none() || !error.is_absent())
        {
            walk.failed.push((folder, error));
        }
    }
    walk
}

fn list(
    root: &Root,
    matcher: &Matcher,
    cache: &dyn Fn(&ArtifactPath) -> Option<Seen>,
    folder: Option<&ArtifactPath>,
    reader: &mut Reader,
    walk: &mut Walk,
    folders: &mut Vec<Option<ArtifactPath>>,
) -> Result<(), TreeError> {
    let error = |errno| TreeError::io("list", root.shown(folder), errno);
    let handle = root.folder(folder, LISTING).map_err(error)?;
    for name in list_names(&handle).map_err(error)? {
        if folder.is_none() && name == WORKSHOP {
            continue;
        }
        let Ok(path) = ArtifactPath::child(folder, &name) else {
            tracing::warn!(root = %root.name(), folder = %root.shown(folder), "something is nested too deep to be carried");
            walk.skipped += 1;
            continue;
        };
        let stat = match Stat::of(&handle, &name, root.identity().device) {
            Ok(stat) => stat,
            Err(errno) => {
                let error = root.error("stat", &path, errno);
                if !error.is_absent() {
                    walk.failed.push((Some(path), error));
                }
                continue;
            }
        };
        if matcher.excluded(&path, stat.kind == Kind::Folder) {
            continue;
        }
        let cached = cache(&path);
        match reader.observe(root, handle.as_fd(), &name, &path, cached.as_ref(), Some(stat)) {
            Observation::Absent => {}
            Observation::There(seen) => {
                if seen.entry.is_folder() {
                    folders.push(Some(path.clone()));
                }
                walk.seen.push((path, seen));
            }
            Observation::Busy => walk.busy.push(path),
            Observation::Skipped => walk.skipped += 1,
            Observation::Failed(error) => walk.failed.push((Some(path), error)),
        }
    }
    Ok(())
}
