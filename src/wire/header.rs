//! What stands before a parcel's body: the generation, its rules, and how much follows.

use bytes::Bytes;

use crate::model::{Digest, Generation, Proposal, RootName, RootRules, Rules};
use crate::wire::{WireError, proto};

/// Most changes of one parcel: ten times the largest trees that are expected.
pub const CHANGES_MAX: u64 = 500_000;
/// Most bytes of contents in one parcel.
const CONTENT_BYTES_MAX: u64 = 64 << 30;
/// The body that this version writes and reads.
const BODY: u32 = 1;
const ROOTS_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 255;
/// All patterns together; with the rest of the header below the bulk lane's message limit.
const PATTERN_BYTES_MAX: usize = 512 << 10;
const PATTERNS_MAX: usize = 10_000;

/// The first message of a parcel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What is proposed or was asked for.
    pub generation: Generation,
    /// The generation that the changes start from; 0: nothing.
    pub base: u64,
    /// Its digest; none when the base is nothing.
    pub base_digest: Option<Digest>,
    /// How many changes follow.
    pub changes: u64,
    /// How many bytes of contents follow them.
    pub content_bytes: u64,
    /// The generation's rules; none: those of the base.
    pub rules: Option<Rules>,
}

impl Header {
    /// The proposal that this header, the rules and `changes` make.
    #[must_use]
    pub fn proposal(self, rules: Rules, changes: Vec<crate::model::Change>) -> Proposal {
        Proposal { generation: self.generation, base: self.base, rules, changes }
    }
}

impl TryFrom<proto::ParcelHeader> for Header {
    type Error = WireError;

    fn try_from(message: proto::ParcelHeader) -> Result<Self, WireError> {
        let generation: Generation =
            message.generation.ok_or(WireError::Missing { what: "the generation" })?.try_into()?;
        if message.base >= generation.number {
            let what = "the base of a generation";
            return Err(WireError::Value { what, value: message.base, expected: "an older generation" });
        }
        let base_digest = match message.base {
            0 => None,
            _ => Some(digest_from("the base's digest", &message.base_digest)?),
        };
        bounded("the number of changes", message.changes, CHANGES_MAX)?;
        bounded("the contents' size in bytes", message.content_bytes, CONTENT_BYTES_MAX)?;
        if message.body != BODY {
            let (what, value) = ("the kind of a parcel's body", u64::from(message.body));
            return Err(WireError::Value { what, value, expected: "1: the other node runs another version" });
        }
        let rules = match message.rules_of_base {
            true if message.base == 0 || !message.rules.is_empty() => {
                return Err(WireError::Missing { what: "the base of the rules" });
            }
            true => None,
            false => Some(rules_from(message.rules)?),
        };
        let (changes, content_bytes) = (message.changes, message.content_bytes);
        Ok(Self { generation, base: message.base, base_digest, changes, content_bytes, rules })
    }
}

impl From<&Header> for proto::ParcelHeader {
    fn from(header: &Header) -> Self {
        Self {
            generation: Some((&header.generation).into()),
            base: header.base,
            base_digest: header.base_digest.map_or_else(Bytes::new, |digest| bytes_of(&digest)),
            changes: header.changes,
            content_bytes: header.content_bytes,
            rules: header
                .rules
                .iter()
                .flat_map(|rules| rules.roots.iter().map(|(root, rules)| rules_to(root, rules)))
                .collect(),
            rules_of_base: header.rules.is_none(),
            body: BODY,
        }
    }
}

impl TryFrom<proto::Generation> for Generation {
    type Error = WireError;

    fn try_from(message: proto::Generation) -> Result<Self, WireError> {
        if message.parent >= message.number {
            let what = "the parent of a generation";
            return Err(WireError::Value {
                what,
                value: message.parent,
                expected: "a number before its own",
            });
        }
        Ok(Self {
            number: message.number,
            parent: message.parent,
            digest: digest_from("a generation's digest", &message.digest)?,
            epoch: message.epoch,
            author: name("the author", &message.author)?.to_owned(),
            created_unix_ms: message.created_unix_ms,
        })
    }
}

impl From<&Generation> for proto::Generation {
    fn from(generation: &Generation) -> Self {
        Self {
            number: generation.number,
            parent: generation.parent,
            digest: bytes_of(&generation.digest),
            epoch: generation.epoch,
            author: generation.author.clone(),
            created_unix_ms: generation.created_unix_ms,
        }
    }
}

