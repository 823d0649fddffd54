//! How far long work is: counted where it is done, read where it is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::BootTime;

/// Work that ends sooner is not told: there is nothing to wait for.
const TOLD_AFTER: Duration = Duration::from_millis(300);

/// How far long work is, as a row of the status has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// `scanning`, `receiving` or `applying`.
    pub step: String,
    /// Files done; folders are counted as well while scanning.
    pub files: u64,
    /// Of so many; null when that is not known beforehand.
    pub files_total: Option<u64>,
    /// Bytes done.
    pub bytes: u64,
    /// Of so many.
    pub bytes_total: Option<u64>,
    /// Since it began.
    pub seconds: f64,
    /// Files done in a second, on average.
    pub files_per_second: f64,
    /// How long the rest takes at that rate.
    pub seconds_left: Option<f64>,
}

/// Counts work that is under way. Cheap to clone; all clones count the same.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Mutex<Works>>);

#[derive(Debug, Default)]
struct Works {
    next: u64,
    running: BTreeMap<u64, Work>,
}

#[derive(Debug)]
struct Work {
    step: &'static str,
    begun: BootTime,
    files: u64,
    files_total: Option<u64>,
    bytes: u64,
    bytes_total: Option<u64>,
}

/// Work under way; it has ended when this is dropped.
#[derive(Debug)]
pub struct Metered {
    meter: Meter,
    id: u64,
}

impl Meter {
    /// Begins `step`; the totals are none where they are not known beforehand.
    #[must_use]
    pub fn begin(&self, step: &'static str, files_total: Option<u64>, bytes_total: Option<u64>) -> Metered {
        let begun = BootTime::now();
        let mut works = self.works();
        let id = works.next;
        works.next += 1;
        works.running.insert(id, Work { step, begun, files: 0, files_total, bytes: 0, bytes_total });
        drop(works);
        Metered { meter: self.clone(), id }
    }

    /// Counts a file of the work called `step` that began last; if none runs, nobody waits for it.
    pub fn count(&self, step: &'static str, bytes: u64) {
        if let Some(work) = self.works().running.values_mut().rev().find(|work| work.step == step) {
            work.files += 1;
            work.bytes += bytes;
        }
    }

    /// The work that runs for longest, once it has run for a while.
    #[must_use]
    pub fn read(&self, now: BootTime) -> Option<Progress> {
        let works = self.works();
        let work = works.running.values().next().filter(|work| now.since(work.begun) >= TOLD_AFTER)?;
        let seconds = now.since(work.begun).as_secs_f64();
        // By bytes where those are known: files differ in size.
        let share = match (work.bytes_total, work.files_total) {
            (Some(total @ 1..), _) => Some(work.bytes as f64 / total as f64),
            (_, Some(total @ 1..)) => Some(work.files as f64 / total as f64),
            _ => None,
        };
        let left = share.filter(|share| *share > 0.0).map(|share| (seconds / share - seconds).max(0.0));
        Some(Progress {
            step: work.step.to_owned(),
            files: work.files,
            files_total: work.files_total,
            bytes: work.bytes,
            bytes_total: work.bytes_total,
            seconds,
            files_per_second: work.files as f64 / seconds,
            seconds_left: left,
        })
    }

    fn works(&self) -> std::sync::MutexGuard<'_, Works> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.meter.works().running.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_work_is_told_with_rate_and_time_left() {
        let meter = Meter::default();
        let begun = BootTime::now();
        meter.count("receiving", 1);
        assert_eq!(meter.read(BootTime::now() + TOLD_AFTER), None);
        let scan = meter.begin("scanning", None, None);
        let receive = meter.begin("receiving", Some(4), Some(1000));
        meter.count("scanning", 10);
        meter.count("receiving", 250);
        meter.count("applying", 1);
        assert_eq!(meter.read(begun).map(|told| told.step), None, "it may end soon");
        // So long that a stall of this test changes nothing.
        let later = BootTime::now() + Duration::from_secs(2000);
        let told = meter.read(later).unwrap();
        assert_eq!((told.step.as_str(), told.files, told.seconds_left), ("scanning", 1, None));
        drop(scan);
        let told = meter.read(later).unwrap();
        assert_eq!((told.step.as_str(), told.files, told.files_total), ("receiving", 1, Some(4)));
        assert!((told.files_per_second * 2000.0 - 1.0).abs() < 0.05, "{told:?}");
        assert!((told.seconds_left.unwrap() - 6000.0).abs() < 300.0, "{told:?}");
        drop(receive);
        assert_eq!(meter.read(later), None);
    }
}
