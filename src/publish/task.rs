//! The publishing task: looks, decides, prepares, stages and offers to the log, one generation after another.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::crash;
use crate::inventory::{InventoryHandle, Observed};
use crate::model::{
    ClusterState, Commit, CommitOutcome, Coordinator, Digest, Epoch, HeldList, LetThrough, NodeId,
    OutlookAsked, OutlookHandle, Place, Problem, RootName, Rules, Seed, Severity, Withheld, unix_ms,
};
use crate::plan::{DeleteWindow, Matcher, PatternError};
use crate::publish::batch::{Batch, Decision, Gather, Scene};
use crate::publish::malformed::Malformations;
use crate::publish::prepare::{Draft, LeftOut, Prepared, base_forest, prepare};
use crate::publish::shut::{open_roots, shut_roots};
use crate::publish::stage::{Stages, no_majority};
use crate::publish::task::held::MASS_DELETE;
use crate::publish::task::rules::OwnRules;
use crate::publish::{LastPublish, Observer, PublishError, PublishStatus, Timing, Validate};
use crate::rpc::{Peers, Upload};
use crate::store::{Adopted, Store};

/// Without a majority for this long, it is a problem.
const MAJORITY_WITHIN: Duration =
    if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(10) };
/// How long the log's news may take to arrive here after it said that it has a commit.
const APPLIED_WITHIN: Duration = Duration::from_secs(5);
/// What changed while it was read is looked at again after this.
const READ_AGAIN: Duration = Duration::from_millis(2);
/// After an approved list could not go out whole.
const PUT_OFF: Duration = Duration::from_secs(5);
/// After a publish failed on this node.
const AGAIN: Duration = Duration::from_secs(1);
/// What is held is noted on disk this often at most: it may grow by the second.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// What publishing is told at the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name.
    pub node: String,
    /// How long changes wait.
    pub timing: Timing,
    /// Deletes above this within ten minutes are held.
    pub max_delete: u64,
    /// What is done about malformed XML.
    pub validate: Validate,
    /// The rules of this node's own file.
    pub rules: Rules,
    /// Roots that may be absent.
    pub optional: BTreeSet<RootName>,
    /// The cap of what is sent to all members together.
    pub upload: Upload,
    /// Where a large parcel is kept while it is sent: on the disk of the data folder.
    pub spool_dir: PathBuf,
}

/// What others see of the task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PublishHandle {
    /// How publishing stands; all zero while this node is not the manager.
    pub status: watch::Receiver<PublishStatus>,
    /// What would go out next.
    pub outlook: OutlookHandle,
    /// Whether a generation may be on its way into the log.
    pub in_flight: watch::Receiver<bool>,
}

/// The task. Does nothing while this node is not the manager.
pub struct PublishTask {
    config: Config,
    coordinator: Arc<dyn Coordinator>,
    state: watch::Receiver<Option<Arc<ClusterState>>>,
    observed: watch::Receiver<Arc<Observed>>,
    heads: watch::Receiver<Option<(u64, Digest)>>,
    store: Store,
    active: watch::Receiver<Option<Epoch>>,
    withheld: watch::Receiver<Arc<Withheld>>,
    observer: Arc<dyn Observer>,
    status: watch::Sender<PublishStatus>,
    in_flight: watch::Sender<bool>,
    asked: OutlookAsked,
    stages: Stages,
    /// The epoch that the fields below belong to.
    epoch: Option<Epoch>,
    gather: Gather,
    malformed: Malformations,
    window: DeleteWindow,
    /// The head up to which the window counts.
    counted: Option<u64>,
    matchers: (Rules, BTreeMap<RootName, Matcher>),
    own: OwnRules,
    /// What a person may let through.
    lists: Vec<Arc<HeldList>>,
    /// What is noted as held, and when that was written.
    noted: (BTreeSet<Place>, Option<Instant>),
    /// A list that a person agreed to and that could not go out whole; until when it is not tried.
    put_off: Option<(Digest, Instant)>,
    /// What went wrong in the last attempt; until when nothing is tried.
    failed: Option<(Problem, Instant)>,
    last: Option<LastPublish>,
}

