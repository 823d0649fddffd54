//! The log's file while no daemon runs: what it holds, a cluster that succeeds a lost one, and laying it aside.
//!
//! Holding a [`LogFile`] keeps every daemon off this data folder. What is written is a whole file under another name
//! first, and takes the log's name in one rename after the old file got a second name: whenever the power fails, there
//! is a log under its name, the old one or the new one, and the old one is whole. Nothing is ever deleted.
//!
//! The new log begins where the old one ends, so that epochs and ids, which are log indexes, go on rising. Entries that
//! this node wrote and did not know to be committed count as committed: nobody is left who could say otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::{CommittedLeaderId, Membership};

use crate::cluster::db::{
    APPLIED, COMMITTED, INCARNATION, Keep, OWN, PURGED, RaftDb, VOTE, create, failed, random,
};
use crate::cluster::error::ClusterError;
use crate::cluster::outlook::{Neighbour, look_around};
use crate::cluster::shared::ClusterConfig;
use crate::cluster::state_machine::{Applied, one};
use crate::cluster::task::belongs;
use crate::cluster::types::{
    FOUNDERS_MAX, FormationRecord, Founder, LogId, Own, PeerNode, StoredMembership, Timing, Vote,
};
use crate::crash;
use crate::model::{
    Awaited, ClusterId, ClusterState, Digest, Epoch, FirstContent, Head, Lineage, Member, NodeId, Role, Seed,
};
use crate::rpc::Peers;

/// The lost majority may have gone on for a while unseen: so many log indexes, and with them epochs, are left out.
const UNSEEN: u64 = 1 << 20;
/// Clusters that a successor remembers; more were recovered only by somebody who does so daily.
const SUCCEEDS_MAX: usize = 64;
/// Logs laid aside in one data folder.
const ASIDE_MAX: u32 = 10_000;

/// The log of this data folder, which nobody else can open meanwhile.
#[derive(Debug)]
pub struct LogFile {
    db: Arc<RaftDb>,
    config: ClusterConfig,
    findings: LogFindings,
    vote: Option<Vote>,
    timing: Timing,
}

/// What the log says.
#[derive(Clone, Debug)]
pub struct LogFindings {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node's id in it.
    pub node: NodeId,
    /// The newest entry: its index and the term that it was written in.
    pub last: (u64, u64),
    /// How many of the newest entries were not known to be committed.
    pub uncertain: u64,
    /// The state once all entries are applied.
    pub state: ClusterState,
}

/// What the new cluster begins with.
#[derive(Clone, Debug)]
pub struct Succession {
    /// The newest generation whose content is whole here.
    pub head: Option<Head>,
    /// The greatest number of a generation that this node has seen, staged ones included.
    pub used_generation: u64,
    /// The greatest epoch that this node has seen.
    pub used_epoch: Epoch,
}

impl LogFile {
    /// Opens the log and reads all of it. Changes nothing.
    ///
    /// # Errors
    /// [`ClusterError::NoLog`], [`ClusterError::Busy`] while a daemon runs, and what makes a daemon refuse the file.
    pub fn open(config: ClusterConfig) -> Result<Self, ClusterError> {
        let path = config.db_path.clone();
        if !path.try_exists().map_err(|error| failed("look for", &path, error))? {
            return Err(ClusterError::NoLog { path });
        }
        let db = RaftDb::open(&path)?;
        let Some(own) = db.get::<Own>(OWN)? else { return Err(ClusterError::NoLog { path }) };
        belongs(&config, &own)?;
        let mut applied: Applied = db.get(APPLIED)?.unwrap_or_default();
        let committed = db.get::<LogId>(COMMITTED)?.max(applied.last_applied).map_or(0, |id| id.index);
        for entry in db.entries(applied.last_applied.map_or(0, |id| id.index + 1), u64::MAX)? {
            one(&mut applied, entry);
        }
        let (Some(state), Some(last)) = (applied.state, applied.last_applied) else {
            return Err(ClusterError::NoLog { path });
        };
        let findings = LogFindings {
            cluster: own.cluster,
            node: own.node,
            last: (last.index, last.leader_id.term),
            uncertain: last.index.saturating_sub(committed),
            state,
        };
        let recorded = own.record.as_ref().map(|record| record.timing);
        let timing = applied.timing.or(recorded).unwrap_or(config.timing);
        let vote = db.get(VOTE)?;
        Ok(Self { db, config, findings, vote, timing })
    }

