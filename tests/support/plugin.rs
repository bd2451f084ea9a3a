//! The managed plugin in a real Docker Engine, on an instance with two ENIs of a simulated VPC.
//!
//! The plugin is the one that is shipped, put together from the binary under test.
#![allow(clippy::print_stderr, reason = "each step says what it did and how long it took")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use ec2_ipam::domain::address::State;
use ec2_ipam::driver::list::Listed;
use ec2_ipam::driver::status::Status;
use serde_json::{Value, json};
use vpc_sim::{EniSpec, Server, Switches, Vpc};

use super::agreement::{Docker, Endpoint, Interface, agree};
use super::engine::{Engine, IMAGE, run, until};

pub(crate) const PLUGIN: &str = "ec2-ipam:latest";
const HOST: &str = "i-0aaaaaaa";
pub(crate) const FRONT: Parent =
    Parent { name: "eth1", eni: "eni-0aaaaaa1", subnet: "subnet-0aaaaaaa", cidr: "10.77.0.0/24", device: 1 };
pub(crate) const BACK: Parent =
    Parent { name: "eth2", eni: "eni-0aaaaaa2", subnet: "subnet-0aaaaaab", cidr: "10.78.0.0/20", device: 2 };

/// An ENI of the host with a subnet of its own; its primary address is the tenth.
pub(crate) struct Parent {
    pub(crate) name: &'static str,
    pub(crate) eni: &'static str,
    pub(crate) subnet: &'static str,
    pub(crate) cidr: &'static str,
    device: u32,
}

impl Parent {
    pub(crate) fn net(&self) -> ipnet::Ipv4Net {
        self.cidr.parse().unwrap()
    }

    pub(crate) fn ip(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.net().network()) + offset)
    }

    fn with_mask(&self, offset: u32) -> String {
        format!("{}/{}", self.ip(offset), self.net().prefix_len())
    }
}

/// How a bed differs from one as it is shipped.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setup {
    /// Further options of dockerd.
    pub(crate) dockerd: &'static str,
    /// Settings of the plugin, as `NAME=value` words.
    pub(crate) settings: &'static str,
    /// Variables of the plugin's environment that its manifest does not declare.
    pub(crate) undeclared: &'static [(&'static str, &'static str)],
}

/// An Engine on an instance with two ENIs, and the plugin in it.
pub(crate) struct Bed {
    pub(crate) engine: Engine,
    pub(crate) vpc: Vpc,
    pub(crate) driver: &'static str,
    /// The Engine's major version.
    pub(crate) major: u32,
    _servers: [Server; 2],
}

impl Bed {
    /// With the plugin not enabled yet.
    pub(crate) fn new(setup: Setup) -> Self {
        let vpc = Vpc::new(Switches::default());
        vpc.add_instance(HOST, "m5.24xlarge");
        let engine = Engine::start_with(setup.dockerd);
        for parent in [FRONT, BACK] {
            vpc.add_subnet(parent.subnet, parent.cidr);
            let spec = EniSpec::new(parent.eni, parent.subnet, parent.ip(10)).on(HOST, parent.device);
            engine.parent(parent.name, &spec.mac, &parent.with_mask(10), &parent.with_mask(1));
            vpc.add_eni(spec);
        }
        let ec2 = vpc.serve_ec2(engine.listener());
        let imds = vpc.serve_imds(HOST, engine.listener());

        let version = engine.docker("version --format {{.Server.Version}}").unwrap();
        let major = version.split('.').next().unwrap().parse().unwrap();
        eprintln!("Docker Engine {version}");
        let driver = engine.network_driver(FRONT.name);

        let plugin = engine.dir.join("plugin");
        run(Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/plugin/assemble.sh"))
            .arg(env!("CARGO_BIN_EXE_ec2-ipam"))
            .arg(&plugin))
        .unwrap();
        declare(&plugin.join("config.json"), setup.undeclared);
        engine.docker(&format!("plugin create {PLUGIN} {}", plugin.display())).unwrap();
        // Region and credentials come from the metadata, as on a host with a role.
        engine
            .docker(&format!(
                "plugin set {PLUGIN} AWS_ENDPOINT_URL_EC2={} AWS_EC2_METADATA_SERVICE_ENDPOINT={} {}",
                ec2.url(),
                imds.url(),
                setup.settings
            ))
            .unwrap();
        Self { engine, vpc, driver, major, _servers: [ec2, imds] }
    }

