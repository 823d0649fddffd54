//! What is offered, and what is kept for the new manager meanwhile.

use super::*;
use crate::apply::testing::{File, Folder, Link, What, forest, place, root_name, rules};
use crate::model::{ContentHash, RootRules, Rules};

fn edit(path: &str, old: Option<Entry>, new: Option<Entry>) -> Edit {
    Edit { place: place(path), old, new }
}

fn of_size(size: u64) -> Option<Entry> {
    Some(Entry::File { mode: 0o644, size, hash: ContentHash::of(b"") })
}

fn handover(now: Instant) -> Handover {
    let until = now + Duration::from_secs(10);
    Handover { until, again: now, taken: BTreeMap::new(), refused: BTreeMap::new() }
}

#[test]
fn what_does_not_fit_into_an_offer_keeps_nothing_else_back() {
    let edits: Vec<Edit> = [("a", 1), ("b", CONTENT_BYTES_MAX), ("c", CONTENT_BYTES_MAX + 1), ("d", 2)]
        .map(|(path, size)| edit(path, of_size(size), None))
        .into();
    let offered = |from: usize| {
        let due: Vec<&Edit> = edits[from..].iter().collect();
        let names = changes(&due, &edits).into_iter().map(|change| change.place.path.to_string());
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(offered(0), "a d");
    assert_eq!(offered(1), "b");
    assert_eq!(offered(2), "d");
}

#[test]
fn what_a_publish_would_not_let_through_is_not_kept_for_the_new_manager() {
    let now = Instant::now();
    let protect = vec!["keep*".to_owned()];
    let rules = Rules { roots: vec![(root_name(), RootRules { protect, ..RootRules::default() })] };
    let head = forest(&[("a", File("1")), ("keep", File("1")), ("d", Folder)]);
    let there = forest(&[("b", File("1"))]);
    let keeps = |path, old: Option<Entry>, new: Option<What>| {
        let limits = Limits::new(&rules, &head, &there);
        handover(now).keeps(&edit(path, old, new.map(What::entry)), &limits, now)
    };
    assert!(keeps("a", None, Some(File("1"))), "a delete");
    assert!(!keeps("keep", None, Some(File("1"))), "of a protected one");
    assert!(keeps("keep", Some(File("2").entry()), Some(File("1"))), "a new version of it");
    assert!(keeps("d", None, Some(Folder)));
    assert!(keeps("l", Some(Link("a").entry()), None));
    assert!(!keeps("l", Some(Link("../a").entry()), None), "a link out of the root");
    assert!(keeps("f", of_size(CONTENT_BYTES_MAX), None));
    assert!(!keeps("f", of_size(CONTENT_BYTES_MAX + 1), None), "more than an offer may have");
    let elsewhere = Edit {
        place: Place { root: crate::model::RootName::new("other"), path: place("a").path },
        old: of_size(1),
        new: None,
    };
    assert!(!handover(now).keeps(&elsewhere, &Limits::new(&rules, &head, &there), now));
}

#[test]
fn nothing_is_offered_of_a_root_that_lost_everything() {
    let now = Instant::now();
    let (rules, head) = (rules(), forest(&[("a", File("1")), ("d", Folder)]));
    let keeps = |head: &Forest, there: &Forest, edit: &Edit| {
        handover(now).keeps(edit, &Limits::new(&rules, head, there), now)
    };
    let bare = forest(&[("d", Folder), ("e", Folder)]);
    let gone = edit("a", None, Some(File("1").entry()));
    let folder = edit("e", Some(Folder.entry()), None);
    assert!(!keeps(&head, &bare, &gone));
    assert!(!keeps(&head, &bare, &folder));
    assert!(keeps(&bare, &bare, &folder), "the head has no more");
    assert!(keeps(&head, &forest(&[("b", File("1"))]), &gone));
}

#[test]
fn what_was_refused_is_kept_only_once_it_is_another() {
    let now = Instant::now();
    let (rules, head) = (rules(), forest(&[("a", File("1"))]));
    let limits = Limits::new(&rules, &head, &head);
    let held = edit("a", Some(File("held").entry()), Some(File("1").entry()));
    let mut handover = handover(now);
    handover.refused.insert(held.place.clone(), held.old.clone());
    assert!(!handover.keeps(&held, &limits, now));
    let later = Edit { old: Some(File("later").entry()), ..held };
    assert!(handover.keeps(&later, &limits, now));
    assert!(!handover.keeps(&later, &limits, handover.until), "the time is over");
    handover.taken.insert(later.place.clone(), (later.old.clone(), now + TAKEN_WITHIN));
    assert!(handover.keeps(&later, &limits, handover.until), "it comes back as a generation");
}
