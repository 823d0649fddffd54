//! What is at one path, believed only when nobody changed it while it was read.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, retry_on_intr};
use rustix::time::ClockId;

use crate::model::{ArtifactPath, ContentHash, Entry, FileTime};
use crate::tree::error::says_absent;
use crate::tree::lease::{self, Writers};
use crate::tree::root::read_link_at;
use crate::tree::{Kind, Root, Stat, TreeError};

/// Largest file that is carried.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// A file system's clock may tick slowly: two writes within this may leave one and the same time.
const RACY_SECONDS: i64 = 2;

/// No kernel's clock of files ticks more slowly.
const TICK_NANOS: i128 = 20_000_000;

/// How long a file must not have changed where the kernel can't tell of its writers.
const QUIET_NANOS: i128 = 300_000_000;

/// How often a name is looked at again when it changed while it was read.
const TRIES: u32 = 3;

const BUFFER_BYTES: usize = 128 * 1024;

/// What was at a path, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it was.
    pub entry: Entry,
    /// What the kernel said of it, before and after it was read.
    pub stat: Stat,
    /// When its reading began, by the wall clock; as if long after its last change for what this process made.
    pub hashed_at: FileTime,
}

impl Seen {
    /// What this process itself just made of a path, with a time of its own choice: `stat` was taken afterwards. Where
    /// that time lies clearly before the change time, it tells of any later write, however slowly the clock ticks.
    #[must_use]
    pub fn now(entry: Entry, stat: Stat) -> Self {
        let is_telling = nanos(stat.ctime) - nanos(stat.mtime) >= TICK_NANOS;
        let settled = FileTime { seconds: stat.ctime.seconds + RACY_SECONDS + 1, ..stat.ctime };
        Self { entry, stat, hashed_at: if is_telling { settled } else { wall_clock() } }
    }

    /// Whether content that was hashed then may have changed since without leaving a trace in its times.
    #[must_use]
    pub fn is_racy(&self) -> bool {
        // Differences of whole seconds, rounded so that the window is never shorter than it should be. A change time
        // that lies ahead means that the clock was set back: nothing is known then.
        self.hashed_at.seconds.saturating_sub(self.stat.ctime.seconds) <= RACY_SECONDS
            || self.hashed_at.seconds.abs_diff(self.stat.mtime.seconds) <= RACY_SECONDS.unsigned_abs()
    }

    fn still_holds(&self, stat: &Stat) -> bool {
        self.stat == *stat && !self.is_racy()
    }
}

/// What is at one path now.
#[derive(Debug)]
pub enum Observation {
    /// Nothing, or no real folder above it.
    Absent,
    /// This.
    There(Seen),
    /// A file that is open for writing, or changed while it was read.
    Busy,
    /// A socket, pipe or device: never carried, never deleted.
    Skipped,
    /// It can't be read, or something is mounted over it: what it holds is not known.
    Failed(TreeError),
}

/// Looks at `path`. The digest of `cached` is taken over when nothing can have changed since.
#[must_use]
pub fn observe(root: &Root, path: &ArtifactPath, cached: Option<&Seen>) -> Observation {
    match root.parent_of(path) {
        Ok((folder, name)) => Reader::default().observe(root, folder.as_fd(), name, path, cached, None),
        Err(errno) => unreadable(root, path, errno),
    }
}

