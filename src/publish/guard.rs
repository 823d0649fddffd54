//! Which deletes empty a folder. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{ContentHash, Edit, Entry, Forest, Place};

/// A folder that had so many artifacts and has none any more is held, however few its deletes are.
const EMPTIED_MIN: usize = 10;

/// Whether the edit takes something away that is no folder.
pub(super) fn deletes_artifact(edit: &Edit) -> bool {
    edit.new.is_none() && edit.old.as_ref().is_some_and(|old| !old.is_folder())
}

/// The folders of the head that lose all of their artifacts, at least [`EMPTIED_MIN`], by these edits: `vanished` are
/// protected places that are gone too. A folder whose contents all come anew elsewhere was moved, not emptied.
pub(super) fn emptied<'a>(
    head: &Forest,
    edits: impl Iterator<Item = &'a Edit> + Clone,
    vanished: &BTreeSet<Place>,
) -> BTreeSet<Place> {
    if !edits.clone().any(deletes_artifact) {
        return BTreeSet::new();
    }
    let comes: BTreeSet<ContentHash> = edits
        .clone()
        .filter(|edit| edit.old.is_none())
        .filter_map(|edit| edit.new.as_ref().and_then(Entry::content))
        .collect();
    // For each folder how many artifacts go from it, and how many of them for good.
    let mut gone: BTreeMap<Place, (usize, usize)> = BTreeMap::new();
    let deleted = edits.clone().filter(|edit| deletes_artifact(edit));
    let deleted = deleted.map(|edit| {
        let content = edit.old.as_ref().and_then(Entry::content);
        (&edit.place, content.is_none_or(|hash| !comes.contains(&hash)))
    });
    for (place, for_good) in deleted.chain(vanished.iter().map(|place| (place, true))) {
        for folder in above(place) {
            let (all, lost) = gone.entry(folder).or_default();
            *all += 1;
            *lost += usize::from(for_good);
        }
    }
    // A folder that something new is in is not empty.
    let is_new = |edit: &&Edit| edit.old.is_none() && edit.new.as_ref().is_some_and(|new| !new.is_folder());
    for edit in edits.filter(is_new) {
        for folder in above(&edit.place) {
            gone.remove(&folder);
        }
    }
    let had = |folder: &Place| {
        let manifest = head.roots.get(&folder.root);
        manifest.map_or(0, |manifest| {
            manifest.below(&folder.path).filter(|(_, entry)| !entry.is_folder()).count()
        })
    };
    gone.into_iter()
        .filter(|(folder, (all, lost))| *all >= EMPTIED_MIN && *lost > 0 && had(folder) == *all)
        .map(|(folder, _)| folder)
        .collect()
}

/// The folders above a place, the nearest first.
pub(super) fn above(place: &Place) -> impl Iterator<Item = Place> + use<> {
    let root = place.root.clone();
    std::iter::successors(place.path.parent(), |path| path.parent())
        .map(move |path| Place { root: root.clone(), path })
}
