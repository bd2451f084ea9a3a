//! Whose an idle or a reserved address is: of those that cool, and of those that an operator keeps for somebody.

use std::collections::BTreeSet;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use vpc_sim::Switches;

use crate::support::host::{Fleet, Host, Kind, agree, eventually, ip, on_both};
use crate::support::proxy::Fate;

on_both! {
    an_address_that_a_container_named_is_the_last_that_another_one_gets
    of_those_let_go_together_none_comes_first_by_its_number
    what_is_reserved_for_a_name_is_its_own_and_stays_reserved
    what_is_reserved_for_a_name_is_its_own_while_it_leaves
    what_is_reserved_makes_room_and_is_given_to_nobody_else
    an_elastic_ip_on_an_idle_address_is_told
}

/// Before Engine 29 nothing but the address says whose it is.
async fn an_address_that_a_container_named_is_the_last_that_another_one_gets(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let mut host = fleet.host_of(1, "t3.small");
    host.start().await;
    let pool = host.pool().await;
    let fixed = host.request(&pool, "10.77.0.10").await.unwrap();
    let others = BTreeSet::from([host.lease(&pool).await, host.lease(&pool).await]);
    for ip in [fixed].iter().chain(&others) {
        host.release(&pool, *ip).await;
    }
    eventually("all are released", async || host.mine(State::Lease).await.is_empty()).await;
    // Colder than the others, which by itself would make it the first.
    let older = |earlier: &str| format!("UPDATE allocation SET ts={earlier} WHERE ip='{fixed}'");
    host.sql(&older("ts-INTERVAL 60 SECOND"), &older("ts-60")).await;
    host.restart().await;
    let given = BTreeSet::from([host.lease(&pool).await, host.lease(&pool).await]);
    assert_eq!(given, others, "neither of them has {fixed}");
    assert_eq!(host.request(&pool, "10.77.0.10").await, Ok(fixed));
    // It is the last one, not lost: its own container may never come back.
    host.release(&pool, fixed).await;
    assert_eq!(host.lease(&pool).await, fixed);
    agree(&[&host]).await;
}

async fn of_those_let_go_together_none_comes_first_by_its_number(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, pool) = fleet.started(1, &[]).await;
    let mut given = Vec::new();
    for _ in 0..9 {
        given.push(host.lease(&pool).await);
    }
    let mut first = BTreeSet::new();
    for _ in 0..8 {
        for ip in given.drain(..) {
            host.release(&pool, ip).await;
        }
        eventually("all are released", async || host.mine(State::Lease).await.is_empty()).await;
        let together = |now: &str| format!("UPDATE allocation SET ts={now} WHERE status='ready'");
        host.sql(&together("NOW()"), &together("unixepoch()")).await;
        let ip = host.lease(&pool).await;
        first.insert(ip);
        given.push(ip);
    }
    assert!(first.len() > 1, "always {first:?} of nine");
}

async fn what_is_reserved_for_a_name_is_its_own_and_stays_reserved(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (mut host, pool) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "0s")]).await;
    host.lease_for(&pool, "db").await;
    host.tell(&["reserve", "10.77.0.60", "web"]).await;
    host.tell(&["reserve", "10.77.0.61"]).await;
    let is_reserved = async |host: &Host, name: &str| {
        eventually("it is reserved again", async || {
            let row = host.row(ip(60)).await;
            row.state == State::Reserved && row.holder.as_deref() == Some(name) && row.iface.is_none()
        })
        .await;
        eventually("it has left the interface", async || !host.assigned().contains(&ip(60))).await;
    };
    for _ in 0..2 {
        assert_ne!(host.lease_for(&pool, "worker").await, ip(60));
        assert_eq!(host.lease_for(&pool, "web").await, ip(60), "its own container gets it");
        let listed = host.tell(&["list"]).await;
        let line = listed.lines().find(|line| line.starts_with("10.77.0.60 ")).unwrap();
        assert!(line.contains("lease") && line.ends_with("web (reserved)"), "{line}");
        assert_ne!(host.lease_for(&pool, "web").await, ip(60), "another one of that name");
        host.release(&pool, ip(60)).await;
        is_reserved(&host, "web").await;
    }
    // Before Engine 29 only the address says whose it is.
    assert_eq!(host.request(&pool, "10.77.0.60").await, Ok(ip(60)));
    let refused = host.request(&pool, "10.77.0.60").await.unwrap_err();
    assert!(refused.contains("a container (web) on"), "{refused}");
    host.restart().await;
    host.release(&pool, ip(60)).await;
    is_reserved(&host, "web").await;
    let refused = host.request(&pool, "10.77.0.61").await.unwrap_err();
    assert!(refused.contains("it is reserved for nobody"), "{refused}");
    // Let go while it is in use.
    assert_eq!(host.lease_for(&pool, "web").await, ip(60));
    assert_eq!(host.tell(&["unreserve", "10.77.0.60"]).await, "10.77.0.60 may be given out again\n");
    assert_eq!(host.row(ip(60)).await.state, State::Lease);
    host.release(&pool, ip(60)).await;
    eventually("it is free", async || host.row(ip(60)).await.state == State::Free).await;
    agree(&[&host]).await;
}

