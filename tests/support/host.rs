//! Simulated EC2 hosts: each a network namespace with an interface `eth1` that has its ENI's MAC, EC2 and IMDS listening
//! inside it, and the real binary running there on a unix socket.
//!
//! A namespace has no name: it lives as long as somebody holds its file or runs in it, so nothing is left behind however
//! a test ends. At its end every host asserts that no secret stands in its log or in any answer.
#![allow(clippy::print_stderr, reason = "the driver's log is the first thing to read when a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ec2_ipam::domain::address::{State, Status};
use ec2_ipam::domain::id::Claim;
use mysql_async::prelude::Queryable;
use nix::mount::MsFlags;
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use vpc_sim::{EniSpec, Server, Switches, Vpc};

use super::docker::Docker;
use super::mariadb::{self, Db};
use super::proxy::Proxy;
use super::secrets;

/// The subnet of every `eth1`.
pub const SUBNET: &str = "subnet-0aaaaaaaaaaaaaaa1";
/// The subnet of the interfaces with which the instances were started.
const MAIN_SUBNET: &str = "subnet-0bbbbbbbbbbbbbbb1";
/// Somebody else's interface.
pub const RDS: &str = "eni-0dddddddddddddd01";
pub const ACCESS_KEY: &str = "AKIAIPAMTESTKEY00001";
pub const SECRET_KEY: &str = "wJalrXUtnKey5Rf8/FEMI+never+to+be+shown";
pub const ASSIGN: &str = "AssignPrivateIpAddresses";
pub const UNASSIGN: &str = "UnassignPrivateIpAddresses";
/// Generous: a slow machine is not a failure.
const PATIENCE: Duration = Duration::from_secs(90);

/// Which table the hosts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file of each host's own.
    Sqlite,
    /// One for all.
    Mariadb,
}

/// Runs each test on both kinds of table.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod on_mariadb { $(#[tokio::test] async fn $name() { super::$name($crate::support::host::Kind::Mariadb).await; })* }
        mod on_sqlite { $(#[tokio::test] async fn $name() { super::$name($crate::support::host::Kind::Sqlite).await; })* }
    };
}
pub(crate) use on_both;

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

/// An address of [`SUBNET`].
pub fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

pub fn eni(n: u8) -> String {
    format!("eni-0aaaaaaaaaaaaaa{n:02x}")
}

fn instance(n: u8) -> String {
    format!("i-0aaaaaaaaaaaaaa{n:02x}")
}

/// A VPC with hosts, and the table that they share if it is MariaDB's.
pub struct Fleet {
    pub vpc: Vpc,
    pub cidr: String,
    pub db: Option<Arc<Db>>,
}

impl Fleet {
    pub async fn new(kind: Kind) -> Self {
        Self::with(kind, "10.77.0.0/24", Switches::default()).await
    }

    pub async fn with(kind: Kind, cidr: &str, switches: Switches) -> Self {
        let vpc = Vpc::new(switches);
        vpc.add_subnet(SUBNET, cidr);
        vpc.add_subnet(MAIN_SUBNET, "10.78.0.0/24");
        let db = match kind {
            Kind::Sqlite => None,
            Kind::Mariadb => Some(Arc::new(Db::new().await)),
        };
        Self { vpc, cidr: cidr.to_owned(), db }
    }

    /// The n-th host, of a type with 10 addresses an interface; not started. Its `eth1` has the primary address .3+n, or
    /// the next one that is not in use.
    pub fn host(&self, n: u8) -> Host {
        self.host_of(n, "c5.large")
    }

