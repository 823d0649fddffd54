//! The body of a parcel: one zstd frame of length-delimited changes, then of the contents that some of them inline,
//! each once, in the order of their first change.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, BufReader, Read, Write};

use prost::Message;

use crate::delta::ParcelError;
use crate::model::{Change, ContentHash, Digest, Entry, Place, Proposal};
use crate::wire::{Header, proto};

/// zstd's own default: small XML gains little from more.
const LEVEL: i32 = 3;
/// Bounds what a receiver allocates for the window: 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;
/// One change: a path and a link target at their longest, with room.
const CHANGE_BYTES_MAX: usize = 16 << 10;
/// All changes of one parcel, decompressed.
const CHANGES_BYTES_MAX: u64 = 256 << 20;

/// The header of the parcel that [`encode`] makes of the same proposal and contents.
#[must_use]
pub fn header(proposal: &Proposal, base_digest: Option<Digest>, inlined: &BTreeSet<ContentHash>) -> Header {
    Header {
        generation: proposal.generation.clone(),
        base: proposal.base,
        base_digest: base_digest.filter(|_| proposal.base > 0),
        changes: proposal.changes.len() as u64,
        content_bytes: contents(proposal, inlined).iter().map(|(_, size)| size).sum(),
        rules: proposal.rules.clone(),
    }
}

/// Writes the body: all changes, then the contents of those whose hash is `inlined`, as `open` gives them.
///
/// # Errors
/// When a content cannot be opened or read or has another size, or `out` fails; what was written is no parcel then.
pub fn encode<R: Read, E: From<ParcelError>>(
    proposal: &Proposal,
    inlined: &BTreeSet<ContentHash>,
    mut open: impl FnMut(&ContentHash) -> Result<R, E>,
    out: &mut dyn Write,
) -> Result<(), E> {
    let failed = |error: io::Error| E::from(ParcelError::Stream(error));
    let mut frame = zstd::stream::write::Encoder::new(out, LEVEL).map_err(failed)?;
    for change in &proposal.changes {
        let mut message = proto::Change::from(change);
        message.inlined = content(change).is_some_and(|(hash, _)| inlined.contains(&hash));
        frame.write_all(&message.encode_length_delimited_to_vec()).map_err(failed)?;
    }
    for (hash, size) in contents(proposal, inlined) {
        let mut content = open(&hash)?.take(size.saturating_add(1));
        if io::copy(&mut content, &mut frame).map_err(failed)? != size {
            return Err(ParcelError::Size { hash, size }.into());
        }
    }
    frame.finish().map_err(failed)?;
    Ok(())
}

/// Reads a body: first all changes, then content by content.
pub struct Decoder<R: Read> {
    stream: BufReader<zstd::stream::read::Decoder<'static, BufReader<R>>>,
    contents: VecDeque<(ContentHash, u64)>,
    left: u64,
}

impl<R: Read> Decoder<R> {
    /// Reads the changes that `header` announces; each is checked.
    ///
    /// # Errors
    /// [`ParcelError`] when the stream is damaged, breaks a bound, or is not what the header says.
    pub fn open(input: R, header: &Header) -> Result<(Self, Vec<Change>), ParcelError> {
        let mut frame = zstd::stream::read::Decoder::new(input)?.single_frame();
        frame.window_log_max(WINDOW_LOG_MAX)?;
        let mut stream = BufReader::with_capacity(64 << 10, frame);
        let mut changes: Vec<Change> = Vec::new();
        let mut inlined = BTreeSet::new();
        let (mut contents, mut content_bytes) = (VecDeque::new(), 0_u64);
        let mut budget = CHANGES_BYTES_MAX;
        for _ in 0..header.changes {
            let (change, inlines) = read_change(&mut stream, &mut budget)?;
            if changes.last().is_some_and(|last| !ascends(&last.place, &change.place)) {
                return Err(ParcelError::Bounds { what: "the changes are not in order" });
            }
            if let Some((hash, size)) = content(&change)
                && inlines
                && inlined.insert(hash)
            {
                content_bytes = content_bytes.saturating_add(size);
                contents.push_back((hash, size));
            }
            changes.push(change);
        }
        if content_bytes != header.content_bytes {
            return Err(ParcelError::Bounds { what: "the contents have another size than the header says" });
        }
        Ok((Self { stream, contents, left: 0 }, changes))
    }

