//! Being manager: a new one brings its folder to the head before anything is published from it; from there on the
//! folder is the source and is not written to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::apply::ApplyTaskError;
use crate::apply::files::Scene;
use crate::apply::judge::goes_as_folder;
use crate::apply::status::about;
use crate::apply::task::{ApplyTask, blocking, office_of};
use crate::apply::tell::{NAMED_MAX, some_of};
use crate::model::{ClusterState, Edit, Epoch, NodeState, Place, Problem, Seed, Severity, Withheld};
use crate::store::{Adopted, StoreError};

/// The problem of a manager with changes that were made while no syncd watched.
pub(super) const HELD_CHANGES: &str = "held-changes";
/// The problem of a manager with deletes beyond what may go by itself; `publish` tells of it.
pub(super) const MASS_DELETE: &str = "mass-delete";
/// How soon a new manager asks again for the newest state.
const CONFIRM_AGAIN: Duration = Duration::from_millis(300);
/// How soon a takeover is tried again that could not be finished.
const TAKEOVER_AGAIN: Duration = Duration::from_secs(1);

impl ApplyTask {
    /// The manager: only the record moves.
    pub(super) async fn hold_office(
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
        self.undone.clear();
        self.undone_known = false;
        if scene.state.paused.is_none() {
            self.remove_leaving(scene).await?;
        }
        let held = Arc::clone(&self.held.borrow());
        if let Some(head) = head {
            self.record(scene.state, &head).await?;
            let differs = |place: &Place| scene.observed.forest.get(place) != head.forest.get(place);
            let still = held.only(differs);
            if still != *held {
                self.hold_changed(still).await?;
            }
        }
        self.tell_of_office();
        Ok(())
    }

    /// Removes the folders that were to go when this node became manager. One that got an artifact since is a change.
    async fn remove_leaving(&mut self, scene: &Scene<'_>) -> Result<(), ApplyTaskError> {
        let now = Instant::now();
        let mut settled = BTreeSet::new();
        let mut removed = Vec::new();
        // What lies deeper comes first.
        for place in self.leaving.iter().rev() {
            match self.memory.folder_due(place, &scene.observed.forest, now, self.config.scan) {
                Some(due) if due > now => {
                    self.now.wait_until(due);
                    continue;
                }
                Some(_) => removed
                    .extend(scene.roots.sites.get(&place.root).map(|site| (site.clone(), place.clone()))),
                None => {}
            }
            settled.insert(place.clone());
        }
        if settled.is_empty() {
            return Ok(());
        }
        let work = move || {
            for (site, place) in removed {
                if let Err(error) = site.root.remove_folder(&place.path) {
                    tracing::warn!(%error, %place, "a folder that was to go stays");
                }
            }
        };
        blocking(work).await?;
        self.leaving.retain(|place| !settled.contains(place));
        let (store, leaving) = (self.parts.store.clone(), self.leaving.clone());
        blocking(move || store.set_leaving(&leaving)).await??;
        let held = Arc::clone(&self.held.borrow());
        self.held.send_replace(Arc::new(held.only(|place| !settled.contains(place))));
        Ok(())
    }

    fn tell_of_office(&mut self) {
        let held = self.held.borrow().changed.clone();
        if !held.is_empty() {
            let message = format!(
                "{} paths changed while no syncd watched, or could not be read at the takeover, and are held: {}",
                held.len(),
                some_of(held.iter())
            );
            let remedy =
                "bring these paths back to what the other nodes have, or run `syncd approve` to publish them";
            self.now.problems.push(Problem::new(Severity::Warning, HELD_CHANGES, message, remedy));
        }
        for place in self.restored.iter().take(NAMED_MAX) {
            let message = format!("{place} was missing when this node became manager and was brought back");
            let found =
                Problem::new(Severity::Info, "restored", message, "delete it again if it was meant to go");
            self.now.problems.push(about(found, &place.root, Some(place.path.to_string())));
        }
    }

    pub(super) fn leave_nothing_held(&mut self) {
        self.restored.clear();
        self.leaving.clear();
        if *self.held.borrow().as_ref() != Withheld::default() {
            self.held.send_replace(Arc::default());
        }
    }

