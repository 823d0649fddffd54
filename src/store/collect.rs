//! Collection: removes contents that nothing needs any more and gives their disk space back, in small portions.
//!
//! Needed is what the head, a kept generation, a pin or a running operation (`hold`) has. One cycle goes through all
//! contents by hash, then through every pack of which a good part is of no use: what is still needed there is copied
//! to another pack, and the pack is removed. Invariants: a content's row names bytes that are durable, at every step;
//! a pack goes only after no row names it; a reader that has a pack open reads on.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redb::ReadableTable;

use crate::crash;
use crate::model::{ContentHash, unix_ms, with_causes};
use crate::store::blob::Blob;
use crate::store::chain::Chain;
use crate::store::index::{BLOBS, COMMITTED, PACKS, STEPS, decode};
use crate::store::pack::{HEADER_BYTES, Location};
use crate::store::rows::Step;
use crate::store::{Store, StoreError};

/// Contents that are looked at in one step.
const LOOKED_AT: usize = 16 << 10;
/// Contents that are removed in one step.
const REMOVED: usize = 512;
/// Bytes that are copied in one step, unless a single content is larger.
const COPIED_BYTES: u64 = 1 << 20;
/// Records of a pack that are passed in one step.
const PASSED: usize = 4096;
/// A pack stays as it is while less than this of it is of no use, or less than a third.
const WASTE_BYTES_MIN: u64 = 128 << 10;
/// A cycle is worth its while after so many contents came or went, and after an eighth of all.
const CHURN_MIN: u64 = 256;
/// After this many looks that a publish came in between, publishes wait for one.
const UNDISTURBED: u32 = 4;
/// When packs that a cycle had to leave as they are get another one, whatever came or went meanwhile.
const SKIPPED_AGAIN: Duration = Duration::from_secs(60);
/// How often what applying noted is looked through.
const SECONDS_EVERY_MS: i64 = 24 * 3600 * 1000;

/// What one cycle did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Contents that were removed.
    pub contents: u64,
    /// Packs that were removed.
    pub packs: u64,
    /// Bytes of these packs that were copied to others.
    pub copied_bytes: u64,
}

/// One cycle under way. Dropping it at any step is fine.
pub struct Collector {
    store: Store,
    phase: Phase,
    /// What the packs held when the cycle began, and how much of that is needed.
    packs: BTreeMap<u32, Pack>,
    seen: u64,
    churn: u64,
    /// A pack was being written, or could not be emptied: another cycle is due a while later.
    skipped: bool,
    done: Collected,
}

#[derive(Clone, Copy, Default)]
struct Pack {
    length: u64,
    needed: u64,
}

enum Phase {
    /// Looks at the contents after this hash.
    Look(Option<[u8; 32]>, u32),
    /// Removes these, then looks on.
    Remove(Vec<(ContentHash, Location)>, Option<[u8; 32]>),
    /// Empties these packs, the last one first.
    Empty(Vec<u32>),
    /// Copies what is needed of a pack from this offset on.
    Copy { pack: u32, at: u64, length: u64, rest: Vec<u32> },
}

impl Store {
    /// Whether enough came and went for a cycle to be worth its while; true after a start.
    #[must_use]
    pub fn is_collection_due(&self) -> bool {
        let contents = self.0.contents.load(Ordering::Relaxed);
        let again = *self.0.collect_again.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.churn.load(Ordering::Relaxed) >= CHURN_MIN.max(contents / 8)
            || again.is_some_and(|again| again <= Instant::now())
    }

    /// Begins a cycle; one at a time.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn collector(&self) -> Result<Collector, StoreError> {
        let packs = self.index().read(|txn| {
            let mut packs = BTreeMap::new();
            for item in txn.open_table(PACKS)?.iter()? {
                let (number, length) = item?;
                packs.insert(number.value(), Pack { length: length.value(), needed: 0 });
            }
            Ok(packs)
        })?;
        let churn = self.0.churn.load(Ordering::Relaxed);
        let (phase, done) = (Phase::Look(None, 0), Collected::default());
        Ok(Collector { store: self.clone(), phase, packs, seen: 0, churn, skipped: false, done })
    }

    pub(super) fn count_churn(&self, contents: u64) {
        self.0.churn.fetch_add(contents, Ordering::Relaxed);
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.store.0.holds.spare();
        if let Phase::Copy { pack, .. } = self.phase {
            self.store.packs().unclaim(pack);
        }
    }
}

