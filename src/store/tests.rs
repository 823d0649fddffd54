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
