//! A former manager's late changes: for a while after its office ended, what its folder has beyond the head is offered
//! to the new manager, and not reverted before that one answered.
//!
//! Only what changed here is offered: a place that the head changed meanwhile is brought to the head like on any node,
//! and the local content goes to quarantine. So does at once what a publish would not let through (`limits`), and what
//! was held here; so does what the new manager does not take, and all of it when the time is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::Instant;

use crate::apply::ApplyTaskError;
use crate::apply::files::Scene;
use crate::apply::judge::{Drift, Verdict};
use crate::apply::limits::Limits;
use crate::apply::offer::{Answer, CHANGES_MAX, CONTENT_BYTES_MAX, Offer};
use crate::apply::office::MASS_DELETE;
use crate::apply::task::ApplyTask;
use crate::model::{Change, Edit, Entry, Epoch, FileTime, Forest, Generation, Place, Proposal, unix_ms};
use crate::store::Adopted;

/// How soon an offer is tried again that was not answered.
const AGAIN: Duration = Duration::from_millis(200);
/// How long what was taken may take to come back as a generation: the manager's own quiet times, with room.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// What this node offers since its office ended.
#[derive(Debug)]
pub(super) struct Handover {
    until: Instant,
    again: Instant,
    /// What the manager took, and until when it is waited for.
    taken: BTreeMap<Place, (Option<Entry>, Instant)>,
    /// What it did not take, and what was held here when the office ended: nobody approved it.
    refused: BTreeMap<Place, Option<Entry>>,
}

/// The places of an offer that is on its way, with what is there, in the order of its changes.
pub(super) type Sent = (Vec<(Place, Option<Entry>)>, Answer);

impl Handover {
    /// Whether a difference is left alone: it may still be published.
    pub(super) fn keeps(&self, edit: &Edit, limits: &Limits<'_>, now: Instant) -> bool {
        match self.taken.get(&edit.place) {
            Some((entry, until)) if *entry == edit.old && *until > now => true,
            _ => {
                now < self.until
                    && self.refused.get(&edit.place) != Some(&edit.old)
                    && limits.carry(&edit.place, edit.new.as_ref(), edit.old.as_ref())
            }
        }
    }

    fn is_taken(&self, edit: &Edit) -> bool {
        self.taken.get(&edit.place).is_some_and(|(entry, _)| *entry == edit.old)
    }
}

impl ApplyTask {
    /// Notes that this node is manager, or that it was and is not any more.
    ///
    /// # Errors
    /// When the store can't say what was held.
    pub(super) fn watch_office(
        &mut self,
        office: Option<Epoch>,
        there: &Forest,
    ) -> Result<(), ApplyTaskError> {
        // The log may have ended the office already where nobody has noted it yet.
        if let Some(epoch) = self.active.borrow().filter(|active| Some(*active) == office) {
            self.was_active = Some(epoch);
            self.handover = None;
        } else if self.was_active.is_some() && self.was_active != office {
            self.was_active = None;
            let now = Instant::now();
            // What was changed while nobody watched, and deletes beyond what may go: neither goes this way.
            let (held, deletes) = (Arc::clone(&self.held.borrow()), self.parts.store.held(MASS_DELETE)?);
            let held = held.changed.iter().chain(&held.others).chain(&deletes);
            self.handover = (office.is_none() && !self.config.handover.is_zero()).then(|| Handover {
                until: now + self.config.handover,
                again: now,
                taken: BTreeMap::new(),
                refused: held.map(|place| (place.clone(), there.get(place).cloned())).collect(),
            });
        }
        Ok(())
    }

