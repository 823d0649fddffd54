//! From a batch to a generation that this node holds: reads the contents, encodes, pins. All of it blocks.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::crash;
use crate::delta::{Base, Encoder, ParcelError, Run};
use crate::model::{
    Change, ContentHash, Digest, Edit, Entry, FileTime, Forest, Generation, Place, Proposal, RootName, Rules,
};
use crate::plan::{Malformed, XML_BYTES_MAX, well_formed};
use crate::publish::fit::fit;
use crate::publish::malformed::is_xml;
use crate::publish::spool::Spool;
use crate::publish::{PublishError, Validate};
use crate::store::{Adopted, Batch, Blob, Store, StoreError};
use crate::tree::Root;
use crate::wire::Header;

/// What a generation is made from.
pub(super) struct Draft {
    /// The head; none before the first generation.
    pub(super) parent: Option<Arc<Adopted>>,
    /// The number that the log expects next.
    pub(super) number: u64,
    pub(super) edits: BTreeMap<Place, Edit>,
    pub(super) rules: Rules,
    pub(super) epoch: u64,
    pub(super) author: String,
    pub(super) created_unix_ms: i64,
    /// What is done about malformed XML.
    pub(super) validate: Validate,
    /// A person agreed to exactly these edits: all of them go out, or none.
    pub(super) exact: bool,
}

/// A generation that is ready to be staged.
pub(super) struct Prepared {
    pub(super) generation: Generation,
    pub(super) parcel: Parcel,
    /// How many places it changes, and how many of them it deletes that were no folders.
    pub(super) changes: u64,
    pub(super) deletes: u64,
    base_digest: Option<Digest>,
}

/// A generation as it is sent.
pub(super) struct Parcel {
    pub(super) header: Header,
    pub(super) spool: Spool,
    /// What its bytes tell.
    pub(super) runs: Vec<Run>,
}

/// What stays out of a generation that it was meant for.
pub(super) struct LeftOut {
    /// Places whose content is not what was observed any more.
    pub(super) unreadable: BTreeSet<Place>,
    /// Contents that are no well-formed XML: left out, or published all the same.
    pub(super) malformed: Vec<(Place, Entry, Malformed)>,
}

/// The forest that edits are made against.
pub(super) fn base_forest(parent: Option<&Adopted>, rules: &Rules) -> Forest {
    parent.map(|parent| parent.forest.clone()).unwrap_or_default().under(rules)
}

