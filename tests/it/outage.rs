//! The database is away while containers come and go on sixteen hosts: no start fails, no address is given twice, and once it is
//! back, with its last commits or without, the table says what the hosts say.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ec2_ipam::domain::address::State;
use futures_util::future::join_all;
use vpc_sim::Switches;

use crate::support::galera;
use crate::support::host::{Fleet, Host, Kind, agree, eventually};
use crate::support::mariadb::{self, Db};
use crate::support::proxy::Proxy;

const HOSTS: u8 = 16;
/// As long as a failover of RDS may take.
const AWAY: Duration = Duration::from_secs(90);
/// Containers come and go so long after its return.
const CHURN_AFTER: Duration = Duration::from_secs(3);
/// Containers of a host at most. The warm addresses are more.
const CONTAINERS: usize = 3;

/// Who has which address, and whether anybody may be refused.
#[derive(Default)]
struct World {
    given: Mutex<HashMap<Ipv4Addr, usize>>,
    refused: Mutex<Vec<String>>,
    starts: Mutex<usize>,
    over: AtomicBool,
}

impl World {
    /// Containers come and go until it is over; what the host has then.
    async fn churn(&self, n: usize, host: &Host, pool: &str) -> BTreeSet<Ipv4Addr> {
        let mut held = Vec::new();
        while !self.over.load(Ordering::Relaxed) {
            if held.len() < CONTAINERS && (held.is_empty() || fastrand::bool()) {
                match host.request(pool, "").await {
                    Ok(ip) => {
                        let before = self.given.lock().unwrap().insert(ip, n);
                        assert_eq!(before, None, "I1: {ip} is given to host {n} too");
                        *self.starts.lock().unwrap() += 1;
                        held.push(ip);
                    }
                    Err(why) => self.refused.lock().unwrap().push(why),
                }
            } else {
                let ip = held.swap_remove(fastrand::usize(..held.len()));
                self.given.lock().unwrap().remove(&ip);
                host.release(pool, ip).await;
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(100..500))).await;
        }
        held.into_iter().collect()
    }
}

/// Hosts that share this database, each with more idle addresses than its containers need.
async fn hosts(fleet: &Fleet, ready: impl Fn(&mut Host)) -> Vec<(Host, String)> {
    // Their interfaces are there before anything is claimed.
    let all: Vec<Host> = (1..=HOSTS).map(|n| fleet.host(n)).collect();
    let mut hosts = Vec::new();
    for mut host in all {
        host.set(&[("EC2_IPAM_WARM_TARGET", "5"), ("EC2_IPAM_COOLDOWN", "0s"), ("EC2_IPAM_LOG", "info")]);
        ready(&mut host);
        host.start().await;
        let pool = host.pool().await;
        // The first start is what fills the warm pool.
        let first = host.lease(&pool).await;
        host.release(&pool, first).await;
        hosts.push((host, pool));
    }
    for (host, _) in &hosts {
        eventually("it is warm", async || host.mine(State::Ready).await.len() >= 5).await;
    }
    hosts
}

/// The database goes away, and comes back, while containers come and go.
async fn survives(hosts: &[(Host, String)], leaves: impl AsyncFn(), returns: impl AsyncFn()) {
    let world = Arc::new(World::default());
    let trouble = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        leaves().await;
        let before = *world.starts.lock().unwrap();
        tokio::time::sleep(AWAY).await;
        let during = *world.starts.lock().unwrap() - before;
        returns().await;
        let back = Instant::now();
        tokio::time::sleep(CHURN_AFTER).await;
        world.over.store(true, Ordering::Relaxed);
        (during, back)
    };
    let churn = join_all(hosts.iter().enumerate().map(|(n, (host, pool))| world.churn(n, host, pool)));
    let (held, (during, back)) = tokio::join!(churn, trouble);
    let with_eni = |((host, _), held): (&(Host, String), &BTreeSet<Ipv4Addr>)| {
        held.iter().map(|ip| (*ip, Some(host.eni.clone()))).collect::<Vec<_>>()
    };
    let held: BTreeSet<(Ipv4Addr, Option<String>)> = hosts.iter().zip(&held).flat_map(with_eni).collect();
    eventually("the table says what the hosts say", async || {
        let rows = hosts[0].0.rows_now().await.into_iter().filter(|row| row.state == State::Lease);
        rows.map(|row| (row.ip, row.iface)).collect::<BTreeSet<_>>() == held
    })
    .await;
    println!("{during} starts while it was away; the table was right {:?} after its return", back.elapsed());
    agree(&hosts.iter().map(|(host, _)| host).collect::<Vec<_>>()).await;
    assert_eq!(*world.refused.lock().unwrap(), Vec::<String>::new(), "idle addresses were there");
    assert!(during > 0);
}