    /// Offers what is due.
    pub(super) fn hand_over(
        &mut self,
        scene: &Scene<'_>,
        head: &Arc<Adopted>,
        edits: &[Edit],
        verdict: &Verdict,
    ) {
        let Some(handover) = &self.handover else { return };
        let now = Instant::now();
        let last = handover.taken.values().map(|(_, until)| *until).fold(handover.until, Instant::max);
        if now >= last {
            self.handover = None;
            return;
        }
        self.now.wait_until(if now < handover.until { handover.until } else { last });
        if now >= handover.until || self.offering.is_some() {
            return;
        }
        // What is offered may be a folder of something that comes back now.
        let made: BTreeSet<&Place> = verdict.edits.iter().map(|edit| &edit.place).collect();
        let is_due = |edit: &&Edit| {
            verdict.drifted.get(&edit.place) == Some(&Drift::Offered)
                && !handover.is_taken(edit)
                && !made.contains(&edit.place)
        };
        let due: Vec<&Edit> = edits.iter().filter(is_due).collect();
        let manager = scene.state.appointment.as_ref().map(|current| current.manager);
        let member =
            manager.filter(|id| *id != scene.node).and_then(|id| Some((id, scene.state.members.get(&id)?)));
        let (Some((to, member)), false) = (member, due.is_empty()) else { return };
        if now < handover.again {
            self.now.wait_until(handover.again);
            return;
        }
        let changes = changes(&due, edits);
        if changes.is_empty() {
            return;
        }
        let sent: Vec<_> =
            changes.iter().map(|change| (change.place.clone(), change.entry.clone())).collect();
        tracing::info!(to = member.name, changes = sent.len(), "offering late changes to the new manager");
        let generation = Generation {
            number: head.generation.number + 1,
            parent: head.generation.number,
            // What comes of it is the manager's to say.
            digest: head.generation.digest,
            epoch: scene.state.epoch(),
            author: head.generation.author.clone(),
            created_unix_ms: unix_ms(),
        };
        let (base, rules) = (head.generation.number, head.rules.clone());
        let roots =
            scene.roots.sites.iter().map(|(name, site)| (name.clone(), Arc::clone(&site.root))).collect();
        let proposal = Proposal { generation, base, rules, changes };
        let offer = Offer { proposal, base_digest: head.generation.digest, roots };
        let asked = self.parts.offerer.offer(to, member.address.clone(), offer);
        self.offering = Some(tokio::spawn(async move { (sent, asked.await) }));
    }

    /// Notes what the new manager said.
    pub(super) fn handed_over(&mut self, answered: Result<Sent, JoinError>) {
        self.offering = None;
        let (sent, answer) = answered.unwrap_or_else(|error| (Vec::new(), Err(error.to_string())));
        let Some(handover) = &mut self.handover else { return };
        let now = Instant::now();
        // Whatever was said: an offer that moves nothing on must not be made as fast as possible.
        handover.again = now + AGAIN;
        match answer {
            Ok(Some(taken)) => {
                for (index, (place, entry)) in sent.into_iter().enumerate() {
                    if taken.contains(&(index as u64)) {
                        handover.taken.insert(place, (entry, now + TAKEN_WITHIN));
                    } else {
                        tracing::info!(%place, "the new manager did not take this change");
                        handover.refused.insert(place, entry);
                    }
                }
            }
            Ok(None) => {}
            Err(why) => tracing::debug!(why, "late changes could not be offered yet"),
        }
    }
}

/// What is offered for these differences: with them the folders that they lie in and the head has not, in the order
/// of their places; so much of it as fits into one offer, the rest comes after it.
fn changes(due: &[&Edit], edits: &[Edit]) -> Vec<Change> {
    let by_place: BTreeMap<&Place, &Edit> = edits.iter().map(|edit| (&edit.place, edit)).collect();
    let mut offered: BTreeMap<&Place, &Edit> = BTreeMap::new();
    let mut bytes = 0;
    for edit in due {
        let size = match &edit.old {
            Some(Entry::File { size, .. }) => *size,
            _ => 0,
        };
        let mut group = vec![*edit];
        let mut above = edit.place.path.parent();
        while let Some(path) = above {
            above = path.parent();
            let folder = Place { root: edit.place.root.clone(), path };
            group.extend(by_place.get(&folder).filter(|edit| edit.new.is_none()));
        }
        if offered.len() + group.len() > CHANGES_MAX || bytes + size > CONTENT_BYTES_MAX {
            continue;
        }
        bytes += size;
        offered.extend(group.into_iter().map(|edit| (&edit.place, edit)));
    }
    let (seconds, nanos) = (unix_ms().div_euclid(1000), 0);
    let mtime = |entry: &Option<Entry>| {
        matches!(entry, Some(Entry::File { .. })).then_some(FileTime { seconds, nanos })
    };
    offered
        .into_values()
        .map(|edit| Change { place: edit.place.clone(), mtime: mtime(&edit.old), entry: edit.old.clone() })
        .collect()
}

#[cfg(test)]
mod tests;
