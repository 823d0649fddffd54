//! How content travels.
//!
//! Owns the body of a parcel: the changes as a list against what both sides have, patches of what both have an older
//! version of, and the contents that come whole. Knows neither sockets nor disks: it reads and writes streams, and is
//! handed what contents it asks for. Leaves to who stores a generation that its digest proves every hash in it.

mod chunks;
mod error;
mod list;
mod moves;
mod parcel;
mod patch;
mod signature;

pub use chunks::{CHUNK_BYTES, ChunkReader, ChunkWriter};
pub use error::ParcelError;
pub use parcel::{Base, Encoder, Kind, Run, Tally, decode, tally};
pub use patch::{Engine, PATCHED_BYTES_MAX, apply, make};
pub use signature::{SIGNATURES_BYTES_MAX, SIGNATURES_MAX, SIGNED_BYTES_MIN, Signature};
