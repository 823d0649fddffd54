//! The store against a plain model, through restarts and damage.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::model::{
    ArtifactPath, Change, ClusterId, Digest, Entry, FileTime, Forest, Generation, Place, Proposal, RootName,
    RootRules, Rules,
};

struct Home {
    dir: tempfile::TempDir,
    store: Store,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        Self { dir, store }
    }

    fn restart(self) -> Self {
        let Self { dir, store } = self;
        drop(store);
        let store = open(dir.path()).unwrap();
        Self { dir, store }
    }

    fn pack(&self) -> PathBuf {
        self.dir.path().join("store/packs/000001.pack")
    }

    fn put(&self, text: &str) {
        let mut batch = self.store.batch();
        put(&mut batch, text);
        batch.sync().unwrap();
    }

    fn text(&self, text: &str) -> Result<String, StoreError> {
        let mut read = String::new();
        self.store.open_blob(&ContentHash::of(text.as_bytes()))?.read_to_string(&mut read).unwrap();
        Ok(read)
    }
}

fn open(dir: &std::path::Path) -> Result<Store, StoreError> {
    Store::open(&dir.join("store"), &dir.join("quarantine"))
}

fn put(batch: &mut Batch<'_>, text: &str) -> bool {
    batch.put(&ContentHash::of(text.as_bytes()), text.len() as u64, &mut text.as_bytes()).unwrap()
}

fn place(root: &str, path: &str) -> Place {
    Place { root: RootName::new(root), path: ArtifactPath::new(path.as_bytes()).unwrap() }
}

fn file(text: &str) -> Entry {
    Entry::File { mode: 0o644, size: text.len() as u64, hash: ContentHash::of(text.as_bytes()) }
}

fn rules(roots: &[&str]) -> Rules {
    Rules { roots: roots.iter().map(|root| (RootName::new(root), RootRules::default())).collect() }
}

/// A forest as a plain map: place to text and second.
type Plain = BTreeMap<Place, (String, i64)>;

fn forest(rules: &Rules, plain: &Plain) -> Forest {
    let mut forest = Forest::default();
    for (root, _) in &rules.roots {
        forest.roots.entry(root.clone()).or_default();
    }
    forest.with(plain.iter().map(|(place, (text, _))| (place.clone(), Some(file(text))))).unwrap()
}

fn changes(from: &Plain, to: &Plain) -> Vec<Change> {
    let mut changes: BTreeMap<Place, Change> = BTreeMap::new();
    for place in from.keys().filter(|place| !to.contains_key(*place)) {
        changes.insert(place.clone(), Change { place: place.clone(), entry: None, mtime: None });
    }
    for (place, (text, second)) in to.iter().filter(|(place, now)| from.get(*place) != Some(*now)) {
        let mtime = Some(FileTime { seconds: *second, nanos: 7 });
        changes.insert(place.clone(), Change { place: place.clone(), entry: Some(file(text)), mtime });
    }
    changes.into_values().collect()
}

fn proposal(epoch: u64, number: u64, base: (u64, &Plain), rules: &Rules, to: &Plain) -> Proposal {
    let generation = Generation {
        number,
        parent: number - 1,
        digest: forest(rules, to).digest(),
        epoch,
        author: "a".to_owned(),
        created_unix_ms: 5,
    };
    Proposal { generation, base: base.0, rules: rules.clone(), changes: changes(base.1, to) }
}

fn plain(entries: &[(&str, &str)]) -> Plain {
    entries.iter().map(|(path, text)| (place("r", path), ((*text).to_owned(), 100))).collect()
}

/// Puts what the proposal needs and pins it.
fn pin(store: &Store, proposal: &Proposal, to: &Plain) -> Result<Pinned, StoreError> {
    let mut batch = store.batch();
    for (text, _) in to.values() {
        put(&mut batch, text);
    }
    batch.pin(proposal)
}

