//! Problems of single places, in words.

use std::collections::BTreeMap;

use crate::apply::judge::{Drift, Verdict};
use crate::apply::own_writes::Answer;
use crate::apply::status::about;
use crate::apply::task::ApplyTask;
use crate::inventory::Observed;
use crate::model::{Entry, Place, Problem, RootName, Severity};

/// How many places of one kind are named as problems of their own.
pub(super) const NAMED_MAX: usize = 100;
/// What most often brings a change to a node that is not the manager, and what to do about it.
const WRONG_NODE: &str = "change artifacts on the manager only; if the gateway's publisher wrote it, let the load balancer \
                          send port 9443 only to the node whose /manager answers 200; `syncd quarantine list` on this node \
                          names the copy";

impl ApplyTask {
    pub(super) fn tell_of_drift(&mut self, verdict: &Verdict) {
        let mut fresh: BTreeMap<&RootName, u64> = BTreeMap::new();
        for place in verdict.drifted.keys().filter(|place| !self.drifting.contains(*place)) {
            *fresh.entry(&place.root).or_default() += 1;
        }
        for (root, places) in fresh {
            self.parts.observer.drifted(root, places);
        }
        let manager = self.manager_name();
        let not_the_manager = match &manager {
            Some(name) => format!("which is not the manager ({name} is)"),
            None => "which is not the manager".to_owned(),
        };
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
                        "{place} was changed on this node, {not_the_manager}, and is brought back; content that no \
                         generation has goes to quarantine here"
                    ),
                    WRONG_NODE,
                ),
                Drift::Reported => (
                    Severity::Warning,
                    "drift",
                    format!("{place} was changed on this node, {not_the_manager}"),
                    "bring it back by hand, or set drift = \"revert\"; if the gateway's publisher wrote it, let the load \
                     balancer send port 9443 only to the node whose /manager answers 200",
                ),
                Drift::NoRoom => (
                    Severity::Warning,
                    "quarantine-full",
                    format!(
                        "{place} was changed on this node and stays so: there is no room to keep its content in quarantine"
                    ),
                    "run `syncd quarantine drop` for what nobody needs any more, free space where node.data_dir lies, or raise \
                     sync.quarantine_max and restart; then it is brought back by itself",
                ),
                Drift::Offered => (
                    Severity::Info,
                    "drift",
                    format!(
                        "{place} was changed here around the end of this node's office and is offered to the new manager"
                    ),
                    "nothing: it is published by the new manager, or goes to quarantine here",
                ),
                Drift::Rejected(Answer::Again(_)) => (
                    Severity::Warning,
                    "rejected",
                    format!(
                        "{place} was changed right after {} was written here: the gateway did not take it; it is written \
                         again after the gateway's next scan",
                        self.version(place)
                    ),
                    "look for the artifact's error in the gateway's log and publish a version that deploys",
                ),
                Drift::Rejected(Answer::GivenUp) => {
                    let given_up = self.given_up.as_ref().and_then(|all| all.get(place));
                    let kept = match given_up.and_then(|(_, kept)| kept.as_ref()) {
                        Some(id) => format!("; that version is in quarantine here as {id}"),
                        None => String::new(),
                    };
                    (
                        Severity::Warning,
                        "rejected",
                        format!(
                            "{place} was changed right after {} was written here, {}: the gateway does not take it, \
                             and it is not written again{kept}",
                            self.version(place),
                            times(self.memory.own.writes(place))
                        ),
                        "look for the artifact's error in the gateway's log and publish a version that deploys; \
                         `syncd quarantine list` and `show` have the rejected one",
                    )
                }
            };
            let found = Problem::new(severity, code, message, remedy);
            self.now.problems.push(about(found, &place.root, Some(place.path.to_string())));
        }
    }

    /// The version of `place` that the head has, in words.
    fn version(&self, place: &Place) -> String {
        let head = self.parts.store.head();
        let number = head.as_ref().map_or(0, |head| head.generation.number);
        match head.as_ref().and_then(|head| head.forest.get(place)).and_then(Entry::content) {
            Some(hash) => format!("the version {:.12} of generation {number}", hash.to_string()),
            None => format!("what generation {number} says"),
        }
    }

    fn manager_name(&self) -> Option<String> {
        let (state, _) = self.membership();
        let state = state?;
        Some(state.members.get(&state.appointment.as_ref()?.manager)?.name.clone())
    }

    pub(super) fn name_unreadable(&mut self, observed: &Observed) {
        for (place, why) in observed.failed.iter().take(NAMED_MAX) {
            let message = format!("{place} can't be read: {why}");
            let found =
                Problem::new(Severity::Warning, "unreadable", message, "let the daemon's user read it");
            self.now.problems.push(about(found, &place.root, Some(place.path.to_string())));
        }
    }
}

fn times(count: u32) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// The first few of `places`.
pub(super) fn some_of<'a>(places: impl ExactSizeIterator<Item = &'a Place>) -> String {
    const SOME: usize = 10;
    let more = places.len().saturating_sub(SOME);
    let names: Vec<String> = places.take(SOME).map(Place::to_string).collect();
    let rest = if more > 0 { format!(", and {more} more") } else { String::new() };
    names.join(", ") + &rest
}
