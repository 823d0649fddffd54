//! The manager's side: a change in its folder becomes a generation that a majority holds, and is offered to the log.
//!
//! Owns what goes out when, reading it into the store, encoding it once, staging it on every member, and the guards that
//! keep a vanished folder from looking like an empty one. Invariants: nothing is proposed that a majority of the voters
//! does not hold durably; one proposal is in flight, and after an unknown outcome the log is read before anything else
//! is built; a generation holds only content whose hash was checked while it was read.
//! Leaves the folder's state to `inventory`, who is manager to `cluster`, and all files to `apply`: it changes none.

mod batch;
mod error;
mod fit;
mod guard;
mod malformed;
mod own_rules;
mod prepare;
mod shut;
mod spool;
mod stage;
mod status;
mod task;

pub use batch::Timing;
pub use error::PublishError;
pub use malformed::Validate;
pub use status::{LastPublish, Observer, PublishStatus};
pub use task::{Config, PublishHandle, PublishTask, new};
