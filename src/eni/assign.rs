//! Addresses that the fleet engine gets for the ENI, and what is known once it has.

use tokio::time::Instant;

use super::STORE_TIME;
use super::task::{Task, Then};
use crate::domain::address::Row;
use crate::domain::id::Kind;
use crate::domain::plan::assign::Wanted;
use crate::error::Error;
use crate::fleet::{Acquire, Acquired};
use crate::outside::ec2::Ec2Error;

impl Task {
    /// Claims of an earlier life, or whose call was unclear.
    pub(super) async fn settle(&mut self, unsettled: Vec<Row>) -> Result<Then, Error> {
        let acquired = self.acquire(Wanted::Settled(unsettled)).await?;
        if !acquired.trouble.as_ref().is_some_and(Ec2Error::is_transient) {
            self.pace.settle_later(Instant::now());
        }
        self.outcome(acquired).await
    }

    pub(super) async fn acquire(&self, wanted: Wanted) -> Result<Acquired, Error> {
        let claims = &self.outside.claims;
        let leaving = self.shared.leaving();
        let request = Acquire {
            eni: &self.nic.eni,
            subnet: &self.subnet,
            wanted,
            on: claims.next(Kind::On),
            off: claims.next(Kind::Off),
            doubted: self.shared.memory.taken_off_lately(),
            leaving: &leaving,
            budget: STORE_TIME,
        };
        let acquired = self.fleet.acquire(request).await?;
        self.outside.counts.refused_blocks(acquired.refused_blocks.len());
        Ok(acquired)
    }
}
