//! Why a message was not taken.

use crate::model::PathError;
use crate::wire::LinkError;

/// A message that breaks the protocol. Display names no content.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A path is one of syncd's own, which no generation has.
    #[error("the path {path} is syncd's own")]
    OwnPath {
        /// The path.
        path: String,
    },
    /// A part that must be there is not.
    #[error("{what} is missing")]
    Missing {
        /// Which part.
        what: &'static str,
    },
    /// A part has a value that it cannot have.
    #[error("{what} is {value}, {expected} was expected")]
    Value {
        /// Which part.
        what: &'static str,
        /// What it is.
        value: u64,
        /// What it could be.
        expected: &'static str,
    },
    /// A part is longer than is taken.
    #[error("{what} has {found}, {max} are taken")]
    TooMuch {
        /// Which part.
        what: &'static str,
        /// How long it is.
        found: u64,
        /// How long it may be.
        max: u64,
    },
    /// A hash or digest is not 32 bytes long.
    #[error("{what} has {bytes} bytes, 32 were expected")]
    Hash {
        /// Which part.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A path that could lead outside its root.
    #[error("a path is refused")]
    Path(#[from] PathError),
    /// A link that could lead outside its root.
    #[error("the link {path} is refused")]
    Link {
        /// The link, escaped for people.
        path: String,
        /// Why.
        #[source]
        source: LinkError,
    },
    /// A name that is empty, too long, or holds control characters.
    #[error("{what} is no name")]
    Name {
        /// Which part.
        what: &'static str,
    },
    /// Things that must be in order and unique are not.
    #[error("{what} are not in ascending order")]
    Order {
        /// Which things.
        what: &'static str,
    },
}
