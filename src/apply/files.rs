//! Tends the roots of this node: decides what they are to this node now, and lets an ordinary node follow the head.
//! Being manager is `office`'s.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::apply::displaced::{Displaced, drop_displaced};
use crate::apply::judge::{Drift, Sight, Unread, Verdict, judge};
use crate::apply::limits::Limits;
use crate::apply::reconcile::{Round, reconcile};
use crate::apply::roots::Roots;
use crate::apply::status::{of_failure, of_root};
use crate::apply::task::{ApplyTask, blocking, office_of};
use crate::apply::{ApplyError, ApplyTaskError, DriftPolicy};
use crate::inventory::Observed;
use crate::model::{
    ClusterState, ContentHash, Edit, Entry, Forest, NodeId, NodeState, Place, Problem, Seed, Standing,
    unix_ms,
};
use crate::store::{Adopted, Applied, StoreError};

/// How long what came out is kept, because a writer may still have it open.
pub(super) const SECOND_LOOK: Duration = Duration::from_secs(2);
/// The first and the longest wait before an apply that failed is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// From so many files more or less on, what the roots and the head have in common is kept once.
const SHARED_FROM: u64 = 1000;
/// How soon one is tried again that met somebody else's change.
const RESTLESS_AGAIN: Duration = Duration::from_millis(50);

/// An apply that failed, and when it is tried again.
#[derive(Debug)]
pub(super) struct Failing {
    pub reason: String,
    found: Problem,
    generation: u64,
    wait: Duration,
    due: Instant,
}

/// What a look is about.
pub(super) struct Scene<'a> {
    pub state: &'a ClusterState,
    pub node: NodeId,
    pub observed: Arc<Observed>,
    pub roots: Roots,
}

impl ApplyTask {
    /// Does what is due with this node's files. False when another look has to decide: this one was overtaken.
    pub(super) async fn tend_files(
        &mut self,
        state: &Arc<ClusterState>,
        standing: &Standing,
        node: NodeId,
        head: Option<Arc<Adopted>>,
    ) -> Result<bool, ApplyTaskError> {
        self.look_again_at_displaced().await?;
        let observed = Arc::clone(&self.observed.borrow());
        let roots = self.examine(&observed, state, node, head.as_deref()).await?;
        self.now.roots = roots.problems.clone();
        self.now.marks = roots.marks.clone();
        self.now.problems.extend(roots.problems.iter().map(|(root, what)| of_root(root, what)));
        self.now.problems.extend(roots.notes.iter().cloned());
        self.now.lists.extend(roots.lists.iter().cloned());
        self.name_unreadable(&observed);
        for root in roots.problems.keys() {
            // What lies there when it comes back is unknown.
            self.cleared.remove(root);
            self.watched = false;
        }
        let office = office_of(Some(state), Some(node));
        if office != office_of(self.membership().0.as_deref(), Some(node)) {
            // The office began or ended during this look: what it saw before must not decide about files.
            return Ok(false);
        }
        let scene = Scene { state, node, observed, roots };
        self.watch_office(office, &scene.observed.forest)?;
        if office.is_some() && *self.active.borrow() == office {
            self.hold_office(&scene, head).await?;
            if scene.roots.problems.is_empty() && state.paused.is_none() {
                self.obey_redeploys(&scene).await?;
            }
            return Ok(true);
        }
        if office.is_none() {
            self.leave_nothing_held();
        }
        if !scene.roots.problems.is_empty() {
            self.now.state = NodeState::RootMissing;
            return Ok(true);
        }
        if !standing.confirmed || !scene.observed.complete {
            self.only_tell(&scene, head.as_deref()).await?;
            return Ok(true);
        }
        match office {
            Some(epoch) => self.take_office(&scene, epoch).await?,
            None if state.paused.is_some() => self.stand_still(&scene, head).await?,
            None => self.follow(&scene, head).await?,
        }
        Ok(true)
    }