    pub fn host_of(&self, n: u8, instance_type: &str) -> Host {
        let id = instance(n);
        self.vpc.add_instance(&id, instance_type);
        let main = format!("eni-0bbbbbbbbbbbbbb{n:02x}");
        self.vpc.add_eni(EniSpec::new(&main, MAIN_SUBNET, Ipv4Addr::new(10, 78, 0, 3 + n)).on(&id, 0));
        let net: ipnet::Ipv4Net = self.cidr.parse().unwrap();
        // Hosts that are there already may have been given it.
        let from = u32::from(net.network()) + 3 + u32::from(n);
        let primary = (from..).map(Ipv4Addr::from).find(|ip| self.vpc.holder(*ip).is_none()).unwrap();
        let mac = format!("0a:77:00:00:00:{n:02x}");
        self.vpc.add_eni(EniSpec::new(&eni(n), SUBNET, primary).on(&id, 1).mac(&mac));
        let namespace = Namespace::new();
        namespace.ip("link set lo up");
        namespace.ip("link add eth1 type veth peer name far");
        namespace.ip(&format!("link set eth1 address {mac}"));
        namespace.ip("link set eth1 up");
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        let ec2 = self.vpc.serve_ec2(namespace.listener());
        let imds = self.vpc.serve_imds(&id, namespace.listener());
        let (url, proxy) = match &self.db {
            None => (format!("sqlite://{}/state/ipam.db", dir.path().display()), None),
            Some(db) => {
                let proxy = Proxy::on(namespace.listener(), db.server.port);
                (db.url_at(proxy.port), Some(proxy))
            }
        };
        let settings = [
            ("EC2_IPAM_DATABASE_URL", url),
            ("EC2_IPAM_LISTEN", format!("unix://{}/ipam.sock", dir.path().display())),
            ("EC2_IPAM_STATE_DIR", dir.path().join("state").display().to_string()),
            ("EC2_IPAM_AHEAD", dir.path().join("ahead").display().to_string()),
            ("EC2_IPAM_WARM_TARGET", "0".into()),
            ("EC2_IPAM_COOLDOWN", "1h".into()),
            ("EC2_IPAM_DOCKER_SOCKET", String::new()),
            ("EC2_IPAM_LOG", "debug".into()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
            ("AWS_ENDPOINT_URL_EC2", ec2.url()),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.url()),
        ];
        Host {
            vpc: self.vpc.clone(),
            db: self.db.clone(),
            cidr: self.cidr.clone(),
            instance: id,
            eni: eni(n),
            settings: settings.map(|(name, value)| (name.to_owned(), value)).into(),
            args: Vec::new(),
            within: Vec::new(),
            namespace,
            proxy,
            servers: [ec2, imds],
            dir,
            child: None,
            heard: Mutex::default(),
        }
    }

    /// A started host and its pool.
    pub async fn started(&self, n: u8, settings: &[(&str, &str)]) -> (Host, String) {
        let mut host = self.host(n);
        host.set(settings);
        host.start().await;
        let pool = host.pool().await;
        (host, pool)
    }
}

/// A network namespace, held by its file.
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Self {
        let make = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root is needed");
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        Self(std::thread::spawn(make).join().unwrap())
    }

    /// In a thread of its own that is in the namespace: sockets made there, and children, are in it too.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.join();
                act()
            });
            thread.join().unwrap()
        })
    }

    /// The same one.
    pub fn another(&self) -> Self {
        Self(self.0.try_clone().unwrap())
    }

    /// The calling thread is in it from now on.
    pub fn join(&self) {
        nix::sched::setns(&self.0, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    }

    pub fn ip(&self, args: &str) {
        let done = self.enter(|| Command::new("ip").args(args.split(' ')).output()).unwrap();
        assert!(done.status.success(), "ip {args}: {}", String::from_utf8_lossy(&done.stderr));
    }

    pub fn listener(&self) -> TcpListener {
        self.listener_at(0)
    }

    pub fn listener_at(&self, port: u16) -> TcpListener {
        self.enter(|| TcpListener::bind(("127.0.0.1", port))).unwrap()
    }
}

/// The calling thread and its children have this directory as `/run`.
fn own_run(run: &Path) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let mount =
        |what: Option<&Path>, at: &str, how| nix::mount::mount(what, at, None::<&str>, how, None::<&str>).unwrap();
    mount(None, "/", MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(Some(run), "/run", MsFlags::MS_BIND);
    let boot = run.join("boot_id");
    if boot.exists() {
        mount(Some(&boot), "/proc/sys/kernel/random/boot_id", MsFlags::MS_BIND);
    }
}

