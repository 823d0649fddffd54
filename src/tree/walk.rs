//! Everything that is in a root, or in one folder of it.

use std::os::fd::{AsFd, BorrowedFd};

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
    /// Sockets, pipes, devices, and what is nested too deep to be carried.
    pub skipped: u64,
}

/// A folder that is about to be listed.
#[derive(Clone, Copy, Debug)]
pub struct Entered<'a> {
    /// Its path; none for the root itself.
    pub folder: Option<&'a ArtifactPath>,
    /// The very folder that will be listed.
    pub handle: BorrowedFd<'a>,
}

/// Walks everything below `from` (the whole root when none), folder by folder.
///
/// `enter` is called with each folder before it is listed, so that a watch can be in place by then. What `matcher`
/// excludes is passed over and not entered. `cache` says what was seen of a path before.
pub fn walk(
    root: &Root,
    matcher: &Matcher,
    cache: &dyn Fn(&ArtifactPath) -> Option<Seen>,
    enter: &mut dyn FnMut(Entered<'_>),
    from: Option<&ArtifactPath>,
) -> Walk {
    let mut walker = Walker {
        root,
        matcher,
        cache,
        enter,
        reader: Reader::default(),
        found: Walk::default(),
        folders: vec![],
    };
    let mut next = Some(from.cloned());
    while let Some(folder) = next {
        // One handle at a time, however deep the tree: the next folder is opened from the root again.
        if let Err(error) = walker.list(folder.as_ref())
            && (folder.is_none() || !error.is_absent())
        {
            walker.found.failed.push((folder, error));
        }
        next = walker.folders.pop().map(Some);
    }
    walker.found
}

struct Walker<'a> {
    root: &'a Root,
    matcher: &'a Matcher,
    cache: &'a dyn Fn(&ArtifactPath) -> Option<Seen>,
    enter: &'a mut dyn FnMut(Entered<'_>),
    reader: Reader,
    found: Walk,
    /// Folders that were seen and not listed yet.
    folders: Vec<ArtifactPath>,
}

impl Walker<'_> {
    fn list(&mut self, folder: Option<&ArtifactPath>) -> Result<(), TreeError> {
        let root = self.root;
        let error = |errno| TreeError::io("list", root.shown(folder), errno);
        let handle = root.folder(folder, LISTING).map_err(error)?;
        (self.enter)(Entered { folder, handle: handle.as_fd() });
        for name in list_names(&handle).map_err(error)? {
            if folder.is_none() && name == WORKSHOP {
                continue;
            }
            match ArtifactPath::child(folder, &name) {
                Ok(path) => self.look(handle.as_fd(), &name, path),
                Err(_) => {
                    tracing::warn!(root = %root.name(), folder = %root.shown(folder), "something is nested too deep");
                    self.found.skipped += 1;
                }
            }
        }
        Ok(())
    }

    fn look(&mut self, handle: BorrowedFd<'_>, name: &[u8], path: ArtifactPath) {
        let stat = match Stat::of(handle, name, self.root.identity().device) {
            Ok(stat) => stat,
            Err(errno) => {
                let error = self.root.error("stat", &path, errno);
                if !error.is_absent() {
                    self.found.failed.push((Some(path), error));
                }
                return;
            }
        };
        if self.matcher.excluded(&path, matches!(stat.kind, Kind::Folder | Kind::Mount)) {
            return;
        }
        let cached = (self.cache)(&path);
        match self.reader.observe(self.root, handle, name, &path, cached.as_ref(), Some(stat)) {
            Observation::Absent => {}
            Observation::There(seen) => {
                if seen.entry.is_folder() {
                    self.folders.push(path.clone());
                }
                self.found.seen.push((path, seen));
            }
            Observation::Busy => self.found.busy.push(path),
            Observation::Skipped => self.found.skipped += 1,
            Observation::Failed(error) => self.found.failed.push((Some(path), error)),
        }
    }
}
