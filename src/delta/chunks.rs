//! Between a stream of bytes and the messages that carry it.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of one data message; well below the limit of a message.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Cuts what is written into pieces of at most [`CHUNK_BYTES`] and hands each on.
pub struct ChunkWriter<F: FnMut(Bytes) -> io::Result<()>> {
    hand_on: F,
    gathered: BytesMut,
}

impl<F: FnMut(Bytes) -> io::Result<()>> ChunkWriter<F> {
    /// Hands every full piece to `hand_on`, which may block.
    pub fn new(hand_on: F) -> Self {
        Self { hand_on, gathered: BytesMut::new() }
    }

    /// Hands on what is left.
    ///
    /// # Errors
    /// Those of `hand_on`.
    pub fn finish(mut self) -> io::Result<()> {
        match self.gathered.is_empty() {
            true => Ok(()),
            false => (self.hand_on)(self.gathered.split().freeze()),
        }
    }
}

impl<F: FnMut(Bytes) -> io::Result<()>> Write for ChunkWriter<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK_BYTES - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..taken]);
        if self.gathered.len() == CHUNK_BYTES {
            (self.hand_on)(self.gathered.split().freeze())?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads pieces one after another as one stream.
pub struct ChunkReader<F: FnMut() -> io::Result<Option<Bytes>>> {
    next: F,
    current: Bytes,
}

impl<F: FnMut() -> io::Result<Option<Bytes>>> ChunkReader<F> {
    /// Asks `next`, which may block, for each piece; none ends the stream.
    pub fn new(next: F) -> Self {
        Self { next, current: Bytes::new() }
    }
}

impl<F: FnMut() -> io::Result<Option<Bytes>>> Read for ChunkReader<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match (self.next)()? {
                Some(bytes) => self.current = bytes,
                None => return Ok(0),
            }
        }
        let taken = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_same_stream() {
        for length in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut pieces = Vec::new();
            let mut writer = ChunkWriter::new(|piece| {
                pieces.push(piece);
                Ok(())
            });
            writer.write_all(&bytes).unwrap();
            writer.finish().unwrap();
            assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= CHUNK_BYTES));
            let mut pieces = pieces.into_iter();
            let mut read = Vec::new();
            ChunkReader::new(|| Ok(pieces.next())).read_to_end(&mut read).unwrap();
            assert_eq!(read, bytes);
        }
    }
}
