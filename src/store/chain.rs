//! Generations: those that are pinned, those that were adopted, and the way back through the latter.
//!
//! The head lies in the index as one row per place; each adopted generation adds the rows that it changed, with what
//! was there before, so that an older one is the head with those undone, and a restart reads the head as it is.
//! Invariant: the rows, the head's record and the newest step are written in one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redb::{ReadTransaction, ReadableTable};
use serde::{Deserialize, Serialize};

use crate::model::{
    ArtifactPath, Change, ContentHash, Digest, Edit, Entry, Epoch, FileTime, Forest, Generation, Place,
    Proposal, RootName, Rules,
};
use crate::plan::Matcher;
use crate::store::index::{COMMITTED, GENERATIONS, PINS, STEPS, TREE, decode, encode, put_meta};
use crate::store::rows::{Row, Step, change_rows, row};
use crate::store::{Store, StoreError};

/// How many paths a history entry names.
const HISTORY_PATHS_MAX: usize = 20;

/// The newest adopted generation with all its places.
#[derive(Debug)]
pub struct Adopted {
    /// The generation.
    pub generation: Generation,
    /// Its rules.
    pub rules: Rules,
    /// What is in its roots.
    pub forest: Forest,
}

/// What is held durably for a generation that may be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The epoch in which it was made.
    pub epoch: Epoch,
    /// Its number.
    pub number: u64,
    /// Its digest.
    pub digest: Digest,
}

/// One adopted generation as `syncd history` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The generation.
    pub generation: Generation,
    /// Places that are new.
    pub added: u64,
    /// Places whose entry is another.
    pub changed: u64,
    /// Places that are gone.
    pub removed: u64,
    /// Some of these places.
    pub paths: Vec<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PinKey {
    pub(super) epoch: Epoch,
    pub(super) number: u64,
    pub(super) digest: Digest,
}

/// A pin as it is needed in memory.
#[derive(Clone, Debug)]
pub(super) struct Pin {
    base: u64,
    base_digest: Option<Digest>,
    pub(super) forest: Forest,
}

/// A pin as it lies in the index. The base's digest tells which of several pins of one number it is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PinRecord {
    base_digest: Option<Digest>,
    proposal: Proposal,
}

/// An adopted generation as it lies in the index.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct GenerationRecord {
    entry: HistoryEntry,
    rules: Rules,
    /// The generation that was the head before it; 0 where the kept history begins.
    before: u64,
}

/// What is known of the generations, in memory.
#[derive(Clone, Default)]
pub(super) struct Chain {
    pub(super) head: Option<Arc<Adopted>>,
    pub(super) pins: BTreeMap<PinKey, Arc<Pin>>,
    /// The adopted generations that can still be told: number to digest and the one before.
    pub(super) kept: BTreeMap<u64, (Digest, u64)>,
    /// How often the index had been opened again when this was read from it.
    pub(super) reopened: u64,
}

impl Chain {
    pub(super) fn is_adopted(&self, number: u64, digest: &Digest) -> bool {
        self.kept.get(&number).is_some_and(|(kept, _)| kept == digest)
    }

    pub(super) fn is_pinned(&self, key: &PinKey) -> bool {
        self.pins.contains_key(key)
    }

    pub(super) fn with_pin(&self, key: PinKey, pin: Pin) -> Self {
        let mut chain = self.clone();
        chain.pins.insert(key, Arc::new(pin));
        chain
    }

    fn find(&self, number: u64, digest: &Digest) -> Option<PinKey> {
        self.pins.keys().rev().find(|key| key.number == number && key.digest == *digest).copied()
    }

    /// The pin to be adopted next on the way to this generation: the oldest that it is built on and that is newer than
    /// the head.
    fn next_towards(&self, number: u64, digest: &Digest) -> Option<PinKey> {
        let mut key = self.find(number, digest)?;
        loop {
            let pin = &self.pins[&key];
            match pin.base_digest.and_then(|digest| self.find(pin.base, &digest)) {
                Some(below) if below.number < key.number && self.is_ahead(below.number) => key = below,
                _ => return Some(key),
            }
        }
    }

