//! Looking at a root, or at some places in it, and drawing the conclusions.

use std::collections::{BTreeSet, HashSet};

use tokio::time::Instant;

use crate::inventory::holding::{Busy, Draft, Holding};
use crate::model::{ArtifactPath, Entry, Meter, with_causes};
use crate::tree::{self, Entered, Kind, Observation, Root, Seen, Walk};
use crate::watcher::{WatchError, Watcher};

/// What all looks of one sweep share.
pub(super) struct Look<'a> {
    pub watcher: Option<&'a Watcher>,
    /// When the sweep began.
    pub now: Instant,
    /// Why the first folder that has no watch can't be watched.
    pub unwatched: Option<WatchError>,
    /// What is read in this root whatever is known of it.
    pub anew: BTreeSet<ArtifactPath>,
    /// Whether a look at places found anything that was not told before. What this node wrote itself is seen twice: by
    /// its event, and by word of who wrote it.
    pub news: bool,
    /// Counts what is looked at.
    pub meter: &'a Meter,
}

impl Look<'_> {
    /// Walks a whole root.
    pub(super) fn walk_root(&mut self, holding: &mut Holding) {
        let Some(root) = holding.root.clone() else { return };
        holding.wants_walk = false;
        if holding.missing.is_some()
            && let Some(watcher) = self.watcher
        {
            // It may be another folder than before, and nobody asks what happens in that one.
            watcher.forget(root.name());
        }
        let walk = self.walk(holding, &root, None);
        // What was found in a folder that is not the root any more is no news about the root.
        if let Err(error) = root.still_there() {
            holding.lose(&error);
            return;
        }
        if let Some((_, error)) = walk.failed.iter().find(|(path, _)| path.is_none()) {
            holding.lose(error);
            return;
        }
        holding.found();
        holding.skipped = walk.skipped;
        let former: Vec<ArtifactPath> =
            holding.manifest.iter().flat_map(|manifest| manifest.iter().map(|(path, _)| path)).collect();
        let busy: Vec<ArtifactPath> = holding.busy.keys().cloned().collect();
        let failed: Vec<ArtifactPath> = holding.failed.keys().cloned().collect();
        let mut draft = Draft::default();
        self.conclude(holding, &mut draft, walk, former, busy, failed);
        draft.commit(holding, self.now);
    }

    /// Looks at single places; at those in `deep` with everything below them.
    pub(super) fn places(
        &mut self,
        holding: &mut Holding,
        places: BTreeSet<ArtifactPath>,
        deep: &BTreeSet<ArtifactPath>,
    ) {
        // Before it was walked as a whole, a part of it says nothing; that walk will see these places too.
        if holding.manifest.is_none() {
            return;
        }
        let Some(root) = holding.root.clone() else { return };
        let mut draft = Draft::default();
        let mut walked: HashSet<ArtifactPath> = HashSet::new();
        for place in places {
            // A place in a folder that nobody knows yet stands for that folder.
            let stranger = ancestors(&place).into_iter().find(|folder| !draft.is_folder(holding, folder));
            let is_deep = stranger.is_some() || deep.contains(&place);
            let target = stranger.unwrap_or(place);
            let covered =
                walked.contains(&target) || ancestors(&target).iter().any(|folder| walked.contains(folder));
            if !covered && self.place(holding, &root, &mut draft, &target, is_deep) {
                walked.insert(target);
            }
        }
        self.news |= draft.commit(holding, self.now);
    }

    /// Takes over what was just written here, where it still is so; the rest is left to be looked at.
    pub(super) fn take_over(
        &mut self,
        holding: &mut Holding,
        applied: Vec<(ArtifactPath, Option<Seen>)>,
    ) -> BTreeSet<ArtifactPath> {
        let mut rest = BTreeSet::new();
        let (Some(root), Some(_)) = (holding.root.clone(), &holding.manifest) else { return rest };
        let mut draft = Draft::default();
        let mut fits = Vec::new();
        for (path, seen) in applied {
            let same = match (root.stat(&path), &seen) {
                (Ok(now), seen) => now == seen.as_ref().map(|seen| seen.stat),
                (Err(_), _) => false,
            };
            let is_folder = seen.as_ref().is_some_and(|seen| seen.entry.is_folder());
            // A folder is looked at like any other: it must be watched, and its content may have changed.
            if same && !is_folder && !holding.matcher.excluded(&path, false) {
                fits.push((path, seen));
            } else {
                rest.insert(path);
            }
        }
        for (path, seen) in fits {
            match seen {
                Some(seen) if ancestors(&path).iter().any(|folder| !draft.is_folder(holding, folder)) => {
                    // Whoever walks that folder need not read it.
                    holding.seen.insert(path.clone(), seen);
                    rest.insert(path);
                }
                Some(seen) => self.there(holding, &mut draft, path, seen),
                None => self.gone(holding, &mut draft, &path),
            }
        }
        self.news |= draft.commit(holding, self.now);
        rest
    }

    /// Looks at one place; true when everything below it was looked at as well.
    fn place(
        &mut self,
        holding: &mut Holding,
        root: &Root,
        draft: &mut Draft,
        path: &ArtifactPath,
        is_deep: bool,
    ) -> bool {
        let (file, folder) = (holding.matcher.excluded(path, false), holding.matcher.excluded(path, true));
        // Only where the kind decides is it asked before anything is read.
        let excluded = if file == folder {
            file
        } else {
            match root.stat(path) {
                Ok(stat) => holding
                    .matcher
                    .excluded(path, stat.is_some_and(|stat| matches!(stat.kind, Kind::Folder | Kind::Mount))),
                Err(_) => false,
            }
        };
        if excluded {
            self.gone(holding, draft, path);
            return false;
        }
        let known = holding.seen.get(path).filter(|_| !self.anew.contains(path));
        match tree::observe(root, path, known) {
            Observation::Absent | Observation::Skipped => {
                self.gone(holding, draft, path);
                true
            }
            Observation::There(seen) if seen.entry.is_folder() => {
                let is_deep = is_deep || !draft.is_folder(holding, path);
                self.there(holding, draft, path.clone(), seen);
                if is_deep {
                    self.walk_folder(holding, root, draft, path);
                }
                is_deep
            }
            Observation::There(seen) => {
                self.there(holding, draft, path.clone(), seen);
                false
            }
            Observation::Busy => {
                self.busy(holding, path.clone());
                false
            }
            Observation::Failed(error) => {
                self.news = true;
                holding.busy.remove(path);
                // Else the next look would go by its times and sizes, and take it for whole.
                holding.seen.remove(path);
                holding.failed.insert(path.clone(), with_causes(&error));
                false
            }
        }
    }

    fn walk_folder(&mut self, holding: &mut Holding, root: &Root, draft: &mut Draft, folder: &ArtifactPath) {
        self.news = true;
        let walk = self.walk(holding, root, Some(folder));
        let former = draft.below(holding, folder);
        let busy = holding.busy.keys().filter(|path| path.is_below(folder)).cloned().collect();
        let failed = holding.failed.keys().filter(|path| path.is_below(folder)).cloned().collect();
        self.conclude(holding, draft, walk, former, busy, failed);
    }

    fn walk(&mut self, holding: &mut Holding, root: &Root, from: Option<&ArtifactPath>) -> Walk {
        let mut unwatched = std::mem::take(&mut holding.unwatched);
        if let Some(from) = from {
            forget_below(&mut unwatched, from);
        } else {
            unwatched.clear();
        }
        let cache = |path: &ArtifactPath| {
            self.meter.count("scanning", 0);
            holding.seen.get(path).filter(|_| !self.anew.contains(path)).cloned()
        };
        let mut enter = |entered: Entered<'_>| {
            if let Some(watcher) = self.watcher
                && let Err(error) = watcher.watch(root.name(), entered.folder, entered.handle)
            {
                unwatched.insert(entered.folder.cloned());
                self.unwatched.get_or_insert(error);
            }
        };
        let walk = tree::walk(root, &holding.matcher, &cache, &mut enter, from);
        holding.unwatched = unwatched;
        walk
    }

    /// Puts what a walk found into the draft. `former`, `busy` and `failed` are what was known where it went.
    fn conclude(
        &mut self,
        holding: &mut Holding,
        draft: &mut Draft,
        walk: Walk,
        former: Vec<ArtifactPath>,
        busy: Vec<ArtifactPath>,
        failed: Vec<ArtifactPath>,
    ) {
        let known: HashSet<&ArtifactPath> =
            walk.seen.iter().map(|(path, _)| path).chain(walk.busy.iter()).collect();
        let unknown: HashSet<&ArtifactPath> =
            walk.failed.iter().filter_map(|(path, _)| path.as_ref()).collect();
        let kept = |path: &ArtifactPath| {
            known.contains(path)
                || unknown.contains(path)
                || (!unknown.is_empty() && ancestors(path).iter().any(|folder| unknown.contains(folder)))
        };
        for path in &former {
            if !kept(path) {
                holding.seen.remove(path);
                draft.remove(path.clone());
            }
        }
        let still_busy: HashSet<&ArtifactPath> = walk.busy.iter().collect();
        for path in busy {
            if !still_busy.contains(&path) {
                holding.busy.remove(&path);
            }
        }
        for path in failed {
            holding.failed.remove(&path);
        }
        for (path, error) in &walk.failed {
            if let Some(path) = path {
                holding.seen.remove(path);
                holding.failed.insert(path.clone(), with_causes(error));
            }
        }
        for path in walk.busy {
            self.busy(holding, path);
        }
        for (path, seen) in walk.seen {
            if draft.get(holding, &path) != Some(&seen.entry) {
                draft.put(path.clone(), seen.entry.clone());
            }
            remember(holding, path, seen);
        }
    }

    fn there(&mut self, holding: &mut Holding, draft: &mut Draft, path: ArtifactPath, seen: Seen) {
        if !seen.entry.is_folder() && draft.is_folder(holding, &path) {
            self.gone(holding, draft, &path);
        }
        let was_hidden = holding.busy.remove(&path).is_some() | holding.failed.remove(&path).is_some();
        let is_as_seen = holding.seen.get(&path).is_some_and(|known| known.stat == seen.stat);
        self.news |= was_hidden || !(is_as_seen || seen.entry.is_folder());
        draft.put(path.clone(), seen.entry.clone());
        remember(holding, path, seen);
    }

    fn gone(&mut self, holding: &mut Holding, draft: &mut Draft, path: &ArtifactPath) {
        for below in draft.below(holding, path) {
            holding.seen.remove(&below);
            draft.remove(below);
        }
        let hidden = (holding.busy.len(), holding.failed.len());
        holding.busy.retain(|other, _| other != path && !other.is_below(path));
        holding.failed.retain(|other, _| other != path && !other.is_below(path));
        self.news |= hidden != (holding.busy.len(), holding.failed.len());
        forget_below(&mut holding.unwatched, path);
        holding.seen.remove(path);
        if draft.get(holding, path).is_some() {
            draft.remove(path.clone());
        }
    }

    fn busy(&mut self, holding: &mut Holding, path: ArtifactPath) {
        self.news = true;
        holding.failed.remove(&path);
        holding.seen.remove(&path);
        holding.busy.entry(path).or_insert_with(|| Busy::since(self.now)).looked_at(Instant::now());
    }
}