pub struct Host {
    pub vpc: Vpc,
    pub db: Option<Arc<Db>>,
    pub cidr: String,
    pub instance: String,
    pub eni: String,
    settings: BTreeMap<String, String>,
    /// What follows `serve`.
    pub args: Vec<String>,
    /// A command that turns into the driver, such as one that limits it.
    pub within: Vec<String>,
    namespace: Namespace,
    /// Between the host and MariaDB.
    pub proxy: Option<Proxy>,
    servers: [Server; 2],
    pub dir: tempfile::TempDir,
    child: Option<Child>,
    /// Whatever was answered or printed.
    heard: Mutex<Vec<String>>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub ip: Ipv4Addr,
    pub state: State,
    pub iface: Option<String>,
    pub primary: bool,
    pub claim: Option<String>,
    pub holder: Option<String>,
    /// `ts` as seconds since 1970.
    pub ts: i64,
    pub in_block: bool,
}

impl Host {
    pub fn set(&mut self, settings: &[(&str, &str)]) {
        for (name, value) in settings {
            self.settings.insert((*name).to_owned(), (*value).to_owned());
        }
    }

    /// A Docker Engine of the host, which the driver reads.
    pub fn docker(&mut self) -> Docker {
        let socket = self.dir.path().join("docker.sock");
        self.set(&[("EC2_IPAM_DOCKER_SOCKET", socket.to_str().unwrap())]);
        Docker::listen(&socket, &self.cidr)
    }

    /// The driver stops at this point of its work for good (`ec2_ipam::fail_point`).
    pub fn stop_at(&mut self, point: &str) {
        self.set(&[("EC2_IPAM_STOP_AT", point)]);
    }

    pub fn unset(&mut self, name: &str) {
        self.settings.remove(name);
    }

    /// iproute2 in the host's namespace.
    pub fn ip(&self, args: &str) {
        self.namespace.ip(args);
    }

    pub fn listener(&self) -> TcpListener {
        self.namespace.listener()
    }

    pub fn listener_at(&self, port: u16) -> TcpListener {
        self.namespace.listener_at(port)
    }

    /// Where EC2 is served.
    pub fn ec2_url(&self) -> String {
        self.servers[0].url()
    }

    /// Where its metadata service is.
    pub fn imds_url(&self) -> String {
        self.servers[1].url()
    }

    /// An interface more, attached as this device; its link gets this name.
    pub fn attach(&self, eni: &str, device: u32, primary: u8, link: &str) {
        let mac = format!("0a:77:00:00:{device:02x}:{primary:02x}");
        self.vpc.add_eni(EniSpec::new(eni, SUBNET, ip(primary)).on(&self.instance, device).mac(&mac));
        self.vpc.settle();
        self.ip(&format!("link add {link} type veth peer name {link}far"));
        self.ip(&format!("link set {link} address {mac}"));
        self.ip(&format!("link set {link} up"));
    }