    /// Does it, then waits until the three agree.
    #[track_caller]
    pub(crate) fn step<T>(&self, what: &str, step: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = step();
        let took = begun.elapsed();
        until(&format!("agreement after: {what}"), || match self.disagreement() {
            Ok(none) if none.is_empty() => Ok(()),
            Ok(lines) => Err(lines.join("\n")),
            Err(why) => Err(why),
        });
        eprintln!("{:6.2} s {:+6.2} s  {what}", took.as_secs_f64(), (begun.elapsed() - took).as_secs_f64());
        done
    }

    pub(crate) fn docker(&self, words: &str) -> String {
        self.engine.docker(words).unwrap_or_else(|why| panic!("docker {words}: {why}"))
    }

    /// The refusal of a command that must fail.
    pub(crate) fn refused(&self, words: &str) -> String {
        match self.engine.docker(words) {
            Ok(out) => panic!("docker {words} was not refused: {out}"),
            Err(why) => why,
        }
    }

    pub(crate) fn json(&self, words: &str) -> Value {
        serde_json::from_str(&self.docker(words)).unwrap()
    }

    pub(crate) fn network(&self, name: &str, parent: &Parent, options: &str) -> Result<String, String> {
        self.engine.docker(&format!(
            "network create -d {} -o parent={} --ipam-driver {PLUGIN} {options} {name}",
            self.driver, parent.name
        ))
    }

    /// Starts a container that idles.
    pub(crate) fn run(&self, name: &str, options: &str) -> Ipv4Addr {
        self.docker(&format!("run -d --name {name} {options} {IMAGE} idle"));
        self.address(name).expect("a running container has an address")
    }

    /// The first address of a container.
    pub(crate) fn address(&self, name: &str) -> Option<Ipv4Addr> {
        let inspected = self.json(&format!("inspect {name}"));
        let networks = inspected[0]["NetworkSettings"]["Networks"].as_object().unwrap().clone();
        networks.values().find_map(|n| n["IPAddress"].as_str()?.parse().ok())
    }

    pub(crate) fn is_running(&self, name: &str) -> bool {
        self.json(&format!("inspect {name}"))[0]["State"]["Running"] == true
    }

    pub(crate) fn ping(&self, from: &str, to: Ipv4Addr) {
        let words = format!("exec {from} ping -q -c 1 -W 2 {to}");
        until(&format!("{from} reaches {to}"), || self.engine.docker(&words));
    }

    pub(crate) fn rows(&self, parent: &Parent) -> Result<Vec<Listed>, String> {
        // A subnet that no network has asked for has no rows, and to list it alone is a mistake.
        let rows = self.engine.cli("list --free --json")?;
        let rows: Vec<Listed> = serde_json::from_str(&rows).map_err(|why| why.to_string())?;
        Ok(rows.into_iter().filter(|row| parent.net().contains(&row.ip)).collect())
    }

    pub(crate) fn status(&self) -> Result<Status, String> {
        // It fails while a problem stands, and shows it all the same.
        let (Ok(told) | Err(told)) = self.engine.cli("status --json");
        let first = serde_json::Deserializer::from_str(&told).into_iter().next();
        first.ok_or("nothing was said")?.map_err(|why: serde_json::Error| format!("{why}: {told}"))
    }