impl Collector {
    /// Does the next portion. None while more is left.
    ///
    /// # Errors
    /// Nothing is lost then, and another cycle may begin.
    pub fn step(&mut self) -> Result<Option<Collected>, StoreError> {
        match std::mem::replace(&mut self.phase, Phase::Empty(Vec::new())) {
            Phase::Look(after, tries) => self.phase = self.look(after, tries)?,
            Phase::Remove(mut garbage, after) => {
                let rest = garbage.split_off(garbage.len().min(REMOVED));
                self.remove(&garbage)?;
                self.phase = match rest.is_empty() {
                    false => Phase::Remove(rest, after),
                    true => {
                        self.store.0.holds.spare();
                        self.after_look(after)
                    }
                };
            }
            Phase::Empty(mut packs) => {
                let Some(pack) = packs.pop() else { return self.finish().map(Some) };
                let length = match self.store.packs().claim(pack) {
                    true => self.length_of(pack)?,
                    false => {
                        self.skipped = true;
                        None
                    }
                };
                self.phase = match length {
                    Some(length) => Phase::Copy { pack, at: 0, length, rest: packs },
                    None => Phase::Empty(packs),
                };
            }
            Phase::Copy { pack, at, length, rest } => {
                self.phase = Phase::Copy { pack, at, length, rest: Vec::new() };
                self.phase = match self.copy(pack, at, length) {
                    Ok(Some(at)) => Phase::Copy { pack, at, length, rest },
                    Ok(None) => Phase::Empty(rest),
                    Err(error) if error.is_fatal() => return Err(error),
                    // On a full disk another pack may go without a copy; a pack that can't be read stays.
                    Err(error) => {
                        tracing::warn!(pack, error = with_causes(&error), "a pack could not be emptied");
                        self.skipped = true;
                        self.store.packs().unclaim(pack);
                        Phase::Empty(rest)
                    }
                };
            }
        }
        Ok(None)
    }

    /// Finds out which of the next contents nothing needs.
    fn look(&mut self, after: Option<[u8; 32]>, tries: u32) -> Result<Phase, StoreError> {
        let store = self.store.clone();
        let _turn = (tries >= UNDISTURBED || !store.is_current()).then(|| store.turn()).transpose()?;
        // Before the index is read: what was dropped from it in between only makes this see more as needed.
        let chain = store.chain();
        let (mut unneeded, last) = store.index().read(|txn| {
            let table = txn.open_table(BLOBS)?;
            let from = match &after {
                Some(after) => table.range::<[u8; 32]>((
                    std::ops::Bound::Excluded(*after),
                    std::ops::Bound::<[u8; 32]>::Unbounded,
                ))?,
                None => table.range::<[u8; 32]>(..)?,
            };
            let (mut rows, mut last) = (HashMap::new(), None);
            for item in from.take(LOOKED_AT) {
                let (hash, value) = item?;
                let (pack, offset, size) = value.value();
                last = Some(hash.value());
                rows.insert(ContentHash(hash.value()), Location { pack, offset, size });
            }
            Ok((rows, last))
        })?;
        let all = unneeded.len();
        let rows: Vec<(ContentHash, Location)> = unneeded.iter().map(|(hash, at)| (*hash, *at)).collect();
        store.strike_needed(&chain, &mut unneeded)?;
        let unchanged = || std::sync::Arc::ptr_eq(&chain, &store.chain()) && store.is_current();
        let Some(doomed) = store.0.holds.doom(unneeded.into_keys(), unchanged) else {
            return Ok(Phase::Look(after, tries + 1));
        };
        self.seen += (all - doomed.len()) as u64;
        for (_, at) in rows.iter().filter(|(hash, _)| !doomed.contains(hash)) {
            if let Some(pack) = self.packs.get_mut(&at.pack).filter(|pack| at.offset < pack.length) {
                pack.needed += HEADER_BYTES + at.size;
            }
        }
        let after = last.filter(|_| all == LOOKED_AT);
        if doomed.is_empty() {
            return Ok(self.after_look(after));
        }
        let garbage = rows.into_iter().filter(|(hash, _)| doomed.contains(hash)).collect();
        Ok(Phase::Remove(garbage, after))
    }

    fn after_look(&self, after: Option<[u8; 32]>) -> Phase {
        if after.is_some() {
            return Phase::Look(after, 0);
        }
        let waste = |pack: &Pack| pack.length.saturating_sub(pack.needed);
        // Those of which nothing is needed go first: that takes no room, and makes some for the others.
        let mut wasteful: Vec<(bool, u64, u32)> = self
            .packs
            .iter()
            .filter(|(_, pack)| waste(pack) >= WASTE_BYTES_MIN && waste(pack) * 3 >= pack.length)
            .map(|(number, pack)| (pack.needed == 0, waste(pack), *number))
            .collect();
        wasteful.sort_unstable();
        Phase::Empty(wasteful.into_iter().map(|(.., number)| number).collect())
    }

    fn remove(&mut self, garbage: &[(ContentHash, Location)]) -> Result<(), StoreError> {
        let removed = self.store.index().write(|txn| {
            let mut blobs = txn.open_table(BLOBS)?;
            let mut committed = txn.open_table(COMMITTED)?;
            let mut removed = 0;
            for (hash, at) in garbage {
                // Put again meanwhile: that one stays.
                let same = blobs.get(hash.0)?.is_some_and(|now| now.value() == (at.pack, at.offset, at.size));
                if same {
                    blobs.remove(hash.0)?;
                    committed.remove(hash.0)?;
                    removed += 1;
                }
            }
            Ok(removed)
        })?;
        self.done.contents += removed;
        crash::point("collect.removed");
        Ok(())
    }

