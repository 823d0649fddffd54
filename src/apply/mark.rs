//! The mark `<root>/.syncd/member`: tells the root that this node joined with from every other folder.
//!
//! It holds a random id that the data folder repeats. A lost mount shows as a folder without the mark, a copied or
//! shared one as a mark of somebody else; nothing is written to, or published from, either of them.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::apply::ApplyError;
use crate::model::{ArtifactPath, ClusterId, Member, NodeId};
use crate::store::Store;
use crate::tree::{Root, TreeError};

const BYTES_MAX: u64 = 4096;

/// Why a root can't be used, although something is there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootProblem {
    /// The folder is not there, or is none.
    #[error("{why}")]
    Gone {
        /// What was found instead.
        why: String,
    },
    /// The folder is there and is not the one that this node joined with.
    #[error(
        "the folder lacks the mark that syncd left in it: a file system is not mounted, or it was replaced"
    )]
    Unmarked,
    /// The file system below the root was exchanged while the daemon ran.
    #[error("the folder lies on another file system than when the daemon started")]
    OtherDevice,
    /// The mark is that of another node or another cluster.
    #[error("the folder carries the mark of {whose}: it is a copy, or shared by both")]
    Copied {
        /// Whose mark it is.
        whose: String,
    },
}

impl RootProblem {
    /// The word for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Copied { .. } => "copied-root",
            Self::Gone { .. } | Self::Unmarked | Self::OtherDevice => "root-missing",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Gone { .. } => "mount or create the folder; it is taken up again by itself",
            Self::Unmarked => {
                "mount or bring back the folder that was there, with its .syncd folder; if this folder is the right one, \
                 `syncd approve` on this node shows what it holds and marks it anew"
            }
            Self::OtherDevice => "mount what was there before, or restart the daemon if the change is right",
            Self::Copied { .. } => {
                "give each node a folder of its own; if this one is right, `syncd approve` on this node shows what it holds \
                 and marks it anew; if the nodes share one on purpose, set mode = \"shared-fs\""
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    cluster: String,
    node: NodeId,
    /// The node's name: a lost data folder gets another number, and its roots are known by this.
    #[serde(default)]
    name: String,
    /// The head when it was written: for people.
    generation: u64,
    id: String,
}

/// Who this node is, and who else there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who<'a> {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub members: &'a BTreeMap<NodeId, Member>,
    /// The clusters that this one succeeds.
    pub succeeds: &'a [ClusterId],
    pub generation: u64,
}

impl Who<'_> {
    fn name(&self) -> &str {
        self.members.get(&self.node).map_or("", |member| &member.name)
    }
}

/// What lies in a root.
#[derive(Debug)]
enum Found {
    /// No `.syncd`, or a bare one.
    Nothing,
    /// A `.syncd` with something in it, but no mark that can be read.
    Foreign,
    Mark(Mark),
}

/// Which mark lies in `root`, in words that two nodes can compare: its id, and the file that holds it as its file system
/// numbers it. A copy of a folder has the same id in another file; a folder that both mount is the same file to both.
fn identity(mark: &Mark, file: &std::fs::Metadata) -> String {
    format!("{}-{:x}-{:x}", mark.id, file.ino(), file.ctime())
}

/// What follows.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is the root that this node joined with.
    Ours,
    /// First contact: a mark is to be written, with this id if there is one already.
    Join {
        id: Option<String>,
    },
    /// First contact, and what lies there is somebody else's.
    JoinAside,
    Refused(RootProblem),
}

/// Whether somebody's mark lies in `root`: a node without a log that sees one has lost its data folder.
///
/// # Errors
/// When it can't be read.
pub fn is_marked(root: &Root) -> Result<bool, ApplyError> {
    Ok(matches!(look(root)?.0, Found::Mark(_)))
}

/// Moves the workshop of `root` aside if it carries a mark; the name that it has then. No artifact is touched. The data
/// folder forgets the mark too, but only that of a root that shows one: a bare mount point stays refused.
///
/// # Errors
/// When it can't be moved: the mark is still there.
pub fn lay_mark_aside(store: &Store, root: &Arc<Root>) -> Result<Option<String>, ApplyError> {
    if !is_marked(root)? {
        return Ok(None);
    }
    // First: should the process end in between, the mark in the root is still there to be laid aside.
    store.forget_mark(root.name())?;
    root.set_workshop_aside().map_err(ApplyError::within(root.name()))
}

