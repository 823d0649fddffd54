//! The file `raft.redb`: everything that this node must not forget about the cluster.
//!
//! Every record carries a checksum of its own, and redb checks its pages; both are looked at when the file is opened,
//! all of it, because a voter that forgets part of its log or its vote can undo what the cluster promised. Durable
//! writes use redb's two-phase commit: with the one-phase kind, a page damaged after a kill would make redb fall back
//! to the commit before it without a word.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster::error::ClusterError;
use crate::cluster::place::AllSeen;
use crate::cluster::record::{self, Kind};
use crate::cluster::state_machine::{Applied, Stored};
use crate::cluster::types::{Entry, FormationRecord, LogId, Own, Vote};
use crate::rpc::Me;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const CACHE_BYTES: usize = 4 << 20;

/// A record of which there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    name: &'static str,
    kind: Kind,
}

pub(super) const VOTE: Key = Key { name: "vote", kind: Kind::Vote };
pub(super) const COMMITTED: Key = Key { name: "committed", kind: Kind::LogId };
pub(super) const PURGED: Key = Key { name: "purged", kind: Kind::LogId };
pub(super) const APPLIED: Key = Key { name: "applied", kind: Kind::Applied };
pub(super) const SNAPSHOT: Key = Key { name: "snapshot", kind: Kind::Snapshot };
pub(super) const OWN: Key = Key { name: "own", kind: Kind::Own };
pub(super) const STARTS: Key = Key { name: "starts", kind: Kind::Starts };
pub(super) const SEEN: Key = Key { name: "seen", kind: Kind::Seen };
pub(super) const INCARNATION: Key = Key { name: "incarnation", kind: Kind::Incarnation };

/// Whether a write must be on disk when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Yes.
    Durable,
    /// With the next durable write: what the log can rebuild.
    Later,
}

/// The open file. All methods block.
#[derive(Debug)]
pub(super) struct RaftDb {
    database: Database,
    path: PathBuf,
}

