//! Parcels from one forest to another.
#![allow(clippy::print_stderr, reason = "a random test tells its seed")]

use std::collections::BTreeMap;

use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::model::{ArtifactPath, Generation, Manifest, RootName, RootRules, Rules};
use crate::wire::proto;

/// A tree of one root: paths with their contents, and folders.
#[derive(Clone, Default)]
struct Tree(BTreeMap<String, Option<Vec<u8>>>);

type Known = BTreeMap<ContentHash, Vec<u8>>;

fn place(path: &str) -> Place {
    Place { root: RootName::new("r"), path: ArtifactPath::new(path.as_bytes()).unwrap() }
}

impl Tree {
    fn of(files: &[(&str, &[u8])]) -> Self {
        let mut tree = Self::default();
        files.iter().for_each(|(path, bytes)| tree.put(path, bytes));
        tree
    }

    fn put(&mut self, path: &str, bytes: &[u8]) {
        for (slash, _) in path.match_indices('/') {
            self.0.insert(path[..slash].to_owned(), None);
        }
        self.0.insert(path.to_owned(), Some(bytes.to_vec()));
    }

    fn rename(&mut self, from: &str, to: &str) {
        let below = format!("{from}/");
        let all: Vec<_> =
            self.0.keys().filter(|path| **path == from || path.starts_with(&below)).cloned().collect();
        for path in all {
            let what = self.0.remove(&path).unwrap();
            self.0.insert(format!("{to}{}", &path[from.len()..]), what);
        }
    }

    fn forest(&self) -> Forest {
        let entries = self.0.iter().map(|(path, what)| {
            let entry = match what {
                None => Entry::Folder { mode: 0o755 },
                Some(bytes) => {
                    Entry::File { mode: 0o644, size: bytes.len() as u64, hash: ContentHash::of(bytes) }
                }
            };
            (place(path).path, Some(entry))
        });
        Forest { roots: [(RootName::new("r"), Manifest::default().with(entries).unwrap())].into() }
    }

    fn known(&self) -> Known {
        self.0.values().flatten().map(|bytes| (ContentHash::of(bytes), bytes.clone())).collect()
    }
}

/// The time of a file: that of its content's first byte, so that a moved file keeps it.
fn time(forest: &Forest, place: &Place) -> Option<FileTime> {
    let seconds = forest.get(place)?.content()?.as_bytes()[0];
    Some(FileTime { seconds: 1_700_000_000 + i64::from(seconds), nanos: 7 })
}

fn proposal(old: &Forest, new: &Forest) -> Proposal {
    let changes = old.edits(new).into_iter().map(|edit| Change {
        mtime: time(new, &edit.place),
        place: edit.place,
        entry: edit.new,
    });
    let generation = Generation {
        number: 2,
        parent: 1,
        digest: new.digest(),
        epoch: 1,
        author: "a".to_owned(),
        created_unix_ms: 1_700_000_123_456,
    };
    let rules = Rules { roots: vec![(RootName::new("r"), RootRules::default())] };
    Proposal { generation, base: 1, rules, changes: changes.collect() }
}

struct Sent {
    header: Header,
    body: Vec<u8>,
    runs: Vec<Run>,
    proposal: Proposal,
    old: Forest,
    known: Known,
    signed: BTreeMap<Place, Vec<u8>>,
}

fn send(old: &Tree, new: &Tree) -> Sent {
    send_signed(old, new, &Tree::default())
}

