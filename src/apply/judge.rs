//! What is done about each place where the folders differ from the head: pure, so that a table can test it.
//!
//! A place that the head changed is brought to it at once. Anything else that differs was changed by somebody on this
//! node: drift, and judged only when it is as quiet as a publish would need. A change shortly after this node wrote a
//! place is the gateway's answer: it rejected the artifact and wrote the old one back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::apply::own_writes::{Answer, OwnWrites};
use crate::inventory::Touched;
use crate::model::{Edit, Entry, Forest, Place};
use crate::plan::standard_folder;

/// What is done about drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriftPolicy {
    /// The local content goes to quarantine, the head's comes back.
    Revert,
    /// It is named and left.
    Report,
}

/// How long a place must be quiet before it is judged: the same times as for a publish.
#[derive(Clone, Copy, Debug)]
pub struct Quiet {
    /// After a change of an existing path.
    pub settle: Duration,
    /// After a path came or went.
    pub gather: Duration,
    /// After a path went, because many writers delete before they write.
    pub delete_grace: Duration,
}

/// How a place drifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drift {
    /// Still changing: not judged yet.
    Settling,
    /// Reverted in this round.
    Reverted,
    /// Only named, as the policy says.
    Reported,
    /// Only named: there is no room to keep what is there.
    NoRoom,
    /// The gateway's answer to what was written here.
    Rejected(Answer),
    /// This node was manager until a moment ago, and the new one may still take it.
    Offered,
}

/// Places that could not be read when the head changed them, with what this node had been brought to there.
pub(super) type Unread = BTreeMap<Place, Option<Entry>>;

/// What is looked at.
pub(super) struct Sight<'a> {
    /// Observed to head.
    pub edits: &'a [Edit],
    pub observed: &'a Forest,
    /// The generation that this node's record names; none before the first contact, and when everything is to be
    /// brought to the head whoever changed it.
    pub applied: Option<&'a Forest>,
    pub touched: &'a Touched,
    pub busy: &'a BTreeMap<Place, Instant>,
    /// Whether nothing is known of a place, because it can't be read.
    pub unreadable: &'a (dyn Fn(&Place) -> bool + Sync),
    /// What this node had at places that could not be read when the head changed them.
    pub unread: &'a Unread,
    pub policy: DriftPolicy,
    /// Whether it is handed over to the new manager.
    pub offered: &'a (dyn Fn(&Edit) -> bool + Sync),
    pub quiet: Quiet,
    /// One scan of the gateway, with room.
    pub scan: Duration,
    pub now: Instant,
}

/// What is done.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// To be made now; not in apply order.
    pub edits: Vec<Edit>,
    /// What somebody else changed here.
    pub drifted: BTreeMap<Place, Drift>,
    /// The places that are behind the head because they can't be read, or could not be.
    pub unread: Unread,
    /// When something that waits is due.
    pub look_again: Option<Instant>,
    /// Whether the folders hold the head: nothing differs but folders that are to go, or stay because they must.
    pub matches: bool,
}

/// What is remembered between rounds. Lost with the process, which costs at most a delay.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    pub(super) own: OwnWrites,
    /// Since when a folder that is to go holds no artifact.
    bare: BTreeMap<Place, Instant>,
}

impl Memory {
    fn forget(&mut self, edits: &[Edit], now: Instant) {
        let differing: BTreeSet<&Place> = edits.iter().map(|edit| &edit.place).collect();
        self.bare.retain(|place, _| differing.contains(place));
        self.own.forget(&differing, now);
    }

    /// When the folder at `place`, which is to go, may go, one scan after its last artifact; none while something else is
    /// in it.
    pub(super) fn folder_due(
        &mut self,
        place: &Place,
        observed: &Forest,
        now: Instant,
        scan: Duration,
    ) -> Option<Instant> {
        let manifest = observed.roots.get(&place.root)?;
        if manifest.below(&place.path).any(|(_, entry)| !entry.is_folder()) {
            self.bare.remove(place);
            return None;
        }
        Some(*self.bare.entry(place.clone()).or_insert(now) + scan)
    }

