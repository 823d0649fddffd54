//! Brings files from what was observed to what a generation says, all of them or none.
//!
//! Everything is staged, checked and made durable first; then one tight loop of renames, so that one scan of the
//! gateway sees the whole set; then what came out is looked at, the folders are synced and one record is written.
//! An error at any step takes back what was done. What a crash leaves half done is brought to the head by the next
//! start, which the journal announces. At no moment is a path that both sides have absent, or part of a file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::apply::ApplyError;
use crate::apply::displaced::Displaced;
use crate::crash;
use crate::model::{ArtifactPath, Edit, Entry, FileTime, Forest, Place, RootName, unix_ms};
use crate::plan;
use crate::store::{Applied, Reader, Store};
use crate::tree::{Kind, Root, Seen, StageName, Staged, TreeError, Workshop};

/// How often a place is tried that somebody else changes at the same moment.
const TRIES: u32 = 4;
/// Fewer are staged by one thread: starting another one takes longer.
const STAGED_BY_ONE_MAX: usize = 256;

/// A root, and who files in it belong to: none for the daemon's own user.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub root: Arc<Root>,
    pub owner: Option<(u32, u32)>,
}

/// What is to be done.
pub(super) struct Round<'a> {
    pub store: &'a Store,
    pub sites: &'a BTreeMap<RootName, Site>,
    /// Observed to target, in any order.
    pub edits: Vec<Edit>,
    /// What the roots were brought to before: links that it names are known.
    pub before: Option<&'a Forest>,
    /// What is noted when all is done.
    pub record: Applied,
    /// Why unknown content of a place is put into quarantine.
    pub why: &'a (dyn Fn(&Place) -> &'static str + Sync),
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What is where now, for the inventory; a place that changed again at once is left out.
    pub written: Vec<(Place, Option<Seen>)>,
    /// To be looked at again, then dropped.
    pub displaced: Vec<Displaced>,
    /// Whose unknown content was put into quarantine.
    pub quarantined: Vec<Place>,
    /// Folders that were to go but hold something.
    pub kept: Vec<Place>,
}

/// What was not done: the files are as before, unless it could not be taken back.
#[derive(Debug)]
pub(super) struct Failed {
    pub error: ApplyError,
    /// To be looked at, then dropped.
    pub displaced: Vec<Displaced>,
    /// Whether nothing of it is left in the roots.
    pub taken_back: bool,
}

/// Carries `round` out. Blocks on the disk.
pub(super) fn reconcile(round: Round<'_>) -> Result<Outcome, Box<Failed>> {
    let mut work = Work {
        round,
        workshops: BTreeMap::new(),
        steps: Vec::new(),
        done: Vec::new(),
        journaled: false,
        folders: BTreeMap::new(),
        seconds: Vec::new(),
        outcome: Outcome::default(),
    };
    match work.run() {
        Ok(()) => Ok(work.outcome),
        Err(error) => {
            let (displaced, taken_back) = work.take_back();
            Err(Box::new(Failed { error, displaced, taken_back }))
        }
    }
}

fn size_of(entry: Option<&Entry>) -> Option<u64> {
    match entry {
        Some(Entry::File { size, .. }) => Some(*size),
        _ => None,
    }
}

struct Step {
    edit: Edit,
    /// What is staged for it.
    staged: Option<StageName>,
    /// The time of the staged file.
    mtime: FileTime,
}

/// What takes one change back.
enum Undo {
    /// What is under the name and what is at the place change places again.
    Exchange(Place, StageName),
    /// What is at the place goes back under the name.
    Take(Place, StageName),
    /// What is under the name goes back to the place.
    Place(Place, StageName),
    /// A folder was made.
    RemoveFolder(Place),
    /// A folder was removed.
    MakeFolder(Place, u32),
    /// A mode was set.
    Mode(Place, u32),
}

