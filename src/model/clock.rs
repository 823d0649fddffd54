//! Clocks: one for deadlines that count a suspended machine's sleep, one for what people read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment on `CLOCK_BOOTTIME`: goes on while the machine sleeps, and never jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime {
    nanos: u64,
}

impl BootTime {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self { nanos: time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs() }
    }

    /// The moment `nanos` nanoseconds after the machine started: for tests with a clock of their own.
    #[must_use]
    pub fn at(nanos: u64) -> Self {
        Self { nanos }
    }

    /// Nanoseconds since the machine started.
    #[must_use]
    pub fn nanos(self) -> u64 {
        self.nanos
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

impl std::ops::Add<Duration> for BootTime {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self { nanos: self.nanos.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)) }
    }
}

/// Milliseconds since 1970 by the wall clock: for people and records, never for decisions.
#[must_use]
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
