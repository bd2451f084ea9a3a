//! How far ages can be believed: they are measured by the database's clock, and that may be set.
//!
//! This process's own monotonic clock cannot. It shows by how much the other one jumped forward, so that nothing looks older
//! than it is for as long as the process lives. A clock that was set back needs no such account: what was written by then
//! lies in the future, which is impossible, and [`Stamp::Impossible`] is taken as just now.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The database's clock as this process knows it. Times are Unix milliseconds.
#[derive(Debug, Default)]
pub(super) struct Clock {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// What it said last, and when that was heard.
    said: Option<(Instant, i64)>,
    jumps: Vec<Jump>,
}

/// It was set forward.
#[derive(Debug)]
struct Jump {
    at: Instant,
    /// No time that it showed before was later than this one.
    before: i64,
    by: i64,
}

/// What a time in a row says by a clock that shows `now`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamp {
    /// So long ago.
    Ago(Duration),
    /// In the future, or before any driver ran: written by a clock that has been set since.
    Impossible,
}

/// A clock that gains so much on ours between two answers was set.
const GAIN: i64 = 2_000;
/// An answer may have been under way for so long.
const UNDERWAY: i64 = 10_000;
/// Servers that stand for one another are not set to the second. What is ahead by less passes by itself.
pub(super) const AHEAD: u32 = 60;
/// 1990: fresh rows carry a time of 2000.
pub(super) const EARLIEST: i64 = 631_152_000;
/// No cool-down is as long.
const MEMORY: Duration = Duration::from_secs(2 * 86_400);

impl Clock {
    /// It says that it is `now`.
    pub(super) fn says(&self, now: i64) {
        self.says_at(now, Instant::now());
    }

    fn says_at(&self, now: i64, heard: Instant) {
        let mut known = self.known();
        let Some((since, said)) = known.said else {
            known.said = Some((heard, now));
            return;
        };
        let expected = said + millis(heard.saturating_duration_since(since));
        let gain = now - expected;
        if gain > GAIN {
            known.jumps.retain(|jump| heard.saturating_duration_since(jump.at) < MEMORY);
            known.jumps.push(Jump { at: heard, before: expected, by: gain });
        } else if gain < -UNDERWAY {
            known.takes_back(-gain);
        } else if gain < 0 {
            return;
        }
        known.said = Some((heard, now));
        if gain.unsigned_abs() >= u64::from(AHEAD) * 1000 {
            let (seconds, way) = (gain.abs() / 1000, if gain > 0 { "forward" } else { "back" });
            tracing::warn!("the clock of the database was set {way} by {seconds} s: see docs/addresses.md, Clocks");
        }
    }

    /// The age of something that was written at `then`, while the clock shows `now`.
    pub(super) fn age(&self, now: i64, then: i64) -> Stamp {
        if then > now + i64::from(AHEAD) * 1000 || then < EARLIEST * 1000 {
            return Stamp::Impossible;
        }
        let jumped: i64 = self.known().jumps.iter().filter(|jump| then <= jump.before).map(|jump| jump.by).sum();
        Stamp::Ago(Duration::from_millis(u64::try_from(now - then - jumped).unwrap_or(0)))
    }

    /// By how many whole seconds a time must lie further back, if what was written then is to be so old.
    pub(super) fn ahead(&self, age: Duration) -> u64 {
        let known = self.known();
        let jumped: i64 = known.jumps.iter().filter(|jump| jump.at.elapsed() < age).map(|jump| jump.by).sum();
        u64::try_from(jumped).unwrap_or(0).div_ceil(1000)
    }

    /// It cannot show a later time than this one, in Unix seconds, unless it was set since it was last heard.
    pub(super) fn latest(&self) -> Option<i64> {
        let (heard, said) = self.known().said?;
        Some((said + millis(heard.elapsed()) + GAIN) / 1000)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// It was set back, maybe after it had been set forward by mistake.
    fn takes_back(&mut self, mut by: i64) {
        while let Some(jump) = self.jumps.last_mut()
            && by > 0
        {
            let less = jump.by.min(by);
            by -= less;
            jump.by -= less;
            if jump.by < GAIN {
                self.jumps.pop();
            }
        }
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_800_000_000_000;
    const HOUR: i64 = 3_600_000;

    fn ago(seconds: u64) -> Stamp {
        Stamp::Ago(Duration::from_secs(seconds))
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_set_forward_makes_nothing_older() {
        let (clock, start) = (Clock::default(), Instant::now());
        clock.says_at(NOON, start);
        clock.says_at(NOON + 30_000, after(start, 30));
        assert_eq!(clock.age(NOON + 30_000, NOON), ago(30));
        let late = NOON + 6 * HOUR;
        clock.says_at(late + 40_000, after(start, 40));
        assert_eq!(clock.age(late + 40_000, NOON), ago(40), "written before");
        assert_eq!(clock.age(late + 100_000, late + 50_000), ago(50), "written since");
        assert_eq!(clock.age(late + 100_000, NOON + 40_000), ago(60));
        assert_eq!(clock.ahead(Duration::from_secs(60)), 6 * 3600);
        assert_eq!(clock.ahead(Duration::ZERO), 0, "what needs no age needs no more of it");
        // Corrected: what was written in between is in the future, and all else as old as it was.
        clock.says_at(NOON + 200_000, after(start, 200));
        assert_eq!(clock.ahead(Duration::from_secs(60)), 0);
        assert_eq!(clock.age(NOON + 200_000, NOON), ago(200));
        assert_eq!(clock.age(NOON + 200_000, late + 50_000), Stamp::Impossible);
    }

    #[test]
    fn a_slow_answer_and_a_drift_are_no_jumps() {
        let (clock, start) = (Clock::default(), Instant::now());
        clock.says_at(NOON, start);
        clock.says_at(NOON + 4_000, after(start, 10));
        clock.says_at(NOON + 11_000, after(start, 11));
        for minute in 1..100 {
            clock.says_at(NOON + 61_000 * i64::try_from(minute).unwrap(), after(start, 60 * minute));
        }
        assert_eq!(clock.ahead(Duration::from_secs(3600)), 0);
    }

    #[test]
    fn what_no_clock_can_have_written_is_impossible() {
        let clock = Clock::default();
        assert_eq!(clock.latest(), None);
        for then in [NOON + 61_000, NOON + 6 * HOUR, i64::MAX, 5_000, -5] {
            assert_eq!(clock.age(NOON, then), Stamp::Impossible, "{then}");
        }
        assert_eq!(clock.age(NOON, NOON + 59_000), ago(0), "two servers may differ a little");
        assert_eq!(clock.age(NOON, NOON - 9_999), Stamp::Ago(Duration::from_millis(9_999)));
    }
}