    /// Goes to the next content; reading this decoder gives its bytes, no more. None after the last.
    ///
    /// # Errors
    /// When what was left of the former content cannot be skipped.
    pub fn next_content(&mut self) -> Result<Option<(ContentHash, u64)>, ParcelError> {
        io::copy(self, &mut io::sink())?;
        let next = self.contents.pop_front();
        self.left = next.map_or(0, |(_, size)| size);
        Ok(next)
    }

    /// Checks that the stream ends with the last content.
    ///
    /// # Errors
    /// [`ParcelError::Bounds`] when more follows or a content was not asked for.
    pub fn finish(mut self) -> Result<(), ParcelError> {
        if self.next_content()?.is_some() {
            return Err(ParcelError::Bounds { what: "a content was left unread" });
        }
        let mut more = [0];
        if self.stream.read(&mut more)? > 0 || self.stream.get_mut().get_mut().read(&mut more)? > 0 {
            return Err(ParcelError::Bounds { what: "something follows the last content" });
        }
        Ok(())
    }
}

/// The content that [`Decoder::next_content`] named; ends early only with an error.
impl<R: Read> Read for Decoder<R> {
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

fn read_change(stream: &mut impl Read, budget: &mut u64) -> Result<(Change, bool), ParcelError> {
    let length = read_length(stream)?;
    *budget = budget
        .checked_sub(length as u64)
        .ok_or(ParcelError::Bounds { what: "the changes are larger than is taken" })?;
    let mut message = vec![0; length];
    stream.read_exact(&mut message)?;
    let message = proto::Change::decode(bytes::Bytes::from(message))?;
    let inlined = message.inlined;
    Ok((message.try_into().map_err(ParcelError::Change)?, inlined))
}

/// A protobuf varint that is small enough to be the length of a change.
fn read_length(stream: &mut impl Read) -> Result<usize, ParcelError> {
    let mut length = 0;
    for shift in [0, 7, 14] {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            if length > CHANGE_BYTES_MAX {
                break;
            }
            return Ok(length);
        }
    }
    Err(ParcelError::Bounds { what: "a change is larger than is taken" })
}

fn ascends(before: &Place, after: &Place) -> bool {
    before < after
}

fn content(change: &Change) -> Option<(ContentHash, u64)> {
    match change.entry {
        Some(Entry::File { size, hash, .. }) => Some((hash, size)),
        _ => None,
    }
}

