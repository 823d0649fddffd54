//! The encoding of everything that this room stores or sends: postcard behind a version and a checksum.
//!
//! Stored: one byte version, one byte kind, the first 8 bytes of the blake3 hash of version, kind and content, then the
//! content. A record that does not pass is never skipped: whoever opens the store refuses to go on.

use serde::Serialize;
use serde::de::DeserializeOwned;

const VERSION: u8 = 1;
const HEAD: usize = 2 + 8;

/// What a record is, so that one kind is never read as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Vote = 1,
    LogId = 2,
    Entry = 3,
    Applied = 4,
    Snapshot = 5,
    SnapshotBody = 6,
    Own = 7,
    Incarnation = 8,
    Formation = 9,
    Command = 10,
    Outcome = 11,
    Message = 12,
    Ordered = 13,
    Starts = 14,
    Seen = 15,
}

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Too short to be a record.
    #[error("it is cut short")]
    Short,
    /// Written by another version.
    #[error("its format version is {0}, this daemon knows version {VERSION}")]
    Version(u8),
    /// Something else.
    #[error("it is another kind of record")]
    Kind,
    /// Damaged.
    #[error("its checksum does not match")]
    Checksum,
    /// Sound by its checksum, and yet not readable.
    #[error("its content is not readable: {0}")]
    Content(postcard::Error),
}

fn checksum(kind: Kind, content: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[VERSION, kind as u8]);
    hasher.update(content);
    let mut sum = [0; 8];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    sum
}

/// The record of `value`.
///
/// # Errors
/// When postcard cannot express it: a mistake in the program.
pub(super) fn encode<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>, RecordError> {
    let mut bytes = postcard::to_extend(value, vec![0; HEAD]).map_err(RecordError::Content)?;
    let sum = checksum(kind, &bytes[HEAD..]);
    bytes[0] = VERSION;
    bytes[1] = kind as u8;
    bytes[2..HEAD].copy_from_slice(&sum);
    Ok(bytes)
}

/// The value of a record.
///
/// # Errors
/// When it is not whole, or not of this kind.
pub(super) fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, RecordError> {
    let (head, content) = bytes.split_at_checked(HEAD).ok_or(RecordError::Short)?;
    if head[0] != VERSION {
        return Err(RecordError::Version(head[0]));
    }
    if head[1] != kind as u8 {
        return Err(RecordError::Kind);
    }
    if head[2..] != checksum(kind, content) {
        return Err(RecordError::Checksum);
    }
    postcard::from_bytes(content).map_err(RecordError::Content)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::cluster::types::Command;
    use crate::model::{ArtifactPath, Commit, Digest, Order, OrderId, Place, Role, RootName};

    #[test]
    fn every_flipped_bit_is_found() {
        let bytes = encode(Kind::Command, &Command::Lead { leader: 3, nonce: 7 }).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<Command>(Kind::Command, &damaged).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode::<Command>(Kind::Command, &bytes[..length]).is_err(), "length {length}");
        }
        assert_eq!(decode::<Command>(Kind::Entry, &bytes), Err(RecordError::Kind));
    }

    /// What a daemon of this version wrote must stay readable: add lines, never change one.
    #[test]
    fn stored_commands_keep_their_bytes() {
        let commit = Commit {
            epoch: 4,
            parent: 0,
            generation: 1,
            digest: Digest([9; 32]),
            author: 2,
            committed_unix_ms: 1_700_000_000_000,
            holders: BTreeSet::from([1, 2]),
        };
        let admit = Command::Admit {
            name: "gw4".to_owned(),
            address: "gw4:8730".to_owned(),
            role: Role::Worker,
            incarnation: [5; 16],
        };
        let appoint =
            Command::Appoint { replaces: 0, manager: 2, lease: Duration::from_millis(1200), term: 1 };
        let order = |order| Command::Order {
            id: OrderId([2; 16]),
            by: "gw1".to_owned(),
            unix_ms: 1_700_000_000_000,
            order,
        };
        let places = vec![Place { root: RootName::new("r"), path: ArtifactPath::new(b"a").unwrap() }];
        let (to, holding) = (BTreeSet::from([1, 3]), BTreeSet::from([3]));
        let change = Command::Change { to, generation: 300, holding, term: 2 };
        let moved = Command::Move { node: 4, address: "gw4:8740".to_owned(), role: Role::Witness };
        let cases = [
            (Command::Lead { leader: 1, nonce: 2 }, "010102"),
            (appoint, "020002018084af5f01"),
            (
                Command::Commit(commit),
                "0304000109090909090909090909090909090909090909090909090909090909090909090280a0abfef962020102",
            ),
            (admit, "0403677734086777343a383733300105050505050505050505050505050505"),
            (order(Order::Pause), "05020202020202020202020202020202020367773180a0abfef96200"),
            (order(Order::Resume), "05020202020202020202020202020202020367773180a0abfef96201"),
            (
                order(Order::Switchover { to: Some("gw2".to_owned()) }),
                "05020202020202020202020202020202020367773180a0abfef962020103677732",
            ),
            (
                order(Order::Remove { name: "gw3".to_owned() }),
                "05020202020202020202020202020202020367773180a0abfef9620303677733",
            ),
            (
                order(Order::Redeploy { places }),
                "05020202020202020202020202020202020367773180a0abfef962040101720161",
            ),
            (change, "06020103ac02010302"),
            (Command::Expel { node: 5 }, "0705"),
            (moved, "0804086777343a3837343002"),
        ];
        for (command, content) in cases {
            let bytes = encode(Kind::Command, &command).unwrap();
            let hex: String = bytes[HEAD..].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, content, "{command:?}");
            assert_eq!(decode::<Command>(Kind::Command, &bytes).unwrap(), command);
        }
    }
}
