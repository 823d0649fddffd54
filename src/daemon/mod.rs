//! Composition of the rooms below.
