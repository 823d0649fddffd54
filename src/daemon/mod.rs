//! Composition of the rooms below into one daemon.
//!
//! Owns the configuration, the order in which parts are opened, bound, run and ended, and what the daemon says of
//! itself: status, metrics and the load balancer's paths. Leaves all decisions about files and managers to the rooms
//! that it connects, and words for people to the command line.

pub mod check;
pub mod config;
pub mod control;
pub mod redeploying;
pub mod restoring;
pub mod status;
pub mod summary;
pub mod switchover;
pub mod telemetry;

pub mod approving;
mod artifacts;
mod collect;
mod first;
mod http;
mod listeners;
mod membership;
mod mend;
mod metrics;
mod page;
mod recovery;
mod report;
mod reporter;
mod resign;
mod run;
mod supervise;
mod view;

pub use recovery::{Kept, Recovery, RecoveryError};
pub use run::{Daemon, DaemonError};
