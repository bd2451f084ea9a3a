//! A stand-in for a Docker Engine's API on a unix socket, as far as the driver reads it. The real Engine's answers are
//! tested against the real Engine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// What the Engine has.
#[derive(Clone, Debug)]
pub struct State {
    /// The addresses of its containers.
    pub in_use: BTreeSet<Ipv4Addr>,
    /// What those are called that are not called as others are.
    pub names: BTreeMap<Ipv4Addr, String>,
    /// Its network's subnet; none: it has no network.
    pub subnet: Option<String>,
    /// The network's driver.
    pub driver: String,
    /// The network's parent interface.
    pub parent: String,
    /// Its other networks.
    pub others: Vec<Other>,
    /// It answers 500 to everything.
    pub fails: bool,
    /// How often it has listed its containers.
    pub listings: usize,
    /// The first line of each kind of request that ever came.
    pub requests: BTreeSet<String>,
}

/// A network beside the driver's own.
#[derive(Clone, Copy, Debug)]
pub struct Other {
    pub name: &'static str,
    pub driver: &'static str,
    /// Empty: none.
    pub parent: &'static str,
    pub ipam: &'static str,
    pub subnet: &'static str,
    /// The address of its one container.
    pub ip: Ipv4Addr,
}

/// The Engine. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Docker(Arc<Mutex<State>>);

impl Docker {
    /// Listens there for as long as the runtime lives.
    pub fn listen(path: &Path, subnet: &str) -> Self {
        let state = State {
            in_use: BTreeSet::new(),
            names: BTreeMap::new(),
            subnet: Some(subnet.to_owned()),
            driver: "ipvlan".to_owned(),
            parent: "eth1".to_owned(),
            others: Vec::new(),
            fails: false,
            listings: 0,
            requests: BTreeSet::new(),
        };
        let docker = Self(Arc::new(Mutex::new(state)));
        let (listener, answering) = (UnixListener::bind(path).unwrap(), docker.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let docker = answering.clone();
                tokio::spawn(converse(stream, move |line| {
                    docker.with(|state| {
                        state.requests.insert(line.to_owned());
                        Some(state.answer(line.split(' ').nth(1).unwrap_or_default()))
                    })
                }));
            }
        });
        docker
    }

    /// Looks at it, or changes it.
    pub fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    /// Containers with these addresses, and no others.
    pub fn runs(&self, ips: &[Ipv4Addr]) {
        self.with(|state| state.in_use = ips.iter().copied().collect());
    }
}

impl State {
    fn answer(&mut self, path: &str) -> (u16, Value) {
        if self.fails {
            return (500, json!({ "message": "failing on purpose" }));
        }
        let networks: Vec<Value> = self
            .subnet
            .iter()
            .map(|subnet| self.network(subnet))
            .chain(self.others.iter().map(Other::network))
            .collect();
        match path.split('?').next().unwrap_or_default() {
            "/version" => (200, json!({ "Version": "29.0.1", "ApiVersion": "1.52" })),
            "/containers/json" => {
                self.listings += 1;
                let others = self.others.iter().map(|other| container(&other.ip, other.name, other.name));
                (200, self.in_use.iter().map(|ip| container(ip, "pods", "n1")).chain(others).collect())
            }
            "/networks" => (200, json!(networks)),
            path => {
                let id = path.strip_prefix("/networks/");
                let network = networks.into_iter().find(|network| network["Id"].as_str() == id);
                network.map_or((404, json!({ "message": "not found" })), |network| (200, network))
            }
        }
    }

    fn network(&self, subnet: &str) -> Value {
        let name = |ip: &Ipv4Addr| self.names.get(ip).cloned().unwrap_or_else(|| format!("c{ip}"));
        let endpoint = |ip: &Ipv4Addr| (id_of(ip), json!({ "Name": name(ip), "IPv4Address": ip }));
        let endpoints: BTreeMap<_, _> = self.in_use.iter().map(endpoint).collect();
        json!({
            "Name": "pods", "Id": "n1", "Scope": "local", "Driver": self.driver, "Options": { "parent": self.parent },
            "IPAM": { "Driver": "ec2-ipam:latest", "Options": {}, "Config": [{ "Subnet": subnet }] }, "Containers": endpoints,
        })
    }
}

impl Other {
    fn network(&self) -> Value {
        json!({
            "Name": self.name, "Id": self.name, "Scope": "local", "Driver": self.driver, "Options": { "parent": self.parent },
            "IPAM": { "Driver": self.ipam, "Options": null, "Config": [{ "Subnet": self.subnet }] },
            "Containers": { "c": { "IPv4Address": format!("{}/24", self.ip) } },
        })
    }
}

fn id_of(ip: &Ipv4Addr) -> String {
    format!("{:064x}", u32::from(*ip))
}

fn container(ip: &Ipv4Addr, network: &str, id: &str) -> Value {
    json!({
        "Id": id_of(ip), "Names": [format!("/c{ip}")], "State": "running",
        "NetworkSettings": { "Networks": { network: { "NetworkID": id, "EndpointID": "e", "IPAddress": ip } } },
    })
}

/// Answers what is asked on a connection, by status and body for each request's first line; none: no answer, until the caller
/// hangs up.
pub async fn converse(mut stream: UnixStream, mut answer: impl FnMut(&str) -> Option<(u16, Value)>) {
    let mut read = Vec::new();
    loop {
        while !read.ends_with(b"\r\n\r\n") {
            let mut chunk = [0; 1024];
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(n) => read.extend_from_slice(&chunk[..n]),
            }
        }
        let line = String::from_utf8_lossy(&read).lines().next().unwrap_or_default().to_owned();
        read.clear();
        let (status, body) = match answer(&line) {
            Some((status, body)) => (status, body.to_string()),
            None => std::future::pending().await,
        };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all((head + &body).as_bytes()).await.is_err() {
            return;
        }
    }
}
