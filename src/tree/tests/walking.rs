//! Walks over real folders.

use std::cell::RefCell;
use std::fs;

use super::*;
use crate::model::{ContentHash, RootRules};
use crate::plan::Matcher;
use crate::tree::{Entered, Seen, Walk, walk};

fn matcher(exclude: &[&str]) -> Matcher {
    let exclude = exclude.iter().map(|pattern| (*pattern).to_owned()).collect();
    Matcher::new(&RootRules { exclude, ..RootRules::default() }).unwrap()
}

fn walk_all(root: &Root, exclude: &[&str]) -> Walk {
    walk(root, &matcher(exclude), &|_| None, &mut |_| {}, None)
}

fn names(walk: &Walk) -> Vec<String> {
    let mut names: Vec<String> = walk.seen.iter().map(|(path, _)| path.to_string()).collect();
    names.sort();
    names
}

#[test]
fn everything_but_what_is_excluded() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    fs::create_dir_all(top.join("a/b")).unwrap();
    fs::create_dir_all(top.join("a/.syncd")).unwrap();
    fs::create_dir_all(top.join(".syncd/stage")).unwrap();
    fs::create_dir_all(top.join("logs/deep")).unwrap();
    for file in ["a/b/x.xml", "a/x.back", ".syncd/stage/y", "logs/deep/z", "w"] {
        fs::write(top.join(file), file).unwrap();
    }
    let entered = RefCell::new(Vec::new());
    let mut enter = |Entered { folder, .. }: Entered<'_>| {
        entered.borrow_mut().push(folder.map_or_else(String::new, ToString::to_string));
    };
    let found = walk(&root, &matcher(&["*.back", "logs/"]), &|_| None, &mut enter, None);
    assert_eq!(names(&found), ["a", "a/.syncd", "a/b", "a/b/x.xml", "w"]);
    assert!(found.failed.is_empty() && found.busy.is_empty());
    let mut entered = entered.into_inner();
    entered.sort();
    assert_eq!(entered, ["", "a", "a/.syncd", "a/b"]);
    // Only a part of it.
    let part = walk(&root, &matcher(&[]), &|_| None, &mut |_| {}, Some(&path(b"a/b")));
    assert_eq!(names(&part), ["a/b/x.xml"]);
}

#[test]
fn what_arrives_before_a_folder_is_listed_is_seen() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    fs::create_dir_all(top.join("a/b")).unwrap();
    let mut enter = |Entered { folder, .. }: Entered<'_>| {
        let folder = folder.map_or(top.clone(), |folder| top.join(folder.as_path()));
        fs::write(folder.join("late"), "x").unwrap();
    };
    let found = walk(&root, &matcher(&[]), &|_| None, &mut enter, None);
    assert_eq!(names(&found), ["a", "a/b", "a/b/late", "a/late", "late"]);
}

#[test]
fn folders_that_vanish_on_the_way_are_no_failure() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    for folder in ["a", "b", "c"] {
        fs::create_dir(top.join(folder)).unwrap();
        fs::write(top.join(folder).join("x"), "x").unwrap();
    }
    let mut enter = |Entered { folder, .. }: Entered<'_>| match folder.map(ArtifactPath::as_bytes) {
        Some(b"a") => fs::remove_dir_all(top.join("a")).unwrap(),
        Some(b"b") => {
            fs::remove_dir_all(top.join("b")).unwrap();
            std::os::unix::fs::symlink("c", top.join("b")).unwrap();
        }
        _ => {}
    };
    let found = walk(&root, &matcher(&[]), &|_| None, &mut enter, None);
    assert!(found.failed.is_empty(), "{:?}", found.failed);
    assert_eq!(names(&found), ["a", "b", "c", "c/x"]);
}

#[test]
fn known_digests_are_asked_for() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    fs::write(top.join("x"), "1").unwrap();
    let (_, seen) = walk_all(&root, &[]).seen.remove(0);
    let known = Seen {
        entry: crate::model::Entry::File { mode: 0o644, size: 1, hash: ContentHash::of(b"known") },
        hashed_at: crate::model::FileTime { seconds: seen.stat.ctime.seconds + 100, nanos: 0 },
        ..seen
    };
    let found = walk(&root, &matcher(&[]), &|_| Some(known.clone()), &mut |_| {}, None);
    assert_eq!(found.seen[0].1.entry.content(), Some(ContentHash::of(b"known")));
}

#[test]
fn what_can_not_be_carried_is_counted() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    let deep = vec!["d"; crate::model::PATH_DEPTH_MAX].join("/");
    fs::create_dir_all(top.join(&deep)).unwrap();
    fs::write(top.join(&deep).join("x"), "1").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, top.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
    let found = walk_all(&root, &[]);
    assert_eq!((found.seen.len(), found.skipped), (crate::model::PATH_DEPTH_MAX, 2));
    // Another file system is not entered, and nothing is known of what it hides.
    let host = Root::open(RootName::new("r"), std::path::Path::new("/")).unwrap();
    let found = walk_all(&host, &["/*", "!/proc"]);
    assert_eq!((found.seen.len(), found.skipped, found.failed.len()), (0, 0, 1));
    let found = walk_all(&host, &["/*", "!/proc", "proc/"]);
    assert_eq!((found.seen.len(), found.skipped, found.failed.len()), (0, 0, 0));
}

#[test]
fn no_handle_is_left_or_piled_up() {
    let Fixture { outside: _outside, path: top, root } = fixture();
    fs::create_dir_all(top.join("a/b/c/d/e/f/g/h")).unwrap();
    fs::write(top.join("a/b/c/x"), "1").unwrap();
    let open = || {
        let handles = fs::read_dir("/proc/self/fd").unwrap();
        let targets = handles.filter_map(|handle| fs::read_link(handle.ok()?.path()).ok());
        targets.filter(|target| target.starts_with(&top)).count()
    };
    let before = open();
    let mut most = 0;
    let mut enter = |_: Entered<'_>| most = most.max(open());
    walk(&root, &matcher(&[]), &|_| None, &mut enter, None);
    assert_eq!((before, most, open()), (1, 2, 1));
}
