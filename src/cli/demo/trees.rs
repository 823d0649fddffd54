//! Compares folders by walking them, sharing nothing with how the daemon does it.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What a folder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) files: usize,
    /// Over the sorted paths and contents.
    pub(super) digest: blake3::Hash,
}

/// Walks `root`, without the workshop that each node keeps for itself.
pub(super) fn digest(root: &Path) -> io::Result<Tree> {
    let mut found = BTreeMap::new();
    collect(root, root, &mut found)?;
    let mut hasher = blake3::Hasher::new();
    for (path, content) in &found {
        hasher.update(path.as_os_str().as_bytes()).update(b"\0");
        match content {
            Some(content) => hasher.update(b"file").update(content.as_bytes()),
            None => hasher.update(b"folder"),
        };
    }
    let files = found.values().flatten().count();
    Ok(Tree { files, digest: hasher.finalize() })
}

fn collect(
    root: &Path,
    folder: &Path,
    found: &mut BTreeMap<PathBuf, Option<blake3::Hash>>,
) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let relative = path.strip_prefix(root).map_err(io::Error::other)?.to_owned();
        if relative.as_os_str() == ".syncd" {
            continue;
        }
        if std::fs::symlink_metadata(&path)?.is_dir() {
            found.insert(relative, None);
            collect(root, &path, found)?;
        } else {
            found.insert(relative, Some(blake3::hash(&std::fs::read(&path)?)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_difference_shows_and_the_workshop_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/x.xml", "1");
        let before = digest(folder.path()).unwrap();
        assert_eq!(before.files, 1);
        write(".syncd/member", "own");
        assert_eq!(digest(folder.path()).unwrap(), before);
        write("a/x.xml", "2");
        assert_ne!(digest(folder.path()).unwrap(), before);
        write("a/x.xml", "1");
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        assert_ne!(digest(folder.path()).unwrap(), before);
    }
}
