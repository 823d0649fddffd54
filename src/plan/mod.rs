//! Decisions about files: what a rule covers, in which order changes are made, with which time.
//!
//! Pure functions over the model: no disk, clock or task. The facts behind them are the gateway's: it scans every
//! 15 seconds, sees only whole seconds of modification times, and deploys what it finds in the order it finds it.
//! Leaves carrying a change out to `apply`, and gathering changes to `publish`.

mod matcher;
mod mtime;
mod order;

pub use matcher::{Matcher, PatternError};
pub use mtime::mtime_for;
pub use order::{order, standard_folder};
