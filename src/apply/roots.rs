//! The roots of this node: which of them are the ones that it joined with, and joining with those that are new.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::apply::displaced::clear_leftovers;
use crate::apply::files::Scene;
use crate::apply::mark::{Admission, Who, admit, join, take_in};
use crate::apply::owner::Owner;
use crate::apply::reconcile::Site;
use crate::apply::status::about;
use crate::apply::task::{ApplyTask, blocking};
use crate::apply::{ApplyError, ApplyTaskError, RootProblem};
use crate::inventory::Observed;
use crate::model::{Approval, ClusterState, Forest, HeldList, NodeId, Problem, RootName, Severity};
use crate::store::Adopted;
use crate::tree::Root;

/// The roots of this node as they are now.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// Those that may be written to.
    pub sites: BTreeMap<RootName, Site>,
    /// Those that can't be used.
    pub problems: BTreeMap<RootName, RootProblem>,
    /// Those of `sites` that this node has not joined with yet.
    pub free: BTreeSet<RootName>,
    /// The mark that lies in each, whoever wrote it.
    pub marks: BTreeMap<RootName, String>,
    /// What else is worth saying.
    pub notes: Vec<Problem>,
    /// What lies in roots that a person may give to this node.
    pub lists: Vec<Arc<HeldList>>,
}

/// What lies in a root that is not this node's by its mark, and what would become of it.
fn foreign(
    observed: &Observed,
    node: NodeId,
    name: &RootName,
    problem: &RootProblem,
    head: &Forest,
) -> HeldList {
    let there = observed.forest.roots.get(name).cloned().unwrap_or_default();
    let wanted = head.roots.get(name).cloned().unwrap_or_default();
    let path = observed.roots.get(name).map(|root| root.path.display().to_string()).unwrap_or_default();
    let says = format!(
        "{path} holds {} files of {} bytes ({problem}). It becomes this node's folder: a new mark is written, these \
         changes bring it to what the cluster has, and content that no generation has goes to quarantine",
        there.files(),
        there.bytes()
    );
    let digest = there.digest();
    let why = problem.to_string();
    let about: [&[u8]; 4] =
        [&node.to_le_bytes(), name.as_str().as_bytes(), why.as_bytes(), digest.as_bytes()];
    let one = |manifest| Forest { roots: [(name.clone(), manifest)].into() };
    HeldList::new(problem.code(), &about, says, one(there).edits(&one(wanted)))
}