/// A container that starts again while the interface gives its address back.
async fn what_is_reserved_for_a_name_is_its_own_while_it_leaves(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "0s")]).await;
    host.tell(&["reserve", "10.77.0.60", "web"]).await;
    assert_eq!(host.lease_for(&pool, "web").await, ip(60));
    fleet.vpc.latency(Duration::from_secs(2));
    host.release(&pool, ip(60)).await;
    let is_leaving = async || host.rows_now().await.iter().any(|row| row.ip == ip(60) && row.state == State::Off);
    eventually("it leaves", is_leaving).await;
    assert_eq!(host.lease_for(&pool, "web").await, ip(60));
    agree(&[&host]).await;
}

/// By another host, between the reading of its row and the writing of whose it is.
#[tokio::test]
async fn what_is_unreserved_while_its_row_is_written_is_nobodys_afterwards() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "0s")]).await;
    let (other, _) = fleet.started(2, &[]).await;
    host.tell(&["reserve", "10.77.0.60", "web"]).await;
    let proxy = host.proxy.as_ref().unwrap();
    proxy.next("status='occupied'", Fate::Late);
    assert_eq!(host.lease_for(&pool, "web").await, ip(60));
    eventually("its row is on the way", async || proxy.met()).await;
    assert_eq!(other.tell(&["unreserve", "10.77.0.60"]).await, "10.77.0.60 may be given out again\n");
    eventually("it is written", async || host.row(ip(60)).await.state == State::Lease).await;
    host.release(&pool, ip(60)).await;
    eventually("it is free", async || host.row(ip(60)).await.state == State::Free).await;
    agree(&[&host, &other]).await;
}

async fn an_elastic_ip_on_an_idle_address_is_told(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (mut host, pool) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "0s")]).await;
    let ip = host.lease(&pool).await;
    host.release(&pool, ip).await;
    eventually("it is idle", async || host.mine(State::Ready).await == [ip].into()).await;
    fleet.vpc.associate(&host.eni, ip, "203.0.113.7".parse().unwrap());
    // The first look shows it, and each thorough one after.
    host.restart().await;
    eventually("the first look", async || host.log().matches("serving eni-").count() == 2).await;
    assert_eq!(host.lease(&pool).await, ip);
    let told = format!("WARN the Elastic IP 203.0.113.7 is on {ip}");
    assert!(host.log().contains(&told), "{}", host.log());
    let listed = host.tell(&["list"]).await;
    let line = listed.lines().find(|line| line.starts_with(&format!("{ip} "))).unwrap();
    assert!(line.ends_with("(Elastic IP 203.0.113.7)"), "{line}");
}

/// What stopped the task is over when it goes on, though EC2 has not been asked since.
#[tokio::test]
async fn the_last_error_is_over_with_what_it_was_about() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_REQUEST_TIMEOUT", "4s")]).await;
    let proxy = host.proxy.as_ref().unwrap();
    let ip = host.lease(&pool).await;
    let last_error = async || {
        let (_, status): (bool, serde_json::Value) = host.ask_json(&["status"]).await;
        status["enis"][0]["last_error"].as_str().map(str::to_owned)
    };
    proxy.away(true);
    host.release(&pool, ip).await;
    eventually("the task misses the database", async || {
        last_error().await.is_some_and(|why| why.contains("the database"))
    })
    .await;
    proxy.away(false);
    eventually("it is there again", async || last_error().await.is_none()).await;
}

async fn what_is_reserved_makes_room_and_is_given_to_nobody_else(kind: Kind) {
    let fleet = Fleet::with(kind, "10.77.0.0/28", Switches::default()).await;
    let (host, pool) = fleet.started(1, &[]).await;
    host.tell(&["reserve", "10.77.0.9", "web"]).await;
    assert_eq!(host.lease_for(&pool, "web").await, ip(9));
    host.release(&pool, ip(9)).await;
    eventually("it cools", async || host.mine(State::Ready).await == [ip(9)].into()).await;
    assert_eq!(host.lease_for(&pool, "web").await, ip(9), "it cools for others only");
    host.release(&pool, ip(9)).await;
    // The interface has room for nine beside its primary address; the subnet has nine others.
    for _ in 0..9 {
        assert_ne!(host.lease(&pool).await, ip(9), "I7");
    }
    let row = host.row(ip(9)).await;
    assert_eq!((row.state, row.holder.as_deref()), (State::Reserved, Some("web")));
    host.request(&pool, "").await.unwrap_err();
    agree(&[&host]).await;
}
