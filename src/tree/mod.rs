//! The artifact folders: looking at them, and changing them, without ever leaving them.
//!
//! Owns every system call on an artifact: opening beneath a root, stat, reading and hashing, walking, staging,
//! exchanging, placing, taking away. What holds for all of it:
//!
//! - A root is opened once; everything else is opened beneath that handle. No component of a path may be a link or
//!   another mount, at the moment of the call and not merely when somebody looked before.
//! - Names are bytes, as `model::ArtifactPath` checked them.
//! - Content is believed only when the file was the same before and after it was read, and no one had it open for
//!   writing.
//! - Own files live in `<root>/.syncd`, never under a name that a gateway deploys, and no walk enters it.
//!
//! A handle keeps the file system of its root busy: unmounting it needs syncd stopped, or `umount --lazy`.
//!
//! Leaves to others why a file changes, when a root is looked at, and what is done with what was replaced.

mod beneath;
mod error;
mod lease;
mod observe;
mod root;
mod stage_name;
mod stat;
mod walk;
mod workshop;

pub use error::TreeError;
pub use observe::{FILE_BYTES_MAX, Observation, Seen, observe};
pub use root::{Identity, Root};
pub use stage_name::StageName;
pub use stat::{Kind, Stat};
pub use walk::{Entered, Walk, walk};
pub use workshop::{Staged, WORKSHOP, Workshop};

#[cfg(test)]
mod tests;
