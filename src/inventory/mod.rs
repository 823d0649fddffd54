//! What this node's roots hold now.
