//! The body of a parcel: the list of changes, then patches, then one zstd frame of the contents that come whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};

use crate::delta::list::{self, List, Needed, Patched, Signed};
use crate::delta::patch::{self, Engine, SHARED_BYTES, SINGLE_BYTES_MIN};
use crate::delta::{ParcelError, Signature, apply};
use crate::model::{Change, ContentHash, Digest, Entry, FileTime, Forest, Place, Proposal};
use crate::wire::Header;

/// zstd's own default: small XML gains little from more.
const LEVEL: i32 = 3;
/// Bounds what a receiver allocates for the window of a stream: 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;

/// What both sides have.
pub struct Base<'a> {
    /// Its places, with exactly the roots of the new generation's rules.
    pub forest: &'a Forest,
    /// The author's modification time of one of its files.
    pub time: &'a dyn Fn(&Place) -> io::Result<Option<FileTime>>,
}

/// How bytes of a parcel tell what they tell, as the metric names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Whole contents, and what is about none: header and list.
    Full,
    /// Deltas of `fast_rsync`.
    Delta,
    /// zstd against the old version.
    Zstd,
}

impl Kind {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Delta => "delta",
            Self::Zstd => "zstd",
        }
    }
}

/// Bytes of one kind, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Of which kind.
    pub kind: Kind,
    /// How many, as they travel.
    pub bytes: u64,
    /// By how many bytes the contents that they tell are longer; 0 where nothing was patched.
    pub saved: u64,
}

