//! The new manager's side of a hand-over: takes a former manager's late changes into its own folder, from where they
//! are published like any other change.
//!
//! Taken is only what was made against the entry that the head and this folder have, and what a publish from this folder
//! would let through: no delete of a protected place, none that leaves a root empty, and none beyond what
//! `sync.max_delete` leaves after those of the last ten minutes and those that wait here. Everything that the other
//! controls is bounded, and checked as for a stage.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::apply::files::{Scene, record_of};
use crate::apply::intake::{chain, receive_contents};
use crate::apply::limits::{Limits, deletes};
use crate::apply::offer::{CHANGES_MAX, CONTENT_BYTES_MAX};
use crate::apply::reconcile::{Round, reconcile};
use crate::apply::task::{ApplyTask, blocking, office_of};
use crate::apply::{ApplyError, ApplyTaskError};
use crate::inventory::Observed;
use crate::model::{
    Change, Coordinator, Digest, Edit, Entry, Epoch, Forest, NodeId, Place, Role, RootName, unix_ms,
};
use crate::plan::DeleteWindow;
use crate::store::{Adopted, Store, StoreError};
use crate::wire::Header;
use crate::wire::proto::{OfferReply, Parcel, parcel::Part};

/// Until the header is here, until all of it is, and until the files are in place.
const HEADER: Duration = Duration::from_secs(5);
const WHOLE: Duration = Duration::from_secs(20);
const PLACED: Duration = Duration::from_secs(20);

/// An offer whose contents are in the store.
pub(super) struct Offered {
    base: u64,
    base_digest: Digest,
    changes: Vec<Change>,
    /// The positions of the changes that were taken; none when nobody can say yet.
    reply: oneshot::Sender<Option<Vec<u64>>>,
}

/// Answers `Offer`. Cheap to clone.
#[derive(Clone)]
pub struct Taker {
    store: Store,
    coordinator: Arc<dyn Coordinator>,
    active: watch::Receiver<Option<Epoch>>,
    offers: mpsc::Sender<Offered>,
    one: Arc<Semaphore>,
}

impl Taker {
    pub(super) fn new(
        store: Store,
        coordinator: Arc<dyn Coordinator>,
        active: watch::Receiver<Option<Epoch>>,
    ) -> (Self, mpsc::Receiver<Offered>) {
        let (offers, taken) = mpsc::channel(1);
        (Self { store, coordinator, active, offers, one: Arc::new(Semaphore::new(1)) }, taken)
    }

    /// Takes what `caller` offers, as far as it can be a change of this folder.
    ///
    /// # Errors
    /// When the parcel breaks the protocol or the store failed. Nothing is taken then.
    pub async fn offer(
        &self,
        caller: NodeId,
        mut parcels: impl Stream<Item = Result<Parcel, Status>> + Unpin,
    ) -> Result<OfferReply, Status> {
        let later = || Ok(OfferReply { later: true, taken: Vec::new() });
        if !self.may_offer(caller) {
            return Err(Status::permission_denied("only a candidate offers changes"));
        }
        let Ok(_one) = self.one.try_acquire() else { return later() };
        if self.active.borrow().is_none() {
            return later();
        }
        let first = tokio::time::timeout(HEADER, parcels.next())
            .await
            .map_err(|_| Status::deadline_exceeded("no header came"))?;
        let Some(Parcel { part: Some(Part::Header(first)) }) = first.transpose()? else {
            return Err(Status::invalid_argument("an offer begins with a header"));
        };
        let header = Header::try_from(first).map_err(|error| Status::invalid_argument(chain(&error)))?;
        if header.changes > CHANGES_MAX as u64 || header.content_bytes > CONTENT_BYTES_MAX {
            return Err(Status::invalid_argument("the offer is too large"));
        }
        let Some(base_digest) = header.base_digest else {
            return Err(Status::invalid_argument("an offer names the generation that it was made against"));
        };
        let base = header.base;
        let changes = tokio::time::timeout(WHOLE, receive_contents(&self.store, header, parcels))
            .await
            .map_err(|_| Status::deadline_exceeded("the offer takes too long"))?
            .map_err(|error| Status::invalid_argument(chain(&error)))?;
        // No pin needs them yet: nothing may collect them before they are in the folder.
        let _hold = self.store.hold(changes.iter().filter_map(|change| change.entry.as_ref()?.content()));
        let (reply, answer) = oneshot::channel();
        if self.offers.send(Offered { base, base_digest, changes, reply }).await.is_err() {
            return Err(Status::unavailable("the daemon stops"));
        }
        match tokio::time::timeout(PLACED, answer).await {
            Ok(Ok(Some(taken))) => Ok(OfferReply { later: false, taken }),
            _ => later(),
        }
    }

