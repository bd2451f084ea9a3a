//! Pools: RequestPool, and the gateway of one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::Ipv4Net;
use tokio::time::Instant;

use crate::domain::address::State;
use crate::domain::id::{EniId, PoolId};
use crate::domain::peer::Peer;
use crate::domain::subnet::{Subnet, router};
use crate::driver::interfaces::Interfaces;
use crate::driver::served::Served;
use crate::eni::Outside;
use crate::error::Error;
use crate::fleet::fill;
use crate::late::in_time;

/// What Docker asks of RequestPool.
#[derive(Debug, Default)]
pub struct PoolRequest {
    /// `--subnet`, or empty.
    pub pool: String,
    /// `--ip-range`, or empty.
    pub sub_pool: String,
    /// `--ipam-opt`.
    pub options: BTreeMap<String, String>,
    /// Whether IPv6 is meant.
    pub v6: bool,
}

/// A pool as Docker keeps it.
#[derive(Debug)]
pub struct Pool {
    /// What later calls carry.
    pub id: PoolId,
    /// The subnet.
    pub subnet: Subnet,
}

/// The pool options that are understood.
const OPTIONS: [&str; 3] = ["eni-id", "parent", "instance-id"];

/// Opens Docker's pools.
pub struct Pools {
    outside: Arc<Outside>,
    interfaces: Arc<Interfaces>,
    served: Arc<Served>,
    /// Set by GetDefaultAddressSpaces, spent by an answer to an empty Pool.
    asked_for_spaces: AtomicBool,
}

impl Pools {
    pub(crate) fn new(outside: &Arc<Outside>, interfaces: &Arc<Interfaces>, served: &Arc<Served>) -> Self {
        Self {
            outside: Arc::clone(outside),
            interfaces: Arc::clone(interfaces),
            served: Arc::clone(served),
            asked_for_spaces: AtomicBool::new(false),
        }
    }

    /// Docker asked for the address spaces: engines from 27 on do so before each RequestPool, older ones never inside their
    /// loop, which repeats RequestPool for as long as the answer overlaps a route of the host.
    pub fn address_spaces_asked(&self) {
        self.asked_for_spaces.store(true, Ordering::Relaxed);
    }

    /// Whether they were asked for since the last empty Pool was answered.
    fn may_answer_empty_pool(&self) -> bool {
        self.asked_for_spaces.swap(false, Ordering::Relaxed)
    }

    /// RequestPool. Repeating it is harmless.
    pub async fn request(&self, request: &PoolRequest, peer: &Peer, until: Instant) -> Result<Pool, Error> {
        if request.v6 {
            return Err(Error::Asked(
                "this driver gives IPv4 addresses only; create the network without --ipv6".into(),
            ));
        }
        if let Some(unknown) = request.options.keys().find(|key| !OPTIONS.contains(&key.as_str())) {
            return Err(Error::Asked(format!(
                "unknown --ipam-opt {unknown:?}; known are eni-id, parent and instance-id (-o parent=… is the network driver's own option)"
            )));
        }
        let asked = net("--subnet", &request.pool)?;
        let sub_pool = net("--ip-range", &request.sub_pool)?;
        if let Some(eni) = self.distant_eni(&request.options, peer, until).await? {
            let open = || self.open_distant(&eni, &request.options, asked, sub_pool, peer, until);
            return self.interfaces.patiently(until, open).await;
        }
        let is_told = asked.is_some() || self.may_answer_empty_pool();
        self.interfaces.patiently(until, || self.open(&request.options, (asked, is_told), sub_pool, until)).await
    }

    /// ReleasePool: a network is removed. What is not one of ours changes nothing.
    pub fn release(&self, pool: &str) {
        if let Ok(pool) = pool.parse::<PoolId>() {
            self.outside.in_use.pool_released(pool.eni);
        }
    }

    async fn open(
        &self,
        options: &BTreeMap<String, String>,
        (asked, is_told): (Option<Ipv4Net>, bool),
        sub_pool: Option<Ipv4Net>,
        until: Instant,
    ) -> Result<Pool, Error> {
        let host = self.interfaces.host_by(until).await?;
        let (nic, link) = self.interfaces.choose(&host, options).await?;
        let subnet = Subnet::new(nic.subnet.clone(), nic.cidr)?;
        match asked {
            Some(pool) if pool != subnet.cidr => {
                let other = match host.interfaces.iter().find(|nic| nic.cidr == pool) {
                    Some(other) => format!("--ipam-opt eni-id={}, which is in it", other.eni),
                    None => "another ENI of this host by --ipam-opt eni-id=…".to_owned(),
                };
                return Err(Error::Asked(format!(
                    "--subnet {pool} is not the subnet of {} on {}: pass --subnet {}, or name {other}",
                    nic.eni, link.name, subnet.cidr
                )));
            }
            None if !is_told => {
                return Err(Error::Asked(format!(
                    "this Docker Engine needs to be told the subnet: pass --subnet {}",
                    subnet.cidr
                )));
            }
            _ => {}
        }
        is_inside(sub_pool, &subnet)?;

        // A network that was there before asks again as its Engine starts, with the database there or not; what its subnet
        // lacks is then the ENI's own task to see to.
        if self.outside.journal.of(&nic.eni).is_empty() {
            self.fill(&subnet, until).await?;
        }
        let eni = self.served.serve(nic).await?;
        self.outside.in_use.pool_requested(&nic.eni);
        let id = PoolId { eni: eni.nic.eni.clone(), cidr: Some(subnet.cidr), sub_pool };
        Ok(Pool { id, subnet })
    }

