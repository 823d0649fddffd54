//! Reading everything of this node anew: its files through the inventory, its store content by content.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::inspect::content::Mender;
use crate::inspect::told::{Damage, Progress, Told};
use crate::inventory::{InventoryHandle, Observed, Reread};
use crate::model::{ContentHash, Entry, Place, with_causes};
use crate::rpc::{SLOW, send_within};
use crate::store::{Adopted, Store, StoreError};

/// Contents checked between two looks at whether anybody still listens, and their bytes at most but for one.
const PORTION: (usize, u64) = (64, 8 << 20);

/// Reads every file again; none when nobody listens any more.
pub(super) async fn files(inventory: &InventoryHandle, told: &mpsc::Sender<Told>) -> Option<Arc<Observed>> {
    let begun = Instant::now();
    let report = |reread: Reread| {
        if told.is_closed() {
            return ControlFlow::Break(());
        }
        // One that finds no room is outdated by the next.
        let _ = told.try_send(Told::Progress(Progress {
            step: "files".to_owned(),
            done: reread.files,
            total: reread.files_total,
            bytes: reread.bytes,
            bytes_total: reread.bytes_total,
            seconds: begun.elapsed().as_secs_f64(),
        }));
        ControlFlow::Continue(())
    };
    inventory.verify_with(report).await
}

/// Reads every content of the head in the store, and mends what is damaged. Counts the damaged; `Err`: why not all
/// could be read.
pub(super) async fn store(
    store: &Store,
    head: &Adopted,
    mender: &Mender<'_>,
    told: &mpsc::Sender<Told>,
) -> Result<u64, String> {
    let begun = Instant::now();
    let contents = contents(head);
    let (total, bytes_total) = (contents.len() as u64, contents.iter().map(|(_, size, _)| size).sum());
    let (mut done, mut bytes, mut damaged) = (0, 0, 0);
    let mut rest = contents.as_slice();
    while !rest.is_empty() && !told.is_closed() {
        let mut count = 0;
        let mut portion_bytes = 0;
        while count < rest.len().min(PORTION.0) && (count == 0 || portion_bytes + rest[count].1 <= PORTION.1)
        {
            portion_bytes += rest[count].1;
            count += 1;
        }
        let (portion, later) = rest.split_at(count);
        rest = later;
        let (own, list) = (store.clone(), portion.to_vec());
        let found = tokio::task::spawn_blocking(move || check(&own, &list))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("the store can't be read: {}", with_causes(&error)))?;
        for (hash, size, place, what) in found {
            damaged += 1;
            let replaced_from = mender.mend(&hash, size, &place).await;
            let damage = Damage {
                hash: hash.to_string(),
                root: place.root.to_string(),
                path: place.path.to_string(),
                what,
                replaced_from,
            };
            // An answer without this line would be wrong.
            let sent = send_within(SLOW, told, Told::Damage(damage)).await;
            sent.map_err(|error| format!("the answer was not taken: {error}"))?;
        }
        (done, bytes) = (done + count as u64, bytes + portion_bytes);
        let seconds = begun.elapsed().as_secs_f64();
        // One that finds no room is outdated by the next.
        let _ = told.try_send(Told::Progress(Progress {
            step: "store".to_owned(),
            done,
            total,
            bytes,
            bytes_total,
            seconds,
        }));
    }
    Ok(damaged)
}

/// The contents of a head, each once, with a place that has it.
fn contents(head: &Adopted) -> Vec<(ContentHash, u64, Place)> {
    let mut found: BTreeMap<ContentHash, (u64, Place)> = BTreeMap::new();
    for (place, entry) in head.forest.iter() {
        if let Entry::File { size, hash, .. } = entry {
            found.entry(*hash).or_insert_with(|| (*size, place));
        }
    }
    found.into_iter().map(|(hash, (size, place))| (hash, size, place)).collect()
}

type Damaged = Vec<(ContentHash, u64, Place, String)>;

/// Reads some contents to their ends. A damaged one is forgotten, so that it counts as missing; one that the disk did
/// not give out is not.
fn check(store: &Store, contents: &[(ContentHash, u64, Place)]) -> Result<Damaged, StoreError> {
    let mut damaged = Vec::new();
    for (hash, size, place) in contents {
        let what = match store.open_blob(hash) {
            Ok(mut blob) => match io::copy(&mut blob, &mut io::sink()) {
                Ok(read) if read == *size => continue,
                Ok(read) => format!("it has {read} bytes instead of {size}"),
                Err(source) => {
                    let what = source.to_string();
                    let error = StoreError::Source { hash: *hash, source };
                    if !error.is_damage() {
                        return Err(error);
                    }
                    what
                }
            },
            Err(error @ (StoreError::Damaged { .. } | StoreError::Missing { .. })) => error.to_string(),
            Err(error) => return Err(error),
        };
        if store.has(hash)? {
            store.forget(hash)?;
        }
        damaged.push((*hash, *size, place.clone(), what));
    }
    Ok(damaged)
}
