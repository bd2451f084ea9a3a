//! Leases by their age, and letting go of one by hand.
//!
//! An Engine that could not reach its server as a container stopped never tells again. To the server that lease is like one whose
//! container lives: only somebody who looks at that host can tell.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::domain::address::{Row, State};
use crate::domain::id::EniId;
use crate::driver::served::Served;
use crate::eni::{Eni, Outside};
use crate::error::Error;
use crate::journal::End;

/// A lease as `leases` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leased {
    /// The address.
    pub ip: Ipv4Addr,
    /// The ENI that it is on.
    pub eni: String,
    /// The instance that has the ENI; none where the ENI is not served here.
    pub instance: Option<String>,
    /// The container, where its Engine names it (29 and newer).
    pub holder: Option<String>,
    /// Since it was given; none where an older driver or the original gave it.
    pub seconds: Option<u64>,
}

/// Shows leases, and lets go of them.
pub struct Leases {
    outside: Arc<Outside>,
    served: Arc<Served>,
}

impl Leases {
    pub(crate) fn new(outside: &Arc<Outside>, served: &Arc<Served>) -> Self {
        Self { outside: Arc::clone(outside), served: Arc::clone(served) }
    }

    /// Those of the ENIs served here that were given so long ago, eldest first; where none is served, or those of other hosts
    /// are, all of the table.
    ///
    /// # Errors
    /// The table's.
    pub async fn older_than(&self, age: Duration, until: Instant) -> Result<Vec<Leased>, Error> {
        let store = self.outside.store(until).await?;
        let served = self.served.all().await;
        let mut rows = Vec::new();
        for eni in &served {
            rows.extend(self.served.rows(&store, &eni.nic.eni, until).await?);
        }
        // A server may not have been asked for all of its ENIs yet.
        if served.is_empty() || self.served.distant().is_served() {
            let is_served = |row: &Row| served.iter().any(|eni| row.iface.as_ref() == Some(&eni.nic.eni));
            for subnet in store.subnets(until).await? {
                rows.extend(store.rows_taken(&subnet, until).await?.into_iter().filter(|row| !is_served(row)));
            }
        }
        rows.retain(|row| row.state() == State::Lease && row.claimed.is_none_or(|given| given >= age));
        rows.sort_by_key(|row| (std::cmp::Reverse(row.claimed), row.ip));
        let leased = |row: &Row| {
            let instance = served.iter().find(|eni| row.iface.as_ref() == Some(&eni.nic.eni)).map(|eni| eni.instance());
            Leased {
                ip: row.ip,
                eni: row.iface.as_ref().map(ToString::to_string).unwrap_or_default(),
                instance: instance.map(str::to_owned),
                holder: row.endpoint().map(str::to_owned),
                seconds: row.claimed.map(|given| given.as_secs()),
            }
        };
        Ok(rows.iter().map(leased).collect())
    }

    /// The lease of an address is over: it cools from now on.
    ///
    /// # Errors
    /// There is none; Docker shows that a container has it; another host's driver has to say so.
    pub async fn release(&self, ip: Ipv4Addr, until: Instant) -> Result<(), Error> {
        let store = self.outside.store(until).await?;
        let row = store.row(ip, until).await?.filter(|row| row.state() == State::Lease);
        let Some(eni) = row.and_then(|row| row.iface) else {
            return Err(Error::Asked(format!("{ip} is no container's by the table: there is nothing to let go of")));
        };
        let served = match self.served(&eni, until).await {
            Err(Error::Driven { instance, .. }) => {
                return Err(Error::Asked(format!(
                    "{ip} is on {eni} of {instance}, which has a driver of its own: run this there"
                )));
            }
            outcome => outcome?,
        };
        let Some(eni) = served else {
            return Err(Error::Asked(format!(
                "{ip} is on {eni}, which is not served here: ask the driver of its host, or the server that serves it"
            )));
        };
        if self.outside.in_use.contains(ip) {
            return Err(Error::Asked(format!(
                "Docker shows that a container of this host has {ip}: stop the container"
            )));
        }
        eni.release(ip, End::LetGo).await;
        tracing::warn!(eni = %eni.nic.eni, %ip, "an operator let go of {ip}");
        Ok(())
    }

    /// A server that was started since may not have been asked for it yet.
    async fn served(&self, id: &EniId, until: Instant) -> Result<Option<Arc<Eni>>, Error> {
        let known = self.served.all().await.into_iter().find(|eni| eni.nic.eni == *id);
        if let Some(eni) = known.as_ref().filter(|eni| eni.is_distant()) {
            eni.is_driverless().await?;
        }
        if known.is_some() || self.served.distant().is_own(id, until).await {
            return Ok(known);
        }
        self.served.serve_distant(id, until).await.map(Some)
    }
}