/// Observes; keeps its buffer from file to file.
#[derive(Default)]
pub(super) struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    /// Looks at `name` in `folder`, which is `path` in its root; `first` is what a stat just said of it.
    pub(super) fn observe(
        &mut self,
        root: &Root,
        folder: BorrowedFd<'_>,
        name: &[u8],
        path: &ArtifactPath,
        cached: Option<&Seen>,
        first: Option<Stat>,
    ) -> Observation {
        let home = root.identity().device;
        let mut first = first;
        for _ in 0..TRIES {
            let hashed_at = wall_clock();
            let before = match first.take().map_or_else(|| Stat::of(folder, name, home), Ok) {
                Ok(stat) => stat,
                Err(errno) => return unreadable(root, path, errno),
            };
            if let Some(seen) = cached.filter(|seen| seen.still_holds(&before)) {
                return Observation::There(seen.clone());
            }
            let read = match before.kind {
                Kind::Other => return Observation::Skipped,
                Kind::Mount => return mounted(root, path),
                Kind::Folder => {
                    let entry = Entry::Folder { mode: before.mode };
                    return Observation::There(Seen { entry, stat: before, hashed_at });
                }
                Kind::Link => read_link_at(folder, name).map(|target| Read::Link(target.into())),
                Kind::File if before.size > FILE_BYTES_MAX => {
                    let (bytes, max) = (before.size, FILE_BYTES_MAX);
                    return Observation::Failed(TreeError::TooLarge { path: root.place(path), bytes, max });
                }
                Kind::File => self.read(root, folder, name, &before),
            };
            let entry = match read {
                Ok(Read::File(hash)) => Entry::File { mode: before.mode, size: before.size, hash },
                Ok(Read::Link(target)) => Entry::Link { target },
                Ok(Read::Open) => return Observation::Busy,
                Ok(Read::Changed) => continue,
                // The link or file that the stat saw is something else by now.
                Err(Errno::INVAL | Errno::LOOP | Errno::NOENT) => continue,
                Err(errno) => return unreadable(root, path, errno),
            };
            match Stat::of(folder, name, home) {
                Ok(after) if after == before => {
                    return Observation::There(Seen { entry, stat: before, hashed_at });
                }
                Ok(_) => {}
                Err(errno) => return unreadable(root, path, errno),
            }
        }
        // Still changing; whether it is gone altogether is known, though.
        match Stat::of(folder, name, home) {
            Err(errno) => unreadable(root, path, errno),
            Ok(stat) if stat.kind == Kind::Other => Observation::Skipped,
            Ok(stat) if stat.kind == Kind::Mount => mounted(root, path),
            Ok(_) => Observation::Busy,
        }
    }

    fn read(
        &mut self,
        root: &Root,
        folder: BorrowedFd<'_>,
        name: &[u8],
        before: &Stat,
    ) -> rustix::io::Result<Read> {
        let Some((file, stat)) = root.open_regular(folder, name)? else { return Ok(Read::Changed) };
        if stat != *before {
            let written = stat.same_file(before) && is_being_written(&file, &stat);
            return Ok(if written { Read::Open } else { Read::Changed });
        }
        if is_being_written(&file, &stat) {
            return Ok(Read::Open);
        }
        let Some(hash) = self.hash(&file, before.size)? else { return Ok(Read::Changed) };
        // Once more: a writer may have come while it was read, and not have written yet.
        Ok(if is_being_written(&file, &stat) { Read::Open } else { Read::File(hash) })
    }

    /// The hash of `file` if it has exactly `size` bytes.
    fn hash(&mut self, file: &OwnedFd, size: u64) -> rustix::io::Result<Option<ContentHash>> {
        self.buffer.resize(BUFFER_BYTES, 0);
        let mut hasher = blake3::Hasher::new();
        let mut total: u64 = 0;
        // Reads one byte beyond what is expected, so that growth is noticed, and a file that grows for ever ends.
        while total <= size {
            let count = retry_on_intr(|| rustix::io::read(file, &mut self.buffer[..]))?;
            if count == 0 {
                break;
            }
            hasher.update(&self.buffer[..count]);
            total += count as u64;
        }
        Ok((total == size).then(|| ContentHash(*hasher.finalize().as_bytes())))
    }
}

enum Read {
    File(ContentHash),
    Link(std::sync::Arc<[u8]>),
    /// Somebody has it open for writing.
    Open,
    /// It is not what the stat before said.
    Changed,
}

fn mounted(root: &Root, path: &ArtifactPath) -> Observation {
    Observation::Failed(TreeError::Mounted { path: root.place(path) })
}

fn unreadable(root: &Root, path: &ArtifactPath, errno: Errno) -> Observation {
    if says_absent(errno) {
        Observation::Absent
    } else {
        Observation::Failed(root.error("read", path, errno))
    }
}

fn is_being_written(file: &OwnedFd, stat: &Stat) -> bool {
    match lease::writers(file.as_fd()) {
        Writers::Some => true,
        Writers::None => false,
        Writers::Unknown => is_fresh(stat.ctime, wall_clock()),
    }
}

/// Where nobody can say whether a writer is at work, a file that changed just now is taken to have one.
fn is_fresh(changed: FileTime, now: FileTime) -> bool {
    // A time that lies ahead is another clock's; it must not keep a file from being read for ever.
    (0..QUIET_NANOS).contains(&(nanos(now) - nanos(changed)))
}

fn nanos(time: FileTime) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

fn wall_clock() -> FileTime {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    FileTime { seconds: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_is_what_changed_just_now_by_this_clock() {
        let at = |seconds, nanos| FileTime { seconds, nanos };
        let now = at(100, 100_000_000);
        assert!(is_fresh(now, now));
        assert!(is_fresh(at(99, 900_000_000), now));
        assert!(!is_fresh(at(99, 800_000_000), now));
        assert!(!is_fresh(at(100, 200_000_000), now));
    }
}
