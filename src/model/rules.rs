//! What a generation says about how its roots are scanned, compared and applied.

use serde::{Deserialize, Serialize};

use crate::model::RootName;

/// The rules of one root. They travel with the generation, so that all nodes, the manager too, go by the same ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRules {
    /// Patterns in gitignore syntax: what matches is in no manifest, and never deleted.
    pub exclude: Vec<String>,
    /// Patterns of paths that differ on purpose: in no manifest either.
    pub per_node: Vec<String>,
    /// Patterns of paths that stay in the manifest when they vanish on the manager.
    pub protect: Vec<String>,
    /// Owner of written files by name; none: the daemon's own user.
    pub owner: Option<String>,
    /// Group of written files by name; none: the daemon's own group.
    pub group: Option<String>,
}

/// The rules of all roots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// One entry per root, sorted by name, names unique.
    pub roots: Vec<(RootName, RootRules)>,
}

impl Rules {
    /// The rules of `root`; none when this generation does not name it.
    #[must_use]
    pub fn of(&self, root: &RootName) -> Option<&RootRules> {
        self.roots.iter().find(|(name, _)| name == root).map(|(_, rules)| rules)
    }
}
