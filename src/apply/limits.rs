//! What a hand-over must not carry: the guards of a publish, which it would go around. Pure.
//!
//! Both sides ask: the former manager offers none of it, so that it comes back from the head at once, and the new one
//! takes none of it, whatever it is offered. What is held and deletes beyond a budget are each side's own.

use std::collections::{BTreeMap, BTreeSet};

use crate::apply::offer::CONTENT_BYTES_MAX;
use crate::model::{Edit, Entry, Forest, Manifest, Place, RootName, Rules};
use crate::plan::Matcher;
use crate::wire::check_link;

/// The limits that follow from the head and one folder.
pub(super) struct Limits<'a> {
    matchers: BTreeMap<&'a RootName, Matcher>,
    bare: BTreeSet<&'a RootName>,
}

impl<'a> Limits<'a> {
    /// As of the head with its `rules`, for a folder that holds `there`.
    pub(super) fn new(rules: &'a Rules, head: &'a Forest, there: &Forest) -> Self {
        let matchers = rules
            .roots
            .iter()
            // A root whose rules can't be used carries nothing.
            .filter_map(|(root, rules)| Some((root, Matcher::new(rules).ok()?)))
            .collect();
        Self { matchers, bare: emptied(head, there) }
    }

    /// Whether `place` may come to hold `new` by a hand-over, where `old` is in the head.
    pub(super) fn carry(&self, place: &Place, old: Option<&Entry>, new: Option<&Entry>) -> bool {
        let Some(matcher) = self.matchers.get(&place.root) else { return false };
        let is_folder = new.or(old).is_some_and(Entry::is_folder);
        if self.bare.contains(&place.root) || matcher.excluded(&place.path, is_folder) {
            return false;
        }
        match new {
            None => is_folder || !matcher.protected(&place.path),
            Some(Entry::File { size, .. }) => *size <= CONTENT_BYTES_MAX,
            Some(Entry::Link { target }) => check_link(&place.path, target).is_ok(),
            Some(Entry::Folder { .. }) => true,
        }
    }
}

/// The roots that hold no artifact any more although the head has some there: never published as that.
pub(super) fn emptied<'a>(head: &'a Forest, there: &Forest) -> BTreeSet<&'a RootName> {
    let is_emptied = |(root, head): &(&RootName, &Manifest)| {
        !head.is_bare() && there.roots.get(*root).is_some_and(Manifest::is_bare)
    };
    head.roots.iter().filter(is_emptied).map(|(root, _)| root).collect()
}

/// How many artifacts these edits delete.
pub(super) fn deletes<'a>(edits: impl Iterator<Item = &'a Edit>) -> u64 {
    edits.filter(|edit| edit.new.is_none() && edit.old.as_ref().is_some_and(|old| !old.is_folder())).count()
        as u64
}
