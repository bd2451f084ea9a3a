//! The ENIs of this host that are served, each by this driver alone.

use std::collections::HashMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::domain::address::Row;
use crate::domain::id::EniId;
use crate::domain::peer::Peer;
use crate::domain::subnet::Subnet;
use crate::driver::distant::{Described, Distant};
use crate::driver::interfaces::Interfaces;
use crate::eni::{Eni, Hold, Outside};
use crate::error::Error;
use crate::fleet::Sender;
use crate::outside::imds::{Host, Nic};
use crate::store::{Store, StoreError};

/// All of them.
pub struct Served {
    outside: Arc<Outside>,
    interfaces: Arc<Interfaces>,
    distant: Distant,
    /// Those served, and those that left since and have not come back.
    enis: Mutex<HashMap<EniId, Arc<Eni>>>,
}

impl Served {
    pub(crate) fn new(outside: &Arc<Outside>, interfaces: &Arc<Interfaces>, distant: Distant) -> Self {
        Self { outside: Arc::clone(outside), interfaces: Arc::clone(interfaces), distant, enis: Mutex::default() }
    }

    /// What is known of other hosts' ENIs.
    pub(crate) fn distant(&self) -> &Distant {
        &self.distant
    }

    /// The ENIs served now.
    pub async fn all(&self) -> Vec<Arc<Eni>> {
        self.enis.lock().await.values().filter(|eni| eni.lost().is_none()).cloned().collect()
    }

    /// Those whose addresses are given back here; of a distant one another server may do that.
    pub(crate) async fn sent_for(&self) -> Vec<Arc<Eni>> {
        let mut sent_for = Vec::new();
        for eni in self.all().await {
            if eni.sends().await {
                sent_for.push(eni);
            }
        }
        sent_for
    }

    /// Why ENIs of this host that were served here are not any more: they are not this instance's. Those of other hosts come and
    /// go.
    pub async fn lost(&self) -> Vec<String> {
        let enis = self.enis.lock().await;
        let mut lost: Vec<String> =
            enis.values().filter(|eni| !eni.is_distant()).filter_map(|eni| eni.lost()).collect();
        lost.sort();
        lost
    }

    /// Whether this one is among them.
    pub(crate) async fn has_lost(&self, eni: &EniId) -> bool {
        self.enis.lock().await.get(eni).is_some_and(|eni| eni.lost().is_some())
    }

    /// The rows of an ENI, as they are once the table follows.
    pub(crate) async fn rows(&self, store: &Store, id: &EniId, until: Instant) -> Result<Vec<Row>, StoreError> {
        let eni = self.enis.lock().await.get(id).cloned();
        let behind = eni.as_ref().map(|eni| eni.behind()).unwrap_or_default();
        let mut rows = store.rows_of_eni(id, until).await?;
        if let Some(eni) = eni {
            eni.overlay(&mut rows, &behind);
        }
        Ok(rows)
    }

    /// Whether this one is served, or was until it left.
    pub(crate) async fn has(&self, eni: &EniId) -> bool {
        self.enis.lock().await.contains_key(eni)
    }

    /// Whether it waits to be taken up: it is not served, and if it was and left, it is back.
    pub(crate) async fn lacks(&self, nic: &Nic, host: &Host) -> bool {
        let is_lost = self.enis.lock().await.get(&nic.eni).map(|eni| eni.lost().is_some());
        match is_lost {
            Some(false) => false,
            Some(true) => self.interfaces.is_back(nic, host).await,
            None => true,
        }
    }

    /// Whether this one is served now.
    pub(crate) async fn serves(&self, eni: &EniId) -> bool {
        self.enis.lock().await.get(eni).is_some_and(|eni| eni.lost().is_none())
    }

    /// Distant ENIs that left are forgotten: which they are.
    pub(crate) async fn forget_gone(&self) -> Vec<EniId> {
        let mut gone = Vec::new();
        self.enis.lock().await.retain(|id, eni| {
            let is_gone = eni.is_distant() && eni.has_ended();
            if is_gone {
                // What was known of it is not so any more.
                self.distant.forget(id);
                gone.push(id.clone());
            }
            !is_gone
        });
        gone
    }

    /// Lost ENIs of which this host has no network any more are forgotten.
    pub(crate) async fn forget_lost(&self, has_network: impl Fn(&Eni) -> bool) {
        self.enis.lock().await.retain(|_, eni| eni.lost().is_none() || has_network(eni));
    }

    /// The ENI of a pool, taken up if this life of the driver has not served it yet.
    pub async fn get(&self, id: &EniId, until: Instant) -> Result<Arc<Eni>, Error> {
        self.interfaces.patiently(until, || self.get_now(id, until)).await
    }

