//! The list of changes that a parcel begins with: moves, then folder by folder what is different.
//!
//! What the base has is named by its position among its siblings and not by its name, and no hash of a patched file is
//! told: the generation's digest proves what comes out. So a line changed in each of a thousand files costs some bytes
//! per file besides the line.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

use prost::Message;

use crate::delta::moves::{self, Moved, Moves};
use crate::delta::patch::PATCHED_BYTES_MAX;
use crate::delta::{Base, ParcelError, Signature};
use crate::model::{ArtifactPath, Change, ContentHash, Entry, FileTime, Forest, Place, Proposal, RootName};
use crate::wire::proto::change_part::Part;
use crate::wire::{
    Coming, WireError, change_from, change_to, check_link, place_from, proto, root_name, time_from, time_to,
};

/// Changes of one message.
const PART_CHANGES_MAX: usize = 200;
/// One message: each of its changes at its longest. Decoded, empty changes take some fifty times as much.
const PART_BYTES_MAX: usize = 1 << 20;
/// All messages of one parcel, decompressed.
const LIST_BYTES_MAX: u64 = 256 << 20;
/// A folder with so many children for each changed one is not counted through: its changes are named.
const COUNTED_PER_CHANGE: usize = 64;

/// A file whose content comes as a patch of the base's file at that path.
#[derive(Clone, Debug)]
pub(super) struct Patched {
    pub(super) place: Place,
    pub(super) old: ContentHash,
    pub(super) old_size: u64,
    pub(super) size: u64,
    /// The new content; only the sender knows it before.
    pub(super) new: Option<ContentHash>,
}

/// A large file that comes as a patch of the receiver's own file at that path.
#[derive(Clone, Debug)]
pub(super) struct Signed {
    pub(super) place: Place,
    pub(super) hash: ContentHash,
    pub(super) size: u64,
}

/// What a list says.
#[derive(Debug, Default)]
pub(super) struct List {
    /// Every place that differs; those that are patched have no hash yet.
    pub(super) changes: BTreeMap<Place, Change>,
    pub(super) patched: Vec<Patched>,
    pub(super) signed: Vec<Signed>,
    /// Contents that come whole, each once, in this order.
    pub(super) whole: Vec<(ContentHash, u64)>,
}

/// What a sender has to send besides its list.
#[derive(Debug, Default)]
pub(super) struct Needed {
    pub(super) patched: Vec<Patched>,
    pub(super) signed: Vec<Signed>,
    pub(super) whole: Vec<(ContentHash, u64)>,
}

