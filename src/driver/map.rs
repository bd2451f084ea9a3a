//! Subnets of the table as a picture, with whoever has their addresses.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::{Instant, timeout_at};

use crate::domain::id::SubnetId;
use crate::domain::map::{Eni, Map, block_of};
use crate::driver::list::{Lister, known};
use crate::driver::served::Served;
use crate::eni::{self, Outside};
use crate::error::Error;

/// Of one question to the table. A large subnet's rows take a second or two, and somebody sits there and waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// Draws them.
pub struct Mapper {
    outside: Arc<Outside>,
    served: Arc<Served>,
    lister: Arc<Lister>,
}

impl Mapper {
    pub(crate) fn new(outside: &Arc<Outside>, served: &Arc<Served>, lister: &Arc<Lister>) -> Self {
        Self { outside: Arc::clone(outside), served: Arc::clone(served), lister: Arc::clone(lister) }
    }

    /// One subnet; else all of the table, or those in which an ENI is served, if there are any.
    ///
    /// # Errors
    /// The table's; it has no rows of the subnet.
    pub async fn map(&self, subnet: Option<SubnetId>, all: bool, until: Instant) -> Result<Map, Error> {
        let by = || until.min(Instant::now() + PATIENCE);
        let store = self.outside.store(by()).await?;
        let (subnets, is_named) = match (subnet, all) {
            (Some(subnet), _) => (vec![subnet], true),
            (None, true) => (store.subnets(by()).await?, false),
            (None, false) => (self.lister.subnets(&store, by()).await?, false),
        };
        let served = self.served.all().await;
        let own = |eni: &Arc<eni::Eni>| Eni {
            eni: eni.nic.eni.clone(),
            instance: Some(eni.instance().to_owned()),
            here: !eni.is_distant(),
        };
        let mut own: Vec<Eni> = served.iter().map(own).collect();
        own.sort_by(|a, b| a.eni.cmp(&b.eni));
        let time = self.outside.journal.now().wall.as_secs();
        let mut map = Map::of_hosts(time, own, &store.hosts(by()).await?);
        for subnet in subnets {
            let rows = {
                // It is much, and nobody's start: those who wait for one go first.
                let _turn = timeout_at(by(), store.background_turn()).await;
                self.lister.rows(&store, &subnet, true, by()).await?
            };
            if rows.is_empty() && is_named {
                known(&store, &subnet, by()).await?;
            }
            let cidr = served.iter().find(|eni| eni.subnet.id == subnet).map(|eni| eni.subnet.cidr);
            // Of 65,536 rows that is some time of the processor, and grants are answered beside it (I4).
            block_in_place(|| {
                if let Some(cidr) = cidr.or_else(|| block_of(&rows)) {
                    map.draw(subnet, cidr, &rows, |row| self.lister.holder(row));
                }
            });
        }
        Ok(map)
    }
}