impl RaftDb {
    /// Opens the file, or creates it, and looks at every record in it.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, ClusterError> {
        // redb believes its own list of free pages, and panics on one that makes no sense.
        std::panic::catch_unwind(|| Self::open_whole(path)).unwrap_or_else(|_| {
            let what = "its frame".to_owned();
            Err(ClusterError::Damaged { path: path.to_owned(), what, source: None })
        })
    }

    fn open_whole(path: &Path) -> Result<Arc<Self>, ClusterError> {
        let exists = path.try_exists().map_err(|error| failed("look for", path, error))?;
        if !exists {
            create(path)?;
        }
        let mut database = match Database::builder().set_cache_size(CACHE_BYTES).open(path) {
            Ok(database) => database,
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(ClusterError::Busy { path: path.to_owned() });
            }
            Err(redb::DatabaseError::Storage(redb::StorageError::Io(error)))
                if !matches!(
                    error.kind(),
                    std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
                ) =>
            {
                return Err(failed("open", path, error));
            }
            Err(error) => return Err(damaged(path, "its frame", error)),
        };
        if !database.check_integrity().map_err(|error| damaged(path, "its pages", error))? {
            tracing::warn!(path = %path.display(), "the list of free pages was rebuilt");
        }
        let opened = Self { database, path: path.to_owned() };
        opened.check()?;
        Ok(Arc::new(opened))
    }

    /// Reads everything once.
    pub(super) fn check(&self) -> Result<(), ClusterError> {
        self.get::<Vote>(VOTE)?;
        self.get::<LogId>(COMMITTED)?;
        let applied: Option<Applied> = self.get(APPLIED)?;
        self.get::<Stored>(SNAPSHOT)?;
        self.get::<Own>(OWN)?;
        self.get::<[u8; 16]>(INCARNATION)?;
        self.get::<u64>(STARTS)?;
        self.get::<AllSeen>(SEEN)?;
        let purged: Option<LogId> = self.get(PURGED)?;
        let applied = applied.and_then(|applied| applied.last_applied);
        if let Some(purged) = purged.filter(|purged| Some(*purged) > applied) {
            let next = applied.map_or(0, |applied| applied.index + 1);
            return Err(self.damaged(format!("log entries {next} to {} are missing", purged.index)));
        }
        let mut expected = purged.map_or(0, |purged| purged.index + 1);
        for entry in self.entries(0, u64::MAX)? {
            if expected != entry.log_id.index {
                return Err(self.damaged(format!("log entry {expected} is missing")));
            }
            expected = entry.log_id.index + 1;
        }
        Ok(())
    }

    /// One record.
    pub(super) fn get<T: DeserializeOwned>(&self, key: Key) -> Result<Option<T>, ClusterError> {
        let transaction = self.database.begin_read().map_err(|error| self.failed("read", error))?;
        let table = transaction.open_table(META).map_err(|error| self.failed("read", error))?;
        let Some(bytes) = table.get(key.name).map_err(|error| self.failed("read", error))? else {
            return Ok(None);
        };
        record::decode(key.kind, bytes.value())
            .map(Some)
            .map_err(|error| damaged(&self.path, format!("the record {:?}", key.name), error))
    }

    /// The entries in `start..end` that are there.
    pub(super) fn entries(&self, start: u64, end: u64) -> Result<Vec<Entry>, ClusterError> {
        let transaction = self.database.begin_read().map_err(|error| self.failed("read", error))?;
        let table = transaction.open_table(LOG).map_err(|error| self.failed("read", error))?;
        let mut entries = Vec::new();
        for found in table.range(start..end).map_err(|error| self.failed("read", error))? {
            let (index, bytes) = found.map_err(|error| self.failed("read", error))?;
            let index = index.value();
            let entry: Entry = record::decode(Kind::Entry, bytes.value())
                .map_err(|error| damaged(&self.path, format!("log entry {index}"), error))?;
            if entry.log_id.index != index {
                return Err(self.damaged(format!("log entry {index} is entry {}", entry.log_id.index)));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The newest entry.
    pub(super) fn last_entry(&self) -> Result<Option<Entry>, ClusterError> {
        let transaction = self.database.begin_read().map_err(|error| self.failed("read", error))?;
        let table = transaction.open_table(LOG).map_err(|error| self.failed("read", error))?;
        let last = table.last().map_err(|error| self.failed("read", error))?;
        let Some((index, bytes)) = last else { return Ok(None) };
        record::decode(Kind::Entry, bytes.value())
            .map(Some)
            .map_err(|error| damaged(&self.path, format!("log entry {}", index.value()), error))
    }

    /// Where the newest entry stands, purged ones included.
    pub(super) fn last_id(&self) -> Result<Option<LogId>, ClusterError> {
        match self.last_entry()? {
            Some(entry) => Ok(Some(entry.log_id)),
            None => self.get(PURGED),
        }
    }

    /// Whether this node ever wrote an entry. A vote alone binds nobody: its cluster has formed only if another
    /// majority did without this node.
    pub(super) fn has_log(&self) -> Result<bool, ClusterError> {
        let purged: Option<LogId> = self.get(PURGED)?;
        let applied: Option<Applied> = self.get(APPLIED)?;
        Ok(purged.is_some()
            || self.last_entry()?.is_some()
            || applied.is_some_and(|applied| applied.last_applied.is_some()))
    }

    /// Does `work` in one transaction: all of it or nothing.
    pub(super) fn write<R>(
        &self,
        keep: Keep,
        work: impl FnOnce(&Writer<'_>) -> Result<R, ClusterError>,
    ) -> Result<R, ClusterError> {
        let mut transaction = self.database.begin_write().map_err(|error| self.failed("write", error))?;
        match keep {
            Keep::Durable => transaction.set_two_phase_commit(true),
            Keep::Later => {
                transaction.set_durability(Durability::None).map_err(|error| self.failed("write", error))?;
            }
        }
        let result = work(&Writer { transaction: &transaction, db: self })?;
        transaction.commit().map_err(|error| self.failed("sync", error))?;
        Ok(result)
    }

    /// The number that this data folder drew once.
    pub(super) fn incarnation(&self) -> Result<[u8; 16], ClusterError> {
        if let Some(drawn) = self.get(INCARNATION)? {
            return Ok(drawn);
        }
        let drawn = random()?;
        self.write(Keep::Durable, |writer| writer.put(INCARNATION, &drawn))?;
        Ok(drawn)
    }

    /// Counts one more process that starts on this data folder; the count, this one included.
    pub(super) fn count_start(&self) -> Result<u64, ClusterError> {
        let starts = self.get::<u64>(STARTS)?.unwrap_or_default().saturating_add(1);
        self.write(Keep::Durable, |writer| writer.put(STARTS, &starts))?;
        Ok(starts)
    }

    /// The last entry that the log had, removed ones included, and those that only a snapshot brought: it is stored
    /// before the log that it covers is purged.
    pub(super) fn last_index(&self) -> Result<u64, ClusterError> {
        let applied = self.get::<Applied>(APPLIED)?.and_then(|applied| applied.last_applied);
        Ok(self.last_id()?.max(applied).map_or(0, |last| last.index))
    }

    /// Forgets log, vote and place: from now on this data folder is that of a newcomer, which draws another number.
    pub(super) fn start_over(&self) -> Result<[u8; 16], ClusterError> {
        let drawn = random()?;
        self.write(Keep::Durable, |writer| {
            for key in [VOTE, COMMITTED, PURGED, APPLIED, SNAPSHOT, OWN, SEEN] {
                writer.take_out(key)?;
            }
            writer.remove(0, u64::MAX)?;
            writer.put(INCARNATION, &drawn)
        })?;
        Ok(drawn)
    }

    /// Stores who this node is from now on, unless it has a log already: then false, and nothing is changed. A vote
    /// that it gave as somebody else goes with that.
    pub(super) fn adopt(&self, own: &Own) -> Result<bool, ClusterError> {
        if self.has_log()? {
            return Ok(false);
        }
        let stays =
            self.get::<Own>(OWN)?.is_some_and(|known| (known.cluster, known.node) == (own.cluster, own.node));
        // Nothing can come between: a log is written only in transactions that find the same identity, see `bound`.
        self.write(Keep::Durable, |writer| {
            if writer.last_index()?.is_some() {
                return Ok(false);
            }
            if !stays {
                writer.take_out(VOTE)?;
            }
            writer.put(OWN, own)?;
            Ok(true)
        })
    }

    fn failed(&self, operation: &'static str, error: impl Into<redb::Error>) -> ClusterError {
        match error.into() {
            error @ redb::Error::Corrupted(_) => damaged(&self.path, "its pages", error),
            error => failed(operation, &self.path, error),
        }
    }

    fn damaged(&self, what: String) -> ClusterError {
        ClusterError::Damaged { path: self.path.clone(), what, source: None }
    }
}

/// What tests do to a file that the program never does.
#[cfg(test)]
impl RaftDb {
    pub(super) fn open_unchecked(path: &Path) -> Self {
        let database = Database::builder().open(path).unwrap();
        Self { database, path: path.to_owned() }
    }

    pub(super) fn raw(&self, name: &str) -> Option<Vec<u8>> {
        let transaction = self.database.begin_read().unwrap();
        let table = transaction.open_table(META).unwrap();
        table.get(name).unwrap().map(|bytes| bytes.value().to_vec())
    }

    pub(super) fn put_raw(&self, name: &str, bytes: &[u8]) {
        let transaction = self.database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert(name, bytes).unwrap();
        transaction.commit().unwrap();
    }
}

#[cfg(test)]
impl Key {
    pub(super) fn name(self) -> &'static str {
        self.name
    }
}

/// One transaction.
pub(super) struct Writer<'a> {
    transaction: &'a WriteTransaction,
    db: &'a RaftDb,
}

impl Writer<'_> {
    pub(super) fn put<T: Serialize>(&self, key: Key, value: &T) -> Result<(), ClusterError> {
        let bytes = record::encode(key.kind, value)?;
        let mut table = self.transaction.open_table(META).map_err(|error| self.db.failed("write", error))?;
        table.insert(key.name, bytes.as_slice()).map_err(|error| self.db.failed("write", error))?;
        Ok(())
    }

    fn take_out(&self, key: Key) -> Result<(), ClusterError> {
        let mut table = self.transaction.open_table(META).map_err(|error| self.db.failed("write", error))?;
        table.remove(key.name).map_err(|error| self.db.failed("write", error))?;
        Ok(())
    }

    fn last_index(&self) -> Result<Option<u64>, ClusterError> {
        let table = self.transaction.open_table(LOG).map_err(|error| self.db.failed("write", error))?;
        let last = table.last().map_err(|error| self.db.failed("write", error))?;
        Ok(last.map(|(index, _)| index.value()))
    }

    /// Checks that the stored identity is still the one that the log was opened for.
    pub(super) fn bound(&self, me: Option<Me>) -> Result<(), ClusterError> {
        let Some(me) = me else { return Ok(()) };
        let table = self.transaction.open_table(META).map_err(|error| self.db.failed("write", error))?;
        let stored = table.get(OWN.name).map_err(|error| self.db.failed("write", error))?;
        let own: Option<Own> = stored
            .map(|bytes| record::decode(Kind::Own, bytes.value()))
            .transpose()
            .map_err(|error| damaged(&self.db.path, "the record \"own\"", error))?;
        if own.is_some_and(|own| own.cluster == me.cluster && own.node == me.node) {
            return Ok(());
        }
        Err(self.db.damaged("the log belongs to a formation record that was replaced".to_owned()))
    }

    pub(super) fn append(&self, entries: &[(u64, Vec<u8>)]) -> Result<(), ClusterError> {
        let mut table = self.transaction.open_table(LOG).map_err(|error| self.db.failed("write", error))?;
        for (index, bytes) in entries {
            table.insert(index, bytes.as_slice()).map_err(|error| self.db.failed("write", error))?;
        }
        Ok(())
    }

    /// Removes the entries in `start..end`.
    pub(super) fn remove(&self, start: u64, end: u64) -> Result<(), ClusterError> {
        let mut table = self.transaction.open_table(LOG).map_err(|error| self.db.failed("write", error))?;
        table.retain_in(start..end, |_, _| false).map_err(|error| self.db.failed("write", error))?;
        Ok(())
    }
}

