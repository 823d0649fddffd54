//! The modification time that a written file gets.

use crate::model::FileTime;

/// The time of a file whose content changes here: the author's, unless its whole second is not after the last one
/// that this path had on this node; then the second after that.
///
/// Why: the gateway loads a file again only when the whole second of its time differs from the one it remembers, so
/// new content under an old second is never deployed.
#[must_use]
pub fn mtime_for(author: FileTime, last_second: Option<i64>) -> FileTime {
    match last_second {
        Some(last) if author.seconds <= last => FileTime { seconds: last.saturating_add(1), nanos: 0 },
        _ => author,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cases() {
        let at = |seconds, nanos| FileTime { seconds, nanos };
        for (author, last, expected) in [
            (at(100, 5), None, at(100, 5)),
            (at(100, 5), Some(99), at(100, 5)),
            (at(100, 5), Some(100), at(101, 0)),
            (at(100, 5), Some(200), at(201, 0)),
            (at(-5, 0), Some(-7), at(-5, 0)),
        ] {
            assert_eq!(mtime_for(author, last), expected, "{author:?} after {last:?}");
        }
    }

    proptest! {
        #[test]
        fn the_second_always_advances(author: i32, nanos in 0u32..1_000_000_000, last: i32) {
            let author = FileTime { seconds: i64::from(author), nanos };
            let time = mtime_for(author, Some(i64::from(last)));
            prop_assert!(time.seconds > i64::from(last));
            prop_assert!(time >= author);
        }
    }
}