    /// The pins that nothing leads to any more once `adopted` replaced the whole history.
    fn orphans_of(&self, adopted: PinKey) -> Vec<PinKey> {
        let is_founded = |key: &PinKey| {
            let mut next = Some(*key);
            for _ in 0..=self.pins.len() {
                let Some(key) = next.filter(|key| *key != adopted) else { return next.is_some() };
                let pin = &self.pins[&key];
                let Some(digest) = pin.base_digest else { return true };
                next = self.find(pin.base, &digest);
            }
            false
        };
        self.pins.keys().filter(|key| !is_founded(key)).copied().collect()
    }

    fn is_ahead(&self, number: u64) -> bool {
        self.head.as_ref().is_none_or(|head| head.generation.number < number)
    }

    pub(super) fn head_is(&self, number: u64, digest: &Digest) -> bool {
        self.head
            .as_ref()
            .is_some_and(|head| head.generation.number == number && head.generation.digest == *digest)
    }
}

/// A generation with the modification times that differ from the head's rows.
pub(super) struct View {
    generation: Generation,
    pub(super) rules: Rules,
    pub(super) forest: Forest,
    pub(super) times: BTreeMap<Place, Option<FileTime>>,
}

impl Store {
    /// Reads the head and rebuilds the pins; the forest of each must have the digest that was promised.
    pub(super) fn load_chain(&self) -> Result<Chain, StoreError> {
        let mut chain = Chain { reopened: self.index().reopened(), ..Chain::default() };
        let head: Option<(u64, Digest)> = self.index().meta("head")?;
        self.index().read(|txn| {
            for item in txn.open_table(GENERATIONS)?.iter()? {
                let record: GenerationRecord = decode("a generation", item?.1.value())?;
                let generation = &record.entry.generation;
                chain.kept.insert(generation.number, (generation.digest, record.before));
            }
            let Some((number, digest)) = head else { return Ok(()) };
            let record =
                record(txn, number)?.ok_or_else(|| StoreError::corrupt("the head's record is missing"))?;
            let mut rows = Vec::new();
            for item in txn.open_table(TREE)?.iter()? {
                let (key, row) = item?;
                let (root, path) = key.value();
                let path = ArtifactPath::new(path)
                    .map_err(|error| StoreError::corrupt(format!("a place of the head: {error}")))?;
                let row: Row = decode("a place", row.value())?;
                rows.push((Place { root: RootName::new(root), path }, Some(row.entry)));
            }
            let forest = build(number, &Forest::default(), &record.rules, rows)?;
            if forest.digest() != digest || record.entry.generation.digest != digest {
                return Err(StoreError::corrupt(format!("the head {number} has not the digest {digest}")));
            }
            let generation = record.entry.generation;
            chain.head = Some(Arc::new(Adopted { generation, rules: record.rules, forest }));
            Ok(())
        })?;
        let pins: Vec<PinRecord> = self.index().read(|txn| {
            txn.open_table(PINS)?.iter()?.map(|item| decode("a pin", item?.1.value())).collect()
        })?;
        self.rebuild_pins(&mut chain, pins)?;
        Ok(chain)
    }

    /// A pin may build on another one, whatever their epochs: as long as one finds its base, go on.
    fn rebuild_pins(&self, chain: &mut Chain, mut waiting: Vec<PinRecord>) -> Result<(), StoreError> {
        while !waiting.is_empty() {
            let before = waiting.len();
            let mut rest = Vec::new();
            for record in waiting {
                let Some(base) = self.base_of(chain, record.proposal.base, record.base_digest)? else {
                    rest.push(record);
                    continue;
                };
                let generation = &record.proposal.generation;
                let forest =
                    build(generation.number, &base, &record.proposal.rules, edits(&record.proposal))?;
                if forest.digest() != generation.digest {
                    return Err(StoreError::corrupt(format!("the pin of generation {}", generation.number)));
                }
                let key =
                    PinKey { epoch: generation.epoch, number: generation.number, digest: generation.digest };
                let (base, base_digest) = (record.proposal.base, record.base_digest);
                chain.pins.insert(key, Arc::new(Pin { base, base_digest, forest }));
            }
            if rest.len() == before {
                return Err(StoreError::corrupt("a pin builds on a generation that is not here"));
            }
            waiting = rest;
        }
        Ok(())
    }

