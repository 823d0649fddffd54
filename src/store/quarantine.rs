//! The place where local content goes before it is replaced: plain folders that a person can read without syncd.
//!
//! One folder per item with `content` and `meta.json`, written aside and moved into place when it is durable, so that
//! what is listed is whole. Bounded in bytes; nothing here is ever removed but by a person's word.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::model::{ContentHash, Entry, FileTime, Place, unix_ms};
use crate::store::StoreError;
use crate::store::pack::{room_in, sync_folder};

/// What is put aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Where it was.
    pub place: Place,
    /// Why it was replaced, in a sentence.
    pub why: String,
    /// The generation in whose favour; 0 when there was none.
    pub generation: u64,
    /// What it was.
    pub entry: Entry,
    /// Its modification time.
    pub mtime: Option<FileTime>,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// The name of one item: sorts by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QuarantineId(pub String);

/// One item as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineItem {
    /// Its name.
    pub id: QuarantineId,
    /// When it was put aside, in milliseconds since 1970.
    pub put_unix_ms: i64,
    /// What it is.
    pub what: Quarantined,
    /// The folder that holds it.
    pub folder: PathBuf,
}

/// `meta.json`: for people first, exact for programs.
#[derive(Serialize, Deserialize)]
struct Meta {
    path: String,
    put_at: String,
    put_unix_ms: i64,
    why: String,
    content_hash: Option<String>,
    item: Quarantined,
}

const UNFINISHED: &str = ".new-";
/// What a record takes beside its content, as it is counted.
const RECORD_BYTES: u64 = 4096;

/// The quarantine folder.
pub(super) struct Quarantine {
    dir: PathBuf,
    count: AtomicU64,
    serial: AtomicU64,
    /// What is kept, and the most that may be; 0: no bound.
    bytes: AtomicU64,
    bytes_max: AtomicU64,
}