    /// An interface of another host comes here as this device; its link gets this name. The link over there stays: the
    /// driver is not to depend on that.
    pub fn take_over(&self, other: &Self, device: u32, link: &str) {
        self.vpc.move_eni(&other.eni, &self.instance, device);
        let mac = &self.vpc.mac(&other.eni);
        self.ip(&format!("link add {link} type veth peer name {link}far"));
        self.ip(&format!("link set {link} address {mac}"));
        self.ip(&format!("link set {link} up"));
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("ipam.sock")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn command(&self, args: &[&str]) -> Command {
        let words = self.within.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_ec2-ipam")]);
        let words: Vec<&str> = words.chain(args.iter().copied()).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env_clear().envs(&self.settings);
        command
    }

    /// Starts the driver and returns at once.
    pub fn launch(&mut self) {
        let mut args = vec!["serve"];
        args.extend(self.args.iter().map(String::as_str));
        let child = self.spawn(&args, &[]);
        assert!(self.child.replace(child).is_none(), "it runs already");
    }

    /// Starts the driver and waits until it listens.
    pub async fn start(&mut self) {
        self.launch();
        eventually("the driver listens", async || {
            assert!(self.exited().is_none(), "the driver ended: {}", self.log());
            UnixStream::connect(self.socket()).await.is_ok()
        })
        .await;
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().unwrap().try_wait().unwrap()
    }

    pub async fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the driver ends", async || {
            status = self.exited();
            status.is_some()
        })
        .await;
        self.child = None;
        status.unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// SIGTERM, and its end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.exit().await
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGKILL, and a new life.
    pub async fn restart(&mut self) {
        self.kill();
        self.start().await;
    }

    /// The machine goes down and is up again; the driver does not run yet.
    pub fn reboot(&mut self) {
        self.kill();
        std::fs::write(self.run_dir().join("boot_id"), format!("{:x}\n", fastrand::u128(..))).unwrap();
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// What the journal has as leases; nothing while a driver has it.
    pub fn leases_of_journal(&self) -> BTreeSet<Ipv4Addr> {
        if self.child.is_some() {
            return BTreeSet::new();
        }
        let file = rusqlite::Connection::open(self.dir.path().join("state/journal.db")).unwrap();
        file.busy_timeout(Duration::from_secs(30)).unwrap();
        let mut query = file.prepare("SELECT ip FROM holding WHERE state = 'lease'").unwrap();
        let ips = query.query_map([], |row| row.get::<_, String>(0)).unwrap();
        ips.map(|ip| ip.unwrap().parse().unwrap()).collect()
    }

    /// The state folder is lost, but for the table.
    pub fn lose_journal(&self) {
        for entry in std::fs::read_dir(self.dir.path().join("state")).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("journal") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    /// The command line in the host's namespace with the host's settings.
    pub async fn run(&self, args: &[&str]) -> (bool, String) {
        self.run_with(args, &[]).await
    }

    /// The same with other settings.
    pub async fn run_with(&self, args: &[&str], settings: &[(&str, &str)]) -> (bool, String) {
        let (done, printed, said) = self.printed(args, settings).await;
        (done, printed + &said)
    }

    /// What it prints, to its end, as JSON. What it says beside is no part of that.
    pub async fn run_json<T: DeserializeOwned>(&self, args: &[&str]) -> (bool, T) {
        let (done, printed, said) = self.printed(args, &[]).await;
        (done, serde_json::from_str(&printed).unwrap_or_else(|why| panic!("{args:?}: {why}: {printed}{said}")))
    }

    /// Whether it succeeds, what it prints, and what it says beside.
    async fn printed(&self, args: &[&str], settings: &[(&str, &str)]) -> (bool, String, String) {
        let mut command = self.command(args);
        command.envs(settings.iter().copied()).stdout(Stdio::piped());
        let Output { status, stdout, stderr } = self.output(command).await;
        let [printed, said] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
        self.heard.lock().unwrap().push(format!("{printed}{said}"));
        (status.success(), printed, but_for_waiting(&said))
    }

    /// The same with nobody who reads what it prints: its exit status, and what it says beside.
    pub async fn run_unread(&self, args: &[&str]) -> (Option<i32>, String) {
        let mut command = self.command(args);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stdout(writer);
        let Output { status, stderr, .. } = self.output(command).await;
        (status.code(), but_for_waiting(&String::from_utf8(stderr).unwrap()))
    }

    async fn output(&self, mut command: Command) -> Output {
        let (namespace, run) = (self.namespace.another(), self.run_dir());
        let act = move || {
            own_run(&run);
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?.wait_with_output()
        };
        tokio::task::spawn_blocking(move || namespace.enter(act)).await.unwrap().unwrap()
    }

    /// What another program says in the host's network.
    pub async fn program(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(args).stdout(Stdio::piped());
        let Output { stdout, stderr, .. } = self.output(command).await;
        let said = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        self.hear(&said);
        said
    }

    /// Another program in the host's network, left running; whoever started it ends it.
    pub fn beside(&self, mut command: Command) -> Child {
        self.namespace.enter(move || command.stdin(Stdio::null()).spawn()).unwrap()
    }

    /// A command that asks the running driver.
    pub async fn ask(&self, args: &[&str]) -> (bool, String) {
        let socket = self.socket();
        self.run(&[&["--socket", socket.to_str().unwrap()], args].concat()).await
    }

    /// The same, and what it prints as JSON.
    pub async fn ask_json<T: DeserializeOwned>(&self, args: &[&str]) -> (bool, T) {
        let socket = self.socket();
        self.run_json(&[&["--socket", socket.to_str().unwrap()], args, &["--json"]].concat()).await
    }

    /// The same, where it must succeed.
    pub async fn tell_json<T: DeserializeOwned>(&self, args: &[&str]) -> T {
        let (done, told) = self.ask_json(args).await;
        assert!(done, "{args:?}");
        told
    }

    /// A command that asks the running driver, where it must succeed.
    pub async fn tell(&self, args: &[&str]) -> String {
        let (done, text) = self.ask(args).await;
        assert!(done, "{args:?}: {text}");
        text
    }

    pub async fn connect(&self) -> Wire<'_> {
        self.try_connect().await.unwrap()
    }

    /// None while nobody listens.
    pub async fn try_connect(&self) -> Option<Wire<'_>> {
        Some(self.wire(UnixStream::connect(self.socket()).await.ok()?))
    }

    /// A connection over TCP of somebody else in the host's network, from this address of its loopback.
    pub async fn connect_tcp(&self, from: &str, to: &str) -> TcpStream {
        let (from, to): (IpAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let dial = || {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
            socket.connect(&to.into()).map(|()| socket)
        };
        let mut socket = None;
        // It listens there a moment after it listens on its socket.
        eventually("a connection over TCP", async || {
            socket = self.namespace.enter(dial).ok();
            socket.is_some()
        })
        .await;
        let stream = std::net::TcpStream::from(socket.unwrap());
        stream.set_nonblocking(true).unwrap();
        TcpStream::from_std(stream).unwrap()
    }

    /// A connection of another kind.
    pub fn wire<S>(&self, stream: S) -> Wire<'_, S> {
        Wire { host: self, stream, read: Vec::new() }
    }

    /// One call as the Engine makes it.
    pub async fn call(&self, path: &str, body: &str) -> Answer {
        let mut wire = self.connect().await;
        wire.send(&request(path, body)).await;
        wire.answer().await.expect("an answer")
    }

    pub async fn post(&self, call: &str, body: &Value) -> Answer {
        self.call(&format!("/IpamDriver.{call}"), &format!("{body}\n")).await
    }

    /// The same at another socket of this host.
    pub async fn call_at(&self, socket: &str, path: &str, body: &str) -> Answer {
        let mut wire = self.wire(UnixStream::connect(socket).await.unwrap());
        wire.send(&request(path, body)).await;
        wire.answer().await.expect("an answer")
    }

    /// Another process on this host, with other settings; its log goes to the same file.
    pub fn spawn(&self, args: &[&str], settings: &[(&str, &str)]) -> Child {
        let log = File::options().append(true).create(true).open(self.dir.path().join("log")).unwrap();
        let mut command = self.command(args);
        command.envs(settings.iter().copied()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let run = self.run_dir();
        let act = || {
            own_run(&run);
            command.spawn()
        };
        self.namespace.enter(act).unwrap()
    }

    /// What the host has as `/run`: the machine's plugins are none of its business.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// An answer that came otherwise.
    pub fn hear(&self, answer: &str) {
        self.heard.lock().unwrap().push(answer.to_owned());
    }

    /// RequestPool with the subnet, as `docker network create --subnet` makes it.
    pub async fn pool_with(&self, sub_pool: &str, options: Value) -> Result<String, String> {
        let body = json!({ "AddressSpace": "ec2-ipam", "Pool": self.cidr, "SubPool": sub_pool, "Options": options, "V6": false });
        let answer = self.post("RequestPool", &body).await.outcome()?;
        Ok(answer["PoolID"].as_str().unwrap().to_owned())
    }

    pub async fn pool(&self) -> String {
        self.pool_with("", json!({})).await.unwrap()
    }

    /// RequestAddress; empty: any.
    pub async fn request(&self, pool: &str, address: &str) -> Result<Ipv4Addr, String> {
        let body = json!({ "PoolID": pool, "Address": address, "Options": null });
        let answer = self.post("RequestAddress", &body).await.outcome()?;
        let address = answer["Address"].as_str().unwrap();
        let net: ipnet::Ipv4Net = address.parse().unwrap();
        assert_eq!(net.prefix_len(), self.cidr.parse::<ipnet::Ipv4Net>().unwrap().prefix_len());
        Ok(net.addr())
    }

    /// As an Engine from 29 on asks: it names the endpoint.
    pub async fn lease_for(&self, pool: &str, name: &str) -> Ipv4Addr {
        let options = json!({ "com.docker.network.endpoint.name": name });
        let body = json!({ "PoolID": pool, "Address": "", "Options": options });
        let answer = self.post("RequestAddress", &body).await.outcome().unwrap();
        answer["Address"].as_str().unwrap().parse::<ipnet::Ipv4Net>().unwrap().addr()
    }

    pub async fn lease(&self, pool: &str) -> Ipv4Addr {
        self.request(pool, "").await.unwrap()
    }

    pub async fn release(&self, pool: &str, ip: Ipv4Addr) {
        self.release_text(pool, &ip.to_string()).await;
    }

    pub async fn release_text(&self, pool: &str, address: &str) {
        let body = json!({ "PoolID": pool, "Address": address });
        assert_eq!(self.post("ReleaseAddress", &body).await.outcome(), Ok(json!({})));
    }

    /// Changes the table behind the driver's back, in the one dialect or the other.
    pub async fn sql(&self, mariadb: &str, sqlite: &str) {
        self.table().sql(mariadb, sqlite).await;
    }

    /// What runs statements on the table beside the driver.
    pub fn table(&self) -> Table {
        Table { db: self.db.clone(), file: self.dir.path().join("state/ipam.db") }
    }

    /// As if every idle address had been let go, and every claim been made, so long ago.
    pub async fn age(&self, seconds: u32) {
        // Once the table knows what is aged there.
        self.rows().await;
        let ahead = self.dir.path().join("ahead");
        let before: u32 = std::fs::read_to_string(&ahead).map_or(0, |text| text.parse().unwrap());
        let mariadb =
            format!("UPDATE allocation SET ts=ts-INTERVAL {seconds} SECOND, claimed=claimed-INTERVAL {seconds} SECOND");
        let sqlite = format!("UPDATE allocation SET ts=ts-{seconds}, claimed=claimed-{seconds}000");
        // Neither clock is to be seen ahead of the other. Who is stopped holds no lock: all of them are this statement's.
        let stop = || {
            if self.child.is_some() {
                self.signal(Signal::SIGSTOP);
            }
            std::fs::write(&ahead, (before + seconds).to_string()).unwrap();
        };
        self.table().sql_and(&mariadb, &sqlite, stop).await;
        if self.child.is_some() {
            self.signal(Signal::SIGCONT);
        }
    }

    /// The table, in order of address, once it stands still: it follows the driver within moments, if it can be told anything.
    pub async fn rows(&self) -> Vec<Row> {
        let (mut rows, mut same) = (self.rows_now().await, 0);
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            let is_told = self.has_told_all().await;
            let before = std::mem::replace(&mut rows, self.rows_now().await);
            same = if is_told && before == rows { same + 1 } else { 0 };
            if same == 2 {
                break;
            }
        }
        rows
    }

    /// Whether the driver has told the table all that it is to know, or cannot, or is not there.
    async fn has_told_all(&self) -> bool {
        let page = async {
            let mut stream = UnixStream::connect(self.socket()).await?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: driver\r\nConnection: close\r\n\r\n").await?;
            let mut page = String::new();
            stream.read_to_string(&mut page).await.map(|_| page)
        };
        if self.proxy.as_ref().is_some_and(|proxy| !proxy.passes()) {
            return true;
        }
        let Ok(Ok(page)) = tokio::time::timeout(Duration::from_secs(1), page).await else { return true };
        let unposted = |line: &str| line.strip_prefix("ec2_ipam_journal_unposted_addresses ")?.parse::<f64>().ok();
        page.lines().filter_map(unposted).all(|unposted| unposted == 0.0)
    }

    /// The table as it is now, in order of address.
    pub async fn rows_now(&self) -> Vec<Row> {
        type Columns = (String, String, Option<String>, bool, Option<String>, Option<String>, i64, bool);
        let rows: Vec<Columns> = match &self.db {
            Some(db) => {
                let mut session = db.session().await;
                let sql =
                    "SELECT ip, status, iface, `primary`, claim, holder, UNIX_TIMESTAMP(ts), in_block FROM allocation";
                let rows = session.query(sql).await.unwrap();
                session.disconnect().await.unwrap();
                rows
            }
            None => {
                let file = self.table().open();
                let sql = "SELECT ip, status, iface, \"primary\", claim, holder, ts, in_block FROM allocation";
                let mut query = file.prepare(sql).unwrap();
                let read = |row: &rusqlite::Row<'_>| {
                    let (ip, status, iface, primary) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
                    Ok((ip, status, iface, primary, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?))
                };
                let rows = query.query_map([], read).unwrap().collect::<Result<_, _>>();
                rows.unwrap()
            }
        };
        let mut rows: Vec<Row> = rows
            .into_iter()
            .map(|(ip, status, iface, primary, claim, holder, ts, in_block)| Row {
                ip: ip.parse().unwrap(),
                state: State::of(Status::parse(&status).unwrap(), claim.clone().map(Claim::stored).as_ref()),
                iface,
                primary,
                claim,
                holder,
                ts,
                in_block,
            })
            .collect();
        rows.sort_by_key(|row| row.ip);
        rows
    }

    pub async fn count_rows(&self) -> u64 {
        let mut session = self.db.as_ref().unwrap().session().await;
        let count = session.query_first("SELECT count(*) FROM allocation").await.unwrap();
        session.disconnect().await.unwrap();
        count.unwrap()
    }

    pub async fn row(&self, ip: Ipv4Addr) -> Row {
        let rows = self.rows().await;
        rows.into_iter().find(|row| row.ip == ip).unwrap_or_else(|| panic!("no row of {ip}"))
    }

    /// Addresses of the host's own ENI in this state.
    pub async fn mine(&self, state: State) -> BTreeSet<Ipv4Addr> {
        let rows = self.rows().await.into_iter();
        rows.filter(|row| row.state == state && row.iface.as_ref() == Some(&self.eni) && !row.primary)
            .map(|row| row.ip)
            .collect()
    }

    /// Waits until no claim of an Assign is left.
    pub async fn settled(&self) {
        eventually("every claim is settled", async || self.mine(State::On).await.is_empty()).await;
    }

    /// The addresses that are on the host's ENI in truth.
    pub fn assigned(&self) -> BTreeSet<Ipv4Addr> {
        let of_prefixes = self.vpc.prefixes(&self.eni).into_iter().flat_map(ec2_ipam::domain::subnet::all_of);
        self.vpc.addresses(&self.eni).into_iter().chain(of_prefixes).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the driver of {} ---\n{}", self.instance, self.log());
            return;
        }
        let mut heard = self.heard.lock().unwrap().join("\n");
        heard.push_str(&self.log());
        let mut all = self.vpc.secrets();
        all.extend([SECRET_KEY, mariadb::PASSWORD].map(str::to_owned));
        secrets::assert_untold(&heard, &all);
    }
}