#[test]
fn what_was_put_is_there_after_a_restart() {
    let home = Home::new();
    home.put("one");
    let mut dropped = home.store.batch();
    assert!(put(&mut dropped, "two"));
    assert!(!put(&mut dropped, "one"), "known content is not written again");
    drop(dropped);
    let home = home.restart();
    assert_eq!(home.text("one").unwrap(), "one");
    assert!(matches!(home.text("two"), Err(StoreError::Missing { .. })));
}

#[test]
fn a_generation_is_pinned_adopted_and_remembered() {
    let home = Home::new();
    let (rules, empty) = (rules(&["r"]), Plain::new());
    let (one, two) = (plain(&[("a", "1"), ("b", "x")]), plain(&[("a", "2"), ("c", "x")]));
    let first = proposal(3, 1, (0, &empty), &rules, &one);
    let second = proposal(3, 2, (1, &one), &rules, &two);
    assert!(matches!(home.store.batch().pin(&second), Err(StoreError::UnknownBase { .. })));
    assert!(matches!(home.store.batch().pin(&first), Err(StoreError::Missing { .. })));
    pin(&home.store, &first, &one).unwrap();
    pin(&home.store, &second, &two).unwrap();
    let home = home.restart();
    assert_eq!(home.store.pins().len(), 2);
    assert!(home.store.is_pinned(3, 2, &second.generation.digest));
    assert!(home.store.head().is_none());
    let head = home.store.adopt(2, &second.generation.digest).unwrap().unwrap();
    assert_eq!(head.forest, forest(&rules, &two));
    assert!(home.store.is_committed(&ContentHash::of(b"1")).unwrap(), "what came between counts too");
    let home = home.restart();
    assert_eq!(home.store.head().unwrap().generation, second.generation);
    assert_eq!(home.store.forest_of(1).unwrap().unwrap(), forest(&rules, &one));
    let history = home.store.history(10).unwrap();
    assert_eq!(history.iter().map(|entry| entry.generation.number).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((history[0].added, history[0].changed, history[0].removed), (1, 1, 1));
    assert!(home.store.adopt(1, &first.generation.digest).unwrap().is_none());
    assert_eq!(home.store.author_mtime(&place("r", "c")).unwrap().unwrap().seconds, 100);
    assert!(home.store.pins().is_empty());
}

#[test]
fn what_a_crash_left_behind_is_cut_off() {
    let home = Home::new();
    home.put("one");
    let length = fs::metadata(home.pack()).unwrap().len();
    // A record that was written, whole or torn, without its index entry; and a pack that was just begun.
    OpenOptions::new().append(true).open(home.pack()).unwrap().write_all(b"SyB1 half a record").unwrap();
    let begun = home.pack().with_file_name("000002.pack");
    fs::write(&begun, b"SyB1").unwrap();
    let home = home.restart();
    assert_eq!(fs::metadata(home.pack()).unwrap().len(), length);
    assert!(!begun.exists());
    home.put("two");
    let home = home.restart();
    assert_eq!((home.text("one").unwrap(), home.text("two").unwrap()), ("one".to_owned(), "two".to_owned()));
}

#[test]
fn a_dropped_batch_gives_its_space_back() {
    let home = Home::new();
    home.put("one");
    let length = fs::metadata(home.pack()).unwrap().len();
    let mut batch = home.store.batch();
    for n in 0..1000 {
        put(&mut batch, &format!("{n} {}", "x".repeat(1000)));
    }
    drop(batch);
    assert_eq!(fs::metadata(home.pack()).unwrap().len(), length);
    home.put("two");
    assert_eq!(home.text("two").unwrap(), "two");
}

#[test]
fn lost_bytes_are_found_at_the_start() {
    let home = Home::new();
    home.put("one");
    let pack = home.pack();
    let dir = home.dir;
    drop(home.store);
    OpenOptions::new().write(true).open(&pack).unwrap().set_len(20).unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::Corrupt { .. })));
    fs::remove_file(&pack).unwrap();
    assert!(open(dir.path()).is_err());
}

