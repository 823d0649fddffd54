//! What goes out together, and when: a pure state machine over the head, what was observed, and a clock handed in.
//!
//! Root by root, a pending set that only updates existing paths goes out after `settle` of quiet. Once it has a new or
//! a deleted path it waits for `gather` of quiet in its root, a deleted path also for `delete_grace`, so that a publish
//! of several files, or an update by delete and create, goes out as one. At `settle_max` a set goes out as it stands,
//! without what is being written, deletes younger than their grace, and what is new beside those.
//! Never decides that a vanished root is an empty one, and holds deletes beyond a budget, or of a whole folder, until a
//! person agrees or the files come back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::inventory::Touched;
use crate::model::{Edit, Entry, Forest, Intent, Place, RootName, Stands, Withheld};
use crate::plan::DELETE_WINDOW;
use crate::publish::fit::fit;
use crate::publish::guard;
use crate::publish::guard::deletes_artifact;
use crate::publish::malformed::Malformations;
use crate::wire::check_link;

/// How long a path that could not be read is left alone at first, and at most.
const POSTPONE_MIN: Duration = Duration::from_millis(100);
const POSTPONE_MAX: Duration = Duration::from_secs(5);
/// When nothing of a set can go, it is looked at again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// How long changes wait: the keys of the same names.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Quiet before updates of existing paths go out.
    pub settle: Duration,
    /// Quiet in the root once a path is new or deleted.
    pub gather: Duration,
    /// The longest that a set waits for quiet.
    pub settle_max: Duration,
    /// How long a path must be gone to count as deleted.
    pub delete_grace: Duration,
}

/// What a decision is made from.
pub(super) struct Scene<'a> {
    /// The head; empty roots before the first generation.
    pub(super) head: &'a Forest,
    pub(super) observed: &'a Forest,
    /// When something last happened at a place.
    pub(super) touched: &'a Touched,
    /// Places that are being written, and since when.
    pub(super) busy: &'a BTreeMap<Place, Instant>,
    /// Roots from which nothing may go out now.
    pub(super) shut: &'a BTreeSet<RootName>,
    /// Places that somebody else holds back.
    pub(super) withheld: &'a Withheld,
    /// Contents that are held because they are malformed; none when such files are not held.
    pub(super) malformed: Option<&'a Malformations>,
    /// Whether nothing is known of a place, because it can't be read.
    pub(super) unreadable: &'a dyn Fn(&Place) -> bool,
    /// Whether a vanished place stays in the manifest.
    pub(super) protected: &'a dyn Fn(&Place) -> bool,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing is pending.
    Idle,
    /// Look again then, or when something changes.
    Wait(Instant),
    /// This goes out.
    Go(Batch),
}

/// What goes out together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// The edits by place; together they make a tree.
    pub(super) edits: BTreeMap<Place, Edit>,
    /// When the first of them was seen.
    pub(super) seen: Instant,
}

#[derive(Clone, Debug)]
struct Pending {
    edit: Edit,
    /// When the difference was first noticed; what waits longest counts from here.
    first: Instant,
    /// When it happened, as far as is known.
    seen: Instant,
    /// When something last happened to it.
    last: Instant,
    /// Since when nothing is there.
    gone: Option<Instant>,
    /// How often it could not be read, and until when it is left alone for that.
    vain: u32,
    not_before: Option<Instant>,
}

/// The pending changes of all roots.
pub(super) struct Gather {
    timing: Timing,
    pending: BTreeMap<Place, Pending>,
    busy: BTreeMap<Place, (Instant, bool)>,
    /// The newest event of each root, differing or not.
    stirred: BTreeMap<RootName, Instant>,
    emptied: BTreeSet<RootName>,
    unsafe_links: BTreeSet<Place>,
    /// What is held until a person agrees or the files come back, and since when it counts as deleted.
    held: BTreeMap<Place, Instant>,
    /// Protected places that vanished.
    vanished: BTreeSet<Place>,
    /// What somebody else holds back, and whether a person may agree to it.
    withheld: Vec<(Edit, bool)>,
    malformed: Vec<Edit>,
}

