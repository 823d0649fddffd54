//! Where this node's files differ from the head, and why.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::inspect::told::{Difference, End, Kind, Side, Told, Why};
use crate::inventory::Observed;
use crate::model::{ArtifactPath, Edit, Entry, Forest, Intent, Manifest, Place, RootRules, Stands};
use crate::plan::{Matcher, standard_folder};
use crate::store::{Adopted, Store};
use crate::tree;

/// More places are counted and not listed.
pub(super) const ROWS_MAX: usize = 10_000;

/// What a comparison is made from.
pub(super) struct Sight {
    pub store: Store,
    pub observed: Arc<Observed>,
    pub head: Arc<Adopted>,
    /// What this node's record names; none before the first contact.
    pub applied: Option<Forest>,
    /// What the manager has before it; none on other nodes.
    pub outlook: Option<Vec<Intent>>,
    /// Whether what the rules leave out is listed as well.
    pub excluded: bool,
}

impl Sight {
    /// Compares; lines in the order of the paths, and what they amount to. Blocks on the disk.
    pub(super) fn compare(&self) -> (Vec<Told>, End) {
        let edits = self.observed.forest.edits(&self.head.forest);
        let intents: BTreeMap<&Place, Stands> =
            self.outlook.iter().flatten().map(|intent| (&intent.edit.place, intent.stands)).collect();
        let mut rows = Vec::new();
        let mut different = 0;
        for edit in &edits {
            let why = self.why(edit, &intents);
            different += u64::from(why.counts());
            if rows.len() < ROWS_MAX {
                rows.push(Told::Difference(self.difference(edit, why)));
            }
        }
        if self.excluded {
            self.list_excluded(&mut rows);
        }
        let whole = different == 0 && self.observed.failed.is_empty();
        let observed = &self.observed.forest;
        let digest = if whole { self.head.generation.digest } else { observed.digest() };
        let end = End {
            generation: Some(self.head.generation.number),
            digest: Some(digest.to_string()),
            files: observed.files(),
            bytes: observed.roots.values().map(Manifest::bytes).sum(),
            different,
            damaged: 0,
            manager: self.outlook.is_some(),
            unknown: self.unknown(),
        };
        (rows, end)
    }