/// To a receiver that signed what it has in `own`.
fn send_signed(old: &Tree, new: &Tree, own: &Tree) -> Sent {
    let signed = own.0.iter().filter_map(|(path, what)| Some((place(path), what.clone()?)));
    let signed: BTreeMap<Place, Vec<u8>> = signed.collect();
    let signatures = signed
        .iter()
        .map(|(place, bytes)| (place.clone(), Signature::parse(Signature::make(bytes)).unwrap()))
        .collect();
    let mut known = old.known();
    let sent: BTreeSet<ContentHash> =
        new.known().into_keys().filter(|hash| !known.contains_key(hash)).collect();
    let theirs = known.clone();
    known.extend(new.known());
    let (old, new) = (old.forest(), new.forest());
    let proposal = proposal(&old, &new);
    let base_time = |place: &Place| Ok(time(&old, place));
    let base = Base { forest: &old, time: &base_time };
    let draft = Encoder::new(&proposal, &base, &sent, signatures, |hash| {
        Ok::<_, ParcelError>(known.contains_key(hash))
    })
    .unwrap();
    let mut body = Vec::new();
    let runs = draft.write(|hash| Ok::<_, ParcelError>(&known[hash][..]), &mut body).unwrap();
    assert_eq!(runs.iter().map(|run| run.bytes).sum::<u64>(), body.len() as u64);
    let header = draft.header(&proposal, Some(old.digest()), true);
    Sent { header, body, runs, proposal, old, known: theirs, signed }
}

impl Sent {
    fn read(&self, header: &Header, body: &[u8]) -> Result<(Vec<Change>, Known), ParcelError> {
        let base_time = |place: &Place| Ok(time(&self.old, place));
        let base = Base { forest: &self.old, time: &base_time };
        let mut got = Known::new();
        let old = |hash: &ContentHash| Ok(&self.known[hash][..]);
        let own = |place: &Place| Ok(self.signed[place].clone());
        let changes = decode(body, header, &base, old, own, |hash, _, content| {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            got.insert(*hash, bytes);
            Ok::<_, ParcelError>(())
        })?;
        Ok((changes, got))
    }

    fn kinds(&self) -> Vec<Kind> {
        self.runs.iter().map(|run| run.kind).collect()
    }

    /// The changes arrive as they were, with contents of their own hashes.
    fn check(&self) {
        let (changes, got) = self.read(&self.header, &self.body).unwrap();
        assert_eq!(changes, self.proposal.changes);
        assert!(got.iter().all(|(hash, bytes)| ContentHash::of(bytes) == *hash));
        for change in &changes {
            let Some(hash) = change.entry.as_ref().and_then(Entry::content) else { continue };
            assert!(
                got.contains_key(&hash) || self.known.contains_key(&hash),
                "{} has no content",
                change.place
            );
        }
    }
}

