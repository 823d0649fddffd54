//! The limits of every connection, in one place.

use std::time::Duration;

/// The largest message of the control lane: reports and coordination.
pub const CONTROL_BYTES_MAX: usize = 1 << 20;
/// The largest message of the raft lane: a batch of log entries, or one piece of a snapshot.
pub const RAFT_BYTES_MAX: usize = 16 << 20;
/// The largest message of the bulk lane: one piece of a parcel.
pub const PARCEL_BYTES_MAX: usize = 1 << 20;

/// From the accepted connection to the end of its handshake.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);
/// Until a connection attempt is given up; calls are bounded by their own deadlines besides.
pub(super) const CONNECT: Duration = Duration::from_secs(2);
/// The longest that any call may take that says nothing shorter: a stage of everything over a slow line, or below an
/// upload cap.
pub(super) const CALL: Duration = Duration::from_secs(3600);
/// How long a stopping server waits for calls in flight.
pub(super) const DRAIN: Duration = Duration::from_secs(5);
/// A silent connection is probed after this.
pub(super) const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
/// A probe that is not answered for this long ends the connection.
pub(super) const KEEPALIVE_WAIT: Duration = Duration::from_secs(5);
/// The same for the lanes that an election depends on: a cut and healed link must not wait for TCP's own patience.
pub(super) const KEEPALIVE_AFTER_SHORT: Duration = Duration::from_secs(2);
/// See [`KEEPALIVE_AFTER_SHORT`].
pub(super) const KEEPALIVE_WAIT_SHORT: Duration = Duration::from_secs(3);
/// After a connection could not be accepted.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Calls at once on one connection.
pub(super) const STREAMS_MAX: u32 = 64;
/// Connections at once, authenticated or not.
pub(super) const CONNECTIONS_MAX: usize = 512;
/// The headers of one call.
pub(super) const HEADER_BYTES_MAX: u32 = 8 << 10;
/// Streams that a peer may reset before they are accepted (the "rapid reset" attack).
pub(super) const RESETS_PENDING_MAX: usize = 20;
/// Bytes in flight of one stream, and of one connection.
pub(super) const STREAM_WINDOW: u32 = 2 << 20;
/// See [`STREAM_WINDOW`].
pub(super) const CONNECTION_WINDOW: u32 = 16 << 20;
/// Channels kept; addresses come from the configuration and the log, so this bounds a mistake only.
pub(super) const CHANNELS_MAX: usize = 1024;
