//! Nodes telling each other how they are.
//!
//! Owns the newest report of every other member. Of each pair the node with the lesser name asks at intervals, and
//! either tells the other at once when its own report changes in what peers act upon; one call carries both reports.
//! Leaves what a report says to the daemon, and what follows from it to whoever reads the channel that it fills.

mod task;

pub use task::{Config, Roster, RosterTask, new};

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// Not the form of a report.
    #[error("a report is not readable")]
    Unreadable(#[from] serde_json::Error),
    /// Larger than any honest report.
    #[error("a report has {0} bytes, more than {REPORT_BYTES_MAX}")]
    TooLarge(usize),
    /// A node must not speak for another.
    #[error("node {spoke} sent a report in the name of {named:?}")]
    NotItsOwn {
        /// Internal id of the sender.
        spoke: u64,
        /// The name in the report.
        named: String,
    },
}

/// Largest report that is taken, in bytes; a report lists a bounded number of problems.
pub const REPORT_BYTES_MAX: usize = 512 * 1024;
