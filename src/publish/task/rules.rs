//! The rules of this node's own file where they differ from the head's: they go out by themselves if they touch no
//! path, else a person must agree.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::inventory::Observed;
use crate::model::{Edit, Problem, Rules, Severity};
use crate::publish::shut::open_roots;
use crate::publish::task::held::NAMED_MAX;
use crate::publish::task::{Office, PublishTask};
use crate::publish::{PublishError, own_rules};

/// The rules would take paths in or release some.
pub(super) const RULES_HELD: &str = "rules-held";
/// How often rules that would touch paths are compared with the folder anew.
const RULES_EVERY: Duration = Duration::from_secs(30);

/// What is known of the rules of this node's own file where they differ from the head's.
#[derive(Default)]
pub(super) struct OwnRules {
    /// The head's rules that they were compared with, and when.
    compared: Option<(Rules, Instant)>,
    touched: u64,
    /// What they would change.
    edits: Vec<Edit>,
    /// Why they can't even be approved.
    blocked: Option<String>,
    /// Both sides' rules, for the name of the list; none while nothing is held.
    held: Option<Vec<u8>>,
}

impl OwnRules {
    /// When they are to be compared again.
    pub(super) fn compare_again(&self) -> Option<Instant> {
        self.compared.as_ref().map(|(_, at)| *at + RULES_EVERY)
    }

    /// How many paths are held.
    pub(super) fn held(&self) -> u64 {
        if self.held.is_some() { self.touched.max(1) } else { 0 }
    }

    /// What tells these rules from others, and what they would change, if a person may let that through.
    pub(super) fn approvable(&self) -> Option<(&Vec<u8>, &[Edit])> {
        let held = self.held.as_ref().filter(|_| self.blocked.is_none())?;
        Some((held, &self.edits))
    }

    /// What they would change.
    pub(super) fn edits(&self) -> &[Edit] {
        if self.held.is_some() { &self.edits } else { &[] }
    }
}

impl PublishTask {
    /// The rules of this node's own file, if they differ from the head's and touch no path.
    pub(super) async fn own_rules(
        &mut self,
        office: &Office,
        observed: &Arc<Observed>,
        problems: &mut Vec<Problem>,
    ) -> Result<Option<Rules>, PublishError> {
        let Some(parent) = office.parent.as_ref().filter(|parent| parent.rules != self.config.rules) else {
            self.own = OwnRules::default();
            return Ok(None);
        };
        let is_known = self
            .own
            .compared
            .as_ref()
            .is_some_and(|(rules, at)| *rules == parent.rules && at.elapsed() < RULES_EVERY);
        let takes_nothing_in = own_rules::takes_nothing_in(&parent.rules, &self.config.rules);
        // What goes out on the strength of it is looked at just before.
        if !is_known || (takes_nothing_in && self.own.touched == 0) {
            let (head, own, roots) = (Arc::clone(parent), self.config.rules.clone(), open_roots(observed));
            let (touched, edits) = tokio::task::spawn_blocking(move || {
                let touched = own_rules::touched(&head.rules, &own, &head.forest, &roots)?;
                let edits = own_rules::changes(&own, &touched, &head.forest, &roots)?;
                Ok::<_, PublishError>((touched, edits))
            })
            .await??;
            self.own.touched = touched.len() as u64;
            self.own.edits = edits;
            self.own.compared = Some((parent.rules.clone(), Instant::now()));
        }
        if self.own.touched == 0 && takes_nothing_in {
            self.own.held = None;
            return Ok(Some(self.config.rules.clone()));
        }
        // A root that is not there must not come into the cluster as an empty one.
        let is_absent = |root: &&crate::model::RootName| {
            let state = observed.roots.get(*root);
            !self.config.optional.contains(*root) && state.is_none_or(|state| state.root.is_none())
        };
        let absent = self.config.rules.roots.iter().map(|(root, _)| root).find(is_absent);
        self.own.blocked = absent.map(|root| format!("the root {root} is not there"));
        let sides = [&parent.rules, &self.config.rules].map(serde_json::to_vec);
        self.own.held = Some(sides.into_iter().flatten().flatten().collect());
        problems.push(self.rules_problem());
        Ok(None)
    }

    fn rules_problem(&self) -> Problem {
        let own = &self.own;
        let named: Vec<String> =
            own.edits.iter().take(NAMED_MAX).map(|edit| edit.place.to_string()).collect();
        let what = if own.touched == 0 {
            "the rules of this node's file name a root that the cluster's do not, or exclude less than those, so files \
             that only other nodes have might be removed there: they are not published"
                .to_owned()
        } else {
            format!(
                "the rules of this node's file differ from the cluster's and would take in or release {} paths, so they \
                 are not published: {}",
                own.touched,
                named.join(", ")
            )
        };
        let (message, remedy) = match &own.blocked {
            Some(why) => (format!("{what}; {why}"), "create or mount that folder first"),
            None => {
                (what, "restore the former rules in the configuration and restart, or run `syncd approve`")
            }
        };
        Problem::new(Severity::Warning, RULES_HELD, message, remedy)
    }
}
