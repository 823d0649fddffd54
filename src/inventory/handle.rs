//! How the features speak with the inventory.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::inventory::Observed;
use crate::inventory::state::{Applied, RuleBook};
use crate::model::{Place, Rules};
use crate::plan::PatternError;
use crate::tree::Seen;

/// What the task is asked to do; it answers when the result is published.
#[derive(Debug)]
pub(super) enum Request {
    /// Walk everything; without the cache, read everything.
    Walk { cached: bool },
    /// Go by other rules.
    Rules(RuleBook),
    /// Take over what was just written here.
    Applied(Applied),
}

pub(super) type Asked = (Request, oneshot::Sender<Arc<Observed>>);

/// How the features speak with the inventory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct InventoryHandle {
    pub(super) requests: mpsc::Sender<Asked>,
    pub(super) observed: watch::Receiver<Arc<Observed>>,
}

impl InventoryHandle {
    /// What the roots hold, from now on.
    #[must_use]
    pub fn observed(&self) -> watch::Receiver<Arc<Observed>> {
        self.observed.clone()
    }

    /// Walks all roots and says what they hold; the walk begins after this call. Files whose times and sizes say
    /// that they are unchanged are not read.
    pub async fn rescan(&self) -> Arc<Observed> {
        self.ask(Request::Walk { cached: true }).await
    }

    /// As [`InventoryHandle::rescan`], and reads every file.
    pub async fn verify(&self) -> Arc<Observed> {
        self.ask(Request::Walk { cached: false }).await
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

    /// Says what the caller itself just made of some places, so that nothing need be read again; `Seen::stat` is
    /// what a stat said *after* the last call on the path. A place that looks different by now is looked at as usual.
    pub async fn applied(&self, places: Vec<(Place, Option<Seen>)>) -> Arc<Observed> {
        self.ask(Request::Applied(places)).await
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