    /// The ENI that is asked for, if it is another host's: whoever calls over the network has no other.
    async fn distant_eni(
        &self,
        options: &BTreeMap<String, String>,
        peer: &Peer,
        until: Instant,
    ) -> Result<Option<EniId>, Error> {
        match options.get("eni-id") {
            Some(id) => {
                let id: EniId = id.parse()?;
                Ok((!peer.is_here() || !self.served.distant().is_own(&id, until).await).then_some(id))
            }
            None if peer.is_here() => Ok(None),
            None => Err(Error::Asked(
                "which interface? This server knows nothing of the host that asks: pass --ipam-opt eni-id=… of an ENI of that \
                 host"
                    .into(),
            )),
        }
    }

    /// The same of another host's ENI.
    async fn open_distant(
        &self,
        eni: &EniId,
        options: &BTreeMap<String, String>,
        asked: Option<Ipv4Net>,
        sub_pool: Option<Ipv4Net>,
        peer: &Peer,
        until: Instant,
    ) -> Result<Pool, Error> {
        let described = self.served.distant().of_caller(eni, peer, until).await?;
        let (subnet, instance) = (described.subnet.clone(), &described.instance.id);
        if let Some(other) = options.get("instance-id").filter(|id| *id != instance) {
            return Err(Error::Asked(format!(
                "--ipam-opt instance-id={other:?} is not what {eni} is attached to, which is {instance}"
            )));
        }
        if options.contains_key("parent") {
            return Err(Error::Asked(format!(
                "--ipam-opt parent names a link that this server does not see: leave it out, as eni-id={eni} says all"
            )));
        }
        // Which kind of Engine asks is not known: an older one repeats an empty pool without end.
        if asked != Some(subnet.cidr) {
            let wrong = asked.map(|pool| format!("--subnet {pool} is not the subnet of {eni}: "));
            let wrong = wrong.unwrap_or_else(|| "this server needs to be told the subnet: ".to_owned());
            return Err(Error::Asked(format!("{wrong}pass --subnet {}", subnet.cidr)));
        }
        is_inside(sub_pool, &subnet)?;
        self.fill(&subnet, until).await?;
        self.served.serve_described(&described, until).await?;
        Ok(Pool { id: PoolId { eni: eni.clone(), cidr: Some(subnet.cidr), sub_pool }, subnet })
    }

    /// Sees that the table knows every address of the subnet.
    async fn fill(&self, subnet: &Subnet, until: Instant) -> Result<(), Error> {
        let store = self.outside.store(in_time(until)).await?;
        if !fill::is_complete(&store, subnet, until).await? {
            let ec2 = self.outside.ec2(in_time(until)).await?;
            fill::refresh(&store, &ec2, subnet, until).await?;
        }
        Ok(())
    }

    /// RequestAddress for a gateway: answered from the pool, no row touched. The answer has the subnet's mask.
    ///
    /// Beside the VPC router it may be an address of somebody else's interface, such as a NAT instance; an address that
    /// could be given to a container may not (I7).
    pub async fn gateway(&self, pool: &PoolId, address: &str, peer: &Peer, until: Instant) -> Result<String, Error> {
        let cidr = match pool.cidr {
            Some(cidr) => cidr,
            None if !self.served.distant().is_own(&pool.eni, until).await => {
                self.served.distant().of_caller(&pool.eni, peer, until).await?.subnet.cidr
            }
            None => self.interfaces.patiently(until, || self.interfaces.nic(&pool.eni, until)).await?.cidr,
        };
        let router = router(cidr);
        let gateway = if address.is_empty() { Some(router) } else { address.parse().ok() };
        let Some(gateway) = gateway.filter(|ip| cidr.contains(ip)) else {
            return Err(Error::Asked(format!("the gateway {address:?} is not an address of the subnet {cidr}")));
        };
        if gateway != router {
            let row = self.outside.store(until).await?.row(gateway, until).await?;
            if row.as_ref().is_some_and(|row| row.iface.as_ref() == Some(&pool.eni)) {
                return Err(Error::Asked(format!(
                    "the gateway {gateway} is an address of {}, the network's own interface, which passes nothing on: leave \
                     --gateway out for the VPC's router {router}",
                    pool.eni
                )));
            }
            if row.is_none_or(|row| row.state() != State::Foreign) {
                return Err(Error::Asked(format!(
                    "the gateway {gateway} is neither the VPC's router {router} nor an address that another interface has"
                )));
            }
        }
        Ok(format!("{gateway}/{}", cidr.prefix_len()))
    }
}

fn is_inside(sub_pool: Option<Ipv4Net>, subnet: &Subnet) -> Result<(), Error> {
    match sub_pool {
        Some(range) if !subnet.cidr.contains(&range) => {
            Err(Error::Asked(format!("--ip-range {range} is not inside the subnet {}", subnet.cidr)))
        }
        _ => Ok(()),
    }
}

fn net(flag: &str, text: &str) -> Result<Option<Ipv4Net>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<Ipv4Net>() {
        Ok(net) if net.addr() == net.network() => Ok(Some(net)),
        _ => Err(Error::Asked(format!("{flag} {text:?} is not an IPv4 network such as 10.0.1.0/24"))),
    }
}
