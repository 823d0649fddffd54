//! What `syncd recover` does while the daemon is stopped: finds out what this host still has, and acts on it.
//!
//! Owns what is weighed before a log is replaced or laid aside: the store's content, and who else answers. Holding a
//! [`Recovery`] keeps the daemon of this host from starting. Leaves the log's file to `cluster`, asking to the command
//! line. Changes nothing before [`Recovery::succeed`] or [`Recovery::lay_aside`].

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::cluster::{ClusterError, LogFile, LogFindings, Neighbour, Succession, Word};
use crate::daemon::DaemonError;
use crate::daemon::config::Config;
use crate::daemon::run::{cluster_config, read_tls};
use crate::model::{ClusterId, Epoch, Head, Role};
use crate::rpc::{Identity, Peers};
use crate::store::{Store, StoreError};

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The log can't be used; see its message.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The store can't be used.
    #[error("the store can't be used")]
    Store(#[from] StoreError),
    /// The certificates can't be read.
    #[error(transparent)]
    Tls(DaemonError),
    /// It would do harm, or help nobody: why, and what helps.
    #[error("{0}")]
    Refused(String),
}

/// Which generation goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The log names none: what this node's folder holds becomes the first.
    Nothing,
    /// The newest one that the log names.
    Newest(Head),
    /// An older one: the content of the newest one that the log names is not whole on this host.
    Older {
        /// What goes on, none when this host has no content at all.
        kept: Option<Head>,
        /// What the log names.
        newest: Head,
    },
}

/// What this host still has of its cluster.
pub struct Recovery {
    log: LogFile,
    /// Held open so that no daemon starts meanwhile.
    _store: Store,
    node: String,
    role: Role,
    kept: Kept,
    staged: BTreeSet<u64>,
    used_generation: u64,
    used_epoch: Epoch,
    neighbours: Vec<Neighbour>,
}

impl Recovery {
    /// Opens the log and the store, and asks the other hosts what they belong to.
    ///
    /// # Errors
    /// [`RecoveryError`]; [`ClusterError::Busy`] in it while the daemon runs.
    pub async fn look(config: &Config) -> Result<Self, RecoveryError> {
        let data_dir = &config.node.data_dir;
        let log = LogFile::open(cluster_config(config, data_dir.join("raft.redb")))?;
        let store = Store::open(&data_dir.join("store"), &data_dir.join("quarantine"))?;
        let tls = read_tls(config).map_err(RecoveryError::Tls)?;
        let neighbours = log.look_around(&Peers::new(Identity::new(), tls)).await;
        let found = &log.findings().state;
        let here = store.head();
        let pins = store.pins();
        let kept = match &found.head {
            None => Kept::Nothing,
            Some(head) => {
                let is_newest = |number, digest| number == head.generation && digest == head.digest;
                let adopted = here
                    .as_ref()
                    .is_some_and(|here| is_newest(here.generation.number, here.generation.digest));
                if adopted || pins.iter().any(|pin| is_newest(pin.number, pin.digest)) {
                    Kept::Newest(head.clone())
                } else {
                    let older = here.as_ref().map(|here| Head {
                        generation: here.generation.number,
                        digest: here.generation.digest,
                        epoch: here.generation.epoch,
                        author: head.author,
                        committed_unix_ms: here.generation.created_unix_ms,
                        holders: BTreeSet::new(),
                    });
                    Kept::Older { kept: older, newest: head.clone() }
                }
            }
        };
        let head = here.as_ref().map(|here| (here.generation.number, here.generation.epoch));
        let pinned = pins.iter().map(|pin| (pin.number, pin.epoch));
        let seen: Vec<(u64, Epoch)> = pinned.chain(head).collect();
        let used_generation = seen.iter().map(|(number, _)| *number).max().unwrap_or(0);
        let used_epoch = seen.iter().map(|(_, epoch)| *epoch).chain([store.manager_epoch()?]).max();
        let staged = pins.iter().map(|pin| pin.number).filter(|number| *number > found.generation());
        Ok(Self {
            staged: staged.collect(),
            kept,
            used_generation: used_generation.max(found.generation()).max(found.lineage.used_generation),
            used_epoch: used_epoch.unwrap_or(0),
            neighbours,
            node: config.node.name.clone(),
            role: config.role(),
            _store: store,
            log,
        })
    }

    /// What the log says.
    #[must_use]
    pub fn log(&self) -> &LogFindings {
        self.log.findings()
    }

    /// Which generation goes on.
    #[must_use]
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Generations that are staged here and that the log does not name.
    #[must_use]
    pub fn staged(&self) -> &BTreeSet<u64> {
        &self.staged
    }

    /// The greatest number of a generation that this host has seen.
    #[must_use]
    pub fn used_generation(&self) -> u64 {
        self.used_generation
    }

    /// What the other hosts answered.
    #[must_use]
    pub fn neighbours(&self) -> &[Neighbour] {
        &self.neighbours
    }

