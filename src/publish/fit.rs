//! Which of some edits still make a tree when others of their batch are left out.

use std::collections::BTreeMap;

use crate::model::{Edit, Entry, Forest, Place};

/// Takes out of `edits` what cannot go without something that is not among them: what lies in a folder that is not
/// made, and the end of a folder in which something stays. Gives back what it took out.
pub(super) fn fit(head: &Forest, edits: &mut BTreeMap<Place, Edit>) -> Vec<Edit> {
    let mut out = Vec::new();
    loop {
        let misfits: Vec<Place> =
            edits.values().filter(|edit| !fits(head, edits, edit)).map(|edit| edit.place.clone()).collect();
        if misfits.is_empty() {
            return out;
        }
        out.extend(misfits.iter().filter_map(|place| edits.remove(place)));
    }
}

fn fits(head: &Forest, edits: &BTreeMap<Place, Edit>, edit: &Edit) -> bool {
    let stays_folder = edit.new.as_ref().is_some_and(Entry::is_folder);
    let in_folder = edit.new.is_none()
        || edit.place.path.parent().is_none_or(|path| {
            let parent = Place { root: edit.place.root.clone(), path };
            let after = edits.get(&parent).map_or_else(|| head.get(&parent), |edit| edit.new.as_ref());
            after.is_some_and(Entry::is_folder)
        });
    in_folder && (stays_folder || is_bare_after(head, edits, &edit.place))
}

fn is_bare_after(head: &Forest, edits: &BTreeMap<Place, Edit>, folder: &Place) -> bool {
    let Some(manifest) = head.roots.get(&folder.root) else { return true };
    let stays = manifest.get(&folder.path).is_some_and(Entry::is_folder)
        && manifest.below(&folder.path).any(|(path, _)| {
            let place = Place { root: folder.root.clone(), path };
            edits.get(&place).is_none_or(|edit| edit.new.is_some())
        });
    let comes = edits
        .range(folder.clone()..)
        .take_while(|(place, _)| {
            // What lies below begins with `folder/`; beyond that only strangers follow.
            place.root == folder.root
                && place
                    .path
                    .as_bytes()
                    .strip_prefix(folder.path.as_bytes())
                    .is_some_and(|rest| rest.first().is_none_or(|byte| *byte <= b'/'))
        })
        .any(|(place, edit)| edit.new.is_some() && place.path.is_below(&folder.path));
    !stays && !comes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ArtifactPath, ContentHash, Manifest, RootName};

    fn manifest(paths: &str) -> Manifest {
        let entries = paths.split_whitespace().map(|text| {
            let (path, entry) = match text.strip_suffix('/') {
                Some(folder) => (folder, Entry::Folder { mode: 0o755 }),
                None => (text, Entry::File { mode: 0o644, size: 1, hash: ContentHash::of(b"1") }),
            };
            (ArtifactPath::new(path.as_bytes()).unwrap(), Some(entry))
        });
        Manifest::default().with(entries).unwrap()
    }

    /// All edits from one tree to another but `without`: what stays of them.
    fn check(from: &str, to: &str, without: &str, expected: &str) {
        let root = RootName::new("r");
        let forest = |paths| Forest { roots: [(root.clone(), manifest(paths))].into() };
        let (from, to) = (forest(from), forest(to));
        let mut edits: BTreeMap<Place, Edit> =
            from.edits(&to).into_iter().map(|edit| (edit.place.clone(), edit)).collect();
        edits.retain(|place, _| {
            !without.split_whitespace().any(|path| place.path.as_bytes() == path.as_bytes())
        });
        fit(&from, &mut edits);
        let kept: Vec<String> = edits.keys().map(|place| place.path.to_string()).collect();
        assert_eq!(kept.join(" "), expected);
        assert!(from.with(edits.into_values().map(|edit| (edit.place, edit.new))).is_ok(), "still a tree");
    }

    #[test]
    fn what_is_left_makes_a_tree() {
        check("", "d/ d/e/ d/e/a x", "", "d d/e d/e/a x");
        check("", "d/ d/e/ d/e/a x", "d", "x");
        check("d/ d/a d/b x", "x", "", "d d/a d/b");
        check("d/ d/a d/b x", "x", "d/a", "d/b");
        check("d/ d/e/ d/e/a d/b", "", "d/e/a", "d/b");
        check("d/ d/a", "d", "d/a", "");
        check("d", "d/ d/a", "d", "");
        check("d d-x", "d/ d/a d-x", "d", "");
        check("d/ d-x", "d-x", "", "d");
    }
}
