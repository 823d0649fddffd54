//! Collection against a plain model: nothing needed goes, nothing else stays, the folder is bounded.

#![allow(clippy::print_stderr, reason = "a seed is printed so that a failure can be run again")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::ReadableTableMetadata;

use super::*;
use crate::model::{
    ArtifactPath, Change, Digest, Entry, FileTime, Forest, Generation, Place, Proposal, RootName, RootRules,
    Rules,
};

type Plain = BTreeMap<String, String>;

struct Rig {
    dir: tempfile::TempDir,
    store: Store,
    /// Every generation by number, with its digest.
    all: Vec<(Plain, Digest)>,
}

impl Rig {
    fn new(history: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.keep_history(history);
        Self { dir, store, all: vec![(Plain::new(), Digest::of(b""))] }
    }

    fn restart(self, history: usize) -> Self {
        let Self { dir, store, all } = self;
        drop(store);
        let store = open(dir.path());
        store.keep_history(history);
        Self { dir, store, all }
    }

    fn now(&self) -> Plain {
        self.all.last().unwrap().0.clone()
    }

    fn propose(&self, to: &Plain) -> Proposal {
        let base = self.all.len() as u64 - 1;
        let from = &self.all[base as usize].0;
        let paths: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
        let changes = paths.into_iter().filter(|path| from.get(*path) != to.get(*path)).map(|path| Change {
            place: place(path),
            entry: to.get(path).map(|text| entry(text)),
            mtime: Some(FileTime { seconds: 1, nanos: 0 }),
        });
        let rules = Rules { roots: vec![(RootName::new("r"), RootRules::default())] };
        let mut forest = Forest::default();
        forest.roots.entry(RootName::new("r")).or_default();
        let forest = forest.with(to.iter().map(|(path, text)| (place(path), Some(entry(text))))).unwrap();
        let (digest, author) = (forest.digest(), "a".to_owned());
        let number = base + 1;
        let generation = Generation { number, parent: base, digest, epoch: 1, author, created_unix_ms: 5 };
        Proposal { generation, base, rules, changes: changes.collect() }
    }

    fn pin(&self, to: &Plain) -> Proposal {
        let proposal = self.propose(to);
        let mut batch = self.store.batch();
        for text in proposal.changes.iter().filter_map(|change| to.get(&change.place.path.to_string())) {
            batch.put(&hash(text), text.len() as u64, &mut text.as_bytes()).unwrap();
        }
        batch.pin(&proposal).unwrap();
        proposal
    }

    fn publish(&mut self, to: Plain) {
        let proposal = self.pin(&to);
        self.store.adopt(proposal.generation.number, &proposal.generation.digest).unwrap().unwrap();
        self.all.push((to, proposal.generation.digest));
    }

    /// What the kept generations have, by the model.
    fn kept(&self, history: usize) -> BTreeSet<ContentHash> {
        let from = self.all.len().saturating_sub(history.max(2)).max(1);
        self.all[from.min(self.all.len())..]
            .iter()
            .flat_map(|(plain, _)| plain.values())
            .map(|text| hash(text))
            .collect()
    }

    fn stored(&self) -> BTreeSet<ContentHash> {
        let rows = self.store.index().read(|txn| {
            let table = txn.open_table(BLOBS)?;
            table.iter()?.map(|item| Ok(ContentHash(item?.0.value()))).collect()
        });
        rows.unwrap()
    }

    fn collect(&self) -> Collected {
        let mut collector = self.store.collector().unwrap();
        loop {
            if let Some(done) = collector.step().unwrap() {
                return done;
            }
        }
    }

    fn bytes(&self) -> u64 {
        fn of(folder: &Path) -> u64 {
            let items = fs::read_dir(folder).unwrap().map(|item| item.unwrap().path());
            items.map(|path| if path.is_dir() { of(&path) } else { path.metadata().unwrap().len() }).sum()
        }
        of(self.dir.path())
    }
}

fn open(dir: &Path) -> Store {
    Store::open(&dir.join("store"), &dir.join("quarantine")).unwrap()
}

fn hash(text: &str) -> ContentHash {
    ContentHash::of(text.as_bytes())
}

fn place(path: &str) -> Place {
    Place { root: RootName::new("r"), path: ArtifactPath::new(path.as_bytes()).unwrap() }
}

fn entry(text: &str) -> Entry {
    Entry::File { mode: 0o644, size: text.len() as u64, hash: hash(text) }
}

fn read(store: &Store, hash: &ContentHash) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    store.open_blob(hash)?.read_to_end(&mut bytes).unwrap();
    Ok(bytes)
}

