//! What others see of publishing.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{HeldList, Problem};

/// How publishing stands on this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PublishStatus {
    /// Changes that wait to go out, or are on their way.
    pub pending: u64,
    /// Changes that are held back.
    pub held: u64,
    /// Those that a person may let through, list by list.
    pub lists: Vec<Arc<HeldList>>,
    /// What keeps changes from going out.
    pub problems: Vec<Problem>,
    /// The last generation that was committed by this process.
    pub last: Option<LastPublish>,
}

/// How the last publish went, each step counted from the end of the former one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastPublish {
    /// Its number.
    pub generation: u64,
    /// How many places it changed.
    pub changes: u64,
    /// Bytes of its parcel, as sent to each member.
    pub parcel_bytes: u64,
    /// From the first change seen to the decision that it goes out.
    pub gather: Duration,
    /// Reading the contents, pinning them here, and encoding.
    pub read: Duration,
    /// Until a majority held it.
    pub stage: Duration,
    /// Until its commit was known.
    pub commit: Duration,
}

/// Takes what is measured. Called from the publishing task; must not block.
pub trait Observer: Send + Sync {
    /// A generation was committed this long after its first change was seen.
    fn published(&self, took: Duration);
    /// One step of a publish took so long: `gather`, `read`, `stage` or `commit`.
    fn step(&self, step: &'static str, took: Duration);
    /// So many bytes went to the member called `peer`, as `full`, `delta` or `zstd`.
    fn sent(&self, peer: &str, kind: &'static str, bytes: u64);
    /// So many bytes did not have to go, because the old version was known.
    fn saved(&self, bytes: u64);
}