#[test]
fn damaged_content_is_never_given_out_and_can_be_put_again() {
    let large = "y".repeat(3 << 20);
    for (text, at) in
        [("some content", 4), ("some content", 50), (large.as_str(), 50), (large.as_str(), 2 << 20)]
    {
        let home = Home::new();
        home.put(text);
        let hash = ContentHash::of(text.as_bytes());
        let mut pack = OpenOptions::new().read(true).write(true).open(home.pack()).unwrap();
        pack.seek(SeekFrom::Start(at)).unwrap();
        pack.write_all(b"#").unwrap();
        let home = home.restart();
        match home.store.open_blob(&hash) {
            Err(StoreError::Damaged { .. }) => {
                assert!(!home.store.has(&hash).unwrap(), "what is damaged counts as missing");
            }
            Err(error) => panic!("{error}"),
            Ok(mut blob) => {
                let error = blob.read_to_end(&mut Vec::new()).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
                home.store.forget(&hash).unwrap();
            }
        }
        home.put(text);
        assert_eq!(home.text(text).unwrap(), text);
    }
}

#[test]
fn other_bytes_than_announced_are_refused_and_leave_no_trace() {
    let home = Home::new();
    let mut batch = home.store.batch();
    let hash = ContentHash::of(b"right");
    for (size, bytes) in [(5, &b"wrong"[..]), (5, b"righ"), (5, b"right!"), (4, b"right"), (6, b"right")] {
        let error = batch.put(&hash, size, &mut &*bytes).unwrap_err();
        assert!(matches!(error, StoreError::Mismatch { .. }), "{error}");
    }
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("unplugged"))
        }
    }
    assert!(matches!(batch.put(&hash, 5, &mut Broken), Err(StoreError::Source { .. })));
    assert!(put(&mut batch, "right"));
    batch.sync().unwrap();
    assert!(
        matches!(batch.put(&hash, 5, &mut &b"wrong"[..]), Err(StoreError::Mismatch { .. })),
        "also when known"
    );
    assert_eq!(home.text("right").unwrap(), "right");
    drop(batch);
    assert_eq!(fs::metadata(home.pack()).unwrap().len(), 44 + 5);
}

#[test]
fn a_full_disk_is_a_clear_error_and_no_more() {
    let home = Home::new();
    home.put("one");
    home.store.0.reserve.store(u64::MAX, Ordering::Relaxed);
    let mut batch = home.store.batch();
    let error = batch.put(&ContentHash::of(b"two"), 3, &mut &b"two"[..]).unwrap_err();
    assert!(error.is_no_space() && !error.is_fatal(), "{error}");
    drop(batch);
    assert_eq!(home.text("one").unwrap(), "one");
    home.store.0.reserve.store(0, Ordering::Relaxed);
    home.put("two");
    assert_eq!(home.restart().text("two").unwrap(), "two");
}

#[test]
fn batches_do_not_wait_for_each_other() {
    let home = Home::new();
    let mut slow = home.store.batch();
    put(&mut slow, "slow");
    home.put("quick");
    assert_eq!(home.text("quick").unwrap(), "quick");
    put(&mut slow, "slower");
    slow.sync().unwrap();
    drop(slow);
    let home = home.restart();
    assert_eq!(home.text("slow").unwrap() + &home.text("slower").unwrap(), "slowslower");
}

#[test]
fn a_large_content_goes_in_portions_and_a_full_pack_is_followed_by_another() {
    let home = Home::new();
    let mut batch = home.store.batch();
    let texts: Vec<String> = (0..3).map(|n| n.to_string().repeat(10 << 20)).collect();
    for text in &texts {
        put(&mut batch, text);
    }
    put(&mut batch, "last");
    batch.sync().unwrap();
    drop(batch);
    assert!(home.pack().with_file_name("000002.pack").exists());
    let home = home.restart();
    for text in &texts {
        assert!(home.text(text).unwrap() == *text);
    }
    assert_eq!(home.text("last").unwrap(), "last");
}

