//! A whole picture of what Docker has in use.
//!
//! The fields are those of API 1.41 to 1.52 (Engine 20.10 to 29). Those that each of them always writes must be there: an
//! answer without them is somebody else's, and no picture of Docker's.
//!
//! A container that died with dockerd keeps its old address in the listing until it is started again (Engine 20.10), though
//! its endpoint is gone and the address released: of a container that does not run only an endpoint is a use.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::{Engine, EngineError};
use crate::domain::history::Shown;

/// States of a container that does not run, in which its own word on its address may be an old one.
const DOWN: [&str; 4] = ["created", "exited", "removing", "dead"];
/// Longest time for all reads of a snapshot together. One takes milliseconds.
const WHOLE: Duration = Duration::from_secs(30);

/// What Docker has in use, read whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its networks, but for those without endpoints (`host`, `none`).
    pub networks: Vec<Network>,
    /// Addresses of containers on networks that are none of these: one that came or went while Docker was read.
    pub strays: HashSet<Ipv4Addr>,
}

/// A Docker network as far as the driver's pools go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The network driver, such as `ipvlan`.
    pub driver: String,
    /// `-o parent`.
    pub parent: Option<String>,
    /// The IPAM driver as the network names it, such as `ec2-ipam:latest`.
    pub ipam: String,
    /// `--ipam-opt`.
    pub ipam_options: BTreeMap<String, String>,
    /// Its IPv4 subnets.
    pub subnets: Vec<Ipv4Net>,
    /// Addresses of every endpoint, running container or not, and every auxiliary address: each counts as a use.
    pub addresses: HashSet<Ipv4Addr>,
    /// Names of the containers that run, by address.
    pub names: HashMap<Ipv4Addr, String>,
    /// Their ids, likewise.
    pub containers: HashMap<Ipv4Addr, String>,
}

impl Snapshot {
    /// All addresses, of whatever network.
    pub fn addresses(&self) -> HashSet<Ipv4Addr> {
        self.networks.iter().flat_map(|network| &network.addresses).chain(&self.strays).copied().collect()
    }

    /// The containers' names, as far as their network tells them.
    pub fn names(&self) -> HashMap<Ipv4Addr, String> {
        self.networks.iter().flat_map(|network| network.names.clone()).collect()
    }

    /// The same with all that it tells of them.
    pub fn shown(&self) -> Vec<Shown> {
        let of = |network: &Network, ip: &Ipv4Addr, name: &String| Shown {
            ip: *ip,
            name: name.clone(),
            container: network.containers.get(ip).cloned(),
            network: network.name.clone(),
        };
        self.networks.iter().flat_map(|network| network.names.iter().map(|(ip, name)| of(network, ip, name))).collect()
    }
}

impl Engine {
    /// What Docker has in use now: the addresses of containers that run, then those of each network's endpoints, of which
    /// some have no container, and its auxiliary addresses. A container's wish (`--ip`) is no use while it has no endpoint.
    ///
    /// The reads are not one moment's: an endpoint that comes or goes meanwhile may be in it or not.
    ///
    /// # Errors
    /// Any read's, or 30 s are over. A network that is gone since it was listed is no error and has no endpoints.
    pub async fn snapshot(&self) -> Result<Snapshot, EngineError> {
        let read = tokio::time::timeout(WHOLE, self.read_all()).await;
        read.unwrap_or_else(|_| Err(self.silent(format!("not all of it within {} s", WHOLE.as_secs()))))
    }

    /// Of each answer only the addresses stay, so that memory is bounded by that of one.
    async fn read_all(&self) -> Result<Snapshot, EngineError> {
        let containers: Vec<Container> = self.get("/containers/json?all=true").await?;
        let up = containers.into_iter().filter(|container| !DOWN.contains(&container.state.as_str()));
        let attached: Vec<(String, Attached)> = up
            .flat_map(|container| container.settings.networks)
            .filter_map(|(name, attached)| Some((name, attached?)))
            .collect();
        let mut networks: Vec<(String, Network)> = Vec::new();
        let listed: Vec<Listed> = self.get("/networks").await?;
        for Listed { id, driver } in listed {
            if matches!(driver.as_str(), "host" | "null") {
                continue;
            }
            // It becomes part of a path.
            if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(self.odd("/networks", format!("the network id {id:?}")));
            }
            if let Some(network) = self.get_if_there::<Inspected>(&format!("/networks/{id}")).await? {
                networks.push((id, network.into()));
            }
        }
        let mut strays = HashSet::new();
        for (name, Attached { network, ip }) in attached {
            // One that is being started may not have the id yet.
            let is_its =
                |(id, of): &&mut (String, Network)| if network.is_empty() { of.name == name } else { *id == network };
            let its = networks.iter_mut().find(is_its);
            its.map_or(&mut strays, |(_, network)| &mut network.addresses).extend(ip.0);
        }
        Ok(Snapshot { networks: networks.into_iter().map(|(_, network)| network).collect(), strays })
    }
}

