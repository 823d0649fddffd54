//! Which contents a running operation counts on, and which the collector removes at this moment: none is both.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::ContentHash;
use crate::store::Store;

/// Keeps contents from being collected until it is dropped.
pub struct Hold {
    store: Store,
    hashes: Vec<ContentHash>,
}

/// The register of both.
#[derive(Default)]
pub(super) struct Holds(Mutex<Register>);

#[derive(Default)]
struct Register {
    held: HashMap<ContentHash, u32>,
    doomed: HashSet<ContentHash>,
}

impl Store {
    /// Keeps `hashes` from being collected. One that is being collected already is not saved by it: whoever holds it
    /// finds it missing and puts it again.
    #[must_use]
    pub fn hold(&self, hashes: impl IntoIterator<Item = ContentHash>) -> Hold {
        let hashes: Vec<ContentHash> = hashes.into_iter().collect();
        for hash in &hashes {
            self.0.holds.hold(hash);
        }
        Hold { store: self.clone(), hashes }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.store.0.holds.release(&self.hashes);
    }
}

impl Holds {
    /// False when the content is being removed: it counts as missing then.
    pub(super) fn hold(&self, hash: &ContentHash) -> bool {
        let mut register = self.register();
        *register.held.entry(*hash).or_default() += 1;
        !register.doomed.contains(hash)
    }

    /// Takes back one [`Holds::hold`] of each.
    pub(super) fn release<'a>(&self, hashes: impl IntoIterator<Item = &'a ContentHash>) {
        let mut register = self.register();
        for hash in hashes {
            if let Some(count) = register.held.get_mut(hash) {
                *count -= 1;
                if *count == 0 {
                    register.held.remove(hash);
                }
            }
        }
    }

    /// Marks those of `unneeded` that nobody holds, if nothing changed since they were found to be unneeded: what is
    /// pinned is let go by its batch only after `unchanged` can tell.
    pub(super) fn doom(
        &self,
        unneeded: impl IntoIterator<Item = ContentHash>,
        unchanged: impl FnOnce() -> bool,
    ) -> Option<HashSet<ContentHash>> {
        let mut register = self.register();
        if !unchanged() {
            return None;
        }
        let doomed: HashSet<ContentHash> =
            unneeded.into_iter().filter(|hash| !register.held.contains_key(hash)).collect();
        register.doomed.clone_from(&doomed);
        Some(doomed)
    }

    /// What was doomed is gone, or stays after all.
    pub(super) fn spare(&self) {
        self.register().doomed = HashSet::new();
    }

    /// These were put anew, elsewhere than what is being removed.
    pub(super) fn renew<'a>(&self, hashes: impl IntoIterator<Item = &'a ContentHash>) {
        let mut register = self.register();
        if !register.doomed.is_empty() {
            for hash in hashes {
                register.doomed.remove(hash);
            }
        }
    }

    pub(super) fn is_doomed(&self, hash: &ContentHash) -> bool {
        self.register().doomed.contains(hash)
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        // Whole after every step, so a panic elsewhere spoils nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
