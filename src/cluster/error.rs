//! What can go wrong in this room. Everything here but an RPC's own status ends the process.

use std::path::PathBuf;

use crate::cluster::record::RecordError;
use crate::cluster::types::PeerNode;
use crate::model::NodeId;

/// An error of the cluster room.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Another process has the store open.
    #[error("open {}: another process uses this data folder; stop it, or give this node a data_dir of its own", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The store is not what was written. Never repaired by guessing: what a voter promised must not be forgotten.
    #[error(
        "{} is damaged ({what}): this node must not vote with it. Restore the file from before the damage only if this node did not run since; otherwise keep it aside and let the node join with an empty data folder",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which record.
        what: String,
        /// What is wrong with it.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The disk failed, or is full.
    #[error("{operation} {}", path.display())]
    Store {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The configuration names this node differently than its data folder.
    #[error(
        "the data folder {} belongs to node {stored:?}, the configuration calls this node {configured:?}: correct node.name, or give this node an empty data_dir",
        path.display()
    )]
    OtherName {
        /// The file.
        path: PathBuf,
        /// The name stored.
        stored: String,
        /// The name configured.
        configured: String,
    },
    /// The stored cluster's name is not the configured one.
    #[error(
        "the data folder {} belongs to cluster {stored:?}, the configuration names cluster {configured:?}: correct cluster.name, or give this node an empty data_dir",
        path.display()
    )]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// The name stored.
        stored: String,
        /// The name configured.
        configured: String,
    },
    /// The configuration cannot work.
    #[error("{0}")]
    Config(String),
    /// A value that cannot be stored: a mistake in the program.
    #[error("encode a record")]
    Encode(#[from] RecordError),
    /// openraft stopped: a storage error or a panic. Nothing may go on without it.
    #[error("the raft core stopped")]
    Core(#[source] Box<openraft::error::Fatal<NodeId>>),
    /// The first start of the log failed.
    #[error("initialize the log")]
    Initialize(#[source] Box<openraft::error::InitializeError<NodeId, PeerNode>>),
    /// There is no log to recover.
    #[error("there is no log in {}: a node without one need not be recovered, it joins a cluster that has formed as soon as its daemon runs", path.display())]
    NoLog {
        /// Where it would be.
        path: PathBuf,
    },
    /// One of this room's tasks panicked.
    #[error("the task {0} ended unexpectedly")]
    Task(&'static str),
}

impl From<openraft::error::Fatal<NodeId>> for ClusterError {
    fn from(fatal: openraft::error::Fatal<NodeId>) -> Self {
        Self::Core(Box::new(fatal))
    }
}
