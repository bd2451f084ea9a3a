//! What the table says, and what it is told of addresses that are on an ENI.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Fleet, by};
use crate::domain::address::{Change, Row};
use crate::domain::holding::{Follow, Holding, Moment};
use crate::domain::id::EniId;
use crate::error::Error;

/// What came of telling the table of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// It says so now.
    Done,
    /// It is to be told again.
    Again,
    /// It says that the address is not this ENI's, or is being given back.
    Differs,
}

impl Fleet {
    /// The table is told what the journal says of these addresses; for each what came of it. A row that is not the ENI's any
    /// more, or is being given back, is not forced: look again (I5).
    ///
    /// # Errors
    /// The store's: then it is not known which of them the table says.
    pub async fn post(&self, holdings: &[Holding], now: &Moment, budget: Duration) -> Result<Vec<Posted>, Error> {
        let ips: Vec<Ipv4Addr> = holdings.iter().map(|holding| holding.ip).collect();
        let store = self.store.now()?;
        let rows = store.rows_at(&ips, by(budget)).await?;
        let row = |ip: Ipv4Addr| rows.iter().find(|row| row.ip == ip);
        let follows: Vec<Follow> = holdings.iter().map(|holding| holding.follow(row(holding.ip), now)).collect();
        let change = |follow: &Follow| match follow {
            Follow::Change(change) => Some(change.clone()),
            Follow::Same | Follow::Differs => None,
        };
        let changes: Vec<Change> = follows.iter().filter_map(change).collect();
        let mut done = store.apply(&changes, by(budget)).await?.into_iter();
        let outcome = follows.iter().map(|follow| match follow {
            Follow::Same => Posted::Done,
            Follow::Differs => Posted::Differs,
            Follow::Change(_) if done.next() == Some(true) => Posted::Done,
            // Somebody moved it at this moment.
            Follow::Change(_) => Posted::Again,
        });
        Ok(outcome.collect())
    }

    /// The rows of an ENI, coldest first, and those of these other addresses.
    ///
    /// # Errors
    /// The store's.
    pub async fn look(&self, eni: &EniId, others: &[Ipv4Addr], budget: Duration) -> Result<Vec<Row>, Error> {
        let until = by(budget);
        let mut rows = self.store.now()?.rows_of_eni(eni, until).await?;
        let others: Vec<Ipv4Addr> = others.iter().copied().filter(|ip| rows.iter().all(|row| row.ip != *ip)).collect();
        if !others.is_empty() {
            rows.extend(self.store.now()?.rows_at(&others, until).await?);
        }
        Ok(rows)
    }
}
