//! What is seen of files that hold still, and of files that do not.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::model::{ContentHash, Entry, FileTime};
use crate::tree::{FILE_BYTES_MAX, Observation, Seen, TreeError, observe};

#[track_caller]
fn there(observation: Observation) -> Seen {
    match observation {
        Observation::There(seen) => seen,
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_folders_and_links_as_they_are() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    let name = b"\xff \n'{}";
    let file = top.join(std::ffi::OsStr::from_bytes(name));
    fs::write(&file, "content").unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o6755)).unwrap();
    let seen = there(observe(&root, &path(name), None));
    let hash = ContentHash::of(b"content");
    assert_eq!(seen.entry, Entry::File { mode: 0o755, size: 7, hash });
    assert_eq!(root.list(None).unwrap(), [name.to_vec()]);

    fs::create_dir(top.join("d")).unwrap();
    fs::set_permissions(top.join("d"), PermissionsExt::from_mode(0o1750)).unwrap();
    assert_eq!(there(observe(&root, &path(b"d"), None)).entry, Entry::Folder { mode: 0o750 });

    let target = [b"x/".repeat(1000), b"\xff".to_vec()].concat();
    symlink(std::ffi::OsStr::from_bytes(&target), top.join("l")).unwrap();
    assert_eq!(there(observe(&root, &path(b"l"), None)).entry, Entry::Link { target: target.into() });

    assert!(matches!(observe(&root, &path(b"nothing"), None), Observation::Absent));
    assert!(matches!(observe(&root, &path(b"d/nothing/x"), None), Observation::Absent));
    assert!(matches!(observe(&root, &path(&[name, &b"/x"[..]].concat()), None), Observation::Absent));
}

#[test]
fn large_files_are_read_whole_and_too_large_ones_are_named() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    let content: Vec<u8> = (0..1_000_003_u32).map(|byte| byte as u8).collect();
    fs::write(top.join("x"), &content).unwrap();
    assert_eq!(there(observe(&root, &path(b"x"), None)).entry.content(), Some(ContentHash::of(&content)));
    File::create(top.join("x")).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
    let Observation::Failed(error) = observe(&root, &path(b"x"), None) else { panic!() };
    assert!(matches!(error, TreeError::TooLarge { .. }));
    assert_eq!(error.to_string(), "r:x has 1073741825 bytes, more than the 1073741824 that are carried");
}

#[test]
fn pipes_sockets_and_devices_are_skipped_at_once() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    rustix::fs::mkfifoat(rustix::fs::CWD, top.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(top.join("socket")).unwrap();
    for name in [&b"pipe"[..], b"socket"] {
        assert!(matches!(observe(&root, &path(name), None), Observation::Skipped));
        assert!(matches!(root.open_file(&path(name)), Err(TreeError::NotAFile { .. })));
    }
}

#[test]
fn a_digest_is_believed_only_when_nothing_can_have_changed() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    fs::write(top.join("x"), "1").unwrap();
    root.set_times(&path(b"x"), FileTime { seconds: 1_000, nanos: 0 }).unwrap();
    let true_one = there(observe(&root, &path(b"x"), None));
    let ctime = true_one.stat.ctime.seconds;
    // A hash that tells whether it was believed.
    let entry = Entry::File { mode: true_one.stat.mode, size: 1, hash: ContentHash::of(b"believed") };
    let believed = |seen: &Seen| {
        there(observe(&root, &path(b"x"), Some(seen))).entry.content() == Some(ContentHash::of(b"believed"))
    };
    let at = |seconds| Seen {
        entry: entry.clone(),
        hashed_at: FileTime { seconds, nanos: 0 },
        ..true_one.clone()
    };
    assert!(believed(&at(ctime + 10)));
    assert!(believed(&at(ctime + 3)));
    assert!(!believed(&at(ctime + 2)), "within the racy window");
    assert!(!believed(&at(ctime)));
    assert!(!believed(&at(ctime - 100)), "the clock was set back");
    let mut near_mtime = at(ctime + 10);
    near_mtime.stat.mtime.seconds = ctime + 9;
    assert!(near_mtime.is_racy());
    // The same size and the same mtime, but another content: the change time gives it away.
    fs::write(top.join("x"), "2").unwrap();
    root.set_times(&path(b"x"), FileTime { seconds: 1_000, nanos: 0 }).unwrap();
    assert!(!believed(&at(ctime + 10)));
    assert_eq!(
        there(observe(&root, &path(b"x"), Some(&at(ctime + 10)))).entry.content(),
        Some(ContentHash::of(b"2"))
    );
}

#[test]
fn what_is_open_for_writing_is_busy() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    let mut writer = File::create(top.join("x")).unwrap();
    assert!(matches!(observe(&root, &path(b"x"), None), Observation::Busy));
    writer.write_all(b"1").unwrap();
    assert!(matches!(observe(&root, &path(b"x"), None), Observation::Busy));
    drop(writer);
    there(observe(&root, &path(b"x"), None));
}

#[test]
fn a_file_written_in_place_is_never_seen_in_part() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    let content = vec![b'c'; 300_000];
    fs::write(top.join("x"), &content).unwrap();
    let write = || {
        let mut file = OpenOptions::new().write(true).truncate(true).open(top.join("x")).unwrap();
        file.write_all(&content[..100_000]).unwrap();
        file.write_all(&content[100_000..]).unwrap();
    };
    let whole = Some(ContentHash::of(&content));
    while_disturbed(write, || {
        let mut seen = 0;
        for _ in 0..2_000 {
            match observe(&root, &path(b"x"), None) {
                Observation::There(found) => {
                    assert_eq!(found.entry.content(), whole);
                    seen += 1;
                }
                Observation::Busy => {}
                other => panic!("{other:?}"),
            }
        }
        seen
    });
    there(observe(&root, &path(b"x"), None));
}

#[test]
fn a_file_that_is_replaced_or_vanishes_is_seen_whole_or_not() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    let contents = [vec![b'a'; 50_000], vec![b'b'; 70_000]];
    let hashes = contents.clone().map(|content| ContentHash::of(&content));
    let mut turn = 0;
    let replace = || {
        fs::write(top.join("new"), &contents[turn % 2]).unwrap();
        fs::rename(top.join("new"), top.join("x")).unwrap();
        if turn % 3 == 0 {
            fs::remove_file(top.join("x")).unwrap();
        }
        turn += 1;
    };
    while_disturbed(replace, || {
        for _ in 0..3_000 {
            match observe(&root, &path(b"x"), None) {
                Observation::There(seen) => {
                    let (Entry::File { size, hash, .. }, index) =
                        (&seen.entry, usize::from(seen.entry.content() != Some(hashes[0])))
                    else {
                        panic!("{seen:?}")
                    };
                    assert_eq!((*hash, *size), (hashes[index], contents[index].len() as u64));
                }
                Observation::Absent | Observation::Busy => {}
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_name_that_changes_its_kind_is_never_waited_for_nor_failed() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    let x = top.join("x");
    let change = || {
        fs::write(&x, "1").unwrap();
        fs::remove_file(&x).unwrap();
        fs::create_dir(&x).unwrap();
        fs::remove_dir(&x).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &x, rustix::fs::Mode::RWXU).unwrap();
        fs::remove_file(&x).unwrap();
        symlink("y", &x).unwrap();
        fs::remove_file(&x).unwrap();
    };
    while_disturbed(change, || {
        for _ in 0..5_000 {
            let observation = observe(&root, &path(b"x"), None);
            assert!(!matches!(observation, Observation::Failed(_)), "{observation:?}");
        }
    });
}
