//! Three nodes over real loopback connections.