/// Writes the list of `proposal` against `base`. Contents in `sent` come with the parcel: as a patch where the path's old
/// version is known, which `has` says of the sender's own store; a large one for which the receiver gave a signature, as a
/// patch of that file.
///
/// # Errors
/// Those of `out` and `has`.
pub(super) fn write<E: From<ParcelError>>(
    proposal: &Proposal,
    base: &Base<'_>,
    sent: &BTreeSet<ContentHash>,
    signatures: &BTreeMap<Place, Signature>,
    mut has: impl FnMut(&ContentHash) -> Result<bool, E>,
    out: &mut dyn Write,
) -> Result<Needed, E> {
    let found = moves::find(base.forest, &proposal.changes);
    let moved = moves::carry_out(base.forest, &found)?;
    let since = since(proposal.generation.created_unix_ms);
    let put = |out: &mut dyn Write, part| {
        let bytes = proto::ChangePart { part: Some(part) }.encode_length_delimited_to_vec();
        out.write_all(&bytes).map_err(ParcelError::Stream)
    };
    for (from, to) in &found {
        put(out, Part::Move(move_to(from, to)))?;
    }

    // What a moved folder brought along and the generation has not.
    let is_told = |place: &Place| proposal.changes.binary_search_by(|change| change.place.cmp(place)).is_ok();
    let brought = moved.edits.iter().filter(|(place, entry)| entry.is_some() && !is_told(place));
    let left: Vec<Change> =
        brought.map(|(place, _)| Change { place: place.clone(), entry: None, mtime: None }).collect();
    let mut folders: BTreeMap<Folder<'_>, Vec<(&Change, How)>> = BTreeMap::new();
    // A content comes once: as a patch if one of its places has an old version.
    let (mut coming, mut patches) = (sent.clone(), BTreeSet::new());
    for change in merged(&proposal.changes, &left) {
        let old = moved.forest.get(&change.place);
        // Whoever has this base may lack the content all the same.
        let is_sent = |entry: &Entry| entry.content().is_some_and(|hash| sent.contains(&hash));
        let how = match (&change.entry, old) {
            (None, None) => continue,
            (None, Some(_)) => How::Gone,
            (Some(new), Some(old)) if new == old && !is_sent(new) => {
                let known = moved.origins.get(&change.place).filter(|_| new.content().is_some());
                match known {
                    Some(origin) if (base.time)(origin).map_err(ParcelError::Stream)? == change.mtime => {
                        continue;
                    }
                    None => continue,
                    Some(_) => How::Kept,
                }
            }
            (Some(Entry::File { hash, size, .. }), Some(Entry::File { hash: old, size: old_size, .. }))
                if coming.contains(hash)
                    && hash != old
                    && (*size).max(*old_size) <= PATCHED_BYTES_MAX
                    && has(old)? =>
            {
                coming.remove(hash);
                patches.insert(*hash);
                How::Patched { old: *old, old_size: *old_size }
            }
            (Some(_), _) => How::Named,
        };
        let path = change.place.path.as_bytes();
        let folder = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |slash| &path[..slash]);
        folders.entry((&change.place.root, folder)).or_default().push((change, how));
    }

    let mut needed = Needed::default();
    for ((root, folder), changes) in folders {
        let path = Some(folder)
            .filter(|folder| !folder.is_empty())
            .map(ArtifactPath::new)
            .transpose()
            .map_err(|error| ParcelError::Change(error.into()))?;
        let listing = moved.forest.roots.get(root).and_then(|manifest| manifest.children(path.as_ref()));
        let most = COUNTED_PER_CHANGE * changes.len();
        let mut positions: BTreeMap<&[u8], (u32, &Entry)> = BTreeMap::new();
        for (position, (name, entry)) in (0..).zip(listing.into_iter().flatten().take(most + 1)) {
            positions.insert(name, (position, entry));
        }
        if positions.len() > most {
            positions.clear();
        }
        for changes in changes.chunks(PART_CHANGES_MAX) {
            let mut part = proto::FolderChanges {
                root: root.as_str().to_owned(),
                folder: bytes::Bytes::copy_from_slice(folder),
                ..Default::default()
            };
            let (mut gone, mut kept, mut patched) = (Gaps::default(), Gaps::default(), Gaps::default());
            let (mut kept_times, mut patched_times) = (Vec::new(), Vec::new());
            let (mut by_position, mut by_name) = (Vec::new(), Vec::new());
            for (change, how) in changes {
                let position = positions.get(change.place.path.name());
                match (how, position) {
                    (How::Gone, Some((position, _))) => gone.push(*position),
                    (How::Kept, Some((position, _))) => {
                        kept.push(*position);
                        kept_times.push(time_to(since, change.mtime));
                    }
                    (How::Patched { old, old_size }, position) => {
                        let Some(Entry::File { mode, size, hash }) = &change.entry else { continue };
                        let (old, new) = (*old, Some(*hash));
                        let place = change.place.clone();
                        let item = Patched { place, old, old_size: *old_size, size: *size, new };
                        match position {
                            Some((position, Entry::File { mode: old_mode, .. })) if old_mode == mode => {
                                patched.push(*position);
                                patched_times.push(time_to(since, change.mtime));
                                part.grown.push(size.cast_signed() - old_size.cast_signed());
                                by_position.push(item);
                            }
                            _ => {
                                part.named.push(change_to(since, change, Coming::Patched));
                                by_name.push(item);
                            }
                        }
                    }
                    (How::Named, _) | (_, None) => {
                        let content = match &change.entry {
                            Some(Entry::File { hash, size, .. }) if !patches.contains(hash) => {
                                Some((*hash, *size))
                            }
                            _ => None,
                        };
                        let coming = match content.filter(|(hash, _)| coming.remove(hash)) {
                            None => Coming::Known,
                            Some((hash, size))
                                if size <= PATCHED_BYTES_MAX && signatures.contains_key(&change.place) =>
                            {
                                needed.signed.push(Signed { place: change.place.clone(), hash, size });
                                Coming::Signed
                            }
                            Some(whole) => {
                                needed.whole.push(whole);
                                Coming::Whole
                            }
                        };
                        part.named.push(change_to(since, change, coming));
                    }
                }
            }
            needed.patched.extend(by_position.into_iter().chain(by_name));
            (part.gone, part.kept, part.patched) = (gone.gaps, kept.gaps, patched.gaps);
            (part.seconds, part.nanos) = kept_times.into_iter().chain(patched_times).unzip();
            put(out, Part::Folder(part))?;
        }
    }
    Ok(needed)
}

