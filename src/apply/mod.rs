//! Brings this node to the head.

mod displaced;
mod error;
mod judge;
mod owner;
mod reconcile;

pub use error::ApplyError;
pub use judge::{DriftPolicy, Quiet};

#[cfg(test)]
mod testing;
