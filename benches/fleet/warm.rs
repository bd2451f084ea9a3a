//! A container starts and finds a warm address, and stops: one call after the other over one connection, as the Engine asks,
//! each followed by what it is compared with, a bare fsynced commit on the same disk.

use std::net::Ipv4Addr;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;
use tokio::time::sleep;

use super::figures::{Report, Times, timed};
use crate::support::host::{Fleet, Host, Kind, Wire, eventually, request};
use ec2_ipam::domain::address::State;
use vpc_sim::Switches;

/// Addresses granted in a round; then all are released, and have cooled before the next.
const ROUND: usize = 40;
const ROUNDS: usize = 8;
/// The cool-down of a second, and what a clock that counts whole ones adds to it.
const COOLED: Duration = Duration::from_millis(2500);

/// How the database is.
#[derive(Clone, Copy)]
enum Database {
    /// Each packet is under way for so many milliseconds.
    Far(u64),
    Away,
    /// There is none: the table is a file beside the journal.
    File,
}

impl Database {
    fn text(self) -> String {
        match self {
            Self::Far(0) => "MySQL here".to_owned(),
            Self::Far(ms) => format!("MySQL {ms} ms away, each way"),
            Self::Away => "MySQL gone".to_owned(),
            Self::File => "SQLite".to_owned(),
        }
    }

    fn set(self, host: &Host) {
        if let Some(proxy) = &host.proxy {
            proxy.away(matches!(self, Self::Away));
            proxy.slow(Duration::from_millis(if let Self::Far(ms) = self { ms } else { 0 }));
        }
    }
}

/// What was measured while the database was so.
struct Measured {
    database: Database,
    unnamed: Times,
    named: Times,
    released: Times,
    bare: Times,
}

pub async fn run(report: &mut Report) {
    let (server, file) = (warm_host(Kind::Mariadb).await, warm_host(Kind::Sqlite).await);
    let mut all: Vec<Measured> =
        [Database::Far(0), Database::Far(5), Database::Far(50), Database::Away, Database::File]
            .map(Measured::none)
            .into();
    // In turn, so that a machine whose speed drifts favours none; the first round only warms up.
    for round in 0..=ROUNDS {
        for one in &mut all {
            let bed = if matches!(one.database, Database::File) { &file } else { &server };
            let measured = bed.round(one.database, round).await;
            if round > 0 {
                one.add(measured);
            }
        }
    }
    for one in &all {
        one.tell(report);
    }
    server.behind_slow_ec2(report).await;
    server.protocol(report).await;
}

impl Measured {
    fn none(database: Database) -> Self {
        let [unnamed, named, released, bare] = std::array::from_fn(|_| Times::default());
        Self { database, unnamed, named, released, bare }
    }

    fn add(&mut self, round: Self) {
        self.unnamed.join(round.unnamed);
        self.named.join(round.named);
        self.released.join(round.released);
        self.bare.join(round.bare);
    }

    fn tell(&self, report: &mut Report) {
        for (what, times) in [
            ("RequestAddress, warm, container named", &self.named),
            ("RequestAddress, warm", &self.unnamed),
            ("ReleaseAddress", &self.released),
        ] {
            report.add(
                &format!("{what}, {}", self.database.text()),
                times.text(),
                format!(
                    "bare commit, fsynced: {}; {:.2} times, p99 {:.2} times",
                    self.bare.text(),
                    times.median() / self.bare.median(),
                    times.at(0.99) / self.bare.at(0.99)
                ),
                "p50 at most 1.3 times, whatever the database",
                json!({ "times": times.json(), "bare": self.bare.json() }),
            );
        }
    }
}

/// A host of its own fleet whose ENI holds enough idle addresses for a round; and a file beside its journal.
struct Bed {
    host: Host,
    pool: String,
    bare: Connection,
}

