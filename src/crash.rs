//! Places where a test can end the process as a power loss would.
//!
//! Compiled in only with the feature `crash-points`; a shipped binary has none of this. The variable `SYNCD_CRASH`
//! names one point, `name` or `name:N` for the N-th time it is passed (from 1).

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
