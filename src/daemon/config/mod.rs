//! The configuration: every key of the file and the environment, read, checked and typed.
//!
//! Owns the names, defaults and bounds of all keys, the presets, and which listed node this host is. What comes out
//! of [`Config::load`] holds together: no other room checks a setting again. All mistakes are found in one reading,
//! and each says where it stands, what is wrong and what to do. Leaves to others whether the roots exist while the
//! daemon runs, and the resolving of owner names.

mod check;
mod error;
mod host;
mod later;
mod mistakes;
mod preset;
mod read;
mod section;
mod source;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::{ConfigError, Mistake, Notice, Where};
pub(in crate::daemon) use host::host_of;

pub use host::Host;

use crate::model::{Role, RootName, RootRules, Rules};

/// Where the control socket is when nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/syncd/syncd.sock";

/// Everything that the operator decides. All fields stay as they are while the daemon runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// This node.
    pub node: Node,
    /// The cluster and its listed nodes.
    pub cluster: Cluster,
    /// How managers are found.
    pub election: Election,
    /// The artifact folders that this file names, those of a preset included, sorted by name.
    pub roots: Vec<Root>,
    /// How changes travel.
    pub sync: Sync,
    /// The mode in which all nodes mount one folder.
    pub shared_fs: SharedFs,
    /// Certificates of the connections between nodes; none: in clear.
    pub tls: Option<Tls>,
    /// Commands that are run when something happened.
    pub hooks: Vec<Hook>,
    /// Where each key stands, for mistakes that show only later.
    origins: source::Origins,
}

/// `[node]`: this host.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name; by default the listed node whose name or address is this host's, else the host's name.
    pub name: String,
    /// Where it hears other nodes; default `0.0.0.0:8730`.
    pub listen: SocketAddr,
    /// Where it serves metrics, health and the status page; default `0.0.0.0:8731`.
    pub http: SocketAddr,
    /// Whether artifact paths are shown there although it is not loopback; default false.
    pub http_paths: bool,
    /// Store, election state and quarantine; default `/var/lib/syncd`.
    pub data_dir: PathBuf,
    /// The control socket of the command line; default `/run/syncd/syncd.sock`, at most 107 bytes.
    pub socket: PathBuf,
}

/// `[cluster]`.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name, equal on all nodes.
    pub name: String,
    /// How the nodes come to the same content.
    pub mode: Mode,
    /// The listed nodes: all candidates and witnesses, and workers that shall be known by name.
    pub nodes: Vec<Listed>,
}

/// How the nodes come to the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The manager's folder is copied to all others.
    Rsync,
    /// All mount one folder, and it is only checked that they see the same.
    SharedFs,
}

/// One `[[cluster.node]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name, unique.
    pub name: String,
    /// Where its peers reach it, `host:port`, unique.
    pub address: String,
    /// Default candidate.
    pub role: Role,
    /// The highest healthy, caught-up candidate is preferred as manager; default 0.
    pub priority: i64,
}

/// `[election]`. The first node to form the cluster takes these into the log.
#[derive(Clone, Debug)]
pub struct Election {
    /// How often a leader shows that it lives; default 200 ms.
    pub heartbeat: Duration,
    /// Silence after which another is elected, randomized up to twice this; default 600 ms, above twice `heartbeat`.
    pub timeout: Duration,
    /// How long one renewal makes the manager; default 1200 ms, from `timeout` to one minute.
    pub lease: Duration,
}

/// One `[[root]]`, or one that a preset stands for.
#[derive(Clone, Debug)]
pub struct Root {
    /// Its name, equal on all nodes.
    pub name: RootName,
    /// The folder on this host, absolute.
    pub path: PathBuf,
    /// Synchronized, or only compared.
    pub mode: RootMode,
    /// Whether it may be absent; default false.
    pub optional: bool,
    /// What is left out, what is kept, who owns what is written.
    pub rules: RootRules,
    /// Its section in the configuration, for mistakes that show only later.
    key: String,
}

/// What is done with a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootMode {
    /// Made equal on all nodes.
    Sync,
    /// Never changed, only compared between nodes.
    Compare,
}

/// `[sync]`: how changes travel.
#[derive(Clone, Debug)]
pub struct Sync {
    /// Quiet time before updates of existing paths go out; default 10 ms, at most `settle_max`.
    pub settle: Duration,
    /// Quiet time once a pending set has a new or a deleted path; default 1 s, at most `settle_max`.
    pub gather: Duration,
    /// The longest a pending set waits for quiet; default 6 s.
    pub settle_max: Duration,
    /// A delete followed by a re-create within this is an update; default 3 s, at most `settle_max`.
    pub delete_grace: Duration,
    /// Deletes above this within 10 minutes are held; default 50, 0 holds every delete.
    pub max_delete: u64,
    /// How long an ex-manager offers late local changes to the new one; default 10 s.
    pub handover: Duration,
    /// How long `/ready` bears being behind; default 30 s.
    pub ready_lag: Duration,
    /// What is done about files that differ from the generation; default revert.
    pub drift: Drift,
    /// What is done about malformed XML; default hold.
    pub validate: Validate,
    /// Time between two readings of everything without cached digests; default 10 min.
    pub verify_every: Duration,
    /// Generations kept; default 100, at least 1.
    pub history: u64,
    /// Upload cap of this node in bytes per second; 0, the default: none.
    pub bandwidth: u64,
    /// The most that the quarantine of this node keeps, in bytes; default 4 GiB, 0: no bound.
    pub quarantine_max: u64,
}