    /// Why not all is known.
    fn unknown(&self) -> Option<String> {
        if let Some((name, why)) =
            self.observed.roots.iter().find_map(|(name, root)| Some((name, root.missing.as_ref()?)))
        {
            return Some(format!("the root {name} is not there: {why}"));
        }
        let (place, why) = self.observed.failed.first_key_value()?;
        let more = match self.observed.failed.len() {
            1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        Some(format!("{place} can't be read: {why}{more}"))
    }

    fn why(&self, edit: &Edit, intents: &BTreeMap<&Place, Stands>) -> Why {
        let goes_as_folder = edit.new.is_none() && edit.old.as_ref().is_some_and(Entry::is_folder);
        if self.observed.is_unreadable(&edit.place) {
            return Why::Unreadable;
        }
        if self.outlook.is_some() {
            return match intents.get(&edit.place) {
                Some(Stands::Held(_)) => Why::Held,
                // What is kept back for good, such as a link that leads out, is no part of the outlook.
                None => Why::Held,
                Some(Stands::Due | Stands::Waits(_)) => Why::Pending,
            };
        }
        if goes_as_folder && self.is_bare(&edit.place) {
            return Why::Folder;
        }
        let applied = self.applied.as_ref().map(|applied| applied.get(&edit.place));
        if applied == Some(edit.new.as_ref()) { Why::Drift } else { Why::Behind }
    }

    /// Whether a folder that the head lacks holds no artifact, or is one that the gateway expects.
    fn is_bare(&self, place: &Place) -> bool {
        standard_folder(&place.path)
            || self
                .observed
                .forest
                .roots
                .get(&place.root)
                .is_none_or(|manifest| manifest.below(&place.path).all(|(_, entry)| entry.is_folder()))
    }

    fn difference(&self, edit: &Edit, why: Why) -> Difference {
        let place = &edit.place;
        let mtime_here = || {
            let root = self.observed.roots.get(&place.root)?.root.as_ref()?;
            Some(root.stat(&place.path).ok()??.mtime)
        };
        let author = || self.store.author_mtime(place).ok()?;
        Difference {
            root: place.root.to_string(),
            path: place.path.to_string(),
            kind: kind(edit.old.as_ref(), edit.new.as_ref()),
            why,
            here: edit.old.as_ref().map(|entry| Side::of(entry, mtime_here())),
            head: edit.new.as_ref().map(|entry| Side::of(entry, author())),
        }
    }

    /// Walks the roots for what the rules leave out, syncd's own folders aside.
    fn list_excluded(&self, rows: &mut Vec<Told>) {
        for (name, state) in &self.observed.roots {
            let Some(root) = &state.root else { continue };
            let per_node = RootRules { per_node: state.rules.per_node.clone(), ..RootRules::default() };
            let none = RootRules::default();
            // Rules that the inventory goes by are good ones.
            let (Ok(all), Ok(per_node), Ok(own)) =
                (Matcher::new(&state.rules), Matcher::new(&per_node), Matcher::new(&none))
            else {
                continue;
            };
            let mut todo = vec![None::<ArtifactPath>];
            while let Some(folder) = todo.pop() {
                // What can't be listed is told as unreadable by the inventory.
                let Ok(names) = root.list(folder.as_ref()) else { continue };
                for path in names.iter().filter_map(|name| ArtifactPath::child(folder.as_ref(), name).ok()) {
                    let Ok(Some(stat)) = root.stat(&path) else { continue };
                    let is_folder = stat.kind == tree::Kind::Folder;
                    if own.excluded(&path, is_folder) {
                        continue;
                    }
                    if !all.excluded(&path, is_folder) {
                        todo.extend(is_folder.then_some(Some(path)));
                        continue;
                    }
                    if rows.len() >= ROWS_MAX {
                        return;
                    }
                    let why = if per_node.excluded(&path, is_folder) { Why::PerNode } else { Why::Excluded };
                    let kind = if is_folder { "folder" } else { "file" };
                    rows.push(Told::Difference(Difference {
                        root: name.to_string(),
                        path: path.to_string(),
                        kind: Kind::Extra,
                        why,
                        here: Some(Side {
                            kind: kind.to_owned(),
                            hash: None,
                            size: (!is_folder).then_some(stat.size),
                            mode: Some(format!("{:04o}", stat.mode)),
                            mtime: crate::inspect::told::time_text(stat.mtime),
                        }),
                        head: None,
                    }));
                }
            }
        }
    }
}

fn kind(here: Option<&Entry>, head: Option<&Entry>) -> Kind {
    use std::mem::discriminant;
    match (here, head) {
        (None, _) => Kind::Missing,
        (Some(_), None) => Kind::Extra,
        (Some(here), Some(head)) if discriminant(here) != discriminant(head) => Kind::Type,
        (Some(here), Some(head)) if here.same_content(head) => Kind::Mode,
        _ => Kind::Content,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ContentHash;

    #[test]
    fn kinds() {
        let file = |content: &[u8], mode| Entry::File { mode, size: 1, hash: ContentHash::of(content) };
        let folder = Entry::Folder { mode: 0o755 };
        for (here, head, expected) in [
            (None, Some(file(b"1", 0o644)), Kind::Missing),
            (Some(file(b"1", 0o644)), None, Kind::Extra),
            (Some(file(b"1", 0o644)), Some(file(b"2", 0o644)), Kind::Content),
            (Some(file(b"1", 0o600)), Some(file(b"1", 0o644)), Kind::Mode),
            (Some(folder.clone()), Some(file(b"1", 0o644)), Kind::Type),
            (Some(folder.clone()), Some(Entry::Folder { mode: 0o700 }), Kind::Mode),
        ] {
            assert_eq!(kind(here.as_ref(), head.as_ref()), expected, "{here:?} {head:?}");
        }
    }
}