/// What a command says, but for that it waits: a slow machine is not a failure.
fn but_for_waiting(said: &str) -> String {
    said.split_inclusive('\n').filter(|line| !line.starts_with("ec2-ipam: waiting")).collect()
}

/// What the Engine sends: no Content-Type, an empty Host as before 20.10.26.
pub fn request(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {}\r\n\
         Accept: application/vnd.docker.plugins.v1.2+json\r\n\r\n{body}",
        body.len()
    )
}

/// A connection of the Engine's.
pub struct Wire<'h, S = UnixStream> {
    host: &'h Host,
    pub stream: S,
    read: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub json: Value,
}

impl Answer {
    /// As the Engine takes it: only 200 without an `Error` is a success. Else the sentence.
    pub fn outcome(self) -> Result<Value, String> {
        if self.status == 200 {
            assert!(self.json.get("Error").is_none(), "{:?}", self.json);
            return Ok(self.json);
        }
        let why = self.json["Err"].as_str().expect("Err").to_owned();
        assert_eq!(self.json, json!({ "Err": why, "Error": why }));
        assert!(
            !why.is_empty() && !why.contains('\n') && !why.contains("SELECT") && !why.contains("UPDATE allocation"),
            "one sentence for a user: {why}"
        );
        Err(why)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<'_, S> {
    pub async fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// The next answer; none if the connection ends before.
    pub async fn answer(&mut self) -> Option<Answer> {
        loop {
            let text = String::from_utf8_lossy(&self.read).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
                });
                let length = length.expect("a length");
                if body.len() >= length {
                    self.read.drain(..head.len() + 4 + length);
                    let body = &body[..length];
                    self.host.heard.lock().unwrap().push(body.to_owned());
                    return Some(Answer {
                        status: head[9..12].parse().unwrap(),
                        json: serde_json::from_str(body).unwrap(),
                    });
                }
            }
            let mut chunk = [0; 4096];
            // The longest that the driver takes for any call is five minutes.
            match tokio::time::timeout(Duration::from_secs(330), self.stream.read(&mut chunk)).await {
                Ok(Ok(0) | Err(_)) => return None,
                Ok(Ok(n)) => self.read.extend_from_slice(&chunk[..n]),
                Err(_) => panic!("no answer, and no end: {}", self.host.log()),
            }
        }
    }
}

