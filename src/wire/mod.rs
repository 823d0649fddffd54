//! The generated protocol, and its conversion from and to the model.
//!
//! Every message is checked here when it comes in: whoever gets a model value from this room need not distrust it.
//! Owns the bounds of what a peer may say; leaves how messages travel to `rpc`, and parcels' bodies to `delta`.

mod change;
mod error;
mod header;
mod link;

pub use change::{Coming, FILE_BYTES_MAX, change_from, change_to, place_from, time_from, time_to};
pub use error::WireError;
pub use header::{CHANGES_MAX, Header, root_name};
pub use link::{LinkError, check_link};

/// The messages and services of `proto/syncd.proto`.
#[allow(missing_docs, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("syncd.v1");
}
