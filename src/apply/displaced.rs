//! What came out of a root when something else took its place: never dropped unless it is known or in quarantine.
//!
//! It stays under `.syncd/stage` for a while, because a writer that had it open may still write to it.

use std::collections::{BTreeMap, btree_map};
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use crate::apply::ApplyError;
use crate::model::{ArtifactPath, ContentHash, Entry, Forest, Place};
use crate::store::{Quarantined, Store};
use crate::tree::{Kind, Root, StageName, Stat, TreeError, Workshop};

/// One thing that came out.
#[derive(Debug)]
pub(super) struct Displaced {
    pub root: Arc<Root>,
    pub name: StageName,
    /// Where it was.
    pub place: Place,
    /// What generations say of the place: content that is one of these needs no copy.
    pub known: Vec<Entry>,
    /// The generation in whose favour it was replaced.
    pub generation: u64,
    pub why: String,
    /// How it was when it was last found to be known or copied.
    pub looked: Option<Stat>,
}

impl Displaced {
    /// Sees to it that a copy of it is in quarantine, unless its content is known; whether one was made. Looks only
    /// when it changed since the last look.
    pub(super) fn look(&mut self, store: &Store, workshop: &Workshop) -> Result<bool, ApplyError> {
        let Some(stat) = workshop.stat(&self.name).map_err(|source| self.error(source))? else {
            return Ok(false);
        };
        if self.looked == Some(stat) {
            return Ok(false);
        }
        let copied = match stat.kind {
            Kind::File => self.look_at_file(store, workshop, &stat)?,
            Kind::Link => {
                let target = workshop.read_link(&self.name).map_err(|source| self.error(source))?;
                let entry = Entry::Link { target: target.into() };
                !self.known.contains(&entry) && self.quarantine(store, entry, &stat, &mut std::io::empty())?
            }
            Kind::Folder | Kind::Mount | Kind::Other => false,
        };
        self.looked = Some(stat);
        Ok(copied)
    }

    fn look_at_file(&self, store: &Store, workshop: &Workshop, stat: &Stat) -> Result<bool, ApplyError> {
        let mut file = workshop.open(&self.name).map_err(|source| self.error(source))?;
        let failed =
            |source| self.error(TreeError::Io { operation: "read", path: self.name.to_string(), source });
        let mut hasher = blake3::Hasher::new();
        let size = std::io::copy(&mut file, &mut hasher).map_err(failed)?;
        let hash = ContentHash(*hasher.finalize().as_bytes());
        let known =
            self.known.iter().any(|entry| entry.content() == Some(hash)) || store.is_committed(&hash)?;
        // What the store had to forget, because its copy was damaged, may be here for the last time.
        if known && store.has(&hash)? {
            return Ok(false);
        }
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        self.quarantine(store, Entry::File { mode: stat.mode, size, hash }, stat, &mut file)
    }

    fn quarantine(
        &self,
        store: &Store,
        entry: Entry,
        stat: &Stat,
        content: &mut dyn Read,
    ) -> Result<bool, ApplyError> {
        let item = Quarantined {
            place: self.place.clone(),
            why: self.why.clone(),
            generation: self.generation,
            entry,
            mtime: Some(stat.mtime),
            uid: stat.uid,
            gid: stat.gid,
        };
        let id = store
            .quarantine(&item, content)
            .map_err(|source| ApplyError::Quarantine { place: self.place.clone(), source })?;
        tracing::warn!(place = %self.place, quarantine = %id.0, why = self.why, "local content went to quarantine");
        Ok(true)
    }

    fn error(&self, source: TreeError) -> ApplyError {
        ApplyError::at(&self.place)(source)
    }
}

