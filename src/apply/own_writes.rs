//! What this node wrote, and how its gateway answered: pure, with a clock handed in.
//!
//! The gateway answers an artifact that it can't deploy by writing the former one back over the file, in other bytes.
//! After that it takes the next change of the path for its own and ignores it. So what was answered is written again
//! only when a scan has passed, a few times at most, and any write after an answer is followed by a new time one scan
//! later. Lost with the process but for the versions that were given up, which the store keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Entry, Place};

/// How often a version is written before it is given up, the first time included.
pub(super) const WRITES_MAX: u32 = 3;
/// What was written this long ago has nothing to do with what happens now.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// How often it is looked at what is forgotten: a first copy leaves many.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// The gateway's answer to the version that stands in the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is written again then.
    Again(Instant),
    /// It was written often enough.
    GivenUp,
}

/// The writes of this node.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnWrites {
    places: BTreeMap<Place, OwnWrite>,
    /// Places whose file gets a new time, and when.
    bumps: BTreeMap<Place, Instant>,
    forgot: Option<Instant>,
}

#[derive(Clone, Debug)]
struct OwnWrite {
    at: Instant,
    entry: Option<Entry>,
    writes: u32,
    /// When the gateway answered.
    answered: Option<Instant>,
}

impl OwnWrites {
    /// Notes that this node has just brought `place` to `entry`. `scan` is one scan of the gateway, with room.
    pub(super) fn wrote(&mut self, place: Place, entry: Option<Entry>, now: Instant, scan: Duration) {
        let before = self.places.get(&place);
        let answered = before.is_some_and(|own| own.answered.is_some());
        let writes = match before {
            Some(own) if answered && own.entry == entry => own.writes + 1,
            _ => 1,
        };
        self.bumps.remove(&place);
        if answered && entry.as_ref().is_some_and(|entry| !entry.is_folder()) {
            self.bumps.insert(place.clone(), now + scan);
        }
        self.places.insert(place, OwnWrite { at: now, entry, writes, answered: None });
    }

    /// The gateway's answer, if a difference at `place` is one: something changed there, last at `touched`, within two
    /// scans of a write of `wanted`.
    pub(super) fn answer(
        &mut self,
        place: &Place,
        wanted: Option<&Entry>,
        touched: Instant,
        scan: Duration,
    ) -> Option<Answer> {
        let own = self.places.get_mut(place).filter(|own| own.entry.as_ref() == wanted)?;
        if own.answered.is_none() && touched >= own.at + 2 * scan {
            return None;
        }
        let answered = own.answered.map_or(touched, |at| at.max(touched));
        own.answered = Some(answered);
        self.bumps.remove(place);
        Some(if own.writes >= WRITES_MAX { Answer::GivenUp } else { Answer::Again(answered + scan) })
    }

    /// How often what stands in the head was written at `place`.
    pub(super) fn writes(&self, place: &Place) -> u32 {
        self.places.get(place).map_or(0, |own| own.writes)
    }

    /// Takes over what an earlier process gave up.
    pub(super) fn restore(&mut self, given_up: BTreeMap<Place, Option<Entry>>, now: Instant) {
        for (place, entry) in given_up {
            let own = OwnWrite { at: now, entry, writes: WRITES_MAX, answered: Some(now) };
            self.places.entry(place).or_insert(own);
        }
    }

    /// The files that get a new time now, and when the next is due.
    pub(super) fn bumps(&self, now: Instant) -> (Vec<Place>, Option<Instant>) {
        let due = self.bumps.iter().filter(|(_, at)| **at <= now).map(|(place, _)| place.clone()).collect();
        (due, self.bumps.values().filter(|at| **at > now).min().copied())
    }

    /// A file got a new time: the gateway loads it at its next scan, and may answer to that.
    pub(super) fn bumped(&mut self, place: &Place, now: Instant) {
        self.bumps.remove(place);
        if let Some(own) = self.places.get_mut(place) {
            own.at = now;
        }
    }

    /// A person had the file loaded again: what the gateway answered before does not count, what it answers now does.
    pub(super) fn ordered(&mut self, place: &Place, now: Instant) {
        self.bumps.remove(place);
        if let Some(own) = self.places.get_mut(place) {
            (own.at, own.writes, own.answered) = (now, 1, None);
        }
    }

