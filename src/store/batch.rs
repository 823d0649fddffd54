//! Putting contents into the store, and pinning the generation that needs them.
//!
//! A small batch costs one sync of a pack and one commit of the index. A greater one goes in portions, so that no
//! single sync is long. What a batch put is durable only after [`Batch::sync`] or [`Batch::pin`]; dropping a batch
//! takes back what was not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::time::{Duration, Instant};

use crate::crash;
use crate::model::{ContentHash, Entry, Proposal};
use crate::store::index::{BLOBS, PACKS, PINS, encode};
use crate::store::pack::{Location, PORTION_BYTES, Writer};
use crate::store::{Blob, PinKey, Pinned, Store, StoreError};

/// So many contents are noted in the index at once, or one pack full: hashes lie everywhere in its table, so that each
/// time most of it is written anew. The pack is synced in smaller portions.
const NOTED_AT_ONCE: usize = 16_384;
/// What came longer ago is not to come again, however slowly the rest follows.
const NOTED_WITHIN: Duration = Duration::from_secs(5);

/// One run of additions.
pub struct Batch<'a> {
    store: &'a Store,
    writer: Option<Writer<'a>>,
    pending: HashMap<ContentHash, Location>,
    /// What must not be collected before this ends.
    held: HashSet<ContentHash>,
    /// Bytes that were found to be free and not used yet: the disk is asked once per portion.
    room: u64,
    /// When the index last noted what had come.
    noted: Instant,
}

