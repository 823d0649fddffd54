//! Places where a test can end the process as a power loss would.
//!
//! Compiled in only with the feature `crash-points`; a shipped binary has none of this. The variable `SYNCD_CRASH`
//! names one point, `name` or `name:N` for the N-th time it is passed (from 1). `SYNCD_SCAN` makes the gateway's scan
//! shorter, in milliseconds.

use std::time::Duration;

/// Ends the process at once, without any clean-up, if the test asked for it at this point.
#[cfg(feature = "crash-points")]
pub fn point(name: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let Ok(wanted) = std::env::var("SYNCD_CRASH") else { return };
    let (wanted, count) = match wanted.split_once(':') {
        Some((wanted, count)) => (wanted.to_owned(), count.parse().unwrap_or(1)),
        None => (wanted, 1),
    };
    if wanted == name && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == count {
        std::process::abort();
    }
}

/// Nothing: this build has no crash points.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn point(_name: &str) {}

/// How long a scan of the gateway is taken to be: `usual`, unless the test says otherwise.
#[cfg(feature = "crash-points")]
#[must_use]
pub fn scan(usual: Duration) -> Duration {
    let wanted = std::env::var("SYNCD_SCAN").ok().and_then(|text| text.parse().ok());
    wanted.map_or(usual, Duration::from_millis)
}

/// The usual one: this build has no such switch.
#[cfg(not(feature = "crash-points"))]
#[must_use]
pub fn scan(usual: Duration) -> Duration {
    usual
}
