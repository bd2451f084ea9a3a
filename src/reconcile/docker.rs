//! Docker's word: which addresses containers have, whole or not at all, and which of its networks cannot work.

use std::collections::BTreeMap;

use tokio::time::{Instant, sleep};

use super::Problems;
use super::networks::is_of_a_driver;
use crate::engine::{Network, Snapshot};
use crate::imds::{Host, Nic};
use crate::ipam::Ipam;
use crate::late::pause;
use crate::link::Link;
use crate::plan::settle_age;

/// What the silence of Docker is told under, among the problems.
const DOCKER: &str = "Docker";

impl Ipam {
    /// Docker's word, whole or none, without addresses that are not the VPC's; grants keep off what is in use. The log says when it falls silent, and when it answers again.
    pub(crate) async fn docker(&self, host: Option<&Host>) -> Option<Snapshot> {
        let asked = Instant::now();
        match self.reconciler.engine.as_ref()?.snapshot().await {
            Ok(snapshot) => {
                let snapshot = self.about_the_vpc(snapshot, host).await;
                if let Some(silence) = self.outside.in_use.listed(snapshot.addresses(), snapshot.names(), asked) {
                    tracing::info!("Docker answers again, after {} s", silence.since.elapsed().as_secs());
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

    /// While Docker does not answer, it is asked again and again; at boot dockerd starts its plugins before it answers. What it
    /// says then calls for a round.
    pub(super) async fn until_docker_answers(&self) {
        let is_known = self.outside.in_use.silence().is_none() && self.outside.in_use.count().is_some();
        if self.reconciler.engine.is_none() || is_known {
            return std::future::pending().await;
        }
        let mut failures = 0;
        while self.docker(None).await.is_none() {
            sleep(pause(failures)).await;
            failures += 1;
        }
    }

    /// What only a person can put right, as far as it is known now.
    pub(crate) async fn problems(&self) -> Vec<String> {
        let mut problems = self.reconciler.outcome().problems;
        problems.remove(DOCKER);
        problems.extend(self.silence());
        let wrong = self.settings.wrong.iter().cloned();
        let lost = self.lost().await;
        wrong.chain(problems.into_values()).chain(self.scanner.problems()).chain(lost).collect()
    }

    /// Docker's silence, once it lasts longer than a restart of dockerd.
    pub(super) fn silence(&self) -> Option<(String, String)> {
        let silence = self.outside.in_use.silence().filter(|silence| silence.since.elapsed() >= settle_age() * 5)?;
        let since = silence.since.elapsed().as_secs();
        let problem = format!("Docker has not answered for {since} s, so lost releases pile up: {}", silence.why);
        Some((DOCKER.to_owned(), problem))
    }

    /// Networks of this driver whose containers have no network, by name.
    pub(super) async fn misfits(&self, docker: &Snapshot, host: &Host) -> Problems {
        let mut problems = BTreeMap::new();
        for network in docker.networks.iter().filter(|network| is_of_a_driver(network)) {
            let Ok((nic, link)) = self.choose(host, &network.ipam_options).await else { continue };
            if network.subnets.contains(&nic.cidr)
                && let Some(why) = self.misfit(network, host, nic, &link).await
            {
                problems.insert(network.name.clone(), why);
            }
        }
        problems
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