impl Gather {
    pub(super) fn new(timing: Timing) -> Self {
        Self {
            timing,
            pending: BTreeMap::new(),
            busy: BTreeMap::new(),
            stirred: BTreeMap::new(),
            emptied: BTreeSet::new(),
            unsafe_links: BTreeSet::new(),
            held: BTreeMap::new(),
            vanished: BTreeSet::new(),
            withheld: Vec::new(),
            malformed: Vec::new(),
        }
    }

    /// Goes on holding what an earlier process held, as if it had been deleted now.
    pub(super) fn go_on_holding(&mut self, held: BTreeSet<Place>, now: Instant) {
        self.held.extend(held.into_iter().map(|place| (place, now)));
    }

    /// Takes in what is to be seen now.
    pub(super) fn update(&mut self, scene: &Scene<'_>, now: Instant) {
        self.emptied = scene
            .head
            .roots
            .iter()
            .filter_map(|(root, head)| {
                let observed = scene.observed.roots.get(root)?;
                (!head.is_bare() && observed.is_bare()).then(|| root.clone())
            })
            .collect();
        let is_shut = |root: &RootName| scene.shut.contains(root) || self.emptied.contains(root);
        self.unsafe_links.clear();
        self.withheld.clear();
        self.malformed.clear();
        let mut pending = BTreeMap::new();
        let mut stays = Vec::new();
        for edit in scene.head.edits(scene.observed) {
            if is_shut(&edit.place.root) || (scene.unreadable)(&edit.place) {
                continue;
            }
            // First: a list that a person agrees to must be able to go out whole.
            if scene.malformed.is_some_and(|malformed| malformed.brings(&edit)) {
                self.malformed.push(edit);
                continue;
            }
            if scene.withheld.has(&edit.place) {
                let may_be_approved = scene.withheld.changed.contains(&edit.place);
                self.withheld.push((edit, may_be_approved));
                continue;
            }
            if edit.new.is_none() && (scene.protected)(&edit.place) {
                stays.push(edit.place);
                continue;
            }
            if let Some(Entry::Link { target }) = &edit.new
                && check_link(&edit.place.path, target).is_err()
            {
                self.unsafe_links.insert(edit.place.clone());
                continue;
            }
            let touched = scene.touched.get(&edit.place).map(|at| at.min(now));
            let known = self.pending.remove(&edit.place).filter(|known| known.edit.old == edit.old);
            pending.insert(edit.place.clone(), noticed(known, edit, touched, now));
        }
        for place in &stays {
            let mut above = place.path.parent();
            while let Some(path) = above {
                above = path.parent();
                pending.remove(&Place { root: place.root.clone(), path });
            }
        }
        self.vanished = stays.into_iter().collect();
        // Held until it is let through, or comes back; what can't be seen now may be either.
        self.held.retain(|place, _| match pending.get(place) {
            Some(pending) => pending.edit.old.is_none() || pending.edit.new.is_none(),
            None => is_shut(&place.root) || (scene.unreadable)(place),
        });
        // What is new beside held deletes is held with them, and not longer; what can't be seen may be a delete still.
        let may_delete = |place: &Place| pending.get(place).is_none_or(|known| known.edit.new.is_none());
        let with: BTreeSet<RootName> =
            self.held.keys().filter(|place| may_delete(place)).map(|place| place.root.clone()).collect();
        self.held.retain(|place, _| with.contains(&place.root));
        self.pending = pending;
        self.busy = scene
            .busy
            .iter()
            .filter(|(place, _)| !is_shut(&place.root) && scene.head.roots.contains_key(&place.root))
            .map(|(place, since)| (place.clone(), (*since, scene.head.get(place).is_none())))
            .collect();
        self.stirred.clear();
        for root in scene.head.roots.keys() {
            if let Some(newest) = scene.touched.newest(root) {
                self.stirred.insert(root.clone(), newest.min(now));
            }
        }
    }