fn rules_from(message: Vec<proto::RootRules>) -> Result<Rules, WireError> {
    bounded("the number of roots", message.len() as u64, ROOTS_MAX as u64)?;
    if !message.windows(2).all(|pair| pair[0].root < pair[1].root) {
        return Err(WireError::Order { what: "the roots" });
    }
    let patterns =
        || message.iter().flat_map(|rules| [&rules.exclude, &rules.per_node, &rules.protect]).flatten();
    bounded("the number of patterns", patterns().count() as u64, PATTERNS_MAX as u64)?;
    bounded(
        "the patterns' size in bytes",
        patterns().map(String::len).sum::<usize>() as u64,
        PATTERN_BYTES_MAX as u64,
    )?;
    let optional = |what, text: String| match text.as_str() {
        "" => Ok(None),
        text => name(what, text).map(|name| Some(name.to_owned())),
    };
    let roots = message.into_iter().map(|rules| {
        Ok((
            root_name(&rules.root)?,
            RootRules {
                exclude: rules.exclude,
                per_node: rules.per_node,
                protect: rules.protect,
                owner: optional("an owner", rules.owner)?,
                group: optional("a group", rules.group)?,
            },
        ))
    });
    Ok(Rules { roots: roots.collect::<Result<_, WireError>>()? })
}

fn rules_to(root: &RootName, rules: &RootRules) -> proto::RootRules {
    proto::RootRules {
        root: root.as_str().to_owned(),
        exclude: rules.exclude.clone(),
        per_node: rules.per_node.clone(),
        protect: rules.protect.clone(),
        owner: rules.owner.clone().unwrap_or_default(),
        group: rules.group.clone().unwrap_or_default(),
    }
}

/// The name of a root, as a peer gives it.
///
/// # Errors
/// When it is none.
pub fn root_name(text: &str) -> Result<RootName, WireError> {
    name("a root", text).map(RootName::new)
}

fn name<'a>(what: &'static str, text: &'a str) -> Result<&'a str, WireError> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(WireError::Name { what });
    }
    Ok(text)
}

fn digest_from(what: &'static str, bytes: &Bytes) -> Result<Digest, WireError> {
    Digest::from_slice(bytes).ok_or(WireError::Hash { what, bytes: bytes.len() })
}

fn bytes_of(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}

fn bounded(what: &'static str, found: u64, max: u64) -> Result<(), WireError> {
    if found > max { Err(WireError::TooMuch { what, found, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let rules = RootRules {
            exclude: vec!["*.back".to_owned()],
            per_node: vec!["x".to_owned()],
            protect: vec![],
            owner: Some("wso2carbon".to_owned()),
            group: None,
        };
        Header {
            generation: Generation {
                number: 7,
                parent: 6,
                digest: Digest::of(b"7"),
                epoch: 3,
                author: "gw1".to_owned(),
                created_unix_ms: -1,
            },
            base: 5,
            base_digest: Some(Digest::of(b"5")),
            changes: 2,
            content_bytes: 10,
            rules: Some(Rules {
                roots: vec![(RootName::new("a"), rules), (RootName::new("b"), RootRules::default())],
            }),
        }
    }

    #[test]
    fn a_header_survives_the_wire() {
        let from_nothing = Header { base: 0, base_digest: None, ..header() };
        let as_before = Header { rules: None, ..header() };
        for header in [header(), from_nothing, as_before] {
            assert_eq!(Header::try_from(proto::ParcelHeader::from(&header)).unwrap(), header);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        type Spoil = fn(&mut proto::ParcelHeader);
        let cases: &[(&str, Spoil)] = &[
            ("no generation", |h| h.generation = None),
            ("number 0", |h| h.generation.as_mut().unwrap().number = 0),
            ("parent", |h| h.generation.as_mut().unwrap().parent = 7),
            ("digest", |h| h.generation.as_mut().unwrap().digest = Bytes::from_static(b"x")),
            ("author", |h| h.generation.as_mut().unwrap().author.clear()),
            ("base in the future", |h| h.base = 7),
            ("base without digest", |h| h.base_digest = Bytes::new()),
            ("too many changes", |h| h.changes = u64::MAX),
            ("too much content", |h| h.content_bytes = u64::MAX),
            ("another body", |h| h.body = 2),
            ("rules twice", |h| h.rules_of_base = true),
            ("rules of nothing", |h| (h.base, h.rules_of_base, h.rules) = (0, true, vec![])),
            ("roots twice", |h| h.rules[1].root = "a".to_owned()),
            ("root without name", |h| h.rules[0].root.clear()),
            ("long patterns", |h| h.rules[0].exclude.push("x".repeat(PATTERN_BYTES_MAX))),
            ("owner", |h| h.rules[0].owner = "a\nb".to_owned()),
        ];
        for (name, spoil) in cases {
            let mut message = proto::ParcelHeader::from(&header());
            spoil(&mut message);
            assert!(Header::try_from(message).is_err(), "{name}");
        }
    }
}
