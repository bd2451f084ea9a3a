//! Docker's networks of this driver: their ENIs are served, and those that cannot work are told.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::time::Instant;

use super::outcome::Problems;
use crate::domain::id::EniId;
use crate::driver::docker_watch::is_of_a_driver;
use crate::driver::interfaces::Interfaces;
use crate::driver::served::Served;
use crate::eni::{Eni, Outside};
use crate::outside::engine::{Network, Snapshot};
use crate::outside::imds::{Host, Nic};
use crate::outside::link::Link;

/// All of them, as Docker lists them.
pub(super) struct Networks {
    outside: Arc<Outside>,
    interfaces: Arc<Interfaces>,
    served: Arc<Served>,
}

impl Networks {
    pub(super) fn new(outside: &Arc<Outside>, interfaces: &Arc<Interfaces>, served: &Arc<Served>) -> Self {
        Self { outside: Arc::clone(outside), interfaces: Arc::clone(interfaces), served: Arc::clone(served) }
    }

    /// Docker does not ask again for the pool of a network that is there: its ENI is served, and its subnet filled, even if the
    /// table is new and knows neither.
    pub(super) async fn serve(&self, docker: &Snapshot, host: &Host) {
        for network in docker.networks.iter().filter(|network| is_of_a_driver(network)) {
            let Ok((nic, _)) = self.interfaces.choose(host, &network.ipam_options).await else { continue };
            if !network.subnets.contains(&nic.cidr) || !self.served.lacks(nic, host).await {
                continue;
            }
            if let Err(why) = self.served.serve(nic).await {
                tracing::debug!(eni = %nic.eni, "{why}");
            }
        }
    }

    /// What Docker has in use on networks of this ENI that can work there.
    pub(super) async fn addresses_on(&self, docker: &Snapshot, host: &Host, eni: &Eni) -> HashSet<Ipv4Addr> {
        let mut addresses = HashSet::new();
        for network in docker.networks.iter().filter(|network| is_on(network, eni)) {
            if let Ok((nic, link)) = self.interfaces.choose(host, &network.ipam_options).await
                && nic.eni == eni.nic.eni
                && self.misfit(network, host, nic, &link).await.is_none()
            {
                addresses.extend(&network.addresses);
            }
        }
        addresses
    }

    /// Networks of this driver whose containers have no network, by name.
    pub(super) async fn misfits(&self, docker: &Snapshot, host: &Host, until: Instant) -> Problems {
        let mut problems = BTreeMap::new();
        for network in docker.networks.iter().filter(|network| is_of_a_driver(network)) {
            let Ok((nic, link)) = self.interfaces.choose(host, &network.ipam_options).await else {
                if let Some(why) = self.absent(network, host, until).await {
                    problems.insert(network.name.clone(), why);
                }
                continue;
            };
            if network.subnets.contains(&nic.cidr)
                && let Some(why) = self.misfit(network, host, nic, &link).await
            {
                problems.insert(network.name.clone(), why);
            }
        }
        problems
    }

    /// The ENI that it names is not this host's, and not about to be. One that left in this life is told of already.
    async fn absent(&self, network: &Network, host: &Host, until: Instant) -> Option<String> {
        let id: EniId = network.ipam_options.get("eni-id")?.parse().ok()?;
        // It may be one whose items are odd.
        let may_be_here = host.interfaces.iter().any(|nic| nic.eni == id) || !host.left_out.is_empty();
        if may_be_here || self.served.has_lost(&id).await || self.interfaces.may_list_more(host, until).await {
            return None;
        }
        Some(format!(
            "the network {} is for {id}, which is not attached to this instance, so its containers cannot start: attach it, or \
             create the network for another interface",
            network.name
        ))
    }

    async fn misfit(&self, network: &Network, host: &Host, nic: &Nic, link: &Link) -> Option<String> {
        let (name, driver, eth) = (&network.name, &network.driver, &link.name);
        // Macvlan is for trials on kernels without ipvlan; a VPC lets its packets through to nobody.
        if !matches!(driver.as_str(), "ipvlan" | "macvlan") {
            return Some(format!(
                "the network {name} has the driver {driver}, so its containers are not in the VPC, and the host itself may have the \
                 address of the VPC's router: create it again with -d ipvlan -o parent={eth}"
            ));
        }
        let parent = network.parent.as_deref();
        if parent == Some(eth) {
            return None;
        }
        let other = match parent {
            Some(parent) => self.outside.links.by_name(parent).await.ok().flatten(),
            None => None,
        };
        let other = other.and_then(|other| host.interfaces.iter().find(|nic| nic.mac == other.mac));
        let or = other.map(|other| format!(", or with --ipam-opt eni-id={}", other.eni)).unwrap_or_default();
        Some(format!(
            "the network {name} is on {}, and its addresses are on {eth} ({}), so its containers have no network: create it again \
             with -o parent={eth}{or}",
            parent.unwrap_or("no parent interface"),
            nic.eni
        ))
    }
}

/// Whether its addresses may be this ENI's.
pub(super) fn is_on(network: &Network, eni: &Eni) -> bool {
    is_of_a_driver(network) && network.subnets.contains(&eni.subnet.cidr)
}
