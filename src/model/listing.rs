//! The entries of one folder, in chunks that two versions of it share.
//!
//! An edit copies and hashes one chunk of some 64 entries, however many thousand the folder holds. Where a chunk begins
//! is decided by each name itself (content-defined chunking, as in LBFS and restic, here over the sorted names), so
//! that equal listings have equal chunks and one digest, whatever edits led to them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::model::{Digest, Entry};

/// One component of a path.
pub(super) type Name = Arc<[u8]>;

/// One name in so many begins a chunk; a power of two.
const CHUNK_NAMES: u64 = 64;

/// What a folder holds, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    /// Each chunk by the name that begins it; what comes before all such names has the empty key. None is empty.
    chunks: BTreeMap<Name, Arc<Chunk>>,
}

#[derive(Clone, Debug, Default)]
struct Chunk {
    entries: BTreeMap<Name, Entry>,
    /// None since the last change.
    sum: Option<Sum>,
}

/// What is known of many entries together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) digest: Digest,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl Listing {
    pub(super) fn get(&self, name: &[u8]) -> Option<&Entry> {
        self.chunks.get(&self.chunk_of(name)?)?.entries.get(name)
    }

    /// All entries, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &Entry)> {
        self.chunks.values().flat_map(|chunk| &chunk.entries)
    }

    /// What was there before.
    pub(super) fn insert(&mut self, name: Name, entry: Entry) -> Option<Entry> {
        let key = self.chunk_of(&name);
        if begins_chunk(&name) && key.as_ref() != Some(&name) {
            let tail = key.map(|key| self.split(&key, &name)).unwrap_or_default();
            let chunk = Chunk { entries: tail, sum: None };
            let chunk = Arc::make_mut(self.chunks.entry(name.clone()).or_insert(Arc::new(chunk)));
            return chunk.entries.insert(name, entry);
        }
        let chunk = Arc::make_mut(self.chunks.entry(key.unwrap_or_default()).or_default());
        chunk.sum = None;
        chunk.entries.insert(name, entry)
    }

    /// What was there before.
    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Entry> {
        let key = self.chunk_of(name)?;
        let chunk = Arc::make_mut(self.chunks.get_mut(&key)?);
        let removed = chunk.entries.remove(name)?;
        chunk.sum = None;
        let is_empty = chunk.entries.is_empty();
        if *key == *name {
            // What it began belongs to the chunk before it now.
            let rest = std::mem::take(&mut chunk.entries);
            self.chunks.remove(&key);
            if !is_empty {
                let before = self.chunk_of(name).unwrap_or_default();
                let before = Arc::make_mut(self.chunks.entry(before).or_default());
                before.sum = None;
                before.entries.extend(rest);
            }
        } else if is_empty {
            self.chunks.remove(&key);
        }
        Some(removed)
    }

    /// What lies in the folder called `name` is another than when the digests were computed.
    pub(super) fn stale(&mut self, name: &[u8]) {
        if let Some(key) = self.chunk_of(name)
            && let Some(chunk) = self.chunks.get_mut(&key)
        {
            Arc::make_mut(chunk).sum = None;
        }
    }

    /// Computes what is not known since the last change; `folder` tells the digest of the folder with a name.
    pub(super) fn sum(&mut self, folder: impl Fn(&[u8]) -> Option<Digest>) -> Sum {
        let mut record = Vec::with_capacity(self.chunks.len() * 32 + 16);
        record.extend_from_slice(b"syncd folder 2\0");
        let (mut files, mut bytes) = (0, 0);
        for chunk in self.chunks.values_mut() {
            let sum = match chunk.sum {
                Some(sum) => sum,
                None => {
                    let chunk = Arc::make_mut(chunk);
                    *chunk.sum.insert(sum_of(&chunk.entries, &folder))
                }
            };
            record.extend_from_slice(sum.digest.as_bytes());
            files += sum.files;
            bytes += sum.bytes;
        }
        Sum { digest: Digest::of(&record), files, bytes }
    }

    /// The names whose entries differ, with both entries; costs the chunks that differ.
    pub(super) fn differences<'a>(
        &'a self,
        to: &'a Self,
    ) -> Vec<(&'a Name, Option<&'a Entry>, Option<&'a Entry>)> {
        // An equal chunk holds the same names on both sides, so none of them is among the rest of either.
        let rest = |one: &'a Self, other: &'a Self| {
            let is_equal = |key: &Name, chunk: &Arc<Chunk>| {
                other.chunks.get(key).is_some_and(|other| {
                    Arc::ptr_eq(chunk, other) || (chunk.sum.is_some() && chunk.sum == other.sum)
                })
            };
            let differing = one.chunks.iter().filter(move |(key, chunk)| !is_equal(key, chunk));
            differing.flat_map(|(_, chunk)| &chunk.entries).collect::<BTreeMap<&Name, &Entry>>()
        };
        let (old, mut new) = (rest(self, to), rest(to, self));
        let mut found = Vec::new();
        for (name, entry) in old {
            match new.remove(name) {
                Some(other) if other == entry => {}
                other => found.push((name, Some(entry), other)),
            }
        }
        found.extend(new.into_iter().map(|(name, entry)| (name, None, Some(entry))));
        found
    }

    /// The key of the chunk in which `name` is, or would be if it began none.
    fn chunk_of(&self, name: &[u8]) -> Option<Name> {
        let up_to = (Bound::Unbounded, Bound::Included(name));
        self.chunks.range::<[u8], _>(up_to).next_back().map(|(key, _)| key.clone())
    }

    /// Takes what comes after `name` out of the chunk at `key`.
    fn split(&mut self, key: &Name, name: &Name) -> BTreeMap<Name, Entry> {
        let Some(chunk) = self.chunks.get_mut(key) else { return BTreeMap::new() };
        let chunk = Arc::make_mut(chunk);
        let tail = chunk.entries.split_off(name);
        chunk.sum = None;
        if chunk.entries.is_empty() {
            self.chunks.remove(key);
        }
        tail
    }
}

