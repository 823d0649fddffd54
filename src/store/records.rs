//! What applying notes down: how far this node's files are, and the seconds that its readers have seen.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::{ClusterId, Digest, Entry, Epoch, FileTime, OrderId, Place, RootName, unix_ms};
use crate::store::index::{SECONDS, TREE, put_meta};
use crate::store::{Store, StoreError};

/// A second that a path had is remembered this long after the path is gone: one scan of the gateway may take 20 minutes.
const SECONDS_KEPT_MS: i64 = 48 * 3600 * 1000;
/// Approvals that are remembered as used up: more than the log keeps.
const SPENT_MAX: usize = 64;

/// The generation that this node's files were brought to as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Its number.
    pub number: u64,
    /// Its digest.
    pub digest: Digest,
}

/// How far orders to load files again were carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redeployed {
    /// The cluster that counts the orders.
    pub cluster: ClusterId,
    /// The last one that was carried out whole; 0 before the first.
    pub done: u64,
    /// One that was begun, and the times that its files get.
    pub begun: Option<(u64, Vec<(Place, FileTime)>)>,
}

impl Redeployed {
    /// None was carried out.
    #[must_use]
    pub fn none(cluster: ClusterId) -> Self {
        Self { cluster, done: 0, begun: None }
    }
}

/// By place: the version, and the name of the quarantine item that keeps it; none when it could not be kept.
pub type GivenUp = BTreeMap<Place, (Option<Entry>, Option<String>)>;

