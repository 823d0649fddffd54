//! What the roots held when this process first looked: formation needs it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::apply::is_marked;
use crate::cluster::FirstScan;
use crate::inventory::Observed;
use crate::model::{ClusterState, FirstContent};

/// Says what the roots hold until this node belongs to a cluster.
pub struct FirstLook {
    pub(super) observed: watch::Receiver<Arc<Observed>>,
    pub(super) state: watch::Receiver<Option<Arc<ClusterState>>>,
    pub(super) found: watch::Sender<FirstScan>,
}

impl FirstLook {
    /// Follows the scans until there is a cluster, then waits for `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = self.follow() => {}
        }
        stop.cancelled().await;
    }

    async fn follow(&mut self) {
        while self.state.borrow().is_none() {
            let observed = Arc::clone(&self.observed.borrow_and_update());
            if observed.complete {
                let content =
                    FirstContent { digest: observed.forest.digest(), files: observed.forest.files() };
                let marked =
                    tokio::task::spawn_blocking(move || marked_roots(&observed)).await.unwrap_or_default();
                self.found.send_if_modified(|found| {
                    let now = Some((content, marked));
                    let changed = *found != now;
                    *found = now;
                    changed
                });
            }
            tokio::select! {
                // A sender is gone only while the daemon ends.
                changed = self.observed.changed() => if changed.is_err() { return },
                changed = self.state.changed() => if changed.is_err() { return },
            }
        }
    }
}

fn marked_roots(observed: &Observed) -> Vec<String> {
    let marked = observed.roots.iter().filter(|(name, state)| {
        let Some(root) = &state.root else { return false };
        is_marked(root).unwrap_or_else(|error| {
            tracing::warn!(root = %name, %error, "can't tell whether the root carries a mark, so it counts as marked");
            true
        })
    });
    marked.map(|(name, _)| name.to_string()).collect()
}
