//! Makes generations out of the manager's changes.
