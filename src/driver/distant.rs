//! ENIs of other hosts, whose Engines have no driver of their own: what EC2 says of them, and who may ask for their addresses.
//!
//! A request names an ENI, and nothing in it says who sends it. So the caller has to be the instance that EC2 has the ENI
//! attached to: its connection comes from a primary address of one of the instance's ENIs, and where it shows a certificate that
//! names the instance. A container on ipvlan has other addresses; one behind the host's own does not, and that is what client
//! certificates are for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, timeout_at};

use crate::domain::id::{EniId, InstanceId};
use crate::domain::peer::Peer;
use crate::domain::subnet::Subnet;
use crate::driver::interfaces::Interfaces;
use crate::driver::strangers::Strangers;
use crate::eni::Outside;
use crate::error::Error;
use crate::late::in_time;
use crate::once::KEPT;
use crate::outside::ec2::Ec2Error;
use crate::outside::imds::{Instance, Nic};

/// What EC2 says is good for so long;
const FRESH: Duration = Duration::from_secs(60);
/// and where it does not answer, for so long: what is idle on an ENI is to be had without it.
const STALE: Duration = Duration::from_secs(3600);
/// So long it is not asked again of what it does not know, has attached to nothing, or has just not answered of.
const REST: Duration = Duration::from_secs(10);
/// So many ENIs are remembered.
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
    known: Mutex<HashMap<EniId, Known>>,
    /// Questions that are under way: who has the same one waits for its answer.
    asking: Mutex<HashMap<EniId, Weak<AsyncMutex<()>>>>,
    strangers: Strangers,
}

/// What EC2 said of one.
#[derive(Clone)]
struct Known {
    said: Result<Arc<Described>, Error>,
    /// When it was asked.
    at: Instant,
    /// It is not asked again until then.
    until: Instant,
}

impl Known {
    fn new(said: Result<Arc<Described>, Error>, at: Instant) -> Self {
        let rest = match &said {
            Ok(_) => FRESH,
            Err(Error::Asked(_)) => REST,
            // For those who have asked at the same time.
            Err(_) => KEPT,
        };
        let until = if said.is_ok() { at + rest } else { Instant::now() + rest };
        Self { said, at, until }
    }

    fn is_of_use(&self) -> bool {
        self.until > Instant::now() || self.said.is_ok() && self.at.elapsed() < STALE
    }
}

impl Distant {
    pub(crate) fn new(outside: &Arc<Outside>, interfaces: &Arc<Interfaces>, is_served: bool) -> Self {
        let (outside, interfaces) = (Arc::clone(outside), Arc::clone(interfaces));
        let (known, asking, strangers) = Default::default();
        Self { outside, interfaces, is_served, known, asking, strangers }
    }

    /// Whether they are served at all.
    pub fn is_served(&self) -> bool {
        self.is_served
    }

    /// Whether an ENI is this host's. Where no distant one is served, each is, or is nobody's.
    pub(crate) async fn is_own(&self, eni: &EniId, until: Instant) -> bool {
        let is_known_elsewhere = self.known().get(eni).is_some_and(|known| known.said.is_ok());
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
        is_named(peer).map_err(Error::Asked)?;
        let before = self.known().get(eni).cloned();
        let is_asked = before.as_ref().is_none_or(|known| known.until <= Instant::now());
        let is_strange = before.and_then(|known| known.said.ok()).is_none_or(|known| may_ask(&known, peer).is_err());
        if is_asked && is_strange && !self.strangers.may_ask(peer) {
            return Err(Error::Asked(format!(
                "{peer} has asked for too many interfaces that are not its own, so EC2 is not asked for {eni} now: try again in \
                 a minute"
            )));
        }
        let outcome = self.see(eni, until).await.and_then(|described| {
            may_ask(&described, peer).map_err(Error::Asked)?;
            Ok(described)
        });
        if is_asked && is_strange && !matches!(outcome, Err(Error::Asked(_))) {
            self.strangers.was_none(peer);
        }
        outcome
    }

    /// What EC2 says of it. Those who want to know the same at the same time ask once.
    ///
    /// # Errors
    /// It is not there, or attached to nothing; or EC2 does not say.
    pub(crate) async fn see(&self, eni: &EniId, until: Instant) -> Result<Arc<Described>, Error> {
        if let Some(said) = self.said(eni) {
            return said;
        }
        let turn = self.turn(eni);
        let Ok(_turn) = timeout_at(in_time(until), turn.lock()).await else {
            return self.stale(eni).unwrap_or_else(|| Err(Error::Missing("EC2 has not answered yet".into())));
        };
        if let Some(said) = self.said(eni) {
            return said;
        }
        let asked = Instant::now();
        match self.ask(eni, until).await.map(Arc::new) {
            Err(why) if why.may_pass() => match self.stale(eni) {
                Some(stale) => {
                    tracing::warn!(%eni, "served by what EC2 said before: {why}");
                    stale
                }
                None => self.remember(eni, Known::new(Err(why), asked)),
            },
            said => self.remember(eni, Known::new(said, asked)),
        }
    }

    /// It left: what was known of it is of no use any more.
    pub(crate) fn forget(&self, eni: &EniId) {
        self.known().remove(eni);
    }

    /// What EC2 said, where it need not be asked again.
    fn said(&self, eni: &EniId) -> Option<Result<Arc<Described>, Error>> {
        self.known().get(eni).filter(|known| known.until > Instant::now()).map(|known| known.said.clone())
    }

    /// What it said before, as it does not answer now. For a while that is good enough for others, too.
    fn stale(&self, eni: &EniId) -> Option<Result<Arc<Described>, Error>> {
        let mut all = self.known();
        let known = all.get_mut(eni).filter(|known| known.said.is_ok() && known.at.elapsed() < STALE)?;
        known.until = Instant::now() + REST;
        Some(known.said.clone())
    }

    fn remember(&self, eni: &EniId, now: Known) -> Result<Arc<Described>, Error> {
        let mut known = self.known();
        if known.len() >= MOST {
            known.retain(|_, known| known.is_of_use());
        }
        let said = now.said.clone();
        // A caller may name any.
        if said.is_ok() || known.len() < MOST || known.contains_key(eni) {
            known.insert(eni.clone(), now);
        }
        said
    }

    /// Held by whoever asks EC2 of it.
    fn turn(&self, eni: &EniId) -> Arc<AsyncMutex<()>> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        asking.retain(|_, turn| turn.strong_count() > 0);
        let turn = asking.get(eni).and_then(Weak::upgrade).unwrap_or_default();
        asking.insert(eni.clone(), Arc::downgrade(&turn));
        turn
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

    fn known(&self) -> MutexGuard<'_, HashMap<EniId, Known>> {
        // Nothing in a critical section of this lock can panic half-way through a change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a caller may be an instance at all, by its certificate; else why it is none.
fn is_named(peer: &Peer) -> Result<(), String> {
    let Peer::Remote { address, names: Some(names), .. } = peer else { return Ok(()) };
    if names.iter().any(|name| name.parse::<InstanceId>().is_ok()) {
        return Ok(());
    }
    let named = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
    Err(format!(
        "the certificate of {address} names {named} and no instance, so nothing is looked up for it: issue one with the \
         instance's id as a DNS name"
    ))
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