    /// What to do now, when so many more artifacts may be deleted.
    pub(super) fn decide(&mut self, head: &Forest, now: Instant, deletes_left: u64) -> Decision {
        self.hold(head, now, deletes_left);
        let roots: BTreeSet<&RootName> =
            self.pending.keys().chain(self.busy.keys()).map(|place| &place.root).collect();
        let mut wake = Wake::default();
        let mut going: BTreeMap<Place, Edit> = BTreeMap::new();
        for root in roots {
            let places = self.going(root, now, &mut wake);
            going.extend(places.into_iter().map(|place| (place.clone(), self.pending[place].edit.clone())));
        }
        if !fit(head, &mut going).is_empty() {
            wake.at(now + AGAIN);
        }
        match going.keys().map(|place| self.pending[place].seen).min() {
            Some(seen) => Decision::Go(Batch { edits: going, seen }),
            None => wake.0.map_or(Decision::Idle, Decision::Wait),
        }
    }

    /// The places of `root` that go out now; notes when to look again for the others.
    fn going(&self, root: &RootName, now: Instant, wake: &mut Wake) -> Vec<&Place> {
        let Timing { settle, gather, settle_max, delete_grace } = self.timing;
        let in_root = |place: &Place| place.root == *root;
        let fresh_busy: Vec<_> = self
            .busy
            .iter()
            .filter(|(place, (since, _))| in_root(place) && *since + settle_max > now)
            .map(|(_, busy)| *busy)
            .collect();
        fresh_busy.iter().for_each(|(since, _)| wake.at(*since + settle_max));
        let mut set: Vec<(&Place, &Pending)> = Vec::new();
        for (place, pending) in self.pending.iter().filter(|(place, _)| in_root(place)) {
            match pending.not_before.filter(|until| *until > now) {
                Some(until) => wake.at(until),
                None if self.held.contains_key(place) || self.busy.contains_key(place) => {}
                None => set.push((place, pending)),
            }
        }
        let (Some(first), Some(last)) = (
            set.iter().map(|(_, p)| p.first).chain(fresh_busy.iter().map(|(since, _)| *since)).min(),
            set.iter().map(|(_, p)| p.last).max(),
        ) else {
            return Vec::new();
        };
        let is_structural =
            set.iter().any(|(_, p)| !is_update(&p.edit)) || fresh_busy.iter().any(|(_, is_new)| *is_new);
        let quiet = if is_structural {
            let stirred = self.stirred.get(root).copied().unwrap_or(last);
            let mature = set.iter().filter_map(|(_, p)| p.gone).map(|gone| gone + delete_grace);
            mature.fold(last.max(stirred) + gather, Instant::max)
        } else {
            last + settle
        };
        let is_quiet = fresh_busy.is_empty() && quiet <= now;
        let cap = first + settle_max;
        if !is_quiet && cap > now {
            wake.at(if fresh_busy.is_empty() { quiet.min(cap) } else { cap });
            return Vec::new();
        }
        // At the cap: what may still come back stays, and with it what is new, for it may be the same under a new
        // name; but nothing waits for longer than the cap.
        let is_young = |p: &Pending| p.gone.is_some_and(|gone| gone + delete_grace > now);
        let young =
            set.iter().filter_map(|(_, p)| p.gone).map(|gone| gone + delete_grace).filter(|at| *at > now);
        let Some(next) = young.min() else { return set.into_iter().map(|(place, _)| place).collect() };
        wake.at(next);
        set.retain(|(_, p)| {
            !is_young(p) && (is_update(&p.edit) || p.gone.is_some() || p.first + settle_max <= now)
        });
        set.into_iter().map(|(place, _)| place).collect()
    }

