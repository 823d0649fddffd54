//! Pack files: contents one after another, so that a thousand small files cost a few syncs.
//!
//! A record is magic, hash, length and the raw bytes. A pack only grows, and only its first bytes up to the length
//! that the index notes count: what lies beyond is the remains of a write that was cut off, and is cut off itself.
//! A batch owns the pack it writes to, so that two batches never wait for each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::ContentHash;
use crate::store::StoreError;

const MAGIC: [u8; 4] = *b"SyB1";
/// Magic, hash, length.
pub(super) const HEADER_BYTES: u64 = 44;
/// A pack that reached this gets no further record.
const PACK_BYTES_MAX: u64 = if cfg!(test) { 16 << 20 } else { 64 << 20 };
/// A long sync must not stall other syncs of the same disk, the raft log's above all.
pub(super) const PORTION_BYTES: u64 = 8 << 20;
/// What is left to others on the disk, and to the index.
pub(super) const RESERVE_BYTES: u64 = 16 << 20;

/// Where a content lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) pack: u32,
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// The folder of packs.
pub(super) struct Packs {
    dir: PathBuf,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    packs: Vec<Pack>,
    /// Packs that a writer or the collector owns.
    owned: BTreeSet<u32>,
    next: u32,
}

/// Reads the records of one pack.
pub(super) struct Records {
    file: File,
    path: PathBuf,
}

/// One pack that a single writer owns.
struct Pack {
    number: u32,
    file: File,
    path: PathBuf,
    /// What the index notes.
    length: u64,
}

/// Appends records to one pack. What was not settled is cut off when this is dropped.
pub(super) struct Writer<'a> {
    packs: &'a Packs,
    /// None once a write failed: such a pack is not written again before the next start.
    pack: Option<BufWriter<File>>,
    number: u32,
    path: PathBuf,
    settled: u64,
    end: u64,
    synced: u64,
}

impl Packs {
    /// Takes stock of `dir`: cuts every pack to its length in `lengths`, drops packs that no index entry names.
    pub(super) fn open(dir: &Path, lengths: &BTreeMap<u32, u64>) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
        let packs = Self { dir: dir.to_owned(), idle: Mutex::default() };
        let mut idle = Idle { next: 1, ..Idle::default() };
        for item in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
            let path = item.map_err(StoreError::io("list", dir))?.path();
            let Some(number) = number_of(&path) else { continue };
            if !lengths.contains_key(&number) {
                fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        for (&number, &length) in lengths {
            idle.next = idle.next.max(number + 1);
            let path = packs.path(number);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .map_err(StoreError::io("open", &path))?;
            let found = file.metadata().map_err(StoreError::io("stat", &path))?.len();
            if found < length {
                let path = path.display();
                return Err(StoreError::corrupt(format!(
                    "{path} has {found} bytes, the index counts {length}"
                )));
            }
            if found > length {
                tracing::info!(pack = number, bytes = found - length, "cut off what a write left unfinished");
                file.set_len(length).map_err(StoreError::io("cut", &path))?;
            }
            if length < PACK_BYTES_MAX {
                idle.packs.push(Pack { number, file, path, length });
            }
        }
        *packs.idle() = idle;
        Ok(packs)
    }

