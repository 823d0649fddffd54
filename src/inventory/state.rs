//! What all roots hold: everything that the task knows between two sweeps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::inventory::holding::Holding;
use crate::inventory::look::Look;
use crate::inventory::{Config, Observed, RootState, Unwatched};
use crate::model::{ArtifactPath, Forest, Meter, Place, RootName, RootRules, Rules, with_causes};
use crate::plan::{Matcher, PatternError};
use crate::tree::Seen;
use crate::watcher::{ChangeSet, WatchError, Watcher};

/// How often folders without a watch are looked at, at the most.
const POLL_EVERY: Duration = Duration::from_secs(2);
/// Looking at them takes at most this part of the time.
const POLL_SHARE: u32 = 20;
/// How long an overflow is told.
const OVERFLOW_TOLD_FOR: Duration = Duration::from_secs(600);

/// What somebody just wrote.
pub(super) type Applied = Vec<(Place, Option<Seen>)>;

/// Rules, ready to be asked.
#[derive(Debug)]
pub(super) struct RuleBook(BTreeMap<RootName, (Matcher, RootRules)>);

impl RuleBook {
    pub(super) fn new(rules: &Rules) -> Result<Self, PatternError> {
        let matchers =
            rules.roots.iter().map(|(name, rules)| Ok((name.clone(), (Matcher::new(rules)?, rules.clone()))));
        Ok(Self(matchers.collect::<Result<_, PatternError>>()?))
    }
}

/// What one sweep is to do.
#[derive(Debug, Default)]
pub(super) struct Job {
    /// Walk everything.
    pub walk: bool,
    /// Read these again, whatever is known of them.
    pub reread: Vec<Place>,
    /// Go by these rules from now on.
    pub rules: Option<RuleBook>,
    /// What was just written here.
    pub applied: Applied,
    /// What somebody else keeps in memory.
    pub shared: Option<Forest>,
    /// What was reported.
    pub changes: ChangeSet,
    /// Look at what has no watch.
    pub poll: bool,
}

/// What all roots hold.
pub(super) struct State {
    holdings: BTreeMap<RootName, Holding>,
    watcher: Option<Arc<Watcher>>,
    meter: Meter,
    complete: bool,
    scan_seconds: f64,
    /// Why there are folders without a watch, and the setting to be raised.
    why: Option<(String, Option<&'static str>)>,
    poll_due: Option<Instant>,
    polled_every: Duration,
    /// How many overflows were seen, and when the last one was.
    overflows: (u64, Option<Instant>),
}

impl State {
    pub(super) fn new(
        config: &Config,
        watcher: Result<Arc<Watcher>, WatchError>,
    ) -> Result<Self, PatternError> {
        let mut book = RuleBook::new(&config.rules)?;
        let none = (Matcher::new(&RootRules::default())?, RootRules::default());
        let holdings = config
            .roots
            .iter()
            .map(|root| {
                let (matcher, rules) = book.0.remove(&root.name).unwrap_or_else(|| none.clone());
                (root.name.clone(), Holding::new(root.clone(), matcher, rules))
            })
            .collect();
        let mut state = Self {
            holdings,
            watcher: None,
            meter: Meter::default(),
            complete: false,
            scan_seconds: 0.0,
            why: None,
            poll_due: None,
            polled_every: POLL_EVERY,
            overflows: (0, None),
        };
        state.watch_by(watcher);
        Ok(state)
    }

    /// Watches by `watcher` from the next walk on, or says why nothing can be watched.
    pub(super) fn watch_by(&mut self, watcher: Result<Arc<Watcher>, WatchError>) {
        self.overflows.0 = 0;
        match watcher {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => {
                self.watcher = None;
                self.unwatched_because(Some(error));
            }
        }
    }

    /// Whether there is nothing to watch with.
    pub(super) fn is_blind(&self) -> bool {
        self.watcher.as_ref().is_none_or(|watcher| watcher.ended())
    }

    /// When what has no watch is to be looked at; none while everything has one.
    pub(super) fn poll_due(&self) -> Option<Instant> {
        self.poll_due
    }

    #[cfg(test)]
    pub(super) fn watcher(&self) -> &Watcher {
        self.watcher.as_deref().unwrap()
    }

    /// Counts the files of a walk.
    pub(super) fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// When the next busy file is to be looked at.
    pub(super) fn next_busy(&self) -> Option<Instant> {
        self.holdings.values().flat_map(|holding| holding.busy.values()).map(|busy| busy.due).min()
    }

