//! Channels to peers.
