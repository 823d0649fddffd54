//! Which generations are being received right now, so that what is on its way is not fetched a second time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long nothing may come of a stage that was begun before the generation is fetched as well.
const BEGUN: Duration = Duration::from_secs(2);
/// How long one that was not begun is waited for: the manager stages on all nodes at the same time.
const EXPECTED: Duration = Duration::from_millis(100);

/// The stages under way. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Stages(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    running: Mutex<BTreeMap<u64, Progress>>,
    /// Counts ends.
    ended: watch::Sender<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    stages: usize,
    last: Instant,
}

/// One stage; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Running {
    stages: Stages,
    number: u64,
}

impl Stages {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner { running: Mutex::default(), ended: watch::Sender::new(0) }))
    }

    /// Generation `number` begins to come in.
    pub(super) fn begin(&self, number: u64) -> Running {
        let now = Instant::now();
        let mut running = self.running();
        let progress = running.entry(number).or_insert(Progress { stages: 0, last: now });
        (progress.stages, progress.last) = (progress.stages + 1, now);
        drop(running);
        Running { stages: self.clone(), number }
    }

    /// Waits until `pinned` says so, as long as it is worth while.
    pub(super) async fn wait_for(&self, number: u64, pinned: impl Fn() -> bool) -> bool {
        let since = Instant::now();
        let mut ended = self.0.ended.subscribe();
        loop {
            if pinned() {
                return true;
            }
            let until =
                self.running().get(&number).map_or(since + EXPECTED, |progress| progress.last + BEGUN);
            if Instant::now() >= until {
                return pinned();
            }
            // Whether one ended or the time is up: it is looked again. The sender lives as long as `self`.
            let _ = tokio::time::timeout_at(until, ended.changed()).await;
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, Progress>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Something of it came.
    pub(super) fn progressed(&self) {
        if let Some(progress) = self.stages.running().get_mut(&self.number) {
            progress.last = Instant::now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.stages.running();
        if let Some(progress) = running.get_mut(&self.number) {
            progress.stages -= 1;
            if progress.stages == 0 {
                running.remove(&self.number);
            }
        }
        drop(running);
        self.stages.0.ended.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn waits_as_long_as_it_is_worth_while() {
        let stages = Stages::new();
        let _other = stages.begin(7);
        let began = Instant::now();
        assert!(!stages.wait_for(1, || false).await);
        assert!(began.elapsed() >= EXPECTED);
        let running = stages.begin(1);
        let pinned = Arc::new(AtomicBool::new(false));
        let waiting = tokio::spawn({
            let (stages, pinned) = (stages.clone(), Arc::clone(&pinned));
            async move { stages.wait_for(1, || pinned.load(Ordering::Relaxed)).await }
        });
        let since = Instant::now();
        tokio::time::sleep(2 * EXPECTED).await;
        // A stall of this machine may use up the longer wait, too.
        assert!(
            !waiting.is_finished() || since.elapsed() >= BEGUN / 2,
            "one that was begun is waited for longer"
        );
        pinned.store(true, Ordering::Relaxed);
        drop(running);
        assert!(waiting.await.unwrap());
        assert!(stages.wait_for(1, || true).await);
    }

    #[tokio::test]
    async fn one_that_goes_on_is_waited_for_and_one_that_hangs_is_not() {
        let stages = Stages::new();
        let running = stages.begin(1);
        let waiting = tokio::spawn({
            let stages = stages.clone();
            async move { stages.wait_for(1, || false).await }
        });
        for _ in 0..3 {
            tokio::time::sleep(BEGUN / 2).await;
            running.progressed();
            assert!(!waiting.is_finished());
        }
        let began = Instant::now();
        assert!(!waiting.await.unwrap());
        assert!((BEGUN..2 * BEGUN).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}
