//! What is taken of an offer, as tables.

use super::*;
use crate::apply::testing::{File, Folder, Link, What, forest, place, root_name};
use crate::model::{Generation, RootRules, Rules};

type Entries<'a> = &'a [(&'a str, What)];

/// What is taken of `offered` by a manager whose folder holds `there`, when `left` more artifacts may be deleted.
#[track_caller]
fn check(head: Entries<'_>, there: Entries<'_>, offered: &[(&str, Option<What>)], left: u64, taken: &str) {
    let protect = vec!["keep*".to_owned()];
    let forest_of_head = forest(head);
    let generation = Generation {
        number: 1,
        parent: 0,
        digest: forest_of_head.digest(),
        epoch: 1,
        author: "gw1".to_owned(),
        created_unix_ms: 0,
    };
    let rules = Rules { roots: vec![(root_name(), RootRules { protect, ..RootRules::default() })] };
    let head = Adopted { generation, rules, forest: forest_of_head };
    let observed = Observed { forest: forest(there), complete: true, ..Observed::default() };
    let change = |(path, what): &(&str, Option<What>)| Change {
        place: place(path),
        entry: what.map(What::entry),
        mtime: None,
    };
    let changes: Vec<Change> = offered.iter().map(change).collect();
    let sight = Sight { base: &head.forest, head: &head, observed: &observed, deletes_left: left };
    let (chosen, edits) = sight.choose(&changes, |_| true);
    let names: Vec<&str> = chosen.iter().map(|index| offered[*index as usize].0).collect();
    assert_eq!(names.join(" "), taken);
    let made: Vec<String> = edits.iter().map(|edit| edit.place.path.to_string()).collect();
    assert_eq!(made.join(" "), taken);
}

#[test]
fn a_protected_artifact_is_not_deleted_nor_the_folder_that_it_is_in() {
    let all = [
        ("a", File("1")),
        ("d", Folder),
        ("d/b", File("1")),
        ("d/keep", File("1")),
        ("e", Folder),
        ("e/c", File("1")),
    ];
    let offered = [("d", None), ("d/b", None), ("d/keep", None), ("e", None), ("e/c", None)];
    check(&all, &all, &offered, 9, "d/b e e/c");
    check(&all, &all, &[("d/keep", Some(File("2")))], 9, "d/keep");
}

#[test]
fn no_root_is_emptied() {
    let all = [("a", File("1")), ("d", Folder), ("d/b", File("1"))];
    check(&all, &all, &[("a", None), ("d", None), ("d/b", None)], 9, "");
    check(&all, &all, &[("d", None), ("d/b", None)], 9, "d d/b");
    check(&all, &all, &[("a", None), ("c", Some(File("2"))), ("d", None), ("d/b", None)], 9, "a c d d/b");
    check(&all, &[("d", Folder)], &[("c", Some(File("2")))], 9, "");
    check(&[("d", Folder)], &[("d", Folder)], &[("c", Some(File("2"))), ("d", None)], 9, "c d");
}

#[test]
fn deletes_count_with_those_committed_lately_and_those_that_wait_here() {
    let head = [("a", File("1")), ("b", File("1")), ("c", File("1")), ("d", Folder), ("e", File("1"))];
    let offered = [("a", None), ("b", None), ("d", None), ("n", Some(File("2")))];
    check(&head, &head, &offered, 2, "a b d n");
    check(&head, &head, &offered, 1, "n");
    let there = [head[0], head[1], head[3], head[4]];
    check(&head, &there, &offered, 2, "n");
    check(&head, &there, &offered, 3, "a b d n");
}

#[test]
fn what_was_changed_here_too_is_not_taken() {
    let head = [("a", File("1")), ("b", File("1"))];
    let there = [("a", File("mine")), ("b", File("1"))];
    check(&head, &there, &[("a", Some(File("2"))), ("b", Some(File("2")))], 9, "b");
    check(&head, &head, &[("b", Some(Link("../out")))], 9, "");
}