    fn may_offer(&self, caller: NodeId) -> bool {
        let state = self.coordinator.state();
        let state = state.borrow();
        let member = state.as_ref().and_then(|state| state.members.get(&caller));
        member.is_some_and(|member| member.role == Role::Candidate)
    }
}

impl ApplyTask {
    /// Puts what may be taken of an offer into this folder, if it is the source.
    pub(super) async fn take(&mut self, offered: Offered) -> Result<(), ApplyTaskError> {
        let Offered { base, base_digest, changes, reply } = offered;
        let taken = self.take_changes(base, base_digest, &changes).await?;
        // Who gave up waiting offers again, and finds it taken.
        let _ = reply.send(taken);
        Ok(())
    }

    async fn take_changes(
        &mut self,
        base: u64,
        base_digest: Digest,
        changes: &[Change],
    ) -> Result<Option<Vec<u64>>, ApplyTaskError> {
        let (Some(state), Some(node)) = self.membership() else { return Ok(None) };
        let office = office_of(Some(&state), Some(node));
        if office.is_none() || *self.active.borrow() != office || state.paused.is_some() {
            return Ok(None);
        }
        let wanted = state.head.as_ref().map(|head| (head.generation, head.digest));
        let head = self.parts.store.head();
        let head = head.filter(|head| Some((head.generation.number, head.generation.digest)) == wanted);
        let Some(head) = head.filter(|head| self.goes_by(head)) else { return Ok(None) };
        let observed = Arc::clone(&self.observed.borrow());
        let roots = self.examine(&observed, &state, node, Some(&head)).await?;
        if !observed.complete || !roots.problems.is_empty() {
            return Ok(None);
        }
        let store = self.parts.store.clone();
        let look = move || Ok::<_, StoreError>((store.forest_of(base)?, store.history(usize::MAX)?));
        let (base, history) = blocking(look).await??;
        let Some(base) = base.filter(|base| base.digest() == base_digest) else { return Ok(None) };
        let scene = Scene { state: &state, node, observed, roots };
        let counted = history.iter().filter(|entry| !state.was_approved(entry.generation.number));
        let commits = counted.map(|entry| (entry.generation.created_unix_ms, entry.removed));
        let now = Instant::now();
        let deletes_left = DeleteWindow::over(commits, now, unix_ms()).left(now, self.config.max_delete);
        let sight = Sight { base: &base, head: &head, observed: &scene.observed, deletes_left };
        let (taken, edits) = sight.choose(changes, |root| scene.roots.sites.contains_key(root));
        if edits.is_empty() {
            return Ok(Some(taken));
        }
        let made = edits.len();
        match self.place(&scene, &head, edits).await? {
            Ok(()) => {
                tracing::info!(changes = made, "took late changes of the former manager");
                Ok(Some(taken))
            }
            Err(error) => {
                tracing::warn!(error = error.chain(), "late changes of the former manager were not taken");
                Ok(None)
            }
        }
    }

    async fn place(
        &mut self,
        scene: &Scene<'_>,
        head: &Arc<Adopted>,
        edits: Vec<Edit>,
    ) -> Result<Result<(), ApplyError>, ApplyTaskError> {
        let (store, sites) = (self.parts.store.clone(), scene.roots.sites.clone());
        let record = record_of(scene.state, head);
        let head = Arc::clone(head);
        let work = move || {
            let why = |_: &Place| "another content was handed over by the former manager";
            reconcile(Round {
                store: &store,
                sites: &sites,
                edits,
                before: Some(&head.forest),
                record,
                why: &why,
            })
        };
        match blocking(work).await? {
            Ok(outcome) => {
                self.displace(outcome.displaced);
                self.parts.inventory.applied(outcome.written).await;
                Ok(Ok(()))
            }
            Err(failed) => {
                let failed = *failed;
                self.displace(failed.displaced);
                match failed.error {
                    ApplyError::Store(error) if error.is_fatal() => Err(error.into()),
                    error => Ok(Err(error)),
                }
            }
        }
    }
}

