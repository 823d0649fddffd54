//! Gets again what the store lacks of its head: a node that lacks a content of it does not hold it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::inspect::Inspector;
use crate::store::StoreError;

/// How often it is looked, which costs nothing while nothing is lost.
const EVERY: Duration = Duration::from_secs(2);

/// Looks until `stop`.
///
/// # Errors
/// When the store can no longer be trusted.
pub(super) async fn mend(inspector: Inspector, stop: CancellationToken) -> Result<(), StoreError> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
        match stop.run_until_cancelled(inspector.mend()).await {
            Some(Err(error)) if error.is_fatal() => return Err(error),
            Some(Err(error)) => tracing::warn!(%error, "the store could not be mended yet"),
            Some(Ok(_)) | None => {}
        }
    }
}