/// Reads a list of `count` changes to its end.
///
/// # Errors
/// When it breaks a bound, is damaged, or does not fit to `base`.
pub(super) fn read(
    mut input: impl Read,
    created_unix_ms: i64,
    count: u64,
    base: &Base<'_>,
) -> Result<List, ParcelError> {
    let since = since(created_unix_ms);
    let mut budget = LIST_BYTES_MAX;
    let mut found = Moves::new();
    let mut next = read_part(&mut input, &mut budget)?;
    while let Some(Part::Move(message)) = next {
        if found.len() == moves::MOVES_MAX {
            return Err(ParcelError::Bounds { what: "more folders move than are taken" });
        }
        found.push(move_from(message)?);
        next = read_part(&mut input, &mut budget)?;
    }
    let moved = moves::carry_out(base.forest, &found)?;
    let mut list = List::default();
    for (place, entry) in &moved.edits {
        let time = match moved.origins.get(place) {
            Some(origin) if entry.as_ref().is_some_and(|entry| entry.content().is_some()) => {
                (base.time)(origin).map_err(ParcelError::Stream)?
            }
            _ => None,
        };
        let change = Change { place: place.clone(), entry: entry.clone(), mtime: time };
        list.changes.insert(place.clone(), change);
    }
    let most = count.saturating_add(moved.edits.len() as u64);
    let (whole, moves_told) = (BTreeSet::new(), BTreeSet::new());
    let mut told = Told { since, most, list, whole, moves_told, base: base.forest, moved: &moved };
    let mut last: Option<(RootName, Vec<u8>)> = None;
    let mut listing: Vec<(&[u8], &Entry)> = Vec::new();
    while let Some(part) = next {
        let Part::Folder(part) = part else {
            return Err(ParcelError::Bounds { what: "a move stands behind changes" });
        };
        let root = root_name(&part.root).map_err(ParcelError::Change)?;
        let folder = match &part.folder[..] {
            b"" => None,
            path => Some(ArtifactPath::new(path).map_err(|error| ParcelError::Change(error.into()))?),
        };
        let key = (root.clone(), part.folder.to_vec());
        // Each folder is counted through once at most.
        if last.as_ref() != Some(&key) {
            if last.is_some_and(|last| last > key) {
                return Err(ParcelError::Bounds { what: "the changes are not in order" });
            }
            listing.clear();
            last = Some(key);
        }
        let counts = [&part.gone, &part.kept, &part.patched].iter().any(|gaps| !gaps.is_empty());
        if counts && listing.is_empty() {
            let children =
                moved.forest.roots.get(&root).and_then(|manifest| manifest.children(folder.as_ref()));
            listing = children
                .ok_or(ParcelError::Bounds { what: "a folder of the changes is not in the base" })?
                .collect();
        }
        told.folder(&root, folder.as_ref(), &listing, part)?;
        next = read_part(&mut input, &mut budget)?;
    }
    if told.list.changes.len() as u64 != count {
        return Err(ParcelError::Bounds { what: "there are more or fewer changes than the header says" });
    }
    check_links(&told.list.changes)?;
    Ok(told.list)
}

/// Also those that were not named one by one: a link that stays within its root at one path may lead out of it at
/// another.
fn check_links(changes: &BTreeMap<Place, Change>) -> Result<(), ParcelError> {
    for (place, change) in changes {
        if let Some(Entry::Link { target }) = &change.entry {
            check_link(&place.path, target).map_err(|source| {
                ParcelError::Change(WireError::Link { path: place.path.to_string(), source })
            })?;
        }
    }
    Ok(())
}