#[test]
fn only_what_leads_to_its_digest_is_pinned() {
    let home = Home::new();
    let (rules, empty, to) = (rules(&["r"]), Plain::new(), plain(&[("a", "1")]));
    let good = proposal(1, 1, (0, &empty), &rules, &to);
    let mut other = good.clone();
    other.generation.digest = Digest::of(b"other");
    assert!(matches!(pin(&home.store, &other, &to), Err(StoreError::WrongDigest { .. })));
    let mut orphan = good.clone();
    orphan.changes[0].place = place("r", "d/a");
    assert!(matches!(pin(&home.store, &orphan, &to), Err(StoreError::NoTree { .. })));
    let mut stray = good.clone();
    stray.changes[0].place = place("s", "a");
    assert!(matches!(pin(&home.store, &stray, &to), Err(StoreError::UnknownRoot { .. })));
    let mut short = good.clone();
    if let Some(Entry::File { size, .. }) = &mut short.changes[0].entry {
        *size = 2;
    }
    assert!(pin(&home.store, &short, &to).is_err());
    assert!(home.store.pins().is_empty());
    pin(&home.store, &good, &to).unwrap();
    pin(&home.store, &good, &to).unwrap();
    home.store.adopt(1, &good.generation.digest).unwrap().unwrap();
    pin(&home.store, &good, &to).unwrap();
    assert!(home.store.pins().is_empty(), "what is adopted needs no pin");
}

#[test]
fn pins_of_one_number_live_side_by_side_until_released() {
    let home = Home::new();
    let (rules, empty) = (rules(&["r"]), Plain::new());
    let (a, b, c) = (plain(&[("a", "1")]), plain(&[("a", "2")]), plain(&[("a", "2"), ("c", "3")]));
    let old = proposal(3, 1, (0, &empty), &rules, &a);
    let new = proposal(5, 1, (0, &empty), &rules, &b);
    let next = proposal(5, 2, (1, &b), &rules, &c);
    for (proposal, to) in [(&old, &a), (&new, &b), (&next, &c)] {
        pin(&home.store, proposal, to).unwrap();
    }
    let home = home.restart();
    assert_eq!(home.store.pins().len(), 3);
    // The older epoch can't be committed any more; what the next one is built on stays with it.
    home.store.release(5, 1).unwrap();
    assert_eq!(
        home.store.pins().iter().map(|pin| (pin.epoch, pin.number)).collect::<Vec<_>>(),
        [(5, 1), (5, 2)]
    );
    let home = home.restart();
    home.store.adopt(1, &new.generation.digest).unwrap().unwrap();
    home.store.adopt(2, &next.generation.digest).unwrap().unwrap();
    assert_eq!(home.store.head().unwrap().forest, forest(&rules, &c));
    home.store.release(6, 2).unwrap();
    assert!(home.store.pins().is_empty());
}

#[test]
fn another_clusters_history_is_replaced_and_what_only_it_had_is_nobodys_version() {
    let home = Home::new();
    let (rules, empty) = (rules(&["r"]), Plain::new());
    let mut before = empty.clone();
    for number in 1..=3 {
        let to = plain(&[("a", &format!("old {number}"))]);
        let proposal = proposal(1, number, (number - 1, &before), &rules, &to);
        pin(&home.store, &proposal, &to).unwrap();
        home.store.adopt(number, &proposal.generation.digest).unwrap().unwrap();
        before = to;
    }
    let to = plain(&[("b", "new")]);
    let first = proposal(1, 1, (0, &empty), &rules, &to);
    pin(&home.store, &first, &to).unwrap();
    home.store.adopt(1, &first.generation.digest).unwrap().unwrap();
    let home = home.restart();
    assert_eq!(home.store.head().unwrap().forest, forest(&rules, &to));
    assert_eq!(home.store.history(9).unwrap().len(), 1);
    assert_eq!(home.store.forest_of(3).unwrap(), None);
    assert_eq!(home.text("old 2").unwrap(), "old 2");
    // Collecting may take it, so a file that still holds it has to be kept as what a person wrote.
    assert!(!home.store.is_committed(&ContentHash::of(b"old 2")).unwrap());
    assert!(home.store.is_committed(&ContentHash::of(b"new")).unwrap());
}

