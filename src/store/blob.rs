//! Reading one content, never giving out bytes that are not its own.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::model::ContentHash;
use crate::store::pack::{HEADER_BYTES, Location, header_of};

/// Contents up to this size are checked as a whole before the first byte is given out.
const WHOLE_BYTES_MAX: u64 = 1 << 20;

/// One content. A small one was checked when it was opened; reading a large one ends with an error of kind
/// `InvalidData` instead of the end of file when its bytes were others.
#[derive(Debug)]
pub struct Blob {
    size: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Whole(Cursor<Vec<u8>>),
    Streamed { file: Arc<File>, at: u64, end: u64, hash: ContentHash, hasher: Box<blake3::Hasher> },
}

impl Blob {
    /// Opens the content at `location` of a pack; none when its record or its bytes are not those of `hash`.
    pub(super) fn open(file: Arc<File>, hash: &ContentHash, location: Location) -> io::Result<Option<Self>> {
        let (at, size) = (location.offset + HEADER_BYTES, location.size);
        let is_whole = size <= WHOLE_BYTES_MAX;
        let header = header_of(hash, size);
        let mut bytes = vec![0; header.len() + if is_whole { size as usize } else { 0 }];
        match file.read_exact_at(&mut bytes, location.offset) {
            Ok(()) if bytes.starts_with(&header) => {}
            Ok(()) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        if !is_whole {
            let source = Source::Streamed { file, at, end: at + size, hash: *hash, hasher: Box::default() };
            return Ok(Some(Self { size, source }));
        }
        let is_sound = ContentHash::of(&bytes[header.len()..]) == *hash;
        let mut content = Cursor::new(bytes);
        content.set_position(HEADER_BYTES);
        Ok(is_sound.then_some(Self { size, source: Source::Whole(content) }))
    }

    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.source {
            Source::Whole(bytes) => bytes.read(buffer),
            Source::Streamed { file, at, end, hash, hasher } => {
                if buffer.is_empty() {
                    return Ok(0);
                }
                let want = buffer.len().min(usize::try_from(*end - *at).unwrap_or(usize::MAX));
                let read = if want == 0 { 0 } else { file.read_at(&mut buffer[..want], *at)? };
                if read > 0 {
                    hasher.update(&buffer[..read]);
                    *at += read as u64;
                } else if *at < *end || hasher.finalize().as_bytes() != hash.as_bytes() {
                    let message = format!("content {hash} is damaged in the store");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, message));
                }
                Ok(read)
            }
        }
    }
}
