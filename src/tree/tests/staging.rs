//! The workshop: staging, exchanging, placing, taking away.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::model::{ContentHash, FileTime};
use crate::tree::{Kind, StageName, Staged, TreeError};

fn staged(content: &[u8]) -> Staged {
    Staged {
        hash: ContentHash::of(content),
        size: content.len() as u64,
        mode: 0o640,
        owner: None,
        mtime: FileTime { seconds: 1_000_000_000, nanos: 5 },
    }
}

fn name(sequence: u64) -> StageName {
    StageName::new(7, sequence, &path(b"x"))
}

#[test]
fn what_is_staged_is_what_was_announced() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    let workshop = root.workshop().unwrap();
    let content = vec![b'c'; 400_000];
    let wanted = Staged { owner: Some((12, 34)), ..staged(&content) };
    workshop.stage(&name(1), &mut &content[..], &wanted).unwrap();
    workshop.sync().unwrap();
    let stat = fs::metadata(top.join(".syncd/stage").join(name(1).as_str())).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o640, 12, 34));
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_000_000_000, 5));
    let mut read = Vec::new();
    workshop.open(&name(1)).unwrap().read_to_end(&mut read).unwrap();
    assert_eq!(read, content);
    assert!(matches!(workshop.stage(&name(1), &mut &b""[..], &staged(b"")), Err(TreeError::Io { .. })));
    assert_eq!(workshop.list().unwrap(), [name(1)]);
    assert_eq!(fs::metadata(top.join(".syncd")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn what_is_not_as_announced_leaves_nothing_behind() {
    let Fixture { outside: _outside, path: _, root } = fixture();
    let workshop = root.workshop().unwrap();
    let wanted = staged(b"content");
    for wrong in [&b"CONTENT"[..], b"conten", b"content!", b"", &[b'x'; 1_000_000]] {
        let refused = workshop.stage(&name(1), &mut &wrong[..], &wanted);
        assert!(matches!(refused, Err(TreeError::Mismatch { .. })), "{refused:?}");
    }
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("broken"))
        }
    }
    assert!(matches!(workshop.stage(&name(1), &mut Broken, &wanted), Err(TreeError::Io { .. })));
    assert!(workshop.list().unwrap().is_empty());
    workshop.stage(&name(1), &mut &b""[..], &staged(b"")).unwrap();
}

#[test]
fn an_exchange_brings_out_what_was_there() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    let workshop = root.workshop().unwrap();
    fs::write(top.join("x"), "old").unwrap();
    let old = fs::metadata(top.join("x")).unwrap().ino();
    workshop.stage(&name(1), &mut &b"new"[..], &staged(b"new")).unwrap();
    let new = workshop.stat(&name(1)).unwrap().unwrap();
    workshop.exchange(&name(1), &path(b"x")).unwrap();
    assert_eq!(fs::read(top.join("x")).unwrap(), b"new");
    assert_eq!(fs::metadata(top.join("x")).unwrap().ino(), new.inode);
    assert_eq!(root.stat(&path(b"x")).unwrap().unwrap().mtime, new.mtime);
    assert_eq!(workshop.stat(&name(1)).unwrap().unwrap().inode, old);
    // Nothing there to be exchanged with.
    let gone = workshop.exchange(&name(1), &path(b"y"));
    assert!(matches!(&gone, Err(error @ TreeError::Gone { .. }) if error.is_absent()), "{gone:?}");
    let unstaged = workshop.exchange(&name(9), &path(b"x"));
    assert!(matches!(unstaged, Err(TreeError::Io { .. })));
    // Whatever is there comes out: a folder, a link.
    fs::create_dir(top.join("d")).unwrap();
    workshop.exchange(&name(1), &path(b"d")).unwrap();
    assert_eq!(workshop.stat(&name(1)).unwrap().unwrap().kind, Kind::Folder);
    workshop.remove(&name(1)).unwrap();
    workshop.remove(&name(1)).unwrap();
    workshop.stage_link(&name(2), b"../elsewhere").unwrap();
    workshop.sync().unwrap();
    workshop.exchange(&name(2), &path(b"x")).unwrap();
    assert_eq!(root.read_link(&path(b"x")).unwrap(), b"../elsewhere");
    workshop.stage_link(&name(3), b"t").unwrap();
    workshop.exchange(&name(3), &path(b"x")).unwrap();
    assert_eq!(workshop.read_link(&name(3)).unwrap(), b"../elsewhere");
}

