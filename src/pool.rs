//! Pools: RequestPool, the choice of a network's ENI, and the gateway.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use tokio::time::Instant;

use crate::address::State;
use crate::error::Error;
use crate::fill;
use crate::id::{EniId, PoolId};
use crate::imds::{Host, Nic};
use crate::ipam::{Ipam, by_name, not_here};
use crate::late::in_time;
use crate::link::Link;
use crate::subnet::{Subnet, router};

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

impl Ipam {
    /// RequestPool. Repeating it is harmless.
    pub async fn request_pool(&self, request: &PoolRequest, until: Instant) -> Result<Pool, Error> {
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
        let is_told = asked.is_some() || self.may_answer_empty_pool();
        self.patiently(until, || self.open(&request.options, (asked, is_told), sub_pool, until)).await
    }

    async fn open(
        &self,
        options: &BTreeMap<String, String>,
        (asked, is_told): (Option<Ipv4Net>, bool),
        sub_pool: Option<Ipv4Net>,
        until: Instant,
    ) -> Result<Pool, Error> {
        let host = self.host_by(until).await?;
        let (nic, link) = self.choose(&host, options).await?;
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
        if let Some(range) = sub_pool.filter(|range| !subnet.cidr.contains(range)) {
            return Err(Error::Asked(format!("--ip-range {range} is not inside the subnet {}", subnet.cidr)));
        }

        let store = self.store(in_time(until)).await?;
        if !fill::is_complete(&store, &subnet, until).await? {
            let ec2 = self.ec2(in_time(until)).await?;
            fill::refresh(&store, &ec2, &subnet, until).await?;
        }
        let eni = self.serve(nic, until).await?;
        let id = PoolId { eni: eni.nic.eni.clone(), cidr: Some(subnet.cidr), sub_pool };
        Ok(Pool { id, subnet })
    }

    /// RequestAddress for a gateway: answered from the pool, no row touched. The answer has the subnet's mask.
    ///
    /// Beside the VPC router it may be an address of somebody else's interface, such as a NAT instance; an address that
    /// could be given to a container may not (I7).
    pub async fn gateway(&self, pool: &PoolId, address: &str, until: Instant) -> Result<String, Error> {
        let cidr = match pool.cidr {
            Some(cidr) => cidr,
            None => self.patiently(until, || self.nic(&pool.eni, until)).await?.cidr,
        };
        let router = router(cidr);
        let gateway = if address.is_empty() { Some(router) } else { address.parse().ok() };
        let Some(gateway) = gateway.filter(|ip| cidr.contains(ip)) else {
            return Err(Error::Asked(format!("the gateway {address:?} is not an address of the subnet {cidr}")));
        };
        if gateway != router {
            let row = self.store(until).await?.row(gateway, until).await?;
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

    /// The ENI that a network is for, and its interface: option `eni-id`, else option `parent`, else the setting, else the
    /// one ENI with device number 1.
    pub async fn choose<'h>(
        &self,
        host: &'h Host,
        options: &BTreeMap<String, String>,
    ) -> Result<(&'h Nic, Link), Error> {
        if let Some(instance) = options.get("instance-id").filter(|id| **id != host.instance) {
            return Err(Error::Asked(format!(
                "--ipam-opt instance-id={instance:?} is not this host, which is {}",
                host.instance
            )));
        }
        let by_id = match options.get("eni-id") {
            Some(id) => {
                let id: EniId = id.parse()?;
                Some(host.interfaces.iter().find(|nic| nic.eni == id).ok_or_else(|| host.lacks(not_here(&id)))?)
            }
            None => None,
        };
        let setting = self.settings.parent.as_ref().filter(|_| by_id.is_none());
        let by_parent = match options.get("parent").or(setting) {
            Some(name) => {
                let link = self.outside.links.usable(name).await.map_err(by_name)?;
                Some(host.interfaces.iter().find(|nic| nic.mac == link.mac).ok_or_else(|| {
                    host.lacks(Error::Absent(format!(
                        "{name} ({}) is not an ENI of this instance as IMDS lists them",
                        link.mac
                    )))
                })?)
            }
            None => None,
        };
        let nic = match (by_id, by_parent) {
            (Some(a), Some(b)) if a.eni != b.eni => {
                return Err(Error::Asked(format!(
                    "--ipam-opt eni-id={} and parent name different interfaces; drop one",
                    a.eni
                )));
            }
            (Some(nic), _) | (None, Some(nic)) => nic,
            (None, None) => {
                let mut second: Vec<&Nic> = host.interfaces.iter().filter(|nic| nic.device_number == 1).collect();
                if second.len() > 1 {
                    // IMDS may list for hours what was deleted; that has no link.
                    let links = self.outside.links.macs().await?;
                    second.retain(|nic| links.contains(&nic.mac));
                }
                match second.as_slice() {
                    [nic] => *nic,
                    _ => {
                        let all: Vec<_> = host.interfaces.iter().map(|nic| nic.eni.as_str()).collect();
                        return Err(host.lacks(Error::Absent(format!(
                            "which interface? No single one has device number 1; pass --ipam-opt eni-id=… (this host has {})",
                            all.join(", ")
                        ))));
                    }
                }
            }
        };
        // What is attached to an interface that is down has no network.
        Ok((nic, self.outside.links.of_mac(&nic.mac).await?.usable()?))
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