    /// Holds the deletes that are due if they are more than may be, or empty a folder, and what is new where they were:
    /// a big move.
    fn hold(&mut self, head: &Forest, now: Instant, deletes_left: u64) {
        let is_due = |p: &Pending| p.gone.is_some_and(|gone| gone + self.timing.delete_grace <= now);
        let due: Vec<&Pending> =
            self.pending.values().filter(|p| is_due(p) && !self.held.contains_key(&p.edit.place)).collect();
        let lately =
            self.held.iter().filter(|(_, since)| **since + DELETE_WINDOW > now).map(|(place, _)| place);
        let lately = lately.filter_map(|place| self.pending.get(place)).filter(|p| deletes_artifact(&p.edit));
        let artifacts = due.iter().filter(|p| deletes_artifact(&p.edit)).count() + lately.count();
        let emptied = guard::emptied(head, self.pending.values().map(|p| &p.edit), &self.vanished);
        let too_many = artifacts as u64 > deletes_left;
        let is_emptied = |place: &Place| {
            emptied.contains(place) || guard::above(place).any(|folder| emptied.contains(&folder))
        };
        let more: Vec<(Place, Instant)> = due
            .iter()
            .filter(|p| too_many || is_emptied(&p.edit.place))
            .map(|p| (p.edit.place.clone(), p.first))
            .collect();
        self.held.extend(more);
        self.hold_what_came_with_them();
    }

    /// What is new where held deletes were, at about the same time.
    fn hold_what_came_with_them(&mut self) {
        let deletes = || {
            self.held
                .iter()
                .filter(|(place, _)| self.pending.get(place).is_some_and(|p| p.edit.new.is_none()))
        };
        let (Some(from), Some(to)) =
            (deletes().map(|(_, since)| *since).min(), deletes().map(|(_, since)| *since).max())
        else {
            return;
        };
        let parent = |place: &Place| (place.root.clone(), place.path.parent());
        let folders: BTreeSet<_> = deletes().map(|(place, _)| parent(place)).collect();
        let roots: BTreeSet<RootName> = deletes().map(|(place, _)| place.root.clone()).collect();
        let with_them = |p: &Pending| {
            p.edit.old.is_none()
                && roots.contains(&p.edit.place.root)
                && p.first + self.timing.settle_max >= from
                && p.first <= to + self.timing.settle_max
        };
        let mut held = Vec::new();
        let mut new_folders: BTreeSet<&Place> = BTreeSet::new();
        for (place, p) in self.pending.iter().filter(|(_, p)| with_them(p)) {
            let above = place.path.parent().map(|path| Place { root: place.root.clone(), path });
            let in_new = above.is_some_and(|above| new_folders.contains(&above));
            let is_folder = p.edit.new.as_ref().is_some_and(Entry::is_folder);
            if is_folder {
                new_folders.insert(place);
            }
            if is_folder || in_new || folders.contains(&parent(place)) {
                held.push((place.clone(), p.first));
            }
        }
        self.held.extend(held);
    }

    /// This place could not be read: it is left alone for a while, longer each time.
    pub(super) fn postpone(&mut self, place: &Place, now: Instant) {
        if let Some(pending) = self.pending.get_mut(place) {
            pending.vain += 1;
            let wait = POSTPONE_MIN * (1 << (pending.vain - 1).min(6));
            pending.not_before = Some(now + wait.min(POSTPONE_MAX));
        }
    }

    /// How many changes wait to go out, those that are held left out.
    pub(super) fn pending(&self) -> u64 {
        (self.pending.len() - self.held_edits().len()) as u64
    }

    /// How many changes are held, and how many of those held here delete an artifact.
    pub(super) fn held(&self) -> (u64, u64) {
        let deletes = self.held_edits().iter().filter(|edit| deletes_artifact(edit)).count();
        ((self.held.len() + self.withheld.len() + self.malformed.len()) as u64, deletes as u64)
    }

    /// Everything held here that can be seen now.
    pub(super) fn held_edits(&self) -> Vec<Edit> {
        let pending = self.held.keys().filter_map(|place| self.pending.get(place));
        pending.map(|pending| pending.edit.clone()).collect()
    }

