//! One change, checked.

use bytes::Bytes;

use crate::model::{ArtifactPath, Change, ContentHash, Entry, FileTime, Place};
use crate::wire::header::root_name;
use crate::wire::proto::entry::Kind;
use crate::wire::{WireError, check_link, proto};

/// Largest file that is carried.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// What top-level names begin with that are syncd's own, in every root.
const OWN_PREFIX: &[u8] = b".syncd";
/// Permission bits; never set-user-id and the like.
const MODE_MAX: u32 = 0o777;

impl TryFrom<proto::Change> for Change {
    type Error = WireError;

    fn try_from(message: proto::Change) -> Result<Self, WireError> {
        let root = root_name(&message.root)?;
        let path = ArtifactPath::new(&message.path)?;
        if path.as_bytes().starts_with(OWN_PREFIX) {
            return Err(WireError::OwnPath { path: path.to_string() });
        }
        let entry = message.entry.map(|entry| entry_from(&path, entry)).transpose()?;
        if message.inlined && entry.as_ref().and_then(Entry::content).is_none() {
            return Err(WireError::Missing { what: "the file of inlined content" });
        }
        if message.mtime_nanos >= 1_000_000_000 {
            let (what, value) = ("the nanoseconds of a time", u64::from(message.mtime_nanos));
            return Err(WireError::Value { what, value, expected: "less than a second" });
        }
        let mtime = matches!(entry, Some(Entry::File { .. }))
            .then_some(FileTime { seconds: message.mtime_seconds, nanos: message.mtime_nanos });
        Ok(Self { place: Place { root, path }, entry, mtime })
    }
}

impl From<&Change> for proto::Change {
    /// Without content: `inlined` is false.
    fn from(change: &Change) -> Self {
        Self {
            root: change.place.root.as_str().to_owned(),
            path: Bytes::copy_from_slice(change.place.path.as_bytes()),
            entry: change.entry.as_ref().map(|entry| proto::Entry { kind: Some(kind_of(entry)) }),
            mtime_seconds: change.mtime.map_or(0, |time| time.seconds),
            mtime_nanos: change.mtime.map_or(0, |time| time.nanos),
            inlined: false,
        }
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

fn entry_from(path: &ArtifactPath, entry: proto::Entry) -> Result<Entry, WireError> {
    Ok(match entry.kind.ok_or(WireError::Missing { what: "the kind of an entry" })? {
        Kind::File(file) => {
            if file.size > FILE_BYTES_MAX {
                let what = "a file's size in bytes";
                return Err(WireError::TooMuch { what, found: file.size, max: FILE_BYTES_MAX });
            }
            let hash = ContentHash::from_slice(&file.hash)
                .ok_or(WireError::Hash { what: "a content hash", bytes: file.hash.len() })?;
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

    #[test]
    fn a_change_survives_the_wire() {
        let link = Entry::Link { target: b"../x"[..].into() };
        for change in [
            change(b"a/\xff b", Some(file())),
            change(b"a", Some(Entry::Folder { mode: 0o755 })),
            change(b"d/l", Some(link)),
            change(b"gone", None),
        ] {
            assert_eq!(Change::try_from(proto::Change::from(&change)).unwrap(), change);
        }
    }

    #[test]
    fn what_could_harm_is_refused() {
        type Spoil = fn(&mut proto::Change);
        let file_of = |change: &mut proto::Change, spoil: fn(&mut proto::FileEntry)| {
            if let Some(Kind::File(file)) = &mut change.entry.as_mut().unwrap().kind {
                spoil(file);
            }
        };
        let cases: &[(&str, Spoil)] = &[
            ("no root", |c| c.root.clear()),
            ("control in root", |c| c.root = "a\nb".to_owned()),
            ("path upwards", |c| c.path = Bytes::from_static(b"../a")),
            ("absolute path", |c| c.path = Bytes::from_static(b"/a")),
            ("own path", |c| c.path = Bytes::from_static(b".syncd/member")),
            ("path moved aside", |c| c.path = Bytes::from_static(b".syncd.foreign-1")),
            ("no path", |c| c.path = Bytes::new()),
            ("no kind", |c| c.entry = Some(proto::Entry { kind: None })),
            ("nanoseconds", |c| c.mtime_nanos = 1_000_000_000),
            ("inlined nothing", |c| (c.inlined, c.entry) = (true, None)),
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
            let mut message = proto::Change::from(&change(b"a/b", Some(file())));
            spoil(&mut message);
            assert!(Change::try_from(message).is_err(), "{name}");
        }
        let spoils: &[fn(&mut proto::FileEntry)] = &[
            |f| f.mode = 0o4755,
            |f| f.size = FILE_BYTES_MAX + 1,
            |f| f.hash = Bytes::from_static(b"short"),
        ];
        for spoil in spoils {
            let mut message = proto::Change::from(&change(b"a/b", Some(file())));
            file_of(&mut message, *spoil);
            assert!(Change::try_from(message).is_err());
        }
    }
}
