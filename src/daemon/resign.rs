//! A planned change of manager, as the manager lives it: it stops publishing, and tells the leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::model::{BootTime, ClusterState, Epoch};

/// How long the outcome of a generation on its way is waited for. What is not known by then is refused by the log, and
/// its changes are handed over like any other.
const FINISH_MAX: Duration = Duration::from_secs(3);

/// What it looks at.
pub struct Resign {
    pub(super) cluster: Cluster,
    pub(super) state: watch::Receiver<Option<Arc<ClusterState>>>,
    /// The epoch in which this node may publish.
    pub(super) active: watch::Receiver<Option<Epoch>>,
    /// Whether a generation may be on its way into the log.
    pub(super) in_flight: watch::Receiver<bool>,
    /// The latest end of a lease that anybody was told, in nanoseconds of [`BootTime`].
    pub(super) told: Arc<AtomicU64>,
}

impl Resign {
    /// Looks until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut gone = 0;
        loop {
            let state = self.state.borrow_and_update().clone();
            let ends = state.and_then(|state| state.switchover).map_or(0, |switchover| switchover.ends);
            let work = async {
                if ends > gone {
                    self.finish().await;
                    self.cluster.let_go(ends).await;
                }
                self.state.changed().await
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = work => if changed.is_err() { stop.cancelled().await; return },
            }
            gone = gone.max(ends);
        }
    }

    async fn finish(&mut self) {
        let finished = async {
            // Whoever is gone flies nothing any more.
            let _ = self.active.wait_for(Option::is_none).await;
            let _ = self.in_flight.wait_for(|flies| !flies).await;
        };
        if tokio::time::timeout(FINISH_MAX, finished).await.is_err() {
            tracing::warn!("a generation was still on its way when this node gave its office up");
        }
        // The next manager's lease must not begin within one that `/manager` named to somebody. Nobody is told any more.
        let told = BootTime::at(self.told.load(Ordering::SeqCst));
        tokio::time::sleep(told.since(BootTime::now())).await;
    }
}
