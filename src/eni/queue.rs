//! Everybody who waits for an ENI's task: containers for addresses, operators and reconciling for what they asked for.

use std::collections::VecDeque;

use tokio::sync::oneshot;
use tracing::Span;

use super::{Lease, Recycled, Repaired};
use crate::domain::address::Row;
use crate::domain::plan::next::Wish;
use crate::domain::plan::reconcile::Finding;
use crate::error::Error;

/// What is asked of an ENI's task.
pub(super) enum Want {
    /// An address for a container.
    Order(Order),
    /// A warm address was granted: the pool wants filling soon.
    TopUp,
    /// An address was released, or granted by name: one that was named is to go back once it has cooled.
    Look,
    /// Idle addresses back to the subnet.
    Recycle(Answer<Recycled>),
    /// What reconciling found, to be put right.
    Repair(Vec<Finding>, Answer<Repaired>),
}

/// Where the outcome goes; closed when nobody waits any more.
type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// A container's request for an address.
pub(super) struct Order {
    wish: Wish,
    holder: Option<String>,
    /// Of the request.
    span: Span,
    answer: Answer<Lease>,
}

impl Order {
    /// For this endpoint; where its lease, or the refusal, arrives.
    pub(super) fn new(wish: Wish, holder: Option<String>) -> (Self, oneshot::Receiver<Result<Lease, Error>>) {
        let (answer, outcome) = oneshot::channel();
        (Self { wish, holder, span: Span::current(), answer }, outcome)
    }

    pub(super) fn holder(&self) -> Option<String> {
        self.holder.clone()
    }

    /// The request's.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    pub(super) fn answer(self, outcome: Result<Lease, Error>) {
        let _ = self.answer.send(outcome);
    }

    /// I7: what is kept for somebody goes to who named it only. I10: it may be content with less than another's cool-down.
    fn takes(&self, row: &Row) -> bool {
        let is_cool = self.wish.ip.is_some() || row.kept_for().is_none() && row.has_cooled(self.wish.cooldown);
        is_cool && self.wish.fits(row.ip) && !self.answer.is_closed()
    }
}

/// Who waits, oldest first.
#[derive(Default)]
pub(super) struct Queue {
    orders: VecDeque<Order>,
    repairs: VecDeque<(Vec<Finding>, Answer<Repaired>)>,
    recycles: Vec<Answer<Recycled>>,
}

impl Queue {
    pub(super) fn order(&mut self, order: Order) {
        self.orders.push_back(order);
    }

    pub(super) fn repair(&mut self, findings: Vec<Finding>, answer: Answer<Repaired>) {
        self.repairs.push_back((findings, answer));
    }

    pub(super) fn recycle(&mut self, answer: Answer<Recycled>) {
        self.recycles.push(answer);
    }

    /// Those who wait no more are not worked for.
    pub(super) fn drop_who_left(&mut self) {
        self.orders.retain(|order| !order.answer.is_closed());
        self.repairs.retain(|(_, answer)| !answer.is_closed());
    }

    /// Whether no container waits.
    pub(super) fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// What containers wait for.
    pub(super) fn wishes(&self) -> Vec<Wish> {
        self.orders.iter().map(|order| order.wish).collect()
    }

    pub(super) fn has_repair(&self) -> bool {
        !self.repairs.is_empty()
    }

    pub(super) fn has_recycle(&self) -> bool {
        !self.recycles.is_empty()
    }

    pub(super) fn next_repair(&mut self) -> Option<(Vec<Finding>, Answer<Repaired>)> {
        self.repairs.pop_front()
    }

    /// Tells all operators who wait what came of it.
    pub(super) fn recycled(&mut self, outcome: &Result<Recycled, Error>) {
        for answer in self.recycles.drain(..) {
            let _ = answer.send(outcome.clone());
        }
    }

    /// The first who takes this address. He waits no more, unless he is [put back](Self::put_back).
    pub(super) fn next_for(&mut self, row: &Row) -> Option<Order> {
        let at = self.orders.iter().position(|order| order.takes(row))?;
        self.orders.remove(at)
    }

    /// He did not get it, and is the first again.
    pub(super) fn put_back(&mut self, order: Order) {
        self.orders.push_front(order);
    }

    pub(super) fn refuse_first(&mut self, why: Error) {
        if let Some(order) = self.orders.pop_front() {
            order.answer(Err(why));
        }
    }

    /// Those who named no address.
    pub(super) fn refuse_any(&mut self, why: &Error) {
        let (named, any): (VecDeque<Order>, VecDeque<Order>) =
            std::mem::take(&mut self.orders).into_iter().partition(|order| order.wish.ip.is_some());
        self.orders = named;
        any.into_iter().for_each(|order| order.answer(Err(why.clone())));
    }