/// What some bytes of a parcel were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes that travelled, by kind.
    pub bytes: [(&'static str, u64); 3],
    /// Bytes that did not have to.
    pub saved: u64,
}

/// What `sent` bytes were that carried a parcel of these `runs`, or its beginning. What frames them counts as `full`.
#[must_use]
pub fn tally(runs: &[Run], sent: u64) -> Tally {
    let (mut left, mut saved) = (sent, 0);
    let mut bytes = [Kind::Full, Kind::Delta, Kind::Zstd].map(|kind| (kind, 0));
    let mut add = |wanted, more| {
        bytes.iter_mut().filter(|(kind, _)| *kind == wanted).for_each(|(_, bytes)| *bytes += more);
    };
    for run in runs {
        let passed = run.bytes.min(left);
        left -= passed;
        add(run.kind, passed);
        saved += if passed == run.bytes { run.saved } else { 0 };
    }
    add(Kind::Full, left);
    Tally { bytes: bytes.map(|(kind, bytes)| (kind.name(), bytes)), saved }
}

/// A parcel whose list is made and whose contents are not read yet.
pub struct Encoder {
    list: Vec<u8>,
    needed: Needed,
    signatures: BTreeMap<Place, Signature>,
    changes: u64,
}

impl Encoder {
    /// Puts down what changed. Contents in `sent` are those that the other side lacks; where the path's old version is
    /// known, which `has` says of the sender's own store, they come as patches, and those of `signatures` as patches of
    /// the receiver's own files.
    ///
    /// # Errors
    /// Those of `has`, or when the proposal does not fit to its base.
    pub fn new<E: From<ParcelError>>(
        proposal: &Proposal,
        base: &Base<'_>,
        sent: &BTreeSet<ContentHash>,
        signatures: BTreeMap<Place, Signature>,
        has: impl FnMut(&ContentHash) -> Result<bool, E>,
    ) -> Result<Self, E> {
        let failed = |error: io::Error| E::from(ParcelError::Stream(error));
        let mut frame = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).map_err(failed)?;
        let needed = list::write(proposal, base, sent, &signatures, has, &mut frame)?;
        let list = frame.finish().map_err(failed)?;
        Ok(Self { list, needed, signatures, changes: proposal.changes.len() as u64 })
    }

    /// The header of this parcel. `rules_of_base` says that the base has the same rules.
    #[must_use]
    pub fn header(&self, proposal: &Proposal, base_digest: Option<Digest>, rules_of_base: bool) -> Header {
        let base_digest = base_digest.filter(|_| proposal.base > 0);
        Header {
            generation: proposal.generation.clone(),
            base: proposal.base,
            base_digest,
            changes: self.changes,
            content_bytes: content_bytes(&self.needed.patched, &self.needed.signed, &self.needed.whole),
            rules: (!rules_of_base || base_digest.is_none()).then(|| proposal.rules.clone()),
        }
    }

    /// All contents that [`Encoder::write`] asks for.
    pub fn contents(&self) -> impl Iterator<Item = ContentHash> {
        let patched = self.needed.patched.iter().flat_map(|item| [Some(item.old), item.new]).flatten();
        let signed = self.needed.signed.iter().map(|item| item.hash);
        patched.chain(signed).chain(self.needed.whole.iter().map(|(hash, _)| *hash))
    }

    /// Writes the body, with contents as `open` gives them. Says what its bytes tell, in order.
    ///
    /// # Errors
    /// When a content cannot be opened or read or has another size, or `out` fails; what was written is no parcel then.
    /// [`ParcelError::Patch`] when it is an old version: all contents can be encoded without.
    pub fn write<R: Read, E: From<ParcelError>>(
        &self,
        mut open: impl FnMut(&ContentHash) -> Result<R, E>,
        out: &mut dyn Write,
    ) -> Result<Vec<Run>, E> {
        let failed = |error: io::Error| E::from(ParcelError::Stream(error));
        out.write_all(&self.list).map_err(failed)?;
        let mut runs = vec![Run { kind: Kind::Full, bytes: self.list.len() as u64, saved: 0 }];
        let mut left = &self.needed.patched[..];
        while let Some(group) = group(left) {
            left = &left[group.len()..];
            let (mut old, mut new) = (Vec::new(), Vec::new());
            for item in group {
                let Some(hash) = item.new else { continue };
                read_old(&mut old, open(&item.old)?, item)?;
                read_into(&mut new, open(&hash)?, hash, item.size)?;
            }
            let is_single = group.len() == 1;
            let (engine, patch) = patch::smallest(&old, &new, is_single).map_err(failed)?;
            let mut head = Vec::new();
            push_varint(&mut head, group.len() as u64);
            push_run(&mut runs, put_patch(out, head, engine, &patch, new.len()).map_err(failed)?);
        }
        for item in &self.needed.signed {
            let Some(signature) = self.signatures.get(&item.place) else { continue };
            let mut new = Vec::new();
            read_into(&mut new, open(&item.hash)?, item.hash, item.size)?;
            let (engine, patch) = patch::against(signature, &new).map_err(failed)?;
            push_run(&mut runs, put_patch(out, Vec::new(), engine, &patch, new.len()).map_err(failed)?);
        }
        if !self.needed.whole.is_empty() {
            let mut counted = Counted { out, bytes: 0 };
            let mut frame = zstd::stream::write::Encoder::new(&mut counted, LEVEL).map_err(failed)?;
            for (hash, size) in &self.needed.whole {
                let mut content = open(hash)?.take(size.saturating_add(1));
                if io::copy(&mut content, &mut frame).map_err(failed)? != *size {
                    return Err(ParcelError::Size { hash: *hash, size: *size }.into());
                }
            }
            frame.finish().map_err(failed)?;
            push_run(&mut runs, Run { kind: Kind::Full, bytes: counted.bytes, saved: 0 });
        }
        Ok(runs)
    }
}