    /// A new manager: nothing is published before the folder is where the cluster is.
    pub(super) async fn take_office(
        &mut self,
        scene: &Scene<'_>,
        epoch: Epoch,
    ) -> Result<(), ApplyTaskError> {
        if let Some((begun, again)) = self.takeover
            && begun == epoch
            && Instant::now() < again
        {
            let shown = self.status();
            self.now.state = shown.state;
            self.now.problems = shown.problems.clone();
            self.now.lists.clone_from(&shown.lists);
            self.now.wait_until(again);
            return Ok(());
        }
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
        self.takeover = Some((epoch, Instant::now() + TAKEOVER_AGAIN));
        self.now.wait_until(Instant::now() + TAKEOVER_AGAIN);
        // Everything is watched already, so what changes after this walk began is seen as a change.
        let observed = self.parts.inventory.rescan().await;
        let roots = self.examine(&observed, scene.state, scene.node, Some(&head)).await?;
        if !roots.problems.is_empty() || !observed.complete {
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
        if newest.paused.is_some() && !(kept || (edits.is_empty() && joined)) {
            // Nothing may be written now: only a folder that needs nothing becomes the source.
            return Ok(());
        }
        if kept {
            let store = self.parts.store.clone();
            let noted = blocking(move || store.leaving()).await??;
            self.leaving = edits
                .iter()
                .filter(|edit| goes_as_folder(edit) && noted.contains(&edit.place))
                .map(|edit| edit.place.clone())
                .collect();
            self.keep(&edits).await?;
            if newest.paused.is_none() && !self.prepare(&scene, head.generation.number).await? {
                return Ok(());
            }
            self.record(scene.state, &head).await?;
        } else {
            self.leave_nothing_held();
            let leaving: BTreeSet<Place> =
                edits.iter().filter(|edit| goes_as_folder(edit)).map(|edit| edit.place.clone()).collect();
            // What can't be read was not brought to the head: once it can be, it is a person's to say which is right.
            let unread =
                edits.iter().map(|edit| &edit.place).filter(|place| scene.observed.is_unreadable(place));
            let changed: BTreeSet<Place> = unread.cloned().collect();
            if !self.bring_to_head(&scene, &head, edits, true).await? {
                return Ok(());
            }
            let (store, noted) = (self.parts.store.clone(), leaving.clone());
            blocking(move || store.set_leaving(&noted)).await??;
            // The folders still stand: one scan of the gateway must find their artifacts gone first.
            self.hold_changed(Withheld { changed, others: leaving.clone() }).await?;
            self.leaving = leaving;
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

    /// Nobody else was manager since this node was: what its folder has beyond the head are changes. What was held
    /// before stays held, until a person agrees or the files come back.
    async fn keep(&mut self, edits: &[Edit]) -> Result<(), ApplyTaskError> {
        let store = self.parts.store.clone();
        let before =
            blocking(move || Ok::<_, StoreError>((store.held(HELD_CHANGES)?, store.held(MASS_DELETE)?)));
        let (before, deletes) = before.await??;
        let changed = || edits.iter().map(|edit| &edit.place).filter(|place| !self.leaving.contains(*place));
        // What a held list of deletes has, and still is that: publishing holds it on. Other content there is a change.
        let still: BTreeSet<&Place> = edits
            .iter()
            .filter(|edit| edit.old.is_none() || edit.new.is_none())
            .map(|edit| &edit.place)
            .filter(|place| deletes.contains(*place))
            .collect();
        let fresh = changed().filter(|place| !before.contains(*place) && !still.contains(*place));
        let held: BTreeSet<Place> = if !self.watched && fresh.count() as u64 > self.config.max_delete {
            changed().filter(|place| !still.contains(*place)).cloned().collect()
        } else {
            changed().filter(|place| before.contains(*place)).cloned().collect()
        };
        if !held.is_empty() {
            tracing::warn!(
                paths = held.len(),
                "more changed while no syncd watched than goes out by itself: held"
            );
        }
        self.hold_changed(Withheld { changed: held, others: self.leaving.clone() }).await
    }

    /// Holds these places, and notes on disk which of them wait for a person.
    async fn hold_changed(&mut self, held: Withheld) -> Result<(), ApplyTaskError> {
        let (store, changed) = (self.parts.store.clone(), held.changed.clone());
        let note = move || match store.held(HELD_CHANGES)? == changed {
            true => Ok(()),
            false => store.set_held(HELD_CHANGES, &changed),
        };
        blocking(note).await??;
        self.held.send_replace(Arc::new(held));
        Ok(())
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
            self.was_active = Some(epoch);
            self.handover = None;
            self.takeover = None;
            self.failing = None;
            self.now.state = NodeState::Manager;
            self.now.matches = true;
            self.tell_of_office();
        }
        Ok(())
    }
}