    fn base_of(
        &self,
        chain: &Chain,
        base: u64,
        digest: Option<Digest>,
    ) -> Result<Option<Forest>, StoreError> {
        let Some(digest) = digest else { return Ok(Some(Forest::default())) };
        if let Some(key) = chain.find(base, &digest) {
            return Ok(Some(chain.pins[&key].forest.clone()));
        }
        if !chain.is_adopted(base, &digest) {
            return Ok(None);
        }
        Ok(self.undo(chain.head.clone(), base, &digest)?.map(|view| view.forest))
    }

    /// Checks that `proposal` leads from a base that is here to its digest.
    pub(super) fn prepare_pin(
        &self,
        chain: &Chain,
        proposal: &Proposal,
    ) -> Result<(Pin, PinRecord), StoreError> {
        let (number, digest, base) = (proposal.generation.number, proposal.generation.digest, proposal.base);
        refuse_excluded(proposal)?;
        let mut digests: Vec<Option<Digest>> = if base == 0 { vec![None] } else { Vec::new() };
        digests.extend(chain.kept.get(&base).map(|(digest, _)| Some(*digest)));
        digests.extend(chain.pins.keys().rev().filter(|key| key.number == base).map(|key| Some(key.digest)));
        let mut outcome = Err(StoreError::UnknownBase { number, base });
        for base_digest in digests {
            let Some(forest) = self.base_of(chain, base, base_digest)? else { continue };
            outcome = build(number, &forest, &proposal.rules, edits(proposal)).and_then(|forest| {
                if forest.digest() != digest {
                    return Err(StoreError::WrongDigest { number, digest });
                }
                let record = PinRecord { base_digest, proposal: proposal.clone() };
                Ok((Pin { base, base_digest, forest }, record))
            });
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// The generations that are held durably and not adopted.
    #[must_use]
    pub fn pins(&self) -> Vec<Pinned> {
        let pinned = |key: &PinKey| Pinned { epoch: key.epoch, number: key.number, digest: key.digest };
        self.chain().pins.keys().map(pinned).collect()
    }

    /// Whether exactly this generation is pinned here. Once it is adopted it is not any more.
    #[must_use]
    pub fn is_pinned(&self, epoch: Epoch, number: u64, digest: &Digest) -> bool {
        self.chain().is_pinned(&PinKey { epoch, number, digest: *digest })
    }

    /// The head of this store: the newest generation that was adopted.
    #[must_use]
    pub fn head(&self) -> Option<Arc<Adopted>> {
        self.chain().head.clone()
    }

    /// The log has committed this generation: its pin becomes the head and part of the history. None when it
    /// is not pinned here. Pinned generations between the head and it are adopted on the way.
    ///
    /// A pin that was built from nothing replaces a history that is there: it may be another cluster's.
    ///
    /// # Errors
    /// [`StoreError::Backwards`] when a newer generation of the same history is the head; the head stays.
    pub fn adopt(&self, number: u64, digest: &Digest) -> Result<Option<Arc<Adopted>>, StoreError> {
        let _turn = self.turn()?;
        loop {
            let chain = self.chain();
            if chain.head_is(number, digest) {
                return Ok(chain.head.clone());
            }
            let Some(key) = chain.next_towards(number, digest) else { return Ok(None) };
            match self.adopt_one(&chain, key)? {
                Some(chain) => self.set_chain(chain),
                None => self.catch_up()?,
            }
        }
    }

    /// Only for whoever has the turn: a failed write loses what was adopted since the last durable change, and the index
    /// was opened again without it. Its pin is back, and it is adopted anew; until then the former head stays.
    ///
    /// # Errors
    /// When the index cannot be read or written.
    pub(super) fn catch_up(&self) -> Result<(), StoreError> {
        'again: while !self.is_current() {
            let mut chain = self.load_chain()?;
            if let Some(head) = self.head().as_ref().map(|head| &head.generation) {
                while !chain.head_is(head.number, &head.digest)
                    && let Some(key) = chain.next_towards(head.number, &head.digest)
                {
                    let Some(next) = self.adopt_one(&chain, key)? else { continue 'again };
                    chain = next;
                }
            }
            self.set_chain(chain);
        }
        Ok(())
    }

    /// None when the index was opened again since `chain` was read from it.
    fn adopt_one(&self, chain: &Chain, key: PinKey) -> Result<Option<Chain>, StoreError> {
        let pin = Arc::clone(&chain.pins[&key]);
        let old = chain.head.clone();
        let replaces = pin.base_digest.is_none();
        if let Some(old) = old.as_ref().filter(|old| !replaces && old.generation.number >= key.number) {
            return Err(StoreError::Backwards { number: key.number, head: old.generation.number });
        }
        let pin_record: PinRecord = self.index().read(|txn| {
            let table = txn.open_table(PINS)?;
            let bytes = table.get((key.epoch, key.number, key.digest.0))?;
            let bytes = bytes.ok_or_else(|| StoreError::corrupt("a pin's record is missing"))?;
            decode("a pin", bytes.value())
        })?;
        let base = pin_record.base_digest.map(|digest| (pin_record.proposal.base, digest));
        // Times of places that differ from the head, but not from the older base that the pin was built on.
        let base_times = match base {
            Some((base, digest)) if !chain.head_is(base, &digest) => {
                self.view(base, &digest)?.map(|view| view.times).unwrap_or_default()
            }
            _ => BTreeMap::new(),
        };
        let Proposal { generation, rules, changes, .. } = pin_record.proposal;
        let times: BTreeMap<Place, Option<FileTime>> =
            changes.into_iter().map(|change| (change.place, change.mtime)).collect();
        let empty = Forest::default();
        let differing = all_edits(old.as_ref().map_or(&empty, |old| &old.forest), &pin.forest);
        let before = if replaces { 0 } else { old.as_ref().map_or(0, |old| old.generation.number) };
        let needed = chain.pins.iter().filter(|(other, _)| **other != key).map(|(_, pin)| pin.base).min();
        let entry = history_entry(generation.clone(), &differing);
        let orphans = if replaces { chain.orphans_of(key) } else { Vec::new() };

        self.count_churn(differing.len() as u64);
        // Its pin is durable and goes in the same step; what a crash takes back is adopted again from the log. The next
        // durable change, at the latest the record of the apply, makes this one durable too.
        let dropped = self.index().write_later(chain.reopened, |txn| {
            let steps = change_rows(txn, differing, |place| {
                times.get(place).or_else(|| base_times.get(place)).copied().flatten()
            })?;
            let mut dropped = Vec::new();
            let mut generations = txn.open_table(GENERATIONS)?;
            let mut stored = txn.open_table(STEPS)?;
            if replaces {
                dropped.extend(chain.kept.keys().copied());
            } else {
                let keep = self.history_length() - 1;
                let excess = chain.kept.len().saturating_sub(keep);
                dropped.extend(
                    chain.kept.keys().take(excess).filter(|n| needed.is_none_or(|needed| **n < needed)),
                );
            }
            for number in &dropped {
                generations.remove(number)?;
                stored.remove(number)?;
            }
            let record = GenerationRecord { entry, rules: rules.clone(), before };
            generations.insert(key.number, encode(&record)?.as_slice())?;
            if before > 0 {
                stored.insert(key.number, encode(&steps)?.as_slice())?;
            }
            let mut committed = txn.open_table(COMMITTED)?;
            let mut brought: Vec<ContentHash> =
                steps.iter().filter_map(|step| step.new.as_ref()?.entry.content()).collect();
            if replaces {
                // What only the replaced history had is nobody's version any more: where it still lies, it is kept.
                committed.retain(|_, _| false)?;
                brought = all_edits(&empty, &pin.forest)
                    .iter()
                    .filter_map(|edit| edit.new.as_ref().and_then(Entry::content))
                    .collect();
            }
            // In order: each page of the table is touched once.
            brought.sort_unstable();
            for hash in brought {
                if committed.get(hash.0)?.is_none() {
                    committed.insert(hash.0, key.number)?;
                }
            }
            let mut pins = txn.open_table(PINS)?;
            for key in orphans.iter().chain([&key]) {
                pins.remove((key.epoch, key.number, key.digest.0))?;
            }
            put_meta(txn, "head", &(key.number, key.digest))?;
            Ok(dropped)
        })?;
        let Some(dropped) = dropped else { return Ok(None) };
        let mut chain = chain.clone();
        for number in dropped {
            chain.kept.remove(&number);
        }
        chain.kept.insert(key.number, (key.digest, before));
        chain.pins.retain(|other, _| *other != key && !orphans.contains(other));
        chain.head = Some(Arc::new(Adopted { generation, rules, forest: pin.forest.clone() }));
        Ok(Some(chain))
    }

    /// Drops pins that can never be committed: those of an epoch before `epoch`, and those up to `number`. Only who has
    /// seen in its own applied log that such an epoch or generation is in force may say so. One that another pin is
    /// built on stays with it.
    ///
    /// # Errors
    /// When the index cannot be written; all pins stay then.
    pub fn release(&self, epoch: Epoch, number: u64) -> Result<(), StoreError> {
        let _turn = self.turn()?;
        let chain = self.chain();
        let mut stay: BTreeSet<PinKey> = BTreeSet::new();
        for key in chain.pins.keys().filter(|key| key.epoch >= epoch && key.number > number) {
            let mut next = Some(*key);
            while let Some(key) = next.filter(|key| stay.insert(*key)) {
                let pin = &chain.pins[&key];
                next = pin.base_digest.and_then(|digest| chain.find(pin.base, &digest));
            }
        }
        let go: Vec<PinKey> = chain.pins.keys().filter(|key| !stay.contains(key)).copied().collect();
        if go.is_empty() {
            return Ok(());
        }
        self.count_churn(go.len() as u64);
        self.index().write(|txn| {
            let mut pins = txn.open_table(PINS)?;
            for key in &go {
                pins.remove((key.epoch, key.number, key.digest.0))?;
            }
            Ok(())
        })?;
        let mut chain = Chain::clone(&chain);
        chain.pins.retain(|key, _| stay.contains(key));
        self.set_chain(chain);
        Ok(())
    }

    /// All places of a generation: the head, one of the kept history, or a pinned one (of the newest epoch, if several
    /// of this number are pinned).
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn forest_of(&self, number: u64) -> Result<Option<Forest>, StoreError> {
        let (head, digest) = {
            let chain = self.chain();
            let Some((digest, _)) = chain.kept.get(&number) else {
                let pin = chain.pins.iter().rev().find(|(key, _)| key.number == number);
                return Ok(pin.map(|(_, pin)| pin.forest.clone()));
            };
            (chain.head.clone(), *digest)
        };
        Ok(self.undo(head, number, &digest)?.map(|view| view.forest))
    }

    /// What leads from generation `have` to generation `want`, which is adopted or pinned here: a proposal whose base
    /// is `have` if this store knows it with that digest, else 0, which means from nothing. None when `want` is unknown.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn changes_between(
        &self,
        have: u64,
        have_digest: &Digest,
        want: u64,
        want_digest: &Digest,
    ) -> Result<Option<Proposal>, StoreError> {
        let Some(to) = self.view(want, want_digest)? else { return Ok(None) };
        let known = if have == 0 { None } else { self.view(have, have_digest)? };
        let (base, from) = match known {
            Some(view) => (have, view.forest),
            None => (0, Forest::default()),
        };
        let from = from.under(&to.rules);
        let mut changes = Vec::new();
        self.index().read(|txn| {
            let tree = txn.open_table(TREE)?;
            for edit in from.edits(&to.forest) {
                let mtime = match (&edit.new, to.times.get(&edit.place)) {
                    (Some(Entry::File { .. }), Some(time)) => *time,
                    (Some(Entry::File { .. }), None) => row(&tree, &edit.place)?.and_then(|row| row.mtime),
                    _ => None,
                };
                changes.push(Change { place: edit.place, entry: edit.new, mtime });
            }
            Ok(())
        })?;
        Ok(Some(Proposal { generation: to.generation, base, rules: to.rules, changes }))
    }

    pub(super) fn view(&self, number: u64, digest: &Digest) -> Result<Option<View>, StoreError> {
        let (head, key) = {
            let chain = self.chain();
            (chain.head.clone(), chain.find(number, digest))
        };
        let Some(key) = key else { return self.undo(head, number, digest) };
        let found = self.index().read(|txn| {
            let table = txn.open_table(PINS)?;
            let bytes = table.get((key.epoch, key.number, key.digest.0))?;
            bytes.map(|bytes| decode::<PinRecord>("a pin", bytes.value())).transpose()
        })?;
        // Adopted or released meanwhile.
        let Some(found) = found else { return self.undo(self.head(), number, digest) };
        let base = found.proposal.base;
        let below = match found.base_digest {
            Some(digest) => self.view(base, &digest)?,
            None => None,
        };
        let (forest, mut times) = match below {
            Some(view) => (view.forest, view.times),
            None if found.base_digest.is_some() => return Ok(None),
            None => (Forest::default(), BTreeMap::new()),
        };
        let Proposal { generation, rules, changes, .. } = found.proposal;
        let edits = changes.iter().map(|change| (change.place.clone(), change.entry.clone()));
        let forest = build(number, &forest, &rules, edits)?;
        times.extend(changes.into_iter().map(|change| (change.place, change.mtime)));
        Ok(Some(View { generation, rules, forest, times }))
    }

    /// Walks back from `head`. None when the generation is not in the kept history with that digest.
    fn undo(
        &self,
        head: Option<Arc<Adopted>>,
        number: u64,
        digest: &Digest,
    ) -> Result<Option<View>, StoreError> {
        let Some(head) = head else { return Ok(None) };
        self.index().read(|txn| {
            let mut view = View {
                generation: head.generation.clone(),
                rules: head.rules.clone(),
                forest: head.forest.clone(),
                times: BTreeMap::new(),
            };
            let stored = txn.open_table(STEPS)?;
            while view.generation.number > number {
                let Some(own) = record(txn, view.generation.number)? else { return Ok(None) };
                let Some(before) = record(txn, own.before)? else { return Ok(None) };
                let Some(steps) = stored.get(view.generation.number)? else { return Ok(None) };
                let steps: Vec<Step> = decode("the changes of a generation", steps.value())?;
                let back = steps
                    .iter()
                    .map(|step| (step.place.clone(), step.old.as_ref().map(|row| row.entry.clone())));
                let forest =
                    view.forest.with(back).map_err(|error| StoreError::corrupt(error.to_string()))?;
                view.forest = forest.under(&before.rules);
                view.times
                    .extend(steps.into_iter().map(|step| (step.place, step.old.and_then(|row| row.mtime))));
                (view.generation, view.rules) = (before.entry.generation, before.rules);
            }
            let right = view.generation.number == number && view.forest.digest() == *digest;
            Ok(right.then_some(view))
        })
    }

    /// The newest generations, newest first, at most `count`.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn history(&self, count: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        self.index().read(|txn| {
            let table = txn.open_table(GENERATIONS)?;
            let newest = table.iter()?.rev().take(count);
            newest
                .map(|item| Ok(decode::<GenerationRecord>("a generation", item?.1.value())?.entry))
                .collect()
        })
    }

    /// Whether some adopted generation had this content.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn is_committed(&self, hash: &ContentHash) -> Result<bool, StoreError> {
        self.index().read(|txn| Ok(txn.open_table(COMMITTED)?.get(hash.0)?.is_some()))
    }

    /// The modification time that the author's file had when the head's entry of `place` was published.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn author_mtime(&self, place: &Place) -> Result<Option<FileTime>, StoreError> {
        self.index().read(|txn| Ok(row(&txn.open_table(TREE)?, place)?.and_then(|row| row.mtime)))
    }
}

