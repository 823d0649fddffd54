//! openraft's own suite on this store, and what a store must do that the suite does not ask.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, RaftSnapshotBuilder, StorageError};
use tokio::sync::watch;

use crate::cluster::db::{APPLIED, COMMITTED, Keep, OWN, PURGED, RaftDb, SNAPSHOT, VOTE};
use crate::cluster::error::ClusterError;
use crate::cluster::log_store::LogStore;
use crate::cluster::state_machine::StateMachine;
use crate::cluster::types::{Command, Entry, LogId, Own, Timing, TypeConfig, Vote};
use crate::model::{ClusterId, NodeId};
use crate::rpc::Me;

const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(200),
    timeout: Duration::from_millis(600),
    lease: Duration::from_millis(1200),
};

struct Fresh;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Fresh {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<NodeId>> {
        let folder = tempfile::tempdir().unwrap();
        let db = RaftDb::open(&folder.path().join("raft.redb")).unwrap();
        let machine = StateMachine::open(Arc::clone(&db), None, Arc::new(watch::Sender::new(None))).unwrap();
        Ok((folder, LogStore::new(db, None, None), machine))
    }
}

#[test]
fn openrafts_own_suite_passes() {
    Suite::test_all(Fresh).unwrap();
}

fn own(cluster: u8) -> Own {
    Own { cluster: ClusterId([cluster; 16]), node: 1, name: "gw1".to_owned(), record: None, timing: TIMING }
}

fn me(cluster: u8) -> Me {
    Me { cluster: ClusterId([cluster; 16]), node: 1 }
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

fn entry(index: u64) -> Entry {
    Entry { log_id: log_id(index), payload: EntryPayload::Normal(Command::Lead { leader: 1, nonce: index }) }
}

fn machine(db: &Arc<RaftDb>, cluster: u8) -> StateMachine {
    StateMachine::open(Arc::clone(db), Some(me(cluster)), Arc::new(watch::Sender::new(None))).unwrap()
}

/// A store with one record of each kind and a few entries, closed.
async fn full(folder: &Path) -> PathBuf {
    let path = folder.join("raft.redb");
    let db = RaftDb::open(&path).unwrap();
    assert!(db.adopt(&own(1)).unwrap());
    let mut log = LogStore::new(Arc::clone(&db), Some(me(1)), None);
    log.blocking_append((0..20).map(entry)).await.unwrap();
    db.write(Keep::Durable, |writer| {
        writer.put(VOTE, &Vote::new(1, 1))?;
        writer.put(COMMITTED, &log_id(19))
    })
    .unwrap();
    let mut machine = machine(&db, 1);
    machine.apply((0..20).map(entry)).await.unwrap();
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    path
}

#[tokio::test]
async fn a_damaged_record_is_never_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = full(folder.path()).await;
    let refused = |what: &str| {
        let error = RaftDb::open(&path).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ClusterError::Damaged { .. }), "{text}");
        assert!(
            text.contains(what) && text.contains("raft.redb") && text.contains("must not vote"),
            "{text}"
        );
    };
    for key in [VOTE, COMMITTED, APPLIED, SNAPSHOT, OWN] {
        let db = RaftDb::open(&path).unwrap();
        let whole = db.raw(key.name()).unwrap();
        for at in [0, 1, 5, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            db.put_raw(key.name(), &damaged);
            assert!(db.check().is_err(), "{} byte {at}", key.name());
        }
        drop(db);
        refused(key.name());
        // Whole again for the next.
        RaftDb::open_unchecked(&path).put_raw(key.name(), &whole);
    }
    RaftDb::open_unchecked(&path).write(Keep::Durable, |writer| writer.remove(7, 8)).unwrap();
    refused("log entry 7 is missing");
}

#[tokio::test]
async fn any_flipped_byte_of_the_file_is_found_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let path = full(folder.path()).await;
    let whole = std::fs::read(&path).unwrap();
    let mut refused = 0;
    // A step that is prime to the page size, so that all places within a page are met.
    for at in (0..whole.len()).step_by(1009) {
        std::fs::write(&path, &whole).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[whole[at] ^ 0x20], at as u64).unwrap();
        drop(file);
        match RaftDb::open(&path) {
            Err(_) => refused += 1,
            Ok(db) => {
                // Unused space: all that was stored is there.
                assert_eq!(db.entries(0, u64::MAX).unwrap().len(), 20, "byte {at}");
                assert_eq!(db.get::<Vote>(VOTE).unwrap(), Some(Vote::new(1, 1)), "byte {at}");
            }
        }
    }
    assert!(refused > 0, "no byte of {} mattered", whole.len());
    std::fs::write(&path, []).unwrap();
    assert!(
        matches!(RaftDb::open(&path), Err(ClusterError::Damaged { .. })),
        "an emptied file is no first start"
    );
}

#[tokio::test]
async fn a_second_process_is_told_that_the_folder_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raft.redb");
    let _first = RaftDb::open(&path).unwrap();
    let error = RaftDb::open(&path).unwrap_err();
    assert!(matches!(error, ClusterError::Busy { .. }), "{error}");
}

