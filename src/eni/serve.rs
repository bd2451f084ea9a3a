//! Addresses to those who wait.

use tokio::time::Instant;

use super::task::Task;
use super::{STORE_TIME, WhyNot};
use crate::domain::address::{Event, Row, State};
use crate::domain::id::Kind;
use crate::error::Error;
use crate::fail_point::point;
use crate::fleet::{Became, Posting};

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
                && let Some(order) = self.queue.next_for(&row)
            {
                let token = self.outside.claims.next(Kind::Lease);
                let holder = order.holder();
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
                    self.queue.put_back(order);
                }
                return Err(why);
            }
        };
        point("serve:leased").await;
        for (at, ip, claim, order) in granted {
            let span = order.span();
            let _in_span = span.enter();
            if done.get(at) != Some(&true) {
                tracing::warn!(eni = %self.nic.eni, %ip, "somebody else moved {ip} meanwhile");
                self.queue.put_back(order);
                continue;
            }
            order.answer(Ok(self.shared.granted(ip, claim)));
        }
        Ok(())
    }
}
