//! Whether the server answers at all: what its connections tell of one another.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The longest that one attempt may take before a new connection is tried: above the lock wait time-out, far below the
/// deadline of Docker's calls. A connection that a firewall forgot costs this once.
pub(super) const ATTEMPT: Duration = Duration::from_secs(6);

#[derive(Default)]
pub(super) struct Pulse(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// The first that was asked since the last answer.
    asked: Option<Instant>,
    answered: Option<Instant>,
    /// How long they take of late.
    attempt: Duration,
    login: Duration,
}

impl Pulse {
    pub(super) fn asked(&self) {
        self.seen().asked.get_or_insert_with(Instant::now);
    }

    /// An attempt that began then has its answer.
    pub(super) fn answered(&self, begun: Instant) {
        let mut seen = self.seen();
        (seen.asked, seen.answered) = (None, Some(Instant::now()));
        seen.attempt = of_late(seen.attempt, begun);
    }

    /// A login is an answer too.
    pub(super) fn let_in(&self, begun: Instant) {
        let mut seen = self.seen();
        (seen.asked, seen.answered) = (None, Some(Instant::now()));
        seen.login = of_late(seen.login, begun);
    }

    /// An attempt that began then was cut off: it takes longer than that.
    pub(super) fn cut_off(&self, begun: Instant) {
        let mut seen = self.seen();
        seen.attempt = seen.attempt.max(begun.elapsed().min(ATTEMPT));
    }

    pub(super) fn was_answered_since(&self, then: Instant) -> bool {
        self.seen().answered.is_some_and(|answered| answered >= then)
    }

    /// For how long whatever was asked has had no answer.
    pub(super) fn silent_for(&self) -> Duration {
        self.seen().asked.map_or(Duration::ZERO, |asked| asked.elapsed())
    }

    /// How long an attempt may well take, on a new connection or on one that is there.
    pub(super) fn need(&self, login: bool) -> Duration {
        let seen = self.seen();
        (seen.attempt + if login { seen.login } else { Duration::ZERO }).mul_f64(1.25)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Longer at once, shorter little by little.
fn of_late(known: Duration, begun: Instant) -> Duration {
    let took = begun.elapsed().min(ATTEMPT);
    if took > known { took } else { (known * 7 + took) / 8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_answer_speaks_for_the_server() {
        let pulse = Pulse::default();
        let begun = Instant::now();
        assert_eq!(pulse.silent_for(), Duration::ZERO, "nothing was asked");
        pulse.asked();
        tokio::time::advance(Duration::from_secs(2)).await;
        pulse.asked();
        assert_eq!(pulse.silent_for(), Duration::from_secs(2));
        assert!(!pulse.was_answered_since(begun));
        pulse.answered(begun);
        assert_eq!((pulse.silent_for(), pulse.need(false)), (Duration::ZERO, Duration::from_millis(2500)));
        pulse.answered(Instant::now());
        assert_eq!(pulse.need(true), Duration::from_millis(2500) * 7 / 8);
        assert!(pulse.was_answered_since(begun) && !pulse.was_answered_since(Instant::now() + Duration::from_secs(1)));
    }
}
