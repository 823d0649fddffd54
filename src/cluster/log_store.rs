//! The log and the vote, as openraft wants them kept.
//!
//! A vote is on disk before [`RaftLogStorage::save_vote`] returns; entries are on disk before the callback is called,
//! one durable transaction for each append. Syncs run on the blocking pool, so that a slow disk stalls the log but not
//! the runtime. An error here stops openraft, and with it the process.
//!
//! A leader's entries are on its own disk before it sends them. Side by side would be faster, but openraft restores a
//! leader after a restart in the term that it led: one that forgot an entry which a follower has would give its number
//! to another one, in the same term, and nobody would notice.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader, StorageError, StorageIOError};
use tokio::sync::watch;

use crate::cluster::db::{COMMITTED, Keep, PURGED, RaftDb, VOTE, Writer};
use crate::cluster::error::ClusterError;
use crate::cluster::record::{self, Kind};
use crate::cluster::types::{Entry, LogId, TypeConfig, Vote};
use crate::model::NodeId;
use crate::rpc::Me;

/// How long a purge waits for what covers it; a snapshot that is installed meanwhile is one sync of a small file.
const COVERED_MAX: Duration = Duration::from_secs(30);

type Result<T> = std::result::Result<T, StorageError<NodeId>>;

/// The log of one node. Clones share the file.
#[derive(Clone, Debug)]
pub(super) struct LogStore {
    db: Arc<RaftDb>,
    /// The identity that the log was opened for: nothing is written under another. None in tests of the store alone.
    bound: Option<Me>,
    /// How far the state machine is, as stored: nothing beyond is purged. None in tests of the log alone.
    applied: Option<watch::Receiver<Option<LogId>>>,
    /// What openraft last said is committed. It goes into the file with the next append: a write of its own would stand
    /// between the commit and its apply, and would be durable no earlier.
    committed: Option<LogId>,
}

impl LogStore {
    pub(super) fn new(
        db: Arc<RaftDb>,
        bound: Option<Me>,
        applied: Option<watch::Receiver<Option<LogId>>>,
    ) -> Self {
        Self { db, bound, applied, committed: None }
    }

    /// Waits until the stored state covers `log_id`: openraft purges while its state machine still installs the
    /// snapshot that stands for the purged entries, and a crash between the two would leave a hole.
    async fn covered(&self, log_id: LogId) -> std::result::Result<(), ClusterError> {
        let Some(mut applied) = self.applied.clone() else { return Ok(()) };
        let covered = applied.wait_for(|applied| *applied >= Some(log_id));
        match tokio::time::timeout(COVERED_MAX, covered).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ClusterError::Task("state machine")),
        }
    }

    async fn write(
        &self,
        keep: Keep,
        work: impl FnOnce(&Writer<'_>) -> std::result::Result<(), ClusterError> + Send + 'static,
    ) -> std::result::Result<(), ClusterError> {
        let Self { db, bound, .. } = self.clone();
        blocking(move || {
            db.write(keep, |writer| {
                writer.bound(bound)?;
                work(writer)
            })
        })
        .await
    }
}

/// Runs work that syncs on the blocking pool.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::result::Result<T, ClusterError> + Send + 'static,
) -> std::result::Result<T, ClusterError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(ClusterError::Task("store")))
}

fn any(error: &ClusterError) -> openraft::AnyError {
    openraft::AnyError::new(error)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        if start >= end {
            return Ok(Vec::new());
        }
        self.db.entries(start, end).map_err(|error| StorageIOError::read_logs(any(&error)).into())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>> {
        let read = || -> std::result::Result<_, ClusterError> {
            Ok((self.db.get::<LogId>(PURGED)?, self.db.last_id()?))
        };
        let (last_purged_log_id, last_log_id) =
            read().map_err(|error| StorageError::from(StorageIOError::read_logs(any(&error))))?;
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<()> {
        let vote = *vote;
        self.write(Keep::Durable, move |writer| writer.put(VOTE, &vote))
            .await
            .map_err(|error| StorageIOError::write_vote(any(&error)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>> {
        self.db.get(VOTE).map_err(|error| StorageIOError::read_vote(any(&error)).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<()> {
        self.committed = committed.or(self.committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>> {
        let stored = self.db.get(COMMITTED).map_err(|error| StorageIOError::read(any(&error)))?;
        Ok(stored.max(self.committed))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let encoded: std::result::Result<Vec<_>, _> = entries
            .into_iter()
            .map(|entry| record::encode(Kind::Entry, &entry).map(|bytes| (entry.log_id.index, bytes)))
            .collect();
        let committed = self.committed;
        let written = match encoded {
            Ok(encoded) => {
                let work = move |writer: &Writer<'_>| {
                    committed.map_or(Ok(()), |committed| writer.put(COMMITTED, &committed))?;
                    writer.append(&encoded)
                };
                self.write(Keep::Durable, work).await
            }
            Err(error) => Err(error.into()),
        };
        match written {
            Ok(()) => {
                // Which generation an entry carries is not looked at here.
                tracing::debug!(target: "syncd::step", generation = 0, "log durable");
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.log_io_completed(Err(std::io::Error::other(error.to_string())));
                Err(StorageIOError::write_logs(any(&error)).into())
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<()> {
        self.write(Keep::Durable, move |writer| writer.remove(log_id.index, u64::MAX))
            .await
            .map_err(|error| StorageIOError::write_logs(any(&error)).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<()> {
        let purged = async {
            self.covered(log_id).await?;
            self.write(Keep::Durable, move |writer| {
                writer.put(PURGED, &log_id)?;
                writer.remove(0, log_id.index + 1)
            })
            .await
        };
        purged.await.map_err(|error: ClusterError| StorageIOError::write_logs(any(&error)).into())
    }
}