    fn length_of(&self, pack: u32) -> Result<Option<u64>, StoreError> {
        self.store.index().read(|txn| Ok(txn.open_table(PACKS)?.get(pack)?.map(|length| length.value())))
    }

    /// Copies the next portion of a claimed pack; none once nothing is left and the pack is gone.
    fn copy(&mut self, pack: u32, at: u64, length: u64) -> Result<Option<u64>, StoreError> {
        let store = self.store.clone();
        let (next, needed) = self.needed_from(pack, at, length)?;
        if !needed.is_empty() {
            let bytes: u64 = needed.iter().map(|(_, from)| from.size).sum();
            // It gives room back in the end, so it may use some of what additions leave.
            store.packs().room_for(bytes, store.reserve() / 2)?;
            let mut writer = store.packs().writer()?;
            let mut moves = Vec::with_capacity(needed.len());
            for (hash, from) in needed {
                let path = store.packs().path(pack);
                let file = Arc::new(store.packs().open_pack(pack)?);
                let blob = Blob::open(file, &hash, from).map_err(StoreError::io("read", &path))?;
                let appended = match blob {
                    Some(mut blob) => writer.append(&hash, from.size, &mut blob),
                    None => Err(StoreError::Damaged { hash, pack: path }),
                };
                match appended {
                    Ok(to) => moves.push((hash, from, to)),
                    Err(error) if error.is_damage() => store.forget(&hash)?,
                    Err(error) => return Err(error),
                }
            }
            writer.sync()?;
            crash::point("collect.copied");
            let (number, end) = writer.mark();
            let noted = store.index().write(|txn| {
                let mut blobs = txn.open_table(BLOBS)?;
                for (hash, from, to) in &moves {
                    let same = blobs
                        .get(hash.0)?
                        .is_some_and(|now| now.value() == (from.pack, from.offset, from.size));
                    if same {
                        blobs.insert(hash.0, (to.pack, to.offset, to.size))?;
                    }
                }
                txn.open_table(PACKS)?.insert(number, end)?;
                Ok(())
            });
            match noted {
                Ok(()) => writer.settle(),
                Err(_) => writer.leave(),
            }
            noted?;
            crash::point("collect.moved");
            self.done.copied_bytes += bytes;
        }
        if next < length {
            return Ok(Some(next));
        }
        store.index().write(|txn| {
            txn.open_table(PACKS)?.remove(pack)?;
            Ok(())
        })?;
        crash::point("collect.before-unlink");
        let path = store.packs().path(pack);
        fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        store.packs().unclaim(pack);
        self.done.packs += 1;
        Ok(None)
    }

    /// The next needed records of a pack, and where to go on.
    fn needed_from(
        &self,
        pack: u32,
        mut at: u64,
        length: u64,
    ) -> Result<(u64, Vec<(ContentHash, Location)>), StoreError> {
        let mut records = self.store.packs().records(pack)?;
        self.store.index().read(|txn| {
            let table = txn.open_table(BLOBS)?;
            let (mut needed, mut bytes) = (Vec::new(), 0);
            for _ in 0..PASSED {
                if at >= length || bytes >= COPIED_BYTES {
                    break;
                }
                let (hash, size) = records.at(at)?;
                let here = (pack, at, size);
                if table.get(hash.0)?.is_some_and(|row| row.value() == here) {
                    needed.push((hash, Location { pack, offset: at, size }));
                    bytes += size;
                }
                at += HEADER_BYTES + size;
            }
            Ok((at, needed))
        })
    }

    fn finish(&mut self) -> Result<Collected, StoreError> {
        self.store.0.contents.store(self.seen, Ordering::Relaxed);
        self.store.0.churn.fetch_sub(self.churn, Ordering::Relaxed);
        *self.store.0.collect_again.lock().unwrap_or_else(PoisonError::into_inner) =
            self.skipped.then(|| Instant::now() + SKIPPED_AGAIN);
        let now = unix_ms();
        if now - self.store.0.pruned_ms.load(Ordering::Relaxed) >= SECONDS_EVERY_MS {
            self.store.0.pruned_ms.store(now, Ordering::Relaxed);
            self.store.prune_seconds(now)?;
        }
        Ok(self.done)
    }
}

impl Store {
    /// Takes out of `contents` what the head, a kept generation or a pin has.
    fn strike_needed(
        &self,
        chain: &Chain,
        contents: &mut HashMap<ContentHash, Location>,
    ) -> Result<(), StoreError> {
        let forests =
            chain.head.iter().map(|head| &head.forest).chain(chain.pins.values().map(|pin| &pin.forest));
        for hash in forests.flat_map(|forest| forest.contents()) {
            contents.remove(&hash);
        }
        self.index().read(|txn| {
            let stored = txn.open_table(STEPS)?;
            for (number, (_, before)) in &chain.kept {
                // What was there before is a kept generation's only if that one is kept.
                if !chain.kept.contains_key(before) {
                    continue;
                }
                let Some(steps) = stored.get(number)? else { continue };
                let steps: Vec<Step> = decode("the changes of a generation", steps.value())?;
                for old in steps.iter().filter_map(|step| step.old.as_ref()?.entry.content()) {
                    contents.remove(&old);
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
