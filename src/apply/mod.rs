//! Brings this node to the head.
