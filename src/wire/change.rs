//! One change, checked.

use bytes::Bytes;

use crate::model::{ArtifactPath, Change, ContentHash, Entry, FileTime, Place, RootName};
use crate::wire::header::root_name;
use crate::wire::proto::entry::Kind;
use crate::wire::{WireError, check_link, proto};

/// Largest file that is carried.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// What top-level names begin with that are syncd's own, in every root.
const OWN_PREFIX: &[u8] = b".syncd";
/// Permission bits; never set-user-id and the like.
const MODE_MAX: u32 = 0o777;

/// How the content of a changed file comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coming {
    /// The other side has it, or it is no file.
    Known,
    /// As a whole.
    Whole,
    /// As a patch of what the base has at the same path; its hash is what comes of that.
    Patched,
    /// As a patch of what the receiver said it has at this path.
    Signed,
}

/// Nanoseconds that say that a time is not known.
const NO_TIME: u32 = 1_000_000_000;
/// Stands where a hash is not known yet.
const NO_HASH: ContentHash = ContentHash([0; 32]);

/// Checks a place that a peer named.
///
/// # Errors
/// When it could lie outside its root or is syncd's own.
pub fn place_from(root: &RootName, path: ArtifactPath) -> Result<Place, WireError> {
    if path.as_bytes().starts_with(OWN_PREFIX) {
        return Err(WireError::OwnPath { path: path.to_string() });
    }
    Ok(Place { root: root.clone(), path })
}

/// Checks a time; `since` is the second that the others of its message count from.
///
/// # Errors
/// When it is none.
pub fn time_from(since: i64, seconds: i64, nanos: u32) -> Result<Option<FileTime>, WireError> {
    let (what, value) = ("the nanoseconds of a time", u64::from(nanos));
    match (since.checked_add(seconds), nanos) {
        (Some(seconds), 0..NO_TIME) => Ok(Some(FileTime { seconds, nanos })),
        (Some(_), NO_TIME) => Ok(None),
        _ => Err(WireError::Value { what, value, expected: "less than a second" }),
    }
}

/// A time as [`time_from`] takes it.
#[must_use]
pub fn time_to(since: i64, time: Option<FileTime>) -> (i64, u32) {
    match time.and_then(|time| Some((time.seconds.checked_sub(since)?, time.nanos))) {
        Some(time) => time,
        None => (0, NO_TIME),
    }
}

impl TryFrom<proto::Change> for Change {
    type Error = WireError;

    fn try_from(message: proto::Change) -> Result<Self, WireError> {
        let place = place_from(&root_name(&message.root)?, ArtifactPath::new(&message.path)?)?;
        let entry = message.entry.map(|entry| entry_from(&place.path, entry, false)).transpose()?;
        let mtime = match entry {
            Some(Entry::File { .. }) => time_from(0, message.mtime_seconds, message.mtime_nanos)?,
            _ => None,
        };
        Ok(Self { place, entry, mtime })
    }
}

impl From<&Change> for proto::Change {
    fn from(change: &Change) -> Self {
        let is_file = matches!(change.entry, Some(Entry::File { .. }));
        let (mtime_seconds, mtime_nanos) = if is_file { time_to(0, change.mtime) } else { (0, 0) };
        Self {
            root: change.place.root.as_str().to_owned(),
            path: Bytes::copy_from_slice(change.place.path.as_bytes()),
            entry: change.entry.as_ref().map(|entry| proto::Entry { kind: Some(kind_of(entry)) }),
            mtime_seconds,
            mtime_nanos,
        }
    }
}

/// Checks what a peer says of one place in `folder` of `root`. The hash of a patched file is not known then.
///
/// # Errors
/// When it could harm, or says what cannot be.
pub fn change_from(
    root: &RootName,
    folder: Option<&ArtifactPath>,
    since: i64,
    message: proto::NamedChange,
) -> Result<(Change, Coming), WireError> {
    let place = place_from(root, ArtifactPath::child(folder, &message.name)?)?;
    let coming = match message.coming() {
        proto::Coming::Known => Coming::Known,
        proto::Coming::Whole => Coming::Whole,
        proto::Coming::Patched => Coming::Patched,
        proto::Coming::Signed => Coming::Signed,
    };
    let patched = coming == Coming::Patched;
    let entry = message.entry.map(|entry| entry_from(&place.path, entry, patched)).transpose()?;
    let is_file = matches!(entry, Some(Entry::File { .. }));
    if coming != Coming::Known && !is_file {
        return Err(WireError::Missing { what: "the file of a content" });
    }
    let mtime = if is_file { time_from(since, message.seconds, message.nanos)? } else { None };
    Ok((Change { place, entry, mtime }, coming))
}

/// What [`change_from`] takes.
#[must_use]
pub fn change_to(since: i64, change: &Change, coming: Coming) -> proto::NamedChange {
    let is_file = matches!(change.entry, Some(Entry::File { .. }));
    let (seconds, nanos) = if is_file { time_to(since, change.mtime) } else { (0, 0) };
    let mut kind = change.entry.as_ref().map(kind_of);
    if let (Coming::Patched, Some(Kind::File(file))) = (coming, &mut kind) {
        file.hash = Bytes::new();
    }
    let coming = match coming {
        Coming::Known => proto::Coming::Known,
        Coming::Whole => proto::Coming::Whole,
        Coming::Patched => proto::Coming::Patched,
        Coming::Signed => proto::Coming::Signed,
    };
    proto::NamedChange {
        name: Bytes::copy_from_slice(change.place.path.name()),
        entry: kind.map(|kind| proto::Entry { kind: Some(kind) }),
        seconds,
        nanos,
        coming: coming.into(),
    }
}

