//! Keeps this node's own report current.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::apply::ApplyStatus;
use crate::cluster::Cluster;
use crate::daemon::config::Config;
use crate::daemon::report::{Inputs, report};
use crate::inventory::Observed;
use crate::model::{BootTime, ClusterState, Heard, Meter, NodeReport, Standing};
use crate::publish::PublishStatus;

/// The report is made again this often even if nothing happened: its ages move.
const AT_LEAST_EVERY: Duration = Duration::from_millis(500);

/// What the rooms publish, followed.
pub struct Reporter {
    pub(super) config: Arc<Config>,
    pub(super) cluster: Cluster,
    pub(super) state: watch::Receiver<Option<Arc<ClusterState>>>,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) observed: watch::Receiver<Arc<Observed>>,
    pub(super) apply: watch::Receiver<Arc<ApplyStatus>>,
    pub(super) publish: watch::Receiver<PublishStatus>,
    pub(super) heard: watch::Receiver<Arc<Heard>>,
    pub(super) own: watch::Sender<Arc<NodeReport>>,
    pub(super) behind_since: Option<BootTime>,
    /// The same without the time in which the cluster was paused.
    pub(super) late_since: Option<BootTime>,
    /// What counts long work.
    pub(super) meters: Vec<Meter>,
}

impl Reporter {
    /// Follows until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            self.refresh();
            let changed = async {
                tokio::select! {
                    changed = self.state.changed() => changed,
                    changed = self.standing.changed() => changed,
                    changed = self.observed.changed() => changed,
                    changed = self.apply.changed() => changed,
                    changed = self.publish.changed() => changed,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AT_LEAST_EVERY) => {}
                // A sender is gone only while the daemon ends: the stop follows.
                changed = changed => if changed.is_err() { stop.cancelled().await; return },
            }
        }
    }

    fn refresh(&mut self) {
        let state = self.state.borrow_and_update().clone();
        let standing = self.standing.borrow_and_update().clone();
        let observed = self.observed.borrow_and_update().clone();
        let apply = self.apply.borrow_and_update().clone();
        let publish = self.publish.borrow_and_update().clone();
        let now = BootTime::now();
        let head = state.as_ref().map_or(0, |state| state.generation());
        let is_behind = apply.applied.map_or(0, |(number, _)| number) < head;
        self.behind_since = is_behind.then(|| self.behind_since.unwrap_or(now));
        let is_paused = state.as_ref().is_some_and(|state| state.paused.is_some());
        self.late_since = (is_behind && !is_paused).then(|| self.late_since.unwrap_or(now));
        let row = report(&Inputs {
            config: &self.config,
            state: state.as_deref(),
            standing: &standing,
            instance: self.cluster.instance(),
            observed: &observed,
            apply: &apply,
            publish: &publish,
            progress: self.meters.iter().find_map(|meter| meter.read(now)),
            heard: &self.heard.borrow().clone(),
            behind_since: self.behind_since,
            late_since: self.late_since,
            now,
        });
        self.own.send_if_modified(|own| {
            let changed = **own != row;
            if changed {
                *own = Arc::new(row);
            }
            changed
        });
    }
}
