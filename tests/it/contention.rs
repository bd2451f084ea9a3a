//! Many hosts at one table: no address twice, none left over, no conflict that a user hears of, and nobody waits for
//! another host's EC2.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ec2_ipam::domain::address::State;
use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use vpc_sim::{Fault, FaultKind, Outcome, Switches};

use crate::support::host::{ASSIGN, Fleet, Host, Kind, RDS, agree, eni, eventually, ip};
use crate::support::mariadb::Db;

/// Longer than anything that is waited for.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// So many hosts with a pool each, on one table.
async fn hosts(fleet: &Fleet, count: u8, settings: &[(&str, &str)]) -> Vec<(Host, String)> {
    let start = async |n| {
        let mut host = fleet.host(n);
        host.set(&[("EC2_IPAM_COOLDOWN", "0s"), ("EC2_IPAM_REQUEST_TIMEOUT", "29s")]);
        host.set(settings);
        host.start().await;
        let pool = host.pool().await;
        (host, pool)
    };
    // The first one fills the table.
    let first = start(1).await;
    let others = join_all((2..=count).map(start)).await;
    std::iter::once(first).chain(others).collect()
}

async fn all_agree(hosts: &[(Host, String)]) {
    agree(&hosts.iter().map(|(host, _)| host).collect::<Vec<_>>()).await;
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    if let (Some(first), Some(last)) = (times.first(), times.last()) {
        let median = times[times.len() / 2];
        println!(
            "{what}: {} answers, {first:.1?} at best, {median:.1?} in the middle, {last:.1?} at worst",
            times.len()
        );
    }
}

#[tokio::test]
async fn thirty_two_hosts_ask_at_once_for_more_addresses_than_there_are() {
    const HOSTS: u8 = 32;
    const EACH: usize = 3;
    let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/25", Switches::default()).await;
    // Of 128: AWS's five, 32 primary addresses, eleven of a database's and ten that an operator keeps leave 70.
    fleet.vpc.take(RDS, ip(40));
    (41..=50).for_each(|last| fleet.vpc.add_address(RDS, ip(last)));
    let hosts = hosts(&fleet, HOSTS, &[]).await;
    for last in 60..70 {
        hosts[0].0.tell(&["reserve", &ip(last).to_string()]).await;
    }
    let rows = hosts[0].0.rows().await;
    let free: BTreeSet<Ipv4Addr> = rows.iter().filter(|row| row.state == State::Free).map(|row| row.ip).collect();
    assert_eq!(free.len(), 70);

    let begun = Instant::now();
    let ask = async |(host, pool): &(Host, String)| {
        let one = async |_| (host.request(pool, "").await, begun.elapsed());
        join_all((0..EACH).map(one)).await
    };
    let answers = join_all(hosts.iter().map(ask)).await;
    let (mut given, mut refused, mut times) = (BTreeMap::new(), 0, Vec::new());
    for ((host, _), answers) in hosts.iter().zip(answers) {
        for (answer, time) in answers {
            times.push(time);
            match answer {
                Ok(ip) => {
                    let other = given.insert(ip, &host.eni);
                    assert_eq!(other, None, "I1: {ip} was given on {} too", host.eni);
                }
                Err(why) => {
                    assert!(why.contains("has no free address"), "a conflict reached a user: {why}");
                    refused += 1;
                }
            }
        }
    }
    report("96 requests of 32 hosts for 70 addresses, one Assign or two a host", times);
    assert_eq!(given.keys().copied().collect::<BTreeSet<_>>(), free, "every free address was given, and no other");
    assert_eq!(refused, usize::from(HOSTS) * EACH - free.len());
    all_agree(&hosts).await;
    for row in hosts[0].0.rows().await.iter().filter(|row| free.contains(&row.ip)) {
        assert_eq!((row.state, row.iface.as_ref()), (State::Lease, given.get(&row.ip).copied()), "{}", row.ip);
    }
    let log: String = hosts.iter().map(|(host, _)| host.log()).collect();
    for word in ["panicked", "Deadlock", "(1213)"] {
        assert!(!log.contains(word), "{word}");
    }
}

/// What the sessions of a database hold at this moment: open transactions, and whether any of its rows is locked.
async fn held(db: &Db) -> (u64, bool) {
    let mut session = db.session().await;
    let open = "SELECT count(*) FROM information_schema.innodb_trx t \
                JOIN information_schema.processlist p ON p.id=t.trx_mysql_thread_id WHERE p.db=DATABASE()";
    // The view is refreshed every tenth of a second, when somebody reads it.
    session.query_drop(open).await.unwrap();
    session.query_drop("DO SLEEP(0.2)").await.unwrap();
    let open = session.query_first(open).await.unwrap().unwrap();
    session.query_drop("START TRANSACTION").await.unwrap();
    let locked = session.query_drop("SELECT ip FROM allocation FOR UPDATE NOWAIT").await.is_err();
    session.query_drop("ROLLBACK").await.unwrap();
    session.disconnect().await.unwrap();
    (open, locked)
}

