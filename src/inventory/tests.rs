//! The whole inventory on real folders. Walks by the clock are an hour apart, so that what is seen was reported.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::model::{ArtifactPath, ContentHash, Entry, Place, RootRules};
use crate::tree::{Observation, Seen, observe};
use crate::watcher::ChangeSet;

const LONG: Duration = Duration::from_secs(20);

struct Rig {
    outside: tempfile::TempDir,
    path: PathBuf,
    handle: InventoryHandle,
    observed: watch::Receiver<Arc<Observed>>,
    _stop: DropGuard,
}

fn name() -> RootName {
    RootName::new("r")
}

fn place(path: &[u8]) -> Place {
    Place { root: name(), path: ArtifactPath::new(path).unwrap() }
}

fn rules(exclude: &[&str]) -> Rules {
    let exclude = exclude.iter().map(|pattern| (*pattern).to_owned()).collect();
    Rules { roots: vec![(name(), RootRules { exclude, ..RootRules::default() })] }
}

fn start(fill: impl FnOnce(&std::path::Path), exclude: &[&str]) -> Rig {
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("root");
    fs::create_dir(&path).unwrap();
    fill(&path);
    let config = Config {
        roots: vec![RootConfig { name: name(), path: path.clone(), optional: false }],
        rules: rules(exclude),
        rescan_every: Duration::from_secs(3600),
    };
    let (handle, task) = new(config).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(task.run(stop.clone()));
    let observed = handle.observed();
    Rig { outside, path, handle, observed, _stop: stop.drop_guard() }
}

impl Rig {
    async fn ready(fill: impl FnOnce(&std::path::Path)) -> Self {
        let mut rig = start(fill, &[]);
        rig.until(|observed| observed.complete).await;
        rig
    }

    #[track_caller]
    fn until(&mut self, done: impl Fn(&Observed) -> bool) -> impl Future<Output = Arc<Observed>> {
        let caller = std::panic::Location::caller();
        async move {
            let waited = tokio::time::timeout(LONG, self.observed.wait_for(|observed| done(observed)));
            let found = waited.await.map(|observed| Arc::clone(&observed.unwrap()));
            found.unwrap_or_else(|_| panic!("{caller}: never seen; last: {:?}", self.observed.borrow()))
        }
    }

    async fn until_content(&mut self, path: &[u8], content: &[u8]) -> Arc<Observed> {
        let (place, hash) = (place(path), ContentHash::of(content));
        self.until(|observed| observed.forest.get(&place).and_then(Entry::content) == Some(hash)).await
    }

    async fn until_gone(&mut self, path: &[u8]) -> Arc<Observed> {
        let place = place(path);
        self.until(|observed| observed.forest.get(&place).is_none()).await
    }

    /// What was seen is what a fresh look finds.
    async fn assert_true(&self) {
        let seen = self.handle.rescan().await;
        let fresh = new(Config {
            roots: vec![RootConfig { name: name(), path: self.path.clone(), optional: false }],
            rules: rules(&[]),
            rescan_every: LONG,
        });
        let (handle, task) = fresh.unwrap();
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        tokio::spawn(task.run(stop));
        assert_eq!(seen.forest, handle.verify().await.forest);
    }
}

#[tokio::test]
async fn the_first_scan_sees_everything_and_edits_follow() {
    let mut rig = Rig::ready(|path| {
        fs::create_dir_all(path.join("default/api")).unwrap();
        fs::write(path.join("default/api/a.xml"), "1").unwrap();
        std::os::unix::fs::symlink("a.xml", path.join("default/api/l")).unwrap();
        fs::create_dir(path.join(".syncd")).unwrap();
        fs::write(path.join(".syncd/member"), "x").unwrap();
    })
    .await;
    let first = Arc::clone(&rig.observed.borrow());
    assert_eq!(first.forest.iter().count(), 4);
    assert!(first.unwatched.is_none() && first.touched.is_empty() && first.roots[&name()].root.is_some());
    fs::write(rig.path.join("default/api/a.xml"), "2").unwrap();
    let next = rig.until_content(b"default/api/a.xml", b"2").await;
    assert!(next.touched.get(&place(b"default/api/a.xml")).is_some());
    fs::remove_file(rig.path.join("default/api/l")).unwrap();
    rig.until_gone(b"default/api/l").await;
    rig.assert_true().await;
}

