//! A root, a store and a chain of generations for the tests of this room.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::apply::reconcile::{Failed, Outcome, Round, Site, reconcile};
use crate::model::{
    ArtifactPath, Change, ClusterId, ContentHash, Edit, Entry, Epoch, FileTime, Forest, Generation, Manifest,
    Place, Proposal, RootName, RootRules, Rules,
};
use crate::plan::Matcher;
use crate::store::{Adopted, Applied, Store};
use crate::tree::{Root, walk};

pub(super) const CLUSTER: ClusterId = ClusterId([7; 16]);

pub(super) fn root_name() -> RootName {
    RootName::new("r")
}

pub(super) fn place(path: &str) -> Place {
    Place { root: root_name(), path: ArtifactPath::new(path.as_bytes()).unwrap() }
}

/// What a test's tree holds at a path.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    File(&'static str),
    Mode(&'static str, u32),
    Folder,
    Link(&'static str),
}
pub(super) use What::{File, Folder, Link, Mode};

impl What {
    pub(super) fn entry(self) -> Entry {
        match self {
            File(text) => Mode(text, 0o644).entry(),
            Mode(text, mode) => {
                Entry::File { mode, size: text.len() as u64, hash: ContentHash::of(text.as_bytes()) }
            }
            Folder => Entry::Folder { mode: 0o755 },
            Link(target) => Entry::Link { target: target.as_bytes().into() },
        }
    }
}

pub(super) fn rules() -> Rules {
    Rules {
        roots: vec![(root_name(), RootRules { exclude: vec!["*.skip".to_owned()], ..RootRules::default() })],
    }
}

pub(super) fn forest(entries: &[(&str, What)]) -> Forest {
    let entries = entries.iter().map(|(path, what)| (place(path).path, Some(what.entry())));
    Forest { roots: BTreeMap::from([(root_name(), Manifest::default().with(entries).unwrap())]) }
}

/// Pins what leads from `store`'s head to `entries`; every file's time is `second`.
pub(super) fn pin(store: &Store, epoch: Epoch, entries: &[(&str, What)], second: i64) -> Generation {
    let head = store.head();
    let (base, before) = head.as_ref().map_or_else(
        || (0, Forest { roots: BTreeMap::from([(root_name(), Manifest::default())]) }),
        |head| (head.generation.number, head.forest.clone()),
    );
    let target = forest(entries);
    let generation = Generation {
        number: base + 1,
        parent: base,
        digest: target.digest(),
        epoch,
        author: "gw1".to_owned(),
        created_unix_ms: crate::model::unix_ms(),
    };
    let mut batch = store.batch();
    for (_, what) in entries {
        if let File(text) | Mode(text, _) = what {
            let hash = ContentHash::of(text.as_bytes());
            batch.put(&hash, text.len() as u64, &mut text.as_bytes()).unwrap();
        }
    }
    let changes = before.edits(&target).into_iter().map(|edit| Change {
        mtime: edit.new.as_ref().and_then(Entry::content).map(|_| FileTime { seconds: second, nanos: 5 }),
        place: edit.place,
        entry: edit.new,
    });
    let proposal =
        Proposal { generation: generation.clone(), base, rules: rules(), changes: changes.collect() };
    batch.pin(&proposal).unwrap();
    generation
}

pub(super) struct Fixture {
    pub dir: tempfile::TempDir,
    pub root: Arc<Root>,
    pub store: Store,
    pub before: Option<Forest>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        Self::at(dir, None)
    }

    /// With a root elsewhere.
    pub(super) fn at(dir: tempfile::TempDir, root: Option<&Path>) -> Self {
        let store = Store::open(&dir.path().join("store"), &dir.path().join("quarantine")).unwrap();
        let path = root.map_or_else(|| dir.path().join("root"), Path::to_owned);
        let root = Arc::new(Root::open(root_name(), &path).unwrap());
        Self { dir, root, store, before: None }
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o644)).unwrap();
    }

    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// Inode, whole second and mode.
    pub(super) fn stat(&self, path: &str) -> (u64, i64, u32) {
        let stat = fs::symlink_metadata(self.path(path)).unwrap();
        (stat.ino(), stat.mtime(), stat.mode() & 0o777)
    }

    /// Commits `entries` as the next generation.
    pub(super) fn commit(&self, entries: &[(&str, What)], second: i64) -> Arc<Adopted> {
        let generation = pin(&self.store, 1, entries, second);
        self.store.adopt(generation.number, &generation.digest).unwrap().unwrap()
    }

    pub(super) fn observed(&self) -> Forest {
        let matcher = Matcher::new(&rules().roots[0].1).unwrap();
        let found = walk(&self.root, &matcher, &|_| None, &mut |_| (), None);
        let entries = found.seen.into_iter().map(|(path, seen)| (path, Some(seen.entry)));
        Forest { roots: BTreeMap::from([(root_name(), Manifest::default().with(entries).unwrap())]) }
    }

    pub(super) fn record(&self) -> Applied {
        let head = self.store.head().unwrap();
        Applied { cluster: CLUSTER, number: head.generation.number, digest: head.generation.digest }
    }

    pub(super) fn carry_out(&self, edits: Vec<Edit>) -> Result<Outcome, Box<Failed>> {
        let site = Site { root: Arc::clone(&self.root), owner: None };
        reconcile(Round {
            store: &self.store,
            sites: &BTreeMap::from([(root_name(), site)]),
            edits,
            before: self.before.as_ref(),
            record: self.record(),
            why: &|_| "a test",
        })
    }

    /// Brings the root from what is there to the head, and says what was done.
    pub(super) fn apply(&mut self) -> Outcome {
        let head = self.store.head().unwrap();
        let outcome = self.carry_out(self.observed().edits(&head.forest)).unwrap();
        self.before = Some(head.forest.clone());
        outcome
    }

    pub(super) fn quarantined(&self) -> Vec<(String, String)> {
        let items = self.store.quarantine_list().unwrap();
        let content = |folder: &Path| fs::read_to_string(folder.join("content")).unwrap();
        items.iter().map(|item| (item.what.place.path.to_string(), content(&item.folder))).collect()
    }

    pub(super) fn staged(&self) -> usize {
        fs::read_dir(self.path(".syncd/stage")).map_or(0, Iterator::count)
    }
}
