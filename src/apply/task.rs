//! Keeps this node at the head: adopts what the log commits, gets what it lacks, and tends the files (`files`).
//!
//! One task, woken by the log, by the election and by what the roots hold. Whatever woke it, it looks at the whole
//! state and does the next thing; it relies on no transition being seen. Invariants: nothing is adopted that is not in
//! this node's own applied log; no root is touched before a leader heard by this process has confirmed that log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::OptionFuture;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::apply::displaced::Displaced;
use crate::apply::files::Failing;
use crate::apply::handover::{Handover, Sent};
use crate::apply::judge::{Memory, Unread};
use crate::apply::owner::Owners;
use crate::apply::restore::{Ask, Restorer};
use crate::apply::status::of_lost;
use crate::apply::taking::Offered;
use crate::apply::{
    ApplyStatus, DriftPolicy, Observer, Offerer, Quiet, RootProblem, Stager, Supplier, Taker,
};
use crate::inventory::{InventoryHandle, Observed};
use crate::model::{
    ClusterState, Coordinator, Digest, Epoch, Forest, HeldList, NodeId, NodeState, OutlookAsked,
    OutlookHandle, Place, Problem, RootName, Rules, Severity, Standing, Withheld,
};
use crate::rpc::Upload;
use crate::store::{Adopted, Applied, GivenUp, Redeployed, Store, StoreError};

/// How often everything is looked at although nothing happened: a root may have been exchanged.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The problem of a node whose data has no room.
const STORE_FULL: &str = "store-full";
/// The first and the longest wait before a generation is asked for again.
const SUPPLY_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How this node goes about it.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is done about drift.
    pub drift: DriftPolicy,
    /// More unknown files than this at first contact, or changes while nobody watched, need a person.
    pub max_delete: u64,
    /// How long a place must be quiet before drift is judged.
    pub quiet: Quiet,
    /// One scan of the gateway, with room: within two of them a change of what was written is the gateway's answer.
    pub scan: Duration,
    /// How long late changes are offered to the next manager.
    pub handover: Duration,
    /// True: keeps the store only.
    pub witness: bool,
}

/// What it works with.
pub struct Parts {
    /// Who decides.
    pub coordinator: Arc<dyn Coordinator>,
    /// What the roots hold.
    pub inventory: InventoryHandle,
    /// This node's data.
    pub store: Store,
    /// Where generations come from that were not staged here.
    pub supplier: Arc<dyn Supplier>,
    /// Who brings late changes to the next manager.
    pub offerer: Arc<dyn Offerer>,
    /// Takes what is measured.
    pub observer: Arc<dyn Observer>,
    /// The cap of what is sent to all members together.
    pub upload: Upload,
}

/// What others see of the task. Cheap to clone.
#[derive(Clone)]
pub struct ApplyHandle {
    /// How far this node is.
    pub status: watch::Receiver<Arc<ApplyStatus>>,
    /// The epoch in which this node is manager and its folder was brought to the head; none otherwise.
    pub active: watch::Receiver<Option<Epoch>>,
    /// What must not be published although it differs from the head: it changed while nobody watched.
    pub held_at_start: watch::Receiver<Arc<Withheld>>,
    /// Answers peers.
    pub stager: Stager,
    /// Takes what a person wants back from quarantine, on the manager.
    pub restorer: Restorer,
    /// Takes late changes of a former manager.
    pub taker: Taker,
    /// What would be done to the files next.
    pub outlook: OutlookHandle,
}

/// Why the task ended: the daemon can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ApplyTaskError {
    /// The store can no longer be trusted.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// A thread ended in a way that should be impossible.
    #[error("working on the files failed")]
    Thread(#[from] tokio::task::JoinError),
}

