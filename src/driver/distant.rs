//! ENIs of other hosts, whose Engines have no driver of their own: what EC2 says of them, and who may ask for their addresses.
//!
//! A request names an ENI, and nothing in it says who sends it. So the caller has to be the instance that EC2 has the ENI
//! attached to: its connection comes from a primary address of one of the instance's ENIs, and where it shows a certificate that
//! names the instance. A container on ipvlan has other addresses; one behind the host's own does not, and that is what client
//! certificates are for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::id::EniId;
use crate::domain::peer::Peer;
use crate::domain::subnet::Subnet;
use crate::driver::interfaces::Interfaces;
use crate::eni::Outside;
use crate::error::Error;
use crate::outside::ec2::Ec2Error;
use crate::outside::imds::{Instance, Nic};

/// What EC2 says is good for so long;
const FRESH: Duration = Duration::from_secs(60);
/// and where it does not answer, for so long: what is idle on an ENI is to be had without it.
const STALE: Duration = Duration::from_secs(3600);
/// So many ENIs are remembered; a caller may name any.
const MOST: usize = 10_000;

/// An ENI of another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// As IMDS would list it there.
    pub nic: Nic,
    /// Its subnet.
    pub subnet: Subnet,
    /// What it is attached to.
    pub instance: Instance,
    /// The primary addresses of all ENIs of that instance.
    pub primaries: Vec<Ipv4Addr>,
}

/// What is known of them.
pub struct Distant {
    outside: Arc<Outside>,
    interfaces: Arc<Interfaces>,
    is_served: bool,
    known: Mutex<HashMap<EniId, (Instant, Arc<Described>)>>,
}

impl Distant {
    pub(crate) fn new(outside: &Arc<Outside>, interfaces: &Arc<Interfaces>, is_served: bool) -> Self {
        let (outside, interfaces) = (Arc::clone(outside), Arc::clone(interfaces));
        Self { outside, interfaces, is_served, known: Mutex::default() }
    }

    /// Whether they are served at all.
    pub fn is_served(&self) -> bool {
        self.is_served
    }

    /// Whether an ENI is this host's. Where no distant one is served, each is, or is nobody's.
    pub(crate) async fn is_own(&self, eni: &EniId, until: Instant) -> bool {
        let is_known_elsewhere = self.known().contains_key(eni);
        // A server may stand where there is no IMDS: what it does not list is not this host's.
        !self.is_served || !is_known_elsewhere && self.interfaces.nic(eni, until).await.is_ok()
    }

    /// An ENI for whoever asks, if he may.
    ///
    /// # Errors
    /// It is not served, not there, attached to nothing, or not the caller's; or EC2 does not say.
    pub async fn of_caller(&self, eni: &EniId, peer: &Peer, until: Instant) -> Result<Arc<Described>, Error> {
        if !self.is_served {
            return Err(Error::Asked(format!(
                "{eni} is not attached to this instance, and this driver serves no other: set EC2_IPAM_DISTANT=true where it is to"
            )));
        }
        let described = self.see(eni, until).await?;
        may_ask(&described, peer).map_err(|why| {
            tracing::warn!(%eni, %peer, "{why}");
            Error::Asked(why)
        })?;
        Ok(described)
    }

    /// What EC2 says of it.
    ///
    /// # Errors
    /// It is not there, or attached to nothing; or EC2 does not say.
    pub(crate) async fn see(&self, eni: &EniId, until: Instant) -> Result<Arc<Described>, Error> {
        let before = self.known().get(eni).cloned();
        if let Some((at, described)) = &before
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(described));
        }
        let asked = Instant::now();
        let described = match (self.ask(eni, until).await, before) {
            (Ok(described), _) => Arc::new(described),
            (Err(why), Some((at, described))) if why.may_pass() && at.elapsed() < STALE => {
                tracing::warn!(%eni, "served by what EC2 said {} s ago: {why}", at.elapsed().as_secs());
                return Ok(described);
            }
            (Err(why), _) => return Err(why),
        };
        let mut known = self.known();
        if known.len() >= MOST {
            known.retain(|_, (at, _)| at.elapsed() < STALE);
        }
        known.insert(eni.clone(), (asked, Arc::clone(&described)));
        Ok(described)
    }

    async fn ask(&self, eni: &EniId, until: Instant) -> Result<Described, Error> {
        let ec2 = self.outside.ec2(until).await?;
        let interface = match ec2.interface(eni).await {
            Err(why @ Ec2Error::NoSuchEni { .. }) => return Err(Error::Asked(why.to_string())),
            outcome => outcome.map_err(Error::Ec2)?,
        };
        let Some(id) = interface.instance.clone() else {
            return Err(Error::Asked(format!(
                "{eni} is attached to no instance, so no container can use its addresses: attach it"
            )));
        };
        let (subnet, kind, beside) =
            tokio::try_join!(ec2.subnet(&interface.subnet), ec2.instance_type(&id), ec2.interfaces_of_instance(&id))?;
        let primary = interface.primary();
        let mut addresses: Vec<Ipv4Addr> = primary.into_iter().collect();
        addresses.extend(interface.addresses.iter().map(|address| address.ip).filter(|ip| Some(*ip) != primary));
        let nic = Nic {
            eni: eni.clone(),
            mac: interface.mac.clone(),
            // EC2 tells it of the attachment; nothing here depends on it.
            device_number: 1,
            subnet: interface.subnet.clone(),
            cidr: subnet.cidr,
            addresses,
        };
        let instance = Instance { id, region: String::new(), instance_type: kind };
        let primaries = beside.iter().filter_map(|eni| eni.primary()).collect();
        Ok(Described { nic, subnet, instance, primaries })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<EniId, (Instant, Arc<Described>)>> {
        // Nothing in a critical section of this lock can panic half-way through a change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a caller is the instance that has the ENI; else why it is refused.
fn may_ask(described: &Described, peer: &Peer) -> Result<(), String> {
    let (eni, instance) = (&described.nic.eni, &described.instance.id);
    let Peer::Remote { address, names, .. } = peer else { return Ok(()) };
    if !described.primaries.iter().any(|primary| IpAddr::V4(*primary) == *address) {
        return Err(format!(
            "{eni} is attached to {instance}, and {address}, which asks for it, is not the primary address of an interface of that \
             instance: the Engine of that instance has to ask, by no proxy and no network address translation"
        ));
    }
    if let Some(names) = names
        && !names.contains(instance)
    {
        return Err(format!(
            "{eni} is attached to {instance}, and the certificate of {address}, which asks for it, names {} and not that \
             instance: give each instance its own",
            names.join(", ")
        ));
    }
    Ok(())
}
