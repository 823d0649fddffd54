//! syncd's own durable data: contents by hash, generations, what applying notes down, and what was replaced.
//!
//! Owns the data folder's `store` (append-only packs and one index) and `quarantine`. Knows nothing of artifact
//! folders, peers or who is manager. All calls block on the disk: whoever is async calls them on a blocking thread.
//! Invariants: what a batch pinned survives a crash at any step; a content is never given out unless its bytes match
//! its hash; readers wait for no batch; what a kept generation, a pin or a running operation needs is never removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use redb::ReadableTable;
use tokio::sync::watch;

use crate::model::{ContentHash, Digest, Meter, unix_ms};

mod basis;
mod batch;
mod blob;
mod chain;
mod collect;
mod error;
mod hold;
mod index;
mod lost;
mod pack;
mod quarantine;
mod reader;
mod records;
mod rows;

pub use basis::Basis;
pub use batch::Batch;
pub use blob::Blob;
pub use chain::{Adopted, HistoryEntry, Pinned};
pub use collect::{Collected, Collector};
pub use error::StoreError;
pub use hold::Hold;
pub use lost::Lost;
pub use quarantine::{QuarantineId, QuarantineItem, Quarantined};
pub use reader::Reader;
pub use records::{Applied, GivenUp, Redeployed};

use chain::{Chain, PinKey};
use hold::Holds;
use index::{BLOBS, Index, PACKS};
use pack::{Location, Packs};
use quarantine::Quarantine;

/// Generations kept unless [`Store::keep_history`] says otherwise.
const HISTORY_DEFAULT: usize = 100;

/// The open store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    index: Index,
    packs: Packs,
    /// Held by whoever pins, adopts or releases, so that these happen one after another.
    turn: Mutex<()>,
    /// What is durable now; replaced as a whole, so that a reader waits for nobody.
    chain: Mutex<Arc<Chain>>,
    /// Number and digest of the head, for those who wait for another.
    heads: watch::Sender<Option<(u64, Digest)>>,
    quarantine: Quarantine,
    history: AtomicUsize,
    reserve: AtomicU64,
    meter: Meter,
    holds: Holds,
    /// Contents that should be here and were not, when they were last looked for.
    lost: Mutex<BTreeSet<ContentHash>>,
    /// Contents that came or may have become unneeded since the last collection.
    churn: AtomicU64,
    /// When a collection is due although little came or went: the last one left something over.
    collect_again: Mutex<Option<Instant>>,
    /// How many contents the last collection left.
    contents: AtomicU64,
    /// What an addition asked for in vain, in bytes; 0 once there is room.
    wanted: AtomicU64,
    /// When seconds were last pruned, in milliseconds since 1970.
    pruned_ms: AtomicI64,
}

impl Store {
    /// Opens the store in `dir` and the quarantine beside it, or creates them. What a crash left unfinished is cut off.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] and [`StoreError::Format`] when it is not what this version wrote: nothing is repaired
    /// by guessing.
    pub fn open(dir: &Path, quarantine_dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
        let index = Index::open(&dir.join("index.redb"))?;
        pack::sync_folder(dir)?;
        let lengths = index.read(|txn| {
            let table = txn.open_table(PACKS)?;
            let mut lengths = BTreeMap::new();
            for item in table.iter()? {
                let (number, length) = item?;
                lengths.insert(number.value(), length.value());
            }
            Ok(lengths)
        })?;
        let packs = Packs::open(&dir.join("packs"), &lengths)?;
        let quarantine = Quarantine::open(quarantine_dir)?;
        let store = Self(Arc::new(Inner {
            index,
            packs,
            turn: Mutex::default(),
            chain: Mutex::default(),
            heads: watch::Sender::new(None),
            quarantine,
            history: AtomicUsize::new(HISTORY_DEFAULT),
            reserve: AtomicU64::new(pack::RESERVE_BYTES),
            meter: Meter::default(),
            holds: Holds::default(),
            lost: Mutex::default(),
            // What an earlier process left is unknown: the first collection is due.
            churn: AtomicU64::new(u64::from(u32::MAX)),
            collect_again: Mutex::default(),
            contents: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            pruned_ms: AtomicI64::new(unix_ms()),
        }));
        store.set_chain(store.load_chain()?);
        store.note_missing()?;
        store.prune_seconds(unix_ms())?;
        Ok(store)
    }

    /// How many generations are kept from the next adopted one on; at least the head and the one before it, whose
    /// contents come out of the roots while the head is applied.
    pub fn keep_history(&self, generations: usize) {
        self.0.history.store(generations, Ordering::Relaxed);
    }

