//! A Docker Engine's API on a unix socket, as far as the driver reads it: it shows the containers of the reference.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::ledger::Shared;
use crate::support::docker::converse;

/// How the Engine is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Up,
    /// 503 to everything.
    Failing,
    /// No answer.
    Hanging,
}

/// What one Engine shows.
#[derive(Clone, Debug, Default)]
pub struct Docker {
    pub mode: Mode,
    endpoints: Vec<Endpoint>,
    /// How often it has listed its containers, and when last.
    pub listings: usize,
    listed_at: Duration,
    /// What the driver that lives now gave itself, or was shown.
    known: HashSet<Ipv4Addr>,
}

#[derive(Clone, Debug)]
struct Endpoint {
    ip: Ipv4Addr,
    from: Duration,
    until: Duration,
}

impl Docker {
    /// An endpoint shows only when its container has started.
    pub fn shows(&mut self, ip: Ipv4Addr, now: Duration) {
        self.known.insert(ip);
        let from = now + Duration::from_millis(fastrand::u64(0..1500));
        self.endpoints.push(Endpoint { ip, from, until: Duration::MAX });
    }

    /// Whatever is being started has started.
    pub fn shows_all(&mut self) {
        self.endpoints.iter_mut().for_each(|endpoint| endpoint.from = Duration::ZERO);
    }

    /// It may show for a moment after Docker has released the address.
    pub fn hides(&mut self, ip: Ipv4Addr, now: Duration, is_told: bool) {
        let until = if is_told { now + Duration::from_millis(fastrand::u64(0..3000)) } else { now };
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| endpoint.ip == ip) {
            endpoint.until = endpoint.until.min(until);
        }
    }

    /// A driver begins that knows nothing yet.
    pub fn meets_another(&mut self) {
        self.known.clear();
    }

    /// Whether the driver that lives now gave the address or was shown it. It may have it from the table as well, but until
    /// it has looked there, nothing else tells it of a container that an earlier life gave the address to.
    pub fn has_told(&self, ip: Ipv4Addr) -> bool {
        self.known.contains(&ip)
    }

    /// Whether its last list had the address of a container that was gone: until the next one, a driver that started after
    /// the release takes it for one in use.
    pub fn lingers(&self, ip: Ipv4Addr) -> bool {
        self.shown(self.listed_at).any(|endpoint| endpoint.ip == ip && endpoint.until < Duration::MAX)
    }

    fn shown(&self, now: Duration) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(move |endpoint| endpoint.from <= now && now < endpoint.until)
    }
}

/// The one network of every host.
const NETWORK: &str = "7d86d31b1478e7cca9ebed7e73aa0fdeec46c5ca29497431d3007d2d9e15ed99";

/// Serves the Engine of a host, on the current runtime, for as long as that lives.
pub fn serve(listener: UnixListener, shared: Shared, seat: usize) -> JoinHandle<()> {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let shared = shared.clone();
            let answer = move |line: &str| answer(&shared, seat, line.split(' ').nth(1).unwrap_or_default());
            tokio::spawn(converse(stream, answer));
        }
    })
}

fn answer(shared: &Shared, seat: usize, path: &str) -> Option<(u16, Value)> {
    let now = shared.now();
    let mut ledger = shared.ledger();
    let cidr = ledger.cidr;
    let Some(docker) = ledger.seats.get_mut(seat).map(|seat| &mut seat.docker) else {
        return Some((503, json!({ "message": "starting" })));
    };
    match docker.mode {
        Mode::Up => {}
        Mode::Failing => return Some((503, json!({ "message": "failing on purpose" }))),
        Mode::Hanging => return None,
    }
    let answer = shown(path, docker, cidr, now);
    if path.starts_with("/containers/json") {
        docker.listings += 1;
        docker.listed_at = now;
        let shown: Vec<Ipv4Addr> = docker.shown(now).map(|endpoint| endpoint.ip).collect();
        docker.known.extend(shown);
    }
    Some(answer)
}

fn shown(path: &str, docker: &Docker, cidr: Option<Ipv4Net>, now: Duration) -> (u16, Value) {
    let network = || {
        json!({
            "Name": "pods", "Id": NETWORK, "Scope": "local", "Driver": "ipvlan", "EnableIPv6": false,
            "IPAM": { "Driver": "ec2-ipam", "Options": {}, "Config": [{ "Subnet": cidr, "Gateway": "10.77.0.1" }] },
            "Internal": false, "Options": { "parent": "eth1" }, "Labels": {}, "Containers": {},
        })
    };
    let container = |endpoint: &Endpoint| {
        json!({
            "Id": format!("{:064x}", u32::from(endpoint.ip)), "Names": [format!("/c{}", endpoint.ip)], "State": "running",
            "NetworkSettings": { "Networks": { "pods": {
                "NetworkID": NETWORK, "EndpointID": format!("{:064x}", u32::from(endpoint.ip)),
                "IPAddress": endpoint.ip, "IPPrefixLen": 28, "Gateway": "10.77.0.1",
            } } },
        })
    };
    let path = path.split('?').next().unwrap_or_default();
    let path = path.find("/v1.").map_or(path, |at| &path[at + 1..][path[at + 1..].find('/').unwrap_or(0)..]);
    match path {
        "/version" => (200, json!({ "Version": "29.0.1", "ApiVersion": "1.52" })),
        "/containers/json" => (200, docker.shown(now).map(container).collect()),
        "/networks" => (200, json!([network()])),
        _ if path.starts_with("/networks/") => {
            let mut network = network();
            for endpoint in docker.shown(now) {
                let id = format!("{:064x}", u32::from(endpoint.ip));
                network["Containers"][id] = json!({
                    "Name": format!("c{}", endpoint.ip), "EndpointID": format!("{:064x}", u32::from(endpoint.ip)),
                    "MacAddress": "", "IPv4Address": format!("{}/28", endpoint.ip), "IPv6Address": "",
                });
            }
            (200, network)
        }
        _ => (404, json!({ "message": "page not found" })),
    }
}