    /// An ordinary node while the cluster is paused: what differs is named and left.
    async fn stand_still(
        &mut self,
        scene: &Scene<'_>,
        head: Option<Arc<Adopted>>,
    ) -> Result<(), ApplyTaskError> {
        let Some(head) = head.filter(|head| self.goes_by(head)) else {
            return self.only_tell(scene, None).await;
        };
        let applied = self.applied(scene.state).await?;
        let Some((applied, Some(forest))) = applied else { return Ok(()) };
        let edits = scene.observed.forest.edits(&head.forest);
        let unread = self.unread().await?;
        let sight = Sight {
            edits: &edits,
            observed: &scene.observed.forest,
            applied: Some(&forest),
            touched: &scene.observed.touched,
            busy: &scene.observed.busy,
            unreadable: &|place| scene.observed.is_unreadable(place),
            unread: &unread,
            policy: DriftPolicy::Report,
            offered: &|_| false,
            quiet: self.config.quiet,
            scan: self.config.scan,
            now: Instant::now(),
        };
        let verdict = judge(&sight, &mut self.memory);
        self.tell_of_drift(&verdict);
        if let Some(when) = verdict.look_again {
            self.now.wait_until(when);
        }
        if applied.number == head.generation.number {
            self.now.matches = verdict.matches;
            self.now.state = NodeState::InSync;
        }
        Ok(())
    }

    /// What was noted of places that the head passed by, because they could not be read.
    pub(super) async fn unread(&mut self) -> Result<Unread, ApplyTaskError> {
        if self.unread.is_none() {
            let store = self.parts.store.clone();
            self.unread = Some(blocking(move || store.unread()).await??);
        }
        Ok(self.unread.clone().unwrap_or_default())
    }

    /// Notes them before the record says that this node is past the generation that changed them.
    async fn note_unread(&mut self, unread: &Unread) -> Result<(), ApplyTaskError> {
        if self.unread.as_ref() != Some(unread) {
            let (store, noted) = (self.parts.store.clone(), unread.clone());
            blocking(move || store.set_unread(&noted)).await??;
            self.unread = Some(unread.clone());
        }
        Ok(())
    }

