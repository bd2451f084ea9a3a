//! Idle addresses that the ENI gives back to the subnet.

use std::net::Ipv4Addr;

use tokio::time::Instant;

use super::task::Task;
use super::{Recycled, STORE_TIME};
use crate::domain::address::Row;
use crate::domain::id::Kind;
use crate::domain::plan::next::Because;
use crate::error::Error;
use crate::fleet::{GiveBack, GivenBack};
use crate::outside::ec2::Action;

impl Task {
    pub(super) async fn give_back(&mut self, rows: &[Row], because: Because, now: Instant) -> Result<(), Error> {
        match because {
            Because::Recycled => {
                self.pace.forget_top_up();
                self.recycle(rows).await;
                return Ok(());
            }
            Because::Excess => self.pace.was_trimmed(now),
            Because::LeftOff | Because::Room | Because::Named => {}
        }
        self.give_up(rows).await
    }

    pub(super) async fn give_up(&mut self, rows: &[Row]) -> Result<(), Error> {
        let given = self.unassign(rows).await?;
        self.note(Action::Unassign, given.trouble.as_ref());
        given.trouble.map_or(Ok(()), |why| Err(Error::Ec2(why)))
    }

    pub(super) async fn unassign(&mut self, rows: &[Row]) -> Result<GivenBack, Error> {
        if let Err(why) = self.shared.place.may_give_up().await {
            self.pace.give_up_later(Instant::now());
            return Err(why);
        }
        let ips: Vec<Ipv4Addr> = rows.iter().map(|row| row.ip).collect();
        self.shared.memory.taken_off(&ips);
        let token = self.outside.claims.next(Kind::Off);
        let request = GiveBack { eni: &self.nic.eni, rows, token, budget: STORE_TIME };
        let outcome = self.fleet.give_back(request).await;
        self.shared.memory.taken_off(&ips);
        if rows.iter().any(|row| row.kept_for().is_some()) {
            // It is reserved again.
            self.shared.reserved.forget();
        }
        if outcome.as_ref().is_ok_and(|given| given.freed > 0) {
            self.room.was_made();
        }
        outcome
    }

    async fn recycle(&mut self, idle: &[Row]) {
        let outcome = self.unassign(idle).await.and_then(|given| match given.trouble {
            Some(why) if given.freed == 0 => Err(Error::Ec2(why)),
            _ => Ok(Recycled { freed: given.freed, pending: given.pending }),
        });
        self.queue.recycled(&outcome);
    }
}
