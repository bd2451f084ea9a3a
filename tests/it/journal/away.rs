//! The database, EC2 and IMDS away: containers start and stop all the same, and the table follows when it can.

use std::collections::BTreeSet;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use serde_json::Value;
use vpc_sim::{Fault, FaultKind, ImdsMode};

use super::{TABLE, follows, status, warm, watched};
use crate::support::host::{ASSIGN, Fleet, Host, Kind, SUBNET, UNASSIGN, agree, eventually};

/// How a database is away.
#[derive(Clone, Copy, Debug)]
enum Away {
    /// It hangs up on whoever is connected, and on whoever comes.
    Refuses,
    /// Nothing passes, and nobody hangs up.
    Hangs,
    /// What was connected is a black hole.
    Forgets,
    /// A proxy without a server behind it.
    Errs,
}

impl Away {
    const ALL: [Self; 4] = [Self::Refuses, Self::Hangs, Self::Forgets, Self::Errs];

    fn turn(self, host: &Host, is_away: bool) {
        let proxy = host.proxy.as_ref().unwrap();
        match self {
            Self::Refuses => proxy.away(is_away),
            Self::Hangs => proxy.stall(is_away),
            Self::Forgets if is_away => proxy.forget(),
            Self::Forgets => {}
            Self::Errs => proxy.errs(if is_away { 1045 } else { 0 }),
        }
    }
}

#[tokio::test]
async fn a_start_and_a_stop_need_nothing_outside_the_host() {
    for away in Away::ALL {
        let fleet = Fleet::new(Kind::Mariadb).await;
        let (host, pool, idle) = warm(&fleet, &[], 4).await;
        away.turn(&host, true);
        fleet.vpc.ec2_down(true);
        fleet.vpc.imds_mode(ImdsMode::Hang);
        let mut leased = BTreeSet::new();
        for _ in 0..4 {
            assert!(leased.insert(host.lease(&pool).await), "I1, {away:?}");
        }
        assert_eq!(leased, idle, "{away:?}");
        // One comes to another container, without EC2.
        let stopped = *leased.first().unwrap();
        host.release(&pool, stopped).await;
        assert_eq!(host.lease(&pool).await, stopped, "{away:?}");
        let named = *leased.last().unwrap();
        host.release(&pool, named).await;
        assert_eq!(host.request(&pool, &named.to_string()).await, Ok(named), "{away:?}");
        if !matches!(away, Away::Forgets) {
            let journal = status(&host).await.journal;
            assert!((1..=4).contains(&journal.unposted) && journal.unposted_seconds.is_some(), "{away:?}: {journal:?}");
            let text = host.ask(&["status"]).await.1;
            assert!(text.contains("not in the table yet"), "{away:?}: {text}");
        }
        fleet.vpc.imds_mode(ImdsMode::Up);
        fleet.vpc.ec2_down(false);
        away.turn(&host, false);
        follows(&host, &leased).await;
        eventually("nothing is left to post", async || {
            let (_, told): (bool, Value) = host.ask_json(&["status"]).await;
            told["journal"]["unposted"] == 0 && told["journal"]["unposted_seconds"].is_null()
        })
        .await;
        agree(&[&host]).await;
    }
}

/// What the table never heard of is known to the next life, and told.
#[tokio::test]
async fn a_crash_while_the_table_is_away_loses_nothing() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, pool, idle) = warm(&fleet, &[], 4).await;
    let kept = host.lease(&pool).await;
    follows(&host, &[kept].into()).await;
    let proxy = host.proxy.as_ref().unwrap();
    proxy.away(true);
    let (first, second) = (host.lease(&pool).await, host.lease(&pool).await);
    // Known to the table as leased, and idle by the journal.
    host.release(&pool, kept).await;
    host.restart().await;
    let third = host.lease(&pool).await;
    assert!(![first, second].contains(&third) && idle.contains(&third), "I1: {third}");
    host.restart().await;
    let fourth = host.lease(&pool).await;
    assert_eq!(BTreeSet::from([first, second, third, fourth]), idle, "I1");
    assert!(host.rows_now().await.iter().all(|row| row.ip == kept || row.state != State::Lease), "the table was away");
    host.proxy.as_ref().unwrap().away(false);
    follows(&host, &idle).await;
    agree(&[&host]).await;
}

/// A failover that loses what was committed, again and again: nothing happens to a container.
#[tokio::test]
async fn a_database_that_forgets_is_told_again() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, docker, pool) = watched(&fleet, &[], 4).await;
    let idle = host.mine(State::Ready).await;
    let kept = host.lease(&pool).await;
    follows(&host, &[kept].into()).await;
    for statement in TABLE {
        host.sql(statement, "").await;
    }
    let stays = host.lease(&pool).await;
    docker.runs(&[stays]);
    host.release(&pool, kept).await;
    follows(&host, &[stays].into()).await;
    for is_killed in [false, true] {
        let proxy = host.proxy.as_ref().unwrap();
        proxy.away(true);
        host.sql("DELETE FROM allocation", "").await;
        host.sql("INSERT INTO allocation SELECT * FROM older", "").await;
        proxy.away(false);
        if is_killed {
            host.restart().await;
        }
        follows(&host, &[stays].into()).await;
        assert!(host.assigned().is_superset(&idle), "I2");
        agree(&[&host]).await;
    }
    eventually("nothing is in doubt", async || status(&host).await.journal.in_doubt == 0).await;
    let mut given = BTreeSet::from([stays]);
    for _ in 0..3 {
        assert!(given.insert(host.lease(&pool).await), "I1");
    }
    assert_eq!(given, idle);
}