    /// Whether a cluster of this node alone may take the old one's place.
    ///
    /// # Errors
    /// [`RecoveryError::Refused`]: why not, and what helps.
    pub fn may_succeed(&self) -> Result<(), RecoveryError> {
        let refused = |why: String| Err(RecoveryError::Refused(why));
        if !self.role.votes() {
            return refused(format!(
                "{} is a {}, and only a candidate or a witness can carry a cluster on: run this on one of those, or \
                 list {} as a candidate on all hosts first",
                self.node, self.role, self.node
            ));
        }
        if let Some(other) = self.was_removed() {
            return refused(format!(
                "{} was removed from its cluster, as {} at {} says, so it must not carry it on: to bring it back, run \
                 `syncd recover --rejoin` here",
                self.node, other.name, other.address
            ));
        }
        let kin = self.neighbours.iter().find(|other| matches!(other.word, Word::Other { is_kin: true, .. }));
        if let Some(other) = kin {
            return refused(format!(
                "this cluster was recovered already, and {} at {} belongs to the one that succeeded it: run \
                 `syncd recover --rejoin` here instead",
                other.name, other.address
            ));
        }
        if let Some(why) = self.old_quorum() {
            return refused(format!("{why}: start this node's daemon, there is nothing to recover"));
        }
        let (index, term) = self.log().last;
        let newer = self
            .neighbours
            .iter()
            .find(|other| matches!(other.word, Word::Same { votes: true, last, .. } if last > (term, index)));
        if let Some(other) = newer {
            return refused(format!(
                "{} at {} answers and has a newer log than {}: run `syncd recover` there, or stop its daemon if that \
                 host is to be given up",
                other.name, other.address, self.node
            ));
        }
        Ok(())
    }

    /// Whether this node may give its log up: for a cluster that succeeded its own, or because it was removed.
    ///
    /// # Errors
    /// [`RecoveryError::Refused`]: why not, and who said what.
    pub fn may_lay_aside(&self) -> Result<(), RecoveryError> {
        if self.was_removed().is_some() {
            // It has no vote that the cluster could miss.
            return Ok(());
        }
        if let Some(why) = self.old_quorum() {
            return Err(RecoveryError::Refused(format!(
                "{why}, so the old cluster lives and would lose this node's vote. If the other cluster is the right \
                 one, stop the daemons of the old one's members first; else start this node's daemon again"
            )));
        }
        let kin = |other: &&Neighbour| matches!(other.word, Word::Other { is_kin: true, .. });
        if self.neighbours.iter().any(|other| kin(&other)) {
            return Ok(());
        }
        let said: Vec<String> = self.neighbours.iter().map(ToString::to_string).collect();
        Err(RecoveryError::Refused(format!(
            "no node answers that belongs to a cluster which succeeded this one, so there is nothing to rejoin ({}): \
             start the recovered node first, or look at the addresses in the list",
            said.join("; ")
        )))
    }

    /// Who of this node's own cluster says that it was removed.
    #[must_use]
    pub fn was_removed(&self) -> Option<&Neighbour> {
        self.neighbours.iter().find(|other| matches!(other.word, Word::Same { removed: true, .. }))
    }

    /// Why the old cluster still has a quorum, or has one as soon as this node runs.
    fn old_quorum(&self) -> Option<String> {
        let members = |of: &dyn Fn(bool, bool) -> bool| -> Vec<&Neighbour> {
            let counts = |other: &&Neighbour| matches!(other.word, Word::Same { votes, has_leader, .. } if of(votes, has_leader));
            self.neighbours.iter().filter(counts).collect()
        };
        let names = |of: &[&Neighbour]| {
            of.iter()
                .map(|other| format!("{} at {}", other.name, other.address))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let led = members(&|_, has_leader| has_leader);
        if !led.is_empty() {
            return Some(format!("the cluster has a leader, as {} says", names(&led)));
        }
        let LogFindings { node, state, .. } = self.log();
        let answering = members(&|votes, _| votes);
        let with_me = answering.len() + usize::from(state.voters.contains(node));
        (!answering.is_empty() && 2 * with_me > state.voters.len()).then(|| {
            format!("{} answers, which with {} is a majority of the voters", names(&answering), self.node)
        })
    }

    /// Puts a cluster of this node alone in the place of the old one: its id, and where the old log is kept.
    ///
    /// # Errors
    /// Everything is as before then.
    pub fn succeed(self) -> Result<(ClusterId, PathBuf), RecoveryError> {
        self.may_succeed()?;
        let head = match self.kept {
            Kept::Nothing => None,
            Kept::Newest(head) => Some(head),
            Kept::Older { kept, .. } => kept,
        };
        let succession =
            Succession { head, used_generation: self.used_generation, used_epoch: self.used_epoch };
        Ok(self.log.succeed(succession)?)
    }

    /// Lays the log aside: where it is kept.
    ///
    /// # Errors
    /// Everything is as before then.
    pub fn lay_aside(self) -> Result<PathBuf, RecoveryError> {
        self.may_lay_aside()?;
        Ok(self.log.lay_aside()?)
    }
}

impl std::fmt::Display for Neighbour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {} ", self.name, self.address)?;
        match &self.word {
            Word::Silent(why) => write!(f, "does not answer ({why})"),
            Word::Empty => f.write_str("is empty"),
            Word::Same { removed: true, .. } => {
                f.write_str("is of this cluster and says that this node was removed")
            }
            Word::Same { has_leader: true, .. } => f.write_str("is of this cluster and hears a leader"),
            Word::Same { last: (term, index), .. } => {
                write!(
                    f,
                    "is of this cluster and hears no leader; its log ends at index {index}, term {term}"
                )
            }
            Word::Other { cluster, is_kin: true, .. } => {
                write!(f, "belongs to cluster {cluster}, which succeeded this one or was succeeded by it")
            }
            Word::Other { cluster, .. } => write!(f, "belongs to cluster {cluster}"),
        }
    }
}