fn random() -> StdRng {
    let seed = std::env::var("SYNCD_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!("SYNCD_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn text(random: &mut StdRng, length: usize) -> Vec<u8> {
    (0..length).map(|_| b"abcdefgh <>\n"[random.random_range(0..12)]).collect()
}

/// Many files in folders.
fn many(random: &mut StdRng, folders: usize, files: usize) -> Tree {
    let mut tree = Tree::default();
    for file in 0..files {
        let length = random.random_range(200..3000);
        let path = format!("default/folder-{}/artifact-{:x}.xml", file % folders, random.random::<u32>());
        let bytes = text(random, length);
        tree.put(&path, &bytes);
    }
    tree
}

#[test]
fn random_changes_arrive() {
    let mut random = random();
    for _ in 0..60 {
        let (folders, files) = (random.random_range(1..6), random.random_range(0..60));
        let old = many(&mut random, folders, files);
        let mut new = old.clone();
        for _ in 0..random.random_range(0..8) {
            let paths: Vec<String> =
                new.0.iter().filter(|(_, what)| what.is_some()).map(|(path, _)| path.clone()).collect();
            let Some(path) = paths.get(random.random_range(0..paths.len().max(1))) else { break };
            match random.random_range(0..6) {
                0 => {
                    new.0.remove(path);
                }
                1 => {
                    let mut bytes = new.0[path].clone().unwrap();
                    let at = random.random_range(0..=bytes.len());
                    bytes.splice(at..at, *b"a line that is new\n");
                    new.put(path, &bytes);
                }
                2 => {
                    let length = random.random_range(0..200_000);
                    let bytes = text(&mut random, length);
                    new.put(path, &bytes);
                }
                3 => {
                    let bytes = new.0[path].clone().unwrap();
                    new.put(&format!("{path}.copy"), &bytes);
                }
                4 => {
                    let folder = path.rsplit_once('/').unwrap().0.to_owned();
                    new.rename(&folder, &format!("default/moved-{:x}", random.random::<u16>()));
                }
                _ => new.put(&format!("default/new-{:x}/x", random.random::<u16>()), b"new"),
            }
        }
        send(&old, &new).check();
        send(&new, &old).check();
        send(&Tree::default(), &new).check();
        send(&new, &Tree::default()).check();
    }
}

#[test]
fn a_line_in_a_small_and_a_large_file_costs_little() {
    let mut random = random();
    let small = text(&mut random, 4 << 10);
    let large = text(&mut random, 5 << 20);
    let old = Tree::of(&[("default/api/a.xml", &small), ("default/local/b.xml", &large)]);
    for path in ["default/api/a.xml", "default/local/b.xml"] {
        let mut new = old.clone();
        let mut bytes = new.0[path].clone().unwrap();
        let middle = bytes.len() / 2;
        bytes.splice(middle..middle, *b"<property name=\"x\" value=\"y\"/>\n");
        new.put(path, &bytes);
        let sent = send(&old, &new);
        sent.check();
        assert!(sent.body.len() < 250, "{path}: {} bytes", sent.body.len());
        assert!(sent.kinds().len() == 2 && sent.kinds()[1] != Kind::Full, "{:?}", sent.kinds());
        let saved: u64 = sent.runs.iter().map(|run| run.saved).sum();
        assert!(saved > bytes.len() as u64 - 250 && saved < bytes.len() as u64);
    }
}

/// Without a base: what the receiver has at that path tells most of a large file.
#[test]
fn a_signed_file_comes_as_a_delta() {
    let mut random = random();
    let near = text(&mut random, 3 << 20);
    let mut new = near.clone();
    new.splice(1 << 20..(1 << 20) + 100, *b"<other/>");
    let far = text(&mut random, 2 << 20);
    let other = text(&mut random, 2 << 20);
    let own = Tree::of(&[("near", &near), ("far", &other), ("gone", &far)]);
    let sent = send_signed(&Tree::default(), &Tree::of(&[("near", &new), ("small", b"x")]), &own);
    sent.check();
    assert_eq!(sent.kinds(), [Kind::Full, Kind::Delta, Kind::Full]);
    assert!(sent.body.len() < 5000, "{:?}", sent.runs);
    // One that has nothing in common with what is there is not larger than by itself.
    let whole = send(&Tree::default(), &Tree::of(&[("far", &far)]));
    let sent = send_signed(&Tree::default(), &Tree::of(&[("far", &far)]), &own);
    sent.check();
    assert!(sent.body.len() < whole.body.len() / 100 * 101, "{:?}, {:?}", sent.runs, whole.runs);
    // The receiver's file is another by now.
    let mut changed = send_signed(&Tree::default(), &Tree::of(&[("near", &new)]), &own);
    changed.signed.values_mut().for_each(|bytes| bytes[9] ^= 1);
    assert!(matches!(changed.read(&changed.header, &changed.body), Err(ParcelError::Patch { .. })));
}

#[test]
fn a_renamed_folder_of_many_files_costs_little() {
    let mut random = random();
    let old = many(&mut random, 2, 400);
    let mut new = old.clone();
    new.rename("default/folder-1", "default/renamed");
    let sent = send(&old, &new);
    sent.check();
    assert_eq!(sent.proposal.changes.len(), 402);
    assert!(sent.body.len() < 150, "{} bytes", sent.body.len());
    assert_eq!(sent.header.content_bytes, 0);
    // With one file edited and one gone it is still a move.
    let path = new.0.keys().find(|path| path.starts_with("default/renamed/")).unwrap().clone();
    let other = new.0.keys().rfind(|path| path.starts_with("default/renamed/")).unwrap().clone();
    let mut bytes = new.0[&path].clone().unwrap();
    bytes.extend_from_slice(b"<end/>");
    new.put(&path, &bytes);
    new.0.remove(&other);
    let sent = send(&old, &new);
    sent.check();
    assert!(sent.body.len() < 300, "{} bytes", sent.body.len());
}

#[test]
fn a_thousand_lines_cost_some_dozen_bytes_each() {
    let mut random = random();
    let old = many(&mut random, 5, 2000);
    let mut new = old.clone();
    let paths: Vec<String> =
        old.0.iter().filter(|(_, what)| what.is_some()).map(|(path, _)| path.clone()).collect();
    for path in paths.iter().step_by(2) {
        let mut bytes = new.0[path].clone().unwrap();
        let at = random.random_range(0..bytes.len());
        let line = format!("<property name=\"edited\" value=\"{:x}\"/>\n", random.random::<u32>());
        bytes.splice(at..at, line.bytes());
        new.put(path, &bytes);
    }
    let sent = send(&old, &new);
    sent.check();
    assert!(sent.body.len() < 50_000, "{} bytes", sent.body.len());
}

#[test]
fn damage_is_an_error_or_another_generation() {
    let mut random = random();
    let old = many(&mut random, 3, 30);
    let mut new = old.clone();
    new.rename("default/folder-1", "default/renamed");
    new.put("default/folder-0/new.xml", b"something new");
    let path = new.0.keys().rfind(|path| path.starts_with("default/folder-2/")).unwrap().clone();
    let bytes = [&new.0[&path].clone().unwrap()[..], b"<end/>"].concat();
    new.put(&path, &bytes);
    let sent = send(&old, &new);
    sent.check();
    for cut in 0..sent.body.len() {
        assert!(sent.read(&sent.header, &sent.body[..cut]).is_err(), "cut at {cut}");
    }
    for _ in 0..2000 {
        let mut body = sent.body.clone();
        let at = random.random_range(0..body.len());
        body[at] ^= 1 << random.random_range(0..8);
        if let Ok((changes, got)) = sent.read(&sent.header, &body) {
            let made = sent.old.with(changes.into_iter().map(|change| (change.place, change.entry)));
            // Whole contents are checked by who stores them.
            let is_right = made.is_ok_and(|made| made.digest() == sent.header.generation.digest);
            let is_whole = got.iter().all(|(hash, bytes)| ContentHash::of(bytes) == *hash);
            assert!(!is_right || !is_whole || got == sent.read(&sent.header, &sent.body).unwrap().1);
        }
    }
    let with = |spoil: fn(&mut Header)| {
        let mut header = sent.header.clone();
        spoil(&mut header);
        header
    };
    assert!(sent.read(&with(|h| h.changes -= 1), &sent.body).is_err(), "fewer changes");
    assert!(sent.read(&with(|h| h.changes += 1), &sent.body).is_err(), "more changes");
    assert!(sent.read(&with(|h| h.content_bytes += 1), &sent.body).is_err(), "other contents");
    let longer = [&sent.body[..], &[0]].concat();
    assert!(sent.read(&sent.header, &longer).is_err(), "something behind the parcel");
    // An old version that is not what its hash says.
    let mut other = send(&old, &new);
    other.known.values_mut().for_each(|bytes| bytes[0] ^= 1);
    assert!(matches!(other.read(&other.header, &other.body), Err(ParcelError::Patch { .. })));
}

#[test]
fn a_content_of_another_size_is_not_sent() {
    let (old, new) = (Tree::default().forest(), Tree::of(&[("a", b"12")]).forest());
    let proposal = proposal(&old, &new);
    let none = |_: &Place| Ok(None);
    let base = Base { forest: &old, time: &none };
    let sent = [ContentHash::of(b"12")].into();
    let draft =
        Encoder::new(&proposal, &base, &sent, BTreeMap::new(), |_| Ok::<_, ParcelError>(true)).unwrap();
    for wrong in [&b"1"[..], b"123"] {
        let outcome = draft.write(|_| Ok::<_, ParcelError>(wrong), &mut Vec::new());
        assert!(matches!(outcome, Err(ParcelError::Size { .. })));
    }
}

#[test]
fn a_window_or_a_part_too_large_is_refused() {
    let sent = send(&Tree::default(), &Tree::of(&[("a", b"1")]));
    let mut wide = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    wide.window_log(27).unwrap();
    wide.write_all(&[0; 100]).unwrap();
    assert!(sent.read(&sent.header, &wide.finish().unwrap()).is_err());
    let mut long = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    long.write_all(&[0xff, 0xff, 0xff, 0xff, 0x7f]).unwrap();
    let error = sent.read(&sent.header, &long.finish().unwrap()).unwrap_err();
    assert!(matches!(error, ParcelError::Bounds { .. }), "{error}");
}

/// What `old` becomes, with nothing but its list.
fn send_list(old: &Forest, new: &Forest, known: Known) -> Sent {
    let (proposal, none) = (proposal(old, new), |_: &Place| Ok(None));
    let base = Base { forest: old, time: &none };
    let draft =
        Encoder::new(&proposal, &base, &BTreeSet::new(), BTreeMap::new(), |_| Ok::<_, ParcelError>(true))
            .unwrap();
    let mut body = Vec::new();
    let runs = draft.write(|hash| Ok::<_, ParcelError>(&known[hash][..]), &mut body).unwrap();
    let header = draft.header(&proposal, Some(old.digest()), true);
    Sent { header, body, runs, proposal, old: old.clone(), known, signed: BTreeMap::new() }
}

#[test]
fn a_folder_that_moves_takes_no_link_out_of_the_root() {
    let tree = Tree::of(&[("d/e/a", b"1")]);
    let link = |path: &str| (place(path), Some(Entry::Link { target: (*b"../../x").into() }));
    let old = tree.forest().with([link("d/e/l")]).unwrap();
    for (to, is_inside) in [("d/f", true), ("f", false)] {
        let mut moved = tree.clone();
        moved.rename("d/e", to);
        let new = moved.forest().with([link(&format!("{to}/l"))]).unwrap();
        let sent = send_list(&old, &new, tree.known());
        let read = sent.read(&sent.header, &sent.body);
        assert_eq!(read.is_ok(), is_inside, "{to}");
        assert!(is_inside || matches!(read, Err(ParcelError::Change(_))), "{to}");
    }
}

/// A body that is nothing but these parts.
fn list_of(parts: impl IntoIterator<Item = proto::change_part::Part>) -> Vec<u8> {
    let mut frame = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).unwrap();
    for part in parts {
        let part = proto::ChangePart { part: Some(part) };
        frame.write_all(&part.encode_length_delimited_to_vec()).unwrap();
    }
    frame.finish().unwrap()
}

#[test]
fn what_moved_changes_once_only() {
    let old = Tree::of(&[("d/a", b"1")]);
    let mut new = old.clone();
    new.rename("d", "f");
    let sent = send(&old, &new);
    let path = |path: &'static str| bytes::Bytes::from_static(path.as_bytes());
    let (root, to_root) = ("r".to_owned(), String::new());
    let moved = proto::Move { root: root.clone(), path: path("d"), to_root, to_path: path("f") };
    let kept = proto::FolderChanges {
        root,
        folder: path("f"),
        kept: vec![0],
        seconds: vec![0],
        nanos: vec![7],
        ..Default::default()
    };
    let parts = |times: usize| {
        let kept = std::iter::repeat_n(proto::change_part::Part::Folder(kept.clone()), times);
        list_of([proto::change_part::Part::Move(moved.clone())].into_iter().chain(kept))
    };
    assert_eq!(sent.read(&sent.header, &parts(1)).unwrap().0.len(), 4);
    let error = sent.read(&sent.header, &parts(2)).unwrap_err();
    assert!(matches!(error, ParcelError::Bounds { .. }), "{error}");
}

#[test]
fn a_part_holds_the_longest_changes_and_little_more() {
    // The longest names and targets in the deepest folder.
    let folder = vec!["f".repeat(250); 15].join("/");
    let target: Vec<u8> = [vec!["t".repeat(250); 16].join("/").as_bytes(), &[b't'; 79]].concat();
    let entries = (0..200).map(|n| {
        let path = format!("{folder}/{n:03}{}", "n".repeat(252));
        (place(&path), Some(Entry::Link { target: target.clone().into() }))
    });
    let old = Tree::of(&[(&format!("{folder}/a"), b"1")]);
    let new = old.forest().with(entries).unwrap();
    let sent = send_list(&old.forest(), &new, old.known());
    sent.check();
    let mut long = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).unwrap();
    push_and_write(&mut long, (1 << 20) + 2);
    let error = sent.read(&sent.header, &long.finish().unwrap()).unwrap_err();
    assert!(matches!(error, ParcelError::Bounds { .. }), "{error}");
}

