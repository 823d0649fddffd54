//! Notifications about changed files.
//!
//! Owns the kernel's watches and what they report: merged into one [`ChangeSet`] until somebody takes it, so that a
//! burst costs what its distinct paths cost. A watch covers one folder; whoever walks adds one for each folder
//! *before* listing it, which closes the race over folders that fill while they are made.
//!
//! inotify is used as it is. The crate notify was tried: it keeps watches by path, twice, and after renames took the
//! watch of a living folder away (the inventory's random edits show it); it can't watch by handle, does not say whether
//! what arrived is a folder, and reports every file that a scan opens.
//!
//! A set of changes is a hint where to look, never what to find there: the kernel drops events when its queue is full
//! (the set then says so), and events that were under way when a folder was renamed carry its old path.
//!
//! Leaves looking to `tree`, deciding when to look to `inventory`.

mod pending;
mod source;
mod watches;

pub use pending::ChangeSet;
pub use source::{Changes, WatchError, Watcher};
