//! The parent interface of an ENI: looked for by its MAC at each use, whatever its index and name were before.

use std::time::Duration;

use ec2_ipam::domain::address::State;
use serde_json::json;
use tokio::time::sleep;

use crate::support::host::{Fleet, Host, Kind, eni, eventually, ip};

const MAC: &str = "0a:77:00:00:00:01";

/// Deleted and made again: the same MAC, another index, and maybe another name.
fn make_again(host: &Host, old: &str, new: &str) {
    host.ip(&format!("link del {old}"));
    make(host, new);
}

fn make(host: &Host, name: &str) {
    // An index in between is another link's.
    host.ip(&format!("link add {name}b type veth peer name {name}bfar"));
    host.ip(&format!("link add {name} type veth peer name {name}far"));
    host.ip(&format!("link set {name} address {MAC}"));
    host.ip(&format!("link set {name} up"));
}

/// With two idle addresses.
async fn warm() -> (Fleet, Host, String) {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let settings = [("EC2_IPAM_COOLDOWN", "0s"), ("EC2_IPAM_REQUEST_TIMEOUT", "5s")];
    let (host, pool) = fleet.started(1, &settings).await;
    let (a, b) = (host.lease(&pool).await, host.lease(&pool).await);
    host.release(&pool, a).await;
    host.release(&pool, b).await;
    (fleet, host, pool)
}

#[tokio::test]
async fn what_the_host_has_on_a_link_that_was_made_again_is_not_given() {
    let (_fleet, host, pool) = warm().await;
    for (old, new) in [("eth1", "eth1"), ("eth1", "ens6")] {
        make_again(&host, old, new);
        let idle: Vec<_> = host.mine(State::Ready).await.into_iter().collect();
        let cold = (200..).map(ip).find(|ip| !idle.contains(ip)).unwrap();
        for ip in &idle {
            host.ip(&format!("addr add {ip}/32 dev {new}"));
        }
        // Neither a warm one, nor one by its name, nor one that EC2 is yet to assign.
        let given = host.lease(&pool).await;
        assert!(!idle.contains(&given), "{given} of {idle:?}");
        host.release(&pool, given).await;
        let why = host.request(&pool, &idle[0].to_string()).await.unwrap_err();
        assert!(why.contains(&format!("the host itself has it on {new}")), "{why}");
        host.ip(&format!("addr add {cold}/32 dev {new}"));
        let why = host.request(&pool, &cold.to_string()).await.unwrap_err();
        assert!(why.contains(&format!("the host itself has it on {new}")), "{why}");
        host.ip(&format!("addr flush dev {new}"));
        assert!(host.tell(&["status"]).await.contains(&format!("{} on {new} (up)", eni(1))));
    }
}

#[tokio::test]
async fn without_its_link_nothing_is_given() {
    let (fleet, host, pool) = warm().await;
    let idle = *host.mine(State::Ready).await.first().unwrap();
    host.ip("link del eth1");
    fleet.vpc.forget_calls();
    for address in [String::new(), idle.to_string(), ip(200).to_string()] {
        let why = host.request(&pool, &address).await.unwrap_err();
        assert!(why.contains(&format!("no interface of this host has the MAC {MAC}")), "{address}: {why}");
    }
    assert_eq!(host.mine(State::Lease).await.len(), 0);
    // With none warm either.
    assert!(host.ask(&["recycle", crate::support::host::SUBNET]).await.0);
    let why = host.request(&pool, "").await.unwrap_err();
    assert!(why.contains(&format!("no interface of this host has the MAC {MAC}")), "{why}");
    assert_eq!(host.mine(State::Lease).await.len(), 0);
    assert!(host.tell(&["status"]).await.contains("MISSING"));
    make(&host, "ens6");
    eventually("it is given again", async || host.request(&pool, "").await.is_ok()).await;
}

#[tokio::test]
async fn a_link_that_comes_back_within_the_requests_time_is_waited_for() {
    let (_fleet, mut host, pool) = warm().await;
    host.set(&[("EC2_IPAM_REQUEST_TIMEOUT", "29s")]);
    host.restart().await;
    host.lease(&pool).await;
    host.ip("link del eth1");
    let cold = (200..).map(ip).find(|ip| !host.assigned().contains(ip)).unwrap().to_string();
    let (warm, cold, ()) = tokio::join!(host.request(&pool, ""), host.request(&pool, &cold), async {
        sleep(Duration::from_secs(3)).await;
        make(&host, "ens6");
    });
    assert!(warm.is_ok() && cold.is_ok(), "{warm:?} {cold:?}");
}

#[tokio::test]
async fn a_release_needs_no_link() {
    let (_fleet, mut host, pool) = warm().await;
    let ip = host.lease(&pool).await;
    host.kill();
    host.ip("link del eth1");
    host.start().await;
    host.release(&pool, ip).await;
    eventually("it is released", async || host.row(ip).await.state == State::Ready).await;
    let why = host.pool_with("", json!({})).await.unwrap_err();
    assert!(why.contains("no interface of this host has the MAC"), "{why}");
}
