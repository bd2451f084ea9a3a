//! A host far from its database: many releases and starts at once, each packet a while under way.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use serde_json::json;

use crate::support::host::{Fleet, Kind, SUBNET, eni, eventually};
use ec2_ipam::domain::address::State;
use vpc_sim::Switches;

/// Interfaces of 49 addresses each.
const ENIS: u32 = 8;
const STARTS: usize = 32;

/// Releases wait for nobody, so they wait behind starts, and none of either costs a connection.
#[tokio::test]
async fn releases_do_not_starve_starts_nor_use_up_connections() {
    let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/22", Switches::default()).await;
    let mut host = fleet.host_of(1, "m5.24xlarge");
    host.set(&[("EC2_IPAM_COOLDOWN", "0s"), ("EC2_IPAM_REQUEST_TIMEOUT", "29s"), ("EC2_IPAM_LOG", "warn")]);
    for device in 2..=ENIS {
        let n = u8::try_from(device).unwrap();
        host.attach(&eni(100 + n), device, 10 + n, &format!("eth{device}"));
    }
    host.start().await;
    let mut pools = vec![host.pool().await];
    for device in 2..=ENIS {
        let id = eni(100 + u8::try_from(device).unwrap());
        pools.push(host.pool_with("", json!({ "eni-id": id })).await.unwrap());
    }
    // Every address is leased; then some of the first pool are idle again.
    let mut leases = Vec::new();
    for pool in &pools {
        let ips: Vec<_> = stream::iter(0..49).map(|_| host.lease(pool)).buffered(16).collect().await;
        leases.push((pool, ips));
    }
    let released = leases[0].1.split_off(49 - STARTS);
    for ip in &released {
        host.release(&pools[0], *ip).await;
    }
    eventually("idle addresses", async || host.mine(State::Ready).await.len() == STARTS).await;

    let proxy = host.proxy.as_ref().unwrap();
    proxy.slow(Duration::from_millis(50));
    let before = proxy.connections();
    let releases = leases.iter().flat_map(|(pool, ips)| ips.iter().map(move |ip| (*pool, *ip)));
    let began = std::time::Instant::now();
    // Fewer at once than the driver takes connections.
    let releasing = stream::iter(releases).map(|(pool, ip)| host.release(pool, ip)).buffer_unordered(180);
    let starting = async {
        // In the midst of it.
        tokio::time::sleep(Duration::from_secs(3)).await;
        join_all((0..STARTS).map(|_| host.request(&pools[0], ""))).await
    };
    let (count, answers) = tokio::join!(releasing.count(), starting);
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    let connections = proxy.connections() - before;
    println!(
        "{count} releases and {STARTS} starts answered in {:.1?}: {} starts refused, {connections} new connections",
        began.elapsed(),
        refused.len()
    );
    eventually("all are released", async || {
        host.rows().await.iter().filter(|row| row.state == State::Lease).count() == STARTS
    })
    .await;
    println!(
        "the last release was done after {:.1?}, {} new connections",
        began.elapsed(),
        proxy.connections() - before
    );
    assert!(refused.is_empty(), "{refused:?}");
    assert!(proxy.connections() - before <= 40, "{} new connections", proxy.connections() - before);
}

/// The database may be fifty milliseconds away, and somebody waits.
#[tokio::test]
async fn a_start_with_nothing_idle_and_what_is_given_back_cost_few_round_trips() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "0s")]).await;
    let proxy = host.proxy.as_ref().unwrap();
    let quiet = async || {
        let mut before = 0;
        while before != proxy.requests() {
            before = proxy.requests();
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        before
    };
    // Once before, for what is asked once. Now and then something else is asked too: the fewest of five count.
    let mut held = vec![host.lease(&pool).await];
    let (mut started, mut given_back) = (usize::MAX, usize::MAX);
    for _ in 0..5 {
        let before = quiet().await;
        held.push(host.lease(&pool).await);
        started = started.min(quiet().await - before);
    }
    // The rows; where addresses are free, and a claim; EC2 says yes, and the container has it; what they are, and that they are a lease; and the rows again.
    assert_eq!(started, 8, "a start with nothing idle");
    for _ in 0..5 {
        host.release(&pool, held.pop().unwrap()).await;
        let before = quiet().await;
        assert!(host.tell(&["recycle", SUBNET]).await.contains("1 address"));
        given_back = given_back.min(quiet().await - before);
    }
    // What is idle in the subnet; the rows; given up; once EC2 has said yes, free; and the rows again.
    assert_eq!(given_back, 5, "what is given back");
}
