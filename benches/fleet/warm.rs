//! A container starts and finds a warm address: one address after the other over one connection, as the Engine asks,
//! each followed by what it is compared with.

use std::net::Ipv4Addr;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde_json::json;
use tokio::time::sleep;

use super::figures::{Report, Times, timed};
use super::hosts;
use crate::support::host::{Fleet, Host, Kind, Wire, eventually, request};
use ec2_ipam::domain::address::State;
use vpc_sim::Switches;

/// Addresses granted in a round; then all are released, and have cooled before the next.
const ROUND: usize = 40;
const ROUNDS: usize = 12;
/// The cool-down of a second, by a clock that counts whole ones.
const COOLED: Duration = Duration::from_millis(2500);

pub async fn run(report: &mut Report) {
    let (host, pool) = warm_host(Kind::Mariadb).await;
    let mut session = host.db.as_ref().unwrap().session().await;
    session.query_drop("CREATE TABLE bare (id INT PRIMARY KEY, n INT); INSERT INTO bare VALUES (1, 0)").await.unwrap();
    let bare = async || {
        let update = async { session.query_drop("UPDATE bare SET n=n+1 WHERE id=1").await.unwrap() };
        timed(update).await.0
    };
    grants(report, &host, &pool, "MySQL", "bare UPDATE", bare).await;
    behind_slow_ec2(report, &host, &pool).await;
    protocol(report, &host).await;

    let (host, pool) = warm_host(Kind::Sqlite).await;
    let file = rusqlite::Connection::open(host.dir.path().join("bare.db")).unwrap();
    file.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE bare (id INTEGER PRIMARY KEY, n INT);
         INSERT INTO bare VALUES (1, 0)",
    )
    .unwrap();
    let bare = async || timed(async { file.execute_batch("UPDATE bare SET n=n+1 WHERE id=1").unwrap() }).await.0;
    grants(report, &host, &pool, "SQLite", "bare UPDATE, fsynced", bare).await;
}

/// A host of its own fleet whose ENI holds enough idle addresses for a round.
async fn warm_host(kind: Kind) -> (Host, String) {
    let fleet = Fleet::with(kind, "10.77.0.0/24", Switches::default()).await;
    let settings = [("EC2_IPAM_WARM_TARGET", "44"), ("EC2_IPAM_WARM_MAX", "49"), ("EC2_IPAM_COOLDOWN", "1s")];
    let host = hosts::started(&fleet, 1, "m5.24xlarge", &settings).await;
    let pool = host.pool().await;
    let first = host.lease(&pool).await;
    host.release(&pool, first).await;
    eventually("the interface is warm", async || host.mine(State::Ready).await.len() >= 44).await;
    sleep(COOLED).await;
    (host, pool)
}

async fn ask(wire: &mut Wire<'_>, pool: &str, name: Option<&str>) -> (Duration, Ipv4Addr) {
    let options = name.map_or(json!(null), |name| json!({ "com.docker.network.endpoint.name": name }));
    let body = json!({ "PoolID": pool, "Address": "", "Options": options });
    let call = request("/IpamDriver.RequestAddress", &format!("{body}\n"));
    let (time, answer) = timed(async {
        wire.send(&call).await;
        wire.answer().await.expect("an answer")
    })
    .await;
    let json = answer.outcome().unwrap();
    (time, json["Address"].as_str().unwrap().parse::<ipnet::Ipv4Net>().unwrap().addr())
}

async fn let_go(wire: &mut Wire<'_>, pool: &str, ip: Ipv4Addr) -> Duration {
    let call = request("/IpamDriver.ReleaseAddress", &json!({ "PoolID": pool, "Address": ip }).to_string());
    let (time, answer) = timed(async {
        wire.send(&call).await;
        wire.answer().await.expect("an answer")
    })
    .await;
    answer.outcome().unwrap();
    time
}

async fn grants(
    report: &mut Report,
    host: &Host,
    pool: &str,
    table: &str,
    beside: &str,
    mut bare: impl AsyncFnMut() -> Duration,
) {
    let [mut unnamed, mut named, mut released, mut floor] = std::array::from_fn(|_| Times::default());
    let mut wire = host.connect().await;
    // Unnamed, as Engines before 29 ask, and named, as from 29 on, in turn; the first two rounds only warm up.
    for round in 0..2 * ROUNDS + 2 {
        let is_named = round % 2 == 1;
        let mut given = Vec::new();
        for n in 0..ROUND {
            let name = format!("container-{round}-{n}");
            let (time, ip) = ask(&mut wire, pool, is_named.then_some(name.as_str())).await;
            given.push(ip);
            let beside = bare().await;
            if round >= 2 {
                (if is_named { &mut named } else { &mut unnamed }).push(time);
                floor.push(beside);
            }
        }
        for ip in given {
            let time = let_go(&mut wire, pool, ip).await;
            if round >= 2 {
                released.push(time);
            }
        }
        sleep(COOLED).await;
    }
    for (what, times) in
        [("RequestAddress", &unnamed), ("the same, container named", &named), ("ReleaseAddress", &released)]
    {
        report.add(
            &format!("{what}, warm, {table}"),
            times.text(),
            format!("{beside}: {}; {:.2} times", floor.text(), times.median() / floor.median()),
            if what.starts_with("Release") { "" } else { "p50 at most 1.6 times" },
            json!({ "times": times.json(), "bare": floor.json() }),
        );
    }
}

async fn behind_slow_ec2(report: &mut Report, host: &Host, pool: &str) {
    host.vpc.latency(Duration::from_millis(200));
    let mut times = Times::default();
    let mut wire = host.connect().await;
    for _ in 0..10 {
        let mut given = Vec::new();
        for _ in 0..10 {
            let (time, ip) = ask(&mut wire, pool, None).await;
            times.push(time);
            given.push(ip);
        }
        for ip in given {
            let_go(&mut wire, pool, ip).await;
        }
        sleep(COOLED).await;
    }
    host.vpc.latency(Duration::ZERO);
    report.add(
        "10 addresses one after the other, warm, EC2 at 200 ms",
        times.text(),
        "the original, measured earlier: p50 1021 ms".into(),
        "p50 under 3 ms",
        times.json(),
    );
}

async fn protocol(report: &mut Report, host: &Host) {
    let mut times = Times::default();
    let mut wire = host.connect().await;
    let call = request("/IpamDriver.GetCapabilities", "");
    for n in 0..2200 {
        let round_trip = async {
            wire.send(&call).await;
            wire.answer().await.unwrap()
        };
        let (time, answer) = timed(round_trip).await;
        assert_eq!(answer.status, 200);
        if n >= 200 {
            times.push(time);
        }
    }
    report.add("GetCapabilities", times.text(), String::new(), "p50 under 0.1 ms", times.json());
}
