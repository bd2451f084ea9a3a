//! What a real dockerd says that it has in use.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use ec2_ipam::outside::engine::{Engine, Snapshot};
use nix::sys::signal::Signal;

use crate::support::engine::{Engine as Bed, IMAGE};
use crate::support::host::eventually;

struct Host {
    bed: Bed,
    engine: Engine,
}

impl Host {
    fn docker(&self, words: &str) -> String {
        self.bed.docker(words).unwrap_or_else(|why| panic!("docker {words}: {why}"))
    }

    /// What `docker inspect` says of a container's addresses.
    fn of(&self, name: &str) -> Vec<Ipv4Addr> {
        let format = "{{range.NetworkSettings.Networks}}{{.IPAddress}}/{{end}}";
        self.docker(&format!("inspect --format {format} {name}")).split('/').filter_map(|ip| ip.parse().ok()).collect()
    }

    async fn snapshot(&self) -> Snapshot {
        self.engine.snapshot().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_docker_tells_its_uses_through_stop_pause_crash_and_swarm() {
    let bed = Bed::start();
    for (n, name) in ["eth1", "eth2"].into_iter().enumerate() {
        bed.parent(name, &format!("0a:00:00:00:00:0{n}"), &format!("10.5{n}.0.10/24"), &format!("10.5{n}.0.1/24"));
    }
    let driver = bed.network_driver("eth1");
    let engine = Engine::new(bed.dir.join("docker.sock"));
    let host = Host { bed, engine };
    assert_eq!(host.snapshot().await, Snapshot { networks: Vec::new(), strays: HashSet::new() });

    let create = |options: &str| host.docker(&format!("network create -d {driver} {options}"));
    create("-o parent=eth1 --subnet 10.50.0.0/24 --aux-address kept=10.50.0.20 --ipam-opt colour=red front");
    create("-o parent=eth2 --subnet 10.51.0.0/24 back");
    let ip = |last: [u8; 4]| Ipv4Addr::from(last);
    let auxiliary = ip([10, 50, 0, 20]);
    let mut expected = HashSet::from([auxiliary]);

    for name in ["running", "twice", "paused", "stopped"] {
        host.docker(&format!("run -d --name {name} --network front {IMAGE} idle"));
    }
    host.docker("network connect back twice");
    host.docker("pause paused");
    host.docker("kill stopped");
    host.docker(&format!("create --name created --network front --ip 10.50.0.77 {IMAGE} idle"));
    let (running, twice, paused) = (host.of("running"), host.of("twice"), host.of("paused"));
    assert_eq!((running.len(), twice.len(), paused.len()), (1, 2, 1));
    expected.extend(running.iter().chain(&twice).chain(&paused));
    let snapshot = host.snapshot().await;
    let names = [(running[0], "running"), (twice[0], "twice"), (twice[1], "twice"), (paused[0], "paused")];
    assert_eq!(snapshot.names(), names.map(|(ip, name)| (ip, name.to_owned())).into());
    assert_eq!(snapshot.addresses(), expected, "running, on two networks, paused, and an auxiliary address");

    let mut networks = snapshot.networks;
    networks.sort_by(|a, b| b.name.cmp(&a.name));
    let told: Vec<_> = networks
        .iter()
        .map(|n| (n.name.as_str(), n.driver.as_str(), n.parent.as_deref(), n.ipam.as_str(), n.subnets[0].to_string()))
        .collect();
    assert_eq!(
        told,
        [
            ("front", driver, Some("eth1"), "default", "10.50.0.0/24".to_owned()),
            ("back", driver, Some("eth2"), "default", "10.51.0.0/24".to_owned())
        ]
    );
    assert_eq!(networks[0].ipam_options.get("colour").map(String::as_str), Some("red"));
    assert!(networks[1].ipam_options.is_empty());

    host.docker("network disconnect back twice");
    expected.remove(&twice[0]);
    expected.remove(&twice[1]);
    expected.extend(host.of("twice"));
    assert_eq!(host.snapshot().await.addresses(), expected);

    // dockerd dies, and its containers with it: it releases their addresses when it is back, and then nobody has them.
    host.bed.down(Signal::SIGKILL);
    assert!(host.engine.snapshot().await.is_err(), "a dockerd that is down has not said that nothing is in use");
    host.bed.up();
    let shown = host.of("running");
    let snapshot = host.snapshot().await;
    assert_eq!(snapshot.addresses(), HashSet::from([auxiliary]), "dead containers, of which one shows {shown:?}");
    host.docker("start running");
    let started = host.of("running");
    assert_eq!(host.snapshot().await.addresses(), HashSet::from([auxiliary, started[0]]));

    // A swarm's own endpoints have no container.
    host.docker("swarm init --advertise-addr 127.0.0.1");
    eventually("an endpoint without a container", async || {
        host.engine.snapshot().await.is_ok_and(|snapshot| {
            let bridge = snapshot.networks.iter().find(|network| network.name == "docker_gwbridge");
            bridge.is_some_and(|bridge| snapshot.addresses().iter().any(|ip| bridge.subnets[0].contains(ip)))
        })
    })
    .await;
    host.docker("swarm leave --force");

    host.docker("rm -f running twice paused stopped created");
    host.docker("network rm front");
    let snapshot = host.snapshot().await;
    assert!(!snapshot.addresses().contains(&auxiliary), "its network is gone");
    assert!(snapshot.networks.iter().all(|network| network.name != "front"));
    host.bed.down(Signal::SIGTERM);
}
