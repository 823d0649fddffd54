//! The name of one artifact inside its root.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest path that is carried, in bytes; the kernel's own limit for one call.
pub const PATH_BYTES_MAX: usize = 4095;
/// Longest name of one component, in bytes; the limit of the common file systems.
pub const NAME_BYTES_MAX: usize = 255;
/// Most components of one path; bounds recursion over peers' trees.
pub const PATH_DEPTH_MAX: usize = 128;

/// A relative path of plain names: never empty, never absolute, no `.`, no `..`, no NUL; any other bytes.
///
/// Ordered bytewise. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArtifactPath(Arc<[u8]>);

/// Why some bytes are no [`ArtifactPath`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    /// The path, or one of its components, is empty.
    #[error("a path component is empty")]
    Empty,
    /// A component is `.` or `..`.
    #[error("a path component is `.` or `..`")]
    Dots,
    /// A NUL byte.
    #[error("a path holds a NUL byte")]
    Nul,
    /// Longer or deeper than is carried.
    #[error(
        "a path is longer than {PATH_BYTES_MAX} bytes, deeper than {PATH_DEPTH_MAX} folders, or has a name over {NAME_BYTES_MAX} bytes"
    )]
    TooLong,
}

impl ArtifactPath {
    /// Checks `bytes`, which a peer or a folder listing may have supplied.
    ///
    /// # Errors
    /// [`PathError`] when a component could lead outside the root or exceeds a bound.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        let mut depth = 0;
        for name in bytes.split(|byte| *byte == b'/') {
            check_name(name)?;
            depth += 1;
        }
        if depth > PATH_DEPTH_MAX {
            return Err(PathError::TooLong);
        }
        Ok(Self(bytes.into()))
    }

    /// The child `name` of `folder`, or of the root itself when `folder` is none.
    ///
    /// # Errors
    /// As [`ArtifactPath::new`].
    pub fn child(folder: Option<&Self>, name: &[u8]) -> Result<Self, PathError> {
        check_name(name)?;
        let mut bytes = folder.map_or_else(Vec::new, |folder| {
            let mut bytes = Vec::with_capacity(folder.0.len() + 1 + name.len());
            bytes.extend_from_slice(&folder.0);
            bytes.push(b'/');
            bytes
        });
        bytes.extend_from_slice(name);
        Self::new(&bytes)
    }

    /// The path as bytes, without a leading or trailing slash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for calls of the standard library, still relative.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The folder that holds this path; none when that is the root itself.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let slash = self.0.iter().rposition(|byte| *byte == b'/')?;
        Some(Self(self.0[..slash].into()))
    }

    /// The last component.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => &self.0[slash + 1..],
            None => &self.0,
        }
    }

    /// The components from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/')
    }

    /// Whether this path lies somewhere below `folder`.
    #[must_use]
    pub fn is_below(&self, folder: &Self) -> bool {
        self.0.len() > folder.0.len() && self.0.starts_with(&folder.0) && self.0[folder.0.len()] == b'/'
    }
}

fn check_name(name: &[u8]) -> Result<(), PathError> {
    match name {
        b"" => Err(PathError::Empty),
        b"." | b".." => Err(PathError::Dots),
        _ if name.len() > NAME_BYTES_MAX => Err(PathError::TooLong),
        _ if name.contains(&0) => Err(PathError::Nul),
        _ if name.contains(&b'/') => Err(PathError::Empty),
        _ => Ok(()),
    }
}

/// For people: printable UTF-8 as it is, everything else escaped, so that a name can forge no log line.
impl fmt::Display for ArtifactPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                if char.is_control() || char == '\\' {
                    write!(f, "{}", char.escape_default())?;
                } else {
                    write!(f, "{char}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ArtifactPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for ArtifactPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for ArtifactPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        Self::new(&bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_names_are_paths() {
        for good in [&b"a"[..], b"a/b.xml", b"...", b"a b/{c}\"'\n", b"\xff\xfe/x"] {
            assert_eq!(ArtifactPath::new(good).unwrap().as_bytes(), good);
        }
        for bad in [&b""[..], b"/", b"/a", b"a/", b"a//b", b".", b"a/..", b"../a", b"a/./b", b"a\0b"] {
            assert!(ArtifactPath::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(ArtifactPath::new(&[b'x'; 256]), Err(PathError::TooLong));
        let deep = vec![b"d".as_slice(); PATH_DEPTH_MAX + 1].join(&b'/');
        assert_eq!(ArtifactPath::new(&deep), Err(PathError::TooLong));
    }

    #[test]
    fn families() {
        let path = ArtifactPath::new(b"default/api/a.xml").unwrap();
        let folder = path.parent().unwrap();
        assert_eq!(folder.as_bytes(), b"default/api");
        assert_eq!(path.name(), b"a.xml");
        assert_eq!(ArtifactPath::child(Some(&folder), b"a.xml").unwrap(), path);
        assert!(path.is_below(&folder));
        assert!(!ArtifactPath::new(b"default/api2").unwrap().is_below(&folder));
        assert_eq!(ArtifactPath::new(b"x").unwrap().parent(), None);
    }

    #[test]
    fn a_name_forges_no_log_line() {
        let path = ArtifactPath::new(b"a\nb\\\xff\x1b[2J").unwrap();
        assert_eq!(path.to_string(), "a\\nb\\\\\\xff\\u{1b}[2J");
    }
}