    /// The places held here.
    pub(super) fn held_places(&self) -> BTreeSet<Place> {
        self.held.keys().cloned().collect()
    }

    /// What somebody else holds back until a person agrees.
    pub(super) fn withheld_edits(&self) -> Vec<Edit> {
        self.withheld.iter().filter(|(_, may)| *may).map(|(edit, _)| edit.clone()).collect()
    }

    /// Everything that is pending, and what keeps it from going out, after `decision` was made at `now`.
    pub(super) fn intents(&self, decision: &Decision, now: Instant) -> Vec<Intent> {
        let going =
            |place: &Place| matches!(decision, Decision::Go(batch) if batch.edits.contains_key(place));
        let stands = |place: &Place, pending: &Pending| {
            if going(place) {
                Stands::Due
            } else if self.held.contains_key(place) {
                Stands::Held("mass-delete")
            } else if self.busy.contains_key(place) {
                Stands::Waits("it is still being written")
            } else if pending.not_before.is_some_and(|until| until > now) {
                Stands::Waits("it could not be read; it is tried again")
            } else {
                Stands::Waits("for quiet: more changes may belong to it")
            }
        };
        let pending = self
            .pending
            .iter()
            .map(|(place, pending)| Intent { edit: pending.edit.clone(), stands: stands(place, pending) });
        let withheld = self
            .withheld
            .iter()
            .map(|(edit, _)| Intent { edit: edit.clone(), stands: Stands::Held("held-changes") });
        let malformed = self
            .malformed
            .iter()
            .map(|edit| Intent { edit: edit.clone(), stands: Stands::Held("malformed-xml") });
        pending.chain(withheld).chain(malformed).collect()
    }

    /// Roots that hold no artifact any more although the head has some there.
    pub(super) fn emptied(&self) -> &BTreeSet<RootName> {
        &self.emptied
    }

    /// Links that are not carried.
    pub(super) fn unsafe_links(&self) -> &BTreeSet<Place> {
        &self.unsafe_links
    }

    /// Places that could not be read as a whole for longer than a set waits.
    pub(super) fn stuck(&self, now: Instant) -> BTreeSet<&Place> {
        let busy = self.busy.iter().filter(|(_, (since, _))| *since + self.timing.settle_max <= now);
        let vain = self.pending.iter().filter(|(_, p)| p.vain > 0 && p.first + self.timing.settle_max <= now);
        busy.map(|(place, _)| place).chain(vain.map(|(place, _)| place)).collect()
    }
}

/// The earliest time to look again.
#[derive(Default)]
struct Wake(Option<Instant>);

impl Wake {
    fn at(&mut self, at: Instant) {
        self.0 = Some(self.0.map_or(at, |wake| wake.min(at)));
    }
}

/// Whether the edit only gives an existing path another content or mode.
fn is_update(edit: &Edit) -> bool {
    use std::mem::discriminant;
    matches!((&edit.old, &edit.new), (Some(old), Some(new)) if discriminant(old) == discriminant(new))
}

/// What is pending at a place once `edit` is seen there.
fn noticed(known: Option<Pending>, edit: Edit, touched: Option<Instant>, now: Instant) -> Pending {
    let is_gone = edit.new.is_none();
    match known {
        None => {
            let at = touched.unwrap_or(now);
            let gone = is_gone.then_some(at);
            Pending { edit, first: now, seen: at, last: at, gone, vain: 0, not_before: None }
        }
        Some(known) => {
            let is_other = known.edit.new != edit.new;
            let last = touched.or(is_other.then_some(now)).map_or(known.last, |at| at.max(known.last));
            let gone = is_gone.then(|| known.gone.unwrap_or(touched.unwrap_or(now)));
            let (vain, not_before) = if is_other { (0, None) } else { (known.vain, known.not_before) };
            Pending { edit, first: known.first, seen: known.seen, last, gone, vain, not_before }
        }
    }
}

#[cfg(test)]
mod tests;