async fn warm_host(kind: Kind) -> Bed {
    let fleet = Fleet::with(kind, "10.77.0.0/24", Switches::default()).await;
    let mut host = fleet.host_of(1, "m5.24xlarge");
    host.set(&[("EC2_IPAM_WARM_TARGET", "44"), ("EC2_IPAM_WARM_MAX", "49"), ("EC2_IPAM_COOLDOWN", "1s")]);
    host.set(&[("EC2_IPAM_LOG", "info")]);
    host.start().await;
    let pool = host.pool().await;
    let first = host.lease(&pool).await;
    host.release(&pool, first).await;
    eventually("the interface is warm", async || host.mine(State::Ready).await.len() >= 44).await;
    sleep(COOLED).await;
    let bare = Connection::open(host.dir.path().join("bare.db")).unwrap();
    bare.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE bare (id INTEGER PRIMARY KEY, n INT);
         INSERT INTO bare VALUES (1, 0)",
    )
    .unwrap();
    Bed { host, pool, bare }
}

impl Bed {
    /// Unnamed, as Engines before 29 ask, and named, as from 29 on, in turn.
    async fn round(&self, database: Database, round: usize) -> Measured {
        database.set(&self.host);
        let mut measured = Measured::none(database);
        let mut wire = self.host.connect().await;
        let mut given = Vec::new();
        for n in 0..ROUND {
            let name = format!("container-{round}-{n}");
            let is_named = n % 2 == 1;
            let (time, ip) = self.ask(&mut wire, is_named.then_some(name.as_str())).await;
            (if is_named { &mut measured.named } else { &mut measured.unnamed }).push(time);
            given.push(ip);
            measured.bare.push(self.commit().await);
        }
        for ip in given {
            measured.released.push(self.let_go(&mut wire, ip).await);
            measured.bare.push(self.commit().await);
        }
        Database::Far(0).set(&self.host);
        sleep(COOLED).await;
        measured
    }

    async fn commit(&self) -> Duration {
        timed(async { self.bare.execute_batch("UPDATE bare SET n=n+1 WHERE id=1").unwrap() }).await.0
    }

    async fn ask(&self, wire: &mut Wire<'_>, name: Option<&str>) -> (Duration, Ipv4Addr) {
        let options = name.map_or(json!(null), |name| json!({ "com.docker.network.endpoint.name": name }));
        let body = json!({ "PoolID": self.pool, "Address": "", "Options": options });
        let call = request("/IpamDriver.RequestAddress", &format!("{body}\n"));
        let (time, answer) = timed(async {
            wire.send(&call).await;
            wire.answer().await.expect("an answer")
        })
        .await;
        let json = answer.outcome().unwrap();
        (time, json["Address"].as_str().unwrap().parse::<ipnet::Ipv4Net>().unwrap().addr())
    }

    async fn let_go(&self, wire: &mut Wire<'_>, ip: Ipv4Addr) -> Duration {
        let body = json!({ "PoolID": self.pool, "Address": ip });
        let call = request("/IpamDriver.ReleaseAddress", &body.to_string());
        let (time, answer) = timed(async {
            wire.send(&call).await;
            wire.answer().await.expect("an answer")
        })
        .await;
        answer.outcome().unwrap();
        time
    }

    async fn behind_slow_ec2(&self, report: &mut Report) {
        self.host.vpc.latency(Duration::from_millis(200));
        let mut times = Times::default();
        let mut wire = self.host.connect().await;
        for _ in 0..10 {
            let mut given = Vec::new();
            for _ in 0..10 {
                let (time, ip) = self.ask(&mut wire, None).await;
                times.push(time);
                given.push(ip);
            }
            for ip in given {
                self.let_go(&mut wire, ip).await;
            }
            sleep(COOLED).await;
        }
        self.host.vpc.latency(Duration::ZERO);
        report.add(
            "10 addresses one after the other, warm, EC2 at 200 ms",
            times.text(),
            "the original, measured earlier: p50 1021 ms".into(),
            "p50 under 3 ms",
            times.json(),
        );
    }

    async fn protocol(&self, report: &mut Report) {
        let mut times = Times::default();
        let mut wire = self.host.connect().await;
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
}