#[test]
fn a_place_is_taken_once() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    let workshop = root.workshop().unwrap();
    workshop.stage(&name(1), &mut &b"new"[..], &staged(b"new")).unwrap();
    symlink("nowhere", top.join("link")).unwrap();
    assert!(!workshop.place(&name(1), &path(b"link")).unwrap());
    assert!(workshop.place(&name(1), &path(b"x")).unwrap());
    assert!(workshop.stat(&name(1)).unwrap().is_none());
    workshop.stage(&name(1), &mut &b"2"[..], &staged(b"2")).unwrap();
    assert!(!workshop.place(&name(1), &path(b"x")).unwrap());
    assert_eq!(fs::read(top.join("x")).unwrap(), b"new");
    assert!(matches!(workshop.place(&name(1), &path(b"no/x")), Err(error) if error.is_absent()));

    assert!(workshop.take(&path(b"x"), &name(2)).unwrap());
    assert!(!workshop.take(&path(b"x"), &name(3)).unwrap());
    assert!(!workshop.take(&path(b"no/x"), &name(3)).unwrap());
    fs::write(top.join("x"), "3").unwrap();
    assert!(workshop.take(&path(b"x"), &name(2)).is_err(), "the name is taken");
    assert!(top.join("x").exists());
}

#[test]
fn a_reader_sees_the_old_or_the_new_file_always() {
    for by_link in [false, true] {
        let Fixture { outside: _outside, path: top, root } = fixture();
        let workshop = root.workshop().unwrap();
        let contents = [vec![b'a'; 30_000], vec![b'b'; 50_000]];
        fs::write(top.join("x"), &contents[0]).unwrap();
        let read = || {
            let content = fs::read(top.join("x")).expect("absent");
            assert!(contents.contains(&content));
        };
        while_disturbed(read, || {
            for turn in 0..300 {
                let content = &contents[turn % 2];
                workshop.stage(&name(1), &mut &content[..], &staged(content)).unwrap();
                if by_link {
                    workshop.exchange_without_kernel(&name(1), &path(b"x")).unwrap();
                } else {
                    workshop.exchange(&name(1), &path(b"x")).unwrap();
                }
                workshop.remove(&name(1)).unwrap();
            }
        });
    }
}

#[test]
fn an_exchange_by_link_is_the_same_and_its_leftovers_are_found() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    let workshop = root.workshop().unwrap();
    fs::write(top.join("x"), "old").unwrap();
    let old = fs::metadata(top.join("x")).unwrap().ino();
    workshop.stage(&name(1), &mut &b"new"[..], &staged(b"new")).unwrap();
    workshop.exchange_without_kernel(&name(1), &path(b"x")).unwrap();
    assert_eq!(fs::read(top.join("x")).unwrap(), b"new");
    let out = fs::metadata(top.join(".syncd/stage").join(name(1).as_str())).unwrap();
    assert_eq!((out.ino(), out.nlink()), (old, 1));
    assert!(workshop.exchange_without_kernel(&name(1), &path(b"nothing")).is_err());
    assert!(workshop.stat(&name(1)).unwrap().is_some());
    // As a crash between its steps leaves it: the old content aside, with the staged name taken or free.
    for file in [name(1), name(5)] {
        fs::write(top.join(".syncd/aside").join(file.as_str()), "aside").unwrap();
    }
    drop(workshop);
    let workshop = root.workshop().unwrap();
    assert_eq!(workshop.list().unwrap(), [name(1), name(2), name(5)]);
    assert_eq!(fs::read_dir(top.join(".syncd/aside")).unwrap().count(), 0);
}