/// An address that EC2 has put on the ENI for a container is the container's, though the table cannot be told so just then.
#[tokio::test]
async fn a_database_that_goes_away_after_the_claim_keeps_no_container_waiting() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, pool) = fleet.started(1, &[]).await;
    fleet.vpc.latency_of(ASSIGN, Duration::from_secs(1));
    let asked = async {
        eventually("EC2 is asked", async || fleet.vpc.count(ASSIGN) == 1).await;
        host.proxy.as_ref().unwrap().away(true);
    };
    let (given, ()) = tokio::join!(host.request(&pool, ""), asked);
    let given = given.unwrap();
    assert!(host.assigned().contains(&given), "I2");
    assert_eq!(host.row(given).await.state, State::On, "the table does not know yet");
    host.restart().await;
    assert!(host.request(&pool, &given.to_string()).await.unwrap_err().contains("a container"), "I1");
    host.proxy.as_ref().unwrap().away(false);
    follows(&host, &[given].into()).await;
    agree(&[&host]).await;
}

/// Whatever the table says of it: the Unassign that was sent may take it from whoever has it by then.
#[tokio::test]
async fn what_may_still_leave_is_not_claimed_though_the_database_forgot_that_it_leaves() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let settle = [("EC2_IPAM_SETTLE_AGE", "12s"), ("EC2_IPAM_REQUEST_TIMEOUT", "3s")];
    let (host, pool, idle) = warm(&fleet, &settle, 1).await;
    let ip = *idle.first().unwrap();
    fleet.vpc.fail(Fault::on(UNASSIGN, FaultKind::LandLate(Duration::from_secs(6))));
    host.ask(&["recycle", SUBNET]).await;
    let free = "status='free',iface=NULL,claim=NULL,claimed=NULL";
    host.sql(&format!("UPDATE allocation SET {free} WHERE ip='{ip}'"), "").await;
    host.sql(&format!("UPDATE allocation SET status='reserved' WHERE status='free' AND ip<>'{ip}'"), "").await;
    let any = host.request(&pool, "").await;
    assert!(any.is_err() && host.assigned().contains(&ip), "it has not left yet, and was given: {any:?}");
    let named = host.request(&pool, &ip.to_string()).await;
    assert!(named.is_err(), "{named:?}");
    eventually("it has left", async || !host.assigned().contains(&ip)).await;
    eventually("it may be had again", async || host.request(&pool, "").await == Ok(ip)).await;
    agree(&[&host]).await;
}

/// I10: while it is away nothing else is to be had, in whatever way it is, and whenever the driver's life began.
#[tokio::test]
async fn what_cools_is_given_because_the_table_is_away_and_not_because_the_time_is_up() {
    for (away, is_new_life) in
        [(Away::Refuses, false), (Away::Refuses, true), (Away::Hangs, false), (Away::Hangs, true)]
    {
        let fleet = Fleet::new(Kind::Mariadb).await;
        let settings = [("EC2_IPAM_COOLDOWN", "1h"), ("EC2_IPAM_WARM_TARGET", "0")];
        let (mut host, pool) = fleet.started(1, &settings).await;
        let ip = host.lease(&pool).await;
        host.release(&pool, ip).await;
        eventually("it cools", async || host.mine(State::Ready).await == [ip].into()).await;
        if is_new_life {
            host.kill();
        }
        away.turn(&host, true);
        if is_new_life {
            host.start().await;
        }
        assert_eq!(host.lease(&pool).await, ip, "{away:?}, new life: {is_new_life}");
        let told = "granted an address before its cool-down is over: the database";
        assert!(host.log().contains(told), "{away:?}, new life: {is_new_life}: {}", host.log());
        away.turn(&host, false);
    }
}

/// A boot: IMDS takes seconds for each answer, and the table gives none.
#[tokio::test]
async fn a_slow_metadata_service_is_waited_for_where_its_list_is_needed() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, pool, idle) = warm(&fleet, &[("EC2_IPAM_COOLDOWN", "0s")], 2).await;
    host.reboot();
    host.proxy.as_ref().unwrap().away(true);
    fleet.vpc.imds_latency(Duration::from_millis(1100));
    host.start().await;
    // Which interfaces there are takes several answers, maybe longer than one start may take.
    eventually("the journal and IMDS are enough", async || {
        host.request(&pool, "").await.is_ok_and(|ip| idle.contains(&ip))
    })
    .await;
    host.proxy.as_ref().unwrap().away(false);
}
