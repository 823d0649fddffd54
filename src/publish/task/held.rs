//! What is held on the manager: the lists that a person may let through, and the problems that tell of it.

use std::sync::Arc;

use tokio::time::Instant;

use crate::model::{HeldList, Place, Problem, Rules, Severity};
use crate::publish::batch::Batch;
use crate::publish::task::rules::RULES_HELD;
use crate::publish::task::{Office, PublishTask};

/// Deletes beyond what may go by itself.
pub(super) const MASS_DELETE: &str = "mass-delete";
/// Changes while no syncd watched.
const HELD_CHANGES: &str = "held-changes";
/// How many paths are named one by one.
pub(super) const NAMED_MAX: usize = 10;

impl PublishTask {
    /// Makes the lists of what is held now.
    pub(super) fn list_held(&mut self, office: &Office) {
        let epoch = office.epoch.to_le_bytes();
        let me = office.me.to_le_bytes();
        let list = |code, about: &[&[u8]], says: &str, edits| {
            let about: Vec<&[u8]> = [&me[..], &epoch].into_iter().chain(about.iter().copied()).collect();
            Arc::new(HeldList::new(code, &about, says.to_owned(), edits))
        };
        self.lists.clear();
        let deletes = self.gather.held_edits();
        if !deletes.is_empty() {
            let says = "these files are deleted on every node, and what is new beside them is published";
            self.lists.push(list(MASS_DELETE, &[], says, deletes));
        }
        let changes = self.gather.withheld_edits();
        if !changes.is_empty() {
            let says = "what changed here while no syncd watched is published to every node";
            self.lists.push(list(HELD_CHANGES, &[], says, changes));
        }
        if let Some((own, edits)) = self.own.approvable() {
            let says = "the rules of this node's file become the cluster's: what they take in comes from here, and other \
                        content at these paths on other nodes goes to quarantine there; what they release stays as it \
                        is everywhere";
            let rules = [own.as_slice()];
            self.lists.push(list(RULES_HELD, &rules, says, edits.to_vec()));
        }
    }

    /// The first list that a person agreed to as it is now.
    pub(super) fn approved(&self, office: &Office) -> Option<Arc<HeldList>> {
        let state = self.state.borrow();
        let state = state.as_ref()?;
        let is_put_off =
            |digest| self.put_off.is_some_and(|(list, until)| list == digest && until > Instant::now());
        let is_approved = |list: &&Arc<HeldList>| {
            state.approval(office.me, &list.digest).is_some() && !is_put_off(list.digest)
        };
        self.lists.iter().find(is_approved).cloned()
    }

    /// What goes out for it: exactly the list, by itself.
    pub(super) fn batch_of(&self, list: &HeldList) -> (Batch, Option<Rules>) {
        let rules = (list.code == RULES_HELD).then(|| self.config.rules.clone());
        // A root that the rules name no more leaves as a whole.
        let is_named = |root| rules.as_ref().is_none_or(|rules| rules.of(root).is_some());
        let edits = list.edits.iter().filter(|edit| is_named(&edit.place.root));
        let edits = edits.map(|edit| (edit.place.clone(), edit.clone())).collect();
        tracing::warn!(code = list.code, paths = list.edits.len(), list = %list.digest, "approved: let through");
        (Batch { edits, seen: Instant::now() }, rules)
    }

    pub(super) fn name_problems(&self, now: Instant, problems: &mut Vec<Problem>) {
        self.malformed.name(self.config.validate, problems);
        for root in self.gather.emptied() {
            let message =
                format!("the root {root} has no artifact any more, so nothing is published from it");
            let remedy = "mount or restore the folder";
            let emptied = Problem::new(Severity::Warning, "root-emptied", message, remedy);
            problems.push(Problem { root: Some(root.to_string()), ..emptied });
        }
        if let (_, deletes @ 1..) = self.gather.held() {
            let message = format!(
                "{deletes} artifacts were deleted, more than sync.max_delete ({}) allows within ten minutes or all that \
                 a folder had: their deletes are held, the rest flows",
                self.config.max_delete
            );
            let remedy =
                "restore the files, or run `syncd approve`, which lists them, to let them go everywhere";
            problems.push(Problem::new(Severity::Warning, MASS_DELETE, message, remedy));
        }
        let at = |place: &Place, code, message: String, remedy| {
            let (root, path) = (Some(place.root.to_string()), Some(place.path.to_string()));
            Problem { root, path, ..Problem::new(Severity::Warning, code, message, remedy) }
        };
        problems.extend(self.gather.stuck(now).into_iter().take(NAMED_MAX).map(|place| {
            let message = format!("{place} is still being written, so it is not published");
            at(place, "busy-file", message, "find out who keeps it open (lsof) and let the writer close it")
        }));
        problems.extend(self.gather.unsafe_links().iter().take(NAMED_MAX).map(|place| {
            let message =
                format!("the link {place} leads out of its root or is absolute, so it is not published");
            at(place, "unsafe-link", message, "make it relative and let it stay in its root, or exclude it")
        }));
    }
}
