//! What a person orders to be loaded again: the files get new times, once on each node, however late it hears of it.

use tokio::time::Instant;

use crate::apply::bump::{bump, next_time};
use crate::apply::files::Scene;
use crate::apply::task::{ApplyTask, blocking};
use crate::apply::{ApplyError, ApplyTaskError};
use crate::model::{FileTime, NodeState, Problem, Severity};
use crate::store::Redeployed;

impl ApplyTask {
    /// Carries out what was ordered since the last one that was carried out here. The times are noted before they are
    /// given, so that after a crash the same ones are given.
    pub(super) async fn obey_redeploys(&mut self, scene: &Scene<'_>) -> Result<(), ApplyTaskError> {
        let cluster = scene.state.cluster;
        if scene.state.redeploys.is_empty() {
            return Ok(());
        }
        let known = match self.redeployed.take() {
            Some(known) => known,
            None => {
                let store = self.parts.store.clone();
                blocking(move || store.redeployed()).await??
            }
        };
        let known = known.filter(|known| known.cluster == cluster).unwrap_or(Redeployed::none(cluster));
        self.redeployed = Some(Some(known.clone()));
        let open: Vec<_> =
            scene.state.redeploys.iter().filter(|order| order.number > known.done).cloned().collect();
        for order in open {
            let (store, sites) = (self.parts.store.clone(), scene.roots.sites.clone());
            let begun = known.begun.clone().filter(|(number, _)| *number == order.number);
            let (number, places) = (order.number, order.places.clone());
            let work = move || {
                let times = match begun {
                    Some((_, times)) => times,
                    None => {
                        let ordered = FileTime { seconds: order.unix_ms.div_euclid(1000), nanos: 0 };
                        let mut times = Vec::new();
                        for place in order.places {
                            if let Some(time) = next_time(&store, &sites, &place, ordered)? {
                                times.push((place, time));
                            }
                        }
                        let begun = Some((number, times.clone()));
                        store.set_redeployed(&Redeployed { cluster, done: number - 1, begun })?;
                        times
                    }
                };
                bump(&store, &sites, &times)?;
                let done = Redeployed { cluster, done: number, begun: None };
                store.set_redeployed(&done)?;
                Ok::<_, ApplyError>(done)
            };
            match blocking(work).await? {
                Ok(done) => self.redeployed = Some(Some(done)),
                Err(ApplyError::Store(error)) if error.is_fatal() => return Err(error.into()),
                Err(error) => {
                    // What was noted of it counts.
                    self.redeployed = None;
                    let remedy = "see the daemon's log; it is tried again by itself";
                    let message =
                        format!("files can't be given new times, as was ordered: {}", error.chain());
                    self.now.problems.push(Problem::new(
                        Severity::Warning,
                        "redeploy-failed",
                        message,
                        remedy,
                    ));
                    return Ok(());
                }
            }
            if self.now.state != NodeState::Manager {
                let now = Instant::now();
                places.iter().for_each(|place| self.memory.own.ordered(place, now));
            }
        }
        Ok(())
    }
}