#[tokio::test]
async fn folders_that_fill_while_they_are_made_are_seen_whole() {
    let mut rig = Rig::ready(|_| {}).await;
    for round in 0..20 {
        let top = format!("{round}");
        let deep = rig.path.join(&top).join("a/b/c/d");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("x"), "1").unwrap();
        fs::write(rig.path.join(&top).join("a/y"), "2").unwrap();
        rig.until_content(format!("{top}/a/b/c/d/x").as_bytes(), b"1").await;
        rig.until_content(format!("{top}/a/y").as_bytes(), b"2").await;
        // The new folders are watched by now.
        fs::write(deep.join("x"), "3").unwrap();
        rig.until_content(format!("{top}/a/b/c/d/x").as_bytes(), b"3").await;
    }
    rig.assert_true().await;
}

#[tokio::test]
async fn folders_move_in_out_and_about() {
    let mut rig = Rig::ready(|path| fs::create_dir_all(path.join("in/sub")).unwrap()).await;
    let other = rig.outside.path().join("other");
    fs::create_dir_all(other.join("sub")).unwrap();
    fs::write(other.join("sub/x"), "1").unwrap();
    fs::rename(&other, rig.path.join("moved")).unwrap();
    rig.until_content(b"moved/sub/x", b"1").await;
    fs::rename(rig.path.join("moved"), rig.path.join("again")).unwrap();
    rig.until_content(b"again/sub/x", b"1").await;
    rig.until_gone(b"moved").await;
    fs::write(rig.path.join("again/sub/x"), "2").unwrap();
    rig.until_content(b"again/sub/x", b"2").await;
    fs::create_dir_all(rig.path.join("moved/sub")).unwrap();
    fs::write(rig.path.join("moved/sub/x"), "3").unwrap();
    rig.until_content(b"moved/sub/x", b"3").await;
    fs::write(rig.path.join("again/sub/x"), "4").unwrap();
    rig.until_content(b"again/sub/x", b"4").await;
    fs::rename(rig.path.join("again"), &other).unwrap();
    rig.until_gone(b"again").await;
    fs::write(other.join("sub/x"), "5").unwrap();
    rig.assert_true().await;
}

