//! What one root holds: a Merkle tree over names, kinds, modes, sizes and content hashes.
//!
//! A [`Manifest`] is immutable and shares unchanged parts of folders (`listing`) with the manifest it was made from, so
//! that an edit costs a part of each folder above it, and two manifests are compared by the parts in which they differ.
//! Times and owners are deliberately not part of it: equal content is equal, whoever wrote it and whenever.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::listing::{Listing, Sum};
use crate::model::{ArtifactPath, ContentHash, Digest};

/// One thing in a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A regular file.
    File {
        /// Permission bits, 0o777 at most.
        mode: u32,
        /// Length in bytes.
        size: u64,
        /// Hash of the content.
        hash: ContentHash,
    },
    /// A folder; also an empty one.
    Folder {
        /// Permission bits, 0o777 at most.
        mode: u32,
    },
    /// A symbolic link, carried as a link.
    Link {
        /// Where it points, as it was written.
        target: Arc<[u8]>,
    },
}

impl Entry {
    /// The content hash of a file; none for the other kinds.
    #[must_use]
    pub fn content(&self) -> Option<ContentHash> {
        match self {
            Self::File { hash, .. } => Some(*hash),
            _ => None,
        }
    }

    /// Whether both are of one kind with one content; modes may differ.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { hash: a, .. }, Self::File { hash: b, .. }) => a == b,
            (Self::Folder { .. }, Self::Folder { .. }) => true,
            (Self::Link { target: a }, Self::Link { target: b }) => a == b,
            _ => false,
        }
    }

    /// Whether this is a folder.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        matches!(self, Self::Folder { .. })
    }
}

/// A folder's own listing and what is known of it. The top folder has the empty key.
#[derive(Clone, Debug)]
struct Folder {
    listing: Listing,
    sum: Sum,
}

type FolderKey = Arc<[u8]>;

/// The content of one root, or an empty one.
#[derive(Clone, Debug)]
pub struct Manifest {
    folders: BTreeMap<FolderKey, Arc<Folder>>,
}

/// One path in which two manifests differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: ArtifactPath,
    /// What the first manifest has there.
    pub old: Option<Entry>,
    /// What the second manifest has there.
    pub new: Option<Entry>,
}

/// Changes that make no tree.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// Something lies in a folder that is not there.
    #[error("{path} lies in no folder of the manifest")]
    Orphan {
        /// The path without a parent.
        path: ArtifactPath,
    },
}

impl Default for Folder {
    fn default() -> Self {
        let mut listing = Listing::default();
        let sum = listing.sum(|_| None);
        Self { listing, sum }
    }
}

impl Default for Manifest {
    fn default() -> Self {
        Self { folders: BTreeMap::from([(FolderKey::default(), Arc::default())]) }
    }
}

/// Equal digests: the same paths with the same kinds, modes and content.
impl PartialEq for Manifest {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl Manifest {
    /// The digest of the whole root.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.top().sum.digest
    }