/// What an offer is held against.
struct Sight<'a> {
    /// What the offer was made against.
    base: &'a Forest,
    head: &'a Adopted,
    observed: &'a Observed,
    /// How many more artifacts may be deleted now, by the commits of the log.
    deletes_left: u64,
}

impl Sight<'_> {
    /// Which changes are taken, by position, and what is to be made for that.
    fn choose(&self, changes: &[Change], is_here: impl Fn(&RootName) -> bool) -> (Vec<u64>, Vec<Edit>) {
        let (observed, head) = (self.observed, self.head);
        let limits = Limits::new(&head.rules, &head.forest, &observed.forest);
        let (mut same, mut chosen) = (Vec::new(), Vec::new());
        for (index, change) in (0..).zip(changes) {
            let place = &change.place;
            let there = observed.forest.get(place);
            if there == change.entry.as_ref() {
                same.push(index);
                continue;
            }
            let expected = self.base.get(place);
            let is_free = head.forest.get(place) == expected
                && there == expected
                && !observed.busy.contains_key(place)
                && !observed.is_unreadable(place);
            if is_free && is_here(&place.root) && limits.carry(place, expected, change.entry.as_ref()) {
                let edit = Edit { place: place.clone(), old: there.cloned(), new: change.entry.clone() };
                chosen.push((index, edit));
            }
        }
        self.leave_deletes(&limits, &mut chosen);
        let made = chosen.iter().map(|(_, edit)| (edit.place.clone(), edit.new.clone()));
        if observed.forest.with(made).is_err() {
            // What is left of it makes no tree.
            return (same, Vec::new());
        }
        let (taken, edits): (Vec<u64>, Vec<Edit>) = chosen.into_iter().unzip();
        same.extend(taken);
        (same, edits)
    }

    /// Leaves out the deletes that a publish would hold, and with them those of the folders that then stay.
    fn leave_deletes(&self, limits: &Limits<'_>, chosen: &mut Vec<(u64, Edit)>) {
        let (head, observed) = (&self.head.forest, &self.observed.forest);
        let gone = |chosen: &[(u64, Edit)]| -> BTreeSet<Place> {
            let deletes = chosen.iter().filter(|(_, edit)| edit.new.is_none());
            deletes.map(|(_, edit)| edit.place.clone()).collect()
        };
        if chosen.iter().all(|(_, edit)| edit.new.is_some()) {
            return;
        }
        let waiting = head.edits(observed);
        let waiting = waiting.iter().filter(|edit| limits.carry(&edit.place, edit.old.as_ref(), None));
        let due = deletes(waiting) + deletes(chosen.iter().map(|(_, edit)| edit));
        let is_too_much = due > self.deletes_left;
        let deleted = gone(chosen);
        let is_emptied = |root: &RootName| {
            let has_artifact = |entry: Option<&Entry>| entry.is_some_and(|entry| !entry.is_folder());
            let stays = observed.roots.get(root).is_some_and(|manifest| {
                manifest.iter().any(|(path, entry)| {
                    has_artifact(Some(entry)) && !deleted.contains(&Place { root: root.clone(), path })
                })
            });
            let comes =
                chosen.iter().any(|(_, edit)| edit.place.root == *root && has_artifact(edit.new.as_ref()));
            !stays && !comes && head.roots.get(root).is_some_and(|manifest| !manifest.is_bare())
        };
        let roots: BTreeSet<&RootName> = deleted.iter().map(|place| &place.root).collect();
        let emptied: BTreeSet<RootName> =
            roots.into_iter().filter(|root| is_emptied(root)).cloned().collect();
        chosen.retain(|(_, edit)| edit.new.is_some() || !(is_too_much || emptied.contains(&edit.place.root)));
        let deleted = gone(chosen);
        chosen.retain(|(_, edit)| {
            let place = &edit.place;
            let Some(manifest) = observed.roots.get(&place.root).filter(|_| edit.new.is_none()) else {
                return true;
            };
            let mut below = manifest.below(&place.path);
            below.all(|(path, _)| deleted.contains(&Place { root: place.root.clone(), path }))
        });
    }
}

#[cfg(test)]
mod tests;