#[tokio::test]
async fn a_file_becomes_a_folder_and_back() {
    let mut rig = Rig::ready(|path| fs::write(path.join("x"), "1").unwrap()).await;
    fs::remove_file(rig.path.join("x")).unwrap();
    fs::create_dir(rig.path.join("x")).unwrap();
    fs::write(rig.path.join("x/y"), "2").unwrap();
    rig.until_content(b"x/y", b"2").await;
    fs::remove_dir_all(rig.path.join("x")).unwrap();
    fs::write(rig.path.join("x"), "3").unwrap();
    rig.until_content(b"x", b"3").await;
    rig.assert_true().await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_busy_and_keeps_its_old_entry() {
    let mut rig = Rig::ready(|path| fs::write(path.join("old"), "1").unwrap()).await;
    let mut old = OpenOptions::new().append(true).open(rig.path.join("old")).unwrap();
    let mut new = File::create(rig.path.join("new")).unwrap();
    old.write_all(b"2").unwrap();
    new.write_all(b"3").unwrap();
    let seen = rig.until(|observed| observed.busy.len() == 2).await;
    assert_eq!(seen.forest.get(&place(b"old")).unwrap().content(), Some(ContentHash::of(b"1")));
    assert_eq!(seen.forest.get(&place(b"new")), None);
    // A walk finds them no differently.
    let walked = rig.handle.verify().await;
    assert_eq!((walked.forest.clone(), walked.busy.len()), (seen.forest.clone(), 2));
    drop((old, new));
    rig.until_content(b"old", b"12").await;
    let seen = rig.until_content(b"new", b"3").await;
    rig.until(|observed| observed.busy.is_empty()).await;
    assert!(seen.failed.is_empty());
}

#[tokio::test]
async fn a_change_of_mode_alone_is_seen() {
    let mut rig = Rig::ready(|path| {
        fs::create_dir(path.join("d")).unwrap();
        fs::write(path.join("x"), "1").unwrap();
    })
    .await;
    fs::set_permissions(rig.path.join("x"), PermissionsExt::from_mode(0o4751)).unwrap();
    fs::set_permissions(rig.path.join("d"), PermissionsExt::from_mode(0o2750)).unwrap();
    let (hash, size) = (ContentHash::of(b"1"), 1);
    rig.until(|observed| {
        observed.forest.get(&place(b"x")) == Some(&Entry::File { mode: 0o751, size, hash })
            && observed.forest.get(&place(b"d")) == Some(&Entry::Folder { mode: 0o750 })
    })
    .await;
}

#[tokio::test]
async fn names_are_bytes() {
    let long = [b'n'; 255];
    let names: [&[u8]; 5] = [b"\xff\xfe", b"a\nb", b" '\"{}*", b"-rf", &long];
    let mut rig = Rig::ready(|_| {}).await;
    for name in names {
        fs::write(rig.path.join(OsStr::from_bytes(name)), name).unwrap();
    }
    for name in names {
        rig.until_content(name, name).await;
    }
    assert_eq!(rig.handle.rescan().await.forest.files(), 5);
}

#[tokio::test]
async fn deep_paths_are_seen() {
    let mut rig = Rig::ready(|_| {}).await;
    let deep = vec!["d"; 100].join("/");
    fs::create_dir_all(rig.path.join(&deep)).unwrap();
    fs::write(rig.path.join(&deep).join("x"), "1").unwrap();
    rig.until_content(format!("{deep}/x").as_bytes(), b"1").await;
    rig.assert_true().await;
}

#[tokio::test]
async fn sockets_and_pipes_are_counted_and_never_waited_for() {
    let mut rig = Rig::ready(|path| {
        let _socket = std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
        fs::write(path.join("x"), "1").unwrap();
    })
    .await;
    let seen = Arc::clone(&rig.observed.borrow());
    assert_eq!((seen.roots[&name()].skipped, seen.forest.files()), (2, 1));
    // A file that becomes a pipe is gone from the manifest, and read no more.
    fs::remove_file(rig.path.join("x")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, rig.path.join("x"), rustix::fs::Mode::RWXU).unwrap();
    rig.until_gone(b"x").await;
    assert_eq!(rig.handle.rescan().await.roots[&name()].skipped, 3);
}

#[tokio::test]
async fn what_is_unreadable_is_named_and_looks_like_no_delete() {
    let mut rig = Rig::ready(|path| fs::write(path.join("x"), "1").unwrap()).await;
    // Root may read anything; a file beyond the limit is one that even root's syncd does not read.
    let file = OpenOptions::new().write(true).open(rig.path.join("x")).unwrap();
    file.set_len(crate::tree::FILE_BYTES_MAX + 1).unwrap();
    drop(file);
    let seen = rig.until(|observed| !observed.failed.is_empty()).await;
    assert_eq!(seen.failed.keys().collect::<Vec<_>>(), [&place(b"x")]);
    assert_eq!(seen.forest.get(&place(b"x")).unwrap().content(), Some(ContentHash::of(b"1")));
    assert_eq!(rig.handle.rescan().await.forest, seen.forest);
    fs::write(rig.path.join("x"), "2").unwrap();
    rig.until_content(b"x", b"2").await;
    rig.until(|observed| observed.failed.is_empty()).await;
}

#[tokio::test]
async fn excluded_paths_are_nowhere_and_rules_may_change() {
    let mut rig = start(
        |path| {
            fs::create_dir_all(path.join("logs")).unwrap();
            fs::write(path.join("logs/l"), "1").unwrap();
            fs::write(path.join("a.xml"), "1").unwrap();
            fs::write(path.join("a.back"), "1").unwrap();
        },
        &["*.back", "logs/"],
    );
    rig.until(|observed| observed.complete).await;
    fs::write(rig.path.join("b.back"), "2").unwrap();
    fs::write(rig.path.join("b.xml"), "2").unwrap();
    let seen = rig.until_content(b"b.xml", b"2").await;
    assert_eq!(
        seen.forest.iter().map(|(place, _)| place).collect::<Vec<_>>(),
        [place(b"a.xml"), place(b"b.xml")]
    );
    assert!(seen.touched.get(&place(b"b.back")).is_none());
    let seen = rig.handle.set_rules(&rules(&["*.xml"])).await.unwrap();
    assert_eq!(seen.forest.files(), 3);
    assert_eq!(seen.forest.get(&place(b"a.xml")), None);
    fs::write(rig.path.join("logs/l"), "3").unwrap();
    rig.until_content(b"logs/l", b"3").await;
}

#[tokio::test]
async fn a_missing_root_keeps_its_manifest_and_comes_back() {
    let mut rig = Rig::ready(|path| fs::write(path.join("x"), "1").unwrap()).await;
    let before = rig.observed.borrow().forest.clone();
    let aside = rig.outside.path().join("aside");
    fs::rename(&rig.path, &aside).unwrap();
    let seen = rig.until(|observed| observed.roots[&name()].missing.is_some()).await;
    assert!(seen.roots[&name()].root.is_none());
    assert_eq!(seen.forest, before);
    assert!(seen.roots[&name()].missing.as_ref().unwrap().ends_with("is not there"));
    fs::write(&rig.path, "a file").unwrap();
    let seen = rig
        .until(|observed| {
            observed.roots[&name()].missing.as_ref().is_some_and(|why| why.ends_with("is not a folder"))
        })
        .await;
    assert_eq!(seen.forest, before);
    fs::remove_file(&rig.path).unwrap();
    fs::write(aside.join("x"), "2").unwrap();
    fs::rename(&aside, &rig.path).unwrap();
    let seen = rig.until_content(b"x", b"2").await;
    assert!(seen.roots[&name()].missing.is_none() && !seen.roots[&name()].device_changed);
    fs::write(rig.path.join("y"), "3").unwrap();
    rig.until_content(b"y", b"3").await;
}

#[tokio::test]
async fn a_replaced_root_is_told_before_it_is_taken() {
    let mut rig = Rig::ready(|path| fs::write(path.join("x"), "1").unwrap()).await;
    let other = rig.outside.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("y"), "2").unwrap();
    let swap = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, &other, rustix::fs::CWD, &rig.path, swap).unwrap();
    let seen = rig.until(|observed| observed.roots[&name()].missing.is_some()).await;
    assert!(seen.roots[&name()].missing.as_ref().unwrap().contains("another folder"));
    assert!(seen.forest.get(&place(b"x")).is_some());
    rig.until_content(b"y", b"2").await;
    rig.until_gone(b"x").await;
}

