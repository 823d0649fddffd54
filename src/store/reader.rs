//! Reading much at once: one view of the index, and each pack opened once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use redb::ReadOnlyTable;

use crate::model::{ContentHash, FileTime, Place};
use crate::store::blob::Blob;
use crate::store::index::{BLOBS, SECONDS, TREE};
use crate::store::pack::Location;
use crate::store::rows::row;
use crate::store::{Store, StoreError};

/// What the store held when this was made; contents that came later are found all the same. For one thread, and not for
/// long: the index can't reuse what this looks at.
pub struct Reader<'a> {
    store: &'a Store,
    blobs: ReadOnlyTable<[u8; 32], (u32, u64, u64)>,
    tree: ReadOnlyTable<(&'static str, &'static [u8]), &'static [u8]>,
    seconds: ReadOnlyTable<(&'static str, &'static [u8]), (i64, i64)>,
    packs: RefCell<BTreeMap<u32, Arc<File>>>,
}

impl Store {
    /// For whoever reads much at once.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn reader(&self) -> Result<Reader<'_>, StoreError> {
        self.index().read(|txn| {
            let (blobs, tree) = (txn.open_table(BLOBS)?, txn.open_table(TREE)?);
            let seconds = txn.open_table(SECONDS)?;
            Ok(Reader { store: self, blobs, tree, seconds, packs: RefCell::default() })
        })
    }
}

impl Reader<'_> {
    /// As [`Store::last_second`].
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn last_second(&self, place: &Place) -> Result<Option<i64>, StoreError> {
        match self.seconds.get((place.root.as_str(), place.path.as_bytes())) {
            Ok(noted) => Ok(noted.map(|value| value.value().0)),
            // The index was opened again since, after a failed write.
            Err(_) => self.store.last_second(place),
        }
    }

    /// As [`Store::author_mtime`].
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn author_mtime(&self, place: &Place) -> Result<Option<FileTime>, StoreError> {
        match row(&self.tree, place) {
            Ok(row) => Ok(row.and_then(|row| row.mtime)),
            // As above.
            Err(_) => self.store.author_mtime(place),
        }
    }

    /// As [`Store::open_blob`].
    ///
    /// # Errors
    /// As there.
    pub fn open_blob(&self, hash: &ContentHash) -> Result<Blob, StoreError> {
        match self.try_open(hash) {
            Ok(Some(blob)) => Ok(blob),
            // It came later, the collector moved it, or it is damaged.
            Ok(None) | Err(_) => self.store.open_blob(hash),
        }
    }

    fn try_open(&self, hash: &ContentHash) -> Result<Option<Blob>, StoreError> {
        let Some((pack, offset, size)) = self.blobs.get(hash.0)?.map(|value| value.value()) else {
            return Ok(None);
        };
        let mut packs = self.packs.borrow_mut();
        let file = match packs.get(&pack) {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(self.store.packs().open_pack(pack)?);
                packs.insert(pack, Arc::clone(&file));
                file
            }
        };
        let path = || self.store.packs().path(pack);
        Blob::open(file, hash, Location { pack, offset, size })
            .map_err(|source| StoreError::io("read", &path())(source))
    }
}