struct Work<'a> {
    round: Round<'a>,
    workshops: BTreeMap<RootName, Workshop>,
    steps: Vec<Step>,
    /// In the order in which it was done.
    done: Vec<Undo>,
    journaled: bool,
    /// Folders whose listings changed.
    folders: BTreeMap<RootName, BTreeSet<Option<ArtifactPath>>>,
    seconds: Vec<(Place, i64)>,
    outcome: Outcome,
}

impl Work<'_> {
    fn run(&mut self) -> Result<(), ApplyError> {
        crash::point("apply.before-stage");
        let result = self.stage_all();
        crash::point("apply.after-stage");
        result?;
        let generation = self.round.record.number;
        tracing::debug!(target: "syncd::step", generation, "staged file synced");
        if self.steps.len() > 1 {
            self.round.store.set_applying(Some(self.round.record.number))?;
            self.journaled = true;
        }
        let mut steps = std::mem::take(&mut self.steps);
        let made = steps.iter_mut().enumerate().try_for_each(|(index, step)| {
            if index > 0 {
                crash::point("apply.mid-rename");
            }
            self.make(step)
        });
        self.steps = steps;
        made?;
        tracing::debug!(target: "syncd::step", generation, "exchanged");
        crash::point("apply.after-rename");
        self.look_at_displaced()?;
        for (root, folders) in &self.folders {
            let site = self.site(root)?;
            let error = ApplyError::within(root);
            site.root.sync_folders(folders).map_err(error)?;
        }
        tracing::debug!(target: "syncd::step", generation, "folders synced");
        self.tell_what_is_there()?;
        self.round.store.set_applied(&self.round.record, &self.seconds)?;
        tracing::debug!(target: "syncd::step", generation, "recorded");
        crash::point("apply.after-record");
        Ok(())
    }

    /// Fails if what will come out could not be put into quarantine: readers must not see new content that is taken
    /// back for that, time and again.
    fn check_displaced(&self) -> Result<(), ApplyError> {
        let mut unknown = 0;
        for Edit { place, old, new } in &self.round.edits {
            let Some(Entry::File { size, hash, .. }) = old else { continue };
            if new.as_ref().and_then(Entry::content) == Some(*hash) {
                continue;
            }
            match self.site(&place.root)?.root.open_file(&place.path) {
                Ok(_) => {}
                Err(error) if error.is_absent() => continue,
                Err(error) => return Err(ApplyError::at(place)(error)),
            }
            if !self.round.store.is_committed(hash)? {
                unknown += size;
            }
        }
        Ok(self.round.store.require_room(unknown)?)
    }

    /// Makes everything ready that can fail for want of space, without touching a single artifact.
    fn stage_all(&mut self) -> Result<(), ApplyError> {
        self.check_displaced()?;
        let edits = &self.round.edits;
        let bytes = edits.iter().filter_map(|edit| size_of(edit.new.as_ref())).sum();
        let _applying = self.round.store.meter().begin("applying", Some(edits.len() as u64), Some(bytes));
        for edit in plan::order(std::mem::take(&mut self.round.edits)) {
            let root = &edit.place.root;
            if !self.workshops.contains_key(root) {
                let error = ApplyError::within(root);
                let workshop = self.site(root)?.root.workshop().map_err(error)?;
                self.workshops.insert(root.clone(), workshop);
            }
            self.steps.push(Step { edit, staged: None, mtime: FileTime { seconds: 0, nanos: 0 } });
        }
        let mut steps = std::mem::take(&mut self.steps);
        let staged = self.stage_steps(&mut steps);
        // Also when it failed: what was staged is to be cleared.
        self.steps = steps;
        staged?;
        for (root, workshop) in &self.workshops {
            workshop.sync().map_err(ApplyError::within(root))?;
        }
        Ok(())
    }

    /// In two threads when there are many: one waits for the disk while the other one hashes.
    fn stage_steps(&self, steps: &mut [Step]) -> Result<(), ApplyError> {
        let failed = AtomicBool::new(false);
        let stage_some = |steps: &mut [Step]| {
            let reader = self.round.store.reader()?;
            steps.iter_mut().try_for_each(|step| {
                // What the other one failed at is the error to tell.
                if failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let result = self.stage(step, &reader);
                failed.fetch_or(result.is_err(), Ordering::Relaxed);
                self.round.store.meter().count("applying", size_of(step.edit.new.as_ref()).unwrap_or(0));
                result
            })
        };
        if steps.len() < STAGED_BY_ONE_MAX {
            return stage_some(steps);
        }
        let (first, second) = steps.split_at_mut(steps.len() / 2);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| stage_some(second));
            let mine = stage_some(first);
            let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            mine.and(other)
        })
    }

    fn stage(&self, step: &mut Step, reader: &Reader<'_>) -> Result<(), ApplyError> {
        let edit = &step.edit;
        let place = &edit.place;
        if let (Some(old), Some(new)) = (&edit.old, &edit.new)
            && old.same_content(new)
        {
            return Ok(());
        }
        let name = self.stage_name(place);
        let workshop = self.workshop(place)?;
        let error = ApplyError::at(place);
        match &edit.new {
            Some(Entry::File { mode, size, hash }) => {
                let site = self.site(&place.root)?;
                // Where nothing is expected, what is there all the same is seen when it is put in place.
                let before = match edit.old {
                    Some(_) => site.root.stat(&place.path).map_err(error)?,
                    None => None,
                };
                let last = reader
                    .last_second(place)?
                    .max(before.filter(|stat| stat.kind == Kind::File).map(|stat| stat.mtime.seconds));
                let author = reader.author_mtime(place)?.unwrap_or_else(now);
                let mtime = plan::mtime_for(author, last);
                let staged = Staged { hash: *hash, size: *size, mode: *mode, owner: site.owner, mtime };
                let mut content = reader.open_blob(hash)?;
                workshop.stage(&name, &mut content, &staged).map_err(error)?;
                step.mtime = mtime;
            }
            Some(Entry::Link { target }) => workshop.stage_link(&name, target).map_err(error)?,
            Some(Entry::Folder { .. }) | None => return Ok(()),
        }
        step.staged = Some(name);
        Ok(())
    }

    fn make(&mut self, step: &mut Step) -> Result<(), ApplyError> {
        let place = step.edit.place.clone();
        match (&step.edit.old, &step.edit.new) {
            (_, Some(Entry::Folder { mode })) => self.make_folder(&place, *mode),
            (Some(Entry::Folder { mode }), None) => {
                if !self.remove_folder(&place, *mode)? {
                    self.outcome.kept.push(place);
                }
                Ok(())
            }
            (_, None) => self.take(&place).map(drop),
            (_, Some(Entry::File { mode, .. })) if step.staged.is_none() => self.set_mode(&place, *mode),
            (Some(Entry::Folder { mode }), Some(_)) => {
                self.remove_folder(&place, *mode)?;
                self.put(step)
            }
            (_, Some(_)) => self.put(step),
        }
    }

    /// Puts what is staged in place, whatever is there now.
    fn put(&mut self, step: &mut Step) -> Result<(), ApplyError> {
        let Some(name) = step.staged.clone() else { return Ok(()) };
        let place = &step.edit.place;
        let error = ApplyError::at(place);
        let is_file = matches!(step.edit.new, Some(Entry::File { .. }));
        for attempt in 0..TRIES {
            let root = &self.site(&place.root)?.root;
            let workshop = self.workshop(place)?;
            let is_expected = attempt > 0 || step.edit.old.is_some();
            let there = if is_expected { root.stat(&place.path).map_err(error)? } else { None };
            let Some(there) = there else {
                if workshop.place(&name, &place.path).map_err(error)? {
                    self.did(Undo::Take(place.clone(), name));
                    if is_file {
                        self.seconds.push((place.clone(), step.mtime.seconds));
                    }
                    return Ok(());
                }
                continue;
            };
            if !matches!(there.kind, Kind::File | Kind::Link) {
                return Err(ApplyError::Blocked { place: place.clone() });
            }
            if is_file && there.kind == Kind::File && there.mtime.seconds >= step.mtime.seconds {
                step.mtime = plan::mtime_for(step.mtime, Some(there.mtime.seconds));
                workshop.set_times(&name, step.mtime).map_err(error)?;
            }
            match workshop.exchange(&name, &place.path) {
                Err(TreeError::Gone { .. }) => continue,
                result => result.map_err(error)?,
            }
            let out = workshop.stat(&name).map_err(error)?;
            self.did(Undo::Exchange(place.clone(), name.clone()));
            if is_file {
                self.seconds.push((place.clone(), step.mtime.seconds));
            }
            let Some(out) = out.filter(|out| matches!(out.kind, Kind::File | Kind::Link)) else {
                // A folder took the file's place between two calls; taking back puts it there again.
                return Err(ApplyError::Restless { place: place.clone() });
            };
            if is_file && out.kind == Kind::File && out.mtime.seconds >= step.mtime.seconds {
                step.mtime = plan::mtime_for(step.mtime, Some(out.mtime.seconds));
                self.seconds.push((place.clone(), step.mtime.seconds));
                self.site(&place.root)?.root.set_times(&place.path, step.mtime).map_err(error)?;
            }
            self.displaced(place, name, &step.edit)?;
            return Ok(());
        }
        Err(ApplyError::Restless { place: place.clone() })
    }

    /// Takes a file or link away.
    fn take(&mut self, place: &Place) -> Result<(), ApplyError> {
        let error = ApplyError::at(place);
        let name = self.stage_name(place);
        let workshop = self.workshop(place)?;
        match self.site(&place.root)?.root.stat(&place.path).map_err(error)? {
            None => return Ok(()),
            Some(stat) if matches!(stat.kind, Kind::File | Kind::Link) => {}
            Some(_) => return Err(ApplyError::Blocked { place: place.clone() }),
        }
        if !workshop.take(&place.path, &name).map_err(error)? {
            return Ok(());
        }
        let out = workshop.stat(&name).map_err(error)?;
        self.did(Undo::Place(place.clone(), name.clone()));
        match out {
            Some(out) if out.kind == Kind::File => self.seconds.push((place.clone(), out.mtime.seconds)),
            Some(out) if out.kind == Kind::Link => {}
            _ => return Err(ApplyError::Restless { place: place.clone() }),
        }
        let gone = Edit { place: place.clone(), old: None, new: None };
        self.displaced(place, name, &gone)
    }

    fn make_folder(&mut self, place: &Place, mode: u32) -> Result<(), ApplyError> {
        let error = ApplyError::at(place);
        let Site { root, owner } = self.site(&place.root)?.clone();
        match root.stat(&place.path).map_err(error)? {
            Some(stat) if stat.kind == Kind::Folder => return self.set_mode(place, mode),
            Some(stat) if matches!(stat.kind, Kind::Mount | Kind::Other) => {
                return Err(ApplyError::Blocked { place: place.clone() });
            }
            Some(_) => self.take(place)?,
            None => {}
        }
        if !root.make_folder(&place.path, mode).map_err(error)? {
            return Err(ApplyError::Restless { place: place.clone() });
        }
        self.did(Undo::RemoveFolder(place.clone()));
        if let Some((uid, gid)) = owner {
            root.set_owner(&place.path, uid, gid).map_err(error)?;
        }
        Ok(())
    }

    /// False when the folder holds something.
    fn remove_folder(&mut self, place: &Place, mode: u32) -> Result<bool, ApplyError> {
        let error = ApplyError::at(place);
        let root = &self.site(&place.root)?.root;
        let removed = root.remove_folder(&place.path).map_err(error)?;
        if removed {
            self.did(Undo::MakeFolder(place.clone(), mode));
        }
        Ok(removed)
    }

    fn set_mode(&mut self, place: &Place, mode: u32) -> Result<(), ApplyError> {
        let error = ApplyError::at(place);
        let root = &self.site(&place.root)?.root;
        match root.stat(&place.path).map_err(error)? {
            Some(stat) if stat.mode != mode && matches!(stat.kind, Kind::File | Kind::Folder) => {
                root.set_mode(&place.path, mode).map_err(error)?;
                self.done.push(Undo::Mode(place.clone(), stat.mode));
                Ok(())
            }
            Some(_) => Ok(()),
            None => Err(ApplyError::Restless { place: place.clone() }),
        }
    }

    fn look_at_displaced(&mut self) -> Result<(), ApplyError> {
        for item in &mut self.outcome.displaced {
            let workshop = self.workshops.get(&item.place.root).ok_or_else(|| no_site(&item.place.root))?;
            if item.look(self.round.store, workshop)? {
                self.outcome.quarantined.push(item.place.clone());
            }
        }
        Ok(())
    }

    /// What is where now; whatever is not exactly what was put there, the inventory has to find out itself.
    fn tell_what_is_there(&mut self) -> Result<(), ApplyError> {
        for step in &self.steps {
            let place = &step.edit.place;
            let error = ApplyError::at(place);
            let stat = self.site(&place.root)?.root.stat(&place.path).map_err(error)?;
            let seen = match (&step.edit.new, stat) {
                (None, None) => None,
                (Some(entry @ Entry::File { mode, size, .. }), Some(stat))
                    if stat.kind == Kind::File
                        && step.staged.is_some()
                        && (stat.mode, stat.size, stat.mtime) == (*mode, *size, step.mtime) =>
                {
                    Some(Seen::now(entry.clone(), stat))
                }
                (Some(Entry::Folder { .. }), Some(stat)) if stat.kind == Kind::Folder => {
                    Some(Seen::now(Entry::Folder { mode: stat.mode }, stat))
                }
                _ => continue,
            };
            self.outcome.written.push((place.clone(), seen));
        }
        Ok(())
    }

    /// Takes everything back, last first, and clears the stage of what was never out; whether it could.
    fn take_back(&mut self) -> (Vec<Displaced>, bool) {
        // Before what readers saw is gone again: the next content of these places must be newer than it.
        if !self.seconds.is_empty()
            && let Err(error) = self.round.store.note_seconds(&self.seconds)
        {
            tracing::warn!(%error, "the times of what is taken back are not noted");
        }
        let mut whole = true;
        let mut were_out: Vec<(Place, StageName)> = Vec::new();
        for undo in std::mem::take(&mut self.done).into_iter().rev() {
            if let Some(out) = undo.was_out() {
                were_out.push(out);
            }
            if let Err(error) = self.undo(&undo) {
                tracing::error!(
                    error = error.chain(),
                    "a change could not be taken back; the next apply goes on from here"
                );
                whole = false;
            }
        }
        let out: BTreeSet<&StageName> = were_out.iter().map(|(_, name)| name).collect();
        for step in &self.steps {
            if let Some(name) = step.staged.as_ref().filter(|name| !out.contains(name))
                && let Some(workshop) = self.workshops.get(&step.edit.place.root)
                && let Err(error) = workshop.remove(name)
            {
                tracing::warn!(%error, "what was staged stays until the next start");
            }
        }
        for (root, folders) in &self.folders {
            if let Some(site) = self.round.sites.get(root)
                && let Err(error) = site.root.sync_folders(folders)
            {
                tracing::warn!(%error, "the folders could not be synced");
                whole = false;
            }
        }
        if self.journaled
            && whole
            && let Err(error) = self.round.store.set_applying(None)
        {
            tracing::warn!(%error, "the journal stays open");
        }
        // New content that was out for a moment may have been written to, and so may the old one that went back in.
        let targets: BTreeMap<&Place, &Option<Entry>> =
            self.steps.iter().map(|step| (&step.edit.place, &step.edit.new)).collect();
        let items = were_out.iter().filter_map(|(place, name)| {
            let root = Arc::clone(&self.round.sites.get(&place.root)?.root);
            let target = targets.get(place).and_then(|new| (*new).clone());
            Some(self.item(root, place, name.clone(), target))
        });
        (items.collect(), whole)
    }

    fn undo(&self, undo: &Undo) -> Result<(), ApplyError> {
        let place = undo.place();
        let error = ApplyError::at(place);
        let root = &self.site(&place.root)?.root;
        let workshop = self.workshop(place)?;
        match undo {
            Undo::Exchange(_, name) => workshop.exchange(name, &place.path).map_err(error)?,
            Undo::Take(_, name) => drop(workshop.take(&place.path, name).map_err(error)?),
            Undo::Place(_, name) => drop(workshop.place(name, &place.path).map_err(error)?),
            Undo::RemoveFolder(_) => drop(root.remove_folder(&place.path).map_err(error)?),
            Undo::MakeFolder(_, mode) => drop(root.make_folder(&place.path, *mode).map_err(error)?),
            Undo::Mode(_, mode) => root.set_mode(&place.path, *mode).map_err(error)?,
        }
        Ok(())
    }

    fn did(&mut self, undo: Undo) {
        let place = undo.place();
        self.folders.entry(place.root.clone()).or_default().insert(place.path.parent());
        self.done.push(undo);
    }

    fn displaced(&mut self, place: &Place, name: StageName, edit: &Edit) -> Result<(), ApplyError> {
        let root = Arc::clone(&self.site(&place.root)?.root);
        let item = self.item(root, place, name, edit.new.clone());
        self.outcome.displaced.push(item);
        Ok(())
    }

    fn item(&self, root: Arc<Root>, place: &Place, name: StageName, target: Option<Entry>) -> Displaced {
        let before = self.round.before.and_then(|forest| forest.get(place)).cloned();
        Displaced {
            root,
            name,
            place: place.clone(),
            known: before.into_iter().chain(target).collect(),
            generation: self.round.record.number,
            why: (self.round.why)(place).to_owned(),
            looked: None,
        }
    }

    fn site(&self, root: &RootName) -> Result<&Site, ApplyError> {
        self.round.sites.get(root).ok_or_else(|| no_site(root))
    }

    fn workshop(&self, place: &Place) -> Result<&Workshop, ApplyError> {
        self.workshops.get(&place.root).ok_or_else(|| no_site(&place.root))
    }

    fn stage_name(&self, place: &Place) -> StageName {
        StageName::new(self.round.record.number, sequence(), &place.path)
    }
}

impl Undo {
    fn place(&self) -> &Place {
        match self {
            Self::Exchange(place, _)
            | Self::Take(place, _)
            | Self::Place(place, _)
            | Self::RemoveFolder(place)
            | Self::MakeFolder(place, _)
            | Self::Mode(place, _) => place,
        }
    }

    /// What lies in the stage afterwards, and was in the root.
    fn was_out(&self) -> Option<(Place, StageName)> {
        match self {
            Self::Exchange(place, name) | Self::Take(place, name) | Self::Place(place, name) => {
                Some((place.clone(), name.clone()))
            }
            _ => None,
        }
    }
}

fn no_site(root: &RootName) -> ApplyError {
    let path = root.to_string();
    ApplyError::within(root)(TreeError::Missing { path })
}

/// Never the same twice, also not after a restart: what an earlier process staged may still lie there.
fn sequence() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let start = u64::try_from(unix_ms()).unwrap_or_default() << 16;
    // Nothing is ordered by it.
    let _ = NEXT.compare_exchange(0, start, Ordering::Relaxed, Ordering::Relaxed);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn now() -> FileTime {
    FileTime { seconds: unix_ms().div_euclid(1000), nanos: 0 }
}

#[cfg(test)]
mod tests;
