//! Why a publish failed as a whole.

use std::io;

use crate::delta::ParcelError;
use crate::model::ManifestError;
use crate::plan::PatternError;
use crate::store::StoreError;

/// A publish that failed for a reason of this node's own.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The store failed.
    #[error("putting the new generation into the store failed")]
    Store(#[from] StoreError),
    /// The parcel could not be encoded.
    #[error("encoding the new generation failed")]
    Encode(#[from] ParcelError),
    /// The encoded parcel could not be kept.
    #[error("keeping the encoded generation failed")]
    Spool(#[source] io::Error),
    /// What was put together is no tree.
    #[error("the new generation makes no tree")]
    NoTree(#[from] ManifestError),
    /// A pattern of the rules is none.
    #[error("the rules can't be read")]
    Rules(#[from] PatternError),
    /// A blocking step ended in a way that should be impossible.
    #[error("a step of the publish failed")]
    Step(#[from] tokio::task::JoinError),
}

impl PublishError {
    /// Whether the daemon had better end.
    pub(super) fn is_fatal(&self) -> bool {
        match self {
            Self::Store(error) => error.is_fatal(),
            Self::Step(_) => true,
            _ => false,
        }
    }
}
