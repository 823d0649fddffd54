//! Notifications about changed files.