impl Store {
    /// The generation that this node's files were last brought to.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn applied(&self) -> Result<Option<Applied>, StoreError> {
        self.index().meta("applied")
    }

    /// Notes that the files are at `applied`, which seconds were given to them, and that no apply is under way.
    ///
    /// # Errors
    /// Nothing is noted then.
    pub fn set_applied(&self, applied: &Applied, seconds: &[(Place, i64)]) -> Result<(), StoreError> {
        if !self.is_current() {
            // No record of what the index lost.
            drop(self.turn()?);
        }
        self.index().write(|txn| {
            put_meta(txn, "applied", applied)?;
            put_meta(txn, "applying", &None::<u64>)?;
            write_seconds(txn, seconds, unix_ms())
        })
    }

    /// The cluster `from` was recovered as `to` on this very node: what was applied under the one was applied under the
    /// other. Nothing to do if that is noted already.
    ///
    /// # Errors
    /// The former record stays then.
    pub fn carry_applied_over(&self, from: ClusterId, to: ClusterId) -> Result<(), StoreError> {
        match self.applied()? {
            Some(applied) if applied.cluster == from => {
                self.index().set_meta("applied", &Applied { cluster: to, ..applied })
            }
            _ => Ok(()),
        }
    }

    /// Notes seconds given to paths outside an apply of a generation.
    ///
    /// # Errors
    /// Nothing is noted then.
    pub fn note_seconds(&self, seconds: &[(Place, i64)]) -> Result<(), StoreError> {
        self.index().write(|txn| write_seconds(txn, seconds, unix_ms()))
    }

    /// The newest second of the modification time that `place` had on this node by syncd's hand; kept for a day and
    /// longer after the place is gone.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn last_second(&self, place: &Place) -> Result<Option<i64>, StoreError> {
        self.index().read(|txn| {
            let table = txn.open_table(SECONDS)?;
            Ok(table.get((place.root.as_str(), place.path.as_bytes()))?.map(|value| value.value().0))
        })
    }

    /// The journal: towards which generation the files are being moved.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn applying(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.index().meta::<Option<u64>>("applying")?.flatten())
    }

    /// Writes the journal; [`Store::set_applied`] clears it too.
    ///
    /// # Errors
    /// The former entry stays then.
    pub fn set_applying(&self, number: Option<u64>) -> Result<(), StoreError> {
        self.index().set_meta("applying", &number)
    }

    /// The last epoch in which this node was manager; 0 when it never was.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn manager_epoch(&self) -> Result<Epoch, StoreError> {
        Ok(self.index().meta("manager-epoch")?.unwrap_or(0))
    }

    /// Notes the epoch in which this node is manager.
    ///
    /// # Errors
    /// The former epoch stays then.
    pub fn set_manager_epoch(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.index().set_meta("manager-epoch", &epoch)
    }

    /// Folders that are to go from the manager's root, and still stand.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn leaving(&self) -> Result<BTreeSet<Place>, StoreError> {
        Ok(self.index().meta("leaving")?.unwrap_or_default())
    }

    /// Notes which folders are to go.
    ///
    /// # Errors
    /// The former ones stay then.
    pub fn set_leaving(&self, leaving: &BTreeSet<Place>) -> Result<(), StoreError> {
        self.index().set_meta("leaving", leaving)
    }

    /// Published versions that this node's gateway did not take, and the quarantine items that keep them.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn given_up(&self) -> Result<GivenUp, StoreError> {
        Ok(self.index().meta("given-up")?.unwrap_or_default())
    }

    /// Notes such versions.
    ///
    /// # Errors
    /// The former ones stay then.
    pub fn set_given_up(&self, given_up: &GivenUp) -> Result<(), StoreError> {
        self.index().set_meta("given-up", given_up)
    }

    /// How far orders to load files again were carried out here.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn redeployed(&self) -> Result<Option<Redeployed>, StoreError> {
        self.index().meta("redeployed")
    }

    /// Notes how far.
    ///
    /// # Errors
    /// The former note stays then.
    pub fn set_redeployed(&self, redeployed: &Redeployed) -> Result<(), StoreError> {
        self.index().set_meta("redeployed", redeployed)
    }

    /// Places that this node held back as manager, by the code of the problem that tells of it.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn held(&self, code: &str) -> Result<BTreeSet<Place>, StoreError> {
        Ok(self.index().meta(&format!("held {code}"))?.unwrap_or_default())
    }

    /// Notes which places are held back.
    ///
    /// # Errors
    /// The former ones stay then.
    pub fn set_held(&self, code: &str, held: &BTreeSet<Place>) -> Result<(), StoreError> {
        self.index().set_meta(&format!("held {code}"), held)
    }

    /// Notes that the approval which came with `order` is used up; false when it was before.
    ///
    /// # Errors
    /// It is not used up then.
    pub fn spend(&self, order: OrderId) -> Result<bool, StoreError> {
        let mut spent: Vec<OrderId> = self.index().meta("spent")?.unwrap_or_default();
        if spent.contains(&order) {
            return Ok(false);
        }
        let surplus = (spent.len() + 1).saturating_sub(SPENT_MAX);
        spent.drain(..surplus);
        spent.push(order);
        self.index().set_meta("spent", &spent)?;
        Ok(true)
    }

    /// Places that could not be read when the head changed them, with what this node had been brought to there.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn unread(&self) -> Result<BTreeMap<Place, Option<Entry>>, StoreError> {
        Ok(self.index().meta("unread")?.unwrap_or_default())
    }

    /// Notes such places.
    ///
    /// # Errors
    /// The former ones stay then.
    pub fn set_unread(&self, unread: &BTreeMap<Place, Option<Entry>>) -> Result<(), StoreError> {
        self.index().set_meta("unread", unread)
    }

    /// What the mark in the root called `root` has to say; none before this node first touched it as a member.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn mark(&self, root: &RootName) -> Result<Option<Vec<u8>>, StoreError> {
        self.index().meta(&format!("mark {root}"))
    }

    /// Notes what the mark in the root called `root` says.
    ///
    /// # Errors
    /// The former one stays then.
    pub fn set_mark(&self, root: &RootName, mark: &[u8]) -> Result<(), StoreError> {
        self.index().set_meta(&format!("mark {root}"), &mark.to_vec())
    }

    /// Forgets what the mark in the root called `root` said: its next contact is the first one.
    ///
    /// # Errors
    /// It is known still then.
    pub fn forget_mark(&self, root: &RootName) -> Result<(), StoreError> {
        self.index().drop_meta(&format!("mark {root}"))
    }

    /// Forgets the seconds of places that are long gone. Called at each start.
    pub(super) fn prune_seconds(&self, now_ms: i64) -> Result<(), StoreError> {
        self.index().write(|txn| {
            let tree = txn.open_table(TREE)?;
            let mut failed = None;
            txn.open_table(SECONDS)?.retain(|place, (_, noted)| {
                noted > now_ms - SECONDS_KEPT_MS
                    || tree_has(&tree, place).unwrap_or_else(|error| {
                        failed = Some(error);
                        true
                    })
            })?;
            failed.map_or(Ok(()), Err)
        })
    }
}

fn tree_has(
    tree: &impl redb::ReadableTable<(&'static str, &'static [u8]), &'static [u8]>,
    place: (&str, &[u8]),
) -> Result<bool, StoreError> {
    Ok(tree.get(place)?.is_some())
}

fn write_seconds(
    txn: &redb::WriteTransaction,
    seconds: &[(Place, i64)],
    now_ms: i64,
) -> Result<(), StoreError> {
    let mut table = txn.open_table(SECONDS)?;
    for (place, second) in seconds {
        table.insert((place.root.as_str(), place.path.as_bytes()), (*second, now_ms))?;
    }
    Ok(())
}