/// The task. Run it once.
pub struct ApplyTask {
    pub(super) config: Config,
    pub(super) parts: Parts,
    stager: Stager,
    offers: mpsc::Receiver<Offered>,
    state: watch::Receiver<Option<Arc<ClusterState>>>,
    standing: watch::Receiver<Standing>,
    pub(super) observed: watch::Receiver<Arc<Observed>>,
    status: watch::Sender<Arc<ApplyStatus>>,
    asked: OutlookAsked,
    pub(super) active: Arc<watch::Sender<Option<Epoch>>>,
    pub(super) held: watch::Sender<Arc<Withheld>>,
    pub(super) memory: Memory,
    /// What came out of the roots and is looked at once more.
    pub(super) displaced: Vec<Displaced>,
    pub(super) displaced_due: Instant,
    pub(super) failing: Option<Failing>,
    /// Roots whose leftovers of a crash were looked at by this process.
    pub(super) cleared: BTreeSet<RootName>,
    /// Whether this process has watched the folder since it was last known to be the manager's.
    pub(super) watched: bool,
    /// The office that this process was last seen in, until it is seen out of it.
    pub(super) was_active: Option<Epoch>,
    /// Late changes, after an office ended.
    pub(super) handover: Option<Handover>,
    /// An offer of them that is on its way.
    pub(super) offering: Option<JoinHandle<Sent>>,
    /// What the takeover of this epoch brought back because it was missing.
    pub(super) restored: Vec<Place>,
    /// Folders that were to go when this node became manager, and are held until they go.
    pub(super) leaving: BTreeSet<Place>,
    /// When a takeover that walked the roots is tried again: each walk wakes this task.
    pub(super) takeover: Option<(Epoch, Instant)>,
    /// The generation that the record names, with its places.
    pub(super) applied: Option<(Applied, Option<Arc<Forest>>)>,
    pub(super) drifting: BTreeSet<Place>,
    /// What was held when another node became manager, and was undone here since.
    pub(super) undone: BTreeSet<Place>,
    /// Whether it was looked for since the last office.
    pub(super) undone_known: bool,
    restores: mpsc::Receiver<Ask>,
    /// What the store notes of places that could not be read; none until it was asked.
    pub(super) unread: Option<Unread>,
    /// Versions that the gateway did not take; none until the store was asked.
    pub(super) given_up: Option<GivenUp>,
    /// How far orders to load files again were carried out; none until the store was asked.
    pub(super) redeployed: Option<Option<Redeployed>>,
    rules: Option<Rules>,
    /// Who files are to belong to.
    pub(super) owners: Owners,
    supply_due: Instant,
    supply_wait: Duration,
    pub(super) now: Findings,
}

/// What one look found; becomes the status.
#[derive(Debug)]
pub(super) struct Findings {
    pub state: NodeState,
    pub matches: bool,
    pub drifted: u64,
    pub roots: BTreeMap<RootName, RootProblem>,
    pub marks: BTreeMap<RootName, String>,
    pub problems: Vec<Problem>,
    /// What a person may let through.
    pub lists: Vec<Arc<HeldList>>,
    /// When to look again.
    pub next: Instant,
}

