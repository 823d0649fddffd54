//! Brings this node to the head, and tells how far it is.
//!
//! Owns what happens between a committed generation and the files of this node: taking generations in and giving them
//! out (`service`, `supply`, `intake`), adopting what the log commits (`task`), judging differences (`judge`), moving
//! files all or nothing (`reconcile`), what came out of a root (`displaced`), which folder is the right one (`mark`),
//! what a person wants back from quarantine (`restore`), the takeover by a new manager (`office`), the hand-over of late
//! changes to it (`handover`, `offer`, `taking`, `limits`), and an ordinary node's files (`files`). Invariants: files move only to generations of this node's own applied
//! log, never back; what a person or a gateway wrote is in quarantine before it is dropped; files that match are not
//! touched; nothing is written to a root that does not carry this node's mark.
//!
//! Leaves to others what the head is, who is manager, and what is published.

mod bump;
mod contact;
mod displaced;
mod error;
mod files;
mod handover;
mod intake;
mod judge;
mod limits;
mod mark;
mod offer;
mod office;
mod outlook;
mod own_files;
mod own_writes;
mod owner;
mod reconcile;
mod redeploy;
mod rejected;
mod restore;
mod roots;
mod service;
mod stages;
mod status;
mod supply;
mod taking;
mod task;
mod tell;

pub use error::ApplyError;
pub use judge::{DriftPolicy, Quiet};
pub use mark::{RootProblem, is_marked, lay_mark_aside};
pub use offer::{Answer, Offer, Offerer, PeerOfferer};
pub use owner::{is_own, unknown_names};
pub use restore::{Restorer, Wanted};
pub use service::Stager;
pub use status::{ApplyStatus, Observer, Unobserved};
pub use supply::{PeerSupplier, Supplier, SupplyError};
pub use taking::Taker;
pub use task::{ApplyHandle, ApplyTask, ApplyTaskError, Config, Parts, new};

#[cfg(test)]
mod testing;
