//! Which of Docker's networks have addresses of the VPC. A bridge or an overlay may have the same numbers: what is behind it
//! meets nobody in the VPC, and says nothing of whose an address there is.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use tokio::time::Instant;

use super::Reconciler;
use crate::engine::{Network, Snapshot};
use crate::imds::{Host, Nic};
use crate::ipam::Ipam;

impl Ipam {
    /// Docker's word as far as it is about the VPC: networks of this driver, under whatever name, and those on a parent
    /// interface that is an ENI, whoever gives their addresses (such as `--ip` with Docker's own IPAM). All of it while the
    /// host's ENIs are not known.
    pub(super) async fn about_the_vpc(&self, word: Snapshot, host: Option<&Host>) -> Snapshot {
        let Some(host) = host else { return word };
        let Snapshot { networks, strays } = word;
        let (mut kept, mut warnings) = (Vec::new(), BTreeMap::new());
        for network in networks {
            if is_of_a_driver(&network) || self.is_on_an_eni(&network, host).await {
                kept.push(network);
            } else if let Some(warning) = host.interfaces.iter().find_map(|nic| overlap(&network, nic)) {
                warnings.insert(network.name, warning);
            }
        }
        self.reconciler.warn(warnings);
        Snapshot { networks: kept, strays }
    }

    /// Docker does not ask again for the pool of a network that is there: its ENI is served, and its subnet filled, even if the
    /// table is new and knows neither.
    pub(super) async fn serve_networks(&self, docker: &Snapshot, host: &Host, until: Instant) {
        for network in docker.networks.iter().filter(|network| is_of_a_driver(network)) {
            let Ok((nic, _)) = self.choose(host, &network.ipam_options).await else { continue };
            if !network.subnets.contains(&nic.cidr) || self.is_served(&nic.eni).await {
                continue;
            }
            if self.has_lost(&nic.eni).await && !self.is_back(nic, host).await {
                continue;
            }
            if let Err(why) = self.serve(nic, until).await {
                tracing::debug!(eni = %nic.eni, "{why}");
            }
        }
    }

    /// IMDS lists what is gone for hours.
    pub(crate) async fn is_back(&self, nic: &Nic, host: &Host) -> bool {
        let Ok(ec2) = self.outside.ec2.now() else { return false };
        ec2.interface(&nic.eni).await.is_ok_and(|interface| interface.instance.as_ref() == Some(&host.instance))
    }

    async fn is_on_an_eni(&self, network: &Network, host: &Host) -> bool {
        let Some(parent) = &network.parent else { return false };
        // By MAC: an interface may have several names.
        let link = match self.outside.links.by_name(parent).await {
            Ok(Some(link)) => link,
            Ok(None) => return false,
            Err(_) => return true,
        };
        for nic in host.interfaces.iter().filter(|nic| nic.mac == link.mac && shared(network, nic.cidr).is_some()) {
            // What stands on the card, such as a VLAN, has its MAC too.
            match self.outside.links.by_mac(&nic.mac).await {
                Ok(Some(card)) if card.index != link.index => {}
                Ok(_) | Err(_) => return true,
            }
        }
        false
    }
}

impl Reconciler {
    /// Each is told once in the log, and shown by `doctor` for as long as it lasts.
    fn warn(&self, warnings: BTreeMap<String, String>) {
        self.outcome.send_modify(|outcome| {
            for (_, warning) in warnings.iter().filter(|(about, _)| !outcome.warnings.contains_key(*about)) {
                tracing::warn!("{warning}");
            }
            outcome.warnings = warnings;
        });
    }
}

/// Whether an IPAM driver other than Docker's own serves it. It need not have this one's name: a network keeps the name that it
/// was made with, which may be an alias of before, or the original's.
pub(super) fn is_of_a_driver(network: &Network) -> bool {
    !matches!(network.ipam.as_str(), "" | "default" | "null")
}

/// The subnet of the network that has addresses of this block.
fn shared(network: &Network, cidr: Ipv4Net) -> Option<Ipv4Net> {
    network.subnets.iter().copied().find(|net| net.contains(&cidr) || cidr.contains(net))
}

fn overlap(network: &Network, nic: &Nic) -> Option<String> {
    let net = shared(network, nic.cidr)?;
    let (name, driver, subnet, cidr) = (&network.name, &network.driver, &nic.subnet, nic.cidr);
    Some(format!(
        "Docker's network {name} ({driver}, {net}) overlaps {subnet} ({cidr}), and is neither this driver's nor on an ENI of that \
         subnet: its addresses count for nothing here, but its containers, or this host, may not reach the VPC's; make it again \
         with another --subnet (docker swarm init --default-addr-pool)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(subnets: &[&str]) -> Network {
        Network {
            name: "net".into(),
            driver: "bridge".into(),
            parent: None,
            ipam: "default".into(),
            ipam_options: BTreeMap::new(),
            subnets: subnets.iter().map(|net| net.parse().unwrap()).collect(),
            addresses: std::collections::HashSet::new(),
            names: std::collections::HashMap::new(),
        }
    }

    #[test]
    fn a_network_overlaps_a_block_if_either_has_the_other() {
        let cidr = "10.0.1.0/24".parse().unwrap();
        for (subnets, expected) in [
            (vec!["10.0.1.0/24"], Some("10.0.1.0/24")),
            (vec!["10.0.0.0/16"], Some("10.0.0.0/16")),
            (vec!["172.18.0.0/16", "10.0.1.128/25"], Some("10.0.1.128/25")),
            (vec!["10.0.0.0/24", "10.0.2.0/23"], None),
            (vec![], None),
        ] {
            let found = shared(&network(&subnets), cidr).map(|net| net.to_string());
            assert_eq!(found.as_deref(), expected, "{subnets:?}");
        }
    }

    #[test]
    fn any_ipam_driver_but_dockers_own_may_be_this_one() {
        for (ipam, expected) in [
            ("ec2-ipam:latest", true),
            ("team/ipam:1.0", true),
            ("ec2-ipam", true),
            ("default", false),
            ("", false),
            ("null", false),
        ] {
            assert_eq!(is_of_a_driver(&Network { ipam: ipam.into(), ..network(&[]) }), expected, "{ipam:?}");
        }
    }
}