#[test]
fn an_older_generation_that_comes_from_nothing_begins_anew() {
    let home = Home::new();
    let (rules, empty) = (rules(&["r"]), Plain::new());
    let (one, two) = (plain(&[("a", "1")]), plain(&[("a", "2")]));
    let first = proposal(1, 1, (0, &empty), &rules, &one);
    pin(&home.store, &first, &one).unwrap();
    home.store.adopt(1, &first.generation.digest).unwrap().unwrap();
    let lost = proposal(1, 2, (1, &one), &rules, &two);
    pin(&home.store, &lost, &two).unwrap();
    home.store.adopt(2, &lost.generation.digest).unwrap().unwrap();
    // The cluster was recovered by a node that never saw the second one.
    pin(&home.store, &first, &one).unwrap();
    let head = home.store.adopt(1, &first.generation.digest).unwrap().expect("pinned again");
    assert_eq!(head.generation.number, 1);
    let home = home.restart();
    assert_eq!(home.store.head().unwrap().forest, forest(&rules, &one));
    assert!(
        !home.store.is_committed(&ContentHash::of(b"2")).unwrap(),
        "the lost content is nobody's version"
    );
}

#[test]
fn roots_come_and_go_with_the_rules() {
    let home = Home::new();
    let (one, two) = (rules(&["r"]), rules(&["r", "s"]));
    let (empty, a) = (Plain::new(), plain(&[("a", "1")]));
    let mut both = a.clone();
    both.insert(place("s", "x"), ("9".to_owned(), 5));
    let steps = [
        proposal(1, 1, (0, &empty), &one, &a),
        proposal(1, 2, (1, &a), &two, &a),
        proposal(1, 3, (2, &a), &two, &both),
        // Released: no change says so.
        proposal(1, 4, (3, &a), &one, &a),
    ];
    for (proposal, to) in steps.iter().zip([&a, &a, &both, &a]) {
        pin(&home.store, proposal, to).unwrap();
        home.store.adopt(proposal.generation.number, &proposal.generation.digest).unwrap().unwrap();
    }
    let home = home.restart();
    for (number, (rules, to)) in [(&one, &a), (&two, &a), (&two, &both), (&one, &a)].into_iter().enumerate() {
        assert_eq!(home.store.forest_of(number as u64 + 1).unwrap().unwrap(), forest(rules, to));
    }
    let back =
        home.store.changes_between(4, &steps[3].generation.digest, 3, &steps[2].generation.digest).unwrap();
    assert_eq!(back.unwrap().changes, changes(&a, &both));
    let on =
        home.store.changes_between(3, &steps[2].generation.digest, 4, &steps[3].generation.digest).unwrap();
    assert!(on.unwrap().changes.is_empty());
}

#[test]
fn records_of_applying_survive() {
    let home = Home::new();
    let applied = Applied { cluster: ClusterId([7; 16]), number: 4, digest: Digest::of(b"4") };
    assert_eq!(home.store.applied().unwrap(), None);
    home.store.set_applying(Some(4)).unwrap();
    let home = home.restart();
    assert_eq!(home.store.applying().unwrap(), Some(4));
    home.store.set_applied(&applied, &[(place("r", "a"), 100), (place("r", "gone"), -3)]).unwrap();
    home.store.set_manager_epoch(9).unwrap();
    let home = home.restart();
    assert_eq!(home.store.applied().unwrap(), Some(applied));
    assert_eq!(home.store.applying().unwrap(), None);
    assert_eq!(home.store.last_second(&place("r", "gone")).unwrap(), Some(-3));
    assert_eq!(home.store.manager_epoch().unwrap(), 9);
    // A day later it is still known, a week later only for what is there.
    let to = plain(&[("a", "1")]);
    let first = proposal(1, 1, (0, &Plain::new()), &rules(&["r"]), &to);
    pin(&home.store, &first, &to).unwrap();
    home.store.adopt(1, &first.generation.digest).unwrap().unwrap();
    let hours = |hours: i64| unix_ms() + hours * 3_600_000;
    home.store.prune_seconds(hours(25)).unwrap();
    assert_eq!(home.store.last_second(&place("r", "gone")).unwrap(), Some(-3));
    home.store.prune_seconds(hours(24 * 7)).unwrap();
    assert_eq!(home.store.last_second(&place("r", "gone")).unwrap(), None);
    assert_eq!(home.store.last_second(&place("r", "a")).unwrap(), Some(100));
}