    /// How many regular files it holds.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.folders.values().map(|folder| folder.sum.files).sum()
    }

    /// The sum of their sizes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.folders.values().map(|folder| folder.sum.bytes).sum()
    }

    /// Whether it holds nothing but folders.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.folders.values().all(|folder| folder.listing.iter().all(|(_, entry)| entry.is_folder()))
    }

    /// What is at `path`.
    #[must_use]
    pub fn get(&self, path: &ArtifactPath) -> Option<&Entry> {
        let (folder, name) = split(path.as_bytes());
        self.folders.get(folder)?.listing.get(name)
    }

    /// Everything, folders before what they hold; within one folder by name.
    pub fn iter(&self) -> impl Iterator<Item = (ArtifactPath, &Entry)> {
        self.folders
            .iter()
            .flat_map(|(key, folder)| folder.listing.iter().map(|(name, entry)| (join(key, name), entry)))
    }

    /// The content of every regular file, as often as it is there.
    pub fn contents(&self) -> impl Iterator<Item = ContentHash> {
        let entries = self.folders.values().flat_map(|folder| folder.listing.iter());
        entries.filter_map(|(_, entry)| entry.content())
    }

    /// What lies in `folder` itself, by name; none: in the root. None when there is no such folder.
    #[must_use]
    pub fn children(&self, folder: Option<&ArtifactPath>) -> Option<impl Iterator<Item = (&[u8], &Entry)>> {
        let folder = self.folders.get(folder.map_or(&b""[..], ArtifactPath::as_bytes))?;
        Some(folder.listing.iter().map(|(name, entry)| (&**name, entry)))
    }

    /// Everything that lies below `folder`, in the order of [`Manifest::iter`].
    pub fn below<'a>(&'a self, folder: &'a ArtifactPath) -> impl Iterator<Item = (ArtifactPath, &'a Entry)> {
        let start = FolderKey::from(folder.as_bytes());
        self.folders
            .range(start..)
            .take_while(|(key, _)| key.starts_with(folder.as_bytes()))
            .filter(|(key, _)| key.len() == folder.as_bytes().len() || key[folder.as_bytes().len()] == b'/')
            .flat_map(|(key, folder)| folder.listing.iter().map(|(name, entry)| (join(key, name), entry)))
    }

    /// This manifest with every `(path, entry)` put in place; none deletes the path (absent is fine).
    ///
    /// The order of the changes does not matter, only that the result is a tree.
    ///
    /// # Errors
    /// [`ManifestError::Orphan`] when something in the result lies in no folder.
    pub fn with(
        &self,
        changes: impl IntoIterator<Item = (ArtifactPath, Option<Entry>)>,
    ) -> Result<Self, ManifestError> {
        let changes: BTreeMap<ArtifactPath, Option<Entry>> = changes.into_iter().collect();
        let mut folders = self.folders.clone();
        let mut touched: BTreeSet<(Reverse<usize>, FolderKey)> = BTreeSet::new();
        for (path, entry) in changes {
            let (parent, name) = split(path.as_bytes());
            let own = FolderKey::from(path.as_bytes());
            let is_folder = entry.as_ref().is_some_and(Entry::is_folder);
            let folder = Arc::make_mut(folders.entry(parent.into()).or_default());
            let old = match entry {
                Some(entry) => folder.listing.insert(name.into(), entry),
                None => folder.listing.remove(name),
            };
            touched.insert((Reverse(depth(parent)), parent.into()));
            if is_folder {
                folders.entry(own.clone()).or_default();
            }
            if is_folder || old.is_some_and(|old| old.is_folder()) {
                touched.insert((Reverse(depth(&own)), own));
            }
        }
        // Deepest first: a touched listing belongs to a folder, or it is bare and goes.
        for (_, key) in &touched {
            if key.is_empty() || is_folder_entry(&folders, key) {
                continue;
            }
            match folders.get(key).and_then(|folder| folder.listing.iter().next()) {
                Some((name, _)) => return Err(ManifestError::Orphan { path: join(key, name) }),
                None => folders.remove(key),
            };
        }
        refresh(&mut folders, touched.into_iter().map(|(_, key)| key));
        Ok(Self { folders })
    }

    /// Every path in which `to` differs from this, sorted by path; a folder's own mode counts, its content does not.
    ///
    /// Costs the parts of folders whose digests differ, not the size of the trees.
    #[must_use]
    pub fn differences(&self, to: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        let keys: BTreeSet<&FolderKey> = self.folders.keys().chain(to.folders.keys()).collect();
        let none = Listing::default();
        for key in keys {
            let (old, new) = (self.folders.get(key), to.folders.get(key));
            if let (Some(old), Some(new)) = (old, new)
                && (Arc::ptr_eq(old, new) || old.sum.digest == new.sum.digest)
            {
                continue;
            }
            let old = old.map_or(&none, |folder| &folder.listing);
            let new = new.map_or(&none, |folder| &folder.listing);
            found.extend(old.differences(new).into_iter().map(|(name, old, new)| Difference {
                path: join(key, name),
                old: old.cloned(),
                new: new.cloned(),
            }));
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }

    /// Whether both are one in memory.
    #[cfg(test)]
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        let mut both = self.folders.values().zip(other.folders.values());
        self.folders.len() == other.folders.len() && both.all(|(own, other)| Arc::ptr_eq(own, other))
    }

    fn top(&self) -> &Folder {
        self.folders.get(&b""[..]).expect("every manifest has its top folder")
    }
}

fn is_folder_entry(folders: &BTreeMap<FolderKey, Arc<Folder>>, path: &[u8]) -> bool {
    let (parent, name) = split(path);
    folders.get(parent).and_then(|folder| folder.listing.get(name)).is_some_and(Entry::is_folder)
}

