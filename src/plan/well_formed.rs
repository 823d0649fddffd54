//! Whether an XML file is one that any parser reads: a half-written or broken one leaves an artifact undeployed.
//!
//! Judges well-formedness only, namespaces included; what an artifact says is the gateway's business. Document types
//! and entities of one's own are not read: a file that has them is not found well-formed. Bounded in size, nodes and
//! declarations, so that no file costs more than tens of megabytes or a fraction of a second; the parser does not
//! recurse. Of encodings but UTF-8 and UTF-16 the markup is looked at, and letters are taken as they are.

use std::borrow::Cow;

use roxmltree::{Document, Error, ParsingOptions};

/// Larger files are not looked into. The largest artifacts of real gateways are some hundred kilobytes.
pub const XML_BYTES_MAX: u64 = 16 << 20;
/// Elements, texts and comments of one file.
const NODES_MAX: u32 = 400_000;
/// Equals signs within one tag, which is more than its attributes: they are compared pairwise.
const ATTRIBUTES_MAX: usize = 4_000;
/// Declarations of namespaces in one file: an element may see all of them.
const NAMESPACES_MAX: usize = 4_000;

/// Why a file is not found well-formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Malformed {
    /// The line, counted from 1: where it was noticed.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

impl Malformed {
    /// For a file above [`XML_BYTES_MAX`].
    #[must_use]
    pub fn too_large() -> Self {
        beyond(1, &format!("it is larger than {} MiB", XML_BYTES_MAX >> 20))
    }
}

/// Looks at the bytes of one file.
///
/// # Errors
/// [`Malformed`] when they are no well-formed XML, or more of it than is looked at.
pub fn well_formed(bytes: &[u8]) -> Result<(), Malformed> {
    if bytes.len() as u64 > XML_BYTES_MAX {
        return Err(Malformed::too_large());
    }
    let text = decode(bytes)?;
    check_bounds(text.as_bytes())?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES_MAX, ..ParsingOptions::default() };
    match Document::parse_with_options(&text, options) {
        Ok(_) => Ok(()),
        Err(error) => Err(of_parser(&error, &text)),
    }
}

fn of_parser(error: &Error, text: &str) -> Malformed {
    let last = || text.trim_end().lines().count().max(1);
    match error {
        Error::DtdDetected => beyond(line_of(text.as_bytes(), b"<!DOCTYPE"), "it has a document type"),
        Error::NodesLimitReached => beyond(1, &format!("it has more than {NODES_MAX} parts")),
        Error::NoRootNode if text.trim().is_empty() => {
            Malformed { line: 1, reason: "it is empty".to_owned() }
        }
        Error::NoRootNode | Error::UnclosedRootNode | Error::UnexpectedEndOfStream => {
            Malformed { line: last(), reason: format!("{error}: the file may be cut off") }
        }
        // The parser's own position stands at the end of its sentence, or in it.
        error => {
            let (at, text) = (error.pos(), error.to_string());
            let reason = text.replace(&format!(" at {at}"), "");
            Malformed { line: usize::try_from(at.row).unwrap_or(1), reason }
        }
    }
}

fn beyond(line: usize, what: &str) -> Malformed {
    Malformed { line, reason: format!("{what}, which is not looked into") }
}

/// The line on which `what` begins.
fn line_of(bytes: &[u8], what: &[u8]) -> usize {
    let at = bytes.windows(what.len()).position(|window| window == what).unwrap_or(0);
    1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count()
}

/// What the parser can't be told: both would make it slow, not wrong.
fn check_bounds(bytes: &[u8]) -> Result<(), Malformed> {
    let (mut line, mut signs, mut namespaces) = (1, 0, 0);
    // A raw < can't stand in a value, a raw > can.
    let (mut in_tag, mut quote) = (false, None);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' => line += 1,
            b'<' => {
                in_tag = !matches!(bytes.get(at + 1), Some(b'!' | b'?'));
                (signs, quote) = (0, None);
            }
            b'"' | b'\'' if in_tag && quote.is_none() => quote = Some(*byte),
            _ if quote == Some(*byte) => quote = None,
            _ if !in_tag || quote.is_some() => continue,
            b'>' => in_tag = false,
            b'=' => signs += 1,
            b'x' if bytes[at..].starts_with(b"xmlns") => namespaces += 1,
            _ => continue,
        }
        if signs > ATTRIBUTES_MAX {
            return Err(beyond(line, "it has a tag with thousands of attributes"));
        }
        if namespaces > NAMESPACES_MAX {
            return Err(beyond(line, "it declares thousands of namespaces"));
        }
    }
    Ok(())
}

