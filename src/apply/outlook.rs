//! What would be done to this node's files next, by the same judgement that does it.

use std::sync::Arc;

use tokio::time::Instant;

use crate::apply::judge::{Drift, Sight, goes_as_folder, judge};
use crate::apply::own_writes::Answer;
use crate::apply::{ApplyTask, ApplyTaskError};
use crate::model::{ClusterState, Edit, Intent, NodeState, Outlook, Stands};
use crate::plan::standard_folder;

impl ApplyTask {
    /// None on the manager, whose folder is the source, and while the head is not here.
    pub(super) async fn outlook(&mut self, state: Option<&ClusterState>) -> Result<Outlook, ApplyTaskError> {
        let Some((state, wanted)) = state.and_then(|state| Some((state, state.head.as_ref()?))) else {
            return Ok(None);
        };
        if self.config.witness {
            return Ok(Some(Vec::new()));
        }
        let here = self.parts.store.head().filter(|head| {
            (head.generation.number, head.generation.digest) == (wanted.generation, wanted.digest)
        });
        let Some(head) = here.filter(|head| self.goes_by(head)) else { return Ok(None) };
        let observed = Arc::clone(&self.observed.borrow());
        if !observed.complete || self.active.borrow().is_some() {
            return Ok(None);
        }
        let edits = observed.forest.edits(&head.forest);
        let applied = self.applied(state).await?.and_then(|(_, forest)| forest);
        let unread = self.unread().await?;
        let sight = Sight {
            edits: &edits,
            observed: &observed.forest,
            applied: applied.as_deref(),
            touched: &observed.touched,
            busy: &observed.busy,
            unreadable: &|place| observed.is_unreadable(place),
            unread: &unread,
            policy: self.config.drift,
            offered: &|_| false,
            quiet: self.config.quiet,
            scan: self.config.scan,
            now: Instant::now(),
        };
        let mut verdict = judge(&sight, &mut self.memory.clone());
        self.leave_what_has_no_room(&mut verdict).await?;
        let gate = self.gate();
        let stands = |edit: &Edit| match verdict.drifted.get(&edit.place) {
            Some(Drift::Reported) => Stands::Held("drift"),
            Some(Drift::NoRoom) => Stands::Held("quarantine-full"),
            Some(Drift::Rejected(Answer::GivenUp)) => Stands::Held("rejected"),
            Some(Drift::Rejected(Answer::Again(_))) => {
                Stands::Waits("the gateway rejected it; it is written again later")
            }
            Some(Drift::Settling) => Stands::Waits("it still changes"),
            _ if observed.is_unreadable(&edit.place) => Stands::Held("unreadable"),
            _ if !verdict.edits.iter().any(|due| due.place == edit.place) => {
                Stands::Waits("its folder goes one scan after its last file")
            }
            _ => gate.unwrap_or(Stands::Due),
        };
        let listed = edits.iter().filter(|edit| !(goes_as_folder(edit) && standard_folder(&edit.place.path)));
        Ok(Some(listed.map(|edit| Intent { edit: edit.clone(), stands: stands(edit) }).collect()))
    }

    /// What keeps this node from touching any file now, as the last look found.
    fn gate(&self) -> Option<Stands> {
        match self.now.state {
            NodeState::RootMissing => Some(Stands::Held("root-missing")),
            NodeState::NeedsApproval => Some(Stands::Held("needs-approval")),
            NodeState::NeedsSeed => Some(Stands::Held("needs-seed")),
            NodeState::Paused => Some(Stands::Held("paused")),
            _ if self.failing.is_some() => Some(Stands::Waits("the last apply failed; it is tried again")),
            NodeState::Behind => Some(Stands::Waits("no leader has confirmed the head yet")),
            _ => None,
        }
    }
}
