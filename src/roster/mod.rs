//! Nodes telling each other how they are.
