//! Malformed XML among what would go out: found when it is read, then held or named until its content is another.
//!
//! Remembered by content, so that a held file is read once. Lost with the process or the office, which costs reading it
//! again.

use std::collections::BTreeMap;

use crate::model::{Edit, Entry, Forest, Place, Problem, Severity};
use crate::plan::Malformed;

/// How many files are named one by one.
const NAMED_MAX: usize = 10;

/// What is done about malformed XML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validate {
    /// That file is not published until it is mended.
    Hold,
    /// It is published, and named.
    Warn,
    /// It is not looked at.
    Off,
}

/// The malformed files of the manager's folder, as far as they were read.
#[derive(Debug, Default)]
pub(super) struct Malformations(BTreeMap<Place, (Entry, Malformed)>);

/// Whether content at `place` is meant to be XML: what the gateway loads has this extension.
pub(super) fn is_xml(place: &Place) -> bool {
    let name = place.path.name();
    name.len() > 4 && name[name.len() - 4..].eq_ignore_ascii_case(b".xml")
}

impl Malformations {
    /// Remembers what was read.
    pub(super) fn note(&mut self, found: Vec<(Place, Entry, Malformed)>) {
        for (place, entry, why) in found {
            tracing::warn!(%place, %why, "malformed XML");
            self.0.insert(place, (entry, why));
        }
    }

    /// Whether the edit brings content that was found to be malformed.
    pub(super) fn brings(&self, edit: &Edit) -> bool {
        let Some((entry, _)) = self.0.get(&edit.place) else { return false };
        edit.new.as_ref().is_some_and(|new| new.same_content(entry))
    }

    /// Forgets files that have another content now.
    pub(super) fn forget(&mut self, observed: &Forest) {
        self.0.retain(|place, (entry, _)| observed.get(place).is_some_and(|now| now.same_content(entry)));
    }

    /// Names them.
    pub(super) fn name(&self, policy: Validate, problems: &mut Vec<Problem>) {
        let (so, remedy) = match policy {
            Validate::Hold => (
                "it is not published, and the other nodes keep the last good version",
                "mend the file and it goes out by itself; sync.validate = \"warn\" publishes such files",
            ),
            Validate::Warn | Validate::Off => {
                ("it is published all the same, as sync.validate says", "mend the file")
            }
        };
        let named = self.0.iter().take(NAMED_MAX).map(|(place, (_, why))| {
            let message = format!("{place} is no well-formed XML: {why}; {so}");
            let found = Problem::new(Severity::Warning, "malformed-xml", message, remedy);
            Problem { root: Some(place.root.to_string()), path: Some(place.path.to_string()), ..found }
        });
        problems.extend(named);
        if let Some(more @ 1..) = self.0.len().checked_sub(NAMED_MAX) {
            let message = format!("{more} more files are no well-formed XML; {so}");
            problems.push(Problem::new(Severity::Warning, "malformed-xml", message, remedy));
        }
    }
}
