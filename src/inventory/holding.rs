//! What one root holds, and what is known of each file in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::inventory::RootConfig;
use crate::inventory::touched::Recent;
use crate::model::{ArtifactPath, Entry, Manifest, RootRules, with_causes};
use crate::plan::Matcher;
use crate::tree::{Root, Seen, TreeError};

/// How soon a file that was being written is looked at again, at first and at the slowest.
const BUSY_LOOK_MIN: Duration = Duration::from_millis(50);
const BUSY_LOOK_MAX: Duration = Duration::from_secs(1);
/// After so many vain looks in a row, reports of it lead to one look per pause only.
const BUSY_LOOKS_AT_ONCE: u32 = 8;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// A file that is being written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Busy {
    /// Since when.
    pub since: Instant,
    /// When it is looked at again although nothing was reported of it.
    pub due: Instant,
    looks: u32,
    last_look: Instant,
}

impl Busy {
    pub(super) fn since(now: Instant) -> Self {
        Self { since: now, due: now, looks: 0, last_look: now }
    }

    /// It was looked at in vain.
    pub(super) fn looked_at(&mut self, now: Instant) {
        self.looks = self.looks.saturating_add(1);
        self.last_look = now;
        self.due = now + (BUSY_LOOK_MIN * (1 << (self.looks / 4).min(8))).min(BUSY_LOOK_MAX);
    }

    /// Something was reported of it: whether to look at once. A writer that goes on and on is not followed
    /// write by write.
    pub(super) fn reported(&mut self, now: Instant) -> bool {
        let earliest = self.last_look + BUSY_PAUSE;
        if self.looks <= BUSY_LOOKS_AT_ONCE || now >= earliest {
            return true;
        }
        self.due = self.due.min(earliest);
        false
    }
}

/// What one root holds.
#[derive(Debug)]
pub(super) struct Holding {
    pub config: RootConfig,
    pub matcher: Matcher,
    /// What the matcher was made from.
    pub rules: RootRules,
    pub root: Option<Arc<Root>>,
    pub missing: Option<String>,
    /// The device it was on when it was first opened.
    pub first_device: Option<u64>,
    pub skipped: u64,
    /// None until it was first walked.
    pub manifest: Option<Manifest>,
    /// Files and links as they were read last.
    pub seen: HashMap<ArtifactPath, Seen>,
    pub busy: BTreeMap<ArtifactPath, Busy>,
    pub failed: BTreeMap<ArtifactPath, String>,
    pub touched: Recent,
    /// Whether it must be walked again, although nothing may have happened in it.
    pub wants_walk: bool,
    /// Folders without a watch; none stands for the root itself.
    pub unwatched: BTreeSet<Option<ArtifactPath>>,
}

impl Holding {
    pub(super) fn new(config: RootConfig, matcher: Matcher, rules: RootRules) -> Self {
        Self {
            config,
            matcher,
            rules,
            root: None,
            missing: None,
            first_device: None,
            skipped: 0,
            manifest: None,
            seen: HashMap::new(),
            busy: BTreeMap::new(),
            failed: BTreeMap::new(),
            touched: Recent::default(),
            wants_walk: false,
            unwatched: BTreeSet::new(),
        }
    }

    /// Opens the root if it is not open, and closes it if its path leads elsewhere by now.
    /// True when anything became different.
    pub(super) fn reopen(&mut self) -> bool {
        if let Some(root) = &self.root {
            let Err(error) = root.still_there() else { return false };
            self.lose(&error);
            return true;
        }
        let before = self.missing.clone();
        match Root::open(self.config.name.clone(), &self.config.path) {
            Ok(root) => {
                self.first_device.get_or_insert(root.identity().device);
                self.root = Some(Arc::new(root));
                self.wants_walk = true;
            }
            // It may be made later; once it was there, its absence is never taken for a delete.
            Err(TreeError::Missing { .. }) if self.config.optional && self.manifest.is_none() => {}
            Err(error) => self.lose(&error),
        }
        self.root.is_some() || self.missing != before
    }