/// Reads what is new from `roots` into the store, encodes it for members that hold the parent, and hands it to `ready`,
/// unless nothing is left to publish; then pins it. Says what stayed out of it.
///
/// The members write while this node does: it counts as a holder only once this has returned, like any of them once it
/// has answered.
pub(super) fn prepare(
    draft: Draft,
    roots: &BTreeMap<RootName, Arc<Root>>,
    store: &Store,
    spool_dir: &Path,
    ready: impl FnOnce(Prepared),
) -> Result<LeftOut, PublishError> {
    let Draft { parent, number, mut edits, rules, epoch, author, created_unix_ms, validate, exact } = draft;
    let planned = edits.len();
    let base = base_forest(parent.as_deref(), &rules);
    let mut batch = store.batch();
    let mut unreadable = BTreeSet::new();
    let mut times: BTreeMap<Place, FileTime> = BTreeMap::new();
    let mut fresh: BTreeSet<ContentHash> = BTreeSet::new();
    let mut checks = Checks { validate, base: &base, published: None, malformed: Vec::new() };
    for edit in edits.values() {
        match read(edit, roots, &mut batch, &mut checks)? {
            Read::NoFile | Read::Held => {}
            Read::File { mtime, is_new } => {
                times.insert(edit.place.clone(), mtime);
                fresh.extend(edit.new.as_ref().and_then(Entry::content).filter(|_| is_new));
            }
            Read::Changed => {
                unreadable.insert(edit.place.clone());
            }
        }
    }
    tracing::debug!(target: "syncd::step", generation = number, "read");
    let malformed = checks.malformed;
    edits.retain(|place, _| !unreadable.contains(place));
    if validate == Validate::Hold {
        malformed.iter().for_each(|(place, ..)| drop(edits.remove(place)));
    }
    fit(&base, &mut edits);
    let is_same = parent.as_ref().is_some_and(|parent| parent.rules == rules);
    if (edits.is_empty() && (is_same || parent.is_none())) || (exact && edits.len() != planned) {
        return Ok(LeftOut { unreadable, malformed });
    }
    let forest = base.with(edits.values().map(|edit| (edit.place.clone(), edit.new.clone())))?;
    let parent_number = parent.as_ref().map_or(0, |parent| parent.generation.number);
    let generation =
        Generation { number, parent: parent_number, digest: forest.digest(), epoch, author, created_unix_ms };
    let is_delete =
        |edit: &&Edit| edit.new.is_none() && edit.old.as_ref().is_some_and(|old| !old.is_folder());
    let deletes = edits.values().filter(is_delete).count() as u64;
    let changes: Vec<Change> = edits
        .into_values()
        .map(|edit| Change { mtime: times.get(&edit.place).copied(), place: edit.place, entry: edit.new })
        .collect();
    let inlined = unknown_to_peers(&changes, &base, fresh);
    let proposal = Proposal { generation, base: parent_number, rules, changes };
    let base_digest = parent.map(|parent| parent.generation.digest);
    // The parent is the head: its times are those of the head's rows.
    let time = |place: &Place| store.author_mtime(place).map_err(std::io::Error::other);
    let base = Base { forest: &base, time: &time };
    let how = |patches| How { base_digest, rules_of_base: is_same, patches };
    let reader = store.reader()?;
    let mut open = |hash: &ContentHash| match batch.open_unsynced(hash)? {
        Some(blob) => Ok(blob),
        None => reader.open_blob(hash),
    };
    let parcel = match encode(&proposal, &base, &inlined, how(true), (store, &mut open), spool_dir) {
        // An old version is damaged: contents come whole for once.
        Err(
            error @ (PublishError::Encode(ParcelError::Patch { .. })
            | PublishError::Store(StoreError::Damaged { .. } | StoreError::Missing { .. })),
        ) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "encoding without patches");
            encode(&proposal, &base, &inlined, how(false), (store, &mut open), spool_dir)?
        }
        parcel => parcel?,
    };
    tracing::debug!(target: "syncd::step", generation = number, "encoded");
    let (generation, changes) = (proposal.generation.clone(), proposal.changes.len() as u64);
    ready(Prepared { generation, parcel, changes, deletes, base_digest });
    crash::point("publish.before-own-pin");
    batch.pin(&proposal)?;
    tracing::debug!(target: "syncd::step", generation = number, "own pin durable");
    Ok(LeftOut { unreadable, malformed })
}

impl Prepared {
    /// The same generation with every content, for a member that lacks what it should have. Made from the store again:
    /// it is seldom needed, and would be in memory for as long as the slowest member takes.
    pub(super) fn whole(&self, store: &Store, spool_dir: &Path) -> Result<Parcel, PublishError> {
        let (parent, digest) = (self.generation.parent, &self.generation.digest);
        let unknown = StoreError::UnknownBase { number: self.generation.number, base: parent };
        let base = self.base_digest.unwrap_or(Digest([0; 32]));
        let proposal = store.changes_between(parent, &base, self.generation.number, digest)?;
        let proposal = proposal.filter(|proposal| proposal.base == parent);
        let (Some(proposal), Some(basis)) = (proposal, store.basis(parent, self.base_digest.as_ref())?)
        else {
            return Err(unknown.into());
        };
        let all: BTreeSet<ContentHash> =
            proposal.changes.iter().filter_map(|change| change.entry.as_ref()?.content()).collect();
        let forest = basis.forest.clone().under(&proposal.rules);
        // By now the head may be another one than the parent.
        let time = |place: &Place| basis.time(place).map_err(std::io::Error::other);
        let how = How { base_digest: self.base_digest, rules_of_base: false, patches: false };
        let reader = store.reader()?;
        let mut open = |hash: &ContentHash| reader.open_blob(hash);
        let base = Base { forest: &forest, time: &time };
        encode(&proposal, &base, &all, how, (store, &mut open), spool_dir)
    }
}

enum Read {
    NoFile,
    File {
        mtime: FileTime,
        is_new: bool,
    },
    Changed,
    /// It is no well-formed XML, and such files are not published.
    Held,
}

/// What is done about malformed XML, and what was found.
struct Checks<'a> {
    validate: Validate,
    base: &'a Forest,
    /// The contents of the base, once somebody asked.
    published: Option<HashSet<ContentHash>>,
    malformed: Vec<(Place, Entry, Malformed)>,
}