/// Reads the body that `header` announces: hands each content to `put`, and gives back the changes. `old` gives contents of
/// the base, `own` files that this node sent signatures of. Checked here: every bound, and that an old version is what its hash says; `put` checks what it is given.
///
/// # Errors
/// When the body is damaged, breaks a bound, or is not what the header says; those of `old`, `own` and `put`.
pub fn decode<R: Read, C: Read, E: From<ParcelError>>(
    input: R,
    header: &Header,
    base: &Base<'_>,
    mut old: impl FnMut(&ContentHash) -> Result<C, E>,
    mut own: impl FnMut(&Place) -> Result<Vec<u8>, E>,
    mut put: impl FnMut(&ContentHash, u64, &mut dyn Read) -> Result<(), E>,
) -> Result<Vec<Change>, E> {
    let failed = |error: io::Error| E::from(ParcelError::Stream(error));
    let bounds = |what| E::from(ParcelError::Bounds { what });
    let mut input = BufReader::with_capacity(64 << 10, input);
    let mut list = {
        let mut frame = frame(&mut input).map_err(failed)?;
        let mut stream = BufReader::with_capacity(16 << 10, &mut frame);
        list::read(&mut stream, header.generation.created_unix_ms, header.changes, base)?
    };
    if content_bytes(&list.patched, &list.signed, &list.whole) != header.content_bytes {
        return Err(bounds("the contents have another size than the header says"));
    }
    let patched = std::mem::take(&mut list.patched);
    let mut left = &patched[..];
    while !left.is_empty() {
        let count = list::read_varint(&mut input)?.unwrap_or_default();
        let group = usize::try_from(count).ok().and_then(|count| left.get(..count));
        let group =
            group.filter(|group| is_group(group)).ok_or_else(|| bounds("a patch is for too many files"))?;
        left = &left[group.len()..];
        let size = group.iter().map(|item| item.size).sum::<u64>() as usize;
        let (engine, patch) = read_patch(&mut input, size)?;
        let mut before = Vec::new();
        for item in group.iter().filter(|_| engine != Engine::Plain) {
            let start = before.len();
            read_old(&mut before, old(&item.old)?, item)?;
            if ContentHash::of(&before[start..]) != item.old {
                return Err(ParcelError::Patch { what: "the old version that is here is damaged" }.into());
            }
        }
        let made = apply(engine, &before, &patch, size)?;
        let mut made = &made[..];
        for item in group {
            let (content, rest) = made.split_at(item.size as usize);
            made = rest;
            let hash = ContentHash::of(content);
            put(&hash, item.size, &mut &content[..])?;
            set_hash(&mut list, item, hash);
        }
    }
    for item in &list.signed {
        let (engine, patch) = read_patch(&mut input, item.size as usize)?;
        let before = if engine == Engine::Plain { Vec::new() } else { own(&item.place)? };
        let made = apply(engine, &before, &patch, item.size as usize)?;
        if ContentHash::of(&made) != item.hash {
            return Err(ParcelError::Patch { what: "it makes another content than was announced" }.into());
        }
        put(&item.hash, item.size, &mut &made[..])?;
    }
    if !list.whole.is_empty() {
        let mut frame = frame(&mut input).map_err(failed)?;
        for (hash, size) in &list.whole {
            let mut content = Exactly { stream: &mut frame, left: *size };
            put(hash, *size, &mut content)?;
            if content.left > 0 {
                return Err(bounds("a content was left unread"));
            }
        }
        if frame.read(&mut [0]).map_err(failed)? > 0 {
            return Err(bounds("something follows the last content"));
        }
    }
    if !input.fill_buf().map_err(failed)?.is_empty() {
        return Err(bounds("something follows the parcel"));
    }
    Ok(list.changes.into_values().collect())
}

type Frame<'a, R> = zstd::stream::read::Decoder<'static, &'a mut BufReader<R>>;

fn frame<R: Read>(input: &mut BufReader<R>) -> io::Result<Frame<'_, R>> {
    let mut frame = zstd::stream::read::Decoder::with_buffer(input)?.single_frame();
    frame.window_log_max(WINDOW_LOG_MAX)?;
    Ok(frame)
}

fn set_hash(list: &mut List, item: &Patched, made: ContentHash) {
    let change = list.changes.get_mut(&item.place);
    if let Some(Entry::File { hash, .. }) = change.and_then(|change| change.entry.as_mut()) {
        *hash = made;
    }
}

