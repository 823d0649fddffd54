//! The generation that a parcel's changes start from.

use std::collections::BTreeMap;

use crate::model::{Digest, FileTime, Forest, Place, Rules};
use crate::store::{Store, StoreError};

/// A generation that is here, or nothing at all.
pub struct Basis {
    /// Its places.
    pub forest: Forest,
    /// Its rules.
    pub rules: Rules,
    /// Where they differ from the head's rows.
    times: BTreeMap<Place, Option<FileTime>>,
    store: Store,
}

impl Basis {
    /// The author's modification time of a file of it.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn time(&self, place: &Place) -> Result<Option<FileTime>, StoreError> {
        match self.times.get(place) {
            Some(time) => Ok(*time),
            None => self.store.author_mtime(place),
        }
    }
}

impl Store {
    /// The generation `number` with `digest`; without a digest: nothing. None when it is not here.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn basis(&self, number: u64, digest: Option<&Digest>) -> Result<Option<Basis>, StoreError> {
        let store = self.clone();
        let Some(digest) = digest else {
            let (forest, rules, times) = Default::default();
            return Ok(Some(Basis { forest, rules, times, store }));
        };
        let view = self.view(number, digest)?;
        Ok(view.map(|view| Basis { forest: view.forest, rules: view.rules, times: view.times, store }))
    }
}