    pub(super) fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number:06}.pack"))
    }

    /// A pack for one writer alone.
    pub(super) fn writer(&self) -> Result<Writer<'_>, StoreError> {
        let mut idle = self.idle();
        let Pack { number, mut file, path, length } = match idle.packs.pop() {
            Some(pack) => {
                idle.owned.insert(pack.number);
                pack
            }
            None => {
                let number = idle.next;
                idle.next += 1;
                idle.owned.insert(number);
                drop(idle);
                self.create(number)?
            }
        };
        file.seek(SeekFrom::Start(length)).map_err(StoreError::io("seek", &path))?;
        Ok(Writer {
            packs: self,
            pack: Some(BufWriter::with_capacity(128 << 10, file)),
            number,
            path,
            settled: length,
            end: length,
            synced: length,
        })
    }

    /// Keeps writers from a pack; false when one has it.
    pub(super) fn claim(&self, number: u32) -> bool {
        let mut idle = self.idle();
        let claimed = idle.owned.insert(number);
        if claimed {
            idle.packs.retain(|pack| pack.number != number);
        }
        claimed
    }

    /// Ends a claim. The pack gets no further record before the next start, if it is there at all.
    pub(super) fn unclaim(&self, number: u32) {
        self.idle().owned.remove(&number);
    }

    /// The records of a pack.
    pub(super) fn records(&self, number: u32) -> Result<Records, StoreError> {
        Ok(Records { file: self.open_pack(number)?, path: self.path(number) })
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, number: u32) -> Result<Pack, StoreError> {
        let path = self.path(number);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(StoreError::io("create", &path))?;
        sync_folder(&self.dir)?;
        Ok(Pack { number, file, path, length: 0 })
    }

    /// Opens a pack to read contents from it.
    pub(super) fn open_pack(&self, number: u32) -> Result<File, StoreError> {
        let path = self.path(number);
        File::open(&path).map_err(StoreError::io("open", &path))
    }

    /// Fails when less than `bytes` and the reserve are free.
    pub(super) fn room_for(&self, bytes: u64, reserve: u64) -> Result<(), StoreError> {
        room_in(&self.dir, bytes, reserve)
    }
}

/// Fails unless so many bytes fit into `dir` and leave the reserve.
pub(super) fn room_in(dir: &Path, bytes: u64, reserve: u64) -> Result<(), StoreError> {
    let free = rustix::fs::statvfs(dir)
        .map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
        .map_err(|error| StoreError::io("stat", dir)(error.into()))?;
    if free < bytes.saturating_add(reserve) {
        return Err(StoreError::NoSpace { path: dir.to_owned() });
    }
    Ok(())
}

impl Writer<'_> {
    /// Appends one content after checking that it is what `hash` and `size` say.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] and [`StoreError::Source`] leave the writer as it was before.
    pub(super) fn append(
        &mut self,
        hash: &ContentHash,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<Location, StoreError> {
        let start = self.end;
        match self.write_record(hash, size, content) {
            Ok(()) => Ok(Location { pack: self.number, offset: start, size }),
            Err(error @ (StoreError::Mismatch { .. } | StoreError::Source { .. })) => {
                self.cut(start)?;
                Err(error)
            }
            Err(error) => {
                self.retire();
                Err(error)
            }
        }
    }

    fn write_record(
        &mut self,
        hash: &ContentHash,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), StoreError> {
        self.write(&header_of(hash, size))?;
        let mut hasher = blake3::Hasher::new();
        let mut left = size;
        let mut buffer = vec![0; usize::try_from(size + 1).unwrap_or(usize::MAX).min(64 << 10)];
        loop {
            let read = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(StoreError::Source { hash: *hash, source }),
            };
            left = left.checked_sub(read as u64).ok_or(StoreError::Mismatch { hash: *hash, size })?;
            hasher.update(&buffer[..read]);
            self.write(&buffer[..read])?;
            if self.end - self.synced >= PORTION_BYTES {
                self.sync()?;
            }
        }
        if left > 0 || hasher.finalize().as_bytes() != hash.as_bytes() {
            return Err(StoreError::Mismatch { hash: *hash, size });
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let path = &self.path;
        let pack = self.pack.as_mut().ok_or_else(|| retired(path))?;
        pack.write_all(bytes).map_err(StoreError::io("write", path))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn cut(&mut self, to: u64) -> Result<(), StoreError> {
        let path = self.path.clone();
        let outcome = (|| {
            let pack = self.pack.as_mut().ok_or_else(|| retired(&path))?;
            pack.seek(SeekFrom::Start(to)).map_err(StoreError::io("seek", &path))?;
            pack.get_ref().set_len(to).map_err(StoreError::io("cut", &path))
        })();
        if outcome.is_err() {
            self.retire();
        }
        self.end = to;
        self.synced = self.synced.min(to);
        outcome
    }

    /// Lets readers see everything appended so far.
    pub(super) fn flush(&mut self) -> Result<(), StoreError> {
        let path = &self.path;
        let pack = self.pack.as_mut().ok_or_else(|| retired(path))?;
        let flushed = pack.flush().map_err(StoreError::io("write", path));
        if flushed.is_err() {
            self.retire();
        }
        flushed
    }

    /// Makes everything appended so far durable. It counts only once the index notes it: see [`Writer::settle`].
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        if self.synced == self.end {
            return Ok(());
        }
        let path = self.path.clone();
        let outcome = (|| {
            let pack = self.pack.as_mut().ok_or_else(|| retired(&path))?;
            pack.flush().map_err(StoreError::io("write", &path))?;
            pack.get_ref().sync_data().map_err(StoreError::io("sync", &path))
        })();
        match outcome {
            Ok(()) => self.synced = self.end,
            Err(_) => self.retire(),
        }
        outcome
    }

    /// Pack number and length to be noted in the index.
    pub(super) fn mark(&self) -> (u32, u64) {
        (self.number, self.end)
    }

    /// The index notes everything appended so far.
    pub(super) fn settle(&mut self) {
        self.settled = self.end;
    }

    /// Nobody knows whether the index notes what was appended: the next start cuts as the index says, not this process.
    pub(super) fn leave(&mut self) {
        if let Some(pack) = self.pack.take() {
            // What is still buffered was either synced before or never counted.
            let (_file, _unwritten) = pack.into_parts();
        }
        self.settled = self.end;
    }

    pub(super) fn unsettled(&self) -> u64 {
        self.end - self.settled
    }

    pub(super) fn is_full(&self) -> bool {
        self.end >= PACK_BYTES_MAX
    }

    /// Gives the disk space back and never writes to this pack again: after a failed write or sync nobody knows
    /// what the page cache holds.
    fn retire(&mut self) {
        if let Some(pack) = self.pack.take() {
            let (file, _unwritten) = pack.into_parts();
            if let Err(error) = file.set_len(self.settled) {
                tracing::warn!(%error, path = %self.path.display(), "could not cut a pack; the next start does");
            }
        }
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        let back = self.give_back();
        let mut idle = self.packs.idle();
        idle.owned.remove(&self.number);
        idle.packs.extend(back);
    }
}

