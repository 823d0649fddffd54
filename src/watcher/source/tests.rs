//! Watches on real folders.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::model::Place;

const LONG: Duration = Duration::from_secs(20);

struct Rig {
    folder: tempfile::TempDir,
    watcher: Watcher,
    changes: Changes,
}

fn root() -> RootName {
    RootName::new("r")
}

fn path(bytes: &[u8]) -> ArtifactPath {
    ArtifactPath::new(bytes).unwrap()
}

fn place(bytes: &[u8]) -> Place {
    Place { root: root(), path: path(bytes) }
}

fn chmod(file: &Path) {
    fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
}

fn rig(fill: impl FnOnce(&Path)) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let watcher = Watcher::new().unwrap();
    let changes = watcher.changes();
    let rig = Rig { folder, watcher, changes };
    rig.watch(None);
    rig
}

impl Rig {
    fn watch(&self, folder: Option<&[u8]>) {
        let folder = folder.map(path);
        let at = folder.as_ref().map_or(self.path().to_owned(), |folder| self.path().join(folder.as_path()));
        self.watcher.watch(&root(), folder.as_ref(), File::open(at).unwrap().as_fd()).unwrap();
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Everything that is reported up to what happens now.
    async fn until_now(&mut self) -> ChangeSet {
        // One call, one event: nothing of it is left to be reported later.
        std::os::unix::fs::symlink("x", self.path().join("mark")).unwrap();
        let mark = place(b"mark");
        let mut all = ChangeSet::default();
        while !all.paths.contains_key(&mark) {
            all.merge(tokio::time::timeout(LONG, self.changes.next()).await.expect("nothing was reported"));
        }
        fs::remove_file(self.path().join("mark")).unwrap();
        self.changes.next().await;
        all.paths.remove(&mark);
        all
    }

    async fn paths_until_now(&mut self) -> BTreeSet<Place> {
        self.until_now().await.paths.into_keys().collect()
    }
}

#[tokio::test]
async fn a_write_is_reported_and_reading_is_not() {
    let mut rig = rig(|path| fs::write(path.join("read"), "x").unwrap());
    rig.watch(None);
    fs::read(rig.path().join("read")).unwrap();
    fs::read_dir(rig.path()).unwrap().count();
    fs::write(rig.path().join("written"), "x").unwrap();
    assert_eq!(rig.paths_until_now().await, BTreeSet::from([place(b"written")]));
}

#[tokio::test]
async fn each_kind_of_change_is_reported() {
    let mut rig = rig(|path| {
        for name in ["mode", "gone", "from", "size", "time"] {
            fs::write(path.join(name), "x").unwrap();
        }
    });
    let at = |name: &str| rig.folder.path().join(name);
    chmod(&at("mode"));
    fs::remove_file(at("gone")).unwrap();
    fs::rename(at("from"), at("to")).unwrap();
    fs::OpenOptions::new().write(true).open(at("size")).unwrap().set_len(7).unwrap();
    File::open(at("time")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    std::os::unix::fs::symlink("x", at("link")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    let set = rig.until_now().await;
    let names: [&[u8]; 8] = [b"mode", b"gone", b"from", b"to", b"size", b"time", b"link", b"folder"];
    assert_eq!(set.paths.into_keys().collect::<BTreeSet<_>>(), names.map(place).into());
    assert_eq!(set.folders, BTreeSet::from([(root(), Some(path(b"folder")))]));
}

#[tokio::test]
async fn names_are_bytes() {
    let mut rig = rig(|_| ());
    let names = [b"\xff\n{}'\"".to_vec(), vec![b'n'; 255]];
    for name in &names {
        fs::write(rig.path().join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    assert_eq!(rig.paths_until_now().await, names.iter().map(|name| place(name)).collect());
}

#[tokio::test]
async fn own_files_are_no_change() {
    let mut rig = rig(|path| fs::create_dir_all(path.join("d/.syncd")).unwrap());
    rig.watch(Some(b"d"));
    fs::create_dir(rig.path().join(".syncd")).unwrap();
    chmod(&rig.path().join(".syncd"));
    chmod(&rig.path().join("d/.syncd"));
    assert_eq!(rig.paths_until_now().await, BTreeSet::from([place(b"d/.syncd")]));
}

#[tokio::test]
async fn a_renamed_folder_is_reported_where_it_is_once_it_was_met_there() {
    let mut rig = rig(|path| fs::create_dir_all(path.join("a/sub")).unwrap());
    rig.watch(Some(b"a"));
    rig.watch(Some(b"a/sub"));
    fs::rename(rig.path().join("a"), rig.path().join("b")).unwrap();
    // Met before the event of its leaving was read, or after: both must do.
    rig.watch(Some(b"b"));
    rig.watch(Some(b"b/sub"));
    let set = rig.until_now().await;
    assert_eq!(set.folders, BTreeSet::from([(root(), Some(path(b"b")))]));
    rig.watch(Some(b"b"));
    rig.watch(Some(b"b/sub"));
    // What later happens to its old name does not end the watches under its new one.
    fs::create_dir_all(rig.path().join("a/sub")).unwrap();
    rig.watch(Some(b"a"));
    fs::rename(rig.path().join("a/sub"), rig.path().join("c")).unwrap();
    fs::remove_dir(rig.path().join("a")).unwrap();
    rig.until_now().await;
    fs::write(rig.path().join("b/sub/x"), "1").unwrap();
    assert_eq!(rig.paths_until_now().await, BTreeSet::from([place(b"b/sub/x")]));
}

#[tokio::test]
async fn a_folder_that_left_is_not_followed() {
    let mut rig = rig(|path| fs::create_dir_all(path.join("a/sub")).unwrap());
    let outside = tempfile::tempdir().unwrap();
    rig.watch(Some(b"a"));
    rig.watch(Some(b"a/sub"));
    fs::rename(rig.path().join("a"), outside.path().join("a")).unwrap();
    assert_eq!(rig.paths_until_now().await, BTreeSet::from([place(b"a")]));
    fs::write(outside.path().join("a/sub/x"), "x").unwrap();
    assert_eq!(rig.paths_until_now().await, BTreeSet::new());
}

#[tokio::test]
async fn a_root_that_moves_is_reported_and_can_be_forgotten() {
    let mut rig = rig(|path| fs::create_dir(path.join("a")).unwrap());
    let inner = RootName::new("inner");
    let at = rig.path().join("a");
    rig.watcher.watch(&inner, None, File::open(&at).unwrap().as_fd()).unwrap();
    fs::rename(&at, rig.path().join("b")).unwrap();
    let set = rig.until_now().await;
    assert!(set.folders.contains(&(inner.clone(), None)));
    rig.watcher.forget(&inner);
    fs::write(rig.path().join("b/x"), "x").unwrap();
    assert_eq!(rig.paths_until_now().await, BTreeSet::new());
}

#[tokio::test]
async fn a_wait_that_is_dropped_loses_nothing() {
    let mut rig = rig(|_| ());
    for number in 0..50 {
        let name = format!("{number}");
        fs::write(rig.path().join(&name), "x").unwrap();
        let mut all = ChangeSet::default();
        while !all.paths.contains_key(&place(name.as_bytes())) {
            if let Ok(set) = tokio::time::timeout(Duration::from_micros(50), rig.changes.next()).await {
                all.merge(set);
            }
        }
    }
}

#[tokio::test]
async fn a_full_queue_is_a_rescan() {
    let mut rig = rig(|path| {
        fs::write(path.join("0"), "x").unwrap();
        fs::write(path.join("1"), "x").unwrap();
    });
    let queued = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queued: usize = queued.trim().parse().unwrap();
    {
        // Whoever reads the events can't deliver them meanwhile, so the kernel's queue fills.
        let _held = rig.watcher.shared.state();
        for number in 0..queued + 5_000 {
            chmod(&rig.folder.path().join(format!("{}", number % 2)));
        }
    }
    let set = loop {
        let set = tokio::time::timeout(LONG, rig.changes.next()).await.expect("nothing was reported");
        if set.rescan_all {
            break set;
        }
    };
    assert!(set.rescan_all);
    assert!(rig.watcher.overflows() >= 1);
    // It goes on reporting afterwards.
    fs::write(rig.path().join("after"), "x").unwrap();
    assert!(rig.paths_until_now().await.contains(&place(b"after")));
}

#[test]
fn a_watcher_that_is_dropped_ends_its_thread() {
    let watcher = Watcher::new().unwrap();
    let shared = Arc::downgrade(&watcher.shared);
    drop(watcher);
    let start = std::time::Instant::now();
    while shared.strong_count() > 0 {
        assert!(start.elapsed() < LONG, "the thread lives on");
        std::thread::yield_now();
    }
}

#[test]
fn a_limit_names_its_setting() {
    let error = failed(&root(), Some(&path(b"a")), Errno::NOSPC);
    assert_eq!(error.to_string(), "can't watch r:a: the limit is reached, raise fs.inotify.max_user_watches");
    assert_eq!(error.setting(), Some("fs.inotify.max_user_watches"));
    let start = |errno: Errno| WatchError::Start { source: errno.into() }.setting();
    assert_eq!(start(Errno::MFILE), Some("fs.inotify.max_user_instances"));
    assert_eq!(start(Errno::NOMEM), None);
    let watcher = Watcher::new().unwrap();
    let file = tempfile::tempfile().unwrap();
    let error = watcher.watch(&root(), None, file.as_fd()).unwrap_err();
    assert!(matches!(error, WatchError::Folder { .. }), "{error}");
}

#[test]
fn events_that_cannot_be_read_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let shared = Shared {
        // Reading a folder fails at once.
        queue: fs::File::open(folder.path()).unwrap().into(),
        waker: 0,
        stopped: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        state: Mutex::default(),
        arrived: Notify::new(),
        overflows: AtomicU64::new(0),
        folders_max: AtomicUsize::new(usize::MAX),
    };
    shared.read_all();
    let watcher = Watcher { shared: Arc::new(shared) };
    assert!(watcher.ended());
    assert!(watcher.shared.state().pending.take().unwrap().rescan_all);
}
