//! Whether anyone has a file open for writing: the kernel grants a read lease only when no one has.
//!
//! The lease is given back at once. A writer who opens in between waits for that moment, and the kernel tells the
//! holder by SIGIO, whose default action ends the process: the first call here sets it to be ignored, unless someone
//! handles it already.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Once;

use rustix::io::Errno;

/// Whether a file is open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    /// Nowhere on this host.
    None,
    /// Somewhere.
    Some,
    /// The question can't be asked: a file system without leases, or a file of another owner without the capability
    /// `CAP_LEASE`.
    Unknown,
}

/// Whether `file`, which must be open read-only, is open for writing anywhere on this host.
pub(super) fn writers(file: BorrowedFd<'_>) -> Writers {
    static IGNORE_SIGIO: Once = Once::new();
    IGNORE_SIGIO.call_once(ignore_sigio);
    match set_lease(file, libc::F_RDLCK) {
        Err(Errno::AGAIN) => Writers::Some,
        Ok(()) => {
            // Can fail only if the lease was broken and taken away already: then it is gone, as it should be.
            let _ = set_lease(file, libc::F_UNLCK);
            Writers::None
        }
        Err(_) => Writers::Unknown,
    }
}

fn set_lease(file: BorrowedFd<'_>, kind: i32) -> Result<(), Errno> {
    loop {
        // SAFETY: `file` is open for the whole call, and F_SETLEASE takes a plain integer.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
        if result == 0 {
            return Ok(());
        }
        match Errno::from_io_error(&std::io::Error::last_os_error()) {
            Some(Errno::INTR) => {}
            Some(errno) => return Err(errno),
            None => return Err(Errno::IO),
        }
    }
}

fn ignore_sigio() {
    // SAFETY: a zeroed sigaction is a valid value, both pointers are valid for the calls, and no handler of ours is
    // installed: the action is to ignore.
    unsafe {
        let mut current: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGIO, std::ptr::null(), &raw mut current) == 0
            && current.sa_sigaction == libc::SIG_DFL
        {
            let mut ignore: libc::sigaction = std::mem::zeroed();
            ignore.sa_sigaction = libc::SIG_IGN;
            libc::sigaction(libc::SIGIO, &raw const ignore, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_writer_is_seen_until_it_closes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert_eq!(writers(reader.as_fd()), Writers::Some);
        writer.write_all(b"x").unwrap();
        drop(writer);
        assert_eq!(writers(reader.as_fd()), Writers::None);
        let appender = OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(writers(reader.as_fd()), Writers::Some);
        drop(appender);
        assert_eq!(writers(reader.as_fd()), Writers::None, "asking must leave no lease behind");
    }

    #[test]
    fn who_can_not_know_says_so() {
        // Only regular files have leases.
        let file = File::open("/dev/null").unwrap();
        assert_eq!(writers(file.as_fd()), Writers::Unknown);
    }

    #[test]
    fn asking_disturbs_no_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        File::create(&path).unwrap();
        let asked = path.clone();
        let asker = std::thread::spawn(move || {
            for _ in 0..20_000 {
                writers(File::open(&asked).unwrap().as_fd());
            }
        });
        // A lease that is broken raises SIGIO: without the ignoring, this process would end here.
        while !asker.is_finished() {
            OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
        }
        asker.join().unwrap();
    }
}
