//! Releases that come while rows are being read, or put right: what Docker has said since outweighs what was read.

use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use futures_util::future::join_all;
use mysql_async::prelude::Queryable;

use crate::support::host::{Fleet, Host, Kind, SUBNET, agree, eventually};
use crate::support::proxy::{Fate, Proxy};

const LOST: &str = "the database lost the lease";

fn proxy(host: &Host) -> &Proxy {
    host.proxy.as_ref().expect("MariaDB is behind one")
}

/// The address is released while the statement that leases it again is under way.
async fn release_meanwhile(host: &Host, pool: &str, ip: Ipv4Addr) {
    eventually("it is put right", async || proxy(host).met()).await;
    host.release(pool, ip).await;
    // Whether the late statement has come or not.
    eventually("the release is not undone", async || {
        host.tell(&["recycle", SUBNET]).await;
        host.row(ip).await.state == State::Free
    })
    .await;
    agree(&[host]).await;
}

/// dockerd releases the endpoints of its earlier life in the second in which the driver starts.
#[tokio::test]
async fn releases_during_the_first_look_are_not_undone() {
    const CONTAINERS: usize = 40;
    let fleet = Fleet::new(Kind::Mariadb).await;
    let mut host = fleet.host_of(1, "m5.24xlarge");
    host.start().await;
    let pool = host.pool().await;
    for _ in 0..3 {
        proxy(&host).slow(Duration::ZERO);
        let leased = join_all((0..CONTAINERS).map(|_| host.lease(&pool))).await;
        host.kill();
        proxy(&host).slow(Duration::from_millis(20));
        host.start().await;
        join_all(leased.iter().map(|ip| host.release(&pool, *ip))).await;
        eventually("all are released", async || host.mine(State::Lease).await.is_empty()).await;
        // The task does this after it has put right what the database lost.
        let recycled = host.tell(&["recycle", SUBNET]).await;
        assert_eq!(recycled, format!("{SUBNET}: {CONTAINERS} addresses are free again\n"));
        assert!(!host.log().contains(LOST), "{}", host.log());
    }
}

#[tokio::test]
async fn a_release_while_its_lost_lease_is_put_right_is_not_undone() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_SETTLE_AGE", "10m")]).await;
    let ip = host.lease(&pool).await;
    host.sql(&format!("UPDATE allocation SET status='ready', claim=NULL, claimed=NULL WHERE ip='{ip}'"), "").await;
    proxy(&host).next("status='occupied'", Fate::Late);
    tokio::join!(host.tell(&["recycle", SUBNET]), release_meanwhile(&host, &pool, ip));
}

#[tokio::test]
async fn a_release_while_what_docker_showed_is_leased_again_is_not_undone() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let mut host = fleet.host(1);
    let docker = host.docker();
    host.set(&[("EC2_IPAM_SETTLE_AGE", "1s"), ("EC2_IPAM_RECONCILE_INTERVAL", "1s")]);
    host.start().await;
    let pool = host.pool().await;
    let ip = host.lease(&pool).await;
    docker.runs(&[ip]);
    host.kill();
    host.sql(&format!("UPDATE allocation SET status='ready', claim=NULL, claimed=NULL WHERE ip='{ip}'"), "").await;
    proxy(&host).next("status='occupied'", Fate::Late);
    host.start().await;
    let pool = host.pool().await;
    eventually("it is leased again", async || proxy(&host).met()).await;
    docker.with(|docker| docker.fails = true);
    release_meanwhile(&host, &pool, ip).await;
}

/// Docker has its answer after two seconds, and starts the same container again: the database is still at it.
#[tokio::test]
async fn a_container_that_names_its_address_waits_for_its_own_release() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, pool) = fleet.started(1, &[]).await;
    let ip = host.request(&pool, "10.77.0.50").await.unwrap();
    let mut other = fleet.db.as_ref().unwrap().session().await;
    other.query_drop("BEGIN").await.unwrap();
    other.query_drop(format!("UPDATE allocation SET holder='held' WHERE ip='{ip}'")).await.unwrap();
    host.release(&pool, ip).await;
    let named = ip.to_string();
    let again = host.request(&pool, &named);
    let held = async {
        // Longer than a request waits for an address that somebody else has.
        tokio::time::sleep(Duration::from_secs(8)).await;
        other.query_drop("ROLLBACK").await.unwrap();
    };
    let (given, ()) = tokio::join!(again, held);
    assert_eq!(given, Ok(ip));
    agree(&[&host]).await;
}
