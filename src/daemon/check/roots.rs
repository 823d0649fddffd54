//! The artifact folders: there, readable, writable, on a file system that can do what applying needs.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use crate::apply;
use crate::daemon::check::{Findings, bytes, probe};
use crate::daemon::config::{Config, Root};
use crate::tree::WORKSHOP;

/// A file system with less than this can't take the next change.
const ROOM_MIN: u64 = 16 << 20;
/// So many things are looked at in one root; beyond it the counts say "at least".
const LOOKED_AT_MAX: u64 = 2_000_000;
/// File systems that other hosts write to: no events come for what those do.
const SHARED: [&str; 9] =
    ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs"];

/// What all roots hold together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub folders: u64,
    pub bytes: u64,
}

/// One root, walked.
#[derive(Default)]
struct Found {
    held: Held,
    files: u64,
    unreadable: Vec<PathBuf>,
    unwritable: Vec<PathBuf>,
    mounts: Vec<PathBuf>,
    cut: bool,
}

/// Looks at each root; says what they hold together.
pub(super) fn check(findings: &mut Findings, config: &Config) -> Held {
    let mut all = Held::default();
    for root in config.synced_roots() {
        let Ok(meta) = fs::metadata(&root.path) else {
            // Not there: said as a mistake of the configuration, unless it may be absent.
            if root.optional {
                findings.ok(("root", &subject(root)), "it is not there, and it may be absent");
            }
            continue;
        };
        if !meta.is_dir() {
            continue;
        }
        let found = look(&root.path, meta.dev());
        access(findings, root, &found);
        file_system(findings, root, &found);
        workshop(findings, root, meta.dev());
        owner(findings, root);
        all.folders += found.held.folders;
        all.bytes += found.held.bytes;
    }
    all
}

fn subject(root: &Root) -> String {
    format!("{} ({})", root.name, root.path.display())
}

/// Walks a root; links are not followed, mounts not entered, syncd's own folder left out.
fn look(root: &Path, device: u64) -> Found {
    let mut found = Found::default();
    let mut todo = vec![root.to_owned()];
    let mut seen = 0;
    while let Some(folder) = todo.pop() {
        found.held.folders += 1;
        if probe::may(&folder, Access::WRITE_OK | Access::EXEC_OK).is_err() {
            found.unwritable.push(folder.clone());
        }
        let Ok(listing) = fs::read_dir(&folder) else {
            found.unreadable.push(folder);
            continue;
        };
        for entry in listing.flatten() {
            seen += 1;
            if seen > LOOKED_AT_MAX {
                found.cut = true;
                return found;
            }
            if folder == root && entry.file_name() == OsStr::from_bytes(WORKSHOP) {
                continue;
            }
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() && meta.dev() != device {
                found.mounts.push(entry.path());
            } else if meta.is_dir() {
                todo.push(entry.path());
            } else if meta.is_file() {
                found.files += 1;
                found.held.bytes += meta.len();
                if probe::may(&entry.path(), Access::READ_OK).is_err() {
                    found.unreadable.push(entry.path());
                }
            }
        }
    }
    found
}

fn access(findings: &mut Findings, root: &Root, found: &Found) {
    let subject = subject(root);
    let user = rustix::process::geteuid().as_raw();
    let named = |paths: &[PathBuf]| match paths {
        [] => String::new(),
        [one] => one.display().to_string(),
        [first, rest @ ..] => format!("{} and {} more", first.display(), rest.len()),
    };
    let mut fine = true;
    if !found.unreadable.is_empty() {
        fine = false;
        findings.error(
            ("root-access", &subject),
            format!("user {user} can't read {}", named(&found.unreadable)),
            "run syncd as the gateway's own user, or give that user permission to read",
        );
    }
    if !found.unwritable.is_empty() {
        fine = false;
        findings.error(
            ("root-access", &subject),
            format!("user {user} can't write in {}", named(&found.unwritable)),
            "run syncd as the gateway's own user, or give that user permission to write",
        );
    }
    for mount in &found.mounts {
        findings.warning(
            ("root-mount", &subject),
            format!("another file system is mounted at {}: what lies there is not carried", mount.display()),
            "make it a root of its own, or unmount it",
        );
    }
    if fine {
        let least = if found.cut { "at least " } else { "" };
        findings.ok(
            ("root-access", &subject),
            format!(
                "user {user} reads and writes all of it: {least}{} files in {} folders, {}",
                found.files,
                found.held.folders,
                bytes(found.held.bytes)
            ),
        );
    }
}

