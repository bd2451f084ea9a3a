//! What the table says, and what it is told of addresses that are on an ENI.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Fleet, by};
use crate::domain::address::{Change, Event, Row, State};
use crate::domain::id::{Claim, EniId, SubnetId};
use crate::error::Error;

/// What an address on the ENI has become, for the table to say so.
#[derive(Debug, Clone)]
pub struct Posting {
    /// Its row as it was seen: claimed or idle.
    pub row: Row,
    /// What it has become.
    pub became: Became,
}

/// What an address on the ENI has become.
#[derive(Debug, Clone)]
pub enum Became {
    /// Idle.
    Idle,
    /// A container's.
    Lease {
        /// A `lease` token.
        token: Claim,
        /// The endpoint, if the Engine names it.
        holder: Option<String>,
    },
}

impl Posting {
    fn event(self) -> (Row, Event) {
        let event = match self.became {
            Became::Idle => Event::Confirm,
            Became::Lease { token, holder } => Event::Lease { claim: token, holder },
        };
        (self.row, event)
    }
}

impl Fleet {
    /// What the table is told of addresses that are on an ENI; for each, whether its row was as it was seen, so that the table
    /// says so now. If not, somebody else moved it: look again (I5).
    ///
    /// # Errors
    /// The store's: then it is not known which of them the table says.
    pub async fn post(&self, postings: Vec<Posting>, budget: Duration) -> Result<Vec<bool>, Error> {
        let changes: Vec<Option<Change>> =
            postings.into_iter().map(Posting::event).map(|(row, event)| row.on(event).ok()).collect();
        let possible: Vec<Change> = changes.iter().flatten().cloned().collect();
        let mut done = self.store.apply(&possible, by(budget)).await?.into_iter();
        Ok(changes.iter().map(|change| change.is_some() && done.next() == Some(true)).collect())
    }

    /// The rows of an ENI, coldest first, and those of these other addresses.
    ///
    /// # Errors
    /// The store's.
    pub async fn look(&self, eni: &EniId, others: &[Ipv4Addr], budget: Duration) -> Result<Vec<Row>, Error> {
        let until = by(budget);
        let mut rows = self.store.rows_of_eni(eni, until).await?;
        let others: Vec<Ipv4Addr> = others.iter().copied().filter(|ip| rows.iter().all(|row| row.ip != *ip)).collect();
        if !others.is_empty() {
            rows.extend(self.store.rows_at(&others, until).await?);
        }
        Ok(rows)
    }

    /// How many addresses of a subnet nobody has, as of a moment ago.
    ///
    /// # Errors
    /// The store's.
    pub async fn census(&self, subnet: &SubnetId, budget: Duration) -> Result<u64, Error> {
        let census = self.store.census_lately(subnet, by(budget)).await?;
        Ok(census.iter().filter(|count| count.state == State::Free).map(|count| count.rows).sum())
    }
}
