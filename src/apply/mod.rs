//! Brings this node to the head.

mod displaced;
mod error;
mod judge;
mod mark;
mod owner;
mod reconcile;

pub use error::ApplyError;
pub use judge::{DriftPolicy, Quiet};
pub use mark::{RootProblem, check_mark, is_marked};

#[cfg(test)]
mod testing;