fn file_system(findings: &mut Findings, root: &Root, found: &Found) {
    let subject = subject(root);
    match probe::mount_of(&root.path) {
        Some(mount) => {
            let place = format!("{} on {}, mounted at {}", mount.kind, mount.source, mount.point.display());
            if mount.read_only {
                findings.error(
                    ("root-mount", &subject),
                    format!("it lies on {place}, which is read-only"),
                    format!("mount it for writing: mount -o remount,rw {}", mount.point.display()),
                );
            } else if SHARED.contains(&mount.kind.as_str()) {
                findings.warning(
                    ("root-mount", &subject),
                    format!("it lies on {place}: the kernel tells nothing of what other hosts change there"),
                    "give each node a local folder; if the nodes share one on purpose, set mode = \"shared-fs\"",
                );
            } else {
                findings.ok(("root-mount", &subject), format!("it lies on {place}"));
            }
        }
        None => findings.warning(
            ("root-mount", &subject),
            "the mount table (/proc/self/mountinfo) can't be read, so nothing is known of its file system",
            "mount /proc in this environment",
        ),
    }
    match probe::room(&root.path) {
        Ok(room) if room.bytes < ROOM_MIN || room.files.is_some_and(|files| files < 100) => findings.error(
            ("root-space", &subject),
            format!("its file system is full: {} free", bytes(room.bytes)),
            "make room: a change is staged beside the files before it replaces them",
        ),
        Ok(room) if room.bytes < found.held.bytes => findings.warning(
            ("root-space", &subject),
            format!(
                "its file system has {} free, less than the {} that a change of everything stages",
                bytes(room.bytes),
                bytes(found.held.bytes)
            ),
            "make room on it",
        ),
        Ok(room) => {
            findings.ok(("root-space", &subject), format!("its file system has {} free", bytes(room.bytes)));
        }
        Err(error) => findings.error(
            ("root-space", &subject),
            format!("its file system does not answer: {error}"),
            "see the cause",
        ),
    }
}

fn workshop(findings: &mut Findings, root: &Root, device: u64) {
    let subject = subject(root);
    if !probe::has_openat2(&root.path) {
        findings.warning(
            ("root-confinement", &subject),
            "openat2 does not work here, so paths are opened folder by folder, which is slower",
            "use Linux 5.6 or later, and let the sandbox allow openat2",
        );
    } else {
        findings.ok(("root-confinement", &subject), "openat2 works here");
    }
    let own = root.path.join(OsStr::from_bytes(WORKSHOP));
    let meta = match fs::symlink_metadata(&own) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            findings.ok(
                ("root-exchange", &subject),
                "not tried: the folder .syncd, in which it could be, is made when this node joins a cluster",
            );
            return;
        }
        Err(error) => {
            findings.error(
                ("root-exchange", &subject),
                format!("{} can't be looked at: {error}", own.display()),
                "let the daemon's user own it",
            );
            return;
        }
    };
    if !meta.is_dir() || meta.dev() != device {
        findings.error(
            ("root-exchange", &subject),
            format!("{} is not a folder on the root's own file system", own.display()),
            "move it away; syncd makes it anew",
        );
        return;
    }
    match probe::exchange_in(&own) {
        Ok(true) => {
            findings.ok(("root-exchange", &subject), "files can be exchanged in one step (RENAME_EXCHANGE)");
        }
        Ok(false) => findings.warning(
            ("root-exchange", &subject),
            "this file system can't exchange two files in one step (RENAME_EXCHANGE), so a file is linked aside \
             before it is replaced",
            "use a local file system such as ext4 or xfs",
        ),
        Err(error) => findings.error(
            ("root-exchange", &subject),
            format!("no file can be made in {}: {error}", own.display()),
            "let the daemon's user own it",
        ),
    }
}

fn owner(findings: &mut Findings, root: &Root) {
    let (owner, group) = (&root.rules.owner, &root.rules.group);
    if owner.is_none() && group.is_none() {
        return;
    }
    let subject = subject(root);
    let unknown = apply::unknown_names(&root.rules);
    for why in &unknown {
        findings.error(
            ("root-owner", &subject),
            format!("{why}, so files would belong to the daemon's own user"),
            "create it on this host, or correct the root's owner and group",
        );
    }
    if !unknown.is_empty() {
        return;
    }
    let named = [owner, group].into_iter().flatten().cloned().collect::<Vec<_>>().join(":");
    // Whoever may give files away is root, or has CAP_CHOWN, which only the kernel can tell.
    if rustix::process::geteuid().is_root() || apply::is_own(&root.rules) {
        findings.ok(("root-owner", &subject), format!("files will belong to {named}"));
    } else {
        findings.warning(
            ("root-owner", &subject),
            format!("files are to belong to {named}, and this user may not be allowed to give files away"),
            "run the check as the daemon's user; run the daemon as that owner, or give it CAP_CHOWN",
        );
    }
}
