//! Decisions about files: what changes, in which order, with which time.
