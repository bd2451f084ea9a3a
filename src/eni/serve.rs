//! Addresses to those who wait.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::task::Task;
use super::{Order, STORE_TIME, WhyNot};
use crate::address::{Event, Row, State};
use crate::error::Error;
use crate::fault::point;
use crate::fleet::{Became, Posting};
use crate::id::Kind;
use crate::plan::next::Wish;

impl Task {
    /// on -> lease for those who wait, on -> ready for the rest; ready -> lease likewise.
    pub(super) async fn serve(&mut self, rows: Vec<Row>) -> Result<(), Error> {
        let parent = self.outside.links.parent(&self.nic.mac).await.ok();
        let mut postings = Vec::new();
        let mut granted = Vec::new();
        let mut lost = Vec::new();
        for row in rows {
            if row.state() == State::On {
                self.shared.memory.put_on(&[row.ip]);
            }
            let may_give = self.shared.memory.may_give(row.ip, parent.as_ref());
            if let Err(WhyNot::Leased(claim)) = may_give {
                // An idle one may have been granted since it was read; if it was not, the next step has its lease stand again.
                let event = Event::Lease { claim, holder: row.holder.clone() };
                lost.extend(row.on(event).ok().filter(|_| row.state() == State::On));
                continue;
            }
            let became = if may_give.is_ok()
                && let Some(order) = self.next_order(&row)
            {
                let token = self.outside.claims.next(Kind::Lease);
                let holder = order.holder.clone();
                granted.push((postings.len(), row.ip, token.clone(), order));
                Became::Lease { token, holder }
            } else if row.state() == State::On {
                Became::Idle
            } else {
                continue;
            };
            postings.push(Posting { row, became });
        }
        let until = Instant::now() + STORE_TIME;
        let outcome = match self.shared.stand_again(&lost, until).await {
            Ok(_) => self.fleet.post(postings, STORE_TIME).await,
            Err(why) => Err(why.into()),
        };
        let done = match outcome {
            Ok(done) => done,
            Err(why) => {
                // The rows stay claimed; the next step finds them.
                for (.., order) in granted.into_iter().rev() {
                    self.queue.push_front(order);
                }
                return Err(why);
            }
        };
        point("serve:leased").await;
        for (at, ip, claim, order) in granted {
            let span = order.span.clone();
            let _in_span = span.enter();
            if done.get(at) != Some(&true) {
                tracing::warn!(eni = %self.nic.eni, %ip, "somebody else moved {ip} meanwhile");
                self.queue.push_front(order);
                continue;
            }
            let _ = order.answer.send(Ok(self.shared.granted(ip, claim)));
        }
        Ok(())
    }

    /// I7: what is kept for somebody goes to who named it only. I10: an order may be content with less than another's cool-down.
    fn next_order(&mut self, row: &Row) -> Option<Order> {
        let cooled = |wish: &Wish| wish.ip.is_some() || row.kept_for().is_none() && row.has_cooled(wish.cooldown);
        let at = self
            .queue
            .iter()
            .position(|Order { wish, answer, .. }| wish.fits(row.ip) && cooled(wish) && !answer.is_closed())?;
        self.queue.remove(at)
    }

    pub(super) fn answer_front(&mut self, why: Error) {
        if let Some(order) = self.queue.pop_front() {
            let _ = order.answer.send(Err(why));
        }
    }

    pub(super) fn answer_any(&mut self, why: &Error) {
        let queue = std::mem::take(&mut self.queue);
        let (named, any): (VecDeque<Order>, VecDeque<Order>) =
            queue.into_iter().partition(|order| order.wish.ip.is_some());
        self.queue = named;
        for order in any {
            let _ = order.answer.send(Err(why.clone()));
        }
    }

    pub(super) fn answer_all(&mut self, why: &Error) {
        for order in std::mem::take(&mut self.queue) {
            let _ = order.answer.send(Err(why.clone()));
        }
    }
}
