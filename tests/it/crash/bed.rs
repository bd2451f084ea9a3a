//! A host whose driver is killed, and the Docker Engine that it serves, played by the test.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ec2_ipam::domain::block::Block;
use ec2_ipam::domain::id::{EniId, PoolId};
use ipnet::Ipv4Net;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use vpc_sim::{INSTANCE_TYPES, Switches, Vpc};

use crate::support::docker::Docker;
use crate::support::host::{Answer, Fleet, Host, Kind, Table, eventually};

/// A little more than the settle age: what was done before is older than it afterwards, and two looks so far apart are two.
pub const PAST: Duration = Duration::from_millis(1100);
/// Generous: a slow machine is not a failure.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Which container of the fleet has an address: the ENI of its host.
pub type Users = Arc<Mutex<BTreeMap<Ipv4Addr, String>>>;

/// A host, what calls its driver, and what the driver reads.
pub struct Bed {
    pub host: Host,
    pub engine: Engine,
    /// How often Docker had been read when this life of the driver began.
    pub read_before: usize,
    /// How many slots its interface has, beside the primary address's.
    pub limit: usize,
    /// Its table lost what it was told, and hears of it again.
    pub has_forgotten: bool,
}

/// A subnet of one broken block and two that can be had, and one of fourteen.
pub const NARROW: &str = "10.77.0.0/26";
pub const WIDE: &str = "10.77.0.0/24";

/// What plays Docker: it calls the driver, and has containers with the addresses that it got and did not release.
#[derive(Clone)]
pub struct Engine {
    pub vpc: Vpc,
    pub eni: String,
    pub docker: Docker,
    pub table: Table,
    /// Whether the driver takes whole blocks, and others do.
    pub blocks: bool,
    users: Users,
    socket: PathBuf,
    cidr: String,
    pool: String,
}

impl Bed {
    /// The n-th host of the fleet; not started.
    pub fn new(fleet: &Fleet, n: u8, instance_type: &str, users: &Users) -> Self {
        let mut host = fleet.host_of(n, instance_type);
        let (.., limit) = INSTANCE_TYPES.into_iter().find(|(name, ..)| *name == instance_type).unwrap();
        let docker = host.docker();
        host.set(&[
            ("EC2_IPAM_COOLDOWN", "0s"),
            ("EC2_IPAM_SETTLE_AGE", "1s"),
            // Rounds of its own come at the start and when something is unclear only: the test begins the others, and so
            // can count them.
            ("EC2_IPAM_RECONCILE_INTERVAL", "1h"),
            ("EC2_IPAM_SCAN_INTERVAL", "1h"),
        ]);
        let cidr = fleet.cidr.parse().unwrap();
        let pool = PoolId { eni: EniId::stored(host.eni.clone()), cidr: Some(cidr), sub_pool: None };
        let engine = Engine {
            vpc: host.vpc.clone(),
            eni: host.eni.clone(),
            docker,
            table: host.table(),
            blocks: false,
            users: Arc::clone(users),
            socket: host.socket(),
            cidr: fleet.cidr.clone(),
            pool: pool.to_string(),
        };
        Self { host, engine, read_before: 0, limit: limit - 1, has_forgotten: false }
    }

    /// One host that is alone in its VPC.
    pub async fn alone(kind: Kind, cidr: &str, instance_type: &str, switches: Switches) -> Self {
        let fleet = Fleet::with(kind, cidr, switches).await;
        Self::new(&fleet, 1, instance_type, &Users::default())
    }

    /// With whole blocks, where they pay.
    pub fn takes_blocks(&mut self) {
        self.host.set(&[("EC2_IPAM_BLOCKS", "auto")]);
        self.engine.blocks = true;
    }

    /// A life of the driver that stops nowhere.
    pub async fn start(&mut self) {
        self.host.unset("EC2_IPAM_STOP_AT");
        self.read_before = self.engine.docker.with(|docker| docker.listings);
        self.host.start().await;
    }

    /// A life that ends at this point, for the n-th time at that one, while Docker calls the driver in some way.
    pub async fn life_until(&mut self, point: &str, n: usize, after: &str, calls: impl Future<Output = ()>) {
        self.host.stop_at(point);
        self.host.start().await;
        let name = point.split('#').next().unwrap();
        let line = format!("stopped at {name}\n");
        let host = &mut self.host;
        let death = async {
            eventually(&format!("{after}: the driver comes to the point"), async || {
                host.log().matches(&line).count() == n
            })
            .await;
            host.kill();
        };
        tokio::join!(calls, death);
    }
}

