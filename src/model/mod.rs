//! The nouns that all rooms share.
//!
//! Owns what a path, a content hash, a manifest, a generation, a member and a report are, and the seam between the
//! features and consensus ([`Coordinator`]). Everything here is checked when it is made, so that whoever holds a
//! value need not check it again. Leaves all input and output, and all wire and disk formats, to the floors above.

mod causes;
mod clock;
mod cluster;
mod coordination;
mod forest;
mod generation;
mod hash;
mod held;
mod listing;
mod manifest;
mod order;
mod outlook;
mod path;
mod progress;
mod report;
mod rules;

pub use causes::with_causes;
pub use clock::{BootTime, unix_ms};
pub use cluster::{
    Appointment, Awaited, ClusterId, ClusterState, FirstContent, Head, Lineage, Member, NodeId, Pause,
    Redeploy, Role, Seed, Switchover, is_majority_of,
};
pub use coordination::{
    Commit, CommitOutcome, CommitRefusal, Coordinator, Lease, LostQuorum, Standing, Successor, UnknownOutcome,
};
pub use forest::{Edit, Forest, Place, RootName};
pub use generation::{Change, Epoch, FileTime, Generation, Proposal};
pub use hash::{ContentHash, Digest};
pub use held::{HeldList, Withheld};
pub use manifest::{Difference, Entry, Manifest, ManifestError};
pub use order::{Approval, LetThrough, Order, OrderError, OrderId, OrderOutcome, Refusal};
pub use outlook::{Intent, Outlook, OutlookAsked, OutlookHandle, Stands};
pub use path::{ArtifactPath, NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX, PathError};
pub use progress::{Meter, Metered, Progress};
pub use report::{Heard, HeardReport, Instance, NodeReport, NodeState, Problem, RootReport, Severity};
pub use rules::{RootRules, Rules};
