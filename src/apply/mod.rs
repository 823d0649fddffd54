//! Brings this node to the head.

mod displaced;
mod error;
mod intake;
mod judge;
mod mark;
mod owner;
mod reconcile;
mod service;
mod stages;
mod status;
mod supply;

pub use error::ApplyError;
pub use judge::{DriftPolicy, Quiet};
pub use mark::{RootProblem, check_mark, is_marked};
pub use service::Stager;
pub use status::{ApplyStatus, Observer, Unobserved};
pub use supply::{PeerSupplier, Supplier, SupplyError};

#[cfg(test)]
mod testing;