#[test]
fn the_mark_is_whole_and_never_a_link() {
    let Fixture { outside, path: top, root } = fixture();
    let workshop = root.workshop().unwrap();
    assert_eq!(workshop.read_mark().unwrap(), None);
    workshop.write_mark(b"one").unwrap();
    fs::write(top.join(".syncd/member.new"), "left by a crash").unwrap();
    workshop.write_mark(b"two").unwrap();
    assert_eq!(workshop.read_mark().unwrap().as_deref(), Some(&b"two"[..]));
    fs::remove_file(top.join(".syncd/member")).unwrap();
    symlink("../../secret", top.join(".syncd/member")).unwrap();
    assert!(workshop.read_mark().is_err());
    workshop.write_mark(b"three").unwrap();
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), SECRET);
    assert_eq!(workshop.read_mark().unwrap().as_deref(), Some(&b"three"[..]));
}

#[test]
fn the_workshop_is_closed_to_others_and_leaves_strangers_alone() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    fs::create_dir_all(top.join(".syncd/stage")).unwrap();
    fs::set_permissions(top.join(".syncd"), PermissionsExt::from_mode(0o777)).unwrap();
    fs::write(top.join(".syncd/stage/a.xml"), "x").unwrap();
    let workshop = root.workshop().unwrap();
    assert_eq!(fs::metadata(top.join(".syncd")).unwrap().mode() & 0o777, 0o700);
    assert!(workshop.list().unwrap().is_empty());
    assert!(top.join(".syncd/stage/a.xml").exists());
}

#[test]
fn many_and_few_are_synced() {
    let Fixture { outside: _outside, path: _, root } = fixture();
    let workshop = root.workshop().unwrap();
    for number in 0..40 {
        workshop.stage(&name(number), &mut &b"x"[..], &staged(b"x")).unwrap();
    }
    workshop.sync().unwrap();
    workshop.stage(&name(40), &mut &b"x"[..], &staged(b"x")).unwrap();
    workshop.stage(&name(41), &mut &b"x"[..], &staged(b"x")).unwrap();
    workshop.remove(&name(41)).unwrap();
    assert!(workshop.place(&name(40), &path(b"x")).unwrap());
    workshop.sync().unwrap();
}

#[test]
fn folders_are_made_removed_and_synced() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    assert!(root.make_folder(&path(b"d"), 0o2751).unwrap());
    assert_eq!(fs::metadata(top.join("d")).unwrap().mode() & 0o7777, 0o751);
    assert!(!root.make_folder(&path(b"d"), 0o755).unwrap());
    assert!(root.make_folder(&path(b"no/d"), 0o755).is_err_and(|error| error.is_absent()));
    root.set_mode(&path(b"d"), 0o700).unwrap();
    fs::write(top.join("d/x"), "x").unwrap();
    let before = fs::metadata(top.join("d/x")).unwrap().mtime_nsec();
    root.set_mode(&path(b"d/x"), 0o4777).unwrap();
    let stat = fs::metadata(top.join("d/x")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime_nsec()), (0o777, before));
    assert!(!root.remove_folder(&path(b"d")).unwrap());
    assert!(!root.remove_folder(&path(b"d/x")).unwrap());
    fs::remove_file(top.join("d/x")).unwrap();
    assert!(root.remove_folder(&path(b"d")).unwrap());
    assert!(!root.remove_folder(&path(b"d")).unwrap());
    root.sync_folders(&[None, Some(path(b"d"))].into()).unwrap();
}

#[test]
fn a_full_disk_is_told_from_other_failures() {
    let full = |errno| TreeError::io("write", "x", errno).is_full();
    assert!(full(rustix::io::Errno::NOSPC) && full(rustix::io::Errno::DQUOT));
    assert!(!full(rustix::io::Errno::IO));
}
