//! Nothing leads outside a root: links, mounts, and folders that become links meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::model::{ContentHash, FileTime};
use crate::tree::{Kind, Observation, StageName, Staged, TreeError, observe};

const BOTH: [Confinement; 2] = [Confinement::Kernel, Confinement::Stepwise];

fn staged(content: &[u8]) -> Staged {
    Staged {
        hash: ContentHash::of(content),
        size: content.len() as u64,
        mode: 0o644,
        owner: None,
        mtime: FileTime { seconds: 1, nanos: 0 },
    }
}

/// Tries everything on `target`, whatever comes of it.
fn try_everything(root: &Arc<Root>, target: &ArtifactPath, round: u64) {
    let workshop = root.workshop().unwrap();
    let name = StageName::new(1, round, target);
    let taken = StageName::new(2, round, target);
    workshop.stage(&name, &mut &b"in"[..], &staged(b"in")).unwrap();
    // Refusals are what is wanted here; what matters is checked afterwards, outside.
    let _ = root.stat(target);
    if let Ok(mut file) = root.open_file(target) {
        let mut content = String::new();
        std::io::Read::read_to_string(&mut file, &mut content).unwrap();
        assert_ne!(content, SECRET);
    }
    if let Observation::There(seen) = observe(root, target, None) {
        assert_ne!(seen.entry.content(), Some(ContentHash::of(SECRET.as_bytes())));
    }
    let _ = workshop.exchange(&name, target);
    let _ = workshop.take(target, &taken);
    let _ = workshop.place(&name, target);
    let _ = root.set_mode(target, 0o777);
    let _ = root.set_owner(target, 12345, 12345);
    let _ = root.set_times(target, FileTime { seconds: 7, nanos: 0 });
    let _ = root.make_folder(target, 0o755);
    let _ = root.list(target.parent().as_ref());
    let _ = root.sync_folders(&BTreeSet::from([target.parent()]));
    let _ = root.remove_folder(target);
    for name in workshop.list().unwrap() {
        workshop.remove(&name).unwrap();
    }
}

fn state_of(folder: &Path) -> Vec<(std::ffi::OsString, u64, u32, u32, i64, u64)> {
    let mut state: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let stat = entry.metadata().unwrap();
            (entry.file_name(), stat.ino(), stat.mode(), stat.uid(), stat.mtime(), stat.size())
        })
        .collect();
    state.sort();
    state
}

#[test]
fn a_folder_that_is_a_link_is_no_folder() {
    for confinement in BOTH {
        let Fixture { outside, path: top, root } = fixture_with(confinement);
        let other = outside.path().join("other");
        fs::create_dir_all(other.join("deep")).unwrap();
        fs::write(other.join("secret"), SECRET).unwrap();
        symlink(&other, top.join("absolute")).unwrap();
        symlink("../other", top.join("relative")).unwrap();
        fs::create_dir(top.join("real")).unwrap();
        symlink("real", top.join("inner")).unwrap();
        let before = (state_of(&other), state_of(outside.path()));
        for target in ["absolute/secret", "relative/secret", "relative/deep/new", "relative/new"] {
            try_everything(&root, &path(target.as_bytes()), 0);
            assert!(root.stat(&path(target.as_bytes())).unwrap().is_none());
            assert!(root.list(path(target.as_bytes()).parent().as_ref()).is_err());
        }
        assert_eq!((state_of(&other), state_of(outside.path())), before, "{confinement:?}");
        // Also one that stays inside: a parent is a real folder, always.
        assert!(root.stat(&path(b"inner/x")).unwrap().is_none());
        assert!(root.make_folder(&path(b"inner/x"), 0o755).is_err());
        assert!(root.make_folder(&path(b"real/x"), 0o755).unwrap());
    }
}

#[test]
fn the_last_name_is_never_followed() {
    for confinement in BOTH {
        let Fixture { outside, path: top, root } = fixture_with(confinement);
        let secret = outside.path().join("secret");
        fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        symlink("../secret", top.join("l")).unwrap();
        let before = fs::metadata(&secret).unwrap();
        assert!(matches!(root.open_file(&path(b"l")), Err(TreeError::NotAFile { .. })));
        assert!(matches!(root.set_mode(&path(b"l"), 0o777), Err(TreeError::NotAFile { .. })));
        root.set_times(&path(b"l"), FileTime { seconds: 7, nanos: 0 }).unwrap();
        root.set_owner(&path(b"l"), 12345, 12345).unwrap();
        assert_eq!(root.read_link(&path(b"l")).unwrap(), b"../secret");
        let stat = root.stat(&path(b"l")).unwrap().unwrap();
        assert_eq!((stat.kind, stat.mtime.seconds, stat.uid), (Kind::Link, 7, 12345));
        let after = fs::metadata(&secret).unwrap();
        assert_eq!(
            (after.mode(), after.uid(), after.mtime(), after.ctime_nsec()),
            (before.mode(), before.uid(), before.mtime(), before.ctime_nsec())
        );
    }
}