#[tokio::test]
async fn an_emptied_root_is_there_and_empty() {
    let mut rig = Rig::ready(|path| fs::write(path.join("x"), "1").unwrap()).await;
    fs::remove_file(rig.path.join("x")).unwrap();
    let seen = rig.until_gone(b"x").await;
    assert!(seen.forest.roots.contains_key(&name()) && seen.roots[&name()].missing.is_none());
}

#[tokio::test]
async fn a_root_that_was_never_there_is_not_in_the_forest() {
    let outside = tempfile::tempdir().unwrap();
    let optional = |name: &str, optional| RootConfig {
        name: RootName::new(name),
        path: outside.path().join(name),
        optional,
    };
    let roots = vec![optional("may", true), optional("must", false)];
    let (handle, task) = new(Config { roots, rules: Rules::default(), rescan_every: LONG }).unwrap();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(task.run(stop));
    let seen = handle.rescan().await;
    assert!(seen.complete && seen.forest.roots.is_empty());
    let missing = |name: &str| seen.roots[&RootName::new(name)].missing.is_some();
    assert_eq!((missing("may"), missing("must")), (false, true));
    fs::create_dir(outside.path().join("may")).unwrap();
    let mut observed = handle.observed();
    let came = observed.wait_for(|observed| observed.forest.roots.len() == 1);
    tokio::time::timeout(LONG, came).await.expect("never seen").unwrap();
}

fn no_watches() -> crate::watcher::WatchError {
    crate::watcher::WatchError::Start { source: rustix::io::Errno::MFILE.into() }
}

/// One root in a state that nothing is reported to.
fn unwatched() -> (tempfile::TempDir, PathBuf, state::State) {
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("root");
    fs::create_dir(&path).unwrap();
    let roots = vec![RootConfig { name: name(), path: path.clone(), optional: false }];
    let config = Config { roots, rules: Rules::default(), rescan_every: LONG };
    let mut state = state::State::new(&config, Err(no_watches())).unwrap();
    state.sweep(state::Job::default());
    (outside, path, state)
}

