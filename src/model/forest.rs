//! All synchronized roots of a node together.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{ArtifactPath, ContentHash, Digest, Entry, Manifest, ManifestError, Rules};

/// The name of one root, equal on all nodes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RootName(Arc<str>);

impl RootName {
    /// Takes a name as the configuration gives it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RootName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RootName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Where an artifact is: its root and its path in there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The root.
    pub root: RootName,
    /// The path below it.
    pub path: ArtifactPath,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.root, self.path)
    }
}

/// One change to a forest: what is at a place afterwards, none when nothing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Where.
    pub place: Place,
    /// What was there before.
    pub old: Option<Entry>,
    /// What is there afterwards.
    pub new: Option<Entry>,
}

/// The manifests of all roots by name. A root that was never named is not there; an empty one is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forest {
    /// One manifest per root.
    pub roots: BTreeMap<RootName, Manifest>,
}

impl Forest {
    /// One digest for all roots.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut record = b"syncd forest 1\0".to_vec();
        for (name, manifest) in &self.roots {
            record.extend_from_slice(&(name.as_str().len() as u32).to_le_bytes());
            record.extend_from_slice(name.as_str().as_bytes());
            record.extend_from_slice(manifest.digest().as_bytes());
        }
        Digest::of(&record)
    }

    /// How many regular files all roots hold.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.roots.values().map(Manifest::files).sum()
    }

    /// What is at `place`.
    #[must_use]
    pub fn get(&self, place: &Place) -> Option<&Entry> {
        self.roots.get(&place.root)?.get(&place.path)
    }

    /// Every place with its entry, root by root, folders before what they hold.
    pub fn iter(&self) -> impl Iterator<Item = (Place, &Entry)> {
        self.roots.iter().flat_map(|(root, manifest)| {
            manifest.iter().map(|(path, entry)| (Place { root: root.clone(), path }, entry))
        })
    }

    /// The content of every regular file, as often as it is there.
    pub fn contents(&self) -> impl Iterator<Item = ContentHash> {
        self.roots.values().flat_map(Manifest::contents)
    }

    /// This forest with every `(place, entry)` put in place; an unknown root begins empty.
    ///
    /// # Errors
    /// [`ManifestError`] when the result is no tree.
    pub fn with(
        &self,
        changes: impl IntoIterator<Item = (Place, Option<Entry>)>,
    ) -> Result<Self, ManifestError> {
        let mut by_root: BTreeMap<RootName, Vec<(ArtifactPath, Option<Entry>)>> = BTreeMap::new();
        for (place, entry) in changes {
            by_root.entry(place.root).or_default().push((place.path, entry));
        }
        let mut roots = self.roots.clone();
        for (root, changes) in by_root {
            let manifest = roots.entry(root).or_default();
            *manifest = manifest.with(changes)?;
        }
        Ok(Self { roots })
    }

    /// With exactly the roots that `rules` names; those that are new begin empty.
    #[must_use]
    pub fn under(mut self, rules: &Rules) -> Self {
        self.roots.retain(|root, _| rules.of(root).is_some());
        for (root, _) in &rules.roots {
            self.roots.entry(root.clone()).or_default();
        }
        self
    }

    /// Every place in which `to` differs from this. A root that only one side names is passed over:
    /// it is neither written nor deleted there.
    #[must_use]
    pub fn edits(&self, to: &Self) -> Vec<Edit> {
        let mut edits = Vec::new();
        for (root, new) in &to.roots {
            let Some(old) = self.roots.get(root) else { continue };
            edits.extend(old.differences(new).into_iter().map(|difference| Edit {
                place: Place { root: root.clone(), path: difference.path },
                old: difference.old,
                new: difference.new,
            }));
        }
        edits
    }
}
