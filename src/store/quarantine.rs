//! The place where local content goes before it is replaced: plain folders that a person can read without syncd.
//!
//! One folder per item with `content` and `meta.json`, written aside and moved into place when it is durable, so that
//! what is listed is whole. Nothing here is ever removed by syncd.

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

/// The quarantine folder.
pub(super) struct Quarantine {
    dir: PathBuf,
    count: AtomicU64,
    serial: AtomicU64,
}

impl Quarantine {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(StoreError::io("create", dir))?;
        let quarantine = Self { dir: dir.to_owned(), count: AtomicU64::new(0), serial: AtomicU64::new(0) };
        for item in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
            let item = item.map_err(StoreError::io("list", dir))?;
            // Unfinished: whoever wrote it had not yet let go of the original.
            if item.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                fs::remove_dir_all(item.path()).map_err(StoreError::io("remove", &item.path()))?;
            } else if item.path().join("meta.json").is_file() {
                quarantine.count.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(quarantine)
    }

    pub(super) fn put(&self, what: &Quarantined, content: &mut dyn Read) -> Result<QuarantineId, StoreError> {
        let now = unix_ms();
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let mut random = [0; 4];
        getrandom::fill(&mut random)
            .map_err(|error| StoreError::io("name", &self.dir)(io::Error::other(error.to_string())))?;
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
        Ok(QuarantineId(id))
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

    /// Fails unless so many bytes fit in here and leave the reserve: it may lie on a file system of its own.
    pub(super) fn room_for(&self, bytes: u64, reserve: u64) -> Result<(), StoreError> {
        room_in(&self.dir, bytes, reserve)
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
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
