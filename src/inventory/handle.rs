//! How the features speak with the inventory.

use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::inventory::Observed;
use crate::inventory::state::{Applied, RuleBook};
use crate::model::{Entry, Forest, Meter, Place, Rules};
use crate::plan::PatternError;
use crate::tree::Seen;

/// What the task is asked to do; it answers when the result is published.
#[derive(Debug)]
pub(super) enum Request {
    /// Walk everything.
    Walk,
    /// Read these again, whatever is known of them.
    Reread(Vec<Place>),
    /// Go by other rules.
    Rules(RuleBook),
    /// Take over what was just written here.
    Applied(Applied),
    /// Keep what equals this only once in memory.
    Share(Forest),
}

/// How far reading every file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reread {
    /// Files read.
    pub files: u64,
    /// Files that there were at the beginning.
    pub files_total: u64,
    /// Bytes in the files read.
    pub bytes: u64,
    /// Bytes in all files.
    pub bytes_total: u64,
}

/// What is read anew without a look at events: some milliseconds.
const PORTION_FILES: usize = 64;
const PORTION_BYTES: u64 = 4 << 20;

pub(super) type Asked = (Request, oneshot::Sender<Arc<Observed>>);

/// How the features speak with the inventory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct InventoryHandle {
    pub(super) requests: mpsc::Sender<Asked>,
    pub(super) observed: watch::Receiver<Arc<Observed>>,
    pub(super) meter: Meter,
    pub(super) writers: watch::Sender<u32>,
}

/// While it lives, what is reported of the roots waits: see [`InventoryHandle::writing`].
#[derive(Debug)]
pub struct Writing(watch::Sender<u32>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.send_modify(|writers| *writers -= 1);
    }
}

impl InventoryHandle {
    /// What the roots hold, from now on.
    #[must_use]
    pub fn observed(&self) -> watch::Receiver<Arc<Observed>> {
        self.observed.clone()
    }

    /// Counts the files of a walk that is under way, as `scanning`.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Walks all roots and says what they hold; the walk begins after this call. Files whose times and sizes say
    /// that they are unchanged are not read.
    pub async fn rescan(&self) -> Arc<Observed> {
        self.ask(Request::Walk).await
    }

    /// As [`InventoryHandle::rescan`], and reads every file.
    pub async fn verify(&self) -> Arc<Observed> {
        let whole = self.verify_with(|_| ControlFlow::Continue(())).await;
        whole.unwrap_or_else(|| Arc::clone(&self.observed.borrow()))
    }

    /// As [`InventoryHandle::verify`], and says how far it is after each portion; none when it was told to break off.
    ///
    /// Between two portions the task attends to events, so that changes are noticed meanwhile as fast as ever.
    pub async fn verify_with(
        &self,
        mut report: impl FnMut(Reread) -> ControlFlow<()>,
    ) -> Option<Arc<Observed>> {
        let mut observed = self.rescan().await;
        let files: Vec<(Place, u64)> = observed
            .forest
            .iter()
            .filter(|(_, entry)| !entry.is_folder())
            .map(|(place, entry)| match entry {
                Entry::File { size, .. } => (place, *size),
                Entry::Folder { .. } | Entry::Link { .. } => (place, 0),
            })
            .collect();
        let mut now = Reread {
            files: 0,
            files_total: files.len() as u64,
            bytes: 0,
            bytes_total: files.iter().map(|(_, size)| size).sum(),
        };
        let mut rest = files.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut portion, mut bytes) = (Vec::new(), 0);
            while let Some((place, size)) = rest.next_if(|(_, size)| {
                portion.is_empty() || (portion.len() < PORTION_FILES && bytes + size <= PORTION_BYTES)
            }) {
                bytes += size;
                portion.push(place);
            }
            now.files += portion.len() as u64;
            now.bytes += bytes;
            observed = self.ask(Request::Reread(portion)).await;
            if report(now).is_break() {
                return None;
            }
        }
        Some(observed)
    }

    /// Goes by `rules` from now on; returns what the roots hold under them. A root that they do not name keeps the
    /// rules it had.
    ///
    /// # Errors
    /// [`PatternError`] when a pattern is none: the former rules stay in force then.
    pub async fn set_rules(&self, rules: &Rules) -> Result<Arc<Observed>, PatternError> {
        let book = RuleBook::new(rules)?;
        Ok(self.ask(Request::Rules(book)).await)
    }

    /// Before the caller writes to many places: their events wait until what this returns is dropped, which should be
    /// after [`InventoryHandle::applied`], so that nothing is read that this node just wrote. Walks go on.
    #[must_use]
    pub fn writing(&self) -> Writing {
        self.writers.send_modify(|writers| *writers += 1);
        Writing(self.writers.clone())
    }

    /// Says what the caller itself just made of some places, so that nothing need be read again; `Seen::stat` is
    /// what a stat said *after* the last call on the path. A place that looks different by now is looked at as usual.
    pub async fn applied(&self, places: Vec<(Place, Option<Seen>)>) -> Arc<Observed> {
        self.ask(Request::Applied(places)).await
    }

    /// Offers what the caller keeps in memory anyway: a root that holds the same is told by it from then on.
    pub async fn share(&self, forest: Forest) {
        self.ask(Request::Share(forest)).await;
    }

    /// After the task has ended, the last state is the answer.
    async fn ask(&self, request: Request) -> Arc<Observed> {
        let (answer, answered) = oneshot::channel();
        if self.requests.send((request, answer)).await.is_ok()
            && let Ok(observed) = answered.await
        {
            return observed;
        }
        Arc::clone(&self.observed.borrow())
    }
}