fn seeded(test: &str) -> StdRng {
    let seed = std::env::var("SYNCD_TEST_SEED").map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    eprintln!("{test}: SYNCD_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Of any length up to some packs' waste, so that packs are emptied.
fn text(rng: &mut StdRng, clock: u64) -> String {
    format!("{clock} ").repeat(rng.random_range(1..6000))
}

#[test]
fn nothing_needed_is_ever_collected_and_nothing_else_stays() {
    let mut rng = seeded("collect");
    let (mut copied, mut packs) = (0, 0);
    for _ in 0..4 {
        let history = rng.random_range(1..5);
        let mut rig = Rig::new(history);
        let mut pinned: Option<(Plain, Proposal)> = None;
        let mut collector: Option<Collector> = None;
        for clock in 0..160 {
            let mut to = rig.now();
            for _ in 0..rng.random_range(0..4) {
                let path = format!("f{}", rng.random_range(0..40));
                match rng.random_range(0..5) {
                    0 => drop(to.remove(&path)),
                    // What was there before comes back, perhaps while it is being collected.
                    1 => {
                        let old = &rig.all[rng.random_range(0..rig.all.len())].0;
                        if let Some(text) = old.get(&path) {
                            to.insert(path, text.clone());
                        }
                    }
                    _ => drop(to.insert(path, text(&mut rng, clock))),
                }
            }
            match rng.random_range(0..10) {
                0..6 => {
                    if let Some((to, proposal)) = pinned.take() {
                        let (number, digest) = (proposal.generation.number, proposal.generation.digest);
                        rig.store.adopt(number, &digest).unwrap().unwrap();
                        rig.all.push((to, digest));
                    } else if to != rig.now() {
                        rig.publish(to);
                    }
                }
                6 if pinned.is_none() && to != rig.now() => pinned = Some((to.clone(), rig.pin(&to))),
                7 => {
                    collector = None;
                    rig = rig.restart(history);
                }
                // A batch that dies leaves contents behind.
                8 => {
                    let mut batch = rig.store.batch();
                    let text = text(&mut rng, clock);
                    batch.put(&hash(&text), text.len() as u64, &mut text.as_bytes()).unwrap();
                    batch.sync().unwrap();
                }
                _ => {}
            }
            for _ in 0..rng.random_range(0..5) {
                let mut running = collector.take().unwrap_or_else(|| rig.store.collector().unwrap());
                match running.step().unwrap() {
                    None => collector = Some(running),
                    Some(done) => (copied, packs) = (copied + done.copied_bytes, packs + done.packs),
                }
            }
            let mut needed = rig.kept(history);
            needed.extend(pinned.iter().flat_map(|(to, _)| to.values()).map(|text| hash(text)));
            for hash in &needed {
                assert_eq!(ContentHash::of(&read(&rig.store, hash).unwrap()), *hash);
            }
            if clock % 40 == 39 {
                collector = None;
                rig.collect();
                assert_eq!(rig.stored(), needed);
            }
        }
    }
    assert!(copied > 0 && packs > 0, "{copied} bytes were copied, {packs} packs were removed");
}

#[test]
fn thousands_of_publishes_leave_a_bounded_folder() {
    let mut rng = seeded("bounded");
    let mut rig = Rig::new(5);
    let mut plain: Plain = (0..100).map(|n| (format!("f{n}"), text(&mut rng, n))).collect();
    rig.publish(plain.clone());
    let live = |plain: &Plain| plain.values().map(|text| text.len() as u64).sum::<u64>();
    let (mut written, mut most) = (0, 0);
    for clock in 0..2000 {
        let text = text(&mut rng, clock).repeat(2);
        written += text.len() as u64;
        plain.insert(format!("f{}", rng.random_range(0..100)), text);
        rig.publish(plain.clone());
        // The model needs no more than the last few.
        let length = rig.all.len();
        if let Some((old, _)) = length.checked_sub(7).map(|old| &mut rig.all[old]) {
            old.clear();
        }
        if rig.store.is_collection_due() {
            rig.collect();
            let bytes = rig.bytes();
            most = most.max(bytes);
            // Half as much again as is needed, what came since, and the index.
            assert!(bytes < 3 * live(&plain) + (16 << 20), "{bytes} bytes for {} live ones", live(&plain));
        }
    }
    assert!(written > 3 * most, "{written} bytes were published, {most} bytes is the most that lay there");
    assert!(rig.kept(5).iter().all(|hash| read(&rig.store, hash).is_ok()));
    let rows = rig.store.index().read(|txn| Ok(txn.open_table(COMMITTED)?.len()?)).unwrap();
    assert!(rows < 800, "{rows} rows tell what was committed");
}

#[test]
fn a_content_that_is_read_is_read_to_its_end() {
    let mut rig = Rig::new(1);
    let long = "x".repeat(3 << 20);
    rig.publish([("a".to_owned(), long.clone())].into());
    let mut reader = rig.store.open_blob(&hash(&long)).unwrap();
    let mut first = vec![0; 1000];
    reader.read_exact(&mut first).unwrap();
    for n in 0..3 {
        rig.publish([("a".to_owned(), n.to_string())].into());
    }
    let done = rig.collect();
    assert_eq!((done.contents, done.packs), (2, 1));
    assert!(matches!(rig.store.open_blob(&hash(&long)), Err(StoreError::Missing { .. })));
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(first.len() + rest.len(), long.len());
}

#[test]
fn what_an_operation_holds_stays() {
    let rig = Rig::new(1);
    let put = |text: &str| {
        let mut batch = rig.store.batch();
        batch.put(&hash(text), text.len() as u64, &mut text.as_bytes()).unwrap();
        batch.sync().unwrap();
    };
    put("held");
    put("counted on");
    put("free");
    let hold = rig.store.hold([hash("held")]);
    let mut batch = rig.store.batch();
    assert!(batch.has(&hash("counted on")).unwrap());
    rig.collect();
    assert_eq!(rig.stored(), [hash("held"), hash("counted on")].into());
    drop((hold, batch));
    rig.collect();
    assert_eq!(rig.stored(), BTreeSet::new());
}

/// A store as a kill between any two steps leaves it: what is needed is there, and the next cycle goes on.
#[test]
fn every_step_leaves_a_whole_store() {
    let mut rng = seeded("steps");
    let mut rig = Rig::new(2);
    for clock in 0..30 {
        let plain = (0..40).map(|n| (format!("f{n}"), text(&mut rng, clock))).collect();
        rig.publish(plain);
    }
    let needed = rig.kept(2);
    let mut collector = rig.store.collector().unwrap();
    let mut steps = 0;
    while collector.step().unwrap().is_none() {
        steps += 1;
        let copy = tempfile::tempdir().unwrap();
        copy_folder(rig.dir.path(), copy.path());
        let store = open(copy.path());
        assert!(needed.iter().all(|hash| read(&store, hash).is_ok()), "after step {steps}");
    }
    assert!(steps > 5, "{steps}");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_folder(&path, &to) } else { assert!(fs::copy(&path, &to).is_ok()) }
    }
}

