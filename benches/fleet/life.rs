//! A driver's start, its size, its memory, and how it fills a large subnet.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ec2_ipam::domain::address::State;
use serde_json::json;
use vpc_sim::{EniSpec, Switches};

use super::figures::{Report, Times, ms, timed};
use super::hosts;
use crate::support::host::{Fleet, Host, Kind, SUBNET, eni, eventually};

pub async fn run(report: &mut Report) {
    size(report);
    start(report).await;
    init(report).await;
    memory(report).await;
}

fn size(report: &mut Report) {
    let binary = Path::new(env!("CARGO_BIN_EXE_ec2-ipam"));
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("plugin");
    let assemble = concat!(env!("CARGO_MANIFEST_DIR"), "/plugin/assemble.sh");
    let status = Command::new(assemble).arg(binary).arg(&plugin).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{assemble}");
    let output = |line: &str| {
        let output = Command::new("sh").args(["-c", line]).current_dir(&plugin).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e6
    };
    let binary = std::fs::metadata(binary).unwrap().len() as f64 / 1e6;
    let rootfs = output("find rootfs -type f -printf '%s\\n' | awk '{ n += $1 } END { print n }'");
    // As the Engine packs a layer.
    let packed = output("tar -C rootfs -c . | gzip | wc -c");
    report.add(
        "size",
        format!("binary {binary:.1} MB, rootfs {rootfs:.1} MB, compressed plugin {packed:.1} MB"),
        String::new(),
        "rootfs under 35 MB",
        json!({ "binary_mb": binary, "rootfs_mb": rootfs, "compressed_mb": packed }),
    );
}

async fn start(report: &mut Report) {
    for kind in [Kind::Mariadb, Kind::Sqlite] {
        let (mut bound, mut first, mut again) = (Times::default(), Times::default(), Times::default());
        for n in 1..=11 {
            let fleet = Fleet::new(kind).await;
            let mut host = hosts::host(&fleet, n, "c5.large", &[]);
            for life in [&mut first, &mut again] {
                let began = Instant::now();
                host.launch();
                while UnixStream::connect(host.socket()).is_err() {
                    std::thread::sleep(Duration::from_micros(100));
                }
                bound.push(began.elapsed());
                let pool = host.pool().await;
                host.lease(&pool).await;
                life.push(began.elapsed());
                eventually("the interface is warm", async || host.mine(State::Ready).await.len() >= 4).await;
                host.stop().await;
            }
        }
        report.add(
            &format!("start, {kind:?}: exec to socket bound"),
            bound.text(),
            String::new(),
            "under 20 ms",
            bound.json(),
        );
        report.add(
            &format!("start, {kind:?}: exec to first address"),
            format!("{} on an empty table, {} on a warm interface (p50)", ms(first.median()), ms(again.median())),
            String::new(),
            "under 1 s without EC2 latency",
            json!({ "empty": first.json(), "warm": again.json() }),
        );
    }
}

async fn init(report: &mut Report) {
    for kind in [Kind::Mariadb, Kind::Sqlite] {
        let (mut times, mut again) = (Times::default(), Times::default());
        for n in 1..=5 {
            let fleet = Fleet::with(kind, "10.77.0.0/16", Switches::default()).await;
            let host = hosts::started(&fleet, n, "c5.large", &[]).await;
            // The table is there.
            eventually("the store is open", async || host.ask(&["status"]).await.1.contains("store")).await;
            let (time, told) = timed(host.tell(&["init", SUBNET])).await;
            assert!(told.contains("65536 rows added"), "{told}");
            times.push(time);
            again.push(timed(host.tell(&["init", SUBNET])).await.0);
        }
        report.add(
            &format!("init of a /16, {kind:?}"),
            format!("p50 {}, repeated {}", ms(times.median()), ms(again.median())),
            String::new(),
            if kind == Kind::Mariadb { "under 1 s" } else { "" },
            json!({ "first": times.json(), "repeated": again.json() }),
        );
    }
}

/// RssAnon and VmRSS of a process, in MB.
pub fn resident(pid: u32) -> (f64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1e3
    };
    (of("RssAnon:"), of("VmRSS:"))
}

/// One host with 1,000 leases: 21 interfaces with 49 addresses each.
async fn memory(report: &mut Report) {
    const ENIS: u8 = 21;
    let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/20", Switches::default()).await;
    let mut host = hosts::host(&fleet, 1, "p5.48xlarge", &[]);
    for n in 2..=ENIS {
        attach(&fleet, &host, n);
    }
    host.start().await;
    let pool = host.pool_with("", json!({ "eni-id": eni(1) })).await.unwrap();
    let ip = host.lease(&pool).await;
    host.release(&pool, ip).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle = resident(host.pid());
    let mut leases = 0;
    for n in 1..=ENIS {
        let pool = host.pool_with("", json!({ "eni-id": eni(n) })).await.unwrap();
        while leases < 1000.min(usize::from(n) * 49) {
            host.lease(&pool).await;
            leases += 1;
        }
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let full = resident(host.pid());
    report.add(
        "memory of a driver",
        format!("idle: RssAnon {:.1} MB, RSS {:.1} MB; 1,000 leases on {ENIS} interfaces: {:.1} and {:.1} MB", idle.0, idle.1, full.0, full.1),
        String::new(),
        "RssAnon under 12 MB idle",
        json!({ "idle_rssanon_mb": idle.0, "idle_rss_mb": idle.1, "leases": leases, "rssanon_mb": full.0, "rss_mb": full.1 }),
    );
}

/// The n-th interface of the host, in the same subnet.
fn attach(fleet: &Fleet, host: &Host, n: u8) {
    let mac = format!("0a:77:00:00:01:{n:02x}");
    let net: ipnet::Ipv4Net = fleet.cidr.parse().unwrap();
    let primary = std::net::Ipv4Addr::from(u32::from(net.network()) + 3 + u32::from(n));
    fleet.vpc.add_eni(EniSpec::new(&eni(n), SUBNET, primary).on(&host.instance, u32::from(n)).mac(&mac));
    host.ip(&format!("link add eth{n} type veth peer name far{n}"));
    host.ip(&format!("link set eth{n} address {mac}"));
    host.ip(&format!("link set eth{n} up"));
}