/// The right to publish, and what from.
#[derive(Clone)]
struct Office {
    me: NodeId,
    epoch: Epoch,
    /// The head; none before the first generation.
    parent: Option<Arc<Adopted>>,
    /// The number of the next generation.
    next: u64,
    /// The rules in force: the head's, or before the first generation this node's own.
    rules: Rules,
    paused: bool,
}

enum Standing {
    /// Another node is manager, or this one's folder is not at the head yet.
    Out,
    /// The log is ahead of this node's store, into which another task takes what it says.
    Behind,
    In(Office),
}

/// Makes the task and what others see of it.
///
/// `active` is the epoch in which this node may publish: its folder was brought to the head. `withheld` are places that
/// must not be published although they differ.
#[allow(clippy::too_many_arguments)]
#[must_use]
pub fn new(
    mut config: Config,
    coordinator: Arc<dyn Coordinator>,
    inventory: InventoryHandle,
    store: Store,
    peers: Peers,
    active: watch::Receiver<Option<Epoch>>,
    withheld: watch::Receiver<Arc<Withheld>>,
    observer: Arc<dyn Observer>,
) -> (PublishHandle, PublishTask) {
    config.rules.roots.sort_by(|(a, _), (b, _)| a.cmp(b));
    let (status, seen) = watch::channel(PublishStatus::default());
    let (in_flight, flies) = watch::channel(false);
    let (outlook, asked) = OutlookHandle::new();
    let stages = Stages::new(peers, store.clone(), &config, Arc::clone(&observer));
    let task = PublishTask {
        gather: Gather::new(config.timing),
        state: coordinator.state(),
        observed: inventory.observed(),
        config,
        coordinator,
        heads: store.heads(),
        store,
        active,
        withheld,
        observer,
        status,
        in_flight,
        asked,
        stages,
        epoch: None,
        malformed: Malformations::default(),
        window: DeleteWindow::default(),
        counted: None,
        matchers: Default::default(),
        own: OwnRules::default(),
        lists: Vec::new(),
        noted: Default::default(),
        put_off: None,
        failed: None,
        last: None,
    };
    (PublishHandle { status: seen, outlook, in_flight: flies }, task)
}

