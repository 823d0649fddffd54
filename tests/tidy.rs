//! What holds for the source as a whole: the floors, a head in every file, files that one can hold in one's head.

#![allow(clippy::unwrap_used, reason = "helpers of a test end it as the test itself would")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Beyond this a file holds more than one thing.
const LINES_MAX: usize = 700;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file, by its path below `src`.
fn files() -> BTreeMap<PathBuf, String> {
    fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.insert(path.strip_prefix(source()).unwrap().to_owned(), text);
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(&source(), &mut found);
    assert!(found.len() > 20, "only {} files below {}", found.len(), source().display());
    found
}

/// The floor of each room, as the table in the head of `lib.rs` says.
fn floors(lib: &str) -> BTreeMap<String, u32> {
    let mut floors = BTreeMap::new();
    for line in lib.lines().filter_map(|line| line.strip_prefix("//! ")) {
        let Some((floor, rooms)) = line.split_once("  ") else { continue };
        let Ok(floor) = floor.parse() else { continue };
        for word in rooms.split_whitespace() {
            let Some(room) = word.strip_suffix('/').or_else(|| word.strip_suffix(".rs")) else { break };
            floors.insert(room.to_owned(), floor);
        }
    }
    floors
}

/// The rooms that code names by `crate::`; comments name what they like.
fn named(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let mut rooms = BTreeSet::new();
    for (at, word) in code.match_indices("crate::") {
        let whole_word = !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let rest = &code[at + word.len()..];
        // Imports of several rooms at once would hide from this reading.
        assert!(!rest.starts_with('{') && !rest.starts_with('*'), "one `use crate::room::..` each");
        let end = rest.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(rest.len());
        if whole_word {
            rooms.insert(rest[..end].to_owned());
        }
    }
    rooms
}

/// Names of a room that is not strictly below the one that names it.
fn breaks(floors: &BTreeMap<String, u32>, room: &str, text: &str) -> Vec<String> {
    let own = floors.get(room).unwrap_or_else(|| panic!("the head of lib.rs has no floor for `{room}`"));
    let below = |other: &String| floors.get(other).is_some_and(|floor| floor < own);
    named(text).into_iter().filter(|other| other != room && !below(other)).collect()
}

#[test]
fn imports_run_down_the_floors_only() {
    let files = files();
    let floors = floors(&files[Path::new("lib.rs")]);
    for room in ["main", "cli", "daemon", "inventory", "tree", "crash", "model"] {
        assert!(floors.contains_key(room), "the head of lib.rs has no floor for `{room}`: {floors:?}");
    }
    let mut bad = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| *path != Path::new("lib.rs")) {
        let room = path.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        bad.extend(
            breaks(&floors, &room, text).iter().map(|other| format!("{} names {other}", path.display())),
        );
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn a_break_of_the_floors_is_found() {
    let floors = floors("//! 2  upper/  beside.rs     words\n//! 1  lower/   words/here\n");
    assert_eq!(floors, BTreeMap::from([("upper".into(), 2), ("beside".into(), 2), ("lower".into(), 1)]));
    let check = |room: &str, text: &str, bad: &[&str]| assert_eq!(breaks(&floors, room, text), bad, "{text}");
    check("upper", "use crate::lower::X;\nuse crate::upper::Y; // crate::beside", &[]);
    check("upper", "fn f() { crate::beside::g() }", &["beside"]);
    check("lower", "use crate::upper::X;\nuse crate::unknown;", &["unknown", "upper"]);
}

#[test]
fn every_file_says_what_it_is_and_can_be_held_in_ones_head() {
    let mut bad = Vec::new();
    for (path, text) in files() {
        let path = path.display();
        if !text.starts_with("//! ") {
            bad.push(format!("{path} does not begin with `//! ` and what it owns"));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            bad.push(format!("{path} has {lines} lines, more than {LINES_MAX}"));
        }
        for leftover in [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!(")] {
            if text.contains(leftover) {
                bad.push(format!("{path} has a {leftover}..)"));
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn unsafe_code_is_in_one_module() {
    let allowing: Vec<PathBuf> = files()
        .into_iter()
        .filter(|(_, text)| text.contains("allow(unsafe_code") || text.contains("expect(unsafe_code"))
        .map(|(path, _)| path)
        .collect();
    assert!(allowing.iter().all(|path| path == Path::new("tree/lease.rs")), "{allowing:?}");
}

/// The words in `text` that are names of this program's metrics.
fn metric_names(text: &str) -> BTreeSet<String> {
    let is_part = |char: char| char.is_ascii_lowercase() || char == '_';
    let words = text.split(|char| !is_part(char)).filter(|word| word.starts_with("syncd_"));
    words.map(str::to_owned).collect()
}

/// The README's table of metrics and the registry name the same ones.
#[test]
fn the_metrics_table_is_the_registry() {
    let readme = std::fs::read_to_string(source().join("../README.md")).unwrap();
    let table = readme.split("## Metrics").nth(1).unwrap().split("\n## ").next().unwrap();
    let registry = &files()[Path::new("daemon/metrics.rs")];
    assert_eq!(metric_names(table), metric_names(registry));
}
