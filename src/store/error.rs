//! What can go wrong with the daemon's own data.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::{ContentHash, Digest, ManifestError, Place};
use crate::plan::PatternError;

/// An operation of the store that failed. The store stays whole and usable unless [`StoreError::is_fatal`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system has no room left; what was begun was taken back.
    #[error("no space left for {path}")]
    NoSpace {
        /// The file or folder that could not grow.
        path: PathBuf,
    },
    /// The quarantine holds as much as it may.
    #[error("the quarantine holds {held} bytes, and with {more} more it would pass {max}")]
    QuarantineFull {
        /// What it holds.
        held: u64,
        /// What was to come.
        more: u64,
        /// The bound.
        max: u64,
    },
    /// The operating system refused.
    #[error("{operation} {path} failed")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has the store open.
    #[error(
        "{path} is in use by another process; remedy: stop the other daemon, or give each its own node.data_dir"
    )]
    InUse {
        /// The index's file.
        path: PathBuf,
    },
    /// The index failed or cannot be read.
    #[error("the store's index failed")]
    Index(#[source] Box<redb::Error>),
    /// Something in the store is not what this program wrote.
    #[error("the store is damaged: {what}")]
    Corrupt {
        /// What does not fit.
        what: String,
    },
    /// The store was written by a version that this one does not know.
    #[error("the store has format {found}, this version reads format {known}")]
    Format {
        /// What the store says.
        found: u32,
        /// What is read.
        known: u32,
    },
    /// A content is not in the store.
    #[error("content {hash} is not in the store")]
    Missing {
        /// The content.
        hash: ContentHash,
    },
    /// A content's bytes no longer match its hash. It counts as missing from now on.
    #[error("content {hash} is damaged in {pack}")]
    Damaged {
        /// The content.
        hash: ContentHash,
        /// The file that holds it.
        pack: PathBuf,
    },
    /// What was to be put is not what its hash says.
    #[error("the bytes given for content {hash} ({size} bytes) are others")]
    Mismatch {
        /// The announced content.
        hash: ContentHash,
        /// Its announced size.
        size: u64,
    },
    /// The content to be put could not be read.
    #[error("reading content {hash} failed")]
    Source {
        /// The announced content.
        hash: ContentHash,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A proposal builds on a generation that this store does not hold.
    #[error("generation {number} builds on generation {base}, which is not here")]
    UnknownBase {
        /// The proposed generation.
        number: u64,
        /// What it builds on.
        base: u64,
    },
    /// A proposal's changes do not lead to its digest.
    #[error("the changes of generation {number} lead to another digest than {digest}")]
    WrongDigest {
        /// The proposed generation.
        number: u64,
        /// The digest that it announces.
        digest: Digest,
    },
    /// A proposal's changes make no tree.
    #[error("the changes of generation {number} make no tree")]
    NoTree {
        /// The proposed generation.
        number: u64,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// A change makes a path that the generation's own rules leave out.
    #[error("generation {number} has {place}, which its rules exclude")]
    Excluded {
        /// The proposed generation.
        number: u64,
        /// The place.
        place: Place,
    },
    /// The rules of a proposal can't be used.
    #[error("the rules of generation {number} can't be used")]
    BadRules {
        /// The proposed generation.
        number: u64,
        /// Why.
        #[source]
        source: PatternError,
    },
    /// A change names a root that the generation's rules do not.
    #[error("generation {number} changes a root that its rules do not name: {root}")]
    UnknownRoot {
        /// The proposed generation.
        number: u64,
        /// The root.
        root: String,
    },
    /// A generation older than the head was to be adopted.
    #[error("generation {number} is not newer than the head {head}")]
    Backwards {
        /// What was to be adopted.
        number: u64,
        /// The head.
        head: u64,
    },
}

impl StoreError {
    /// Whether the disk can no longer be trusted, so that the daemon had better end: a later attempt could seem to
    /// succeed although earlier writes were lost.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Index(_) | Self::Corrupt { .. } | Self::Io { operation: "sync", .. })
    }

    /// Whether the operation may succeed later without anyone changing what was asked.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }

    /// Whether a content itself is not what it should be, so that it has to be fetched again. A read that failed
    /// otherwise says nothing about it, and may succeed later.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Mismatch { .. } => true,
            Self::Source { source, .. } => {
                matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
            }
            _ => false,
        }
    }

    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path },
            _ => Self::Io { operation, path, source },
        }
    }

    pub(super) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::Index(Box::new(error.into()))
            }
        }
    )*};
}

from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError
);
