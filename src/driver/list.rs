//! Rows of subnets, as `list` shows them and `map` draws them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::domain::address::{Row, State};
use crate::domain::block::Block;
use crate::domain::id::SubnetId;
use crate::driver::served::Served;
use crate::eni::Outside;
use crate::error::Error;
use crate::store::Store;

/// A row as `list` shows it.
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "columns")]
pub struct Listed {
    pub ip: Ipv4Addr,
    pub subnet: String,
    pub state: State,
    pub iface: Option<String>,
    /// The instance that has the interface, where that is another host than this, served here.
    #[serde(default)]
    pub host: Option<String>,
    pub primary: bool,
    /// The block that it is on the interface with, such as `10.0.1.16/28`; none: it is there by itself.
    #[serde(default)]
    pub block: Option<String>,
    /// The container that uses it, or used it last; or who reserved it.
    pub holder: Option<String>,
    /// Whether it was named: by that container (`--ip`), or as a network's auxiliary address.
    pub named: bool,
    /// Whether it is reserved for the holder, and stays so.
    pub reserved: bool,
    /// The Elastic IP that EC2 last showed on it, of this host's interfaces.
    pub elastic_ip: Option<Ipv4Addr>,
    /// Since it was let go; none for an address that was never in use.
    pub idle_seconds: Option<u64>,
}

/// Reads them.
pub struct Lister {
    outside: Arc<Outside>,
    served: Arc<Served>,
}

impl Lister {
    pub(crate) fn new(outside: &Arc<Outside>, served: &Arc<Served>) -> Self {
        Self { outside: Arc::clone(outside), served: Arc::clone(served) }
    }

    /// The rows of a subnet, with or without the free ones; by default of each subnet in which an ENI is served, or, where none
    /// is, of every subnet of the table.
    pub async fn list(&self, subnet: Option<SubnetId>, free_too: bool, until: Instant) -> Result<Vec<Listed>, Error> {
        let store = self.outside.store(until).await?;
        let served = self.served.all().await;
        let (subnets, is_named) = match subnet {
            Some(subnet) => (vec![subnet], true),
            None => (self.subnets(&store, until).await?, false),
        };
        let mut listed = Vec::new();
        for subnet in subnets {
            let rows = self.rows(&store, &subnet, free_too, until).await?;
            if rows.is_empty() && is_named {
                known(&store, &subnet, until).await?;
            }
            let host = |row: &Row| {
                let mut distant = served.iter().filter(|eni| eni.is_distant());
                distant.find(|eni| row.iface.as_ref() == Some(&eni.nic.eni)).map(|eni| eni.instance().to_owned())
            };
            listed.extend(rows.into_iter().map(|row| Listed {
                ip: row.ip,
                host: host(&row),
                state: row.state(),
                subnet: row.subnet.to_string(),
                iface: row.iface.as_ref().map(ToString::to_string),
                primary: row.primary,
                block: row.in_block.then(|| Block::of(row.ip).to_string()),
                holder: self.holder(&row),
                named: row.is_fixed() && row.kept_for().is_none(),
                reserved: row.kept_for().is_some(),
                elastic_ip: served.iter().find_map(|eni| eni.elastic_ip(row.ip)),
                idle_seconds: row.let_go().map(|idle| idle.as_secs()),
            }));
        }
        Ok(listed)
    }

    /// The rows of a subnet, as they are once the table has followed the journal.
    pub(crate) async fn rows(
        &self,
        store: &Store,
        subnet: &SubnetId,
        free_too: bool,
        until: Instant,
    ) -> Result<Vec<Row>, Error> {
        let served = self.served.all().await;
        let behind: Vec<_> = served.iter().map(|eni| (eni, eni.behind())).collect();
        let mut rows =
            if free_too { store.rows_of_subnet(subnet, until).await? } else { store.rows_taken(subnet, until).await? };
        behind.iter().for_each(|(eni, behind)| eni.overlay(&mut rows, behind));
        Ok(rows)
    }

    /// Those in which an ENI is served, or, where none is, all of the table.
    pub(crate) async fn subnets(&self, store: &Store, until: Instant) -> Result<Vec<SubnetId>, Error> {
        let mut served: Vec<_> = self.served.all().await.iter().map(|eni| eni.subnet.id.clone()).collect();
        if served.is_empty() {
            return Ok(store.subnets(until).await?);
        }
        served.sort();
        served.dedup();
        Ok(served)
    }

    /// The container that has an address or had it last, or who reserved it. Engines before 29 do not say which container
    /// asks, but list it afterwards.
    pub(crate) fn holder(&self, row: &Row) -> Option<String> {
        let listed = || self.outside.in_use.name(row.ip).filter(|_| row.state() == State::Lease);
        row.endpoint().map(ToOwned::to_owned).or_else(listed)
    }
}

/// Nothing to list is an answer only for a subnet that the table has.
pub(crate) async fn known(store: &Store, subnet: &SubnetId, until: Instant) -> Result<(), Error> {
    let all = store.subnets(until).await?;
    if all.contains(subnet) {
        return Ok(());
    }
    let has = if all.is_empty() {
        "none yet".to_owned()
    } else {
        all.iter().map(SubnetId::as_str).collect::<Vec<_>>().join(", ")
    };
    Err(Error::Asked(format!(
        "the table has no rows of {subnet}; the subnets that it has: {has}. `ec2-ipam init` and the first network in a subnet fill it"
    )))
}
