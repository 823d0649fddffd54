//! The head's rows: what is at each place, and what a generation changed there.

use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::model::{Edit, Entry, FileTime, Place};
use crate::store::StoreError;
use crate::store::index::{TREE, decode, encode};

/// One row of the head.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) entry: Entry,
    pub(super) mtime: Option<FileTime>,
}

/// One place that an adopted generation changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) place: Place,
    pub(super) old: Option<Row>,
    pub(super) new: Option<Row>,
}

/// The row of `place`, if something is there.
pub(super) fn row(
    tree: &impl ReadableTable<(&'static str, &'static [u8]), &'static [u8]>,
    place: &Place,
) -> Result<Option<Row>, StoreError> {
    let row = tree.get((place.root.as_str(), place.path.as_bytes()))?;
    row.map(|bytes| decode("a place", bytes.value())).transpose()
}

/// Brings the head's rows to what the edits say, and tells what each was before.
pub(super) fn change_rows(
    txn: &WriteTransaction,
    edits: Vec<Edit>,
    mtime: impl Fn(&Place) -> Option<FileTime>,
) -> Result<Vec<Step>, StoreError> {
    let mut tree = txn.open_table(TREE)?;
    let mut steps = Vec::with_capacity(edits.len());
    for Edit { place, new, .. } in edits {
        let key = (place.root.as_str(), place.path.as_bytes());
        let new = new.map(|entry| Row { mtime: entry.content().and_then(|_| mtime(&place)), entry });
        let old = row(&tree, &place)?;
        match &new {
            Some(row) => tree.insert(key, encode(row)?.as_slice())?,
            None => tree.remove(key)?,
        };
        steps.push(Step { place, old, new });
    }
    Ok(steps)
}
