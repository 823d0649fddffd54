//! Opening a path beneath a folder, whatever links and mounts do meanwhile.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

use crate::tree::stat::Kind;
use crate::tree::stat::Stat;

/// How often the kernel may say that a rename elsewhere disturbed it before that is an error.
const RACES_MAX: u32 = 16;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Who sees to it that no component leads elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confinement {
    /// `openat2`, Linux 5.6 and later.
    Kernel,
    /// One `O_NOFOLLOW` open per component: older kernels, and sandboxes that forbid `openat2`.
    Stepwise,
}

impl Confinement {
    /// Finds out what works here.
    pub(super) fn probe(folder: impl AsFd) -> Self {
        match openat2(folder.as_fd(), b".", OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::TOOBIG) => Self::Stepwise,
            _ => Self::Kernel,
        }
    }

    /// Opens `path` beneath `from`. No component may be a link or a mount; the last one may be a link only with
    /// `O_PATH | O_NOFOLLOW`. `home` is the device that the folders must lie on.
    pub(super) fn open(self, from: BorrowedFd<'_>, path: &[u8], flags: OFlags, home: u64) -> Result<OwnedFd> {
        match self {
            Self::Kernel => openat2(from, path, flags),
            Self::Stepwise => open_stepwise(from, path, flags, home),
        }
    }
}

fn openat2(from: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let mut races = 0;
    loop {
        match rustix::fs::openat2(from, path, flags | OFlags::CLOEXEC, Mode::empty(), RESOLVE) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if races < RACES_MAX => races += 1,
            // With no `..` in any path, `XDEV` says that a mount stands in the way, and hides what lies below.
            result => return result,
        }
    }
}

fn open_stepwise(from: BorrowedFd<'_>, path: &[u8], flags: OFlags, home: u64) -> Result<OwnedFd> {
    let mut held: Option<OwnedFd> = None;
    let mut names = path.split(|byte| *byte == b'/').peekable();
    while let Some(name) = names.next() {
        if name == b".." {
            return Err(Errno::LOOP);
        }
        let last = names.peek().is_none();
        let wanted = if last { flags } else { OFlags::PATH | OFlags::DIRECTORY };
        let folder = held.as_ref().map_or(from, AsFd::as_fd);
        // Said before the open, so that a mounted device is not even opened; a mount made in between still counts
        // as part of the root for this one call, which is the best that such a kernel offers.
        if name != b"." {
            match Stat::of(folder, name, home)?.kind {
                Kind::Mount => return Err(Errno::XDEV),
                Kind::Other => return Err(Errno::LOOP),
                _ => {}
            }
        }
        let flags = wanted | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = rustix::io::retry_on_intr(|| rustix::fs::openat(folder, name, flags, Mode::empty()))?;
        held = Some(next);
    }
    held.ok_or(Errno::NOENT)
}
