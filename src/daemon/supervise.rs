//! The daemon's tasks under one roof: all are named, all are essential, and all end within the grace period.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::model::with_causes;

/// How long tasks may take to finish a unit of work once the daemon stops.
const GRACE: Duration = Duration::from_secs(10);

/// A task that ended although nobody asked the daemon to stop.
#[derive(Debug, thiserror::Error)]
#[error("the task {task} ended: {why}")]
pub struct TaskEnded {
    /// Which.
    pub task: &'static str,
    /// What it said.
    pub why: String,
}

/// Runs named tasks; the end of one ends them all.
pub struct Supervisor {
    stop: CancellationToken,
    tasks: JoinSet<Result<(), String>>,
    names: HashMap<Id, &'static str>,
    grace: Duration,
}

impl Supervisor {
    /// Without tasks yet; all are told to stop by `stop`.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop, tasks: JoinSet::new(), names: HashMap::new(), grace: GRACE }
    }

    /// Starts a task that ends only with the daemon.
    pub fn spawn<E: Into<Box<dyn Error>>>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(async move { task.await.map_err(|error| with_causes(&*error.into())) });
        self.names.insert(handle.id(), name);
    }

    /// Waits for the stop, or for the first task that ends without it; then ends all within the grace period.
    ///
    /// # Errors
    /// [`TaskEnded`] when a task failed, panicked, or ended unasked.
    pub async fn run(mut self) -> Result<(), TaskEnded> {
        let mut outcome = Ok(());
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            Some(ended) = self.tasks.join_next_with_id() => {
                let unasked = !stop.is_cancelled();
                outcome = self.judge(ended, unasked);
            }
        }
        stop.cancel();
        let grace = tokio::time::sleep(self.grace);
        tokio::pin!(grace);
        loop {
            tokio::select! {
                ended = self.tasks.join_next_with_id() => match ended {
                    Some(ended) => outcome = outcome.and(self.judge(ended, false)),
                    None => break,
                },
                () = &mut grace => {
                    let running: Vec<_> = self.names.values().copied().collect();
                    tracing::warn!(?running, "tasks still run after the grace period and are cut off");
                    self.tasks.abort_all();
                    break;
                }
            }
        }
        outcome
    }

    fn judge(
        &mut self,
        ended: Result<(Id, Result<(), String>), tokio::task::JoinError>,
        unasked: bool,
    ) -> Result<(), TaskEnded> {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(format!("it panicked: {error}"))),
        };
        let task = self.names.remove(&id).unwrap_or("unknown");
        match result {
            Err(why) => Err(TaskEnded { task, why }),
            Ok(()) if unasked => Err(TaskEnded { task, why: "nobody asked it to stop".to_owned() }),
            Ok(()) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[tokio::test]
    async fn the_end_of_one_ends_all_and_is_named() {
        let stop = CancellationToken::new();
        let mut tasks = Supervisor::new(stop.clone());
        let told = stop.clone();
        tasks.spawn("patient", async move {
            told.cancelled().await;
            Ok::<(), Infallible>(())
        });
        tasks.spawn("broken", async { Err("disk gone") });
        let ended = tasks.run().await.unwrap_err();
        assert_eq!((ended.task, ended.why.as_str()), ("broken", "disk gone"));
    }

    #[tokio::test]
    async fn a_panic_is_an_end_and_a_task_that_hangs_is_cut_off() {
        let mut tasks = Supervisor::new(CancellationToken::new());
        tasks.spawn("panics", async { if true { panic!("on purpose") } else { Ok::<(), Infallible>(()) } });
        tasks.grace = Duration::from_millis(50);
        tasks.spawn("hangs", std::future::pending::<Result<(), Infallible>>());
        assert_eq!(tasks.run().await.unwrap_err().task, "panics");
    }

    #[tokio::test]
    async fn a_stop_is_no_failure() {
        let stop = CancellationToken::new();
        let mut tasks = Supervisor::new(stop.clone());
        let told = stop.clone();
        tasks.spawn("patient", async move {
            told.cancelled().await;
            Ok::<(), Infallible>(())
        });
        stop.cancel();
        assert!(tasks.run().await.is_ok());
    }
}
