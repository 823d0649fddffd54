//! Whether the rules of this node's own file, where they differ from the head's, would touch any path.
//!
//! Those that touch none go out by themselves. Any other would take paths in or release some: that is held, so that a
//! change of rules never becomes a delete. Held too is what might take in files that only other nodes have.

use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{ArtifactPath, Edit, Entry, Forest, Place, RootName, Rules};
use crate::plan::{Matcher, PatternError};
use crate::tree::{Kind, Observation, Root, TreeError, observe};
use crate::wire::check_link;

/// What is covered by the rules of one side; a root that they do not name is covered nowhere.
struct Cover(Option<Matcher>);

impl Cover {
    fn new(rules: &Rules, root: &RootName) -> Result<Self, PatternError> {
        Ok(Self(rules.of(root).map(Matcher::new).transpose()?))
    }

    fn has(&self, path: &ArtifactPath, is_folder: bool) -> bool {
        self.0.as_ref().is_some_and(|matcher| !matcher.excluded(path, is_folder))
    }
}

/// Whether `own` may follow `head` as far as other nodes are concerned, whose folders can't be looked at from here: what
/// is named anew, or excluded no more, might be on them although it is not here, and would be theirs to remove.
pub(super) fn takes_nothing_in(head: &Rules, own: &Rules) -> bool {
    own.roots.iter().all(|(root, own)| {
        head.of(root).is_some_and(|head| {
            only_excludes(&head.exclude, &own.exclude) && only_excludes(&head.per_node, &own.per_node)
        })
    })
}

/// Whether `own` is `head` with more patterns, none of which takes anything back.
fn only_excludes(head: &[String], own: &[String]) -> bool {
    let mut head = head.iter().peekable();
    let mut added = own.iter().filter(|pattern| head.next_if_eq(pattern).is_none());
    let none_takes_back = added.all(|pattern| !pattern.starts_with('!'));
    none_takes_back && head.next().is_none()
}

/// The places that would enter or leave the manifest if `own` were in force instead of `head`: those of the head, and
/// those in `roots`. Reads folders; a folder that can't be read counts as touched.
pub(super) fn touched(
    head: &Rules,
    own: &Rules,
    forest: &Forest,
    roots: &BTreeMap<RootName, Arc<Root>>,
) -> Result<BTreeSet<Place>, PatternError> {
    let names: BTreeSet<&RootName> = head.roots.iter().chain(&own.roots).map(|(name, _)| name).collect();
    let mut touched = BTreeSet::new();
    for name in names {
        let (before, after) = (Cover::new(head, name)?, Cover::new(own, name)?);
        let differs =
            |path: &ArtifactPath, is_folder| before.has(path, is_folder) != after.has(path, is_folder);
        let place = |path: ArtifactPath| Place { root: name.clone(), path };
        let known = forest.roots.get(name).into_iter().flat_map(|manifest| manifest.iter());
        touched.extend(
            known.filter(|(path, entry)| differs(path, entry.is_folder())).map(|(path, _)| place(path)),
        );
        let Some(root) = roots.get(name) else { continue };
        let mut folders: Vec<Option<ArtifactPath>> = vec![None];
        while let Some(folder) = folders.pop() {
            let names = match root.list(folder.as_ref()) {
                Ok(names) => names,
                Err(error) => {
                    touched.extend(unreadable(&error, folder).map(place));
                    continue;
                }
            };
            for path in names.iter().filter_map(|name| ArtifactPath::child(folder.as_ref(), name).ok()) {
                let kind = match root.stat(&path) {
                    Ok(Some(stat)) => stat.kind,
                    Ok(None) => continue,
                    Err(error) => {
                        touched.extend(unreadable(&error, Some(path)).map(place));
                        continue;
                    }
                };
                let is_folder = kind == Kind::Folder;
                if !matches!(kind, Kind::Other | Kind::Mount) && differs(&path, is_folder) {
                    touched.insert(place(path.clone()));
                }
                if is_folder && (before.has(&path, true) || after.has(&path, true)) {
                    folders.push(Some(path));
                }
            }
        }
    }
    Ok(touched)
}