async fn on_a_server_of_its_own() -> (&'static mariadb::Mariadb, tokio::sync::MutexGuard<'static, ()>, Fleet) {
    let (server, turn) = mariadb::alone().await;
    let mut fleet = Fleet::with(Kind::Sqlite, "10.77.0.0/24", Switches::default()).await;
    fleet.db = Some(Arc::new(Db::on(&server.server).await));
    (server, turn, fleet)
}

#[tokio::test]
async fn a_database_that_is_killed_fails_no_start() {
    let (server, _turn, fleet) = on_a_server_of_its_own().await;
    let hosts = hosts(&fleet, |_| {}).await;
    let returns = async || {
        server.tell("start");
        let is_up = || server.server.wait("SELECT 'up'", "up", &server.dir);
        std::thread::scope(|scope| scope.spawn(is_up).join().unwrap());
    };
    survives(&hosts, async || server.tell("kill"), returns).await;
}

/// A standby takes over that lacks what was committed last.
#[tokio::test]
async fn a_failover_that_loses_the_last_commits_fails_no_start() {
    let (_server, _turn, fleet) = on_a_server_of_its_own().await;
    let hosts = hosts(&fleet, |_| {}).await;
    let db = fleet.db.clone().unwrap();
    let away = |away| hosts.iter().for_each(|(host, _)| host.proxy.as_ref().unwrap().away(away));
    let leaves = async || {
        db.exec("CREATE TABLE standby AS SELECT * FROM allocation").await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        away(true);
    };
    let returns = async || {
        let lost: Option<u64> = {
            use mysql_async::prelude::Queryable;
            let mut session = db.session().await;
            let count = "SELECT count(*) FROM allocation a JOIN standby s USING(ip) WHERE NOT (a.status<=>s.status AND a.claim<=>s.claim)";
            let lost = session.query_first(count).await.unwrap();
            session.disconnect().await.unwrap();
            lost
        };
        assert!(lost > Some(0), "nothing was lost");
        let columns =
            "a.status=s.status,a.iface=s.iface,a.claim=s.claim,a.claimed=s.claimed,a.holder=s.holder,a.ts=s.ts";
        db.exec(&format!("UPDATE allocation a JOIN standby s USING(ip) SET {columns}")).await;
        away(false);
    };
    survives(&hosts, leaves, returns).await;
}

#[tokio::test]
async fn a_cluster_that_loses_its_quorum_fails_no_start() {
    let Some((cluster, _turn)) = galera::alone().await else { return };
    let mut fleet = Fleet::with(Kind::Sqlite, "10.77.0.0/24", Switches::default()).await;
    fleet.db = Some(Arc::new(cluster.db(0).await));
    let ways = Mutex::new(Vec::new());
    let over_all = |host: &mut Host| {
        let ways_of_host = cluster.ports().map(|port| Proxy::on(host.listener(), port));
        let url = host.db.as_ref().unwrap().url_over(&ways_of_host.each_ref().map(|way| way.port));
        host.set(&[("EC2_IPAM_DATABASE_URL", &url)]);
        ways.lock().unwrap().push(ways_of_host);
    };
    let hosts = hosts(&fleet, over_all).await;
    let leaves = async || [1, 2].into_iter().for_each(|node| cluster.kill(node));
    let returns = async || {
        // What is left of it does not know that the others are gone for good.
        cluster.nodes[0].set("SET GLOBAL wsrep_provider_options='pc.bootstrap=YES'").await;
        for node in [1, 2] {
            cluster.start(node);
        }
    };
    survives(&hosts, leaves, returns).await;
    for node in [1, 2] {
        cluster.whole(node).await;
    }
}