/// Makes the task and what others see of it.
#[must_use]
pub fn new(config: Config, parts: Parts) -> (ApplyHandle, ApplyTask) {
    let stager = Stager::new(
        parts.store.clone(),
        Arc::clone(&parts.coordinator),
        parts.upload.clone(),
        Arc::clone(&parts.observer),
    );
    let (status, status_seen) = watch::channel(Arc::default());
    let (active, active_seen) = watch::channel(None);
    let (held, held_seen) = watch::channel(Arc::default());
    let (taker, offers) =
        Taker::new(parts.store.clone(), Arc::clone(&parts.coordinator), active_seen.clone());
    let (outlook, asked) = OutlookHandle::new();
    let (asks, restores) = mpsc::channel(1);
    let restorer = Restorer {
        store: parts.store.clone(),
        state: parts.coordinator.state(),
        active: active_seen.clone(),
        observed: parts.inventory.observed(),
        asks,
        turn: Arc::new(Semaphore::new(1)),
    };
    let handle = ApplyHandle {
        status: status_seen,
        active: active_seen,
        held_at_start: held_seen,
        stager: stager.clone(),
        restorer,
        taker,
        outlook,
    };
    let now = Instant::now();
    let task = ApplyTask {
        state: parts.coordinator.state(),
        standing: parts.coordinator.standing(),
        observed: parts.inventory.observed(),
        config,
        parts,
        stager,
        offers,
        status,
        asked,
        active: Arc::new(active),
        held,
        memory: Memory::default(),
        displaced: Vec::new(),
        displaced_due: now,
        failing: None,
        cleared: BTreeSet::new(),
        watched: false,
        was_active: None,
        handover: None,
        offering: None,
        restored: Vec::new(),
        leaving: BTreeSet::new(),
        takeover: None,
        applied: None,
        drifting: BTreeSet::new(),
        undone: BTreeSet::new(),
        undone_known: false,
        restores,
        unread: None,
        given_up: None,
        redeployed: None,
        rules: None,
        owners: Owners::new(),
        supply_due: now,
        supply_wait: SUPPLY_AGAIN.0,
        now: Findings::new(),
    };
    (handle, task)
}