#[tokio::test]
async fn what_was_applied_is_taken_over_unless_it_changed_meanwhile() {
    let (_outside, path, mut state) = unwatched();
    fs::write(path.join("gone"), "1").unwrap();
    fs::write(path.join("kept"), "1").unwrap();
    state.sweep(state::Job { walk: true, ..state::Job::default() });
    let root = state.observed().roots[&name()].root.clone().unwrap();
    fs::write(path.join("x"), "1").unwrap();
    fs::remove_file(path.join("gone")).unwrap();
    let stat = root.stat(&place(b"x").path).unwrap().unwrap();
    // A hash that no reading would give: it can only have been taken over.
    let entry = Entry::File { mode: stat.mode, size: 1, hash: ContentHash::of(b"told") };
    let told = Seen::now(entry.clone(), stat);
    let applied = vec![(place(b"x"), Some(told)), (place(b"gone"), None), (place(b"kept"), None)];
    state.sweep(state::Job { applied: applied.clone(), ..state::Job::default() });
    let seen = state.observed().forest;
    assert_eq!(seen.get(&place(b"x")), Some(&entry));
    assert_eq!(seen.get(&place(b"gone")), None);
    assert!(seen.get(&place(b"kept")).is_some(), "it was said to be gone, and is not");
    fs::write(path.join("x"), "22").unwrap();
    state.sweep(state::Job { applied, ..state::Job::default() });
    let seen = state.observed().forest;
    assert_eq!(seen.get(&place(b"x")).unwrap().content(), Some(ContentHash::of(b"22")));
}

#[tokio::test]
async fn what_this_node_wrote_is_not_read_again_for_its_event() {
    let (_outside, path, mut state) = unwatched();
    let root = state.observed().roots[&name()].root.clone().unwrap();
    // A hash that no reading would give.
    let told = ContentHash::of(b"told");
    let hour = Duration::from_secs(3600);
    let now = std::time::SystemTime::now();
    for (file, mtime, read) in [("old", now - hour, false), ("future", now + hour, true)] {
        fs::write(path.join(file), "1").unwrap();
        File::options().write(true).open(path.join(file)).unwrap().set_modified(mtime).unwrap();
        let place = place(file.as_bytes());
        let stat = root.stat(&place.path).unwrap().unwrap();
        let entry = Entry::File { mode: stat.mode, size: 1, hash: told };
        let applied = vec![(place.clone(), Some(Seen::now(entry, stat)))];
        let event = || ChangeSet {
            paths: [(place.clone(), tokio::time::Instant::now())].into_iter().collect(),
            ..ChangeSet::default()
        };
        state.sweep(state::Job { applied, changes: event(), ..state::Job::default() });
        state.sweep(state::Job { changes: event(), ..state::Job::default() });
        let seen = state.observed().forest.get(&place).and_then(Entry::content);
        assert_eq!(seen != Some(told), read, "{file}");
    }
    // A writer can't leave such a time behind.
    fs::write(path.join("old"), "2").unwrap();
    let changes = ChangeSet {
        paths: [(place(b"old"), tokio::time::Instant::now())].into_iter().collect(),
        ..ChangeSet::default()
    };
    state.sweep(state::Job { changes, ..state::Job::default() });
    let seen = state.observed().forest.get(&place(b"old")).and_then(Entry::content);
    assert_eq!(seen, Some(ContentHash::of(b"2")));
}

#[tokio::test]
async fn what_somebody_else_keeps_is_kept_once_if_it_is_the_same() {
    let (_outside, path, mut state) = unwatched();
    fs::write(path.join("x"), "1").unwrap();
    state.sweep(state::Job { walk: true, ..state::Job::default() });
    let same = crate::model::Manifest::default()
        .with(state.observed().forest.iter().map(|(place, entry)| (place.path, Some(entry.clone()))))
        .unwrap();
    let share = |manifest: &crate::model::Manifest| {
        let roots = [(name(), manifest.clone())].into_iter().collect();
        state::Job { shared: Some(crate::model::Forest { roots }), ..state::Job::default() }
    };
    assert!(!state.observed().forest.roots[&name()].shares_with(&same));
    assert!(state.sweep(share(&same)), "it is told anew, so that the other copy goes");
    assert!(state.observed().forest.roots[&name()].shares_with(&same));
    assert!(!state.sweep(share(&crate::model::Manifest::default())), "another one is not taken");
    assert!(state.observed().forest.roots[&name()].shares_with(&same));
}

