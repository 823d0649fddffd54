//! Large files of this node that a fetched generation may be told by, when no generation is here to start from.
//!
//! Owns which files are signed, and reading them again: a file that is another by then is not used.

use std::io::Read;
use std::sync::Arc;

use crate::delta::{
    PATCHED_BYTES_MAX, ParcelError, SIGNATURES_BYTES_MAX, SIGNATURES_MAX, SIGNED_BYTES_MIN, Signature,
};
use crate::inventory::Observed;
use crate::model::{ContentHash, Entry, Place};
use crate::tree::Root;
use crate::wire::proto::SignedFile;

/// Files whose signatures go with one request.
#[derive(Debug, Default)]
pub(super) struct OwnFiles(Vec<OwnFile>);

#[derive(Debug)]
struct OwnFile {
    place: Place,
    root: Arc<Root>,
    hash: ContentHash,
    signature: Vec<u8>,
}

impl OwnFiles {
    /// Whether [`OwnFiles::sign`] would find something.
    pub(super) fn are_in(observed: &Observed) -> bool {
        observed.forest.iter().any(|(_, entry)| is_signed(entry))
    }

    /// Reads and signs what is large enough. Blocks.
    pub(super) fn sign(observed: &Observed) -> Self {
        let (mut files, mut bytes) = (Vec::new(), 0);
        for (place, _) in observed.forest.iter().filter(|(_, entry)| is_signed(entry)) {
            let Some(root) = observed.roots.get(&place.root).and_then(|state| state.root.clone()) else {
                continue;
            };
            let Some(content) = read(&root, &place) else { continue };
            let signature = Signature::make(&content);
            bytes += signature.len() + place.path.as_bytes().len();
            if files.len() == SIGNATURES_MAX || bytes > SIGNATURES_BYTES_MAX {
                break;
            }
            files.push(OwnFile { place, root, hash: ContentHash::of(&content), signature });
        }
        Self(files)
    }

    /// As a request tells them.
    pub(super) fn messages(&self) -> Vec<SignedFile> {
        let message = |file: &OwnFile| SignedFile {
            root: file.place.root.as_str().to_owned(),
            path: bytes::Bytes::copy_from_slice(file.place.path.as_bytes()),
            signature: bytes::Bytes::copy_from_slice(&file.signature),
        };
        self.0.iter().map(message).collect()
    }

    /// The bytes that were signed. Blocks.
    ///
    /// # Errors
    /// [`ParcelError::Patch`] when the file is another by now.
    pub(super) fn read(&self, place: &Place) -> Result<Vec<u8>, ParcelError> {
        let file = self.0.iter().find(|file| file.place == *place);
        let content = file.and_then(|file| Some((file, read(&file.root, place)?)));
        match content {
            Some((file, content)) if ContentHash::of(&content) == file.hash => Ok(content),
            _ => {
                Err(ParcelError::Patch { what: "it starts from a file of this node that is another by now" })
            }
        }
    }
}

fn is_signed(entry: &Entry) -> bool {
    matches!(entry, Entry::File { size, .. } if (SIGNED_BYTES_MIN..=PATCHED_BYTES_MAX).contains(size))
}

fn read(root: &Root, place: &Place) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    let file = root.open_file(&place.path).ok()?;
    file.take(PATCHED_BYTES_MAX + 1).read_to_end(&mut content).ok()?;
    (content.len() as u64 <= PATCHED_BYTES_MAX).then_some(content)
}
