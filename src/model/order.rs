//! What a person orders the whole cluster to do, and what became of it.

use serde::{Deserialize, Serialize};

use crate::model::Place;

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
