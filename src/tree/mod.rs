//! The artifact folders.
