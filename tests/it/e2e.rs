//! The managed plugin in a real Docker Engine: after each step the table, EC2 and Docker agree.
//!
//! The plugin is the one that is shipped, put together from the binary under test. It needs root and what
//! `scripts/setup.sh test` installs; what is lacking is a failure.
#![allow(clippy::print_stderr, reason = "each step says what it did and how long it took")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ec2_ipam::address::State;
use ec2_ipam::status::{Listed, Status};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::engine::{Engine, IMAGE, run, until};
use crate::support::mariadb::{Db, PASSWORD};
use crate::support::secrets;
use crate::support::vpc::{EniSpec, Outcome, Server, Switches, Vpc};
use agreement::{Docker, Endpoint, Interface, agree};

mod agreement;

const PLUGIN: &str = "ec2-ipam:latest";
const HOST: &str = "i-0aaaaaaa";
const FRONT: Parent =
    Parent { name: "eth1", eni: "eni-0aaaaaa1", subnet: "subnet-0aaaaaaa", cidr: "10.77.0.0/24", device: 1 };
const BACK: Parent =
    Parent { name: "eth2", eni: "eni-0aaaaaa2", subnet: "subnet-0aaaaaab", cidr: "10.78.0.0/20", device: 2 };

/// An ENI of the host with a subnet of its own; its primary address is the tenth.
struct Parent {
    name: &'static str,
    eni: &'static str,
    subnet: &'static str,
    cidr: &'static str,
    device: u32,
}

impl Parent {
    fn net(&self) -> ipnet::Ipv4Net {
        self.cidr.parse().unwrap()
    }

    fn ip(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.net().network()) + offset)
    }

    fn with_mask(&self, offset: u32) -> String {
        format!("{}/{}", self.ip(offset), self.net().prefix_len())
    }
}

struct Bed {
    engine: Engine,
    vpc: Vpc,
    driver: &'static str,
    /// The Engine's major version.
    major: u32,
    _servers: [Server; 2],
}

impl Bed {
    /// An Engine on an instance with two ENIs, and the plugin in it, not enabled.
    fn new() -> Self {
        let vpc = Vpc::new(Switches::default());
        vpc.add_instance(HOST, "m5.24xlarge");
        let engine = Engine::start();
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
        engine.docker(&format!("plugin create {PLUGIN} {}", plugin.display())).unwrap();
        // Region and credentials come from the metadata, as on a host with a role.
        engine
            .docker(&format!(
                "plugin set {PLUGIN} AWS_ENDPOINT_URL_EC2={} AWS_EC2_METADATA_SERVICE_ENDPOINT={} EC2_IPAM_COOLDOWN=3s",
                ec2.url(),
                imds.url()
            ))
            .unwrap();
        Self { engine, vpc, driver, major, _servers: [ec2, imds] }
    }