/// What is inlined, each once, in order of first appearance.
fn contents(proposal: &Proposal, inlined: &BTreeSet<ContentHash>) -> Vec<(ContentHash, u64)> {
    let mut seen = BTreeSet::new();
    proposal
        .changes
        .iter()
        .filter_map(content)
        .filter(|(hash, _)| inlined.contains(hash) && seen.insert(*hash))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{ArtifactPath, FileTime, Generation, RootName, RootRules, Rules};

    fn proposal(files: &[(&str, &[u8])]) -> (Proposal, BTreeMap<ContentHash, Vec<u8>>) {
        let mut known = BTreeMap::new();
        let mut changes: Vec<Change> = files
            .iter()
            .map(|(path, bytes)| {
                let hash = ContentHash::of(bytes);
                known.insert(hash, bytes.to_vec());
                Change {
                    place: Place {
                        root: RootName::new("r"),
                        path: ArtifactPath::new(path.as_bytes()).unwrap(),
                    },
                    entry: Some(Entry::File { mode: 0o644, size: bytes.len() as u64, hash }),
                    mtime: Some(FileTime { seconds: 1, nanos: 2 }),
                }
            })
            .collect();
        changes.sort_by(|a, b| a.place.cmp(&b.place));
        changes.dedup_by(|a, b| a.place == b.place);
        let digest = Digest::of(b"x");
        let author = "a".to_owned();
        let generation = Generation { number: 1, parent: 0, digest, epoch: 1, author, created_unix_ms: 0 };
        let rules = Rules { roots: vec![(RootName::new("r"), RootRules::default())] };
        (Proposal { generation, base: 0, rules, changes }, known)
    }

    fn body(
        proposal: &Proposal,
        known: &BTreeMap<ContentHash, Vec<u8>>,
        inlined: &BTreeSet<ContentHash>,
    ) -> Vec<u8> {
        let mut body = Vec::new();
        encode(proposal, inlined, |hash| Ok::<_, ParcelError>(&known[hash][..]), &mut body).unwrap();
        body
    }

    type Read0 = (Vec<Change>, BTreeMap<ContentHash, Vec<u8>>);

    fn decode(body: &[u8], header: &Header) -> Result<Read0, ParcelError> {
        let (mut decoder, changes) = Decoder::open(body, header)?;
        let mut contents = BTreeMap::new();
        while let Some((hash, _)) = decoder.next_content()? {
            let mut bytes = Vec::new();
            decoder.read_to_end(&mut bytes)?;
            contents.insert(hash, bytes);
        }
        decoder.finish()?;
        Ok((changes, contents))
    }

    proptest! {
        #[test]
        fn a_parcel_survives_the_wire(
            files in prop::collection::vec(("[a-e]{1,3}", prop::collection::vec(any::<u8>(), 0..400)), 0..20),
            mask in any::<u32>(),
        ) {
            let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
            let (proposal, known) = proposal(&files);
            let inlined: BTreeSet<ContentHash> = proposal.changes.iter().enumerate()
                .filter(|(n, _)| mask >> (n % 32) & 1 == 1)
                .filter_map(|(_, change)| content(change).map(|(hash, _)| hash))
                .collect();
            let header = header(&proposal, None, &inlined);
            let (changes, contents) = decode(&body(&proposal, &known, &inlined), &header).unwrap();
            prop_assert_eq!(changes, proposal.changes);
            prop_assert_eq!(contents.keys().copied().collect::<BTreeSet<_>>(), inlined);
            for (hash, bytes) in contents {
                prop_assert_eq!(ContentHash::of(&bytes), hash);
            }
        }

        /// Whatever a peer sends: an error, or what the header allows; never a panic.
        #[test]
        fn damage_is_an_error_or_other_bytes(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>()) {
            let (proposal, known) = proposal(&[("a", b"hello hello hello"), ("b", b"world")]);
            let inlined = known.keys().copied().collect();
            let header = header(&proposal, None, &inlined);
            let mut body = body(&proposal, &known, &inlined);
            let at = at.index(body.len());
            if cut { body.truncate(at) } else { body[at] ^= 1 << bit }
            if let Ok((changes, _)) = decode(&body, &header) {
                prop_assert_eq!(changes.len(), 2);
                prop_assert!(!cut);
            }
        }
    }

    #[test]
    fn the_header_bounds_the_body() {
        let (proposal, known) = proposal(&[("a", b"1"), ("b", b"22")]);
        let inlined: BTreeSet<ContentHash> = known.keys().copied().collect();
        let good = header(&proposal, None, &inlined);
        let whole = body(&proposal, &known, &inlined);
        assert!(decode(&whole, &good).is_ok());
        assert!(decode(&whole, &Header { changes: 1, ..good.clone() }).is_err(), "fewer changes");
        assert!(decode(&whole, &Header { changes: 3, ..good.clone() }).is_err(), "more changes");
        assert!(decode(&whole, &Header { content_bytes: 2, ..good.clone() }).is_err(), "other contents");
        let mut longer = whole.clone();
        longer.push(0);
        assert!(decode(&longer, &good).is_err(), "something behind the frame");
    }

    #[test]
    fn unordered_changes_are_refused() {
        let (mut proposal, known) = proposal(&[("a", b"1"), ("b", b"22")]);
        proposal.changes.reverse();
        let inlined = BTreeSet::new();
        let body = body(&proposal, &known, &inlined);
        assert!(matches!(decode(&body, &header(&proposal, None, &inlined)), Err(ParcelError::Bounds { .. })));
    }

    #[test]
    fn a_window_or_a_change_too_large_is_refused() {
        let (proposal, _) = proposal(&[("a", b"1")]);
        let header = header(&proposal, None, &BTreeSet::new());
        let mut wide = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        wide.window_log(27).unwrap();
        wide.write_all(&[0; 100]).unwrap();
        assert!(decode(&wide.finish().unwrap(), &header).is_err());
        let mut long = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        long.write_all(&[0xff, 0xff, 0xff, 0xff, 0x7f]).unwrap();
        let error = decode(&long.finish().unwrap(), &header).unwrap_err();
        assert!(matches!(error, ParcelError::Bounds { .. }), "{error}");
    }

    #[test]
    fn a_content_of_another_size_is_not_sent() {
        let (proposal, _) = proposal(&[("a", b"12")]);
        let inlined =
            contents(&proposal, &[ContentHash::of(b"12")].into()).iter().map(|(hash, _)| *hash).collect();
        for wrong in [&b"1"[..], b"123"] {
            let outcome = encode(&proposal, &inlined, |_| Ok::<_, ParcelError>(wrong), &mut Vec::new());
            assert!(matches!(outcome, Err(ParcelError::Size { .. })));
        }
    }
}
