//! What a staged file is called: a name that says which generation and which artifact it is for.

use std::fmt;

use crate::model::ArtifactPath;

/// Longest name; well under what file systems allow.
const BYTES_MAX: usize = 200;
const HASH_DIGITS: usize = 16;
const END: &str = ".part";

/// The name of one file under `.syncd/stage`: `<generation>.<sequence>.<path>~<hash of path>.part`.
///
/// The path is percent-encoded, and cut when it is long; the hash tells then which one it was. It ends in nothing
/// that a gateway deploys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageName(String);

impl StageName {
    /// The name for `path` in `generation`; `sequence` tells names of one path apart.
    #[must_use]
    pub fn new(generation: u64, sequence: u64, path: &ArtifactPath) -> Self {
        let front = format!("{generation}.{sequence}.");
        let room = BYTES_MAX - front.len() - 1 - HASH_DIGITS - END.len();
        let encoded = encode(path.as_bytes(), room);
        Self(format!("{front}{encoded}~{}{END}", hash_digits(path)))
    }

    /// Reads a name that was found in the workshop; none if it is not of this form.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let name = Self(std::str::from_utf8(bytes).ok()?.to_owned());
        let (generation, sequence, _, hash) = name.parts()?;
        generation.parse::<u64>().ok()?;
        sequence.parse::<u64>().ok()?;
        let plain = hash.len() == HASH_DIGITS && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        (plain && !name.0.contains(['/', '\0'])).then_some(name)
    }

    /// The generation that it was staged for.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.parts().and_then(|parts| parts.0.parse().ok()).unwrap_or_default()
    }

    /// What tells it from other names of the same generation and path.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.parts().and_then(|parts| parts.1.parse().ok()).unwrap_or_default()
    }

    /// The path that it was staged for; none when that was too long to be kept whole.
    #[must_use]
    pub fn path(&self) -> Option<ArtifactPath> {
        let (_, _, encoded, _) = self.parts()?;
        let path = ArtifactPath::new(&decode(encoded)?).ok()?;
        self.is_for(&path).then_some(path)
    }

    /// Whether it was staged for `path`.
    #[must_use]
    pub fn is_for(&self, path: &ArtifactPath) -> bool {
        self.parts().is_some_and(|(_, _, _, hash)| hash == hash_digits(path))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// This name with another sequence.
    pub(super) fn with_sequence(&self, sequence: u64) -> Option<Self> {
        let (generation, _, encoded, hash) = self.parts()?;
        Some(Self(format!("{generation}.{sequence}.{encoded}~{hash}{END}")))
    }

    fn parts(&self) -> Option<(&str, &str, &str, &str)> {
        let (generation, rest) = self.0.split_once('.')?;
        let (sequence, rest) = rest.split_once('.')?;
        let (encoded, hash) = rest.strip_suffix(END)?.rsplit_once('~')?;
        Some((generation, sequence, encoded, hash))
    }
}

impl fmt::Display for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn hash_digits(path: &ArtifactPath) -> String {
    blake3::hash(path.as_bytes()).to_hex()[..HASH_DIGITS].to_owned()
}

fn encode(bytes: &[u8], room: usize) -> String {
    let mut encoded = String::with_capacity(room.min(bytes.len() * 3));
    for byte in bytes {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if encoded.len() + if plain { 1 } else { 3 } > room {
            break;
        }
        if plain {
            encoded.push(char::from(*byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> ArtifactPath {
        ArtifactPath::new(bytes).unwrap()
    }

    #[test]
    fn says_generation_and_path() {
        for bytes in [&b"default/api/a.xml"[..], b"a b~%/{c}\"'\n", b"\xff\xfe/x.y.z", b"....."] {
            let name = StageName::new(42, 7, &path(bytes));
            let read = StageName::parse(name.as_str().as_bytes()).unwrap();
            assert_eq!(read, name);
            assert_eq!((read.generation(), read.sequence()), (42, 7));
            assert_eq!(read.path().unwrap().as_bytes(), bytes);
        }
    }

    #[test]
    fn is_never_deployable_nor_too_long() {
        for bytes in [vec![b'\xff'; 255], [vec![b'd'; 250], b"/x.xml".to_vec()].concat()] {
            let name = StageName::new(u64::MAX, u64::MAX, &path(&bytes));
            assert!(name.as_str().len() <= BYTES_MAX, "{name}");
            assert!(name.as_str().ends_with(".part"));
            let read = StageName::parse(name.as_str().as_bytes()).unwrap();
            assert_eq!(read.path(), None);
            assert!(read.is_for(&path(&bytes)));
            assert!(!read.is_for(&path(b"other")));
        }
    }

    #[test]
    fn other_names_are_none() {
        for bad in ["", "a", "1.2.x.part", "1.2.x~0123.part", "x.2.y~0123456789abcdef.part", "member"] {
            assert_eq!(StageName::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(StageName::parse(b"1.2.\xff~0123456789abcdef.part"), None);
        assert_eq!(StageName::parse(b"1.2.a/../b~0123456789abcdef.part"), None);
    }
}
