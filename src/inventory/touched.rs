//! When something last happened at places: told after every look, so that it must cost nothing to copy.
//!
//! Each root has layers, older and larger ones first. One that somebody else holds a copy of grows a little, for a copy
//! of it must be made then, and is left as it is from then on; neighbours of about one size become one. So a change
//! costs the same whether a moment ago one place changed or a hundred thousand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{ArtifactPath, Place, RootName};

/// How long it is remembered that something happened at a place.
pub(super) const TOUCHED_FOR: Duration = Duration::from_secs(60);
/// A shared layer of this size is not copied any more.
const COPIED_MAX: usize = 64;

/// When something last happened at places of all roots. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Touched(BTreeMap<RootName, Recent>);

impl Touched {
    /// When something last happened at `place`, if that is remembered.
    #[must_use]
    pub fn get(&self, place: &Place) -> Option<Instant> {
        self.0.get(&place.root)?.get(&place.path)
    }

    /// When something last happened anywhere in `root`.
    #[must_use]
    pub fn newest(&self, root: &RootName) -> Option<Instant> {
        self.0.get(root)?.layers.iter().map(|layer| layer.newest).max()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(|recent| recent.layers.is_empty())
    }

    pub(super) fn set(&mut self, root: RootName, recent: Recent) {
        self.0.insert(root, recent);
    }
}

impl FromIterator<(Place, Instant)> for Touched {
    fn from_iter<T: IntoIterator<Item = (Place, Instant)>>(all: T) -> Self {
        let mut touched = Self::default();
        for (place, at) in all {
            touched.0.entry(place.root).or_default().insert(place.path, at);
        }
        touched
    }
}

/// The same of one root.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    layers: Vec<Arc<Layer>>,
}

#[derive(Clone, Debug)]
struct Layer {
    at: BTreeMap<ArtifactPath, Instant>,
    newest: Instant,
}

impl Recent {
    /// Something happened at `path`.
    pub(super) fn insert(&mut self, path: ArtifactPath, at: Instant) {
        let grows = |last: &Arc<Layer>| last.at.len() < COPIED_MAX || Arc::strong_count(last) == 1;
        match self.layers.last_mut() {
            Some(last) if grows(last) => {
                let last = Arc::make_mut(last);
                last.newest = last.newest.max(at);
                last.at.insert(path, at);
            }
            _ => {
                self.merge();
                self.layers.push(Arc::new(Layer { at: BTreeMap::from([(path, at)]), newest: at }));
            }
        }
    }

    fn get(&self, path: &ArtifactPath) -> Option<Instant> {
        self.layers.iter().rev().find_map(|layer| layer.at.get(path)).copied()
    }

    /// Forgets what happened longer ago than is remembered; some of it a while later.
    pub(super) fn forget(&mut self, now: Instant) {
        self.layers.retain(|layer| now.saturating_duration_since(layer.newest) < TOUCHED_FOR);
    }

    /// Halves at least in size from one layer to the next: there are few of them, and each place is copied seldom.
    fn merge(&mut self) {
        while let [.., older, newer] = &mut self.layers[..]
            && older.at.len() < 2 * newer.at.len()
        {
            let merged = Arc::make_mut(older);
            merged.newest = merged.newest.max(newer.newest);
            merged.at.retain(|_, at| newer.newest.saturating_duration_since(*at) < TOUCHED_FOR);
            merged.at.extend(newer.at.iter().map(|(path, at)| (path.clone(), *at)));
            self.layers.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: usize) -> ArtifactPath {
        ArtifactPath::new(format!("d/{number}").as_bytes()).unwrap()
    }

    #[test]
    fn says_what_a_plain_map_would_and_shares_what_is_old() {
        let now = Instant::now();
        let at = |number: usize| now + Duration::from_millis(number as u64);
        let mut recent = Recent::default();
        let mut plain = BTreeMap::new();
        let mut copies = Vec::new();
        // A thousand at once, then one after another while each state is held by somebody.
        for number in 0..3000 {
            let path = path(number * 7 % 1000);
            plain.insert(path.clone(), at(number));
            recent.insert(path, at(number));
            if number >= 1000 {
                copies.push(recent.clone());
            }
        }
        assert!(plain.iter().all(|(path, at)| recent.get(path) == Some(*at)));
        assert!(recent.layers.len() < 10, "{} layers", recent.layers.len());
        let (one, next) = (&copies[500], &copies[501]);
        assert!(Arc::ptr_eq(&one.layers[0], &next.layers[0]), "what is old is not copied");
        let root = RootName::new("r");
        let mut touched = Touched::default();
        touched.set(root.clone(), recent);
        assert_eq!(touched.newest(&root), Some(at(2999)));
    }

    #[test]
    fn forgets() {
        let now = Instant::now();
        let mut recent = Recent::default();
        recent.insert(path(1), now);
        let copy = recent.clone();
        recent.forget(now + TOUCHED_FOR / 2);
        assert_eq!(recent.get(&path(1)), Some(now));
        recent.forget(now + TOUCHED_FOR);
        assert!(recent.layers.is_empty());
        assert_eq!(copy.get(&path(1)), Some(now));
    }

    #[test]
    fn layers_that_grow_together_leave_out_what_is_old() {
        let now = Instant::now();
        let mut recent = Recent::default();
        let mut copies = Vec::new();
        for number in 0..4 * COPIED_MAX {
            recent.insert(path(number), now + TOUCHED_FOR * u32::from(number >= COPIED_MAX));
            copies.push(recent.clone());
        }
        assert_eq!(recent.get(&path(0)), None);
        assert!(recent.get(&path(COPIED_MAX)).is_some());
    }
}