/// Makes the next contact with `root` the first one, whatever it shows: a person said that it is this node's.
pub(super) fn take_in(store: &Store, root: &Arc<Root>) -> Result<(), ApplyError> {
    store.forget_mark(root.name())?;
    if is_marked(root)? {
        root.set_workshop_aside().map_err(ApplyError::within(root.name()))?;
    }
    Ok(())
}

/// What may be done with a root.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is the one that this node joined with.
    Joined,
    /// It may be joined with by [`join`].
    Free,
    Refused(RootProblem),
}

/// Whether this node may use `root`, and which mark lies there, whoever wrote it.
pub(super) fn admit(
    store: &Store,
    root: &Root,
    who: Who<'_>,
) -> Result<(Admission, Option<String>), ApplyError> {
    let (found, identity) = look(root)?;
    let admission = match decide(stored(store, root)?.as_ref(), &found, who) {
        Verdict::Ours => Admission::Joined,
        Verdict::Join { .. } | Verdict::JoinAside => Admission::Free,
        Verdict::Refused(problem) => Admission::Refused(problem),
    };
    Ok((admission, identity))
}

/// Joins with `root`: writes the mark, and moves a foreign workshop aside first. Nothing to do if that happened before.
pub(super) fn join(store: &Store, root: &Arc<Root>, who: Who<'_>) -> Result<(), ApplyError> {
    let error = ApplyError::within(root.name());
    let id = match decide(stored(store, root)?.as_ref(), &look(root)?.0, who) {
        Verdict::Ours => return Ok(()),
        Verdict::Refused(problem) => {
            return Err(ApplyError::Unusable { root: root.name().clone(), problem });
        }
        Verdict::Join { id } => id,
        Verdict::JoinAside => {
            if let Some(name) = root.set_workshop_aside().map_err(error)? {
                tracing::warn!(root = %root.name(), name, "a foreign .syncd was moved aside");
            }
            None
        }
    };
    let id = match id {
        Some(id) => id,
        None => random_id().map_err(|source| {
            error(TreeError::Io { operation: "draw the id of", path: root.name().to_string(), source })
        })?,
    };
    let mark = Mark {
        cluster: who.cluster.to_string(),
        node: who.node,
        name: who.name().to_owned(),
        generation: who.generation,
        id,
    };
    let bytes = serde_json::to_vec_pretty(&mark).expect("plain fields");
    // The root first: should the process end in between, the mark there is known by its cluster and node.
    root.workshop().and_then(|workshop| workshop.write_mark(&bytes)).map_err(error)?;
    store.set_mark(root.name(), &bytes)?;
    tracing::info!(root = %root.name(), path = %root.path().display(), "joined with the root");
    Ok(())
}

fn decide(stored: Option<&Mark>, found: &Found, who: Who<'_>) -> Verdict {
    let is_mine = |mark: &Mark| mark.cluster == who.cluster.to_string() && mark.node == who.node;
    let copied = |mark: &Mark| {
        let whose = match who.members.get(&mark.node) {
            Some(member) if mark.cluster == who.cluster.to_string() => format!("node {}", member.name),
            _ if mark.cluster == who.cluster.to_string() && mark.name.is_empty() => {
                format!("node number {}", mark.node)
            }
            _ if mark.cluster == who.cluster.to_string() => {
                format!("node {}, number {}", mark.name, mark.node)
            }
            _ => format!("cluster {}", mark.cluster),
        };
        Verdict::Refused(RootProblem::Copied { whose })
    };
    match (stored, found) {
        // Whatever this node was called when it joined, it left a mark in the root: what shows none is another folder.
        (Some(_), Found::Nothing | Found::Foreign) => Verdict::Refused(RootProblem::Unmarked),
        (None, Found::Nothing) => Verdict::Join { id: None },
        (None, Found::Foreign) => Verdict::JoinAside,
        (Some(stored), Found::Mark(mark)) if is_mine(stored) => {
            if is_mine(mark) && mark.id == stored.id {
                Verdict::Ours
            } else {
                copied(mark)
            }
        }
        // Ours: joined in another cluster before, or the data folder did not note it yet.
        (_, Found::Mark(mark)) if is_mine(mark) || stored.is_some_and(|stored| stored.id == mark.id) => {
            Verdict::Join { id: Some(mark.id.clone()) }
        }
        // This node before it lost its data folder, a member no more or one of a cluster that was succeeded: the root
        // is the same one.
        (_, Found::Mark(mark))
            if (mark.cluster == who.cluster.to_string() && !who.members.contains_key(&mark.node)
                || who.succeeds.iter().any(|cluster| mark.cluster == cluster.to_string()))
                && !mark.name.is_empty()
                && mark.name == who.name() =>
        {
            Verdict::Join { id: None }
        }
        (_, Found::Mark(mark)) => copied(mark),
    }
}