    /// Asks the listed nodes and the voters what they belong to, whatever that is.
    pub async fn look_around(&self, peers: &Peers) -> Vec<Neighbour> {
        let LogFindings { cluster, node, state, .. } = &self.findings;
        look_around(peers, &self.config, (*cluster, *node), state).await
    }

    /// What was found.
    #[must_use]
    pub fn findings(&self) -> &LogFindings {
        &self.findings
    }

    /// Puts a cluster of this node alone in the place of the one that is lost: its id, and where the old log is now.
    ///
    /// # Errors
    /// The old log is in its place then.
    pub fn succeed(self, succession: Succession) -> Result<(ClusterId, PathBuf), ClusterError> {
        let cluster = ClusterId(random()?);
        let path = self.config.db_path.clone();
        let next = path.with_extension("redb.next");
        match fs::remove_file(&next) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("remove", &next, error)),
            _ => {}
        }
        crash::point("recover.before-write");
        create(&next)?;
        let incarnation = self.db.incarnation()?;
        let begin = Beginning::new(&self, cluster, incarnation, succession);
        let db = RaftDb::open(&next)?;
        db.write(Keep::Durable, |writer| {
            writer.put(INCARNATION, &incarnation)?;
            writer.put(OWN, &begin.own)?;
            writer.put(VOTE, &begin.vote)?;
            writer.put(COMMITTED, &begin.at)?;
            writer.put(PURGED, &begin.at)?;
            writer.put(APPLIED, &begin.applied)
        })?;
        db.check()?;
        drop(db);
        same_owner(&path, &next)?;
        sync(&next)?;
        crash::point("recover.after-write");
        let aside = self.link_aside()?;
        crash::point("recover.after-link");
        fs::rename(&next, &path).map_err(|error| failed("replace", &path, error))?;
        crash::point("recover.after-rename");
        sync_folder(&path)?;
        Ok((cluster, aside))
    }

    /// Lays the log aside, so that this node is as after a lost disk: where it is now.
    ///
    /// # Errors
    /// The log is in its place then.
    pub fn lay_aside(self) -> Result<PathBuf, ClusterError> {
        let path = self.config.db_path.clone();
        let aside = self.link_aside()?;
        crash::point("rejoin.after-link");
        fs::remove_file(&path).map_err(|error| failed("rename", &path, error))?;
        sync_folder(&path)?;
        Ok(aside)
    }

    /// Gives the log a second name that nothing has yet; one that an interrupted run gave it is used again.
    fn link_aside(&self) -> Result<PathBuf, ClusterError> {
        let path = &self.config.db_path;
        let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
        let own = identity(path).map_err(|error| failed("look at", path, error))?;
        for number in 1..=ASIDE_MAX {
            let aside = path.with_extension(format!("redb.aside-{number}"));
            match fs::hard_link(path, &aside) {
                Ok(()) => {
                    sync_folder(path)?;
                    return Ok(aside);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if identity(&aside).is_ok_and(|other| other == own) {
                        return Ok(aside);
                    }
                }
                Err(error) => return Err(failed("lay aside", path, error)),
            }
        }
        let full = std::io::Error::other(format!("{ASIDE_MAX} logs lie there already"));
        Err(failed("lay aside", path, full))
    }
}

/// The records of the new log.
struct Beginning {
    own: Own,
    vote: Vote,
    at: LogId,
    applied: Applied,
}