impl From<Inspected> for Network {
    fn from(network: Inspected) -> Self {
        let mut options = network.options;
        let endpoints = network.containers.values().filter_map(|endpoint| endpoint.ip.0);
        let auxiliary = network.ipam.config.iter().flat_map(|config| config.auxiliary.values()).filter_map(|ip| ip.0);
        let named = network.containers.values().filter(|endpoint| !endpoint.name.is_empty());
        // An endpoint without a container stands under a name that says so.
        let containers = network.containers.iter().filter(|(id, _)| !id.starts_with("ep-"));
        Self {
            addresses: endpoints.chain(auxiliary).collect(),
            names: named.filter_map(|endpoint| Some((endpoint.ip.0?, endpoint.name.clone()))).collect(),
            containers: containers.filter_map(|(id, endpoint)| Some((endpoint.ip.0?, id.clone()))).collect(),
            name: network.name,
            driver: network.driver,
            parent: options.remove("parent").filter(|parent| !parent.is_empty()),
            ipam: network.ipam.driver,
            ipam_options: network.ipam.options,
            subnets: network.ipam.config.into_iter().filter_map(|config| config.subnet.0).collect(),
        }
    }
}

#[derive(Deserialize)]
struct Container {
    #[serde(rename = "State")]
    state: String,
    #[serde(rename = "NetworkSettings", deserialize_with = "or_null")]
    settings: Settings,
}

#[derive(Default, Deserialize)]
struct Settings {
    #[serde(rename = "Networks", deserialize_with = "or_null")]
    networks: HashMap<String, Option<Attached>>,
}

#[derive(Deserialize)]
struct Attached {
    #[serde(default, rename = "NetworkID")]
    network: String,
    #[serde(rename = "IPAddress")]
    ip: Address,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    driver: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    name: String,
    driver: String,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    #[serde(deserialize_with = "or_null")]
    options: BTreeMap<String, String>,
    /// By container, or by endpoint where there is none.
    #[serde(deserialize_with = "or_null")]
    containers: HashMap<String, Endpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    driver: String,
    #[serde(deserialize_with = "or_null")]
    options: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_null")]
    config: Vec<IpamConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IpamConfig {
    #[serde(default)]
    subnet: Subnet,
    #[serde(default, rename = "AuxiliaryAddresses", deserialize_with = "or_null")]
    auxiliary: HashMap<String, Address>,
}

#[derive(Deserialize)]
struct Endpoint {
    /// For people: an answer without it is a picture all the same.
    #[serde(rename = "Name", default)]
    name: String,
    #[serde(rename = "IPv4Address")]
    ip: Address,
}

/// An address with or without its mask; none for an empty text and for IPv6.
#[derive(Clone, Copy)]
struct Address(Option<Ipv4Addr>);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        let parsed = text.parse::<IpAddr>().or_else(|_| text.parse::<IpNet>().map(|net| net.addr()));
        match parsed.map(|ip| ip.to_canonical()) {
            Ok(IpAddr::V4(ip)) => Ok(Self(Some(ip))),
            Ok(IpAddr::V6(_)) => Ok(Self(None)),
            Err(_) => Err(D::Error::custom(format!("{text:?} is no address"))),
        }
    }
}

/// A subnet; none for an empty text and for IPv6.
#[derive(Clone, Copy, Default)]
struct Subnet(Option<Ipv4Net>);

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        match text.parse::<IpNet>() {
            Ok(IpNet::V4(net)) => Ok(Self(Some(net.trunc()))),
            Ok(IpNet::V6(_)) => Ok(Self(None)),
            Err(_) => Err(D::Error::custom(format!("{text:?} is no subnet"))),
        }
    }
}

/// Go writes an empty map or list as null as well; but the key must be there.
fn or_null<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
