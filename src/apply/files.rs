//! Tends the roots of this node: an ordinary node follows the head; a new manager brings its folder to the head and
//! publishes from there on; a manager's folder is the source and is not written to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::apply::displaced::{clear_leftovers, drop_displaced};
use crate::apply::judge::{Drift, Sight, Verdict, judge};
use crate::apply::mark::{Admission, Who, admit, join};
use crate::apply::owner::owner_of;
use crate::apply::reconcile::{Round, Site, reconcile};
use crate::apply::status::{about, of_failure, of_root, problem};
use crate::apply::task::{ApplyTask, blocking, office_of};
use crate::apply::{ApplyError, ApplyTaskError, RootProblem};
use crate::inventory::Observed;
use crate::model::{
    ClusterState, Edit, Entry, Epoch, Forest, NodeId, NodeState, Place, Problem, RootName, RootRules, Seed,
    Severity, Standing, unix_ms,
};
use crate::store::{Adopted, Applied, StoreError};
use crate::tree::Root;

/// How long what came out is kept, because a writer may still have it open.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// The first and the longest wait before an apply that failed is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How soon one is tried again that met somebody else's change.
const RESTLESS_AGAIN: Duration = Duration::from_millis(50);
/// How soon a new manager asks again for the newest state.
const CONFIRM_AGAIN: Duration = Duration::from_millis(300);
/// How many places of one kind are named as problems of their own.
const NAMED_MAX: usize = 100;

/// An apply that failed, and when it is tried again.
#[derive(Debug)]
pub(super) struct Failing {
    pub reason: String,
    found: Problem,
    generation: u64,
    wait: Duration,
    due: Instant,
}

/// The roots of this node as they are now.
#[derive(Debug, Default)]
struct Roots {
    sites: BTreeMap<RootName, Site>,
    problems: BTreeMap<RootName, RootProblem>,
    /// Not joined with yet.
    free: BTreeSet<RootName>,
    notes: Vec<Problem>,
}

/// What a look is about.
struct Scene<'a> {
    state: &'a ClusterState,
    node: NodeId,
    observed: Arc<Observed>,
    roots: Roots,
}

impl ApplyTask {
    pub(super) async fn tend_files(
        &mut self,
        state: &Arc<ClusterState>,
        standing: &Standing,
        node: NodeId,
        head: Option<Arc<Adopted>>,
    ) -> Result<(), ApplyTaskError> {
        self.look_again_at_displaced().await?;
        let observed = Arc::clone(&self.observed.borrow());
        let roots = self.examine(&observed, state, node, head.as_deref()).await?;
        self.now.roots = roots.problems.clone();
        self.now.problems.extend(roots.problems.iter().map(|(root, what)| of_root(root, what)));
        self.now.problems.extend(roots.notes.iter().cloned());
        self.name_unreadable(&observed);
        for root in roots.problems.keys() {
            // What lies there when it comes back is unknown.
            self.cleared.remove(root);
            self.watched = false;
        }
        let office = office_of(Some(state), Some(node));
        let scene = Scene { state, node, observed, roots };
        if office.is_some() && *self.active.borrow() == office {
            return self.hold_office(&scene, head).await;
        }
        if office.is_none() {
            self.leave_nothing_held();
        }
        if !scene.roots.problems.is_empty() {
            self.now.state = NodeState::RootMissing;
            return Ok(());
        }
        if !standing.confirmed || !scene.observed.complete {
            return self.only_tell(&scene, head.as_deref()).await;
        }
        match office {
            Some(epoch) => self.take_office(&scene, epoch).await,
            None => self.follow(&scene, head).await,
        }
    }

    /// The manager: only the record moves.
    async fn hold_office(
        &mut self,
        scene: &Scene<'_>,
        head: Option<Arc<Adopted>>,
    ) -> Result<(), ApplyTaskError> {
        if !scene.roots.problems.is_empty() {
            tracing::error!("a root can't be used: nothing is published");
            self.active.send_replace(None);
            self.now.state = NodeState::RootMissing;
            return Ok(());
        }
        self.now.state = NodeState::Manager;
        self.now.matches = true;
        let held = Arc::clone(&self.held.borrow());
        if let Some(head) = head {
            self.record(scene.state, &head).await?;
            let differs = |place: &Place| scene.observed.forest.get(place) != head.forest.get(place);
            let still: BTreeSet<Place> = held.iter().filter(|place| differs(place)).cloned().collect();
            if still.len() < held.len() {
                self.held.send_replace(Arc::new(still));
            }
        }
        self.tell_of_office();
        Ok(())
    }

