//! The kernel's queue of events, and the thread that empties it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, Event, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::{ArtifactPath, RootName};
use crate::watcher::ChangeSet;
use crate::watcher::watches::Watches;

/// What is worth knowing; opening and reading, which scans do themselves, is not.
const WANTED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

const BUFFER_BYTES: usize = 64 * 1024;

/// Why something can't be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No watches at all.
    #[error("can't begin to watch; if too many are open, raise fs.inotify.max_user_instances")]
    Start {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No more watches.
    #[error("can't watch {path}: the limit is reached, raise fs.inotify.max_user_watches")]
    Limit {
        /// The folder without a watch.
        path: String,
    },
    /// Not this folder.
    #[error("can't watch {path}")]
    Folder {
        /// The folder without a watch.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl WatchError {
    /// The setting of the kernel that has to be raised; none when that is not the cause.
    #[must_use]
    pub fn setting(&self) -> Option<&'static str> {
        match self {
            Self::Start { source } => {
                let many = source.raw_os_error() == Some(Errno::MFILE.raw_os_error());
                many.then_some("fs.inotify.max_user_instances")
            }
            Self::Limit { .. } => Some("fs.inotify.max_user_watches"),
            Self::Folder { .. } => None,
        }
    }
}

/// Watches folders, each by itself.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
}

/// What a [`Watcher`] reports.
#[derive(Debug)]
pub struct Changes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: OwnedFd,
    /// A watch that nothing ever happens to; its removal wakes the thread.
    waker: i32,
    stopped: AtomicBool,
    /// Whether events can't be read any more.
    ended: AtomicBool,
    state: Mutex<State>,
    arrived: Notify,
    overflows: AtomicU64,
    /// How many folders may be watched, besides what the kernel says: for tests, which can't lower its limit for
    /// themselves alone.
    folders_max: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    watches: Watches,
    pending: ChangeSet,
}

impl Watcher {
    /// Watches nothing yet. Begins a thread that empties the kernel's queue, however busy the readers are.
    ///
    /// # Errors
    /// [`WatchError::Start`].
    pub fn new() -> Result<Self, WatchError> {
        let start = |errno: Errno| WatchError::Start { source: errno.into() };
        let queue = inotify::init(CreateFlags::CLOEXEC).map_err(start)?;
        let waker = inotify::add_watch(&queue, "/", WatchFlags::DELETE_SELF).map_err(start)?;
        let shared = Arc::new(Shared {
            queue,
            waker,
            stopped: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            state: Mutex::default(),
            arrived: Notify::new(),
            overflows: AtomicU64::new(0),
            folders_max: AtomicUsize::new(usize::MAX),
        });
        let reader = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(move || reader.read_all())
            .map_err(|source| WatchError::Start { source })?;
        Ok(Self { shared })
    }

    /// Watches one folder of `root` (none: the root itself), which is open as `handle`; not what lies in its folders.
    /// Again is fine, and tells the folder's present name.
    ///
    /// # Errors
    /// [`WatchError::Limit`], [`WatchError::Folder`].
    pub fn watch(
        &self,
        root: &RootName,
        folder: Option<&ArtifactPath>,
        handle: BorrowedFd<'_>,
    ) -> Result<(), WatchError> {
        // By its handle: whatever its path leads to by now, what is watched is what will be listed.
        let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
        // Held until the name is known, so that no event comes in between.
        let mut state = self.shared.state();
        let name = (root.clone(), folder.cloned());
        if state.watches.len() >= self.shared.folders_max.load(Ordering::Relaxed) && !state.watches.has(&name)
        {
            return Err(failed(root, folder, Errno::NOSPC));
        }
        match inotify::add_watch(&self.shared.queue, path, WANTED) {
            Ok(watch) => {
                state.watches.insert(watch, name);
                Ok(())
            }
            Err(errno) => Err(failed(root, folder, errno)),
        }
    }

    /// Ends all watches of `root`: another folder took its place.
    pub fn forget(&self, root: &RootName) {
        let mut state = self.shared.state();
        let useless = state.watches.remove_root(root);
        self.shared.end(&useless);
    }

    /// What it reports from now on. Several readers share one stream.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes { shared: Arc::clone(&self.shared) }
    }

    /// From now on no more folders than this are watched.
    #[cfg(test)]
    pub(crate) fn limit(&self, folders: usize) {
        self.shared.folders_max.store(folders, Ordering::Relaxed);
    }

    /// Whether nothing will be reported any more, because events can't be read.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// How often the kernel's queue was full and events were lost.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.shared.overflows.load(Ordering::Relaxed)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.shared.end(&[self.shared.waker]);
    }
}

impl Changes {
    /// Waits until there is something, and takes all there is. Dropping the wait loses nothing.
    pub async fn next(&mut self) -> ChangeSet {
        loop {
            if let Some(set) = self.shared.state().pending.take() {
                return set;
            }
            self.shared.arrived.notified().await;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after every step, so a panic elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_all(&self) {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(&self.queue, &mut buffer);
        while !self.stopped.load(Ordering::Relaxed) {
            match reader.next() {
                Ok(event) => self.take_in(&event),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    tracing::error!(error = %io::Error::from(errno), "events can't be read any more");
                    self.ended.store(true, Ordering::Release);
                    self.state().pending.lose();
                    self.arrived.notify_one();
                    return;
                }
            }
        }
    }

    fn take_in(&self, event: &Event<'_>) {
        let mut state = self.state();
        let State { watches, pending } = &mut *state;
        // First of all: such an event belongs to no watch.
        if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
            self.overflows.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                "events were lost, all roots are scanned; fs.inotify.max_queued_events is the limit"
            );
            pending.lose();
        } else {
            let useless = watches.take_in(event, pending, Instant::now());
            self.end(&useless);
        }
        if !pending.is_empty() {
            self.arrived.notify_one();
        }
    }

    fn end(&self, watches: &[i32]) {
        for watch in watches {
            // Fails only when it ended by itself, with its folder.
            let _ = inotify::remove_watch(&self.queue, *watch);
        }
    }
}

fn failed(root: &RootName, folder: Option<&ArtifactPath>, errno: Errno) -> WatchError {
    let path = folder.map_or_else(|| root.to_string(), |folder| format!("{root}:{folder}"));
    match errno {
        Errno::NOSPC => WatchError::Limit { path },
        errno => WatchError::Folder { path, source: errno.into() },
    }
}

#[cfg(test)]
mod tests;