/// What `own` would change at the places that it touches: what the manifest has there leaves it, the files stay; what
/// lies there comes into it. Reads files.
pub(super) fn changes(
    own: &Rules,
    touched: &BTreeSet<Place>,
    forest: &Forest,
    roots: &BTreeMap<RootName, Arc<Root>>,
) -> Result<Vec<Edit>, PatternError> {
    let mut covers: BTreeMap<&RootName, Cover> = BTreeMap::new();
    let mut edits = Vec::new();
    for place in touched {
        let cover = match covers.entry(&place.root) {
            Occupied(known) => known.into_mut(),
            Vacant(new) => new.insert(Cover::new(own, &place.root)?),
        };
        let old = forest.get(place).cloned();
        let there = roots.get(&place.root).map(|root| observe(root, &place.path, None));
        let new = match there {
            Some(Observation::There(seen)) if cover.has(&place.path, seen.entry.is_folder()) => {
                Some(seen.entry)
            }
            _ => None,
        };
        let leads_out =
            matches!(&new, Some(Entry::Link { target }) if check_link(&place.path, target).is_err());
        if old != new && !leads_out {
            edits.push(Edit { place: place.clone(), old, new });
        }
    }
    Ok(edits)
}

fn unreadable(error: &TreeError, path: Option<ArtifactPath>) -> Option<ArtifactPath> {
    path.filter(|_| !error.is_absent())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Manifest, RootRules};

    fn rules(exclude: &[&str]) -> RootRules {
        RootRules { exclude: exclude.iter().map(|text| (*text).to_owned()).collect(), ..RootRules::default() }
    }

    #[test]
    fn what_might_take_in_files_of_other_nodes_is_told() {
        let named = |rules: RootRules| (RootName::new("r"), rules);
        let of = |exclude: &[&str]| Rules { roots: vec![named(rules(exclude))] };
        let head = of(&["a", "b"]);
        for own in [&["a", "b"][..], &["a", "b", "c"], &["c", "a", "d", "b"]] {
            assert!(takes_nothing_in(&head, &of(own)), "{own:?}");
        }
        for own in [&["a"][..], &["b", "a"], &["a", "b", "!c"], &["c"], &[]] {
            assert!(!takes_nothing_in(&head, &of(own)), "{own:?}");
        }
        let with = |change: fn(&mut RootRules)| {
            let mut rules = rules(&["a", "b"]);
            change(&mut rules);
            Rules { roots: vec![named(rules)] }
        };
        assert!(takes_nothing_in(&head, &with(|rules| rules.owner = Some("x".to_owned()))));
        assert!(takes_nothing_in(&head, &with(|rules| rules.per_node = vec!["x".to_owned()])));
        assert!(!takes_nothing_in(&with(|rules| rules.per_node = vec!["x".to_owned()]), &head));
        assert!(takes_nothing_in(&head, &Rules::default()));
        assert!(!takes_nothing_in(&Rules::default(), &head), "a new root");
    }

    #[test]
    fn rules_that_take_in_or_release_a_path_touch_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("d/.svn")).unwrap();
        for path in ["a.xml", "a.back", "d/b.xml", "d/.svn/c"] {
            std::fs::write(dir.path().join(path), "x").unwrap();
        }
        let name = RootName::new("r");
        let root = Arc::new(Root::open(name.clone(), dir.path()).unwrap());
        let roots: BTreeMap<_, _> = [(name.clone(), root)].into();
        let gone = ArtifactPath::new(b"gone.xml").unwrap();
        let link = Entry::Link { target: b"x"[..].into() };
        let forest = Forest {
            roots: [(name.clone(), Manifest::default().with([(gone, Some(link))]).unwrap())].into(),
        };
        let of = |rules: RootRules| Rules { roots: vec![(name.clone(), rules)] };
        let check = |head: &Rules, own: &Rules, expected: &str| {
            let found = touched(head, own, &forest, &roots).unwrap();
            let found: Vec<String> = found.iter().map(|place| place.path.to_string()).collect();
            assert_eq!(found.join(" "), expected);
        };
        let base = of(rules(&["*.back", ".svn"]));
        check(&base, &base, "");
        check(&base, &of(rules(&["*.back", ".svn", "*.none"])), "");
        check(&base, &of(RootRules { owner: Some("x".to_owned()), ..rules(&["*.back", ".svn"]) }), "");
        check(&base, &of(rules(&[".svn"])), "a.back");
        check(&base, &of(rules(&["*.back"])), "d/.svn d/.svn/c");
        check(&base, &of(rules(&["*.back", ".svn", "b.xml"])), "d/b.xml");
        check(&base, &of(rules(&["*.back", ".svn", "gone*"])), "gone.xml");
        check(&base, &Rules::default(), "a.xml d d/b.xml gone.xml");
        check(&Rules::default(), &base, "a.xml d d/b.xml gone.xml");
        let other = Rules { roots: vec![base.roots[0].clone(), (RootName::new("s"), RootRules::default())] };
        check(&base, &other, "");
    }
}