    /// Begins the wait for a folder again that could not be removed.
    pub(super) fn kept(&mut self, place: &Place) {
        self.bare.remove(place);
    }
}

/// Judges every difference.
pub(super) fn judge(sight: &Sight<'_>, memory: &mut Memory) -> Verdict {
    memory.forget(sight.edits, sight.now);
    let mut verdict = Verdict { matches: true, ..Verdict::default() };
    let mut chosen = BTreeSet::new();
    for edit in sight.edits {
        let place = &edit.place;
        if (sight.unreadable)(place) {
            // It may be there, and be what it should be.
            verdict.matches = false;
            let known = sight.unread.get(place).cloned();
            let before = sight.applied.filter(|applied| applied.get(place) != edit.new.as_ref());
            let own = known.or_else(|| before.map(|applied| applied.get(place).cloned()));
            verdict.unread.extend(own.map(|own| (place.clone(), own)));
            continue;
        }
        if goes_as_folder(edit) {
            if standard_folder(&place.path) {
                continue;
            }
            match memory.folder_due(place, sight.observed, sight.now, sight.scan) {
                Some(due) if due <= sight.now => drop(chosen.insert(place)),
                Some(due) => verdict.wait_until(due),
                None => {}
            }
            continue;
        }
        verdict.matches = false;
        let Some(applied) = sight.applied else {
            chosen.insert(place);
            continue;
        };
        if applied.get(place) != edit.new.as_ref() {
            chosen.insert(place);
            continue;
        }
        if let Some(own) = sight.unread.get(place)
            && same(own.as_ref(), edit.old.as_ref())
        {
            // Nobody changed it: the head passed it by.
            verdict.unread.insert(place.clone(), own.clone());
            chosen.insert(place);
            continue;
        }
        let drift = match quiet_from(sight, edit) {
            None => Drift::Settling,
            Some(from) if from > sight.now => {
                verdict.wait_until(from);
                Drift::Settling
            }
            // Before what the gateway may have answered: in office its writes were changes.
            Some(_) if (sight.offered)(edit) => Drift::Offered,
            Some(_) => rejected_or_changed(sight, edit, &mut memory.own),
        };
        match drift {
            Drift::Rejected(Answer::Again(until)) => verdict.wait_until(until),
            Drift::Reverted => {
                chosen.insert(place);
            }
            _ => {}
        }
        verdict.drifted.insert(place.clone(), drift);
    }
    complete(&mut chosen, sight.edits);
    verdict.edits = sight.edits.iter().filter(|edit| chosen.contains(&edit.place)).cloned().collect();
    verdict
}

impl Verdict {
    fn wait_until(&mut self, when: Instant) {
        self.look_again = Some(self.look_again.map_or(when, |other| other.min(when)));
    }
}

/// What a quiet difference is that somebody else made.
fn rejected_or_changed(sight: &Sight<'_>, edit: &Edit, own: &mut OwnWrites) -> Drift {
    let touched = sight.touched.get(&edit.place).unwrap_or(sight.now);
    match own.answer(&edit.place, edit.new.as_ref(), touched, sight.scan) {
        Some(_) if sight.policy == DriftPolicy::Report => Drift::Rejected(Answer::GivenUp),
        Some(Answer::Again(due)) if due <= sight.now => Drift::Reverted,
        Some(answer) => Drift::Rejected(answer),
        None if sight.policy == DriftPolicy::Report => Drift::Reported,
        None => Drift::Reverted,
    }
}

/// Whether both are the same for a reader, whatever their modes.
fn same(one: Option<&Entry>, other: Option<&Entry>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.same_content(other),
        (None, None) => true,
        _ => false,
    }
}

/// Whether it removes a folder.
pub(super) fn goes_as_folder(edit: &Edit) -> bool {
    edit.new.is_none() && edit.old.as_ref().is_some_and(Entry::is_folder)
}

