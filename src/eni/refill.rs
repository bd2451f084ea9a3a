//! More addresses for the ENI: which, and how many.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use super::STORE_TIME;
use super::task::{Task, Then};
use crate::domain::address::{Event, Row};
use crate::domain::id::Kind;
use crate::domain::plan::assign::Wanted;
use crate::domain::plan::blocks::{Fetch, Outlook};
use crate::domain::plan::next::{Refill, Slot};
use crate::error::Error;
use crate::fleet::fill;
use crate::outside::ec2::Ec2;

/// The bound of filling a subnet; a /16 has 65,536 rows.
const FILL_TIME: Duration = Duration::from_secs(60);

impl Task {
    /// A free address that a container named. A full ENI gives up its coldest idle one for it.
    pub(super) async fn fetch_named(
        &mut self,
        ec2: &Ec2,
        ip: Ipv4Addr,
        slot: Slot,
        rows: &[Row],
    ) -> Result<Then, Error> {
        let Some(row) = self.store()?.row(ip, Instant::now() + STORE_TIME).await? else {
            if !self.fill(ec2, false).await? {
                let why = format!("the table has no row for it; run `ec2-ipam init {}`", self.subnet.id);
                self.queue.refuse_first(Error::NotGiven { ip, why });
            }
            return Ok(Then::Again);
        };
        let claim = self.outside.claims.next(Kind::On);
        let can_be_had = row.on(Event::Claim { eni: self.nic.eni.clone(), claim, in_block: false }).is_ok();
        match slot {
            // Room is made only for an address that can be had.
            Slot::Taken(idle) if can_be_had => {
                return self.give_up(&idle).await.map(|()| Then::Again);
            }
            Slot::Full if can_be_had => match self.shared.full(rows).await {
                Ok(rest) => return Ok(Then::Rest(rest)),
                Err(why) => {
                    self.queue.refuse_first(why);
                    return Ok(Then::Again);
                }
            },
            Slot::Open | Slot::Taken(_) | Slot::Full => {}
        }
        let acquired = self.acquire(Wanted::Named(row)).await?;
        if acquired.asked.is_empty() {
            self.queue
                .refuse_first(Error::NotGiven { ip, why: "another request for it was quicker; try again".into() });
            return Ok(Then::Again);
        }
        self.outcome(acquired).await
    }

    /// The ENI takes no more: those who want any address are told so, unless some may become idle soon.
    pub(super) async fn refuse_any(&mut self, rows: &[Row], now: Instant) -> Result<Then, Error> {
        self.was_asked_for(now);
        match self.shared.full(rows).await {
            Ok(rest) => return Ok(Then::Rest(rest)),
            Err(why) => self.queue.refuse_any(&why),
        }
        self.pace.hold_no_reserve(now);
        Ok(Then::Again)
    }

    /// One Assign for all who wait and for what the warm target lacks.
    pub(super) async fn refill(
        &mut self,
        ec2: &Ec2,
        wanted: Refill,
        rows: &[Row],
        now: Instant,
    ) -> Result<Then, Error> {
        let Refill { sub_pool, cooldown, waiting, lacking, .. } = wanted;
        self.was_asked_for(now);
        let outlook = self.outlook(&wanted, rows, now).await?;
        let mut size = waiting;
        if let Some(lacking) = lacking {
            let left = self.outside.warmth.leaves(&self.subnet);
            if self.store()?.has_free(&self.subnet.id, left, now + STORE_TIME).await? {
                size = self.burst.refill(waiting + lacking, waiting > 0, now);
            }
        }
        let count = match outlook.fetch(size) {
            Fetch::Singles(count) => count,
            Fetch::Blocks(count) => match self.fetch_blocks(&wanted, count).await? {
                Some(then) => return Ok(then),
                None => Outlook { possible: false, ..outlook }.singles(size),
            },
        };
        let acquired = self.acquire(Wanted::Free { count, sub_pool, cooldown }).await?;
        if acquired.asked.is_empty() {
            // No rows is not none free: the table may be new, or a restored backup.
            if self.fill(ec2, false).await? {
                return Ok(Then::Again);
            }
            let (subnet, what_helps) = (self.subnet.id.clone(), self.what_helps(rows));
            self.queue.refuse_any(&Error::NoFreeAddress { subnet, range: sub_pool, what_helps });
            self.pace.hold_no_reserve(now);
            return Ok(Then::Again);
        }
        self.outcome(acquired).await
    }

    /// A top-up has had its turn, unless somebody waited: then it was for him.
    fn was_asked_for(&mut self, now: Instant) {
        if self.queue.is_empty() {
            self.pace.was_topped_up(now);
        }
    }

    /// What to do where no address of the subnet is free.
    fn what_helps(&self, rows: &[Row]) -> String {
        let (eni, subnet) = (&self.nic.eni, &self.subnet.id);
        let unknown = self.shared.unknown(rows);
        if unknown > 0 && self.outside.in_use.count().is_some() {
            return format!(
                ": {unknown} addresses of {eni} that the table did not know are still being looked at; those that no container \
                 has are given out in about a minute"
            );
        }
        if self.outside.store.now().is_ok_and(|store| store.is_private()) {
            return format!(
                ": stop containers, run `ec2-ipam recycle {subnet}` on hosts that hold idle ones, or use a larger subnet"
            );
        }
        format!(
            ": stop containers, run `ec2-ipam recycle {subnet} --all` to have every host give its idle addresses back, or use a \
             larger subnet"
        )
    }

    /// Fills the subnet if it lacks rows: Docker does not ask again for the pool of a network that is there, whatever became of
    /// the table. Says whether rows came. `closely`: every row is counted.
    pub(super) async fn fill(&self, ec2: &Ec2, closely: bool) -> Result<bool, Error> {
        let until = Instant::now() + FILL_TIME;
        let store = &*self.store()?;
        let is_filled = if closely {
            fill::is_complete(store, &self.subnet, until).await?
        } else {
            fill::was_filled(store, &self.subnet, until).await?
        };
        if is_filled {
            return Ok(false);
        }
        Ok(fill::refresh(store, ec2, &self.subnet, until).await?.inserted > 0)
    }

    /// How many more addresses the ENI takes.
    pub(super) fn capacity(&self, rows: &[Row]) -> usize {
        self.room.left(self.shared.room(rows), Instant::now())
    }
}
