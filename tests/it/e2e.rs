//! The managed plugin in a real Docker Engine: after each step the table, EC2 and Docker agree.
//!
//! The plugin is the one that is shipped, put together from the binary under test. It needs root and what
//! `scripts/setup.sh test` installs; what is lacking is a failure.
#![allow(clippy::print_stderr, reason = "each step says what it did and how long it took")]

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ec2_ipam::domain::address::State;
use ec2_ipam::driver::list::Listed;
use nix::sys::signal::Signal;
use vpc_sim::Outcome;

use crate::support::engine::{IMAGE, until};
use crate::support::mariadb::{Db, PASSWORD};
use crate::support::plugin::{BACK, Bed, FRONT, PLUGIN, Setup};
use crate::support::secrets;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_agrees_after_each_step() {
    let bed = Bed::new(Setup { settings: "EC2_IPAM_COOLDOWN=3s", ..Setup::default() });
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

/// The same plugin on a table of a fleet's, with the password where the documents put it.
async fn mariadb(bed: &Bed) {
    let db = Db::new().await;
    let listener = bed.engine.listener();
    let url = format!("mysql://ipam@127.0.0.1:{}/{}", listener.local_addr().unwrap().port(), db.name);
    let plugin =
        bed.engine.dir.join("data/plugins").join(bed.docker(&format!("plugin inspect -f {{{{.Id}}}} {PLUGIN}")));
    std::fs::write(plugin.join("propagated-mount/password"), format!("{PASSWORD}\n")).unwrap();
    let passing = tokio::spawn(pass(listener, crate::support::mariadb::server().port));
    set_database(bed, &url, "/var/lib/ec2-ipam/password");
    // Whatever a command prints is searched for secrets at the end.
    assert!(bed.docker(&format!("plugin inspect {PLUGIN}")).contains("/var/lib/ec2-ipam/password"));
    bed.step("on MariaDB: network create", || {
        bed.network("front", &FRONT, &format!("--subnet {}", FRONT.cidr)).unwrap()
    });
    assert_eq!(bed.status().unwrap().store.kind, "mysql");
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
    set_database(bed, "", "");
    bed.step("back on SQLite", || {});
    passing.abort();
}

/// The database forgets a lease while no driver runs: the journal keeps the address from a second container (I1), and the table
/// is told again.
async fn lost_commit(bed: &Bed, db: &Db, ip: Ipv4Addr) {
    let lost = "status='ready', claim=NULL, ts='2000-01-01'";
    db.exec(&format!("UPDATE allocation SET {lost} WHERE ip='{ip}'")).await;
    bed.engine.kill_plugin();
    until("Docker is read", || bed.status()?.docker.ok_or_else(|| "not yet".to_owned()));
    for n in 0..6 {
        assert_ne!(bed.run(&format!("l{n}"), "--network front"), ip, "I1");
    }
    let why = bed.refused(&format!("run -d --name l6 --network front --ip {ip} {IMAGE} idle"));
    assert!(why.contains("a container on"), "{why}");
    bed.step("on MariaDB: kill -9 of the plugin, six runs beside a lease that the database lost", || {
        bed.docker("rm -f l0 l1 l2 l3 l4 l5 l6")
    });
}

fn set_database(bed: &Bed, url: &str, password_file: &str) {
    bed.docker(&format!("plugin disable {PLUGIN}"));
    let file = format!("EC2_IPAM_DATABASE_PASSWORD_FILE={password_file}");
    bed.docker(&format!("plugin set {PLUGIN} EC2_IPAM_DATABASE_URL={url} {file}"));
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
        // Not this machine's Engine.
        .env("EC2_IPAM_DOCKER_SOCKET", "")
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