impl ApplyTask {
    /// Which roots are there, are the ones that this node joined with, and may be written to.
    pub(super) async fn examine(
        &mut self,
        observed: &Arc<Observed>,
        state: &ClusterState,
        node: NodeId,
        head: Option<&Adopted>,
    ) -> Result<Roots, ApplyTaskError> {
        let store = self.parts.store.clone();
        let observed = Arc::clone(observed);
        let (cluster, members) = (state.cluster, state.members.clone());
        let succeeds = state.lineage.succeeds.clone();
        let rules = head.map(|head| head.rules.clone()).unwrap_or_default();
        self.owners.prepare(&rules).await;
        let owners: BTreeMap<RootName, (Owner, Vec<String>)> =
            rules.roots.iter().map(|(name, rules)| (name.clone(), self.owners.of(rules))).collect();
        let wanted: BTreeMap<RootName, u64> = head.map_or_else(BTreeMap::new, |head| {
            head.forest.roots.iter().map(|(root, manifest)| (root.clone(), manifest.files())).collect()
        });
        let head_roots = head.map(|head| head.forest.clone()).unwrap_or_default();
        let approvals: Vec<Approval> =
            state.approvals.iter().filter(|known| known.node == node).cloned().collect();
        let work = move || {
            let who = Who { cluster, node, members: &members, succeeds: &succeeds, generation: 0 };
            let mut roots = Roots::default();
            for (name, found) in &observed.roots {
                let Some(root) = found.root.as_ref().filter(|_| found.missing.is_none()) else {
                    let why = found.missing.clone();
                    if let Some(why) =
                        why.or(store.mark(name)?.map(|_| "the folder is not there any more".to_owned()))
                    {
                        roots.problems.insert(name.clone(), RootProblem::Gone { why });
                    } else if wanted.get(name).is_some_and(|files| *files > 0) {
                        let message = format!(
                            "{} is not there, but the cluster has artifacts for it",
                            found.path.display()
                        );
                        let note =
                            Problem::new(Severity::Warning, "root-missing", message, "create the folder");
                        roots.notes.push(about(note, name, None));
                    }
                    continue;
                };
                if found.device_changed {
                    roots.problems.insert(name.clone(), RootProblem::OtherDevice);
                    continue;
                }
                let (admission, mark) = admit(&store, root, who)?;
                roots.marks.extend(mark.map(|mark| (name.clone(), mark)));
                match admission {
                    Admission::Joined => {}
                    Admission::Free => drop(roots.free.insert(name.clone())),
                    Admission::Refused(problem) => {
                        let list = foreign(&observed, node, name, &problem, &head_roots);
                        let approval = approvals.iter().find(|known| known.list == list.digest);
                        // Used up first: should it fail afterwards, the person is asked again.
                        if observed.complete
                            && let Some(approval) = approval
                            && store.spend(approval.id)?
                        {
                            tracing::warn!(root = %name, "approved: the mark of this root is written anew");
                            take_in(&store, root)?;
                            roots.free.insert(name.clone());
                        } else {
                            roots.problems.insert(name.clone(), problem);
                            roots.lists.extend(observed.complete.then(|| Arc::new(list)));
                            continue;
                        }
                    }
                }
                let (owner, unknown) = owners.get(name).cloned().unwrap_or_default();
                for why in unknown {
                    let message = format!("{why}: files are written as the daemon's user");
                    let note = Problem::new(
                        Severity::Warning,
                        "unknown-owner",
                        message,
                        "create it, see that this host's name service answers (`getent passwd`, `getent group`), or \
                         correct the configuration",
                    );
                    roots.notes.push(about(note, name, None));
                }
                roots.sites.insert(name.clone(), Site { root: Arc::clone(root), owner: owner.for_files() });
            }
            Ok::<_, ApplyError>(roots)
        };
        match blocking(work).await? {
            Ok(roots) => Ok(roots),
            Err(ApplyError::Store(error)) => Err(error.into()),
            Err(error) => {
                let root = error.root().cloned().unwrap_or_else(|| RootName::new("?"));
                let why = error.chain();
                Ok(Roots {
                    problems: BTreeMap::from([(root, RootProblem::Gone { why })]),
                    ..Roots::default()
                })
            }
        }
    }

    /// Joins with roots that are new, and looks at what a crash left in those that are not; false when that failed.
    pub(super) async fn prepare(
        &mut self,
        scene: &Scene<'_>,
        generation: u64,
    ) -> Result<bool, ApplyTaskError> {
        let todo: Vec<(RootName, Arc<Root>, bool)> = scene
            .roots
            .sites
            .iter()
            .map(|(name, site)| (name.clone(), Arc::clone(&site.root), scene.roots.free.contains(name)))
            .filter(|(name, _, free)| *free || !self.cleared.contains(name))
            .collect();
        if todo.is_empty() {
            return Ok(true);
        }
        let store = self.parts.store.clone();
        let (cluster, node, members) = (scene.state.cluster, scene.node, scene.state.members.clone());
        let succeeds = scene.state.lineage.succeeds.clone();
        let names: Vec<RootName> = todo.iter().map(|(name, ..)| name.clone()).collect();
        let work = move || {
            let who = Who { cluster, node, members: &members, succeeds: &succeeds, generation };
            for (_, root, free) in &todo {
                if *free {
                    join(&store, root, who)?;
                }
                clear_leftovers(&store, root)?;
            }
            Ok::<_, ApplyError>(())
        };
        match blocking(work).await? {
            Ok(()) => {
                self.cleared.extend(names);
                Ok(true)
            }
            Err(error) => self.failed(error, generation).map(|()| false),
        }
    }
}