/// Creates the file whole under another name first: an empty file under its own name is damage, never a first start.
pub(super) fn create(path: &Path) -> Result<(), ClusterError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!("{name}.new"));
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed("remove what is left of an interrupted start:", &fresh, error));
        }
        _ => {}
    }
    let database = Database::create(&fresh).map_err(|error| failed("create", &fresh, error))?;
    let db = RaftDb { database, path: fresh.clone() };
    let drawn = random()?;
    db.write(Keep::Durable, |writer| {
        writer.append(&[])?;
        writer.put(INCARNATION, &drawn)
    })?;
    drop(db);
    let sync = |path: &Path| std::fs::File::open(path).and_then(|file| file.sync_all());
    sync(&fresh).map_err(|error| failed("sync", &fresh, error))?;
    std::fs::rename(&fresh, path).map_err(|error| failed("create", path, error))?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        sync(folder).map_err(|error| failed("sync", folder, error))?;
    }
    Ok(())
}

/// 16 bytes that no other node draws.
pub(super) fn random() -> Result<[u8; 16], ClusterError> {
    let mut drawn = [0; 16];
    getrandom::fill(&mut drawn)
        .map_err(|error| ClusterError::Config(format!("the system gives no random numbers: {error}")))?;
    Ok(drawn)
}

fn damaged(
    path: &Path,
    what: impl Into<String>,
    source: impl std::error::Error + Send + Sync + 'static,
) -> ClusterError {
    ClusterError::Damaged { path: path.to_owned(), what: what.into(), source: Some(Box::new(source)) }
}

pub(super) fn failed(
    operation: &'static str,
    path: &Path,
    source: impl std::error::Error + Send + Sync + 'static,
) -> ClusterError {
    ClusterError::Store { operation, path: path.to_owned(), source: Box::new(source) }
}

/// The record of a formation as peers send it.
pub(super) fn decode_formation(bytes: &[u8]) -> Result<FormationRecord, record::RecordError> {
    record::decode(Kind::Formation, bytes)
}
