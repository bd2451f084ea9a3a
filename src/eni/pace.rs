//! When an ENI's task does what, and for how long it lets alone what did not succeed.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::domain::plan::next::{REST, Times};
use crate::domain::plan::settle_age;

/// A warm address taken is replaced so much later: within a burst one large refill does it all.
const TOP_UP_DELAY: Duration = Duration::from_secs(1);
/// After a refusal nothing is asked of EC2 for warmth alone for so long (vpc-cni waits as long for a full subnet).
const WARM_BACK_OFF: Duration = Duration::from_secs(120);
/// Between two attempts at claims that could not be settled, at whose the ENI is, and at EC2 where IMDS has answered for it.
const SETTLE_PAUSE: Duration = Duration::from_secs(10);

/// The times of one ENI.
pub(super) struct Pace {
    times: Times,
    /// Nothing at all is done until then.
    retry_at: Instant,
    failures: Backoff,
    /// Assigns in a row that gave nothing, because all that they asked for was somebody else's.
    fruitless: Backoff,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        let times = Times {
            look_at: None,
            fill_at: Some(now),
            settle_at: now,
            give_up_at: now,
            warm_at: now,
            top_up_at: None,
            trim_at: now + settle_age(),
            last_call: now,
        };
        Self { times, retry_at: now, failures: Backoff::default(), fruitless: Backoff::default() }
    }

    pub(super) fn times(&self) -> Times {
        self.times
    }

    /// While another server settles and gives back.
    pub(super) fn times_of_another(&self, now: Instant) -> Times {
        Times { settle_at: now + REST, give_up_at: now + REST, ..self.times }
    }

    /// Until when nothing is to be done at all.
    pub(super) fn pauses(&self, now: Instant) -> Option<Instant> {
        Some(self.retry_at).filter(|at| now < *at)
    }

    /// It came to nothing: when to try again.
    pub(super) fn failed(&mut self, now: Instant) -> Instant {
        self.retry_at = now + self.failures.fails();
        self.retry_at
    }

    /// It went well.
    pub(super) fn went_on(&mut self) {
        self.failures.succeeds();
    }

    /// An Assign gave nothing, and nothing stood in its way.
    pub(super) fn was_fruitless(&mut self, now: Instant) {
        self.retry_at = now + self.fruitless.fails();
    }

    /// An Assign gave something, and nothing stood in its way.
    pub(super) fn was_fruitful(&mut self) {
        self.fruitless.succeeds();
    }

    /// A container came.
    pub(super) fn called(&mut self, now: Instant) {
        self.times.last_call = now;
    }

    /// A container came or went: a while later, which is said, the pool is filled, if that is called for.
    pub(super) fn top_up_soon(&mut self, now: Instant) -> Instant {
        self.called(now);
        *self.times.top_up_at.get_or_insert(now + TOP_UP_DELAY)
    }

    /// A drained host has given back: what becomes idle from now on goes a while later, many with one Unassign.
    pub(super) fn was_drained(&mut self, now: Instant) {
        self.times.top_up_at = Some(now + TOP_UP_DELAY);
    }

    /// What was lacking is on its way, or nothing was.
    pub(super) fn was_topped_up(&mut self, now: Instant) {
        self.times.top_up_at.take_if(|at| *at <= now);
    }

    /// What an operator gives back shall not be refilled for the sake of an earlier call.
    pub(super) fn forget_top_up(&mut self) {
        self.times.top_up_at = None;
    }

    /// EC2 or the subnet has refused more.
    pub(super) fn hold_no_reserve(&mut self, now: Instant) {
        self.times.warm_at = now + WARM_BACK_OFF;
    }

    /// What was beyond need has gone, or nothing was.
    pub(super) fn was_trimmed(&mut self, now: Instant) {
        self.times.trim_at = now + settle_age();
    }

    /// Everything that was due has had its turn.
    pub(super) fn rests(&mut self, now: Instant) {
        self.was_topped_up(now);
        if now >= self.times.trim_at.max(self.times.give_up_at) {
            self.was_trimmed(now);
        }
    }

    /// IMDS answers for EC2, which is asked again soon, but not by the whole fleet at once.
    pub(super) fn look_again(&mut self, now: Instant) {
        self.times.look_at = Some(now + SETTLE_PAUSE.mul_f64(0.5 + fastrand::f64()));
    }

    /// EC2 itself has answered.
    pub(super) fn has_looked(&mut self) {
        self.times.look_at = None;
    }

    pub(super) fn fill_again(&mut self, now: Instant) {
        self.times.fill_at = Some(now + REST);
    }

    pub(super) fn was_filled(&mut self) {
        self.times.fill_at = None;
    }

    /// EC2 works: what is left over all the same must not keep other addresses from those who wait.
    pub(super) fn settle_later(&mut self, now: Instant) {
        self.times.settle_at = now + SETTLE_PAUSE;
    }

    pub(super) fn settle_now(&mut self, now: Instant) {
        self.times.settle_at = now;
    }

    /// Whose the ENI is was not sure.
    pub(super) fn give_up_later(&mut self, now: Instant) {
        self.times.give_up_at = now + SETTLE_PAUSE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn failures_in_a_row_wait_longer_and_longer_until_one_step_goes_well() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(pace.pauses(now), None);
        // With full jitter, so that only the bound tells.
        let longest = |pace: &mut Pace| (0..100).map(|_| pace.failed(now) - now).max().unwrap();
        assert!(longest(&mut pace) > SECOND);
        let at = pace.failed(now);
        assert_eq!(pace.pauses(now), Some(at));
        assert_eq!(pace.pauses(at), None);
        pace.went_on();
        assert!(pace.failed(now) - now <= SECOND);
    }

    #[test]
    fn one_top_up_is_for_all_that_happened_before_it() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let due = pace.top_up_soon(now);
        assert_eq!(due, now + TOP_UP_DELAY);
        assert_eq!(pace.top_up_soon(now + SECOND / 2), due);
        assert_eq!(pace.times().last_call, now + SECOND / 2);
        pace.was_topped_up(now + SECOND / 2);
        assert_eq!(pace.times().top_up_at, Some(due), "that was for somebody who waited");
        pace.rests(due);
        assert_eq!(pace.times().top_up_at, None);
        assert_eq!(pace.top_up_soon(due), due + TOP_UP_DELAY);
        pace.forget_top_up();
        assert_eq!(pace.times().top_up_at, None);
    }

    #[test]
    fn it_is_trimmed_once_in_a_settle_age_and_not_while_nothing_may_be_given_up() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let due = now + settle_age();
        pace.rests(now);
        assert_eq!(pace.times().trim_at, due);
        pace.give_up_later(due);
        pace.rests(due);
        assert_eq!(pace.times().trim_at, due, "its turn is yet to come");
        pace.rests(due + SETTLE_PAUSE);
        assert_eq!(pace.times().trim_at, due + SETTLE_PAUSE + settle_age());
    }

    #[test]
    fn ec2_is_asked_again_until_it_has_answered_and_the_subnet_looked_at_until_it_is_filled() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!((pace.times().look_at, pace.times().fill_at), (None, Some(now)));
        pace.look_again(now);
        let wait = pace.times().look_at.unwrap() - now;
        assert!(wait >= SETTLE_PAUSE / 2 && wait <= SETTLE_PAUSE * 3 / 2, "{wait:?}");
        pace.fill_again(now);
        assert_eq!(pace.times().fill_at, Some(now + REST));
        pace.has_looked();
        pace.was_filled();
        assert_eq!((pace.times().look_at, pace.times().fill_at), (None, None));
    }
}