/// One part of so many bytes: empty changes of one folder.
fn push_and_write(out: &mut impl Write, bytes: usize) {
    let mut length = Vec::new();
    push_varint(&mut length, bytes as u64);
    out.write_all(&length).unwrap();
    out.write_all(&vec![0; bytes]).unwrap();
}

#[test]
fn all_contents_are_sent_also_of_what_moved() {
    let old = Tree::of(&[("d/a", b"1"), ("d/b", b"2"), ("c", b"3")]);
    let mut new = old.clone();
    new.rename("d", "f");
    let (known, old, new) = (old.known(), old.forest(), new.forest());
    let (proposal, base_time) = (proposal(&old, &new), |place: &Place| Ok(time(&old, place)));
    let base = Base { forest: &old, time: &base_time };
    let moved: BTreeSet<ContentHash> = [ContentHash::of(b"1"), ContentHash::of(b"2")].into();
    for patches in [false, true] {
        let draft =
            Encoder::new(&proposal, &base, &moved, BTreeMap::new(), |_| Ok::<_, ParcelError>(patches))
                .unwrap();
        let mut body = Vec::new();
        let runs = draft.write(|hash| Ok::<_, ParcelError>(&known[hash][..]), &mut body).unwrap();
        let header = draft.header(&proposal, Some(old.digest()), true);
        let (old, proposal, signed) = (old.clone(), proposal.clone(), BTreeMap::new());
        // A member that forgot them.
        let sent = Sent { header, body, runs, proposal, old, known: Known::new(), signed };
        let (changes, got) = sent.read(&sent.header, &sent.body).unwrap();
        assert_eq!(changes, sent.proposal.changes);
        assert_eq!(got.into_keys().collect::<BTreeSet<_>>(), moved);
    }
}