    fn tell_of_office(&mut self) {
        let held = Arc::clone(&self.held.borrow());
        if !held.is_empty() {
            let message = format!(
                "{} paths changed while no syncd watched, more than go out by themselves: {}",
                held.len(),
                some_of(held.iter())
            );
            let remedy = "bring these paths back to what the other nodes have";
            self.now.problems.push(problem(Severity::Warning, "held-changes", message, remedy));
        }
        for place in self.restored.iter().take(NAMED_MAX) {
            let message = format!("{place} was missing when this node became manager and was brought back");
            let found = problem(Severity::Info, "restored", message, "delete it again if it was meant to go");
            self.now.problems.push(about(found, &place.root, Some(place.path.to_string())));
        }
    }

    fn leave_nothing_held(&mut self) {
        self.restored.clear();
        if !self.held.borrow().is_empty() {
            self.held.send_replace(Arc::default());
        }
    }

    /// A new manager: nothing is published before the folder is where the cluster is.
    async fn take_office(&mut self, scene: &Scene<'_>, epoch: Epoch) -> Result<(), ApplyTaskError> {
        self.now.state = NodeState::Syncing;
        let confirmed = self.parts.coordinator.confirm().await;
        let newest =
            confirmed.as_deref().filter(|state| office_of(Some(state), Some(scene.node)) == Some(epoch));
        let Some(newest) = newest else {
            self.now.wait_until(Instant::now() + CONFIRM_AGAIN);
            return Ok(());
        };
        let Some(wanted) = &newest.head else {
            return self.take_office_at_the_beginning(scene, newest, epoch).await;
        };
        let head = self.parts.store.head().filter(|head| {
            (head.generation.number, head.generation.digest) == (wanted.generation, wanted.digest)
        });
        // Else the log moves on here, which wakes the task.
        let Some(head) = head.filter(|head| self.goes_by(head)) else { return Ok(()) };
        // Everything is watched already, so what changes after this walk began is seen as a change.
        let observed = self.parts.inventory.rescan().await;
        let roots = self.examine(&observed, scene.state, scene.node, Some(&head)).await?;
        if !roots.problems.is_empty() || !observed.complete {
            self.now.wait_until(Instant::now() + CONFIRM_AGAIN);
            return Ok(());
        }
        let scene = Scene { state: scene.state, node: scene.node, observed, roots };
        let replaced = newest.appointment.as_ref().map_or(0, |appointment| appointment.replaced);
        let store = self.parts.store.clone();
        let last = blocking(move || store.manager_epoch()).await??;
        // A mark of this cluster tells its epochs from those of a cluster before it.
        let joined = scene.roots.free.is_empty();
        let kept = joined && last != 0 && (last == epoch || last == replaced);
        let edits = scene.observed.forest.edits(&head.forest);
        if kept {
            self.keep(&edits);
            if !self.prepare(&scene, head.generation.number).await? {
                return Ok(());
            }
            self.record(scene.state, &head).await?;
        } else {
            self.leave_nothing_held();
            if !self.bring_to_head(&scene, &head, edits, true).await? {
                return Ok(());
            }
        }
        self.activate(epoch, head.generation.number).await
    }

    /// Before the first generation this folder is the source as it is.
    async fn take_office_at_the_beginning(
        &mut self,
        scene: &Scene<'_>,
        newest: &ClusterState,
        epoch: Epoch,
    ) -> Result<(), ApplyTaskError> {
        let chosen = match &newest.seed {
            Seed::Anyone => true,
            Seed::OneOf(nodes) => nodes.contains(&scene.node),
            Seed::Conflict(_) => false,
        };
        if !chosen {
            self.now.state = NodeState::NeedsSeed;
            return Ok(());
        }
        if !self.prepare(scene, 0).await? {
            return Ok(());
        }
        self.activate(epoch, 0).await
    }

    /// Nobody else was manager since this node was: what its folder has beyond the head are changes.
    fn keep(&mut self, edits: &[Edit]) {
        let held: BTreeSet<Place> = if !self.watched && edits.len() as u64 > self.config.max_delete {
            edits.iter().map(|edit| edit.place.clone()).collect()
        } else {
            BTreeSet::new()
        };
        if !held.is_empty() {
            tracing::warn!(
                paths = held.len(),
                "more changed while no syncd watched than goes out by itself: held"
            );
        }
        self.held.send_replace(Arc::new(held));
    }

