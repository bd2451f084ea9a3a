//! Addresses that an operator keeps for a name, so that a container of that name gets its own.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::{Eni, Lease, Shared};
use crate::domain::holding::{Held, Holding};
use crate::error::Error;
use crate::late::LAST_WORD;

/// What another host's operator reserves is known so much later: no start of a container asks the table.
const FRESH: Duration = Duration::from_secs(10);

/// How long the table has for it, and a start waits for what was never read, or was changed here.
const PATIENCE: Duration = Duration::from_secs(1);

/// The subnet's reserved addresses that are kept for a name, as last read.
#[derive(Default)]
pub(super) struct Reserved {
    known: watch::Sender<Known>,
    wanted: Notify,
}

#[derive(Default)]
struct Known {
    /// Read since it was last forgotten, or tried to be: a table that is away is not waited for again and again.
    is_current: bool,
    /// How often it was forgotten.
    forgotten: u64,
    /// Names, and their addresses.
    of: Vec<(String, Ipv4Addr)>,
}

impl Reserved {
    /// From now on the table is asked again.
    pub(super) fn forget(&self) {
        self.known.send_modify(|known| {
            known.forgotten += 1;
            known.is_current = false;
        });
    }

    /// This one is no more reserved, or not to be had.
    fn strike(&self, ip: Ipv4Addr) {
        self.known.send_modify(|known| known.of.retain(|(_, of)| *of != ip));
    }

    /// The address that is kept for this name.
    async fn find(&self, name: &str) -> Option<Ipv4Addr> {
        let mut known = self.known.subscribe();
        let is_current = known.borrow().is_current;
        if !is_current {
            self.wanted.notify_one();
            let _ = timeout(PATIENCE, known.wait_for(|known| known.is_current)).await;
        }
        let known = known.borrow();
        known.of.iter().find(|(of, _)| of == name).map(|(_, ip)| *ip)
    }
}

impl Shared {
    /// Without end, from the first time on that a container has a name.
    pub(super) async fn read_reserved_always(&self) {
        let Reserved { known, wanted } = &self.reserved;
        wanted.notified().await;
        loop {
            let before = known.borrow().forgotten;
            let read = timeout(PATIENCE, self.read_reserved()).await;
            known.send_modify(|known| {
                known.is_current = known.forgotten == before;
                if let Ok(Ok(of)) = read {
                    known.of = of;
                }
            });
            let _ = timeout(FRESH, wanted.notified()).await;
        }
    }

    /// What this endpoint let go and the ENI gives back: the table may not have it as reserved yet.
    fn about_to_be_reserved(&self, name: &str) -> Option<Ipv4Addr> {
        let of = self.journal().of(&self.place.nic.eni);
        let is_its = |holding: &&Holding| holding.kept_for() == Some(name) && matches!(holding.held, Held::Leaving(_));
        of.iter().find(is_its).map(|holding| holding.ip)
    }

    async fn read_reserved(&self) -> Result<Vec<(String, Ipv4Addr)>, Error> {
        let rows = self.outside.store.now()?.rows_reserved(&self.place.nic.subnet, Instant::now() + PATIENCE).await?;
        Ok(rows.iter().filter_map(|row| Some((row.kept_for()?.to_owned(), row.ip))).collect())
    }
}

impl Eni {
    /// The address that is kept for this endpoint; none where there is none, or it cannot be had.
    pub(super) async fn lease_kept(&self, holder: &str, until: Instant) -> Result<Option<Lease>, Error> {
        let reserved = &self.shared.reserved;
        let found = match self.shared.about_to_be_reserved(holder) {
            Some(ip) => Some(ip),
            None => reserved.find(holder).await,
        };
        let Some(ip) = found else { return Ok(None) };
        // Not on the ENI yet: somebody else of that name, or who named the address, may be quicker, and what it takes to get it
        // there may be away. Then any other is better than none.
        let end = until - self.shared.outside.request_timeout / 3;
        let why = match self.lease_this(ip, Some(holder.to_owned()), end).await {
            Ok(lease) => {
                reserved.strike(ip);
                return Ok(Some(lease));
            }
            // Tried again by whoever asks.
            Err(why) if why.may_pass() && Instant::now() + LAST_WORD < end => return Err(why),
            Err(why @ (Error::NotGiven { .. } | Error::Late { .. })) => why,
            Err(why) if why.may_pass() => why,
            Err(why) => return Err(why),
        };
        tracing::warn!(eni = %self.nic.eni, %ip, "{ip} is reserved for {holder}, which gets another one: {why}");
        reserved.strike(ip);
        Ok(None)
    }

    /// From now on the table is asked again.
    pub fn forget_reserved(&self) {
        self.shared.reserved.forget();
    }
}
