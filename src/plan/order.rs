//! The order in which the changes of one generation are made.
//!
//! One scan of the gateway may fall between any two changes, so what others refer to comes first and goes last:
//! folders, then files by the dependency order of the artifact kinds; an API's delete before any API's upsert, because
//! two APIs can't share a context; the other deletes in reverse; emptied folders deepest first.

use std::cmp::Ordering;

use crate::model::{ArtifactPath, Edit, Entry};

/// Folder names of artifact kinds, in dependency order.
const KINDS: [&[u8]; 13] = [
    b"imports",
    b"local-entries",
    b"endpoints",
    b"sequences",
    b"templates",
    b"message-stores",
    b"message-processors",
    b"priority-executors",
    b"event-sources",
    b"proxy-services",
    b"tasks",
    b"inbound-endpoints",
    API,
];
const API: &[u8] = b"api";

/// Folders around those of the artifact kinds that a gateway expects to find as well.
const AROUND: [&[u8]; 4] = [b"synapse-configs", b"default", b"executionplans", b"userstores"];

/// Whether the gateway expects this folder even when it is empty: it is never removed.
#[must_use]
pub fn standard_folder(path: &ArtifactPath) -> bool {
    KINDS.contains(&path.name()) || AROUND.contains(&path.name())
}

/// Sorts `edits` (each place once) into apply order: made one by one, no step meets a missing parent or, except for
/// excluded content, a folder that is not empty.
#[must_use]
pub fn order(mut edits: Vec<Edit>) -> Vec<Edit> {
    edits.sort_by(compare);
    edits
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Folders that come, also in the place of a file, or change their mode.
    MakeFolders,
    /// Files and links of all kinds but APIs.
    Upserts,
    /// API files that go.
    ApiDeletes,
    /// API files.
    ApiUpserts,
    /// All other files that go.
    Deletes,
    /// Folders that go.
    RemoveFolders,
    /// Files and links in the place of a folder: only now is it empty.
    InPlaceOfFolders,
}

fn phase(edit: &Edit) -> Phase {
    let was_folder = edit.old.as_ref().is_some_and(Entry::is_folder);
    let api = kind(&edit.place.path) == Kind::Api;
    match &edit.new {
        Some(Entry::Folder { .. }) => Phase::MakeFolders,
        Some(_) if was_folder => Phase::InPlaceOfFolders,
        Some(_) if api => Phase::ApiUpserts,
        Some(_) => Phase::Upserts,
        None if was_folder => Phase::RemoveFolders,
        None if api => Phase::ApiDeletes,
        None => Phase::Deletes,
    }
}

/// Where a file stands in the dependency order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// `registry.xml` and `task-manager.xml`.
    Ground,
    /// Below the folder with this index in [`KINDS`]; within it, the sequences `main` and `fault` come last.
    Known(usize, bool),
    /// Everything else, `synapse.xml` among it: may refer to any of the above.
    Other,
    /// Below `api`.
    Api,
}

fn kind(path: &ArtifactPath) -> Kind {
    let name = path.name();
    let mut folders = path.components().collect::<Vec<_>>();
    folders.pop();
    // The uppermost known name decides: what lies deeper is the user's own grouping.
    let known = folders.iter().find_map(|folder| KINDS.iter().position(|kind| kind == folder));
    match known {
        Some(index) if KINDS[index] == API => Kind::Api,
        Some(index) => {
            Kind::Known(index, KINDS[index] == b"sequences" && matches!(name, b"main.xml" | b"fault.xml"))
        }
        None if matches!(name, b"registry.xml" | b"task-manager.xml") => Kind::Ground,
        None => Kind::Other,
    }
}