impl Quarantine {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(StoreError::io("create", dir))?;
        let quarantine = Self {
            dir: dir.to_owned(),
            count: AtomicU64::new(0),
            serial: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bytes_max: AtomicU64::new(0),
        };
        for item in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
            let item = item.map_err(StoreError::io("list", dir))?;
            // Unfinished: whoever wrote it had not yet let go of the original.
            if item.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                fs::remove_dir_all(item.path()).map_err(StoreError::io("remove", &item.path()))?;
            } else if item.path().join("meta.json").is_file() {
                quarantine.count.fetch_add(1, Ordering::Relaxed);
                quarantine.bytes.fetch_add(weight(&item.path()), Ordering::Relaxed);
            }
        }
        Ok(quarantine)
    }

    /// From now on at most so many bytes are kept; 0: no bound.
    pub(super) fn keep_at_most(&self, bytes: u64) {
        self.bytes_max.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn put(&self, what: &Quarantined, content: &mut dyn Read) -> Result<QuarantineId, StoreError> {
        let now = unix_ms();
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let mut random = [0; 4];
        getrandom::fill(&mut random)
            .map_err(|error| StoreError::io("name", &self.dir)(io::Error::other(error.to_string())))?;
        let size = match what.entry {
            Entry::File { size, .. } => size,
            Entry::Folder { .. } | Entry::Link { .. } => 0,
        };
        self.require_bound(size)?;
        let id = format!("{now:013}-{:04}-{:08x}", serial % 10_000, u32::from_le_bytes(random));
        let unfinished = self.dir.join(format!("{UNFINISHED}{id}"));
        let outcome = self.write(&unfinished, what, content, now).and_then(|()| {
            let folder = self.dir.join(&id);
            fs::rename(&unfinished, &folder).map_err(StoreError::io("rename", &unfinished))?;
            sync_folder(&self.dir)
        });
        if let Err(error) = outcome {
            if let Err(left) = fs::remove_dir_all(&unfinished)
                && left.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(error = %left, path = %unfinished.display(), "an unfinished copy stays");
            }
            return Err(error);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(weight(&self.dir.join(&id)), Ordering::Relaxed);
        Ok(QuarantineId(id))
    }

    /// Removes one item for good.
    pub(super) fn remove(&self, id: &QuarantineId) -> Result<(), StoreError> {
        let folder = self.dir.join(&id.0);
        let weight = weight(&folder);
        // No longer listed in one step; what a crash leaves is removed at the next start.
        let doomed = self.dir.join(format!("{UNFINISHED}{}", id.0));
        fs::rename(&folder, &doomed).map_err(StoreError::io("rename", &folder))?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(weight, Ordering::Relaxed);
        sync_folder(&self.dir)?;
        fs::remove_dir_all(&doomed).map_err(StoreError::io("remove", &doomed))
    }

    /// Fails if so many bytes of content more would pass the bound.
    fn require_bound(&self, bytes: u64) -> Result<(), StoreError> {
        let (held, max) = (self.bytes.load(Ordering::Relaxed), self.bytes_max.load(Ordering::Relaxed));
        let more = bytes.saturating_add(RECORD_BYTES);
        if max > 0 && held.saturating_add(more) > max {
            return Err(StoreError::QuarantineFull { held, more, max });
        }
        Ok(())
    }

    fn write(
        &self,
        folder: &Path,
        what: &Quarantined,
        content: &mut dyn Read,
        now: i64,
    ) -> Result<(), StoreError> {
        fs::DirBuilder::new().mode(0o700).create(folder).map_err(StoreError::io("create", folder))?;
        let path = folder.join("content");
        let mut file = create(&path)?;
        let mut hasher = blake3::Hasher::new();
        io::copy(content, &mut Tee { file: &mut file, hasher: &mut hasher })
            .map_err(StoreError::io("write", &path))?;
        file.sync_all().map_err(StoreError::io("sync", &path))?;
        let meta = Meta {
            path: what.place.to_string(),
            put_at: jiff::Timestamp::from_millisecond(now).map(|at| at.to_string()).unwrap_or_default(),
            put_unix_ms: now,
            why: what.why.clone(),
            content_hash: what
                .entry
                .content()
                .map(|_| ContentHash(*hasher.finalize().as_bytes()).to_string()),
            item: what.clone(),
        };
        let path = folder.join("meta.json");
        let json = serde_json::to_vec_pretty(&meta)
            .map_err(|error| StoreError::corrupt(format!("a quarantine record can't be written: {error}")))?;
        let mut file = create(&path)?;
        file.write_all(&json).map_err(StoreError::io("write", &path))?;
        file.sync_all().map_err(StoreError::io("sync", &path))?;
        sync_folder(folder)
    }

    pub(super) fn list(&self) -> Result<Vec<QuarantineItem>, StoreError> {
        let mut items = Vec::new();
        for item in fs::read_dir(&self.dir).map_err(StoreError::io("list", &self.dir))? {
            let folder = item.map_err(StoreError::io("list", &self.dir))?.path();
            let Some(id) = folder.file_name().and_then(|name| name.to_str()) else { continue };
            let json = match fs::read(folder.join("meta.json")) {
                Ok(json) if !id.starts_with(UNFINISHED) => json,
                _ => continue,
            };
            match serde_json::from_slice::<Meta>(&json) {
                Ok(meta) => items.push(QuarantineItem {
                    id: QuarantineId(id.to_owned()),
                    put_unix_ms: meta.put_unix_ms,
                    what: meta.item,
                    folder: folder.clone(),
                }),
                Err(error) => {
                    tracing::warn!(%error, path = %folder.display(), "unreadable quarantine record")
                }
            }
        }
        items.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(items)
    }

    /// Fails unless so many bytes fit in here by the bound and on the disk, and leave the reserve: it may lie on a file system of its own.
    pub(super) fn room_for(&self, bytes: u64, reserve: u64) -> Result<(), StoreError> {
        self.require_bound(bytes)?;
        room_in(&self.dir, bytes, reserve)
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// What one item counts for; one whose content a person took away, as its record.
fn weight(folder: &Path) -> u64 {
    RECORD_BYTES + fs::metadata(folder.join("content")).map_or(0, |content| content.len())
}

struct Tee<'a> {
    file: &'a mut File,
    hasher: &'a mut blake3::Hasher,
}

impl Write for Tee<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn create(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(StoreError::io("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ArtifactPath, RootName};

    #[test]
    fn it_is_bounded_and_only_a_person_empties_it() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let quarantine = Quarantine::open(dir.path()).unwrap();
            quarantine.keep_at_most(10_000);
            quarantine
        };
        let item = |size: u64| Quarantined {
            place: Place { root: RootName::new("r"), path: ArtifactPath::new(b"a").unwrap() },
            why: "a test".to_owned(),
            generation: 1,
            entry: Entry::File { mode: 0o644, size, hash: ContentHash::of(b"x") },
            mtime: None,
            uid: 0,
            gid: 0,
        };
        let quarantine = open();
        let first = quarantine.put(&item(1000), &mut &[7; 1000][..]).unwrap();
        let full = |quarantine: &Quarantine, size: u64| {
            matches!(quarantine.room_for(size, 0), Err(StoreError::QuarantineFull { held: 5096, .. }))
        };
        assert!(!full(&quarantine, 808) && full(&quarantine, 809));
        let refused = quarantine.put(&item(809), &mut &[7; 809][..]);
        assert!(matches!(refused, Err(StoreError::QuarantineFull { .. })));
        // What is there counts after a start too, and goes only when it is told to.
        let quarantine = open();
        assert!(full(&quarantine, 809));
        quarantine.remove(&first).unwrap();
        assert_eq!((quarantine.count(), quarantine.list().unwrap().len()), (0, 0));
        quarantine.room_for(809, 0).unwrap();
        assert!(quarantine.remove(&first).is_err());
        assert_eq!(open().count(), 0);
    }
}
