//! Pauses between attempts.

use std::time::Duration;

/// Attempts that failed in a row. After each the pause is drawn from a span that doubles, with full jitter so that a fleet
/// does not come back as one.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

const FIRST: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(5);
/// No pause is shorter than this one.
const SHORTEST: Duration = Duration::from_millis(50);

impl Backoff {
    /// One more attempt failed: how long to wait before the next.
    pub fn fails(&mut self) -> Duration {
        let longest = span(self.failures);
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(fastrand::f64()).max(SHORTEST)
    }

    /// An attempt succeeded.
    pub fn succeeds(&mut self) {
        self.failures = 0;
    }

    /// How many failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

fn span(failures: u32) -> Duration {
    FIRST.saturating_mul(1 << failures.min(10)).min(LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew_after_a_success() {
        assert_eq!([0, 1, 4, 5, u32::MAX].map(|n| span(n).as_millis()), [200, 400, 3200, 5000, 5000]);
        let mut backoff = Backoff::default();
        for n in 0..100 {
            assert_eq!(backoff.failures(), n);
            let pause = backoff.fails();
            assert!(pause >= SHORTEST && pause <= span(n), "{pause:?} after {n}");
        }
        backoff.succeeds();
        assert!(backoff.fails() <= FIRST);
    }
}