impl Beginning {
    fn new(old: &LogFile, cluster: ClusterId, incarnation: [u8; 16], succession: Succession) -> Self {
        let LogFile { config, findings, vote, timing, .. } = old;
        let (last, term) = findings.last;
        let state = &findings.state;
        let Succession { head, used_generation, used_epoch } = succession;
        let index = last.max(used_epoch).max(state.epoch()).saturating_add(UNSEEN);
        let term = vote.map_or(term, |vote| vote.leader_id.term.max(term)) + 1;
        // As if an entry of the new log had admitted it: an id that the old cluster cannot have given.
        let node: NodeId = FOUNDERS_MAX + index;
        let at = LogId::new(CommittedLeaderId::new(term, node), index);
        let member = Member {
            name: config.node_name.clone(),
            address: config.address.clone(),
            role: config.role,
            incarnation,
        };
        let mut succeeds = state.lineage.succeeds.clone();
        succeeds.push(findings.cluster);
        let excess = succeeds.len().saturating_sub(SUCCEEDS_MAX);
        succeeds.drain(..excess);
        let content =
            FirstContent { digest: head.as_ref().map_or(Digest([0; 32]), |head| head.digest), files: 0 };
        let record = FormationRecord {
            cluster,
            name: config.cluster_name.clone(),
            writer: node,
            founders: BTreeMap::from([(node, Founder { member: member.clone(), content })]),
            timing: *timing,
            succeeds: succeeds.clone(),
        };
        let peer = PeerNode { name: member.name.clone(), address: member.address.clone() };
        let voters = BTreeSet::from([node]);
        let membership = Membership::new(vec![voters.clone()], BTreeMap::from([(node, peer)]));
        let mut awaited = state.lineage.awaited.clone();
        for member in state.members.values() {
            let Member { name, address, role, .. } = member.clone();
            awaited.insert(name, Awaited { address, role });
        }
        awaited.remove(&config.node_name);
        let seed = match config.role {
            Role::Candidate => Seed::OneOf(voters.clone()),
            Role::Worker | Role::Witness => Seed::Anyone,
        };
        let holders = voters.clone();
        let head = head.map(|head| Head { author: node, holders, ..head });
        let members = BTreeMap::from([(node, member)]);
        let state = ClusterState {
            applied_index: index,
            // Nobody's any more: the next manager's epoch replaces it.
            appointment: state.appointment.clone(),
            head,
            paused: state.paused.clone(),
            lineage: Lineage {
                succeeds,
                used_generation: used_generation.max(state.generation()).max(state.lineage.used_generation),
                awaited,
            },
            ..ClusterState::new(cluster, members, voters, seed)
        };
        Self {
            own: Own {
                cluster,
                node,
                name: config.node_name.clone(),
                timing: record.timing,
                record: Some(record),
            },
            vote: Vote::new(term, node),
            at,
            applied: Applied {
                last_applied: Some(at),
                membership: StoredMembership::new(Some(at), membership),
                state: Some(state),
                timing: Some(*timing),
            },
        }
    }
}

/// Whoever runs a command offline is not always the daemon's user.
fn same_owner(from: &Path, to: &Path) -> Result<(), ClusterError> {
    let meta = fs::metadata(from).map_err(|error| failed("look at", from, error))?;
    let own = fs::metadata(to).map_err(|error| failed("look at", to, error))?;
    if (meta.uid(), meta.gid()) != (own.uid(), own.gid()) {
        std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid()))
            .map_err(|error| failed("give to its owner", to, error))?;
    }
    fs::set_permissions(to, meta.permissions()).map_err(|error| failed("set the mode of", to, error))
}

fn sync(path: &Path) -> Result<(), ClusterError> {
    fs::File::open(path).and_then(|file| file.sync_all()).map_err(|error| failed("sync", path, error))
}

fn sync_folder(path: &Path) -> Result<(), ClusterError> {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or(Ok(()), sync)
}
