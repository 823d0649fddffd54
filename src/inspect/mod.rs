//! What an operator asks of nodes: how they differ from the head, whether everything can still be read, what comes next.
//!
//! Owns the questions, the lines of their answers ([`Told`]), answering them for this node, and carrying them to others:
//! a node speaks for itself, because it alone knows what its folders hold. Invariants: looking changes no artifact; the
//! only thing that is written is a content of the store that was found damaged, from where a whole one is; what a peer
//! answers is bounded line by line; a node that does not answer to the end is unknown, never fine.
//!
//! Leaves to others what follows from an answer: words and exit codes to the command line, repair of files to `apply`.

mod content;
mod diff;
mod inspector;
mod peers;
mod plan;
mod service;
mod told;
mod verify;

pub use inspector::{Inspector, Parts};
pub use told::{
    Action, Damage, Difference, End, FromNode, IntentRow, Kind, ListRow, Progress, Question, Side, Standing,
    Told, Why,
};
