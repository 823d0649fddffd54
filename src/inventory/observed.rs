//! What the roots hold, and how sure that is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::inventory::Touched;
use crate::model::{Forest, Place, RootName, RootRules};
use crate::tree::Root;

/// What the roots held at one moment, and how sure that is.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What was seen. It has what was last known of places that can't be read now.
    pub forest: Forest,
    /// Whether every root was looked at since the start: before that, the forest is only a part.
    pub complete: bool,
    /// The roots of this node.
    pub roots: BTreeMap<RootName, RootState>,
    /// When something last happened at a place; kept for about a minute.
    pub touched: Touched,
    /// Files that are being written, and since when. The forest has what was there before, or nothing.
    pub busy: BTreeMap<Place, Instant>,
    /// What can't be read, and why. The forest has what was there before.
    pub failed: BTreeMap<Place, String>,
    /// How often the kernel lost events.
    pub overflows: u64,
    /// Whether it did within the last ten minutes.
    pub overflowed_lately: bool,
    /// What has no watch, so that changes there are found by polling; none while every folder has one.
    pub unwatched: Option<Unwatched>,
    /// How long the last walk of everything took.
    pub scan_seconds: f64,
}

/// Folders without a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwatched {
    /// How many.
    pub folders: u64,
    /// Of how many.
    pub of: u64,
    /// Why.
    pub why: String,
    /// The kernel's setting to be raised; none when that is not the cause.
    pub setting: Option<&'static str>,
    /// How often they are looked at.
    pub polled_every: Duration,
}

impl Observed {
    /// Whether nothing is known of `place` now: it, or a folder above it, can't be read.
    #[must_use]
    pub fn is_unreadable(&self, place: &Place) -> bool {
        is_in(&self.failed, place)
    }
}

fn is_in(failed: &BTreeMap<Place, String>, place: &Place) -> bool {
    if failed.is_empty() {
        return false;
    }
    let mut path = Some(place.path.clone());
    std::iter::from_fn(|| {
        let next = path.take()?;
        path = next.parent();
        Some(next)
    })
    .any(|path| failed.contains_key(&Place { root: place.root.clone(), path }))
}

/// One root of this node.
#[derive(Clone, Debug)]
pub struct RootState {
    /// Its configured path.
    pub path: PathBuf,
    /// Open, if it is there.
    pub root: Option<Arc<Root>>,
    /// Why it is not there, or can't be listed. None also for an optional root that was never there.
    pub missing: Option<String>,
    /// Whether it lies on another device than when this process first opened it.
    pub device_changed: bool,
    /// How many things in it are never carried: sockets, pipes, devices.
    pub skipped: u64,
    /// The rules under which it was looked at: what a rule leaves out is not seen, and never looks deleted to whoever
    /// compares under the same rules.
    pub rules: RootRules,
}
