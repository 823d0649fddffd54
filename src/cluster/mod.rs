//! All that knows openraft.