    /// How the row of an address is.
    pub(crate) fn state(&self, parent: &Parent, ip: Ipv4Addr) -> State {
        let rows = self.rows(parent).unwrap();
        rows.iter().find(|row| row.ip == ip).expect("each address has a row").state
    }

    pub(crate) fn wait_for_warmth(&self, addresses: usize) {
        until("warm addresses", || {
            let warm = self.status()?.enis.iter().map(|eni| eni.warm).min().unwrap_or(0);
            if warm < addresses { Err(format!("{warm} warm")) } else { Ok(()) }
        });
    }

    pub(crate) fn disagreement(&self) -> Result<Vec<String>, String> {
        let mut rows = self.rows(&FRONT)?;
        rows.extend(self.rows(&BACK)?);
        let docker = self.picture()?;
        let enis: BTreeMap<_, _> = [FRONT, BACK]
            .map(|parent| {
                let eni = Interface {
                    id: parent.eni.to_owned(),
                    cidr: parent.net(),
                    secondaries: self.vpc.addresses(parent.eni),
                };
                (parent.name.to_owned(), eni)
            })
            .into();
        Ok(agree(&rows, &enis, &docker))
    }

    fn picture(&self) -> Result<Docker, String> {
        let inspect = |list: &str, what: &str| -> Result<Vec<Value>, String> {
            let ids = self.engine.docker(list)?;
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            let json = self.engine.docker(&format!("{what} {ids}"))?;
            serde_json::from_str(&json).map_err(|why| why.to_string())
        };
        let mut docker = Docker::default();
        let mut parents = BTreeMap::new();
        let networks = inspect("network ls -q", "network inspect")?;
        for network in networks.iter().filter(|n| n["IPAM"]["Driver"] == PLUGIN) {
            let parent = network["Options"]["parent"].as_str().unwrap_or("no parent");
            parents.insert(network["Id"].clone().to_string(), parent.to_owned());
            for config in network["IPAM"]["Config"].as_array().ok_or("no configuration")? {
                let auxiliary = config["AuxiliaryAddresses"].as_object().into_iter().flatten();
                docker.auxiliary.extend(auxiliary.filter_map(|(_, ip)| ip.as_str()?.parse::<Ipv4Addr>().ok()));
            }
            let containers = network["Containers"].as_object().ok_or("no containers")?;
            for endpoint in containers.values() {
                let net: ipnet::Ipv4Net = endpoint["IPv4Address"]
                    .as_str()
                    .and_then(|net| net.parse().ok())
                    .ok_or("an endpoint without an address")?;
                docker.listed.insert(net.addr());
            }
        }
        for container in inspect("ps -q", "inspect")? {
            if container["State"]["Running"] != true || container["State"]["Restarting"] == true {
                continue;
            }
            let networks = container["NetworkSettings"]["Networks"].as_object().ok_or("no networks")?;
            for endpoint in networks.values() {
                let Some(parent) = parents.get(&endpoint["NetworkID"].to_string()) else {
                    continue;
                };
                let ip = |key: &str| endpoint[key].as_str().and_then(|ip| ip.parse().ok());
                docker.running.push(Endpoint {
                    container: container["Name"].to_string(),
                    parent: parent.clone(),
                    ip: ip("IPAddress"),
                    mask: endpoint["IPPrefixLen"].as_u64().and_then(|n| n.try_into().ok()).unwrap_or(0),
                    gateway: ip("Gateway"),
                });
            }
        }
        Ok(docker)
    }
}

/// Adds variables to a manifest. The one that is shipped must not have them.
fn declare(manifest: &Path, variables: &[(&str, &str)]) {
    let mut config: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let env = config["env"].as_array_mut().unwrap();
    for (name, value) in variables {
        assert!(env.iter().all(|declared| declared["name"] != *name), "{name} is in the shipped manifest");
        env.push(json!({ "name": name, "description": "for tests", "value": value }));
    }
    std::fs::write(manifest, config.to_string()).unwrap();
}
