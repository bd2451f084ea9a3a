//! Docker's word: which addresses containers have, whole or not at all, and for how long it has been silent.
//!
//! Not all of Docker's networks have addresses of the VPC. A bridge or an overlay may have the same numbers: what is behind it
//! meets nobody in the VPC, and says nothing of whose an address there is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::Ipv4Net;
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::domain::plan::settle_age;
use crate::eni::Outside;
use crate::outside::engine::{Engine, Network, Snapshot};
use crate::outside::imds::{Host, Nic};

/// The Docker Engine of this host, asked in the background.
pub struct DockerWatch {
    outside: Arc<Outside>,
    engine: Option<Engine>,
    /// What is no problem of the driver's, and may be one of the host's: a sentence for each network that it is about.
    warnings: Mutex<BTreeMap<String, String>>,
}

impl DockerWatch {
    /// Without an Engine, nobody is asked.
    pub(crate) fn new(outside: &Arc<Outside>, engine: Option<Engine>) -> Self {
        Self { outside: Arc::clone(outside), engine, warnings: Mutex::default() }
    }

    /// Whether Docker is asked at all.
    pub(crate) fn is_asked(&self) -> bool {
        self.engine.is_some()
    }

    /// Whom it asks.
    pub(crate) fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    /// Docker's word, whole or none, without addresses that are not the VPC's; grants keep off what is in use. The log says
    /// when it falls silent, and when it answers again.
    pub(crate) async fn look(&self, host: Option<&Host>) -> Option<Snapshot> {
        let asked = Instant::now();
        match self.engine.as_ref()?.snapshot().await {
            Ok(snapshot) => {
                let snapshot = self.about_the_vpc(snapshot, host).await;
                if let Some(silence) = self.outside.in_use.listed(snapshot.addresses(), snapshot.names(), asked) {
                    tracing::info!("Docker answers again, after {} s", silence.since.elapsed().as_secs());
                }
                // All that Docker has is not about the VPC.
                if host.is_some() {
                    self.note(&snapshot, asked);
                }
                Some(snapshot)
            }
            Err(why) => {
                let why = why.to_string();
                if self.outside.in_use.silent(why.clone(), asked) {
                    tracing::warn!("which addresses containers have is not seen from now on: {why}");
                } else {
                    tracing::debug!("{why}");
                }
                None
            }
        }
    }

    /// Names for the history, but for addresses that Docker has just let go of: it may show for a moment who had them before.
    fn note(&self, snapshot: &Snapshot, asked: Instant) {
        let mut shown = snapshot.shown();
        shown.retain(|shown| self.outside.in_use.contains(shown.ip));
        self.outside.journal.shown(shown, asked.into_std());
    }

    /// While Docker does not answer, it is asked again and again; at boot dockerd starts its plugins before it answers. What it
    /// says then calls for a round.
    pub(crate) async fn until_it_answers(&self) {
        let is_known = self.outside.in_use.silence().is_none() && self.outside.in_use.count().is_some();
        if self.engine.is_none() || is_known {
            return std::future::pending().await;
        }
        let mut backoff = Backoff::default();
        while self.look(None).await.is_none() {
            sleep(backoff.fails()).await;
        }
    }

    /// Docker's silence, once it lasts longer than a restart of dockerd.
    pub(crate) fn silence(&self) -> Option<String> {
        let silence = self.outside.in_use.silence().filter(|silence| silence.since.elapsed() >= settle_age() * 5)?;
        let since = silence.since.elapsed().as_secs();
        Some(format!("Docker has not answered for {since} s, so lost releases pile up: {}", silence.why))
    }

    /// What may be wrong with the host's networks, as of the last look.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Docker's word as far as it is about the VPC: networks of this driver, under whatever name, and those on a parent
    /// interface that is an ENI, whoever gives their addresses (such as `--ip` with Docker's own IPAM). All of it while the
    /// host's ENIs are not known.
    async fn about_the_vpc(&self, word: Snapshot, host: Option<&Host>) -> Snapshot {
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
        self.warn(warnings);
        Snapshot { networks: kept, strays }
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

    /// Each is told once in the log, and shown by `doctor` for as long as it lasts.
    fn warn(&self, warnings: BTreeMap<String, String>) {
        let mut known = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, warning) in warnings.iter().filter(|(about, _)| !known.contains_key(*about)) {
            tracing::warn!("{warning}");
        }
        *known = warnings;
    }
}

/// Whether an IPAM driver other than Docker's own serves it. It need not have this one's name: a network keeps the name that it
/// was made with, which may be an alias of before, or the original's.
pub(crate) fn is_of_a_driver(network: &Network) -> bool {
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
            containers: std::collections::HashMap::new(),
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