    /// Takes local changes out of the verdict for which there is no room in quarantine: they are named, and hinder
    /// nothing else.
    pub(super) async fn leave_what_has_no_room(&self, verdict: &mut Verdict) -> Result<(), ApplyTaskError> {
        let reverted = |edit: &&Edit| verdict.drifted.get(&edit.place) == Some(&Drift::Reverted);
        let local: Vec<(Place, u64, ContentHash)> = verdict
            .edits
            .iter()
            .filter(reverted)
            .filter_map(|edit| match &edit.old {
                Some(Entry::File { size, hash, .. }) => Some((edit.place.clone(), *size, *hash)),
                _ => None,
            })
            .collect();
        if local.is_empty() {
            return Ok(());
        }
        let store = self.parts.store.clone();
        let work = move || {
            let (mut left, mut bytes) = (BTreeSet::new(), 0);
            for (place, size, hash) in local {
                if store.is_committed(&hash)? {
                    continue;
                }
                match store.require_room(bytes + size) {
                    Ok(()) => bytes += size,
                    Err(StoreError::NoSpace { .. } | StoreError::QuarantineFull { .. }) => {
                        left.insert(place);
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok::<_, StoreError>(left)
        };
        let left = blocking(work).await??;
        verdict.edits.retain(|edit| !left.contains(&edit.place));
        verdict.drifted.extend(left.into_iter().map(|place| (place, Drift::NoRoom)));
        Ok(())
    }

    /// An ordinary node.
    async fn follow(&mut self, scene: &Scene<'_>, head: Option<Arc<Adopted>>) -> Result<(), ApplyTaskError> {
        let Some(head) = head.filter(|head| self.goes_by(head)) else {
            return self.only_tell(scene, None).await;
        };
        let edits = scene.observed.forest.edits(&head.forest);
        if self.bring_to_head(scene, &head, edits, false).await? {
            self.bump_after_answers(scene).await?;
            self.obey_redeploys(scene).await?;
            if self.now.matches {
                self.note_undone().await?;
            }
        }
        self.tell_of_undone();
        Ok(())
    }

    /// Makes what is to be made now. True once the roots are at the head and the record says so.
    pub(super) async fn bring_to_head(
        &mut self,
        scene: &Scene<'_>,
        head: &Arc<Adopted>,
        edits: Vec<Edit>,
        everything: bool,
    ) -> Result<bool, ApplyTaskError> {
        let number = head.generation.number;
        let journal = self.parts.store.applying()?;
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
        let forest = match before {
            None => {
                if !self.may_replace(scene, &edits, head).await? {
                    return Ok(false);
                }
                None
            }
            Some((_, forest)) => forest,
        };
        if let Some(forest) = &forest {
            // The same for a root that the cluster names since then: what lies there was never its own.
            let is_strange = |edit: &&Edit| !forest.roots.contains_key(&edit.place.root);
            let strange: Vec<Edit> = edits.iter().filter(is_strange).cloned().collect();
            if !strange.is_empty() && !self.may_replace(scene, &strange, head).await? {
                return Ok(false);
            }
        }
        self.recall_given_up().await?;
        let unread = self.unread().await?;
        let now = Instant::now();
        let there = &scene.observed.forest;
        let handover =
            self.handover.as_ref().map(|handover| (handover, Limits::new(&head.rules, &head.forest, there)));
        let offered = |edit: &Edit| {
            handover.as_ref().is_some_and(|(handover, limits)| handover.keeps(edit, limits, now))
        };
        let sight = Sight {
            edits: &edits,
            observed: &scene.observed.forest,
            applied: forest.as_deref().filter(|_| !everything),
            touched: &scene.observed.touched,
            busy: &scene.observed.busy,
            unreadable: &|place| scene.observed.is_unreadable(place),
            unread: &unread,
            policy: self.config.drift,
            offered: &offered,
            quiet: self.config.quiet,
            scan: self.config.scan,
            now: Instant::now(),
        };
        let mut verdict = judge(&sight, &mut self.memory);
        self.note_unread(&verdict.unread).await?;
        if !everything {
            self.keep_given_up(&verdict, head).await?;
        }
        self.leave_what_has_no_room(&mut verdict).await?;
        self.tell_of_drift(&verdict);
        if !everything {
            self.hand_over(scene, head, &edits, &verdict);
        }
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
        let drifted = self.drifting.clone();
        let writing = self.parts.inventory.writing();
        let work = move || {
            let why = |place: &Place| match drifted.contains(place) {
                true => "it was changed on this node, which is not the manager",
                false if takeover => "this node became manager, and no generation has it",
                false => "the cluster has another content here",
            };
            let before = before.as_deref();
            let round = Round { store: &store, sites: &sites, edits, before, record, why: &why };
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
                if let Some(place) = failed.error.place() {
                    // No event may have told what is there; once it is known, the next try passes it by.
                    self.parts.inventory.applied(vec![(place.clone(), None)]).await;
                }
                return self.failed(failed.error, record.number).map(|()| false);
            }
        };
        displaced.extend(outcome.displaced);
        self.displaced = displaced;
        self.displaced_due = Instant::now() + SECOND_LOOK;
        self.now.wait_until(self.displaced_due);
        self.parts.inventory.applied(outcome.written).await;
        drop(writing);
        let now = Instant::now();
        for edit in &made {
            let is_folder = |entry: &Option<Entry>| entry.as_ref().is_some_and(Entry::is_folder);
            if !is_folder(&edit.old) && !is_folder(&edit.new) {
                self.memory.own.wrote(edit.place.clone(), edit.new.clone(), now, self.config.scan);
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
        self.recorded(record, head).await;
        Ok(true)
    }

    /// Notes an apply that failed. Nothing was changed by it.
    pub(super) fn failed(&mut self, error: ApplyError, generation: u64) -> Result<(), ApplyTaskError> {
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

    /// Keeps what came out of a root for the second look.
    pub(super) fn displace(&mut self, displaced: Vec<Displaced>) {
        self.displaced.extend(displaced);
        self.displaced_due = Instant::now() + SECOND_LOOK;
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

    /// What the record names, if it is of this cluster, with its places if they can still be told.
    pub(super) async fn applied(
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
    pub(super) async fn record(
        &mut self,
        state: &ClusterState,
        head: &Arc<Adopted>,
    ) -> Result<(), ApplyTaskError> {
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
            self.recorded(record, head).await;
        }
        Ok(())
    }

    async fn recorded(&mut self, record: Applied, head: &Arc<Adopted>) {
        let before = self.applied.as_ref().and_then(|(_, forest)| forest.as_deref());
        if before.map_or(0, Forest::files).abs_diff(head.forest.files()) >= SHARED_FROM {
            self.parts.inventory.share(head.forest.clone()).await;
        }
        if self.applied.as_ref().is_none_or(|(applied, _)| *applied != record) {
            let millis = unix_ms().saturating_sub(head.generation.created_unix_ms);
            self.parts.observer.propagated(Duration::from_millis(u64::try_from(millis).unwrap_or_default()));
        }
        self.applied = Some((record, Some(Arc::new(head.forest.clone()))));
    }
}

pub(super) fn record_of(state: &ClusterState, head: &Adopted) -> Applied {
    Applied { cluster: state.cluster, number: head.generation.number, digest: head.generation.digest }
}