#[tokio::test]
async fn no_host_waits_for_another_hosts_ec2_and_nothing_is_held_while_ec2_works() {
    const STUCK: usize = 8;
    let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/25", Switches::default()).await;
    let hosts = hosts(&fleet, 24, &[]).await;
    let (stuck, others) = hosts.split_at(STUCK);
    for n in 1..=STUCK {
        let hang = Fault::on(ASSIGN, FaultKind::Hang(FOR_EVER)).eni(&eni(n.try_into().unwrap()));
        fleet.vpc.fail(hang.times(u32::MAX));
    }
    let unanswered = |host: &Host| {
        let of_host = fleet.vpc.calls().into_iter().filter(|call| call.eni.as_ref() == Some(&host.eni));
        let outcomes: Vec<Outcome> = of_host.filter(|call| call.action == ASSIGN).map(|call| call.outcome).collect();
        let silent = |outcome: &Outcome| matches!(outcome, Outcome::Hung | Outcome::Pending);
        assert!(outcomes.iter().all(silent), "EC2 answers no Assign of {}", host.eni);
        outcomes.len()
    };
    let waiting = join_all(stuck.iter().map(|(host, pool)| host.request(pool, "")));
    let meanwhile = async {
        eventually("each has an Assign in flight", async || stuck.iter().all(|(host, _)| unanswered(host) > 0)).await;
        let calls = || stuck.iter().map(|(host, _)| unanswered(host)).collect::<Vec<_>>();
        let db = fleet.db.as_ref().unwrap();
        // The driver gives an attempt up after a while and makes another: a look that fell into one attempt is meant.
        eventually("the same calls are in flight before and after a look", async || {
            let before = calls();
            let held = held(db).await;
            let same = calls() == before;
            assert!(!same || held == (0, false), "I4: {held:?}: open transactions, and whether a row is locked");
            same
        })
        .await;
        // What is asked for here can be seen: a transaction of our own with one row.
        let mut session = db.session().await;
        session.query_drop("START TRANSACTION").await.unwrap();
        session.query_drop("SELECT ip FROM allocation WHERE ip='10.77.0.127' FOR UPDATE").await.unwrap();
        assert_eq!(held(db).await, (1, true));
        session.disconnect().await.unwrap();

        // Nor is a connection needed: all are cut.
        for (host, _) in stuck {
            host.proxy.as_ref().unwrap().cut();
        }
        let begun = Instant::now();
        let ask = async |(host, pool): &(Host, String)| {
            let one = async |_| (host.lease(pool).await, begun.elapsed());
            join_all((0..3).map(one)).await
        };
        let given: Vec<_> = join_all(others.iter().map(ask)).await.into_iter().flatten().collect();
        // The order proves it, not the time: they have finished, and the stuck ones have not begun to.
        for (host, _) in stuck {
            unanswered(host);
            assert_eq!(host.mine(State::On).await.len(), 1, "its claim stands as long as EC2 says nothing");
            assert_eq!(host.mine(State::Lease).await.len(), 0);
        }
        let ips: BTreeSet<Ipv4Addr> = given.iter().map(|(ip, _)| *ip).collect();
        assert_eq!(ips.len(), others.len() * 3, "I1: no address twice");
        report(
            "48 requests of 16 hosts, beside 8 hosts whose Assign hangs",
            given.into_iter().map(|(_, t)| t).collect(),
        );
        // EC2 is itself again.
        fleet.vpc.forget_faults();
    };
    // Those who were stuck are given theirs, or have been told that EC2 does not answer.
    let (answers, ()) = tokio::join!(waiting, meanwhile);
    for why in answers.into_iter().filter_map(Result::err) {
        assert!(why.contains("EC2"), "{why}");
    }
    all_agree(&hosts).await;
}

#[tokio::test]
async fn eight_hosts_request_and_release_for_many_rounds() {
    const ROUNDS: usize = 10;
    const CONTAINERS: usize = 2;
    // 19 are free. Each container that ends is followed by one that is there before it has gone: up to 32 are asked for.
    let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/27", Switches::default()).await;
    let hosts = hosts(&fleet, 8, &[("EC2_IPAM_WARM_TARGET", "2")]).await;
    // What each host was given and has not begun to release.
    let in_use: Mutex<BTreeMap<Ipv4Addr, String>> = Mutex::default();
    let times: Mutex<Vec<Duration>> = Mutex::default();
    let end = async |host: &Host, pool: &str, ip: Ipv4Addr| {
        in_use.lock().unwrap().remove(&ip);
        host.release(pool, ip).await;
    };
    let container = async |host: &Host, pool: &str| {
        let (mut given, mut refused, mut before) = (0, 0, None);
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let answer = host.request(pool, "").await;
            times.lock().unwrap().push(begun.elapsed());
            match &answer {
                Ok(ip) => {
                    let other = in_use.lock().unwrap().insert(*ip, host.eni.clone());
                    assert_eq!(other, None, "I1: {ip} was given on {} while it is in use", host.eni);
                    given += 1;
                }
                Err(why) => {
                    assert!(why.contains("has no free address"), "a conflict reached a user: {why}");
                    refused += 1;
                }
            }
            if let Some(ip) = std::mem::replace(&mut before, answer.ok()) {
                end(host, pool, ip).await;
            }
        }
        if let Some(ip) = before {
            end(host, pool, ip).await;
        }
        (given, refused)
    };
    let each = async |(host, pool): &(Host, String)| join_all((0..CONTAINERS).map(|_| container(host, pool))).await;
    let counts: Vec<(usize, usize)> = join_all(hosts.iter().map(each)).await.into_iter().flatten().collect();
    let (given, refused) = counts.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    report(
        &format!("8 hosts, {ROUNDS} rounds of {CONTAINERS} containers, {refused} refused"),
        times.into_inner().unwrap(),
    );
    assert!(given >= 19, "{given}: the addresses that there are were used");
    all_agree(&hosts).await;
    for (host, _) in &hosts {
        assert_eq!(host.mine(State::Lease).await, BTreeSet::new(), "I8: all were released");
    }
}