/// The files of the next patch: one that is large, or small ones up to a bound.
fn group(left: &[Patched]) -> Option<&[Patched]> {
    let first = left.first()?;
    let (mut old, mut new) = (0, 0);
    let small = left.iter().take_while(|item| {
        let is_in = is_small(item) && old < SHARED_BYTES && new < SHARED_BYTES;
        (old, new) = (old + item.old_size, new + item.size);
        is_in
    });
    Some(if is_small(first) { &left[..small.count()] } else { &left[..1] })
}

/// Whether a peer may put so much into one patch.
fn is_group(group: &[Patched]) -> bool {
    group.len() == 1 || group_length_matches(group)
}

fn group_length_matches(items: &[Patched]) -> bool {
    group(items).is_some_and(|group| group.len() == items.len())
}

fn is_small(item: &Patched) -> bool {
    item.old_size.max(item.size) < SINGLE_BYTES_MIN
}

fn content_bytes(patched: &[Patched], signed: &[Signed], whole: &[(ContentHash, u64)]) -> u64 {
    let sizes = patched.iter().map(|item| item.size).chain(signed.iter().map(|item| item.size));
    let sizes = sizes.chain(whole.iter().map(|(_, size)| *size));
    sizes.fold(0, u64::saturating_add)
}

/// Appends a content that must have exactly `size` bytes.
fn read_into(
    into: &mut Vec<u8>,
    content: impl Read,
    hash: ContentHash,
    size: u64,
) -> Result<(), ParcelError> {
    let before = into.len();
    into.reserve_exact(size as usize);
    content.take(size.saturating_add(1)).read_to_end(into)?;
    if (into.len() - before) as u64 == size { Ok(()) } else { Err(ParcelError::Size { hash, size }) }
}

/// Appends an old version. That it can't be read is no fault of the parcel, and all contents do without it.
fn read_old(into: &mut Vec<u8>, content: impl Read, item: &Patched) -> Result<(), ParcelError> {
    read_into(into, content, item.old, item.old_size).map_err(|error| {
        tracing::warn!(place = %item.place, content = %item.old, %error, "an old version can't be read");
        ParcelError::Patch { what: "the old version that is here can't be read" }
    })
}

/// Writes one patch behind `head`, and says what its bytes are.
fn put_patch(
    out: &mut dyn Write,
    mut head: Vec<u8>,
    engine: Engine,
    patch: &[u8],
    size: usize,
) -> io::Result<Run> {
    head.push(engine.byte());
    push_varint(&mut head, patch.len() as u64);
    out.write_all(&head)?;
    out.write_all(patch)?;
    let bytes = (head.len() + patch.len()) as u64;
    let (kind, is_patch) = match engine {
        Engine::Plain => (Kind::Full, false),
        Engine::Prefix => (Kind::Zstd, true),
        Engine::Rsync => (Kind::Delta, true),
    };
    Ok(Run { kind, bytes, saved: if is_patch { (size as u64).saturating_sub(bytes) } else { 0 } })
}

/// Reads what [`put_patch`] wrote behind its head, for a patch that makes `size` bytes.
fn read_patch(input: &mut impl Read, size: usize) -> Result<(Engine, Vec<u8>), ParcelError> {
    let mut engine = [0];
    input.read_exact(&mut engine)?;
    let engine =
        Engine::from_byte(engine[0]).ok_or(ParcelError::Bounds { what: "a patch of an unknown kind" })?;
    let length = list::read_varint(input)?.unwrap_or_default();
    if length > patch::bytes_max(size) as u64 {
        return Err(ParcelError::Bounds { what: "a patch is longer than what it makes" });
    }
    let mut patch = vec![0; length as usize];
    input.read_exact(&mut patch)?;
    Ok((engine, patch))
}

fn push_run(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) if last.kind == run.kind => {
            last.bytes += run.bytes;
            last.saved += run.saved;
        }
        _ => runs.push(run),
    }
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Counts what passes.
struct Counted<'a> {
    out: &'a mut dyn Write,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.out.write(bytes)?;
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// One content of a stream; ends early only with an error.
struct Exactly<'a, R> {
    stream: &'a mut R,
    left: u64,
}

impl<R: Read> Read for Exactly<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let read = self.stream.read(&mut buffer[..want])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