    /// Counts what is done with many contents at once: `receiving` them, and `applying` them to roots.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.0.meter
    }

    /// Whether the content is here.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn has(&self, hash: &ContentHash) -> Result<bool, StoreError> {
        Ok(!self.0.holds.is_doomed(hash) && self.location(hash)?.is_some())
    }

    /// Opens a content.
    ///
    /// # Errors
    /// [`StoreError::Missing`]; [`StoreError::Damaged`] when its bytes are others: it is forgotten then, so that it can
    /// be put again.
    pub fn open_blob(&self, hash: &ContentHash) -> Result<Blob, StoreError> {
        let mut last = None;
        loop {
            let location = self.location(hash)?.ok_or(StoreError::Missing { hash: *hash })?;
            match self.open_at(hash, location) {
                Ok(blob) => return Ok(blob),
                // Perhaps the collector moved it between the two reads; it does so once in a while.
                Err(_) if last != Some(location) => last = Some(location),
                Err(StoreError::Damaged { hash, pack }) => {
                    self.forget(&hash)?;
                    return Err(StoreError::Damaged { hash, pack });
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn open_at(&self, hash: &ContentHash, location: Location) -> Result<Blob, StoreError> {
        let pack = self.0.packs.path(location.pack);
        let file = Arc::new(self.0.packs.open_pack(location.pack)?);
        let blob = Blob::open(file, hash, location).map_err(StoreError::io("read", &pack))?;
        blob.ok_or(StoreError::Damaged { hash: *hash, pack })
    }

    /// Forgets a content that was found damaged, so that it counts as missing and can be put again.
    ///
    /// # Errors
    /// It is still listed then.
    pub fn forget(&self, hash: &ContentHash) -> Result<(), StoreError> {
        tracing::error!(%hash, "a content in the store is damaged; it has to be fetched again");
        self.0.index.write(|txn| {
            txn.open_table(BLOBS)?.remove(hash.0)?;
            Ok(())
        })?;
        self.note_lost(*hash);
        Ok(())
    }

    /// Begins a run of additions.
    #[must_use]
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Copies local content into the quarantine, durably. For a link `content` is empty: its entry says it all.
    ///
    /// # Errors
    /// Nothing is listed then, and the original must stay where it is.
    pub fn quarantine(&self, item: &Quarantined, content: &mut dyn Read) -> Result<QuarantineId, StoreError> {
        self.0.quarantine.put(item, content)
    }

    /// All that is in the quarantine, oldest first.
    ///
    /// # Errors
    /// When its folder cannot be listed.
    pub fn quarantine_list(&self) -> Result<Vec<QuarantineItem>, StoreError> {
        self.0.quarantine.list()
    }

    /// Removes one item from the quarantine for good: only a person decides that.
    ///
    /// # Errors
    /// When it can't be removed; it may be listed no more then.
    pub fn quarantine_drop(&self, id: &QuarantineId) -> Result<(), StoreError> {
        self.0.quarantine.remove(id)
    }

    /// From now on the quarantine keeps at most so many bytes; 0: no bound. What it has stays.
    pub fn bound_quarantine(&self, bytes: u64) {
        self.0.quarantine.keep_at_most(bytes);
    }

    /// How many items are in the quarantine.
    #[must_use]
    pub fn quarantine_count(&self) -> u64 {
        self.0.quarantine.count()
    }

    /// Fails unless so many bytes of local content fit into the quarantine, and a record beside them. Half of the reserve
    /// that additions leave is for that.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`].
    pub fn require_room(&self, bytes: u64) -> Result<(), StoreError> {
        let reserve = self.reserve() / 2;
        self.packs().room_for(0, reserve)?;
        // The quarantine may lie on a file system of its own, which matters only to what goes there.
        if bytes == 0 { Ok(()) } else { self.0.quarantine.room_for(bytes, reserve) }
    }

    /// Fails while the disk has no room for what was last to be added, or less than what is left to others.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`].
    pub fn check_room(&self) -> Result<(), StoreError> {
        let wanted = self.0.wanted.load(Ordering::Relaxed);
        self.packs().room_for(wanted, self.reserve())?;
        // Another addition may have failed in between: it says so again when it is tried again.
        self.0.wanted.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Fails unless so many bytes may be added.
    fn require_free(&self, bytes: u64) -> Result<(), StoreError> {
        let free = self.packs().room_for(bytes, self.reserve());
        if free.is_err() {
            self.0.wanted.fetch_max(bytes, Ordering::Relaxed);
        }
        free
    }

    /// From now on the disk counts as full.
    #[cfg(test)]
    pub(crate) fn pretend_full(&self) {
        self.0.reserve.store(u64::MAX, Ordering::Relaxed);
    }

    /// Nothing is pinned or adopted until what this returns is dropped.
    #[cfg(test)]
    pub(crate) fn stall(&self) -> std::sync::mpsc::Sender<()> {
        let ((release, released), (holds, held)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
        let store = self.clone();
        std::thread::spawn(move || {
            let _turn = store.turn().unwrap();
            holds.send(()).unwrap();
            let _: Result<(), _> = released.recv();
        });
        held.recv().unwrap();
        release
    }

    fn location(&self, hash: &ContentHash) -> Result<Option<Location>, StoreError> {
        self.0.index.read(|txn| {
            let found = txn.open_table(BLOBS)?.get(hash.0)?.map(|value| value.value());
            Ok(found.map(|(pack, offset, size)| Location { pack, offset, size }))
        })
    }

    fn chain(&self) -> Arc<Chain> {
        Arc::clone(&self.0.chain.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Only for whoever has the turn, or alone.
    fn set_chain(&self, chain: Chain) {
        let head = chain.head.as_ref().map(|head| (head.generation.number, head.generation.digest));
        *self.0.chain.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(chain);
        self.0.heads.send_if_modified(|known| std::mem::replace(known, head) != head);
    }

    /// Wakes whoever waits for another head; [`Store::head`] says which.
    #[must_use]
    pub fn heads(&self) -> watch::Receiver<Option<(u64, Digest)>> {
        self.0.heads.subscribe()
    }

    /// The right to change the chain, which is what the index says then.
    fn turn(&self) -> Result<MutexGuard<'_, ()>, StoreError> {
        let turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.catch_up()?;
        Ok(turn)
    }

    /// Whether the index was not opened again since the chain was read from it.
    fn is_current(&self) -> bool {
        self.chain().reopened == self.index().reopened()
    }

    fn index(&self) -> &Index {
        &self.0.index
    }

    fn packs(&self) -> &Packs {
        &self.0.packs
    }

    fn reserve(&self) -> u64 {
        self.0.reserve.load(Ordering::Relaxed)
    }

    fn history_length(&self) -> usize {
        self.0.history.load(Ordering::Relaxed).max(2)
    }
}

#[cfg(test)]
mod tests;