fn compare(a: &Edit, b: &Edit) -> Ordering {
    let by_kind = |a: &Edit, b: &Edit| (kind(&a.place.path), &a.place).cmp(&(kind(&b.place.path), &b.place));
    phase(a).cmp(&phase(b)).then_with(|| match phase(a) {
        // A folder's path is a prefix of what it holds, so it sorts before it.
        Phase::MakeFolders => a.place.cmp(&b.place),
        Phase::RemoveFolders => b.place.cmp(&a.place),
        Phase::Deletes => by_kind(b, a),
        _ => by_kind(a, b),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{ContentHash, Forest, Manifest, Place, RootName};
    use proptest::prelude::*;

    fn place(path: &str) -> Place {
        Place { root: RootName::new("r"), path: ArtifactPath::new(path.as_bytes()).unwrap() }
    }

    fn file(content: u8) -> Entry {
        Entry::File { mode: 0o644, size: 1, hash: ContentHash::of(&[content]) }
    }

    const FOLDER: Entry = Entry::Folder { mode: 0o755 };

    /// `+p` comes, `~p` changes, `-p` goes; a trailing slash makes it a folder; `/>p` folder to file, `>/p` the reverse.
    fn edit(text: &str) -> Edit {
        let (old, new, path) = match text.as_bytes() {
            [b'/', b'>', ..] => (Some(FOLDER), Some(file(1)), &text[2..]),
            [b'>', b'/', ..] => (Some(file(0)), Some(FOLDER), &text[2..]),
            [sign, ..] => {
                let entry = |content| if text.ends_with('/') { FOLDER } else { file(content) };
                (
                    (*sign != b'+').then(|| entry(0)),
                    (*sign != b'-').then(|| entry(1)),
                    text[1..].trim_end_matches('/'),
                )
            }
            [] => unreachable!(),
        };
        Edit { place: place(path), old, new }
    }

    #[track_caller]
    fn check(expected: &[&str]) {
        let edits: Vec<Edit> = expected.iter().map(|text| edit(text)).collect();
        let mut shuffled = edits.clone();
        shuffled.sort_by_key(|edit| ContentHash::of(edit.place.path.as_bytes()));
        let ordered: Vec<String> = order(shuffled).iter().map(|edit| edit.place.to_string()).collect();
        let expected: Vec<String> = edits.iter().map(|edit| edit.place.to_string()).collect();
        assert_eq!(ordered, expected);
    }

    #[test]
    fn kinds_of_artifacts() {
        check(&[
            "+default/",
            "+default/api/",
            "+default/registry.xml",
            "+default/imports/{c}gmail.xml",
            "~default/local-entries/u.xml",
            "+default/endpoints/e.xml",
            "~default/sequences/z.xml",
            "~default/sequences/fault.xml",
            "~default/sequences/main.xml",
            "~default/templates/t.xml",
            "+default/message-stores/s.xml",
            "+default/message-processors/p.xml",
            "+default/proxy-services/p.xml",
            "~default/synapse.xml",
            "-default/api/old.xml",
            "+default/api/a.xml",
            "~default/api/b.xml",
            "-default/other.txt",
            "-default/proxy-services/old.xml",
            "-default/sequences/old.xml",
            "-default/endpoints/old2.xml",
            "-default/endpoints/old1.xml",
            "-default/zz/deep/",
            "-default/zz/",
        ]);
    }

    #[test]
    fn kinds_change() {
        check(&[">/a", "+a/b/", "+a/b/c.xml", "-f/x.xml", "-f/g/", "/>f"]);
    }

    #[test]
    fn tenants_and_groupings() {
        check(&["+1/synapse-configs/default/sequences/api/x.xml", "-1/synapse-configs/default/api/g/x.xml"]);
    }

    #[test]
    fn standard_folders() {
        for (path, standard) in [("default/api", true), ("default", true), ("default/api/mine", false)] {
            assert_eq!(standard_folder(&place(path).path), standard, "{path}");
        }
    }

    fn any_tree() -> impl Strategy<Value = Manifest> {
        let names = prop::sample::select(vec!["api", "endpoints", "b"]);
        let one = (prop::collection::vec(names, 1..4), 0u8..4);
        prop::collection::vec(one, 0..12).prop_map(|changes| {
            let mut manifest = Manifest::default();
            for (names, what) in changes {
                let path = place(&names.join("/")).path;
                let entry = if what == 0 { FOLDER } else { file(what) };
                // What makes no tree is left out.
                if let Ok(next) = manifest.with([(path, Some(entry))]) {
                    manifest = next;
                }
            }
            manifest
        })
    }

    proptest! {
        /// Carried out one by one on a plain map, every step is possible when its turn comes, and the end is the target.
        #[test]
        fn every_step_is_possible(old in any_tree(), new in any_tree()) {
            let forest = |manifest| Forest { roots: BTreeMap::from([(RootName::new("r"), manifest)]) };
            let mut map: BTreeMap<ArtifactPath, Entry> = old.iter().map(|(path, entry)| (path, entry.clone())).collect();
            for edit in order(forest(old).edits(&forest(new.clone()))) {
                let path = &edit.place.path;
                prop_assert_eq!(map.get(path), edit.old.as_ref());
                if edit.new.as_ref().is_none_or(|new| !new.is_folder()) {
                    prop_assert!(!map.keys().any(|other| other.is_below(path)), "{path} is not empty");
                }
                match edit.new {
                    None => { map.remove(path); }
                    Some(entry) => {
                        prop_assert!(path.parent().is_none_or(|parent| map.get(&parent) == Some(&FOLDER)), "{path} has no parent");
                        map.insert(path.clone(), entry);
                    }
                }
            }
            let target: BTreeMap<ArtifactPath, Entry> = new.iter().map(|(path, entry)| (path, entry.clone())).collect();
            prop_assert_eq!(map, target);
        }
    }
}
