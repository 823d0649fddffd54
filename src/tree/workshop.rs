//! `<root>/.syncd`: where new content waits and replaced content comes out, on the root's own file system.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::{Errno, retry_on_intr};

use crate::model::{ArtifactPath, ContentHash, FileTime};
use crate::tree::error::says_absent;
use crate::tree::root::{LISTING, bits, list_names, read_link_at, times};
use crate::tree::{Root, StageName, Stat, TreeError};

/// The workshop's name in its root.
pub const WORKSHOP: &[u8] = b".syncd";
const STAGE: &[u8] = b"stage";
const ASIDE: &[u8] = b"aside";
const MARK: &[u8] = b"member";
const NEW_MARK: &[u8] = b"member.new";
const MARK_BYTES_MAX: u64 = 64 * 1024;

/// Up to this many files are synced one by one; one sync of the whole file system is cheaper beyond.
const SYNCED_ONE_BY_ONE_MAX: usize = 16;

/// What a file is to be when it is staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    /// Hash of its content.
    pub hash: ContentHash,
    /// Its length.
    pub size: u64,
    /// Its permission bits, 0o777 at most.
    pub mode: u32,
    /// Its owner and group; none: those of this process.
    pub owner: Option<(u32, u32)>,
    /// Its modification time.
    pub mtime: FileTime,
}

/// The open workshop of one root. One at a time may be used per root.
#[derive(Debug)]
pub struct Workshop {
    root: Arc<Root>,
    top: OwnedFd,
    stage: OwnedFd,
    aside: OwnedFd,
    unsynced: Mutex<HashSet<StageName>>,
}

impl Workshop {
    pub(super) fn enter(root: Arc<Root>) -> Result<Self, TreeError> {
        let top = open_own(&root, root.handle(), WORKSHOP, WORKSHOP)?;
        let stage = open_own(&root, top.as_fd(), STAGE, b".syncd/stage")?;
        let aside = open_own(&root, top.as_fd(), ASIDE, b".syncd/aside")?;
        let workshop = Self { root, top, stage, aside, unsynced: Mutex::default() };
        workshop.take_back_aside()?;
        Ok(workshop)
    }

    /// The root that it belongs to.
    #[must_use]
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// The mark of membership as it was written; none when there is none.
    ///
    /// # Errors
    /// [`TreeError::Io`], [`TreeError::NotAFile`].
    pub fn read_mark(&self) -> Result<Option<Vec<u8>>, TreeError> {
        let error = |errno| TreeError::io("read", self.own("member"), errno);
        let file = match self.root.open_regular(self.top.as_fd(), MARK) {
            Ok(Some((file, _))) => File::from(file),
            Ok(None) => return Err(TreeError::NotAFile { path: self.own("member") }),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(error(errno)),
        };
        let mut mark = Vec::new();
        file.take(MARK_BYTES_MAX)
            .read_to_end(&mut mark)
            .map_err(|source| self.io("read", "member", source))?;
        Ok(Some(mark))
    }

