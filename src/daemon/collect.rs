//! Runs the store's collection in the background, at a pace that leaves the disk to others.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::{Collected, Collector, Store, StoreError};

/// How often it is looked whether a collection is due.
const EVERY: Duration = Duration::from_secs(5);
/// A step is followed by a rest of three times its length, within these bounds.
const REST: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Why collecting ended: the daemon can't go on.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The store can no longer be trusted.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// A thread ended in a way that should be impossible.
    #[error("collecting failed")]
    Thread(#[from] tokio::task::JoinError),
}

/// Collects whenever it is due, until `stop`.
///
/// # Errors
/// When the store can no longer be trusted; a full disk is waited for.
pub(super) async fn collect(store: Store, stop: CancellationToken) -> Result<(), CollectError> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
        if !store.is_collection_due() {
            continue;
        }
        match cycle(&store, &stop).await {
            Ok(Some(done)) if done != Collected::default() => tracing::info!(
                contents = done.contents,
                packs = done.packs,
                copied_bytes = done.copied_bytes,
                "collected what nothing needs any more"
            ),
            Ok(_) => {}
            Err(CollectError::Store(error)) if !error.is_fatal() => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the collection ended early; it is tried again");
            }
            Err(error) => return Err(error),
        }
    }
}

async fn cycle(store: &Store, stop: &CancellationToken) -> Result<Option<Collected>, CollectError> {
    let store = store.clone();
    let mut collector: Collector = tokio::task::spawn_blocking(move || store.collector()).await??;
    while !stop.is_cancelled() {
        let began = Instant::now();
        let (back, done) = tokio::task::spawn_blocking(move || {
            let done = collector.step();
            (collector, done)
        })
        .await?;
        collector = back;
        if let Some(done) = done? {
            return Ok(Some(done));
        }
        tokio::time::sleep((began.elapsed() * 3).clamp(REST.0, REST.1)).await;
    }
    Ok(None)
}
