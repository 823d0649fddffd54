//! What the kernel says of one name.

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags};

use crate::model::FileTime;

/// What kind of thing a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// What is mounted here, or lies on another device: it hides what the root itself has here.
    Mount,
    /// A socket, pipe or device: nothing that syncd carries.
    Other,
}

/// What the kernel says of one name; links are not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, 0o777 at most.
    pub mode: u32,
    /// Length in bytes.
    pub size: u64,
    /// When its content changed; anyone may set it.
    pub mtime: FileTime,
    /// When anything of it changed; no one can set it.
    pub ctime: FileTime,
    /// Its number on its device.
    pub inode: u64,
    /// Its device.
    pub device: u64,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Stat {
    /// Stats `name` in `folder`, or with an empty name `folder` itself. What lies on another device than
    /// `home`, or is mounted there, is [`Kind::Mount`].
    pub(super) fn of(folder: impl AsFd, name: &[u8], home: u64) -> rustix::io::Result<Self> {
        let mut flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        if name.is_empty() {
            flags |= AtFlags::EMPTY_PATH;
        }
        let raw = rustix::io::retry_on_intr(|| {
            rustix::fs::statx(folder.as_fd(), name, flags, StatxFlags::BASIC_STATS)
        })?;
        let mut stat = Self::from_raw(&raw);
        if !name.is_empty() && lies_elsewhere(&raw, &stat, home) {
            stat.kind = Kind::Mount;
        }
        Ok(stat)
    }

    fn from_raw(raw: &Statx) -> Self {
        let kind = match FileType::from_raw_mode(raw.stx_mode.into()) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Link,
            _ => Kind::Other,
        };
        Self {
            kind,
            mode: u32::from(raw.stx_mode) & 0o777,
            size: raw.stx_size,
            mtime: FileTime { seconds: raw.stx_mtime.tv_sec, nanos: raw.stx_mtime.tv_nsec },
            ctime: FileTime { seconds: raw.stx_ctime.tv_sec, nanos: raw.stx_ctime.tv_nsec },
            inode: raw.stx_ino,
            device: rustix::fs::makedev(raw.stx_dev_major, raw.stx_dev_minor),
            uid: raw.stx_uid,
            gid: raw.stx_gid,
        }
    }

    /// Whether both are one and the same file, however it changed in between.
    pub(super) fn same_file(&self, other: &Self) -> bool {
        self.inode == other.inode && self.device == other.device && self.kind == other.kind
    }
}

/// A file's device number may differ from its folder's on an overlay although both are one mount, so a kernel that
/// names mount points is believed before numbers are; a folder on another device can't be renamed into in any case.
fn lies_elsewhere(raw: &Statx, stat: &Stat, home: u64) -> bool {
    let knows = raw.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
    if knows && raw.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return true;
    }
    stat.device != home && (!knows || stat.kind == Kind::Folder)
}
