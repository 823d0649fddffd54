//! One artifact folder, opened once.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RawDir, RenameFlags, Timespec, Timestamps, Uid};
use rustix::io::{Errno, retry_on_intr};

use crate::model::{ArtifactPath, FileTime, RootName};
use crate::tree::beneath::Confinement;
use crate::tree::error::says_absent;
use crate::tree::{Kind, Stat, TreeError, WORKSHOP, Workshop};

/// A handle on a folder to look things up in.
pub(super) const HANDLE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
/// A folder opened to be listed or synced.
pub(super) const LISTING: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Which folder on which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The device.
    pub device: u64,
    /// The folder's number on it.
    pub inode: u64,
}

/// One artifact folder, opened once; all operations stay beneath it.
#[derive(Debug)]
pub struct Root {
    name: RootName,
    path: PathBuf,
    handle: OwnedFd,
    identity: Identity,
    confinement: Confinement,
}

impl Root {
    /// Opens the folder at `path`; a link there is followed.
    ///
    /// # Errors
    /// [`TreeError::Missing`], [`TreeError::NotAFolder`], [`TreeError::Io`].
    pub fn open(name: RootName, path: &Path) -> Result<Self, TreeError> {
        let shown = || path.display().to_string();
        let flags = HANDLE | OFlags::CLOEXEC;
        let handle =
            retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())).map_err(|errno| match errno {
                Errno::NOENT => TreeError::Missing { path: shown() },
                Errno::NOTDIR => TreeError::NotAFolder { path: shown() },
                errno => TreeError::io("open", shown(), errno),
            })?;
        let stat = Stat::of(&handle, b"", 0).map_err(|errno| TreeError::io("stat", shown(), errno))?;
        let identity = Identity { device: stat.device, inode: stat.inode };
        let confinement = Confinement::probe(&handle);
        Ok(Self { name, path: path.to_owned(), handle, identity, confinement })
    }

    /// As on a host with other means.
    #[cfg(test)]
    pub(super) fn confined_by(self, confinement: Confinement) -> Self {
        Self { confinement, ..self }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &RootName {
        &self.name
    }

    /// Its configured path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which folder was opened.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Checks that the configured path still leads to the folder that was opened.
    ///
    /// # Errors
    /// [`TreeError::Missing`], [`TreeError::NotAFolder`], [`TreeError::Replaced`], [`TreeError::OtherDevice`] or
    /// [`TreeError::Io`].
    pub fn still_there(&self) -> Result<(), TreeError> {
        let now = Self::open(self.name.clone(), &self.path)?.identity;
        let path = || self.path.display().to_string();
        match now {
            same if same == self.identity => Ok(()),
            other if other.device != self.identity.device => Err(TreeError::OtherDevice { path: path() }),
            _ => Err(TreeError::Replaced { path: path() }),
        }
    }

    /// Stats what is at `path`; none when nothing is, also when the folders above it are not all real folders.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn stat(&self, path: &ArtifactPath) -> Result<Option<Stat>, TreeError> {
        let result =
            self.parent_of(path).and_then(|(folder, name)| Stat::of(&folder, name, self.identity.device));
        match result {
            Ok(stat) => Ok(Some(stat)),
            Err(errno) if says_absent(errno) => Ok(None),
            Err(errno) => Err(self.error("stat", path, errno)),
        }
    }

    /// The names in a folder, sorted; none stands for the root itself.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn list(&self, folder: Option<&ArtifactPath>) -> Result<Vec<Vec<u8>>, TreeError> {
        let error = |errno| TreeError::io("list", self.shown(folder), errno);
        let handle = self.folder(folder, LISTING).map_err(error)?;
        list_names(&handle).map_err(error)
    }

    /// Where the link at `path` points, as it is written.
    ///
    /// # Errors
    /// [`TreeError::Io`], also when there is no link.
    pub fn read_link(&self, path: &ArtifactPath) -> Result<Vec<u8>, TreeError> {
        self.parent_of(path)
            .and_then(|(folder, name)| read_link_at(&folder, name))
            .map_err(|errno| self.error("read the link", path, errno))
    }

    /// Opens the regular file at `path` for reading. Never waits for a pipe's other end.
    ///
    /// # Errors
    /// [`TreeError::NotAFile`] or [`TreeError::Io`].
    pub fn open_file(&self, path: &ArtifactPath) -> Result<File, TreeError> {
        let error = |errno| self.error("open", path, errno);
        let (folder, name) = self.parent_of(path).map_err(error)?;
        let not_a_file = || TreeError::NotAFile { path: self.place(path) };
        let stat = Stat::of(&folder, name, self.identity.device).map_err(error)?;
        if stat.kind != Kind::File {
            return Err(not_a_file());
        }
        let file = self.open_regular(folder.as_fd(), name).map_err(error)?;
        file.map(|(file, _)| File::from(file)).ok_or_else(not_a_file)
    }

    /// Makes a folder with exactly `mode`; false when something is there already.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn make_folder(&self, path: &ArtifactPath, mode: u32) -> Result<bool, TreeError> {
        let error = |errno| self.error("make the folder", path, errno);
        let (parent, name) = self.parent_of(path).map_err(error)?;
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(errno) => return Err(error(errno)),
        }
        let made = self
            .confinement
            .open(parent.as_fd(), name, LISTING | OFlags::NOFOLLOW, self.identity.device)
            .map_err(error)?;
        rustix::fs::fchmod(&made, bits(mode)).map_err(error)?;
        Ok(true)
    }

    /// Removes an empty folder; false when it is not empty, gone, or no folder any more.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn remove_folder(&self, path: &ArtifactPath) -> Result<bool, TreeError> {
        let result = self
            .parent_of(path)
            .and_then(|(parent, name)| rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR));
        match result {
            Ok(()) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(errno) if says_absent(errno) => Ok(false),
            Err(errno) => Err(self.error("remove the folder", path, errno)),
        }
    }

    /// Sets the permission bits of a file or folder, nothing else; never through a link.
    ///
    /// # Errors
    /// [`TreeError::NotAFile`] for a link or a device, else [`TreeError::Io`].
    pub fn set_mode(&self, path: &ArtifactPath, mode: u32) -> Result<(), TreeError> {
        let error = |errno| self.error("set the mode of", path, errno);
        let inode = self.open_inode(path).map_err(error)?;
        let stat = Stat::of(&inode, b"", self.identity.device).map_err(error)?;
        if !matches!(stat.kind, Kind::File | Kind::Folder) {
            return Err(TreeError::NotAFile { path: self.place(path) });
        }
        rustix::fs::chmod(proc_path(inode.as_fd()), bits(mode)).map_err(error)
    }

    /// Sets owner and group of whatever is at `path`, a link included.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn set_owner(&self, path: &ArtifactPath, uid: u32, gid: u32) -> Result<(), TreeError> {
        self.open_inode(path)
            .and_then(|inode| {
                let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                rustix::fs::chownat(&inode, "", uid, gid, AtFlags::EMPTY_PATH)
            })
            .map_err(|errno| self.error("set the owner of", path, errno))
    }

    /// Sets the modification time of whatever is at `path`, a link included.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn set_times(&self, path: &ArtifactPath, mtime: FileTime) -> Result<(), TreeError> {
        self.parent_of(path)
            .and_then(|(parent, name)| {
                rustix::fs::utimensat(&parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
            })
            .map_err(|errno| self.error("set the time of", path, errno))
    }

    /// Makes the listings of `folders` durable; none stands for the root itself. A folder that is gone is passed over:
    /// its own removal is durable with the folder above it.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn sync_folders(&self, folders: &BTreeSet<Option<ArtifactPath>>) -> Result<(), TreeError> {
        for folder in folders {
            let synced = self
                .folder(folder.as_ref(), LISTING)
                .and_then(|handle| retry_on_intr(|| rustix::fs::fsync(&handle)));
            match synced {
                Ok(()) => {}
                Err(errno) if says_absent(errno) => {}
                Err(errno) => return Err(TreeError::io("sync", self.shown(folder.as_ref()), errno)),
            }
        }
        Ok(())
    }

    /// Opens `.syncd`, where syncd stages and keeps its mark; makes it when it is missing.
    ///
    /// # Errors
    /// [`TreeError::ForeignWorkshop`] when a link, a file or a mount is in its place; [`TreeError::Io`].
    pub fn workshop(self: &Arc<Self>) -> Result<Workshop, TreeError> {
        Workshop::enter(Arc::clone(self))
    }

    /// Moves `.syncd`, whatever it is, to the first free name `.syncd.foreign-<n>` and returns that; none when there is
    /// no `.syncd`.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn set_workshop_aside(&self) -> Result<Option<String>, TreeError> {
        for number in 1..1000 {
            let name = format!(".syncd.foreign-{number}");
            let flags = RenameFlags::NOREPLACE;
            let moved = rustix::fs::renameat_with(&self.handle, WORKSHOP, &self.handle, name.as_str(), flags);
            let moved = match moved {
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                    match Stat::of(&self.handle, name.as_bytes(), self.identity.device) {
                        Ok(_) => Err(Errno::EXIST),
                        Err(Errno::NOENT) => {
                            rustix::fs::renameat(&self.handle, WORKSHOP, &self.handle, name.as_str())
                        }
                        Err(errno) => Err(errno),
                    }
                }
                moved => moved,
            };
            match moved {
                Ok(()) => return Ok(Some(name)),
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(TreeError::io("move aside", self.shown(None) + "/.syncd", errno)),
            }
        }
        Err(TreeError::io("move aside", self.shown(None) + "/.syncd", Errno::EXIST))
    }

    /// The folder above `path`, and the last name of `path`.
    pub(super) fn parent_of<'p>(&self, path: &'p ArtifactPath) -> rustix::io::Result<(OwnedFd, &'p [u8])> {
        Ok((self.folder(path.parent().as_ref(), HANDLE)?, path.name()))
    }

    /// A folder of the root; none stands for the root itself.
    pub(super) fn folder(&self, folder: Option<&ArtifactPath>, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        self.beneath(self.handle.as_fd(), folder.map_or(b".", ArtifactPath::as_bytes), flags)
    }

    /// Opens `path` beneath a folder of this root.
    pub(super) fn beneath(
        &self,
        folder: BorrowedFd<'_>,
        path: &[u8],
        flags: OFlags,
    ) -> rustix::io::Result<OwnedFd> {
        self.confinement.open(folder, path, flags, self.identity.device)
    }

    /// Opens `name` for reading, with what was opened; none when it is no regular file.
    pub(super) fn open_regular(
        &self,
        folder: BorrowedFd<'_>,
        name: &[u8],
    ) -> rustix::io::Result<Option<(OwnedFd, Stat)>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match self.beneath(folder, name, flags) {
            // A socket, or a device without a driver.
            Err(Errno::NXIO | Errno::NODEV) => return Ok(None),
            file => file?,
        };
        let stat = Stat::of(&file, b"", self.identity.device)?;
        Ok((stat.kind == Kind::File).then_some((file, stat)))
    }

    /// The root's own handle.
    pub(super) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// `path` with the root's name, for people.
    pub(super) fn place(&self, path: &ArtifactPath) -> String {
        format!("{}:{path}", self.name)
    }

    pub(super) fn shown(&self, folder: Option<&ArtifactPath>) -> String {
        folder.map_or_else(|| self.path.display().to_string(), |folder| self.place(folder))
    }

    pub(super) fn error(&self, operation: &'static str, path: &ArtifactPath, errno: Errno) -> TreeError {
        TreeError::io(operation, self.place(path), errno)
    }

    fn open_inode(&self, path: &ArtifactPath) -> rustix::io::Result<OwnedFd> {
        let (parent, name) = self.parent_of(path)?;
        self.beneath(parent.as_fd(), name, OFlags::PATH | OFlags::NOFOLLOW)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.device, self.inode)
    }
}

/// Reaches an inode by its handle where the kernel has no call for that.
fn proc_path(handle: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

pub(super) fn bits(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o777)
}

pub(super) fn times(mtime: FileTime) -> Timestamps {
    let omitted = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let wanted = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: omitted, last_modification: wanted }
}

pub(super) fn read_link_at(folder: impl AsFd, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(folder.as_fd(), name, Vec::new())?.into_bytes())
}

/// The names in `folder`, sorted.
pub(super) fn list_names(folder: impl AsFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 16 * 1024];
    let mut entries = RawDir::new(folder.as_fd(), &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let name = match &entry {
            Ok(entry) => CStr::to_bytes(entry.file_name()),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(*errno),
        };
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}
