//! What was seen once waits here until a second look finds the same.
//!
//! EC2's lists lag in both directions, and Docker's show a container a moment late: one look proves nothing. A finding is
//! due when looks at least [`settle_age`] apart have found it, with the row unchanged, and none between them has not.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use super::settle_age;
use crate::domain::address::Guard;

/// What makes two findings the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sight<What> {
    /// The address.
    pub ip: Ipv4Addr,
    /// What it is.
    pub what: What,
    /// The row as it was seen; none: the address has no row.
    pub row: Option<Guard>,
}

/// What was seen, and when first.
#[derive(Debug)]
pub struct Ledger<What> {
    first: HashMap<Sight<What>, Instant>,
}

impl<What> Default for Ledger<What> {
    fn default() -> Self {
        Self { first: HashMap::new() }
    }
}

impl<What: Eq + Hash> Ledger<What> {
    /// For how long this has been seen; none: never before.
    pub fn age(&self, sight: &Sight<What>, now: Instant) -> Option<Duration> {
        self.first.get(sight).map(|first| now.saturating_duration_since(*first))
    }

    /// Whether it was seen by a look so long before this one that it is no accident.
    pub fn is_due(&self, sight: &Sight<What>, now: Instant) -> bool {
        self.age(sight, now).is_some_and(|age| age >= settle_age())
    }

    /// Takes down what a look that began at `now` has seen. What it has not seen is forgotten, but for what it was blind to.
    pub fn note(
        &mut self,
        seen: impl IntoIterator<Item = Sight<What>>,
        is_blind: impl Fn(&Sight<What>) -> bool,
        now: Instant,
    ) {
        let before = std::mem::take(&mut self.first);
        for sight in seen {
            let first = before.get(&sight).copied().unwrap_or(now);
            self.first.insert(sight, first);
        }
        self.first.extend(before.into_iter().filter(|(sight, _)| is_blind(sight)));
    }

    /// Whether anything waits for another look that meets the condition.
    pub fn waits(&self, which: impl Fn(&Sight<What>) -> bool) -> bool {
        self.first.keys().any(which)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(what: &'static str) -> Sight<&'static str> {
        Sight { ip: Ipv4Addr::new(10, 0, 0, 9), what, row: None }
    }

    #[test]
    fn a_finding_is_due_when_every_look_for_the_settle_age_has_found_it() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        ledger.note([sight("a")], |_| false, at(0));
        assert!(!ledger.is_due(&sight("a"), at(59)));
        ledger.note([sight("a")], |_| false, at(59));
        assert!(ledger.is_due(&sight("a"), at(60)));
        assert!(!ledger.is_due(&sight("b"), at(60)));
        ledger.note([], |_| false, at(61));
        ledger.note([sight("a")], |_| false, at(62));
        assert!(!ledger.is_due(&sight("a"), at(63)), "one look in between has not found it");
    }

    #[test]
    fn what_a_look_was_blind_to_is_neither_confirmed_nor_forgotten() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        ledger.note([sight("a"), sight("b")], |_| false, start);
        ledger.note([], |sight| sight.what == "a", start + Duration::from_secs(30));
        let later = start + Duration::from_secs(70);
        assert!(ledger.is_due(&sight("a"), later) && !ledger.is_due(&sight("b"), later));
        assert!(ledger.waits(|sight| sight.what == "a") && !ledger.waits(|sight| sight.what == "b"));
    }
}