/// Takes `folder` and all that is below it out.
fn forget_below(unwatched: &mut BTreeSet<Option<ArtifactPath>>, folder: &ArtifactPath) {
    if !unwatched.is_empty() {
        unwatched
            .retain(|other| other.as_ref().is_none_or(|other| other != folder && !other.is_below(folder)));
    }
}

/// Folders cost next to nothing to look at, so nothing is remembered of them.
fn remember(holding: &mut Holding, path: ArtifactPath, seen: Seen) {
    if matches!(seen.entry, Entry::Folder { .. }) {
        holding.seen.remove(&path);
    } else {
        holding.seen.insert(path, seen);
    }
}

/// The folders above `path`, from the top down.
fn ancestors(path: &ArtifactPath) -> Vec<ArtifactPath> {
    let mut above: Vec<ArtifactPath> = std::iter::successors(path.parent(), ArtifactPath::parent).collect();
    above.reverse();
    above
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::inventory::RootConfig;
    use crate::model::{ContentHash, FileTime, Manifest, RootName, RootRules};
    use crate::plan::Matcher;
    use crate::tree::{Stat, TreeError};

    fn path(text: &str) -> ArtifactPath {
        ArtifactPath::new(text.as_bytes()).unwrap()
    }

    fn seen(entry: Entry) -> Seen {
        let time = FileTime { seconds: 0, nanos: 0 };
        let (mtime, ctime) = (time, time);
        let kind = if entry.is_folder() { Kind::Folder } else { Kind::File };
        let stat = Stat { kind, mode: 0, size: 0, mtime, ctime, inode: 1, device: 1, uid: 0, gid: 0 };
        Seen::now(entry, stat)
    }

    #[test]
    fn what_a_walk_could_not_list_is_not_gone() {
        let folder = || Entry::Folder { mode: 0o755 };
        let file = || Entry::File { mode: 0o644, size: 0, hash: ContentHash::of(b"") };
        let config = RootConfig { name: RootName::new("r"), path: PathBuf::from("/r"), optional: false };
        let mut holding =
            Holding::new(config, Matcher::new(&RootRules::default()).unwrap(), RootRules::default());
        let all = [("a", folder()), ("a/b", folder()), ("a/b/x", file()), ("c", folder()), ("c/x", file())]
            .map(|(text, entry)| (path(text), Some(entry)));
        holding.manifest = Some(Manifest::default().with(all.clone()).unwrap());
        let error = || TreeError::NotAFile { path: "for example".to_owned() };
        // `a` could not be listed, `c/x` not be read, and `c/y` is new and being written.
        let walk = Walk {
            seen: vec![(path("a"), seen(folder())), (path("c"), seen(folder()))],
            busy: vec![path("c/y")],
            failed: vec![(Some(path("a")), error()), (Some(path("c/x")), error())],
            skipped: 0,
        };
        let mut look = Look {
            watcher: None,
            now: Instant::now(),
            unwatched: None,
            anew: BTreeSet::new(),
            news: false,
            meter: &Meter::default(),
        };
        let mut draft = Draft::default();
        let former = all.iter().map(|(path, _)| path.clone()).collect();
        look.conclude(&mut holding, &mut draft, walk, former, Vec::new(), Vec::new());
        draft.commit(&mut holding, look.now);
        assert_eq!(holding.manifest, Some(Manifest::default().with(all).unwrap()));
        assert_eq!(holding.failed.keys().cloned().collect::<Vec<_>>(), [path("a"), path("c/x")]);
        assert_eq!(holding.busy.keys().cloned().collect::<Vec<_>>(), [path("c/y")]);
        // The next walk lists it, and finds it empty.
        let walk = Walk { seen: vec![(path("a"), seen(folder()))], ..Walk::default() };
        let former =
            holding.manifest.iter().flat_map(|manifest| manifest.iter().map(|(path, _)| path)).collect();
        let mut draft = Draft::default();
        look.conclude(
            &mut holding,
            &mut draft,
            walk,
            former,
            vec![path("c/y")],
            vec![path("a"), path("c/x")],
        );
        draft.commit(&mut holding, look.now);
        assert_eq!(holding.manifest.iter().flat_map(Manifest::iter).count(), 1);
        assert!(holding.failed.is_empty() && holding.busy.is_empty());
    }
}