    /// Does it, then waits until the three agree.
    #[track_caller]
    fn step<T>(&self, what: &str, step: impl FnOnce() -> T) -> T {
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

    fn docker(&self, words: &str) -> String {
        self.engine.docker(words).unwrap_or_else(|why| panic!("docker {words}: {why}"))
    }

    /// The refusal of a command that must fail.
    fn refused(&self, words: &str) -> String {
        match self.engine.docker(words) {
            Ok(out) => panic!("docker {words} was not refused: {out}"),
            Err(why) => why,
        }
    }

    fn json(&self, words: &str) -> Value {
        serde_json::from_str(&self.docker(words)).unwrap()
    }

    fn network(&self, name: &str, parent: &Parent, options: &str) -> Result<String, String> {
        self.engine.docker(&format!(
            "network create -d {} -o parent={} --ipam-driver {PLUGIN} {options} {name}",
            self.driver, parent.name
        ))
    }

    /// Starts a container that idles.
    fn run(&self, name: &str, options: &str) -> Ipv4Addr {
        self.docker(&format!("run -d --name {name} {options} {IMAGE} idle"));
        self.address(name).expect("a running container has an address")
    }

    /// The first address of a container.
    fn address(&self, name: &str) -> Option<Ipv4Addr> {
        let inspected = self.json(&format!("inspect {name}"));
        let networks = inspected[0]["NetworkSettings"]["Networks"].as_object().unwrap().clone();
        networks.values().find_map(|n| n["IPAddress"].as_str()?.parse().ok())
    }

    fn is_running(&self, name: &str) -> bool {
        self.json(&format!("inspect {name}"))[0]["State"]["Running"] == true
    }

    fn ping(&self, from: &str, to: Ipv4Addr) {
        let words = format!("exec {from} ping -q -c 1 -W 2 {to}");
        until(&format!("{from} reaches {to}"), || self.engine.docker(&words));
    }

    fn rows(&self, parent: &Parent) -> Result<Vec<Listed>, String> {
        let rows = self.engine.cli(&format!("list {} --free --json", parent.subnet))?;
        serde_json::from_str(&rows).map_err(|why| why.to_string())
    }

    fn status(&self) -> Result<Status, String> {
        serde_json::from_str(&self.engine.cli("status --json")?).map_err(|why| why.to_string())
    }

    /// How the row of an address is.
    fn state(&self, parent: &Parent, ip: Ipv4Addr) -> State {
        let rows = self.rows(parent).unwrap();
        rows.iter().find(|row| row.ip == ip).expect("each address has a row").state
    }

    fn wait_for_warmth(&self, addresses: usize) {
        until("warm addresses", || {
            let warm = self.status()?.enis.iter().map(|eni| eni.warm).min().unwrap_or(0);
            if warm < addresses { Err(format!("{warm} warm")) } else { Ok(()) }
        });
    }

    fn disagreement(&self) -> Result<Vec<String>, String> {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_agrees_after_each_step() {
    let bed = Bed::new();
    bed.docker(&format!("plugin enable {PLUGIN}"));
    networks(&bed);
    containers(&bed);
    several(&bed);
    crashes(&bed);
    measure(&bed);
    ends(&bed);
    mariadb(&bed).await;
    bed.docker(&format!("plugin disable {PLUGIN}"));
    bed.docker(&format!("plugin rm {PLUGIN}"));
    assert_eq!(bed.docker("plugin ls -q"), "");
    assert_eq!(bed.engine.plugin(), None);
    bed.engine.down(Signal::SIGTERM);
    let mut all = bed.vpc.secrets();
    all.push(PASSWORD.to_owned());
    let told = bed.engine.told();
    assert!(told.contains("granted "), "the plugin's own lines are among them");
    secrets::assert_untold(&told, &all);
}

fn networks(bed: &Bed) {
    let without = bed.network("front", &FRONT, "");
    if bed.major < 27 {
        let why = without.unwrap_err();
        assert!(why.contains(&format!("pass --subnet {}", FRONT.cidr)), "{why}");
    } else {
        without.unwrap();
        bed.step("network create without --subnet, network rm", || bed.docker("network rm front"));
    }
    let why = bed.network("front", &FRONT, "--subnet 10.99.0.0/24").unwrap_err();
    assert!(why.contains(&format!("pass --subnet {}", FRONT.cidr)), "{why}");
    let why = bed.network("front", &FRONT, &format!("--subnet {} --ipam-opt enid=x", FRONT.cidr)).unwrap_err();
    assert!(why.contains("unknown --ipam-opt \"enid\"; known are eni-id"), "{why}");
    bed.step("network create --subnet", || bed.network("front", &FRONT, &format!("--subnet {}", FRONT.cidr)).unwrap());
}

fn containers(bed: &Bed) {
    let a = bed.step("run", || bed.run("c1", "--network front"));
    assert!(FRONT.net().contains(&a));
    let b = bed.step("run --ip", || bed.run("c2", &format!("--network front --ip {}", FRONT.ip(200))));
    assert_eq!(b, FRONT.ip(200));
    bed.ping("c2", a);
    bed.ping("c1", b);
    bed.ping("c1", FRONT.ip(1));
    let inside = bed.docker("exec c1 ip -4 addr show dev eth0") + &bed.docker("exec c1 ip -4 route");
    assert!(inside.contains(&format!("inet {a}/24 ")), "{inside}");
    assert!(inside.contains(&format!("default via {} dev eth0", FRONT.ip(1))), "{inside}");

    for (ip, why) in [
        (a, format!("{a} cannot be given: a container")),
        (FRONT.ip(1), format!("{} cannot be given: AWS reserves the first four", FRONT.ip(1))),
        (FRONT.ip(10), format!("{} cannot be given: it is the primary address of {}", FRONT.ip(10), FRONT.eni)),
    ] {
        let said = bed.step(&format!("run --ip {ip} is refused"), || {
            bed.refused(&format!("run -d --name refused --network front --ip {ip} {IMAGE} idle"))
        });
        assert!(said.contains(&why), "{said}");
        bed.docker("rm -f refused");
    }

    bed.wait_for_warmth(2);
    bed.vpc.ec2_down(true);
    let took = Instant::now();
    bed.docker(&format!("run -d --name c3 --network front {IMAGE} idle"));
    let took = took.elapsed();
    bed.vpc.ec2_down(false);
    bed.step("run with warm addresses while EC2 is down", || {});
    eprintln!("measured: docker run, warm: {} ms", took.as_millis());

    bed.step("restart", || bed.docker("restart c1"));
    bed.step("restart of one with --ip", || bed.docker("restart c2"));
    assert_eq!(bed.address("c2"), Some(b));
    bed.step("stop", || bed.docker("stop c1"));
    assert_eq!(bed.address("c1"), None);
    bed.step("start", || bed.docker("start c1"));
    bed.step("kill", || bed.docker("kill c1"));
    bed.step("rm -f of a stopped and of a running one", || bed.docker("rm -f c1 c3"));
    bed.step("run --rm", || bed.docker(&format!("run --rm --network front {IMAGE} ip addr")));
    bed.step("a crash without a restart policy", || {
        bed.refused(&format!("run --name crash --network front {IMAGE} crash"))
    });
    bed.step("a crash loop, to its end", || {
        bed.docker(&format!("run -d --name loop --restart on-failure:3 --network front {IMAGE} crash"));
        until("the last crash", || {
            let state = bed.json("inspect loop")[0].clone();
            let ended = state["RestartCount"] == 3 && state["State"]["Status"] == "exited";
            if ended { Ok(()) } else { Err(state["State"].to_string()) }
        });
    });
    bed.docker("rm crash loop");
}

fn several(bed: &Bed) {
    bed.step("five runs at once", || {
        std::thread::scope(|scope| {
            for n in 0..5 {
                scope.spawn(move || bed.run(&format!("p{n}"), "--network front"));
            }
        });
    });
    bed.step("rm -f of five at once", || {
        std::thread::scope(|scope| {
            for n in 0..5 {
                scope.spawn(move || bed.docker(&format!("rm -f p{n}")));
            }
        });
    });

    let aux = BACK.ip(20);
    let range: ipnet::Ipv4Net = format!("{}/29", BACK.ip(64)).parse().unwrap();
    let options = format!(
        "--subnet {} --ip-range {range} --ipam-opt eni-id={} --ipam-opt parent={}",
        BACK.cidr, BACK.eni, BACK.name
    );
    let why = bed.network("back", &BACK, &format!("{options} --aux-address host={}", BACK.ip(10))).unwrap_err();
    assert!(why.contains("as --aux-address, drop that: it is already excluded"), "{why}");
    bed.step("network create --ip-range --aux-address --ipam-opt eni-id", || {
        bed.network("back", &BACK, &format!("{options} --aux-address other={aux}")).unwrap()
    });
    assert_eq!(bed.state(&BACK, aux), State::Lease);
    for n in 0..3 {
        let ip = bed.step("run in the range", || bed.run(&format!("r{n}"), "--network back"));
        assert!(range.contains(&ip), "{ip}");
    }
    bed.step("run --ip outside of the range", || bed.run("r3", &format!("--network back --ip {}", BACK.ip(21))));
    bed.step("network connect", || bed.docker("network connect back c2"));
    bed.step("network disconnect", || bed.docker("network disconnect back c2"));
    bed.step("network disconnect of the network that one was run with", || bed.docker("network disconnect front c2"));
    bed.step("network connect --ip", || bed.docker(&format!("network connect --ip {} front c2", FRONT.ip(200))));
    bed.docker("rm -f r0 r1 r2 r3");
    bed.step("network rm of the second network", || bed.docker("network rm back"));
}

fn crashes(bed: &Bed) {
    bed.step("run --restart always", || bed.run("always", "--network front --restart always"));
    let before = bed.rows(&FRONT).unwrap();
    bed.step("kill -9 of the plugin", || bed.engine.kill_plugin());
    let leases = |rows: &[Listed]| -> Vec<Ipv4Addr> {
        rows.iter().filter(|row| row.state == State::Lease).map(|row| row.ip).collect()
    };
    assert_eq!(leases(&before), leases(&bed.rows(&FRONT).unwrap()));
    bed.step("run after that", || bed.run("c4", "--network front"));
    bed.step("stop after that", || bed.docker("rm -f c4"));

    bed.docker(&format!("plugin disable -f {PLUGIN}"));
    bed.step("plugin disable -f and enable beneath a network", || bed.docker(&format!("plugin enable {PLUGIN}")));
    bed.step("run after that", || bed.run("c5", "--network front"));

    bed.step("kill -9 of dockerd, start", || {
        bed.engine.down(Signal::SIGKILL);
        bed.engine.up();
        until("the restart policy", || if bed.is_running("always") { Ok(()) } else { Err(String::new()) });
    });
    assert!(!bed.is_running("c2") && !bed.is_running("c5"), "without a policy they stay dead");
    bed.step("start of one that died with dockerd", || bed.docker("start c2"));
    assert_eq!(bed.address("c2"), Some(FRONT.ip(200)));
    bed.ping("c2", bed.address("always").unwrap());
    bed.step("TERM to dockerd, start", || {
        bed.engine.down(Signal::SIGTERM);
        bed.engine.up();
        until("the restart policy", || if bed.is_running("always") { Ok(()) } else { Err(String::new()) });
    });
    bed.step("rm -f of all", || bed.docker("rm -f always c2 c5"));
}

fn ends(bed: &Bed) {
    // The simulator is as strict as EC2: nothing that was asked of it was wrong.
    let mut calls = bed.vpc.calls();
    calls.retain(|call| call.outcome != Outcome::Ok);
    assert!(calls.is_empty(), "{calls:?}");
    bed.engine.cli("doctor").unwrap();
    let idle = |rows: &[Listed]| rows.iter().filter(|row| row.state == State::Ready).count();
    // A named address goes back to the subnet when it has cooled.
    until("the fixed address is free", || {
        let state = bed.state(&FRONT, FRONT.ip(200));
        if state == State::Free { Ok(()) } else { Err(format!("{state:?}")) }
    });
    let before = idle(&bed.rows(&FRONT).unwrap());
    bed.step("network rm", || bed.docker("network rm front"));
    let rows = bed.rows(&FRONT).unwrap();
    assert!(rows.iter().all(|row| row.state != State::Lease), "{rows:?}");
    assert_eq!(bed.state(&FRONT, FRONT.ip(1)), State::Reserved);
    assert_eq!(idle(&rows), before, "idle addresses stay warm for the next network");
    for parent in [FRONT, BACK] {
        bed.step("recycle", || bed.engine.cli(&format!("recycle {}", parent.subnet)).unwrap());
        assert!(bed.vpc.addresses(parent.eni).is_empty(), "nothing is left on {}", parent.eni);
    }
}

/// The same plugin on a table of a fleet's.
async fn mariadb(bed: &Bed) {
    let db = Db::new().await;
    let listener = bed.engine.listener();
    let url = db.url_at(listener.local_addr().unwrap().port());
    let passing = tokio::spawn(pass(listener, crate::support::mariadb::server().port));
    set_database(bed, &url);
    bed.step("on MariaDB: network create", || {
        bed.network("front", &FRONT, &format!("--subnet {}", FRONT.cidr)).unwrap()
    });
    assert_eq!(bed.status().unwrap().store.unwrap().kind, "mysql");
    let a = bed.step("on MariaDB: run", || bed.run("c1", "--network front"));
    bed.step("on MariaDB: run --ip", || bed.run("c2", &format!("--network front --ip {}", FRONT.ip(200))));
    bed.ping("c2", a);
    lost_commit(bed, &db, a).await;
    bed.step("on MariaDB: restart", || bed.docker("restart c1"));
    bed.step("on MariaDB: kill -9 of dockerd, start", || {
        bed.engine.down(Signal::SIGKILL);
        bed.engine.up();
    });
    bed.step("on MariaDB: rm -f, network rm, recycle", || {
        bed.docker("rm -f c1 c2");
        bed.docker("network rm front");
        bed.engine.cli(&format!("recycle {}", FRONT.subnet)).unwrap();
    });
    assert!(bed.vpc.addresses(FRONT.eni).is_empty());
    set_database(bed, "");
    bed.step("back on SQLite", || {});
    passing.abort();
}

/// The database forgets a lease while no driver remembers it either: Docker's own word keeps the address from a second
/// container (I1).
async fn lost_commit(bed: &Bed, db: &Db, ip: Ipv4Addr) {
    let columns = |status: &str, claim: &str| {
        format!("UPDATE allocation SET status='{status}', claim={claim}, ts='2000-01-01' WHERE ip='{ip}'")
    };
    db.exec(&columns("ready", "NULL")).await;
    bed.engine.kill_plugin();
    until("Docker is read", || bed.status()?.docker.ok_or_else(|| "not yet".to_owned()));
    for n in 0..6 {
        assert_ne!(bed.run(&format!("l{n}"), "--network front"), ip, "I1");
    }
    let why = bed.refused(&format!("run -d --name l6 --network front --ip {ip} {IMAGE} idle"));
    assert!(why.contains("Docker shows that a container of this host has it"), "{why}");
    db.exec(&columns("occupied", "'0:1:lease'")).await;
    bed.step("on MariaDB: kill -9 of the plugin, six runs beside a lease that the database lost", || {
        bed.docker("rm -f l0 l1 l2 l3 l4 l5 l6")
    });
}

fn set_database(bed: &Bed, url: &str) {
    bed.docker(&format!("plugin disable {PLUGIN}"));
    bed.docker(&format!("plugin set {PLUGIN} EC2_IPAM_DATABASE_URL={url}"));
    bed.docker(&format!("plugin enable {PLUGIN}"));
}

/// From a listener in the Engine's network to a server in ours.
async fn pass(listener: std::net::TcpListener, port: u16) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((mut from, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut to = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            tokio::io::copy_bidirectional(&mut from, &mut to).await
        });
    }
}

/// Figures for a reader; nothing is asserted.
fn measure(bed: &Bed) {
    let plugin = bed.engine.plugin().expect("the plugin runs");
    let status = std::fs::read_to_string(format!("/proc/{plugin}/status")).unwrap();
    let anonymous = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    eprintln!("measured: the plugin's {}", anonymous.split_whitespace().collect::<Vec<_>>().join(" "));

    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("ec2-ipam.sock");
    let begun = Instant::now();
    let mut driver = Command::new(env!("CARGO_BIN_EXE_ec2-ipam"))
        .arg("serve")
        .env("EC2_IPAM_LISTEN", format!("unix://{}", socket.display()))
        .env("EC2_IPAM_DATABASE_URL", format!("sqlite://{}/db", dir.path().display()))
        // Nobody answers there.
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while UnixStream::connect(&socket).is_err() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_micros(200));
    }
    eprintln!("measured: from exec to a listening socket: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    driver.kill().unwrap();
    driver.wait().unwrap();
}
