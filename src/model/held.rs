//! What a node holds back until a person agrees, as a list that has a name of its own.

use std::collections::BTreeSet;

use crate::model::{Digest, Edit, Entry, Place};

/// Places that a manager must not publish although they differ from the head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withheld {
    /// Changed while no syncd watched, and more than go out by themselves, or not to be read at a takeover: a person may
    /// agree to them.
    pub changed: BTreeSet<Place>,
    /// No changes of this office: they come to what the head says by themselves.
    pub others: BTreeSet<Place>,
}

impl Withheld {
    /// Whether `place` is one of them.
    #[must_use]
    pub fn has(&self, place: &Place) -> bool {
        self.changed.contains(place) || self.others.contains(place)
    }

    /// Without the places for which `keep` is false.
    #[must_use]
    pub fn only(&self, keep: impl Fn(&Place) -> bool) -> Self {
        let some = |places: &BTreeSet<Place>| places.iter().filter(|place| keep(place)).cloned().collect();
        Self { changed: some(&self.changed), others: some(&self.others) }
    }
}

/// A list of changes that go on only when a person agreed to exactly this list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldList {
    /// The code of the problem that tells of it.
    pub code: &'static str,
    /// Stands for everything that would be let through.
    pub digest: Digest,
    /// What comes of it when it is let through, in a sentence.
    pub says: String,
    /// The changes, sorted by place.
    pub edits: Vec<Edit>,
}

impl HeldList {
    /// A list of `edits`. `about` is whatever else it must not be mistaken for: the node, its epoch, rules.
    #[must_use]
    pub fn new(code: &'static str, about: &[&[u8]], says: String, edits: Vec<Edit>) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut take = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        take(b"syncd held list 1");
        take(code.as_bytes());
        take(&(about.len() as u64).to_le_bytes());
        about.iter().for_each(|bytes| take(bytes));
        for edit in &edits {
            take(edit.place.root.as_str().as_bytes());
            take(edit.place.path.as_bytes());
            for side in [&edit.old, &edit.new] {
                match side {
                    None => take(&[0]),
                    Some(Entry::File { mode, size, hash }) => {
                        take(&[1]);
                        take(&mode.to_le_bytes());
                        take(&size.to_le_bytes());
                        take(hash.as_bytes());
                    }
                    Some(Entry::Folder { mode }) => {
                        take(&[2]);
                        take(&mode.to_le_bytes());
                    }
                    Some(Entry::Link { target }) => {
                        take(&[3]);
                        take(target);
                    }
                }
            }
        }
        Self { code, digest: Digest(*hasher.finalize().as_bytes()), says, edits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ArtifactPath, ContentHash, Place, RootName};

    #[test]
    fn every_part_of_a_list_is_in_its_digest() {
        let file = |text: &str| Entry::File { mode: 0o644, size: 1, hash: ContentHash::of(text.as_bytes()) };
        let edit = |path: &str, old: Option<Entry>, new: Option<Entry>| Edit {
            place: Place { root: RootName::new("r"), path: ArtifactPath::new(path.as_bytes()).unwrap() },
            old,
            new,
        };
        let list = |code, about: &[&[u8]], edits: &[Edit]| {
            HeldList::new(code, about, String::new(), edits.to_vec()).digest
        };
        let (a, b) = (edit("a", Some(file("1")), None), edit("b", Some(file("1")), None));
        let all = [
            list("x", &[], &[]),
            list("y", &[], &[]),
            list("x", &[b"1"], &[]),
            list("x", &[b"1", b""], &[]),
            list("x", &[], std::slice::from_ref(&a)),
            list("x", &[], std::slice::from_ref(&b)),
            list("x", &[], &[a.clone(), b]),
            list("x", &[], &[edit("a", Some(file("2")), None)]),
            list("x", &[], &[edit("a", None, Some(file("1")))]),
            list("x", &[], &[edit("a", None, Some(Entry::Folder { mode: 0o644 }))]),
            list("x", &[], &[edit("a", None, Some(Entry::Link { target: b"1"[..].into() }))]),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert_eq!(list("x", &[], std::slice::from_ref(&a)), list("x", &[], &[a]));
    }
}