#[tokio::test]
async fn events_wait_while_somebody_writes_here() {
    let mut rig = Rig::ready(|path| fs::write(path.join("x"), "1").unwrap()).await;
    let writing = rig.handle.writing();
    fs::write(rig.path.join("x"), "2").unwrap();
    for _ in 0..50 {
        let seen = rig.handle.applied(vec![(place(b"y"), None)]).await;
        assert_eq!(seen.forest.get(&place(b"x")).and_then(Entry::content), Some(ContentHash::of(b"1")));
    }
    drop(writing);
    rig.until_content(b"x", b"2").await;
}

#[tokio::test]
async fn applied_folders_come_with_what_is_in_them() {
    let (_outside, path, mut state) = unwatched();
    fs::create_dir_all(path.join("a/b")).unwrap();
    fs::write(path.join("a/b/x"), "1").unwrap();
    let root = state.observed().roots[&name()].root.clone().unwrap();
    let told = |path: &[u8]| match observe(&root, &place(path).path, None) {
        Observation::There(seen) => (place(path), Some(seen)),
        other => panic!("{other:?}"),
    };
    let applied = vec![told(b"a/b/x"), told(b"a"), told(b"a/b")];
    state.sweep(state::Job { applied, ..state::Job::default() });
    assert_eq!(state.observed().forest.iter().count(), 3);
}

#[tokio::test]
async fn a_handle_answers_even_after_the_end() {
    let rig = Rig::ready(|path| fs::write(path.join("x"), "1").unwrap()).await;
    let handle = rig.handle.clone();
    assert_eq!(handle.applied(Vec::new()).await.forest.files(), 1);
    drop(rig);
    assert_eq!(handle.rescan().await.forest.files(), 1);
}

#[tokio::test]
async fn a_lost_event_is_found_by_the_next_walk() {
    let (_outside, path, mut state) = unwatched();
    assert!(state.is_blind() && state.observed().complete);
    fs::write(path.join("x"), "1").unwrap();
    assert!(state.observed().forest.get(&place(b"x")).is_none());
    state.sweep(state::Job { walk: true, ..state::Job::default() });
    let seen = state.observed();
    assert!(seen.forest.get(&place(b"x")).is_some() && seen.touched.get(&place(b"x")).is_some());
}

#[tokio::test]
async fn lost_events_lead_to_a_walk() {
    let (_outside, path, mut state) = unwatched();
    fs::create_dir_all(path.join("a/b")).unwrap();
    fs::write(path.join("a/b/x"), "1").unwrap();
    let changes = crate::watcher::ChangeSet { rescan_all: true, ..crate::watcher::ChangeSet::default() };
    state.sweep(state::Job { changes, ..state::Job::default() });
    assert!(state.observed().forest.get(&place(b"a/b/x")).is_some());
}

/// Random edits, reported event by event, must lead to what a fresh look finds, without any walk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_alone_keep_up_with_random_edits() {
    use rand::{Rng, SeedableRng};
    let seed: u64 = rand::random();
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut rig = Rig::ready(|path| fs::create_dir(path.join("d0")).unwrap()).await;
    for round in 0..300 {
        for step in 0..25 {
            let mut some = || {
                let depth = random.random_range(1..4);
                (0..depth)
                    .fold(rig.path.clone(), |path, _| path.join(format!("d{}", random.random_range(0..3))))
            };
            let (one, two) = (some(), some());
            // Many of these are impossible at that moment; whatever happens is what counts.
            let _ = match random.random_range(0..9) {
                0 | 1 => fs::create_dir_all(&one),
                2 | 3 => fs::write(one.join("f"), format!("{round} {step}")),
                4 => fs::rename(&one, &two),
                5 => fs::rename(one.join("f"), two.join("f")),
                6 => fs::remove_dir_all(&one),
                7 => {
                    fs::set_permissions(&one, PermissionsExt::from_mode(0o700 | random.random_range(0..0o77)))
                }
                _ => std::os::unix::fs::symlink("f", one.join("l")),
            };
        }
        // The mark comes after all of it in the kernel's queue.
        let content = format!("{round}");
        fs::write(rig.path.join("mark"), &content).unwrap();
        let seen = rig.until_content(b"mark", content.as_bytes()).await;
        let fresh = {
            let roots = vec![RootConfig { name: name(), path: rig.path.clone(), optional: false }];
            let config = Config { roots, rules: Rules::default(), rescan_every: LONG };
            let mut state = state::State::new(&config, Err(no_watches())).unwrap();
            state.sweep(state::Job::default());
            state.observed().forest
        };
        // What the same sweep looked at before the mark was written may have changed once more: its event is under way.
        let caught_up = tokio::time::timeout(LONG, rig.observed.wait_for(|seen| seen.forest == fresh)).await;
        let differing = || seen.forest.edits(&fresh);
        assert!(caught_up.is_ok(), "seed {seed}, round {round}: {:?}", differing());
    }
}

