//! Which symbolic links are carried: relative ones that stay in their root, whatever else lies in it.

use crate::model::{ArtifactPath, PATH_BYTES_MAX};

/// Why a link is not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No target, or one longer than the kernel takes.
    #[error("its target is empty or longer than {PATH_BYTES_MAX} bytes")]
    Length,
    /// It begins with a slash.
    #[error("its target is absolute")]
    Absolute,
    /// It leads above the root.
    #[error("its target lies outside the root")]
    Outside,
    /// `.`, an empty name, a NUL byte, or `..` after a name, where other links would decide what it means.
    #[error("its target is not `..`s followed by plain names")]
    Shape,
}

/// Checks the target of the link at `path`: `..` at most as often as `path` has folders, then plain names.
///
/// # Errors
/// [`LinkError`] when the target could lead outside the root.
pub fn check_link(path: &ArtifactPath, target: &[u8]) -> Result<(), LinkError> {
    if target.is_empty() || target.len() > PATH_BYTES_MAX {
        return Err(LinkError::Length);
    }
    if target[0] == b'/' {
        return Err(LinkError::Absolute);
    }
    let depth = path.components().count() - 1;
    let mut ups = 0;
    let mut named = false;
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b".." if named => return Err(LinkError::Shape),
            b".." => ups += 1,
            b"" | b"." => return Err(LinkError::Shape),
            _ if name.contains(&0) => return Err(LinkError::Shape),
            _ => named = true,
        }
    }
    if ups > depth { Err(LinkError::Outside) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_in_its_root() {
        let check =
            |path: &str, target: &[u8]| check_link(&ArtifactPath::new(path.as_bytes()).unwrap(), target);
        for (path, target) in [
            ("a", &b"b"[..]),
            ("a", b"b/c"),
            ("d/a", b"../b"),
            ("d/e/a", b"../../b/c"),
            ("d/a", b".."),
            ("a", b"...x/\xff"),
        ] {
            assert_eq!(check(path, target), Ok(()), "{path} -> {target:?}");
        }
        for (path, target, error) in [
            ("a", &b""[..], LinkError::Length),
            ("a", &[b'x'; 4096], LinkError::Length),
            ("a", b"/etc/passwd", LinkError::Absolute),
            ("a", b"..", LinkError::Outside),
            ("d/a", b"../../b", LinkError::Outside),
            ("d/a", b"b/../..", LinkError::Shape),
            ("d/a", b"./b", LinkError::Shape),
            ("d/a", b"b//c", LinkError::Shape),
            ("d/a", b"b/", LinkError::Shape),
            ("d/a", b"b\0", LinkError::Shape),
        ] {
            assert_eq!(check(path, target), Err(error), "{path} -> {target:?}");
        }
    }
}