/// Rows and truth agree in the end: what a row says is on an ENI is on it, what is on it has a row that says whose it is,
/// and no address is leased twice.
pub async fn agree(hosts: &[&Host]) {
    let start = Instant::now();
    while let Some(why) = disagreement(hosts).await {
        assert!(start.elapsed() < PATIENCE, "{why}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

async fn disagreement(hosts: &[&Host]) -> Option<String> {
    let mut leased = BTreeMap::new();
    for host in hosts {
        let truth = host.assigned();
        let rows = host.rows().await;
        let mine: Vec<&Row> = rows.iter().filter(|row| row.iface.as_ref() == Some(&host.eni) && !row.primary).collect();
        for row in &mine {
            if matches!(row.state, State::Ready | State::Lease) && !truth.contains(&row.ip) {
                return Some(format!("{row:?} is not on the ENI, which has {truth:?}"));
            }
            if row.state == State::Lease
                && let Some(other) = leased.insert(row.ip, &host.eni)
            {
                return Some(format!("{} is leased on {other} and {}", row.ip, host.eni));
            }
        }
        for ip in &truth {
            let known = |row: &&&Row| row.ip == *ip && !matches!(row.state, State::Free | State::Reserved);
            if mine.iter().find(known).is_none() {
                return Some(format!("{ip} is on {}, and no row says so", host.eni));
            }
        }
    }
    None
}

/// A host's table, as somebody beside the driver reaches it.
#[derive(Clone)]
pub struct Table {
    db: Option<Arc<Db>>,
    file: PathBuf,
}

impl Table {
    /// What [`Self::recall`] brings back.
    pub async fn remember(&self) {
        for table in Self::KEPT {
            self.sql_of_both(&format!("DROP TABLE IF EXISTS kept_{table}")).await;
            self.sql_of_both(&format!("CREATE TABLE kept_{table} AS SELECT * FROM {table}")).await;
        }
    }

    /// As after a failover that lost all that was committed since.
    pub async fn recall(&self) {
        for table in Self::KEPT {
            self.sql_of_both(&format!("DELETE FROM {table}")).await;
            self.sql_of_both(&format!("INSERT INTO {table} SELECT * FROM kept_{table}")).await;
        }
    }

    const KEPT: [&str; 2] = ["allocation", "task"];

    async fn sql_of_both(&self, statement: &str) {
        self.sql(statement, statement).await;
    }

    fn open(&self) -> rusqlite::Connection {
        let file = rusqlite::Connection::open(&self.file).unwrap();
        file.busy_timeout(Duration::from_secs(30)).unwrap();
        file
    }

    /// Runs a statement, as each kind of table has it.
    pub async fn sql(&self, mariadb: &str, sqlite: &str) {
        match &self.db {
            Some(db) => db.exec(mariadb).await,
            None => self.open().execute_batch(sqlite).unwrap(),
        }
    }

    /// Does something more before others see what the statement does.
    async fn sql_and(&self, mariadb: &str, sqlite: &str, more: impl FnOnce()) {
        match &self.db {
            Some(db) => db.exec_and(mariadb, more).await,
            None => {
                let mut file = self.open();
                let change = file.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
                change.execute_batch(sqlite).unwrap();
                more();
                change.commit().unwrap();
            }
        }
    }
}
