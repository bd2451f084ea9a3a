//! A new or an empty table under networks that are there already: Docker never asks for their pools again.

use std::net::Ipv4Addr;

use ec2_ipam::domain::address::State;
use ec2_ipam::driver::status::Status;

use crate::support::docker::Docker;
use crate::support::host::{Fleet, Host, Kind, agree, eventually, ip, on_both};

on_both! {
    a_lost_table_is_filled_at_the_start
    a_table_emptied_under_the_driver_is_filled_by_the_next_request
    idle_addresses_that_a_lost_table_knew_are_adopted_within_a_request
    what_docker_does_not_tell_is_not_called_in_use
}

/// The settle age is longer than a request may take.
const SLOW: [(&str, &str); 5] = [
    ("EC2_IPAM_SETTLE_AGE", "24s"),
    ("EC2_IPAM_RECONCILE_INTERVAL", "1h"),
    ("EC2_IPAM_SCAN_INTERVAL", "1h"),
    ("EC2_IPAM_COOLDOWN", "0s"),
    ("EC2_IPAM_WARM_MAX", "20"),
];

async fn bed(fleet: &Fleet, settings: &[(&str, &str)]) -> (Host, Docker, String) {
    let mut host = fleet.host(1);
    let docker = host.docker();
    host.set(&SLOW);
    host.set(settings);
    host.start().await;
    let pool = host.pool().await;
    (host, docker, pool)
}

async fn status(host: &Host) -> Status {
    host.ask_json(&["status"]).await.1
}

/// `docker plugin rm`, an empty restore, another database: all that is known is what EC2 and Docker say.
async fn lose_the_table(host: &mut Host) {
    host.stop().await;
    host.sql("DELETE FROM allocation", "DELETE FROM allocation").await;
    host.lose_journal();
}

async fn leases(host: &Host, pool: &str, count: usize) -> Vec<Ipv4Addr> {
    let mut ips = Vec::new();
    for _ in 0..count {
        ips.push(host.lease(pool).await);
    }
    ips
}

async fn a_lost_table_is_filled_at_the_start(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (mut host, docker, pool) = bed(&fleet, &[]).await;
    let ips = leases(&host, &pool, 2).await;
    docker.runs(&ips);
    lose_the_table(&mut host).await;
    host.start().await;
    eventually("every address has its row", async || host.rows().await.len() == 256).await;
    eventually("status shows it", async || {
        let told = status(&host).await;
        told.subnets.values().any(|counts| counts.values().sum::<u64>() == 256) && !told.enis.is_empty()
    })
    .await;
    let more = leases(&host, &pool, 3).await;
    assert!(more.iter().all(|ip| !ips.contains(ip)), "I1: {more:?} {ips:?}");
}

async fn a_table_emptied_under_the_driver_is_filled_by_the_next_request(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, pool) = bed(&fleet, &[]).await;
    let ips = leases(&host, &pool, 2).await;
    docker.runs(&ips);
    host.sql("DELETE FROM allocation", "DELETE FROM allocation").await;
    let next = host.lease(&pool).await;
    assert!(!ips.contains(&next), "I1");
    assert_eq!(host.rows().await.len(), 256);
    host.sql("DELETE FROM allocation", "DELETE FROM allocation").await;
    let named = (200..).map(ip).find(|ip| !host.assigned().contains(ip)).unwrap();
    assert_eq!(host.request(&pool, &named.to_string()).await, Ok(named));
    assert_eq!(host.row(named).await.state, State::Lease);
}

async fn idle_addresses_that_a_lost_table_knew_are_adopted_within_a_request(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (mut host, docker, pool) = bed(&fleet, &[]).await;
    // All that the instance type allows.
    let ips = leases(&host, &pool, 9).await;
    docker.runs(&ips[..1]);
    for ip in &ips[1..] {
        host.release(&pool, *ip).await;
    }
    lose_the_table(&mut host).await;
    host.start().await;
    let granted = host.request(&pool, "").await.unwrap();
    assert!(ips[1..].contains(&granted), "I1: {granted} {ips:?}");
    docker.runs(&[ips[0], granted]);
    let named = *ips[1..].iter().find(|ip| **ip != granted).unwrap();
    assert_eq!(host.request(&pool, &named.to_string()).await, Ok(named));
    docker.runs(&[ips[0], granted, named]);
    eventually("what runs is leased", async || host.row(ips[0]).await.state == State::Lease).await;
    agree(&[&host]).await;
}

async fn what_docker_does_not_tell_is_not_called_in_use(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (mut host, docker, pool) = bed(&fleet, &[("EC2_IPAM_REQUEST_TIMEOUT", "5s")]).await;
    let ips = leases(&host, &pool, 9).await;
    for ip in &ips {
        host.release(&pool, *ip).await;
    }
    docker.with(|docker| docker.fails = true);
    lose_the_table(&mut host).await;
    host.start().await;
    let refused = host.request(&pool, "").await.unwrap_err();
    assert!(!refused.contains("all are in use") && refused.contains("Docker"), "{refused}");
    assert!(refused.contains('9') && refused.contains(&host.eni), "{refused}");
    host.unset("EC2_IPAM_DOCKER_SOCKET");
    host.set(&[("EC2_IPAM_DOCKER_SOCKET", "")]);
    host.restart().await;
    let refused = host.request(&pool, "").await.unwrap_err();
    assert!(!refused.contains("all are in use") && refused.contains("EC2_IPAM_DOCKER_SOCKET"), "{refused}");
}
