//! A stand-in for a Docker Engine's API on a unix socket, as far as the driver reads it. The real Engine's answers are
//! tested against the real Engine.

use std::collections::BTreeSet;
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
    /// Its network's subnet; none: it has no network.
    pub subnet: Option<String>,
    /// The network's parent interface.
    pub parent: String,
    /// It answers 500 to everything.
    pub fails: bool,
    /// How often it has listed its containers.
    pub listings: usize,
}

/// The Engine. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Docker(Arc<Mutex<State>>);

impl Docker {
    /// Listens there for as long as the runtime lives.
    pub fn listen(path: &Path, subnet: &str) -> Self {
        let state = State {
            in_use: BTreeSet::new(),
            subnet: Some(subnet.to_owned()),
            parent: "eth1".to_owned(),
            fails: false,
            listings: 0,
        };
        let docker = Self(Arc::new(Mutex::new(state)));
        let (listener, answering) = (UnixListener::bind(path).unwrap(), docker.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let docker = answering.clone();
                tokio::spawn(converse(stream, move |path| Some(docker.with(|state| state.answer(path)))));
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
        let networks: Vec<Value> = self.subnet.iter().map(|subnet| self.network(subnet)).collect();
        match path.split('?').next().unwrap_or_default() {
            "/version" => (200, json!({ "Version": "29.0.1", "ApiVersion": "1.52" })),
            "/containers/json" => {
                self.listings += 1;
                (200, self.in_use.iter().map(container).collect())
            }
            "/networks" => (200, json!(networks)),
            "/networks/n1" => networks.into_iter().next().map_or((404, json!({})), |network| (200, network)),
            _ => (404, json!({ "message": "page not found" })),
        }
    }

    fn network(&self, subnet: &str) -> Value {
        json!({
            "Name": "pods", "Id": "n1", "Scope": "local", "Driver": "ipvlan", "Options": { "parent": self.parent },
            "IPAM": { "Driver": "ec2-ipam:latest", "Options": {}, "Config": [{ "Subnet": subnet }] }, "Containers": {},
        })
    }
}

fn container(ip: &Ipv4Addr) -> Value {
    json!({
        "Id": format!("{:064x}", u32::from(*ip)), "Names": [format!("/c{ip}")], "State": "running",
        "NetworkSettings": { "Networks": { "pods": { "NetworkID": "n1", "EndpointID": "e", "IPAddress": ip } } },
    })
}

/// Answers what is asked on a connection, by status and body for each path; none: no answer, until the caller hangs up.
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
        let path = String::from_utf8_lossy(&read).split(' ').nth(1).unwrap_or_default().to_owned();
        read.clear();
        let (status, body) = match answer(&path) {
            Some((status, body)) => (status, body.to_string()),
            None => std::future::pending().await,
        };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all((head + &body).as_bytes()).await.is_err() {
            return;
        }
    }
}