#[test]
fn the_quarantine_is_plain_folders() {
    let home = Home::new();
    let item = |path: &str| Quarantined {
        place: place("r", path),
        why: "the head has another content".to_owned(),
        generation: 3,
        entry: file("mine"),
        mtime: Some(FileTime { seconds: 9, nanos: 1 }),
        uid: 1,
        gid: 2,
    };
    let first = home.store.quarantine(&item("a"), &mut &b"mine"[..]).unwrap();
    home.store.quarantine(&item("b \n"), &mut &b""[..]).unwrap();
    fs::create_dir(home.dir.path().join("quarantine/.new-half")).unwrap();
    let home = home.restart();
    assert!(!home.dir.path().join("quarantine/.new-half").exists());
    assert_eq!(home.store.quarantine_count(), 2);
    let list = home.store.quarantine_list().unwrap();
    assert_eq!((&list[0].id, &list[0].what), (&first, &item("a")));
    assert_eq!(list[1].what, item("b \n"));
    assert_eq!(fs::read(list[0].folder.join("content")).unwrap(), b"mine");
    let meta = fs::read_to_string(list[1].folder.join("meta.json")).unwrap();
    assert!(meta.contains(r"r:b \\n"), "{meta}");
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("gone"))
        }
    }
    assert!(home.store.quarantine(&item("c"), &mut Broken).is_err());
    assert_eq!(fs::read_dir(home.dir.path().join("quarantine")).unwrap().count(), 2);
}

#[derive(Clone, Debug)]
enum Op {
    /// Writes or deletes some paths on top of the newest pin, and pins the result as it is staged (0) or fetched: told
    /// from so many generations before.
    Pin(u8, Vec<(u8, Option<u8>)>),
    /// Adopts so many pins.
    Adopt(u8),
    Restart,
}