    /// Takes out of `changes` the places of files that are written again and again: their time comes by itself.
    pub(super) fn postpone_busy(&mut self, changes: &mut ChangeSet, now: Instant) {
        let holdings = &mut self.holdings;
        changes.paths.retain(|place, at| {
            let Some(holding) = holdings.get_mut(&place.root) else { return true };
            let at_once = holding.busy.get_mut(&place.path).is_none_or(|busy| busy.reported(now));
            if !at_once {
                holding.touched.insert(place.path.clone(), *at);
            }
            at_once
        });
    }

    /// Does what `job` says. Blocks. True when there may be anything new to tell.
    pub(super) fn sweep(&mut self, job: Job) -> bool {
        let now = Instant::now();
        let mut news = false;
        for holding in self.holdings.values_mut() {
            news |= holding.reopen();
        }
        let walk = job.walk || job.rules.is_some() || job.changes.rescan_all || !self.complete;
        if let Some(book) = job.rules {
            for (name, (matcher, rules)) in book.0 {
                if let Some(holding) = self.holdings.get_mut(&name) {
                    (holding.matcher, holding.rules) = (matcher, rules);
                }
            }
        }
        let mut places = self.places_of(job.changes, now);
        if job.poll {
            self.add_unwatched(&mut places);
        }
        let mut anew: BTreeMap<RootName, BTreeSet<ArtifactPath>> = BTreeMap::new();
        for Place { root, path } in job.reread {
            if self.holdings.contains_key(&root) {
                places.entry(root.clone()).or_default().places.insert(path.clone());
                anew.entry(root).or_default().insert(path);
            }
        }
        let mut applied = by_root(job.applied);
        let watcher = self.watcher.clone();
        let meter = self.meter.clone();
        // How much there is nobody knows before it was walked.
        let _scanning = walk.then(|| meter.begin("scanning", None, None));
        let watcher = watcher.as_deref();
        let mut look =
            Look { watcher, now, unwatched: None, anew: BTreeSet::new(), news: false, meter: &meter };
        for (name, holding) in &mut self.holdings {
            look.anew = anew.remove(name).unwrap_or_default();
            let Due { mut places, deep, whole } = places.remove(name).unwrap_or_default();
            if walk || whole || holding.wants_walk {
                look.walk_root(holding);
                news = true;
                continue;
            }
            if let Some(applied) = applied.remove(name) {
                places.extend(look.take_over(holding, applied));
            }
            if !places.is_empty() {
                look.places(holding, places, &deep);
            }
        }
        news |= look.news;
        for (name, shared) in job.shared.iter().flat_map(|forest| &forest.roots) {
            let own = self.holdings.get_mut(name).and_then(|holding| holding.manifest.as_mut());
            if let Some(own) = own.filter(|own| *own == shared) {
                own.clone_from(shared);
                // What is told is the other copy until then.
                news = true;
            }
        }
        let unwatched = look.unwatched;
        if walk {
            self.scan_seconds = now.elapsed().as_secs_f64();
            self.complete = true;
        }
        self.note_unwatched(unwatched, job.poll || walk, now);
        news
    }

    /// What there is to tell.
    pub(super) fn observed(&mut self) -> Observed {
        let now = Instant::now();
        let overflows = self.watcher.as_ref().map_or(0, |watcher| watcher.overflows());
        if overflows > self.overflows.0 {
            self.overflows = (overflows, Some(now));
        }
        let mut observed = Observed {
            complete: self.complete,
            overflows: self.overflows.0,
            overflowed_lately: self.overflows.1.is_some_and(|at| now - at < OVERFLOW_TOLD_FOR),
            unwatched: self.unwatched(),
            scan_seconds: self.scan_seconds,
            ..Observed::default()
        };
        let mut forest = Forest::default();
        for (name, holding) in &mut self.holdings {
            let place = |path: &ArtifactPath| Place { root: name.clone(), path: path.clone() };
            if let Some(manifest) = &holding.manifest {
                forest.roots.insert(name.clone(), manifest.clone());
            }
            holding.touched.forget(now);
            observed.touched.set(name.clone(), holding.touched.clone());
            observed.busy.extend(holding.busy.iter().map(|(path, busy)| (place(path), busy.since)));
            observed.failed.extend(holding.failed.iter().map(|(path, why)| (place(path), why.clone())));
            let state = RootState {
                path: holding.config.path.clone(),
                root: holding.root.clone(),
                missing: holding.missing.clone(),
                device_changed: holding.device_changed(),
                skipped: holding.skipped,
                rules: holding.rules.clone(),
            };
            observed.roots.insert(name.clone(), state);
        }
        observed.forest = forest;
        observed
    }