/// By the FNV-1a hash, finished so that its low bits depend on all of the name.
fn begins_chunk(name: &[u8]) -> bool {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325, step);
    (hash ^ (hash >> 32)).is_multiple_of(CHUNK_NAMES)
}

fn sum_of(entries: &BTreeMap<Name, Entry>, folder: impl Fn(&[u8]) -> Option<Digest>) -> Sum {
    let mut record = Vec::with_capacity(entries.len() * 96 + 16);
    record.extend_from_slice(b"syncd names 2\0");
    let (mut files, mut bytes) = (0, 0);
    for (name, entry) in entries {
        record.extend_from_slice(&(name.len() as u32).to_le_bytes());
        record.extend_from_slice(name);
        match entry {
            Entry::File { mode, size, hash } => {
                files += 1;
                bytes += size;
                record.push(b'f');
                record.extend_from_slice(&mode.to_le_bytes());
                record.extend_from_slice(&size.to_le_bytes());
                record.extend_from_slice(hash.as_bytes());
            }
            Entry::Folder { mode } => {
                record.push(b'd');
                record.extend_from_slice(&mode.to_le_bytes());
                let digest =
                    folder(name).expect("every folder entry has a folder, refreshed before its parent");
                record.extend_from_slice(digest.as_bytes());
            }
            Entry::Link { target } => {
                record.push(b'l');
                record.extend_from_slice(&(target.len() as u32).to_le_bytes());
                record.extend_from_slice(target);
            }
        }
    }
    Sum { digest: Digest::of(&record), files, bytes }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::ContentHash;

    fn name(number: u16) -> Name {
        format!("artifact{number}.xml").into_bytes().into()
    }

    fn entry(version: u8) -> Entry {
        Entry::File { mode: 0o644, size: 1, hash: ContentHash::of(&[version]) }
    }

    #[test]
    fn an_edit_touches_one_chunk_of_many() {
        let mut listing = Listing::default();
        for number in 0..10_000 {
            listing.insert(name(number), entry(0));
        }
        listing.sum(|_| None);
        assert!((80..320).contains(&listing.chunks.len()), "{} chunks", listing.chunks.len());
        let mut next = listing.clone();
        next.insert(name(777), entry(1));
        next.sum(|_| None);
        let same =
            next.chunks.iter().filter(|(key, chunk)| Arc::ptr_eq(chunk, &listing.chunks[*key])).count();
        assert_eq!(same + 1, listing.chunks.len());
        assert_eq!(listing.differences(&next), [(&name(777), Some(&entry(0)), Some(&entry(1)))]);
    }

    proptest! {
        /// Whatever edits led to it: the same entries, the same chunks, the same digest, and differences that a plain
        /// comparison finds.
        #[test]
        fn a_listing_is_its_map(edits in prop::collection::vec((0u16..400, prop::option::of(0u8..3)), 0..600)) {
            let (mut listing, mut plain) = (Listing::default(), BTreeMap::new());
            let mut before = (listing.clone(), plain.clone());
            for (at, (number, version)) in edits.iter().enumerate() {
                match version {
                    Some(version) => prop_assert_eq!(
                        listing.insert(name(*number), entry(*version)),
                        plain.insert(name(*number), entry(*version))
                    ),
                    None => prop_assert_eq!(listing.remove(&name(*number)), plain.remove(&name(*number))),
                }
                if at == edits.len() / 2 {
                    listing.sum(|_| None);
                    before = (listing.clone(), plain.clone());
                }
            }
            let sum = listing.sum(|_| None);
            let mut fresh = Listing::default();
            plain.iter().for_each(|(name, entry)| drop(fresh.insert(name.clone(), entry.clone())));
            prop_assert_eq!(sum, fresh.sum(|_| None));
            prop_assert_eq!(listing.chunks.keys().collect::<Vec<_>>(), fresh.chunks.keys().collect::<Vec<_>>());
            prop_assert!(listing.iter().eq(plain.iter()));
            prop_assert!(plain.iter().all(|(name, entry)| listing.get(name) == Some(entry)));
            let mut there = before.1;
            for (name, old, new) in before.0.differences(&listing) {
                prop_assert_eq!(there.get(name), old);
                match new {
                    Some(new) => drop(there.insert(name.clone(), new.clone())),
                    None => drop(there.remove(name)),
                }
            }
            prop_assert_eq!(there, plain);
        }
    }
}
