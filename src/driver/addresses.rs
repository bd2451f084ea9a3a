//! Addresses: RequestAddress and ReleaseAddress.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use crate::backoff::Backoff;
use crate::domain::id::{EniId, PoolId};
use crate::domain::peer::Peer;
use crate::domain::subnet::router;
use crate::driver::interfaces::Interfaces;
use crate::driver::served::Served;
use crate::eni::{Lease, Outside};
use crate::error::Error;
use crate::journal::{End, Recorded};
use crate::late::LAST_WORD;
use crate::supervise::supervised;

/// Gives and takes back the addresses of Docker's pools.
pub struct Addresses {
    outside: Arc<Outside>,
    interfaces: Arc<Interfaces>,
    served: Arc<Served>,
    /// What is to be let go of, and is not in the table yet.
    waiting: Mutex<Vec<(EniId, Ipv4Addr)>>,
}

/// How long a release waits before it is answered and goes on alone.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);

impl Addresses {
    pub(crate) fn new(outside: &Arc<Outside>, interfaces: &Arc<Interfaces>, served: &Arc<Served>) -> Self {
        Self {
            outside: Arc::clone(outside),
            interfaces: Arc::clone(interfaces),
            served: Arc::clone(served),
            waiting: Mutex::default(),
        }
    }

    /// Releases that nobody will know of if this process ends now: those of other hosts, which are in the table or nowhere.
    pub fn unreleased(&self) -> Vec<(EniId, Ipv4Addr)> {
        self.waiting().clone()
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(EniId, Ipv4Addr)>> {
        // Nothing in a critical section of this lock can panic half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// RequestAddress. The answer has the subnet's mask.
    pub async fn request(
        &self,
        pool: &PoolId,
        address: &str,
        holder: Option<String>,
        peer: &Peer,
        until: Instant,
    ) -> Result<(String, Lease), Error> {
        let named =
            match address {
                "" => None,
                given => Some(given.parse::<Ipv4Addr>().map_err(|_| {
                    Error::Asked(format!("{given:?} is not an IPv4 address; this driver gives no other"))
                })?),
            };
        if let (Some(ip), Some(cidr)) = (named, pool.cidr)
            && !cidr.contains(&ip)
        {
            return Err(Error::NotGiven { ip, why: format!("it is not in the subnet {cidr}") });
        }
        let holder = &holder;
        let granted = self.interfaces.patiently(until, || async move {
            let eni = self.served.of_caller(&pool.eni, peer, until).await?;
            let lease = match named {
                None => eni.lease_any(pool.sub_pool, holder.clone(), until).await?,
                Some(ip) if !eni.subnet.contains(ip) => {
                    return Err(Error::NotGiven { ip, why: format!("it is not in the subnet {}", eni.subnet.cidr) });
                }
                Some(ip) => eni.lease_this(ip, holder.clone(), until).await?,
            };
            Ok((eni, lease))
        });
        let (eni, lease) = granted.await?;
        eni.warn_of_elastic_ip(lease.ip);
        Ok((eni.subnet.with_mask(lease.ip), lease))
    }

    /// ReleaseAddress. Whatever is not a lease of this host is a success too, and changes nothing (I8).
    ///
    /// It waits for what is missing for a moment and then goes on by itself, since Docker never repeats it. Of another host it
    /// is in the table as it is answered (I11).
    ///
    /// # Errors
    /// Of another host: it is not in the table within a request's time. It goes on all the same. To its Engine that is a line in
    /// its log, and nothing else: the container is gone either way.
    pub async fn release(self: &Arc<Self>, pool: &str, address: &str, peer: &Peer) -> Result<(), Error> {
        let (Ok(pool), Ok(ip)) = (pool.parse::<PoolId>(), address.parse::<Ipv4Addr>()) else {
            tracing::info!("nothing to release: it is not ours");
            return Ok(());
        };
        if pool.cidr.is_some_and(|cidr| router(cidr) == ip) {
            // The gateway of a network that is removed: it was answered from the pool, and is nobody's lease.
            tracing::debug!(%ip, "Docker let go of the gateway {ip}");
            return Ok(());
        }
        // Whatever this waits for, rows that were read before are wrong from now on. Of another host that is not sure yet.
        let releasing = peer.is_here().then(|| {
            self.outside.in_use.released(ip);
            self.outside.in_use.releasing(ip)
        });
        let (addresses, peer, is_here) = (Arc::clone(self), peer.clone(), peer.is_here());
        // Nobody but the table will ever know of another host's.
        let patience = if is_here { RELEASE_PATIENCE } else { self.outside.request_timeout - LAST_WORD };
        let work = async move {
            addresses.release_of(pool.eni, ip, &peer).await;
            drop(releasing);
        };
        let mut work = self.outside.tasks.spawn(supervised("a release", work).in_current_span());
        if timeout(patience, &mut work).await.is_ok() {
            return Ok(());
        }
        if is_here {
            tracing::warn!(%ip, "a release waits for what is missing, and goes on by itself");
            return Ok(());
        }
        Err(Error::Missing(format!(
            "{ip} is not let go of yet, as the table does not know it: {}; that goes on by itself, and is lost if this server \
             ends before",
            self.outside.what_is_missing()
        )))
    }

    async fn release_of(&self, id: EniId, ip: Ipv4Addr, peer: &Peer) {
        // As an Engine starts it lets go of what its containers had before, and asks anew at once: before IMDS may have told
        // which interfaces this host has. The journal knows what is to be done.
        if peer.is_here()
            && !self.served.has(&id).await
            && self.outside.journal.release(&id, ip).await == Some(Recorded::Durable)
        {
            self.outside.counts.released(End::Released);
            return tracing::info!(eni = %id, %ip, "released {ip}");
        }
        let _waits = self.served.distant().is_served().then(|| Waits::begin(self, &id, ip));
        let (vain, mut backoff) = (Mutex::default(), Backoff::default());
        loop {
            let until = Instant::now() + self.outside.request_timeout;
            let eni = self.served.of_caller(&id, peer, until).await;
            match self.interfaces.unless_in_vain(eni, &vain, until).await {
                Ok(eni) => return eni.release(ip, End::Released).await,
                // It is not attached to this host, and not about to be.
                Err(why @ (Error::NotComing(_) | Error::Asked(_) | Error::Driven { .. })) => {
                    return tracing::info!(%ip, "nothing to release: {why}");
                }
                Err(why) if backoff.failures() == 0 => tracing::warn!(%ip, "a release waits: {why}"),
                Err(_) => {}
            }
            sleep(backoff.fails()).await;
        }
    }
}

/// A release that is not in the table yet, for as long as this lives.
struct Waits<'a> {
    addresses: &'a Addresses,
    what: (EniId, Ipv4Addr),
}

impl<'a> Waits<'a> {
    fn begin(addresses: &'a Addresses, eni: &EniId, ip: Ipv4Addr) -> Self {
        let what = (eni.clone(), ip);
        addresses.waiting().push(what.clone());
        Self { addresses, what }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut waiting = self.addresses.waiting();
        if let Some(at) = waiting.iter().position(|one| *one == self.what) {
            waiting.swap_remove(at);
        }
    }
}