/// The text, as far as the markup is concerned.
fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, Malformed> {
    let wide = |from: fn([u8; 2]) -> u16| {
        let units = bytes[2..].chunks_exact(2).map(move |pair| from([pair[0], pair[1]]));
        let text: String =
            char::decode_utf16(units).map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        Ok(Cow::Owned(text))
    };
    match bytes {
        [0xFE, 0xFF, ..] => return wide(u16::from_be_bytes),
        [0xFF, 0xFE, ..] => return wide(u16::from_le_bytes),
        _ => {}
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Cow::Borrowed(text)),
        // The parser has no use for what letters there are: any letter in their place will do.
        Err(_) if declares_another(bytes) => Ok(Cow::Owned(
            bytes.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { 'ÿ' }).collect(),
        )),
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            Err(Malformed {
                line,
                reason: "bytes that are no UTF-8, and no other encoding is declared".to_owned(),
            })
        }
    }
}

/// Whether the declaration names an encoding that is not UTF-8.
fn declares_another(bytes: &[u8]) -> bool {
    let Some(rest) = bytes.strip_prefix(b"<?xml") else { return false };
    let head = String::from_utf8_lossy(&rest[..rest.len().min(200)]).to_lowercase();
    let Some(declaration) = head.split("?>").next().and_then(|head| head.split("encoding").nth(1)) else {
        return false;
    };
    let name = declaration.trim_start_matches([' ', '=', '\t', '\r', '\n', '"', '\'']);
    !name.starts_with("utf-8") && !name.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn good(bytes: impl AsRef<[u8]>) {
        assert_eq!(well_formed(bytes.as_ref()), Ok(()));
    }

    #[track_caller]
    fn bad(bytes: impl AsRef<[u8]>, line: usize, reason: &str) {
        let found = well_formed(bytes.as_ref()).unwrap_err();
        assert_eq!(found.line, line, "{found}");
        assert!(found.reason.contains(reason), "{found}");
    }

    const API: &str = "<api xmlns=\"http://ws.apache.org/ns/synapse\" name=\"a\" context=\"/a\">\n  <resource methods=\"GET\">\n    <inSequence/>\n  </resource>\n</api>";

    #[test]
    fn what_gateways_write_passes() {
        good(API);
        good(format!("\u{feff}<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{API}\n"));
        good(API.replace('\n', "\r\n"));
        good(format!("<!-- licence -->\n{API}\n<!-- end -->\n\n"));
        good(
            "<localEntry key=\"u\">{&quot;paths&quot;:{&quot;/a&quot;:{&quot;x&quot;:&quot;a &lt; b &amp;&amp; c&quot;}}}</localEntry>",
        );
        good("<localEntry key=\"u\"><![CDATA[{\"a\": \"<b> = & \"}]]></localEntry>");
        good("<?xml version=\"1.1\"?><a xml:lang=\"de\">\u{e9}&#233;</a>");
        good("<?xml-stylesheet href=\"x\"?><a xmlns:p=\"u\"><p:b p:c='1'/></a>");
        good(b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a>\xe9</a>".as_slice());
        good(b"<?xml version='1.0' encoding='windows-1252'?><a b=\"\x80\"/>".as_slice());
        let text = "<?xml version=\"1.0\" encoding=\"UTF-16\"?>\n<a>\u{e9}</a>";
        let wide = |bytes: fn(u16) -> [u8; 2]| {
            [0xFEFF].into_iter().chain(text.encode_utf16()).flat_map(bytes).collect::<Vec<u8>>()
        };
        good(wide(u16::to_be_bytes));
        good(wide(u16::to_le_bytes));
        let large = format!("<localEntry key=\"u\">{}</localEntry>", "{&quot;a&quot;: 1},\n".repeat(60_000));
        good(large);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        bad("", 1, "it is empty");
        bad("\n\n", 1, "it is empty");
        bad("no markup", 1, "");
        bad("<api>\n <resource>\n</api>", 3, "expected 'resource' tag, not 'api'");
        bad("<api>\n  <a b=c/>\n</api>", 2, "");
        bad("<api>\n  <a b='1' b='2'/></api>", 2, "'b' is already defined");
        bad("<api/>\n<api/>", 2, "");
        bad("<api/>\ntrailing", 2, "");
        bad("<api>\n\n&nbsp;</api>", 3, "nbsp");
        bad("<api>a && b</api>", 1, "entity");
        bad("<api><p:a/></api>", 1, "prefix 'p'");
        bad("<api>\u{1}</api>", 1, "non-XML");
        bad("<api>]]></api>", 1, "]]>");
        bad(b"<api>\n\xe9</api>".as_slice(), 2, "no UTF-8");
        bad(b"<?xml version=\"1.0\" encoding=\"UTF-8\"?><api>\xe9</api>".as_slice(), 1, "no UTF-8");
        bad("<?xml version=\"1.0\"?>\n<!DOCTYPE a [<!ENTITY e \"x\">]>\n<a>&e;</a>", 2, "document type");
        bad(vec![b' '; XML_BYTES_MAX as usize + 1], 1, "larger than 16 MiB");
        let cut = &API[..API.len() - 30];
        bad(cut, 3, "cut off");
    }

    #[test]
    fn every_part_of_a_file_is_found_out() {
        for end in 0..API.len() {
            assert!(well_formed(&API.as_bytes()[..end]).is_err(), "the first {end} bytes");
        }
    }

    #[test]
    fn nothing_costs_much() {
        let depth = 200_000;
        let deep = |pair: (&str, &str)| pair.0.repeat(depth) + &pair.1.repeat(depth);
        good(deep(("<a>", "</a>")));
        bad("<a>".to_owned() + &"<b/>".repeat(500_000) + "</a>", 1, "more than 400000 parts");
        let attributes: String = (0..100_000).map(|n| format!(" a{n}=''")).collect();
        bad(format!("<a{attributes}/>"), 1, "thousands of attributes");
        // A raw > ends no tag while it stands in a value; signs in a text are no attributes.
        let attributes: String = (0..100_000).map(|n| format!(" a{n}='>'")).collect();
        bad(format!("<a{attributes}/>"), 1, "thousands of attributes");
        good(format!("<a>{}</a>", "= xmlns = ".repeat(50_000)));
        good(format!("<a b='{0}'><!-- \" {0} --><![CDATA[{0}]]></a>", "=".repeat(50_000)));
        let nested: String = (0..50_000).map(|n| format!("<a xmlns:p{n}='u{n}'>")).collect();
        bad(nested, 1, "thousands of namespaces");
        // What stays below the bounds takes the longest: pairs of attributes, and declarations seen by each element.
        let attributes: String = (0..3_900).map(|n| format!(" a{n}=''")).collect();
        good(format!("<a{attributes}/>"));
        let nested: String = (0..3_900).map(|n| format!("<a xmlns:p{n}='u{n}'>")).collect();
        good(nested + &"</a>".repeat(3_900));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = well_formed(&bytes);
        }

        #[test]
        fn no_markup_makes_it_panic(parts in prop::collection::vec(prop::sample::select(vec![
            "<", ">", "</", "/>", "a", " b=", "\"", "'", "&", ";", "<!--", "-->", "<![CDATA[", "]]>", "<?xml ", "?>", "<!DOCTYPE", "xmlns:", "\u{feff}", "é", "\n",
        ]), 0..40)) {
            let _ = well_formed(parts.concat().as_bytes());
        }
    }
}
