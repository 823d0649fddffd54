//! The task that keeps the inventory.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::inventory::handle::{Asked, Request};
use crate::inventory::state::{Job, State};
use crate::inventory::{Config, InventoryError, InventoryHandle, Observed};
use crate::plan::PatternError;
use crate::watcher::{ChangeSet, Changes, Watcher};

/// How often it is checked that the roots are the ones that were opened.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Requests that may wait.
const REQUESTS_MAX: usize = 64;

/// The task; it does nothing until it runs.
pub struct InventoryTask {
    state: State,
    changes: Option<Changes>,
    requests: mpsc::Receiver<Asked>,
    observed: watch::Sender<Arc<Observed>>,
    /// How many write to the roots at this moment.
    writers: watch::Receiver<u32>,
    rescan_every: Duration,
}

/// Makes an inventory. A missing root is no error, it is a state.
///
/// # Errors
/// [`PatternError`] when a pattern of the rules is none.
pub fn new(config: Config) -> Result<(InventoryHandle, InventoryTask), PatternError> {
    let watcher = Watcher::new().map(Arc::new);
    let changes = watcher.as_ref().ok().map(|watcher| watcher.changes());
    let mut state = State::new(&config, watcher)?;
    let (observed, receiver) = watch::channel(Arc::new(state.observed()));
    let (sender, requests) = mpsc::channel(REQUESTS_MAX);
    let (writers, writing) = watch::channel(0);
    let handle = InventoryHandle { requests: sender, observed: receiver, meter: state.meter(), writers };
    let rescan_every = config.rescan_every;
    Ok((handle, InventoryTask { state, changes, requests, observed, writers: writing, rescan_every }))
}

impl InventoryTask {
    /// Keeps the inventory until `stop`. A look that is under way then is left to end by itself: it only reads.
    ///
    /// # Errors
    /// [`InventoryError::Look`].
    pub async fn run(self, stop: CancellationToken) -> Result<(), InventoryError> {
        let Self { mut state, mut changes, mut requests, observed, mut writers, rescan_every } = self;
        let mut job = Job { walk: true, ..Job::default() };
        let mut waiting: Vec<Answer> = Vec::new();
        let mut next_walk = Instant::now();
        loop {
            if job.poll && state.is_blind() {
                let watcher = Watcher::new().map(Arc::new);
                changes = watcher.as_ref().ok().map(|watcher| watcher.changes());
                state.watch_by(watcher);
                job.walk = true;
            }
            let walks = job.walk;
            let sweep = tokio::task::spawn_blocking(move || {
                let news = state.sweep(job);
                (state, news)
            });
            let news;
            (state, news) = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                done = sweep => done.map_err(|source| InventoryError::Look { source })?,
            };
            if walks {
                next_walk = Instant::now() + rescan_every;
            }
            if news || walks {
                observed.send_replace(Arc::new(state.observed()));
            }
            for answer in waiting {
                // Whoever asked may have gone away.
                let _ = answer.send(Arc::clone(&observed.borrow()));
            }
            (job, waiting) = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                next = next_job(&mut state, &mut changes, &mut requests, &mut writers, next_walk) => next,
            };
        }
    }
}

type Answer = oneshot::Sender<Arc<Observed>>;

/// Waits until there is something to do, and takes everything that waits by then.
async fn next_job(
    state: &mut State,
    changes: &mut Option<Changes>,
    requests: &mut mpsc::Receiver<Asked>,
    writers: &mut watch::Receiver<u32>,
    next_walk: Instant,
) -> (Job, Vec<Answer>) {
    let check = Instant::now() + CHECK_EVERY;
    let mut closed = false;
    loop {
        let poll = state.poll_due();
        let deadline =
            [state.next_busy(), poll].into_iter().flatten().fold(check.min(next_walk), Instant::min);
        let (mut job, mut waiting) = (Job::default(), Vec::new());
        let due = tokio::select! {
            asked = requests.recv(), if !closed => {
                closed = asked.is_none();
                if let Some(asked) = asked {
                    take(asked, &mut job, &mut waiting);
                }
                false
            }
            set = next_changes(changes), if *writers.borrow() == 0 => { job.changes = set; false }
            Ok(()) = writers.changed() => false,
            () = tokio::time::sleep_until(deadline) => true,
        };
        while let Ok(asked) = requests.try_recv() {
            take(asked, &mut job, &mut waiting);
        }
        if *writers.borrow() == 0
            && let Some(set) = next_changes(changes).now_or_never()
        {
            job.changes.merge(set);
        }
        let now = Instant::now();
        job.walk |= now >= next_walk;
        job.poll = poll.is_some_and(|poll| now >= poll);
        state.postpone_busy(&mut job.changes, now);
        if due || !waiting.is_empty() || job.walk || job.poll || !job.changes.is_empty() {
            return (job, waiting);
        }
    }
}

async fn next_changes(changes: &mut Option<Changes>) -> ChangeSet {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

fn take((request, answer): Asked, job: &mut Job, waiting: &mut Vec<Answer>) {
    match request {
        Request::Walk => job.walk = true,
        Request::Reread(places) => job.reread.extend(places),
        Request::Rules(book) => job.rules = Some(book),
        Request::Applied(applied) => job.applied.extend(applied),
        Request::Share(forest) => job.shared = Some(forest),
    }
    waiting.push(answer);
}
