//! The state that the log builds, kept beside it, and snapshots of it.
//!
//! Each apply shows the new state, then stores it with the index of its last entry in one transaction. That is not synced
//! by itself: the log is durable, and openraft applies again what is missing after a crash. So the state may be older
//! than what this node did before: a leader therefore answers nothing before an entry of its own is applied.
//! Apply waits for nothing but this file.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError, StorageIOError,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::cluster::db::{APPLIED, Keep, RaftDb, SNAPSHOT};
use crate::cluster::error::ClusterError;
use crate::cluster::log_store::blocking;
use crate::cluster::record::{self, Kind};
use crate::cluster::state::{self, At};
use crate::cluster::types::{Entry, LogId, PeerNode, Response, StoredMembership, Timing, TypeConfig};
use crate::model::{ClusterId, ClusterState, NodeId};
use crate::rpc::Me;

type Result<T> = std::result::Result<T, StorageError<NodeId>>;

/// What is built so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Applied {
    pub(super) last_applied: Option<LogId>,
    pub(super) membership: StoredMembership,
    /// None until the entry that forms the cluster.
    pub(super) state: Option<ClusterState>,
    pub(super) timing: Option<Timing>,
}

/// What a snapshot holds: the cluster first, so that one of another cluster is refused.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    cluster: Option<ClusterId>,
    applied: Applied,
}

/// The newest snapshot as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    meta: SnapshotMeta<NodeId, PeerNode>,
    body: Vec<u8>,
}

impl Stored {
    fn snapshot(self) -> Snapshot<TypeConfig> {
        Snapshot { meta: self.meta, snapshot: Box::new(Cursor::new(self.body)) }
    }
}

/// Where the state is seen by the rest of the process.
pub(super) type StateSender = watch::Sender<Option<Arc<ClusterState>>>;

/// The one writer of the state.
#[derive(Debug)]
pub(super) struct StateMachine {
    db: Arc<RaftDb>,
    bound: Option<Me>,
    applied: Applied,
    seen: Arc<StateSender>,
    /// How far the stored state is.
    stored: watch::Sender<Option<LogId>>,
}

impl StateMachine {
    /// Reads what was built before; `seen` shows it from now on.
    pub(super) fn open(
        db: Arc<RaftDb>,
        bound: Option<Me>,
        seen: Arc<StateSender>,
    ) -> std::result::Result<Self, ClusterError> {
        let applied: Applied = db.get(APPLIED)?.unwrap_or_default();
        let stored = watch::Sender::new(applied.last_applied);
        let machine = Self { db, bound, applied, seen, stored };
        machine.show();
        Ok(machine)
    }

    /// How far the stored state is, for whoever removes what it covers.
    pub(super) fn stored(&self) -> watch::Receiver<Option<LogId>> {
        self.stored.subscribe()
    }

    fn show(&self) {
        let generation = self.applied.state.as_ref().map_or(0, ClusterState::generation);
        tracing::debug!(target: "syncd::step", generation, "commit known");
        self.seen.send_replace(self.applied.state.clone().map(Arc::new));
    }

    fn snapshot_body(&self) -> Body {
        Body { cluster: self.bound.map(|me| me.cluster), applied: self.applied.clone() }
    }
}

/// Applies one entry.
pub(super) fn one(applied: &mut Applied, entry: Entry) -> Response {
    let at = At { term: entry.log_id.leader_id.term, index: entry.log_id.index };
    applied.last_applied = Some(entry.log_id);
    let voters: BTreeSet<NodeId> = applied.membership.voter_ids().collect();
    let response = match entry.payload {
        EntryPayload::Blank => Response::Done,
        EntryPayload::Normal(command) => {
            state::apply(&mut applied.state, &mut applied.timing, &voters, at, command)
        }
        EntryPayload::Membership(membership) => {
            applied.membership = StoredMembership::new(Some(entry.log_id), membership);
            Response::Done
        }
    };
    if let Some(state) = &mut applied.state {
        state::follow_voters(state, applied.membership.membership().get_joint_config());
        state.applied_index = at.index;
    }
    response
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied.last_applied, self.applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Response>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let responses = entries.into_iter().map(|entry| one(&mut self.applied, entry)).collect();
        // Before it is stored: the entries are committed, whatever becomes of this file, and what is stored here would
        // outlive a crash no sooner.
        self.show();
        let (db, bound, next) = (Arc::clone(&self.db), self.bound, self.applied.clone());
        blocking(move || {
            db.write(Keep::Later, |writer| {
                writer.bound(bound)?;
                writer.put(APPLIED, &next)
            })
        })
        .await
        .map_err(|error| StorageIOError::write_state_machine(openraft::AnyError::new(&error)))?;
        self.stored.send_replace(self.applied.last_applied);
        Ok(responses)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { db: Arc::clone(&self.db), body: self.snapshot_body() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<NodeId, PeerNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<()> {
        let refuse = |why: String| {
            StorageIOError::write_snapshot(Some(meta.signature()), openraft::AnyError::error(why))
        };
        let stored = Stored { meta: meta.clone(), body: snapshot.into_inner() };
        let body: Body = record::decode(Kind::SnapshotBody, &stored.body)
            .map_err(|error| refuse(format!("the snapshot is not readable: {error}")))?;
        if body.cluster != self.bound.map(|me| me.cluster) {
            return Err(refuse("the snapshot is of another cluster".to_owned()).into());
        }
        if body.applied.last_applied != meta.last_log_id || meta.last_log_id < self.applied.last_applied {
            return Err(refuse(format!("the snapshot does not fit the log: {meta}")).into());
        }
        let (db, bound) = (Arc::clone(&self.db), self.bound);
        let applied = body.applied;
        self.applied = blocking(move || {
            db.write(Keep::Durable, |writer| {
                writer.bound(bound)?;
                writer.put(APPLIED, &applied)?;
                writer.put(SNAPSHOT, &stored)
            })?;
            Ok(applied)
        })
        .await
        .map_err(|error| {
            StorageIOError::write_snapshot(Some(meta.signature()), openraft::AnyError::new(&error))
        })?;
        self.stored.send_replace(self.applied.last_applied);
        self.show();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>> {
        let stored: Option<Stored> = self
            .db
            .get(SNAPSHOT)
            .map_err(|error| StorageIOError::read_snapshot(None, openraft::AnyError::new(&error)))?;
        Ok(stored.map(Stored::snapshot))
    }
}

/// A view of the state at one index, to be stored as a snapshot.
#[derive(Debug)]
pub(super) struct Builder {
    db: Arc<RaftDb>,
    body: Body,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>> {
        let applied = &self.body.applied;
        let last = applied.last_applied;
        let id = last.map_or_else(|| "0".to_owned(), |last| format!("{}-{}", last.leader_id, last.index));
        let meta =
            SnapshotMeta { last_log_id: last, last_membership: applied.membership.clone(), snapshot_id: id };
        let failed = |error: &ClusterError| {
            StorageIOError::write_snapshot(Some(meta.signature()), openraft::AnyError::new(error))
        };
        let body = record::encode(Kind::SnapshotBody, &self.body).map_err(|error| failed(&error.into()))?;
        let stored = Stored { meta: meta.clone(), body };
        let db = Arc::clone(&self.db);
        let stored = blocking(move || {
            db.write(Keep::Durable, |writer| writer.put(SNAPSHOT, &stored))?;
            Ok(stored)
        })
        .await
        .map_err(|error| failed(&error))?;
        Ok(stored.snapshot())
    }
}