impl<'a> Batch<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self {
            store,
            writer: None,
            pending: HashMap::new(),
            held: HashSet::new(),
            room: 0,
            noted: Instant::now(),
        }
    }

    /// Adds one content, checked against `hash` and `size` while it is written. One that is there already is read to
    /// its end and checked all the same. Says whether it was new.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] and [`StoreError::Source`] leave the batch as it was; after any other error the batch
    /// takes no further content, and what it did not make durable is taken back.
    pub fn put(&mut self, hash: &ContentHash, size: u64, content: &mut dyn Read) -> Result<bool, StoreError> {
        if self.has(hash)? {
            check(hash, size, content)?;
            return Ok(false);
        }
        self.require_room(size)?;
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.store.packs().writer()?,
        };
        let appended = writer.append(hash, size, content);
        let full = writer.is_full();
        self.writer = Some(writer);
        self.pending.insert(*hash, appended?);
        self.store.meter().count("receiving", size);
        if full || self.pending.len() >= NOTED_AT_ONCE || self.noted.elapsed() >= NOTED_WITHIN {
            self.sync()?;
            if full {
                self.writer = None;
            }
        }
        Ok(true)
    }

    /// Whether the content is in the store or in this batch; it stays so as long as the batch lasts.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn has(&mut self, hash: &ContentHash) -> Result<bool, StoreError> {
        self.hold(hash);
        Ok(self.pending.contains_key(hash) || self.store.has(hash)?)
    }

    /// Opens a content of this batch that is not durable yet; none when it is no such one.
    ///
    /// # Errors
    /// When what was put can't be written or read.
    pub fn open_unsynced(&mut self, hash: &ContentHash) -> Result<Option<Blob>, StoreError> {
        let (Some(location), Some(writer)) = (self.pending.get(hash), &mut self.writer) else {
            return Ok(None);
        };
        writer.flush()?;
        self.store.open_at(hash, *location).map(Some)
    }

    fn require_room(&mut self, size: u64) -> Result<(), StoreError> {
        if self.room < size {
            self.room = match self.store.require_free(size.saturating_add(PORTION_BYTES)) {
                Ok(()) => size.saturating_add(PORTION_BYTES),
                Err(StoreError::NoSpace { .. }) => {
                    self.store.require_free(size)?;
                    size
                }
                Err(error) => return Err(error),
            };
        }
        self.room -= size;
        Ok(())
    }

    fn hold(&mut self, hash: &ContentHash) {
        if self.held.insert(*hash) {
            self.store.0.holds.hold(hash);
        }
    }

    /// Makes all that was put durable.
    ///
    /// # Errors
    /// What was not durable before is not durable afterwards.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.commit(None)
    }

    /// Makes everything durable together with `proposal`: from then on this node has all that the generation needs,
    /// also after a crash, until it is released. Doing it again, or for a generation that is adopted already, is fine.
    ///
    /// # Errors
    /// When the base is not here, the changes do not lead to the digest, or a content is missing. Nothing is pinned then.
    pub fn pin(mut self, proposal: &Proposal) -> Result<Pinned, StoreError> {
        let _turn = self.store.turn()?;
        let chain = self.store.chain();
        let generation = &proposal.generation;
        let key = PinKey { epoch: generation.epoch, number: generation.number, digest: generation.digest };
        let pinned = Pinned { epoch: key.epoch, number: key.number, digest: key.digest };
        // An older one that comes from nothing is the head of a cluster in which what followed it here never was.
        let begins_anew = proposal.base == 0 && !chain.head_is(key.number, &key.digest);
        let is_adopted = chain.is_adopted(key.number, &key.digest) && !begins_anew;
        if is_adopted || chain.is_pinned(&key) {
            self.commit(None)?;
            return Ok(pinned);
        }
        let (pin, record) = self.store.prepare_pin(&chain, proposal)?;
        self.require_contents(proposal)?;
        self.commit(Some((key, &encode(&record)?)))?;
        self.store.set_chain(chain.with_pin(key, pin));
        Ok(pinned)
    }

    /// Every content of the proposal is here, and stays here as long as this batch lasts.
    fn require_contents(&mut self, proposal: &Proposal) -> Result<(), StoreError> {
        let files = proposal.changes.iter().filter_map(|change| match change.entry {
            Some(Entry::File { size, hash, .. }) => Some((hash, size)),
            _ => None,
        });
        let files: Vec<(ContentHash, u64)> = files.collect();
        files.iter().for_each(|(hash, _)| self.hold(hash));
        // Read only after all is held: what is there now stays.
        self.store.index().read(|txn| {
            let blobs = txn.open_table(BLOBS)?;
            for (hash, size) in &files {
                let held = match self.pending.get(hash) {
                    Some(location) => Some(location.size),
                    None if self.store.0.holds.is_doomed(hash) => None,
                    None => blobs.get(hash.0)?.map(|row| row.value().2),
                };
                if held != Some(*size) {
                    return Err(StoreError::Missing { hash: *hash });
                }
            }
            Ok(())
        })
    }

    fn commit(&mut self, pin: Option<(PinKey, &[u8])>) -> Result<(), StoreError> {
        if self.pending.is_empty() && pin.is_none() {
            return Ok(());
        }
        let mark = match &mut self.writer {
            Some(writer) if writer.unsettled() > 0 => {
                writer.sync()?;
                Some(writer.mark())
            }
            _ => None,
        };
        crash::point("store.before-index");
        let noted = self.store.index().write(|txn| {
            if let Some((number, length)) = mark {
                txn.open_table(PACKS)?.insert(number, length)?;
                let mut blobs = txn.open_table(BLOBS)?;
                // In order: each page of the table is touched once.
                let pending: BTreeMap<&ContentHash, &Location> = self.pending.iter().collect();
                for (hash, location) in pending {
                    blobs.insert(hash.0, (location.pack, location.offset, location.size))?;
                }
            }
            if let Some((key, record)) = pin {
                txn.open_table(PINS)?.insert((key.epoch, key.number, key.digest.0), record)?;
            }
            Ok(())
        });
        crash::point("store.after-index");
        if let Some(writer) = &mut self.writer {
            match noted {
                Ok(()) => writer.settle(),
                Err(_) => writer.leave(),
            }
        }
        noted?;
        self.noted = Instant::now();
        self.store.0.holds.renew(self.pending.keys());
        self.store.count_churn(self.pending.len() as u64);
        self.pending.clear();
        Ok(())
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.store.0.holds.release(&self.held);
    }
}

/// Reads a content that is there already.
fn check(hash: &ContentHash, size: u64, content: &mut dyn Read) -> Result<(), StoreError> {
    let mut hasher = blake3::Hasher::new();
    let read = std::io::copy(&mut content.take(size.saturating_add(1)), &mut hasher)
        .map_err(|source| StoreError::Source { hash: *hash, source })?;
    if read != size || hasher.finalize().as_bytes() != hash.as_bytes() {
        return Err(StoreError::Mismatch { hash: *hash, size });
    }
    Ok(())
}