impl ApplyTask {
    /// Runs until `stop`. A replacement that is under way is finished on its own thread.
    ///
    /// # Errors
    /// When the store can no longer be trusted.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ApplyTaskError> {
        let office = leave_office(Arc::clone(&self.active), self.state.clone(), self.standing.clone());
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = office => Ok(()),
            result = self.look_for_ever() => result,
        }
    }

    async fn look_for_ever(&mut self) -> Result<(), ApplyTaskError> {
        loop {
            self.state.mark_unchanged();
            self.standing.mark_unchanged();
            self.observed.mark_unchanged();
            match self.look().await {
                Err(ApplyTaskError::Store(error)) if error.is_no_space() => self.wait_for_room(&error),
                looked => {
                    if !looked? {
                        continue;
                    }
                }
            }
            self.publish().await?;
            let offering: OptionFuture<_> = self.offering.as_mut().into();
            let woken = tokio::select! {
                Some(sent) = offering => { self.handed_over(sent); Ok(()) }
                Some(offered) = self.offers.recv() => { self.take(offered).await?; Ok(()) }
                changed = self.state.changed() => changed,
                changed = self.standing.changed() => changed,
                changed = self.observed.changed() => changed,
                () = tokio::time::sleep_until(self.now.next) => Ok(()),
                Some(ask) = self.restores.recv() => {
                    self.restore(ask).await?;
                    Ok(())
                }
                answer = self.asked.next() => {
                    let state = self.state.borrow().clone();
                    // Whoever asked may have gone away.
                    let _ = answer.send(self.outlook(state.as_deref()).await?);
                    Ok(())
                }
            };
            if woken.is_err() {
                return Ok(());
            }
        }
    }

    /// The disk of this node's data is full: the files stay as they are, and all is tried again.
    fn wait_for_room(&mut self, error: &StoreError) {
        let message = format!("{error}: no generation can be taken in here, and the files stay as they are");
        let remedy = "free space on the file system of the data folder; it is tried again by itself";
        self.now.problems.retain(|known| known.code != STORE_FULL);
        self.now.problems.push(Problem::new(Severity::Critical, STORE_FULL, message, remedy));
    }

    /// Looks once; false when what it saw was overtaken by the log, so that nothing is said of it.
    async fn look(&mut self) -> Result<bool, ApplyTaskError> {
        self.now = Findings::new();
        if let Err(error) = self.parts.store.check_room() {
            self.wait_for_room(&error);
        }
        let standing = self.standing.borrow().clone();
        let state = self.state.borrow().clone();
        let (Some(state), Some(node)) = (state, standing.node) else { return Ok(true) };
        let head = self.follow_log(&state, node).await?;
        if let Some(head) = &head {
            self.go_by_rules(head).await;
        }
        if self.config.witness {
            self.now.state = NodeState::Witness;
            return Ok(true);
        }
        self.tend_files(&state, &standing, node, head).await
    }

    /// Adopts the log's head, after getting it if it was not staged here; none while there is none, or it is not here.
    async fn follow_log(
        &mut self,
        state: &Arc<ClusterState>,
        node: NodeId,
    ) -> Result<Option<Arc<Adopted>>, ApplyTaskError> {
        let Some(head) = &state.head else { return Ok(None) };
        let (number, digest) = (head.generation, head.digest);
        let mut adopted = self.adopt(number, digest).await?;
        if adopted.is_none() && self.lacks(state, number).await? {
            let store = self.parts.store.clone();
            let pinned = || store.pins().iter().any(|pin| (pin.number, pin.digest) == (number, digest));
            if self.stager.stages.wait_for(number, pinned).await {
                adopted = self.adopt(number, digest).await?;
            }
            if adopted.is_none() {
                adopted = self.get(state, node, number, digest).await?;
            }
        }
        if adopted.is_some() {
            self.supply_wait = SUPPLY_AGAIN.0;
            let epoch = state.epoch();
            let pins = self.parts.store.pins();
            if pins.iter().any(|pin| pin.epoch < epoch || pin.number <= number) {
                let store = self.parts.store.clone();
                blocking(move || store.release(epoch, number)).await??;
            }
        }
        Ok(adopted)
    }

    /// Whether a generation that can't be adopted is missing here. It is not while the log's state is older than the
    /// store, as it may be after a start: getting it would set the store back. Only a head that was applied in another
    /// cluster says nothing.
    async fn lacks(&mut self, state: &ClusterState, number: u64) -> Result<bool, ApplyTaskError> {
        let newer = self.parts.store.head().is_some_and(|own| own.generation.number > number);
        let here = self.applied(state).await?.is_some();
        let elsewhere = !here && self.applied.is_some();
        Ok(!newer || elsewhere)
    }

    async fn get(
        &mut self,
        state: &Arc<ClusterState>,
        node: NodeId,
        number: u64,
        digest: Digest,
    ) -> Result<Option<Arc<Adopted>>, ApplyTaskError> {
        self.now.state = NodeState::Fetching;
        let Some(head) = &state.head else { return Ok(None) };
        if Instant::now() < self.supply_due {
            self.now.problems = self.status.borrow().problems.clone();
            self.now.wait_until(self.supply_due);
            return Ok(None);
        }
        self.publish().await?;
        match self.parts.supplier.supply(state, node, head).await {
            Ok(()) => self.adopt(number, digest).await,
            Err(error) => {
                self.supply_due = Instant::now() + self.supply_wait;
                self.supply_wait = (self.supply_wait * 2).min(SUPPLY_AGAIN.1);
                self.now.wait_until(self.supply_due);
                if let Err(full) = self.parts.store.check_room() {
                    self.wait_for_room(&full);
                    return Ok(None);
                }
                let remedy =
                    "see that the nodes named here run and can be reached; it is tried again by itself";
                let found = Problem::new(Severity::Warning, "fetch-failed", error.to_string(), remedy);
                self.now.problems.push(found);
                Ok(None)
            }
        }
    }

    async fn adopt(&self, number: u64, digest: Digest) -> Result<Option<Arc<Adopted>>, ApplyTaskError> {
        if let Some(head) = self.parts.store.head()
            && (head.generation.number, head.generation.digest) == (number, digest)
        {
            return Ok(Some(head));
        }
        let store = self.parts.store.clone();
        match blocking(move || store.adopt(number, &digest)).await? {
            Ok(adopted) => {
                tracing::debug!(target: "syncd::step", generation = number, "adopted");
                Ok(adopted)
            }
            // The log's state is older than the store, as it may be for a while after a start.
            Err(StoreError::Backwards { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn go_by_rules(&mut self, head: &Adopted) {
        if self.rules.as_ref() == Some(&head.rules) {
            return;
        }
        match self.parts.inventory.set_rules(&head.rules).await {
            Ok(_) => self.rules = Some(head.rules.clone()),
            Err(error) => {
                let remedy = "correct the pattern in the manager's configuration";
                let message = format!("the head's rules can't be used: {error}");
                self.now.problems.push(Problem::new(Severity::Critical, "bad-rules", message, remedy));
            }
        }
    }

    /// Whether what the inventory says was seen under the rules of `head`.
    pub(super) fn goes_by(&self, head: &Adopted) -> bool {
        self.rules.as_ref() == Some(&head.rules)
    }

    /// The log's state, and this node's id.
    pub(super) fn membership(&self) -> (Option<Arc<ClusterState>>, Option<NodeId>) {
        (self.state.borrow().clone(), self.standing.borrow().node)
    }

    /// What was last told.
    pub(super) fn status(&self) -> Arc<ApplyStatus> {
        Arc::clone(&self.status.borrow())
    }

    async fn publish(&mut self) -> Result<(), ApplyTaskError> {
        // Two records that were just read or written: a hop to another thread and back would cost more than they do.
        let (applied, journal) = (self.parts.store.applied()?, self.parts.store.applying()?);
        let cluster = self.state.borrow().as_ref().map(|state| state.cluster);
        let lost = self.parts.store.lost()?;
        let head = self.parts.store.head().filter(|_| lost.is_empty());
        let mut problems = self.now.problems.clone();
        problems.extend(of_lost(&lost));
        let status = ApplyStatus {
            applied: applied
                .filter(|applied| Some(applied.cluster) == cluster)
                .map(|applied| (applied.number, applied.digest)),
            matches_head: self.now.matches,
            state: self.now.state,
            drifted: self.now.drifted,
            quarantined: self.parts.store.quarantine_count(),
            holds: head.as_ref().map(|head| head.generation.number),
            holds_digest: head.as_ref().map(|head| head.generation.digest),
            journal_open: journal.is_some(),
            failed: self.failing.as_ref().map(|failing| failing.reason.clone()),
            roots: self.now.roots.clone(),
            marks: self.now.marks.clone(),
            lists: self.now.lists.clone(),
            problems,
        };
        self.status.send_if_modified(|shown| {
            let changed = **shown != status;
            if changed {
                *shown = Arc::new(status);
            }
            changed
        });
        Ok(())
    }
}

impl Findings {
    fn new() -> Self {
        Self {
            state: NodeState::Behind,
            matches: false,
            drifted: 0,
            roots: BTreeMap::new(),
            marks: BTreeMap::new(),
            problems: Vec::new(),
            lists: Vec::new(),
            next: Instant::now() + LOOK_EVERY,
        }
    }

    pub(super) fn wait_until(&mut self, when: Instant) {
        self.next = self.next.min(when);
    }
}

/// Ends the activity as soon as the log names another manager, whatever the task is waiting for at that moment.
async fn leave_office(
    active: Arc<watch::Sender<Option<Epoch>>>,
    mut state: watch::Receiver<Option<Arc<ClusterState>>>,
    standing: watch::Receiver<Standing>,
) {
    loop {
        let office = office_of(state.borrow_and_update().as_deref(), standing.borrow().node);
        active.send_if_modified(|active| {
            let over = active.is_some() && *active != office;
            if over {
                tracing::info!(epoch = ?active, "not the manager any more");
                *active = None;
            }
            over
        });
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// The epoch in which `node` is manager.
pub(super) fn office_of(state: Option<&ClusterState>, node: Option<NodeId>) -> Option<Epoch> {
    state?.office_of(node?)
}

/// Runs what blocks on the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApplyTaskError> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

#[cfg(test)]
mod tests;
