//! Folders that only changed their path: told in a few bytes, whatever they hold.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::delta::ParcelError;
use crate::model::{ArtifactPath, Change, ContentHash, Entry, Forest, Place};

/// Folders that moved, from where to where.
pub(super) type Moves = Vec<(Place, Place)>;

/// Moves of one parcel. Folders beyond these are told as gone and as new.
pub(super) const MOVES_MAX: usize = 10_000;
/// How many files of a new folder are looked up until it counts as new.
const TRIED: usize = 8;

/// A base as some moves leave it.
pub(super) struct Moved<'a> {
    pub(super) forest: Cow<'a, Forest>,
    /// Where each moved place was.
    pub(super) origins: BTreeMap<Place, Place>,
    /// What the moves take away, and what they put.
    pub(super) edits: BTreeMap<Place, Option<Entry>>,
}

/// Finds new folders at least half of whose contents were, by name, in a folder that is gone. `changes` are sorted.
pub(super) fn find(base: &Forest, changes: &[Change]) -> Moves {
    let at = |place: &Place| {
        changes.binary_search_by(|change| change.place.cmp(place)).ok().map(|index| &changes[index])
    };
    let is_gone = |place: &Place| {
        at(place).is_some_and(|change| change.entry.is_none())
            && base.get(place).is_some_and(Entry::is_folder)
    };
    let gone: HashMap<ContentHash, &Place> = changes
        .iter()
        .filter(|change| change.entry.is_none())
        .filter_map(|change| Some((base.get(&change.place)?.content()?, &change.place)))
        .collect();
    let mut found = Moves::new();
    if gone.is_empty() {
        return found;
    }
    // What moved, all folders above that, and what it became.
    let (mut froms, mut above, mut tos) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, change) in changes.iter().enumerate() {
        if found.len() == MOVES_MAX {
            break;
        }
        let to = &change.place;
        let is_new = change.entry.as_ref().is_some_and(Entry::is_folder)
            && !base.get(to).is_some_and(Entry::is_folder);
        if !is_new || is_within(to, &tos) {
            continue;
        }
        let below = changes[index + 1..].iter().take_while(|change| {
            // Names like `folder-x` stand between a folder and what is below it.
            change.place.root == to.root && change.place.path.as_bytes().starts_with(to.path.as_bytes())
        });
        let files = below.filter(|change| change.place.path.is_below(&to.path));
        let from = files
            .filter_map(|change| Some((change, change.entry.as_ref()?.content()?)))
            .take(TRIED)
            .find_map(|(change, hash)| {
                let old = gone.get(&hash)?;
                let rest = &change.place.path.as_bytes()[to.path.as_bytes().len()..];
                let folder = ArtifactPath::new(old.path.as_bytes().strip_suffix(rest)?).ok()?;
                Some(Place { root: old.root.clone(), path: folder })
            });
        let Some(from) = from.filter(|from| is_gone(from)) else { continue };
        if above.contains(&from) || is_within(&from, &froms) {
            continue;
        }
        let (mut same, mut all) = (0, 0);
        for (old, entry) in children(base, &from) {
            all += 1;
            let there = rebased(&old, &from.path, to).and_then(|place| at(&place)?.entry.as_ref());
            same += usize::from(there.is_some_and(|there| there.same_content(entry)));
        }
        if 2 * same >= all {
            above.extend(folders_above(&from));
            froms.insert(from.clone());
            tos.insert(to.clone());
            found.push((from, to.clone()));
        }
    }
    found
}

/// What `moves` make of `base`.
///
/// # Errors
/// When they contradict each other or the base.
pub(super) fn carry_out<'a>(base: &'a Forest, moves: &Moves) -> Result<Moved<'a>, ParcelError> {
    let broken = || ParcelError::Bounds { what: "a folder moves that can't" };
    let (mut edits, mut origins) = (BTreeMap::new(), BTreeMap::new());
    for (from, to) in moves {
        let top = base.get(from).filter(|entry| entry.is_folder()).ok_or_else(broken)?;
        if base.get(to).is_some_and(Entry::is_folder) {
            return Err(broken());
        }
        let below = children(base, from).map(|(path, entry)| (rebased(&path, &from.path, to), path, entry));
        let all = std::iter::once((Some(to.clone()), from.path.clone(), top)).chain(below);
        for (new, old, entry) in all {
            let (new, old) = (new.ok_or_else(broken)?, Place { root: from.root.clone(), path: old });
            let is_twice = edits.insert(old.clone(), None).is_some()
                || edits.insert(new.clone(), Some(entry.clone())).is_some();
            if is_twice {
                return Err(broken());
            }
            origins.insert(new, old);
        }
    }
    let forest = if edits.is_empty() {
        Cow::Borrowed(base)
    } else {
        let edits = edits.iter().map(|(place, entry)| (place.clone(), entry.clone()));
        Cow::Owned(base.with(edits).map_err(|_| broken())?)
    };
    Ok(Moved { forest, origins, edits })
}

fn children<'a>(base: &'a Forest, folder: &'a Place) -> impl Iterator<Item = (ArtifactPath, &'a Entry)> {
    base.roots.get(&folder.root).into_iter().flat_map(|manifest| manifest.below(&folder.path))
}

/// Where `path`, which lies below `from`, is after `from` became `to`.
fn rebased(path: &ArtifactPath, from: &ArtifactPath, to: &Place) -> Option<Place> {
    let rest = path.as_bytes().strip_prefix(from.as_bytes())?;
    let path = ArtifactPath::new(&[to.path.as_bytes(), rest].concat()).ok()?;
    Some(Place { root: to.root.clone(), path })
}

/// Whether `place` is one of `folders` or lies below one.
fn is_within(place: &Place, folders: &BTreeSet<Place>) -> bool {
    folders.contains(place) || folders_above(place).any(|folder| folders.contains(&folder))
}

fn folders_above(place: &Place) -> impl Iterator<Item = Place> {
    let paths = std::iter::successors(place.path.parent(), ArtifactPath::parent);
    paths.map(|path| Place { root: place.root.clone(), path })
}
