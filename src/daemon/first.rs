//! What the roots held when this process first looked: formation needs it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::apply::{is_marked, lay_mark_aside};
use crate::cluster::FirstScan;
use crate::inventory::Observed;
use crate::model::{ClusterState, FirstContent};
use crate::store::Store;

/// Says what the roots hold until this node belongs to a cluster.
pub struct FirstLook {
    pub(super) observed: watch::Receiver<Arc<Observed>>,
    pub(super) state: watch::Receiver<Option<Arc<ClusterState>>>,
    pub(super) found: watch::Sender<FirstScan>,
    /// Set to true each time that a new cluster, ordered by a person, finds marks in its way.
    pub(super) marks_unwanted: watch::Receiver<bool>,
    /// What knows the marks too.
    pub(super) store: Store,
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
        let mut ordered = *self.marks_unwanted.borrow_and_update();
        while self.state.borrow().is_none() {
            let observed = Arc::clone(&self.observed.borrow_and_update());
            if observed.complete {
                let content =
                    FirstContent { digest: observed.forest.digest(), files: observed.forest.files() };
                // Once for each order: a root that shows a mark later was in nobody's way when it was given.
                let unwanted = std::mem::take(&mut ordered);
                let (state, store) = (self.state.clone(), self.store.clone());
                let look = move || {
                    if unwanted {
                        lay_marks_aside(&store, &observed, || state.borrow().is_none());
                    }
                    marked_roots(&observed)
                };
                let marked = tokio::task::spawn_blocking(look).await.unwrap_or_default();
                if marked.is_empty() {
                    // Given again while the work went on.
                    self.marks_unwanted.borrow_and_update();
                }
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
                changed = self.marks_unwanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    ordered = *self.marks_unwanted.borrow_and_update();
                }
                changed = self.state.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Does so while this node `is_alone`: a mark that a cluster let it write since is wanted. What cannot be laid aside stays
/// marked, and so stays in the way.
fn lay_marks_aside(store: &Store, observed: &Observed, is_alone: impl Fn() -> bool) {
    for (name, root) in observed.roots.iter().filter_map(|(name, state)| Some((name, state.root.as_ref()?))) {
        if !is_alone() {
            return;
        }
        match lay_mark_aside(store, root) {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::inventory::RootState;
    use crate::model::{RootName, RootRules};
    use crate::tree::Root;

    const BOUND: Duration = Duration::from_secs(30);

    fn mark(root: &Path) {
        fs::create_dir_all(root.join(".syncd")).unwrap();
        let text = r#"{"cluster":"c","node":1,"name":"gw1","generation":0,"id":"x"}"#;
        fs::write(root.join(".syncd/member"), text).unwrap();
    }

    fn observed(path: &Path) -> Arc<Observed> {
        let name = RootName::new("r");
        let root = Arc::new(Root::open(name.clone(), path).unwrap());
        let state = RootState {
            path: path.to_owned(),
            root: Some(root),
            missing: None,
            device_changed: false,
            skipped: 0,
            rules: RootRules::default(),
        };
        Arc::new(Observed { complete: true, roots: BTreeMap::from([(name, state)]), ..Observed::default() })
    }

    #[tokio::test]
    async fn marks_are_laid_aside_once_for_each_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        fs::create_dir(&path).unwrap();
        mark(&path);
        let scans = watch::Sender::new(observed(&path));
        let state = watch::Sender::new(None);
        let (found, mut seen) = watch::channel(None);
        let orders = watch::Sender::new(false);
        let mut look = FirstLook {
            observed: scans.subscribe(),
            state: state.subscribe(),
            found,
            marks_unwanted: orders.subscribe(),
            store: Store::open(&dir.path().join("store"), &dir.path().join("quarantine")).unwrap(),
        };
        let following = tokio::spawn(async move { look.follow().await });
        let mut sees = async |roots: usize| {
            let seen = seen.wait_for(|found| found.as_ref().is_some_and(|(_, marked)| marked.len() == roots));
            tokio::time::timeout(BOUND, seen).await.expect("it is seen").unwrap();
        };
        sees(1).await;
        orders.send_replace(true);
        sees(0).await;
        assert!(path.join(".syncd.foreign-1/member").exists());
        mark(&path);
        scans.send_replace(observed(&path));
        sees(1).await;
        assert!(path.join(".syncd/member").exists(), "nobody ordered that");
        drop(scans);
        following.await.unwrap();
    }

    #[test]
    fn a_member_lays_nothing_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        fs::create_dir(&path).unwrap();
        mark(&path);
        let store = Store::open(&dir.path().join("store"), &dir.path().join("quarantine")).unwrap();
        lay_marks_aside(&store, &observed(&path), || false);
        assert!(path.join(".syncd/member").exists());
    }
}