/// When the place is quiet enough; none while somebody has it open.
fn quiet_from(sight: &Sight<'_>, edit: &Edit) -> Option<Instant> {
    if sight.busy.contains_key(&edit.place) {
        return None;
    }
    let Some(touched) = sight.touched.get(&edit.place) else { return Some(sight.now) };
    let quiet = match (&edit.old, &edit.new) {
        (Some(_), Some(_)) => sight.quiet.settle,
        (Some(_), None) => sight.quiet.gather,
        (None, _) => sight.quiet.gather.max(sight.quiet.delete_grace),
    };
    Some(touched + quiet)
}

/// Adds what the chosen edits can't be made without: the folders above, and what is in the way below.
fn complete<'a>(chosen: &mut BTreeSet<&'a Place>, edits: &'a [Edit]) {
    let by_place: BTreeMap<&Place, &Edit> = edits.iter().map(|edit| (&edit.place, edit)).collect();
    let mut todo: Vec<&Place> = chosen.iter().copied().collect();
    while let Some(place) = todo.pop() {
        let Some(edit) = by_place.get(place) else { continue };
        let Some(new) = &edit.new else { continue };
        let mut parent = place.path.parent();
        while let Some(path) = parent {
            parent = path.parent();
            let folder = Place { root: place.root.clone(), path };
            if let Some((folder, _)) = by_place.get_key_value(&folder)
                && chosen.insert(folder)
            {
                todo.push(folder);
            }
        }
        if edit.old.as_ref().is_some_and(Entry::is_folder) && !new.is_folder() {
            let below = edits.iter().map(|other| &other.place);
            chosen.extend(below.filter(|other| other.root == place.root && other.path.is_below(&place.path)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ArtifactPath, ContentHash, Manifest, RootName};

    fn place(path: &str) -> Place {
        Place { root: RootName::new("r"), path: ArtifactPath::new(path.as_bytes()).unwrap() }
    }

    fn forest(entries: &[(&str, &str)]) -> Forest {
        let entries = entries.iter().map(|(path, content)| {
            let entry = match *content {
                "/" => Entry::Folder { mode: 0o755 },
                content => Entry::File { mode: 0o644, size: 1, hash: ContentHash::of(content.as_bytes()) },
            };
            (place(path).path, Some(entry))
        });
        let manifest = Manifest::default().with(entries).unwrap();
        Forest { roots: BTreeMap::from([(RootName::new("r"), manifest)]) }
    }

    const SCAN: Duration = Duration::from_secs(20);

    struct Case {
        observed: Forest,
        applied: Option<Forest>,
        head: Forest,
        touched: BTreeMap<Place, Instant>,
        busy: BTreeMap<Place, Instant>,
        unreadable: BTreeSet<Place>,
        unread: Unread,
        policy: DriftPolicy,
        offered: BTreeSet<Place>,
        memory: Memory,
        now: Instant,
    }

    impl Case {
        fn new(observed: &[(&str, &str)], applied: &[(&str, &str)], head: &[(&str, &str)]) -> Self {
            Self {
                observed: forest(observed),
                applied: Some(forest(applied)),
                head: forest(head),
                touched: BTreeMap::new(),
                busy: BTreeMap::new(),
                unreadable: BTreeSet::new(),
                unread: Unread::new(),
                policy: DriftPolicy::Revert,
                offered: BTreeSet::new(),
                memory: Memory::default(),
                now: Instant::now() + Duration::from_secs(3600),
            }
        }

        fn judge(&mut self) -> Verdict {
            let quiet = Quiet {
                settle: Duration::from_millis(10),
                gather: Duration::from_secs(1),
                delete_grace: Duration::from_secs(3),
            };
            let edits = self.observed.edits(&self.head);
            let sight = Sight {
                edits: &edits,
                observed: &self.observed,
                applied: self.applied.as_ref(),
                touched: &self.touched.clone().into_iter().collect(),
                busy: &self.busy,
                unreadable: &|place| self.unreadable.contains(place),
                unread: &self.unread,
                policy: self.policy,
                offered: &|edit| self.offered.contains(&edit.place),
                quiet,
                scan: SCAN,
                now: self.now,
            };
            judge(&sight, &mut self.memory)
        }

        #[track_caller]
        fn check(&mut self, edits: &[&str], drifted: &[(&str, Drift)]) -> Verdict {
            let verdict = self.judge();
            let found: Vec<String> = verdict.edits.iter().map(|edit| edit.place.path.to_string()).collect();
            assert_eq!(found, edits);
            let found: Vec<(String, Drift)> =
                verdict.drifted.iter().map(|(place, drift)| (place.path.to_string(), *drift)).collect();
            let expected: Vec<(String, Drift)> =
                drifted.iter().map(|(path, drift)| ((*path).to_owned(), *drift)).collect();
            assert_eq!(found, expected);
            verdict
        }
    }

    #[test]
    fn what_the_head_changed_is_made_at_once_however_restless() {
        let mut case =
            Case::new(&[("a", "local"), ("b", "1")], &[("a", "1"), ("b", "1")], &[("a", "2"), ("b", "1")]);
        case.touched.insert(place("a"), case.now);
        assert!(!case.check(&["a"], &[]).matches);
    }

    #[test]
    fn drift_is_reverted_once_it_is_quiet() {
        let mut case = Case::new(&[("a", "local"), ("n", "1")], &[("a", "1")], &[("a", "1")]);
        case.touched.insert(place("a"), case.now - Duration::from_millis(9));
        case.touched.insert(place("n"), case.now - Duration::from_millis(999));
        let verdict = case.check(&[], &[("a", Drift::Settling), ("n", Drift::Settling)]);
        assert_eq!(verdict.look_again, Some(case.now + Duration::from_millis(1)));
        case.now += Duration::from_millis(1);
        case.check(&["a", "n"], &[("a", Drift::Reverted), ("n", Drift::Reverted)]);
        case.busy.insert(place("a"), case.now);
        case.check(&["n"], &[("a", Drift::Settling), ("n", Drift::Reverted)]);
        case.policy = DriftPolicy::Report;
        case.check(&[], &[("a", Drift::Settling), ("n", Drift::Reported)]);
    }

    #[test]
    fn what_is_offered_is_left_alone_unless_the_head_changed_it() {
        let mut case =
            Case::new(&[("a", "late"), ("b", "late")], &[("a", "1"), ("b", "1")], &[("a", "1"), ("b", "2")]);
        case.offered = [place("a"), place("b")].into();
        case.memory.own.wrote(place("a"), case.head.get(&place("a")).cloned(), case.now, SCAN);
        case.check(&["b"], &[("a", Drift::Offered)]);
        case.touched.insert(place("a"), case.now);
        case.check(&["b"], &[("a", Drift::Settling)]);
    }

    #[test]
    fn what_cannot_be_read_is_left_alone() {
        let mut case = Case::new(&[("b", "1")], &[("a", "1")], &[("a", "1"), ("b", "2")]);
        case.unreadable = [place("a"), place("b")].into();
        assert!(!case.check(&[], &[]).matches);
        case.applied = None;
        case.check(&[], &[]);
        case.unreadable.clear();
        case.check(&["a", "b"], &[]);
    }

    #[test]
    fn what_could_not_be_read_while_the_head_changed_it_is_no_drift() {
        let mut case = Case::new(&[("a", "1")], &[("a", "1")], &[("a", "2")]);
        case.policy = DriftPolicy::Report;
        case.unreadable = [place("a")].into();
        case.unread = case.check(&[], &[]).unread;
        assert_eq!(case.unread.len(), 1);
        // The record moves on without it; it stays known as long as it can't be read.
        case.applied = Some(case.head.clone());
        case.unread = case.check(&[], &[]).unread;
        assert_eq!(case.unread.len(), 1);
        case.unreadable.clear();
        case.check(&["a"], &[]);
        // What somebody wrote there meanwhile is somebody's.
        case.observed = forest(&[("a", "local")]);
        let verdict = case.check(&[], &[("a", Drift::Reported)]);
        assert!(verdict.unread.is_empty());
        // Without a generation in between, the same is drift as ever.
        let mut case = Case::new(&[("a", "local")], &[("a", "1")], &[("a", "1")]);
        case.policy = DriftPolicy::Report;
        case.unreadable = [place("a")].into();
        assert!(case.check(&[], &[]).unread.is_empty());
    }

    #[test]
    fn a_missing_path_may_be_on_its_way_back() {
        let mut case = Case::new(&[], &[("a", "1")], &[("a", "1")]);
        case.touched.insert(place("a"), case.now - Duration::from_secs(2));
        case.check(&[], &[("a", Drift::Settling)]);
        case.now += Duration::from_secs(1);
        case.check(&["a"], &[("a", Drift::Reverted)]);
    }

    #[test]
    fn the_gateways_answer_is_reverted_a_scan_later_and_given_up_in_the_end() {
        let mut case = Case::new(&[("a", "old")], &[("a", "1")], &[("a", "1")]);
        for last in [false, false, true] {
            case.memory.own.wrote(place("a"), case.head.get(&place("a")).cloned(), case.now, SCAN);
            case.now += Duration::from_secs(14);
            case.touched.insert(place("a"), case.now - Duration::from_secs(1));
            let until = case.now + SCAN - Duration::from_secs(1);
            if last {
                case.now += SCAN;
                case.check(&[], &[("a", Drift::Rejected(Answer::GivenUp))]);
                continue;
            }
            let verdict = case.check(&[], &[("a", Drift::Rejected(Answer::Again(until)))]);
            assert_eq!(verdict.look_again, Some(until));
            case.now = until;
            case.check(&["a"], &[("a", Drift::Reverted)]);
        }
        case.now += Duration::from_secs(3600);
        case.check(&[], &[("a", Drift::Rejected(Answer::GivenUp))]);
        // A new version is another matter.
        case.head = forest(&[("a", "2")]);
        case.check(&["a"], &[]);
    }

    #[test]
    fn where_drift_is_only_reported_nothing_is_written_again() {
        let mut case = Case::new(&[("a", "old")], &[("a", "1")], &[("a", "1")]);
        case.policy = DriftPolicy::Report;
        case.memory.own.wrote(place("a"), case.head.get(&place("a")).cloned(), case.now, SCAN);
        case.touched.insert(place("a"), case.now + Duration::from_secs(5));
        case.now += Duration::from_secs(600);
        case.check(&[], &[("a", Drift::Rejected(Answer::GivenUp))]);
    }

    #[test]
    fn a_folder_goes_one_scan_after_its_last_artifact() {
        let mut case = Case::new(&[("f", "/"), ("f/x", "1"), ("api", "/")], &[], &[]);
        assert!(!case.check(&["f/x"], &[("f/x", Drift::Reverted)]).matches);
        case.observed = forest(&[("f", "/"), ("api", "/")]);
        let verdict = case.check(&[], &[]);
        assert!(verdict.matches, "folders on their way out are no drift");
        assert_eq!(verdict.look_again, Some(case.now + SCAN));
        case.now += SCAN;
        case.check(&["f"], &[]);
        case.memory.kept(&place("f"));
        case.check(&[], &[]);
    }

    #[test]
    fn parents_and_what_is_in_the_way_come_along() {
        // The parent of a new file was replaced by a local file that still changes.
        let mut case = Case::new(&[("f", "local")], &[("f", "/")], &[("f", "/"), ("f/x", "1")]);
        case.touched.insert(place("f"), case.now);
        case.check(&["f", "f/x"], &[("f", Drift::Settling)]);
        // A folder, with a fresh local file in it, became a file.
        let mut case = Case::new(&[("f", "/"), ("f/n", "local")], &[("f", "/")], &[("f", "1")]);
        case.touched.insert(place("f/n"), case.now);
        case.check(&["f", "f/n"], &[("f/n", Drift::Settling)]);
    }

    #[test]
    fn at_first_contact_everything_is_made() {
        let mut case = Case::new(&[("a", "local"), ("n", "1")], &[], &[("a", "1"), ("b", "1")]);
        case.applied = None;
        case.touched.insert(place("a"), case.now);
        case.check(&["a", "b", "n"], &[]);
    }
}
