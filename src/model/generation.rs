//! One immutable, numbered state of all roots.

use serde::{Deserialize, Serialize};

use crate::model::{Digest, Entry, Place, Rules};

/// Counts managers: the log index of the entry that appointed one. Zero: nobody was appointed yet.
pub type Epoch = u64;

/// What a generation is, without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Counts from 1 along the one committed chain.
    pub number: u64,
    /// The generation it was made from; 0 for the first.
    pub parent: u64,
    /// The digest of all roots.
    pub digest: Digest,
    /// The epoch in which it was made.
    pub epoch: Epoch,
    /// The node whose folder it was read from.
    pub author: String,
    /// When it was made, by the author's clock, in milliseconds since 1970.
    pub created_unix_ms: i64,
}

/// A point in time of a file, as the file system keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileTime {
    /// Whole seconds since 1970; the gateway sees only these.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// One change of a generation against its base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Where.
    pub place: Place,
    /// What is there now; none when it was deleted.
    pub entry: Option<Entry>,
    /// The author's modification time of a file; not part of any digest.
    pub mtime: Option<FileTime>,
}

/// A generation with all that is needed, besides the contents, to build it from its base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The generation.
    pub generation: Generation,
    /// The generation that the changes start from: the parent, or something older (0: nothing) when it was fetched.
    pub base: u64,
    /// How its roots are scanned, compared and applied.
    pub rules: Rules,
    /// Every place that differs from the base, sorted, each once.
    pub changes: Vec<Change>,
}