/// Recomputes what is known of `dirty` folders and of all above them, deepest first.
fn refresh(folders: &mut BTreeMap<FolderKey, Arc<Folder>>, dirty: impl Iterator<Item = FolderKey>) {
    // Each with the folders in it that are to be recomputed too.
    let mut todo: BTreeMap<(Reverse<usize>, FolderKey), BTreeSet<FolderKey>> = BTreeMap::new();
    for key in dirty {
        todo.entry((Reverse(depth(&key)), key.clone())).or_default();
        let mut key: &[u8] = &key;
        while !key.is_empty() {
            let (parent, name) = split(key);
            todo.entry((Reverse(depth(parent)), parent.into())).or_default().insert(name.into());
            key = parent;
        }
    }
    for ((_, key), stale) in todo {
        let Some(mut folder) = folders.remove(&key) else { continue };
        let fresh = Arc::make_mut(&mut folder);
        stale.iter().for_each(|name| fresh.listing.stale(name));
        fresh.sum =
            fresh.listing.sum(|name| folders.get(join(&key, name).as_bytes()).map(|child| child.sum.digest));
        folders.insert(key, folder);
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn depth(key: &[u8]) -> usize {
    if key.is_empty() { 0 } else { 1 + key.iter().filter(|byte| **byte == b'/').count() }
}

fn join(folder: &[u8], name: &[u8]) -> ArtifactPath {
    let mut bytes = Vec::with_capacity(folder.len() + 1 + name.len());
    bytes.extend_from_slice(folder);
    if !folder.is_empty() {
        bytes.push(b'/');
    }
    bytes.extend_from_slice(name);
    ArtifactPath::new(&bytes).expect("a manifest is made of checked paths")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> ArtifactPath {
        ArtifactPath::new(text.as_bytes()).unwrap()
    }

    fn file(content: &str) -> Entry {
        Entry::File { mode: 0o644, size: content.len() as u64, hash: ContentHash::of(content.as_bytes()) }
    }

    fn folder() -> Entry {
        Entry::Folder { mode: 0o755 }
    }

    fn manifest(entries: &[(&str, Entry)]) -> Manifest {
        Manifest::default().with(entries.iter().map(|(p, e)| (path(p), Some(e.clone())))).unwrap()
    }

    #[test]
    fn counts_and_lookups() {
        let m = manifest(&[("a", folder()), ("a/x", file("1")), ("b", file("22"))]);
        assert_eq!((m.files(), m.bytes()), (2, 3));
        assert_eq!(m.get(&path("a/x")), Some(&file("1")));
        assert_eq!(m.get(&path("a/y")), None);
        assert!(!m.is_bare());
        assert!(manifest(&[("a", folder())]).is_bare());
        let listed: Vec<_> = m.below(&path("a")).map(|(p, _)| p.to_string()).collect();
        assert_eq!(listed, ["a/x"]);
    }

    #[test]
    fn orphans_are_refused() {
        assert!(Manifest::default().with([(path("a/x"), Some(file("1")))]).is_err());
        let m = manifest(&[("a", folder()), ("a/x", file("1"))]);
        assert!(m.with([(path("a"), None)]).is_err(), "a folder with content can't go alone");
        assert!(m.with([(path("a"), Some(file("2")))]).is_err());
        let n = m.with([(path("a"), Some(file("2"))), (path("a/x"), None)]).unwrap();
        assert_eq!(n, manifest(&[("a", file("2"))]));
        let gone = m.with([(path("a"), None), (path("a/x"), None)]).unwrap();
        assert_eq!(gone, Manifest::default());
    }

    #[test]
    fn modes_and_kinds_count_in_the_digest() {
        let a = manifest(&[("a", file("1"))]);
        let b = manifest(&[("a", Entry::File { mode: 0o600, size: 1, hash: ContentHash::of(b"1") })]);
        let c = manifest(&[("a", Entry::Link { target: b"1"[..].into() })]);
        assert_ne!(a, b);
        assert_ne!(a, c);
        assert_ne!(manifest(&[("a", folder())]), Manifest::default());
        assert_eq!(a.differences(&b).len(), 1);
    }

    fn any_edit() -> impl Strategy<Value = (String, Option<u8>)> {
        let name = prop::sample::select(vec!["a", "b", "c"]);
        (prop::collection::vec(name, 1..4), prop::option::of(0u8..4))
            .prop_map(|(names, what)| (names.join("/"), what))
    }

    proptest! {
        /// Edits against a plain map: same content, same digest, and differences lead from one to the other.
        #[test]
        fn a_manifest_is_its_map(rounds in prop::collection::vec(prop::collection::vec(any_edit(), 1..6), 1..8)) {
            let mut map: BTreeMap<ArtifactPath, Entry> = BTreeMap::new();
            let mut manifest = Manifest::default();
            for edits in rounds {
                let changes: Vec<_> = edits.into_iter().map(|(p, what)| (path(&p), match what {
                    None => None,
                    Some(0) => Some(folder()),
                    Some(n) => Some(file(&n.to_string())),
                })).collect();
                let mut next = map.clone();
                for (path, entry) in &changes {
                    match entry {
                        Some(entry) => { next.insert(path.clone(), entry.clone()); }
                        None => { next.remove(path); }
                    }
                }
                let is_tree = next.keys().all(|path| path.parent().is_none_or(|p| next.get(&p).is_some_and(Entry::is_folder)));
                match manifest.with(changes) {
                    Ok(changed) => {
                        prop_assert!(is_tree);
                        let fresh = Manifest::default().with(next.iter().map(|(p, e)| (p.clone(), Some(e.clone())))).unwrap();
                        prop_assert_eq!(changed.digest(), fresh.digest());
                        prop_assert_eq!(changed.files(), fresh.files());
                        let listed: BTreeMap<_, _> = changed.iter().map(|(p, e)| (p, e.clone())).collect();
                        prop_assert_eq!(&listed, &next);
                        let by_differences = manifest.with(
                            manifest.differences(&changed).into_iter().map(|d| (d.path, d.new))).unwrap();
                        prop_assert_eq!(by_differences.digest(), changed.digest());
                        manifest = changed;
                        map = next;
                    }
                    Err(_) => prop_assert!(!is_tree),
                }
            }
        }
    }
}