    async fn activate(&mut self, epoch: Epoch, generation: u64) -> Result<(), ApplyTaskError> {
        // Noted first: a change that is published after this must count as this node's own after a restart.
        let store = self.parts.store.clone();
        blocking(move || store.set_manager_epoch(epoch)).await??;
        let state = self.parts.coordinator.state();
        let node = self.parts.coordinator.standing().borrow().node;
        let is_active = self.active.send_if_modified(|active| {
            // Looked at under the lock of `active`: whoever ends the office comes after this.
            let still = office_of(state.borrow().as_deref(), node) == Some(epoch);
            if still {
                *active = Some(epoch);
            }
            still
        });
        if is_active {
            tracing::info!(epoch, generation, "this node's folder is the source now");
            self.watched = true;
            self.failing = None;
            self.now.state = NodeState::Manager;
            self.now.matches = true;
            self.tell_of_office();
        }
        Ok(())
    }

    /// An ordinary node.
    async fn follow(&mut self, scene: &Scene<'_>, head: Option<Arc<Adopted>>) -> Result<(), ApplyTaskError> {
        let Some(head) = head.filter(|head| self.goes_by(head)) else {
            return self.only_tell(scene, None).await;
        };
        let edits = scene.observed.forest.edits(&head.forest);
        self.bring_to_head(scene, &head, edits, false).await.map(drop)
    }

    /// Makes what is to be made now. True once the roots are at the head and the record says so.
    async fn bring_to_head(
        &mut self,
        scene: &Scene<'_>,
        head: &Arc<Adopted>,
        edits: Vec<Edit>,
        everything: bool,
    ) -> Result<bool, ApplyTaskError> {
        let number = head.generation.number;
        let store = self.parts.store.clone();
        let journal = blocking(move || store.applying()).await??;
        let before = self.applied(scene.state).await?;
        if before.as_ref().map(|(applied, _)| applied.number).max(journal.filter(|_| before.is_some()))
            > Some(number)
        {
            // The log's state is older than the files, as it may be for a while after a start.
            return Ok(false);
        }
        if let Some(failing) = &self.failing
            && failing.generation == number
            && Instant::now() < failing.due
        {
            let (due, found) = (failing.due, failing.found.clone());
            self.now.wait_until(due);
            self.now.problems.push(found);
            return Ok(false);
        }
        if before.is_none() && !self.may_replace(&edits, head).await? {
            return Ok(false);
        }
        let forest = before.and_then(|(_, forest)| forest);
        let sight = Sight {
            edits: &edits,
            observed: &scene.observed.forest,
            applied: forest.as_deref().filter(|_| !everything),
            touched: &scene.observed.touched,
            busy: &scene.observed.busy,
            policy: self.config.drift,
            quiet: self.config.quiet,
            now: Instant::now(),
        };
        let verdict = judge(&sight, &mut self.memory);
        self.tell_of_drift(&verdict);
        if let Some(when) = verdict.look_again {
            self.now.wait_until(when);
        }
        if !self.prepare(scene, number).await? {
            return Ok(false);
        }
        if verdict.edits.is_empty() {
            self.record(scene.state, head).await?;
        } else if !self.carry_out(scene, head, forest, verdict.edits, everything).await? {
            return Ok(false);
        }
        self.failing = None;
        self.now.matches = verdict.matches;
        self.now.state = NodeState::InSync;
        Ok(true)
    }