    /// The same in one attempt.
    pub(crate) async fn get_now(&self, id: &EniId, until: Instant) -> Result<Arc<Eni>, Error> {
        let known = self.enis.lock().await.get(id).cloned();
        let lost = known.as_ref().and_then(|eni| eni.lost());
        if let (Some(eni), None) = (known, &lost) {
            return Ok(eni);
        }
        let nic = self.interfaces.nic(id, until).await.map_err(|why| match (why, lost) {
            (Error::Absent(_), Some(lost)) => Error::Absent(lost),
            (why, _) => why,
        })?;
        self.serve(&nic).await
    }

    /// An ENI, for whoever may ask for its addresses.
    ///
    /// # Errors
    /// It is not his, not there, or not served; or what is to be asked does not answer.
    pub(crate) async fn of_caller(&self, id: &EniId, peer: &Peer, until: Instant) -> Result<Arc<Eni>, Error> {
        if !self.distant.is_own(id, until).await {
            let described = self.distant.of_caller(id, peer, until).await?;
            return self.serve_described(&described, until).await;
        }
        if peer.is_here() {
            return self.get_now(id, until).await;
        }
        Err(Error::Asked(format!("{id} is this host's own: its own Engine alone may ask for its addresses")))
    }

    /// A distant one that nobody asks for now.
    ///
    /// # Errors
    /// EC2's, the store's, or [`Error::Driven`]: its host has a driver of its own.
    pub(crate) async fn serve_distant(&self, id: &EniId, until: Instant) -> Result<Arc<Eni>, Error> {
        let described = self.distant.see(id, until).await?;
        self.serve_described(&described, until).await
    }

    /// A distant one, served from now on if it is not yet.
    ///
    /// # Errors
    /// The store's, or [`Error::Driven`]: its host has a driver of its own.
    pub(crate) async fn serve_described(&self, described: &Described, until: Instant) -> Result<Arc<Eni>, Error> {
        let Described { nic, subnet, instance, .. } = described;
        let is_served = |eni: &Eni| eni.lost().is_none() && eni.instance() == instance.id;
        let known = self.enis.lock().await.get(&nic.eni).cloned();
        if let Some(eni) = known.filter(|eni| is_served(eni)) {
            eni.is_driverless().await?;
            return Ok(eni);
        }
        let sender = Sender::new(nic.eni.clone(), &instance.id, self.outside.claims.boot());
        sender.is_driverless(Duration::ZERO, &*self.outside.store(until).await?, until).await?;
        let mut enis = self.enis.lock().await;
        if let Some(eni) = enis.get(&nic.eni) {
            if is_served(eni) {
                return Ok(Arc::clone(eni));
            }
            // What another instance had is that one's no more.
            eni.leaves_for(&instance.id);
            eni.ended().await;
        }
        let outside = Arc::clone(&self.outside);
        let eni = Eni::start(nic.clone(), subnet.clone(), instance, Hold::Distant(sender), outside);
        enis.insert(nic.eni.clone(), Arc::clone(&eni));
        Ok(eni)
    }

    /// This one, served from now on if it is not yet.
    pub(crate) async fn serve(&self, nic: &Nic) -> Result<Arc<Eni>, Error> {
        let instance = self.outside.imds.instance().await?;
        self.outside.journal.belongs_to(&instance.id);
        self.outside.drain.belongs_to(&instance.id);
        let subnet = Subnet::new(nic.subnet.clone(), nic.cidr)?;
        let mut enis = self.enis.lock().await;
        if let Some(eni) = enis.get(&nic.eni) {
            if eni.lost().is_none() {
                return Ok(Arc::clone(eni));
            }
            eni.ended().await;
        }
        let lock = lock(&nic.eni).map_err(|e| {
            Error::Missing(format!(
                "another ec2-ipam on this host serves {} already ({e}): stop one of them (`docker plugin ls`, `systemctl status ec2-ipam`)",
                nic.eni
            ))
        })?;
        let eni = Eni::start(nic.clone(), subnet, &instance, Hold::Own(lock), Arc::clone(&self.outside));
        enis.insert(nic.eni.clone(), Arc::clone(&eni));
        Ok(eni)
    }
}

/// One driver per ENI and host: whoever holds this serves it. It lies in the host's network namespace, where the plugin, a
/// plain service and the command line all see it.
pub(crate) fn lock(eni: &EniId) -> std::io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(format!("ec2-ipam/{eni}"))?)
}

/// Whether some driver of this host serves the ENI. Neither taken nor connected to: either would be in a driver's way.
pub(crate) fn is_locked(eni: &EniId) -> bool {
    let name = format!(" @ec2-ipam/{eni}");
    std::fs::read_to_string("/proc/net/unix").is_ok_and(|sockets| sockets.lines().any(|line| line.ends_with(&name)))
}