impl PublishTask {
    /// Publishes until `stop`. A proposal that is in flight then stays in flight: its outcome is in the log.
    ///
    /// # Errors
    /// [`PublishError`] when the store can't be trusted any more.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), PublishError> {
        loop {
            let wake = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                wake = self.turn() => wake?,
            };
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let gone = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep => false,
                answer = self.asked.next() => {
                    self.answer(answer).await;
                    false
                }
                changed = self.observed.changed() => changed.is_err(),
                changed = self.state.changed() => changed.is_err(),
                changed = self.active.changed() => changed.is_err(),
                changed = self.withheld.changed() => changed.is_err(),
                changed = self.heads.changed() => changed.is_err(),
            };
            if gone {
                // Whoever spoke has ended, so the daemon is about to.
                stop.cancelled().await;
                return Ok(());
            }
        }
    }

    /// Looks once, and publishes what is due. Says when to look again even if nothing changes.
    async fn turn(&mut self) -> Result<Option<Instant>, PublishError> {
        let office = match self.office() {
            Standing::Out => {
                self.epoch = None;
                self.status.send_if_modified(|status| std::mem::take(status) != PublishStatus::default());
                return Ok(None);
            }
            Standing::Behind => return Ok(None),
            Standing::In(office) => office,
        };
        if self.epoch != Some(office.epoch) {
            self.enter(office.epoch)?;
        }
        self.count_deletes(office.parent.as_ref().map_or(0, |parent| parent.generation.number)).await?;
        let observed = Arc::clone(&self.observed.borrow_and_update());
        if !observed.complete {
            return Ok(None);
        }
        let ((decision, own), notes) = match self.decide(&office, &observed).await {
            Ok(decided) => decided,
            Err(error) => return self.after_failure(error).map(Some),
        };
        let note_again = self.note_held().await?;
        let approved = self.approved(&office);
        let (batch, rules) = match (decision, own) {
            _ if office.paused => {
                self.tell(notes);
                return Ok(Some(Instant::now() + AGAIN));
            }
            _ if self.failed.as_ref().is_some_and(|(_, until)| *until > Instant::now()) => {
                self.tell(notes);
                return Ok(self.failed.as_ref().map(|(_, until)| *until));
            }
            _ if let Some(list) = &approved => self.batch_of(list),
            // Alone: what was observed was observed under the former rules.
            (_, Some(rules)) => (Batch { edits: BTreeMap::new(), seen: Instant::now() }, Some(rules)),
            (Decision::Go(batch), None) => (batch, None),
            (Decision::Wait(at), None) => {
                self.tell(notes);
                return Ok([Some(at), note_again].into_iter().flatten().min());
            }
            (Decision::Idle, None) => {
                self.tell(notes);
                return Ok([self.own.compare_again(), note_again].into_iter().flatten().min());
            }
        };
        self.tell(notes.clone());
        self.in_flight.send_replace(true);
        let list = approved.map(|list| list.digest);
        let published = self.publish(&office, &observed, batch, rules, list, &notes).await;
        self.in_flight.send_replace(false);
        match published {
            Ok(wait) => {
                self.failed = None;
                Ok(Some(Instant::now() + wait))
            }
            Err(error) => self.after_failure(error).map(Some),
        }
    }

    fn office(&mut self) -> Standing {
        let Some(epoch) = *self.active.borrow_and_update() else { return Standing::Out };
        let Some(me) = self.coordinator.standing().borrow().node else { return Standing::Out };
        let Some(state) = self.state.borrow_and_update().clone() else { return Standing::Out };
        if !holds_office(&state, epoch, me) {
            return Standing::Out;
        }
        // Before the cluster's first generation, what this store may know is another cluster's.
        let parent = state.head.as_ref().and_then(|_| self.store.head());
        let adopted = parent.as_ref().map(|head| (head.generation.number, head.generation.digest));
        if adopted != state.head.as_ref().map(|head| (head.generation, head.digest)) {
            return Standing::Behind;
        }
        if parent.is_none() && !may_be_first(&state.seed, me) {
            return Standing::Out;
        }
        let rules = parent.as_ref().map_or_else(|| self.config.rules.clone(), |head| head.rules.clone());
        let Some(next) = state.next_generation() else { return Standing::Out };
        Standing::In(Office { me, epoch, parent, next, rules, paused: state.paused.is_some() })
    }

    /// Begins an epoch: forgets what was pending in another one.
    fn enter(&mut self, epoch: Epoch) -> Result<(), PublishError> {
        // What an earlier process held in this folder is held still, as far as it differs still.
        let held = self.store.held(MASS_DELETE)?;
        self.epoch = Some(epoch);
        self.gather = Gather::new(self.config.timing);
        self.malformed = Malformations::default();
        self.gather.go_on_holding(held.clone(), Instant::now());
        self.noted = (held, None);
        self.own = OwnRules::default();
        self.lists.clear();
        self.failed = None;
        self.counted = None;
        Ok(())
    }

    /// Notes on disk what is held, so that it stays so over a restart. Says when to come again, if that is too early.
    async fn note_held(&mut self) -> Result<Option<Instant>, PublishError> {
        let (now, held) = (Instant::now(), self.gather.held_places());
        if held == self.noted.0 {
            return Ok(None);
        }
        if let Some(due) = self.noted.1.map(|at| at + NOTE_EVERY).filter(|due| *due > now) {
            return Ok(Some(due));
        }
        let (store, noted) = (self.store.clone(), held.clone());
        tokio::task::spawn_blocking(move || store.set_held(MASS_DELETE, &noted)).await??;
        self.noted = (held, Some(now));
        Ok(None)
    }

    /// Counts the deletes of the log's own commits up to `head`, however their outcome became known here.
    async fn count_deletes(&mut self, head: u64) -> Result<(), PublishError> {
        if self.counted == Some(head) {
            return Ok(());
        }
        let store = self.store.clone();
        let history = tokio::task::spawn_blocking(move || store.history(usize::MAX)).await??;
        let state = self.state.borrow().clone();
        let was_approved = |generation| state.as_ref().is_some_and(|state| state.was_approved(generation));
        let counted = history.iter().filter(|entry| !was_approved(entry.generation.number));
        let commits = counted.map(|entry| (entry.generation.created_unix_ms, entry.removed));
        self.window = DeleteWindow::over(commits, Instant::now(), unix_ms());
        self.counted = Some(head);
        Ok(())
    }

    /// What is due now, with rules of this node's own file if those go out before it, and what there is to say.
    async fn decide(
        &mut self,
        office: &Office,
        observed: &Arc<Observed>,
    ) -> Result<((Decision, Option<Rules>), Vec<Problem>), PublishError> {
        let mut problems = Vec::new();
        let own = self.own_rules(office, observed, &mut problems).await?;
        let shut = shut_roots(&office.rules, &self.config.optional, observed, &mut problems);
        let is_first = office.parent.is_none();
        let is_bare = observed.forest.roots.values().all(crate::model::Manifest::is_bare);
        if is_first && (!shut.is_empty() || is_bare || !observed.failed.is_empty()) {
            // A folder that is not there, empty, or not to be read as a whole never becomes the first generation.
            return Ok(((Decision::Idle, None), problems));
        }
        if self.matchers.0 != office.rules || self.matchers.1.is_empty() {
            self.matchers = (office.rules.clone(), matchers(&office.rules)?);
        }
        let base = base_forest(office.parent.as_deref(), &office.rules);
        let now = Instant::now();
        let withheld = Arc::clone(&self.withheld.borrow_and_update());
        let matchers = &self.matchers.1;
        let protected =
            |place: &Place| matchers.get(&place.root).is_some_and(|matcher| matcher.protected(&place.path));
        self.malformed.forget(&observed.forest);
        let scene = Scene {
            head: &base,
            observed: &observed.forest,
            touched: &observed.touched,
            busy: &observed.busy,
            shut: &shut,
            withheld: &withheld,
            malformed: Some(&self.malformed).filter(|_| self.config.validate == Validate::Hold),
            unreadable: &|place| observed.is_unreadable(place),
            protected: &protected,
        };
        self.gather.update(&scene, now);
        let left = self.window.left(now, self.config.max_delete);
        let decision = self.gather.decide(&base, now, left);
        self.name_problems(now, &mut problems);
        self.list_held(office);
        Ok(((decision, own), problems))
    }

    /// Brings a batch into the log. Says how long to wait before the next look.
    async fn publish(
        &mut self,
        office: &Office,
        observed: &Observed,
        batch: Batch,
        rules: Option<Rules>,
        list: Option<Digest>,
        notes: &[Problem],
    ) -> Result<Duration, PublishError> {
        let decided = Instant::now();
        let draft = Draft {
            parent: office.parent.clone(),
            number: office.next,
            edits: batch.edits,
            rules: rules.unwrap_or_else(|| office.rules.clone()),
            epoch: office.epoch,
            author: self.config.node.clone(),
            created_unix_ms: unix_ms(),
            validate: self.config.validate,
            exact: list.is_some(),
        };
        let waited_us = u64::try_from(batch.seen.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(target: "syncd::step", generation = office.next, waited_us, "gathered");
        let (roots, store, dir) = (open_roots(observed), self.store.clone(), self.config.spool_dir.clone());
        let (ready, encoded) = oneshot::channel();
        let pinning = tokio::task::spawn_blocking(move || {
            // Nobody listens only while the daemon stops.
            prepare(draft, &roots, &store, &dir, |prepared| drop(ready.send(prepared)))
        });
        let Ok(prepared) = encoded.await else {
            let left_out = pinning.await??;
            self.leave_out(left_out);
            // An approved list that can't go out as it was shown is tried again later, and holds nothing else up.
            self.put_off = list.map(|list| (list, Instant::now() + PUT_OFF));
            return Ok(if list.is_some() { Duration::ZERO } else { READ_AGAIN });
        };
        let (prepared, read) = (Arc::new(prepared), Instant::now());
        crash::point("publish.before-stage");
        let Some(holders) = self.stage(office, Arc::clone(&prepared), pinning, notes).await? else {
            return Ok(Duration::ZERO);
        };
        let staged = Instant::now();
        tracing::debug!(target: "syncd::step", generation = office.next, "proposed");
        crash::point("publish.after-stage");
        let is_committed = self.commit(office, &prepared, holders, list).await;
        crash::point("publish.after-commit");
        if is_committed {
            let done = Instant::now();
            tracing::debug!(target: "syncd::step", generation = office.next, "outcome known");
            self.window.note(done, Duration::ZERO, if list.is_some() { 0 } else { prepared.deletes });
            self.counted = Some(prepared.generation.number);
            let last = LastPublish {
                generation: prepared.generation.number,
                changes: prepared.changes,
                parcel_bytes: prepared.parcel.spool.bytes(),
                gather: decided.saturating_duration_since(batch.seen),
                read: read - decided,
                stage: staged - read,
                commit: done - staged,
            };
            tracing::info!(
                generation = last.generation,
                changes = last.changes,
                bytes = last.parcel_bytes,
                gather = ?last.gather,
                read = ?last.read,
                stage = ?last.stage,
                commit = ?last.commit,
                "published"
            );
            let steps = [
                ("gather", last.gather),
                ("read", last.read),
                ("stage", last.stage),
                ("commit", last.commit),
            ];
            steps.into_iter().for_each(|(step, took)| self.observer.step(step, took));
            self.observer.published(done.saturating_duration_since(batch.seen));
            self.last = Some(last);
            let wanted = prepared.generation.number;
            let arrived = self.state.wait_for(|state| {
                state
                    .as_ref()
                    .is_some_and(|state| state.generation() >= wanted || state.epoch() != office.epoch)
            });
            if tokio::time::timeout(APPLIED_WITHIN, arrived).await.is_err() {
                tracing::warn!(generation = wanted, "committed, but this node's own log is not there yet");
            }
        }
        Ok(Duration::ZERO)
    }

    /// Sends the generation to every member until a majority of the voters, this node among them, holds it. None when
    /// this node may not publish it any more.
    async fn stage(
        &mut self,
        office: &Office,
        prepared: Arc<Prepared>,
        mut pinning: JoinHandle<Result<LeftOut, PublishError>>,
        notes: &[Problem],
    ) -> Result<Option<BTreeSet<NodeId>>, PublishError> {
        let parent = prepared.generation.parent;
        let (round, mut answers) = self.stages.round(prepared);
        let mut holders = BTreeSet::new();
        let mut begun = BTreeSet::from([office.me]);
        let mut refusals: BTreeMap<NodeId, String> = BTreeMap::new();
        let late = tokio::time::sleep(MAJORITY_WITHIN);
        tokio::pin!(late);
        loop {
            let Some(state) = self.state.borrow_and_update().clone() else { return Ok(None) };
            let is_active = *self.active.borrow_and_update() == Some(office.epoch);
            let is_over = !holds_office(&state, office.epoch, office.me) || state.generation() != parent;
            if !is_active || is_over || state.paused.is_some() {
                tracing::info!(
                    epoch = office.epoch,
                    paused = state.paused.is_some(),
                    "a generation was given up: this node may not publish it now"
                );
                return Ok(None);
            }
            for (id, member) in state.members.iter().filter(|(id, _)| begun.insert(**id)) {
                self.stages.send(&round, *id, member);
            }
            // Whoever names the holders is one: what it commits it never has to get back from them.
            if holders.contains(&office.me) && state.is_majority(&holders) {
                return Ok(Some(holders));
            }
            if late.is_elapsed() {
                let mut problems = notes.to_vec();
                problems.push(no_majority(&state, &holders, &refusals));
                self.tell(problems);
            }
            tokio::select! {
                pinned = &mut pinning, if !holders.contains(&office.me) => {
                    self.leave_out(pinned??);
                    holders.insert(office.me);
                }
                answer = answers.recv() => {
                    let Some(answer) = answer else { return Ok(None) };
                    match answer.refused {
                        None => { holders.insert(answer.member); }
                        Some(why) => { refusals.insert(answer.member, why); }
                    }
                }
                () = &mut late, if !late.is_elapsed() => {}
                changed = self.state.changed() => if changed.is_err() { return Ok(None) },
                changed = self.active.changed() => if changed.is_err() { return Ok(None) },
            }
        }
    }

    /// Holds back what could not be read, or is malformed.
    fn leave_out(&mut self, left_out: LeftOut) {
        let now = Instant::now();
        left_out.unreadable.iter().for_each(|place| self.gather.postpone(place, now));
        self.malformed.note(left_out.malformed);
    }

    /// Offers the generation to the log; true when it is the head now. After an unknown outcome the log is read, for
    /// as long as it takes, before anything else may be built on the same parent.
    async fn commit(
        &mut self,
        office: &Office,
        prepared: &Prepared,
        holders: BTreeSet<NodeId>,
        list: Option<Digest>,
    ) -> bool {
        let generation = &prepared.generation;
        let commit = Commit {
            epoch: office.epoch,
            parent: generation.parent,
            generation: generation.number,
            digest: generation.digest,
            author: office.me,
            committed_unix_ms: unix_ms(),
            holders,
        };
        let number = commit.generation;
        let offered = match list {
            None => self.coordinator.commit(commit),
            Some(list) => {
                let lets_through = LetThrough { generation: number, list };
                self.coordinator.commit_approved(commit, lets_through)
            }
        };
        match offered.await {
            Ok(CommitOutcome::Committed) => return true,
            Ok(CommitOutcome::Refused(why)) => {
                tracing::info!(generation = generation.number, %why, "the log refused a generation");
                return false;
            }
            Err(error) => tracing::warn!(generation = generation.number, %error, "asking the log"),
        }
        let mut wait = Duration::from_millis(100);
        loop {
            if let Some(state) = self.coordinator.confirm().await {
                return state.head.as_ref().is_some_and(|head| {
                    (head.generation, head.digest, head.epoch)
                        == (generation.number, generation.digest, generation.epoch)
                });
            }
            let state = self.state.borrow().clone();
            if state.is_none_or(|state| !holds_office(&state, office.epoch, office.me)) {
                return false;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(AGAIN);
        }
    }

    /// Goes on after a while, unless the disk can't be trusted.
    fn after_failure(&mut self, error: PublishError) -> Result<Instant, PublishError> {
        if error.is_fatal() {
            return Err(error);
        }
        tracing::warn!(error = &error as &dyn std::error::Error, "nothing could be published");
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        let remedy = "free space on the data folder's disk, or see the log; it is tried again by itself";
        let until = Instant::now() + AGAIN;
        self.failed = Some((Problem::new(Severity::Critical, "publish-failed", message, remedy), until));
        self.tell(Vec::new());
        Ok(until)
    }

    fn tell(&self, mut problems: Vec<Problem>) {
        problems.extend(self.failed.iter().map(|(problem, _)| problem.clone()));
        let (pending, (held, _)) = (self.gather.pending(), self.gather.held());
        let held = held + self.own.held();
        let (lists, last) = (self.lists.clone(), self.last.clone());
        let status = PublishStatus { pending, held, lists, problems, last };
        self.status.send_if_modified(|told| {
            let is_news = *told != status;
            *told = status;
            is_news
        });
    }
}

fn holds_office(state: &ClusterState, epoch: Epoch, me: NodeId) -> bool {
    state.office_of(me) == Some(epoch)
}

fn may_be_first(seed: &Seed, me: NodeId) -> bool {
    match seed {
        Seed::Anyone => true,
        Seed::OneOf(nodes) => nodes.contains(&me),
        Seed::Conflict(_) => false,
    }
}

fn matchers(rules: &Rules) -> Result<BTreeMap<RootName, Matcher>, PatternError> {
    rules.roots.iter().map(|(root, rules)| Ok((root.clone(), Matcher::new(rules)?))).collect()
}

mod held;
mod outlook;
mod rules;
#[cfg(test)]
mod tests;