fn stored(store: &Store, root: &Root) -> Result<Option<Mark>, ApplyError> {
    Ok(store.mark(root.name())?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Looks without making anything: what is there, and which mark if there is one.
fn look(root: &Root) -> Result<(Found, Option<String>), ApplyError> {
    let error = ApplyError::within(root.name());
    let path = |text: &str| ArtifactPath::new(text.as_bytes()).expect("a plain path");
    if root.stat(&path(".syncd")).map_err(error)?.is_none() {
        return Ok((Found::Nothing, None));
    }
    match root.open_file(&path(".syncd/member")) {
        Ok(file) => {
            let read = || {
                let mut bytes = Vec::new();
                let meta = file.metadata()?;
                file.take(BYTES_MAX).read_to_end(&mut bytes)?;
                Ok((bytes, meta))
            };
            let (bytes, meta) = read().map_err(|source| {
                error(TreeError::Io { operation: "read", path: ".syncd/member".to_owned(), source })
            })?;
            return Ok(match serde_json::from_slice::<Mark>(&bytes) {
                Ok(mark) => {
                    let identity = identity(&mark, &meta);
                    (Found::Mark(mark), Some(identity))
                }
                Err(_) => (Found::Foreign, None),
            });
        }
        Err(source) if source.is_absent() || matches!(source, TreeError::NotAFile { .. }) => {}
        Err(source) => return Err(error(source)),
    }
    let names = |folder: &str| match root.list(Some(&path(folder))) {
        Ok(names) => Ok(names),
        // Not even a folder.
        Err(source) if source.is_absent() => Ok(vec![b"?".to_vec()]),
        Err(source) => Err(error(source)),
    };
    for name in names(".syncd")? {
        let bare = match name.as_slice() {
            b"stage" => names(".syncd/stage")?.is_empty(),
            b"aside" => names(".syncd/aside")?.is_empty(),
            _ => false,
        };
        if !bare {
            return Ok((Found::Foreign, None));
        }
    }
    Ok((Found::Nothing, None))
}

fn random_id() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(ClusterId(bytes).to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::apply::testing::{CLUSTER, Fixture};
    use crate::model::Role;

    /// Names by number; gw1 was number 3 before it lost its data folder.
    const NAMES: [&str; 6] = ["", "gw1", "gw2", "gw1", "gw4", "gw5"];

    fn members() -> BTreeMap<NodeId, Member> {
        let member = |name: &str| Member {
            name: name.to_owned(),
            address: String::new(),
            role: Role::Worker,
            incarnation: [0; 16],
        };
        BTreeMap::from([(1, member("gw1")), (2, member("gw2"))])
    }

    fn mark(cluster: u8, node: NodeId, id: &str) -> Mark {
        Mark {
            cluster: ClusterId([cluster; 16]).to_string(),
            node,
            name: NAMES[usize::try_from(node).unwrap()].to_owned(),
            generation: 0,
            id: id.to_owned(),
        }
    }

    #[test]
    fn decisions() {
        let members = members();
        let who = Who { cluster: CLUSTER, node: 1, members: &members, succeeds: &[], generation: 0 };
        let unmarked = || Verdict::Refused(RootProblem::Unmarked);
        let copied = |whose: &str| Verdict::Refused(RootProblem::Copied { whose: whose.to_owned() });
        let join = |id: Option<&str>| Verdict::Join { id: id.map(str::to_owned) };
        let other_cluster = format!("cluster {}", ClusterId([9; 16]));
        for (stored, found, expected) in [
            (None, Found::Nothing, join(None)),
            (None, Found::Foreign, Verdict::JoinAside),
            (None, Found::Mark(mark(9, 1, "x")), copied(&other_cluster)),
            (None, Found::Mark(mark(7, 1, "x")), join(Some("x"))),
            (None, Found::Mark(mark(7, 2, "x")), copied("node gw2")),
            (None, Found::Mark(mark(7, 3, "x")), join(None)),
            (None, Found::Mark(mark(7, 4, "x")), copied("node gw4, number 4")),
            (Some(mark(9, 5, "x")), Found::Mark(mark(9, 5, "x")), join(Some("x"))),
            (Some(mark(7, 1, "x")), Found::Mark(mark(7, 1, "x")), Verdict::Ours),
            (Some(mark(7, 1, "x")), Found::Mark(mark(7, 1, "y")), copied("node gw1")),
            (Some(mark(7, 1, "x")), Found::Mark(mark(7, 2, "x")), copied("node gw2")),
            (Some(mark(7, 1, "x")), Found::Mark(mark(9, 1, "x")), copied(&other_cluster)),
            (Some(mark(7, 1, "x")), Found::Nothing, unmarked()),
            (Some(mark(7, 1, "x")), Found::Foreign, unmarked()),
            // It got another number, or another cluster, since it joined with the root.
            (Some(mark(7, 3, "x")), Found::Nothing, unmarked()),
            (Some(mark(9, 1, "x")), Found::Nothing, unmarked()),
            (Some(mark(9, 1, "x")), Found::Foreign, unmarked()),
        ] {
            assert_eq!(decide(stored.as_ref(), &found, who), expected, "{stored:?} {found:?}");
        }
        let former = [ClusterId([9; 16])];
        let recovered = Who { succeeds: &former, ..who };
        assert_eq!(decide(None, &Found::Mark(mark(9, 1, "x")), recovered), join(None), "this host before");
        assert_eq!(decide(None, &Found::Mark(mark(9, 2, "x")), recovered), copied(&other_cluster));
    }

    #[test]
    fn joining_and_losing_a_root() {
        let fixture = Fixture::new();
        let members = members();
        let who = Who { cluster: CLUSTER, node: 1, members: &members, succeeds: &[], generation: 3 };
        let admit = |who| admit(&fixture.store, &fixture.root, who).unwrap().0;
        assert_eq!(admit(who), Admission::Free);
        assert!(!fixture.path(".syncd").exists(), "looking makes nothing");
        join(&fixture.store, &fixture.root, who).unwrap();
        assert_eq!(admit(who), Admission::Joined);
        assert!(is_marked(&fixture.root).unwrap());
        let copied = Admission::Refused(RootProblem::Copied { whose: "node gw1".to_owned() });
        let stranger = Fixture::new();
        fs::create_dir(stranger.path(".syncd")).unwrap();
        fs::copy(fixture.path(".syncd/member"), stranger.path(".syncd/member")).unwrap();
        let second = Who { node: 2, ..who };
        assert_eq!(super::admit(&stranger.store, &stranger.root, second).unwrap().0, copied);
        fs::remove_file(fixture.path(".syncd/member")).unwrap();
        assert_eq!(admit(who), Admission::Refused(RootProblem::Unmarked));
        assert!(join(&fixture.store, &fixture.root, who).is_err());
    }

    #[test]
    fn a_root_that_is_not_mounted_stays_refused_after_this_node_got_another_number() {
        let fixture = Fixture::new();
        let members = members();
        let before = Who { cluster: CLUSTER, node: 2, members: &members, succeeds: &[], generation: 3 };
        join(&fixture.store, &fixture.root, before).unwrap();
        let who = Who { node: 1, ..before };
        let away = fixture.path("away");
        fs::rename(fixture.path(".syncd"), &away).unwrap();
        let admit = || admit(&fixture.store, &fixture.root, who).unwrap().0;
        assert_eq!(admit(), Admission::Refused(RootProblem::Unmarked));
        assert_eq!(lay_mark_aside(&fixture.store, &fixture.root).unwrap(), None);
        assert_eq!(admit(), Admission::Refused(RootProblem::Unmarked), "nothing was laid aside");
        fs::rename(&away, fixture.path(".syncd")).unwrap();
        assert_eq!(admit(), Admission::Free, "it is mounted again");
        assert!(lay_mark_aside(&fixture.store, &fixture.root).unwrap().is_some());
        assert_eq!(admit(), Admission::Free, "a person gave it up");
    }

    #[test]
    fn a_foreign_workshop_is_moved_aside_whole() {
        for (path, text) in
            [(".syncd/member", "not a mark"), (".syncd/stage/x", "content"), (".syncd", "a file")]
        {
            let fixture = Fixture::new();
            fixture.write(path, text);
            let who =
                Who { cluster: CLUSTER, node: 1, members: &BTreeMap::new(), succeeds: &[], generation: 0 };
            join(&fixture.store, &fixture.root, who).unwrap();
            assert_eq!(admit(&fixture.store, &fixture.root, who).unwrap().0, Admission::Joined);
            let moved = path.replace(".syncd", ".syncd.foreign-1");
            assert_eq!(fixture.read(&moved), text);
            assert_eq!(fixture.observed().files(), 0, "no scan sees it");
        }
    }
}