impl Engine {
    /// The answer, unless the driver died before it was whole.
    async fn call(&self, path: &str, body: &Value) -> Option<Answer> {
        let body = body.to_string();
        let mut stream = self.ask(path, &body).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8(answer).unwrap();
        let (head, json) = answer.split_once("\r\n\r\n")?;
        Some(Answer { status: head[9..12].parse().unwrap(), json: serde_json::from_str(json).ok()? })
    }

    async fn ask(&self, path: &str, body: &str) -> Option<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket).await.ok()?;
        let length = body.len();
        let call =
            format!("POST {path} HTTP/1.1\r\nHost: \r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(call.as_bytes()).await.ok()?;
        Some(stream)
    }

    /// The same again while it is refused: on a slow machine the metadata service, which this process plays, is late.
    async fn insist(&self, path: &str, body: &Value) -> Option<Value> {
        let start = Instant::now();
        loop {
            match self.call(path, body).await?.outcome() {
                Ok(json) => return Some(json),
                Err(why) => {
                    let is_slow = why.contains("metadata service does not answer") && start.elapsed() < PATIENCE;
                    assert!(is_slow, "{path} is refused: {why}");
                }
            }
        }
    }

    /// RequestPool; false: the driver died.
    pub async fn pool(&self) -> bool {
        let body = json!({ "AddressSpace": "ec2-ipam", "Pool": self.cidr, "SubPool": "", "Options": {}, "V6": false });
        let pool = self.insist("/IpamDriver.RequestPool", &body).await;
        pool.inspect(|pool| assert_eq!(pool["PoolID"], json!(self.pool))).is_some()
    }

    fn request_body(&self, address: &str) -> Value {
        json!({ "PoolID": self.pool, "Address": address, "Options": null })
    }

    /// RequestAddress, empty: any. None: the driver died.
    pub async fn request(&self, address: &str) -> Option<Result<Ipv4Addr, String>> {
        let answer = self.call("/IpamDriver.RequestAddress", &self.request_body(address)).await?;
        Some(answer.outcome().map(|json| self.begin(&json)))
    }

    /// Any address, which there must be.
    pub async fn lease(&self) -> Option<Ipv4Addr> {
        self.lease_this("").await
    }

    /// An address that can be had.
    pub async fn lease_this(&self, address: &str) -> Option<Ipv4Addr> {
        let granted = self.insist("/IpamDriver.RequestAddress", &self.request_body(address)).await?;
        Some(self.begin(&granted))
    }

    /// Containers that are started the moment the driver is up: they get what is certain by then (I1, I2), or wait for it.
    pub async fn ask_at_once(&self, after: &str) {
        for _ in 0..2 {
            let answer = self.request("").await.unwrap_or_else(|| panic!("{after}: the driver answers"));
            let is_full = answer.as_ref().is_err_and(|why| why.contains("as many addresses as"));
            assert!(answer.is_ok() || is_full, "{after}: {answer:?}");
        }
    }

    /// A request whose caller hangs up at once: no container gets what it may be given.
    pub async fn hang_up(&self) {
        drop(self.ask("/IpamDriver.RequestAddress", &self.request_body("").to_string()).await);
    }

    /// A container begins with the address of an answer.
    fn begin(&self, granted: &Value) -> Ipv4Addr {
        let ip: Ipv4Addr = granted["Address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
        let other = self.users.lock().unwrap().insert(ip, self.eni.clone());
        assert_eq!(other, None, "I1: {ip} was given to {} while a container has it", self.eni);
        assert_eq!(self.vpc.holder(ip), Some(self.eni.clone()), "I2: {ip} was given, and is not on {}", self.eni);
        self.show();
        ip
    }

    /// Its container ends, and the driver is not told.
    pub fn vanish(&self, ip: Ipv4Addr) {
        self.users.lock().unwrap().remove(&ip);
        self.show();
    }

    fn show(&self) {
        self.docker.runs(&self.held().into_iter().collect::<Vec<_>>());
    }

    /// One of its containers ends.
    pub fn end_one(&self, rng: &mut fastrand::Rng) -> Option<Ipv4Addr> {
        let ip = rng.choice(self.held())?;
        self.vanish(ip);
        Some(ip)
    }

    /// The container ends and its address is released; whether the driver said so.
    pub async fn release(&self, ip: Ipv4Addr) -> bool {
        self.vanish(ip);
        let body = json!({ "PoolID": self.pool, "Address": ip });
        let answer = self.call("/IpamDriver.ReleaseAddress", &body).await;
        answer.inspect(|answer| assert_eq!(answer.clone().outcome(), Ok(json!({})))).is_some()
    }

    /// What this Engine's containers have.
    pub fn held(&self) -> BTreeSet<Ipv4Addr> {
        let users = self.users.lock().unwrap();
        users.iter().filter(|(_, eni)| **eni == self.eni).map(|(ip, _)| *ip).collect()
    }

    /// An operator's `reconcile`: one round, and a scan, which may be refused. False: the driver died.
    pub async fn reconcile(&self) -> bool {
        self.call("/v1/reconcile", &json!({ "manner": "usual" })).await.is_some()
    }

    /// Rounds that are far enough apart to count, until the driver dies.
    pub async fn reconcile_for_life(&self) {
        while self.reconcile().await {
            tokio::time::sleep(PAST).await;
        }
    }

    /// An operator's call that may be refused while EC2 is unclear; none: the driver died.
    pub async fn tell(&self, call: &str) -> Option<u16> {
        let body = json!({ "subnet": crate::support::host::SUBNET, "all": false });
        self.call(&format!("/v1/{call}"), &body).await.map(|answer| answer.status)
    }

    /// An operator's `drain`; none: the driver died.
    pub async fn drain(&self, order: &str) -> Option<u16> {
        self.call("/v1/drain", &json!({ "order": order })).await.map(|answer| answer.status)
    }

    /// Whether the driver serves the ENI, its first look at it done.
    pub async fn is_served(&self) -> bool {
        let Some(status) = self.call("/v1/status", &json!({})).await else { return false };
        let enis = status.json["enis"].as_array().cloned().unwrap_or_default();
        enis.iter().any(|eni| eni["eni"] == json!(self.eni) && eni["not_ready"].is_null())
    }

    /// The first address from `.last` on that nothing in the VPC has.
    pub fn unused(&self, last: u8) -> Ipv4Addr {
        (last..).map(crate::support::host::ip).find(|ip| self.vpc.holder(*ip).is_none()).unwrap()
    }

    /// The blocks from that of `.last` on that nothing in the VPC has any of.
    pub fn unused_blocks(&self, last: u8) -> impl Iterator<Item = Block> {
        let all = (last / 16..15).map(|n| Block::of(crate::support::host::ip(n * 16)));
        all.filter(|block| block.addresses().all(|ip| self.vpc.holder(ip).is_none()))
    }

    /// An address that nobody has, or a block, comes to the interface behind the driver's back.
    pub fn comes(&self, last: u8) {
        if self.blocks {
            let block = self.unused_blocks(last).next().expect("a whole block");
            self.vpc.add_prefix(&self.eni, &block.to_string());
        } else {
            self.vpc.add_address(&self.eni, self.unused(last));
        }
    }

    /// The address leaves the interface behind the driver's back, with its block if that is there.
    pub fn leaves(&self, ip: Ipv4Addr) {
        match self.vpc.prefixes(&self.eni).iter().find(|prefix| prefix.contains(&ip)) {
            Some(prefix) => self.vpc.remove_prefix(&self.eni, &prefix.to_string()),
            None => self.vpc.remove_address(&self.eni, ip),
        }
    }

    /// Whether something is on the interface of which no container has any.
    pub fn has_spare(&self) -> bool {
        let held = self.held();
        let is_idle = |prefix: &Ipv4Net| !held.iter().any(|ip| prefix.contains(ip));
        !self.vpc.addresses(&self.eni).is_subset(&held) || self.vpc.prefixes(&self.eni).iter().any(is_idle)
    }

    /// Slots of the interface that are taken, the primary address's not counted.
    pub fn slots(&self) -> usize {
        self.vpc.addresses(&self.eni).len() + self.vpc.prefixes(&self.eni).len()
    }
}

/// Waits until nothing is in the way; says what is.
pub async fn until_none(what: &str, mut in_the_way: impl AsyncFnMut() -> Option<String>) {
    let start = Instant::now();
    while let Some(why) = in_the_way().await {
        assert!(start.elapsed() < PATIENCE, "{what}: {why}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