fn record(txn: &ReadTransaction, number: u64) -> Result<Option<GenerationRecord>, StoreError> {
    let table = txn.open_table(GENERATIONS)?;
    table.get(number)?.map(|bytes| decode("a generation", bytes.value())).transpose()
}

/// No manifest has what its own rules leave out.
fn refuse_excluded(proposal: &Proposal) -> Result<(), StoreError> {
    let number = proposal.generation.number;
    let mut matchers: BTreeMap<&RootName, Matcher> = BTreeMap::new();
    for (root, rules) in &proposal.rules.roots {
        let matcher = Matcher::new(rules).map_err(|source| StoreError::BadRules { number, source })?;
        matchers.insert(root, matcher);
    }
    for Change { place, entry, .. } in &proposal.changes {
        if let (Some(entry), Some(matcher)) = (entry, matchers.get(&place.root))
            && matcher.excluded(&place.path, entry.is_folder())
        {
            return Err(StoreError::Excluded { number, place: place.clone() });
        }
    }
    Ok(())
}

fn edits(proposal: &Proposal) -> impl Iterator<Item = (Place, Option<Entry>)> {
    proposal.changes.iter().map(|change| (change.place.clone(), change.entry.clone()))
}

/// The forest that a generation makes of its base: exactly the roots that its rules name, those that are new begin empty.
fn build(
    number: u64,
    base: &Forest,
    rules: &Rules,
    edits: impl IntoIterator<Item = (Place, Option<Entry>)>,
) -> Result<Forest, StoreError> {
    let forest = base.clone().under(rules);
    let edits: Vec<_> = edits.into_iter().collect();
    if let Some((place, _)) = edits.iter().find(|(place, _)| rules.of(&place.root).is_none()) {
        return Err(StoreError::UnknownRoot { number, root: place.root.to_string() });
    }
    forest.with(edits).map_err(|source| StoreError::NoTree { number, source })
}

/// Every place that differs, those of roots that only one side names too.
fn all_edits(old: &Forest, new: &Forest) -> Vec<Edit> {
    let names: BTreeSet<&RootName> = old.roots.keys().chain(new.roots.keys()).collect();
    let mut all = (Forest::default(), Forest::default());
    for name in names {
        all.0.roots.insert(name.clone(), old.roots.get(name).cloned().unwrap_or_default());
        all.1.roots.insert(name.clone(), new.roots.get(name).cloned().unwrap_or_default());
    }
    all.0.edits(&all.1)
}

fn history_entry(generation: Generation, edits: &[Edit]) -> HistoryEntry {
    let count = |wanted: fn(&Edit) -> bool| edits.iter().filter(|edit| wanted(edit)).count() as u64;
    HistoryEntry {
        generation,
        added: count(|edit| edit.old.is_none()),
        changed: count(|edit| edit.old.is_some() && edit.new.is_some()),
        removed: count(|edit| edit.new.is_none()),
        paths: edits.iter().take(HISTORY_PATHS_MAX).map(|edit| edit.place.clone()).collect(),
    }
}
