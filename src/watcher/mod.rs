//! Notifications about changed files.
//!
//! Owns the kernel's watches and what they report: merged into one [`ChangeSet`] until somebody takes it, so that a
//! burst costs what its distinct paths cost. A watch covers one folder; whoever walks adds one for each folder
//! *before* listing it, which closes the race over folders that fill while they are made.
//!
//! A set of changes is a hint where to look, never what to find there: the kernel drops events when its queue is full
//! (the set then says so), and events that were under way when a folder was renamed carry its old path.
//!
//! Leaves looking to `tree`, deciding when to look to `inventory`.

mod pending;
mod source;

pub use pending::ChangeSet;
pub use source::{Changes, WatchError, Watcher};