#[tokio::test]
async fn nothing_is_written_under_an_identity_that_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let db = RaftDb::open(&folder.path().join("raft.redb")).unwrap();
    assert!(db.adopt(&own(1)).unwrap());
    let mut old = LogStore::new(Arc::clone(&db), Some(me(1)), None);
    assert!(db.adopt(&own(2)).unwrap(), "the log is empty");
    assert!(old.blocking_append([entry(0)]).await.is_err());
    assert!(!db.has_log().unwrap());
    let mut new = LogStore::new(Arc::clone(&db), Some(me(2)), None);
    new.blocking_append([entry(0)]).await.unwrap();
    assert!(!db.adopt(&own(3)).unwrap(), "it has a log now");
    assert_eq!(db.get::<Own>(OWN).unwrap(), Some(own(2)));
}

#[tokio::test]
async fn a_snapshot_of_another_cluster_or_of_the_past_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, cluster: u8| {
        let db = RaftDb::open(&folder.path().join(name)).unwrap();
        assert!(db.adopt(&own(cluster)).unwrap());
        machine(&db, cluster)
    };
    let (mut ours, mut same, mut other) = (open("a", 1), open("b", 1), open("c", 2));
    for machine in [&mut same, &mut other] {
        machine.apply((0..5).map(entry)).await.unwrap();
    }
    let snapshot = other.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let error = ours.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap_err();
    assert!(error.to_string().contains("another cluster"), "{error}");
    let snapshot = same.get_snapshot_builder().await.build_snapshot().await.unwrap();
    ours.install_snapshot(&snapshot.meta, snapshot.snapshot.clone()).await.unwrap();
    assert_eq!(ours.applied_state().await.unwrap().0, Some(log_id(4)));
    ours.apply([entry(5)]).await.unwrap();
    assert!(ours.install_snapshot(&snapshot.meta, snapshot.snapshot).await.is_err());
    assert_eq!(ours.applied_state().await.unwrap().0, Some(log_id(5)));
}

#[tokio::test]
async fn purged_entries_stay_gone_and_the_state_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = full(folder.path()).await;
    let db = RaftDb::open(&path).unwrap();
    let stored = machine(&db, 1).stored();
    let mut log = LogStore::new(Arc::clone(&db), Some(me(1)), Some(stored));
    log.purge(log_id(9)).await.unwrap();
    drop(log);
    drop(db);
    let db = RaftDb::open(&path).unwrap();
    assert_eq!(db.get::<LogId>(PURGED).unwrap(), Some(log_id(9)));
    assert_eq!(db.entries(0, u64::MAX).unwrap().first().map(|entry| entry.log_id), Some(log_id(10)));
    assert_eq!(machine(&db, 1).applied_state().await.unwrap().0, Some(log_id(19)));
}

#[tokio::test]
async fn a_purge_waits_for_the_snapshot_that_covers_it() {
    let folder = tempfile::tempdir().unwrap();
    let source = RaftDb::open(&folder.path().join("source")).unwrap();
    assert!(source.adopt(&own(1)).unwrap());
    let mut whole = machine(&source, 1);
    whole.apply((0..20).map(entry)).await.unwrap();
    let snapshot = whole.get_snapshot_builder().await.build_snapshot().await.unwrap();

    let path = folder.path().join("raft.redb");
    let db = RaftDb::open(&path).unwrap();
    assert!(db.adopt(&own(1)).unwrap());
    let mut behind = machine(&db, 1);
    let mut log = LogStore::new(Arc::clone(&db), Some(me(1)), Some(behind.stored()));
    log.blocking_append((0..5).map(entry)).await.unwrap();
    behind.apply((0..3).map(entry)).await.unwrap();
    // As openraft does it: the log is purged while the state machine has yet to install.
    let mut purging = Box::pin(log.purge(log_id(19)));
    assert!(futures::poll!(&mut purging).is_pending());
    tokio::task::yield_now().await;
    assert!(futures::poll!(&mut purging).is_pending());
    assert_eq!(db.get::<LogId>(PURGED).unwrap(), None);
    db.check().unwrap();
    assert_eq!(db.last_index().unwrap(), 4);
    behind.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
    assert_eq!(db.get::<LogId>(PURGED).unwrap(), None);
    assert_eq!(db.last_index().unwrap(), 19, "a node that is killed here has nothing rolled back");
    purging.await.unwrap();
    assert_eq!(db.get::<LogId>(PURGED).unwrap(), Some(log_id(19)));
    db.check().unwrap();
    drop(behind);
    assert!(log.purge(log_id(30)).await.is_err(), "nothing will ever cover it");
}

#[tokio::test]
async fn a_hole_between_the_state_and_the_log_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = full(folder.path()).await;
    let db = RaftDb::open(&path).unwrap();
    let mut log = LogStore::new(Arc::clone(&db), Some(me(1)), None);
    log.purge(log_id(25)).await.unwrap();
    drop(log);
    drop(db);
    let error = RaftDb::open(&path).unwrap_err().to_string();
    assert!(error.contains("log entries 20 to 25 are missing"), "{error}");
}