#[test]
fn more_folders_move_than_one_parcel_tells() {
    let mut old = Tree::default();
    (0..10_001).for_each(|n| old.put(&format!("a{n}/f"), n.to_string().as_bytes()));
    let mut new = Tree::default();
    (0..10_001).for_each(|n| new.put(&format!("b{n}/f"), n.to_string().as_bytes()));
    send(&old, &new).check();
}

/// A content that can't be read.
struct Damaged;

impl Read for Damaged {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::InvalidData.into())
    }
}

#[test]
fn an_old_version_that_can_not_be_read_is_told_from_a_broken_stream() {
    let mut random = random();
    let before = text(&mut random, 100_000);
    let after = [&before[..], b"<end/>"].concat();
    let sent = send(&Tree::of(&[("a", &before)]), &Tree::of(&[("a", &after)]));
    assert_ne!(sent.kinds(), [Kind::Full]);
    let none = |_: &Place| Ok(None);
    let base = Base { forest: &sent.old, time: &none };
    let outcome = decode(
        &sent.body[..],
        &sent.header,
        &base,
        |_| Ok::<_, ParcelError>(Damaged),
        |_| Ok(Vec::new()),
        |_, _, _| Ok(()),
    );
    assert!(matches!(outcome, Err(ParcelError::Patch { .. })), "{outcome:?}");
    let new = [ContentHash::of(&after)].into();
    let draft =
        Encoder::new(&sent.proposal, &base, &new, BTreeMap::new(), |_| Ok::<_, ParcelError>(true)).unwrap();
    let outcome = draft.write(
        |hash| {
            let is_new = *hash == ContentHash::of(&after);
            Ok::<Box<dyn Read>, ParcelError>(if is_new { Box::new(&after[..]) } else { Box::new(Damaged) })
        },
        &mut Vec::new(),
    );
    assert!(matches!(outcome, Err(ParcelError::Patch { .. })), "{outcome:?}");
}
