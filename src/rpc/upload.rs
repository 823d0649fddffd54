//! The upload cap: how fast this node sends content to all others together. Raft and control are never limited.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What may go at once after a pause.
const BURST: Duration = Duration::from_millis(100);
/// The smallest piece that is asked for.
const PIECE_BYTES_MIN: usize = 4 << 10;

/// A token bucket. Cheap to clone; all clones share the cap.
#[derive(Clone, Debug, Default)]
pub struct Upload(Option<Arc<Bucket>>);

#[derive(Debug)]
struct Bucket {
    rate: u64,
    /// When everything that was let through so far will have gone at that rate.
    gone_at: Mutex<Instant>,
}

impl Upload {
    /// With so many bytes per second; 0: no cap.
    #[must_use]
    pub fn new(rate: u64) -> Self {
        let bucket = |rate| Arc::new(Bucket { rate, gone_at: Mutex::new(Instant::now()) });
        Self((rate > 0).then_some(rate).map(bucket))
    }

    /// The most that one call of [`Upload::pass`] should ask for, so that many senders get their turns soon.
    #[must_use]
    pub fn piece_bytes_max(&self) -> usize {
        let tenth = |bucket: &Arc<Bucket>| usize::try_from(bucket.rate / 10).unwrap_or(usize::MAX);
        self.0.as_ref().map_or(usize::MAX, tenth).max(PIECE_BYTES_MIN)
    }

    /// The slower one of `rate` and a fair share of the cap, in bytes per second.
    #[must_use]
    pub fn share(&self, rate: u64, senders: u64) -> u64 {
        let share = self.0.as_ref().map_or(rate, |bucket| bucket.rate / senders.max(1));
        share.clamp(1, rate)
    }

    /// Waits until `bytes` may go. Whoever asks first goes first.
    ///
    /// # Cancel safety
    /// What a dropped wait had reserved is not given back.
    pub async fn pass(&self, bytes: usize) {
        let Some(bucket) = &self.0 else { return };
        let due = bucket.due(Instant::now(), bytes);
        tokio::time::sleep_until(due.checked_sub(BURST).unwrap_or(due)).await;
    }
}

impl Bucket {
    /// When `bytes` more will have gone.
    fn due(&self, now: Instant, bytes: usize) -> Instant {
        let mut gone_at = self.gone_at.lock().unwrap_or_else(PoisonError::into_inner);
        *gone_at = (*gone_at).max(now) + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        *gone_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_senders_together_keep_to_the_rate() {
        let upload = Upload::new(100_000);
        let bucket = upload.0.as_ref().unwrap();
        let began = Instant::now();
        let after = |milliseconds| began + Duration::from_millis(milliseconds);
        let near = |due: Instant, milliseconds| {
            let wanted = after(milliseconds);
            due.max(wanted).duration_since(due.min(wanted)) < Duration::from_millis(1)
        };
        for turn in 1..=40 {
            assert!(near(bucket.due(began, 10_000), 100 * turn), "turn {turn}");
        }
        assert!(near(bucket.due(after(2000), 10_000), 4100), "what is on its way counts");
        assert!(near(bucket.due(after(9000), 10_000), 9100), "a pause is not saved up");
        assert_eq!(upload.piece_bytes_max(), 10_000);
        assert_eq!((upload.share(1_000_000, 4), upload.share(1000, 4)), (25_000, 1000));
    }

    #[tokio::test]
    async fn without_a_cap_nothing_waits() {
        let began = Instant::now();
        Upload::new(0).pass(usize::MAX).await;
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
