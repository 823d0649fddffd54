//! Decisions about files: what a rule covers, in which order changes are made, with which time, what is whole XML,
//! and how many may be deleted.
//!
//! Pure functions over the model: no disk, clock or task. The facts behind them are the gateway's: it scans every
//! 15 seconds, sees only whole seconds of modification times, and deploys what it finds in the order it finds it.
//! Leaves carrying a change out to `apply`, and gathering changes to `publish`.

/// One scan of the gateway, with room: it begins one every 15 s, and each takes its time.
pub const SCAN: std::time::Duration = std::time::Duration::from_secs(20);

mod matcher;
mod mtime;
mod order;
mod well_formed;
mod window;

pub use matcher::{Matcher, PatternError};
pub use mtime::mtime_for;
pub use order::{order, standard_folder};
pub use well_formed::{Malformed, XML_BYTES_MAX, well_formed};
pub use window::{DELETE_WINDOW, DeleteWindow};