/// Ends the other thread also when this one fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn publishing_reading_and_collecting_at_once() {
    let mut rig = Rig::new(2);
    let mut rng = seeded("at once");
    let over = AtomicBool::new(false);
    let store = rig.store.clone();
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            let mut removed = 0;
            while !over.load(Ordering::Relaxed) {
                let mut collector = store.collector().unwrap();
                removed += loop {
                    if let Some(done) = collector.step().unwrap() {
                        break done.contents;
                    }
                };
            }
            removed
        });
        let end = Ends(&over);
        for clock in 0..150 {
            let mut to = rig.now();
            // Contents go and come back all the time.
            to.insert(format!("f{}", clock % 7), format!("text {}", rng.random_range(0..12)).repeat(400));
            to.insert(format!("g{}", clock % 3), text(&mut rng, clock));
            // What is being removed at that moment is missing for the one who comes second, who tries again then.
            rig.publish(to);
            for text in rig.now().values() {
                assert!(read(&store, &hash(text)).is_ok());
            }
        }
        drop(end);
        assert!(collecting.join().unwrap() > 0);
    });
}

#[test]
fn a_full_disk_gets_back_what_needs_no_copy() {
    let rig = Rig::new(1);
    let (small, long, longer) = ("s".repeat(9000), "x".repeat(300 << 10), "y".repeat(600 << 10));
    let put = |batch: &mut crate::store::Batch<'_>, text: &str| {
        batch.put(&hash(text), text.len() as u64, &mut text.as_bytes()).unwrap();
    };
    let (mut one, mut two) = (rig.store.batch(), rig.store.batch());
    put(&mut one, &small);
    put(&mut one, &longer);
    put(&mut two, &long);
    one.sync().unwrap();
    two.sync().unwrap();
    let _hold = rig.store.hold([hash(&small)]);
    drop((one, two));
    rig.store.pretend_full();
    let done = rig.collect();
    assert_eq!((done.contents, done.packs), (2, 1));
    assert_eq!(read(&rig.store, &hash(&small)).unwrap(), small.as_bytes());
    assert!(!rig.store.is_collection_due(), "what there is no room for waits");
}

#[test]
fn a_pack_that_is_being_written_keeps_no_collection_busy() {
    let rig = Rig::new(1);
    let long = "x".repeat(300 << 10);
    let put = |batch: &mut crate::store::Batch<'_>, text: &str| {
        batch.put(&hash(text), text.len() as u64, &mut text.as_bytes()).unwrap();
    };
    let mut batch = rig.store.batch();
    put(&mut batch, &long);
    batch.sync().unwrap();
    drop(batch);
    let mut writer = rig.store.batch();
    put(&mut writer, "more");
    let done = rig.collect();
    assert_eq!((done.contents, done.packs), (1, 0));
    assert!(!rig.store.is_collection_due());
    assert!(rig.store.0.collect_again.lock().unwrap().is_some(), "it is due later");
    drop(writer);
    assert_eq!(rig.collect().packs, 1);
    assert!(rig.store.0.collect_again.lock().unwrap().is_none());
}
