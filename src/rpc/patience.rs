//! How long a reader that takes nothing is waited for: whoever does not read must not hold what others wait for.

use std::io;
use std::time::Duration;

use tokio::sync::mpsc;

/// How long a receiver may take for one message.
pub const SLOW: Duration = Duration::from_secs(20);

/// Sends, with a limit to the receiver's patience.
///
/// # Errors
/// When the receiver is gone, or took nothing for `limit`; the message is lost then.
///
/// # Cancel safety
/// A call that is dropped has not sent.
pub async fn send_within<T>(limit: Duration, sender: &mpsc::Sender<T>, item: T) -> io::Result<()> {
    sender.send_timeout(item, limit).await.map_err(|error| match error {
        mpsc::error::SendTimeoutError::Timeout(_) => {
            io::Error::new(io::ErrorKind::TimedOut, "the receiver does not read")
        }
        mpsc::error::SendTimeoutError::Closed(_) => {
            io::Error::new(io::ErrorKind::BrokenPipe, "the receiver is gone")
        }
    })
}