/// What is done about files that differ from the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// Local content goes to quarantine, the generation's comes back.
    Revert,
    /// It is only told.
    Report,
}

/// What is done about malformed XML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validate {
    /// That file is not published.
    Hold,
    /// It is published, and told.
    Warn,
    /// Nothing.
    Off,
}

/// `[shared_fs]`.
#[derive(Clone, Debug)]
pub struct SharedFs {
    /// Time between two scans; default 10 s.
    pub interval: Duration,
    /// Differences younger than this are no alarm; default 120 s, at least `interval`.
    pub converge_within: Duration,
    /// A file system silent for this long is stalled; default 5 s.
    pub stall_after: Duration,
    /// Whether the root must not lie on the root file system; default true.
    pub require_mount: bool,
}

/// `[tls]`: the files, each seen to be readable when the configuration was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities that sign the nodes' certificates.
    pub ca: PathBuf,
    /// This node's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// One `[[hook]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The event.
    pub on: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// After this it is ended; default 10 s.
    pub timeout: Duration,
}

impl Config {
    /// Reads `file`, lays the variables of `env` over it, and checks the whole.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake that was found.
    pub fn load(
        file: &Path,
        env: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, Vec<Notice>), ConfigError> {
        Self::load_on(&Host::this(), file, env)
    }

    /// [`Config::load`] as if this host were `host`.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake that was found.
    pub fn load_on(
        host: &Host,
        file: &Path,
        env: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, Vec<Notice>), ConfigError> {
        let mut mistakes = mistakes::Mistakes::new(file);
        let tree = source::read(&mut mistakes, file, env);
        if mistakes.any() {
            return Err(mistakes.into_error());
        }
        let mut notices = Vec::new();
        let draft = read::config(&mut mistakes, tree);
        let config = check::config(&mut mistakes, &mut notices, host, draft);
        if mistakes.any() {
            return Err(mistakes.into_error());
        }
        Ok((Self { origins: mistakes.into_origins(), ..config }, notices))
    }

    /// Only the control socket's path, for commands that talk to a running daemon: they need not be allowed to read
    /// what a daemon reads, and another key's mistake must not keep anybody from asking for the status.
    ///
    /// # Errors
    /// [`ConfigError`] when the file cannot be read or is not TOML, or the path is not absolute.
    pub fn control_socket(
        file: &Path,
        env: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<PathBuf, ConfigError> {
        let mut mistakes = mistakes::Mistakes::new(file);
        let tree = source::read(&mut mistakes, file, env);
        if mistakes.any() {
            return Err(mistakes.into_error());
        }
        let socket = read::socket(&mut mistakes, tree);
        if mistakes.any() { Err(mistakes.into_error()) } else { Ok(socket) }
    }

    /// The line of the list that is this node; none on a worker that is not listed.
    #[must_use]
    pub fn me(&self) -> Option<&Listed> {
        self.cluster.nodes.iter().find(|node| node.name == self.node.name)
    }

    /// This node's role: an unlisted node is a worker.
    #[must_use]
    pub fn role(&self) -> Role {
        self.me().map_or(Role::Worker, |node| node.role)
    }

    /// Where this node's peers reach it: as listed, else by where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        match self.me() {
            Some(node) => node.address.clone(),
            None if self.node.listen.ip().is_unspecified() => {
                format!("{}:{}", self.node.name, self.node.listen.port())
            }
            None => self.node.listen.to_string(),
        }
    }

    /// The roots that this node makes equal to the others': none on a witness.
    pub fn synced_roots(&self) -> impl Iterator<Item = &Root> {
        let witness = self.role() == Role::Witness;
        self.roots.iter().filter(move |root| !witness && root.mode == RootMode::Sync)
    }

    /// The rules of this file, as a generation carries them. A witness has them too.
    #[must_use]
    pub fn rules(&self) -> Rules {
        let sync = self.roots.iter().filter(|root| root.mode == RootMode::Sync);
        Rules { roots: sync.map(|root| (root.name.clone(), root.rules.clone())).collect() }
    }

    /// Whether each root is there. A missing root is a mistake only on a node that never joined; later it is the
    /// state `root-missing`.
    ///
    /// # Errors
    /// [`ConfigError`] that names each root which is missing or no folder.
    pub fn check_roots(&self, joined: bool) -> Result<(), ConfigError> {
        if joined {
            return Ok(());
        }
        let mut mistakes = mistakes::Mistakes::resume(&self.file, self.origins.clone());
        for root in self.synced_roots() {
            check::root_is_there(&mut mistakes, root);
        }
        if mistakes.any() { Err(mistakes.into_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
