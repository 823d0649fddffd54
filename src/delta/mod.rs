//! How content travels.
//!
//! Owns the body of a parcel: one zstd frame with the changes and the contents that come with them. Knows neither
//! sockets nor disks: it reads and writes streams. Leaves checking contents against their hashes to who stores them.

mod chunks;
mod error;
mod parcel;

pub use chunks::{CHUNK_BYTES, ChunkReader, ChunkWriter};
pub use error::ParcelError;
pub use parcel::{Decoder, encode, header};