impl Checks<'_> {
    /// Whether the new content has to be looked into: what is published already is not looked at again.
    fn concern(&mut self, edit: &Edit, hash: &ContentHash, is_new: bool) -> bool {
        if self.validate == Validate::Off || !is_xml(&edit.place) {
            return false;
        }
        let base = self.base;
        let contents = || base.iter().filter_map(|(_, entry)| entry.content()).collect();
        is_new || !self.published.get_or_insert_with(contents).contains(hash)
    }

    /// Looks into a content; whether it is held.
    fn hold(&mut self, edit: &Edit, looked: Result<(), Malformed>) -> bool {
        let (Err(why), Some(entry)) = (looked, &edit.new) else { return false };
        self.malformed.push((edit.place.clone(), entry.clone(), why));
        self.validate == Validate::Hold
    }
}

/// Reads one file into the store, unless its content is there; the time is that of the file that was opened.
fn read(
    edit: &Edit,
    roots: &BTreeMap<RootName, Arc<Root>>,
    batch: &mut Batch<'_>,
    checks: &mut Checks<'_>,
) -> Result<Read, PublishError> {
    let Some(Entry::File { size, hash, .. }) = &edit.new else { return Ok(Read::NoFile) };
    let Some(root) = roots.get(&edit.place.root) else { return Ok(Read::Changed) };
    let opened = root.open_file(&edit.place.path).map_err(|error| error.to_string()).and_then(|file| {
        let stat = file.metadata().map_err(|error| error.to_string())?;
        Ok((file, stat))
    });
    let (mut file, stat) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(place = %edit.place, error, "left out: can't be read any more");
            return Ok(Read::Changed);
        }
    };
    let is_new = !batch.has(hash)?;
    let mut whole = Vec::new();
    if checks.concern(edit, hash, is_new) {
        if *size > XML_BYTES_MAX {
            if checks.hold(edit, Err(Malformed::too_large())) {
                return Ok(Read::Held);
            }
        } else {
            let read = (&mut file).take(*size + 1).read_to_end(&mut whole);
            if read.is_err() || ContentHash::of(&whole) != *hash {
                tracing::debug!(place = %edit.place, "left out: changed since it was seen");
                return Ok(Read::Changed);
            }
            if checks.hold(edit, well_formed(&whole)) {
                return Ok(Read::Held);
            }
        }
    }
    if is_new {
        let mut rest = whole.as_slice().chain(&mut file);
        match batch.put(hash, *size, &mut rest) {
            Ok(_) => {}
            Err(error @ (StoreError::Mismatch { .. } | StoreError::Source { .. })) => {
                tracing::debug!(place = %edit.place, %error, "left out: changed since it was seen");
                return Ok(Read::Changed);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let nanos = u32::try_from(stat.mtime_nsec()).unwrap_or(0);
    Ok(Read::File { mtime: FileTime { seconds: stat.mtime(), nanos }, is_new })
}

/// Every member that takes this generation holds its parent: what lies anywhere in that need not be sent.
fn unknown_to_peers(
    changes: &[Change],
    base: &Forest,
    fresh: BTreeSet<ContentHash>,
) -> BTreeSet<ContentHash> {
    let needed = changes.iter().filter_map(|change| change.entry.as_ref()?.content());
    let mut unknown: BTreeSet<ContentHash> = needed.filter(|hash| !fresh.contains(hash)).collect();
    if !unknown.is_empty() {
        for (_, entry) in base.iter() {
            if let Some(hash) = entry.content() {
                unknown.remove(&hash);
            }
        }
    }
    unknown.extend(fresh);
    unknown
}

/// Opens a content of the store, or one that is about to be in it.
type Open<'a> = &'a mut dyn FnMut(&ContentHash) -> Result<Blob, StoreError>;

/// How a parcel is encoded.
struct How {
    base_digest: Option<Digest>,
    rules_of_base: bool,
    patches: bool,
}

fn encode(
    proposal: &Proposal,
    base: &Base<'_>,
    sent: &BTreeSet<ContentHash>,
    how: How,
    (store, open): (&Store, Open<'_>),
    spool_dir: &Path,
) -> Result<Parcel, PublishError> {
    let has = |hash: &ContentHash| Ok::<_, PublishError>(how.patches && store.has(hash)?);
    let encoder = Encoder::new(proposal, base, sent, BTreeMap::new(), has)?;
    let mut runs = Vec::new();
    let open = |hash: &ContentHash| Ok::<_, PublishError>(open(hash)?);
    let spool = Spool::fill(
        spool_dir,
        |out| {
            runs = encoder.write(open, out)?;
            Ok(())
        },
        PublishError::Spool,
    )?;
    Ok(Parcel { header: encoder.header(proposal, how.base_digest, how.rules_of_base), spool, runs })
}
