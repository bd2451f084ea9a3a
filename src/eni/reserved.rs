//! Addresses that an operator keeps for a name, so that a container of that name gets its own.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Eni, Lease, locked};
use crate::error::Error;

/// What another host's operator reserves is known so much later: not every start of a container asks the table.
const FRESH: Duration = Duration::from_secs(10);

/// How long a start may wait for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The subnet's reserved addresses that are kept for a name, as last read; none: not known.
#[derive(Default)]
pub(super) struct Reserved(Mutex<Option<Read>>);

struct Read {
    at: Instant,
    is_fresh: bool,
    /// Names, and their addresses.
    of: Vec<(String, Ipv4Addr)>,
}

impl Reserved {
    /// From now on the table is asked again.
    pub(super) fn forget(&self) {
        if let Some(read) = locked(&self.0).as_mut() {
            read.is_fresh = false;
        }
    }

    /// The address of a name, however long ago it was read.
    fn last(&self, name: &str) -> Option<Ipv4Addr> {
        locked(&self.0).as_ref()?.find(name)
    }

    /// The address of a name, or that there is none; none: that is not known.
    fn find(&self, name: &str) -> Option<Option<Ipv4Addr>> {
        let known = locked(&self.0);
        known.as_ref().filter(|known| known.is_fresh && known.at.elapsed() < FRESH).map(|known| known.find(name))
    }
}

impl Read {
    fn find(&self, name: &str) -> Option<Ipv4Addr> {
        self.of.iter().find(|(of, _)| of == name).map(|(_, ip)| *ip)
    }
}

impl Eni {
    /// The address that is kept for this endpoint; none where there is none, or it cannot be had.
    pub(super) async fn lease_kept(&self, holder: &str, until: Instant) -> Result<Option<Lease>, Error> {
        let Some(ip) = self.kept_for(holder, until).await? else { return Ok(None) };
        // Not on the ENI yet: somebody else of that name, or who named the address, may be quicker.
        self.forget_reserved();
        match self.lease_this(ip, Some(holder.to_owned()), until).await {
            Ok(lease) => Ok(Some(lease)),
            Err(why @ Error::NotGiven { .. }) => {
                tracing::warn!(eni = %self.nic.eni, %ip, "{ip} is reserved for {holder}, which gets another one: {why}");
                Ok(None)
            }
            Err(why) => Err(why),
        }
    }

    /// From now on the table is asked again.
    pub fn forget_reserved(&self) {
        self.shared.reserved.forget();
    }

    async fn kept_for(&self, holder: &str, until: Instant) -> Result<Option<Ipv4Addr>, Error> {
        if let Some(known) = self.shared.reserved.find(holder) {
            return Ok(known);
        }
        let at = Instant::now();
        // A start waits for nothing outside its host: as long as the table is away, what it said last is taken.
        let asked =
            async { Ok::<_, Error>(self.shared.outside.store.now()?.rows_reserved(&self.subnet.id, until).await?) };
        let Ok(Ok(rows)) = timeout(PATIENCE, asked).await else { return Ok(self.shared.reserved.last(holder)) };
        let of = rows.iter().filter_map(|row| Some((row.kept_for()?.to_owned(), row.ip))).collect();
        let read = Read { at, is_fresh: true, of };
        let found = read.find(holder);
        *locked(&self.shared.reserved.0) = Some(read);
        Ok(found)
    }
}
