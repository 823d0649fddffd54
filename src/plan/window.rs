//! How many artifacts were deleted lately, so that a mass delete in small portions is one too.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Deletes are counted over this long.
pub const DELETE_WINDOW: Duration = Duration::from_secs(600);

/// Deletes committed within the window. The clock is handed in.
#[derive(Debug, Default)]
pub struct DeleteWindow(VecDeque<(Instant, u64)>);

impl DeleteWindow {
    /// Counts commits: when each was made, in milliseconds since 1970, and how many artifacts it deleted. It is `now`,
    /// which is `unix_ms` on that clock.
    #[must_use]
    pub fn over(commits: impl IntoIterator<Item = (i64, u64)>, now: Instant, unix_ms: i64) -> Self {
        let mut window = Self::default();
        for (made, deletes) in commits {
            let ago = u64::try_from(unix_ms.saturating_sub(made)).unwrap_or(0);
            window.note(now, Duration::from_millis(ago), deletes);
        }
        window
    }

    /// So many artifacts were deleted by a commit `ago`.
    pub fn note(&mut self, now: Instant, ago: Duration, deletes: u64) {
        if deletes > 0 && ago < DELETE_WINDOW {
            self.0.push_back((now.checked_sub(ago).unwrap_or(now), deletes));
        }
    }

    /// How many more may be deleted now.
    #[must_use]
    pub fn left(&mut self, now: Instant, max: u64) -> u64 {
        self.0.retain(|(at, _)| *at + DELETE_WINDOW > now);
        max.saturating_sub(self.0.iter().map(|(_, deletes)| deletes).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_count_from_when_they_were_made() {
        let now = Instant::now() + Duration::from_secs(3600);
        let commits = [(1_000_000, 1), (399_000, 2), (400_001, 4), (2_000_000, 8)];
        let mut window = DeleteWindow::over(commits, now, 1_000_000);
        assert_eq!(window.left(now, 20), 7, "the second is forgotten, the last is of a clock ahead");
    }

    #[test]
    fn deletes_count_for_ten_minutes() {
        let now = Instant::now() + Duration::from_secs(3600);
        let mut window = DeleteWindow::default();
        window.note(now, Duration::from_secs(590), 30);
        window.note(now, Duration::from_secs(601), 99);
        window.note(now, Duration::ZERO, 15);
        assert_eq!(window.left(now, 50), 5);
        assert_eq!(window.left(now + Duration::from_secs(10), 50), 35);
        assert_eq!(window.left(now + Duration::from_secs(599), 10), 0);
        assert_eq!(window.left(now + Duration::from_secs(600), 50), 50);
    }
}