/// Looks at everything once more and drops what is known or copied. What could not be looked at stays, and comes back.
pub(super) fn drop_displaced(store: &Store, displaced: Vec<Displaced>) -> (Vec<Displaced>, u64) {
    let mut kept = Vec::new();
    let mut copied = 0;
    for mut item in displaced {
        match drop_one(store, &mut item) {
            Ok(copy) => copied += u64::from(copy),
            // Nothing is lost with a root that is gone: what it holds is looked at when it is back.
            Err(error) if item.root.still_there().is_err() => {
                tracing::warn!(error = error.chain(), "left in a root that is gone");
            }
            Err(error) => {
                tracing::warn!(error = error.chain(), name = %item.name, "replaced content stays under .syncd");
                kept.push(item);
            }
        }
    }
    (kept, copied)
}

fn drop_one(store: &Store, item: &mut Displaced) -> Result<bool, ApplyError> {
    let error = ApplyError::within(item.root.name());
    let workshop = item.root.workshop().map_err(error)?;
    let copied = item.look(store, &workshop)?;
    workshop.remove(&item.name).map_err(|source| item.error(source))?;
    Ok(copied)
}

/// Looks at what a crash left under `.syncd`: known content and unfinished copies of it are removed, anything else goes
/// to quarantine first. Says how many copies were made.
pub(super) fn clear_leftovers(store: &Store, root: &Arc<Root>) -> Result<u64, ApplyError> {
    let error = ApplyError::within(root.name());
    let workshop = root.workshop().map_err(error)?;
    let mut copied = 0;
    let head = store.head();
    let mut forests: BTreeMap<u64, Option<Forest>> = BTreeMap::new();
    for name in workshop.list().map_err(error)? {
        let place = Place { root: root.name().clone(), path: name.path().unwrap_or_else(|| nameless(&name)) };
        let forest = match forests.entry(name.generation()) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(new) => new.insert(store.forest_of(name.generation())?),
        };
        let planned = forest.as_ref().and_then(|forest| forest.get(&place).cloned());
        let head = head.as_ref().and_then(|head| head.forest.get(&place).cloned());
        let mut item = Displaced {
            root: Arc::clone(root),
            place,
            known: planned.into_iter().chain(head).collect(),
            generation: name.generation(),
            why: "it lay under .syncd when the daemon started".to_owned(),
            looked: None,
            name,
        };
        match clear_one(store, &workshop, &mut item) {
            Ok(copy) => copied += u64::from(copy),
            Err(ApplyError::Store(error)) if error.is_fatal() => return Err(error.into()),
            // It harms nobody there, and the next start looks at it again.
            Err(error) => {
                tracing::warn!(error = error.chain(), name = %item.name, "a leftover stays under .syncd");
            }
        }
    }
    Ok(copied)
}

fn clear_one(store: &Store, workshop: &Workshop, item: &mut Displaced) -> Result<bool, ApplyError> {
    let copied = !is_unfinished(store, workshop, item)? && item.look(store, workshop)?;
    workshop.remove(&item.name).map_err(|source| item.error(source))?;
    Ok(copied)
}

/// Whether it is the beginning of a content that the store has: staging was cut off.
fn is_unfinished(store: &Store, workshop: &Workshop, item: &Displaced) -> Result<bool, ApplyError> {
    let stat = workshop.stat(&item.name).map_err(|source| item.error(source))?;
    let Some(stat) = stat.filter(|stat| stat.kind == Kind::File) else { return Ok(false) };
    for hash in item.known.iter().filter_map(Entry::content) {
        if !store.has(&hash)? {
            continue;
        }
        let whole = store.open_blob(&hash)?;
        let part = workshop.open(&item.name).map_err(|source| item.error(source))?;
        let failed =
            |source| item.error(TreeError::Io { operation: "read", path: item.name.to_string(), source });
        if stat.size <= whole.size() && is_prefix(part, whole).map_err(failed)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_prefix(mut part: impl Read, mut whole: impl Read) -> std::io::Result<bool> {
    let (mut a, mut b) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let count = part.read(&mut a)?;
        if count == 0 {
            return Ok(true);
        }
        match whole.read_exact(&mut b[..count]) {
            Ok(()) if a[..count] == b[..count] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// For a name that was too long to keep its path: the name itself tells at least how the path began.
fn nameless(name: &StageName) -> ArtifactPath {
    ArtifactPath::new(name.as_str().as_bytes()).expect("a staged name is one plain component")
}
