//! Small questions to the kernel: access, free space, mounts, renames.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

/// A mount, as the kernel's table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub point: PathBuf,
    pub kind: String,
    pub source: String,
    pub read_only: bool,
}

/// Free space of a file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub bytes: u64,
    /// Files that may still be made; none where the file system does not count them.
    pub files: Option<u64>,
}

/// Whether this process may do `access` at `path`, by its effective user.
pub(super) fn may(path: &Path, access: Access) -> Result<(), Errno> {
    rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS)
}

/// The free space of the file system of `path`.
pub(super) fn room(path: &Path) -> Result<Room, Errno> {
    let found = rustix::fs::statvfs(path)?;
    Ok(Room {
        bytes: found.f_bavail.saturating_mul(found.f_frsize),
        files: (found.f_files > 0).then_some(found.f_favail),
    })
}

/// The mount that `path` lies on; none when the table can't be read.
pub(super) fn mount_of(path: &Path) -> Option<Mount> {
    let real = path.canonicalize().ok()?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mount_in(&table, &real)
}

/// The last of the deepest mounts above `path`: a later one at the same point hides the earlier.
fn mount_in(table: &str, path: &Path) -> Option<Mount> {
    let mut best: Option<Mount> = None;
    for line in table.lines() {
        // Optional fields end with a lone dash; what the file system says of itself comes after it.
        let Some((own, system)) = line.split_once(" - ") else { continue };
        let own: Vec<&str> = own.split(' ').collect();
        let system: Vec<&str> = system.split(' ').collect();
        let ([_, _, _, _, point, options, ..], [kind, source, rest @ ..]) = (&own[..], &system[..]) else {
            continue;
        };
        let point = PathBuf::from(unescape(point));
        if !path.starts_with(&point)
            || best.as_ref().is_some_and(|best| best.point.as_os_str().len() > point.as_os_str().len())
        {
            continue;
        }
        let is_ro = |options: &str| options.split(',').any(|option| option == "ro");
        best = Some(Mount {
            point,
            kind: (*kind).to_owned(),
            source: unescape(source),
            read_only: is_ro(options) || rest.first().is_some_and(|options| is_ro(options)),
        });
    }
    best
}

/// The table writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 4);
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                plain.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    plain + rest
}

/// Whether the kernel keeps a path beneath a folder by itself.
pub(super) fn has_openat2(folder: &Path) -> bool {
    let handle = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let Ok(handle) = handle else { return false };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    !matches!(
        rustix::fs::openat2(handle, ".", flags, Mode::empty(), resolve),
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::TOOBIG)
    )
}

/// Tries an exchange of two files in `folder`, which is syncd's own; removes both again.
pub(super) fn exchange_in(folder: &Path) -> std::io::Result<bool> {
    let names = [0, 1].map(|number| folder.join(format!("check-{}-{number}", std::process::id())));
    let tried = names.iter().try_for_each(|name| File::create_new(name).map(drop)).and_then(|()| {
        match rustix::fs::renameat_with(CWD, &names[0], CWD, &names[1], RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    });
    for name in &names {
        match std::fs::remove_file(name) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    tried
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_and_last_mount_counts() {
        let table = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /srv/my\\040share rw,relatime - nfs4 nas:/a ro,vers=4.2
31 22 0:41 / /srv rw - tmpfs first rw
32 22 0:42 / /srv ro,nosuid - tmpfs second rw
broken";
        let found = |path: &str| mount_in(table, Path::new(path)).unwrap();
        assert_eq!((found("/etc").source.as_str(), found("/etc").read_only), ("/dev/sda1", false));
        assert_eq!((found("/srv/x").source.as_str(), found("/srv/x").read_only), ("second", true));
        let share = found("/srv/my share/default");
        assert_eq!((share.kind.as_str(), share.read_only), ("nfs4", true));
        assert_eq!(found("/srvx").point, Path::new("/"));
        assert_eq!(mount_in("", Path::new("/")), None);
    }

    #[test]
    fn an_exchange_is_tried_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        exchange_in(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(exchange_in(&folder.path().join("missing")).is_err());
    }
}
