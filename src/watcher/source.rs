//! The kernel's watches.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::{Config, ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::{ArtifactPath, RootName};
use crate::watcher::ChangeSet;
use crate::watcher::pending::Pending;

/// Why something can't be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No watches at all.
    #[error("can't begin to watch; if too many are open, raise fs.inotify.max_user_instances")]
    Start {
        /// What the kernel said.
        #[source]
        source: notify::Error,
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
        source: notify::Error,
    },
}

/// Watches folders, each by itself.
pub struct Watcher {
    source: Mutex<RecommendedWatcher>,
    shared: Arc<Shared>,
}

/// What a [`Watcher`] reports.
pub struct Changes {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    arrived: Notify,
    overflows: AtomicU64,
}

impl Watcher {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// [`WatchError::Start`].
    pub fn new() -> Result<Self, WatchError> {
        let shared = Arc::new(Shared::default());
        let sink = Arc::clone(&shared);
        let source = RecommendedWatcher::new(move |event| sink.take_in(event), Config::default())
            .map_err(|source| WatchError::Start { source })?;
        Ok(Self { source: Mutex::new(source), shared })
    }

    /// Watches one folder of `root`, none for the root itself; not what lies in its folders. Watching again is fine,
    /// and necessary after another folder took its place. A folder that is gone already is no error.
    ///
    /// # Errors
    /// [`WatchError::Limit`], [`WatchError::Folder`].
    pub fn watch(
        &self,
        root: &RootName,
        root_path: &Path,
        folder: Option<&ArtifactPath>,
    ) -> Result<(), WatchError> {
        let top = std::path::absolute(root_path).unwrap_or_else(|_| root_path.to_owned());
        self.shared.pending().add_root(root, &top);
        let path = folder.map_or_else(|| top.clone(), |folder| top.join(folder.as_path()));
        // Nothing of the source is left half done by a panic, so its lock can be taken over.
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        source.watch(&path, RecursiveMode::NonRecursive).or_else(|error| failed(&path, error))
    }

    /// What it reports from now on. Several readers share one stream.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes { shared: Arc::clone(&self.shared) }
    }

    /// How often the kernel's queue was full and events were lost.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.shared.overflows.load(Ordering::Relaxed)
    }
}

impl Changes {
    /// Waits until there is something, and takes all there is. Dropping the wait loses nothing.
    pub async fn next(&mut self) -> ChangeSet {
        loop {
            if let Some(set) = self.shared.pending().take() {
                return set;
            }
            self.shared.arrived.notified().await;
        }
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Whole after every step, so a panic elsewhere spoils nothing.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_in(&self, event: notify::Result<notify::Event>) {
        let now = Instant::now();
        match event {
            // Before any look at its paths: it has none.
            Ok(event) if event.need_rescan() => {
                self.overflows.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    "events were lost, all roots are scanned; fs.inotify.max_queued_events is the limit"
                );
                self.pending().lose();
            }
            Ok(event) => {
                let mut pending = self.pending();
                pending.add(&event, now);
                if pending.is_empty() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "events may be lost, all roots are scanned");
                self.pending().lose();
            }
        }
        self.arrived.notify_one();
    }
}

fn failed(path: &Path, error: notify::Error) -> Result<(), WatchError> {
    let shown = || PathBuf::from(path).display().to_string();
    match &error.kind {
        ErrorKind::PathNotFound => Ok(()),
        ErrorKind::Io(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        ErrorKind::MaxFilesWatch => Err(WatchError::Limit { path: shown() }),
        _ => Err(WatchError::Folder { path: shown(), source: error }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::model::Place;

    const LONG: Duration = Duration::from_secs(20);

    fn root() -> RootName {
        RootName::new("r")
    }

    fn place(path: &[u8]) -> Place {
        Place { root: root(), path: ArtifactPath::new(path).unwrap() }
    }

    /// Collects until `done`, or fails.
    async fn until(changes: &mut Changes, done: impl Fn(&ChangeSet) -> bool) -> ChangeSet {
        let mut all = ChangeSet::default();
        while !done(&all) {
            let set = tokio::time::timeout(LONG, changes.next()).await.expect("no change was reported");
            all.merge(set);
        }
        all
    }

    #[tokio::test]
    async fn a_write_is_reported_and_reading_is_not() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("read"), "x").unwrap();
        let watcher = Watcher::new().unwrap();
        watcher.watch(&root(), folder.path(), None).unwrap();
        watcher.watch(&root(), folder.path(), None).unwrap();
        let mut changes = watcher.changes();
        std::fs::read(folder.path().join("read")).unwrap();
        std::fs::write(folder.path().join("written"), "x").unwrap();
        let set = until(&mut changes, |set| set.paths.contains_key(&place(b"written"))).await;
        assert_eq!(set.paths.into_keys().collect::<BTreeSet<_>>(), BTreeSet::from([place(b"written")]));
    }

    #[tokio::test]
    async fn names_are_bytes() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let watcher = Watcher::new().unwrap();
        watcher.watch(&root(), folder.path(), None).unwrap();
        let mut changes = watcher.changes();
        let name = b"\xff\n{}'\"";
        std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
        until(&mut changes, |set| set.paths.contains_key(&place(name))).await;
    }

    #[tokio::test]
    async fn a_wait_that_is_dropped_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Watcher::new().unwrap();
        watcher.watch(&root(), folder.path(), None).unwrap();
        let mut changes = watcher.changes();
        for number in 0..50 {
            let name = format!("{number}");
            std::fs::write(folder.path().join(&name), "x").unwrap();
            let mut all = ChangeSet::default();
            while !all.paths.contains_key(&place(name.as_bytes())) {
                if let Ok(set) = tokio::time::timeout(Duration::from_micros(50), changes.next()).await {
                    all.merge(set);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_full_queue_is_a_rescan() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("0"), "x").unwrap();
        std::fs::write(folder.path().join("1"), "x").unwrap();
        let watcher = Watcher::new().unwrap();
        watcher.watch(&root(), folder.path(), None).unwrap();
        let queued: usize = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        {
            // Whoever reads the events can't deliver them meanwhile, so the kernel's queue fills.
            let _held = watcher.shared.pending();
            for number in 0..queued + 1000 {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
                std::fs::set_permissions(folder.path().join(format!("{}", number % 2)), mode).unwrap();
            }
        }
        let set = until(&mut watcher.changes(), |set| set.rescan_all).await;
        assert!(set.rescan_all);
        assert!(watcher.overflows() >= 1);
        // It goes on reporting afterwards.
        std::fs::write(folder.path().join("after"), "x").unwrap();
        until(&mut watcher.changes(), |set| set.paths.contains_key(&place(b"after"))).await;
    }

    #[tokio::test]
    async fn a_folder_that_is_gone_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Watcher::new().unwrap();
        watcher.watch(&root(), folder.path(), Some(&ArtifactPath::new(b"gone/x").unwrap())).unwrap();
    }

    #[test]
    fn a_limit_names_its_setting() {
        let error = failed(Path::new("/srv/a"), notify::Error::new(ErrorKind::MaxFilesWatch)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "can't watch /srv/a: the limit is reached, raise fs.inotify.max_user_watches"
        );
    }
}
