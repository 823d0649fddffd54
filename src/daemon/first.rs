//! What the roots held when this process first looked: formation needs it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::apply::{is_marked, lay_mark_aside};
use crate::cluster::FirstScan;
use crate::inventory::Observed;
use crate::model::{ClusterState, FirstContent};

/// Says what the roots hold until this node belongs to a cluster.
pub struct FirstLook {
    pub(super) observed: watch::Receiver<Arc<Observed>>,
    pub(super) state: watch::Receiver<Option<Arc<ClusterState>>>,
    pub(super) found: watch::Sender<FirstScan>,
    /// Turns true when a person ordered a new cluster, whatever marks the roots carry.
    pub(super) marks_unwanted: watch::Receiver<bool>,
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
                let unwanted = *self.marks_unwanted.borrow_and_update();
                let look = move || {
                    if unwanted {
                        lay_marks_aside(&observed);
                    }
                    marked_roots(&observed)
                };
                let marked = tokio::task::spawn_blocking(look).await.unwrap_or_default();
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
                changed = self.marks_unwanted.changed() => if changed.is_err() { return },
                changed = self.state.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// What cannot be laid aside stays marked, and so stays in the way.
fn lay_marks_aside(observed: &Observed) {
    for (name, root) in observed.roots.iter().filter_map(|(name, state)| Some((name, state.root.as_ref()?))) {
        match lay_mark_aside(root) {
            Ok(Some(folder)) => {
                tracing::warn!(root = %name, folder, "the mark of a former membership was laid aside")
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(root = %name, %error, "the mark of a former membership can't be laid aside")
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
