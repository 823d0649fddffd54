//! openraft's own suite on this store, and what a store must do that the suite does not ask.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use tokio::sync::watch;

use crate::cluster::db::{Keep, OWN, RaftDb, VOTE};
use crate::cluster::error::ClusterError;
use crate::cluster::log_store::LogStore;
use crate::cluster::state_machine::StateMachine;
use crate::cluster::types::{Own, TypeConfig, Vote};
use crate::model::{ClusterId, NodeId};

struct Fresh;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Fresh {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<NodeId>> {
        let folder = tempfile::tempdir().unwrap();
        let db = RaftDb::open(&folder.path().join("raft.redb")).unwrap();
        let machine = StateMachine::open(Arc::clone(&db), None, Arc::new(watch::Sender::new(None))).unwrap();
        Ok((folder, LogStore::new(db, None), machine))
    }
}

#[test]
fn openrafts_own_suite_passes() {
    Suite::test_all(Fresh).unwrap();
}