impl Writer<'_> {
    /// The pack, if another writer may go on with it.
    fn give_back(&mut self) -> Option<Pack> {
        if self.end != self.settled && self.cut(self.settled).is_err() {
            return None;
        }
        let (file, unwritten) = self.pack.take()?.into_parts();
        if self.settled >= PACK_BYTES_MAX || !matches!(unwritten, Ok(ref rest) if rest.is_empty()) {
            return None;
        }
        Some(Pack { number: self.number, file, path: self.path.clone(), length: self.settled })
    }
}

impl Records {
    /// Whose record begins at `offset`, and the content's length.
    pub(super) fn at(&mut self, offset: u64) -> Result<(ContentHash, u64), StoreError> {
        let mut header = [0; HEADER_BYTES as usize];
        self.file.read_exact_at(&mut header, offset).map_err(StoreError::io("read", &self.path))?;
        let (magic, rest) = header.split_at(MAGIC.len());
        let (hash, size) = rest.split_at(32);
        let (Ok(hash), Ok(size)) = (hash.try_into(), size.try_into()) else {
            return Err(self.unreadable(offset));
        };
        if magic != MAGIC {
            return Err(self.unreadable(offset));
        }
        Ok((ContentHash(hash), u64::from_le_bytes(size)))
    }

    fn unreadable(&self, offset: u64) -> StoreError {
        let path = self.path.clone();
        let source = std::io::Error::other(format!("no record begins at byte {offset}"));
        StoreError::Io { operation: "read", path, source }
    }
}

fn retired(path: &Path) -> StoreError {
    StoreError::io("write", path)(std::io::Error::other("an earlier write to this file failed"))
}

fn number_of(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_suffix(".pack")?.parse().ok()
}

pub(super) fn header_of(hash: &ContentHash, size: u64) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[..4].copy_from_slice(&MAGIC);
    header[4..36].copy_from_slice(hash.as_bytes());
    header[36..].copy_from_slice(&size.to_le_bytes());
    header
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync", dir))
}