/// Two sorted lists as one.
fn merged<'a>(one: &'a [Change], other: &'a [Change]) -> impl Iterator<Item = &'a Change> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(left), Some(right)) if right.place < left.place => other.next(),
        (Some(_), _) => one.next(),
        (None, _) => other.next(),
    })
}

/// A root and the path of a folder in it.
type Folder<'a> = (&'a RootName, &'a [u8]);

/// How a change is told.
enum How {
    Gone,
    Kept,
    Patched { old: ContentHash, old_size: u64 },
    Named,
}

/// A list that grows.
struct Told<'a> {
    since: i64,
    most: u64,
    list: List,
    whole: BTreeSet<ContentHash>,
    /// Places of moves that were told besides: the list does not grow by these.
    moves_told: BTreeSet<Place>,
    base: &'a Forest,
    moved: &'a Moved<'a>,
}

impl Told<'_> {
    fn folder(
        &mut self,
        root: &RootName,
        folder: Option<&ArtifactPath>,
        listing: &[(&[u8], &Entry)],
        part: proto::FolderChanges,
    ) -> Result<(), ParcelError> {
        let times = part.kept.len() + part.patched.len();
        if part.seconds.len() != times || part.nanos.len() != times || part.grown.len() != part.patched.len()
        {
            return Err(ParcelError::Bounds { what: "the changes of a folder are not of one length" });
        }
        let place = |name: &[u8]| {
            let path =
                ArtifactPath::child(folder, name).map_err(|error| ParcelError::Change(error.into()))?;
            place_from(root, path).map_err(ParcelError::Change)
        };
        let mut times = part.seconds.into_iter().zip(part.nanos);
        let since = self.since;
        let mut time = || -> Result<Option<FileTime>, ParcelError> {
            let (seconds, nanos) = times.next().unwrap_or_default();
            time_from(since, seconds, nanos).map_err(ParcelError::Change)
        };
        for child in children(listing, &part.gone) {
            self.add(Change { place: place(child?.0)?, entry: None, mtime: None })?;
        }
        for child in children(listing, &part.kept) {
            let (name, entry) = child?;
            self.add(Change { place: place(name)?, entry: Some(entry.clone()), mtime: time()? })?;
        }
        for (child, grown) in children(listing, &part.patched).zip(part.grown) {
            let (name, entry) = child?;
            let Entry::File { mode, size: old_size, hash: old } = entry else {
                return Err(ParcelError::Bounds { what: "a patch is meant for what is no file" });
            };
            let size = old_size.checked_add_signed(grown).unwrap_or(u64::MAX);
            let place = place(name)?;
            self.patch(place.clone(), *old, *old_size, size)?;
            let entry = Entry::File { mode: *mode, size, hash: ContentHash([0; 32]) };
            self.add(Change { place, entry: Some(entry), mtime: time()? })?;
        }
        for message in part.named {
            let (change, coming) = change_from(root, folder, since, message).map_err(ParcelError::Change)?;
            match (&change.entry, coming) {
                (Some(Entry::File { hash, size, .. }), Coming::Whole | Coming::Signed) => {
                    if !self.whole.insert(*hash) {
                        return Err(ParcelError::Bounds { what: "a content comes twice" });
                    }
                    match coming {
                        Coming::Signed if *size > PATCHED_BYTES_MAX => {
                            return Err(ParcelError::Bounds { what: "a file is larger than is patched" });
                        }
                        Coming::Signed => {
                            let place = change.place.clone();
                            self.list.signed.push(Signed { place, hash: *hash, size: *size });
                        }
                        _ => self.list.whole.push((*hash, *size)),
                    }
                }
                (Some(Entry::File { size, .. }), Coming::Patched) => {
                    let Some(Entry::File { size: old_size, hash: old, .. }) =
                        self.moved.forest.get(&change.place)
                    else {
                        return Err(ParcelError::Bounds { what: "a patch is meant for what is no file" });
                    };
                    let (old, old_size, size) = (*old, *old_size, *size);
                    self.patch(change.place.clone(), old, old_size, size)?;
                }
                _ => {}
            }
            self.add(change)?;
        }
        Ok(())
    }

    fn patch(&mut self, place: Place, old: ContentHash, old_size: u64, size: u64) -> Result<(), ParcelError> {
        if size.max(old_size) > PATCHED_BYTES_MAX {
            return Err(ParcelError::Bounds { what: "a file is larger than is patched" });
        }
        self.list.patched.push(Patched { place, old, old_size, size, new: None });
        Ok(())
    }

    fn add(&mut self, change: Change) -> Result<(), ParcelError> {
        let is_moved = self.moved.edits.contains_key(&change.place);
        if is_moved && !self.moves_told.insert(change.place.clone()) {
            return Err(ParcelError::Bounds { what: "a place changes twice" });
        }
        if is_moved && change.entry.is_none() && self.base.get(&change.place).is_none() {
            // A move brought it along, and that is all.
            self.list.changes.remove(&change.place);
        } else if self.list.changes.insert(change.place.clone(), change).is_some() && !is_moved {
            return Err(ParcelError::Bounds { what: "a place changes twice" });
        }
        if self.list.changes.len() as u64 > self.most {
            return Err(ParcelError::Bounds { what: "there are more changes than the header says" });
        }
        Ok(())
    }
}

