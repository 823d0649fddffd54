//! Why this node could not be brought to a generation, and what a person can do about it.

use std::error::Error;

use crate::apply::RootProblem;
use crate::model::{Place, RootName};
use crate::store::StoreError;
use crate::tree::TreeError;

/// An apply that failed. The files are at the generation they were at before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// A root can't be written to at all.
    #[error("can't work in root {root}")]
    Root {
        /// The root.
        root: RootName,
        /// Why.
        #[source]
        source: Box<TreeError>,
    },
    /// A root is not the one that this node joined with.
    #[error("root {root} can't be used: {problem}")]
    Unusable {
        /// The root.
        root: RootName,
        /// Why.
        problem: RootProblem,
    },
    /// One place can't be changed.
    #[error("can't change {place}")]
    Place {
        /// Where.
        place: Place,
        /// Why.
        #[source]
        source: Box<TreeError>,
    },
    /// Something that syncd neither carries nor deletes is where a file or folder is to be.
    #[error(
        "something that syncd may not remove is in the way of {place}: excluded files in a folder, or a device"
    )]
    Blocked {
        /// Where.
        place: Place,
    },
    /// A place was changed by somebody else each time it was to be replaced.
    #[error("{place} is being changed by somebody else")]
    Restless {
        /// Where.
        place: Place,
    },
    /// What somebody wrote could not be copied to the quarantine, so it was put back.
    #[error("no copy of {place} could be put into quarantine")]
    Quarantine {
        /// Where.
        place: Place,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The daemon's own data failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl ApplyError {
    /// Turns what went wrong at `place` into an error.
    pub(super) fn at(place: &Place) -> impl Fn(TreeError) -> Self + Copy {
        move |source| Self::Place { place: place.clone(), source: Box::new(source) }
    }

    /// Turns what went wrong in `root` into an error.
    pub(super) fn within(root: &RootName) -> impl Fn(TreeError) -> Self + Copy {
        move |source| Self::Root { root: root.clone(), source: Box::new(source) }
    }

    /// The place it is about.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Place { place, .. }
            | Self::Blocked { place }
            | Self::Restless { place }
            | Self::Quarantine { place, .. } => Some(place),
            Self::Root { .. } | Self::Unusable { .. } | Self::Store(_) => None,
        }
    }

    /// The root it is about.
    #[must_use]
    pub fn root(&self) -> Option<&RootName> {
        match self {
            Self::Root { root, .. } | Self::Unusable { root, .. } => Some(root),
            other => other.place().map(|place| &place.root),
        }
    }

    /// This error and what caused it, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        use std::io::ErrorKind;
        let kind = match self {
            Self::Root { source, .. } | Self::Place { source, .. } => match &**source {
                TreeError::Io { source, .. } => Some(source.kind()),
                _ => None,
            },
            _ => None,
        };
        let remedy = match (self, kind) {
            (_, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) => {
                "free space on the root's file system; it is tried again by itself"
            }
            (_, Some(ErrorKind::ReadOnlyFilesystem)) => {
                "mount the root's file system writable; it is tried again by itself"
            }
            (_, Some(ErrorKind::PermissionDenied)) => {
                "let the daemon's user write there (run it as the gateway's user); it is tried again by itself"
            }
            (Self::Unusable { problem, .. }, _) => problem.remedy(),
            (Self::Blocked { .. }, _) => "move what lies there out of the root",
            (Self::Quarantine { source, .. } | Self::Store(source), _) if source.is_no_space() => {
                "free space on the file system of the data folder; it is tried again by itself"
            }
            (
                Self::Quarantine { source: StoreError::QuarantineFull { .. }, .. }
                | Self::Store(StoreError::QuarantineFull { .. }),
                _,
            ) => {
                "run `syncd quarantine drop` for what nobody needs any more, or raise sync.quarantine_max and restart"
            }
            _ => "see the daemon's log; it is tried again by itself",
        };
        remedy.to_owned()
    }
}
