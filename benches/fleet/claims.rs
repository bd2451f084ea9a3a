//! Free rows claimed from the table that a fleet shares, by the driver's own store.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ec2_ipam::domain::address::{NewRow, Status};
use ec2_ipam::domain::id::{Boot, EniId, Kind, SubnetId};
use ec2_ipam::store::{Database, FreeClaim, Store, StoreError};
use futures_util::future::join_all;
use serde_json::json;

use super::figures::{Report, Times, ms, quantile, timed};
use super::plot::{self, Line};
use crate::support::mariadb::Db;

mod blocks;

pub async fn run(report: &mut Report) {
    against_size(report).await;
    against_hosts(report).await;
    blocks::run(report).await;
}

/// A table with so many free rows in one subnet.
struct Table {
    db: Db,
    boot: Boot,
    claims: u64,
}

fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(60)
}

fn subnet() -> SubnetId {
    "subnet-0aaaaaaaaaaaaaaa1".parse().unwrap()
}

fn eni(n: usize) -> EniId {
    format!("eni-0aaaaaaaaaaaa{n:04x}").parse().unwrap()
}

async fn open(db: &Db) -> Store {
    Store::open(&db.url_here().parse::<Database>().unwrap(), soon()).await.unwrap()
}

impl Table {
    async fn with(rows: u32) -> (Self, Store) {
        Self::on(Db::new().await, rows).await
    }

    async fn on(db: Db, rows: u32) -> (Self, Store) {
        let store = open(&db).await;
        let row = |n| NewRow {
            in_block: false,
            ip: Ipv4Addr::from(0x0a00_0000 + n),
            status: Status::Free,
            iface: None,
            primary: false,
            holder: None,
        };
        let rows: Vec<NewRow> = (0..rows).map(row).collect();
        store.insert_missing(&subnet(), &rows, soon()).await.unwrap();
        (Self { db, boot: Boot::random().unwrap(), claims: 0 }, store)
    }

    async fn claim(&mut self, store: &Store) -> Duration {
        self.claims += 1;
        let claim = self.boot.claim(self.claims, Kind::On);
        let (eni, subnet) = (eni(1), subnet());
        let wanted = FreeClaim {
            subnet: &subnet,
            eni: &eni,
            sub_pool: None,
            cooldown: Duration::from_secs(60),
            except: &[],
            count: 1,
            claim: &claim,
        };
        let (time, ips) = timed(store.claim_free(&wanted, soon())).await;
        assert_eq!(ips.unwrap().len(), 1);
        time
    }

    async fn give_back(&self) {
        self.db
            .exec(
                "UPDATE allocation SET status='free',iface=NULL,claim=NULL,claimed=NULL,ts=ts WHERE iface IS NOT NULL",
            )
            .await;
    }
}

async fn against_size(report: &mut Report) {
    const SIZES: [u32; 3] = [250, 1_000, 65_000];
    let mut tables = Vec::new();
    for size in SIZES {
        tables.push((Table::with(size).await, Times::default()));
    }
    for round in 0..6 {
        // In turn, one claim at each.
        for _ in 0..200 {
            for ((table, store), times) in &mut tables {
                let time = table.claim(store).await;
                if round > 0 {
                    times.push(time);
                }
            }
        }
        for ((table, _), _) in &tables {
            table.give_back().await;
        }
    }
    let medians: Vec<f64> = tables.iter().map(|(_, times)| times.median()).collect();
    let text = SIZES
        .iter()
        .zip(&medians)
        .map(|(size, median)| format!("{size}: {}", ms(*median)))
        .collect::<Vec<_>>()
        .join(", ");
    let spread = quantile(&medians, 1.0) / quantile(&medians, 0.0) - 1.0;
    report.add(
        "a claim of one address, by free rows in the table",
        format!("p50 {text}"),
        format!("apart by {:.0} %; the original, measured earlier: 14 to 112 ms", spread * 100.0),
        "flat within 20 %",
        SIZES.iter().zip(&tables).map(|(size, (_, times))| json!({ "rows": size, "times": times.json() })).collect(),
    );
}

async fn against_hosts(report: &mut Report) {
    const SPAN: Duration = Duration::from_secs(4);
    let (table, first) = Table::with(65_000).await;
    drop(first);
    let mut found = Vec::new();
    for hosts in [1_usize, 8, 32, 64] {
        let stores = join_all((0..hosts).map(|_| open(&table.db))).await;
        let (times, errors) = (Mutex::new(Times::default()), Mutex::new(Vec::<StoreError>::new()));
        let (subnet, end) = (subnet(), Instant::now() + SPAN);
        let work = stores.iter().enumerate().map(async |(n, store)| {
            let (eni, boot) = (eni(n), Boot::random().unwrap());
            for number in 0.. {
                if Instant::now() >= end {
                    return;
                }
                let claim = boot.claim(number, Kind::On);
                let wanted = FreeClaim {
                    subnet: &subnet,
                    eni: &eni,
                    sub_pool: None,
                    cooldown: Duration::ZERO,
                    except: &[],
                    count: 1,
                    claim: &claim,
                };
                match timed(store.claim_free(&wanted, soon())).await {
                    (time, Ok(ips)) => {
                        assert_eq!(ips.len(), 1, "a refusal while there are free rows");
                        times.lock().unwrap().push(time);
                    }
                    (_, Err(why)) => errors.lock().unwrap().push(why),
                }
            }
        });
        join_all(work).await;
        table.give_back().await;
        let (times, errors) = (times.into_inner().unwrap(), errors.into_inner().unwrap());
        let rate = times.all().len() as f64 / SPAN.as_secs_f64();
        let refused = errors
            .first()
            .map_or_else(|| "no refusals, no errors".into(), |why| format!("{} errors: {why}", errors.len()));
        report.add(
            &format!("claims by {hosts} hosts at once, as fast as they can"),
            format!("{rate:.0} a second, {}", times.text()),
            refused,
            "more hosts, no less; no refusals",
            json!({ "hosts": hosts, "per_second": rate, "times": times.json(), "errors": errors.len() }),
        );
        found.push((hosts as f64, rate, times));
    }
    let line =
        |of: fn(&Times, f64) -> f64| found.iter().map(|(hosts, rate, times)| (*hosts, of(times, *rate))).collect();
    let throughput = line(|_, rate| rate);
    plot::lines(
        "claims",
        "Claims of free addresses by hosts of a fleet",
        "hosts",
        "a second",
        &[Line { name: "claims", points: throughput }],
    );
    plot::lines(
        "claims-latency",
        "How long a claim takes",
        "hosts",
        "milliseconds",
        &[
            Line { name: "p50", points: line(|times, _| times.median()) },
            Line { name: "p99", points: line(|times, _| times.at(0.99)) },
        ],
    );
}