/// A state whose watcher takes so many folders, over `a/b`, `c` and `d` with a file in each.
fn limited(folders: usize) -> (tempfile::TempDir, PathBuf, state::State) {
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("root");
    for folder in ["a/b", "c", "d"] {
        fs::create_dir_all(path.join(folder)).unwrap();
        fs::write(path.join(folder).join("x"), "1").unwrap();
    }
    let config = Config {
        roots: vec![RootConfig { name: name(), path: path.clone(), optional: false }],
        rules: rules(&[]),
        rescan_every: LONG,
    };
    let mut state = state::State::new(&config, crate::watcher::Watcher::new().map(Arc::new)).unwrap();
    state.watcher().limit(folders);
    state.sweep(state::Job { walk: true, ..state::Job::default() });
    (outside, path, state)
}

#[tokio::test]
async fn what_cannot_be_watched_is_polled_and_watched_when_it_can() {
    let poll = || state::Job { poll: true, ..state::Job::default() };
    let (_outside, path, mut state) = limited(1);
    let first = state.observed();
    let unwatched = first.unwatched.clone().unwrap();
    assert_eq!((unwatched.folders, unwatched.of), (4, 5));
    assert_eq!(unwatched.setting, Some("fs.inotify.max_user_watches"));
    assert!(!unwatched.why.contains("r:"), "it names no path: {}", unwatched.why);
    assert_eq!(first.forest.files(), 3, "what has no watch is seen all the same");
    assert!(state.poll_due().is_some());
    for folder in ["a/b", "c", "d"] {
        fs::write(path.join(folder).join("x"), "changed").unwrap();
        fs::write(path.join(folder).join("new"), "1").unwrap();
    }
    // A folder that goes is none without a watch any more.
    fs::remove_dir_all(path.join("d")).unwrap();
    state.sweep(poll());
    let seen = state.observed();
    let polled = seen.forest.iter().filter(|(place, _)| place.path.to_string().ends_with("new")).count();
    assert_eq!(polled, 2, "{seen:?}");
    assert_eq!(seen.unwatched.unwrap().folders, 3);
    state.watcher().limit(usize::MAX);
    state.sweep(poll());
    let seen = state.observed();
    assert_eq!(seen.unwatched, None, "it recovers by itself");
    assert_eq!(state.poll_due(), None);
}

#[tokio::test]
async fn without_any_watch_everything_is_polled() {
    let (_outside, path, mut state) = limited(0);
    assert_eq!(state.observed().unwatched.unwrap().folders, 5);
    fs::write(path.join("c/x"), "changed").unwrap();
    state.sweep(state::Job { poll: true, ..state::Job::default() });
    let changed = state.observed().forest.get(&place(b"c/x")).and_then(Entry::content);
    assert_eq!(changed, Some(ContentHash::of(b"changed")));
    state.watch_by(Err(no_watches()));
    state.sweep(state::Job { walk: true, ..state::Job::default() });
    let unwatched = state.observed().unwatched.unwrap();
    assert_eq!((unwatched.folders, unwatched.setting), (5, Some("fs.inotify.max_user_instances")));
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_all_anew_is_no_news_unless_something_is_different() {
    let mut rig = Rig::ready(|root| {
        (0..200).for_each(|n| fs::write(root.join(format!("f{n:03}")), "x").unwrap());
    })
    .await;
    let mut told = Vec::new();
    let mut report = |_: Reread| {
        told.push(rig.observed.has_changed().unwrap());
        rig.observed.mark_unchanged();
        std::ops::ControlFlow::Continue(())
    };
    let seen = rig.handle.verify_with(&mut report).await.unwrap();
    assert_eq!(seen.forest.iter().count(), 200);
    // The first one tells of the walk.
    assert!(told.len() > 2 && told.iter().skip(1).all(|news| !news), "{told:?}");
}