    async fn carry_out(
        &mut self,
        scene: &Scene<'_>,
        head: &Arc<Adopted>,
        before: Option<Arc<Forest>>,
        edits: Vec<Edit>,
        takeover: bool,
    ) -> Result<bool, ApplyTaskError> {
        let started = Instant::now();
        let store = self.parts.store.clone();
        let sites = scene.roots.sites.clone();
        let record = record_of(scene.state, head);
        let earlier = std::mem::take(&mut self.displaced);
        let made = edits.clone();
        let work = move || {
            let why = "another content was brought here by the cluster";
            let before = before.as_deref();
            let round = Round { store: &store, sites: &sites, edits, before, record, why };
            let result = reconcile(round);
            (result, drop_displaced(&store, earlier).0)
        };
        let (result, mut displaced) = blocking(work).await?;
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(failed) => {
                displaced.extend(failed.displaced);
                self.displaced = displaced;
                self.displaced_due = Instant::now() + SECOND_LOOK;
                return self.failed(failed.error, record.number).map(|()| false);
            }
        };
        displaced.extend(outcome.displaced);
        self.displaced = displaced;
        self.displaced_due = Instant::now() + SECOND_LOOK;
        self.now.wait_until(self.displaced_due);
        self.parts.inventory.applied(outcome.written).await;
        let now = Instant::now();
        for edit in &made {
            let is_folder = |entry: &Option<Entry>| entry.as_ref().is_some_and(Entry::is_folder);
            if !is_folder(&edit.old) && !is_folder(&edit.new) {
                self.memory.wrote(edit.place.clone(), edit.new.clone(), now);
            }
        }
        for folder in &outcome.kept {
            self.memory.kept(folder);
        }
        if takeover {
            let back =
                |edit: &&Edit| edit.old.is_none() && edit.new.as_ref().is_some_and(|new| !new.is_folder());
            self.restored = made.iter().filter(back).map(|edit| edit.place.clone()).collect();
        }
        self.parts.observer.applied(started.elapsed());
        tracing::info!(
            generation = record.number,
            changes = made.len(),
            quarantined = outcome.quarantined.len(),
            took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "applied"
        );
        self.recorded(record, head);
        Ok(true)
    }

    /// Notes an apply that failed. Nothing was changed by it.
    fn failed(&mut self, error: ApplyError, generation: u64) -> Result<(), ApplyTaskError> {
        match error {
            ApplyError::Store(error) if error.is_fatal() => return Err(error.into()),
            _ => {}
        }
        let first = if matches!(error, ApplyError::Restless { .. }) { RESTLESS_AGAIN } else { AGAIN.0 };
        let wait = match &self.failing {
            Some(failing) if failing.generation == generation => (failing.wait * 2).min(AGAIN.1),
            _ => first,
        };
        tracing::error!(error = error.chain(), generation, "the apply failed; the files are as before");
        let found = of_failure(&error);
        let due = Instant::now() + wait;
        self.now.problems.push(found.clone());
        self.now.wait_until(due);
        self.failing = Some(Failing { reason: error.chain(), found, generation, wait, due });
        Ok(())
    }

    /// Joins with roots that are new, and looks at what a crash left in those that are not; false when that failed.
    async fn prepare(&mut self, scene: &Scene<'_>, generation: u64) -> Result<bool, ApplyTaskError> {
        let todo: Vec<(RootName, Arc<Root>, bool)> = scene
            .roots
            .sites
            .iter()
            .map(|(name, site)| (name.clone(), Arc::clone(&site.root), scene.roots.free.contains(name)))
            .filter(|(name, _, free)| *free || !self.cleared.contains(name))
            .collect();
        if todo.is_empty() {
            return Ok(true);
        }
        let store = self.parts.store.clone();
        let (cluster, node, members) = (scene.state.cluster, scene.node, scene.state.members.clone());
        let names: Vec<RootName> = todo.iter().map(|(name, ..)| name.clone()).collect();
        let work = move || {
            let who = Who { cluster, node, members: &members, generation };
            for (_, root, free) in &todo {
                if *free {
                    join(&store, root, who)?;
                }
                clear_leftovers(&store, root)?;
            }
            Ok::<_, ApplyError>(())
        };
        match blocking(work).await? {
            Ok(()) => {
                self.cleared.extend(names);
                Ok(true)
            }
            Err(error) => self.failed(error, generation).map(|()| false),
        }
    }

    /// Whether the folder may be brought to a cluster that it has not been in touch with.
    async fn may_replace(&mut self, edits: &[Edit], head: &Arc<Adopted>) -> Result<bool, ApplyTaskError> {
        let local: Vec<(Place, Option<crate::model::ContentHash>)> = edits
            .iter()
            .filter(|edit| match (&edit.old, &edit.new) {
                (None | Some(Entry::Folder { .. }), _) => false,
                (Some(old), Some(new)) => !old.same_content(new),
                (Some(_), None) => true,
            })
            .map(|edit| (edit.place.clone(), edit.old.as_ref().and_then(Entry::content)))
            .collect();
        let store = self.parts.store.clone();
        let work = move || {
            let mut unknown = Vec::new();
            for (place, hash) in local {
                if hash.map_or(Ok(false), |hash| store.is_committed(&hash))? {
                    continue;
                }
                unknown.push(place);
            }
            Ok::<_, StoreError>(unknown)
        };
        let unknown = blocking(work).await??;
        if unknown.len() as u64 <= self.config.max_delete {
            return Ok(true);
        }
        self.now.state = NodeState::NeedsApproval;
        let message = format!(
            "{} files here are in no generation, and would be replaced or removed by generation {}: {}",
            unknown.len(),
            head.generation.number,
            some_of(unknown.iter())
        );
        let remedy = "move these files out of the root, or delete them; then the node goes on by itself";
        self.now.problems.push(problem(Severity::Warning, "needs-approval", message, remedy));
        Ok(false)
    }

    /// While nothing may be touched: how far the node is.
    async fn only_tell(&mut self, scene: &Scene<'_>, head: Option<&Adopted>) -> Result<(), ApplyTaskError> {
        if head.is_none() && matches!(scene.state.seed, Seed::Conflict(_)) && scene.state.head.is_none() {
            self.now.state = NodeState::NeedsSeed;
        }
        let Some(head) = head.filter(|head| self.goes_by(head)) else { return Ok(()) };
        let applied = self.applied(scene.state).await?;
        if applied.is_some_and(|(applied, _)| applied.number == head.generation.number) {
            self.now.state = NodeState::InSync;
            self.now.matches =
                scene.observed.complete && scene.observed.forest.edits(&head.forest).is_empty();
        }
        Ok(())
    }

    fn tell_of_drift(&mut self, verdict: &Verdict) {
        let mut fresh: BTreeMap<&RootName, u64> = BTreeMap::new();
        for place in verdict.drifted.keys().filter(|place| !self.drifting.contains(*place)) {
            *fresh.entry(&place.root).or_default() += 1;
        }
        for (root, places) in fresh {
            self.parts.observer.drifted(root, places);
        }
        self.drifting = verdict.drifted.keys().cloned().collect();
        self.now.drifted = verdict.drifted.len() as u64;
        for (place, drift) in verdict.drifted.iter().take(NAMED_MAX) {
            let (severity, code, message, remedy) = match drift {
                Drift::Settling => (
                    Severity::Info,
                    "drift",
                    format!("{place} is being changed on this node"),
                    "change artifacts on the manager only",
                ),
                Drift::Reverted => (
                    Severity::Warning,
                    "drift",
                    format!(
                        "{place} was changed on this node and is brought back; the local content is in quarantine"
                    ),
                    "change artifacts on the manager only; see `syncd quarantine list`",
                ),
                Drift::Reported => (
                    Severity::Warning,
                    "drift",
                    format!("{place} was changed on this node"),
                    "bring it back by hand, or set drift = \"revert\"",
                ),
                Drift::Rejected => (
                    Severity::Warning,
                    "rejected",
                    format!(
                        "{place} was changed right after it was written here: the gateway did not take this version"
                    ),
                    "look for the artifact's error in the gateway's log and publish a version that deploys",
                ),
            };
            let found = problem(severity, code, message, remedy);
            self.now.problems.push(about(found, &place.root, Some(place.path.to_string())));
        }
    }

    fn name_unreadable(&mut self, observed: &Observed) {
        for (place, why) in observed.failed.iter().take(NAMED_MAX) {
            let message = format!("{place} can't be read: {why}");
            let found = problem(Severity::Warning, "unreadable", message, "let the daemon's user read it");
            self.now.problems.push(about(found, &place.root, Some(place.path.to_string())));
        }
    }

    async fn look_again_at_displaced(&mut self) -> Result<(), ApplyTaskError> {
        if self.displaced.is_empty() {
            return Ok(());
        }
        if Instant::now() >= self.displaced_due {
            let store = self.parts.store.clone();
            let displaced = std::mem::take(&mut self.displaced);
            self.displaced = blocking(move || drop_displaced(&store, displaced).0).await?;
            self.displaced_due = Instant::now() + SECOND_LOOK;
        }
        if !self.displaced.is_empty() {
            self.now.wait_until(self.displaced_due);
        }
        Ok(())
    }

    /// Which roots are there, are the ones that this node joined with, and may be written to.
    async fn examine(
        &mut self,
        observed: &Arc<Observed>,
        state: &ClusterState,
        node: NodeId,
        head: Option<&Adopted>,
    ) -> Result<Roots, ApplyTaskError> {
        let store = self.parts.store.clone();
        let observed = Arc::clone(observed);
        let (cluster, members) = (state.cluster, state.members.clone());
        let rules = head.map(|head| head.rules.clone()).unwrap_or_default();
        let wanted: BTreeMap<RootName, u64> = head.map_or_else(BTreeMap::new, |head| {
            head.forest.roots.iter().map(|(root, manifest)| (root.clone(), manifest.files())).collect()
        });
        let work = move || {
            let who = Who { cluster, node, members: &members, generation: 0 };
            let mut roots = Roots::default();
            for (name, found) in &observed.roots {
                let Some(root) = found.root.as_ref().filter(|_| found.missing.is_none()) else {
                    let why = found.missing.clone();
                    if let Some(why) =
                        why.or(store.mark(name)?.map(|_| "the folder is not there any more".to_owned()))
                    {
                        roots.problems.insert(name.clone(), RootProblem::Gone { why });
                    } else if wanted.get(name).is_some_and(|files| *files > 0) {
                        let message = format!(
                            "{} is not there, but the cluster has artifacts for it",
                            found.path.display()
                        );
                        let note = problem(Severity::Warning, "root-missing", message, "create the folder");
                        roots.notes.push(about(note, name, None));
                    }
                    continue;
                };
                if found.device_changed {
                    roots.problems.insert(name.clone(), RootProblem::OtherDevice);
                    continue;
                }
                match admit(&store, root, who)? {
                    Admission::Joined => {}
                    Admission::Free => drop(roots.free.insert(name.clone())),
                    Admission::Refused(problem) => {
                        roots.problems.insert(name.clone(), problem);
                        continue;
                    }
                }
                let (owner, unknown) = owner_of(rules.of(name).unwrap_or(&RootRules::default()));
                for id in unknown {
                    let message = format!(
                        "this host knows no owner or group {id}: files are written as the daemon's user"
                    );
                    let note = problem(
                        Severity::Warning,
                        "unknown-owner",
                        message,
                        "create it, or correct the configuration",
                    );
                    roots.notes.push(about(note, name, None));
                }
                roots.sites.insert(name.clone(), Site { root: Arc::clone(root), owner: owner.for_files() });
            }
            Ok::<_, ApplyError>(roots)
        };
        match blocking(work).await? {
            Ok(roots) => Ok(roots),
            Err(ApplyError::Store(error)) => Err(error.into()),
            Err(error) => {
                let root = error.root().cloned().unwrap_or_else(|| RootName::new("?"));
                let why = error.chain();
                Ok(Roots {
                    problems: BTreeMap::from([(root, RootProblem::Gone { why })]),
                    ..Roots::default()
                })
            }
        }
    }

    /// What the record names, if it is of this cluster, with its places if they can still be told.
    async fn applied(
        &mut self,
        state: &ClusterState,
    ) -> Result<Option<(Applied, Option<Arc<Forest>>)>, ApplyTaskError> {
        if self.applied.is_none() {
            let store = self.parts.store.clone();
            let work = move || {
                let Some(applied) = store.applied()? else { return Ok(None) };
                let forest =
                    store.forest_of(applied.number)?.filter(|forest| forest.digest() == applied.digest);
                Ok::<_, StoreError>(Some((applied, forest.map(Arc::new))))
            };
            self.applied = blocking(work).await??;
        }
        Ok(self.applied.clone().filter(|(applied, _)| applied.cluster == state.cluster))
    }

    /// Notes that the roots are at the head, if that is not noted yet.
    async fn record(&mut self, state: &ClusterState, head: &Arc<Adopted>) -> Result<(), ApplyTaskError> {
        let record = record_of(state, head);
        let store = self.parts.store.clone();
        let known = self.applied(state).await?.is_some_and(|(applied, _)| applied == record);
        let work = move || {
            let write = !known || store.applying()?.is_some();
            if write {
                store.set_applied(&record, &[])?;
            }
            Ok::<_, StoreError>(write)
        };
        if blocking(work).await?? {
            self.recorded(record, head);
        }
        Ok(())
    }

    fn recorded(&mut self, record: Applied, head: &Arc<Adopted>) {
        if self.applied.as_ref().is_none_or(|(applied, _)| *applied != record) {
            let millis = unix_ms().saturating_sub(head.generation.created_unix_ms);
            self.parts.observer.propagated(Duration::from_millis(u64::try_from(millis).unwrap_or_default()));
        }
        self.applied = Some((record, Some(Arc::new(head.forest.clone()))));
    }
}

fn record_of(state: &ClusterState, head: &Adopted) -> Applied {
    Applied { cluster: state.cluster, number: head.generation.number, digest: head.generation.digest }
}

fn some_of<'a>(places: impl ExactSizeIterator<Item = &'a Place>) -> String {
    const SOME: usize = 10;
    let more = places.len().saturating_sub(SOME);
    let names: Vec<String> = places.take(SOME).map(Place::to_string).collect();
    let rest = if more > 0 { format!(", and {more} more") } else { String::new() };
    names.join(", ") + &rest
}
