//! What needs a person's word before this node's own content gives way: first contact with a cluster, a root whose mark is
//! not this node's, and what was held here when the office passed on.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::apply::ApplyTaskError;
use crate::apply::files::Scene;
use crate::apply::office::{HELD_CHANGES, MASS_DELETE};
use crate::apply::status::NEEDS_APPROVAL;
use crate::apply::task::{ApplyTask, blocking};
use crate::apply::tell::some_of;
use crate::model::{Edit, Entry, HeldList, NodeState, Place, Problem, Severity};
use crate::store::{Adopted, StoreError};

impl ApplyTask {
    /// Whether the folder may be brought to a cluster that it has not been in touch with.
    pub(super) async fn may_replace(
        &mut self,
        scene: &Scene<'_>,
        edits: &[Edit],
        head: &Arc<Adopted>,
    ) -> Result<bool, ApplyTaskError> {
        let is_local = |edit: &&Edit| match (&edit.old, &edit.new) {
            (None | Some(Entry::Folder { .. }), _) => false,
            (Some(old), Some(new)) => !old.same_content(new),
            (Some(_), None) => true,
        };
        let local: Vec<Edit> = edits.iter().filter(is_local).cloned().collect();
        let store = self.parts.store.clone();
        let work = move || {
            let mut unknown = Vec::new();
            for edit in local {
                let hash = edit.old.as_ref().and_then(Entry::content);
                if !hash.map_or(Ok(false), |hash| store.is_committed(&hash))? {
                    unknown.push(edit);
                }
            }
            Ok::<_, StoreError>(unknown)
        };
        let unknown = blocking(work).await??;
        let is_bare =
            |edit: &Edit| head.forest.roots.get(&edit.place.root).is_none_or(crate::model::Manifest::is_bare);
        // An empty folder never wins over a full one unasked.
        let empties = unknown.iter().any(is_bare);
        if unknown.len() as u64 <= self.config.max_delete && !empties {
            return Ok(true);
        }
        let says = format!(
            "these files of this node give way to generation {} and go to quarantine",
            head.generation.number
        );
        let me = scene.node.to_le_bytes();
        let list = HeldList::new(NEEDS_APPROVAL, &[&me], says, unknown);
        let outvoted = scene.state.outvoted.get(&scene.node).map(|content| content.digest);
        if scene.state.approval(scene.node, &list.digest).is_some()
            || outvoted == Some(scene.observed.forest.digest())
        {
            tracing::warn!(files = list.edits.len(), "approved: this node's own content goes to quarantine");
            return Ok(true);
        }
        self.now.state = NodeState::NeedsApproval;
        let places: Vec<Place> = list.edits.iter().map(|edit| edit.place.clone()).collect();
        let message = format!(
            "{} files here are in no generation, and would be replaced or removed by generation {}: {}",
            places.len(),
            head.generation.number,
            some_of(places.iter())
        );
        let remedy = "run `syncd approve` on this node: it lists them, and they go to quarantine; or move them out of the \
                      root, then the node goes on by itself";
        self.now.problems.push(Problem::new(Severity::Warning, NEEDS_APPROVAL, message, remedy));
        self.now.lists.push(Arc::new(list));
        Ok(false)
    }

    /// After an office, with the files at the head: what was held then is undone, and is told.
    pub(super) async fn note_undone(&mut self) -> Result<(), ApplyTaskError> {
        if self.undone_known {
            return Ok(());
        }
        self.undone_known = true;
        let store = self.parts.store.clone();
        let work = move || {
            let mut undone = BTreeSet::new();
            for code in [MASS_DELETE, HELD_CHANGES] {
                let held = store.held(code)?;
                if !held.is_empty() {
                    store.set_held(code, &BTreeSet::new())?;
                    undone.extend(held);
                }
            }
            Ok::<_, StoreError>(undone)
        };
        self.undone.extend(blocking(work).await??);
        Ok(())
    }

    pub(super) fn tell_of_undone(&mut self) {
        if self.undone.is_empty() {
            return;
        }
        let message = format!(
            "{} changes that were held here were not published before another node became manager, and are undone: \
             deleted files came back, other content went to quarantine: {}",
            self.undone.len(),
            some_of(self.undone.iter())
        );
        let remedy = "make the changes again on the manager, if they were meant";
        self.now.problems.push(Problem::new(Severity::Info, "held-undone", message, remedy));
    }
}