fn any_op() -> impl Strategy<Value = Op> {
    let edits = || prop::collection::vec((0u8..6, prop::option::of(0u8..5)), 0..5);
    prop_oneof![
        4 => edits().prop_map(|edits| Op::Pin(0, edits)),
        4 => (1u8..3).prop_map(Op::Adopt),
        1 => (0u8..4, edits()).prop_map(|(back, edits)| Op::Pin(back, edits)),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Every kept generation, and the way between any two, against plain maps.
    #[test]
    fn the_chain_is_its_model(ops in prop::collection::vec(any_op(), 1..30), keep in 1usize..6) {
        let rules = rules(&["r", "s"]);
        let mut home = Home::new();
        home.store.keep_history(keep);
        // All generations ever pinned, by number from 1, and how many of them are adopted.
        let mut chain: Vec<(Plain, Digest)> = Vec::new();
        let mut adopted = 0;
        let mut clock = 1000;
        // Who skips a generation may miss that a content left and came back: its time is an older one then.
        let skips = ops.iter().any(|op| matches!(op, Op::Pin(1.., _)));
        let known = |mut changes: Vec<Change>| {
            changes.iter_mut().filter(|_| skips).for_each(|change| change.mtime = None);
            changes
        };
        for op in ops {
            match op {
                Op::Pin(back, edits) if chain.len() < adopted + 4 => {
                    let base = chain.len() - usize::from(back).min(chain.len());
                    // What has fallen out of the history is no base; nothing is built on nothing but the first.
                    let is_here = base == 0 && chain.is_empty() || base > 0 && home.store.forest_of(base as u64).unwrap().is_some();
                    if !is_here {
                        continue;
                    }
                    let empty = Plain::new();
                    let from = if base == 0 { &empty } else { &chain[base - 1].0 };
                    let mut to = chain.last().map_or_else(Plain::new, |(plain, _)| plain.clone());
                    for (path, what) in edits {
                        clock += 1;
                        let place = place(if path % 2 == 0 { "r" } else { "s" }, &format!("f{path}"));
                        match what {
                            Some(n) => { to.insert(place, (format!("text {n}"), clock)); }
                            None => { to.remove(&place); }
                        }
                    }
                    // Who is told the way from the base is not told what changed and changed back.
                    for (place, (text, second)) in &mut to {
                        *second = from.get(place).filter(|(before, _)| before == text).map_or(*second, |(_, before)| *before);
                    }
                    let proposal = proposal(1, chain.len() as u64 + 1, (base as u64, from), &rules, &to);
                    pin(&home.store, &proposal, &to).unwrap();
                    chain.push((to, proposal.generation.digest));
                }
                Op::Adopt(count) if adopted < chain.len() => {
                    adopted = (adopted + usize::from(count)).min(chain.len());
                    home.store.adopt(adopted as u64, &chain[adopted - 1].1).unwrap().unwrap();
                }
                Op::Restart => {
                    home = home.restart();
                    home.store.keep_history(keep);
                }
                _ => {}
            }
            prop_assert_eq!(home.store.head().map_or(0, |head| head.generation.number), adopted as u64);
            prop_assert!(home.store.history(99).unwrap().len() >= keep.min(adopted).min(1));
            for (n, (plain, digest)) in chain.iter().enumerate() {
                let number = n as u64 + 1;
                match home.store.forest_of(number).unwrap() {
                    Some(found) => prop_assert_eq!(found.digest(), *digest),
                    None => prop_assert!(number as usize + keep <= adopted || number as usize <= adopted, "{} of {}", number, adopted),
                }
                if number as usize + keep > adopted && home.store.history(99).unwrap().iter().any(|e| e.generation.number == number) {
                    prop_assert!(home.store.forest_of(number).unwrap().is_some());
                }
                let Some(whole) = home.store.changes_between(0, &Digest::of(b""), number, digest).unwrap() else { continue };
                prop_assert_eq!((whole.base, known(whole.changes)), (0, known(changes(&Plain::new(), plain))));
                for (m, (other, other_digest)) in chain.iter().enumerate() {
                    let between = home.store.changes_between(m as u64 + 1, other_digest, number, digest).unwrap().unwrap();
                    let from = if between.base == 0 { &Plain::new() } else { other };
                    let same_text = |place: &Place| {
                        let text = |plain: &Plain| plain.get(place).map(|(text, _)| text.clone());
                        text(from) == text(plain)
                    };
                    let mut expected = changes(from, plain);
                    // A new time alone is no change.
                    expected.retain(|change| !same_text(&change.place));
                    prop_assert_eq!(known(between.changes), known(expected), "{} to {}", m + 1, number);
                }
            }
        }
    }
}

#[test]
fn a_pin_goes_with_the_history_that_it_builds_on() {
    let home = Home::new();
    let rules = rules(&["r"]);
    let (old, other, new) = (plain(&[("a", "1")]), plain(&[("b", "1")]), Plain::new());
    home.put("1");
    let pin = |proposal: &Proposal| home.store.batch().pin(proposal).unwrap();
    let first = pin(&proposal(1, 5, (0, &new), &rules, &old));
    home.store.adopt(5, &first.digest).unwrap().unwrap();
    // One on the old history, one on that, and one on another cluster's beginning.
    pin(&proposal(1, 6, (5, &old), &rules, &new));
    pin(&proposal(1, 7, (6, &new), &rules, &old));
    let begin = pin(&proposal(2, 1, (0, &new), &rules, &other));
    let next = pin(&proposal(2, 2, (1, &other), &rules, &old));
    home.store.adopt(1, &begin.digest).unwrap().unwrap();
    assert_eq!(home.store.pins(), [next]);
    let home = home.restart();
    assert_eq!(home.store.pins(), [next]);
    home.store.adopt(2, &next.digest).unwrap().unwrap();
}

#[test]
fn what_its_own_rules_leave_out_is_in_no_generation() {
    let home = Home::new();
    home.put("1");
    let exclude = vec!["logs/".to_owned()];
    let rules = Rules { roots: vec![(RootName::new("r"), RootRules { exclude, ..RootRules::default() })] };
    let pin = |rules: &Rules, path| {
        let to = plain(&[(path, "1")]);
        home.store.batch().pin(&proposal(1, 1, (0, &Plain::new()), rules, &to))
    };
    assert!(matches!(pin(&rules, ".syncd"), Err(StoreError::Excluded { .. })));
    let mut bad = rules.clone();
    bad.roots[0].1.exclude = vec!["*.xml".to_owned()];
    assert!(matches!(pin(&bad, "a.xml"), Err(StoreError::Excluded { .. })));
    bad.roots[0].1.exclude = vec!["{".to_owned()];
    assert!(matches!(pin(&bad, "a.xml"), Err(StoreError::BadRules { .. })));
    pin(&rules, "logs").unwrap();
}

/// A write that fails loses what was adopted and not durable yet; what comes next builds on what is there.
#[test]
fn a_failed_write_leaves_a_chain_that_the_next_start_can_read() {
    let home = Home::new();
    let rules = rules(&["r"]);
    let all = [plain(&[]), plain(&[("a", "1"), ("b", "1")]), plain(&[("a", "2")]), plain(&[("a", "3")])];
    let publish = |number: usize, store: &Store| {
        let base = (number as u64 - 1, &all[number - 1]);
        let proposal = proposal(1, number as u64, base, &rules, &all[number]);
        pin(store, &proposal, &all[number]).unwrap();
        store.adopt(number as u64, &proposal.generation.digest).unwrap().unwrap();
    };
    publish(1, &home.store);
    publish(2, &home.store);
    home.store.index().pretend_failure();
    let lost: Option<(u64, Digest)> = home.store.index().meta("head").unwrap();
    assert_eq!(lost.unwrap().0, 1, "the adoption was not durable");
    assert_eq!(home.store.head().unwrap().generation.number, 2, "nobody sees it go back");
    publish(3, &home.store);
    let home = home.restart();
    let head = home.store.head().unwrap();
    assert_eq!((head.generation.number, &head.forest), (3, &forest(&rules, &all[3])));
    assert_eq!(home.store.forest_of(2).unwrap(), Some(forest(&rules, &all[2])));
    let numbers: Vec<u64> =
        home.store.history(9).unwrap().iter().map(|entry| entry.generation.number).collect();
    assert_eq!(numbers, [3, 2, 1]);
}

#[test]
fn who_reads_much_goes_on_after_a_failed_write_and_finds_what_came_since() {
    let home = Home::new();
    home.put("early");
    home.store.note_seconds(&[(place("r", "a"), 7)]).unwrap();
    let reader = home.store.reader().unwrap();
    home.store.index().pretend_failure();
    home.put("late");
    for text in ["early", "late"] {
        let mut read = String::new();
        reader.open_blob(&ContentHash::of(text.as_bytes())).unwrap().read_to_string(&mut read).unwrap();
        assert_eq!(read, text);
    }
    assert_eq!(reader.last_second(&place("r", "a")).unwrap(), Some(7));
    assert_eq!(reader.author_mtime(&place("r", "a")).unwrap(), None);
}
