//! The index: one redb file that says where every content lies and which generations are known.
//!
//! Owns the tables, their encoding, and coming back after the disk was full (redb refuses everything after a failed
//! write until it is opened anew). Every change is one transaction, durable by itself unless it says otherwise.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::StoreError;

/// The format of all that lies in the store.
const FORMAT: u32 = 2;
/// The index is small and hot parts are held in memory elsewhere.
const CACHE_BYTES: usize = 4 << 20;

/// Single values by name.
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Content hash to pack number, offset of the record, size of the content.
pub(super) const BLOBS: TableDefinition<[u8; 32], (u32, u64, u64)> = TableDefinition::new("blobs");
/// Pack number to how many of its bytes count.
pub(super) const PACKS: TableDefinition<u32, u64> = TableDefinition::new("packs");
/// Content hash to the first generation that had it.
pub(super) const COMMITTED: TableDefinition<[u8; 32], u64> = TableDefinition::new("committed");
/// Epoch, number and digest of a proposal that is held durably, and the proposal.
pub(super) const PINS: TableDefinition<(u64, u64, [u8; 32]), &[u8]> = TableDefinition::new("pins");
/// Adopted generations by number.
pub(super) const GENERATIONS: TableDefinition<u64, &[u8]> = TableDefinition::new("generations");
/// What each adopted generation changed, with what was there before.
pub(super) const STEPS: TableDefinition<u64, &[u8]> = TableDefinition::new("steps");
/// The head: what is at each place.
pub(super) const TREE: TableDefinition<(&str, &[u8]), &[u8]> = TableDefinition::new("tree");
/// The newest second of the modification time that each place had on this node, and when that was noted.
pub(super) const SECONDS: TableDefinition<(&str, &[u8]), (i64, i64)> = TableDefinition::new("seconds");

/// The open index.
pub(super) struct Index {
    path: PathBuf,
    /// None after a failed write, until it could be opened again.
    database: RwLock<Option<Database>>,
    /// How often it was opened again: what was written for later before that may be lost. Changes under the lock alone.
    reopened: AtomicU64,
}

impl Index {
    /// Opens the index, or creates it with all its tables.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let database = RwLock::new(Some(open_database(path)?));
        let index = Self { path: path.to_owned(), database, reopened: AtomicU64::new(0) };
        index.write(|txn| {
            txn.open_table(BLOBS)?;
            txn.open_table(PACKS)?;
            txn.open_table(COMMITTED)?;
            txn.open_table(PINS)?;
            txn.open_table(GENERATIONS)?;
            txn.open_table(STEPS)?;
            txn.open_table(TREE)?;
            txn.open_table(SECONDS)?;
            let mut meta = txn.open_table(META)?;
            let found =
                meta.get("format")?.map(|value| decode::<u32>("format", value.value())).transpose()?;
            match found {
                None => {
                    meta.insert("format", encode(&FORMAT)?.as_slice())?;
                }
                Some(FORMAT) => {}
                Some(found) => return Err(StoreError::Format { found, known: FORMAT }),
            }
            Ok(())
        })?;
        Ok(index)
    }

    /// Runs `read` on one consistent state; waits for no writer.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = &*guard else {
            drop(guard);
            self.reopen()?;
            return self.read(read);
        };
        read(&database.begin_read()?)
    }

    /// Runs `write` and commits durably; nothing of it happened when this fails, unless the disk itself failed.
    pub(super) fn write<T>(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = &*guard else {
            drop(guard);
            self.reopen()?;
            return self.write(write);
        };
        let outcome = commit(database, Durability::Immediate, write);
        drop(guard);
        self.checked(outcome)
    }

    /// The same, durable only with the next durable change: for what the log and the pins tell again after a crash.
    /// None, and nothing is written, when the index was opened again since `reopened`: what `write` goes by is lost.
    pub(super) fn write_later<T>(
        &self,
        reopened: u64,
        write: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = &*guard else {
            drop(guard);
            self.reopen()?;
            return Ok(None);
        };
        if self.reopened() != reopened {
            return Ok(None);
        }
        let outcome = commit(database, Durability::None, write);
        drop(guard);
        self.checked(outcome).map(Some)
    }

    fn checked<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        outcome.map_err(|error| match error {
            StoreError::Index(source) => self.after_failure(source),
            other => other,
        })
    }

    /// How often it was opened again after a failed write.
    pub(super) fn reopened(&self) -> u64 {
        self.reopened.load(Ordering::Acquire)
    }

    /// What a full disk leaves of it: all that is durable, opened again.
    #[cfg(test)]
    pub(super) fn pretend_failure(&self) {
        let copy = self.path.with_extension("copy");
        std::fs::copy(&self.path, &copy).unwrap();
        *self.database.write().unwrap() = None;
        std::fs::rename(&copy, &self.path).unwrap();
        self.reopen().unwrap();
    }

    fn after_failure(&self, source: Box<redb::Error>) -> StoreError {
        let full = matches!(&*source, redb::Error::Io(io)
            if matches!(io.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded));
        // A transaction that failed for another reason leaves redb usable.
        if matches!(&*source, redb::Error::Io(_) | redb::Error::PreviousIo) {
            *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
            if let Err(error) = self.reopen() {
                tracing::warn!(%error, path = %self.path.display(), "the index could not be opened again yet");
            }
        }
        if full { StoreError::NoSpace { path: self.path.clone() } } else { StoreError::Index(source) }
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut guard = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            *guard = Some(open_database(&self.path)?);
            self.reopened.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    /// One single value.
    pub(super) fn meta<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        self.read(|txn| {
            let table = txn.open_table(META)?;
            table.get(name)?.map(|value| decode(name, value.value())).transpose()
        })
    }

    /// Replaces one single value.
    pub(super) fn set_meta<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        self.write(|txn| put_meta(txn, name, value))
    }

    /// Forgets one single value.
    pub(super) fn drop_meta(&self, name: &str) -> Result<(), StoreError> {
        self.write(|txn| {
            txn.open_table(META)?.remove(name)?;
            Ok(())
        })
    }
}

fn commit<T>(
    database: &Database,
    durability: Durability,
    write: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut txn = database.begin_write()?;
    txn.set_durability(durability)?;
    let value = write(&txn)?;
    txn.commit()?;
    Ok(value)
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    match Database::builder().set_cache_size(CACHE_BYTES).create(path) {
        Err(redb::DatabaseError::DatabaseAlreadyOpen) => Err(StoreError::InUse { path: path.to_owned() }),
        other => Ok(other?),
    }
}

/// Replaces one single value as part of a greater change.
pub(super) fn put_meta<T: Serialize>(
    txn: &WriteTransaction,
    name: &str,
    value: &T,
) -> Result<(), StoreError> {
    txn.open_table(META)?.insert(name, encode(value)?.as_slice())?;
    Ok(())
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    postcard::to_stdvec(value)
        .map_err(|error| StoreError::corrupt(format!("a record can't be written: {error}")))
}

pub(super) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StoreError> {
    postcard::from_bytes(bytes)
        .map_err(|error| StoreError::corrupt(format!("the record of {what} can't be read: {error}")))
}
