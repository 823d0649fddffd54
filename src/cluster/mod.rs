//! All that knows openraft: the log, its transport, formation, and who is manager.
//!
//! Owns the file `raft.redb` and implements [`crate::model::Coordinator`]. One process opens one [`Cluster`], serves
//! its two services, and runs its [`ClusterTask`]; when that ends with an error the process must end, because a voter
//! whose disk or core failed must not go on from memory. Which node is manager is decided by the leader through the
//! log (`appoint.rs` has the rules and why leases never overlap); what is published, staged and applied is not known
//! here.
//!
//! From the bottom: `record` (encoding) and `db` (the file), `log_store` and `state_machine` (openraft's storage,
//! `state` its pure half), `network` and `service` (both ends of the transport), `formation` (until there is a log),
//! `recover` (the file while no daemon runs), `leader` around `appoint`, `members` around `membership`, `place` (whether
//! this node is still who it was), `renew` (the manager's side), `confirm` (reading the newest state), `orders` (what
//! people order, `successor` and `obey` its pure halves), `task` and `handle`.

mod appoint;
mod bootstrap;
mod confirm;
mod db;
mod error;
mod formation;
mod greet;
mod handle;
mod leader;
mod log_store;
mod members;
mod membership;
mod network;
mod obey;
mod orders;
mod outlook;
mod place;
mod record;
mod recover;
mod renew;
mod service;
mod shared;
mod state;
mod state_machine;
mod successor;
mod task;
mod types;

#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod tests;

pub use error::ClusterError;
pub use handle::{Cluster, ClusterMetrics};
pub use membership::RETURN_AFTER;
pub use outlook::{Neighbour, Word};
pub use record::RecordError;
pub use recover::{LogFile, LogFindings, Succession};
pub use shared::{ClusterConfig, FirstScan, ListedNode};
pub use task::ClusterTask;
pub use types::{PeerNode, Timing};