    /// From now on the root is missing: its manifest stays as it was last seen.
    pub(super) fn lose(&mut self, error: &TreeError) {
        let why = with_causes(error);
        if self.missing.as_ref() != Some(&why) {
            tracing::warn!(root = %self.config.name, %why, "the root is missing");
        }
        self.missing = Some(why);
        self.root = None;
        self.busy.clear();
        self.failed.clear();
        self.unwatched.clear();
    }

    /// How many folders are known, itself included.
    pub(super) fn folders(&self) -> u64 {
        let known = self.manifest.iter().flat_map(Manifest::iter);
        u64::from(self.root.is_some()) + known.filter(|(_, entry)| entry.is_folder()).count() as u64
    }

    /// The root is there, and was walked.
    pub(super) fn found(&mut self) {
        if self.missing.take().is_some() {
            tracing::info!(root = %self.config.name, "the root is there again");
        }
    }

    pub(super) fn device_changed(&self) -> bool {
        let now = self.root.as_ref().map(|root| root.identity().device);
        matches!((self.first_device, now), (Some(first), Some(now)) if first != now)
    }
}

/// Changes of one root that are not in its manifest yet.
#[derive(Debug, Default)]
pub(super) struct Draft {
    changes: BTreeMap<ArtifactPath, Option<Entry>>,
}

impl Draft {
    /// What is at `path` once the changes are made.
    pub(super) fn get<'a>(&'a self, holding: &'a Holding, path: &ArtifactPath) -> Option<&'a Entry> {
        match self.changes.get(path) {
            Some(entry) => entry.as_ref(),
            None => holding.manifest.as_ref()?.get(path),
        }
    }

    pub(super) fn is_folder(&self, holding: &Holding, path: &ArtifactPath) -> bool {
        self.get(holding, path).is_some_and(Entry::is_folder)
    }

    pub(super) fn put(&mut self, path: ArtifactPath, entry: Entry) {
        self.changes.insert(path, Some(entry));
    }

    pub(super) fn remove(&mut self, path: ArtifactPath) {
        self.changes.insert(path, None);
    }

    /// Everything that is below `folder` once the changes are made.
    pub(super) fn below(&self, holding: &Holding, folder: &ArtifactPath) -> Vec<ArtifactPath> {
        let mut paths: Vec<ArtifactPath> = match &holding.manifest {
            Some(manifest) => manifest.below(folder).map(|(path, _)| path).collect(),
            None => Vec::new(),
        };
        paths.retain(|path| !matches!(self.changes.get(path), Some(None)));
        let added = self.changes.range(folder.clone()..).take_while(|(path, _)| starts_with(path, folder));
        paths.extend(
            added
                .filter(|(path, entry)| entry.is_some() && path.is_below(folder))
                .map(|(path, _)| path.clone()),
        );
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// Puts the changes into the manifest; false when they change nothing. Should they make no tree, the root is walked
    /// anew instead.
    pub(super) fn commit(mut self, holding: &mut Holding, now: Instant) -> bool {
        let former = holding.manifest.take();
        let first = former.is_none();
        let former = former.unwrap_or_default();
        self.changes.retain(|path, entry| former.get(path) != entry.as_ref());
        if self.changes.is_empty() {
            holding.manifest = Some(former);
            return first;
        }
        let changed: Vec<ArtifactPath> =
            if first { Vec::new() } else { self.changes.keys().cloned().collect() };
        match former.with(self.changes) {
            Ok(manifest) => {
                holding.manifest = Some(manifest);
                for path in changed {
                    holding.touched.insert(path, now);
                }
            }
            Err(error) => {
                tracing::error!(root = %holding.config.name, %error, "what was seen makes no tree, the root is walked");
                holding.manifest = (!first).then_some(former);
                holding.wants_walk = true;
            }
        }
        true
    }
}

fn starts_with(path: &ArtifactPath, folder: &ArtifactPath) -> bool {
    path.as_bytes().starts_with(folder.as_bytes())
}
