//! syncd keeps the artifact folders of a cluster of API gateways equal, and says at any time how sure that is.
//!
//! # Layout
//! Imports run down these floors only, and rooms of one floor do not know each other (`tests/tidy.rs` holds it):
//!
//! ```text
//! 6  main.rs  cli/                                   words to the user: arguments, output, exit codes
//! 5  daemon/                                         composition: configuration, supervision, HTTP, status
//! 4  cluster/  publish/  apply/  roster/  inspect/   features; strangers to one another
//! 3  inventory/                                      what this node's roots hold now, which features share
//! 2  tree/  store/  watcher/  rpc/  delta/           one outside thing each: artifact folders, own data, notifications, peers, parcels
//! 1  plan/  wire/  crash.rs                          decisions and conversions: no disk, socket, clock or task
//! 0  model/                                          nouns: path, hash, manifest, generation, cluster state, report
//! ```

pub mod model;

pub mod crash;
pub mod plan;
pub mod wire;

pub mod delta;
pub mod rpc;
pub mod store;
pub mod tree;
pub mod watcher;

pub mod inventory;

pub mod apply;
pub mod cluster;
pub mod inspect;
pub mod publish;
pub mod roster;

pub mod daemon;

pub mod cli;
