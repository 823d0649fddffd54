//! Why a parcel could not be written or read.

use std::io;

use crate::model::ContentHash;
use crate::wire::WireError;

/// A parcel that failed.
#[derive(Debug, thiserror::Error)]
pub enum ParcelError {
    /// The stream beneath failed, or its compression is damaged.
    #[error("the parcel's stream failed")]
    Stream(#[from] io::Error),
    /// A change that is refused.
    #[error("a change of the parcel is refused")]
    Change(#[source] WireError),
    /// A change that cannot be decoded.
    #[error("a change of the parcel cannot be decoded")]
    Decode(#[from] prost::DecodeError),
    /// The body is not what the header says, or exceeds a bound.
    #[error("the parcel breaks its bounds: {what}")]
    Bounds {
        /// What does not fit.
        what: &'static str,
    },
    /// A patch that does not make what was announced of the old version that is here.
    #[error("a patch can't be used: {what}")]
    Patch {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A content to be sent does not have the size that its entry says.
    #[error("content {hash} has not {size} bytes")]
    Size {
        /// The content.
        hash: ContentHash,
        /// The size that was announced.
        size: u64,
    },
}