    /// Writes the mark of membership, whole and durable.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn write_mark(&self, mark: &[u8]) -> Result<(), TreeError> {
        let error = |errno| TreeError::io("write", self.own("member"), errno);
        self.unlink(&self.top, NEW_MARK).map_err(error)?;
        let mut file = File::from(self.create(&self.top, NEW_MARK).map_err(error)?);
        file.write_all(mark)
            .and_then(|()| file.sync_all())
            .map_err(|source| self.io("write", "member", source))?;
        rustix::fs::renameat(&self.top, NEW_MARK, &self.top, MARK).map_err(error)?;
        retry_on_intr(|| rustix::fs::fsync(&self.top)).map_err(error)
    }

    /// Writes `content` under `name` and checks it on the way; leaves nothing behind when it is not what `expected`
    /// says. Not durable before [`Workshop::sync`].
    ///
    /// # Errors
    /// [`TreeError::Mismatch`]; [`TreeError::Io`], also when the name is taken.
    pub fn stage(
        &self,
        name: &StageName,
        content: &mut dyn Read,
        expected: &Staged,
    ) -> Result<(), TreeError> {
        let bytes = name.as_str().as_bytes();
        let file = self.create(&self.stage, bytes).map_err(|errno| self.staged("stage", name, errno))?;
        let mut file = File::from(file);
        if let Err(error) = self.fill(&mut file, name, content, expected) {
            // The first error is the one to tell; what stays behind is found again at the next start.
            let _ = self.unlink(&self.stage, bytes);
            return Err(error);
        }
        self.unsynced().insert(name.clone());
        Ok(())
    }

    /// Makes a link to `target` under `name`.
    ///
    /// # Errors
    /// [`TreeError::Io`], also when the name is taken.
    pub fn stage_link(&self, name: &StageName, target: &[u8]) -> Result<(), TreeError> {
        rustix::fs::symlinkat(target, &self.stage, name.as_str())
            .map_err(|errno| self.staged("stage the link", name, errno))?;
        self.unsynced().insert(name.clone());
        Ok(())
    }

    /// Makes durable all that was staged since the last call.
    ///
    /// # Errors
    /// [`TreeError::Io`]: what was staged is not durable then and must be staged again, because the kernel tells of
    /// a failed write once only.
    pub fn sync(&self) -> Result<(), TreeError> {
        let names = std::mem::take(&mut *self.unsynced());
        if names.len() > SYNCED_ONE_BY_ONE_MAX {
            retry_on_intr(|| rustix::fs::syncfs(&self.stage))
                .map_err(|errno| TreeError::io("sync", self.own("stage"), errno))?;
        } else if !names.is_empty() {
            let mut has_links = false;
            for name in &names {
                has_links |= !self.sync_one(name).map_err(|errno| self.staged("sync", name, errno))?;
            }
            // A file's content and attributes are durable with the file, its place with the folder that it is renamed
            // into: the name it has here need not outlive a crash. A link is nothing but its name.
            if has_links {
                retry_on_intr(|| rustix::fs::fsync(&self.stage))
                    .map_err(|errno| TreeError::io("sync", self.own("stage"), errno))?;
            }
        }
        Ok(())
    }

    /// Puts what is staged under `name` at `path`, where something must be; that is under `name` afterwards. At no
    /// moment is nothing at `path`.
    ///
    /// # Errors
    /// [`TreeError::Gone`] when nothing is at `path`; [`TreeError::Io`].
    pub fn exchange(&self, name: &StageName, path: &ArtifactPath) -> Result<(), TreeError> {
        let error = |errno| self.root.error("replace", path, errno);
        let (folder, last) = self.root.parent_of(path).map_err(error)?;
        let staged = name.as_str().as_bytes();
        let result =
            match rustix::fs::renameat_with(&self.stage, staged, &folder, last, RenameFlags::EXCHANGE) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                    self.exchange_by_link(name, &folder, last)
                }
                result => result,
            };
        match result {
            Err(Errno::NOENT) if Stat::of(&self.stage, staged, self.root.identity().device).is_ok() => {
                Err(TreeError::Gone { path: self.root.place(path) })
            }
            result => result.map_err(error),
        }
    }

    /// Puts what is staged under `name` at `path`, where nothing may be; false when something is.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn place(&self, name: &StageName, path: &ArtifactPath) -> Result<bool, TreeError> {
        let error = |errno| self.root.error("create", path, errno);
        let (folder, last) = self.root.parent_of(path).map_err(error)?;
        let staged = name.as_str().as_bytes();
        let result =
            match rustix::fs::renameat_with(&self.stage, staged, &folder, last, RenameFlags::NOREPLACE) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                    rustix::fs::linkat(&self.stage, staged, &folder, last, AtFlags::empty())
                        .and_then(|()| self.unlink(&self.stage, staged))
                }
                result => result,
            };
        match result {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(error(errno)),
        }
    }

    /// Takes what is at `path` away, to `name`; false when nothing is there.
    ///
    /// # Errors
    /// [`TreeError::Io`], also when the name is taken.
    pub fn take(&self, path: &ArtifactPath, name: &StageName) -> Result<bool, TreeError> {
        let error = |errno| self.root.error("take away", path, errno);
        let (folder, last) = match self.root.parent_of(path) {
            Err(errno) if says_absent(errno) => return Ok(false),
            parent => parent.map_err(error)?,
        };
        let staged = name.as_str().as_bytes();
        let result =
            match rustix::fs::renameat_with(&folder, last, &self.stage, staged, RenameFlags::NOREPLACE) {
                // Only this process writes to the stage, so that looking first is enough.
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match self.stat(name)? {
                    Some(_) => Err(Errno::EXIST),
                    None => rustix::fs::renameat(&folder, last, &self.stage, staged),
                },
                result => result,
            };
        match result {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(error(errno)),
        }
    }

    /// What is staged under `name`; none when nothing is.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn stat(&self, name: &StageName) -> Result<Option<Stat>, TreeError> {
        match Stat::of(&self.stage, name.as_str().as_bytes(), self.root.identity().device) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.staged("stat", name, errno)),
        }
    }

    /// Sets the modification time of what is staged under `name`.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn set_times(&self, name: &StageName, mtime: FileTime) -> Result<(), TreeError> {
        rustix::fs::utimensat(&self.stage, name.as_str(), &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.staged("set the time of", name, errno))
    }

    /// Opens the regular file under `name`.
    ///
    /// # Errors
    /// [`TreeError::NotAFile`] or [`TreeError::Io`].
    pub fn open(&self, name: &StageName) -> Result<File, TreeError> {
        match self.root.open_regular(self.stage.as_fd(), name.as_str().as_bytes()) {
            Ok(Some((file, _))) => Ok(File::from(file)),
            Ok(None) => Err(TreeError::NotAFile { path: self.own(&format!("stage/{name}")) }),
            Err(errno) => Err(self.staged("open", name, errno)),
        }
    }

    /// Where the link under `name` points.
    ///
    /// # Errors
    /// [`TreeError::Io`], also when it is no link.
    pub fn read_link(&self, name: &StageName) -> Result<Vec<u8>, TreeError> {
        read_link_at(&self.stage, name.as_str().as_bytes())
            .map_err(|errno| self.staged("read the link", name, errno))
    }

    /// Removes what is under `name`: a file, a link or an empty folder. Nothing there is fine.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn remove(&self, name: &StageName) -> Result<(), TreeError> {
        self.unsynced().remove(name);
        let bytes = name.as_str().as_bytes();
        match self.unlink(&self.stage, bytes) {
            Err(Errno::ISDIR) => rustix::fs::unlinkat(&self.stage, bytes, AtFlags::REMOVEDIR),
            result => result,
        }
        .map_err(|errno| self.staged("remove", name, errno))
    }

    /// All names in the stage, sorted. What has no such name was not put there by syncd; it is left alone and logged.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn list(&self) -> Result<Vec<StageName>, TreeError> {
        self.names(&self.stage, "stage")
    }

    fn names(&self, folder: &OwnedFd, own: &'static str) -> Result<Vec<StageName>, TreeError> {
        let error = |errno| TreeError::io("list", self.own(own), errno);
        // A fresh handle: a listing starts where the last one on its handle ended.
        let listing = self.root.beneath(folder.as_fd(), b".", LISTING).map_err(error)?;
        let mut names = Vec::new();
        for bytes in list_names(&listing).map_err(error)? {
            match StageName::parse(&bytes) {
                Some(name) => names.push(name),
                None => tracing::warn!(
                    folder = self.own(own),
                    name = %bytes.escape_ascii(),
                    "left alone: this is not one of syncd's staged files"
                ),
            }
        }
        Ok(names)
    }

    fn fill(
        &self,
        file: &mut File,
        name: &StageName,
        content: &mut dyn Read,
        expected: &Staged,
    ) -> Result<(), TreeError> {
        let shown = format!("stage/{name}");
        let failed = |source| self.io("write", &shown, source);
        let mut hasher = blake3::Hasher::new();
        let mut size = 0;
        let mut buffer =
            vec![0; usize::try_from(expected.size + 1).map_or(COPY_BYTES, |all| all.min(COPY_BYTES))];
        // One byte beyond what was announced is enough to know that it is something else.
        while size <= expected.size {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(self.io("read the content for", &shown, source)),
            };
            hasher.update(&buffer[..count]);
            size += count as u64;
            if size <= expected.size {
                file.write_all(&buffer[..count]).map_err(failed)?;
            }
        }
        let actual = ContentHash(*hasher.finalize().as_bytes());
        if (actual, size) != (expected.hash, expected.size) {
            return Err(TreeError::Mismatch {
                path: self.own(&shown),
                expected: expected.hash,
                expected_bytes: expected.size,
                actual,
                actual_bytes: size,
            });
        }
        let set = || -> rustix::io::Result<()> {
            if let Some((uid, gid)) = expected.owner {
                rustix::fs::fchown(&*file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            }
            // After the owner, whose change may take bits away.
            rustix::fs::fchmod(&*file, bits(expected.mode))?;
            rustix::fs::futimens(&*file, &times(expected.mtime))
        };
        set().map_err(|errno| self.staged("set owner, mode and time of", name, errno))
    }

    /// False when it is no file: a link has no content of its own.
    fn sync_one(&self, name: &StageName) -> rustix::io::Result<bool> {
        match self.root.open_regular(self.stage.as_fd(), name.as_str().as_bytes()) {
            Ok(Some((file, _))) => retry_on_intr(|| rustix::fs::fsync(&file)).map(|()| true),
            Ok(None) | Err(Errno::LOOP) => Ok(false),
            // Placed already.
            Err(Errno::NOENT) => Ok(true),
            Err(errno) => Err(errno),
        }
    }

    /// Where the file system knows no exchange: a second name keeps the old content, then one rename replaces it.
    fn exchange_by_link(&self, name: &StageName, folder: &OwnedFd, last: &[u8]) -> rustix::io::Result<()> {
        let staged = name.as_str().as_bytes();
        rustix::fs::linkat(folder, last, &self.aside, staged, AtFlags::empty())?;
        if let Err(errno) = rustix::fs::renameat(&self.stage, staged, folder, last) {
            self.unlink(&self.aside, staged)?;
            return Err(errno);
        }
        rustix::fs::renameat(&self.aside, staged, &self.stage, staged)
    }

    /// [`Workshop::exchange`] as on a file system that knows no exchange.
    #[cfg(test)]
    pub(super) fn exchange_without_kernel(
        &self,
        name: &StageName,
        path: &ArtifactPath,
    ) -> rustix::io::Result<()> {
        let (folder, last) = self.root.parent_of(path)?;
        self.exchange_by_link(name, &folder, last)
    }

    /// Brings what a crash in the middle of [`Workshop::exchange_by_link`] left aside to where it is looked for.
    fn take_back_aside(&self) -> Result<(), TreeError> {
        for name in self.names(&self.aside, "aside")? {
            let mut to = name.clone();
            while self.stat(&to)?.is_some() {
                let Some(next) = to.with_sequence(to.sequence().wrapping_add(1)) else { break };
                to = next;
            }
            rustix::fs::renameat(&self.aside, name.as_str(), &self.stage, to.as_str())
                .map_err(|errno| TreeError::io("take back", self.own(&format!("aside/{name}")), errno))?;
        }
        Ok(())
    }

    fn create(&self, folder: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        retry_on_intr(|| rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR))
    }

    fn unlink(&self, folder: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            result => result,
        }
    }

    fn unsynced(&self) -> std::sync::MutexGuard<'_, HashSet<StageName>> {
        // The list is whole after every step, so a panic elsewhere spoils nothing.
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self, name: &str) -> String {
        self.root.path().join(".syncd").join(Path::new(name)).display().to_string()
    }

    fn io(&self, operation: &'static str, name: &str, source: std::io::Error) -> TreeError {
        TreeError::Io { operation, path: self.own(name), source }
    }

    fn staged(&self, operation: &'static str, name: &StageName, errno: Errno) -> TreeError {
        TreeError::io(operation, self.own(&format!("stage/{name}")), errno)
    }
}

const COPY_BYTES: usize = 128 * 1024;

/// Opens a folder of our own, makes it when it is missing, and closes it to others.
fn open_own(
    root: &Root,
    above: rustix::fd::BorrowedFd<'_>,
    name: &[u8],
    shown: &[u8],
) -> Result<OwnedFd, TreeError> {
    let path = || root.path().join(String::from_utf8_lossy(shown).as_ref()).display().to_string();
    let error = |errno| TreeError::io("open", path(), errno);
    match rustix::fs::mkdirat(above, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(TreeError::io("make the folder", path(), errno)),
    }
    let folder = match root.beneath(above, name, LISTING | OFlags::NOFOLLOW) {
        Ok(folder) => folder,
        Err(Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {
            return Err(TreeError::ForeignWorkshop { path: path() });
        }
        Err(errno) => return Err(error(errno)),
    };
    let stat = Stat::of(&folder, b"", root.identity().device).map_err(error)?;
    if stat.mode != 0o700 {
        rustix::fs::fchmod(&folder, Mode::RWXU).map_err(error)?;
    }
    Ok(folder)
}
