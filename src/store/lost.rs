//! Contents of the head that should be here and are not: a node that lacks one does not hold the head.
//!
//! Whoever finds a content damaged forgets it ([`Store::forget`]), and what a start does not find is noted there. Noted
//! hashes stay noted until they are here again: one may be in a generation that is only staged yet.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use crate::model::{ContentHash, Entry, Place};
use crate::store::index::BLOBS;
use crate::store::{Store, StoreError};

/// What is missing: each content once, with its size and a place that has it.
pub type Lost = Vec<(ContentHash, u64, Place)>;

impl Store {
    /// The contents of the head that are not here. Costs next to nothing while none was ever missed.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn lost(&self) -> Result<Lost, StoreError> {
        let mut noted = self.0.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if noted.is_empty() {
            return Ok(Lost::new());
        }
        let mut here = Vec::new();
        for hash in &noted {
            if self.has(hash)? {
                here.push(*hash);
            }
        }
        let mut lost = self.0.lost.lock().unwrap_or_else(PoisonError::into_inner);
        for hash in &here {
            lost.remove(hash);
            noted.remove(hash);
        }
        drop(lost);
        let Some(head) = self.head() else { return Ok(Lost::new()) };
        let mut found = BTreeMap::new();
        for (place, entry) in head.forest.iter() {
            if let Entry::File { size, hash, .. } = entry
                && noted.contains(hash)
            {
                found.entry(*hash).or_insert((*size, place));
            }
        }
        Ok(found.into_iter().map(|(hash, (size, place))| (hash, size, place)).collect())
    }

    /// Notes what the head names and the index does not list. For a start: what was forgotten before is forgotten still.
    pub(super) fn note_missing(&self) -> Result<(), StoreError> {
        let Some(head) = self.head() else { return Ok(()) };
        let missing = self.index().read(|txn| {
            let table = txn.open_table(BLOBS)?;
            let mut missing = Vec::new();
            for hash in head.forest.contents() {
                if table.get(hash.0)?.is_none() {
                    missing.push(hash);
                }
            }
            Ok(missing)
        })?;
        missing.into_iter().for_each(|hash| self.note_lost(hash));
        Ok(())
    }

    pub(super) fn note_lost(&self, hash: ContentHash) {
        self.0.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(hash);
    }
}