    /// Forgets what is long ago, unless it still differs.
    pub(super) fn forget(&mut self, differing: &BTreeSet<&Place>, now: Instant) {
        if self.forgot.is_none_or(|at| now - at >= FORGET_EVERY) {
            self.forgot = Some(now);
            self.places.retain(|place, own| now - own.at < FORGOTTEN || differing.contains(place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ArtifactPath, ContentHash, RootName};

    const SCAN: Duration = Duration::from_secs(20);

    fn place() -> Place {
        Place { root: RootName::new("r"), path: ArtifactPath::new(b"a").unwrap() }
    }

    fn entry(content: &str) -> Option<Entry> {
        Some(Entry::File { mode: 0o644, size: 1, hash: ContentHash::of(content.as_bytes()) })
    }

    fn at(seconds: u64) -> Instant {
        static ZERO: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *ZERO.get_or_init(|| Instant::now() + Duration::from_secs(3600)) + Duration::from_secs(seconds)
    }

    #[test]
    fn a_bad_version_is_written_three_times_a_scan_apart() {
        let mut own = OwnWrites::default();
        let bad = entry("bad");
        own.wrote(place(), bad.clone(), at(0), SCAN);
        assert_eq!(own.bumps(at(100)), (vec![], None), "nobody rejected anything yet");
        let ask = |own: &mut OwnWrites, touched| own.answer(&place(), bad.as_ref(), at(touched), SCAN);
        assert_eq!(ask(&mut own, 14), Some(Answer::Again(at(34))));
        assert_eq!(ask(&mut own, 16), Some(Answer::Again(at(36))), "it changed once more");
        own.wrote(place(), bad.clone(), at(36), SCAN);
        assert_eq!(ask(&mut own, 50), Some(Answer::Again(at(70))));
        own.wrote(place(), bad.clone(), at(70), SCAN);
        assert_eq!(ask(&mut own, 80), Some(Answer::GivenUp));
        assert_eq!(ask(&mut own, 9999), Some(Answer::GivenUp), "whoever changes it then");
        assert_eq!(own.writes(&place()), WRITES_MAX);
    }

    #[test]
    fn what_comes_later_than_two_scans_is_no_answer() {
        let mut own = OwnWrites::default();
        own.wrote(place(), entry("1"), at(0), SCAN);
        assert_eq!(own.answer(&place(), entry("1").as_ref(), at(40), SCAN), None);
        assert_eq!(own.answer(&place(), entry("2").as_ref(), at(1), SCAN), None, "another version is wanted");
        // A revert of that is no further try.
        own.wrote(place(), entry("1"), at(41), SCAN);
        assert_eq!(own.writes(&place()), 1);
    }

    #[test]
    fn a_write_after_an_answer_gets_a_new_time_one_scan_later() {
        let mut own = OwnWrites::default();
        own.wrote(place(), entry("bad"), at(0), SCAN);
        own.answer(&place(), entry("bad").as_ref(), at(10), SCAN);
        own.wrote(place(), entry("fix"), at(15), SCAN);
        assert_eq!(own.bumps(at(34)), (vec![], Some(at(35))));
        assert_eq!(own.bumps(at(35)), (vec![place()], None));
        own.bumped(&place(), at(35));
        assert_eq!(own.bumps(at(35)), (vec![], None), "once");
        // What is loaded then may be rejected as well.
        assert!(own.answer(&place(), entry("fix").as_ref(), at(60), SCAN).is_some());
        own.wrote(place(), None, at(70), SCAN);
        assert_eq!(own.bumps(at(1000)), (vec![], None), "nothing is there");
    }

    #[test]
    fn what_was_given_up_outlives_the_process_and_nothing_else_for_long() {
        let mut own = OwnWrites::default();
        own.restore([(place(), entry("bad"))].into(), at(0));
        assert_eq!(own.answer(&place(), entry("bad").as_ref(), at(5), SCAN), Some(Answer::GivenUp));
        own.forget(&[&place()].into(), at(700));
        assert!(own.writes(&place()) > 0);
        own.forget(&BTreeSet::new(), at(1400));
        assert_eq!(own.writes(&place()), 0);
    }
}