    pub(super) fn refuse_all(&mut self, why: &Error) {
        self.orders.drain(..).for_each(|order| order.answer(Err(why.clone())));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::domain::address::{KEPT, Status};
    use crate::domain::id::SubnetId;

    type Outcome = oneshot::Receiver<Result<Lease, Error>>;

    const MINUTE: Duration = Duration::from_secs(60);

    fn ready(last: u8, idle: u64) -> Row {
        Row {
            ip: Ipv4Addr::new(10, 0, 0, last),
            subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
            status: Status::Ready,
            iface: None,
            primary: false,
            in_block: false,
            claim: None,
            holder: None,
            idle: Duration::from_secs(idle),
            claimed: None,
        }
    }

    fn any(name: &str, range: Option<&str>, cooldown: Duration) -> (Order, Outcome) {
        let sub_pool = range.map(|range| range.parse().unwrap());
        Order::new(Wish { ip: None, sub_pool, cooldown }, Some(name.into()))
    }

    fn named(last: u8) -> (Order, Outcome) {
        let ip = Some(Ipv4Addr::new(10, 0, 0, last));
        Order::new(Wish { ip, sub_pool: None, cooldown: Duration::ZERO }, Some(last.to_string()))
    }

    fn queue(orders: Vec<(Order, Outcome)>) -> (Queue, Vec<Outcome>) {
        let mut queue = Queue::default();
        let outcomes = orders.into_iter().map(|(order, outcome)| {
            queue.order(order);
            outcome
        });
        let outcomes = outcomes.collect();
        (queue, outcomes)
    }

    fn next_for(queue: &mut Queue, row: &Row) -> Option<String> {
        queue.next_for(row).and_then(|order| order.holder())
    }

    fn is_refused(outcome: &mut Outcome) -> bool {
        outcome.try_recv().is_ok_and(|outcome| matches!(outcome, Err(Error::Stopping)))
    }

    #[test]
    fn an_address_goes_to_the_first_who_takes_it() {
        let hot = Duration::ZERO;
        let orders = vec![
            any("range", Some("10.0.0.128/25"), hot),
            named(10),
            any("cool", None, MINUTE),
            any("hot", None, hot),
            any("late", None, MINUTE),
        ];
        let (mut queue, _outcomes) = queue(orders);
        let kept = Row { holder: Some(format!("{KEPT}db")), ..ready(20, 900) };
        assert_eq!(next_for(&mut queue, &kept), None, "I7");
        assert_eq!(next_for(&mut queue, &ready(11, 5)).as_deref(), Some("hot"), "I10");
        assert_eq!(next_for(&mut queue, &ready(11, 900)).as_deref(), Some("cool"));
        assert_eq!(next_for(&mut queue, &ready(200, 5)).as_deref(), Some("range"));
        assert_eq!(next_for(&mut queue, &Row { ip: ready(10, 0).ip, ..kept }).as_deref(), Some("10"), "he named it");
        assert_eq!(next_for(&mut queue, &ready(12, 5)), None);
        assert!(!queue.is_empty() && queue.wishes().len() == 1);
    }

    #[test]
    fn who_did_not_get_it_is_the_first_again() {
        let (mut queue, _outcomes) = queue(vec![any("a", None, MINUTE), any("b", None, MINUTE)]);
        let a = queue.next_for(&ready(10, 900)).unwrap();
        queue.put_back(a);
        assert_eq!(next_for(&mut queue, &ready(10, 900)).as_deref(), Some("a"));
    }

    #[test]
    fn who_left_gets_nothing_and_is_not_worked_for() {
        let (mut queue, mut outcomes) = queue(vec![any("a", None, MINUTE), any("b", None, MINUTE)]);
        drop(outcomes.remove(0));
        assert_eq!(next_for(&mut queue, &ready(10, 900)).as_deref(), Some("b"));
        let (answer, repaired) = oneshot::channel();
        queue.repair(Vec::new(), answer);
        queue.drop_who_left();
        assert!(queue.is_empty() && queue.has_repair());
        drop(repaired);
        queue.drop_who_left();
        assert!(queue.next_repair().is_none());
    }

    #[test]
    fn a_refusal_is_for_the_first_for_those_who_named_no_address_or_for_all() {
        let orders = || vec![any("a", None, MINUTE), named(10), any("b", None, MINUTE)];
        let refused = |refuse: fn(&mut Queue)| {
            let (mut queue, mut outcomes) = queue(orders());
            refuse(&mut queue);
            let refused: Vec<bool> = outcomes.iter_mut().map(is_refused).collect();
            assert_eq!(queue.wishes().len(), refused.iter().filter(|refused| !**refused).count());
            refused
        };
        assert_eq!(refused(|queue| queue.refuse_first(Error::Stopping)), [true, false, false]);
        assert_eq!(refused(|queue| queue.refuse_any(&Error::Stopping)), [true, false, true]);
        assert_eq!(refused(|queue| queue.refuse_all(&Error::Stopping)), [true, true, true]);
    }

    #[test]
    fn one_recycling_is_for_all_who_asked() {
        let mut queue = Queue::default();
        let outcomes: Vec<_> = (0..2).map(|_| oneshot::channel()).collect();
        let outcomes = outcomes.into_iter().map(|(answer, outcome)| {
            queue.recycle(answer);
            outcome
        });
        let outcomes: Vec<_> = outcomes.collect();
        assert!(queue.has_recycle());
        let done = Recycled { freed: 3, pending: 1 };
        queue.recycled(&Ok(done));
        assert!(!queue.has_recycle());
        assert!(outcomes.into_iter().all(|mut outcome| outcome.try_recv() == Ok(Ok(done))));
    }
}
