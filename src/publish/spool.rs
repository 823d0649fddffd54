//! One encoded parcel, sent to many: in memory while it is small, else in an unnamed file.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use crate::delta::{CHUNK_BYTES, ChunkWriter};

/// What is kept in memory at most.
const MEMORY_BYTES_MAX: u64 = 8 << 20;

/// The pieces of one parcel.
#[derive(Debug)]
pub(super) struct Spool {
    place: Place,
    bytes: u64,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<Bytes>),
    File(File),
}

impl Spool {
    /// Keeps what `write` writes; in `dir` when it grows large.
    pub(super) fn fill<E>(
        dir: &Path,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
        failed: impl Fn(io::Error) -> E,
    ) -> Result<Self, E> {
        let mut spool = Self { place: Place::Memory(Vec::new()), bytes: 0 };
        let mut pieces = ChunkWriter::new(|piece| spool.push(dir, piece));
        write(&mut pieces)?;
        pieces.finish().map_err(failed)?;
        Ok(spool)
    }

    fn push(&mut self, dir: &Path, piece: Bytes) -> io::Result<()> {
        self.bytes += piece.len() as u64;
        match &mut self.place {
            Place::Memory(pieces) if self.bytes <= MEMORY_BYTES_MAX => pieces.push(piece),
            Place::Memory(pieces) => {
                let mut file = tempfile::tempfile_in(dir)?;
                for piece in std::mem::take(pieces).iter().chain([&piece]) {
                    file.write_all(piece)?;
                }
                self.place = Place::File(file);
            }
            Place::File(file) => file.write_all(&piece)?,
        }
        Ok(())
    }

    /// Its length in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether [`Spool::piece`] never blocks.
    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.place, Place::Memory(_))
    }

    /// The `index`-th piece; none after the last. Blocks only when the parcel is large.
    pub(super) fn piece(&self, index: usize) -> io::Result<Option<Bytes>> {
        match &self.place {
            Place::Memory(pieces) => Ok(pieces.get(index).cloned()),
            Place::File(file) => {
                let at = (index * CHUNK_BYTES) as u64;
                let length = self.bytes.saturating_sub(at).min(CHUNK_BYTES as u64);
                if length == 0 {
                    return Ok(None);
                }
                let mut piece = vec![0; length as usize];
                file.read_exact_at(&mut piece, at)?;
                Ok(Some(piece.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_parcels_come_out_as_they_went_in() {
        let dir = tempfile::tempdir().unwrap();
        for length in [0, 5, CHUNK_BYTES, MEMORY_BYTES_MAX as usize, MEMORY_BYTES_MAX as usize + 7] {
            let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let spool = Spool::fill(dir.path(), |out| out.write_all(&bytes), |error| error).unwrap();
            assert_eq!(spool.bytes(), length as u64);
            assert_eq!(matches!(spool.place, Place::File(_)), length as u64 > MEMORY_BYTES_MAX);
            let mut read = Vec::new();
            let mut index = 0;
            while let Some(piece) = spool.piece(index).unwrap() {
                read.extend_from_slice(&piece);
                index += 1;
            }
            assert!(read == bytes, "{length} bytes");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
