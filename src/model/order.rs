//! What a person orders the whole cluster to do, and what became of it.

use serde::{Deserialize, Serialize};

use crate::model::{Digest, NodeId, Place};

/// An order to the cluster, carried by the log so that every node obeys at the same place in its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Nothing is published, applied or reverted until [`Order::Resume`]; managers are appointed as ever.
    Pause,
    /// Ends [`Order::Pause`].
    Resume,
    /// The manager gives its office up to another candidate.
    Switchover {
        /// The other's name; none asks the leader to choose.
        to: Option<String>,
    },
    /// A member belongs to the cluster no more.
    Remove {
        /// Its name.
        name: String,
    },
    /// Every node gives these files a new time, so that its gateway loads them again.
    Redeploy {
        /// Which ones.
        places: Vec<Place>,
    },
    /// What a node holds back may go on: exactly the list that the person saw, once.
    Approve {
        /// The node that holds it, by name.
        node: String,
        /// The list's digest.
        list: Digest,
        /// The code of the problem that tells of it.
        code: String,
        /// How many paths it has.
        paths: u64,
    },
    /// Takes an approval back that did not let anything through.
    Withdraw {
        /// The node that holds the list, by name.
        node: String,
        /// The list's digest.
        list: Digest,
    },
    /// The content of this candidate becomes the first generation.
    Seed {
        /// Its name.
        node: String,
    },
}

impl Order {
    /// The names and words in it, for whoever bounds what a peer sends.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let (one, other) = match self {
            Self::Pause | Self::Resume | Self::Switchover { to: None } | Self::Redeploy { .. } => {
                (None, None)
            }
            Self::Switchover { to: Some(name) }
            | Self::Remove { name }
            | Self::Withdraw { node: name, .. }
            | Self::Seed { node: name } => (Some(name), None),
            Self::Approve { node, code, .. } => (Some(node), Some(code)),
        };
        one.into_iter().chain(other).map(String::as_str)
    }
}

/// What a person agreed to, as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The order that it came with.
    pub id: OrderId,
    /// The node that holds the list.
    pub node: NodeId,
    /// The list's digest.
    pub list: Digest,
    /// The node on which it was ordered.
    pub by: String,
    /// By that node's clock, in milliseconds since 1970.
    pub unix_ms: i64,
}

/// A generation that let an approved list through, and nothing else: its deletes do not count as a mass delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetThrough {
    /// Its number.
    pub generation: u64,
    /// The list's digest.
    pub list: Digest,
}

/// Tells an order from every other; drawn by whoever takes it from a person. An order that is repeated because its
/// outcome was not known keeps it, and is obeyed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderId(pub [u8; 16]);

/// The order was obeyed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderOutcome {
    /// What is so now, in a sentence for people.
    pub sentence: String,
}

/// Why an order is not obeyed, and never will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// In a sentence.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

impl Refusal {
    /// A refusal with its remedy.
    #[must_use]
    pub fn new(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { why: why.into(), remedy: remedy.into() }
    }
}

/// An order that was not obeyed, or may have been.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// It had no effect and will have none.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It may have been obeyed, or may still be.
    #[error("whether the order was obeyed is not known: {reason}")]
    Unknown {
        /// What was seen.
        reason: String,
    },
}
