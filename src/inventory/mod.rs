//! What this node's roots hold now, under the rules in force.
//!
//! Owns one task that keeps [`Observed`] true: it looks where the watcher points, walks everything from time to time
//! for what no event told, and reopens roots that went away. Invariants:
//!
//! - What can't be read, is being written, or lies in a root that is missing never looks like a delete: the manifest
//!   keeps what was last seen there, and `busy`, `failed` or `missing` says so.
//! - A root that was never seen is not in the forest; one that was seen empty is there, and empty.
//! - A folder that can't be watched is polled: what is found there late is found all the same, and `unwatched` says so.
//! - A state is published after every look that found anything new, and contains everything that was reported before the look began.
//!
//! Leaves what follows from a state to the features that share it; changes no file.

mod handle;
mod holding;
mod look;
mod observed;
mod state;
mod task;
mod touched;

pub use handle::{InventoryHandle, Reread, Writing};
pub use observed::{Observed, RootState, Unwatched};
pub use task::{InventoryTask, new};
pub use touched::Touched;

use std::path::PathBuf;
use std::time::Duration;

use crate::model::{RootName, Rules};

/// What an inventory is made from.
#[derive(Clone, Debug)]
pub struct Config {
    /// The roots of this node.
    pub roots: Vec<RootConfig>,
    /// The rules until [`InventoryHandle::set_rules`]. A root that they do not name has none.
    pub rules: Rules,
    /// How often everything is walked although no event asked for it.
    pub rescan_every: Duration,
}

/// One root of this node.
#[derive(Clone, Debug)]
pub struct RootConfig {
    /// Its name.
    pub name: RootName,
    /// Where it is here.
    pub path: PathBuf,
    /// Whether it may be absent until it is first made.
    pub optional: bool,
}

/// Why an inventory can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// Looking at the roots ended in a way that should be impossible.
    #[error("looking at the roots failed")]
    Look {
        /// How it ended.
        #[source]
        source: tokio::task::JoinError,
    },
}

#[cfg(test)]
mod tests;