#[test]
fn a_folder_that_becomes_a_link_meanwhile_leads_nowhere() {
    for confinement in BOTH {
        let Fixture { outside, path: top, root } = fixture_with(confinement);
        let other = outside.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("x"), SECRET).unwrap();
        fs::create_dir(top.join("a")).unwrap();
        fs::write(top.join("a/x"), "inside").unwrap();
        symlink("../other", top.join("l")).unwrap();
        let before = state_of(&other);
        let swap = || {
            let (a, l) = (top.join("a"), top.join("l"));
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &l, flags).unwrap();
        };
        while_disturbed(swap, || {
            for round in 0..300 {
                try_everything(&root, &path(b"a/x"), round);
            }
        });
        assert_eq!(state_of(&other), before, "{confinement:?}");
    }
}

#[test]
fn what_is_mounted_in_a_root_is_not_part_of_it() {
    for confinement in BOTH {
        // Every Linux host has something mounted there.
        let root = Root::open(RootName::new("r"), Path::new("/")).unwrap().confined_by(confinement);
        assert_eq!(root.stat(&path(b"proc")).unwrap().unwrap().kind, Kind::Mount);
        // What the root itself has there is hidden, not gone.
        for hidden in [&b"proc"[..], b"proc/version"] {
            assert!(matches!(observe(&root, &path(hidden), None), Observation::Failed(_)));
        }
        assert!(root.stat(&path(b"proc/version")).is_err());
        assert!(root.open_file(&path(b"proc/version")).is_err());
        assert!(root.open_file(&path(b"proc/self/root/proc/version")).is_err());
        assert!(root.list(Some(&path(b"proc"))).is_err());
    }
}

#[test]
fn a_workshop_that_is_no_folder_is_refused() {
    for confinement in BOTH {
        let Fixture { outside, path: top, root } = fixture_with(confinement);
        let other = outside.path().join("other");
        fs::create_dir(&other).unwrap();
        symlink(&other, top.join(".syncd")).unwrap();
        assert!(matches!(root.workshop(), Err(TreeError::ForeignWorkshop { .. })));
        assert_eq!(root.set_workshop_aside().unwrap().as_deref(), Some(".syncd.foreign-1"));
        fs::write(top.join(".syncd"), "x").unwrap();
        assert!(matches!(root.workshop(), Err(TreeError::ForeignWorkshop { .. })));
        assert_eq!(root.set_workshop_aside().unwrap().as_deref(), Some(".syncd.foreign-2"));
        fs::create_dir(top.join(".syncd")).unwrap();
        symlink(&other, top.join(".syncd/stage")).unwrap();
        assert!(matches!(root.workshop(), Err(TreeError::ForeignWorkshop { .. })));
        assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
    }
}

#[test]
fn a_root_tells_how_it_was_lost() {
    let Fixture { outside, path: top, root } = fixture();
    root.still_there().unwrap();
    let away = outside.path().join("away");
    fs::rename(&top, &away).unwrap();
    assert!(matches!(root.still_there(), Err(TreeError::Missing { .. })));
    fs::write(&top, "x").unwrap();
    assert!(matches!(root.still_there(), Err(TreeError::NotAFolder { .. })));
    fs::remove_file(&top).unwrap();
    fs::create_dir(&top).unwrap();
    assert!(matches!(root.still_there(), Err(TreeError::Replaced { .. })));
    fs::remove_dir(&top).unwrap();
    symlink("/proc", &top).unwrap();
    assert!(matches!(root.still_there(), Err(TreeError::OtherDevice { .. })));
    // A link to the very folder is that folder.
    fs::remove_file(&top).unwrap();
    symlink(&away, &top).unwrap();
    root.still_there().unwrap();
    assert!(root.still_there().is_ok() && root.path() == top);
}
