//! Whether anyone has a file open for writing: the kernel grants a read lease only when no one has.
//!
//! The lease is given back at once. A writer who opens in between waits for that moment, and the kernel tells the
//! holder by SIGIO, whose default action ends the process: the first call here sets it to be ignored, unless someone
//! handles it already.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Once;

use rustix::io::Errno;

/// Whether `file`, which must be open read-only, is open for writing anywhere on this host.
///
/// False also where the question can't be asked: a file system without leases, or a file of another owner without
/// the capability `CAP_LEASE`.
pub(super) fn is_open_for_writing(file: BorrowedFd<'_>) -> bool {
    static IGNORE_SIGIO: Once = Once::new();
    IGNORE_SIGIO.call_once(ignore_sigio);
    match set_lease(file, libc::F_RDLCK) {
        Err(Errno::AGAIN) => true,
        Ok(()) => {
            // Can fail only if the lease was broken and taken away already: then it is gone, as it should be.
            let _ = set_lease(file, libc::F_UNLCK);
            false
        }
        Err(_) => false,
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
        assert!(is_open_for_writing(reader.as_fd()));
        writer.write_all(b"x").unwrap();
        drop(writer);
        assert!(!is_open_for_writing(reader.as_fd()));
        let appender = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(is_open_for_writing(reader.as_fd()));
        drop(appender);
        assert!(!is_open_for_writing(reader.as_fd()), "asking must leave no lease behind");
    }

    #[test]
    fn asking_disturbs_no_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        File::create(&path).unwrap();
        let asked = path.clone();
        let asker = std::thread::spawn(move || {
            for _ in 0..20_000 {
                is_open_for_writing(File::open(&asked).unwrap().as_fd());
            }
        });
        // A lease that is broken raises SIGIO: without the ignoring, this process would end here.
        while !asker.is_finished() {
            OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
        }
        asker.join().unwrap();
    }
}