    /// Sorts what was reported by root, adds the busy files that are due, and notes when things happened.
    fn places_of(&mut self, changes: ChangeSet, now: Instant) -> BTreeMap<RootName, Due> {
        let mut due: BTreeMap<RootName, Due> = BTreeMap::new();
        for (place, at) in changes.paths {
            let Some(holding) = self.holdings.get_mut(&place.root) else { continue };
            if !holding.matcher.excluded(&place.path, false) {
                holding.touched.insert(place.path.clone(), at);
            }
            due.entry(place.root).or_default().places.insert(place.path);
        }
        for (root, folder) in changes.folders {
            let due = due.entry(root).or_default();
            match folder {
                None => due.whole = true,
                Some(folder) => {
                    due.places.insert(folder.clone());
                    due.deep.insert(folder);
                }
            }
        }
        for (name, holding) in &self.holdings {
            for (path, _) in holding.busy.iter().filter(|(_, busy)| busy.due <= now) {
                due.entry(name.clone()).or_default().places.insert(path.clone());
            }
        }
        due
    }

    /// Adds the folders that have no watch, with what is in them.
    fn add_unwatched(&self, due: &mut BTreeMap<RootName, Due>) {
        for (name, holding) in self.holdings.iter().filter(|(_, holding)| !holding.unwatched.is_empty()) {
            let due = due.entry(name.clone()).or_default();
            for folder in &holding.unwatched {
                match folder {
                    None => due.whole = true,
                    Some(folder) => {
                        due.places.insert(folder.clone());
                        due.deep.insert(folder.clone());
                    }
                }
            }
        }
    }

    /// After a sweep that began at `begun`: what has no watch now, and when it is looked at again.
    fn note_unwatched(&mut self, error: Option<WatchError>, looked_at_all: bool, begun: Instant) {
        let blind = self.is_blind();
        let all_watched = !blind && self.holdings.values().all(|holding| holding.unwatched.is_empty());
        if all_watched {
            if self.why.take().is_some() {
                tracing::info!("every folder is watched again");
            }
            self.poll_due = None;
            return;
        }
        if error.is_some() {
            self.unwatched_because(error);
        } else if blind && self.why.is_none() {
            let why = "the kernel's events can't be read any more".to_owned();
            tracing::warn!(why, "nothing is watched, polling");
            self.why = Some((why, None));
        }
        if looked_at_all || self.poll_due.is_none() {
            // However large the part without a watch is: most of the time is not spent on it.
            self.polled_every = (begun.elapsed() * POLL_SHARE).max(POLL_EVERY);
            self.poll_due = Some(Instant::now() + self.polled_every);
        }
    }

    fn unwatched_because(&mut self, error: Option<WatchError>) {
        let Some(error) = error else { return };
        if self.why.is_none() {
            tracing::warn!(why = with_causes(&error), "not every folder is watched, the rest is polled");
        }
        // Everyone may read it, so it names no path.
        let why = match (error.setting(), std::error::Error::source(&error)) {
            (Some(setting), _) => format!("{setting} is reached"),
            (None, Some(source)) => source.to_string(),
            (None, None) => error.to_string(),
        };
        self.why = Some((why, error.setting()));
    }

    fn unwatched(&self) -> Option<Unwatched> {
        let (why, setting) = self.why.clone()?;
        let of: u64 = self.holdings.values().map(Holding::folders).sum();
        let folders = match self.is_blind() {
            true => of,
            false => self.holdings.values().map(|holding| holding.unwatched.len() as u64).sum(),
        };
        Some(Unwatched { folders, of, why, setting, polled_every: self.polled_every })
    }
}

/// What is to be looked at in one root.
#[derive(Debug, Default)]
struct Due {
    places: BTreeSet<ArtifactPath>,
    /// Those of them that are looked at with everything below.
    deep: BTreeSet<ArtifactPath>,
    /// Everything.
    whole: bool,
}

fn by_root(applied: Applied) -> BTreeMap<RootName, Vec<(ArtifactPath, Option<Seen>)>> {
    let mut sorted: BTreeMap<RootName, Vec<_>> = BTreeMap::new();
    for (place, seen) in applied {
        sorted.entry(place.root).or_default().push((place.path, seen));
    }
    sorted
}