fn kind_of(entry: &Entry) -> Kind {
    match entry {
        Entry::File { mode, size, hash } => Kind::File(proto::FileEntry {
            mode: *mode,
            size: *size,
            hash: Bytes::copy_from_slice(hash.as_bytes()),
        }),
        Entry::Folder { mode } => Kind::Folder(proto::FolderEntry { mode: *mode }),
        Entry::Link { target } => Kind::Link(proto::LinkEntry { target: Bytes::copy_from_slice(target) }),
    }
}

fn entry_from(path: &ArtifactPath, entry: proto::Entry, patched: bool) -> Result<Entry, WireError> {
    Ok(match entry.kind.ok_or(WireError::Missing { what: "the kind of an entry" })? {
        Kind::File(file) => {
            if file.size > FILE_BYTES_MAX {
                let what = "a file's size in bytes";
                return Err(WireError::TooMuch { what, found: file.size, max: FILE_BYTES_MAX });
            }
            let hash = match ContentHash::from_slice(&file.hash) {
                Some(hash) if !patched => hash,
                None if patched && file.hash.is_empty() => NO_HASH,
                _ => return Err(WireError::Hash { what: "a content hash", bytes: file.hash.len() }),
            };
            Entry::File { mode: mode_from(file.mode)?, size: file.size, hash }
        }
        Kind::Folder(folder) => Entry::Folder { mode: mode_from(folder.mode)? },
        Kind::Link(link) => {
            check_link(path, &link.target)
                .map_err(|source| WireError::Link { path: path.to_string(), source })?;
            Entry::Link { target: link.target.as_ref().into() }
        }
    })
}

fn mode_from(mode: u32) -> Result<u32, WireError> {
    if mode > MODE_MAX {
        let (what, value) = ("a mode", u64::from(mode));
        return Err(WireError::Value { what, value, expected: "permission bits only" });
    }
    Ok(mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RootName;

    fn change(path: &[u8], entry: Option<Entry>) -> Change {
        let mtime = matches!(entry, Some(Entry::File { .. })).then_some(FileTime { seconds: -5, nanos: 9 });
        let place = Place { root: RootName::new("r"), path: ArtifactPath::new(path).unwrap() };
        Change { place, entry, mtime }
    }

    fn file() -> Entry {
        Entry::File { mode: 0o640, size: 3, hash: ContentHash::of(b"abc") }
    }

    fn back(message: proto::NamedChange) -> Result<(Change, Coming), WireError> {
        let folder = ArtifactPath::new(b"a").unwrap();
        change_from(&RootName::new("r"), Some(&folder), 1000, message)
    }

    #[test]
    fn a_change_survives_the_wire() {
        let link = Entry::Link { target: b"../x"[..].into() };
        for change in [
            change(b"a/\xff b", Some(file())),
            change(b"a/b", Some(Entry::Folder { mode: 0o755 })),
            change(b"a/l", Some(link)),
            change(b"a/gone", None),
            Change { mtime: None, ..change(b"a/b", Some(file())) },
        ] {
            assert_eq!(Change::try_from(proto::Change::from(&change)).unwrap(), change);
            assert_eq!(back(change_to(1000, &change, Coming::Known)).unwrap(), (change, Coming::Known));
        }
        let (patched, coming) =
            back(change_to(1000, &change(b"a/b", Some(file())), Coming::Patched)).unwrap();
        assert_eq!((patched.entry.unwrap().content(), coming), (Some(NO_HASH), Coming::Patched));
    }

    #[test]
    fn what_could_harm_is_refused() {
        type Spoil = fn(&mut proto::NamedChange);
        let cases: &[(&str, Spoil)] = &[
            ("path upwards", |c| c.name = Bytes::from_static(b"..")),
            ("path further down", |c| c.name = Bytes::from_static(b"a/b")),
            ("no name", |c| c.name = Bytes::new()),
            ("no kind", |c| c.entry = Some(proto::Entry { kind: None })),
            ("nanoseconds", |c| c.nanos = 1_000_000_001),
            ("seconds", |c| c.seconds = i64::MAX),
            ("content of nothing", |c| (c.coming, c.entry) = (1, None)),
            ("a hash of what is patched", |c| c.coming = 2),
            ("folder mode", |c| {
                c.entry =
                    Some(proto::Entry { kind: Some(Kind::Folder(proto::FolderEntry { mode: 0o1777 })) });
            }),
            ("link out", |c| {
                let target = Bytes::from_static(b"../../etc");
                c.entry = Some(proto::Entry { kind: Some(Kind::Link(proto::LinkEntry { target })) });
            }),
        ];
        for (name, spoil) in cases {
            let mut message = change_to(1000, &change(b"a/b", Some(file())), Coming::Known);
            spoil(&mut message);
            assert!(back(message).is_err(), "{name}");
        }
        let spoils: &[fn(&mut proto::FileEntry)] = &[
            |f| f.mode = 0o4755,
            |f| f.size = FILE_BYTES_MAX + 1,
            |f| f.hash = Bytes::from_static(b"short"),
            |f| f.hash = Bytes::new(),
        ];
        for spoil in spoils {
            let mut message = change_to(1000, &change(b"a/b", Some(file())), Coming::Whole);
            if let Some(Kind::File(file)) = &mut message.entry.as_mut().unwrap().kind {
                spoil(file);
            }
            assert!(back(message).is_err());
        }
        let alone = proto::Change::from(&change(b".syncd/member", Some(file())));
        assert!(Change::try_from(alone).is_err());
        let root = RootName::new("r");
        for own in [&b".syncd/member"[..], b".syncd.foreign-1"] {
            assert!(place_from(&root, ArtifactPath::new(own).unwrap()).is_err());
        }
    }
}