/// The children at some positions.
fn children<'a>(
    listing: &'a [(&'a [u8], &'a Entry)],
    gaps: &'a [u32],
) -> impl Iterator<Item = Result<(&'a [u8], &'a Entry), ParcelError>> {
    let mut next = 0_usize;
    gaps.iter().map(move |gap| {
        let position = next.saturating_add(*gap as usize);
        next = position.saturating_add(1);
        listing
            .get(position)
            .copied()
            .ok_or(ParcelError::Bounds { what: "a change names a child that is not there" })
    })
}

/// Ascending positions as the distances between them.
#[derive(Default)]
struct Gaps {
    gaps: Vec<u32>,
    next: u32,
}

impl Gaps {
    fn push(&mut self, position: u32) {
        self.gaps.push(position - self.next);
        self.next = position + 1;
    }
}

/// The second that times count from.
fn since(created_unix_ms: i64) -> i64 {
    created_unix_ms.div_euclid(1000)
}

fn move_to(from: &Place, to: &Place) -> proto::Move {
    let bytes = |place: &Place| bytes::Bytes::copy_from_slice(place.path.as_bytes());
    proto::Move {
        root: from.root.as_str().to_owned(),
        path: bytes(from),
        to_root: if to.root == from.root { String::new() } else { to.root.as_str().to_owned() },
        to_path: bytes(to),
    }
}

fn move_from(message: proto::Move) -> Result<(Place, Place), ParcelError> {
    let place = |root: &str, path: &[u8]| {
        let path = ArtifactPath::new(path).map_err(|error| ParcelError::Change(error.into()))?;
        place_from(&root_name(root).map_err(ParcelError::Change)?, path).map_err(ParcelError::Change)
    };
    let to_root = if message.to_root.is_empty() { &message.root } else { &message.to_root };
    Ok((place(&message.root, &message.path)?, place(to_root, &message.to_path)?))
}

/// The next part; none at the end of the input.
fn read_part(input: &mut impl Read, budget: &mut u64) -> Result<Option<Part>, ParcelError> {
    let Some(length) = read_varint(input)? else { return Ok(None) };
    let left = budget.checked_sub(length).filter(|_| length <= PART_BYTES_MAX as u64);
    *budget = left.ok_or(ParcelError::Bounds { what: "the changes are larger than is taken" })?;
    let mut message = vec![0; length as usize];
    input.read_exact(&mut message)?;
    let message = proto::ChangePart::decode(bytes::Bytes::from(message))?;
    let part = message.part.ok_or(ParcelError::Bounds { what: "a part of the changes says nothing" })?;
    Ok(Some(part))
}

/// A protobuf varint of at most 32 bits; none at the end of the input.
pub(super) fn read_varint(input: &mut impl Read) -> Result<Option<u64>, ParcelError> {
    let mut value = 0;
    for shift in [0, 7, 14, 21, 28] {
        let mut byte = [0];
        if input.read(&mut byte)? == 0 {
            if shift == 0 {
                return Ok(None);
            }
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Ok(Some(value));
        }
    }
    Err(ParcelError::Bounds { what: "a length is larger than is taken" })
}
