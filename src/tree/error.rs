//! What goes wrong in an artifact folder.

use std::io;

use rustix::io::Errno;

use crate::model::ContentHash;

/// What went wrong in an artifact folder. Paths are escaped for people.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Nothing is at the configured path of a root.
    #[error("the folder {path} is not there")]
    Missing {
        /// The root's configured path.
        path: String,
    },
    /// Something else than a folder is at the configured path of a root.
    #[error("{path} is not a folder")]
    NotAFolder {
        /// The root's configured path.
        path: String,
    },
    /// The configured path of a root leads to another folder than the one that was opened.
    #[error("another folder took the place of {path}")]
    Replaced {
        /// The root's configured path.
        path: String,
    },
    /// The configured path of a root leads to another device than the one that was opened.
    #[error("{path} lies on another file system than before: something was mounted or unmounted")]
    OtherDevice {
        /// The root's configured path.
        path: String,
    },
    /// A call failed.
    #[error("can't {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A regular file was expected.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// What is none.
        path: String,
    },
    /// Nothing is at a path that was to be replaced.
    #[error("{path} is not there any more")]
    Gone {
        /// The path.
        path: String,
    },
    /// Something is mounted over what the root has at a path.
    #[error("something is mounted at {path}, which hides what is there: unmount or exclude it")]
    Mounted {
        /// The path.
        path: String,
    },
    /// A file is larger than syncd carries.
    #[error("{path} has {bytes} bytes, more than the {max} that are carried")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Content that was to be staged is not what was announced.
    #[error(
        "the content staged for {path} is not the one announced: {actual_bytes} bytes with hash {actual}, \
         not {expected_bytes} bytes with hash {expected}"
    )]
    Mismatch {
        /// The staged name.
        path: String,
        /// The announced hash.
        expected: ContentHash,
        /// The announced size.
        expected_bytes: u64,
        /// The hash of what came, as far as it was read.
        actual: ContentHash,
        /// The size of what came, as far as it was read.
        actual_bytes: u64,
    },
    /// `.syncd`, or a folder in it, is a link, a file or a mount.
    #[error("{path} is not a plain folder, so syncd keeps nothing in it")]
    ForeignWorkshop {
        /// Its path.
        path: String,
    },
}

impl TreeError {
    /// Turns what the kernel said into an error.
    pub(super) fn io(operation: &'static str, path: impl ToString, errno: Errno) -> Self {
        Self::Io { operation, path: path.to_string(), source: errno.into() }
    }

    /// Whether no space or no quota is left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// Whether there is simply nothing at the path, or no folder above it.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Gone { .. } => true,
            Self::Io { source, .. } => {
                source.raw_os_error().is_some_and(|code| says_absent(Errno::from_raw_os_error(code)))
            }
            _ => false,
        }
    }
}

/// Whether the kernel says that no artifact can be at a path: nothing there, or a link or file among the folders
/// above it.
pub(super) fn says_absent(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}
